from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from snapshotter.sockets import SocketError, listener_of, prepare_socket


def test_the_directory_of_a_new_socket_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "api.sock"
    prepare_socket(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_socket_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    prepare_socket(path)
    assert not path.exists()


def test_a_socket_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        with pytest.raises(SocketError, match="in use"):
            prepare_socket(path)
    assert path.exists()


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(SocketError, match="is no socket"):
        prepare_socket(path)
    assert path.read_text() == "precious"


def test_a_path_too_long_for_the_kernel_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(SocketError, match="longer than 107 bytes"):
        prepare_socket(tmp_path / ("x" * 120))


def test_who_listens_on_a_socket_is_known(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        assert listener_of(tmp_path / "s") == os.getpid()
    assert listener_of(tmp_path / "none") is None
