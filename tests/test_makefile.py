"""The Makefile: variables become options, and one that a target does not know is refused."""

import os
import re
import subprocess

import pytest

from tests.tiny import ROOT

NEEDED = {"evaluate": ["RUN=r"], "predict": ["RUN=r", "INPUT=i", "OUTPUT=o"]}
SWITCHES = {"RESUME", "DRY", "SYNC_BATCHNORM", "VERBOSE", "PROBABILITIES", "OVERWRITE", "YES",
            "ALL", "NO_CAPTIONS", "NO_PICTURES"}  # fmt: skip
OWN = {"PYTHON", "ARGS", "BIN", "MBLS", "PYTEST"}  # of every target, and the Makefile's


def make(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Print what make would run, also where the tests were started by make."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "-n", "--no-print-directory", "-o", "install", *words],
        cwd=ROOT, env=outside | env, capture_output=True, text=True,
    )  # fmt: skip


def table() -> dict[str, list[str]]:
    """Return the variables of each target, as make expands them."""
    show = "--eval=show: ; $(foreach t,$(TARGETS),$(info $(t) $(vars.$(t))))@:"
    lines = make(show, "show").stdout.splitlines()
    found = {target: names for target, *names in map(str.split, filter(None, lines))}
    found.pop(":", None)
    assert len(found) > 20
    return found


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train LOS=ce", "LOS is no variable of train. Did you mean LOSS?"),
        ("train loss=ce", "loss is no variable of train. Did you mean LOSS?"),
        ("benchmark LOSS=ce", "LOSS is no variable of benchmark (but of train slurm). Did you"),
        ("evaluate RUN=r EPOCHS=3", "EPOCHS is no variable of evaluate (but of train slurm"),
        ("lint FIX=1", "FIX is no variable of lint."),
        ("data report RUN=r", "RUN is no variable of data report (but of"),
        ("LOS=ce", "LOS is no variable of help"),
    ],
)
def test_a_variable_that_a_target_does_not_know_is_refused(words: str, told: str) -> None:
    done = make(*words.split())
    assert done.returncode == 2
    assert told in done.stderr
    assert not done.stdout


def test_variables_of_the_environment_and_of_other_makefiles_are_not_refused() -> None:
    assert make("train", LOS="ce").returncode == 0
    assert make("train", MAKELEVEL="1", MAKEFLAGS=" -- LOS=ce").returncode == 0
    for word in ("PYTHON=python3.12", "ARGS=-x", "SHELL=/bin/sh", "MAKEFLAGS=-k"):
        assert make("test", word).returncode == 0, word
    assert "--loss ce" in make("data", "train", "LOSS=ce").stdout.replace('"', "")  # of one of two


def test_each_variable_of_the_table_reaches_its_target_s_command() -> None:
    for target, names in table().items():
        needed = NEEDED.get(target, [])
        plain = make(target, *needed).stdout
        for name in names:
            value = "1" if name in SWITCHES else "3"
            given = [word for word in needed if not word.startswith(f"{name}=")]
            done = make(target, *given, f"{name}={value}")
            assert done.returncode == 0, done.stderr
            assert done.stdout != plain, f"{target} does nothing with {name}"
            if name in SWITCHES:
                assert make(target, *given, f"{name}=0").stdout == plain, f"{name}=0 of {target}"


def test_a_resumed_run_takes_no_default_and_is_told_what_was_given() -> None:
    plain = make("train", "RUN=r", "RESUME=1").stdout
    assert "--dataset" not in plain
    assert "--loss" not in plain
    assert '--loss "ce"' in make("train", "RUN=r", "RESUME=1", "LOSS=ce").stdout
    assert '--dataset "brats"' in make("train", "RUN=r", "RESUME=1", "DATASET=brats").stdout


def test_each_variable_of_a_recipe_is_in_the_table() -> None:
    """A variable of a recipe, or of what it expands, that the table lacks could not be given."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    inner = dict(re.findall(r"^(\w+) += (.*)$", text, re.MULTILINE))
    known = table()
    for target, body in re.findall(r"^([a-z-]+):(?: .*)?\n((?:\t.*\n)+)", text, re.MULTILINE):
        while expanded := [name for name in inner if f"$({name})" in body]:
            for name in expanded:
                body = body.replace(f"$({name})", inner[name])
        used = set(re.findall(r"\$\(([A-Z_]+)\)", body)) | set(re.findall(r"on,([A-Z_]+)", body))
        assert used - OWN <= set(known.get(target, [])), target


def test_help_names_every_variable() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    for names in table().values():
        for name in names:
            assert re.search(rf"\b{name}\b", shown), name
