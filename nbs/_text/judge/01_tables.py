# %% [markdown]
# # Group by group
#
# > Images, accuracy and rates per class for each group, and what a test set cannot measure

# %%
#| default_exp judge.tables

# %%
#| export
import numpy as np
import pandas as pd

from fairgrape.judge.disparity import group_codes, same_images

# %%
from fairlearn.metrics import MetricFrame

# %% [markdown]
# The dense and the pruned network answer on the same test images. This notebook counts, exactly, how often each was right in each group and for each class, and which of these counts are empty. [Disparity](02_disparity.ipynb) measures the role of chance, and [Evaluation](03_compare.ipynb) combines the two.
#
# ## Groups that can be compared
#
# A disparity compares groups, so there must be at least two. Each needs at least two images: one image does not show how much the
# accuracy would vary on other images. Both are checked before anything is computed.

# %%
#| export
RESERVED = ("all", "weights", "kept")  # other rows and columns of the tables of groups


def check_groups(
    groups: np.ndarray,  # Group of each test image, shape `(n,)`: codes, or names
    names: list[str],  # Name of each group, in the order of the codes
    least: int = 2,  # Images that each group needs
) -> np.ndarray:  # Number of images of each group, shape `(G,)`
    """Count the images of each group.

    Raises: ValueError for fewer than two groups, a repeated name or one of `RESERVED`, a code
    without a name, groups that are neither codes nor names, a group with fewer images than
    `least`."""
    if len(names) < 2:
        raise ValueError(
            f"a disparity compares groups, but there is only {list(names)}: choose two groups or"
            " more"
        )
    if len(set(names)) < len(names) or {*names} & {*RESERVED}:
        raise ValueError(
            f"groups are called {list(names)}: give each its own name, and not one of"
            f" {', '.join(RESERVED)}, which have another meaning in the tables"
        )
    counts = np.bincount(group_codes(groups, names), minlength=len(names))
    if len(counts) > len(names):
        raise ValueError(
            f"group code {len(counts) - 1} has no name: there are {len(names)} names, {list(names)}"
        )
    few = [f"{name} ({n})" for name, n in zip(names, counts) if n < least]
    if few:
        raise ValueError(
            f"too few test images in {', '.join(few)}: each group needs {least} or more; merge"
            " groups or take more images"
        )
    return counts


# %% [markdown]
# The example throughout has eight images: five of tone-1, three of tone-2. `dense` and `pruned` say whether each network was right.

# %%
names = ["tone-1", "tone-2"]
groups = np.array([0, 0, 0, 0, 0, 1, 1, 1])
dense = np.array([1, 1, 1, 1, 0, 1, 1, 1.0])
pruned = np.array([1, 1, 1, 0, 0, 1, 0, 0.0])
check_groups(groups, names)

# %%
named = np.array(names)[groups]
assert check_groups(groups, names).tolist() == check_groups(named, names).tolist() == [5, 3]
assert check_groups(named, names[::-1]).tolist() == [3, 5]
assert check_groups([0, 0, 1], names, least=1).tolist() == [2, 1]
cases = [
    (np.zeros(4), ["all"], "only"),
    (groups, names + ["tone-3"], "tone-3 (0)"),
    (groups + 1, names, "code 2 has no name"),
    (groups - 1, names, "code -1"),
    (groups / 2, names, "float64"),
    (groups > 0, names, "bool"),
    (named, ["tone-1", "tone-9"], "'tone-2'"),
]
for *wrong, part in cases:
    try:
        check_groups(*wrong)
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"{wrong[1]} was accepted")


# %% [markdown]
# ## Each group's loss
#
# Accuracies are in percent and their change in percentage points: Δ = pruned − dense, so a loss is negative. fairlearn's `MetricFrame` does
# the grouping. With several heads (one per attribute) the network is right on a share of an image's heads; the mean of those shares is the
# mean of the heads' accuracies.

