"""Sizes and durations as people write them, for configuration and command line."""

from __future__ import annotations

import re
from typing import Any, Self

from snapshotter.errors import ModelpackError

_SIZES = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("iB", 1024), ("B", 1000), ("", 1024))
}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


class UnitError(ModelpackError, ValueError):
    """A size or duration that cannot be read."""


class ByteSize(int):
    """Bytes. Written as an integer or as ``"8MiB"``, ``"1.5G"`` (1024-based), ``"10GB"`` (1000)."""

    @classmethod
    def parse(cls, value: str | int) -> Self:
        number, unit = _split(value, "size such as 8MiB")
        factor = next((f for u, f in _SIZES.items() if u.lower() == unit.lower()), None)
        if factor is None:
            raise UnitError(f"{value!r} is no size: unknown unit {unit!r}; write for instance 8MiB")
        return cls(number * factor)


class Seconds(float):
    """Seconds, 0 or more. Written as a number or as ``"250ms"``, ``"30s"``, ``"5m"``, ``"24h"``."""

    @classmethod
    def parse(cls, value: str | int | float) -> Self:
        number, unit = _split(value, "duration such as 30s")
        if unit not in _SECONDS:
            raise UnitError(
                f"{value!r} is no duration: unknown unit {unit!r}; write for instance 30s"
            )
        return cls(number * _SECONDS[unit])


class Capacity(str):
    """A size as :class:`ByteSize` reads it, or a share of a file system such as ``"10%"``."""

    @classmethod
    def parse(cls, value: str | int | float) -> Self:
        text = str(value).strip()
        share = _SHARE.fullmatch(text)
        if share is None:
            if isinstance(value, (bool, float)):
                raise UnitError(f"{value!r} is no size or share: write for instance 200GiB or 10%")
            ByteSize.parse(text)
        elif float(share[1]) > 100:
            raise UnitError(f"{value!r} is more than there is: write 0% to 100%")
        return cls(text)

    def of(self, total: int) -> int:
        """Bytes, where a share is of ``total`` bytes."""
        share = _SHARE.fullmatch(self)
        return int(total * float(share[1]) / 100) if share else ByteSize.parse(str(self))


def _split(value: str | int | float, what: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(str(value))
    if match is None or isinstance(value, bool):
        raise UnitError(f"{value!r} is no {what}")
    return float(match[1]), match[2]


def decode_unit(kind: type, value: Any) -> Any:
    """``dec_hook`` of :func:`msgspec.convert` for the types above."""
    if issubclass(kind, (ByteSize, Seconds, Capacity)):
        if not isinstance(value, (str, int, float)):
            raise UnitError(f"{value!r} is no {kind.__name__}")
        return kind.parse(value)  # type: ignore[arg-type]
    raise NotImplementedError(kind)


def format_size(size: float) -> str:
    """``1536`` -> ``"1.5 KiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
