"""A LightningModule of one's own: torchvision's ResNet-18 on real digits of 3×32×32 pixels, and the two lines.

python examples/own_module.py --steps 60 --out logs/own_module
"""

import argparse

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from rowgrad import RowGradientRecorder, RowTap


class Classifier(pl.LightningModule):
    """Images (B, 3, 32, 32) -> logits (B, 10)."""

    def __init__(self):
        super().__init__()
        self.network = resnet18(num_classes=10)
        self.tap = RowTap()  # <- the first line, in two halves: here ...

    def forward(self, x):
        x = self.tap(x)  # <- ... and here
        return self.network(x)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return cross_entropy(self(images), labels)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def digits():
    """scikit-learn's 1,797 digits in three equal channels: images (N, 3, 32, 32), labels (N)."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 8 - 1, dtype=torch.float32).view(-1, 1, 8, 8)
    return TensorDataset(interpolate(images, size=32, mode="bilinear").expand(-1, 3, -1, -1), torch.tensor(labels))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps")
    parser.add_argument("--out", default="logs/own_module", help="where the event file and the CSV go")
    options = parser.parse_args(arguments)
    pl.seed_everything(0)
    recorder = RowGradientRecorder()  # <- the second line, among the callbacks
    trainer = pl.Trainer(
        max_steps=options.steps, default_root_dir=options.out, callbacks=[recorder], enable_checkpointing=False
    )
    trainer.fit(Classifier(), DataLoader(digits(), batch_size=64, shuffle=True))

    steps, norms = recorder.recorded()
    rows = norms["tap_grad_norm"].mean(0)
    print(f"{len(steps)} steps, {len(rows)} rows: most gradient in row {rows.argmax()}, least in row {rows.argmin()}")
    print(f"tensorboard --logdir {options.out}")


if __name__ == "__main__":
    main()
