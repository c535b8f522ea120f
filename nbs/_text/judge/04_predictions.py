# %% [markdown]
# # Predictions of any two models
#
# > One table or several files become one checked record; what was guessed is said, and nothing is dropped in silence

# %%
#| default_exp judge.predictions

# %%
#| export
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fairgrape.judge.answers import Seen, read_head, seen_notes, shared_column
from fairgrape.judge.columns import (
    Answers,
    Reading,
    group_columns,
    label_columns,
    model_columns,
    refuse_heads,
    unused_columns,
)
from fairgrape.judge.names import aligned, id_columns, no_column, plain_table
from fairgrape.judge.table_files import read_table, short_names
from fairgrape.judge.tables import RESERVED, _some

# %%
import tempfile
from time import process_time

folder = tempfile.TemporaryDirectory()
home = Path(folder.name)


def refused(call, *given, **named) -> str:
    "The error that a call raises, printed"
    try:
        call(*given, **named)
    except (ValueError, FileNotFoundError) as e:
        print(str(e).replace(folder.name, "…"))
        return str(e)
    raise AssertionError(f"{call.__name__} accepted it")


# %% [markdown]
# Who pays for a smaller network is a question about two columns of predictions. It does not matter whether the second network was pruned, quantised or distilled, or which program made the table. This notebook reads such a table: an id, the true label, the predictions of two or more models, and the groups of people.
#
# Tables of other people's making have other names, other codings and gaps. Reading them has two rules. What is not given is guessed, and every guess is a sentence in the notes. What cannot be right is an error, raised before anything is computed, which names the column, how many rows and the first three of them.
#
# The details stand at the end of the chapter: [names and ids](11_names.ipynb), [which column is what](12_columns.ipynb), [classes and probabilities](13_answers.ipynb) and [files](14_table_files.ipynb). Here is the record, and what is checked once everything is read.
#
# ## The record
#
# Everything in the rest of the chapter starts from this record. The first model is the one *before*; the others came after it.

# %%
#| export
@dataclass(frozen=True)
class Predictions:
    "What two or more models said about the same images, checked."

    ids: np.ndarray  # Id of each image, unique strings, shape `(n,)`
    classes: dict[str, list[str]]  # Head → names of its classes, in the order of the codes
    labels: np.ndarray  # True class codes, shape `(n, heads)`, int64 or smaller
    predicted: dict[str, np.ndarray]  # Model → predicted class codes, same shape and type
    # Model → head → shape `(n, C)`, rows sum to 1; a model without probabilities is absent
    probabilities: dict[str, dict[str, np.ndarray]]
    groups: pd.DataFrame  # A column for each grouping, names as strings, n rows
    units: np.ndarray | None  # Code of the person each image shows; None: each image its own
    notes: tuple[str, ...]  # What was guessed or noticed, in sentences


# %% [markdown]
# ## Gaps
#
# An image without a label, prediction, probability or group cannot be judged. Leaving it out is a decision, since gaps are rarely spread evenly over groups; so it is asked for, and it is said whose images were left out.

# %%
#| export
def _incomplete(
    missing: Mapping[str, np.ndarray],  # Column → rows in which it has no value
    ids: np.ndarray,  # Id of each row
    drop: bool,  # Leave these images out?
) -> np.ndarray:  # True where nothing is missing, shape `(n,)`
    "Which images are complete. Raises: ValueError for gaps, unless they are to be left out."
    complete = np.ones(len(ids), dtype=bool)
    for rows in missing.values():
        complete[rows] = False
    if complete.all() or (drop and complete.any()):
        return complete
    parts = [f"{c} in {len(r):,} ({_some([*ids[r]], 3)})" for c, r in missing.items() if len(r)]
    raise ValueError(
        f"something is missing in {(~complete).sum():,} of {len(ids):,} rows: {_some(parts, 6)}."
        " Missing is an empty cell, NaN, None, NA or null; "
        + (
            "no image is complete"
            if drop
            else "complete the table, or leave these images out with drop_missing=True"
        )
    )


