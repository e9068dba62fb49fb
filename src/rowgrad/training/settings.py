"""What a whole config may say, read once. Nothing heavy is imported, so that a mistake is told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from rowgrad.config import (
    ANYTHING,
    BOOLEAN,
    GROUP,
    NOT_NEGATIVE,
    Limit,
    Settings,
    offer_to_hydra,
    one_of,
    or_null,
    plain,
    setting,
    text,
    whole,
)
from rowgrad.data.settings import DataSettings
from rowgrad.errors import UserError
from rowgrad.model.settings import ModelSettings, OptimizerSettings
from rowgrad.scenario.settings import CorruptionSettings, ScenarioSettings
from rowgrad.training.targets import named_by, read_packages
from rowgrad.watch.settings import HistogramsSettings, PicturesSettings, RecorderSettings

if TYPE_CHECKING:
    from omegaconf import DictConfig

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "64-true", "16-true", "bf16-true")
LIMIT = Limit(lambda value: value == -1 or whole(1).fits(value), "a whole number of at least 1, or -1 for no limit")


@dataclass(frozen=True, kw_only=True)
class TrainerSettings(Settings, key="trainer"):
    """Arguments of Lightning's Trainer, and `compile`."""

    accelerator: str = setting("auto", one_of(*ACCELERATORS), "auto: a GPU where there is one")
    devices: Any = setting(1, ANYTHING, "how many, or which")
    num_nodes: int = setting(1, whole(1), "machines")
    precision: str = setting("32-true", one_of(*PRECISIONS), f"one of {', '.join(PRECISIONS)}")
    max_epochs: int = setting(1, LIMIT, "-1 for no limit")
    max_steps: int = setting(-1, LIMIT, "optimizer steps; -1 for no limit")
    accumulate_grad_batches: int = setting(1, whole(1), "micro-batches of one optimizer step")
    gradient_clip_val: float | None = setting(None, or_null(NOT_NEGATIVE), "the gradient's norm is clipped to it")
    deterministic: Any = setting(False, ANYTHING, "bit-identical on a GPU too, where torch can")
    compile: bool = setting(False, BOOLEAN, "torch.compile for the network: a minute at the start, for long GPU runs")
    num_sanity_val_steps: int = setting(0, ANYTHING, "batches that are validated before training")
    log_every_n_steps: int = setting(1, whole(1), "steps from one flush of Lightning's own metrics to the next")
    enable_model_summary: bool = setting(False, BOOLEAN, "prints the layers")
    others: Mapping[str, Any] = field(default_factory=dict, metadata={"reader": GROUP, "words": ""})

    @classmethod
    def read(cls, typed: Any) -> Self:
        """The same, with any other argument that Lightning's Trainer has."""
        values = plain(typed)
        if not isinstance(values, Mapping):
            return super().read(values)
        own = cls.defaults()
        named = {name: value for name, value in values.items() if name in own}
        return cls(**named, others={name: value for name, value in values.items() if name not in own})

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        values = super().defaults()
        del values["others"]
        return values

    def arguments(self) -> dict[str, Any]:
        """What Lightning's Trainer is given."""
        own = {name: getattr(self, name) for name in self.defaults() if name != "compile"}
        return {**own, **self.others}


@dataclass(frozen=True, kw_only=True)
class CheckpointsSettings(Settings, key="callbacks.checkpoints"):
    """When a run saves itself."""

    every: int = setting(100, whole(1), "optimizer steps from one checkpoint to the next")


CALLBACKS = (RecorderSettings, PicturesSettings, HistogramsSettings, CheckpointsSettings)


def read_parts(value: Any, key: str) -> dict[str, Mapping[str, Any] | None]:
    """Callbacks or loggers by their names: None for those that are switched off, else `_target_` and arguments."""
    parts = {} if value is None else GROUP(value, key)
    known = {part.key: part for part in CALLBACKS}
    for name, node in parts.items():
        if node is not None and not (isinstance(node, Mapping) and "_target_" in node):
            raise UserError(f"{key}.{name}={node} is not a _target_ with its arguments, or null.")
        if node is not None and f"{key}.{name}" in known and str(node["_target_"]).startswith("rowgrad."):
            known[f"{key}.{name}"].read({argument: v for argument, v in node.items() if argument != "_target_"})
    return parts


def part(kind: type[Settings]) -> Any:
    """A field that holds a part of the settings."""
    return setting({}, lambda value, _: value if isinstance(value, kind) else kind.read(value), kind.__doc__ or "")


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """All of a run.

    Attributes:
        targets: patterns of what `_target_` may name.
    """

    seed: int = setting(0, whole(0), "of the network's first weights, batches, and all that is random")
    resume: str | None = setting(None, or_null(text("a run's folder")), "a run's folder: it goes on where it stopped")
    trust: Sequence[str] = setting([], read_packages, "packages of yours that the config of a run's folder may name")
    data: DataSettings = part(DataSettings)
    corruption: CorruptionSettings = part(CorruptionSettings)
    scenario: ScenarioSettings = part(ScenarioSettings)
    model: ModelSettings = part(ModelSettings)
    optimizer: OptimizerSettings = part(OptimizerSettings)
    trainer: TrainerSettings = part(TrainerSettings)
    callbacks: dict[str, Any] = setting({}, read_parts, "what watches")
    logger: dict[str, Any] = setting({}, read_parts, "where it is logged")
    targets: Sequence[str] = setting((), Limit(lambda v: isinstance(v, tuple), "something that one types"), "")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        values = super().defaults()
        return {name: values[name] for name in ("seed", "resume", "trust")}  # the rest are groups

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.shape is not None:  # else nobody knows before the images are loaded
            self.scenario.select(self.data.shape.height)
            self.corruption.rows.select(self.data.shape.height)


def read_settings(config: DictConfig, *, targets: Sequence[str] | None = None) -> RunSettings:
    """A composed config, read and checked.

    Args:
        config: what a person typed, with their own config folder; or that of a run's folder.
        targets: patterns of what it may name as a `_target_`; without it, whatever it does name: it is theirs.

    Raises:
        UserError: the first value that is not accepted.
    """
    values = plain(config)
    return replace(RunSettings.read(values), targets=named_by(values) if targets is None else tuple(targets))


GROUPS = (DataSettings, CorruptionSettings, ScenarioSettings, ModelSettings, OptimizerSettings, TrainerSettings)
OFFERED = (RunSettings, *GROUPS, *CALLBACKS)
offer_to_hydra("run", RunSettings.defaults() | {kind.key: kind.defaults() for kind in GROUPS})
offer_to_hydra("callbacks", {kind.key.rpartition(".")[2]: kind.defaults() for kind in CALLBACKS})
