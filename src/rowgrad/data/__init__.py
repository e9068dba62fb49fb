"""Images: where they come from (`sources`), and how they become batches (`batches`, `datamodule`)."""
