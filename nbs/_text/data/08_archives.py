# %% [markdown]
# # Archives
#
# > Unpack an archive safely, completely or not at all, and only once

# %%
#| default_exp data.archives

# %%
#| export
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

from tqdm import tqdm

# %%
import io

import numpy as np

tmp = Path(tempfile.mkdtemp())


# an error without the temporary folder's name
def say(error):
    print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")


# %% [markdown]
# An archive is a list of names, and a name such as `../../.bashrc` would write outside the target
# folder. Face archives hold plain files in plain folders, so anything else is refused: absolute
# names, `..`, links, devices.

# %%
#| export
def _refuse(archive: Path, name: str, plain: bool):
    "Raise ValueError unless the member is a plain file or folder inside the target."
    windows = PureWindowsPath(name)  # splits at both kinds of slash
    if windows.drive or windows.root:
        why = "an absolute path"
    elif ".." in windows.parts:
        why = "a path with '..'"
    elif not plain:
        why = "a link or a special file"
    else:
        return
    raise ValueError(
        f"{archive}: member {name!r} is {why}; nothing was unpacked. Take the archive from its"
        " official source"
    )


# %%
for name in ["set/a.jpg", "../a.jpg", "C:/a.jpg"]:
    try:
        _refuse(Path("faces.tar"), name, plain=True)
    except ValueError as e:
        print(e)
    else:
        print(f"{name} may be unpacked")


def refused(name, plain=True):
    try:
        _refuse(Path("faces.tar"), name, plain)
    except ValueError:
        return True


assert (
    not refused("set/a..b.jpg")
    and refused("set/../../a.jpg")
    and refused("C:a.jpg")
    and refused("..\\a.jpg")
    and refused("/a.jpg")
    and refused("link", plain=False)
)


# %% [markdown]
# ## Unpacking
#
# The image cache identifies files by their modification time, among other things, so a file must
# get the archive's time and not today's. For a tar, Python does this. Python's own extraction
# filter, where available, checks each member once more after `_refuse`.
#
#
# Python takes any unreadable header for the end of the archive, and does not read the checksum of
# the compression, which follows that end. A damaged UTKFace would become a smaller one, unnoticed,
# because its file names are its labels. So only the end that the format defines, a block of zeros,
# counts as the end, and the rest of the file is read as well.

# %%
#| export
class _Header(tarfile.TarInfo):
    "A member's header. Raises: ReadError if the archive ends other than with zeros."

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as e:
            raise tarfile.ReadError(f"neither a header nor the end of the archive: {e}") from e


def _extract_tar(archive: Path, folder: Path, progress: bool):
    "Unpack a tar, checking each member first, and read it to the end of the file."
    with tarfile.open(archive, tarinfo=_Header) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        for member in tqdm(tar, f"unpacking {archive.name}", unit=" files", disable=not progress):
            _refuse(archive, member.name, member.isfile() or member.isdir())
            tar.extract(member, folder)
        while tar.fileobj.read(1 << 20):
            pass  # the compression's checksum comes last


# %%
def tar_of(*members):
    "A tar whose members are given by name and kind."
    with tarfile.open(tmp / "some.tar", "w") as tar:
        for name, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd"
            member.mtime = 10**9
            member.size = 2 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"hi") if member.size else None)
    return tmp / "some.tar"


_extract_tar(
    tar_of(("set", tarfile.DIRTYPE), ("set/a.txt", tarfile.REGTYPE)),
    tmp / "from-tar",
    progress=False,
)
(tmp / "from-tar/set/a.txt").read_text()

# %%
assert (tmp / "from-tar/set/a.txt").read_text() == "hi" and (
    tmp / "from-tar/set/a.txt"
).stat().st_mtime == 10**9
for name, kind in (
    ("../out.txt", tarfile.REGTYPE),
    ("/out.txt", tarfile.REGTYPE),
    ("link", tarfile.SYMTYPE),
    ("hard", tarfile.LNKTYPE),
    ("pipe", tarfile.FIFOTYPE),
):
    try:
        _extract_tar(tar_of((name, kind)), tmp / "bad", progress=False)
    except ValueError as e:
        say(e)
    else:
        raise AssertionError(f"{name} was unpacked")


