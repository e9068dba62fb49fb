"""Where the records of anybody's module go, and what its author is told when something is wrong."""

import csv

import pytest
from conftest import events
from foreign import Language, Segmenter, agree, expected, fit, recorded
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from torch import nn

from rowgrad import RowGradientRecorder
from rowgrad.errors import UserError

pytestmark = [
    pytest.mark.gpu,
    # What Lightning would have these modules do better: workers, a validation loop.
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]


def loggers(folder):
    return {
        "csv": CSVLogger(folder, name="csv"),
        "wandb": WandbLogger(save_dir=folder, offline=True, project="test"),
        "tensorboard": TensorBoardLogger(folder, name="tensorboard", version=""),
    }


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:wandb.*", "ignore::pydantic.warnings.PydanticDeprecationWarning"
)
def test_any_logger_gets_every_step_and_several_get_it_too(tmp_path):
    chosen = loggers(tmp_path)
    module = Language()
    heard = []
    chosen["wandb"].log_metrics = lambda metrics, step=None: heard.append((step, dict(metrics)))
    tape = fit(module, Language.batches(), tmp_path, loggers=list(chosen.values()))
    wanted = expected(module, tape)
    agree(
        recorded(tmp_path / "row_gradients.csv"),
        wanted,
    )
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["tap_grad_norm/row_00"]]
    told = {step: metrics for step, metrics in heard if "tap_grad_norm/row_00" in metrics}
    for step, taps in wanted.items():
        (row,) = (row for row in rows if int(row["step"]) == step)
        assert float(row["tap_grad_norm/row_08"]) == pytest.approx(taps["tap"][8], rel=1e-3)
        assert told[step]["tap_grad_norm/row_08"] == pytest.approx(taps["tap"][8], rel=1e-3)
        assert dict(events(tmp_path)["tap_grad_norm/row_08"])[step] == pytest.approx(taps["tap"][8], rel=1e-3)


def test_without_a_logger_there_is_the_csv_file_and_no_run_writes_over_anothers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def train():
        fit(Language(), Language.batches(), tmp_path, loggers=False, recorder=RowGradientRecorder())

    train()
    first = (tmp_path / "row_gradients.csv").read_bytes()
    train()
    assert (tmp_path / "row_gradients.csv").read_bytes() == first
    assert (tmp_path / "row_gradients-1.csv").read_bytes() == first


def test_a_folder_that_holds_the_file_of_other_taps_keeps_it(tmp_path):
    fit(Segmenter(), Segmenter.batches(2), tmp_path, loggers=False)
    first = (tmp_path / "row_gradients.csv").read_bytes()
    fit(Language(), Language.batches(), tmp_path, loggers=False)
    assert (tmp_path / "row_gradients.csv").read_bytes() == first
    assert recorded(tmp_path / "row_gradients-1.csv")[0].keys() == {"tap"}


def test_the_file_stands_beside_the_loggers_own(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="mine")
    fit(Language(), Language.batches(), tmp_path, loggers=logger, recorder=RowGradientRecorder())
    assert len(recorded(tmp_path / "mine" / "version_0" / "row_gradients.csv")) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modules": "dwon"}, "modules=dwon is not a submodule of Segmenter; did you mean down?"),
        ({"modules": "up.2"}, r"modules=up.2 is not a submodule of Segmenter; did you mean up.\d or up.\d or up"),
        ({"modules": 3}, "callbacks.recorder.modules=3 is not the name of a submodule, or a list of them."),
        ({"pairs": [["tap", "tip"]]}, "pairs: tip is not a tap; did you mean tap"),
        ({"pairs": ["tap"]}, "callbacks.recorder.pairs=.* is not a list of pairs of taps"),
        ({"pairs": [["tap", "neck.tap"]]}, "pairs: tap has 12 rows and neck.tap has 6: only taps of as many rows"),
        ({"quantities": ["tip_grad_norm"]}, "tip_grad_norm is not recorded here; did you mean tap_grad_norm"),
    ],
)
def test_a_mistake_is_said_in_one_line(tmp_path, settings, words):
    with pytest.raises(UserError, match=words) as error:
        fit(Segmenter(), Segmenter.batches(), tmp_path, recorder=RowGradientRecorder(dirpath=tmp_path, **settings))
    assert len(str(error.value).splitlines()) == 1


def test_a_mistake_that_shows_when_steps_are_written_loses_none(tmp_path):
    recorder = RowGradientRecorder(pairs=[["tap", "neck.tap"]], dirpath=tmp_path)
    with pytest.raises(UserError, match="only taps of as many rows"):
        fit(Segmenter(), Segmenter.batches(), tmp_path, recorder=recorder)
    assert list(recorded(tmp_path / "row_gradients.csv")) == list(range(7))


def test_a_module_without_taps_is_told_how_to_get_one(tmp_path):
    class Bare(Language):
        def __init__(self):
            super().__init__()
            self.tap = nn.Identity()

    with pytest.raises(
        UserError, match=r"finds no tap in Bare: put self.tap = RowTap\(\) into __init__ and x = self.tap"
    ):
        fit(Bare(), Language.batches(), tmp_path)
    with pytest.raises(UserError, match="modules=embed: it is given no tensor of floating point with rows"):
        fit(Bare(), Language.batches(), tmp_path, recorder=RowGradientRecorder(modules="embed", dirpath=tmp_path))
