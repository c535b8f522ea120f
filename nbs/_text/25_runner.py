# %% [markdown]
# # Runner
#
# > One run: papermill over a template into a run folder, in this process or in a worker that imports no torch

# %%
#| default_exp runner

# %%
#| export
import builtins
import importlib
import json
import os
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.resources import files
from pathlib import Path

import nbformat
import papermill
import psutil
from filelock import FileLock, Timeout
from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from traitlets.config import Config

from fairgrape.settings import inside, plain_name, root

# %%
import subprocess
from dataclasses import fields, replace

import numpy as np
import pandas as pd
from PIL import Image


# %% [markdown]
# A run is a notebook: the same one that a person opens to go through the method. papermill fills in the parameters and executes it; what is left behind is at once the log, the figures and the proof that they came from this code.
#
# Hundreds of runs are hundreds of worker processes, each of which only talks to a kernel. So this module imports no torch at the top: a worker is there at once and small, and what takes long to import is imported once, by the kernel.
#
# ## The template

# %%
#| export
def template(
    name: str = "prune", # "prune", "report" or "study"
) -> Path:               # The notebook
    "The parameterized notebook of that name: from the checkout, or from the installed package."
    package = Path(str(files("fairgrape")))
    found = [f for f in (package.parent / "nbs" / "templates" / f"{name}.ipynb", package / "templates" / f"{name}.ipynb") if f.is_file()]
    if not found: raise FileNotFoundError(f"no template {name!r}: there are prune, report and study")
    return found[0]


# %%
template().name

# %%
assert template("report").is_file()
try: template("sweep")
except FileNotFoundError as e: print(e)
else: raise AssertionError("an unknown template was accepted")

# %% [markdown]
# The template's parameters and the library's settings are the same names with the same defaults:

# %%
from fairgrape.experiment import KNOWN, PLACES, Settings, is_complete

parameters = papermill.inspect_notebook(template())
{k: parameters[k]["default"] for k in ("dataset", "network", "method", "rate", "keep")}

# %%
defaults = {f.name: f.default for f in fields(Settings)}
assert tuple(parameters) == tuple(defaults) + PLACES == KNOWN
assert all(eval(parameters[k]["default"]) == v for k, v in defaults.items())


# %% [markdown]
# ## When a run is done
#
# papermill's own status cannot be trusted: after a kernel that was killed, every cell says `completed`. So the notebook is whole when papermill says of every code cell that it had *no* exception, which is another thing than not saying that it had one.

# %%
#| export
def notebook_is_whole(
    path: Path, # An executed notebook
) -> bool:      # Whether every code cell ran without an exception
    "Whether papermill went through the whole notebook."
    try: cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError): return False
    return all(c["metadata"].get("papermill", {}).get("exception") is False for c in cells if c["cell_type"] == "code")


# %%
notebook_is_whole(template())

# %%
tmp = Path(tempfile.mkdtemp())
assert not notebook_is_whole(template())          # never executed
half = tmp / "half.ipynb"; half.write_text('{"cells": [')
assert not notebook_is_whole(half) and not notebook_is_whole(half.with_name("none.ipynb"))


# %% [markdown]
# And a run is done when its notebook is whole, `metrics.json`, which it writes last, is there, and both came from the code that is installed now. A run of older code may have other numbers. It counts if the user says so; otherwise it is made again.

# %%
#| export
def state_of(
    folder: Path,              # A run folder, which need not be there
    code: str,                 # The code as it is now: `fairgrape.checkpoints.code_version()`
    accept_older: bool = False,# Let a finished run of other code count
) -> str:                      # "complete", "older" (finished by other code), "broken" (begun), or "absent"
    "How far a run is, from what lies in its folder."
    if not (folder / "metrics.json").is_file(): return "broken" if folder.is_dir() else "absent"
    if not accept_older and code_of(folder) != code: return "older"
    return "complete" if notebook_is_whole(folder / "prune.ipynb") else "broken"

def code_of(folder: Path) -> str:
    "The version of the code that made a run; \"unknown\" for runs from before it was noted"
    try: return str(json.loads((folder / "environment.json").read_text(encoding="utf-8"))["code"])
    except (OSError, ValueError, KeyError, TypeError): return "unknown"


# %%
run = tmp / "run"
whole = dict(cells=[dict(cell_type="code", metadata=dict(papermill=dict(exception=False)))])
files_of = dict(environment=dict(code="now"), metrics={})
said = [state_of(run, "now")]
run.mkdir()
for name, what in files_of.items(): said.append(state_of(run, "now")); (run / f"{name}.json").write_text(json.dumps(what))
(run / "prune.ipynb").write_text(json.dumps(whole))
said + [state_of(run, "now"), state_of(run, "later"), state_of(run, "later", accept_older=True)]

