"""From the cache to batches: which samples, what is cut out of them, what is changed."""
