"""What people type wrong: one or two lines that name the key or file and what is accepted, no traceback."""

import json
import math
import os
import shutil
import socket
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import LIGHT, TRAIN, command, configure, start
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rowgrad.data.datamodule import ImageData
from rowgrad.data.settings import DATA_SETS, DataSettings
from rowgrad.data.sources import SOURCES
from rowgrad.errors import UserError
from rowgrad.model.settings import OptimizerSettings
from rowgrad.training.settings import OFFERED, read_settings

OPERATIONS = "Accepted: none, shift, scale, noise, flip, blur, erase, static, quantise, each with its number"
ROWS = "Accepted: all, none, an index (5, -1), a slice (0:14, ::2) or a list of these ([0:3,-1])."
RANGE = "an image has 28 rows, 0 to 27 (or -28 to -1 from the bottom)"

# What is typed -> what is answered after "Cannot train: ". Nothing heavy is imported to know any of these.
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
    "scenario.rows=-29": f"scenario.rows=-29 is out of range: {RANGE}.",
    "scenario.rows=top": f"scenario.rows=top is not a row selection. {ROWS}",
    "scenario.rows=0-14": f"scenario.rows=0-14 is not a row selection. {ROWS}",
    "scenario.rows=14:14": f"scenario.rows=14:14 names no row: {RANGE}. For no row write none.",
    "scenario.rows=null": f"scenario.rows=None is not a row selection. {ROWS}",
    "scenario.rows=1.5": f"scenario.rows=1.5 is not a row selection. {ROWS}",
    "scenario.rows={top:1}": f"scenario.rows={{'top': 1}} is not a row selection. {ROWS}",
    "scenario.rows=[]": f"scenario.rows=[] names no row; for no row write none. {ROWS}",
    "scenario.rows=::0": "scenario.rows=::0: a slice's step cannot be 0.",
    "scenario.operation=shfit": f"scenario.operation=shfit: there is no operation 'shfit'. {OPERATIONS}",
    "scenario.operation=shift one": "scenario.operation=shift one: after the name come numbers.",
    "scenario.operation=3": "scenario.operation=3 is not an operation.",
    "scenario.operation=quantise 1": "scenario.operation=quantise 1: the number of levels is a whole number",
    "scenario.random_rows=15": "scenario.random_rows=15 is not at most 14, the number of rows in scenario.rows.",
    "scenario.random_rows=some": "scenario.random_rows=some is not a whole number of at least 0, or null.",
    "scenario.from_step=-1": "scenario.from_step=-1 is not a whole number of at least 0.",
    "scenario.to_step=0": "scenario.to_step=0 is not a whole number of at least 1, or null.",
    "scenario={from_step:5,to_step:5}": "scenario.to_step=5 is not more than scenario.from_step=5.",
    "scenario.straight_through=1": "scenario.straight_through=1 is not true or false.",
    "corruption=row_shft": "corruption=row_shft is unknown; did you mean row_shift? Accepted: none, row_noise, ",
    "corruption.rows=28": f"corruption.rows=28 is out of range: {RANGE}.",
    "corruption.offset=much": "corruption.offset=much is not a finite number.",
    "corruption.std=-1": "corruption.std=-1 is not a number of at least 0.",
    "model.checkpoint=3": "model.checkpoint=3 is not a run's folder, or null.",
    "model.checkpoint=nowhere": "model.checkpoint=nowhere is not a run's folder or checkpoint: there is no nowhere/",
    "model.freeze=2": "model.freeze=2 is not true or false.",
    "scenario.detach=maybe": "scenario.detach=maybe is not true or false.",
    "scenario.probability=2": "scenario.probability=2 is not a number from 0 to 1.",
    "scenario.route=drop": "scenario.route=drop is not one of replace, observe, exclude, state.",
    "data.batch_size=0": "data.batch_size=0 is not a whole number of at least 1.",
    "data.batch_size=many": "data.batch_size=many is not a whole number of at least 1.",
    "data.batch_size=1.5": "data.batch_size=1.5 is not a whole number of at least 1.",
    "data.fallback=none": "data.fallback=none is not one of mnist, fashion_mnist, kmnist, digits, or null.",
    "optimizer.lr=-0.1": "optimizer.lr=-0.1 is not a number of at least 0.",
    "optimizer.lr=fast": "optimizer.lr=fast is not a number of at least 0.",
    "optimizer.rows_lr=-1": "optimizer.rows_lr=-1 is not a number of at least 0.",
    "optimizer.weight_decay=nan": "optimizer.weight_decay=nan is not a number of at least 0.",
    "seed=-1": "seed=-1 is not a whole number from 0 to 4294967295.",
    "seed=null": "seed=None is not a whole number from 0 to 4294967295.",
    "trainer.max_epochs=0": "trainer.max_epochs=0 is not a whole number of at least 1, or -1 for no limit.",
    "trainer.accelerator=gpuu": "trainer.accelerator=gpuu is not one of auto, cpu, gpu, cuda, mps, tpu.",
    "trainer.precision=half": "trainer.precision=half is not one of 32-true, 16-mixed, bf16-mixed",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val=-1 is not a number of at least 0, or null.",
    "callbacks.recorder.every_n_steps=0": "callbacks.recorder.every_n_steps=0 is not a whole number of at least 1.",
    "callbacks.recorder.quantities=[norm]": "callbacks.recorder.quantities=['norm'] is not a list of one or more of ",
    "logger=cvs": "logger=cvs is unknown; did you mean csv? Accepted: csv, none, tensorboard, wandb.",
    "logger=[csv,tensorbord]": "logger=tensorbord is unknown; did you mean tensorboard? Accepted: csv, none, ",
    "logger.csv.foo=1": "Could not override 'logger.csv.foo'. Key 'csv' is not in struct",
    "logger.tensorboard=3": "logger.tensorboard=3 is not a _target_ with its arguments, or null.",
    "+trainer.logger=csv": "trainer.logger is decided by another key: write logger=csv or logger=none.",
    "data.root=${nowhere}": "Interpolation key 'nowhere' not found",
}
# These need torch or the data to be known.
SLOW = {
    "data.batch_size=1298": "data.batch_size=1298 is larger than the 1297 training images of digits.",
    "+trainer.foo=1": "trainer.foo=1 cannot be had here: Trainer.__init__() got an unexpected keyword argument 'foo'",
    "+logger.tensorboard.foo=1": "logger.tensorboard: Logger.__init__() got an unexpected keyword argument 'foo'",
    "+model.network.foo=1": "model.network: StridedConvNet.__init__() got an unexpected keyword argument 'foo'",
    "scenario.operation=RandomFoo": "scenario.operation=RandomFoo: there is no operation 'RandomFoo'.",
    "model.network._target_=os.system": "model.network: ",
    "+trainer.fast_dev_run=often": "trainer.fast_dev_run=often cannot be had here: ",
    "+trainer.limit_train_batches=1.5": "trainer.limit_train_batches=1.5 cannot be had here: ",
    "+trainer.profiler=simpel": "trainer.profiler=simpel cannot be had here: ",
    "trainer.devices=0": "trainer.devices=0, trainer.precision=32-true cannot be had here: ",
}
if not torch.cuda.is_available():
    SLOW["trainer.accelerator=gpu"] = (
        "trainer.accelerator=gpu, trainer.devices=1, trainer.precision=32-true cannot be had"
    )


