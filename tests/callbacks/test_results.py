"""The results of a test on screen: the main numbers or all of them, and the folder."""

from types import SimpleNamespace

import pytest

from mbls.callbacks import TestResults, results
from mbls.cli import main
from tests.evaluation.counted import counted


@pytest.mark.parametrize("verbose", [False, True])
def test_all_numbers_are_printed_with_verbose(verbose, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "[bold]run"
    run = SimpleNamespace(path=folder, tag="best")
    monkeypatch.setattr(results, "folder_callback", lambda trainer: run)
    callback = TestResults(verbose=verbose)
    callback._metrics = counted().summary()
    callback.teardown(None, None, "test")
    err = capsys.readouterr().out
    assert "PHANTOM" in err
    assert f"Run folder: {folder}\nResults:    {folder}/test/best\n" in err
    assert ("noise floor" in err) == verbose
    for name in ("metrics.json", "cases.csv", "--verbose"):
        assert (name in err) != verbose


def test_verbose_reaches_the_results_callback(capsys, monkeypatch, tmp_path):
    argv = ["train", "--dataset", "acdc", "--loss", "ce", "--dry-run"]
    assert main([*argv, "--verbose"]) == 0
    assert "--results.verbose=True" in capsys.readouterr().out
    assert main(argv) == 0
    assert "--results.verbose" not in capsys.readouterr().out
    given = []
    (tmp_path / "config.yaml").write_text("data: {init_args: {}}\nmodel: {}\n")
    monkeypatch.setattr("mbls.commands.evaluate.run_settings", lambda *args: [])
    monkeypatch.setattr("mbls.config.cli.command_line", given.append)
    for more in ([], ["--verbose"]):
        assert main(["evaluate", str(tmp_path), *more]) == 0
    assert "--results.verbose=false" in given[0]  # also of a run that was trained with it
    assert "--results.verbose=True" in given[1]
