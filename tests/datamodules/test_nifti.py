"""Headers, suffixes and damaged files."""

import errno
import gzip
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import voxel_sizes

from datamodules.reading.nifti import (
    NiftiError,
    find_nifti,
    oddities,
    read_grid,
    read_volume,
    stem,
)
from tests.datamodules.conftest import AFFINE, blobs, save
from tests.faults import DIM, PIXDIM, SROW, VOX_OFFSET, put

QFORM_CODE = 252  # in the header; the sform's and the quaternion follow
TRUE = np.diag([-1.3158, -1.3158, 10.0, 1.0])
UNIT = np.diag([-1.0, -1.0, 1.0, 1.0])


def faulty(path: Path, *, qform_code: int) -> Path:
    """A file with ACDC's header fault: a sform of unit scale over a true pixdim."""
    image = nib.Nifti1Image(blobs(0)[0], TRUE)
    image.set_qform(TRUE, code=qform_code, update_affine=False)
    image.set_sform(UNIT, code=1)
    nib.save(image, path)
    assert voxel_sizes(nib.load(path).affine).tolist() == [1, 1, 1]  # nibabel's choice
    return path


@pytest.mark.parametrize("qform_code", [0, 1])
def test_unit_sform_over_true_pixdim(tmp_path: Path, qform_code: int) -> None:
    volume = read_volume(faulty(tmp_path / "a.nii.gz", qform_code=qform_code))
    np.testing.assert_allclose(volume.affine, TRUE, atol=1e-5)
    np.testing.assert_array_equal(volume.file_affine, UNIT)


def test_unit_pixdim_under_true_sform(tmp_path: Path) -> None:
    image = nib.Nifti1Image(blobs(0)[0], None)
    image.set_sform(TRUE, code=1)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine, TRUE, atol=1e-5)


