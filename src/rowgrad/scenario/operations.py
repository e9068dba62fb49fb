"""Operations on rows: pure functions of images (B, C, H, W) in normalised units, and their names.

An operation receives whole images; the scenario uses only the selected rows of the result. To add an operation, write
a subclass of `Operation` and add it to `OPERATIONS`, or name it by `_target_` if it is in a package of yours. Its
keyword-only fields `black` and `white` receive the data set's values of these pixels.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rowgrad.config import FINITE, NOT_NEGATIVE, Limit, number
from rowgrad.errors import UserError, need_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from rowgrad.randomness import Draw

need_pipeline()


Limits = Mapping[str, Limit]


class Operation:
    """Base class: maps images (B, C, H, W) and the step's randomness to images of the same shape.

    Example:
        >>> class Double(Operation):
        ...     words = "doubled"
        ...
        ...     def __call__(self, images, draw):
        ...         return 2 * images
        >>> Scenario(rows=0, operation=Double(), height=2).sentence()
        'Row 0 is detached, doubled and fed to the network.'

    Class attributes:
        words: a past participle that describes the operation, with fields in braces: "shifted by {offset:+g}".
        limits: accepted values, by field name.
    """

    words: ClassVar[str] = "put through {self}"
    limits: ClassVar[Limits] = {}

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            limit(getattr(self, name), f"scenario.operation={type(self).__name__.lower()}: {name}")

    @property
    def phrase(self) -> str:
        """The operation in words: "shifted by +1"."""
        return self.words.format_map({"self": self, **vars(self)})

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        """Returns images of the same shape (B, C, H, W)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Unchanged(Operation):
    """The identity."""

    words = "left as they are"

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return images


@dataclass(frozen=True)
class Shift(Operation):
    """x + offset."""

    offset: float = 1.0
    limits: ClassVar[Limits] = {"offset": FINITE}
    words = "shifted by {offset:+g}"

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return images + self.offset


@dataclass(frozen=True)
class Scale(Operation):
    """x · factor."""

    factor: float = 2.0
    limits: ClassVar[Limits] = {"factor": FINITE}
    words = "scaled by {factor:g}"

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return images * self.factor


@dataclass(frozen=True)
class Noise(Operation):
    """x + std · ε, with ε ~ N(0, 1) for each pixel of each image."""

    std: float = 1.0
    limits: ClassVar[Limits] = {"std": NOT_NEGATIVE}
    words = "given noise of standard deviation {std:g}"

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return images + self.std * draw.normal("noise", tuple(images.shape), images.device).to(images.dtype)


@dataclass(frozen=True)
class Flip(Operation):
    """Reverses each row."""

    words = "flipped from left to right"

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return images.flip(-1)


