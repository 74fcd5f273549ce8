"""Asking the daemon over its management socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import httpx

from snapshotter.errors import ModelpackError

SECONDS = 10.0
"""How long an answer may take that needs no work."""
LONG_SECONDS = 600.0
"""And one that does: deleting terabytes, or asking a slow registry."""

api_option = click.option(
    "--api",
    type=click.Path(path_type=Path),
    help="The daemon's management socket.  [default: that of the configuration]",
)


class DaemonUnreachable(ModelpackError):
    """The daemon does not answer."""


class Refused(ModelpackError):
    """The daemon answered that it cannot be done."""


def ask(
    api: Path, path: str, *, method: str = "GET", seconds: float = SECONDS, **params: str
) -> dict[str, Any]:
    """The daemon's answer. Raises :class:`DaemonUnreachable` and :class:`Refused`."""
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(api)), timeout=seconds) as client:
            response = client.request(method, f"http://daemon{path}", params=params)
            answer: dict[str, Any] = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise DaemonUnreachable(
            f"the daemon does not answer on {api}: {error}; is modelpack-snapshotter running, "
            "and may you open its socket?"
        ) from None
    if response.status_code != 200:
        raise Refused(_why(answer, response.status_code))
    return answer


def _why(answer: dict[str, Any], status: int) -> str:
    try:
        return str(answer["error"])
    except (KeyError, TypeError):
        return f"the daemon answered {status}: {json.dumps(answer)[:200]}"
