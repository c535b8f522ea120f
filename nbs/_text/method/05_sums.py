# %% [markdown]
# # Group sums
#
# > Where to keep one sum per weight and group, and how to accumulate it

# %%
#| default_exp method.sums

# %%
#| export
import operator
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from fastcore.basics import patch
from torch import Tensor

# %%
from unittest.mock import patch as instead

home = Path(tempfile.mkdtemp())
cpu, gpu = torch.device("cpu"), torch.device("cuda")


# %% [markdown]
# Importance is $G$ numbers per weight: 600 MB for ResNet-34 and 7 groups, but 20 GB for 100 million weights and 50 groups, too much for many GPUs. Batches come group after group, so only one group's sums change at a time. The others can stay in host memory, or in
# memory-mapped files.
#
# ## Size of the sums
#
# The sums add up many squares of small numbers, so they are at least float32 even if the weights are narrower.

# %%
#| export
def wide(weight: Tensor) -> torch.dtype:
    "The type of the sums: that of the weight, but float32 at least."
    return torch.promote_types(weight.dtype, torch.float32)


# %%
print(
    {
        str(kind): str(wide(torch.empty(1, dtype=kind)))
        for kind in (torch.bfloat16, torch.float32, torch.float64)
    }
)
assert [
    wide(torch.empty(1, dtype=kind))
    for kind in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
] == [torch.float32] * 3 + [torch.float64]


# %%
#| export
def _sums_size(
    weights: Mapping[str, Tensor],  # Layer name → weight
    groups: int,  # G, how many groups there are
) -> int:  # Bytes
    "Memory of the importance: G numbers per weight, 4 bytes each (8 for float64)."
    return groups * sum(w.numel() * wide(w).itemsize for w in weights.values())


# %%
hundred_million = {"big": torch.empty(100_000_000, device="meta")}
print(f"{_sums_size(hundred_million, groups=50) / 1e9:.0f} GB")
assert _sums_size(hundred_million, 50) == 20_000_000_000 and _sums_size(
    {"a": torch.empty(3, dtype=torch.float64), "b": torch.empty(2, dtype=torch.bfloat16)}, 2
) == 2 * (24 + 8)


# %% [markdown]
# ## Free memory
#
# The kernel reports the memory that is available without swapping. `MemFree` is too low, because the kernel can drop cached files.

# %%
#| export
def _of_the_host(known: Path = Path("/proc/meminfo")) -> int:
    "Available memory of the machine."
    lines = (
        dict(line.split(":") for line in known.read_text(encoding="utf-8").splitlines())
        if known.is_file()
        else {}
    )
    if "MemAvailable" in lines:
        return int(lines["MemAvailable"].split()[0]) * 1024
    # not Linux: half of the physical memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


# %%
(home / "meminfo").write_text(
    "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    7000 kB\n"
)
print(_of_the_host(home / "meminfo"))
assert (
    _of_the_host(home / "meminfo") == 7000 * 1024
    and 0
    < _of_the_host(home / "nowhere")
    == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
)


# %% [markdown]
# A container may have less memory than its machine. Its control group gives the limit and the usage; cached files in the usage can be dropped. Without these files there is no limit.

# %%
#| export
def _of_the_container(folder: Path = Path("/sys/fs/cgroup")) -> int:
    "Memory left under the limit of a control group; cached files count as free."
    try:
        most, used = (
            int((folder / f"memory.{n}").read_text(encoding="utf-8")) for n in ("max", "current")
        )
    except (OSError, ValueError):
        return 2**62
    try:
        cached = dict(
            line.split()
            for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        ).get("inactive_file", 0)
    except (OSError, ValueError):
        cached = 0
    return max(0, most - used + int(cached))


# %%
assert _of_the_container(home) == 2**62  # no such files
for name, text in (("max", "1000"), ("current", "700")):
    (home / f"memory.{name}").write_text(text)
assert _of_the_container(home) == 300
(home / "memory.stat").write_text("anon 400\ninactive_file 200\n")
print(_of_the_container(home))
assert _of_the_container(home) == 500
(home / "memory.current").write_text("2000")
assert _of_the_container(home) == 0
(home / "memory.max").write_text("max")
assert _of_the_container(home) == 2**62


# %%
#| export
def _free_bytes(
    device: str | torch.device = "cpu",  # A GPU, or "cpu" for the host
) -> int:  # Available bytes
    "Free memory of a device. A container's own limit counts."
    if torch.device(device).type == "cuda":  # memory that torch reserves but does not use is free
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    return min(_of_the_host(), _of_the_container())


# %% [markdown]
# On a GPU, the bytes that torch reserves but does not use (here 30 − 10) are added to the driver's number. On a host the smaller of the two numbers counts.

