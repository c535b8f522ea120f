"""How fast the three costly parts are, measured side by side: `make bench`, or `python nbs/_bench/bench.py --only a --quick`.

    a  selection   select_fair on a layer of 2,359,296 weights x 7 groups against a stable torch.sort of its 7 columns; all of ResNet-34
    b  importance  group importance at G = 1, 2, 7, 14 against one plain forward-backward pass over the same images
    c  data        an epoch from the image cache against an epoch that decodes JPEGs, and the peak memory of each

Each comparison runs in a process of its own with its own number of threads; within it the sides take turns, and medians are reported.
Leaves bench.json and bench.md in the runs folder. All of it takes about 20 minutes on 2 idle cores; on a busy machine the ratios mean little.
"""
import argparse
import json
import os
import platform
import resource
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
MB = 2**20


# Measuring

def alternate(
    repetitions: int,  # How often each side is measured, after one round that is not counted
    **sides,           # Name -> function without arguments
) -> dict:             # Name -> median seconds
    "Time several sides in turn, so that a busy moment of the machine falls on all of them."
    seconds = {name: [] for name in sides}
    for turn in range(repetitions + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if turn: seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(s) for name, s in seconds.items()}

def peak_memory() -> float:
    "The most memory that this process has held so far, MiB"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024/MB

def run_job(
    job: str,      # A name in JOBS
    threads: int,  # Threads of torch and numba in the process
    **settings,    # For the job
) -> dict:         # What the job returned, with its settings
    "Run a job in a fresh process."
    print(f'  {job} {settings}, threads {threads}', file=sys.stderr, flush=True)
    env = os.environ | {'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads), 'NUMBA_NUM_THREADS': str(threads)}
    out = subprocess.run([sys.executable, __file__, '--job', job, '--threads', str(threads), '--settings', json.dumps(settings)],
                         env=env, stdout=subprocess.PIPE, text=True)
    if out.returncode: sys.exit(f'{job} with {settings} failed')
    return dict(job=job, threads=threads) | settings | json.loads(out.stdout.splitlines()[-1])


# a: selection

def random_importance(groups: int, shape: tuple, seed=0):
    "Importance as it comes out of a network: squared products of weights and gradients that the groups share in part"
    import torch
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=g)*0.02
    gradient = torch.randn(shape, generator=g) + torch.randn((groups, *shape), generator=g)
    return (weight*gradient*1e-3).square_(), weight

def job_select(shape, groups, repetitions, **_):
    "select_fair, keeping 90 %, against a stable sort of the columns in the faster of two layouts"
    import torch
    from fairgrape.selection import keep_count, select_fair
    importance, weight = random_importance(groups, tuple(shape))
    mask, rows = torch.ones(shape, dtype=torch.bool), importance.flatten(1)
    k = keep_count(mask.numel(), '0.1')
    def sort_each():
        for row in rows: row.sort(descending=True, stable=True)
    t = alternate(repetitions, sort=lambda: rows.sort(dim=1, descending=True, stable=True), sort_each=sort_each,
                  fair=lambda: select_fair(importance, mask, k), fair_weight=lambda: select_fair(importance, mask, k, weight))
    assert int(select_fair(importance, mask, k, weight).sum()) == k
    return t | dict(weights=mask.numel(), k=k, peak=peak_memory())

def job_plain(shape, groups, **_):
    "The plain loop, once, and select_fair on the same layer"
    import torch
    from fairgrape.selection import keep_count, select_fair, select_fair_plain
    importance, weight = random_importance(groups, tuple(shape))
    mask = torch.ones(shape, dtype=torch.bool)
    k = keep_count(mask.numel(), '0.1')
    t = alternate(5, fair=lambda: select_fair(importance, mask, k, weight))
    start = time.perf_counter()
    plain = select_fair_plain(importance, mask, k, weight)
    t['plain'] = time.perf_counter() - start
    assert torch.equal(plain, select_fair(importance, mask, k, weight))
    return t | dict(weights=mask.numel(), k=k)

