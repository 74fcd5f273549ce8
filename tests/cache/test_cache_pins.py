"""Pins: what is pinned stays so, whatever happens to the process or the file."""

from __future__ import annotations

import pytest

from snapshotter.artifact.digest import Digest
from snapshotter.cache.errors import CacheError
from snapshotter.cache.pins import NotPinned, Pins

A, B = Digest(f"sha256:{'a' * 64}"), Digest(f"sha256:{'b' * 64}")


def test_what_was_pinned_is_pinned_in_the_next_life(tmp_path) -> None:
    pins = Pins(tmp_path / "pins")
    assert pins.all() == []
    pins.add(A, "r.example/a:1")
    pins.add(B, "r.example/b:1")
    pins.add(A, "r.example/a:latest")
    again = Pins(tmp_path / "pins")
    assert again.all() == pins.all()
    assert again.all()[0].references == ["r.example/a:1", "r.example/a:latest"]
    assert pins.all()[0].digest == A


@pytest.mark.parametrize("named", ["r.example/a:1", "r.example/a:latest", A])
def test_a_pin_goes_by_any_of_its_names(tmp_path, named) -> None:
    pins = Pins(tmp_path / "pins")
    pins.add(A, "r.example/a:1")
    pins.add(A, "r.example/a:latest")
    pins.add(B, "r.example/b:1")
    assert [pin.digest for pin in pins.remove(named)] == [A]
    assert [pin.digest for pin in Pins(tmp_path / "pins").all()] == [B]
    with pytest.raises(NotPinned, match=r"is not pinned; pinned are: r\.example/b:1"):
        pins.remove(named)


def test_damaged_pins_are_put_aside_and_said_to_be_so(tmp_path, capsys) -> None:
    Pins(tmp_path / "pins").add(A, "r.example/a:1")
    raw = (tmp_path / "pins").read_bytes()
    (tmp_path / "pins").write_bytes(raw[:-1])
    assert Pins(tmp_path / "pins").all() == []
    assert (tmp_path / "pins.damaged").read_bytes() == raw[:-1]
    assert "pin again what was pinned" in capsys.readouterr().out


def test_a_pin_that_cannot_be_written_is_none(tmp_path) -> None:
    pins = Pins(tmp_path / "missing" / "pins")
    with pytest.raises(CacheError, match="pins not changed: cannot write"):
        pins.add(A, "r.example/a:1")
    assert pins.all() == []
