"""Finding BraTS's cases in the layouts of its releases, and refusing other files."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from datamodules import BraTSDataModule, DataError, Division, Preprocessing, Survey
from datamodules.phantom import PhantomSettings, write_brats_phantom
from mbls.callbacks import PredictionWriter
from mbls.cli import main
from tests.datamodules.conftest import save
from tests.datamodules.fault_messages import REFUSED, assert_told
from tests.faults import FAULTS, inject, phantom_cases

AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
OLD = ("_t1", "_t1ce", "_t2", "_flair", "_seg")
NEW = ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")
SHAPE = (10, 12, 8)
RELEASES = {  # folders as they are unpacked, the cases in them
    "2018": ("MICCAI_BraTS_2018_Data_Training", "HGG/Brats18_2013_2_1 LGG/Brats18_TCIA09_141_1"),
    "2019": ("MICCAI_BraTS_2019_Data_Training", "HGG/BraTS19_CBICA_APK_1 LGG/BraTS19_TMC_06_1"),
    "2020": ("MICCAI_BraTS2020_TrainingData", "BraTS20_Training_001 BraTS20_Training_355"),
    "2021": ("RSNA_ASNR_MICCAI_BraTS2021_TrainingData", "BraTS2021_00000 BraTS2021_00002"),
    "2023": ("ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData",
             "BraTS-GLI-00000-000 BraTS-GLI-00002-000 BraTS-GLI-00002-001"),
}  # fmt: skip


def write_case(
    folder: Path,
    *,
    endings: tuple[str, ...] = OLD,
    suffix: str = ".nii.gz",
    values: tuple[int, ...] = (1, 2, 4),
    name: str = "",
) -> Path:
    """Write a case: channel ``c`` is 100 * (c + 1) in a brain of 6 x 6 x 6, zero about it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = name or folder.name
    for channel, ending in enumerate(endings[:4]):
        image = np.zeros(SHAPE, np.int16)
        image[2:8, 3:9, 1:7] = 100 * (channel + 1)
        image[3, 4:8, 2:5] += 7
        save(folder / f"{name}{ending}{suffix}", image, AFFINE)
    if len(endings) == 5:
        label = np.zeros(SHAPE, np.uint8)
        label[4, 5, 1 : 1 + len(values)] = values
        save(folder / f"{name}{endings[4]}{suffix}", label, AFFINE)
    return folder


def write_release(home: Path, release: str, suffix: str = ".nii.gz") -> Path:
    """Write the cases of a release; its last one has nothing that enhances."""
    folder, cases = RELEASES[release]
    new = release >= "2023"
    for number, case in enumerate(cases.split(), start=1):
        values = (1, 2, 3 if new else 4)[: 2 if number == len(cases.split()) else 3]
        write_case(home / folder / case, endings=NEW if new else OLD, suffix=suffix, values=values)
    return home / folder


def survey(root: Path, scheme: str = "by_name") -> Survey:
    return BraTSDataModule(root, label_scheme=scheme).discover(root)  # type: ignore[arg-type]


def ids(root: Path) -> list[str]:
    found = survey(root)
    assert found.problems == ()
    assert found.notes == ()
    return [case.id for case in found.cases]


def problem(root: Path) -> str:
    (only,) = survey(root).problems
    return str(only)


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as error:
        survey(root)
    return str(error.value)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return write_release(tmp_path, "2021")


# Layouts.


