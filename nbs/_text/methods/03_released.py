# %% [markdown]
# # As released
#
# > The selection and the baselines of the public code, rebuilt for comparisons with the paper

# %%
#| default_exp methods.released

# %%
#| export
import copy
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fairgrape.method.device import falling_magnitude
from fairgrape.method.fast import njit, radix_order
from fairgrape.method.masks import PRUNABLE, original, prunable
from fairgrape.method.schedule import exact
from fairgrape.method.selectors import check_selection, select_top
from fairgrape.methods.released_pass import released_importance
from fairgrape.methods.scores import grasp_score, snip_score, stream

# %%
import torch.nn.functional as F

from fairgrape.method.masks import get_masks
from fairgrape.method.pruning import prune
from fairgrape.method.selection import select_fair, select_masks
from fairgrape.method.selectors import by_magnitude, keep_count, target_share
from fairgrape.methods.registry import METHODS, RELEASED, as_released
from fairgrape.methods.scores import group_score, importance_score


# %% [markdown]
# The paper's numbers come from the authors' [code](https://github.com/Bernardo1998/FairGRAPE), which departs from the paper in several places. If the method does better or worse here
# than in the paper, the cause may be the data, the network, or one of these differences. This notebook and [the released importance](04_released_pass.ipynb) describe each difference, rebuild it from its description (no line is copied), and test it on literals. `as_released=True` in a run's settings switches all of them on.
#
# The rebuilt parts are the accumulation of the importance (1 and 2, in the other notebook), the number and choice of weights (3), and five of the baselines (4). Not rebuilt: a layer always keeps one weight; rates, splits and the training loop are those of this project; the one batch of
# SNIP and GraSP is not augmented.

# %% [markdown]
# ## 3. Two candidates a choice
#
# `para_batch` is the number of weights that a group may keep before the shares are computed again. Its default is 1, but the count starts from zero, so a group in deficit gets two turns. A turn is used even if its candidate is already kept by another group. The
# group in deficit then gets one weight less, or none, although its list continues. (`select_fair` looks further down the list.)
#
# The loop is one function, because it is compiled and runs once for every kept weight.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def _released_walk(
    rows,  # Importance, shape `(n, G)`: the values of a weight are adjacent
    order,  # Each group's candidates by falling importance, shape `(G, m)`
    share,  # Target shares P_g, shape `(G,)`, float64
    k,  # How many to keep
):  # True where a weight is kept, shape `(n,)`
    "The public code's greedy loop over sorted orders."
    groups, kept = share.shape[0], np.zeros(rows.shape[0], np.bool_)
    sums = np.zeros(groups)
    at = np.zeros(groups, np.int64)
    total = 0.0
    n = 0
    group = 0
    second = False
    while n < k:
        if not second:
            worst = np.inf
            for g in range(groups):
                deficit = (sums[g] / total if total > 0 else 1 / groups) - share[g]
                if deficit < worst:
                    group, worst = g, deficit
        second = not second
        i = order[group, at[group]]
        at[group] += 1
        if kept[i]:
            continue  # the turn is used up
        kept[i], total, n = True, 0.0, n + 1
        for g in range(groups):
            sums[g] += rows[i, g]
            total += sums[g]
    return kept


# %% [markdown]
# The example has four weights, with the importance 9, 8, 1, 0 for group 0 and 0, 0, 5, 4 for group 1. The totals are 18 and 9, the targets 2/3 and 1/3. Both count as 1/2 at first, so group 0 is in deficit. It keeps the 9 and, in its second turn, the 8. By the paper's rule the shares are computed again after the 9, and group 1 keeps its 5.

# %%
rows = torch.tensor([[9.0, 8.0, 1.0, 0.0], [0.0, 0.0, 5.0, 4.0]])


def falling(rows):
    return np.argsort(-rows.numpy(), kind="stable")


def walk(rows, k):
    return _released_walk(
        rows.T.contiguous().numpy(), falling(rows), target_share(rows).numpy(), k
    ).tolist()


print(walk(rows, 2), select_fair(rows, torch.ones(4) > 0, 2).tolist())
assert walk(rows, 2) == [True, True, False, False] and select_fair(
    rows, torch.ones(4) > 0, 2
).tolist() == [True, False, True, False]


