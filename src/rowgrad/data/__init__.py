"""Images: where they come from (`sources`), and how they become batches (`batches`, `datamodule`)."""

from rowgrad.errors import need_pipeline

need_pipeline()
