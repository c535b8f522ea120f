# %% [markdown]
# # As released
#
# > The public code's importance and selection, quirk by quirk, for readers who compare numbers

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
# The paper's numbers were made with the authors' [code](https://github.com/Bernardo1998/FairGRAPE), and that code does not do everything as the paper says. Whoever finds that the method does better or worse here
# than in the paper needs to know whether that is the data, the network, or one of these differences. So each of them is told here and in [19a](04_released_pass.ipynb), rebuilt from its description (no line is copied), and tested on literals. `as_released=True` in a run's settings switches them on together.
#
# What is rebuilt: how the importance is accumulated (1 and 2, in 19a), how many weights are chosen and which (3), and what five of the baselines do (4). What is not: a layer always keeps one weight; a rate, a split and the training loop are those of this project; the one batch of
# SNIP and GraSP is not augmented.

# %% [markdown]
# ## 3. Two candidates a choice
#
# `para_batch` says how many weights a group may keep before the shares are looked at again, and its default is 1. But the count starts from zero, so a group that is in deficit gets two turns. A turn is used even when its candidate is kept already: another group may have taken it, and then the
# group in deficit gets one weight less, or none, although its list goes on. (`select_fair` looks further down the list.)
#
# The loop stays in one piece: it is compiled, and it runs once for every weight that is kept.

# %%
#| export
@njit(cache=True, nogil=True, error_model="numpy")
def released_walk(
    rows,  # Importance, shape `(n, G)`: a weight's values lie together
    order,  # Each group's candidates by falling importance, shape `(G, m)`
    share,  # Target shares P_g, shape `(G,)`, float64
    k,  # How many to keep
):  # True where a weight is kept, shape `(n,)`
    "The public code's greedy loop over orders that are sorted beforehand."
    groups, kept = share.shape[0], np.zeros(rows.shape[0], np.bool_)
    sums, at, total, n, group, second = (
        np.zeros(groups),
        np.zeros(groups, np.int64),
        0.0,
        0,
        0,
        False,
    )
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
# Four weights. Group 0 values them 9, 8, 1, 0, group 1 values them 0, 0, 5, 4. Totals 18 and 9, targets 2/3 and 1/3. Both count as 1/2 at first, so group 0 is in deficit. It keeps the 9 and, in its second turn, the 8; the paper's rule would have looked at the shares after the 9 and let group 1 keep its 5.

# %%
rows = torch.tensor([[9.0, 8.0, 1.0, 0.0], [0.0, 0.0, 5.0, 4.0]])


def falling(rows):
    return np.argsort(-rows.numpy(), kind="stable")


def walk(rows, k):
    return released_walk(
        rows.T.contiguous().numpy(), falling(rows), target_share(rows).numpy(), k
    ).tolist()


print(walk(rows, 2), select_fair(rows, torch.ones(4) > 0, 2).tolist())
assert walk(rows, 2) == [True, True, False, False] and select_fair(
    rows, torch.ones(4) > 0, 2
).tolist() == [True, False, True, False]


# %% [markdown]
# The orders that it walks are sorted beforehand, with the sort that `select_fair` uses inside its buckets. Where importances are equal, the public code leaves it to the sort; here the larger weight goes first, so that a mask can be made again.

# %%
#| export
def _orders(rows: Tensor, mask: Tensor, weight: Tensor | None) -> np.ndarray:
    """Each group's candidates by falling importance, shape (G, m); on a tie the larger |w|
    first, then the lower index
    """
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
# **P in float32.** The target shares are sums and quotients in float32, the importance's own type; only what is kept is added up in float64. A digit in the eighth place seldom turns a choice, but it does: in 4 of 270 layers of ResNet-34 and MobileNetV2 two to six weights of the mask were others.

# %%
#| export
def released_share(
    importance: Tensor,  # Importance of a layer, shape `(G, *weight)`, finite, ≥ 0
    # True where a weight is still there, shape `(*weight)`; None: all are
    mask: Tensor | None = None,
) -> np.ndarray:  # P_g, shape `(G,)`, float64 that holds what float32 can
    "Each group's share of the layer's importance, in the arithmetic of the public code."
    rows = importance.detach().cpu().to(torch.promote_types(importance.dtype, torch.float32))
    if mask is not None:
        rows = torch.where(mask.cpu(), rows, 0)
    totals = torch.stack([row.sum() for row in rows])
    whole = totals[0]
    for total in totals[1:]:
        whole = whole + total  # one after the other, as Python's `sum` does it
    return (totals / whole).double().numpy()