# %% [markdown]
# The orders are sorted beforehand, with the sort that `select_fair` uses inside its buckets. The public code leaves ties to the sort; here the larger weight goes first, so masks are reproducible.

# %%
#| export
def _orders(rows: Tensor, mask: Tensor, weight: Tensor | None) -> np.ndarray:
    """Each group's candidates by falling importance; on a tie the larger |w|, then the lower index.

    Shapes: `(G, m)`."""
    start = falling_magnitude(
        weight, mask.flatten().cpu().numpy(), np.int32 if mask.numel() < 2**31 else np.int64
    )
    bits = rows.numpy().view(np.uint64 if rows.dtype == torch.float64 else np.uint32)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return np.stack(list(pool.map(lambda b: radix_order(b, start), bits)))


# %%
rows = torch.tensor([[9.0, 8.0, 1.0, 5.0, 2.0], [10.0, 0.0, 9.0, 9.0, 4.0]])
everything, without = torch.ones(5, dtype=torch.bool), torch.tensor([False, True, True, True, True])
_orders(rows, everything, None), _orders(rows, without, torch.tensor([0.0, 0.0, 1.0, -2.0, 0.0]))

# %%
assert _orders(rows, everything, None).tolist() == [[0, 1, 3, 4, 2], [0, 2, 3, 4, 1]]
# of the two 9s the larger |w|
assert _orders(rows, without, torch.tensor([0.0, 0.0, 1.0, -2.0, 0.0])).tolist() == [
    [1, 3, 4, 2],
    [3, 2, 4, 1],
]
assert _orders(rows.double(), everything, None).tolist() == _orders(rows, everything, None).tolist()


# %% [markdown]
# **P in float32.** The target shares are sums and quotients in float32, the type of the importance; only the kept importance is summed in float64. A difference in the eighth digit rarely changes a choice, but it can: in 4 of 270 layers of ResNet-34 and MobileNetV2 two to six weights of the mask differed.

# %%
#| export
def _released_share(
    importance: Tensor,  # Importance of a layer, shape `(G, *weight)`, finite, ≥ 0
    # True where a weight is left, shape `(*weight)`; None: all are
    mask: Tensor | None = None,
) -> np.ndarray:  # P_g, shape `(G,)`, float64 with float32 values
    "Each group's share of the layer's importance, in the arithmetic of the public code."
    rows = importance.detach().cpu().to(torch.promote_types(importance.dtype, torch.float32))
    if mask is not None:
        rows = torch.where(mask.cpu(), rows, 0)
    totals = torch.stack([row.sum() for row in rows])
    whole = totals[0]
    for total in totals[1:]:
        whole = whole + total  # sequentially, like Python's `sum`
    return (totals / whole).double().numpy()


# %% [markdown]
# A third in float32 is slightly more than 1/3. With three groups of equal importance the target is that number, not the 1/3 at which every group starts:

# %%
equal = torch.ones(3, 1)
print(f"{_released_share(equal)[0]:.17f}", f"{target_share(equal)[0].item():.17f}")


def single(*shares):
    return [float(np.float32(part) / np.float32(whole)) for part, whole in shares]


assert (
    _released_share(equal).tolist()
    == single((1, 3), (1, 3), (1, 3))
    != [1 / 3] * 3
    == target_share(equal).tolist()
)
assert _released_share(equal.double()).tolist() == [1 / 3] * 3
assert _released_share(equal.bfloat16()).tolist() == single((1, 3), (1, 3), (1, 3))
large = torch.tensor([[2.0**24, 1.0], [1.0, 1.0]])  # 2²⁴ + 1 is 2²⁴ in float32
assert _released_share(large).tolist() == single((2**24, 2**24 + 2), (2, 2**24 + 2))
two_groups = torch.tensor([[6.0, 5.0, 1.0], [0.0, 0.0, 2.0]])
assert _released_share(two_groups, torch.tensor([True, False, True])).tolist() == single(
    (7, 9), (2, 9)
)


# %% [markdown]
# **k from a float.** $(1 - r) \cdot n$ is computed in binary floats and truncated. With $r = 0.9$ and $n = 1000$ it is 99.99…, so 99 weights stay. This affects layers in which $(1 - r) \cdot n$ is a whole number: in MobileNetV2 12 of 53 at the last step to 90 %. (The public code computes the $r$ of each step as a running product
# of floats. Here it is the float next to the exact rate, from which the product rarely differs: in ResNet-34, at 0.975 a step, two layers have one weight more or less in 182 steps.)

