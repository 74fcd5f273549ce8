"""No secret leaves in a message: what was sent to prove who we are is cut out of what comes back.

A registry may answer with anything, also with the header it was sent. Errors end in
logs, on status pages and in what containerd shows, so every message passes :func:`scrub`.
"""

from __future__ import annotations

import re
import threading

_REMEMBERED = 1024
_SHORTEST = 6
"""Shorter than that nothing is a secret, and cutting it out would spoil every text."""
_REMOVED = "[removed]"
_AUTHORIZATION = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_SIGNED_URL = re.compile(r"(https?://)(?:[^\s/@]*@)?([^\s?'\"]+)\?[^\s'\"]*", re.IGNORECASE)
_USER_URL = re.compile(r"(https?://)[^\s/@]*@", re.IGNORECASE)
_lock = threading.Lock()
_known: dict[str, None] = {}


def remember(*values: str | None) -> None:
    """Cut ``values`` out of all messages from now on. The last 1,024 are remembered."""
    with _lock:
        for value in values:
            if value and len(value) >= _SHORTEST:
                _known.pop(value, None)
                _known[value] = None
        while len(_known) > _REMEMBERED:
            del _known[next(iter(_known))]


def scrub(text: str) -> str:
    """``text`` without secrets sent so far, authorisations, and the queries of URLs."""
    with _lock:
        known = [value for value in _known if value in text]
    for value in sorted(known, key=len, reverse=True):
        text = text.replace(value, _REMOVED)
    text = _AUTHORIZATION.sub(rf"\1 {_REMOVED}", text)
    text = _SIGNED_URL.sub(rf"\1\2?{_REMOVED}", text)
    return _USER_URL.sub(r"\1", text)
