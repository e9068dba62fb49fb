"""Peak memory of the default run's process, compared with a bare loop's: resident memory, and on a GPU the device's."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from measure import Result


def use(side: str, device: str, steps: int) -> None:
    """Trains in this process, and prints its peaks in MiB."""
    if side == "default run":
        import tempfile

        from measure import configure, train_quietly

        with tempfile.TemporaryDirectory() as folder:
            words = [f"trainer.max_steps={steps}", f"trainer.accelerator={device}"]
            train_quietly(configure(*words), Path(folder) / "run")
    else:
        import os

        from bare import bare_loop, default_network
        from torchvision import datasets

        data = datasets.MNIST(os.environ.get("MNIST_ROOT", "data"))
        bare_loop(data.data.to(device), data.targets.to(device), default_network(), 128, range(steps))
    import torch

    on_device = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0
    print(json.dumps([peak_resident(), on_device]))


def peak_resident() -> float:
    """This process's own peak in MiB. `getrusage` may return its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10


def measure(device: str, quick: bool = False) -> list[Result]:
    """Measures each side in a process of its own."""
    from measure import Result, side_by_side

    steps = 3 if quick else 430
    on_device: dict[str, list[float]] = {"default run": [], "bare loop": []}

    def peak(side: str) -> float:
        command = [sys.executable, __file__, "--side", side, "--device", device, "--steps", str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        resident, there = json.loads(done.stdout.splitlines()[-1])
        on_device[side].append(there)
        return resident

    values = side_by_side({side: lambda s=side: peak(s) for side in on_device}, 1 if quick else 3)
    over = ("default run", "bare loop")
    results = [Result("memory", "peak resident memory ÷ the bare loop's", over, "≤ 1.3", "MiB", values)]
    if device == "cuda":
        what = "peak memory on the device ÷ the bare loop's"
        results.append(Result("memory", what, over, "≤ 1.3", "MiB", on_device))
    return results


if __name__ == "__main__":
    if "--side" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--side")
        parser.add_argument("--device")
        parser.add_argument("--steps", type=int)
        use(**vars(parser.parse_args()))
    else:
        from measure import main

        main(__doc__, measure)
