# %% [markdown]
# # Classes and probabilities
#
# > One coding for labels and predictions; probabilities that are none are refused, with the way to convert them

# %%
#| default_exp judge.answers

# %%
#| export
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fairgrape.judge.columns import LABEL_NAMES, Answers
from fairgrape.judge.names import Named, name_of, names_of, no_column, sorted_names
from fairgrape.judge.tables import _some, class_codes


# %%
def refused(call, *given, **named) -> str:
    "The error that a call raises, printed"
    try:
        call(*given, **named)
    except ValueError as e:
        print(e)
        return str(e)
    raise AssertionError(f"{call.__name__} accepted it")


# %% [markdown]
# While columns are read, what is noticed is gathered, since with forty heads one sentence for all of them says more than forty.

# %%
#| export
@dataclass
class Seen:
    "What is gathered on the way, to be said once"

    notes: list[str] = field(default_factory=list)  # Sentences
    missing: dict[str, np.ndarray] = field(default_factory=dict)  # Column → rows without a value
    as_text: list[str] = field(default_factory=list)  # Columns that hold numbers as text,
    as_number: list[str] = field(default_factory=list)  # and those with which they were compared
    # Model → answers that are not its most probable class
    contradicted: dict[str, int] = field(default_factory=dict)
    ties: dict[str, int] = field(default_factory=dict)  # Model → answers with two likeliest classes
    off: dict[str, float] = field(default_factory=dict)  # Model → how far from 1 its sums are
    # Column that holds the probability of the last class → head = class
    last: dict[str, str] = field(default_factory=dict)


# %% [markdown]
# Numbers in one column and the same numbers as text in another are the same names already. True and False stand for 1 and 0 beside a column that holds nothing else.

# %%
#| export
def _alike(columns: dict[str, Named], seen: Seen) -> dict[str, Named]:
    "Columns that are about to be compared, with one name for one thing"
    bools = [c for c, own in columns.items() if own.kind == "bool"]
    others = {name for c, own in columns.items() if c not in bools for name in own.names}
    if bools and others and others <= {"0", "1"}:
        number = {"False": "0", "True": "1"}
        columns = columns | {
            c: columns[c]._replace(names=[number[name] for name in columns[c].names]) for c in bools
        }
        seen.notes.append(f"True and False are 1 and 0 in {_some(bools)}")
    number = [c for c, own in columns.items() if own.kind in ("number", "mixed")]
    text = [
        c
        for c, own in columns.items()
        if own.kind in ("text", "mixed") and any(re.fullmatch(r"-?\d+", n) for n in own.names)
    ]
    if number and text:
        seen.as_text.extend(text)
        seen.as_number.extend(number)
    return columns


# %%
seen = Seen()
three = dict(label=pd.Series([0, 1]), dense=pd.Series([True, False]), small=pd.Series(["1", "0"]))
{c: own.names for c, own in _alike({c: names_of(v) for c, v in three.items()}, seen).items()}

# %%
assert seen.notes == ["True and False are 1 and 0 in dense"]
assert (seen.as_text, seen.as_number) == (["small"], ["label"])
words = {c: names_of(pd.Series(v)) for c, v in dict(label=["a", "1b"], dense=[True, False]).items()}
assert _alike(words, seen := Seen()) == words and not seen.notes and not seen.as_text


# %%
#| export
def shared_column(
    what: str,  # What it is, for the error
    places: Mapping[str, str],  # File → column
    tables: Mapping[str, pd.DataFrame],  # File → its table, rows in one order
    ids: np.ndarray,  # Id of each row
    seen: Seen,  # To which is added what is noticed
) -> Named:
    "A column that stands in one file or several. Raises: ValueError where they disagree."
    found = _alike({f"{c} of {f}": names_of(tables[f][c]) for f, c in places.items()}, seen)
    (first, kept), *others = found.items()
    place = {name: code for code, name in enumerate(kept.names)}
    for other, own in others:
        lookup = np.array([*(place.get(name, -2) for name in own.names), -1])
        differ = np.flatnonzero(lookup[own.codes] != kept.codes)
        if len(differ):
            raise ValueError(
                f"{what}: {first} and {other} differ in {len(differ):,} of {len(ids):,} rows"
                f" ({_some([*ids[differ]], 3)}): are these the same images?"
            )
    return kept