# %% [markdown]
# The times in a zip have no time zone; they are read as local time. Links are marked in the upper
# half of a member's attributes.

# %%
#| export
def _refuse_packing(archive: Path, members: list[zipfile.ZipInfo]):
    "Raise ValueError for an intact zip that is packed in a way that Python cannot read."
    again = "unpack it with another program and give the folder, or pack it again as a plain zip"
    known = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
    known.add(getattr(zipfile, "ZIP_ZSTANDARD", zipfile.ZIP_STORED))
    for member in members:
        if member.flag_bits & 1:
            raise ValueError(
                f"{archive}: member {member.filename!r} is encrypted with a password: {again},"
                " without a password"
            )
        if member.compress_type not in known:
            names = {9: "Deflate64, as Windows does for more than 2 GB"}
            method = names.get(member.compress_type, f"method {member.compress_type}")
            raise ValueError(
                f"{archive}: member {member.filename!r} is compressed with {method}, which Python"
                f" cannot read: {again} (7-Zip: method Deflate)"
            )


# %%
with zipfile.ZipFile(tmp / "plain.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
    zipped.writestr("a.txt", "hello")
    plain = zipped.infolist()
assert _refuse_packing(tmp / "plain.zip", plain) is None
for field, value, said in (
    ("compress_type", 9, "compressed with Deflate64"),
    ("compress_type", 97, "compressed with method 97"),
    ("flag_bits", 1, "encrypted with a password"),
):
    odd = zipfile.ZipInfo("a.txt")
    setattr(odd, field, value)
    try:
        _refuse_packing(tmp / "odd.zip", [*plain, odd])
    except ValueError as e:
        say(e)
        assert said in str(e)
    else:
        raise AssertionError(f"{field} = {value} was accepted")


# %% [markdown]
# Older Windows programs write backslashes into the names. They are read as folder separators.

# %%
#| export
def _extract_zip(archive: Path, folder: Path, progress: bool):
    "Unpack a zip, checking each member first, with the times that it gives."
    with zipfile.ZipFile(archive) as zipped:
        _refuse_packing(archive, zipped.infolist())
        for member in tqdm(
            zipped.infolist(), f"unpacking {archive.name}", unit=" files", disable=not progress
        ):
            _refuse(archive, member.filename, not stat.S_ISLNK(member.external_attr >> 16))
            member.filename = member.filename.replace("\\", "/")
            modified = time.mktime((*member.date_time, 0, 0, -1))
            os.utime(zipped.extract(member, folder), (modified, modified))


# %%
def zip_of(name, mode=stat.S_IFREG):
    "A zip of one small file of the year 2001."
    member = zipfile.ZipInfo(name, (2001, 9, 9, 1, 46, 40))
    member.external_attr = mode << 16
    with zipfile.ZipFile(tmp / "some.zip", "w") as zipped:
        zipped.writestr(member, "hello")
    return tmp / "some.zip"


_extract_zip(zip_of("set/a.txt"), tmp / "from-zip", progress=False)
time.localtime((tmp / "from-zip/set/a.txt").stat().st_mtime)[:6]

# %%
assert (tmp / "from-zip/set/a.txt").read_text() == "hello" and time.localtime(
    (tmp / "from-zip/set/a.txt").stat().st_mtime
)[:6] == (2001, 9, 9, 1, 46, 40)
_extract_zip(zip_of("set\\b.txt"), tmp / "from-windows", progress=False)
assert (tmp / "from-windows/set/b.txt").read_text() == "hello"
for name, mode in (("../out.txt", stat.S_IFREG), ("link", stat.S_IFLNK)):
    try:
        _extract_zip(zip_of(name, mode), tmp / "bad", progress=False)
    except ValueError as e:
        say(e)
    else:
        raise AssertionError(f"{name} was unpacked")


# %% [markdown]
# The content decides whether an archive is a tar or a zip, because names can be wrong. The most
# frequent fault is a truncated download. Each library raises a different error for it, so the
# errors are unified here.

# %%
#| export
def _extract(archive: Path, folder: Path, progress: bool):
    "Unpack a tar or a zip. Raises: ValueError with the name of a damaged one."
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, folder, progress)
        elif tarfile.is_tarfile(archive):
            _extract_tar(archive, folder, progress)
        else:
            raise ValueError(
                f"{archive}: neither a tar nor a zip archive, or damaged at its start: fetch it"
                " again"
            )
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        RuntimeError,
        OSError,
    ) as e:
        if isinstance(e, OSError) and e.errno:
            raise  # not a fault of the archive, e.g. a full disk
        raise ValueError(
            f"{archive}: the archive is damaged or incomplete ({e}): fetch it again"
        ) from e