# %%
#| export
def _released_count(
    n: int,  # Weights of the layer, pruned ones included
    rate: float | str | Fraction,  # Pruning rate, the fraction removed, 0 ≤ rate < 1
) -> int:  # How many stay; at least 1
    "Number of weights kept, in double precision: the public code's FairGRAPE, Importance and SNIP."
    return max(1, int(n * (1 - float(exact(rate)))))


# %%
print(_released_count(1000, 0.9), keep_count(1000, 0.9))
assert _released_count(1000, 0.9) == _released_count(1000, Fraction(9, 10)) == 99
assert _released_count(1000, "0.5") == 500 and _released_count(3, 0.9) == 1


# %% [markdown]
# Next, a used turn. Five weights have the importance 9, 8, 1, 5, 2 for group 0 and 10, 0, 9, 1, 4 for group 1. The totals are 25 and 24, the targets 0.510 and 0.490. Group 0 is in deficit, has two turns and keeps weights 0 and 1. The kept sums are now 17 : 10, so group 1 chooses. Its first turn meets weight 0, which is already
# kept, and is used up; its second turn keeps weight 2. The sums are 18 : 19, so group 0 chooses and keeps weight 3. Without the used turn, group 1 would have kept weight 4 too.

# %%
#| export
def select_released(
    # Importance of each weight for each group, shape `(G, *weight)`, finite, ≥ 0
    importance: Tensor,
    mask: Tensor,  # True where a weight is left, shape `(*weight)`
    k: int,  # How many to keep, 1 ≤ k ≤ `mask.sum()`
    # The weights: on equal importance the larger |w| goes first (public code: the order of its
    # sort)
    weight: Tensor | None = None,
    layer: Tensor | None = None,  # Must be None: the public code has no global scope
) -> Tensor:  # The new mask, True where a weight stays, shape `(*weight)`
    "FairGRAPE's selection as in the public code. Raises: ValueError for the global scope."
    if layer is not None:
        raise ValueError(
            "scope = 'global': the public code selects layer by layer, so choose scope 'layer'"
        )
    check_selection(importance, mask, k, None)
    rows = importance.detach().flatten(1).cpu()
    rows = rows if rows.dtype == torch.float64 else rows.float()
    share = _released_share(importance, mask)
    kept = _released_walk(rows.T.contiguous().numpy(), _orders(rows, mask, weight), share, k)
    return torch.from_numpy(kept).view(mask.shape).to(mask.device)


select_released.count = _released_count

# %%
rows = torch.tensor([[9.0, 8.0, 1.0, 5.0, 2.0], [10.0, 0.0, 9.0, 1.0, 4.0]])
print(select_released(rows, everything, k=3), select_released(rows, everything, k=4))
assert select_released(rows, everything, 3).tolist() == [True, True, True, False, False]
assert select_released(rows, everything, 4).tolist() == [True, True, True, True, False]
# a pruned weight is not a candidate
assert select_released(rows, without, 2).tolist() == [False, True, False, True, False]
# four weights of 1 for group 0, four of 2 for group 1, so the targets are 1/3 and 2/3. After four
# choices the sums are 2 : 4, a tie, and group 0's turn; but 2/3 in float32 is 2 · 10⁻⁸ too much,
# 1/3 only 1 · 10⁻⁸
ones_and_twos = torch.tensor([[1.0] * 4 + [0.0] * 4, [0.0] * 4 + [2.0] * 4])
assert select_released(ones_and_twos, torch.ones(8) > 0, 5).nonzero().flatten().tolist() == [
    0,
    1,
    4,
    5,
    6,
]
assert select_released(
    ones_and_twos.double(), torch.ones(8) > 0, 5
).nonzero().flatten().tolist() == [0, 1, 2, 4, 5]
thousand = (
    {"fc": torch.arange(1.0, 1001)[None]},
    {"fc": torch.ones(1000) > 0},
    {"fc": torch.ones(1000)},
)
kept = [
    int(select_masks(*thousand, 0.9, select)["fc"].sum())
    for select in (select_released, select_fair)
]
assert kept == [99, 100]
try:
    select_released(rows, everything, 3, layer=torch.zeros(5, dtype=torch.long))
