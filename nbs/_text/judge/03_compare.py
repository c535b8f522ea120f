# %% [markdown]
# # Evaluation
#
# > Who paid for the pruning, how unequally, and how much of that is chance

# %%
#| default_exp judge.compare

# %%
#| export
import numpy as np
import pandas as pd

from fairgrape.judge.disparity import (
    DISPARITIES,
    disparity,
    disparity_interval,
    group_codes,
    noise_floor,
    noise_interval,
    paired_bootstrap,
    same_images,
)
from fairgrape.judge.tables import (
    _some,
    check_groups,
    class_codes,
    group_table,
    rates_table,
    unmeasured,
)


# %% [markdown]
# The dense and the pruned network answer on the same test images. How much accuracy did each group lose, how unequally, and how much of that may be chance? This notebook combines the [counts](01_tables.ipynb) and the [bootstrap](02_disparity.ipynb) for one comparison, in the form that a run saves.
#
# Every figure in the table of groups is a mean over images, so the bootstrap gives each an interval. The example has four thousand images in four groups. The third group truly loses 12 points, the others about 3; the table shows what this sample measures.
#
#
# Right and wrong answers come as 0 and 1 in many types. They become floats, because unsigned bytes and booleans cannot hold a difference.

# %%
#| export
def _right(values) -> np.ndarray:
    "Answers as floats from 0 (wrong) to 1 (right). Raises: ValueError for other values."
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim != 1:
        raise ValueError(
            f"whether a network was right has shape {numbers.shape}: give one number for each"
            " image, shape (n,); with several heads, take the mean over them"
        )
    if not ((numbers >= 0) & (numbers <= 1)).all():
        raise ValueError(
            "whether a network was right is 0 or 1 for each test image, or between 0 and 1 with"
            " several heads; this array has other values (too large, negative, or NaN)"
        )
    return numbers


# %%
assert all(
    np.array_equal(_right(np.array([1, 0], dtype=kind)), [1.0, 0.0])
    for kind in (bool, np.uint8, np.int64, np.float32)
)
for wrong in ([0.0, 2.0], [-1, 0], [np.nan, 1.0], [[0.0], [1.0]]):
    try:
        _right(wrong)
    except ValueError as e:
        print(e)
        assert ("shape (2, 1)" in str(e)) == (np.ndim(wrong) == 2)
    else:
        raise AssertionError(f"{wrong} was accepted")


# %%
#| export
def interval_table(
    correct_dense: np.ndarray,  # Was the dense net right? Shape `(n,)`
    correct_pruned: np.ndarray,  # Was the pruned net right? Shape `(n,)`
    groups: np.ndarray,  # Group of each image, shape `(n,)`: codes, or names
    names: list[str],  # Name of each group
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the bootstrap
    level: float = 0.95,  # Coverage of the intervals
    # `group_table` with columns ending in `_low` and `_high` for each of its three figures
) -> pd.DataFrame:
    "Accuracy and loss of each group, with bootstrap intervals."
    same_images(correct_dense=correct_dense, correct_pruned=correct_pruned, groups=groups)
    correct_dense, correct_pruned = _right(correct_dense), _right(correct_pruned)
    groups = group_codes(groups, names)
    table = group_table(correct_dense, correct_pruned, groups, names)
    shown = {
        "accuracy_dense": correct_dense,
        "accuracy_pruned": correct_pruned,
        "delta": np.subtract(correct_pruned, correct_dense),
    }
    for column, values in shown.items():
        ends = noise_interval(
            table[column][:-1],
            paired_bootstrap(values, groups, B, seed, smooth=True),
            table.n[:-1],
            level,
        )
        table[f"{column}_low"], table[f"{column}_high"] = ends
    return table


# %%
rng = np.random.default_rng(0)
who = np.repeat(np.arange(4), [400, 800, 1200, 1600])
before = (rng.random(4000) < 0.9).astype(float)
after = np.where(rng.random(4000) < np.array([0.03, 0.03, 0.13, 0.03])[who], 0, before)
four = [f"tone-{i}" for i in (1, 2, 3, 4)]
interval_table(before, after, who, four).round(1)

