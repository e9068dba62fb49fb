"""Image rows on their way to the network: selection, operation, detach, route. The cut is in `scenario`."""
