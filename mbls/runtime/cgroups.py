"""The cgroups of this process, such as a container's or a batch job's; imports nothing heavy."""

from collections.abc import Iterator
from pathlib import Path

__all__ = ["control_groups"]


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Yield version (1 or 2) and folder of each cgroup that may limit this process.

    The folder may be missing, or set no limit.

    Args:
        controller: ``"memory"`` or ``"cpu"``.
        root: Folder that contains ``proc`` and ``sys``.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    top = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        version = 1 if controllers else 2
        if version == 1 and controller not in controllers.split(","):
            continue
        base = top / controller if version == 1 else top
        inner = base / path.strip("/")
        yield version, inner
        yield from ((version, above) for above in inner.parents if above.is_relative_to(base))
