# %% [markdown]
# # The walk
#
# > The greedy loop made fast: each group's order is sorted only when and as far as it is read

# %%
#| default_exp method.fast

# %%
#| export
from collections import namedtuple
from collections.abc import Callable

import numba
import numpy as np
import torch
from torch import Tensor

# %%
from unittest.mock import patch

from fairgrape.method.selectors import in_deficit, target_share


# %% [markdown]
# The loop of `select_fair_plain` is sequential: each choice depends on all choices before it. But it reads few entries. This notebook computes the same mask without sorting each group's whole order. Four steps show that the mask is the same.
#
# 1. **Only a prefix is read.** Before the last choice fewer than $k$ weights are kept, and a group steps over a weight only if it is kept. A group therefore never gets beyond its $k$ most important weights, and the rest of its order is not needed.
# 2. **Sorting is lazy.** Importances are non-negative floats. Their bits, read as an unsigned integer, have the same order as the numbers. The leading bits cut each group's order into *buckets*: all weights of one come before all weights of the next, in any
#    order inside. A bucket is sorted when the group reaches it. Weights that other groups have kept by then are dropped first, because they stay kept and would be stepped over. With seven groups this drops most weights, so most are
#    sorted about once and not seven times.
# 3. **Ties.** Inside a bucket the order is: larger importance, then larger |w|, then lower index, as in the plain loop. The sort is stable and starts from rising indices. Stretches of equal importance are sorted again by |w|.
# 4. **The same arithmetic.** By induction: if the kept weights were the same, in the same order, the sums are the same additions in the same order and have the same bits, so the group in deficit is the same. Its best weight that is not kept is the same by
#    1 to 3, so the next choice is the same. There is no `fastmath`.
#
# All compiled functions that call one another are in this module: numba renews its cache of machine code when the file of the caller changes, not when another file does.
#
# If neither the package's folder nor the home folder is writable (in a read-only container, for example), numba refuses to compile with a cache. `njit` then works without one, and every process compiles again, which takes some seconds. A folder in
# /tmp is not an alternative: numba's cache is a pickle, and this package loads no pickle from a folder that others can write to.

# %%
#| export
def njit(
    cache: bool = True,  # Keep the machine code on disk, if possible
    **options,  # Passed on to numba
) -> Callable:  # A decorator
    "`numba.njit`, without a cache if there is no folder for it."

    def compiled(function: Callable):
        try:
            return numba.njit(cache=cache, **options)(function)
        except RuntimeError as e:
            if "no locator available" not in str(e):
                raise
            return numba.njit(**options)(function)

    return compiled


# %%
def double(x):
    return 2 * x


# no folder is usable
with patch("numba.core.caching.CacheImpl._locator_classes", []):
    assert njit(cache=True)(double)(4) == 8
assert njit(cache=True)(double)(4) == 8


# %% [markdown]
# ## Floats in order, as integers
#
# The sign bit is dropped, because −0 equals 0.