def answer(result):
    """What is answered, checked for what holds of every mistake: our words, and nothing before them."""
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) <= 2
    return lines[0]


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


@pytest.mark.parametrize("typed", SLOW)
def test_a_mistake_that_only_torch_or_the_data_know_is_plain_too(tmp_path, typed):
    result = command(TRAIN, "data=digits", "trainer.max_steps=1", typed, cwd=tmp_path)
    assert SLOW[typed] in answer(result)
    assert not list(tmp_path.rglob("*.json"))


# ---- data


@pytest.fixture
def folder(tmp_path, mnist):
    """A folder with MNIST that may be spoilt."""
    shutil.copytree(mnist / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    return tmp_path


def spoil(path, how):
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "longer": content + b"\0",
            "empty": b"",
            "altered": content[:-1] + bytes([content[-1] ^ 1]),
            "another file": b"<html>",
        }[how]
    )


@pytest.mark.mnist
@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("truncated", "damaged"),
        ("longer", "damaged"),
        ("empty", "damaged"),
        ("altered", "altered"),
        ("another file", "damaged"),
    ],
)
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_spoilt_mnist_file_is_named_with_what_to_do(folder, name, how, word):
    file = folder / "MNIST" / "raw" / name
    spoil(file, how)
    with pytest.raises(UserError) as info:
        ImageData(
            DataSettings(name="mnist", root=str(folder), fallback="digits")
        )  # the fallback is for missing data, not for damaged ones
    assert str(info.value) == f"{file} is {word}; delete it and run again, and it is downloaded anew."


