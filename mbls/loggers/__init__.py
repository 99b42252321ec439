"""Where logged values go: metrics.csv, and the trackers."""
