"""No secret leaves in a message: what was sent to prove who we are is cut out of what comes back.

A registry may answer with anything, also with the header it was sent. Errors end in
logs, on status pages and in what containerd shows, so every message passes :func:`scrub`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlsplit

_REMEMBERED = 8192
_SHORTEST = 6
"""Shorter than that nothing is a secret, and cutting it out would spoil every text."""
_REMOVED = "[removed]"
_AUTHORIZATION = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_SIGNED_URL = re.compile(r"(https?://)(?:[^\s/@]*@)?([^\s?'\"]+)\?[^\s'\"]*", re.IGNORECASE)
_USER_URL = re.compile(r"(https?://)[^\s/@]*@", re.IGNORECASE)
_SIGNING = re.compile(r"sig|token|cred|key|policy|auth", re.IGNORECASE)
"""Parameters that sign a location of object storage, as far as names tell."""
_lock = threading.Lock()
_known: dict[str, None] = {}
_signatures: dict[str, None] = {}
"""Apart from the others: each redirect brings a new one."""


def remember(*values: str | None) -> None:
    """Cut ``values`` out of all messages from now on. The last 8,192 are remembered."""
    _remember(_known, values)


def remember_location(url: str) -> None:
    """Cut out what signs ``url``, where a registry redirected to."""
    pairs = parse_qsl(urlsplit(url).query)
    _remember(_signatures, [value for name, value in pairs if _SIGNING.search(name)])


def _remember(known: dict[str, None], values: Iterable[str | None]) -> None:
    with _lock:
        for value in values:
            if value and len(value) >= _SHORTEST:
                known.pop(value, None)
                known[value] = None
        while len(known) > _REMEMBERED:
            del known[next(iter(known))]


def scrub(text: str) -> str:
    """``text`` without secrets sent so far, authorisations, and the queries of URLs."""
    with _lock:
        known = [value for value in (*_known, *_signatures) if value in text]
    for value in sorted(known, key=len, reverse=True):
        text = text.replace(value, _REMOVED)
    text = _AUTHORIZATION.sub(rf"\1 {_REMOVED}", text)
    text = _SIGNED_URL.sub(rf"\1\2?{_REMOVED}", text)
    return _USER_URL.sub(r"\1", text)
