# %% [markdown]
# # Runner
#
# > One run, prepared and executed in its folder: in this process, or in a worker without torch

# %%
#| default_exp sweep.runner

# %%
#| export
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import psutil

from fairgrape.experiment.paths import inside, plain_name, root, system_path
from fairgrape.sweep.jobs import (
    Outcome,
    RunJob,
    code_of,
    outcome_of,
    read_job,
    set_aside,
    state_of,
    tell_progress,
    working_on,
    write_outcome,
)
from fairgrape.sweep.kernels import run_notebook
from fairgrape.training.files import Busy, code_version, lock

# %%
import contextlib
import io
import json
import subprocess
from contextlib import redirect_stdout
from dataclasses import replace

import numpy as np
import pandas as pd
from PIL import Image

from fairgrape.sweep.jobs import read_outcome

tmp = Path(tempfile.mkdtemp())


# %% [markdown]
# A run is a [notebook](01_kernels.ipynb) that a [job](02_jobs.ipynb) executes in its own folder. This module makes a job from settings and executes it under its lock, in this process or in a worker. A sweep starts many workers.
#
# A worker only waits for its kernel, and the kernel imports torch. The functions that prepare a run therefore import torch and pandas inside: a worker starts quickly and stays small.
#
# ## Making a job
#
# A user gives a dictionary of settings and folders. Here it is checked against the data, so errors appear before papermill starts: the labels are read, the groups counted, and the images compared with those of an earlier run with the same settings.
#
#
# A folder for the importance is checked first. It is needed only after the dense network's training, too late to find a misspelt name.

# %%
#| export
def check_keep_on(where: dict):
    "Raise OSError if the folder for the importance is not writable; ValueError for an address."
    folder = where.get("keep_on") or "auto"
    if folder in ("auto", "device", "host"):
        return
    folder = system_path("keep_on", str(folder))
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise OSError(
            f"keep_on = {folder!r} cannot be written ({e.strerror}): give a folder on a disk"
            " with enough space, or auto, device or host"
        ) from e


# %%
(tmp / "file").write_text("")
assert (
    all(check_keep_on(dict(keep_on=place)) is None for place in ("", "host", str(tmp / "maps")))
    and check_keep_on({}) is None
)
try:
    check_keep_on(dict(keep_on=str(tmp / "file")))
except OSError as e:
    print(str(e).replace(str(tmp), "…"))
else:
    raise AssertionError("a file was taken for a folder")
try:
    check_keep_on(dict(keep_on="s3://bucket/maps"))
except ValueError as e:
    print(e)
else:
    raise AssertionError("an address was taken for a folder")


# %%
#| export
def prepared(
    parameters: dict,  # Settings and places by name
    progress: bool = False,  # Show bars while an archive is unpacked
) -> tuple:  # The job of `fairgrape.experiment.preparation.prepare`, and the places
    """Settings checked against their data.

    Raises: ValueError, FileNotFoundError or OSError if they do not fit."""
    from fairgrape.experiment.dense import device_of
    from fairgrape.experiment.preparation import check_images, prepare
    from fairgrape.experiment.settings import from_parameters

    settings, where = from_parameters(parameters)
    plain_name(where.get("name", ""))
    device_of(where.get("device", "")), check_keep_on(where)
    job = prepare(
        settings,
        progress=progress,
        **{k: v for k, v in where.items() if k in ("name", "data_root", "runs_root", "cache_root")},
    )
    check_images(job)
    return job, where


# %% [markdown]
# A minimal data set:

# %%
rng = np.random.default_rng(0)
rows = [
    dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue")[i // 2 % 2])
    for i in range(120)
]
(tmp / "own").mkdir()
for row in rows:
    Image.fromarray(
        (rng.integers(0, 120, (16, 16, 3)) + (90 if row["shade"] == "light" else 0)).astype(
            np.uint8
        )
    ).save(tmp / "own" / row["file"])
