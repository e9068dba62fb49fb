"""The examples and the blocks of docs/tap.md and docs/cuts.md run unchanged. Gradients are compared with autograd's."""

import csv
import json
import re
import runpy
from pathlib import Path

import pytest
import torch
from conftest import PROJECT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.functional import cross_entropy

import rowgrad

CUTS = (PROJECT / "docs" / "cuts.md").read_text()
PAGE = (PROJECT / "docs" / "tap.md").read_text() + CUTS
PRINTED = re.findall(r"^```text\n(.*?)```", CUTS, re.MULTILINE | re.DOTALL)
BLOCKS = dict(re.findall(r"^## ([^\n]*)\n\n```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
LIGHTNINGS = "lightning_logs/version_0"

# What Lightning says of few workers and short epochs; anything that we cause is an error.
pytestmark = pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recorded(file):
    """Steps, columns, and the table (T, columns) of a file of norms."""
    with file.open() as lines:
        head, *body = csv.reader(lines)
    return [int(line[0]) for line in body], head[1:], torch.tensor([[float(value) for value in v[1:]] for v in body])


def scalars(folder):
    """The scalars of an event file."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def row_norms(loss, x):
    """‖∂L/∂x_r‖ of every row, of the sum over the batch, by autograd's own account."""
    (gradient,) = torch.autograd.grad(loss, x)
    gradient = gradient.sum(0).double()
    return gradient.movedim(-2, 0).flatten(1).norm(dim=1)


def run_example(name, classname, expect, folder):
    """Runs an example for five steps; `expect` computes each step's norms in the module, before the step."""
    main = runpy.run_path(str(PROJECT / "examples" / name))["main"]
    plain, expected = main.__globals__[classname], []

    class Spied(plain):
        def training_step(self, batch, batch_idx):
            expected.append(expect(self, batch))
            return super().training_step(batch, batch_idx)

    main.__globals__[classname] = Spied
    main(["--steps", "5", "--out", str(folder)])
    return recorded(folder / LIGHTNINGS / "row_gradients.csv"), torch.stack(expected)


def test_own_module_has_the_norms_of_autograd(here, capsys):
    def expect(module, batch):
        images = batch[0].clone().requires_grad_()
        return row_norms(cross_entropy(module.network(images), batch[1]), images)

    (steps, columns, norms), expected = run_example("own_module.py", "Classifier", expect, here)
    assert steps == [0, 1, 2, 3, 4]
    assert columns == [f"tap_grad_norm/row_{row:02d}" for row in range(32)]
    torch.testing.assert_close(norms.double(), expected, rtol=1e-3, atol=0)
    assert (norms > 0).all()
    assert f"tensorboard --logdir {here}" in capsys.readouterr().out
    tags = scalars(here / LIGHTNINGS)
    assert [value for _, value in tags["tap_grad_norm/row_09"]] == pytest.approx(norms[:, 9].tolist())


def test_tokens_behind_the_mask_are_exactly_zero(here, capsys):
    def expect(module, batch):
        tokens = batch[0]
        x = (module.embedding(tokens) + module.position).detach().requires_grad_()
        padding = (torch.arange(16) >= 12).expand(len(tokens), -1)
        mixed = module.encoder(x, src_key_padding_mask=padding)
        return row_norms(cross_entropy(module.head(mixed[:, 11]), tokens[:, 0]), x)

    (steps, columns, norms), expected = run_example("tokens.py", "Recall", expect, here)
    assert steps == [0, 1, 2, 3, 4]
    assert columns == [f"encoder_grad_norm/row_{row:02d}" for row in range(16)]
    torch.testing.assert_close(norms.double(), expected, rtol=1e-3, atol=0)
    assert (norms[:, 12:] == 0).all()
    assert (norms[:, :12] > 0).all()
    assert "exactly 0 in [12, 13, 14, 15]" in capsys.readouterr().out


def test_the_examples_mark_their_lines():
    texts = [(PROJECT / "examples" / name).read_text() for name in ("own_module.py", "tokens.py")]
    marked = [[line.strip() for line in text.splitlines() if "# <- " in line] for text in texts]
    starts = [["self.tap = RowTap()", "x = self.tap(x)", "recorder = RowGradientRecorder()"]]
    starts += [['recorder = RowGradientRecorder(modules="encoder")']]
    assert [[line.partition("  #")[0] for line in lines] for lines in marked] == starts


def run_block(title, file="block.py"):
    """Runs a block of a page as a file in the working directory; what it has defined."""
    Path(file).write_text(BLOCKS[title])
    names = {"__name__": "__main__"}
    exec(compile(BLOCKS[title], file, "exec"), names)
    return names


def test_every_block_is_run_here():
    assert len(BLOCKS) == PAGE.count("```python")
    tested = re.findall(r'run_block\("([^"]*)"', (PROJECT / "tests" / "test_examples.py").read_text())
    assert set(BLOCKS) == set(tested)


def test_the_two_lines(here):
    norms = run_block("The two lines")["norms"]
    steps, columns, table = recorded(here / LIGHTNINGS / "row_gradients.csv")
    assert (steps, len(columns)) == (list(range(8)), 32)
    torch.testing.assert_close(table.double(), norms["tap_grad_norm"].double())
    assert len(scalars(here / LIGHTNINGS)["tap_grad_norm/row_31"]) == 8


def test_without_touching_the_module(here):
    module = run_block("Without touching the module")["trainer"].lightning_module
    steps, columns, table = recorded(here / LIGHTNINGS / "row_gradients.csv")
    assert (steps, len(columns)) == ([0, 1, 2, 3], 12)
    assert (table > 0).all()
    assert not module.encoder._forward_pre_hooks


def test_without_lightning(here):
    run_block("Without Lightning")
    steps, columns, table = recorded(here / "runs" / "mine" / "row_gradients.csv")
    assert (steps, len(columns)) == ([0, 1, 2], 6)
    assert (table > 0).all()
    assert [step for step, _ in scalars(here / "runs" / "mine")["0_grad_norm/row_05"]] == [0, 1, 2]


@pytest.mark.usefixtures("here")
def test_another_tensor():
    run_block("Another tensor, another dimension")


def test_pairs(here):
    run_block("Pairs: what a cut stops")
    _, columns, table = recorded(here / LIGHTNINGS / "row_gradients.csv")
    before, after = table[:, :8].double(), table[:, 8:].double()
    assert columns[8] == "after_grad_norm/row_00"
    assert (before[:, :4] == 0).all()
    assert before[:, 4:].equal(after[:, 4:])
    energy = after.square()
    logged = [value for _, value in scalars(here / LIGHTNINGS)["grad_flow/cut_fraction"]]
    assert logged == pytest.approx((energy[:, :4].sum(1) / energy.sum(1)).tolist(), rel=1e-5)


@pytest.mark.usefixtures("here")
def test_the_shortest_example_prints_what_the_page_and_the_readme_show(capsys):
    run_block("The shortest example", "four.py")
    printed = capsys.readouterr().out
    assert printed == PRINTED[0]
    readme = (PROJECT / "README.md").read_text()
    code, text = re.search(
        r"## Where does gradient end.*?```python\n(.*?)```\n\n```text\n(.*?)```", readme, re.DOTALL
    ).groups()
    assert BLOCKS["The shortest example"].endswith(code)
    assert printed.startswith(text)


def test_find_cuts_prints_what_the_page_shows_and_finds_the_three_mistakes(monkeypatch, capsys):
    folder = PROJECT / "examples"
    monkeypatch.syspath_prepend(folder)
    found = runpy.run_path(str(folder / "find_cuts.py"))["main"]()
    assert capsys.readouterr().out == PRINTED[1]
    lines = [Path(cut.file).read_text().splitlines()[cut.line - 1].strip() for cut in found.cuts]
    assert lines == ["return x.detach().clone()", "with torch.no_grad():"]
    assert [name for name, one in found.parameters.items() if one.status == "unused"] == ["norm.weight", "norm.bias"]


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # noqa: ARG004
        return x.round()

    @staticmethod
    def backward(ctx, gradient):  # noqa: ARG004
        return None


@pytest.mark.parametrize(("kind", "code"), re.findall(r"^\| `([^`]*)` \| `([^`]*h[^`]*)` \|", CUTS, re.MULTILINE))
def test_each_kind_of_the_table_is_found_in_its_line(kind, code):
    names = {"torch": torch, "Rounded": Rounded}
    exec(f"def middle(h):\n    {code}\n    return y", names)
    first, last, x = torch.nn.Linear(4, 8), torch.nn.Linear(8, 1), torch.randn(3, 4)
    found = rowgrad.find_cuts(
        torch.nn.ModuleList([first, last]), lambda: (names["middle"](first(x)) + last.weight).square().mean()
    )
    assert [(cut.kind, cut.line, cut.reaches_loss) for cut in found.cuts] == [(kind, 2, True)]


def test_the_table_has_all_kinds():
    listed = re.findall(r"^\| `([^`]*)` \| `([^`]*h[^`]*)` \|", CUTS, re.MULTILINE)
    described = re.search(r"kind: how it ends gradient: (.*?)\n        operation", rowgrad.Cut.__doc__, re.DOTALL)[1]
    assert {kind for kind, _ in listed} == set(re.findall(r"`([^`]*)`", described))


def test_in_a_trainer(here):
    with pytest.warns(UserWarning, match=r"^encoder.weight and 1 other parameter got no gradient in the first step: "):
        run_block("In a Trainer", "trainer.py")
    content = json.loads((here / LIGHTNINGS / "gradient_cuts.json").read_text())
    assert content["parameters"]["encoder.weight"] == {"status": "cut", "cuts": [0], "optimizer": True}
    assert [cut["code"] for cut in content["cuts"]] == ["states = self.encoder(x).detach()"]
