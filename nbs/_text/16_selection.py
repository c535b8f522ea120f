# %% [markdown]
# # Selection
#
# > Which weights stay: the most important ones, or those that keep every group's share

# %%
#| default_exp selection

# %%
#| export
import warnings
from collections import namedtuple
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

# %%
from hypothesis import given, settings as hypothesis_settings, strategies as st


# %% [markdown]
# Pruning a layer is a choice of `k` of its weights. Every selector here has one signature, `(importance, mask, k, weight, layer) → mask`, so that a new method is one small function.
# The importance has one row for each group, shape `(G, *weight)`; a group-blind method has one group, everybody.
#
# ## How many to keep
#
# `int((1 - 0.9) * 1000)` is 99: binary floats cannot hold 0.9. The number of weights kept decides what "a rate of 0.9" means, so it is computed
# from the decimal number that was written down, as an exact fraction.

# %%
#| export
def keep_count(
    n: int,                      # Weights of the layer, pruned ones included
    rate: float | str | Fraction,# Pruning rate, the fraction removed, 0 ≤ rate < 1
) -> int:                        # max(1, ⌊(1 − rate) · n⌋)
    "How many of `n` weights a pruning rate leaves; at least one, so that no layer is cut through."
    return max(1, int((1 - exact(rate)) * n))

def exact(rate: float | str | Fraction) -> Fraction:
    "The decimal number that `rate` was written as"
    return rate if isinstance(rate, Fraction) else Fraction(str(rate))


# %%
keep_count(1000, 0.9), int((1 - 0.9) * 1000)

# %%
assert keep_count(1000, 0.9) == 100 and keep_count(50, 0.99) == 1 and keep_count(10, "0.99") == 1 and keep_count(7, 0) == 7
assert exact(0.975) ** 2 == Fraction(950625, 1000000)


# %% [markdown]
# ## The group-blind choice
#
# Look at one number a weight, the importance summed over the groups, and keep the `k` largest. A weight that was pruned earlier is no candidate, whatever its score, so the masks of later steps nest inside those of
# earlier ones. Ties are decided by the larger weight, then by the lower index: a mask must not depend on a sort's mood.
#
# `layer` serves the global scope, where all layers compete for one budget: it numbers each entry's layer, and every layer keeps at least one weight, its best.

# %%
#| export
def select_top(
    importance: Tensor,          # Importance of each weight, shape `(G, *weight)`, ≥ 0; the groups are added up
    mask: Tensor,                # True where a weight is still there, shape `(*weight)`
    k: int,                      # How many to keep, 1 ≤ k ≤ `mask.sum()`
    weight: Tensor | None = None,# The weights, shape `(*weight)`: on equal importance the larger |w| stays
    layer: Tensor | None = None, # Layer number of each entry, shape `(*weight)`, long: each keeps at least one
) -> Tensor:                     # The new mask, True where a weight stays, shape `(*weight)`
    "Keep the `k` most important weights of those that `mask` still has."
    check_selection(importance, mask, k, layer)
    score = torch.where(mask, importance.sum(0), -torch.inf).flatten()
    order = by_magnitude(weight, mask).to(score.device)
    order = order[mask.flatten()[order]]
    order = order[score[order].sort(descending=True, stable=True).indices]    # stable: on a tie the order by |w| stays
    kept = torch.zeros_like(score, dtype=torch.bool)
    if layer is not None: kept[first_of_each(layer.flatten()[order], order)] = True
    rest = order[~kept[order]]
    kept[rest[:k - int(kept.sum())]] = True
    return kept.view_as(mask)

def check_selection(importance: Tensor, mask: Tensor, k: int, layer: Tensor | None, fetch: Callable = Tensor.tolist) -> Tensor:
    "Which layers have weights left, shape `(layers,)`. Raises: ValueError unless shapes agree and 1 (or the number of layers) ≤ k ≤ weights left"
    if importance.shape[1:] != mask.shape: raise ValueError(f"importance {tuple(importance.shape)} must be (G, *weight) with weight {tuple(mask.shape)}")
    there = mask.new_zeros(0) if layer is None else layers_left(mask, layer, int(fetch(layer.max())) + 1)
    left, least = map(int, fetch(torch.stack([mask.count_nonzero(), there.count_nonzero()])))
    if not max(least, 1) <= k <= left: raise ValueError(f"k = {k}, but the mask has {left} weights left: choose {max(least, 1)} to {left}")
    return there

def layers_left(mask: Tensor, layer: Tensor, layers: int) -> Tensor:
    "True for each layer number that has a weight left, shape `(layers,)`"
    return torch.zeros(layers, dtype=torch.int, device=mask.device).scatter_add_(0, layer.flatten().long(), mask.flatten().int()) > 0

def by_magnitude(weight: Tensor | None, mask: Tensor) -> Tensor:
    "Flat indices by falling |w|, the lower index first on a tie"
    if weight is None: return torch.arange(mask.numel())
    return weight.detach().abs().flatten().sort(descending=True, stable=True).indices

def first_of_each(labels: Tensor, order: Tensor) -> Tensor:
    "The entries of `order` at which a label comes for the first time"
    labels = labels.cpu().numpy()
    return order[torch.from_numpy(np.unique(labels, return_index=True)[1]).to(order.device)]


# %% [markdown]
# Four weights, one of them already gone. Asked for two, it keeps the 5 and the 3; the pruned 9 stays pruned.

# %%
importance = torch.tensor([[[5., 1.], [9., 3.]]])
mask = torch.tensor([[True, True], [False, True]])
select_top(importance, mask, k=2)

# %%
assert select_top(importance, mask, k=2).tolist() == [[True, False], [False, True]]
assert select_top(torch.ones(1, 4), torch.ones(4) > 0, k=2).tolist() == [True, True, False, False]
assert select_top(torch.ones(1, 4), torch.ones(4) > 0, k=2, weight=torch.tensor([1., -5., 2., 5.])).tolist() == [False, True, False, True]
assert select_top(torch.tensor([[9., 8., 7., 1.]]), torch.ones(4) > 0, k=3, layer=torch.tensor([0, 0, 0, 1])).tolist() == [True, True, False, True]

# %% [markdown]
# Asking for more than is left is a mistake in the schedule, so it is said at once.

# %%
for k, layer in ((4, None), (0, None), (1, torch.tensor([[0, 0], [1, 1]]))):
    try: select_top(importance, mask, k, layer=layer)
    except ValueError as e: print(e)
    else: raise AssertionError(f"k = {k} was accepted")

# %% [markdown]
# ## Every group's share
#
# Let a layer's importance, summed over its weights, be 12 for group 0 and 2 for group 1. Then group 0 holds 6/7 of it. FairGRAPE asks that the weights which are kept divide in the same proportion: the
# target share of a group is
#
# $$P_g = \frac{\sum_w I_g(w)}{\sum_{g'}\sum_w I_{g'}(w)} .$$
#
# It is computed by this one function for whoever needs it, in float64, since two ways to add the same numbers may differ in the last digit, and one digit can turn a choice. It adds up piece by piece:
# a copy in float64 of the whole importance would be the largest thing in memory.

# %%
#| export
PIECE = 1 << 16   # Columns that are turned into float64 at a time

