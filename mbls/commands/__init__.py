"""The commands of the console script, one a file; each has a ``main(args)``."""
