# %% [markdown]
# # Label files
#
# > Check label files: images inside the set's folder, unique columns, known labels

# %%
#| default_exp data.label_files

# %%
#| export
import csv as csv_lines
import hashlib
import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import pandas as pd

from fairgrape.data.images import load_images
from fairgrape.data.tables import FaceData

# %%
import tempfile

import numpy as np
from PIL import Image

tmp = Path(tempfile.mkdtemp())


# an error without the temporary folder's name
def say(error):
    print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")


# %% [markdown]
# A set consists of images and labels that somebody else wrote, copied and opened in a spreadsheet.
# Without the checks in this notebook, faulty labels would raise no error: a network would be
# trained on them.
#
# ## Label tables
#
# FairFace comes with CSVs, and so do most private sets. The CSV reader is strict: it reads text
# only and guesses no types (a group named `NA` is a name), and the error for a missing column lists
# the columns that exist. By default, pandas renames the second of two columns with one name, and
# uses the first field of an overlong line as the name of its row.

# %%
#| export
def _check_lines(csv: str | Path) -> list[int]:
    """The line of the file in which each row begins; blank lines are not rows.

    Raises: ValueError for a column that appears twice, or a line with more or fewer fields than
    the header.
    """
    with open(csv, newline="", encoding="utf-8-sig") as file:
        lines = csv_lines.reader(file)
        header = next((fields for fields in lines if fields), [])
        twice = [name for i, name in enumerate(header) if name and name in header[:i]]
        if twice:
            raise ValueError(
                f"{csv}, line {lines.line_num}: the column {twice[0]!r} appears twice: rename or"
                " remove one"
            )
        begins, last = [], lines.line_num
        for fields in lines:
            begin, last = last + 1, lines.line_num  # a quoted field may span several lines
            if not fields or (len(fields) == 1 and fields[0].isspace()):
                continue
            begins.append(begin)
            if len(fields) != len(header):
                raise ValueError(
                    f"{csv}: not a readable CSV: line {lines.line_num} has {len(fields)} fields,"
                    f" the header {len(header)}"
                )
    return begins


def _read_csv(csv: str | Path) -> pd.DataFrame:
    """A CSV as text, without columns that have neither name nor content. The index holds the
    line of each row. Raises: ValueError if the file is not a CSV.
    """
    try:
        begins = _check_lines(csv)
        table = pd.read_csv(csv, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        table.index = pd.Index(begins, name="line")
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
        csv_lines.Error,
    ) as e:
        raise ValueError(f"{csv}: not a readable CSV: {e}") from e
    return table.drop(
        columns=[c for c in table if c.startswith("Unnamed: ") and (table[c] == "").all()]
    )


# %%
(tmp / "text.csv").write_text("file,tone,year\na.jpg,NA,07\n")
_read_csv(tmp / "text.csv")

# %%
(tmp / "blank.csv").write_text('\nfile,tone\n\na,"dark\nbrown"\n   \nb,light\n\n\nc,light\n')
assert _read_csv(tmp / "blank.csv").index.tolist() == [4, 7, 10]
# NA is a name here, and 07 is no number
assert _read_csv(tmp / "text.csv").to_numpy().tolist() == [["a.jpg", "NA", "07"]]
(tmp / "empty.csv").write_text("")
(tmp / "latin.csv").write_bytes(b"file\n\xff.jpg\n")
(tmp / "uneven.csv").write_text("a\nb\nc,d,e\n")
for name in ("empty.csv", "latin.csv", "uneven.csv"):
    try:
        _read_csv(tmp / name)
    except ValueError as e:
        say(e)
        assert "not a readable CSV" in str(e)
    else:
        raise AssertionError(f"{name} was read")
