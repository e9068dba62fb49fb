"""Training loops that take turns of a few steps each, so that other load on the machine affects all of them alike.

Each loop runs in a process of its own and waits, asleep, while another has its turn. A pair is a hundred steps of each
loop, in turns of `turn` steps: A B, B A, A B, ... The ratio is taken within a pair.

The recorder writes every hundred steps: each pair contains one writing, and no median hides it. Turns are placed so
that the writing is in the middle of a turn, and the background thread finishes its part within the turn.

A pair begins when the machine is idle: a step takes fifty times as long if two threads wait for each other on a core
that another process uses.

The memory layout of a process makes it faster or slower by half a percent, as long as it lives. Therefore all loops are
restarted every few pairs, and the confidence interval counts launches, not pairs.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from bare import now
from measure import Result, say, train_with
from scipy.stats import binom

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from multiprocessing.connection import Connection

    Loop = Callable[["Pace"], None]

PERIOD = 100  # steps of each loop in a pair
REST = 0.01  # seconds between two turns, in which OpenMP's spinning threads fall asleep


class Pace(pl.Callback):
    """Blocks a loop until its next turn: a callback of a Trainer, or the steps of `for step in pace`.

    Args:
        pipe: reports the seconds of a turn, and waits for the next turn.
        folder: an empty folder for the loop's files.
        turn: steps of a turn.
    """

    def __init__(self, pipe: Connection, folder: Path, turn: int) -> None:
        self.pipe, self.folder, self.turn = pipe, folder, turn
        self.step, self.begun = 0, 0.0

    def __iter__(self) -> Iterator[int]:
        for step in itertools.count():
            self.on_train_batch_start()
            yield step

    def on_train_batch_start(self, *_: Any) -> None:
        """Ends a turn at its last step. The first turn that counts comes after a turn and a half of warm-up."""
        if self.step % self.turn == self.turn // 2 and self.step > self.turn:
            self.pipe.send(now() - self.begun)
            self.pipe.recv()
            self.begun = now()
        self.step += 1


def pipeline(pace: Pace, overrides: Sequence[str]) -> None:
    """The pipeline's training, as a loop."""
    train_with(pace, pace.folder, 10**6, *overrides)


def live(loop: Loop, pipes: tuple[Connection, Connection], folder: Path, turn: int) -> None:
    """A loop's process, without output. It ends when the other end of its pipe is closed."""
    theirs, ours = pipes
    theirs.close()
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")
    loop(Pace(ours, folder, turn))


@contextmanager
def process(loop: Loop, turn: int) -> Generator[Connection]:
    """Starts a loop in a process of its own, and yields the pipe on which it gets its turns.

    The process is forked off this one. On a machine with a GPU it is forked off a server that has imported everything
    and does not use the GPU, because a process that uses a GPU cannot share it with its children.
    """
    context = multiprocessing.get_context("forkserver" if torch.cuda.is_available() else "fork")
    context.set_forkserver_preload(["alternate", "tap"])
    ours, its = context.Pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        child = context.Process(target=live, args=(loop, (ours, its), Path(folder), turn), daemon=True)
        child.start()
        its.close()
        try:
            yield ours
        except EOFError as error:
            raise RuntimeError("a loop failed: see above") from error
        finally:
            child.kill()
            child.join()


def wait_for_quiet(patience: float) -> None:
    """Waits until 90 % of the cores' time is idle, for at most `patience` seconds; on Linux only."""
    stat = Path("/proc/stat")
    until = time.monotonic() + patience
    while stat.exists() and time.monotonic() < until:
        before, after = (_ticks(stat, wait) for wait in (0.0, 0.3))
        passed = [late - early for early, late in zip(before, after, strict=True)]
        if passed[3] >= 0.9 * sum(passed):  # the fourth is idle time
            return


def _ticks(stat: Path, wait: float) -> list[int]:
    """The cores' time until `wait` seconds from now, in clock ticks of the eight kinds of `/proc/stat`."""
    time.sleep(wait)
    return [int(number) for number in stat.read_text(encoding="ascii").split()[1:9]]


def launch(
    loops: dict[str, Loop], pairs: int, turn: int, period: int = PERIOD, patience: float = 0.0
) -> dict[str, list[float]]:
    """Starts all loops, which then take turns.

    Args:
        loops: loops by name.
        pairs: number of pairs.
        turn: steps of a turn.
        period: steps of each loop in a pair.
        patience: the longest wait of a pair, in seconds, while the machine is busy.

    Returns:
        Milliseconds a step of each loop, one number for each pair.
    """
    turns: dict[str, list[float]] = {name: [] for name in loops}
    with ExitStack() as stack:
        pipes = {name: stack.enter_context(process(loop, turn)) for name, loop in loops.items()}
        for pipe in pipes.values():
            pipe.recv()
        for number in range(pairs * (count := period // turn)):
            if number % count == 0:
                wait_for_quiet(patience)
            for name in list(loops)[:: 1 if number % 2 == 0 else -1]:
                time.sleep(REST)
                pipes[name].send(None)
                turns[name].append(pipes[name].recv())
    return {
        name: [1e3 * sum(taken[first : first + count]) / period for first in range(0, len(taken), count)]
        for name, taken in turns.items()
    }


def compare(
    result: Result,
    loops: dict[str, Loop],
    device: str,
    *,
    quick: bool,
    turn: int = 20,
    pairs: int = 3,
    launches: int | None = None,
) -> Result:
    """Measures loops side by side.

    Args:
        result: receives the numbers, in ms a step.
        loops: functions that train without an end and call a `Pace` before each step. On a GPU they are pickled.
        device: `cpu` or `cuda`, where starting a process takes long.
        quick: one short round, whose numbers mean nothing.
        turn: steps of a turn; it divides `PERIOD`.
        pairs: of each launch.
        launches: how often the loops are started; twelve times, and nine times on a GPU.
    """
    launches, pairs = (1, 1) if quick else (launches or (9 if device == "cuda" else 12), pairs)
    for number in range(launches):
        measured = launch(loops, pairs, 2, 2) if quick else launch(loops, pairs, turn, patience=60)
        for name, numbers in measured.items():
            result.values.setdefault(name, []).extend(numbers)
        shown = ", ".join(f"{name} {statistics.median(numbers):.4g}" for name, numbers in measured.items())
        say(f"launch {number + 1}/{launches}: {shown}")
    ratios = result.ratios
    result.interval = interval([statistics.median(ratios[i : i + pairs]) for i in range(0, len(ratios), pairs)])
    return result


def interval(numbers: Sequence[float]) -> tuple[float, float] | None:
    """A confidence interval of at least 95 % for the median, from the ranks of the numbers alone (binomial).

    None where there are fewer than the six numbers that it takes.
    """
    ranked, rank = sorted(numbers), int(binom.ppf(0.025, len(numbers), 0.5))
    return (ranked[rank - 1], ranked[-rank]) if rank else None
