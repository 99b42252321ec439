"""Every fault of a described dataset is listed with its place and the way out."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import DataError, Problem
from tests.datamodules.test_files import LAYOUTS, made
from tests.datamodules.tiny_files import save, volume, write_json

Fault = Callable[[Path], object]


def json_with(**changes: object) -> Fault:
    def change(root: Path) -> None:
        content = json.loads((root / "dataset.json").read_text())
        for name, value in changes.items():
            content.pop(name, None)
            if value is not None:
                content[name] = value
        write_json(root, content)

    return change


def remove(name: str) -> Fault:
    return lambda root: (root / name).unlink()


def text(name: str, content: str) -> Fault:
    return lambda root: (root / name).write_text(content)


def nifti(name: str, data: np.ndarray) -> Fault:
    return lambda root: save(root / name, data)


def png(name: str, pixels: np.ndarray) -> Fault:
    return lambda root: Image.fromarray(pixels).save(root / name)


def rows(change: Callable[[list[str]], list[str]]) -> Fault:
    def write(root: Path) -> None:
        lines = (root / "cases.csv").read_text().splitlines()
        (root / "cases.csv").write_text("\n".join(change(lines)) + "\n")

    return write


def jpeg_masks(root: Path) -> None:
    for path in (root / "masks").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


IMAGE, LABEL = volume(0)


def twice(root: Path) -> None:
    for name in ("images{}/case_000_0000.nii.gz", "labels{}/case_000.nii.gz"):
        save(root / name.format("Ts"), LABEL)


MASK = np.where(np.arange(32 * 40).reshape(40, 32) % 7 < 3, 255, 0).astype(np.uint8)
FAULTS: list[tuple[str, str, Fault, str, str]] = [
    # layout, name, fault, in the path or case, in rule, finding or fix
    ("nnunet", "no dataset.json", remove("dataset.json"), "data", "dataset.json"),
    ("nnunet", "broken dataset.json", text("dataset.json", "{"), "dataset.json", "JSON"),
    ("nnunet", "a list", text("dataset.json", "[]"), "dataset.json", "object"),
    ("nnunet", "of v1", json_with(channel_names=None, modality={"0": "MRI"},
                                  labels={"0": "background", "1": "x"}),
     "dataset.json", "nnUNetv2_convert_old_nnUNet_dataset"),
    ("nnunet", "labels of v1", json_with(labels={"0": "background", "1": "x"}),
     "dataset.json", "names"),
    ("nnunet", "no labels", json_with(labels=None), "dataset.json", "labels"),
    ("nnunet", "no background", json_with(labels={"liver": 1}), "labels", "background"),
    ("nnunet", "channels from 1", json_with(channel_names={"1": "CT"}), "dataset.json", "from 0"),
    ("nnunet", "a value without a name", nifti("labelsTr/case_001.nii.gz", LABEL + (LABEL > 1)),
     "case_001", "3 ("),
    ("nnunet", "a missing channel", remove("imagesTr/case_002_0000.nii.gz"),
     "case_002", "an image"),
    ("nnunet", "an announced channel", json_with(channel_names={"0": "CT", "1": "PET"}),
     "case_000", "2 channels"),
    ("nnunet", "a missing label", remove("labelsTr/case_002.nii.gz"), "case_002", "label"),
    ("nnunet", "no number", nifti("imagesTr/case_050.nii.gz", IMAGE), "case_050", "_0000"),
    ("nnunet", "4D", nifti("imagesTr/case_000_0000.nii.gz", np.stack([IMAGE] * 2, -1)),
     "case_000", "3D"),
    ("nnunet", "another size", nifti("labelsTr/case_000.nii.gz", LABEL[1:]), "case_000", "shape"),
    ("nnunet", "a test case of the same name", twice, "case_000", "imagesTs"),
    ("decathlon", "no dataset.json", remove("dataset.json"), "data", "dataset.json"),
    ("decathlon", "of nnU-Net", json_with(modality=None, channel_names={"0": "CT"}),
     "dataset.json", "DATASET=nnunet"),
    ("decathlon", "labels of nnU-Net", json_with(labels={"background": 0}), "dataset.json",
     "values to names"),
    ("decathlon", "no list", json_with(training=None), "dataset.json", "training"),
    ("decathlon", "an empty list", json_with(training=[]), "dataset.json", "training"),
    ("decathlon", "a file that is not there", remove("imagesTr/case_003.nii.gz"), "case_003",
     "exist"),
    ("decathlon", "3D in place of 4D", json_with(modality={"0": "T1", "1": "T2"}), "case_000",
     "fourth axis"),
    ("images", "an image without a mask", remove("masks/p1_2_mask.png"), "p1_2", "label"),
    ("images", "a mask without an image", remove("images/p1_2.png"), "p1_2", "image"),
    ("images", "no masks", lambda root: (root / "masks").rename(root / "other"), "data", "masks"),
    ("images", "another size", png("images/p0_0.png", np.full((9, 9), 7, np.uint8) + MASK[:9, :9]),
     "p0_0", "shape"),
    ("images", "RGB among gray", png("images/p0_0.png", np.dstack([MASK] * 3)), "p0_0",
     "1 channel"),
    ("images", "broken", text("images/p0_0.png", "x"), "p0_0", "picture"),
    ("images", "JPEG masks", jpeg_masks, "masks", "JPEG"),
    ("images", "0 and 1 among 0 and 255", png("masks/p0_0_mask.png", MASK // 255), "masks",
     "1 and 255"),
    ("images", "smoothed masks", png("masks/p0_0_mask.png", np.roll(MASK, 1) // 2 + MASK // 2),
     "masks", "smoothing"),
    ("table", "no table", remove("cases.csv"), "data", "CSV"),
    ("table", "no case", rows(lambda r: [r[0].replace("case", "id"), *r[1:]]), "cases.csv", "case"),
    ("table", "no label", rows(lambda r: [r[0].replace("label", "x"), *r[1:]]), "cases.csv",
     "label"),
    ("table", "no rows", rows(lambda r: r[:1]), "cases.csv", "rows"),
    ("table", "a case twice", rows(lambda r: [*r, r[1]]), "c0", "one row"),
    ("table", "an empty field", rows(lambda r: [*r[:3], r[3].rpartition(",")[0] + ","]), "c2",
     "line 4"),
    ("table", "a file that is not there", remove("data/i4.nii.gz"), "c4", "exist"),
    ("table", "an unknown mark", rows(
        lambda r: [f"{line},{['test', 'x', '0'][min(k, 2)]}" for k, line in enumerate(r)]),
     "c0", "'x' in line 2"),
    ("table", "a patient in two parts", rows(
        lambda r: [f"{line},{['test', '1', '0'][min(k, 2)]}" for k, line in enumerate(r)]),
     "c1", "one part"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "fault", "where", "fact"),
    [pytest.param(kind, *rest, id=f"{kind}-{name}") for kind, name, *rest in FAULTS],
)
def test_faults_are_listed(
    layout: str, fault: Fault, where: str, fact: str, tmp_path: Path
) -> None:
    root = LAYOUTS[layout][1](tmp_path / "data")
    fault(root)
    problems: list[Problem]
    try:
        problems = made(layout, root, tmp_path / "cache").check(progress=False)
    except DataError as error:
        problems = list(error.problems)
    assert problems
    found = [p for p in problems if where in f"{p.case} {p.path}" and fact in str(p)]
    assert found, "\n".join(map(str, problems))
    assert all(problem.fix for problem in problems)


def test_colors_outside_the_palette_and_mixed_ones_are_named(tmp_path: Path) -> None:
    root = LAYOUTS["images"][1](tmp_path / "data")
    pixels = np.zeros((40, 32, 3), np.uint8)
    pixels[4:9, 4:9] = (255, 0, 0)
    pixels[9, 4:9] = (128, 0, 0)  # as of smoothed edges
    Image.fromarray(pixels).save(root / "masks" / "p0_0_mask.png")
    labels = {"background": "#000000", "shell": "#ff0000", "white": "#ffffff"}
    problems = made("images", root, tmp_path / "cache", labels=labels).check(progress=False)
    (mine,) = [problem for problem in problems if problem.case == "p0_0"]
    assert "#800000 (5 voxels)" in mine.found
    assert "#ff0000" in mine.rule


def test_gray_edges_of_a_mask_are_named(tmp_path: Path) -> None:
    root = LAYOUTS["images"][1](tmp_path / "data")
    soft = Image.fromarray(MASK).resize((64, 80)).resize((32, 40))
    soft.save(root / "masks" / "p0_0_mask.png")
    data = made("images", root, tmp_path / "cache", labels={"background": 0, "cell": 255})
    (problem,) = data.check(progress=False)
    assert problem.case == "p0_0"
    assert "0, 255" in problem.rule
    assert "nearest" in problem.fix


def test_nothing_to_read(tmp_path: Path) -> None:
    for kind in LAYOUTS:
        with pytest.raises(DataError) as error:
            made(kind, tmp_path / "empty", tmp_path / "cache")
        assert "DATA_ROOT" in str(error.value)