# %%
assert said == ["absent", "broken", "broken"] and state_of(run, "now") == "complete" == state_of(run, "later", True) and state_of(run, "later") == "older"
(run / "environment.json").write_text("{}")
assert code_of(run) == "unknown" and state_of(run, "now") == "older"


# %% [markdown]
# A run that is to be made again is not deleted. It moves to `.older/` beside the others, with its code in the name; a name that begins with a dot is no run folder for the report.

# %%
#| export
def set_aside(
    folder: Path, # A run folder
) -> Path:        # Where it is now
    "Move a run of other code to `.older/<name>-<code>`."
    there = folder.parent / ".older"
    there.mkdir(exist_ok=True)
    target, n = there / f"{folder.name}-{code_of(folder)}", 1
    while target.exists(): n += 1; target = there / f"{folder.name}-{code_of(folder)}-{n}"
    return folder.rename(target)


# %%
str(set_aside(run).relative_to(tmp))

# %%
assert not run.exists() and (tmp / ".older" / "run-unknown" / "metrics.json").is_file()
run.mkdir()
assert set_aside(run).name == "run-unknown-2"


# %% [markdown]
# ## Executing a notebook
#
# papermill saves the notebook after every cell, and a kill in the middle of a save leaves half a notebook. So it works on a file of another name, which gets its own name in one step at the end, whole or with the exception that stopped it.
#
# Progress bars write thousands of half lines into a notebook's error stream; they are taken out. Kernels talk over sockets in a folder of their own, so that those beside this one do not share one. And the kernel is stopped at once when the notebook is through: all that matters is on the disk.

# %%
#| export
def run_notebook(
    name: str | Path,   # A template, see `template`, or a notebook
    out: Path,          # The executed notebook
    parameters: dict,   # Its parameters
    log: bool = False,  # Pass on what the notebook prints
    kernel=None,        # A `Waiting` kernel; None: papermill starts one
) -> Path:              # The same path
    "Execute a template. Raises: papermill's error if a cell fails (the notebook is written all the same)."
    part, shown = out.with_name(f".{out.name}.part.ipynb"), dict(log_output=log, stdout_file=sys.stdout, stderr_file=sys.stderr) if log else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _sockets(kernel) as config:
            papermill.execute_notebook(name if isinstance(name, Path) else template(name), part, parameters, progress_bar=False, kernel_name="python3", config=config, **shown)
    finally:
        if part.is_file(): _publish(part, out)
    return out

@contextmanager
def _sockets(kernel) -> Iterator[Config]:
    with tempfile.TemporaryDirectory(prefix="fairgrape-", ignore_cleanup_errors=True) as folder:
        client = {"shutdown_kernel": "immediate"} | ({"kernel_manager_class": type("Manager", (WaitingManager,), dict(kernel=kernel))} if kernel else {})
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}, "PapermillNotebookClient": client})

def _publish(part: Path, out: Path):
    "Without progress bars, and under its own name"
    book = nbformat.read(part, 4)
    for cell in book.cells:
        if cell.cell_type == "code": cell.outputs = [o for o in cell.outputs if not (o.get("name") == "stderr" and "\r" in o.text)]
    with part.open("w", encoding="utf-8") as file:
        nbformat.write(book, file)
        file.flush(); os.fsync(file.fileno())
    part.replace(out)


# %% [markdown]
# A notebook of two cells, the second of which stops:

# %%
(tmp / "runs").mkdir()
code = [("rate = 0.9", ["parameters"]), ("if rate > 1: raise ValueError(f'rate = {rate}')", [])]
nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c, metadata=dict(tags=tags)) for c, tags in code], metadata=dict(kernelspec=dict(name="python3", language="python", display_name=""))), tmp / "two.ipynb")
try: run_notebook(tmp / "two.ipynb", tmp / "runs" / "bad.ipynb", dict(rate=1.5))
except papermill.PapermillExecutionError as e: print(e.ename, e.evalue)
else: raise AssertionError("a bad rate was accepted")

# %%
assert [f.name for f in (tmp / "runs").iterdir()] == ["bad.ipynb"] and not notebook_is_whole(tmp / "runs" / "bad.ipynb")


