# %% [markdown]
# # Cache
#
# > Decode images once and keep them as bytes, in a file that is complete or does not exist

# %%
#| default_exp data.cache

# %%
#| export
import errno
import hashlib
import json
import math
import os
import shutil
import warnings
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fairgrape.data.tables import FaceData
from fairgrape.training.files import cores, lock, write_json, writing

# %%
import tempfile
import time
from dataclasses import replace
from unittest.mock import patch

import pandas as pd

from fairgrape.training.files import held

tmp = Path(tempfile.mkdtemp())

# %% [markdown]
# A pruning run reads the images dozens of times. Decoding and resizing a JPEG costs more than a
# whole training step of a small network at 64 px, and gives the same bytes each time. So it is done
# once, at the working resolution, into a file that later epochs and runs map into memory.
# [Loaders](19_loaders.ipynb) and [transforms](18_transforms.ipynb) make batches from it.

# %% [markdown]
# ## The file's name
#
# The file's name contains a hash of everything that decides its bytes: the source files, the rows
# and their order, the size, and the version of this format. Any change gives another file, so a
# stale cache cannot be used by mistake. Labels are not part of the hash, so another task on the
# same images finds the same pixels.

# %%
#| export
CACHE_VERSION = 3  # Raise it when `decode_image` or the layout changes


def cache_key(
    data: FaceData,  # The set; all rows of its table are cached
    size: int,  # Side of the squares, pixels
) -> str:  # 16 hexadecimal digits
    "A hash of everything that decides a cache's bytes: source files, rows, size and format."
    rows = hashlib.sha256(
        "\n".join(data.table["path"] + "\t" + data.table["photo"].astype(str)).encode()
    ).hexdigest()
    return hashlib.sha256(f"{CACHE_VERSION} {data.key} {rows} {size}".encode()).hexdigest()[:16]


# %% [markdown]
# The example is a set without files: 300 plain grey images, whose loader records its calls.

# %%
calls = []


def flat(rows, size):
    "Image i is grey (7 i mod 256)."
    calls.append(len(rows))
    return np.stack([np.full((3, size, size), 7 * i % 256, np.uint8) for i in rows.index])


table = pd.DataFrame(
    dict(
        path="",
        photo=[f"p{i}" for i in range(300)],
        look=pd.Categorical.from_codes(np.arange(300) % 3, ["dark", "mid", "light"]),
    )
)
faces = FaceData("flat", None, table, flat, key="v1")
cache_key(faces, 16), cache_key(faces, 32)

# %%
assert cache_key(faces, 16) != cache_key(faces, 32)
assert cache_key(replace(faces, key="v2"), 16) != cache_key(faces, 16)  # a changed source file
assert cache_key(replace(faces, table=table[:9]), 16) != cache_key(faces, 16)  # other rows
assert cache_key(replace(faces, table=table[::-1]), 16) != cache_key(faces, 16)  # another order
# other labels
assert cache_key(replace(faces, table=table.drop(columns="look")), 16) == cache_key(faces, 16)


# %% [markdown]
# ## Writing a complete file or none
#
# A run may be killed while it writes, the disk may fill up, or an image may be damaged. In each
# case no partial cache may remain that a later run takes for a complete one. So the bytes are
# written to a file of another name, flushed with `fsync`, and renamed. Last comes a small JSON with
# shape and checksum. A file without that JSON does not count as a cache.
#
# Several threads decode (PIL releases the lock). The chunks come back in order, at most a few of
# them ahead of the writer, which limits the memory.

