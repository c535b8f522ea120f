# %% [markdown]
# # Snapshots
#
# > One file with everything that a run needs to resume: the network, the optimizer, the random numbers

# %%
#| default_exp training.snapshots

# %%
#| export
import json
import os
import random
import re
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairgrape.training.files import checksum, put

# %%
import copy
import errno
import pickle
import tempfile

from torch import nn

home = Path(tempfile.mkdtemp())


# %% [markdown]
# ## A checkpoint
#
# One file holds everything: tensors in the safetensors format, and all other values as JSON in that format's header. A single file appears with one rename; a kill between two renames could leave two files inconsistent. Nothing that is read back can execute code.

# %%
#| export
@dataclass(frozen=True)
class Checkpoint:
    "The content of a checkpoint."

    number: int  # Number of checkpoints written before it
    tensors: dict[str, Tensor]  # On the CPU
    state: dict  # Plain values


# %%
Checkpoint(3, dict(w=torch.ones(2)), dict(epoch=3))

# %%
assert (
    Checkpoint(3, {}, dict(epoch=3))
    == Checkpoint(3, {}, dict(epoch=3))
    != Checkpoint(4, {}, dict(epoch=3))
)

# %% [markdown]
# Its name contains its number and a checksum of its bytes, so a truncated or damaged file is detected before it is used. Other files in the folder are neither read nor changed.

# %%
#| export
NAME = re.compile(r"(\d{6})-([0-9a-f]{16})\.safetensors")


def checkpoint_files(folder: Path) -> list[Path]:
    "The checkpoints in a folder, newest first."
    return sorted((f for f in folder.glob("*.safetensors") if NAME.fullmatch(f.name)), reverse=True)


# %%
(home / "names").mkdir()
for name in ("000002-" + "a" * 16, "000010-" + "0" * 16, "model", "12-" + "a" * 16):
    (home / "names" / f"{name}.safetensors").touch()
[f.name for f in checkpoint_files(home / "names")]

# %%
assert [f.name[:6] for f in checkpoint_files(home / "names")] == [
    "000010",
    "000002",
] and checkpoint_files(home / "nowhere") == []

# %% [markdown]
# The last two are kept: if the newest is damaged, the previous one costs one more epoch. Unfinished files of killed processes are removed.

# %%
#| export
KEEP = 2  # checkpoints kept per run


def _clear(folder: Path):
    "Remove all but the last checkpoints, and unfinished files of killed writers."
    for old in (*checkpoint_files(folder)[KEEP:], *folder.glob(".*.part")):
        old.unlink(missing_ok=True)


# %%
(home / "names" / ("000001-" + "f" * 16 + ".safetensors")).touch()
(home / "names" / ".000011.1.part").write_text("killed here")
_clear(home / "names")
sorted(f.name[:6] for f in home.joinpath("names").iterdir())

# %%
assert sorted(f.name[:6] for f in home.joinpath("names").iterdir()) == [
    "000002",
    "000010",
    "12-aaa",
    "model.",
]


# %% [markdown]
# A full disk is a common end of a long sweep. The error says how much space is needed, how much is free, and that nothing is lost. The format's own error has no error number, so the free space determines the cause.

# %%
#| export
def _refused(folder: Path, tensors: Mapping[str, Tensor], e: Exception) -> OSError:
    "The error to raise if a checkpoint could not be written because of `e`."
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    needed, free = sum(t.nbytes for t in tensors.values()), shutil.disk_usage(there).free
    number = getattr(e, "errno", None) or (28 if free < needed else 5)
    return OSError(
        number,
        f"a checkpoint of {needed:,} bytes cannot be written to {folder} ({os.strerror(number)};"
        f" {free:,} bytes are free): free space or choose another runs_root, then start the run"
        " again; it resumes from its last checkpoint",
    )


# %%
refused = _refused(
    home / "run" / "checkpoints", dict(w=torch.ones(25)), SafetensorError("I/O error")
)
re.sub("[0-9,]+ bytes are", "… bytes are", str(refused).replace(str(home), "…"))

# %%
# 25 numbers of 4 bytes; there is space, so the cause is another
assert refused.errno == errno.EIO and "a checkpoint of 100 bytes" in str(refused)
assert _refused(home, {}, OSError(errno.EACCES, "no")).errno == errno.EACCES
assert (
    _refused(home, dict(w=torch.empty(2**58, device="meta")), SafetensorError("I/O error")).errno
    == errno.ENOSPC
)


