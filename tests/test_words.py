"""What people type wrong, and only torch, the data or a class know: one plain line, or a note that says so."""

import pytest
import torch
from conftest import TRAIN, done, mistake, refused, summary

import rowgrad

TINY = ["data=digits", "model=mlp", "trainer.accelerator=cpu", "callbacks.progress=null", "callbacks.pictures=null"]

WRONG = {
    "data.batch_size=1298": "data.batch_size=1298 is larger than the 1297 training images of digits.",
    "+trainer.foo=1": "trainer.foo=1 cannot be had here: Trainer.__init__() got an unexpected keyword argument 'foo'",
    "+logger.tensorboard.foo=1": "logger.tensorboard: Logger.__init__() got an unexpected keyword argument 'foo'",
    "+model.network.foo=1": "model.network: MLP.__init__() got an unexpected keyword argument 'foo'",
    "scenario.operation=RandomFoo": "scenario.operation=RandomFoo: there is no operation 'RandomFoo'.",
    "model.network._target_=os.system": "model.network: ",
    "+trainer.fast_dev_run=often": "trainer.fast_dev_run=often cannot be had here: ",
    "+trainer.limit_train_batches=1.5": "trainer.limit_train_batches=1.5 cannot be had here: ",
    "trainer.devices=0": "trainer.devices=0, trainer.precision=32-true cannot be had here: ",
    "model.network.depth=3": "Key 'depth' is not in struct. Accepted: _target_, hidden, dropout; +KEY=VALUE ",
    "trainer.accelerator=tpu": "cannot be had here: ",
    "model=null": "Config group override must be a string or a list. Got NoneType",
    "corruption=3": "Config group override must be a string or a list. Got int",
    "+scenario.nonsense=1": "scenario.nonsense is unknown. Accepted: name, rows, operation,",
    "+model.nonsense=1": "model.nonsense is unknown. Accepted: name, network,",
    "seed=4294967296": "seed=4294967296 is not a whole number from 0 to 4294967295.",
    "scenario.operation='blur 0'": "scenario.operation=blur: sigma=0.0 is not a number above 0.",
    "scenario.operation='blur -1'": "scenario.operation=blur: sigma=-1.0 is not a number above 0.",
    "scenario.operation='noise nan'": "scenario.operation=noise nan: nan is not a finite number.",
    "scenario.operation='shift inf'": "scenario.operation=shift inf: inf is not a finite number.",
    "scenario.operation='RandomRotation inf'": "scenario.operation=RandomRotation inf: inf is not a finite number.",
    "scenario.operation='noise -1'": "scenario.operation=noise: std=-1.0 is not a number of at least 0.",
    "scenario.operation='static -1'": "scenario.operation=static: std=-1.0 is not a number of at least 0.",
    "scenario.operation=ToPILImage": "scenario.operation: ToPILImage() does not take images: pic should be 2/3 dim",
    "scenario.operation=MixUp": "scenario.operation: MixUp(",
    "scenario.operation='Lambda 3'": "scenario.operation: Lambda(",
    "model.network.hidden=[-1]": "model.network.hidden=[-1] is not a list of whole numbers of at least 1.",
    "model.network.hidden=[0]": "model.network.hidden=[0] is not a list of whole numbers of at least 1.",
    "model.network.hidden=3": "model.network.hidden=3 is not a list of whole numbers of at least 1.",
    "model.network.dropout=nan": "model.network.dropout=nan is not a number from 0 to below 1.",
    "optimizer.algorithm.betas=[0.9]": "optimizer.algorithm: IndexError: list index out of range",
    "optimizer.algorithm.betas=[0.9,2]": "optimizer.algorithm: Invalid beta parameter at index 1: 2",
    "optimizer.algorithm={_target_:torch.nn.Identity}": "optimizer.algorithm",
    "model.network={_target_:torch.nn.Identity}": "model.network gives (2, 1, 28, 28) for 2 images. Accepted: (2, 10).",
    "+model.metrics.m={_target_:torch.nn.Identity}": "model.metrics.m is a Identity. Accepted: a torchmetrics.",
    "+model.metrics.m=3": "model.metrics.m=3 names no _target_.",
    "+trainer.profiler={_target_:torch.nn.Identity}": "trainer.profiler is a Identity. Accepted: a lightning.pytorch.",
    "+callbacks.c={_target_:torch.nn.Identity}": "callbacks.c is a Identity. Accepted: a lightning.pytorch.",
    "+logger.l={_target_:torch.nn.Identity}": "logger.l is a Identity. Accepted: a lightning.pytorch.loggers.logger.",
    "data.shift=5000": "data.shift=5000 leaves nothing of images of 28×28. Accepted: 0 to 27.",
    "scenario=augment,baseline": "scenario=augment,baseline has several values: -m before it sweeps over them",
    "seed=1,2": "seed=1,2 has several values: -m before it sweeps over them",
    "trainer.num_nodes=2": "trainer.num_nodes=2 needs the same command on 2 machines",
    "hydra.run.dir='{0}/file'": "File exists",
    "hydra.run.dir='{0}/file/x'": "Not a directory",
    "hydra.run.dir='{0}/" + "x" * 300 + "'": "File name too long",
    "trainer={max_epochs:-1}": "optimizer.schedule=one_cycle needs an end: trainer.max_epochs or trainer.max_steps.",
}


if not torch.cuda.is_available():
    WRONG["trainer.accelerator=gpu"] = "trainer.accelerator=gpu, trainer.devices=1, trainer.precision=32-true cannot be"


@pytest.mark.parametrize("typed", WRONG, ids=lambda typed: typed[:60])
def test_a_mistake_is_told_in_a_plain_line_before_anything_is_written(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    words = mistake(*TINY, typed.replace("{0}", str(tmp_path)))
    assert WRONG[typed] in words
    assert len(words.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_a_network_without_channels_is_told_in_a_plain_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "model.network.channels=[] is not a list of one or more whole numbers of at least 1."
    assert mistake(*TINY, "model=cnn", "model.network.channels=[]") == words


def test_null_and_none_switch_a_group_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = rowgrad.train(*TINY, "corruption=null", "logger=null", "trainer.max_steps=1")
    assert run.config.corruption.name == "none"
    assert not run.folder.events.exists()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("hydra.run.dir=", "hydra.run.dir= is empty. Without it, a run gets a folder below logs."),
        ("hydra.run.dir=/dev/null", "File exists: "),
    ],
)
def test_a_command_that_cannot_be_meant_trains_nothing(tmp_path, typed, words):
    assert words in refused(TRAIN, *TINY, typed, cwd=tmp_path)
    assert not list(tmp_path.rglob("*.*"))


NOTED = {
    "scenario.rows='0:99'": "note scenario.rows=0:99 was cut to all rows: an image has 28 rows.",
    "scenario.rows='20:99'": "note scenario.rows=20:99 was cut to rows 20–27: an image has 28 rows.",
    "sweep=joblib": "note sweep=joblib is for sweeps, and this is one run. -m sweeps.",
    "experiment=smoke": "note experiment=smoke is a sweep over scenario, scenario.detach, corruption: this is one run",
}


@pytest.mark.parametrize("typed", NOTED)
def test_what_is_overruled_or_cut_is_said(tmp_path, typed):
    result = done(TRAIN, *TINY, "data.batch_size=500", "hydra.run.dir=run", typed, cwd=tmp_path)
    assert NOTED[typed] in " ".join(result.stdout.split())
    assert summary(tmp_path / "run")["status"] == "done"
