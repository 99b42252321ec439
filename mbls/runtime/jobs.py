"""The batch job that a run folder belongs to, so that the job resumes there when queued again."""

from pathlib import Path

__all__ = ["has_begun", "job_of", "record_job"]


def record_job(folder: Path, job: str) -> None:
    """Record the batch job that made a run folder."""
    (folder / "job").write_text(f"{job}\n")


def job_of(folder: Path) -> str | None:
    """Return the id of the batch job that made a run folder, None where none did."""
    file = folder / "job"
    return file.read_text().strip() if file.is_file() else None


def has_begun(folder: Path, job: str) -> bool:
    """Return True if the job made this folder and wrote its configuration."""
    return job_of(folder) == job and (folder / "config.yaml").is_file()
