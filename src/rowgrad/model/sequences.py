"""Networks that read an image row by row, from top to bottom: each row is a time step, or a token, of C·W numbers.

A recurrent one carries a state from each row into the next. On the edges between rows it offers a place where somebody
may take that state and give it back, `network(images, edges)`; what is done there it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rowgrad.model.networks import check_share, check_whole

State = dict[str, Tensor]  # what a layer carries into a row, (1, B, hidden), by its name
Edges = Mapping[int, Callable[[State], State]]  # what is done with the state on its way into each of some rows
NO_EDGES: Edges = {}

CELLS: Mapping[str, tuple[Callable[[int, int], nn.RNNBase], tuple[str, ...]]] = {
    "rnn": (nn.RNN, ("hidden",)),
    "gru": (nn.GRU, ("hidden",)),
    "lstm": (nn.LSTM, ("hidden", "cell")),
}
READOUTS = ("last", "every")
STARTS = ("torch", "orthogonal")
# Images for each of torch's threads. Products of fewer are rounded, on a CPU, by how many rows are multiplied at once:
# values would depend on where a sequence is cut. (Tried: it takes six a thread, with 1 and 2 threads.)
LEAST = 8


class RecurrentNet(nn.Module):
    """Recurrent layers over the image's rows, and one linear layer.

    Args:
        cell: `rnn` (Elman's, tanh), `gru` (Cho et al., arXiv:1406.1078) or `lstm` (Hochreiter and Schmidhuber, 1997).
        hidden: units of each layer.
        layers: how many layers.
        dropout: chance that a unit's output, not its state, is dropped in training.
        readout: `last`, after the last row alone, or `every`, a prediction after each row.
        start: first weights: `torch`'s own, or `orthogonal` (Saxe et al., arXiv:1312.6120) from state to state and
            zero biases, but for those of an LSTM's forget gates, which are 1 (Jozefowicz et al., 2015).
        in_channels: C of the images.
        height: H of the images.
        width: W of the images.
        classes: number of classes.

    Attributes:
        states: the names of what is carried from row to row.

    Raises:
        ValueError: an argument that is not accepted.
    """

    def __init__(
        self,
        cell: str,
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.0,
        readout: str = "last",
        start: str = "torch",
        *,
        height: int,
        width: int,
        in_channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        _check_choices(cell=(cell, tuple(CELLS)), readout=(readout, READOUTS), start=(start, STARTS))
        check_whole(hidden=hidden, layers=layers)
        check_share("dropout", dropout)
        kind, self.states = CELLS[cell]
        sizes = [in_channels * width, *[hidden] * (layers - 1)]
        # Each alone, not torch's stack of them: dropout between layers is then the same wherever a sequence is cut.
        self.layers = nn.ModuleList([kind(size, hidden) for size in sizes])
        self.dropout = nn.Dropout(dropout)
        self.readout = Readout(hidden, classes, readout)
        if start == "orthogonal":
            self.layers.apply(_start_orthogonal)

    def forward(self, images: Tensor, edges: Edges = NO_EDGES) -> Tensor:
        """Images (B, C, H, W) -> logits (B, classes), or (B, H, classes) of `readout="every"`.

        Args:
            images: which are read from row 0 to row H−1.
            edges: by the index of a row, from 1 to H−1, what is done with each layer's state before it reads that row.
        """
        rows = rows_of(images)
        for layer in self.layers:
            rows = self.dropout(self._read(layer, rows, edges))
        return self.readout(rows)

    def train(self, mode: bool = True) -> Self:
        """Training mode or evaluation mode; single layers know no difference, but cuDNN's want the former to learn."""
        super().train(mode)
        self.layers.train()
        return self

    @torch.compiler.disable(reason="torch does not compile its recurrent layers")
    def _read(self, layer: nn.Module, rows: Tensor, edges: Edges) -> Tensor:
        """Rows (H, B, features) -> outputs (H, B, hidden), in pieces from edge to edge, in which torch is fast."""
        parts: list[Tensor] = []
        state: State | None = None
        begin = 0
        for end in (*sorted(edges), len(rows)):
            if state is not None:
                state = edges[begin](state)
            part, state = self._run(layer, rows[begin:end], state)
            parts.append(part)
            begin = end
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _run(self, layer: nn.Module, rows: Tensor, state: State | None) -> tuple[Tensor, State]:
        count = rows.shape[1]
        more = max(LEAST * torch.get_num_threads() - count, 0) if rows.device.type == "cpu" else 0
        filled = None if state is None else [pad(state[name], (0, 0, 0, more)) for name in self.states]
        before: Any = None if filled is None else tuple(filled) if len(filled) > 1 else filled[0]
        part, after = layer(pad(rows, (0, 0, 0, more)), before)
        carried = after if isinstance(after, tuple) else (after,)
        return part[:, :count], dict(zip(self.states, [one[:, :count] for one in carried], strict=True))


class RowTransformer(nn.Module):
    """A transformer (Vaswani et al., arXiv:1706.03762) whose tokens are the rows, with learnt positions.

    Each row attends to itself and to those above it, so that it, too, reads from top to bottom. Layers are normalised
    first (Xiong et al., arXiv:2002.04745).

    Args:
        hidden: numbers of a token; the layers between attention have four times as many.
        layers: how many layers.
        heads: of attention, in each layer.
        dropout: chance that a unit is dropped in training.
        readout: `last`, of the last row's token alone, or `every`, a prediction from each row's.
        in_channels: C of the images.
        height: H of the images.
        width: W of the images.
        classes: number of classes.

    Raises:
        ValueError: an argument that is not accepted.
    """

    mask: Tensor

    def __init__(
        self,
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        readout: str = "last",
        *,
        height: int,
        width: int,
        in_channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        _check_choices(readout=(readout, READOUTS))
        check_whole(hidden=hidden, layers=layers, heads=heads)
        check_share("dropout", dropout)
        if hidden % heads:
            raise ValueError(f"hidden={hidden} is not a multiple of heads={heads}.")
        self.embedding = nn.Linear(in_channels * width, hidden)
        self.positions = nn.Parameter(0.02 * torch.randn(height, 1, hidden))
        layer = nn.TransformerEncoderLayer(hidden, heads, 4 * hidden, dropout, "gelu", norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(hidden), enable_nested_tensor=False)
        self.readout = Readout(hidden, classes, readout)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(height), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, classes), or (B, H, classes) of `readout="every"`."""
        tokens = self.embedding(rows_of(images)) + self.positions
        return self.readout(self.encoder(tokens, self.mask, is_causal=True))


class Readout(nn.Linear):
    """What was made of the rows -> logits: after the last row, or after every one.

    Args:
        hidden: numbers of a row.
        classes: number of classes.
        when: `last` or `every`.
    """

    def __init__(self, hidden: int, classes: int, when: str) -> None:
        super().__init__(hidden, classes)
        self.when = when

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch calls it so)
        """(H, B, hidden) -> (B, classes), or (B, H, classes)."""
        return super().forward(input[-1]) if self.when == "last" else super().forward(input).transpose(0, 1)


def rows_of(images: Tensor) -> Tensor:
    """Images (B, C, H, W) -> their rows one after the other, (H, B, C·W)."""
    return images.permute(2, 0, 1, 3).flatten(2).contiguous()


def _start_orthogonal(layer: nn.Module) -> None:
    """Gates stand one below the other in torch's weights; of an LSTM's four, the second is the forget gate."""
    if not isinstance(layer, nn.RNNBase):
        return
    hidden = layer.hidden_size
    for name, weights in layer.named_parameters():
        if name.startswith("weight_hh"):
            for gate in weights.split(hidden):
                nn.init.orthogonal_(gate)
        elif name.startswith("weight_ih"):
            for gate in weights.split(hidden):
                nn.init.xavier_uniform_(gate)
        else:
            nn.init.zeros_(weights)
            if isinstance(layer, nn.LSTM) and name.startswith("bias_ih"):
                nn.init.ones_(weights[hidden : 2 * hidden])


def _check_choices(**choices: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, accepted) in choices.items():
        if value not in accepted:
            raise ValueError(f"{name}={value} is not one of {', '.join(accepted)}.")
