"""Settings -> data and model. Here a `_target_` becomes the object that it names.

What a person types may name anything. A run's or a sweep's folder may come from anybody, so its config may name only
the classes of a fixed list. They read and write no file outside the run's folder and call nothing but what they are
given. Hydra's execution whitelist enforces that; see SECURITY.md.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import UNSAFE_DISABLE_EXECUTION_CHECKS, execution_whitelist, instantiate
from torch.optim import Optimizer
from torchmetrics import Metric

from rowgrad.config import targets_in
from rowgrad.data.datamodule import ImageData
from rowgrad.errors import UserError, in_one_line
from rowgrad.folders import RunFolder
from rowgrad.model.classifier import RowClassifier
from rowgrad.model.optimizers import make_optimizer
from rowgrad.results.run import read_checkpoint
from rowgrad.scenario.corruption import Corruption
from rowgrad.scenario.scenario import Scenario
from rowgrad.scenario.settings import STATE
from rowgrad.watch.settings import RecorderSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from rowgrad.data.settings import Shape
    from rowgrad.training.settings import RunSettings

# The dtype of a run's weights, if not float32. Lightning converts them too, but only after it has loaded a checkpoint,
# which would be rounded to 32 bits on its way.
DTYPES = {"64-true": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}

# What a folder's config may name: the classes of these modules that are subclasses of a base class, ...
MODULES: Mapping[str, str] = {
    "rowgrad.model.networks": "torch.nn.Module",
    "rowgrad.model.sequences": "torch.nn.Module",
    "rowgrad.scenario.operations": "rowgrad.scenario.operations.Operation",
    "torch.nn": "torch.nn.Module",
    "torch.optim": "torch.optim.Optimizer",
    "torchmetrics.classification": "torchmetrics.Metric",
    "torchvision.transforms.v2": "torchvision.transforms.v2.Transform",
}
# ... single classes, ...
CLASSES = (
    "rowgrad.watch.pictures.Pictures",
    "rowgrad.watch.histograms.PerImageHistograms",
    "rowgrad.watch.bias.GradientBias",
    "rowgrad.training.checkpoints.Checkpoints",
    "rowgrad.training.trainer.Progress",
    "lightning.pytorch.callbacks.DeviceStatsMonitor",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.LearningRateMonitor",
    "lightning.pytorch.callbacks.ModelSummary",
    "lightning.pytorch.callbacks.RichModelSummary",
    "lightning.pytorch.callbacks.RichProgressBar",
    "lightning.pytorch.callbacks.StochasticWeightAveraging",
    "lightning.pytorch.callbacks.TQDMProgressBar",
)
# ... and classes that write files, with the arguments that do not say where.
WRITERS: Mapping[str, Sequence[str]] = {
    "rowgrad.watch.recorder.RowGradientRecorder": tuple(RecorderSettings.parts()),
    "rowgrad.watch.loggers.Logger": (),
    "lightning.pytorch.loggers.CSVLogger": ("name", "version", "prefix", "flush_logs_every_n_steps"),
    "lightning.pytorch.loggers.WandbLogger": ("name", "project", "group", "tags", "notes", "offline", "prefix"),
}


@cache
def folder_whitelist() -> tuple[str, ...]:
    """The names of the classes that a folder's config may name.

    They are exact: a pattern such as `torch.nn.*` would allow any function in those packages. Hydra asks for the place
    of the definition too, if an object can be called, as a network can.
    """
    names, defined = [*CLASSES, *WRITERS], []
    for module, (home, _, base) in ((module, base.rpartition(".")) for module, base in MODULES.items()):
        kind = getattr(import_module(home), base)
        for name, value in vars(import_module(module)).items():
            if isinstance(value, type) and issubclass(value, kind):
                names.append(f"{module}.{name}")
                defined.append(f"{value.__module__}.{value.__qualname__}")
    return (*names, *defined)


def make_target(
    node: Any,
    key: str,
    trusted: Sequence[str] | None,
    offered: Mapping[str, Any] | None = None,
    kind: type | None = None,
) -> Any:
    """Builds what a `_target_` names.

    Args:
        node: `_target_` and arguments.
        key: of the node, for messages.
        trusted: packages that a folder's config may name besides the list; None if a person typed the node.
        offered: further arguments. It gets those that it has and that `node` does not set.
        kind: the class that it must be an instance of.

    Raises:
        UserError: it may not be named, cannot be imported, refuses the arguments, or is of another class.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{key}={node} names no _target_.")
    whitelist: Any = UNSAFE_DISABLE_EXECUTION_CHECKS
    if trusted is not None:
        names = [*folder_whitelist(), *(f"{package}.*" for package in trusted)]
        whitelist = execution_whitelist(names, reset=True)
        _check_writers(node, key)
    maker = _named(key, partial(instantiate, node, _partial_=True, _convert_="all", _execution_whitelist_=whitelist))
    if not node.get("_partial_"):
        named = inspect.signature(maker.func).parameters if offered else {}
        more = {name: value for name, value in (offered or {}).items() if name in named and name not in node}
        maker = _named(key, partial(maker, **more))
    if kind is not None and not isinstance(maker, kind):
        raise UserError(f"{key} is a {type(maker).__name__}. Accepted: a {kind.__module__}.{kind.__name__}.")
    return maker