# %%
labels = {
    "a.csv": pd.DataFrame(dict(label=[1, 0, 1])),
    "b.csv": pd.DataFrame(dict(label=["1", "0", "1"])),
    "c.csv": pd.DataFrame(dict(label=[1, 1, None])),
}
ids = np.array(["x", "y", "z"], dtype=object)
shared_column("label", {"a.csv": "label", "b.csv": "label"}, labels, ids, seen := Seen())

# %%
assert (seen.as_text, seen.as_number) == (["label of b.csv"], ["label of a.csv"])
assert "label of a.csv and label of c.csv differ in 2 of 3 rows (y, z)" in refused(
    shared_column, "label", dict.fromkeys(labels, "label"), labels, ids, seen
)


# %% [markdown]
# ## Classes
#
# The classes of a head are those that were given, or all that its labels, predictions and probabilities show. A model whose predictions have no class in common with the labels is coded in another way, and no guess is made as to how. (Where labels and predictions have one class each, in one coding, the model may just be always wrong.)

# %%
#| export
def _refuse_classes(head: str, label: Named, answers: Mapping[str, Named]):
    "Raise ValueError for values that are no classes, or not those of the labels"
    for what, own in (("the labels", label), *answers.items()):
        scores = [n for n in own.names if own.kind == "number" and not re.fullmatch(r"-?\d+", n)]
        if scores:
            raise ValueError(
                f"{what} of {head} hold {_some(scores, 3)}: a class is a name or a whole number;"
                " a column of probabilities is called MODEL_p or MODEL_p_CLASS"
            )
        one_each = own.kind == label.kind and len(own.names) == len(label.names) == 1
        if own.names and label.names and not one_each and not {*own.names} & {*label.names}:
            raise ValueError(
                f"{what} of {head} holds {_some(sorted_names({*own.names}), 5)}, and the labels"
                f" hold {_some(sorted_names({*label.names}), 5)}: not one class in common; convert"
                f" one of them, or name the classes with classes={{{head!r}: [...]}}"
            )


# %%
yes_no = names_of(pd.Series(["yes", "no", "yes"]))
for values, part in (
    ([0, 1, 1], "dense of label holds 0, 1, and the labels hold no, yes"),
    ([0.2, 0.7, 1.0], "dense of label hold 0.2, 0.7: a class is"),
):
    assert part in refused(_refuse_classes, "label", yes_no, {"dense": names_of(pd.Series(values))})
_refuse_classes("label", yes_no, {"dense": names_of(pd.Series(["yes", "yes", "maybe"]))})
_refuse_classes("label", names_of(pd.Series([0, 0])), {"dense": names_of(pd.Series([1, 1]))})


# %% [markdown]
# Where the names of the classes are given, a column of whole numbers holds their codes, unless these numbers are the names themselves. A code or a name outside is refused.

# %%
#| export
def _given_codes(
    columns: Mapping[str, Named],  # What it is → column of labels or predictions
    names: Sequence[str],  # Classes, in the order of the codes
) -> dict[str, np.ndarray]:  # What it is → class code of each image, -1 where it is missing
    "Codes by given classes. Raises: ValueError for a class that is none of them."
    numbers = [c for c, own in columns.items() if own.kind in ("number", "bool")]
    by_code = not {name for c in numbers for name in columns[c].names} <= {*names}
    coded = {}
    for what, own in columns.items():
        values = np.array(own.names, dtype=object)
        if by_code and what in numbers:
            word = {"False": "0", "True": "1"}
            values = np.array([float(word.get(name, name)) for name in own.names])
            whole = values == values.round()
            values = values.astype(np.int64) if whole.all() else values
        known = class_codes(values, [*names], what) if len(values) else values.astype(np.int64)
        coded[what] = np.array([*known, -1])[own.codes]
    return coded


