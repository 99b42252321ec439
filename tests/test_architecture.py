"""The order of the folders: imports point one way, and no folder imports one above it."""

import pytest

from experiments.structure import RANK, climbing, imports, room, source_files


def test_every_file_belongs_to_a_room() -> None:
    assert {room(path) for path in source_files()} == set(RANK)


@pytest.mark.parametrize("name", sorted(RANK))
def test_imports_point_down(name: str) -> None:
    assert not climbing(name)


def test_mbls_does_not_import_datamodules() -> None:
    ours = [path for path in source_files() if room(path).startswith("mbls")]
    assert not [path for path in ours if "datamodules" in imports(path)]
