"""Is this the range that was asked for? Pure; RFC 9110 sections 14 and 15.3.7."""

from __future__ import annotations

import re

_CONTENT_RANGE = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+|\*)", re.IGNORECASE)


def wrong_range(
    start: int, end: int, size: int, content_range: str | None, content_length: str | None
) -> str | None:
    """What is wrong with a 206 for bytes ``start`` to ``end`` (exclusive) of ``size``; None is
    right."""
    match = _CONTENT_RANGE.fullmatch((content_range or "").strip())
    if match is None:
        return f"no usable Content-Range ({(content_range or 'none')[:80]!r})"
    first, last, total = match.groups()
    if (int(first), int(last)) != (start, end - 1):
        return f"bytes {first}-{last}"
    if total not in ("*", str(size)):
        return f"a blob of {total} bytes, expected {size}"
    return wrong_length(end - start, content_length)


def wrong_length(expected: int, content_length: str | None) -> str | None:
    """What is wrong with a ``Content-Length``; None is right, or chunked and seen later."""
    if content_length is None or content_length.strip() == str(expected):
        return None
    return f"{content_length[:20]} bytes of body, expected {expected}"
