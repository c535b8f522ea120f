# %% [markdown]
# # Resampling images or persons
#
# > Draw the test set again, by images or by whole persons, and see how far every figure moves

# %%
#| default_exp judge.resampling

# %%
#| export
import numpy as np
import pandas as pd
from scipy import sparse


# %% [markdown]
# How far would a figure move on another test set? The bootstrap answers by drawing the test images again, with replacement, a few thousand times. Two things matter here.
#
# **What is drawn together.** If a test set shows each person in thirty photographs, its images are not independent: a network that fails on one face fails on thirty images at once. Then whole persons are drawn, and the intervals become as wide as they should be. What is drawn together is called a *unit*.
#
# **What is counted.** Every figure of an audit follows from sums over images: how many images of a group have this label and that prediction. So only the sums are resampled, and any number of figures can be computed from them.
#
# ## Units and strata
#
# Groups keep their sizes: each group's units are drawn among themselves, in a *stratum*. A unit whose images lie in several groups (a person with and without glasses) belongs to no single group; all such units form one stratum together.

# %%
#| export
def strata_of(
    units: np.ndarray | None,  # Unit of each image, shape `(n,)`: any codes; None: every image
    groups: np.ndarray,  # Group code of each image, shape `(n,)`
    # Unit number of each image, shape `(n,)`; stratum of each unit, shape `(K,)`
) -> tuple[np.ndarray, np.ndarray]:
    """Units numbered from 0, and the stratum in which each is drawn: its group, or -1 where its
    images lie in several groups.
    """
    groups = np.asarray(groups)
    if units is None:
        return np.arange(len(groups)), groups
    number, _ = pd.factorize(np.asarray(units))
    first = np.full(number.max() + 1, -1)
    first[number[::-1]] = groups[::-1]  # the group of each unit's first image
    several = np.unique(number[groups != first[number]])
    first[several] = -1
    return number, first


# %% [markdown]
# Seven images of four persons. Ann and Bob are in group 0, Cem in group 1; Dee's two images lie in both.

# %%
persons = np.array(["ann", "ann", "ann", "bob", "cem", "dee", "dee"])
groups = np.array([0, 0, 0, 0, 1, 0, 1])
number, stratum = strata_of(persons, groups)
number, stratum

# %%
assert number.tolist() == [0, 0, 0, 1, 2, 3, 3] and stratum.tolist() == [0, 0, 1, -1]
same, of_images = strata_of(None, groups)
assert same.tolist() == list(range(7)) and of_images.tolist() == groups.tolist()


# %% [markdown]
# How many independent units a group has stands beside its number of images.

# %%
#| export
def units_of(
    units: np.ndarray | None,  # Unit of each image, shape `(n,)`; None: every image
    groups: np.ndarray,  # Group code of each image, shape `(n,)`
    G: int,  # Number of groups
) -> np.ndarray:  # Number of units with images in each group, shape `(G,)`
    "How many units each group has."
    if units is None:
        return np.bincount(groups, minlength=G)
    pairs = pd.DataFrame(dict(group=groups, unit=np.asarray(units))).drop_duplicates()
    return np.bincount(pairs.group, minlength=G)


# %%
print(units_of(persons, groups, 2))
assert units_of(persons, groups, 2).tolist() == [3, 2]  # Dee counts in both
assert units_of(None, groups, 3).tolist() == [5, 2, 0]


# %% [markdown]
# ## Sums, drawn again
#
# `columns` holds what is added up, a row for each image: 1 where an image falls into a cell and 0 elsewhere, or any numbers. The sums of one draw are each unit's sums times how often the unit was drawn.

# %%
#| export
def _weights(K: int, B: int, rng: np.random.Generator) -> np.ndarray:
    "How often each of `K` units is drawn in each of `B` draws of `K`, shape `(B, K)`"
    drawn = rng.integers(0, K, (B, K), dtype=np.int32)
    return np.stack([np.bincount(row, minlength=K) for row in drawn])


