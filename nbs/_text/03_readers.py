# %% [markdown]
# # Readers
#
# > From an official archive, folder or label file to one table, with every label by name and every oddity named

# %%
#| default_exp readers

# %%
#| export
import hashlib
import json
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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from fairgrape.data import SPLITS, FaceData, join_photos, load_images

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

def _once(target: Path, source: str, fill: Callable[[Path], None]):
    "Make a folder whole or not at all: `fill` writes a temporary one, which then takes the target's place."
    marker = target/".unpacked"
    if marker.exists(): return
    if target.exists():
        raise FileExistsError(f"{target}: this folder is there but was not unpacked from {source}: move it, or read it as a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fill(temp)
        (temp/".unpacked").write_text(f"{source}\n")
        temp.chmod(0o755)
        temp.rename(target)
    except OSError:
        if not marker.exists(): raise                     # else another process was faster, and its copy is as good
    finally: shutil.rmtree(temp, ignore_errors=True)

def unpack(
    archive: str | Path,    # A .tar, .tar.gz or .zip
    target: str | Path,     # The folder to make of it
    progress: bool = True,  # Show a progress bar
) -> Path:                  # The target
    "Unpack an archive, safely and only once. Raises: FileNotFoundError, FileExistsError, ValueError (unsafe or damaged archive)."
    archive, target = Path(archive), Path(target)
    if not (target/".unpacked").exists() and not archive.is_file(): raise FileNotFoundError(f"{archive}: no such archive")
    _once(target, archive.name, lambda folder: _extract(archive, folder, progress))
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
print(old[:8], files_key(tmp, ["a", "b"])[:8])
assert files_key(tmp, ["a", "b"]) != old and files_key(tmp, ["a", "b"]) == files_key(tmp, ["a", "b"])
try: files_key(tmp, ["a", "c", "d"])
except FileNotFoundError as e: say(e)
else: raise AssertionError("a missing file was not noticed")

# %% [markdown]
# A label file comes from somebody else. A path in it that starts at the root of the disk, or climbs out of the set's folder, would read files that nobody offered, so it is refused, whether it is written for Unix or for Windows.

# %%
#| export
OUTSIDE = r"^(?:[/\\]|[A-Za-z]:)|(?:^|[/\\])\.\.(?:[/\\]|$)|^$"   # absolute, with a drive, climbing, or empty

def check_inside(
    root: Path,            # The set's folder
    paths: Sequence[str],  # Image files, as the labels name them
):
    "Raise ValueError unless every path is relative and stays inside the set's folder."
    paths = pd.Series(list(paths), dtype=str)
    bad = paths.str.contains(OUTSIDE, regex=True)
    if bad.any():
        raise ValueError(f"the labels name the image {paths[bad.argmax()]!r} ({int(bad.sum())} of {len(paths)} are such): "
                         f"a path must be relative to {root}, inside it, and without '..'")


# %%
check_inside(tmp, ["a", "sub/b.png", "..hidden", "a..b/c"])

# %%
for outside in ("/etc/passwd", "../a", "sub/../../a", "..", r"C:\a.png", r"\\host\a", r"sub\..\..\a", ""):
    try: check_inside(tmp, ["a", outside])
    except ValueError as e: say(e)
    else: raise AssertionError(f"{outside} was accepted")


# %% [markdown]
# So every reader of files ends in one call. A run wants the whole set and stops at the first missing file. Whoever asks what a half-fetched set lacks wants to go on: without `strict` the
# missing files are listed in `notes`, and their rows are left out.

# %%
#| export
def face_set(
    name: str,             # The set's name
    root: Path,            # The folder that `path` is relative to
    table: pd.DataFrame,   # The set's table, a row an image file
    notes: dict | None = None, # What the reader has to say
    strict: bool = True,   # A missing file is an error; else it goes to notes["missing"], and its row is left out
) -> FaceData:             # The set
    "A set of image files. Raises: ValueError (a path that leaves the folder), FileNotFoundError (with `strict`)."
    check_inside(root, table["path"])
    notes = dict(notes or {})
    if not strict:
        lost = [path for path in table["path"] if not os.path.isfile(os.path.join(root, path))]
        table = table[~table["path"].isin(lost)].reset_index(drop=True)
        notes["missing"] = [*notes.get("missing", []), *lost]
    return FaceData(name, root, table, partial(load_images, root), files_key(root, table["path"]), notes)


# %%
half = pd.DataFrame(dict(path=["a", "gone", "b"], photo=["a", "gone", "b"]))
face_set("half", tmp, half, strict=False).table

# %%
assert face_set("half", tmp, half, strict=False).notes == dict(missing=["gone"])
assert face_set("half", tmp, half, strict=False).table.path.tolist() == ["a", "b"]
assert face_set("whole", tmp, half[half.path != "gone"]).notes == {}
try: face_set("half", tmp, half)
except FileNotFoundError as e: say(e)
else: raise AssertionError("a missing file was not noticed")
try: face_set("out", tmp, half.assign(path=["a", "../gone", "b"]), strict=False)
except ValueError as e: say(e)
else: raise AssertionError("a path that climbs out was accepted")

# %% [markdown]
# ## Where a set lies
#
# A reader takes a folder as it is. An archive is unpacked below the data root, in a folder whose name carries the archive's size and time: a new version of the archive is another folder.

# %%
#| export
SOURCES = dict(
    utkface="UTKFace ('aligned & cropped faces', UTKFace.tar.gz) is at https://susanqq.github.io/UTKFace/",
    fairface="FairFace (the images of one padding and the two label CSVs) is at https://github.com/joojs/fairface",
    celeba="CelebA (img_align_celeba.zip, Anno/list_attr_celeba.txt, Anno/identity_CelebA.txt, Eval/list_eval_partition.txt) is at "
           "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    people="The ImageNet images are at https://image-net.org/ (an account is needed), the person subtree's synsets_safety.csv and "
           "imageability_scores.csv at https://image-net.org/filtering-and-balancing/, its demographics on request from there",
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
print(opened.relative_to(tmp).as_posix())
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
assert utkface_fields("8_0_4_20170103200329407.jpg.chip.jpg") == (8, "Male", "Others", "20170103200329407")
assert utkface_fields("61_1_20170109150557335.jpg.chip.jpg") is None and utkface_fields("30_2_0_20170109150557335.jpg.chip.jpg") is None


# %% [markdown]
# Which faces come from one photograph? UTKFace does not say, but two things tell. Some faces share their time stamp to the millisecond (414 faces, 186 stamps): we
# looked at 24 such stamps, and in most the faces have one photograph's background, light and grain. A few only look saved in the same
# moment; keeping those together costs nothing. And 390 files are byte-for-byte copies of another under another name, some with another age. Both are joined by
# `join_photos`, also in chains.
#
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
    strict: bool = True,   # As for `face_set`; the files are the labels here, so that none can be missing
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
    return face_set("utkface", folder, table, notes, strict)


# %% [markdown]
# No face is shown here, and none is needed: a set of colour gradients in UTKFace's layout will do. One name lacks its race, two share a stamp, and one file is a copy.

# %%
def picture(seed):
    "The bytes of a small JPEG of a random colour gradient."
    a, b = np.random.default_rng(seed).integers(0, 256, (2, 1, 1, 3))
    t = np.linspace(0, 1, 24)[:, None, None]
    out = io.BytesIO()
    Image.fromarray(np.broadcast_to(a + (b - a) * t, (24, 24, 3)).astype(np.uint8)).save(out, "JPEG")
    return out.getvalue()

def gradient(path, seed):
    "The same as a file."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(seed))

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
print(archived.root.relative_to(tmp).as_posix())
assert archived.table.equals(faces.table) and archived.root != faces.root
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
# A label file that was opened in a spreadsheet and saved again may have lost its ages: `3-9` looks like a date to it and comes back as `03-Sep`, `10-19` as `Oct-19`, or in full with the year.
# `20-29` survives, as there is no day or month of that number, so the file still looks right on most lines.

# %%
#| export
_MONTH = r"(jan|feb|mar|mär|mrz|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)[a-z]*"
_DATE = rf"\d{{1,4}}[-/. ]+{_MONTH}\.?([-/. ]+\d{{2,4}})?|{_MONTH}[-/. ]+\d{{1,4}}|(\d{{1,4}}[-/.]){{2}}\d{{1,4}}( 0?0:00(:00)?)?|[34]\d{{4}}"

def look_like_dates(
    values: pd.Series, # Labels, as text
) -> pd.Series:        # bool, same index
    "Which labels look like what a spreadsheet makes of a range of ages."
    return values.str.fullmatch(_DATE, flags=re.IGNORECASE)


# %%
ages = pd.Series(["03-Sep", "3-Sep", "Sep-03", "Oct-19", "10/19/2026", "2026-10-19", "03. Mrz", "20-29", "3-9", "more than 70", "Southeast Asian"])
print(ages[look_like_dates(ages)].tolist())
assert look_like_dates(ages).tolist() == [True] * 7 + [False] * 4
assert not look_like_dates(pd.Series(["", "0-2", "40", "1999", "Mayor", "g1", "NA"])).any()


# %% [markdown]
# A label outside the vocabulary is such a date, or most often another spelling (`Latino Hispanic`), or of another edition of the set. It is not a new class, and not a row to drop in silence.

# %%
#| export
def _not_dates(csv: str | Path, values: pd.Series, suspects: pd.Series):
    "Refuse a column that a spreadsheet has damaged."
    if not (dates := look_like_dates(values) & suspects).any(): return
    row = dates.to_numpy().argmax()
    raise ValueError(f"{csv}, line {row + 2}, column {values.name!r}: {values.iloc[row]!r} is a date: a spreadsheet turned a range such as '3-9' into it "
                     f"({dates.sum()} such lines). Take the original CSV, and do not save it from a spreadsheet")

def named_labels(
    csv: str | Path,         # The label file, for the error
    values: pd.Series,       # The labels of one column, as text
    vocabulary: Sequence[str], # The names there may be, in their order
) -> pd.Categorical:         # The labels as a categorical
    "Labels of a closed vocabulary. Raises: ValueError with the line, the column and the names that are known."
    unknown = ~values.isin(list(vocabulary))
    _not_dates(csv, values, unknown)
    if unknown.any():
        row = unknown.to_numpy().argmax()
        raise ValueError(f"{csv}, line {row + 2}, column {values.name!r}: {values.iloc[row]!r} is not one of "
                         f"{', '.join(vocabulary)} ({unknown.sum()} such lines)")
    return pd.Categorical(values, list(vocabulary))


# %%
named_labels("labels.csv", pd.Series(["Black", "White"], name="race"), ["White", "Black"])

# %%
assert named_labels("labels.csv", pd.Series(["Black", "White"], name="race"), ["White", "Black"]).codes.tolist() == [1, 0]
for values, vocabulary in [(["White", "white"], ["White", "Black"]), (["20-29", "03-Sep"], ["3-9", "20-29"])]:
    try: named_labels("labels.csv", pd.Series(values, name="label"), vocabulary)
    except ValueError as e: say(e)
    else: raise AssertionError("a label outside the vocabulary was accepted")

# %% [markdown]
# ## FairFace
#
# Two CSVs, `fairface_label_train.csv` and `fairface_label_val.csv`, and images in `train/` and `val/`. The CSVs may lie in the folder or the archive, or beside
# the archive, as they are published. FairFace gives each face without its source photograph, so a photograph is a file here.
#
# The set is also handed on as a Hugging Face `datasets` copy: parquet shards as on the hub, or the arrow folders that `save_to_disk` makes. These hold the pictures' bytes and labels as *numbers*,
# and their race 0 is East Asian, where others have White. What the numbers mean stands in each file's schema; labels are taken through those names, and numbers without names are refused.

# %%
#| export
FAIRFACE = dict(
    age=["0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"],
    gender=["Male", "Female"],
    race=["White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern"],
)

def class_names(
    schema: pa.Schema,     # Of a parquet or arrow file
) -> dict[str, list[str]]: # By column, the name of each number; empty where the file does not say
    "What the integer labels of a Hugging Face file mean. Source: the schema's metadata, key 'huggingface'."
    said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = said.get("info", {}).get("features", {})
    return {column: list(f["names"]) for column, f in features.items() if isinstance(f, dict) and "names" in f}


# %%
hub = dict(age=FAIRFACE["age"], gender=["Male", "Female"],
           race=["East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian"])
labelled = {c: dict(names=names, _type="ClassLabel") for c, names in hub.items()}
metadata = {"huggingface": json.dumps(dict(info=dict(features=dict(image=dict(_type="Image"), **labelled))))}
image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
schema = pa.schema([("image", image_type), *[(c, pa.int64()) for c in hub], ("service_test", pa.bool_())], metadata)
class_names(schema)["race"]

# %%
assert class_names(schema) == hub and class_names(schema.remove_metadata()) == {}

# %% [markdown]
# Which file belongs to which part is in its name (`train-00000-of-00002.parquet`) or its folder's (`validation/data-00000-of-00001.arrow`). The hub has one folder for each margin; a mixture of two would
# hold every face twice.

# %%
#| export
_PART = re.compile(r"(?:^|[-_.])(train|val)(?:idation)?(?:[-_.]|$)")

def find_shards(
    root: Path,                # A folder
) -> dict[str, list[Path]]:    # The files of 'train' and 'val', in order; empty where there is no such copy
    "The parquet or arrow files of a Hugging Face copy. Raises: ValueError (two editions side by side)."
    found = {}
    for file in sorted(f for end in ("parquet", "arrow") for f in root.rglob(f"*.{end}") if not f.name.startswith(("cache-", "."))):
        if match := _PART.search(file.stem) or _PART.search(file.parent.name): found.setdefault(match[1], []).append(file)
    for part, files in found.items():
        if len(folders := sorted({f.parent.relative_to(root).as_posix() for f in files})) > 1:
            raise ValueError(f"{root}: several copies of the part {part!r}, in {' and '.join(folders)}: give the folder of one")
    return found


# %%
for name in ["0.25/train-00000-of-00002-d4.parquet", "0.25/train-00001-of-00002-dd.parquet", "0.25/validation-00000-of-00001-95.parquet",
             "saved/train/data-00000-of-00001.arrow", "saved/train/cache-12.arrow", "saved/validation/data-00000-of-00001.arrow"]:
    (tmp/"shards"/name).parent.mkdir(parents=True, exist_ok=True); (tmp/"shards"/name).touch()
print({part: [f.name for f in files] for part, files in find_shards(tmp/"shards/saved").items()})
assert [f.name[:11] for f in find_shards(tmp/"shards/0.25")["train"]] == ["train-00000", "train-00001"]
assert [f.parent.name for f in find_shards(tmp/"shards/saved")["val"]] == ["validation"] and find_shards(tmp/"data") == {}
try: find_shards(tmp/"shards")
except ValueError as e: say(e)
else: raise AssertionError("two editions were read as one")


# %% [markdown]
# The pictures are written out once, beside the label CSVs, in the layout of the official set. From there on the copy *is* an official set: the same reader, the same checks, the same cache.

# %%
#| export
def _record_batches(file: Path) -> Iterator[pa.RecordBatch]:
    "The rows of a parquet file, or of an arrow file of either kind, some at a time."
    try:
        if file.suffix == ".parquet": yield from pq.ParquetFile(file).iter_batches(256)
        else:
            with pa.memory_map(str(file)) as source:
                if source.read(6) == b"ARROW1":
                    reader = pa.ipc.open_file(source)
                    yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
                else: source.seek(0); yield from pa.ipc.open_stream(source)
    except pa.ArrowInvalid as e: raise ValueError(f"{file}: damaged, or not what its name says ({e}): fetch it again") from e

def _label(file: Path, row: int, column: str, value: int | str | None, names: dict[str, list[str]]) -> str:
    "One label by its name."
    if isinstance(value, str): return value
    if column not in names:
        raise ValueError(f"{file}, column {column!r}: a number, and the file does not say what it means (no ClassLabel names in its schema): "
                         "take a copy that keeps them, or the official CSVs")
    if value is None or not 0 <= value < len(names[column]): raise ValueError(f"{file}, row {row}, column {column!r}: {value} is no label")
    return names[column][value]

def _hub_rows(file: Path) -> Iterator[tuple[dict, dict]]:
    "The rows of a file: the picture, and the labels by name."
    row = 0
    for batch in _record_batches(file):
        if lacking := [c for c in ("image", *FAIRFACE) if c not in batch.schema.names]:
            raise ValueError(f"{file}: no column {lacking[0]!r}: its columns are {', '.join(batch.schema.names)}")
        names = class_names(batch.schema)
        for r in batch.to_pylist():
            if not (r["image"] or {}).get("bytes"):
                raise ValueError(f"{file}, row {row}: the picture's bytes are not in the file: save the copy with its images embedded")
            yield r["image"], {c: _label(file, row, c, r[c], names) for c in FAIRFACE} | dict(service_test=bool(r.get("service_test")))
            row += 1

def _picture_name(image: dict, row: int, folder: Path) -> str:
    "The picture's own name where it has a plain one that is free, else its row's."
    name = Path(image.get("path") or "").name
    if re.fullmatch(r"[\w-]+\.(jpe?g|png)", name) and not (folder/name).exists(): return name
    return f"row-{row:06d}" + (".png" if image["bytes"][1:4] == b"PNG" else ".jpg")

def _write_part(files: Sequence[Path], part: str, root: Path, progress: bool):
    "The pictures and the CSV of one part."
    (root/part).mkdir()
    rows = []
    for file in tqdm(files, f"writing out {part}", unit=" files", disable=not progress):
        for image, labels in _hub_rows(file):
            rows.append(dict(file=f"{part}/{_picture_name(image, len(rows), root/part)}", **labels))
            (root/rows[-1]["file"]).write_bytes(image["bytes"])
            os.utime(root/rows[-1]["file"], ns=(file.stat().st_mtime_ns,) * 2)   # the cache's key must not depend on today
    pd.DataFrame(rows, columns=["file", *FAIRFACE, "service_test"]).to_csv(root/f"fairface_label_{part}.csv", index=False)

def official_layout(
    root: Path,            # A folder: an official FairFace, which stays as it is, or a Hugging Face copy of it
    data_root: str | Path, # A copy is written out in its folder 'unpacked'
    progress: bool = True, # Show progress bars
) -> Path:                 # A folder of images and label CSVs
    "The official layout of a FairFace, made once from a Hugging Face copy. Raises: ValueError (labels without names, no pictures)."
    if any(root.glob("fairface_label_*.csv")) or any(root.glob("*/fairface_label_*.csv")) or not (shards := find_shards(root)): return root
    if lacking := {"train", "val"} - set(shards): raise FileNotFoundError(f"{root}: no parquet or arrow file of the part {lacking.pop()!r}")
    stats = [(str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns) for files in shards.values() for f in files]
    target = Path(data_root)/"unpacked"/f"{root.name}-{hashlib.sha256(str(stats).encode()).hexdigest()[:8]}"
    _once(target, root.name, lambda folder: [_write_part(files, part, folder, progress) for part, files in shards.items()])
    return target


# %% [markdown]
# Two pictures, written as the hub has them. The second is race 3, and that is White.

# %%
def hub_copy(folder, schema=schema, race=(0, 3)):
    "Two shards as on the hub, a row each."
    folder.mkdir(parents=True)
    for i, part in enumerate(["train", "validation"]):
        columns = dict(image=[dict(bytes=picture(i), path=None)], age=[1 + i], gender=[i], race=[race[i]], service_test=[i == 0])
        pq.write_table(pa.table(columns, schema=schema), folder/f"{part}-00000-of-00001.parquet")
    return folder

written = official_layout(hub_copy(tmp/"hub/0.25"), tmp/"data", progress=False)
for csv_file in sorted(written.glob("*.csv")): print(csv_file.read_text())

# %%
assert (written/"fairface_label_val.csv").read_text().splitlines()[1] == "val/row-000000.jpg,10-19,Female,White,False"
assert (written/"train/row-000000.jpg").read_bytes() == picture(0) and (written/".unpacked").exists()
assert official_layout(tmp/"hub/0.25", tmp/"data", progress=False) == written           # once
for bad, settings in [("unnamed", dict(schema=schema.remove_metadata())), ("unlabelled", dict(race=(0, None))), ("beyond", dict(race=(7, 0)))]:
    try: official_layout(hub_copy(tmp/bad, **settings), tmp/"data", progress=False)
    except ValueError as e: say(e)
    else: raise AssertionError(f"a copy was read, {bad}")
(tmp/"unnamed/validation-00000-of-00001.parquet").unlink()
try: official_layout(tmp/"unnamed", tmp/"data")
except FileNotFoundError as e: say(e)
else: raise AssertionError("half a copy was read")


# %% [markdown]
# The reader takes either.

# %%
#| export
def _fairface_csv(root: Path, beside: Path, part: str) -> Path:
    "The label file of a part: in the folder, one below, or beside the archive."
    name = f"fairface_label_{part}.csv"
    return next((f for f in [root/name, *sorted(root.glob(f"*/{name}")), beside/name] if f.is_file()), root/name)

def _fairface_part(csv: Path, part: str) -> pd.DataFrame:
    "The rows of one CSV, as categoricals."
    text = read_labels(csv, ["file", *FAIRFACE])
    table = pd.DataFrame(dict(path=text["file"], photo=text["file"], official=pd.Categorical([part] * len(text), SPLITS)))
    for column, names in FAIRFACE.items(): table[column] = named_labels(csv, text[column], names)
    if "service_test" in text: table["service_test"] = named_labels(csv, text["service_test"], ["False", "True"])
    return table

def read_fairface(
    path: str | Path,      # A folder, tar or zip; a folder of parquet or arrow files too
    data_root: str | Path, # Where an archive is unpacked to
    progress: bool = True, # Show a progress bar
    strict: bool = True,   # Missing files are an error; else they are listed in notes["missing"]
) -> FaceData:             # Labels `age`, `gender`, `race` (and `service_test`), official parts train and val
    "Read FairFace. Raises: FileNotFoundError (folder, CSV, image), ValueError (column, label). Source: the set's CSVs."
    root = official_layout(open_set(path, data_root, "fairface", progress), data_root, progress)
    csvs = {part: _fairface_csv(root, Path(path).parent, part) for part in ("train", "val")}
    lost = [f.name for f in csvs.values() if not f.is_file()]
    if strict or len(lost) == 2: lost = []                                      # then reading says it
    table = pd.concat([_fairface_part(f, part) for part, f in csvs.items() if f.name not in lost], ignore_index=True)
    folder = next((f.parent for f in [root/"train", *sorted(root.glob("*/train"))] if f.is_dir()), root)
    return face_set("fairface", folder, table, dict(missing=lost) if lost else {}, strict)


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
copy = read_fairface(tmp/"hub/0.25", tmp/"data", progress=False).table
assert copy.race.tolist() == ["East Asian", "White"] and copy.official.tolist() == ["train", "val"]


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
                    ("file,age,gender,race", "train/1.jpg,03-Sep,Male,White"),
                    ("file,age,gender,race", "train/9.jpg,3-9,Male,White")]:
    fairface_csv(ff, "train", [row], header)
    expect((ValueError, FileNotFoundError), read_fairface, ff)
