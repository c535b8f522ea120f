# %% [markdown]
# # Selection
#
# > Which weights stay, layer by layer or in a whole network: what the rest of the project calls

# %%
#| default_exp method.selection

# %%
#| export
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from fairgrape.method.device import Transfers, fair_job, keep_shares
from fairgrape.method.schedule import SCOPES, exact
from fairgrape.method.selectors import keep_count, pieces_left, select_top

# %%
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fairgrape.method.selectors import select_fair_plain, target_share


# %% [markdown]
# A *selector* decides which weights of a layer stay. [Selectors](06_selectors.ipynb) defines the choice in plain loops: `select_top` keeps the most important weights, and `select_fair_plain` keeps every group's share of the importance. How the same mask is computed fast is in [the walk](07_fast.ipynb) and on a GPU in [device](08_device.ipynb).
# This notebook puts the parts together: a selector for one layer, then the choice over all layers of a network.
#
# ## One layer
#
# All selectors have the same signature. `select_fair` returns the mask of the plain loop, faster:

# %%
#| export
def select_fair(
    # Importance of each weight for each group, shape `(G, *weight)`, finite, ≥ 0
    importance: Tensor,
    mask: Tensor,  # True where a weight is left, shape `(*weight)`
    k: int,  # How many to keep, 1 ≤ k ≤ `mask.sum()`
    # The weights, shape `(*weight)`: on equal importance the larger |w| goes first
    weight: Tensor | None = None,
    # Layer number of each entry, shape `(*weight)`, long: each keeps at least one
    layer: Tensor | None = None,
    # Sort where the importance lies; None: wherever that is not the CPU
    on_device: bool | None = None,
    transfers: Transfers | None = None,  # Counts what goes between host and device, if sorted there
) -> Tensor:  # The new mask, True where a weight stays, shape `(*weight)`
    """Keep `k` weights so that every group holds its share of the importance; equal to
    `select_fair_plain`, weight for weight.

    Source: paper, section 3.2 and Algorithm 1. Raises: ValueError"""
    job, put = fair_job(importance, mask, k, weight, layer, on_device, transfers)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return put(keep_shares(job, pool.map))


# %%
importance = torch.tensor([[6.0, 5.0, 1.0], [0.0, 0.0, 2.0]])
everything = torch.ones(3, dtype=torch.bool)
select_fair(importance, everything, k=2), select_fair(importance, everything, k=2, on_device=True)

# %%
assert (
    select_fair(importance, everything, k=2).tolist()
    == select_fair(importance, everything, k=2, on_device=True).tolist()
    == [True, False, True]
)
for wrong in (-importance, importance * float("inf"), importance * float("nan"), importance * 0):
    try:
        select_fair(wrong, everything, k=2)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("importances without shares were shared out")

# %% [markdown]
# Hypothesis looks for a case in which the two differ: random and tied importances, zeros of both signs, denormals, one group, fifty groups, magnitudes from 1e-300 to 1e300, weights already pruned, both scopes, any |w|, sorted on the host and as on a device.

# %%
values = st.one_of(
    st.floats(0, 1e3),
    st.sampled_from([0.0, -0.0, 1.0, 2.0]),
    st.sampled_from([1e-300, 1e-40, 1e-30, 1.0, 1e30, 1e300]),
)