@dataclass(frozen=True)
class Blur(Operation):
    """torchvision's Gaussian blur; the kernel reaches three standard deviations."""

    sigma: float = 1.0
    limits: ClassVar[Limits] = {"sigma": number("above 0", lambda value: value > 0)}
    words = "blurred with σ = {sigma:g} pixels"

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        from torchvision.transforms.v2 import functional  # imported here: it takes a second

        size = 2 * min(round(3 * self.sigma), (min(images.shape[-2:]) - 1) // 2) + 1
        return functional.gaussian_blur(images, [size, size], [self.sigma, self.sigma])


@dataclass(frozen=True)
class Erase(Operation):
    """A constant in normalised units; 0 is the mean grey of the data set."""

    value: float = 0.0
    limits: ClassVar[Limits] = {"value": FINITE}
    words = "erased to {value:g}"

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return images.new_full(images.shape, self.value)


@dataclass(frozen=True)
class Static(Operation):
    """std · ε, with ε ~ N(0, 1) for each pixel of each image, in place of the image."""

    std: float = 1.0
    limits: ClassVar[Limits] = {"std": NOT_NEGATIVE}
    words = "replaced by noise of standard deviation {std:g}"

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return self.std * draw.normal("static", tuple(images.shape), images.device).to(images.dtype)


@dataclass(frozen=True)
class Quantise(Operation):
    """Rounds to the nearest of `levels` evenly spaced greys from black to white. Its derivative is zero."""

    levels: float = 2
    black: float | Tensor = field(default=0.0, kw_only=True)
    white: float | Tensor = field(default=1.0, kw_only=True)
    limits: ClassVar[Limits] = {
        "levels": Limit(lambda v: v > 1 and float(v).is_integer(), "a whole number of at least 2")
    }
    words = "quantised to {levels:g} levels"

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        black, white = (v if isinstance(v, int | float) else v.to(images) for v in (self.black, self.white))
        steps, contrast = self.levels - 1, white - black
        return ((images - black) / contrast).clamp(0, 1).mul(steps).round() * (contrast / steps) + black


@dataclass(frozen=True)
class Transform(Operation):
    """Any function of images, such as a `torchvision.transforms.v2` transform.

    torchvision draws a random transform's parameters once a call, so all images of a step share them; they are a
    function of (seed, step).
    """

    function: Callable[[Tensor], Tensor]
    words = "put through {function}"

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        with draw.torch_seeded("transform", images.device):
            try:
                return self.function(images)
            except Exception as error:  # a library's transform may raise anything
                raise UserError(f"scenario.operation: {self.function} does not take images: {error}") from error


OPERATIONS: dict[str, type[Operation]] = {
    "none": Unchanged,
    "shift": Shift,
    "scale": Scale,
    "noise": Noise,
    "flip": Flip,
    "blur": Blur,
    "erase": Erase,
    "static": Static,
    "quantise": Quantise,
}
ACCEPTED = f"{', '.join(OPERATIONS)}, each with its number (shift 1, blur 0.5), or a torchvision.transforms.v2 name"


def read_operation(spec: Any, key: str = "scenario.operation") -> Any:
    """Parses an operation.

    Example:
        >>> read_operation("shift 1")
        Shift(offset=1.0)

    Args:
        spec: a name and its numbers (`shift 1`, `flip`, `RandomRotation 30`), an operation, or a function of images. A
            mapping with a `_target_` is returned unchanged, to be instantiated later.
        key: the config key, for error messages.

    Raises:
        UserError: an unknown name, or numbers that the operation does not accept.
    """
    if isinstance(spec, Mapping) and "_target_" in spec:
        return spec
    if not isinstance(spec, str):
        if callable(spec):
            return spec if isinstance(spec, Operation) else Transform(spec)
        raise UserError(f"{key}={spec} is not an operation. Accepted: {ACCEPTED}.")
    name, *words = spec.split() or [""]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise UserError(f"{key}={spec}: after the name come numbers. Accepted: {ACCEPTED}.") from None
    if endless := [word for word, value in zip(words, numbers, strict=True) if not math.isfinite(value)]:
        raise UserError(f"{key}={spec}: {endless[0]} is not a finite number.")
    if name not in OPERATIONS and not name[:1].isupper():
        raise UserError(f"{key}={spec}: there is no operation {name!r}. Accepted: {ACCEPTED}.")
    if name not in OPERATIONS:
        return Transform(_torchvision_transform(name, numbers, f"{key}={spec}"))
    kind = OPERATIONS[name]
    parameters = inspect.signature(kind).parameters
    takes = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY]
    if len(numbers) > len(takes):
        raise UserError(f"{key}={spec}: {name} takes {' '.join(takes) or 'no number'}.")
    return kind(*numbers)


def with_greys(operation: Operation, black: float | Tensor, white: float | Tensor) -> Operation:
    """Sets the fields `black` and `white` of an operation that has them, to the data set's values of these pixels."""
    names = {part.name for part in fields(operation)} if is_dataclass(operation) else set()
    greys = {name: value for name, value in {"black": black, "white": white}.items() if name in names}
    return replace(operation, **greys) if greys else operation  # ty: ignore[invalid-argument-type]


def _torchvision_transform(name: str, numbers: list[float], typed: str) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2

    kind = getattr(v2, name, None) if name.isidentifier() else None
    if not (isinstance(kind, type) and issubclass(kind, v2.Transform)):
        raise UserError(f"{typed}: there is no operation {name!r}. Accepted: {ACCEPTED}.")
    try:
        return kind(*(int(number) if number == int(number) else number for number in numbers))
    except Exception as error:  # a library's transform may raise anything
        raise UserError(f"{typed}: torchvision's {name} says: {error}") from error