# %%
#| export
def _chunks(data: FaceData, size: int, threads: int, rows: int) -> Iterator[np.ndarray]:
    """The pixels of the whole table in order, chunk by chunk, loaded in threads a few chunks
    ahead.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        try:
            for start in range(0, len(data.table), rows):
                waiting.append(pool.submit(data.load, data.table.iloc[start : start + rows], size))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for job in waiting:
                job.cancel()


# %%
[len(chunk) for chunk in _chunks(faces, 8, threads=2, rows=128)]


# %% [markdown]
# The chunks follow the order of the table's rows, even if a thread finishes before an earlier one.
# Taking only the first chunk loads no more than the few ahead of it.

# %%
def uneven(rows, size):
    time.sleep(0.02 if rows.index[0] == 0 else 0)
    return flat(rows, size)


assert (
    np.concatenate(list(_chunks(replace(faces, load=uneven), 8, 4, rows=10)))[:, 0, 0, 0]
    == 7 * np.arange(300) % 256
).all()
calls.clear()
chunks = _chunks(faces, 8, threads=2, rows=1)
next(chunks)
until = time.monotonic() + 60
while len(calls) < 2 * 2 + 1 and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.1)  # none comes after them
assert len(calls) == 2 * 2 + 1
chunks.close()


# %% [markdown]
# The disk space is reserved before the first image is decoded, so a full disk raises an error at
# once, not after an hour.

# %%
#| export
def _reserve(file, bytes_needed: int):
    "Reserve the disk space if the system can, else check that it is free."
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, bytes_needed)
    elif shutil.disk_usage(Path(file.name).parent).free < bytes_needed:
        raise OSError(errno.ENOSPC, "No space left on device")


# %%
with open(tmp / "room", "wb") as file:
    _reserve(file, 12_345)
    try:
        _reserve(file, 2**60)
    except OSError as e:
        print(errno.errorcode[e.errno])
    else:
        raise AssertionError("an exabyte was promised")
assert (tmp / "room").stat().st_size == 12_345 * hasattr(os, "posix_fallocate")
with open(tmp / "room", "wb") as file, patch("os.posix_fallocate", create=True):
    del os.posix_fallocate  # as on Windows
    _reserve(file, 12_345)
    try:
        _reserve(file, 2**60)
    except OSError as e:
        assert e.errno == errno.ENOSPC
    else:
        raise AssertionError("an exabyte was promised")


# %%
#| export
def _write_pixels(part: Path, data: FaceData, size: int, threads: int, progress: bool) -> int:
    "Write all pixels to a new file, and return their checksum."
    crc, bytes_needed = 0, len(data.table) * 3 * size * size
    bar = tqdm(
        total=len(data.table),
        desc=f"{data.name}: images to {size} px",
        unit=" images",
        disable=not progress,
    )
    with open(part, "wb") as file, bar:
        _reserve(file, bytes_needed)
        for pixels in _chunks(
            data, size, threads, rows=max(1, min(256, 2**22 // (3 * size * size)))
        ):
            file.write(np.ascontiguousarray(pixels))
            crc = zlib.crc32(np.ascontiguousarray(pixels), crc)
            bar.update(len(pixels))
        if file.tell() != bytes_needed:
            raise ValueError(
                f"{data.name}: its loader gave {file.tell():,} bytes instead of {bytes_needed:,}"
            )
    return crc


# %% [markdown]
# The file has 300 images of 3 · 8 · 8 bytes, image 5 is grey 35, and the number of threads changes
# nothing. The space is reserved when the first image is loaded. A chunk has at most 256 images and
# 4 MiB.

# %%
crc = _write_pixels(tmp / "x.part", faces, 8, threads=2, progress=False)
(tmp / "x.part").stat().st_size, f"{crc:08x}"

# %%
written = np.fromfile(tmp / "x.part", np.uint8).reshape(300, 3, 8, 8)
assert (written[5] == 35).all() and (written[299] == 7 * 299 % 256).all()
assert (
    zlib.crc32(written) == crc == _write_pixels(tmp / "x.part", faces, 8, threads=4, progress=False)
)
seen = []


def looking(rows, size):
    seen.append((tmp / "x.part").stat().st_size)
    return flat(rows, size)


calls.clear()
_write_pixels(tmp / "x.part", replace(faces, load=looking), 8, 1, False)
assert seen == [300 * 3 * 8 * 8] * 2 and calls == [256, 44]
_write_pixels(tmp / "large.part", replace(faces, table=table[:7]), 512, 1, False)
assert calls[2:] == [5, 2]  # 2^22 / (3 · 512 · 512) = 5.3
try:
    _write_pixels(
        tmp / "short.part",
        replace(faces, load=lambda rows, size: flat(rows, size)[:, :1]),
        8,
        1,
        False,
    )
except ValueError as e:
    print(e)
else:
    raise AssertionError("grey images were taken for coloured ones")

# %% [markdown]
# Two processes may need the same cache at the same time. Each folder has one lock: the second
# process waits and then finds the cache. The holder of the lock also deletes the leftovers of a
# killed writer.

# %%
#| export
# the errors of a system or a network disk without locks
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def _locked(folder: Path):
    """Hold the folder's lock; on systems or disks without locks, go on without it (the rename is
    still safe).
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(folder / ".lock"))
        except (NotImplementedError, OSError) as e:
            if isinstance(e, OSError) and e.errno not in _NO_LOCKS:
                raise
        else:
            for left in folder.glob(".*.part"):
                left.unlink(missing_ok=True)
        yield


