"""Whatever a registry, a mirror or somebody on the way answers, over a real socket: the right
bytes, or one error of ours in one line; no request to anybody else; and the next read works."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fuzzing import DAMAGES, Damage, damaged, documents, examples, is_for_people
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import digest_of
from snapshotter.registry.challenges import parse_challenges
from snapshotter.registry.client import Registry
from snapshotter.registry.credentials import find_credential
from snapshotter.registry.errors import InvalidHostsFile, RegistryError
from snapshotter.registry.failures import parse_retry_after
from snapshotter.registry.hosts import is_http_url, parse_hosts
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference
from snapshotter.registry.referrers import list_referrers
from snapshotter.units import ByteSize, Seconds

CONTENT = hashlib.shake_128(b"blob").digest(5_000)
MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
).encode()
TOKEN = json.dumps({"token": "sample-token", "expires_in": 300}).encode()
START, END = 100, 4_000
PASSWORD = hashlib.sha256(b"secret").hexdigest()


class Wire:
    """Answers every connection's requests with :attr:`answers`, one after the other, then the last
    again and again."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.keep = False
        """Leave the connection open after an answer."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._run, name="wire", daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while self._request(connection):
                    raw = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                    connection.sendall(raw.replace(b"HERE", self.address.encode()))
                    if not self.keep:
                        connection.shutdown(socket.SHUT_WR)
                        connection.recv(1 << 16)
                        return
            except OSError:
                return

    def _request(self, connection: socket.socket) -> bool:
        connection.settimeout(30)
        raw = b""
        while b"\r\n\r\n" not in raw:
            piece = connection.recv(1 << 16)
            if not piece:
                return False
            raw += piece
        return True


def reply(status: str, body: bytes, **headers: str) -> bytes:
    fields = {"Content_Length": str(len(body)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


RANGE = reply(
    "206 Partial Content", CONTENT[START:END], Content_Range=f"bytes {START}-{END - 1}/5000"
)
CHUNKED = (
    f"HTTP/1.1 206 P\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes {START}-{END - 1}/5000"
    f"\r\n\r\n{END - START:x};a=b\r\n"
).encode() + CONTENT[START:END] + b"\r\n0\r\nX-Trailer: 1\r\n\r\n"  # fmt: skip
REDIRECT = reply(
    "307 Temporary Redirect", b"", Location="http://HERE/elsewhere?sig=sample-signature"
)
LIMITED = reply("429 Too Many", b'{"errors": [{"code": "X", "message": "y"}]}', Retry_After="1")
CHALLENGE = reply(
    "401 Unauthorized",
    b"{}",
    WWW_Authenticate='Bearer realm="http://HERE/token",service="s",scope="repository:a/m:pull"',
)
BASIC = reply("401 Unauthorized", b"{}", WWW_Authenticate='Basic realm="r"')
GIVEN = reply("200 OK", TOKEN, Content_Type="application/json")
MANIFEST_ANSWER = reply(
    "200 OK",
    MANIFEST,
    Content_Type="application/vnd.oci.image.manifest.v1+json",
    Docker_Content_Digest=digest_of(MANIFEST),
)
INDEX = reply(
    "200 OK",
    json.dumps({"schemaVersion": 2, "manifests": []}).encode(),
    Content_Type="application/vnd.oci.image.index.v1+json",
    Link='</v2/a/m/referrers/x?last=1>; rel="next"',
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
SOUND = [RANGE, CHUNKED, REDIRECT, LIMITED, CHALLENGE, BASIC, GIVEN, MANIFEST_ANSWER, INDEX, HEAD]
NAMES = st.sampled_from(
    ["Content-Length", "Content-Range", "Transfer-Encoding", "WWW-Authenticate", "Location",
     "Retry-After", "Content-Encoding", "Content-Type", "Docker-Content-Digest", "Link",
     "Connection", "Set-Cookie"]
)  # fmt: skip
VALUES = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40),
    st.sampled_from(
        ["", "0", "-1", "5", "1e9", "9" * 400, "\u00b2", "bytes 100-3999/5000", "bytes */5000",
         "bytes 0-99999999999999999999/5000", "chunked", "gzip, chunked", "identity", "gzip", "br",
         "http://HERE/x", "//HERE/x", "/x", "x", "http://[::1", "http://HERE:99999999/", "http://",
         "https://HERE/", "ftp://HERE/", "http://user:sample@HERE/", "http://h\u00e9.example/",
         "http://HERE/\u00e9 \u00e8", "http://a..b/", "http://" + "a" * 70 + "/", "http://HERE/#a",
         "sha256:", "sha256:" + "a" * 64, "sha512:" + "a" * 64, "Bearer", 'Bearer realm="',
         'Bearer realm="http://HERE/token\u00e9"', 'Basic realm="x", Bearer realm="http://[/"',
         'Bearer realm="http://HERE/token?a=b",service="\u00e9",scope=""',
         "Wed, 99 Foo 99999 99:99:99 GMT", "Wed, 21 Oct 2099 07:28:00 GMT", "Thu, 01 Jan 0000",
         "<>; rel=next", "<\u00e9>; rel=next", "a" * 70_000]
    ),
)  # fmt: skip
STATUS = st.sampled_from(
    ["100 Continue", "101 Switching", "200 OK", "204 No", "206 Partial", "301 M", "302 F", "304 N",
     "307 T", "400 B", "401 U", "403 F", "404 N", "416 R", "429 T", "500 I", "503 S", "999 X",
     "099 X", "0 x", "-1 x", "200"]
)  # fmt: skip
MADE = st.builds(
    lambda status, headers, body: (
        f"HTTP/1.1 {status}\r\n".encode()
        + b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers)
        + b"\r\n"
        + body
    ),
    STATUS,
    st.lists(st.tuples(NAMES, VALUES), max_size=5),
    st.sampled_from([b"", b"{}", CONTENT[START:END], MANIFEST, TOKEN, b"5\r\nabcde\r\n0\r\n\r\n",
                     b"-5\r\nabcde\r\n0\r\n\r\n", b"zz\r\n", b"[" * 20_000])
    | documents({"token": "t", "access_token": "t", "expires_in": 60})
    | documents({"errors": [{"code": "DENIED", "message": "no"}]}),
)  # fmt: skip
ANSWERS = st.sampled_from(SOUND) | MADE | damaged(*SOUND) | st.binary(max_size=100)


@dataclass(frozen=True)
class Stage:
    wire: Wire
    registry: Registry
    options: RegistryOptions


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A registry of which nothing is known to be good, and a user who has credentials for it."""
    wire = Wire()
    config = tmp_path / "config.json"
    auths = {wire.address: {"username": "alice", "password": PASSWORD}}
    config.write_text(json.dumps({"auths": auths}))
    options = RegistryOptions(
        certs_d=(),
        docker_config=str(config),
        read_timeout=Seconds(0.3),
        connect_timeout=Seconds(1),
        answer_timeout=Seconds(2),
        manifest_limit=ByteSize(100_000),
        breaker_failures=0,
        max_retry_after=Seconds(0),
    )
    registry = Registry(options)
    yield Stage(wire, registry, options)
    registry.close()
    wire.close()


