"""Processes and disks: errors, files, locks, ranks and threads. Imports nothing else of mbls."""
