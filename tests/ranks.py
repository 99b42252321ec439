"""Ranks that are processes from the start, as torchrun and srun make them.

``python -m tests.ranks FILE`` runs in each of them the commands of a JSON file, one after the
other, without the figures of a test: importing torch and lightning costs more than the rest.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.tiny import ROOT, Done, stop_hanging

Words = list[str]


def start(commands: list[Words], file: Path, *, world: int) -> list[subprocess.Popen]:
    """Start the ranks; each ends with 0 where all commands did their work."""
    file.write_text(json.dumps(commands))
    env = os.environ | {
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world),
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ranks", str(file)],
            cwd=ROOT, text=True, start_new_session=True,
            env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(world)
    ]  # fmt: skip


def finish(ranks: list[subprocess.Popen], *, limit: float = 400) -> list[Done]:
    """Wait for all ranks; whatever hangs is killed, and fails the test."""
    end, done = time.monotonic() + limit, []
    try:
        for rank in ranks:
            out, err = rank.communicate(timeout=max(0.1, end - time.monotonic()))
            done.append(Done(rank.returncode, out, err, limit - (end - time.monotonic())))
    except subprocess.TimeoutExpired:
        stop_hanging(*ranks)
    return done


def run(commands: list[Words], file: Path, *, world: int, limit: float = 400) -> list[Done]:
    """Run the commands on ``world`` ranks to their end."""
    return finish(start(commands, file, world=world), limit=limit)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    from mbls.cli import main
    from mbls.evaluation import results

    results.write_figures = lambda *_, **__: None
    sys.exit(sum(main(words) != 0 for words in json.loads(Path(sys.argv[1]).read_text())))
