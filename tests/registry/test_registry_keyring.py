"""Whose credentials are tried where: pull secrets, files, credential providers, Docker's config."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from registry_scripted import Reply, Request, scripted

from snapshotter.registry.client import Registry
from snapshotter.registry.credentials import Credential
from snapshotter.registry.errors import Unauthorized
from snapshotter.registry.hosts import Host
from snapshotter.registry.keyring import NodeKeyring, PresentedKeyring, PullSecretKeyring
from snapshotter.registry.options import CredentialProvider, RegistryOptions
from snapshotter.registry.patterns import matches, without_scheme
from snapshotter.registry.providers import Provider
from snapshotter.registry.pull_secrets import PullSecret, PullSecrets, parse_auth
from snapshotter.registry.reference import Reference
from snapshotter.registry.secret_files import SecretFiles
from snapshotter.units import Seconds

OCI = "application/vnd.oci.image.manifest.v1+json"
ALICE, BOB = Credential("alice", "alice-password"), Credential("bob", "bob-password")


def auths(**entries: Credential) -> dict[str, Any]:
    return {
        key: {"auth": base64.b64encode(f"{c.username}:{c.password}".encode()).decode()}
        for key, c in entries.items()
    }


@pytest.mark.parametrize(
    ("pattern", "image", "covered"),
    [
        ("r.example", "r.example/team/m", True),
        ("r.example", "r.example:5000/team/m", False),
        ("r.example:5000", "r.example:5000/team/m", True),
        ("*.example", "r.example/m", True),
        ("*.example", "a.r.example/m", False),
        ("r*.exam*", "registry.example/m", True),
        ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com/m", True),
        ("r.example/team", "r.example/team/m", True),
        ("r.example/team", "r.example/team", True),
        ("r.example/team", "r.example/teams/m", False),
        ("index.docker.io", "docker.io/library/m", True),
        ("docker.io/library", "registry-1.docker.io/library/m", True),
        ("[::1]:5000", "[::1]:5000/m", True),
        ("*", "localhost/m", True),
    ],
)
def test_patterns_are_kubelets(pattern: str, image: str, covered: bool) -> None:
    registry, _, repository = image.partition("/")
    assert matches(pattern, registry, repository) is covered


def test_a_key_of_docker_is_a_pattern_without_scheme_and_version() -> None:
    assert without_scheme("https://index.docker.io/v1/") == "index.docker.io"
    assert without_scheme("r.example/team/") == "r.example/team"


# Pull secrets in files


def test_a_mounted_secret_is_found_the_most_exact_key_first(tmp_path: Path) -> None:
    data = tmp_path / "..data"
    data.mkdir()
    document = {"auths": auths(**{"*.example": BOB, "r.example/team": ALICE})}
    (data / ".dockerconfigjson").write_text(json.dumps(document))
    (tmp_path / ".dockerconfigjson").symlink_to("..data/.dockerconfigjson")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".dockercfg").write_text(json.dumps(auths(**{"old.test": BOB})))
    files = SecretFiles([str(tmp_path)])
    assert [f.credential for f in files.find("r.example", "team/m")] == [ALICE, BOB]
    assert [f.credential for f in files.find("r.example", "m")] == [BOB]
    assert [f.credential for f in files.find("old.test", "m")] == [BOB]
    assert files.find("elsewhere.test", "m") == []


def test_a_secret_that_is_rotated_counts_at_once(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": auths(**{"r.example": ALICE})}))
    files = SecretFiles([str(file)])
    assert files.find("r.example", "m")[0].credential == ALICE
    new = tmp_path / "new"
    new.write_text(json.dumps({"auths": auths(**{"r.example": BOB})}))
    new.replace(file)
    assert files.find("r.example", "m")[0].credential == BOB
    file.unlink()
    assert files.find("r.example", "m") == []


@pytest.mark.parametrize(
    "text", ["", "[]", '{"auths": 1}', '{"auths": {"r.example": {"auth": 1}}}']
)
def test_what_is_no_pull_secret_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert SecretFiles([str(tmp_path), str(tmp_path / "none")]).find("r.example", "m") == []


# Credential providers


class Plugin:
    """A program that answers what it is told and writes down what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "provider"
        self._answer = directory / "credential-answer"
        self._asked = directory / "asked"
        self.path.write_text(
            f"#!{sys.executable}\nimport os, pathlib, sys\n"
            f"with open({str(self._asked)!r}, 'a') as asked:\n"
            "    asked.write(sys.stdin.read() + os.environ.get('REGION', '') + chr(10))\n"
            f"print(pathlib.Path({str(self._answer)!r}).read_text())\n"
            "sys.exit(int(sys.argv[1]))\n"
        )
        self.path.chmod(0o755)

    def answers(self, **fields: Any) -> None:
        response = {
            "kind": "CredentialProviderResponse",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "cacheKeyType": "Registry",
            "auth": {"*.example": {"username": ALICE.username, "password": ALICE.password}},
        }
        self._answer.write_text(json.dumps(response | fields))

    @property
    def asked(self) -> list[str]:
        return self._asked.read_text().splitlines() if self._asked.exists() else []

    def options(self, status: int = 0, **fields: Any) -> CredentialProvider:
        return CredentialProvider(
            path=str(self.path), match_images=("*.example",), args=(str(status),), **fields
        )


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


