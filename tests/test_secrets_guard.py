"""What watches over the secrets of all tests would notice if one came out."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from integration.harness.secrets import MARKS, Guard, SecretFound, Watch

MARK = "dr4gonfly"  # none of those that the whole run is searched for
GUARD = Guard([MARK])


@pytest.mark.parametrize("before", ["", "a", "ab", "abc", "reader:"])
def test_a_secret_is_found_as_it_is_and_inside_of_base64(before: str) -> None:
    text = f"{before}{MARK}-password"
    assert GUARD.holds(f"401: {text} is wrong")
    assert GUARD.holds("Basic " + base64.b64encode(text.encode()).decode())
    assert GUARD.holds(base64.b64encode(text.encode()) + b"and more")
    assert not GUARD.holds(f"401: {before} is wrong")


def test_who_checks_a_text_is_told_where_and_not_what() -> None:
    with pytest.raises(SecretFound, match="came out in the status") as found:
        GUARD.check(f'{{"error": "{MARK}"}}', "the status")
    assert MARK not in str(found.value)


def test_files_that_hold_one_are_found_but_for_those_that_must(tmp_path: Path) -> None:
    for name in ("logs/daemon.log", "home/config.json", "certs.d/r.example/hosts.toml", "other"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("nothing" if name == "other" else f"as {MARK} says")
    (tmp_path / "link").symlink_to("home/config.json")
    assert GUARD.files(tmp_path) == [tmp_path / "logs" / "daemon.log"]


def test_the_end_of_a_large_file_is_looked_at_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        os.truncate(file.fileno(), 100 << 20)
        file.seek(0, os.SEEK_END)
        file.write(MARK.encode())
    assert GUARD.files(tmp_path) == [log]


def test_a_program_that_has_one_among_its_arguments_is_seen() -> None:
    argv = [sys.executable, "-c", "print(flush=True); input()", f"--password={MARK}"]
    watch = Watch([MARK], every=0.01)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        watch.start()
        assert watch.stop() == [f"{program.pid} ({sys.executable})"]
        program.communicate(b"\n")


def test_programs_of_others_are_none_of_our_business() -> None:
    argv = [sys.executable, "-c", "print(flush=True); input()", f"--password={MARK}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        assert GUARD.programs(os.getpid()) == [f"{program.pid} ({sys.executable})"]
        assert GUARD.programs(program.pid) == []
        program.communicate(b"\n")


def test_no_mark_is_so_short_that_it_could_come_by_chance() -> None:
    assert all(len(mark) >= 7 for mark in MARKS)
