# %% [markdown]
# # Readers
#
# > From an official archive, folder or label file to one table, with every label by name and every oddity named

# %%
#| default_exp readers

# %%
#| export
import hashlib
import os
import re
import shutil
import stat
import tarfile
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PureWindowsPath

import pandas as pd
from tqdm import tqdm

from fairgrape.data import SPLITS, FaceData, load_images
from fairgrape.synthetic import RENDERER_VERSION, render_faces, synthetic_table

# %%
import io
import numpy as np
from PIL import Image
from fairgrape.data import codes, drop_classes, split_table
tmp = Path(tempfile.mkdtemp())
def say(error): print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")     # an error without the temporary folder's name


# %% [markdown]
# ## Archives
#
# An archive is a list of names, and a name like `../../.bashrc` writes where it likes. Face archives hold plain files in plain folders, so anything
# else is refused: absolute names, `..`, links, devices. The archive goes into a temporary folder first and takes its place by one rename at
# the end, with a marker inside. So there is never a half unpacked set, and a second call finds the marker and does nothing.

# %%
#| export
def _refuse(archive: Path, name: str, plain: bool):
    "Refuse a member that is no plain file or folder inside the target."
    windows = PureWindowsPath(name)                       # splits at both kinds of slash
    if windows.drive or windows.root: why = "an absolute path"
    elif ".." in windows.parts: why = "a path with '..'"
    elif not plain: why = "a link or a special file"
    else: return
    raise ValueError(f"{archive}: member {name!r} is {why}; nothing was unpacked. Take the archive from its official source")


# %%
for name in ["set/a.jpg", "../a.jpg", "C:/a.jpg"]:
    try: _refuse(Path("faces.tar"), name, plain=True)
    except ValueError as e: print(e)
    else: print(f"{name} may be unpacked")


# %%
def refused(name, plain=True):
    try: _refuse(Path("faces.tar"), name, plain)
    except ValueError: return True
assert not refused("set/a..b.jpg") and refused("set/../../a.jpg") and refused("..\\a.jpg") and refused("/a.jpg") and refused("link", plain=False)


# %% [markdown]
# With that, the unpacking itself.

# %%
#| export
def _extract_tar(archive: Path, folder: Path, progress: bool):
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        for member in tqdm(tar, f"unpacking {archive.name}", unit=" files", disable=not progress):
            _refuse(archive, member.name, member.isfile() or member.isdir())
            tar.extract(member, folder)

def _extract_zip(archive: Path, folder: Path, progress: bool):
    with zipfile.ZipFile(archive) as zipped:
        for member in tqdm(zipped.infolist(), f"unpacking {archive.name}", unit=" files", disable=not progress):
            _refuse(archive, member.filename, not stat.S_ISLNK(member.external_attr >> 16))
            modified = time.mktime((*member.date_time, 0, 0, -1))
            os.utime(zipped.extract(member, folder), (modified, modified))

def _extract(archive: Path, folder: Path, progress: bool):
    "Unpack a tar or a zip, whichever it is; a damaged one is named."
    try:
        if zipfile.is_zipfile(archive): _extract_zip(archive, folder, progress)
        elif tarfile.is_tarfile(archive): _extract_tar(archive, folder, progress)
        else: raise ValueError(f"{archive}: neither a tar nor a zip archive, or one that is damaged at its start: fetch it again")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as e:
        raise ValueError(f"{archive}: the archive is damaged or not complete ({e}): fetch it again") from e

