# %% [markdown]
# # The frontier
#
# > Every group's loss at every pruning rate: the highest rate that passes, and who breaks first

# %%
#| default_exp judge.frontier

# %%
#| export
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from fastcore.basics import patch
from scipy import sparse

from fairgrape.judge.disparity import group_codes, same_images
from fairgrape.judge.gate import smallest_errors, unit_codes, verdict_of
from fairgrape.judge.resampling import resampled_sums, units_of
from fairgrape.judge.tables import check_groups

# %%
from fairgrape.judge.gate import gate


# %% [markdown]
# The [gate](08_gate.ipynb) answers for one network. An iterative run visits many rates on its way, and the question becomes: which is the highest rate that every group survives? All of them are judged on the same images, so their intervals hold together over all groups *and* all rates: with 4 groups and 6 rates that is one statement about 24 changes.
#
# ## One statement about all groups and rates
#
# The images, or whole persons, are drawn again once for all rates.

# %%
#| export
def rate_noise(
    diff: np.ndarray,  # Right after − right before at each rate, −1 … 1, shape `(R, n)`
    groups: np.ndarray,  # Group code of each image, shape `(n,)`
    G: int,  # Number of groups
    units: np.ndarray | None = None,  # Person on each image, shape `(n,)`; None: each image alone
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the draws
    # Change (points), shape `(R, G)`; resampled less observed, shape `(B, R, G)`
) -> tuple[np.ndarray, np.ndarray]:
    "Change of each group's accuracy at each rate, and its noise from the same draws."
    R, n = diff.shape
    image = np.tile(np.arange(n), R + 1)
    column = np.repeat(np.arange(R + 1) * G, n) + np.tile(groups, R + 1)
    values = np.concatenate([diff.ravel(), np.ones(n)])
    columns = sparse.csr_array((values, (image, column)), shape=(n, (R + 1) * G))
    drawn = resampled_sums(columns, units, groups, B, seed).reshape(B, R + 1, G)
    sums = columns.sum(axis=0).reshape(R + 1, G)
    with np.errstate(invalid="ignore"):
        delta, moved = (100 * s[..., :-1, :] / s[..., -1:, :] for s in (sums, drawn))
    return delta, np.nan_to_num(moved - delta)


# %%
# two groups of 2 images; group 0 loses one of them at the second rate, group 1 wins one
diff = np.array([[0, 0, 0, 0], [-1, 0, 1, 0.0]])
delta, noise = rate_noise(diff, np.array([0, 0, 1, 1]), 2, B=1000)
delta, np.unique(noise[:, 1, 0])

# %%
assert delta.tolist() == [[0, 0], [-50, 50]] and not noise[:, 0].any()
# drawn 0, 1 or 2 times: −100, −50 or 0 points
assert set(np.unique(noise[:, 1, 0])) == {-50, 0, 50}
alone = rate_noise(diff[1:], np.array([0, 0, 1, 1]), 2, B=1000)[1]
assert np.array_equal(alone[:, 0], noise[:, 1])  # the same draws for every rate
both = rate_noise(diff, np.array([0, 0, 1, 1]), 2, np.array([7, 7, 8, 8]), B=50)[1]
assert not both.any()  # a group of one person is always drawn whole


# %% [markdown]
# ## The record

# %%
#| export
@dataclass(frozen=True)
class Frontier:
    "Every group's change of accuracy at every rate."

    # Index rate, group; columns n, units, delta, low, high (points); the intervals hold together
    table: pd.DataFrame
    level: float  # Coverage of all intervals together
    per: str = "images"  # What a unit is


