"""Format times of day, durations and log timestamps."""

from datetime import datetime, timedelta

__all__ = ["clock", "duration", "stamped"]


def clock(seconds: float) -> str:
    """Return the time of day ``seconds`` from now, with the day if it is not today."""
    now = datetime.now()
    then = now + timedelta(seconds=seconds)
    if then.date() == now.date():
        return f"{then:%H:%M}"
    return f"{then:%a %H:%M}" if then - now < timedelta(days=6) else f"{then:%d %b %H:%M}"


def duration(seconds: float) -> str:
    """Return ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def stamped(text: str) -> str:
    """Return ``text`` with a timestamp: ``[19:52:03] text``."""
    return f"[{datetime.now():%H:%M:%S}] {text}"