# %% [markdown]
# ## A kernel that need not import
#
# On a slow core it takes ten seconds and more to import torch, pandas, matplotlib and the rest, and a small run takes no longer than that. So a sweep imports once, in a process that then does nothing but fork: each fork has everything loaded already, shares the memory,
# and goes its own way. jupyter's kernel manager can be told where its kernel comes from. Here it is a process that was forked beforehand, before anything in this one had started a thread, and that waits at a pipe for its connection file.

# %%
#| export
def named(name: str):
    "Give this process a name of at most 15 letters, for `top` and `ps`, where the system knows such names"
    with suppress(OSError): Path("/proc/self/comm").write_text(name)

class Waiting:
    "A forked process that becomes a kernel once it is told its connection file; to jupyter it looks like a Popen"
    stdin = stdout = stderr = None

    def __init__(self):
        self.parent, self.returncode, (told, self.tell) = os.getpid(), None, os.pipe()
        self.pid = os.fork()
        if self.pid == 0: os.close(self.tell); self.become_kernel(told)
        os.close(told)

    def become_kernel(self, told: int):
        "In the child: wait, then be a kernel until it is shut down"
        try:
            os.setsid(); named("fg-kernel")
            with os.fdopen(told) as pipe: text = pipe.read()
            if not text: os._exit(0)                                          # the parent ended without needing a kernel
            arguments, env, cwd = json.loads(text)
            os.environ.update(env); os.chdir(cwd)
            from ipykernel.kernelapp import IPKernelApp
            app = IPKernelApp.instance()
            app.initialize([*arguments, f"--IPKernelApp.parent_handle={self.parent}"])
            app.start()
        finally: os._exit(1)

    def begin(self, arguments: list, env: dict, cwd: str):
        "Say what the kernel waits for"
        with os.fdopen(self.tell, "w") as pipe: json.dump([arguments, env, cwd], pipe)

    def poll(self, wait: int = os.WNOHANG) -> int | None:
        "Its exit status once it has ended"
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, wait)
            if pid: self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int: return self.poll(0)
    def send_signal(self, number: int): os.kill(self.pid, number)
    def kill(self): self.send_signal(signal.SIGKILL)
    def terminate(self): self.send_signal(signal.SIGTERM)

class WaitingProvisioner(LocalProvisioner):
    "Gives jupyter a kernel that waits, instead of starting one"
    async def launch_kernel(self, cmd: list[str], **kwargs):
        self.process, self.pid, self.pgid = self.parent.kernel, self.parent.kernel.pid, self.parent.kernel.pid
        self.process.begin(cmd[cmd.index("-f"):], kwargs.get("env") or {}, kwargs.get("cwd") or os.getcwd())
        return self.connection_info

class WaitingManager(AsyncKernelManager):
    "A kernel manager whose kernel waits already"
    kernel: Waiting = None

    async def _async_pre_start_kernel(self, **kw):
        if self.provisioner is None: self.provisioner = WaitingProvisioner(kernel_id="waiting", kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**kw)


# %% [markdown]
# The notebook of two cells again, in a process that forks first. Its second cell asks where it is: in a child of the process that papermill runs in.

# %%
cells = [("rate = 0.9", ["parameters"]), ("import os, psutil; print(rate, os.getppid(), psutil.Process().name())", [])]
nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c, metadata=dict(tags=tags)) for c, tags in cells], metadata=dict(kernelspec=dict(name="python3", language="python", display_name=""))), tmp / "where.ipynb")
code = f"""
import os, time
from pathlib import Path
from fairgrape.runner import Waiting, run_notebook
kernel, start = Waiting(), time.time()
run_notebook(Path({str(tmp / "where.ipynb")!r}), Path({str(tmp / "runs" / "where.ipynb")!r}), dict(rate=0.5), True, kernel)
print(os.getpid(), kernel.wait())
print(f"{{time.time() - start:.1f}} s")
spare = Waiting(); os.close(spare.tell); print(spare.wait())"""
forked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
print(forked.stdout)

# %%
said = forked.stdout.split()
assert said[0] == "0.5" and said[1] == said[3] and said[2] in ("fg-kernel", "python") and said[4] == "-9" and said[-1] == "0", forked.stderr       # shut down at once; the spare one ended by itself
assert notebook_is_whole(tmp / "runs" / "where.ipynb")


# %% [markdown]
# ## A job
#
# What a worker needs to know about a run fits in a small JSON file. Whoever writes it has read the labels and knows the folders already.

