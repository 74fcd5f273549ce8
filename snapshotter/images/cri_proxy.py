"""CRI's image service, forwarded: kubelet's ``imageServiceEndpoint``, containerd behind it.

Every call of every service goes through as it came: bytes of messages, metadata, deadline,
cancellation, status with its details, whether the method is known here or not. Two calls are
looked at as well (:class:`Watcher`); whatever goes wrong in that is logged and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import grpc
import structlog

from snapshotter.images.errors import ImageError
from snapshotter.sockets import prepare_socket

log = structlog.get_logger(__name__)

_THREADS = 128
"""Calls at a time. A pull of an ordinary image takes one for as long as it lasts."""
_FOREVER = 1e8
"""Seconds; gRPC's way to say that a call has no deadline is a far one."""
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
"""Of containerd's restart kubelet must not see more than containerd's clients do."""


class Watcher(Protocol):
    """What is done beside forwarding. Thread-safe; may raise what it wants."""

    def answer(self, method: str, request: bytes) -> bytes | None:
        """The response to give instead of containerd's; None for all but a few."""
        ...

    def succeeded(self, method: str, request: bytes) -> None:
        """The call went well. Its caller waits for this to return."""
        ...

    def watches(self, method: str) -> bool:
        """Whether ``method``, as ``/package.Service/Method``, is one to look at."""
        ...


class CriProxy:
    """The service, running; made by :func:`serve`."""

    def __init__(self, server: grpc.Server, channel: grpc.Channel, address: Path) -> None:
        self._server = server
        self._channel = channel
        self._address = address

    def stop(self, grace: float = 1.0) -> None:
        """Calls under way have ``grace`` seconds: kubelet asks again. The socket disappears."""
        self._server.stop(grace).wait()
        self._channel.close()
        self._address.unlink(missing_ok=True)


def serve(address: Path, containerd: Path, watcher: Watcher) -> CriProxy:
    """Serve on the unix socket ``address`` (0600) in front of that of ``containerd``.

    Raises :class:`ModelpackError` when the socket is another's or cannot be made.
    """
    if address == containerd:
        raise ImageError(f"[cri] address is containerd's own socket, {address}: choose another")
    prepare_socket(address)
    channel = grpc.insecure_channel(f"unix:{containerd}", options=[*_UNLIMITED, *_RECONNECT])
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, thread_name_prefix="modelpack-cri"),
        handlers=[_Forwarder(channel, watcher)],
        options=[("grpc.so_reuseport", 0), *_UNLIMITED],
    )
    try:
        server.add_insecure_port(f"unix:{address}")
        address.chmod(0o600)
    except (RuntimeError, OSError) as error:
        channel.close()
        raise ImageError(f"cannot listen on {address}: {error}") from None
    server.start()
    log.info("image service proxy listening", address=str(address), containerd=str(containerd))
    return CriProxy(server, channel, address)


class _Forwarder(grpc.GenericRpcHandler):
    """Takes every method for a stream of bytes both ways, which on the wire each of them is."""

    def __init__(self, channel: grpc.Channel, watcher: Watcher) -> None:
        self._channel = channel
        self._watcher = watcher

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method = details.method
        forward = self._watched if self._watcher.watches(method) else self._forward
        return grpc.stream_stream_rpc_method_handler(partial(forward, method))

    def _forward(
        self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        remaining = context.time_remaining()
        forward: Any = self._channel.stream_stream(method)
        call = forward(
            _until_cancelled(requests),
            timeout=remaining if remaining is not None and remaining < _FOREVER else None,
            metadata=_passed(context.invocation_metadata()),
        )
        if not context.add_callback(call.cancel):
            call.cancel()
        try:
            context.send_initial_metadata(_passed(call.initial_metadata()))
            yield from call
        except grpc.RpcError:
            pass  # the status below is what it says
        context.set_trailing_metadata(_passed(call.trailing_metadata()))
        context.set_code(call.code())
        context.set_details(call.details() or "")

    def _watched(
        self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """A call with one request and one response."""
        seen = list(_until_cancelled(requests))
        request = seen[0] if len(seen) == 1 else None
        if request is not None:
            answer = self._ask(method, request)
            if answer is not None:
                yield answer
                return
        for response in self._forward(method, iter(seen), context):
            if request is not None:
                self._tell(method, request)
            yield response

    def _ask(self, method: str, request: bytes) -> bytes | None:
        try:
            return self._watcher.answer(method, request)
        except Exception as error:
            # By its kind only: a message may quote the request.
            log.warning("image service call only forwarded", method=method, error=_kind(error))
            return None

    def _tell(self, method: str, request: bytes) -> None:
        try:
            self._watcher.succeeded(method, request)
        except Exception as error:
            log.warning("image service call only forwarded", method=method, error=_kind(error))


def _kind(error: Exception) -> str:
    return type(error).__name__


def _until_cancelled(requests: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from requests
    except grpc.RpcError:
        return  # whoever asks is gone, and the call is being cancelled


def _passed(metadata: Iterable[Any] | None) -> tuple[tuple[str, str | bytes], ...]:
    """What the other side set; not what gRPC itself says on each connection."""
    return tuple(
        (key, value)
        for key, value in metadata or ()
        if key != "user-agent" and (not key.startswith("grpc-") or key.endswith("-bin"))
    )
