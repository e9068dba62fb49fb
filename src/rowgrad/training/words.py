"""The words of a command, before Hydra reads them. Nothing heavy is imported."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rowgrad.errors import UserError
from rowgrad.files import configs_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OPTIONAL = ("sweep", "experiment")  # groups of which nothing is chosen by default
# A choice, or one of a list, that Hydra would take for a number or a truth value.
NO_TEXT = re.compile(r"(?<![^\[, ])(true|false|[+-]?(\d[\d_.]*(e[+-]?\d+)?|\.\d+|inf|nan))(?![^\], ])", re.IGNORECASE)


def readable(words: Iterable[str]) -> list[str]:
    """Overrides as Hydra can read them: it has no answer to a choice that is null or a number.

    Raises:
        UserError: null for a group of which something must be chosen.
    """
    found = []
    for word in words:
        group, _, choice = word.partition("=")
        folder = configs_folder() / group
        if not (group.isidentifier() and folder.is_dir()):
            found.append(word)
        elif choice == "null":
            choices = sorted(file.stem for file in folder.glob("*.yaml"))
            if "none" in choices:
                found.append(f"{group}=none")
            elif group not in OPTIONAL:
                raise UserError(f"{word} chooses nothing. Accepted: {', '.join(choices)}.")
        else:
            found.append(f"{group}={NO_TEXT.sub(_quoted, choice)}")
    return found


def _quoted(found: re.Match[str]) -> str:
    return f"'{found[0]}'"


def check_sweep(words: Sequence[str]) -> None:
    """Sees whether what is for a sweep stands in a sweep's command.

    Raises:
        UserError: `sweep=...` without `-m`.
    """
    chosen = [word for word in words if word.startswith("sweep=") and word != "sweep="]
    if chosen and not {"-m", "--multirun"} & set(words):
        raise UserError(f"{chosen[0]} says how a sweep is done, and goes with -m: write -m before it.")
