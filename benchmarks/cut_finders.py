"""What tools say about ten places where gradient ends, and about a model without one, as a table in Markdown.

python benchmarks/cut_finders.py              # --full prints what each tool says

Each model has a gate whose gradient ends at the line marked `# cut`. A cell says whether a tool names that line or the
gate's two parameters in what it reports. Tools that list or draw all operations report nothing: their cells say whether
the cut can be seen there. "no backward node" is a sign of a cut, and of any other tensor that wants no gradient; a
drawing of the backward graph lacks the parameters that are cut. Tools that are not installed are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot

if TYPE_CHECKING:
    from collections.abc import Callable

LINES = Path(__file__).read_text(encoding="utf-8").splitlines()
GATE = ("gate.weight", "gate.bias")


class Gated(nn.Module):
    """Inputs (B, 4) -> outputs (B, 1): hidden units, multiplied by a gate."""

    def __init__(self, gated: Callable[[Gated, Tensor], Tensor]) -> None:
        super().__init__()
        self.hidden, self.gate, self.last = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 1)
        self.gated = gated

    def forward(self, x: Tensor) -> Tensor:
        """Calls the function that has the cut."""
        return self.last(torch.tanh(self.hidden(x)) * self.gated(self, x))


class Doubled(torch.autograd.Function):
    """2 · x, with a backward that was never written."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        """Doubles."""
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        """Sends nothing on."""


def _no_cut(model: Gated, x: Tensor) -> Tensor:
    return model.gate(x)


def _detach(model: Gated, x: Tensor) -> Tensor:
    return model.gate(x).detach()  # cut


def _no_grad(model: Gated, x: Tensor) -> Tensor:
    with torch.no_grad():  # cut
        return model.gate(x)  # cut


def _argmax(model: Gated, x: Tensor) -> Tensor:
    best = model.gate(x).argmax(1)  # cut
    return one_hot(best, 8).float()


def _item(model: Gated, x: Tensor) -> Tensor:
    size = model.gate(x).mean().item()  # cut
    return torch.ones(len(x), 8) * size


def _slice_write(model: Gated, x: Tensor) -> Tensor:
    gate, out = model.gate(x), torch.ones(len(x), 8)
    out[:, :4] = gate[:, :4].detach()  # cut
    return out


def _function(model: Gated, x: Tensor) -> Tensor:
    return Doubled.apply(model.gate(x))  # cut


def _rounded(model: Gated, x: Tensor) -> Tensor:
    return torch.round(4 * model.gate(x))  # cut


def _hooked(model: Gated, x: Tensor) -> Tensor:
    gate = model.gate(x)
    gate.register_hook(torch.zeros_like)  # cut
    return gate


def _half(model: Gated, x: Tensor) -> Tensor:
    gate = model.gate(x)
    return gate + gate.tanh().detach()  # cut


def _detached(x: Tensor) -> Tensor:
    return x.detach()


def _in_script(model: Gated, x: Tensor) -> Tensor:
    return torch.jit.script(_detached)(model.gate(x))  # cut


CUTS = {
    "`detach()`": _detach, "`torch.no_grad()`": _no_grad, "`argmax`": _argmax, "`item()`": _item,
    "a slice, written with `detach()`": _slice_write, "a custom Function's `None`": _function, "`round`": _rounded,
    "a hook's zeros": _hooked, "`detach()` on one of two ways": _half, "`detach()` in TorchScript": _in_script,
    "no cut": _no_cut,
}  # fmt: skip
# What an operation is called where all of them are listed or drawn.
NAMES = {
    _detach: "detach", _no_grad: "no_?grad", _argmax: "argmax", _item: "item", _slice_write: "detach",
    _function: "Doubled", _rounded: "round", _hooked: "hook", _half: "detach", _in_script: "detach", _no_cut: "^$",
}  # fmt: skip


def lines_of(gated: Callable[..., Tensor]) -> list[int]:
    """The numbers of the marked lines in a function."""
    numbers = {line for *_, line in gated.__code__.co_lines() if line}
    return [number for number in sorted(numbers) if LINES[number - 1].endswith("# cut")]


class Trial:
    """A model, its optimizer and a batch, fresh for each tool.

    Attributes:
        model: with a cut, or without.
        optimizer: SGD.
        x: inputs (B, 4).
        y: targets (B, 1).
    """

    def __init__(self, gated: Callable[..., Tensor]) -> None:
        torch.manual_seed(0)
        self.model = Gated(gated)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.x, self.y = torch.randn(16, 4), torch.randn(16, 1)

    def loss(self) -> Tensor:
        """One forward pass."""
        return mse_loss(self.model(self.x), self.y)


def find_cuts(trial: Trial) -> str:
    """Prints the answer of rowgrad."""
    import rowgrad

    found = rowgrad.find_cuts(trial.model, trial.loss)
    return "\n".join([str(found), *(one.name for one in found.without_gradient())])  # printed, a layer is `encoder.*`


def grads(trial: Trial) -> str:
    """Looks for gradients that are None or zero after one backward pass."""
    trial.loss().backward()
    named = trial.model.named_parameters()
    return "\n".join(f"{n}: {p.grad}" for n, p in named if p.grad is None or not p.grad.any())


def anomaly(trial: Trial) -> str:
    """Torch's anomaly mode."""
    with warnings.catch_warnings(record=True) as said, torch.autograd.detect_anomaly(check_nan=True):
        trial.loss().backward()
    return "\n".join(str(one.message) for one in said if "Anomaly Detection has been enabled" not in str(one.message))