# %%
codes = {
    "labels": names_of(pd.Series([0, 2, 1])),
    "dense": names_of(pd.Series(["sad", "calm", None])),
}
_given_codes(codes, ["calm", "happy", "sad"])

# %%
assert _given_codes(codes, ["calm", "happy", "sad"])["labels"].tolist() == [0, 2, 1]
assert _given_codes(codes, ["calm", "happy", "sad"])["dense"].tolist() == [2, 0, -1]
by_name = {"labels": names_of(pd.Series([2, 1])), "dense": names_of(pd.Series([1, 1]))}
assert _given_codes(by_name, ["2", "1"])["dense"].tolist() == [1, 1]  # names, and no codes
for values, part in (([0, 3], "hold the class 3"), (["calm", "furious"], "'furious'")):
    assert part in refused(
        _given_codes, {"dense": names_of(pd.Series(values))}, ["calm", "happy", "sad"]
    )


# %%
#| export
def _column(model: str, head: str) -> str:
    "What a column is called in a sentence; a head that is called label or y is not named"
    return model if head.casefold() in LABEL_NAMES else f"{model}_{head}"


# %%
assert _column("dense", "Target") == "dense" and _column("label", "hat") == "label_hat"


# %%
#| export
def _head_codes(
    head: str,  # Name of the head
    label: Named,  # Its true classes
    answers: Mapping[str, Named],  # Model → the classes that it predicts
    more: set[str],  # Classes that the columns of probabilities name
    given: Sequence[str] | None,  # Classes that were given, in the order of the codes
    # Classes; labels and each model's predictions as codes, -1 where one is missing
) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    "One head's classes and codes."
    if given is None:
        _refuse_classes(head, label, answers)
        names = sorted_names(
            {*label.names, *more, *(n for own in answers.values() for n in own.names)}
        )
    else:
        names = [name_of(name) for name in given]
        if len({*names}) < len(names) or not all(names):
            raise ValueError(f"classes of {head} are {names}: each needs a name of its own")
    if len(names) > 1000:
        raise ValueError(
            f"{head} has {len(names):,} classes: up to 1000 can be judged; is it a column of ids?"
        )
    columns = {_column("label", head): label}
    columns |= {_column(model, head): own for model, own in answers.items()}
    true, *others = _given_codes(columns, names).values()
    return names, true, dict(zip(answers, others))


# %%
dense = names_of(pd.Series(["10", "2", "2"]))
names, true, coded = _head_codes("label", names_of(pd.Series([2, 2, 9])), {"d": dense}, {"3"}, None)
print(names, true, coded)
assert names == ["2", "3", "9", "10"]
assert true.tolist() == [0, 0, 2] and coded["d"].tolist() == [3, 0, 0]
for label, given, part in (
    (dense, ["2", 2], "each needs a name of its own"),
    (names_of(pd.Series(range(1001))), None, "label has 1,001 classes"),
):
    assert part in refused(_head_codes, "label", label, {}, set(), given)

# %% [markdown]
# ## Probabilities
#
# A row of probabilities has no negative number and sums to 1, up to rounding. Logits, logarithms and percentages are recognised, and refused with the way to convert them.

# %%
#| export
TOLERANCE = 1e-3  # How far a sum of probabilities may be from 1