def _named(key: str, call: Callable[[], Any]) -> Any:
    """The result of a call. What it raises becomes a user error that names the key."""
    try:
        return call()
    except (UserError, NotImplementedError):
        raise
    except InstantiationException as error:
        words = in_one_line(error).replace(
            " Pass _execution_whitelist_ from trusted code to allow expected targets.", ""
        )
        if refused := re.match(r"Target '([^']+)'", words):
            package = refused[1].partition(".")[0]
            raise UserError(
                f"{key}: {words} The config of a run's folder may come from anybody. If it is yours: trust=[{package}]."
            ) from error
        raise UserError(f"{key}: {words}") from error
    except Exception as error:  # foreign code may raise anything
        kind = "" if isinstance(error, TypeError | ValueError | ImportError) else f"{type(error).__name__}: "
        raise UserError(f"{key}: {kind}{in_one_line(error)[:200]}") from error


def _check_writers(node: Any, key: str) -> None:
    """Refuses arguments by which a folder's config would write elsewhere."""
    for inner, target in targets_in(node):
        accepted = (*WRITERS.get(target, inner), "_target_", "_partial_", "_convert_", "_recursive_")
        for argument, value in inner.items():
            if argument not in accepted:
                raise UserError(f"{key}.{argument} is not an argument that a run's folder may set.")
            if target in WRITERS and (set(str(value)) & set("/\\~") or ".." in str(value)):
                raise UserError(f"{key}.{argument}={value} leads out of the run's folder.")


def build(settings: RunSettings, *, trained: bool = False) -> tuple[ImageData, RowClassifier]:
    """Data and model. The network has the weights of `model.checkpoint`, or those of the seed.

    Args:
        settings: the run's.
        trained: whether the weights are loaded afterwards, so that `model.checkpoint` is not read.

    Raises:
        UserError: a part cannot be built, or the data cannot be loaded.
    """
    source = settings.data.source
    source = None if source is None else partial(make_target, source, "data.source", settings.trust)
    data = ImageData(settings.data, settings.seed, source)
    shape = data.dataset.shape
    scenario = _scenario(settings, data)
    corruption = Corruption(settings.corruption, height=shape.height)
    pl.seed_everything(settings.seed, verbose=False)
    network = _network(settings, data, trained=trained)
    algorithm = make_target(settings.optimizer.algorithm, "optimizer.algorithm", settings.trust)
    metrics = {
        name: make_target(node, f"model.metrics.{name}", settings.trust, {"num_classes": shape.classes}, Metric)
        for name, node in settings.model.metrics.items()
    }
    optimizer = partial(make_optimizer, settings.optimizer, algorithm)
    module = RowClassifier(
        network, corruption, scenario, optimizer,
        shape=shape, settings=settings.model, metrics=metrics, seed=settings.seed,
    )  # fmt: skip
    module = module.to(_dtype(settings))
    _check_parts(module, shape, settings.trainer.precision)
    return data, module