# %%
#| export
def write_checkpoint(
    folder: Path,  # Folder of checkpoints; created if necessary
    number: int,  # 0, 1, 2 …
    tensors: Mapping[str, Tensor],  # Tensors to save; shared memory is written twice
    state: Mapping,  # Plain values, for JSON
) -> Path:  # The file
    """Write a checkpoint atomically, beside those that exist.

    Raises: OSError with the needed and the free space; the earlier checkpoints remain.
    """
    part = folder / f".{number:06}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {
                k: t.detach().cpu().clone(memory_format=torch.contiguous_format)
                for k, t in tensors.items()
            },
            part,
            {"state": json.dumps(dict(state))},
        )
        path = folder / f"{number:06}-{checksum(part)}.safetensors"
        put(part, path)
    except (OSError, SafetensorError) as e:
        raise _refused(folder, tensors, e) from e
    finally:
        # without a folder, this error would hide the one above
        with suppress(OSError):
            part.unlink()
    return path


def save_checkpoint(
    folder: Path,  # Folder of this run's checkpoints; created if necessary
    number: int,  # 0, 1, 2 …
    tensors: Mapping[str, Tensor],  # Tensors to save
    state: Mapping,  # Plain values, for JSON
) -> Path:  # The file
    "Write a checkpoint and remove all but the last two. Raises: as `write_checkpoint`."
    path = write_checkpoint(folder, number, tensors, state)
    _clear(folder)
    return path


# %% [markdown]
# Four checkpoints, of which two stay; then an unfinished file of a killed process; then an impossible folder.

# %%
folder = home / "run" / "checkpoints"
for number in range(4):
    path = save_checkpoint(
        folder, number, dict(w=torch.full((2,), float(number))), dict(epoch=number)
    )
[f.name[:6] for f in checkpoint_files(folder)]

# %%
assert (
    [f.name[:6] for f in checkpoint_files(folder)] == ["000003", "000002"]
    and len(list(folder.iterdir())) == 2
    and path == checkpoint_files(folder)[0]
)
(folder / ".000004.1.part").write_text("killed here")
save_checkpoint(folder, 3, dict(w=torch.full((2,), 3.0)), dict(epoch=3))
assert len(list(folder.iterdir())) == 2
try:
    save_checkpoint(folder, 4, dict(w=torch.zeros(2)), dict(model=nn.ReLU()))
except TypeError as e:
    print(e)
else:
    raise AssertionError("an object was written as a plain value")
# the earlier ones remain, and no temporary file is left
assert len(list(folder.iterdir())) == 2 and path.exists()
(home / "file").write_text("")
try:
    save_checkpoint(home / "file" / "checkpoints", 0, dict(w=torch.zeros(2)), {})
except OSError as e:
    print(re.sub("[0-9,]+ bytes are", "… bytes are", str(e).replace(str(home), "…")))
    assert "a checkpoint of 8 bytes" in str(e) and e.errno == errno.ENOTDIR
else:
    raise AssertionError("a folder inside a file was accepted")


# %% [markdown]
# The checksum is compared before the file is opened as safetensors, because safetensors does not detect a flipped bit inside a tensor.

# %%
#| export
def read_checkpoint(
    path: Path,  # A file of `save_checkpoint`
) -> Checkpoint:
    """Read one checkpoint; never executes code. Raises: ValueError if it is damaged, or is not a
    checkpoint.
    """
    match = NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name} is not a checkpoint's name")
    if checksum(path) != match[2]:
        raise ValueError(
            f"{path.name}: its bytes do not have the checksum in its name; it was cut off or"
            " damaged"
        )
    try:
        with safe_open(path, "pt") as f:
            return Checkpoint(
                int(match[1]),
                {k: f.get_tensor(k) for k in f.keys()},
                json.loads(f.metadata()["state"]),
            )
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as e:
        raise ValueError(f"{path.name} is not a safetensors file with a state ({e})") from e


# %%
read_checkpoint(path)

