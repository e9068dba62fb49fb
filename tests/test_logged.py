"""Runs of anybody's modules: a logger's folder with `row_gradients.csv`, on its way to a page."""

import json
import re
import statistics

import lightning.pytorch as pl
import pytest
import torch
import yaml
from conftest import QUICK, REPORT, command, configure, train
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from scipy import stats
from test_page import data_in

from rowgrad import Quantity, Recorder, RowGradientRecorder, RowTap, open_run
from rowgrad.board.events import read_events
from rowgrad.errors import UserError
from rowgrad.results.logged import LoggedRun
from rowgrad.results.logged_runs import LoggedRuns, always_zero
from rowgrad.results.opening import open_runs
from rowgrad.results.run import Run
from rowgrad.results.show import Both
from rowgrad.watch.quantities import describe_quantity


class Module(pl.LightningModule):
    """Two taps of different heights, and a metric of its own."""

    def __init__(self, width: int = 4, seed: int = 0):
        super().__init__()
        self.save_hyperparameters()
        self.first, self.second = RowTap(), RowTap(kind="token", labels=["start"])
        self.weight = torch.nn.Parameter(torch.ones(6, width))

    def training_step(self, batch, batch_idx):
        x = self.first(batch[0] * self.weight)
        loss = self.second(x[:, :, :3]).square().mean()
        self.log("val_loss", float(self.global_step))
        self.log("val_acc", 0.25)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, kinds, **settings):
    data = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.rand(12, 1, 6, settings.get("width", 4))), 2
    )
    loggers = [kind(folder, name="lightning_logs") for kind in kinds]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=loggers, callbacks=[RowGradientRecorder()], log_every_n_steps=1, **quiet
    )
    trainer.fit(Module(**settings), data)


def folder_of(path, *, settings=None, metrics=None, rows=4, steps=3, zero=(), file="row_gradients.csv"):
    """A logger's folder by hand."""
    path.mkdir(parents=True, exist_ok=True)
    header = ",".join(["step", *(f"tap_grad_norm/row_{row:02d}" for row in range(rows))])
    line = ",".join("0" if row in zero else "0.5" for row in range(rows))
    (path / file).write_text("\n".join([header, *(f"{step},{line}" for step in range(steps))]) + "\n")
    if settings is not None:
        (path / "hparams.yaml").write_text(yaml.safe_dump(settings))
    if metrics is not None:
        cells = ",".join(str(value) for value in metrics.values())
        (path / "metrics.csv").write_text(f"epoch,step,{','.join(metrics)}\n0,{steps},{cells}\n")
    return path


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.parametrize("kinds", [[CSVLogger], [TensorBoardLogger], [TensorBoardLogger, CSVLogger]])
def test_a_lightning_run_is_opened_with_settings_metrics_and_all_of_its_taps(tmp_path, kinds):
    fit(tmp_path, kinds, seed=7)
    run = open_run(tmp_path / "lightning_logs" / "version_0")
    assert type(run) is LoggedRun
    assert {name: tuple(norms.shape) for name, norms in run.norms.items()} == {
        "first_grad_norm": (6, 6),
        "second_grad_norm": (6, 3),
    }
    assert (run.norms["first_grad_norm"][:, 3:] == 0).all()
    assert (run.seed, run.settings) == (7, {"seed": 7, "width": 4})
    assert [one.kind for one in run.described.values()] == ["row", "token"]
    shown = data_in(run.show())["answer"]["runs"][0]["quantities"]
    assert shown["second_grad_norm"] == {"rows": 3, "step": 5, "names": ["start"], "kind": "token"}
    assert run.metrics == {"val_loss": 5.0, "val_acc": 0.25}  # no column of a row among them
    assert run.curves(["val_loss"])["val_loss"][1] == [0, 1, 2, 3, 4, 5]


def test_each_optimizer_has_a_file_and_each_further_run_in_a_folder_is_a_run(tmp_path):
    for name in ("optimizer_0", "optimizer_1", "optimizer_0-1", "optimizer_1-1"):
        folder_of(tmp_path / "run", file=f"row_gradients.{name}.csv", steps=2 + ("1" in name))
    runs, without = open_runs([tmp_path / "run"])
    assert ([run.name for run in runs], without) == (["run", "run (2)"], [])
    names = ["optimizer_0.tap_grad_norm", "optimizer_1.tap_grad_norm"]
    assert [sorted(run.norms) for run in runs] == [names, names]
    assert [len(run.numbers[names[0]].steps) for run in runs] == [2, 3]
    assert runs[0].norms[names[0]].isnan().any(1).tolist() == [False, False, True]  # the other one's third step


def test_a_config_of_lightnings_command_line_is_no_config_of_this_project(tmp_path):
    folder = folder_of(tmp_path / "version_0")
    (folder / "config.yaml").write_text("seed_everything: 3\nmodel: {}\ndata: {}\ntrainer: {}\n")
    assert type(open_run(folder)) is LoggedRun


