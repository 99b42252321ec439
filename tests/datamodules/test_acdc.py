"""Finding ACDC's cases in every form of the download, and refusing other forms."""

import shutil
from pathlib import Path

import pytest

from datamodules import ACDCDataModule, DataError
from datamodules.acdc import survey_acdc
from mbls.data import derived_in
from tests.datamodules.conftest import write_patient

IDS = [f"patient{n:03d}_frame{f:02d}" for n in (*range(1, 9), 101, 102) for f in (1, 9)]


def ids(root: Path) -> list[str]:
    survey = survey_acdc(root)
    assert survey.problems == ()
    return [case.id for case in survey.cases]


def test_class_facts_without_disk() -> None:
    module = ACDCDataModule(Path("/nowhere"))
    assert module.num_classes == len(module.class_names) == len(module.class_keys) == 4
    assert module.class_names[0] == "background"
    assert (module.in_channels, module.spatial_dims, module.unions) == (1, 2, {})


def test_levels(acdc: Path) -> None:
    assert ids(acdc) == IDS
    assert ids(acdc.parent) == IDS
    assert survey_acdc(acdc).official_test == {"patient101", "patient102"}


def test_double_folder(acdc: Path) -> None:
    (acdc / "testing").rename(acdc / "inner")
    (acdc / "testing").mkdir()
    (acdc / "inner").rename(acdc / "testing" / "testing")
    assert ids(acdc) == IDS


@pytest.mark.parametrize("suffix", [".nii", ".NII", ".NII.GZ"])
def test_suffixes(tmp_path: Path, suffix: str) -> None:
    for patient in ("training/patient001", "testing/patient101"):
        write_patient(tmp_path / patient, suffix=suffix)
    assert ids(tmp_path) == [f"patient{n}_frame{f}" for n in ("001", "101") for f in ("01", "09")]
    assert survey_acdc(tmp_path).official_test == {"patient101"}


def test_frames_are_those_of_info_cfg(tmp_path: Path) -> None:
    """patient090 has frames 4 and 11; a third frame that Info.cfg does not name is no case."""
    folder = write_patient(tmp_path / "training" / "patient090", frames=(11, 4))
    shutil.copy(folder / "patient090_frame04.nii.gz", folder / "patient090_frame01.nii.gz")
    assert ids(tmp_path) == ["patient090_frame04", "patient090_frame11"]


def test_phases_are_those_of_info_cfg(tmp_path: Path, acdc: Path) -> None:
    """The first frame may be the systolic one."""
    write_patient(tmp_path / "own" / "training" / "patient001", frames=(9, 2))
    cases = {case.id: case.phase for case in survey_acdc(tmp_path / "own").cases}
    assert cases == {"patient001_frame02": "ES", "patient001_frame09": "ED"}
    module = ACDCDataModule(acdc)
    for one in module.quantities:
        for term in (*one["sum"], *one.get("over", ())):
            key, phase = term.split()
            assert key in module.class_keys
            assert phase in cases.values()
    assert derived_in(module, "train").get("quantities") == list(module.quantities)
    assert derived_in(module, "test")["phases"] == ["ED", "ES"] * 2
    assert derived_in(object(), "test") == {}


def test_older_download_without_test_labels(acdc: Path, module, capsys) -> None:
    root = acdc.rename(acdc.with_name("copy [old]"))  # which rich would take for a style
    for path in root.glob("testing/*/*_gt.nii.gz"):
        path.unlink()
    survey = survey_acdc(root)
    assert survey.problems == ()
    assert survey.official_test == frozenset()
    assert [case.id for case in survey.cases] == IDS[:-4]
    assert "no label files (an older download): its 2 patients are left out" in survey.notes[0]
    built = module(root, test_fraction=0.3)
    assert built.check(progress=False) == []
    err = " ".join(capsys.readouterr().err.split())
    assert "2 patients are left out" in err
    assert "[old]" in err
    assert {name[:10] for name in built.cases("test")} < {f"patient{n:03d}" for n in range(1, 9)}


