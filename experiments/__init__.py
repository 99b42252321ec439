"""YAML configurations, one choice a file, and thin launchers."""
