"""Certificates of registries on this machine, made for one run of the tests by openssl."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_DAYS = ("-days", "2")


@dataclass(frozen=True)
class Certificates:
    """An authority nobody else knows, and what it signed."""

    ca: Path
    leaf: Path
    """Certificate and key of 127.0.0.1 and localhost, for servers and for clients."""

    @property
    def server(self) -> ssl.SSLContext:
        """For a server that takes client certificates too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.leaf)
        context.load_verify_locations(self.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


def make_certificates(directory: Path) -> Certificates:
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    _openssl(
        "req", "-x509", *_KEY, *_DAYS, "-subj", "/CN=modelpack tests",
        "-addext", "keyUsage=critical,keyCertSign", "-keyout", str(ca_key), "-out", str(ca),
    )  # fmt: skip
    leaf, key = directory / "leaf.pem", directory / "leaf.key"
    _openssl(
        "req", "-x509", *_KEY, *_DAYS, "-subj", "/CN=localhost", "-CA", str(ca),
        "-CAkey", str(ca_key), "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
        "-addext", "extendedKeyUsage=serverAuth,clientAuth",
        "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", str(key), "-out", str(leaf),
    )  # fmt: skip
    with leaf.open("ab") as file:
        file.write(key.read_bytes())
    return Certificates(ca, leaf)


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
