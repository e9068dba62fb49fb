"""The commands as people type them: real processes, real files, real signals."""

import pytest
import torch
from conftest import (
    LIGHT,
    PROJECT,
    QUICK,
    TRAIN,
    assert_identical,
    command,
    configure,
    done,
    events,
    norms,
    summary,
    train,
)
from omegaconf import OmegaConf

from rowgrad.training.train import evaluate, load_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One run by the real command: what it printed, and its folder."""
    folder = tmp_path_factory.mktemp("trained")
    result = done(TRAIN, *QUICK, "scenario=augment", "trainer.max_epochs=2", cwd=folder)
    (run,) = folder.glob("logs/*/*")
    assert run.name == "seed-0"
    return result, run


def test_a_run_ends_with_what_people_want_to_know(trained):
    result, run = trained
    facts = summary(run)
    first, *_, accuracy, cut, share, maker, control, weights_, folder, watch = result.stdout.splitlines()
    assert first == (
        "scenario       Rows 0–13 are detached, shifted by +1 with probability 0.5 and fed to the network."
    )
    assert accuracy == (
        f"test accuracy  {facts['test/acc']:.2%}; {facts['test/acc_operated']:.2%}"
        " with the rows shifted by +1 in every image"
    )
    assert cut == "cut            rows 0–13: row gradient exactly 0.0 at each of 22 steps"
    energy = f"{facts['cut_fraction']:.1%} of the squared gradient at the network's input"
    assert share.strip() == f"{energy} arrives there and goes no further"
    assert maker.startswith("made by        detach (scenario.py:")
    assert maker.endswith("): the loss uses these rows, and without detach gradient would reach them")
    assert maker in (PROJECT / "README.md").read_text()  # the line number too
    assert control == "control        none beside it; the same command with scenario.detach=false makes one"
    assert weights_ == "weights        on the same batch, their gradient is exactly what it would be without detach"
    where = f"logs/{run.parent.name}/{run.name}"
    assert folder == f"run's folder   {where}"
    assert watch.startswith("watch it ")
    assert watch.endswith(f"tensorboard --logdir {where}, then http://localhost:6006/#rowgrad")
    assert "Traceback" not in result.stderr


def test_a_runs_folder_holds_what_is_promised(trained):
    _, run = trained
    files = {
        str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and "tensorboard" not in path.parts
    }
    assert files == {
        "config.yaml", "summary.json", "row_gradients.csv",
        "checkpoints/last.ckpt", "checkpoints/best.ckpt", "checkpoints/previous.ckpt",
    }  # fmt: skip
    facts = summary(run)
    assert facts["status"] == "done"
    assert (facts["scenario"], facts["data"], facts["seed"], facts["device"]) == ("augment", "digits", 0, "cpu")
    assert facts["train/steps"] == 22
    assert facts["torch"] == torch.__version__.partition("+")[0]
    assert all(not isinstance(value, dict | list) for value in facts.values())
    for tag in ("test/acc", "test/loss", "test/acc_operated", "val/acc"):
        assert events(run)[tag][-1][1] == pytest.approx(facts[tag])
    energy = events(run)["grad_flow/cut_fraction"]
    assert facts["cut_fraction"] == pytest.approx(sum(value for _, value in energy) / len(energy))


def test_the_saved_config_repeats_the_run(trained):
    _, run = trained
    config = OmegaConf.load(run / "config.yaml")
    expected = configure(*QUICK, "scenario=augment", "trainer.max_epochs=2")
    assert config == OmegaConf.create(OmegaConf.to_container(expected, resolve=True))
    again = run.parent / "again"
    arguments = [f"--config-path={run}", "--config-name=config", f"hydra.run.dir={again}"]
    done(TRAIN, *arguments, cwd=run.parent)
    assert_identical(again, run)


def test_the_traceback_can_be_had(tmp_path):
    result = command(TRAIN, *QUICK, "scenario.rows=28", cwd=tmp_path, env={"HYDRA_FULL_ERROR": "1"})
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_nothing_heavy_is_imported_to_answer_at_once(tmp_path, arguments):
    code = (
        "import runpy, sys\n"
        f"sys.argv = {[str(TRAIN), *arguments]}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except BaseException: pass\n"
        "assert 'hydra' in sys.modules\n"
        "print('heavy:', sorted({'torch', 'lightning', 'tensorboard', 'sklearn', 'numpy'} & set(sys.modules)))\n"
    )
    assert command("-c", code, cwd=tmp_path, imports=LIGHT).stdout.endswith("heavy: []\n")


@pytest.mark.slow
@pytest.mark.mnist
def test_the_first_command_of_the_readme_does_what_it_promises_on_mnist(tmp_path, mnist):

    done(TRAIN, cwd=tmp_path, env={"MNIST_ROOT": str(mnist)}, timeout=600)
    (run,) = (tmp_path / "logs" / "augment").iterdir()
    facts = summary(run)
    assert facts["data"] == "mnist"
    assert facts["test/acc"] >= 0.985
    assert facts["test/acc_operated"] >= 0.985
    assert facts["train/steps"] == 430
    row, into = norms(run, "row_grad_norm"), norms(run, "input_grad_norm")
    assert (row[:, :14] == 0).all()
    assert (row[:, 14:] > 0).all()
    assert (into > 0).all()
    scalars = events(run)
    for r in range(28):
        values = {q: [v for _, v in scalars[f"{q}/row_{r:02d}"]] for q in ("row_grad_norm", "input_grad_norm")}
        assert len(values["row_grad_norm"]) == len(values["input_grad_norm"]) == 430
        assert all((value == 0) == (r < 14) for value in values["row_grad_norm"])
        assert all(value > 0 for value in values["input_grad_norm"])


def test_evaluation_goes_by_the_last_step_that_was_trained(tmp_path):
    results = {}
    scenario = ["scenario=modify", "scenario.from_step=2", "model=mlp"]
    for name, schedule in {"over": ["scenario.to_step=4"], "last": ["scenario.to_step=5"], "not yet": []}.items():
        steps = 2 if name == "not yet" else 5
        train(configure(*QUICK, *scenario, *schedule, f"trainer.max_steps={steps}"), tmp_path / name)
        results[name] = evaluate(*load_run(tmp_path / name))
        assert results[name] == {key: summary(tmp_path / name)[key] for key in results[name]}
    assert results["last"]["test/acc"] == results["last"]["test/acc_operated"]  # black in both
    assert results["over"]["test/acc"] != results["over"]["test/acc_operated"]
    assert results["not yet"]["test/acc"] != results["not yet"]["test/acc_operated"]