def audit(trial: Trial) -> str:
    """The dynamic audit of torch-audit with its wrappers, without hints on hardware (TA2…)."""
    from torch_audit import audit_dynamic

    with audit_dynamic(trial.model, optimizer=trial.optimizer, every_n_steps=1) as auditor:
        trial.optimizer.zero_grad()
        auditor.backward(mse_loss(auditor.forward(trial.x), trial.y))
        auditor.optimizer_step()
    found = [one for one in auditor.finish(report=False).findings if not one.rule_id.startswith("TA2")]
    return "\n".join(f"{one.rule_id} {one.severity.name} {one.module_path}: {one.message}" for one in found)


def lens_audit(trial: Trial) -> str:
    """TorchLens' audit of a trace with its backward pass."""
    import torchlens as tl

    trace = _traced(trial)
    trace.log_backward(mse_loss(trace[trace.output_layers[0]].out, trial.y))
    return "\n".join(str(finding) for finding in tl.debug.audit_trace(trace).findings)


def lens_checks(trial: Trial) -> str:
    """TorchLens' checks of three training steps: its warnings, without facts."""
    from torchlens.checks import ChecksSession

    checks = ChecksSession(trial.model, trial.optimizer)
    checks.register_change_check(window=(1, 1))
    with checks.attach():
        for _ in range(3):
            trial.optimizer.zero_grad()
            trial.loss().backward()
            trial.optimizer.step()
    found = [one for one in checks.report().findings if one.severity != "info"]
    return "\n".join(f"{one.severity} {one.message}" for one in found)


def lens_trace(trial: Trial) -> str:
    """TorchLens' list of all operations, with each one's line and its node of the backward graph."""
    lines = []
    for op in _traced(trial).ops:
        places = [f"{Path(place.file).name}:{place.line_number}" for place in op.code_context]
        lines.append(f"{op.layer_label} {op.func_name} {op.grad_fn_class_name} {places}")
    return "\n".join(lines)


def _traced(trial: Trial) -> Any:
    import torchlens as tl

    options = tl.options.CaptureOptions(save_grads=True, backward_ready=True)
    return tl.trace(trial.model, trial.x, capture=options)


def viz(trial: Trial) -> str:
    """The drawing of torchviz; parameters are listed that are not in it."""
    from torchviz import make_dot

    source = make_dot(trial.loss(), params=dict(trial.model.named_parameters())).source
    missing = [name for name, _ in trial.model.named_parameters() if name not in source]
    return f"{source}\nmissing: {missing}"


def view(trial: Trial) -> str:
    """The drawing of torchview."""
    from torchview import draw_graph

    return draw_graph(trial.model, input_data=trial.x, device="cpu").visual_graph.source


# By name: the function, the packages that it needs, and whether it lists or draws all operations.
TOOLS: dict[str, tuple[Callable[[Trial], str], str, bool]] = {
    "rowgrad.find_cuts": (find_cuts, "rowgrad", False),
    "p.grad None or 0": (grads, "torch", False),
    "anomaly mode": (anomaly, "torch", False),
    "torch-audit": (audit, "torch-audit", False),
    "TorchLens, audit": (lens_audit, "torchlens", False),
    "TorchLens, checks": (lens_checks, "torchlens", False),
    "TorchLens, trace": (lens_trace, "torchlens", True),
    "torchviz": (viz, "torchviz", True),
    "torchview": (view, "torchview", True),
}


def say(tool: Callable[[Trial], str], gated: Callable[..., Tensor]) -> str:
    """What a tool says about one model; an error in one line."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as printed:
        warnings.simplefilter("ignore")
        try:
            return f"{tool(Trial(gated))}\n{printed.getvalue()}".strip()
        except Exception as error:  # noqa: BLE001 (whatever a tool raises is its answer)
            return f"{type(error).__name__}: {error}".splitlines()[0]


def judged(text: str, gated: Callable[..., Tensor], *, lists: bool) -> str:
    """A cell: what of the cut is named in a text."""
    if re.match(r"\w+Error: ", text):
        return f"`{text.partition(':')[0]}`"
    if gated is _no_cut:
        return "–" if lists else ("nothing, rightly" if _is_quiet(text) else "a false alarm")
    names = any(name in (text.partition("missing: ")[2] if lists else text) for name in GATE)
    at = "|".join(map(str, lines_of(gated)))
    there = [line for line in text.splitlines() if re.search(rf"{Path(__file__).name}:({at})\b", line)]
    if not lists:
        found = ["**line**"] * bool(there) + ["parameters"] * names
        return ", ".join(found) or ("nothing" if _is_quiet(text) else "an operation")
    if there:
        return "line; no backward node" if any(" None [" in line for line in there) else "line, as of any other"
    drawn = re.search(NAMES[gated], text, re.IGNORECASE)
    return "parameters missing" if names else ("drawn" if drawn else "not there")


def _is_quiet(text: str) -> bool:
    return not text or "gradient ends at no place" in text


def installed(package: str) -> str:
    """The version of a package; empty without it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="print what each tool says")
    options = parser.parse_args()
    rows: dict[str, list[str]] = {}
    for tool, (function, package, lists) in TOOLS.items():
        if not installed(package):
            rows[tool] = ["not installed"] * len(CUTS)
            continue
        rows[tool] = []
        for name, gated in CUTS.items():
            text = say(function, gated)
            rows[tool].append(judged(text, gated, lists=lists))
            if options.full:
                print(f"--- {tool}, {name}, lines {lines_of(gated)}\n{text}\n")
    print("| | " + " | ".join(rows) + " |")
    print("| --- " * (len(rows) + 1) + "|")
    for number, name in enumerate(CUTS):
        print(f"| {name} | " + " | ".join(cells[number] for cells in rows.values()) + " |")
    packages = dict.fromkeys(package for _, package, _ in TOOLS.values())
    print("\n" + ", ".join(f"{package} {installed(package) or 'not installed'}" for package in packages))


if __name__ == "__main__":
    main()
