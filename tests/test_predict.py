"""Predictions on each input's own grid, for all axes and headers."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, ornt_transform

from mbls.callbacks.predictions import PredictionWriter, label_values
from mbls.cli import main
from mbls.runtime.locks import LOCK, try_lock_folder, unlock
from tests import few, tiny
from tests.datamodules.conftest import AFFINE, blobs, save

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run on a fake ACDC download."""
    folder = tmp_path_factory.mktemp("acdc")
    assert tiny.fit(*few.acdc_args(folder)) == 0
    return tiny.run_folder(folder)


def predict_args(run: Path, source: Path, output: Path, *more: str) -> list[str]:
    return ["predict", "--run", str(run), "--input", str(source), "--output", str(output), *more]


def predict(run: Path, source: Path, output: Path, *more: str) -> int:
    return main(predict_args(run, source, output, *more))


def turned(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """The same volume stored along other axes; voxels stay where they are in mm."""
    wanted = ornt_transform(nib.io_orientation(image.affine), axcodes2ornt(codes))
    return image.as_reoriented(wanted)


def test_each_input_keeps_its_grid(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "some scans", tmp_path / "the output"
    source.mkdir()
    data, _ = blobs(7, (154, 214, 3))
    shear = AFFINE.copy()
    shear[:3, :3] @= np.array([[0.98, -0.2, 0], [0.2, 0.98, 0], [0, 0, 1]])
    shear[:3, 3] = (40, -30, 12)
    first = nib.Nifti1Image(data, shear)
    inputs = {
        f"{codes} of a patient": turned(first, codes) for codes in ("LPS", "RAS", "PIR", "LAS")
    }
    fault = nib.Nifti1Image(blobs(8, (21, 19, 4))[0], None)
    fault.set_qform(np.diag([-1.5, -1.5, 10.0, 1.0]), code=1)
    fault.set_sform(np.eye(4), code=1)
    fault.header.set_zooms((1.5, 1.5, 10.0))
    inputs["fault"] = fault
    for name, image in inputs.items():
        nib.save(image, source / f"{name}.nii.gz")

    written = nib.load(source / "fault.nii.gz")  # 1 mm by the sform, 1.5 mm by the voxel size
    np.testing.assert_array_equal(written.affine, np.eye(4))
    assert written.header.get_zooms() == (1.5, 1.5, 10.0)

    assert predict(run, source, output, "--probabilities") == 0
    assert f"Predictions: {output}" in capfd.readouterr().out
    expected = {f"{name}{kind}.nii.gz" for name in inputs for kind in ("", "_prob")}
    assert {path.name for path in output.iterdir()} == expected
    labels = {}
    for name in inputs:
        given = nib.load(source / f"{name}.nii.gz")
        label = nib.load(output / f"{name}.nii.gz")
        probs = nib.load(output / f"{name}_prob.nii.gz")
        assert label.shape == given.shape
        assert probs.shape == (*given.shape, 4)
        assert label.get_data_dtype() == np.uint8
        assert probs.get_data_dtype() == np.float32
        np.testing.assert_array_equal(label.affine, given.affine)
        np.testing.assert_array_equal(probs.affine, given.affine)
        for image in (label, probs):
            np.testing.assert_allclose(image.header.get_qform(), given.header.get_qform())
            assert image.header.get_zooms()[:3] == given.header.get_zooms()
        values = np.asarray(probs.dataobj)
        np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
        np.testing.assert_array_equal(values.argmax(-1), np.asarray(label.dataobj))
        labels[name] = label
    assert (
        len(np.unique(labels["LPS of a patient"].dataobj)) > 1
    )  # a constant label would be the same on all grids
    # one volume stored four ways gives one segmentation
    for name in inputs:
        if name != "fault":
            same = turned(labels[name], "LPS")
            np.testing.assert_array_equal(same.dataobj, labels["LPS of a patient"].dataobj)


@pytest.mark.parametrize("kind", ["missing", "4D", "text", "empty folder"])
def test_unreadable_input_is_named(
    kind: str, run: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    source = tmp_path / "input.nii.gz"
    printed = "the input must exist"
    if kind == "4D":
        save(source, np.zeros((4, 5, 6, 2), np.int16))
        printed = "must be 3D, found 4D, shape (4, 5, 6, 2)"
    elif kind == "text":
        source.write_text("no image")
        printed = "complete NIfTI file"
    elif kind == "empty folder":
        source = tmp_path / "empty"
        source.mkdir()
        printed = "must contain images"
    error = refusal(*predict_args(run, source, tmp_path / "out"))
    assert printed in error
    assert str(source) in error


def test_unwritable_output_is_named(run: Path, tmp_path: Path, refusal: Callable[..., str]) -> None:
    source = save(tmp_path / "a.nii.gz", blobs(1)[0])
    (tmp_path / "file").write_text("in the way")
    error = refusal(*predict_args(run, source, tmp_path / "file"))
    assert f"{tmp_path / 'file'} cannot be written (File exists)" in error
    if os.geteuid() != 0:  # root may write anywhere
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        error = refusal(*predict_args(run, source, closed))
        assert "cannot be written (Permission denied)" in error


def test_folder_without_config_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    error = refusal(*predict_args(tmp_path, tmp_path, tmp_path))
    assert f"{tmp_path} is not a run folder" in error


def test_prediction_never_replaces_its_input(
    run: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    scan = save(tmp_path / "scan.nii.gz", blobs(7)[0])
    before = scan.read_bytes()
    for source in (scan, tmp_path):
        assert "contains the input" in refusal(*predict_args(run, source, tmp_path))
    assert scan.read_bytes() == before


def test_prediction_is_in_the_unit_of_its_input(run: Path, tmp_path: Path) -> None:
    """Microns, and an axis of length 1 after the third, which a label map lacks."""
    data, _ = blobs(8, (21, 19, 4))
    image = nib.Nifti1Image(data[..., None], AFFINE * [[1000], [1000], [1000], [1]])
    image.header.set_xyzt_units("micron", "sec")
    nib.save(image, tmp_path / "small.nii.gz")
    assert predict(run, tmp_path / "small.nii.gz", tmp_path / "out") == 0
    found = nib.load(tmp_path / "out" / "small.nii.gz")
    assert found.shape == data.shape
    assert found.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_allclose(found.affine, image.affine)
    save(tmp_path / "same.nii.gz", data)
    assert predict(run, tmp_path / "same.nii.gz", tmp_path / "out") == 0
    same = nib.load(tmp_path / "out" / "same.nii.gz")
    assert same.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(same.dataobj))


def test_2d_image_gets_a_2d_label(run: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii.gz", blobs(1)[0][..., 0])
    assert predict(run, source, tmp_path / "out", "--probabilities") == 0
    assert nib.load(tmp_path / "out/a.nii.gz").shape == (20, 24)
    assert nib.load(tmp_path / "out/a_prob.nii.gz").shape == (20, 24, 1, 4)
    np.testing.assert_array_equal(nib.load(tmp_path / "out/a.nii.gz").affine, AFFINE)


def test_slices_of_a_voxel(run: Path, tmp_path: Path) -> None:
    """The network would pool it to one voxel, over which it normalizes."""
    save(tmp_path / "thin.nii.gz", np.arange(5, dtype=np.int16).reshape(1, 1, 5))
    assert predict(run, tmp_path / "thin.nii.gz", tmp_path / "out") == 0
    assert nib.load(tmp_path / "out" / "thin.nii.gz").shape == (1, 1, 5)


def test_foreign_files_in_the_output_need_overwrite(
    run: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    """Labels of the dataset, or a prediction that was corrected by hand."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (images, labels):
        folder.mkdir()
    for name in ("a", "b"):
        image, label = blobs(7)
        save(images / f"{name}.nii.gz", image)
    truth = save(labels / "b.nii.gz", label).read_bytes()
    error = refusal(*predict_args(run, images, labels))
    assert f"{labels} contains 1 of the 2 files" in error
    assert "b.nii.gz" in error
    assert "OVERWRITE=1" in error
    assert [path.name for path in labels.iterdir()] == ["b.nii.gz"], "an error before inference"
    assert (labels / "b.nii.gz").read_bytes() == truth
    assert predict(run, images, labels, "--overwrite") == 0
    written = (labels / "b.nii.gz").read_bytes()
    assert written != truth
    assert predict(run, images, labels) == 0, "its own are replaced"
    assert (labels / "b.nii.gz").read_bytes() == written, "the same bytes each time"
    changed = nib.load(labels / "a.nii.gz")
    corrected = np.array(changed.dataobj)
    corrected[3, 3, 1] += 1
    nib.save(nib.Nifti1Image(corrected, changed.affine, changed.header), labels / "a.nii.gz")
    error = refusal(*predict_args(run, images, labels))  # though its header is still ours
    assert f"{labels} contains 1 of the 2 files" in error


def test_one_process_at_a_time_writes_predictions(
    run: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    source = save(tmp_path / "a.nii.gz", blobs(1)[0])
    (tmp_path / "out").mkdir()
    lock = try_lock_folder(tmp_path / "out")
    assert lock is not None
    error = refusal(*predict_args(run, source, tmp_path / "out"))
    assert "Another process is writing" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]
    unlock(lock)
    (tmp_path / "out/a.nii.gz.host-1.incoming").write_bytes(b"of a killed process")
    assert predict(run, source, tmp_path / "out", "--ckpt", "last") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii.gz"]


def test_input_named_as_probabilities_of_another_is_refused(
    run: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    for name in ("a", "a_prob"):
        save(tmp_path / f"{name}.nii.gz", blobs(1)[0])
    error = refusal(*predict_args(run, tmp_path, tmp_path / "out", "--probabilities"))
    assert "a_prob.nii.gz would be" in error
    assert predict(run, tmp_path, tmp_path / "out") == 0, "an error releases the lock"


def test_broken_qform_is_written_back(run: Path, tmp_path: Path) -> None:
    """A quaternion longer than 1, of which nibabel can make no matrix; the sform is what counts."""
    source = save(tmp_path / "a.nii", blobs(8, (21, 19, 4))[0])
    content = bytearray(source.read_bytes())
    content[252:256] = struct.pack("<hh", 1, 1)
    content[256:268] = struct.pack("<fff", 0, 0, 1.0001)
    source.write_bytes(content)
    given = nib.load(source)
    with pytest.raises(ValueError, match="w2"):
        given.header.get_qform()
    assert predict(run, source, tmp_path / "out", "--probabilities") == 0
    for name in ("a", "a_prob"):
        found = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        np.testing.assert_array_equal(found.affine, given.affine)
        for field in ("qform_code", "sform_code", "quatern_d", "srow_x", "qoffset_x"):
            np.testing.assert_array_equal(found.header[field], given.header[field])
        np.testing.assert_array_equal(found.header["pixdim"][:4], given.header["pixdim"][:4])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ((0, 255), np.uint8),
        ((0, 500, 600), np.int16),
        ((-1, 1), np.int16),
        ((0, 40000), np.int32),
        ((0, 2**31), np.int64),
    ],
)
def test_labels_keep_their_files_values(values: tuple[int, ...], dtype: type, tmp_path) -> None:
    assert label_values(values).dtype == dtype
    writer = PredictionWriter(output=tmp_path)
    truth = torch.tensor([0, 1, len(values) - 1]).view(3, 1, 1)
    logits = 9.0 * torch.nn.functional.one_hot(truth, len(values)).movedim(-1, 0)
    header = nib.Nifti1Header()
    header.set_data_shape(logits.shape[1:])
    writer._write("a", logits, logits.argmax(dim=0), {}, {}, np.eye(4), header, values)
    found = nib.load(tmp_path / "a.nii.gz")
    assert found.get_data_dtype() == dtype
    assert np.asarray(found.dataobj).ravel().tolist() == [values[0], values[1], values[-1]]