def _refuse_probabilities(
    values: np.ndarray,  # Shape `(n, C)`, or `(n, 1)` for the last of two classes
    what: str,  # Whose they are, for the error
    ids: np.ndarray,  # Id of each row
) -> float:  # How far the sums are from 1
    "Raise ValueError for what is no probability."
    sums, single = values.sum(axis=1), values.shape[1] == 1
    off = np.zeros(len(values)) if single else abs(sums - 1)
    wrong = (values < 0).any(axis=1) | (values > 1 + TOLERANCE).any(axis=1)
    wrong |= ~(off <= TOLERANCE + 1e-9)  # infinite numbers included
    if not wrong.any():
        return float(off.max(initial=0))
    low, high = values.min(), values.max()
    with np.errstate(over="ignore", invalid="ignore"):
        logarithms = high <= 0 and (single or np.allclose(np.exp(values).sum(axis=1), 1, atol=0.01))
    if not np.isfinite(values).all():
        how = "are not finite numbers"
    elif logarithms:
        how = f"look like logarithms{' or logits' if single else ''}: take exp() first"
        how += ", or apply sigmoid" if single else ""
    elif low >= 0 and (1.5 < high <= 100 if single else np.allclose(sums, 100, atol=1)):
        how = "look like percentages: divide by 100"
    elif (low < 0 or high > 1 + TOLERANCE) and (single or (off > TOLERANCE).mean() > 0.5):
        how = f"look like logits: apply {'sigmoid' if single else 'softmax'} first"
    elif low < 0:
        how = "are negative"
    else:
        worst = sums[wrong][np.argmax(off[wrong])]
        how = f"do not sum to 1 (but to {worst:.4g})"
    raise ValueError(
        f"the probabilities of {what} {how}, in {wrong.sum():,} of {len(values):,} rows"
        f" ({_some([*ids[wrong]], 3)})"
    )


# %%
ids = np.array(["x", "y", "z"], dtype=object)
rounded = np.array([[0.333, 0.666], [0.5, 0.5]])
assert np.isclose(_refuse_probabilities(rounded, "dense", ids), 0.001)
assert _refuse_probabilities(np.array([[0.3], [1.0]]), "dense", ids) == 0
faults = {
    "do not sum to 1 (but to 0.9), in 1 of 2 rows (y)": [[0.5, 0.5], [0.4, 0.5]],
    "are negative, in 1 of 2 rows (x)": [[-0.2, 1.2], [0.5, 0.5]],
    "logits: apply softmax": [[2.5, -1.0], [0.1, 3.0]],
    "logits: apply sigmoid": [[2.5], [-1.0]],
    "logarithms: take exp()": np.log([[0.9, 0.1], [0.3, 0.7]]),
    "percentages: divide by 100": [[90, 10], [30, 70]],
    "are not finite numbers, in 1 of 2 rows (x)": [[np.inf, 0], [0.3, 0.7]],
}
for part, values in faults.items():
    assert part in refused(_refuse_probabilities, np.array(values), "dense", ids[:2])
for values, part in (([[80.0], [20.0]], "percentages"), ([[-0.1], [-2.0]], "logarithms")):
    assert part in refused(_refuse_probabilities, np.array(values), "dense", ids[:2])


# %% [markdown]
# Columns are brought into the order of the classes. A row with a gap is NaN throughout, and is reported with all other gaps further below.

# %%
#| export
def _class_columns(
    columns: Mapping[str, str] | Sequence[str],  # Class → column, or columns in order
    names: Sequence[str],  # Classes
    what: str,  # Whose they are, for the error
) -> list[str]:  # A column for each class, or one for the last of two
    "The columns of one model's probabilities. Raises: ValueError where one is missing."
    if not isinstance(columns, Mapping):
        if len(columns) not in {len(names), 1 if len(names) == 2 else len(names)}:
            raise ValueError(
                f"the probabilities of {what} are in {len(columns)} columns, but there are"
                f" {len(names)} classes ({_some([*names])})"
            )
        return [*columns]
    if [*columns] == [""]:
        if len(names) != 2:
            raise ValueError(
                f"{columns['']} would be the probability of the last of two classes, but {what}"
                f" has {len(names)} ({_some([*names])}): give a column for each class, or, where a"
                " class does not occur, the names of both with classes="
            )
        return [columns[""]]
    named = {name: column for name, column in columns.items() if name}
    lost = [name for name in names if name not in named]
    more = [column for name, column in named.items() if name not in names]
    if lost or more:
        raise ValueError(
            f"the probabilities of {what} have "
            + (f"no column for the class {_some(lost)}" if lost else "")
            + (" and " if lost and more else "")
            + (f"columns for no class: {_some(more)}" if more else "")
        )
    return [named[name] for name in names]