def unpack(
    archive: str | Path,    # A .tar, .tar.gz or .zip
    target: str | Path,     # The folder to make of it
    progress: bool = True,  # Show a progress bar
) -> Path:                  # The target
    "Unpack an archive, safely and only once. Raises: FileNotFoundError, FileExistsError, ValueError (unsafe or damaged archive)."
    archive, target = Path(archive), Path(target)
    marker = target/".unpacked"
    if marker.exists(): return target
    if not archive.is_file(): raise FileNotFoundError(f"{archive}: no such archive")
    if target.exists():
        raise FileExistsError(f"{target}: this folder is there but was not unpacked from {archive.name}: move it, or read it as a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _extract(archive, temp, progress)
        (temp/".unpacked").write_text(f"{archive.name}\n")
        temp.chmod(0o755)
        temp.rename(target)
    except OSError:
        if not marker.exists(): raise                     # else another process was faster, and its copy is as good
    finally: shutil.rmtree(temp, ignore_errors=True)
    return target


# %% [markdown]
# A zip of one file. The second call leaves even a changed file alone.

# %%
with zipfile.ZipFile(tmp/"good.zip", "w") as z: z.writestr("set/a.txt", "hello")
where = unpack(tmp/"good.zip", tmp/"good", progress=False)
sorted(p.relative_to(where).as_posix() for p in where.rglob("*"))

# %%
assert (where/"set/a.txt").read_text() == "hello"
(where/"set/a.txt").write_text("mine")
assert (unpack(tmp/"good.zip", tmp/"good", progress=False)/"set/a.txt").read_text() == "mine"


# %% [markdown]
# Archives that try to leave the folder, as zip and as tar, and one that stops halfway. Nothing of them stays behind.

# %%
def tar_with(name, kind=tarfile.REGTYPE):
    "A tar of a good file and one bad member."
    with tarfile.open(tmp/"bad.tar", "w") as tar:
        for n, k in [("fine.txt", tarfile.REGTYPE), (name, kind)]:
            member = tarfile.TarInfo(n); member.type = k; member.linkname = "/etc/passwd"; member.size = 2 if k == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"hi") if member.size else None)
    return tmp/"bad.tar"
with zipfile.ZipFile(tmp/"bad.zip", "w") as z: z.writestr("../out.txt", "hi")
noise = np.random.default_rng(0).bytes(50_000)
with tarfile.open(tmp/"long.tar.gz", "w:gz") as tar:
    member = tarfile.TarInfo("long.bin"); member.size = len(noise); tar.addfile(member, io.BytesIO(noise))
(tmp/"cut.tar.gz").write_bytes((tmp/"long.tar.gz").read_bytes()[:30_000])
before = sorted(tmp.iterdir())
for make in [lambda: tar_with("../out.txt"), lambda: tar_with("/tmp/out.txt"), lambda: tar_with("link", tarfile.SYMTYPE),
             lambda: tmp/"bad.zip", lambda: tmp/"cut.tar.gz"]:
    try: unpack(make(), tmp/"bad", progress=False)
    except ValueError as e: say(e)
    else: raise AssertionError("a bad archive was unpacked")
assert sorted(p for p in tmp.iterdir() if p.name != "bad.tar") == before and not (tmp.parent/"out.txt").exists()


# %% [markdown]
# ## What identifies the files
#
# The image cache must notice a changed file. Names, sizes and times of modification are enough for that and cost one `stat` a file. Both kinds of archive carry the
# times, so a set that is unpacked twice has one key. A file that a label table names and that is not there is found here too.

# %%
#| export
def files_key(
    root: Path,          # The folder that the paths are relative to
    paths: Sequence[str],# The image files, in the table's order
) -> str:                # 64 hexadecimal digits
    "A hash of the files' names, sizes and times of modification. Raises: FileNotFoundError with the first missing file and their number."
    digest, missing = hashlib.sha256(), []
    for path in paths:
        try: info = os.stat(root/path)
        except (FileNotFoundError, NotADirectoryError): missing.append(path)
        else: digest.update(f"{path}\0{info.st_size}\0{info.st_mtime_ns}\n".encode())
    if missing:
        raise FileNotFoundError(f"{root/missing[0]}: the labels name this image, but the file is not there "
                                f"({len(missing)} of {len(paths)} are missing)")
    return digest.hexdigest()


# %%
for name, text in [("a", "1"), ("b", "22")]: (tmp/name).write_text(text)
old = files_key(tmp, ["a", "b"])
(tmp/"b").write_text("333")
old[:8], files_key(tmp, ["a", "b"])[:8]

# %%
assert files_key(tmp, ["a", "b"]) != old and files_key(tmp, ["a", "b"]) == files_key(tmp, ["a", "b"])
try: files_key(tmp, ["a", "c", "d"])
except FileNotFoundError as e: say(e)
else: raise AssertionError("a missing file was not noticed")

# %% [markdown]
# ## Where a set lies
#
# A reader takes a folder as it is. An archive is unpacked below the data root, in a folder whose name carries the archive's size and time: a new version of the archive is another folder.

