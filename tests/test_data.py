"""Data sets and batches: their contents and order, and that every image is used exactly once."""

import gzip
import hashlib
import json
import math
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import build, configure, start
from torchvision import datasets

from rowgrad.data.batches import Resident, TrainLoader
from rowgrad.data.datamodule import ImageData
from rowgrad.data.settings import DataSettings
from rowgrad.data.sources import SOURCES, Images
from rowgrad.errors import UserError

# 23 images of 2x3 pixels; every pixel of image i has the value i, which identifies the images of a batch.
COUNT = 23
NUMBERED = Images(torch.arange(COUNT, dtype=torch.uint8)[:, None, None].expand(-1, 2, 3), torch.arange(COUNT))
PLAIN = 0.0, 1 / 255  # normalising gives the pixel's value again


def loader(batch_size=4, seed=0, margin=0, **layout):
    return TrainLoader(Resident(NUMBERED, PLAIN, torch.device("cpu"), margin), batch_size, seed, **layout)


def parts(dataset):
    return dataset.train, dataset.val, dataset.test


def members(batch):
    assert batch.images.round().long()[:, 0, 0, 0].tolist() == batch.labels.tolist()
    return batch.labels.tolist()


def test_an_epoch_holds_every_image_once():
    batches = list(loader())
    assert [len(batch.labels) for batch in batches] == [4, 4, 4, 4, 4, 3]
    assert sorted(image for batch in batches for image in members(batch)) == list(range(COUNT))


def test_the_order_is_a_function_of_seed_and_epoch():
    first, again, other = loader(), loader(), loader(seed=1)
    epochs = [[members(b) for b in first] for _ in range(2)]
    torch.rand(10)
    assert [[members(b) for b in again] for _ in range(2)] == epochs
    assert epochs[0] != epochs[1]
    assert [members(b) for b in other] != epochs[0]


def test_an_unfinished_epoch_is_followed_by_the_next():
    expected = [members(b) for b in loader()]
    left = loader()
    next(iter(left))
    assert [members(b) for b in left] != expected
    assert left.epoch == 2


@pytest.mark.parametrize("stop", range(13))
def test_a_loader_goes_on_from_its_saved_position(stop):
    whole = loader()
    expected = [members(b) for _ in range(2) for b in whole]
    broken, seen = loader(), []
    while len(seen) < stop:
        for batch in broken:
            seen.append(members(batch))
            if len(seen) == stop:
                break
    state = broken.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    while len(seen) < len(expected):
        seen += [members(batch) for batch in resumed]
    assert seen == expected


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_ranks_and_micro_batches_share_out_the_same_steps(world, accumulate):
    """In any layout, a step of `world * accumulate * B` images has the same images, each once, with equal weights."""
    per_rank = [list(loader(2, accumulate=accumulate, rank=rank, world=world)) for rank in range(world)]
    assert len({len(batches) for batches in per_rank}) == 1
    size = 2 * world * accumulate
    order = [image for batch in loader(COUNT) for image in members(batch)]
    steps = range(0, len(per_rank[0]), accumulate)
    for number, begin in enumerate(steps):
        weights = {}
        for rank in range(world):
            for batch in per_rank[rank][begin : begin + accumulate]:
                for place, image in enumerate(members(batch), batch.first):
                    assert order[number * size + place] == image
                    weights[image] = batch.weight / len(batch.labels) / accumulate / world
        window = order[number * size : (number + 1) * size] if number < len(steps) - 1 else order[number * size :]
        assert sorted(weights) == sorted(window)
        for weight in weights.values():
            assert weight == pytest.approx(1 / len(window))


def test_every_rank_has_images_in_every_batch():
    for world in range(1, 12):
        for rank in range(world):
            assert all(len(batch.labels) for batch in loader(2, rank=rank, world=world))