# %%
#| export
@dataclass(frozen=True)
class RunJob:
    "One run as a worker gets it"
    folder: str                 # The run folder, absolute; a folder in the runs folder
    parameters: dict            # Settings and places of the notebook
    code: str                   # The code as the planner saw it
    dense: str = ""             # Folder of the dense network that it starts from
    accept_older: bool = False  # Let finished runs of other code count
    wait: bool = False          # Wait where another process works on the same run
    template: str = "prune"     # The notebook

    @property
    def runs_root(self) -> Path: return Path(self.folder).parent

def read_job(path: Path) -> RunJob:
    "Read a job. Raises: ValueError if it is none, or would write outside of its runs folder."
    try: job = RunJob(**json.loads(Path(path).read_text(encoding="utf-8")))
    except (TypeError, ValueError) as e: raise ValueError(f"{path}: not a job ({e})") from e
    for folder in filter(None, (job.folder, job.dense)): inside(Path(folder), Path(job.parameters.get("runs_root") or job.runs_root))
    return job


# %%
job = RunJob(str(tmp / "runs" / "a-1"), dict(rate=0.9, runs_root=str(tmp / "runs")), "0123456789ab")
(tmp / "job.json").write_text(json.dumps(asdict(job)))
read_job(tmp / "job.json").runs_root.name

# %%
assert read_job(tmp / "job.json") == job
for bad in (asdict(job) | dict(folder=str(tmp / "runs" / ".." / "elsewhere")), dict(folder="x"), [1]):
    (tmp / "job.json").write_text(json.dumps(bad))
    try: read_job(tmp / "job.json")
    except ValueError as e: print(str(e).replace(str(tmp), "…"))
    else: raise AssertionError("a bad job was accepted")


# %% [markdown]
# ## One at a time
#
# Two sweeps on one runs folder must not do a run twice. Who works on a run holds its lock, a file in `.locks/` that the system releases when the process ends, however it ends. (The process that computes, the kernel, has a lock of its own, with
# the dense network's name where it trains that; there it waits.)

# %%
#| export
class Busy(RuntimeError): "Another process works on this run"

@contextmanager
def working_on(
    folder: Path,        # A run folder
    wait: bool = False,  # Wait until it is free
) -> Iterator[None]:
    "Hold a run's lock. Raises: Busy if someone else holds it."
    locks = folder.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{folder.name}.run.lock", timeout=-1 if wait else 0)
    try: lock.acquire()
    except Timeout: raise Busy(f"another process works on {folder.name}") from None
    try: yield
    finally: lock.release()


# %%
with working_on(tmp / "runs" / "a-1"):
    try:
        with working_on(tmp / "runs" / "a-1"): pass
    except Busy as e: print(e)
    else: raise AssertionError("two at once")

# %%
with working_on(tmp / "runs" / "a-1"): pass                                     # free again
assert [f.name for f in (tmp / "runs" / ".locks").iterdir()] == ["a-1.run.lock"]


# %% [markdown]
# Under the lock the state is looked at once more: whoever held it before may have finished the run.

# %%
#| export
def work(
    job: RunJob,        # What to run
    log: bool = False,  # Pass on what the notebook prints
    kernel=None,        # A `Waiting` kernel; None: papermill starts one
) -> str:               # "done", or "complete" if there was nothing to do
    "Make the run, unless it is there. Raises: Busy, and whatever stops the notebook."
    folder = Path(job.folder)
    with working_on(folder, job.wait):
        state = state_of(folder, job.code, job.accept_older)
        if state == "complete": return state
        if state == "older": set_aside(folder)
        if job.dense and job.dense != job.folder: _dense_aside(job)
        run_notebook(job.template, folder / f"{job.template}.ipynb", job.parameters, log, kernel)
    return "done"

def _dense_aside(job: RunJob):
    "The dense network of other code as well, unless someone trains it just now"
    dense = Path(job.dense)
    if job.accept_older or not (dense / "metrics.json").is_file(): return
    try:
        with FileLock(dense.parent / ".locks" / f"{dense.name}.lock", timeout=0):
            if (dense / "metrics.json").is_file() and code_of(dense) != job.code: set_aside(dense)
    except Timeout: pass


# %% [markdown]
# A set of one's own, as small as it can be, to run something on:

