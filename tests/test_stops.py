"""Signals at any moment, and readers that go away: a plain end, exit code 130, and a resume to the last bit."""

import json
import signal

import pytest
from conftest import LIGHT, PROJECT, command, events, weights

TRAIN = PROJECT / "scripts" / "train.py"
QUICK = ["data=digits", "trainer.accelerator=cpu", "model=mlp", "callbacks.progress=null"]
QUICK += ["scenario.operation=noise 1", "model.network.dropout=0.3", "trainer.num_sanity_val_steps=1"]

# A command that gets a signal when one of its functions is entered for the first time.
SIGNALLED = """
import importlib, os, runpy, sys
number, module, name = int(sys.argv[1]), *sys.argv[2].split(":")
sys.argv = sys.argv[3:]

def announced(function, condition=lambda *_, **__: True):
    def wrapper(*args, **kwargs):
        if not sent:
            sent.append(os.kill(os.getpid(), number))
        return function(*args, **kwargs)
    return wrapper

sent = []
if module == "import":
    class Finder:
        def find_spec(self, wanted, path, target=None):
            if wanted == name and not sent:
                sent.append(os.kill(os.getpid(), number))
    sys.meta_path.insert(0, Finder())
else:
    owner = importlib.import_module(module)
    *parts, last = name.split(".")
    for part in parts:
        owner = getattr(owner, part)
    setattr(owner, last, announced(getattr(owner, last)))
runpy.run_path(sys.argv[0], run_name="__main__")
"""

BEFORE = {
    "import of torch": "import:torch",
    "import of hydra": "import:hydra",
    "overrides are read": "rowgrad.training.command:readable",
    "config is read": "rowgrad.training.command:config_to_train",
    "data": "rowgrad.data.datamodule:ImageData.__init__",
    "trainer": "rowgrad.training.train:make_trainer",
}
WITHIN = {
    "claim": "rowgrad.folders:RunFolder.claim",
    "set-up": "rowgrad.data.datamodule:ImageData.setup",
    "sanity validation": "lightning.pytorch:Callback.on_sanity_check_start",
    "sanity batch": "rowgrad.model.classifier:RowClassifier.validation_step",
    "step": "rowgrad.model.classifier:RowClassifier.training_step",
    "final validation": "rowgrad.training.checkpoints:Checkpoints.on_validation_end",
    "pictures": "rowgrad.watch.pictures:Pictures.on_train_end",
    "after training": "rowgrad.training.train:Training._measure",
    "test": "rowgrad.model.classifier:RowClassifier.test_step",
}


def signalled(number, moment, *arguments, cwd, **others):
    return command("-c", SIGNALLED, int(number), moment, TRAIN, *arguments, cwd=cwd, **others)


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def ended_well(result, number):
    """One plain line, and the exit code of an interruption."""
    assert result.returncode == 130, result.stderr
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"{signal.Signals(number).name}: ")


ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP]
MATRIX = [(moment, ALL[place % 5]) for place, moment in enumerate(BEFORE)] + [("data", signal.SIGTERM)]


