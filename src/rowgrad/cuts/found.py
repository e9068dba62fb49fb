"""What the cut finder answers: places where gradient ends, and what each parameter gets."""

from __future__ import annotations

import html
import math
import textwrap
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rowgrad.cuts.places import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH = 80
MOST = 4  # names in a line of the printed answer
REACHED, CUT, DEAD, UNUSED, FROZEN = "reached", "cut", "dead", "unused", "frozen"
NO_OPTIMIZER = "no optimizer"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A place where gradient ends.

    Let g be the gradient of the loss with respect to all parameters and inputs that want it, as one vector, h the same
    with this one place let through, and m = h − g what goes through the place.

    Example:
        >>> from torch import nn
        >>> layer = nn.Linear(4, 1)
        >>> def step():
        ...     return layer(torch.ones(2, 4)).detach().mean() + layer.bias.square().mean()
        >>> cut = find_cuts(layer, step).cuts[0]
        >>> cut.kind, cut.shape, cut.reaches_loss, cut.parameters
        ('detach', (2, 1), True, ('weight',))

    Attributes:
        kind: how it ends gradient: `detach`, `detach_`, `.data`, `no_grad`, `inference_mode`, `set_grad_enabled`,
            `not differentiable`, `exit`, `create_graph`, `custom Function`, `hook`, or `zero derivative`.
        operation: torch's name for the call, as in `argmax`.
        file: the path of the file.
        line: the line's number.
        code: its text.
        function: the qualified name of the function.
        module: the dotted name of the module whose forward runs; empty for the outermost module, and outside of it.
        callers: the functions and lines that lead there, up to the module's `forward`, innermost first.
        count: how often in the step.
        shape: of the first tensor that loses its gradient there.
        reaches_loss: whether the loss depends on its values; None if that is unknown.
        parameters: the names of those that get gradient with this place let through, and none now.
        inputs: descriptions of input tensors for which the same holds.
        stopped: ‖m‖² / (‖m‖² + ‖g‖²): the share of the squared gradient that this place stops.
        cosine: ⟨g, h⟩ / (‖g‖ ‖h‖); None if one of the two is zero.
        withheld: why there are no numbers; empty if there are.
    """

    kind: str
    operation: str
    file: str
    line: int
    code: str
    function: str
    module: str
    callers: tuple[str, ...]
    count: int
    shape: tuple[int, ...]
    reaches_loss: bool | None
    parameters: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    stopped: float | None = None
    cosine: float | None = None
    withheld: str = ""

    @property
    def place(self) -> str:
        """As in `scenario.py:186`; of a notebook's cell its line."""
        return Place(self.file, self.line, self.function).short

    @property
    def maker(self) -> str:
        """The kind, with the operation where that says more."""
        return f"{self.kind} ({self.operation})" if self.operation not in {self.kind, "", ".data"} else self.kind


@dataclass(frozen=True)
class ParameterGradient:
    """What gradient a parameter gets.

    Attributes:
        name: as in `named_parameters()`.
        status: `reached`, `cut`, `dead` (connected, and exactly zero), `unused` (the loss does not depend on its
            values), or `frozen` (`requires_grad` is False).
        cuts: the places that cut it, or where its gradient became zero.
        optimizer: whether an optimizer has it; None if no optimizers are known.
    """

    name: str
    status: str
    cuts: tuple[Cut, ...] = ()
    optimizer: bool | None = None


