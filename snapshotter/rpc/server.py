"""The server: one thread that reads and writes all connections; answers come from any."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import structlog

from snapshotter.priority import PROMPT, be_nice
from snapshotter.rpc.connection import UNIMPLEMENTED, Connection, Request
from snapshotter.rpc.errors import ConnectionFailed
from snapshotter.throttle import Throttle

log = structlog.get_logger(__name__)

_READ = 256 << 10
_PAUSE = 0.1
"""Seconds before a connection that could not be accepted is tried again."""


class Call:
    """One call, to be answered once, from any thread; never waits for the client."""

    __slots__ = ("_number", "_peer")

    def __init__(self, peer: _Peer, number: int) -> None:
        self._peer = peer
        self._number = number

    def answer(self, message: bytes) -> None:
        self._peer.write(lambda connection: connection.answer(self._number, message))

    def answer_all(self, messages: Sequence[bytes]) -> None:
        def send(connection: Connection) -> None:
            for message in messages:
                connection.send(self._number, message)
            connection.finish(self._number)

        self._peer.write(send)

    def refuse(self, code: int, why: str) -> None:
        """With a status code of gRPC, and a line for people."""
        self._peer.write(lambda connection: connection.finish(self._number, code, why))


Handler = Callable[[bytes, Call], None]
"""Takes a call's message. Called in the thread that serves everybody: must not wait."""


class _Peer:
    """A connection and its socket; but for :meth:`write`, for the thread that serves only."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.connection = Connection()
        self._server = server
        self._waits = False
        """For the socket to take more."""
        self._closed = False

    def receive(self, data: bytes) -> list[Request]:
        """Raises :class:`ConnectionFailed`, which the client was told if it listens."""
        try:
            return self.connection.receive(data)
        finally:
            self._send()

    def write(self, work: Callable[[Connection], None]) -> None:
        """From any thread, but sent by the one that serves: another would at each answer lose
        the interpreter's lock to that, which has the client's next call, and wait for it."""
        if self._server.is_serving_thread():
            self._write(work)
        else:
            self._server.soon(partial(self._write, work))

    def _write(self, work: Callable[[Connection], None]) -> None:
        if self._closed:
            return
        try:
            work(self.connection)
        except ConnectionFailed as failure:
            log.warning("connection given up", why=str(failure))
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)  # found, and closed, when it is read
            return
        self._send()

    def flush(self) -> bool:
        """Send what waits; whether nothing does any more."""
        self._waits = False
        self._send()
        return not self._waits

    def _send(self) -> None:
        out = self.connection.out
        if not out or self._waits or self._closed:
            return
        try:
            del out[: self.socket.send(out)]
        except BlockingIOError:
            pass
        except OSError:
            out.clear()  # gone: reading tells
        if out:
            self._waits = True
            self._server.watch(self)

    @property
    def busy(self) -> bool:
        """Whether a call is not answered, or an answer not sent; asked from any thread."""
        return not self._closed and bool(self.connection.calls or self.connection.out)

    def close(self) -> None:
        self._closed = True
        self.socket.close()


class Server:
    """Serves ``handlers``, by the path of the call, on a listening unix socket, which is
    closed in the end."""

    def __init__(self, listener: socket.socket, handlers: Mapping[str, Handler]) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._handlers = handlers
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._peers: dict[int, _Peer] = {}
        self._soon: list[Callable[[], None]] = []
        """What is to be done when all that came is read."""
        self._woken = False
        self._ended = False
        self._waking = threading.Lock()
        """Of the three."""
        self._told = Throttle()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="modelpack-rpc", daemon=True)
        self._thread.start()

    def stop(self, grace: float) -> None:
        """No new calls; those under way have ``grace`` seconds. Again: nothing."""
        if self._ending.is_set():
            return
        self.soon(self._take_no_more)
        until = time.monotonic() + grace
        while time.monotonic() < until and any(p.busy for p in list(self._peers.values())):
            time.sleep(0.01)
        self._ending.set()
        self.soon(lambda: None)
        self._thread.join()
        for peer in list(self._peers.values()):
            peer.close()
        self._selector.close()
        with self._waking:
            self._ended = True
            os.close(self._wake)
        self._do_soon()

    def is_serving_thread(self) -> bool:
        return threading.get_ident() == self._thread.ident

    def soon(self, work: Callable[[], None]) -> None:
        """Have ``work``, which must not wait, done by the thread that serves, after what it does
        now; from any thread. After the end it is done at once."""
        with self._waking:
            if not self._ended:
                self._soon.append(work)
                if not self._woken:
                    self._woken = True
                    os.eventfd_write(self._wake, 1)
                return
        work()

    def _run(self) -> None:
        be_nice(PROMPT)
        while not self._ending.is_set():
            # All that came is read before anything is done: who writes at once shares a flush.
            calls: list[tuple[_Peer, Request]] = []
            for key, events in self._selector.select():
                if key.fd == self._wake:
                    os.eventfd_read(self._wake)
                    self._do_soon()
                elif key.data is None:
                    self._accept()
                else:
                    peer: _Peer = key.data
                    if events & selectors.EVENT_WRITE and peer.flush():
                        self._selector.modify(peer.socket, selectors.EVENT_READ, peer)
                    if events & selectors.EVENT_READ:
                        calls += [(peer, request) for request in self._read(peer)]
            for peer, request in calls:
                self._dispatch(peer, request)
        self._do_soon()

    def _do_soon(self) -> None:
        with self._waking:
            self._woken = False
            works, self._soon = self._soon, []
        for work in works:
            try:
                work()
            except Exception:
                log.exception("what was to be done in the thread that serves failed")

    def _take_no_more(self) -> None:
        self._selector.unregister(self._listener)
        self._listener.close()
        for peer in list(self._peers.values()):
            peer.write(lambda connection: connection.say_goodbye())

    def watch(self, peer: _Peer) -> None:
        """Have the peer flushed when its socket takes more."""
        if peer.socket.fileno() in self._peers:
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(peer.socket, both, peer)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return  # the client has left
        except OSError as error:
            if self._listener.fileno() >= 0:
                kept_back = self._told.admit("accept")
                if kept_back is not None:
                    log.warning(
                        "connection not accepted", why=str(error), alike_not_logged=kept_back
                    )
                self._ending.wait(_PAUSE)  # it is still to be accepted: out of descriptors
            return
        peer = _Peer(sock, self)
        self._peers[sock.fileno()] = peer
        self._selector.register(sock, selectors.EVENT_READ, peer)
        peer.flush()  # the connection begins with our settings

    def _read(self, peer: _Peer) -> list[Request]:
        try:
            data = peer.socket.recv(_READ)
            if data:
                return peer.receive(data)
        except BlockingIOError:
            return []
        except OSError:
            pass  # reset
        except ConnectionFailed as failure:
            log.warning("connection refused", why=str(failure))
        del self._peers[peer.socket.fileno()]
        self._selector.unregister(peer.socket)
        peer.close()
        return []

    def _dispatch(self, peer: _Peer, request: Request) -> None:
        call = Call(peer, request.stream)
        handler = self._handlers.get(request.path)
        if handler is None:
            call.refuse(UNIMPLEMENTED, f"{request.path} is not served here")
        else:
            handler(request.message, call)