# %%
ids = np.array(["x", "y", "z"], dtype=object)
gaps = {"label": np.array([1]), "group tone": np.array([1, 2])}
assert _incomplete(gaps, ids, drop=True).tolist() == [True, False, False]
assert _incomplete({}, ids, drop=False).all()
gone = {"label": np.arange(3)}
for some, drop, part in (
    (gaps, False, "in 2 of 3 rows: label in 1 (y), group tone in 2 (y, z). Missing"),
    (gaps, False, "drop_missing=True"),
    (gone, True, "no image is complete"),
):
    assert part in refused(_incomplete, some, ids, drop)


# %%
#| export
def _left_out(groups: pd.DataFrame, complete: np.ndarray) -> str:
    "How many images of each group were left out, in a sentence"
    parts = []
    for name, own in groups.items():
        counts = own[~complete].fillna("without a group").value_counts()
        parts.append(f"{name}: " + _some([f"{g} {n:,}" for g, n in counts.items()], 14))
    lost = (~complete).sum()
    return f"{lost:,} of {len(groups):,} images are left out, incomplete ({'; '.join(parts)})"


# %%
tones = pd.DataFrame(dict(tone=["light", "dark", None]))
_left_out(tones, np.array([True, False, False]))

# %%
assert _left_out(tones, np.array([True, False, False])) == (
    "2 of 3 images are left out, incomplete (tone: dark 1, without a group 1)"
)

# %% [markdown]
# ## Groups and persons
#
# A grouping needs two groups, and with more than sixty its column is probably an age in years or a person. A group of one image is shown, but nothing can be said about how far its figures would move.

# %%
#| export
MOST_GROUPS = 60


def _grouping_notes(name: str, groups: pd.Series) -> list[str]:
    "What is to be said of a grouping. Raises: ValueError where it cannot be one."
    counts = groups.value_counts()
    if len(counts) < 2:
        raise ValueError(
            f"groups {name}: all images are in one group ({_some([*counts.index])}), and nobody is"
            " there to compare it with: choose another column with groups="
        )
    if len(counts) > MOST_GROUPS:
        raise ValueError(
            f"groups {name}: there are {len(counts):,} groups, up to {MOST_GROUPS} can be judged:"
            " merge them (pandas.cut makes groups of numbers), choose other columns with groups=,"
            " or name the column as cluster=, if it holds persons"
        )
    reserved = [group for group in counts.index if group in RESERVED]
    if reserved:
        raise ValueError(
            f"groups {name}: a group is called {_some(reserved)}, which has another meaning in the"
            " tables: rename it"
        )
    single = [group for group, n in counts.items() if n == 1]
    if not single:
        return []
    return [f"groups {name}: {_some(single)} with one image: it is shown, without an interval"]


# %%
_grouping_notes("tone", pd.Series(["light", "dark", "light"]))

# %%
assert _grouping_notes("tone", pd.Series(["light", "dark", "light"])) == [
    "groups tone: dark with one image: it is shown, without an interval"
]
assert _grouping_notes("tone", pd.Series(["a", "b"] * 2)) == []
assert len(_grouping_notes("age", pd.Series([*map(str, range(60))]))) == 1
for values, part in (
    (["dark"] * 3, "all images are in one group (dark)"),
    ([*map(str, range(61))], "there are 61 groups, up to 60"),
    (["all", "dark"], "a group is called all"),
):
    assert part in refused(_grouping_notes, "tone", pd.Series(values))


# %%
#| export
def _unit_notes(cluster: str, units: np.ndarray, groups: pd.DataFrame) -> list[str]:
    "How many persons there are, in all and in each group"
    parts = []
    for name, own in groups.items():
        counts = pd.Series(units).groupby(own.to_numpy()).nunique()
        parts.append(f"{name}: " + _some([f"{g} {n:,}" for g, n in counts.items()], 14))
    K = len(np.unique(units))
    notes = [f"{len(units):,} images have {K:,} values of {cluster} ({'; '.join(parts)})"]
    if K == 1:
        notes.append(f"all images have the same {cluster}: no interval can be given")
    return notes


# %%
tones = pd.DataFrame(dict(tone=["light", "dark", "light", "dark"]))
_unit_notes("person", np.array([0, 1, 0, 0]), tones)

