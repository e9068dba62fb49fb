"""The quantities that are recorded of each row, and the names under which event files hold them. Imports nothing heavy.

A tap needs no quantity of its own: its norm is recorded as `<tap>_grad_norm`. To record something else, subclass
`Quantity` and name the class by `_target_` in `callbacks.recorder.quantities`; docs/extending.md shows how.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from rowgrad.model.classifier import RowClassifier
    from rowgrad.tap import RowTap

GRAD_NORM = "_grad_norm"  # follows a tap's name
REACHES, ARRIVES = f"row{GRAD_NORM}", f"input{GRAD_NORM}"  # before and after the cut
COSINE, RATIO = "grad_bias/cosine", "grad_bias/norm_ratio"  # of the weights' gradient and the one without detach
STOPPED = "row_grad_stopped"  # the share of each row's whole gradient that detach stops

LAYER_GRAD, LAYER_UPDATE = "layer_grad_norm", "layer_update_ratio"
TOTAL = "total"  # the row of all layers together

ROW = re.compile(r"(?P<quantity>.+)/row_(?P<row>\d{1,4})")  # the tag of one row
LAYER = re.compile(rf"(?P<quantity>(?:.+\.)?(?:{LAYER_GRAD}|{LAYER_UPDATE}))/(?P<layer>.+)")  # the tag of one layer
MOST_ROWS = 10_000  # in a tag
_OPTIMIZER = re.compile(r"(optimizer_\d+)\.(.+)")
FACTS = "rowgrad"  # the plugin name of records that describe a run, one JSON object each
ABOUT, SELECTED, OUTCOME = (f"{FACTS}/{name}" for name in ("about", "selected", "outcome"))  # their tags


def row_tags(quantity: str, height: int, names: Sequence[str] = ()) -> list[str]:
    """TensorBoard tags and CSV columns of a quantity, one for each of the H rows: `row_grad_norm/row_00`, ...

    Args:
        quantity: its name.
        height: H.
        names: of the rows, if they have any: `layer_grad_norm/encoder.linear`, ...
    """
    return [f"{quantity}/{name}" for name in names or (f"row_{row:02d}" for row in range(height))]


class Description(NamedTuple):
    """What charts say of a quantity.

    Attributes:
        title: of its heatmaps.
        unit: of its numbers.
        kind: what a row is, in the singular.
        labels: the names of the first rows.
    """

    title: str
    unit: str = ""
    kind: str = "row"
    labels: tuple[str, ...] = ()

    def corrected(self, facts: Any) -> Description:
        """With what a run says of the quantity, as far as it is of the right types: it may come from anybody."""
        if not isinstance(facts, dict):
            return self
        words = {name: facts[name] for name in ("title", "unit", "kind") if isinstance(facts.get(name), str)}
        labels = facts.get("labels")
        if isinstance(labels, list) and len(labels) <= MOST_ROWS and all(isinstance(one, str) for one in labels):
            return self._replace(**words, labels=tuple(labels))
        return self._replace(**words)


class Quantity:
    """One number for each row at each recorded step: by default the norm of a tensor over channels and columns.

    Attributes:
        name: of its tags and columns, `<name>/row_00` ...
        title: of its heatmaps.
        unit: of the number.
        in_csv: whether it has columns in `row_gradients.csv`.
        of_rank: whether each process has a value of its own; the mean over processes is recorded.
        may_be_joined: whether its numbers are norms, so that those of many rows may be joined to fewer.
        names: of the rows, if they have any: the ends of their tags and columns.
        kind: what a row is, in the singular.
        labels: names of rows for charts alone.

    Example:
        >>> class ThetaNorm(Quantity):
        ...     name, title = "theta_norm", "What the rows have learnt, ‖θᵣ‖"
        ...     unit, in_csv = "normalised pixels", True
        ...
        ...     def before_step(self, module):
        ...         return module.theta
        >>> ThetaNorm().reduce(torch.ones(1, 1, 2, 4))  # of one step: one channel, two rows, four columns
        tensor([[2., 2.]], dtype=torch.float64)
    """

    name: str
    title: str
    unit: str = "loss per normalised pixel"
    in_csv: bool = False
    of_rank: bool = False
    may_be_joined: bool = True
    names: Sequence[str] = ()
    kind: str = "row"
    labels: Sequence[str] = ()

    @property
    def description(self) -> Description:
        """What charts say of it."""
        return Description(self.title, self.unit, self.kind, tuple(self.labels))

    def fits(self, module: nn.Module) -> bool:
        """Whether this module has the quantity."""
        return True

    def before_step(self, module: Any) -> Tensor | None:
        """What to keep just before the optimizer's step, (..., H, W); None if it does not exist at this step."""
        raise NotImplementedError

    def after_step(self, kept: Tensor, module: Any) -> None:
        """Completes, in place, what was kept, after the optimizer's step."""

    def reduce(self, kept: Tensor) -> Tensor:
        """What was kept at T steps, (T, ..., H, W) -> one number for each row, (T, H)."""
        from rowgrad.watch.norms import row_norms  # imported late: torch

        return row_norms(kept)

    def is_scaled(self, optimizer: Optimizer | None) -> bool:
        """Whether what is kept still contains the loss scale of 16-bit precision."""
        return False


