"""The queue: order, places, refusals, leaving."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from app.work.turns import Asker, BusyError, LeftError, Turns, work_for

SECONDS = 60.0  # only against hanging


class _Gone(Exception):
    pass


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _queue_up(turns: Turns, number: int, done: list[int]) -> threading.Thread:
    """Join the queue as its last one."""

    def work() -> None:
        with turns.take():
            done.append(number)

    before = turns.length
    thread = threading.Thread(target=work)
    thread.start()
    _wait_until(lambda: turns.length == before + 1)
    return thread


def test_first_come_first_served() -> None:
    turns, done = Turns(), []
    with turns.take():
        threads = [_queue_up(turns, number, done) for number in range(5)]
        assert done == []
    for thread in threads:
        thread.join(SECONDS)
    assert done == list(range(5))
    assert turns.length == 0


def test_who_waits_is_told_the_place_and_for_how_long() -> None:
    turns, told = Turns(), []
    ahead = threading.Event()

    def report(share: float, text: str) -> None:
        told.append((share, text))
        ahead.set()

    def work() -> None:
        with turns.take(report):
            pass

    with turns.take():
        assert turns.expected_wait > 0
        thread = threading.Thread(target=work)
        thread.start()
        assert ahead.wait(SECONDS)
    thread.join(SECONDS)
    assert told[0] == (0.0, "Place 1 in the queue, about 2 s.")


def test_one_too_many_is_refused_at_once_and_told_when_to_come_again() -> None:
    turns, done = Turns(most_waiting=2), []
    with turns.take():
        threads = [_queue_up(turns, number, done) for number in range(2)]
        with pytest.raises(BusyError, match="Try again in 3 s") as refused, turns.take():
            pytest.fail("had a turn")
        assert refused.value.retry_after == 3
        assert turns.length == 3
    for thread in threads:
        thread.join(SECONDS)
    with turns.take():
        assert done == [0, 1]


def test_who_leaves_makes_room() -> None:
    turns = Turns()

    def leave(*_: object) -> None:
        raise _Gone

    with turns.take():
        left: list[bool] = []

        def work() -> None:
            with pytest.raises(_Gone), turns.take(leave):
                pytest.fail("had a turn")
            left.append(True)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(SECONDS)
        assert left == [True]
        assert turns.length == 1
    with pytest.raises(_Gone), turns.take():
        raise _Gone
    assert turns.length == 0


def test_closed_it_takes_nobody_and_finishes_what_there_is() -> None:
    turns, done = Turns(), []
    with turns.take():
        thread = _queue_up(turns, 1, done)
        turns.close()
        with pytest.raises(BusyError, match="restarting"), turns.take():
            pytest.fail("had a turn")
        assert turns.length == 2
    with turns.take(goes_on=True):
        pass
    thread.join(SECONDS)
    assert turns.length == 0
    assert done == [1]


def test_the_expected_wait_follows_how_long_jobs_take() -> None:
    turns = Turns()
    for _ in range(30):
        with turns.take():
            pass
    with turns.take():
        assert turns.expected_wait < 0.1


def _as(client: str, work: Callable[[], object]) -> threading.Thread:
    """Do it in a thread, for a client."""

    def run() -> None:
        work_for(Asker(client))
        work()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_who_asks_for_much_waits_behind_who_asks_for_little() -> None:
    turns, done, threads = Turns(), [], []

    def job(name: str) -> Callable[[], object]:
        def work() -> None:
            with turns.take():
                done.append(name)

        return work

    with turns.take():
        for number, name in enumerate(("a1", "a2", "a3", "b1", "a4", "c1", "b2"), 2):
            threads.append(_as(name[0], job(name)))
            _wait_until(lambda number=number: turns.length == number)  # type: ignore[misc]
    for thread in threads:
        thread.join(SECONDS)
    assert done == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_one_client_may_have_so_many_that_wait() -> None:
    turns, refused = Turns(most_of_one=2), []

    def work() -> None:
        try:
            with turns.take():
                pass
        except BusyError as error:
            refused.append(str(error))

    with turns.take():
        threads = [_as("greedy", work) for _ in range(5)]
        _wait_until(lambda: len(refused) == 3)
        assert turns.length == 3
        threads.append(_as("other", work))
        threads += [_as("", work) for _ in range(5)]  # this machine's own
        _wait_until(lambda: turns.length == 9)
    for thread in threads:
        thread.join(SECONDS)
    assert all(words.startswith("2 jobs of yours wait already") for words in refused)
    assert len(refused) == 3


def test_who_has_left_has_no_turn() -> None:
    turns, left, who = Turns(), [], Asker("x")

    def work() -> None:
        work_for(who)
        try:
            with turns.take():
                pytest.fail("It had its turn.")
        except LeftError:
            left.append(True)

    with turns.take():
        thread = threading.Thread(target=work)
        thread.start()
        _wait_until(lambda: turns.length == 2)
        who.cancelled = True
        thread.join(SECONDS)
        assert left == [True]
        assert turns.length == 1