# %%
assert _class_columns({"b": "d_p_b", "a": "d_p_a"}, ["a", "b"], "d") == ["d_p_a", "d_p_b"]
assert _class_columns({"": "d_p"}, ["a", "b"], "d") == ["d_p"]
assert _class_columns(("p0", "p1"), ["a", "b"], "d") == ["p0", "p1"]
assert _class_columns(("p1",), ["a", "b"], "d") == ["p1"]
for columns, part in (
    ({"": "d_p"}, "the last of two classes, but dense has 3 (a, b, c)"),
    ({"a": "d_p_a", "b": "d_p_b"}, "no column for the class c"),
    ({"a": "x", "b": "x", "c": "x", "d": "d_p_d"}, "columns for no class: d_p_d"),
    (("p0", "p1"), "are in 2 columns, but there are 3 classes"),
):
    assert part in refused(_class_columns, columns, ["a", "b", "c"], "dense")


# %%
#| export
def _probabilities(
    table: pd.DataFrame,  # The table that holds them
    columns: Sequence[str],  # A column for each class, or one for the last of two
    model: str,  # For what is noticed
    ids: np.ndarray,  # Id of each row
    seen: Seen,  # To which is added what is noticed
) -> np.ndarray:  # Shape `(n, C)`, NaN in rows with a gap
    "Read probabilities. Raises: ValueError for what is none."
    values = np.empty((len(table), len(columns)))
    for i, column in enumerate(columns):
        if column not in table:
            raise no_column(column, "probabilities", table.columns)
        if pd.api.types.is_numeric_dtype(table[column]):
            values[:, i] = table[column].to_numpy(np.float64, na_value=np.nan)
            continue
        text = names_of(table[column])
        try:
            values[:, i] = np.array([*map(float, text.names), np.nan])[text.codes]
        except ValueError as e:
            raise ValueError(f"the probabilities in {column} are not numbers: {e}") from None
    gaps = np.isnan(values).any(axis=1)
    for column, own in zip(columns, values.T):
        if gaps.any() and np.isnan(own).any():
            rows = np.flatnonzero(np.isnan(own))  # another file may have a column of that name
            seen.missing[column] = np.union1d(rows, seen.missing.get(column, rows))
    some = slice(None) if not gaps.any() else ~gaps
    what = f"{model} ({_some([*columns], 3)})"
    off = _refuse_probabilities(values[some], what, ids[some])
    seen.off[model] = max(off, seen.off.get(model, 0))
    if len(columns) == 1:
        values = np.hstack([1 - values, values]).clip(0, 1)
    else:
        values /= values.sum(axis=1, keepdims=True)
    values[gaps] = np.nan
    return values


# %%
asked = pd.DataFrame(dict(d_p_no=[0.25, 0.333, np.nan], d_p_yes=["0.75", "0.666", "0.5"]))
_probabilities(asked, ["d_p_no", "d_p_yes"], "d", ids, seen := Seen())

