"""What the keeper holds, and what it answers. No sockets."""

from __future__ import annotations

import os
import time
from typing import Any

from snapshotter.keeper.messages import (
    FILES_LIMIT,
    IDS_AT_ONCE,
    BadMessage,
    checked_id,
    checked_record,
    close,
)

ENTRIES_LIMIT = 4096


class Shelf:
    """Records and open files by id."""

    def __init__(self, *, lingers: bool = False) -> None:
        """``lingers``: whether the keeper is one that a daemon started, see ``hello``."""
        self._lingers = lingers
        self._entries: dict[str, tuple[str, list[int]]] = {}
        self._since = time.time()
        self.over = False
        """Somebody said ``quit``."""

    def __len__(self) -> int:
        return len(self._entries)

    def answer(self, message: dict[str, Any], files: list[int]) -> tuple[dict[str, Any], list[int]]:
        """The answer and the files to send with it, which stay ours.

        ``files`` came with the message. They are kept, by ``put``, or closed; the latter also
        when :class:`BadMessage` is raised.
        """
        operation = message.get("op")
        try:
            if operation == "put":
                self._put(message, files)
                files = []
                return {}, []
            if operation == "hello":
                told = {"pid": os.getpid(), "since": self._since, "count": len(self)}
                return {**told, "lingers": self._lingers}, []
            if operation == "drop":
                self._drop(checked_id(message.get("id")))
                return {}, []
            if operation == "list":
                return {"ids": self._list(message.get("after", ""))}, []
            if operation == "get":
                return self._get(checked_id(message.get("id")))
            if operation == "quit":
                self.over = True
                return {}, []
            raise BadMessage("unknown op")
        finally:
            close(files)

    def close(self) -> None:
        for id in list(self._entries):
            self._drop(id)

    def _put(self, message: dict[str, Any], files: list[int]) -> None:
        id, record = checked_id(message.get("id")), checked_record(message.get("record"))
        if not 1 <= len(files) <= FILES_LIMIT:
            raise BadMessage(f"put brings 1 to {FILES_LIMIT} files")
        if id not in self._entries and len(self._entries) >= ENTRIES_LIMIT:
            raise BadMessage(f"{ENTRIES_LIMIT} entries are the most that is kept")
        self._drop(id)
        self._entries[id] = record, files

    def _drop(self, id: str) -> None:
        _, files = self._entries.pop(id, ("", []))
        close(files)

    def _list(self, after: object) -> list[str]:
        if not isinstance(after, str):
            raise BadMessage("after is an id, or empty")
        return sorted(id for id in self._entries if id > after)[:IDS_AT_ONCE]

    def _get(self, id: str) -> tuple[dict[str, Any], list[int]]:
        if id not in self._entries:
            raise BadMessage(f"nothing is kept as {id}")
        record, files = self._entries[id]
        return {"record": record}, files
