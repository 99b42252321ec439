"""Processes of ``mbls`` without the seconds that its imports take: forked from one that has them.

The parent never runs a backward pass, which torch does not allow before a fork.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.tiny import ROOT


@dataclass(frozen=True)
class Ended:
    """How a forked ``mbls`` ended: its status, negative for a signal, and what it printed."""

    code: int
    out: str


class Forks:
    """A parent process, and one child of it after the other."""

    def __init__(self, folder: Path) -> None:
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        self.folder, self.count = folder, 0
        self.parent = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"], cwd=ROOT, env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def mbls(self, *args: str, kill_after: float | None = None, limit: float = 120) -> Ended:
        """Run ``mbls``, and kill it after some seconds if asked; what hangs fails the test."""
        self.count += 1
        printed = self.folder / f"printed{self.count}.txt"
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write(json.dumps([str(printed), *args]) + "\n")
        self.parent.stdin.flush()
        child = int(self.parent.stdout.readline())
        begin = time.monotonic()
        while not (ended := printed.with_suffix(".code")).exists():
            seconds = time.monotonic() - begin
            if kill_after is not None and seconds > kill_after:
                os.kill(child, signal.SIGKILL)
                kill_after = None
            assert self.parent.poll() is None, "the parent of all processes ended"
            if seconds > limit:
                os.kill(child, signal.SIGKILL)
                raise AssertionError(f"{args} hung\n{printed.read_text()}")
            time.sleep(0.005)
        return Ended(int(ended.read_text()), printed.read_text())

    def close(self) -> None:
        """End the parent."""
        self.parent.communicate("", timeout=30)


def child(printed: Path, args: list[str]) -> None:
    """Be ``mbls`` with its output in a file."""
    from mbls.cli import main

    file = os.open(printed, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = 1
    try:
        code = main(args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Fork a child for each line of arguments, and leave its status in a file beside its output."""
    import mbls.commands.lightning  # noqa: F401  (what the children need)
    import tests.few_acdc  # noqa: F401

    for line in sys.stdin:
        printed, *args = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child(Path(printed), args)
        print(pid, flush=True)  # noqa: T201
        _, status = os.waitpid(pid, 0)
        code = Path(printed).with_suffix(".half")
        code.write_text(str(os.waitstatus_to_exitcode(status)))
        code.rename(code.with_suffix(".code"))


if __name__ == "__main__":
    serve()