# %%
#| export
SOURCES = dict(
    utkface="UTKFace ('aligned & cropped faces', UTKFace.tar.gz) is at https://susanqq.github.io/UTKFace/",
    fairface="FairFace (the images of one padding and the two label CSVs) is at https://github.com/joojs/fairface",
)

def open_set(
    path: str | Path,      # A folder or an archive
    data_root: str | Path, # Archives are unpacked in its folder 'unpacked'
    name: str = "",        # The set's name, for the error's advice
    progress: bool = True, # Show a progress bar
) -> Path:                 # The folder
    "The folder of a set, unpacked if need be. Raises: FileNotFoundError, and what `unpack` raises."
    path = Path(path)
    if path.is_dir(): return path
    source = SOURCES.get(name, "Give a folder, a tar or a zip")
    if not path.exists(): raise FileNotFoundError(f"{path}: no such folder or archive. {source}; see data/README.md")
    info = path.stat()
    mark = hashlib.sha256(f"{info.st_size} {info.st_mtime_ns}".encode()).hexdigest()[:8]
    return unpack(path, Path(data_root)/"unpacked"/f"{path.name.split('.')[0]}-{mark}", progress)


# %%
opened = open_set(tmp/"good.zip", tmp/"data", progress=False)
opened.relative_to(tmp).as_posix()

# %%
assert open_set(tmp/"good.zip", tmp/"data", progress=False) == opened and (opened/"set/a.txt").exists()
assert open_set(tmp, tmp/"data") == tmp
try: open_set(tmp/"UTKFace", tmp/"data", "utkface")
except FileNotFoundError as e: say(e)
else: raise AssertionError("a missing folder was opened")

# %% [markdown]
# ## UTKFace
#
# The labels are in the names: `age_gender_race_time.jpg.chip.jpg`. In the published set three names lack the race. Two more have a stray blank or miss a dot but carry all
# four fields, and are read. What does not parse is left out, counted and named.

# %%
#| export
UTKFACE_RACES = ["White", "Black", "Asian", "Indian", "Others"]  # by the number in the file's name
UTKFACE_GENDERS = ["Male", "Female"]
_UTKFACE_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_(\d+) ?\.?jpg(\.chip)?(\.jpg)?")

def utkface_fields(
    name: str, # A file name, without folder
) -> tuple[int, str, str, str] | None:  # age in years, gender, race, time stamp; None where the name does not parse
    "The four fields of a UTKFace name."
    match = _UTKFACE_NAME.fullmatch(name)
    return match and (int(match[1]), UTKFACE_GENDERS[int(match[2])], UTKFACE_RACES[int(match[3])], match[4])


# %%
for name in ["26_1_2_20170116184024662.jpg.chip.jpg", "24_0_1_20170116220224657 .jpg.chip.jpg", "61_1_20170109150557335.jpg.chip.jpg"]:
    print(name, utkface_fields(name))

# %%
assert utkface_fields("8_0_4_20170103200329407.jpg.chip.jpg") == (8, "Male", "Others", "20170103200329407")
assert utkface_fields("61_1_20170109150557335.jpg.chip.jpg") is None and utkface_fields("30_2_0_20170109150557335.jpg.chip.jpg") is None


# %% [markdown]
# Which faces come from one photograph? UTKFace does not say, but two things tell. Some faces share their time stamp to the millisecond (414 faces, 186 stamps): we
# looked at 24 such stamps, and in most the faces have one photograph's background, light and grain. A few only look saved in the same
# moment; keeping those together costs nothing. And 390 files are byte-for-byte copies of another under another name, some with another age. Both are joined, also in chains.

# %%
#| export
def join_photos(
    stamp: pd.Series,   # What a photograph's faces share, e.g. the time stamp
    content: pd.Series, # A hash of each file's bytes, same index
) -> pd.Series:         # One name for all images that are linked by either
    "Name photographs so that images with the same stamp, or the same bytes, are of one photograph."
    photo = stamp
    while True:
        joined = photo.groupby(content).transform("min").groupby(stamp).transform("min")
        if joined.equals(photo): return photo
        photo = joined


# %% [markdown]
# By hand: 0 and 1 share a stamp, 1 and 2 their bytes, 2 and 3 a stamp. All four are one. Image 4 is alone.