def test_class_facts_without_disk() -> None:
    module = BraTSDataModule(Path("/nowhere"))
    assert module.num_classes == len(module.class_names) == len(module.class_keys) == 4
    assert module.in_channels == 4
    assert module.unions == {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("release", RELEASES)
def test_layouts_and_levels(tmp_path: Path, release: str, suffix: str) -> None:
    root = write_release(tmp_path / "archive", release, suffix)
    expected = sorted(path.rpartition("/")[2] for path in RELEASES[release][1].split())
    for level in (root, root.parent, root.parent.parent):
        assert ids(level) == expected
        assert survey(level).official_test == frozenset()


@pytest.mark.parametrize("release", RELEASES)
def test_channels_are_in_one_order(tmp_path: Path, release: str) -> None:
    module = BraTSDataModule(write_release(tmp_path, release))
    for case in module.discover(tmp_path).cases:
        raw, problems = module.preparer.read(case)
        assert problems == []
        assert raw is not None
        assert raw.image[:, 4, 5, 5].tolist() == [100, 200, 300, 400]


def test_time_points_are_of_one_patient(tmp_path: Path) -> None:
    cases = survey(write_release(tmp_path, "2023")).cases
    assert [case.patient for case in cases] == ["BraTS-GLI-00000", *["BraTS-GLI-00002"] * 2]
    older = survey(write_release(tmp_path / "older", "2018")).cases
    assert all(case.patient == case.id for case in older)


def test_all_files_in_one_folder(tmp_path: Path) -> None:
    for name in ("BraTS2021_00000", "BraTS2021_00002"):
        write_case(tmp_path / "files", name=name)
    assert ids(tmp_path / "files") == ids(tmp_path) == ["BraTS2021_00000", "BraTS2021_00002"]


def test_names_of_one_s_own(tmp_path: Path) -> None:
    write_case(tmp_path / "Nr 1 (ä)" / "scan", name="paciente uno")
    write_case(tmp_path / "Nr 2" / "scan", name="paciente dos")
    assert ids(tmp_path) == ["paciente dos", "paciente uno"]


def test_a_folder_that_links_to_the_one_above(tmp_path: Path) -> None:
    root = write_release(tmp_path, "2021")
    (root / "BraTS2021_00000" / "up").symlink_to("..")
    assert ids(root) == ["BraTS2021_00000", "BraTS2021_00002"]
    (root / "again").symlink_to("BraTS2021_00002")
    assert ids(root) == ["BraTS2021_00000", "BraTS2021_00002"]


def test_misnamed_label(tmp_path: Path) -> None:
    """Case 355 of a copy of BraTS 2020."""
    root = write_release(tmp_path, "2020", ".nii")
    folder = root / "BraTS20_Training_355"
    label = folder / "BraTS20_Training_355_seg.nii"
    label.rename(folder / "W39_1998.09.19_Segm.nii")
    found = survey(root)
    assert found.problems == ()
    assert [case.id for case in found.cases] == ["BraTS20_Training_001", "BraTS20_Training_355"]
    assert found.cases[1].label == folder / "W39_1998.09.19_Segm.nii"
    (note,) = found.notes
    assert "BraTS20_Training_355: its one file of another name, W39" in note
    shutil.copy(folder / "W39_1998.09.19_Segm.nii", folder / "W40.nii")
    assert "BraTS20_Training_355_seg.nii" in problem(root)


def test_lists_and_debris_are_no_cases(flat: Path) -> None:
    (flat / "name_mapping.csv").write_text("Grade,BraTS_2017_subject_ID\n")
    (flat / ".BraTS2021_00009").mkdir()
    for path in list(flat.rglob("*.nii.gz")):
        path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
    assert ids(flat) == ["BraTS2021_00000", "BraTS2021_00002"]


def test_validation_data_are_left_out(flat: Path) -> None:
    other = flat.parent / "RSNA_ASNR_MICCAI_BraTS2021_ValidationData"
    write_case(other / "BraTS2021_00001", endings=OLD[:4])
    found = survey(flat.parent)
    assert found.problems == ()
    assert found.patients == {"BraTS2021_00000", "BraTS2021_00002"}
    assert found.notes == (f"{other} has no label files: its 1 cases are left out.",)
    assert "must contain cases with labels, found 1 cases without any" in refusal(other)


def test_one_grade_alone_is_said(tmp_path: Path) -> None:
    root = write_release(tmp_path, "2019")
    found = survey(root / "HGG")
    assert [case.id for case in found.cases] == ["BraTS19_CBICA_APK_1"]
    assert found.notes == (f"only {root / 'HGG'} is read; {root} contains LGG as well.",)


# What must not be.


def test_missing_and_empty(tmp_path: Path) -> None:
    assert "found no such folder" in refusal(tmp_path / "nowhere")
    text = refusal(tmp_path)
    assert "BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz" in text
    assert "found an empty folder" in text
    (tmp_path / "BraTS2021_Training_Data.tar").touch()
    assert "BraTS2021_Training_Data.tar is still packed: unpack it." in refusal(tmp_path)
    assert "found a file" in refusal(tmp_path / "BraTS2021_Training_Data.tar")


def test_wrong_level(flat: Path) -> None:
    text = refusal(flat / "BraTS2021_00000")
    assert f"This is one case; give {flat}." in text
    deep = flat.parent / "a/b/c/d"
    deep.mkdir(parents=True)
    flat.rename(deep / flat.name)
    assert "one up to 4 levels above" in refusal(flat.parent)
    assert ids(deep) == ids(deep.parent) == ["BraTS2021_00000", "BraTS2021_00002"]


@pytest.mark.parametrize(("release", "ending"), [("2021", "_t1ce"), ("2023", "-t1c")])
def test_missing_modality(tmp_path: Path, release: str, ending: str) -> None:
    root = write_release(tmp_path, release)
    (gone,) = (path for path in root.rglob(f"*{ending}.nii.gz") if "00000" in path.name)
    gone.unlink()
    names = ", ".join(end[1:] for end in (OLD if ending[0] == "_" else NEW)[:4])
    text = problem(root)
    assert text.startswith(f"{survey(root).problems[0].case}: a case must have ")
    others = names.replace(f"{ending[1:]}, ", "")
    assert f"{names} and seg, found {others}, seg (" in text
    assert f"({gone})" in text
    assert "leave the patient out with a split file" in text
    assert survey(root).problems[0].case in survey(root).patients


def test_missing_label_and_empty_folder(flat: Path) -> None:
    (flat / "BraTS2021_00002/BraTS2021_00002_seg.nii.gz").unlink()
    (flat / "BraTS2021_00003").mkdir()
    found = survey(flat)
    assert [case.id for case in found.cases] == ["BraTS2021_00000"]
    assert [fault.case for fault in found.problems] == ["BraTS2021_00002"] + ["BraTS2021_00003"] * 5
    assert "found none of them" in str(found.problems[-1])


def test_same_case_twice(tmp_path: Path) -> None:
    root = write_release(tmp_path, "2018")
    shutil.copytree(root / "HGG/Brats18_2013_2_1", root / "LGG/Brats18_2013_2_1")
    text = problem(root)
    assert text.startswith("Brats18_2013_2_1: a case must be there once, found Brats18_2013_2_1")
    assert "here and in HGG/Brats18_2013_2_1 (" in text
    assert str(root / "LGG/Brats18_2013_2_1") in text


def test_two_releases_share_patients(tmp_path: Path) -> None:
    write_release(tmp_path, "2020")
    write_release(tmp_path, "2021")
    text = problem(tmp_path)
    assert "the same patients have other names in each" in text
    assert "found 2 cases of BraTS 2020 and 2 cases of BraTS 2021" in text
    names = ("BraTS20_Training_001", "BraTS20_Training_355", "BraTS2021_00000")
    split = {part: [name] for part, name in zip(("train", "val", "test"), names, strict=True)}
    (tmp_path / "split.json").write_text(json.dumps(split))
    division = Division(tmp_path / "split.json")
    with pytest.raises(DataError, match="must contain one release"):
        BraTSDataModule(tmp_path, division=division).prepare(progress=False)


# Labels.


def classes(root: Path, scheme: str) -> list[int] | str:
    """The classes at the labeled voxels of the first case, or what is wrong with it."""
    module = BraTSDataModule(root, label_scheme=scheme)  # type: ignore[arg-type]
    raw, problems = module.preparer.read(module.discover(root).cases[0])
    if raw is None:
        return str(problems[0])
    assert raw.label is not None
    return raw.label[4, 5, 1:4].tolist()


@pytest.mark.parametrize(
    ("endings", "values", "scheme", "expected"),
    [
        (OLD, (1, 2, 4), "by_name", [1, 2, 3]),
        (OLD, (1, 2, 4), "et4", [1, 2, 3]),
        (NEW, (1, 2, 4), "et4", [1, 2, 3]),
        (NEW, (1, 2, 3), "by_name", [1, 2, 3]),
        (OLD, (1, 2, 3), "et3", [1, 2, 3]),
        (OLD, (1, 2, 3), "nnunet", [2, 1, 3]),
        (NEW, (2, 3, 4), "et3_cavity", [2, 3, 4]),
        (OLD, (1, 2, 3), "by_name", "among 0, 1, 2, 4, found 3 (1 voxels)|label_scheme et3;"),
        (NEW, (2, 3, 4), "by_name", "among 0, 1, 2, 3, found 4 (1 voxels)|scheme et3_cavity;"),
        (OLD, (1, 2, 4), "nnunet", "among 0, 1, 2, 3, found 4 (1 voxels)|label_scheme et4, et3"),
        (NEW, (1, 2, 7), "et3_cavity", "among 0, 1, 2, 3, 4, found 7|label_scheme et4, et3"),
    ],
)
def test_label_values(
    tmp_path: Path, endings: tuple[str, ...], values: Any, scheme: str, expected: list[int] | str
) -> None:
    write_case(tmp_path / "A", endings=endings, values=values)
    write_case(tmp_path / "B", endings=endings, values=(1, 2))
    found = classes(tmp_path, scheme)
    if isinstance(expected, str):
        assert isinstance(found, str)
        assert all(part in found for part in expected.split("|"))
    else:
        assert found == expected


def test_the_cavity_is_a_fifth_class() -> None:
    module = BraTSDataModule(Path("/nowhere"), label_scheme="et3_cavity")
    assert module.num_classes == len(module.class_names) == len(module.class_keys) == 5
    assert module.class_names[4] == "resection cavity"
    assert module.unions["WT"] == (1, 2, 3)
    assert BraTSDataModule.num_classes == 4


def test_values_of_predictions_are_the_file_s(tmp_path: Path) -> None:
    write_case(tmp_path / "in" / "scan", endings=OLD[:4])
    for scheme, values in (("et3", (0, 1, 2, 3)), ("nnunet", (0, 2, 1, 3))):
        module = BraTSDataModule(label_scheme=scheme, predict_input=tmp_path / "in")  # type: ignore[arg-type]
        assert module.label_values("scan") == values


def test_unknown_scheme() -> None:
    with pytest.raises(ValueError, match=r"label_scheme must be one of by_name, .* got 'et5'"):
        BraTSDataModule(label_scheme="et5")  # type: ignore[arg-type]


def test_schemes_have_caches_and_fingerprints_of_their_own(tmp_path: Path) -> None:
    for number in range(3):
        write_case(tmp_path / "data" / f"case{number}", values=(1, 2))
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["case0"], "val": ["case1"], "test": ["case2"]}))
    marks = set()
    for scheme in ("et4", "et3", "nnunet"):
        settings: Any = {"cache_dir": tmp_path / "cache", "label_scheme": scheme}
        module = BraTSDataModule(tmp_path / "data", division=Division(split), **settings)
        module.prepare(progress=False)
        marks |= {module.fingerprint, module.preparer.cache.folder}
    assert len(marks) == 6


