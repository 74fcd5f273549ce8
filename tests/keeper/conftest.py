from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _patience() -> Iterator[None]:
    """No keeper is given up here because the machine is busy. Set before a test's own, and so
    valid again when what that has started is ended."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_PATIENCE", "_START"):
            patch.setattr(f"snapshotter.keeper.link.{name}", 60.0)
        yield
