# %% [markdown]
# # Cache
#
# > Images are decoded once, kept as bytes, and made into batches that are augmented on the device

# %%
#| default_exp cache

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastcore.basics import patch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2
from tqdm import tqdm

from fairgrape.data import SPLITS, FaceData, codes

# %%
import tempfile
import time
import matplotlib.pyplot as plt
tmp = Path(tempfile.mkdtemp())

# %% [markdown]
# A pruning run goes through the images some dozens of times. Decoding a JPEG and resizing it costs more than a small network's whole step at 64 px, and it gives the same
# bytes each time. So it is done once, at the working resolution, into a file that later epochs and later runs map into memory.
#
# ## What the file is called
#
# The file's name carries a hash of everything that decides its bytes: the source files, which of them in which order, the size, and a version of this format. Whatever changes makes another file, so a stale cache
# cannot be used by mistake. Labels are not part of it: another task on the same images finds the same pixels.

# %%
#| export
CACHE_VERSION = 1 # Raise it when `decode_image` or the layout changes

def cache_key(
    data: FaceData, # The set; all rows of its table are cached
    size: int,      # Side of the squares, pixels
) -> str:           # 16 hexadecimal digits
    "What decides the bytes of a cache: source files, rows, size and format."
    rows = hashlib.sha256("\n".join(data.table["path"] + "\t" + data.table["photo"].astype(str)).encode()).hexdigest()
    return hashlib.sha256(f"{CACHE_VERSION} {data.key} {rows} {size}".encode()).hexdigest()[:16]


# %% [markdown]
# A set without files, 300 images of 3 grey levels and 3 groups, whose loader counts its calls.

# %%
calls = []
def flat(rows, size):
    "Image i is grey (7 i mod 256)."
    calls.append(len(rows))
    return np.stack([np.full((3, size, size), 7 * i % 256, np.uint8) for i in rows.index])

table = pd.DataFrame(dict(path="", photo=[f"p{i}" for i in range(300)],
                          look=pd.Categorical.from_codes(np.arange(300) % 3, ["dark", "mid", "light"]),
                          tone=pd.Categorical.from_codes(np.array([0, 0, 0, 0, 0, 1, 1, 2, 0, 1])[np.arange(300) % 10],
                                                         ["tone-1", "tone-2", "tone-3"])))
faces = FaceData("flat", None, table, flat, key="v1")
cache_key(faces, 16), cache_key(faces, 32)

# %%
assert cache_key(faces, 16) != cache_key(faces, 32)
assert cache_key(replace(faces, key="v2"), 16) != cache_key(faces, 16)                                    # a changed source file
assert cache_key(replace(faces, table=table[:9]), 16) != cache_key(faces, 16)                             # other rows
assert cache_key(replace(faces, table=table.drop(columns="tone")), 16) == cache_key(faces, 16)            # other labels


# %% [markdown]
# ## Writing it, or not at all
#
# A run may be killed while it writes, the disk may fill up, an image may be damaged. In none of these may a half cache remain that a later run takes for a whole one. So the bytes go to
# a file of another name. Its room is reserved before the first image is decoded: a full disk says so at once and not after an hour. Then comes the data, then `fsync`, then the rename, and last
# a small JSON beside it with shape and checksum. A cache without that JSON does not exist.
#
# Decoding runs in several threads (PIL releases the lock) and the chunks come back in order, a few ahead of the writer and no more, so memory stays small.

# %%
#| export
def _chunks(data: FaceData, size: int, threads: int, rows: int) -> Iterator[np.ndarray]:
    "The pixels of the whole table in order, chunk by chunk, loaded in threads that stay a little ahead."
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        try:
            for start in range(0, len(data.table), rows):
                waiting.append(pool.submit(data.load, data.table.iloc[start:start + rows], size))
                if len(waiting) > 2 * threads: yield waiting.popleft().result()
            while waiting: yield waiting.popleft().result()
        finally:
            for job in waiting: job.cancel()

def _reserve(file, bytes_needed: int):
    "Take the room on the disk now, where the system can promise it."
    if hasattr(os, "posix_fallocate"): os.posix_fallocate(file.fileno(), 0, bytes_needed)
    elif shutil.disk_usage(Path(file.name).parent).free < bytes_needed: raise OSError(errno.ENOSPC, "No space left on device")

