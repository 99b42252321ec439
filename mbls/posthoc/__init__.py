"""Post-hoc calibrators: fitted to a stream of predictions, applied, kept as JSON."""
