"""How fast the costly parts are, measured side by side: `make bench`, or `python
nbs/_bench/bench.py --only a,g --quick`.

    a  selection   select_fair on a layer of 2,359,296 weights x 7 groups against a stable
    torch.sort of its 7 columns; all of ResNet-34
    b  importance  group importance at G = 1, 2, 7, 14 against one plain forward-backward pass over
    the same images
    c  data        an epoch from the image cache against an epoch that decodes JPEGs, and the peak
    memory of each
    d  step        FairGRAPE's step (importance and selection) as a fraction of the retraining that
    follows it
    e  run         a whole FairGRAPE run against group-blind importance and, with capped
    importance, against iterative magnitude
    f  sweep       what a run costs beyond its own work in a sweep; two workers against one on the
    same cores
    g  growth      importance, selection and peak memory over weights (1 M to 100 M), images and
    groups (2 to 50): exponents and a plot
    h  start       help, status and refusals of the command against `import torch`

Each measurement runs in a process of its own with its own number of threads; sides take turns, and
medians are reported.
Leaves bench.json, bench.md and bench-growth.png in the runs folder, after every row, so an
interrupted bench keeps what it measured.
All of it takes about 25 minutes on 2 idle cores; on a busy machine the ratios mean little.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
# a thread that waits spins briefly, as in a sweep: other work on the machine distorts less
QUIET = dict(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="7000", KMP_BLOCKTIME="0")


# Measuring


def alternate(
    # How often each side is measured, after one round that is not counted; 0: that round counts
    repetitions: int,
    **sides,  # Name -> function without arguments
) -> dict:  # Name -> median seconds
    "Time several sides in turn, so that a busy moment of the machine falls on all of them."
    seconds = {name: [] for name in sides}
    for turn in range(repetitions + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if turn or not repetitions:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(s) for name, s in seconds.items()}


def peak_memory() -> float:
    """The most memory that this process has held, MiB; not ru_maxrss, which begins with that of
    the process that started this one
    """
    return memory("VmHWM")


def memory(what: str) -> float:
    """VmRSS, what this process holds now, or VmHWM, the most so far or since `forget_peak`; MiB
    (Linux)
    """
    return (
        int(
            next(
                line
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith(what)
            ).split()[1]
        )
        / 1024
    )


def forget_peak() -> None:
    "Let VmHWM start again from what is held now"
    Path("/proc/self/clear_refs").write_text("5")


def run_job(
    job: str,  # A name in JOBS
    threads: int,  # Threads of torch and numba in the process
    **settings,  # For the job
) -> dict:  # What the job returned, with its settings
    "Run a job in a fresh process."
    said = {k: v for k, v in settings.items() if k not in ("settings", "cells", "places")}
    print(f"  {job} {said}, threads {threads}", file=sys.stderr, flush=True)
    env = (
        os.environ
        | QUIET
        | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "NUMBA_NUM_THREADS": str(threads),
        }
    )
    out = subprocess.run(
        [
            sys.executable,
            __file__,
            "--job",
            job,
            "--threads",
            str(threads),
            "--settings",
            json.dumps(settings),
        ],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    if out.returncode:
        sys.exit(f"{job} with {settings} failed")
    return dict(job=job, threads=threads) | settings | json.loads(out.stdout.splitlines()[-1])


# a: selection


def random_importance(groups: int, shape: tuple, seed=0):
    """Importance as it comes out of a network: squared products of weights and gradients that
    the groups share in part
    """
    import torch

    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=g) * 0.02
    gradient = torch.randn(shape, generator=g) + torch.randn((groups, *shape), generator=g)
    return (weight * gradient * 1e-3).square_(), weight


def job_select(shape, groups, repetitions, **_):
    """select_fair, keeping 90 % and 1 %, against a stable sort of the columns in the faster of
    two layouts
    """
    import torch

    from fairgrape.method.selection import select_fair
    from fairgrape.method.selectors import keep_count

    importance, weight = random_importance(groups, tuple(shape))
    mask, rows = torch.ones(shape, dtype=torch.bool), importance.flatten(1)
    k, few = keep_count(mask.numel(), "0.1"), keep_count(mask.numel(), "0.99")

    def sort_each():
        for row in rows:
            row.sort(descending=True, stable=True)

    t = alternate(
        repetitions,
        sort=lambda: rows.sort(dim=1, descending=True, stable=True),
        sort_each=sort_each,
        fair=lambda: select_fair(importance, mask, k, weight),
        one_shot=lambda: select_fair(importance, mask, few, weight),
    )
    assert int(select_fair(importance, mask, k, weight).sum()) == k
    return t | dict(weights=mask.numel(), k=k, few=few, peak=peak_memory())


def job_plain(shape, groups, **_):
    "The plain loop, once, and select_fair on the same layer"
    import torch

    from fairgrape.method.selection import select_fair
    from fairgrape.method.selectors import keep_count, select_fair_plain

    importance, weight = random_importance(groups, tuple(shape))
    mask = torch.ones(shape, dtype=torch.bool)
    k = keep_count(mask.numel(), "0.1")
    t = alternate(5, fair=lambda: select_fair(importance, mask, k, weight))
    start = time.perf_counter()
    plain = select_fair_plain(importance, mask, k, weight)
    t["plain"] = time.perf_counter() - start
    assert torch.equal(plain, select_fair(importance, mask, k, weight))
    return t | dict(weights=mask.numel(), k=k)


def job_network(network, groups, scope, repetitions, sort, **_):
    "All layers of a network; if wanted, against a stable sort of all their columns"
    from fairgrape.method.masks import get_masks, prunable
    from fairgrape.method.selection import select_masks
    from fairgrape.networks.models import build_model

    model = build_model(network, 7)
    weights, masks = {n: m.weight.detach() for n, m in prunable(model).items()}, get_masks(model)
    importance = {n: random_importance(groups, w.shape)[0] for n, w in weights.items()}

    def sorted_columns():
        for rows in importance.values():
            rows.flatten(1).sort(dim=1, descending=True, stable=True)

    sides = dict(fair=lambda: select_masks(importance, masks, weights, "0.1", scope=scope)) | (
        dict(sort=sorted_columns) if sort else {}
    )
    t = alternate(repetitions, **sides)
    return t | dict(weights=sum(m.numel() for m in masks.values()), peak=peak_memory())


def bench_a(args):
    layer = [512, 512, 3, 3]
    reps = 2 if args.quick else 5
    for threads in (1, 2):
        r = run_job("select", threads, shape=layer, groups=7, repetitions=reps)
        sort = min(r["sort"], r["sort_each"])
        what = f"{r['weights']:,} weights x 7 groups"
        yield row("a", f"stable torch.sort of the 7 columns; {what}", threads, sort, record=r)
        for side, name in [
            ("fair", f"select_fair, keep {r['k']:,}"),
            ("one_shot", f"select_fair, keep {r['few']:,}"),
        ]:
            yield row("a", f"{name}; {what}", threads, r[side], r[side] / sort, 1, r)
    r = run_job("plain", 1, shape=[64, 64, 3, 3] if args.quick else [256, 256, 3, 3], groups=7)
    what = f"{r['weights']:,} weights x 7 groups, keep {r['k']:,}"
    yield row("a", f"the plain loop, once; {what}", 1, r["plain"], record=r)
    yield row(
        "a", f"select_fair on the same; {what}", 1, r["fair"], r["fair"] / r["plain"], record=r
    )
    for scope, threads in [("layer", 1), ("layer", 2), ("global", 2)]:
        sort = scope == "layer" and threads == 2
        r = run_job(
            "network",
            threads,
            network="resnet10" if args.quick else "resnet34",
            groups=7,
            scope=scope,
            sort=sort,
            repetitions=1,
        )
        what = f"all of {r['network']}, {r['weights']:,} weights x 7 groups"
        if sort:
            yield row(
                "a",
                f"stable torch.sort of the 7 columns of every layer; {what}",
                threads,
                r["sort"],
                record=r,
            )
        yield row(
            "a",
            f"select_fair, scope {scope}; {what}",
            threads,
            r["fair"],
            r["fair"] / r["sort"] if sort else None,
            1 if sort else None,
            r,
            r["peak"],
        )


# b: importance


def job_importance(network, size, images, batch, repetitions, **_):
    """One plain forward-backward pass, and importance for 1, 2, 7 and 14 groups of equal size
    over the same images in batches of the same size
    """
    import torch

    from fairgrape.method.importance import cut, group_importance
    from fairgrape.networks.models import build_model, task_loss

    model, g = build_model(network, 7).eval(), torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(images, 3, size, size, generator=g),
        torch.randint(7, (images, 1), generator=g),
    )

    def loss(logits, y):
        return task_loss(logits, y, [7])

    def plain():
        for a, b in zip(x.split(batch), y.split(batch)):
            model.zero_grad()
            loss(model(a), b).backward()

    def importance(groups):
        of_group = images // groups
        cuts = [(n, g) for g in range(groups) for n in cut(of_group, batch)]
        parts = [n for n, _ in cuts]
        group_importance(
            model,
            ((a, b, g) for a, b, (_, g) in zip(x.split(parts), y.split(parts), cuts)),
            loss,
            groups,
        )

    t = alternate(
        repetitions, plain=plain, **{f"G{g}": lambda g=g: importance(g) for g in (1, 2, 7, 14)}
    )
    return t | dict(peak=peak_memory())


def bench_b(args):
    # images = batch x 14: full batches at every G
    cases = [("resnet34", 64, 448, 32, 3), ("resnet34", 224, 56, 4, 2)]
    if args.quick:
        cases = [("resnet10", 64, 112, 8, 1)]
    for network, size, images, batch, reps in cases:
        r = run_job(
            "importance",
            args.threads,
            network=network,
            size=size,
            images=images,
            batch=batch,
            repetitions=reps,
        )
        what = f"{network}, {images} images of {size} px, batch {batch}"
        yield row(
            "b",
            f"plain forward-backward pass; {what}",
            args.threads,
            r["plain"],
            peak=r["peak"],
            record=r,
        )
        for g in (1, 2, 7, 14):
            yield row(
                "b",
                f"importance, G = {g}; {what}",
                args.threads,
                r[f"G{g}"],
                r[f"G{g}"] / r["plain"],
                1.15,
                record=r,
            )


# c: data


def write_jpegs(
    folder: Path,  # Where to
    n: int,  # How many files
) -> None:
    """Save rendered faces of 200 px, the size of UTKFace's, as JPEGs of quality 90; one rendering
    gives several files, shifted and mirrored.

    They take 11 kB each and as long to decode as UTKFace's own, which are about half that size
    (0.5 ms on one core).
    """
    import numpy as np
    from PIL import Image

    from fairgrape.data.appearance import synthetic_table
    from fairgrape.data.synthetic import render_faces

    faces = render_faces(synthetic_table(seed=0).iloc[::40].head(n), size=200).transpose(0, 2, 3, 1)
    for i in range(n):
        face = np.roll(faces[i % len(faces)], i // len(faces), axis=0)[
            :, :: 1 - 2 * (i // len(faces) % 2)
        ]
        Image.fromarray(np.ascontiguousarray(face)).save(folder / f"{i:06}.jpg", quality=90)


def face_data(folder: Path):
    "All JPEGs under a folder as a data set without labels"
    import pandas as pd

    from fairgrape.data.images import load_images
    from fairgrape.data.tables import FaceData

    paths = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.jpg"))
    table = pd.DataFrame(dict(path=paths, photo=paths))
    return FaceData(
        "jpegs", folder, table, partial(load_images, folder), key=f"bench {folder} {len(paths)}"
    )


def as_images(pixels):
    "Images without labels, all of them for training"
    import torch

    from fairgrape.data.loaders import Images

    n = len(pixels)
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    return Images(
        pixels=torch.as_tensor(pixels),
        labels=torch.zeros(n, 1, dtype=torch.long),
        groups=torch.zeros(n, dtype=torch.long),
        rows=dict(train=torch.arange(n)),
    )


def epochs(folder: Path, cache: Path, size: int, threads: int):
    "The two sides, each a function that goes through one epoch"
    import numpy as np
    import torch

    from fairgrape.data.cache import image_cache
    from fairgrape.data.images import decode_image
    from fairgrape.data.loaders import batches
    from fairgrape.data.transforms import augmentation

    data, augment = face_data(folder), augmentation("paper", size)
    opened = {}

    def from_cache():  # opened once a run, then read in every epoch
        if not opened:
            opened["images"] = as_images(image_cache(data, size, cache, progress=False))
        for _ in batches(opened["images"], "train", 64, torch.Generator().manual_seed(0), augment):
            pass

    def from_jpegs():
        with ThreadPoolExecutor(threads) as pool:
            for rows in torch.randperm(
                len(data.table), generator=torch.Generator().manual_seed(0)
            ).split(64):
                files = [folder / data.table.path.iat[i] for i in rows.tolist()]
                images = as_images(np.stack(list(pool.map(lambda f: decode_image(f, size), files))))
                for _ in batches(images, "train", 64, None, augment):
                    pass

    return from_cache, from_jpegs


def job_epochs(folder, cache, size, repetitions, threads, **_):
    "Both sides in turn; the cache is built before, and that is timed too"
    from fairgrape.data.cache import image_cache

    start = time.perf_counter()
    n = len(image_cache(face_data(Path(folder)), size, Path(cache), progress=False))
    built = time.perf_counter() - start
    from_cache, from_jpegs = epochs(Path(folder), Path(cache), size, threads)
    return alternate(repetitions, cache=from_cache, jpegs=from_jpegs) | dict(built=built, images=n)


def job_memory(side, folder, cache, size, threads, **_):
    "One epoch of one side, for its peak memory"
    from_cache, from_jpegs = epochs(Path(folder), Path(cache), size, threads)
    before = peak_memory()
    (from_cache if side == "cache" else from_jpegs)()
    return dict(imports=before, peak=peak_memory())


def bench_c(args):
    with tempfile.TemporaryDirectory() as temp:
        folder, cache = Path(args.faces or temp), Path(temp) / "cache"
        if not args.faces:
            folder = Path(temp) / "faces"
            folder.mkdir()
            write_jpegs(folder, 500 if args.quick else 2000)
        for size, threads in sorted({(64, 1), (64, args.threads), (224, args.threads)}):
            where = dict(folder=str(folder), cache=str(cache / str(threads)), size=size)
            r = run_job("epochs", threads, **where, repetitions=1 if args.quick else 3)
            peak = {
                side: run_job("memory", threads, side=side, **where) for side in ("cache", "jpegs")
            }
            what = (
                f"{r['images']:,} images, {'real' if args.faces else 'rendered, 200 px'} JPEGs, at"
                f" {size} px, batch 64, augmentation 'paper'"
            )
            yield row(
                "c",
                f"epoch that decodes JPEGs; {what}",
                threads,
                r["jpegs"],
                peak=peak["jpegs"]["peak"],
                record=r | peak["jpegs"],
            )
            yield row(
                "c",
                f"epoch from the cache; {what}",
                threads,
                r["cache"],
                r["cache"] / r["jpegs"],
                0.2 if size == 64 else None,
                r | peak["cache"],
                peak["cache"]["peak"],
            )
            yield row("c", f"building the cache, once; {what}", threads, r["built"], record=r)


# d: the method's step


def group_images(n: int, size: int, groups: int):
    """Images of noise with so many groups in turn; an eighth as many for validation, as in the
    protocol's split
    """
    import dataclasses

    import torch

    from fairgrape.studies.calibration import random_images

    images = random_images(n, size)
    return dataclasses.replace(
        images,
        groups=torch.arange(n) % groups,
        names=tuple(map(str, range(groups))),
        rows=images.rows | dict(val=torch.arange(n // 8)),
    )


def job_step(network, size, images, batch, repetitions, groups, **_):
    """One retraining epoch with its validation, importance and selection, of a network that has
    90 % of its weights
    """
    from fairgrape.data.loaders import group_batches
    from fairgrape.method.importance import group_importance
    from fairgrape.method.masks import apply_masks, get_masks, prunable
    from fairgrape.method.selection import select_masks
    from fairgrape.method.selectors import select_top
    from fairgrape.methods.scores import random_score
    from fairgrape.networks.models import build_model, task_loss
    from fairgrape.training.loop import Recipe, train
    from fairgrape.training.stages import stages

    model = build_model(network, 7)
    weights = {n: m.weight.detach() for n, m in prunable(model).items()}
    apply_masks(
        model, select_masks(random_score(model), get_masks(model), weights, "0.1", select_top)
    )
    masks, found, sides = get_masks(model), {}, {}
    sets = {g: group_images(images, size, g) for g in groups}

    def loss(out, y):
        return task_loss(out, y, [7])

    def score(g):
        found[g] = group_importance(model, group_batches(sets[g], "train", batch), loss, g)

    def select(g):
        select_masks(
            found[g], masks, {n: m.weight.detach() for n, m in prunable(model).items()}, "0.19"
        )

    for g in groups:
        sides |= {f"score{g}": lambda g=g: score(g), f"select{g}": lambda g=g: select(g)}
    t = alternate(
        repetitions,
        epoch=lambda: train(
            model, sets[groups[0]], stages("1", "1e-5"), Recipe([7], 0, batch), progress=False
        ),
        **sides,
    )
    return t | dict(peak=peak_memory(), weights=sum(m.numel() for m in masks.values()))


SETS = {"UTKFace": 17617, "FairFace": 78158}  # training images in the protocol


def bench_d(args):
    cases = (
        [("resnet10", 32, 112, 8)]
        if args.quick
        else [("resnet34", 64, 448, 64), ("mobilenet_v2", 64, 448, 64)]
    )
    for network, size, images, batch in cases:
        r = run_job(
            "step",
            args.threads,
            network=network,
            size=size,
            images=images,
            batch=batch,
            repetitions=1 if args.quick else 2,
            groups=[2, 7],
        )
        what = f"{network}, {images} images of {size} px, batch {batch}"
        yield row(
            "d",
            f"a retraining epoch (augmented training, validation); {what}",
            args.threads,
            r["epoch"],
            peak=r["peak"],
            record=r,
        )
        for g in (2, 7):
            yield row(
                "d",
                f"importance, G = {g}, as a fraction of one epoch over the same images; {what}",
                args.threads,
                r[f"score{g}"],
                r[f"score{g}"] / r["epoch"],
                record=r,
            )
            yield row(
                "d",
                f"selection, G = {g}, {r['weights']:,} weights; does not grow with the images",
                args.threads,
                r[f"select{g}"],
                record=r,
            )
            for name, n in SETS.items():
                seconds = r[f"score{g}"] * n / images + r[f"select{g}"]
                yield row(
                    "d",
                    f"the step, G = {g}, {network}, as a fraction of its 3 retraining epochs on"
                    f" {name}'s {n:,} images (computed from the rows above)",
                    args.threads,
                    seconds,
                    seconds / (3 * r["epoch"] * n / images),
                    record=r,
                )


# e: whole runs


def warm_up():
    "Compile or load the selection's kernels, which a process does once"
    import torch

    from fairgrape.method.selection import select_masks

    for groups in (1, 2):
        for scope in ("layer", "global"):
            masks = {n: torch.ones(64, dtype=torch.bool) for n in "ab"}
            select_masks(
                {n: torch.rand(groups, 64) for n in masks},
                masks,
                {n: torch.rand(64) for n in masks},
                "0.5",
                scope=scope,
            )


def job_run(settings, places, name, threads, **_):
    """One run by `fairgrape.experiment.run.run`, from the dense network that lies there;
    imports and kernels are not counted
    """
    import pandas as pd

    from fairgrape.experiment.run import run
    from fairgrape.experiment.settings import Settings

    warm_up()
    start, cpu = time.perf_counter(), time.process_time()
    folder = run(Settings(**settings), threads=threads, progress=False, name=name, **places)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    parts = (
        pd.read_csv(folder / "steps.csv")[["score_s", "select_s", "retrain_s"]].sum().to_dict()
        if settings["method"] != "dense"
        else {}
    )
    return dict(seconds=seconds, cpu=cpu, folder=str(folder), peak=peak_memory()) | parts


def differ(a: dict, b: dict) -> tuple[float, float]:
    """Share of all mask entries that differ, and of those that the first keeps the share that
    the second drops
    """
    kept = sum(int((m != 0).sum()) for m in a.values())
    lost = sum(int(((m != 0) & (b[n] == 0)).sum()) for n, m in a.items())
    return (
        sum(int((m != b[n]).sum()) for n, m in a.items()) / sum(m.numel() for m in a.values()),
        lost / kept,
    )


def job_masks(settings, places, cap, first, rates, **_):
    """Masks of the dense network's first step: importance of all images, of capped ones, and of
    all in other batches
    """
    from dataclasses import replace

    from fairgrape.data.loaders import group_batches
    from fairgrape.experiment.dense import dense_network, images_of
    from fairgrape.experiment.preparation import prepare
    from fairgrape.experiment.settings import Settings
    from fairgrape.method.importance import group_importance
    from fairgrape.method.masks import get_masks, prunable
    from fairgrape.method.selection import select_masks
    from fairgrape.networks.models import task_loss

    s = replace(Settings(**settings), importance_cap=0)
    job = prepare(s, progress=False, **places)
    images = images_of(job, progress=False)
    model = dense_network(job, images, progress=False).model
    weights, masks = {n: m.weight.detach() for n, m in prunable(model).items()}, get_masks(model)

    def score(cap, seed):
        return group_importance(
            model,
            group_batches(images, "train", s.importance_batch, cap, seed),
            lambda out, y: task_loss(out, y, job.sizes),
            job.G,
        )

    scores, out = (
        dict(all=score(0, s.seed), capped=score(cap, s.seed), other=score(0, s.seed + 1000)),
        {},
    )
    for rate in (first, *rates):
        new = {k: select_masks(i, masks, weights, rate) for k, i in scores.items()}
        out[str(rate)] = dict(
            capped=differ(new["all"], new["capped"]), other=differ(new["all"], new["other"])
        )
    return dict(shares=out)


def job_final_masks(a, b, **_):
    "How much the masks of two finished runs differ"
    from fairgrape.networks.weights import load_weights

    return dict(share=differ(*(load_weights(Path(f) / "masks.safetensors") for f in (a, b))))


def job_predict(settings, places, threads, seconds, **_):
    "What fairgrape.studies.sizing says about a run, after timing this machine"
    from fairgrape.experiment.preparation import prepare
    from fairgrape.experiment.settings import Settings
    from fairgrape.studies.calibration import calibrate
    from fairgrape.studies.costs import cost, counts_of
    from fairgrape.studies.sizing import hours

    s = Settings(**settings)
    counts = counts_of(prepare(s, progress=False, **places))
    c = calibrate(seconds, "cpu", [s.network], [s.image_size], threads=threads)
    return dict(parts={part: 3600 * h for part, h in hours(cost(s, counts), s, counts, c).items()})


def bench_e(args):
    size, limit, cap = (16, 200, 10) if args.quick else (64, 1200, 48)
    common = dict(
        dataset="synthetic",
        task="expression",
        groups="tone",
        split="photo",
        limit=limit,
        network="resnet10",
        weights="none",
        image_size=size,
        rate=0.9,
        keep=0.5 if args.quick else 0.4,
        epochs="1" if args.quick else "1,1",
        lrs="1e-3" if args.quick else "1e-3,1e-4",
        retrain_epochs=1 if args.quick else 3,
        retrain_lr=3e-4,
        augment="paper",
        bootstrap=500,
    )
    sides = dict(
        importance=dict(method="importance"),
        fairgrape=dict(method="fairgrape"),
        magnitude=dict(method="magnitude"),
        capped=dict(method="fairgrape", importance_cap=cap),
    )
    with tempfile.TemporaryDirectory() as temp:
        places = dict(data_root=temp, runs_root=f"{temp}/runs", cache_root=f"{temp}/cache")
        dense = run_job(
            "run", args.threads, settings=common | dict(method="dense"), places=places, name=""
        )
        done = {side: [] for side in sides}
        for turn in range(1 if args.quick else 3):
            for side, own in sides.items():
                done[side].append(
                    run_job(
                        "run",
                        args.threads,
                        settings=common | own,
                        places=places,
                        name=f"{side}-{turn}",
                    )
                )
        seconds, cpu = (
            {side: statistics.median(r[what] for r in rs) for side, rs in done.items()}
            for what in ("seconds", "cpu")
        )
        what = (
            f"resnet10, {round(0.8 * limit)} training images of {size} px, 4 groups, rate 0.9, keep"
            f" {common['keep']}, {common['retrain_epochs']} retraining epochs a step"
        )
        yield row(
            "e",
            f"the dense network, once for all; {what}",
            args.threads,
            dense["seconds"],
            record=dense,
        )
        yield row(
            "e",
            f"group-blind importance, the whole run; {what}",
            args.threads,
            seconds["importance"],
            record=done["importance"],
        )
        yield row(
            "e",
            "FairGRAPE, the same schedule, against group-blind importance",
            args.threads,
            seconds["fairgrape"],
            seconds["fairgrape"] / seconds["importance"],
            1.05,
            done["fairgrape"],
            done["fairgrape"][0]["peak"],
        )
        yield row(
            "e",
            "iterative magnitude, the same schedule",
            args.threads,
            seconds["magnitude"],
            record=done["magnitude"],
        )
        yield row(
            "e",
            f"FairGRAPE with importance_cap = {cap} images a group, against iterative magnitude",
            args.threads,
            seconds["capped"],
            seconds["capped"] / seconds["magnitude"],
            1.10,
            done["capped"],
        )
        yield row(
            "e",
            "FairGRAPE with all images, against iterative magnitude",
            args.threads,
            seconds["fairgrape"],
            seconds["fairgrape"] / seconds["magnitude"],
        )
        for own, base, limit in (
            ("fairgrape", "importance", 1.05),
            ("capped", "magnitude", 1.10),
            ("fairgrape", "magnitude", None),
        ):
            yield row(
                "e",
                f"the same in processor time, which other work on the machine touches less: {own}"
                f" against {base}",
                args.threads,
                cpu[own],
                cpu[own] / cpu[base],
                limit,
            )
        settings = common | sides["fairgrape"]
        r = run_job(
            "masks",
            args.threads,
            settings=settings,
            places=places,
            cap=cap,
            first=str(round(1 - common["keep"], 3)),
            rates=["0.9", "0.99"],
        )
        for rate, share in r["shares"].items():
            for which, name in (
                ("capped", f"the cap of {cap}"),
                ("other", "another order of all images"),
            ):
                yield row(
                    "e",
                    f"mask entries that {name} changes, one step of the dense network to rate"
                    f" {rate}; of the kept ones {share[which][1]:.1%} are replaced",
                    args.threads,
                    None,
                    share[which][0],
                    record=r,
                )
        r = run_job(
            "final_masks", 1, a=done["fairgrape"][0]["folder"], b=done["capped"][0]["folder"]
        )
        yield row(
            "e",
            "mask entries that differ at the end of the two whole runs; of the kept ones"
            f" {r['share'][1]:.1%}",
            1,
            None,
            r["share"][0],
            record=r,
        )
        r = run_job(
            "predict",
            args.threads,
            settings=settings,
            places=places,
            seconds=3 if args.quick else 20,
        )
        predicted = sum(r["parts"].values())
        yield row(
            "e",
            "the same FairGRAPE run as fairgrape.studies.sizing predicts it, against what it took",
            args.threads,
            predicted,
            predicted / seconds["fairgrape"],
            record=r,
        )


# f: sweeps


def job_one_process(cells, places, threads, **_):
    """All cells one after another in this process, on as many cores as a sweep gets; imports
    and kernels are not counted
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    from fairgrape.experiment.run import run
    from fairgrape.experiment.settings import Settings

    warm_up()
    start = time.perf_counter()
    for cell in cells:
        run(Settings(**cell), threads=threads, progress=False, **places)
    return dict(seconds=time.perf_counter() - start)


