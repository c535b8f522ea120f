# %% [markdown]
# # Shares
#
# > Two selections as plain loops: the most important weights, or every group's share

# %%
#| default_exp method.selectors

# %%
#| export
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from fairgrape.method.schedule import exact


# %% [markdown]
# Pruning a layer is a choice of `k` of its weights. Every selector has one signature, `(importance, mask, k, weight, layer) → mask`, so that a new method is one small function.
# The importance has one row per group, shape `(G, *weight)`; a group-blind method has a single row. This notebook defines the selections as plain loops. [The walk](07_fast.ipynb) and [selection jobs](08_device.ipynb) compute the same selection fast, and [selection](02_selection.ipynb) has the function to call.
#
# ## How many to keep
#
# Rates are [exact fractions](09_schedule.ipynb), because `int((1 - 0.9) * 1000)` is 99: binary floats cannot represent 0.9. The number of kept weights is rounded down, so at least the requested fraction is removed. The exception is the last weight of a layer: a layer without weights would disconnect the network.

# %%
#| export
def keep_count(
    n: int,  # Weights of the layer, pruned ones included
    rate: float | str | Fraction,  # Pruning rate, the fraction removed, 0 ≤ rate < 1
) -> int:  # max(1, ⌊(1 − rate) · n⌋)
    "How many of `n` weights a pruning rate leaves; at least one, so no layer is disconnected."
    return max(1, int((1 - exact(rate)) * n))


# %%
keep_count(1000, 0.9), int((1 - 0.9) * 1000)

# %%
assert (
    keep_count(1000, 0.9) == 100
    and keep_count(50, 0.99) == 1
    and keep_count(10, "0.99") == 1
    and keep_count(7, 0) == 7
    and keep_count(19, 0.9) == 1
)


# %% [markdown]
# ## Checks
#
# `layer` is for the global scope, where all layers share one budget. It gives the layer number of each entry, and every layer keeps at least one weight. A layer that has lost all weights cannot, so only layers with a weight left count.

# %%
#| export
def _layers_left(mask: Tensor, layer: Tensor, layers: int) -> Tensor:
    "True for each layer number that has a weight left, shape `(layers,)`."
    return (
        torch.zeros(layers, dtype=torch.int, device=mask.device).scatter_add_(
            0, layer.flatten().long(), mask.flatten().int()
        )
        > 0
    )


# %%
print(_layers_left(torch.tensor([True, True, False]), torch.tensor([0, 0, 2]), layers=3))
assert _layers_left(
    torch.tensor([True, True, False, True]), torch.tensor([0, 0, 2, 3]), 4
).tolist() == [True, False, False, True]


# %% [markdown]
# Asking for more weights than are left, or for fewer than one per layer, is a mistake in the schedule and raises an error. The numbers for the check come to the host in one transfer, through `fetch`, because each transfer from a GPU waits for it.

# %%
#| export
def check_selection(
    importance: Tensor, mask: Tensor, k: int, layer: Tensor | None, fetch: Callable = Tensor.tolist
) -> Tensor:
    """Which layers have weights left, shape `(layers,)`.

    Raises: ValueError unless shapes agree and 1 (or the number of layers) ≤ k ≤ weights left."""
    if importance.shape[1:] != mask.shape:
        raise ValueError(
            f"importance {tuple(importance.shape)} must be (G, *weight) with weight"
            f" {tuple(mask.shape)}"
        )
    there = (
        mask.new_zeros(0)
        if layer is None
        else _layers_left(mask, layer, int(fetch(layer.max())) + 1)
    )
    left, least = map(int, fetch(torch.stack([mask.count_nonzero(), there.count_nonzero()])))
    if not max(least, 1) <= k <= left:
        raise ValueError(
            f"k = {k}, but the mask has {left} weights left: choose {max(least, 1)} to {left}"
        )
    return there


