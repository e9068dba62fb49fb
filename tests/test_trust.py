"""Somebody else's folder, evaluated, resumed, compared: it runs nothing, tells no secret, writes nowhere else."""

import json
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import EVALUATE, REPORT, TRAIN, command, configure, done, mistake, refused, summary, train
from omegaconf import OmegaConf

from rowgrad.errors import UserError
from rowgrad.folders import RunFolder
from rowgrad.results.analysis import load_analyses
from rowgrad.results.opening import open_run
from rowgrad.results.run import Run
from rowgrad.training.build import CLASSES, MODULES, WRITERS, folder_whitelist, make_target
from rowgrad.training.jobs import command_to_repeat
from rowgrad.training.naming import what_is_trained
from rowgrad.training.settings import read_saved_settings
from rowgrad.training.train import load_run

_, row_atlas, *_ = load_analyses()  # repair, row_atlas, truncation, vanishing
TINY = ["data=digits", "trainer.accelerator=cpu", "model=mlp", "callbacks.pictures=null", "callbacks.progress=null"]
TINY += ["trainer.max_steps=2", "callbacks.histograms=null"]


def calling(name, target):
    """A module of this test's that leaves a file where it is called."""
    return f"import pathlib\ndef {name}(*args, **kwargs):\n    pathlib.Path({str(target)!r}).write_text('called')\n"


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest") / "run"
    train(configure(*TINY), folder)
    return folder


@pytest.fixture
def hostile(honest, tmp_path):
    """A copy of a run that can be spoilt: `hostile(key=value)` sets keys of its config."""

    def make(**values):
        folder = tmp_path / "theirs"
        shutil.copytree(honest, folder)
        config = OmegaConf.load(folder / "config.yaml")
        for key, value in values.items():
            OmegaConf.update(config, key.replace("__", "."), value, force_add=True, merge=False)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
        return folder

    return make


def resumed(folder):
    """What resuming the folder would build, built."""
    from rowgrad.training.train import Training

    config = RunFolder(folder).read_config()
    return Training(config, read_saved_settings(config, ()), RunFolder(folder), resume=True)


# ---- what a _target_ may name

# Each of these has run code, or read or written a file of the attacker's choice, where a pattern was trusted.
CODE = [
    {"_target_": "torch.utils.collect_env.run", "command": "touch called"},
    {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "evil", "source": "local"},
    {"_target_": "torch.load", "f": "evil.pt", "weights_only": False},
    {"_target_": "torch.nn.init.warnings.os.system", "command": "touch called"},
    {"_target_": "torch.optim.torch.hub.load", "repo_or_dir": ".", "model": "evil", "source": "local"},
    {"_target_": "torch.nn.functional.torch.hub.load", "repo_or_dir": ".", "model": "evil", "source": "local"},
    {"_target_": "torch.nn.Module.apply", "self": 1, "fn": {"_target_": "evil.call", "_partial_": True}},
    {"_target_": "torchvision.transforms.v2.functional._utils.torch.load", "f": "evil.pt"},
    {"_target_": "torchvision.transforms.v2.Lambda", "lambd": {"_target_": "os.system", "_partial_": True}},
    {
        "_target_": "torchvision.transforms.v2.Lambda",
        "lambd": {"_target_": "hydra.utils.get_method", "path": "os.system"},
    },
    {"_target_": "torchmetrics.text.BERTScore", "model_name_or_path": "evil"},
    {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "/tmp/elsewhere"},
    {"_target_": "lightning.pytorch.callbacks.LambdaCallback", "setup": {"_target_": "evil.call", "_partial_": True}},
    {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "dirpath": "/tmp", "filename": "elsewhere"},
    {"_target_": "lightning.pytorch.loggers.csv_logs.CSVLogger", "save_dir": "/tmp/elsewhere"},
    {"_target_": "rowgrad.files.write_whole", "path": "elsewhere", "text": "called"},
    {"_target_": "rowgrad.train"},
    {"_target_": "rowgrad.errors.sys.exit"},
    {"_target_": "os.system", "command": "touch called"},
    {"_target_": "os.system", "_args_": ["touch called"], "_execution_whitelist_": ["os.*"]},
    {"_target_": "builtins.eval", "source": "1"},
    {"_target_": "evil.call"},
    {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "evil.call"}]},
    {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "evil.call", "_partial_": True}]},
    {"_target_": "torch.nn.Sequential", "_args_": [{"a": [{"_target_": "evil.call"}]}]},
    {"_target_": "*"},
    {"_target_": "torch.nn"},
    {"_target_": "torch.nn.functional"},
    {"_target_": ""},
]


