"""Exact counting of voxels, and checks of the inputs.

``definition`` is the reference in plain code; the other files compute the same integers fast:
``pieces`` splits volumes, ``voxel_inputs`` reads a piece, ``counting`` sums its cells.
"""
