"""Coverage of intervals and guarantees over relabeled worlds of the phantom."""