def test_contradicting_voxel_sizes(tmp_path: Path) -> None:
    image = nib.Nifti1Image(blobs(0)[0], TRUE)
    image.set_sform(np.diag([2.0, 2.0, 10.0, 1.0]), code=1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(
        NiftiError, match=r"same voxel size.*2 x 2 x 10 mm and 1\.316 x 1\.316 x 10 mm"
    ):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("qform_code", [0, 1])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_size_of_zero_without_sform(tmp_path: Path, qform_code: int, suffix: str) -> None:
    """nibabel would make it 1 mm, and nothing else in the header would contradict."""
    image = nib.Nifti1Image(blobs(0)[0], None)
    image.set_qform(TRUE, code=qform_code)
    nib.save(image, tmp_path / f"a{suffix}")
    put(tmp_path / f"a{suffix}", PIXDIM + 12, "<f", 0.0)
    with pytest.raises(NiftiError, match=r"pixdim must be positive.*found 1\.316 x 1\.316 x 0 mm"):
        read_grid(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("rows", ["parallel", "no origin"])
def test_affine_of_no_grid(tmp_path: Path, rows: str) -> None:
    path = save(tmp_path / "a.nii.gz", blobs(0)[0])
    numbers = [-1.5, -1.5, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0]
    if rows == "no origin":
        numbers = [-1.5, 0, 0, np.nan, 0, -1.5, 0, 0, 0, 0, 10, 0]
    put(path, SROW, "<12f", *numbers)
    with pytest.raises(NiftiError, match=r"finite origin and axes in three.*found -1\.5 .*Repair"):
        read_volume(path)


def test_nifti_2(tmp_path: Path) -> None:
    data = blobs(0)[0]
    nib.save(nib.Nifti2Image(data, AFFINE), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert oddities(tmp_path / "a.nii.gz") == []


def test_grid_without_voxels(tmp_path: Path) -> None:
    path = faulty(tmp_path / "a.nii.gz", qform_code=1)
    shape, file_affine, affine = read_grid(path)
    assert shape == (20, 24, 4)
    np.testing.assert_array_equal(file_affine, UNIT)
    np.testing.assert_allclose(affine, TRUE, atol=1e-5)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((2, 3, 4), np.int16), AFFINE)
    image.header.set_slope_inter(2.0, 5.0)
    nib.save(image, tmp_path / "a.nii")
    stored = nib.load(tmp_path / "a.nii").get_fdata()
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").data, stored)


@pytest.mark.parametrize("keep", [0, 5, 300, -100])
def test_truncated(tmp_path: Path, keep: int) -> None:
    path = save(tmp_path / "a.nii.gz", blobs(0, (40, 40, 10))[0])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(NiftiError, match=r"complete NIfTI file.*Download or unpack it again"):
        read_volume(path)


def test_truncated_uncompressed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", blobs(0)[0])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(NiftiError, match="complete NIfTI file"):
        read_volume(path)


@pytest.mark.parametrize("tail", [bytes(3000), b"\n", b"<html>404</html>"])
def test_bytes_after_the_packed_volume(tmp_path: Path, tail: bytes) -> None:
    """Padding of a tape or a download, which gzip, nibabel and ITK pass over too."""
    image = blobs(0)[0]
    path = save(tmp_path / "a.nii.gz", image)
    content = path.read_bytes()
    path.write_bytes(content + tail)
    np.testing.assert_array_equal(read_volume(path).data, image)
    spoilt = bytearray(content)
    spoilt[-8] ^= 1  # of the checksum
    path.write_bytes(bytes(spoilt) + tail)
    with pytest.raises(NiftiError, match="CRC check failed"):
        read_volume(path)


def test_a_volume_in_several_members(tmp_path: Path) -> None:
    """As tools that pack in parallel write it."""
    image = blobs(0)[0]
    plain = save(tmp_path / "a.nii", image).read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(b"".join(gzip.compress(plain[i : i + 500]) for i in range(0, 9000, 500)))
    np.testing.assert_array_equal(read_volume(path).data, image)


def test_flipped_bit(tmp_path: Path) -> None:
    """One voxel differs and the length is right: the checksum differs."""
    path = save(tmp_path / "a.nii.gz", blobs(0)[0])
    content = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(NiftiError, match=r"complete NIfTI file.*CRC check failed.*Download"):
        read_volume(path)


def test_promise_of_more_than_can_be_packed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", blobs(0)[0])
    put(path, DIM + 2, "<3h", 3000, 3000, 3000)  # 54 GB, of which nothing is allocated
    with pytest.raises(NiftiError, match=r"complete NIfTI file.*promises 54000000000 bytes"):
        read_volume(path)
    flat = save(tmp_path / "b.nii.gz", np.zeros((256, 256, 256), np.int16))  # packed best
    assert not read_volume(flat).data.any()


def test_voxels_that_begin_in_the_header(tmp_path: Path) -> None:
    """nibabel would read the header as voxels."""
    path = save(tmp_path / "a.nii.gz", blobs(0)[0])
    put(path, VOX_OFFSET, "<f", 0.0)
    with pytest.raises(NiftiError, match=r"vox_offset must be 352 or more, found 0\. Repair"):
        read_volume(path)


@pytest.mark.parametrize(
    ("suffix", "way_out"), [(".nii", "rename it to .nii.gz"), (".nii.gz", "rename it to .nii,")]
)
def test_a_suffix_of_the_other_kind(tmp_path: Path, suffix: str, way_out: str) -> None:
    path = save(tmp_path / f"a{suffix}", blobs(0)[0])
    content = path.read_bytes()
    other = gzip.decompress(content) if suffix == ".nii.gz" else gzip.compress(content)
    path.write_bytes(other)
    with pytest.raises(NiftiError, match=rf"complete NIfTI file.*packed: {way_out}"):
        read_volume(path)


def test_no_voxels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", blobs(0)[0])
    put(path, DIM + 6, "<h", 0)
    with pytest.raises(NiftiError, match=r"must have voxels, found shape \(20, 24, 0\)"):
        read_volume(path)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii.gz", blobs(0)[0])
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(NiftiError, match=r"must be readable.*no permission.*Change its perm"):
        read_volume(path)


def test_a_link_into_a_closed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = save(tmp_path / "b.nii.gz", blobs(0)[0])
    (tmp_path / "a.nii.gz").symlink_to(target)
    stat = os.stat

    def closed(path: Path, *, follow_symlinks: bool = True, **kw: Any) -> os.stat_result:
        if follow_symlinks and Path(path).name == "a.nii.gz":  # root may look into any folder
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, follow_symlinks=follow_symlinks, **kw)

    monkeypatch.setattr(os, "stat", closed)
    assert find_nifti(tmp_path, "a") == tmp_path / "a.nii.gz"
    with pytest.raises(NiftiError, match=r"must be readable.*no permission.*Change its perm"):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("target", ["gone.nii.gz", "a.nii.gz"], ids=["broken", "loop"])
def test_a_link_to_nothing(tmp_path: Path, target: str) -> None:
    (tmp_path / "a.nii.gz").symlink_to(target)
    assert find_nifti(tmp_path, "a") == tmp_path / "a.nii.gz"
    with pytest.raises(NiftiError, match=r"must exist, found a link to nothing\. Restore what it"):
        read_volume(tmp_path / "a.nii.gz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "b.nii.gz").symlink_to(tmp_path / "empty")
    assert find_nifti(tmp_path, "b") is None


def test_not_nifti(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_text("<html>404</html>")
    with pytest.raises(NiftiError, match="complete NIfTI file"):
        read_volume(tmp_path / "a.nii.gz")
    with pytest.raises(NiftiError, match="must exist, found no such file"):
        read_volume(tmp_path / "b.nii.gz")


@pytest.mark.parametrize(
    ("field", "value"),
    [("datatype", 127), ("dim", (3, -20, 24, 4)), ("dim", (3, 32767, 32767, 99))],
)
def test_damaged_header(tmp_path: Path, field: str, value: int | tuple[int, ...]) -> None:
    """An unknown type, a negative and a huge extent: nibabel raises three kinds of errors."""
    path = save(tmp_path / "a.nii", blobs(0)[0])
    content = bytearray(path.read_bytes())
    begin = 70 if field == "datatype" else 40
    for offset, number in enumerate(np.atleast_1d(np.asarray(value, dtype="<i2"))):
        place = begin + 2 * offset
        content[place : place + 2] = number.tobytes()
    path.write_bytes(content)
    with pytest.raises(NiftiError, match=r"complete NIfTI file.*bytes that do not read as one"):
        read_volume(path)


def test_four_dimensions(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", np.zeros((4, 5, 6, 7), np.int16))
    with pytest.raises(NiftiError, match=r"must be 3D, found 4D, shape \(4, 5, 6, 7\)"):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_trailing_axes_of_length_1(tmp_path: Path, suffix: str, extra: tuple[int, ...]) -> None:
    image = blobs(0)[0]
    path = save(tmp_path / f"a{suffix}", image.reshape(*image.shape, *extra))
    for dtype in (None, np.float32):
        np.testing.assert_array_equal(read_volume(path, dtype=dtype).data, image)
    assert read_grid(path)[0] == image.shape
    np.testing.assert_array_equal(read_grid(path)[2], AFFINE)


def in_unit(path: Path, unit: str, scale: float, *, unit_sform: bool = False) -> Path:
    """A file whose lengths are in a unit of ``1 / scale`` mm."""
    affine = AFFINE * [[scale], [scale], [scale], [1]]
    image = nib.Nifti1Image(blobs(0)[0], affine)
    image.set_qform(affine, code=1, update_affine=False)
    image.set_sform(UNIT if unit_sform else affine, code=1)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, path)
    return path


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1e-3), ("micron", 1e3)])
@pytest.mark.parametrize("unit_sform", [False, True])
def test_meters_and_microns_become_mm(
    tmp_path: Path, unit: str, scale: float, unit_sform: bool
) -> None:
    path = in_unit(tmp_path / "a.nii.gz", unit, scale, unit_sform=unit_sform)
    np.testing.assert_allclose(read_volume(path).affine, AFFINE, rtol=1e-6)
    file_affine = nib.load(path).affine
    np.testing.assert_array_equal(read_grid(path)[1], file_affine)  # written back as it is
    plural = {"meter": "meters", "micron": "microns"}[unit]
    assert oddities(path) == [f"the header's unit is {plural}: lengths are converted to mm."]


