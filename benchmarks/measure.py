"""Shared by the benchmarks: measuring two sides, facts about the machine, and a JSON file of results.

A ratio is taken within a round, in which both sides run one after the other, in alternating order: other load on the
machine then affects both. Each side runs in a process of its own. Reported are the median ratio and its range. For
differences of a few percent, `alternate.py` also gives a confidence interval of the median.
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import json
import multiprocessing
import os
import platform
import shlex
import statistics
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console

from rowgrad.folders import RunFolder
from rowgrad.training.build import build as build_settings
from rowgrad.training.settings import read_settings
from rowgrad.training.train import Training, train_run

if TYPE_CHECKING:
    from collections.abc import Callable

    import lightning.pytorch as pl

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results"
say = Console(stderr=True, highlight=False).print
P, T = ParamSpec("P"), TypeVar("T")


@dataclass
class Result:
    """Two sides measured in alternation.

    Attributes:
        name: the benchmark's name.
        what: the ratio in words.
        over: numerator and denominator: two keys of `values`.
        bound: the ratio to be reached, as in "≤ 1.05"; None without one.
        unit: unit of the values.
        values: by side, the measured number of each round.
        notes: further measurements: for each, numbers by side.
        interval: the 95 % confidence interval of the median ratio, if it is known.
    """

    name: str
    what: str
    over: tuple[str, str]
    bound: str | None
    unit: str
    values: dict[str, list[float]]
    notes: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    interval: tuple[float, float] | None = None

    @property
    def ratios(self) -> list[float]:
        """The ratio of each round; the ratio of the means if the sides did not run equally often."""
        top, bottom = (self.values[key] for key in self.over)
        if len(top) == len(bottom):
            return [a / b for a, b in zip(top, bottom, strict=True)]
        return [statistics.mean(top) / statistics.mean(bottom)]

    @property
    def verdict(self) -> str:
        """Whether the whole interval is within the bound; without an interval, whether the median is."""
        if self.bound is None:
            return ""
        sign, limit = self.bound.split()
        ends = self.interval or (statistics.median(self.ratios),)
        inside = [end <= float(limit) if sign == "≤" else end >= float(limit) for end in ends]
        if all(inside):
            return "met"
        return "**not shown**" if any(inside) else "**not met**"

    @property
    def shown(self) -> str:
        """The median ratio, its interval, and the range and number of all ratios."""
        ratios = self.ratios
        known = "" if self.interval is None else "[{:.3f}, {:.3f}] ".format(*self.interval)
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}, " if len(ratios) > 1 else ""
        return f"{statistics.median(ratios):.3f} {known}({spread}{len(ratios)})"

    def line(self) -> str:
        """The result in one line."""
        sides = ", ".join(f"{name} {show(numbers)} {self.unit}" for name, numbers in self.values.items())
        asked = f"; asked {self.bound}: {self.verdict}" if self.bound else ""
        return f"{self.what}: {self.shown}{asked}. {sides}{self.remarks}"

    @property
    def remarks(self) -> str:
        """The notes in words: means ± sample standard deviations."""
        said = [
            f"; {note}: " + ", ".join(f"{name} {mean_of(numbers)}" for name, numbers in parts.items())
            for note, parts in self.notes.items()
        ]
        return "".join(said)

    @staticmethod
    def table(results: list[Result]) -> list[str]:
        """Results as lines of a table in Markdown."""
        head = "| what | ratio [95 % interval] (range, n) | asked | | values: median [range] |"
        lines = [head, "| --- | --- | --- | --- | --- |"]
        for result in results:
            values = "; ".join(f"{name} {show(numbers)}" for name, numbers in result.values.items())
            cells = [result.what, result.shown, result.bound or "", result.verdict]
            lines.append("| " + " | ".join([*cells, f"{values} {result.unit}{result.remarks}"]) + " |")
        return lines


def show(numbers: list[float]) -> str:
    """Median and range."""
    middle = f"{statistics.median(numbers):.4g}"
    return middle if len(numbers) == 1 else f"{middle} [{min(numbers):.4g}, {max(numbers):.4g}]"


def mean_of(numbers: list[float]) -> str:
    """Mean ± sample standard deviation."""
    middle = f"{statistics.mean(numbers):.4g}"
    return middle if len(numbers) == 1 else f"{middle} ± {statistics.stdev(numbers):.1g}"


def side_by_side(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Runs all sides in each round, every other round from the last to the first."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            values[name].append(sides[name]())
            say(f"round {turn + 1}/{rounds}: {name} {values[name][-1]:.4g}")
    return values


def apart(function: Callable[P, T]) -> Callable[P, T]:
    """Makes a function run in a forked process of its own.

    Memory, caches and threads of one side then do not affect the other. Forked processes cannot use a GPU: on a machine
    with a GPU, the function runs in this process.
    """

    @functools.wraps(function)
    def forked(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.cuda.is_available():
            return function(*args, **kwargs)
        context = multiprocessing.get_context("fork")
        ours, its = context.Pipe(duplex=False)
        child = context.Process(target=lambda: its.send(function(*args, **kwargs)))
        child.start()
        child.join()
        if child.exitcode:
            raise RuntimeError(f"{function.__name__} failed: see above")
        return ours.recv()

    return forked


def configure(*overrides: str) -> Any:
    """The config that `scripts/train.py` composes from these overrides."""
    with initialize_config_dir(str(PROJECT / "configs")):
        return compose("train", ["data.fallback=null", "callbacks.progress=null", *overrides])


def build(config: Any) -> Any:
    """The data and the model of a config."""
    return build_settings(read_settings(config))


def train_quietly(config: Any, folder: Path) -> dict[str, Any]:
    """`train_run` without its output."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        return train_run(config, RunFolder(folder))


