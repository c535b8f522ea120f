"""Kill runs at random moments and see what is left of them: `python nbs/_tools/faults.py [--kills
100] [--seed 0] [--only ...]`.

Every run that was killed, started again and finished is compared with one that was never touched:
masks, weights, predictions and metrics,
byte for byte. The report goes to runs/faults.md, the record of every single fault to
runs/faults.json.
"""

import argparse
import inspect
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}

import numpy as np
import pandas as pd
import psutil
import torch
import yaml
from PIL import Image

import fairgrape.data.cache
import fairgrape.experiment.results
import fairgrape.experiment.run
import fairgrape.method.pruning
import fairgrape.training.journal
import fairgrape.training.loop
from fairgrape.experiment.preparation import is_complete
from fairgrape.experiment.run import run
from fairgrape.experiment.settings import Settings
from fairgrape.training.snapshots import checkpoint_files

REPO = Path(__file__).resolve().parents[2]
FAIRGRAPE = Path(sys.executable).with_name("fairgrape")
# The moments that a fault can hit, and the function in which each lies
PHASES = dict(
    caching=(fairgrape.data.cache, "_write_pixels"),
    training=(fairgrape.training.loop, "train_epoch"),
    importance=(fairgrape.experiment.run, "score_batches"),
    selection=(fairgrape.method.pruning, "select_masks"),
    checkpoint=(fairgrape.training.journal, "save_checkpoint"),
    results=(fairgrape.experiment.results, "run_metrics"),
)
METHODS = dict(
    fairgrape={},
    lottery={},
    importance=dict(as_released=True),
    snip={},
    ws={},
    random=dict(scope="global"),
)


def write_set(home: Path, n: int = 100) -> Path:
    "Little pictures: brightness is the task, tint the group"
    rng, home = np.random.default_rng(0), home / "own"
    home.mkdir(parents=True)
    rows = [
        dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3])
        for i in range(n)
    ]
    for row in rows:
        pixels = rng.integers(0, 160, (32, 32, 3)) + (60 if row["shade"] == "light" else 0)
        pixels[..., 0 if row["tint"] == "red" else 2] += 30
        Image.fromarray(pixels.astype(np.uint8)).save(home / row["file"])
    pd.DataFrame(rows).to_csv(home / "labels.csv", index=False)
    return home


def parameters(own: Path, method: str, **more) -> dict:
    return (
        dict(
            dataset="folder",
            data_path=str(own),
            task="shade",
            groups="tint",
            network="shufflenet_v2_x0_5",
            weights="none",
            image_size=32,
            method=method,
            rate=0.9,
            keep=0.4,
            epochs="1,1",
            lrs="1e-3,1e-4",
            retrain_epochs=1,
            retrain_lr=1e-4,
            batch=16,
            augment="paper",
            bootstrap=100,
        )
        | METHODS.get(method, {})
        | more
    )


def places(home: Path) -> dict:
    return dict(data_root=str(home), runs_root=str(home / "runs"), cache_root=str(home / "cache"))


# A process that dies


def arm(phase: str, call: int, delay: float, sign: int = signal.SIGKILL):
    "Have this process kill itself some seconds into the `call`-th entry of a phase"
    module, name = PHASES[phase]
    inner, calls = getattr(module, name), []

    @wraps(inner)
    def wrapped(*args, **kw):
        calls.append(1)
        if len(calls) == call:
            threading.Timer(delay, os.kill, (os.getpid(), sign)).start()
        return inner(*args, **kw)

    setattr(module, name, wrapped)


def note_epochs(log: Path):
    "Write down each epoch that is begun, to count those that had to be done again"
    inner = fairgrape.training.epochs.train_epoch

    def wrapped(*args, **kw):
        where = inspect.signature(inner).bind(*args, **kw).arguments["where"]
        with log.open("a") as f:
            f.write(json.dumps([os.getpid(), where]) + "\n")
        return inner(*args, **kw)

    fairgrape.training.epochs.train_epoch = wrapped


