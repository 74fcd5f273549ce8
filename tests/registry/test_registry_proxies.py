from __future__ import annotations

import pytest

from snapshotter.registry.errors import Unreachable
from snapshotter.registry.proxies import proxy_for


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_without_environment_there_is_no_proxy() -> None:
    assert proxy_for("https://r.example/v2") is None


def test_each_scheme_has_its_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("http_proxy", "plain.example:80")
    assert proxy_for("https://r.example/v2") == "http://proxy.example:3128"
    assert proxy_for("http://r.example/v2") == "http://plain.example:80"


def test_exceptions_are_names_domains_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "r.example,.corp.example,10.0.0.0/8")
    assert proxy_for("https://r.example:5000/v2") is None
    assert proxy_for("https://a.corp.example/v2") is None
    assert proxy_for("https://10.1.2.3:5000/v2") is None
    assert proxy_for("https://11.1.2.3:5000/v2") is not None


def test_loopback_is_never_proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "http://proxy.example:3128")
    assert proxy_for("http://127.0.0.1:5000/v2") is None
    assert proxy_for("http://localhost:5000/v2") is None
    assert proxy_for("https://r.example/v2") is not None


@pytest.mark.parametrize(
    "proxy", ["socks5://u:hunter2@p:1", "https://u:hunter2@p", "http://u:hunter2@p:x", "ftp://p"]
)
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(Unreachable, match=r"r\.example.*expected http://HOST:PORT") as caught:
        proxy_for("https://r.example/v2")
    assert "hunter2" not in str(caught.value)
