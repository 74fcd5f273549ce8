"""Pushing, OCI distribution-spec v1.1 section "Push": blobs in one piece, then manifests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlencode, urlsplit

from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.registry.auth import Access, Authorizer
from snapshotter.registry.control import Answer, Control
from snapshotter.registry.errors import BadAnswer, RegistryError
from snapshotter.registry.exchange import FOR_WRITING, Hop, exchange, redirect_target
from snapshotter.registry.failures import is_registry_error, status_error
from snapshotter.registry.hosts import Capability, Host
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference
from snapshotter.registry.upstream import Upstreams

_ANSWER_LIMIT = 1 << 20


class Uploader:
    """Writes to the first host that may be pushed to; a mirror usually may not."""

    def __init__(
        self,
        options: RegistryOptions,
        control: Control,
        authorizer: Authorizer,
        upstreams: Upstreams,
    ) -> None:
        self._options = options
        self._control = control
        self._authorizer = authorizer
        self._upstreams = upstreams

    def has_blob(self, ref: Reference, digest: Digest) -> bool:
        host = self._host(ref)
        url = f"{host.url}/{ref.repository}/blobs/{digest}"
        asked = f"blob {digest} of {ref.repository}"
        # A redirect says that the blob is there; a signature for GET would refuse our HEAD.
        answer = self._send(host, ref, "HEAD", url, asked, redirects=frozenset())
        if answer.status == 404:
            return False
        if answer.status < 400:
            return True
        raise self._refused(answer, host, ref, asked)

    def upload_blob(
        self, ref: Reference, digest: Digest, size: int, body: Callable[[], Iterator[bytes]]
    ) -> None:
        host = self._host(ref)
        asked = f"upload of blob {digest} to {ref.repository}"
        start = f"{host.url}/{ref.repository}/blobs/uploads/"
        opened = self._send(host, ref, "POST", start, asked, headers={"Content-Length": "0"})
        if opened.status == 201:
            return
        location = opened.header("location")
        if opened.status != 202 or not location:
            raise self._refused(opened, host, ref, asked)
        url = redirect_target(opened.url, location)
        url += ("&" if urlsplit(url).query else "?") + urlencode({"digest": digest})
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        done = self._send(host, ref, "PUT", url, asked, headers=headers, body=body)
        if done.status != 201:
            raise self._refused(done, host, ref, asked)
        _check_digest(done, host, asked, digest)

    def put_manifest(self, ref: Reference, media_type: str, raw: bytes) -> Digest:
        host = self._host(ref)
        digest = digest_of(raw, like=ref.digest)
        asked = f"upload of manifest {ref.target} to {ref.repository}"
        if ref.digest not in (None, digest):
            raise BadAnswer(f"{asked}: its digest is {digest}")
        answer = self._send(
            host,
            ref,
            "PUT",
            f"{host.url}/{ref.repository}/manifests/{ref.target}",
            asked,
            headers={"Content-Type": media_type},
            body=lambda: raw,
        )
        if answer.status not in (200, 201):
            raise self._refused(answer, host, ref, asked)
        _check_digest(answer, host, asked, digest)
        return digest

    def _host(self, ref: Reference) -> Host:
        return self._upstreams.hosts(ref.registry, Capability.PUSH)[0]

    def _send(
        self,
        host: Host,
        ref: Reference,
        method: str,
        url: str,
        asked: str,
        *,
        headers: dict[str, str] | None = None,
        body: Callable[[], Iterator[bytes] | bytes] | None = None,
        redirects: frozenset[int] = FOR_WRITING,
    ) -> Answer:
        def send(hop: Hop) -> Answer:
            return self._control.send(
                method,
                hop.url,
                asked=asked,
                headers={**hop.headers, **(headers or {})},
                tls=host.tls,
                identify=hop.own,
                limit=_ANSWER_LIMIT,
                content=body() if body is not None else None,
                patience=self._options.commit_timeout if body is not None else None,
            )

        access = Access(host, ref.repository, push=True)
        answer, _ = exchange(access, self._authorizer, url, send, redirects=redirects)
        return answer

    def _refused(self, answer: Answer, host: Host, ref: Reference, asked: str) -> RegistryError:
        return status_error(
            answer.status,
            answer.url,
            asked,
            body=answer.body,
            story=self._authorizer.story(Access(host, ref.repository, push=True)),
            retry_after=answer.header("retry-after"),
            registry_answered=is_registry_error(answer.body),
        )


def _check_digest(answer: Answer, host: Host, asked: str, digest: Digest) -> None:
    stored = answer.header("docker-content-digest")
    if stored is not None and stored != digest:
        raise BadAnswer(
            f"{host.address} stored {stored[:160]} for {asked}, expected {digest}",
            host=host.address,
        )