def timed(times: dict):
    "Write down how often and how long each phase is entered"

    def around(inner: Callable, phase: str) -> Callable:
        def wrapped(*args, **kw):
            start = time.perf_counter()
            try:
                return inner(*args, **kw)
            finally:
                times.setdefault(phase, []).append(time.perf_counter() - start)

        return wrapped

    for phase, (module, name) in PHASES.items():
        setattr(module, name, around(getattr(module, name), phase))


def forked(work: Callable[[], object], out: Path, seconds: float = 300) -> int:
    """Do `work` in a child of this process (which never computes itself, so that forking is
    safe); its exit status, negative for a signal
    """
    pid = os.fork()
    if pid == 0:
        try:
            with out.open("a") as f:
                os.dup2(f.fileno(), 1)
                os.dup2(f.fileno(), 2)
            torch.set_num_threads(1)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"a run hung: see {out}")


def attempt(
    home: Path, given: dict, *plans, log: str = "epochs.jsonl", sign: int = signal.SIGKILL
) -> int:
    "One process that runs (or goes on with) the settings, and dies where `plans` say so"

    def work():
        for plan in plans:
            arm(*plan, sign)
        note_epochs(home / log)
        run(Settings(**given), "cpu", 1, False, **places(home))

    return forked(work, home / "out.log")


# What must be equal


def results(home: Path) -> dict:
    "Every run of a runs folder: what must not depend on whether it was killed"
    found = {}
    for folder in sorted(f for f in (home / "runs").iterdir() if is_complete(f)):
        metrics = json.loads((folder / "metrics.json").read_text()) | dict(seconds=0)
        history = pd.read_csv(folder / "history.csv").drop(columns="seconds").to_csv()
        steps = folder / "steps.csv"
        steps = (
            pd.read_csv(steps).drop(columns=["score_s", "select_s", "retrain_s"]).to_csv()
            if steps.stat().st_size > 2
            else ""
        )
        tensors = [
            (folder / name).read_bytes() for name in ("masks.safetensors", "model.safetensors")
        ]
        found[folder.name] = [
            metrics,
            history,
            steps,
            pd.read_parquet(folder / "predictions.parquet").to_csv(),
            *tensors,
        ]
    return found


def again(log: Path) -> list[int]:
    "For each process after the first: how many epochs it began that had been begun before it"
    if not log.is_file():
        return []
    begun, seen, repeated = [json.loads(line) for line in log.read_text().splitlines()], set(), {}
    for pid in dict.fromkeys(p for p, _ in begun):
        mine = [w for p, w in begun if p == pid]
        repeated[pid] = sum(w in seen for w in mine)
        seen |= set(mine)
    return list(repeated.values())[1:]


