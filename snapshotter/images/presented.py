"""Credentials that a pulling client shows to the mirror endpoint.

A registry's token protocol (distribution's ``docs/content/spec/auth/token.md`` and ``oauth.md``)
with ourselves as the token server: where the node's own credentials are refused, the mirror asks
for a Bearer token of ours, and containerd comes for it with what the pull was given (``ctr
--user``, CRI's ``AuthConfig``), or with nothing. A token stands for these credentials for some
minutes and is good here only; they are shown to the registry alone.
"""

from __future__ import annotations

import base64
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from snapshotter.artifact.descriptor import Platform
from snapshotter.images.lookup import ModelLookup, Upstream
from snapshotter.images.options import MirrorOptions
from snapshotter.registry.credentials import Credential
from snapshotter.registry.pull_secrets import PullSecret
from snapshotter.registry.secrets import remember

PATH = "/token"
LIFETIME = 300.0
"""Seconds a token is good for."""
_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Session:
    """What a client showed us."""

    secret: PullSecret | None = field(repr=False)
    lookup: ModelLookup | None
    """Asks registries with nothing but the secret; None without one."""
    until: float


class Presented:
    """The tokens that are out. Thread-safe."""

    def __init__(
        self,
        options: MirrorOptions,
        platform: Platform,
        upstream: Callable[[PullSecret], Upstream],
        keep: Callable[[str, str, PullSecret], None],
    ) -> None:
        """``upstream`` asks registries as somebody; ``keep`` is told of a registry, a repository
        and the secret with which a model was found there."""
        self._options = options
        self._platform = platform
        self._upstream = upstream
        self.keep = keep
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def token(self, authorization: str, form: bytes) -> str:
        """A token for what came with the request for it: a header, or a form."""
        credential = _from_basic(authorization) or _from_form(form)
        session = self._session(credential)
        token = secrets.token_urlsafe(32)
        remember(token)
        with self._lock:
            self._sessions[token] = session
            if len(self._sessions) > _TOKENS:
                del self._sessions[next(iter(self._sessions))]
        return token

    def session(self, authorization: str) -> Session | None:
        """What belongs to a token; None for a request without a good one."""
        scheme, _, token = authorization.partition(" ")
        with self._lock:
            session = self._sessions.get(token.strip()) if scheme.lower() == "bearer" else None
        return session if session is not None and session.until > time.monotonic() else None

    def _session(self, credential: Credential | None) -> Session:
        until = time.monotonic() + LIFETIME
        if credential is None:
            return Session(None, None, until)
        secret = PullSecret(credential)
        lookup = ModelLookup(
            self._upstream(secret),
            self._platform,
            timeout=self._options.upstream_timeout,
            keep=self._options.keep,
        )
        return Session(secret, lookup, until)


def _from_basic(authorization: str) -> Credential | None:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:  # no base64, or no text in it
        return None
    username, _, password = pair.partition(":")
    return Credential(username, password) if username and password else None


def _from_form(form: bytes) -> Credential | None:
    """``grant_type=password`` and ``refresh_token``, as containerd posts them."""
    fields = {name: values[0] for name, values in parse_qs(form.decode("latin-1")).items()}
    if fields.get("grant_type") == "refresh_token" and fields.get("refresh_token"):
        return Credential("", identity_token=fields["refresh_token"])
    username, password = fields.get("username", ""), fields.get("password", "")
    return Credential(username, password) if username and password else None
