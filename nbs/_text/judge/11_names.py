# %% [markdown]
# # Names and ids
#
# > 1, 1.0 and "1" are one name, and the rows of several tables are joined by id

# %%
#| default_exp judge.names

# %%
#| export
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairgrape.judge.tables import _some


# %% [markdown]
# This notebook and the three after it hold the details of how [tables of predictions](04_predictions.ipynb) are read: names and ids here, then [which column is what](12_columns.ipynb), [classes and probabilities](13_answers.ipynb), and [files](14_table_files.ipynb). What cannot be right is refused with a sentence, which `refused` prints.

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
# ## Names
#
# Labels, predictions, groups and ids are all names, whatever type they have in the file. The number 1, the float 1.0 (a column of integers with a gap becomes one) and the text "1" are the same name. Words that mean that there is no value, such as an empty cell or `nan`, are no name.

# %%
#| export
_NO_VALUE = {"", "nan", "na", "n/a", "#n/a", "<na>", "nat", "none", "null"}


def name_of(
    value,  # A value of a table, of any type
) -> str:
    "A value as a name; empty where there is none"
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if float(value).is_integer() else str(float(value))
    text = str(value).strip()
    if re.fullmatch(r"-?\d+\.0+", text):
        return text.partition(".")[0]
    return "" if text.casefold() in _NO_VALUE else text


# %%
names = [name_of(v) for v in (1, 1.0, "1", " 1.0", np.int8(1), True, 0.5, "01", "", "NaN", "None")]
print(names)
assert names == ["1", "1", "1", "1", "1", "True", "0.5", "01", "", "", ""]


# %% [markdown]
# A column becomes codes and names, −1 where a value is missing. Its kind is kept as well, to be able to say that one file has numbers where the other has text.

# %%
#| export
class Named(NamedTuple):
    "A column as codes"

    codes: np.ndarray  # Place of each row's name in `names`, -1 where it is missing, shape `(n,)`
    names: list[str]  # Names that occur, each once
    kind: str  # 'number', 'bool', 'text', or 'mixed' of them


# %%
#| export
def names_of(
    values: pd.Series,  # A column of a table
) -> Named:
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
    for name in map(name_of, found):
        place.setdefault(name, len(place) - 1)
    lookup = np.array([*(place[name_of(v)] for v in found), -1], dtype=np.int64)
    small = np.int16 if len(place) < 2**15 else np.int32
    kind = kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "text"
    return Named(lookup.astype(small)[codes], list(place)[1:], kind)


# %%
names_of(pd.Series([2.0, np.nan, 1.0, 2.0]))

# %%
assert names_of(pd.Series([2.0, np.nan, 1.0, 2.0])).codes.tolist() == [0, -1, 1, 0]
assert names_of(pd.Series([2.0, np.nan, 1.0, 2.0]))[1:] == (["2", "1"], "number")
mixed = names_of(pd.Series(["a", 1, "1", "", None], dtype=object))
assert mixed.codes.tolist() == [0, 1, 1, -1, -1] and mixed[1:] == (["a", "1"], "mixed")
assert names_of(pd.Series([True, False])).kind == "bool"
assert names_of(pd.Series(["b", "a"], dtype="category"))[1:] == (["b", "a"], "text")
assert names_of(pd.Series([None, None], dtype=object)).codes.tolist() == [-1, -1]
assert "'embedding' holds lists" in refused(names_of, pd.Series([[1, 2], [3]], name="embedding"))


# %% [markdown]
# The names of classes are sorted, numbers by their value.

# %%
#| export
def sorted_names(
    names: set[str],  # Names of classes
) -> list[str]:
    "Names in alphabetical order, whole numbers first and by value"
    number = {name for name in names if re.fullmatch(r"-?\d+", name)}
    return [*sorted(number, key=lambda name: (int(name), name)), *sorted(names - number)]


# %%
print(sorted_names({"10", "2", "-1", "sad", "calm"}))
assert sorted_names({"10", "2", "-1", "sad", "calm"}) == ["-1", "2", "10", "calm", "sad"]


# %% [markdown]
# A misspelled name of a column is answered with those that are near.

# %%
#| export
def no_column(
    name: str,  # The name that was given
    what: str,  # What it was given for
    columns: Sequence[str],  # Names that exist
) -> ValueError:
    "The error for a column that is not there"
    near = get_close_matches(name, list(columns), 3)
    there = f"there are {_some([*columns], 20)}"
    hint = f"did you mean {' or '.join(near)}?" if near else there
    return ValueError(f"{what}: no column {name!r}: {hint}")


# %%
print(no_column("lable", "label", ["id", "label", "dense"]))
assert str(no_column("lable", "label", ["label"])) == (
    "label: no column 'lable': did you mean label?"
)
assert str(no_column("zzz", "id", ["a", "b"])) == "id: no column 'zzz': there are a, b"


# %%
#| export
def like_name(
    name: str,  # A name in small letters
    columns: Sequence[str],  # Names that exist
) -> str | None:
    "The column of that name, or of that name in other letters (ID, Label)"
    if name in columns:
        return name
    return next((column for column in columns if column.casefold() == name), None)


