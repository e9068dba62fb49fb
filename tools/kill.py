"""Kills a training run with SIGKILL several times, resumes it, and compares it with an uninterrupted run.

    python tools/kill.py FOLDER --kills 20 data=digits trainer.max_epochs=30
    MNIST_ROOT=... python tools/kill.py FOLDER --kills 20 data=mnist

Each life is a process that runs `scripts/train.py`. It is forked from a process that has imported torch, which only
saves the time of the import. Kills come at random moments: during set-up, between any two steps, and while a
checkpoint is written. Some are a SIGTERM, which interrupts the run. Finally the run is killed while it validates,
draws, tests and reports.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import json
import os
import random
import runpy
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from rowgrad.watch.quantities import OUTCOME

TRAIN = Path(__file__).resolve().parents[1] / "scripts" / "train.py"
HEATMAPS = "pictures/1_row_gradients"
QUICK = ["callbacks.progress=null", "callbacks.recorder.flush_every_n_steps=3", "callbacks.checkpoints.every_n_steps=7"]


# What a life is doing when it is killed near its end, in this order.
MOMENTS = {
    "validating": "rowgrad.model.classifier:RowClassifier.validation_step",
    "drawing": "rowgrad.watch.pictures:Pictures._digits",
    "after training": "rowgrad.training.train:Training._measure",
    "testing": "rowgrad.model.classifier:RowClassifier.test_step",
    "telling TensorBoard": "rowgrad.training.train:write_outcome",
    "writing the summary": "rowgrad.folders:RunFolder.write_summary",
}


def die_at(moment: str) -> None:
    """Makes this process kill itself when it would call a function."""
    module, _, name = moment.partition(":")
    *owners, last = name.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(owner, last, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))


def start(*arguments: str, log: Path, moment: str | None = None) -> int:
    """Forks a life of `scripts/train.py`, which dies at the given moment; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [str(TRAIN), *arguments]
    code = 1
    try:
        if moment is not None:
            die_at(MOMENTS[moment])
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:  # noqa: BLE001
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        os._exit(code)


def finish(pid: int) -> int:
    """Waits for a life to end; returns its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def size_of(file: Path) -> int:
    """The size of a file, which a run that begins again removes; 0 if there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def kill(pid: int, run: Path, mode: str, chance: random.Random) -> bool:
    """Waits for the moment and kills; returns False if the run ended before."""
    csv, deadline = run / "row_gradients.csv", time.monotonic() + 120
    size = size_of(csv)
    wanted = size + chance.randint(1, 6_000)
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        if mode == "at once":
            time.sleep(chance.uniform(0, 0.8))
            break
        if mode in {"step", "interrupt"} and size_of(csv) >= wanted:
            time.sleep(chance.uniform(0, 0.03))
            break
        if mode == "write" and size_of(csv) > size and list(run.glob("checkpoints/*.part")):
            break
    number, code = (signal.SIGTERM, 130) if mode == "interrupt" else (signal.SIGKILL, -signal.SIGKILL)
    os.kill(pid, number)
    return finish(pid) == code


def shown(run: Path) -> dict[str, list[Any]]:
    """Returns what TensorBoard shows, by tag, without times: scalars, images, histograms, texts, hyperparameters."""
    kept = dict.fromkeys(("scalars", "images", "histograms", "tensors"), 0)
    events = EventAccumulator(str(run / "tensorboard"), size_guidance=kept)
    events.Reload()
    content: dict[str, list[Any]] = {}
    for kind in kept:
        for tag in events.Tags()[kind]:
            content[tag] = [replace(event, wall_time=0) for event in getattr(events, kind.capitalize())(tag)]
    for tag in ("outcome/text_summary",):  # it contains the seconds, and an interrupted run has one too
        content[tag] = [event.step for event in content.get(tag, [])][-1:]
    facts = [json.loads(event.tensor_proto.string_val[0]) for event in content.get(OUTCOME, [])][-1:]
    content[OUTCOME] = [{name: value for name, value in one.items() if name != "train/seconds"} for one in facts]
    for tag, about in events.summary_metadata.items():
        if about.plugin_data.plugin_name == "hparams":
            data = HParamsPluginData.FromString(about.plugin_data.content)
            data.session_start_info.start_time_secs = data.session_end_info.end_time_secs = 0
            content[tag] = [data]
    if any(tag.startswith("row_update_norm/") for tag in content):
        # The picture of a resumed run has no row updates from before the resume: no file stores them.
        content[HEATMAPS] = [event.step for event in content.get(HEATMAPS, [])]
    return content


def differences(alone: Path, killed: Path) -> list[str]:
    """Returns the names of everything that is not bit-identical in two runs."""
    found = []
    lines = [run / "row_gradients.csv" for run in (alone, killed)]
    if len({file.read_bytes() if file.exists() else None for file in lines}) > 1:
        found.append("row_gradients.csv")
    summaries = [json.loads((run / "summary.json").read_text()) for run in (alone, killed)]
    found += [
        f"summary.json: {key}"
        for key in summaries[0]
        if key != "train/seconds" and summaries[0][key] != summaries[1].get(key)
    ]
    for name in ("last.ckpt", "best.ckpt"):
        states = [torch.load(run / "checkpoints" / name, weights_only=True) for run in (alone, killed)]
        for state in states:
            state["callbacks"] = {k: v for k, v in state["callbacks"].items() if not k.startswith("Timer")}
        keys = ["state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch", "callbacks"]
        found += [f"{name}: {key}" for key in keys if not same(states[0][key], states[1][key])]
    tags, others = shown(alone), shown(killed)
    found += [f"tensorboard: {tag}" for tag in sorted(tags.keys() | others.keys()) if tags.get(tag) != others.get(tag)]
    return found


def same(a: object, b: object) -> bool:
    """Whether two nested values are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.equal(b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def main() -> int:
    """Prints kills and differences as JSON; returns 0 if nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    folder, log, chance = options.folder.resolve(), options.folder.resolve() / "log", random.Random(options.seed)
    alone, killed = folder / "alone", folder / "killed"
    overrides = [*QUICK, *options.overrides]
    assert finish(start(*overrides, f"hydra.run.dir={alone}", log=log)) == 0, log.read_text()
    kills = dict.fromkeys(("at once", "step", "write", "interrupt"), 0)
    modes = [mode for mode, _ in zip(itertools.cycle(kills), range(options.kills))]
    chance.shuffle(modes)

    def going_on() -> list[str]:
        claimed = (killed / "config.yaml").exists()
        return [f"resume={killed}"] if claimed else [*overrides, f"hydra.run.dir={killed}"]

    def failed(words: str) -> int:
        print(f"{log.read_text()[-3000:]}\n{words}", file=sys.stderr)
        return 1

    for mode in modes:
        if not kill(start(*going_on(), log=log), killed, mode, chance):
            return failed(f"the run ended after {sum(kills.values())} kills")
        kills[mode] += 1
    for moment in MOMENTS:
        if finish(start(*going_on(), log=log, moment=moment)) != -signal.SIGKILL:
            return failed(f"the run has never been {moment}")
    assert finish(start(*going_on(), log=log)) == 0, log.read_text()
    result = {"kills": kills, "moments": list(MOMENTS), "differences": differences(alone, killed)}
    print(json.dumps(result))
    return 1 if result["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