# %% [markdown]
# A third in float32 is a little more than a third. With three groups of equal importance the target is that number, not the 1/3 at which every group starts:

# %%
equal = torch.ones(3, 1)
print(f"{released_share(equal)[0]:.17f}", f"{target_share(equal)[0].item():.17f}")


def single(*shares):
    return [float(np.float32(part) / np.float32(whole)) for part, whole in shares]


assert (
    released_share(equal).tolist()
    == single((1, 3), (1, 3), (1, 3))
    != [1 / 3] * 3
    == target_share(equal).tolist()
)
assert released_share(equal.double()).tolist() == [1 / 3] * 3
assert released_share(equal.bfloat16()).tolist() == single((1, 3), (1, 3), (1, 3))
large = torch.tensor([[2.0**24, 1.0], [1.0, 1.0]])  # 2²⁴ + 1 is 2²⁴ in float32
assert released_share(large).tolist() == single((2**24, 2**24 + 2), (2, 2**24 + 2))
two_groups = torch.tensor([[6.0, 5.0, 1.0], [0.0, 0.0, 2.0]])
assert released_share(two_groups, torch.tensor([True, False, True])).tolist() == single(
    (7, 9), (2, 9)
)


# %% [markdown]
# **k from a float.** $(1 - r) \cdot n$ is worked out in binary floats and cut off. With $r = 0.9$ and $n = 1000$ that is 99.99…, so 99 weights stay. It touches the layers whose size the rate divides: in MobileNetV2 12 of 53 at the last step to 90 %. (The public code takes $r$ of the steps from a running product
# of floats. Here it is the float next to the exact rate, from which the product seldom differs: in ResNet-34, at 0.975 a step, two layers have one weight more or less in 182 steps.)

# %%
#| export
def released_count(
    n: int,  # Weights of the layer, pruned ones included
    rate: float | str | Fraction,  # Pruning rate, the fraction removed, 0 ≤ rate < 1
) -> int:  # How many stay; at least 1
    "How many weights stay, in double precision: the public code's FairGRAPE, Importance and SNIP."
    return max(1, int(n * (1 - float(exact(rate)))))


# %%
print(released_count(1000, 0.9), keep_count(1000, 0.9))
assert released_count(1000, 0.9) == released_count(1000, Fraction(9, 10)) == 99
assert released_count(1000, "0.5") == 500 and released_count(3, 0.9) == 1


# %% [markdown]
# A used turn. Group 0 values five weights at 9, 8, 1, 5, 2 and group 1 at 10, 0, 9, 1, 4. Totals 25 and 24, targets 0.510 and 0.490. Group 0 is in deficit, has two turns and keeps weights 0 and 1. The kept sums are 17 : 10 now, so it is group 1's choice: its first turn meets weight 0, which is
# kept, and is used up; its second keeps weight 2. The sums are 18 : 19, so group 0 chooses, and keeps weight 3. Had the turn not been used up, group 1 would have gone on to weight 4.

# %%
#| export
def select_released(
    # Importance of each weight for each group, shape `(G, *weight)`, finite, ≥ 0
    importance: Tensor,
    mask: Tensor,  # True where a weight is still there, shape `(*weight)`
    k: int,  # How many to keep, 1 ≤ k ≤ `mask.sum()`
    # The weights: on equal importance the larger |w| goes first (there: whatever order the sort
    # leaves)
    weight: Tensor | None = None,
    layer: Tensor | None = None,  # Not taken: the public code knows no global scope
) -> Tensor:  # The new mask, True where a weight stays, shape `(*weight)`
    "FairGRAPE's selection as the public code does it. Raises: ValueError for the global scope."
    if layer is not None:
        raise ValueError(
            "scope = 'global': the public code selects layer by layer, so choose scope 'layer'"
        )
    check_selection(importance, mask, k, None)
    rows = importance.detach().flatten(1).cpu()
    rows = rows if rows.dtype == torch.float64 else rows.float()
    share = released_share(importance, mask)
    kept = released_walk(rows.T.contiguous().numpy(), _orders(rows, mask, weight), share, k)
    return torch.from_numpy(kept).view(mask.shape).to(mask.device)


