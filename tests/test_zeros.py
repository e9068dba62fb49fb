"""What makes a zero, against gradients that torch computes with detach and without; and its words."""

import json
from functools import cache

import pytest
import torch
from conftest import PROJECT, configure, train

from rowgrad.data.settings import Shape
from rowgrad.randomness import Draw
from rowgrad.results.opening import open_run
from rowgrad.results.report import heatmap_verdict
from rowgrad.results.runs import RunGroup, find_baseline, find_control
from rowgrad.results.sentences import describe_comparison, describe_run, on_detach
from rowgrad.scenario.scenario import Scenario
from rowgrad.scenario.zeros import ZeroCause, Zeros, find_zeros, read_zeros, zeros_text
from rowgrad.watch.wording import below_one, describe_cut, describe_zeros, percent

SHAPE = Shape(28, 20, 3, 10)
QUICK = ["data=digits", "model=mlp", "trainer.accelerator=cpu", "trainer.max_steps=3", "callbacks.progress=null"]
QUICK += ["callbacks.pictures=null", "callbacks.histograms=null", "data.eval_batch_size=300"]

CASES = {
    ZeroCause.DETACH: [
        {"rows": "0:14", "operation": "shift 1", "probability": 0.5},
        {"rows": "all", "operation": "blur 1"},
        {"rows": 3},
        {"rows": "::2", "operation": "RandomHorizontalFlip 0.5"},
        {"rows": 5, "operation": "quantise 2", "straight_through": True},
        {"rows": 5, "operation": "erase", "probability": 0.25},
    ],
    ZeroCause.LOSS: [
        {"rows": "14:28", "operation": "scale 2", "route": "exclude"},
        {"rows": 0, "route": "exclude", "detach": False},
    ],
    ZeroCause.OPERATION: [
        {"rows": 5, "operation": "static 1"},
        {"rows": 5, "operation": "static 1", "detach": False},
        {"rows": "all", "operation": "quantise 2", "detach": False},
        {"rows": "0:3", "operation": "erase"},
    ],
    ZeroCause.NONE: [
        {"rows": "none"},
        {"rows": "0:14", "route": "observe"},
        {"rows": "0:14", "operation": "shift 1", "detach": False},
        {"rows": 5, "operation": "quantise 2", "straight_through": True, "detach": False},
    ],
}


def zeros(settings):
    """Whether a selected row gets exactly nothing from a loss that uses every pixel, with detach as given."""
    scenario = Scenario(height=SHAPE.height, **settings)
    images = torch.randn(12, SHAPE.channels, SHAPE.height, SHAPE.width, requires_grad=True)
    seen = scenario(images, Draw(1, 2))
    (gradient,) = torch.autograd.grad((seen * torch.randn_like(seen)).sum(), images)
    return not gradient[:, :, scenario.selected].any()


@pytest.mark.parametrize(("found", "settings"), [(found, case) for found, cases in CASES.items() for case in cases])
def test_the_cause_of_zeros_is_the_one_that_autograd_shows(found, settings):
    scenario = Scenario(height=SHAPE.height, **settings)
    images = torch.randn(12, SHAPE.channels, SHAPE.height, SHAPE.width)
    causes = find_zeros(scenario, images, 1, {row: [2] for row in range(SHAPE.height)})
    selected = tuple(row for row, chosen in enumerate(scenario.chosen) if chosen)
    shown = [] if found is ZeroCause.NONE else [(found, selected, False)]
    assert [(part.cause, part.rows, part.partly) for part in causes] == shown
    if scenario.is_noop or found is ZeroCause.NONE:
        assert scenario.is_noop or not zeros(settings)
        return
    cut, control = zeros(settings | {"detach": True}), zeros(settings | {"detach": False})
    assert cut
    assert control == (found is not ZeroCause.DETACH)  # only what detach makes goes away without it


