"""Data sets: where they come from, whether their files are whole, and their three splits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

from rowgrad.data.settings import DATA_SETS, Shape
from rowgrad.errors import UserError

if TYPE_CHECKING:
    from torchvision import datasets

VALIDATION = 5_000


class MissingError(UserError):
    """A data set that is not there and cannot be downloaded."""


class Images(NamedTuple):
    """Images (N, H, W) or (N, C, H, W) as uint8 and their classes (N,) as int64."""

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class DataSet:
    """A data set in three parts that share no image. One of your own is a function that returns this.

    Attributes:
        train: what is learnt from.
        val: what choices are made by.
        test: what is reported.
        mean: of the training pixels on a scale of 0 to 1; with several channels, one for each.
        std: their standard deviation, likewise.
        classes: how many kinds of images there are.

    Raises:
        UserError: images or labels that do not fit each other.
    """

    train: Images
    val: Images
    test: Images
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    classes: int = 10

    def __post_init__(self) -> None:
        for name, (pixels, labels) in {"train": self.train, "val": self.val, "test": self.test}.items():
            given = f"data.source gives {name} images {tuple(pixels.shape)} of {pixels.dtype}"
            if pixels.dtype != torch.uint8 or pixels.ndim not in {3, 4}:
                raise UserError(f"{given}. Accepted: (N, H, W) or (N, C, H, W) of torch.uint8.")
            if pixels.shape[1:] != self.train.pixels.shape[1:]:
                raise UserError(f"{given}, other than its training images.")
            if labels.shape != pixels.shape[:1] or not len(labels):
                raise UserError(
                    f"{given} with labels {tuple(labels.shape)}. Accepted: one for each of one or more images."
                )
            if int(labels.min()) < 0 or int(labels.max()) >= self.classes:
                raise UserError(f"{given} with labels outside 0 … {self.classes - 1}, its {self.classes} classes.")
        if any(len(value) != self.shape.channels for value in (self.mean, self.std) if isinstance(value, tuple)):
            raise UserError(f"data.source gives mean {self.mean} and std {self.std} of {self.shape.channels} channels.")

    @property
    def shape(self) -> Shape:
        *channels, height, width = self.train.pixels.shape[1:]
        return Shape(height, width, channels[0] if channels else 1, self.classes)

    def greys(self) -> tuple[float | Tensor, float | Tensor]:
        """What is subtracted from pixels on a scale of 0 to 1, and what they are divided by: numbers, or (C, 1, 1)."""
        both = [value if isinstance(value, tuple) else (value,) for value in (self.mean, self.std)]
        if self.shape.channels == 1:
            return both[0][0], both[1][0]
        mean, std = (torch.tensor(value).expand(self.shape.channels)[:, None, None] for value in both)
        return mean, std

    @property
    def black(self) -> float | Tensor:
        """The value of a black pixel in normalised units, or of one for each channel, (C, 1, 1)."""
        mean, std = self.greys()
        return -mean / std

    @property
    def white(self) -> float | Tensor:
        """The value of a white pixel in normalised units, or of one for each channel, (C, 1, 1)."""
        mean, std = self.greys()
        return (1 - mean) / std


Load = Callable[..., DataSet]  # of a folder; `download=False` where nothing may be written there
_SHAPE = DATA_SETS["mnist"]  # the same in all data sets of MNIST's format
_BYTES = 8  # the type of unsigned bytes in an IDX file
# MD5 of the four files after unpacking, where they are known.
_CHECKSUMS = {
    "MNIST/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def _torchvision(name: str, mean: float, std: float, root: Path, *, download: bool = True) -> DataSet:
    """A torchvision data set in MNIST's format; missing files are downloaded and their checksums compared.

    One process downloads, the others wait for it. Files that are there are checked before they are believed.
    """
    from torchvision import datasets  # takes a second to import

    kind = getattr(datasets, name)
    folder = root / name / "raw"
    files = [folder / Path(archive).stem for archive, _ in kind.resources]
    if root.exists() and not root.is_dir():
        raise UserError(f"data.root={root} is not a folder.")
    try:
        if not all(file.exists() for file in files):
            if not download:
                raise MissingError(f"data.root={root} does not hold {name}, and nothing is downloaded there.")
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{name}.lock"):
                _download(kind, root, files)
        return _read(name, mean, std, tuple((file, *_stamp(file)) for file in files))
    except (OSError, RuntimeError) as error:
        words = str(error).partition("\n")[0].rstrip(":")
        raise MissingError(f"data.root={root}: {name} can be neither read nor downloaded there ({words}).") from error


@lru_cache(maxsize=2)
def _read(name: str, mean: float, std: float, stamped: tuple[tuple[Path, int, int, int], ...]) -> DataSet:
    """Checks and reads the files once in a process, as long as none of them is written again."""
    files = [file for file, *_ in stamped]
    for file in files:
        _check_file(file, _CHECKSUMS.get(f"{name}/{file.name}"))
    learn, test = _read_part(*files[:2]), _read_part(*files[2:])
    if len(learn.labels) <= VALIDATION:
        few = f"{files[0]} holds {len(learn.labels)} images; accepted: more than the {VALIDATION} for validation"
        raise UserError(f"{few}; {_anew(*files[:2])}")
    train, val = (Images(*(part[where] for part in learn)) for where in (slice(-VALIDATION), slice(-VALIDATION, None)))
    return DataSet(train, val, test, mean, std)


def _read_part(images: Path, labels: Path) -> Images:
    """Reads two files that were checked: these, and no copy of them that an older torchvision made.

    Raises:
        UserError: they do not fit each other; it names the file and says what to do.
    """
    from torchvision.datasets.mnist import read_image_file, read_label_file

    part = Images(read_image_file(str(images)), read_label_file(str(labels)))
    if len(part.pixels) != len(part.labels):
        counts = f"{images} holds {len(part.pixels)} images, {labels} {len(part.labels)} labels"
        raise UserError(f"{counts}; {_anew(images, labels)}")
    if (largest := int(part.labels.max())) >= _SHAPE.classes:
        raise UserError(f"{labels} holds a label {largest}; accepted: 0 … {_SHAPE.classes - 1}; {_anew(labels)}")
    return part


def _stamp(file: Path) -> tuple[int, int, int]:
    """What differs after a file was written again. The time of the last change of the inode cannot be set."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_ctime_ns