def test_a_provider_is_asked_as_kubelet_asks(plugin: Plugin) -> None:
    plugin.answers(cacheDuration="12h0m0s")
    provider = Provider("test", plugin.options(env=("REGION=eu",)))
    assert [f.credential for f in provider.find("r.example", "team/m")] == [ALICE]
    assert provider.find("elsewhere.test", "m") == []
    (asked,) = plugin.asked
    assert json.loads(asked.removesuffix("eu")) == {
        "kind": "CredentialProviderRequest",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "image": "r.example/team/m",
    }


@pytest.mark.parametrize(("kind", "runs"), [("Image", 3), ("Registry", 2), ("Global", 1)])
def test_answers_are_kept_for_what_they_say(plugin: Plugin, kind: str, runs: int) -> None:
    plugin.answers(cacheDuration="1m30.5s", cacheKeyType=kind)
    provider = Provider("test", plugin.options())
    for image in ("r.example/m", "r.example/m", "r.example/n", "s.example/m"):
        registry, _, repository = image.partition("/")
        assert provider.find(registry, repository)[0].credential == ALICE
    assert len(plugin.asked) == runs


@pytest.mark.parametrize(
    ("said", "default", "runs"), [("0s", 60, 2), (None, 60, 1), (None, 0, 2), ("0", 60, 2)]
)
def test_what_is_not_to_be_kept_is_asked_for_again(
    plugin: Plugin, said: str | None, default: int, runs: int
) -> None:
    plugin.answers(cacheDuration=said)
    provider = Provider("test", plugin.options(default_cache_duration=Seconds(default)))
    for _ in range(2):
        provider.find("r.example", "m")
    assert len(plugin.asked) == runs


@pytest.mark.parametrize(
    ("fields", "status", "told"),
    [
        ({}, 3, "failed with status 3"),
        ({"kind": "Other"}, 0, "no CredentialProviderResponse"),
        ({"apiVersion": "credentialprovider.kubelet.k8s.io/v1beta1"}, 0, "apiVersion"),
        ({"cacheKeyType": "None"}, 0, "cacheKeyType"),
        ({"cacheDuration": "tomorrow alice-password"}, 0, "cacheDuration"),
    ],
)
def test_a_provider_that_fails_is_told_without_what_it_said(
    plugin: Plugin, fields: dict[str, Any], status: int, told: str
) -> None:
    plugin.answers(**fields)
    provider = Provider("test", plugin.options(status))
    for _ in range(2):
        (found,) = provider.find("r.example", "m")
    assert found.credential is None
    assert "credential provider test" in found.story
    assert told in found.story
    assert "alice-password" not in found.story
    assert len(plugin.asked) == 1