(tmp / "comma.csv").write_text("file,tone,\na.jpg,dark,\n")  # a comma at the end of each line
assert _read_csv(tmp / "comma.csv").to_dict("list") == dict(file=["a.jpg"], tone=["dark"])
for text, told in [
    ("file,tone,tone\na.jpg,dark,light\n", "line 1: the column 'tone' appears twice"),
    ("file,tone\na.jpg,dark,\n", "line 2 has 3 fields, the header 2"),
    ("file,tone\na.jpg,dark\nb.jpg\n", "line 3 has 1 fields"),
]:
    (tmp / "bad.csv").write_text(text)
    try:
        _read_csv(tmp / "bad.csv")
    except ValueError as e:
        say(e)
        assert told in str(e)
    else:
        raise AssertionError(f"{text!r} was read")


# %%
#| export
def read_labels(
    csv: str | Path,  # The label file, UTF-8, with a header
    required: Sequence[str],  # Columns that must be there
) -> pd.DataFrame:  # All columns as text, one row per image
    """Read a CSV of labels. Raises: FileNotFoundError, ValueError (no such column, not a CSV,
    no rows).
    """
    if not Path(csv).is_file():
        raise FileNotFoundError(f"{csv}: no such label file; see data/README.md")
    table = _read_csv(csv)
    for column in required:
        if column not in table:
            raise ValueError(f"{csv}: no column {column!r}: its columns are {', '.join(table)}")
    if table.empty:
        raise ValueError(f"{csv}: the file has a header but no rows")
    return table


# %%
(tmp / "labels.csv").write_text("file,tone\na.jpg,NA\nb.jpg,tone-1\n")
read_labels(tmp / "labels.csv", ["file"])

# %%
assert read_labels(tmp / "labels.csv", ["file"]).tone.tolist() == ["NA", "tone-1"]
(tmp / "bare.csv").write_text("file,tone\n")
for csv, columns in [
    ("labels.csv", ["file", "race"]),
    ("none.csv", ["file"]),
    ("bare.csv", ["file"]),
    ("empty.csv", ["file"]),
]:
    try:
        read_labels(tmp / csv, columns)
    except (ValueError, FileNotFoundError) as e:
        say(e)
        assert csv != "none.csv" or "data/README.md" in str(e)
    else:
        raise AssertionError("a bad label file was read")

# %% [markdown]
# A label file that was opened in a spreadsheet and saved again may have lost its ages. The
# spreadsheet takes `3-9` for a date and writes `03-Sep`; `10-19` becomes `Oct-19`, or a full date
# with the year. `20-29` survives, because no month has that number, so most lines still look right.

# %%
#| export
_MONTH = r"(jan|feb|mar|mär|mrz|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)[a-z]*"
_DATE = (
    rf"\d{{1,4}}[-/. ]+{_MONTH}\.?([-/. ]+\d{{2,4}})?|{_MONTH}[-/."
    r" ]+\d{1,4}|(\d{1,4}[-/.]){2}\d{1,4}( 0?0:00(:00)?)?|[34]\d{4}"
)


def _look_like_dates(
    values: pd.Series,  # Labels, as text
) -> pd.Series:  # bool, same index
    "Which labels look like a range of ages that a spreadsheet has turned into a date."
    return values.str.fullmatch(_DATE, flags=re.IGNORECASE)


# %%
ages = pd.Series(
    [
        "03-Sep",
        "3-Sep",
        "Sep-03",
        "Oct-19",
        "10/19/2026",
        "2026-10-19",
        "03. Mrz",
        "20-29",
        "3-9",
        "more than 70",
        "Southeast Asian",
    ]
)
print(ages[_look_like_dates(ages)].tolist())
assert _look_like_dates(ages).tolist() == [True] * 7 + [False] * 4
assert not _look_like_dates(pd.Series(["", "0-2", "40", "1999", "Mayor", "g1", "NA"])).any()


# %% [markdown]
# The error names the line, because the file may have eighty thousand.

# %%
#| export
def line_of(
    values: pd.Series | pd.DataFrame,  # Rows of a label file
    row: int,  # Which of them, from 0
) -> int:  # The line of the file, from 1
    "The line of a row in its file, as `read_labels` counted it, or assuming one header line."
    return int(values.index[row]) if values.index.name == "line" else int(row) + 2


