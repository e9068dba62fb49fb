"""All of a GPU in one call, in a few minutes: the invariants on it, a run killed and resumed on it, then every ratio.

    MNIST_ROOT=... python benchmarks/gpu.py

Writes `benchmarks/results/gpu_cuda.json` and prints a table. `--device cpu --quick` only runs it through.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

import example
import loading
import memory
import pipeline
import recipe
import recorder
import sequences
import tap
from measure import PROJECT, Result, arguments, machine, say

TESTS = ("invariants", "sequences", "bias", "recorder")
CHECKS = {
    # The suite's own tests of all invariants, against an oracle: exact zeros, visualize = baseline to the last
    # bit in deterministic mode, 16-bit norms, micro-batches, clipping, randomness as a function of seed and step.
    "invariants": ["-m", "pytest", "-m", "gpu", *(f"tests/test_{name}.py" for name in TESTS)],
    # A run that is killed at random moments, and resumed, against the same run left alone.
    "resume": ["tools/kill.py", "FOLDER", "--kills", "6", "data=mnist", "trainer.deterministic=true"],
}
QUICK = {
    "invariants": ["-m", "pytest", "-m", "gpu", "tests/test_invariants.py", "-k", "test_1_"],
    "resume": ["tools/kill.py", "FOLDER", "--kills", "1", "data=digits", "trainer.max_epochs=4"],
}


def check(name: str, command: list[str], device: str) -> dict[str, Any]:
    """Runs one check in a process of its own; what it said last, and whether all was well."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        words = [folder if word == "FOLDER" else word for word in command]
        if name == "resume":
            words.append(f"trainer.accelerator={device}")
        done = subprocess.run([sys.executable, *words], cwd=PROJECT, capture_output=True, text=True, check=False)
    last = "\n".join((done.stdout if done.stdout.strip() else done.stderr).strip().splitlines()[-12:])
    say(f"{name}: exit code {done.returncode}. {last}")
    shown = " ".join(["python", *command])
    return {
        "name": name,
        "command": shown,
        "passed": done.returncode == 0,
        "said": last,
        "s": time.perf_counter() - begun,
    }


def table(checks: list[dict[str, Any]], results: list[Result]) -> str:
    """All of it in Markdown."""
    lines = ["| check | outcome | seconds |", "| --- | --- | --- |"]
    lines += [f"| {c['name']} | {'passed' if c['passed'] else 'FAILED'} | {c['s']:.0f} |" for c in checks]
    return "\n".join([*lines, "", *Result.table(results)])


def main() -> int:
    """Checks, measures, writes, prints."""
    options = arguments(__doc__).parse_args()
    facts = machine(options.device)
    begun = time.perf_counter()
    chosen = QUICK if options.quick else CHECKS
    checks = [check(name, command, options.device) for name, command in chosen.items()]
    results: list[Result] = []
    for benchmark in (recorder, pipeline, sequences, tap, recipe, loading, memory, example):
        results += benchmark.measure(options.device, options.quick)
        say(f"{benchmark.__name__} done after {time.perf_counter() - begun:.0f} s")
    command = " ".join(["python benchmarks/gpu.py", *sys.argv[1:]])
    content = {
        "command": command,
        "machine": facts,
        "checks": checks,
        "results": [asdict(result) for result in results],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"gpu_{options.device}.json"
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(checks, results))
    print(f"\n{', '.join(f'{name} {value}' for name, value in facts.items())}; {time.perf_counter() - begun:.0f} s")
    print(f"written to {file}")
    return 0 if all(c["passed"] for c in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