class TapNorm(Quantity):
    """‖∂L/∂x_r‖₂ of the tensor x that goes through a tap.

    Args:
        tap_name: the name of the tap's attribute.
        tap: the tap; None for a description alone.
    """

    unit = "loss per unit of x"
    in_csv = True
    of_rank = True

    def __init__(self, tap_name: str, tap: RowTap | None = None) -> None:
        self.name, self.tap = f"{tap_name}{GRAD_NORM}", tap
        self.title = f"What comes back through {tap_name}, ‖∂L/∂xᵣ‖"
        if self.name == ARRIVES:  # not zero in a row that detach cuts: the network still uses the row
            self.title, self.unit = "What arrives at the network's input, ‖∂L/∂τᵣ‖", Quantity.unit
        if tap is not None:
            self.kind, self.labels = tap.kind, tap.labels

    def before_step(self, module: Any) -> Tensor | None:
        assert self.tap is not None, "recorded of a tap"
        return self.tap.grad

    def is_scaled(self, optimizer: Optimizer | None) -> bool:
        return True  # a tap is in no optimizer, so the scaler never unscales it


class OfTheta(Quantity):
    """Of modules that have trainable rows θ. In other modules an attribute `theta` may be anything."""

    def fits(self, module: nn.Module) -> bool:
        from rowgrad.tap import watched_of  # imported late: torch

        return watched_of(module).pair is not None and hasattr(module, "theta")


class RowGradNorm(OfTheta):
    """‖∂L/∂θ_r‖₂: what reaches row r, before the cut. Exactly 0.0 in a row that is cut.

    θ's own gradient is what the tap `row` would keep, because θ is the leaf that is added there.
    """

    name = REACHES
    title = "What reaches the rows, ‖∂L/∂θᵣ‖"
    in_csv = True

    def before_step(self, module: RowClassifier) -> Tensor | None:
        return module.theta.grad

    def is_scaled(self, optimizer: Optimizer | None) -> bool:
        # The scaler unscales the optimizer's parameters, except torch's fused optimizers', which do it in their step.
        return getattr(optimizer, "_step_supports_amp_scaling", False)


class RowUpdateNorm(OfTheta):
    """‖θ_r(t+1) − θ_r(t)‖₂: how far row r moves in step t. Not zero in a cut row that momentum or decay moves."""

    name = "row_update_norm"
    title = "How far the rows move, ‖θᵣ(t+1) − θᵣ(t)‖"
    unit = "normalised pixels"

    def before_step(self, module: RowClassifier) -> Tensor:
        return module.theta

    def after_step(self, kept: Tensor, module: RowClassifier) -> None:
        kept.sub_(module.theta.detach())


