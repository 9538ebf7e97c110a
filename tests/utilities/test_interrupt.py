import contextlib
import os
import signal
import time

import pytest

from utilities import interrupt
from utilities.errors import RunError
from utilities.interrupt import Interrupted, Interrupts


def send(signum=signal.SIGTERM):
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_raised_by_the_next_check_not_before(signum):
    done = []
    with pytest.raises(Interrupted) as stop, Interrupts():
        interrupt.check()
        send(signum)
        done.append("went on")
        interrupt.check()
        done.append("never reached")
    assert stop.value.status == 128 + signum and done == ["went on"]


def test_without_a_check_a_signal_is_raised_after_the_patience(monkeypatch):
    monkeypatch.setattr(interrupt, "PATIENCE", 0.05)
    with pytest.raises(Interrupted), Interrupts():
        send()
        time.sleep(60)


def test_a_second_signal_is_raised_at_once():
    with pytest.raises(Interrupted), Interrupts():
        send()
        send()
        time.sleep(60)


def test_a_signal_waits_for_the_shield_to_end(monkeypatch):
    monkeypatch.setattr(interrupt, "PATIENCE", 0.05)
    done = []
    with pytest.raises(Interrupted), Interrupts():
        with interrupt.shield():
            send()
            send()
            time.sleep(0.2)
            done.append("written")
        done.append("never reached")
    assert done == ["written"]


def test_a_shield_for_the_last_write_leaves_the_signal_to_who_handles_it():
    done = []
    with pytest.raises(Interrupted), Interrupts():
        try:
            send()
            interrupt.check()
        finally:
            with interrupt.shield(raises=False):
                send()
                done.append("written")
            done.append("and closed")
    assert done == ["written", "and closed"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_the_end_of_the_terminal_ends_a_run_unless_it_was_to_be_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)   # these tests may run under nohup, too
    try:
        with pytest.raises(Interrupted) as stop, Interrupts():
            send(signal.SIGHUP)
            interrupt.check()
        assert stop.value.status == 128 + signal.SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_IGN)        # as nohup does
        with Interrupts():
            send(signal.SIGHUP)
            interrupt.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_whose_exception_was_swallowed_is_raised_by_the_next_check():
    with pytest.raises(Interrupted), Interrupts():
        with contextlib.suppress(Interrupted):
            send()
            send()
        interrupt.check()


def test_an_error_that_a_library_makes_of_the_interrupt_counts_as_it():
    with pytest.raises(Interrupted) as stop, Interrupts():
        try:
            send(signal.SIGINT)
            interrupt.check()
        except Interrupted:
            raise TypeError from None
    assert stop.value.status == 128 + signal.SIGINT
    with pytest.raises(RunError), Interrupts():  # an error that it did not cause
        send()
        raise RunError("the disk is full")


def test_a_forked_process_ignores_the_signal():
    with Interrupts():
        child = os.fork()
        if not child:
            send()
            send()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_earlier_handlers_are_restored():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before[0]
        with contextlib.suppress(Interrupted):
            send()
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    interrupt.check()
