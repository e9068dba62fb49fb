"""Sweeps: one process, tables with the right numbers, nothing lost, and the launchers and the sweeper that exist."""

import csv
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from conftest import (
    DEFAULTS,
    TRAIN,
    assert_identical,
    configure,
    done,
    events,
    recorded_steps,
    refused,
    start,
    summary,
    train,
    wait_for,
)
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from joblib.externals.loky.process_executor import TerminatedWorkerError
from omegaconf import OmegaConf

import rowgrad.results.sweep
import rowgrad.training.train
from rowgrad.data import sources
from rowgrad.data.datamodule import ImageData
from rowgrad.data.settings import DataSettings
from rowgrad.files import write_whole
from rowgrad.folders import SweepFolder
from rowgrad.results.runs import RunSet
from rowgrad.results.sentences import answer_jobs
from rowgrad.training.jobs import Sweep, command_to_repeat, run_job
from rowgrad.training.naming import job_name

QUICK = ["data=digits", "model=mlp", "trainer.accelerator=cpu", "callbacks.progress=null", "callbacks.pictures=null"]
QUICK += ["callbacks.histograms=null", "trainer.max_steps=4"]


def table(folder):
    with (folder / "sweep.csv").open() as file:
        return {line["job"]: line for line in csv.DictReader(file)}


def trained_steps(folder):
    """How often each step of a job was trained and written to TensorBoard."""
    return [step for step, _ in events(folder)["train/loss"]]


# ---- one command, one answer


def test_a_sweep_ends_with_a_line_for_each_job(swept):
    _, folder = swept
    assert (folder / "report" / "report.html").is_file()
    lines = table(folder)
    assert len(lines) == 8
    for name, line in lines.items():
        facts = summary(folder / name)
        assert {key: line[key] for key in facts} == {key: str(value) for key, value in facts.items()}
        assert (line["status"], line["error"]) == ("done", "")
        assert name == f"{line['scenario']}_detach-{line['scenario.detach']}_seed-{line['seed']}"
    assert {(line["scenario"], line["scenario.detach"], line["seed"]) for line in lines.values()} == {
        (scenario, detach, seed) for scenario in ("modify", "augment") for detach in ("True", "False") for seed in "01"
    }


def test_a_sweep_prints_and_writes_its_tables(swept):
    printed, folder = swept
    markdown = (folder / "sweep.md").read_text()
    a, b = (summary(folder / f"augment_detach-True_seed-{seed}")["test/acc"] for seed in (0, 1))
    accuracy = f"{50 * (a + b):.2f} ± {100 * abs(a - b) / math.sqrt(2):.2f} %"
    for shown in (printed, markdown):
        assert any(x.split()[:2] in (["augment", "2"], ["|", "augment"]) and accuracy in x for x in shown.splitlines())
        assert "What detach does" in shown
        assert "sweep          sweep: 8 done" in shown
    # The loss never uses modify's rows, so nothing that it learns depends on detach.
    assert "| modify | test/acc | 2 | 0 in every pair | – | – |" in markdown
    assert "scipy.stats.ttest_rel" in markdown


def test_a_sweep_begins_with_sentences_and_ends_with_how_to_watch_it(swept):
    printed, folder = swept
    sentences = answer_jobs(RunSet.of_sweep(SweepFolder(folder)))
    assert [sentence.partition(" ")[0] for sentence in sentences] == ["augment:", "modify:"]
    assert "detach makes the zeros of rows 0–13 and stops " in sentences[0]
    assert sentences[1] == (
        "modify: the loss makes the zeros of rows 14–27, not detach, with it and without;"
        " the test accuracy is the same in 2 pairs."
    )
    page = (folder / "sweep.md").read_text()
    assert [line.removeprefix("- ") for line in page.splitlines() if line.startswith("- ")] == sentences
    assert page.index(sentences[0]) < page.index("| --- |")
    in_one_line = " ".join(printed.split())
    assert all(sentence in in_one_line for sentence in sentences)
    assert in_one_line.index(sentences[0]) < in_one_line.index("Over seeds")
    assert printed.splitlines()[-1].startswith("watch it       ")
    assert printed.endswith("tensorboard --logdir sweep, then http://localhost:6006/#rowgrad\n")


