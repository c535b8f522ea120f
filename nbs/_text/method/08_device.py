# %% [markdown]
# # Selection jobs
#
# > From tensors to the walk and back, with few bytes transferred between device and host

# %%
#| default_exp method.device

# %%
#| export
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from fastcore.basics import patch
from torch import Tensor

from fairgrape.method.fast import (
    Entries,
    as_bits,
    bucket_lists,
    fair_walk,
    njit,
    radix_order,
    sorted_lists,
)
from fairgrape.method.selectors import by_magnitude, check_selection, checked_share

# %%
from fairgrape.method.selectors import target_share


# %% [markdown]
# A `FairJob` collects the inputs of the walk from tensors. Everything after that is numpy, so a job can run in any thread, independent of torch.

# %%
#| export
class FairJob(NamedTuple):
    "All inputs of one selection, on the CPU."

    values: np.ndarray  # Importance, shape `(G, n)`, float32 or float64
    alive: np.ndarray  # True where a weight is left, shape `(n,)`
    k: int  # How many to keep
    share: np.ndarray  # Target shares, shape `(G,)`, float64
    weight: np.ndarray  # Bits of the weights, shape `(n,)`, or nothing
    label: np.ndarray  # Layer number of each entry, shape `(n,)`, or nothing
    empty: np.ndarray  # True for each layer that must keep a weight
    # Each group's candidates if they are already sorted, shape `(G, m)`
    order: np.ndarray | None = None


# %%
rows = torch.tensor([[6.0, 5.0, 1.0], [0.0, 0.0, 2.0]])
everything = torch.ones(3, dtype=torch.bool)
nothing = np.zeros(0, np.uint32)
job = FairJob(
    rows.numpy(),
    everything.numpy(),
    2,
    target_share(rows).numpy(),
    nothing,
    nothing.astype(int),
    np.zeros(0, np.bool_),
)
print(job)
assert job.order is None and job._replace(k=1)._fields == (
    "values",
    "alive",
    "k",
    "share",
    "weight",
    "label",
    "empty",
    "order",
)


# %% [markdown]
# Weights pruned earlier are left out, so the work shrinks with the number of weights left. The copy is made row by row, because indexing all rows at once would need twice the memory.

# %%
#| export
def _left(values: np.ndarray, alive: np.ndarray) -> np.ndarray:
    if not values.size or alive.all():
        return values
    left = np.empty((*values.shape[:-1], np.count_nonzero(alive)), values.dtype)
    for row, to in zip(np.atleast_2d(values), np.atleast_2d(left)):
        to[:] = row[alive]
    return left


# %%
print(_left(job.values, np.array([True, False, True])))
assert _left(job.values, np.array([True, False, True])).tolist() == [
    [6.0, 1.0],
    [0.0, 2.0],
] and _left(np.array([7, 8, 9]), np.array([False, True, True])).tolist() == [8, 9]
# nothing is pruned: no copy
assert (
    _left(job.values, everything.numpy()) is job.values
    and _left(nothing, np.array([False])) is nothing
)

# %% [markdown]
# If many weights will be kept, the values are copied so that those of a weight are adjacent. If few will be kept, or the copy would be large, the importance is read in place. Beyond the importance itself, memory holds at most the
# candidates ($4 k G$ bytes, 8 from $2^{31}$ weights on; slightly more if equal leading bits prevent a cut at $k$), that copy (as large as the importance of the weights left, and none above `COPY` bytes), and, once weights are pruned, the extracted importance of the weights left. With `float32` this is at most twice the importance if nothing is pruned, and once if the copy would be too large (100 M weights and 7 groups: 2.8 GB).
# The global scope first concatenates the importance of the layers, which adds its size once more.

# %%
#| export
COPY = 2**30  # Bytes of importance up to which the values of a weight are copied to be adjacent


@njit(cache=True, nogil=True, error_model="numpy")
def _transpose(values, rows, start, end):
    for block in range(start, end, 256):
        for g in range(values.shape[0]):
            for i in range(block, min(block + 256, end)):
                rows[i, g] = values[g, i]


def _laid_out(values: np.ndarray, k: int, run: Callable):
    "The values in one flat array, and the strides by weight and by group."
    groups, n = values.shape
    if 8 * k < n or values.nbytes > COPY:
        return values.ravel(), (1, n)
    rows = np.empty((n, groups), values.dtype)
    list(
        run(
            lambda start: _transpose(values, rows, start, min(start + (1 << 17), n)),
            range(0, n, 1 << 17),
        )
    )
    return rows.ravel(), (groups, 1)