def _write_pixels(part: Path, data: FaceData, size: int, threads: int, progress: bool) -> int:
    "Write all pixels to a new file and force them to the disk; their checksum."
    crc, bytes_needed = 0, len(data.table) * 3 * size * size
    bar = tqdm(total=len(data.table), desc=f"{data.name}: images to {size} px", unit=" images", disable=not progress)
    with open(part, "wb") as file, bar:
        _reserve(file, bytes_needed)
        for pixels in _chunks(data, size, threads, rows=max(1, min(256, 2**22 // (3 * size * size)))):
            file.write(np.ascontiguousarray(pixels))
            crc = zlib.crc32(np.ascontiguousarray(pixels), crc)
            bar.update(len(pixels))
        if file.tell() != bytes_needed: raise ValueError(f"{data.name}: its loader gave {file.tell():,} bytes, not {bytes_needed:,}")
        file.flush(); os.fsync(file.fileno())
    return crc


# %%
crc = _write_pixels(tmp/"x.part", faces, 8, threads=2, progress=False)
(tmp/"x.part").stat().st_size, f"{crc:08x}"

# %% [markdown]
# 300 images of 3 · 8 · 8 bytes; image 5 is grey 35 and lies where it should; and it does not depend on the number of threads.

# %%
written = np.fromfile(tmp/"x.part", np.uint8).reshape(300, 3, 8, 8)
assert (written[5] == 35).all() and (written[299] == 7 * 299 % 256).all()
assert zlib.crc32(written) == crc == _write_pixels(tmp/"x.part", faces, 8, threads=4, progress=False)


# %% [markdown]
# Two processes may want the same cache at the same time. One folder has one lock: the second waits and then finds the work done. Whoever holds the lock may also clear away what a killed
# writer left. A disk that refuses gets an error that says what is wrong with it.

# %%
#| export
@contextmanager
def _locked(folder: Path):
    "Hold the folder's lock; on systems or disks without locks, just go on (a rename is safe all the same)."
    with open(folder/".lock", "w") as file:
        try:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError): yield; return
        for left in folder.glob(".*.part"): left.unlink(missing_ok=True)
        yield

@contextmanager
def _disk_errors(folder: Path, bytes_needed: int):
    "Say what a refusing disk means here, with the folder and the sizes."
    try: yield
    except OSError as e:
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        advice = "choose a folder that you may write to"
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = (f"it needs {bytes_needed:,} bytes and {shutil.disk_usage(there).free:,} are free: "
                      "free some, use a smaller image_size or limit, or put the cache on another disk")
        elif e.errno is None or e.filename is None: raise                 # not the disk: an image, a loader
        raise type(e)(e.errno, f"the image cache cannot be written to {folder} ({os.strerror(e.errno)}); {advice}") from e


# %%
try:
    with _disk_errors(tmp, 12_000_000): raise OSError(errno.ENOSPC, "No space left on device")
except OSError as e: print(str(e).replace(str(tmp), "…").split(" and ")[0], "…")
else: raise AssertionError("a full disk passed")

# %%
(tmp/".old.part").write_bytes(b"left by a killed writer")
with _locked(tmp): assert not (tmp/".old.part").exists()


# %% [markdown]
# Reading it back checks the size and the checksum. A cache that fails is not repaired: it is written again.

# %%
#| export
def open_cache(
    path: str | Path,     # The cache file; its JSON lies beside it
    verify: bool = True,  # Also compute the checksum: reads the file once
) -> np.memmap | None:    # uint8 (N, 3, size, size), read-only; None where there is no whole cache
    "Map a cache into memory, if it is there and whole."
    try: about = json.loads(Path(path).with_suffix(".json").read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError): return None
    if not Path(path).exists() or Path(path).stat().st_size != math.prod(about["shape"]): return None
    pixels = np.memmap(path, np.uint8, "r", shape=tuple(about["shape"]))
    crc, rows = 0, max(1, 2**24 // math.prod(about["shape"][1:]))
    for start in range(0, len(pixels) if verify else 0, rows): crc = zlib.crc32(pixels[start:start + rows], crc)
    if not verify or crc == about["crc32"]: return pixels
    warnings.warn(f"{path}: the checksum is wrong, so this cache is written again", stacklevel=2)


# %%
(tmp/"x.part").rename(tmp/"x.u8")
assert open_cache(tmp/"x.u8") is None                                                    # no JSON, no cache
(tmp/"x.json").write_text(json.dumps(dict(shape=[300, 3, 8, 8], crc32=crc)))
open_cache(tmp/"x.u8").shape

# %%
assert not open_cache(tmp/"x.u8").flags.writeable
changed = bytearray((tmp/"x.u8").read_bytes()); changed[100] ^= 1; (tmp/"x.u8").write_bytes(changed)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert open_cache(tmp/"x.u8") is None and "checksum" in str(caught[0].message)
(tmp/"x.u8").write_bytes(changed[:-1])
assert open_cache(tmp/"x.u8") is None                                                    # too short


# %% [markdown]
# All of it together. The row numbers of the cache are those of the table.

# %%
#| export
def _free_threads() -> int:
    "Cores that this process may use."
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

def _build(path: Path, data: FaceData, size: int, threads: int, progress: bool):
    "Write the cache and its JSON, each under another name first."
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        crc = _write_pixels(part, data, size, threads, progress)
        path.with_suffix(".json").unlink(missing_ok=True)
        part.rename(path)
        part.write_text(json.dumps(dict(set=data.name, shape=[len(data.table), 3, size, size], crc32=crc, version=CACHE_VERSION)))
        part.rename(path.with_suffix(".json"))
    finally: part.unlink(missing_ok=True)

def image_cache(
    data: FaceData,          # The set; all rows of its table are cached
    size: int,               # Side of the squares, pixels
    cache_root: str | Path,  # The folder for caches
    progress: bool = True,   # Show a progress bar
    threads: int = 0,        # Decoding threads; 0 means one per available core
    verify: bool = True,     # Check the checksum of a cache that is there
) -> np.memmap:              # uint8 (N, 3, size, size), read-only; row i is row i of the table
    "A set's images as one array on disk, decoded now or earlier. Raises: ValueError (damaged image), OSError (disk full, not writable)."
    if size < 8: raise ValueError(f"image_size = {size}: choose at least 8 pixels")
    if not len(data.table): raise ValueError(f"{data.name}: no images to cache")
    root = Path(cache_root)
    path = root/f"{data.name}-{size}px-{cache_key(data, size)}.u8"
    if (pixels := open_cache(path, verify)) is not None: return pixels
    with _disk_errors(root, len(data.table) * 3 * size * size):
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            if open_cache(path, verify) is None: _build(path, data, size, threads or _free_threads(), progress)
    return open_cache(path, verify)


# %%
calls.clear()
pixels = image_cache(faces, 16, tmp/"cache", progress=False)
pixels.shape, sorted(p.name for p in (tmp/"cache").iterdir())

# %% [markdown]
# The second time nothing is loaded.

# %%
assert sum(calls) == 300 and (pixels[5] == 35).all()
again = image_cache(faces, 16, tmp/"cache", progress=False)
assert sum(calls) == 300 and (again == pixels).all() and not again.flags.writeable


# %% [markdown]
# A damaged image stops everything, and leaves neither a cache nor a temporary file.

# %%
def damaged(rows, size):
    if 280 in rows.index: raise ValueError("280.jpg: this image cannot be decoded")
    return flat(rows, size)
try: image_cache(replace(faces, load=damaged, key="v3"), 16, tmp/"cache2", progress=False)
except ValueError as e: print(e)
else: raise AssertionError("a damaged image was cached")
assert [p.name for p in (tmp/"cache2").iterdir()] == [".lock"]

# %%
(tmp/"file").write_text("")
try: image_cache(faces, 16, tmp/"file"/"cache", progress=False)
except OSError as e: print(str(e).replace(str(tmp), "…"))
else: raise AssertionError("a cache below a file was written")


# %% [markdown]
# ## Images for training
#
# `Images` is what training, importance and prediction take: pixels, labels, groups, and which rows belong to which part. It can live on the GPU as a whole: 100,000 images of 64 px are 1.2 GB.

# %%
#| export
@dataclass(frozen=True)
class Images:
    "Images as bytes, with their labels, groups and split."
    pixels: Tensor            # uint8 (N, 3, size, size)
    labels: Tensor            # int64 (N, H): a column per head; -1 in rows that no part uses
    groups: Tensor            # int64 (N,)
    rows: dict[str, Tensor]   # 'train', 'val', 'test' -> int64 row numbers
    names: tuple[str, ...] = ()  # The groups' names, in code order


# %% [markdown]
# Two rows by hand.

# %%
Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([[1], [0]]), torch.tensor([0, 1]), dict(train=torch.tensor([0, 1])), ("a", "b")).rows

# %%
assert Images(*[torch.zeros(1)] * 3, {}).names == ()


# %% [markdown]
# From a table: its index says which row of the cache is meant, so a table that was filtered still finds its pixels.

# %%
#| export
def make_images(
    pixels: np.ndarray,   # uint8 (N, 3, size, size), e.g. from `image_cache`
    table: pd.DataFrame,  # The rows to use; its index holds their numbers in `pixels`
    split: pd.Series,     # train / val / test, same index
    heads: list[str],     # Label columns, one per head
    groups: str,          # The grouping, as for `codes`
) -> Images:              # On the CPU, pixels not copied
    "Join cached pixels with the labels of the rows that a task uses. Raises: ValueError, as `codes` does."
    labels, group = torch.full((len(pixels), len(heads)), -1), torch.full((len(pixels),), -1)
    index = torch.tensor(table.index.to_numpy(np.int64, copy=True))
    for h, head in enumerate(heads): labels[index, h] = torch.from_numpy(codes(table, head)[0])
    code, names = codes(table, groups)
    group[index] = torch.from_numpy(code)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")   # nobody writes to it: batches copy
        tensor = torch.from_numpy(pixels)
    return Images(tensor, labels, group, {part: index[torch.from_numpy((split == part).to_numpy())] for part in SPLITS}, tuple(names))


# %%
split = pd.Series(pd.Categorical.from_codes(np.array([0] * 8 + [1, 2])[np.arange(300) % 10], SPLITS), index=table.index)
images = make_images(pixels, table, split, ["look"], "tone")
{part: len(rows) for part, rows in images.rows.items()}, images.names

# %%
assert images.labels[:4, 0].tolist() == [0, 1, 2, 0] and images.rows["val"][:2].tolist() == [8, 18]
some = table[table.look != "mid"]
part = make_images(pixels, some, split[some.index], ["look", "tone"], "tone")
assert part.rows["train"][:3].tolist() == [0, 2, 3] and part.labels[1].tolist() == [-1, -1]
assert part.pixels.data_ptr() == images.pixels.data_ptr()                                # nothing was copied


# %%
#| export
@patch
def to(
    self: Images,
    device: str | torch.device, # E.g. 'cuda'
) -> Images:                    # The same images there
    "Move everything to a device."
    rows = {part: index.to(device) for part, index in self.rows.items()}
    return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device), groups=self.groups.to(device), rows=rows)


