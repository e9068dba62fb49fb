"""A model is tried on two black images before anything is trained or written: what cannot work is said in a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.optim import Optimizer

from rowgrad.errors import UserError, without_key
from rowgrad.model.sequences import CELLS
from rowgrad.randomness import Draw
from rowgrad.scenario.settings import STATE

if TYPE_CHECKING:
    from rowgrad.data.settings import Shape
    from rowgrad.model.classifier import RowClassifier

COUNT = 2  # images: batch normalisation takes no single one


def try_out(module: RowClassifier, shape: Shape, precision: str) -> None:
    """Puts images of a shape through scenario and network, and makes the optimizer. Nothing of the module is changed.

    Raises:
        UserError: names what does not work.
    """
    images = torch.zeros(COUNT, shape.channels, shape.height, shape.width, dtype=module.theta.dtype)
    training = module.training
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if not module.scenario.is_noop:
            module.scenario.observed(images, Draw(module.seed, 0))
        try:
            logits = module.eval().network(images)
        except UserError:
            raise
        except Exception as error:  # whatever a network does with images that it does not take
            raise UserError(f"model.network does not take images {tuple(images.shape)}: {_words(error)}") from error
        finally:
            module.train(training)
    shown = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shown not in {(COUNT, shape.classes), (COUNT, shape.height, shape.classes)}:
        raise UserError(f"model.network gives {shown} for {COUNT} images. Accepted: {(COUNT, shape.classes)}.")
    _check_state(module)
    _try_optimizer(module, precision)


def _check_state(module: RowClassifier) -> None:
    """Sees whether the network carries what the scenario detaches."""
    scenario, states = module.scenario, getattr(module.network, "states", ())
    if scenario.route != STATE or scenario.is_noop:
        return
    if not states:
        raise UserError(
            f"scenario.route={STATE}: {type(module.network).__name__} carries no state from row to row."
            f" These do: {', '.join(f'model={name}' for name in CELLS)}."
        )
    if scenario.state not in {"all", *states}:
        raise UserError(f"scenario.state={scenario.state}: model.network carries {', '.join(states)}. Accepted: all.")


def _try_optimizer(module: RowClassifier, precision: str) -> None:
    try:
        optimizer, _ = module.make_optimizer(module.network, module.theta, lambda: 1)
    except Exception as error:
        raise UserError(f"optimizer.algorithm: {_words(error)}") from error
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"optimizer.algorithm makes a {type(optimizer).__name__}. Accepted: a torch.optim.Optimizer.")
    eps = optimizer.defaults.get("eps")
    if isinstance(eps, float) and not torch.tensor(eps, dtype=module.theta.dtype):
        raise UserError(
            f"trainer.precision={precision}: optimizer.algorithm.eps={eps:g} is 0 in so few bits, and would be divided"
            " by. +optimizer.algorithm.eps=1e-4 is accepted."
        )


def _words(error: Exception) -> str:
    return " ".join(without_key(error).split())[:200] or type(error).__name__