# %%
shown = interval_table(before, after, who, four)
for column in ("accuracy_dense", "accuracy_pruned", "delta"):
    assert (
        (shown[f"{column}_low"] < shown[column]) & (shown[column] < shown[f"{column}_high"])
    ).all()
pd.testing.assert_frame_equal(interval_table(before, after, np.array(four)[who], four), shown)
for wrong, said in (
    (who - 1, "group code -1"),
    (who / 2, "float64"),
    (who > 1, "bool"),
    (np.where(who, who, np.nan), "have no group"),
    (who.astype(str), "'0'"),
):
    try:
        interval_table(before, after, wrong, four)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError(f"{wrong} were accepted as groups")
pd.testing.assert_frame_equal(
    interval_table(before.astype(bool), after.astype(np.uint8), who, four), shown
)
for wrong in (before[:, None], before[:-1], pd.Series(before).sample(frac=1, random_state=0)):
    try:
        interval_table(wrong, pd.Series(after), who, four)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"shape {wrong.shape} was compared by position")
width = shown.filter(like="_high").to_numpy() - shown.filter(like="_low").to_numpy()
assert (width[:, 2] < width[:, 1]).all()  # pairs: the change is known better than the accuracy


# %% [markdown]
# ## The disparities of one comparison
#
# All three, each with its interval, made of smoothed draws, and its floor, made of plain ones.

# %%
#| export
def disparities(
    # Was the dense net right? 0 or 1, or the mean over heads, shape `(n,)`
    correct_dense: np.ndarray,
    correct_pruned: np.ndarray,  # The same for the pruned net, same images, shape `(n,)`
    groups: np.ndarray,  # Group of each image, shape `(n,)`: codes, or names
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the bootstrap
    level: float = 0.95,  # Coverage of the intervals
) -> pd.DataFrame:  # Rows rho, psi, range; columns value, low, high, floor_mean, floor_95 (points)
    "ρ, ψ and range with interval and noise floor."
    same_images(correct_dense=correct_dense, correct_pruned=correct_pruned, groups=groups)
    diff = _right(correct_pruned) - _right(correct_dense)
    groups = group_codes(groups)  # tensors, lists and names too
    n = check_groups(groups, [f"group {g}" for g in range(int(groups.max()) + 1)])
    delta, noise = 100 * np.bincount(groups, diff) / n, paired_bootstrap(diff, groups, B, seed)
    smooth = paired_bootstrap(diff, groups, B, seed, smooth=True)

    def row(kind):
        return (
            float(disparity(delta, kind, n)),
            *disparity_interval(delta, smooth, kind, n, level),
            *noise_floor(noise, kind, n),
        )

    rows = {kind: row(kind) for kind in DISPARITIES}
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=["value", "low", "high", "floor_mean", "floor_95"]
    )


# %%
result = disparities(before, after, who)
result.round(2)

# %% [markdown]
# ρ, ψ and the range are well above their floors. Shuffling the images over the groups removes the disparity: each falls to its floor, and
# the interval reaches 0.

# %%
from time import process_time

import torch

for kind in DISPARITIES:
    assert np.isclose(
        result.value[kind],
        disparity(group_table(before, after, who, four).delta[:-1], kind, [400, 800, 1200, 1600]),
    )
assert (
    (result.low > result.floor_95).all()
    and (result.low < result.value).all()
    and (result.value < result.high).all()
)
mixed = np.random.default_rng(1).permutation(4000)
none = disparities(before[mixed], after[mixed], who)
assert (
    (none.low == 0).all() and (none.value < none.floor_95).all() and (none.high > none.value).all()
)
assert disparities(before, after, np.array(four)[who]).equals(result)
for wrong in (who - 1, who / 2, who > 1, np.where(who, who, np.nan)):
    try:
        disparities(before, after, wrong)
    except ValueError as e:
        said = e
    else:
        raise AssertionError(f"{wrong} were accepted as groups")
