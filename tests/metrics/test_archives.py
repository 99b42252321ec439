"""Archives of arrays from other programs."""

import io
import zipfile

import numpy as np
import pytest

from mbls.metrics.archives import load_arrays


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(3,)", "(4, 4)"])
def test_a_shape_that_is_not_the_files_size_is_refused(tmp_path, shape):
    whole = io.BytesIO()
    np.save(whole, np.arange(16))
    header, _, data = whole.getvalue().partition(b"\n")
    lied = header.replace(b"(16,)", shape.encode()).ljust(len(header))[: len(header)]
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("numbers.npy", lied + b"\n" + data)
    if shape == "(4, 4)":
        assert load_arrays(tmp_path / "a.npz")["numbers"].shape == (4, 4)
        return
    with pytest.raises(ValueError, match=r"numbers\.npy must have .* bytes by the shape"):
        load_arrays(tmp_path / "a.npz")
