"""What a `_target_` may name: anything where a person typed it, what is known where it stands in a run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rowgrad.errors import UserError

# What the config of a run's folder, which may come from anybody, may name.
KNOWN = ("rowgrad.*", "torch.*", "torchmetrics.*", "torchvision.transforms.v2.*", "lightning.pytorch.*")


def named_by(typed: Any) -> tuple[str, ...]:
    """Patterns of the packages that a config names, and of those that are known."""
    found = dict.fromkeys(KNOWN)

    def walk(node: Any) -> None:
        if isinstance(node, Mapping):
            if isinstance(node.get("_target_"), str):
                found[node["_target_"].partition(".")[0] + ".*"] = None
            node = list(node.values())
        if isinstance(node, list):
            for inner in node:
                walk(inner)

    walk(typed)
    return tuple(found)


def trusting(packages: Sequence[str]) -> tuple[str, ...]:
    """Patterns of what the config of a run's folder may name where a person trusts some packages."""
    return (*KNOWN, *(f"{package}.*" for package in packages))


def read_packages(value: Any, key: str) -> Sequence[str]:
    """Reads names of packages: a list, or one of them.

    Raises:
        UserError: something else.
    """
    packages = [value] if isinstance(value, str) else value
    if not isinstance(packages, Sequence) or not all(
        isinstance(name, str) and name.isidentifier() for name in packages
    ):
        raise UserError(f"{key}={value} is not a list of packages.")
    return packages
