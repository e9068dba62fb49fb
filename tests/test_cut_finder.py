"""The cut finder in a Trainer: training is as without it, and what it finds is told once."""

import json
import textwrap
import warnings
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from conftest import command
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from rowgrad import CutFinder, RowGradientRecorder, RowTap, find_cuts


class Sequences(pl.LightningModule):
    """Classifies sequences, (B, 6, 4); some of its rows are cut."""

    def __init__(self, *, cuts=True):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.tap, self.head = nn.Linear(4, 4), RowTap(), nn.Linear(4, 2)
        self.drop, self.norm, self.mean, self.cuts = nn.Dropout(0.3), nn.BatchNorm1d(6), MeanMetric(), cuts

    def training_step(self, batch, batch_idx):
        x, labels = batch
        hidden = self.tap(self.norm(self.embed(x)))
        if self.cuts:
            hidden = torch.cat([hidden[:, :2].detach(), hidden[:, 2:]], 1)  # the line of the cut
        loss = cross_entropy(self.head(self.drop(hidden)).mean(1), labels)
        self.log("loss", loss)
        self.log("mean", self.mean(loss))
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class Blocked(Sequences):
    """Its embedding learns nothing."""

    def training_step(self, batch, batch_idx):
        with torch.no_grad():  # the line that blocks
            hidden = self.embed(batch[0])
        return cross_entropy(self.head(hidden).mean(1), batch[1])