@st.composite
def selections(draw):
    "A layer (or, with `layer`, several at once) with everything that a selector takes"
    groups, n = draw(st.sampled_from([1, 2, 3, 7, 50])), draw(st.integers(2, 30))
    kind = draw(st.sampled_from([torch.float32, torch.float64]))
    rows = torch.tensor(
        draw(st.lists(st.lists(values, min_size=n, max_size=n), min_size=groups, max_size=groups)),
        dtype=torch.float64,
    )
    rows = rows.clamp(max=1e30 if kind == torch.float32 else 1e300).to(kind)
    rows[0, 0] += 1  # a layer without any importance never comes here
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    layer = draw(
        st.sampled_from([None, torch.arange(n) % 3, torch.arange(n) * 2 // n, torch.arange(n) // 2])
    )
    mask[0] = True
    k = draw(st.integers(1 if layer is None else len(layer[mask].unique()), int(mask.sum())))
    weight = draw(
        st.sampled_from(
            [None, torch.ones(n), torch.arange(n) - n / 2.0, (torch.arange(n) % 3).double()]
        )
    )
    return rows, mask, k, weight, layer


@hypothesis_settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(selections(), st.sampled_from([-1.0, 7.0, torch.inf, torch.nan]))
def check_equal_to_the_plain_loop(case, of_the_pruned):
    rows, mask, k, weight, layer = case
    new = select_fair_plain(rows * mask, mask, k, weight, layer)
    # a score of one's own may say anything of a pruned weight
    rows = torch.where(mask, rows, of_the_pruned)
    assert torch.equal(new, select_fair_plain(rows, mask, k, weight, layer))
    for on_device in (False, True):
        assert torch.equal(new, select_fair(rows, mask, k, weight, layer, on_device))
    assert int(new.sum()) == k and not (new & ~mask).any()  # exact count, nested
    # one group: the group-blind choice
    if len(rows) == 1:
        assert torch.equal(new, select_top(rows, mask, k, weight, layer))
    if layer is not None:
        assert set(layer[new].tolist()) == set(layer[mask].tolist())


check_equal_to_the_plain_loop()

# %% [markdown]
# On a larger layer the shares of the kept weights can be compared with their targets:

# %%
torch.manual_seed(0)
big = torch.rand(4, 120, 100) ** 12 * torch.tensor([1.0, 2.0, 3.0, 10.0]).view(4, 1, 1)
there = torch.rand(120, 100) < 0.95
big *= there  # pruned weights have importance 0
kept = select_fair(big, there, k=1200)
blind = select_top(big, there, k=1200)
transfers = Transfers()
print("target     ", [f"{p:.4f}" for p in target_share(big).tolist()])
print("select_fair", [f"{p:.4f}" for p in target_share(big * kept).tolist()])
print("select_top ", [f"{p:.4f}" for p in target_share(big * blind).tolist()])
print(
    torch.equal(kept, select_fair(big, there, 1200, on_device=True, transfers=transfers)),
    transfers,
    f"of {big.nbytes:,} bytes",
)


# %%
def gap(kept):
    return float((target_share(big * kept) - target_share(big)).abs().max())


assert gap(kept) < 1e-3 < 0.1 < gap(blind)
for k in (1200, 9000):
    assert torch.equal(select_fair(big, there, k), select_fair_plain(big, there, k))
assert (
    transfers.to_host <= 9
    and transfers.to_device == 1
    and transfers.host_bytes <= 4 * 1200 * 4 * 5 + 4 * 4 * 1200 + 8 * 9
    and transfers.device_bytes <= 4 * 1200
)

# %% [markdown]
# ## All layers
#
# Layers are independent. `select_fair` works on several at a time, the largest first; a very large layer gets all threads to itself. Any other selector is called for one layer after the other.

# %%
#| export
Select = Callable[..., Tensor]  # (importance, mask, k, weight, layer) → mask


def select_each(
    cases: Mapping[str, tuple],  # Layer name → (importance, mask, k, weight)
    select: Select,  # `select_fair`, `select_top` or one's own
) -> dict[str, Tensor]:  # Layer name → new mask
    "Select in each layer by itself; `select_fair` in several layers at a time."
    if select is not select_fair:
        return {n: select(*case) for n, case in cases.items()}
    names, threads = sorted(cases, key=lambda n: -cases[n][1].numel()), torch.get_num_threads()
    fill = sum(mask.numel() for _, mask, *_ in cases.values()) / threads
    new = {n: select_fair(*cases[n]) for n in names if cases[n][1].numel() > fill}
    with ThreadPoolExecutor(threads) as pool:
        jobs = {n: fair_job(*cases[n]) for n in names if n not in new}
        kept = dict(zip(jobs, pool.map(lambda job: keep_shares(job[0]), jobs.values())))
    return new | {n: put(kept[n]) for n, (_, put) in jobs.items()}


# %%
cases = {
    "one": (importance, everything, 2, torch.ones(3)),
    "two": (importance.flip(1), everything, 2, torch.ones(3)),
}
select_each(cases, select_fair)

# %%
for select in (select_fair, select_top, select_fair_plain):
    assert {n: m.tolist() for n, m in select_each(cases, select).items()} == {
        n: select(*case).tolist() for n, case in cases.items()
    }
assert (
    select_each(cases, select_fair)["two"].tolist() == [True, False, True]
    and select_each({}, select_fair) == {}
)


# %% [markdown]
# ## Layer or global scope
#
# With scope `"layer"` (the paper's) every layer keeps the same fraction. With `"global"` shares and budget are counted over all layers at once, so a layer that
# matters little can lose nearly all of its weights. At 99 % the scope can matter more than the method. It is a setting of every method, and every result names it.
#
# In the global scope every layer keeps at least one weight. A rate that leaves fewer weights than layers is refused before any work, and the error names the largest possible rate.

# %%
#| export
def check_scope(masks: Mapping[str, Tensor], rate, scope: str):
    "Raise ValueError for an unknown scope, or where a global rate would empty a layer"
    if scope not in SCOPES:
        raise ValueError(f"scope = {scope!r}: choose one of {', '.join(SCOPES)}")
    n = sum(m.numel() for m in masks.values())
    if scope == "global" and (1 - exact(rate)) * n < len(masks):
        raise ValueError(
            f"rate {float(exact(rate))} leaves {int((1 - exact(rate)) * n)} of {n} weights for"
            f" {len(masks)} layers, which would empty a layer: choose a rate of at most"
            f" {1 - len(masks) / n:.6f}"
        )


# %%
masks = {n: torch.ones(4, dtype=torch.bool) for n in ("big", "small")}
for rate, scope in ((0.5, "network"), (0.8, "global")):
    try:
        check_scope(masks, rate, scope)
    except ValueError as e:
        print(e)
        assert (
            scope == "network" or "leaves 1 of 8 weights" in str(e) and "at most 0.750000" in str(e)
        )
    else:
        raise AssertionError(f"{rate}, {scope} was accepted")
for rate, scope in ((0.8, "layer"), (0.75, "global"), (0, "global")):
    assert check_scope(masks, rate, scope) is None


# %% [markdown]
# The rate refers to the weights that a layer had originally. If more are gone already, because another method pruned before, the layer keeps what is left. A selector may bring its own `count(n, rate)`, as the [released ones](../methods/03_released.ipynb) do.

# %%
#| export
def _budget(mask: Tensor, rate, count: Callable = keep_count) -> int:
    "How many weights of a layer are to stay: what the rate leaves, or what is left"
    return min(count(mask.numel(), rate), int(mask.sum()))


# %%
print(
    _budget(torch.tensor([True, True, True, False]), 0.5),
    _budget(torch.tensor([True, False, False, False]), 0.5),
)
assert (
    _budget(torch.tensor([True, True, True, False]), 0.5) == 2
    and _budget(torch.tensor([True, False, False, False]), 0.5) == 1
)
assert (
    _budget(torch.tensor([True, True, True, False]), 0.5, count=lambda n, rate: 3 * rate * n // 2)
    == 3
)


# %% [markdown]
# ## Budgets by shape
#
# A third way to divide the budget among the layers lies between the two: scope `"erk"`, the Erdős–Rényi kernel of Evci et al. (*Rigging the Lottery*, 2020, arXiv 1911.11134). A layer keeps a fraction in proportion to the sum of its weight's dimensions, divided by their product. For a convolution with $n_{in}$ and $n_{out}$ channels and a kernel $w \times h$ that is $(n_{in} + n_{out} + w + h)/(n_{in}\, n_{out}\, w\, h)$. Large layers become sparser, small ones stay denser, and no score decides it.
# A layer whose fraction would exceed 1 stays whole, and the others share the rest. The public code (google-research/rigl) does the same. The uniform distribution of that paper is the scope `"layer"`, but that RigL leaves the first layer dense; here no layer is exempt.
#
# The fractions are exact, and a higher rate never gives a layer more, so the masks of later steps lie inside those of earlier ones here too. Each layer's count is rounded down, and at least one weight stays.

# %%
#| export
def erk_counts(
    shapes: Mapping[str, Sequence[int]],  # Layer name → shape of its weight
    rate: float | str | Fraction,  # Pruning rate of the whole network, 0 ≤ rate < 1
) -> dict[str, int]:  # Layer name → weights to keep, at least 1
    "Weights of each layer by the Erdős–Rényi kernel. Source: Evci et al. 2020, section 3."
    sizes = {n: math.prod(shape) for n, shape in shapes.items()}
    budget, whole = (1 - exact(rate)) * sum(sizes.values()), {}
    while True:
        rest = {n: sum(shape) for n, shape in shapes.items() if n not in whole}
        scale = (budget - sum(whole.values())) / sum(rest.values())
        above = {n: sizes[n] for n in rest if scale * rest[n] > sizes[n]}
        if not above:
            break
        whole |= above
    return {n: whole[n] if n in whole else max(1, int(scale * rest[n])) for n in shapes}


# %% [markdown]
# By hand: a Linear layer of 10 × 10 has 100 weights and the sum 20; a convolution of 4 × 4 × 3 × 3 has 144 and the sum 14. At 90 % the budget is 24.4 weights, divided 20 to 14. At 50 %, with a third layer of 1 × 2, the budget is 123. That layer would get 9.97 of 2, so it stays whole, and the others share 121.

# %%
two_layers = {"linear": (10, 10), "conv": (4, 4, 3, 3)}
erk_counts(two_layers, 0.9), erk_counts(two_layers | {"small": (1, 2)}, 0.5)

# %%
# 24.4 · 20/34 = 14.35 and 10.05; then 121 · 20/34 = 71.2 and 49.8
assert erk_counts(two_layers, 0.9) == dict(linear=14, conv=10)
assert erk_counts(two_layers | {"small": (1, 2)}, 0.5) == dict(linear=71, conv=49, small=2)
assert erk_counts(two_layers, 0) == dict(linear=100, conv=144)
assert erk_counts(two_layers, 0.9999) == dict(linear=1, conv=1)
many = {
    "a": (64, 3, 7, 7),
    "b": (64, 64, 3, 3),
    "c": (512, 256, 3, 3),
    "d": (7, 512),
    "e": (8, 1, 3, 3),
}
total, before = sum(math.prod(shape) for shape in many.values()), None
for rate in ("0.1", "0.5", "0.9", "0.99", "0.999"):
    counts = erk_counts(many, rate)
    left = (1 - exact(rate)) * total
    assert left - len(many) < sum(counts.values()) <= left
    assert before is None or all(counts[n] <= before[n] for n in many)
    before = counts


# %% [markdown]
# ## One budget
#
# For the global scope the layers are laid side by side as one long layer, and each entry is labelled with its layer's number. Any selector that takes `layer` works.

# %%
#| export
def _of(tensors: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    "The tensors of some layers, in the order of the names"
    return {n: tensors[n] for n in names}


def select_globally(
    importance: Mapping[str, Tensor],  # Layer name → importance, shape `(G, *weight)`
    masks: Mapping[str, Tensor],  # Layer name → True where a weight is still there
    weights: Mapping[str, Tensor],  # Layer name → weight
    k: int,  # How many to keep in all
    select: Select,  # Called with `layer`
) -> dict[str, Tensor]:  # Layer name → new mask
    """Lay the layers side by side as one long layer with a budget of `k`, select, and cut the
    mask apart again
    """

    def flat(tensors):
        return torch.cat([t.flatten() for t in tensors.values()])

    layer = torch.cat(
        [torch.full((m.numel(),), i, device=m.device) for i, m in enumerate(masks.values())]
    )
    rows = torch.cat([i.flatten(1) for i in importance.values()], 1)
    kept = select(rows, flat(masks), min(k, int(flat(masks).sum())), flat(weights), layer)
    return {
        n: part.view(m.shape)
        for (n, m), part in zip(masks.items(), kept.split([m.numel() for m in masks.values()]))
    }


# %% [markdown]
# Two layers of four weights. The second is a hundred times less important: of three weights it gets only the one that it must have.

# %%
importance = {
    "big": torch.tensor([[9.0, 8.0, 7.0, 1.0]]),
    "small": torch.tensor([[0.04, 0.03, 0.02, 0.01]]),
}
weights = {n: torch.ones(4) for n in importance}
select_globally(importance, masks, weights, k=3, select=select_fair)


# %%
def to_list(masks):
    return {n: m.int().tolist() for n, m in masks.items()}


for select in (select_top, select_fair):
    assert to_list(select_globally(importance, masks, weights, k=3, select=select)) == {
        "big": [1, 1, 0, 0],
        "small": [1, 0, 0, 0],
    }
square = (
    {n: i.view(1, 2, 2) for n, i in importance.items()},
    {n: m.view(2, 2) for n, m in masks.items()},
    {n: w.view(2, 2) for n, w in weights.items()},
)
# no more than there are, in their own shape
assert to_list(select_globally(*square, k=99, select=select_fair)) == {
    n: [[1, 1], [1, 1]] for n in masks
}


# %% [markdown]
# A layer whose importance is all zero or not finite (a dead branch, an overflow) has no shares to preserve. It is pruned by magnitude, and a warning names the layer and, where only some groups are affected, the groups.
# Negative scores are allowed: GraSP's often are, and `select_top` ranks them like any others. The score of a pruned weight is ignored.

# %%
#| export
def group_ranges(
    importance: Tensor,  # Importance of a layer, shape `(G, *weight)`
    # True where a weight is left, shape `(*weight)`; None: all are
    mask: Tensor | None = None,
) -> np.ndarray:  # Smallest and largest of each group, shape `(G, 2)`, float64
    "The range of each group's importance; a pruned weight counts as 0."
    ends = torch.stack(
        [torch.stack(piece.aminmax(dim=1)) for piece in pieces_left(importance, mask)]
    )
    return torch.stack([ends[:, 0].amin(0), ends[:, 1].amax(0)], 1).double().cpu().numpy()


# %%
some = torch.tensor([[torch.nan, -3.0, 2.0], [5.0, 0.0, 0.0]])
first_gone = torch.tensor([False, True, True])
print(group_ranges(some), group_ranges(some, first_gone))
assert (
    group_ranges(some, first_gone).tolist() == [[-3, 2], [0, 0]]
    and group_ranges(some)[1].tolist() == [0, 5]
    and np.isnan(group_ranges(some)[0]).all()
)


# %%
#| export
def fault(
    ranges: np.ndarray,  # A layer's `group_ranges`, shape `(G, 2)`
) -> str:  # "all zero", "not finite …", or nothing
    "What is wrong with a layer's importance, in words."
    broken = np.flatnonzero(~np.isfinite(ranges).all(1)).tolist()
    if broken and len(ranges) > 1:
        return f"not finite for group {', '.join(map(str, broken))}"
    if broken:
        return "not finite"
    return "" if ranges.any() else "all zero"


# %%
layers = {
    (0.0, 1.0): "",
    (0.0, 0.0): "all zero",
    (1.0, torch.nan): "not finite",
    (-torch.inf, 1.0): "not finite",
    (-3.0, 0.0): "",
}
for row, said in layers.items():
    assert fault(group_ranges(torch.tensor([row]))) == said
print(
    [
        fault(group_ranges(torch.tensor(rows)))
        for rows in ([[0.0, 1.0], [0.0, torch.inf], [torch.nan, 0.0]], [[0.0, 1.0], [0.0, 0.0]])
    ]
)
assert (
    fault(group_ranges(torch.tensor([[0.0, 1.0], [0.0, torch.inf], [torch.nan, 0.0]])))
    == "not finite for group 1, 2"
)
assert fault(group_ranges(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))) == ""


# %% [markdown]
# A group may have no importance in any layer. Its target share is then 0, no weight is kept for it, and a warning says so.

# %%
#| export
def _warn_of_faults(ranges: Mapping[str, np.ndarray]):
    "Warn of layers whose importance cannot be used, and of groups that have none in any other"
    faults = {n: fault(r) for n, r in ranges.items() if fault(r)}
    if faults:
        named = ", ".join(f"{n} ({what})" for n, what in faults.items())
        warnings.warn(
            f"the importance cannot be used in {named}: pruned by magnitude there", stacklevel=3
        )
    used = [r.any(1) for n, r in ranges.items() if n not in faults]
    silent = np.flatnonzero(~np.any(used, axis=0)).tolist() if used else []
    if silent:
        named = ", ".join(map(str, silent))
        warnings.warn(
            f"group {named} has no importance in any layer, so no weight is kept for its sake: "
            "look at its images, targets and loss",
            stacklevel=3,
        )


# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    _warn_of_faults(
        {
            "a": group_ranges(torch.tensor([[1.0], [0.0]])),
            "b": group_ranges(torch.tensor([[torch.nan], [2.0]])),
            "c": np.zeros((2, 2)),
        }
    )
    told = [str(w.message) for w in said]
    # each group has some
    _warn_of_faults(
        {
            "a": group_ranges(torch.tensor([[1.0], [0.0]])),
            "b": group_ranges(torch.tensor([[0.0], [2.0]])),
        }
    )
print(*told, sep="\n")
assert (
    len(said) == len(told) == 2
    and "b (not finite for group 0), c (all zero)" in told[0]
    and told[1].startswith("group 1 has no importance")
)


# %% [markdown]
# In the layer scope a layer without importance keeps the same fraction as any other. In the global scope it keeps the one weight that every layer must keep, and the others share the rest of the budget. What they cannot take goes back to it.

# %%
#| export
def _budget_by_magnitude(masks: Mapping[str, Tensor], without: list[str], k: int) -> int:
    """How many of `k` weights layers without importance keep in the global scope: one each, and
    what the others cannot take
    """
    left = {n: int(m.sum()) for n, m in masks.items()}
    others = sum(count for n, count in left.items() if n not in without)
    return max(sum(left[n] > 0 for n in without), min(k, sum(left.values())) - others)


# %%
of_4_2_and_0 = {"a": torch.ones(4) > 0, "b": torch.arange(4) < 2, "c": torch.zeros(4) > 0}
budgets = {k: _budget_by_magnitude(of_4_2_and_0, ["a", "c"], k) for k in (2, 3, 4, 99)}
print(budgets)
assert budgets == {2: 1, 3: 1, 4: 2, 99: 4}  # b takes two at most; c has none left to keep


# %%
#| export
def select_masks(
    importance: Mapping[str, Tensor],  # Layer name → importance, shape `(G, *weight)`
    # Layer name → True where a weight is still there, shape `(*weight)`
    masks: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],  # Layer name → weight, shape `(*weight)`
    rate: float | str | Fraction,  # Cumulative pruning rate, 0 ≤ rate < 1
    # `select_fair`, `select_top` or one's own; its attribute `count` replaces `keep_count`
    select: Select = select_fair,
    # "layer": the same fraction in each; "global": one budget for all; "erk": see `erk_counts`
    scope: str = "layer",
) -> dict[str, Tensor]:  # Layer name → new mask
    """Choose the new masks of all layers; each lies inside the old one.

    Raises: ValueError for an unknown scope, or for a global budget below one weight a layer."""
    check_scope(masks, rate, scope)
    ranges = {n: group_ranges(importance[n], mask) for n, mask in masks.items()}
    _warn_of_faults(ranges)
    dead, rest = [n for n in masks if fault(ranges[n])], [n for n in masks if not fault(ranges[n])]
    magnitude = {n: weights[n].detach().abs()[None] for n in dead}
    count = getattr(select, "count", keep_count)
    if scope != "global":
        k = {n: _budget(mask, rate, count) for n, mask in masks.items()}
        if scope == "erk":
            kept = erk_counts({n: mask.shape for n, mask in masks.items()}, rate)
            k = {n: min(kept[n], int(mask.sum())) for n, mask in masks.items()}
        new = {n: select_top(magnitude[n], masks[n], k[n]) for n in dead}
        new |= select_each({n: (importance[n], masks[n], k[n], weights[n]) for n in rest}, select)
    else:
        k = max(len(masks), count(sum(m.numel() for m in masks.values()), rate))
        few, new = _budget_by_magnitude(masks, dead, k), {n: masks[n] for n in dead}
        if few:
            new = select_globally(magnitude, _of(masks, dead), _of(weights, dead), few, select_top)
        if rest:
            measured, left = _of(importance, rest), _of(masks, rest)
            new |= select_globally(measured, left, _of(weights, rest), k - few, select)
    return {n: new[n] for n in masks}


# %% [markdown]
# The same two layers, half pruned. The layer scope halves both; the global scope leaves the second a single weight.

# %%
for scope in SCOPES:
    print(scope, to_list(select_masks(importance, masks, weights, 0.5, select_top, scope)))

# %%
for select in (select_top, select_fair):
    assert to_list(select_masks(importance, masks, weights, 0.5, select, "layer")) == {
        "big": [1, 1, 0, 0],
        "small": [1, 1, 0, 0],
    }
    assert to_list(select_masks(importance, masks, weights, 0.5, select, "global")) == {
        "big": [1, 1, 1, 0],
        "small": [1, 0, 0, 0],
    }
wide = {"wide": torch.ones(2, 6, dtype=torch.bool), "square": torch.ones(2, 2, dtype=torch.bool)}
scores = {n: torch.arange(float(m.numel())).view(1, *m.shape) for n, m in wide.items()}
# 16 weights, half of them: 8 · 8/12 = 5.3 and 8 · 4/12 = 2.7
for select in (select_top, select_fair):
    by_shape = select_masks(scores, wide, {n: s[0] for n, s in scores.items()}, 0.5, select, "erk")
    assert to_list(by_shape) == {
        "wide": [[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]],
        "square": [[0, 0], [1, 1]],
    }
negative = select_masks(
    {"one": torch.tensor([[-3.0, -1.0, -2.0]])},
    {"one": torch.ones(3) > 0},
    {"one": torch.ones(3)},
    0.5,
    select_top,
)
assert to_list(negative) == {"one": [0, 1, 0]}
with warnings.catch_warnings():
    warnings.simplefilter("error")  # nothing to warn of
    assert list(select_masks(importance, masks, weights, 0)) == ["big", "small"]
try:
    select_masks(importance, masks, weights, 0.8, select_fair, "global")
except ValueError as e:
    print(e)
    assert "empty a layer" in str(e)
else:
    raise AssertionError("a budget below one weight a layer was accepted")

# %% [markdown]
# A layer that no gradient reached: in the layer scope it keeps half, its two largest weights. In the global scope it keeps the largest one, and the other layer gets the rest of the budget.

# %%
unreached = (
    {**importance, "small": torch.zeros(1, 4)},
    masks,
    {**weights, "small": torch.tensor([1.0, -4.0, 2.0, 3.0])},
)
nothing = {n: torch.zeros(1, 4) for n in masks}, *unreached[1:]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    dead = {
        scope: to_list(select_masks(*unreached, 0.5, select_fair, scope))
        for scope in ("layer", "global")
    }
    no_importance = to_list(select_masks(*nothing, 0.5, select_fair, "global"))
print(said[0].message, dead, no_importance, sep="\n")
assert dead == {
    "layer": {"big": [1, 1, 0, 0], "small": [0, 1, 0, 1]},
    "global": {"big": [1, 1, 1, 0], "small": [0, 1, 0, 0]},
}
# nothing but |w| to go by, which is 1, 1, 1, 1 and 1, 4, 2, 3
assert no_importance == {"big": [1, 0, 0, 0], "small": [0, 1, 1, 1]}
assert (
    len(said) == 3
    and "small (all zero)" in str(said[0].message)
    and "big (all zero), small (all zero)" in str(said[2].message)
)


# %% [markdown]
# The fast selector and the plain loop agree here too, with any layers without importance and any budget. At 90 %, one layer of 50 weights and eight of 5 leave nine weights for nine layers: each keeps one.

# %%
@st.composite
def networks(draw):
    "Layers of which some have no importance, and some have lost weights"
    groups = draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    importance = {
        str(i): torch.from_numpy(random.exponential(size=(groups, n)) ** 4)
        for i, n in enumerate(sizes)
    }
    weights = {n: torch.from_numpy(random.normal(size=i.shape[1])) for n, i in importance.items()}
    masks = {n: torch.from_numpy(random.random(i.shape[1]) < 0.8) for n, i in importance.items()}
    for n in draw(st.lists(st.sampled_from(sorted(importance)), unique=True)):
        importance[n][-1] = draw(st.sampled_from([torch.nan, torch.inf]))
    for n in draw(st.lists(st.sampled_from(sorted(importance)), unique=True)):
        importance[n][:] = 0
    for mask in masks.values():
        mask[0] = True
    return importance, masks, weights, draw(st.sampled_from([0, 0.1, 0.5, 0.75, 0.9]))


@hypothesis_settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(networks())
def check_layers_without_importance(case):
    importance, masks, weights, rate = case
    n, left = (sum(int(of(m)) for m in masks.values()) for of in (torch.numel, torch.sum))
    if (1 - exact(rate)) * n < len(masks):
        return  # refused: see `check_scope`
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        new, plain = (
            select_masks(*case, select, "global") for select in (select_fair, select_fair_plain)
        )
    assert to_list(new) == to_list(plain)
    assert sum(int(m.sum()) for m in new.values()) == min(left, keep_count(n, rate))
    dead = [name for name, rows in importance.items() if fault(group_ranges(rows, masks[name]))]
    full = all(torch.equal(new[name], masks[name]) for name in masks if name not in dead)
    for name, mask in new.items():
        assert mask.any() and not (mask & ~masks[name]).any()
        if name in dead:
            assert mask[(weights[name].abs() * masks[name]).argmax()] and (
                full or int(mask.sum()) == 1
            )


check_layers_without_importance()

# %%
sizes = {str(i): 50 if i == 0 else 5 for i in range(9)}
weights = {n: torch.arange(float(size)) for n, size in sizes.items()}
importance = {n: torch.zeros(1, 50) if n == "0" else w[None] + 1 for n, w in weights.items()}
for select in (select_fair, select_fair_plain, select_top):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        new = select_masks(
            importance, {n: w >= 0 for n, w in weights.items()}, weights, 0.9, select, "global"
        )
    assert [m.nonzero().flatten().tolist() for m in new.values()] == [[49]] + [[4]] * 8
new["0"].nonzero(), new["8"]
