"""TLS contexts, made once per configuration: loading the system's authorities takes 20 ms."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path

from snapshotter.registry.errors import InvalidHostsFile
from snapshotter.registry.hosts import Tls


def tls_context(tls: Tls, *, identify: bool) -> ssl.SSLContext:
    """A client context; with ``identify`` it presents the client certificate.

    Only the host the certificate is configured for is identified to: a
    redirect's target gets the same authorities and nothing else. Raises
    :class:`InvalidHostsFile` naming a file that cannot be used.
    """
    files = [*tls.ca, *(name for pair in tls.client for name in pair if name)]
    return _context(tls, identify, tuple(_changed(file) for file in files))


@lru_cache(maxsize=64)
def _context(tls: Tls, identify: bool, _stamps: tuple[int, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for file in tls.ca:
        try:
            context.load_verify_locations(cafile=file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidHostsFile(f"{file}: no PEM certificates to trust: {error}") from None
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if identify:
        for certificate, key in tls.client:
            try:
                # Without a password given OpenSSL would ask for one on the terminal.
                context.load_cert_chain(certificate, key or None, password="")
            except (OSError, ssl.SSLError) as error:
                raise InvalidHostsFile(
                    f"{certificate}: no client certificate with its key: {error}"
                ) from None
    return context


def _changed(file: str) -> int:
    """Certificates are renewed in place while the daemon runs."""
    try:
        return Path(file).stat().st_mtime_ns
    except OSError:
        return 0