# %%
assert _unit_notes("person", np.array([0, 1, 0, 0]), tones) == [
    "4 images have 2 values of person (tone: dark 2, light 1)"
]
assert _unit_notes("person", np.zeros(4), tones)[1].startswith("all images have the same person")


# %%
#| export
def _class_notes(
    classes: Mapping[str, Sequence[str]],  # Head → its classes
    labels: np.ndarray,  # Shape `(n, heads)`
    predicted: Mapping[str, np.ndarray],  # Model → the same shape
) -> list[str]:
    "Which classes no image has and which ones a model never predicts"
    total = sum(map(len, classes.values()))

    def unused(codes: np.ndarray) -> list[str]:
        return [
            name if len(classes) == 1 else f"{head}={name}"
            for h, (head, names) in enumerate(classes.items())
            for name, count in zip(names, np.bincount(codes[:, h], minlength=len(names)))
            if not count
        ]

    notes = [
        f"{head} has one class only, {names[0]}: there is nothing to tell apart"
        for head, names in classes.items()
        if len(names) == 1
    ]
    absent = unused(labels)
    if absent:
        notes.append(f"no image has {len(absent)} of {total} classes: {_some(absent)}")
    for model, codes in predicted.items():
        never = unused(codes)
        if never:
            notes.append(f"{model} never predicts {len(never)} of {total} classes: {_some(never)}")
    return notes


# %%
_class_notes({"y": ["a", "b", "c"]}, np.array([[0], [1]]), {"small": np.array([[0], [0]])})

# %%
assert _class_notes({"y": ["a", "b", "c"]}, np.array([[0], [1]]), {"d": np.array([[0], [0]])}) == [
    "no image has 1 of 3 classes: c",
    "d never predicts 2 of 3 classes: b, c",
]
both = np.array([[0, 0], [1, 0]])
assert _class_notes({"y": ["a", "b"], "z": ["c"]}, both, {"d": both[[0, 0]]}) == [
    "z has one class only, c: there is nothing to tell apart",
    "d never predicts 1 of 3 classes: y=b",
]


# %% [markdown]
# A model that is right on every single image, and gives no probabilities, is a copy of the labels.

# %%
#| export
def _refuse_copies(
    labels: np.ndarray,  # Shape `(n, heads)`
    predicted: Mapping[str, np.ndarray],  # Model → the same shape
    probable: Sequence[str],  # Models that give probabilities
) -> list[str]:  # Sentences about models that are always right
    "Raise ValueError for a model that is equal to the labels in all rows."
    notes = []
    for model, codes in predicted.items():
        if not np.array_equal(codes, labels):
            continue
        if model not in probable:
            raise ValueError(
                f"the model {model} is equal to the labels in all {len(labels):,} rows: it is a"
                " copy of them; name the models with models="
            )
        notes.append(f"{model} is right on all {len(labels):,} images")
    return notes


# %%
assert _refuse_copies(both, {"dense": both[[0, 0]]}, []) == []
assert _refuse_copies(both, {"dense": both}, ["dense"]) == ["dense is right on all 2 images"]
copied = refused(_refuse_copies, both, {"dense": both}, [])
assert "dense is equal to the labels in all 2 rows" in copied


# %%
#| export
def _group_table(
    groupings: Mapping[str, Mapping[str, str]],  # Grouping → file → its column
    tables: Mapping[str, pd.DataFrame],  # File → its table
    ids: np.ndarray,  # Id of each image
    seen: Seen,  # To which is added what is noticed
) -> pd.DataFrame:  # A column for each grouping; None where a group is missing
    "Each image's groups, as names."
    table = {}
    for name, places in groupings.items():
        own = shared_column(f"group {name}", places, tables, ids, seen)
        gaps = np.flatnonzero(own.codes < 0)
        if len(gaps):
            seen.missing[f"group {name}"] = gaps
        table[name] = np.array([*own.names, None], dtype=object)[own.codes]
    return pd.DataFrame(table, dtype=object)


