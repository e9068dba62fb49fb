"""What runs that stand side by side are called: by what tells them apart."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rowgrad.config import NAME, plain
from rowgrad.files import configs_folder
from rowgrad.folders import load_config
from rowgrad.scenario.settings import ScenarioSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowgrad.results.run import Run

# Keys that may differ between runs of one group: they do not change what is trained.
APART = ("seed", "resume", "data.root", "callbacks", "hydra", "model.checkpoint")

# What a group's keys are parts of: the key of its name.
NAMED = {
    "corruption": "corruption.name",
    **dict.fromkeys(("model", "optimizer", "trainer"), "model.name"),
}
SCENARIO = "scenario."


def _flat(config: Any) -> dict[str, Any]:
    """A config's values by their full keys."""
    pairs: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}{key}.", value)
        else:
            pairs[prefix[:-1]] = node

    walk("", plain(config))
    return pairs


@lru_cache
def _own(name: str) -> dict[str, Any]:
    """What a scenario of the project's says of itself, by full keys; empty where there is none of that name."""
    file = configs_folder() / "scenario" / f"{name}.yaml"
    if not NAME.fullmatch(name) or not file.is_file():
        return {}
    try:
        return _flat({"scenario": ScenarioSettings.defaults() | plain(load_config(file))})
    except Exception:  # noqa: BLE001 - whatever YAML makes of a file that was spoilt
        return {}


def group_names(runs: Sequence[Run], *apart: str) -> list[str]:
    """A name for each run: its scenario, and what else tells it from other runs of that scenario; never its seed.

    What a scenario, a camera or a network is made of is told only where others of the same name differ in it, and so is
    how it is trained: networks have rates of their own. What stands in the scenario's own file goes without saying.

    Args:
        runs: that stand side by side.
        apart: keys that are not told either.
    """
    configs = [_flat(run.config) for run in runs]
    names = []
    for config in configs:
        scenario = str(config.get("scenario.name"))
        alike = [other for other in configs if other.get("scenario.name") == config.get("scenario.name")]
        own = _own(scenario)
        telling = [
            f"{key.removeprefix(SCENARIO).removesuffix('.name')}={word_of(value)}"
            for key, value in config.items()
            if not key.startswith((*APART, *apart))
            and not (key in own and own[key] == value)
            and any(other.get(key) != value for other in _peers(key, config, alike))
        ]
        names.append(" ".join([scenario, *telling]))
    return names


def _peers(key: str, config: dict[str, Any], others: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The configs beside which a key tells something: of a thing that has a name, those with the same one."""
    name = NAMED.get(key.partition(".")[0])
    return [other for other in others if name in {None, key} or other.get(name) == config.get(name)]


def by_group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by the names of their groups."""
    members: dict[str, list[Run]] = {}
    for group, run in zip(group_names(runs), runs, strict=True):
        members.setdefault(group, []).append(run)
    return members


def run_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run, its seed included where one name stands for several runs; repetitions are numbered."""
    groups, names = group_names(runs), []
    for group, run in zip(groups, runs, strict=True):
        name = f"{group}, seed {run.config.seed}" if groups.count(group) > 1 else group
        again = sum(earlier == name or earlier.startswith(f"{name} (") for earlier in names)
        names.append(f"{name} ({again + 1})" if again else name)
    return names


def word_of(value: Any) -> str:
    """A value as one types it, but for null."""
    if isinstance(value, list):
        return f"[{','.join(map(word_of, value))}]"
    return str(value).lower() if isinstance(value, bool | None) else str(value)
