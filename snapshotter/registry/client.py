"""A client of registries: manifests and small blobs whole, large ones as origins of ranges.

OCI distribution-spec v1.1, sections "Pull" and "Push".
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, digest_of, parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.mediatypes import OCI_INDEX
from snapshotter.registry.auth import Access, Authorizer
from snapshotter.registry.blobs import BlobOrigin, RangeBody, RegistryBlob, query
from snapshotter.registry.connections import Pool
from snapshotter.registry.control import Answer, Control
from snapshotter.registry.errors import BadAnswer, Busy
from snapshotter.registry.exchange import Hop, exchange
from snapshotter.registry.failures import is_registry_error, status_error
from snapshotter.registry.hosts import Capability, Host
from snapshotter.registry.keyring import Keyring, NodeKeyring
from snapshotter.registry.limits import Limits
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.places import Place, PlacedBlob, Places
from snapshotter.registry.reference import Reference
from snapshotter.registry.referrers import Page
from snapshotter.registry.upload import Uploader
from snapshotter.registry.upstream import Upstreams

ACCEPTED = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_T = TypeVar("_T")
_GENERIC = ("", "application/json", "text/plain", "application/octet-stream")


class Registry:
    """All registries, each asked at the hosts configured for it. Thread-safe.

    ``skip_hosts`` are never asked: the address of our own mirror endpoint. All
    methods raise :class:`~snapshotter.registry.errors.RegistryError`, or
    :class:`~snapshotter.registry.errors.InvalidHostsFile`.
    """

    def __init__(
        self,
        options: RegistryOptions | None = None,
        *,
        skip_hosts: Collection[str] = (),
        keyring: Keyring | None = None,
    ) -> None:
        """``keyring``: who we are; otherwise what the options give this node."""
        self._options = options or RegistryOptions()
        self._control = Control(self._options)
        self._pool = Pool(self._options)
        self._upstreams = Upstreams(self._options, skip=skip_hosts)
        self._limits = Limits(self._options.limits)
        self._places = Places()
        self._identify(keyring or NodeKeyring(self._options))

    def _identify(self, keyring: Keyring) -> None:
        self._authorizer = Authorizer(self._control, keyring)
        self._uploader = Uploader(self._options, self._control, self._authorizer, self._upstreams)

    def identified(self, keyring: Keyring) -> Registry:
        """The same registries, asked as somebody else: no token is shared, only connections.

        Not to be closed: that ends both.
        """
        other = copy.copy(self)
        other._identify(keyring)
        return other

    def close(self) -> None:
        """Breaks off what is being read."""
        self._pool.close()
        self._control.close()

    def resolve(self, ref: Reference) -> Descriptor:
        """Media type, digest and size of the manifest or index that ``ref`` names now."""
        return self._ask_hosts(ref, partial(self._resolve, ref))

    def manifest(self, ref: Reference, *, blobs_follow: bool = False) -> tuple[Descriptor, bytes]:
        """The manifest or index and its bytes, which have the descriptor's digest.

        With ``blobs_follow`` a connection for ranges is made meanwhile, which spares the
        first of them the round trips of TCP's and TLS's handshakes.
        """
        return self._ask_hosts(ref, partial(self._manifest, ref, blobs_follow=blobs_follow))

    def blob(self, ref: Reference, descriptor: Descriptor, *, limit: int) -> bytes:
        """A whole small blob, verified. More than ``limit`` bytes are refused unread."""
        origin = self.origin(ref.registry, ref.repository, descriptor)
        if descriptor.size > limit:
            raise BadAnswer(f"{origin.name} has {descriptor.size} bytes, at most {limit} are read")
        content = bytearray(descriptor.size)
        with _opened(origin, self._options.answer_timeout) as body:
            body.readinto(memoryview(content))
        if digest_of(content, like=descriptor.digest) != descriptor.digest:
            raise BadAnswer(
                f"{origin.name}: other content came, of digest {digest_of(content)}; "
                "the registry or a mirror of it is damaged",
                host=ref.registry,
            )
        return bytes(content)

    def origin(self, registry: str, repository: str, descriptor: Descriptor) -> BlobOrigin:
        """Where to read ranges of a blob; asks nobody yet."""

        def at(place: Place) -> BlobOrigin:
            return RegistryBlob(
                *place,
                descriptor.digest,
                descriptor.size,
                upstreams=self._upstreams,
                authorizer=self._authorizer,
                pool=self._pool,
                limits=self._limits,
            )

        return PlacedBlob((registry, repository), descriptor.digest, self._places, at)

    def also_at(self, registry: str, repository: str, digests: Iterable[Digest]) -> None:
        """These blobs are in ``repository`` too: origins go there when theirs refuses."""
        self._places.add((registry, repository), digests)

    def referrers_page(self, ref: Reference, query: str) -> Page | None:
        """One page of the referrers API for ``ref.digest``; None where there is no such API.

        See :func:`~snapshotter.registry.referrers.list_referrers`, which puts them together.
        """
        return self._upstreams.ask(
            ref.registry,
            Capability.RESOLVE,
            f"referrers of {ref.digest}",
            partial(self._referrers, ref, query),
        )

    def has_blob(self, ref: Reference, digest: Digest) -> bool:
        """Is the blob in the repository already?"""
        return self._uploader.has_blob(ref, digest)

    def upload_blob(
        self, ref: Reference, digest: Digest, size: int, body: Callable[[], Iterator[bytes]]
    ) -> None:
        """Send a blob. ``body`` is called for each attempt and yields ``size`` bytes in all."""
        self._uploader.upload_blob(ref, digest, size, body)

    def put_manifest(self, ref: Reference, media_type: str, raw: bytes) -> Digest:
        """Store a manifest under ``ref``'s digest if it has one, else its tag."""
        return self._uploader.put_manifest(ref, media_type, raw)

    def describe(self) -> list[dict[str, Any]]:
        """The hosts that were asked, and how they fare: see :meth:`Upstreams.describe`."""
        return self._upstreams.describe()

    def _ask_hosts(self, ref: Reference, request: Callable[[Host], _T]) -> _T:
        return self._upstreams.ask(ref.registry, _capability(ref), _asked(ref), request)

    def _resolve(self, ref: Reference, host: Host) -> Descriptor:
        answer = self._ask(ref, host, "HEAD")
        if answer.status in (200, 404):
            _check_status(answer, ref, self._authorizer.story(Access(host, ref.repository)))
            try:
                digest = parse_digest(answer.header("docker-content-digest") or "")
                size = int(answer.header("content-length") or "")
            except (ArtifactError, ValueError):
                return self._manifest(ref, host)[0]
            media_type = _content_type(answer)
            if media_type not in _GENERIC and ref.digest in (None, digest):
                return Descriptor(media_type, digest, size)
        # Some registries answer HEAD badly, and none of them says why: GET does.
        return self._manifest(ref, host)[0]

    def _manifest(
        self, ref: Reference, host: Host, *, blobs_follow: bool = False
    ) -> tuple[Descriptor, bytes]:
        if blobs_follow:
            self._pool.prepare(host.url, tls=host.tls, identify=True)
        answer = self._ask(ref, host, "GET")
        _check_status(answer, ref, self._authorizer.story(Access(host, ref.repository)))
        media_type = _content_type(answer)
        document = _json_object(answer.body)
        if document is None:
            raise BadAnswer(
                f"{host.address} answered {media_type or 'something'} that is no manifest for "
                f"{ref.repository}; is it a registry?",
                host=host.address,
            )
        if media_type in _GENERIC:
            named = document.get("mediaType")
            media_type = named if isinstance(named, str) else media_type
        digest = _verified(answer, ref, host)
        return Descriptor(media_type, digest, len(answer.body)), answer.body

    def _referrers(self, ref: Reference, asked: str, host: Host) -> Page | None:
        def send(hop: Hop) -> Answer:
            return self._control.send(
                "GET",
                hop.url,
                asked=f"referrers of {ref.target} of {ref.repository}",
                headers={**hop.headers, "Accept": OCI_INDEX},
                tls=host.tls,
                identify=hop.own,
                limit=self._options.manifest_limit,
            )

        asking = "&".join(part for part in (query(host).removeprefix("?"), asked) if part)
        url = f"{host.url}/{ref.repository}/referrers/{ref.target}"
        access = Access(host, ref.repository)
        url += f"?{asking}" if asking else ""
        answer, _ = exchange(access, self._authorizer, url, send)
        if answer.status == 404 or (answer.status == 200 and _content_type(answer) != OCI_INDEX):
            return None  # spec: no referrers API here
        _check_status(answer, ref, self._authorizer.story(access))
        return Page(answer.body, _next_page(answer.header("link") or ""))

    def _ask(self, ref: Reference, host: Host, method: str) -> Answer:
        def send(hop: Hop) -> Answer:
            return self._control.send(
                method,
                hop.url,
                asked=_asked(ref),
                headers={**hop.headers, "Accept": ", ".join((*ACCEPTED, "*/*"))},
                tls=host.tls,
                identify=hop.own,
                limit=self._options.manifest_limit,
            )

        url = f"{host.url}/{ref.repository}/manifests/{ref.target}{query(host)}"
        answer, _ = exchange(Access(host, ref.repository), self._authorizer, url, send)
        return answer