def _unit_codes(
    cluster: str,  # Column of persons or photographs
    tables: Mapping[str, pd.DataFrame],  # File → its table
    ids: np.ndarray,  # Id of each image
    seen: Seen,  # To which is added what is noticed
) -> np.ndarray | None:  # Code of each image, -1 where it is missing; None: no column was named
    "Whom each image shows."
    if not cluster:
        return None
    places = {file: cluster for file, table in tables.items() if cluster in table}
    if not places:
        raise no_column(cluster, "cluster", [c for table in tables.values() for c in table])
    own = shared_column(f"cluster {cluster}", places, tables, ids, seen)
    if (own.codes < 0).any():
        seen.missing[f"cluster {cluster}"] = np.flatnonzero(own.codes < 0)
    return own.codes.astype(np.int64)


# %%
people = {"t": pd.DataFrame(dict(group_age=[30, 4.0, None], who=["ann", "bob", "ann"]))}
_group_table({"age": {"t": "group_age"}}, people, ids, seen := Seen())

# %%
assert seen.missing["group age"].tolist() == [2]
by_age = _group_table({"age": {"t": "group_age"}}, people, ids, seen)
assert by_age.age.tolist() == ["30", "4", None]
assert _unit_codes("who", people, ids, seen).tolist() == [0, 1, 0]
assert _unit_codes("", people, ids, seen) is None
assert "did you mean who?" in refused(_unit_codes, "woh", people, ids, seen)


# %%
#| export
def _only(predictions: Predictions, complete: np.ndarray) -> Predictions:
    "The images that are complete."
    if complete.all():
        return predictions
    units = predictions.units
    return replace(
        predictions,
        ids=predictions.ids[complete],
        labels=predictions.labels[complete],
        predicted={model: codes[complete] for model, codes in predictions.predicted.items()},
        probabilities={
            model: {head: values[complete] for head, values in of.items()}
            for model, of in predictions.probabilities.items()
        },
        groups=predictions.groups[complete].reset_index(drop=True),
        units=None if units is None else pd.factorize(units[complete])[0],
        notes=(*predictions.notes, _left_out(predictions.groups, complete)),
    )


# %%
small = Predictions(
    ids=ids,
    classes={"y": ["a", "b"]},
    labels=np.array([[0], [1], [1]]),
    predicted={"dense": np.array([[0], [0], [-1]])},
    probabilities={"dense": {"y": np.array([[0.9, 0.1], [0.8, 0.2], [np.nan, np.nan]])}},
    groups=pd.DataFrame(dict(tone=["light", "dark", "dark"])),
    units=np.array([5, 7, 5]),
    notes=(),
)
kept = _only(small, np.array([False, True, True]))
assert kept.ids.tolist() == ["y", "z"] and kept.units.tolist() == [0, 1]
assert kept.predicted["dense"].tolist() == [[0], [-1]] and kept.groups.tone.tolist() == ["dark"] * 2
assert kept.probabilities["dense"]["y"][0].tolist() == [0.8, 0.2]
assert kept.notes == ("1 of 3 images are left out, incomplete (tone: light 1)",)
assert _only(small, np.ones(3, bool)) is small


# %% [markdown]
# Everything together. Gaps are looked for in all columns before any is refused, and classes, copies and groups are looked at among the images that remain.

# %%
#| export
def _all_heads(
    heads: Mapping[str, Mapping[str, str]],  # Head → file → its column of labels
    models: Mapping[str, Answers],  # Where each model's answers are
    tables: Mapping[str, pd.DataFrame],  # File → its table
    ids: np.ndarray,  # Id of each image
    given: Mapping[str, Sequence[str]],  # Head → its classes, where they were given
    seen: Seen,  # To which is added what is noticed
) -> dict:  # classes, labels, predicted and probabilities of the record
    "All heads' labels and answers; -1 and NaN are gaps."
    labels = np.empty((len(ids), len(heads)), dtype=np.int16)
    predicted = {model: np.empty_like(labels) for model in models}
    classes: dict[str, list[str]] = {}
    probabilities: dict[str, dict[str, np.ndarray]] = {}
    for h, (head, places) in enumerate(heads.items()):
        label = shared_column("labels", places, tables, ids, seen)
        classes[head], true, coded, shares = read_head(
            head, label, models, tables, ids, given.get(head), seen
        )
        labels[:, h] = true
        for model in models:
            predicted[model][:, h] = coded[model]
        for model, values in shares.items():
            probabilities.setdefault(model, {})[head] = values
    return dict(classes=classes, labels=labels, predicted=predicted, probabilities=probabilities)