def test_a_provider_that_hangs_is_given_up(tmp_path: Path) -> None:
    options = CredentialProvider(
        path="/bin/sleep", args=("60",), match_images=("r.example",), timeout=Seconds(0.05)
    )
    (found,) = Provider("slow", options).find("r.example", "m")
    assert "gave no answer in 0.05 s" in found.story


# What came with pulls


def test_the_newest_secret_of_a_repository_counts_and_their_number_is_bounded() -> None:
    secrets = PullSecrets(limit=2)
    for repository, credential in (("a", ALICE), ("a", BOB), ("b", ALICE)):
        secrets.keep("r.example", repository, PullSecret(credential))
    assert secrets.find("r.example", "a", "r.example")[0].credential == BOB
    secrets.keep("r.example", "a", PullSecret(BOB))
    secrets.keep("r.example", "c", PullSecret(ALICE))
    assert secrets.has("r.example", "a")
    assert not secrets.has("r.example", "b")
    assert not secrets.has("s.example", "a")


def test_secrets_outlive_the_process_in_memory_and_never_on_a_disk(tmp_path: Path) -> None:
    with TemporaryDirectory(dir="/dev/shm") as memory:
        shared = Path(memory)
        for directory in (tmp_path, shared):
            secrets = PullSecrets(directory / "secrets")
            secrets.keep("r.example", "a", PullSecret(ALICE, "r.example"))
        assert list(tmp_path.iterdir()) == []
        found = PullSecrets(shared / "secrets").find("r.example", "a", "r.example")
        assert found[0].credential == ALICE
        (shared / "secrets").chmod(0o644)
        assert not PullSecrets(shared / "secrets").has("r.example", "a")
        (shared / "secrets").write_text("{}")
        assert not PullSecrets(shared / "secrets").has("r.example", "a")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (("alice", "p:w", "", "", ""), PullSecret(Credential("alice", "p:w"))),
        (("", "", "", "token", ""), PullSecret(Credential("", identity_token="token"))),
        (("", "", base64.b64encode(b"alice:p:w").decode(), "", ""),
         PullSecret(Credential("alice", "p:w"))),
        (("alice", "pw", "", "", "https://r.example/v1/"),
         PullSecret(Credential("alice", "pw"), "r.example")),
        (("", "", "", "", "r.example"), None),
        (("", "", "no base64", "", ""), None),
    ],
)  # fmt: skip
def test_an_auth_config_is_read_as_containerd_reads_it(
    fields: tuple[str, str, str, str, str], expected: PullSecret | None
) -> None:
    assert parse_auth(*fields) == expected


def test_a_pull_secret_comes_first_at_the_registry_and_last_at_a_mirror(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"auths": auths(**{"r.example": BOB, "mirror.example": BOB})})
    )
    node = NodeKeyring(RegistryOptions(docker_config=str(tmp_path)))
    secrets = PullSecrets()
    secrets.keep("r.example", "m", PullSecret(ALICE))
    secrets.keep("r.example", "pinned", PullSecret(ALICE, "r.example"))
    keyring = PullSecretKeyring(node, secrets)
    own = Host("https://r.example/v2", "r.example")
    mirror = Host("https://mirror.example/v2", "r.example")
    assert [f.credential for f in keyring.find(own, "m")] == [ALICE, BOB]
    assert [f.credential for f in keyring.find(own, "other")] == [BOB]
    assert [f.credential for f in keyring.find(mirror, "m")] == [BOB, ALICE]
    assert [f.credential for f in keyring.find(mirror, "pinned")] == [BOB]
    presented = PresentedKeyring(PullSecret(ALICE, "r.example"))
    assert presented.find(own, "m")[0].credential == ALICE
    assert presented.find(mirror, "m")[0].credential is None