@pytest.mark.slow
def test_a_job_of_a_sweep_is_bit_identical_to_the_run_alone(swept, tmp_path):
    _, folder = swept
    job = folder / "augment_detach-False_seed-1"  # the last of eight in one process
    train(configure(*QUICK, "scenario.detach=false", "seed=1"), tmp_path / "alone")
    assert_identical(job, tmp_path / "alone")


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(swept):
    _, folder = swept
    before = {path: path.stat().st_mtime_ns for job in folder.glob("*/job.json") for path in job.parent.rglob("*")}
    result = done(TRAIN, f"sweep.resume={folder}", cwd=folder.parent)
    assert result.stdout.count(" is done already.") == 8
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in before if before[path] != after[path]} <= {".lock"}


@pytest.mark.mnist
def test_the_files_are_read_once_in_a_process_and_again_when_they_change(mnist, tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(sources, "_check_file", lambda file, _: checked.append(file.name))
    shutil.copytree(mnist / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    first, second = (ImageData(DataSettings(name="mnist", root=str(tmp_path))) for _ in range(2))
    assert len(checked) == 4
    assert first.dataset.train.pixels is second.dataset.train.pixels
    file = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([9 - content[-1]]))
    os.utime(file, ns=times)  # of the same size and date
    third = ImageData(DataSettings(name="mnist", root=str(tmp_path)))
    assert len(checked) == 8
    assert int(third.dataset.test.labels[-1]) == 9 - int(first.dataset.test.labels[-1])


# ---- nothing lost


@pytest.mark.slow
def test_a_sweep_with_a_job_that_raises_and_one_that_is_killed_ends_complete_when_it_is_run_again(tmp_path):
    """Job 0 ends, job 1 raises, job 2 is killed with SIGKILL together with the sweep, job 3 never starts."""
    folder = tmp_path / "sweep"
    jobs = [folder / f"seed-{seed}" for seed in range(4)]
    jobs[1].mkdir(parents=True)
    (jobs[1] / "tensorboard").write_text("a file where a folder should be")
    basics = ["data=digits", "trainer.accelerator=cpu", "callbacks.progress=null", "trainer.max_epochs=6"]
    basics += ["callbacks.recorder.flush_every_n_steps=5", "callbacks.checkpoints.every_n_steps=7"]
    basics.append("scenario.operation=noise 1")
    arguments = ["-m", *basics, "seed=0,1,2,3", "hydra.sweep.dir=sweep"]
    process = start(TRAIN, *arguments, cwd=tmp_path)
    wait_for(process, lambda: (jobs[2] / "row_gradients.csv").is_file() and len(recorded_steps(jobs[2])) > 20)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert summary(jobs[0])["status"] == "done"
    assert summary(jobs[1])["status"] == "failed"
    assert summary(jobs[1])["error"].startswith("FileExistsError: ")
    assert not (jobs[2] / "summary.json").exists()
    assert not jobs[3].exists()
    ended = {path: path.stat().st_mtime_ns for path in jobs[0].rglob("*.*") if path.suffix != ".lock"}

    (jobs[1] / "tensorboard").unlink()
    again = done(TRAIN, *arguments, cwd=tmp_path)
    assert again.stdout.count(" is done already.") == 1
    assert "resuming from step " in again.stdout
    assert "sweep          sweep: 4 done\n" in again.stdout
    assert [line["status"] for line in table(folder).values()] == ["done"] * 4
    assert ended == {path: path.stat().st_mtime_ns for path in ended}
    for job in jobs:
        assert recorded_steps(job) == trained_steps(job) == list(range(66))
    alone = tmp_path / "alone"
    train(configure(*basics, "seed=2"), alone)
    assert_identical(alone, jobs[2])


@pytest.mark.slow
def test_ctrl_c_ends_the_sweep_and_says_how_to_go_on(tmp_path):
    endless = [*QUICK, "trainer.max_steps=-1", "trainer.max_epochs=1000", "callbacks.recorder.flush_every_n_steps=5"]
    process = start("-c", DEFAULTS, TRAIN, "-m", *endless, "seed=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    job = tmp_path / "sweep" / "seed-0"
    wait_for(process, lambda: (job / "row_gradients.csv").is_file() and len(recorded_steps(job)) >= 10)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "sweep          sweep: 1 interrupted\n" in output
    assert f"interrupted    seed-0: after step {summary(job)['train/steps']}\n" in output
    assert "go on          python scripts/train.py sweep.resume=sweep\n" in output
    assert not (tmp_path / "sweep" / "seed-1").exists()
    assert "never started  1 of 2 jobs\n" in output


def hydras(folder, *overrides):
    """What `run_job` reads of Hydra's config."""
    folder.mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(
        runtime=SimpleNamespace(output_dir=str(folder)), overrides=SimpleNamespace(task=list(overrides))
    )


def test_a_job_over_several_ranks_is_refused_and_the_others_go_on(tmp_path):
    assert run_job(configure("data=digits", "trainer=ddp"), hydras(tmp_path / "job", "trainer=ddp")) is None
    assert summary(tmp_path / "job")["error"].startswith("UserError: trainer=ddp cannot go with -m.")


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_an_interruption_of_a_job_is_recorded_and_ends_the_sweep(tmp_path, monkeypatch, raised):
    monkeypatch.setattr(rowgrad.training.train, "train_run", Mock(side_effect=raised))
    with pytest.raises(raised):
        run_job(configure("data=digits"), hydras(tmp_path / "job", "seed=0"))
    assert summary(tmp_path / "job")["status"] == "interrupted"


def test_a_signal_while_a_job_trains_ends_the_sweep_with_130(tmp_path, monkeypatch):
    monkeypatch.setattr(rowgrad.training.train, "train_run", Mock(return_value={"status": "interrupted"}))
    with pytest.raises(SystemExit) as info:
        run_job(configure("data=digits"), hydras(tmp_path / "job", "seed=0"))
    assert info.value.code == 130


def test_a_job_that_raises_is_recorded_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rowgrad.training.train, "train_run", Mock(side_effect=RuntimeError("broken")))
    assert run_job(configure("data=digits"), hydras(tmp_path / "job", "seed=0")) is None
    assert summary(tmp_path / "job") == {"status": "failed", "error": "RuntimeError: broken"}
    assert "job failed: RuntimeError('broken')" in capsys.readouterr().err


def test_a_job_that_was_killed_is_resumed_to_the_last_bit_and_one_that_is_done_is_left_alone(tmp_path, capsys):
    overrides = [*QUICK, "scenario.operation=noise 1", "callbacks.checkpoints.every_n_steps=2"]
    job, alone = tmp_path / "job", tmp_path / "alone"
    accuracy = run_job(configure(*overrides), hydras(job, "seed=0"))
    train(configure(*overrides), alone)
    (job / "summary.json").unlink()  # what a kill after two steps leaves
    (job / "checkpoints" / "last.ckpt").unlink()
    assert run_job(configure(*overrides), hydras(job, "seed=0")) == accuracy
    assert "resuming from step 2, previous.ckpt" in capsys.readouterr().out
    assert_identical(job, alone)
    before = {path: path.stat().st_mtime_ns for path in job.rglob("*") if path.is_file()}
    assert run_job(configure(*overrides), hydras(job, "seed=0")) == accuracy
    assert "job is done already." in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in job.rglob("*") if path.is_file()} == before


