# %% [markdown]
# # CelebA
#
# > Forty attributes, a partition and the persons, from any of the three layouts in which CelebA is met

# %%
#| default_exp celeba

# %%
#| export
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from fairgrape.data import SPLITS, FaceData
from fairgrape.readers import SOURCES, face_set, open_set

# %%
import shutil
import tempfile
import zipfile
from fairgrape.data import codes, label_columns, split_table
from fairgrape.synthetic import render_faces, synthetic_table
from PIL import Image
tmp = Path(tempfile.mkdtemp())
def say(error): print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")     # an error without the temporary folder's name


# %% [markdown]
# CelebA (Liu et al., 2015) has 202,599 aligned photographs of 10,177 persons, 178 × 218 pixels, and for each the answers to forty questions: smiling? eyeglasses? bald? One of the forty is
# `Male`. The paper groups by it and predicts the other 39, with a head of two outputs for each.
#
# The answers are what annotators saw on one picture. Some of the questions have no answer in a picture (`Attractive`), and a re-annotation found that only 12 of the 40 get the
# same answer from two people in 95 % of the images (Wu et al., *Consistency and Accuracy of CelebA Attribute Values*, 2023). A difference between groups in such a head is also a difference in its labels.

# %%
#| export
CELEBA_ATTRIBUTES = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open
Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair
Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young""".split()  # in the order of list_attr_celeba.txt
CELEBA_HEADS = [a for a in CELEBA_ATTRIBUTES if a != "Male"]

# %%
len(CELEBA_ATTRIBUTES), CELEBA_ATTRIBUTES.index("Male"), CELEBA_HEADS[:3]

# %%
assert len(set(CELEBA_ATTRIBUTES)) == 40 and len(CELEBA_HEADS) == 39 and CELEBA_ATTRIBUTES[20] == "Male"
assert CELEBA_ATTRIBUTES == sorted(CELEBA_ATTRIBUTES)


# %% [markdown]
# ## The attribute file
#
# `list_attr_celeba.txt` starts with the number of images, then the forty names, then a row an image: the file name and forty times −1 or 1. The values are padded to two
# columns, so that a 1 has two blanks before it, and the line of names ends in a blank. A reader that splits at single blanks sees fields that are not there.
# This is the start of a file of three images.

# %%
def attribute_text(names, values, count=None):
    "The text of list_attr_celeba.txt; `values` holds a row of -1 and 1 an image."
    rows = [f"{n} " + " ".join(f"{v:2d}" for v in row) for n, row in zip(names, values)]
    return "\n".join([str(len(rows) if count is None else count), " ".join(CELEBA_ATTRIBUTES) + " ", *rows]) + "\n"

three = -np.ones((3, 40), int)
three[0, [20, 39]] = three[1, [31]] = three[2, [0, 20]] = 1      # a young man, a woman who smiles, a man with a 5 o'clock shadow
names = [f"{i:06d}.jpg" for i in (1, 2, 3)]
text = attribute_text(names, three)
print("\n".join(line[:78] for line in text.splitlines()))


# %% [markdown]
# The first two lines say what must follow. Both are checked: a file of another count is cut or was edited, and another set of names is another data set.

# %%
#| export
def check_attribute_names(
    file: Path,       # The attribute file, for the error
    line: int,        # The line that holds the names
    names: list[str], # The names it holds
) -> None:
    "The forty names of CelebA, each once. Raises: ValueError with the names that are missing and those that do not belong."
    if sorted(names) == sorted(CELEBA_ATTRIBUTES): return
    missing, strange = ([n for n in a if n not in b] for a, b in ((CELEBA_ATTRIBUTES, names), (names, CELEBA_ATTRIBUTES)))
    twice = sorted({n for n in names if names.count(n) > 1})
    faults = [(what, found) for what, found in (("missing", missing), ("unknown", strange), ("twice", twice)) if found]
    told = "; ".join(f"{what}: {', '.join(found[:5])}{' …' if len(found) > 5 else ''}" for what, found in faults)
    raise ValueError(f"{file}, line {line}: {len(names)} attribute names, CelebA has 40 ({told}). Take the file from its official source")


# %%
check_attribute_names(Path("list_attr_celeba.txt"), 2, CELEBA_ATTRIBUTES[::-1])        # another order is no harm: columns go by name
for names_found in [CELEBA_ATTRIBUTES[:-1], ["Beard", *CELEBA_ATTRIBUTES[1:]], [*CELEBA_ATTRIBUTES, "Young"]]:
    try: check_attribute_names(Path("list_attr_celeba.txt"), 2, names_found)
    except ValueError as e: print(e)
    else: raise AssertionError("wrong names were accepted")
assert sorted(CELEBA_ATTRIBUTES) != sorted(names_found)


# %% [markdown]
# The rows, as text. One column more than there should be is asked for, and what turns up in it is a field too many. The line at fault is searched for only when there is one: the
# whole file, 202,599 rows of 41 fields, takes one to two seconds.

# %%
#| export
def _uneven(file: Path, start: int, fields: int, why: str = "") -> ValueError:
    "The error for a row that has not `fields` fields, with its line."
    with open(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            n = len([f for f in (line.strip().split(",") if file.suffix == ".csv" else line.split()) if f])
            if number >= start and line.strip() and n != fields:
                return ValueError(f"{file}, line {number}: {n} fields, there must be {fields}. Take the file from its official source")
    return ValueError(f"{file}: cannot be read as rows of {fields} fields: {why}")

def read_rows(
    file: Path,         # A text file, fields apart by blanks; or a .csv
    columns: list[str], # A name for each field; the first is the image's name
    start: int,         # The first line with a row, counted from 1
) -> pd.DataFrame:      # All columns as text
    "Rows of equal length from a text file or CSV. Raises: ValueError (a row of another length, an image twice, no rows)."
    split = dict(sep="," if file.suffix == ".csv" else r"\s+", header=None, names=[*columns, "too many"], index_col=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)          # a long first row: found below
            table = pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig", skiprows=start - 1, **split)
    except pd.errors.ParserError as e: raise _uneven(file, start, len(columns), str(e)) from e
    except (pd.errors.EmptyDataError, UnicodeDecodeError) as e: raise ValueError(f"{file}: not readable as text with rows: {e}") from e
    if table.empty: raise ValueError(f"{file}: no rows. Take the file from its official source")
    extra = table.pop("too many")
    if extra.notna().any() or table.isna().to_numpy().any(): raise _uneven(file, start, len(columns), "an empty field")
    twice = table[columns[0]].duplicated().to_numpy()
    if twice.any(): raise ValueError(f"{file}, line {twice.argmax() + start}: {table.iloc[twice.argmax(), 0]} has a row already")
    return table


# %%
(tmp/"list_attr_celeba.txt").write_text(text)
read_rows(tmp/"list_attr_celeba.txt", ["image", *CELEBA_ATTRIBUTES], 3).iloc[:, :6]

# %%
rows = read_rows(tmp/"list_attr_celeba.txt", ["image", *CELEBA_ATTRIBUTES], 3)
assert rows.shape == (3, 41) and rows.image.tolist() == names and rows["Male"].tolist() == ["1", "-1", "1"]
lines = text.splitlines()
for bad in [[*lines[:3], lines[3] + "  1", lines[4]], [*lines[:3], lines[3] + "  1 1", lines[4]], [*lines[:4], lines[4][:60]],
            [*lines[:3], lines[2], lines[4]], lines[:2]]:
    (tmp/"bad.txt").write_text("\n".join(bad) + "\n")
    try: read_rows(tmp/"bad.txt", ["image", *CELEBA_ATTRIBUTES], 3)
    except ValueError as e: say(e)
    else: raise AssertionError("an uneven file was read")


# %% [markdown]
# A value must be −1 or 1. The CSV that is often passed on has the same, and some copies of it 0 and 1; a file that mixes the two codes is damaged.

# %%
#| export
def yes_no(
    file: Path,           # The attribute file, for the error
    start: int,           # Its first line with a row
    values: pd.DataFrame, # Attribute columns, as text
    no: str = "-1",       # The text that means no
) -> pd.DataFrame:        # The same columns as Categorical, "no" and "yes"
    "Attributes as named labels. Raises: ValueError with line, attribute and value."
    for name, column in values.items():
        if strange := sorted({*column.unique()} - {no, "1"}):
            row = (column == strange[0]).to_numpy().argmax()
            raise ValueError(f"{file}, line {row + start}, {name}: {strange[0]!r} is neither {no} nor 1")
    ones = {name: (column == "1").to_numpy(np.int8) for name, column in values.items()}
    return pd.DataFrame({name: pd.Categorical.from_codes(one, ["no", "yes"]) for name, one in ones.items()})


# %%
yes_no(Path("list_attr_celeba.txt"), 3, rows[["Male", "Smiling", "Young"]])

# %%
assert yes_no(Path("a.txt"), 3, rows[["Male"]])["Male"].tolist() == ["yes", "no", "yes"]
assert yes_no(Path("a.txt"), 3, rows[["Bald"]])["Bald"].cat.categories.tolist() == ["no", "yes"]       # nobody is bald here: the name stays
try: yes_no(Path("list_attr_celeba.txt"), 3, rows[["Bald", "Smiling"]].replace({"1": "2"}))
except ValueError as e: say(e)
else: raise AssertionError("2 was read as an answer")


# %% [markdown]
# Both kinds of file, whole.

# %%
#| export
def _announced(file: Path, line: str) -> int:
    "The number of images that the first line of the text file gives."
    if line.strip().isdecimal(): return int(line)
    raise ValueError(f"{file}, line 1: {line.strip()[:40]!r} is not the number of images. Take the file from its official source")

def _read_answers(file: Path, names: list[str], start: int) -> pd.DataFrame:
    "The rows below the names, as no and yes, the attributes in CelebA's order."
    check_attribute_names(file, start - 1, names)
    rows = read_rows(file, ["image", *names], start)
    values = rows[CELEBA_ATTRIBUTES]
    zero = file.suffix == ".csv" and not any("-1" in column.unique() for _, column in values.items())
    return pd.concat([rows[["image"]], yes_no(file, start, values, "0" if zero else "-1")], axis=1)

def read_attributes(
    file: Path,      # list_attr_celeba.txt or list_attr_celeba.csv
) -> pd.DataFrame:   # `image`, then the forty attributes as Categorical "no", "yes"
    "The attribute file of CelebA. Raises: ValueError (count, names, a row's length, a value). Source: the set's README."
    with open(file, encoding="utf-8-sig") as lines: first, second = lines.readline(), lines.readline()
    if file.suffix == ".csv": return _read_answers(file, [n.strip() for n in first.split(",")][1:], 2)
    count, table = _announced(file, first), _read_answers(file, second.split(), 3)
    if count != len(table):
        raise ValueError(f"{file}, line 1: {count} images are announced, but {len(table)} rows follow. Take it from its official source")
    return table


# %%
def csv_text(names, values):
    "The text of list_attr_celeba.csv."
    return "\n".join([",".join(["image_id", *CELEBA_ATTRIBUTES]), *(",".join(map(str, [n, *row])) for n, row in zip(names, values))]) + "\n"
(tmp/"list_attr_celeba.csv").write_text(csv_text(names, three))
(tmp/"zero.csv").write_text(csv_text(names, (three + 1) // 2))
attributes = read_attributes(tmp/"list_attr_celeba.txt")
attributes[["image", "5_o_Clock_Shadow", "Male", "Smiling", "Young"]]

# %%
assert attributes.loc[0].eq("yes").sum() == 2 and attributes["Smiling"].tolist() == ["no", "yes", "no"]
for name in ("list_attr_celeba.csv", "zero.csv"): assert read_attributes(tmp/name).equals(attributes)
for name, bad in [("four.txt", attribute_text(names, three, 4)), ("none.txt", text.split("\n", 1)[1]),
                  ("39.txt", text.replace("Bald ", "", 1)), ("zero.txt", attribute_text(names, (three + 1) // 2)),
                  ("mixed.csv", csv_text(names, three).replace("-1", "0", 1))]:
    (tmp/name).write_text(bad)
    try: read_attributes(tmp/name)
    except ValueError as e: say(e)
    else: raise AssertionError(f"{name} was read")


# %% [markdown]
# ## Partition and persons
#
# Two more files name each image and give it a number: `list_eval_partition.txt` its part (0 train, 1 val, 2 test), `identity_CelebA.txt` its person. Both must know the
# same images as the attributes, in both directions. A partition of another edition would otherwise drop images in silence.

# %%
#| export
def numbers_of(
    file: Path,          # list_eval_partition.txt or .csv, identity_CelebA.txt or .csv
    images: pd.Series,   # The image names of the attribute file
    attributes: Path,    # That file, for the error
) -> pd.Series:          # The number of each image as text, in the order of `images`
    "What a file of pairs says of each image. Raises: ValueError (an image that only one of the files names, what `read_rows` raises)."
    rows = read_rows(file, ["image", "number"], 2 if file.suffix == ".csv" else 1)
    place = pd.Index(rows["image"]).get_indexer(images)
    strange = pd.Index(images).get_indexer(rows["image"]) < 0
    for alone, here, one, other in [(strange, rows["image"], file, attributes), (place < 0, images, attributes, file)]:
        if alone.any():
            raise ValueError(f"{one} names {here.iloc[alone.argmax()]}, but {other} does not ({alone.sum()} such images): "
                             "take both from one edition of the set")
    return pd.Series(rows["number"].to_numpy()[place])


# %%
(tmp/"list_eval_partition.txt").write_text("000002.jpg 1\n000001.jpg 0\n000003.jpg 2\n")
numbers_of(tmp/"list_eval_partition.txt", attributes.image, tmp/"list_attr_celeba.txt").tolist()

# %%
assert numbers_of(tmp/"list_eval_partition.txt", attributes.image, tmp/"list_attr_celeba.txt").tolist() == ["0", "1", "2"]  # by name
for bad in ["000001.jpg 0\n000002.jpg 0\n000003.jpg 0\n000004.jpg 0\n", "000001.jpg 0\n000003.jpg 0\n", "000001.jpg 0 0\n",
            "000001.jpg 0\n000001.jpg 0\n"]:
    (tmp/"bad.txt").write_text(bad)
    try: numbers_of(tmp/"bad.txt", attributes.image, tmp/"list_attr_celeba.txt")
    except ValueError as e: say(e)
    else: raise AssertionError("a wrong partition was read")


# %%
#| export
def official_part(
    file: Path,         # The partition file, for the error
    numbers: pd.Series, # "0", "1" or "2" for each image
) -> pd.Categorical:    # train, val or test
    "CelebA's parts by name. Raises: ValueError with the number."
    wrong = ~numbers.isin(["0", "1", "2"]).to_numpy()
    if wrong.any():
        raise ValueError(f"{file}: part {numbers[wrong.argmax()]!r}: there are 0 (train), 1 (val) and 2 (test) ({wrong.sum()} such images)")
    return pd.Categorical.from_codes(numbers.astype(int), SPLITS)


# %%
official_part(Path("list_eval_partition.txt"), pd.Series(["0", "2", "1"]))

# %%
assert official_part(Path("a.txt"), pd.Series(["0", "2", "1"])).tolist() == ["train", "test", "val"]
try: official_part(Path("list_eval_partition.txt"), pd.Series(["0", "3"]))
except ValueError as e: print(e)
else: raise AssertionError("part 3 was accepted")

# %% [markdown]
# ## Where the files lie
#
# | layout | images | labels |
# |---|---|---|
# | official | `Img/img_align_celeba/` or `Img/img_align_celeba.zip` | `Anno/list_attr_celeba.txt`, `Anno/identity_CelebA.txt`, `Eval/list_eval_partition.txt` |
# | torchvision | `celeba/img_align_celeba/` or the zip | `celeba/list_attr_celeba.txt`, `celeba/identity_CelebA.txt`, `celeba/list_eval_partition.txt` |
# | CSV | `img_align_celeba/img_align_celeba/` | `list_attr_celeba.csv`, `list_eval_partition.csv`; no persons |
#
# Each is a set of places to look in, and a copy that mixes them is read as well. Labels may also lie beside an archive of images.

# %%
#| export
CELEBA_FILES = dict(attributes="list_attr_celeba", partition="list_eval_partition", persons="identity_CelebA")
_INSIDE = ("", "celeba", "CelebA")
_IMAGES = ("img_align_celeba/img_align_celeba", "img_align_celeba", "Img/img_align_celeba")

def celeba_file(
    folders: list[Path], # The set's folder, and the one beside an archive
    name: str,           # 'list_attr_celeba', 'list_eval_partition' or 'identity_CelebA'
) -> Path | None:        # The file, or None where there is none
    "The label file of that name in any of the layouts."
    bases = [f/inside/part for f in folders for inside in _INSIDE for part in ("", "Anno", "Eval")]
    return next((p for p in (b/f"{name}{end}" for b in bases for end in (".txt", ".csv")) if p.is_file()), None)


# %%
(tmp/"CelebA/Anno").mkdir(parents=True)
(tmp/"CelebA/Anno/list_attr_celeba.txt").write_text(text)
celeba_file([tmp/"CelebA"], "list_attr_celeba").relative_to(tmp).as_posix()

# %%
assert celeba_file([tmp/"CelebA"], "identity_CelebA") is None
assert celeba_file([tmp/"CelebA", tmp], "list_eval_partition") == tmp/"list_eval_partition.txt"


# %%
#| export
def celeba_images(
    folders: list[Path],   # The set's folder, and the one beside an archive
    data_root: str | Path, # A zip of images is unpacked below it
    progress: bool = True, # Show a progress bar
) -> Path:                 # The folder that holds 000001.jpg
    "The folder of the aligned images, from their zip if need be. Raises: FileNotFoundError, and what `unpack` raises."
    bases = [f/inside for f in folders for inside in _INSIDE]
    for place in (b/i for b in bases for i in _IMAGES):
        if place.is_dir(): return place
    for packed in (b/f"{i}.zip" for b in bases for i in _IMAGES):
        if packed.is_file(): return celeba_images([open_set(packed, data_root, "celeba", progress)], data_root)
    raise FileNotFoundError(f"{folders[0]}: no folder img_align_celeba here, nor in Img, nor img_align_celeba.zip. "
                            f"{SOURCES['celeba']}; see data/README.md")


# %%
(tmp/"CelebA/Img").mkdir()
with zipfile.ZipFile(tmp/"CelebA/Img/img_align_celeba.zip", "w") as z: z.writestr("img_align_celeba/000001.jpg", b"")
packed = celeba_images([tmp/"CelebA"], tmp/"data", progress=False)
(tmp/"twice/img_align_celeba/img_align_celeba").mkdir(parents=True)
packed.name, celeba_images([tmp/"twice"], tmp/"data").relative_to(tmp).as_posix()

# %%
assert (packed/"000001.jpg").is_file() and packed.parent.parent == tmp/"data/unpacked"
assert celeba_images([tmp/"twice"], tmp/"data") == tmp/"twice/img_align_celeba/img_align_celeba"
try: celeba_images([tmp/"data"], tmp/"data")
except FileNotFoundError as e: say(e)
else: raise AssertionError("a folder without images was accepted")


# %% [markdown]
# ## The reader
#
# `Male` becomes the column `gender`, with names instead of an answer, and is no head. The other 39 keep their names and their order; `notes["tasks"]` joins them, so that a run can
# ask for all of them as one task. An image is its own photograph: the set does not say which pictures were taken together. It says who is on
# them, and `split="person"` uses that, so that nobody is tested on a face that was trained on.

# %%
#| export
def _table(files: dict[str, Path | None]) -> pd.DataFrame:
    "The set's table, from its label files."
    answers = read_attributes(files["attributes"])
    images, persons, partition = answers["image"], files["persons"], files["partition"]
    table = pd.DataFrame(dict(path=images, photo=images))
    if persons: table["person"] = numbers_of(persons, images, files["attributes"])
    if partition: table["official"] = official_part(partition, numbers_of(partition, images, files["attributes"]))
    table["gender"] = answers["Male"].cat.rename_categories(dict(no="Female", yes="Male"))
    return pd.concat([table, answers[CELEBA_HEADS]], axis=1)

def read_celeba(
    path: str | Path,      # The set's folder in any of the three layouts, or an archive of it
    data_root: str | Path, # Where an archive is unpacked to
    progress: bool = True, # Show a progress bar
    strict: bool = True,   # A missing image is an error; else its row is left out and it is listed in notes["missing"]
) -> FaceData:             # `gender`, 39 attributes, `person` and official parts where their files are there
    "Read CelebA. Raises: FileNotFoundError (folder, attribute file, image), ValueError (what is in the files). Source: the set's README."
    folders = [open_set(path, data_root, "celeba", progress), *([] if Path(path).is_dir() else [Path(path).parent])]
    files = {kind: celeba_file(folders, name) for kind, name in CELEBA_FILES.items()}
    if not files["attributes"]:
        raise FileNotFoundError(f"{folders[0]}: no list_attr_celeba.txt (or .csv) here, nor in Anno. {SOURCES['celeba']}; see data/README.md")
    images = celeba_images(folders, data_root, progress)
    notes = dict(tasks=dict(attributes="+".join(CELEBA_HEADS)), protocol=dict(task="attributes", groups="gender"),
                 absent=[f"{n}.txt" for n in CELEBA_FILES.values() if not celeba_file(folders, n)])
    return face_set("celeba", images, _table(files), notes, strict)


# %% [markdown]
# A CelebA of ten rendered faces in the official layout.

# %%
answers = np.where(np.random.default_rng(0).random((10, 40)) < .3, 1, -1)
answers[:, 20] = [1, -1] * 5                                                        # men and women in turn
answers[::2, 4], answers[1::2, 4] = [1, 1, -1, 1, -1], -1                            # three bald men, no bald woman
names = [f"{i:06d}.jpg" for i in range(1, 11)]
faces = synthetic_table(train=(5,) * 4, val=(5,) * 4, test=(5,) * 4)
official = tmp/"official"
for folder in ("Img/img_align_celeba", "Anno", "Eval"): (official/folder).mkdir(parents=True)
for name, pixels in zip(names, render_faces(faces[::2], 32)):
    Image.fromarray(np.pad(pixels, ((0, 0), (4, 4), (0, 0)), mode="edge").transpose(1, 2, 0)).save(official/"Img/img_align_celeba"/name)
(official/"Anno/list_attr_celeba.txt").write_text(attribute_text(names, answers))
(official/"Anno/identity_CelebA.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(names, [7, 7, 7, 2, 2, 9, 9, 4, 4, 4])))
(official/"Eval/list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(names, "0000011222")))
celeba = read_celeba(official, tmp/"data", progress=False)
celeba.table.iloc[:, :9]

# %%
assert celeba.table["gender"].tolist() == ["Male", "Female"] * 5 and celeba.table["gender"].cat.categories.tolist() == ["Female", "Male"]
assert label_columns(celeba.table) == ["gender", *CELEBA_HEADS] and celeba.notes["tasks"]["attributes"].split("+") == CELEBA_HEADS
assert codes(celeba.table, "Bald")[0].tolist() == [1, 0, 1, 0, 0, 0, 1, 0, 0, 0] and codes(celeba.table, "Bald")[1] == ["no", "yes"]
assert split_table(celeba.table, "official").tolist() == ["train"] * 5 + ["val"] * 2 + ["test"] * 3
assert celeba.load(celeba.table[:2], 16).shape == (2, 3, 16, 16) and celeba.notes["absent"] == []

# %% [markdown]
# The same set as torchvision and as the CSVs lay it out: one table each time, but that the CSVs know no persons. What is absent is noted; a split by person then says that the set does not know who is on an image.

# %%
shutil.copytree(official/"Img", tmp/"torchvision/celeba")
shutil.copytree(official/"Img", tmp/"csv/img_align_celeba")
for file in ("Anno/list_attr_celeba.txt", "Anno/identity_CelebA.txt", "Eval/list_eval_partition.txt"):
    (tmp/"torchvision/celeba"/Path(file).name).write_text((official/file).read_text())
(tmp/"csv/list_attr_celeba.csv").write_text(csv_text(names, answers))
(tmp/"csv/list_eval_partition.csv").write_text("image_id,partition\n" + "".join(f"{n},{p}\n" for n, p in zip(names, "0000011222")))
theirs, plain = (read_celeba(tmp/layout, tmp/"data", progress=False) for layout in ("torchvision", "csv"))
plain.notes["absent"]

# %%
assert theirs.table.equals(celeba.table) and plain.table.equals(celeba.table.drop(columns="person"))
with zipfile.ZipFile(tmp/"celeba.zip", "w") as z:
    for f in sorted(official.rglob("*")): z.write(f, f.relative_to(official))
assert read_celeba(tmp/"celeba.zip", tmp/"data", progress=False).table.equals(celeba.table)

# %% [markdown]
# What CelebA brings that the other sets do not: a head can be constant in a group. No woman is bald here, and hardly one in the set itself; a true positive rate of `Bald` among women has nothing to be
# computed from. The evaluation leaves such cells empty and says so.

# %%
pd.crosstab(celeba.table["gender"], celeba.table["Bald"])

# %%
assert pd.crosstab(celeba.table["gender"], celeba.table["Bald"]).to_numpy().tolist() == [[5, 0], [2, 3]]


# %% [markdown]
# Faults, each before any image is decoded. A file that is missing stops the reader, or is left out and listed when one asks for what there is.

# %%
def fault(file, change, error=ValueError):
    "Change one file, read, put it back."
    good = file.read_text(); file.write_text(change(good))
    try: read_celeba(official, tmp/"data", progress=False)
    except error as e: say(e)
    else: raise AssertionError(f"{file.name} was read")
    finally: file.write_text(good)
anno, evaluation = official/"Anno/list_attr_celeba.txt", official/"Eval/list_eval_partition.txt"
fault(anno, lambda text: text.replace("10", "12", 1))
fault(anno, lambda text: text.replace(" Young", "", 1))
fault(evaluation, lambda text: text + "000011.jpg 2\n")
fault(evaluation, lambda text: text.replace("000003.jpg 0\n", ""))
fault(official/"Anno/identity_CelebA.txt", lambda text: text.replace("000003.jpg 7\n", ""))
hidden = (official/"Img/img_align_celeba/000004.jpg").rename(tmp/"000004.jpg")
try: read_celeba(official, tmp/"data")
except FileNotFoundError as e: say(e)
else: raise AssertionError("a missing image was not noticed")
part = read_celeba(official, tmp/"data", strict=False)
part.notes["missing"]

# %%
assert part.notes["missing"] == ["000004.jpg"] and part.table["path"].tolist() == [n for n in names if n != "000004.jpg"]
hidden.rename(official/"Img/img_align_celeba/000004.jpg")
assert read_celeba(official, tmp/"data").table.equals(celeba.table)
anno.rename(tmp/"hidden.txt")
try: read_celeba(official, tmp/"data")
except FileNotFoundError as e: say(e)
else: raise AssertionError("read without attributes")