# %%
#| export
def group_table(
    # Was the dense net right? 0 or 1, or the mean over heads, shape `(n,)`
    correct_dense: np.ndarray,
    # The same for the pruned net, same images, same order, shape `(n,)`
    correct_pruned: np.ndarray,
    groups: np.ndarray,  # Group of each image, shape `(n,)`: codes, or names
    names: list[str],  # Name of each group
    # A row per group and a last row `all`; `n`, the two accuracies (percent), `delta` (points)
) -> pd.DataFrame:
    "Accuracy of both networks for each group and for all test images."
    from fairlearn.metrics import (
        # imported here because it loads scikit-learn and SciPy: two seconds for commands that
        # compare nothing
        MetricFrame,
    )

    same_images(correct_dense=correct_dense, correct_pruned=correct_pruned, groups=groups)
    check_groups(groups, names)
    groups = group_codes(groups, names)
    metrics = {
        "n": lambda d, p: len(d),
        "accuracy_dense": lambda d, p: 100 * np.mean(d),
        "accuracy_pruned": lambda d, p: 100 * np.mean(p),
    }
    frame = MetricFrame(
        metrics=metrics,
        y_true=correct_dense,
        y_pred=correct_pruned,
        sensitive_features=np.asarray(names)[groups],
    )
    table = pd.concat([frame.by_group.loc[list(names)], frame.overall.to_frame("all").T]).astype(
        float
    )
    return (
        table.astype({"n": int})
        .rename_axis("group")
        .assign(delta=table.accuracy_pruned - table.accuracy_dense)
    )


# %%
table = group_table(dense, pruned, groups, names)
table.round(1)

# %% [markdown]
# By hand: tone-1 falls from 4 of 5 to 3 of 5 (−20 points), tone-2 from 3 of 3 to 1 of 3 (−66.7), all from 7 of 8 to 4 of 8 (−37.5).

# %%
assert table.index.tolist() == ["tone-1", "tone-2", "all"] and table.n.tolist() == [5, 3, 8]
assert np.allclose(table.accuracy_dense, [80, 100, 87.5]) and np.allclose(
    table.delta, [-20, -200 / 3, -37.5]
)
assert group_table(dense, pruned, named, names).equals(table)
try:
    group_table(dense, pruned, groups, [*names, "tone-3"])
except ValueError as e:
    print(e)
else:
    raise AssertionError("a group without an image was given a row")

# %% [markdown]
# Two heads, two images: right on both heads of one and on one head of the other, so 75 %.

# %%
two_heads = group_table(
    np.array([1, 0.5, 1, 1]), np.array([0.5, 0.5, 1, 0]), np.array([0, 0, 1, 1]), names
)
assert two_heads.accuracy_dense.tolist() == [75, 100, 87.5] and two_heads.delta.tolist() == [
    -25,
    -50,
    -37.5,
]


# %% [markdown]
# Accuracy hides which class a group is mistaken for. The true positive rate of a class is the share of its images that are predicted
# correctly; the false positive rate is the share of the *other* images that are predicted as it. A group may have no image of a class (when
# the task is to tell the groups apart, each group has one class only). Its rate does not exist: it is NaN here, not 0, without a warning.
#
# All rates follow from one count of (group, true class, predicted class). `MetricFrame` would call a function for every rate of every
# group and class. For CelebA, with 39 heads and 20,000 test images, that took half a minute per comparison; the count takes 0.1 seconds.

# %% [markdown]
# Labels and predictions are codes from 0 on, in the order of the class names, or the names themselves. Other codings (CelebA's −1 and 1, classes counted from 1, floats) raise an error that shows the conversion: a wrong coding would shift every rate by a class.

# %%
#| export
def _refuse_codes(codes: np.ndarray, names: list[str], what: str):
    "Raise ValueError if class codes are not 0 … C − 1, with a hint for known other codings."
    low, high, C = codes.min(), codes.max(), len(names)
    if 0 <= low and high < C:
        return
    hint = ""
    if C == 2 and set(np.unique(codes)) <= {-1, 1}:
        hint = f"; {what} coded −1 and 1 are converted by ({what} + 1) // 2"
    elif low >= 1 and high == C:
        hint = f"; {what} counted from 1 are converted by {what} - 1"
    raise ValueError(
        f"{what} hold the class {low if low < 0 else high}, but codes are 0 to {C - 1}"
        f" ({', '.join(map(str, names[:8]))}{' …' if C > 8 else ''}){hint}"
    )


# %%
#| export
def class_codes(
    values: np.ndarray,  # Class of each image, shape `(n,)`: codes from 0 on, or names
    names: list[str],  # Name of each class, in the order of the codes
    what: str = "labels",  # What they are, for the error
) -> np.ndarray:  # Code of each image, shape `(n,)`, int64
    "Class codes from codes or names. Raises: ValueError for other codings."
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"{what} have shape {values.shape}: give one class per image, shape (n,)")
    missing = int(pd.isna(values).sum())
    if missing:
        raise ValueError(f"{what}: {missing} of {len(values)} images have no class (NaN or None)")
    if values.dtype.kind in "fc":
        raise ValueError(
            f"{what} are {values.dtype}: give class codes (astype(int), if they are whole numbers;"
            " for scores, first take the argmax over the classes or a threshold)"
        )
    if values.dtype.kind in "iub":
        codes = values.astype(np.int64)
        if len(codes):
            _refuse_codes(codes, names, what)
        return codes
    place = {name: code for code, name in enumerate(names)}
    unknown = sorted({repr(value) for value in values.tolist() if value not in place})
    if unknown:
        raise ValueError(
            f"{what} hold {', '.join(unknown[:5])}: the classes are"
            f" {', '.join(map(repr, names[:8]))}{' …' if len(names) > 8 else ''}"
        )
    return np.array([place[value] for value in values.tolist()], dtype=np.int64)