# The phantom.


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("brats") / "phantom"
    counts, settings = {"train": 1, "val": 1, "test": 1}, PhantomSettings(coarsen=2.5)
    write_brats_phantom(root, patients=counts, settings=settings, seed=3, workers=1, progress=False)
    return root


@pytest.fixture
def copy(phantom: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(phantom, tmp_path / "phantom"))


@pytest.mark.parametrize("root", ["phantom", "./phantom/../phantom", "."])
def test_posteriors_are_no_cases(copy: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    """Their folders are named like cases, and contain no images; nor is a phantom hidden below."""
    monkeypatch.chdir(copy.parent)
    module = BraTSDataModule(Path(root))
    if root == ".":
        with pytest.raises(DataError, match="a phantom must be given by its own folder, and alone"):
            module.cases("train")
    else:
        assert len(module.cases("train")) == 1
        assert module.discover(Path(root)).notes == ()
        assert module.origin == "phantom"


@pytest.mark.parametrize("release", ["2018", "2019", "2020", "2023", "2024"])
def test_every_release_of_the_phantom(tmp_path: Path, release: str) -> None:
    quirks = {"cavity": 1.0, "second visit": 0.5, "low grade": 0.5}
    settings = PhantomSettings(release=release, coarsen=3.5, quirks=quirks)
    counts = {"train": 2, "val": 1, "test": 1}
    write_brats_phantom(
        tmp_path / "p", patients=counts, settings=settings, workers=1, progress=False
    )
    scheme: Any = "et3_cavity" if release == "2024" else "by_name"
    module = BraTSDataModule(tmp_path / "p", label_scheme=scheme, cache_dir=tmp_path / "cache")
    assert module.check(progress=False) == []
    assert module.origin == "phantom"
    module.prepare(progress=False)
    assert len({case.patient for part in module.parts.values() for case in part}) == 4
    assert len(module.discover(tmp_path / "p").cases) == (6 if release >= "2023" else 4)
    batch = next(iter(module.test_dataloader()))
    assert batch["posterior"].shape[1] == module.num_classes
    if release == "2024":
        plain = BraTSDataModule(tmp_path / "p", cache_dir=tmp_path / "cache")
        assert any("label_scheme et3_cavity" in text.fix for text in plain.check(progress=False))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, fault in FAULTS.items()
        if "brats" in fault.datasets
        and (f"brats {name}" in REFUSED or "flare" not in fault.datasets)
    ],
)
def test_faults_of_its_own(copy: Path, name: str) -> None:
    """Those of any dataset's files are FLARE's to test."""
    inject(name, next(iter(phantom_cases(copy).values())))
    problems = BraTSDataModule(copy, cache_dir=copy / "cache").check(progress=False)
    if FAULTS[name].harmless:
        assert problems == []
    else:
        assert {fault.case for fault in problems} == {"BraTS2021_00000"}
        assert_told(name, "brats", problems)