def test_shifts_move_whole_images_by_up_to_the_margin_and_fill_with_black():
    images = Images(torch.zeros(900, 5, 5, dtype=torch.uint8), torch.zeros(900, dtype=torch.long))
    images.pixels[:, 2, 2] = 200
    batch = next(iter(TrainLoader(Resident(images, PLAIN, torch.device("cpu"), margin=1), 900, 0)))
    assert (batch.images.flatten(1) > 0).sum(1).eq(1).all()
    places = batch.images[:, 0].flatten(1).argmax(1)
    counts = torch.bincount(places, minlength=25).view(5, 5)
    assert counts[1:4, 1:4].min() > 60  # 900 images, 9 places
    assert counts.sum() == counts[1:4, 1:4].sum()


def test_images_are_normalised_by_mean_and_std():
    images = Images(torch.tensor([[[0, 255]]], dtype=torch.uint8), torch.tensor([1]))
    gathered = Resident(images, (0.5, 0.25), torch.device("cpu")).gather(torch.tensor([0]))
    assert gathered.flatten().tolist() == [-2.0, 2.0]


def test_digits_are_split_without_overlap_and_fill_the_grey_scale():
    splits = SOURCES["digits"](None)
    assert [len(part.labels) for part in parts(splits)] == [1297, 200, 300]
    assert splits.train.pixels.shape == (1297, 28, 28)
    assert (splits.train.pixels.min(), splits.train.pixels.max()) == (0, 255)
    pixels = splits.train.pixels.double() / 255
    assert (round(pixels.mean().item(), 4), round(pixels.std().item(), 4)) == (0.3050, 0.3244)
    unique = {hashlib.sha1(image.numpy().tobytes()).digest() for part in parts(splits) for image in part.pixels}
    assert len(unique) == 1797


def test_mnists_test_images_are_never_trained_or_validated_on(mnist):
    splits, original = SOURCES["mnist"](mnist), datasets.MNIST(mnist, train=False)
    assert [len(part.labels) for part in parts(splits)] == [55_000, 5_000, 10_000]
    assert splits.test.pixels.equal(original.data)
    assert splits.test.labels.equal(original.targets)
    train = datasets.MNIST(mnist, train=True)
    assert torch.cat([splits.train.pixels, splits.val.pixels]).equal(train.data)
    assert abs(splits.train.pixels.double().mean() / 255 - 0.1307) < 1e-4
    assert abs((splits.train.pixels.double() / 255).std() - 0.3081) < 1e-4


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])


@pytest.mark.usefixtures("no_network")
def test_without_mnist_training_falls_back_to_digits_and_says_so(tmp_path):
    data, _ = build(configure("data=mnist", f"data.root={tmp_path}"))
    assert data.name == "digits"
    assert data.missing is not None
    assert f"data.root={tmp_path}: MNIST can be neither read nor downloaded" in data.missing
    assert data.dataset.black == pytest.approx(-0.3050 / 0.3244)


@pytest.mark.usefixtures("no_network")
def test_without_a_fallback_missing_data_is_an_error(tmp_path):
    with pytest.raises(UserError, match="MNIST can be neither read nor downloaded"):
        build(configure("data=mnist", f"data.root={tmp_path}", "data.fallback=null"))


def header(shape, kind=8):
    """The header of a file in IDX format; 8 is the type of bytes."""
    return bytes([0, 0, kind, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)


@pytest.fixture
def server(tmp_path):
    """A real server of 5,040 and 30 random images in MNIST's format: its address, names and checksums, and requests."""
    resources, asked, root = [], [], tmp_path / "server"
    root.mkdir()
    for part, count in (("train", 5040), ("t10k", 30)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            name, body = f"{part}-{kind}-ubyte.gz", torch.randint(0, 10, shape, dtype=torch.uint8).numpy().tobytes()
            packed = gzip.compress(header(shape) + body, 1)
            (root / name).write_bytes(packed)
            resources.append((name, hashlib.md5(packed).hexdigest()))

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(root))

        def log_message(self, *_):
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}/", resources, asked
        found.shutdown()


