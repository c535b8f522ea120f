# %% [markdown]
# # A verdict for every grouping and measure
#
# > The gate, over all groupings of a table of predictions, for accuracy, balanced accuracy or one class's rate

# %%
#| default_exp judge.verdicts

# %%
#| export
from typing import NamedTuple

import numpy as np

from fairgrape.judge.audit import groupings_of
from fairgrape.judge.gate import Verdict, gate, smallest_errors, verdict_of
from fairgrape.judge.measures import cells_of, measures, tallies
from fairgrape.judge.predictions import Predictions
from fairgrape.judge.resampling import cell_counts, units_of

# %%
import pandas as pd

from fairgrape.judge.gate import STATUS
from fairgrape.judge.predictions import predictions_of


# %% [markdown]
# [The gate](08_gate.ipynb) asks whether any group loses more than is tolerated. A model has several groupings, and accuracy is not the only thing that can be lost: a model can keep its accuracy and stop finding a rare class in one group. This notebook asks the gate for each grouping, and for other measures than accuracy.
#
# ## Other measures
#
# `accuracy` is the mean over heads. The others need one head: `balanced accuracy`, and `TPR of CLASS`, the share of a class's images that are found. Their change and its noise come from [resampled counts](06_measures.ipynb). A standard error is never smaller than the one of the gate for the images that the measure counts: those of the class, or of each class in turn.

