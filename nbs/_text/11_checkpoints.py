# %% [markdown]
# # Checkpoints
#
# > What a run keeps while it runs, so that whatever kills it costs at most an epoch

# %%
#| default_exp checkpoints

# %%
#| export
import hashlib
import json
import os
import random
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from fastcore.basics import patch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fairgrape.masks import apply_masks

# %%
import copy
import multiprocessing
import pickle
import tempfile

from fairgrape.masks import get_masks

home = Path(tempfile.mkdtemp())


# %% [markdown]
# A pruning run of the paper's protocol trains for 150 epochs and more. Servers reboot, queues preempt, somebody presses Ctrl-C. Three promises follow, and this notebook is how they are kept:
#
# - a run that was killed at any moment and started again ends with **the same masks and metrics, bit for bit**, as one that was never killed (same machine, same number of threads);
# - what it had done is lost back to the last epoch at most;
# - nothing that is read back can execute code: tensors in safetensors, everything else in JSON, no pickle.
#
# ## Files that are whole or not there
#
# A file is written under another name, forced to the disk, and renamed; renaming is the one step that a file system makes atomic. Whoever reads finds the old file or the new one, never half of one.

# %%
#| export
def sync(
    path: Path, # A file or a folder
):
    "Force a file, or a folder's list of names, to the disk"
    handle = os.open(path, os.O_RDONLY)
    try: os.fsync(handle)
    except OSError:                           # some file systems cannot do this for folders
        if path.is_file(): raise
    finally: os.close(handle)

def put(
    part: Path, # A file that is written and closed
    path: Path, # Its name from now on
):
    "Make a finished file appear under its name, in one step that survives a power cut."
    sync(part)
    part.replace(path)
    sync(path.parent)


# %%
(home / "a.part").write_text("new"); (home / "a").write_text("old")
put(home / "a.part", home / "a")
(home / "a").read_text()

# %%
assert (home / "a").read_text() == "new" and not (home / "a.part").exists()


# %%
#| export
def write_json(
    path: Path,    # Where to
    what: Mapping, # Plain values
) -> Path:         # The same path
    "Write JSON in one atomic step: the file is whole or not there."
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(what, indent=1, ensure_ascii=False), encoding="utf-8")
        put(part, path)
    finally: part.unlink(missing_ok=True)
    return path


# %%
print(write_json(home / "x.json", dict(rho=1.5)).read_text())

# %%
assert json.loads((home / "x.json").read_text()) == dict(rho=1.5) and len(list(home.iterdir())) == 2
try: write_json(home / "x.json", dict(rho=object()))
except TypeError as e: print(e)
else: raise AssertionError("an object was written as JSON")
assert json.loads((home / "x.json").read_text()) == dict(rho=1.5) and len(list(home.iterdir())) == 2      # the old file stands, and nothing is left beside it


# %% [markdown]
# ## One at a time
#
# Two sweeps on one folder, or two runs that need the same dense network, must not compute the same thing twice, let alone write into each other's files. The lock is the operating system's: it is gone when its holder is, however it died. A lock *file* that
# somebody has to delete after a crash would be the opposite of surviving.

# %%
#| export
class Busy(RuntimeError): "Somebody else holds the lock"

@contextmanager
def lock(
    path: Path,        # The lock's file; made if need be
    wait: bool = True, # Wait for it, or raise `Busy`
) -> Iterator[None]:   # Holds it within
    "Hold a lock that ends with its process. Raises: Busy if it is held elsewhere and `wait` is False."
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path, timeout=-1 if wait else 0)
    try: held.acquire()
    except Timeout as e: raise Busy(f"{path.name.removesuffix('.lock')} is being worked on by another process") from e
    try: yield
    finally: held.release()


# %%
with lock(home / "run.lock"):
    try:
        with lock(home / "run.lock", wait=False): raise AssertionError("two holders of one lock")
    except Busy as e: print(e)


# %%
def hold_and_die():
    with lock(home / "run.lock"): os._exit(1)                              # as after kill -9: nothing is cleaned up

dying = multiprocessing.get_context("fork").Process(target=hold_and_die)
dying.start(); dying.join()
with lock(home / "run.lock", wait=False): print("free again")

# %% [markdown]
# ## Which code
#
# A result belongs to the code that made it. The package's version is too coarse while somebody works on it, and a commit says nothing about an installed wheel; so it is a hash of the source lines of the modules that decide a result. Those that only show or
# queue results are left out, as are comments: a new plot does not make old runs doubtful.

