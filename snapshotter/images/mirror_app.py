"""What the mirror endpoint answers: a registry that knows models only.

containerd and dockerd ask it first when ``hosts.toml`` names it. A model's tag is
answered with its stub image; everything else with 404, which makes the client go
on to the real registry. Nothing is relayed from there, neither blobs nor manifests.

Status 300 is how a pull is ended with a reason: containerd 1.6 to 2.3 and dockerd
go on to the next host after 4xx and 5xx, and would then download the whole model
and unpack nothing, while for 3xx without Location they stop and show the status line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import structlog

from snapshotter.artifact.descriptor import Platform
from snapshotter.errors import ModelpackError
from snapshotter.images.errors import ImageError
from snapshotter.images.lookup import LookupFailed, ModelLookup
from snapshotter.images.options import MirrorOptions
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


class Mirror:
    """The endpoint as a WSGI application; thread-safe."""

    def __init__(
        self,
        options: MirrorOptions,
        lookup: ModelLookup,
        stubs: StubStore,
        platform: Platform,
        serves: Callable[[str], bool],
    ) -> None:
        """``serves`` says which registries are answered for when the options name none."""
        self._options = options
        self._lookup = lookup
        self._stubs = stubs
        self._platform = platform
        self._serves = serves

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        try:
            answer = self.answer(method, path, environ.get("QUERY_STRING", ""))
        except Exception:
            log.exception("mirror request failed", method=method, path=path)
            answer = _error(
                "500 Internal Server Error", "UNKNOWN", "see modelpack-snapshotter's log"
            )
        log.debug("mirror request", method=method, path=path, status=answer.status)
        length = ("Content-Length", str(len(answer.body)))
        start_response(answer.status, [*answer.headers, length])
        return [] if method == "HEAD" else [answer.body]

    def answer(self, method: str, path: str, query: str) -> Answer:
        """What a request gets; the distribution specification's pull endpoints."""
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
        return self._manifest(reference)

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

    def _manifest(self, reference: Reference) -> Answer:
        pinned = reference.digest is not None
        kept = self._kept(reference, is_manifest=True) if pinned else None
        if kept is not None:
            return kept
        if pinned and self._options.pinned == "pass":
            return _NOT_FOUND
        try:
            if reference.digest is not None and self._stubs.is_model(reference.digest):
                return _pinned(reference)
            model = self._lookup.find(reference)
            if model is None:
                return _NOT_FOUND
            if pinned:
                return _pinned(reference)
            stub = stub_image(model, self._platform)
            self._stubs.add(model, stub)
        except LookupFailed as error:
            return self._failed(reference, error)
        except ImageError as error:
            log.error("model not served", reference=str(reference), error=str(error))
            return _refusal(str(error))
        return _content(stub.manifest.digest, stub.manifest.media_type, stub.manifest_bytes)

    def _failed(self, reference: Reference, error: LookupFailed) -> Answer:
        known = error.is_model or self._stubs.holds_models(reference.registry, reference.repository)
        log.warning(
            "registry did not answer for the mirror",
            reference=str(reference),
            error=str(error),
            pull="refused" if known else "passed on",
        )
        # A client that goes on with a model downloads it whole and mounts nothing.
        return (
            _refusal(f"ModelPack artifact cannot be pulled now: {error}") if known else _NOT_FOUND
        )

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


def _pinned(reference: Reference) -> Answer:
    return _refusal(
        "ModelPack artifact cannot be pulled by digest here; with --docker for Docker, "
        f"run: modelpack pull {reference.familiar}"
    )


def _refusal(message: str) -> Answer:
    # RFC 9112 section 4 takes any visible ASCII as reason phrase.
    reason = re.sub(r"[^ -~]+", "?", " ".join(message.split()))[:_REASON_LIMIT]
    return _error(f"300 {reason}", "UNSUPPORTED", message)


def _error(status: str, code: str, message: str) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answer(status, (("Content-Type", "application/json"),), body)


_NOT_FOUND = _error("404 Not Found", "MANIFEST_UNKNOWN", "not a model: ask the registry itself")