# %%
#| export
def _gathered(
    tables: Mapping[str, pd.DataFrame],  # File → its table
    reading: Reading,  # What was given
    short: Mapping[str, str],  # File → what a model may be called after it
) -> Predictions:
    "Tables, read and checked."
    seen, given = Seen(), reading.classes or {}
    tables = {file: plain_table(table, file) for file, table in tables.items()}
    columns = id_columns(tables, reading.id, seen.notes)
    ids, tables = aligned(tables, columns)
    heads = label_columns(tables, reading.label, seen.notes)
    for head in given:
        if head not in heads:
            raise ValueError(
                f"classes of {head!r}: there is no such head; there are {_some([*heads])}"
            )
    groupings = group_columns(tables, reading.groups, seen.notes)
    taken = {c for of in (heads, groupings) for places in of.values() for c in places.values()}
    taken |= {reading.cluster, *(c for c in columns.values() if c)}
    models = model_columns(tables, heads, taken, reading, short, seen.notes)
    refuse_heads(models, [*heads])
    seen.notes.extend(unused_columns(tables, models, taken))
    groups = _group_table(groupings, tables, ids, seen)
    units = _unit_codes(reading.cluster, tables, ids, seen)
    answers = _all_heads(heads, models, tables, ids, given, seen)
    complete = _incomplete(seen.missing, ids, reading.drop_missing)
    said = tuple(seen_notes(seen))
    read = _only(Predictions(ids=ids, groups=groups, units=units, notes=said, **answers), complete)
    notes = _refuse_copies(read.labels, read.predicted, [*read.probabilities])
    for name, own in read.groups.items():
        notes += _grouping_notes(name, own)
    if read.units is not None:
        notes += _unit_notes(reading.cluster, read.units, read.groups)
    notes += _class_notes(read.classes, read.labels, read.predicted)
    return replace(read, groups=read.groups.astype(str), notes=(*read.notes, *notes))


# %%
#| export
def predictions_of(
    table: pd.DataFrame,  # A row for each image: id, labels, predictions, groups
    **reading,  # Which column is what, fields of `Reading`: id, label, models, groups, cluster, …
) -> Predictions:
    """The predictions in one table, checked.

    Raises: ValueError for everything that cannot be right, with the column and the first rows."""
    if not isinstance(table, pd.DataFrame):
        raise ValueError(
            f"predictions_of takes a DataFrame, not {type(table).__name__}: files are read by"
            " read_predictions"
        )
    return _gathered({"the table": table}, Reading(**reading), {"the table": "model"})


# %% [markdown]
# Eight faces, five of a light tone and three of a dark one. The network before is wrong about one of them, the one after about three.

# %%
happy, calm = "happy", "calm"
faces = pd.DataFrame(
    dict(
        path=[f"{letter}.png" for letter in "abcdefgh"],
        label=[happy, happy, calm, calm, calm, happy, calm, calm],
        dense=[happy, happy, calm, calm, happy, happy, calm, calm],
        pruned=[happy, happy, calm, calm, happy, happy, happy, happy],
        group_tone=["light"] * 5 + ["dark"] * 3,
        person=[1, 1, 2, 2, 2, 3, 4, 4],
    )
)
read = predictions_of(faces, cluster="person")
print(*read.notes, sep="\n")

# %%
assert read.notes == (
    "ids are taken from the column path",
    "true classes are taken from the column label",
    "groups are taken from the column group_tone",
    "the model before is dense, by its name",
    "models are dense, pruned, by the names or the values of the columns",
    "8 images have 4 values of person (tone: dark 2, light 2)",
)
assert read.ids.tolist() == faces.path.tolist() and read.classes == {"label": [calm, happy]}
assert read.labels.dtype == np.int16 and read.labels[:, 0].tolist() == [1, 1, 0, 0, 0, 1, 0, 0]
assert read.predicted["dense"][:, 0].tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
assert [int((codes != read.labels).sum()) for codes in read.predicted.values()] == [1, 3]
assert read.groups.tone.tolist() == faces.group_tone.tolist() and read.probabilities == {}
assert read.units.tolist() == [0, 0, 1, 1, 1, 2, 3, 3]
assert predictions_of(faces).units is None
assert list(predictions_of(faces, baseline="pruned").predicted) == ["pruned", "dense"]


