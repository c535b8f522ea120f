# %% [markdown]
# # Audit
#
# > One table of predictions in; who paid, how surely, and which images it was

# %%
#| default_exp judge.audit

# %%
#| export
from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import norm

from fairgrape.judge.compare import (
    _both_rates,
    _collapse_sentences,
    _records,
    collapse_table,
)
from fairgrape.judge.disparity import (
    DISPARITIES,
    disparity,
    disparity_interval,
    noise_floor,
)
from fairgrape.judge.measures import measure_table, probability_table
from fairgrape.judge.predictions import Predictions
from fairgrape.judge.resampling import delta_noise, units_of
from fairgrape.judge.tables import RESERVED, unmeasured

# %%
from time import process_time

from fairgrape.judge.predictions import predictions_of

# %% [markdown]
# An audit compares a model with the one it was made from: pruned with dense, quantised with float, distilled with its teacher. It needs no run of this project, only [a table of predictions](04_predictions.ipynb). This notebook puts the parts together and adds five questions that a table of accuracies leaves open: did predictions change where accuracy did not; which images are lost; what can be said of a small group; how many images would settle it; and how large would the disparity be if the groups had been drawn at random?
#
# ## Groupings
#
# Each group column is a grouping, and so is each pair of columns: a network that treats men and women alike, and light and dark alike, can still fail dark-skinned women (Buolamwini and Gebru 2018).

# %%
#| export
MOST_GROUPS = 60