def frontier(
    before: np.ndarray,  # Was the dense network right? 0 … 1 (mean over heads), shape `(n,)`
    after: Mapping[float, np.ndarray],  # Pruning rate → the same for the pruned network
    groups: np.ndarray,  # Group of each image, shape `(n,)`: codes, or names
    names: list[str],  # Name of each group
    units: np.ndarray | None = None,  # Person on each image, shape `(n,)`; None: each image alone
    level: float = 0.95,  # Coverage of all intervals together
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the draws
) -> Frontier:
    """Judge networks of several pruning rates on the same images.

    For several training seeds, give the means over the seeds in place of 0 and 1.
    Raises: ValueError for no rate, a rate that is none, arrays that do not fit, fewer than two
    groups, a group without an image.
    """
    wrong = [rate for rate in after if not 0 < rate < 1]
    if wrong or not after:
        raise ValueError(
            f"{wrong[0] if wrong else 'no rate'}: give pruning rates above 0 and below 1"
        )
    rates = sorted(after)
    given = {} if units is None else dict(units=units)
    for rate in rates:
        same_images(before=before, after=after[rate], groups=groups, **given)
    n, codes = check_groups(groups, names, least=1), group_codes(groups, names)
    units = None if units is None else unit_codes(units)
    diff = np.stack([np.asarray(after[rate], float) - np.asarray(before, float) for rate in rates])
    delta, noise = rate_noise(diff, codes, len(names), units, B, seed)
    errors = np.concatenate([smallest_errors(row, codes, units) for row in diff])
    count = None if units is None else np.tile(units_of(units, codes, len(names)), len(rates))
    cells = pd.MultiIndex.from_product([rates, names], names=["rate", "group"])
    words = [f"{group} at {rate}" for rate, group in cells]
    found = verdict_of(
        delta.ravel(),
        noise.reshape(B, -1),
        errors,
        words,
        np.tile(n, len(rates)),
        count,
        level=level,
    )
    table = found.table[["n", "units", "delta", "low", "high"]].set_index(cells)
    return Frontier(table, level, found.per)


# %% [markdown]
# An example: two groups, 400 and 100 images. Group b loses 1, 4 and 20 of its images, group a none, 2 and 8.

# %%
rng = np.random.default_rng(0)
groups = np.repeat(["a", "b"], [400, 100])
before = np.ones(500)


def losing(a, b):
    after = before.copy()
    after[:a], after[400 : 400 + b] = 0, 0
    return after


after = {0.5: losing(0, 1), 0.9: losing(2, 4), 0.99: losing(8, 20)}
found = frontier(before, after, groups, ["a", "b"])
found.table.round(1)

# %%
assert found.table.delta.tolist() == [0, -1, -0.5, -4, -2, -20]
# wider than the gate's for one rate, because they hold for all rates together
one = gate(before, after[0.99], groups, ["a", "b"]).table
wide, narrow = (t.high - t.low for t in (found.table.loc[0.99], one))
assert (wide > narrow).all()
for wrong, hint in [
    (dict(after={}), "no rate"),
    (dict(after={1.0: before}), "1.0"),
    (dict(after={0.5: before[1:]}), "499"),
    (dict(names=["a"]), "two groups or more"),
]:
    try:
        frontier(**(dict(before=before, after=after, groups=groups, names=["a", "b"]) | wrong))
    except ValueError as e:
        print(e)
        assert hint in str(e)
    else:
        raise AssertionError("invalid values were accepted")


# %% [markdown]
# ## The worst group
#
# At each rate the group that loses most, and a band for what the worst group may have lost. If all intervals hold, the largest of their ends bound the largest loss.

# %%
#| export
@patch(as_prop=True)
def worst(self: Frontier) -> pd.DataFrame:
    "Index rate: the worst group's loss (points, positive) with its band, and its name."
    t = -self.table[["delta", "high", "low"]].set_axis(["loss", "low", "high"], axis=1)
    by_rate = t.groupby(level="rate")
    return by_rate.max().assign(group=[cell[1] for cell in by_rate["loss"].idxmax()])


# %%
found.worst.round(1)

# %%
assert found.worst.loss.tolist() == [1, 4, 20] and found.worst.group.tolist() == ["b"] * 3
assert (found.worst.low <= found.worst.loss).all() and (found.worst.high >= found.worst.loss).all()

# %% [markdown]
# ## The highest rate that passes
#
# Two rules. *Observed*: no group of these images loses more than the tolerance. *Shown*: the band says so, too. With a few hundred validation images of each group nothing can be shown for 2 points, so a proposal goes by what was observed. It is only a proposal: choosing the best of many rates by the same images is optimistic, and the network is judged once more, on images that had no part in the choice.

