"""Estimate when a disk will be full, with a straight line through its use over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LEAST_SPAN = 6 * 3600
"""Seconds that samples must span: a shorter rise is often one download."""
LEAST_SAMPLES = 4
SAMPLE_SECONDS = 600
KEPT_SECONDS = 7 * 86400

Sample = tuple[float, float]
"""Unix time and used bytes."""


def seconds_until_full(samples: Iterable[Sample], free: float, now: float) -> float | None:
    """Return the estimate in seconds; None if the use does not rise, or too little is known."""
    recent = [(at, used) for at, used in samples if at >= now - KEPT_SECONDS]
    if len(recent) < LEAST_SAMPLES or recent[-1][0] - recent[0][0] < LEAST_SPAN:
        return None
    slope = _slope(recent)
    return max(free, 0.0) / slope if slope > 0 else None


def _slope(samples: Sequence[Sample]) -> float:
    """Least squares, in bytes per second."""
    mean_time = sum(at for at, _ in samples) / len(samples)
    mean_used = sum(used for _, used in samples) / len(samples)
    spread = sum((at - mean_time) ** 2 for at, _ in samples)
    return sum((at - mean_time) * (used - mean_used) for at, used in samples) / spread if spread else 0.0


class DiskSamples:
    """The use of disks that this process saw, one sample in ten minutes for a week, and forecasts of their hosts."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], list[Sample]] = {}
        self._forecasts: dict[tuple[str, str], float | None] = {}

    def add(self, host: str, mount: str, used: float, now: float) -> None:
        """Add a sample, if the last one is old enough."""
        samples = self._samples.setdefault((host, mount), [])
        if not samples or now - samples[-1][0] >= SAMPLE_SECONDS:
            samples.append((now, used))
        while samples and samples[0][0] < now - KEPT_SECONDS:
            samples.pop(0)

    def forecast(self, host: str, mount: str, seconds: float | None) -> None:
        """Use the forecast of the host's own history: seconds until the disk is full, or None."""
        self._forecasts[host, mount] = seconds

    def seconds_left(self, host: str, mount: str, free: float, now: float) -> float | None:
        """Return the seconds until a disk is full, or None if it does not fill up, or too little is known."""
        if (host, mount) in self._forecasts:
            return self._forecasts[host, mount]
        return seconds_until_full(self._samples.get((host, mount), ()), free, now)