def target_share(
    importance: Tensor, # Importance of a layer, shape `(G, *weight)`, finite, not all 0
) -> Tensor:            # P_g, shape `(G,)`, float64, sums to 1
    "Each group's share of the layer's total importance (paper, section 3.2)."
    totals = sum(piece.double().sum(1) for piece in importance.flatten(1).split(PIECE, 1))
    return totals / totals.sum()


# %%
importance = torch.tensor([[6., 5., 1.],   # group 0
                           [0., 0., 2.]])  # group 1
target_share(importance)

# %%
assert target_share(importance).tolist() == [12 / 14, 2 / 14]
assert torch.allclose(target_share(torch.ones(3, 2 * PIECE + 1)), torch.full((3,), 1 / 3, dtype=torch.float64))


# %% [markdown]
# The choice is greedy. Nothing is kept at first and every group counts as holding $1/G$. Then, until $k$ weights are kept: find the group whose current share falls furthest short of
# its target (the lowest index on a tie), keep *its* most important weight that is not kept yet, work out the shares anew. Written down like that it is the plain loop below: slow, and the meaning of "right" for everything that follows.
#
# Where the kept weights have importance 0 for everybody, shares are undefined and count as $1/G$ once more. In the global scope the one extra rule is: as soon as as many weights are left to choose as layers are still
# empty, only weights of empty layers are candidates.

# %%
#| export
def select_fair_plain(
    importance: Tensor,          # Importance, shape `(G, *weight)`, finite, ≥ 0
    mask: Tensor,                # True where a weight is still there, shape `(*weight)`
    k: int,                      # How many to keep
    weight: Tensor | None = None,# The weights: on equal importance the larger |w| goes first, then the lower index
    layer: Tensor | None = None, # Layer number of each entry: each keeps at least one
) -> Tensor:                     # The new mask, shape `(*weight)`
    "FairGRAPE's selection as a plain Python loop: the reference for `select_fair`. Source: paper, section 3.2 and Algorithm 1."
    check_selection(importance, mask, k, layer)
    share, rows = checked_share(importance).tolist(), importance.flatten(1).double().tolist()
    alive = mask.flatten().tolist()
    candidates = [i for i in by_magnitude(weight, mask).tolist() if alive[i]]
    order = [iter(sorted(candidates, key=lambda i: -row[i])) for row in rows]      # sorted is stable; what a group has passed over stays passed over
    kept, sums = {}, [0.] * len(rows)
    labels = None if layer is None else layer.flatten().tolist()
    empty = set() if labels is None else {labels[i] for i in candidates}
    for left in range(k, 0, -1):
        total = 0.
        for s in sums: total += s                      # not sum(), which rounds differently from Python 3.12 on
        deficit = [(s / total if total > 0 else 1 / len(rows)) - p for s, p in zip(sums, share)]
        group = deficit.index(min(deficit))
        i = next(i for i in order[group] if i not in kept and (left > len(empty) or labels[i] in empty))
        kept[i] = True
        if labels is not None: empty.discard(labels[i])
        sums = [s + row[i] for s, row in zip(sums, rows)]
    new = torch.zeros(mask.numel(), dtype=torch.bool)
    new[list(kept)] = True
    return new.view(mask.shape)

def checked_share(importance: Tensor, fetch: Callable = Tensor.tolist) -> Tensor:
    "`target_share` on the CPU. Raises: ValueError where importances are negative, not finite or all zero"
    least, *share = fetch(torch.cat([importance.min().double()[None], target_share(importance)]))
    if least < 0: raise ValueError(f"importance of {least:.3g}: shares cannot be negative, take select_top")
    if not np.isfinite(share).all(): raise ValueError("importance is not finite, or zero for every weight: no shares to keep, take select_top on |w|")
    return torch.tensor(share, dtype=torch.float64)


# %% [markdown]
# Two of three weights. Group 0 is short at first (it holds 1/2, its target is 6/7) and keeps weight 0, the 6. Now it holds everything and group 1 is short, so
# group 1 keeps its favourite: weight 2. The group-blind choice would have kept weights 0 and 1 and left group 1 with nothing.

# %%
everything = torch.ones(3, dtype=torch.bool)
select_fair_plain(importance, everything, k=2), select_top(importance, everything, k=2)

# %%
assert select_fair_plain(importance, everything, k=2).tolist() == [True, False, True]
assert select_top(importance, everything, k=2).tolist() == [True, True, False]
assert select_fair_plain(importance, torch.tensor([True, True, False]), k=1).tolist() == [True, False, False]
for wrong in (-importance, importance * float("inf"), importance * 0):
    try: select_fair_plain(wrong, everything, k=2)
    except ValueError as e: print(e)
    else: raise AssertionError("importances without shares were shared out")
# all three entries in layers of their own but one: layer 1 (entry 2 alone) must keep it, whoever's turn it is
assert select_fair_plain(torch.tensor([[3., 2., 1.]]), everything, k=2, layer=torch.tensor([0, 0, 1])).tolist() == [True, False, True]

# %% [markdown]
# ## The same, fast
#
# The loop is sequential: each choice depends on all before it. But it reads very little. What follows computes the same mask without sorting the groups' orders, and why it is the same takes four steps.
#
# 1. **Only a prefix is read.** Before the last choice fewer than $k$ weights are kept, and a group steps over a weight only because it is kept. So it never gets beyond the $k$ weights that it likes best, and the rest of its order need not exist.
# 2. **Only by and by.** Importances are non-negative floats, whose bits, read as an unsigned integer, are ordered like the numbers. Their leading bits cut each group's order into *buckets*: all of one come before all of the next, in any
#    order inside. A bucket is put in order when the group arrives at it. What other groups have kept by then is dropped first, since kept weights stay kept and would be stepped over. With seven groups that is most of it, so most weights are
#    sorted once or so and not seven times.
# 3. **Ties.** Inside a bucket the order is: larger importance, then larger |w|, then lower index, as in the plain loop. The sort is stable and starts from rising indices. Stretches of equal importance are sorted again by |w|.
# 4. **The same arithmetic.** By induction: as long as the kept weights were the same, in the same order, the sums are the same additions in the same order, so the same bits, and the group in deficit is the same. Its best weight that is not kept is the same by
#    1 to 3. So the next choice is the same. There is no `fastmath`.
#
# Integers first. The sign bit is left out, since −0 is as good as 0. What is sorted is a bucket's distance from its largest key, so only as many digits are looked at as the bucket's keys differ in.

# %%
#| export
ONE, SHORT = np.uint64(1), 24   # Up to SHORT entries are sorted by insertion

@njit(cache=True, nogil=True, error_model="numpy")
def _key(bits, i): return np.uint64(bits[i]) & (~np.uint64(0) >> np.uint64(65 - 8 * bits.itemsize))

@njit(cache=True, nogil=True, error_model="numpy")
def _insertion_order(bits, start):
    order = start.copy()
    for j in range(1, order.shape[0]):
        i, at = order[j], j
        while at > 0 and _key(bits, order[at - 1]) < _key(bits, i): order[at], at = order[at - 1], at - 1
        order[at] = i
    return order