# %%
rng = np.random.default_rng(0)
rows = [dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue")[i // 2 % 2]) for i in range(120)]
(tmp / "own").mkdir()
for row in rows: Image.fromarray((rng.integers(0, 120, (16, 16, 3)) + (90 if row["shade"] == "light" else 0)).astype(np.uint8)).save(tmp / "own" / row["file"])
pd.DataFrame(rows).to_csv(tmp / "own" / "labels.csv", index=False)
places = dict(data_root=str(tmp), runs_root=str(tmp / "runs"), cache_root=str(tmp / "cache"))
tiny = dict(dataset="folder", data_path=str(tmp / "own"), task="shade", groups="tint", network="resnet10", weights="none", image_size=16, method="ws", rate=0.5,
            epochs="1", lrs="1e-3", batch=16, augment="none", bootstrap=100) | places


# %% [markdown]
# ## One run, here
#
# Everything that can be wrong with the settings or the data is found before papermill starts.

# %%
#| export
def execute(
    parameters: dict,  # Settings and places by name, see `fairgrape.experiment.Settings`
    log: bool = True,  # Show the notebook's output while it runs
    accept_older: bool = False, # Let a finished run of older code count
) -> Path:             # The run folder
    """Run the prune template into its run folder, unless it is done. Waits where another process works on the same run.

    Raises: ValueError, FileNotFoundError or OSError before anything starts; papermill's error, with the cell, if the run fails."""
    from fairgrape.checkpoints import code_version
    from fairgrape.experiment import starting_network
    job, where = prepared(parameters, progress=log)
    run = job_of(job, where, code_version(), accept_older, wait=True)
    if state_of(Path(run.folder), run.code, accept_older) in ("absent", "broken"): starting_network(job)
    work(run, log)
    return Path(run.folder)


# %% [markdown]
# The two halves of it, reading the data and saying what is to be run, are also what a sweep does for each of its cells.

# %%
#| export
def prepared(
    parameters: dict,       # Settings and places by name
    progress: bool = False, # Show bars while an archive is unpacked
) -> tuple:                 # The job of `fairgrape.experiment.prepare`, and the places
    "Settings that have met their data. Raises: ValueError, FileNotFoundError or OSError for what is wrong with them."
    from fairgrape.experiment import check_images, device_of, from_parameters, prepare
    settings, where = from_parameters(parameters)
    plain_name(where.get("name", ""))
    device_of(where.get("device", ""))
    job = prepare(settings, progress=progress, **{k: v for k, v in where.items() if k in ("name", "data_root", "runs_root", "cache_root")})
    check_images(job)
    return job, where

def job_of(job, where: dict, code: str, accept_older: bool = False, wait: bool = False) -> RunJob:
    "What a worker needs to know of a prepared job"
    from fairgrape.experiment import dense_job, run_folder
    folder, dense = (inside(run_folder(j), job.runs_root) for j in (job, dense_job(job)))
    return RunJob(str(folder), {**asdict(job.settings), **absolute(where)}, code, str(dense), accept_older, wait)

def absolute(where: dict) -> dict:
    "Places with absolute folders, since the notebook may run elsewhere"
    given = {kind: where.get(f"{kind}_root") for kind in ("data", "runs", "cache")}
    return {"progress": sys.stderr.isatty()} | where | {f"{kind}_root": str(root(kind, folder)) for kind, folder in given.items()}


# %% [markdown]
# There is a run of another code already, and its dense network: both move aside and are made again. The second time nothing is left to do.

# %%
from fairgrape.checkpoints import code_version

whole_job = job_of(*prepared(tiny), code_version())
for made in (Path(whole_job.folder), Path(whole_job.dense)):
    made.mkdir()
    for name, what in (("environment", dict(code="before")), ("metrics", {}), ("settings", {})): (made / f"{name}.json").write_text(json.dumps(what))
folder = execute(tiny, log=False)
sorted(f.name for f in folder.iterdir())

# %%
assert is_complete(folder) and notebook_is_whole(folder / "prune.ipynb") and code_of(folder) == code_of(Path(whole_job.dense)) != "before"
assert {f.name for f in (tmp / "runs" / ".older").iterdir()} == {f"{Path(f).name}-before" for f in (whole_job.folder, whole_job.dense)}
changed = (folder / "prune.ipynb").stat().st_mtime_ns
assert execute(tiny, log=False) == folder and (folder / "prune.ipynb").stat().st_mtime_ns == changed       # done is done
for bad in (dict(tiny, rates=0.9), dict(tiny, rate=1.5), dict(tiny, task="colour"), dict(tiny, name="../up")):
    try: execute(bad, log=False)
    except ValueError as e: print(e)
    else: raise AssertionError("bad parameters were accepted")

# %%
assert Path(whole_job.folder) == folder and Path(whole_job.dense).is_dir() and whole_job.dense != whole_job.folder and absolute({})["runs_root"].startswith("/")
(folder / "environment.json").write_text(json.dumps(dict(code="before")))
assert work(replace(whole_job, accept_older=True)) == "complete" and state_of(folder, whole_job.code) == "older"

# %% [markdown]
# ## What went wrong
#
# Some failures are worth another try: a kernel that died, a process that was killed, memory or a disk that was full for a while, a device that hung. Settings that cannot be are not: they will fail the same way again. papermill gives the
# exception's name and message; a CUDA error is a RuntimeError like any other, and is known by its words.

# %%
#| export
AGAIN = (OSError, MemoryError)                                                                   # ConnectionError and TimeoutError are OSErrors
NAMES = ("DeadKernelError", "OutOfMemoryError", "NoSuchKernel", "Killed", "AcceleratorError", "DistBackendError", "BrokenProcessPool", "SafetensorError")
WORDS = ("cuda", "cudnn", "cublas", "nccl", "out of memory", "kernel died", "kernel didn't respond", "accelerate launch")

def worth_again(
    name: str,    # The exception's class name
    message: str, # What it said
) -> bool:        # Whether the same settings may succeed at another time
    "Whether a failed run should be tried again."
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, AGAIN): return True
    return name in NAMES or (name == "RuntimeError" and any(word in message.lower() for word in WORDS))