# %%
found = _probabilities(asked, ["d_p_no", "d_p_yes"], "d", ids, seen)
assert found[0].tolist() == [0.25, 0.75] and np.isclose(found[1], [1 / 3, 2 / 3]).all()
assert np.isnan(found[2]).all() and seen.missing["d_p_no"].tolist() == [2]
assert np.isclose(seen.off["d"], 0.001)
blank = pd.DataFrame(dict(d_p=["", "NA", "0.5"]))
assert np.isnan(_probabilities(blank, ["d_p"], "d", ids, seen)[:2]).all()
assert seen.missing["d_p"].tolist() == [0, 1]
_probabilities(pd.DataFrame(dict(d_p=[0.1, 0.2, np.nan])), ["d_p"], "e", ids, seen)
assert seen.missing["d_p"].tolist() == [0, 1, 2]
last = _probabilities(asked[:1], ["d_p_yes"], "d", ids[:1], Seen())
assert last.tolist() == [[0.25, 0.75]]
said = refused(_probabilities, pd.DataFrame(dict(d_p=["0.5", "half"])), ["d_p"], "d", ids, seen)
assert "in d_p are not numbers" in said and "half" in said


# %% [markdown]
# Where a model has probabilities only, it predicts the most probable class. Where it has both, they may differ (a threshold other than one half does that), and that is noted. Of two classes that are equally probable the first is taken.

# %%
#| export
def _most_probable(
    values: np.ndarray,  # Shape `(n, C)`, NaN in rows with a gap
    said: np.ndarray | None,  # The predicted classes, where there is a column of them; -1 is a gap
    model: str,  # For what is noticed
    seen: Seen,  # To which it is added
) -> np.ndarray:  # The predicted classes
    "The predictions, with what the probabilities say about them."
    gaps = np.isnan(values[:, 0])
    best = np.where(gaps[:, None], 0, values).max(axis=1)
    if said is None:
        tied = (values >= best[:, None] - 1e-12).sum(axis=1) > 1
        seen.ties[model] = seen.ties.get(model, 0) + int(tied.sum())
        return np.where(gaps, -1, np.where(gaps[:, None], 0, values).argmax(axis=1))
    own = np.take_along_axis(values, np.maximum(said, 0)[:, None], axis=1)[:, 0]
    less = (own < best - 1e-9) & (said >= 0)
    seen.contradicted[model] = seen.contradicted.get(model, 0) + int(less.sum())
    return said


# %%
values = np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1], [np.nan, np.nan]])
print(_most_probable(values, None, "d", seen := Seen()), seen.ties)
assert _most_probable(values, None, "d", seen).tolist() == [1, 0, 0, -1] and seen.ties == {"d": 2}
assert _most_probable(values, np.array([0, 1, -1, 0]), "d", seen).tolist() == [0, 1, -1, 0]
assert seen.contradicted == {"d": 1}  # the first; the second is a tie, the others have a gap


# %% [markdown]
# One head after the other is read, so that a table of a million images and forty heads needs no second copy.

