# %% [markdown]
# # Predictions of any two models
#
# > One table or several files become one checked record; what was guessed is said, and nothing is dropped in silence

# %%
#| default_exp judge.predictions

# %%
#| export
import csv
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairgrape.judge.tables import RESERVED, _some, class_codes

# %%
import tempfile
from time import process_time


# %% [markdown]
# Who pays for a smaller network is a question about two columns of predictions. It does not matter whether the second network was pruned, quantised or distilled, or which program made the table. This notebook reads such a table: an id, the true label, the predictions of two or more models, and the groups of people.
#
# Tables of other people's making have other names, other codings and gaps. Reading them has two rules. What is not given is guessed, and every guess is a sentence in the notes. What cannot be right is an error, raised before anything is computed, which names the column, how many rows and the first three of them.
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


# %%
#| export
def _listed(value: str | Sequence[str]) -> tuple[str, ...]:
    "One name or several, as several"
    return (value,) if isinstance(value, str) and value else tuple(value)


# %%
assert _listed("dense") == ("dense",) and _listed("") == () and _listed(["a", "b"]) == ("a", "b")


# %% [markdown]
# How a table is read can be stated field by field. Whatever is left empty is guessed from the names of the columns.

# %%
#| export
@dataclass(frozen=True)
class Reading:
    "Which column is what; empty fields are guessed."

    id: str = ""  # Column that names each image
    label: str = ""  # Column of true classes; with several heads, what stands before `_HEAD`
    # Columns of predicted classes; or what stands before `_HEAD`, `_p` or `_p_CLASS`
    models: Sequence[str] = ()
    groups: Sequence[str] = ()  # Columns of groups
    cluster: str = ""  # Column of persons or photographs; empty: each image stands for itself
    # Column of predictions (there or not) → its probability columns, in the order of the classes;
    # None: by their names; {}: none are read
    probabilities: Mapping[str, Sequence[str]] | None = None
    baseline: str = ""  # The model before
    classes: Mapping[str, Sequence[str]] | None = None  # Head → class names, in order of the codes
    drop_missing: bool = False  # Leave out images of which something is missing

    def __post_init__(self):
        for field in ("models", "groups"):  # one name stands for a list of one
            object.__setattr__(self, field, _listed(getattr(self, field)))


# %%
Reading(label="smiling", models="dense", groups=["tone", "age"])

# %%
assert Reading(models="dense").models == ("dense",) and Reading(groups=iter("ab")).groups == (
    "a",
    "b",
)

# %% [markdown]
# ## Names
#
# Labels, predictions, groups and ids are all names, whatever type they have in the file. The number 1, the float 1.0 (a column of integers with a gap becomes one) and the text "1" are the same name. Words that mean that there is no value, such as an empty cell or `nan`, are no name.

# %%
#| export
_NO_VALUE = {"", "nan", "na", "n/a", "#n/a", "<na>", "nat", "none", "null"}


def _name(value) -> str:
    "A value as a name; empty where there is none"
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if float(value).is_integer() else str(float(value))
    text = str(value).strip()
    if re.fullmatch(r"-?\d+\.0+", text):
        return text.partition(".")[0]
    return "" if text.casefold() in _NO_VALUE else text


# %%
names = [_name(v) for v in (1, 1.0, "1", " 1.0", np.int8(1), True, 0.5, "01", "", "NaN", "None")]
print(names)
assert names == ["1", "1", "1", "1", "1", "True", "0.5", "01", "", "", ""]


# %% [markdown]
# A column becomes codes and names, −1 where a value is missing. Its kind is kept as well, to be able to say that one file has numbers where the other has text.

# %%
#| export
class _Named(NamedTuple):
    "A column as codes"

    codes: np.ndarray  # Place of each row's name in `names`, -1 where it is missing, shape `(n,)`
    names: list[str]  # Names that occur, each once
    kind: str  # 'number', 'bool', 'text', or 'mixed' of them


# %%
#| export
def _named(values: pd.Series) -> _Named:
    "A column's names, in the order in which they occur"
    try:
        codes, found = pd.factorize(values)
    except TypeError:
        raise ValueError(f"column {values.name!r} holds lists, not one value an image") from None
    found = found.tolist()
    kinds = {
        "bool" if isinstance(v, bool) else "number" if isinstance(v, (int, float)) else "text"
        for v in found
    }
    place = {"": -1}
    for name in map(_name, found):
        place.setdefault(name, len(place) - 1)
    lookup = np.array([*(place[_name(v)] for v in found), -1], dtype=np.int64)
    small = np.int16 if len(place) < 2**15 else np.int32
    kind = kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "text"
    return _Named(lookup.astype(small)[codes], list(place)[1:], kind)


# %%
_named(pd.Series([2.0, np.nan, 1.0, 2.0]))

# %%
assert _named(pd.Series([2.0, np.nan, 1.0, 2.0])).codes.tolist() == [0, -1, 1, 0]
assert _named(pd.Series([2.0, np.nan, 1.0, 2.0]))[1:] == (["2", "1"], "number")
mixed = _named(pd.Series(["a", 1, "1", "", None], dtype=object))
assert mixed.codes.tolist() == [0, 1, 1, -1, -1] and mixed[1:] == (["a", "1"], "mixed")
assert _named(pd.Series([True, False])).kind == "bool"
assert _named(pd.Series(["b", "a"], dtype="category"))[1:] == (["b", "a"], "text")
assert _named(pd.Series([None, None], dtype=object)).codes.tolist() == [-1, -1]
try:
    _named(pd.Series([[1, 2], [3]], name="embedding"))
except ValueError as e:
    print(e)
    assert "'embedding' holds lists" in str(e)
else:
    raise AssertionError("a column of lists was accepted")


# %% [markdown]
# The names of classes are sorted, numbers by their value.

# %%
#| export
def _sorted(names: set[str]) -> list[str]:
    "Names in alphabetical order, whole numbers first and by value"
    number = {name for name in names if re.fullmatch(r"-?\d+", name)}
    return [*sorted(number, key=lambda name: (int(name), name)), *sorted(names - number)]


# %%
print(_sorted({"10", "2", "-1", "sad", "calm"}))
assert _sorted({"10", "2", "-1", "sad", "calm"}) == ["-1", "2", "10", "calm", "sad"]


# %% [markdown]
# A misspelled name of a column is answered with those that are near.

# %%
#| export
def _no_column(name: str, what: str, columns: Sequence[str]) -> ValueError:
    "The error for a column that is not there"
    near = get_close_matches(name, list(columns), 3)
    there = f"there are {_some([*columns], 20)}"
    hint = f"did you mean {' or '.join(near)}?" if near else there
    return ValueError(f"{what}: no column {name!r}: {hint}")


# %%
print(_no_column("lable", "label", ["id", "label", "dense"]))
assert str(_no_column("lable", "label", ["label"])) == (
    "label: no column 'lable': did you mean label?"
)
assert str(_no_column("zzz", "id", ["a", "b"])) == "id: no column 'zzz': there are a, b"


# %%
#| export
def _like(name: str, columns: Sequence[str]) -> str | None:
    "The column of that name, or of that name in other letters (ID, Label)"
    if name in columns:
        return name
    return next((column for column in columns if column.casefold() == name), None)


# %%
assert _like("id", ["ID", "id"]) == "id" and _like("id", ["x", "Id"]) == "Id"
assert _like("id", ["idx"]) is None


# %% [markdown]
# ## Which image is which
#
# Below, a table has a name: the file that it came from. Columns are looked at first.

# %%
#| export
def _plain(table: pd.DataFrame, file: str) -> pd.DataFrame:
    """A table with its index among the columns, where that has a name.

    Raises: ValueError for a table without rows or with two columns of one name."""
    if any(name is not None for name in table.index.names):
        table = table.reset_index(allow_duplicates=True)
    if not len(table):
        raise ValueError(f"{file} is empty: there is no row in it")
    table = table.set_axis([str(column) for column in table.columns], axis=1)
    twice = table.columns[table.columns.duplicated()].unique().tolist()
    if twice:
        raise ValueError(f"{file} has two columns called {_some(twice)}: rename or leave out one")
    return table