def _download(kind: type[datasets.MNIST], root: Path, files: list[Path]) -> None:
    """Downloads and unpacks beside the target; a file appears under its own name only when it is whole."""
    if all(file.exists() for file in files):
        return  # another process did it while this one waited
    with TemporaryDirectory(dir=root, prefix=".download-") as beside:
        kind(beside, train=True, download=True)
        files[0].parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            (Path(beside) / kind.__name__ / "raw" / file.name).replace(file)


def _check_file(file: Path, checksum: str | None) -> None:
    """Compares a file in IDX format (LeCun's page on MNIST) with its header, its MD5 if known, and what it is to hold.

    Raises:
        UserError: names the file and says what to do.
    """
    content = file.read_bytes()
    dimensions = content[3] if len(content) > 3 else 0  # noqa: PLR2004  (the fourth byte counts them)
    sizes = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    whole = dimensions > 0 and len(content) == 4 + 4 * dimensions + math.prod(sizes)
    if not whole or (checksum is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != checksum):
        raise UserError(f"{file} is {'altered' if whole else 'damaged'}; {_anew(file)}")
    one = [_SHAPE.height, _SHAPE.width] if "-images-" in file.name else []
    kind = int.from_bytes(content[:3], "big")
    if kind != _BYTES or sizes[1:] != one or not sizes[0]:
        held, accepted = ("×".join(map(str, numbers)) for numbers in (sizes, ["N", *one]))
        words = f"{held} numbers of type {kind}; accepted: {accepted} of type {_BYTES} (bytes), N > 0"
        raise UserError(f"{file} holds {words}; {_anew(file)}")


def _anew(*files: Path) -> str:
    """What to do about files that cannot be used."""
    it, they = ("it", "it is") if len(files) == 1 else ("both", "they are")
    return f"delete {it} and run again, and {they} downloaded anew."


@lru_cache(maxsize=1)
def _digits(_root: Path, *, download: bool = True) -> DataSet:  # noqa: ARG001  (they come with scikit-learn)
    """scikit-learn's 1,797 real handwritten digits of 8x8, resized to 28x28: 1,297, 200 and 300 in a fixed order."""
    from sklearn.datasets import load_digits  # takes a second to import

    images, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(images).float().view(-1, 1, 8, 8) * (255 / 16)
    size = DATA_SETS["digits"].height, DATA_SETS["digits"].width
    large = torch.nn.functional.interpolate(small, size, mode="bilinear", align_corners=False)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    pixels = large[order, 0].round().clamp(0, 255).to(torch.uint8)
    classes = torch.from_numpy(labels)[order].long()
    parts = (Images(pixels[part], classes[part]) for part in (slice(1297), slice(1297, 1497), slice(1497, None)))
    return DataSet(*parts, mean=0.3050, std=0.3244)


# Mean and standard deviation of the training pixels are those that everybody uses.
SOURCES: dict[str, Load] = {
    "mnist": partial(_torchvision, "MNIST", 0.1307, 0.3081),
    "fashion_mnist": partial(_torchvision, "FashionMNIST", 0.2860, 0.3530),
    "kmnist": partial(_torchvision, "KMNIST", 0.1918, 0.3483),
    "digits": _digits,
}
