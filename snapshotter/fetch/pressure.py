"""Is the node short of CPU time? What nobody waits for then makes way.

The kernel says how long some task could have run and had no CPU (pressure stall information,
Documentation/accounting/psi.rst). Where it does not, CPU time is taken to be plentiful.
"""

from __future__ import annotations

from pathlib import Path

INTERVAL = 0.2
"""Seconds between two looks."""
SHORT = 0.5
"""Share of the time in which somebody had to wait for a CPU, from which on it is short."""


class CpuPressure:
    """Looks at most every ``INTERVAL``. Not thread-safe."""

    def __init__(self, source: Path = Path("/proc/pressure/cpu")) -> None:
        self._source = source
        self._looked = -INTERVAL
        self._stalled: int | None = None
        self._short = False

    def short(self, now: float) -> bool:
        """Whether CPU time was short of late; ``now`` in seconds."""
        took = now - self._looked
        if took < INTERVAL:
            return self._short
        stalled = self._read()
        before, self._stalled, self._looked = self._stalled, stalled, now
        if stalled is None or before is None:
            self._short = False
        else:
            self._short = stalled - before > SHORT * took * 1e6
        return self._short

    def _read(self) -> int | None:
        try:
            return stalled_microseconds(self._source.read_text())
        except (OSError, ValueError):
            return None  # a kernel without it, or one where it is switched off


def stalled_microseconds(text: str) -> int:
    """The total of the line ``some`` of a pressure file. Raises :class:`ValueError`."""
    for line in text.splitlines():
        fields = line.split()
        if fields[:1] == ["some"]:
            totals = [field[6:] for field in fields if field.startswith("total=")]
            return int(totals[0] if totals else "")
    raise ValueError("no line 'some' in it")