def test_phantom_root_has_posteriors(acdc: Path, module) -> None:
    assert {case.posterior for case in survey_acdc(acdc).cases} == {None}
    assert module().origin == "real"
    (acdc.parent / "phantom.json").write_text("{}")
    case = survey_acdc(acdc).cases[0]
    assert case.posterior == acdc.parent / "posterior" / "patient001" / "patient001_frame01.npz"
    assert module().origin == module(acdc.parent).origin == module(None).origin == "phantom"


def message(root: Path) -> str:
    with pytest.raises(DataError) as error:
        survey_acdc(root)
    return str(error.value)


def test_missing_and_empty(tmp_path: Path) -> None:
    assert "found no such folder" in message(tmp_path / "nowhere")
    text = message(tmp_path)
    assert "training/patient001/Info.cfg" in text
    assert "found an empty folder" in text
    (tmp_path / "training").mkdir()
    assert "found training/ (" in message(tmp_path)
    (tmp_path / "file").touch()
    assert "found a file" in message(tmp_path / "file")


def test_wrong_level(acdc: Path) -> None:
    text = message(acdc / "training")
    assert "found patient001/, patient002/" in text
    assert f"one level too deep; give {acdc}." in text
    assert f"This is one patient; give {acdc}." in message(acdc / "training" / "patient001")
    text = message(acdc.parent.parent)
    assert f"found ACDC/ ({acdc.parent.parent})" in text
    assert f"above the data; give {acdc}." in text


def problem(root: Path) -> str:
    (only,) = survey_acdc(root).problems
    return str(only)


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (None, ("a patient must have an Info.cfg", "patient003_frame01.nii.gz")),
        ("ED: 2\nES: 9\n", ("the ED frame that Info.cfg names", "patient003_frame02.nii.gz")),
        ("ED: 1\n", ("ES as a frame number", "found nothing (")),
        ("ED: 1\nES: x\n", ("ES as a frame number", "found x (")),
        ("ED: 1\nES: 1\n", ("ED and ES must be two frames", "found 1 for both")),
    ],
)
def test_faults_of_info_cfg(acdc: Path, content: str | None, facts: tuple[str, ...]) -> None:
    info = acdc / "training/patient003/Info.cfg"
    info.unlink() if content is None else info.write_text(content)
    text = problem(acdc)
    assert text.startswith("patient003: ")
    assert all(fact in text for fact in facts)
    assert "patient003" in survey_acdc(acdc).patients


@pytest.mark.parametrize(
    "content",
    [
        b"ED: 1\r\nES: 9\r\nGroup: DCM\r\n",
        b"\xef\xbb\xbfED: 1\nES: 9",
        b"\n  ED :01  \n\n ES:9\nGroup: \xff\n",
    ],
    ids=["windows", "byte order mark", "spaces"],
)
def test_info_cfg_from_other_editors(acdc: Path, content: bytes) -> None:
    (acdc / "training/patient003/Info.cfg").write_bytes(content)
    assert ids(acdc) == IDS


def test_info_cfg_that_may_not_be_read(acdc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> dict[str, str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("datamodules.acdc.read_info", refuse)
    problems = survey_acdc(acdc).problems
    assert len(problems) == 10
    assert "Info.cfg must be readable, found Permission denied" in str(problems[0])


@pytest.mark.parametrize("part", ["training/patient003", "testing/patient101"])
def test_label_missing(acdc: Path, part: str) -> None:
    folder = acdc / part
    (folder / f"{folder.name}_frame09_gt.nii.gz").unlink()
    assert "the ES frame must have a label file" in problem(acdc)


def test_patient_in_training_and_testing(acdc: Path) -> None:
    shutil.copytree(acdc / "training/patient003", acdc / "testing/patient003")
    assert problem(acdc).startswith("patient003: a patient must be in training/ or in testing/")


def test_macos_debris_is_no_patient(acdc: Path) -> None:
    (acdc / "training" / "._patient001").touch()
    (acdc / "training" / "patient_notes.txt").touch()
    assert ids(acdc) == IDS
    for path in acdc.glob("testing/*/*_gt.nii.gz"):
        path.rename(path.with_name(f"._{path.name}"))
    assert ids(acdc) == IDS[:-4]