def job_network(network, groups, scope, repetitions, **_):
    "All layers of a network"
    from fairgrape.masks import get_masks, prunable
    from fairgrape.models import build_model
    from fairgrape.selection import select_masks
    model = build_model(network, 7)
    weights, masks = {n: m.weight.detach() for n, m in prunable(model).items()}, get_masks(model)
    importance = {n: random_importance(groups, w.shape)[0] for n, w in weights.items()}
    t = alternate(repetitions, fair=lambda: select_masks(importance, masks, weights, '0.1', scope=scope))
    return t | dict(weights=sum(m.numel() for m in masks.values()), peak=peak_memory())

def bench_a(args):
    layer = [512, 512, 3, 3]
    reps = 3 if args.quick else 7
    for threads in (1, 2):
        r = run_job('select', threads, shape=layer, groups=7, repetitions=reps)
        sort = min(r['sort'], r['sort_each'])
        what = f"{r['weights']:,} weights x 7 groups, keep {r['k']:,}"
        yield row('a', f'stable torch.sort of the 7 columns; {what}', threads, sort, record=r)
        for side, name in [('fair', 'select_fair'), ('fair_weight', 'select_fair, ties by magnitude')]:
            yield row('a', f'{name}; {what}', threads, r[side], r[side]/sort, 1.25 if threads == 1 else None, r)
    r = run_job('plain', 1, shape=[64, 64, 3, 3] if args.quick else layer, groups=7)
    what = f"{r['weights']:,} weights x 7 groups, keep {r['k']:,}"
    yield row('a', f'the plain loop, once; {what}', 1, r['plain'], record=r)
    yield row('a', f'select_fair on the same; {what}', 1, r['fair'], r['fair']/r['plain'], record=r)
    for scope, threads in [('layer', 1), ('layer', 2), ('global', 2)]:
        r = run_job('network', threads, network='resnet34', groups=7, scope=scope, repetitions=1 if args.quick else 3)
        what = f"select_fair, all of ResNet-34, scope {scope}, {r['weights']:,} weights x 7 groups"
        yield row('a', what, threads, r['fair'], peak=r['peak'], record=r)


# b: importance

def job_importance(network, size, images, batch, repetitions, **_):
    "One plain forward-backward pass, and importance for 1, 2, 7 and 14 groups of equal size over the same images in batches of the same size"
    import torch
    from fairgrape.importance import cut, group_importance
    from fairgrape.models import build_model, task_loss
    model, g = build_model(network, 7).eval(), torch.Generator().manual_seed(0)
    x, y = torch.randn(images, 3, size, size, generator=g), torch.randint(7, (images, 1), generator=g)
    loss = lambda logits, y: task_loss(logits, y, [7])
    def plain():
        for a, b in zip(x.split(batch), y.split(batch)):
            model.zero_grad()
            loss(model(a), b).backward()
    def importance(groups):
        of_group = images//groups
        cuts = [(n, g) for g in range(groups) for n in cut(of_group, batch)]
        parts = [n for n, _ in cuts]
        group_importance(model, ((a, b, g) for a, b, (_, g) in zip(x.split(parts), y.split(parts), cuts)), loss, groups)
    t = alternate(repetitions, plain=plain, **{f'G{g}': lambda g=g: importance(g) for g in (1, 2, 7, 14)})
    return t | dict(peak=peak_memory())

def bench_b(args):
    cases = [('resnet34', 64, 896, 64), ('resnet34', 224, 112, 8), ('resnet18', 64, 896, 64)]   # images = batch x 14: full batches at every G
    if args.quick: cases = cases[2:]
    for network, size, images, batch in cases:
        r = run_job('importance', args.threads, network=network, size=size, images=images, batch=batch, repetitions=1 if args.quick else 3)
        what = f'{network}, {images} images of {size} px, batch {batch}'
        yield row('b', f'plain forward-backward pass; {what}', args.threads, r['plain'], peak=r['peak'], record=r)
        for g in (1, 2, 7, 14): yield row('b', f'importance, G = {g}; {what}', args.threads, r[f'G{g}'], r[f'G{g}']/r['plain'], 1.15, record=r)


