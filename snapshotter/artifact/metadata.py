"""What annotations say of a layer's file: its name, mode and time.

Producers write the metadata annotation by hand and some badly, so what cannot
be read is left out with a warning: the bytes do not depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from snapshotter.artifact.mediatypes import FILE_METADATA_ANNOTATIONS, FILEPATH_ANNOTATIONS

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,64}))?"
    r"(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_LATEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """``org.cncf.model.file.metadata+json``; None where nothing usable is said."""

    mode: int | None = None
    mtime_ns: int = 0
    """0 also where unset, which Go writes as the year 1."""
    size: int | None = None
    typeflag: int = 0
    bundle: bool = False
    """Several files were packed, under a name that is none of theirs (AIKit)."""


class _Metadata(msgspec.Struct):
    mode: int | None = None
    mtime: str | None = None
    size: int | None = None
    typeflag: int | None = None
    files: Any = None


def file_name(annotations: Mapping[str, str]) -> str | None:
    """The path a layer's file is to have, unchecked."""
    return next((annotations[key] for key in FILEPATH_ANNOTATIONS if annotations.get(key)), None)


def file_metadata(annotations: Mapping[str, str]) -> tuple[FileMetadata, str | None]:
    """Metadata and, where it could not be read, a warning."""
    text = next((annotations[k] for k in FILE_METADATA_ANNOTATIONS if annotations.get(k)), None)
    if text is None:
        return FileMetadata(), None
    try:
        found = msgspec.json.decode(text, type=_Metadata)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return FileMetadata(), f"its file metadata cannot be read and is ignored: {error}"
    typeflag = found.typeflag or 0
    return (
        FileMetadata(
            mode=found.mode,
            mtime_ns=parse_time(found.mtime or ""),
            size=found.size,
            typeflag=0 if typeflag == ord("0") else typeflag,
            bundle=found.files is not None,
        ),
        None,
    )


def parse_time(text: str) -> int:
    """RFC 3339 to nanoseconds since 1970; 0 for earlier times and for what is no time."""
    match = _TIME.fullmatch(text)
    if match is None:
        return 0
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    offset = timedelta(hours=int(match[9] or 0), minutes=int(match[10] or 0))
    try:
        # datetime ends at microseconds, so the fraction is added apart.
        when = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        return 0
    seconds = int(when.timestamp()) - int(offset.total_seconds()) * (-1 if match[8] == "-" else 1)
    nanoseconds = int((match[7] or "")[:9].ljust(9, "0"))
    return min(max(0, seconds * 10**9 + nanoseconds), _LATEST)