for wrong in (before[:, None], before[:-1], pd.Series(before).sample(frac=1, random_state=0)):
    try:
        disparities(wrong, pd.Series(after), who)
    except ValueError as e:
        said = e
    else:
        raise AssertionError(f"shape {wrong.shape} was compared by position")
assert disparities(torch.as_tensor(before), torch.as_tensor(after), torch.as_tensor(who)).equals(
    result
) and disparities(list(before), list(after), list(who)).equals(result)
assert disparities(before, after, who).equals(result) and not disparities(
    before, after, who, seed=1
).equals(result)
start = process_time()  # CPU time: other processes do not count
disparities(np.tile(before, 4), np.tile(after, 4), np.arange(16_000) % 14)
seconds = process_time() - start
assert seconds < 5
print(f"16,000 images, 14 groups: {seconds:.2f} s")


# %% [markdown]
# ## What a run saves
#
# The result is a dictionary of plain numbers, ready for JSON. The input is predicted classes, one column per head, so the rates per class
# are included. JSON has no NaN, so a missing value is `None`.

# %%
#| export
def _records(table: pd.DataFrame) -> list[dict]:
    "The rows of a table, index included, as plain dictionaries; NaN becomes None."
    rows = table.reset_index().astype(object)

    def plain(v):
        return v.item() if isinstance(v, np.generic) else v

    return [
        {k: plain(v) for k, v in row.items()}
        for row in rows.where(rows.notna(), None).to_dict("records")
    ]


# %%
records = _records(
    pd.DataFrame(
        {"n": [1, 0], "tpr": [50.0, np.nan]}, index=pd.Index(["tone-1", "tone-2"], name="group")
    )
)
print(records)
assert records == [
    {"group": "tone-1", "n": 1, "tpr": 50.0},
    {"group": "tone-2", "n": 0, "tpr": None},
]
# no numpy numbers, which JSON refuses
assert [type(v) for v in records[0].values()] == [str, int, float]


# %% [markdown]
# The labels of one head are a vector, those of several heads a matrix; a vector becomes a matrix with one column. Predictions of another shape belong to another task or another test set.