def sweep_seconds(
    grid: Path, workers: int, threads: int, runs_root: Path, places: dict, log: Path
) -> float:
    "`fairgrape sweep` on so many cores, from the shell's point of view"
    cores = sorted(os.sched_getaffinity(0))[:threads]
    # the sweep shares out the cores itself
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    command = [
        sys.executable,
        "-c",
        "import sys; from fairgrape.start import main; sys.exit(main())",
        "sweep",
        str(grid),
        "--workers",
        str(workers),
        "--no_report",
        "--runs_root",
        str(runs_root),
        "--data_root",
        places["data_root"],
        "--cache_root",
        places["cache_root"],
        "--device",
        "cpu",
    ]
    print(
        f"  sweep of {grid.name} with {workers} workers on {threads} cores",
        file=sys.stderr,
        flush=True,
    )
    start = time.perf_counter()
    with log.open("w") as out:
        code = subprocess.run(
            command,
            env=env,
            stdout=out,
            stderr=out,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        ).returncode
    if code:
        sys.exit(f"the sweep ended with {code}:\n{log.read_text()[-3000:]}")
    return time.perf_counter() - start


def bench_f(args):
    common = dict(
        dataset="synthetic",
        task="expression",
        groups="tone",
        split="photo",
        limit=400 if args.quick else 800,
        network="resnet10",
        weights="none",
        image_size=32,
        rate=0.9,
        keep=0.4,
        epochs="1",
        lrs="1e-3",
        retrain_epochs=1,
        retrain_lr=3e-4,
        augment="flip",
        bootstrap=100,
    )
    methods, seeds = (
        (["ws", "magnitude"], [0]) if args.quick else (["ws", "magnitude", "fairgrape"], [0, 1])
    )
    cells = [common | dict(method=m, seed=s) for s in seeds for m in methods]
    with tempfile.TemporaryDirectory() as temp:
        temp = Path(temp)
        places = dict(data_root=str(temp), cache_root=str(temp / "cache"))
        # renders the images, once for all
        run_job(
            "one_process",
            args.threads,
            cells=[common | dict(method="dense", seed=99)],
            places=places | dict(runs_root=str(temp / "first")),
        )
        grid = temp / "grid.yaml"
        grid.write_text(json.dumps(common | dict(method=methods, seed=seeds)))  # JSON is YAML
        alone = run_job(
            "one_process",
            args.threads,
            cells=cells,
            places=places | dict(runs_root=str(temp / "alone")),
        )["seconds"]
        one, two = (
            sweep_seconds(grid, w, args.threads, temp / f"workers{w}", places, temp / f"{w}.log")
            for w in (1, 2)
        )
        n, what = (
            len(cells),
            f"{len(cells)} runs and {len(seeds)} dense networks, {args.threads} cores",
        )
        yield row("f", f"in one process, imports not counted; {what}", args.threads, alone)
        yield row(
            "f",
            f"fairgrape sweep, 1 worker, everything counted; {what}",
            args.threads,
            one,
            one / alone,
        )
        yield row(
            "f",
            "so a run costs beyond its own work (seconds): a worker, a kernel and its imports",
            args.threads,
            (one - alone) / n,
        )
        own = sum(
            json.loads(file.read_text())["seconds"]
            for file in (temp / "workers1").glob("*/metrics.json")
            if "-dense-" not in file.parent.name
        )
        yield row(
            "f",
            "a run's own work by its own clock (the dense network included where it trains it), all"
            " runs of that sweep",
            args.threads,
            own,
            own / one,
        )
        yield row(
            "f",
            "so a run costs beyond that: its share of the start, kernel, imports, plots, saving"
            " (seconds)",
            args.threads,
            (one - own) / n,
        )
        yield row(
            "f",
            f"fairgrape sweep, 2 workers with half the cores each, against 1; {what}",
            args.threads,
            two,
            two / one,
        )


