"""The batch job that a run folder belongs to, so that the job goes on there when queued again."""

from pathlib import Path

__all__ = ["has_begun", "job_of", "mark"]


def mark(folder: Path, job: str) -> None:
    """Write down that a batch job made a run folder."""
    (folder / "job").write_text(f"{job}\n")


def job_of(folder: Path) -> str | None:
    """Return the id of the batch job that made a run folder, None where none did."""
    file = folder / "job"
    return file.read_text().strip() if file.is_file() else None


def has_begun(folder: Path, job: str) -> bool:
    """Say whether the job made this folder and wrote down in it what it runs."""
    return job_of(folder) == job and (folder / "config.yaml").is_file()