# %%
(tmp / ".old.part").write_bytes(b"left by a killed writer")
with _locked(tmp):
    within = held(tmp / ".lock"), (tmp / ".old.part").exists()
print(within, held(tmp / ".lock"))
assert within == (True, False) and not held(tmp / ".lock")
(tmp / ".old.part").write_bytes(b"perhaps somebody's who writes just now")
with patch("filelock.FileLock.acquire", side_effect=OSError(errno.ENOLCK, "no locks")):
    with _locked(tmp):
        assert (tmp / ".old.part").exists()
with patch("filelock.FileLock.acquire", side_effect=PermissionError(errno.EACCES, "barred")):
    try:
        with _locked(tmp):
            raise AssertionError("a folder that cannot be written was passed over")
    except PermissionError as e:
        print(e)
(tmp / ".old.part").unlink()

# %% [markdown]
# "No space left on device" says neither which device nor how much space. So errors of the disk are
# raised again with the folder, the space needed, and what to do.

# %%
#| export
# the disk is full, the quota is used up, the file is too large
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _refusal(e: OSError, folder: Path, bytes_needed: int) -> OSError:
    "The error to raise instead of the disk's error `e`."
    advice = "choose a folder that you may write to"
    if e.errno in _FULL:
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        advice = (
            f"it needs {bytes_needed:,} bytes and {shutil.disk_usage(there).free:,} are free: "
            "free some space, use a smaller image_size or limit, or put the cache on another disk"
        )
    return type(e)(
        e.errno, f"the image cache cannot be written to {folder} ({os.strerror(e.errno)}); {advice}"
    )


# %%
full = _refusal(
    OSError(errno.ENOSPC, "No space left on device"), tmp / "cache" / "of" / "mine", 12_000_000
)
print(str(full).replace(str(tmp), "…").split(" and ")[0], "…")
assert (
    full.errno == errno.ENOSPC
    and "12,000,000 bytes" in str(full)
    and "smaller image_size" in str(full)
)
barred = _refusal(PermissionError(errno.EACCES, "Permission denied"), tmp, 1)
assert isinstance(barred, PermissionError) and str(barred).endswith(
    "(Permission denied); choose a folder that you may write to"
)


# %% [markdown]
# Not every `OSError` comes from the disk that is written to. A loader may raise one about an image.
# Such an error has no `filename` and passes unchanged.

# %%
#| export
@contextmanager
def _disk_errors(folder: Path, bytes_needed: int):
    "Raise errors of the disk again, with the folder and the sizes."
    try:
        yield
    except OSError as e:
        if e.errno not in _FULL and e.filename is None:
            raise  # not the disk: an image, a loader
        raise _refusal(e, folder, bytes_needed) from e


# %%
def told(error):
    try:
        with _disk_errors(tmp, 12_000_000):
            raise error
    except OSError as e:
        return str(e).replace(str(tmp), "…")


told(PermissionError(errno.EACCES, "Permission denied", "a file"))

# %%
assert "cannot be written to …" in told(
    PermissionError(errno.EACCES, "Permission denied", "a file")
) and "12,000,000" in told(OSError(errno.ENOSPC, "full"))
assert (
    told(OSError("280.jpg is damaged")) == "280.jpg is damaged"
    and told(OSError(errno.EIO, "the loader's own")) == f"[Errno {errno.EIO}] the loader's own"
)


# %% [markdown]
# ## Reading the cache
#
# A cache exists if its JSON exists and the file has the size that the JSON gives.

# %%
#| export
def _map(path: Path) -> tuple[np.memmap | None, int]:
    """The pixels, mapped read-only, and their expected checksum; None if there is no cache of the
    right size.
    """
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None, 0
    if not path.exists() or path.stat().st_size != math.prod(about["shape"]):
        return None, 0
    return np.memmap(path, np.uint8, "r", shape=tuple(about["shape"])), about["crc32"]