# g: growth


def conv_stack(weights: int):
    "Eight 3 x 3 convolutions with so many weights, nearly, and a head"
    from torch import nn

    width = round((weights / 72) ** 0.5)
    layers = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(8)]
    return nn.Sequential(
        nn.Conv2d(3, width, 1),
        *(m for layer in layers for m in (layer, nn.ReLU())),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 7),
    )


def job_growth(weights, size, images, batch, groups, **_):
    """The importance pass, the selection of its result to 90 %, and the most memory held, of
    one size
    """
    from fairgrape.data.loaders import group_batches
    from fairgrape.method.importance import group_importance
    from fairgrape.method.masks import get_masks, prunable
    from fairgrape.method.selection import select_masks
    from fairgrape.networks.models import build_model, task_loss

    warm_up()
    data, found = group_images(images, size, groups), {}
    forget_peak()
    before = memory("VmRSS")
    model = conv_stack(weights) if weights else build_model("resnet10", 7)
    parts, masks = group_batches(data, "train", batch), get_masks(model)

    def score():
        found["all"] = group_importance(model, parts, lambda out, y: task_loss(out, y, [7]), groups)

    def select():
        select_masks(
            found["all"], masks, {n: m.weight.detach() for n, m in prunable(model).items()}, "0.1"
        )

    first = alternate(0, score=score, select=select)
    # what takes longer is timed once: it needs no warming up
    t = alternate(2, score=score, select=select) if sum(first.values()) < 3 else first
    return t | dict(n_weights=sum(m.numel() for m in masks.values()), mib=memory("VmHWM") - before)


