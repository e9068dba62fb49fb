"""Settings: one dataclass per part of a config. Its fields are the only place for defaults and limits.

    @dataclass(frozen=True, kw_only=True)
    class CameraSettings(Settings, key="camera"):
        std: float = setting(0.0, number("of at least 0", lambda v: v >= 0), "standard deviation of the noise")

    CameraSettings(std=-1)  # UserError: camera.std=-1 is not a number of at least 0.

A field's *reader* converts the value from the config once, or raises an error that says what is accepted. Hydra gets
the defaults under `/settings`. OmegaConf's typed nodes are not used: they would accept `detach: 1` as true and
`checkpoint: 3` as a folder. The module imports nothing heavy.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from rowgrad.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from dataclasses import Field

Reader = Callable[[Any, str], Any]  # (value in the config, its key) -> parsed value; raises UserError


@dataclass(frozen=True)
class Limit:
    """A reader that returns the value unchanged if it passes a test, and else raises an error that says what would."""

    fits: Callable[[Any], bool]
    words: str

    def __call__(self, value: Any, key: str) -> Any:
        if not self.fits(value):
            raise UserError(f"{key}={value} is not {self.words}.")
        return value


def whole(least: int) -> Limit:
    """A whole number of at least `least`."""
    fits = lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least  # noqa: E731
    return Limit(fits, f"a whole number of at least {least}")


def number(words: str, fits: Callable[[float], bool]) -> Limit:
    """A finite number with a further property."""
    return Limit(
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and fits(v),
        f"a number {words}",
    )


def one_of(*options: str) -> Limit:
    """One of several strings."""
    return Limit(lambda value: isinstance(value, str) and value in options, f"one of {', '.join(options)}")


def or_null(limit: Limit) -> Limit:
    """The same limit, or null."""
    return Limit(lambda value: value is None or limit.fits(value), f"{limit.words}, or null")


def text(words: str) -> Limit:
    """A non-empty string."""
    return Limit(lambda value: isinstance(value, str) and value != "", words)


NAME = re.compile(r"[A-Za-z0-9_][\w.+=-]{0,99}")  # a folder's name, valid on every file system
A_NAME = Limit(
    lambda value: isinstance(value, str) and NAME.fullmatch(value) is not None,
    "a name of letters, digits, and _ . + - = after the first, 100 at most",
)
NOT_NEGATIVE = number("of at least 0", lambda value: value >= 0)
SHARE = number("from 0 to below 1", lambda value: 0 <= value < 1)
FINITE = Limit(number("", lambda _: True).fits, "a finite number")
BOOLEAN = Limit(lambda value: isinstance(value, bool), "true or false")
ANYTHING = Limit(lambda _: True, "anything")
GROUP = Limit(lambda value: isinstance(value, Mapping), "a group of settings")


def setting(default: Any, reader: Reader, words: str) -> Any:
    """Returns a dataclass field.

    Args:
        default: the default, as written in a config.
        reader: converts and checks a value.
        words: the meaning in one line, for `--help`.
    """
    metadata = {"reader": reader, "words": words}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A parsed and checked part of a config.

    Class attributes:
        key: the config key of the part, such as `scenario`.

    Raises:
        UserError: a value is not accepted; the message names the key, the value and what is accepted.
    """

    key: ClassVar[str] = ""

    def __init_subclass__(cls, key: str = "", **others: Any) -> None:
        super().__init_subclass__(**others)
        cls.key = key

    def __post_init__(self) -> None:
        for name, part in self.parts().items():
            value = part.metadata["reader"](getattr(self, name), self.full_key(name))
            object.__setattr__(self, name, value)

    @classmethod
    def parts(cls) -> dict[str, Field[Any]]:
        """Returns the fields by name."""
        return {part.name: part for part in fields(cls)}

    @classmethod
    def full_key(cls, name: str) -> str:
        """Returns a field's full config key, such as `scenario.rows`."""
        return f"{cls.key}.{name}" if cls.key else name

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Returns the default of each field that has words, as written in a config."""
        values = {
            name: part.default if part.default_factory is MISSING else part.default_factory()
            for name, part in cls.parts().items()
            if part.metadata["words"]
        }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def read(cls, typed: Any) -> Self:
        """Parses a part of a config.

        Args:
            typed: a mapping or a `DictConfig`; interpolations are resolved.

        Raises:
            UserError: not a mapping, an unknown key, or a value that is not accepted.
        """
        values = plain(typed)
        if not isinstance(values, Mapping):
            raise UserError(f"{cls.key}={typed} is not a group of settings. Accepted: {', '.join(cls.parts())}.")
        for name in values:
            if name not in cls.parts():
                known = [part for part, field_ in cls.parts().items() if field_.metadata["words"]]
                hint = f"{nearest(str(name), known)} Accepted: {', '.join(known)}."
                raise UserError(f"{cls.full_key(name)} is unknown{hint}")
        return cls(**values)


def plain(config: Any) -> Any:
    """Converts an OmegaConf config to plain Python containers, with interpolations resolved."""
    if "omegaconf" not in sys.modules:  # then it is not an OmegaConf config; the recorder runs without OmegaConf
        return config
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def offer_to_hydra(name: str, node: dict[str, Any]) -> None:
    """Registers defaults in Hydra's ConfigStore, as `/settings/<name>`."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(group="settings", name=name, node=node)


def as_typed(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def explain(*parts: type[Settings]) -> str:
    """Returns one line per key of these parts: key, default and meaning."""
    lines = [
        (f"{part.full_key(name)}={as_typed(value)}", part.parts()[name].metadata["words"])
        for part in parts
        for name, value in part.defaults().items()
    ]
    width = min(max(len(key) for key, _ in lines), 44)
    return "\n".join(f"{key:{width}}  {words}" for key, words in lines)


# The seed, and keys that do not change what is trained: runs that differ in nothing else are averaged.
IGNORED_KEYS = ("seed", "resume", "trust", "data.root", "callbacks", "logger", "hydra", "model.checkpoint")


def flat(config: Any) -> dict[str, Any]:
    """A config's values by their full keys, as in `scenario.rows`. Lists are values."""
    values: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                walk(f"{prefix}{key}.", value)
        else:
            values[prefix[:-1]] = node

    walk("", plain(config))
    return values


def targets_in(node: Any) -> Iterator[tuple[Mapping[str, Any], str]]:
    """All nodes in a plain config that have a `_target_`, and what they name."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node, str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list | tuple):
        for inner in node:
            yield from targets_in(inner)


def is_below(key: str, groups: Iterable[str]) -> bool:
    """Whether a full key is one of some keys, or in one of some groups."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def group_key(values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config's values (see `flat`) that runs of one group share: runs that are averaged over seeds."""
    return {key: value for key, value in values.items() if not is_below(key, IGNORED_KEYS)}
