"""README and docs: every code block runs, and the tables are those of their commands."""

import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from experiments import readme
from experiments.results import BENCHMARKS, Benchmark, results_table
from mbls.benchmark import parse_losses
from mbls.cli import COMMANDS, main
from mbls.commands.benchmark import DEFAULT_LOSSES
from mbls.config.choices import choices
from tests.docs_blocks import PAGES, ROOT, Block, blocks
from tests.report.fake import write_run
from tests.test_makefile import table as variables

ALL = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in ALL if block.language == "sh"]
SHRUNKEN = {
    "make benchmark": "make benchmark LOSSES='ce mbls' SEEDS=0 PRESET=small ROOT=runs/small"
}
LANGUAGES = {"python", "sh", "yaml", "bibtex", "mermaid", ""}  # without one: a tree, nothing to run


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {block.language for block in ALL} <= LANGUAGES
    assert {block.language for block in ALL} >= {"python", "sh", "yaml"}
    for page in PAGES:  # the pattern finds what a reader sees
        assert page.read_text().count("\n```") == 2 * len(blocks(page)), page.name


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "python" for b in blocks(page))],
    ids=lambda page: page.stem,
)  # fmt: skip
def test_python_blocks_run_in_their_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "docs"}
    for block in blocks(page):
        if block.language == "python":
            assert block.needs is None, "Python blocks run everywhere"
            exec(compile(block.code, block.where, "exec"), namespace)