def _where(csv: str | Path, values: pd.Series, bad: pd.Series) -> str:
    "The start of an error: the place of the first bad label of a column, and the label."
    row = bad.to_numpy().argmax()
    return f"{csv}, line {line_of(values, row)}, column {values.name!r}: {values.iloc[row]!r}"


# %%
damaged = pd.Series(["20-29", "03-Sep", "Oct-19"], name="age")
print(_where("labels.csv", damaged, damaged != "20-29"))
assert line_of(_read_csv(tmp / "blank.csv"), 1) == 7 and line_of(damaged, 1) == 3
# line 1 is the header
assert (
    _where("labels.csv", damaged, damaged != "20-29")
    == "labels.csv, line 3, column 'age': '03-Sep'"
)


# %%
#| export
def refuse_dates(
    csv: str | Path,  # The label file, for the error
    values: pd.Series,  # The labels of one column, as text
    suspects: pd.Series,  # Which rows to look at, bool
):
    "Raise ValueError if a spreadsheet has turned a label into a date."
    if not (dates := _look_like_dates(values) & suspects).any():
        return
    raise ValueError(
        f"{_where(csv, values, dates)} is a date: a spreadsheet turned a range such as '3-9' into"
        f" it ({dates.sum()} such lines). Take the original CSV, and do not save it from a"
        " spreadsheet"
    )


# %%
# only this row is suspected, and it is not a date
refuse_dates("labels.csv", damaged, damaged == "20-29")
try:
    refuse_dates("labels.csv", damaged, damaged != "20-29")
except ValueError as e:
    print(e)
    told = str(e)
else:
    raise AssertionError("a date was taken for an age")
assert "line 3" in told and "(2 such lines)" in told

# %% [markdown]
# ## Unintended labels
#
# An empty field is not a label, and neither is a program's code for a missing value: `nan`, `None`,
# `#N/A`. Read as text, it would become a class, and the method would protect that class as a group.
# Only `NA` may be a name (of a region, say), so it is read as one. A warning says so, because R
# writes `NA` for a missing label.

# %%
#| export
_MISSING = (
    "",
    "nan",
    "-nan",
    "none",
    "null",
    "nil",
    "nat",
    "n/a",
    "#n/a",
    "<na>",
    "#null!",
    "#value!",
    "#ref!",
    "#name?",
    "#num!",
    "#div/0!",
)


def refuse_missing(
    csv: str | Path,  # The label file, for the error
    values: pd.Series,  # The labels of one column, as text
) -> None:
    """Raise ValueError for an empty label, or a program's code for a missing one; warn about
    `NA`.
    """
    missing = values.str.strip().str.lower().isin(_MISSING)
    if missing.any():
        row = missing.to_numpy().argmax()
        what = "the field is empty"
        if values.iloc[row].strip():
            what = f"{values.iloc[row]!r} stands for a missing one"
        raise ValueError(
            f"{csv}, line {line_of(values, row)}, column {values.name!r}: no label, {what}"
            f" ({missing.sum()} such lines): remove these rows, or rename the class"
        )
    if n := int((values.str.strip() == "NA").sum()):
        warnings.warn(
            f"{csv}, column {values.name!r}: 'NA' is read as the name of a class ({n} images); "
            "if it means that the label is missing, remove these rows",
            stacklevel=3,
        )


# %%
for word in ("", " ", "nan", "NaN", "None", "null", "N/A", "#N/A", "<NA>", "#VALUE!"):
    try:
        refuse_missing("labels.csv", pd.Series(["light", word, word], name="tone"))
    except ValueError as e:
        told = str(e)
        assert "line 3, column 'tone': no label, " in told and "(2 such lines)" in told
    else:
        raise AssertionError(f"{word!r} was taken for a label")
print(told)
assert refuse_missing("labels.csv", pd.Series(["Nana", "nothing", "no", "0"], name="tone")) is None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    refuse_missing("labels.csv", pd.Series(["NA", "EU"], name="region"))
assert len(caught) == 1 and "'NA' is read as the name of a class (1 images)" in str(
    caught[0].message
)


# %% [markdown]
# Two spellings of one label would become two classes, each too small: `Sad` and `sad`, `1` and
# `1.0`, an accent written in two ways. The error names such a pair. A space at either end of a
# label is also an error, because no setting could select that class.