# %%
_laid_out(job.values, 2, map), _laid_out(np.arange(18.0).reshape(2, 9), 1, map)[1]

# %%
flat, step = _laid_out(job.values, 2, map)
assert flat.tolist() == [6, 0, 5, 0, 1, 2] and step == (2, 1)  # values of a weight are adjacent
flat, step = _laid_out(np.arange(18.0).reshape(2, 9), 1, map)
assert flat.tolist() == list(range(18)) and step == (1, 9)  # one of nine: read in place
many = np.random.default_rng(0).random((3, 300_000), np.float32)
assert (_laid_out(many, 300_000, map)[0].reshape(-1, 3) == many.T).all()  # more than one piece


# %% [markdown]
# `keep_shares` runs a job: leave pruned weights out, cut into buckets, lay out, walk, and write the answer back to the positions of all weights.

# %%
#| export
def keep_shares(
    job: FairJob,  # Inputs of the selection
    run: Callable = map,  # `map`, or that of a thread pool
) -> np.ndarray:  # True where a weight stays, shape `(n,)`
    "Compute one selection."
    values, weight, label = (_left(a, job.alive) for a in (job.values, job.weight, job.label))
    bits = values.view(f"u{values.itemsize}")
    lists = bucket_lists(bits, job.k, run) if job.order is None else sorted_lists(job.order)
    flat, step = _laid_out(values, job.k, run)
    kept = fair_walk(
        Entries(flat, flat.view(bits.dtype), step, weight, label),
        lists,
        job.share,
        job.k,
        job.empty.copy(),
    )
    new = np.zeros(job.alive.size, np.bool_)
    new[job.alive] = np.unpackbits(kept, bitorder="little")[: values.shape[1]].view(np.bool_)
    return new


# %%
keep_shares(job)

# %%
assert keep_shares(job).tolist() == [True, False, True]
assert keep_shares(job._replace(alive=np.array([True, True, False]), k=1)).tolist() == [
    True,
    False,
    False,
]
assert keep_shares(
    job._replace(label=np.array([0, 0, 1]), empty=np.array([True, True]))
).tolist() == [True, False, True]
# a given order is used as it is
assert keep_shares(job._replace(order=np.array([[1, 0], [2, 0]]))).tolist() == [False, True, True]
tied = job._replace(
    values=np.ones((1, 3), np.float32),
    share=np.ones(1),
    k=1,
    weight=as_bits(torch.tensor([1.0, 2.0, -3.0])),
)
assert keep_shares(tied).tolist() == [False, False, True] and keep_shares(
    tied._replace(alive=np.array([True, True, False]))
).tolist() == [False, True, False]


# %% [markdown]
# ## On a device
#
# On an accelerator the importance and the sorting stay on the device. The walk reads only the $k$ best weights of each group (and, in the global scope, each group's best of each layer). These candidates form a small layer with the same mask. Only they come to the
# host, sorted, and one byte for each goes back. Let $m \le \min(n, G(k + \text{layers}))$ be their number. With 4-byte floats there are at most nine transfers to the host, in total
#
# $$ m\,(4G + 4 + 8) + 4\,G\,k \;+\; 8\,(G + 5) + \text{layers} \quad\text{bytes, and one of } m \text{ bytes back.} $$
#
# (4 bytes for |w|, 8 for the layer number, if given.) A counter that the caller can read records every transfer.

# %%
#| export
@dataclass
class Transfers:
    "Transfers between host and device: number and bytes in each direction."

    to_host: int = 0  # Transfers
    to_device: int = 0
    host_bytes: int = 0
    device_bytes: int = 0


@patch
def bring(self: Transfers, tensor: Tensor) -> Tensor:
    "A tensor, copied to the host."
    self.to_host += 1
    self.host_bytes += tensor.nbytes
    return tensor.cpu()


# %%
transfers = Transfers()
print(transfers.bring(torch.tensor([1.0, 2.0])), transfers)
assert transfers == Transfers(to_host=1, host_bytes=8)


# %% [markdown]
# Single numbers are transferred the same way, with the same wait. The answer goes back.

# %%
#| export
@patch
def fetch(self: Transfers, tensor: Tensor) -> list | float:
    "A tensor's numbers"
    return self.bring(tensor).tolist()


