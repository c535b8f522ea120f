"""The fast selection against the plain loop, harder than the notebook does; transfers on a device;
memory; layers in threads.

What needs CUDA is skipped, loudly, where there is none; the same code path runs on CPU tensors
with `on_device=True`.
"""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairgrape.method import device as selection_jobs
from fairgrape.method.device import FairJob, Transfers, fair_job, keep_shares, sorted_prefixes
from fairgrape.method.selection import select_each, select_fair, select_masks
from fairgrape.method.selectors import (
    PIECE,
    keep_count,
    select_fair_plain,
    select_top,
    target_share,
)


def random_layer(n, groups, seed, kind=torch.float32):
    "Importance that the groups share in part, and weights"
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, generator=g)
    return (
        weight * (torch.randn(n, generator=g) + torch.randn(groups, n, generator=g))
    ).square().to(kind), weight


def bits_of(text):
    return torch.tensor(np.frombuffer(text, np.uint32).copy().view(np.float32))


def agree(rows, mask, k, weight=None, layer=None):
    "Every way to the mask gives the plain loop's"
    plain = select_fair_plain(rows, mask, k, weight, layer)
    assert torch.equal(select_fair(rows, mask, k, weight, layer), plain)
    assert torch.equal(select_fair(rows, mask, k, weight, layer, on_device=True), plain)
    assert int(plain.sum()) == k and not (plain & ~mask).any()


# Equal to the plain loop

few_values = st.sampled_from(
    [0.0, -0.0, 1e-45, 1e-40, 1.1754942e-38, 1.0, 1.0000001, 2.0, 3e20, 1e30]
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.data(),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1, 2, 5, 16]),
    st.integers(1, 24),
)
def test_ties_zeros_and_denormals_for_every_k(data, kind, groups, n):
    "Nearly every value occurs more than once; every possible k is asked for"
    rows = torch.tensor(
        data.draw(
            st.lists(st.lists(few_values, min_size=n, max_size=n), min_size=groups, max_size=groups)
        ),
        dtype=torch.float64,
    ).to(kind)
    rows[-1, 0] = 1.0  # of a weight that is left, or there would be no shares
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    mask[0] = True
    weight = torch.tensor(
        data.draw(st.lists(st.sampled_from([-1.0, 0.0, 1.0, 2.0]), min_size=n, max_size=n))
    )
    layer = (
        torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)))
        if data.draw(st.booleans())
        else None
    )
    for k in range(1 if layer is None else len(layer[mask].unique()), int(mask.sum()) + 1):
        agree(rows, mask, k, weight, layer)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 3), st.integers(1, 40), st.data())
def test_any_non_negative_float(groups, n, data):
    "Keys are drawn as bits, so that every exponent comes"
    keys = data.draw(st.lists(st.integers(0, 0x7F7FFFFF), min_size=groups * n, max_size=groups * n))
    rows = bits_of(np.array(keys, np.uint32).tobytes()).view(groups, n)
    rows[0, 0] = 1.0
    agree(rows, torch.ones(n, dtype=torch.bool), data.draw(st.integers(1, n)))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "case", ["spread", "narrow", "zeros", "three values", "one value", "one group"]
)
def test_layers_with_many_buckets(kind, case):
    """Large enough for buckets of several levels, levels larger than a bucket, the copy of the
    rows and none
    """
    n = 30000
    rows, weight = random_layer(n, 1 if case == "one group" else 3, 0, torch.float64)
    if case == "narrow":
        rows = 1 + 1e-9 * rows
    if case == "zeros":
        rows *= torch.rand(rows.shape[1], generator=torch.Generator().manual_seed(1)) < 0.3
    if case == "three values":
        rows = (rows > 0.5).double() + (rows > 2)
    if case == "one value":
        rows = torch.ones_like(rows)
    rows, mask = rows.to(kind), torch.rand(n, generator=torch.Generator().manual_seed(2)) < 0.8
    for k in (1, 300, 15000, int(mask.sum()) - 1):
        agree(rows, mask, k, weight)
    agree(rows, mask, 2000)


def test_global_scope_of_some_size():
    "Layers of very different importance: some are filled only because they must be"
    rows, weight = random_layer(20000, 4, 3)
    layer = (torch.arange(20000) / 1000).long()
    rows *= 10.0**-layer
    for k in (20, 21, 60, 5000):
        agree(rows, torch.ones(20000, dtype=torch.bool), k, weight, layer)


@pytest.mark.parametrize(
    "kinds",
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float16),
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
    ],
)
def test_mixed_types(kinds):
    rows, weight = random_layer(500, 3, 4)
    agree(
        rows.to(kinds[0]), torch.ones(500, dtype=torch.bool), 100, (weight * 4).round().to(kinds[1])
    )


def test_prefix_is_enough():
    """What lies beyond each group's k best may be anything: the mask does not change while the
    shares do not
    """
    rows, _ = random_layer(4000, 3, 5, torch.float64)
    k = 100
    order, found = sorted_prefixes(rows, torch.ones(4000, dtype=torch.bool), k)
    job, put = fair_job(rows, torch.ones(4000, dtype=torch.bool), k)
    cut = np.where(found.numpy(), job.values, 0.0)
    assert (keep_shares(job) == keep_shares(job._replace(values=cut))).all()