AXES = {  # axis -> (the setting that grows, its values, the others)
    "weights": (
        "weights",
        [10**6, 3 * 10**6, 10**7, 3 * 10**7, 10**8],
        dict(size=4, images=16, batch=4, groups=2),
    ),
    "images": ("images", [112, 224, 448, 896, 1792], dict(weights=0, size=32, batch=16, groups=7)),
    "groups": ("groups", [2, 5, 10, 25, 50], dict(weights=0, size=32, images=800, batch=16)),
}
QUANTITIES = dict(
    score="importance pass, s",
    select="selection to 90 %, s",
    mib="peak memory, network included, MiB",
)


def growth_of(rows: list[dict]) -> list[dict]:
    "The exponents that the rows of this section give: over all sizes, and between the two largest"
    import math

    from fairgrape.studies.calibration import power_law

    out = []
    for axis in AXES:
        points = [r["record"] for r in rows if r["section"] == "g" and r["record"]["axis"] == axis]
        for key, name in QUANTITIES.items():
            x, y = [p["x"] for p in points], [p[key] for p in points]
            if len(points) > 1:
                out.append(
                    dict(
                        axis=axis,
                        key=key,
                        quantity=name,
                        x=x,
                        y=y,
                        exponent=power_law(x, y)[1],
                        top=math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2]),
                    )
                )
    return out