assert read_fairface(ff, tmp/"data", strict=False).notes == dict(missing=["train/9.jpg"])
(ff/"fairface_label_train.csv").unlink()
(tmp/"fairface_label_train.csv").unlink()
expect(FileNotFoundError, read_fairface, ff)
assert read_fairface(ff, tmp/"data", strict=False).notes == dict(missing=["fairface_label_train.csv"])
(ff/"fairface_label_train.csv").write_text(good)
assert len(read_fairface(ff, tmp/"data").table) == 6


# %% [markdown]
# ## A folder of one's own
#
# A CSV with the column `file` (or `image`), paths relative to the CSV's folder, and any number of label columns; each becomes a categorical, its names in alphabetical order. Three columns are
# special where they are there: `photo` names the source photograph, `person` says who it is, `split` is an official split. Given is the folder that holds `labels.csv`, or the CSV itself, under any name.

# %%
#| export
def _own_label(csv: Path, values: pd.Series) -> pd.Categorical:
    "A column's labels; the vocabulary is what is there."
    if (empty := values == "").any(): raise ValueError(f"{csv}, line {empty.to_numpy().argmax() + 2}, column {values.name!r}: no label")
    if values.str.fullmatch(r"\d+-\d+").any(): _not_dates(csv, values, values != "")
    return pd.Categorical(values, sorted(set(values)))

