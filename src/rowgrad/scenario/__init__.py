"""What happens to the rows of an image before the network sees it. The cut is in `scenario`."""

from rowgrad.errors import need_pipeline

need_pipeline()
