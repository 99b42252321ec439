"""The exact counting under the metrics, and what they check before it.

``definition`` says in plain code which integers are counted; the other files count the same ones
fast: ``pieces`` cuts volumes, ``voxel_inputs`` reads a piece, ``counting`` adds up its cells.
"""