select_released.count = released_count

# %%
rows = torch.tensor([[9.0, 8.0, 1.0, 5.0, 2.0], [10.0, 0.0, 9.0, 1.0, 4.0]])
print(select_released(rows, everything, k=3), select_released(rows, everything, k=4))
assert select_released(rows, everything, 3).tolist() == [True, True, True, False, False]
assert select_released(rows, everything, 4).tolist() == [True, True, True, True, False]
# a pruned weight is no candidate
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
# Held against a plain loop with lists, on random importances with ties and pruned weights:

# %%
def plainly(importance, mask, k, weight=None, chosen=None):
    rows, share = importance.double().tolist(), released_share(importance, mask).tolist()
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
    # one group: the top k whatever the turns
    if groups == 1:
        assert torch.equal(new, select_top(rows, mask, k, weight))
    different += not torch.equal(new, select_fair(rows, mask, k, weight))
print(f"another mask than select_fair's in {different} of 200 cases")

# %% [markdown]
# With the plain loop one can also count whose choice it was: for a toy network and three groups whose images are much alike, in the first layer, with 48 of its 96 weights to keep. With importances as the paper defines them the third group has as many turns as any. With the released ones it has none:

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
# **A strict threshold.** WS, Lottery, Importance and SNIP find the k-th largest score and keep what is *above* it: k − 1 weights, fewer on a tie. In a layer with a budget of one weight that leaves none, and with it a network that says the same to every image. Here
# at least one stays. (In the paper's own settings the smallest budget is 2, in MobileNetV2's depthwise layers at a rate of 0.99, so it never comes to that.)

# %%
#| export
def select_strict(
    importance: Tensor,  # Score of each weight, shape `(G, *weight)`; the groups are added up
    mask: Tensor,  # True where a weight is still there, shape `(*weight)`
    k: int,  # The place of the threshold, 1 ≤ k ≤ `mask.sum()`
    # The weights: decide which one stays where none is above the threshold
    weight: Tensor | None = None,
    # Layer number of each entry, shape `(*weight)`, long: each keeps at least one
    layer: Tensor | None = None,
) -> Tensor:  # The new mask: k − 1 weights, fewer on a tie, at least one in each layer
    "Keep what is strictly above the k-th largest score."
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
# the threshold is 3: two are above it
assert select_strict(score, everything, 3).tolist() == [True, False, True, False, False]
# and again 3, on a tie
assert select_strict(score, everything, 4).tolist() == [True, False, True, False, False]
# none is above 5: the best one stays
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
# **GraSP's is lenient.** It counts what to remove and then keeps all that is not above the threshold, the last of those to be removed among it: one too many.

# %%
#| export
def select_one_more(
    importance: Tensor,  # Score of each weight, shape `(G, *weight)`; the groups are added up
    mask: Tensor,  # True where a weight is still there, shape `(*weight)`
    k: int,  # How many were to be kept, 1 ≤ k ≤ `mask.sum()`
    weight: Tensor | None = None,  # The weights: on equal score the larger |w| stays
    # Layer number of each entry, shape `(*weight)`, long: each keeps at least one
    layer: Tensor | None = None,
) -> Tensor:  # The new mask, with k + 1 weights where there are so many
    "Keep the `k` best and the one at the threshold."
    check_selection(importance, mask, k, layer)
    return select_top(importance, mask, min(k + 1, int(mask.sum())), weight, layer)


# %%
print(select_one_more(score, everything, k=2))
assert (
    select_one_more(score, everything, 2).tolist() == [True, False, True, True, False]
    and select_one_more(score, everything, 5).all()
)


# %% [markdown]
# **Their k is a float's too.** WS and Lottery multiply in *single* precision, with a tensor of the size. GraSP cuts off the number of weights to remove, not of those to keep, and takes $1 - (1 - r)$ for the rate. (A selector's `count` is what `select_masks` asks.)

# %%
#| export
def count_in_single(n: int, rate: float | str | Fraction) -> int:
    "How many weights stay, in single precision: the public code's WS and Lottery"
    return max(1, int(np.float32(n) * np.float32(1 - float(exact(rate)))))


def count_by_removal(n: int, rate: float | str | Fraction) -> int:
    "How many weights stay where those to remove are counted: the public code's GraSP"
    return max(1, n - int(n * (1 - (1 - float(exact(rate))))))


