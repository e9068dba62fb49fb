"""No step waits for the device: what is recorded stays there until many steps are written at once."""

import lightning.pytorch as pl
import pytest
import torch
from conftest import configure
from torch.utils._python_dispatch import TorchDispatchMode

from rowgrad.errors import UserError
from rowgrad.folders import RunFolder
from rowgrad.training.settings import read_settings
from rowgrad.training.train import Training

pytestmark = pytest.mark.gpu

aten = torch.ops.aten
# Calls whose result, or its shape, Python has to know. Copies from a GPU are seen on a GPU alone.
WAITING = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
}
FIRST, LAST = 12, 18  # between two flushes, which come at steps 10 and 20


class WaitedError(Exception):
    pass


class Refusing(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in WAITING:
            raise WaitedError(function)
        return function(*args, **(kwargs or {}))


class NoWaiting(pl.Callback):
    """Refuses, in some steps, each call that waits for the device: by torch's own check, and on a CPU by name."""

    def __init__(self, device):
        self.on_gpu, self.refusing, self.is_on, self.steps = device == "cuda", Refusing(), False, set()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == FIRST and not self.is_on:
            self.switch(on=True)
        if self.is_on:
            self.steps.add(trainer.global_step)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == LAST and self.is_on:
            self.switch(on=False)

    def switch(self, *, on):
        self.is_on = on
        if self.on_gpu:
            torch.cuda.set_sync_debug_mode("error" if on else "default")
        elif on:
            self.refusing.__enter__()
        else:
            self.refusing.__exit__(None, None, None)


def train(folder, device, *words):
    quiet = ["callbacks.progress=null", "callbacks.pictures=null", "data=digits", "data.batch_size=16"]
    config = configure(*quiet, f"trainer.accelerator={device}", f"trainer.max_steps={LAST + 1}", *words)
    training = Training(config, read_settings(config), RunFolder(folder), resume=False)
    watching = NoWaiting(device)
    training.trainer.callbacks.append(watching)
    try:
        training.open()
        training.fit()
    finally:
        if watching.is_on:
            watching.switch(on=False)
    return watching.steps


@pytest.mark.parametrize(
    "words",
    [
        ["scenario=baseline"],
        ["scenario=modify"],
        ["scenario=visualize", "data.shift=2"],
        ["scenario=augment"],
        ["scenario=augment", "scenario.operation=noise 0.5", "scenario.random_rows=3"],
        ["scenario=augment", "model=mlp", "corruption=row_noise", "model.network.dropout=0.1"],
        ["scenario=truncate", "model=gru"],
        ["trainer.accumulate_grad_batches=2"],
        ["trainer.gradient_clip_val=1"],
        ["trainer.precision=bf16-mixed"],
    ],
    ids=" ".join,
)
def test_no_step_waits_for_the_device(tmp_path, device, words):
    assert train(tmp_path, device, *words) == set(range(FIRST, LAST))


def test_a_step_that_waits_is_refused(tmp_path, device, monkeypatch):
    original = torch.Tensor.argmax
    monkeypatch.setattr(torch.Tensor, "argmax", lambda *a: original(*a).sum().item() * 0 + original(*a))
    with pytest.raises((WaitedError, RuntimeError, UserError)):
        train(tmp_path, device)
    assert int(torch.ones(())) == 1  # allowed again