# c: data

def write_jpegs(
    folder: Path,  # Where to
    n: int,        # How many files
) -> None:
    """Save rendered faces of 200 px, the size of UTKFace's, as JPEGs of quality 90; one rendering gives several files, shifted and mirrored.

    They take 11 kB each and as long to decode as UTKFace's own, which are about half that size (0.5 ms on one core)."""
    import numpy as np
    from fairgrape.synthetic import render_faces, synthetic_table
    from PIL import Image
    faces = render_faces(synthetic_table(seed=0).iloc[::40].head(n), size=200).transpose(0, 2, 3, 1)
    for i in range(n):
        face = np.roll(faces[i % len(faces)], i//len(faces), axis=0)[:, ::1 - 2*(i//len(faces) % 2)]
        Image.fromarray(np.ascontiguousarray(face)).save(folder/f'{i:06}.jpg', quality=90)

def face_data(folder: Path):
    "All JPEGs under a folder as a data set without labels"
    import pandas as pd
    from fairgrape.data import FaceData, load_images
    paths = sorted(str(p.relative_to(folder)) for p in folder.rglob('*.jpg'))
    table = pd.DataFrame(dict(path=paths, photo=paths))
    return FaceData('jpegs', folder, table, partial(load_images, folder), key=f'bench {folder} {len(paths)}')

def as_images(pixels):
    "Images without labels, all of them for training"
    import torch
    from fairgrape.cache import Images
    n = len(pixels)
    warnings.filterwarnings('ignore', message='The given NumPy array is not writable')
    return Images(pixels=torch.as_tensor(pixels), labels=torch.zeros(n, 1, dtype=torch.long), groups=torch.zeros(n, dtype=torch.long),
                  rows=dict(train=torch.arange(n)))

def epochs(folder: Path, cache: Path, size: int, threads: int):
    "The two sides, each a function that goes through one epoch"
    import numpy as np
    import torch
    from fairgrape.cache import augmentation, batches, image_cache
    from fairgrape.data import decode_image
    data, augment = face_data(folder), augmentation('paper', size)
    opened = {}
    def from_cache():                                           # opened once a run, then read in every epoch
        if not opened: opened['images'] = as_images(image_cache(data, size, cache, progress=False))
        for _ in batches(opened['images'], 'train', 64, torch.Generator().manual_seed(0), augment): pass
    def from_jpegs():
        with ThreadPoolExecutor(threads) as pool:
            for rows in torch.randperm(len(data.table), generator=torch.Generator().manual_seed(0)).split(64):
                files = [folder/data.table.path.iat[i] for i in rows.tolist()]
                images = as_images(np.stack(list(pool.map(lambda f: decode_image(f, size), files))))
                for _ in batches(images, 'train', 64, None, augment): pass
    return from_cache, from_jpegs

def job_epochs(folder, cache, size, repetitions, threads, **_):
    "Both sides in turn; the cache is built before, and that is timed too"
    from fairgrape.cache import image_cache
    start = time.perf_counter()
    n = len(image_cache(face_data(Path(folder)), size, Path(cache), progress=False))
    built = time.perf_counter() - start
    from_cache, from_jpegs = epochs(Path(folder), Path(cache), size, threads)
    return alternate(repetitions, cache=from_cache, jpegs=from_jpegs) | dict(built=built, images=n)

def job_memory(side, folder, cache, size, threads, **_):
    "One epoch of one side, for its peak memory"
    from_cache, from_jpegs = epochs(Path(folder), Path(cache), size, threads)
    before = peak_memory()
    (from_cache if side == 'cache' else from_jpegs)()
    return dict(imports=before, peak=peak_memory())

def bench_c(args):
    with tempfile.TemporaryDirectory() as temp:
        folder, cache = Path(args.faces or temp), Path(temp)/'cache'
        if not args.faces:
            folder = Path(temp)/'faces'; folder.mkdir()
            write_jpegs(folder, 500 if args.quick else 2000)
        for size, threads in sorted({(64, 1), (64, args.threads), (224, args.threads)}):
            where = dict(folder=str(folder), cache=str(cache/str(threads)), size=size)
            r = run_job('epochs', threads, **where, repetitions=1 if args.quick else 3)
            peak = {side: run_job('memory', threads, side=side, **where) for side in ('cache', 'jpegs')}
            what = f"{r['images']:,} images, {'real' if args.faces else 'rendered, 200 px'} JPEGs, at {size} px, batch 64, augmentation 'paper'"
            yield row('c', f'epoch that decodes JPEGs; {what}', threads, r['jpegs'], peak=peak['jpegs']['peak'], record=r | peak['jpegs'])
            yield row('c', f'epoch from the cache; {what}', threads, r['cache'], r['cache']/r['jpegs'], .2 if size == 64 else None,
                      r | peak['cache'], peak['cache']['peak'])
            yield row('c', f'building the cache, once; {what}', threads, r['built'], record=r)


# The table

def row(section, what, threads, seconds, ratio=None, limit=None, record=None, peak=None) -> dict:
    return dict(section=section, what=what, threads=threads, seconds=seconds, ratio=ratio, limit=limit, peak_mib=peak, record=record)

def table(rows: list[dict]) -> str:
    "A markdown table of the medians"
    def cells(r):
        ratio = '' if r['ratio'] is None else f"{r['ratio']:.2f}" if r['ratio'] >= .1 else f"1/{1/r['ratio']:.0f}"
        limit = '' if r['limit'] is None else f"{r['limit']:g} {'met' if r['ratio'] <= r['limit'] else 'NOT met'}"
        return [r['section'], r['what'], r['threads'], f"{r['seconds']:.3f}", ratio, limit, '' if r['peak_mib'] is None else f"{r['peak_mib']:.0f}"]
    lines = [['', 'what', 'threads', 'median s', 'ratio', 'at most', 'peak MiB'], ['---']*7, *map(cells, rows)]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)