# %%
with (
    instead("torch.cuda.mem_get_info", lambda _: (50, 100)),
    instead("torch.cuda.memory_reserved", lambda _: 30),
    instead("torch.cuda.memory_allocated", lambda _: 10),
):
    on_gpu = _free_bytes(gpu)
with (
    instead(f"{_free_bytes.__module__}._of_the_host", lambda: 90),
    instead(f"{_free_bytes.__module__}._of_the_container", lambda: 80),
):
    on_host = _free_bytes()
print(on_gpu, on_host)
assert on_gpu == 70 and on_host == 80 and _free_bytes() > 0


# %% [markdown]
# ## Choosing the place
#
# Messages give the sizes in GB.

# %%
#| export
def _gb(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n:,} bytes"


# %%
print(_gb(20_000_000_000), "|", _gb(12_345))
assert (
    _gb(20_000_000_000) == "20.0 GB"
    and _gb(100_000_000) == "0.1 GB"
    and _gb(12_345) == "12,345 bytes"
)


# %% [markdown]
# The free space of a folder is checked first, because a disk that fills up during a run stops it.

# %%
#| export
def _roomy(folder: Path, need: int) -> Path:
    "The folder, created if necessary. Raises: OSError if its disk has too little space."
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(
            28,
            f"keep_on = '{folder}': the importance takes {_gb(need)}, {_gb(free)} are free there;"
            " choose a folder on a larger disk",
        )
    return folder


# %%
assert _roomy(home / "a" / "b", 1000).is_dir()
try:
    _roomy(home, 2**60)
except OSError as e:
    print(str(e).replace(str(home), "…").split(", ")[0])
else:
    raise AssertionError("a disk that is too small was accepted")


# %% [markdown]
# `"auto"` keeps the sums on the device if they take at most half of its free memory: the activations and the selection need the rest. Otherwise they go to the host, with a message. Files are written only on request. If nothing fits, an error gives the numbers.

# %%
#| export
def _choose_place(
    need: int,  # Bytes of the sums, from `_sums_size`
    device: torch.device,  # Where the network is
    keep_on: str | Path = "auto",  # "auto", "device", "host", or a folder for mapped files
) -> str | Path:  # "device", "host" or the folder
    """The place for the sums.

    Raises: MemoryError with the numbers if they do not fit, OSError for a disk that is too small.
    """
    if keep_on not in ("auto", "device", "host"):
        return _roomy(Path(keep_on), need)
    if keep_on != "auto" and (keep_on == "host" or device.type == "cpu"):
        return keep_on
    free, host = _free_bytes(device), _free_bytes("cpu")
    if keep_on == "device" or need <= free // 2:
        return "device"
    if device.type == "cpu" and need <= free * 9 // 10:
        return "device"
    if device.type != "cpu" and need <= host * 3 // 4:
        warnings.warn(
            f"the importance takes {_gb(need)}, {device} has {_gb(free)} free: it is kept in the"
            " host's memory",
            stacklevel=3,
        )
        return "host"
    where = f"{device} has {_gb(free)} free" + (
        "" if device.type == "cpu" else f" and the host {_gb(host)}"
    )
    raise MemoryError(
        f"the importance takes {_gb(need)}, but {where}: set keep_on to a folder on a disk with"
        " that much room, or lower the number of groups, or leave layers dense (ignore)"
    )


# %%
GB = 10**9