def test_order_of_layout_does_not_matter(monkeypatch):
    "With and without the copy that lays a weight's values side by side"
    rows, weight = random_layer(5000, 7, 6)
    mask = torch.ones(5000, dtype=torch.bool)
    new = select_fair(rows, mask, 2500, weight)
    monkeypatch.setattr(selection_jobs, "COPY", 0)
    assert torch.equal(select_fair(rows, mask, 2500, weight), new)


@pytest.mark.parametrize("said", [-1.0, 1e9, float("inf"), float("nan")])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_what_is_said_of_a_pruned_weight_does_not_matter(said, scope):
    "In a layer of several pieces, for every selector, and without a warning"
    rows, weight = random_layer(PIECE + 500, 3, 12)
    mask = torch.rand(PIECE + 500, generator=torch.Generator().manual_seed(13)) < 0.5
    weights, masks = {"a": weight, "b": weight[:900]}, {"a": mask, "b": mask[:900]}
    zeroed = {n: rows[:, : len(w)] * masks[n] for n, w in weights.items()}
    anything = {n: torch.where(masks[n], rows[:, : len(w)], said) for n, w in weights.items()}
    for select in (select_fair, select_top):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            new = select_masks(anything, masks, weights, 0.9, select, scope)
        plain = select_masks(zeroed, masks, weights, 0.9, select, scope)
        assert all(torch.equal(new[n], plain[n]) for n in masks)


@pytest.mark.parametrize("wrong", [-1.0, float("inf"), float("nan")])
def test_refused(wrong):
    rows, _ = random_layer(10, 2, 7)
    rows[1, 3] = wrong
    for select in (select_fair, select_fair_plain):
        with pytest.raises(ValueError, match="importance"):
            select(rows, torch.ones(10, dtype=torch.bool), 3)
    with pytest.raises(ValueError, match="all|zero"):
        select_fair(torch.zeros(2, 10), torch.ones(10, dtype=torch.bool), 3)


def test_sum_of_shares_is_not_compensated():
    "Python 3.12's sum() rounds differently from a loop; the plain loop must not depend on it"
    rows = torch.tensor(
        [[1e16, 1.0, 1.0, 3.0], [1.0, 1e-3, 1.0, 1.0], [1e16, 2.0, 1.0, 2.0]], dtype=torch.float64
    )
    for k in range(1, 5):
        agree(rows, torch.ones(4, dtype=torch.bool), k)


# Threads, layers, memory


def test_threads_do_not_change_the_mask():
    rows, weight = random_layer(200000, 5, 8)
    mask, threads = (
        torch.rand(200000, generator=torch.Generator().manual_seed(9)) < 0.9,
        torch.get_num_threads(),
    )
    try:
        masks = []
        for n in (1, 2, 4):
            torch.set_num_threads(n)
            masks.append(select_fair(rows, mask, 50000, weight))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(m, masks[0]) for m in masks)


def test_layers_in_threads_give_what_one_after_the_other_gives():
    sizes = {"a": 40000, "b": 300, "c": 7000, "d": 1, "e": 7000}
    cases, threads = {}, torch.get_num_threads()
    for i, (name, n) in enumerate(sizes.items()):
        rows, weight = random_layer(n, 3, i)
        cases[name] = (rows, torch.ones(n, dtype=torch.bool), keep_count(n, 0.7), weight)
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            new = select_each(cases, select_fair)
            assert set(new) == set(sizes) and all(
                torch.equal(new[name], select_fair(*case)) for name, case in cases.items()
            )
    finally:
        torch.set_num_threads(threads)


def test_an_error_in_one_layer_is_not_swallowed():
    rows, weight = random_layer(50, 2, 0)
    mask = torch.ones(50, dtype=torch.bool)
    with pytest.raises(ValueError, match="negative"):
        select_each({"good": (rows, mask, 5, weight), "bad": (-rows, mask, 5, weight)}, select_fair)


def test_another_selector_is_called_once_a_layer():
    asked = []

    def mine(importance, mask, k, weight=None, layer=None):
        asked.append(tuple(mask.shape))
        return select_top(importance, mask, k, weight, layer)

    importance = {"x": torch.rand(2, 3, 4), "y": torch.rand(2, 5)}
    masks, weights = (
        {n: i[0] >= 0 for n, i in importance.items()},
        {n: i[0] for n, i in importance.items()},
    )
    select_masks(importance, masks, weights, 0.5, mine)
    assert asked == [(3, 4), (5,)]