def growth_table(growth: list[dict]) -> str:
    lines = [
        "| over | what grows | measured | exponent | between the two largest |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {g['axis']} | {g['quantity']} |"
        f" {', '.join(f'{x:,.0f}: {y:.3g}' for x, y in zip(g['x'], g['y']))} | {g['exponent']:.2f}"
        f" | {g['top']:.2f} |"
        for g in growth
    ]
    return "\n".join(lines)


def plot_growth(growth: list[dict], path: Path) -> None:
    "The measured points on logarithmic axes, a panel for each axis"
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    axes_there = list(dict.fromkeys(g["axis"] for g in growth))
    fig, panels = plt.subplots(
        1, len(axes_there), figsize=(4.2 * len(axes_there), 4), layout="constrained", squeeze=False
    )
    for ax, axis in zip(panels[0], axes_there):
        for g, (marker, line) in zip(
            [g for g in growth if g["axis"] == axis], [("o", "-"), ("s", "--"), ("^", ":")]
        ):
            ax.loglog(
                g["x"],
                g["y"],
                marker=marker,
                linestyle=line,
                label=f"{g['quantity']}: exponent {g['exponent']:.2f}",
            )
        ax.set(xlabel=axis, title=f"growth with {axis}")
        ax.grid(alpha=0.3, which="both")
        ax.legend(fontsize=7)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def bench_g(args):
    for axis, (setting, values, others) in AXES.items():
        for value in values[:3] if args.quick else values:
            r = run_job("growth", args.threads, **others | {setting: value})
            r |= dict(axis=axis, x=r["n_weights"] if axis == "weights" else value)
            what = (
                f"{r['n_weights']:,} weights, {r['images']:,} images of {r['size']} px, G ="
                f" {r['groups']}"
            )
            yield row(
                "g", f"importance pass; {what}", args.threads, r["score"], record=r, peak=r["mib"]
            )
            yield row(
                "g", f"selection to 90 %; {what}", args.threads, r["select"], record=dict(axis=None)
            )