# %%
join_photos(pd.Series(["s", "s", "r", "r", "t"]), pd.Series(["A", "B", "B", "C", "D"])).tolist()

# %%
assert join_photos(pd.Series(["s", "s", "r", "r", "t"]), pd.Series(["A", "B", "B", "C", "D"])).tolist() == ["r", "r", "r", "r", "t"]
assert join_photos(pd.Series(["1", "2"]), pd.Series(["x", "y"])).tolist() == ["1", "2"]


# %% [markdown]
# The reader. The race keeps "Others" in its vocabulary; which races a task uses is the task's business, and `notes` holds the paper's four.

# %%
#| export
def _parsed_names(folder: Path) -> tuple[list[str], list[tuple], list[str]]:
    "The images of a UTKFace folder: names, fields, and the names that do not parse."
    names = sorted(e.name for e in os.scandir(folder) if e.name.lower().endswith((".jpg", ".jpeg")) and not e.name.startswith("."))
    fields = [utkface_fields(n) for n in names]
    return [n for n, f in zip(names, fields) if f], [f for f in fields if f], [n for n, f in zip(names, fields) if not f]

def _image_folder(root: Path, pattern: str, what: str) -> Path:
    "The folder itself or the first below it that holds files of a pattern."
    for folder in [root, *sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))]:
        if next(folder.glob(pattern), None): return folder
    raise FileNotFoundError(f"{root}: no {what} in this folder, nor one folder below it; see data/README.md")

def _warn_skipped(skipped: list[str]):
    if not skipped: return
    named = ", ".join(skipped[:5]) + (" …" if len(skipped) > 5 else "")
    warnings.warn(f"UTKFace: {len(skipped)} files are left out, their names are not age_gender_race_time: {named}", stacklevel=3)

def read_utkface(
    path: str | Path,      # UTKFace.tar.gz, or the folder unpacked from it
    data_root: str | Path, # Where an archive is unpacked to
    progress: bool = True, # Show a progress bar
) -> FaceData:             # Labels `gender`, `race` (and `age`, in years)
    "Read UTKFace. Raises: FileNotFoundError, ValueError. Source: file names as documented with the set."
    folder = _image_folder(open_set(path, data_root, "utkface", progress), "*.jpg", "UTKFace images (*.jpg)")
    names, fields, skipped = _parsed_names(folder)
    if not names: raise ValueError(f"{folder/skipped[0]}: no file here is named as in UTKFace, e.g. 26_1_2_20170116184024662.jpg.chip.jpg")
    _warn_skipped(skipped)
    age, gender, race, stamp = zip(*fields)
    bar = tqdm(names, "UTKFace: looking for copies", disable=not progress)
    content = pd.Series([hashlib.sha256((folder/n).read_bytes()).hexdigest() for n in bar])
    table = pd.DataFrame(dict(path=names, photo=join_photos(pd.Series(stamp), content), age=age,
                              gender=pd.Categorical(gender, UTKFACE_GENDERS), race=pd.Categorical(race, UTKFACE_RACES)))
    notes = dict(skipped=skipped, copies=int(content.duplicated().sum()), classes=dict(race=UTKFACE_RACES[:4]))
    return FaceData("utkface", folder, table, partial(load_images, folder), files_key(folder, names), notes)


# %% [markdown]
# No face is shown here, and none is needed: a set of colour gradients in UTKFace's layout will do. One name lacks its race, two share a stamp, and one file is a copy.

# %%
def gradient(path, seed):
    "A small JPEG of a random colour gradient."
    a, b = np.random.default_rng(seed).integers(0, 256, (2, 1, 1, 3))
    t = np.linspace(0, 1, 24)[:, None, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(a + (b - a) * t, (24, 24, 3)).astype(np.uint8)).save(path)

utk = ["9_1_2_20170101000000002.jpg.chip.jpg", "10_0_0_20170101000000001.jpg.chip.jpg", "10_1_1_20170101000000001.jpg.chip.jpg",
       "61_1_20170109150557335.jpg.chip.jpg", "70_0_3_20170101000000003.jpg.chip.jpg", "71_0_4_20170101000000004.jpg.chip.jpg"]