# %%
#| export
TELLING = {"settings", "plots", "report", "studies", "runner", "sweep", "ray_sweep", "sizing", "cli"}   # modules that do not decide a run's result

@cache
def code_version(
    package: Path | None = None, # Folder of the package's modules; None: this one
) -> str:                        # 12 hexadecimal digits
    "Hash of the code that decides a run's result, as it was when this process first asked."
    digest = hashlib.sha256()
    for file in sorted((package or Path(str(files("fairgrape")))).glob("*.py")):
        lines = [line.rstrip() for line in file.read_text(encoding="utf-8").splitlines()]
        code = [line for line in lines if line and not line.lstrip().startswith("#")]
        if file.stem not in TELLING and not file.stem.startswith("_"): digest.update("\n".join([file.stem, *code]).encode())
    return digest.hexdigest()[:12]


# %%
code_version()

# %%
toy = home / "toy"; toy.mkdir()
for name in ("training", "plots"): (toy / f"{name}.py").write_text("x = 1\n")
now = code_version.__wrapped__                             # without the memory of what it said before
first = now(toy)
(toy / "plots.py").write_text("x = 2\n"); (toy / "training.py").write_text("# why\nx = 1\n\n")
assert now(toy) == first
(toy / "training.py").write_text("x = 2\n")
assert now(toy) != first and len(code_version()) == 12


# %% [markdown]
# ## A checkpoint
#
# One file holds everything: tensors in the safetensors format, and all that is not a tensor as JSON in that format's header. One file, because one rename makes it appear; two could be torn apart by a kill between them. Its name carries its number and a
# checksum of its bytes, so that a file that was cut off or that lost a bit is known before anything is taken from it. The last two are kept: if the newest is damaged, the one before it costs one more epoch.

# %%
#| export
def checksum(
    path: Path, # A file
) -> str:       # 16 hexadecimal digits
    "A checksum of a file's bytes (BLAKE2b)."
    with path.open("rb") as f: return hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=8)).hexdigest()

@dataclass(frozen=True)
class Checkpoint:
    "What was read back from a checkpoint"
    number: int                # How many were written before it
    tensors: dict[str, Tensor] # On the CPU
    state: dict                # Plain values


# %%
#| export
KEEP = 2                                                                  # checkpoints of one run on the disk
NAME = re.compile(r"(\d{6})-([0-9a-f]{16})\.safetensors")

def save_checkpoint(
    folder: Path,                # Of this run's checkpoints; made if need be
    number: int,                 # 0, 1, 2 …
    tensors: Mapping[str, Tensor], # What is to come back; shared memory is written twice
    state: Mapping,              # Plain values, for JSON
) -> Path:                       # The file
    """Write a checkpoint in one atomic step and drop all but the last two.

    Raises: OSError that says what is needed where the disk refuses; the earlier checkpoints stand."""
    part = folder / f".{number:06}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}, part, {"state": json.dumps(dict(state))})
        path = folder / f"{number:06}-{checksum(part)}.safetensors"
        put(part, path)
    except (OSError, SafetensorError) as e: raise _refused(folder, tensors, e) from e
    finally: part.unlink(missing_ok=True)
    for old in (*checkpoint_files(folder)[KEEP:], *folder.glob(".*.part")): old.unlink(missing_ok=True)   # the parts: of a process that was killed while it wrote
    return path

def checkpoint_files(folder: Path) -> list[Path]:
    "The checkpoints in a folder, the newest first"
    return sorted((f for f in folder.glob("*.safetensors") if NAME.fullmatch(f.name)), reverse=True)

def _refused(folder: Path, tensors: Mapping[str, Tensor], e: Exception) -> OSError:
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    needed, free = sum(t.nbytes for t in tensors.values()), shutil.disk_usage(there).free
    number = getattr(e, "errno", None) or (28 if free < needed else 5)
    return OSError(number, f"a checkpoint of {needed:,} bytes cannot be written to {folder} ({os.strerror(number)}; {free:,} bytes are free): "
                           "make room or choose another runs_root, then start the run again; it goes on from its last checkpoint")


# %%
folder = home / "run" / "checkpoints"
for number in range(4): save_checkpoint(folder, number, dict(w=torch.full((2,), float(number))), dict(epoch=number))
[f.name[:6] for f in checkpoint_files(folder)]

