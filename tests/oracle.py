"""The oracles: gradients of one step by plain `torch.autograd.grad`, row by row, of an image and of a sequence of rows.

They share no code with the package. In the first, each row has its own leaf before the cut and its own leaf after it,
images are put together from their rows, and the cross-entropy is written out. It works in the network's own precision:
in a higher one, a ReLU whose input is within rounding of zero would switch, which changes a gradient by far more than
rounding. In the second, a recurrent network's cells are written out by their equations, for one image and row after the
other; these are smooth, so it works in 64 bits.
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


def cell_by_its_equations(kind, layer, x, h, c):
    """One row of one image through one recurrent layer: (features,), (hidden,) -> the next hidden state and cell."""
    into, back = layer["weight_ih_l0"] @ x + layer["bias_ih_l0"], layer["weight_hh_l0"] @ h + layer["bias_hh_l0"]
    if kind == "rnn":
        return torch.tanh(into + back), c
    if kind == "gru":
        (ir, iz, i_n), (br, bz, bn) = into.chunk(3), back.chunk(3)
        r, z = torch.sigmoid(ir + br), torch.sigmoid(iz + bz)
        n = torch.tanh(i_n + r * bn)
        return (1 - z) * n + z * h, c
    i, f, g, o = (into + back).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gradients_in_sequence(
    network, kind, images, labels, cuts, *, readout="last", parts=("hidden", "cell"), smoothing=0.0
):
    """One step of a recurrent network, image by image and row by row, in 64 bits.

    Args:
        network: its weights are used, by torch's names.
        kind: rnn, gru or lstm.
        images: (B, 1, H, W), labels: (B,).
        cuts: for each image, the rows into which the state is carried detached.
        parts: which parts of it are.

    Returns:
        ∂L/∂x of each image (B, H, W), the weights' gradients by name, loss and logits.
    """
    leaves = {name: value.detach().double().requires_grad_() for name, value in network.named_parameters()}
    layers = [
        {name.split(".")[-1]: leaf for name, leaf in leaves.items() if name.startswith(f"layers.{number}.")}
        for number in range(len(network.layers))
    ]
    pixels = images[:, 0].detach().double().requires_grad_()
    predictions = []
    for b in range(len(images)):
        rows = list(pixels[b])
        for layer in layers:
            size = layer["weight_hh_l0"].shape[1]
            h, c = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
            outputs = []
            for r, row in enumerate(rows):
                if r in cuts[b]:
                    h, c = h.detach() if "hidden" in parts else h, c.detach() if "cell" in parts else c
                h, c = cell_by_its_equations(kind, layer, row, h, c)
                outputs.append(h)
            rows = outputs
        seen = rows if readout == "every" else rows[-1:]
        predictions.append(torch.stack([leaves["readout.weight"] @ h + leaves["readout.bias"] for h in seen]))
    logits = torch.stack(predictions)
    log_p = logits - logits.exp().sum(2, keepdim=True).log()
    classes = log_p.shape[2]
    right = torch.stack([log_p[b, :, labels[b]] for b in range(len(labels))])
    loss = -((1 - smoothing) * right + smoothing / classes * log_p.sum(2)).mean()
    of_pixels, *of_weights = torch.autograd.grad(loss, [pixels, *leaves.values()], allow_unused=True)
    of_weights = [torch.zeros_like(w) if g is None else g for g, w in zip(of_weights, leaves.values(), strict=True)]
    return of_pixels, dict(zip(leaves, of_weights, strict=True)), float(loss.detach()), logits.detach()