class OfLayers(Quantity):
    """One number for each layer: for each module that has parameters of its own, by its name, and for all together.

    Args:
        module: whose layers.
        depth: how many parts of a layer's name count: with 1, `encoder.0.linear` and `encoder.1.linear` are `encoder`;
            None for all.
    """

    in_csv = True
    may_be_joined = False
    kind = "layer"

    def __init__(self, module: nn.Module, depth: int | None = None) -> None:
        self.layers: dict[str, list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                path = name.split(".")[:-1] or [name]
                layer = ".".join(path[:depth]).replace("/", "_")
                self.layers.setdefault(layer, []).append(parameter)
        self.names = [*self.layers, TOTAL]

    def by_layer(self, norms: Sequence[Tensor | None]) -> Tensor:
        """Norms of all parameters, in their order, as norms of the layers and of all together, (layers + 1, 1).

        NaN for a layer of which no parameter has one.
        """
        import torch

        known = [norm for norm in norms if norm is not None]
        if not known:
            return torch.full((len(self.names), 1), torch.nan)
        squares = iter(torch.stack(known).double().square())
        given = iter(norms)
        sums = []
        for parameters in self.layers.values():
            own = [next(squares) for _ in parameters if next(given) is not None]
            sums.append(torch.stack(own).sum() if own else known[0].new_tensor(torch.nan, dtype=torch.float64))
        each = torch.stack(sums)
        return torch.cat([each, each.nansum()[None]]).sqrt()[:, None]


class LayerGradNorm(OfLayers):
    """‖∂L/∂w‖₂ of each layer's parameters w together, before clipping: the gradient that the optimizer's step uses."""

    name = LAYER_GRAD
    title = "Gradient of each layer's parameters, ‖∂L/∂w‖"
    unit = "loss per unit of w"

    def before_step(self, module: Any) -> Tensor:
        return self.by_layer(_sizes([p.grad for parameters in self.layers.values() for p in parameters]))

    def is_scaled(self, optimizer: Optimizer | None) -> bool:
        return getattr(optimizer, "_step_supports_amp_scaling", False)  # as of RowGradNorm


class LayerUpdateRatio(OfLayers):
    """‖Δw‖₂ ÷ ‖w‖₂ of each layer's parameters w: how far a step moves them, beside their size before it."""

    name = LAYER_UPDATE
    title = "How far a step moves each layer, ‖Δw‖ / ‖w‖"
    unit = "share"

    def before_step(self, module: Any) -> Tensor:
        self._before = [p.detach().clone() for parameters in self.layers.values() for p in parameters]
        return self.by_layer(_sizes(self._before))

    def after_step(self, kept: Tensor, module: Any) -> None:
        after = [p.detach() for parameters in self.layers.values() for p in parameters]
        moved = self.by_layer(_sizes([new - old for new, old in zip(after, self._before, strict=True)]))
        self._before = []
        kept.copy_(moved / kept)  # inf where a weight of zeros has moved, NaN where it stayed


def _sizes(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The norm of each tensor in 64 bits; 0.0 if and only if all of it is."""
    import torch

    known = [tensor.coalesce().values() if tensor.is_sparse else tensor for tensor in tensors if tensor is not None]
    if known and known[0].is_cuda:
        norms = torch._foreach_norm(known, 2, torch.float64)  # noqa: SLF001
    else:  # in 64 bits it takes ten times as long on a CPU; in 32, squares of numbers below 1e-22 vanish
        norms = [
            norm.double() if norm else torch.linalg.vector_norm(tensor, dtype=torch.float64)
            for norm, tensor in zip(torch._foreach_norm(known), known, strict=True)  # noqa: SLF001
        ]
    found = iter(norms)
    return [None if tensor is None else next(found) for tensor in tensors]


def arriving(norms: Mapping[str, Tensor]) -> Tensor | None:
    """The norms (T, H) at the network's input, or those of the row gradients if the former were not recorded."""
    return norms.get(ARRIVES, norms.get(REACHES))


KNOWN: dict[str, Quantity] = {one.name: one for one in (RowGradNorm(), TapNorm("input"), RowUpdateNorm())}


def is_of_layers(name: str) -> bool:
    """Whether the rows of a quantity are layers."""
    return name.endswith((LAYER_GRAD, LAYER_UPDATE))


def describe_quantity(name: str, facts: Mapping[str, Any] | None = None) -> Description:
    """What charts say of a quantity; other scalars named `<name>/row_00` are titled by their name, without a unit.

    Args:
        name: of the quantity, with its optimizer's before it if there are several.
        facts: what a run says of its quantities, by their names, where it does not follow from these.
    """
    match = _OPTIMIZER.fullmatch(name)
    optimizer, own = match.groups() if match else ("", name)
    found = _by_name(own)
    if facts:
        found = found.corrected(facts.get(own))
    title, comma, formula = found.title.partition(",")
    return found._replace(title=f"{title} ({optimizer}){comma}{formula}") if optimizer else found


def _by_name(name: str) -> Description:
    if name == STOPPED:
        return Description("What detach stops of each row's whole gradient", "share")
    for layers in (LayerGradNorm, LayerUpdateRatio):
        if name.endswith(layers.name):
            return Description(layers.title, layers.unit, layers.kind)
    if name not in KNOWN and not name.endswith(GRAD_NORM):
        return Description(name)
    return (KNOWN.get(name) or TapNorm(name.removesuffix(GRAD_NORM))).description


def describe_facts(quantities: Sequence[Quantity], *, with_labels: bool = True) -> dict[str, dict[str, Any]]:
    """What of the quantities' descriptions does not follow from their names, by these."""
    found = {}
    for quantity in quantities:
        usual, own = _by_name(quantity.name)._asdict(), quantity.description._asdict()
        if not with_labels:
            del own["labels"]
        if differing := {key: value for key, value in own.items() if value != usual[key]}:
            found[quantity.name] = differing
    return found