# %% [markdown]
# The same in another coding and with other names of columns: codes instead of names, probabilities instead of predictions, the name of the index as the id. Two records are compared field by field.

# %%
def same(a: Predictions, b: Predictions) -> bool:
    return (
        a.ids.tolist() == b.ids.tolist()
        and a.classes == b.classes
        and np.array_equal(a.labels, b.labels)
        and list(a.predicted) == list(b.predicted)
        and all(np.array_equal(codes, b.predicted[m]) for m, codes in a.predicted.items())
        and a.groups.equals(b.groups)
    )


def coded(column: str) -> pd.Series:
    return (faces[column] == happy).astype(int)


coded_faces = pd.DataFrame(
    dict(
        path=faces.path,
        label=coded("label"),
        dense_p=coded("dense") * 0.5 + 0.25,
        pruned_p_calm=1 - coded("pruned") * 0.75,
        pruned_p_happy=coded("pruned") * 0.75,
        tone=faces.group_tone,
    )
).set_index("path")
options = dict(groups="tone", classes={"label": [calm, happy]})
probable = predictions_of(coded_faces, **options)
print(*probable.notes, sep="\n")

# %%
assert same(probable, read) and list(probable.probabilities) == ["dense", "pruned"]
assert not same(read, predictions_of(faces, baseline="pruned"))
assert probable.probabilities["dense"]["label"][:2].tolist() == [[0.25, 0.75]] * 2
assert probable.probabilities["pruned"]["label"][2].tolist() == [1, 0]
assert (
    "a single column is the probability of the last of two classes: dense_p of label = happy"
    in probable.notes
)
bare = coded_faces.rename(columns=dict(dense_p="a", pruned_p_calm="b", pruned_p_happy="c"))
by_hand = predictions_of(bare, probabilities={"dense": "a", "pruned": ["b", "c"]}, **options)
assert same(by_hand, read) and np.array_equal(
    by_hand.probabilities["pruned"]["label"], probable.probabilities["pruned"]["label"]
)
both_ways = coded_faces.reset_index().assign(dense=coded("dense"), pruned=coded("pruned"))
assert same(predictions_of(both_ways, **options), read)
without = predictions_of(both_ways, probabilities={}, **options)
assert same(without, read) and without.probabilities == {}
as_bool, as_text = (faces.assign(label=coded("label").map(kind)) for kind in (bool, str))
for table, said in ((as_bool, "True and False are 1 and 0"), (as_text, '"1" and 1 are one name')):
    other = predictions_of(table.assign(dense=coded("dense"), pruned=coded("pruned").astype(float)))
    assert other.classes == {"label": ["0", "1"]} and any(said in note for note in other.notes)
    assert np.array_equal(other.predicted["pruned"], read.predicted["pruned"])

# %% [markdown]
# Several heads: a run's own `predictions.parquet` has this form. Its classes are codes, unless their names are given.

# %%
run = pd.DataFrame(
    dict(
        row=[10, 11, 12, 13],
        split="test",
        group=["blue", "red", "blue", "red"],
        label_shade=[0, 1, 2, 1],
        label_hat=[1, 0, 1, 0],
        dense_shade=[0, 1, 2, 0],
        dense_hat=[1, 0, 1, 0],
        pruned_shade=[0, 1, 1, 0],
        pruned_hat=[1, 1, 1, 1],
    )
)
heads = predictions_of(run, classes={"shade": ["dark", "middle", "light"]})
print(*heads.notes, sep="\n")