# %%
#| export
def as_bits(values: Tensor) -> np.ndarray:
    "Floats on the CPU as unsigned integers; narrower types become float32 first."
    return (
        values.numpy().view(np.uint64)
        if values.dtype == torch.float64
        else values.float().numpy().view(np.uint32)
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _key(bits, i):
    return np.uint64(bits[i]) & (~np.uint64(0) >> np.uint64(65 - 8 * bits.itemsize))


# %%
rising = [0.0, 1e-40, 0.5, 1.0, 3.0]
print([_key(as_bits(torch.tensor(rising)), i) for i in range(5)])
for kind in (torch.float32, torch.float64, torch.float16):
    keys = [int(_key(as_bits(torch.tensor(rising, dtype=kind)), i)) for i in range(5)]
    assert (
        keys == sorted(keys)
        and keys[1] < keys[2] < keys[3] < keys[4]
        and _key(as_bits(torch.tensor([-0.0], dtype=kind)), 0) == 0 == keys[0]
    )


# %% [markdown]
# For few entries insertion sort is fastest: it needs no counters and no extra memory. An entry moves past smaller ones only, so equal entries keep their order.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def _insertion_order(bits, start):
    order = start.copy()
    for j in range(1, order.shape[0]):
        i, at = order[j], j
        while at > 0 and _key(bits, order[at - 1]) < _key(bits, i):
            order[at], at = order[at - 1], at - 1
        order[at] = i
    return order


# %%
values = torch.tensor([0.5, 0.0, 3.0, 0.5, 1e-40, 3.0])
print(
    _insertion_order(as_bits(values), np.arange(6)),
    _insertion_order(as_bits(values), np.arange(6)[::-1].copy()),
)
assert _insertion_order(as_bits(values), np.arange(6)).tolist() == [2, 5, 0, 3, 4, 1]
assert (
    _insertion_order(as_bits(values), np.array([3, 0, 1])).tolist() == [3, 0, 1]
    and _insertion_order(as_bits(values), np.array([], np.int64)).tolist() == []
)

# %% [markdown]
# Many entries are sorted by their digits, the last digit first. One pass counts each digit, computes where the entries with each digit begin, and writes them there in their old order.
# The example sorts two-digit numbers in base 4: by the last digit (the lowest two bits), then by the first.

# %%
#| export
ONE, SHORT = np.uint64(1), 24  # Up to SHORT entries are sorted by insertion


@njit(cache=True, nogil=True, error_model="numpy")
def _radix_pass(keys, order, shift, to, new_keys, new_order):
    low, first = np.uint64(to.shape[0] - 1), np.uint64(0)
    to[:] = 0
    for j in range(keys.shape[0]):
        to[(keys[j] >> shift) & low] += ONE
    for d in range(to.shape[0]):
        to[d], first = first, first + to[d]
    for j in range(keys.shape[0]):
        d = (keys[j] >> shift) & low
        new_keys[to[d]], new_order[to[d]] = keys[j], order[j]
        to[d] += ONE


# %%
keys, order = np.array([0b1101, 0b0100, 0b0001, 0b1000], np.uint64), np.arange(4)
new_keys, new_order = np.empty_like(keys), np.empty_like(order)
_radix_pass(keys, order, np.uint64(0), np.empty(4, np.uint64), new_keys, new_order)
print([f"{key:04b}" for key in new_keys], new_order)
_radix_pass(new_keys, new_order, np.uint64(2), np.empty(4, np.uint64), keys, order)
print([f"{key:04b}" for key in keys], order)
assert (
    new_order.tolist() == [1, 3, 0, 2]
    and order.tolist() == [2, 1, 3, 0]
    and keys.tolist() == [1, 4, 8, 13]
)


# %% [markdown]
# The sort key is the distance of an entry from the largest key, so only the digits in which the keys differ are read.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def radix_order(
    bits,  # Non-negative floats read as unsigned integers, shape `(n,)`
    start,  # Indices into `bits` in the order that decides ties, shape `(m,)`
):  # The same indices by falling value, ties as in `start`
    "Stable radix sort, largest first."
    if start.shape[0] <= SHORT:
        return _insertion_order(bits, start)
    keys, order = np.empty(start.shape[0], np.uint64), start.copy()
    for j in range(keys.shape[0]):
        keys[j] = _key(bits, order[j])
    high, low = keys.max(), keys.min()
    for j in range(keys.shape[0]):
        keys[j] = high - keys[j]
    digit = 8 if keys.shape[0] <= 1 << 14 else 11  # 256 counters where the keys fit the cache
    to = np.empty(1 << digit, np.uint64)
    new_keys = np.empty_like(keys)
    new_order = np.empty_like(order)
    for shift in range(0, 64, digit):
        if (high - low) >> np.uint64(shift) == 0:
            break
        _radix_pass(keys, order, np.uint64(shift), to, new_keys, new_order)
        keys, new_keys, order, new_order = new_keys, keys, new_order, order
    return order


# %%
random = (np.random.default_rng(0).exponential(size=5000) ** 8).astype(np.float32)
largest = radix_order(as_bits(torch.from_numpy(random)), np.arange(5000, dtype=np.int32))
largest[:4], random[largest[:4]]

# %%
for dtype in (np.float32, np.float64):
    for n in (0, SHORT, SHORT + 1, 5000, 20000):
        x = (np.random.default_rng(0).exponential(size=n) ** 8).astype(dtype)
        x[::7] = x[3] if n else 0
        assert (
            radix_order(as_bits(torch.from_numpy(x)), np.arange(n, dtype=np.int32))
            == np.argsort(-x, kind="stable")
        ).all()