def test_a_worker_that_is_killed_ends_the_sweep_with_a_plain_line(tmp_path, monkeypatch, capsys):
    swept = []
    monkeypatch.setattr(rowgrad.results.sweep, "answer_sweep", swept.append)
    callback = Sweep()
    callback.folder = SweepFolder(tmp_path)
    run_job(configure("data=digits", "trainer=ddp"), hydras(tmp_path / "job", "trainer=ddp"))
    monkeypatch.setattr(sys, "exc_info", lambda: (None, TerminatedWorkerError(), None))  # as Hydra calls it
    with pytest.raises(SystemExit) as info:
        callback.on_multirun_end(OmegaConf.create())
    assert info.value.code == 1
    assert capsys.readouterr().err.endswith("Cannot train: a worker process was killed, and joblib ended the sweep.\n")
    assert swept == [callback.folder]


def test_two_processes_never_train_the_same_job(tmp_path, capsys):
    job = hydras(tmp_path / "job", "seed=0")
    with FileLock(tmp_path / "job" / ".lock"):
        assert run_job(configure("data=digits"), job) is None
    assert "job is being trained by another process" in capsys.readouterr().err
    assert not (tmp_path / "job" / "job.json").exists()


def test_a_job_that_never_saved_begins_again_with_the_mended_config(tmp_path):
    folder = tmp_path / "job"
    broken = configure(*QUICK, "optimizer.lr=1e30", "optimizer.schedule=constant")
    assert run_job(broken, hydras(folder, "seed=0")) is None
    assert "not finite" in summary(folder)["error"] or "loss is" in summary(folder)["error"]
    assert not list(folder.glob("checkpoints/*"))
    accuracy = run_job(configure(*QUICK), hydras(folder, "seed=0"))
    assert accuracy == summary(folder)["val/acc"]
    assert recorded_steps(folder) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep.resume=nowhere"], "sweep.resume=nowhere is not a sweep's folder: there is no nowhere/sweep.json."),
        (["sweep.resume={sweep}", "seed=3"], "seed=3 cannot go with sweep.resume, which repeats the sweep's command."),
        (["-m", "seed=5,6", "hydra.sweep.dir={sweep}"], "hydra.sweep.dir={sweep} holds another sweep ("),
        (["-m", "scenario=augment,modfy"], "scenario=modfy is unknown; did you mean modify? Accepted: "),
        (["-m", "seed=1,2", "hydra.sweep.dir=/proc/rowgrad"], "No such file or directory: /proc/rowgrad"),
        (["-m", "resume={sweep}", "seed=1,2"], "resume={sweep} cannot go with -m. sweep.resume=FOLDER goes on with a "),
        (["-m", "sweep=jobs", "seed=1,2"], "sweep=jobs is unknown"),
    ],
)
def test_what_cannot_be_swept_is_said_plainly(swept, tmp_path, arguments, words):
    _, folder = swept
    line = refused(TRAIN, *(argument.format(sweep=folder) for argument in arguments), cwd=tmp_path)
    assert line.startswith("Cannot train: " + words.format(sweep=folder))
    assert not list(tmp_path.rglob("*.csv"))