# %%
noise = np.random.default_rng(0).bytes(50_000)
with tarfile.open(tmp / "long.tar.gz", "w:gz") as tar:
    member = tarfile.TarInfo("long.bin")
    member.size = len(noise)
    tar.addfile(member, io.BytesIO(noise))
(tmp / "cut.tar.gz").write_bytes((tmp / "long.tar.gz").read_bytes()[:30_000])
(tmp / "page.zip").write_text("<html>please log in</html>")
for name in ("cut.tar.gz", "page.zip"):
    try:
        _extract(tmp / name, tmp / "bad", progress=False)
    except ValueError as e:
        say(e)
    else:
        raise AssertionError(f"{name} was unpacked")

# %%
with tarfile.open(tmp / "two.tar", "w") as tar:
    for name in "ab":
        member = tarfile.TarInfo(name)
        member.size = 600
        tar.addfile(member, io.BytesIO(bytes(600)))
whole, packed = (tmp / "two.tar").read_bytes(), (tmp / "long.tar.gz").read_bytes()
damaged = {
    "header.tar": whole[:1536] + b"x" + whole[1537:],
    "boundary.tar": whole[:1536],
    "sum.tar.gz": packed[:-8] + b"bad!" + packed[-4:],
    "middle.tar.gz": packed[:25_000] + b"damage" + packed[25_006:],
    "middle.tar.xz": lzma.compress(whole)[:80] + b"damage" * 3,
}
for name, content in damaged.items():
    (tmp / name).write_bytes(content)
    try:
        _extract(tmp / name, tmp / "bad", progress=False)
    except ValueError as e:
        say(e)
        assert name in str(e)
    else:
        raise AssertionError(f"{name} was unpacked")

# %%
zip_of("a.txt").rename(tmp / "really-a-zip.tar")
for archive, name in ((tmp / "really-a-zip.tar", "a.txt"), (tmp / "long.tar.gz", "long.bin")):
    _extract(archive, tmp / "either", progress=False)
    assert (tmp / "either" / name).is_file()


# %% [markdown]
# ## Completely or not at all
#
# The archive is unpacked into a temporary folder, which is marked and renamed at the end. So a set
# is never half unpacked, and a second call finds the marker and does nothing. If two processes
# start together, both unpack. The second rename fails, and the first copy is used.

# %%
#| export
def _is_made(target: Path, source: str) -> bool:
    """Whether the folder exists and is marked as complete. Raises: FileExistsError if it exists
    without the mark.
    """
    if (target / ".unpacked").exists():
        return True
    if target.exists():
        raise FileExistsError(
            f"{target}: this folder exists but was not unpacked from {source}: move it, or read it"
            " as a folder"
        )
    return False


# %%
(tmp / "by-hand").mkdir()
try:
    _is_made(tmp / "by-hand", "good.zip")
except FileExistsError as e:
    say(e)
else:
    raise AssertionError("somebody's own folder was taken for an unpacked one")
(tmp / "by-hand/.unpacked").touch()
assert _is_made(tmp / "by-hand", "good.zip") and not _is_made(tmp / "not-there", "good.zip")