class Campaign:
    "Runs faults and keeps count"

    def __init__(self, seed: int, work: Path):
        self.rng, self.work, self.records, self.references, self.times = (
            np.random.default_rng(seed),
            work,
            [],
            {},
            {},
        )
        self.own = write_set(work)

    def reference(self, method: str, **more) -> dict:
        """The results of an untouched run of this method, and how long its phases take; `more`:
        other settings, under a name of their own
        """
        key = "-".join([method, *more.values()])
        if key not in self.references:
            home = self.work / f"reference-{key}"
            home.mkdir()

            def work():
                times = {}
                timed(times)
                run(
                    Settings(**parameters(self.own, method, **more)),
                    "cpu",
                    1,
                    False,
                    **places(home),
                )
                (home / "times.json").write_text(json.dumps(times))

            if forked(work, home / "out.log"):
                sys.exit((home / "out.log").read_text())
            self.references[key], self.times[key] = (
                results(home),
                json.loads((home / "times.json").read_text()),
            )
        return self.references[key]

    def record(
        self,
        kind: str,
        home: Path,
        method: str,
        faults: int,
        said: str = "",
        most: int = 1,
        log: str = "epochs.jsonl",
    ):
        "Compare a finished run with the untouched one, and remember how it went"
        same, repeated = results(home) == self.reference(method), again(home / log)
        ok = same and all(n <= most for n in repeated)
        self.records.append(
            dict(
                kind=kind,
                method=method,
                faults=faults,
                survived=faults if ok else 0,
                lost=0 if ok else faults,
                epochs_again=repeated,
                said=said,
            )
        )
        print(
            f"{kind:12} {method:10} {faults} faults, epochs done again {repeated}:"
            f" {'the same bits' if ok else 'LOST'}",
            flush=True,
        )
        if ok:
            shutil.rmtree(home)

    def home(self, kind: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=self.work))
        return folder

    def killed(self, phase: str, method: str, times: int, sign: int = signal.SIGKILL) -> int:
        """A run that is killed so often in a phase, then left to finish; how many of the kills
        hit it
        """
        self.reference(method)
        home, hits = self.home(phase), 0
        for _ in range(times):
            entries = self.times[method].get(phase, [])
            call = int(self.rng.integers(1, max(2, len(entries) // (times + 1) + 1)))
            delay = float(self.rng.uniform(0, 1.2 * float(np.median(entries)) if entries else 0.05))
            code = attempt(home, parameters(self.own, method), (phase, call, delay), sign=sign)
            if code == 1:
                sys.exit((home / "out.log").read_text())
            hits += code == -sign
        if attempt(home, parameters(self.own, method)):
            sys.exit((home / "out.log").read_text())
        self.record(phase if sign == signal.SIGKILL else "SIGTERM", home, method, hits)
        return hits


def kills(c: Campaign, wanted: int):
    "kill -9 inside the library, phase after phase, method after method"
    done, i = 0, 0
    while done < wanted:
        phase, method = (
            list(PHASES)[i % len(PHASES)],
            list(METHODS)[(i // len(PHASES) + i) % len(METHODS)],
        )
        if phase == "selection" and method == "dense":
            continue
        done += c.killed(phase, method, min(int(c.rng.integers(1, 4)), wanted - done))
        i += 1
        if i > 20 * wanted:
            sys.exit("the kills do not hit: are the phases still where PHASES says?")


def terms(c: Campaign, wanted: int = 6):
    "SIGTERM, as a batch queue sends it"
    for i in range(wanted):
        c.killed(
            "training" if i % 2 else "checkpoint",
            list(METHODS)[i % len(METHODS)],
            1,
            signal.SIGTERM,
        )


def damage(c: Campaign):
    """A checkpoint that is cut off, one with a flipped bit, both of the two, and a pickle in a
    checkpoint's place
    """

    def cut(f):
        f.write_bytes(f.read_bytes()[: int(c.rng.integers(0, f.stat().st_size))])

    def flip(f):
        bits = bytearray(f.read_bytes())
        at = int(c.rng.integers(len(bits)))
        bits[at] ^= 1 << int(c.rng.integers(8))
        f.write_bytes(bits)

    for kind, method, harm, files in (
        ("truncated", "fairgrape", cut, 1),
        ("bit flipped", "lottery", flip, 1),
        ("both damaged", "fairgrape", flip, 2),
    ):
        c.reference(method)
        home, n = c.home(kind.replace(" ", "-")), len(c.times[method]["checkpoint"])
        while not (
            found := [f for d in home.glob("runs/*/checkpoints") for f in checkpoint_files(d)][
                :files
            ]
        )[files - 1 :]:
            if (
                attempt(
                    home,
                    parameters(c.own, method),
                    ("checkpoint", int(c.rng.integers(n // 2, n)), 0.2),
                )
                != -signal.SIGKILL
            ):
                sys.exit("the fault did not hit")
        for f in found:
            harm(f)
        if attempt(home, parameters(c.own, method)):
            sys.exit((home / "out.log").read_text())
        said = next(
            line for line in (home / "out.log").read_text().splitlines() if "checksum" in line
        )
        c.record(kind, home, method, 1, said.strip()[-200:], most=2 if files == 1 else 99)


def mounted(c: Campaign, kind: str, options: str) -> Path | None:
    "A small file system of its own for a runs folder; None where this user may not mount"
    home = c.home(kind)
    (home / "runs").mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", home / "runs"],
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return home
    c.records.append(
        dict(
            kind=kind,
            method="",
            faults=0,
            survived=0,
            lost=0,
            epochs_again=[],
            said=f"SKIPPED: {done.stderr.strip()}",
        )
    )
    print(f"{kind}: skipped, {done.stderr.strip()}", flush=True)


def disks(c: Campaign):
    "A disk that is full in the middle of a run, and a folder that cannot be written"
    for room in (2, 6, 9):
        if (home := mounted(c, "full-disk", "size=64m")) is None:
            continue
        try:
            c.reference("fairgrape")
            ballast = home / "runs" / "ballast"
            ballast.write_bytes(bytes((64 - room) * 2**20))
            if attempt(home, parameters(c.own, "fairgrape")) != 1:
                sys.exit("the run did not notice the full disk: " + (home / "out.log").read_text())
            said = (home / "out.log").read_text().strip().splitlines()[-1].replace(str(home), "…")
            ballast.unlink()
            if attempt(home, parameters(c.own, "fairgrape")):
                sys.exit((home / "out.log").read_text())
            keep = home.with_name(home.name + "-kept")
            shutil.copytree(home, keep)
        finally:
            subprocess.run(["umount", home / "runs"], check=True)
        c.record("full disk", keep, "fairgrape", 1, said)
    if (home := mounted(c, "read-only", "size=64m,ro")) is None:
        return
    try:
        if attempt(home, parameters(c.own, "ws")) != 1:
            sys.exit("a read-only folder was not noticed")
        said = (home / "out.log").read_text().strip().splitlines()[-1].replace(str(home), "…")
        subprocess.run(["mount", "-o", "remount,rw", home / "runs"], check=True)
        if attempt(home, parameters(c.own, "ws")):
            sys.exit((home / "out.log").read_text())
        keep = home.with_name(home.name + "-kept")
        shutil.copytree(home, keep)
    finally:
        subprocess.run(["umount", home / "runs"], check=True)
    c.record("read-only", keep, "ws", 1, said)


# Faults that hit whole sweeps: the sweep's process, its workers, their kernels, the notebook while
# it is saved


def grid(c: Campaign, home: Path, methods=("fairgrape", "lottery", "ws", "snip")) -> Path:
    file = home / "grid.yaml"
    cells = [parameters(c.own, m) | places(home) | dict(threads=1) for m in methods]
    file.write_text(yaml.safe_dump(dict(cells=cells)))
    return file


def start_sweep(home: Path, file: Path, *more: str) -> subprocess.Popen:
    with (home / "out.log").open("a") as out:
        return subprocess.Popen(
            [FAIRGRAPE, "sweep", file, "--workers", "2", "--retries", "1000", "--no_report", *more],
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


# what each is started with, after python -m
MODULES = dict(worker="fairgrape.sweep.runner", kernel="ipykernel_launcher")


def members(sweep: subprocess.Popen) -> dict[str, list[psutil.Process]]:
    "The processes of a sweep, by what they are: the sweep, its workers, their kernels"
    found = {kind: [] for kind in ("sweep", *MODULES)}
    try:
        found["sweep"], children = (
            [psutil.Process(sweep.pid)],
            psutil.Process(sweep.pid).children(recursive=True),
        )
    except psutil.NoSuchProcess:
        return found
    for process in children:
        try:
            command = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        for kind, module in MODULES.items():
            if module in command:
                found[kind].append(process)
    return found


def saving(home: Path) -> bool:
    "Whether some notebook has its results, and is now being brought to its end and saved"
    return any(
        not (f.parent / "prune.ipynb").is_file()
        for f in home.glob("runs/*/metrics.json")
        if list(f.parent.glob(".prune*"))
    )


def strike(c: Campaign, home: Path, sweep: subprocess.Popen, victim: str) -> bool:
    "Kill one process of a sweep at a random moment; whether there was one to kill"
    if victim == "saving":
        while not saving(home):
            if sweep.poll() is not None:
                return False
            time.sleep(0.02)
        time.sleep(float(c.rng.uniform(0, 1.5)))
        victim = ("worker", "kernel")[int(c.rng.integers(2))]
    else:
        time.sleep(float(c.rng.uniform(0.5, 9)))
    while not (there := members(sweep)[victim]):
        if sweep.poll() is not None:
            return False
        time.sleep(0.1)
    time.sleep(float(c.rng.uniform(0, 3)))
    try:
        there[int(c.rng.integers(len(there)))].kill()
    except psutil.NoSuchProcess:
        return False
    return True


def merged(c: Campaign, methods, **more) -> dict:
    return {name: result for m in methods for name, result in c.reference(m, **more).items()}


def sweeps(c: Campaign, wanted: int):
    "kill -9 at whatever a sweep consists of, until it is through all the same"
    methods, victims = (
        ("fairgrape", "lottery", "ws", "snip"),
        (
            "kernel",
            "saving",
            "worker",
            "sweep",
            "kernel",
            "saving",
            "worker",
        ),
    )
    done, i = dict.fromkeys(victims, 0), 0
    expected = merged(c, methods)
    while sum(done.values()) < wanted:
        home = c.home("sweeping")
        file, hits = grid(c, home), dict.fromkeys(victims, 0)
        sweep = start_sweep(home, file)
        while sweep.poll() is None or sweep.returncode not in (0, 1, 2):
            if sweep.poll() is not None:
                sweep = start_sweep(home, file)
            if sum(done.values()) + sum(hits.values()) < wanted and sum(hits.values()) < 12:
                hits[victims[i % len(victims)]] += strike(c, home, sweep, victims[i % len(victims)])
                i += 1
            else:
                sweep.wait(600)
        if sweep.returncode:
            sys.exit(
                f"the sweep ended with {sweep.returncode}: "
                + (home / "out.log").read_text()[-3000:]
            )
        same = results(home) == expected and not left_over(home)
        for victim, n in hits.items():
            done[victim] += n
            if n:
                c.records.append(
                    dict(
                        kind=f"sweep: {victim}",
                        method="4 runs",
                        faults=n,
                        survived=n * same,
                        lost=n * (not same),
                        epochs_again=[],
                        said="",
                    )
                )
        print(f"sweep {hits}: {'the same bits' if same else 'LOST'}", flush=True)
        if same:
            shutil.rmtree(home)


def left_over(home: Path) -> list[str]:
    "Workers and kernels that a sweep left behind"
    time.sleep(3)
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            of_a_sweep = any(module in process.cmdline() for module in MODULES.values())
            if of_a_sweep and any(str(home) in file.path for file in process.open_files()):
                left.append(process.name())
    return left


def two_sweeps(c: Campaign):
    "Two sweeps over one grid, started at once on one runs folder"
    methods, home = ("fairgrape", "lottery", "ws", "snip"), c.home("two-sweeps")
    file = grid(c, home)
    both = [start_sweep(home, file), start_sweep(home, file)]
    codes = [p.wait(900) for p in both]
    done = [
        sum(cell["state"] == "done" for cell in json.loads(f.read_text())["cells"])
        for f in home.glob("runs/.sweeps/*/sweep.json")
    ]
    ok = codes == [0, 0] and results(home) == merged(c, methods) and sum(done) == len(methods)
    c.records.append(
        dict(
            kind="two sweeps",
            method="4 runs",
            faults=1,
            survived=int(ok),
            lost=int(not ok),
            epochs_again=[],
            said=f"runs done by the one and by the other: {done}",
        )
    )
    print(
        f"two sweeps: exit {codes}, runs done {done}: {'the same bits' if ok else 'LOST'}",
        flush=True,
    )


def rays(c: Campaign):
    """A Ray worker killed, then a whole node, in the middle of a sweep over two nodes; again if
    the sweep was over before the node was gone
    """
    if not any(rays_once(c) for _ in range(5)):
        raise SystemExit(
            "a Ray worker and a Ray node: five sweeps, and in none did both faults hit a run"
        )


def rays_once(c: Campaign) -> bool:
    "One such sweep; whether both faults hit, so that there is nothing to try again"
    try:
        import ray
    except ImportError:
        c.records.append(
            dict(
                kind="Ray",
                method="",
                faults=0,
                survived=0,
                lost=0,
                epochs_again=[],
                said="SKIPPED: Ray is not installed",
            )
        )
        return True
    from ray.cluster_utils import Cluster

    from fairgrape.sweep.grid import numbered, plan
    from fairgrape.sweep.ray import OnRay
    from fairgrape.sweep.sweep import Sweep

    methods, home = ("fairgrape", "lottery", "ws", "snip"), c.home("ray")
    longer = dict(epochs="30,30")  # runs that a node can die in, however fast the machine is
    expected, hits, over = merged(c, methods, **longer), [], threading.Event()
    nodes = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1, include_dashboard=False))
    second = nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    cells = plan(
        numbered([parameters(c.own, m) | longer | places(home) | dict(threads=1) for m in methods])
    )

    def computing():
        return [f for f in home.glob("runs/*/checkpoints") if checkpoint_files(f)]

    def lose():
        def until(there: Callable[[], bool]):
            while not (there() or over.is_set()):
                time.sleep(0.1)

        until(computing)

        # not a node's agents, which are called ray:: as well
        def tasks() -> list:
            return [
                p
                for p in psutil.process_iter(["cmdline"])
                if (p.info["cmdline"] or [""])[0].startswith("ray::ray_task")
            ]

        until(tasks)
        if workers := tasks():
            workers[0].kill()
            hits.append("worker")
        # the sweep has noticed, and begun it again
        until(lambda: any(cell.tries > 1 for cell in cells))
        raylet = psutil.Process(second.all_processes["raylet"][0].process.pid)

        def there() -> bool:
            try:
                return any(
                    "fairgrape.sweep.runner" in p.cmdline() and time.time() - p.create_time() > 5
                    for p in raylet.children(recursive=True)
                )
            except psutil.NoSuchProcess:
                return False  # one that ended while it was asked

        while not over.is_set():  # a run that is only said to be running may still wait for room
            until(there)
            time.sleep(float(c.rng.uniform(0, 0.5)))
            if there():
                nodes.remove_node(second, allow_graceful=False)
                hits.append("node")
                break

    threading.Thread(target=lose, daemon=True).start()
    try:
        Sweep(cells, OnRay()).run()
    finally:
        over.set()
        ray.shutdown()
        nodes.shutdown()
    same = results(home) == expected and all(cell.state == "done" for cell in cells)
    for victim in ("worker", "node"):
        n = int(victim in hits and sum(cell.tries - 1 for cell in cells) >= len(hits))
        if n:
            c.records.append(
                dict(
                    kind=f"Ray {victim}",
                    method="4 runs",
                    faults=n,
                    survived=n * same,
                    lost=n * (not same),
                    epochs_again=[],
                    said="",
                )
            )
    print(
        f"Ray {hits}: {[(cell.state, cell.tries) for cell in cells]}:"
        f" {'the same bits' if same else 'LOST'}",
        flush=True,
    )
    # each fault costs a try, or it hit nothing
    return not same or len(hits) == 2 and sum(cell.tries - 1 for cell in cells) >= 2


# The report


def report(c: Campaign, out: Path, seed: int, seconds: float):
    table = pd.DataFrame(c.records)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(
        json.dumps(dict(seed=seed, seconds=seconds, records=c.records), indent=1) + "\n"
    )

    def most(lists):
        return max((n for one in lists for n in one), default=None)

    sums = table.groupby("kind", sort=False).agg(
        tried=("faults", "sum"),
        survived=("survived", "sum"),
        lost=("lost", "sum"),
        again=("epochs_again", most),
    )
    kills = table[
        ~table["kind"].isin(
            [
                "SIGTERM",
                "truncated",
                "bit flipped",
                "both damaged",
                "full disk",
                "read-only",
                "two sweeps",
                "Ray node",
                "Ray",
            ]
        )
    ]["faults"].sum()
    lines = [
        (
            f"# Faults, and what was left of the runs\n\ntorch {torch.__version__}, Python"
            f" {platform.python_version()}, {os.cpu_count()} cores ({platform.machine()}); seed"
            f" {seed}, {seconds / 60:.0f} minutes. {kills} times kill -9. A run counts as survived"
            " if, started again, it ends with the masks, weights, predictions and metrics of a run"
            " that was never touched, byte for byte; the last column is the most epochs that one"
            " process had to do again.\n"
        ),
        "| where the fault hit | tried | survived | lost | epochs again, at most |",
        "|---|---|---|---|---|",
        *(
            f"| {kind} | {int(r.tried)} | {int(r.survived)} | {int(r.lost)} |"
            f" {'' if pd.isna(r.again) else int(r.again)} |"
            for kind, r in sums.iterrows()
        ),
        (
            f"| **all** | {table['faults'].sum()} | {table['survived'].sum()} |"
            f" {table['lost'].sum()} | |"
        ),
        "",
        "What was said:",
        "",
        *(
            f"- {kind}: `{said}`"
            for kind, said in (
                table[["kind", "said"]].drop_duplicates("kind").itertuples(index=False)
            )
            if said
        ),
    ]
    out.write_text("\n".join(lines) + "\n")
    print(f"\n{out}:\n" + "\n".join(lines))


PARTS = dict(
    library=lambda c, n: kills(c, n),
    sweeps=lambda c, n: sweeps(c, n),
    terms=lambda c, n: terms(c),
    damage=lambda c, n: damage(c),
    disks=lambda c, n: disks(c),
    two=lambda c, n: two_sweeps(c),
    ray=lambda c, n: rays(c),
)


def main() -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--kills", type=int, default=70, help="kill -9s inside runs")
    p.add_argument(
        "--sweep_kills", type=int, default=40, help="kill -9s of sweeps, their workers and kernels"
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    p.add_argument("--out", default=str(REPO / "runs" / "faults.md"))
    p.add_argument(
        "--add", action="store_true", help="keep what the report there has of the other parts"
    )
    args = p.parse_args()
    if wrong := set(args.only.split(",")) - set(PARTS):
        p.error(f"--only: there is no {', '.join(wrong)}")
    start = time.time()
    with tempfile.TemporaryDirectory(prefix="fairgrape-faults-") as work:
        c, before = Campaign(args.seed, Path(work)), Path(args.out).with_suffix(".json")
        kept = (
            json.loads(before.read_text())
            if args.add and before.is_file()
            else dict(seconds=0, records=[])
        )
        c.records = [r for r in kept["records"] if r["part"] not in args.only.split(",")]
        for part in args.only.split(","):
            PARTS[part](c, args.sweep_kills if part == "sweeps" else args.kills)
            for r in c.records:
                r.setdefault("part", part)
            report(c, Path(args.out), args.seed, kept["seconds"] + time.time() - start)
    return int(any(r["lost"] for r in c.records))


if __name__ == "__main__":
    sys.exit(main())