# %%
class_codes(["yes", "no", "yes"], ["no", "yes"])

# %%
for same in ([1, 0, 1], np.array([1, 0, 1], np.uint8), [True, False, True], ["yes", "no", "yes"]):
    assert class_codes(same, ["no", "yes"]).tolist() == [1, 0, 1]
refused = {
    "labels coded −1 and 1 are converted by (labels + 1) // 2": [-1, 1, 1],
    "labels counted from 1 are converted by labels - 1": [1, 2, 1],
    "hold the class 7, but codes are 0 to 1 (no, yes)": [0, 7, 1],
    "labels are float64": [0.0, 1.0, 1.0],
    "'maybe'": ["yes", "maybe", "no"],
    "1 of 3 images have no class": [1, None, 0],
    "shape (1, 3)": [[0, 1, 1]],
}
for said, wrong in refused.items():
    try:
        class_codes(wrong, ["no", "yes"])
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError(f"{wrong} was accepted")


# %% [markdown]
# The rates and the search for empty cells use the same count.

# %%
#| export
def _tally(codes: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> np.ndarray:
    "Number of images with each combination of codes."
    return np.bincount(np.ravel_multi_index(codes, shape), minlength=np.prod(shape)).reshape(shape)


# %%
print(_tally((np.array([0, 1, 1, 1]), np.array([2, 0, 0, 2])), shape=(2, 3)))
assert _tally((np.array([0, 1, 1, 1]), np.array([2, 0, 0, 2])), (2, 3)).tolist() == [
    [0, 0, 1],
    [2, 0, 1],
]
try:
    _tally((np.array([3]),), (3,))
except ValueError as e:
    print(e)
else:
    raise AssertionError("a code beyond the last name was counted")


# %%
#| export
def rates_table(
    y_true: np.ndarray,  # True class of each image, shape `(n,)`: codes, or names
    y_pred: np.ndarray,  # Predicted class, shape `(n,)`
    groups: np.ndarray,  # Group of each image, shape `(n,)`: codes, or names
    class_names: list[str],  # Name of each class
    group_names: list[str],  # Name of each group
    # Index (class, group), groups end with `all`; `n` of that class, `tpr`, `fpr` (percent or NaN)
) -> pd.DataFrame:
    "True and false positive rate of each class, for each group and for all images."
    G, C = len(group_names), len(class_names)
    same_images(y_true=y_true, y_pred=y_pred, groups=groups)
    true, found = (
        class_codes(values, class_names, what)
        for values, what in ((y_true, "labels"), (y_pred, "predictions"))
    )
    cells = _tally((group_codes(groups, group_names), true, found), (G, C, C))
    cells = np.concatenate([cells, cells.sum(axis=0, keepdims=True)])  # the last group is all
    n, found = cells.sum(axis=2), cells.diagonal(axis1=1, axis2=2)  # shape (G + 1, C)
    others, mistaken = n.sum(axis=1, keepdims=True) - n, cells.sum(axis=1) - found
    # 0 of 0: NaN
    with np.errstate(invalid="ignore"):
        tpr, fpr = 100 * (found / n), 100 * (mistaken / others)
    index = pd.MultiIndex.from_product(
        [class_names, [*group_names, "all"]], names=["class", "group"]
    )
    return pd.DataFrame(
        {k: v.T.ravel() for k, v in dict(n=n, tpr=tpr, fpr=fpr).items()}, index=index
    )


# %% [markdown]
# Three classes; tone-2 has no image of "sad".

# %%
y_true = np.array([0, 0, 1, 1, 2, 0, 0, 1])
y_pred = np.array([0, 1, 1, 1, 0, 0, 2, 1])
rates = rates_table(y_true, y_pred, groups, ["happy", "calm", "sad"], names)
rates.round(1)

# %%
assert rates_table(y_true, y_pred, named, ["happy", "calm", "sad"], names).equals(rates)
classes = np.array(["happy", "calm", "sad"])
assert rates_table(classes[y_true], classes[y_pred], groups, list(classes), names).equals(rates)
# one of two found; one of the three others taken for happy
assert np.allclose(rates.loc[("happy", "tone-1")], [2, 50, 100 / 3])
assert np.allclose(rates.loc[("calm", "all")], [3, 100, 20])
assert rates.n.loc["sad"].tolist() == [1, 0, 1] and np.isnan(rates.tpr[("sad", "tone-2")])
assert np.isclose(rates.fpr[("sad", "tone-2")], 100 / 3)  # one of three taken for sad
# no image of another class
assert (
    rates_table(np.zeros(4, int), np.zeros(4, int), np.array([0, 0, 1, 1]), ["a"], names)
    .fpr.isna()
    .all()
)

# %% [markdown]
# The numbers equal fairlearn's to the last bit, on 700 images of five classes and three groups, one of which lacks a class:

# %%
rng = np.random.default_rng(0)
truth, guess, who = rng.integers(0, 5, 700), rng.integers(0, 5, 700), rng.integers(0, 3, 700)
truth[(who == 2) & (truth == 4)] = 0
three, five = ["tone-1", "tone-2", "tone-3"], list("abcde")
ours = rates_table(truth, guess, who, five, three)


def rate(among):
    return lambda y, p: 100 * np.mean(p[y == among]) if (y == among).any() else np.nan


for code, name in enumerate(five):
    metrics = dict(n=lambda y, p: np.sum(y), tpr=rate(True), fpr=rate(False))
    frame = MetricFrame(
        metrics=metrics, y_true=truth == code, y_pred=guess == code, sensitive_features=who
    )
    theirs = np.vstack([frame.by_group.to_numpy(float), frame.overall.to_numpy(float)])
    assert np.array_equal(ours.loc[name].to_numpy(), theirs, equal_nan=True)
assert ours.tpr.isna().sum() == 1


# %% [markdown]
# ## What could not be measured
#
# A rate that does not exist is an empty cell in a table, and readers overlook empty cells. CelebA has attributes that no woman in the test images has, and a head with one class only has an accuracy that a constant answer reaches. The gaps are therefore
# reported in sentences, and grouped: 39 heads and two groups give a few lines, not hundreds.

# %%
#| export
def _some(items: list[str], most: int = 8) -> str:
    "A list in words, cut after `most` items."
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


# %%
print(_some([f"a{i}" for i in range(40)], most=3))
assert (
    _some(list("abc"), most=3) == "a, b, c" and _some(list("abcd"), most=3) == "a, b, c and 1 more"
)


# %% [markdown]
# A head is constant in a group if only one of its classes has images there. In the example, the second of two heads has no "yes" in group 1; over all images both heads have both classes.

# %%
#| export
def _constant(
    present: dict[str, np.ndarray], classes: dict[str, list[str]], g: int
) -> dict[str, str]:
    "Heads with one class only in group `g` (-1: in all images), and that class."
    seen = {head: np.flatnonzero(n[g] if g >= 0 else n.sum(axis=0)) for head, n in present.items()}
    return {head: classes[head][c[0]] for head, c in seen.items() if len(c) == 1}


# %%
present = {"Smile": np.array([[3, 2], [1, 2]]), "Beard": np.array([[3, 2], [3, 0]])}
yes_no = {"Smile": ["no", "yes"], "Beard": ["no", "yes"]}
_constant(present, yes_no, 0), _constant(present, yes_no, 1), _constant(present, yes_no, -1)

# %%
assert [_constant(present, yes_no, g) for g in (0, 1, -1)] == [{}, {"Beard": "no"}, {}]
assert _constant({"Bald": np.array([[0, 2], [0, 1]])}, {"Bald": ["no", "yes"]}, -1) == {
    "Bald": "yes"
}


# %% [markdown]
# Empty cells are counted once for the whole table. Cells that another sentence already explains (a head constant everywhere, or a head that *is* the group) are counted but not named.

# %%
#| export
def _empty(
    n: dict, classes: dict, names: list[str], everywhere: dict, apart: list[str]
) -> list[str]:
    "The number of cells without an image, and the names of those in no other sentence."
    empty = [
        (h, classes[h][c], names[g]) for h, cells in n.items() for g, c in np.argwhere(cells == 0)
    ]
    if not empty:
        return []
    named = [
        f"{c if len(classes) == 1 else f'{h}={c}'} in {g}"
        for h, c, g in empty
        if h not in everywhere and h not in apart
    ]
    counted = f"{len(empty)} of {sum(cells.size for cells in n.values())} cells of class × group"
    names_of_them = f": {_some(named)}" if named else ""
    return [f"{counted} hold no test image and have no true positive rate{names_of_them}"]


# %%
_empty(present, yes_no, ["tone-1", "tone-2"], everywhere={}, apart=[])

# %%
assert (
    _empty(present, yes_no, ["tone-1", "tone-2"], {}, [])[0].startswith("1 of 8 cells")
    and _empty({"Smile": present["Smile"]}, yes_no, ["tone-1", "tone-2"], {}, []) == []
)
assert _empty(present, yes_no, ["tone-1", "tone-2"], {}, [])[0].endswith(": Beard=yes in tone-2")
for said_before in (({"Beard": "no"}, []), ({}, ["Beard"])):
    assert _empty(present, yes_no, ["tone-1", "tone-2"], *said_before) == [
        "1 of 8 cells of class × group hold no test image and have no true positive rate"
    ]


# %% [markdown]
# A sentence per group names the heads that are constant there, except those of an earlier sentence.

# %%
#| export
def _within(heads: dict[str, str], told, name: str, n: int) -> list[str]:
    "A sentence about the heads that are constant in a group, except those already `told`."
    own = [f"{h} (always {c})" for h, c in heads.items() if h not in told]
    return [f"one class in {name} ({n:,} test images): {_some(own)}"] if own else []


# %%
print(_within({"Beard": "no", "Bald": "no"}, ["Bald"], "tone-2", 1200))
assert _within({"Beard": "no", "Bald": "no"}, ["Bald"], "tone-2", 1200) == [
    "one class in tone-2 (1,200 test images): Beard (always no)"
]
assert _within({"Bald": "no"}, ["Bald"], "tone-2", 1200) == [] == _within({}, [], "tone-2", 3)


# %%
#| export
def unmeasured(
    labels: np.ndarray,  # True class codes of the test images, shape `(n, heads)`
    groups: np.ndarray,  # Group of each image, shape `(n,)`: codes, or names
    classes: dict[str, list[str]],  # For each head its name and the names of its classes
    names: list[str],  # Name of each group
) -> list[str]:  # Sentences; empty if everything can be measured
    "Constant heads, in all images or in a group, and cells of class × group without an image."
    groups = group_codes(groups, names)
    # head → images, shape (G, C)
    n = {
        h: _tally((groups, labels[:, i]), (len(names), len(of)))
        for i, (h, of) in enumerate(classes.items())
    }
    everywhere = _constant(n, classes, -1)
    within = [_constant(n, classes, g) for g in range(len(names))]
    apart = [h for h in classes if h not in everywhere and all(h in w for w in within)]
    always = _some([f"{h} (always {c})" for h, c in everywhere.items()])
    said = (
        [f"one class in all {len(groups):,} test images, nothing is known of the others: {always}"]
        if everywhere
        else []
    )
    said += [
        f"{h}: each group holds one class only, so no rate of a class can be compared between"
        " groups"
        for h in apart
    ]
    for g, name in enumerate(names):
        said += _within(within[g], [*everywhere, *apart], name, int((groups == g).sum()))
    return said + _empty(n, classes, names, everywhere, apart)


# %%
y_heads = np.c_[
    [0, 1, 0, 1, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 1, 1, 1],
    [0, 1, 0, 1, 0, 1, 0, 1],
]
two_way = {head: ["no", "yes"] for head in ("Beard", "Bald", "Group", "Smile")}
unmeasured(y_heads, groups, two_way, names)

# %% [markdown]
# By hand: nobody is bald; the third head *is* the group; nobody of tone-2 has a beard. Two cells of `Bald`, two of `Group` and one of `Beard` are empty, five of sixteen. A complete table gives no sentence. Forty heads, thirty of
# them constant in one group, still give two lines.

# %%
told = unmeasured(y_heads, groups, two_way, names)
assert len(told) == 4 and "all 8 test images" in told[0] and "Bald (always no)" in told[0]
assert (
    told[1].startswith("Group: each group holds one class")
    and told[2] == "one class in tone-2 (3 test images): Beard (always no)"
)
assert told[3].startswith("5 of 16 cells") and told[3].endswith(": Beard=yes in tone-2")
assert unmeasured(y_heads[:, 3:], groups, {"Smile": ["no", "yes"]}, names) == []
assert unmeasured(y_heads, named, two_way, names) == told
assert unmeasured(groups[:, None], groups, {"tone": names}, names)[1].startswith("2 of 4 cells")
many = np.c_[y_heads[:, :1].repeat(30, 1), y_heads[:, 3:].repeat(10, 1)]
told = unmeasured(many, groups, {f"a{i}": ["no", "yes"] for i in range(40)}, names)
assert len(told) == 2 and all(t.endswith("and 22 more") for t in told)
print(*told, sep="\n")