@patch
def send(self: Transfers, array: np.ndarray, device) -> Tensor:
    "An array, copied to a device."
    self.to_device += 1
    self.device_bytes += array.nbytes
    return torch.from_numpy(array).to(device)


# %%
(
    transfers.fetch(torch.tensor([1.0, 2.0])),
    transfers.send(np.array([True, False, True]), "cpu"),
    transfers,
)

# %%
assert (
    transfers == Transfers(to_host=2, to_device=1, host_bytes=16, device_bytes=3)
    and transfers.fetch(torch.tensor(0.5)) == 0.5
)
assert transfers.send(np.array([True, False]), "cpu").tolist() == [True, False]


# %% [markdown]
# On a device, torch's stable sort gives the order of a group, with pruned weights last. It starts from the order by |w|, which therefore decides ties.

# %%
#| export
def _falling(row: Tensor, alive: Tensor, start: Tensor) -> Tensor:
    "All indices by one group's falling importance, ties as in `start`, pruned weights last."
    score = torch.where(alive, row.abs(), -1)  # abs: −0 is 0
    return start[score[start].sort(descending=True, stable=True).indices]


# %%
row, alive = torch.tensor([3.0, 9.0, 8.0, -0.0, 0.0]), torch.tensor([True, False, True, True, True])
print(_falling(row, alive, torch.arange(5)))
assert _falling(row, alive, torch.arange(5)).tolist() == [2, 0, 3, 4, 1] and _falling(
    row, alive, torch.tensor([4, 3, 2, 1, 0])
).tolist() == [2, 0, 4, 3, 1]


# %% [markdown]
# A group's best weight of a layer is at the first place in that order with the layer's number. On a device `first_of_each` would wait for the host, so a scatter finds the smallest place.

# %%
#| export
def _best_of_layers(best: Tensor, layer: Tensor, layers: int) -> Tensor:
    "The first entry of each layer in the order `best`; for an empty layer the last of `best`."
    first = torch.full((layers,), len(best) - 1, device=best.device)
    return best[
        first.scatter_reduce_(0, layer[best], torch.arange(len(best), device=best.device), "amin")
    ]


# %%
print(_best_of_layers(torch.tensor([2, 0, 3, 1]), torch.tensor([1, 0, 1, 0]), layers=2))
assert _best_of_layers(torch.tensor([2, 0, 3, 1]), torch.tensor([1, 0, 1, 0]), 2).tolist() == [3, 2]
assert _best_of_layers(torch.tensor([2, 0, 1]), torch.tensor([2, 2, 0]), 3).tolist() == [2, 1, 0]


# %%
#| export
def sorted_prefixes(
    rows: Tensor,  # Importance on the device, shape `(G, n)`
    alive: Tensor,  # True where a weight is left, shape `(n,)`
    m: int,  # How many of each group's best
    weight: Tensor | None = None,  # The weights, shape `(n,)`, for ties
    layer: Tensor | None = None,  # Layer number of each entry, shape `(n,)`
    layers: int = 0,  # How many layers
    # Each group's m best, in order, shape `(G, m)`; True for these and its best of each layer,
    # shape `(n,)`
) -> tuple[Tensor, Tensor]:
    "Sort on the device, group by group, and keep the weights that the walk can reach."
    found, order = torch.zeros_like(alive), []
    start = by_magnitude(weight, alive).to(rows.device)
    for row in rows:
        best = _falling(row, alive, start)
        order.append(best[:m].int() if len(row) < 2**31 else best[:m])
        found[best[:m]] = True
        if layer is not None:
            found[_best_of_layers(best, layer, layers)] = True
    return torch.stack(order), found & alive


# %%
order, found = sorted_prefixes(
    torch.tensor([[3.0, 9.0, 8.0, 1.0, 7.0]]),
    torch.tensor([True, False, True, True, True]),
    2,
    None,
    torch.tensor([0, 0, 0, 1, 0]),
    2,
)
order, found

# %%
# 1 is pruned; 3 is the best of layer 1
assert order.tolist() == [[2, 4]] and found.tolist() == [False, False, True, True, True]
both = sorted_prefixes(
    torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0]]), everything, 1, torch.tensor([1.0, -2.0, 3.0])
)
# group 1's tie goes to the larger |w|
assert both[0].tolist() == [[0], [1]] and both[1].tolist() == [True, True, False]


