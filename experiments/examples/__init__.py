"""The losses and metrics in other people's loops; each runs in seconds, from the checkout."""