# %%
images.to("cpu").pixels.device

# %%
assert images.to("meta").rows["train"].device.type == "meta" and images.to("cpu").names == images.names


# %% [markdown]
# ## Augmentation
#
# The paper's training code flips, crops a little, distorts, changes colours, blurs and adds noise. Done image by image on the CPU this costs more than decoding. Here it happens for a whole batch on the device, and
# each image draws its own parameters. torchvision's transforms draw one set of parameters per call, so the geometry and the colours are ours: flip, crop, scale, shift, rotation and shear compose to *one*
# matrix per image, and one resampling applies it; brightness, contrast and saturation compose to one 3 × 3 matrix and one offset. Random numbers come from torch's generator on the images' device; training seeds it.

# %%
#| export
def affine_matrices(
    n: int,                # How many
    device: str | torch.device = "cpu",
) -> Tensor:               # (n, 2, 3): output to input coordinates, in [-1, 1]
    """Draw flip (half of the images), crop (up to 10 % of the side), scale 1–1.1, shift ±10 %, rotation ±15°, shear ±8°.
    Source: paper §4, public code; the crop's size is ours."""
    u = torch.rand(n, 8, device=device)
    flip, zoom = 1 - 2 * (u[:, 0] < .5).float(), (1 - .1 * u[:, 1]) / (1 + .1 * u[:, 2])
    angle, shear = (2 * u[:, 3] - 1) * math.radians(15), torch.tan((2 * u[:, 4] - 1) * math.radians(8))
    corner = .1 * u[:, 1:2] * (2 * u[:, 5:7] - 1)                                  # where in the image the crop lies
    shift = corner + .2 * (torch.rand(n, 2, device=device) * 2 - 1)                # ±10 % of a side that is 2 long
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    linear = torch.stack([torch.stack([cos * flip, (cos * shear - sin)], 1), torch.stack([sin * flip, sin * shear + cos], 1)], 1)
    return torch.cat([linear, shift[:, :, None]], 2)


