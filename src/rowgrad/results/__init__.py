"""What runs and sweeps have left, read again: numbers, tables, figures, a page."""