@pytest.mark.parametrize("node", CODE, ids=lambda node: node["_target_"] or "nothing")
def test_the_config_of_a_folder_calls_nothing_but_the_classes_of_the_list(node, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(calling("call", tmp_path / "called"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^model\.network: "):
        make_target(node, "model.network", ())
    assert not (tmp_path / "called").exists()
    assert "evil" not in sys.modules  # importing it would run its code


def test_the_list_holds_classes_of_their_kinds_and_no_function():
    names = folder_whitelist()
    assert {*CLASSES, *WRITERS} <= set(names)
    assert all(any(name.startswith(f"{module}.") for name in names) for module in MODULES)
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert isinstance(getattr(import_module(module), attribute), type), name


def test_a_package_of_ones_own_is_called_if_it_is_trusted_or_typed(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(calling("call", tmp_path / "called"))
    monkeypatch.syspath_prepend(tmp_path)
    for trusted in (("mine",), None):
        make_target({"_target_": "mine.call"}, "data.source", trusted)
        (tmp_path / "called").unlink()


WRITING = [
    {"_target_": "rowgrad.watch.recorder.RowGradientRecorder", "dirpath": "/tmp/elsewhere"},
    {"_target_": "rowgrad.watch.loggers.Logger", "save_dir": "/tmp/elsewhere"},
    {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "/tmp/elsewhere"},
    {"_target_": "lightning.pytorch.loggers.CSVLogger", "_args_": ["/tmp/elsewhere"]},
    {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "../../elsewhere"},
    {"_target_": "lightning.pytorch.loggers.CSVLogger", "version": "/tmp/elsewhere"},
    {"_target_": "lightning.pytorch.loggers.WandbLogger", "settings": {"base_url": "https://evil.example"}},
]


@pytest.mark.parametrize("node", WRITING, ids=str)
def test_an_argument_that_leads_out_of_the_folder_is_refused_by_name(node):
    argument = list(node)[1]
    for hidden in (node, {"_target_": "torch.nn.Sequential", "_args_": [{"x": node}]}):
        with pytest.raises(UserError, match=rf"^logger\.x\.{argument}"):
            make_target(hidden, "logger.x", ())


KEYS = {
    "scenario.operation": "evaluated",
    "model.network": "evaluated",
    "model.metrics.x": "evaluated",
    "optimizer.algorithm": "evaluated",
    "data.source": "evaluated",
    "callbacks.x": "resumed",
    "logger.x": "resumed",
    "trainer.profiler": "resumed",
}


@pytest.mark.parametrize("key", KEYS)
def test_no_key_of_somebodys_config_calls_what_it_likes(hostile, tmp_path, monkeypatch, key):
    (tmp_path / "evil.py").write_text(calling("call", tmp_path / "called"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = hostile(**{key: {"_target_": "evil.call"}})
    for opened in (load_run, resumed) if KEYS[key] == "evaluated" else (resumed,):
        with pytest.raises(UserError, match=r"'evil\.call' is not in.*trust=\[evil\]"):
            opened(folder)
    assert not (tmp_path / "called").exists()


def test_the_attacks_that_ran_code_are_one_plain_line_and_a_trusted_package_is_called(hostile, tmp_path):
    (tmp_path / "hubconf.py").write_text(calling("evil", tmp_path / "called"))
    target = {"_target_": "torch.hub.load", "repo_or_dir": str(tmp_path), "model": "evil", "source": "local"}
    folder = hostile(scenario__operation=target)
    for arguments in ([EVALUATE, folder], [TRAIN, f"resume={folder}", "trainer.max_steps=3"]):
        line = refused(*arguments, cwd=tmp_path)
        assert "scenario.operation: Target 'torch.hub.load' is not in the Hydra execution whitelist" in line
    assert not (tmp_path / "called").exists()
    command(EVALUATE, folder, "--trust", "torch", cwd=tmp_path)
    assert (tmp_path / "called").exists()


# ---- what is read

OWN = "may name its own keys only"
RESOLVED = ["${oc.env:ROWGRAD_SECRET}", "${oc.decode:${oc.env:ROWGRAD_SECRET}}", "${run_folder:null,a}", "a${now:%Y}"]


@pytest.mark.parametrize("value", RESOLVED)
def test_a_config_resolves_nothing_outside_itself(hostile, value):
    with pytest.raises(UserError, match=OWN):
        RunFolder(hostile(scenario__name=value)).read_config()


def test_no_secret_of_the_environment_gets_into_what_is_printed(hostile, tmp_path):
    folder = hostile(scenario__name=RESOLVED[0])
    for arguments in ([REPORT, folder, "--format", "md"], [EVALUATE, folder], [TRAIN, f"resume={folder}"]):
        line = refused(*arguments, cwd=tmp_path, env={"ROWGRAD_SECRET": "tell-nobody"})
        assert OWN in line
        assert "tell-nobody" not in line


def test_a_config_may_name_its_own_keys_and_puts_no_interpolation_together(hostile):
    folder = hostile(corruption__seed="${seed}")
    assert RunFolder(folder).read_config().corruption.seed == 0
    (folder / "config.yaml").write_text(
        "a: $\nb: '{oc.env:HOME}'\nc: ${a}${b}\ndata: 1\nscenario: 1\nmodel: 1\ntrainer: 1\n"
    )
    with pytest.raises(UserError, match=OWN):
        RunFolder(folder).read_config()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: &a [1]\nscenario: [*a, *a]\nmodel: 1\ntrainer: 1\n", "YAML alias"),
        ("data: " + "x" * 1_000_001, "larger than a megabyte"),
        ("data: !!python/object/apply:os.system ['touch called']\n", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("- data\n", "is not a run's config"),
        ("data: 1\nscenario: 2\nmodel: 3\ntrainer: 4\n", "data=1 is not a group of settings"),
        ("\0\1\2", "cannot be read"),
    ],
    ids=["alias", "huge", "python", "deep", "list", "numbers", "bytes"],
)
def test_a_config_that_no_run_writes_is_one_plain_line(hostile, tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    folder = hostile()
    (folder / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_run(folder)
    assert not (tmp_path / "called").exists()


def test_another_machines_data_root_is_looked_for_here_and_never_made_up(hostile, tmp_path, monkeypatch):
    monkeypatch.delenv("MNIST_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = hostile(data__name="mnist", data__root=str(tmp_path / "not" / "here"), data__fallback="digits")
    with pytest.raises(UserError, match=r"data\.root=data: MNIST can be neither read nor downloaded there"):
        load_run(folder)  # digits in its place would be a wrong result
    assert not (tmp_path / "not").exists()


# ---- what is written

LINKS = [".lock", "config.yaml.part", "row_gradients.csv", "tensorboard", "checkpoints", "summary.json.part"]


@pytest.mark.parametrize("name", LINKS)
def test_nothing_is_written_through_a_link_in_somebodys_folder(hostile, tmp_path, name):
    outside = tmp_path / "mine"
    if name in {"tensorboard", "checkpoints"}:
        outside.mkdir()
    else:
        outside.write_text("0,keep\n1,me\n")
    before = sorted(outside.iterdir()) if outside.is_dir() else outside.read_text()
    folder = hostile()
    target = folder / name
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    target.symlink_to(outside)
    words = mistake(f"resume={folder}", "trainer.max_steps=3")
    assert f"{target} is a link that leads out of the run's folder" in words
    assert before == (sorted(outside.iterdir()) if outside.is_dir() else outside.read_text())


def test_a_pipe_in_a_folder_keeps_nobody_waiting(hostile, tmp_path):
    folder = hostile()
    (folder / "row_gradients.csv").unlink()
    os.mkfifo(folder / "row_gradients.csv")
    result = command(TRAIN, f"resume={folder}", "trainer.max_steps=3", cwd=tmp_path, timeout=60)
    assert "row_gradients.csv is neither a file nor a folder" in result.stderr


# ---- a sweep's command

REPEATED = {
    "+callbacks.x={_target_:evil.call}": "callbacks.x: Target 'evil.call' is not in",
    "scenario.operation={_target_:torch.hub.load,repo_or_dir:.,model:evil,source:local}": "'torch.hub.load' is not in",
}
REFUSED = [
    "hydra.launcher.setup=[evil]",
    "hydra/launcher=submitit_slurm",
    "hydra.searchpath=[file:///tmp/evil]",
    "hydra.job.env_set.LD_PRELOAD=evil.so",
    "+hydra.callbacks.x={_target_:evil.call}",
    "hydra.sweeper.params.model=../../evil",
    "--config-dir=/tmp/evil",
    "--config-path",
    "-cd",
    "++trust=[evil]",
    "~trust",
    "model=../../../tmp/evil",
    "model=cnn,../evil",
    "scenario@_global_=evil",
    "seed=${oc.env:HOME}",
    "+x=${oc.decode:'{a: 1}'}",
]


@pytest.mark.parametrize("word", REFUSED)
def test_a_sweeps_folder_does_not_say_what_could_start_anything(tmp_path, word):
    (tmp_path / "sweep.json").write_text(json.dumps({"command": ["-m", "seed=0,1", word]}))
    with pytest.raises(UserError, match=r"sweep\.json"):
        command_to_repeat([f"sweep.resume={tmp_path}"])


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"command": "-m seed=0"}', '{"command": [1]}', '{"command": {}}', "[" * 9999]
)
def test_a_sweeps_file_of_nonsense_is_said_plainly(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=r"holds no sweep's command|is not a sweep's folder"):
        command_to_repeat([f"sweep.resume={tmp_path}"])


def test_a_sweep_that_is_repeated_calls_only_what_is_known_or_trusted(tmp_path):
    (tmp_path / "evil.py").write_text(calling("call", tmp_path / "called"))
    for number, (word, words) in enumerate(REPEATED.items()):
        folder = tmp_path / f"theirs{number}"
        folder.mkdir()
        typed = what_is_trained([*TINY, "seed=0,1", word])
        content = {"command": ["-m", "trust=[evil]", *TINY, "seed=0,1", word], "overrides": typed}
        content["common"] = [override for override in typed if override != "seed=0,1"]
        (folder / "sweep.json").write_text(json.dumps(content))
        result = command(TRAIN, f"sweep.resume={folder}", cwd=tmp_path)
        assert result.returncode == 1
        assert words in result.stderr
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "called").exists()
    command(TRAIN, f"sweep.resume={tmp_path / 'theirs0'}", "trust=[evil]", cwd=tmp_path)
    assert (tmp_path / "called").exists()


# ---- what is shown


@pytest.fixture(scope="module")
def reported(honest, tmp_path_factory):
    """A report of a run whose folder and network are named like markup and formulas, and of one without checkpoints."""
    root = tmp_path_factory.mktemp("reported")
    named, damaged = root / "[/x] :smile: $", root / "damaged"
    for folder in (named, damaged):
        shutil.copytree(honest, folder)
    config = OmegaConf.load(named / "config.yaml")
    config.model.network.name = "[/x]$\\frac$ $_$ <script>alert(1)</script>"
    OmegaConf.save(config, named / "config.yaml")
    for file in (damaged / "checkpoints").iterdir():
        file.write_bytes(b"garbage")
    return done(REPORT, named, damaged, "--out", root / "out", "--figures", root / "figures", cwd=root), root


def test_no_name_in_a_folder_is_taken_for_markup_or_a_formula(reported):
    _, root = reported
    assert "<script>alert(1)" not in (root / "out" / "report.html").read_text()


def test_a_damaged_checkpoint_among_the_runs_of_a_report_is_told_and_the_others_are_shown(reported):
    result, root = reported
    assert f"{root / 'damaged'}: no checkpoint can be read, so its θ is not shown." in result.stderr
    assert (root / "figures" / "learnt_rows.png").is_file()


@pytest.mark.parametrize("name", ["../../outside", "a/b", "[/x]", ".hidden", "", "x" * 300, "a b", "$x$"])
def test_a_scenarios_name_is_a_folders_name_and_nothing_else(tmp_path, monkeypatch, name):
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert f"scenario.name={name} is not a name" in mistake(*TINY, f"scenario.name='{name}'")
    if name.startswith(".."):  # the command makes a folder before it trains
        assert f"scenario.name={name} is not a name" in refused(TRAIN, *TINY, f"scenario.name='{name}'", cwd=inner)
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "b", inner]


def test_a_path_that_looks_like_markup_is_shown_as_it_is(tmp_path):
    result = done(TRAIN, *TINY, "hydra.run.dir='logs/[/x] [red]:smile:'", cwd=tmp_path)
    assert "logs/[/x] [red]:smile:" in result.stdout


@pytest.mark.parametrize(
    "spoilt", [{"test/acc": "high"}, {"train/seconds": [1]}, {"cut_fraction": {}}, {"status": 3}], ids=str
)
def test_a_summary_of_nonsense_is_named(hostile, spoilt):
    folder = hostile()
    (folder / "summary.json").write_text(json.dumps(summary(folder) | spoilt))
    with pytest.raises(UserError, match=r"summary\.json cannot be read"):
        open_run(folder)
    assert "summary.json cannot be read" in mistake(f"resume={folder}")


def test_a_checkpoint_that_would_run_code_when_unpickled_does_not(hostile, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "called",)

    folder = hostile()
    for name in ("last", "previous", "best"):
        torch.save({"state_dict": {}, "global_step": 1, "x": Evil()}, folder / "checkpoints" / f"{name}.ckpt")
    for opened in (load_run, resumed):
        with pytest.raises(UserError, match=r"is not a checkpoint|previous\.ckpt is damaged"):
            opened(folder)
    assert not (tmp_path / "called").exists()
    assert Run(RunFolder(folder)).summary["status"] == "done"


def test_nothing_is_downloaded_to_where_somebodys_config_says(hostile, tmp_path):
    (tmp_path / "mine").mkdir()
    folder = hostile(data__name="mnist", data__root=str(tmp_path / "mine"))
    for opened in (load_run, resumed):
        with pytest.raises(UserError, match="does not hold MNIST, and nothing is downloaded there"):
            opened(folder)
    assert row_atlas.mean_image(Run(RunFolder(folder))) is None
    assert not list((tmp_path / "mine").iterdir())


def test_repeating_somebodys_run_calls_what_is_known_or_trusted(hostile, tmp_path):
    (tmp_path / "evil.py").write_text(calling("call", tmp_path / "called"))
    folder = hostile(callbacks__x={"_target_": "evil.call"}, trust=["evil"])
    arguments = [TRAIN, f"--config-path={folder}", "--config-name=config", "hydra.run.dir=again"]
    assert "callbacks.x: Target 'evil.call' is not in" in refused(*arguments, cwd=tmp_path)
    assert not (tmp_path / "called").exists()
    command(*arguments, "trust=[evil]", cwd=tmp_path)
    assert (tmp_path / "called").exists()
