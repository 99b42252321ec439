"""Names of choices: files, overlays, and the nearest name for a typo."""

from pathlib import Path

import pytest

from mbls.config.choices import choices, choose, compose, names_of, read_yaml
from mbls.runtime.errors import ChoiceError


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("base", "data/acdc", "data/acdc.paper", "data/brats", "loss/mbls", "loss/ce",
                 "network/unet", "trainer/quick", "trainer/paper"):  # fmt: skip
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    monkeypatch.setenv("MBLS_CONFIGS", str(tmp_path))
    return tmp_path


def test_choice_is_a_file_and_an_overlay_is_none(configs: Path) -> None:
    assert choices("data") == ["acdc", "brats"]
    assert choose("data", "acdc") == configs / "data/acdc.yaml"


def test_typo_gets_the_nearest_name_and_the_list(configs: Path) -> None:
    with pytest.raises(ChoiceError, match=r"dataset 'acdk'. Did you mean 'acdc'.*: acdc, brats"):
        choose("data", "acdk")
    with pytest.raises(ChoiceError, match=r"loss 'qqq'. There are: ce, mbls"):
        choose("loss", "qqq")


def test_file_of_ones_own(configs: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("{}")
    assert choose("loss", str(own)) == own
    with pytest.raises(ChoiceError, match=r"other.yaml: no such file"):
        choose("loss", str(tmp_path / "other.yaml"))


def test_overlay_of_the_preset_follows_its_dataset(configs: Path) -> None:
    def stems(preset: str) -> list[str]:
        files = compose(dataset="acdc", loss="mbls", network="unet", preset=preset)
        return [file.stem for file in files]

    assert stems("paper") == ["base", "paper", "acdc", "acdc.paper", "unet", "mbls"]
    assert stems("quick") == ["base", "quick", "acdc", "unet", "mbls"]


def test_names_come_from_the_files() -> None:
    files = ["c/data/acdc.yaml", "c/data/acdc.quick.yaml", "c/loss/mbls.yaml", "own/x.yaml"]
    assert names_of(files) == {"data": "acdc", "loss": "mbls"}


def test_preset_of_ones_own_takes_the_overlay_of_its_name(configs: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine" / "paper.yaml"
    own.parent.mkdir()
    own.write_text("{}")
    files = compose(dataset="acdc", loss="mbls", network="unet", preset=str(own))
    assert [file.stem for file in files] == ["base", "paper", "acdc", "acdc.paper", "unet", "mbls"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:\n  class_path: [a\n  b: 1\n", r"livers\.yaml, line 3: .*must be YAML"),
        ("data:\n\tclass_path: a\n", r"livers\.yaml, line 2: .*spaces"),
        ("- data\n", r"livers\.yaml must contain settings, .*\['data'\]"),
        ("data: \xff", r"livers\.yaml: .*must be YAML"),
    ],
)
def test_file_that_is_no_yaml_is_named_with_the_line(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "livers.yaml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ChoiceError, match=message):
        read_yaml(file)


def test_file_without_settings_states_none(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}