# %%
{case: worth_again(*case) for case in (("DeadKernelError", ""), ("MemoryError", ""), ("RuntimeError", "CUDA error: launch failure"), ("ValueError", "rate = 1.5"))}

# %%
assert worth_again("OSError", "No space left on device") and worth_again("ConnectionResetError", "") and worth_again("OutOfMemoryError", "")
assert not worth_again("RuntimeError", "shapes do not match") and not worth_again("ValueError", "out of memory") and not worth_again("KeyError", "") and not worth_again("print", "")


# %% [markdown]
# ## The worker
#
# `python -m fairgrape.runner JOB.json` makes one run. What the notebook prints goes to standard output, a line for each step of its progress among it; how it ended goes to `JOB.out.json`, in one atomic step. A worker that left no such file was killed.

# %%
#| export
@dataclass(frozen=True)
class Outcome:
    "How a run ended"
    state: str             # done, complete (it was there already), busy (someone else works on it), failed or crashed (worth another try)
    reason: str = ""       # What went wrong, one line
    seconds: float = 0.    # How long the worker took
    extra: dict = field(default_factory=dict)  # What an engine adds

def outcome_of(error: BaseException, seconds: float = 0.) -> Outcome:
    "What an exception says about the run"
    if isinstance(error, Busy): return Outcome("busy", str(error), seconds)
    name, message = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error)).strip()
    line = next((part.strip() for part in message.splitlines() if part.strip()), "")
    return Outcome("crashed" if worth_again(name, message) else "failed", f"{name}: {line}".rstrip(": "), seconds)

def outcome_file(job: Path) -> Path: return job.with_name(f"{job.stem}.out.json")

def read_outcome(job: Path, status: int = 0, seconds: float = 0.) -> Outcome:
    "What a worker left; if nothing, it was killed"
    try: return Outcome(**json.loads(outcome_file(job).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError): return Outcome("crashed", f"the worker was killed ({_signal(status)})", seconds)

def _signal(status: int) -> str:
    try: return signal.Signals(-status).name
    except ValueError: return f"exit status {status}"


# %%
outcome_of(ValueError("rate = 1.5: it must lie\nbetween 0 and 1")), outcome_of(OSError(28, "No space left on device"))

# %%
assert outcome_of(Busy("x")).state == "busy" and outcome_of(MemoryError()).reason == "MemoryError" and outcome_of(KeyError("a")).state == "failed"
assert read_outcome(tmp / "none.json", -9).reason == "the worker was killed (SIGKILL)" and read_outcome(tmp / "none.json", 3).reason.endswith("(exit status 3)")


# %% [markdown]
# A kernel has a process group of its own, so that stopping the worker's group does not reach it. `stop_tree` goes by parentage instead. A worker that is asked to stop stops its kernel first. One whose sweep is gone stops as well; one that is killed outright cannot, and then the kernel notices within a second that it is alone.

# %%
#| export
def stop_tree(
    pid: int,                # A process
    include: bool = True,    # Stop it too, not only what it started
):
    "Kill a process with everything that it started, children first found, then killed."
    try: top = psutil.Process(pid); found = top.children(recursive=True)
    except psutil.NoSuchProcess: return
    for process in ([top] if include else []) + found:
        with suppress(psutil.NoSuchProcess): process.kill()

def stop_with(parent: int, every: float = 1.):
    "End this process and its children when it is asked to, or when its parent is gone"
    def leave(number, frame=None): stop_tree(os.getpid(), include=False); os._exit(128 + number)
    def watch():
        while os.getppid() == parent: time.sleep(every)
        leave(signal.SIGHUP)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, leave)
    threading.Thread(target=watch, daemon=True).start()