@pytest.mark.parametrize(("moment", "number"), MATRIX)
def test_a_signal_before_a_run_has_a_folder_leaves_nothing(tmp_path, moment, number):
    imports = {"imports": LIGHT[1:]} if moment.startswith("import") else {}
    result = signalled(number, BEFORE[moment], *QUICK, "trainer.max_steps=3", cwd=tmp_path, **imports)
    ended_well(result, number)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of an epoch that nothing disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    result = command(TRAIN, *QUICK, "trainer.max_epochs=1", "hydra.run.dir=run", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "run"


MATRIX = [(moment, ALL[place % 5]) for place, moment in enumerate(WITHIN)]
MATRIX += [("test", signal.SIGINT), ("test", signal.SIGTERM), ("test", signal.SIGHUP), ("sanity batch", signal.SIGTERM)]
MATRIX += [("step", signal.SIGHUP), ("claim", signal.SIGTERM)]


@pytest.mark.parametrize(("moment", "number"), MATRIX)
def test_a_signal_at_any_moment_of_a_run_is_recorded_and_the_run_goes_on_to_the_last_bit(
    alone, tmp_path, moment, number
):
    run = tmp_path / "run"
    result = signalled(number, WITHIN[moment], *QUICK, "trainer.max_epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    ended_well(result, number)
    assert summary(run)["status"] == "interrupted"
    assert not (run / ".lock").exists()
    again = command(TRAIN, "resume=run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (run / "row_gradients.csv").read_bytes() == (alone / "row_gradients.csv").read_bytes()
    assert all(weights(run)[key].equal(value) for key, value in weights(alone).items())
    ignored = {"train/seconds"}
    assert {k: v for k, v in summary(run).items() if k not in ignored} == {
        k: v for k, v in summary(alone).items() if k not in ignored
    }
    assert events(run) == events(alone)


def test_a_signal_during_the_validation_after_training_is_one_too(tmp_path):
    moment, mid_epoch = "rowgrad.model.classifier:RowClassifier.validation_step", "trainer.max_steps=3"
    result = signalled(signal.SIGTERM, moment, *QUICK[:-1], mid_epoch, "hydra.run.dir=run", cwd=tmp_path)
    ended_well(result, signal.SIGTERM)
    assert summary(tmp_path / "run")["status"] == "interrupted"
    assert summary(tmp_path / "run")["train/steps"] == 3


def test_what_comes_when_the_run_is_done_leaves_it_done(tmp_path):
    moment = "rowgrad.training.train:Training.close"
    result = signalled(signal.SIGTERM, moment, *QUICK, "trainer.max_steps=3", "hydra.run.dir=run", cwd=tmp_path)
    ended_well(result, signal.SIGTERM)
    assert summary(tmp_path / "run")["status"] == "done"


def test_a_hangup_that_was_ignored_on_entry_stays_ignored(tmp_path):
    code = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{SIGNALLED}"  # as nohup does
    moment = WITHIN["step"]
    arguments = [int(signal.SIGHUP), moment, TRAIN, *QUICK, "trainer.max_steps=3", "hydra.run.dir=run"]
    result = command("-c", code, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert summary(tmp_path / "run")["status"] == "done"


def test_a_terminal_that_hangs_up_twice_is_one_signal(tmp_path):
    once = "sent.append(os.kill(os.getpid(), number))"
    twice = SIGNALLED.replace(once, f"{once}; os.kill(os.getpid(), number)")
    arguments = [int(signal.SIGHUP), WITHIN["step"], TRAIN, *QUICK, "trainer.max_steps=3", "hydra.run.dir=run"]
    result = command("-c", twice, *arguments, cwd=tmp_path)
    ended_well(result, signal.SIGHUP)
    assert summary(tmp_path / "run")["status"] == "interrupted"


# ---- sweeps


SWEPT = ["import of torch", "data", "trainer", "claim", "sanity batch", "step", "pictures", "test"]
MATRIX = [((BEFORE | WITHIN)[moment], ALL[place % 5]) for place, moment in enumerate(SWEPT)]


@pytest.mark.parametrize(("moment", "number"), MATRIX)
def test_a_signal_at_any_moment_of_a_job_is_recorded_and_the_sweep_goes_on_when_it_is_asked_to(
    tmp_path, moment, number
):
    jobs = [tmp_path / "sweep" / f"seed-{seed}" for seed in (0, 1)]
    imports = {"imports": LIGHT} if moment.startswith("import") else {}
    arguments = ["-m", *QUICK, "trainer.max_steps=3", "seed=0,1", "hydra.sweep.dir=sweep"]
    result = signalled(number, moment, *arguments, cwd=tmp_path, **imports)
    assert result.returncode == 130, result.stderr
    assert "Traceback" not in result.stderr
    assert "sweep          sweep: 1 interrupted\n" in result.stdout
    assert "go on          python scripts/train.py sweep.resume=sweep\n" in result.stdout
    assert summary(jobs[0])["status"] == "interrupted"
    assert not jobs[1].exists()
    again = command(TRAIN, "sweep.resume=sweep", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "sweep          sweep: 2 done\n" in again.stdout


def test_a_signal_while_a_sweep_is_reported_lets_it_end_with_its_report(tmp_path):
    moment = "rowgrad.results.report:write_report"
    arguments = ["-m", *QUICK, "trainer.max_steps=3", "seed=0,1", "hydra.sweep.dir=sweep"]
    result = signalled(signal.SIGTERM, moment, *arguments, cwd=tmp_path)
    ended_well(result, signal.SIGTERM)
    assert "sweep          sweep: 2 done\n" in result.stdout
    assert (tmp_path / "sweep" / "report" / "report.html").is_file()


# ---- a reader that goes away


UNREAD = """
import os, runpy, sys
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["train.py", *QUICK, "trainer.max_steps=3", "hydra.run.dir={cwd}/run"],
        ["train.py", "-m", *QUICK, "trainer.max_steps=3", "seed=0,1", "hydra.sweep.dir={cwd}/sweep"],
        ["train.py", "--help"],
        ["evaluate.py", "{alone}"],
        ["report.py", "{alone}", "--format", "md"],
        ["two_rows.py"],
    ],
)
def test_a_command_whose_reader_is_gone_goes_on_in_silence(alone, tmp_path, arguments):
    script, *others = (word.format(cwd=tmp_path, alone=alone) for word in arguments)
    result = command("-c", UNREAD, PROJECT / "scripts" / script, *others, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    for folder in (tmp_path / "run", *tmp_path.glob("sweep/seed-*")):
        assert not folder.exists() or summary(folder)["status"] == "done"
