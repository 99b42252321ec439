"""Processes of ``mbls`` forked from one that has its imports, which take seconds.

They draw no figures. The parent never runs a backward pass, which torch does not allow before a
fork.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tests.processes import ROOT, free_port


@dataclass(frozen=True)
class Ended:
    """How a forked ``mbls`` ended: its status, negative for a signal, and what it printed."""

    code: int
    out: str


@dataclass(frozen=True)
class Child:
    """A forked ``mbls`` that runs.

    Args:
        pid: Its id.
        printed: The file of what it prints; its status comes into one next to it.
    """

    pid: int
    printed: Path

    def poll(self) -> int | None:
        """Return its status, None while it runs."""
        file = self.printed.with_suffix(".code")
        return int(file.read_text()) if file.exists() else None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Forks:
    """A parent process, and its children."""

    def __init__(self, folder: Path) -> None:
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        self.folder, self.count = folder, 0
        self.parent = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"], cwd=ROOT, env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def start(self, *args: str, **env: str) -> Child:
        """Start ``mbls`` with some more variables in its environment."""
        self.count += 1
        printed = self.folder / f"printed{self.count}.txt"
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write(json.dumps([str(printed), env, *args]) + "\n")
        self.parent.stdin.flush()
        return Child(int(self.parent.stdout.readline()), printed)

    def start_ranks(self, *args: str, world: int = 2) -> list[Child]:
        """Start ``mbls`` as the ranks of one job, rank 0 first, as torchrun does."""
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        args = (*args, "--trainer.devices", str(world))
        return [
            self.start(*args, **env, WORLD_SIZE=str(world), RANK=str(rank), LOCAL_RANK=str(rank))
            for rank in range(world)
        ]

    def finish(
        self, *children: Child, kill_after: float | None = None, limit: float = 300
    ) -> list[Ended]:
        """Wait for children, or kill them after ``kill_after`` seconds; what hangs fails the test.

        The seconds count from the call.
        """
        begin = time.monotonic()
        while any(child.poll() is None for child in children):
            seconds = time.monotonic() - begin
            if kill_after is not None and seconds > kill_after:
                kill(children)
                kill_after = None
            assert self.parent.poll() is None, "the parent of all processes ended"
            if seconds > limit:
                fail(children)
            time.sleep(0.005)
        return [Ended(child.poll() or 0, child.printed.read_text()) for child in children]

    def mbls(self, *args: str, kill_after: float | None = None, limit: float = 300) -> Ended:
        """Run ``mbls`` to its end; see :meth:`finish`."""
        (ended,) = self.finish(self.start(*args), kill_after=kill_after, limit=limit)
        return ended

    def ranks(self, *args: str, world: int = 2, limit: float = 300) -> list[Ended]:
        """Run ``mbls`` as the ranks of one job to their end, which must be good."""
        ended = self.finish(*self.start_ranks(*args, world=world), limit=limit)
        assert all(each.code == 0 for each in ended), ended
        return ended

    def close(self) -> None:
        """End the parent."""
        self.parent.communicate("", timeout=30)


def kill(children: Sequence[Child]) -> None:
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)


def fail(children: Sequence[Child]) -> NoReturn:
    kill(children)
    output = "\n".join(f"--- {child.pid}\n{child.printed.read_text()}" for child in children)
    raise AssertionError(f"hung\n{output}")


# In the parent ----------------------------------------------------------------------------------


def work(printed: Path, env: dict[str, str], args: list[str]) -> None:
    """Run ``mbls`` with its output in a file."""
    from mbls.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(env)
    file = os.open(printed, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        code = main(args)
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def reap(running: dict[int, Path]) -> None:
    """Leave the status of each child that has ended in a file next to its output."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        code = running.pop(pid).with_suffix(".half")
        code.write_text(str(os.waitstatus_to_exitcode(status)))
        code.rename(code.with_suffix(".code"))


def serve() -> None:
    """Fork a child for each line, and print its id, until the input ends."""
    import mbls.config.cli  # noqa: F401  (what the children need)
    import tests.few  # noqa: F401
    from tests.tiny import leave_out_figures

    leave_out_figures()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a test sends it to the whole group
    running: dict[int, Path] = {}
    while True:
        reap(running)
        if not select.select([sys.stdin], [], [], 0.005)[0]:
            continue
        if not (line := sys.stdin.readline()):
            return
        printed, env, *args = json.loads(line)
        pid = os.fork()
        if pid == 0:
            work(Path(printed), env, args)
        running[pid] = Path(printed)
        print(pid, flush=True)  # noqa: T201


if __name__ == "__main__":
    serve()
    os._exit(0)  # tidying up takes seconds, torch loaded