except ValueError as e:
    print(e)
else:
    raise AssertionError("the global scope was accepted")


# %% [markdown]
# Compared with a plain loop over lists, on random importances with ties and pruned weights:

# %%
def plainly(importance, mask, k, weight=None, chosen=None):
    rows, share = importance.double().tolist(), _released_share(importance, mask).tolist()
    alive = [i for i in by_magnitude(weight, mask).tolist() if mask[i]]
    lists = [sorted(alive, key=lambda i: -row[i]) for row in rows]
    kept, sums, turns = [], [0.0] * len(rows), []
    while len(kept) < k:
        if not turns:
            deficit = [
                (s / sum(sums) if sum(sums) > 0 else 1 / len(rows)) - p for s, p in zip(sums, share)
            ]
            turns = [deficit.index(min(deficit))] * 2
            if chosen is not None:
                chosen.append(turns[0])
        i = lists[turns[-1]].pop(0)
        if i not in kept:
            kept.append(i)
            sums = [s + row[i] for s, row in zip(sums, rows)]
        turns.pop()
    return torch.tensor([i in kept for i in range(len(mask))])


different = 0
for seed in range(200):
    torch.manual_seed(seed)
    groups, n = (1, 2, 3, 7)[seed % 4], int(torch.randint(2, 40, ()))
    rows = torch.randint(0, 9, (groups, n)).float() if seed % 3 else torch.rand(groups, n) ** 6
    rows[0, 0], mask, weight = 5, torch.rand(n) < 0.7, torch.randint(-3, 3, (n,)).float()
    mask[0], k = True, 1
    k = int(torch.randint(1, int(mask.sum()) + 1, ()))
    new = select_released(rows, mask, k, weight)
    assert (
        torch.equal(new, plainly(rows, mask, k, weight))
        and int(new.sum()) == k
        and not (new & ~mask).any()
    )
    # one group: the top k, regardless of turns
    if groups == 1:
        assert torch.equal(new, select_top(rows, mask, k, weight))
    different += not torch.equal(new, select_fair(rows, mask, k, weight))
print(f"another mask than select_fair's in {different} of 200 cases")

# %% [markdown]
# The plain loop can also count the choices of each group: here for a toy network and three groups with similar images, in the first layer, with 48 of its 96 weights to keep. With importances as the paper defines them the third group has as many turns as the others. With the released ones it has none:

# %%
torch.manual_seed(0)
toy = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
x, g = torch.randn(40, 30, 6), torch.arange(30) % 3
y = (x[..., 0] + 0.1 * torch.randn(40, 30) > 0).long()
together = [(a, b, g) for a, b in zip(x, y)]
by_group = [(a[g == i], b[g == i], i) for a, b, _ in together for i in range(3)]
both = {
    "paper": group_score(toy, by_group, F.cross_entropy, 3),
    "as released": released_importance(toy, together, F.cross_entropy, 3),
}
turns = {}
for name, scores in both.items():
    plainly(scores["0"].flatten(1), torch.ones(96) > 0, 48, chosen=(chosen := []))
    turns[name] = np.bincount(chosen, minlength=3).tolist()
    print(f"{name}: choices of the three groups {turns[name]}")
assert turns["paper"][2] > 10 and turns["as released"][2] == 0


# %% [markdown]
# ## 4. The baselines
#
# **A strict threshold.** WS, Lottery, Importance and SNIP find the k-th largest score and keep the weights *above* it: k − 1 weights, fewer on a tie. A layer with a budget of one weight would keep none, and the network would give the same answer to every image. Here
# at least one stays. (In the paper's settings the smallest budget is 2, in MobileNetV2's depthwise layers at a rate of 0.99, so this case does not occur.)