# ---- names and statistics


def test_a_jobs_folder_is_named_after_what_differs_and_never_after_its_place(tmp_path):
    write_whole(tmp_path / "sweep.json", json.dumps({"common": ["data=digits"]}))
    name = lambda *overrides: job_name(str(tmp_path), "augment", overrides)  # noqa: E731
    assert name("data=digits", "seed=3", "scenario=modify") == "modify_seed-3"
    assert name("scenario=modify", "sweep=joblib", "seed=3", "data=digits") == "modify_seed-3"
    assert name("data=digits") == "augment"
    long = [name(f"scenario.rows=[{','.join(map(str, range(n)))}]") for n in (27, 28)]
    assert long[0] != long[1]
    assert all(len(word) < 140 for word in long)
    for word in (*long, name("optimizer.lr=1e+30", "scenario.rows=-1")):  # it can be typed as it is
        (resume,) = OverridesParser.create().parse_overrides([f"resume=logs/{word}"])
        assert resume.value() == f"logs/{word}"
        assert not resume.is_sweep_override()


def test_the_command_is_repeated_in_its_own_folder(tmp_path):
    folder = tmp_path / "it's, here"
    folder.mkdir()
    write_whole(folder / "sweep.json", json.dumps({"command": ["-m", "seed=0,1", "hydra.sweep.dir=x"]}))
    arguments = command_to_repeat([f"sweep.resume={folder}", "-m", "hydra.launcher.n_jobs=2"])
    assert arguments[:2] == ["-m", "seed=0,1"]
    assert OverridesParser.create().parse_overrides([arguments[2]])[0].value() == str(folder)
    assert arguments[3:] == ["trust=[]", "hydra.launcher.n_jobs=2"]
    assert command_to_repeat(["seed=1"]) == ["seed=1"]


# ---- launchers and sweepers that exist