def _own_files(csv: Path, text: pd.DataFrame) -> pd.DataFrame:
    "The columns that are no labels: path, photo, person, official."
    column = "file" if "file" in text else "image"
    if column not in text: raise ValueError(f"{csv}: no column 'file' (or 'image'): its columns are {', '.join(text)}")
    twice = text[column].duplicated().to_numpy()
    if twice.any(): raise ValueError(f"{csv}, line {twice.argmax() + 2}: this file has a row already")
    columns = dict(path=text[column], photo=text.get("photo", text[column]))
    if "person" in text: columns["person"] = _own_label(csv, text["person"]).astype(str)
    if "split" in text: columns["official"] = named_labels(csv, text["split"], SPLITS)
    return pd.DataFrame(columns)

def read_folder(
    path: str | Path,          # A folder, tar or zip that holds the CSV and the images, or the CSV itself
    data_root: str | Path = ".", # Where an archive is unpacked to
    csv: str = "labels.csv",   # The CSV's name in that folder
    progress: bool = True,     # Show a progress bar
    strict: bool = True,       # Missing images are an error; else they are listed in notes["missing"]
) -> FaceData:                 # Every column but file (or image), photo, person, split is a label
    "Read images of one's own. Raises: FileNotFoundError, ValueError."
    if Path(path).suffix.lower() == ".csv": path, csv = Path(path).parent, Path(path).name
    root = open_set(path, data_root, progress=progress)
    text = read_labels(root/csv, [])
    table = _own_files(root/csv, text)
    labels = [c for c in text if c not in ("file" if "file" in text else "image", "photo", "person", "split")]
    if not labels: raise ValueError(f"{root/csv}: no label column beside the file's: add one, e.g. 'expression'")
    for taken in {"path", "official"} & set(labels): raise ValueError(f"{root/csv}: a label column may not be named {taken!r}: rename it")
    for column in labels: table[column] = _own_label(root/csv, text[column])
    return face_set("folder", root, table, strict=strict)