# %%
#| export
def read_head(
    head: str,  # Its name
    label: Named,  # Its true classes
    models: Mapping[str, Answers],  # Where each model's answers are
    tables: Mapping[str, pd.DataFrame],  # File → its table
    ids: np.ndarray,  # Id of each image
    given: Sequence[str] | None,  # Its classes, where they were given
    seen: Seen,  # To which is added what is noticed
    # Classes; true classes; model → predicted classes; model → probabilities; -1 and NaN are gaps
) -> tuple[list[str], np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    "All that is known of one head."
    columns = {
        _column(model, head): names_of(tables[own.file][own.predicted[head]])
        for model, own in models.items()
        if head in own.predicted
    }
    true_column = _column("label", head)
    columns = _alike({true_column: label} | columns, seen)
    label = columns[true_column]
    answers = {m: columns[_column(m, head)] for m, own in models.items() if head in own.predicted}
    shares = {m: own.probabilities[head] for m, own in models.items() if head in own.probabilities}
    more = {name for p in shares.values() if isinstance(p, Mapping) for name in p if name}
    names, true, coded = _head_codes(head, label, answers, more, given)
    for model, codes in (("label", true), *coded.items()):
        gaps = np.flatnonzero(codes < 0)
        if len(gaps):
            seen.missing[_column(model, head)] = gaps
    probabilities = {}
    for model, own in shares.items():
        single = isinstance(own, Mapping) and [*own] == [""]
        if single and len(names) > 2 and model in coded:
            seen.notes.append(f"{own['']} is not used: {head} has {len(names)} classes, not two")
            continue
        columns = _class_columns(own, names, _column(model, head))
        if len(columns) == 1:
            seen.last[columns[0]] = f"{head} = {names[-1]}"
        values = _probabilities(tables[models[model].file], columns, model, ids, seen)
        coded[model] = _most_probable(values, coded.get(model), model, seen)
        probabilities[model] = values
    return names, true, coded, probabilities


# %%
table = pd.DataFrame(dict(y=["a", "b"], dense=["a", None], small_p=[0.5, 0.9]))
models = {
    "dense": Answers("t", {"y": "dense"}, {}),
    "small": Answers("t", {}, {"y": {"": "small_p"}}),
}
tables = {"t": table}
read_head("y", names_of(table.y), models, tables, ids[:2], None, seen := Seen())

# %%
names, true, coded, shares = read_head("y", names_of(table.y), models, tables, ids[:2], None, seen)
assert names == ["a", "b"] and true.tolist() == [0, 1] and coded["dense"].tolist() == [0, -1]
assert coded["small"].tolist() == [0, 1] and np.isclose(shares["small"][1], [0.1, 0.9]).all()
assert seen.missing["dense"].tolist() == [1] and seen.ties == {"small": 2}  # read twice
assert seen.last == {"small_p": "y = b"}
confident = {"dense": Answers("t", {"y": "dense"}, {"y": {"": "small_p"}})}
three = read_head("y", names_of(table.y), confident, tables, ids[:2], ["a", "b", "c"], seen)
assert seen.notes == ["small_p is not used: y has 3 classes, not two"] and three[3] == {}


# %% [markdown]
# What was gathered becomes sentences.

# %%
#| export
def seen_notes(
    seen: Seen,  # What was gathered
) -> list[str]:
    "What was noticed on the way, in sentences"
    notes = [*dict.fromkeys(seen.notes)]
    if seen.as_text:
        notes.append(
            f"numbers are text in {_some([*dict.fromkeys(seen.as_text)])} and numbers in"
            f' {_some([*dict.fromkeys(seen.as_number)])}: "1" and 1 are one name'
        )
    if seen.last:
        last = [f"{column} of {of}" for column, of in seen.last.items()]
        notes.append(
            f"a single column is the probability of the last of two classes: {_some(last)}"
        )
    for model, count in seen.contradicted.items():
        if count:
            notes.append(
                f"{count:,} predictions of {model} are not the class that it finds most probable:"
                " the predictions are used"
            )
    for model, count in seen.ties.items():
        if count:
            notes.append(
                f"{model} finds two classes equally probable {count:,} times: the first is taken"
            )
    for model, off in seen.off.items():
        if off > 1e-6:
            notes.append(
                f"the probabilities of {model} sum to 1 up to {off:.1g}: they are scaled to 1"
            )
    return notes


# %%
counts = ({"d": 2, "e": 0}, {"d": 1, "e": 0}, {"d": 0.001, "e": 0})
seen = Seen(["a", "a"], {}, ["x"], ["y"], *counts, {"d_p": "smiling = yes"})
print(*seen_notes(seen), sep="\n")
assert seen_notes(seen) == [
    "a",
    'numbers are text in x and numbers in y: "1" and 1 are one name',
    "a single column is the probability of the last of two classes: d_p of smiling = yes",
    "2 predictions of d are not the class that it finds most probable: the predictions are used",
    "d finds two classes equally probable 1 times: the first is taken",
    "the probabilities of d sum to 1 up to 0.001: they are scaled to 1",
]
