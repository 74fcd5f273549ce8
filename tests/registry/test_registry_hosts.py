from __future__ import annotations

from pathlib import Path

import pytest

from snapshotter.registry.errors import InvalidHostsFile
from snapshotter.registry.hosts import (
    ALL,
    Capability,
    default_url,
    find_directory,
    find_hosts,
    is_loopback,
    parse_hosts,
)

FILE = Path("/etc/containerd/certs.d/r.example/hosts.toml")


def configure(root: Path, name: str, text: str) -> tuple[str]:
    directory = root / name
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(text)
    return (str(root),)


@pytest.mark.parametrize(
    ("registry", "url"),
    [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("r.example", "https://r.example/v2"),
        ("localhost", "http://localhost/v2"),
        ("localhost:5000", "http://localhost:5000/v2"),
        ("127.1.2.3:5000", "http://127.1.2.3:5000/v2"),
        ("[::1]:5000", "http://[::1]:5000/v2"),
        ("localhost:443", "https://localhost:443/v2"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000/v2"),
    ],
)
def test_only_loopback_is_plain_unless_told(registry: str, url: str) -> None:
    assert default_url(registry) == url
    assert [host.url for host in find_hosts(registry)] == [url]


def test_a_registry_can_be_declared_plain() -> None:
    (host,) = find_hosts("10.0.0.1:5000", plain_http=["10.0.0.1:5000"])
    assert host.url == "http://10.0.0.1:5000/v2"


def test_hosts_come_in_the_order_of_the_file_and_the_server_last() -> None:
    hosts = parse_hosts(
        """
        server = "https://upstream.example"
        [host."http://mirror-b:8080"]
          capabilities = ["pull", "resolve"]
          override_path = true
          some_key_of_tomorrow = 1
        [host."https://mirror-a/prefix/"]
          capabilities = ["pull", "referrers"]
          ca = "ca.pem"
          client = [["c.pem", "c.key"], "both.pem", ["/abs/d.pem", ""]]
          skip_verify = true
          dial_timeout = "1s"
          [host."https://mirror-a/prefix/".header]
            X-Team = ["a", "b"]
        """,
        "r.example",
        FILE,
    )
    assert [host.url for host in hosts] == [
        "http://mirror-b:8080",
        "https://mirror-a/prefix/v2",
        "https://upstream.example/v2",
    ]
    assert hosts[0].capabilities == Capability.PULL | Capability.RESOLVE
    assert hosts[1].capabilities == Capability.PULL
    assert hosts[2].capabilities == ALL
    tls = hosts[1].tls
    assert tls.ca == (str(FILE.parent / "ca.pem"),)
    assert tls.client == (
        (str(FILE.parent / "c.pem"), str(FILE.parent / "c.key")),
        (str(FILE.parent / "both.pem"), ""),
        ("/abs/d.pem", ""),
    )
    assert tls.skip_verify
    assert hosts[1].headers == {"X-Team": "a, b"}
    assert hosts[2].tls.ca == ()


def test_a_mirror_learns_the_registrys_name_and_the_registry_does_not_need_to() -> None:
    text = '[host."https://mirror.example"]\n'
    mirror, upstream = parse_hosts(text, "docker.io", FILE)
    assert mirror.query == {"ns": "docker.io"}
    assert upstream.url == "https://registry-1.docker.io/v2"
    assert upstream.query == {}


@pytest.mark.parametrize(
    "text",
    [
        "server = ",
        "server = 5",
        'server = "ftp://r.example"',
        'server = "https://user:hunter2@r.example"',
        'server = "https://r.example:port"',
        'host = "mirror"',
        '[host]\n"https://m" = 1',
        '[host."https://m"]\ncapabilities = "everything"\nca = 1',
        '[host."https://m"]\nskip_verify = "yes"',
        '[host."https://m"]\nclient = [["a", "b", "c"]]',
        '[host."https://m"]\nheader = ["a"]',
        '[host."https://m"]\noverride_path = 1',
    ],
)
def test_a_malformed_file_is_named_in_one_line(text: str) -> None:
    with pytest.raises(InvalidHostsFile) as caught:
        parse_hosts(text, "r.example", FILE)
    assert str(FILE) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["r.example_5000_", "r.example:5000", "_default"])
def test_the_directory_is_found_under_containerds_names(tmp_path: Path, name: str) -> None:
    certs_d = configure(tmp_path, name, 'server = "https://elsewhere.example"')
    (host,) = find_hosts("r.example:5000", certs_d=certs_d)
    assert host.url == "https://elsewhere.example/v2"
    assert host.registry == "r.example:5000"


def test_the_registrys_own_directory_goes_before_the_default(tmp_path: Path) -> None:
    configure(tmp_path, "_default", "")
    configure(tmp_path, "r.example", "")
    assert find_directory("r.example", [str(tmp_path)]) == tmp_path / "r.example"
    assert find_directory("other.example", [str(tmp_path)]) == tmp_path / "_default"
    assert find_directory("r.example", [str(tmp_path / "none")]) is None


@pytest.mark.parametrize(
    "skip",
    ["127.0.0.1:7670", "http://127.0.0.1:7670", "localhost:7670", "[::1]:7670", "0.0.0.0:7670"],
)
def test_our_own_mirror_is_never_asked(tmp_path: Path, skip: str) -> None:
    certs_d = configure(tmp_path, "_default", '[host."http://127.0.0.1:7670"]\n')
    (host,) = find_hosts("r.example", certs_d=certs_d, skip=[skip])
    assert host.url == "https://r.example/v2"


def test_dockers_certificates_are_found_without_a_hosts_file(tmp_path: Path) -> None:
    directory = tmp_path / "r.example"
    directory.mkdir()
    for name in ("ca.crt", "me.cert", "me.key"):
        (directory / name).touch()
    (host,) = find_hosts("r.example", certs_d=[str(tmp_path)])
    assert host.tls.ca == (str(directory / "ca.crt"),)
    assert host.tls.client == ((str(directory / "me.cert"), str(directory / "me.key")),)


def test_headers_of_a_host_are_not_shown() -> None:
    text = '[host."https://m".header]\nAuthorization = "Basic hunter2"\n'
    assert "hunter2" not in repr(parse_hosts(text, "r.example", FILE))


def test_loopback_is_an_address_and_not_a_prefix_of_a_name() -> None:
    assert is_loopback("127.0.0.1:80")
    assert not is_loopback("127.0.0.1.example.com")
    assert not is_loopback("localhost.example.com:5000")
