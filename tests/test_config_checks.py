"""Warnings before a run starts."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mbls.config.checks import warn_of_changed_data, warn_of_trained_patients


@pytest.mark.parametrize(
    ("root", "patients", "warned"),
    [("/one", ["c", "b", "b"], "1 of the test patients"), ("/one", ["c"], ""), ("/two", ["b"], "")],
)
def test_test_on_trained_patients_warns(
    root: str, patients: list[str], warned: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """With another root they are of another site, even with the same names."""
    data: Any = SimpleNamespace(patients=lambda part: patients)
    given = {"init_args": {"root": root}}
    warn_of_trained_patients(tmp_path, data, given)  # a folder of no run
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"root": "/one"}}}))
    (tmp_path / "run.json").write_text(json.dumps({"trained_on": ["a", "b"]}))
    warn_of_trained_patients(tmp_path, data, given)
    printed = capsys.readouterr().out
    assert warned in printed
    assert bool(printed) == bool(warned)


@pytest.mark.parametrize(
    ("split", "fingerprint", "warned"),
    [(None, "new", True), (None, "old", False), ("theirs.json", "new", False)],
)
def test_a_run_whose_own_data_have_changed_is_warned_of(
    split: str | None, fingerprint: str, warned: bool, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Another split is other data, on purpose."""
    data: Any = SimpleNamespace(fingerprint=fingerprint)
    given = {"init_args": {"split": split}}
    warn_of_changed_data(tmp_path, data, given)  # a folder of no run
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"split": None}}}))
    (tmp_path / "run.json").write_text(json.dumps({"data_fingerprint": "old"}))
    warn_of_changed_data(tmp_path, data, given)
    printed = capsys.readouterr().out
    assert all(fact in printed for fact in ("old", "new", str(tmp_path))) == warned
    assert bool(printed) == warned