# The table


COMMANDS = {  # what answers at once -> the arguments, or a program
    "fairgrape --help": ["--help"],
    "fairgrape run --help": ["run", "--help"],
    "fairgrape status": ["status"],
    "a refused setting": ["run", "--rate", "1.5"],
    "import fairgrape": None,
}


def bench_h(args):
    "Commands that need no torch, each beside `import torch` in a process of its own"
    program = "import sys; from fairgrape.start import main; sys.exit(main())"

    def start(code, arguments):
        subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True)

    for what, arguments in COMMANDS.items():
        code = "import fairgrape" if arguments is None else program
        found = alternate(
            3 if args.quick else 7,
            torch=partial(start, "import torch", []),
            command=partial(start, code, arguments or []),
        )
        yield row(
            "h",
            f"{what}, against import torch",
            1,
            found["command"],
            found["command"] / found["torch"],
            0.3,
        )


def row(section, what, threads, seconds, ratio=None, limit=None, record=None, peak=None) -> dict:
    return dict(
        section=section,
        what=what,
        threads=threads,
        seconds=seconds,
        ratio=ratio,
        limit=limit,
        peak_mib=peak,
        record=record,
    )


def table(rows: list[dict]) -> str:
    "A markdown table of the medians"

    def cells(r):
        ratio = (
            ""
            if r["ratio"] is None
            else (
                f"{r['ratio']:.3f}"
                if r["seconds"] is None or not 0 < r["ratio"] < 0.01
                else f"1/{1 / r['ratio']:.0f}"
            )
        )
        limit = (
            ""
            if r["limit"] is None
            else f"{r['limit']:g} {'met' if r['ratio'] <= r['limit'] else 'NOT met'}"
        )
        return [
            r["section"],
            r["what"],
            r["threads"],
            "" if r["seconds"] is None else f"{r['seconds']:.3f}",
            ratio,
            limit,
            "" if r["peak_mib"] is None else f"{r['peak_mib']:.0f}",
        ]

    lines = [
        ["", "what", "threads", "median s", "ratio", "at most", "peak MiB"],
        ["---"] * 7,
        *map(cells, rows),
    ]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