# %%
for i in range(4): gradient(tmp/f"own/img/{i}.jpg", i)
rows = [f"img/{i}.jpg,{['yes', 'no'][i % 2]},g{i // 2},p{i // 3}\n" for i in range(4)]
(tmp/"own/labels.csv").write_text("file,smile,group,photo\n" + "".join(rows))
read_folder(tmp/"own").table

# %%
own = read_folder(tmp/"own").table
assert codes(own, "smile")[0].tolist() == [1, 0, 1, 0] and own.photo.tolist() == ["p0", "p0", "p0", "p1"]
for text in ["name,smile\nimg/0.jpg,yes\n", "file\nimg/0.jpg\n", "file,smile\nimg/0.jpg,\n", "file,smile\nimg/0.jpg,yes\nimg/0.jpg,no\n",
             "file,smile,split\nimg/0.jpg,yes,dev\n", "file,age\nimg/0.jpg,20-29\nimg/1.jpg,03-Sep\n",
             "file,smile\nimg/7.jpg,yes\n", "file,path\nimg/0.jpg,yes\n"]:
    (tmp/"own/labels.csv").write_text(text)
    expect((ValueError, FileNotFoundError), lambda data_root: read_folder(tmp/"own", data_root))

# %% [markdown]
# The CSV under a name of its own, with persons, and with one picture that is not there (yet).

# %%
(tmp/"own/faces.csv").write_text("image,smile,person\nimg/0.jpg,yes,Ada\nimg/1.jpg,yes,Ada\nimg/9.jpg,no,Bo\n")
expect(FileNotFoundError, lambda data_root: read_folder(tmp/"own/faces.csv", data_root))
own = read_folder(tmp/"own/faces.csv", strict=False)
print(own.table)
assert own.notes == dict(missing=["img/9.jpg"]) and own.root == tmp/"own"
assert own.table.person.tolist() == ["Ada", "Ada"] and codes(own.table, "smile")[1] == ["no", "yes"]