# %%
by_id = pd.DataFrame(dict(dense=[0, 1]), index=pd.Index(["x", "y"], name="id"))
_plain(by_id, "a.csv")

# %%
assert list(_plain(by_id, "a.csv")) == ["id", "dense"]
for wrong, part in (
    (by_id[:0], "a.csv is empty"),
    (by_id.assign(id=0), "a.csv has two columns called id"),
    (pd.DataFrame([[1, 2]], columns=["y", "y"]), "two columns called y"),
):
    try:
        _plain(wrong, "a.csv")
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"accepted: {part}")

# %%
#| export
ID_NAMES = ("id", "path", "file", "image", "filename", "row")


def _id_columns(
    tables: Mapping[str, pd.DataFrame],  # File → its table
    asked: str,  # The name that was given
    notes: list[str],  # To which the guess is added
) -> dict[str, str | None]:  # File → its column of ids; None in all: the row number
    "Where the ids are. Raises: ValueError where one file has them and another has not."
    if asked:
        for table in tables.values():
            if asked not in table:
                raise _no_column(asked, "id", table.columns)
        return dict.fromkeys(tables, asked)
    for name in ID_NAMES:
        found = {file: _like(name, table.columns) for file, table in tables.items()}
        if all(found.values()):
            notes.append(f"ids are taken from the column {_some([*dict.fromkeys(found.values())])}")
            return found
    own = {
        file: [c for c in table.columns if c.casefold() in ID_NAMES]
        for file, table in tables.items()
    }
    if any(own.values()):
        has = "; ".join(f"{file}: {_some(columns) or 'none'}" for file, columns in own.items())
        raise ValueError(
            f"the files have no column of ids in common ({has}): give it one name in all of them,"
            " and name it with id="
        )
    joined = ", and the files are joined by it: are they in one order?" if len(tables) > 1 else ""
    notes.append(f"no column of ids ({', '.join(ID_NAMES)}): an image's id is its row{joined}")
    return dict.fromkeys(tables)


# %%
two = {"a.csv": pd.DataFrame(dict(Path=["x"], row=[7])), "b.csv": pd.DataFrame(dict(row=[7]))}
print(_id_columns(two, "", said := []), *said)

# %%
assert _id_columns(two, "", []) == {"a.csv": "row", "b.csv": "row"}
assert _id_columns({"a.csv": two["a.csv"]}, "", []) == {"a.csv": "Path"}
assert _id_columns({"a.csv": pd.DataFrame(dict(x=[1]))}, "", said := []) == {"a.csv": None}
assert said == ["no column of ids (id, path, file, image, filename, row): an image's id is its row"]
apart = {"a.csv": pd.DataFrame(dict(path=["x"])), "b.csv": pd.DataFrame(dict(image=["x"]))}
for tables, asked, part in ((apart, "", "a.csv: path; b.csv: image"), (apart, "pat", "mean path?")):
    try:
        _id_columns(tables, asked, [])
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError("files without a common id were accepted")


# %% [markdown]
# Rows of several files are joined by id and never by position. Each file must hold the same images, each of them once. The order is that of the first file.

# %%
#| export
def _ids_of(table: pd.DataFrame, column: str | None, file: str) -> pd.Index:
    "Each row's id. Raises: ValueError for ids that are missing or there twice."
    if column is None:
        return pd.Index([*map(str, range(len(table)))], dtype=object)
    named = _named(table[column])
    lost = np.flatnonzero(named.codes < 0)
    if len(lost):
        raise ValueError(
            f"{file}: the column {column} has no id in {len(lost):,} of {len(table):,} rows"
            f" ({_some([*map(str, lost)], 3)}, counted from 0)"
        )
    ids = pd.Index(np.array(named.names, dtype=object)[named.codes], dtype=object)
    if len(named.names) < len(ids):
        twice = ids[ids.duplicated()].unique()
        raise ValueError(
            f"{file}: {len(twice):,} of {len(named.names):,} ids in the column {column} occur more"
            f" than once ({_some([*twice], 3)}): each image needs one row and an id of its own"
        )
    return ids


# %%
#| export
def _aligned(
    tables: Mapping[str, pd.DataFrame],  # File → its table
    columns: Mapping[str, str | None],  # File → its column of ids
) -> tuple[np.ndarray, dict[str, pd.DataFrame]]:  # Ids; file → its table, rows in one order
    "Bring the rows of all files into the order of the first. Raises: ValueError for other images."
    ids = {file: _ids_of(table, columns[file], file) for file, table in tables.items()}
    (first, order), *others = ids.items()
    same = {first: tables[first]}
    for file, own in others:
        lost, more = order[~order.isin(own)], own[~own.isin(order)]
        if len(lost) or len(more):
            parts = [
                f"{b} lacks {len(of):,} of {n:,} ids of {a} ({_some([*of], 3)})"
                for of, n, a, b in ((lost, len(order), first, file), (more, len(own), file, first))
                if len(of)
            ]
            raise ValueError(f"{' and '.join(parts)}: both files must hold the same images")
        place = own.get_indexer(order)
        same[file] = tables[file] if own.equals(order) else tables[file].iloc[place]
    return order.to_numpy(), {f: table.reset_index(drop=True) for f, table in same.items()}


# %%
one = pd.DataFrame(dict(id=[3, 1, 2], x=[30, 10, 20]))
other = pd.DataFrame(dict(id=["1", "2", "3"], y=[11, 21, 31]))
ids, parts = _aligned({"a.csv": one, "b.csv": other}, {"a.csv": "id", "b.csv": "id"})
parts["a.csv"].assign(y=parts["b.csv"].y)

# %%
assert ids.tolist() == ["3", "1", "2"] and parts["b.csv"].y.tolist() == [31, 11, 21]
refused = {
    "b.csv lacks 1 of 3 ids of a.csv (3)": (one, other[:2]),
    "b.csv lacks 2 of 3 ids of a.csv (3, 1) and a.csv lacks 1 of 2 ids of b.csv (9)": (
        one,
        pd.DataFrame(dict(id=[2, 9])),
    ),
    "b.csv: 1 of 3 ids in the column id occur more than once (1)": (
        one,
        pd.DataFrame(dict(id=[1, 2, 3, 1.0])),
    ),
    "a.csv: the column id has no id in 1 of 3 rows (2, counted from 0)": (
        pd.DataFrame(dict(id=["1", "2", ""])),
        other,
    ),
}
for part, (a, b) in refused.items():
    try:
        _aligned({"a.csv": a, "b.csv": b}, {"a.csv": "id", "b.csv": "id"})
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"accepted: {part}")
by_row = {"a.csv": one, "b.csv": other[:2]}
try:
    _aligned(by_row, dict.fromkeys(by_row))
except ValueError as e:
    print(e)
    assert "b.csv lacks 1 of 3 ids of a.csv (2)" in str(e)
else:
    raise AssertionError("files of two lengths were joined by their rows")

# %% [markdown]
# ## Labels and groups
#
# A network has one head (`label`) or several, one for each attribute (`label_smiling`, `label_young`). Labels may stand in one file or in all of them.

# %%
#| export
LABEL_NAMES = ("label", "y_true", "y", "target", "true")


def _heads(
    tables: Mapping[str, pd.DataFrame],  # File → its table
    asked: str,  # The name that was given
    notes: list[str],  # To which the guess is added
) -> dict[str, dict[str, str]]:  # Head → file → its column of labels
    "Where the true classes are. Raises: ValueError where there are none."
    columns = list(dict.fromkeys(column for table in tables.values() for column in table))
    for name in [asked] if asked else LABEL_NAMES:
        one = name if name in columns else None if asked else _like(name, columns)
        if one:
            if not asked:
                notes.append(f"true classes are taken from the column {one}")
            head = one.removeprefix("label_") or one
            return {head: {file: one for file, table in tables.items() if one in table}}
    prefix = f"{asked or 'label'}_"
    many = [c for c in columns if c.startswith(prefix) and c != prefix]
    if not many and asked:
        raise _no_column(asked, "label", columns)
    if not many:
        raise ValueError(
            f"no column of true classes ({', '.join(LABEL_NAMES)} or label_HEAD): name it with"
            f" label=; there are {_some(columns, 20)}"
        )
    if not asked:
        notes.append(f"true classes are taken from the columns {_some(many)}")
    return {
        column.removeprefix(prefix): {f: column for f, table in tables.items() if column in table}
        for column in many
    }