pd.DataFrame(rows).to_csv(tmp / "own" / "labels.csv", index=False)
places = dict(data_root=str(tmp), runs_root=str(tmp / "runs"), cache_root=str(tmp / "cache"))
tiny = (
    dict(
        dataset="folder",
        data_path=str(tmp / "own"),
        task="shade",
        groups="tint",
        network="resnet10",
        weights="none",
        image_size=16,
        method="ws",
        rate=0.5,
        epochs="1",
        lrs="1e-3",
        batch=16,
        augment="none",
        bootstrap=100,
    )
    | places
)
job, where = prepared(tiny)
assert (job.settings.method, job.settings.rate, job.G, len(job.table)) == (
    "ws",
    0.5,
    2,
    120,
) and where == places
for bad in (
    dict(rates=0.9),
    dict(rate=1.5),
    dict(task="colour"),
    dict(name="../up"),
    dict(device="abacus"),
):
    try:
        prepared(tiny | bad)
    except ValueError as e:
        print(str(e)[:150])
    else:
        raise AssertionError(f"{bad} was accepted")
job.settings.method, job.G, len(job.table), where["runs_root"] == places["runs_root"]


# %% [markdown]
# The notebook may run in another folder or in a worker. All paths are therefore made absolute, including those from settings.ini. Progress bars appear on a terminal only.

# %%
#| export
def absolute(where: dict) -> dict:
    "Places with absolute folders, because the notebook may run in another folder."
    given = {kind: where.get(f"{kind}_root") for kind in ("data", "runs", "cache")}
    named = {
        k: str(Path(where[k]).expanduser().resolve())
        for k in ("data_path", "keep_on")
        if where.get(k) not in (None, "", "auto", "device", "host")
    }
    return (
        {"progress": sys.stderr.isatty()}
        | where
        | named
        | {f"{kind}_root": str(root(kind, folder)) for kind, folder in given.items()}
    )


# %%
placed = absolute(dict(runs_root="my runs", progress=True, device="cpu"))
assert (
    placed["runs_root"] == str(Path.cwd() / "my runs")
    and Path(placed["data_root"]).is_absolute()
    and Path(placed["cache_root"]).is_absolute()
)
assert absolute({})["progress"] == sys.stderr.isatty() and absolute(places)["data_root"] == str(
    tmp.resolve()
)
# an existing folder, and a word
with contextlib.chdir(tmp):
    named = absolute(dict(data_path="own", keep_on="host"))
assert (
    named["data_path"] == str(tmp.resolve() / "own")
    and named["keep_on"] == "host"
    and "data_path" not in absolute({})
)
{k: v for k, v in placed.items() if not k.endswith("_root")}


# %% [markdown]
# A worker gets folders and plain values only. Both folders must be in the runs folder, whatever the settings say.

# %%
#| export
def job_of(job, where: dict, code: str, accept_older: bool = False, wait: bool = False) -> RunJob:
    "The worker's part of a prepared job."
    from fairgrape.experiment.preparation import dense_job, run_folder

    folder, dense = (inside(run_folder(j), job.runs_root) for j in (job, dense_job(job)))
    return RunJob(
        str(folder),
        absolute({**asdict(job.settings), **where}),
        code,
        str(dense),
        accept_older,
        wait,
    )


# %%
whole_job = job_of(job, where, "1a2b", wait=True)
assert Path(whole_job.folder).name.startswith("folder-shade-resnet10-ws-0.5-") and Path(
    whole_job.dense
).name.startswith("folder-shade-resnet10-dense-")
assert Path(whole_job.folder).parent == Path(whole_job.dense).parent == (tmp / "runs").resolve()
assert whole_job.parameters["rate"] == 0.5 and whole_job.parameters["data_root"] == str(
    tmp.resolve()
)
assert (whole_job.code, whole_job.accept_older, whole_job.wait) == ("1a2b", False, True)
Path(whole_job.folder).name, Path(whole_job.dense).name


