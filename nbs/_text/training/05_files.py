# %% [markdown]
# # Storage
#
# > Atomic files, locks, and the version of the code

# %%
#| default_exp training.files

# %%
#| export
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path

from filelock import FileLock, Timeout

# %%
import multiprocessing
import tempfile
from unittest.mock import patch

home = Path(tempfile.mkdtemp())


# %% [markdown]
# ## Atomic writing
#
# A file is written under a temporary name, forced to the disk, and renamed; the rename is atomic. A reader finds the old file or the new one, never half of one. A power cut loses what the system still holds in memory,
# which may be the file's bytes or the folder's list of names, so both are forced to the disk.

# %%
#| export
def sync(
    path: Path,  # A file or a folder
):
    "Force a file, or a folder's list of names, to the disk."
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems cannot do this for folders
        if path.is_file():
            raise
    finally:
        os.close(handle)


# %%
(home / "a.part").write_text("new")
with patch("os.fsync", wraps=os.fsync) as forced:
    sync(home / "a.part")
    sync(home)
forced.call_count

# %%
assert forced.call_count == 2 and sync(home) is None
with patch("os.fsync", side_effect=OSError("cannot")):
    sync(home)  # a folder on such a file system
    try:
        sync(home / "a.part")
    except OSError as e:
        print(e)
    else:
        raise AssertionError("a failed sync of a file passed")


# %%
#| export
def put(
    part: Path,  # A written and closed file
    path: Path,  # Its final name
):
    "Give a finished file its final name, in one step that survives a power cut."
    sync(part)
    part.replace(path)
    sync(path.parent)


# %% [markdown]
# The order matters: first the bytes, then the name, then the list of names.

# %%
(home / "a").write_text("old")
with patch("os.fsync", wraps=os.fsync) as forced:
    put(home / "a.part", home / "a")
(home / "a").read_text()

# %%
assert (
    (home / "a").read_text() == "new" and not (home / "a.part").exists() and forced.call_count == 2
)
(home / "a.part").write_text("newer")
with patch("os.fsync", side_effect=OSError("disk full")):
    try:
        put(home / "a.part", home / "a")
    # bytes that are not on the disk get no name
    except OSError:
        assert (home / "a").read_text() == "new"
    else:
        raise AssertionError("bytes that are not on the disk were given a name")
(home / "a.part").unlink()


# %% [markdown]
# All files of a run are written this way: `writing` gives a temporary name, and renames the file if the block succeeds. The temporary name begins with a dot and contains the process's number, so two writers do not collide and the remains of a killed writer are recognizable.

# %%
#| export
@contextmanager
def writing(
    path: Path,  # The file's final name
) -> Iterator[Path]:  # The temporary file to write
    "Write a file atomically: complete, or unchanged if the block raises."
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        put(part, path)
    finally:
        part.unlink(missing_ok=True)


# %%
with writing(home / "a") as part:
    part.write_text("newest")
part.name.replace(str(os.getpid()), "PID"), (home / "a").read_text()

# %%
assert (home / "a").read_text() == "newest" and not part.exists()
try:
    with writing(home / "a") as part:
        part.write_text("half of")
        raise KeyError("the writer fails")
except KeyError:
    assert (home / "a").read_text() == "newest" and not part.exists()
else:
    raise AssertionError("an error in the block was swallowed")


# %% [markdown]
# Results, settings and progress are JSON.

