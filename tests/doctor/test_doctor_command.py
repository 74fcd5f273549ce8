"""`modelpack doctor` as a command: what it prints, and that nothing can hold it up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from snapshotter.cli.main import cli
from snapshotter.config import Config
from snapshotter.doctor import checkup, disk
from snapshotter.doctor.finding import Change, Finding, Level, error, ok
from snapshotter.doctor.registry import HostFacts, RegistryFacts
from snapshotter.doctor.registry import judge as judge_registry

Examined = Callable[[list[Finding]], None]
BROKEN = error("disk", "a-name", "[bold]what", "why", Change("/etc/x", "  [table]\n  key = 1"))


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Examined:
    """Says what the examination finds."""

    def finds(findings: list[Finding]) -> None:
        def examine(config: Config, asked: str | None) -> Iterator[Finding]:
            return iter(findings)

        monkeypatch.setattr("snapshotter.cli.doctor.examine", examine)

    return finds


def test_only_errors_make_it_fail(examined: Examined) -> None:
    warning = Finding("disk", "a", Level.WARNING, "small")
    examined([ok("disk", "a", "fine"), warning, Finding("disk", "b", Level.UNKNOWN, "dark")])
    assert CliRunner().invoke(cli, ["doctor"]).exit_code == 0
    examined([BROKEN])
    assert CliRunner().invoke(cli, ["doctor"]).exit_code == 1


def test_lines_to_change_are_printed_as_they_are(examined: Examined) -> None:
    examined([BROKEN])
    printed = CliRunner().invoke(cli, ["doctor"]).stdout
    assert "[bold]what" in printed
    assert "in /etc/x:\n" in printed
    assert "  [table]\n" in printed
    assert "\x1b" not in printed
    assert "1 error, 0 warnings" in printed


def test_scripts_get_the_same_as_json(examined: Examined) -> None:
    examined([BROKEN, ok("disk", "a", "fine")])
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["errors"], report["warnings"]) == (1, 0)
    assert report["findings"][0]["changes"] == [{"where": "/etc/x", "text": BROKEN.changes[0].text}]


def test_a_part_that_hangs_is_left_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended = threading.Event()

    def hang(cache: Path) -> disk.DiskFacts:
        ended.wait()
        raise OSError

    monkeypatch.setattr(checkup, "_SECONDS", 0.01)
    monkeypatch.setattr(disk, "gather", hang)
    findings = list(checkup._part(disk.PART, lambda: disk.judge(disk.gather(tmp_path))))
    ended.set()
    (found,) = findings
    assert found.level is Level.UNKNOWN
    assert "no answer" in found.what


def test_a_registry_without_ranges_is_an_error() -> None:
    host = HostFacts("https://r.example/v2", 200)
    facts = RegistryFacts("r.example/m:1", (host,), model="sha256:0", ranges=False, failure="whole")
    assert [f.name for f in judge_registry(facts) if f.level is Level.ERROR] == ["ranges"]


def test_a_registry_that_refuses_us_is_an_error_that_says_where_credentials_were_looked_for() -> (
    None
):
    host = HostFacts("https://r.example/v2", 401)
    facts = RegistryFacts(
        "r.example/m:1", (host,), credentials="none in /x", failure="401", refused=True
    )
    (found,) = [f for f in judge_registry(facts) if f.level is Level.ERROR]
    assert "/x" in found.why
    assert "docker login r.example" in found.changes[0].text


def test_a_registry_without_tls_is_warned_of_unless_it_is_this_machine() -> None:
    def level(url: str) -> Level:
        return judge_registry(RegistryFacts("r", (HostFacts(url, 200),)))[0].level

    assert level("http://r.example/v2") is Level.WARNING
    assert level("http://127.0.0.1:5000/v2") is Level.OK
