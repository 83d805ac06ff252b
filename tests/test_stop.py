"""Signals during long work."""

import os
import signal

import pytest

from retinanet.stop import StopRequest, terminable


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_the_first_signal_asks_and_the_second_acts(number: signal.Signals) -> None:
    class Stopped(Exception):
        pass

    def act(*_: object) -> None:
        raise Stopped

    before = signal.signal(number, act)
    try:
        with StopRequest() as stop:
            assert not stop.requested
            os.kill(os.getpid(), number)
            assert stop.requested
            with pytest.raises(Stopped):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) is act
    finally:
        signal.signal(number, before)


def test_terminable_leaves_alone_whoever_handles_the_signal_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be it in C, of which Python knows nothing but that it is there."""
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    monkeypatch.setattr(signal, "signal", pytest.fail)
    with terminable():
        pass


def test_terminable_makes_sigterm_an_interrupt_and_takes_it_back() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), terminable():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