@pytest.mark.parametrize(
    ("settings", "file", "code"),
    [
        ({"rows": "0:14", "operation": "shift 1"}, "scenario", "source = images.detach() if self.detach else images"),
        ({"rows": 5, "operation": "quantise 2", "straight_through": True}, "scenario", "source = images.detach()"),
        ({"rows": "14", "route": "state"}, "scenario", "else value.detach()"),
        ({"rows": "14", "route": "state", "probability": 0.5}, "scenario", "value.detach(), value)"),
        ({"rows": 5, "operation": "quantise 2"}, "operations", ".round()"),
        ({"rows": 5, "operation": "quantise 2", "detach": False}, "operations", ".round()"),
        ({"rows": "0:3", "operation": "erase"}, None, ""),  # made of no image
        ({"rows": "0:3", "operation": "static"}, None, ""),
        ({"rows": "0:3", "route": "exclude"}, None, ""),
    ],
    ids=str,
)
def test_the_line_that_makes_the_zeros_is_named(settings, file, code):
    images = torch.randn(12, SHAPE.channels, SHAPE.height, SHAPE.width)
    scenario = Scenario(height=SHAPE.height, **settings)
    (part, *others) = find_zeros(scenario, images, 1, {row: [2] for row in range(SHAPE.height)})
    assert not others
    if file is None:
        assert not part.place
        return
    name, line = part.place.split(":")
    assert name == f"{file}.py"
    assert code in (PROJECT / "src" / "rowgrad" / "scenario" / name).read_text().splitlines()[int(line) - 1]
    (words,) = describe_zeros([part], scenario)
    assert words.startswith(f"{part.cause.value} ({part.place})")


