# %% [markdown]
# # Jobs
#
# > The files with which processes share a run: its state, job, lock, progress and outcome

# %%
#| default_exp sweep.jobs

# %%
#| export
import builtins
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from fairgrape.experiment.paths import inside
from fairgrape.sweep.kernels import notebook_is_whole
from fairgrape.training.files import Busy, lock, write_json

# %%
import io
import tempfile
from contextlib import redirect_stdout

tmp = Path(tempfile.mkdtemp())


# %% [markdown]
# A sweep, its workers and a second sweep share nothing but a disk. Any of them may be killed at any moment. They communicate through files, each written in one step, and locks, which the system releases when their owner ends.
#
# ## When a run is complete
#
# A run is complete if its notebook is complete, `metrics.json`, which it writes last, exists, and both come from the installed code. A run of older code may have other numbers. Each run therefore records the version of its code; the oldest runs have none.

# %%
#| export
def code_of(folder: Path) -> str:
    'The version of the code that made a run; "unknown" for runs without a record of it.'
    try:
        return str(json.loads((folder / "environment.json").read_text(encoding="utf-8"))["code"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


# %%
def noted(text: str) -> Path:
    "A run folder with that environment"
    (tmp / "noted").mkdir(exist_ok=True)
    (tmp / "noted" / "environment.json").write_text(text)
    return tmp / "noted"


(
    [code_of(noted(text)) for text in ('{"code": "1a2b"}', '{"torch": "2.5"}', "{", "3")],
    code_of(tmp / "nowhere"),
)

# %%
assert [code_of(noted(text)) for text in ('{"code": "1a2b"}', '{"code": 7}', "{}", "{", "3")] == [
    "1a2b",
    "7",
    "unknown",
    "unknown",
    "unknown",
]
assert code_of(tmp / "nowhere") == "unknown"


# %% [markdown]
# A run of other code counts only if the user accepts it; otherwise it is made again.

# %%
#| export
def state_of(
    folder: Path,  # A run folder, which need not exist
    code: str,  # The code as it is now: `fairgrape.training.files.code_version()`
    accept_older: bool = False,  # Let a finished run of other code count
) -> str:  # "complete", "older" (finished by other code), "broken" (begun), or "absent"
    "The state of a run, from the files in its folder."
    if not (folder / "metrics.json").is_file():
        return "broken" if folder.is_dir() else "absent"
    if not accept_older and code_of(folder) != code:
        return "older"
    return "complete" if notebook_is_whole(folder / "prune.ipynb") else "broken"


# %% [markdown]
# A run folder as it fills: absent, created, with its environment, with its metrics, with its notebook. The last two states are of the same folder with later code.

# %%
run = tmp / "run"
said = [state_of(run, "now")]
run.mkdir()
whole = dict(cells=[dict(cell_type="code", metadata=dict(papermill=dict(exception=False)))])
for name, what in (
    ("environment.json", dict(code="now")),
    ("metrics.json", {}),
    ("prune.ipynb", whole),
):
    said.append(state_of(run, "now"))
    (run / name).write_text(json.dumps(what))
said += [state_of(run, "now"), state_of(run, "later"), state_of(run, "later", accept_older=True)]
said

# %%
assert said == ["absent", "broken", "broken", "broken", "complete", "older", "complete"]


# %% [markdown]
# A run that is made again is not deleted, because it took hours. It moves to `.older/` in the runs folder, with its code in the name; the report ignores names that begin with a dot.

# %%
#| export
def set_aside(
    folder: Path,  # A run folder
) -> Path:  # Where it is now
    "Move a run of other code to `.older/<name>-<code>`."
    there = folder.parent / ".older"
    there.mkdir(exist_ok=True)
    target, n = there / f"{folder.name}-{code_of(folder)}", 1
    while target.exists():
        n += 1
        target = there / f"{folder.name}-{code_of(folder)}-{n}"
    return folder.rename(target)


# %%
str(set_aside(run).relative_to(tmp))

# %%
assert not run.exists() and (tmp / ".older" / "run-now" / "metrics.json").is_file()
for expected in ("run-unknown", "run-unknown-2", "run-unknown-3"):
    run.mkdir()
    assert set_aside(run).name == expected


# %% [markdown]
# ## A job
#
# A small JSON file has everything that a worker needs to know about a run. Its writer has already read the labels and knows the folders.

# %%
#| export
@dataclass(frozen=True)
class RunJob:
    "One run, in the form that a worker gets."

    folder: str  # The run folder, absolute; a folder in the runs folder
    parameters: dict  # Settings and places of the notebook
    code: str  # The version of the planner's code
    dense: str = ""  # Folder of the dense network that it starts from
    accept_older: bool = False  # Let finished runs of other code count
    wait: bool = False  # Wait if another process works on the same run
    template: str = "prune"  # The notebook

    @property
    def runs_root(self) -> Path:
        return Path(self.folder).parent


# %%
job = RunJob(str(tmp / "runs" / "ws-1"), dict(rate=0.9, runs_root=str(tmp / "runs")), "1a2b")
assert (
    job.runs_root == tmp / "runs"
    and json.loads(json.dumps(asdict(job)))["parameters"]["rate"] == 0.9
)
{k: v for k, v in asdict(job).items() if k not in ("folder", "parameters")}


# %% [markdown]
# The file may come from another machine or an older version, and its folder may be moved aside. Reading it checks its contents: anything that is not a job, or would write outside its runs folder, raises an error.

# %%
#| export
def read_job(path: Path) -> RunJob:
    "Read a job. Raises: ValueError if it is not a job, or would write outside its runs folder."
    try:
        job = RunJob(**json.loads(Path(path).read_text(encoding="utf-8")))
    except (TypeError, ValueError) as e:
        raise ValueError(f"{path}: not a job ({e})") from e
    for folder in filter(None, (job.folder, job.dense)):
        inside(Path(folder), Path(job.parameters.get("runs_root") or job.runs_root))
    return job


# %%
(tmp / "job.json").write_text(json.dumps(asdict(job)))
assert read_job(tmp / "job.json") == job
for bad in (
    dict(folder=str(tmp / "runs" / ".." / "elsewhere")),
    dict(dense=str(tmp / "dense-1")),
    dict(colour="red"),
):
    (tmp / "job.json").write_text(json.dumps(asdict(job) | bad))
    try:
        read_job(tmp / "job.json")
    except ValueError as e:
        print(str(e).replace(str(tmp), "…"))
    else:
        raise AssertionError("a bad job was accepted")


# %% [markdown]
# ## One process per run
#
# Two sweeps on one runs folder must not make a run twice. A process that works on a run holds its lock, a file in `.locks/` that the system releases when the process ends, in any way. (The kernel, which computes, has its own lock, with
# the name of the dense network while it trains that; it waits for this lock.)

# %%
#| export
@contextmanager
def working_on(
    folder: Path,  # A run folder
    wait: bool = False,  # Wait until the lock is free
) -> Iterator[None]:
    "Hold a run's lock. Raises: Busy if another process holds it."
    with ExitStack() as held:
        try:
            held.enter_context(lock(folder.parent / ".locks" / f"{folder.name}.run.lock", wait))
        except Busy:
            raise Busy(f"another process works on {folder.name}") from None
        yield


# %%
with working_on(job.runs_root / "ws-1"):
    try:
        with working_on(job.runs_root / "ws-1"):
            pass
    except Busy as e:
        print(e)
    else:
        raise AssertionError("two at once")

# %% [markdown]
# When the run ends or fails, the lock is released, and a waiting process gets it.

# %%
later = threading.Event()


def wait_for_it():
    with working_on(job.runs_root / "ws-1", wait=True):
        later.set()


try:
    with working_on(job.runs_root / "ws-1"):
        (waiting := threading.Thread(target=wait_for_it)).start()
        assert not later.wait(0.2)
        raise KeyError
except KeyError:
    assert later.wait(300)
waiting.join()
assert [f.name for f in (job.runs_root / ".locks").iterdir()] == ["ws-1.run.lock"]

# %% [markdown]
# ## What went wrong
#
# Some failures are worth another try: a kernel that died, a process that was killed, memory or a disk that was full, a device that hung. Invalid settings are not: they fail the same way again. papermill gives the
# name and message of the exception. A CUDA error is a RuntimeError like any other and is recognised by its message.

# %%
#| export
AGAIN = (OSError, MemoryError)  # ConnectionError and TimeoutError are OSErrors
NAMES = (
    "DeadKernelError",
    "OutOfMemoryError",
    "NoSuchKernel",
    "Killed",
    "AcceleratorError",
    "DistBackendError",
    "BrokenProcessPool",
    "SafetensorError",
)
WORDS = (
    "cuda",
    "cudnn",
    "cublas",
    "nccl",
    "out of memory",
    "kernel died",
    "kernel didn't respond",
    "accelerate launch",
)


def _worth_again(
    name: str,  # The exception's class name
    message: str,  # Its message
) -> bool:  # Whether the same settings may succeed at another time
    "Whether a failed run should be tried again."
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, AGAIN):
        return True
    return name in NAMES or (
        name == "RuntimeError" and any(word in message.lower() for word in WORDS)
    )


# %%
{
    case: _worth_again(*case)
    for case in (
        ("DeadKernelError", ""),
        ("MemoryError", ""),
        ("RuntimeError", "CUDA error: launch failure"),
        ("ValueError", "rate = 1.5"),
    )
}

# %%
assert (
    _worth_again("OSError", "No space left on device")
    and _worth_again("ConnectionResetError", "")
    and _worth_again("OutOfMemoryError", "")
    and _worth_again("RuntimeError", "NCCL timeout")
)
assert (
    not _worth_again("RuntimeError", "shapes do not match")
    and not _worth_again("ValueError", "out of memory")
    and not _worth_again("KeyError", "")
    and not _worth_again("print", "")
)


# %% [markdown]
# ## How it ended

# %%
#| export
@dataclass(frozen=True)
class Outcome:
    "How a run ended."

    # done, complete (it existed already), busy (another process works on it), failed, or crashed
    # (worth another try)
    state: str
    reason: str = ""  # The error, in one line
    seconds: float = 0.0  # Time of the worker
    extra: dict = field(default_factory=dict)  # Additions of an engine


# %%
assert Outcome("done").reason == "" and Outcome("done").extra is not Outcome("done").extra
Outcome("crashed", "MemoryError", seconds=2.5)


# %% [markdown]
# An exception becomes one line in the table of a sweep, so only the first non-empty line of a long message is kept. papermill's error carries the name and message of the error in the notebook, and these are reported.

# %%
#| export
def outcome_of(error: BaseException, seconds: float = 0.0) -> Outcome:
    "The outcome of a run that raised an exception."
    if isinstance(error, Busy):
        return Outcome("busy", str(error), seconds)
    name = getattr(error, "ename", type(error).__name__)
    message = str(getattr(error, "evalue", error)).strip()
    line = next((part.strip() for part in message.splitlines() if part.strip()), "")
    return Outcome(
        "crashed" if _worth_again(name, message) else "failed",
        f"{name}: {line}".rstrip(": "),
        seconds,
    )


# %%
(
    outcome_of(ValueError("\n rate = 1.5: it must lie\nbetween 0 and 1")),
    outcome_of(OSError(28, "No space left on device")),
)


# %%
class InNotebook(Exception):
    ename, evalue = "RuntimeError", "CUDA error"


assert outcome_of(ValueError("\n rate = 1.5: it must lie\nbetween")) == Outcome(
    "failed", "ValueError: rate = 1.5: it must lie"
)
assert outcome_of(Busy("x"), 3.0) == Outcome("busy", "x", 3.0) and outcome_of(
    MemoryError()
) == Outcome("crashed", "MemoryError")
assert outcome_of(InNotebook("a long report"), 2.0) == Outcome(
    "crashed", "RuntimeError: CUDA error", 2.0
)


# %% [markdown]
# A worker writes its outcome beside the job in one step, so no reader gets a partial file.

# %%
#| export
def outcome_file(job: Path) -> Path:
    "`JOB.out.json`"
    return job.with_name(f"{job.stem}.out.json")


def write_outcome(job: Path, outcome: Outcome):
    "Write an outcome beside the file of its job."
    write_json(outcome_file(job), asdict(outcome))


# %%
write_outcome(tmp / "7.json", Outcome("done", seconds=2.5))
assert json.loads((tmp / "7.out.json").read_text()) == dict(
    state="done", reason="", seconds=2.5, extra={}
) and not list(tmp.glob(".*.part"))
outcome_file(tmp / "7.json").name


# %% [markdown]
# A worker without such a file was killed. If a signal did it, the exit status gives the signal.

# %%
#| export
def read_outcome(job: Path, status: int = 0, seconds: float = 0.0) -> Outcome:
    "The outcome that a worker wrote; without one it was killed."
    try:
        return Outcome(**json.loads(outcome_file(job).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Outcome("crashed", f"the worker was killed ({_signal(status)})", seconds)


def _signal(status: int) -> str:
    "The name of the signal that ended a process, or its exit status."
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"exit status {status}"


# %%
read_outcome(tmp / "7.json"), read_outcome(tmp / "none.json", -9, 4.0)

# %%
assert read_outcome(tmp / "7.json") == Outcome("done", seconds=2.5) and _signal(-15) == "SIGTERM"
assert read_outcome(tmp / "none.json", -9, 4.0) == Outcome(
    "crashed", "the worker was killed (SIGKILL)", 4.0
) and read_outcome(tmp / "none.json", 3).reason.endswith("(exit status 3)")


# %% [markdown]
# ## How far it is
#
# The progress of a run is in `progress.json` in its folder, or in that of its dense network while this is trained. The file written last is the one of the current computation.

# %%
#| export
def read_progress(
    *folders: str | Path,  # Run folders, the most important first
) -> dict:  # label, epoch, done, total, seconds, updated; empty if there is none
    "The latest progress of a run: that of the folder written to last."
    found = []
    for folder in filter(None, folders):
        try:
            found.append(
                (
                    os.stat(Path(folder, "progress.json")).st_mtime_ns,
                    json.loads(Path(folder, "progress.json").read_text(encoding="utf-8")),
                )
            )
        except (OSError, ValueError):
            pass
    return max(found, key=lambda pair: pair[0])[1] if found else {}


# %%
def progress(name: str, when: int, **what) -> Path:
    "A run folder that was written to at this time"
    (tmp / name).mkdir(exist_ok=True)
    (tmp / name / "progress.json").write_text(json.dumps(what))
    os.utime(tmp / name / "progress.json", (when, when))
    return tmp / name


pruned = progress("ws-2", 1000, label="step 1 of 2")
dense = progress("dense-2", 2000, label="dense")
read_progress(pruned, dense), read_progress(tmp / "none", "")

# %%
assert read_progress(pruned, dense) == read_progress(dense, pruned) == dict(
    label="dense"
) and read_progress(pruned, "", tmp / "none") == dict(label="step 1 of 2")
(dense / "progress.json").write_text('{"label":')  # read while it is written
assert read_progress(tmp / "none", "") == {} == read_progress(dense) and read_progress(
    dense, pruned
) == dict(label="step 1 of 2")


# %%
#| export
def progress_text(p: dict) -> str:
    "`step 3 of 44, epoch 2 of 3 (17 of 160 epochs)`"
    epoch = f", epoch {p['epoch']}" if p.get("epoch") else ""
    return (
        f"{p.get('label', '')}{epoch} ({p.get('done', 0)} of {p.get('total', '?')} epochs)"
        if p
        else ""
    )


# %%
assert (
    progress_text(dict(label="step 3 of 44", epoch="2 of 3", done=17, total=160))
    == "step 3 of 44, epoch 2 of 3 (17 of 160 epochs)"
)
assert (
    progress_text(dict(label="importance")) == "importance (0 of ? epochs)"
    and progress_text({}) == ""
)
progress_text(dict(label="step 3 of 44", epoch="2 of 3", done=17, total=160))


# %% [markdown]
# A worker checks the progress regularly and writes each change to its log, which keeps it after the file in the folder has been overwritten.

# %%
#| export
def tell_progress(folders: tuple, done: threading.Event, every: float = 2.0):
    "Print a line whenever the progress has changed, until `done`."
    last = read_progress(*folders)
    while not done.wait(every):
        now = read_progress(*folders)
        if now and now != last:
            print(f"{datetime.now():%H:%M:%S} {progress_text(now)}", flush=True)
        last = now


# %% [markdown]
# Four checks of a run, two of which find a change. The event stands for the time between them.

# %%
class Passing:
    "An event that advances a run at every wait, and is set in the end"

    epochs = iter((0, 1, 1, 2))

    def wait(self, every):
        done = next(self.epochs, None)
        if done is not None:
            progress("ws-2", 3000, label="final", done=done, total=2)
        return done is None


progress("ws-2", 1000, label="final", done=0, total=2)
with redirect_stdout(io.StringIO()) as told:
    tell_progress((tmp / "ws-2",), Passing())
lines = [line.split(" ", 1)[1] for line in told.getvalue().splitlines()]
lines

# %%
assert lines == ["final (1 of 2 epochs)", "final (2 of 2 epochs)"]
