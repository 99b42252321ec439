"""A small real sweep: runs of seconds on the ACDC phantom, each in a process of its own."""

from pathlib import Path

import yaml

from tests.processes import Done, finish, start


def sweep_args(folder: Path, *, losses: str, seeds: str, epochs: int = 1) -> list[str]:
    """Return arguments of ``mbls benchmark`` with settings, data and runs in ``folder``."""
    data = {
        "class_path": "datamodules.ACDCDataModule",
        "init_args": {
            "root": None, "phantom_root": str(folder / "phantom"), "batch_size": 16,
            "phantom_patients": {"train": 3, "val": 1, "test": 3},
            "sampling": {"patch_size": [48, 48]}, "cache_dir": str(folder / "cache"),
        },
    }  # fmt: skip
    network = {
        "class_path": "monai.networks.nets.UNet",
        "init_args": {"channels": [4, 8], "strides": [2], "num_res_units": 0},
    }
    contents = {"acdc": {"data": data}, "tiny": {"model": {"network": network, "divisor": 2}}}
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return [
        "--dataset", str(folder / "acdc.yaml"), "--network", str(folder / "tiny.yaml"),
        "--preset", "quick", "--epochs", str(epochs), "--accelerator", "cpu",
        "--losses", losses, "--seeds", seeds, "--root", str(folder / "runs"),
    ]  # fmt: skip


def run_sweep(args: list[str], *, limit: float = 900) -> Done:
    """Run a sweep to its end."""
    return finish(start("benchmark", *args), limit=limit)
