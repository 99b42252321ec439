"""Configuration of a run: named YAML files, overrides, and LightningCLI."""