# %%
torch.manual_seed(0)
affine_matrices(2)

# %% [markdown]
# The area factor of a matrix is its determinant, ± zoom², and zoom lies between 0.9 / 1.1 and 1. Half are flips. No shift is larger than 0.1 + 0.2.

# %%
matrices = affine_matrices(4000)
area = torch.linalg.det(matrices[:, :, :2])
assert (.9 / 1.1) ** 2 - 1e-4 <= area.abs().min() and area.abs().max() <= 1 + 1e-4
assert .47 < (area < 0).float().mean() < .53 and matrices[:, :, 2].abs().max() <= .3


# %%
#| export
def colour_matrices(
    x: Tensor, # float (n, 3, S, S) in [0, 1]
) -> tuple[Tensor, Tensor]: # (n, 3, 3) and (n, 3, 1): new colours = matrix · old + offset
    "Draw brightness 0.8–1.2, contrast 0.75–1.25 about the image's mean grey, saturation 0.8–1.2. The ranges are ours."
    grey = torch.tensor([.299, .587, .114], device=x.device)
    widths = torch.tensor([.2, .25, .2], device=x.device)[:, None, None, None]
    b, c, s = 1 + (2 * torch.rand(3, len(x), 1, 1, device=x.device) - 1) * widths
    mean = (x[..., ::4, ::4].mean((2, 3)) @ grey)[:, None, None]                        # a sixteenth of the pixels will do
    return c * b * (s * torch.eye(3, device=x.device) + (1 - s) * grey.expand(3, 3)), ((1 - c) * b * mean).expand(-1, 3, 1)


