"""Sweeps: losses, cells, run folders, states and claims."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mbls.benchmark import Cell, State, claim, log_file, make_cells, parse_losses
from mbls.config.options import parse, parser
from mbls.runtime.errors import ChoiceError, RunFolderError


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("ce", ["ce"]),
        ("mbls:margin=3 mbls:margin=5.0", ["mbls,margin=3", "mbls,margin=5"]),
        ("mbls:alpha=0.30,margin=10", ["mbls,margin=10,alpha=0.3"]),  # in the file's order
        ("mbls:norm=l2 nacl:on=probs", ["mbls,norm=l2", "nacl,on=probs"]),
        ("mbls_dice:base.include_background=True", ["mbls_dice,base.include_background=true"]),
        ("cals:lambda_min=1e-06", ["cals,lambda_min=1e-06"]),
    ],
)
def test_losses_are_read(text: str, labels: list[str]) -> None:
    assert [spec.label for spec in parse_losses(text)] == labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ce mbsl", r"loss 'mbsl'. Did you mean 'mbls'\? There are: "),
        ("mbls:margn=3", r"'margn' of loss mbls. Did you mean 'margin'\? .*alpha"),
        ("mbls_dice:base.includ_background=true", r"Did you mean 'base.include_background'\?"),
        ("ce_dice:zzz=1", r"'zzz' of loss ce_dice. Its file has: "),
        ("mbls:margin", r"mbls:margin cannot be parsed.*loss:setting=value"),
        ("mbls:margin=3,", "cannot be parsed"),
        ("mbls:", "cannot be parsed"),
        ("mbls:margin=wide", r"mbls:margin must be a number \(default: 5.0\), got wide"),
        ("mbls:margin=inf", "mbls:margin must be finite, got inf"),
        ("dice:squared=2", "dice:squared must be true or false, got 2"),
        ("mbls:margin=3,margin=4", "margin is given twice"),
        ("mbls:margin=3 mbls:margin=3.0", "mbls,margin=3 is twice"),
        (" ", "A sweep needs losses"),
    ],
)
def test_loss_that_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ChoiceError, match=message):
        parse_losses(text)


def test_two_files_of_one_name_would_share_a_folder(tmp_path: Path) -> None:
    own = tmp_path / "ce.yaml"
    own.write_text("model: {loss: {class_path: torch.nn.CrossEntropyLoss}}")
    assert parse_losses(str(own))[0].label == "ce"
    with pytest.raises(ChoiceError, match=r"ce and .*ce\.yaml would both be named ce"):
        parse_losses(f"ce {own}")


def test_file_that_is_no_loss(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("data: {}")
    with pytest.raises(ChoiceError, match=r"x\.yaml .* must set model.loss"):
        parse_losses(str(tmp_path / "x.yaml"))


def cells(root: Path, *shared: str, losses: str = "ce mbls:margin=3", **axes) -> list[Cell]:
    return make_cells(
        parse_losses(losses), axes.get("seeds", [0]), axes.get("folds", (None,)),
        train_args=shared or ("--dataset", "acdc"), root=root,
    )  # fmt: skip


def test_cells_have_folders_of_their_own_seed_by_seed(tmp_path: Path) -> None:
    made = cells(tmp_path, seeds=[0, 2], folds=[0, 1])
    assert [str(cell.folder.relative_to(tmp_path)) for cell in made][:3] == [
        "acdc/unet-ce/seed0-fold0",
        "acdc/unet-mbls,margin=3/seed0-fold0",
        "acdc/unet-ce/seed0-fold1",
    ]
    assert len({cell.folder for cell in made}) == len(made) == 8
    assert made[-1].name == "mbls,margin=3 seed 2 fold 1"


def test_network_of_the_folder_is_the_one_that_trains(tmp_path: Path) -> None:
    def network(*args: str) -> str:
        return cells(tmp_path, "--dataset", "acdc", *args)[0].folder.parent.name

    assert network() == "unet-ce"
    assert network("--preset", "paper") == "unet_paper-ce"
    assert network("--dim", "3") == "unet3d-ce"
    assert network("--network", "dynunet") == "dynunet-ce"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--dataset", "acdk"), "Did you mean 'acdc'"),
        (("--dataset", "acdc", "--network", "unett"), "Did you mean 'unet'"),
        (("--dataset", "acdc", "--preset", "quik"), "Did you mean 'quick'"),
        (("--epochs", "1"), "A sweep needs a dataset"),
    ],
)
def test_choice_that_is_wrong(args: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ChoiceError, match=message):
        cells(tmp_path, *args)


def test_arguments_of_a_cell_are_those_of_train(tmp_path: Path) -> None:
    cell = cells(tmp_path, "--dataset", "acdc", "--epochs", "3", seeds=[1], folds=[2])[1]
    command, *args = cell.args()
    options, rest = parse(parser("train", None), args)
    assert command == "train"
    assert (options.dataset, options.loss, options.epochs) == ("acdc", "mbls:margin=3", 3)
    assert (options.seed, options.fold, options.run) == (1, 2, cell.folder)
    assert not rest


def test_states_and_next_arguments(tmp_path: Path) -> None:
    cell = cells(tmp_path)[0]
    assert cell.state() is State.MISSING
    assert cell.next_args() == cell.args()

    cell.folder.mkdir(parents=True)
    (cell.folder / "config.yaml").write_text("")
    assert cell.state() is State.BROKEN
    assert cell.next_args() == cell.args()
    assert cell.state() is State.MISSING  # moved aside with its content
    assert (cell.folder.with_name("seed0.broken") / "config.yaml").is_file()

    (cell.folder / "checkpoints").mkdir(parents=True)
    (cell.folder / "checkpoints/previous.ckpt").write_bytes(b"")
    assert cell.state() is State.STOPPED
    assert cell.next_args() == ["train", "--run", str(cell.folder), "--resume"]

    (cell.folder / "run.json").write_text(json.dumps({"finished": True}))
    assert cell.state() is State.STOPPED  # its test is missing
    (cell.folder / "test/best").mkdir(parents=True)
    results = cell.folder / "test/best/metrics.json"
    results.write_text('{"meta": ')
    (results.with_name("bins.npz")).write_bytes(b"")
    assert cell.state() is State.STOPPED  # its test was killed while it wrote
    for name in ("cases.csv", "reliability.png"):
        (results.with_name(name)).write_bytes(b"")
    assert cell.state() is State.STOPPED
    results.write_text('{"meta": {}}')
    assert cell.state() is State.FINISHED


def test_second_broken_folder_gets_a_number(tmp_path: Path) -> None:
    cell = cells(tmp_path)[0]
    for _ in range(2):
        cell.folder.mkdir(parents=True)
        cell.next_args()
    assert sorted(path.name for path in cell.folder.parent.iterdir()) == [
        "seed0.broken",
        "seed0.broken-2",
    ]


def test_claim_is_exclusive_and_released(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "seed0"
    with claim(folder) as mine:
        assert mine is not None
        mine.write("kept\n")
        with claim(folder) as theirs:
            assert theirs is None
        assert claimed_elsewhere(folder)
    with claim(folder) as again:
        assert again is not None
    assert log_file(folder).read_text() == "kept\n"
    assert not claimed_elsewhere(folder)


def claimed_elsewhere(folder: Path) -> bool:
    """Ask another process."""
    code = (
        "import sys; from pathlib import Path; from mbls.benchmark import claim\n"
        "with claim(Path(sys.argv[1])) as file: print(file is None)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "True"


def test_claim_is_kept_by_a_child_until_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "seed0"
    with claim(folder) as file:
        sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
        child = subprocess.Popen(sleeper, stdout=file)
    try:
        assert claimed_elsewhere(folder)  # this process has closed the file
    finally:
        child.kill()
        child.wait()
    assert not claimed_elsewhere(folder)


def test_claim_in_an_unwritable_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunFolderError, match=r"seed0\.log cannot be written"),
        claim(tmp_path / "file" / "seed0"),
    ):
        pass