for seed, name in enumerate(utk): gradient(tmp/"UTKFace"/name, 3 if seed == 5 else seed % 4 + (seed == 4) * 9)
(tmp/"UTKFace"/utk[5]).write_bytes((tmp/"UTKFace"/utk[0]).read_bytes())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    faces = read_utkface(tmp/"UTKFace", tmp/"data", progress=False)
print(caught[0].message)
faces.table

# %%
assert len(faces.table) == 5 and faces.notes["skipped"] == [utk[3]] and faces.notes["copies"] == 1
by_name = faces.table.set_index("path")
assert by_name.loc[utk[0], ["age", "gender", "race"]].tolist() == [9, "Female", "Asian"]
assert by_name.photo[utk[1]] == by_name.photo[utk[2]] and by_name.photo[utk[0]] == by_name.photo[utk[5]] != by_name.photo[utk[4]]
assert codes(faces.table, "race")[1] == UTKFACE_RACES
assert faces.load(faces.table[:2], 16).shape == (2, 3, 16, 16)

# %% [markdown]
# The same set as the official archive has the same table and the same key.

# %%
with tarfile.open(tmp/"UTKFace.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar: tar.add(tmp/"UTKFace", "UTKFace")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    archived = read_utkface(tmp/"UTKFace.tar.gz", tmp/"data", progress=False)
archived.root.relative_to(tmp).as_posix()

# %%
assert archived.table.equals(faces.table) and archived.root != faces.root

# %%
(tmp/"empty").mkdir(); gradient(tmp/"other/cat.jpg", 0)
for folder, error in [("empty", FileNotFoundError), ("other", ValueError), ("nowhere", FileNotFoundError)]:
    try: read_utkface(tmp/folder, tmp/"data")
    except error as e: say(e)
    else: raise AssertionError(f"{folder} was read as UTKFace")


# %% [markdown]
# ## Label tables
#
# FairFace, and most sets of one's own, come with CSVs. The reader of a CSV is strict: text only, no guessing of types (a group named `NA` is a name), and a missing column is an error with the list of those that are there.

# %%
#| export
def read_labels(
    csv: str | Path,         # The label file, UTF-8, with a header
    required: Sequence[str], # Columns that must be there
) -> pd.DataFrame:           # All columns as text, a row an image
    "Read a CSV of labels. Raises: FileNotFoundError, ValueError (no such column, not a CSV, no rows)."
    if not Path(csv).is_file(): raise FileNotFoundError(f"{csv}: no such label file; see data/README.md")
    try: table = pd.read_csv(csv, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as e:
        raise ValueError(f"{csv}: not a readable CSV: {e}") from e
    for column in required:
        if column not in table: raise ValueError(f"{csv}: no column {column!r}: its columns are {', '.join(table)}")
    if table.empty: raise ValueError(f"{csv}: a header, but no rows")
    return table


# %%
(tmp/"labels.csv").write_text("file,tone\na.jpg,NA\nb.jpg,tone-1\n")
read_labels(tmp/"labels.csv", ["file"])

# %%
assert read_labels(tmp/"labels.csv", ["file"]).tone.tolist() == ["NA", "tone-1"]
for csv, columns in [("labels.csv", ["file", "race"]), ("none.csv", ["file"])]:
    try: read_labels(tmp/csv, columns)
    except (ValueError, FileNotFoundError) as e: say(e)
    else: raise AssertionError("a bad label file was read")


# %% [markdown]
# A label outside the vocabulary is most often another spelling (`Latino Hispanic`) or another edition of the set. It is not a new class, and not a row to drop in silence.

# %%
#| export
def named_labels(
    csv: str | Path,         # The label file, for the error
    values: pd.Series,       # The labels of one column, as text
    vocabulary: Sequence[str], # The names there may be, in their order
) -> pd.Categorical:         # The labels as a categorical
    "Labels of a closed vocabulary. Raises: ValueError with the line, the column and the names that are known."
    unknown = ~values.isin(list(vocabulary))
    if unknown.any():
        row = unknown.to_numpy().argmax()
        raise ValueError(f"{csv}, line {row + 2}, column {values.name!r}: {values.iloc[row]!r} is not one of "
                         f"{', '.join(vocabulary)} ({unknown.sum()} such lines)")
    return pd.Categorical(values, list(vocabulary))


# %%
named_labels("labels.csv", pd.Series(["Black", "White"], name="race"), ["White", "Black"])

# %%
assert named_labels("labels.csv", pd.Series(["Black", "White"], name="race"), ["White", "Black"]).codes.tolist() == [1, 0]
try: named_labels("labels.csv", pd.Series(["White", "white"], name="race"), ["White", "Black"])
except ValueError as e: say(e)
else: raise AssertionError("another spelling was accepted")

# %% [markdown]
# ## FairFace
#
# Two CSVs, `fairface_label_train.csv` and `fairface_label_val.csv`, and images in `train/` and `val/`. The CSVs may lie in the folder or the archive, or beside
# the archive, as they are published. FairFace gives each face without its source photograph, so a photograph is a file here.

# %%
#| export
FAIRFACE = dict(
    age=["0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"],
    gender=["Male", "Female"],
    race=["White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern"],
)

def _fairface_part(root: Path, beside: Path, part: str) -> pd.DataFrame:
    "The rows of one CSV, as categoricals."
    name = f"fairface_label_{part}.csv"
    csv = next((f for f in [root/name, *sorted(root.glob(f"*/{name}")), beside/name] if f.is_file()), root/name)
    text = read_labels(csv, ["file", *FAIRFACE])
    table = pd.DataFrame(dict(path=text["file"], photo=text["file"], official=pd.Categorical([part] * len(text), SPLITS)))
    for column, names in FAIRFACE.items(): table[column] = named_labels(csv, text[column], names)
    if "service_test" in text: table["service_test"] = named_labels(csv, text["service_test"], ["False", "True"])
    return table

def read_fairface(
    path: str | Path,      # A folder, tar or zip
    data_root: str | Path, # Where an archive is unpacked to
    progress: bool = True, # Show a progress bar
) -> FaceData:             # Labels `age`, `gender`, `race` (and `service_test`), official parts train and val
    "Read FairFace. Raises: FileNotFoundError (folder, CSV, image), ValueError (column, label). Source: the set's CSVs."
    root = open_set(path, data_root, "fairface", progress)
    table = pd.concat([_fairface_part(root, Path(path).parent, part) for part in ("train", "val")], ignore_index=True)
    folder = next((f.parent for f in [root/"train", *sorted(root.glob("*/train"))] if f.is_dir()), root)
    return FaceData("fairface", folder, table, partial(load_images, folder), files_key(folder, table["path"]))


# %% [markdown]
# A FairFace of six gradients.

# %%
def fairface_csv(folder, part, rows, header="file,age,gender,race,service_test"):
    (folder/f"fairface_label_{part}.csv").write_text("\n".join([header, *rows]) + "\n")

ff = tmp/"FairFace"
for part in ("train", "val"):
    for i in (1, 2, 3): gradient(ff/part/f"{i}.jpg", i)
fairface_csv(ff, "train", ["train/1.jpg,50-59,Male,East Asian,True", "train/2.jpg,30-39,Female,Indian,False",
                           "train/3.jpg,3-9,Female,Black,False"])
fairface_csv(ff, "val", ["val/1.jpg,3-9,Male,White,False", "val/2.jpg,more than 70,Female,Latino_Hispanic,True",
                         "val/3.jpg,20-29,Male,Middle Eastern,True"])
faces = read_fairface(ff, tmp/"data", progress=False)
faces.table

# %%
assert codes(faces.table, "race")[0].tolist() == [3, 5, 1, 0, 2, 6]
assert len(codes(faces.table, "race*gender")[1]) == 14
assert faces.load(faces.table, 8).shape == (6, 3, 8, 8) and split_table(faces.table, "official")[3:].tolist() == ["test"] * 3
with zipfile.ZipFile(tmp/"fairface-img.zip", "w") as z:                    # the images as a zip, the CSVs beside it
    for f in sorted(ff.rglob("*.jpg")): z.write(f, f.relative_to(ff))
for f in ff.glob("*.csv"): shutil.copy(f, tmp)
assert read_fairface(tmp/"fairface-img.zip", tmp/"data", progress=False).table.equals(faces.table)


# %% [markdown]
# What can be wrong with it, one after the other.

# %%
def expect(error, read, *args):
    "Run a reader that must fail, and print how."
    try: read(*args, tmp/"data")
    except error as e: say(e)
    else: raise AssertionError("bad input was read")
good = (ff/"fairface_label_train.csv").read_text()
for header, row in [("file,age,gender,ethnicity", "train/1.jpg,3-9,Male,White"),
                    ("file,age,gender,race", "train/1.jpg,3-9,Male,Latino Hispanic"),
                    ("file,age,gender,race", "train/9.jpg,3-9,Male,White")]:
    fairface_csv(ff, "train", [row], header)
    expect((ValueError, FileNotFoundError), read_fairface, ff)
(ff/"fairface_label_train.csv").unlink()
(tmp/"fairface_label_train.csv").unlink()
expect(FileNotFoundError, read_fairface, ff)
(ff/"fairface_label_train.csv").write_text(good)
assert len(read_fairface(ff, tmp/"data").table) == 6


# %% [markdown]
# ## A folder of one's own
#
# A CSV with the column `file`, paths relative to the CSV's folder, and any number of label columns; each becomes a categorical, its names in alphabetical order. Two columns are
# special where they are there: `photo` names the source photograph, `split` is an official split.

# %%
#| export
def _official_parts(csv: Path, text: pd.DataFrame) -> dict:
    "The official split, if the CSV has one."
    return {} if "split" not in text else dict(official=named_labels(csv, text["split"], SPLITS))

def _own_label(csv: Path, values: pd.Series) -> pd.Categorical:
    "A column's labels; the vocabulary is what is there."
    if (empty := values == "").any(): raise ValueError(f"{csv}, line {empty.to_numpy().argmax() + 2}, column {values.name!r}: no label")
    return pd.Categorical(values, sorted(set(values)))

def read_folder(
    path: str | Path,          # A folder, tar or zip that holds the CSV and the images
    data_root: str | Path = ".", # Where an archive is unpacked to
    csv: str = "labels.csv",   # The CSV's name in that folder
    progress: bool = True,     # Show a progress bar
) -> FaceData:                 # Every column but file, photo, split is a label
    "Read images of one's own. Raises: FileNotFoundError, ValueError."
    root = open_set(path, data_root, progress=progress)
    text = read_labels(root/csv, ["file"])
    labels = [c for c in text if c not in ("file", "photo", "split")]
    if not labels: raise ValueError(f"{root/csv}: no label column beside 'file': add one, e.g. 'expression'")
    for taken in {"path", "official"} & set(labels): raise ValueError(f"{root/csv}: a label column may not be named {taken!r}: rename it")
    twice = text["file"].duplicated().to_numpy()
    if twice.any(): raise ValueError(f"{root/csv}, line {twice.argmax() + 2}: this file has a row already")
    table = pd.DataFrame(dict(path=text["file"], photo=text.get("photo", text["file"]), **_official_parts(root/csv, text)))
    for column in labels: table[column] = _own_label(root/csv, text[column])
    return FaceData("folder", root, table, partial(load_images, root), files_key(root, table["path"]))


# %%
for i in range(4): gradient(tmp/f"own/img/{i}.jpg", i)
rows = [f"img/{i}.jpg,{['yes', 'no'][i % 2]},g{i // 2},p{i // 3}\n" for i in range(4)]
(tmp/"own/labels.csv").write_text("file,smile,group,photo\n" + "".join(rows))
read_folder(tmp/"own").table

# %%
own = read_folder(tmp/"own").table
assert codes(own, "smile")[0].tolist() == [1, 0, 1, 0] and own.photo.tolist() == ["p0", "p0", "p0", "p1"]
for text in ["name,smile\nimg/0.jpg,yes\n", "file\nimg/0.jpg\n", "file,smile\nimg/0.jpg,\n", "file,smile\nimg/0.jpg,yes\nimg/0.jpg,no\n",
             "file,smile,split\nimg/0.jpg,yes,dev\n", "file,smile\nimg/7.jpg,yes\n", "file,path\nimg/0.jpg,yes\n"]:
    (tmp/"own/labels.csv").write_text(text)
    expect((ValueError, FileNotFoundError), lambda data_root: read_folder(tmp/"own", data_root))


# %% [markdown]
# ## Synthetic faces
#
# They need no files: a row of the table holds all that the renderer needs, and its split is its own. The renderer's version and the seed stand for the source files in the cache's key.

# %%
#| export
def read_synthetic(
    seed: int = 0, # The set's seed: another seed, other faces
    **sizes,       # Passed on to `synthetic_table`, e.g. fewer images per tone
) -> FaceData:     # Labels `expression`, `tone`; official parts train, val, test
    "The project's rendered faces."
    table = synthetic_table(seed=seed, **sizes).reset_index(drop=True).rename(columns={"split": "official"})
    table["official"] = table["official"].cat.set_categories(SPLITS)
    table.insert(0, "path", "")
    table.insert(1, "photo", [f"synthetic-{seed}-{row}" for row in table.index])
    key = hashlib.sha256(f"{RENDERER_VERSION} {seed} {sizes}".encode()).hexdigest()
    return FaceData("synthetic", None, table, render_faces, key, dict(seed=seed))


# %%
faces = read_synthetic()
faces.table.head(3)

# %%
assert (faces.table.photo.nunique() == len(faces.table)) and faces.load(faces.table[:2], 16).shape == (2, 3, 16, 16)
assert split_table(faces.table, "official").value_counts().min() > 0
assert read_synthetic(seed=1).key != faces.key == read_synthetic().key

# %% [markdown]
# ## One door
#
# A run's settings name a set and, if one likes, a path. Without a path the official names are looked for below the data root. What is not found is said with where it comes from and where it must lie.

# %%
#| export
_USUAL_NAMES = dict(
    utkface=["UTKFace", "utkface", "UTKFace.tar.gz", "UTKFace.tar", "UTKFace.zip"],
    fairface=["FairFace", "fairface", "fairface-img-margin025-trainval.zip", "fairface-img-margin125-trainval.zip",
              "FairFace.zip", "FairFace.tar", "fairface.zip", "fairface.tar", "fairface-subset.tar"],
)
DATASETS = ["synthetic", "utkface", "fairface", "folder"]

def find_set(
    name: str,             # 'utkface' or 'fairface'
    data_root: str | Path, # Where to look
) -> Path:                 # The first of the usual names that is there
    "Where a set lies below the data root. Raises: FileNotFoundError with the set's source."
    places = [Path(data_root)/n for n in _USUAL_NAMES[name]]
    found = next((p for p in places if p.exists()), None)
    if found is None:
        raise FileNotFoundError(f"{name}: none of {', '.join(_USUAL_NAMES[name][:3])} … in {data_root}. {SOURCES[name]}; "
                                "put it there, or give its path; see data/README.md")
    return found


# %%
print(find_set("fairface", tmp).name)
try: find_set("utkface", tmp/"empty")
except FileNotFoundError as e: say(e)
else: raise AssertionError("a missing set was found")

# %%
assert find_set("fairface", tmp) == tmp/"FairFace" and find_set("utkface", tmp) == tmp/"UTKFace"


# %%
#| export
def read_dataset(
    name: str,                # 'synthetic', 'utkface', 'fairface' or 'folder'
    path: str | Path | None,  # A folder or archive; None looks for the usual names in the data root
    data_root: str | Path,    # Where sets lie, and where archives are unpacked
    progress: bool = True,    # Show progress bars
) -> FaceData:                # The set
    "Read a data set by its name. Raises: ValueError (unknown name), and what its reader raises."
    if name not in DATASETS: raise ValueError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}")
    if name == "synthetic": return read_synthetic()
    if name == "folder" and not path: raise ValueError("dataset 'folder' needs a path: the folder or archive that holds labels.csv")
    reader = dict(utkface=read_utkface, fairface=read_fairface, folder=read_folder)[name]
    return reader(path or find_set(name, data_root), data_root, progress=progress)


# %%
[len(read_dataset(n, None, tmp, progress=False).table) for n in ("synthetic", "fairface")]

# %%
assert read_dataset("fairface", None, tmp, progress=False).root == tmp/"FairFace"
for name, path in [("celeba", None), ("folder", None), ("fairface", tmp/"nowhere")]:
    try: read_dataset(name, path, tmp)
    except (ValueError, FileNotFoundError) as e: say(e)
    else: raise AssertionError(f"{name} was read")
