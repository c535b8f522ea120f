# %% [markdown]
# # Snapshots
#
# > One file with all that a run needs to go on: the network, the optimizer, the random numbers

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
# One file holds everything: tensors in the safetensors format, and all that is not a tensor as JSON in that format's header. One file, because one rename makes it appear; two could be torn apart by a kill between them. Nothing that is read back can execute code.

# %%
#| export
@dataclass(frozen=True)
class Checkpoint:
    "What was read back from a checkpoint"

    number: int  # How many were written before it
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
# Its name carries its number and a checksum of its bytes, so that a file that was cut off or that lost a bit is known before anything is taken from it. Other files in the folder are not touched or read.

# %%
#| export
NAME = re.compile(r"(\d{6})-([0-9a-f]{16})\.safetensors")


def checkpoint_files(folder: Path) -> list[Path]:
    "The checkpoints in a folder, the newest first"
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
# The last two are kept: if the newest is damaged, the one before it costs one more epoch. What a process was writing when it was killed is cleared away.

# %%
#| export
KEEP = 2  # checkpoints of one run on the disk


def _clear(folder: Path):
    "Remove all but the last checkpoints, and what a killed writer left."
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
# A disk that refuses is the usual end of a long sweep. The message says how much is needed, how much is there, and that nothing is lost. The format's own error carries no number, so what the disk has left decides what it was.

# %%
#| export
def _refused(folder: Path, tensors: Mapping[str, Tensor], e: Exception) -> OSError:
    "The error to raise where a checkpoint could not be written because of `e`."
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    needed, free = sum(t.nbytes for t in tensors.values()), shutil.disk_usage(there).free
    number = getattr(e, "errno", None) or (28 if free < needed else 5)
    return OSError(
        number,
        f"a checkpoint of {needed:,} bytes cannot be written to {folder} ({os.strerror(number)};"
        f" {free:,} bytes are free): make room or choose another runs_root, then start the run"
        " again; it goes on from its last checkpoint",
    )


# %%
refused = _refused(
    home / "run" / "checkpoints", dict(w=torch.ones(25)), SafetensorError("I/O error")
)
re.sub("[0-9,]+ bytes are", "… bytes are", str(refused).replace(str(home), "…"))

# %%
# 25 numbers of 4 bytes; there is room, so it is something else
assert refused.errno == errno.EIO and "a checkpoint of 100 bytes" in str(refused)
assert _refused(home, {}, OSError(errno.EACCES, "no")).errno == errno.EACCES
assert (
    _refused(home, dict(w=torch.empty(2**58, device="meta")), SafetensorError("I/O error")).errno
    == errno.ENOSPC
)


# %%
#| export
def save_checkpoint(
    folder: Path,  # Of this run's checkpoints; made if need be
    number: int,  # 0, 1, 2 …
    tensors: Mapping[str, Tensor],  # What is to come back; shared memory is written twice
    state: Mapping,  # Plain values, for JSON
) -> Path:  # The file
    """Write a checkpoint in one atomic step and drop all but the last two.

    Raises: OSError that says what is needed where the disk refuses; the earlier checkpoints stand.
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
        # where there is no folder, its error would hide the one above
        with suppress(OSError):
            part.unlink()
    _clear(folder)
    return path


# %% [markdown]
# Four checkpoints, of which two stay; then one that a killed process had begun; then a folder that cannot be.

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
# the earlier ones stand, and nothing is left beside them
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
# The checksum is compared before the file is opened as safetensors: a flipped bit inside a tensor would be read without complaint.

# %%
#| export
def read_checkpoint(
    path: Path,  # A file of `save_checkpoint`
) -> Checkpoint:
    """Read one checkpoint. Raises: ValueError where it is not whole, or is something else.
    Never executes what it reads.
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
    folder: Path,  # Of a run's checkpoints
) -> Checkpoint | None:  # The newest that is whole; None where there is none
    """Read the newest checkpoint that is whole; each damaged one is named in a warning and
    passed over.
    """
    for path in checkpoint_files(folder):
        try:
            return read_checkpoint(path)
        except (ValueError, OSError) as e:
            warnings.warn(f"{folder.parent.name}: {e}; going back to the one before", stacklevel=2)
    return None


# %%
load_checkpoint(folder)

# %% [markdown]
# Three ways to be damaged: cut off, one bit flipped, and a pickle under a checkpoint's name, with the right checksum. Each time the one before is taken. The pickle, if it were loaded, would make a file.

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
# Adam's memory is two tensors a weight and a counter. They are laid flat under names. Learning rates are not among them: a run's schedule sets those.

# %%
#| export
def optimizer_tensors(
    optimizer: torch.optim.Optimizer,  # After some steps
    # "3.exp_avg" → the tensor of the optimizer's fourth parameter; numbers as tensors of no
    # dimension
) -> dict[str, Tensor]:
    """An optimizer's memory under flat names; its learning rates and the like belong to whoever
    builds it.
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
assert optimizer_tensors(sgd) == {}  # without momentum there is nothing to remember
straight.load_state_dict(weights)


# %% [markdown]
# They are poured back into an optimizer that was built anew in the same way. One trap: the fused step walks through memory, so what is poured back must lie in memory as its
# weight does (`channels_last` or not), which a tensor from a file does not by itself.

# %%
#| export
def restore_optimizer(
    optimizer: torch.optim.Optimizer,  # Built anew, in the same way, over the same parameters
    tensors: Mapping[str, Tensor],  # From `optimizer_tensors`
):
    "Give an optimizer its memory back, laid out in memory as its parameters are."
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
# The training loop seeds each epoch from the run's seed, so no generator's state decides a run. They are kept all the same: what a user's own augmentation or callback draws goes on where it was.

# %%
#| export
def random_state() -> tuple[dict[str, Tensor], dict]:
    "The states of torch's, NumPy's and Python's global generators: as tensors, and as plain values"
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
# What is plain goes through JSON, where tuples become lists. That is why they are made tuples again:

# %%
# unsigned 32-bit numbers, for which safetensors' int64 has room
assert tensors["numpy"].shape == (624,) and int(tensors["numpy"].max()) > 2**31
assert torch.equal(tensors["cpu"], torch.get_rng_state()) and json.loads(json.dumps(plain))[
    "python"
][1] == list(random.getstate()[1])


# %%
#| export
def restore_random_state(
    tensors: Mapping[str, Tensor],  # From `random_state`
    plain: Mapping,  # Likewise, perhaps through JSON
):
    "Set the global generators; those of GPUs that are not here are left out."
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
