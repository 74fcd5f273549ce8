"""What is on this node: asked of the daemon, or looked up on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from snapshotter.artifact.digest import Digest
from snapshotter.cli.options import Settings
from snapshotter.copies.local import Cache
from snapshotter.holdings import Holdings, holdings_on_disk, mounted
from snapshotter.home import NoHome, user_directory

_SECONDS = 10.0


def models_here(settings: Settings, only: Digest | None = None) -> tuple[list[dict[str, Any]], str]:
    """The models on this node, or the one with this manifest and its ``blobs``.

    Each as :mod:`snapshotter.holdings` tells, and ``mounted``: where. Also why some may be
    missing, empty when none can be.
    """
    found, why = _of_daemon(settings, only)
    for cache in user_caches():
        found += _asked(holdings_on_disk(cache, cache / "documents"), only)
    points = mounted()
    for model in found:
        model["mounted"] = points.get(model["digest"], [])
    return found, why


def user_caches() -> Iterator[Path]:
    """Of `modelpack mount`: one directory for each model."""
    try:
        root = user_directory("XDG_CACHE_HOME", ".cache")
        yield from (path.parent for path in sorted(root.glob("*/documents")))
    except (NoHome, OSError):
        return


def _of_daemon(settings: Settings, only: Digest | None) -> tuple[list[dict[str, Any]], str]:
    api, root = settings.config.api_address, Path(settings.config.root)
    query = {"manifest": only} if only is not None else {}
    if os.access(api, os.W_OK):
        transport = httpx.HTTPTransport(uds=str(api))
        try:
            with httpx.Client(transport=transport, timeout=_SECONDS) as client:
                answer = client.get("http://daemon/v1/models", params=query)
                return list(answer.raise_for_status().json()["models"]), ""
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            pass  # it does not run any more, or is older: its disk says as much
    try:
        if not any(root.iterdir()):
            return [], ""
        return _asked(holdings_on_disk(root / "cache", root / "documents"), only), ""
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], f"the daemon's cache {root} is not looked at: {error.strerror}; try as root"


def _asked(holdings: Holdings, only: Digest | None) -> list[dict[str, Any]]:
    if only is None:
        return holdings.all()
    one = holdings.one(only)
    return [one] if one is not None else []


def caches(settings: Settings) -> list[Cache]:
    """The daemon's, and those of `modelpack mount`; what may not be read is as if empty."""
    root = Path(settings.config.root)
    return [
        Cache(root / "documents", root / "cache" / "blobs"),
        *(Cache(cache / "documents", cache / "blobs") for cache in user_caches()),
    ]