# %% [markdown]
# ## Buckets
#
# Buckets are made from counts of the leading bits. Levels with few weights are joined until a bucket has about `size` weights, as many as fit the cache; a larger level becomes its own bucket. After `k` weights the rest is left out.
#
# The example has six weights. With levels of whole exponents (31 − 8 bits) 9 and 8 share a level, and so do 3 and 2. With k = 4 and buckets of two, no weight below 2 gets a place.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def _cut_buckets(
    bits,  # A group's importance as unsigned integers, shape `(n,)`
    k,  # Minimum number of weights in buckets
    size,  # Maximum number of weights in a bucket, unless a single level has more
    shift,  # The level of an entry is its key without its last `shift` bits, uint64
    # Lowest level in a bucket, bucket of each level, edges: bucket b has the places edges[b] to
    # edges[b + 1]
):
    "Cut a group's order into buckets, most important first."
    counts = np.zeros(1 << (8 * bits.itemsize - 1 - int(shift)), np.int64)
    for i in range(bits.shape[0]):
        counts[_key(bits, i) >> shift] += 1
    bucket, edges, seen, level = np.zeros(counts.shape[0], np.int32), [0], 0, counts.shape[0]
    while seen < k:
        level -= 1
        if seen > edges[-1] and seen + counts[level] - edges[-1] > size:
            edges.append(seen)
        bucket[level] = len(edges) - 1
        seen += counts[level]
    edges.append(seen)
    return np.uint64(level), bucket, np.array(edges)


# %%
values = as_bits(torch.tensor([3.0, 9.0, 0.1, 8.0, 1.0, 2.0]))
lowest, bucket, edges = _cut_buckets(values, 4, 2, np.uint64(23))
print(
    {
        f"{2.0 ** (level - 127):g} and more": f"bucket {bucket[level]}"
        for level in range(int(lowest), 131)
        if level in values >> 23
    },
    edges,
)
# 2 ** 1 is at level 128
assert edges.tolist() == [0, 2, 4] and lowest == 128 and bucket[128] == 1 and bucket[130] == 0
assert _cut_buckets(values, 5, 3, np.uint64(23))[2].tolist() == [0, 2, 5] and _cut_buckets(
    values, 1, 9, np.uint64(23)
)[2].tolist() == [0, 2]
# a level larger than a bucket stays whole
assert _cut_buckets(values, 6, 1, np.uint64(23))[2].tolist() == [0, 2, 4, 5, 6]


# %% [markdown]
# Every weight then goes to the next place of its bucket. Rising indices stay rising within a bucket, as ties require.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def _spread(bits, shift, lowest, bucket, edges, order):
    to = edges.copy()
    for i in range(bits.shape[0]):
        level = _key(bits, i) >> shift
        if level >= lowest:
            b = np.uint64(bucket[level])
            order[to[b]] = i
            to[b] += 1


# %%
order = np.zeros(edges[-1], np.int32)
_spread(values, np.uint64(23), lowest, bucket, edges, order)
print(order)
assert order.tolist() == [1, 3, 0, 5]

# %% [markdown]
# The state of the walk is two bundles of arrays. `Entries` is the layer: its values in one flat array, with the strides by weight and by group, so the same kernel reads `(G, n)` and `(n, G)`, where the values of a weight are adjacent. `Lists` is the position of each group.
#
# Groups share nothing before the walk, so threads prepare them: `run` is `map`, or that of a pool. Their buckets are stored one group after the other in a single array.

# %%
#| export
# step: strides by weight and by group; weight: bits of |w|, or nothing
Entries = namedtuple("Entries", "values bits step weight label")
# order[at:end] is sorted; page holds the values of order[first:first + PAGE]
Lists = namedtuple("Lists", "order edges bucket at end page first")
# Candidates whose values are fetched together, so the walk waits for memory once and not 64 times
PAGE = 64