@pytest.mark.parametrize("unit", ["mm", "unknown"])
def test_no_unit_is_mm(tmp_path: Path, unit: str) -> None:
    path = in_unit(tmp_path / "a.nii.gz", unit, 1)
    np.testing.assert_array_equal(read_volume(path).affine, AFFINE)
    assert oddities(path) == []


def test_size_of_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", blobs(0)[0], np.diag([1e-9, 1e-9, 1e-9, 1]))
    with pytest.raises(NiftiError, match=r"from 0\.0001 to 100 mm long, found 1e-09 x"):
        read_grid(path)


def test_size_in_a_wrong_unit(tmp_path: Path) -> None:
    """1.5 with the unit metre: resampling it to mm would take all memory."""
    path = in_unit(tmp_path / "a.nii.gz", "meter", 1)
    with pytest.raises(NiftiError, match=r"0.0001 to 100 mm long, found 1500 x 1500 x 1e\+04 mm"):
        read_grid(path)


def test_names(tmp_path: Path) -> None:
    assert stem(Path("x/patient001.v2.nii.gz")) == "patient001.v2"
    with pytest.raises(ValueError, match="must end in"):
        stem(Path("a.mhd"))
    assert find_nifti(tmp_path, "a") is None
    plain = save(tmp_path / "a.nii", blobs(0)[0])
    assert find_nifti(tmp_path, "a") == plain
    packed = save(tmp_path / "a.nii.gz", blobs(0)[0])
    assert find_nifti(tmp_path, "a") == packed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s1--0.nii.gz\n", "datalad get"),
        (b"\x89PNG\r\n\x1a\n" + bytes(300), "a PNG image. Only NIfTI is read"),
        (b"\xff\xd8\xff\xe0" + bytes(300), "a JPEG image. Only NIfTI is read"),
        (b"NRRD0005\n" + bytes(300), "an NRRD file. Only NIfTI is read"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.png"])
def test_another_kind_of_file_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NiftiError) as error:
        read_volume(tmp_path / name)
    assert message in str(error.value)
    assert "Download or unpack" not in str(error.value)