# %%
assert like_name("id", ["ID", "id"]) == "id" and like_name("id", ["x", "Id"]) == "Id"
assert like_name("id", ["idx"]) is None


# %% [markdown]
# ## Which image is which
#
# Below, a table has a name: the file that it came from. Columns are looked at first.

# %%
#| export
def refuse_doubles(
    columns: Sequence[str],  # Names of columns
    file: str,  # Where the table came from
):
    "Raise ValueError for two columns of one name"
    names = pd.Index(columns)
    twice = names[names.duplicated()].unique().tolist()
    if twice:
        raise ValueError(f"{file} has two columns called {_some(twice)}: rename or leave out one")


# %%
refuse_doubles(["id", "y"], "a.csv")
assert "a.csv has two columns called y, z" in refused(
    refuse_doubles, ["y", "y", "z", "y", "z"], "a.csv"
)


# %%
#| export
def plain_table(
    table: pd.DataFrame,  # As it was given or read
    file: str,  # Where it came from
) -> pd.DataFrame:
    """A table with its index among the columns, where that has a name.

    Raises: ValueError for a table without rows or with two columns of one name."""
    if any(name is not None for name in table.index.names):
        table = table.reset_index(allow_duplicates=True)
    if not len(table):
        raise ValueError(f"{file} is empty: there is no row in it")
    table = table.set_axis([str(column) for column in table.columns], axis=1)
    refuse_doubles(table.columns, file)
    return table


# %%
by_id = pd.DataFrame(dict(dense=[0, 1]), index=pd.Index(["x", "y"], name="id"))
plain_table(by_id, "a.csv")

# %%
assert list(plain_table(by_id, "a.csv")) == ["id", "dense"]
for wrong, part in (
    (by_id[:0], "a.csv is empty"),
    (by_id.assign(id=0), "a.csv has two columns called id"),
    (pd.DataFrame([[1, 2]], columns=["y", "y"]), "two columns called y"),
):
    assert part in refused(plain_table, wrong, "a.csv")

# %%
#| export
ID_NAMES = ("id", "path", "file", "image", "filename", "row")


def id_columns(
    tables: Mapping[str, pd.DataFrame],  # File → its table
    asked: str,  # The name that was given
    notes: list[str],  # To which the guess is added
) -> dict[str, str | None]:  # File → its column of ids; None in all: the row number
    "Where the ids are. Raises: ValueError where one file has them and another has not."
    if asked:
        for table in tables.values():
            if asked not in table:
                raise no_column(asked, "id", table.columns)
        return dict.fromkeys(tables, asked)
    for name in ID_NAMES:
        found = {file: like_name(name, table.columns) for file, table in tables.items()}
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
print(id_columns(two, "", said := []), *said)

# %%
assert id_columns(two, "", []) == {"a.csv": "row", "b.csv": "row"}
assert id_columns({"a.csv": two["a.csv"]}, "", []) == {"a.csv": "Path"}
assert id_columns({"a.csv": pd.DataFrame(dict(x=[1]))}, "", said := []) == {"a.csv": None}
assert said == ["no column of ids (id, path, file, image, filename, row): an image's id is its row"]
apart = {"a.csv": pd.DataFrame(dict(path=["x"])), "b.csv": pd.DataFrame(dict(image=["x"]))}
for tables, asked, part in ((apart, "", "a.csv: path; b.csv: image"), (apart, "pat", "mean path?")):
    assert part in refused(id_columns, tables, asked, [])


# %% [markdown]
# Rows of several files are joined by id and never by position. Each file must hold the same images, each of them once. The order is that of the first file.

# %%
#| export
def _ids_of(table: pd.DataFrame, column: str | None, file: str) -> pd.Index:
    "Each row's id. Raises: ValueError for ids that are missing or there twice."
    if column is None:
        return pd.Index([*map(str, range(len(table)))], dtype=object)
    own = names_of(table[column])
    lost = np.flatnonzero(own.codes < 0)
    if len(lost):
        raise ValueError(
            f"{file}: the column {column} has no id in {len(lost):,} of {len(table):,} rows"
            f" ({_some([*map(str, lost)], 3)}, counted from 0)"
        )
    ids = pd.Index(np.array(own.names, dtype=object)[own.codes], dtype=object)
    if len(own.names) < len(ids):
        twice = ids[ids.duplicated()].unique()
        raise ValueError(
            f"{file}: {len(twice):,} of {len(own.names):,} ids in the column {column} occur more"
            f" than once ({_some([*twice], 3)}): each image needs one row and an id of its own"
        )
    return ids


# %%
#| export
def aligned(
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
ids, parts = aligned({"a.csv": one, "b.csv": other}, {"a.csv": "id", "b.csv": "id"})
parts["a.csv"].assign(y=parts["b.csv"].y)

# %%
assert ids.tolist() == ["3", "1", "2"] and parts["b.csv"].y.tolist() == [31, 11, 21]
faults = {
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
for part, (a, b) in faults.items():
    assert part in refused(aligned, {"a.csv": a, "b.csv": b}, {"a.csv": "id", "b.csv": "id"})
by_row = {"a.csv": one, "b.csv": other[:2]}
assert "b.csv lacks 1 of 3 ids of a.csv (2)" in refused(aligned, by_row, dict.fromkeys(by_row))