SECTIONS = dict(
    a=bench_a,
    b=bench_b,
    c=bench_c,
    d=bench_d,
    e=bench_e,
    f=bench_f,
    g=bench_g,
    h=bench_h,
)
JOBS = dict(
    select=job_select,
    plain=job_plain,
    network=job_network,
    importance=job_importance,
    epochs=job_epochs,
    memory=job_memory,
    step=job_step,
    run=job_run,
    masks=job_masks,
    final_masks=job_final_masks,
    predict=job_predict,
    one_process=job_one_process,
    growth=job_growth,
)


def keep(out: Path, about: str, quick: bool, rows: list[dict]) -> str:
    "Write what has been measured so far; the text of bench.md comes back"
    growth = growth_of(rows)
    (out / "bench.json").write_text(
        json.dumps(dict(about=about, quick=quick, rows=rows, growth=growth), indent=1) + "\n"
    )
    if growth:
        plot_growth(growth, out / "bench-growth.png")
    text = f"{about}\n\n{table(rows)}\n" + (
        f"\n{growth_table(growth)}\n\n![Growth of the importance pass, the selection and their"
        " memory with weights, images and groups, on log-log axes](bench-growth.png)\n"
        if growth
        else ""
    )
    (out / "bench.md").write_text(text)
    return text


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas between them")
    p.add_argument(
        "--quick",
        action="store_true",
        help="fewer repetitions, smaller networks and images: a few minutes, to see that all works",
    )
    p.add_argument(
        "--threads", type=int, default=2, help="threads where the comparison does not fix them"
    )
    p.add_argument("--faces", help="a folder of JPEGs to decode instead of rendered ones")
    p.add_argument(
        "--out",
        default=str(REPO / "runs"),
        help="where bench.json, bench.md and bench-growth.png go",
    )
    p.add_argument(
        "--add",
        action="store_true",
        help=(
            "keep the rows of other sections that bench.json already has, so that sections can be"
            " measured one by one"
        ),
    )
    p.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    p.add_argument("--settings", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.job:
        import torch

        torch.set_num_threads(args.threads)
        return print(json.dumps(JOBS[args.job](threads=args.threads, **json.loads(args.settings))))
    wanted = args.only.split(",")
    if wrong := [s for s in wanted if s not in SECTIONS]:
        p.error(
            f"--only {args.only}: there is no section {wrong[0]!r}, choose from"
            f" {', '.join(SECTIONS)}"
        )
    if args.faces and not next(Path(args.faces).rglob("*.jpg"), None):
        p.error(f"--faces {args.faces}: no .jpg file in or under that folder")
    import torch

    about = (
        f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"
        f" ({platform.machine()}); medians, sides in turn"
    )
    out, text = Path(args.out), ""
    out.mkdir(parents=True, exist_ok=True)
    rows = (
        [
            r
            for r in json.loads((out / "bench.json").read_text())["rows"]
            if r["section"] not in wanted
        ]
        if args.add and (out / "bench.json").is_file()
        else []
    )
    # written after every row: an interrupted run keeps what it measured
    for r in (r for s in wanted for r in SECTIONS[s](args)):
        rows = sorted([*rows, r], key=lambda r: r["section"])
        text = keep(out, about, args.quick, rows)
    print(text)
    return int(any(r["limit"] is not None and r["ratio"] > r["limit"] for r in rows))


if __name__ == "__main__":
    sys.exit(main())
