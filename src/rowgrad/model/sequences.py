"""Networks that read an image row by row, from top to bottom: each row is a time step, or a token, of C·W numbers.

A recurrent network carries a state from each row into the next. `network(images, edges)` takes functions that replace
this state before the rows that they are given for; a scenario uses them to detach it.

Outputs do not depend on the edges, to the last bit, if the functions keep the state's values. On a CPU this holds for
every cell and precision: an LSTM, and any cell in another precision than 32 bits, is computed row by row; batches of
the others are padded to at least `MIN_IMAGES` for each thread. On a GPU, cuDNN chooses its kernels by the number of
rows, and the last bit may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rowgrad.config import SHARE, one_of, whole
from rowgrad.errors import UserError

State = dict[str, Tensor]  # the parts of the state that a layer carries into a row, (1, B, hidden), by name
Edges = Mapping[int, Callable[[State], State]]  # by the index of a row, a function of the state that it gets
NO_EDGES: Edges = {}

CELLS: Mapping[str, tuple[Callable[[int, int], nn.RNNBase], tuple[str, ...]]] = {
    "rnn": (nn.RNN, ("hidden",)),
    "gru": (nn.GRU, ("hidden",)),
    "lstm": (nn.LSTM, ("hidden", "cell")),
}
STEPS: Mapping[type, Callable[..., Any]] = {
    nn.RNN: torch.rnn_tanh_cell,
    nn.GRU: torch.gru_cell,
    nn.LSTM: torch.lstm_cell,
}
# Images for each of torch's threads, at least. On a CPU, a product of fewer rows is rounded by how many rows are
# multiplied at once, so that outputs would depend on where a sequence is cut. (Measured: 6 are enough.)
MIN_IMAGES = 8


class RecurrentNet(nn.Module):
    """Recurrent layers over the image's rows, and one linear layer.

    Args:
        cell: `rnn` (Elman's, tanh), `gru` (Cho et al., arXiv:1406.1078) or `lstm` (Hochreiter and Schmidhuber, 1997).
        hidden: units of each layer.
        layers: number of layers.
        dropout: probability of dropping a unit's output, not its state, in training.
        readout: `last`, one prediction after the last row, or `every`, a prediction after each row.
        start: first weights: `torch`'s own, or `orthogonal` (Saxe et al., arXiv:1312.6120) from state to state and
            zero biases, except those of an LSTM's forget gates, which are 1 (Jozefowicz et al., 2015).
        in_channels: C of the images.
        height: H of the images.
        width: W of the images.
        classes: number of classes.

    Attributes:
        states: the names of the parts of the state.

    Raises:
        UserError: an argument that is not accepted.
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
        one_of(*CELLS)(cell, "model.network.cell")
        one_of("torch", "orthogonal")(start, "model.network.start")
        whole(1)(hidden, "model.network.hidden")
        whole(1)(layers, "model.network.layers")
        SHARE(dropout, "model.network.dropout")
        kind, self.states = CELLS[cell]
        sizes = [in_channels * width, *[hidden] * (layers - 1)]
        # Single layers instead of torch's stack: dropout between layers does not depend on where a sequence is cut.
        self.layers = nn.ModuleList([kind(size, hidden) for size in sizes])
        self.dropout = nn.Dropout(dropout)
        self.readout = Readout(hidden, classes, readout)
        if start == "orthogonal":
            self.layers.apply(_start_orthogonal)

    def forward(self, images: Tensor, edges: Edges = NO_EDGES) -> Tensor:
        """Images (B, C, H, W) -> logits (B, classes), or (B, H, classes) of `readout="every"`.

        Args:
            images: read from row 0 to row H−1.
            edges: by the index of a row, from 1 to H−1, a function that each layer's state passes before that row.
        """
        rows = rows_of(images)
        for layer in self.layers:
            rows = self.dropout(self._read(layer, rows, edges))
        return self.readout(rows)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode. The recurrent layers stay in training mode: cuDNN needs it for gradients."""
        super().train(mode)
        self.layers.train()
        return self

    @torch.compiler.disable(reason="torch does not compile its recurrent layers")
    def _read(self, layer: nn.Module, rows: Tensor, edges: Edges) -> Tensor:
        """Rows (H, B, features) -> outputs (H, B, hidden), computed in pieces from edge to edge."""
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
        """Rows (T, B, features) and the state before them -> outputs (T, B, hidden) and the state after them."""
        on_cpu = rows.device.type == "cpu"
        if on_cpu and (isinstance(layer, nn.LSTM) or rows.dtype != torch.float32 or torch.is_autocast_enabled("cpu")):
            return self._run_by_row(layer, rows, state)
        count = rows.shape[1]
        more = max(MIN_IMAGES * torch.get_num_threads() - count, 0) if on_cpu else 0
        padded = None if state is None else {name: pad(part, (0, 0, 0, more)) for name, part in state.items()}
        outputs, after = layer(pad(rows, (0, 0, 0, more)), self._for_torch(padded))
        carried = after if isinstance(after, tuple) else (after,)
        return outputs[:, :count], dict(zip(self.states, [part[:, :count] for part in carried], strict=True))

    def _run_by_row(self, layer: Any, rows: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The same, with a call of torch's cell for each row.

        torch's LSTM of several rows is oneDNN's, whose rounding depends on T·B, and which has no 16 bits on processors
        without AVX-512. (Measured: row by row, forward and backward of an LSTM take 4 % longer.)
        """
        weights = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
        zeros = rows.new_zeros(rows.shape[1], layer.hidden_size)
        parts = {name: zeros if state is None else state[name][0] for name in self.states}
        outputs = []
        for row in rows:
            after = STEPS[type(layer)](row, self._for_torch(parts), *weights)
            parts = dict(zip(self.states, after if isinstance(after, tuple) else (after,), strict=True))
            outputs.append(parts["hidden"])
        return torch.stack(outputs), {name: part[None] for name, part in parts.items()}

    def _for_torch(self, state: State | None) -> Any:
        """A state as torch's layers take it: a tensor, or a tuple of hidden and cell state."""
        parts = None if state is None else tuple(state[name] for name in self.states)
        return parts[0] if parts is not None and len(parts) == 1 else parts


class RowTransformer(nn.Module):
    """A transformer (Vaswani et al., arXiv:1706.03762) whose tokens are the rows, with learnt positions.

    Each row attends to itself and to the rows above it: it, too, reads from top to bottom. Layers are normalised first
    (Xiong et al., arXiv:2002.04745).

    Args:
        hidden: size of a token; the feed-forward layers are four times as wide.
        layers: number of layers.
        heads: attention heads of each layer.
        dropout: probability of dropping a unit in training.
        readout: `last`, one prediction from the last row's token, or `every`, a prediction from each row's token.
        in_channels: C of the images.
        height: H of the images.
        width: W of the images.
        classes: number of classes.

    Raises:
        UserError: an argument that is not accepted.
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
        whole(1)(hidden, "model.network.hidden")
        whole(1)(layers, "model.network.layers")
        whole(1)(heads, "model.network.heads")
        SHARE(dropout, "model.network.dropout")
        if hidden % heads:
            raise UserError(f"model.network.hidden={hidden} is not a multiple of heads={heads}.")
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
    """A linear layer from the features of rows to logits: after the last row, or after every row.

    Args:
        hidden: features of a row.
        classes: number of classes.
        when: `last` or `every`.
    """

    def __init__(self, hidden: int, classes: int, when: str) -> None:
        one_of("last", "every")(when, "model.network.readout")
        super().__init__(hidden, classes)
        self.when = when

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch calls it so)
        """(H, B, hidden) -> (B, classes), or (B, H, classes)."""
        return super().forward(input[-1]) if self.when == "last" else super().forward(input).transpose(0, 1)


def rows_of(images: Tensor) -> Tensor:
    """Images (B, C, H, W) -> their rows as a sequence, (H, B, C·W)."""
    return images.permute(2, 0, 1, 3).flatten(2).contiguous()


def _start_orthogonal(layer: nn.Module) -> None:
    """Initialises each gate; torch stacks the gates' weights, and the second of an LSTM's four is the forget gate."""
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
