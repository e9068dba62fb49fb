"""The wheel, and the tap and the recorder without the packages of the pipeline."""

import ast
import csv
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import PROJECT, QUICK, TRAIN, done, events

import rowgrad
from rowgrad.errors import PIPELINE
from rowgrad.files import configs_folder

pytestmark = pytest.mark.slow

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
IMPORTED_AS = {"google-crc32c": "google_crc32c", "hydra-core": "hydra", "scikit-learn": "sklearn"}
LINE = 'pip install "rowgrad[pipeline]"'

# A Python in which the packages of the pipeline are not installed: neither found nor listed.
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder

HIDDEN = {sorted({*PIPELINE, *IMPORTED_AS} - {"google-crc32c"})}


class Finder:
    invalidate_caches = PathFinder.invalidate_caches

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else PathFinder.find_spec(name, path, target)

    def find_distributions(self, context):
        return [] if context.name in HIDDEN else PathFinder.find_distributions(context)


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder()
"""

# The gradient is known: row r of the weights is r, its norm over four columns 2r, and the learning rate is 0.
TAPPED = """
import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from rowgrad import RowGradientRecorder, RowTap


class Tapped(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.tap = RowTap()
        self.weight = torch.nn.Parameter(torch.arange(6.0)[:, None].repeat(1, 4))

    def training_step(self, batch, batch_idx):
        return (self.tap(batch) * self.weight).sum() / len(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0)


module = Tapped()
module.training_step(torch.ones(3, 1, 6, 4), 0).backward()
print(module.tap.grad[0].norm(dim=1).tolist())
module.tap.reset()
pl.Trainer(
    max_epochs=2,
    accelerator="cpu",
    callbacks=[RowGradientRecorder()],
    logger=TensorBoardLogger(".", name="tensorboard", version=""),
    log_every_n_steps=1,
).fit(module, torch.utils.data.DataLoader(torch.ones(6, 1, 6, 4), batch_size=2))
"""

# Prints the files that were imported, and for each public name itself or its error.
NAMES = """
import sys

import rowgrad

print(*(module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "rowgrad"))

for name in rowgrad.__all__:
    try:
        print(name, getattr(rowgrad, name).__name__)
    except ImportError as error:
        print(name, error)
"""


def build(target, kind="build_wheel"):
    """Builds the wheel without a network, unpacks it, and returns the folder."""
    code = f"from hatchling import build; print(build.{kind}({str(target)!r}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(target / result.stdout.split()[-1]) as wheel:
        wheel.extractall(target / "unpacked")
    return target / "unpacked"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an unpacked wheel."""
    return build(tmp_path_factory.mktemp("wheel"))


def python(path, *words, cwd):
    """A new Python that finds packages in `path` first."""
    env = os.environ | {"PYTHONPATH": str(path)}
    command_ = [sys.executable, *map(str, words)]
    return subprocess.run(command_, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def without(installed, tmp_path_factory):
    """The same, beside what hides the packages of the pipeline from every Python that starts with it."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "sitecustomize.py").write_text(WITHOUT)
    return f"{folder}{os.pathsep}{installed}"


@pytest.fixture(scope="module")
def tapped(without, tmp_path_factory):
    """A folder in which tap and recorder have worked without the pipeline, and the lines that they printed."""
    folder = tmp_path_factory.mktemp("tapped")
    result = python(without, "-c", TAPPED + NAMES, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout.splitlines()


def packages(requirements):
    """The packages of some requirements, as they are imported."""
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in requirements]
    return {IMPORTED_AS.get(name, name) for name in names}


def test_the_wheel_trains_from_anywhere_what_the_clone_trains(installed, tmp_path):
    (tmp_path / "empty").mkdir()
    where = python(installed, "-c", "import rowgrad; print(rowgrad.__file__)", cwd=tmp_path / "empty")
    assert where.stdout == f"{installed}/rowgrad/__init__.py\n"
    words = [*QUICK, "trainer.max_steps=2", "scenario=augment", "seed=4"]
    result = python(installed, "-m", "rowgrad", *words, "hydra.run.dir=run", cwd=tmp_path / "empty")
    assert result.returncode == 0, result.stderr
    done(TRAIN, *words, "hydra.run.dir=clone", cwd=tmp_path)
    files = [tmp_path / "empty" / "run" / "row_gradients.csv", tmp_path / "clone" / "row_gradients.csv"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(files[0].read_text().splitlines()) == 3


def test_the_wheel_brings_tensorboards_tab_without_the_pipeline(without, installed, tmp_path):
    (entries,) = installed.glob("rowgrad-*.dist-info/entry_points.txt")
    assert "[tensorboard_plugins]\nrowgrad = rowgrad.board:Rows\n" in entries.read_text()
    code = "from rowgrad.board.plugin import PAGE; print(*sorted(file.name for file in PAGE.iterdir()))"
    result = python(without, "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == sorted(file.name for file in (PROJECT / "src/rowgrad/board/page").iterdir())


def test_the_wheels_help_and_errors_name_python_m_rowgrad(installed, tmp_path):
    result = python(installed, "-m", "rowgrad", "--help", cwd=tmp_path)
    assert result.stdout.startswith("python -m rowgrad KEY=VALUE ... trains;")
    assert "scenario: augment, baseline, modify, truncate, visualize" in result.stdout
    assert "scripts/train.py" not in result.stdout
    mistake = python(installed, "-m", "rowgrad", "scenario=augmnt", cwd=tmp_path)
    assert mistake.stderr.startswith("Cannot train: scenario=augmnt is unknown; did you mean augment?")


def test_an_editable_install_has_the_configs_of_the_clone(tmp_path):
    assert configs_folder() == PROJECT / "configs"
    unpacked = build(tmp_path, "build_editable")
    assert (unpacked / "_rowgrad.pth").read_text() == str(PROJECT / "src")
    assert not (unpacked / "rowgrad").exists()  # nothing is copied out of the clone


def test_tap_and_recorder_need_nothing_of_the_pipeline(tapped):
    folder, printed = tapped
    expected = [2.0 * row for row in range(6)]
    assert printed[0] == str(expected)
    with (folder / "tensorboard" / "row_gradients.csv").open() as file:
        head, *lines = csv.reader(file)
    assert head == ["step", *(f"tap_grad_norm/row_{row:02d}" for row in range(6))]
    assert [[float(value) for value in line] for line in lines] == [[step, *expected] for step in range(6)]
    tags = events(folder)
    for row, norm in enumerate(expected):
        assert tags[f"tap_grad_norm/row_{row:02d}"] == [(step, norm) for step in range(6)]


def test_what_needs_the_pipeline_says_how_to_install_it(tapped):
    told = dict(line.split(" ", 1) for line in tapped[1][-len(rowgrad.__all__) :])
    there = {name for name, words in told.items() if words == name}
    recorded = {"RowTap", "RowGradientRecorder", "Recorder", "Quantity", "Watched", "Draw", "UserError"}
    assert there == recorded | {"Cut", "CutFinder", "Cuts", "find_cuts", "LoggedRun", "open_run", "show"}
    for name in told.keys() - there:
        assert told[name] == f"this needs packages that are not installed ({', '.join(PIPELINE)}): {LINE}"


def test_every_command_without_the_pipeline_fails_with_one_line(without, tmp_path):
    commands = {(script, "RUN"): script.removesuffix(".py") for script in ("train.py", "evaluate.py")}
    commands |= {("two_rows.py",): "execute the article", ("-m", "rowgrad", "scenario=augment"): "train"}
    for (first, *others), action in commands.items():
        result = python(without, first if first == "-m" else PROJECT / "scripts" / first, *others, cwd=tmp_path)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith(f"Cannot {action}: this needs packages that are not installed (")
        assert result.stderr.endswith(f": {LINE}\n")
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_page_of_what_was_recorded_needs_jinja2_alone(without, installed, tapped, tmp_path):
    folder, _ = tapped
    report = [PROJECT / "scripts" / "report.py", folder / "tensorboard", "--out", tmp_path / "page.html"]
    result = python(without, *report, cwd=tmp_path)
    assert result.stderr == "Cannot report: a page needs a package that is not installed: pip install jinja2\n"
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.replace("'jinja2', ", ""))
    result = python(f"{tmp_path}{os.pathsep}{installed}", *report, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"1 run: {tmp_path / 'page.html'}\n"), result.stderr
    assert '"tap_grad_norm"' in (tmp_path / "page.html").read_text()
    figures = python(f"{tmp_path}{os.pathsep}{installed}", *report, "--figures", "f", cwd=tmp_path)
    assert figures.stderr.endswith(f": {LINE}\n")


def test_dependencies_are_what_tap_and_recorder_import(installed, tapped):
    imported, files = set(), tapped[1][-len(rowgrad.__all__) - 1].split()
    assert f"{installed}/rowgrad/watch/recorder.py" in files
    for file in files:
        for node in ast.parse(Path(file).read_text()).body:
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported |= {name.partition(".")[0] for name in names}
    assert imported - sys.stdlib_module_names - {"rowgrad"} == packages(PYPROJECT["dependencies"])
    extras = PYPROJECT["optional-dependencies"]
    assert packages(extras["pipeline"]) == set(PIPELINE)
    assert "rowgrad[pipeline]" in extras["sweep"]