def groupings_of(
    groups: pd.DataFrame,  # A column of group names for each grouping, n rows
    intersections: bool = True,  # Form the pairs of columns too
    # Grouping → group code of each image, shape `(n,)`, and the names of the groups
) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Every column, and every pair of columns as `one × other`.

    Raises: ValueError for a grouping with one group, more than 60 groups, or a reserved name."""
    found = {}
    columns = {name: groups[name].astype(str) for name in groups}
    if intersections:
        for one, other in combinations(list(columns), 2):
            columns[f"{one} × {other}"] = (
                groups[one].astype(str) + " × " + groups[other].astype(str)
            )
    for name, values in columns.items():
        codes, names = pd.factorize(values, sort=True)
        if len(names) < 2:
            raise ValueError(
                f"grouping {name} has one group only, {names[0]}: an audit compares groups; name"
                " another column"
            )
        if len(names) > MOST_GROUPS:
            raise ValueError(
                f"grouping {name} has {len(names)} groups, more than {MOST_GROUPS}: merge groups,"
                " name other columns, or leave out the intersections"
            )
        if {*names} & {*RESERVED}:
            raise ValueError(
                f"grouping {name} has a group called {', '.join(sorted({*names} & {*RESERVED}))}:"
                " rename it, that word has another meaning in the tables"
            )
        found[name] = codes, list(names)
    return found


# %%
people = pd.DataFrame(dict(gender=["f", "m", "f", "m"], age=["old", "old", "young", "young"]))
groupings_of(people)

# %%
found = groupings_of(people)
assert list(found) == ["gender", "age", "gender × age"]
assert found["gender"][0].tolist() == [0, 1, 0, 1] and found["gender"][1] == ["f", "m"]
assert found["gender × age"][1] == ["f × old", "f × young", "m × old", "m × young"]
assert list(groupings_of(people, intersections=False)) == ["gender", "age"]
for wrong, part in (
    (people[["gender"]].replace("m", "f"), "one group only"),
    (people.replace("m", "all"), "called all"),
    (pd.DataFrame(dict(id=range(61))), "61 groups"),
):
    try:
        groupings_of(wrong)
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"accepted: {part}")


# %% [markdown]
# ## Small groups
#
# A group of 40 images may lose 10 points by chance. It is shown all the same, with three figures beside the raw one: its interval, its *partially pooled* change, and the number of images that would settle the matter.
#
# **Partial pooling** (empirical Bayes) takes the groups' true changes for draws from a normal distribution with mean μ and variance τ². Each observed change is drawn towards μ, the more the noisier it is: pooled = μ + w (Δ − μ) with w = τ² / (τ² + se²). τ² is estimated by the method of moments (DerSimonian and Laird 1986); where the groups differ by no more than their noise explains, τ² = 0 and all are drawn to the common mean. The interval takes τ as known and is a little too narrow where there are few groups. The raw figure stays the headline: pooling answers "what is this group's change most likely to be", not "may this group have been harmed".

# %%
#| export
def pooled(
    delta: np.ndarray,  # Change of each group (points), shape `(G,)`
    se: np.ndarray,  # Its standard error (points), shape `(G,)`
    level: float = 0.95,  # Coverage of the intervals
) -> pd.DataFrame:  # A row per group: pooled, pooled_low, pooled_high (points)
    "Changes drawn towards their common mean. Source: DerSimonian and Laird 1986."
    w = 1 / np.maximum(se, 1e-9) ** 2
    center = (w * delta).sum() / w.sum()
    excess = (w * (delta - center) ** 2).sum() - (len(delta) - 1)
    tau2 = max(0.0, excess / (w.sum() - (w**2).sum() / w.sum()))
    v = 1 / (tau2 + 1 / w)
    mean = (v * delta).sum() / v.sum()
    own = tau2 * v
    estimate = mean + own * (delta - mean)
    spread = np.sqrt(own / w + (1 - own) ** 2 / v.sum())
    half = norm.ppf((1 + level) / 2) * spread
    return pd.DataFrame(
        dict(pooled=estimate, pooled_low=estimate - half, pooled_high=estimate + half)
    )


# %%
pooled(np.array([-2.0, -3.0, -2.5, -12.0]), np.array([0.5, 0.5, 0.5, 5.0])).round(2)

# %% [markdown]
# By hand: two groups with se 1 and changes −1 and −5. μ = −3, Q = 4 + 4 = 8, so τ² = (8 − 1) / (2 − 1) = 7 and w = 7/8: −3 ± 2 · 7/8 gives −1.25 and −4.75.

# %%
assert np.allclose(pooled(np.array([-1.0, -5]), np.ones(2)).pooled, [-1.25, -4.75])
alike = pooled(np.array([-1.0, -1.2, -0.9]), np.ones(3))
assert np.allclose(alike.pooled, np.mean([-1.0, -1.2, -0.9]))  # τ² = 0: one common mean
apart = pooled(np.array([0.0, -40]), np.ones(2)).pooled
assert np.allclose(apart, [0, -40], atol=0.1)  # far apart: nothing is pooled


# %% [markdown]
# **Images needed** to find a change of d points with 80 % power in a two-sided test at 95 %: n = (1.96 + 0.84)² σ² / d², where σ² is the variance of an image's difference in the group. Of few images σ² is known badly, so one gained and one lost image are added before it is taken. With persons, n counts images of as many persons as there are now: the variance is the one that the resamples show.

# %%
#| export
def images_needed(
    variance: np.ndarray,  # Variance of an image's difference (points²), shape `(...)`
    points: float = 2.0,  # The change to be found (points)
    power: float = 0.8,  # Probability to find it
    level: float = 0.95,  # Level of the test
) -> np.ndarray:  # Number of images, shape `(...)`
    "Images that a group needs for a change to be found."
    z = norm.ppf((1 + level) / 2) + norm.ppf(power)
    return np.ceil(z**2 * np.asarray(variance) / points**2).astype(int)


# %%
images_needed(100**2 * 0.1, points=2)

# %%
assert images_needed(100**2 * 0.1, 2) == np.ceil((1.959964 + 0.841621) ** 2 * 1000 / 4)
assert images_needed(100**2 * 0.1, 1) > 3.9 * images_needed(100**2 * 0.1, 2)
rng = np.random.default_rng(0)
n = int(images_needed(100**2 * 0.1, 4))
draws = rng.choice([-1, 0, 1], (4000, n), p=[0.07, 0.9, 0.03])  # a true loss of 4 points
z = draws.mean(axis=1) / (draws.std(axis=1) / n**0.5)
print(f"{n} images find a loss of 4 points in {100 * (z < -1.96).mean():.0f} % of test sets")
assert 0.77 < (z < -1.96).mean() < 0.83


# %%
#| export
def change_table(
    right_before: np.ndarray,  # Share of heads right, 0 … 1, shape `(n,)`
    right_after: np.ndarray,  # Share of heads right, 0 … 1, shape `(n,)`
    groups: np.ndarray,  # Group code of each image, shape `(n,)`
    names: list[str],  # Name of each group
    units: np.ndarray | None,  # Person of each image, shape `(n,)`; None: every image
    delta: np.ndarray,  # As `delta_noise` gives it, shape `(G + 1,)`
    noise: np.ndarray,  # As `delta_noise` gives it, shape `(B, G + 1)`
    points: float = 2.0,  # The change to be found (points)
    small: int = 50,  # Groups with fewer images are marked
    level: float = 0.95,  # Coverage of the intervals
    # A row per group, last `all`: n, units, before, after, change, low, high, pooled with ends,
    # needed, small
) -> pd.DataFrame:
    "Accuracy of each group before and after, with what can be said of small groups."
    G = len(names)
    n = np.bincount(groups, minlength=G)
    units_in = units_of(units, groups, G)
    sizes = np.append(n, n.sum())
    table = pd.DataFrame(
        {
            "group": [*names, "all"],
            "n": sizes,
            "units": np.append(units_in, len(groups) if units is None else len(np.unique(units))),
        }
    )
    for name, right in (("before", right_before), ("after", right_after)):
        sums = np.bincount(groups, right, minlength=G)
        table[name] = 100 * np.append(sums, sums.sum()) / sizes
    table["change"] = delta
    tails = [(1 - level) / 2, (1 + level) / 2]
    table["low"], table["high"] = delta + np.quantile(noise, tails, axis=0)
    table.loc[table.units < 2, ["low", "high"]] = np.nan
    # one image gained and one lost beside those that were seen
    smooth = 100**2 * 2 / (sizes + 2)
    variance = np.maximum(noise.var(axis=0) * sizes, smooth)
    se = np.sqrt(variance / sizes)
    table[["pooled", "pooled_low", "pooled_high"]] = np.nan
    own = pooled(delta[:-1], se[:-1], level)
    table.loc[: G - 1, list(own)] = own.to_numpy()
    return table.assign(needed=images_needed(variance, points), small=sizes < small)


# %%
diff = np.array([0, 0, 0, -1, 0, 0, -1, -1.0])
groups = np.array([0, 0, 0, 0, 0, 1, 1, 1])
delta, noise = delta_noise(diff, groups, 2)
example = change_table(
    np.array([1, 1, 1, 1, 0, 1, 1, 1.0]),
    np.array([1, 1, 1, 0, 0, 1, 0, 0.0]),
    groups,
    ["tone-1", "tone-2"],
    None,
    delta,
    noise,
)
example.round(1)

# %%
assert example.n.tolist() == [5, 3, 8] and example.units.tolist() == [5, 3, 8]
assert np.allclose(example.before, [80, 100, 87.5]) and np.allclose(example.change, delta)
assert example.small.all() and example.pooled.isna().tolist() == [False, False, True]
assert example.pooled[0] < example.change[0] and example.pooled[1] > example.change[1]


# %% [markdown]
# ## A placebo
#
# The same disparity for random groups of the same sizes: shuffle the images over the groups (whole persons stay together), 200 times. If the observed ρ lies among the values of such groups, the grouping explains nothing that chance does not.

# %%
#| export
def placebo(
    diff: np.ndarray,  # Right after − right before, shape `(n,)`
    groups: np.ndarray,  # Group code of each image, shape `(n,)`
    G: int,  # Number of groups
    units: np.ndarray | None = None,  # Person of each image, shape `(n,)`; None: every image
    draws: int = 200,  # Number of random groupings
    seed: int = 0,  # Seed of the draws
) -> np.ndarray:  # Change of each random group (points), shape `(draws, G)`
    "Changes of random groups of the same sizes."
    rng, n = np.random.default_rng(seed), len(groups)
    unit = np.arange(n) if units is None else pd.factorize(np.asarray(units))[0]
    sizes = np.bincount(groups, minlength=G)
    ends = np.cumsum(sizes)
    changes = np.empty((draws, G))
    for i in range(draws):
        order = np.argsort(rng.permutation(unit.max() + 1)[unit], kind="stable")
        sums = np.append(0, np.cumsum(diff[order]))[np.append(0, ends)]
        changes[i] = 100 * np.diff(sums) / sizes
    return changes


# %%
rng = np.random.default_rng(0)
who = np.repeat([0, 1, 2], [600, 300, 100])
true = -(rng.random(1000) < np.where(who == 2, 0.3, 0.05)).astype(float)
random_groups = placebo(true, who, 3)
rho = disparity(delta_noise(true, who, 3)[0][:-1])
print(f"observed {rho:.1f}; 200 random groupings: at most {disparity(random_groups).max():.1f}")

# %%
assert random_groups.shape == (200, 3) and rho > disparity(random_groups).max()
assert np.allclose(random_groups @ [600, 300, 100], 100 * true.sum())
assert (random_groups == placebo(true, who, 3)).all()
# 25 persons of 40 images who are lost or kept as a whole: random groups differ far more
persons = np.arange(1000) // 40
whole = -(np.isin(persons, [3, 11, 19])).astype(float)
spread = [disparity(placebo(whole, who, 3, u)).mean() for u in (None, persons)]
assert spread[1] > 2 * spread[0]


# %% [markdown]
# ## Churn
#
# Two models of the same accuracy may disagree on many images, and whoever was answered right yesterday and wrong today does not care about the mean. Churn is the share of answers that changed, in three parts: right to wrong (*lost*), wrong to right (*won*) and wrong to another wrong (*other*).

# %%
#| export
def churn_table(
    labels: np.ndarray,  # Class codes, shape `(n, heads)`
    before: np.ndarray,  # Predicted class codes, shape `(n, heads)`
    after: np.ndarray,  # Predicted class codes, shape `(n, heads)`
    groups: np.ndarray,  # Group code of each image, shape `(n,)`
    names: list[str],  # Name of each group
) -> pd.DataFrame:  # A row per group, last `all`: n, changed, lost, won, other (percent of answers)
    "How many predictions changed, and how."
    G, heads = len(names), labels.shape[1]
    n = np.bincount(groups, minlength=G)
    sizes = np.append(n, n.sum())
    table = pd.DataFrame({"group": [*names, "all"], "n": sizes})

    def share(changed: np.ndarray) -> np.ndarray:
        sums = np.bincount(groups, changed.sum(axis=1), minlength=G)
        return 100 * np.append(sums, sums.sum()) / (sizes * heads)

    was, now = before == labels, after == labels
    table["changed"] = share(before != after)
    table["lost"], table["won"] = share(was & ~now), share(~was & now)
    table["other"] = share(~was & ~now & (before != after))
    return table


# %%
y = np.array([0, 0, 1, 1, 2, 2])[:, None]
was = np.array([0, 0, 1, 0, 1, 0])[:, None]
now = np.array([0, 1, 1, 1, 0, 0])[:, None]
churn_table(y, was, now, np.array([0, 0, 0, 1, 1, 1]), ["a", "b"]).round(1)

# %%
moved = churn_table(y, was, now, np.array([0, 0, 0, 1, 1, 1]), ["a", "b"])
assert np.allclose(moved.changed, [100 / 3, 200 / 3, 50])
assert np.allclose(moved.lost, [100 / 3, 0, 100 / 6]) and np.allclose(moved.won[1], 100 / 3)
assert np.allclose(moved.other, [0, 100 / 3, 100 / 6])


# %% [markdown]
# ## Whose images are lost
#
# Some images are lost by most pruned networks, whatever their seed (Hooker et al. 2019 call them pruning-identified exemplars). They are listed by id, never shown, with their groups: the person with the data can look at them.

# %%
#| export
def lost_images(
    p: Predictions,  # The first model is the one before; one or more after
) -> pd.DataFrame:  # id, row, head, the group columns, wrong (how many later models)
    "Images that the first model gets right and more than half of the others get wrong."
    first, *later = p.predicted
    wrong = sum((p.predicted[m] != p.labels).astype(np.int16) for m in later)
    rows, heads = np.nonzero((p.predicted[first] == p.labels) & (wrong > len(later) / 2))
    named = np.array(list(p.classes))[heads]
    table = p.groups.iloc[rows].reset_index(drop=True)
    table.insert(0, "row", rows)
    table.insert(0, "id", p.ids[rows])
    table.insert(2, "head", named)
    return table.assign(wrong=wrong[rows, heads])


# %%
six = pd.DataFrame(
    {
        "id": [f"{i}.png" for i in range(6)],
        "label": ["x", "x", "y", "y", "y", "x"],
        "dense": ["x", "x", "y", "y", "x", "y"],
        "seed0": ["x", "y", "y", "x", "x", "y"],
        "seed1": ["x", "y", "x", "x", "y", "x"],
        "tone": ["light", "dark", "light", "dark", "dark", "light"],
    }
)
given = predictions_of(six, models=["dense", "seed0", "seed1"], groups=["tone"])
lost_images(given)

# %%
assert lost_images(given).id.tolist() == ["1.png", "3.png"]  # 2.png is lost by one of two only
assert lost_images(given).tone.tolist() == ["dark", "dark"]


# %% [markdown]
# Whose they are: each group's share of the lost images beside its share of all images. A factor of 2 means that an image of this group is lost twice as often as an image of the test set.

# %%
#| export
def lost_by_group(
    lost: pd.DataFrame,  # As `lost_images`
    groups: pd.DataFrame,  # The group columns of all images
    intersections: bool = True,  # The pairs of columns too
) -> pd.DataFrame:  # A row per grouping and group: n, lost, percent (lost of n), factor
    "How many images of each group are lost, each image counted once."
    gone = np.zeros(len(groups))
    gone[lost.row.unique()] = 1
    rows = []
    for grouping, (codes, names) in groupings_of(groups, intersections).items():
        n = np.bincount(codes, minlength=len(names))
        count = np.bincount(codes, gone, minlength=len(names)).astype(int)
        table = pd.DataFrame(dict(grouping=grouping, group=names, n=n, lost=count))
        rows.append(table.assign(percent=100 * count / n))
    table = pd.concat(rows, ignore_index=True)
    overall = 100 * gone.mean()
    return table.assign(factor=table.percent / overall if overall else np.nan)


# %%
lost_by_group(lost_images(given), given.groups)

# %%
whose = lost_by_group(lost_images(given), given.groups).set_index("group")
assert whose.lost.tolist() == [2, 0] and whose.n.tolist() == [3, 3]
assert np.allclose(whose.factor, [2, 0])  # 2 of 3 against 2 of 6


# %% [markdown]
# ## The audit
#
# Everything at once, for each later model and each grouping.

# %%
#| export
@dataclass(frozen=True)
class Audit:
    "What an audit found; accuracies in percent, changes in points"

    about: dict  # images, units, models, heads, groupings, and the settings
    groups: pd.DataFrame  # Change of accuracy: model, grouping, and as `change_table`
    disparities: pd.DataFrame  # model, grouping, measure, value, low, high, floor_mean, floor_95,
    # placebo (percent of random groupings with at least this disparity)
    measures: pd.DataFrame  # model, grouping, head, and as `measure_table`, `probability_table`
    churn: pd.DataFrame  # model, grouping, and as `churn_table`
    heads: (
        pd.DataFrame
    )  # model, head, network, classes, never, accuracy, commonest, share, no_better
    lost: pd.DataFrame  # As `lost_images`; not part of `to_dict`
    whose: pd.DataFrame  # As `lost_by_group`
    notes: tuple[str, ...]  # What cannot be measured or must be known, in sentences

    def to_dict(self) -> dict:
        "Plain values, ready for JSON, without the list of lost images; NaN becomes None."
        found = dict(about=self.about)
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, pd.DataFrame) and f.name != "lost":
                found[f.name] = [
                    {k: v for k, v in row.items() if k != "index"}
                    for row in _records(value.reset_index(drop=True))
                ]
        return found | dict(notes=list(self.notes))


# %% [markdown]
# Each model's answers are held against always naming the commonest class, head by head, as [a run's are](03_compare.ipynb).

# %%
#| export
def heads_table(
    p: Predictions,  # The models
    later: str,  # The model that is compared with the first
) -> pd.DataFrame:  # As `collapse_table`; `network` is a model's name
    "Every head of two models beside the commonest class."
    first, nobody = next(iter(p.predicted)), np.zeros(len(p.ids), np.int64)
    of_head = {
        head: _both_rates(
            p.labels[:, h], p.predicted[first][:, h], p.predicted[later][:, h], nobody, of, ["one"]
        )
        for h, (head, of) in enumerate(p.classes.items())
    }
    table = collapse_table(_records(pd.concat(of_head, names=["head"])))
    return table.assign(network=table.network.map(dict(dense=first, pruned=later)))


# %%
heads_table(given, "seed0")

# %%
assert heads_table(given, "seed0").accuracy.round(1).tolist() == [66.7, 33.3]
assert heads_table(given, "seed0").network.tolist() == ["dense", "seed0"]


# %% [markdown]
# Three figures of disparity, each with its interval, its floor and its place among random groupings.

# %%
#| export
def disparity_rows(
    delta: np.ndarray,  # Change of each group (points), shape `(G,)`
    noise: np.ndarray,  # Its noise, shape `(B, G)`, for the floor
    smooth: np.ndarray,  # Its smoothed noise, shape `(B, G)`, for the interval
    random: np.ndarray,  # Changes of random groups, shape `(draws, G)`
    n: np.ndarray,  # Images of each group, shape `(G,)`
    level: float = 0.95,  # Coverage of the intervals
) -> pd.DataFrame:  # measure, value, low, high, floor_mean, floor_95, placebo
    "ρ, ψ and range of one grouping."
    rows = []
    for kind in DISPARITIES:
        value = float(disparity(delta, kind, n))
        low, high = disparity_interval(delta, smooth, kind, n, level)
        mean, floor = noise_floor(noise, kind, n)
        as_large = float(100 * (disparity(random, kind, n) >= value - 1e-9).mean())
        rows.append([kind, value, low, high, mean, floor, as_large])
    columns = ["measure", "value", "low", "high", "floor_mean", "floor_95", "placebo"]
    return pd.DataFrame(rows, columns=columns)


# %%
d, e = delta_noise(true, who, 3)
found = disparity_rows(d[:-1], e[:, :-1], e[:, :-1], random_groups, np.array([600, 300, 100]))
found.round(1)

# %%
assert found.placebo.tolist() == [0, 0, 0] and (found.low > found.floor_95).all()


# %%
#| export
def _model_audit(p: Predictions, later: str, groupings: dict, how: dict) -> dict:
    "The tables of one later model, and its notes"
    first = next(iter(p.predicted))
    was, now = p.predicted[first], p.predicted[later]
    right = [(q == p.labels).mean(axis=1) for q in (was, now)]
    diff = right[1] - right[0]
    B, seed, level = how["B"], how["seed"], how["level"]
    tables = dict(groups=[], disparities=[], measures=[], churn=[])
    for grouping, (codes, names) in groupings.items():
        G = len(names)
        n = np.bincount(codes, minlength=G)
        about = dict(model=later, grouping=grouping)
        delta, noise = delta_noise(diff, codes, G, p.units, B, seed)
        _, smooth = delta_noise(diff, codes, G, p.units, B, seed, smooth=True)
        changes = change_table(
            *right, codes, names, p.units, delta, smooth, how["points"], how["small"], level
        )
        random = placebo(diff, codes, G, p.units, how["placebo"], seed)
        ranked = disparity_rows(
            delta[:-1], noise[:, :-1], smooth[:, :-1], random, n, level
        )
        tables["groups"].append(changes.assign(**about))
        tables["disparities"].append(ranked.assign(**about))
        tables["churn"].append(churn_table(p.labels, was, now, codes, names).assign(**about))
        for h, (head, classes) in enumerate(p.classes.items()):
            of = dict(units=p.units, B=B, seed=seed, level=level)
            rows = [
                measure_table(p.labels[:, h], was[:, h], now[:, h], codes, classes, names, **of)
            ]
            known = [p.probabilities.get(m, {}).get(head) for m in (first, later)]
            if all(k is not None for k in known):
                rows.append(probability_table(p.labels[:, h], *known, codes, names, **of))
            tables["measures"].append(pd.concat(rows).assign(head=head, **about))
    return {name: _front(pd.concat(parts, ignore_index=True)) for name, parts in tables.items()}


def _front(table: pd.DataFrame) -> pd.DataFrame:
    "The columns that say what a row is about come first"
    first = [c for c in ("model", "grouping", "head") if c in table]
    return table[first + [c for c in table if c not in first]]


# %% [markdown]
# What must be known beside the figures is said in sentences: collapsed models, classes never predicted, what a group cannot measure, small groups, and the placebo's answer.

# %%
#| export
def _signed(points: float) -> str:
    "Points with their sign and one decimal"
    return "–" if pd.isna(points) else f"{points:+.1f}".replace("-", "−")


# %%
assert (_signed(-3.14), _signed(2), _signed(np.nan)) == ("−3.1", "+2.0", "–")


# %%
#| export
def _notes(p: Predictions, groupings: dict, tables: dict, how: dict) -> list[str]:
    "Sentences of an audit"
    said = list(p.notes)
    for (model, grouping), t in tables["groups"].groupby(["model", "grouping"], sort=False):
        every, worst = t.iloc[-1], t.iloc[:-1].sort_values("change").iloc[0]
        lost, low, high = map(_signed, (worst.change, worst.low, worst.high))
        said.append(
            f"{model}, {grouping}: {_signed(every.change)} points in all; the group that loses most"
            f" is {worst.group}, {lost} points [{low}, {high}] of {worst.n:,} images"
        )
    networks = tables["heads"].drop_duplicates(["head", "network"])
    for network, t in networks.groupby("network", sort=False):
        said += _collapse_sentences(network, t, len(p.classes))
    for grouping, (codes, names) in groupings.items():
        said += [f"{grouping}: {s}" for s in unmeasured(p.labels, codes, p.classes, names)]
        n = np.bincount(codes, minlength=len(names))
        few = [f"{name} ({k})" for name, k in zip(names, n) if k < how["small"]]
        if few:
            said.append(
                f"{grouping}: fewer than {how['small']} images in {', '.join(few)}: read their"
                " figures with their intervals"
            )
    ranked = tables["disparities"]
    for r in ranked[ranked.measure == "rho"].itertuples():
        rank = f"{r.placebo:.0f} % of {how['placebo']} random groupings of the same sizes"
        verdict = (
            "the grouping explains more than chance does"
            if r.placebo <= 5
            else "the grouping explains no more than chance does"
        )
        said.append(
            f"{r.model}, {r.grouping}: ρ is {r.value:.1f}; {rank} have as large a ρ or a larger"
            f" one: {verdict}"
        )
    return said


def audit(
    p: Predictions,  # Two models or more; the first is the one before
    *,
    intersections: bool = True,  # Audit the pairs of group columns too
    points: float = 2.0,  # A change that should be found, for `needed` (points)
    small: int = 50,  # Groups with fewer images are marked
    placebo: int = 200,  # Number of random groupings
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of all draws
    level: float = 0.95,  # Coverage of the intervals
) -> Audit:
    """Compare every later model with the first, for every grouping and pair of groupings.

    Raises: ValueError for one model only, or for groups that cannot be compared."""
    first, *later = p.predicted
    if not later:
        raise ValueError(f"an audit compares two models, but there is only {first}")
    groupings = groupings_of(p.groups, intersections)
    how = dict(points=points, small=small, placebo=placebo, B=B, seed=seed, level=level)
    each = [_model_audit(p, m, groupings, how) for m in later]
    tables = {k: pd.concat([t[k] for t in each], ignore_index=True) for k in each[0]}
    parts = [heads_table(p, m).assign(model=m) for m in later]
    tables["heads"] = _front(pd.concat(parts, ignore_index=True))
    about = dict(
        images=len(p.ids),
        units=None if p.units is None else int(len(np.unique(p.units))),
        before=first,
        after=later,
        heads=p.classes,
        groupings={name: names for name, (_, names) in groupings.items()},
        **how,
    )
    notes = tuple(_notes(p, groupings, tables, how))
    lost = lost_images(p)
    whose = lost_by_group(lost, p.groups, intersections)
    return Audit(about, **tables, lost=lost, whose=whose, notes=notes)


# %% [markdown]
# Three thousand images of three hundred persons, two groupings, one head. The later model loses 4 points in all and 15 more of the dark-skinned women.

# %%
rng = np.random.default_rng(0)
n = 3000
table = pd.DataFrame(
    {
        "id": [f"face-{i:04}.png" for i in range(n)],
        "label": rng.choice(["smile", "calm", "frown"], n),
        "gender": np.repeat(rng.choice(["man", "woman"], n // 10), 10),
        "skin": np.repeat(rng.choice(["light", "dark"], n // 10, p=[0.8, 0.2]), 10),
        "person": np.arange(n) // 10,
    }
)
other = rng.choice(["smile", "calm", "frown"], n)
table["dense"] = np.where(rng.random(n) < 0.9, table.label, other)
hit = (table.gender == "woman") & (table.skin == "dark")
table["pruned"] = np.where(rng.random(n) < np.where(hit, 0.19, 0.04), "calm", table.dense)
given = predictions_of(
    table, models=["dense", "pruned"], groups=["gender", "skin"], cluster="person"
)
found = audit(given)
found.groups.round(1)

# %%
found.disparities.round(1)

# %%
print(*found.notes, sep="\n")

# %%
worst = found.groups.set_index("group").loc["woman × dark"]
assert worst.change == found.groups.change.min() and worst.high < 0
assert any(f"loses most is woman × dark, −{-worst.change:.1f} points" in s for s in found.notes)
assert found.groups[found.groups.group == "all"].n.tolist() == [3000, 3000, 3000]
assert set(found.groups.units[found.groups.group == "all"]) == {300}
pairs = found.disparities.set_index(["grouping", "measure"])
assert pairs.placebo[("gender × skin", "rho")] <= 5 and pairs.low[("gender × skin", "rho")] > 0
lost = found.lost.merge(table[["id", "label", "dense", "pruned"]], on="id")
assert (lost.label == lost.dense).all() and (lost.label != lost.pruned).all()
assert len(found.lost) == ((table.dense == table.label) & (table.pruned != table.label)).sum()
accuracy = found.measures[(found.measures.measure == "accuracy")]
merged = accuracy.merge(found.groups, on=["model", "grouping", "group"])
assert np.allclose(merged.change_x, merged.change_y) and len(merged) == len(found.groups)

# %%
import json

plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
assert plain["about"]["after"] == ["pruned"] and len(plain["groups"]) == len(found.groups)
tables = ["groups", "disparities", "measures", "churn", "heads", "whose"]
assert plain["groups"][0]["group"] == "man" and list(plain) == ["about", *tables, "notes"]

# %% [markdown]
# The same figures as a run of this project writes down: `compare` and `audit` agree where both measure.

# %%
from fairgrape.judge.compare import compare

codes, names = groupings_of(given.groups)["skin"]
label, dense, pruned = given.labels[:, 0], *(q[:, 0] for q in given.predicted.values())
of_run = compare(label, dense, pruned, codes, given.classes, names)
by_image = audit(predictions_of(table, models=["dense", "pruned"], groups=["skin"]))
of_run_table = pd.DataFrame(of_run["table"]).set_index("group")
own = by_image.groups.set_index("group")
assert np.allclose(of_run_table.delta, own.change) and (of_run_table.n == own.n).all()
assert np.allclose(of_run_table.delta_low, own.low, atol=0.4)
for kind in DISPARITIES:
    value = by_image.disparities.set_index("measure").value[kind]
    assert np.isclose(of_run["disparities"][kind]["value"], value)

# %% [markdown]
# Drawn by persons, the intervals are those of 300 persons and not of 3,000 images. Here images of one person are independent, so the two hardly differ; where a person is lost as a whole they do.

# %%
table["whole"] = np.where(table.person % 12 == 0, "none of them", table.dense)
table.loc[table.whole == "none of them", "whole"] = "calm"
ends = {}
for cluster in ("", "person"):
    one = predictions_of(table, models=["dense", "whole"], groups=["skin"], cluster=cluster)
    row = audit(one).groups.set_index("group").loc["dark"]
    ends[cluster or "image"] = row.high - row.low
print(f"width of the interval: {ends['image']:.1f} by image, {ends['person']:.1f} by person")
assert ends["person"] > 1.5 * ends["image"]

# %% [markdown]
# Large tables stay quick: the time grows with the number of cells, not of images.

# %%
big, heads = 20_000, 40
labels = (rng.random((big, heads)) < 0.3).astype(int)
answers = [np.where(rng.random((big, heads)) < r, labels, 1 - labels) for r in (0.9, 0.85)]
large = Predictions(
    ids=np.arange(big).astype(str),
    classes={f"a{h}": ["no", "yes"] for h in range(heads)},
    labels=labels,
    predicted=dict(before=answers[0], after=answers[1]),
    probabilities={},
    groups=pd.DataFrame(dict(group=(np.arange(big) % 14).astype(str))),
    units=None,
    notes=(),
)
start = process_time()
of_large = audit(large)
seconds = process_time() - start
assert len(of_large.measures) == 40 * (2 * 15 + 3 * 2 * 15 + 2) and seconds < 40
print(f"20,000 images, 14 groups, 40 heads: {seconds:.1f} s")

# %%
try:
    audit(predictions_of(six, models=["dense"], groups=["tone"]))
except ValueError as e:
    print(e)
    assert "only dense" in str(e)
else:
    raise AssertionError("an audit of one model")