# %%
both = torch.arange(6.0).view(2, 3)
back = read_checkpoint(
    save_checkpoint(
        home / "both", 7, dict(a=both, b=both.T, half=both.bfloat16()), dict(rows=[1.5, None, "é"])
    )
)
assert (
    back.number == 7
    and back.state == dict(rows=[1.5, None, "é"])
    and torch.equal(back.tensors["b"], both.T)
    and back.tensors["half"].dtype == torch.bfloat16
)
save_file(dict(w=torch.ones(2)), home / "plain")
(home / "plain").rename(stateless := home / f"000001-{checksum(home / 'plain')}.safetensors")
cut_off = home / path.name
cut_off.write_bytes(path.read_bytes()[:-1])
for file, hint in [
    (home / "file", "not a checkpoint's name"),
    (stateless, "with a state"),
    (cut_off, "cut off or damaged"),
]:
    try:
        read_checkpoint(file)
    except ValueError as e:
        print(e)
        assert hint in str(e)
    else:
        raise AssertionError("something else was read as a checkpoint")


# %%
#| export
def load_checkpoint(
    folder: Path,  # Folder of a run's checkpoints
) -> Checkpoint | None:  # The newest intact one; None if there is none
    """Read the newest intact checkpoint; each damaged one is named in a warning and
    skipped.
    """
    for path in checkpoint_files(folder):
        try:
            return read_checkpoint(path)
        except (ValueError, OSError) as e:
            warnings.warn(f"{folder.parent.name}: {e}; trying the previous one", stacklevel=2)
    return None


# %%
load_checkpoint(folder)

# %% [markdown]
# Three kinds of damage: truncation, a flipped bit, and a pickle with a checkpoint's name and the right checksum. Each time the previous checkpoint is used. If the pickle were loaded, it would create a folder.

# %%
whole = checkpoint_files(folder)[0]
original_bytes, trap = whole.read_bytes(), home / "it ran"


class Malicious:
    def __reduce__(self):
        return os.mkdir, (str(trap),)


flipped = bytearray(original_bytes)
flipped[-1] ^= 1
for damaged in (original_bytes[:-3], bytes(flipped)):
    whole.write_bytes(damaged)
    with warnings.catch_warnings(record=True) as said:
        assert load_checkpoint(folder).state == dict(epoch=2)
    print(said[0].message)
    assert len(said) == 1
whole.write_bytes(original_bytes)
evil = folder / "x"
evil.write_bytes(pickle.dumps(Malicious()))
evil.rename(folder / f"000009-{checksum(evil)}.safetensors")
with warnings.catch_warnings(record=True) as said:
    assert load_checkpoint(folder).state == dict(epoch=3)
print(said[0].message)
assert not trap.exists()
assert load_checkpoint(home / "nowhere") is None


# %% [markdown]
# ## The optimizer
#
# Adam's state has two tensors and a counter for each parameter. They are stored under flat names. Learning rates are not included, because the run's schedule sets them.

# %%
#| export
def optimizer_tensors(
    optimizer: torch.optim.Optimizer,  # After some steps
    # "3.exp_avg" → the tensor of the optimizer's fourth parameter; numbers as tensors of no
    # dimension
) -> dict[str, Tensor]:
    """An optimizer's state under flat names, without learning rates and other options, which its
    builder sets.
    """
    return {
        f"{i}.{k}": torch.as_tensor(v)
        for i, memory in optimizer.state_dict()["state"].items()
        for k, v in memory.items()
        if v is not None
    }


# %%
def conv():
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)


def step(model, optimizer, seed):
    optimizer.zero_grad()
    model(
        torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    ).square().mean().backward()
    optimizer.step()


straight = conv()
optimizer = torch.optim.Adam(straight.parameters(), 1e-2, fused=True)
for seed in range(3):
    step(straight, optimizer, seed)
kept, weights = (
    {k: v.clone() for k, v in optimizer_tensors(optimizer).items()},
    copy.deepcopy(straight.state_dict()),
)
{k: tuple(v.shape) for k, v in kept.items()}

# %%
assert (
    list(kept) == [f"{i}.{k}" for i in (0, 1) for k in ("step", "exp_avg", "exp_avg_sq")]
    and kept["1.step"] == 3
)
assert torch.equal(kept["0.exp_avg"], optimizer.state[straight.weight]["exp_avg"])
sgd = torch.optim.SGD(straight.parameters(), 0.1)
step(straight, sgd, 0)
assert optimizer_tensors(sgd) == {}  # no state without momentum
straight.load_state_dict(weights)


# %% [markdown]
# The state is restored into a new optimizer, built in the same way. One pitfall: the fused step goes through memory in order, so each restored tensor needs the memory order of its
# weight (`channels_last` or not). A tensor from a file does not have it.