class Adversaries(pl.LightningModule):
    """Two optimizers by hand, with a scheduler."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.maker, self.judge = nn.Linear(4, 4), nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        makes, judges = self.optimizers()
        x = batch[0][:, 0]
        self.toggle_optimizer(judges)
        loss = mse_loss(self.judge(self.maker(x).detach()), torch.zeros(len(x), 1))  # wanted
        self.manual_backward(loss)
        judges.step()
        judges.zero_grad()
        self.untoggle_optimizer(judges)
        self.manual_backward(-self.judge(self.maker(x)).mean())
        makes.step()
        makes.zero_grad()
        self.lr_schedulers().step()
        self.log("judged", loss)

    def configure_optimizers(self):
        makes = torch.optim.Adam(self.maker.parameters())
        return [makes, torch.optim.SGD(self.judge.parameters(), 0.1)], [torch.optim.lr_scheduler.StepLR(makes, 1, 0.5)]


def batches():
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(64, 6, 4), torch.randint(0, 2, (64,))), 8, shuffle=True)


def line_of(words):
    (line,) = [n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith(f"# {words}")]
    return f"test_cut_finder.py:{line}"


def fit(module, folder, callbacks, logger=None, **settings):
    """Trains on the CPU. Returns the trainer and the warnings of this project."""
    data = batches()
    torch.manual_seed(2)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = pl.Trainer(
            accelerator="cpu", callbacks=callbacks, default_root_dir=folder, logger=logger or False,
            log_every_n_steps=1, **{"max_steps": 12} | quiet | settings,
        )  # fmt: skip
        trainer.fit(module, data)
    said = [
        str(one.message) for one in caught if "got no gradient" in str(one.message) or "got exactly" in str(one.message)
    ]
    return trainer, said


@pytest.mark.parametrize("build", [Sequences, Blocked, Adversaries])
def test_training_is_as_without_it(build, tmp_path):
    ends = []
    for name in ("with", "without"):
        module = build()
        found = [CutFinder()] if name == "with" else []
        recorder = RowGradientRecorder(layers=True, dirpath=tmp_path / name)
        trainer, _ = fit(module, tmp_path / name, [recorder, *found], CSVLogger(tmp_path / name, "", ""))
        files = {file.name: file.read_bytes() for file in (tmp_path / name).rglob("*.csv")}
        state = {key: value.clone() for key, value in module.state_dict().items()}
        rate = [group["lr"] for one in trainer.optimizers for group in one.param_groups]
        ends.append((state, files, torch.rand(3).tolist(), trainer.global_step, rate))
    (state, *rest), (state_, *rest_) = ends
    assert rest == rest_
    assert {"metrics.csv", "row_gradients.csv"} & set(rest[0])
    assert not [key for key, value in state.items() if not value.equal(state_[key])]


def test_it_tells_the_file_tensorboard_and_one_line(tmp_path):
    finder, module = CutFinder(), Blocked()
    _, said = fit(module, tmp_path, [finder], TensorBoardLogger(tmp_path, "", ""))
    file = tmp_path / "gradient_cuts.json"
    place = line_of("the line that blocks")
    assert said == [
        f"embed.weight and 3 other parameters got no gradient in the first step: no_grad at {place}. See {file}."
    ]
    told = json.loads(file.read_text())
    assert told == finder.found.to_dict()
    assert told["parameters"]["embed.weight"] == {"status": "cut", "cuts": [0], "optimizer": True}
    assert told["cuts"][0]["parameters"] == ["embed.weight", "embed.bias"]
    events = EventAccumulator(str(tmp_path)).Reload()
    (text,) = events.Tensors("gradient cuts/text_summary")
    assert place in text.tensor_proto.string_val[0].decode()


def test_it_looks_once_and_not_at_a_run_that_goes_on(tmp_path):
    class Counting(Sequences):
        calls = 0

        def training_step(self, batch, batch_idx):
            self.calls += 1  # put back after a look
            type(self).calls += 1
            return super().training_step(batch, batch_idx)

    module = Counting(cuts=False)
    trainer, said = fit(module, tmp_path, [CutFinder()], max_steps=3)
    assert (said, Counting.calls) == ([], 4)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    warnings.simplefilter("ignore")
    again = pl.Trainer(accelerator="cpu", callbacks=[CutFinder()], max_steps=5, logger=False, default_root_dir=tmp_path)
    again.fit(Counting(cuts=False), batches(), ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert Counting.calls == 6


def test_a_batch_is_enough_for_a_lightning_module_without_a_trainer():
    found = find_cuts(Blocked(), next(iter(batches())))
    assert [(cut.kind, cut.place) for cut in found.on_the_way] == [("no_grad", line_of("the line that blocks"))]
    assert {name: one.status for name, one in found.parameters.items() if name.startswith(("embed", "norm"))} == {
        "embed.weight": "cut", "embed.bias": "cut", "norm.weight": "unused", "norm.bias": "unused",
    }  # fmt: skip
    assert all(one.optimizer for one in found.parameters.values())


def test_manual_optimization_without_a_trainer():
    module = Adversaries()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = find_cuts(module, next(iter(batches())))
    assert [(cut.kind, cut.place) for cut in found.on_the_way] == [("detach", line_of("wanted"))]
    assert {one.status for one in found.parameters.values()} == {"reached"}
    assert not [name for name, value in module.state_dict().items() if not value.equal(before[name])]


def test_a_batch_needs_a_lightning_module():
    with pytest.raises(ValueError, match="function without arguments"):
        find_cuts(nn.Linear(2, 2), torch.ones(1, 2))


@pytest.mark.gpu
def test_a_line_is_found_on_any_device_and_its_random_numbers_go_on_as_before(device):
    embed, drop, head = nn.Linear(4, 4).to(device), nn.Dropout(0.3), nn.Linear(4, 1).to(device)
    x = torch.randn(8, 6, 4, device=device)

    def step():
        hidden = torch.cat([embed(x)[:, :2].detach(), x[:, 2:]], 1)  # the cut on the device
        return head(drop(hidden)).square().mean()

    state = torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state()
    found = find_cuts(nn.Sequential(embed, drop, head), step)
    now = torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state()
    assert now.equal(state)
    (cut,) = (cut for cut in found.cuts if cut.reaches_loss)
    assert str(cut.place) == line_of("the cut on the device")
    assert {name for name, part in found.parameters.items() if part.status == "cut"} == {"0.weight", "0.bias"}
    assert all(parameter.grad is None for parameter in head.parameters())


def test_the_recorder_names_the_line_that_keeps_gradient_from_rows(tmp_path):
    class Ignoring(Sequences):
        def training_step(self, batch, batch_idx):
            return super().training_step([batch[0].clone(), batch[1]], batch_idx)

    class Last(Ignoring):
        def __init__(self):
            super().__init__()
            self.tap.register_forward_hook(lambda _, __, x: x[:, :5])
            self.tap.kind, self.tap.labels = "token", ("start",)

    module = Last()
    _, said = fit(module, tmp_path, [RowGradientRecorder(flush_every_n_steps=5)])
    cut, other = said
    assert cut.startswith("tap: tokens start–1 got exactly 0")
    assert cut.endswith(f"detach at {line_of('the line of the cut')}.")
    assert other.startswith("tap: token 5 got exactly 0 in each of the first steps: no single line cuts them off")


def test_the_recorder_says_nothing_of_rows_that_get_gradient(tmp_path):
    _, said = fit(Sequences(cuts=False), tmp_path, [RowGradientRecorder(flush_every_n_steps=5)])
    assert said == []


class Pair(pl.LightningModule):
    """A tap before a detach and one after it; nothing learns in front of them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.before, self.after, self.head = RowTap(), RowTap(), nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        x = self.before(batch[0])
        x = torch.cat([x[:, :2].detach(), x[:, 2:]], 1)  # between two taps
        return cross_entropy(self.head(self.after(x)).mean(1), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_the_recorder_names_the_line_if_only_the_tap_wants_gradient(tmp_path):
    _, said = fit(Pair(), tmp_path, [RowGradientRecorder(flush_every_n_steps=5)])
    (line,) = said
    assert (
        line == f"before: rows 0–1 got exactly 0 in each of the first steps: detach at {line_of('between two taps')}."
    )


def test_the_recorder_expects_zeros_before_the_cut_of_a_pair(tmp_path):
    _, said = fit(Pair(), tmp_path, [RowGradientRecorder(flush_every_n_steps=5, pairs=[("before", "after")])])
    assert said == []


RANKS = """
    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.loggers import CSVLogger
    from rowgrad import CutFinder, RowGradientRecorder, RowTap

    class Mine(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.embed, self.tap, self.head = torch.nn.Linear(4, 4), RowTap(), torch.nn.Linear(4, 1)

        def training_step(self, x, batch_idx):
            hidden = self.tap(self.embed(x))
            hidden = torch.cat([hidden[:, :2].detach(), hidden[:, 2:]], 1)
            loss = self.head(hidden).square().mean()
            self.log("loss", loss, sync_dist=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    if __name__ == "__main__":
        pl.Trainer(
            max_epochs=4, accelerator="cpu", devices=2, strategy="ddp", logger=CSVLogger(".", "", ""),
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[CutFinder(), RowGradientRecorder(flush_every_n_steps=5)],
        ).fit(Mine(), torch.utils.data.DataLoader(torch.randn(64, 6, 4), batch_size=8))
"""


@pytest.mark.slow
def test_two_ranks_look_and_train(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(RANKS))
    done = command(tmp_path / "script.py", cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((tmp_path / "gradient_cuts.json").read_text())
    assert ["detach()" in cut["code"] for cut in told["cuts"] if cut["reaches_loss"]] == [True]
    assert done.stderr.count("tap: rows 0–1 got exactly 0 in each of the first steps. find_cuts(module, step)") == 1
