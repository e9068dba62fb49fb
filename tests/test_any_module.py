"""Modules that were not made for this project, watched by two added lines, against an oracle's gradients."""

import textwrap

import lightning.pytorch as pl
import pytest
import torch
from conftest import PROJECT, command, events
from foreign import Language, Segmenter, agree, check, expected, fit, recorded
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from rowgrad import RowGradientRecorder

pytestmark = [
    pytest.mark.gpu,
    # What Lightning would have these modules do better: workers, a validation loop.
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]


def test_a_segmentation_net_with_two_taps(tmp_path):
    wanted = check(Segmenter(), Segmenter.batches(), tmp_path)
    assert [len(wanted[0][name]) for name in ("tap", "neck.tap")] == [12, 6]
    scalars = events(tmp_path)
    for name, height in (("tap", 12), ("neck.tap", 6)):
        for row in range(height):
            values = scalars[f"{name}_grad_norm/row_{row:02d}"]
            assert [step for step, _ in values] == list(range(7))
            assert values[3][1] == pytest.approx(wanted[3][name][row], rel=1e-3)
    assert {tag for tag in scalars if "grad" not in tag} == {"my/loss", "epoch"}  # the module's own, and no others
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert "custom_scalars__config__" not in accumulator.Tags()["tensors"]  # the tab Rows draws them


def test_cells_of_tokens_that_a_shorter_batch_does_not_have_are_empty(tmp_path):
    tape = fit(
        Language(), Language.batches((4, 9, 6, 6, 12)), tmp_path, recorder=RowGradientRecorder(2, dirpath=tmp_path)
    )
    wanted = expected(Language(), tape)
    agree(recorded(tmp_path / "row_gradients.csv"), {step: wanted[step] for step in (0, 2, 4)})


@pytest.mark.parametrize(
    ("micro_batches", "trainer"),
    [
        (3, {"accumulate_grad_batches": 3}),  # of seven batches: the last step is one micro-batch, divided by 3
        (1, {"gradient_clip_val": 1e-3}),
        (1, {"precision": "64-true"}),
        (1, {"max_epochs": 2, "val_check_interval": 2}),
        (1, {"detect_anomaly": True}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_norms_are_those_of_the_steps_mean_loss(tmp_path, micro_batches, trainer):
    val = Segmenter.batches(2) if "val_check_interval" in trainer else None
    check(Segmenter(), Segmenter.batches(), tmp_path, micro_batches=micro_batches, val=val, **trainer)


@pytest.mark.parametrize(("precision", "rel"), [("bf16-mixed", 0.06), ("16-mixed", 0.01)])
@pytest.mark.parametrize("fused", [False, True])
def test_norms_are_unscaled_in_mixed_precision(tmp_path, precision, rel, fused):
    class Fused(Segmenter):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.05, fused=fused)

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12) if precision == "16-mixed" else None
    check(Fused(), Segmenter.batches(), tmp_path, rel=rel, plugins=[MixedPrecision(precision, "cpu", scaler)])


def test_a_step_that_the_scaler_skips_is_not_recorded(tmp_path):
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**26))
    module = Segmenter()
    tape = fit(module, Segmenter.batches(16), tmp_path, plugins=[plugin])
    states = [one["state"]["down.weight"] for one in tape] + [module.down.weight.detach()]
    moved = [step for step in range(16) if not states[step].equal(states[step + 1])]
    assert 0 < len(moved) < 16
    assert list(recorded(tmp_path / "row_gradients.csv")) == moved


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_module_is_recorded(tmp_path):
    torch.compiler.reset()
    module = Segmenter()
    tape = fit(torch.compile(module, backend="aot_eager"), Segmenter.batches(), tmp_path)
    agree(recorded(tmp_path / "row_gradients.csv"), expected(Segmenter(), tape))
    torch.compiler.reset()
    module = Segmenter()
    module.up = torch.compile(module.up, backend="aot_eager")  # `modules` leaves out the name of torch's wrapper
    recorder = RowGradientRecorder(modules="up.0", dirpath=tmp_path / "part")
    fit(module, Segmenter.batches(), tmp_path / "part", recorder=recorder)
    got = recorded(tmp_path / "part" / "row_gradients.csv")
    assert got[0].keys() == {"tap", "neck.tap", "up.0"}
    agree(
        {step: {"tap": taps["up.0"]} for step, taps in got.items()}, {s: {"tap": t["neck.tap"]} for s, t in got.items()}
    )


def test_a_tap_without_gradient_in_a_step_is_exactly_zero_there(tmp_path):
    class Sometimes(Segmenter):
        def forward(self, images):
            features = self.down(self.tap(images))
            seen = self.neck["tap"](features)
            return self.up(features if self.global_step % 2 else seen)

    module = Sometimes()
    tape = fit(module, Segmenter.batches(), tmp_path)
    wanted = expected(module, tape)
    for step in (1, 3, 5):
        wanted[step]["neck.tap"] = [0.0] * 6
    got = recorded(tmp_path / "row_gradients.csv")
    agree(got, wanted)
    assert got[3]["neck.tap"] == [0.0] * 6