# %%
#| export
def restore_optimizer(
    optimizer: torch.optim.Optimizer,  # A new one, built in the same way, over the same parameters
    tensors: Mapping[str, Tensor],  # From `optimizer_tensors`
):
    "Restore an optimizer's state, in the memory order of its parameters."
    state = {}
    for name, value in tensors.items():
        state.setdefault(int(name.partition(".")[0]), {})[name.partition(".")[2]] = value
    optimizer.load_state_dict(
        dict(state=state, param_groups=optimizer.state_dict()["param_groups"])
    )
    for parameter, memory in optimizer.state.items():
        for k, v in memory.items():
            if isinstance(v, Tensor) and v.shape == parameter.shape and v.dim():
                memory[k] = torch.empty_like(parameter, dtype=v.dtype).copy_(v)


# %%
def conv():
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)


def step(model, optimizer, seed):
    optimizer.zero_grad()
    model(
        torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    ).square().mean().backward()
    optimizer.step()


straight = conv()
optimizer = torch.optim.Adam(straight.parameters(), 1e-2, fused=True)
for seed in range(3):
    step(straight, optimizer, seed)
kept, weights = (
    {k: v.clone() for k, v in optimizer_tensors(optimizer).items()},
    copy.deepcopy(straight.state_dict()),
)
step(straight, optimizer, 3)
{k: tuple(v.shape) for k, v in kept.items()}

# %%
again = conv()
again.load_state_dict(weights)
other = torch.optim.Adam(again.parameters(), 1e-2, fused=True)
restore_optimizer(other, {k: v.contiguous() for k, v in kept.items()})
step(again, other, 3)
assert torch.equal(again.weight, straight.weight) and torch.equal(again.bias, straight.bias)
assert other.state[again.weight]["exp_avg"].stride() == again.weight.stride()


# %% [markdown]
# ## Random numbers
#
# The training loop seeds each epoch from the run's seed, so a run does not depend on a generator's state. The states are saved nevertheless: a user's own augmentation or callback continues its random numbers where they were.

# %%
#| export
def random_state() -> tuple[dict[str, Tensor], dict]:
    "The states of torch's, NumPy's and Python's global generators: tensors, and plain values."
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    kind, keys, *rest = np.random.get_state()
    tensors = dict(cpu=torch.get_rng_state(), numpy=torch.from_numpy(keys.astype(np.int64))) | {
        f"cuda{i}": s for i, s in enumerate(cuda)
    }
    return tensors, dict(numpy=[kind, *rest], python=random.getstate())


# %%
tensors, plain = random_state()
{k: (tuple(v.shape), v.dtype) for k, v in tensors.items() if k in ("cpu", "numpy")}, plain["numpy"]

# %% [markdown]
# The plain values go through JSON, where tuples become lists, so `restore_random_state` makes them tuples again:

# %%
# unsigned 32-bit numbers, which fit into int64
assert tensors["numpy"].shape == (624,) and int(tensors["numpy"].max()) > 2**31
assert torch.equal(tensors["cpu"], torch.get_rng_state()) and json.loads(json.dumps(plain))[
    "python"
][1] == list(random.getstate()[1])


# %%
#| export
def restore_random_state(
    tensors: Mapping[str, Tensor],  # From `random_state`
    plain: Mapping,  # From `random_state`, possibly through JSON
):
    "Set the global generators; states of missing GPUs are ignored."
    torch.set_rng_state(tensors["cpu"])
    kind, *rest = plain["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), *rest))
    version, inner, gauss = plain["python"]
    random.setstate((version, tuple(inner), gauss))
    for i in range(torch.cuda.device_count()):
        if f"cuda{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda{i}"], i)


# %%
def draw():
    return (
        float(torch.rand(())),
        float(np.random.rand()),
        float(np.random.randn()),
        random.random(),
        random.gauss(),
    )


random.gauss()
np.random.randn()  # both draw two normal numbers at a time and remember the second
tensors, plain = random_state()
drawn = draw()
restore_random_state(tensors, json.loads(json.dumps(plain)))
drawn

# %%
assert draw() == drawn and draw() != drawn
# from a server with more GPUs
restore_random_state(tensors | {"cuda99": torch.zeros(16, dtype=torch.uint8)}, plain)
assert draw() == drawn