# %%
#| export
def write_json(
    path: Path,  # The file
    what: Mapping,  # Plain values
) -> Path:  # The same path
    "Write JSON atomically."
    with writing(path) as part:
        part.write_text(json.dumps(what, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


# %%
print(write_json(home / "x.json", dict(rho=1.5)).read_text())

# %%
assert (
    json.loads(write_json(home / "x.json", dict(rho=1.5)).read_text()) == dict(rho=1.5)
    and len(list(home.iterdir())) == 2
)
try:
    write_json(home / "x.json", dict(rho=object()))
except TypeError as e:
    print(e)
else:
    raise AssertionError("an object was written as JSON")
# the old file is unchanged, and no temporary file is left
assert json.loads((home / "x.json").read_text()) == dict(rho=1.5) and len(list(home.iterdir())) == 2


# %% [markdown]
# ## One at a time
#
# Two sweeps on one folder, or two runs that need the same dense network, must not compute the same thing twice or write into each other's files. The lock belongs to the operating system, which releases it when its holder ends, however it ends. A lock *file* would
# have to be deleted by hand after a crash.

# %%
#| export
class Busy(RuntimeError):
    "Another process holds the lock."


@contextmanager
def lock(
    path: Path,  # The lock's file; created if necessary
    wait: bool = True,  # Wait for it, or raise `Busy`
) -> Iterator[None]:  # The block holds the lock
    """Hold a lock that ends with its process. Raises: Busy if another process holds it and `wait`
    is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path, timeout=-1 if wait else 0)
    try:
        held.acquire()
    except Timeout as e:
        raise Busy(
            f"{path.name.removesuffix('.lock')} is being worked on by another process"
        ) from e
    try:
        yield
    finally:
        held.release()


# %%
with lock(home / "runs" / "run.lock"):
    try:
        with lock(home / "runs" / "run.lock", wait=False):
            raise AssertionError("two holders of one lock")
    except Busy as e:
        print(e)
        assert str(e).startswith("run is being worked on")
try:
    with lock(home / "runs" / "run.lock", wait=False):
        raise KeyError("the holder fails")
except KeyError:
    pass
with lock(home / "runs" / "run.lock", wait=False):
    print("free again")


# %% [markdown]
# A holder that is killed:

# %%
def hold_and_die():
    with lock(home / "run.lock"):
        os._exit(1)  # as after kill -9: nothing is cleaned up


dying = multiprocessing.get_context("fork").Process(target=hold_and_die)
dying.start()
dying.join()
with lock(home / "run.lock", wait=False):
    print("free again")
assert dying.exitcode == 1


# %% [markdown]
# `held` checks a lock without taking it and without write access, because the folder may belong to a colleague.

# %%
#| export
def held(
    path: Path,  # A lock's file, which need not exist
) -> bool:
    "Whether a process holds this lock."
    import fcntl  # not on Windows

    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


# %%
with lock(home / "run.lock"):
    within = held(home / "run.lock")
within, held(home / "run.lock"), held(home / "none.lock")

# %%
assert within and not held(home / "run.lock")
assert not held(home / "none.lock") and not (home / "none.lock").exists()
with lock(home / "run.lock"):
    (home / "run.lock").chmod(0o444)  # read-only; root may still write it
    assert held(home / "run.lock")
(home / "run.lock").chmod(0o644)


# %% [markdown]
# ## Number of cores
#
# On a shared server a process may use fewer cores than the machine has, because of CPU affinity or a container's limit, and more threads than cores only wait for each other. Two threads of one physical core share its arithmetic units. So computation counts physical cores, while decoding and waiting
# count all.

# %%
#| export
def cores(
    physical: bool = False,  # Count two threads of one core as one
) -> int:  # At least 1
    "The cores that this process, or its container, may use."
    from joblib import cpu_count  # slow to import, and rarely needed

    return cpu_count(only_physical_cores=physical)


# %%
cores(), cores(physical=True)

# %%
bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
assert 1 <= cores(physical=True) <= cores() <= bound
if hasattr(os, "sched_setaffinity"):  # bound to one core
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    assert cores() == cores(physical=True) == 1
    os.sched_setaffinity(0, allowed)


# %% [markdown]
# ## Version of the code
#
# A result belongs to the code that computed it. The package's version is too coarse during development, and a commit does not identify an installed wheel, so the version is a hash of source lines. Comments and empty lines are left out, because they do not affect results.

# %%
#| export
def _code_lines(file: Path) -> list[str]:
    "A module's lines without comments, empty lines and spaces at the end."
    lines = [line.rstrip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.lstrip().startswith("#")]


# %%
toy = home / "toy"
toy.mkdir()
(toy / "training.py").write_text("# why\nx = 1   \n\nif x:\n    # because\n    x = 2  # two\n")
_code_lines(toy / "training.py")

# %%
assert _code_lines(toy / "training.py") == ["x = 1", "if x:", "    x = 2  # two"]

# %% [markdown]
# The chapters from the method to the run decide a result, and of the judge the three modules that a run's own figures come from. Code that queues, shows or judges finished runs is left out: a new plot or a new audit does not change a run. A test follows the imports
# from a run and compares them with this list. The hash is computed at the first call in a process, because the process uses the modules that it has loaded, whatever is written to the disk later.

# %%
#| export
# chapters, and single modules, whose code decides a run's result
DECIDING = (
    "method",
    "methods",
    "judge.tables",
    "judge.disparity",
    "judge.compare",
    "data",
    "networks",
    "training",
    "experiment",
)


@cache
def code_version(
    package: Path | None = None,  # Folder of the package's chapters; None: this one
) -> str:  # 12 hexadecimal digits
    "Hash of the code that decides a run's result, computed at the first call in a process."
    home = package or Path(str(files("fairgrape")))
    digest = hashlib.sha256()
    for part in DECIDING:
        chapter, _, module = part.partition(".")
        for file in sorted((home / chapter).glob(f"{module or '*'}.py")):
            name = f"{chapter}.{file.stem}"
            digest.update("\n".join([name, *_code_lines(file)]).encode())
    return digest.hexdigest()[:12]


# %%
code_version()

# %%
for file in ("training/loop.py", "report/loop.py", "judge/audit.py", "judge/compare.py"):
    (toy / file).parent.mkdir(exist_ok=True)
    (toy / file).write_text("x = 1\n")
now = code_version.__wrapped__  # without the cache
first = now(toy)
for file in ("report/loop.py", "judge/audit.py"):
    (toy / file).write_text("x = 2\n")
(toy / "training" / "loop.py").write_text("# why\nx = 1\n\n")
assert now(toy) == first and len(first) == 12
(toy / "training" / "loop.py").write_text("x = 2\n")
second = now(toy)
(toy / "training" / "loop.py").rename(toy / "training" / "epochs.py")
third = now(toy)
(toy / "judge" / "compare.py").write_text("x = 2\n")
assert len({first, second, third, now(toy)}) == 4
assert code_version() is code_version() and len(code_version()) == 12


# %% [markdown]
# A file whose name contains a checksum of its bytes can be tested for truncation and flipped bits.

# %%
#| export
def checksum(
    path: Path,  # A file
) -> str:  # 16 hexadecimal digits
    "A checksum of a file's bytes (BLAKE2b)."
    with path.open("rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


# %%
(home / "a").write_bytes(b"abc")
checksum(home / "a")

# %%
assert (
    checksum(home / "a") == hashlib.blake2b(b"abc", digest_size=8).hexdigest()
    and len(checksum(home / "a")) == 16
)
(home / "a").write_bytes(b"abd")
assert checksum(home / "a") != hashlib.blake2b(b"abc", digest_size=8).hexdigest()
