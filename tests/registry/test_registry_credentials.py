from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from snapshotter.registry.credentials import Credential, config_file, find_credential


def configured(tmp_path: Path, document: Any) -> str:
    file = tmp_path / "config.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(file)


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential helper ``test`` that knows three servers and writes down how it was called."""
    program = tmp_path / "docker-credential-test"
    program.write_text(
        f"""#!{sys.executable}
import json, pathlib, sys
server = sys.stdin.read()
pathlib.Path({str(tmp_path / "calls")!r}).write_text(json.dumps([sys.argv[1:], server]))
known = {{
    "r.example": ("alice", "hunter2"),
    "token.example": ("<token>", "refresh-hunter2"),
    "https://index.docker.io/v1/": ("whale", "hunter2"),
}}
if server == "bad.example":
    print("hunter2 is no JSON")
elif server in known:
    user, secret = known[server]
    print(json.dumps({{"ServerURL": server, "Username": user, "Secret": secret}}))
else:
    print("credentials not found in native keychain")
    sys.exit(1)
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


@pytest.mark.parametrize(
    "key", ["r.example:5000", "https://r.example:5000", "https://r.example:5000/v2/"]
)
def test_a_stored_password_is_found_under_dockers_spellings(tmp_path: Path, key: str) -> None:
    config = configured(tmp_path, {"auths": {key: auth("alice", "p:w")}})
    found = find_credential("r.example:5000", config)
    assert found.credential == Credential("alice", "p:w")
    assert "alice" in found.story
    assert config in found.story
    assert find_credential("r.example", config).credential is None


def test_docker_hub_has_a_key_of_its_own(tmp_path: Path) -> None:
    config = configured(tmp_path, {"auths": {"https://index.docker.io/v1/": auth("w", "p")}})
    assert find_credential("registry-1.docker.io", config).credential == Credential("w", "p")
    assert find_credential("docker.io", config).credential == Credential("w", "p")


def test_an_identity_token_is_found(tmp_path: Path) -> None:
    entry = {**auth("00000000", ""), "identitytoken": "secret-token"}
    found = find_credential("r.example", configured(tmp_path, {"auths": {"r.example": entry}}))
    assert found.credential is not None
    assert found.credential.identity_token == "secret-token"


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        "[" * 5000,
        '{"auths": {"r.example": {"auth": "%%%"}}}',
        '{"auths": {"r.example": {"auth": "\u00fc"}}}',
        "{}",
    ],
)
def test_what_cannot_be_read_is_no_credential_and_told(tmp_path: Path, document: str) -> None:
    config = configured(tmp_path, document)
    found = find_credential("r.example", config)
    assert found.credential is None
    assert config in found.story


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    found = find_credential("r.example", str(tmp_path / "none.json"))
    assert found.credential is None
    assert "none.json does not exist" in found.story


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", "/elsewhere")
    assert config_file() == Path("/elsewhere/config.json")
    assert config_file(str(tmp_path)) == tmp_path / "config.json"
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", "/home/alice")
    assert config_file() == Path("/home/alice/.docker/config.json")


def test_a_helper_is_asked_on_stdin(tmp_path: Path, helper: Path) -> None:
    config = configured(tmp_path, {"credHelpers": {"r.example": "test"}})
    assert find_credential("r.example", config).credential == Credential("alice", "hunter2")
    assert json.loads((tmp_path / "calls").read_text()) == [["get"], "r.example"]
    assert find_credential("other.example", config).credential is None


def test_the_store_is_asked_for_every_host(tmp_path: Path, helper: Path) -> None:
    config = configured(
        tmp_path, {"credsStore": "test", "auths": {"file.example": auth("bob", "p")}}
    )
    assert find_credential("docker.io", config).credential == Credential("whale", "hunter2")
    token = find_credential("token.example", config).credential
    assert token is not None
    assert token.identity_token == "refresh-hunter2"
    assert find_credential("file.example", config).credential == Credential("bob", "p")


def test_a_helper_that_fails_is_told_without_its_output(tmp_path: Path, helper: Path) -> None:
    config = configured(tmp_path, {"credsStore": "test", "credHelpers": {"m.example": "missing"}})
    for host in ("bad.example", "unknown.example", "m.example"):
        found = find_credential(host, config)
        assert found.credential is None
        assert "docker-credential-" in found.story
        assert "hunter2" not in found.story


def test_secrets_are_not_shown() -> None:
    credential = Credential("alice", "hunter2", "hunter2-token")
    assert "hunter2" not in repr(credential)
    assert "hunter2" not in str(credential)


def test_a_password_that_is_no_text_is_sent_as_what_it_is_not_and_refused(tmp_path: Path) -> None:
    entry = {"username": "alice", "password": "\ud800"}
    found = find_credential("r.example", configured(tmp_path, {"auths": {"r.example": entry}}))
    assert found.credential is not None
    assert found.credential.basic == "Basic " + base64.b64encode(b"alice:?").decode()