# %%
importance = torch.tensor([[[5.0, 1.0], [9.0, 3.0]]])
mask = torch.tensor([[True, True], [False, True]])
for case in (
    (importance, mask, 4, None),
    (importance, mask, 0, None),
    (importance, mask, 1, torch.tensor([[0, 0], [1, 1]])),
    (importance[0], mask, 1, None),
):
    try:
        check_selection(*case)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"k = {case[2]} was accepted")

# %%
assert (
    check_selection(importance, mask, 3, None).tolist()
    == check_selection(importance, mask, 1, None).tolist()
    == []
)
assert check_selection(importance, mask, 2, torch.tensor([[0, 0], [1, 1]])).tolist() == [True, True]


# %% [markdown]
# ## The group-blind choice
#
# The group-blind choice keeps the `k` weights with the largest importance, summed over the groups. A weight pruned earlier is not a candidate, whatever its score, so the masks of later steps nest inside those of
# earlier ones. The mask must be deterministic: on a tie the larger |w| stays, then the lower index. A stable sort keeps the given order among equal scores, so it starts from this one:

# %%
#| export
def by_magnitude(weight: Tensor | None, mask: Tensor) -> Tensor:
    "Flat indices by falling |w|, the lower index first on a tie."
    if weight is None:
        return torch.arange(mask.numel())
    return weight.detach().abs().flatten().sort(descending=True, stable=True).indices


# %%
print(by_magnitude(torch.tensor([1.0, -5.0, 2.0, 5.0]), torch.ones(4)))
assert by_magnitude(torch.tensor([1.0, -5.0, 2.0, 5.0]), torch.ones(4)).tolist() == [
    1,
    3,
    2,
    0,
] and by_magnitude(None, torch.ones(2, 2)).tolist() == [0, 1, 2, 3]


# %% [markdown]
# The weight that a layer must keep is its best: the entry of the layer that comes first in the order.

# %%
#| export
def first_of_each(labels: Tensor, order: Tensor) -> Tensor:
    "The entries of `order` at which a label occurs for the first time."
    labels = labels.cpu().numpy()
    return order[torch.from_numpy(np.unique(labels, return_index=True)[1]).to(order.device)]


# %%
print(first_of_each(torch.tensor([1, 1, 0, 1, 0]), order=torch.tensor([40, 10, 30, 20, 0])))
assert first_of_each(torch.tensor([1, 1, 0, 1, 0]), torch.tensor([40, 10, 30, 20, 0])).tolist() == [
    30,
    40,
]


# %%
#| export
def select_top(
    # Importance of each weight, shape `(G, *weight)`, ≥ 0; summed over the groups
    importance: Tensor,
    mask: Tensor,  # True where a weight is left, shape `(*weight)`
    k: int,  # How many to keep, 1 ≤ k ≤ `mask.sum()`
    # The weights, shape `(*weight)`: on equal importance the larger |w| stays
    weight: Tensor | None = None,
    # Layer number of each entry, shape `(*weight)`, long: each keeps at least one
    layer: Tensor | None = None,
) -> Tensor:  # The new mask, True where a weight stays, shape `(*weight)`
    "Keep the `k` most important of the weights left in `mask`."
    check_selection(importance, mask, k, layer)
    score = torch.where(mask, importance.sum(0), -torch.inf).flatten()
    order = by_magnitude(weight, mask).to(score.device)
    order = order[mask.flatten()[order]]
    # stable: on a tie the order by |w| stays
    order = order[score[order].sort(descending=True, stable=True).indices]
    kept = torch.zeros_like(score, dtype=torch.bool)
    if layer is not None:
        kept[first_of_each(layer.flatten()[order], order)] = True
    rest = order[~kept[order]]
    kept[rest[: k - int(kept.sum())]] = True
    return kept.view_as(mask)


# %% [markdown]
# Four weights, one of them already pruned. With k = 2 the selector keeps the 5 and the 3; the pruned 9 stays pruned.

# %%
select_top(importance, mask, k=2)