@pytest.fixture(autouse=True)
def nobody_else(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and ports that are not the wire's do not exist, and are not asked for."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host) not in ("127.0.0.1", "localhost") or str(port) != str(stage.wire.port):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture(autouse=True)
def _no_secret_is_logged() -> Iterator[None]:
    """Kept off the terminal: here are thousands of lines, and the words of this very file, which
    Hypothesis likes to use, may be among them."""
    with capture_logs() as lines:
        yield
    assert PASSWORD not in str(lines)


def read(stage: Stage) -> bytes:
    descriptor = Descriptor("application/octet-stream", digest_of(CONTENT), len(CONTENT))
    content = bytearray(END - START)
    origin = stage.registry.origin(stage.wire.address, "a/m", descriptor)
    with origin.open(START, END) as body:
        assert body.readinto(memoryview(content)) == len(content)
    return bytes(content)


def reference(stage: Stage) -> Reference:
    return Reference.parse(f"{stage.wire.address}/a/m:1")


def manifest(stage: Stage) -> bytes:
    descriptor, raw = stage.registry.manifest(reference(stage))
    assert descriptor.digest == digest_of(raw, like=descriptor.digest)
    assert descriptor.size == len(raw) <= 100_000
    return raw


def resolve(stage: Stage) -> Descriptor:
    return stage.registry.resolve(reference(stage))


def referrers(stage: Stage) -> list[Descriptor]:
    subject = reference(stage).with_digest(digest_of(MANIFEST))
    return list_referrers(stage.registry, subject)


def refused_or(act: Callable[[], object]) -> None:
    try:
        act()
    except RegistryError as error:
        is_for_people(error)
        has_no_secret(error)


def has_no_secret(error: RegistryError) -> None:
    assert PASSWORD not in str(error)


@pytest.mark.parametrize("ask", [read, manifest, resolve, referrers])
@examples(150)
@given(
    answers=st.lists(ANSWERS, min_size=1, max_size=4), keep=st.sampled_from([False] * 9 + [True])
)
def test_whatever_is_answered_is_right_or_an_error_and_the_next_read_works(
    stage: Stage, ask: Callable[[Stage], object], answers: list[bytes], keep: bool
) -> None:
    stage.wire.answers, stage.wire.keep = list(answers), keep
    refused_or(lambda: ask(stage))
    stage.wire.answers, stage.wire.keep = [RANGE], False
    # A wrong answer, or a token, that came before may be spent on the next request.
    attempts = 4
    while attempts:
        try:
            assert read(stage) == CONTENT[START:END]
            return
        except RegistryError as error:
            attempts -= " in time" not in str(error)  # a busy machine may be late, ever again
    pytest.fail("the next read did not work")


@pytest.mark.parametrize("sound", [RANGE, CHUNKED])
def test_the_samples_are_sound(stage: Stage, sound: bytes) -> None:
    long = Seconds(60)
    patient = msgspec.structs.replace(
        stage.options, read_timeout=long, connect_timeout=long, answer_timeout=long
    )
    for answers in ([sound], [REDIRECT, sound], [CHALLENGE, GIVEN, sound]):
        stage.wire.answers, stage.wire.keep = list(answers), False
        registry = Registry(patient)
        assert read(replace(stage, registry=registry)) == CONTENT[START:END]
        registry.close()


@examples(300)
@given(DAMAGES, st.text(max_size=40))
def test_any_challenge_and_pause_is_read_or_ignored(damage: Damage, text: str) -> None:
    sound = b'Bearer realm="https://a.example/token",service="r",scope="a:b:pull,push", Basic'
    parse_challenges([damage.to(sound).decode("latin-1"), text])
    for value in (text, damage.to(b"Wed, 21 Oct 2099 07:28:00 GMT").decode("latin-1")):
        seconds = parse_retry_after(value)
        assert seconds is None or 0 <= seconds <= 3600


HOSTS = b"""server = "https://registry.example"
skip_verify = false
[host."http://127.0.0.1:7670"]
  capabilities = ["pull", "resolve"]
  ca = ["a.pem", "/b.pem"]
  client = [["c.pem", "k.pem"]]
  override_path = true
  [host."http://127.0.0.1:7670".header]
    X-Team = ["a", "b"]
"""


@examples(300)
@given(DAMAGES)
def test_any_hosts_file_names_hosts_or_is_refused(damage: Damage) -> None:
    text = damage.to(HOSTS).decode("utf-8", "replace")
    try:
        hosts = parse_hosts(text, "registry.example", Path("/certs.d/registry.example/hosts.toml"))
    except InvalidHostsFile as error:
        is_for_people(error)
        return
    assert hosts
    for host in hosts:
        assert is_http_url(host.url)
        assert "@" not in host.address
        assert host.query in ({}, {"ns": "registry.example"})


@examples(100)
@given(
    documents(
        {"auths": {"r.example": {"auth": "YTpi"}}, "credHelpers": {}, "credsStore": ""},
        {"auths": {"r.example": {"username": "a", "password": "b"}}},
    )
)
def test_any_docker_config_has_credentials_or_none(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(raw)
    found = find_credential("r.example", str(file))
    assert found.story
    if found.credential is not None:
        assert found.credential.basic.startswith("Basic ")