# %%
#| export
def _columns(
    labels, dense, pruned, images: int, heads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    "All three as `(images, heads)`. Raises: ValueError for arrays of different shapes."

    def columns(values):
        values = np.asarray(values)
        whole = values.ndim == 1 and values.size % max(images, 1) == 0
        return values.reshape(images, -1) if whole else values

    y, d, p = (columns(values) for values in (labels, dense, pruned))
    if y.shape == d.shape == p.shape == (images, heads):
        return y, d, p
    raise ValueError(
        f"labels {y.shape}, dense {d.shape} and pruned {p.shape} must all be {images} images ×"
        f" {heads} heads"
    )


# %%
print(*(a.shape for a in _columns([0, 1, 2], [0, 1, 1], [2, 1, 0], images=3, heads=1)))
assert _columns([0, 1, 2], [0, 1, 1], [2, 1, 0], 3, 1)[1].tolist() == [[0], [1], [1]]
assert _columns([0] * 6, [1] * 6, [2] * 6, images=3, heads=2)[2].tolist() == [[2, 2]] * 3
for wrong in (
    ([0] * 6, [0] * 3, [0] * 3, 3, 1),
    ([0] * 3, [0] * 3, [0] * 6, 3, 1),
    ([0] * 3, [0] * 3, [0] * 3, 3, 2),
    (np.zeros((2, 3)), np.zeros((3, 2)), np.zeros((3, 2)), 3, 2),
):
    try:
        _columns(*wrong)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("arrays of different heads were put side by side")


# %% [markdown]
# Names of labels and predictions become codes, in the order of the class names.

# %%
#| export
def _coded(
    values: np.ndarray,  # Classes, shape `(n, heads)`: codes, or names
    classes: dict[str, list[str]],  # For each head its name and the names of its classes
    what: str,  # labels, dense or pruned, for the error
) -> np.ndarray:  # Codes, shape `(n, heads)`, int64
    "Codes of every head. Raises: ValueError that names a head with another coding."
    heads = [
        class_codes(values[:, h], names, what if len(classes) == 1 else f"{what} of {head}")
        for h, (head, names) in enumerate(classes.items())
    ]
    return np.stack(heads, axis=1)


# %%
two = {"smile": ["no", "yes"], "hat": ["off", "on"]}
print(_coded(np.array([["no", "on"], ["yes", "on"]]), two, "labels"))
assert _coded(np.array([["no", "on"], ["yes", "on"]]), two, "labels").tolist() == [[0, 1], [1, 1]]
try:
    _coded(np.array([[0, 1], [1, -1]]), two, "dense")
except ValueError as e:
    print(e)
    assert "dense of hat coded −1 and 1" in str(e)
else:
    raise AssertionError("−1 was taken for a class")


# %% [markdown]
# The rates of both networks for one head, side by side, with the number of images once.

# %%
#| export
def _both_rates(y, dense, pruned, groups, class_names, group_names) -> pd.DataFrame:
    "`rates_table` of both networks: `n`, and `tpr` and `fpr` of each"
    before, after = (
        rates_table(y, answers, groups, class_names, group_names) for answers in (dense, pruned)
    )
    return before[["n"]].join(
        [before[["tpr", "fpr"]].add_suffix("_dense"), after[["tpr", "fpr"]].add_suffix("_pruned")]
    )


# %%
names, groups = ["tone-1", "tone-2"], np.array([0, 0, 0, 0, 0, 1, 1, 1])
y_true, y_pred = np.array([0, 0, 1, 1, 2, 0, 0, 1]), np.array([0, 1, 1, 1, 0, 0, 2, 1])
both = _both_rates(y_true, y_pred, np.zeros(8, int), groups, ["happy", "calm", "sad"], names)
both.round(1)

# %%
assert both.columns.tolist() == ["n", "tpr_dense", "fpr_dense", "tpr_pruned", "fpr_pruned"]
rates = rates_table(y_true, y_pred, groups, ["happy", "calm", "sad"], names)
assert both.tpr_dense.equals(rates.tpr.rename("tpr_dense")) and both.loc[
    ("happy", "all"), ["tpr_pruned", "fpr_pruned"]
].tolist() == [100, 100]


# %% [markdown]
# ## A network that has collapsed
#
# A network that always gives the same answer treats all groups alike. Its accuracy in a group is the share of that answer, and its ρ describes
# the test set, not the pruning. Each network is therefore compared with the simplest guess: always the commonest class of the test images.
#
# Let `gained` be the number of images that the network gets right and the guess wrong, and `lost` the reverse. If the two differ by chance
# only, their difference has a standard deviation of √(`gained` + `lost`) (McNemar's test). A network that is ahead by less than two of these is no better than the guess.
# All of this follows from the rates, so it also works for finished runs.

# %%
#| export
def _against_guess(
    t: pd.DataFrame,  # Rates of one head over all images, a row for each class that has images
    network: str,  # dense or pruned
) -> dict:  # classes, never, accuracy, commonest, share, no_better
    "One network's answers in one head, compared with always naming the commonest class."
    right = (t["n"] * t[f"tpr_{network}"].astype(float) / 100).round()
    top, images = t["n"].idxmax(), t["n"].sum()
    gained, lost = right.drop(top).sum(), t["n"][top] - right[top]
    silent = (t[f"tpr_{network}"] == 0) & (t[f"fpr_{network}"] == 0)
    return dict(
        network=network,
        classes=len(t),
        never=t["class"][silent].tolist(),
        accuracy=float(100 * right.sum() / images),
        commonest=t["class"][top],
        share=float(100 * t["n"][top] / images),
        no_better=bool(gained - lost <= 2 * np.sqrt(gained + lost)),
    )


# %%
#| export
RATES = ["tpr_dense", "fpr_dense", "tpr_pruned", "fpr_pruned"]
COLLAPSE = ["head", "network", "classes", "never", "accuracy", "commonest", "share", "no_better"]


def collapse_table(
    rates: list[dict],  # The `rates` of a run's metrics
    # A row for each head and network, columns `COLLAPSE`; accuracy and share in percent
) -> pd.DataFrame:
    """Classes that a network never predicts, and whether it beats always naming the commonest one.

    Only classes with test images count. A head with one such class is left out: no network can be
    better there.
    """
    rows, table = [], pd.DataFrame(rates, columns=["head", "class", "group", "n", *RATES])
    there = table[(table["group"] == "all") & (table["n"] > 0)]
    for head, t in there.groupby("head", sort=False):
        if len(t) < 2:
            continue
        rows += [dict(head=head) | _against_guess(t, network) for network in ("dense", "pruned")]
    return pd.DataFrame(rows, columns=COLLAPSE)


# %% [markdown]
# Ten images by hand: six women and four men. The dense network is right on 5 women and 3 men, the guess "woman" on 6. The network gains 3 and loses 1:
# 2 is less than 2 · √4 = 4, so with so few images it is no better. With a hundred times as many images it gains 300, loses 100, and 200 is more than 2 · √400 = 40.
# The pruned network calls everybody a man.

# %%
def two_classes(times):
    "Rates, as `compare` keeps them, of ten images repeated"
    y, dense = (
        np.repeat(answers, times) for answers in ([0] * 6 + [1] * 4, [0] * 5 + [1] * 4 + [0])
    )
    rates = _both_rates(
        y, dense, np.ones_like(y), np.arange(10 * times) % 2, ["woman", "man"], ["a", "b"]
    )
    return _records(pd.concat({"gender": rates}, names=["head"]))


small, large = two_classes(1), two_classes(100)
collapse_table(large).round(1)

# %%
dense10, pruned10 = collapse_table(small).to_dict("records")
assert dense10 == dict(
    head="gender",
    network="dense",
    classes=2,
    never=[],
    accuracy=80,
    commonest="woman",
    share=60,
    no_better=True,
)
assert pruned10 == dict(dense10, network="pruned", never=["woman"], accuracy=40)
assert collapse_table(large)["no_better"].tolist() == [False, True]
assert collapse_table([]).columns.tolist() == COLLAPSE and collapse_table([]).empty


# %% [markdown]
# The same as sentences, for the notes of a run. With several heads each class is named with its head. `collapsed` lists the networks that are no better than the guess in any head: comparing them
# says nothing.

# %%
#| export
def collapsed(
    rates: list[dict],  # The `rates` of a run's metrics
) -> list[str]:  # dense, pruned, both or neither
    "Networks that are no better than the commonest class in any head."
    table = collapse_table(rates)
    return [network for network, t in table.groupby("network", sort=False) if t["no_better"].all()]


# %%
#| export
def _collapse_sentences(network: str, t: pd.DataFrame, heads: int) -> list[str]:
    "The sentences of `collapse_notes` about one network, given its rows of `collapse_table`."
    never = [c if heads == 1 else f"{r.head}={c}" for r in t.itertuples() for c in r.never]
    weak, said = t[t["no_better"]], []
    if never:
        said.append(
            f"the {network} network never predicts {len(never)} of {t['classes'].sum()} classes "
            f"that the test images have: {_some(never, 14)}"
        )
    if len(weak) and heads == 1:
        r = weak.iloc[0]
        how = "within chance of" if r.accuracy > r.share else "no better than"
        said.append(
            f"the {network} network is {how} always answering {r.commonest}: {r.accuracy:.1f} % of"
            f" its answers are right, and {r.share:.1f} % of the test images are {r.commonest}; its"
            " ρ and ψ mean nothing"
        )
    elif len(weak):
        named = [
            f"{r.head} ({r.accuracy:.1f} % right, {r.share:.1f} % {r.commonest})"
            for r in weak.itertuples()
        ]
        meant = (
            "its ρ and ψ mean nothing"
            if len(weak) == len(t)
            else "what these add to ρ and ψ means nothing"
        )
        said.append(
            f"the {network} network is no better, beyond chance, than always giving the commonest"
            f" class in {len(weak)} of {heads} heads: {_some(named, 14)}; {meant}"
        )
    return said


# %%
#| export
def collapse_notes(
    rates: list[dict],  # The `rates` of a run's metrics
) -> list[str]:  # Sentences; empty if both networks tell the classes apart
    "Sentences on classes never predicted and networks no better than the commonest class."
    table, heads = collapse_table(rates), len({row["head"] for row in rates})
    return [
        sentence
        for network, t in table.groupby("network", sort=False)
        for sentence in _collapse_sentences(network, t, heads)
    ]


# %%
print(*collapse_notes(large), sep="\n")
assert collapse_notes(large) == [
    "the pruned network never predicts 1 of 2 classes that the test images have: woman",
    (
        "the pruned network is no better than always answering woman: 40.0 % of its answers are"
        " right, and 60.0 % of the test images are woman; its ρ and ψ mean nothing"
    ),
]
assert (
    collapsed(large) == ["pruned"]
    and collapsed(small) == ["dense", "pruned"]
    and collapsed([]) == []
)

# %% [markdown]
# Two heads: the example above, and a head that the pruned network gets right. A class without a test image does not count as never predicted, and a head with one class is ignored.

# %%
fine = [row | dict(head="age", tpr_pruned=100.0, fpr_pruned=0.0) for row in large]
absent = [
    row
    | {
        "class": "other",
        "n": 0,
        "tpr_pruned": None,
        "tpr_dense": None,
        "fpr_dense": 0.0,
        "fpr_pruned": 0.0,
    }
    for row in large[:3]
]
one_class = [row | dict(head="bald") for row in large if row["class"] == "woman"]
print(*collapse_notes(large + fine + absent + one_class), sep="\n")
assert collapse_notes(large + fine + absent + one_class) == [
    "the pruned network never predicts 1 of 4 classes that the test images have: gender=woman",
    (
        "the pruned network is no better, beyond chance, than always giving the commonest class in"
        " 1 of 3 heads: gender (40.0 % right, 60.0 % woman); what these add to ρ and ψ means"
        " nothing"
    ),
]
assert collapsed(large + fine) == [] and collapse_notes(large + absent) == collapse_notes(large)
both = collapse_notes(large + [row | dict(head="age") for row in large])
assert both[0].endswith(
    "never predicts 2 of 4 classes that the test images have: gender=woman, age=woman"
) and both[1].endswith("its ρ and ψ mean nothing")


# %%
#| export
def compare(
    # True classes, shape `(n,)` or `(n, heads)`: codes in the order of `classes`, or names
    labels: np.ndarray,
    dense: np.ndarray,  # Classes predicted by the dense net, same shape
    pruned: np.ndarray,  # Classes predicted by the pruned net, same shape
    groups: np.ndarray,  # Group code of each image, shape `(n,)`
    # For each head its name and the names of its classes, in the order of the columns
    classes: dict[str, list[str]],
    names: list[str],  # Name of each group
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the bootstrap
    level: float = 0.95,  # Coverage of the intervals
    # n, accuracy_dense, accuracy_pruned, groups, table, rates, disparities, bootstrap, notes
) -> dict:
    """Everything measured on the test images, ready for JSON.

    Raises: ValueError for arrays of different shapes or groups that cannot be compared."""
    same_images(labels=labels, dense=dense, pruned=pruned, groups=groups)
    y, d, p = (
        _coded(values, classes, what)
        for values, what in zip(
            _columns(labels, dense, pruned, len(groups), len(classes)),
            ("labels", "dense", "pruned"),
        )
    )
    right = (d == y).mean(axis=1), (p == y).mean(axis=1)
    table = interval_table(*right, groups, names, B, seed, level)
    of_head = {
        head: _both_rates(y[:, h], d[:, h], p[:, h], groups, of, names)
        for h, (head, of) in enumerate(classes.items())
    }
    rates = _records(pd.concat(of_head, names=["head"]))
    both = {column: float(table[column]["all"]) for column in ("accuracy_dense", "accuracy_pruned")}
    return dict(
        n=len(groups),
        **both,
        groups=list(names),
        table=_records(table),
        rates=rates,
        disparities=disparities(*right, groups, B, seed, level).to_dict("index"),
        bootstrap=dict(B=B, seed=seed, level=level),
        notes=collapse_notes(rates) + unmeasured(y, groups, classes, names),
    )


# %%
import json

task = {"expression": ["happy", "calm", "sad"]}
metrics = compare(y_true, y_pred, np.zeros(8, int), groups, task, names, B=200)
print(json.dumps(metrics, indent=1, allow_nan=False)[:700], "…")

# %% [markdown]
# By hand: the first network is right on images 0, 2, 3, 5 and 7, so 62.5 %; the second calls everything happy and is right on the four
# happy images.

# %%
assert (metrics["n"], metrics["accuracy_dense"], metrics["accuracy_pruned"]) == (8, 62.5, 50)
assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
assert [row["group"] for row in metrics["table"]] == ["tone-1", "tone-2", "all"] and list(
    metrics["disparities"]
) == list(DISPARITIES)
sad = [row for row in metrics["rates"] if row["class"] == "sad" and row["group"] == "tone-2"]
assert sad[0]["tpr_dense"] is None and sad[0]["fpr_pruned"] == 0 and sad[0]["head"] == "expression"
twice = np.c_[y_true, y_true]
heads = compare(
    twice, np.c_[y_true, y_pred], twice, groups, task | {"again": task["expression"]}, names, B=50
)
assert heads["accuracy_dense"] == (100 + 62.5) / 2 and heads["accuracy_pruned"] == 100
assert metrics["notes"] == [
    (
        "the dense network is within chance of always answering happy: 62.5 % of its answers are"
        " right, and 50.0 % of the test images are happy; its ρ and ψ mean nothing"
    ),
    "the pruned network never predicts 2 of 3 classes that the test images have: calm, sad",
    (
        "the pruned network is no better than always answering happy: 50.0 % of its answers are"
        " right, and 50.0 % of the test images are happy; its ρ and ψ mean nothing"
    ),
    (
        "1 of 6 cells of class × group hold no test image and have no true positive rate: sad in"
        " tone-2"
    ),
]

# %% [markdown]
# The size of CelebA's test part: 20,000 images, 39 heads, 2,000 resamples.

# %%
shape = (20_000, 39)
y39 = (rng.random(shape) < rng.uniform(0, 0.6, 39)).astype(int)
answers = [rng.random(shape) < right for right in (0.9, 0.85)]
start = process_time()
dense39, pruned39 = (np.where(right, y39, 1 - y39) for right in answers)
large_set = compare(
    y39,
    dense39,
    pruned39,
    np.arange(20_000) % 2,
    {f"a{i}": ["no", "yes"] for i in range(39)},
    names,
)
seconds = process_time() - start
assert seconds < 10 and len(large_set["rates"]) == 39 * 2 * 3
print(f"{seconds:.1f} s")

# %%
try:
    compare(y_true, y_pred[:, None].repeat(2, axis=1), y_pred, groups, task, names)
except ValueError as e:
    print(e)
else:
    raise AssertionError("two heads of predictions for one head of labels were accepted")

# %% [markdown]
# Names instead of codes give the same figures. Another coding, or rows in another order, raises an error; a comparison by position would give another ρ.

# %%
expressions = np.array(task["expression"])
by_name = compare(
    expressions[y_true],
    expressions[y_pred],
    ["happy"] * 8,
    np.array(names)[groups],
    task,
    names,
    B=200,
)
assert by_name == metrics
series = pd.Series(y_true)
refused = {
    "labels counted from 1": (y_true + 1, y_pred, y_pred),
    "dense are float64": (y_true, y_pred.astype(float), y_pred),
    "pruned hold 'furious'": (y_true, y_pred, ["furious"] * 8),
    "labels hold the class -1": (y_true - 1, y_pred, y_pred),
    "pruned has the same index in another order than labels": (series, y_pred, series[::-1]),
    "the lengths are labels 8, dense 7, pruned 8, groups 8": (y_true, y_pred[:7], y_pred),
}
for said, wrong in refused.items():
    try:
        compare(*wrong, groups, task, names, B=50)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError(f"accepted: {said}")