# %%
#| export
def _spelling(label: str) -> str:
    "A normal form that is equal for labels that differ only in spelling."
    plain = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
    return repr(float(plain)) if re.fullmatch(r"[+-]?\d+(\.\d*)?", plain, re.ASCII) else plain


def refuse_lookalikes(
    csv: str | Path,  # The label file, for the error
    values: pd.Series,  # The labels of one column, as text
) -> None:
    """Raise ValueError for a label with spaces around it, and for two labels that differ only
    in spelling.
    """
    blank = values != values.str.strip()
    if blank.any():
        raise ValueError(
            f"{_where(csv, values, blank)} begins or ends with a space ({blank.sum()} such lines):"
            " remove the space"
        )
    counts = values.value_counts(sort=False)
    first = {}
    for label in counts.index:
        other = first.setdefault(_spelling(label), label)
        if other != label:
            raise ValueError(
                f"{csv}, column {values.name!r}: {other!r} ({counts[other]} rows) and {label!r}"
                f" ({counts[label]} rows) differ only in spelling: make them one label, or"
                " rename one"
            )


# %%
for labels, told in (
    (["sad", "Sad", "Sad"], "'sad' (1 rows) and 'Sad' (2 rows) differ only in spelling"),
    (["1", "1.0"], "'1' (1 rows) and '1.0' (1 rows)"),
    (["dark", "dark "], "line 3, column 'look': 'dark ' begins or ends with a space"),
    (["very  old", "very old"], "differ only"),
    (["caf\u00e9", "cafe\u0301"], "differ only"),
    (["01", "1"], "differ only"),
):
    try:
        refuse_lookalikes("labels.csv", pd.Series(labels, name="look"))
    except ValueError as e:
        print(e)
        assert told in str(e)
    else:
        raise AssertionError(f"{labels} were taken for two classes")
assert (
    refuse_lookalikes("labels.csv", pd.Series(["1", "1.5", "10", "sad", "said", "-1"], name="look"))
    is None
)


# %% [markdown]
# ## Labels of a known vocabulary
#
# A label outside the vocabulary is most often another spelling (`Latino Hispanic`), a date as
# above, or from another edition of the set. It must neither become a new class nor be dropped
# silently.

# %%
#| export
def named_labels(
    csv: str | Path,  # The label file, for the error
    values: pd.Series,  # The labels of one column, as text
    vocabulary: Sequence[str],  # The permitted names, in their order
) -> pd.Categorical:  # The labels as a categorical
    """Labels of a closed vocabulary. Raises: ValueError with the line, the column and the known
    names.
    """
    unknown = ~values.isin(list(vocabulary))
    refuse_dates(csv, values, unknown)
    if unknown.any():
        raise ValueError(
            f"{_where(csv, values, unknown)} is not one of {', '.join(vocabulary)} ({unknown.sum()}"
            " such lines)"
        )
    return pd.Categorical(values, list(vocabulary))


# %%
named_labels("labels.csv", pd.Series(["Black", "White"], name="race"), ["White", "Black"])

# %%
assert named_labels(
    "labels.csv", pd.Series(["Black", "White"], name="race"), ["White", "Black"]
).codes.tolist() == [1, 0]
for values, vocabulary, told in [
    (["White", "white"], ["White", "Black"], "line 3, column 'label': 'white' is not one of"),
    (["20-29", "03-Sep"], ["3-9", "20-29"], "is a date"),
]:
    try:
        named_labels("labels.csv", pd.Series(values, name="label"), vocabulary)
    except ValueError as e:
        say(e)
        assert told in str(e)
    else:
        raise AssertionError("a label outside the vocabulary was accepted")


# %% [markdown]
# ## Image files
#
# The image cache must notice a changed file. Names, sizes and modification times are enough for
# that and cost one `stat` per file. Both kinds of archive store the times, so a set that is
# unpacked twice has the same key. Missing files are found here too.

