"""Modules of the kinds that people have, each with its oracle, and a training of them that is compared with it.

`gradients` takes the loss's gradient at the places of the taps by `torch.autograd.grad`, through leaves of its own.
"""

import copy
import csv

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from rowgrad import RowGradientRecorder
from rowgrad.tap import RowTap


class Segmenter(pl.LightningModule):
    """A class for each pixel of colour images that are not square; two taps of different sizes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tap = RowTap()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.Sequential(nn.GELU(), nn.ConvTranspose2d(8, 4, 2, stride=2))
        self.neck = nn.ModuleDict({"tap": RowTap()})

    def forward(self, images):
        return self.up(self.neck["tap"](self.down(self.tap(images))))

    def training_step(self, batch, batch_idx):
        images, classes = batch
        loss = cross_entropy(self(images), classes)
        self.log("my/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("my/val", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.05)

    def gradients(self, batch):
        """The oracle: ∂L/∂x at both places."""
        images = batch[0].detach().to(self.down.weight.dtype).requires_grad_()
        features = self.down(images)
        return dict(
            zip(
                ("tap", "neck.tap"),
                torch.autograd.grad(cross_entropy(self.up(features), batch[1]), (images, features)),
                strict=True,
            )
        )

    @staticmethod
    def batches(count=7, size=6):
        torch.manual_seed(1)
        pixels, classes = torch.randn(count * size, 3, 12, 8), torch.randint(0, 4, (count * size, 12, 8))
        return DataLoader(TensorDataset(pixels, classes), batch_size=size)


class Language(pl.LightningModule):
    """The next of some tokens, with a transformer from torch; the tap is on the embedded tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 16)
        self.tap = RowTap()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 11)

    def predict(self, embedded):
        mask = nn.Transformer.generate_square_subsequent_mask(embedded.shape[1])
        return self.head(self.layer(embedded, src_mask=mask, is_causal=True))

    def training_step(self, batch, batch_idx):
        tokens = batch[0]
        logits = self.predict(self.tap(self.embed(tokens[:, :-1])))
        return {"loss": cross_entropy(logits.transpose(1, 2), tokens[:, 1:]), "more": "words"}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)

    def gradients(self, batch):
        embedded = self.embed(batch[0][:, :-1]).detach().requires_grad_()
        loss = cross_entropy(self.predict(embedded).transpose(1, 2), batch[0][:, 1:])
        return {"tap": torch.autograd.grad(loss, embedded)[0]}

    @staticmethod
    def batches(lengths=(9, 9, 9)):
        torch.manual_seed(1)
        return DataLoader([[torch.randint(0, 11, (4, length + 1))] for length in lengths], batch_size=None)


class Gan(pl.LightningModule):
    """Manual optimization with two optimizers. One tap is in the discriminator, one on what the generator made."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 24), nn.Unflatten(1, (1, 6, 4)))
        self.made = RowTap()
        self.judge = nn.Sequential(RowTap(), nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 1))

    def losses(self, noise, real, judge, made):
        """Of the discriminator and, as a function to be called after its step, of the generator."""
        fake = made(self.generator(noise))
        critic = judge(fake.detach()).mean() - judge(real).mean()
        return critic, lambda: -judge(made(self.generator(noise))).mean()

    def training_step(self, batch, batch_idx):
        critic_optimizer, generator_optimizer = self.optimizers()
        loss, generator_loss = self.losses(*batch, self.judge, self.made)
        critic_optimizer.zero_grad()
        self.manual_backward(loss)
        critic_optimizer.step()
        if batch_idx % 2:  # not in every batch
            return
        generator_optimizer.zero_grad()
        self.manual_backward(generator_loss())
        generator_optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.judge, self.generator)]

    @staticmethod
    def batches(count=6):
        torch.manual_seed(1)
        return DataLoader([[torch.randn(5, 4), torch.randn(5, 1, 6, 4)] for _ in range(count)], batch_size=None)


class Tape(pl.Callback):
    """Keeps what each batch met: the weights of then, and the batch."""

    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        before = {
            "step": trainer.global_step,
            "state": copy.deepcopy(module.state_dict()),
            "batch": copy.deepcopy(batch),
        }
        self.batches.append(before)


def fit(module, batches, folder, *, recorder=None, loggers=None, val=None, ckpt=None, callbacks=(), **trainer):
    """Trains with a recorder, and returns the tape."""
    tape = Tape()
    settings = {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1}
    pl.Trainer(
        **settings | trainer,
        callbacks=[recorder or RowGradientRecorder(flush_every_n_steps=3, dirpath=folder), tape, *callbacks],
        logger=TensorBoardLogger(folder, name="tensorboard", version="") if loggers is None else loggers,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, batches, val, ckpt_path=ckpt)
    return tape.batches


def lengths(gradient):
    """‖g_r‖ of each row of a sum over the batch, (..., H, W), written out."""
    rows = gradient.double().unbind(-2)
    return [sum(float(value) ** 2 for value in row.flatten()) ** 0.5 for row in rows]


def expected(module, tape, *, micro_batches=1):
    """Each step's norms by the oracle: of the sum over the micro-batches' means, divided by their number."""
    twin, steps = copy.deepcopy(module), {}
    for one in tape:
        twin.load_state_dict(one["state"])
        for name, gradient in twin.gradients(one["batch"]).items():
            steps.setdefault(one["step"], {}).setdefault(name, []).append(gradient.sum(0) / micro_batches)
    return {step: {name: lengths(sum(parts)) for name, parts in taps.items()} for step, taps in steps.items()}


def recorded(file):
    """`row_gradients.csv`: step -> tap -> norms, without empty cells."""
    steps = {}
    with file.open() as lines:
        for row in csv.DictReader(lines):
            taps = steps.setdefault(int(row.pop("step")), {})
            for column, value in row.items():
                if value == "":
                    continue
                taps.setdefault(column.rpartition("_grad_norm/row_")[0], []).append(float(value))
    return steps


def agree(got, wanted, rel=2e-4):
    assert got.keys() == wanted.keys()
    for step, taps in wanted.items():
        assert got[step].keys() == taps.keys()
        for name, norms in taps.items():
            assert got[step][name] == pytest.approx(norms, rel=rel, abs=rel * max(norms)), (step, name)


def check(module, batches, folder, *, micro_batches=1, rel=2e-4, **trainer):
    tape = fit(module, batches, folder, **trainer)
    wanted = expected(module, tape, micro_batches=micro_batches)
    agree(recorded(folder / "row_gradients.csv"), wanted, rel)
    return wanted