def test_an_operation_that_the_cut_finder_cannot_watch_has_no_line(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError

    monkeypatch.setattr("rowgrad.scenario.zeros.find_cuts", fail)
    found = find_zeros(Scenario(height=3, rows=1), torch.randn(2, 1, 3, 4), 0, {1: [0]})
    assert found == [Zeros(ZeroCause.DETACH, (1,))]


def test_the_words_say_that_detach_is_off_where_it_is():
    both = (Scenario(detach=detach, route="exclude", height=28) for detach in (True, False))
    (on,), (off,) = (describe_zeros([Zeros(ZeroCause.LOSS, (3,))], scenario) for scenario in both)
    assert on.startswith("the loss, not detach: ")
    assert off == f"{on} (detach is off here)"


def test_zeros_as_text_are_read_again_and_nonsense_is_not():
    found = [Zeros(ZeroCause.DETACH, (1, 2, 3, 7), partly=True, place="scenario.py:186")]
    found.append(Zeros(ZeroCause.OPERATION, (0,)))
    text = zeros_text(found, 28)
    assert text == "detach (scenario.py:186), at some steps the operation: rows 1-3, 7; the operation: row 0"
    assert read_zeros(text, 28) == found
    assert read_zeros(zeros_text([Zeros(ZeroCause.LOSS, (0, 1))], 2), 2) == [Zeros(ZeroCause.LOSS, (0, 1))]
    assert read_zeros(text, 3)[0].rows == (1, 2)
    assert read_zeros("the weather: rows 1-3; detach; : row 2; None", 28) == []


# ---- what is said of a run, a pair and a report, beside what it and its control have recorded

ERASE = {"rows": "0:14", "operation": "erase"}
RECORDED = [
    *({"detach": True} | case for cases in CASES.values() for case in cases if case.get("detach", True)),
    {**ERASE, "random_rows": 5},
    {**ERASE, "probability": 0.99},
    {"rows": "0:20", "operation": "RandomVerticalFlip 1"},
    {"rows": "0:20", "operation": "RandomVerticalFlip 0.5"},
    {"rows": "0:14", "operation": "shift 1", "from_step": 100},
    {"rows": "0:14", "operation": "shift 1", "to_step": 2},
    {"rows": "14:28", "route": "exclude", "from_step": 100},
    {"rows": "14:28", "route": "exclude", "random_rows": 3},
    {"rows": "14", "route": "state"},
    {"rows": "7:28", "route": "state", "random_rows": 1},
    {"rows": "14", "route": "state", "from_step": 100},
    {"rows": "14", "route": "state", "probability": 0},
    {"rows": "14", "route": "state", "probability": 0.5},
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that trains with a scenario's settings, once."""

    @cache
    def train_(words):
        folder = tmp_path_factory.mktemp("recorded") / "run"
        train(configure(*QUICK, "trainer.max_steps=6", "scenario=baseline", *words), folder)
        return folder

    def trained_(settings, detach):
        words = [f"scenario.{name}={value}" for name, value in (settings | {"detach": detach}).items()]
        return open_run(train_((*words, *(["model=gru"] if settings.get("route") == "state" else []))))

    return trained_


@pytest.fixture(params=RECORDED, ids=str)
def pair(request, trained):
    """A run and its control; which of its rows (H,) get zero by detach at some step, and which by something else."""
    run, control = (trained(request.param, detach) for detach in (True, False))
    zero, zero_without = (one.norms["row_grad_norm"] == 0 for one in (run, control))
    return run, control, (zero & ~zero_without).any(0), (zero & zero_without).any(0)


def other_cause(run):
    return ZeroCause.LOSS if run.scenario.route == "exclude" else ZeroCause.OPERATION


def test_each_rows_cause_is_the_one_that_the_records_of_run_and_control_show(pair):
    run, control, by_detach, by_other = pair
    other = other_cause(run)
    for row in range(28):
        shown = [(ZeroCause.DETACH, bool(by_other[row]))] if by_detach[row] else [(other, False)] * bool(by_other[row])
        assert [(part.cause, part.partly) for part in run.zeros if row in part.rows] == shown
        shown = [(other, False)] * bool((control.norms["row_grad_norm"][:, row] == 0).any())
        assert [(part.cause, part.partly) for part in control.zeros if row in part.rows] == shown


def test_closing_lines_sweeps_and_reports_name_who_made_the_zeros_and_nobody_else(pair):
    run, control, by_detach, by_other = pair
    makes = {"detach": bool(by_detach.any()), other_cause(run).value: bool((by_other & ~by_detach).any())}
    lines = describe_run(run, Scenario(height=28, **run.config.scenario)).splitlines()
    first = [place for place, line in enumerate(lines) if line.startswith("made by")]
    made_by = "".join(f"\n{line[15:]}" for line in lines[first[0] :]).partition("\nnone beside")[0] if first else ""
    sweep, report = on_detach("it", [(run, control)]), heatmap_verdict([RunGroup("it", (run,))]).lower()
    for maker, made in makes.items():
        assert (f"\n{maker}" in made_by) == made
        if not run.detaches_state:
            assert (f"{maker} makes the zeros of" in sweep) == made
            assert (maker in report.replace(", not detach,", "").replace("at some steps the operation", "")) == made
    if run.detaches_state:
        assert "detach cuts the state" in sweep
        assert "detach cuts the state" in report
        return
    is_cut = any(makes.values())
    assert ("nothing is cut" in report) == (not is_cut)
    assert ("nothing is cut" in sweep) == (not is_cut and any(run.selected))
    share = f" and stops {percent(run.cut_fraction - control.cut_fraction)} of the squared gradient"
    assert (share in sweep) == ("stops" in sweep) == makes["detach"]


def test_if_a_part_of_the_state_is_cut_it_is_named_and_its_cosine_is_not_1(tmp_path):
    for detach in ("true", "false"):
        words = ["model=lstm", "scenario=truncate", "scenario.state=hidden", f"scenario.detach={detach}"]
        train(configure(*QUICK, *words), tmp_path / detach)
    run, control = (open_run(tmp_path / name) for name in ("true", "false"))
    run.summary["grad_bias/cosine"] = 0.99951
    words = on_detach("it", [(run, control)])
    assert words.startswith("it: detach cuts the hidden state alone that is carried into row 14; ")
    assert words.endswith("; its gradient has cosine 0.9995 with the one without.")
    assert run.zeros == control.zeros == []
    verdict = heatmap_verdict([RunGroup("it", (run,)), RunGroup("control", (control,))])
    assert verdict == (
        "Detach cuts the hidden state alone between rows, and no row gets exactly 0, in it; nothing is cut in control."
    )
    assert "cut            the hidden state alone that is carried into row 14\n" in describe_run(
        run, Scenario(height=28, **run.config.scenario)
    )


@pytest.mark.parametrize(("cosine", "words"), [(1.0, "1.00"), (0.5, "0.50"), (0.9951, "0.995"), (0.999996, "0.999996")])
def test_a_cosine_below_1_is_not_rounded_to_1(cosine, words):
    assert below_one(cosine, 2) == words


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Six runs beside one another."""
    folder = tmp_path_factory.mktemp("beside")
    typed = {
        "baseline": ["scenario=baseline"],
        "other_seed": ["scenario=baseline", "seed=5"],
        "visualize": ["scenario=visualize"],
        "augment": ["scenario=augment"],
        "augment_off": ["scenario=augment", "scenario.detach=false"],
        "modify": ["scenario=modify"],
        "modify_off": ["scenario=modify", "scenario.detach=false"],
        "alone": ["scenario=augment", "seed=5"],
    }
    for name, words in typed.items():
        train(configure(*QUICK, *words), folder / name)
    return {name: open_run(folder / name) for name in typed}


def said(run):
    return dict(describe_comparison(run))


def test_a_run_finds_its_control_and_says_what_detach_changed(runs):
    assert find_control(runs["augment"]).folder.path == runs["augment_off"].folder.path
    assert find_control(runs["augment_off"]).folder.path == runs["augment"].folder.path
    assert find_control(runs["alone"]) is None
    with_, without = (runs[name].summary for name in ("augment", "augment_off"))
    difference = 100 * (with_["test/acc"] - without["test/acc"])
    minus = f"with detach minus without is {difference:+.2f} points in one pair"
    change = minus if difference else "the same in one pair"
    stopped = f"stops {with_['cut_fraction']:.1%} of the squared gradient"
    for name, beside in (("augment", "without detach"), ("augment_off", "with detach")):
        words = said(runs[name])["control"]
        assert beside in words
        assert change in words
        assert words.endswith(f"; detach {stopped}")
    assert said(runs["alone"])["control"].endswith("the same command with scenario.detach=false makes one")


def test_if_the_loss_makes_the_zeros_the_control_is_checked_to_be_bit_identical(runs):
    for name in ("modify", "modify_off"):
        assert runs[name].zeros_by is ZeroCause.LOSS
        assert said(runs[name])["control"].endswith(
            "bit-identical, every recorded norm and every weight. Detach changes nothing"
        )


def test_observing_is_checked_against_the_baseline_of_the_same_seed(runs):
    assert find_baseline(runs["visualize"]).folder.path == runs["baseline"].folder.path
    assert said(runs["visualize"])["baseline"].endswith("every recorded norm and every weight is bit-identical")
    lines = runs["baseline"].folder.norms_file
    before = lines.read_text()
    try:
        lines.write_text(before.replace("1", "2", 1))
        assert "not bit-identical" in said(runs["visualize"])["baseline"]
    finally:
        lines.write_text(before)


@pytest.mark.parametrize(("begins", "says"), [(1, True), (3, False)])
def test_the_cause_is_printed_only_if_there_are_zeros(tmp_path, capsys, begins, says):
    train(configure(*QUICK, "scenario=augment", f"scenario.from_step={begins}"), tmp_path / "run")
    assert ("made by" in capsys.readouterr().out) == says  # of steps 0, 1 and 2


@pytest.mark.parametrize("reported", [None, 3, ["detach"], "the weather"])
def test_a_summary_without_a_cause_leaves_it_to_the_route(runs, reported):
    found = {}
    for name in ("augment", "modify_off", "visualize"):
        run = open_run(runs[name].folder)
        run.summary["zeros_by"] = reported
        found[name] = run.zeros_by
    assert found == {"augment": None, "modify_off": ZeroCause.LOSS, "visualize": ZeroCause.NONE}


def test_neighbours_that_are_nonsense_are_passed_over(runs):
    folder = runs["augment"].folder.path.parent
    facts = runs["augment_off"].folder.summary_file.read_text()
    texts = {"junk": "\0\1", "list": "- scenario: 3", "empty": "", "alias": "a: &a 1\nb: *a", "cycle": "a: &a [*a]"}
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "config.yaml").write_text(text)
        (folder / name / "summary.json").write_text(facts)
    copy = folder / "broken"
    copy.mkdir()
    (copy / "config.yaml").write_text(runs["augment_off"].folder.config_file.read_text())
    (copy / "summary.json").write_text(json.dumps({"status": "done", "test/acc": "high"}))
    assert find_control(runs["augment"]).folder.path == runs["augment_off"].folder.path


def test_the_control_is_found_among_many_neighbours_by_its_config_alone(runs, tmp_path):
    wanted = runs["augment_off"].folder
    config = runs["augment"].folder.config_file.read_text()

    def put(name, text):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
        (tmp_path / name / "summary.json").write_text(wanted.summary_file.read_text())
        return tmp_path / name

    for number, line in enumerate(["lr: 0.01", "batch_size: 128", "deterministic: false", "seed: 0"]):
        assert line in config
        other = config.replace(line, f"{line.partition(':')[0]}: 7")
        put(str(number), other.replace("  detach: true", "  detach: false"))
    run = put("run", config)
    assert find_control(open_run(run)) is None
    (tmp_path / "control").symlink_to(wanted.path)
    assert find_control(open_run(run)).folder.path == tmp_path / "control"


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([3, 3, 0], "rows 0–1: exactly 0.0 at each of 3 steps"),
        ([3, 1, 0], "row 0: exactly 0.0 at each of 3 steps; row 1 at some of them"),
        ([0, 1, 0], "row 1: exactly 0.0 at some of 3 steps"),
        ([0, 0, 0], "no row: gradient reached every row"),
    ],
)
def test_the_words_say_which_rows_are_cut_at_each_step_and_which_at_some(counts, words):
    assert describe_cut(torch.tensor(counts), 3, "exactly 0.0") == words
    assert describe_cut(None, 3) == "not recorded"