# %%
#| export
def bucket_lists(
    bits: np.ndarray,  # Importance as unsigned integers, shape `(G, n)`
    k: int,  # How many will be kept
    run: Callable = map,  # `map`, or that of a thread pool
) -> Lists:  # At least the first k candidates of each group, in buckets, none sorted yet
    "Put every group's candidates into buckets."
    groups, n = bits.shape
    shift = np.uint64(8 * bits.itemsize - 1 - min(16, max(8, n.bit_length())))
    cuts = list(run(lambda row: _cut_buckets(row, k, max(4096, k // 1024), shift), bits))
    ends = np.cumsum([edges[-1] for *_, edges in cuts])
    order = np.empty(ends[-1], np.int32 if n < 2**31 else np.int64)
    all_edges = np.zeros((groups, max(len(edges) for *_, edges in cuts)), np.int64)
    for row, end, (*_, edges) in zip(all_edges, ends, cuts):
        row[: len(edges)] = edges + (end - edges[-1])
    list(
        run(
            lambda row, end, cut: _spread(row, shift, *cut, order[end - cut[2][-1] :]),
            bits,
            ends,
            cuts,
        )
    )
    return Lists(
        order,
        all_edges,
        *np.zeros((3, groups), np.int64),
        np.empty((groups, PAGE, groups)),
        np.zeros(groups, np.int64),
    )


# %%
rows = torch.tensor([[6.0, 5.0, 1.0], [0.0, 0.0, 2.0]])
lists = bucket_lists(as_bits(rows), 2)
lists.order, lists.edges

# %%
assert (
    lists.edges.tolist() == [[0, 2], [2, 5]]
    and lists.order.tolist()[:2] == [0, 1]
    and sorted(lists.order.tolist()[2:]) == [0, 1, 2]
)
# several buckets: all values of one exceed those of the next
large = bucket_lists(as_bits(torch.arange(1.0, 20001)[None]), 10000)
parts = [large.order[a:b] for a, b in zip(large.edges[0], large.edges[0][1:])]
assert (
    len(parts) > 1
    and 10000 <= large.edges[0, -1] < 20000
    and all(above.min() > below.max() for above, below in zip(parts, parts[1:]))
)


# %% [markdown]
# A device sorts the lists beforehand. No bucket remains to be opened, and only the first page must be read.

# %%
#| export
def sorted_lists(order: np.ndarray) -> Lists:
    "Lists of sorted candidates, shape `(G, m)`, enough for the walk."
    groups, m = order.shape
    at = np.arange(groups) * m
    return Lists(
        order.ravel(),
        np.zeros((1, 1), np.int64),
        np.zeros(groups, np.int64),
        at,
        at + m,
        np.empty((groups, PAGE, groups)),
        at - PAGE,
    )


# %%
lists = sorted_lists(np.array([[0, 1], [2, 0]], np.int32))
print(lists.at, lists.end)
assert (
    lists.order.tolist() == [0, 1, 2, 0]
    and lists.at.tolist() == [0, 2]
    and lists.end.tolist() == [2, 4]
    and (lists.at >= lists.first + PAGE).all()
)


# %% [markdown]
# ## Opening a bucket
#
# The kept weights are one bit each, so they fit the cache. The importances of a group are a column of the layer, in either layout.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def _has(kept, i):
    return (kept[np.uint64(i) >> np.uint64(3)] >> (np.uint64(i) & np.uint64(7))) & ONE


@njit(cache=True, nogil=True, error_model="numpy")
def _column(entries, g, groups):
    by_weight, by_group = entries.step
    return entries.bits[
        g * by_group : g * by_group
        + (entries.bits.shape[0] // groups - 1) * by_weight
        + 1 : by_weight
    ]


# %%
none, no_label = np.zeros(0, np.uint32), np.zeros(0, np.int64)
by_group, side_by_side = (
    Entries(r.flatten().numpy(), as_bits(r.flatten()), step, none, no_label)
    for r, step in ((rows, (1, 3)), (rows.T, (2, 1)))
)
print(
    [int(_has(np.array([0b101, 0b10], np.uint8), i)) for i in range(10)],
    _column(side_by_side, 0, 2).copy().view(np.float32),
)
assert [int(_has(np.array([0b101, 0b10], np.uint8), i)) for i in range(10)] == [
    1,
    0,
    1,
    0,
    0,
    0,
    0,
    0,
    0,
    1,
]
for entries in (by_group, side_by_side):
    assert [
        _column(entries, g, 2).copy().view(np.float32).tolist() for g in range(2)
    ] == rows.tolist()


# %% [markdown]
# Ties inside a bucket are settled after sorting, one stretch of equal importance after the other. Most importances are unique, so sorting all of them by |w| would be wasted.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def _settle_ties(bits, weight, order):
    start = 0
    for j in range(1, order.shape[0] + 1):
        if j < order.shape[0] and _key(bits, order[j]) == _key(bits, order[start]):
            continue
        if j > start + 1:
            order[start:j] = radix_order(weight, order[start:j])
        start = j


# %%
order = np.array([1, 2, 0, 3])
_settle_ties(
    as_bits(torch.tensor([5.0, 7.0, 7.0, 5.0])), as_bits(torch.tensor([1.0, 2.0, -3.0, 4.0])), order
)
print(order)
assert order.tolist() == [2, 1, 3, 0]


# %% [markdown]
# A group at the end of its sorted stretch opens the next bucket: it drops kept weights, sorts, and settles ties. In the example the bucket has four weights, one of them kept by another group. On equal importance the larger |w| comes first.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def _open_bucket(
    entries,  # `Entries`
    group,  # Whose bucket
    lists,  # `Lists`; changed
    kept,  # One bit per weight, set where it is kept
):
    "Sort the remaining weights of a group's next bucket, in place."
    bits = _column(entries, group, lists.at.shape[0])
    start = lists.edges[group, lists.bucket[group]]
    end = lists.edges[group, lists.bucket[group] + 1]
    to = start
    for place in range(start, end):
        lists.order[to] = lists.order[place]
        to += 1 - np.int64(_has(kept, lists.order[place]))
    if to > start:
        lists.order[start:to] = radix_order(bits, lists.order[start:to])
        if entries.weight.shape[0]:
            _settle_ties(bits, entries.weight, lists.order[start:to])
    lists.bucket[group] += 1
    lists.at[group], lists.end[group], lists.first[group] = start, to, start - PAGE


# %%
values = torch.tensor([5.0, 7.0, 7.0, 5.0])
entries = Entries(
    values.numpy(),
    as_bits(values),
    (1, 4),
    as_bits(torch.tensor([1.0, 2.0, -3.0, 4.0])),
    no_label,
)
lists = bucket_lists(as_bits(values[None]), 4)
_open_bucket(entries, 0, lists, np.array([0b0001], np.uint8))  # weight 0 is kept
lists.order[lists.at[0] : lists.end[0]]

# %%
assert (
    lists.order[lists.at[0] : lists.end[0]].tolist() == [2, 1, 3]
    and lists.bucket[0] == 1
    and lists.at[0] >= lists.first[0] + PAGE
)
lists = bucket_lists(as_bits(values[None]), 4)
_open_bucket(entries._replace(weight=none), 0, lists, np.array([0], np.uint8))
assert lists.order.tolist() == [1, 2, 0, 3]


# %% [markdown]
# ## One choice
#
# `neediest` is `in_deficit` without branches that the processor would have to predict.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def neediest(
    sums,  # Importance kept so far, shape `(G,)`, float64
    total,  # Their sum, added up in the groups' order
    share,  # Target shares P_g, shape `(G,)`, float64
    deficit,  # Room for G numbers; changed
):  # The group whose share falls furthest short, the lowest index on a tie
    "The group whose turn it is."
    if total > 0:
        for g in range(share.shape[0]):
            deficit[g] = sums[g] / total - share[g]
    else:
        for g in range(share.shape[0]):
            deficit[g] = 1 / share.shape[0] - share[g]
    group, worst = 0, deficit[0]
    for g in range(1, share.shape[0]):
        less = deficit[g] < worst
        worst = deficit[g] if less else worst
        group = g if less else group
    return group


# %%
print(neediest(np.array([6.0, 0.0]), 6.0, np.array([12 / 14, 2 / 14]), np.zeros(2)))
for sums, share in (
    ([6.0, 0.0], [12 / 14, 2 / 14]),
    ([0.0, 0.0], [0.5, 0.5]),
    ([0.0, 0.0], [0.2, 0.8]),
    ([3.0, 1.0, 2.0], [0.5, 0.3, 0.2]),
    ([1.0, 1.0, 1.0], [1 / 3] * 3),
):
    assert neediest(np.array(sums), sum(sums), np.array(share), np.zeros(len(sums))) == in_deficit(
        sums, share
    )


# %% [markdown]
# The values of that group's next candidates are read ahead into `page`. They are scattered in memory, and 64 reads at once take little longer than one.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def _load_page(
    lists,  # `Lists`; changed
    group,  # Whose candidates
    values,  # Importance, flat
    by_weight,  # Its stride from one weight to the next
    by_group,  # Its stride from one group to the next
):
    "Fetch the values of a group's next candidates."
    at = lists.at[group]
    for j in range(at, min(at + PAGE, lists.end[group])):
        base = lists.order[j] * by_weight
        for g in range(lists.page.shape[2]):
            lists.page[group, j - at, g] = values[np.uint64(base + g * by_group)]
    lists.first[group] = at


# %%
for entries in (by_group, side_by_side):
    lists = sorted_lists(np.array([[0, 1], [2, 0]], np.int32))
    _load_page(lists, 1, entries.values, *entries.step)
    print(lists.page[1, :2], lists.first)
    # weight 2: 1 for group 0, 2 for group 1; then weight 0
    assert (
        lists.page[1, :2].tolist() == [[1.0, 2.0], [6.0, 0.0]]
        and lists.first[1] == lists.at[1] == 2
    )


# %% [markdown]
# ## The global scope's extra rule
#
# Once the number of choices left equals the number of empty layers, it stays equal, because each choice fills one layer. None of the candidates is kept then, so a group's choice is the best of its best weights in the empty layers. The order of two weights is the order above, including ties:

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def _before(bits, weight, i, j):
    if _key(bits, i) != _key(bits, j):
        return _key(bits, i) > _key(bits, j)
    if weight.shape[0] and _key(weight, i) != _key(weight, j):
        return _key(weight, i) > _key(weight, j)
    return i < j


# %%
bits = as_bits(torch.tensor([5.0, 7.0, 7.0, 7.0]))
weight = as_bits(torch.tensor([9.0, 1.0, -3.0, 1.0]))
print(_before(bits, weight, 1, 0), _before(bits, weight, 2, 1), _before(bits, weight, 1, 3))
for i, j in ((1, 0), (2, 1), (1, 3)):
    assert _before(bits, weight, i, j) and not _before(bits, weight, j, i)
assert _before(bits, none, 1, 2) and not _before(bits, none, 2, 1) and not _before(bits, none, 0, 1)


# %% [markdown]
# One pass per group finds the best weight of each layer, and only if the rule applies. The example has five weights in three layers, of which layer 0 has one already. The best weight of all is 0, in layer 0; the best of the other layers is weight 4.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def _best_of_empty(
    entries,  # `Entries`
    group,  # The group
    groups,  # Number of groups
    empty,  # True for each layer that must still get a weight, shape `(layers,)`
    # The group's best weight of each layer, shape `(layers,)`, −1 before the first search; changed
    best,
):  # Index of the weight
    "A group's best weight of all empty layers."
    bits = _column(entries, group, groups)
    if best.max() < 0:
        for i in range(bits.shape[0]):
            n = entries.label[i]
            if empty[n] and (best[n] < 0 or _before(bits, entries.weight, i, best[n])):
                best[n] = i
    first = -1
    for n in range(empty.shape[0]):
        if empty[n] and (first < 0 or _before(bits, entries.weight, best[n], first)):
            first = best[n]
    return first


# %%
values = as_bits(torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0]))
entries = Entries(values.view(np.float32), values, (1, 5), values[:0], np.array([0, 0, 1, 1, 2]))
best = np.full(3, -1)
print(_best_of_empty(entries, 0, 1, np.array([False, True, True]), best), best)
assert best.tolist() == [-1, 3, 4]
assert _best_of_empty(entries, 0, 1, np.array([False, True, False]), best) == 3
tied = as_bits(torch.tensor([1.0, 1.0, 1.0]))


