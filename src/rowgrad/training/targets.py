"""What a `_target_` may name: anything where a person typed it; in somebody's folder, the classes of a closed list.

A run's folder may come from anybody, and what a `_target_` names is called. So it may name only classes that read and
write no file but in the run's folder, and call nothing that they are not given. See SECURITY.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from rowgrad.errors import UserError
from rowgrad.watch.settings import RecorderSettings

# Modules, and what a class must be to be named in them.
KINDS: Mapping[str, tuple[str, str]] = {
    "rowgrad.model.networks": ("torch.nn", "Module"),
    "rowgrad.model.sequences": ("torch.nn", "Module"),
    "rowgrad.scenario.operations": ("rowgrad.scenario.operations", "Operation"),
    "torch.nn": ("torch.nn", "Module"),
    "torch.optim": ("torch.optim", "Optimizer"),
    "torchmetrics.classification": ("torchmetrics", "Metric"),
    "torchvision.transforms.v2": ("torchvision.transforms.v2", "Transform"),
}
# Single classes, and the arguments that they may be given where others would say where something is written.
CLASSES: Mapping[str, Sequence[str] | None] = {
    "rowgrad.watch.recorder.RowGradientRecorder": tuple(RecorderSettings.parts()),
    "rowgrad.watch.pictures.Pictures": None,
    "rowgrad.watch.histograms.PerImageHistograms": None,
    "rowgrad.watch.bias.GradientBias": None,
    "rowgrad.watch.loggers.Logger": (),
    "rowgrad.training.checkpoints.Checkpoints": None,
    "rowgrad.training.trainer.Progress": None,
    **{
        f"lightning.pytorch.callbacks.{name}": None
        for name in (
            "DeviceStatsMonitor",
            "EarlyStopping",
            "LearningRateMonitor",
            "ModelSummary",
            "RichModelSummary",
            "RichProgressBar",
            "StochasticWeightAveraging",
            "TQDMProgressBar",
        )
    },
    "lightning.pytorch.loggers.CSVLogger": ("name", "version", "prefix", "flush_logs_every_n_steps"),
    "lightning.pytorch.loggers.WandbLogger": ("name", "project", "group", "tags", "notes", "offline", "prefix"),
}
HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_")  # keys that are Hydra's own


def targets_of(node: Any, key: str, trusted: Sequence[str] | None) -> list[str]:
    """What a node of a config and the nodes in it name.

    Args:
        node: `_target_` and arguments.
        key: what stands before a mistake's words.
        trusted: packages, and single classes, that may be named beside the closed list; None where a person typed the
            node: it is theirs.

    Raises:
        UserError: something that may not be named, or an argument that may not be given.
    """
    if isinstance(node, Mapping):
        inner = [name for value in node.values() for name in targets_of(value, key, trusted)]
        if "_target_" not in node:
            return inner
        target = str(node["_target_"])
        if trusted is not None and target.partition(".")[0] not in trusted:
            _check_known(target, node, key, trusted)
        return [target, *inner]
    if isinstance(node, list | tuple):
        return [name for value in node for name in targets_of(value, key, trusted)]
    return []


def _check_known(target: str, node: Mapping[str, Any], key: str, trusted: Sequence[str]) -> None:
    module, _, name = target.rpartition(".")
    if module in KINDS:
        home, kind = KINDS[module]
        named = vars(import_module(module)).get(name)
        known = isinstance(named, type) and issubclass(named, getattr(import_module(home), kind))
    else:
        known = target in CLASSES
    if not known and target not in trusted:
        package = target.partition(".")[0]
        raise UserError(
            f"{key}: {target} stands in a run's folder, which may come from anybody, and could do anything."
            f" If it is yours: trust=[{package}]."
        )
    accepted = CLASSES.get(target)
    for argument, value in node.items():
        if accepted is not None and argument not in (*accepted, *HYDRAS):
            words = f"{', '.join(accepted)}" if accepted else "none"
            raise UserError(f"{key}.{argument} is not among the arguments that a run's folder may give: {words}.")
        if accepted is not None and isinstance(value, str) and (set(value) & set("/\\~") or ".." in value):
            raise UserError(f"{key}.{argument}={value} leads out of the run's folder.")


def read_packages(value: Any, key: str) -> tuple[str, ...] | None:
    """Reads names of packages: a list, one of them, or null.

    Raises:
        UserError: something else.
    """
    if value is None:
        return None
    packages = [value] if isinstance(value, str) else value
    if not isinstance(packages, Sequence) or not all(
        isinstance(name, str) and name.isidentifier() for name in packages
    ):
        raise UserError(f"{key}={value} is not a list of packages.")
    return tuple(packages)
