"""Batch scripts for Slurm: one job, or an array over losses, seeds and folds."""
