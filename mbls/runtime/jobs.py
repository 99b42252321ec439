"""The batch job of a run folder: a job that is requeued resumes its own run."""

from pathlib import Path

__all__ = ["has_begun", "job_of", "record_job"]


def record_job(folder: Path, job: str) -> None:
    """Record the id of the batch job that created a run folder."""
    (folder / "job").write_text(f"{job}\n")


def job_of(folder: Path) -> str | None:
    """Return the id of the batch job that created a run folder, or None."""
    file = folder / "job"
    return file.read_text().strip() if file.is_file() else None


def has_begun(folder: Path, job: str) -> bool:
    """Return True if the job created this run folder and wrote its configuration."""
    return job_of(folder) == job and (folder / "config.yaml").is_file()
