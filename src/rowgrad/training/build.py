"""Settings -> objects: data and model. Here a `_target_` becomes what it names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from torchmetrics import Metric

from rowgrad.data.datamodule import ImageData
from rowgrad.errors import UserError, without_key
from rowgrad.folders import RunFolder
from rowgrad.model.classifier import RowClassifier
from rowgrad.model.optimizers import make_optimizer
from rowgrad.results.run import read_checkpoint
from rowgrad.scenario.corruption import Corruption
from rowgrad.scenario.scenario import Scenario
from rowgrad.training.targets import targets_of
from rowgrad.training.trial import try_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from rowgrad.data.settings import Shape
    from rowgrad.training.settings import RunSettings


# What a run's weights are kept in, where it is not 32 bits. Lightning converts them too, but only after it has loaded a
# checkpoint, which would be rounded to 32 bits on its way.
NUMBERS = {"64-true": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}


def make_target(node: Any, key: str, trusted: Sequence[str] | None, offered: Mapping[str, Any] | None = None) -> Any:
    """What a `_target_` names, made with its arguments.

    Args:
        node: `_target_` and arguments.
        key: what stands before a mistake's words.
        trusted: packages that it may name beside the closed list; None where a person typed it.
        offered: more arguments; it gets those that it names and that are not in `node`.

    Raises:
        UserError: it may not be named, cannot be imported, or does not take these arguments.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{key}={node} names no _target_.")
    names = targets_of(node, key, trusted)
    try:
        packages = [f"{name.partition('.')[0]}.*" for name in names]  # Hydra asks for where a class is defined too
        maker = instantiate(node, _partial_=True, _convert_="all", _execution_whitelist_=packages)
        if node.get("_partial_"):
            return maker
        named = inspect.signature(maker.func).parameters if offered else {}
        return maker(**{name: value for name, value in (offered or {}).items() if name in named and name not in node})
    except (UserError, NotImplementedError):
        raise
    except Exception as error:  # each refuses arguments in its own way
        kind = "" if isinstance(error, TypeError | ValueError | ImportError) else f"{type(error).__name__}: "
        raise UserError(f"{key}: {kind}{without_key(error)}") from error


def build(settings: RunSettings, *, trained: bool = False) -> tuple[ImageData, RowClassifier]:
    """Data and model, the network with the weights of `model.checkpoint` or those that the seed gives.

    Args:
        settings: the run's.
        trained: whether the run has weights of its own, so that `model.checkpoint` is not asked for.

    Raises:
        UserError: what cannot be made, or data that cannot be had.
    """
    source = settings.data.source
    source = None if source is None else partial(make_target, source, "data.source", settings.trusted)
    data = ImageData(settings.data, settings.seed, source)
    shape = data.dataset.shape
    scenario = _scenario(settings, data)
    corruption = Corruption(settings.corruption, height=shape.height)
    pl.seed_everything(settings.seed, verbose=False)
    network = _network(settings, data, trained=trained)
    algorithm = make_target(settings.optimizer.algorithm, "optimizer.algorithm", settings.trusted)
    metrics = {name: _metric(settings, name, shape) for name in settings.model.metrics}
    optimizer = partial(make_optimizer, settings.optimizer, algorithm)
    module = RowClassifier(
        network, corruption, scenario, optimizer,
        shape=shape, settings=settings.model, metrics=metrics, seed=settings.seed,
    )  # fmt: skip
    module = module.to(_numbers(settings))
    try_out(module, shape, settings.trainer.precision)
    return data, module


def _numbers(settings: RunSettings) -> torch.dtype:
    return NUMBERS.get(settings.trainer.precision, torch.float32)


def _metric(settings: RunSettings, name: str, shape: Shape) -> Metric:
    key, offered = f"model.metrics.{name}", {"num_classes": shape.classes}
    metric = make_target(settings.model.metrics[name], key, settings.trusted, offered)
    if not isinstance(metric, Metric):
        raise UserError(f"{key} is a {type(metric).__name__}. Accepted: a torchmetrics.Metric.")
    return metric


def _scenario(settings: RunSettings, data: ImageData) -> Scenario:
    scenario, dataset = settings.scenario, data.dataset
    if isinstance(scenario.operation, dict):
        scenario = replace(scenario, operation=make_target(scenario.operation, "scenario.operation", settings.trusted))
    return Scenario.from_settings(scenario, height=dataset.shape.height, black=dataset.black, white=dataset.white)


def _network(settings: RunSettings, data: ImageData, *, trained: bool) -> nn.Module:
    shape, source = data.dataset.shape, settings.model.checkpoint
    sizes = {"height": shape.height, "width": shape.width, "in_channels": shape.channels, "classes": shape.classes}
    network = make_target(settings.model.network, "model.network", settings.trusted, sizes).to(_numbers(settings))
    if source is not None and not trained:
        _, file = RunFolder.of_checkpoint(Path(source))
        take_weights(network, file, source)
    return network


def take_weights(network: nn.Module, file: Path, source: str) -> None:
    """Gives a network the weights of a trained run's network; its row parameter θ stays behind.

    Args:
        network: of the same shape as the trained one.
        file: the run's checkpoint.
        source: what `model.checkpoint` says.

    Raises:
        UserError: there is no such checkpoint, or it does not fit.
    """
    prefix = "network."
    try:
        state = read_checkpoint(file)["state_dict"]
        network.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"model.checkpoint={source}: {file} does not fit the network: {words}") from error