# %% [markdown]
# ## Making the run
#
# A run that is made again needs a dense network of the same code, so one of other code moves aside as well, unless another process is training it or the user accepts results of older code.

# %%
#| export
def _dense_aside(job: RunJob):
    "Move a dense network of other code aside, unless another process is training it."
    dense = Path(job.dense)
    if job.accept_older or not (dense / "metrics.json").is_file():
        return
    try:
        with lock(dense.parent / ".locks" / f"{dense.name}.lock", wait=False):
            if (dense / "metrics.json").is_file() and code_of(dense) != job.code:
                set_aside(dense)
    except Busy:
        pass


# %%
def made(folder: Path, code: str, whole: bool = False) -> Path:
    "The folder of a finished run of this code"
    folder.mkdir(parents=True, exist_ok=True)
    cell = dict(cell_type="code", metadata=dict(papermill=dict(exception=False)))
    for name, what in (
        ("environment.json", dict(code=code)),
        ("metrics.json", {}),
        ("settings.json", {}),
        *([("prune.ipynb", dict(cells=[cell]))] if whole else []),
    ):
        (folder / name).write_text(json.dumps(what))
    return folder


dense = made(tmp / "toy" / "dense-1", "before")
toy = RunJob(str(tmp / "toy" / "ws-1"), {}, "now", str(dense))
left = []
for job_now, taken in (
    (replace(toy, accept_older=True), "other.lock"),
    (replace(toy, code="before"), "other.lock"),
    (toy, "dense-1.lock"),
    (toy, "other.lock"),
):
    with lock(tmp / "toy" / ".locks" / taken):
        _dense_aside(job_now)
    left.append(dense.exists())
assert left == [True, True, True, False] and [
    f.name for f in (tmp / "toy" / ".older").iterdir()
] == ["dense-1-before"]
assert _dense_aside(toy) is None  # no dense network
left


# %% [markdown]
# Hours may pass between the plan and the run, and the run may be on another machine. If the code has changed, the run is not the planned one. If the labels or images have changed, its results get another name.

# %%
#| export
def _check_code(job: RunJob):
    "Raise RuntimeError if the code here is not the plan's."
    if not job.accept_older and code_version() != job.code:
        raise RuntimeError(
            f"{os.uname().nodename} has other code ({code_version()}) than this run was planned"
            f" with ({job.code}): start again if the code was changed, and install the same"
            " fairgrape on all machines"
        )


def _check_landed(job: RunJob):
    "Raise RuntimeError if the results are not in the folder that was planned."
    if not Path(job.folder, "metrics.json").is_file():
        raise RuntimeError(
            f"the notebook ran, but its results are not in {Path(job.folder).name}: the labels,"
            " images or weights were changed after this run was planned, so the results have"
            " another name; start again"
        )


# %%
def refused(check: Callable, job: RunJob) -> str:
    "The error of a check for a job"
    try:
        check(job)
    except RuntimeError as e:
        return str(e)
    raise AssertionError(f"{job} was accepted")


assert (
    _check_code(replace(toy, code=code_version())) is None
    and _check_code(replace(toy, accept_older=True)) is None
    and _check_landed(replace(toy, folder=str(made(tmp / "toy" / "there", "now")))) is None
)
assert "than this run was planned with (now)" in refused(
    _check_code, toy
) and "not in ws-1" in refused(_check_landed, toy)
refused(_check_landed, toy)


# %% [markdown]
# Under the lock the state is checked again, because the previous owner of the lock may have finished the run.

