"""Mistakes of the person at the keyboard, told in one or two plain lines."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

# What the machine, not the program, refuses.
_REFUSED = ("EACCES", "EDQUOT", "EEXIST", "EFBIG", "EIO", "EISDIR", "ENAMETOOLONG", "ENOENT", "ENOSPC", "ENOTDIR")
_REFUSED += ("ELOOP", "EPERM", "EROFS")
_REFUSALS = {getattr(errno, name) for name in _REFUSED if hasattr(errno, name)}


class UserError(Exception):
    """A mistake in what was typed or in a file. Its message names the key or file and says what is accepted.

    Example:
        >>> Scenario(rows="0:14", probability=2, height=28)
        Traceback (most recent call last):
            ...
        rowgrad.errors.UserError: scenario.probability=2 is not a number from 0 to 1.
    """


# What the extra `pipeline` installs, as it is imported. The tap and the recorder need none of it.
PIPELINE = ("filelock", "hydra", "jinja2", "matplotlib", "omegaconf", "rich", "scipy", "sklearn", "torchvision")


class NotInstalledError(UserError, ImportError):
    """Packages that the pipeline needs are not there."""


@cache
def need_pipeline() -> None:
    """Asks for the packages of the extra `pipeline`, before anything of the rooms that need them is imported.

    Raises:
        NotInstalledError: some are not there.
    """
    missing = [name for name in PIPELINE if not _is_installed(name)]
    if missing:
        words = f"this needs packages that are not installed ({', '.join(missing)})"
        raise NotInstalledError(f'{words}: pip install "rowgrad[pipeline]"')


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # somebody keeps it from being imported
        return False


def nearest(word: str, options: Iterable[str], most: int = 1) -> str:
    """A sentence's end: "; did you mean ...?" with so many options at most, or a full stop where nothing is near."""
    near = difflib.get_close_matches(word, list(options), n=most)
    return f"; did you mean {' or '.join(near)}?" if near else "."


def words_for(error: BaseException | None) -> str | None:
    """The words for a mistake, or None for what is no mistake but a fault of the program.

    Args:
        error: the exception, possibly wrapped by Hydra.
    """
    while error is not None:
        if isinstance(error, UserError):
            return without_key(error)
        if words := _hydras_words(error) or _machines_words(error):
            return words
        error = error.__cause__
    return None


def _hydras_words(error: BaseException) -> str | None:
    """What Hydra and OmegaConf found wrong, shortened."""
    if "hydra" not in sys.modules:  # the tap and the recorder do without it
        return None
    from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    reason, *details = str(error).splitlines() or [""]
    if several := re.match(r"Ambiguous value for argument '(.*)'$", reason):
        return f"{several[1]} has several values: -m before it sweeps over them, [brackets] make them a list."
    if isinstance(error, MissingConfigException) and "/" in (error.missing_cfg_file or ""):
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        options = error.options if error.options is not None else _choices(group, str(error))
        return f"{group}={choice} is unknown{nearest(choice, options)} Accepted: {', '.join(options)}."
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read ({details[-2] if len(details) > 1 else reason}). Write key=value."
    if isinstance(error, ConfigCompositionException | OmegaConfBaseException):
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
        return f"{reason} {without_key(cause)}" if cause else without_key(error)
    return None


def _choices(group: str, words: str) -> list[str]:
    """The choices of a config group in the folders that Hydra names: of a list of choices it tells no more."""
    folders = [Path(folder) / group for folder in re.findall(r"path=file://(.+)", words)]
    return sorted(file.stem for folder in folders for file in folder.glob("*.yaml"))


def _machines_words(error: BaseException) -> str | None:
    """What the operating system refused."""
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    return None


def without_key(error: BaseException) -> str:
    """The message without the lines that OmegaConf and Hydra add about where in the config it was."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key: ", "object_type=")))


PLAIN = "ROWGRAD_PLAIN_ERRORS"  # an environment variable, so that processes that this one starts know it too


def tell_mistakes_plainly(action: str) -> None:
    """Makes this process end on a mistake with its words alone; `HYDRA_FULL_ERROR=1` shows the traceback.

    Args:
        action: what cannot be done, as in "train".
    """
    if os.environ.get("HYDRA_FULL_ERROR") != "1":
        # Hydra then leaves its errors to the hook below.
        os.environ.update({"HYDRA_FULL_ERROR": "1", PLAIN: action})
    usual = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not end_on_mistake(error, leave=lambda words: print(words, file=sys.stderr)):
            usual(kind, error, trace)

    sys.excepthook = tell
    elsewhere = threading.excepthook

    def tell_of_thread(hook: threading.ExceptHookArgs) -> None:
        # Threads are those that write; whoever gives them something to write meets the same mistake.
        if os.environ.get(PLAIN) is None or words_for(hook.exc_value) is None:
            elsewhere(hook)

    threading.excepthook = tell_of_thread


def end_on_mistake(error: BaseException, leave: Callable[[str], Any] = sys.exit) -> bool:
    """Leaves with the words for a mistake, where it is one and is to be told plainly.

    Args:
        error: what was raised.
        leave: is given the words.

    Returns:
        Whether there were words for it.
    """
    action, words = os.environ.get(PLAIN), words_for(error)
    if action is None or words is None:
        return False
    leave(f"Cannot {action}: {words}")
    return True
