"""Files that belong together: a kill leaves the old set, the new one, or one that nobody reads."""

import errno
import os
import signal
from pathlib import Path

import pytest

from mbls.runtime.errors import OutputError
from mbls.runtime.files import (
    clear_incoming,
    incoming_name,
    replace_file,
    replace_files,
    replacing,
    writing,
)

NAMES = ("cases.csv", "metrics.json", "reliability.png")


def write(folder: Path, text: str) -> None:
    with replace_files(folder, mark="metrics.json") as place:
        for name in NAMES:
            (place / name).write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def killed(folder: Path, moment: int) -> bool:
    """Write a new set in a process that is killed before its n-th change of the folder."""
    if (pid := os.fork()) == 0:
        left = moment
        for name in ("mkdir", "write_text", "unlink", "replace"):
            original = getattr(Path, name)

            def counted(self, *args, _original=original, **kw):
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return _original(self, *args, **kw)

            setattr(Path, name, counted)
        write(folder, "new")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_killed_write_never_mixes_two_sets_of_files(tmp_path: Path) -> None:
    seen = set()
    for moment in range(20):
        folder = tmp_path / str(moment)
        write(folder, "old")
        if not killed(folder, moment):
            break
        there = {name: (folder / name).read_text() for name in NAMES if (folder / name).exists()}
        if "metrics.json" in there:
            assert set(there.values()) == {"old"}
        seen.add("metrics.json" in there)
        write(folder, "next")
        assert texts(folder) == dict.fromkeys(NAMES, "next")
    assert moment == 8  # 1 folder, 3 files, 1 mark that goes, 3 files that come
    assert seen == {True, False}


def test_failed_set_of_files_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path, "old")

    def fail() -> None:
        with replace_files(tmp_path, mark="metrics.json") as place:
            (place / "metrics.json").write_text("half")
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()
    assert texts(tmp_path) == dict.fromkeys(NAMES, "old")


def test_concurrent_writers_leave_one_complete_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lock, on another machine, of which the process id may be equal."""
    path = tmp_path / "last.ckpt"
    with replacing(path) as ours:
        ours.write(b"ours, which is longer")
        with monkeypatch.context() as there:
            there.setattr("socket.gethostname", lambda: "node7")
            replace_file(path, b"theirs")
        assert path.read_bytes() == b"theirs"
    assert path.read_bytes() == b"ours, which is longer"


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").touch()
    incoming_name(tmp_path / "last.ckpt").touch()
    incoming_name(tmp_path / "metrics.json").mkdir()
    (incoming_name(tmp_path / "metrics.json") / "metrics.json").touch()
    clear_incoming(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("place", [Path(), Path("/"), incoming_name(Path("out/a.nii.gz"))])
def test_unwritable_path_is_named(place: Path) -> None:
    name = str(place).removesuffix(incoming_name(Path("x")).name[1:])
    with pytest.raises(OutputError) as raised, writing(place):
        raise OSError(errno.EACCES, "Permission denied")
    assert str(raised.value).startswith(f"{name} cannot be written (Permission denied)")
