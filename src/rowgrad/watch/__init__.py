"""What is measured (`quantities`, `gradients`), where it goes (`recorder`, `norms`, `events`), how it is drawn."""