# %%
(tmp / "x.part").rename(tmp / "x.u8")
without = _map(tmp / "x.u8")[0]  # no JSON, no cache
(tmp / "x.json").write_text(json.dumps(dict(shape=[300, 3, 8, 8], crc32=crc)))
without, _map(tmp / "x.u8")[0].shape

# %%
assert (
    without is None
    and _map(tmp / "x.u8")[1] == crc
    and not _map(tmp / "x.u8")[0].flags.writeable
    and (_map(tmp / "x.u8")[0] == written).all()
)
(tmp / "y.json").write_text(json.dumps(dict(shape=[300, 3, 8, 8], crc32=crc)))
assert _map(tmp / "y.u8")[0] is None  # JSON, but no pixels
# too short
(tmp / "y.u8").write_bytes((tmp / "x.u8").read_bytes()[:-1])
assert _map(tmp / "y.u8")[0] is None
(tmp / "y.json").write_text("{")
assert _map(tmp / "y.u8")[0] is None and _map(tmp / "x.u8" / "z.u8")[0] is None


# %% [markdown]
# The checksum is computed piece by piece, so a cache larger than memory can be checked. A cache
# that fails the check is written again.

# %%
#| export
def open_cache(
    path: str | Path,  # The cache file; its JSON lies next to it
    verify: bool = True,  # Also compute the checksum: reads the file once
) -> np.memmap | None:  # uint8 (N, 3, size, size), read-only; None if there is no complete cache
    "Map a cache into memory if it exists and is complete. Warns: wrong checksum."
    pixels, expected = _map(Path(path))
    if pixels is None or not verify:
        return pixels
    crc, rows = 0, max(1, 2**24 // math.prod(pixels.shape[1:]))
    for start in range(0, len(pixels), rows):
        crc = zlib.crc32(pixels[start : start + rows], crc)
    if crc == expected:
        return pixels
    warnings.warn(f"{path}: the checksum is wrong, so this cache is written again", stacklevel=2)


# %%
open_cache(tmp / "x.u8").shape

# %%
changed = bytearray((tmp / "x.u8").read_bytes())
changed[100] ^= 1
(tmp / "x.u8").write_bytes(changed)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert open_cache(tmp / "x.u8", verify=False).shape == (300, 3, 8, 8) and not caught
    assert open_cache(tmp / "x.u8") is None and "checksum" in str(caught[0].message)
assert open_cache(tmp / "y.u8") is None
large = np.arange(17 * 2**20, dtype=np.uint32).astype(np.uint8)  # 17 MiB: two pieces
large.tofile(tmp / "z.u8")
(tmp / "z.json").write_text(json.dumps(dict(shape=[17, 1, 1024, 1024], crc32=zlib.crc32(large))))
assert len(open_cache(str(tmp / "z.u8"))) == 17


# %% [markdown]
# ## Building the cache
#
# An old JSON is deleted before the new pixels get their name, and the new JSON is written after
# that. So a JSON never describes pixels of another cache.

# %%
#| export
def _build(path: Path, data: FaceData, size: int, threads: int, progress: bool):
    "Write the cache and its JSON, each under a temporary name first."
    with writing(path) as part:
        crc = _write_pixels(part, data, size, threads, progress)
        path.with_suffix(".json").unlink(missing_ok=True)
    shape = [len(data.table), 3, size, size]
    about = dict(set=data.name, shape=shape, crc32=crc, version=CACHE_VERSION)
    write_json(path.with_suffix(".json"), about)


# %%
(tmp / "own").mkdir()
with patch("os.fsync", wraps=os.fsync) as forced:
    _build(tmp / "own" / "flat.u8", faces, 8, threads=1, progress=False)
json.loads((tmp / "own" / "flat.json").read_text())

# %%
assert json.loads((tmp / "own" / "flat.json").read_text()) == dict(
    set="flat", shape=[300, 3, 8, 8], crc32=crc, version=CACHE_VERSION
)
assert forced.call_count == 4  # both files, and the folder's list of names after each
assert (
    sorted(p.name for p in (tmp / "own").iterdir()) == ["flat.json", "flat.u8"]
    and (open_cache(tmp / "own" / "flat.u8") == written).all()
)


def gone(rows, size):
    raise ValueError("no image")


try:
    _build(tmp / "own" / "flat.u8", replace(faces, load=gone), 8, 1, False)
# the old one stands
except ValueError:
    assert (
        open_cache(tmp / "own" / "flat.u8") is not None and len(list((tmp / "own").iterdir())) == 2
    )
else:
    raise AssertionError("a cache of nothing was written")


# %% [markdown]
# Below 8 pixels a face is not recognisable, and a set without rows has no bytes to map. Both are
# mistakes in the settings.

# %%
#| export
def _cache_path(data: FaceData, size: int, root: Path) -> Path:
    "The path of a set's cache. Raises: ValueError (size too small, set without images)."
    if size < 8:
        raise ValueError(f"image_size = {size}: choose at least 8 pixels")
    if not len(data.table):
        raise ValueError(f"{data.name}: no images to cache: choose a set or classes with images")
    return root / f"{data.name}-{size}px-{cache_key(data, size)}.u8"


# %%
for bad in (
    lambda: _cache_path(faces, 7, tmp),
    lambda: _cache_path(replace(faces, table=table[:0]), 16, tmp),
):
    try:
        bad()
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("a cache of nothing was named")
assert _cache_path(faces, 8, tmp) == tmp / f"flat-8px-{cache_key(faces, 8)}.u8"


# %% [markdown]
# Once the lock is held, the cache is looked for again, because another process may have built it
# meanwhile.

# %%
#| export
def image_cache(
    data: FaceData,  # The set; all rows of its table are cached
    size: int,  # Side of the squares, pixels
    cache_root: str | Path,  # The folder for caches
    progress: bool = True,  # Show a progress bar
    threads: int = 0,  # Decoding threads; 0 means one per available core
    verify: bool = True,  # Check the checksum of an existing cache
) -> np.memmap:  # uint8 (N, 3, size, size), read-only; row i is row i of the table
    """The images of a set as one array on disk, decoded now or earlier. Raises: ValueError
    (damaged image), OSError (disk full, not writable).
    """
    path = _cache_path(data, size, root := Path(cache_root))
    if (pixels := open_cache(path, verify)) is not None:
        return pixels
    with _disk_errors(root, len(data.table) * 3 * size * size):
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            if open_cache(path, verify) is None:
                _build(path, data, size, threads or cores(), progress)
    return open_cache(path, verify)


# %%
calls.clear()
pixels = image_cache(faces, 16, tmp / "cache", progress=False)
pixels.shape, sorted(p.name for p in (tmp / "cache").iterdir())

# %% [markdown]
# The second call loads no image.

# %%
assert sum(calls) == 300 and (pixels[5] == 35).all()
again = image_cache(faces, 16, tmp / "cache", progress=False)
assert sum(calls) == 300 and (again == pixels).all() and not again.flags.writeable
(tmp / "cache" / ".lock").unlink()
# nothing is locked, so the folder may be read-only
assert image_cache(faces, 16, tmp / "cache") is not None and not (tmp / "cache" / ".lock").exists()
stored = next((tmp / "cache").glob("*.u8"))
stored.write_bytes(b"\x00" + stored.read_bytes()[1:-1] + b"\x00")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    again = image_cache(faces, 16, tmp / "cache", progress=False)
# a damaged cache is written again
assert (
    sum(calls) == 600
    and (again[:, 0, 0, 0] == 7 * np.arange(300) % 256).all()
    and (again[299] == 45).all()
)


# %% [markdown]
# A damaged image stops the build, and leaves neither a cache nor a temporary file.

# %%
def damaged(rows, size):
    if 280 in rows.index:
        raise ValueError("280.jpg: this image cannot be decoded")
    return flat(rows, size)


try:
    image_cache(replace(faces, load=damaged, key="v3"), 16, tmp / "cache2", progress=False)
except ValueError as e:
    print(e)
else:
    raise AssertionError("a damaged image was cached")
assert [p.name for p in (tmp / "cache2").iterdir()] == [".lock"]

# %%
(tmp / "file").write_text("")
try:
    image_cache(faces, 16, tmp / "file" / "cache", progress=False)
except OSError as e:
    print(str(e).replace(str(tmp), "…"))
else:
    raise AssertionError("a cache below a file was written")