# %%
#| export
def make_once(
    target: Path,  # The folder to make
    source: str,  # Name of the source, for the marker and the error
    fill: Callable[[Path], None],  # Writes the content into the folder that it is given
):
    """Make a folder completely or not at all: `fill` writes to a temporary folder, which is then
    renamed to the target.
    """
    if _is_made(target, source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fill(temp)
        (temp / ".unpacked").write_text(f"{source}\n", encoding="utf-8")
        temp.chmod(0o755)
        temp.rename(target)
    except OSError:
        # else another process was faster, and its copy is used
        if not (target / ".unpacked").exists():
            raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)


# %%
make_once(tmp / "made/one", "a source", lambda folder: (folder / "a.txt").write_text("mine"))
sorted(p.name for p in (tmp / "made/one").iterdir())

# %%
make_once(tmp / "made/one", "a source", lambda folder: 1 / 0)  # the second call does nothing
# as any folder
assert (
    sorted(p.name for p in (tmp / "made/one").iterdir()) == [".unpacked", "a.txt"]
    and (tmp / "made/one").stat().st_mode & 0o777 == 0o755
)


def faster(folder):
    "Somebody else finishes the same folder in the meantime."
    (tmp / "made/two").mkdir()
    (tmp / "made/two/.unpacked").write_text("theirs")


make_once(tmp / "made/two", "a source", faster)


def full_disk(folder):
    (folder / "a.txt").write_text("half")
    raise OSError("no space left")


(tmp / "made/four").mkdir()
for name, fill, error in (("three", full_disk, OSError), ("four", faster, FileExistsError)):
    try:
        make_once(tmp / "made" / name, "a source", fill)
    except error as e:
        say(e)
    else:
        raise AssertionError("half a folder was made")
# nothing stays behind
assert (tmp / "made/two/.unpacked").read_text() == "theirs" and sorted(
    p.name for p in (tmp / "made").iterdir()
) == ["four", "one", "two"]


# %%
#| export
def unpack(
    archive: str | Path,  # A .tar, .tar.gz or .zip
    target: str | Path,  # The folder to unpack it to
    progress: bool = True,  # Show a progress bar
) -> Path:  # The target
    """Unpack an archive, safely and only once. Raises: FileNotFoundError, FileExistsError,
    ValueError (unsafe or damaged archive).
    """
    archive, target = Path(archive), Path(target)
    if not (target / ".unpacked").exists() and not archive.is_file():
        raise FileNotFoundError(f"{archive}: no such archive")
    make_once(target, archive.name, lambda folder: _extract(archive, folder, progress))
    return target


# %% [markdown]
# A zip of one file. The second call does not touch the folder, even if a file has changed.

# %%
with zipfile.ZipFile(tmp / "good.zip", "w") as z:
    z.writestr("set/a.txt", "hello")
where = unpack(tmp / "good.zip", tmp / "good", progress=False)
sorted(p.relative_to(where).as_posix() for p in where.rglob("*"))

# %%
assert (where / "set/a.txt").read_text() == "hello"
(where / "set/a.txt").write_text("mine")
assert (unpack(tmp / "good.zip", tmp / "good", progress=False) / "set/a.txt").read_text() == "mine"
try:
    unpack(tmp / "gone.zip", tmp / "gone")
except FileNotFoundError as e:
    say(e)
    told = str(e)
else:
    raise AssertionError("an archive was unpacked that is not there")
assert "no such archive" in told
(tmp / "good.zip").rename(tmp / "elsewhere.zip")
# unpacked already, and the archive is gone
assert unpack(str(tmp / "good.zip"), str(tmp / "good")) == where
(tmp / "elsewhere.zip").rename(tmp / "good.zip");

# %% [markdown]
# Archives that try to leave the folder, as zip and as tar, some after a good file, and one that
# stops halfway. Each is refused and leaves nothing behind.

