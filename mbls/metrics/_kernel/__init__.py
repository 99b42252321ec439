"""The exact counting under the metrics: pieces of a volume, fixed-point sums, and their checks."""