# %%
matrix, offset = colour_matrices(torch.full((2, 3, 4, 4), .5))
(matrix @ torch.full((3, 1), .5) + offset).squeeze()

# %% [markdown]
# A flat grey 0.5 has no contrast and no saturation to change, so only the brightness acts: equal channels, between 0.4 and 0.6. And a matrix keeps greys grey: its rows have one sum.

# %%
grey = (matrix @ torch.full((3, 1), .5) + offset).squeeze()
assert torch.allclose(grey, grey[:, :1].expand(2, 3), atol=1e-6) and .4 <= grey.min() and grey.max() <= .6
assert torch.allclose(matrix.sum(2), matrix.sum(2)[:, :1].expand(2, 3), atol=1e-6)


# %% [markdown]
# Blur by a Gaussian of at most half a pixel: three weights (k, 1 − 2k, k) along each axis. torchvision's blur would draw one strength for the whole batch, and on a CPU it takes ten times as long.

# %%
#| export
def blur_each(
    x: Tensor, # float (n, 3, S, S); changed in place
    k: Tensor, # (n,), each image's side weight, 0 … 1/3; 0.1065 is a Gaussian of half a pixel
) -> Tensor:   # The same shape; the outermost rows and columns are blurred along one axis only
    "Blur each image with its own strength, in place."
    for axis in (2, 3):
        inner = x.shape[axis] - 2
        before, middle, after = (x.narrow(axis, start, inner) for start in range(3))
        middle.add_(torch.add(before, after).sub_(middle, alpha=2).mul_(k[:, None, None, None]))
    return x


# %%
point = torch.zeros(1, 1, 5, 5); point[..., 2, 2] = 1
blur_each(point.clone(), torch.tensor([.1]))

# %%
by_hand = torch.tensor([[.01, .08, .01], [.08, .64, .08], [.01, .08, .01]])              # (.1, .8, .1) along both axes
assert torch.allclose(blur_each(point.clone(), torch.tensor([.1]))[0, 0, 1:4, 1:4], by_hand)
assert torch.equal(blur_each(point.clone(), torch.tensor([0.])), point)
same = v2.functional.gaussian_blur(drawing := torch.rand(1, 3, 16, 16), [3, 3], [.5, .5])
assert torch.allclose(blur_each(drawing.clone(), torch.tensor([.10650698]))[..., 1:-1, 1:-1], same[..., 1:-1, 1:-1], atol=1e-5)


