# %% [markdown]
# # Selection
#
# > Which weights stay: the most important ones, or those that keep every group's share

# %%
#| default_exp selection

# %%
#| export
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

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

def check_selection(importance: Tensor, mask: Tensor, k: int, layer: Tensor | None):
    "Raise ValueError unless shapes agree and 1 (or the number of layers) ≤ k ≤ weights left"
    if importance.shape[1:] != mask.shape: raise ValueError(f"importance {tuple(importance.shape)} must be (G, *weight) with weight {tuple(mask.shape)}")
    left, least = int(mask.sum()), 1 if layer is None else len(layer[mask].unique())
    if not least <= k <= left: raise ValueError(f"k = {k}, but the mask has {left} weights left: choose {least} to {left}")

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
# It is computed by this one function for whoever needs it, in float64, since two ways to add the same numbers may differ in the last digit, and one digit can turn a choice.

# %%
#| export
def target_share(
    importance: Tensor, # Importance of a layer, shape `(G, *weight)`, finite, not all 0
) -> Tensor:            # P_g, shape `(G,)`, float64, sums to 1
    "Each group's share of the layer's total importance (paper, section 3.2)."
    totals = importance.flatten(1).sum(1, dtype=torch.float64)
    return totals / totals.sum()


# %%
importance = torch.tensor([[6., 5., 1.],   # group 0
                           [0., 0., 2.]])  # group 1
target_share(importance)

# %%
assert target_share(importance).tolist() == [12 / 14, 2 / 14]


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
    share, rows = target_share(importance).tolist(), importance.flatten(1).double().tolist()
    alive = mask.flatten().tolist()
    candidates = [i for i in by_magnitude(weight, mask).tolist() if alive[i]]
    order = [iter(sorted(candidates, key=lambda i: -row[i])) for row in rows]      # sorted is stable; what a group has passed over stays passed over
    kept, sums = {}, [0.] * len(rows)
    labels = None if layer is None else layer.flatten().tolist()
    empty = set() if labels is None else {labels[i] for i in candidates}
    for left in range(k, 0, -1):
        total = sum(sums)
        deficit = [(s / total if total > 0 else 1 / len(rows)) - p for s, p in zip(sums, share)]
        group = deficit.index(min(deficit))
        i = next(i for i in order[group] if i not in kept and (left > len(empty) or labels[i] in empty))
        kept[i] = True
        if labels is not None: empty.discard(labels[i])
        sums = [s + row[i] for s, row in zip(sums, rows)]
    new = torch.zeros(mask.numel(), dtype=torch.bool)
    new[list(kept)] = True
    return new.view(mask.shape)


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
# all three entries in layers of their own but one: layer 1 (entry 2 alone) must keep it, whoever's turn it is
assert select_fair_plain(torch.tensor([[3., 2., 1.]]), everything, k=2, layer=torch.tensor([0, 0, 1])).tolist() == [True, False, True]

# %% [markdown]
# ## The same, fast
#
# The loop is sequential: each choice depends on all before it. But its dear parts are not. Each group's order of preference can be sorted beforehand, and then a step is $G$ divisions, a
# comparison and a look at the next candidate. Sorting dominates, so it is a radix sort: importances are non-negative floats, whose bits, read as an unsigned integer, are ordered like the numbers. It is stable, so it starts from the order by |w| and
# ties come out right; groups are sorted in threads (the kernels release Python's lock).
#
# No `fastmath`: the additions and divisions below are those of the plain loop, in its order, so the result is equal, not close.

# %%
#| export
BITS = 11   # Digits of 11 bits: 3 passes over a float32, 6 over a float64; 2,048 counters fit the first-level cache