# %%
fine = ("fine.txt", tarfile.REGTYPE)
before = sorted(p for p in tmp.iterdir() if not p.name.startswith("some."))
for make in [
    lambda: tar_of(fine, ("../out.txt", tarfile.REGTYPE)),
    lambda: tar_of(fine, ("link", tarfile.SYMTYPE)),
    lambda: zip_of("../out.txt"),
    lambda: tmp / "cut.tar.gz",
]:
    try:
        unpack(make(), tmp / "refused", progress=False)
    except ValueError as e:
        say(e)
    else:
        raise AssertionError("a bad archive was unpacked")
assert (
    sorted(p for p in tmp.iterdir() if not p.name.startswith("some.")) == before
    and not (tmp.parent / "out.txt").exists()
)

# %% [markdown]
# ## The folder of a set
#
# A reader takes a folder as it is. An archive is unpacked below the data root. The folder's name
# holds a hash of the archive's size and time, so a new version of the archive gets a new folder.

# %%
#| export
SOURCES = dict(
    utkface=(
        "UTKFace ('aligned & cropped faces', UTKFace.tar.gz) is at"
        " https://susanqq.github.io/UTKFace/"
    ),
    fairface=(
        "FairFace (the images of one padding and the two label CSVs) is at"
        " https://github.com/joojs/fairface"
    ),
    celeba=(
        "CelebA (img_align_celeba.zip, Anno/list_attr_celeba.txt, Anno/identity_CelebA.txt,"
        " Eval/list_eval_partition.txt) is at https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    ),
    people=(
        "The ImageNet images are at https://image-net.org/ (an account is needed), the person"
        " subtree's synsets_safety.csv and imageability_scores.csv at"
        " https://image-net.org/filtering-and-balancing/, its demographics on request from there"
    ),
)

# the names of all sets; "folder" is your own
DATASETS = ("synthetic", *SOURCES, "folder")


def _mark(archive: Path) -> str:
    "Eight hexadecimal digits, a hash of the archive's size and time."
    info = archive.stat()
    return hashlib.sha256(f"{info.st_size} {info.st_mtime_ns}".encode()).hexdigest()[:8]


# %%
(tmp / "set.zip").write_text("the first edition")
marks = [_mark(tmp / "set.zip")]
os.utime(tmp / "set.zip", (10**9, 10**9))
marks.append(_mark(tmp / "set.zip"))
(tmp / "set.zip").write_text("longer by a little")
os.utime(tmp / "set.zip", (10**9, 10**9))
marks.append(_mark(tmp / "set.zip"))
marks[1:]

# %%
# another time, another size
assert (
    len(set(marks)) == 3
    and all(len(mark) == 8 for mark in marks)
    and _mark(tmp / "set.zip") == marks[2]
)


# %%
#| export
def open_set(
    path: str | Path,  # A folder or an archive
    data_root: str | Path,  # Archives are unpacked in its folder 'unpacked'
    name: str = "",  # The set's name, for the error's advice
    progress: bool = True,  # Show a progress bar
) -> Path:  # The folder
    "The folder of a set, unpacked if need be. Raises: FileNotFoundError, and what `unpack` raises."
    path = Path(path)
    if path.is_dir():
        return path
    source = SOURCES.get(name, "Give a folder, a tar or a zip")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or archive. {source}; see data/README.md")
    return unpack(
        path, Path(data_root) / "unpacked" / f"{path.name.split('.')[0]}-{_mark(path)}", progress
    )


# %%
opened = open_set(tmp / "good.zip", tmp / "data", progress=False)
print(opened.relative_to(tmp).as_posix())
assert (
    open_set(tmp / "good.zip", tmp / "data", progress=False) == opened
    and (opened / "set/a.txt").exists()
)
assert open_set(tmp, tmp / "data") == tmp
try:
    open_set(tmp / "UTKFace", tmp / "data", "utkface")
except FileNotFoundError as e:
    say(e)
    told = str(e)
else:
    raise AssertionError("a missing folder was opened")
assert (
    SOURCES["utkface"] in told
    and "data/README.md" in told
    and open_set(str(tmp), tmp / "data") == tmp
)
