"""Which taps a module has, those that are put before its submodules from outside, and what is recorded of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from rowgrad.errors import UserError, nearest
from rowgrad.tap import LEAST, RowTap, watched_of
from rowgrad.watch.quantities import GRAD_NORM, Quantity, TapNorm, find_quantity, norm_of, quantity_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import lightning.pytorch as pl
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
        raise UserError(f"modules={name} is not a submodule of {type(module).__name__}{nearest(name, parts, most=3)}")
    tap = RowTap()

    def through(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        for place, value in enumerate(args):
            if _can_be_tapped(value):
                return (*args[:place], tap(value), *args[place + 1 :]), kwargs
        for key, value in kwargs.items():
            if _can_be_tapped(value):
                return args, {**kwargs, key: tap(value)}
        raise UserError(
            f"modules={name}: it is given no tensor of floating point with rows, as (B, C, H, W) or (B, T, D)."
        )

    return tap, parts[name].register_forward_pre_hook(through, with_kwargs=True)


def _can_be_tapped(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= LEAST


class Tapped:
    """A module that is watched, until `leave`.

    Args:
        module: the module.
        modules: names of submodules before which taps are put.
        chosen: what is recorded: names and quantities of one's own; all that there is where it is None.
        pairs: names of taps before and after a cut, beside the module's own.

    Attributes:
        taps: by their names.
        quantities: what is recorded.
        watched: what the module says of itself.
        pairs: those of which both taps are recorded.

    Raises:
        UserError: nothing to record, or a name that there is not.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        modules: Sequence[str] = (),
        chosen: Sequence[str | Quantity] | None = None,
        pairs: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._due: bool | None = None
        self._handles: list[RemovableHandle] = []
        self.taps = find_taps(module)
        self._found = {tap: tap.enabled for tap in self.taps.values()}
        try:
            for name in modules:
                self.taps[name], handle = attach(module, name)
                self._handles.append(handle)
            self.quantities = self._choose(module, chosen)
            self._check(pairs)
        except UserError:
            self.leave()
            raise
        self.watched = watched_of(module)
        own = [] if self.watched.pair is None else [self.watched.pair]
        recorded = {quantity.name.removesuffix(GRAD_NORM) for quantity in self.quantities}
        self.pairs = [pair for pair in dict.fromkeys([*own, *pairs]) if recorded.issuperset(pair)]
        self._read = [quantity.tap for quantity in self.quantities if isinstance(quantity, TapNorm) and quantity.tap]

    def listen(self, due: bool) -> None:
        """Switches the taps that are recorded on or off; the others are off."""
        if due == self._due:
            return
        self._due = due
        for tap in self.taps.values():
            tap.enabled = False
        for tap in self._read:
            tap.enabled = due

    def forget(self) -> None:
        """Drops what the taps have kept."""
        for tap in self.taps.values():
            tap.reset()

    def leave(self) -> None:
        """Leaves the module as it was found."""
        self.forget()
        for tap, was_on in self._found.items():
            tap.requires_grad_(was_on)
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _check(self, pairs: Sequence[tuple[str, str]]) -> None:
        for name in sorted({name for pair in pairs for name in pair} - self.taps.keys()):
            raise UserError(f"pairs: {name} is not a tap{nearest(name, self.taps, most=3)}")

    def _choose(self, module: pl.LightningModule, chosen: Sequence[str | Quantity] | None) -> list[Quantity]:
        """What is recorded: all that there is, or what was asked for in the same order."""
        if chosen is None and not self.taps:
            raise UserError(
                f"RowGradientRecorder finds no tap in {type(module).__name__}: put self.tap = RowTap() into __init__"
                ' and x = self.tap(x) into forward, or name a submodule: RowGradientRecorder(modules="encoder").'
            )
        files = [find_quantity(name) for name in quantity_names()]
        others = [quantity for quantity in files if not isinstance(quantity, TapNorm) and quantity.fits(module)]
        norms = [norm_of(name, tap) for name, tap in self.taps.items()]
        # Of what has a file and is a tap too, the file knows better how to get it.
        there: dict[str, Quantity] = {quantity.name: quantity for quantity in [*norms, *others]}
        if chosen is None:
            return list(there.values())
        for name in chosen:
            if isinstance(name, str) and name not in there:
                hint = f"{nearest(name, there)} There are {', '.join(there)}."
                raise UserError(f"callbacks.recorder.quantities: {name} is not recorded here{hint}")
        own = [quantity for quantity in chosen if isinstance(quantity, Quantity)]
        return [*(quantity for name, quantity in there.items() if name in chosen), *own]
