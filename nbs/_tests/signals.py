"""Signals in tests: what is started under `nohup make test &` ignores Ctrl-C, and a test of
Ctrl-C must not.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stay(number, frame):
    "As if it were ignored, and yet a handler"


@contextmanager
def heard() -> Iterator[None]:
    """Programs that are started within hear Ctrl-C, SIGTERM and SIGHUP, also where this process
    ignores them.

    A program inherits an ignored signal as ignored, but a handled one as the default. So what is
    ignored is handled meanwhile, by doing nothing.
    """
    ignored = [number for number in ASKING if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, _stay)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
