"""Kill runs at random moments and see what is left of them: `python nbs/_tools/faults.py [--kills 100] [--seed 0] [--only ...]`.

Every run that was killed, started again and finished is compared with one that was never touched: masks, weights, predictions and metrics,
byte for byte. The report goes to runs/faults.md, the record of every single fault to runs/faults.json."""
import argparse
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
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}

import numpy as np
import pandas as pd
import psutil
import torch
import yaml
from PIL import Image

import fairgrape.cache
import fairgrape.checkpoints
import fairgrape.experiment
import fairgrape.pruning
import fairgrape.training
from fairgrape.checkpoints import checkpoint_files
from fairgrape.experiment import Settings, is_complete, run

REPO = Path(__file__).resolve().parents[2]
FAIRGRAPE = Path(sys.executable).with_name("fairgrape")
# The moments that a fault can hit, and the function in which each lies
PHASES = dict(caching=(fairgrape.cache, "_write_pixels"), training=(fairgrape.training, "train_epoch"), importance=(fairgrape.experiment, "score_batches"),
              selection=(fairgrape.pruning, "select_masks"), checkpoint=(fairgrape.checkpoints, "save_checkpoint"), results=(fairgrape.experiment, "save_run"))
METHODS = dict(fairgrape={}, lottery={}, importance=dict(as_released=True), snip={}, ws={}, random=dict(scope="global"))

def write_set(home: Path, n: int = 160) -> Path:
    "Little pictures: brightness is the task, tint the group"
    rng, home = np.random.default_rng(0), home / "own"
    home.mkdir(parents=True)
    rows = [dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3]) for i in range(n)]
    for row in rows:
        pixels = rng.integers(0, 160, (32, 32, 3)) + (60 if row["shade"] == "light" else 0)
        pixels[..., 0 if row["tint"] == "red" else 2] += 30
        Image.fromarray(pixels.astype(np.uint8)).save(home / row["file"])
    pd.DataFrame(rows).to_csv(home / "labels.csv", index=False)
    return home

def parameters(own: Path, method: str, **more) -> dict:
    return dict(dataset="folder", data_path=str(own), task="shade", groups="tint", network="shufflenet_v2_x0_5", weights="none", image_size=32, method=method, rate=0.9, keep=0.5,
                epochs="2,1", lrs="1e-3,1e-4", retrain_epochs=1, retrain_lr=1e-4, batch=16, augment="paper", bootstrap=100) | METHODS.get(method, {}) | more

def places(home: Path) -> dict: return dict(data_root=str(home), runs_root=str(home / "runs"), cache_root=str(home / "cache"))

# A process that dies

def arm(phase: str, call: int, delay: float, sign: int = signal.SIGKILL):
    "Have this process kill itself some seconds into the `call`-th entry of a phase"
    module, name = PHASES[phase]
    inner, calls = getattr(module, name), []
    def wrapped(*args, **kw):
        calls.append(1)
        if len(calls) == call: threading.Timer(delay, os.kill, (os.getpid(), sign)).start()
        return inner(*args, **kw)
    setattr(module, name, wrapped)

def note_epochs(log: Path):
    "Write down each epoch that is begun, to count those that had to be done again"
    inner = fairgrape.training.train_epoch
    def wrapped(*args, **kw):
        with log.open("a") as f: f.write(json.dumps([os.getpid(), args[-1] if isinstance(args[-1], str) else kw.get("where")]) + "\n")
        return inner(*args, **kw)
    fairgrape.training.train_epoch = wrapped

def timed(times: dict):
    "Write down how often and how long each phase is entered"
    for phase, (module, name) in PHASES.items():
        def wrapped(*args, inner=getattr(module, name), phase=phase, **kw):
            start = time.perf_counter()
            try: return inner(*args, **kw)
            finally: times.setdefault(phase, []).append(time.perf_counter() - start)
        setattr(module, name, wrapped)