@dataclass(frozen=True)
class Cuts:
    """The answer of `find_cuts`. Printed, it fits into 80 columns.

    Example:
        >>> layer = torch.nn.Linear(4, 1)
        >>> found = find_cuts(layer, lambda: layer(torch.ones(2, 4)).mean())
        >>> print(found)
        On the way to the loss, gradient ends at no place.
        All 2 parameters that want gradient get some.

    Attributes:
        loss: of the step; the sum, if there are several.
        cuts: the places, those that reach the loss first.
        parameters: by their names.
    """

    loss: float
    cuts: list[Cut]
    parameters: dict[str, ParameterGradient] = field(default_factory=dict)

    @property
    def on_the_way(self) -> list[Cut]:
        """The places whose values reach the loss, or may reach it."""
        return [cut for cut in self.cuts if cut.reaches_loss is not False]

    def without_gradient(self) -> list[ParameterGradient]:
        """The parameters that want gradient and get none."""
        return [one for one in self.parameters.values() if one.status not in {REACHED, FROZEN}]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, as for JSON. A parameter's cuts are places in the list `cuts`."""
        parameters = {
            one.name: {"status": one.status, "cuts": [self.cuts.index(cut) for cut in one.cuts]}
            | ({} if one.optimizer is None else {"optimizer": one.optimizer})
            for one in self.parameters.values()
        }
        return {"loss": _finite(self.loss), "cuts": [_plain(cut) for cut in self.cuts], "parameters": parameters}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        """The places as a table, and the rest as text."""
        head = "".join(f"<th style='text-align:left'>{words}</th>" for words in ("", "place", "kind", "what it costs"))
        rows = "".join(
            f"<tr><td>{number}</td><td style='text-align:left'><b>{html.escape(cut.place)}</b>"
            f"<br/><code>{html.escape(cut.code)}</code><br/>{html.escape(_where(cut))}</td>"
            f"<td style='text-align:left'>{html.escape(cut.maker)}</td>"
            f"<td style='text-align:left'>{'<br/>'.join(map(html.escape, _costs(cut, self._wanting)))}</td></tr>"
            for number, cut in enumerate(self.on_the_way, 1)
        )
        table = f"<table><tr>{head}</tr>{rows}</table>" if rows else ""
        before, after = ("\n".join(lines) for lines in (self._head(), self._tail()))
        return f"<pre>{html.escape(before)}</pre>{table}<pre>{html.escape(after.strip())}</pre>"

    def _lines(self) -> list[str]:
        lines = self._head()
        for number, cut in enumerate(self.on_the_way, 1):
            lines += ["", *_described(number, cut, self._wanting)]
        return lines + self._tail()

    @property
    def _wanting(self) -> list[str]:
        return [one.name for one in self.parameters.values() if one.status != FROZEN]

    def _head(self) -> list[str]:
        count, without = len(self.on_the_way), len(self.without_gradient())
        wanting = len(self._wanting)
        places = f"{count} place{'s' * (count != 1)}" if count else "no place"
        return [
            *_wrapped(f"On the way to the loss, gradient ends at {places}."),
            *_wrapped(
                f"{without} of {wanting} parameters that want gradient get none."
                if without
                else f"All {wanting} parameters that want gradient get some."
                if wanting
                else "No parameter wants gradient."
            ),
        ]

    def _tail(self) -> list[str]:
        lines: list[str] = []
        without = self.without_gradient()
        if without:
            lines += ["", "Parameters without gradient:"]
            for status in (CUT, DEAD, UNUSED):
                lines += self._listed(status, [one for one in without if one.status == status])
        if loose := [one.name for one in self.parameters.values() if one.status != FROZEN and one.optimizer is False]:
            lines += ["", *_wrapped(f"In no optimizer: {_names(_together(loose, self._wanting))}")]
        if frozen := [one.name for one in self.parameters.values() if one.status == FROZEN]:
            every = list(self.parameters)
            lines += ["", *_wrapped(f"Frozen (requires_grad is False): {_names(_together(frozen, every))}")]
        if seen := [cut for cut in self.cuts if cut.reaches_loss is False]:
            named = [f"{cut.place} {cut.maker}" for cut in seen]
            lines += ["", *_wrapped(f"Only looked at, never part of the loss: {_names(named, 3 * MOST)}")]
        return lines

    def _listed(self, status: str, found: list[ParameterGradient]) -> list[str]:
        """The parameters of one status, those with the same places in one line."""
        numbers = {id(cut): number for number, cut in enumerate(self.on_the_way, 1)}
        groups: dict[tuple[int, ...], list[str]] = {}
        for one in found:
            places = tuple(numbers[id(cut)] for cut in one.cuts if id(cut) in numbers)
            groups.setdefault(places, []).append(one.name)
        lines = []
        for places, names in groups.items():
            at = f" at {_listed_numbers(places)}" if places else ""
            why = {
                CUT: f"cut{at or ', by what is unknown'}",
                DEAD: f"exactly zero{', made so' * bool(at)}{at}",
                UNUSED: "unused: the loss does not depend on them" if len(names) > 1 else "unused by the loss",
            }[status]
            lines += _wrapped(f"{_names(_together(names, self._wanting))}: {why}", "  ")
        return lines