# %%
#| export
def select_strict(
    importance: Tensor,  # Score of each weight, shape `(G, *weight)`; the groups are added up
    mask: Tensor,  # True where a weight is left, shape `(*weight)`
    k: int,  # The rank of the threshold, 1 ≤ k ≤ `mask.sum()`
    # The weights: decide which one stays if none is above the threshold
    weight: Tensor | None = None,
    # Layer number of each entry, shape `(*weight)`, long: each keeps at least one
    layer: Tensor | None = None,
) -> Tensor:  # The new mask: k − 1 weights, fewer on a tie, at least one in each layer
    "Keep the weights strictly above the k-th largest score."
    check_selection(importance, mask, k, layer)
    layer = torch.zeros_like(mask, dtype=torch.long) if layer is None else layer
    score = torch.where(mask, importance.sum(0), -torch.inf)
    kept = score > score.flatten().topk(k).values[-1]
    best = select_top(importance, mask, len(layer[mask].unique()), weight, layer)
    return kept | best & ~torch.isin(layer, layer[kept])


# %%
score = torch.tensor([[5.0, 1.0, 4.0, 3.0, 3.0]])
print(
    select_strict(score, everything, k=3),
    select_strict(score, everything, k=4),
    select_strict(score, everything, k=1),
)
# the threshold is 3; two weights are above it
assert select_strict(score, everything, 3).tolist() == [True, False, True, False, False]
# the threshold is 3 again, on a tie
assert select_strict(score, everything, 4).tolist() == [True, False, True, False, False]
# none is above 5; the best one stays
assert select_strict(score, everything, 1).tolist() == [True, False, False, False, False]
assert select_strict(score, torch.tensor([False, True, True, True, True]), 2).tolist() == [
    False,
    False,
    True,
    False,
    False,
]
alone = torch.tensor([0, 1, 0, 0, 0])  # layer 1 has one weight, which stays
assert select_strict(score, everything, 3, layer=alone).tolist() == [True, True, True, False, False]


# %% [markdown]
# **A lenient threshold.** GraSP counts the weights to remove and then keeps every weight not above the threshold, including the last one to be removed: one too many.

# %%
#| export
def select_one_more(
    importance: Tensor,  # Score of each weight, shape `(G, *weight)`; the groups are added up
    mask: Tensor,  # True where a weight is left, shape `(*weight)`
    k: int,  # How many should be kept, 1 ≤ k ≤ `mask.sum()`
    weight: Tensor | None = None,  # The weights: on equal score the larger |w| stays
    # Layer number of each entry, shape `(*weight)`, long: each keeps at least one
    layer: Tensor | None = None,
) -> Tensor:  # The new mask, with k + 1 weights if so many are left
    "Keep the `k` best weights and the one at the threshold."
    check_selection(importance, mask, k, layer)
    return select_top(importance, mask, min(k + 1, int(mask.sum())), weight, layer)


# %%
print(select_one_more(score, everything, k=2))
assert (
    select_one_more(score, everything, 2).tolist() == [True, False, True, True, False]
    and select_one_more(score, everything, 5).all()
)


# %% [markdown]
# **k from floats.** WS and Lottery multiply in *single* precision, with a tensor of the size. GraSP truncates the number of weights to remove, not of those to keep, and uses $1 - (1 - r)$ as the rate. (`select_masks` reads the attribute `count` of a selector.)

# %%
#| export
def _count_in_single(n: int, rate: float | str | Fraction) -> int:
    "Number of weights kept, in single precision: the public code's WS and Lottery."
    return max(1, int(np.float32(n) * np.float32(1 - float(exact(rate)))))


def _count_by_removal(n: int, rate: float | str | Fraction) -> int:
    "Number of weights kept when counting those to remove: the public code's GraSP."
    return max(1, n - int(n * (1 - (1 - float(exact(rate))))))


select_strict.count, select_one_more.count = _released_count, _count_by_removal
select_strict_single = partial(select_strict)
select_strict_single.count = _count_in_single

# %%
counts = keep_count, _released_count, _count_in_single, _count_by_removal
for n, rate in ((1000, 0.9), (7, 0.5), (1, 0.9)):
    print(f"{n:,} at {rate}:", {count.__name__: count(n, rate) for count in counts})
assert [count(1000, 0.9) for count in counts] == [100, 99, 100, 100]
# 3.5 is truncated: of those to keep, or of those to remove
assert [count(7, 0.5) for count in counts] == [3, 3, 3, 4]
assert [count(1, 0.9) for count in counts] == [1, 1, 1, 1] and _count_in_single(
    2**24 + 1, 0
) == 2**24
selectors = select_strict, select_strict_single, select_one_more
kept = [int(select_masks(*thousand, 0.9, select)["fc"].sum()) for select in selectors]
assert kept == [98, 99, 101]  # above the 99th, above the 100th, one more than 100


