"""Comparisons of finished runs, from their files alone."""