def _described(number: int, cut: Cut, every: Sequence[str]) -> list[str]:
    lines = _wrapped(f"{number}. {cut.place}  {cut.maker}", "", "   ")
    lines += ["     " + textwrap.shorten(cut.code, WIDTH - 5, placeholder=" …")] if cut.code else []
    lines += _wrapped(_where(cut), "   ")
    for words in _costs(cut, every):
        lines += _wrapped(words, "   ")
    return lines


def _where(cut: Cut) -> str:
    """The function, the module, the shape, and how often."""
    shape = "×".join(map(str, cut.shape)) or "a scalar"
    module = f" ({cut.module})" if cut.module else ""
    way = f", called from {', '.join(cut.callers[:MOST])}" if cut.callers else ""
    return f"in {cut.function}{module}, {shape}{'' if cut.count == 1 else f', {cut.count} times'}{way}"


def _costs(cut: Cut, every: Sequence[str]) -> list[str]:
    """What letting the place through changes, or why that is unknown."""
    unknown = ["values leave torch here; whether they come back is unknown"] if cut.reaches_loss is None else []
    if cut.withheld or cut.stopped is None:
        return [*unknown, *([cut.withheld] if cut.withheld else [])]
    if not cut.stopped:
        return ["let through alone, it changes nothing"]
    names = _names([*_together(cut.parameters, every), *cut.inputs])
    turned = "" if cut.cosine is None else f", and turns it by {math.degrees(math.acos(cut.cosine)):.0f}°"
    angle = "" if cut.cosine is None else f" (cosine {cut.cosine:.4f})"
    return [
        f"without it, gradient would reach {names}" if names else "what it keeps gradient from gets some in other ways",
        f"it stops {cut.stopped:.1%} of the squared gradient{turned}{angle}",
    ]


def _together(names: Iterable[str], every: Iterable[str]) -> list[str]:
    """Names of parameters, those of a whole module as `encoder.*`.

    Args:
        names: of the parameters.
        every: the names of all parameters that want gradient.
    """
    chosen, found = set(names), {}
    groups: dict[str, list[str]] = {}
    for name in every:
        words = name.split(".")
        for count in range(1, len(words)):
            groups.setdefault(".".join(words[:count]), []).append(name)
    for name in names:
        words = name.split(".")
        wholes = (".".join(words[:count]) for count in range(1, len(words)))
        whole = next((one for one in wholes if len(groups[one]) > 1 and chosen.issuperset(groups[one])), None)
        found[f"{whole}.*" if whole else name] = None
    return list(found)


def _wrapped(words: str, indent: str = "", more: str | None = None) -> list[str]:
    after = indent + "  " if more is None else more
    return textwrap.wrap(
        words, WIDTH, initial_indent=indent, subsequent_indent=after, break_on_hyphens=False, break_long_words=False
    )


def _names(names: list[str], most: int = MOST) -> str:
    more = len(names) - most
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:most])} and {more} more"


def _listed_numbers(numbers: tuple[int, ...]) -> str:
    return " and ".join(map(str, numbers)) if len(numbers) < 3 else ", ".join(map(str, numbers))  # noqa: PLR2004


def _finite(number: float | None) -> float | str | None:
    return number if number is None or math.isfinite(number) else str(number)


def _plain(cut: Cut) -> dict[str, Any]:
    return (
        asdict(cut)
        | {"shape": list(cut.shape), "callers": list(cut.callers)}
        | {
            "parameters": list(cut.parameters),
            "inputs": list(cut.inputs),
        }
    )
