"""Mistakes of the person at the keyboard, told in one or two plain lines."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class UserError(Exception):
    """A mistake in what was typed or in a file: names the key or the file and says what is accepted."""


def plainly(action: str, error: BaseException) -> str | None:
    """The words of the first `UserError` behind an exception, or None where there is none.

    Args:
        action: what could not be done, as in "train".
        error: the exception, possibly wrapped by `hydra.utils.instantiate`.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return f"Cannot {action}: {cause}"
        cause = cause.__cause__
    return None


def report_plainly(action: str) -> None:
    """Makes this process end on a `UserError` with its words alone; `HYDRA_FULL_ERROR=1` shows the traceback."""
    usual = sys.excepthook

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        words = plainly(action, error)
        if words is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            usual(kind, error, trace)
        else:
            print(words, file=sys.stderr)

    sys.excepthook = report