MEMORY = """
import re, sys, torch
from fairgrape.method import device, selection
torch.set_num_threads(1)
def kib(name): return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
small = torch.rand(4, 1000) ** 8
selection.select_fair(small, torch.ones(1000) > 0, 500)      # compiled, loaded
device.COPY = int(sys.argv[1])
n = 8_000_000
rows, mask = torch.rand(4, n), torch.ones(n, dtype=torch.bool)
rows.square_()
open("/proc/self/clear_refs", "w").write("5")                # the peak starts anew
before = kib("VmRSS")
selection.select_fair(rows, mask, int(sys.argv[2]))
print((kib("VmHWM") - before) * 1024 / rows.nbytes)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc, which Linux alone has"
)
@pytest.mark.parametrize(
    "copy, k, most", [(2**30, 7_200_000, 2.15), (0, 7_200_000, 1.15), (2**30, 80_000, 0.25)]
)
def test_memory(copy, k, most):
    """Beside the importance: 4 k G bytes of candidates, and its copy where that is made; a
    quarter at most for a few, where there is neither
    """
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(copy), str(k)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < most


# On a device


def bound(rows, n, k, layers=0, weight=True):
    "Bytes that may come to the host: what the notebook says"
    groups, m = len(rows), min(n, len(rows) * (k + layers))
    return (
        m * (groups + weight) * rows.itemsize
        + (8 * m if layers else 0)
        + 4 * groups * k
        + 8 * (groups + 5)
        + layers,
        m,
    )


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [10, 200, 4500])
@pytest.mark.parametrize("layers", [0, 6])
def test_transfers_are_bounded(kind, k, layers):
    rows, weight = random_layer(5000, 4, 1, kind)
    layer = (torch.arange(5000) % layers) if layers else None
    transfers, mask = Transfers(), torch.ones(5000, dtype=torch.bool)
    new = select_fair(rows, mask, k, weight.to(kind), layer, on_device=True, transfers=transfers)
    most, m = bound(rows, 5000, k, layers)
    assert torch.equal(new, select_fair(rows, mask, k, weight.to(kind), layer))
    assert transfers.to_host <= 9 and transfers.to_device == 1
    assert transfers.host_bytes <= most and transfers.device_bytes <= m
    if k == 10:
        assert transfers.host_bytes < rows.nbytes / 10


def test_transfers_do_not_grow_with_the_layer():
    counts = []
    for n in (1000, 100000):
        transfers = Transfers()
        select_fair(
            random_layer(n, 3, 2)[0],
            torch.ones(n, dtype=torch.bool),
            50,
            on_device=True,
            transfers=transfers,
        )
        counts.append(transfers.to_host)
        assert transfers.host_bytes <= bound(torch.empty(3, 1), n, 50, weight=False)[0]
    assert counts[0] == counts[1]


def test_nothing_is_counted_on_the_cpu():
    transfers = Transfers()
    select_fair(
        random_layer(100, 2, 0)[0], torch.ones(100, dtype=torch.bool), 10, transfers=transfers
    )
    assert transfers == Transfers()


def test_a_job_is_plain_numpy():
    "So that it can be worked off in any thread, without torch"
    job, _ = fair_job(
        random_layer(100, 2, 0)[0], torch.ones(100, dtype=torch.bool), 10, on_device=True
    )
    assert isinstance(job, FairJob) and all(isinstance(field, (np.ndarray, int)) for field in job)


cuda = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason=(
        "NO CUDA HERE: selection on CUDA tensors is not tested (its code path is, on CPU tensors)"
    ),
)


@cuda
@pytest.mark.parametrize("layers", [0, 6])
@pytest.mark.parametrize("k", [10, 4500])
def test_cuda_tensors(k, layers):
    rows, weight = random_layer(5000, 4, 1)
    layer = (torch.arange(5000) % layers).cuda() if layers else None
    transfers, case = (
        Transfers(),
        (
            rows.cuda(),
            torch.ones(5000, dtype=torch.bool, device="cuda"),
            k,
            weight.cuda(),
            layer,
        ),
    )
    new = select_fair(*case, transfers=transfers)
    assert new.device.type == "cuda" and torch.equal(new.cpu(), select_fair_plain(*case).cpu())
    assert transfers.to_host <= 9 and transfers.host_bytes <= bound(rows, 5000, k, layers)[0]


@cuda
def test_cuda_has_no_transfers_that_are_not_counted(monkeypatch):
    "Every synchronisation outside the counter is an error"

    def counted(method):
        def run(*args):
            torch.cuda.set_sync_debug_mode("default")
            try:
                return method(*args)
            finally:
                torch.cuda.set_sync_debug_mode("error")

        return run

    for name in ("bring", "send"):
        monkeypatch.setattr(Transfers, name, counted(getattr(Transfers, name)))
    rows, weight = random_layer(5000, 4, 1)
    case = (
        rows.cuda(),
        torch.ones(5000, dtype=torch.bool, device="cuda"),
        100,
        weight.cuda(),
        (torch.arange(5000) % 6).cuda(),
    )
    try:
        torch.cuda.set_sync_debug_mode("error")
        job, put = fair_job(*case, transfers=Transfers())
        put(keep_shares(job))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_shares_by_pieces():
    "The same to rounding as in one go, on a layer of several pieces"
    rows, _ = random_layer(3 * PIECE + 5, 3, 0)
    whole = rows.double().sum(1)
    assert torch.allclose(target_share(rows), whole / whole.sum(), rtol=1e-12)