def _dtype(settings: RunSettings) -> torch.dtype:
    return DTYPES.get(settings.trainer.precision, torch.float32)


def _scenario(settings: RunSettings, data: ImageData) -> Scenario:
    scenario, dataset = settings.scenario, data.dataset
    if isinstance(scenario.operation, dict):
        scenario = replace(scenario, operation=make_target(scenario.operation, "scenario.operation", settings.trust))
    return Scenario(height=dataset.shape.height, black=dataset.black, white=dataset.white, **vars(scenario))


def _network(settings: RunSettings, data: ImageData, *, trained: bool) -> nn.Module:
    shape, source = data.dataset.shape, settings.model.checkpoint
    sizes = {"height": shape.height, "width": shape.width, "in_channels": shape.channels, "classes": shape.classes}
    network = make_target(settings.model.network, "model.network", settings.trust, sizes).to(_dtype(settings))
    if source is not None and not trained:
        _, file = RunFolder.of_checkpoint(Path(source))
        load_weights(network, file, f"model.checkpoint={source}: ", "network.")  # without its row parameter θ
    return network


def load_weights(module: nn.Module, file: Path, key: str = "", part: str = "") -> int:
    """Loads the weights of a run's checkpoint, and returns the number of its optimizer steps.

    Args:
        module: of the same shape as the trained one.
        file: the checkpoint.
        key: what the message of an error begins with.
        part: the beginning of the names of the weights that are loaded.

    Raises:
        UserError: the checkpoint is missing, or it does not fit.
    """
    try:
        content = read_checkpoint(file)
        state = content["state_dict"].items()
        module.load_state_dict({name.removeprefix(part): value for name, value in state if name.startswith(part)})
    except Exception as error:
        raise UserError(f"{key}{file} does not fit the model: {in_one_line(error)[:200]}") from error
    return content.get("global_step", 0)


def _check_parts(module: RowClassifier, shape: Shape, precision: str) -> None:
    """Runs the network on two black images and makes the optimizer, so that a part that does not fit is named.

    Raises:
        UserError: a part does not fit.
    """
    images = torch.zeros(2, shape.channels, shape.height, shape.width, dtype=module.theta.dtype)
    training = module.training
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        logits = _named("model.network", partial(module.eval().network, images))
    module.train(training)
    found, accepted = tuple(getattr(logits, "shape", ())), (2, shape.classes)
    if found not in {accepted, (2, shape.height, shape.classes)}:
        raise UserError(f"model.network gives {found} for 2 images. Accepted: {accepted}.")
    scenario, states = module.scenario, getattr(module.network, "states", ())
    if scenario.route == STATE and not scenario.is_noop and not states:
        raise UserError(f"scenario.route={STATE}: this network carries no state. Accepted: model=rnn, gru or lstm.")
    if scenario.route == STATE and not scenario.is_noop and scenario.state not in {"all", *states}:
        raise UserError(f"scenario.state={scenario.state}: model.network carries {', '.join(states)}. Accepted: all.")
    made = _named("optimizer.algorithm", lambda: module.make_optimizer(module.network, module.theta, lambda: 1)[0])
    if not isinstance(made, Optimizer):
        raise UserError(f"optimizer.algorithm makes a {type(made).__name__}. Accepted: a torch.optim.Optimizer.")
    eps = made.defaults.get("eps")
    if isinstance(eps, float) and not torch.tensor(eps, dtype=module.theta.dtype):
        raise UserError(
            f"trainer.precision={precision}: optimizer.algorithm.eps={eps:g} is 0 in so few bits, and would be divided"
            " by. +optimizer.algorithm.eps=1e-4 is accepted."
        )