def test_nothing_found_tells_of_every_place_that_was_looked_at(
    tmp_path: Path, plugin: Plugin
) -> None:
    plugin.answers(auth={})
    options = RegistryOptions(
        docker_config=str(tmp_path / "none"), credential_providers={"test": plugin.options()}
    )
    (found,) = NodeKeyring(options).find(Host("https://r.example/v2", "r.example"), "m")
    assert found.credential is None
    assert "none does not exist" in found.story
    assert "credential provider test has none" in found.story


# Through a registry


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def basic_only_for(*good: Credential, status: int = 401) -> Any:
    def answer(request: Request) -> Reply:
        sent = request.headers.get("Authorization")
        if sent is None:
            return Reply(401, {"WWW-Authenticate": 'Basic realm="test"'})
        if sent not in [credential.basic for credential in good]:
            challenge = {"WWW-Authenticate": 'Basic realm="test"'} if status == 401 else {}
            return Reply(status, challenge, b'{"errors": [{"code": "DENIED"}]}')
        return Reply(200, {"Content-Type": OCI}, b'{"schemaVersion":2}')

    return answer


def asking(config: Path, address: str, *, secret: Credential) -> tuple[Registry, PullSecrets]:
    config.write_text(json.dumps({"auths": auths(**{address: BOB})}))
    options = RegistryOptions(certs_d=(), docker_config=str(config))
    secrets = PullSecrets()
    secrets.keep(address, "m", PullSecret(secret))
    return Registry(options, keyring=PullSecretKeyring(NodeKeyring(options), secrets)), secrets


@pytest.mark.parametrize("status", [401, 403])
def test_a_secret_that_is_refused_is_followed_by_the_nodes_own_which_is_then_kept_to(
    config: Path, status: int
) -> None:
    with scripted(basic_only_for(BOB, status=status)) as server:
        registry, _ = asking(config, server.address, secret=ALICE)
        for _ in range(3):
            registry.manifest(Reference.parse(f"{server.address}/m:1"))
        sent = [request.headers.get("Authorization") for request in server.requests]
        assert sent == [None, ALICE.basic, BOB.basic, BOB.basic, BOB.basic]
        registry.close()


def test_a_newer_secret_is_used_once_the_old_one_is_refused(config: Path) -> None:
    good = [ALICE]
    with scripted(lambda request: basic_only_for(*good)(request)) as server:
        registry, secrets = asking(config, server.address, secret=ALICE)
        reference = Reference.parse(f"{server.address}/m:1")
        registry.manifest(reference)
        carol = Credential("carol", "carol-password")
        secrets.keep(server.address, "m", PullSecret(carol))
        good[:] = [carol]
        registry.manifest(reference)
        assert server.requests[-1].headers["Authorization"] == carol.basic
        registry.close()


def test_what_all_credentials_are_refused_for_is_told_by_the_registrys_own_words(
    config: Path,
) -> None:
    with scripted(basic_only_for()) as server:
        registry, _ = asking(config, server.address, secret=ALICE)
        with pytest.raises(Unauthorized, match="DENIED") as refused:
            registry.manifest(Reference.parse(f"{server.address}/m:1"))
        assert "password" not in str(refused.value).replace("docker login", "")
        assert len(server.requests) == 3
        registry.close()


def test_a_registry_asked_as_somebody_else_shares_no_login(config: Path) -> None:
    with scripted(basic_only_for(ALICE)) as server:
        registry, _ = asking(config, server.address, secret=ALICE)
        reference = Reference.parse(f"{server.address}/m:1")
        registry.manifest(reference)
        with pytest.raises(Unauthorized):
            registry.identified(PresentedKeyring(PullSecret(BOB))).manifest(reference)
        registry.identified(PresentedKeyring(PullSecret(ALICE))).manifest(reference)
        registry.close()
