"""Read and validate the files of a case."""
