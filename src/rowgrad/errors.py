"""User errors: raised as `UserError`, and printed by the commands as one plain line without a traceback."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
import threading
import traceback
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

INTERRUPTED = 130  # the exit code of a command that a signal stopped
# Operating system errors whose own message is enough.
_REFUSALS = {errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP}
_REFUSALS |= {errno.ENAMETOOLONG, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EPIPE, errno.EROFS}


class UserError(ValueError):
    """A mistake in what was typed or in a file. Its message names the key or file and says what is accepted.

    Example:
        >>> Scenario(rows="0:14", probability=2, height=28)
        Traceback (most recent call last):
            ...
        rowgrad.errors.UserError: scenario.probability=2 is not a number from 0 to 1.
    """


# What the extra `pipeline` installs, by import name. The tap and the recorder need none of it.
PIPELINE = ("filelock", "hydra", "jinja2", "matplotlib", "omegaconf", "rich", "scipy", "sklearn", "torchvision")


class NotInstalledError(UserError, ImportError):
    """Packages of the extra `pipeline` are not installed."""


@cache
def need_pipeline() -> None:
    """Checks that the packages of the extra `pipeline` are installed.

    Raises:
        NotInstalledError: some are missing.
    """
    missing = [name for name in PIPELINE if find_spec(name) is None]
    if missing:
        words = f"this needs packages that are not installed ({', '.join(missing)})"
        raise NotInstalledError(f'{words}: pip install "rowgrad[pipeline]"')


def nearest(word: str, options: Iterable[str], most: int = 1) -> str:
    """Ends a sentence: "; did you mean ...?" with up to `most` similar options, or a full stop if none is similar."""
    near = difflib.get_close_matches(word, list(options), n=most)
    return f"; did you mean {' or '.join(near)}?" if near else "."


def words_for(error: BaseException | None) -> str | None:
    """The message of a user error, or None if the exception is a bug of the program.

    Args:
        error: the exception. Its causes are looked at too, because Hydra wraps what it catches.
    """
    while error is not None:
        if isinstance(error, UserError):
            return in_one_line(error)
        if words := _hydras_words(error) or _systems_words(error) or _librarys_words(error):
            return words
        error = error.__cause__
    return None


def _hydras_words(error: BaseException) -> str | None:
    """The message of an exception of Hydra or OmegaConf, shortened."""
    if "hydra" not in sys.modules:  # the tap and the recorder work without Hydra
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
        return f"{reason} {in_one_line(cause)}{_accepted(cause)}" if cause else in_one_line(error)
    return None


def _accepted(error: BaseException) -> str:
    """The keys of the config group in which an unknown key was typed, unless OmegaConf names a similar one."""
    group = getattr(error, "parent_node", None)
    if "not in struct" not in str(error) or "Did you mean" in str(error) or not hasattr(group, "keys"):
        return ""
    return f". Accepted: {', '.join(map(str, group.keys()))}; +KEY=VALUE adds another."


def _choices(group: str, words: str) -> list[str]:
    """The choices of a config group, from the folders in Hydra's message."""
    folders = [Path(folder) / group for folder in re.findall(r"path=file://(.+)", words)]
    return sorted(file.stem for folder in folders for file in folder.glob("*.yaml"))


def _systems_words(error: BaseException) -> str | None:
    """The message of an error of the operating system, such as a full disk."""
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    return None


def _librarys_words(error: BaseException) -> str | None:
    """The message of an exception by which Hydra or Lightning refuses an argument."""
    refusal = isinstance(error, ValueError | TypeError) or type(error).__name__ == "MisconfigurationException"
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    package = frames[-1].f_globals.get("__name__", "").partition(".")[0] if frames else ""
    return in_one_line(error) if refusal and package in {"hydra", "lightning"} else None


def in_one_line(error: BaseException) -> str:
    """The message in one line, without the lines that OmegaConf and Hydra add about the place in the config."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key: ", "object_type=")))


PLAIN = "ROWGRAD_PLAIN_ERRORS"  # an environment variable, because the processes of other ranks must know it too


def end_on_mistake(error: BaseException) -> None:
    """Leaves with the message of a user error; returns if it is none, or if the traceback is wanted."""
    action, words = os.environ.get(PLAIN), words_for(error)
    if action is not None and words is not None:
        sys.exit(f"Cannot {action}: {words}")


def run_script(action: str, main: Callable[[], None], *, pipeline: bool = True) -> None:
    """Runs a command: a user error is one plain line, and so is Ctrl-C, with exit code 130.

    `HYDRA_FULL_ERROR=1` shows the traceback of a user error.

    Args:
        action: what it does, as in "evaluate".
        main: does it. It imports the packages of the extra `pipeline`, and nothing before it does.
        pipeline: whether it needs them.
    """
    if os.environ.get("HYDRA_FULL_ERROR") != "1":
        # With HYDRA_FULL_ERROR Hydra raises its errors, so that they arrive below.
        os.environ.update({"HYDRA_FULL_ERROR": "1", PLAIN: action})
    usual = threading.excepthook

    def tell_of_thread(hook: threading.ExceptHookArgs) -> None:
        # Threads write files; a full disk raises the same error in the main thread, which prints it.
        if os.environ.get(PLAIN) is None or words_for(hook.exc_value) is None:
            usual(hook)

    threading.excepthook = tell_of_thread
    try:
        if pipeline:
            need_pipeline()
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        end_on_mistake(error)
        raise
