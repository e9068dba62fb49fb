"""The row atlas's networks in one process, trained stacked with `torch.func`. It imports torch alone.

Each network has its own weights, its own order of the images and its own row of noise; they share nothing but the
step. No row parameter, no recorder, no files: what a training that is stacked could gain at the most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from bare import now
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


def train_stacked(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor, rows: Tensor, *, batch_size: int, steps: int
) -> tuple[float, Callable[[Tensor], Tensor]]:
    """Trains a network for each of `rows`.

    Args:
        make: a network, with weights of its own each time.
        images: normalised float (N, 1, H, W), on the device.
        labels: (N,), there too.
        rows: (M,), the row that is noise in each network's images; -1 for none.
        batch_size: B, of each network.
        steps: how many.

    Returns:
        Seconds, and a function: images (B, 1, H, W) -> logits (M, B, classes).
    """
    plain = torch.contiguous_format  # vmap takes no other on a GPU
    networks = [make().to(images.device, memory_format=plain).train() for _ in rows]
    weights, buffers = stack_module_state(networks)  # type: ignore[arg-type]
    base = networks[0]

    def loss_of(weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(base, (weights, buffers), (x,)), y, label_smoothing=0.05)

    gradients = vmap(grad(loss_of))
    optimizer = torch.optim.AdamW(list(weights.values()), lr=1e-2, betas=(0.9, 0.99), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps + 1, cycle_momentum=False)
    noisy = (torch.arange(images.shape[-2], device=images.device) == rows[:, None])[:, None, None, :, None]
    orders = torch.stack([torch.randperm(len(labels), device=images.device) for _ in rows])
    begun = now()
    for step in range(steps):
        place = step * batch_size % (len(labels) - batch_size)
        index = orders[:, place : place + batch_size]
        x = images[index]
        x = torch.where(noisy, torch.randn_like(x), x)
        for name, gradient in gradients(weights, buffers, x, labels[index]).items():
            weights[name].grad = gradient
        optimizer.step()
        schedule.step()
    seconds = now() - begun
    base.eval()

    def predict(x: Tensor) -> Tensor:
        one = lambda w, b: functional_call(base, (w, b), (x,))  # noqa: E731
        with torch.inference_mode():
            return vmap(one)(weights, buffers)

    return seconds, predict
