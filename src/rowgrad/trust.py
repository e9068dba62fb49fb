"""What is read out of a run's or a sweep's folder, which may come from anybody: it runs nothing and leads nowhere else.

What a `_target_` in it may name stands in `training/targets.py`; see SECURITY.md. Nothing heavy is imported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rowgrad.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MOST_BYTES = 1_000_000  # of a config
OWN_KEY = re.compile(r"\$\{[\w.\[\]]+\}")  # ${seed}, and nothing that calls a resolver, as ${oc.env:HOME} does


def load_config(file: Path) -> Any:
    """A YAML file, with its own keys in place of interpolations.

    Raises:
        UserError: what a run never writes: another interpolation, an alias (a few can stand for billions of values), or
            more than a megabyte.
        Exception: whatever YAML and OmegaConf make of other files.
    """
    import yaml
    from omegaconf import OmegaConf

    if file.stat().st_size > MOST_BYTES:
        raise UserError(f"{file} is no config of a run: it is larger than a megabyte.")
    text = file.read_text(encoding="utf-8")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
        raise UserError(f"{file} is no config of a run: it has a YAML alias.")
    config = OmegaConf.create(text)
    for value in _texts(OmegaConf.to_container(config)):
        refuse_resolvers(value, str(file))
    resolved = OmegaConf.to_container(config, resolve=True)
    for value in _texts(resolved):  # one that was put together from several
        refuse_resolvers(value, str(file))
    return OmegaConf.create(resolved)


def refuse_resolvers(text: str, source: str) -> None:
    """Refuses an interpolation other than of a key.

    Raises:
        UserError: it names the text.
    """
    if "${" in OWN_KEY.sub("", text):
        raise UserError(f"{source}: {text!r} is not resolved: what stands in a folder may name its own keys only.")


def _texts(node: Any) -> Iterable[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for inner in [*node, *node.values()] if isinstance(node, dict) else node:
            yield from _texts(inner)


def check_inside(folder: Path) -> None:
    """Sees whether all that is in a folder is in that folder, before anything is written there.

    Raises:
        UserError: a link that leads out of it, or what is neither a file nor a folder.
    """
    home = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise UserError(f"{path} is a link that leads out of the run's folder, and nothing is written through it.")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is neither a file nor a folder.")


# Of Hydra's own settings, what a sweep's folder may say: the others could start anything.
HYDRAS = ("hydra.sweeper.n_trials", "hydra.sweeper.n_jobs", "hydra.launcher.n_jobs")
WORD = re.compile(r"(\+\+|\+|~)?(?P<key>[\w.]+)(=(?P<value>.*))?", re.DOTALL)


def check_words(words: Sequence[str], source: str, beside: str) -> Sequence[str]:
    """The words of a command that stands in a sweep's folder: they may set keys of runs, and nothing else.

    Args:
        words: the command's.
        source: what stands before a mistake's words.
        beside: how one types what is refused.

    Raises:
        UserError: a word that could do more.
    """
    for word in words:
        parts = WORD.fullmatch(word)
        if word in {"-m", "--multirun"}:
            continue
        if (
            parts is None
            or parts["key"] == "trust"
            or (parts["key"].startswith("hydra") and parts["key"] not in HYDRAS)
        ):
            raise UserError(
                f"{source}: {word} could start anything, so a folder does not say it. If it is yours: {beside}."
            )
        if "." not in parts["key"] and ("/" in word or "\\" in word or ".." in word):  # the choice of a config group
            raise UserError(f"{source}: {word} names a file elsewhere.")
        refuse_resolvers(word, source)
    return words