SECTIONS = dict(a=bench_a, b=bench_b, c=bench_c)
JOBS = dict(select=job_select, plain=job_plain, network=job_network, importance=job_importance, epochs=job_epochs, memory=job_memory)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', default='a,b,c', help='sections, with commas between them')
    p.add_argument('--quick', action='store_true', help='fewer repetitions, smaller networks and images: a minute or two, to see that all works')
    p.add_argument('--threads', type=int, default=2, help='threads where the comparison does not fix them')
    p.add_argument('--faces', help='a folder of JPEGs to decode instead of rendered ones')
    p.add_argument('--out', default=str(REPO/'runs'), help='where bench.json and bench.md go')
    p.add_argument('--job', choices=JOBS, help=argparse.SUPPRESS)
    p.add_argument('--settings', help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.job:
        import torch
        torch.set_num_threads(args.threads)
        return print(json.dumps(JOBS[args.job](threads=args.threads, **json.loads(args.settings))))
    wanted = args.only.split(',')
    if wrong := [s for s in wanted if s not in SECTIONS]: p.error(f"--only {args.only}: there is no section {wrong[0]!r}, choose from a, b, c")
    if args.faces and not next(Path(args.faces).rglob('*.jpg'), None): p.error(f'--faces {args.faces}: no .jpg file in or under that folder')
    import torch
    about = f'torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores ({platform.machine()}); medians, sides in turn'
    out, rows = Path(args.out), []
    out.mkdir(parents=True, exist_ok=True)
    for r in (r for s in wanted for r in SECTIONS[s](args)):          # written after every row: an interrupted run keeps what it measured
        rows.append(r)
        (out/'bench.json').write_text(json.dumps(dict(about=about, quick=args.quick, rows=rows), indent=1) + '\n')
        (out/'bench.md').write_text(f'{about}\n\n{table(rows)}\n')
    print(f'{about}\n\n{table(rows)}')
    return int(any(r['limit'] is not None and r['ratio'] > r['limit'] for r in rows))

if __name__ == '__main__': sys.exit(main())
