# %% [markdown]
# # Tables in files
#
# > CSV and parquet, with ids as text; a file that is damaged or has two columns of one name is refused

# %%
#| default_exp judge.table_files

# %%
#| export
import csv
import gzip
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from fairgrape.judge.names import ID_NAMES, refuse_doubles

# %%
import tempfile

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
        refuse_doubles(header, file)
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
        refuse_doubles(parquet.read_schema(file).names, file)
        return pd.read_parquet(file)
    except pa.ArrowException as e:
        raise ValueError(f"{file} cannot be read as parquet: {e}") from None


# %%
#| export
def read_table(
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
(home / "ids.csv").write_text("id, label\n007, yes\n7, no\n", encoding="utf-8")
read_table(str(home / "ids.csv"))

# %%
assert read_table(str(home / "ids.csv")).to_dict("list") == dict(
    id=["007", "7"], label=["yes", "no"]
)
(home / "run").mkdir()
pd.DataFrame(dict(y=[1])).to_parquet(home / "run" / "predictions.parquet")
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
faults = {
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
for name, part in faults.items():
    said = refused(read_table, str(home / name))
    assert part in said and name in said


# %% [markdown]
# A model that has the same name in several files is called after its file; after its folder where the files have one name too.

# %%
#| export
def short_names(
    files: Sequence[str],  # Their paths
) -> dict[str, str]:
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
print(short_names(["a/dense.csv", "b/small.csv.gz"]))
assert short_names(["a/dense.csv", "b/small.csv.gz"]) == {
    "a/dense.csv": "dense",
    "b/small.csv.gz": "small",
}
runs = [f"runs/{name}/predictions.parquet" for name in "ab"]
assert [*short_names(runs).values()] == ["a", "b"]
assert [*short_names(["x.csv", "b/x.csv", "b/y.csv"]).values()] == ["x", "b/x", "b/y"]
folder.cleanup()
