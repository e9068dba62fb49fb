"""What runs that stand side by side are called: by what tells them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rowgrad.config import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rowgrad.results.run import Run

# Keys that may differ between runs of one group: they do not change what is trained.
APART = ("seed", "resume", "data.root", "callbacks", "hydra", "model.checkpoint")


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


def group_names(runs: Sequence[Run], *apart: str) -> list[str]:
    """A name for each run: its scenario, and what else tells it from other runs of that scenario; never its seed.

    What a scenario or a camera is made of is told only where others of the same name differ in it.

    Args:
        runs: that stand side by side.
        apart: keys that are not told either.
    """
    configs = [_flat(run.config) for run in runs]
    names = []
    for config in configs:
        alike = [other for other in configs if other.get("scenario.name") == config.get("scenario.name")]
        cameras = [other for other in alike if other.get("corruption.name") == config.get("corruption.name")]
        telling = [
            f"{key.removeprefix('scenario.').removesuffix('.name')}={word_of(value)}"
            for key, value in config.items()
            if not key.startswith((*APART, *apart))
            and any(
                other.get(key) != value
                for other in (cameras if key.startswith("corruption.") and key != "corruption.name" else alike)
            )
        ]
        names.append(", ".join([str(config.get("scenario.name")), *telling]))
    return names


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
    return str(value).lower() if isinstance(value, bool | None) else str(value)