# %%
pair = {
    "a.csv": pd.DataFrame(columns=["label_smiling", "label_young", "dense_young"]),
    "b.csv": pd.DataFrame(columns=["label_young", "small_young"]),
}
_heads(pair, "", said := [])

# %%
assert _heads(pair, "", said := []) == {
    "smiling": {"a.csv": "label_smiling"},
    "young": {"a.csv": "label_young", "b.csv": "label_young"},
}
assert said == ["true classes are taken from the columns label_smiling, label_young"]
assert _heads({"t": pd.DataFrame(columns=["Target", "y_pred"])}, "", said := []) == {
    "Target": {"t": "Target"}
}
assert said == ["true classes are taken from the column Target"]
assert _heads(pair, "label_young", said := []) == {
    "young": {"a.csv": "label_young", "b.csv": "label_young"}
}
assert said == [] and list(_heads(pair, "dense", [])) == ["young"]
for asked, table, part in (
    ("", "b.csv", "no column of true classes"),
    ("smile", "a.csv", "no column 'smile'"),
):
    try:
        _heads({table: pair[table].drop(columns="label_young")}, asked, [])
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError("a table without labels was accepted")


# %%
#| export
def _groupings(
    tables: Mapping[str, pd.DataFrame],  # File → its table
    asked: Sequence[str],  # The names that were given
    notes: list[str],  # To which the guess is added
) -> dict[str, dict[str, str]]:  # Grouping → file → its column
    "Where the groups are: `group`, `group_NAME`, or the given columns."
    columns = list(dict.fromkeys(column for table in tables.values() for column in table))
    if asked:
        found = [c if c in columns else f"group_{c}" for c in asked]
        for name, column in zip(asked, found):
            if column not in columns:
                raise _no_column(name, "groups", columns)
    else:
        found = [c for c in columns if c == _like("group", columns) or c.startswith("group_")]
        if not found:
            raise ValueError(
                "no column of groups (group or group_NAME): name one or more with groups=; there"
                f" are {_some(columns, 20)}"
            )
        word = "columns" if len(found) > 1 else "column"
        notes.append(f"groups are taken from the {word} {_some(found)}")
    short = [column.removeprefix("group_") or column for column in found]
    names = short if len({*short}) == len({*found}) else found
    return {
        name: {file: column for file, table in tables.items() if column in table}
        for name, column in zip(names, found)
    }


# %%
of_people = {"t": pd.DataFrame(columns=["label", "group_tone", "group_age", "sex"])}
_groupings(of_people, (), said := [])

# %%
assert said == ["groups are taken from the columns group_tone, group_age"]
assert _groupings(of_people, ("sex", "tone"), []) == {
    "sex": {"t": "sex"},
    "tone": {"t": "group_tone"},
}
twice = {"t": pd.DataFrame(columns=["age", "group_age"])}  # two columns that would have one name
assert list(_groupings(twice, ("age", "group_age"), [])) == ["age", "group_age"]
for table, asked, part in (
    (pair, (), "no column of groups"),
    (of_people, ("group_ton",), "no column 'group_ton': did you mean group_tone or"),
):
    try:
        _groupings(table, asked, [])
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError("a table without groups was accepted")


# %% [markdown]
# While columns are read, what is noticed is gathered, since with forty heads one sentence for all of them says more than forty.

# %%
#| export
class _Seen(NamedTuple):
    "What is gathered on the way, to be said once"

    notes: list[str]  # Sentences
    missing: dict[str, np.ndarray]  # Column → rows in which it has no value
    as_text: list[str]  # Columns that hold numbers as text,
    as_number: list[str]  # and those with which they were compared
    contradicted: dict[str, int]  # Model → answers that are not its most probable class
    ties: dict[str, int]  # Model → answers for which two classes are equally probable
    off: dict[str, float]  # Model → how far its probabilities are from a sum of 1
    last: dict[str, str]  # Column that holds the probability of the last class → head = class


def _nothing_seen() -> _Seen:
    "The record before anything was read"
    return _Seen([], {}, [], [], {}, {}, {}, {})


# %% [markdown]
# Numbers in one column and the same numbers as text in another are the same names already. True and False stand for 1 and 0 beside a column that holds nothing else.

# %%
#| export
def _alike(columns: dict[str, _Named], seen: _Seen) -> dict[str, _Named]:
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
seen = _nothing_seen()
three = dict(label=pd.Series([0, 1]), dense=pd.Series([True, False]), small=pd.Series(["1", "0"]))
{c: own.names for c, own in _alike({c: _named(v) for c, v in three.items()}, seen).items()}

# %%
assert seen.notes == ["True and False are 1 and 0 in dense"]
assert (seen.as_text, seen.as_number) == (["small"], ["label"])
words = {c: _named(pd.Series(v)) for c, v in dict(label=["a", "1b"], dense=[True, False]).items()}
assert _alike(words, seen := _nothing_seen()) == words and not seen.notes and not seen.as_text


# %%
#| export
def _shared(
    what: str,  # What it is, for the error
    places: Mapping[str, str],  # File → column
    tables: Mapping[str, pd.DataFrame],  # File → its table, rows in one order
    ids: np.ndarray,  # Id of each row
    seen: _Seen,  # To which is added what is noticed
) -> _Named:
    "A column that stands in one file or several. Raises: ValueError where they disagree."
    found = _alike({f"{c} of {f}": _named(tables[f][c]) for f, c in places.items()}, seen)
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
_shared("label", {"a.csv": "label", "b.csv": "label"}, labels, ids, seen := _nothing_seen())

# %%
assert (seen.as_text, seen.as_number) == (["label of b.csv"], ["label of a.csv"])
try:
    _shared("label", dict.fromkeys(labels, "label"), labels, ids, seen)
except ValueError as e:
    print(e)
    assert "label of a.csv and label of c.csv differ in 2 of 3 rows (y, z)" in str(e)
else:
    raise AssertionError("labels that contradict each other were accepted")


# %% [markdown]
# ## Models
#
# What a column is follows from its name. With the heads `smiling` and `young`, `dense_young` holds the classes that the model `dense` predicts, `dense_young_p_yes` the probability of the class yes, and `dense_young_p` that of the last of two classes. With a single head its name may be left out: `dense`, `dense_p_yes`, `dense_p`.

# %%
#| export
def _split_name(
    column: str,  # Name of a column
    heads: Sequence[str],  # Names of the heads
) -> tuple[str, str, str | None] | None:  # None: it belongs to no head
    "Model, head and class; the class is None for predicted classes and empty for the last of two"
    stem, name = column, None
    if "_p_" in column:
        stem, name = column.rsplit("_p_", 1)
        name = _name(name) or name
    elif column.endswith("_p"):
        stem, name = column[:-2], ""
    ends = [head for head in heads if stem.endswith(f"_{head}") and len(stem) > len(head) + 1]
    if ends:
        head = max(ends, key=len)
        return stem[: -len(head) - 1], head, name
    return (stem, heads[0], name) if len(heads) == 1 and stem else None


# %%
heads = ["hair", "gray_hair"]
for column in ("dense_hair", "dense_gray_hair", "dense_gray_hair_p_yes", "dense_hair_p", "split"):
    print(column, "→", _split_name(column, heads))

# %%
assert _split_name("dense_gray_hair", heads) == ("dense", "gray_hair", None)
assert _split_name("my_net_hair_p", heads) == ("my_net", "hair", "")
assert _split_name("dense_gray_hair_p_yes", heads) == ("dense", "gray_hair", "yes")
assert _split_name("split", heads) is None and _split_name("hair", heads) is None
assert _split_name("dense", ["label"]) == ("dense", "label", None)
assert _split_name("dense_shade", ["shade"]) == ("dense", "shade", None)
assert _split_name("dense_p_yes", ["label"]) == ("dense", "label", "yes")
assert _split_name("dense_p_1.0", ["label"]) == ("dense", "label", "1")


# %%
#| export
class _Answers(NamedTuple):
    "Where the answers of one model are"

    file: str
    predicted: dict[str, str]  # Head → its column of classes
    # Head → class → its column, with an empty class for the last of two; or columns in the order of
    # the classes
    probabilities: dict[str, dict[str, str] | tuple[str, ...]]


