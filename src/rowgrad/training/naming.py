"""The names of the folders of runs, sweeps and jobs: what was typed for them. Nothing heavy is imported."""

from __future__ import annotations

import hashlib
import re
import sys
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from rowgrad.config import A_NAME, IGNORED_KEYS
from rowgrad.folders import SweepFolder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LOGS = Path("logs")
LONGEST = 80  # characters that are kept of a name that is too long, or that no shell takes without quotes
SHOWING = {"--cfg", "-c", "--info", "-i", "--help", "-h"}  # flags that train nothing
UNNAMED = (*IGNORED_KEYS, "trainer.accelerator", "trainer.devices")  # keys left out of a run's name


def what_is_trained(overrides: Iterable[str]) -> list[str]:
    """The overrides that identify a job, sorted: all but `sweep`, which chooses the launcher, and `trust`."""
    chosen = (override.replace("\\", "") for override in overrides if not override.startswith(("sweep=", "trust=")))
    return sorted(chosen, key=lambda override: override.partition("="))


def name_of(overrides: Sequence[str], scenario: str = "") -> str:
    """A folder's name for what was typed: the scenario first, then keys and values, keys by their last part.

    Args:
        overrides: as typed.
        scenario: what the name begins with if no scenario was typed.
    """
    pairs = [override.lstrip("+~").partition("=")[::2] for override in overrides]
    typed = [value for key, value in pairs if key == "scenario"]
    pairs = [(key, value) for key, value in pairs if key != "scenario"]
    lasts = [key.rpartition(".")[2] for key, _ in pairs]
    keys = [last if lasts.count(last) == 1 else key for last, (key, _) in zip(lasts, pairs, strict=True)]
    first = typed or [scenario] * bool(scenario)
    name = "_".join([*first, *(f"{key}-{value}" for key, (_, value) in zip(keys, pairs, strict=True))])
    plain = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)  # resume=FOLDER needs no quotes
    if plain == name and A_NAME.fits(name):
        return name
    return f"{plain[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def numbered(folder: Path) -> Iterator[Path]:
    """The path of a folder, and then the same with 2, 3, … appended."""
    return chain([folder], (folder.with_name(f"{folder.name}_{number}") for number in count(2)))


def taken(folder: Path) -> str:
    """Makes the first of the numbered folders that does not exist. Processes that start together get different ones."""
    for path in numbered(folder):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return str(path)
    raise AssertionError("numbers do not end")


def run_folder(resume: str | None, scenario: Any, overrides: Any, seed: Any) -> str:
    """The folder of the resumed run, or a new one; the working directory if the run to resume does not exist."""
    if resume is not None:
        return resume if Path(resume).is_dir() else "."
    named = [word for word in what_is_trained(overrides) if not word.lstrip("+~").startswith(UNNAMED)]
    folder = LOGS / name_of(named, str(scenario)) / name_of([f"seed={seed}"])
    return str(folder) if SHOWING.intersection(sys.argv) else taken(folder)


def sweep_folder() -> str:
    """A new folder for a sweep, named after its experiment or the keys that it varies."""
    typed = dict(word.partition("=")[::2] for word in sys.argv[1:] if "=" in word)
    varied = [key.rpartition(".")[2] for key, value in typed.items() if "," in value and not key.startswith("hydra")]
    name = name_of([], typed.get("experiment") or "_".join(varied) or "sweep")
    return str(next(path for path in numbered(LOGS / "sweeps" / name) if not path.exists()))


def job_name(sweep: str, scenario: str, overrides: Any) -> str:
    """The name of a job's folder: its overrides, less those that all jobs of the sweep share.

    Args:
        sweep: the sweep's folder.
        scenario: the name for the only job of a sweep.
        overrides: the job's own.
    """
    common = SweepFolder(Path(sweep)).read().get("common", [])
    own = [override for override in what_is_trained(overrides) if override not in common]
    return name_of(own) if own else name_of([], scenario)


# A new folder must stay the answer when it is asked for again: OmegaConf caches it with the config.
OmegaConf.register_resolver("run_folder", run_folder, replace=True, use_cache=True)
OmegaConf.register_resolver("sweep_folder", sweep_folder, replace=True, use_cache=True)
OmegaConf.register_resolver("job_name", job_name, replace=True)
