# %% [markdown]
# # CelebA's label files
#
# > Forty attributes, a part and a person per image, from text files or CSVs, cross-checked

# %%
#| default_exp data.celeba_labels

# %%
#| export
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from fairgrape.data.splits import SPLITS

# %%
import tempfile

tmp = Path(tempfile.mkdtemp())


# an error without the temporary folder's name
def say(error):
    print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")


# %% [markdown]
# CelebA (Liu et al., 2015) has 202,599 aligned photographs of 10,177 persons, 178 × 218 pixels, and for each the answers to forty questions: smiling? eyeglasses? bald? One of the forty is
# `Male`. The paper groups by it and predicts the other 39, with a head of two outputs for each.
#
# The answers are judgements of annotators who saw one picture. Some questions cannot be answered
# from a picture (`Attractive`), and a re-annotation found that only 12 of the 40 get the same
# answer from two people in 95 % of the images (Wu et al., *Consistency and Accuracy of CelebA
# Attribute Values*, 2023). So a difference between groups in such a head is partly a difference in
# its labels.

# %%
#| export
# In the order of list_attr_celeba.txt
CELEBA_ATTRIBUTES = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair
Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
""".split()
CELEBA_HEADS = [a for a in CELEBA_ATTRIBUTES if a != "Male"]

# %%
len(CELEBA_ATTRIBUTES), CELEBA_ATTRIBUTES.index("Male"), CELEBA_HEADS[:3]

# %%
assert (
    len(set(CELEBA_ATTRIBUTES)) == 40
    and len(CELEBA_HEADS) == 39
    and CELEBA_ATTRIBUTES[20] == "Male"
)
assert CELEBA_ATTRIBUTES == sorted(CELEBA_ATTRIBUTES)


# %% [markdown]
# ## The attribute file
#
# `list_attr_celeba.txt` starts with the number of images, then the forty names, then a row for each
# image: the file name and forty times −1 or 1. The values are padded to two columns, so a 1 follows
# two spaces, and the line of names ends with a space. A reader that splits at single spaces would
# see extra fields. This is the start of a file of three images.

# %%
def attribute_text(names, values, count=None):
    "The text of list_attr_celeba.txt; `values` holds a row of -1 and 1 an image."
    rows = [f"{n} " + " ".join(f"{v:2d}" for v in row) for n, row in zip(names, values)]
    return (
        "\n".join(
            [str(len(rows) if count is None else count), " ".join(CELEBA_ATTRIBUTES) + " ", *rows]
        )
        + "\n"
    )


three = -np.ones((3, 40), int)
# a young man, a woman who smiles, a man with a 5 o'clock shadow
three[0, [20, 39]] = three[1, [31]] = three[2, [0, 20]] = 1
names = [f"{i:06d}.jpg" for i in (1, 2, 3)]
text = attribute_text(names, three)
print("\n".join(line[:78] for line in text.splitlines()))


# %% [markdown]
# The first two lines announce what follows, and both are checked. A file with another count was
# truncated or edited, and other names mean another data set.

# %%
#| export
def _check_attribute_names(
    file: Path,  # The attribute file, for the error
    line: int,  # The line that holds the names
    names: list[str],  # The names it holds
) -> None:
    """Check that the names are CelebA's forty, each once. Raises: ValueError with the missing and
    the unknown names.
    """
    if sorted(names) == sorted(CELEBA_ATTRIBUTES):
        return
    faults = dict(
        missing=[n for n in CELEBA_ATTRIBUTES if n not in names],
        unknown=[n for n in names if n not in CELEBA_ATTRIBUTES],
        twice=sorted({n for n in names if names.count(n) > 1}),
    )
    told = "; ".join(
        f"{what}: {', '.join(found[:5])}" + (" …" if len(found) > 5 else "")
        for what, found in faults.items()
        if found
    )
    raise ValueError(
        f"{file}, line {line}: {len(names)} attribute names, but CelebA has 40 ({told}). Take the"
        " file from its official source"
    )


# %%
# another order is accepted: columns go by name
_check_attribute_names(Path("list_attr_celeba.txt"), 2, CELEBA_ATTRIBUTES[::-1])
told = []
for names_found in [
    CELEBA_ATTRIBUTES[:-1],
    ["Beard", *CELEBA_ATTRIBUTES[1:]],
    [*CELEBA_ATTRIBUTES, "Young"],
    ["A", *CELEBA_ATTRIBUTES[5:]],
    ["A", "B", *CELEBA_ATTRIBUTES[6:]],
]:
    try:
        _check_attribute_names(Path("list_attr_celeba.txt"), 2, names_found)
    except ValueError as e:
        print(e)
        told.append(str(e).split("(")[1].split(")")[0])
    else:
        raise AssertionError("wrong names were accepted")
five = "missing: 5_o_Clock_Shadow, Arched_Eyebrows, Attractive, Bags_Under_Eyes, Bald"
assert told == [
    "missing: Young",
    "missing: 5_o_Clock_Shadow; unknown: Beard",
    "twice: Young",
    f"{five}; unknown: A",
    f"{five} …; unknown: A, B",
]


# %% [markdown]
# ## Rows
#
# A missing field in a row shifts every later answer by one, and all fields are still numbers. The
# faulty line is searched for only if there is one: without the search, the whole file, 202,599 rows
# of 41 fields, takes one to two seconds.

# %%
#| export
def _uneven(file: Path, start: int, fields: int, why: str = "") -> ValueError:
    "The error for a row that does not have `fields` fields, with its line."
    with open(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            found = line.strip().split(",") if file.suffix == ".csv" else line.split()
            n = sum(1 for field in found if field)
            if number >= start and line.strip() and n != fields:
                return ValueError(
                    f"{file}, line {number}: {n} fields instead of {fields}. Take the file from its"
                    " official source"
                )
    return ValueError(f"{file}: cannot be read as rows of {fields} fields: {why}")


# %%
(tmp / "uneven.txt").write_text("3\na b\n\n1.jpg  1\n2.jpg -1  1\n")
(tmp / "uneven.csv").write_text("image,Bald\n1.jpg,1\n2.jpg,\n")
for file, start in ((tmp / "uneven.txt", 3), (tmp / "uneven.csv", 2)):
    say(_uneven(file, start, 2))

# %%
assert (
    "line 5: 3 fields" in str(_uneven(tmp / "uneven.txt", 3, 2))
    and "line 5" in str(_uneven(tmp / "uneven.txt", 5, 2))
    and "line 4: 2 fields" in str(_uneven(tmp / "uneven.txt", 3, 3))
)
assert "line 3: 1 fields" in str(_uneven(tmp / "uneven.csv", 2, 2)) and "cannot be read" in str(
    _uneven(tmp / "uneven.txt", 6, 2, "no idea")
)


# %% [markdown]
# The rows are read as text, with one extra column. Any content in that column is an extra field.

# %%
#| export
def _text_table(file: Path, columns: list[str], start: int) -> pd.DataFrame:
    "The rows as text, with a last column 'too many' that should be empty."
    split = dict(
        sep="," if file.suffix == ".csv" else r"\s+",
        header=None,
        names=[*columns, "too many"],
        index_col=False,
    )
    try:
        with warnings.catch_warnings():
            # a long first row: the caller finds it
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            return pd.read_csv(
                file,
                dtype=str,
                keep_default_na=False,
                na_values=[""],
                encoding="utf-8-sig",
                skiprows=start - 1,
                **split,
            )
    except pd.errors.ParserError as e:
        raise _uneven(file, start, len(columns), str(e)) from e
    except (pd.errors.EmptyDataError, UnicodeDecodeError) as e:
        raise ValueError(f"{file}: not readable as text with rows: {e}") from e


# %%
(tmp / "rows.txt").write_text("1.jpg -1  1\n2.jpg  1 -1  1\nNA.jpg  1\n")
_text_table(tmp / "rows.txt", ["image", "Bald", "Bangs"], 1)

# %%
rows = _text_table(tmp / "rows.txt", ["image", "Bald", "Bangs"], 1)
assert (
    rows.isna().to_numpy().tolist() == [[False] * 3 + [True], [False] * 4, [False] * 2 + [True] * 2]
    and rows.loc[0, "Bald"] == "-1"
)
assert _text_table(tmp / "uneven.csv", ["image", "Bald"], 2).Bald.isna().tolist() == [False, True]
(tmp / "long.txt").write_text("1.jpg 1\n2.jpg 1 1 1 1\n")
(tmp / "latin.txt").write_bytes(b"\xff.jpg 1\n")
for name in ("long.txt", "latin.txt"):
    try:
        _text_table(tmp / name, ["image", "Bald"], 1)
    except ValueError as e:
        say(e)
    else:
        raise AssertionError(f"{name} was read")


# %%
#| export
def _read_rows(
    file: Path,  # A text file with fields separated by spaces, or a .csv
    columns: list[str],  # A name for each field; the first is the image's name
    start: int,  # The first line with a row, counted from 1
) -> pd.DataFrame:  # All columns as text
    """Rows of equal length from a text file or CSV. Raises: ValueError (a row of another
    length, an image twice, no rows).
    """
    table = _text_table(file, columns, start)
    if table.empty:
        raise ValueError(f"{file}: no rows. Take the file from its official source")
    extra = table.pop("too many")
    if extra.notna().any() or table.isna().to_numpy().any():
        raise _uneven(file, start, len(columns), "an empty field")
    twice = table[columns[0]].duplicated().to_numpy()
    if twice.any():
        raise ValueError(
            f"{file}, line {twice.argmax() + start}: {table.iloc[twice.argmax(), 0]} already has a"
            " row. Take the file from its official source"
        )
    return table


# %%
(tmp / "list_attr_celeba.txt").write_text(text)
_read_rows(tmp / "list_attr_celeba.txt", ["image", *CELEBA_ATTRIBUTES], 3).iloc[:, :6]

# %%
rows = _read_rows(tmp / "list_attr_celeba.txt", ["image", *CELEBA_ATTRIBUTES], 3)
(tmp / "nothing.txt").write_text("")
try:
    _read_rows(tmp / "nothing.txt", ["image"], 1)
except ValueError as e:
    say(e)
else:
    raise AssertionError("an empty file was read")
assert (
    rows.shape == (3, 41)
    and rows.image.tolist() == names
    and rows["Male"].tolist() == ["1", "-1", "1"]
)
lines = text.splitlines()
for told, *bad in [
    ("line 4: 42", *lines[:3], lines[3] + "  1", lines[4]),
    ("line 4: 43", *lines[:3], lines[3] + "  1 1", lines[4]),
    ("line 5", *lines[:4], lines[4][:60]),
    ("line 4: 000001.jpg already has a row", *lines[:3], lines[2], lines[4]),
    ("no rows", *lines[:2]),
]:
    (tmp / "bad.txt").write_text("\n".join(bad) + "\n")
    try:
        _read_rows(tmp / "bad.txt", ["image", *CELEBA_ATTRIBUTES], 3)
    except ValueError as e:
        say(e)
        assert told in str(e)
    else:
        raise AssertionError("an uneven file was read")


# %% [markdown]
# A value must be −1 or 1. The widespread CSV uses the same values, and some copies of it use 0 and
# 1. A file that mixes the two codes is damaged.

# %%
#| export
def _yes_no(
    file: Path,  # The attribute file, for the error
    start: int,  # The first line with a row
    values: pd.DataFrame,  # Attribute columns, as text
    no: str = "-1",  # The text that means no
) -> pd.DataFrame:  # The same columns as Categorical, "no" and "yes"
    "Attributes as named labels. Raises: ValueError with line, attribute and value."
    for name, column in values.items():
        if strange := sorted({*column.unique()} - {no, "1"}):
            row = (column == strange[0]).to_numpy().argmax()
            raise ValueError(
                f"{file}, line {row + start}, {name}: {strange[0]!r} is neither {no} nor 1"
            )
    ones = {name: (column == "1").to_numpy(np.int8) for name, column in values.items()}
    return pd.DataFrame(
        {name: pd.Categorical.from_codes(one, ["no", "yes"]) for name, one in ones.items()}
    )


# %%
_yes_no(Path("list_attr_celeba.txt"), 3, rows[["Male", "Smiling", "Young"]])

# %%
assert _yes_no(Path("a.txt"), 3, rows[["Male"]])["Male"].tolist() == ["yes", "no", "yes"]
# nobody is bald here, but the name stays
assert _yes_no(Path("a.txt"), 3, rows[["Bald"]])["Bald"].cat.categories.tolist() == ["no", "yes"]
assert _yes_no(Path("a.txt"), 3, rows[["Male"]].replace({"-1": "0"}), no="0")["Male"].tolist() == [
    "yes",
    "no",
    "yes",
]
try:
    _yes_no(Path("list_attr_celeba.txt"), 3, rows[["Bald", "Smiling"]].replace({"1": "2"}))
except ValueError as e:
    say(e)
    told = str(e)
else:
    raise AssertionError("2 was read as an answer")
assert "line 4, Smiling: '2' is neither -1 nor 1" in told


# %% [markdown]
# ## The whole file
#
# Columns go by their names, so their order in the file does not matter. A CSV uses −1 for no if it
# contains any −1, and 0 otherwise.

# %%
#| export
def _read_answers(file: Path, names: list[str], start: int) -> pd.DataFrame:
    "The rows below the names, as no and yes, the attributes in CelebA's order."
    _check_attribute_names(file, start - 1, names)
    rows = _read_rows(file, ["image", *names], start)
    values = rows[CELEBA_ATTRIBUTES]
    zero = file.suffix == ".csv" and not any(
        "-1" in column.unique() for _, column in values.items()
    )
    return pd.concat([rows[["image"]], _yes_no(file, start, values, "0" if zero else "-1")], axis=1)


# %%
def csv_text(names, values, columns=CELEBA_ATTRIBUTES):
    "The text of list_attr_celeba.csv."
    return pd.DataFrame(values, pd.Index(names, name="image_id"), columns).to_csv()


(tmp / "list_attr_celeba.csv").write_text(csv_text(names, three))
(tmp / "zero.csv").write_text(csv_text(names, (three + 1) // 2))
(tmp / "turned.csv").write_text(csv_text(names, three[:, ::-1], CELEBA_ATTRIBUTES[::-1]))
_read_answers(tmp / "zero.csv", CELEBA_ATTRIBUTES, 2)[
    ["image", "5_o_Clock_Shadow", "Male", "Smiling", "Young"]
]

# %%
answers = _read_answers(tmp / "list_attr_celeba.txt", CELEBA_ATTRIBUTES, 3)
assert (
    list(answers) == ["image", *CELEBA_ATTRIBUTES]
    and answers.loc[0].eq("yes").sum() == 2
    and answers["Smiling"].tolist() == ["no", "yes", "no"]
)
for name, columns in (
    ("list_attr_celeba.csv", CELEBA_ATTRIBUTES),
    ("zero.csv", CELEBA_ATTRIBUTES),
    ("turned.csv", CELEBA_ATTRIBUTES[::-1]),
):
    assert _read_answers(tmp / name, columns, 2).equals(answers)
(tmp / "mixed.csv").write_text(csv_text(names, three).replace("-1", "0", 1))
(tmp / "zero.txt").write_text(attribute_text(names, (three + 1) // 2))
for name, columns, start, told in (
    ("mixed.csv", CELEBA_ATTRIBUTES, 2, "line 2, 5_o_Clock_Shadow: '0'"),
    ("zero.txt", CELEBA_ATTRIBUTES, 3, "'0' is neither -1"),
    ("zero.csv", CELEBA_HEADS, 2, "line 1: 39 attribute names"),
):
    try:
        _read_answers(tmp / name, columns, start)
    except ValueError as e:
        say(e)
        assert told in str(e)
    else:
        raise AssertionError(f"{name} was read")


# %% [markdown]
# The text file announces its number of rows. Only this number reveals a download that was truncated
# at the end of a line.

# %%
#| export
def read_attributes(
    file: Path,  # list_attr_celeba.txt or list_attr_celeba.csv
) -> pd.DataFrame:  # `image`, then the forty attributes as Categorical "no", "yes"
    """The attribute file of CelebA. Raises: ValueError (count, names, a row's length, a value).
    Source: the set's README.
    """
    with open(file, encoding="utf-8-sig") as lines:
        first, second = lines.readline(), lines.readline()
    if file.suffix == ".csv":
        return _read_answers(file, [n.strip() for n in first.split(",")][1:], 2)
    if not first.strip().isdecimal():
        raise ValueError(
            f"{file}, line 1: {first.strip()[:40]!r} is not the number of images. Take the file"
            " from its official source"
        )
    table = _read_answers(file, second.split(), 3)
    if int(first) != len(table):
        raise ValueError(
            f"{file}, line 1: {int(first)} images are announced, but {len(table)} rows follow. Take"
            " the file from its official source"
        )
    return table


# %%
attributes = read_attributes(tmp / "list_attr_celeba.txt")
attributes[["image", "5_o_Clock_Shadow", "Male", "Smiling", "Young"]]

# %%
assert attributes.equals(answers)
for name in ("list_attr_celeba.csv", "zero.csv", "turned.csv"):
    assert read_attributes(tmp / name).equals(answers)
for name, bad, told in [
    ("four.txt", attribute_text(names, three, 4), "4 images are announced, but 3 rows follow"),
    ("none.txt", text.split("\n", 1)[1], "is not the number of images"),
    ("39.txt", text.replace("Bald ", "", 1), "line 2: 39 attribute names"),
]:
    (tmp / name).write_text(bad)
    try:
        read_attributes(tmp / name)
    except ValueError as e:
        say(e)
        assert told in str(e)
    else:
        raise AssertionError(f"{name} was read")


# %% [markdown]
# ## Partition and persons
#
# Two more files give each image a number: `list_eval_partition.txt` its part (0 train, 1 val, 2
# test), `identity_CelebA.txt` its person. Both must name exactly the images of the attribute file.
# Otherwise a partition of another edition would silently drop images.

# %%
#| export
def _check_named(one: Path, names: pd.Series, other: Path, known: pd.Series) -> None:
    "Raise ValueError if the file `one` names an image that the file `other` does not."
    alone = pd.Index(known).get_indexer(names) < 0
    if alone.any():
        raise ValueError(
            f"{one} names {names.iloc[alone.argmax()]}, but {other} does not ({alone.sum()} such"
            " images): take both from one edition of the set"
        )


# %%
more = pd.Series(["2.jpg", "3.jpg", "1.jpg", "4.jpg"])
_check_named(Path("one.txt"), more[[2, 0]], Path("other.txt"), more)
try:
    _check_named(Path("other.txt"), more, Path("one.txt"), more[[2, 0]])
except ValueError as e:
    print(e)
    told = str(e)
else:
    raise AssertionError("an image was known that is not")
assert "other.txt names 3.jpg, but one.txt does not (2 such images)" in told


# %%
#| export
def numbers_of(
    file: Path,  # list_eval_partition.txt or .csv, identity_CelebA.txt or .csv
    images: pd.Series,  # The image names of the attribute file
    attributes: Path,  # That file, for the error
    # If given, collects the images that only one of the files names, instead of an error
    beside: list[str] | None = None,
    # The number of each image as text, in the order of `images`; NaN for those in `beside`
) -> pd.Series:
    """The number of each image in a file of pairs. Raises: ValueError (an image that only one of
    the files names, and the errors of `_read_rows`).
    """
    rows = _read_rows(file, ["image", "number"], 2 if file.suffix == ".csv" else 1)
    if beside is None:
        _check_named(file, rows["image"], attributes, images)
        _check_named(attributes, images, file, rows["image"])
    else:
        beside += sorted(set(rows["image"]) ^ set(images))
    return pd.Series(rows.set_index("image")["number"].reindex(images).to_numpy())


# %%
(tmp / "list_eval_partition.txt").write_text("000002.jpg 1\n000001.jpg 0\n000003.jpg 2\n")
numbers_of(tmp / "list_eval_partition.txt", attributes.image, tmp / "list_attr_celeba.txt").tolist()

# %%
# by name
assert numbers_of(
    tmp / "list_eval_partition.txt", attributes.image, tmp / "list_attr_celeba.txt"
).tolist() == ["0", "1", "2"]
(tmp / "pairs.csv").write_text("image_id,partition\n000003.jpg,2\n000001.jpg,0\n000002.jpg,1\n")
assert numbers_of(tmp / "pairs.csv", attributes.image, tmp / "list_attr_celeba.csv").tolist() == [
    "0",
    "1",
    "2",
]
others = []
known = numbers_of(
    tmp / "pairs.csv", pd.Series(["000003.jpg", "000009.jpg"]), tmp / "list_attr_celeba.csv", others
)
assert (
    known[0] == "2"
    and known.isna().tolist() == [False, True]
    and others == ["000001.jpg", "000002.jpg", "000009.jpg"]
)
for bad in [
    "000001.jpg 0\n000002.jpg 0\n000003.jpg 0\n000004.jpg 0\n",
    "000001.jpg 0\n000003.jpg 0\n",
    "000001.jpg 0 0\n",
    "000001.jpg 0\n000001.jpg 0\n",
]:
    (tmp / "bad.txt").write_text(bad)
    try:
        numbers_of(tmp / "bad.txt", attributes.image, tmp / "list_attr_celeba.txt")
    except ValueError as e:
        say(e)
    else:
        raise AssertionError("a wrong partition was read")


# %%
#| export
def official_part(
    file: Path,  # The partition file, for the error
    numbers: pd.Series,  # "0", "1" or "2" for each image
) -> pd.Categorical:  # train, val or test
    "CelebA's parts by name. Raises: ValueError with the number."
    wrong = ~numbers.isin(["0", "1", "2"]).to_numpy()
    if wrong.any():
        raise ValueError(
            f"{file}: part {numbers[wrong.argmax()]!r} is not one of 0 (train), 1 (val), 2 (test)"
            f" ({wrong.sum()} such images)"
        )
    return pd.Categorical.from_codes(numbers.astype(int), SPLITS)


# %%
official_part(Path("list_eval_partition.txt"), pd.Series(["0", "2", "1"]))

# %%
assert official_part(Path("a.txt"), pd.Series(["0", "2", "1"])).tolist() == ["train", "test", "val"]
try:
    official_part(Path("list_eval_partition.txt"), pd.Series(["0", "3"]))
except ValueError as e:
    print(e)
    told = str(e)
else:
    raise AssertionError("part 3 was accepted")
assert "part '3'" in told
