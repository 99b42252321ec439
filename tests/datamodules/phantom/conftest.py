"""A coarse phantom: every rule of the real one at a fraction of the work."""

import pytest

from datamodules.phantom import CardiacPhantom


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