def test_with_every_third_step_recorded_taps_are_off_between(tmp_path):
    module, on = Segmenter(), []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, module, *_):
            on.append(module.tap.enabled)

    recorder = RowGradientRecorder(every_n_steps=3, dirpath=tmp_path)
    wanted = expected(module, fit(module, Segmenter.batches(), tmp_path, recorder=recorder, callbacks=[Look()]))
    agree(recorded(tmp_path / "row_gradients.csv"), {step: wanted[step] for step in (0, 3, 6)})
    assert on == [True, False, False, True, False, False, True]


def test_a_resumed_run_has_each_step_once(tmp_path):
    fit(Segmenter(), Segmenter.batches(), tmp_path / "whole", max_epochs=2)
    module, part = Segmenter(), tmp_path / "part"

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step == 7:
                trainer.save_checkpoint(tmp_path / "some.ckpt")

    fit(module, Segmenter.batches(), part, max_epochs=2, max_steps=9, callbacks=[Save()])
    assert "RowGradientRecorder" not in str(torch.load(tmp_path / "some.ckpt", weights_only=True)["callbacks"])
    fit(Segmenter(), Segmenter.batches(), part, max_epochs=2, ckpt=tmp_path / "some.ckpt")
    assert (part / "row_gradients.csv").read_bytes() == (tmp_path / "whole" / "row_gradients.csv").read_bytes()


def test_submodules_are_tapped_from_outside_and_restored(tmp_path):
    class Plain(Segmenter):
        def __init__(self):
            super().__init__()
            self.tap = self.neck["tap"] = nn.Identity()

    module = Plain()
    before = list(dict(module.named_modules())), module.state_dict().keys()
    fit(module, Segmenter.batches(), tmp_path, recorder=RowGradientRecorder(modules=["down", "up"], dirpath=tmp_path))
    with_taps = Segmenter()
    tape = fit(with_taps, Segmenter.batches(), tmp_path / "taps")
    names = {"tap": "down", "neck.tap": "up"}
    wanted = expected(with_taps, tape)
    agree(
        recorded(tmp_path / "row_gradients.csv"),
        {step: {names[name]: norms for name, norms in taps.items()} for step, taps in wanted.items()},
    )
    assert (list(dict(module.named_modules())), module.state_dict().keys()) == before
    assert not any(part._forward_pre_hooks for part in module.modules())
    for name, weight in module.state_dict().items():
        assert weight.equal(with_taps.state_dict()[name])  # watching changes nothing


def test_a_line_search_records_the_first_gradient_of_each_step(tmp_path):
    class Searching(Segmenter):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    check(Searching(), Segmenter.batches(), tmp_path)


def test_taps_are_restored_after_training(tmp_path):
    module = Segmenter()
    module.neck["tap"].enabled = False
    for _ in range(2):  # the same recorder again
        fit(module, Segmenter.batches(2), tmp_path, recorder=RowGradientRecorder(every_n_steps=5, dirpath=tmp_path))
        assert (module.tap.enabled, module.neck["tap"].enabled) == (True, False)
        assert not module.tap.grad.any()


RANKS = """
    import sys
    sys.path.append("TESTS")
    import lightning.pytorch as pl
    import torch
    from torch.utils.data import DataLoader
    from foreign import Segmenter
    from rowgrad import RowGradientRecorder

    class Ragged(Segmenter):
        def training_step(self, batch, batch_idx):
            rows = 8 if self.global_rank and batch_idx == 1 and sys.argv[1] == "ragged" else 12
            return super().training_step([part[..., :rows, :] for part in batch], batch_idx)

    if __name__ == "__main__":
        pl.Trainer(
            max_epochs=1, accelerator="cpu", devices=int(sys.argv[2]), strategy="ddp", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[RowGradientRecorder(modules="up", dirpath=".", flush_every_n_steps=2)],
        ).fit(Ragged(), DataLoader(Segmenter.batches().dataset, batch_size=6 // int(sys.argv[2])))
"""


def ranks(folder, kind, count):
    folder.mkdir()
    (folder / "script.py").write_text(textwrap.dedent(RANKS).replace("TESTS", str(PROJECT / "tests")))
    return command(folder / "script.py", kind, count, cwd=folder)


@pytest.mark.slow
def test_two_ranks_give_the_norms_of_one(tmp_path):
    for count in (1, 2):
        done = ranks(tmp_path / f"{count}", "even", count)
        assert done.returncode == 0, done.stderr
    one, two = (recorded(tmp_path / name / "row_gradients.csv") for name in ("1", "2"))
    assert one[0].keys() == {"tap", "neck.tap", "up"}
    agree(two, one)


@pytest.mark.slow
def test_ranks_with_different_shapes_end_with_a_message(tmp_path):
    done = ranks(tmp_path / "ragged", "ragged", 2)
    assert done.returncode != 0
    assert (
        "has different shapes, (3, 8, 8) and (3, 12, 8): with several processes the shape must be the same"
        in done.stderr
    )
