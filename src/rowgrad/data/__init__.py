"""Images: data sets (`sources`) and resumable batches of them (`batches`, `datamodule`)."""

from rowgrad.errors import need_pipeline

need_pipeline()
