"""A run's folder: one process trains in it, a full disk or a missing folder leaves nothing that is in the way."""

import re
import shutil
import signal

import pytest
from conftest import (
    QUICK,
    REPORT,
    TRAIN,
    assert_identical,
    command,
    done,
    events,
    recorded_steps,
    refused,
    start,
    summary,
    wait_for,
)

from rowgrad.folders import RunFolder
from rowgrad.results.run import Run

QUICKEST = [*QUICK, "model=mlp", "callbacks.histograms=null"]


@pytest.mark.slow
def test_a_run_that_is_trained_is_not_resumed_by_another_process_and_is_never_called_killed(tmp_path):
    alone, run = tmp_path / "alone", tmp_path / "run"
    long = [*QUICKEST, "trainer.max_epochs=30", "callbacks.checkpoints.every_n_steps=5"]
    long.append("callbacks.recorder.flush_every_n_steps=5")
    first = start(TRAIN, *long, f"hydra.run.dir={run}", cwd=tmp_path)
    wait_for(first, (run / "checkpoints" / "last.ckpt").exists)
    first.send_signal(signal.SIGSTOP)  # it stays in the middle of its training for as long as is asked
    try:
        for arguments in ([f"resume={run}"], [f"resume={run}", "trainer.max_epochs=40"]):
            line = refused(TRAIN, *arguments, cwd=tmp_path)
            assert line == f"Cannot train: {run.name} is being trained by another process."
        assert Run(RunFolder(run)).status == "running"
        assert "| running |" in command(REPORT, run, "--format", "md", cwd=tmp_path).stdout
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(120) == 0, first.errors
    done(TRAIN, *long, f"hydra.run.dir={alone}", cwd=tmp_path)
    assert recorded_steps(run) == list(range(330))
    assert_identical(run, alone)


def test_a_run_that_was_killed_is_called_so(tmp_path):
    process = start(TRAIN, *QUICKEST, "trainer.max_epochs=100", f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    wait_for(process, (tmp_path / "run" / "row_gradients.csv").exists)
    process.kill()
    process.wait()
    assert (tmp_path / "run" / ".lock").exists()
    assert Run(RunFolder(tmp_path / "run")).status == "killed"


@pytest.mark.parametrize("limit", [200, 30_000, 300_000])  # up to the config, the norms, a checkpoint
def test_a_disk_that_is_full_leaves_a_run_that_can_begin_or_go_on(tmp_path, limit):
    run = tmp_path / "run"
    arguments = [str(TRAIN), *QUICKEST, "trainer.max_steps=3", f"hydra.run.dir={run}"]
    code = (
        f"import resource, runpy, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"sys.argv = {arguments}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    full = command("-c", code, cwd=tmp_path)
    assert full.returncode == 1
    assert re.search(r"File too large|No space", full.stderr)
    assert "Traceback" not in full.stderr
    config = run / "config.yaml"
    again = [f"resume={run}"] if config.exists() else arguments[1:]
    assert not config.exists() or config.stat().st_size > 0
    assert not [*tmp_path.rglob("*.part"), *tmp_path.rglob("*.ckpt")]
    done(TRAIN, *again, cwd=tmp_path)
    assert summary(run)["status"] == "done"
    assert recorded_steps(run) == [0, 1, 2] == [step for step, _ in events(run)["train/loss"]]


def test_a_folder_that_is_removed_in_mid_run_is_one_plain_line(tmp_path):
    run = tmp_path / "run"
    long = ["trainer.max_epochs=100", "callbacks.checkpoints.every_n_steps=5", f"hydra.run.dir={run}"]
    process = start(TRAIN, *QUICKEST, *long, cwd=tmp_path)
    wait_for(process, (run / "checkpoints" / "last.ckpt").exists)
    process.send_signal(signal.SIGSTOP)
    shutil.rmtree(run)
    process.send_signal(signal.SIGCONT)
    assert process.wait(120) == 1, process.output
    assert "Traceback" not in process.errors
    assert process.errors.startswith("Cannot train: ")
    assert len(process.errors.splitlines()) == 1
