"""From a command to a finished run: settings, objects, Lightning's trainer, checkpoints, stops, jobs of a sweep."""

from rowgrad.errors import need_pipeline

need_pipeline()