# %%
#| export
def resampled_sums(
    columns: sparse.csr_array,  # What is added up, shape `(n, m)`
    units: np.ndarray | None,  # Unit of each image, shape `(n,)`; None: every image
    groups: np.ndarray,  # Group code of each image, shape `(n,)`
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the draws
) -> np.ndarray:  # Sums of each resample, shape `(B, m)`
    "Sums over images when the units of each stratum are drawn again with replacement."
    rng = np.random.default_rng(seed)
    number, stratum = strata_of(units, groups)
    where = (number, np.arange(len(number)))
    by_unit = sparse.csr_array((np.ones(len(number)), where)) @ sparse.csr_array(columns)
    sums = np.zeros((B, columns.shape[1]))
    for one in np.unique(stratum):
        own = by_unit[stratum == one]
        step = max(1, 20_000_000 // own.shape[0])  # so many draws at once: 160 MB
        for start in range(0, B, step):
            weights = _weights(own.shape[0], min(step, B - start), rng)
            sums[start : start + step] += (own.T @ weights.T).T
    return sums


# %% [markdown]
# Twelve images of two persons in one group: the first person's six are all right, the second's all wrong. Drawn by images, the share of right answers moves little around 50 %. Drawn by persons there are only three outcomes, 0, 50 and 100 %, with probabilities ¼, ½ and ¼.

# %%
right = sparse.csr_array(np.repeat([1.0, 0.0], 6)[:, None])
one_group, two_persons = np.zeros(12, int), np.repeat([0, 1], 6)
by_image = resampled_sums(right, None, one_group, B=4000)[:, 0] / 12
by_person = resampled_sums(right, two_persons, one_group, B=4000)[:, 0] / 12
pd.DataFrame({"by image": by_image, "by person": by_person}).describe().loc[["mean", "std"]]

# %%
shares = pd.Series(by_person).value_counts(normalize=True)
assert sorted(shares.index) == [0, 0.5, 1] and abs(shares[0.5] - 0.5) < 0.03
assert np.isclose(by_image.std(), (0.25 / 12) ** 0.5, rtol=0.05)
assert np.isclose(by_person.std(), (0.25 / 2) ** 0.5, rtol=0.05)
assert (resampled_sums(right, None, one_group, B=50, seed=1)[:, 0] / 12 != by_image[:50]).any()
# groups keep their sizes where each unit lies in one group
ones = sparse.csr_array(np.eye(2)[groups[:5]])
assert (resampled_sums(ones, None, groups[:5], B=50) == [4, 1]).all()


# %% [markdown]
# Where each image is its own unit and falls into exactly one cell, the cells' counts in a draw follow a multinomial law. Its time depends on the number of cells and not on the number of images: for a million images of 14 groups it takes the fraction of a second that the draws above would take minutes for.

# %%
#| export
def resampled_counts(
    counts: np.ndarray,  # Number of images in each cell, shape `(m,)`
    group: np.ndarray,  # Group code of each cell, shape `(m,)`
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the draws
    prior: np.ndarray | float = 0,  # Images that each cell is drawn as having more, shape `(m,)`
) -> np.ndarray:  # Counts of each resample, shape `(B, m)`
    "Counts of cells when the images of each group are drawn again with replacement."
    rng = np.random.default_rng(seed)
    drawn, shares = np.zeros((B, len(counts))), counts + prior
    for g in np.unique(group):
        own = group == g
        n = int(counts[own].sum())
        if n:
            drawn[:, own] = rng.multinomial(n, shares[own] / shares[own].sum(), size=B)
    return drawn


# %%
cells = resampled_counts(np.array([6, 6]), np.array([0, 0]), B=4000)
print(cells[:4])
assert (cells.sum(axis=1) == 12).all()
assert np.isclose((cells[:, 0] / 12).std(), by_image.std(), rtol=0.05)
assert (resampled_counts(np.array([3, 0, 2]), np.array([0, 1, 0]), B=9)[:, 1] == 0).all()


# %% [markdown]
# Both at once: which way it goes depends only on whether units were given.

# %%
#| export
def cell_counts(
    cell: np.ndarray,  # Cell of each image, shape `(n,)`: codes 0 … m − 1
    group: np.ndarray,  # Group code of each cell, shape `(m,)`
    units: np.ndarray | None = None,  # Unit of each image, shape `(n,)`; None: every image
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the draws
    prior: np.ndarray | float = 0,  # As for `resampled_counts`; not used where units are given
) -> tuple[np.ndarray, np.ndarray]:  # Observed counts, shape `(m,)`; resampled, shape `(B, m)`
    "How many images fall into each cell, in the test set and in `B` resamples of it."
    group = np.asarray(group)
    counts = np.bincount(cell, minlength=len(group))
    if units is None:
        return counts, resampled_counts(counts, group, B, seed, prior)
    ones = sparse.csr_array(
        (np.ones(len(cell)), (np.arange(len(cell)), cell)), shape=(len(cell), len(group))
    )
    return counts, resampled_sums(ones, units, group[cell], B, seed)


# %%
answers = np.repeat([0, 1], 6)  # cell 0: right, cell 1: wrong
for units, spread in ((None, by_image.std()), (two_persons, by_person.std())):
    counts, drawn = cell_counts(answers, [0, 0], units, B=4000)
    assert counts.tolist() == [6, 6] and np.isclose((drawn[:, 0] / 12).std(), spread, rtol=0.05)


# %% [markdown]
# ## Noise of a change
#
# A change of accuracy is a mean of one number an image: right after less right before (with several heads, the mean over them). Images of a group with the same number are one cell. For intervals the draws are smoothed as in [disparity and chance](02_disparity.ipynb): half an image more at the smallest and the largest difference, so that a group without a change is not called certain. Persons are drawn as they are.

# %%
#| export
def delta_noise(
    diff: np.ndarray,  # Right after − right before, −1 … 1, shape `(n,)`
    groups: np.ndarray,  # Group code of each image, shape `(n,)`
    G: int,  # Number of groups
    units: np.ndarray | None = None,  # Person of each image, shape `(n,)`; None: every image
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the draws
    smooth: bool = False,  # Half an image more at the smallest and the largest difference
    # Change of each group and then of all images (points), shape `(G + 1,)`; resampled less
    # observed, shape `(B, G + 1)`
) -> tuple[np.ndarray, np.ndarray]:
    "Change of accuracy of each group and of all images, and its noise."
    values, place = np.unique(diff, return_inverse=True)
    m = len(values)
    group, prior = np.repeat(np.arange(G), m), np.zeros((G, m))
    if smooth:
        prior[:, 0] += 0.5
        prior[:, -1] += 0.5
    counts, drawn = cell_counts(groups * m + place, group, units, B, seed, prior.ravel())

    def change(numbers: np.ndarray) -> np.ndarray:
        by = numbers.reshape(*numbers.shape[:-1], G, m)
        by = np.concatenate([by, by.sum(axis=-2, keepdims=True)], axis=-2)
        with np.errstate(invalid="ignore"):
            return 100 * (by @ values) / by.sum(axis=-1)

    delta = change(counts)
    # a draw without an image of a group, whose persons are all in other groups too, says nothing
    return delta, np.nan_to_num(change(drawn) - delta)


# %%
diff = np.array([0, 0, 0, -1, 0, 0, -1, -1.0])
two_groups = np.array([0, 0, 0, 0, 0, 1, 1, 1])
delta, noise = delta_noise(diff, two_groups, 2)
delta.round(1), noise.std(axis=0).round(1)

# %%
assert np.allclose(delta, [-20, -200 / 3, -37.5]) and noise.shape == (2000, 3)
# √(p(1 − p)/n)
theory = 100 * np.sqrt([0.2 * 0.8 / 5, 2 / 3 * 1 / 3 / 3])
assert np.allclose(noise.std(axis=0)[:2], theory, rtol=0.06)
assert np.allclose(noise[:, 2], (5 * noise[:, 0] + 3 * noise[:, 1]) / 8)  # groups keep their sizes
# smoothed: p = 1.5/6 and 2.5/4
_, smooth = delta_noise(diff, two_groups, 2, B=20_000, smooth=True)
theory = 100 * np.sqrt([1 / 4 * 3 / 4 / 5, 5 / 8 * 3 / 8 / 3])
assert np.allclose(smooth.std(axis=0)[:2], theory, rtol=0.03)
# every person in both groups, with the same answers: both groups move alike
answers = -np.tile(np.arange(100) % 10 == 0, 2).astype(float)
_, shared = delta_noise(answers, np.repeat([0, 1], 100), 2, np.tile(np.arange(100), 2))
assert np.allclose(shared[:, 0], shared[:, 1]) and shared.std() > 0

# %% [markdown]
# Persons matter exactly as much as theory says. With m images a person and a correlation r between them, the variance of a mean grows by the design effect 1 + (m − 1) r. Here 60 persons have 20 images each; a person's images share a common chance of being right, so that r = 0.25.

# %%
rng = np.random.default_rng(0)
skill = rng.beta(1.5, 1.5, 60)  # variance 1/16 = r · ¼
faces = np.repeat(np.arange(60), 20)
wrong = (rng.random(1200) > skill[faces]).astype(int)
spread = [
    (cell_counts(wrong, [0, 0], units, B=2000)[1][:, 1] / 1200).std() for units in (None, faces)
]
print(f"by image {spread[0]:.4f}, by person {spread[1]:.4f}: {spread[1] / spread[0]:.2f} times")
assert 1.8 < spread[1] / spread[0] < 3.2 and np.isclose((1 + 19 * 0.25) ** 0.5, 2.4, atol=0.01)
