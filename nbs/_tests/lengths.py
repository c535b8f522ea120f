"""What `make test` leaves out, so that it ends within a quarter of an hour on two cores: what
is long is for CI, what is slow for `make test-slow`.
"""

import os

import pytest


def slow(request) -> bool:
    "Is everything to be run?"
    return "slow" in request.config.getoption("--nb-flags")


def long(request) -> bool:
    "Is what takes a minute or two to be run? CI, which sets FAIRGRAPE_NO_SKIP=1, runs it."
    return slow(request) or os.environ.get("FAIRGRAPE_NO_SKIP") == "1"


def only_slow(request, what: str):
    if not slow(request):
        pytest.skip(f"{what}: make test-slow")


def only_long(request, what: str):
    if not long(request):
        pytest.skip(f"{what}: make test-slow, or FAIRGRAPE_NO_SKIP=1")