@njit(cache=True, nogil=True, error_model="numpy")
def _radix_pass(keys, order, shift, to, new_keys, new_order):
    low, first = np.uint64(to.shape[0] - 1), np.uint64(0)
    to[:] = 0
    for j in range(keys.shape[0]): to[(keys[j] >> shift) & low] += ONE
    for d in range(to.shape[0]): to[d], first = first, first + to[d]
    for j in range(keys.shape[0]):
        d = (keys[j] >> shift) & low
        new_keys[to[d]], new_order[to[d]] = keys[j], order[j]
        to[d] += ONE

@njit(cache=True, nogil=True, error_model="numpy")
def radix_order(
    bits, # Non-negative floats read as unsigned integers, shape `(n,)`
    start,# Indices into `bits` in the order that decides ties, shape `(m,)`
):        # The same indices by falling value, ties as in `start`
    "Stable radix sort, largest first."
    if start.shape[0] <= SHORT: return _insertion_order(bits, start)
    keys, order = np.empty(start.shape[0], np.uint64), start.copy()
    for j in range(keys.shape[0]): keys[j] = _key(bits, order[j])
    high, low = keys.max(), keys.min()
    for j in range(keys.shape[0]): keys[j] = high - keys[j]
    digit = 8 if keys.shape[0] <= 1 << 14 else 11         # 256 counters for what fits the cache anyway
    to, new_keys, new_order = np.empty(1 << digit, np.uint64), np.empty_like(keys), np.empty_like(order)
    for shift in range(0, 64, digit):
        if (high - low) >> np.uint64(shift) == 0: break
        _radix_pass(keys, order, np.uint64(shift), to, new_keys, new_order)
        keys, new_keys, order, new_order = new_keys, keys, new_order, order
    return order

def falling_magnitude(weight: Tensor | None, alive: np.ndarray, index: type) -> np.ndarray:
    "Indices of the weights that are still there, by falling |w|, the lower index first on a tie"
    start = np.flatnonzero(alive).astype(index)
    return start if weight is None else radix_order(as_bits(weight.detach().flatten().cpu()), start)

def as_bits(values: Tensor) -> np.ndarray:
    "Floats on the CPU as unsigned integers; what is narrower than float32 becomes float32"
    return values.numpy().view(np.uint64) if values.dtype == torch.float64 else values.float().numpy().view(np.uint32)


# %%
values = torch.tensor([0.5, 0., 3., 0.5, 1e-40, 3.])
radix_order(as_bits(values), np.arange(6, dtype=np.int32)), radix_order(as_bits(values), np.arange(6, dtype=np.int32)[::-1].copy())

# %%
assert radix_order(as_bits(values), np.arange(6, dtype=np.int32)).tolist() == [2, 5, 0, 3, 4, 1]
assert radix_order(as_bits(torch.tensor([0., -0., 0.])), np.arange(3, dtype=np.int32)).tolist() == [0, 1, 2]
assert falling_magnitude(torch.tensor([1., -3., 2., 3.]), np.array([True, True, False, True]), np.int32).tolist() == [1, 3, 0]
for dtype in (np.float32, np.float64):
    for n in (SHORT + 1, 5000, 20000):
        x = (np.random.default_rng(0).exponential(size=n) ** 8).astype(dtype); x[::7] = x[3]
        assert (radix_order(as_bits(torch.from_numpy(x)), np.arange(n, dtype=np.int32)) == np.argsort(-x, kind="stable")).all()


# %% [markdown]
# Buckets are made from counts of the leading bits. Levels with few weights are put together until there are about `size`, as much as fits the cache; a level with more becomes a bucket of its own. Once there are `k` weights the rest is left out.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def cut_buckets(
    bits, # A group's importance as unsigned integers, shape `(n,)`
    k,    # How many weights, at least, must lie in buckets
    size, # How many a bucket may hold, unless a single level holds more
    shift,# The level of an entry is its key without its last `shift` bits, uint64
):        # Lowest level that is in a bucket, bucket of each level, edges: bucket b takes places edges[b] to edges[b + 1]
    "Cut a group's order into buckets, most important first."
    counts = np.zeros(1 << (8 * bits.itemsize - 1 - int(shift)), np.int64)
    for i in range(bits.shape[0]): counts[_key(bits, i) >> shift] += 1
    bucket, edges, seen, level = np.zeros(counts.shape[0], np.int32), [0], 0, counts.shape[0]
    while seen < k:
        level -= 1
        if seen > edges[-1] and seen + counts[level] - edges[-1] > size: edges.append(seen)
        bucket[level] = len(edges) - 1
        seen += counts[level]
    edges.append(seen)
    return np.uint64(level), bucket, np.array(edges)

@njit(cache=True, nogil=True, error_model="numpy")
def _spread(bits, shift, lowest, bucket, edges, order):
    to = edges.copy()
    for i in range(bits.shape[0]):
        level = _key(bits, i) >> shift
        if level >= lowest:
            b = np.uint64(bucket[level])
            order[to[b]] = i
            to[b] += 1


# %% [markdown]
# Six weights. With levels of whole exponents (31 − 8 bits) 9 and 8 share a level, and so do 3 and 2. Of four weights in buckets of two nothing below 2 is placed.

# %%
values = as_bits(torch.tensor([3., 9., 0.1, 8., 1., 2.]))
lowest, bucket, edges = cut_buckets(values, 4, 2, np.uint64(23))
order = np.zeros(edges[-1], np.int32)
_spread(values, np.uint64(23), lowest, bucket, edges, order)
print(edges, order)

# %%
assert edges.tolist() == [0, 2, 4] and order.tolist() == [1, 3, 0, 5]
assert cut_buckets(values, 5, 3, np.uint64(23))[2].tolist() == [0, 2, 5] and cut_buckets(values, 1, 9, np.uint64(23))[2].tolist() == [0, 2]

# %% [markdown]
# The walk's state is two bundles of arrays. `Entries` is the layer: its values in one flat array, with the strides by weight and by group, so that the same kernel reads `(G, n)` as it comes and `(n, G)`, where a weight's values lie together. `Lists` is how far each group has come. Groups share
# nothing before the walk, so they are prepared in threads: `run` is `map`, or a pool's.

# %%
#| export
Entries = namedtuple("Entries", "values bits step weight label")        # step: strides by weight and by group; weight: bits of |w|, or nothing
Lists = namedtuple("Lists", "order edges bucket at end page first")     # order[at:end] is sorted; page holds the values of order[first:first + PAGE]
PAGE = 64       # Candidates whose values are fetched at once, so that memory is waited for once and not 64 times

