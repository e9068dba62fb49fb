"""What `data` may say: every default and every limit. And which data sets there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rowgrad.config import BOOLEAN, GROUP, Settings, one_of, or_null, setting, text, whole
from rowgrad.errors import UserError


@dataclass(frozen=True)
class Shape:
    """What the images of a data set are like.

    Attributes:
        height: H, rows of an image.
        width: W, pixels of a row.
        channels: C.
        classes: how many kinds there are.
    """

    height: int
    width: int
    channels: int
    classes: int


# The data sets that come with rowgrad. `sources.py` loads them.
DATA_SETS = {name: Shape(28, 28, 1, 10) for name in ("mnist", "fashion_mnist", "kmnist", "digits")}


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings, key="data"):
    """Which images, from where, and how many at a time."""

    name: str = setting("mnist", text("a name"), f"{', '.join(DATA_SETS)}; or of your own, with data.source")
    source: Any = setting(None, or_null(GROUP), "a _target_ of yours that gives a rowgrad.data.sources.DataSet")
    root: str = setting("${oc.env:MNIST_ROOT,data}", text("a folder"), "where the files are, or are downloaded to")
    fallback: str | None = setting(
        None, or_null(one_of(*DATA_SETS)), "where the data set cannot be had; null makes that an error"
    )
    download: bool = setting(True, BOOLEAN, "whether files that are missing are downloaded")
    batch_size: int = setting(128, whole(1), "images of one micro-batch on one process")
    eval_batch_size: int = setting(500, whole(1), "images of one batch in validation and test")
    shift: int = setting(1, whole(0), "training images are shifted by up to so many pixels in each direction")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source is None:
            one_of(*DATA_SETS)(self.name, "data.name")
        elif "_target_" not in self.source:
            raise UserError(f"data.source={self.source} names no _target_.")

    def check_shift(self, shape: Shape) -> None:
        """Sees whether shifted images keep a pixel.

        Raises:
            UserError: they need not.
        """
        most = min(shape.height, shape.width) - 1
        if self.shift > most:
            size = f"{shape.height}×{shape.width}"
            raise UserError(f"data.shift={self.shift} leaves nothing of images of {size}. Accepted: 0 to {most}.")

    @property
    def shape(self) -> Shape | None:
        """What the images are like, where that is known without loading them."""
        return DATA_SETS[self.name] if self.source is None else None