# %% [markdown]
# ## Two ways to a job
#
# A job is a small bundle of numpy arrays, from any device, with a function that turns its answer into a mask. Ties need the bits of the weights, and the extra rule needs the layer numbers. `get` brings either to the CPU.

# %%
#| export
def _ties(weight, layer, kind, get):
    "Bits of the weights and layer numbers, each empty if not given."
    bits = as_bits(torch.empty(0, dtype=kind) if weight is None else get(weight).to(kind))
    return bits, np.zeros(0, np.int64) if layer is None else get(layer).long().numpy()


# %%
bits, label = _ties(
    torch.tensor([1.0, -2.0]), torch.tensor([0, 1], dtype=torch.int32), torch.float32, Tensor.cpu
)
print(bits, label, _ties(None, None, torch.float64, Tensor.cpu))
assert (
    bits.view(np.float32).tolist() == [1.0, -2.0]
    and label.tolist() == [0, 1]
    and label.dtype == np.int64
)
assert [a.tolist() for a in _ties(None, None, torch.float64, Tensor.cpu)] == [[], []] and _ties(
    None, None, torch.float64, Tensor.cpu
)[0].dtype == np.uint64


# %% [markdown]
# If the importance is on the CPU, the job uses all of it, without a copy for float32 and float64.

# %%
#| export
class _Choice(NamedTuple):
    "A checked selection, flattened, on the device of its importance."

    rows: Tensor  # Importance, shape `(G, n)`
    alive: Tensor  # True where a weight is left, shape `(n,)`
    weight: Tensor | None  # The weights, shape `(n,)`
    layer: Tensor | None  # Layer number of each entry, shape `(n,)`
    k: int  # How many to keep
    share: np.ndarray  # Target shares, shape `(G,)`, float64
    there: Tensor  # True for each layer that must keep a weight
    kind: torch.dtype  # The type to compare in
    shape: tuple[int, ...]  # Shape of the mask


def _whole(choice: _Choice) -> tuple[FairJob, Callable]:
    "A job of the whole layer."
    values = choice.rows.to("cpu", choice.kind).contiguous().numpy()
    bits, label = _ties(choice.weight, choice.layer, choice.kind, Tensor.cpu)
    alive, empty = choice.alive.cpu().numpy(), choice.there.cpu().numpy()
    job = FairJob(values, alive, choice.k, choice.share, bits, label, empty)
    shape, device = choice.shape, choice.alive.device

    def put(kept: np.ndarray) -> Tensor:
        return torch.from_numpy(kept).view(shape).to(device)

    return job, put


# %%
case = _Choice(
    rows=rows,
    alive=everything,
    weight=None,
    layer=None,
    k=2,
    share=target_share(rows).numpy(),
    there=torch.zeros(0, dtype=torch.bool),
    kind=torch.float32,
    shape=(1, 3),
)
job, put = _whole(case)
print(job.values, put(keep_shares(job)))
assert (
    put(keep_shares(job)).tolist() == [[True, False, True]]
    and np.shares_memory(job.values, rows.numpy())
    and job.order is None
)


# %% [markdown]
# On another device the job has only the weights that the walk can reach. They are renumbered in their old order, so the lower index stays the lower one.

# %%
#| export
def _fetched(choice: _Choice, count: Transfers) -> tuple[FairJob, Callable]:
    "A job of the sorted candidates only; `count` records the transfers."
    rows, alive, there, shape = choice.rows, choice.alive, choice.there, choice.shape
    weight, layer = choice.weight, choice.layer
    order, found = sorted_prefixes(rows, alive, choice.k, weight, layer, len(there))
    ids = found.nonzero_static(size=int(count.fetch(found.count_nonzero())))[:, 0]
    order = count.bring((found.cumsum(0, dtype=order.dtype) - 1)[order]).numpy()

    def few(t: Tensor) -> Tensor:
        return count.bring(t[..., ids])

    values = few(rows).to(choice.kind).contiguous().numpy()
    empty = count.bring(there).numpy() if len(there) else np.zeros(0, np.bool_)
    bits, label = _ties(weight, layer, choice.kind, few)
    every = np.ones(len(ids), np.bool_)
    job = FairJob(values, every, choice.k, choice.share, bits, label, empty, order)

    def put(kept: np.ndarray) -> Tensor:
        stays = count.send(kept, alive.device)
        return torch.zeros_like(alive).index_put_((ids,), stays).view(shape)

    return job, put