# %%
assert heads.classes == {"shade": ["dark", "middle", "light"], "hat": ["0", "1"]}
assert heads.ids.tolist() == ["10", "11", "12", "13"] and list(heads.groups) == ["group"]
assert heads.labels.tolist() == [[0, 1], [1, 0], [2, 1], [1, 0]]
assert heads.predicted["pruned"].tolist() == [[0, 1], [1, 1], [1, 1], [0, 1]]
assert "columns that are not used: split" in heads.notes
assert "pruned never predicts 2 of 5 classes: shade=light, hat=0" in heads.notes
one_head = predictions_of(run.drop(columns=[c for c in run if c.endswith("_hat")]))
assert one_head.classes == {"shade": ["0", "1", "2"]}
assert list(one_head.predicted) == ["dense", "pruned"]

# %% [markdown]
# Gaps are refused, or left out where that is asked for.

# %%
gappy = faces.assign(
    label=[None, *faces.label[1:]],
    dense=["nan", *faces.dense[1:]],
    group_tone=[*faces.group_tone[:7], ""],
)
gaps_said = "group tone in 1 (h.png), label in 1 (a.png), dense in 1 (a.png)."
assert f"missing in 2 of 8 rows: {gaps_said}" in refused(predictions_of, gappy)
six = predictions_of(gappy, drop_missing=True, cluster="person")
left_out = "2 of 8 images are left out, incomplete (tone: light 1, without a group 1)"
print(left_out)
assert left_out in six.notes and six.ids.tolist() == faces.path[1:7].tolist()
assert six.units.tolist() == [0, 1, 1, 1, 2, 3]
assert six.groups.tone.tolist() == ["light"] * 4 + ["dark"] * 2

# %% [markdown]
# And everything else that cannot be right, each with the sentence that it gets.

# %%
extra = faces.assign(third=faces.label, fourth=["happy"] * 7 + ["sad"])
faults = {
    "takes a DataFrame, not str: files are read by read_predictions": ("faces.csv", {}),
    "the table is empty": (faces[:0], {}),
    "no column 'lable': did you mean label?": (faces, dict(label="lable")),
    "no column 'persn': did you mean person?": (faces, dict(cluster="persn")),
    "no column 'group_ton': did you mean group_tone?": (faces, dict(groups=["group_ton"])),
    "no column 'purned': did you mean pruned?": (faces, dict(models=["dense", "purned"])),
    "baseline: no column 'prune'": (faces, dict(baseline="prune")),
    "probabilities: no column 'q'": (faces, dict(probabilities={"dense": ["person", "q"]})),
    "3 of 4 ids in the column person occur more than once (1, 2, 4)": (faces, dict(id="person")),
    "label is a column of true classes and was named as a model too": (
        faces,
        dict(models=["label", "dense"]),
    ),
    "third is equal to the labels in all 8 rows": (extra, {}),
    "only one model was found, dense": (faces.drop(columns="pruned"), {}),
    "columns that might be: person, fourth": (extra.drop(columns=["pruned", "third"]), {}),
    "no column of groups": (faces.drop(columns="group_tone"), {}),
    "all images are in one group (light)": (faces.assign(group_tone="light"), {}),
    "there is no such head; there are label": (faces, dict(classes={"mood": [calm, happy]})),
    "label hold 'happy': the classes are 'calm', 'sad'": (
        faces,
        dict(classes={"label": [calm, "sad"]}),
    ),
    "label counted from 1 are converted by label - 1": (
        coded_faces.assign(label=[2, 2, 1, 1, 1, 2, 1, 1]),
        options,
    ),
    "dense of label holds 1, 2": (faces.assign(dense=[1, 2] * 4), dict(models=["dense"])),
    "do not sum to 1 (but to 0.5), in 1 of 8 rows (a.png)": (
        coded_faces.assign(pruned_p_happy=[0.25, 0.75, 0, 0, 0.75, 0.75, 0.75, 0.75]),
        options,
    ),
    "the probabilities in dense_p are not numbers: could not convert string to float: 'often'": (
        faces.assign(dense_p="often"),
        {},
    ),
    "no column for the class calm": (faces.assign(dense_p_happy=0.5), {}),
    "the model pruned has answers for 1 of 2 heads: there is no column pruned_hat": (
        run.drop(columns="pruned_hat"),
        {},
    ),
}
for part, (wrong, asked) in faults.items():
    assert part in refused(predictions_of, wrong, **asked)
