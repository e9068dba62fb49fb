"""What runs and sweeps have left, read again: numbers, tables, figures, a page."""

from rowgrad.errors import need_pipeline

need_pipeline()
