"""Coarse phantoms: every rule of the real ones at a fraction of the work."""

import pytest

from datamodules.phantom import AbdomenPhantom, BrainPhantom, CardiacPhantom


@pytest.fixture(scope="session")
def coarse() -> CardiacPhantom:
    return CardiacPhantom(
        field_of_view_mm=(160.0, 170.0),
        pixel_mm=(2.8, 3.0),
        slice_distances_mm=(10.0,),
        fine_fraction=0.0,
        header_fault_fraction=0.3,
        late_ed_fraction=0.3,
    )


@pytest.fixture(scope="session")
def coarse_brain() -> BrainPhantom:
    return BrainPhantom(
        shape=(40, 48, 36), voxel_mm=4.0, no_enhancing_fraction=0.25, satellite_fraction=0.5
    )


@pytest.fixture(scope="session")
def coarse_abdomen() -> AbdomenPhantom:
    return AbdomenPhantom(release="2022", pixels=48, slices_mm=(10.0,), tube_fraction=0.25)