only_dense = predictions_of(faces, models="dense")
assert list(only_dense.predicted) == ["dense"]
assert "columns that are not used: pruned, person" in only_dense.notes


# %% [markdown]
# ## From files

# %%
#| export
def read_predictions(
    files: str | Path | Sequence[str | Path],  # One file, or several about the same images
    **reading,  # Which column is what, fields of `Reading`: id, label, models, groups, cluster, …
) -> Predictions:
    """The predictions in one file, or in several that are joined by id.

    Raises: FileNotFoundError; ValueError for everything that cannot be right."""
    asked = Reading(**reading)
    names = [str(file) for file in ([files] if isinstance(files, (str, Path)) else files)]
    if not names:
        raise ValueError("no file was given: one with all models, or one for each")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"{_some(twice)} was given twice")
    tables = {name: read_table(name, asked.id) for name in names}
    return _gathered(tables, asked, short_names(names))


# %% [markdown]
# The faces from above, once in one file and once in three: what is known about them, and each model's own file, in another order. Both models' columns are called `pred`, so that they are called after their files.

# %%
faces.to_csv(home / "all.csv", index=False)
faces.to_csv(home / "all.csv.gz", index=False)
faces.to_parquet(home / "all.parquet", index=False)
faces[["path", "label", "group_tone"]].to_csv(home / "known.csv", index=False)
for model in ("dense", "pruned"):
    own = faces[["path", "label", model]].rename(columns={model: "pred"})
    own[::-1].to_csv(home / f"{model}.csv", index=False)
three = read_predictions([home / f"{name}.csv" for name in ("known", "pruned", "dense")])
print(*(note.replace(folder.name, "…") for note in three.notes), sep="\n")

# %%
assert same(three, read) and list(three.predicted) == ["dense", "pruned"]
for ending in ("csv", "csv.gz", "parquet"):
    assert same(read_predictions(home / f"all.{ending}", cluster="person"), read)
(home / "run").mkdir()
run.to_parquet(home / "run" / "predictions.parquet", index=False)
assert same(read_predictions(home / "run" / "predictions.parquet"), predictions_of(run))

# %% [markdown]
# Files that do not belong together are refused.

# %%
faces[:6].to_csv(home / "six.csv", index=False)
own = faces.assign(label=[calm, calm, *faces.label[2:]])
own.to_csv(home / "relabelled.csv", index=False)
faces.assign(group_tone="light").to_csv(home / "regrouped.csv", index=False)
faces.drop(columns="path").to_csv(home / "nameless.csv", index=False)
faults = {
    "{home}/six.csv lacks 2 of 8 ids of {home}/all.csv (g.png, h.png)": ["all.csv", "six.csv"],
    "differ in 2 of 8 rows (a.png, b.png): are these the same images?": [
        "all.csv",
        "relabelled.csv",
    ],
    "group tone: group_tone of {home}/all.csv and group_tone of {home}/regrouped.csv differ in 3": [
        "all.csv",
        "regrouped.csv",
    ],
    "no column of ids in common ({home}/all.csv: path; {home}/nameless.csv: none)": [
        "all.csv",
        "nameless.csv",
    ],
    "all.csv was given twice": ["all.csv", "all.csv"],
    "no file was given": [],
}
for part, names in faults.items():
    assert part.format(home=home) in refused(read_predictions, [home / name for name in names])
folder.cleanup()

# %% [markdown]
# ## Size
#
# A hundred thousand images and forty heads. A million take ten times as long; nbs/_tests/test_predictions.py measures it.

# %%
rng = np.random.default_rng(0)
truth = rng.integers(0, 2, (100_000, 40), dtype=np.int8)
columns = {f"label_a{h}": truth[:, h] for h in range(40)}
for model in ("dense", "pruned"):
    wrong = rng.random(truth.shape) < 0.1
    columns |= {f"{model}_a{h}": np.where(wrong[:, h], 1 - t, t) for h, t in enumerate(truth.T)}
large = pd.DataFrame(columns | dict(group=rng.integers(0, 14, 100_000)))
start = process_time()
many = predictions_of(large)
seconds = process_time() - start
print(f"{seconds:.1f} s")
assert seconds < 10 and (many.labels == truth).all() and len(many.classes) == 40
