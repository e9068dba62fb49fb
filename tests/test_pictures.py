"""Pictures, histograms, texts and hyperparameters of a run in TensorBoard."""

import io

import numpy as np
import pytest
import torch
from conftest import build, configure, norms, recorded_steps, summary, train, weights
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from torch.nn.functional import cross_entropy
from torchvision import datasets

from rowgrad.data.batches import Resident, TrainLoader
from rowgrad.randomness import Draw
from rowgrad.watch import figures
from rowgrad.watch.hparams import custom_scalars
from rowgrad.watch.pictures import Pictures

QUICK = ["data=digits", "callbacks.progress=null", "trainer.accelerator=cpu"]
PICTURES = ["pictures/1_row_gradients", "pictures/2_digits", "pictures/3_learnt_rows"]


def watched(folder):
    accumulator = EventAccumulator(str(folder / "tensorboard"), {"images": 0, "histograms": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def text(accumulator, tag):
    (event,) = accumulator.Tensors(f"{tag}/text_summary")
    return event.tensor_proto.string_val[0].decode()


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run of each scenario."""
    root, scenarios = tmp_path_factory.mktemp("ended"), ("baseline", "augment", "visualize", "modify")
    for scenario in scenarios:
        train(configure(*QUICK, "model=mlp", f"scenario={scenario}", "seed=3"), root / scenario)
    return {scenario: root / scenario for scenario in scenarios}


def test_a_run_ends_with_its_pictures(ended):
    for folder in ended.values():
        accumulator = watched(folder)
        assert accumulator.Tags()["images"] == PICTURES
        for tag in PICTURES:
            (event,) = accumulator.Images(tag)
            assert event.step == 10
            picture = Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB")
            assert min(picture.size) > 300
            assert len(picture.getcolors(maxcolors=picture.width * picture.height)) > 20


def test_a_picture_shows_what_the_recorder_wrote_from_before_a_resume_too(tmp_path, monkeypatch):
    drawn = []

    def keep(steps, values, selected, _):
        drawn.append((steps.tolist(), values, selected))
        return Figure()

    monkeypatch.setattr(figures, "heatmaps", keep)
    config = configure(*QUICK, "model=mlp", "trainer.max_steps=5")
    train(config, tmp_path / "run")
    config.trainer.max_steps = 9
    train(config, tmp_path / "run", resume=True)
    steps, values, selected = drawn[-1]
    assert steps == recorded_steps(tmp_path / "run") == list(range(9))
    assert selected == [row < 14 for row in range(28)]
    for quantity in ("row_grad_norm", "input_grad_norm"):
        torch.testing.assert_close(values[quantity], norms(tmp_path / "run", quantity).float(), rtol=1e-6, atol=0)
    moved = values["row_update_norm"]
    assert moved[:5].isnan().all()  # not in the CSV file, so not known after a resume
    assert (moved[5:, 14:] > 0).all()


def test_digits_are_shown_as_the_last_step_had_them(tmp_path, monkeypatch):
    shown, batches = [], []
    monkeypatch.setattr(figures, "digits", lambda *shows: shown.append(shows[:2]) or Figure())
    original = Pictures.on_train_batch_end

    def keep(self, trainer, module, outputs, batch, batch_idx):
        batches.append((batch, module.theta.detach().clone()))
        original(self, trainer, module, outputs, batch, batch_idx)

    monkeypatch.setattr(Pictures, "on_train_batch_end", keep)
    typed = ["model=mlp", "scenario.probability=1", "callbacks.pictures.digits=3"]
    train(configure(*QUICK, *typed), tmp_path / "r")
    views, bars = shown[-1]
    batch, rows = batches[-1]
    u = batch.images[:3] + rows
    expected = u.clone()
    expected[:, :, :14] += 1
    torch.testing.assert_close(views["original"], batch.images[:3])
    torch.testing.assert_close(views["network saw"], expected)
    torch.testing.assert_close(views["observer saw"], expected)
    torch.testing.assert_close(
        bars["original"][1].double(), norms(tmp_path / "r", "row_grad_norm").mean(0), rtol=1e-5, atol=0
    )


def test_the_bars_beside_digits_stand_at_the_height_of_their_rows():
    images, norms_by_row = torch.rand(2, 1, 28, 28), torch.ones(28)
    selected = [row < 4 for row in range(28)]
    figure = figures.digits({"seen": images}, {"seen": ("mean", norms_by_row)}, selected)
    page = io.BytesIO()
    figure.savefig(page, dpi=200)
    picture = np.asarray(Image.open(page).convert("RGB")).astype(int)
    orange = np.abs(picture - [0xD5, 0x5E, 0x00]).max(2) < 8
    middle = picture.shape[1] // 2
    legend = picture.shape[0] * 3 // 4
    margin, bars = (np.flatnonzero(part.sum(1) > 4) for part in (orange[:legend, :middle], orange[:legend, middle:]))
    assert len(bars) > 20
    assert abs(margin[0] - bars[0]) < 4
    assert abs(margin[-1] - bars[-1]) < 4


def fits_its_page(figure):
    """Whether everything that a figure draws, words included, is within it."""
    figure.savefig(io.BytesIO())
    drawn, page = figure.get_tightbbox(), figure.bbox_inches.padded(0.01)
    return page.contains(drawn.x0, drawn.y0) and page.contains(drawn.x1, drawn.y1)


def test_a_page_holds_all_its_words():
    steps, selected = torch.arange(430), [row < 14 for row in range(28)]
    fades = torch.logspace(-1, -8, 430)[:, None].expand(-1, 28)
    quantities = ("row_grad_norm", "input_grad_norm", "row_update_norm")
    images = torch.rand(4, 1, 28, 28)
    bars = {name: (f"mean of {name}", fades.mean(0)) for name in ("original", "network saw")}
    assert fits_its_page(figures.heatmaps(steps, dict.fromkeys(quantities, fades), selected))
    assert fits_its_page(figures.digits({**dict.fromkeys(bars, images), "observer saw": images}, bars, selected))
    assert fits_its_page(figures.learnt_rows(-torch.rand(1, 28, 28) / 1000, selected))


def test_exact_zeros_are_grey_and_what_is_not_known_is_left_out():
    values = torch.tensor([[0.0, 1.0], [0.1, torch.nan]])
    axes = Figure().subplots()
    figures.draw_heatmap(axes, torch.tensor([0, 1]), values, [True, False], figures.log_scale([values]))
    pixels = axes.images[0].get_array()  # (row, step, colour)
    grey = [int(figures.ZERO[i : i + 2], 16) for i in (1, 3, 5)]
    assert pixels[0, 0].tolist() == [*grey, 255]
    assert pixels[1, 1, 3] == 0
    assert pixels[1, 0].tolist() == [253, 231, 36, 255]  # viridis' brightest: the largest norm


def test_a_long_run_is_averaged_into_columns():
    values = torch.arange(1800.0)[:, None].expand(-1, 28)
    assert figures.binned(values).shape == (600, 28)
    assert figures.binned(values)[:3, 0].tolist() == [1, 4, 7]
    assert figures.binned(values[:500]).shape == (500, 28)


def batch_of(data, module):
    resident = Resident(data.dataset.train, data.dataset.normalization(), module.device, 1)
    return next(iter(TrainLoader(resident, 24, seed=0)))


def image_by_image(module, batch):
    """What comes back through both taps for each image, of its own loss alone, and through the first in all."""
    module.train()
    module.training_draw = lambda _: Draw(0, 3)
    for tap in (module.row, module.input):
        tap.enabled = tap.per_image = True
    module.training_step(batch, 0)["loss"].backward()
    count = len(batch.images)
    return module.row.image_grads * count, module.input.image_grads * count, module.row.grad


def test_per_image_gradients_are_each_images_own():
    data, module = build(configure("data=digits", "scenario=augment", "scenario.probability=1", "model=mlp"))
    batch = batch_of(data, module)
    of_rows, of_input, _ = image_by_image(module, batch)
    for image, label, row_gradient, input_gradient in zip(batch.images, batch.labels, of_rows, of_input, strict=True):
        seen = image.clone()[None]
        seen[:, :, :14] += 1
        seen.requires_grad_()
        loss = cross_entropy(module.network(seen), label[None], label_smoothing=module.label_smoothing)
        (expected,) = torch.autograd.grad(loss, seen)
        torch.testing.assert_close(input_gradient, expected[0], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(row_gradient[:, 14:], expected[0, :, 14:], rtol=1e-4, atol=1e-7)
        assert not row_gradient[:, :14].any()


@pytest.mark.parametrize("model", [["model=cnn"], ["model=mlp", "model.network.dropout=0.4"]])
def test_per_image_gradients_average_to_the_rows_gradient(model):
    data, module = build(configure("data=digits", "scenario=augment", "scenario.operation=noise 0.5", *model))
    of_rows, _, in_all = image_by_image(module, batch_of(data, module))
    torch.testing.assert_close(of_rows.mean(0), module.theta.grad, rtol=1e-4, atol=1e-7)
    assert in_all.equal(module.theta.grad)


def test_histograms_are_of_an_images_own_loss_in_whatever_micro_batches(run):
    basics = ["scenario=augment", "model=mlp", "callbacks.histograms.every_n_steps=1", "trainer.max_steps=1"]
    basics.append("callbacks.pictures=null")
    whole = watched(run(*basics, "data.batch_size=128", name="whole"))
    part = watched(run(*basics, "data.batch_size=64", "trainer.accumulate_grad_batches=2", name="part"))
    for tag in whole.Tags()["histograms"]:
        (all_images,), (half,) = whole.Histograms(tag), part.Histograms(tag)
        assert half.histogram_value.num * 2 == all_images.histogram_value.num
        means = [event.histogram_value.sum / event.histogram_value.num for event in (all_images, half)]
        assert means[1] == pytest.approx(means[0], rel=0.15)  # of other images; half or twice would be the wrong share


def test_a_histogram_is_of_its_own_step_alone(run):
    basics = ["scenario=augment", "model=mlp", "callbacks.pictures=null", "trainer.max_steps=5"]
    folders = [run(*basics, f"callbacks.histograms.every_n_steps={every}", name=f"{every}") for every in (1, 4)]
    each, some = map(watched, folders)
    for tag in some.Tags()["histograms"]:
        assert each.Histograms(tag)[4].histogram_value == some.Histograms(tag)[1].histogram_value
    one, other = ((folder / "row_gradients.csv").read_bytes() for folder in folders)
    assert one == other


def test_pictures_and_histograms_come_every_so_many_steps_and_pictures_at_the_end(run):
    every = ["callbacks.histograms.every_n_steps=10", "callbacks.pictures.every_n_steps=10"]
    accumulator = watched(run("model=mlp", "data.batch_size=64", *every))
    assert [event.step for event in accumulator.Images(PICTURES[0])] == [9, 19, 20]
    tags = accumulator.Tags()["histograms"]
    parts = ("selected_rows", "other_rows")
    assert sorted(tags) == sorted(f"{q}_per_image/{p}" for q in ("row_grad_norm", "input_grad_norm") for p in parts)
    for tag in tags:
        assert [event.step for event in accumulator.Histograms(tag)] == [0, 10, 20]
        # Images times rows: each histogram of selected and of other rows has 14 rows, and the last batch has 17 images.
        assert [event.histogram_value.num for event in accumulator.Histograms(tag)] == [64 * 14, 64 * 14, 17 * 14], tag
    cut = accumulator.Histograms("row_grad_norm_per_image/selected_rows")
    assert all(event.histogram_value.min == event.histogram_value.max == 0 for event in cut)


def test_histograms_change_nothing_that_is_learnt(run):
    model = ["model=mlp", "model.network.dropout=0.3", "scenario=augment", "trainer.accumulate_grad_batches=2"]
    model.append("callbacks.pictures=null")
    often = weights(run(*model, "callbacks.histograms.every_n_steps=1", name="often"))
    never = weights(run(*model, "callbacks.histograms=null", name="never"))
    assert all(often[key].equal(never[key]) for key in often)


def test_texts_say_what_the_run_is(ended):
    folder = ended["modify"]
    accumulator = watched(folder)
    about = text(accumulator, "about")
    assert "Rows 14–27 are detached, scaled by 2 for observers only; the network sees black in their place." in about
    assert "Data set: digits." in about
    assert f"| torch | {torch.__version__.partition('+')[0]} |" in about
    shown = [line.removeprefix("    ") for line in text(accumulator, "config").splitlines()]
    assert shown == (folder / "config.yaml").read_text().splitlines()
    assert "- status: done" in text(accumulator, "outcome")


def test_a_fallback_is_said_in_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    config = configure(f"data.root={tmp_path}", *QUICK[1:], "callbacks.pictures=null", "trainer.max_steps=1")
    train(config, tmp_path / "run")
    assert "MNIST" in text(watched(tmp_path / "run"), "about")
    assert "Data set: digits." in text(watched(tmp_path / "run"), "about")


def hparams_of(folder):
    found = {}
    for file in sorted((folder / "tensorboard").iterdir()):
        for raw in RawEventFileLoader(str(file)).Load():
            for value in event_pb2.Event.FromString(raw).summary.value:
                if value.metadata.plugin_data.plugin_name == "hparams":
                    data = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    found[data.WhichOneof("data")] = data
    return found


def test_hyperparameters_are_logged_with_the_final_metrics(ended):
    folder = ended["augment"]
    found = hparams_of(folder)
    chosen = {
        name: value.string_value or value.number_value
        for name, value in found["session_start_info"].session_start_info.hparams.items()
    }
    assert {k: chosen[k] for k in ("scenario", "rows", "detach", "seed", "lr", "with rows_lr")} == {
        "scenario": "augment", "rows": "0:14", "detach": "true", "seed": 3, "lr": 0.01, "with rows_lr": 0.01,
    }  # fmt: skip
    metrics = {info.name.tag for info in found["experiment"].experiment.metric_infos}
    assert metrics == {"test/acc", "test/loss", "grad_flow/mean_cut_fraction", "grad_bias/mean_cosine"}
    assert "session_end_info" in found
    scalars = watched(folder)
    facts = summary(folder)
    for tag, name in {
        "test/acc": "test/acc",
        "test/loss": "test/loss",
        "grad_flow/mean_cut_fraction": "cut_fraction",
        "grad_bias/mean_cosine": "grad_bias/cosine",
    }.items():
        assert scalars.Scalars(tag)[-1].value == pytest.approx(facts[name])
    assert not {"hp_metric", "epoch"} & set(scalars.Tags()["scalars"])


def test_custom_charts_are_those_that_the_recorder_feeds(ended):
    (event,) = watched(ended["augment"]).Tensors("custom_scalars__config__")
    (category,) = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]).category
    accuracy = ["Accuracy: validation images", "Accuracy: training batches"]
    loss = ["Loss: validation images", "Loss: training batches"]
    means = ["Mean row gradient of the selected rows", "Mean row gradient of the other rows"]
    assert [chart.title for chart in category.chart] == [
        *accuracy,
        "Cut fraction: share of ‖∂L/∂τ‖² that the cut stops",
        *means,
        *(title.replace("row", "input", 1) for title in means),
        *loss,
        *(f"Weights' gradient with and without detach: {what}" for what in ("cosine", "ratio of norms")),
    ]
    assert [*custom_scalars(["row_grad_norm"], selects=True, compares=False)] == [*accuracy, *means, *loss]
    assert [*custom_scalars([], selects=True, compares=False)] == accuracy + loss
