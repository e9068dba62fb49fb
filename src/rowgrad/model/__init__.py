"""Row parameter, tap, network, loss (`classifier`), and who learns how fast (`optimizers`)."""
