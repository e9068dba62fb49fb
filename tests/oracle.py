"""The oracle: gradients of one step by plain `torch.autograd.grad`, row by row.

It shares no code with the package. Each row has its own leaf before the cut and its own leaf after it, images are put
together from their rows, and the cross-entropy is written out. It works in the network's own precision: in a higher
one, a ReLU whose input is within rounding of zero would switch, which changes a gradient by far more than rounding.
"""

from __future__ import annotations

import copy

import torch


def row_and_input_gradients(
    network,
    images,
    labels,
    theta,
    *,
    rows=(),
    operation=lambda row: row,
    hit=None,
    detach=True,
    route="replace",
    black=0.0,
    smoothing=0.0,
):
    """Norms of ∂L/∂θ_r and ∂L/∂τ_r for every row, and the loss.

    Args:
        network: its weights and mode (train or eval) are used; a copy is made.
        images: (B, 1, H, W), labels: (B,), theta: (H, W).
        rows: indices of the selected rows.
        operation: acts on one row of one image, (W,).
        hit: for each image, whether the operation is used; None for all.
    """
    network = copy.deepcopy(network)
    images, theta = images.detach(), theta.detach()
    height, width = theta.shape
    before = [theta[r].clone().requires_grad_() for r in range(height)]
    after = [torch.zeros(width, dtype=theta.dtype, device=theta.device, requires_grad=True) for _ in range(height)]
    built = []
    for b in range(len(images)):
        lines = []
        for r in range(height):
            line = images[b, 0, r] + before[r]
            if r in rows and route == "exclude":
                line = torch.full_like(line, black)
            elif r in rows and route == "replace":
                source = line.detach() if detach else line
                line = operation(source) if hit is None or hit[b] else source
            lines.append(line + after[r])
        built.append(torch.stack(lines))
    logits = network(torch.stack(built)[:, None])
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    classes = log_p.shape[1]
    right = log_p[torch.arange(len(labels)), labels]
    loss = -((1 - smoothing) * right + smoothing / classes * log_p.sum(1)).mean()
    gradients = torch.autograd.grad(loss, before + after, allow_unused=True)
    lengths = [0.0 if g is None else float((g.double() * g.double()).sum().sqrt()) for g in gradients]
    reaches, arrives = torch.tensor(lengths, dtype=theta.dtype).split(height)
    return reaches, arrives, float(loss.detach())