@njit(cache=True, nogil=True, error_model="numpy")
def radix_order(
    bits, # Importance read as unsigned integers, shape `(n,)`
    start,# Indices into `bits` in the order that decides ties, shape `(m,)`
):        # The same indices by falling importance, ties as in `start`
    "Stable radix sort, largest first, from the lowest digit to the highest."
    m, passes, low = start.shape[0], -(-8 * bits.itemsize // BITS), (1 << BITS) - 1
    keys, order = np.empty(m, bits.dtype), start.copy()
    counts = np.zeros((passes, low + 1), np.int64)
    for j in range(m):
        keys[j] = ~bits[order[j]]                        # inverted, so that the largest comes first
        for p in range(passes): counts[p, (keys[j] >> (BITS * p)) & low] += 1
    spare_keys, spare = np.empty_like(keys), np.empty_like(order)
    for p in range(passes):
        if counts[p].max() == m: continue                # all share this digit
        to = np.cumsum(counts[p]) - counts[p]
        for j in range(m):
            digit = (keys[j] >> (BITS * p)) & low
            spare_keys[to[digit]], spare[to[digit]] = keys[j], order[j]
            to[digit] += 1
        keys, spare_keys, order, spare = spare_keys, keys, spare, order
    return order


# %%
values = np.array([0.5, 0., 3., 0.5, 1e-40, 3.], np.float32)
radix_order(values.view(np.uint32), np.arange(6, dtype=np.int32)), radix_order(values.view(np.uint32), np.arange(6, dtype=np.int32)[::-1].copy())

# %%
assert radix_order(values.view(np.uint32), np.arange(6, dtype=np.int32)).tolist() == [2, 5, 0, 3, 4, 1]
for dtype, bits in ((np.float32, np.uint32), (np.float64, np.uint64)):
    x = (np.random.default_rng(0).exponential(size=5000) ** 8).astype(dtype); x[::7] = x[3]
    assert (radix_order(x.view(bits), np.arange(5000, dtype=np.int32)) == np.argsort(-x, kind="stable")).all()


# %% [markdown]
# And the walk. `rows` holds a weight's importances for all groups side by side, so that a step touches one place in memory rather than $G$.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def fair_walk(
    rows, # Importance, shape `(n, G)`: a weight's values lie together
    order,# Each group's candidates by falling importance, shape `(G, m)`
    share,# Target shares P_g, shape `(G,)`, float64
    k,    # How many to keep
    layer,# Layer number of each entry, shape `(n,)`; ignored if `empty` has no entry
    empty,# True for each layer that must keep a weight, shape `(layers,)`; changed
):        # True where a weight is kept, shape `(n,)`
    "The plain loop of `select_fair_plain` over orders that are sorted beforehand."
    groups, kept = share.shape[0], np.zeros(rows.shape[0], np.bool_)
    sums, at, to_fill, total = np.zeros(groups), np.zeros(groups, np.int64), empty.sum(), 0.
    for left in range(k, 0, -1):
        group, worst = 0, np.inf
        for g in range(groups):
            deficit = (sums[g] / total if total > 0 else 1 / groups) - share[g]
            if deficit < worst: group, worst = g, deficit
        i = order[group, at[group]]
        while kept[i] or (left == to_fill and not empty[layer[i]]):
            at[group] += 1
            i = order[group, at[group]]
        kept[i] = True
        if empty.shape[0] and empty[layer[i]]: empty[layer[i]], to_fill = False, to_fill - 1
        total = 0.
        for g in range(groups):
            sums[g] += rows[i, g]
            total += sums[g]
    return kept


# %%
fair_walk(importance.T.contiguous().numpy(), np.array([[0, 1, 2], [2, 0, 1]]), target_share(importance).numpy(), 2, np.zeros(1, np.int64), np.zeros(0, np.bool_))

# %%
assert fair_walk(importance.T.contiguous().numpy(), np.array([[0, 1, 2], [2, 0, 1]]), target_share(importance).numpy(), 2,
                 np.zeros(1, np.int64), np.zeros(0, np.bool_)).tolist() == [True, False, True]


# %% [markdown]
# The two together, behind the shared signature:

# %%
#| export
def select_fair(
    importance: Tensor,          # Importance of each weight for each group, shape `(G, *weight)`, finite, ≥ 0
    mask: Tensor,                # True where a weight is still there, shape `(*weight)`
    k: int,                      # How many to keep, 1 ≤ k ≤ `mask.sum()`
    weight: Tensor | None = None,# The weights, shape `(*weight)`: on equal importance the larger |w| goes first
    layer: Tensor | None = None, # Layer number of each entry, shape `(*weight)`, long: each keeps at least one
) -> Tensor:                     # The new mask, True where a weight stays, shape `(*weight)`
    """Keep `k` weights so that every group holds its share of the importance; equal to `select_fair_plain`, weight for weight.

    Source: paper, section 3.2 and Algorithm 1."""
    check_selection(importance, mask, k, layer)
    if importance.min() < 0: raise ValueError(f"importance of {float(importance.min()):.3g}: shares cannot be negative, take select_top")
    share, index = target_share(importance).cpu().numpy(), np.int32 if mask.numel() < 2**31 else np.int64
    rows = importance.detach().flatten(1).cpu()
    rows = rows if rows.dtype == torch.float64 else rows.float()
    alive = mask.flatten().cpu().numpy()
    start = falling_magnitude(weight, alive, index)
    bits = rows.numpy().view(np.uint64 if rows.dtype == torch.float64 else np.uint32)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool: order = np.stack(list(pool.map(lambda b: radix_order(b, start), bits)))
    layers = np.zeros(1, np.int64) if layer is None else layer.flatten().cpu().numpy()
    empty = np.zeros(0 if layer is None else layers.max() + 1, np.bool_)
    if layer is not None: empty[layers[alive]] = True
    kept = fair_walk(rows.T.contiguous().numpy(), order, share, k, layers, empty)
    return torch.from_numpy(kept).view(mask.shape).to(mask.device)

