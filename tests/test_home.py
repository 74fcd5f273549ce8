from __future__ import annotations

from pathlib import Path

import pytest

from snapshotter.home import NoHome, user_directory


def test_directories_are_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert user_directory("XDG_DATA_HOME", ".local/share") == Path("/data/modelpack")
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    expected = Path("/home/alice/.local/share/modelpack")
    assert user_directory("XDG_DATA_HOME", ".local/share") == expected


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    # As for a user id that the password file does not have.
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError()))
    with pytest.raises(NoHome, match="set XDG_CACHE_HOME or HOME"):
        user_directory("XDG_CACHE_HOME", ".cache")
