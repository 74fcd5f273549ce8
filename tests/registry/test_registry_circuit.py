"""When a host is left alone, and when it is asked again. No network, no clock."""

from __future__ import annotations

import pytest

from snapshotter.registry.circuit import PROBE_WAIT, Circuit, Rules, State
from snapshotter.registry.errors import NotFound, Overloaded, RegistryError, Unreachable, Untrusted

RULES = Rules(failures=3, pause=1, max_pause=4, max_retry_after=60, avoid=30)
DEAD = Unreachable("no answer", temporary=True)
BROKEN = Overloaded("500", status=500, temporary=True)
GATEWAY = Overloaded("502", status=502, temporary=True)


def fail(circuit: Circuit, error: RegistryError, now: float = 0, about: str = "a") -> None:
    """A request that is sent at ``now``, where it may be, and fails at once."""
    assert circuit.wait(now) == 0
    circuit.failed(error, about, now, 1.0, probe=circuit.begin())


def opened() -> Circuit:
    circuit = Circuit(RULES)
    for _ in range(3):
        fail(circuit, DEAD)
    return circuit


def test_a_host_is_left_alone_after_so_many_failures_in_a_row() -> None:
    circuit = Circuit(RULES)
    for error in (DEAD, GATEWAY):
        fail(circuit, error)
        assert circuit.wait(0) == 0
    fail(circuit, DEAD)
    assert circuit.state is State.OPEN
    assert circuit.wait(0) == pytest.approx(1)


def test_what_comes_well_between_begins_the_count_anew() -> None:
    circuit = Circuit(RULES)
    for _ in range(10):
        fail(circuit, DEAD)
        fail(circuit, DEAD)
        circuit.delivered()
    assert circuit.state is State.CLOSED


def test_one_request_tries_while_others_wait() -> None:
    circuit = opened()
    assert circuit.wait(1) == 0
    assert circuit.begin()
    assert circuit.wait(1) == PROBE_WAIT


def test_the_pause_grows_while_the_host_stays_down_and_has_an_end() -> None:
    circuit, now, pauses = opened(), 0.0, []
    for _ in range(4):
        pauses.append(circuit.wait(now))
        now += pauses[-1]
        fail(circuit, DEAD, now)
    assert pauses == pytest.approx([1, 2, 4, 4])


def test_the_first_answer_lets_others_ask_and_the_first_delivery_forgets() -> None:
    circuit = opened()
    probe = circuit.begin()
    circuit.answered(probe=probe)
    assert circuit.wait(1) == 0
    circuit.delivered()
    assert (circuit.failures, circuit.pauses) == (0, 0)


def test_a_probe_that_was_given_up_lets_another_try() -> None:
    circuit = opened()
    circuit.abandoned(1, probe=circuit.begin())
    assert circuit.wait(1) == 0
    assert circuit.begin()


def test_requests_from_before_the_pause_neither_prolong_nor_end_it() -> None:
    circuit = opened()
    circuit.failed(DEAD, "a", 0.5, 1.0)
    circuit.delivered()
    assert circuit.wait(0.5) == pytest.approx(0.5)
    circuit.begin()
    circuit.failed(DEAD, "a", 1, 1.0)
    assert circuit.state is State.PROBING


def test_one_broken_object_does_not_stop_the_others() -> None:
    circuit = Circuit(RULES)
    for _ in range(20):
        fail(circuit, BROKEN, about="broken")
        circuit.failed(DEAD, "broken", 0, 1.0, begun=True)
    assert circuit.wait(0) == 0
    fail(circuit, BROKEN, about="another")
    assert circuit.state is State.OPEN


def test_a_pause_the_host_asks_for_is_kept_at_once_and_within_reason() -> None:
    for asked, kept in ((20.0, 20), (3600.0, 60)):
        circuit = Circuit(RULES)
        fail(circuit, Overloaded("429", status=429, temporary=True, retry_after=asked))
        assert circuit.wait(0) == pytest.approx(kept)
        assert circuit.wait(0, eager=True) == pytest.approx(kept)


def test_who_is_waited_for_by_a_person_may_try_before_the_pause_ends() -> None:
    circuit = opened()
    assert circuit.wait(0.1, eager=True) == 0
    circuit.begin()
    assert circuit.wait(0.1, eager=True) > 0


@pytest.mark.parametrize("error", [NotFound("404", status=404), Untrusted("certificate")])
def test_what_only_a_person_can_mend_stops_nobody(error: RegistryError) -> None:
    circuit = Circuit(RULES)
    for _ in range(20):
        fail(circuit, error)
    assert circuit.wait(0) == 0


def test_a_host_that_failed_is_to_be_asked_last_for_a_while() -> None:
    circuit = Circuit(RULES)
    fail(circuit, DEAD, 5)
    assert circuit.avoid_until == 35
    circuit.delivered()
    assert circuit.avoid_until == 0


def test_without_a_breaker_nobody_is_left_alone() -> None:
    circuit = Circuit(Rules(0, 1, 4, 60, 30))
    for _ in range(100):
        fail(circuit, DEAD)
    assert circuit.wait(0) == 0