# %%
#| export
def work(
    job: RunJob,  # The run
    log: bool = False,  # Print the output of the notebook
) -> str:  # "done", or "complete" if the run existed
    "Make the run, unless it exists. Raises: Busy, and any error that stops the notebook."
    folder = Path(job.folder)
    with working_on(folder, job.wait):
        state = state_of(folder, job.code, job.accept_older)
        if state == "complete":
            return state
        _check_code(job)
        if state == "older":
            set_aside(folder)
        if job.dense and job.dense != job.folder:
            _dense_aside(job)
        run_notebook(job.template, folder / f"{job.template}.ipynb", job.parameters, log)
        _check_landed(job)
    return "done"


# %%
there = replace(toy, folder=str(made(tmp / "toy" / "ws-1", "now", whole=True)))
assert work(there) == "complete" == work(replace(there, code="later", accept_older=True))
with working_on(Path(there.folder)):
    try:
        work(there)
    except Busy as e:
        print(e)
    else:
        raise AssertionError("two at once")
refused(work, replace(there, code="later"))  # planned with code that is not installed here
assert Path(there.folder, "metrics.json").exists()
# made again, by a template that does not exist
try:
    work(replace(there, code=code_version(), template="nowhere"))
except FileNotFoundError as e:
    print(e)
else:
    raise AssertionError("a template that does not exist was run")
assert [f.name for f in sorted((tmp / "toy" / ".older").iterdir())] == [
    "dense-1-before",
    "ws-1-now",
] and not Path(there.folder, "metrics.json").exists()


# %% [markdown]
# ## One run, here

# %%
#| export
def execute(
    parameters: dict,  # Settings and places by name, see `fairgrape.experiment.settings.Settings`
    log: bool = True,  # Show the notebook's output while it runs
    accept_older: bool = False,  # Let a finished run of older code count
) -> Path:  # The run folder
    """Run the prune template in its run folder, unless the run is complete. Waits for another
    process that works on the same run.

    Raises: ValueError, FileNotFoundError or OSError before anything starts; papermill's error,
    with the cell, if the run fails."""
    from fairgrape.experiment.dense import starting_network

    job, where = prepared(parameters, progress=log)
    run = job_of(job, where, code_version(), accept_older, wait=True)
    if state_of(Path(run.folder), run.code, accept_older) in ("absent", "broken"):
        starting_network(job)
    work(run, log)
    return Path(run.folder)


# %% [markdown]
# A run of other code and its dense network exist already: both move aside and are made again. The second call has nothing to do.

# %%
for old in (whole_job.folder, whole_job.dense):
    made(Path(old), "before")
folder = execute(tiny, log=False)
from fairgrape.experiment.preparation import is_complete

assert (
    str(folder) == whole_job.folder
    and is_complete(folder)
    and state_of(folder, code_version()) == "complete"
    and code_of(Path(whole_job.dense)) == code_version()
)
assert {f.name for f in (tmp / "runs" / ".older").iterdir()} == {
    f"{Path(f).name}-before" for f in (whole_job.folder, whole_job.dense)
}
changed = (folder / "prune.ipynb").stat().st_mtime_ns
# a complete run is not made again
assert execute(tiny, log=False) == folder and (folder / "prune.ipynb").stat().st_mtime_ns == changed
try:
    execute(dict(tiny, rate=1.5), log=False)
except ValueError as e:
    print(e)
else:
    raise AssertionError("bad parameters were accepted")
picture = (tmp / "own" / "0.png").read_bytes()
Image.new("RGB", (40, 40)).save(tmp / "own" / "0.png")
try:
    prepared(tiny)
except ValueError as e:
    print(str(e).replace(str(tmp.resolve()), "…"))
else:
    raise AssertionError("other images of the same names were accepted")
(tmp / "own" / "0.png").write_bytes(picture)
(folder / "environment.json").write_text(json.dumps(dict(code="before")))
# older, and accepted
assert execute(tiny, log=False, accept_older=True) == folder and code_of(folder) == "before"
sorted(f.name for f in folder.iterdir())


# %% [markdown]
# ## Stopping
#
# A kernel has its own process group, so stopping the worker's group does not reach it. `stop_tree` follows parents and children.