# %% [markdown]
# All of it as a torchvision transform. Outside the picture its border goes on. Half of a batch is blurred and another quarter gets noise: batches are shuffled, so it need not be drawn which half that is.

# %%
#| export
def _grid(matrices: Tensor, size: int) -> Tensor:
    "`F.affine_grid` for square images, at a third of its price: where each output pixel looks, (n, size, size, 2)."
    at = (torch.arange(size, device=matrices.device) * 2 + 1) / size - 1
    places = torch.stack([at.repeat(size), at.repeat_interleave(size), torch.ones(size * size, device=matrices.device)], 1)
    return (places @ matrices.transpose(1, 2)).view(-1, size, size, 2)

class PerImage(v2.Transform):
    "An affine map and a colour change for each image, blur for the first half of a batch, noise for the last quarter; all drawn per image."
    def transform(self, x: Tensor, params: dict) -> Tensor:
        "`x` is float (n, 3, S, S) in [0, 1]; so is what comes back."
        grid = _grid(affine_matrices(len(x), x.device), x.shape[-1])
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        matrix, offset = colour_matrices(x)
        x = torch.baddbmm(offset, matrix, x.flatten(2)).view_as(x).clamp_(0, 1)
        chance = torch.rand(()).item()                                         # rounds a half or a quarter of few images up or down
        blurred, noisy = x[:int(len(x) / 2 + chance)], x[len(x) - int(len(x) / 4 + chance):]
        blur_each(blurred, .1065 * torch.rand(len(blurred), device=x.device))
        noisy.addcmul_(torch.randn_like(noisy), .04 * torch.rand(len(noisy), 1, 1, 1, device=x.device)).clamp_(0, 1)
        return x


# %% [markdown]
# One drawing, seven times.

# %%
y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
drawing = torch.stack([.2 + .6 * (x**2 + y**2 < .6), .5 + .3 * x, ((x - .3)**2 + (y + .2)**2 < .02).float()])
torch.manual_seed(1)
shown = torch.cat([drawing[None], PerImage()(drawing.repeat(7, 1, 1, 1))])
fig, axes = plt.subplots(1, 8, figsize=(8, 1.2))
for ax, image in zip(axes, shown): ax.imshow(image.permute(1, 2, 0).clamp(0, 1)); ax.axis("off")

# %% [markdown]
# Each image differs from the others, a seed gives them again, values stay in [0, 1], and the input is left alone. The short cut for the grid gives torch's own.

# %%
batch = drawing.repeat(7, 1, 1, 1)
assert (shown[1:] - shown[1]).abs().amax((1, 2, 3))[1:].min() > .1 and 0 <= shown.min() and shown.max() < 1 + 1e-5
torch.manual_seed(1)
assert torch.equal(PerImage()(batch), shown[1:]) and torch.equal(batch, drawing.repeat(7, 1, 1, 1))
matrices = affine_matrices(3)
assert torch.allclose(_grid(matrices, 64), F.affine_grid(matrices, [3, 3, 64, 64], align_corners=False), atol=1e-6)


# %% [markdown]
# A run may ask for less: flips alone, or nothing.

# %%
#| export
class FlipEach(v2.Transform):
    "Flip each image of a batch with probability a half."
    def transform(self, x: Tensor, params: dict) -> Tensor:
        "`x` is (n, 3, S, S)."
        return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < .5, x.flip(3), x)

AUGMENTATIONS = ["paper", "flip", "none"]

def augmentation(
    kind: str = "paper", # 'paper', 'flip' or 'none'
    size: int = 64,      # Side of the images, pixels (all amounts but the blur's are relative to it)
) -> nn.Module:          # float (n, 3, size, size) in [0, 1] -> the same
    "A batch's augmentation, random per image. Raises: ValueError (unknown kind). Source: paper §4, public code."
    if kind not in AUGMENTATIONS: raise ValueError(f"unknown augmentation {kind!r}: choose one of {', '.join(AUGMENTATIONS)}")
    if kind == "none": return nn.Identity()
    if kind == "flip": return FlipEach()
    return PerImage()


