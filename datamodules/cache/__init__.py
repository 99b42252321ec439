"""From checked arrays to prepared ones on disk, each case once."""