# %%
#| export
def stop_tree(
    pid: int,  # A process
    include: bool = True,  # Stop it too, not only its children
):
    "Kill a process and all its descendants; finds them all before it kills the first."
    try:
        top = psutil.Process(pid)
        found = top.children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for process in ([top] if include else []) + found:
        with suppress(psutil.NoSuchProcess):
            process.kill()


# %% [markdown]
# A process with two children, one of them in its own group. First only the children are stopped, then a second process with its children:

# %%
def family() -> tuple[subprocess.Popen, list[psutil.Process]]:
    "A shell, and the two processes that it started"
    mother = subprocess.Popen(
        ["bash", "-c", "sleep 60 & echo $!; setsid sleep 60 & echo $!; wait; sleep 60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return mother, [psutil.Process(int(mother.stdout.readline())) for _ in range(2)]


def gone(processes: list[psutil.Process]) -> bool:
    "Whether they end within five minutes; in a container dead processes may remain as zombies"
    for _ in range(6000):
        with suppress(psutil.NoSuchProcess):
            if all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes):
                return True
        time.sleep(0.05)
    return False


# %%
(mother, children), (other, others) = family(), family()
stop_tree(mother.pid, include=False)
alone = gone(children), mother.poll()
stop_tree(mother.pid), stop_tree(other.pid)
alone, mother.wait(), other.wait(), gone(others)

# %%
assert alone == (True, None) and (mother.wait(), other.wait(), gone(others)) == (-9, -9, True)
stop_tree(mother.pid)  # nothing there, nothing to do


# %% [markdown]
# A worker that gets a signal to stop stops its kernel first. A worker whose sweep has ended stops as well. A killed worker cannot stop its kernel, but the kernel notices within a second that its parent is gone.

# %%
#| export
def _stop_with(parent: int, every: float = 1.0):
    "End this process and its children on a signal, or when its parent is gone."

    def leave(number, frame=None):
        stop_tree(os.getpid(), include=False)
        os._exit(128 + number)

    def watch():
        while os.getppid() == parent:
            time.sleep(every)
        leave(signal.SIGHUP)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, leave)
    threading.Thread(target=watch, daemon=True).start()


# %% [markdown]
# A process with a child that gets a signal, and one with another parent than it was told:

# %%
code = (
    "import subprocess, sys, time; from fairgrape.sweep.runner import _stop_with;"
    " print(subprocess.Popen(['sleep', '60']).pid, flush=True); _stop_with({}, .1); print('ready',"
    " flush=True); time.sleep(60)"
)
asked = subprocess.Popen(
    [sys.executable, "-c", code.format(os.getpid())], stdout=subprocess.PIPE, text=True
)
child = psutil.Process(int(asked.stdout.readline()))
asked.stdout.readline()
time.sleep(0.3)
went_on = asked.poll() is None
asked.terminate()
orphan = subprocess.run([sys.executable, "-c", code.format(1)], stdout=subprocess.PIPE, text=True)
assert (went_on, asked.wait(), gone([child]), orphan.returncode) == (
    True,
    128 + signal.SIGTERM,
    True,
    128 + signal.SIGHUP,
)
assert not psutil.pid_exists(int(orphan.stdout.split()[0])) or gone(
    [psutil.Process(int(orphan.stdout.split()[0]))]
)
asked.returncode, orphan.returncode


# %% [markdown]
# A process with many runs must not fail at the first Ctrl-C. The signal sets an event that a loop checks. A second signal stops at once.

