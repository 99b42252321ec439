"""Losses whose multipliers follow the validation."""
