"""What is open in this process."""

from __future__ import annotations

import os


def open_files() -> set[tuple[str, str]]:
    """Descriptors, and what each is open on. Threads of other tests may close theirs at any time,
    so a count of them would say little: ask whether there are new ones."""
    found = set()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))  # noqa: PTH115
        except FileNotFoundError:
            continue  # that which listed them, say
    return found
