"""Where a dataset's files are, release by release, and what they are called."""