# %%
mother = subprocess.Popen(["bash", "-c", "sleep 60 & setsid sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
away = int(mother.stdout.readline())
stop_tree(mother.pid)
mother.wait()

# %%
assert mother.returncode == -9
for _ in range(100):
    if not psutil.pid_exists(away) or psutil.Process(away).status() == "zombie": break
    time.sleep(.05)
else: raise AssertionError("a process in another group was left")
code = f"import time; from fairgrape.runner import stop_with; stop_with({os.getpid()}); print('ready', flush=True); time.sleep(60)"
asked = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
asked.stdout.readline(); asked.terminate()
assert asked.wait() == 128 + 15
orphan = subprocess.run([sys.executable, "-c", "import time; from fairgrape.runner import stop_with; stop_with(1, .1); time.sleep(60)"])
assert orphan.returncode == 128 + 1                                             # its parent is not the one it was told


# %% [markdown]
# ## Being asked to stop
#
# Whoever runs many things must not fall over at the first Ctrl-C: it becomes an event that a loop looks at. A second one does not wait for anything.

# %%
#| export
@contextmanager
def stoppable(
    at_once: Callable[[], None], # What to do at a second request
) -> Iterator[threading.Event]:  # Set at the first one
    "Turn SIGINT, SIGTERM and SIGHUP into an event."
    asked = threading.Event()
    def on_signal(number, frame):
        if asked.is_set(): at_once(); os._exit(130)
        asked.set()
    known = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, on_signal) for number in known}
    try: yield asked
    finally:
        for number, handler in before.items(): signal.signal(number, handler)


# %%
code = """import os, signal, sys
from fairgrape.runner import stoppable
with stoppable(lambda: print('at once', flush=True)) as asked:
    for _ in range(int(sys.argv[1])): os.kill(os.getpid(), signal.SIGTERM)
    print('asked to stop:', asked.wait(1))"""
once, twice = (subprocess.run([sys.executable, "-c", code, str(n)], capture_output=True, text=True) for n in (1, 2))
print(once.stdout, twice.stdout)

# %%
assert (once.stdout, once.returncode) == ("asked to stop: True\n", 0) and (twice.stdout, twice.returncode) == ("at once\n", 130)


# %% [markdown]
# How far a run is stands in `progress.json` in its folder, or in that of its dense network while this is trained. A worker reads it now and then and writes a line into its log when it has changed.

# %%
#| export
def read_progress(
    *folders: str | Path, # Run folders, the one that matters most first
) -> dict:                # label, epoch, done, total, seconds, updated; empty if there is none
    "The latest word of a run that computes: that of the folder written to last."
    found = []
    for folder in filter(None, folders):
        try: found.append((os.stat(Path(folder, "progress.json")).st_mtime_ns, json.loads(Path(folder, "progress.json").read_text(encoding="utf-8"))))
        except (OSError, ValueError): pass
    return max(found, key=lambda pair: pair[0])[1] if found else {}

def progress_text(p: dict) -> str:
    "`step 3 of 44, epoch 2 of 3 (17 of 160 epochs)`"
    epoch = f", epoch {p['epoch']}" if p.get("epoch") else ""
    return f"{p.get('label', '')}{epoch} ({p.get('done', 0)} of {p.get('total', '?')} epochs)" if p else ""

def tell_progress(folders: tuple, done: threading.Event, every: float = 2.):
    "Print a line whenever the progress has changed, until `done`"
    last = read_progress(*folders)
    while not done.wait(every):
        now = read_progress(*folders)
        if now and now != last: print(f"{datetime.now():%H:%M:%S} {progress_text(now)}", flush=True)
        last = now


# %%
(tmp / "p").mkdir()
(tmp / "p" / "progress.json").write_text(json.dumps(dict(label="step 3 of 44", epoch="2 of 3", done=17, total=160, seconds=312.5, updated="2026-01-01T00:00:00")))
progress_text(read_progress(tmp / "none", tmp / "p"))

# %%
assert progress_text(read_progress(tmp / "p")) == "step 3 of 44, epoch 2 of 3 (17 of 160 epochs)" and read_progress(tmp / "none") == {} and progress_text({}) == ""
over = threading.Event(); over.set()
tell_progress((tmp / "p",), over)                                               # ends at once


