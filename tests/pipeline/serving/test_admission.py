"""Who comes too often or too early is told when to come again; nobody is counted for ever."""

from dataclasses import replace

import pytest

from pipeline.config.serving import ServingLimits
from pipeline.serving.admission import MAX_CLIENTS, WINDOW_S, Gate, check_host
from pipeline.serving.api_errors import ApiError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


LIMITS = ServingLimits(max_outstanding=4, requests_per_minute=2)


def refusal_of(gate: Gate, count: int) -> ApiError:
    with pytest.raises(ApiError) as caught:
        gate.enter(count)
    return caught.value


def work(gate: Gate, clock: Clock, count: int, pace_s: float) -> None:
    """Ends jobs at a pace, each of which another one follows."""
    for _ in range(count):
        clock.now += pace_s
        gate.leave(made=True)
        gate.enter(1)


def wait_of(gate: Gate, count: int = 1) -> int:
    return int(refusal_of(gate, count).headers["Retry-After"])


def test_the_time_to_wait_follows_the_servers_pace() -> None:
    clock = Clock()
    gate = Gate(LIMITS, clock)
    gate.enter(4)
    work(gate, clock, 3, 10.0)
    slow = wait_of(gate)
    work(gate, clock, 60, 0.1)
    assert slow >= 7 and wait_of(gate) <= 2
    assert wait_of(gate, 4) >= wait_of(gate)


def test_those_who_are_refused_are_told_to_come_one_after_the_other() -> None:
    clock = Clock()
    gate = Gate(LIMITS, clock)
    gate.enter(4)
    work(gate, clock, 60, 2.0)
    waits = [wait_of(gate) for _ in range(20)]
    assert waits == sorted(waits) and len(set(waits)) >= 4
    assert waits[-1] <= 4 * 2 + 1, "not longer than all four outstanding ones take"
    clock.now += 20
    assert wait_of(gate) <= waits[0] + 1, "what was promised long ago is forgotten"


def test_a_refused_request_takes_no_room_and_one_that_left_gives_it_back() -> None:
    gate = Gate(LIMITS)
    gate.enter(3)
    assert refusal_of(gate, 2).status == 429 and gate.outstanding == 3
    gate.enter(1)
    gate.leave(made=False)
    gate.enter(1)
    gate.closed = True
    assert refusal_of(gate, 1).status == 503


def test_a_clients_rate_is_its_own_and_ends_with_the_minute() -> None:
    clock = Clock()
    gate = Gate(LIMITS, clock)
    for client in ("a", "a", "b"):
        gate.check_rate(client)
    with pytest.raises(ApiError) as caught:
        gate.check_rate("a")
    assert caught.value.status == 429 and 59 <= int(caught.value.headers["Retry-After"]) <= 61
    clock.now += WINDOW_S
    gate.check_rate("a")
    unlimited = Gate(replace(LIMITS, requests_per_minute=0), clock)
    for _ in range(100):
        unlimited.check_rate("a")


def test_quiet_clients_are_forgotten() -> None:
    clock = Clock()
    gate = Gate(LIMITS, clock)
    for number in range(MAX_CLIENTS):
        gate.check_rate(str(number))
    clock.now += WINDOW_S + 1
    gate.check_rate("last")
    assert len(gate._asked) == 1


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "[::1]", "LOCALHOST:8000"])
def test_loopback_answers_to_its_own_names(host: str) -> None:
    check_host(host, "127.0.0.1")
    check_host("anything.example", "0.0.0.0")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1.evil.example:8000", "127.0.0.1:8000@evil.example", "evil.example", "", "[::1", "localhost:80:80"],
)
def test_loopback_answers_to_no_other_name(host: str) -> None:
    with pytest.raises(ApiError):
        check_host(host, "127.0.0.1")
