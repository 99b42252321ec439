"""Locations and names of each dataset's files, by release."""
