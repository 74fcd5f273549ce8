"""What the mirror endpoint answers: a registry that knows models only.

containerd and dockerd ask it first when ``hosts.toml`` names it. A model's tag is
answered with its stub image; everything else with 404, which makes the client go
on to the real registry. Nothing is relayed from there, neither blobs nor manifests.

Status 300 is how a pull is ended with a reason: containerd 1.6 to 2.3 and dockerd
go on to the next host after 4xx and 5xx, and would then download the whole model
and unpack nothing, while for 3xx without Location they stop and show the status line.

Status 401 is how a client is asked for its credentials, where a registry wants others than the
node's: see presented.py.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import structlog

from snapshotter.artifact.descriptor import Platform
from snapshotter.artifact.marker import ModelRef
from snapshotter.errors import ModelpackError
from snapshotter.images.errors import ImageError
from snapshotter.images.lookup import LookupFailed, ModelLookup
from snapshotter.images.options import MirrorOptions
from snapshotter.images.presented import LIFETIME, Presented, Session
from snapshotter.images.presented import PATH as TOKEN_PATH
from snapshotter.images.stub import stub_image
from snapshotter.images.stub_store import StubStore
from snapshotter.registry.reference import Reference

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    status: str
    """Code and reason phrase."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)


_ROUTE = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<target>[^/]+)")
_REASON_LIMIT = 512
_FORM_LIMIT = 16 << 10


class Mirror:
    """The endpoint as a WSGI application; thread-safe."""

    def __init__(
        self,
        options: MirrorOptions,
        lookup: ModelLookup,
        stubs: StubStore,
        platform: Platform,
        serves: Callable[[str], bool],
        presented: Presented | None = None,
    ) -> None:
        """``serves`` says which registries are answered for when the options name none.

        Without ``presented`` nobody is asked for credentials.
        """
        self._presented = presented
        self._options = options
        self._lookup = lookup
        self._stubs = stubs
        self._platform = platform
        self._serves = serves

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        try:
            answer = self._answer(environ)
        except Exception:
            log.exception("mirror request failed", method=method, path=path)
            answer = _error(
                "500 Internal Server Error", "UNKNOWN", "see modelpack-snapshotter's log"
            )
        log.debug("mirror request", method=method, path=path, status=answer.status)
        length = ("Content-Length", str(len(answer.body)))
        start_response(answer.status, [*answer.headers, length])
        return [] if method == "HEAD" else [answer.body]

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        # Over a network nobody is to send us secrets in the clear.
        local = ipaddress.ip_address(environ.get("REMOTE_ADDR", "127.0.0.1")).is_loopback
        if path == TOKEN_PATH and self._presented is not None and local:
            return self._token(environ, authorization)
        realm = f"http://{environ.get('HTTP_HOST', '')}{TOKEN_PATH}"
        asks = self._presented is not None and local
        return self.answer(
            method,
            path,
            environ.get("QUERY_STRING", ""),
            authorization=authorization,
            realm=realm if asks else "",
        )

    def _token(self, environ: WSGIEnvironment, authorization: str) -> Answer:
        assert self._presented is not None
        form = b""
        if environ["REQUEST_METHOD"] == "POST":
            form = environ["wsgi.input"].read(_FORM_LIMIT)
        token = self._presented.token(authorization, form)
        body = json.dumps({"token": token, "access_token": token, "expires_in": int(LIFETIME)})
        return Answer("200 OK", (("Content-Type", "application/json"),), body.encode())

    def answer(
        self, method: str, path: str, query: str, *, authorization: str = "", realm: str = ""
    ) -> Answer:
        """What a request gets; the distribution specification's pull endpoints.

        ``realm``: where a client is sent for a token; empty: none is asked for one.
        """
        if method not in ("GET", "HEAD"):
            return _error(
                "405 Method Not Allowed", "UNSUPPORTED", "this endpoint is for pulls only"
            )
        if path in ("/v2", "/v2/"):
            version = ("Docker-Distribution-API-Version", "registry/2.0")
            return Answer("200 OK", (version, ("Content-Type", "application/json")), b"{}")
        route = _ROUTE.fullmatch(path)
        namespaces = parse_qs(query).get("ns", [])
        if route is None or len(namespaces) != 1:
            return _NOT_FOUND
        reference = _reference(namespaces[0], route["repository"], route["target"])
        if reference is None or not self._answers_for(reference.registry):
            return _NOT_FOUND
        if route["kind"] == "blobs":
            return self._kept(reference, is_manifest=False) or _NOT_FOUND
        return self._manifest(reference, authorization, realm)

    def _answers_for(self, registry: str) -> bool:
        if self._options.registries:
            known = registry in self._options.registries
        else:
            known = self._serves(registry)
        if not known:
            log.warning(
                "mirror asked for a registry it does not serve",
                registry=registry,
                fix="name it in [mirror] registries, or the directory of its hosts.toml "
                "in [registry] certs_d",
            )
        return known

    def _manifest(self, reference: Reference, authorization: str, realm: str) -> Answer:
        pinned = reference.digest is not None
        kept = self._kept(reference, is_manifest=True) if pinned else None
        if kept is not None:
            return kept
        if pinned and self._options.pinned == "pass":
            return _NOT_FOUND
        try:
            if reference.digest is not None and self._stubs.is_model(reference.digest):
                return _pinned(reference)
            model = self._find(reference, authorization)
            if model is None:
                return _NOT_FOUND
            if pinned:
                return _pinned(reference)
            stub = stub_image(model, self._platform)
            self._stubs.add(model, stub)
        except LookupFailed as error:
            if error.refused and realm and self._session(authorization) is None:
                return _challenge(reference, realm)
            return self._failed(reference, error)
        except ImageError as error:
            log.error("model not served", reference=str(reference), error=str(error))
            return _refusal(str(error))
        return _content(stub.manifest.digest, stub.manifest.media_type, stub.manifest_bytes)

    def _session(self, authorization: str) -> Session | None:
        return self._presented.session(authorization) if self._presented is not None else None

    def _find(self, reference: Reference, authorization: str) -> ModelRef | None:
        """With the node's credentials, else with those of the client and nobody else's."""
        try:
            return self._lookup.find(reference)
        except LookupFailed as error:
            session = self._session(authorization)
            if not error.refused or session is None or session.lookup is None:
                raise
        model = session.lookup.find(reference)
        if model is not None and session.secret is not None and self._presented is not None:
            self._presented.keep(reference.registry, reference.repository, session.secret)
        return model

    def _failed(self, reference: Reference, error: LookupFailed) -> Answer:
        known = error.is_model or self._stubs.holds_models(reference.registry, reference.repository)
        log.warning(
            "registry did not answer for the mirror",
            reference=str(reference),
            error=str(error),
            pull="refused" if known else "passed on",
        )
        # A client that goes on with a model downloads it whole and mounts nothing.
        if known:
            return _refusal(f"ModelPack artifact cannot be pulled now: {error}")
        if error.refused:
            # The client goes on, and shows this when the registry refuses it too.
            return _error(f"403 {_reason(str(error))}", "DENIED", str(error))
        return _NOT_FOUND

    def _kept(self, reference: Reference, *, is_manifest: bool) -> Answer | None:
        found = self._stubs.find(reference.digest) if reference.digest is not None else None
        if found is None or bool(found[0]) is not is_manifest:
            return None
        media_type, data = found
        assert reference.digest is not None
        return _content(reference.digest, media_type or "application/octet-stream", data)