# %%
transfers = Transfers()
few, put_few = _fetched(case._replace(k=1, shape=(3,)), transfers)
print(few.order, few.values, put_few(keep_shares(few)), transfers)

# %%
# the best of each group: weights 0 and 2
assert few.values.tolist() == [[6.0, 1.0], [0.0, 2.0]] and few.order.tolist() == [[0], [1]]
assert put_few(np.array([False, True])).tolist() == [False, False, True] and put_few(
    keep_shares(few)
).tolist() == [True, False, False]


# %%
#| export
def fair_job(
    importance: Tensor,  # Importance, shape `(G, *weight)`, finite, ≥ 0
    mask: Tensor,  # True where a weight is left, shape `(*weight)`
    k: int,  # How many to keep
    weight: Tensor | None = None,  # The weights, shape `(*weight)`
    layer: Tensor | None = None,  # Layer number of each entry, shape `(*weight)`
    # Sort on the device of the importance and fetch only the candidates; None: unless that is
    # the CPU
    on_device: bool | None = None,
    transfers: Transfers | None = None,  # Counts transfers from and to the device, if sorted there
    # The job; how its answer, shape `(n,)`, becomes the new mask, shape `(*weight)`
) -> tuple[FairJob, Callable]:
    """Check a selection and bring it to the CPU. The importance of pruned weights is ignored.

    Raises: ValueError if shapes, k or shares do not allow a selection."""
    on_device = importance.device.type != "cpu" if on_device is None else on_device
    count = transfers if on_device and transfers is not None else Transfers()
    there = check_selection(importance, mask, k, layer, count.fetch)
    share = checked_share(importance, mask, count.fetch).numpy()
    kind = torch.promote_types(
        torch.promote_types(importance.dtype, torch.float32),
        importance.dtype if weight is None else weight.dtype,
    )
    flat = [None if t is None else t.detach().flatten() for t in (mask, weight, layer)]
    rows = importance.detach().flatten(1)
    choice = _Choice(rows, *flat, k, share, there, kind, mask.shape)
    return _fetched(choice, count) if on_device else _whole(choice)


# %%
job, put = fair_job(rows, everything, 2)
transfers = Transfers()
few, put_few = fair_job(rows, everything, 1, on_device=True, transfers=transfers)
print(job.order, few.order, few.values, transfers)

# %%
assert put(keep_shares(job)).tolist() == [True, False, True] and put_few(
    keep_shares(few)
).tolist() == [True, False, False]
m, k, groups = 2, 1, 2
assert (
    transfers.to_host == 5
    and transfers.host_bytes == 8 * (groups + 4) + m * 4 * groups + 4 * groups * k
    and transfers.device_bytes == m
)
wide, _ = fair_job(
    rows,
    everything,
    2,
    torch.tensor([1.0, 1.0, 1.0 + 2**-40], dtype=torch.float64),
    torch.tensor([0, 0, 1]),
    transfers=(unused := Transfers()),
)
assert (
    wide.values.dtype == np.float64
    and wide.weight.view(np.float64)[2] > 1
    and wide.label.tolist() == [0, 0, 1]
    and wide.empty.tolist() == [True, True]
    and unused == Transfers()
)
for wrong, k in ((-rows, 2), (rows, 4)):
    try:
        fair_job(wrong, everything, k)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("an impossible job was made")


# %% [markdown]
# A selector that sorts whole rows on the CPU needs the order of ties as indices of the weights left.

# %%
#| export
def falling_magnitude(weight: Tensor | None, alive: np.ndarray, index: type) -> np.ndarray:
    "Indices of the weights left, by falling |w|, the lower index first on a tie."
    start = np.flatnonzero(alive).astype(index)
    return start if weight is None else radix_order(as_bits(weight.detach().flatten().cpu()), start)


# %%
print(
    falling_magnitude(
        torch.tensor([1.0, -3.0, 2.0, 3.0]), np.array([True, True, False, True]), np.int32
    )
)
assert falling_magnitude(
    torch.tensor([1.0, -3.0, 2.0, 3.0]), np.array([True, True, False, True]), np.int32
).tolist() == [1, 3, 0]
assert falling_magnitude(None, np.array([False, True, True]), np.int32).tolist() == [1, 2]