def _holds(values: pd.Series, names: set[str], all_of_them: bool = True) -> bool:
    "Is every value (or any) one of these names?"
    for some in (values.iloc[:1000], values):  # most columns are ruled out by their first rows
        try:
            found = set(_named(some).names)
        except ValueError:
            return False
        if not (found and found <= names if all_of_them else found & names):
            return False
    return True


# %%
assert _holds(pd.Series([0, 1.0, np.nan]), {"0", "1", "2"})
assert not _holds(pd.Series([0, 0.5]), {"0", "1"}) and not _holds(pd.Series([[0]]), {"0"})
assert _holds(pd.Series(["a", "b"]), {"b"}, False) and not _holds(pd.Series([None]), {"b"})
assert not _holds(pd.Series([0] * 1000 + [7]), {"0"})


# %% [markdown]
# With a single head any column whose values are classes may be a model. With several, only a name tells.

# %%
#| export
def _models_in(
    file: str,  # Where the table came from
    table: pd.DataFrame,  # Its columns that are not yet spoken for
    heads: Sequence[str],  # Names of the heads
    known: set[str],  # Classes of a single head, as far as the labels show them, and their codes
    asked: Sequence[str],  # Names of models or columns that were given
    binary: bool = True,  # May a single head have two classes?
) -> dict[str, _Answers]:
    "The models of which a table holds predictions or probabilities."
    found: dict[str, _Answers] = {}
    for column in table.columns:
        model, head, name = _split_name(column, heads) or ("", "", None)
        one, values = len(heads) == 1, table[column]
        if one and column in asked:
            model, name = column, None
        elif not head:
            continue
        elif one and name is not None:
            # a model that is called net_p_2 is no probability of the class 2
            number = pd.api.types.is_numeric_dtype(values)
            if not (number and not name) and name not in known and _holds(values, known):
                model, name = column, None
        elif one and not _holds(values, known):
            if column == model or not _holds(values, known, all_of_them=False):
                continue
        own = found.setdefault(model, _Answers(file, {}, {}))
        if name is None:
            own.predicted[head] = column
        else:
            own.probabilities.setdefault(head, {})[name] = column
    if asked:
        return {model: own for model, own in found.items() if model in asked}
    return {
        model: own
        for model, own in found.items()
        if own.predicted
        or len(heads) > 1
        or known & {*own.probabilities[heads[0]]}
        or (binary and "" in own.probabilities[heads[0]])
    }


# %%
table = pd.DataFrame(dict(dense=["yes", "no"], small_p=[0.9, 0.2], loss=[0.1, 0.7], fold=[1, 2]))
_models_in("t", table, ["label"], {"yes", "no"}, ())

# %%
assert _models_in("t", table, ["label"], {"yes", "no"}, ()) == {
    "dense": _Answers("t", {"label": "dense"}, {}),
    "small": _Answers("t", {}, {"label": {"": "small_p"}}),
}
assert list(_models_in("t", table, ["label"], {"yes", "no"}, ["small"])) == ["small"]
assert list(_models_in("t", table, ["label"], {"yes", "no", "?"}, (), False)) == ["dense"]
odd = pd.DataFrame(
    dict(net_p_2=[0, 1], net_p_0=[0, 1], m_p_1=[0.5, 0.5], q_p_9=[0.5, 0.5], a_y=["1", "7"])
)
assert _models_in("t", odd, ["y"], {"0", "1"}, ()) == {
    "net_p_2": _Answers("t", {"y": "net_p_2"}, {}),
    "net": _Answers("t", {}, {"y": {"0": "net_p_0"}}),
    "m": _Answers("t", {}, {"y": {"1": "m_p_1"}}),
    "a": _Answers("t", {"y": "a_y"}, {}),
}
many = pd.DataFrame(columns=["dense_hair", "dense_young", "small_young_p", "split"])
assert _models_in("t", many, ["hair", "young"], set(), ()) == {
    "dense": _Answers("t", {"hair": "dense_hair", "young": "dense_young"}, {}),
    "small": _Answers("t", {}, {"young": {"": "small_young_p"}}),
}


# %% [markdown]
# Two files often call their predictions by the same name, `pred`. Then each model is called after its file. Files that bring several models, such as two runs with one dense network, may share one of them.

# %%
#| export
def _same_answers(a: _Answers, b: _Answers, tables: Mapping[str, pd.DataFrame]) -> bool:
    "Are two models' columns equal in all rows?"

    def columns(own: _Answers) -> dict:
        return {head: (c,) for head, c in own.predicted.items()} | {
            ("p", head): tuple(of.values() if isinstance(of, dict) else of)
            for head, of in own.probabilities.items()
        }

    ours, theirs = columns(a), columns(b)
    return ours.keys() == theirs.keys() and all(
        len(ours[key]) == len(theirs[key])
        and all(
            tables[a.file][x].astype(str).equals(tables[b.file][y].astype(str).rename(x))
            for x, y in zip(ours[key], theirs[key])
        )
        for key in ours
    )


def _apart(
    found: Sequence[tuple[str, _Answers]],  # Models of all files, with their names there
    tables: Mapping[str, pd.DataFrame],  # File → its table
    short: Mapping[str, str],  # File → what a model may be called after it
    notes: list[str],  # To which is added what was renamed
) -> dict[str, _Answers]:  # By unique names
    "A name of its own for each model."
    count = {file: sum(own.file == file for _, own in found) for file in tables}
    names = [name for name, _ in found]
    apart: dict[str, _Answers] = {}
    for name in dict.fromkeys(names):
        different: list[_Answers] = []
        for own in [own for other, own in found if other == name]:
            same = [a for a in different if count[own.file] > 1 and _same_answers(a, own, tables)]
            if same:
                notes.append(f"{name} is the same in {same[0].file} and {own.file}: it counts once")
            else:
                different.append(own)
        if len(different) == 1:
            apart[name] = different[0]
            continue
        for own in different:
            after = [f"{name} {short[own.file]}", f"{name} {own.file}"]
            after = [short[own.file], *after] if count[own.file] == 1 else after
            new = next(new for new in after if new not in {*apart, *names})
            notes.append(f"the model {name} of {own.file} is called {new}")
            apart[new] = own
    return apart


# %%
files = {
    "a.csv": pd.DataFrame(dict(pred=[0, 1], dense=[1, 1])),
    "b.csv": pd.DataFrame(dict(pred=[0, 0], dense=[1, 1])),
}
answers = [
    (name, _Answers(file, {"label": name}, {})) for file in files for name in ("pred", "dense")
]
list(_apart(answers, files, {"a.csv": "a", "b.csv": "b"}, said := [])), said

# %%
short = {"a.csv": "a", "b.csv": "b"}
assert list(_apart(answers, files, short, [])) == ["pred a", "pred b", "dense"]
assert "dense is the same in a.csv and b.csv: it counts once" in said
alone = [answers[1], answers[3]]  # equal, but each file's only model: a model that changed nothing
assert list(_apart(alone, files, {"a.csv": "a", "b.csv": "b"}, said := [])) == ["a", "b"]
assert said[1] == "the model dense of b.csv is called b"
files["dense.csv"] = pd.DataFrame(dict(pred=[1, 1]))  # its name is another model's already
three = [*answers, ("pred", _Answers("dense.csv", {"label": "pred"}, {}))]
assert list(_apart(three, files, short | {"dense.csv": "dense"}, [])) == [
    "pred a",
    "pred b",
    "pred dense",
    "dense",
]

# %% [markdown]
# The model before comes first. Its name tells which one it is, or the order of the columns.

# %%
#| export
BASELINES = ("dense", "before", "baseline", "original", "float", "fp32")


def _ordered(models: Sequence[str], baseline: str, notes: list[str]) -> list[str]:
    "The models, the one before first. Raises: ValueError where `baseline` is none of them."
    first = baseline or next((m for m in (_like(b, models) for b in BASELINES) if m), models[0])
    if first not in models:
        raise _no_column(first, "baseline", models)
    if not baseline:
        notes.append(
            f"the model before is {first}, by its "
            + ("name" if first.casefold() in BASELINES else "place among the columns")
        )
    return [first, *(model for model in models if model != first)]


