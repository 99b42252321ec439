"""Loggers: metrics.csv and experiment trackers."""