# %%
assert [f.name[:6] for f in checkpoint_files(folder)] == ["000003", "000002"] and len(list(folder.iterdir())) == 2
(folder / ".000004.1.part").write_text("killed here"); save_checkpoint(folder, 3, dict(w=torch.full((2,), 3.)), dict(epoch=3))
assert len(list(folder.iterdir())) == 2
(home / "file").write_text("")
try: save_checkpoint(home / "file" / "checkpoints", 0, dict(w=torch.zeros(2)), {})
except OSError as e: print(str(e).replace(str(home), "…"))
else: raise AssertionError("a folder inside a file was accepted")


# %%
#| export
def read_checkpoint(
    path: Path, # A file of `save_checkpoint`
) -> Checkpoint:
    "Read one checkpoint. Raises: ValueError where it is not whole, or is something else. Never executes what it reads."
    match = NAME.fullmatch(path.name)
    if match is None: raise ValueError(f"{path.name} is not a checkpoint's name")
    if checksum(path) != match[2]: raise ValueError(f"{path.name}: its bytes do not have the checksum in its name; it was cut off or damaged")
    try:
        with safe_open(path, "pt") as f: return Checkpoint(int(match[1]), {k: f.get_tensor(k) for k in f.keys()}, json.loads(f.metadata()["state"]))
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as e: raise ValueError(f"{path.name} is not a safetensors file with a state ({e})") from e

def load_checkpoint(
    folder: Path,          # Of a run's checkpoints
) -> Checkpoint | None:    # The newest that is whole; None where there is none
    "Read the newest checkpoint that is whole; each damaged one is named in a warning and passed over."
    for path in checkpoint_files(folder):
        try: return read_checkpoint(path)
        except (ValueError, OSError) as e: warnings.warn(f"{folder.parent.name}: {e}; going back to the one before", stacklevel=2)
    return None


# %%
load_checkpoint(folder)

# %% [markdown]
# Three ways to be damaged: cut off, one bit flipped, and a pickle under a checkpoint's name, with the right checksum. Each time the one before is taken. The pickle, if it were loaded, would make a file.

# %%
whole = checkpoint_files(folder)[0]
original_bytes, trap = whole.read_bytes(), home / "it ran"

class Malicious:
    def __reduce__(self): return os.mkdir, (str(trap),)

flipped = bytearray(original_bytes); flipped[-1] ^= 1
for damaged in (original_bytes[:-3], bytes(flipped)):
    whole.write_bytes(damaged)
    with warnings.catch_warnings(record=True) as said: assert load_checkpoint(folder).state == dict(epoch=2)
    print(said[0].message); assert len(said) == 1
whole.write_bytes(original_bytes)
evil = folder / "x"; evil.write_bytes(pickle.dumps(Malicious()))
evil.rename(folder / f"000009-{checksum(evil)}.safetensors")
with warnings.catch_warnings(record=True) as said: assert load_checkpoint(folder).state == dict(epoch=3)
print(said[0].message); assert not trap.exists()
assert load_checkpoint(home / "nowhere") is None
try: read_checkpoint(home / "x.json")
except ValueError as e: print(e)
else: raise AssertionError("something else was read as a checkpoint")


# %% [markdown]
# ## The optimizer
#
# Adam's memory is two tensors a weight and a counter. They are laid flat under names, and poured back into an optimizer that was built anew in the same way. One trap: the fused step walks through memory, so what is poured back must lie in memory as its
# weight does (`channels_last` or not), which a tensor from a file does not by itself.

# %%
#| export
def optimizer_tensors(
    optimizer: torch.optim.Optimizer, # After some steps
) -> dict[str, Tensor]:               # "3.exp_avg" → the tensor of the optimizer's fourth parameter; numbers as tensors of no dimension
    "An optimizer's memory under flat names; its learning rates and the like belong to whoever builds it."
    return {f"{i}.{k}": torch.as_tensor(v) for i, memory in optimizer.state_dict()["state"].items() for k, v in memory.items() if v is not None}

def restore_optimizer(
    optimizer: torch.optim.Optimizer, # Built anew, in the same way, over the same parameters
    tensors: Mapping[str, Tensor],    # From `optimizer_tensors`
):
    "Give an optimizer its memory back, laid out in memory as its parameters are."
    state = {}
    for name, value in tensors.items(): state.setdefault(int(name.partition(".")[0]), {})[name.partition(".")[2]] = value
    optimizer.load_state_dict(dict(state=state, param_groups=optimizer.state_dict()["param_groups"]))
    for parameter, memory in optimizer.state.items():
        for k, v in memory.items():
            if isinstance(v, Tensor) and v.shape == parameter.shape and v.dim(): memory[k] = torch.empty_like(parameter, dtype=v.dtype).copy_(v)