# %%
#| export
RULES = dict(observed="loss", shown="high")  # rule → the column of `worst` that keeps the tolerance


@patch
def highest(
    self: Frontier,
    tolerance: float = 2.0,  # Points that a group may lose
    rule: str = "observed",  # 'observed' or 'shown'
) -> float | None:  # The rate; None: none passes
    "The highest rate at which every group keeps the tolerance. Raises: ValueError for a rule."
    if rule not in RULES:
        raise ValueError(f"rule = {rule!r}: choose one of {', '.join(RULES)}")
    passing = self.worst[self.worst[RULES[rule]] <= tolerance]
    return None if passing.empty else float(passing.index[-1])


@patch
def first_to_break(
    self: Frontier,
    tolerance: float = 2.0,  # Points that a group may lose
) -> tuple[float, str, bool] | None:  # Rate, group, and whether the band shows it; None: no group
    "The lowest rate at which a group was observed to lose more than the tolerance."
    broken = self.worst[self.worst.loss > tolerance]
    if broken.empty:
        return None
    row = broken.iloc[0]
    return float(broken.index[0]), row.group, bool(row.low > tolerance)


# %%
for tolerance in (0.5, 2, 5, 25):
    print(tolerance, found.highest(tolerance), found.first_to_break(tolerance))

# %%
assert [found.highest(t) for t in (0.5, 2, 5, 25)] == [None, 0.5, 0.9, 0.99]
assert found.first_to_break(2)[:2] == (0.9, "b") and found.first_to_break(25) is None
# b has lost 4 of 100: too few images to show more than 2 points; 20 of 100 show more than 5
assert [found.first_to_break(t)[2] for t in (2, 5)] == [False, True]
assert found.highest(2, "shown") is None and found.highest(40, "shown") == 0.99
try:
    found.highest(2, "surely")
except ValueError as e:
    print(e)
else:
    raise AssertionError("an unknown rule was accepted")


# %% [markdown]
# ## Bisection
#
# The rates between two steps are not visited. The thorough form makes whole runs: it halves the interval between a rate that passes and one that does not, on the scale of the fraction that is kept, since 0.98 and 0.99 differ by a factor of two in size and 0.5 and 0.51 hardly at all.

# %%
#| export
def bisect(
    passes: Callable[[float], bool],  # Whether a rate passes; one whole run each
    low: float,  # A rate that passes; 0: the dense network
    high: float,  # A higher rate that does not pass
    ratio: float = 1.25,  # Stop when the sizes at both ends differ by no more than this factor
) -> float:  # The highest rate found that passes
    "The highest rate that passes, by halving. Raises: ValueError for ends that cannot be."
    if not 0 <= low < high < 1 or not ratio > 1:
        raise ValueError(
            f"low = {low}, high = {high}, ratio = {ratio}: give 0 ≤ low < high < 1 and a ratio"
            " above 1"
        )
    while (1 - low) / (1 - high) > ratio:
        middle = round(1 - float(np.sqrt((1 - low) * (1 - high))), 4)
        if not low < middle < high:
            break
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


# %%
tried = []


def below_ninety(rate):
    tried.append(rate)
    return rate <= 0.9


bisect(below_ninety, 0.5, 0.98), tried

# %%
# kept 0.5 … 0.02: √0.01 = 0.1; √(0.1 · 0.02) = 0.0447; √(0.1 · 0.0447) = 0.0669; 0.0818 ends it
assert tried == [0.9, 0.9553, 0.9331, 0.9182]
assert bisect(below_ninety, 0.5, 0.98) == 0.9
assert bisect(lambda rate: False, 0, 0.5, ratio=1.5) == 0
assert bisect(lambda rate: True, 0.9998, 0.9999) == 0.9998  # no rate of four digits between
for wrong in (dict(low=0.9, high=0.5), dict(low=-0.1), dict(high=1), dict(ratio=1)):
    try:
        bisect(below_ninety, **(dict(low=0.5, high=0.9) | wrong))
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("impossible ends were accepted")
