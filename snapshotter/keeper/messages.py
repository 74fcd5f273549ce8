"""The keeper's protocol: one JSON object a message, over a SOCK_SEQPACKET unix socket.

Every request is answered with one message, in order. Open files travel beside a message
(SCM_RIGHTS, unix(7)).

=========  =============================  ==========================================
``op``     beside it                      answer
=========  =============================  ==========================================
``hello``                                 ``pid``, ``since`` (s since 1970), ``count``
``put``    ``id``, ``record``, 1-4 files  nothing; what had this id is replaced
``drop``   ``id``                         nothing, also when there was none
``list``   ``after``                      ``ids`` that follow ``after``, sorted; empty: no more
``get``    ``id``                         ``record`` and its files
``quit``                                  nothing; the keeper ends, whatever it holds
=========  =============================  ==========================================

Answers have ``ok`` true, or false and ``error``. All messages carry ``version``.
"""

from __future__ import annotations

import array
import json
import os
import re
import socket
from collections.abc import Iterable, Sequence
from typing import Any

VERSION = 1
MESSAGE_LIMIT = 64 << 10
"""Bytes of one message."""
RECORD_LIMIT = 16 << 10
"""Bytes of a record, as UTF-8."""
FILES_LIMIT = 4
"""Open files beside one record."""
IDS_AT_ONCE = 256
"""Of one answer to ``list``."""

_ID = re.compile(r"[0-9a-z][0-9a-z-]{0,63}")
_INT = array.array("i").itemsize
_ANCILLARY = socket.CMSG_SPACE(16 * _INT)
"""Room for more files than are allowed, so that too many of them are seen and closed."""


class BadMessage(Exception):
    """Not a message of this protocol; the text says why."""


class Gone(Exception):
    """The other side has closed the connection."""


class Silent(Gone):
    """The other side is there, and does not answer in time."""


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps({"version": VERSION, **message}).encode()


def decode(raw: bytes) -> dict[str, Any]:
    """A message of our version; :class:`BadMessage`."""
    if len(raw) > MESSAGE_LIMIT:
        raise BadMessage(f"a message has at most {MESSAGE_LIMIT} bytes")
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadMessage("a message is a JSON object") from None
    if not isinstance(message, dict):
        raise BadMessage("a message is a JSON object")
    version = message.get("version")
    if type(version) is not int or version != VERSION:
        raise BadMessage(f"version {str(version)[:40]} of the protocol, spoken here is {VERSION}")
    return message


def checked_id(value: object) -> str:
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise BadMessage("an id has 1 to 64 of 0-9, a-z and -")
    return value


def checked_record(value: object) -> str:
    if not isinstance(value, str):
        raise BadMessage("a record is a string")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise BadMessage("a record is text") from None
    if size > RECORD_LIMIT:
        raise BadMessage(f"a record has at most {RECORD_LIMIT} bytes")
    return value


def send(connection: socket.socket, raw: bytes, files: Sequence[int] = ()) -> None:
    """One message. :class:`Gone` when nobody reads any more, or not fast enough."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    try:
        connection.sendmsg([raw], ancillary, socket.MSG_NOSIGNAL)
    except TimeoutError:
        raise Silent("it takes nothing") from None
    except OSError as error:
        raise Gone(f"cannot send: {error.strerror or error}") from None


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One message and the files that came with it, which are the caller's to close.

    :class:`Gone` at the end of the connection; :class:`BadMessage` when it is too long or
    brought files that could not be taken, and then none of them is open.
    """
    try:
        raw, ancillary, flags, _ = connection.recvmsg(
            MESSAGE_LIMIT + 1, _ANCILLARY, socket.MSG_CMSG_CLOEXEC
        )
    except BlockingIOError:
        raise
    except TimeoutError:
        raise Silent("no answer in time") from None
    except OSError as error:
        raise Gone(str(error.strerror or error)) from None
    files = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(data[: len(data) - len(data) % _INT])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close(files)
        raise BadMessage("a message too long, or with more files than can be taken")
    if not raw:
        close(files)
        raise Gone("the connection was closed")
    return raw, files.tolist()


def close(files: Iterable[int]) -> None:
    for fd in files:
        try:
            os.close(fd)
        except OSError:
            pass