def test_a_folder_with_the_name_of_a_file(tmp_path: Path) -> None:
    """As some copies of public data sets have it."""
    (tmp_path / "a.nii.gz").mkdir()
    save(tmp_path / "a.nii.gz" / "a_seg.nii", blobs(0)[0])
    path = find_nifti(tmp_path, "a")
    assert path is not None
    with pytest.raises(NiftiError, match=r"a folder of that name with a_seg\.nii"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".NII.GZ", ".NII", ".nii.GZ"])
def test_a_suffix_may_be_in_capitals(tmp_path: Path, suffix: str) -> None:
    image = blobs(0)[0]
    packed = suffix.lower().endswith(".gz")
    written = save(tmp_path / ("b.nii.gz" if packed else "b.nii"), image)
    path = written.rename(tmp_path / f"a{suffix}")
    assert find_nifti(tmp_path, "a") == path
    assert stem(path) == "a"
    np.testing.assert_array_equal(read_volume(path).data, image)
    assert read_grid(path)[0] == image.shape
    assert oddities(path) == []


@pytest.mark.parametrize("thickness", [10.0, 0.0])
def test_a_2d_file_is_one_slice(tmp_path: Path, thickness: float) -> None:
    """The third voxel size need not be stated; it is then 1 mm."""
    image = nib.Nifti1Image(blobs(0)[0][..., 0], None)
    image.set_qform(AFFINE, code=1)
    nib.save(image, tmp_path / "a.nii")
    put(tmp_path / "a.nii", PIXDIM + 12, "<f", thickness)
    volume = read_volume(tmp_path / "a.nii")
    assert volume.data.shape == (20, 24, 1)
    np.testing.assert_array_equal(volume.data[..., 0], blobs(0)[0][..., 0])
    np.testing.assert_allclose(voxel_sizes(volume.affine), (1.5, 1.5, thickness or 1))


def break_quaternion(path: Path, sform_code: int) -> None:
    put(path, QFORM_CODE, "<hhfff", 1, sform_code, 0.0, 0.0, 1.0001)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_quaternion_that_is_no_rotation(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", blobs(0)[0])
    break_quaternion(path, sform_code=1)
    np.testing.assert_allclose(read_volume(path).affine, AFFINE)  # the sform is good
    break_quaternion(path, sform_code=0)
    with pytest.raises(NiftiError, match=r"unit length.*found.*quatern_d of the length 1\.0001"):
        read_volume(path)


@pytest.mark.parametrize(("degrees", "percent"), [(20, "19 %"), (1, "0.88 %"), (0.05, None)])
def test_a_shear_is_named(tmp_path: Path, degrees: float, percent: str | None) -> None:
    """Slices of 5 mm that a tilted gantry has pushed aside."""
    affine = np.diag([-1.5, -1.5, 5.0, 1.0])
    affine[1, 2] = 5.0 * np.tan(np.radians(degrees))
    found = oddities(save(tmp_path / "a.nii", blobs(0)[0], affine))
    if percent is None:
        assert found == []
        return
    (text,) = found
    assert f"up to {degrees} degrees off right angles" in text
    assert f"off by up to {percent}" in text
    assert "Resample" in text