def bucket_lists(
    bits: np.ndarray,    # Importance as unsigned integers, shape `(G, n)`
    k: int,              # How many will be kept
    run: Callable = map, # `map`, or that of a thread pool
) -> Lists:              # Each group's first k candidates at least, in buckets, none sorted yet
    "Put every group's candidates into buckets."
    groups, n = bits.shape
    shift = np.uint64(8 * bits.itemsize - 1 - min(16, max(8, n.bit_length())))
    cuts = list(run(lambda row: cut_buckets(row, k, max(4096, k // 1024), shift), bits))
    ends = np.cumsum([edges[-1] for *_, edges in cuts])
    order = np.empty(ends[-1], np.int32 if n < 2**31 else np.int64)
    all_edges = np.zeros((groups, max(len(edges) for *_, edges in cuts)), np.int64)
    for row, end, (*_, edges) in zip(all_edges, ends, cuts): row[:len(edges)] = edges + (end - edges[-1])
    list(run(lambda row, end, cut: _spread(row, shift, *cut, order[end - cut[2][-1]:]), bits, ends, cuts))
    return Lists(order, all_edges, *np.zeros((3, groups), np.int64), np.empty((groups, PAGE, groups)), np.zeros(groups, np.int64))

def sorted_lists(order: np.ndarray) -> Lists:
    "Lists of candidates that are sorted already, shape `(G, m)`, and enough for the walk"
    groups, m = order.shape
    at = np.arange(groups) * m
    return Lists(order.ravel(), np.zeros((1, 1), np.int64), np.zeros(groups, np.int64), at, at + m, np.empty((groups, PAGE, groups)), at - PAGE)


# %%
lists = bucket_lists(as_bits(torch.tensor([[6., 5., 1.], [0., 0., 2.]])), 2)
lists.order, lists.edges

# %%
assert lists.edges.tolist() == [[0, 2], [2, 5]] and lists.order.tolist()[:2] == [0, 1] and sorted(lists.order.tolist()[2:]) == [0, 1, 2]
assert sorted_lists(np.array([[0, 1], [2, 0]], np.int32)).end.tolist() == [2, 4]


# %% [markdown]
# A group that has used up its sorted stretch opens the next bucket: drop what is kept, sort, settle ties. What is kept is one bit a weight, so that it stays in the cache too.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def _has(kept, i): return (kept[np.uint64(i) >> np.uint64(3)] >> (np.uint64(i) & np.uint64(7))) & ONE

@njit(cache=True, nogil=True, error_model="numpy")
def _column(entries, g, groups):
    by_weight, by_group = entries.step
    return entries.bits[g * by_group:g * by_group + (entries.bits.shape[0] // groups - 1) * by_weight + 1:by_weight]

@njit(cache=True, nogil=True, error_model="numpy")
def _settle_ties(bits, weight, order):
    start = 0
    for j in range(1, order.shape[0] + 1):
        if j < order.shape[0] and _key(bits, order[j]) == _key(bits, order[start]): continue
        if j > start + 1: order[start:j] = radix_order(weight, order[start:j])
        start = j

@njit(cache=True, nogil=True, error_model="numpy")
def open_bucket(
    entries,# `Entries`
    group,  # Whose bucket
    lists,  # `Lists`; changed
    kept,   # One bit a weight: set where it is kept
):
    "Sort what is left of a group's next bucket, in place."
    bits = _column(entries, group, lists.at.shape[0])
    start, end = lists.edges[group, lists.bucket[group]], lists.edges[group, lists.bucket[group] + 1]
    to = start
    for place in range(start, end):
        lists.order[to] = lists.order[place]
        to += 1 - np.int64(_has(kept, lists.order[place]))
    if to > start:
        lists.order[start:to] = radix_order(bits, lists.order[start:to])
        if entries.weight.shape[0]: _settle_ties(bits, entries.weight, lists.order[start:to])
    lists.bucket[group] += 1
    lists.at[group], lists.end[group], lists.first[group] = start, to, start - PAGE


# %% [markdown]
# Four weights in one bucket, one of them kept by another group. On equal importance the larger |w| comes first.

# %%
values, label = torch.tensor([5., 7., 7., 5.]), np.zeros(0, np.int64)
entries = Entries(values.numpy(), as_bits(values), (1, 4), as_bits(torch.tensor([1., 2., -3., 4.])), label)
lists = bucket_lists(as_bits(values[None]), 4)
open_bucket(entries, 0, lists, np.array([0b0001], np.uint8))      # weight 0 is kept
lists.order[lists.at[0]:lists.end[0]]

# %%
assert lists.order[lists.at[0]:lists.end[0]].tolist() == [2, 1, 3] and lists.bucket[0] == 1
lists = bucket_lists(as_bits(values[None]), 4)
open_bucket(entries._replace(weight=as_bits(values[:0])), 0, lists, np.array([0], np.uint8))
assert lists.order.tolist() == [1, 2, 0, 3]


# %% [markdown]
# Whose turn it is; and the values of that group's next candidates, read ahead into `page`: they lie anywhere in memory, and 64 waits at once take little longer than one.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def neediest(
    sums,   # Importance kept so far, shape `(G,)`, float64
    total,  # Their sum, added up in the groups' order
    share,  # Target shares P_g, shape `(G,)`, float64
    deficit,# Room for G numbers; changed
):          # The group whose share falls furthest short, the lowest index on a tie
    "Whose turn it is."
    if total > 0:
        for g in range(share.shape[0]): deficit[g] = sums[g] / total - share[g]
    else:
        for g in range(share.shape[0]): deficit[g] = 1 / share.shape[0] - share[g]
    group, worst = 0, deficit[0]
    for g in range(1, share.shape[0]):
        less = deficit[g] < worst
        worst = deficit[g] if less else worst
        group = g if less else group
    return group

@njit(cache=True, nogil=True, error_model="numpy")
def load_page(
    lists,    # `Lists`; changed
    group,    # Whose candidates
    values,   # Importance, flat
    by_weight,# Its stride from one weight to the next
    by_group, # Its stride from one group to the next
):
    "Fetch the values of a group's next candidates."
    at = lists.at[group]
    for j in range(at, min(at + PAGE, lists.end[group])):
        base = lists.order[j] * by_weight
        for g in range(lists.page.shape[2]): lists.page[group, j - at, g] = values[np.uint64(base + g * by_group)]
    lists.first[group] = at


# %%
rows = torch.tensor([[6., 5., 1.], [0., 0., 2.]])
entries, lists = Entries(rows.flatten().numpy(), as_bits(rows.flatten()), (1, 3), np.zeros(0, np.uint32), np.zeros(0, np.int64)), bucket_lists(as_bits(rows), 3)
group = neediest(np.array([6., 0.]), 6., np.array([12 / 14, 2 / 14]), np.zeros(2))
open_bucket(entries, group, lists, np.array([0b001], np.uint8))
load_page(lists, group, entries.values, *entries.step)
group, lists.order[lists.at[group]], lists.page[group, 0]

# %%
assert group == 1 and lists.order[lists.at[1]] == 2 and lists.page[1, 0].tolist() == [1., 2.]   # group 1's best is weight 2: 1 for group 0, 2 for group 1
assert neediest(np.zeros(2), 0., np.array([.5, .5]), np.zeros(2)) == 0                          # nothing kept, a tie: the lowest index


# %% [markdown]
# The global scope's extra rule. Once as many choices are left as layers are empty it stays so, since each choice fills one. None of the candidates is kept then, so a group's choice is the best, over the empty layers, of what it likes best in each. That is found by
# looking through the layer once a group, and only where it comes to that.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def _before(bits, weight, i, j):
    if _key(bits, i) != _key(bits, j): return _key(bits, i) > _key(bits, j)
    if weight.shape[0] and _key(weight, i) != _key(weight, j): return _key(weight, i) > _key(weight, j)
    return i < j

@njit(cache=True, nogil=True, error_model="numpy")
def best_of_empty(
    entries,# `Entries`
    group,  # Whose
    groups, # How many groups there are
    empty,  # True for each layer that must still get a weight, shape `(layers,)`
    best,   # The group's best weight of each layer, shape `(layers,)`, −1 where it was not looked for; changed
):          # Index of the weight
    "A group's best weight of all layers that are empty."
    bits = _column(entries, group, groups)
    if best.max() < 0:
        for i in range(bits.shape[0]):
            n = entries.label[i]
            if empty[n] and (best[n] < 0 or _before(bits, entries.weight, i, best[n])): best[n] = i
    first = -1
    for n in range(empty.shape[0]):
        if empty[n] and (first < 0 or _before(bits, entries.weight, best[n], first)): first = best[n]
    return first


# %% [markdown]
# Five weights in three layers, of which layer 0 has one already. The best weight of all is 0, in layer 0; of the other layers it is weight 4.

# %%
values = as_bits(torch.tensor([9., 1., 2., 3., 4.]))
entries = Entries(values.view(np.float32), values, (1, 5), values[:0], np.array([0, 0, 1, 1, 2]))
best = np.full(3, -1)
best_of_empty(entries, 0, 1, np.array([False, True, True]), best), best

# %%
assert best.tolist() == [-1, 3, 4]
assert best_of_empty(entries, 0, 1, np.array([False, True, False]), best) == 3
tied = as_bits(torch.tensor([1., 1., 1.]))
by_weight = lambda *w: Entries(tied.view(np.float32), tied, (1, 3), as_bits(torch.tensor(w)), np.array([0, 1, 1]))
both = np.array([True, True])
assert best_of_empty(by_weight(1., -2., 3.), 0, 1, both, np.full(2, -1)) == 2 and best_of_empty(by_weight(2., 1., -2.), 0, 1, both, np.full(2, -1)) == 0


# %% [markdown]
# And the walk: the plain loop, step for step.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def fair_walk(
    entries,# `Entries`: n weights, G groups
    lists,  # `Lists`: each group's candidates; changed
    share,  # Target shares P_g, shape `(G,)`, float64
    k,      # How many to keep
    empty,  # True for each layer that must keep a weight, shape `(layers,)`; changed
):          # One bit a weight, set where it is kept
    "The plain loop of `select_fair_plain` over candidates that are sorted when they are needed."
    groups = share.shape[0]
    kept, best = np.zeros(entries.values.shape[0] // groups // 8 + 1, np.uint8), np.full((groups, empty.shape[0]), -1)
    sums, deficit, total, to_fill = np.zeros(groups), np.empty(groups), 0., empty.sum()
    for left in range(k, 0, -1):
        group, place, i = neediest(sums, total, share, deficit), 0, -1
        if left == to_fill:
            i = best_of_empty(entries, group, groups, empty, best[group])
            for g in range(groups): lists.page[group, 0, g] = entries.values[i * entries.step[0] + g * entries.step[1]]
        while i < 0:
            at = lists.at[group]
            if at == lists.end[group]: open_bucket(entries, group, lists, kept)
            elif at >= lists.first[group] + PAGE: load_page(lists, group, entries.values, entries.step[0], entries.step[1])
            else:
                lists.at[group] += 1
                if not _has(kept, lists.order[at]): i, place = np.int64(lists.order[at]), at - lists.first[group]
        kept[np.uint64(i) >> np.uint64(3)] |= np.uint8(1) << (np.uint64(i) & np.uint64(7))
        if to_fill and empty[entries.label[i]]: empty[entries.label[i]], to_fill = False, to_fill - 1
        total = 0.
        for g in range(groups):
            sums[g] += lists.page[group, place, g]
            total += sums[g]
    return kept


# %%
entries = Entries(rows.flatten().numpy(), as_bits(rows.flatten()), (1, 3), np.zeros(0, np.uint32), np.zeros(0, np.int64))
kept = fair_walk(entries, bucket_lists(as_bits(rows), 2), target_share(rows).numpy(), 2, np.zeros(0, np.bool_))
np.unpackbits(kept, bitorder="little")[:3]

# %%
assert np.unpackbits(kept, bitorder="little")[:3].tolist() == [1, 0, 1]
side_by_side = Entries(rows.T.flatten().numpy(), as_bits(rows.T.flatten()), (2, 1), np.zeros(0, np.uint32), np.array([0, 0, 1]))
assert fair_walk(side_by_side, sorted_lists(np.array([[0, 1], [2, 0]], np.int32)), target_share(rows).numpy(), 2, np.zeros(2, np.bool_)).tolist() == [0b101]
assert fair_walk(side_by_side, sorted_lists(np.array([[0, 1], [2, 0]], np.int32)), target_share(rows).numpy(), 2, np.array([True, True])).tolist() == [0b101]


# %% [markdown]
# ## From tensors to the walk and back
#
# What the walk needs is gathered in a `FairJob`, from tensors; what follows is numpy, so that a job can be worked off in any thread. Weights that were pruned earlier are left out of everything: the work falls with the weights that are left.
#
# Where many weights will be kept, their values are copied so that a weight's lie together. Where few will be (or the copy would be large) the importance is read as it is. So beside the importance there are in memory, at most: the
# candidates ($4 k G$ bytes, 8 from $2^{31}$ weights on; a little more where equal leading bits do not allow a cut at $k$), that copy (as large as the importance of the weights left, and none above `COPY` bytes), and, once something is pruned, the importance of the weights left, cut out. So with `float32` it is at most twice the importance if nothing is pruned, and once where the copy would be too large (100 M weights and 7 groups: 2.8 GB);
# the global scope lays the layers' importance side by side first, which is once more.

# %%
#| export
class FairJob(NamedTuple):
    "All that decides one selection, on the CPU"
    values: np.ndarray             # Importance, shape `(G, n)`, float32 or float64
    alive: np.ndarray              # True where a weight is still there, shape `(n,)`
    k: int                         # How many to keep
    share: np.ndarray              # Target shares, shape `(G,)`, float64
    weight: np.ndarray             # Bits of the weights, shape `(n,)`, or nothing
    label: np.ndarray              # Layer number of each entry, shape `(n,)`, or nothing
    empty: np.ndarray              # True for each layer that must keep a weight
    order: np.ndarray | None = None# Each group's candidates where they are sorted already, shape `(G, m)`

COPY = 2**30   # Bytes of importance up to which a weight's values are laid side by side

def keep_shares(
    job: FairJob,       # What decides
    run: Callable = map,# `map`, or that of a thread pool
) -> np.ndarray:        # True where a weight stays, shape `(n,)`
    "Work off one selection."
    values, weight, label = (_left(a, job.alive) for a in (job.values, job.weight, job.label))
    bits = values.view(f"u{values.itemsize}")
    lists = bucket_lists(bits, job.k, run) if job.order is None else sorted_lists(job.order)
    flat, step = _laid_out(values, job.k, run)
    kept = fair_walk(Entries(flat, flat.view(bits.dtype), step, weight, label), lists, job.share, job.k, job.empty.copy())
    new = np.zeros(job.alive.size, np.bool_)
    new[job.alive] = np.unpackbits(kept, bitorder="little")[:values.shape[1]].view(np.bool_)
    return new

def _left(values: np.ndarray, alive: np.ndarray) -> np.ndarray:
    if not values.size or alive.all(): return values
    left = np.empty((*values.shape[:-1], np.count_nonzero(alive)), values.dtype)
    for row, to in zip(np.atleast_2d(values), np.atleast_2d(left)): to[:] = row[alive]
    return left

def _laid_out(values: np.ndarray, k: int, run: Callable):
    groups, n = values.shape
    if 8 * k < n or values.nbytes > COPY: return values.ravel(), (1, n)
    rows = np.empty((n, groups), values.dtype)
    list(run(lambda start: _transpose(values, rows, start, min(start + (1 << 17), n)), range(0, n, 1 << 17)))
    return rows.ravel(), (groups, 1)

@njit(cache=True, nogil=True, error_model="numpy")
def _transpose(values, rows, start, end):
    for block in range(start, end, 256):
        for g in range(values.shape[0]):
            for i in range(block, min(block + 256, end)): rows[i, g] = values[g, i]


# %%
nothing = np.zeros(0, np.uint32)
job = FairJob(rows.numpy(), np.ones(3, np.bool_), 2, target_share(rows).numpy(), nothing, nothing.astype(int), np.zeros(0, np.bool_))
keep_shares(job)

# %%
assert keep_shares(job).tolist() == [True, False, True]
assert keep_shares(job._replace(alive=np.array([True, True, False]), k=1)).tolist() == [True, False, False]
assert keep_shares(job._replace(label=np.array([0, 0, 1]), empty=np.array([True, True]))).tolist() == [True, False, True]


# %% [markdown]
# On an accelerator the importance stays there, and so does the sorting. By step 1 above the $k$ best weights of each group are all that the walk reads (and, in the global scope, each group's best of each layer). These few make a small layer of their own, with the same mask: only they come to the
# host, sorted, and one byte for each goes back. Let $m \le \min(n, G(k + \text{layers}))$ be their number. With 4-byte floats that is at most nine transfers to the host of together
#
# $$ m\,(4G + 4 + 8) + 4\,G\,k \;+\; 8\,(G + 5) + \text{layers} \quad\text{bytes, and one of } m \text{ bytes back.} $$
#
# (4 bytes for |w|, 8 for the layer's number, where they are given.) Every one of them goes through a counter that a caller can look at.

# %%
#| export
@dataclass
class Transfers:
    "What went between host and device: count and bytes, in each direction"
    to_host: int = 0       # Transfers
    to_device: int = 0
    host_bytes: int = 0
    device_bytes: int = 0

    def bring(self, tensor: Tensor) -> Tensor:
        self.to_host += 1
        self.host_bytes += tensor.nbytes
        return tensor.cpu()

    def fetch(self, tensor: Tensor) -> list | float: return self.bring(tensor).tolist()

    def send(self, array: np.ndarray, device) -> Tensor:
        self.to_device += 1
        self.device_bytes += array.nbytes
        return torch.from_numpy(array).to(device)


# %%
transfers = Transfers()
transfers.fetch(torch.tensor([1., 2.])), transfers.send(np.array([True, False, True]), "cpu"), transfers

# %%
assert transfers == Transfers(to_host=1, to_device=1, host_bytes=8, device_bytes=3)


# %%
#| export
def sorted_prefixes(
    rows: Tensor,        # Importance on the device, shape `(G, n)`
    alive: Tensor,       # True where a weight is still there, shape `(n,)`
    m: int,              # How many of each group's best
    weight: Tensor | None = None,# The weights, shape `(n,)`, for ties
    layer: Tensor | None = None, # Layer number of each entry, shape `(n,)`
    layers: int = 0,             # How many layers
) -> tuple[Tensor, Tensor]:      # Each group's m best, in order, shape `(G, m)`; True for these and its best of each layer, shape `(n,)`
    "Sort on the device, one group after the other, and keep what the walk can come to."
    found, order = torch.zeros_like(alive), []
    start = by_magnitude(weight, alive).to(rows.device)
    for row in rows:
        score = torch.where(alive, row.abs(), -1)                       # pruned ones last; abs: −0 is 0
        best = start[score[start].sort(descending=True, stable=True).indices]
        order.append(best[:m].int() if len(row) < 2**31 else best[:m])
        found[best[:m]] = True
        if layer is not None:
            first = torch.full((layers,), len(row) - 1, device=rows.device)
            found[best[first.scatter_reduce_(0, layer[best], torch.arange(len(row), device=rows.device), "amin")]] = True
    return torch.stack(order), found & alive


# %%
order, found = sorted_prefixes(torch.tensor([[3., 9., 8., 1., 7.]]), torch.tensor([True, False, True, True, True]), 2, None, torch.tensor([0, 0, 0, 1, 0]), 2)
order, found

# %%
assert order.tolist() == [[2, 4]] and found.tolist() == [False, False, True, True, True]    # 1 is pruned; 3 is the best of layer 1


# %% [markdown]
# Both ways end in the same place: a job, and how its answer becomes a mask.

# %%
#| export
def fair_job(
    importance: Tensor,          # Importance, shape `(G, *weight)`, finite, ≥ 0
    mask: Tensor,                # True where a weight is still there, shape `(*weight)`
    k: int,                      # How many to keep
    weight: Tensor | None = None,# The weights, shape `(*weight)`
    layer: Tensor | None = None, # Layer number of each entry, shape `(*weight)`
    on_device: bool | None = None,     # Sort where the importance lies and fetch the candidates only; None: wherever that is not the CPU
    transfers: Transfers | None = None,# Counts what goes between host and device, if sorted there
) -> tuple[FairJob, Callable]:   # The job; how its answer, shape `(n,)`, becomes the new mask, shape `(*weight)`
    "Check a selection and bring it to the CPU. Raises: ValueError"
    on_device = importance.device.type != "cpu" if on_device is None else on_device
    count = transfers if on_device and transfers is not None else Transfers()
    there = check_selection(importance, mask, k, layer, count.fetch)
    share = checked_share(importance, count.fetch).numpy()
    kind = torch.promote_types(torch.promote_types(importance.dtype, torch.float32), importance.dtype if weight is None else weight.dtype)
    flat = [None if t is None else t.detach().flatten() for t in (mask, weight, layer)]
    job = _fetched if on_device else _whole
    return job(importance.detach().flatten(1), *flat, k=k, share=share, there=there, kind=kind, count=count, shape=mask.shape)

def _whole(rows, alive, weight, layer, k, share, there, kind, count, shape):
    values = rows.to("cpu", kind).contiguous().numpy()
    job = FairJob(values, alive.cpu().numpy(), k, share, *_ties(weight, layer, kind, Tensor.cpu), there.cpu().numpy())
    return job, lambda kept: torch.from_numpy(kept).view(shape).to(alive.device)

def _fetched(rows, alive, weight, layer, k, share, there, kind, count, shape):
    order, found = sorted_prefixes(rows, alive, k, weight, layer, len(there))
    ids = found.nonzero_static(size=int(count.fetch(found.count_nonzero())))[:, 0]
    order = count.bring((found.cumsum(0, dtype=order.dtype) - 1)[order]).numpy()
    few = lambda t: count.bring(t[..., ids])
    values = few(rows).to(kind).contiguous().numpy()
    job = FairJob(values, np.ones(len(ids), np.bool_), k, share, *_ties(weight, layer, kind, few), count.bring(there).numpy() if len(there) else np.zeros(0, np.bool_), order)
    return job, lambda kept: torch.zeros_like(alive).index_put_((ids,), count.send(kept, alive.device)).view(shape)

def _ties(weight, layer, kind, get):
    bits = as_bits(torch.empty(0, dtype=kind) if weight is None else get(weight).to(kind))
    return bits, np.zeros(0, np.int64) if layer is None else get(layer).long().numpy()


# %%
job, put = fair_job(rows, everything, 2)
transfers = Transfers()
few, put_few = fair_job(rows, everything, 1, on_device=True, transfers=transfers)
print(job.order, few.order, few.values, transfers)

# %%
assert put(keep_shares(job)).tolist() == [True, False, True] and put_few(keep_shares(few)).tolist() == [True, False, False]
assert few.values.tolist() == [[6., 1.], [0., 2.]] and few.order.tolist() == [[0], [1]]         # each group's favourite: weights 0 and 2
m, k, groups = 2, 1, 2
assert transfers.to_host == 5 and transfers.host_bytes == 8 * (groups + 4) + m * 4 * groups + 4 * groups * k and transfers.device_bytes == m


# %% [markdown]
# Behind the shared signature:

# %%
#| export
def select_fair(
    importance: Tensor,          # Importance of each weight for each group, shape `(G, *weight)`, finite, ≥ 0
    mask: Tensor,                # True where a weight is still there, shape `(*weight)`
    k: int,                      # How many to keep, 1 ≤ k ≤ `mask.sum()`
    weight: Tensor | None = None,# The weights, shape `(*weight)`: on equal importance the larger |w| goes first
    layer: Tensor | None = None, # Layer number of each entry, shape `(*weight)`, long: each keeps at least one
    on_device: bool | None = None,     # Sort where the importance lies; None: wherever that is not the CPU
    transfers: Transfers | None = None,# Counts what goes between host and device, if sorted there
) -> Tensor:                     # The new mask, True where a weight stays, shape `(*weight)`
    """Keep `k` weights so that every group holds its share of the importance; equal to `select_fair_plain`, weight for weight.

    Source: paper, section 3.2 and Algorithm 1. Raises: ValueError"""
    job, put = fair_job(importance, mask, k, weight, layer, on_device, transfers)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool: return put(keep_shares(job, pool.map))


# %%
importance = torch.tensor([[6., 5., 1.], [0., 0., 2.]])
select_fair(importance, everything, k=2), select_fair(importance, everything, k=2, on_device=True)

# %%
assert select_fair(importance, everything, k=2).tolist() == select_fair(importance, everything, k=2, on_device=True).tolist() == [True, False, True]
for wrong in (-importance, importance * float("inf"), importance * float("nan"), importance * 0):
    try: select_fair(wrong, everything, k=2)
    except ValueError as e: print(e)
    else: raise AssertionError("importances without shares were shared out")

# %% [markdown]
# Equal on everything that hypothesis can think of: random and tied importances, zeros of both signs, denormals, one group, fifty groups, magnitudes from 1e-300 to 1e300, weights already pruned, both scopes, every |w|, sorted here and (as if) on a device.

# %%
values = st.one_of(st.floats(0, 1e3), st.sampled_from([0., -0., 1., 2.]), st.sampled_from([1e-300, 1e-40, 1e-30, 1., 1e30, 1e300]))

@st.composite
def selections(draw):
    "A layer (or, with `layer`, several at once) with everything that a selector takes"
    groups, n = draw(st.sampled_from([1, 2, 3, 7, 50])), draw(st.integers(2, 30))
    kind = draw(st.sampled_from([torch.float32, torch.float64]))
    rows = torch.tensor(draw(st.lists(st.lists(values, min_size=n, max_size=n), min_size=groups, max_size=groups)), dtype=torch.float64)
    rows = rows.clamp(max=1e30 if kind == torch.float32 else 1e300).to(kind)
    rows[0, 0] += 1                                                     # a layer without any importance never comes here
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    layer = draw(st.sampled_from([None, torch.arange(n) % 3, torch.arange(n) * 2 // n, torch.arange(n) // 2]))
    mask[0] = True
    k = draw(st.integers(1 if layer is None else len(layer[mask].unique()), int(mask.sum())))
    weight = draw(st.sampled_from([None, torch.ones(n), torch.arange(n) - n / 2., (torch.arange(n) % 3).double()]))
    return rows, mask, k, weight, layer

@hypothesis_settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(selections())
def check_equal_to_the_plain_loop(case):
    rows, mask, k, weight, layer = case
    new = select_fair(rows, mask, k, weight, layer)
    assert torch.equal(new, select_fair_plain(rows, mask, k, weight, layer))
    assert torch.equal(new, select_fair(rows, mask, k, weight, layer, on_device=True))
    assert int(new.sum()) == k and not (new & ~mask).any()              # exact count, nested
    if len(rows) == 1: assert torch.equal(new, select_top(rows, mask, k, weight, layer))   # one group: the group-blind choice
    if layer is not None: assert set(layer[new].tolist()) == set(layer[mask].tolist())

check_equal_to_the_plain_loop()

# %% [markdown]
# And once on a layer of some size, where there are several buckets and the shares of what is kept can be looked at beside their targets:

# %%
torch.manual_seed(0)
big = torch.rand(4, 120, 100) ** 12 * torch.tensor([1., 2., 3., 10.]).view(4, 1, 1)
there = torch.rand(120, 100) < 0.95
big *= there                                     # pruned weights have importance 0
kept, blind, transfers = select_fair(big, there, k=1200), select_top(big, there, k=1200), Transfers()
print("target     ", [f"{p:.4f}" for p in target_share(big).tolist()])
print("select_fair", [f"{p:.4f}" for p in target_share(big * kept).tolist()])
print("select_top ", [f"{p:.4f}" for p in target_share(big * blind).tolist()])
print(torch.equal(kept, select_fair(big, there, 1200, on_device=True, transfers=transfers)), transfers, f"of {big.nbytes:,} bytes")

# %%
gap = lambda kept: float((target_share(big * kept) - target_share(big)).abs().max())
assert gap(kept) < 1e-3 < 0.1 < gap(blind)
for k in (1200, 9000): assert torch.equal(select_fair(big, there, k), select_fair_plain(big, there, k))
assert transfers.to_host <= 9 and transfers.to_device == 1 and transfers.host_bytes <= 4 * 1200 * 4 * 5 + 4 * 4 * 1200 + 8 * 9 and transfers.device_bytes <= 4 * 1200

# %% [markdown]
# ## A whole network: layer or global scope
#
# With scope `"layer"` (the paper's) every layer keeps the same fraction. With `"global"` shares and budget are counted over all layers at once, so that a layer which
# matters little may give up nearly all of its weights. At 99 % where the weights go over the layers can matter more than anything else, so scope is a setting of every method and named in every result.
#
# A layer whose importance is all zero or not finite (a dead branch, an overflow) gives no shares to preserve. It falls back to magnitude, at the layer's own fraction of the budget in either scope, and its name is said in a warning.
# Negative scores are nothing to fall back for: GraSP's often are, and `select_top` puts them in order like any others.
#
# Layers are independent, so `select_fair` takes several at a time, one in each thread, the largest first; a layer so large that the others would wait for it has all threads to itself. Another selector is called for one layer after the other, since nothing is known about it.

# %%
#| export
Select = Callable[..., Tensor]   # (importance, mask, k, weight, layer) → mask

def select_each(
    cases: Mapping[str, tuple],  # Layer name → (importance, mask, k, weight)
    select: Select,              # `select_fair`, `select_top` or one's own
) -> dict[str, Tensor]:          # Layer name → new mask
    "Select in each layer by itself; `select_fair` in several layers at a time."
    if select is not select_fair: return {n: select(*case) for n, case in cases.items()}
    names, threads = sorted(cases, key=lambda n: -cases[n][1].numel()), torch.get_num_threads()
    fill = sum(mask.numel() for _, mask, *_ in cases.values()) / threads
    new = {n: select_fair(*cases[n]) for n in names if cases[n][1].numel() > fill}
    with ThreadPoolExecutor(threads) as pool:
        jobs = {n: fair_job(*cases[n]) for n in names if n not in new}
        kept = dict(zip(jobs, pool.map(lambda job: keep_shares(job[0]), jobs.values())))
    return new | {n: put(kept[n]) for n, (_, put) in jobs.items()}


# %%
cases = {"one": (importance, everything, 2, torch.ones(3)), "two": (importance.flip(1), everything, 2, torch.ones(3))}
select_each(cases, select_fair)

# %%
for select in (select_fair, select_top, select_fair_plain):
    assert {n: m.tolist() for n, m in select_each(cases, select).items()} == {n: select(*case).tolist() for n, case in cases.items()}
assert select_each(cases, select_fair)["two"].tolist() == [True, False, True] and select_each({}, select_fair) == {}

# %%
#| export
SCOPES = ("layer", "global")

def select_masks(
    importance: Mapping[str, Tensor],  # Layer name → importance, shape `(G, *weight)`
    masks: Mapping[str, Tensor],       # Layer name → True where a weight is still there, shape `(*weight)`
    weights: Mapping[str, Tensor],     # Layer name → weight, shape `(*weight)`
    rate: float | str | Fraction,      # Cumulative pruning rate, 0 ≤ rate < 1
    select: Select = select_fair,      # `select_fair`, `select_top` or one's own
    scope: str = "layer",              # "layer": the same fraction in each; "global": one budget for all
) -> dict[str, Tensor]:                # Layer name → new mask, inside the old one
    """Choose the new masks of all layers.

    Raises: ValueError for an unknown scope, or for a global budget below one weight a layer."""
    check_scope(masks, rate, scope)
    dead = [n for n, i in importance.items() if not usable(i)]
    new = {n: select_top(weights[n].detach().abs()[None], masks[n], _budget(masks[n], rate)) for n in dead}
    if dead: warnings.warn(f"importance of {', '.join(dead)} is all zero or not finite: pruned by magnitude instead", stacklevel=2)
    rest = [n for n in masks if n not in dead]
    if scope == "layer": new |= select_each({n: (importance[n], masks[n], _budget(masks[n], rate), weights[n]) for n in rest}, select)
    elif rest:
        k = keep_count(sum(m.numel() for m in masks.values()), rate) - sum(int(m.sum()) for m in new.values())
        new |= select_globally(*({n: d[n] for n in rest} for d in (importance, masks, weights)), k=k, select=select)
    return {n: new[n] for n in masks}

def usable(importance: Tensor) -> bool:
    low, high = torch.stack(importance.aminmax()).tolist()
    return bool(np.isfinite([low, high]).all() and (low or high))

def _budget(mask: Tensor, rate) -> int: return min(keep_count(mask.numel(), rate), int(mask.sum()))

def check_scope(masks: Mapping[str, Tensor], rate, scope: str):
    "Raise ValueError for an unknown scope, or where a global rate would empty a layer"
    if scope not in SCOPES: raise ValueError(f"scope = {scope!r}: choose 'layer' or 'global'")
    n = sum(m.numel() for m in masks.values())
    if scope == "global" and (1 - exact(rate)) * n < len(masks):
        raise ValueError(f"rate {float(exact(rate))} leaves {int((1 - exact(rate)) * n)} of {n} weights for {len(masks)} layers, "
                         f"which would empty a layer: choose a rate of at most {1 - len(masks) / n:.6f}")


# %%
#| export
def select_globally(importance, masks, weights, k: int, select: Select) -> dict[str, Tensor]:
    "Lay the layers side by side as one long layer with a budget of `k`, select, and cut the mask apart again"
    flat = lambda tensors: torch.cat([t.flatten() for t in tensors.values()])
    layer = torch.cat([torch.full((m.numel(),), i, device=m.device) for i, m in enumerate(masks.values())])
    rows = torch.cat([i.flatten(1) for i in importance.values()], 1)
    kept = select(rows, flat(masks), min(k, int(flat(masks).sum())), flat(weights), layer)
    return {n: part.view(m.shape) for (n, m), part in zip(masks.items(), kept.split([m.numel() for m in masks.values()]))}


# %% [markdown]
# Two layers of four weights, the second a hundred times less important. Half is pruned: the layer scope halves both, the global one leaves the second a single weight.

# %%
importance = {"big": torch.tensor([[9., 8., 7., 1.]]), "small": torch.tensor([[.04, .03, .02, .01]])}
masks = {n: torch.ones(4, dtype=torch.bool) for n in importance}
weights = {n: torch.ones(4) for n in importance}
for scope in SCOPES: print(scope, {n: m.int().tolist() for n, m in select_masks(importance, masks, weights, 0.5, select_top, scope).items()})

# %%
to_list = lambda masks: {n: m.int().tolist() for n, m in masks.items()}
for select in (select_top, select_fair):
    assert to_list(select_masks(importance, masks, weights, 0.5, select, "layer")) == {"big": [1, 1, 0, 0], "small": [1, 1, 0, 0]}
    assert to_list(select_masks(importance, masks, weights, 0.5, select, "global")) == {"big": [1, 1, 1, 0], "small": [1, 0, 0, 0]}
assert to_list(select_globally(importance, masks, weights, k=2, select=select_fair)) == {"big": [1, 0, 0, 0], "small": [1, 0, 0, 0]}

# %% [markdown]
# A layer that no gradient reached, and the two mistakes:

# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    dead = select_masks({**importance, "small": torch.zeros(1, 4)}, masks, {**weights, "small": torch.tensor([1., -4., 2., 3.])}, 0.5, select_fair, "global")
print(said[0].message, to_list(dead))
negative = select_masks({"one": torch.tensor([[-3., -1., -2.]])}, {"one": torch.ones(3) > 0}, {"one": torch.ones(3)}, 0.5, select_top)
assert to_list(negative) == {"one": [0, 1, 0]}
assert "small" in str(said[0].message) and to_list(dead) == {"big": [1, 1, 0, 0], "small": [0, 1, 0, 1]}
for rate, scope in ((0.5, "network"), (0.8, "global")):
    try: select_masks(importance, masks, weights, rate, select_fair, scope)
    except ValueError as e: print(e)
    else: raise AssertionError(f"{rate}, {scope} was accepted")