@pytest.mark.parametrize(
    "block", [b for b in ALL if b.language == "yaml"], ids=lambda block: block.where
)
def test_yaml_blocks_are_choices(block: Block) -> None:
    content = yaml.safe_load(block.code)
    assert len(content) == 1
    assert set(content) <= {"data", "model", "trainer"}
    data, loss = content.get("data"), (content.get("model") or {}).get("loss")
    if data and not data["class_path"].startswith("my_"):  # the reader's own
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(LightningDataModule, "data")
        parser.parse_object({"data": data})
    if loss and not loss["class_path"].startswith("my_"):
        module, _, name = loss["class_path"].rpartition(".")
        getattr(importlib.import_module(module), name)(**loss["init_args"])


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.where)
def test_shell_blocks_are_commands_that_exist(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each `make` line becomes commands, whose arguments are checked without running them."""
    monkeypatch.chdir(ROOT)
    for command in block.commands():
        args = shlex.split(command)
        if block.needs is not None and args[0] not in ("make", "mbls"):
            continue  # such as commands of a cluster
        assert args[0] in ("make", "mbls", "python"), command
        for line in made(args) if args[0] == "make" else [command]:
            check_arguments(line)


def made(args: list[str]) -> list[str]:
    """The commands that a `make` line runs, also where the tests were started by make."""
    command = ["make", "-n", "--no-print-directory", "-o", "install", *args[1:]]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\\\n", " ").splitlines()


def check_arguments(line: str) -> None:
    args = shlex.split(line)
    own = any(re.search(r"(^| )\w+\.yaml", arg) for arg in args)  # a file of the reader's
    if Path(args[0]).name == "python" and args[1] == "-m":
        assert importlib.util.find_spec(args[2]), line
    if Path(args[0]).name != "mbls":
        return
    command, *rest = args[1:]
    assert command in COMMANDS, line
    if own:
        return
    if command == "train" and "--resume" not in rest:
        assert main(["train", *rest, "--dry-run"]) == 0
    elif command == "benchmark":
        assert main(["benchmark", *rest, "--list"]) == 0


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    "page", dict.fromkeys(block.page for block in SHELL if block.needs is None),
    ids=lambda page: page.stem,
)  # fmt: skip
def test_shell_blocks_run(page: Path, tmp_path: Path) -> None:
    """In a copy of the checkout whose settings are shrunken, in their order."""
    home = shrunken_checkout(tmp_path)
    env = os.environ | {"PYTHONPATH": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    for block in SHELL:
        if block.page != page or block.needs is not None:
            continue
        for command in block.commands():
            ready = SHRUNKEN.get(command, command).replace("make ", "make -o install ", 1)
            done = subprocess.run(
                ready, shell=True, cwd=home, env=env, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{block.where}: {command}\n{done.stdout}\n{done.stderr}"


def shrunken_checkout(folder: Path) -> Path:
    """The files of the project, with phantoms of a few patients and networks of a few weights."""
    home = folder / "checkout"
    home.mkdir()
    for name in ("Makefile", "mbls", "datamodules", "tests"):
        (home / name).symlink_to(ROOT / name)
    (home / ".venv").symlink_to(Path(sys.prefix))
    shutil.copytree(ROOT / "experiments", home / "experiments")
    configs = home / "experiments" / "configs"
    for name in ("data/acdc.quick", "data/acdc.small"):
        change(configs / f"{name}.yaml", "data", phantom_patients={"train": 2, "val": 1, "test": 2})
    for name in ("quick", "small"):
        path = configs / "trainer" / f"{name}.yaml"
        content = yaml.safe_load(path.read_text())
        content["trainer"]["max_epochs"] = 1
        path.write_text(yaml.safe_dump(content))
    network = {"channels": [4, 8], "strides": [2], "num_res_units": 0}
    for name in ("unet", "unet.small"):
        change(configs / f"network/{name}.yaml", "model", "network", **network)
    return home


def change(path: Path, *keys: str, **settings: object) -> None:
    content = yaml.safe_load(path.read_text())
    inner = content
    for key in keys:
        inner = inner[key]
    inner["init_args"].update(settings)
    path.write_text(yaml.safe_dump(content))


def test_blocks_that_do_not_run_name_a_missing_resource() -> None:
    """Real data, the reader's own files, a cluster, time."""
    reasons = [block.needs for block in SHELL if block.needs is not None]
    needs = ("data", "your own", "cluster", "GPU", "hours", "minutes", "tests")
    assert all(any(need in reason for need in needs) for reason in reasons)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_variables_and_choices_in_tables_exist(page: Path) -> None:
    known = variables()
    for command in re.findall(r"`make ([^`]*)`", page.read_text()):
        target = command.split()[0]
        assert target in known, command
        for kind, variable in (("loss", "LOSS"), ("network", "NETWORK"), ("data", "DATASET")):
            for name in re.findall(rf"\b{variable}=([\w.]+)", command):
                assert name.endswith(".yaml") or name in choices(kind), command
        for variable in re.findall(r"\b([A-Z_]+)=", command):
            assert variable in (*known[target], "ARGS", "PYTHON"), f"{command}: {variable}"
        for losses in re.findall(r'LOSSES="([^"]*)"', command):
            if ".yaml" not in losses:
                parse_losses(losses)


@pytest.mark.parametrize(("file", "marker"), readme.TABLES)
def test_generated_tables_are_current(file: str, marker: str) -> None:
    text = (ROOT / file).read_text()
    assert readme.section(text, marker) == readme.TABLES[file, marker](), "run `make readme`"


def test_the_table_of_losses_names_each_with_its_file() -> None:
    rows = readme.losses_table().splitlines()[2:]
    assert len(rows) == len(choices("loss"))
    assert (
        "| `mbls` | `CE + alpha * mean_vk max(0, max_j z_j - z_k - margin)` |"
        in rows[choices("loss").index("mbls")]
    )
    for row in rows:
        assert (ROOT / "mbls" / "losses" / re.findall(r"`([\w/]+\.py)`", row)[-1]).is_file()
        assert len(re.findall(r"(?<!\\)\|", row)) == 6


def check_benchmark(table: str, names: list[str]) -> None:
    """It has a row for each loss, numbers with spreads, and commands."""
    head, rule, *rows, empty, caption = table.splitlines()
    assert head.split(" | ")[0] == "| loss"
    assert set(rule) == {"|", "-"}
    assert not empty
    losses = [re.match(r"\| `(\w+)` \|", row) for row in rows]
    assert [found and found[1] for found in losses] == names
    for row in rows:
        *numbers, command = row.strip("|").split(" | ")[1:]
        assert len(numbers) == len(readme.COLUMNS)
        assert all(re.fullmatch(r"-?\d\.\d{4} ± \d\.\d{4}", number.strip()) for number in numbers)
        assert main(["benchmark", "--list", *made_benchmark(command.strip(" `"))]) == 0
    assert "PHANTOM" in caption
    assert re.search(r"Mean ± sd of \d+ seeds", caption)


def made_benchmark(command: str) -> list[str]:
    (line,) = made(shlex.split(command))
    return shlex.split(line)[2:]


def test_the_results_of_the_benchmark_have_their_form() -> None:
    table = readme.section((ROOT / "docs/results.md").read_text(), "benchmark")
    if table == readme.NOT_RUN:
        pytest.skip("the benchmark was not run for this README")
    check_benchmark(table, DEFAULT_LOSSES.split())


def test_the_results_are_those_of_the_runs(tmp_path: Path) -> None:
    for loss in ("ce", "mbls"):
        for seed in (0, 1):
            write_run(tmp_path / "acdc", loss, seed, patients=3)
    table = readme.benchmark_table(tmp_path / "acdc", losses="ce mbls")
    ce = next(line for line in table.splitlines() if line.startswith("| `ce`"))
    tests = [tmp_path / f"acdc/unet-ce/seed{seed}/test/best/metrics.json" for seed in (0, 1)]
    values = [yaml.safe_load(test.read_text())["dice"]["mean"]["value"] for test in tests]
    spread = abs(values[0] - values[1]) / 2**0.5
    assert ce.split(" | ")[1] == f"{sum(values) / 2:.4f} ± {spread:.4f}"
    assert "Mean ± sd of 2 seeds; PHANTOM in the layout of ACDC, test set, 6 cases of 3" in table
    check_benchmark(table, ["ce", "mbls"])
    with pytest.raises(AssertionError):
        check_benchmark(table.replace(" ± ", " "), ["ce", "mbls"])
    with pytest.raises(ValueError, match=r"two tested runs of ls, found 0"):
        readme.benchmark_table(tmp_path / "acdc", losses="ce ls")


@pytest.mark.parametrize(
    "benchmark", [b for b in BENCHMARKS if b.file.is_file()], ids=lambda b: b.name
)
def test_kept_results_have_rows_with_intervals_and_commands(benchmark: Benchmark) -> None:
    _, _, *rows, empty, caption = results_table(benchmark).splitlines()
    assert not empty
    assert "95 % interval over patients" in caption
    for row in rows:
        loss, *numbers, command = row.strip("|").split(" | ")
        form = r"(\*\*-?\d\.\d+\*\*|-?\d\.\d+†?) \[-?\d\.\d+, -?\d\.\d+\]"
        assert all(re.fullmatch(form, number) for number in numbers)
        if re.search(r" x\d|\+", loss):  # an ensemble, or calibrated
            assert made(shlex.split(command.strip(" `")))
            continue
        args = made_benchmark(command.strip(" `"))
        assert args[args.index("--losses") + 1] == loss.strip(" `")
        assert main(["benchmark", "--list", *args]) == 0


def test_make_readme_writes_between_the_markers(tmp_path: Path) -> None:
    for file, marker in (*readme.TABLES, ("docs/results.md", "benchmark")):
        page = tmp_path / file
        page.parent.mkdir(exist_ok=True)
        form = (
            "# <{}>\n# </{}>\n" if file == "Makefile" else "a\n<!-- {} -->\nold\n<!-- /{} -->\nc\n"
        )
        with page.open("a") as text:
            text.write(form.format(marker, marker))
    readme.main(["--root", str(tmp_path), "--runs", str(tmp_path / "none")])
    for (file, marker), table in readme.TABLES.items():
        assert readme.section((tmp_path / file).read_text(), marker) == table()
    text = (tmp_path / "docs/results.md").read_text()
    assert "a\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nc\n" in text
    with pytest.raises(ValueError, match="<!-- x --> and <!-- /x -->"):
        readme.section(text, "x")


def test_pages_of_the_site_exist() -> None:
    class Loader(yaml.SafeLoader):
        """Reads Python names of extensions as text."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, name, node: name)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    (api,) = [entry["API"] for entry in site["nav"] if "API" in entry]
    pages = [page for entry in (*site["nav"], *api) for page in entry.values()]
    named = {page for page in pages if isinstance(page, str)}
    assert named == {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
