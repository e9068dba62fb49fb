"""Settings of `data`, with defaults and limits, and the data sets by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rowgrad.config import BOOLEAN, GROUP, Settings, one_of, or_null, setting, text, whole
from rowgrad.errors import UserError


@dataclass(frozen=True)
class Shape:
    """Shape of the images of a data set, and number of classes.

    Attributes:
        height: H, rows per image.
        width: W, pixels per row.
        channels: C.
        classes: number of classes.
    """

    height: int
    width: int
    channels: int
    classes: int


# The data sets that come with rowgrad. `sources.py` loads them.
DATA_SETS = {name: Shape(28, 28, 1, 10) for name in ("mnist", "fashion_mnist", "kmnist", "digits")}


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings, key="data"):
    """Data set, source, and batch sizes."""

    name: str = setting("mnist", text("a name"), f"{', '.join(DATA_SETS)}; any name with data.source")
    source: Any = setting(None, or_null(GROUP), "a _target_ of yours that returns a rowgrad.data.sources.DataSet")
    root: str = setting("${oc.env:MNIST_ROOT,data}", text("a folder"), "the files' folder, also for downloads")
    fallback: str | None = setting(
        None, or_null(one_of(*DATA_SETS)), "data set to use if this one is not available; null: an error"
    )
    download: bool = setting(True, BOOLEAN, "whether missing files are downloaded")
    batch_size: int = setting(128, whole(1), "images per micro-batch and process")
    eval_batch_size: int = setting(500, whole(1), "images per batch in validation and test")
    shift: int = setting(1, whole(0), "largest random shift of training images, in pixels, in each direction")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source is None:
            one_of(*DATA_SETS)(self.name, "data.name")
        elif "_target_" not in self.source:
            raise UserError(f"data.source={self.source} names no _target_.")

    def check_shift(self, shape: Shape) -> None:
        """Checks that a shifted image keeps at least one pixel.

        Raises:
            UserError: `shift` is not smaller than the image.
        """
        most = min(shape.height, shape.width) - 1
        if self.shift > most:
            size = f"{shape.height}×{shape.width}"
            raise UserError(f"data.shift={self.shift} leaves nothing of images of {size}. Accepted: 0 to {most}.")

    @property
    def shape(self) -> Shape | None:
        """Shape of the images, if it is known without loading them; else None."""
        return DATA_SETS[self.name] if self.source is None else None
