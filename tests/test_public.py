"""The public names of `import rowgrad`, and the commands `scripts/train.py` and `python -m rowgrad`."""

import doctest
import inspect

import pytest
import torch
from conftest import LIGHT, QUICK, TRAIN, command, norms, refused, summary

import rowgrad
from rowgrad.errors import UserError


def test_importing_it_imports_nothing_heavy(tmp_path):
    code = "import sys, rowgrad; print(sorted({'torch', 'lightning', 'numpy', 'hydra'} & set(sys.modules) - {'hydra'}))"
    assert command("-c", code, cwd=tmp_path, imports=LIGHT).stdout == "[]\n"


def test_the_public_names_are_listed_and_no_other_is_there():
    assert dir(rowgrad) == sorted(rowgrad.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rowgrad.nothing


class SilentExamples(doctest.OutputChecker):
    """Compares only what an example says that it prints."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


@pytest.mark.parametrize("name", rowgrad.__all__)
def test_the_example_of_each_public_name_is_right(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, **{other: getattr(rowgrad, other) for other in rowgrad.__all__}}
    text = inspect.getdoc(getattr(rowgrad, name))
    example = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert example.examples, f"{name} has no example"
    problems = []
    failed, _ = doctest.DocTestRunner(SilentExamples()).run(example, out=problems.append)
    assert not failed, "".join(problems)


def test_a_run_can_be_trained_opened_and_drawn_in_a_notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = rowgrad.train(*QUICK, "scenario=augment", "seed=3", "trainer.max_steps=4")
    assert run.folder.path == tmp_path / "logs" / "augment_data-digits_max_steps-4" / "seed-3"
    again = rowgrad.open_run(str(run.folder))
    for opened in (run, again):
        assert opened.steps.tolist() == [0, 1, 2, 3]
        assert opened.norms["row_grad_norm"].equal(norms(run.folder.path, "row_grad_norm"))
        assert opened.summary == summary(run.folder.path)
        assert (opened.status, opened.seed, opened.height) == ("done", 3, 28)
        assert opened.theta.shape == (1, 28, 28)
        assert set(opened.figures()) == {"row_gradients", "learnt_rows"}
    longer = rowgrad.train(f"resume={run.folder}", "trainer.max_steps=6")
    assert longer.steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert longer.config.trainer.max_steps == 6


def test_a_mistake_in_a_notebook_raises_a_user_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"scenario\.rows=28 is out of range"):
        rowgrad.train("data=digits", "scenario.rows=28")
    with pytest.raises(UserError, match="nowhere is not a run's folder"):
        rowgrad.open_run("nowhere")
    assert not list(tmp_path.iterdir())


def test_help_has_the_meaning_and_the_default_of_every_key(tmp_path):
    from rowgrad.training.settings import OFFERED

    result = command(TRAIN, "--help", cwd=tmp_path, imports=LIGHT)
    assert "scenario: augment, baseline, modify, truncate, visualize" in result.stdout
    for part in OFFERED:
        for name in part.defaults():
            (line,) = (line for line in result.stdout.splitlines() if line.startswith(f"{part.full_key(name)}="))
            assert part.parts()[name].metadata["words"] in line


def test_a_start_that_fails_says_one_line_and_leaves_everything_as_it_was(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "mine.txt").write_text("mine")
    assert refused(TRAIN, *QUICK, "scenario.rows=28", cwd=tmp_path).startswith("Cannot train: ")
    assert [path.name for path in tmp_path.rglob("*")] == ["logs", "mine.txt"]
