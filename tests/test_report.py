"""`report.py`: runs -> table, figures, page."""

import copy
import json
import math
import re
import shutil
import statistics
from xml.etree import ElementTree as ET

import pytest
import torch
from conftest import REPORT, command, configure, norms, train
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from omegaconf import OmegaConf
from PIL import Image

from rowgrad import open_run
from rowgrad.config import flat
from rowgrad.errors import UserError
from rowgrad.folders import RunFolder, SweepFolder
from rowgrad.results import plots, report
from rowgrad.results.analysis import load_analyses
from rowgrad.results.figure_files import svg, write_figures
from rowgrad.results.opening import open_runs
from rowgrad.results.plots import PAGE, SIZES, add_legend
from rowgrad.results.report import draw
from rowgrad.results.run import Run
from rowgrad.results.runs import RunSet
from rowgrad.results.sentences import answer_runs
from rowgrad.results.tables import NUMBERS, TEXTS, Table, compare_groups, compare_runs
from rowgrad.watch.figures import INK, round_logarithms

_, row_atlas, *_ = load_analyses()  # repair, row_atlas, truncation, vanishing
describe_atlas = row_atlas.describe_atlas
QUANTITIES = ("row_grad_norm", "input_grad_norm")
QUICK = ["data=digits", "callbacks.progress=null", "trainer.accelerator=cpu", "trainer.max_steps=4", "model=mlp"]
QUICK += ["callbacks.pictures=null", "callbacks.histograms=null"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four runs: augment with and without detach, one of them with two seeds; and one that knows row gradients only."""
    root = tmp_path_factory.mktemp("runs")
    for name, overrides in {
        "a": ["scenario=augment", "seed=0"],
        "b": ["scenario=augment", "seed=1"],
        "c": ["scenario=augment", "seed=0", "scenario.detach=false"],
        "d": ["scenario=modify", "callbacks=economy"],
    }.items():
        train(configure(*QUICK, *overrides), root / "sweep" / name)
    return root


@pytest.fixture(scope="module")
def runs(folder):
    return open_runs([folder])[0]


@pytest.fixture(scope="module")
def files(runs, tmp_path_factory):
    """The folder of the figures of these runs."""
    folder = tmp_path_factory.mktemp("figures")
    assert write_figures(draw(RunSet(runs)), folder) == 16
    return folder


@pytest.fixture(scope="module")
def page(swept):
    """The report that a sweep writes when it ends."""
    _, folder = swept
    return folder / "report" / "report.html"


def test_runs_are_found_in_a_sweeps_folder_and_each_once(folder):
    sweep = folder / "sweep"
    found, without = open_runs([sweep / "b", folder])
    assert [run.path for run in found] == [sweep / name for name in "bacd"]
    assert without == []


def test_runs_are_named_by_what_tells_them_apart(runs):
    assert RunSet(runs).group_names() == [
        "augment", "augment", "augment detach=false", "modify",
    ]  # fmt: skip
    assert RunSet(runs).run_names() == [
        "augment, seed 0", "augment, seed 1", "augment detach=false", "modify",
    ]  # fmt: skip
    assert RunSet([runs[0]] * 2).run_names() == ["augment, seed 0", "augment, seed 0 (2)"]


def test_the_table_says_what_the_summaries_say(folder, runs):
    table = compare_runs(RunSet(runs))
    head, rows = table.header, table.body
    for run, row in zip(runs, rows, strict=True):
        told = dict(zip(head, row, strict=True))
        facts = json.loads(run.folder.summary_file.read_text())
        assert told["test accuracy"] == f"{100 * facts['test/acc']:.2f} %"
        assert told["test loss"] == f"{facts['test/loss']:.4f}"
        assert told["steps"] == "4"
        assert told["status"] == "done"
    shown = [dict(zip(head, row, strict=True)) for row in rows]
    assert [told["rows cut at every step"] for told in shown] == ["0–13", "0–13", "none", "not recorded"]
    assert [told["selected"] for told in shown] == ["0–13", "0–13", "0–13", "14–27"]
    energy = norms(folder / "sweep" / "a", "input_grad_norm") ** 2
    share = (energy[:, :14].sum(1) / energy.sum(1)).mean()
    assert shown[0]["cut fraction"] == f"{100 * share:.2f} %"
    assert shown[3]["cut fraction"] == ""


def test_the_markdown_table_goes_to_a_readme(folder):
    result = command(REPORT, folder / "sweep", "--format", "md", cwd=folder)
    head, rule, *rows = result.stdout.splitlines()
    assert len(rows) == 4
    assert {line.count("|") for line in (head, rule, *rows)} == {len(TEXTS) + len(NUMBERS) + 2}
    assert rows[0].startswith("| augment, seed 0 | augment | 0–13 | mlp | true | 0 | digits | done |")


def test_profiles_are_means_over_steps_and_seeds(monkeypatch, runs, folder):
    seen = {}
    original = plots.row_profiles
    monkeypatch.setattr(plots, "row_profiles", lambda p, *rest: seen.update(p) or original(p, *rest))
    draw(RunSet(runs))["row_profiles"].on()
    expected = torch.stack([norms(folder / "sweep" / name, "row_grad_norm").mean(0) for name in "ab"])
    torch.testing.assert_close(seen["augment, n = 2 seeds"]["row_grad_norm"], expected)
    assert set(seen["modify"]) == {"row_grad_norm"}


def test_all_heatmaps_are_on_one_scale(folder, runs):
    figure = draw(RunSet(runs))["heatmaps"].on()
    (bar,) = [axes for axes in figure.axes if axes.get_xlabel() == "loss per normalised pixel"]
    of_settings = [[norms(folder / "sweep" / name, q) for name in names] for names in ("ab", "c") for q in QUANTITIES]
    of_settings.append([open_run(folder / "sweep" / "d").norms["row_grad_norm"]])
    everything = torch.cat([torch.stack(some).mean(0).flatten() for some in of_settings])
    low, high = everything[everything > 0].min().log(), everything.max().log()
    for place, label in zip(bar.get_xticks(), bar.get_xticklabels(), strict=True):
        assert place == pytest.approx(float((math.log(float(label.get_text())) - low) / (high - low)), abs=1e-5)
    assert len(bar.get_xticks()) > 2


def test_the_page_stands_alone_and_its_figures_are_well_formed(page):
    text = page.read_text()
    assert not re.findall(r'(?:src|href)\s*=\s*"(?!data:|#)[^"]*"', text)
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 2 * 3  # each for a wide screen and for a narrow one; heatmaps are interactive
    for picture in pictures:
        ET.fromstring(picture)


def test_figures_for_a_paper_are_files_in_two_sizes_and_two_formats(files):
    names = ["heatmaps", "learning_curves", "learnt_rows", "row_profiles"]
    assert sorted(path.name for path in files.iterdir()) == sorted(
        f"{name}{size}.{kind}" for name in names for size in ("", "_column") for kind in ("png", "svg")
    )
    for name in names:
        with Image.open(files / f"{name}.png") as picture:
            assert min(picture.size) > 300


def test_text_and_axes_take_the_pages_colour(page):
    pictures = "".join(re.findall(r"<svg.*?</svg>", page.read_text(), re.DOTALL))
    assert "currentColor" in pictures
    assert INK not in pictures
    assert not re.findall(r"(?:fill|stroke): ?#0{6}", pictures)


def test_the_same_runs_give_the_same_figures_in_another_process(page, swept):
    _, folder = swept
    for name, plot in draw(RunSet.of_sweep(SweepFolder(folder))).items():
        if name == "heatmaps":
            continue
        picture = svg(plot.on(), name).replace(INK, "currentColor")
        assert picture.partition("<svg ")[2] in page.read_text()


def test_a_killed_run_is_shown_with_what_it_left(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "sweep" / "a", tmp_path / "a")
    for lost in ("summary.json", "checkpoints/last.ckpt"):
        (tmp_path / "a" / lost).unlink()
    run = open_run(tmp_path / "a")
    told = dict(zip(compare_runs(RunSet([run])).header, compare_runs(RunSet([run])).body[0], strict=True))
    assert (told["status"], told["test accuracy"], told["rows cut at every step"]) == ("killed", "", "0–13")
    monkeypatch.setattr(report, "SIZES", [PAGE])
    page = report.write_report(RunSet([run]), tmp_path / "out", sentences=["said by a sweep"]).read_text()
    assert "Learnt rows" not in page
    assert page.index("said by a sweep") < page.index("<table>")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda path: [path.joinpath(name).unlink() for name in ("config.yaml", "row_gradients.csv")],
            "is neither a run's folder nor a folder of runs",
        ),
        (lambda path: path.joinpath("row_gradients.csv").write_text("step,x\n1,\x00\n"), "cannot be read"),
        (lambda path: path.joinpath("config.yaml").write_text("a: 1"), "is not a run's config"),
        (lambda path: path.joinpath("summary.json").write_text("{"), "cannot be read"),
    ],
)
def test_what_is_not_a_run_is_named(folder, tmp_path, spoil, words):
    shutil.copytree(folder / "sweep" / "a", tmp_path / "a")
    spoil(tmp_path / "a")
    with pytest.raises(UserError, match=words) as info:
        open_runs([tmp_path / "a"])
    assert str(tmp_path / "a") in str(info.value)


def altered(run, summary=None, **config):
    """A run that says something else of itself, and has neither curves nor θ."""
    other = Run(run.folder)
    other.config = copy.deepcopy(run.config)
    for key, value in config.items():
        OmegaConf.update(other.config, key.replace("__", "."), value)
    other.values = flat(OmegaConf.to_container(other.config))
    other.summary = run.summary | (summary or {})
    other.steps, other.norms, other.theta = run.steps, run.norms, None
    other.curves = lambda _: {}
    return other


def atlas(run, base=0.9, rows=("none", *range(28)), step=0.01, **config):
    """The runs of an atlas with one seed: without row r, `step` · r is lost."""
    lost = {row: 0 if row == "none" else step * row for row in rows}
    return [altered(run, {"test/acc": base - lost[row]}, scenario__rows=row, **config) for row in rows]


def lost_points(plot):
    return pytest.approx([bar.get_width() for bar in plot.on().axes[1].patches], abs=1e-5)


def test_a_row_atlas_shows_what_each_row_alone_costs(runs):
    both = [*atlas(runs[0], seed=0), *atlas(runs[0], seed=1, step=0.02)]
    digit, lost, shares = draw(RunSet(both))["row_atlas"].on().axes
    assert [bar.get_width() for bar in lost.patches] == pytest.approx([1.5 * row for row in range(28)])
    assert {round(bar.get_width() / 100, 6) for bar in shares.patches} == {round(runs[0].cut_fraction, 6)}
    assert digit.images[0].get_array().shape == (28, 28)
    assert "row_atlas" not in draw(RunSet(both[:-1]))


def test_of_several_row_atlases_the_first_complete_one_is_drawn_and_the_words_name_the_others(runs):
    first = atlas(runs[0], base=0.27)  # without row 27, no image is read well: an accuracy of zero is an accuracy
    part = atlas(runs[0], base=0.5, rows=("none", 3, 5), data__batch_size=64)
    other = atlas(runs[0], step=0.001, data__batch_size=64)
    again = atlas(runs[0], base=0.5, rows=("none", 4))
    found = [draw(RunSet(some))["row_atlas"] for some in (part + first, first + other, first + again)]
    assert all(list(range(28)) == lost_points(plot) for plot in found)
    assert found[0].words.endswith("whiskers are a standard deviation.")
    assert found[1].words.endswith(" Shown: augment data.batch_size=128. Not shown: augment data.batch_size=64.")
    assert found[2].words.endswith(" Left aside, because a run with the same row and seed came before: 2.")


def test_a_row_atlas_in_numbers():
    rows = [float(row) for row in range(1, 9)]
    lost = [[row / 100 for row in rows], [3 * row / 100 for row in rows]]
    shares = [[row * (1 + more * (row % 2)) for row in rows] for more in (1, 3)]  # odd numbers are in the even places
    words = describe_atlas(lost, shares)
    # Two seeds, 4.5 and 13.5 points: mean 9, standard error 4.5; t(0.975, 1 degree of freedom) = 12.706.
    assert words.startswith(
        "On average, a row costs 9.00 percentage points (95 % interval over seeds -48.18 to +66.18)"
    )
    # Mean shares 3 2 9 4 15 6 21 8 have the ranks 2 1 6 3 7 4 8 5, so it is 1 - 6 · 30 ÷ (8 · 63).
    assert "ρ = 0.64" in words
    assert describe_atlas(lost[:1], [[0.0] * 8]) == (
        "On average, a row costs 4.50 percentage points. It stopped the same share of the gradient in every row, so"
        " there is no order to compare."
    )


def test_a_row_atlas_says_of_how_many_rows_anything_can_be_told():
    noise = [0.01, -0.02, 0.015, -0.003]
    rows = [[0.100, 0.101, 0.102, 0.103], noise, noise[::-1]]  # t = 157, and two below 1
    losses = [noise, rows[0], [-x for x in rows[0]]]
    words = describe_atlas(
        *([*zip(*table, strict=True)] for table in (rows, [[1.0] * 4, [2.0] * 4, [3.0] * 4], losses))
    )
    told = "4 seeds can tell of row 0 (1) in accuracy, of rows 1–2 (2) in test loss that it changes anything by itself"
    assert f"; {told} (paired t-tests, p < 0.05 after correction for the number of rows); lost accuracy" in words
    assert "can tell of no row in accuracy" in describe_atlas([*zip(noise, noise[::-1], strict=True)], [[1.0, 2.0]] * 4)


def test_a_row_atlas_says_in_words_where_there_is_no_order():
    same, rising = [0.25] * 8, [float(row) for row in range(8)]
    assert describe_atlas([rising], [same]).endswith(
        "the same share of the gradient in every row, so there is no order to compare."
    )
    assert describe_atlas([same], [rising]).endswith("Every row costs the same, so there is no order to compare.")
    words = describe_atlas([[0.0] * 7 + [1.0]], [rising])  # a resample misses row 7 in a third of all cases
    assert "nan" not in words
    assert words.endswith("(Spearman; no interval, because too few rows differ).")


@pytest.mark.parametrize(("value", "words"), [(math.nan, "not a number"), (math.inf, "not a number"), (None, "")])
def test_what_is_no_number_is_no_number_in_the_table_and_in_the_captions(runs, tmp_path, value, words):
    measured = ("test/acc", "test/acc_operated", "test/loss", "train/seconds")
    RunFolder(tmp_path).write_summary(runs[0].summary | dict.fromkeys(measured, value))
    some = RunSet([altered(runs[0])])
    some.runs[0].summary = RunFolder(tmp_path).read_summary()
    table = compare_runs(some)
    cells = dict(zip(table.header, table.body[0], strict=True))
    columns = ("test accuracy", "rows changed in every image", "test loss", "seconds")
    assert [cells[column] for column in columns] == [words] * 4
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(plot.caption for plot in draw(some).values()))


def test_a_repair_shows_damage_and_what_is_left_of_it(runs):
    run = altered(runs[0], corruption=configure("corruption=row_shift").corruption)
    assert "repair" not in draw(RunSet([run]))  # without θ
    run.theta = runs[0].theta
    (panel,) = draw(RunSet([run]))["repair"].on().axes
    learnt, left = (torch.tensor(line.get_xdata()) for line in panel.lines[:2])
    assert [bar.get_width() for bar in panel.patches] == [1.0] * 14 + [0.0] * 14
    torch.testing.assert_close(learnt, run.theta[0].mean(1))
    torch.testing.assert_close(left, run.theta[0].mean(1) + torch.tensor([1.0] * 14 + [0.0] * 14))
    run.summary["test/acc"] = math.nan
    (panel,) = draw(RunSet([run]))["repair"].on().axes
    assert panel.get_title(loc="left").endswith(": no test accuracy")
    assert "repair" not in draw(RunSet([runs[0]]))


# ---- names: what is the scenario's own goes without saying


def test_the_values_of_the_scenarios_own_file_are_not_in_the_name(runs):
    other = altered(runs[0], scenario__rows="7:21", scenario__probability=0.25)
    smaller = altered(runs[0], data__batch_size=64)
    assert RunSet([runs[0], other]).group_names() == ["augment", "augment rows=7:21 probability=0.25"]
    assert RunSet([runs[0], smaller]).group_names() == ["augment data.batch_size=128", "augment data.batch_size=64"]
    for name in ("mine", "../../configs/scenario/augment"):  # the project has no file of this name
        two = [altered(runs[0], scenario__name=name, scenario__rows=rows) for rows in ("0:14", "7:21")]
        assert RunSet(two).group_names() == [f"{name} rows=0:14", f"{name} rows=7:21"]


# ---- seeds of one setting are averaged


def test_a_line_for_each_setting_says_mean_and_sample_deviation(runs):
    table = compare_groups(RunSet(runs).groups())
    told = [dict(zip(table.header, line, strict=True)) for line in table.body]
    assert [(line["setting"], line["n"]) for line in told] == [
        ("augment", "2"), ("augment detach=false", "1"), ("modify", "1"),
    ]  # fmt: skip
    accuracies = [100 * run.summary["test/acc"] for run in runs[:2]]
    expected = f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} %"
    assert told[0]["test accuracy"] == expected
    assert told[1]["test accuracy"] == f"{100 * runs[2].summary['test/acc']:.2f} %"
    assert told[0]["rows cut at every step"] == "0–13"


def test_a_panel_is_the_mean_over_seeds_at_common_steps_and_grey_where_all_are_zero(folder, runs):
    first, second = runs[:2]
    both = torch.stack([norms(folder / "sweep" / name, "row_grad_norm") for name in "ab"])
    torch.testing.assert_close(RunSet([first, second]).groups()[0].norms["row_grad_norm"], both.mean(0))
    later = open_run(second.folder.path)
    later.steps, later.norms = later.steps[1:], {name: values[1:].clone() for name, values in later.norms.items()}
    later.norms["row_grad_norm"][0, 5] = 1.0
    (setting,) = RunSet([first, later]).groups()
    assert setting.steps.tolist() == first.steps.tolist()[1:]
    shown = setting.norms["row_grad_norm"]
    assert (shown == 0).nonzero().tolist() == [[t, r] for t in range(3) for r in range(14) if (t, r) != (0, 5)]
    assert shown[0, 5] == 0.5


def test_a_learning_curve_is_a_mean_with_a_band_of_one_deviation(runs):
    figure = draw(RunSet(runs[:2]))["learning_curves"].on()
    curves = [run.curves(["train/acc"])["train/acc"] for run in runs[:2]]
    values = torch.tensor([values for _, values in curves]).double() * 100
    panel = figure.axes[1]
    (line,) = [line for line in panel.lines if len(line.get_xdata()) == len(curves[0][0])]
    torch.testing.assert_close(torch.tensor(line.get_ydata()), values.mean(0))
    edges = panel.collections[0].get_paths()[0].vertices[:, 1]
    top = (values.mean(0) + values.std(0)).max()
    assert max(edges) == pytest.approx(float(top), rel=1e-5)
    assert "n = 2 seeds" in figure.legends[0].get_texts()[0].get_text()


def test_learnt_rows_are_means_over_seeds_and_say_so(runs):
    plot = draw(RunSet(runs[:2]))["learnt_rows"]
    shown = plot.on().axes[0].images[0].get_array()
    torch.testing.assert_close(torch.tensor(shown), torch.stack([run.theta for run in runs[:2]]).mean(0)[0])
    assert "Shown is the mean of θ over seeds." in plot.words
    assert plot.verdict == "Rows whose θ is exactly 0: 0–13."


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """A baseline and a run that only observes, in folders that are not beside each other."""
    folders = [tmp_path_factory.mktemp(name) / "run" for name in ("baseline", "visualize")]
    for folder, scenario in zip(folders, ("baseline", "visualize"), strict=True):
        train(configure(*QUICK, f"scenario={scenario}", "trainer.deterministic=true"), folder)
    return [open_run(folder) for folder in folders]


def test_curves_that_are_equal_in_every_number_are_named_together(observed, runs):
    drawn = draw(RunSet([*observed, runs[0]]))
    for name in ("learning_curves", "row_profiles"):
        words = [text.get_text() for text in drawn[name].on().legends[0].get_texts()]
        assert {"baseline = visualize", "augment"} <= set(words)
        assert not {"visualize", "baseline"} & set(words)
        assert "Equal in every number: baseline = visualize." in drawn[name].verdict
    assert len(drawn["learning_curves"].on().axes[0].lines) == 2 * 2  # a line and dots of each
    assert "none in baseline and visualize" in drawn["row_profiles"].verdict
    assert "Equal" not in draw(RunSet(runs))["learning_curves"].verdict


# ---- what is seen


def test_the_heatmaps_say_how_much_gradient_is_stopped_by_what_and_why(folder, runs):
    excluded = open_run(folder / "sweep" / "d")
    excluded.norms["input_grad_norm"] = torch.ones_like(excluded.norms["row_grad_norm"])
    plot = draw(RunSet([*runs[:3], excluded]))["heatmaps"]
    energy = [norms(folder / "sweep" / name, "input_grad_norm") ** 2 for name in "ab"]
    share = 100 * statistics.mean(float((e[:, :14].sum(1) / e.sum(1)).mean()) for e in energy)
    assert plot.verdict == (
        f"Detach stops {share:.2f} % of the squared gradient in augment; the loss, not detach, stops 50.00 % of the"
        " squared gradient in modify; nothing is cut in augment detach=false."
    )
    assert re.search(r"augment: Zeros are made by detach \(scenario\.py:\d+\): the loss uses these rows", plot.words)
    assert "modify: Zeros are made by the loss, not detach: the network never sees" in plot.words


def test_the_page_begins_with_what_detach_did_and_what_observers_left_alone(page, runs, observed):
    said = answer_runs(RunSet([*runs, *observed]))
    change = 100 * (runs[0].summary["test/acc"] - runs[2].summary["test/acc"])
    assert said[0].startswith("augment: detach makes the zeros of rows 0–13 and stops ")
    minus = f"with detach minus without is {change:+.2f} points in one pair, too few to show a change."
    assert said[0].endswith(minus if change else "the same in one pair.")
    assert said[1] == (
        "visualize: bit-identical to baseline with the same seed in 1 of 1 runs, every norm and every weight."
    )
    text = page.read_text()
    assert text.index("augment: detach makes the zeros") < text.index("<table>")


def test_a_caption_is_in_the_page_and_a_title_in_the_files(page, files, runs):
    verdict = draw(RunSet(runs))["heatmaps"].verdict
    inline = re.search(r"<svg.*?</svg>", page.read_text(), re.DOTALL)[0]
    words = lambda svg: " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))  # noqa: E731
    for size in ("", "_column"):
        assert verdict in words((files / f"heatmaps{size}.svg").read_text())
    assert re.search(r"<figcaption><b>(.*?)</b>", page.read_text())[1] not in words(inline)


# ---- sizes


def test_a_column_is_as_wide_as_a_column_of_a_paper(files):
    saved = (files / "row_profiles_column.svg").read_text()
    wide = float(re.search(r'<svg[^>]* width="([\d.]+)pt"', saved)[1])
    letters = [float(text) for text in re.findall(r"font(?:-size)?: (?:bold |700 )?([\d.]+)px", saved)]
    assert wide / 72 * 2.54 == pytest.approx(8.5, abs=0.01)
    assert 7 <= min(letters) <= max(letters) <= 8


def test_words_are_wrapped_to_a_width_and_the_last_line_says_that_some_are_left_out():
    text = "augment data.batch_size=128 optimizer.lr=0.001 " + 60 * "x"
    lines = PAGE.lines(text, 1.5).split("\n")
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(map(len, lines)) <= 1.5 * 72 / 9 / 0.64
    assert PAGE.lines(text, 1.5, 2).split("\n")[0] == lines[0]
    assert PAGE.lines(text, 1.5, 2).endswith("…")
    assert PAGE.lines("", 1) == ""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 5, 24])
def test_a_legend_has_every_name_and_the_figure_grows_by_it(size, count):
    figure = Figure((size.width, 3))
    names = [f"augment data.batch_size={n} " + "optimizer.lr=0.001 " * 6 for n in range(count)]
    add_legend(figure, [Line2D([], [], label=name) for name in names], size)
    (legend,) = figure.legends
    assert len(legend.get_texts()) == count
    assert 3 < figure.get_figheight() < 3 + count * 3 * 1.7 * size.text / 72


def test_an_axis_has_a_few_round_numbers():
    assert round_logarithms(0.13, 2.6) == pytest.approx([0.2, 0.5, 1, 2])
    assert round_logarithms(1e-9, 1) == pytest.approx([1e-9, 1e-7, 1e-5, 1e-3, 1e-1])
    assert 2 < len(round_logarithms(1.03, 1.4)) <= 7
    assert round_logarithms(3.3, 3.3) == [3.3]


def test_many_settings_are_in_several_figures_and_the_words_count_those_that_are_left_out(runs):
    drawn = draw(RunSet([altered(runs[0], data__batch_size=n + 1) for n in range(26)]))
    walls = [name for name in drawn if name.startswith("heatmaps")]
    assert walls == ["heatmaps", *(f"heatmaps_{n}" for n in range(2, 7))]
    assert drawn["heatmaps"].words.endswith("24 of 26 settings are shown.")
    assert all(drawn[name].on().get_figheight() * 96 < 900 for name in walls)  # a screen


def test_columns_in_which_all_agree_are_said_once():
    table, words = Table(
        "", ["run", "model", "seed", "more"], [["a", "cnn", "0", ""], ["b", "cnn", "1", ""]]
    ).condensed()
    assert (table.header, table.body, words) == (["run", "seed"], [["a", "0"], ["b", "1"]], "model cnn")
    table, words = Table("", ["run", "model", "more"], [["a", "cnn", ""]]).condensed()
    assert (table.header, words) == (["run", "model"], "")


def test_layers_are_drawn_with_their_names_and_the_faintest_is_named(tmp_path):
    train(configure(*QUICK, "scenario=augment", "callbacks.recorder.layers=true"), tmp_path / "run")
    run = open_run(tmp_path / "run")
    lines = [line.split(",") for line in (tmp_path / "run" / "row_gradients.csv").read_text().splitlines()]
    columns = {name.partition("/")[2]: place for place, name in enumerate(lines[0]) if name.startswith("layer_")}
    means = {name: statistics.mean(float(line[place]) for line in lines[1:]) for name, place in columns.items()}
    means.pop("total")
    weakest, strongest = min(means, key=means.get), max(means, key=means.get)
    found = draw(RunSet([run]))["layers"]
    ratio = means[weakest] / means[strongest]
    assert found.verdict == f"{weakest} gets {ratio:.2f} of {strongest}'s gradient."
    for size in SIZES:
        labels = [label.get_text() for label in found.on(size).axes[0].get_yticklabels()]
        assert len(labels) == len(means) + 1
        assert all(name.endswith(label) for name, label in zip([*means, "total"], labels, strict=True))