def test_from_files_to_scores(phantom: Path, tmp_path: Path) -> None:
    """Cropped to the brain, z-scored over it, background outside masked as an option."""
    preprocessing = Preprocessing(normalize="zscore_nonzero", crop_above=0.0)
    settings: Any = {"cache_dir": tmp_path / "cache", "preprocessing": preprocessing}
    module = BraTSDataModule(phantom, **settings)
    module.prepare(progress=False)
    batch = next(iter(module.test_dataloader()))
    inside = batch["image"][0] != 0
    for channel, seen in zip(batch["image"][0], inside, strict=True):
        assert channel[seen].mean() == pytest.approx(0, abs=1e-3)
        assert channel[seen].std() == pytest.approx(1, abs=1e-3)
    brain = inside.any(0)
    assert 0.3 < brain.float().mean() < 1
    for axis in range(3):
        edges = brain.movedim(axis, 0)
        assert edges[0].any()
        assert edges[-1].any()
    masked = BraTSDataModule(phantom, mask_background=True, **settings)
    label = next(iter(masked.test_dataloader()))["label"][0]
    assert torch.equal(label != -100, brain)
    assert torch.equal(label[brain], batch["label"][0][brain])
    truth = masked.truth(module.cases("test")[0])
    assert truth["label"].shape == (1, 32, 38, 29)
    assert int((truth["label"] != -100).sum()) == int(brain.sum())