# %%
#| export
@contextmanager
def stoppable(
    at_once: Callable[[], None],  # Called at the second signal
) -> Iterator[threading.Event]:  # Set at the first signal
    "Turn SIGINT, SIGTERM and SIGHUP into an event, except ignored ones (SIGHUP under nohup)."
    asked = threading.Event()

    def on_signal(number, frame):
        if asked.is_set():
            at_once()
            os._exit(130)
        asked.set()

    known = (
        (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if threading.current_thread() is threading.main_thread()
        else ()
    )
    before = {
        number: signal.signal(number, on_signal)
        for number in known
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# %%
code = """import os, signal, sys
from fairgrape.sweep.runner import stoppable
before = signal.getsignal(signal.SIGHUP)
with stoppable(lambda: print('at once', flush=True)) as asked:
    for _ in range(int(sys.argv[1])): os.kill(os.getpid(), signal.SIGHUP)
    print('asked to stop:', asked.wait(1))
print('as before:', signal.getsignal(signal.SIGHUP) == before)"""
# a process started under nohup would ignore it
heard = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n" + code
never, once, twice = (
    subprocess.run([sys.executable, "-c", heard, str(n)], capture_output=True, text=True)
    for n in (0, 1, 2)
)
print(never.stdout, once.stdout, twice.stdout, sep="\n")
assert never.stdout.startswith("asked to stop: False") and (once.stdout, once.returncode) == (
    "asked to stop: True\nas before: True\n",
    0,
)
assert (twice.stdout, twice.returncode) == ("at once\n", 130)
under = subprocess.run(
    ["nohup", sys.executable, "-c", code, "2"],
    capture_output=True,
    text=True,
    stdin=subprocess.DEVNULL,
)
assert (under.stdout, under.returncode) == ("asked to stop: False\nas before: True\n", 0)


# %% [markdown]
# ## The worker
#
# `python -m fairgrape.sweep.runner JOB.json` makes one run. The output of the notebook goes to standard output, with a line for each step of its progress; the outcome goes to `JOB.out.json`.

# %%
#| export
def main(
    # The job's file, then the sweep's process number; default: the command line
    arguments: list[str] | None = None,
) -> int:  # 0 done, 1 not
    "A worker: make the run of a job file, and write its outcome."
    path, *parent = sys.argv[1:] if arguments is None else arguments
    start, path, over = time.perf_counter(), Path(path), threading.Event()
    if parent:
        _stop_with(int(parent[0]))
    try:
        job = read_job(path)
        threading.Thread(
            target=tell_progress, args=((job.folder, job.dense), over), daemon=True
        ).start()
        outcome = Outcome(work(job, True), seconds=time.perf_counter() - start)
    except Exception as e:
        outcome = outcome_of(e, time.perf_counter() - start)
    over.set()
    write_outcome(path, outcome)
    ended = f"{outcome.state} after {outcome.seconds:.1f} s {outcome.reason}".rstrip()
    print(f"{datetime.now():%H:%M:%S} {ended}", flush=True)
    return 0 if outcome.state in ("done", "complete") else 1


# python -m, not a notebook
if __name__ == "__main__" and globals().get("__spec__"):
    sys.exit(main())

# %%
again = tmp / "again.json"
again.write_text(json.dumps(asdict(replace(whole_job, accept_older=True, wait=False))))
worker = subprocess.run(
    [sys.executable, "-X", "importtime", "-m", "fairgrape.sweep.runner", str(again)],
    capture_output=True,
    text=True,
)
print(worker.stdout)

# %% [markdown]
# It imported neither torch nor pandas. An unreadable job and a run that another process holds also end with an outcome, and with another exit status:

# %%
assert (
    worker.returncode == 0
    and read_outcome(again).state == "complete"
    and " torch" not in worker.stderr
    and " pandas" not in worker.stderr
)
(tmp / "bad.json").write_text('{"folder": 3}')
with working_on(folder), redirect_stdout(io.StringIO()) as told:
    codes = main([str(tmp / "bad.json")]), main([str(again)])
print(told.getvalue().replace(str(tmp), "…"))
assert codes == (1, 1) and (read_outcome(tmp / "bad.json").state, read_outcome(again).state) == (
    "failed",
    "busy",
)
assert "not a job" in read_outcome(tmp / "bad.json").reason