def by_weight(*w):
    return Entries(
        tied.view(np.float32), tied, (1, 3), as_bits(torch.tensor(w)), np.array([0, 1, 1])
    )


both = np.array([True, True])
assert (
    _best_of_empty(by_weight(1.0, -2.0, 3.0), 0, 1, both, np.full(2, -1)) == 2
    and _best_of_empty(by_weight(2.0, 1.0, -2.0), 0, 1, both, np.full(2, -1)) == 0
)


# %% [markdown]
# ## The walk
#
# The walk follows the plain loop step by step. A group's choice is its next candidate that no group has kept; the walk opens a bucket and reads a page when necessary. The kernel is one function: with this search in a separate function it took two thirds longer.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def fair_walk(
    entries,  # `Entries`: n weights, G groups
    lists,  # `Lists`: each group's candidates; changed
    share,  # Target shares P_g, shape `(G,)`, float64
    k,  # How many to keep
    empty,  # True for each layer that must keep a weight, shape `(layers,)`; changed
):  # One bit per weight, set where it is kept
    "The plain loop of `select_fair_plain`, over candidates that are sorted when needed."
    groups = share.shape[0]
    kept = np.zeros(entries.values.shape[0] // groups // 8 + 1, np.uint8)
    best = np.full((groups, empty.shape[0]), -1)
    sums, deficit, total, to_fill = np.zeros(groups), np.empty(groups), 0.0, empty.sum()
    for left in range(k, 0, -1):
        group, place, i = neediest(sums, total, share, deficit), 0, -1
        if left == to_fill:
            i = _best_of_empty(entries, group, groups, empty, best[group])
            for g in range(groups):
                lists.page[group, 0, g] = entries.values[i * entries.step[0] + g * entries.step[1]]
        while i < 0:
            at = lists.at[group]
            if at == lists.end[group]:
                _open_bucket(entries, group, lists, kept)
            elif at >= lists.first[group] + PAGE:
                _load_page(lists, group, entries.values, entries.step[0], entries.step[1])
            else:
                lists.at[group] += 1
                if not _has(kept, lists.order[at]):
                    i, place = np.int64(lists.order[at]), at - lists.first[group]
        kept[np.uint64(i) >> np.uint64(3)] |= np.uint8(1) << (np.uint64(i) & np.uint64(7))
        if to_fill and empty[entries.label[i]]:
            empty[entries.label[i]], to_fill = False, to_fill - 1
        total = 0.0
        for g in range(groups):
            sums[g] += lists.page[group, place, g]
            total += sums[g]
    return kept


# %%
def walked(entries, lists, k=2, empty=()):
    return np.unpackbits(
        fair_walk(entries, lists, target_share(rows).numpy(), k, np.array(empty, np.bool_)),
        bitorder="little",
    )[:3].tolist()


walked(by_group, bucket_lists(as_bits(rows), 2))

# %% [markdown]
# The same three weights as in [shares](06_selectors.ipynb): group 0 keeps weight 0 and group 1 weight 2, in either layout, from buckets or from sorted lists. With entries 0 and 1 in one layer, 2 in another and one weight for each layer, group 0's second weight is excluded.

# %%
assert (
    walked(by_group, bucket_lists(as_bits(rows), 2))
    == walked(side_by_side, bucket_lists(as_bits(rows), 2))
    == [1, 0, 1]
)
assert (
    walked(side_by_side, sorted_lists(np.array([[0, 1], [2, 0]], np.int32)))
    == walked(by_group, sorted_lists(np.array([[0, 1], [2, 0]], np.int32)))
    == [1, 0, 1]
)
labelled = side_by_side._replace(label=np.array([0, 0, 1]))
assert walked(labelled, sorted_lists(np.array([[0, 1], [2, 0]], np.int32)), 2, [True, True]) == [
    1,
    0,
    1,
]
# one group, 6, 5 and 1: the 1 must fill layer 1
both_of_0 = Entries(*(a[:3] for a in by_group[:2]), (1, 3), none, np.array([0, 0, 1]))
kept = [
    fair_walk(
        both_of_0,
        sorted_lists(np.array([[0, 1, 2]], np.int32)),
        np.ones(1),
        2,
        np.array(empty, np.bool_),
    ).tolist()
    for empty in ([], [True, True])
]
assert kept == [[0b011], [0b101]]
