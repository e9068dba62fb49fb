"""Time from the start of the command to the first optimizer step, compared with importing torch and Lightning."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from answers import seconds
from measure import PROJECT, Result, main, side_by_side


def first_step(folder: Path, device: str) -> float:
    """Wall time from the start of `scripts/train.py` to the first line in `row_gradients.csv`, written at once."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        table = Path(temporary) / "run" / "row_gradients.csv"
        words = [
            f"hydra.run.dir={table.parent}",
            "callbacks.recorder.flush_every_n_steps=1",
            f"trainer.accelerator={device}",
        ]
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, PROJECT / "scripts" / "train.py", *words, "data.fallback=null"],
            cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        while not table.exists() or b"\n0," not in table.read_bytes():
            time.sleep(0.005)
            if process.poll() is not None:
                _, words = process.communicate()
                raise RuntimeError(words.decode())
        taken = time.perf_counter() - begun
        process.kill()
        process.wait()
    return taken


def measure(device: str, quick: bool = False) -> list[Result]:
    """The default run."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sides = {
            "first step": lambda: first_step(folder, device),
            "imports": lambda: seconds("-c", "import torch, lightning.pytorch, os; os._exit(0)", folder=folder),
        }
        for side in [] if quick else sides.values():
            side()
        values = side_by_side(sides, 1 if quick else 3)
    what = "from Enter to the first optimizer step ÷ importing torch and lightning.pytorch"
    return [Result("start", what, ("first step", "imports"), "≤ 1.3", "s", values)]


if __name__ == "__main__":
    main(__doc__, measure)