# %%
assert select_top(importance, mask, k=2).tolist() == [[True, False], [False, True]]
assert select_top(torch.ones(1, 4), torch.ones(4) > 0, k=2).tolist() == [True, True, False, False]
assert select_top(
    torch.ones(1, 4), torch.ones(4) > 0, k=2, weight=torch.tensor([1.0, -5.0, 2.0, 5.0])
).tolist() == [False, True, False, True]
assert select_top(
    torch.tensor([[9.0, 8.0, 7.0, 1.0]]), torch.ones(4) > 0, k=3, layer=torch.tensor([0, 0, 0, 1])
).tolist() == [True, True, False, True]
# sums 4, 3, 5
assert select_top(
    torch.tensor([[4.0, 1.0, 0.0], [0.0, 2.0, 5.0]]), torch.ones(3) > 0, k=2
).tolist() == [True, False, True]
try:
    select_top(importance, mask, k=4)
except ValueError as e:
    print(e)
else:
    raise AssertionError("four of three weights were kept")

# %% [markdown]
# ## Every group's share
#
# Let the importance of a layer, summed over its weights, be 12 for group 0 and 2 for group 1. Group 0 then holds 6/7 of it. FairGRAPE keeps weights whose importance divides in the same proportion. The
# target share of a group is
#
# $$P_g = \frac{\sum_w I_g(w)}{\sum_{g'}\sum_w I_{g'}(w)} .$$
#
# The sums run over the weights that are left. A pruned weight counts as 0, whatever its score. The layer is read piece by piece, because a copy of the whole importance would be the largest array in memory.

# %%
#| export
PIECE = 1 << 16  # Weights in a piece


def pieces_left(
    importance: Tensor,  # Importance of a layer, shape `(G, *weight)`
    # True where a weight is left, shape `(*weight)`; None: all are
    mask: Tensor | None = None,
    # The importance of at most `PIECE` weights, shape `(G, m)`; with a mask all pieces share
    # memory
) -> Iterator[Tensor]:
    "The importance piece by piece, 0 for pruned weights."
    pieces = importance.flatten(1).split(PIECE, 1)
    if mask is None:
        yield from pieces
        return
    room, zero = torch.empty_like(pieces[0]), importance.new_zeros(())
    for there, piece in zip(mask.flatten().split(PIECE), pieces):
        yield torch.where(there, piece, zero, out=room[:, : piece.shape[1]])


# %%
of_its_own = torch.tensor([[6.0, 5.0, 1.0], [0.0, 0.0, torch.nan]])
print(*pieces_left(of_its_own, torch.tensor([True, True, False])))
assert [p.tolist() for p in pieces_left(of_its_own, torch.tensor([True, True, False]))] == [
    [[6, 5, 0], [0, 0, 0]]
]
assert [p.shape[1] for p in pieces_left(torch.ones(1, 2, PIECE), torch.ones(2, PIECE) > 0)] == [
    PIECE,
    PIECE,
]


# %% [markdown]
# One function computes all shares, in float64. Two orders of the same sum may differ in the last digit, and one digit can change a choice.

# %%
#| export
def target_share(
    importance: Tensor,  # Importance of a layer, shape `(G, *weight)`, finite, not all 0
    # True where a weight is left, shape `(*weight)`; None: all are
    mask: Tensor | None = None,
) -> Tensor:  # P_g, shape `(G,)`, float64, sums to 1
    "Each group's share of the importance of the weights that are left (paper, section 3.2)."
    totals = sum(piece.double().sum(1) for piece in pieces_left(importance, mask))
    return totals / totals.sum()


# %%
importance = torch.tensor([[6.0, 5.0, 1.0], [0.0, 0.0, 2.0]])  # group 0  # group 1
target_share(importance)

# %%
assert (
    target_share(importance).tolist() == [12 / 14, 2 / 14]
    and target_share(importance).dtype == torch.float64
)
# without the 5
assert target_share(importance, torch.tensor([True, False, True])).tolist() == [7 / 9, 2 / 9]
assert torch.allclose(
    target_share(torch.ones(3, 2 * PIECE + 1)), torch.full((3,), 1 / 3, dtype=torch.float64)
)