def _opened(origin: BlobOrigin, patience: float) -> RangeBody:
    """The whole blob; where the host is at its limits, wait for them."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return origin.open(0, origin.size)
        except Busy as error:
            if time.monotonic() > deadline:
                raise
            time.sleep(error.retry_after or 0.0)


def _capability(ref: Reference) -> Capability:
    return Capability.PULL if ref.digest is not None else Capability.RESOLVE


def _asked(ref: Reference) -> str:
    return f"manifest {ref.target} of {ref.repository}"


def _check_status(answer: Answer, ref: Reference, story: str) -> None:
    if answer.status == 200:
        return
    speaks = (
        answer.header("docker-distribution-api-version") is not None
        or _content_type(answer) == "application/json"  # all there is to see after HEAD
    )
    raise status_error(
        answer.status,
        answer.url,
        _asked(ref),
        body=answer.body,
        story=story,
        retry_after=answer.header("retry-after"),
        registry_answered=speaks or is_registry_error(answer.body),
    )


def _next_page(link: str) -> str:
    """The target of ``Link: <...>; rel="next"``, RFC 8288."""
    match = re.search(r'<([^>]*)>[^,]*;\s*rel="?next"?', link)
    return match[1] if match else ""


def _content_type(answer: Answer) -> str:
    return (answer.header("content-type") or "").partition(";")[0].strip().lower()


def _json_object(body: bytes) -> dict[str, object] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _verified(answer: Answer, ref: Reference, host: Host) -> Digest:
    """The digest of the answer's body, which is the one asked for and the one promised."""
    expected = ref.digest
    promised = answer.header("docker-content-digest")
    if expected is None and promised:
        try:
            expected = parse_digest(promised)
        except ArtifactError as error:
            raise BadAnswer(f"{host.address}: {error}", host=host.address) from None
    digest = digest_of(answer.body, like=expected)
    if expected is not None and digest != expected:
        raise BadAnswer(
            f"{host.address} answered other content for {_asked(ref)}: expected {expected}, "
            f"got {digest}; the registry or a mirror of it is damaged",
            host=host.address,
        )
    return digest
