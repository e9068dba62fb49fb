"""Networks, the LightningModule with its row parameter and taps, and the optimizer."""