# %% [markdown]
# Shares of negative, infinite or all-zero importance have no meaning, and the loop below would still use them. `checked_share` raises an error for them and names the alternative.

# %%
#| export
def checked_share(
    importance: Tensor,  # Importance of a layer, shape `(G, *weight)`
    # True where a weight is left, shape `(*weight)`; None: all are
    mask: Tensor | None = None,
    fetch: Callable = Tensor.tolist,  # How numbers come to the host
) -> Tensor:  # P_g, shape `(G,)`, float64, on the CPU
    """`target_share`, checked.

    Raises: ValueError if a weight that is left has an importance below 0 or not finite, or all
    have 0."""
    smallest = torch.stack([piece.min() for piece in pieces_left(importance, mask)]).min()
    least, *share = fetch(torch.cat([smallest.double()[None], target_share(importance, mask)]))
    if least < 0:
        raise ValueError(f"importance of {least:.3g}: shares cannot be negative, take select_top")
    if not np.isfinite(share).all():
        raise ValueError(
            "importance is not finite, or zero for every weight: no shares to keep, take select_top"
            " on |w|"
        )
    return torch.tensor(share, dtype=torch.float64)


# %%
for wrong in (-importance, importance * float("inf"), importance * 0):
    try:
        checked_share(wrong)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("importances without shares were shared out")
assert torch.equal(checked_share(importance), target_share(importance))
for gone in (-1.0, torch.inf, torch.nan):
    of_its_own[:, 2] = gone
    # the importance of a pruned weight does not matter
    assert checked_share(of_its_own, torch.tensor([True, True, False])).tolist() == [1, 0]


# %% [markdown]
# ## The greedy choice
#
# At first nothing is kept, and the share of every group counts as $1/G$. Until $k$ weights are kept, repeat: find the group whose current share falls furthest short of
# its target (the lowest index on a tie), keep *its* most important weight that is not kept yet, and update the shares.
#
# If the kept weights have importance 0 for every group, the shares are undefined and count as $1/G$ again.

# %%
#| export
def in_deficit(sums: list[float], share: list[float]) -> int:
    "The group furthest short of its target, from the importance kept so far and the targets."
    total = 0.0
    for s in sums:
        total += s  # not sum(), which rounds differently from Python 3.12 on
    deficit = [(s / total if total > 0 else 1 / len(sums)) - p for s, p in zip(sums, share)]
    return deficit.index(min(deficit))


# %% [markdown]
# Before the first choice each of two groups counts as 1/2, and the group with the target 6/7 is short. Once it holds all 6, the other group is short.

# %%
in_deficit([0.0, 0.0], [6 / 7, 1 / 7]), in_deficit([6.0, 0.0], [6 / 7, 1 / 7])

# %%
assert in_deficit([0.0, 0.0], [6 / 7, 1 / 7]) == 0 and in_deficit([6.0, 0.0], [6 / 7, 1 / 7]) == 1
# shortfalls, not targets; on a tie the lowest index
assert (
    in_deficit([0.0, 0.0], [0.25, 0.75]) == 1 == in_deficit([1.0, 2.0], [0.1, 0.9])
    and in_deficit([1.0, 1.0], [0.5, 0.5]) == 0
)
# 1e16 + 1 is 1e16 in a sequential sum
assert in_deficit([1.0, 1e16, 1.0], [1e-16, 1.0, 1e-16]) == 0


# %% [markdown]
# Each group has its own order of the weights: by falling importance, and on a tie in the order of the candidates, which is by falling |w|.

# %%
#| export
def _preferences(rows: list[list[float]], candidates: list[int]) -> list[list[int]]:
    "Each group's order of the candidates, from its importance of every weight."
    return [sorted(candidates, key=lambda i: -row[i]) for row in rows]  # sorted is stable