# %%
#| export
def main(
    arguments: list[str] | None = None, # The job's file, then the sweep's process number; default: the command line
    kernel=None,                        # A `Waiting` kernel; None: papermill starts one
) -> int:                               # 0 done, 1 not
    "A worker: make the run of a job file, and say how it went."
    path, *parent = sys.argv[1:] if arguments is None else arguments
    start, path, over = time.perf_counter(), Path(path), threading.Event()
    if parent: stop_with(int(parent[0]))
    try:
        job = read_job(path)
        threading.Thread(target=tell_progress, args=((job.folder, job.dense), over), daemon=True).start()
        outcome = Outcome(work(job, True, kernel), seconds=time.perf_counter() - start)
    except Exception as e: outcome = outcome_of(e, time.perf_counter() - start)
    over.set()
    part = outcome_file(path).with_suffix(".part")
    part.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    part.replace(outcome_file(path))
    print(f"{datetime.now():%H:%M:%S} {outcome.state} after {outcome.seconds:.1f} s {outcome.reason}".rstrip(), flush=True)
    return 0 if outcome.state in ("done", "complete") else 1

if __name__ == "__main__" and globals().get("__spec__"): sys.exit(main())       # python -m, not a notebook

# %%
(tmp / "again.json").write_text(json.dumps(asdict(replace(whole_job, accept_older=True))))
worker = subprocess.run([sys.executable, "-X", "importtime", "-m", "fairgrape.runner", str(tmp / "again.json")], capture_output=True, text=True)
print(worker.stdout)

# %%
assert worker.returncode == 0 and read_outcome(tmp / "again.json").state == "complete" and " torch" not in worker.stderr and " pandas" not in worker.stderr
(tmp / "bad.json").write_text("{}")
assert main([str(tmp / "bad.json")]) == 1 and read_outcome(tmp / "bad.json").state == "failed" and "not a job" in read_outcome(tmp / "bad.json").reason
with working_on(folder): assert main([str(tmp / "again.json")]) == 1 and read_outcome(tmp / "again.json").state == "busy"

# %% [markdown]
# ## The server of workers
#
# A sweep on this machine starts one of these. It imports what runs need and then forks a worker for each line it is given. The lines are JSON: a number, the job's file, the log's, and environment variables; its answers are the worker's process
# number and, once it has ended, its exit status. It never computes anything itself, so no thread has been started and no GPU touched when it forks. It ends, with all its workers, when the sweep closes its input or is gone.

# %%
#| export
LOADED = ("fairgrape.experiment", "fairgrape.plots", "fairgrape.report", "ipykernel.kernelapp", "ipykernel.ipkernel", "matplotlib_inline.backend_inline", "torch._dynamo")

def serve(
    modules: tuple = LOADED, # What to import beforehand
):
    "Fork a worker for each order on standard input."
    named("fg-server")
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"        # what a kernel would set before anything is imported
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"                             # looking for GPUs must not start CUDA, which does not survive a fork
    for module in modules: importlib.import_module(module)
    children, text = {}, b""
    while True:
        if select.select([0], [], [], .05)[0]:
            new = os.read(0, 1 << 16)
            if not new: break
            *lines, text = (text + new).split(b"\n")
            for order in map(json.loads, lines): children[_fork(order)] = order["id"]
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid: break
            _answer(id=children.pop(pid), status=os.waitstatus_to_exitcode(status))
    stop_tree(os.getpid(), include=False)

def _answer(**what): os.write(1, (json.dumps(what) + "\n").encode())

def _fork(order: dict) -> int:
    "A worker for one order"
    pid = os.fork()
    if pid: _answer(id=order["id"], pid=pid); return pid
    code = 1
    try:
        os.setsid(); named("fg-worker")
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)): os.dup2(descriptor, target)
        os.environ.update(order["env"])
        code = main([order["job"], str(os.getppid())], Waiting())
    finally: os._exit(code)


# %%
server = subprocess.Popen([sys.executable, "-c", "from fairgrape.runner import serve; serve(('json',))"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(json.dumps(dict(id=7, job=str(tmp / "again.json"), log=str(tmp / "again.log"), env={})), file=server.stdin, flush=True)
answers = [json.loads(server.stdout.readline()) for _ in range(2)]
server.stdin.close()
answers[0]["pid"] > 0, answers[1], (tmp / "again.log").read_text()

# %%
assert answers[1] == dict(id=7, status=0) and server.wait() == 0 and "complete after" in (tmp / "again.log").read_text() and read_outcome(tmp / "again.json").state == "complete"