@pytest.mark.slow
def test_joblib_trains_several_jobs_at_once_and_divides_the_cores(tmp_path):
    free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    arguments = ["-m", *QUICK, "sweep=joblib", "hydra.launcher.n_jobs=2", "data.batch_size=64,128,1298"]
    arguments.append("hydra.sweep.dir=sweep")
    result = subprocess.run(
        [sys.executable, TRAIN, *arguments], cwd=tmp_path, env=free, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1  # there are no 1,298 images
    words = "data.batch_size=1298 is larger than the 1297 training images of digits."
    assert f"failed         batch_size-1298: UserError: {words}" in result.stdout
    assert "sweep          sweep: 2 done, 1 failed\n" in result.stdout
    assert "go on          python scripts/train.py sweep.resume=sweep\n" in result.stdout
    assert "Traceback" not in result.stderr
    lines = table(tmp_path / "sweep")
    ended = {name.partition("-")[2]: line["status"] for name, line in lines.items()}
    assert ended == {"64": "done", "128": "done", "1298": "failed"}
    share = max(len(os.sched_getaffinity(0)) // 2, 1)
    assert [lines[name]["threads"] for name in ("batch_size-64", "batch_size-128")] == [str(share)] * 2


def workers_of(process):
    """The processes in which joblib trains."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1] if folder.name.isdigit() else ""
            if parent == str(process.pid) and b"popen_loky" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found


def joblib_sweep(folder, *overrides):
    """A sweep in a process group of its own, as a shell starts a command in a terminal."""
    arguments = ["-m", *QUICK[:-1], "trainer.max_epochs=6", "callbacks.checkpoints.every_n_steps=5", "seed=0,1,2"]
    arguments += ["callbacks.recorder.flush_every_n_steps=5", "sweep=joblib", "hydra.launcher.n_jobs=2"]
    arguments += ["hydra.sweep.dir=sweep", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([sys.executable, "-c", DEFAULTS, TRAIN, *arguments], cwd=folder, **pipes)


@pytest.mark.slow
def test_a_killed_worker_ends_the_sweep_with_a_plain_line_and_the_sweep_can_be_resumed(tmp_path):
    process = joblib_sweep(tmp_path)
    wait_for(process, lambda: list(tmp_path.glob("sweep/*/checkpoints/last.ckpt")))
    os.kill(workers_of(process)[0], signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, output + errors
    words = "Cannot train: a worker process was killed, and joblib ended the sweep.\n"
    assert errors == words, errors
    assert "go on          python scripts/train.py sweep.resume=sweep\n" in output
    again = done(TRAIN, "sweep.resume=sweep", cwd=tmp_path)
    assert "sweep          sweep: 3 done\n" in again.stdout
    done(TRAIN, *QUICK[:-1], "trainer.max_epochs=6", "seed=1", "hydra.run.dir=alone", cwd=tmp_path)
    assert_identical(tmp_path / "alone", tmp_path / "sweep" / "seed-1")


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_and_its_workers(tmp_path):
    process = joblib_sweep(tmp_path, "trainer.max_epochs=1000")
    wait_for(process, lambda: len(list(tmp_path.glob("sweep/*/row_gradients.csv"))) == 2)
    workers = workers_of(process)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "go on          python scripts/train.py sweep.resume=sweep\n" in output
    assert not (tmp_path / "sweep" / "seed-2").exists()
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def processes_in(folder, words):
    """Processes whose command line holds some words and the folder."""
    listed = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if words in line and str(folder) in line]


@pytest.mark.slow
def test_submitit_trains_each_job_in_its_own_process_and_one_that_is_queued_again_goes_on(tmp_path):
    arguments = ["sweep=submitit_local", "seed=0,1", "trainer.max_steps=-1", "trainer.max_epochs=14"]
    arguments += ["callbacks.recorder.flush_every_n_steps=5", "hydra.sweep.dir=sweep"]
    jobs = [tmp_path / "sweep" / f"seed-{seed}" for seed in (0, 1)]
    slower = [word for word in QUICK if word != "model=mlp"]  # so that the signal comes before the end
    process = start(TRAIN, "-m", *slower, *arguments, cwd=tmp_path)
    wait_for(process, lambda: all((job / "checkpoints" / "last.ckpt").is_file() for job in jobs))
    trainers = processes_in(tmp_path, "submitit.core._submit")
    os.kill(trainers[0], signal.SIGUSR2)  # as Slurm does before it takes the machine away
    assert process.wait(timeout=120) == 0
    assert len(trainers) == 2
    for job in jobs:
        assert recorded_steps(job) == trained_steps(job) == list(range(154))
    assert [line["status"] for line in table(tmp_path / "sweep").values()] == ["done", "done"]
    printed = [path.read_text() for path in (tmp_path / "sweep" / ".submitit").glob("*/*.out")]
    assert sorted("resuming from step " in text for text in printed) == [False, True]


def in_study(folder, query):
    """An answer of the study's SQLite file."""
    with closing(sqlite3.connect(folder / "study.db")) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.slow
def test_optuna_looks_for_the_best_validation_accuracy_and_goes_on_with_its_study(tmp_path):
    folder = tmp_path / "sweep"
    arguments = ["-m", *QUICK, "sweep=optuna", "hydra.sweeper.n_trials=3", "hydra.sweep.dir=sweep"]
    process = start(TRAIN, *arguments, cwd=tmp_path)
    wait_for(process, lambda: len(list(folder.glob("*/summary.json"))) == 1)
    process.kill()
    process.wait(timeout=60)
    result = done(TRAIN, "sweep.resume=sweep", cwd=tmp_path)
    assert "is done already." in result.stdout  # the sampler's seed asks for the same trials first
    accuracies = [summary(job.parent)["val/acc"] for job in folder.glob("*/job.json")]
    assert len(accuracies) >= 3
    found = in_study(folder, "SELECT value FROM trial_values JOIN trials USING (trial_id) WHERE state = 'COMPLETE'")
    assert sorted({value for (value,) in found}) == pytest.approx(sorted(set(accuracies)))
    best = OmegaConf.load(folder / "optimization_results.yaml")
    assert best.best_value == pytest.approx(max(accuracies))
