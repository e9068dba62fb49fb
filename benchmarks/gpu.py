"""All checks and benchmarks on a GPU in one call: the invariants, a run that is killed and resumed, every ratio.

    MNIST_ROOT=... python benchmarks/gpu.py                          # everything
    MNIST_ROOT=... python benchmarks/gpu.py invariants recorder --until 200

Each part writes `benchmarks/results/<part>_cuda.json` as soon as it is done, so that no result is lost when time is
over. `--device cpu --quick` only tries the script.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import atlas
import example
import limit
import loading
import memory
import pipeline
import recipe
import recorder
import sequences
import tap
from measure import PROJECT, Result, arguments, machine, say, write

if TYPE_CHECKING:
    from pathlib import Path

# The most important first, because the last are left out when time is over.
BENCHMARKS = {
    **{module.__name__: module.measure for module in (pipeline, recorder, recipe, limit)},
    **{f"atlas_{count}": partial(atlas.measure, processes=count) for count in (16, 8, 4)},
    **{module.__name__: module.measure for module in (tap, loading, sequences, memory, example)},
}
PYTEST = ("-m", "pytest", "-m", "gpu")
ABOUT = ("invariants", "sequences", "bias", "recorder", "tap", "randomness", "any_module", "no_waiting", "cut_finder")
TESTS = [f"tests/test_{name}.py" for name in ABOUT]
CHECKS = {
    # The suite's own tests of all invariants, against an oracle: exact zeros, visualize = baseline to the last
    # bit in deterministic mode, 16-bit norms, micro-batches, clipping, randomness as a function of seed and step.
    "invariants": [*PYTEST, "-k", "not cpu", "-n", "14", "--tb=short", *TESTS],
    # A run that is killed at random moments, and resumed, against the same run left alone.
    "resume": ["tools/kill.py", "FOLDER", "--kills", "6", "data=mnist", "trainer.deterministic=true"],
}
QUICK = {
    "invariants": [*PYTEST, "tests/test_invariants.py", "-k", "test_1_"],
    "resume": ["tools/kill.py", "FOLDER", "--kills", "1", "data=digits", "trainer.max_epochs=4"],
}


def check(name: str, device: str, log: Path, *, quick: bool) -> dict[str, Any]:
    """Runs one check in a process of its own; returns its last line and whether it passed. Its output goes to `log`."""
    begun, command = time.perf_counter(), (QUICK if quick else CHECKS)[name]
    with tempfile.TemporaryDirectory() as folder:
        words = [folder if word == "FOLDER" else word for word in command]
        if name == "resume":
            words.append(f"trainer.accelerator={device}")
        with log.open("w", encoding="utf-8") as file:
            alone = os.environ | {"OMP_NUM_THREADS": "1"}  # many processes, side by side
            done = subprocess.run(
                [sys.executable, *words], cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT, env=alone, check=False
            )
    last = log.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
    shown = " ".join(["python", *command])
    return {
        "name": name,
        "command": shown,
        "passed": done.returncode == 0,
        "said": last,
        "s": time.perf_counter() - begun,
    }


def main() -> int:
    """Checks, measures, writes, prints."""
    parts = [*CHECKS, *BENCHMARKS]
    parser = arguments(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all, or some of {' '.join(parts)}")
    parser.add_argument("--until", type=float, default=float("inf"), help="seconds after which no part begins")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"no part is called {' '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    facts, begun, failed = machine(options.device), time.perf_counter(), False
    for name in options.parts or parts:
        if time.perf_counter() - begun > options.until:
            say(f"{name}: left out, since the time is over")
            continue
        file = options.out / f"{name}_{options.device}.json"
        if name in CHECKS:
            checked = check(name, options.device, file.with_suffix(".log"), quick=options.quick)
            failed = failed or not checked["passed"]
            content = {"check": checked}
            print(f"{name} {'passed' if checked['passed'] else 'FAILED'}: {checked['said']}")
        else:
            try:
                results = BENCHMARKS[name](options.device, options.quick)
            except Exception:  # noqa: BLE001  (the other parts are measured nevertheless)
                traceback.print_exc()
                failed = True
                continue
            content = {"results": [asdict(result) for result in results]}
            print("\n".join(Result.table(results)))
        write(file, {"machine": facts, **content})
        say(f"{name}: done after {time.perf_counter() - begun:.0f} s, written to {file}")
    print(f"\n{', '.join(f'{name} {value}' for name, value in facts.items())}; {time.perf_counter() - begun:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