# %%
flipped = FlipEach()(drawing.repeat(400, 1, 1, 1))
changed = (flipped != drawing).flatten(1).any(1)
changed.float().mean()

# %%
assert .4 < changed.float().mean() < .6 and torch.equal(flipped[changed][0], drawing.flip(2))
assert isinstance(augmentation("paper"), PerImage) and isinstance(augmentation("flip"), FlipEach) and augmentation("none")(batch) is batch
try: augmentation("heavy")
except ValueError as e: print(e)
else: raise AssertionError("an unknown augmentation was accepted")

# %% [markdown]
# ## Batches
#
# Bytes become numbers only now, a batch at a time: gathered, moved, divided by 255, augmented, and normalised with ImageNet's mean and deviation, as every torchvision backbone expects. On the CPU this happens in
# pieces of a megabyte, which stay in the processor's cache: at 224 px that is several times faster.

# %%
#| export
IMAGENET_MEAN, IMAGENET_STD = (.485, .456, .406), (.229, .224, .225)

def normalise(
    x: Tensor,                 # float (n, 3, S, S) in [0, 1]
    out: Tensor | None = None, # Where to put the result; may be `x` itself
) -> Tensor:                   # (n, 3, S, S): minus mean, over deviation, per channel
    "Normalise with ImageNet's statistics."
    mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return torch.sub(x, mean, out=out).div_(std)


# %%
normalise(torch.full((1, 3, 1, 1), .485)).flatten()

# %%
assert torch.allclose(normalise(torch.tensor(IMAGENET_MEAN)[None, :, None, None]), torch.zeros(1, 3, 1, 1))
assert normalise(same := torch.ones(1, 3, 2, 2), same) is same                          # in place, where that is wanted