# %%
print(_ordered(["int8", "FP32", "pruned"], "", said := []), said)
assert _ordered(["int8", "FP32"], "", []) == ["FP32", "int8"]
assert said == ["the model before is FP32, by its name"]
assert _ordered(["b", "a"], "", said := []) == ["b", "a"] and said[0].endswith(
    "by its place among the columns"
)
assert _ordered(["dense", "a"], "a", said := []) == ["a", "dense"] and said == []
try:
    _ordered(["dense", "pruned"], "prunde", [])
except ValueError as e:
    print(e)
    assert "did you mean pruned?" in str(e)
else:
    raise AssertionError("an unknown baseline was accepted")


# %% [markdown]
# ## Classes
#
# The classes of a head are those that were given, or all that its labels, predictions and probabilities show. A model whose predictions have no class in common with the labels is coded in another way, and no guess is made as to how. (Where labels and predictions have one class each, in one coding, the model may just be always wrong.)

# %%
#| export
def _refuse_classes(head: str, label: _Named, answers: Mapping[str, _Named]):
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
                f"{what} of {head} holds {_some(_sorted({*own.names}), 5)}, and the labels hold"
                f" {_some(_sorted({*label.names}), 5)}: not one class in common; convert one of"
                f" them, or name the classes with classes={{{head!r}: [...]}}"
            )


# %%
yes_no = _named(pd.Series(["yes", "no", "yes"]))
for values, part in (
    ([0, 1, 1], "dense of label holds 0, 1, and the labels hold no, yes"),
    ([0.2, 0.7, 1.0], "dense of label hold 0.2, 0.7: a class is"),
):
    try:
        _refuse_classes("label", yes_no, {"dense": _named(pd.Series(values))})
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"{values} were accepted")
_refuse_classes("label", yes_no, {"dense": _named(pd.Series(["yes", "yes", "maybe"]))})
_refuse_classes("label", _named(pd.Series([0, 0])), {"dense": _named(pd.Series([1, 1]))})


# %% [markdown]
# Where the names of the classes are given, a column of whole numbers holds their codes, unless these numbers are the names themselves. A code or a name outside is refused.

# %%
#| export
def _given_codes(
    columns: Mapping[str, _Named],  # What it is → column of labels or predictions
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
codes = {"labels": _named(pd.Series([0, 2, 1])), "dense": _named(pd.Series(["sad", "calm", None]))}
_given_codes(codes, ["calm", "happy", "sad"])

# %%
assert _given_codes(codes, ["calm", "happy", "sad"])["labels"].tolist() == [0, 2, 1]
assert _given_codes(codes, ["calm", "happy", "sad"])["dense"].tolist() == [2, 0, -1]
by_name = {"labels": _named(pd.Series([2, 1])), "dense": _named(pd.Series([1, 1]))}
assert _given_codes(by_name, ["2", "1"])["dense"].tolist() == [1, 1]  # names, and no codes
for values, part in (([0, 3], "hold the class 3"), (["calm", "furious"], "'furious'")):
    try:
        _given_codes({"dense": _named(pd.Series(values))}, ["calm", "happy", "sad"])
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"{values} were accepted")


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
    label: _Named,  # Its true classes
    answers: Mapping[str, _Named],  # Model → the classes that it predicts
    more: set[str],  # Classes that the columns of probabilities name
    given: Sequence[str] | None,  # Classes that were given, in the order of the codes
    # Classes; labels and each model's predictions as codes, -1 where one is missing
) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    "One head's classes and codes."
    if given is None:
        _refuse_classes(head, label, answers)
        names = _sorted({*label.names, *more, *(n for own in answers.values() for n in own.names)})
    else:
        names = [_name(name) for name in given]
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
dense = _named(pd.Series(["10", "2", "2"]))
names, true, coded = _head_codes("label", _named(pd.Series([2, 2, 9])), {"d": dense}, {"3"}, None)
print(names, true, coded)
assert names == ["2", "3", "9", "10"]
assert true.tolist() == [0, 0, 2] and coded["d"].tolist() == [3, 0, 0]
for label, given, part in (
    (dense, ["2", 2], "each needs a name of its own"),
    (_named(pd.Series(range(1001))), None, "label has 1,001 classes"),
):
    try:
        _head_codes("label", label, {}, set(), given)
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"accepted: {part}")

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
refused = {
    "do not sum to 1 (but to 0.9), in 1 of 2 rows (y)": [[0.5, 0.5], [0.4, 0.5]],
    "are negative, in 1 of 2 rows (x)": [[-0.2, 1.2], [0.5, 0.5]],
    "logits: apply softmax": [[2.5, -1.0], [0.1, 3.0]],
    "logits: apply sigmoid": [[2.5], [-1.0]],
    "logarithms: take exp()": np.log([[0.9, 0.1], [0.3, 0.7]]),
    "percentages: divide by 100": [[90, 10], [30, 70]],
    "are not finite numbers, in 1 of 2 rows (x)": [[np.inf, 0], [0.3, 0.7]],
}
for part, values in refused.items():
    try:
        _refuse_probabilities(np.array(values), "dense", ids[:2])
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"accepted: {part}")
for values, part in (([[80.0], [20.0]], "percentages"), ([[-0.1], [-2.0]], "logarithms")):
    try:
        _refuse_probabilities(np.array(values), "dense", ids[:2])
    except ValueError as e:
        assert part in str(e)
    else:
        raise AssertionError(f"accepted: {part}")


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
    try:
        _class_columns(columns, ["a", "b", "c"], "dense")
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"accepted: {part}")


# %%
#| export
def _probabilities(
    table: pd.DataFrame,  # The table that holds them
    columns: Sequence[str],  # A column for each class, or one for the last of two
    model: str,  # For what is noticed
    ids: np.ndarray,  # Id of each row
    seen: _Seen,  # To which is added what is noticed
) -> np.ndarray:  # Shape `(n, C)`, NaN in rows with a gap
    "Read probabilities. Raises: ValueError for what is none."
    values = np.empty((len(table), len(columns)))
    for i, column in enumerate(columns):
        if column not in table:
            raise _no_column(column, "probabilities", table.columns)
        if pd.api.types.is_numeric_dtype(table[column]):
            values[:, i] = table[column].to_numpy(np.float64, na_value=np.nan)
            continue
        text = _named(table[column])
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
_probabilities(asked, ["d_p_no", "d_p_yes"], "d", ids, seen := _nothing_seen())

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
last = _probabilities(asked[:1], ["d_p_yes"], "d", ids[:1], _nothing_seen())
assert last.tolist() == [[0.25, 0.75]]
try:
    _probabilities(pd.DataFrame(dict(d_p=["0.5", "half"])), ["d_p"], "d", ids, seen)
except ValueError as e:
    print(e)
    assert "in d_p are not numbers" in str(e) and "half" in str(e)
else:
    raise AssertionError("a word was taken for a probability")


# %% [markdown]
# Where a model has probabilities only, it predicts the most probable class. Where it has both, they may differ (a threshold other than one half does that), and that is noted. Of two classes that are equally probable the first is taken.

# %%
#| export
def _most_probable(
    values: np.ndarray,  # Shape `(n, C)`, NaN in rows with a gap
    said: np.ndarray | None,  # The predicted classes, where there is a column of them; -1 is a gap
    model: str,  # For what is noticed
    seen: _Seen,  # To which it is added
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
print(_most_probable(values, None, "d", seen := _nothing_seen()), seen.ties)
assert _most_probable(values, None, "d", seen).tolist() == [1, 0, 0, -1] and seen.ties == {"d": 2}
assert _most_probable(values, np.array([0, 1, -1, 0]), "d", seen).tolist() == [0, 1, -1, 0]
assert seen.contradicted == {"d": 1}  # the first; the second is a tie, the others have a gap


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
gaps = {"label": np.array([1]), "group tone": np.array([1, 2])}
assert _incomplete(gaps, ids, drop=True).tolist() == [True, False, False]
assert _incomplete({}, ids, drop=False).all()
gone = {"label": np.arange(3)}
for some, drop, part in (
    (gaps, False, "in 2 of 3 rows: label in 1 (y), group tone in 2 (y, z). Missing"),
    (gaps, False, "drop_missing=True"),
    (gone, True, "no image is complete"),
):
    try:
        _incomplete(some, ids, drop)
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError("gaps were accepted")


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
    try:
        _grouping_notes("tone", pd.Series(values))
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"accepted: {part}")


