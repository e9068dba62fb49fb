"""What people type wrong: one or two lines that name the key or file and what is accepted, no traceback."""

import json
import socket

import pytest
from conftest import LIGHT, TRAIN, command, configure, refused, start
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rowgrad.data.settings import DATA_SETS
from rowgrad.data.sources import SOURCES
from rowgrad.errors import UserError
from rowgrad.model.settings import OptimizerSettings
from rowgrad.training.settings import OFFERED, read_settings

OPERATIONS = "Accepted: none, shift, scale, noise, flip, blur, erase, static, quantise, each with its number"
ROWS = "Accepted: all, none, an index (5, -1), a slice (0:14, ::2) or a list of these ([0:3,-1])."
RANGE = "an image has 28 rows, 0 to 27 (or -28 to -1 from the bottom)"

# What is typed -> what is answered after "Cannot train: ". Nothing heavy is imported to know any of these.
# The tests of each class of settings have more values that are not accepted.
QUICK = {
    "scenario=augmnt": "scenario=augmnt is unknown; did you mean augment? Accepted: augment, baseline, modify, ",
    "model.network.hidden=128": "Could not override 'model.network.hidden'. Key 'hidden' is not in struct. Accepted: ",
    "model=vit": "model=vit is unknown. Accepted: cnn, gru, lstm, mlp, rnn, transformer.",
    "data=mnits": "data=mnits is unknown; did you mean mnist? Accepted: digits, fashion_mnist, kmnist, mnist.",
    "scenario.row=3": "Could not override 'scenario.row'. Key 'row' is not in struct. Did you mean: 'rows'?",
    "sceanrio=augment": "Could not override 'sceanrio'. Key 'sceanrio' is not in struct. Did you mean: 'scenario'?",
    "seed": "'seed' cannot be read (missing EQUAL at '<EOF>'). Write key=value.",
    "scenario.rows=[0:3": "'scenario.rows=[0:3' cannot be read (no viable alternative at input '[0:3'). Write ",
    "scenario.rows=28": f"scenario.rows=28 is out of range: {RANGE}.",
    "scenario.rows=top": f"scenario.rows=top is not a row selection. {ROWS}",
    "scenario.rows=14:14": f"scenario.rows=14:14 names no row: {RANGE}. For no row write none.",
    "scenario.rows=null": f"scenario.rows=None is not a row selection. {ROWS}",
    "scenario.operation=shfit": f"scenario.operation=shfit: there is no operation 'shfit'. {OPERATIONS}",
    "scenario.operation=3": "scenario.operation=3 is not an operation.",
    "scenario.operation=quantise 1": "scenario.operation=quantise: levels=1.0 is not a whole number of at least 2.",
    "scenario.random_rows=15": "scenario.random_rows=15 is not at most 14, the number of rows in scenario.rows.",
    "scenario={from_step:5,to_step:5}": "scenario.to_step=5 is not more than scenario.from_step=5.",
    "corruption=row_shft": "corruption=row_shft is unknown; did you mean row_shift? Accepted: none, row_noise, ",
    "model.checkpoint=3": "model.checkpoint=3 is not a run's folder, or null.",
    "model.checkpoint=nowhere": "model.checkpoint=nowhere is not a run's folder or checkpoint: there is no nowhere/",
    "data.batch_size=0": "data.batch_size=0 is not a whole number of at least 1.",
    "data.batch_size=many": "data.batch_size=many is not a whole number of at least 1.",
    "data.name=minst": "data.name=minst is not one of mnist, fashion_mnist, kmnist, digits.",
    "data.shift=-1": "data.shift=-1 is not a whole number of at least 0.",
    "data.fallback=none": "data.fallback=none is not one of mnist, fashion_mnist, kmnist, digits, or null.",
    "optimizer.lr=fast": "optimizer.lr=fast is not a number of at least 0.",
    "seed=-1": "seed=-1 is not a whole number from 0 to 4294967295.",
    "trainer.max_epochs=0": "trainer.max_epochs=0 is not a whole number of at least 1, or -1 for no limit.",
    "trainer.accelerator=gpuu": "trainer.accelerator=gpuu is not one of auto, cpu, gpu, cuda, mps, tpu.",
    "trainer.precision=half": "trainer.precision=half is not one of 32-true, 16-mixed, bf16-mixed",
    "callbacks.recorder.every_n_steps=0": "callbacks.recorder.every_n_steps=0 is not a whole number of at least 1.",
    "callbacks.recorder.quantities=[norm]": "callbacks.recorder.quantities=['norm'] is not a list of one or more of ",
    "+nonsense=1": "nonsense is unknown. Accepted: seed, resume, trust, data, ",
    "+sead=1": "sead is unknown; did you mean seed?",
    "+scenario.detatch=false": "scenario.detatch is unknown; did you mean detach? Accepted: name, rows, ",
    "+callbacks.recorder.evry_n_steps=2": "callbacks.recorder.evry_n_steps is unknown; did you mean every_n_steps?",
    "model.network=null": "model.network=None is not a group of settings.",
    "callbacks.histograms=none": "callbacks.histograms=none is not a _target_ with its arguments, or null.",
    "logger=cvs": "logger=cvs is unknown; did you mean csv? Accepted: csv, none, tensorboard, wandb.",
    "logger=[csv,tensorbord]": "logger=tensorbord is unknown; did you mean tensorboard? Accepted: csv, none, ",
    "logger.csv.foo=1": "Could not override 'logger.csv.foo'. Key 'csv' is not in struct",
    "logger.tensorboard=3": "logger.tensorboard=3 is not a _target_ with its arguments, or null.",
    "+trainer.logger=csv": "trainer.logger is decided by another key: write logger=csv or logger=none.",
    "data.root=${nowhere}": "Interpolation key 'nowhere' not found",
}

