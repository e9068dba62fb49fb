"""The files and loggers of the recorder in a module that is not the project's, and its error messages."""

import csv

import pytest
from conftest import events
from foreign import Language, Segmenter, agree, expected, fit, recorded
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from rowgrad import RowGradientRecorder
from rowgrad.errors import UserError

pytestmark = [
    pytest.mark.gpu,
    # What Lightning would have these modules do better: workers, a validation loop.
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]


def test_each_of_several_loggers_gets_every_step(tmp_path):
    loggers = [CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="tensorboard", version="")]
    wanted = expected(Language(), fit(Language(), Language.batches(), tmp_path, loggers=loggers))
    agree(recorded(tmp_path / "row_gradients.csv"), wanted)
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["tap_grad_norm/row_00"]]
    for step, taps in wanted.items():
        (row,) = (row for row in rows if int(row["step"]) == step)
        assert float(row["tap_grad_norm/row_08"]) == pytest.approx(taps["tap"][8], rel=1e-3)
        assert dict(events(tmp_path)["tap_grad_norm/row_08"])[step] == pytest.approx(taps["tap"][8], rel=1e-3)


def test_without_a_logger_each_run_has_a_csv_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def train():
        fit(Language(), Language.batches(), tmp_path, loggers=False, recorder=RowGradientRecorder())

    train()
    first = (tmp_path / "row_gradients.csv").read_bytes()
    train()
    assert (tmp_path / "row_gradients.csv").read_bytes() == first
    assert (tmp_path / "row_gradients-1.csv").read_bytes() == first


def test_the_file_of_a_run_with_other_taps_is_kept(tmp_path):
    fit(Segmenter(), Segmenter.batches(2), tmp_path, loggers=False)
    first = (tmp_path / "row_gradients.csv").read_bytes()
    fit(Language(), Language.batches(), tmp_path, loggers=False)
    assert (tmp_path / "row_gradients.csv").read_bytes() == first
    assert recorded(tmp_path / "row_gradients-1.csv")[0].keys() == {"tap"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modules": "dwon"}, "modules=dwon is not a submodule of Segmenter; did you mean down?"),
        ({"modules": "up.2"}, r"modules=up.2 is not a submodule of Segmenter; did you mean up.\d or up.\d or up"),
        (
            {"modules": {"down": {"dimm": 1}}},
            "callbacks.recorder.modules.down.dimm is unknown; did you mean dim. Accepted: argument,",
        ),
        (
            {"modules": {"down": {"rows": 0}}},
            "callbacks.recorder.modules.down.rows=0 is not a whole number of at least",
        ),
        ({"layers": 0}, "callbacks.recorder.layers=0 is not true, false, or how many"),
        ({"modules": 3}, "callbacks.recorder.modules=3 is not the name of a submodule, a list of names, or a mapping"),
        ({"pairs": [["tap", "tip"]]}, "pairs: tip is not a tap; did you mean tap"),
        ({"pairs": ["tap"]}, "callbacks.recorder.pairs=.* is not a list of pairs of taps"),
        ({"quantities": ["tip_grad_norm"]}, "has no tip_grad_norm; did you mean tap_grad_norm"),
        ({"quantities": ["norm"]}, "is not a list of one or more of input_grad_norm, row_grad_norm, row_update_norm"),
        ({"quantities": []}, "is not a list of one or more of"),
        ({"every_n_steps": 0}, "callbacks.recorder.every_n_steps=0 is not a whole number of at least 1"),
        ({"flush_every_n_steps": 1.5}, "callbacks.recorder.flush_every_n_steps=1.5"),
    ],
)
def test_a_mistake_has_a_message_of_one_line(tmp_path, settings, words):
    with pytest.raises(UserError, match=words) as error:
        fit(Segmenter(), Segmenter.batches(), tmp_path, recorder=RowGradientRecorder(dirpath=tmp_path, **settings))
    assert len(str(error.value).splitlines()) == 1


def test_an_error_while_writing_loses_no_step(tmp_path):
    class Broken(CSVLogger):
        def log_metrics(self, metrics, step=None):
            if "tap_grad_norm/row_00" in metrics:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(Segmenter(), Segmenter.batches(), tmp_path, loggers=[Broken(tmp_path)])
    assert list(recorded(tmp_path / "row_gradients.csv")) == [0, 1, 2]  # a flush


def test_a_module_without_taps_is_refused_with_advice(tmp_path):
    class Bare(Language):
        def __init__(self):
            super().__init__()
            self.tap = nn.Identity()

    with pytest.raises(
        UserError, match=r"finds no tap in Bare: put self.tap = RowTap\(\) into __init__ and x = self.tap"
    ):
        fit(Bare(), Language.batches(), tmp_path)
    with pytest.raises(UserError, match="modules=embed: it gets no floating-point tensor with rows"):
        fit(Bare(), Language.batches(), tmp_path, recorder=RowGradientRecorder(modules="embed", dirpath=tmp_path))