# %% [markdown]
# **"Importance" uses group 0's scores.** The [released pass](04_released_pass.ipynb) returns a score for each group, and the group-blind baseline takes the first. In the first batch this is group 0's own gradient; from the second batch on it includes the gradients of all groups.

# %%
#| export
def released_blind(
    model: nn.Module,  # The network; not changed
    batches: Iterable,  # Yields (input, target, group), mixed
    loss: Callable,  # loss(output, target) → scalar, the mean over the batch
    groups: int,  # G, how many groups there are
    *how,  # ignore, autocast, seed, lr: see `released_importance`
    **named,  # The same, by name
) -> dict[str, Tensor]:  # Layer name → group 0's importance, shape `(1, *weight)`, ≥ 0
    "The public code's group-blind importance: that of group 0."
    return {
        n: scores[:1]
        for n, scores in released_importance(model, batches, loss, groups, *how, **named).items()
    }


# %%
neuron = nn.Sequential(nn.Linear(2, 1, bias=False))
with torch.no_grad():
    neuron[0].weight.copy_(torch.tensor([[2.0, 3.0]]))
mixed = [(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), None, torch.tensor([0, 1]))]


def mean_output(out, _):
    return out.mean()


print(
    released_blind(neuron, mixed, mean_output, 2, lr=0),
    importance_score(neuron, mixed, mean_output),
)
assert released_blind(neuron, mixed, mean_output, 2, lr=0)["0"].tolist() == [[[4.0, 0.0]]]
# all images: the mean input is (½, ½)
assert importance_score(neuron, mixed, mean_output)["0"].tolist() == [[[1.0, 2.25]]]


# %% [markdown]
# **SNIP and GraSP score another network.** SNIP's authors start from a fresh network, so their code draws new weights (Xavier) before it scores them. The public code does this on a copy and then applies the mask to the ImageNet weights, whose importance was never computed. GraSP draws new
# weights for the head and keeps the convolutions.

# %%
#| export
def redrawn(
    model: nn.Module,  # The network; not changed
    kinds: tuple = PRUNABLE,  # Which layers get new weights
    ignore: Iterable[str] = (),  # Layers to leave as they are
    seed: int = 0,  # Seed of the new weights
) -> nn.Module:  # A copy with new weights and the same masks
    "A copy whose layers of these kinds have Xavier-normal weights."
    # not the stream of the initial weights
    fresh, generator = copy.deepcopy(model), stream(seed, "redrawn")
    for layer in prunable(fresh, ignore).values():
        if not isinstance(layer, kinds):
            continue
        with torch.no_grad():
            original(layer).copy_(
                nn.init.xavier_normal_(torch.empty(original(layer).shape), generator=generator)
            )
    return fresh


# %%
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 200))
head = redrawn(net)[2]
print(
    f"the head's weights: standard deviation {float(head.weight.detach().std()):.3f}; Xavier's for"
    f" 16 and 200: {(2 / 216) ** 0.5:.3f}"
)
assert torch.equal(head.weight, redrawn(net)[2].weight) and not torch.equal(
    head.weight, redrawn(net, seed=1)[2].weight
)
assert torch.equal(redrawn(net, (nn.Linear,))[0].weight, net[0].weight) and torch.equal(
    head.bias, net[2].bias
)
assert abs(float(head.weight.detach().std()) - (2 / 216) ** 0.5) < 0.005


# %%
#| export
def released_snip(
    model: nn.Module,  # The network with its start weights; not changed
    batches: Iterable,  # Yields (input, target, group): one batch
    loss: Callable,  # loss(output, target) → scalar, the mean over the batch
    groups: int = 1,  # Not needed
    ignore: Iterable[str] = (),  # Layers to leave dense
    autocast: torch.dtype | None = None,  # torch.bfloat16 for mixed precision
    seed: int = 0,  # Decides the new weights
) -> dict[str, Tensor]:  # Layer name → score, shape `(1, *weight)`, ≥ 0
    "SNIP's score of a copy with new prunable weights."
    return snip_score(
        redrawn(model, ignore=ignore, seed=seed), batches, loss, groups, ignore, autocast
    )


