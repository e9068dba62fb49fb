"""Data sets: download, verification of the files, and the three splits."""

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
    """The data set is neither on disk nor can it be downloaded."""


class Images(NamedTuple):
    """Images (N, H, W) or (N, C, H, W) as uint8 and their classes (N,) as int64.

    Example:
        >>> images = Images(torch.zeros(5, 28, 28, dtype=torch.uint8), torch.zeros(5, dtype=torch.long))
        >>> len(images.labels)
        5
    """

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class DataSet:
    """A data set in three disjoint splits. A custom `data.source` is a function that returns one.

    Example:
        >>> pixels, labels = torch.zeros(9, 20, 16, dtype=torch.uint8), torch.arange(9) % 3
        >>> parts = [Images(pixels[part::3], labels[part::3]) for part in range(3)]
        >>> DataSet(*parts, mean=0.1, std=0.3, classes=3).shape.height
        20

    Attributes:
        train: training images.
        val: validation images, for model selection.
        test: test images.
        mean: mean of the training pixels in [0, 1]; with several channels, one value per channel.
        std: standard deviation of the training pixels in [0, 1], in the same form.
        classes: number of classes.

    Raises:
        UserError: wrong dtype or shape, or labels that do not match the images.
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
                raise UserError(f"{given}. Accepted: the size of its training images.")
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
        """Height, width, channels and classes."""
        *channels, height, width = self.train.pixels.shape[1:]
        return Shape(height, width, channels[0] if channels else 1, self.classes)

    def normalization(self) -> tuple[float | Tensor, float | Tensor]:
        """Returns mean and standard deviation of pixels in [0, 1]: two numbers, or two tensors (C, 1, 1)."""
        both = [value if isinstance(value, tuple) else (value,) for value in (self.mean, self.std)]
        if self.shape.channels == 1:
            return both[0][0], both[1][0]
        mean, std = (torch.tensor(value).expand(self.shape.channels)[:, None, None] for value in both)
        return mean, std

    @property
    def black(self) -> float | Tensor:
        """Value of a black pixel in normalised units: a number, or one per channel, (C, 1, 1)."""
        mean, std = self.normalization()
        return -mean / std

    @property
    def white(self) -> float | Tensor:
        """Value of a white pixel in normalised units: a number, or one per channel, (C, 1, 1)."""
        mean, std = self.normalization()
        return (1 - mean) / std


Load = Callable[..., DataSet]  # (root, download=...) -> DataSet; download=False never writes to root
_SHAPE = DATA_SETS["mnist"]  # shared by all data sets in MNIST's format
_BYTES = 8  # code of unsigned bytes in the IDX format
# MD5 of the unpacked files; the other data sets publish none.
_CHECKSUMS = {
    "MNIST/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def _torchvision(name: str, mean: float, std: float, root: Path, *, download: bool = True) -> DataSet:
    """Loads a torchvision data set in MNIST's format; missing files are downloaded and verified.

    One process downloads while others wait. Existing files are verified before they are read.
    """
    from torchvision import datasets  # imported here: it takes a second

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
    """Verifies and reads the files; cached until one of them changes."""
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
    """Reads two verified files directly, not the copy in `processed/` that older versions of torchvision made.

    Raises:
        UserError: numbers of images and labels differ, or a label is out of range; it names the file and the remedy.
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
    """Identifies a version of a file. Unlike the modification time, the inode's change time cannot be set."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_ctime_ns


def _download(kind: type[datasets.MNIST], root: Path, files: list[Path]) -> None:
    """Downloads to a temporary folder, then moves each complete file into place."""
    if all(file.exists() for file in files):
        return  # another process downloaded them while this one waited for the lock
    with TemporaryDirectory(dir=root, prefix=".download-") as beside:
        kind(beside, train=True, download=True)
        files[0].parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            (Path(beside) / kind.__name__ / "raw" / file.name).replace(file)


def _check_file(file: Path, checksum: str | None) -> None:
    """Verifies a file in IDX format (LeCun's page on MNIST): its length, its MD5 if known, its type and dimensions.

    Raises:
        UserError: the file is damaged or altered, or holds other data; it names the file and the remedy.
    """
    content = file.read_bytes()
    dimensions = content[3] if len(content) > 3 else 0  # noqa: PLR2004  (the fourth byte is the number of dimensions)
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
    """The remedy for unusable files, as the end of a message."""
    it, they = ("it", "it is") if len(files) == 1 else ("both", "they are")
    return f"delete {it} and run again, and {they} downloaded anew."


@lru_cache(maxsize=1)
def _digits(_root: Path, *, download: bool = True) -> DataSet:  # noqa: ARG001  (they are part of scikit-learn)
    """scikit-learn's 1,797 handwritten digits, resized from 8x8 to 28x28: 1,297, 200 and 300 in a fixed order."""
    from sklearn.datasets import load_digits  # imported here: it takes a second

    images, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(images).float().view(-1, 1, 8, 8) * (255 / 16)
    size = DATA_SETS["digits"].height, DATA_SETS["digits"].width
    large = torch.nn.functional.interpolate(small, size, mode="bilinear", align_corners=False)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    pixels = large[order, 0].round().clamp(0, 255).to(torch.uint8)
    classes = torch.from_numpy(labels)[order].long()
    parts = (Images(pixels[part], classes[part]) for part in (slice(1297), slice(1297, 1497), slice(1497, None)))
    return DataSet(*parts, mean=0.3050, std=0.3244)


# Mean and standard deviation of the training pixels are the values in common use.
SOURCES: dict[str, Load] = {
    "mnist": partial(_torchvision, "MNIST", 0.1307, 0.3081),
    "fashion_mnist": partial(_torchvision, "FashionMNIST", 0.2860, 0.3530),
    "kmnist": partial(_torchvision, "KMNIST", 0.1918, 0.3483),
    "digits": _digits,
}
