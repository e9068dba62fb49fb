"""Which taps a module has, and those that are put before its submodules from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from rowgrad.errors import UserError, nearest
from rowgrad.tap import LEAST, RowTap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.utils.hooks import RemovableHandle

# What torch puts around a module: no part of the name that its author gave it.
WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}


def named_parts(module: nn.Module) -> dict[str, nn.Module]:
    """All submodules by their names, without what torch puts around them: `net._orig_mod.conv1` is `net.conv1`."""
    parts = {}
    for name, part in module.named_modules():
        plain = ".".join(word for word in name.split(".") if word not in WRAPPERS)
        if plain:
            parts[plain] = part  # of a wrapper and what is in it, the latter
    return parts


def find_taps(module: nn.Module) -> dict[str, RowTap]:
    """A module's taps by their attributes' names, as in `encoder.tap`."""
    return {name: part for name, part in named_parts(module).items() if isinstance(part, RowTap)}


def attach(module: nn.Module, name: str) -> tuple[RowTap, RemovableHandle]:
    """Puts a tap before a submodule. The module's own parts, names and state stay as they are.

    Args:
        module: whose submodule it is.
        name: of the submodule, as in `backbone.conv1`.

    Returns:
        The tap, and the handle that takes it away again.

    Raises:
        UserError: there is no such submodule.
    """
    parts = named_parts(module)
    if name not in parts:
        raise UserError(f"at={name} is not a submodule of {type(module).__name__}{nearest(name, parts, most=3)}")
    tap = RowTap()

    def through(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        for place, value in enumerate(args):
            if _can_be_tapped(value):
                return (*args[:place], tap(value), *args[place + 1 :]), kwargs
        for key, value in kwargs.items():
            if _can_be_tapped(value):
                return args, {**kwargs, key: tap(value)}
        raise UserError(f"at={name}: it is given no tensor of floating point with rows, as (B, C, H, W) or (B, T, D).")

    return tap, parts[name].register_forward_pre_hook(through, with_kwargs=True)


def _can_be_tapped(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= LEAST