def test_missing_files_are_downloaded_and_their_checksums_compared(server, tmp_path, monkeypatch):
    address, resources, _ = server
    monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr("rowgrad.data.sources._CHECKSUMS", {})
    data = ImageData(DataSettings(name="mnist", root=str(tmp_path / "data"), batch_size=16))
    assert (data.name, data.missing) == ("mnist", None)
    assert [len(part.labels) for part in parts(data.dataset)] == [40, 5000, 30]
    monkeypatch.setattr(datasets.MNIST, "resources", [(name, "0" * 32) for name, _ in resources])
    with pytest.raises(UserError, match="can be neither read nor downloaded"):
        ImageData(DataSettings(name="mnist", root=str(tmp_path / "other"), fallback=None))


DOWNLOAD = """
import json, sys
from torchvision import datasets
from rowgrad.data import sources
from rowgrad.data.datamodule import ImageData
from rowgrad.data.settings import DataSettings
address, resources, root = sys.argv[1:]
datasets.MNIST.mirrors, datasets.MNIST.resources, sources._CHECKSUMS = [address], json.loads(resources), {}
data = ImageData(DataSettings(name="mnist", root=root, batch_size=16))
print(data.name, len(data.dataset.train.labels), int(data.dataset.train.pixels.sum()))
"""


def test_two_runs_that_need_the_download_do_it_once(server, tmp_path):
    address, resources, asked = server
    arguments = ["-c", DOWNLOAD, address, json.dumps(resources), tmp_path / "data"]
    processes = [start(*arguments, cwd=tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("mnist 40 ")
    # torchvision asks twice in one download: where the file is, and for the file.
    assert sorted(asked) == sorted(f"/{name}" for name, _ in resources for _ in range(2))
    files = sorted(path.name for path in (tmp_path / "data" / "MNIST" / "raw").iterdir())
    assert files == sorted(name.removesuffix(".gz") for name, _ in resources)
    assert not list((tmp_path / "data").glob(".download-*"))


# ---- files that are not what they should be


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
@pytest.mark.parametrize("how", ["truncated", "longer", "empty", "altered", "another file"])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_spoilt_mnist_file_is_named_with_what_to_do(folder, name, how):
    file = folder / "MNIST" / "raw" / name
    spoil(file, how)
    with pytest.raises(UserError) as info:  # the fallback is for missing data, not for damaged ones
        ImageData(DataSettings(name="mnist", root=str(folder), fallback="digits"))
    found = "altered" if how == "altered" else "damaged"
    assert str(info.value) == f"{file} is {found}; delete it and run again, and it is downloaded anew."


COUNTS = {"train": 5002, "t10k": 3}
DELETE_IT = "; delete it and run again, and it is downloaded anew."
DELETE_BOTH = "; delete both and run again, and they are downloaded anew."


def idx(shape, *, kind=8, first=0):
    """A file in IDX format of bytes that are 0 but for the first, whatever its type says."""
    body = bytes([first]) + bytes(math.prod(shape) - 1) if math.prod(shape) else b""
    return header(shape, kind) + body


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
        ({TRAIN_LABELS: idx((5002,), first=10)}, f"{TRAIN_LABELS} holds a label 10; accepted: 0 … 9{DELETE_IT}"),
        *(
            ({name: content}, f"{name} holds {held}; accepted: {accepted} of type 8 (bytes), N > 0{DELETE_IT}")
            for name, content, held, accepted in (
                (TRAIN_IMAGES, idx((5002, 14, 56)), "5002×14×56 numbers of type 8", "N×28×28"),
                (TRAIN_IMAGES, idx((5002 * 28, 28)), "140056×28 numbers of type 8", "N×28×28"),
                (TRAIN_IMAGES, idx((5002, 1, 28, 28)), "5002×1×28×28 numbers of type 8", "N×28×28"),
                (TRAIN_IMAGES, idx((5002, 28, 28), kind=13), "5002×28×28 numbers of type 13", "N×28×28"),
                (TEST_IMAGES, idx((0, 28, 28)), "0×28×28 numbers of type 8", "N×28×28"),
                (TRAIN_LABELS, idx((5002, 1, 1)), "5002×1×1 numbers of type 8", "N"),
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
