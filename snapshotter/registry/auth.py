"""Proving to registries who we are: Basic, and Bearer tokens with their cache.

Bearer follows distribution's ``docs/content/spec/auth/token.md`` (GET) and
``oauth.md`` (POST, for identity tokens).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from snapshotter.registry.challenges import Challenge, parse_challenges
from snapshotter.registry.control import Answer, Control
from snapshotter.registry.credentials import Credential, Lookup
from snapshotter.registry.errors import BadAnswer, Unauthorized
from snapshotter.registry.failures import status_error
from snapshotter.registry.hosts import Host, address_of, is_http_url
from snapshotter.registry.keyring import Keyring
from snapshotter.registry.secrets import remember

_CLIENT_ID = "modelpack-snapshotter"
_TOKEN_LIMIT = 1 << 20
_DEFAULT_LIFETIME = 60.0  # token.md: what a missing expires_in means
_GRANTS = 1024


@dataclass(frozen=True, slots=True)
class Access:
    """A right at a host: to read, or also to write, one repository."""

    host: Host
    repository: str
    push: bool = False

    @property
    def scope(self) -> str:
        return f"repository:{self.repository}:{'pull,push' if self.push else 'pull'}"


@dataclass(slots=True)
class _Grant:
    """What a host accepted last for an access."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    header: str | None = field(default=None, repr=False)
    expires: float | None = None
    challenge: Challenge | None = None
    story: str = ""
    credential: Credential | None = None
    """Whose the header is."""


Tried = set[Credential | None]
"""Credentials that were used for one request so far."""