def falling_magnitude(weight: Tensor | None, alive: np.ndarray, index: type) -> np.ndarray:
    "Indices of the weights that are still there, by falling |w|, the lower index first on a tie"
    start = np.flatnonzero(alive).astype(index)
    if weight is None: return start
    size = weight.detach().abs().flatten().cpu()
    return radix_order(size.numpy().view(np.uint64) if size.dtype == torch.float64 else size.float().numpy().view(np.uint32), start)


# %%
select_fair(importance, everything, k=2)

# %%
assert select_fair(importance, everything, k=2).tolist() == [True, False, True]
try: select_fair(-importance, everything, k=2)
except ValueError as e: print(e)
else: raise AssertionError("negative importances were shared out")

# %% [markdown]
# Equal on everything that hypothesis can think of: random and tied importances, zeros, one group, fifty groups, magnitudes from 1e-300 to 1e300, weights already pruned, both scopes.

# %%
values = st.one_of(st.floats(0, 1e3), st.sampled_from([0., 1., 2.]), st.sampled_from([1e-300, 1e-30, 1., 1e30, 1e300]))

@st.composite
def selections(draw):
    "A layer (or, with `layer`, several at once) with everything that a selector takes"
    groups, n = draw(st.sampled_from([1, 2, 3, 7, 50])), draw(st.integers(2, 25))
    kind = draw(st.sampled_from([torch.float32, torch.float64]))
    rows = torch.tensor(draw(st.lists(st.lists(values, min_size=n, max_size=n), min_size=groups, max_size=groups)), dtype=torch.float64)
    rows = rows.clamp(max=1e30 if kind == torch.float32 else 1e300).to(kind)
    rows[0, 0] += 1                                                     # a layer without any importance never comes here
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    layer = draw(st.sampled_from([None, torch.arange(n) % 3, torch.arange(n) * 2 // n]))
    mask[0] = True
    k = draw(st.integers(1 if layer is None else len(layer[mask].unique()), int(mask.sum())))
    weight = draw(st.sampled_from([None, torch.ones(n), torch.arange(n) - n / 2., (torch.arange(n) % 3).float()]))
    return rows, mask, k, weight, layer

@hypothesis_settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(selections())
def check_equal_to_the_plain_loop(case):
    rows, mask, k, weight, layer = case
    new = select_fair(rows, mask, k, weight, layer)
    assert torch.equal(new, select_fair_plain(rows, mask, k, weight, layer))
    assert int(new.sum()) == k and not (new & ~mask).any()              # exact count, nested
    if len(rows) == 1: assert torch.equal(new, select_top(rows, mask, k, weight, layer))   # one group: the group-blind choice
    if layer is not None: assert set(layer[new].tolist()) == set(layer[mask].tolist())

check_equal_to_the_plain_loop()

# %% [markdown]
# And once on a layer of some size, where the shares of what is kept can be looked at beside their targets:

# %%
torch.manual_seed(0)
big = torch.rand(4, 60, 50) ** 12 * torch.tensor([1., 2., 3., 10.]).view(4, 1, 1)
kept = select_fair(big, torch.ones(60, 50) > 0, k=300)
blind = select_top(big, torch.ones(60, 50) > 0, k=300)
assert torch.equal(kept, select_fair_plain(big, torch.ones(60, 50) > 0, k=300))
print("target     ", [f"{p:.4f}" for p in target_share(big).tolist()])
print("select_fair", [f"{p:.4f}" for p in target_share(big * kept).tolist()])
print("select_top ", [f"{p:.4f}" for p in target_share(big * blind).tolist()])

# %%
gap = lambda kept: float((target_share(big * kept) - target_share(big)).abs().max())
assert gap(kept) < 1e-3 < 0.1 < gap(blind)

# %% [markdown]
# ## A whole network: layer or global scope
#
# With scope `"layer"` (the paper's) every layer keeps the same fraction. With `"global"` shares and budget are counted over all layers at once, so that a layer which
# matters little may give up nearly all of its weights. At 99 % where the weights go over the layers can matter more than anything else, so scope is a setting of every method and named in every result.
#
# A layer whose importance is all zero or not finite (a dead branch, an overflow) gives no shares to preserve. It falls back to magnitude, at the layer's own fraction of the budget in either scope, and its name is said in a warning.
# Negative scores are nothing to fall back for: GraSP's often are, and `select_top` puts them in order like any others.

# %%
#| export
Select = Callable[..., Tensor]   # (importance, mask, k, weight, layer) → mask
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
    if scope == "layer": new |= {n: select(importance[n], masks[n], _budget(masks[n], rate), weights[n]) for n in rest}
    elif rest:
        k = keep_count(sum(m.numel() for m in masks.values()), rate) - sum(int(m.sum()) for m in new.values())
        new |= select_globally(*({n: d[n] for n in rest} for d in (importance, masks, weights)), k=k, select=select)
    return {n: new[n] for n in masks}

def usable(importance: Tensor) -> bool: return bool(torch.isfinite(importance).all() and (importance != 0).any())

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
