"""What is measured (`quantities`, `norms`), recorded (`recorder`, `stream`) and written (`csv_file`, `loggers`)."""
