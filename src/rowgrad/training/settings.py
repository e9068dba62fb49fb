"""Config -> settings: every key is read and checked once. Nothing heavy is imported, so mistakes answer at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from omegaconf import OmegaConf

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
from rowgrad.files import command_typed
from rowgrad.folders import RunFolder
from rowgrad.model.settings import ModelSettings, OptimizerSettings
from rowgrad.scenario.rows import name_rows
from rowgrad.scenario.settings import CorruptionSettings, ScenarioSettings
from rowgrad.watch.settings import BiasSettings, HistogramsSettings, PicturesSettings, RecorderSettings

if TYPE_CHECKING:
    from omegaconf import DictConfig

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "64-true", "16-true", "bf16-true")
LIMIT = Limit(lambda value: value == -1 or whole(1).fits(value), "a whole number of at least 1, or -1 for no limit")
SEED = Limit(lambda v: whole(0).fits(v) and v < 2**32, f"a whole number from 0 to {2**32 - 1}")  # NumPy's
# Arguments of Lightning's Trainer that another key decides.
ELSEWHERE: Mapping[str, str] = {
    "logger": "logger=csv or logger=none",
    "callbacks": "+callbacks.NAME={_target_: ...}",
    "enable_checkpointing": "callbacks.checkpoints=null",
    "enable_progress_bar": "callbacks.progress=null",
    "default_root_dir": "hydra.run.dir=FOLDER",
    "plugins": "a Trainer of your own with rowgrad's recorder",
}


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
    num_sanity_val_steps: int = setting(0, whole(-1), "batches that are validated before training")
    log_every_n_steps: int = setting(1, whole(1), "steps from one flush of Lightning's own metrics to the next")
    enable_model_summary: bool = setting(False, BOOLEAN, "prints the layers")
    others: Mapping[str, Any] = field(default_factory=dict, metadata={"reader": GROUP, "words": ""})

    @classmethod
    def read(cls, typed: Any) -> Self:
        """Settings from the group `trainer`. Unknown keys are kept as arguments for Lightning's Trainer."""
        values = plain(typed)
        if not isinstance(values, Mapping):
            return super().read(values)
        own = cls.defaults()
        for name in ELSEWHERE.keys() & values.keys():
            raise UserError(f"{cls.full_key(name)} is decided by another key: write {ELSEWHERE[name]}.")
        named = {name: value for name, value in values.items() if name in own}
        return cls(**named, others={name: value for name, value in values.items() if name not in own})

    def arguments(self) -> dict[str, Any]:
        """The arguments for Lightning's Trainer."""
        own = {name: getattr(self, name) for name in self.defaults() if name != "compile"}
        return {**own, **self.others}


@dataclass(frozen=True, kw_only=True)
class CheckpointsSettings(Settings, key="callbacks.checkpoints"):
    """When a run saves itself."""

    every_n_steps: int = setting(100, whole(1), "optimizer steps from one checkpoint to the next")


CALLBACKS = (RecorderSettings, PicturesSettings, HistogramsSettings, BiasSettings, CheckpointsSettings)


def read_parts(value: Any, key: str) -> dict[str, Mapping[str, Any] | None]:
    """Callbacks or loggers by their names: `_target_` and arguments, or None for those that are switched off."""
    parts = {} if value is None else GROUP(value, key)
    known = {part.key: part for part in CALLBACKS}
    for name, node in parts.items():
        if node is not None and not (isinstance(node, Mapping) and "_target_" in node):
            raise UserError(f"{key}.{name}={node} is not a _target_ with its arguments, or null.")
        if node is not None and f"{key}.{name}" in known and str(node["_target_"]).startswith("rowgrad."):
            known[f"{key}.{name}"].read({argument: v for argument, v in node.items() if argument != "_target_"})
    return parts


def read_packages(value: Any, key: str) -> tuple[str, ...] | None:
    """Reads names of packages: one, a list of them, or null.

    Raises:
        UserError: something else.
    """
    if value is None:
        return None
    packages = [value] if isinstance(value, str) else value
    if not isinstance(packages, Sequence) or not all(isinstance(p, str) and p.isidentifier() for p in packages):
        raise UserError(f"{key}={value} is not a list of packages.")
    return tuple(packages)