# %%
#| export
def _unit_notes(cluster: str, units: np.ndarray, groups: pd.DataFrame) -> list[str]:
    "How many persons there are, in all and in each group"
    parts = []
    for name, own in groups.items():
        counts = pd.Series(units).groupby(own.to_numpy()).nunique()
        parts.append(f"{name}: " + _some([f"{g} {n:,}" for g, n in counts.items()], 14))
    K = len(np.unique(units))
    notes = [f"{len(units):,} images show {K:,} of {cluster} ({'; '.join(parts)})"]
    if K == 1:
        notes.append(f"all images show one of {cluster}: no interval can be given")
    return notes


# %%
tones = pd.DataFrame(dict(tone=["light", "dark", "light", "dark"]))
_unit_notes("person", np.array([0, 1, 0, 0]), tones)

# %%
assert _unit_notes("person", np.array([0, 1, 0, 0]), tones) == [
    "4 images show 2 of person (tone: dark 2, light 1)"
]
assert _unit_notes("person", np.zeros(4), tones)[1].startswith("all images show one of person")


# %% [markdown]
# ## From tables to the record
#
# What was given is looked at before anything is guessed.

# %%
#| export
def _refuse_given(
    tables: Mapping[str, pd.DataFrame],  # File → its table
    heads: Sequence[str],  # Names of the heads
    reading: Reading,  # What was given
):
    "Raise ValueError for models or columns of probabilities that cannot be meant"
    asked = reading.models
    twice = [name for name in dict.fromkeys(asked) if asked.count(name) > 1]
    if twice:
        raise ValueError(f"models: {_some(twice)} is named twice")
    columns = list(dict.fromkeys(c for table in tables.values() for c in table))
    for name, own in (reading.probabilities or {}).items():
        for column in _listed(own):
            if column not in columns:
                raise _no_column(column, "probabilities", columns)
        parts = _split_name(name, heads)
        if parts is None:
            raise ValueError(
                f"probabilities of {name!r}: with several heads they are named as MODEL_HEAD, with"
                f" a head of {_some([*heads])}"
            )
        if asked and not {name, parts[0]} & {*asked}:
            raise ValueError(f"probabilities of {name!r}: the models are {_some([*asked])}")


# %%
given = {"t": pd.DataFrame(columns=["y", "dense", "q"])}
_refuse_given(given, ["y"], Reading(models=["dense"], probabilities={"dense": "q"}))
for heads_, reading, part in (
    (["y"], Reading(models=["dense", "dense"]), "dense is named twice"),
    (["y"], Reading(probabilities={"dense": "p"}), "no column 'p'"),
    (["y", "z"], Reading(probabilities={"dense": "q"}), "named as MODEL_HEAD, with a head of y, z"),
    (["y"], Reading(models="dense", probabilities={"small": "q"}), "the models are dense"),
):
    try:
        _refuse_given(given, heads_, reading)
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"accepted: {part}")


# %% [markdown]
# The models of all tables, found or asked for. One alone can be judged when it is asked for; otherwise its partner is more likely to have been overlooked.

# %%
#| export
def _models(
    tables: Mapping[str, pd.DataFrame],  # File → its table, rows in one order
    heads: Mapping[str, Mapping[str, str]],  # Head → file → column of labels
    taken: set[str],  # Columns of labels, groups and persons
    reading: Reading,  # What was given
    short: Mapping[str, str],  # File → what a model may be called after it
    notes: list[str],  # To which the guess is added
) -> dict[str, _Answers]:  # The model before comes first
    "The models and where their answers are."
    given = dict(reading.probabilities or {})
    _refuse_given(tables, [*heads], reading)
    spare = taken | {c for columns in given.values() for c in _listed(columns)}
    asked, known, binary = reading.models, set(), True
    if len(heads) == 1:
        ((head, places),) = heads.items()
        known = {n for file, column in places.items() for n in _named(tables[file][column]).names}
        own = [_name(name) for name in (reading.classes or {}).get(head, ())]
        binary = len(own or known) < 3
        known |= {*own, *(str(code) for code in range(len(own)))}
        if known <= {"0", "1"} or known <= {"False", "True"}:
            known = {"0", "1", "False", "True"}
    labels = {column for places in heads.values() for column in places.values()}
    if labels & {*asked}:
        raise ValueError(
            f"{_some(sorted(labels & {*asked}))} is a column of true classes and was named as a"
            " model too"
        )
    found: list[tuple[str, _Answers]] = []
    for file, table in tables.items():
        own = table[
            [c for c in table if c in asked or c not in spare and not c.startswith("label_")]
        ]
        models = _models_in(file, own, [*heads], known, asked, binary)
        for name, columns in given.items():
            model, head, _ = _split_name(name, [*heads])
            model = name if len(heads) == 1 and name in models else model
            if {*_listed(columns)} & {*table.columns}:
                models.setdefault(model, _Answers(file, {}, {}))
                models[model].probabilities[head] = _listed(columns)
        if reading.probabilities is not None:
            for name, answers in [*models.items()]:
                kept = {h: p for h, p in answers.probabilities.items() if isinstance(p, tuple)}
                models[name] = answers._replace(probabilities=kept)
        found += [(name, own) for name, own in models.items() if own.predicted or own.probabilities]
    rest = [c for table in tables.values() for c in table.columns if c not in spare]
    for name in asked:
        if name not in dict(found):
            raise _no_column(name, "models", [*dict.fromkeys([*dict(found), *rest])])
    if len(found) < 2 and not asked:
        one = f"only one model was found, {found[0][0]}" if found else "no model was found"
        raise ValueError(
            f"{one}: two or more are compared. Name them with models=; columns that might be:"
            f" {_some([c for c in rest if c not in dict(found)], 20) or 'none'}"
        )
    models = _apart(found, tables, short, notes)
    if "label" in models:  # in sentences that would be the true classes
        models = {"label model" if name == "label" else name: own for name, own in models.items()}
    order = _ordered([*models], reading.baseline, notes)
    if not asked:
        notes.append(f"models are {_some(order, 14)}, by the names or the values of the columns")
    return {name: models[name] for name in order}


# %%
table = pd.DataFrame(dict(y=["a", "b"], small=["a", "a"], dense=["a", "b"], fold=["1", "2"]))
list(_models({"t": table}, {"y": {"t": "y"}}, {"y"}, Reading(), {"t": "t"}, said := [])), said

# %%
assert said[0] == "the model before is dense, by its name" and "models are dense, small" in said[1]
for reading, columns, part in (
    (Reading(), ["y", "dense", "fold"], "only one model was found, dense"),
    (Reading(), ["y", "fold"], "no model was found: two or more are compared"),
    (Reading(models="y"), [*table], "y is a column of true classes and was named as a model too"),
    (Reading(models=["dense", "smal"]), [*table], "no column 'smal': did you mean small?"),
):
    try:
        _models({"t": table[columns]}, {"y": {"t": "y"}}, {"y"}, reading, {"t": "t"}, [])
    except ValueError as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"accepted: {part}")
alone = _models({"t": table}, {"y": {"t": "y"}}, {"y"}, Reading(models="small"), {"t": "t"}, [])
assert list(alone) == ["small"]
odd = table.rename(columns=dict(small="label", fold="label_x"))  # label_x is no model
found = _models({"t": odd}, {"y": {"t": "y"}}, {"y"}, Reading(), {"t": "t"}, [])
assert list(found) == ["dense", "label model"]


# %% [markdown]
# With several heads each model must answer for each of them.

# %%
#| export
def _refuse_heads(models: Mapping[str, _Answers], heads: Sequence[str]):
    "Raise ValueError for a model that has no answers for some heads"
    for model, own in models.items():
        lost = [head for head in heads if head not in {*own.predicted, *own.probabilities}]
        if lost:
            raise ValueError(
                f"the model {model} has answers for {len(heads) - len(lost)} of {len(heads)} heads:"
                f" there is no column {_some([f'{model}_{head}' for head in lost])}; if {model} is"
                " no model, name the models with models="
            )