def train_with(callback: pl.Callback, folder: Path, steps: int, *overrides: str) -> None:
    """Trains as `train_run` does, with one more callback and without validation and test.

    Args:
        callback: the additional callback.
        folder: the run's folder, which exists.
        steps: optimizer steps.
        overrides: overrides of the config.
    """
    length = ["trainer.max_epochs=-1", f"trainer.max_steps={steps}", "+trainer.limit_val_batches=0"]
    config = configure(*overrides, *length, "+trainer.limit_test_batches=0")
    training = Training(config, read_settings(config), RunFolder(folder), resume=False)
    training.trainer.callbacks.append(callback)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        training.open()
        training.fit()


def machine(device: str) -> dict[str, str]:
    """Processor, device, versions, date, and the commit, with a + if the measured files have uncommitted changes."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            n for n in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if n.startswith("model name")
        ]
        processor = names[0].partition(": ")[2] if names else processor
    git = functools.partial(subprocess.run, cwd=PROJECT, capture_output=True, text=True, check=False)
    commit = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    changed = git(["git", "status", "--short", "src", "configs", "scripts", "benchmarks/*.py"]).stdout
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores",
        "processor": processor,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning", "hydra-core")},
        "commit": commit + "+" * bool(changed) or "unknown",
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
    }


def arguments(words: str | None) -> argparse.ArgumentParser:
    """The parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--quick", action="store_true", help="one short round, to try the benchmark: its numbers mean nothing"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    return parser


def main(words: str | None, measure: Callable[[str, bool], list[Result]]) -> None:
    """A benchmark's command: measures, prints, writes one JSON file."""
    options = arguments(words).parse_args()
    facts = machine(options.device)
    say(", ".join(f"{name} {value}" for name, value in facts.items()))
    results = measure(options.device, options.quick)
    for result in results:
        print(result.line())
    file = options.out / f"{Path(sys.argv[0]).stem}_{options.device}.json"
    write(file, {"machine": facts, "results": [asdict(result) for result in results]})
    print(f"written to {file}")


def write(file: Path, content: dict[str, Any]) -> None:
    """Writes the results, with the command that started this process."""
    words = sys.argv[1:]
    if "--out" in words:  # the folder is not part of the command that is reported
        del words[words.index("--out") : words.index("--out") + 2]
    command = "python " + shlex.join([str(Path(sys.argv[0]).resolve().relative_to(PROJECT)), *words])
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"command": command, **content}, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