select_strict.count, select_one_more.count = released_count, count_by_removal
select_strict_single = partial(select_strict)
select_strict_single.count = count_in_single

# %%
counts = keep_count, released_count, count_in_single, count_by_removal
for n, rate in ((1000, 0.9), (7, 0.5), (1, 0.9)):
    print(f"{n:,} at {rate}:", {count.__name__: count(n, rate) for count in counts})
assert [count(1000, 0.9) for count in counts] == [100, 99, 100, 100]
# 3.5 are cut off: of those to keep, or to remove
assert [count(7, 0.5) for count in counts] == [3, 3, 3, 4]
assert [count(1, 0.9) for count in counts] == [1, 1, 1, 1] and count_in_single(
    2**24 + 1, 0
) == 2**24
selectors = select_strict, select_strict_single, select_one_more
kept = [int(select_masks(*thousand, 0.9, select)["fc"].sum()) for select in selectors]
assert kept == [98, 99, 101]  # above the 99th, above the 100th, one more than 100


# %% [markdown]
# **"Importance" is group 0's.** The [released pass](04_released_pass.ipynb) gives a score for each group, and the group-blind baseline takes the first one. In the first batch that is group 0's own gradient; from the second on everybody's are in it.

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
mean_output, mixed = (
    lambda out, _: out.mean(),
    [(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), None, torch.tensor([0, 1]))],
)
print(
    released_blind(neuron, mixed, mean_output, 2, lr=0),
    importance_score(neuron, mixed, mean_output),
)
assert released_blind(neuron, mixed, mean_output, 2, lr=0)["0"].tolist() == [[[4.0, 0.0]]]
# everybody: the mean input is (½, ½)
assert importance_score(neuron, mixed, mean_output)["0"].tolist() == [[[1.0, 2.25]]]


# %% [markdown]
# **SNIP and GraSP score another network.** SNIP's authors start from a fresh network, and so their code draws the weights anew (Xavier) before it scores them. In the public code that happens on a copy, and the mask is then put on the ImageNet weights: which of *these* matter was never asked. GraSP draws the
# head's weights anew and leaves the convolutions.

# %%
#| export
def redrawn(
    model: nn.Module,  # The network; not changed
    kinds: tuple = PRUNABLE,  # Which layers get new weights
    ignore: Iterable[str] = (),  # Layers to leave as they are
    seed: int = 0,  # Decides the new weights
) -> nn.Module:  # A copy with new weights, masks as before
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
    "SNIP's score of a copy whose prunable weights are drawn anew."
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
    autocast: torch.dtype | None = None,  # Not followed
    seed: int = 0,  # Decides the new weights
) -> dict[str, Tensor]:  # Layer name → score, shape `(1, *weight)`, of either sign
    "GraSP's score of a copy whose Linear layers are drawn anew."
    return grasp_score(
        redrawn(model, (nn.Linear,), ignore, seed), batches, loss, groups, ignore, autocast
    )


# %% [markdown]
# In this toy net the convolution's score hardly depends on which head stands behind it. The head's own does.

# %%
own, theirs = grasp_score(net, batch, F.cross_entropy), released_grasp(net, batch, F.cross_entropy)
print("correlation of the scores, layer by layer:", alike(own, theirs))
assert torch.equal(
    theirs["2"], grasp_score(redrawn(net, (nn.Linear,)), batch, F.cross_entropy)["2"]
)
assert not torch.equal(theirs["0"], own["0"])

# %% [markdown]
# **Lottery rewinds to the wrong place.** The copy that it goes back to is taken when the pruner is made, and by then the dense network is trained: every round starts from the *trained* weights. The rounds are the short ones that FairGRAPE has too. **Random raises** at its first layer.
#
# Two more have no counterpart here. Leaving a race out of the images never reaches FairGRAPE's or Importance's pass, which reads the whole training table whatever is asked; so `importance_on` together with `as_released` is refused here. And the option that should print ρ stops at a name that is not
# defined, so no figure of the public code's own making exists.
#
# ## The switch
#
# Which of these functions stands for which method is part of [the table of methods](01_registry.ipynb); `as_released` makes the one of the other.

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
# And through the loop, on the toy data of above, a step at a time: how many weights of FairGRAPE's two masks are the same ones?

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