# %%
print(_preferences([[6.0, 5.0, 1.0], [0.0, 0.0, 2.0]], candidates=[1, 0, 2]))
assert _preferences([[6.0, 5.0, 1.0], [0.0, 0.0, 2.0]], [1, 0, 2]) == [[0, 1, 2], [2, 1, 0]]


# %% [markdown]
# This is a plain loop: slow, but the reference for the fast versions. The global scope has one extra rule: once the number of weights left to choose equals the number of empty layers,
# only weights of empty layers are candidates. (Each group's order is read once from its start. A weight it has passed over is kept by another group and stays kept, or is in a layer that is not empty and stays excluded by the extra rule.)

# %%
#| export
def select_fair_plain(
    importance: Tensor,  # Importance, shape `(G, *weight)`, finite, ≥ 0
    mask: Tensor,  # True where a weight is left, shape `(*weight)`
    k: int,  # How many to keep
    # The weights: on equal importance the larger |w| goes first, then the lower index
    weight: Tensor | None = None,
    layer: Tensor | None = None,  # Layer number of each entry: each keeps at least one
) -> Tensor:  # The new mask, shape `(*weight)`
    """FairGRAPE's selection as a plain Python loop: the reference for `select_fair`.

    Source: paper, section 3.2 and Algorithm 1."""
    check_selection(importance, mask, k, layer)
    share, rows = checked_share(importance, mask).tolist(), importance.flatten(1).double().tolist()
    labels = [0] * mask.numel() if layer is None else layer.flatten().tolist()
    alive = mask.flatten().tolist()
    candidates = [i for i in by_magnitude(weight, mask).tolist() if alive[i]]
    order = [iter(mine) for mine in _preferences(rows, candidates)]
    kept = set()
    sums = [0.0] * len(rows)
    empty = set() if layer is None else {labels[i] for i in candidates}
    for left in range(k, 0, -1):
        group = in_deficit(sums, share)
        i = next(
            i for i in order[group] if i not in kept and (left > len(empty) or labels[i] in empty)
        )
        kept.add(i)
        empty.discard(labels[i])
        sums = [s + row[i] for s, row in zip(sums, rows)]
    new = torch.zeros(mask.numel(), dtype=torch.bool)
    new[list(kept)] = True
    return new.view(mask.shape)


# %% [markdown]
# Two of three weights. Group 0 is short at first (it counts as 1/2, its target is 6/7) and keeps weight 0, the 6. It now holds everything and group 1 is short, so
# group 1 keeps its most important weight, 2. The group-blind choice would keep weights 0 and 1 and leave group 1 with nothing.

# %%
everything = torch.ones(3, dtype=torch.bool)
select_fair_plain(importance, everything, k=2), select_top(importance, everything, k=2)

# %%
assert select_fair_plain(importance, everything, k=2).tolist() == [True, False, True]
assert select_top(importance, everything, k=2).tolist() == [True, True, False]
assert select_fair_plain(importance, torch.tensor([True, True, False]), k=1).tolist() == [
    True,
    False,
    False,
]
# a tie: the larger |w|
assert select_fair_plain(
    torch.ones(1, 3), everything, 1, weight=torch.tensor([1.0, -3.0, 2.0])
).tolist() == [False, True, False]
# weight 0 is pruned: each group holds 5 of the rest, and each keeps its best weight; with the
# 1,000, group 0 would keep the 3 and the 2
later = (
    torch.tensor([[1000.0, 3.0, 2.0, 0.0], [0.0, 0.0, 1.0, 4.0]]),
    torch.tensor([False, True, True, True]),
)
assert select_fair_plain(*later, k=2).tolist() == [False, True, False, True]
# entries 0 and 1 are in layer 0, entry 2 alone in layer 1, which must keep it in any turn
assert select_fair_plain(
    torch.tensor([[3.0, 2.0, 1.0]]), everything, k=2, layer=torch.tensor([0, 0, 1])
).tolist() == [True, False, True]
for wrong, k in ((-importance, 2), (importance, 4)):
    try:
        select_fair_plain(wrong, everything, k)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("an impossible selection was made")