def test_check_data_names_modalities(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its intensities are those of the brain: without its background, no minimum is 0."""
    words = ["--data-root", str(phantom), "--data.init_args.cache_dir", str(tmp_path / "cache")]
    words += ["--sheet", str(tmp_path / "sheet.png")]
    assert main(["check-data", "--dataset", "brats", *words]) == 0
    shown = capsys.readouterr().out.splitlines()
    for name in BraTSDataModule.modalities:
        (row,) = (line for line in shown if f"{name}, minimum" in line)
        assert float(row.split("│")[2]) > 0
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize("endings", [OLD[:4], NEW[:4]])
def test_files_to_predict(phantom: Path, tmp_path: Path, endings: tuple[str, ...]) -> None:
    write_case(tmp_path / "in" / "scan", endings=endings)
    module = BraTSDataModule(
        phantom, predict_input=tmp_path / "in", preprocessing=Preprocessing(crop_above=0.0)
    )
    (batch,) = module.predict_dataloader()
    assert batch["case"] == ["scan"]
    assert module.label_values("scan") == (0, 1, 2, 4 if endings == OLD[:4] else 3)
    assert batch["image"].shape == (1, 4, 6, 6, 6)
    writer = PredictionWriter(output=tmp_path)
    enhancing = torch.tensor([0.0, 0, 0, 5]).view(1, 4, 1, 1, 1).expand(1, 4, 6, 6, 6)
    trainer: Any = SimpleNamespace(datamodule=module, world_size=1)
    writer.write_on_batch_end(trainer, None, enhancing, None, batch, 0, 0)  # type: ignore[arg-type]
    written = np.asarray(nib.load(tmp_path / "scan.nii.gz").dataobj)
    assert np.unique(written).tolist() == [0, 4 if endings == OLD[:4] else 3]
    logits, affine = module.restore("scan", torch.zeros(4, 6, 6, 6))
    assert logits.shape == (4, *SHAPE)
    np.testing.assert_allclose(affine, AFFINE)
    (tmp_path / "in" / "scan" / f"scan{endings[2]}.nii.gz").unlink()
    with pytest.raises(DataError, match=r"one file \*_t2\.nii\.gz, found 0"):
        next(iter(module.predict_dataloader()))