# %%
#| export
def measure_noise(
    p: Predictions,  # The models
    later: str,  # The model that is compared with the first
    head: int,  # Place of the head
    measure: str,  # 'balanced accuracy' or 'TPR of CLASS'
    codes: np.ndarray,  # Group code of each image, shape `(n,)`
    G: int,  # Number of groups
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the draws
    # Change of each group, shape `(G,)`; its noise, shape `(B, G)`; least standard errors, `(G,)`;
    # images that the measure counts, `(G,)`: changes and errors in points
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    "Change of one measure in each group, and its noise."
    classes = list(p.classes.values())[head]
    y, was = p.labels[:, head], next(iter(p.predicted.values()))[:, head]
    now, C = p.predicted[later][:, head], len(classes)
    cells = cells_of(codes, y, was, now, G, C)
    counts, drawn = cell_counts(cells.of, cells.group, p.units, B, seed)

    def change(numbers: np.ndarray) -> np.ndarray:
        both = [tallies(cells, model, numbers, G, C) for model in (cells.before, cells.after)]
        if measure == "balanced accuracy":
            return np.subtract(*(measures(t)[measure] for t in both[::-1]))
        c = classes.index(measure.removeprefix("TPR of "))
        return np.subtract(*(measures(t)["TPR"][..., c] for t in both[::-1]))

    delta = change(counts)
    noise = np.nan_to_num(change(drawn) - delta)
    diff = (now == y).astype(float) - (was == y)
    counted = range(C) if measure == "balanced accuracy" else [classes.index(measure[7:])]
    n = np.stack([np.bincount(codes[y == c], minlength=G) for c in counted])
    errors = np.zeros((len(counted), G))
    for i, c in enumerate(counted):
        own = y == c
        there = np.unique(codes[own])
        place = np.searchsorted(there, codes[own])
        units = None if p.units is None else p.units[own]
        errors[i, there] = smallest_errors(diff[own], place, units)
    errors = np.sqrt((errors**2).sum(axis=0)) / np.maximum((n > 0).sum(axis=0), 1)
    return delta, noise, errors, n.sum(axis=0)


# %% [markdown]
# Four hundred images of two groups. The later model finds every second smile of group b; its accuracy falls by 10 points there, its rate for smiles by 50.

# %%
n = 400
table = pd.DataFrame({"id": [f"{i}.png" for i in range(n)], "tone": ["a", "b"] * (n // 2)})
table["label"] = np.where(np.arange(n) // 2 % 5 == 0, "smile", "calm")
table["dense"] = np.where(np.arange(n) % 40 == 7, "smile", table.label)
missed = (table.tone == "b") & (table.label == "smile") & (np.arange(n) // 10 % 2 == 0)
table["pruned"] = table.dense.mask(missed, "calm")
given = predictions_of(table, models=["dense", "pruned"], groups=["tone"])
codes = (table.tone == "b").to_numpy().astype(int)
delta, noise, errors, counted = measure_noise(given, "pruned", 0, "TPR of smile", codes, 2)
print(delta, noise.std(axis=0).round(2), errors.round(2), counted)

# %%
assert np.allclose(delta, [0, -50]) and counted.tolist() == [40, 40]
assert np.isclose(noise[:, 1].std(), 100 * (0.25 / 40) ** 0.5, rtol=0.06) and noise[:, 0].std() == 0
assert errors[0] > 0  # a group without a change is not certain
balanced = measure_noise(given, "pruned", 0, "balanced accuracy", codes, 2)
assert np.allclose(balanced[0], [0, -25]) and balanced[3].tolist() == [200, 200]


# %% [markdown]
# ## Every grouping
#
# Each later model and each grouping gets a verdict of its own. Its intervals hold for all groups of the grouping at once. The answer for all is the worst of them.

# %%
#| export
class Ruling(NamedTuple):
    "One verdict, and what it is about"

    model: str  # The later model
    grouping: str  # The grouping
    verdict: Verdict  # What the gate said


def check_measure(
    p: Predictions,  # The models
    measure: str,  # What is asked for
    head: str = "",  # A head; empty: the only one
) -> tuple[str, int]:  # The measure, and the head's place
    "A measure that can be judged. Raises: ValueError for others, with those there are."
    heads = list(p.classes)
    if measure == "accuracy":
        return measure, 0
    if not head and len(heads) > 1:
        raise ValueError(
            f"{measure} is of one head, and there are {len(heads)}: name one of {', '.join(heads)}"
        )
    head = head or heads[0]
    if head not in heads:
        raise ValueError(f"there is no head {head!r}: choose one of {', '.join(heads)}")
    known = ["balanced accuracy", *(f"TPR of {c}" for c in p.classes[head])]
    if measure not in known:
        raise ValueError(
            f"measure {measure!r} is unknown: choose one of accuracy, {', '.join(known)}"
        )
    return measure, heads.index(head)


def verdicts(
    p: Predictions,  # Two models or more; the first is the one before
    tolerance: float = 2.0,  # Points that a group may lose
    measure: str = "accuracy",  # 'accuracy', 'balanced accuracy' or 'TPR of CLASS'
    head: str = "",  # The head, for a measure of one head; empty: the only one
    intersections: bool = True,  # Judge the pairs of group columns too
    level: float = 0.95,  # Coverage of all intervals of a grouping together
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the draws
) -> list[Ruling]:
    """The gate's verdict for every later model and every grouping.

    Raises: ValueError for one model only; measures, groups and terms that cannot be judged."""
    measure, place = check_measure(p, measure, head)
    first, *later = p.predicted
    if not later:
        raise ValueError(f"a gate compares two models, but there is only {first}")
    before, found = (p.predicted[first] == p.labels).mean(axis=1), []
    groupings = groupings_of(p.groups, intersections)
    for model in later:
        after = (p.predicted[model] == p.labels).mean(axis=1)
        for grouping, (codes, names) in groupings.items():
            if measure == "accuracy":
                said = gate(before, after, codes, names, tolerance, p.units, level, B, seed)
            else:
                G = len(names)
                delta, noise, errors, n = measure_noise(p, model, place, measure, codes, G, B, seed)
                empty = [name for name, value in zip(names, delta) if np.isnan(value)]
                if empty:
                    raise ValueError(
                        f"{measure} does not exist in {', '.join(empty[:5])}: no image of the class"
                        " is there; choose another measure or merge groups"
                    )
                units = None if p.units is None else units_of(p.units, codes, G)
                said = verdict_of(delta, noise, errors, names, n, units, tolerance, level, measure)
            found.append(Ruling(model, grouping, said))
    return found


def worst_status(
    rulings: list[Ruling],  # As `verdicts` gives them
) -> str:  # 'passes', 'fails' or 'cannot tell'
    "The answer for all: one failure fails, one that cannot be told is enough not to pass."
    statuses = {ruling.verdict.status for ruling in rulings}
    return next(s for s in ("fails", "cannot tell", "passes") if s in statuses)


# %%
for ruling in verdicts(given, tolerance=5):
    print(f"{ruling.model}, {ruling.grouping}: {ruling.verdict}")
for ruling in verdicts(given, tolerance=5, measure="TPR of smile"):
    print(f"{ruling.model}, {ruling.grouping}: {ruling.verdict}")

# %%
of_smiles = verdicts(given, tolerance=20, measure="TPR of smile")
assert worst_status(of_smiles) == "fails" and STATUS[worst_status(of_smiles)] == 1
assert of_smiles[0].verdict.table.answer.tolist() == ["passes", "fails"]
assert of_smiles[0].verdict.table.n.tolist() == [40, 40]
same = verdicts(
    predictions_of(
        table.assign(pruned=table.dense.mask(table.index == 0, "calm")),
        models=["dense", "pruned"],
        groups=["tone"],
    ),
    tolerance=10,
)
assert worst_status(same) == "passes"
assert worst_status(same + of_smiles) == "fails"
mixed = table.assign(sex=["f", "f", "m", "m"] * (n // 4))
pairs = verdicts(predictions_of(mixed, models=["dense", "pruned"], groups=["tone", "sex"]))
assert [r.grouping for r in pairs] == ["tone", "sex", "tone × sex"]
for how, part in (
    (dict(measure="F1"), "unknown"),
    (dict(measure="TPR of frown"), "TPR of smile"),
    (dict(measure="balanced accuracy", head="hat"), "no head 'hat'"),
    (dict(tolerance=-1), "tolerance"),
):
    try:
        verdicts(given, **how)
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"{how} was accepted")
