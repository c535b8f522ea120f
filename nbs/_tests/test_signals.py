"Tests that send Ctrl-C pass under `nohup make test &`, which ignores it, too."

import signal
import subprocess
import sys

from signals import ASKING, heard

SHOW = (
    "import signal; print(*(signal.getsignal(n) != signal.SIG_IGN for n in (signal.SIGINT,"
    " signal.SIGTERM, signal.SIGHUP)))"
)


def hears() -> str:
    return subprocess.run(
        [sys.executable, "-c", SHOW], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_what_is_started_within_hears_signals_that_are_ignored_here():
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ASKING}
    try:
        with heard():
            within = hears()
            signal.raise_signal(signal.SIGHUP)  # this process goes on, as under nohup
        assert (within, hears()) == ("True True True", "False False False")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_handler_of_its_own_is_left_alone():
    def own(number, frame):
        pass

    before = signal.signal(signal.SIGINT, own)
    try:
        with heard():
            assert signal.getsignal(signal.SIGINT) is own
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)
