"""Command lines that are put together from the typed config: each is a plain line, or a run that ends."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import CONFIGS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import rowgrad
from rowgrad.errors import words_for
from rowgrad.training.settings import OFFERED

EXAMPLES = int(os.environ.get("ROWGRAD_FUZZ", "40"))
SECONDS = 60  # a run of two steps that takes longer hangs
TINY = ["data=digits", "model=mlp", "model.network.hidden=[8]", "trainer.accelerator=cpu", "trainer.max_steps=2"]
TINY += ["data.eval_batch_size=300", "data.batch_size=64", "callbacks.progress=null", "callbacks.pictures=null"]

GROUPS = {folder.name: [file.stem for file in folder.glob("*.yaml")] for folder in CONFIGS.iterdir() if folder.is_dir()}
# Processes, machines, minutes, and what is elsewhere: other tests have these.
ELSEWHERE = {"sweep", "experiment", "hydra"}
SLOW = {"trainer.devices", "trainer.num_nodes", "trainer.compile", "trainer.max_epochs", "trainer.max_steps", "resume"}
SLOW |= {"trainer.accelerator", "data.source", "data.root", "data.name", "data.fallback"}
KEYS = sorted({part.full_key(name) for part in OFFERED for name in part.defaults()} - SLOW)
INNER = ["model.network.hidden", "model.network.dropout", "optimizer.algorithm.betas", "optimizer.algorithm.fused"]
INNER += [
    "logger.tensorboard",
    *(f"callbacks.{name}" for name in ("recorder", "pictures", "histograms", "checkpoints")),
]
NEW = ["nonsense", "scenario.nonsense", "trainer.limit_train_batches", "trainer.overfit_batches", "trainer.profiler"]
NEW += ["trainer.val_check_interval", "trainer.fast_dev_run", "trainer.reload_dataloaders_every_n_epochs", "trainer.x"]
NEW += ["optimizer.algorithm.eps", "optimizer.algorithm.x", "model.network.x", "model.metrics.m", "callbacks.c"]
NEW += ["logger.l"]

NUMBERS = st.one_of(
    st.integers(-3, 40).map(str),
    st.sampled_from(["1e400", "nan", "inf", "-inf", "0.5", "-0.0", "1e-300", "4294967296", "99999999999999999999"]),
)
OPERATIONS = ["shift", "scale", "noise", "flip", "blur", "erase", "static", "quantise", "none", "RandomRotation", "Pad"]
OPERATIONS += ["ToPILImage", "MixUp", "GaussianBlur", "Lambda", "Normalize", "RandomErasing", "Compose", "Resize", "x"]
ODD = ["null", "true", "false", "none", "all", "''", "[]", "{}", "[1,2]", "{a:1}", "[[row,input]]", "??", "../x"]
ODD += ["{_target_:torch.nn.Identity}", "{_target_:os.nothing}", "{_target_:3}", "${seed}", "${no}"]
ROWS = ["0:14", "::2", "-1", "0:99", "[0:3,-1]", "14:0", "::0", "replace", "observe", "exclude", "16-true"]
TEXTS = st.one_of(
    st.sampled_from(ODD),
    st.sampled_from(ROWS),
    st.sampled_from(["[/x]", "a/b", "$x$", "'a b'", "x" * 300, "\\{", "=", "a=b", "a,b", "'", "[", "é", "bf16-mixed"]),
    st.builds(lambda name, *numbers: f"'{' '.join([name, *numbers])}'", st.sampled_from(OPERATIONS), NUMBERS),
    st.text(max_size=5),
)
VALUES = st.one_of(NUMBERS, TEXTS)
WORDS = st.one_of(
    st.builds("{}={}".format, st.sampled_from([*KEYS, *INNER]), VALUES),
    st.builds("+{}={}".format, st.sampled_from(NEW), VALUES),
    st.builds("{}={}".format, st.sampled_from(sorted(GROUPS.keys() - ELSEWHERE - {"data", "trainer"})), VALUES),
    st.sampled_from(
        [f"{group}={choice}" for group in ("scenario", "corruption", "callbacks") for choice in GROUPS[group]]
    ),
    st.builds("~{}".format, st.sampled_from([*KEYS, *INNER])),
)


@contextmanager
def ending_within(seconds: int):
    """Fails where what is inside takes longer."""

    def hangs(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    derandomize="ROWGRAD_FUZZ" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(WORDS, min_size=1, max_size=3))
def test_any_command_line_is_a_plain_line_or_a_run_that_ends(words):
    folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
    try:
        with ending_within(SECONDS):
            run = rowgrad.train(*TINY, f"hydra.run.dir='{folder / 'run'}'", *words)
        assert run.status in {"done", "dry run"}
    except Exception as error:
        plain = words_for(error)
        if plain is None:
            raise
        assert plain.strip(), words
        assert len(plain.splitlines()) <= 2, plain
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what is empty is gone already
        OmegaConf.clear_cache(OmegaConf.create())