class Authorizer:
    """Knows the ``Authorization`` header for each access; thread-safe."""

    def __init__(self, control: Control, keyring: Keyring) -> None:
        self._control = control
        self._keyring = keyring
        self._lock = threading.Lock()
        self._grants: dict[tuple[str, str, bool], _Grant] = {}

    def header(self, access: Access) -> str | None:
        """The header to send; None before the host has asked for one. Renews a token that ends."""
        grant = self._grant(access)
        with grant.lock:
            if grant.expires is not None and time.monotonic() >= grant.expires:
                grant.header = None
                assert grant.challenge is not None
                self._renew(grant, access, grant.challenge, set())
            return grant.header

    def renew(
        self, access: Access, values: Sequence[str], rejected: str | None, tried: Tried
    ) -> bool:
        """After a refusal with these ``WWW-Authenticate`` values for the header ``rejected``.

        True when there is something else to send; it is noted in ``tried``. False when all that
        we have was tried. Raises :class:`Unauthorized` when there never was anything to send.
        """
        grant = self._grant(access)
        with grant.lock:
            if grant.header is not None and grant.header != rejected:
                return True  # another thread has renewed it meanwhile
            challenges = parse_challenges(values)
            challenge = _choose(challenges) or (grant.challenge if not challenges else None)
            if challenge is None:
                schemes = ", ".join(c.scheme for c in challenges) or "nothing"
                raise _refused(access, f"it offers {schemes} to log in, we know Bearer and Basic")
            first = not tried
            while self._renew(grant, access, challenge, tried):
                if grant.header != rejected:
                    return True
            if first:
                raise _refused(access, grant.story)
            return False

    def asks(self, access: Access) -> bool:
        """Whether the host has asked who we are, so that a 403 may be about that."""
        return self._grant(access).challenge is not None

    def story(self, access: Access) -> str:
        """Which credentials were used, for messages."""
        return self._grant(access).story

    def _grant(self, access: Access) -> _Grant:
        key = (access.host.url, access.repository, access.push)
        with self._lock:
            grant = self._grants.get(key)
            if grant is None:
                if len(self._grants) >= _GRANTS:
                    del self._grants[next(iter(self._grants))]
                grant = self._grants[key] = _Grant()
            return grant

    def _renew(self, grant: _Grant, access: Access, challenge: Challenge, tried: Tried) -> bool:
        """A header by the next credential that is not in ``tried``; False when there is none.

        What was accepted last comes first. Raises what the last token server said when none
        gives a token.
        """
        found = self._keyring.find(access.host, access.repository)
        candidates = sorted(found, key=lambda lookup: lookup.credential != grant.credential)
        refusal: Unauthorized | None = None
        for lookup in candidates:
            if lookup.credential in tried:
                continue
            tried.add(lookup.credential)
            try:
                self._apply(grant, access, challenge, lookup)
                return True
            except Unauthorized as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal
        return False

    def _apply(self, grant: _Grant, access: Access, challenge: Challenge, found: Lookup) -> None:
        if (known := found.credential) is not None:
            remember(known.password, known.identity_token, known.basic.partition(" ")[2])
        grant.challenge, grant.story, grant.credential = challenge, found.story, known
        if challenge.scheme == "basic":
            if known is None:
                raise _refused(access, found.story)
            grant.header, grant.expires = known.basic, None
            return
        token, lifetime = self._token(access, challenge, found)
        remember(token)
        grant.header = f"Bearer {token}"
        # A token that ends while a request is on its way costs a second request.
        grant.expires = time.monotonic() + 0.9 * lifetime

    def _token(self, access: Access, challenge: Challenge, found: Lookup) -> tuple[str, float]:
        realm = challenge.parameters.get("realm", "")
        name = access.host.address
        if not is_http_url(realm):
            raise BadAnswer(
                f"{name} names no usable token server: realm {realm[:160]!r}", host=name
            )
        plain = realm.lower().startswith("http:") and access.host.url.startswith("https:")
        if plain and found.credential is not None:
            raise Unauthorized(
                f"{name} wants its credentials sent without TLS to {address_of(realm)}; they were "
                "not sent; its administrator must name a token server with https",
                host=name,
            )
        asked = f"a token for {access.repository}"
        answer = self._request_token(access, challenge, found.credential, realm, asked)
        if answer.status >= 300:
            raise status_error(
                answer.status,
                access.host.url if answer.status in (401, 403) else realm,
                asked,
                body=answer.body,
                story=found.story,
                retry_after=answer.header("retry-after"),
            )
        return _read_token(answer, address_of(realm), asked)

    def _request_token(
        self,
        access: Access,
        challenge: Challenge,
        credential: Credential | None,
        realm: str,
        asked: str,
    ) -> Answer:
        fields = {"scope": challenge.parameters.get("scope") or access.scope}
        if service := challenge.parameters.get("service"):
            fields["service"] = service
        method, url, headers, content = "GET", realm, {"Accept": "application/json"}, None
        if credential is not None and credential.identity_token:
            fields |= {
                "grant_type": "refresh_token",
                "refresh_token": credential.identity_token,
                "client_id": _CLIENT_ID,
            }
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            method, content = "POST", urlencode(fields, errors="replace").encode()
        else:
            url += ("&" if urlsplit(realm).query else "?") + urlencode(fields, errors="replace")
            if credential is not None:
                headers["Authorization"] = credential.basic
        return self._control.send(
            method,
            url,
            asked=asked,
            headers=headers,
            tls=access.host.tls,
            identify=False,
            limit=_TOKEN_LIMIT,
            content=content,
        )


def _choose(challenges: Sequence[Challenge]) -> Challenge | None:
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme:
                return challenge
    return None


def _refused(access: Access, story: str) -> Unauthorized:
    error = status_error(401, access.host.url, f"access to {access.repository}", story=story)
    assert isinstance(error, Unauthorized)
    return error


def _read_token(answer: Answer, server: str, asked: str) -> tuple[str, float]:
    try:
        fields = json.loads(answer.body)
        token = fields.get("token") or fields.get("access_token")
        lifetime = float(fields.get("expires_in") or _DEFAULT_LIFETIME)
    except (ValueError, TypeError, AttributeError, RecursionError):
        token = None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise BadAnswer(f"{server} answered no token when asked for {asked}", host=server)
    return token, max(lifetime, _DEFAULT_LIFETIME)