def decided(need, device, free, host, keep_on="auto"):
    with (
        instead(
            f"{_choose_place.__module__}._free_bytes",
            lambda d="cpu": free if torch.device(d).type == "cuda" else host,
        ),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        return _choose_place(need, device, keep_on), [str(w.message) for w in said]


(
    decided(6 * GB, gpu, free=60 * GB, host=100 * GB),
    decided(40 * GB, gpu, free=60 * GB, host=100 * GB),
)

# %%
assert (
    _choose_place(1000, cpu) == _choose_place(1000, cpu, "device") == "device"
    and _choose_place(1000, cpu, "host") == "host"
    and _choose_place(1000, cpu, home) == home
)
assert (
    decided(30 * GB, gpu, free=60 * GB, host=100 * GB) == ("device", [])
    and decided(90 * GB, gpu, 60 * GB, 80 * GB, "device")[0] == "device"
)
assert (
    decided(75 * GB, gpu, 60 * GB, 100 * GB)[0] == "host"
    and "60.0 GB free" in decided(31 * GB, gpu, 60 * GB, 100 * GB)[1][0]
)
# the device is the host: up to nine tenths
assert decided(90 * GB, cpu, 60 * GB, 100 * GB) == ("device", [])
for need, device in ((76 * GB, gpu), (91 * GB, cpu)):
    try:
        decided(need, device, free=60 * GB, host=100 * GB)
    except MemoryError as e:
        print(e)
    else:
        raise AssertionError("sums without room were accepted")


# %% [markdown]
# ## The sums
#
# The blocks of a mapped file are allocated before use; otherwise a full disk would kill the process at the first write. Its name is removed immediately: the file exists as long as the tensor, and a killed process leaves no file.

# %%
#| export
def _zeros(shape: tuple[int, ...], dtype: torch.dtype, place) -> Tensor:
    "Zeros on a device, on the host, or in an unnamed file in a folder."
    if not isinstance(place, Path):
        return torch.zeros(shape, dtype=dtype, device="cpu" if place == "host" else place)
    with tempfile.TemporaryFile(dir=place) as file:
        os.posix_fallocate(file.fileno(), 0, max(1, int(np.prod(shape)) * dtype.itemsize))
        return torch.from_numpy(
            np.memmap(file, torch.empty(0, dtype=dtype).numpy().dtype, "r+", shape=shape)
        )


# %%
for place in ("host", cpu, _roomy(home / "maps", 1)):
    zeros = _zeros((2, 3), torch.float64, place)
    zeros[1] += 1
    print(zeros)
    assert zeros.dtype == torch.float64 and zeros.tolist() == [[0] * 3, [1] * 3]
assert (
    not list((home / "maps").iterdir())
    and _zeros((2,), torch.float32, torch.device("meta")).device.type == "meta"
)


# %% [markdown]
# The device holds the sums of one group.

# %%
#| export
def _rooms(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    "A tensor of each weight's shape, in the type of the sums."
    return {n: torch.empty(w.shape, dtype=wide(w), device=w.device) for n, w in weights.items()}


# %%
room = _rooms({"a": torch.ones(2, 3, dtype=torch.bfloat16), "b": torch.ones(4, device="meta")})
print({n: (tuple(r.shape), r.dtype, r.device.type) for n, r in room.items()})
assert (
    room["a"].shape == (2, 3)
    and room["a"].dtype == torch.float32
    and room["b"].device.type == "meta"
)


# %% [markdown]
# Temporary values of one layer at a time, such as a product, need only the memory of the largest layer.

# %%
#| export
def scratch(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    "Like `_rooms`, but all share the memory of the largest, so only one can be used at a time."
    kinds = {n: (wide(w), w.device) for n, w in weights.items()}
    flat = {
        kind: torch.empty(
            max(w.numel() for n, w in weights.items() if kinds[n] == kind),
            dtype=kind[0],
            device=kind[1],
        )
        for kind in set(kinds.values())
    }
    return {n: flat[kinds[n]][: w.numel()].view(w.shape) for n, w in weights.items()}


# %%
shared = scratch(
    {
        "a": torch.ones(2, 3),
        "b": torch.ones(4, dtype=torch.bfloat16),
        "c": torch.ones(2, dtype=torch.float64),
        "d": torch.ones(5, device="meta"),
    }
)
shared["a"].fill_(1)
shared["b"].fill_(2)
shared["c"].fill_(3)
print(shared)
assert (
    shared["a"].tolist() == [[2, 2, 2], [2, 1, 1]]
    and shared["b"].tolist() == [2] * 4
    and shared["b"].dtype == torch.float32
)
assert (
    shared["c"].tolist() == [3, 3]
    and shared["c"].dtype == torch.float64
    and shared["d"].device.type == "meta"
)


# %% [markdown]
# The group code of a batch is the index of its sums. Python would take −1 for the last group, so the code is checked first.

# %%
#| export
def group_code(
    code: int | Tensor,  # Group of a batch: a whole number, or a tensor that holds one
    groups: int,  # G, how many groups there are
) -> int:  # The code, 0 to G − 1
    """The group of a batch as a number.

    Raises: ValueError unless it is a whole number from 0 to `groups` − 1."""
    try:
        number = operator.index(code)
    except TypeError:
        raise ValueError(
            f"the group of a batch is {code!r}: it must be one whole number, because all images of"
            " a batch belong to one group; ByGroup splits the batches of a mixed loader"
        ) from None
    if not 0 <= number < groups:
        raise ValueError(
            f"group code {number} in the data, but groups = {groups}: codes are 0 to {groups - 1}"
        )
    return number


# %%
print(group_code(1, groups=2), group_code(torch.tensor(0), groups=2))
assert group_code(torch.tensor(1), 2) == group_code(np.int64(1), 2) == 1
said_of = [
    (-1, "code -1"),
    (2, "code 2"),
    (0.5, "one whole number"),
    (torch.tensor([0, 1]), "one whole number"),
]
for wrong, said in said_of:
    try:
        group_code(wrong, 2)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError(f"{wrong} was accepted as a group of two")


# %% [markdown]
# `GroupSums` returns the sums of one group, on the device, to be updated in place. When another group is requested, the current one is stored and the other fetched. Batches in any order give the same bits; only the number of transfers, which is counted, changes.

# %%
#| export
class GroupSums:
    "Sums of squares of every weight for every group; one group's are on the device at a time."

    def __init__(
        self,
        weights: Mapping[str, Tensor],  # Layer name → weight, on the network's device
        groups: int,  # G, how many groups there are
        keep_on: str | Path = "auto",  # "auto", "device", "host", or a folder: see `_choose_place`
    ):
        self.place = _choose_place(
            _sums_size(weights, groups), next(iter(weights.values())).device, keep_on
        )
        self.kept = {
            n: _zeros(
                (groups, *w.shape), wide(w), w.device if self.place == "device" else self.place
            )
            for n, w in weights.items()
        }
        self.counts = torch.zeros(groups, dtype=torch.long)  # batches of each group: see `count`
        self.stored: set[int] = set()  # groups that were stored from the device
        # number of groups copied to the device or back; the group on the device
        self.transfers, self.now = 0, None
        self.here = None if self.place == "device" else _rooms(weights)


# %%
weights = {"a": torch.ones(2, 3)}
sums = GroupSums(weights, groups=2, keep_on="host")
print(sums.place, sums.kept["a"].shape, sums.here["a"].shape, sums.counts)
assert (
    sums.kept["a"].shape == (2, 2, 3)
    and not sums.kept["a"].any()
    and sums.here["a"].shape == (2, 3)
    and sums.counts.tolist() == [0, 0]
)
assert (
    GroupSums(weights, 2, "device").here is None
    and GroupSums(weights, 2, home / "maps").place == home / "maps"
)


# %% [markdown]
# The group on the device must be stored before the sums are read.

# %%
#| export
@patch
def put_back(self: GroupSums):
    "Store the sums of the group on the device."
    if self.now is None:
        return
    for n, part in self.here.items():
        self.kept[n][self.now].copy_(part)
    self.stored.add(self.now)
    self.transfers, self.now = self.transfers + 1, None


# %%
sums.put_back()
assert sums.transfers == 0  # no group is on the device
sums.now = 1
sums.here["a"].fill_(7)
sums.put_back()
print(sums.kept["a"][:, 0, 0], sums.transfers)
assert sums.kept["a"][:, 0, 0].tolist() == [0, 7] and sums.transfers == 1 and sums.now is None


# %% [markdown]
# `count` counts a batch; `of` returns the sums of its group and counts nothing.

# %%
#| export
@patch
def count(
    self: GroupSums,
    g: int,  # A group's code
):
    "Count a batch of a group. Raises: ValueError if there is no such group."
    self.counts[group_code(g, len(self.counts))] += 1


@patch
def of(
    self: GroupSums,
    g: int,  # A group's code
    # Layer name → its sums, shape `(*weight)`, on the device, to be updated in place
) -> dict[str, Tensor]:
    "One group's sums. Raises: ValueError if there is no such group."
    g = group_code(g, len(self.counts))
    if self.here is None:
        return {n: total[g] for n, total in self.kept.items()}
    if g == self.now:
        return self.here
    self.put_back()
    for n, part in self.here.items():
        if g in self.stored:
            part.copy_(self.kept[n][g])
        else:
            part.zero_()
    self.transfers, self.now = self.transfers + (g in self.stored), g
    return self.here


# %% [markdown]
# By hand: group 0 comes three times with 1, group 1 once with 2. The transfers: group 0 is stored, group 1 is stored, group 0 is fetched and stored again at the end.

# %%
sums = GroupSums(weights, groups=2, keep_on="host")
for g in (0, 0, 1, 0):
    sums.count(g)
    sums.of(g)["a"].add_(g + 1)
sums.put_back()
for ask in (sums.of, sums.count):
    try:
        ask(-1)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("an unknown group was taken for the last one")
sums.kept["a"], sums.counts, f"{sums.transfers} transfers"

# %%
assert (
    sums.kept["a"][:, 0, 0].tolist() == [3, 2]
    and sums.counts.tolist() == [3, 1]
    and sums.transfers == 4
)
for place in ("device", "host", home / "maps"):
    other = GroupSums({"a": torch.ones(2, 3, dtype=torch.float64), "b": torch.ones(4)}, 2, place)
    for g in (0, 0, 1, 0):
        other.of(g)["b"].add_(g + 1)
    other.put_back()
    assert other.counts.tolist() == [0, 0]  # nothing was counted
    assert (
        other.kept["b"][:, 0].tolist() == [3, 2]
        and other.kept["a"].dtype == torch.float64
        and other.kept["a"].sum() == 0
    )
assert not list((home / "maps").iterdir())  # the files have no names