# %%
#| export
def _piece(x: Tensor) -> int:
    "How many images to work on at a time: all on a GPU, a megabyte of them on the CPU."
    return max(1, 2**18 // x[0].numel()) if x.device.type == "cpu" else len(x)

def get_batch(
    images: Images,     # Where to take them from
    index: Tensor,      # int64 (n,): row numbers
    augment=None,       # A callable on float (n, 3, S, S) in [0, 1], or None
    device: str | torch.device = "cpu", # Where to
) -> tuple[Tensor, Tensor, Tensor]: # float32 (n, 3, S, S) normalised; labels (n, H); groups (n,)
    "Some images as one batch."
    index = index.to(images.pixels.device)
    x = torch.empty((len(index), *images.pixels.shape[1:]), device=device)
    for out, rows in zip(x.split(step := _piece(x)), index.split(step)):
        out.copy_(images.pixels.index_select(0, rows), non_blocking=True).mul_(1 / 255)
        normalise(out if augment is None else augment(out), out)
    return x, images.labels[index].to(device), images.groups[index].to(device)


# %%
x, y, g = get_batch(images, torch.tensor([5, 7]))
x[:, :, 0, 0], y.T, g

# %% [markdown]
# Image 5 is grey 35, so its red is (35/255 − 0.485) / 0.229 = −1.5185.

# %%
assert abs(x[0, 0, 3, 3].item() - (-1.5185)) < 1e-4 and x.dtype == torch.float32
assert y.tolist() == [[2], [1]] and g.tolist() == [1, 2]


# %%
#| export
def batches(
    images: Images,     # Where to take them from
    split: str,         # 'train', 'val' or 'test'
    size: int = 64,     # Images a batch; the last may be smaller
    shuffle: torch.Generator | None = None, # Shuffle with this generator (a CPU one), or keep the order
    augment=None,       # A callable on float (n, 3, S, S) in [0, 1], or None
    device: str | torch.device = "cpu",     # Where to
    share: Callable[[Sequence[Tensor]], Iterable[Tensor]] | None = None, # The batches' rows → those of them that are put together; None: all
) -> Iterator[tuple[Tensor, Tensor, Tensor]]: # As `get_batch` gives them
    "One epoch over a part. Raises: ValueError (unknown or empty part)."
    rows = images.rows.get(split, torch.empty(0))
    there = ", ".join(f"{len(r)} in {part}" for part, r in images.rows.items())
    if not len(rows): raise ValueError(f"no images in {split!r}: there are {there}")
    if shuffle is not None: rows = rows[torch.randperm(len(rows), generator=shuffle).to(rows.device)]
    parts = rows.split(size)
    return (get_batch(images, index, augment, device) for index in (parts if share is None else share(parts)))


# %%
[len(x) for x, y, g in batches(images, "train")]

# %%
assert [len(x) for x, y, g in batches(images, "train")] == [64, 64, 64, 48]
labels = lambda seed: torch.cat([y for x, y, g in batches(images, "train", shuffle=seed and torch.Generator().manual_seed(seed))])[:, 0]
assert torch.equal(labels(None), images.labels[images.rows["train"], 0])
assert torch.equal(labels(1), labels(1)) and not torch.equal(labels(1), labels(2))
assert torch.equal(labels(1).sort().values, labels(None).sort().values)
assert [len(x) for x, y, g in batches(images, "train", share=lambda parts: [part[:10] for part in parts[1::2]])] == [10, 10]   # one of several processes
try: batches(images, "dev")
except ValueError as e: print(e)
else: raise AssertionError("an unknown part was accepted")


# %% [markdown]
# ## Batches of one group
#
# The importance of a weight for a group is a mean over mini-batches of *that group's* images. Its size depends on how many images a batch holds, so a group's images are cut into batches that differ by one
# image at most. 100 images at 64 are two batches of 50, not one of 64 and one of 36. No augmentation; the order is the seed's.

# %%
#| export
class group_batches:
    "Batches of one group each, group after group. Raises: ValueError (a group without images). Source: paper §3.2; equal batches: ours."
    def __init__(self,
        images: Images,       # Where to take them from
        split: str = "train", # 'train', 'val' or 'test'
        size: int = 64,       # Most images a batch
        cap: int = 0,         # Most images a group; 0 takes all
        seed: int = 0,        # Order, and choice under a cap
        device: str | torch.device = "cpu", # Where the batches go
    ):
        self.images, self.device = images, device
        rows = images.rows[split].cpu()
        group = images.groups.cpu()[rows]
        n = len(images.names) or int(group.max()) + 1
        own = [self._order(rows[group == g], seed + g, cap) for g in range(n)]
        for g, mine in enumerate(own):
            name = images.names[g] if images.names else g
            if not len(mine): raise ValueError(f"group {name!r} has no image in {split!r}: its importance is not defined")
        self.counts = [len(mine) for mine in own]         # images of each group
        self.parts = [(g, part) for g, mine in enumerate(own) for part in mine.tensor_split(math.ceil(len(mine) / size))]

    @staticmethod
    def _order(rows: Tensor, seed: int, cap: int) -> Tensor:
        return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))][:cap or None]

    def __len__(self): return len(self.parts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]: return self.take(range(len(self)))

    def take(self, numbers: Iterable[int]) -> Iterator[tuple[Tensor, Tensor, int]]:
        "Some of the batches, where several processes divide them"
        for g, part in (self.parts[i] for i in numbers): yield (*get_batch(self.images, part, None, self.device)[:2], g)


# %%
loader = group_batches(images, size=64)
print(loader.counts, [(g, len(x)) for x, y, g in loader])

# %% [markdown]
# By hand: `train` has the last digits 0 … 7 of 300 images. 0 … 4 are tone-1 (150), 5 and 6 tone-2 (60), 7 is tone-3 (30). 150 images at 64 are three batches of 50.

# %%
assert loader.counts == [150, 60, 30] and len(loader) == 5
assert [(g, len(x)) for x, y, g in loader] == [(0, 50), (0, 50), (0, 50), (1, 60), (2, 30)]
assert sorted(len(x) for x, y, g in group_batches(images, size=40) if g == 0) == [37, 37, 38, 38]          # near-equal
assert group_batches(images, cap=35).counts == [35, 35, 30]
assert [(g, len(x)) for x, y, g in loader.take(range(1, 5, 2))] == [(0, 50), (1, 60)]
order = lambda seed: torch.cat([part for g, part in group_batches(images, seed=seed).parts])
assert torch.equal(order(0), order(0)) and not torch.equal(order(0), order(1))
assert torch.equal(order(0).sort().values, images.rows["train"])                                           # every image once
try: group_batches(images, "val")
except ValueError as e: print(e)
else: raise AssertionError("a group without images was accepted")
