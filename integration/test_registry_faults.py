"""A registry that misbehaves in every way there is, and readers of a real mount meanwhile.

Each fault is shown twice: passing, where the reader gets the right bytes and notices
nothing, and lasting, where it gets an error in bounded time and the right bytes from the
same mount as soon as the registry is well.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration.harness import faults
from integration.harness.faults import Exchange, Fault, FaultyRegistry, status
from integration.harness.machine import Machine
from integration.harness.node import Node
from integration.harness.registry import Registry
from integration.models_small import WEIGHTS, SmallModel, push_small
from integration.test_cri_pods import eventually
from snapshotter import throttle

QUICK: dict[str, dict[str, Any]] = {
    "registry": {
        "connect_timeout": 5,
        "read_timeout": 5,
        "breaker_pause": 0.2,
        "breaker_max_pause": 0.5,
        "avoid_failed": 5,
        "limits": {"127.0.0.2:1": {"connections": 1}},
    },
    "fetch": {
        "read_deadline": 15,
        "first_backoff": 0.05,
        "max_backoff": 0.2,
        "background": False,
    },
}
"""For faults that last."""
PATIENT = QUICK | {"fetch": QUICK["fetch"] | {"read_deadline": 80}}
"""For those that pass."""

FAULTS: dict[str, tuple[Fault, str]] = {
    "reset": (faults.reset, "connection|broke off|reset"),
    "truncated": (faults.truncated, "broke off"),
    "longer": (faults.longer, "expected"),
    "wrong-range": (faults.wrong_range, "Content-Range|bytes 1-2|blob of 3"),
    "429": (status(429, retry_after="1"), "answered 429 for blob"),
    "500": (status(500), "answered 500 for blob"),
    "502": (status(502), "answered 502 for blob"),
    "503": (status(503), "answered 503 for blob"),
    "stalled": (faults.stalled, "in time"),
    "trickling": (faults.trickling, "min_rate"),
}
"""Fault, and what its error says."""


@pytest.fixture(scope="module")
def shared_machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture(scope="module")
def upstream(shared_machine: Machine) -> Iterator[Registry]:
    with Registry(shared_machine) as registry:
        yield registry


@pytest.fixture(scope="module")
def node(shared_machine: Machine) -> Iterator[Node]:
    with Node(shared_machine, QUICK) as node:
        yield node


@pytest.fixture(scope="module")
def patient(shared_machine: Machine) -> Iterator[Node]:
    with Node(shared_machine, PATIENT, name="patient") as node:
        yield node


@pytest.fixture
def proxy(upstream: Registry) -> Iterator[FaultyRegistry]:
    with FaultyRegistry(upstream.host) as proxy:
        yield proxy


@pytest.fixture
def model(upstream: Registry, tmp_path: Path) -> SmallModel:
    return push_small(tmp_path, upstream.host, hashlib.md5(str(tmp_path).encode()).hexdigest())


def read(node: Node, directory: Path) -> subprocess.CompletedProcess[str]:
    return node.machine.run(["sha256sum", str(directory / WEIGHTS)], check=False, seconds=100)


def failed(result: subprocess.CompletedProcess[str]) -> bool:
    return result.returncode != 0 and "Input/output error" in result.stderr


def got(result: subprocess.CompletedProcess[str], model: SmallModel) -> bool:
    return result.stdout.split(maxsplit=1)[:1] == [model.sha256]


def read_again(node: Node, directory: Path, model: SmallModel) -> subprocess.CompletedProcess[str]:
    """The registry is well: a read that shares no request with those that were on their way."""
    deadline = time.monotonic() + 60
    while not got(result := read(node, directory), model) and time.monotonic() < deadline:
        pass
    return result


def failures(node: Node, model: SmallModel) -> list[str]:
    """What the log says of reads of ``model`` that failed."""
    return [e["error"] for e in node.events("read failed") if model.repository in e["model"]]


def failing(node: Node, directory: Path, model: SmallModel) -> str:
    """A read fails, and the log has a line for it, but not one for each request behind it."""
    began = time.monotonic()
    assert failed(read(node, directory))
    line, *more = failures(node, model)
    assert len(more) <= (time.monotonic() - began) // throttle.PERIOD, more
    return line


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes_is_not_noticed(
    patient: Node, proxy: FaultyRegistry, model: SmallModel, name: str
) -> None:
    directory = patient.mount(model.at(proxy.host))
    proxy.fault(FAULTS[name][0], times=1)
    assert got(read(patient, directory), model)
    assert failures(patient, model) == []


def test_bytes_after_the_end_of_an_answer_harm_nobody(
    patient: Node, proxy: FaultyRegistry, model: SmallModel
) -> None:
    directory = patient.mount(model.at(proxy.host))
    proxy.fault(faults.chatty)
    assert got(read(patient, directory), model)


def test_a_registry_that_restarts_is_not_noticed(
    patient: Node, proxy: FaultyRegistry, model: SmallModel
) -> None:
    directory = patient.mount(model.at(proxy.host))
    proxy.stop()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read, patient, directory)
        while patient.host(proxy.host)["failures"] == 0:
            time.sleep(0.01)
        proxy.start()
        assert got(reading.result(), model)


@dataclass
class Lasting:
    """What came of a fault that lasted."""

    model: SmallModel
    proxy: FaultyRegistry
    during: subprocess.CompletedProcess[str]
    lines: list[str]
    """What the log said of it, in ``seconds``."""
    seconds: float
    state: str
    after: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def lasting(
    node: Node, upstream: Registry, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Lasting]:
    """All faults at the same time, each at a host and a model of its own: they wait anyway."""
    directory = tmp_path_factory.mktemp("lasting")

    def suffer(name: str) -> Lasting:
        model = push_small(directory, upstream.host, f"lasting-{name}")
        with FaultyRegistry(upstream.host) as proxy:
            mounted = node.mount(model.at(proxy.host))
            if name == "refused":
                proxy.stop()
            elif name == "whole":
                proxy.whole = True
            else:
                proxy.fault(FAULTS[name][0])
            began = time.monotonic()
            during = read(node, mounted)
            lines = failures(node, model)
            seconds = time.monotonic() - began
            state = json.dumps(node.host(proxy.host))
            if name == "refused":
                proxy.start()
            proxy.whole = False
            proxy.heal()
            after = read_again(node, mounted, model)
            return Lasting(model, proxy, during, lines, seconds, state, after)

    names = [*FAULTS, "refused", "whole"]
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(suffer, names), strict=True))


@pytest.mark.parametrize("name", [*FAULTS, "refused"])
def test_a_fault_that_lasts_is_an_error_until_it_ends(
    lasting: dict[str, Lasting], name: str
) -> None:
    what = lasting[name]
    assert failed(what.during), what.during
    assert got(what.after, what.model), what.after
    line, *more = what.lines
    assert len(more) <= what.seconds // throttle.PERIOD, more
    says = FAULTS[name][1] if name in FAULTS else "connection refused"
    assert what.proxy.host in line
    assert what.model.repository in line
    assert re.search(says, line), line


def test_a_registry_that_ignores_ranges_of_a_small_blob_may_give_all_of_it(
    lasting: dict[str, Lasting],
) -> None:
    """Either the whole blob was wanted, or the error says what is the matter; never wrong bytes."""
    what = lasting["whole"]
    assert got(what.during, what.model) or failed(what.during)
    assert got(what.after, what.model)


@pytest.mark.parametrize("name", ["502", "503", "429", "refused"])
def test_the_status_shows_which_host_is_left_alone(lasting: dict[str, Lasting], name: str) -> None:
    told = json.loads(lasting[name].state)
    assert told["state"] in ("left alone", "probing")
    assert told["failures"] >= 1
    assert told["last_error"]


def test_a_token_that_ends_in_mid_stream_is_renewed(
    patient: Node, proxy: FaultyRegistry, model: SmallModel
) -> None:
    log_in(patient, proxy, "reader", "planted-password")
    directory = patient.mount(model.at(proxy.host))
    proxy.token = "planted-token-1"
    assert got(read(patient, directory), model)
    tokens = {seen.headers.get("Authorization") for seen in proxy.asked()}
    assert {"Bearer planted-token-0", "Bearer planted-token-1"} <= tokens


def test_a_redirect_that_has_run_out_is_asked_for_again(
    patient: Node, proxy: FaultyRegistry, upstream: Registry, model: SmallModel
) -> None:
    with FaultyRegistry(upstream.host) as storage:
        storage.signature = "planted-signature-0"
        proxy.storage = storage
        directory = patient.mount(model.at(proxy.host))
        first = patient.machine.run(["head", "-c", "4096", str(directory / WEIGHTS)], check=False)
        assert first.returncode == 0
        storage.signature = "planted-signature-1"
        assert got(read(patient, directory), model)


def test_an_object_storage_that_always_refuses_is_named(
    node: Node, proxy: FaultyRegistry, upstream: Registry, model: SmallModel
) -> None:
    with FaultyRegistry(upstream.host) as storage:
        storage.signature = "planted-signature-0"
        storage.fault(status(403))
        proxy.storage = storage
        directory = node.mount(model.at(proxy.host))
        line = failing(node, directory, model)
        assert f"{storage.host} answered 403" in line
        storage.heal()
        assert got(read_again(node, directory, model), model)


def test_a_mirror_that_fails_is_replaced_for_each_request(
    patient: Node, proxy: FaultyRegistry, upstream: Registry, model: SmallModel
) -> None:
    with FaultyRegistry(upstream.host) as mirror:
        name = f"mirrored-{mirror.port}.example"
        write_hosts(patient, name, mirror.host, proxy.host)
        directory = patient.mount(model.at(name))
        for fault in (faults.truncated, faults.trickling, status(503)):
            mirror.fault(fault, times=1)
        assert got(read(patient, directory), model)
        assert mirror.asked()
        assert proxy.asked()


def test_a_name_that_dns_does_not_know_is_an_error_until_it_does(
    node: Node, proxy: FaultyRegistry, model: SmallModel
) -> None:
    name = f"dns-{proxy.port}.example"
    write_hosts(node, name, proxy.host)
    directory = node.mount(model.at(name))
    write_hosts(node, name, "no-such-host.invalid")
    wait_for_hosts_file()
    line = failing(node, directory, model)
    assert "no-such-host.invalid" in line
    write_hosts(node, name, proxy.host)
    wait_for_hosts_file()
    assert got(read_again(node, directory, model), model)


def test_a_certificate_nobody_vouches_for_is_an_error_of_its_own(
    node: Node, proxy: FaultyRegistry, upstream: Registry, model: SmallModel, tmp_path: Path
) -> None:
    with FaultyRegistry(upstream.host, tls=self_signed(tmp_path)) as secure:
        name = f"tls-{secure.port}.example"
        write_hosts(node, name, proxy.host)
        directory = node.mount(model.at(name))
        write_hosts(node, name, f"https://{secure.host}")
        wait_for_hosts_file()
        line = failing(node, directory, model)
        assert "certificate is not trusted" in line
        assert secure.host in line
        (node.certs / name / "hosts.toml").write_text(
            f'server = "https://{secure.host}"\nskip_verify = true\n'
        )
        wait_for_hosts_file()
        assert got(read_again(node, directory, model), model)


def test_wrong_bytes_are_never_served_again(
    node: Node, proxy: FaultyRegistry, model: SmallModel
) -> None:
    directory = node.mount(model.at(proxy.host))
    proxy.fault(faults.flipped)
    # May be served: verified in the background, when the blob is complete; and by the kernel, of
    # pages it kept, for a moment longer.
    eventually(lambda: failed(read(node, directory)), "the blob is found to be bad")
    assert failed(read(node, directory))
    assert any("wrong bytes" in line for line in failures(node, model))


def test_nothing_that_was_secret_comes_out(
    node: Node, proxy: FaultyRegistry, upstream: Registry, model: SmallModel
) -> None:
    """Neither to the storage, nor to another host, nor in log and status: also not when the
    registry sends it back."""
    name = f"secret-{proxy.port}.example"
    planted = ["planted-password", "planted-token-9", "planted-header", "planted-signature-9"]

    def echo(exchange: Exchange) -> None:
        exchange.status = 503
        told = f"you sent {' and '.join(planted)} to http://u:p@x/?X-Signature=planted-signature-9"
        exchange.send(json.dumps({"errors": [{"code": "E", "message": told}]}).encode())

    with FaultyRegistry(upstream.host) as storage:
        storage.signature = "planted-signature-9"
        log_in(node, proxy, "reader", "planted-password")
        proxy.token, proxy.storage = "planted-token-9", storage
        write_hosts(node, name, proxy.host, header='[header]\nX-Team = "planted-header"\n')
        directory = node.mount(model.at(name))
        storage.fault(echo)
        proxy.fault(echo)
        assert failed(read(node, directory))
        told = "".join(str(seen.headers) for seen in storage.asked(""))
        assert storage.asked()
        assert "planted" not in told
    out = node.log.read_text() + json.dumps(node.status())
    assert "you sent" in out
    encoded = base64.b64encode(b"reader:planted-password").decode()
    for secret in [*planted, encoded, "planted-token", "planted-signature"]:
        assert secret not in out


def log_in(node: Node, proxy: FaultyRegistry, user: str, password: str) -> None:
    """As docker login does, for the node alone."""
    proxy.login = user, password
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    (node.directory / "config.json").write_text(json.dumps({"auths": {proxy.host: {"auth": pair}}}))


def write_hosts(node: Node, registry: str, *hosts: str, header: str = "") -> None:
    """hosts.toml: the last host is the registry itself, those before its mirrors."""
    urls = [host if "://" in host else f"http://{host}" for host in hosts]
    directory = node.certs / registry
    directory.mkdir(exist_ok=True)
    mirrors = "".join(f'[host."{url}"]\n' for url in urls[:-1])
    (directory / "hosts.toml").write_text(f'server = "{urls[-1]}"\n{header}{mirrors}')


def wait_for_hosts_file() -> None:
    """It is read again after five seconds."""
    subprocess.run(["sleep", "5.2"], check=True)


def self_signed(directory: Path) -> ssl.SSLContext:
    file = directory / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
            *("ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-keyout", str(directory / "key.pem"), "-out", str(file)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, directory / "key.pem")
    return context