def part(kind: type[Settings]) -> Any:
    """A field for the settings of a config group."""
    return setting({}, lambda value, _: value if isinstance(value, kind) else kind.read(value), kind.__doc__ or "")


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """All settings of a run.

    Attributes:
        trust: packages that a `_target_` may name besides the list in `build.py`; None if a person typed the config.
    """

    seed: int = setting(0, SEED, "of the network's first weights, batches, and all that is random")
    resume: str | None = setting(None, or_null(text("a run's folder")), "a run's folder: it goes on where it stopped")
    trust: Sequence[str] | None = setting(
        None, read_packages, "packages of yours that the config of a run's or a sweep's folder may name"
    )
    data: DataSettings = part(DataSettings)
    corruption: CorruptionSettings = part(CorruptionSettings)
    scenario: ScenarioSettings = part(ScenarioSettings)
    model: ModelSettings = part(ModelSettings)
    optimizer: OptimizerSettings = part(OptimizerSettings)
    trainer: TrainerSettings = part(TrainerSettings)
    callbacks: dict[str, Any] = setting({}, read_parts, "what watches")
    logger: dict[str, Any] = setting({}, read_parts, "where it is logged")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        values = super().defaults()
        return {name: values[name] for name in ("seed", "resume", "trust")}  # the rest are groups

    def __post_init__(self) -> None:
        super().__post_init__()
        endless = self.trainer.max_epochs == self.trainer.max_steps == -1
        if endless and self.optimizer.schedule == "one_cycle":
            raise UserError(
                "optimizer.schedule=one_cycle needs an end: trainer.max_epochs or trainer.max_steps."
                " optimizer.schedule=constant goes on without."
            )
        if self.data.shape is not None:  # else it is known when the images are loaded
            self.data.check_shift(self.data.shape)
            self.scenario.select(self.data.shape.height)
            self.corruption.rows.select(self.data.shape.height)


def read_settings(config: DictConfig) -> RunSettings:
    """Settings from the config that a person composed.

    If `trust` is not null, a part of it comes from a folder, and it may name only what a folder's config may name.

    Raises:
        UserError: the first value that is not accepted, or a `model.checkpoint` that does not exist.
    """
    settings = RunSettings.read(plain(config))
    if source := settings.model.checkpoint:
        _, file = RunFolder.of_checkpoint(Path(source))
        if not file.is_file():
            raise UserError(
                f"model.checkpoint={source} is not a run's folder or checkpoint: there is no {file}."
                f" This trains one: {command_typed()} scenario=baseline seed=0 hydra.run.dir={source}"
            )
    return settings


def read_saved_settings(config: DictConfig, trusted: Sequence[str]) -> RunSettings:
    """Settings from the config of a run's folder, which may come from anybody and from another machine.

    The data set is the one that the run had, never the fallback. It is read from the run's `data.root`, or from this
    machine's if that does not exist, and downloaded only to this machine's.

    Args:
        config: of the folder.
        trusted: packages that it may name besides the list in `build.py`.

    Raises:
        UserError: the first value that is not accepted.
    """
    settings = RunSettings.read(plain(config))
    root, here = settings.data.root, plain(OmegaConf.create({"root": DataSettings.defaults()["root"]}))["root"]
    root = root if Path(root).is_dir() else here
    data = replace(settings.data, root=root, fallback=None, download=settings.data.download and root == here)
    return replace(settings, data=data, trust=tuple(trusted))


def notes_on_rows(settings: RunSettings, height: int) -> list[str]:
    """Notes on typed rows outside the image, which are left out."""
    groups = {"scenario": settings.scenario, "corruption": settings.corruption}
    return [
        f"{name}.rows={text} was cut to {name_rows(group.rows.select(height))}: an image has {height} rows."
        for name, group in groups.items()
        for text in group.rows.cut(height)
    ]


GROUPS = (DataSettings, CorruptionSettings, ScenarioSettings, ModelSettings, OptimizerSettings, TrainerSettings)
OFFERED = (RunSettings, *GROUPS, *CALLBACKS)
offer_to_hydra("run", RunSettings.defaults() | {kind.key: kind.defaults() for kind in GROUPS})
offer_to_hydra("callbacks", {kind.key.rpartition(".")[2]: kind.defaults() for kind in CALLBACKS})
