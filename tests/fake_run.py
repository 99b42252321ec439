"""Replaces ``mbls train`` in the tests of sweeps: a run folder within milliseconds.

Files in the folder above the run's decide what it does: with ``fail`` it fails, with ``hang`` it
waits for SIGTERM and leaves a checkpoint, with ``deaf`` it ignores SIGTERM, with ``crash`` it kills
itself.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(args: list[str]) -> int:
    run = Path(args[args.index("--run") + 1])
    marks = {path.name for path in run.parent.iterdir()}
    with (run.parent / "starts").open("a") as file:
        file.write(f"{run.name} {'resume' if '--resume' in args else 'train'} {os.getpid()}\n")
    run.mkdir(exist_ok="--resume" in args)
    print("threads", os.environ.get("OMP_NUM_THREADS"), flush=True)  # noqa: T201
    if "fail" in marks:
        print("ValueError: margin must be >= 0", flush=True)  # noqa: T201
        return 1
    if "crash" in marks:
        os.kill(os.getpid(), signal.SIGKILL)
    if marks & {"hang", "deaf"}:
        deaf = "deaf" in marks
        signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else lambda *_: stop(run))
        (run.parent / "hangs").touch()
        time.sleep(60)
    finish(run)
    return 0


def stop(run: Path) -> None:
    (run / "checkpoints").mkdir()
    (run / "checkpoints/last.ckpt").touch()
    sys.exit(1)


def finish(run: Path) -> None:
    results = run / "test/best"
    results.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"finished": True}))
    value = {"value": 0.5}
    metrics = {
        "dice": {"mean": value},
        "sound": {"all": {"pooled": {"ece": value}}},
        "meta": {"origin": "phantom"},
    }
    (results / "metrics.json").write_text(json.dumps(metrics))
    for name in ("bins.npz", "cases.csv", "reliability.png"):
        (results / name).touch()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
