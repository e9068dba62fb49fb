"""A transformer learns to recall the first token of a sequence, and one sees where the gradient goes as it does.

    python examples/tokens.py --steps 400 --out logs/tokens

The module has no tap: the recorder puts one before its encoder, so that the rows are positions. The answer is read at
the last real position; those behind it are padding, masked, and get a gradient of exactly 0.0.
"""

import argparse

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from rowgrad import RowGradientRecorder

TOKENS, WIDTH = 8, 32
LENGTH, REAL = 16, 12  # positions, and those that are not padding


class Recall(pl.LightningModule):
    """Tokens (B, 16) -> logits (B, 8) of which token was the first."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.position = nn.Parameter(torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, nhead=4, dim_feedforward=64, dropout=0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(self, tokens):
        padding = (torch.arange(LENGTH, device=tokens.device) >= REAL).expand(len(tokens), -1)
        mixed = self.encoder(self.embedding(tokens) + self.position, src_key_padding_mask=padding)
        return self.head(mixed[:, REAL - 1])

    def training_step(self, batch, batch_idx):
        (tokens,) = batch
        return cross_entropy(self(tokens), tokens[:, 0])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps")
    parser.add_argument("--out", default="logs/tokens", help="where the event file and the CSV go")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    pl.seed_everything(options.seed)
    recorder = RowGradientRecorder(modules="encoder")  # <- the only line: taps the encoder's input, (B, 16, 32)
    trainer = pl.Trainer(
        max_steps=options.steps, default_root_dir=options.out, callbacks=[recorder], enable_checkpointing=False
    )
    tokens = torch.randint(TOKENS, (20_000, LENGTH))
    trainer.fit(Recall(), DataLoader(TensorDataset(tokens), batch_size=128, shuffle=True))

    _, norms = recorder.recorded()
    energy = norms["encoder_grad_norm"].square()
    share = energy / energy.sum(1, keepdim=True)  # of each step's squared gradient, (steps, rows)
    first, last = share[:20].mean(0)[0], share[-20:].mean(0)[0]
    print(f"row 0 gets {first:.0%} of the squared gradient in the first steps, {last:.0%} in the last")
    print(f"most gradient in row {share.mean(0).argmax()}; exactly 0 in {(share == 0).all(0).nonzero()[:, 0].tolist()}")
    print(f"tensorboard --logdir {options.out}")


if __name__ == "__main__":
    main()