# %%
def conv(): torch.manual_seed(0); return nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
def step(model, optimizer, seed):
    optimizer.zero_grad(); model(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))).square().mean().backward(); optimizer.step()

straight = conv(); optimizer = torch.optim.Adam(straight.parameters(), 1e-2, fused=True)
for seed in range(3): step(straight, optimizer, seed)
kept, weights = {k: v.clone() for k, v in optimizer_tensors(optimizer).items()}, copy.deepcopy(straight.state_dict())
step(straight, optimizer, 3)
{k: tuple(v.shape) for k, v in kept.items()}

# %%
again = conv(); again.load_state_dict(weights)
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
    tensors = dict(cpu=torch.get_rng_state(), numpy=torch.from_numpy(keys.astype(np.int64))) | {f"cuda{i}": s for i, s in enumerate(cuda)}
    return tensors, dict(numpy=[kind, *rest], python=random.getstate())

def restore_random_state(
    tensors: Mapping[str, Tensor], # From `random_state`
    plain: Mapping,                # Likewise, perhaps through JSON
):
    "Set the global generators; those of GPUs that are not here are left out."
    torch.set_rng_state(tensors["cpu"])
    kind, *rest = plain["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), *rest))
    version, inner, gauss = plain["python"]
    random.setstate((version, tuple(inner), gauss))
    for i in range(torch.cuda.device_count()):
        if f"cuda{i}" in tensors: torch.cuda.set_rng_state(tensors[f"cuda{i}"], i)


# %%
tensors, plain = random_state()
draw = lambda: (float(torch.rand(())), float(np.random.rand()), random.random())
drawn = draw()
restore_random_state(tensors, json.loads(json.dumps(plain)))
drawn

# %%
restore_random_state(tensors, json.loads(json.dumps(plain)))
assert draw() == drawn and draw() != drawn


# %% [markdown]
# ## The journal of a run
#
# A run is a fixed sequence: (score, select, retrain) again and again, then the final training, each training some stages of some epochs. The journal knows how far it came. It is written after each epoch and after each selection; what it must hold is the
# network with its masks, and, in the middle of a stage, the optimizer and the best epoch so far. A training loop that is given a journal asks it three things: is this stage done, is it half done, and here is another epoch.

# %%
#| export
@dataclass
class Stage:
    "A training stage that is not finished"
    label: str                  # What is trained, e.g. "step 3"
    stage: int                  # Which of its stages, from 0
    rows: list[dict]            # One row for each epoch so far
    best: int                   # The best of them, by validation loss
    weights: dict[str, Tensor]  # The network's state after that epoch
    optimizer: dict[str, Tensor]# From `optimizer_tensors`
    scaler: dict                # The loss scaler's state

@dataclass
class Journal:
    "How far a run came; kept in its folder while it runs"
    folder: Path | None = None                          # The run's folder; None: nothing is written
    total: int = 0                                      # Epochs of the whole run, for those who watch
    history: list[dict] = field(default_factory=list)   # Rows of finished stages, and of what came before the run
    steps: list[dict] = field(default_factory=list)     # Finished pruning steps
    selected: dict | None = None                        # The step whose masks are set, but whose retraining is not through
    unfinished: Stage | None = None                     # The training stage under way
    facts: dict = field(default_factory=dict)           # Whatever else must come back; plain values
    network: dict[str, Tensor] = field(default_factory=dict) # The network's state, where one was found
    written: int = 0                                    # Checkpoints so far
    before: float = 0.                                  # Seconds spent by earlier processes
    resumed: int = 0                                    # How often the run was taken up again
    started: float = field(default_factory=time.perf_counter)

    @property
    def checkpoints(self) -> Path: return self.folder / "checkpoints"
    @property
    def found(self) -> bool: return bool(self.network)


# %%
Journal()

# %%
assert not Journal().found and Journal(home).checkpoints == home / "checkpoints"


# %%
#| export
@patch
def done(self: Journal, label: str, stage: int) -> bool:
    "Whether that stage of that training is finished"
    return any(row["label"] == label and row["stage"] == stage for row in self.history)

@patch
def half_done(self: Journal, label: str, stage: int) -> Stage | None:
    "What is there of that stage, if it is the one under way"
    here = self.unfinished
    return here if here is not None and (here.label, here.stage) == (label, stage) else None

@patch
def begun(self: Journal, label: str) -> bool:
    "Whether anything of that training is there"
    return any(row["label"] == label for row in self.history) or (self.unfinished is not None and self.unfinished.label == label)


# %%
journal = Journal(history=[dict(label="step 1", stage=0)], unfinished=Stage("step 2", 1, [], 0, {}, {}, {}))
journal.done("step 1", 0), journal.done("step 2", 1), journal.begun("step 2"), journal.half_done("step 2", 1).label

# %%
assert journal.done("step 1", 0) and not journal.done("step 1", 1) and not journal.done("step 2", 1)
assert journal.begun("step 1") and journal.begun("step 2") and not journal.begun("final")
assert journal.half_done("step 2", 1) is journal.unfinished and journal.half_done("step 2", 0) is None and Journal().half_done("dense", 0) is None

# %% [markdown]
# Writing puts all tensors into one dictionary with prefixes. Beside the checkpoint goes `progress.json`, a few words for people and for `fairgrape status`.

# %%
#| export
PARTS = ("network", "best", "optimizer", "random")

@patch
def write(
    self: Journal,
    model: nn.Module, # The network as it is now, masks included
    label: str = "",  # What is going on, e.g. "step 3 of 44"
    epoch: str = "",  # Which epoch of it, e.g. "2 of 3"
):
    "Write a checkpoint and the progress. Raises: OSError where the disk refuses."
    if self.folder is None: return
    here, (random_tensors, random_plain) = self.unfinished, random_state()
    parts = dict(network=model.state_dict(), random=random_tensors, optimizer=here.optimizer if here else {}, best=here.weights if here and here.best < len(here.rows) - 1 else {})
    stage = None if here is None else dict(label=here.label, stage=here.stage, rows=here.rows, best=here.best, scaler=here.scaler)
    state = dict(history=self.history, steps=self.steps, selected=self.selected, stage=stage, facts=self.facts, random=random_plain, seconds=self.seconds, resumed=self.resumed,
                 threads=torch.get_num_threads(), code=code_version(), torch=torch.__version__)
    save_checkpoint(self.checkpoints, self.written, {f"{part}:{k}": v for part in PARTS for k, v in parts[part].items()}, state)
    self.written += 1
    write_json(self.folder / "progress.json", dict(label=label, epoch=epoch, done=self.epochs, total=self.total, seconds=self.seconds, updated=datetime.now(UTC).isoformat(timespec="seconds")))

@patch(as_prop=True)
def seconds(self: Journal) -> float: return self.before + time.perf_counter() - self.started

@patch(as_prop=True)
def epochs(self: Journal) -> int:
    "Epochs that this run has behind it"
    return len(self.history) - self.facts.get("rows_before", 0) + (len(self.unfinished.rows) if self.unfinished else 0)


# %%
journal = Journal(home / "toy run", total=3)
journal.unfinished = Stage("dense", 0, [dict(val_loss=0.5)], 0, {}, {}, {})
net = nn.Sequential(nn.Linear(3, 2))
journal.write(net, "dense", "1 of 3")
json.loads((home / "toy run" / "progress.json").read_text())["label"], [f.name[:6] for f in checkpoint_files(journal.checkpoints)]

# %%
assert journal.epochs == 1 and journal.written == 1 and journal.seconds > 0
Journal().write(net)                                                     # without a folder nothing is written


# %% [markdown]
# Reading it back. A checkpoint of other code is put aside: a run that is half of one version and half of another is neither's. The number of threads decides the order in which sums are taken, and with it the last bits, so it is set to what the run began with.

# %%
#| export
def open_journal(
    folder: Path | None,  # The run's folder; None: a journal that writes nothing
    total: int = 0,       # Epochs of the whole run
    history: list[dict] | None = None, # Rows of what came before the run, if it starts from nothing
) -> Journal:
    "The journal of a run: a new one, or from its newest whole checkpoint."
    found = None if folder is None else load_checkpoint(folder / "checkpoints")
    if found is not None and found.state["code"] != code_version():
        aside = folder / f"checkpoints.{found.state['code']}"
        warnings.warn(f"{folder.name}: its checkpoints were written by other code ({found.state['code']}, now {code_version()}), so it starts again; they are kept in {aside.name}", stacklevel=2)
        shutil.rmtree(aside, ignore_errors=True)
        (folder / "checkpoints").rename(aside)
        found = None
    if found is None: return Journal(folder, total, history=list(history or []), facts=dict(rows_before=len(history or [])))
    return _journal(folder, total, found)

def _journal(folder: Path, total: int, found: Checkpoint) -> Journal:
    s, parts = found.state, {part: {} for part in PARTS}
    for name, tensor in found.tensors.items(): parts[name.partition(":")[0]][name.partition(":")[2]] = tensor
    here = s["stage"] and Stage(**s["stage"], weights=parts["best"] or parts["network"], optimizer=parts["optimizer"])
    if torch.get_num_threads() != s["threads"]:
        warnings.warn(f"{folder.name} began with {s['threads']} threads and goes on with as many, so that it ends with the same bits", stacklevel=3)
        torch.set_num_threads(s["threads"])
    restore_random_state(parts["random"], s["random"])
    return Journal(folder, total, s["history"], s["steps"], s["selected"], here, s["facts"], parts["network"], found.number + 1, s["seconds"], s["resumed"] + 1)


# %%
back = open_journal(home / "toy run", total=3)
back.found, back.unfinished.label, back.epochs, back.resumed

# %%
assert torch.equal(back.network["0.weight"], net.state_dict()["0.weight"]) and back.written == 1 and back.before > 0
assert back.unfinished.weights.keys() == net.state_dict().keys()         # the best epoch is the last one, so it is not kept twice
assert not open_journal(home / "another run").found and not open_journal(None).found
fresh = open_journal(None, history=[dict(label="dense", stage=0)])
assert fresh.epochs == 0 and fresh.done("dense", 0)                      # what came before is not this run's work

# %%
threads = torch.get_num_threads()
torch.set_num_threads(threads + 1)
with warnings.catch_warnings(record=True) as said: open_journal(home / "toy run")
print(said[0].message); assert torch.get_num_threads() == threads

# %% [markdown]
# The network comes back with its masks: where the checkpoint has masks, the network is given them first, then its state.

# %%
#| export
MASK = ".parametrizations.weight.0.mask"

@patch
def restore(
    self: Journal,
    model: nn.Module, # A network as it was before pruning; changed in place
) -> nn.Module:       # The same network, as it was at the checkpoint
    "Bring a network to the state of the checkpoint, if there is one."
    if not self.found: return model
    masks = {name.removesuffix(MASK): mask for name, mask in self.network.items() if name.endswith(MASK)}
    if masks: apply_masks(model, masks)
    model.load_state_dict(self.network)
    return model


# %%
masked = apply_masks(nn.Sequential(nn.Linear(3, 2)), {"0": torch.tensor([[True, False, True], [False, True, True]])})
journal = Journal(home / "masked run"); journal.write(masked)
back = open_journal(home / "masked run").restore(nn.Sequential(nn.Linear(3, 2)))
back[0].weight

# %%
assert torch.equal(back[0].weight, masked[0].weight) and torch.equal(get_masks(back)["0"], get_masks(masked)["0"])
untouched = nn.Sequential(nn.Linear(3, 2)); before = untouched[0].weight.clone()
assert torch.equal(Journal().restore(untouched)[0].weight, before)

# %% [markdown]
# And a checkpoint of other code is put aside, not used:

# %%
stale = home / "stale run"
stale_journal = Journal(stale); stale_journal.write(net)
tensors = load_checkpoint(stale / "checkpoints")
save_checkpoint(stale / "checkpoints", 1, tensors.tensors, tensors.state | dict(code="0" * 12))
with warnings.catch_warnings(record=True) as said: assert not open_journal(stale).found
print(said[0].message); assert (stale / f"checkpoints.{'0' * 12}").is_dir() and not (stale / "checkpoints").exists()


# %% [markdown]
# When the run is through, its results are there and the journal has no more to say.

# %%
#| export
@patch
def close(self: Journal):
    "Remove what was kept for going on; the run's results are written."
    if self.folder is None: return
    (self.folder / "progress.json").unlink(missing_ok=True)
    shutil.rmtree(self.checkpoints, ignore_errors=True)


# %%
open_journal(home / "toy run").close()
list((home / "toy run").iterdir())

# %%
assert not list((home / "toy run").iterdir())
Journal().close()