ANSWERS = """
import json, sys
import rowgrad
from rowgrad.errors import words_for
answers = {}
for typed in sys.argv[1:]:
    try:
        rowgrad.train(*([] if typed.startswith("data=") else ["data=digits"]), typed)
    except Exception as error:
        answers[typed] = words_for(error) or repr(error)
assert not {"torch", "lightning", "sklearn"} & set(sys.modules)
print(json.dumps(answers))
"""


def test_mistakes_are_answered_at_once_and_in_plain_words(tmp_path):
    result = command("-c", ANSWERS, *QUICK, cwd=tmp_path, imports=LIGHT)
    answers = json.loads(result.stdout)
    assert answers.keys() == QUICK.keys()
    assert not {typed: words for typed, words in answers.items() if not words.startswith(QUICK[typed])}
    assert not list(tmp_path.rglob("*.*"))


def test_runs_that_start_together_never_share_a_folder(tmp_path):
    arguments = [TRAIN, "data=digits", "model=mlp", "trainer.max_steps=1", "callbacks.pictures=null"]
    processes = [start(*arguments, cwd=tmp_path) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    runs = list((tmp_path / "logs").glob("*/*"))
    assert sorted(run.name for run in runs) == ["seed-0", "seed-0_2", "seed-0_3"]
    assert all((run / "summary.json").is_file() for run in runs)
    assert {path.name for path in tmp_path.iterdir()} == {"logs"}


# ---- any value at all

JUNK = (
    st.none()
    | st.booleans()
    | st.integers(-3, 100)
    | st.floats()
    | st.text(max_size=6)
    | st.lists(st.integers(-40, 40) | st.text(max_size=4), max_size=3)
    | st.dictionaries(st.text(max_size=4), st.integers(-40, 40), max_size=2)
)


KEYS = [part.full_key(name) for part in OFFERED for name in part.defaults()]


@settings(max_examples=500, derandomize=True, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(key=st.sampled_from(KEYS), value=JUNK)
def test_any_value_of_any_key_is_accepted_or_named(key, value):
    default = OmegaConf.select(BASE, key)
    OmegaConf.update(BASE, key, value, merge=False)
    try:
        read_settings(BASE)
    except UserError as error:
        assert key in str(error)  # noqa: PT017
    finally:
        OmegaConf.update(BASE, key, default, merge=False)


BASE = configure("data=digits")


def test_every_default_is_accepted_and_every_key_is_in_the_config():
    read_settings(BASE)
    for key in KEYS:
        assert OmegaConf.select(BASE, key, default="absent") != "absent"


def test_a_value_is_checked_where_it_is_used_too():
    with pytest.raises(UserError, match=r"optimizer\.lr=-1 is not a number of at least 0\."):
        OptimizerSettings(lr=-1)


def test_the_data_sets_of_the_config_are_those_that_can_be_loaded():
    assert set(DATA_SETS) == set(SOURCES)


def test_a_sweep_is_not_started_over_several_ranks(tmp_path):
    arguments = ["-m", "data=digits", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "seed=0,1"]
    line = refused(TRAIN, *arguments, cwd=tmp_path)
    assert "trainer=ddp cannot go with -m. Start one command for each run." in line


def test_nothing_listens_on_the_port_that_stands_for_no_network():
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 9)) != 0
