"""Data sets and batches: their contents and order, and that every image is used exactly once."""

import gzip
import hashlib
import http.server
import threading

import pytest
import torch
from conftest import build, configure
from torchvision import datasets

from rowgrad.data.batches import Resident, TrainLoader
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
    for number, start in enumerate(steps):
        weights = {}
        for rank in range(world):
            for batch in per_rank[rank][start : start + accumulate]:
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


def test_missing_files_are_downloaded_and_their_checksums_compared(tmp_path, monkeypatch):
    """A real download from a real server of a data set in MNIST's format, 5,040 random images long."""
    server_root, root = tmp_path / "server", tmp_path / "data"
    server_root.mkdir()
    resources = []
    for part, count in (("train", 5040), ("t10k", 30)):
        images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8).numpy().tobytes()
        labels = torch.randint(0, 10, (count,), dtype=torch.uint8).numpy().tobytes()
        for name, magic, shape, content in (
            (f"{part}-images-idx3-ubyte.gz", 2051, (count, 28, 28), images),
            (f"{part}-labels-idx1-ubyte.gz", 2049, (count,), labels),
        ):
            header = b"".join(n.to_bytes(4, "big") for n in (magic, *shape))
            packed = gzip.compress(header + content)
            (server_root / name).write_bytes(packed)
            resources.append((name, hashlib.md5(packed).hexdigest()))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def __init__(self, *args):
            super().__init__(*args, directory=str(server_root))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(datasets.MNIST, "resources", resources)
        monkeypatch.setattr("rowgrad.data.sources._CHECKSUMS", {})
        data, _ = build(configure("data=mnist", f"data.root={root}", "data.batch_size=16"))
        assert (data.name, data.missing) == ("mnist", None)
        assert [len(part.labels) for part in parts(data.dataset)] == [40, 5000, 30]
        wrong = [(name, "0" * 32) for name, _ in resources]
        monkeypatch.setattr(datasets.MNIST, "resources", wrong)
        with pytest.raises(UserError, match="can be neither read nor downloaded"):
            build(configure("data=mnist", f"data.root={tmp_path / 'other'}", "data.fallback=null"))
        server.shutdown()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.name=minst", "data.name=minst is not one of mnist, fashion_mnist, kmnist, digits"),
        ("data.fallback=none", "data.fallback=none is not one of"),
        ("data.batch_size=0", "data.batch_size=0 is not a whole number of at least 1"),
        ("data.batch_size=many", "data.batch_size=many is not a whole number"),
        ("data.batch_size=1298", "data.batch_size=1298 is larger than the 1297 training images of digits"),
        ("data.shift=-1", "data.shift=-1 is not a whole number of at least 0"),
    ],
)
def test_a_value_that_is_not_accepted_is_named(override, words):
    with pytest.raises(UserError) as info:
        build(configure("data=digits", override))
    assert words in str(info.value)