def forked(work: Callable[[], object], out: Path, seconds: float = 300) -> int:
    "Do `work` in a child of this process (which never computes itself, so that forking is safe); its exit status, negative for a signal"
    pid = os.fork()
    if pid == 0:
        try:
            with out.open("a") as f: os.dup2(f.fileno(), 1); os.dup2(f.fileno(), 2)
            torch.set_num_threads(1)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc(); sys.stderr.flush()
            os._exit(1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    raise TimeoutError(f"a run hung: see {out}")

def attempt(home: Path, given: dict, *plans, log: str = "epochs.jsonl", sign: int = signal.SIGKILL) -> int:
    "One process that runs (or goes on with) the settings, and dies where `plans` say so"
    def work():
        for plan in plans: arm(*plan, sign)
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
        steps = pd.read_csv(steps).drop(columns=["score_s", "select_s", "retrain_s"]).to_csv() if steps.stat().st_size > 2 else ""
        tensors = [(folder / name).read_bytes() for name in ("masks.safetensors", "model.safetensors")]
        found[folder.name] = [metrics, history, steps, pd.read_parquet(folder / "predictions.parquet").to_csv(), *tensors]
    return found

def again(log: Path) -> list[int]:
    "For each process after the first: how many epochs it began that had been begun before it"
    if not log.is_file(): return []
    begun, seen, repeated = [json.loads(line) for line in log.read_text().splitlines()], set(), {}
    for pid in dict.fromkeys(p for p, _ in begun):
        mine = [w for p, w in begun if p == pid]
        repeated[pid] = sum(w in seen for w in mine)
        seen |= set(mine)
    return list(repeated.values())[1:]

class Campaign:
    "Runs faults and keeps count"
    def __init__(self, seed: int, work: Path):
        self.rng, self.work, self.records, self.references, self.times = np.random.default_rng(seed), work, [], {}, {}
        self.own = write_set(work)

    def reference(self, method: str) -> dict:
        "The results of an untouched run of this method, and how long its phases take"
        if method not in self.references:
            home = self.work / f"reference-{method}"; home.mkdir()
            def work():
                times = {}
                timed(times)
                run(Settings(**parameters(self.own, method)), "cpu", 1, False, **places(home))
                (home / "times.json").write_text(json.dumps(times))
            if forked(work, home / "out.log"): sys.exit((home / "out.log").read_text())
            self.references[method], self.times[method] = results(home), json.loads((home / "times.json").read_text())
        return self.references[method]

    def record(self, kind: str, home: Path, method: str, faults: int, said: str = "", most: int = 1, log: str = "epochs.jsonl"):
        "Compare a finished run with the untouched one, and remember how it went"
        same, repeated = results(home) == self.reference(method), again(home / log)
        ok = same and all(n <= most for n in repeated)
        self.records.append(dict(kind=kind, method=method, faults=faults, survived=faults if ok else 0, lost=0 if ok else faults, epochs_again=repeated, said=said))
        print(f"{kind:12} {method:10} {faults} faults, epochs done again {repeated}: {'the same bits' if ok else 'LOST'}", flush=True)
        if ok: shutil.rmtree(home)

    def home(self, kind: str) -> Path:
        folder = self.work / f"{kind}-{len(self.records)}"; folder.mkdir(parents=True)
        return folder

    def killed(self, phase: str, method: str, times: int, sign: int = signal.SIGKILL) -> int:
        "A run that is killed so often in a phase, then left to finish; how many of the kills hit it"
        self.reference(method)
        home, hits = self.home(phase), 0
        for _ in range(times):
            entries = self.times[method].get(phase, [])
            call = int(self.rng.integers(1, max(2, len(entries) // (times + 1) + 1)))
            delay = float(self.rng.uniform(0, 1.2 * float(np.median(entries)) if entries else 0.05))
            code = attempt(home, parameters(self.own, method), (phase, call, delay), sign=sign)
            if code == 1: sys.exit((home / "out.log").read_text())
            hits += code == -sign
        if attempt(home, parameters(self.own, method)): sys.exit((home / "out.log").read_text())
        self.record(phase if sign == signal.SIGKILL else "SIGTERM", home, method, hits)
        return hits

def kills(c: Campaign, wanted: int):
    "kill -9 inside the library, phase after phase, method after method"
    done, i = 0, 0
    while done < wanted:
        phase, method = list(PHASES)[i % len(PHASES)], list(METHODS)[(i // len(PHASES) + i) % len(METHODS)]
        if phase == "selection" and method == "dense": continue
        done += c.killed(phase, method, min(int(c.rng.integers(1, 4)), wanted - done))
        i += 1
        if i > 20 * wanted: sys.exit("the kills do not hit: are the phases still where PHASES says?")

def terms(c: Campaign, wanted: int = 6):
    "SIGTERM, as a batch queue sends it"
    for i in range(wanted): c.killed("training" if i % 2 else "checkpoint", list(METHODS)[i % len(METHODS)], 1, signal.SIGTERM)

def damage(c: Campaign):
    "A checkpoint that is cut off, one with a flipped bit, both of the two, and a pickle in a checkpoint's place"
    def cut(f): f.write_bytes(f.read_bytes()[:int(c.rng.integers(0, f.stat().st_size))])
    def flip(f):
        bits = bytearray(f.read_bytes()); at = int(c.rng.integers(len(bits))); bits[at] ^= 1 << int(c.rng.integers(8)); f.write_bytes(bits)
    for kind, harm, files in (("truncated", cut, 1), ("bit flipped", flip, 1), ("both damaged", flip, 2)):
        for method in ("fairgrape", "lottery"):
            c.reference(method)
            home, n = c.home(kind.replace(" ", "-")), len(c.times[method]["checkpoint"])
            while not (found := [f for d in home.glob("runs/*/checkpoints") for f in checkpoint_files(d)][:files])[files - 1:]:
                if attempt(home, parameters(c.own, method), ("checkpoint", int(c.rng.integers(n // 2, n)), 0.2)) != -signal.SIGKILL: sys.exit("the fault did not hit")
            for f in found: harm(f)
            if attempt(home, parameters(c.own, method)): sys.exit((home / "out.log").read_text())
            said = next(line for line in (home / "out.log").read_text().splitlines() if "checksum" in line)
            c.record(kind, home, method, 1, said.strip()[-200:], most=2 if files == 1 else 99)

def mounted(c: Campaign, kind: str, options: str) -> Path | None:
    "A small file system of its own for a runs folder; None where this user may not mount"
    home = c.home(kind)
    (home / "runs").mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", home / "runs"], capture_output=True, text=True)
    if done.returncode == 0: return home
    c.records.append(dict(kind=kind, method="", faults=0, survived=0, lost=0, epochs_again=[], said=f"SKIPPED: {done.stderr.strip()}"))
    print(f"{kind}: skipped, {done.stderr.strip()}", flush=True)

def disks(c: Campaign):
    "A disk that is full in the middle of a run, and a folder that cannot be written"
    for room in (2, 6, 9):
        if (home := mounted(c, "full-disk", "size=64m")) is None: continue
        try:
            c.reference("fairgrape")
            ballast = home / "runs" / "ballast"
            ballast.write_bytes(bytes((64 - room) * 2**20))
            if attempt(home, parameters(c.own, "fairgrape")) != 1: sys.exit("the run did not notice the full disk: " + (home / "out.log").read_text())
            said = (home / "out.log").read_text().strip().splitlines()[-1].replace(str(home), "…")
            ballast.unlink()
            if attempt(home, parameters(c.own, "fairgrape")): sys.exit((home / "out.log").read_text())
            keep = home.with_name(home.name + "-kept"); shutil.copytree(home, keep)
        finally: subprocess.run(["umount", home / "runs"], check=True)
        c.record("full disk", keep, "fairgrape", 1, said)
    if (home := mounted(c, "read-only", "size=64m,ro")) is None: return
    try:
        if attempt(home, parameters(c.own, "ws")) != 1: sys.exit("a read-only folder was not noticed")
        said = (home / "out.log").read_text().strip().splitlines()[-1].replace(str(home), "…")
        subprocess.run(["mount", "-o", "remount,rw", home / "runs"], check=True)
        if attempt(home, parameters(c.own, "ws")): sys.exit((home / "out.log").read_text())
        keep = home.with_name(home.name + "-kept"); shutil.copytree(home, keep)
    finally: subprocess.run(["umount", home / "runs"], check=True)
    c.record("read-only", keep, "ws", 1, said)