# %%
batch = [(torch.randn(8, 1, 4, 4), torch.arange(8), torch.zeros(8))]
own, theirs = snip_score(net, batch, F.cross_entropy), released_snip(net, batch, F.cross_entropy)


def alike(a, b):
    return {
        n: f"{float(torch.corrcoef(torch.stack([a[n].flatten(), b[n].flatten()]))[0, 1]):.2f}"
        for n in a
    }


print("correlation of the scores, layer by layer:", alike(own, theirs))
assert torch.equal(
    theirs["0"], snip_score(redrawn(net), batch, F.cross_entropy)["0"]
) and not torch.equal(theirs["0"], own["0"])


# %%
#| export
def released_grasp(
    model: nn.Module,  # The network with its start weights; not changed
    batches: Iterable,  # Yields (input, target, group): one class-balanced batch
    loss: Callable,  # loss(output, target) → scalar, the mean over the batch
    groups: int = 1,  # Not needed
    ignore: Iterable[str] = (),  # Layers to leave dense
    autocast: torch.dtype | None = None,  # Ignored
    seed: int = 0,  # Decides the new weights
) -> dict[str, Tensor]:  # Layer name → score, shape `(1, *weight)`, of either sign
    "GraSP's score of a copy with new weights in its Linear layers."
    return grasp_score(
        redrawn(model, (nn.Linear,), ignore, seed), batches, loss, groups, ignore, autocast
    )


# %% [markdown]
# In this toy network the score of the convolution hardly depends on the head. The score of the head does.

# %%
own, theirs = grasp_score(net, batch, F.cross_entropy), released_grasp(net, batch, F.cross_entropy)
print("correlation of the scores, layer by layer:", alike(own, theirs))
assert torch.equal(
    theirs["2"], grasp_score(redrawn(net, (nn.Linear,)), batch, F.cross_entropy)["2"]
)
assert not torch.equal(theirs["0"], own["0"])

# %% [markdown]
# **Lottery rewinds to the wrong weights.** The copy that it restores is made together with the pruner, after the dense network has been trained: every round starts from the *trained* weights. The rounds are short, like FairGRAPE's. **Random raises** at its first layer.
#
# Two more departures have no counterpart here. Leaving out the images of a race has no effect on the pass of FairGRAPE or Importance, which always reads the whole training table; `importance_on` together with `as_released` therefore raises an error here. The option that should print ρ stops at an undefined
# name, so the public code as it stands prints no ρ.
#
# ## The switch
#
# [The table of methods](01_registry.ipynb) assigns these functions to the methods; `as_released` converts a method to its released form.

# %%
{name: as_released(METHODS[name]).published for name in RELEASED}

# %%
assert all(callable(as_released(METHODS[name]).score) for name in RELEASED)
assert all(callable(as_released(METHODS[name]).select) for name in RELEASED)
lottery = as_released(METHODS["lottery"])
assert (lottery.rewind, lottery.rewind_to, lottery.rounds, lottery.name) == (
    True,
    "trained",
    "short",
    "lottery",
)
assert METHODS["lottery"].rewind_to == "initial" and METHODS["fairgrape"].mixed is False
assert [n for n in RELEASED if as_released(METHODS[n]).mixed] == ["fairgrape", "importance"]
for name in ("random", "magnitude"):
    try:
        as_released(METHODS[name])
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{name} as released was made up")

# %% [markdown]
# Finally the whole loop, step by step, on the toy data above: how many weights do FairGRAPE's two masks have in common?

# %%
for name in ("fairgrape", "importance"):
    nets = []
    for m, batches in ((METHODS[name], by_group), (as_released(METHODS[name]), together)):
        nets.append(copy.deepcopy(toy))
        prune(
            nets[-1],
            0.75,
            lambda net: m.score(net, batches, F.cross_entropy, 3 if m.groups else 1),
            m.select,
            keep=0.5,
        )
    ours, theirs = (torch.cat([k.flatten() for k in get_masks(net).values()]) for net in nets)
    print(
        f"{name}: {int(ours.sum())} weights kept, as released {int(theirs.sum())}, the same ones"
        f" {int((ours & theirs).sum())}"
    )
    assert (
        int(ours.sum()) == 32
        and int(theirs.sum()) == (32 if name == "fairgrape" else 30)
        and not torch.equal(ours, theirs)
    )
