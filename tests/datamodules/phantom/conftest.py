"""Coarse phantoms: every rule of the real ones at a fraction of the work."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.phantom import ACDC, BRATS, FLARE, Phantom, PhantomSettings, write_phantom

PHANTOMS = {phantom.dataset: phantom for phantom in (ACDC, BRATS, FLARE)}
PATIENTS = {"train": 2, "val": 1, "test": 1}
SETTINGS = {
    "acdc": PhantomSettings(coarsen=2, quirks={"unit sform": 0.25, "late ED": 0.25}),
    "brats": PhantomSettings(coarsen=2, quirks={"low grade": 0.25, "satellite": 0.5}),
    "flare": PhantomSettings(coarsen=2.5, release="2022", quirks={"part of tubes": 0.25}),
}


def write(root: Path, dataset: str, **changes: Any) -> Path:
    """Write a coarse phantom of four patients."""
    options: dict[str, Any] = {"patients": PATIENTS, "settings": SETTINGS[dataset], "seed": 3}
    write_phantom(PHANTOMS[dataset], root, workers=1, progress=False, **options | changes)
    return root


def files(root: Path) -> list[str]:
    """The files under ``root``, sorted."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A coarse phantom of each dataset; not to change."""
    home = tmp_path_factory.mktemp("phantoms")
    return {dataset: write(home / dataset, dataset) for dataset in PHANTOMS}


@pytest.fixture(params=list(PHANTOMS))
def phantom(request: pytest.FixtureRequest) -> Phantom:
    """The phantom of each dataset in turn."""
    return PHANTOMS[request.param]
