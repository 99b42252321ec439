"""From names to a run: choices and their YAML files, overrides, and LightningCLI."""
