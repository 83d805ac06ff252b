"""Signals during long work."""

import os
import signal

import pytest

from retinanet.stop import StopRequest


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