# %%
half = {"dense": _Answers("t", {"hair": "dense_hair"}, {})}
_refuse_heads(half, ["hair"])
try:
    _refuse_heads(half, ["hair", "young"])
except ValueError as e:
    print(e)
    assert "dense has answers for 1 of 2 heads: there is no column dense_young" in str(e)
else:
    raise AssertionError("a model of half the heads was accepted")


# %% [markdown]
# One head after the other is read, so that a table of a million images and forty heads needs no second copy.

# %%
#| export
def _read_head(
    head: str,  # Its name
    label: _Named,  # Its true classes
    models: Mapping[str, _Answers],  # Where each model's answers are
    tables: Mapping[str, pd.DataFrame],  # File → its table
    ids: np.ndarray,  # Id of each image
    given: Sequence[str] | None,  # Its classes, where they were given
    seen: _Seen,  # To which is added what is noticed
    # Classes; true classes; model → predicted classes; model → probabilities; -1 and NaN are gaps
) -> tuple[list[str], np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    "All that is known of one head."
    columns = {
        _column(model, head): _named(tables[own.file][own.predicted[head]])
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
    "dense": _Answers("t", {"y": "dense"}, {}),
    "small": _Answers("t", {}, {"y": {"": "small_p"}}),
}
tables = {"t": table}
_read_head("y", _named(table.y), models, tables, ids[:2], None, seen := _nothing_seen())

# %%
names, true, coded, shares = _read_head("y", _named(table.y), models, tables, ids[:2], None, seen)
assert names == ["a", "b"] and true.tolist() == [0, 1] and coded["dense"].tolist() == [0, -1]
assert coded["small"].tolist() == [0, 1] and np.isclose(shares["small"][1], [0.1, 0.9]).all()
assert seen.missing["dense"].tolist() == [1] and seen.ties == {"small": 2}  # read twice
assert seen.last == {"small_p": "y = b"}
confident = {"dense": _Answers("t", {"y": "dense"}, {"y": {"": "small_p"}})}
three = _read_head("y", _named(table.y), confident, tables, ids[:2], ["a", "b", "c"], seen)
assert seen.notes == ["small_p is not used: y has 3 classes, not two"] and three[3] == {}


# %% [markdown]
# What was gathered becomes sentences.

# %%
#| export
def _seen_notes(seen: _Seen) -> list[str]:
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
seen = _Seen(["a", "a"], {}, ["x"], ["y"], *counts, {"d_p": "smiling = yes"})
print(*_seen_notes(seen), sep="\n")
assert _seen_notes(seen) == [
    "a",
    'numbers are text in x and numbers in y: "1" and 1 are one name',
    "a single column is the probability of the last of two classes: d_p of smiling = yes",
    "2 predictions of d are not the class that it finds most probable: the predictions are used",
    "d finds two classes equally probable 1 times: the first is taken",
    "the probabilities of d sum to 1 up to 0.001: they are scaled to 1",
]


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
try:
    _refuse_copies(both, {"dense": both}, [])
except ValueError as e:
    print(e)
    assert "dense is equal to the labels in all 2 rows" in str(e)
else:
    raise AssertionError("a copy of the labels was accepted as a model")


# %%
#| export
def _group_table(
    groupings: Mapping[str, Mapping[str, str]],  # Grouping → file → its column
    tables: Mapping[str, pd.DataFrame],  # File → its table
    ids: np.ndarray,  # Id of each image
    seen: _Seen,  # To which is added what is noticed
) -> pd.DataFrame:  # A column for each grouping; None where a group is missing
    "Each image's groups, as names."
    table = {}
    for name, places in groupings.items():
        own = _shared(f"group {name}", places, tables, ids, seen)
        gaps = np.flatnonzero(own.codes < 0)
        if len(gaps):
            seen.missing[f"group {name}"] = gaps
        table[name] = np.array([*own.names, None], dtype=object)[own.codes]
    return pd.DataFrame(table, dtype=object)


def _unit_codes(
    cluster: str,  # Column of persons or photographs
    tables: Mapping[str, pd.DataFrame],  # File → its table
    ids: np.ndarray,  # Id of each image
    seen: _Seen,  # To which is added what is noticed
) -> np.ndarray | None:  # Code of each image, -1 where it is missing; None: no column was named
    "Whom each image shows."
    if not cluster:
        return None
    places = {file: cluster for file, table in tables.items() if cluster in table}
    if not places:
        raise _no_column(cluster, "cluster", [c for table in tables.values() for c in table])
    own = _shared(f"cluster {cluster}", places, tables, ids, seen)
    if (own.codes < 0).any():
        seen.missing[f"cluster {cluster}"] = np.flatnonzero(own.codes < 0)
    return own.codes.astype(np.int64)


# %%
people = {"t": pd.DataFrame(dict(group_age=[30, 4.0, None], who=["ann", "bob", "ann"]))}
_group_table({"age": {"t": "group_age"}}, people, ids, seen := _nothing_seen())

# %%
assert seen.missing["group age"].tolist() == [2]
by_age = _group_table({"age": {"t": "group_age"}}, people, ids, seen)
assert by_age.age.tolist() == ["30", "4", None]
assert _unit_codes("who", people, ids, seen).tolist() == [0, 1, 0]
assert _unit_codes("", people, ids, seen) is None
try:
    _unit_codes("woh", people, ids, seen)
except ValueError as e:
    print(e)
    assert "did you mean who?" in str(e)
else:
    raise AssertionError("an unknown column of persons was accepted")


# %% [markdown]
# Columns that have no part in it are named, so that a model that was overlooked is seen.

# %%
#| export
def _unused(
    tables: Mapping[str, pd.DataFrame],  # File → its table
    models: Mapping[str, _Answers],  # The models
    taken: set[str],  # Columns of ids, labels, groups and persons
) -> list[str]:
    "Which columns are not used, in a sentence"
    used = {(file, column) for file in tables for column in taken}
    for own in models.values():
        used |= {(own.file, column) for column in own.predicted.values()}
        for of in own.probabilities.values():
            used |= {(own.file, c) for c in (of.values() if isinstance(of, Mapping) else of)}
    rest = [c for file, table in tables.items() for c in table if (file, c) not in used]
    return [f"columns that are not used: {_some([*dict.fromkeys(rest)], 20)}"] if rest else []


# %%
assert _unused(tables, models, {"y"}) == []
assert _unused(tables, {"dense": models["dense"]}, {"y"}) == ["columns that are not used: small_p"]


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
    models: Mapping[str, _Answers],  # Where each model's answers are
    tables: Mapping[str, pd.DataFrame],  # File → its table
    ids: np.ndarray,  # Id of each image
    given: Mapping[str, Sequence[str]],  # Head → its classes, where they were given
    seen: _Seen,  # To which is added what is noticed
) -> dict:  # classes, labels, predicted and probabilities of the record
    "All heads' labels and answers; -1 and NaN are gaps."
    labels = np.empty((len(ids), len(heads)), dtype=np.int16)
    predicted = {model: np.empty_like(labels) for model in models}
    classes: dict[str, list[str]] = {}
    probabilities: dict[str, dict[str, np.ndarray]] = {}
    for h, (head, places) in enumerate(heads.items()):
        label = _shared("labels", places, tables, ids, seen)
        classes[head], true, coded, shares = _read_head(
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
    seen, given = _nothing_seen(), reading.classes or {}
    tables = {file: _plain(table, file) for file, table in tables.items()}
    columns = _id_columns(tables, reading.id, seen.notes)
    ids, tables = _aligned(tables, columns)
    heads = _heads(tables, reading.label, seen.notes)
    for head in given:
        if head not in heads:
            raise ValueError(
                f"classes of {head!r}: there is no such head; there are {_some([*heads])}"
            )
    groupings = _groupings(tables, reading.groups, seen.notes)
    taken = {c for of in (heads, groupings) for places in of.values() for c in places.values()}
    taken |= {reading.cluster, *(c for c in columns.values() if c)}
    models = _models(tables, heads, taken, reading, short, seen.notes)
    _refuse_heads(models, [*heads])
    seen.notes.extend(_unused(tables, models, taken))
    groups = _group_table(groupings, tables, ids, seen)
    units = _unit_codes(reading.cluster, tables, ids, seen)
    answers = _all_heads(heads, models, tables, ids, given, seen)
    complete = _incomplete(seen.missing, ids, reading.drop_missing)
    said = tuple(_seen_notes(seen))
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
    "8 images show 4 of person (tone: dark 2, light 2)",
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
try:
    predictions_of(gappy)
except ValueError as e:
    print(e)
    assert (
        "missing in 2 of 8 rows: group tone in 1 (h.png), label in 1 (a.png), dense in 1 (a.png)."
        in str(e)
    )
else:
    raise AssertionError("gaps were accepted")
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
refused = {
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
for part, (wrong, asked) in refused.items():
    try:
        predictions_of(wrong, **asked)
    except ValueError as e:
        print("–", e)
        assert part in str(e), part
    else:
        raise AssertionError(f"accepted: {part}")
only_dense = predictions_of(faces, models="dense")
assert list(only_dense.predicted) == ["dense"]
assert "columns that are not used: pruned, person" in only_dense.notes

# %% [markdown]
# ## From files
#
# CSV (plain or gzip) and parquet are told apart by their endings. Ids are read as text, so that 007 stays 007. pandas renames a second column of the same name and takes a first column without a heading for the index; both are looked for before it reads.

# %%
#| export
ENDINGS = (".csv", ".csv.gz", ".parquet")


def _csv(file: str, asked: str) -> pd.DataFrame:
    "A CSV file, with ids as text. Raises: ValueError for one that cannot be read."
    try:
        opened = gzip.open if file.lower().endswith(".gz") else open
        with opened(file, "rt", encoding="utf-8-sig", newline="") as f:
            header = [name.strip() for name in next(csv.reader(f), [])]
        if not header:
            raise ValueError(f"{file} is empty: there is no line in it")
        twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
        if twice:
            raise ValueError(
                f"{file} has two columns called {_some(twice)}: rename or leave out one"
            )
        if len(header) == 1 and re.search(r"[;\t|]", header[0]):
            raise ValueError(f"{file} has one column, {header[0]!r}: separate columns by commas")
        as_text = {c: str for c in header if c == asked or c.casefold() in ID_NAMES}
        table = pd.read_csv(
            file, names=header, header=0, dtype=as_text, low_memory=False, skipinitialspace=True
        )
    except (pd.errors.ParserError, UnicodeDecodeError, gzip.BadGzipFile, EOFError) as e:
        raise ValueError(f"{file} cannot be read as CSV: {str(e).strip()}") from None
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{file} has more values in a row than names in its first line")
    return table


def _parquet(file: str) -> pd.DataFrame:
    "A parquet file. Raises: ValueError for one that cannot be read."
    import pyarrow as pa
    from pyarrow import parquet

    try:
        names = parquet.read_schema(file).names
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise ValueError(
                f"{file} has two columns called {_some(twice)}: rename or leave out one"
            )
        return pd.read_parquet(file)
    except pa.ArrowException as e:
        raise ValueError(f"{file} cannot be read as parquet: {e}") from None


# %%
#| export
def _table(
    file: str,  # Its path
    asked: str = "",  # Column of ids, where it was given
) -> pd.DataFrame:
    """The table in a file.

    Raises: FileNotFoundError; ValueError for a folder, another ending, a file that is damaged."""
    path = Path(file)
    if path.is_dir():
        inside = path / "predictions.parquet"
        hint = f": do you mean {inside}?" if inside.is_file() else ", not a file"
        raise ValueError(f"{file} is a folder{hint}")
    if not path.is_file():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, there, 3)
        raise FileNotFoundError(
            f"{file} is not there" + (f": did you mean {' or '.join(near)}?" if near else "")
        )
    if not path.name.lower().endswith(ENDINGS):
        raise ValueError(f"{file}: a table ends in {', '.join(ENDINGS)}")
    return _parquet(file) if path.suffix.lower() == ".parquet" else _csv(file, asked)


# %%
folder = tempfile.TemporaryDirectory()
home = Path(folder.name)
(home / "ids.csv").write_text("id, label\n007, yes\n7, no\n", encoding="utf-8")
_table(str(home / "ids.csv"))

# %%
assert _table(str(home / "ids.csv")).to_dict("list") == dict(id=["007", "7"], label=["yes", "no"])
(home / "run").mkdir()
run.to_parquet(home / "run" / "predictions.parquet", index=False)
pd.DataFrame([[1, 2]], columns=["x", "y"]).to_csv(home / "two.csv", index=False)
for name, text in {
    "nothing.csv": "",
    "twice.csv": "id,y,y\na,1,2\n",
    "semicolons.csv": "id;y\na;1\n",
    "long.csv": "id,y\na,1,5\n",
    "ragged.csv": "id,y\na,1\nb,1,5\n",
    "words.txt": "id,y\na,1\n",
    "plain.csv.gz": "id,y\na,1\n",
    "plain.parquet": "id,y\na,1\n",
}.items():
    (home / name).write_text(text, encoding="utf-8")
(home / "latin.csv").write_bytes("id,y\nä,1\n".encode("latin-1"))
refused = {
    "nothing.csv": "is empty: there is no line in it",
    "twice.csv": "has two columns called y",
    "semicolons.csv": "has one column, 'id;y': separate columns by commas",
    "long.csv": "more values in a row than names",
    "ragged.csv": "cannot be read as CSV",
    "words.txt": "a table ends in .csv, .csv.gz, .parquet",
    "plain.csv.gz": "cannot be read as CSV",
    "plain.parquet": "cannot be read as parquet",
    "latin.csv": "cannot be read as CSV",
    "run": "predictions.parquet?",
    "tow.csv": "is not there: did you mean two.csv",
}
for name, part in refused.items():
    try:
        _table(str(home / name))
    except (ValueError, FileNotFoundError) as e:
        print(str(e).replace(folder.name, "…"))
        assert part in str(e) and name in str(e)
    else:
        raise AssertionError(f"{name} was accepted")


# %% [markdown]
# A model that has the same name in several files is called after its file; after its folder where the files have one name too.

# %%
#| export
def _short_names(files: Sequence[str]) -> dict[str, str]:
    "What to call a model after its file: the file's name, with as many folders as tell them apart"
    ending = re.compile(r"(\.csv|\.csv\.gz|\.parquet)$", re.IGNORECASE)
    parts = {file: [*Path(file).parent.parts, ending.sub("", Path(file).name)] for file in files}
    for depth in range(1, max(map(len, parts.values())) + 1):
        names = {file: "/".join(own[-depth:]) for file, own in parts.items()}
        if len({*names.values()}) == len(files):
            break
    if depth > 1 and len({own[-1] for own in parts.values()}) == 1:
        names = {file: name.rpartition("/")[0] or name for file, name in names.items()}
    return names


# %%
print(_short_names(["a/dense.csv", "b/small.csv.gz"]))
assert _short_names(["a/dense.csv", "b/small.csv.gz"]) == {
    "a/dense.csv": "dense",
    "b/small.csv.gz": "small",
}
runs = [f"runs/{name}/predictions.parquet" for name in "ab"]
assert [*_short_names(runs).values()] == ["a", "b"]
assert [*_short_names(["x.csv", "b/x.csv", "b/y.csv"]).values()] == ["x", "b/x", "b/y"]


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
    tables = {name: _table(name, asked.id) for name in names}
    return _gathered(tables, asked, _short_names(names))


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
assert same(read_predictions(home / "run" / "predictions.parquet"), predictions_of(run))

# %% [markdown]
# Files that do not belong together are refused.

# %%
faces[:6].to_csv(home / "six.csv", index=False)
own = faces.assign(label=[calm, calm, *faces.label[2:]])
own.to_csv(home / "relabelled.csv", index=False)
faces.assign(group_tone="light").to_csv(home / "regrouped.csv", index=False)
faces.drop(columns="path").to_csv(home / "nameless.csv", index=False)
refused = {
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
for part, names in refused.items():
    try:
        read_predictions([home / name for name in names])
    except ValueError as e:
        print(str(e).replace(folder.name, "…"))
        assert part.format(home=home) in str(e)
    else:
        raise AssertionError(f"accepted: {part}")
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