def test_values_that_only_python_reads_are_read_as_their_tags(tmp_path):
    folder = folder_of(tmp_path / "run")
    (folder / "hparams.yaml").write_text("lr: 0.1\nkind: !!python/object/apply:os.system ['touch taken']\n")
    assert open_run(folder).settings == {"lr": 0.1, "kind": "python/object/apply:os.system"}
    assert not (tmp_path / "taken").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [("hparams.yaml", "a: [1"), ("hparams.yaml", "a: &x 1\nb: *x"), ("row_gradients.csv", "step,a/row_00\n1,\x00\n")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, file, content):
    folder = folder_of(tmp_path / "run")
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=rf"{file} cannot be read"):
        open_run(folder)


# ---- several


@pytest.fixture
def grid(tmp_path):
    """Two widths with three seeds each, the losses known."""
    losses = {4: [0.5, 0.25, 0.75], 8: [0.375, 0.25, 0.5]}
    for width, values in losses.items():
        for seed, loss in enumerate(values):
            settings = {"net": {"width": width}, "seed": seed}
            folder_of(
                tmp_path / "logs" / f"version_{width}{seed}", settings=settings, metrics={"val_loss": loss}, zero=[1]
            )
    return LoggedRuns(open_runs([tmp_path / "logs"])[0]), losses


def test_runs_that_differ_in_the_seed_alone_are_averaged(grid):
    runs, losses = grid
    assert {name: len(members) for name, members in runs.groups().items()} == {"net.width=4": 3, "net.width=8": 3}
    table = runs.settings_table()
    told = [dict(zip(table.header, line, strict=True)) for line in table.body]
    for line, values in zip(told, losses.values(), strict=True):
        assert line["val_loss"] == f"{statistics.mean(values):.4g} ± {statistics.stdev(values):.4g}"
        assert line["tap_grad_norm: always 0"] == "1"


def test_tables_name_rows_as_the_run_does(tmp_path):
    run = folder_of(tmp_path / "run", rows=4, zero=[0, 2, 3])
    facts = {"quantities": {"tap_grad_norm": {"kind": "head", "labels": ["query", "key", "value"]}}}
    (run / "row_gradients.json").write_text(json.dumps(facts))
    assert always_zero(open_run(run), "tap_grad_norm") == "query, value–3"


def test_pairs_get_the_paired_test_of_a_sweep(grid):
    runs, losses = grid
    (table,) = runs.differences()
    (line,) = table.body
    expected = stats.ttest_rel(losses[8], losses[4])
    low, high = expected.confidence_interval(0.95)
    mean = statistics.mean(losses[8]) - statistics.mean(losses[4])
    assert line == ["all", "val_loss", "3", f"{mean:+.4g}", f"{low:+.4g} … {high:+.4g}", f"{expected.pvalue:.2g}"]
    assert runs.sentences() == [
        f"val_loss, net.width=8 − net.width=4: {mean:+.4g} (95 % interval {low:+.4g} to {high:+.4g}), 3 pairs."
    ]


def test_group_by_averages_over_further_settings(tmp_path):
    for fold in range(3):
        for lr in (0.1, 0.2):
            folder_of(
                tmp_path / f"{fold}{lr}", settings={"fold": fold, "optim": {"lr": lr}}, metrics={"loss": fold + lr}
            )
    opened, _ = open_runs([tmp_path])
    assert len(LoggedRuns(opened).groups()) == 6
    assert {name: len(runs) for name, runs in LoggedRuns(opened, ["fold"]).groups().items()} == {
        "optim.lr=0.1": 3,
        "optim.lr=0.2": 3,
    }
    assert list(LoggedRuns(opened, ["fold", "optim"]).groups()) == ["all runs"]
    with pytest.raises(UserError, match=r"group_by=folds: no run has this setting; did you mean fold\?"):
        LoggedRuns(opened, ["folds"])


def test_runs_without_settings_are_not_averaged(tmp_path):
    for name in ("a", "b"):
        folder_of(tmp_path / name)
    assert list(LoggedRuns(open_runs([tmp_path])[0]).groups()) == ["a", "b"]


def test_two_runs_of_one_seed_and_setting_are_no_pair(tmp_path):
    for name, width in [("a", 1), ("b", 1), ("c", 2)]:
        folder_of(tmp_path / name, settings={"width": width, "seed": 0}, metrics={"val_loss": 1.0})
    runs = LoggedRuns(open_runs([tmp_path])[0])
    assert runs.differences()[0].body[0][3] == "not paired: two runs agree in seed and setting"


def test_a_metric_that_is_no_number_is_said(tmp_path):
    folder_of(tmp_path / "a", metrics={"val_loss": "nan"})
    table = LoggedRuns(open_runs([tmp_path])[0]).settings_table()
    assert dict(zip(table.header, table.body[0], strict=True))["val_loss"] == "not a number"


