"""Manual optimization with several optimizers: a GAN, against the same training in plain torch."""

import lightning.pytorch as pl
import pytest
import torch
from conftest import events
from foreign import Gan, agree, fit, lengths, recorded
from torch.utils.data import DataLoader

from rowgrad import RowGradientRecorder

pytestmark = [
    pytest.mark.gpu,
    # What Lightning would have these modules do better: workers, a validation loop.
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]


def gans_norms(batches):
    """The same training in plain torch, with leaves of zeros in place of the taps: each optimizer's steps."""
    gan, steps, count = Gan(), ({}, {}), 0
    judge = gan.judge[1:]
    optimizers = gan.configure_optimizers()
    for number, (noise, real) in enumerate(batches):
        for which in (0, 1) if number % 2 == 0 else (0,):
            leaves = {name: torch.zeros(1, 6, 4, requires_grad=True) for name in ("made", "judge.0")}
            made, judged = leaves.values()
            first, second = gan.losses(noise, real, lambda x, tau=judged: judge(x + tau), lambda x, tau=made: x + tau)
            loss = second() if which else first
            gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
            norms = {
                name: lengths(torch.zeros(1, 6, 4) if gradient is None else gradient)
                for name, gradient in zip(leaves, gradients, strict=True)
            }
            steps[which][count] = norms
            count += 1
            optimizers[which].zero_grad()
            loss.backward()
            optimizers[which].step()
    return steps


def test_a_gan_with_two_optimizers_has_a_record_of_each(tmp_path):
    batches = Gan.batches()
    fit(Gan(), batches, tmp_path)
    scalars = events(tmp_path)
    for which, wanted in enumerate(gans_norms(batches)):
        agree(recorded(tmp_path / f"row_gradients.optimizer_{which}.csv"), wanted)
        values = scalars[f"optimizer_{which}.made_grad_norm/row_05"]
        assert [step for step, _ in values] == ([0, 2, 4] if which else list(range(6)))  # batches, as with self.log
    first, second = gans_norms(batches)
    assert all(norms["made"] == [0.0] * 6 for norms in first.values())  # the discriminator sees what is detached
    assert all(min(norms["made"]) > 0 for norms in second.values())
    assert not (tmp_path / "row_gradients.csv").exists()


def test_every_second_step_of_each_optimizer_goes_on_after_a_resume(tmp_path):
    batches, wanted = list(Gan.batches()), gans_norms(Gan.batches())
    half = DataLoader(batches[:3], batch_size=None)

    def recorder():
        return RowGradientRecorder(every_n_steps=2, dirpath=tmp_path)

    trainer = pl.Trainer(
        max_steps=5, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[recorder()],
    )  # fmt: skip
    trainer.fit(Gan(), half)
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    assert trainer.global_step == 5
    rest = Gan()
    rest.training_step = lambda _, batch_idx: Gan.training_step(rest, batches[batch_idx + 3], batch_idx + 3)
    fit(rest, half, tmp_path, recorder=recorder(), ckpt=tmp_path / "some.ckpt", max_epochs=2)
    for which, steps in enumerate(wanted):
        chosen = list(steps)[::2]
        assert list(recorded(tmp_path / f"row_gradients.optimizer_{which}.csv")) == chosen