# %%
#| export
def _file_line(root: Path, path: str) -> str | None:
    "A file's name, size and modification time, which identify it; None if it is missing."
    try:
        info = os.stat(root / path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(info.st_mode):
        return None  # a folder, or a pipe, which would block
    return f"{path}\0{info.st_size}\0{info.st_mtime_ns}\n"


# %%
(tmp / "a").write_text("22")
os.utime(tmp / "a", ns=(0, 10**9))
print(repr(_file_line(tmp, "a")), _file_line(tmp, "gone"), _file_line(tmp, "a/b"))
assert (
    _file_line(tmp, "a") == "a\0002\0001000000000\n"
    and _file_line(tmp, "gone") is None
    and _file_line(tmp, "a/b") is None
)
os.mkfifo(tmp / "pipe")
assert _file_line(tmp, "pipe") is None and _file_line(tmp, ".") is None


# %%
#| export
def _files_key(
    root: Path,  # The folder that the paths are relative to
    paths: Sequence[str],  # The image files, in the table's order
) -> str:  # 64 hexadecimal digits
    """A hash of the files' names, sizes and modification times. Raises: FileNotFoundError with
    the first missing file and the number of missing files.
    """
    lines = [_file_line(root, path) for path in paths]
    if missing := [path for path, line in zip(paths, lines) if line is None]:
        slashes = " Write paths with '/', not with a backslash." if "\\" in missing[0] else ""
        raise FileNotFoundError(
            f"{root / missing[0]}: the labels name this image, but the file is not there"
            f" ({len(missing)} of {len(paths)} are missing).{slashes} Fetch the missing files; or"
            " use those that are there, with the setting partial = True (--partial True)"
        )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# %%
for name, text in [("a", "1"), ("b", "22")]:
    (tmp / name).write_text(text)
old = _files_key(tmp, ["a", "b"])
(tmp / "b").write_text("333")
print(old[:8], _files_key(tmp, ["a", "b"])[:8])
assert _files_key(tmp, ["a", "b"]) != old and _files_key(tmp, ["a", "b"]) == _files_key(
    tmp, ["a", "b"]
)
for gone, hint in ((["a", "c", "d"], "partial = True"), (["img\\a"], "not with a backslash")):
    try:
        _files_key(tmp, gone)
    except FileNotFoundError as e:
        say(e)
        assert hint in str(e)
    else:
        raise AssertionError("a missing file was not noticed")

# %% [markdown]
# Label files come from other people. An absolute path, or a path that leaves the set's folder,
# could read other files on the disk. Such paths are refused, in Unix and in Windows form.

# %%
#| export
# absolute, with a drive, with '..', or empty
_OUTSIDE = r"^(?:[/\\]|[A-Za-z]:)|(?:^|[/\\])\.\.(?:[/\\]|$)|^$"


def check_inside(
    root: Path,  # The set's folder
    paths: Sequence[str],  # Image files, as the labels name them
):
    "Raise ValueError unless every path is relative and stays inside the set's folder."
    paths = pd.Series(list(paths), dtype=str)
    bad = paths.str.contains(_OUTSIDE, regex=True)
    if bad.any():
        raise ValueError(
            f"the labels name the image {paths[bad.argmax()]!r} ({int(bad.sum())} of {len(paths)}"
            f" paths are at fault): a path must be relative to {root}, inside it, and without '..'"
        )


# %%
check_inside(tmp, ["a", "sub/b.png", "..hidden", "a..b/c"])

# %%
for outside in (
    "/etc/passwd",
    "../a",
    "sub/../../a",
    "..",
    r"C:\a.png",
    r"\\host\a",
    r"sub\..\..\a",
    "",
):
    try:
        check_inside(tmp, ["a", outside])
    except ValueError as e:
        say(e)
        told = str(e)
    else:
        raise AssertionError(f"{outside} was accepted")
assert "(1 of 2 paths are at fault)" in told


# %% [markdown]
# A name can be encoded in two ways: é is one character, or e followed by an accent (as macOS writes
# file names). The two look alike, but most file systems tell them apart. If a file is missing under
# the name in the labels, the other form is tried.

# %%
#| export
def _composed(name: str) -> str:
    "A name in the Unicode form in which é is one character."
    return unicodedata.normalize("NFC", name)


def _as_on_disk(
    root: Path,  # The folder that the paths are relative to
    paths: Sequence[str],  # Image files, as the labels name them
) -> list[str]:  # The same, with é and the like as on disk
    "Paths in the Unicode form of the files on disk; paths of missing files stay as they are."

    @cache
    def entries(folder: str) -> dict[str, str]:
        try:
            return {_composed(name): name for name in os.listdir(root / folder)}
        except OSError:
            return {}

    def found(path: str) -> str:
        if path.isascii() or os.path.exists(root / path):
            return path
        place = ""
        for part in path.split("/"):
            name = part if part in (".", "") else entries(place).get(_composed(part), part)
            place = f"{place}/{name}" if place else name
        return place

    return [found(path) for path in paths]


# %%
two_characters, one_character = unicodedata.normalize("NFD", "Zoë"), "Zoë"
(tmp / two_characters).mkdir()
(tmp / two_characters / f"{two_characters}.png").write_text("1")
found = _as_on_disk(tmp, [f"{one_character}/{one_character}.png", "a", f"{one_character}.jpg"])
print([len(path) for path in found])
assert found == [f"{two_characters}/{two_characters}.png", "a", f"{one_character}.jpg"]


# %% [markdown]
# Every reader of files ends in one call. A run needs the whole set, so a missing file stops it.
# Without `strict`, the missing files are listed in `notes` and their rows are left out. This shows
# what an incomplete download lacks.

# %%
#| export
def face_set(
    name: str,  # The set's name
    root: Path,  # The folder that `path` is relative to
    table: pd.DataFrame,  # The set's table, one row per image file
    notes: dict | None = None,  # The reader's remarks
    # A missing file is an error; else it is listed in notes["missing"] and its row is left out
    strict: bool = True,
) -> FaceData:  # The set
    """A set of image files. Raises: ValueError (a path that leaves the folder),
    FileNotFoundError (with `strict`).
    """
    check_inside(root, table["path"])
    table = table.reset_index(drop=True)
    table["path"] = _as_on_disk(root, table["path"])
    notes = dict(notes or {})
    if not strict:
        lost = [path for path in table["path"] if not os.path.isfile(os.path.join(root, path))]
        table = table[~table["path"].isin(lost)].reset_index(drop=True)
        notes["missing"] = [*notes.get("missing", []), *lost]
    return FaceData(
        name, root, table, partial(load_images, root), _files_key(root, table["path"]), notes
    )


# %%
half = pd.DataFrame(dict(path=["a", "gone", "b"], photo=["a", "gone", "b"]))
face_set("half", tmp, half, strict=False).table

# %%
assert face_set("half", tmp, half, strict=False).notes == dict(missing=["gone"])
assert face_set("half", tmp, half, dict(missing=["a.csv"]), strict=False).notes == dict(
    missing=["a.csv", "gone"]
)
assert face_set("half", tmp, half, strict=False).table.path.tolist() == ["a", "b"]
assert face_set("whole", tmp, half[half.path != "gone"]).notes == {}
try:
    face_set("half", tmp, half)
except FileNotFoundError as e:
    say(e)
else:
    raise AssertionError("a missing file was not noticed")
try:
    face_set("out", tmp, half.assign(path=["a", "../gone", "b"]), strict=False)
except ValueError as e:
    say(e)
else:
    raise AssertionError("a path that climbs out was accepted")

# %% [markdown]
# The `load` of the set decodes its files, and its `key` is a hash of their names, sizes and times.

# %%
Image.new("RGB", (8, 8), (200, 100, 0)).save(tmp / "orange.png")
orange = face_set("orange", tmp, pd.DataFrame(dict(path=["orange.png"], photo=["orange.png"])))
print(orange.load(orange.table, 4)[0, :, 0, 0])
assert (
    orange.load(orange.table, 4) == np.array([200, 100, 0], np.uint8)[None, :, None, None]
).all() and orange.key == _files_key(tmp, ["orange.png"])