COUNTS = {"train": 5002, "t10k": 3}
DELETE_IT = "; delete it and run again, and it is downloaded anew."
DELETE_BOTH = "; delete both and run again, and they are downloaded anew."


def idx(shape, *, kind=8, first=0):
    """A file in IDX format of bytes that are 0 but for the first, whatever its type says."""
    return bytes([0, 0, kind, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + _body(shape, first)


def _body(shape, first):
    return bytes([first]) + bytes(math.prod(shape) - 1) if math.prod(shape) else b""


def in_mnists_format(folder, spoilt):
    """The four files of a small data set, some of them with other content. Each is as long as its header says."""
    folder.mkdir(parents=True)
    for part, count in COUNTS.items():
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx((count, 28, 28)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx((count,)))
    for name, content in spoilt.items():
        (folder / name).write_bytes(content)


TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ({TRAIN_LABELS: idx((5001,))}, f"{TRAIN_IMAGES} holds 5002 images, {TRAIN_LABELS} 5001 labels{DELETE_BOTH}"),
        ({TEST_LABELS: idx((4,))}, f"{TEST_IMAGES} holds 3 images, {TEST_LABELS} 4 labels{DELETE_BOTH}"),
        ({TRAIN_LABELS: idx((5002,), first=10)}, f"{TRAIN_LABELS} holds a label 10; accepted: 0 … 9{DELETE_IT}"),
        ({TEST_LABELS: idx((3,), first=255)}, f"{TEST_LABELS} holds a label 255; accepted: 0 … 9{DELETE_IT}"),
        *(
            ({name: content}, f"{name} holds {held}; accepted: {accepted} of type 8 (bytes), N > 0{DELETE_IT}")
            for name, content, held, accepted in (
                (TRAIN_IMAGES, idx((5002, 14, 56)), "5002×14×56 numbers of type 8", "N×28×28"),
                (TEST_IMAGES, idx((3, 14, 56)), "3×14×56 numbers of type 8", "N×28×28"),
                (TRAIN_IMAGES, idx((5002 * 28, 28)), "140056×28 numbers of type 8", "N×28×28"),
                (TRAIN_IMAGES, idx((5002, 1, 28, 28)), "5002×1×28×28 numbers of type 8", "N×28×28"),
                (TRAIN_IMAGES, idx((5002, 28, 28), kind=9), "5002×28×28 numbers of type 9", "N×28×28"),
                (TRAIN_IMAGES, idx((5002, 28, 28), kind=13), "5002×28×28 numbers of type 13", "N×28×28"),
                (TEST_IMAGES, idx((0, 28, 28)), "0×28×28 numbers of type 8", "N×28×28"),
                (TRAIN_LABELS, idx((5002, 1, 1)), "5002×1×1 numbers of type 8", "N"),
                (TRAIN_LABELS, idx((5002,), kind=0), "5002 numbers of type 0", "N"),
                (TEST_LABELS, idx((3, 28, 28)), "3×28×28 numbers of type 8", "N"),
            )
        ),
        (
            {TRAIN_IMAGES: idx((5000, 28, 28)), TRAIN_LABELS: idx((5000,))},
            f"{TRAIN_IMAGES} holds 5000 images; accepted: more than the 5000 for validation{DELETE_BOTH}",
        ),
    ],
)
@pytest.mark.parametrize(("name", "folder"), [("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_files_that_do_not_hold_what_they_should_are_named_with_what_to_do(tmp_path, name, folder, spoilt, words):
    raw = tmp_path / folder / "raw"
    in_mnists_format(raw, spoilt)
    with pytest.raises(UserError) as info:  # the fallback is for missing data, not for spoilt ones
        ImageData(DataSettings(name=name, root=str(tmp_path), fallback="digits", batch_size=1))
    assert str(info.value).replace(f"{raw}/", "") == words


def test_the_files_that_were_checked_are_the_ones_that_are_read(tmp_path):
    """torchvision prefers what its versions of before 0.10 left beside them, and looks at none of it."""
    in_mnists_format(tmp_path / "KMNIST" / "raw", {})
    processed = tmp_path / "KMNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.full((6000, 28, 28), 7, dtype=torch.uint8), torch.full((6000,), 7)), processed / name)
    data = ImageData(DataSettings(name="kmnist", root=str(tmp_path), batch_size=1)).dataset
    assert (len(data.train.labels), len(data.val.labels), len(data.test.labels)) == (2, 5000, 3)
    assert int(data.train.pixels.max()) == 0


def test_a_data_root_that_is_a_file_is_a_mistake(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match=r"data.root=.*data is not a folder"):
        ImageData(DataSettings(name="mnist", root=str(tmp_path / "data"), fallback="digits"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_data_root_that_cannot_be_read_falls_back_and_says_so(tmp_path):
    (tmp_path / "data").mkdir(mode=0)
    data = ImageData(DataSettings(name="mnist", root=str(tmp_path / "data"), fallback="digits"))
    assert "Permission denied" in (data.missing or "")


def test_two_runs_that_need_the_download_do_it_once(tmp_path):
    """Two processes, one server, one request for each file."""
    server_root = tmp_path / "server"
    server_root.mkdir()
    make = (
        "import gzip, hashlib, json, pathlib, sys, torch\n"
        "root, resources = pathlib.Path(sys.argv[1]), []\n"
        "for part, n in (('train', 5200), ('t10k', 50)):\n"
        "  for kind, shape in (('images-idx3', (n, 28, 28)), ('labels-idx1', (n,))):\n"
        "    head = b'\\0\\0\\x08' + bytes([len(shape)]) + b''.join(s.to_bytes(4, 'big') for s in shape)\n"
        "    body = torch.randint(0, 10, shape, dtype=torch.uint8).numpy().tobytes()\n"
        "    packed = gzip.compress(head + body, 1)\n"
        "    (root / f'{part}-{kind}-ubyte.gz').write_bytes(packed)\n"
        "    resources.append((f'{part}-{kind}-ubyte.gz', hashlib.md5(packed).hexdigest()))\n"
        "print(json.dumps(resources))\n"
    )
    resources = json.loads(command("-c", make, server_root, cwd=tmp_path).stdout)
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(server_root))

        def log_message(self, *_):
            asked.append(self.path)

    use = (
        "import sys\nfrom torchvision import datasets\nfrom rowgrad.data import sources\n"
        "from rowgrad.data.datamodule import ImageData\nfrom rowgrad.data.settings import DataSettings\n"
        f"datasets.MNIST.resources = {resources}\nsources._CHECKSUMS = {{}}\n"
        "datasets.MNIST.mirrors = [sys.argv[1]]\n"
        "data = ImageData(DataSettings(name='mnist', root=sys.argv[2], batch_size=16))\n"
        "print(data.name, len(data.dataset.train.labels), int(data.dataset.train.pixels.sum()))\n"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        arguments = ["-c", use, f"http://127.0.0.1:{server.server_port}/", tmp_path / "data"]
        processes = [start(*arguments, cwd=tmp_path) for _ in range(2)]
        outputs = [process.communicate(timeout=120)[0] for process in processes]
        server.shutdown()
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("mnist 200 ")
    # torchvision asks twice in one download: where the file is, and for the file.
    assert sorted(asked) == sorted(f"/{name}" for name, _ in resources for _ in range(2))
    assert sorted(p.name for p in (tmp_path / "data" / "MNIST" / "raw").iterdir()) == sorted(
        name.removesuffix(".gz") for name, _ in resources
    )
    assert not list((tmp_path / "data").glob(".download-*"))


def test_runs_that_start_together_never_share_a_folder(tmp_path):
    arguments = [TRAIN, "data=digits", "trainer.max_steps=1", "callbacks.progress=null"]
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
    config = OmegaConf.merge(BASE)
    OmegaConf.update(config, key, value, merge=False)
    try:
        read_settings(config)
    except UserError as error:
        assert key in str(error)  # noqa: PT017


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
    result = command(TRAIN, *arguments, cwd=tmp_path)
    assert "trainer=ddp cannot go with -m. Start one command for each run." in answer(result)


def test_nothing_listens_on_the_port_that_stands_for_no_network():
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 9)) != 0
