"""The Makefile: variables become options, and one that a target does not know is refused."""

import os
import re
import subprocess

import pytest

from mbls.config.options import OPTIONS, parser
from tests.processes import MBLS, ROOT

NEEDED = {
    "evaluate": ["RUN=r"],
    "predict": ["RUN=r", "INPUT=i", "OUTPUT=o"],
    "audit": ["PREDICTIONS=p"],
}
SWITCHES = {option.name.upper() for option in OPTIONS if option.type is bool}


def make(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Print what make would run, also where the tests were started by make."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "-n", "--no-print-directory", "-o", "install", *args],
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
    ("args", "message"),
    [
        ("train LOS=ce", "LOS is no variable of train. Did you mean LOSS"),
        ("train loss=ce", "loss is no variable of train. Did you mean LOSS"),
        ("benchmark LOSS=ce", "LOSS is no variable of benchmark (but of train slurm)"),
        ("evaluate RUN=r EPOCHS=3", "EPOCHS is no variable of evaluate (but of train slurm"),
        ("lint FIX=1", "FIX is no variable of lint."),
        ("data report RUN=r", "RUN is no variable of data report (but of"),
        ("LOS=ce", "LOS is no variable of help"),
    ],
)
def test_a_variable_that_a_target_does_not_know_is_refused(args: str, message: str) -> None:
    done = make(*args.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert not done.stdout


def test_variables_of_the_environment_and_of_other_makefiles_are_not_refused() -> None:
    assert make("train", LOS="ce").returncode == 0
    assert make("train", MAKELEVEL="1", MAKEFLAGS=" -- LOS=ce").returncode == 0
    for given in ("PYTHON=python3.12", "ARGS=-x", "SHELL=/bin/sh", "MAKEFLAGS=-k"):
        assert make("test", given).returncode == 0, given
    assert "--loss ce" in make("data", "train", "LOSS=ce").stdout.replace('"', "")  # of one of two


def test_each_variable_reaches_the_command_of_its_targets() -> None:
    for target, names in table().items():
        values = {name: "1" if name in SWITCHES else f"of {name}" for name in names}
        done = make(target, *(f"{name}={value}" for name, value in values.items()))
        assert done.returncode == 0, done.stderr
        for name, value in values.items() if target not in ("help", "bench-shared") else ():
            flag = f"--{name.lower().replace('_', '-')} "
            given = flag if name in SWITCHES else value
            assert given in f"{done.stdout} ", f"{target} does nothing with {name}"
        off = make(target, *NEEDED.get(target, []), *(f"{name}=0" for name in SWITCHES & {*names}))
        assert off.stdout == make(target, *NEEDED.get(target, [])).stdout


def test_a_resumed_run_gets_the_given_options_and_no_defaults() -> None:
    plain = make("train", "RUN=r", "RESUME=1").stdout
    assert "--dataset" not in plain
    assert "--loss" not in plain
    assert '--loss "ce"' in make("train", "RUN=r", "RESUME=1", "LOSS=ce").stdout
    assert '--dataset "brats"' in make("train", "RUN=r", "RESUME=1", "DATASET=brats").stdout


def test_each_variable_is_an_option_of_its_command() -> None:
    for option in OPTIONS:
        for command in option.commands.split():
            if command.startswith("cache-"):  # whose parser is that of datamodules
                done = subprocess.run([MBLS, command, "--help"], capture_output=True, text=True)
                assert option.flag in done.stdout
            elif not option.positional:
                assert option.flag in parser(command, None)._option_string_actions


def test_help_names_every_variable() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    for names in table().values():
        for name in names:
            assert re.search(rf"\b{name}\b", shown), name