def _reference(registry: str, repository: str, target: str) -> Reference | None:
    """The reference a path stands for; None when it is none that is written like this."""
    separator = "@" if ":" in target else ":"
    try:
        reference = Reference.parse(f"{registry}/{repository}{separator}{target}")
    except ModelpackError:
        return None
    # Parsing completes short names; here nothing is short.
    exact = (reference.registry, reference.repository) == (registry, repository)
    return reference if exact and target in (reference.tag, reference.digest) else None


def _content(digest: str, media_type: str, data: bytes) -> Answer:
    headers = (("Content-Type", media_type), ("Docker-Content-Digest", digest))
    return Answer("200 OK", headers, data)


def _challenge(reference: Reference, realm: str) -> Answer:
    """RFC 9110 section 11.6.1; the scope as distribution's ``token.md`` writes it."""
    asked = f'Bearer realm="{realm}",service="modelpack"'
    asked += f',scope="repository:{reference.repository}:pull"'
    refusal = _error("401 Unauthorized", "UNAUTHORIZED", "the registry wants credentials")
    return Answer(refusal.status, (*refusal.headers, ("WWW-Authenticate", asked)), refusal.body)


def _pinned(reference: Reference) -> Answer:
    return _refusal(
        "ModelPack artifact cannot be pulled by digest here; with --docker for Docker, "
        f"run: modelpack pull {reference.familiar}"
    )


def _refusal(message: str) -> Answer:
    return _error(f"300 {_reason(message)}", "UNSUPPORTED", message)


def _reason(message: str) -> str:
    """RFC 9112 section 4 takes any visible ASCII as reason phrase."""
    return re.sub(r"[^ -~]+", "?", " ".join(message.split()))[:_REASON_LIMIT]


def _error(status: str, code: str, message: str) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answer(status, (("Content-Type", "application/json"),), body)


_NOT_FOUND = _error("404 Not Found", "MANIFEST_UNKNOWN", "not a model: ask the registry itself")
