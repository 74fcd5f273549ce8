"""Errors of fetching."""

from __future__ import annotations

from snapshotter.errors import ModelpackError
from snapshotter.registry.errors import LeftAlone


class FetchError(ModelpackError):
    """The bytes asked for did not come. The next read of them tries again."""

    @property
    def kind(self) -> tuple[str, str, object]:
        """Host, kind of error and status: what errors have in common that need one log line."""
        cause: BaseException = self.__cause__ or self
        if isinstance(cause, LeftAlone):
            cause = cause.last or cause
        return getattr(cause, "host", ""), type(cause).__name__, getattr(cause, "status", None)