def test_runs_of_the_pipeline_and_of_any_module_are_on_one_page(tmp_path):
    train(configure(*QUICK, "trainer.max_steps=2", "callbacks.histograms=null"), tmp_path / "own")
    folder_of(tmp_path / "augment", zero=[2])
    runs, _ = open_runs([tmp_path])
    assert {type(run) for run in runs} == {Run, LoggedRun}
    both = Both(runs)
    assert [one.name for one in both.shown()] == ["augment", "augment (2)"]
    assert [table.header[0] for table in both.tables()] == ["run", "run"]
    text = both.text()
    assert len(text.settings) == 2
    assert text.title == "What reaches the rows"


def test_report_py_takes_what_a_shell_makes_of_a_star(tmp_path):
    for number in range(2):
        folder_of(tmp_path / "lightning_logs" / f"version_{number}", settings={"seed": number})
    (tmp_path / "lightning_logs" / "version_2").mkdir()
    paths = sorted((tmp_path / "lightning_logs").iterdir())
    result = command(REPORT, *paths, "--figures", tmp_path / "figures", cwd=tmp_path)
    page = tmp_path / "lightning_logs" / "report" / "report.html"
    assert result.stdout == f"2 runs: {page}, 8 figures: {tmp_path / 'figures'}\n"
    assert f"{paths[2]}: left out, because there is no run in it." in result.stderr
    text = re.sub(r"<script.*", "", page.read_text(), flags=re.DOTALL)
    assert "The gradient of every row" in text
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names[:4] == [f"version_0{size}.{kind}" for size, kind in [("", "png"), ("", "svg")]] + [
        f"version_0_column.{kind}" for kind in ("png", "svg")
    ]


def test_a_report_again_does_not_take_its_own_page_for_a_run(tmp_path):
    folder_of(tmp_path / "logs" / "version_0")
    for _ in range(2):
        assert command(REPORT, tmp_path / "logs", cwd=tmp_path).stdout.startswith("1 run: ")


def test_nothing_is_written_through_a_link_in_somebodys_folder(tmp_path):
    folder_of(tmp_path / "theirs")
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs" / "report").symlink_to(tmp_path / "mine")
    result = command(REPORT, tmp_path / "theirs", cwd=tmp_path)
    assert "is a link, and nothing is written through it." in result.stderr
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "--steps 0 is not a whole number of 1 or more."),
        (["--group-by", "x"], "group_by=x: no run has this setting."),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, message):
    folder_of(tmp_path / "a")
    result = command(REPORT, tmp_path / "a", *words, cwd=tmp_path)
    assert (result.returncode, result.stderr.strip().splitlines()[-1]) == (1, f"Cannot report: {message}")


# ---- what rows are


class Energy(Quantity):
    """A quantity of somebody's own."""

    name, title, unit, kind, in_csv = "energy", "Energy of each band", "joule", "band", True

    def before_step(self, module):
        return module.weight


def test_what_a_quantity_of_ones_own_is_called_is_kept(tmp_path):
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with Recorder(module, tmp_path / "run", quantities=[Energy()], layers=True) as recorder:
        module.weight.sum().backward()
        optimizer.step()
        recorder.step()
    run = open_run(tmp_path / "run")
    assert run.described["energy"] == ("Energy of each band", "joule", "band", ())
    data = data_in(run.show())["answer"]
    assert {"name": "energy", "title": "Energy of each band", "unit": "joule"} in data["quantities"]
    assert read_events(tmp_path / "run").facts["quantities"] == run.told
    assert run.figures()["row_gradients"].axes[0].get_ylabel() == "band"


@pytest.mark.parametrize(
    "told",
    ["[]", "{", '{"quantities": 3}', '{"quantities": {"tap_grad_norm": []}}',
     '{"quantities": {"tap_grad_norm": {"kind": 3, "labels": "abc", "unit": null, "title": {}}}}',
     '{"quantities": {"tap_grad_norm": {"labels": [1]}}}'],
)  # fmt: skip
def test_nonsense_about_rows_changes_nothing(tmp_path, told):
    folder = folder_of(tmp_path / "run")
    plain = open_run(folder).described
    (folder / "row_gradients.json").write_text(told)
    assert open_run(folder).described == plain
    assert plain["tap_grad_norm"] == ("What comes back through tap, ‖∂L/∂xᵣ‖", "loss per unit of x", "row", ())


def test_one_of_several_optimizers_is_named_in_the_title():
    one = describe_quantity("optimizer_1.tap_grad_norm", {"tap_grad_norm": {"kind": "token"}})
    assert one == ("What comes back through tap (optimizer_1), ‖∂L/∂xᵣ‖", "loss per unit of x", "token", ())
