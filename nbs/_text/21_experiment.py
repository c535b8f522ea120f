# %% [markdown]
# # Experiment
#
# > From one set of settings to one run folder: dense, pruned, judged, kept

# %%
#| default_exp experiment

# %%
#| export
import hashlib
import importlib.metadata as metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

import fairgrape
from fairgrape.as_released import as_released
from fairgrape.baselines import BLIND, METHODS, SHARED, Method, balanced_rows, method, rewind, touches
from fairgrape.cache import Images, augmentation, batches, get_batch, group_batches, image_cache, make_images
from fairgrape.checkpoints import Busy, Journal, code_version, lock, open_journal, sync, write_json
from fairgrape.clusters import Clusters, cluster_groups, load_clusters, save_clusters, with_clusters
from fairgrape.data import FaceData, check_cells, codes, keep_classes, limit_table, matching, split_table, thin_table
from fairgrape.datasets import read_dataset
from fairgrape.evaluation import check_groups, compare
from fairgrape.importance import group_importance
from fairgrape.masks import get_masks, plain_state, sparsity
from fairgrape.models import build_model, check_network, load_weights, plain_model, predict_classes, save_weights, task_loss
from fairgrape.parallel import ALONE, Team, launch, memory_errors, team_of
from fairgrape.pruning import Step, prune, schedule
from fairgrape.selection import SCOPES, check_scope, target_share
from fairgrape.settings import plain_name, root
from fairgrape.training import PRECISIONS, Stage, memory_order, predict, seed_of, seeded, stages, train

# %%
from unittest.mock import patch

from PIL import Image


# %% [markdown]
# ## Settings
#
# A run is a function of its settings. They are one frozen record whose defaults are the paper's protocol (section 4), meant for a GPU; the same names are the parameters of the notebook that papermill runs and the options
# of `fairgrape run`.

# %%
#| export
@dataclass(frozen=True)
class Settings:
    "Everything that decides a run's result; the defaults are the paper's protocol"
    dataset: str = "fairface"         # synthetic, utkface, fairface, celeba, people (ImageNet's person subtree) or folder (one's own)
    data_path: str = ""               # Archive or folder of the set; empty: looked for under the data root
    task: str = "race"                # Label column to predict; "race*gender" crosses two, "race+gender" has a head for each; CelebA: "attributes", 39 heads
    groups: str = "race"              # Label column whose groups are compared; "race*gender" crosses two; "clusters": found in the dense network's features
    classes: str = ""                 # Classes to keep, as "race=White,Black;gender=Male"; empty: the set's usual ones
    imbalance: str = ""               # "race=White:0.2" keeps all White images and every other with probability 0.2, before the split
    split: str = "photo"              # photo: 80/10/10 by photograph, always seed 42; person: by identity; official: the set's own
    limit: int = 0                    # Use at most so many images, drawn at random (seed 42); 0: all
    network: str = "resnet34"         # Any torchvision classifier by name, timm:NAME, efficientnet_lite0, or the small resnet10
    weights: str = "imagenet"         # imagenet, none, or the path of a dense network's weights, which is then taken as it is
    image_size: int = 224             # Side of the square images, pixels
    method: str = "fairgrape"         # dense (no pruning), fairgrape, importance, ws, magnitude, lottery, lottery_short, snip, grasp or random
    rate: float = 0.99                # Pruning rate, the fraction of weights removed
    keep: float = 0.9                 # Fraction kept at each pruning step (iterative methods)
    steps: str = "published"          # published: as the method was published; iterative or one shot
    scope: str = "published"          # published: as the method was published; layer: the same rate in every layer; global: one budget for all
    as_released: bool = False         # The public code's importance and selection instead of the paper's
    epochs: str = "13,3,3"            # Epochs of each training stage, dense and after pruning
    lrs: str = "1e-4,1e-5,1e-6"       # Adam's learning rate in each stage
    retrain_epochs: int = 3           # Epochs after each pruning step
    retrain_lr: float = 1e-5          # Learning rate after each pruning step
    batch: int = 64                   # Images in a training batch
    importance_batch: int = 64        # Most images of one group in an importance batch
    importance_cap: int = 0           # Most images of a group that are used for the importance; 0: all
    importance_on: str = ""           # Training images that the importance sees, as "race=White" or "race!=White"; empty: all
    importance_groups: str = ""       # Groups whose importance shares are kept, where they are not those compared; "clusters" as for groups
    clusters: int = 0                 # How many clusters, where groups are clusters; 0: chosen by silhouette
    augment: str = "paper"            # paper, flip or none
    precision: str = "fp32"           # fp32, bf16 or fp16 (importance then in fp32)
    seed: int = 0                     # Initial weights, order of images, augmentation; not the split
    bootstrap: int = 2000             # Resamples for the intervals
    accumulate: int = 1               # Parts in which a training batch goes through the network, where it does not fit in memory at once
    compiled: bool = False            # Let torch.compile make the network faster (needs a C++ compiler; other last digits)

    def __post_init__(self): check_settings(self)


# %% [markdown]
# Settings arrive from notebooks, shells and YAML, so they are checked where they are made: each mistake is named with its setting and what would be right, long before an image is read. A number may come as text.

# %%
#| export
CHOICES = dict(method=("dense", *METHODS), steps=("published", "iterative", "one shot"), scope=("published", *SCOPES), split=("photo", "person", "official"),
               augment=("paper", "flip", "none"), precision=tuple(PRECISIONS))
LEAST = dict(image_size=16, batch=2, importance_batch=1, importance_cap=0, limit=0, clusters=0, retrain_epochs=1, retrain_lr=0, bootstrap=100, seed=0, accumulate=1)

def check_settings(s: Settings):
    "Bring numbers into their type; raise ValueError or TypeError for a setting that cannot be"
    for f in fields(s): object.__setattr__(s, f.name, typed(f.name, getattr(s, f.name), f.type))
    for name, choices in CHOICES.items():
        if getattr(s, name) not in choices: raise ValueError(f"{name} = {getattr(s, name)!r}: choose one of {', '.join(choices)}")
    for name, least in LEAST.items():
        if not getattr(s, name) >= least: raise ValueError(f"{name} = {getattr(s, name)}: it must be at least {least}")
    if s.clusters == 1: raise ValueError("clusters = 1: one cluster is no grouping; choose 2 or more, or 0 to have the number chosen")
    if s.accumulate > s.batch // 2: raise ValueError(f"accumulate = {s.accumulate} parts of a batch of {s.batch}: each needs 2 images, so choose 1 to {s.batch // 2}")
    schedule(s.rate, s.keep)
    stages(s.epochs, s.lrs), stages(s.retrain_epochs, s.retrain_lr)
    if s.method != "dense": check_method(s)

def typed(name: str, given, kind: type):
    "`given` as int, float, str or bool (which a shell writes as text)"
    if kind is bool and str(given) in ("True", "False"): return str(given) == "True"
    try: value = None if kind is bool else kind(given)
    except (TypeError, ValueError): value = None
    if value is None or (kind is int and float(given) != value): raise TypeError(f"{name} = {given!r}: it must be {'True or False' if kind is bool else kind.__name__}")
    return value


# %% [markdown]
# `steps` and `scope` say "published" until somebody says otherwise, because each method was published in a form of its own: SNIP with one budget for all layers and in one shot, FairGRAPE layer by layer and in
# steps. `form` looks up what that means; two settings that come to the same are the same run.

# %%
#| export
def form(
    settings: Settings, # A run's settings; its method is not "dense"
) -> Method:            # The method with the steps and the scope that are asked for, or as the public code has it
    "The method that these settings mean. Raises: ValueError for a form that cannot be."
    how = as_released(method(settings.method)) if settings.as_released else method(settings.method)
    asked = {k: getattr(settings, k) for k in ("steps", "scope") if getattr(settings, k) != "published"}
    return replace(how, **asked)

def needs_initial(how: Method) -> bool: return how.start == "initial" or (how.rewind and how.rewind_to == "initial")

def check_method(s: Settings):
    "Raise ValueError where the method and other settings exclude one another"
    how, own = form(s), s.weights not in ("none", "imagenet")
    if own and needs_initial(how):
        raise ValueError(f"method = {s.method!r} needs the weights before training, and weights = {s.weights!r} is a trained network: use weights = 'imagenet' or 'none'")
    grouped = [f"{k} = {getattr(s, k)!r}" for k in ("importance_on", "importance_groups") if getattr(s, k)]
    if grouped and (how.batches != "all" or how.score in BLIND): raise ValueError(f"{grouped[0]}: {s.method} does not score by the images of groups; use it with fairgrape or importance")
    if s.importance_groups and not how.groups: raise ValueError(f"importance_groups = {s.importance_groups!r}: {s.method} has no groups; use method = 'fairgrape'")
    if s.as_released and how.scope != method(s.method).scope: raise ValueError(f"scope = {s.scope!r} with as_released: the public code knows {s.method} with scope {method(s.method).scope!r} only")
    if s.importance_on and s.as_released: raise ValueError("importance_on with as_released: in the public code the choice never reaches the importance's images; leave one of them out")
    if s.clusters and "clusters" not in (s.groups, s.importance_groups): raise ValueError(f"clusters = {s.clusters}: say which groups are clusters, with groups or importance_groups = 'clusters'")


# %%
Settings(method="ws", rate="0.9", image_size=64)

# %%
assert Settings(rate="0.9").rate == 0.9 and Settings(seed="3").seed == 3
for bad in (dict(method="grape"), dict(steps="two"), dict(scope="all"), dict(rate=1.0), dict(rate=0), dict(keep=1), dict(keep=0.0), dict(image_size=8),
            dict(epochs="13,3"), dict(retrain_epochs=0), dict(batch="many"), dict(seed=1.5), dict(rate=[0.9, 0.99]), dict(augment="mixup"), dict(precision="int8"), dict(split="random")):
    try: Settings(**bad)
    except (ValueError, TypeError) as e: print(e)
    else: raise AssertionError(f"{bad} was accepted")

# %%
pd.DataFrame([dict(method=m, steps=form(Settings(method=m)).steps, scope=form(Settings(method=m)).scope) for m in METHODS]).set_index("method").T

# %%
assert form(Settings(method="snip")).scope == "global" and form(Settings(method="snip", scope="layer")).scope == "layer"
assert form(Settings()) == form(Settings(steps="iterative", scope="layer")) and form(Settings(steps="one shot")).steps == "one shot"
for bad in (dict(method="snip", weights="own.safetensors"), dict(method="ws", importance_on="race=White"), dict(method="importance", importance_groups="gender"),
            dict(as_released=True, importance_on="race=White"), dict(clusters=4), dict(groups="clusters", clusters=1), dict(method="random", as_released=True), dict(as_released="perhaps"), dict(as_released=True, scope="global")):
    try: Settings(**bad)
    except (ValueError, TypeError) as e: print(e)
    else: raise AssertionError(f"{bad} was accepted")

# %% [markdown]
# A parameter that is misspelt must not be dropped silently, which is what papermill would do. `from_parameters` takes whatever the notebook's namespace holds after papermill's cell and refuses names that it does not know.

# %%
#| export
PLACES = ("name", "data_root", "runs_root", "cache_root", "device", "threads", "processes", "keep_on", "progress")   # where and how, not what: they do not change the result
KNOWN = tuple(f.name for f in fields(Settings)) + PLACES

def from_parameters(
    names: Mapping,      # A notebook's `globals()`, or a dictionary of parameters
    ignore: tuple = ("In", "Out", "exit", "quit", "open", "get_ipython"), # What IPython itself puts there
) -> tuple[Settings, dict]: # The settings, and the places (name, data_root, runs_root, cache_root, device, threads, processes, keep_on, progress)
    "Make settings of parameters. Raises: ValueError for an unknown name, and what `Settings` raises."
    given = {k: v for k, v in names.items() if not k.startswith("_") and k not in ignore and not callable(v) and not isinstance(v, ModuleType)}
    unknown = sorted(set(given) - set(KNOWN))
    if unknown: raise ValueError(f"unknown parameter {', '.join(unknown)}: the known ones are {', '.join(KNOWN)}")
    places = {k: v for k, v in given.items() if k in PLACES}
    if str(places.get("progress", True)) not in ("True", "False"): raise TypeError(f"progress = {places['progress']!r}: it must be True or False")
    if "progress" in places: places["progress"] = str(places["progress"]) == "True"
    return Settings(**{k: v for k, v in given.items() if k not in PLACES}), places


# %%
from_parameters(dict(method="ws", rate=0.9, runs_root="/tmp/runs"))[1]

# %%
assert from_parameters(dict(rate=0.5, seed=1)) == (Settings(rate=0.5, seed=1), {})
assert from_parameters(dict(progress="False"))[1] == dict(progress=False)      # as a shell writes it
for unknown in (dict(rates=0.9), dict(rates=[0.9, 0.99])):
    try: from_parameters(unknown)
    except ValueError as e: print(e)
    else: raise AssertionError("an unknown parameter was accepted")

# %% [markdown]
# Some settings do not touch some methods: WS has no steps, the dense network no rate, magnitude reads no images. They are left out of what identifies a run, so that one dense network serves all runs that start from
# it. A setting that came later is left out as well while it has its default: runs made before it was there keep their names.

# %%
#| export
STEPS = ("keep", "retrain_epochs", "retrain_lr")                       # of methods in steps
OF_METHODS = {"rate", "steps", "scope", *STEPS, "importance_batch", "importance_cap", "importance_on", "importance_groups"}
LATER = dict(imbalance="", as_released=False, importance_on="", importance_groups="", clusters=0, accumulate=1, compiled=False)   # settings younger than some runs, with their defaults

def unused(
    settings: Settings, # A run's settings
) -> set[str]:          # Names of settings that do not change its result
    "Which settings do not touch this method. `data_path` never does: the data speak for themselves."
    if settings.method == "dense": return {"data_path", "as_released", "clusters", *OF_METHODS}
    how = form(settings)
    return {"data_path", *OF_METHODS - set(touches(how)), *STEPS * (how.steps == "one shot")}

def identity(
    settings: Settings,   # A run's settings
) -> dict:                # Those that change its result
    "The settings that matter to this method, with `steps` and `scope` as they are meant."
    mine = asdict(settings) | ({} if settings.method == "dense" else dict(scope=form(settings).scope, steps=form(settings).steps))
    if settings.method != "dense" and mine["steps"] == method(settings.method).steps: mine.pop("steps")
    return {k: v for k, v in mine.items() if k not in unused(settings) and not (k in LATER and v == LATER[k])}


# %%
[k for k in asdict(Settings()) if k not in identity(Settings(method="dense"))]

# %%
assert identity(Settings(method="ws", keep=0.5)) == identity(Settings(method="ws", keep=0.9, scope="layer", steps="one shot", importance_cap=9))
assert identity(Settings(keep=0.5)) != identity(Settings(keep=0.9)) and "rate" in identity(Settings()) and "clusters" not in identity(Settings())
assert identity(Settings(method="ws", steps="iterative")) != identity(Settings(method="ws")) and "keep" in identity(Settings(method="ws", steps="iterative"))
assert identity(Settings(importance_on="race=White"))["importance_on"] == "race=White"


# %% [markdown]
# ## Job: settings that have met their data
#
# Before anything is decoded or trained, the labels are read and everything that can be wrong with them is found: an unknown task, a group without images in some part, a folder that cannot be written. What
# comes out knows its heads, its groups, its split, and the folder that it will fill.

# %%
#| export
@dataclass(frozen=True)
class Job:
    "Settings together with the data they name, checked"
    settings: Settings
    data: FaceData               # All images of the set
    table: pd.DataFrame          # The rows used, index = row of the set, with a column `split`
    heads: dict[str, list[str]]  # Task → its class names, in the order of the codes
    labels: np.ndarray           # Class codes, shape `(n, heads)`
    group: np.ndarray            # Group codes, shape `(n,)`
    group_names: list[str]       # Name of each group
    runs_root: Path              # Where run folders go
    cache_root: Path             # Where decoded images are kept
    name: str = ""               # The run folder's name before the hash; empty: made of the settings
    clusters: Clusters | None = None # Groups found in the dense network's features, once they are found
    known: dict = field(default_factory=dict, repr=False, compare=False) # What was read off the table once; jobs on the same table share it

    @property
    def sizes(self) -> list[int]: return [len(names) for names in self.heads.values()]
    @property
    def G(self) -> int: return len(self.group_names)


# %%
#| export
def prepare(
    settings: Settings,                   # What to run
    data_root: str | Path | None = None,  # Folder of the data sets; default: settings.ini
    runs_root: str | Path | None = None,  # Folder of the runs; default: settings.ini
    cache_root: str | Path | None = None, # Folder of decoded images; default: settings.ini
    name: str = "",                       # Another name for the run folder
    progress: bool = True,                # Show progress bars while archives are unpacked
) -> Job:                                 # Settings and data, checked
    """Read the labels and check everything that can be checked before work starts.

    Raises: ValueError, FileNotFoundError or OSError that name the setting, file, column or row at fault."""
    plain_name(name)
    data = read_dataset(settings.dataset, settings.data_path or None, root("data", data_root), progress=progress)
    specs = data.notes.get("tasks", {}).get(settings.task, settings.task).split("+")
    if settings.method == "dense" and settings.groups == "clusters": settings = replace(settings, groups=specs[0])    # clusters come after it
    table = _rows(data, settings, specs)
    heads = {spec: codes(table, spec) for spec in specs}
    group, names = codes(table, specs[0] if settings.groups == "clusters" else settings.groups)
    table = table.assign(split=split_table(table, settings.split))
    job = Job(settings, data, table, {spec: n for spec, (_, n) in heads.items()}, np.stack([c for c, _ in heads.values()], 1),
              group, names, writable(root("runs", runs_root)), root("cache", cache_root), name)
    check_job(job)
    return job

def check_job(job: Job):
    "Raise ValueError for settings that these data, or this network, cannot meet"
    _check_groups(job), _check_heads(job), _check_network(job)

def _rows(data: FaceData, settings: Settings, specs: list[str]) -> pd.DataFrame:
    "The images that the settings use: some classes, thinned out, and at most `limit` of them"
    used = set("*".join([*specs, settings.groups]).split("*"))
    table = _classes(data.table, settings, {c: v for c, v in data.notes.get("classes", {}).items() if c in used})
    table = thin_table(table, settings.imbalance) if settings.imbalance else table
    return limit_table(table, min(settings.limit, len(table)))

def _classes(table: pd.DataFrame, settings: Settings, keep: dict) -> pd.DataFrame:
    "The table without the classes that the settings, or the set's custom (`keep`), leave out"
    for part in filter(None, settings.classes.split(";")):
        column, _, names = part.partition("=")
        if not names: raise ValueError(f"classes = {settings.classes!r}: write it as column=class,class;column=class,class")
        keep[column.strip()] = [n.strip() for n in names.split(",")]
    for column, names in keep.items(): table = keep_classes(table, column, names)
    return table

def _check_groups(job: Job):
    "Raise ValueError where groups, or what the importance is to see, have no images, or clusters too few"
    s, train = job.settings, job.table["split"] == "train"
    if s.clusters > train.sum(): raise ValueError(f"clusters = {s.clusters}, but there are only {train.sum()} training images to find them in: choose fewer")
    part, n = min(job.table["split"].value_counts().items(), key=lambda item: item[1])
    if s.groups == "clusters" and 2 * s.clusters > n:
        raise ValueError(f"clusters = {s.clusters}, but {part} has only {n} images, and each cluster that is compared needs 2 or more in every part: choose fewer")
    if s.groups != "clusters":
        check_cells(job.table, job.table["split"], s.groups)
        check_groups(job.group[job.table["split"] == "test"], job.group_names)
    if s.importance_groups not in ("", "clusters") and len(codes(job.table, s.importance_groups)[1]) < 2:
        raise ValueError(f"importance_groups = {s.importance_groups!r} has one group only: choose another column, or method = 'importance', which has none")
    if s.importance_on and not (matching(job.table, s.importance_on) & train).any():
        raise ValueError(f"importance_on = {s.importance_on!r}: none of the {train.sum()} training images is of that kind")

def _check_heads(job: Job):
    for task, names in job.heads.items():
        if len(names) < 2: raise ValueError(f"task {task!r} has only the class {names}: a classifier needs two or more (classes = {job.settings.classes!r})")

def _check_network(job: Job):
    "Raise ValueError for a network that is not there, cannot take these images, has nothing to prune, or that a global rate would cut through"
    s = job.settings
    check_network(s.network, sum(job.sizes), s.image_size)
    if s.method == "dense": return
    with torch.device("meta"): masks = get_masks(plain_model(s.network, sum(job.sizes), image_size=s.image_size))
    check_scope(masks, s.rate, form(s).scope)

def writable(folder: Path) -> Path:
    "The folder, made if need be; OSError if nothing can be written there"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder): pass
    except OSError as e: raise OSError(f"the runs folder {folder} cannot be written ({e.strerror}): choose another with runs_root or FAIRGRAPE_RUNS_ROOT") from e
    return folder


# %% [markdown]
# A data set of one's own, to try it on: 160 little pictures, whose brightness is the task and whose tint is the group.

# %%
home = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
rows = [dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3]) for i in range(160)]
(home / "own").mkdir()
for i, row in enumerate(rows):
    pixels = rng.integers(0, 120, (24, 24, 3)) + (90 if row["shade"] == "light" else 0)
    pixels[..., 0 if row["tint"] == "red" else 2] += 40
    Image.fromarray(pixels.astype(np.uint8)).save(home / "own" / row["file"])
pd.DataFrame(rows).to_csv(home / "own" / "labels.csv", index=False)

tiny = Settings(dataset="folder", data_path=str(home / "own"), task="shade", groups="tint", network="resnet10", weights="none", image_size=16, method="fairgrape", rate=0.9,
                keep=0.5, epochs="2,1", lrs="1e-3,1e-4", retrain_epochs=1, retrain_lr=1e-4, batch=16, augment="flip", bootstrap=200)
places = dict(data_root=home, runs_root=home / "runs", cache_root=home / "cache", progress=False)
job = prepare(tiny, **places)
job.heads, job.group_names, job.table["split"].value_counts().to_dict()

# %%
assert job.sizes == [2] and job.group_names == ["blue", "red"] and job.labels.shape == (160, 1) and job.table["split"].value_counts()["train"] == 128

# %%
(home / "file").write_text("")
for bad, where in ((dict(task="colour"), {}), (dict(groups="hue"), {}), (dict(dataset="imdb"), {}), (dict(classes="tint=green"), {}), (dict(classes="tint"), {}), (dict(limit=3), {}),
                   (dict(classes="tint=red"), {}), (dict(classes="shade=dark"), {}), (dict(data_path=str(home / "none")), {}), ({}, dict(runs_root=home / "file")), ({}, dict(name="../up"))):
    try: prepare(replace(tiny, **bad), **(places | where))
    except (ValueError, OSError) as e: print(f"{bad or 'runs_root'}: {e}".replace(str(home), "…"))
    else: raise AssertionError(f"{bad} was accepted")


# %% [markdown]
# ## Which folder
#
# A run's folder is named by a hash of everything that changes the result: the settings that matter to its method, the images and labels actually used, the weights it starts from. The same settings find
# the same folder, and a changed label table another one. Where the data lie does not matter.

# %%
#| export
def fingerprint(
    job: Job,  # Settings and data
) -> str:      # 64 hexadecimal digits
    "Hash of all that changes a run's result: settings, images (by name), labels, split, starting weights."
    digest = hashlib.sha256(json.dumps(identity(job.settings), sort_keys=True).encode())
    digest.update(once(job, "text", lambda: job.table.to_csv(index=False).encode()) + (job.data.key.encode() if job.data.root is None else b""))
    digest.update(json.dumps([job.heads, None if job.settings.groups == "clusters" else job.group_names]).encode())
    if Path(job.settings.weights).is_file(): digest.update(Path(job.settings.weights).read_bytes())
    return digest.hexdigest()

def once(job: Job, what: str, read: Callable):
    "What `read` gives, read once for all jobs on this table: a sweep has hundreds of them"
    if job.known.get("table") is not job.table: job.known.clear(); job.known["table"] = job.table
    if what not in job.known: job.known[what] = read()
    return job.known[what]

def run_folder(job: Job) -> Path:
    "The folder of this run: a readable name and the first 8 digits of its fingerprint"
    s = job.settings
    what = [s.dataset, s.task.replace("*", "x"), s.network.replace(":", "-"), s.method] + ([] if s.method == "dense" else [f"{s.rate:g}", form(s).scope]) + [f"s{s.seed}"]
    return job.runs_root / f"{job.name or '-'.join(what)}-{fingerprint(job)[:8]}"

def dense_job(job: Job) -> Job:
    "The job that trains the dense network this one starts from; where groups are to be clusters of its features, it is judged by its own classes"
    s = job.settings
    groups = next(iter(job.heads)) if s.groups == "clusters" else s.groups
    none = {k: Settings.__dataclass_fields__[k].default for k in ("as_released", "importance_on", "importance_groups", "clusters", "steps", "scope")}
    if s.groups == "clusters": job = replace(job, group=job.labels[:, 0], group_names=job.heads[groups], clusters=None)
    return replace(job, settings=replace(s, method="dense", groups=groups, **none), name=job.name if s.method == "dense" else "")


# %% [markdown]
# Names and labels do not tell FairFace's narrow crops from its wide ones. So a run's folder keeps a hash of its image files' sizes (modification times change when a set is copied), and a run that finds its folder made from other images stops there.

# %%
#| export
def image_sizes(
    job: Job,  # Settings and data
) -> str:      # 16 hexadecimal digits; "" where images are rendered
    "Hash of the sizes of the image files in use."
    if job.data.root is None: return ""
    return once(job, "sizes", lambda: hashlib.sha256(repr([(job.data.root / path).stat().st_size for path in job.table["path"]]).encode()).hexdigest()[:16])

def check_images(job: Job):
    "Raise ValueError if the run's folder, or its dense network's, was made from other images of the same names"
    for folder in {run_folder(job), run_folder(dense_job(job))}:
        known = json.loads((folder / "settings.json").read_text(encoding="utf-8")).get("image_sizes") if is_complete(folder) else None
        if known and known != image_sizes(job): raise ValueError(f"{folder} holds a run on other images with the same names and labels: choose another runs_root, or a name")

def is_complete(folder: Path) -> bool: return (folder / "metrics.json").is_file()


# %%
run_folder(job).name, run_folder(dense_job(job)).name, image_sizes(job)

# %%
assert run_folder(prepare(replace(tiny, seed=1), **places)) != run_folder(job) == run_folder(prepare(tiny, **places))
assert run_folder(dense_job(job)) == run_folder(dense_job(prepare(replace(tiny, rate=0.5), **places)))
assert once(job, "text", None) == job.table.to_csv(index=False).encode() and run_folder(replace(job, table=job.table[:-1])) != run_folder(job)    # another table is read again
other = replace(job, runs_root=home / "others")
run_folder(other).mkdir(parents=True)
(run_folder(other) / "metrics.json").write_text("{}")
(run_folder(other) / "settings.json").write_text(json.dumps(dict(image_sizes=image_sizes(job))))
check_images(other)                                                            # its own images
(run_folder(other) / "settings.json").write_text(json.dumps(dict(image_sizes="another")))
try: check_images(other)
except ValueError as e: print(str(e).replace(str(home), "…"))
else: raise AssertionError("a run on other images was accepted")


# %% [markdown]
# ## Images
#
# The set is decoded once into the cache at the working size; the run sees the rows of its table.

# %%
#| export
def images_of(
    job: Job,                            # Settings and data
    device: str | torch.device = "cpu",  # The pixels are moved there if they fit in its memory
    progress: bool = True,               # Show a bar while images are decoded
) -> Images:                             # Pixels, labels, groups, and the rows of each split
    "Open the decoded images of a job."
    pixels = image_cache(job.data, job.settings.image_size, job.cache_root, progress=progress)
    images = make_images(pixels, job.table, job.table["split"], list(job.heads), dense_job(job).settings.groups)
    return images.to(device) if fits(images.pixels, device) else images

def fits(pixels: Tensor, device: str | torch.device) -> bool:
    "Whether the pixels take at most half of the device's free memory"
    return torch.device(device).type == "cuda" and pixels.nbytes < torch.cuda.mem_get_info(device)[0] // 2

def device_of(name: str = "") -> torch.device:
    "The device of that name; empty: CUDA where there is one, else the CPU"
    try: device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu")); torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e: raise ValueError(f"device = {name!r} is not to be had here ({str(e).splitlines()[0]}): use 'cpu', or leave it empty") from e
    return device


# %%
images = images_of(job, progress=False)
images.pixels.shape, {s: len(r) for s, r in images.rows.items()}

# %%
assert images.pixels.shape == (160, 3, 16, 16) and not fits(images.pixels, "cpu") and device_of("cpu").type == "cpu"
assert images.labels[:4, 0].tolist() == [0, 1, 0, 1] and images.groups[:3].tolist() == [1, 0, 0]
try: device_of("abacus")
except ValueError as e: print(e)
else: raise AssertionError("an unknown device was accepted")


# %% [markdown]
# ## The dense network
#
# Every comparison is with the same seed's network before pruning. It is a run of its own, and once trained it is there for all the others. A run is complete when `metrics.json`, which is written last, is there.
#
# Where `weights` is a file, that file *is* the dense network: somebody's classifier, to be pruned. It is judged and not trained further. A file that does not fit, or ImageNet weights that cannot be
# downloaded, should not come to light after an hour of decoding, so `starting_network` is asked for early.

# %%
#| export
def starting_network(
    job: Job, # Settings and data
) -> nn.Module | None: # Initial, ImageNet or one's own weights; None where the dense network is there already and nothing else needs them
    "The network before any training. Raises: ValueError, FileNotFoundError or ConnectionError where the weights cannot be had."
    needed = job.settings.method != "dense" and needs_initial(form(job.settings))
    return None if is_complete(run_folder(dense_job(job))) and not needed else initial_network(job)

def initial_network(job: Job) -> nn.Module:
    "The network that training starts from"
    s = job.settings
    return build_model(s.network, sum(job.sizes), s.weights, s.seed, image_size=s.image_size)

def placed(model: nn.Module, device: str | torch.device) -> nn.Module:
    "The network on the device, in the memory order that training gives it: the order decides which kernels run, and so the last bits of every score"
    return model.to(device, memory_format=memory_order(model, device))


# %%
type(starting_network(job)).__name__, is_complete(run_folder(job))

# %%
try: starting_network(replace(job, settings=replace(tiny, weights=str(home / "none.safetensors"))))
except FileNotFoundError as e: print(str(e).replace(str(home), "…"))
else: raise AssertionError("missing weights were accepted")
assert not is_complete(run_folder(job))


# %% [markdown]
# ## The run folder
#
# Everything goes into plain formats: JSON, CSV, parquet and safetensors; no pickle. Predictions are kept for each test image, so that any other statistic can be computed later without the network.

# %%
#| export
@dataclass(frozen=True)
class Trained:
    "A network with its training history and its predictions on the test images"
    model: nn.Module
    history: list[dict]        # One row an epoch
    predictions: np.ndarray    # Class codes, shape `(test images, heads)`
    journal: Journal = field(default_factory=Journal) # How it came about, if it was trained here


# %%
zeros = np.zeros((len(images.rows["test"]), 1), int)
untrained = Trained(build_model("resnet10", 2), [], zeros)
untrained.predictions.shape

# %%
assert untrained.history == [] and untrained.predictions.shape == (16, 1)


# %%
#| export
def predictions_table(
    job: Job,            # Settings and data
    dense: np.ndarray,   # Classes predicted by the dense network, shape `(n, heads)`
    pruned: np.ndarray,  # Classes predicted by the pruned network, same shape
) -> pd.DataFrame:       # A row a test image: row, path, split, group, then label_, dense_ and pruned_ of each head
    "The test images with their labels and both networks' predictions, as class codes."
    test = (job.table["split"] == "test").to_numpy()
    table = pd.DataFrame(dict(row=job.table.index[test], path=job.table["path"][test].to_numpy(), split="test", group=np.array(job.group_names)[job.group[test]]))
    classes = (("label", job.labels[test]), ("dense", dense), ("pruned", pruned))
    return table.join(pd.DataFrame({f"{kind}_{head}": values[:, i] for kind, values in classes for i, head in enumerate(job.heads)}))


# %%
predictions_table(job, zeros, zeros).head(3)

# %%
assert list(predictions_table(job, zeros, zeros)) == ["row", "path", "split", "group", "label_shade", "dense_shade", "pruned_shade"]


# %%
#| export
def environment(
    device: str | torch.device = "cpu", # Where the run computed
) -> dict:                              # Versions, commit, hash of the code, threads, device, time
    "What a run ran on. Not part of its identity, but the first thing to compare when two machines differ."
    versions = {p: metadata.version(p) for p in ("fairgrape", "torch", "torchvision", "numpy", "numba", "pandas", "scikit-learn", "fairlearn")}
    return dict(versions=versions, python=platform.python_version(), platform=platform.platform(), processor=platform.machine(), commit=commit(), code=code_version(),
                threads=torch.get_num_threads(), device=str(device), gpu=torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
                finished=datetime.now(UTC).isoformat(timespec="seconds"))

def commit() -> str | None:
    "The checkout's commit, with + where files differ from it; None outside a checkout"
    git = lambda *args: subprocess.run(["git", *args], cwd=Path(fairgrape.__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    try: return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError): return None


# %%
{k: v for k, v in environment().items() if k in ("threads", "device", "python")}

# %%
assert environment()["threads"] == torch.get_num_threads() and environment()["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]

# %%
#| export
HISTORY = ["label", "stage", "epoch", "lr", "train_loss", "val_loss", "val_accuracy", "seconds", "kept"]   # of a training history, a row an epoch

def save_run(
    job: Job,                    # Settings and data
    dense: Trained,              # The network before pruning
    pruned: Trained,             # The network after it; for a dense run the same
    steps: list[Step],           # What each pruning step did
    layers: pd.DataFrame | None, # `weights`, `kept`, importance shares before and after; None for a dense run
    seconds: float,              # How long this process took; those of earlier ones are added
    device: str | torch.device = "cpu", # Where it computed
    processes: int = 1,          # How many processes shared it
) -> Path:                       # The run folder
    "Write a run's results; metrics.json comes last and says that the rest is there."
    folder, test = run_folder(job), (job.table["split"] == "test").to_numpy()
    folder.mkdir(parents=True, exist_ok=True)
    meant = {} if job.settings.method == "dense" else {k: getattr(form(job.settings), k) for k in ("steps", "scope")}
    write_json(folder / "settings.json", asdict(job.settings) | meant | dict(name=job.name, image_sizes=image_sizes(job), classes_used=job.heads, group_names=job.group_names))
    write_json(folder / "environment.json", environment(device) | dict(resumed=pruned.journal.resumed, processes=processes))
    pd.DataFrame(pruned.history, columns=HISTORY).to_csv(folder / "history.csv", index=False)
    pd.DataFrame([asdict(s) | dict(sparsity=s.sparsity) for s in steps]).to_csv(folder / "steps.csv", index=False)
    if layers is not None: layers.to_csv(folder / "layers.csv")
    predictions_table(job, dense.predictions, pruned.predictions).to_parquet(folder / "predictions.parquet", index=False)
    masks = get_masks(pruned.model)
    save_weights(plain_state(pruned.model), folder / "model.safetensors")
    save_weights({n: m.to(torch.uint8) for n, m in masks.items()}, folder / "masks.safetensors")
    if job.clusters is not None: save_clusters(job.clusters, folder / "clusters.safetensors")
    metrics = compare(job.labels[test], dense.predictions, pruned.predictions, job.group[test], job.heads, job.group_names, job.settings.bootstrap, job.settings.seed)
    for file in [f for f in folder.iterdir() if f.is_file()]: sync(file)
    write_json(folder / "metrics.json", metrics | dict(sparsity=sparsity(masks), steps=len(steps), seconds=pruned.journal.before + seconds, images={k: int(v) for k, v in job.table["split"].value_counts().items()}))
    pruned.journal.close()
    return folder


# %%
elsewhere = replace(dense_job(job), runs_root=home / "elsewhere")
kept = save_run(elsewhere, untrained, untrained, [], None, 0.)
sorted(f.name for f in kept.iterdir())

# %%
assert is_complete(kept) and kept.parent == home / "elsewhere" and not (kept / "layers.csv").exists()           # nothing was pruned, so there are no layers to tell of
assert json.loads((kept / "metrics.json").read_text())["disparities"]["rho"]["value"] == 0


# %% [markdown]
# ## Training it, once
#
# Hundreds of runs start from one dense network, and several of them may start at the same moment. The first takes the folder's lock and trains; the others wait, and then find it there. A training that was killed goes on from its last checkpoint ([11 checkpoints](11_checkpoints.ipynb)).

# %%
#| export
@contextmanager
def at_work(
    folder: Path,       # A run's folder
    team: Team = ALONE, # The processes that share the run; process 0 holds the lock for all
) -> Iterator[None]:
    "Within, nobody else computes this run; waits for one who does."
    held = folder.parent / ".locks" / f"{folder.name}.lock"
    with ExitStack() as stack:
        try:
            if team.main: stack.enter_context(lock(held, wait=False))
        except Busy:
            print(f"{folder.name} is being computed by another process: waiting for it", flush=True)
            stack.enter_context(lock(held))
        team.wait()
        yield


# %%
with at_work(home / "runs" / "example"): print(sorted(f.name for f in (home / "runs" / ".locks").iterdir()))

# %%
with at_work(home / "runs" / "example"):
    try:
        with lock(home / "runs" / ".locks" / "example.lock", wait=False): raise AssertionError("two at work on one run")
    except Busy as e: print(e)
class Second(Team):
    def wait(self): pass
with at_work(home / "runs" / "example"), at_work(home / "runs" / "example", Second(1, 2)): pass            # the second process of a team needs no lock


# %% [markdown]
# The journal as well is one for all: each process goes on from it, one writes it.

# %%
#| export
def journal_of(
    folder: Path,       # A run's folder
    total: int,         # Epochs of the whole run
    history: list[dict] | None = None, # Rows of what came before the run
    team: Team = ALONE, # The processes that share the run
) -> Journal:
    "The journal of a run: all processes read it, process 0 alone writes it."
    with team.main_first(): journal = open_journal(folder, total, history)
    team.wait()                                                            # nobody writes before all have read
    began = journal.facts.setdefault("processes", team.size)
    if began != team.size: warnings.warn(f"{folder.name} began with {began} processes and goes on with {team.size}: its last digits will be those of neither", stacklevel=2)
    return journal if team.main else replace(journal, folder=None)


# %%
journal_of(home / "runs" / "example", 3).folder.name, journal_of(home / "runs" / "example", 3, team=Second(1, 2)).folder

# %%
assert journal_of(home / "runs" / "example", 3).folder == home / "runs" / "example" and journal_of(home / "runs" / "example", 3, team=Second(1, 2)).folder is None
alone = journal_of(home / "runs" / "alone", 3); alone.write(nn.Linear(2, 2))
with warnings.catch_warnings(record=True) as said: journal_of(home / "runs" / "alone", 3, team=Second(1, 2))
print(said[0].message); assert "began with 1 processes and goes on with 2" in str(said[0].message)


# %%
#| export
def dense_network(
    job: Job,                           # Settings and data; its method does not matter
    images: Images,                     # The job's images
    device: str | torch.device = "cpu", # Where to train
    progress: bool = True,              # Show progress bars
    team: Team = ALONE,                 # The processes that share the run
) -> Trained:                           # The dense network of these settings
    "Load the dense network of these settings, or train it and keep it in a run folder of its own."
    dense, s = dense_job(job), job.settings
    with at_work(folder := run_folder(dense), team):
        if team.agree(is_complete(folder)): return _from_folder(job, folder, device)
        start, own = time.perf_counter(), s.weights not in ("none", "imagenet")
        plan = [] if own else stages(s.epochs, s.lrs)
        journal = journal_of(folder, sum(stage.epochs for stage in plan), team=team)
        model = journal.restore(placed(initial_network(job), device))
        if plan: fit(job, images, model, "dense", plan, journal, device, progress, team)
        trained = Trained(model, journal.history, test_classes(dense, images, model, device, team), journal)
        if team.main: save_run(dense, trained, trained, [], None, time.perf_counter() - start, device, team.size)
        team.wait()
        return trained

def fit(job: Job, images: Images, model: nn.Module, label: str, plan: list[Stage], journal: Journal, device, progress: bool, team: Team = ALONE):
    "Train as the settings say"
    s = job.settings
    train(model, images, plan, job.sizes, s.seed, label, s.batch, s.augment, s.precision, device, progress, journal.history, journal=journal,
          accumulate=s.accumulate, compiled=s.compiled, team=team)

def _from_folder(job: Job, folder: Path, device) -> Trained:
    "The dense network that lies in a run folder"
    model = plain_model(job.settings.network, sum(job.sizes), image_size=job.settings.image_size)
    model.load_state_dict(load_weights(folder / "model.safetensors"))
    table = pd.read_parquet(folder / "predictions.parquet")
    return Trained(placed(model, device), pd.read_csv(folder / "history.csv").to_dict("records"), table[[f"dense_{h}" for h in job.heads]].to_numpy())

def test_classes(job: Job, images: Images, model: nn.Module, device, team: Team = ALONE) -> np.ndarray:
    "Predicted classes of the test images, shape `(n, heads)`: the one place where the test part is touched"
    return predict_classes(predict(model, images, "test", job.sizes, precision=job.settings.precision, device=device, team=team), job.sizes).numpy()


# %%
dense = dense_network(job, images, progress=False)
[(row["label"], row["epoch"], round(row["val_accuracy"], 1)) for row in dense.history]

# %%
again = dense_network(job, images, progress=False)                                                             # from its folder
assert is_complete(run_folder(dense_job(job))) and (again.predictions == dense.predictions).all() and len(again.history) == 3
assert all(torch.equal(v, dense.model.state_dict()[k]) for k, v in again.model.state_dict().items())


# %% [markdown]
# ## What the importance sees
#
# The groups that are compared need not be those whose importance is kept. A method without groups sees everybody as one. A study may show the importance the images of one race only, or of all but one. And where nobody
# labelled groups, they can be clusters of the dense network's features, found once the dense network is there. Groups that then have no image are no groups.
#
# A cap on the importance's images is so many of each *compared* group, whatever groups the importance has: so FairGRAPE, the same without groups and the same with clusters see the same images.

# %%
#| export
def find_clusters(
    job: Job,                           # Settings and data
    images: Images,                     # The job's images
    model: nn.Module,                   # The dense network
    device: str | torch.device = "cpu", # Where to compute
    team: Team = ALONE,                 # The processes that share the run; process 0 finds them, the others read its file
) -> tuple[Job, Images]:                # The same, with `clusters`; where they are the groups compared, with new groups
    "Find the clusters if the settings ask for them. Raises: ValueError where a cluster has too few images."
    s = job.settings
    if "clusters" not in (s.groups, s.importance_groups): return job, images
    kept = run_folder(job) / "clusters.safetensors"
    with team.main_first():
        found = load_clusters(kept) if kept.is_file() else cluster_groups(model, images, s.clusters, s.seed, device, least=2 if s.groups == "clusters" else 0)
        if team.size > 1 and team.main and not kept.is_file(): save_clusters(found, kept)
    job = replace(job, clusters=found)
    if s.groups != "clusters": return job, images
    return replace(job, group=job.clusters.codes[job.table.index], group_names=list(job.clusters.names)), with_clusters(images, job.clusters)

def capped(rows: Tensor, group: Tensor, cap: int, seed: int) -> Tensor:
    "At most `cap` rows of each group, those that `group_batches` takes"
    order = lambda mine, g: mine[torch.randperm(len(mine), generator=torch.Generator().manual_seed(seed + g))][:cap]
    return torch.cat([order(rows[group[rows] == g], g) for g in group[rows].unique().tolist()]).sort().values

def importance_images(
    job: Job,       # Settings and data, with clusters where they are needed
    images: Images, # The job's images
) -> Images:        # With the groups and the training rows of the importance
    "The images as the importance sees them."
    s, index, rows = job.settings, torch.tensor(job.table.index.to_numpy(np.int64, copy=True)), images.rows["train"].cpu()
    group, names = images.groups.cpu().clone(), images.names
    if not form(s).groups: group, names = torch.zeros_like(group), ("everybody",)
    elif s.importance_groups == "clusters": group, names = torch.from_numpy(job.clusters.codes).clone(), job.clusters.names
    elif s.importance_groups:
        code, names = codes(job.table, s.importance_groups)
        group[index] = torch.from_numpy(code)
    if s.importance_on:
        seen = torch.zeros(len(group), dtype=torch.bool)
        seen[index] = torch.from_numpy(matching(job.table, s.importance_on))
        rows = rows[seen[rows]]
    if s.importance_cap and (not form(s).groups or s.importance_groups): rows = capped(rows, images.groups.cpu(), s.importance_cap, s.seed)
    there = group[rows].unique()
    group[rows] = torch.searchsorted(there, group[rows])
    move = lambda t: t.to(images.groups.device)
    return replace(images, groups=move(group), names=tuple(names[g] for g in there), rows=images.rows | dict(train=move(rows)))


# %%
red = importance_images(replace(job, settings=replace(tiny, importance_on="tint=red")), images)
both = importance_images(replace(job, settings=replace(tiny, method="importance")), images)
dict(red=(red.names, len(red.rows["train"])), importance=(both.names, len(both.rows["train"])))

# %%
assert red.names == ("red",) and set(red.groups[red.rows["train"]].tolist()) == {0} and both.names == ("everybody",)
assert len(red.rows["train"]) == int((images.groups[images.rows["train"]] == 1).sum()) and len(both.rows["train"]) == 128
shades = importance_images(replace(job, settings=replace(tiny, importance_groups="shade")), images)
assert shades.names == ("dark", "light") and torch.equal(shades.groups[shades.rows["train"]], images.labels[shades.rows["train"], 0])
few = dict(importance_cap=10, seed=3)
blind, shared = (importance_images(replace(job, settings=replace(tiny, method=m, **more, **few)), images) for m, more in (("importance", {}), ("fairgrape", dict(importance_groups="shade"))))
fair = group_batches(images, "train", 64, 10, 3)
assert sorted(torch.cat([part for _, part in fair.parts]).tolist()) == blind.rows["train"].tolist() == shared.rows["train"].tolist() and len(blind.rows["train"]) == 20
assert find_clusters(job, images, None) == (job, images)                                                # nobody asked for clusters

# %% [markdown]
# A method says which batches its score wants: all training images, cut by group; one batch (SNIP); one batch with equally many images of each class (GraSP). The public
# code's importance goes over mixed, augmented batches, another order each time.

# %%
#| export
LARGEST = 256   # A class-balanced batch larger than this is cut: it is differentiated twice

class Mixed:
    "Mixed, augmented batches of the training images, in another order at each pass; yields (x, y, group codes)"
    def __init__(self, images: Images, batch: int, augment: str, seed: int, device="cpu"):
        self.images, self.batch, self.seed, self.device, self.passes = images, batch, seed, device, 0
        self.augment = None if augment == "none" else augmentation(augment, images.pixels.shape[-1])

    def __len__(self): return -(-len(self.images.rows["train"]) // self.batch)

    def __iter__(self):
        self.passes += 1
        with seeded(seed_of(self.seed, "importance", self.passes), self.device) as generator:
            yield from (b for b in batches(self.images, "train", self.batch, generator, self.augment, self.device) if len(b[0]) > 1)     # as in training: batch norm cannot take one

def score_batches(
    job: Job,                           # Settings and data
    images: Images,                     # From `importance_images`
    device: str | torch.device = "cpu", # Where the batches go
):                                      # Something to go over as often as there are steps; yields (x, y, group)
    "The batches that the method's score wants."
    s, how, rows = job.settings, form(job.settings), images.rows["train"].cpu()
    if how.mixed: return Mixed(images, s.batch, s.augment, s.seed, device)
    if how.batches == "all": return group_batches(images, "train", s.importance_batch, s.importance_cap if how.groups and not s.importance_groups else 0, s.seed, device)
    if how.batches == "one": parts = [rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(s.seed))[:s.batch]]]
    else:
        rows = rows[balanced_rows(images.labels[rows.to(images.labels.device)], seed=s.seed)]
        parts = rows.tensor_split(-(-len(rows) // LARGEST))
    return [(*get_batch(images, part, None, device)[:2], 0) for part in parts]


# %%
#| export
class Shown:
    "Batches with a progress bar; where several processes divide them, each shows its own"
    def __init__(self, batches: Iterable, progress: bool): self.batches, self.progress = batches, progress
    def __len__(self): return len(self.batches)
    def __iter__(self): return iter(self._bar(self.batches, len(self)))
    def take(self, numbers: Sequence[int]): return self._bar(self.batches.take(numbers), len(numbers))
    def _bar(self, some, total): return tqdm(some, "importance", total, leave=False, disable=not self.progress)


# %%
[g for _, _, g in Shown(score_batches(job, images), progress=False)]

# %%
shown = Shown(score_batches(job, images), progress=False)
assert len(shown) == len(list(shown)) == 3 and [g for _, _, g in shown.take(range(0, 3, 2))] == [0, 1]      # what the first of two processes takes

# %%
(x, y, g), = score_batches(replace(job, settings=replace(tiny, method="grasp")), images)
x.shape, y.flatten().bincount()

# %%
assert x.shape == (20, 3, 16, 16) and y.flatten().bincount().tolist() == [10, 10] and g == 0                     # ten of each class
assert [len(x) for x, _, _ in score_batches(replace(job, settings=replace(tiny, method="snip")), images)] == [16] # one batch of the training's size
assert [g for _, _, g in score_batches(replace(job, settings=replace(tiny, importance_batch=64)), images)] == [0, 0, 1]
mixed = Mixed(images, 16, "none", 0)
orders = [torch.cat([g for _, _, g in mixed]).tolist() for _ in range(2)]
assert len(mixed) == 8 and orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


# %% [markdown]
# ## Pruning
#
# This only ties the seams together: where the method starts, its score over its batches, its selector, what happens after each step, and the full schedule at the end. FairGRAPE trains a little after each step. The lottery
# goes back to the weights before training and trains again, in full; after its last step the final training is that. SNIP and GraSP prune weights that were never trained, so there is nothing to train between.

# %%
#| export
def between_steps(
    job: Job,       # Settings and data
    model: nn.Module, # The network as it is before pruning
    fit: Callable,  # (network, label, stages): trains
    journal: Journal | None = None, # What an earlier process did
) -> Callable | None: # (network, step): what to do after each step; None: nothing
    "What happens after a pruning step."
    journal = journal or Journal()
    s, how, plan = job.settings, form(job.settings), step_plan(job.settings)
    if not plan: return None
    last = len(schedule(s.rate, s.keep if how.steps == "iterative" else None))
    back = {k: v.clone() for k, v in plain_state(model if how.rewind_to == "trained" else initial_network(job)).items()} if how.rewind else None
    def after(net, i):
        if back is not None and not journal.begun(f"step {i}"): rewind(net, back)
        if back is None or i < last: fit(net, f"step {i}", plan)
    return after

def step_plan(s: Settings) -> list[Stage]:
    "How long is trained after a pruning step; empty: not at all"
    how = form(s)
    if how.start == "initial" or not (how.steps == "iterative" or how.rewind): return []
    if how.rounds == "full": return stages(s.epochs, s.lrs)
    return stages(s.retrain_epochs, s.lrs.split(",")[0] if how.rewind_to == "initial" and how.rewind else s.retrain_lr)

def epochs_of(s: Settings) -> int:
    "Epochs of a run, those of its dense network not counted"
    full = sum(stage.epochs for stage in stages(s.epochs, s.lrs))
    if s.method == "dense": return full
    steps = len(schedule(s.rate, s.keep if form(s).steps == "iterative" else None)) - form(s).rewind
    return full + steps * sum(stage.epochs for stage in step_plan(s))


# %%
said = []
lottery = replace(job, settings=replace(tiny, method="lottery"))
after = between_steps(lottery, again.model, lambda net, label, plan: said.append((label, sum(stage.epochs for stage in plan))))
for step in (1, 2, 3, 4): after(again.model, step)
said

# %% [markdown]
# Four steps to 0.9, and three trainings by the full schedule of three epochs: after the fourth the final training is the round. The weights are the initial ones again.

# %%
assert said == [("step 1", 3), ("step 2", 3), ("step 3", 3)] and between_steps(replace(job, settings=replace(tiny, method="ws")), dense.model, None) is None
assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in initial_network(job).state_dict().items())


# %%
#| export
def prune_network(
    job: Job,                             # Settings and data
    images: Images,                       # The job's images
    dense: Trained,                       # The network to start from; pruned in place
    device: str | torch.device = "cpu",   # Where to train
    progress: bool = True,                # Show progress bars
    on_step: Callable[[Step], None] | None = print, # Told about each pruning step
    keep_on: str = "auto",                # Where the importance lies: auto, device, host, or a folder
    team: Team = ALONE,                   # The processes that share the run
) -> tuple[Trained, list[Step]]:          # The pruned network, and what each step did
    "Prune and retrain as the settings say. Source: paper, Algorithm 1 and section 4."
    s, how, trained = job.settings, form(job.settings), form(job.settings).start == "trained"
    model = dense.model if trained else placed(initial_network(job), device)
    journal = journal_of(run_folder(job), epochs_of(s), dense.history if trained else [], team)
    seen = importance_images(job, images)
    found, more = score_batches(job, seen, device), dict(team=team, keep_on=keep_on) if how.score in SHARED else {}
    autocast = torch.bfloat16 if s.precision == "bf16" else None
    if how.mixed: found.passes = len(journal.steps) + (journal.selected is not None)      # one pass a step, each in another order
    def loss(out, y): return task_loss(out, y, job.sizes)
    def score(net):
        with memory_errors("the importance", f"lower importance_batch (now {s.importance_batch}) or image_size, or set keep_on = 'host' (now {keep_on!r})"):
            return how.score(net, Shown(found, progress), loss, len(seen.names), autocast=autocast, seed=s.seed, **more)
    def trains(net, label, plan): fit(job, images, net, label, plan, journal, device, progress, team)
    after = between_steps(job, model, trains, journal)                       # before the network is brought to where it was: a lottery may go back to these weights
    steps = prune(journal.restore(model), s.rate, score, how.select, s.keep if how.steps == "iterative" else None, how.scope, after, **note_steps(journal, model, on_step))
    trains(model, "final", stages(s.epochs, s.lrs))
    return Trained(model, journal.history, test_classes(job, images, model, device, team), journal), steps

def note_steps(journal: Journal, model: nn.Module, on_step: Callable | None) -> dict:
    "What `prune` is told of earlier steps, and whom it tells of new ones"
    def selected(step):
        journal.selected = asdict(step)
        journal.write(model, f"step {step.step}: masks are set")
    def finished(step):
        journal.steps.append(asdict(step)); journal.selected = None
        if on_step is not None: on_step(step)
    return dict(done=[Step(**step) for step in (*journal.steps, *filter(None, [journal.selected]))], on_select=selected, on_step=finished)


# %%
snip, steps = prune_network(replace(job, settings=replace(tiny, method="snip")), images, dense, progress=False)
{row["label"] for row in snip.history}, len(steps)

# %%
assert {row["label"] for row in snip.history} == {"final"}                          # nothing of the dense network's training went into it
assert abs(1 - sum(int(m.sum()) for m in get_masks(snip.model).values()) / steps[0].total - 0.9) < 1e-4
assert all(m.all() for m in get_masks(dense.model).values())


# %% [markdown]
# What the weights that stay are important for, layer by layer: each group's share of the importance before and after. It is an illustration, so a sample will do: at most 256 images of each group.

# %%
#| export
def share_table(
    job: Job,                           # Settings and data
    images: Images,                     # The job's images
    model: nn.Module,                   # Dense or pruned
    device: str | torch.device = "cpu", # Where to compute
    cap: int = 256,                     # Most images of a group
    keep_on: str = "auto",              # Where the importance lies: auto, device, host, or a folder
    team: Team = ALONE,                 # The processes that share the run
) -> pd.DataFrame:                      # Index layer; `weights`, `kept`, and each group's share of the importance (0 to 1)
    "Weights, weights kept and importance shares of each layer."
    size, loss = min(64, job.settings.importance_batch), lambda out, y: task_loss(out, y, job.sizes)
    with memory_errors("the table of importance shares", f"lower importance_batch (now {size}) or image_size, or set keep_on = 'host' (now {keep_on!r})"):
        importance = group_importance(model, group_batches(images, "train", size, cap, 0, device), loss, job.G, team=team, keep_on=keep_on)
    rows = {n: dict(weights=m.numel(), kept=int(m.sum())) | dict(zip(job.group_names, target_share(importance[n].cpu()).tolist())) for n, m in get_masks(model).items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")


# %%
share_table(job, images, build_model("resnet10", 2)).head(3)

# %%
shares = share_table(job, images, build_model("resnet10", 2))
assert np.allclose(shares[["blue", "red"]].sum(axis=1), 1) and (shares["kept"] == shares["weights"]).all()


# %% [markdown]
# ## One run
#
# The notebook that papermill runs takes these steps one by one and shows what each gives; as a function they are these lines.

# %%
#| export
def layer_table(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    "`weights` and `kept` of each layer, and the groups' importance shares before (`before:…`) and after (`after:…`)"
    shares = lambda table, when: table.drop(columns=["weights", "kept"]).add_prefix(f"{when}:")
    return after[["weights", "kept"]].join([shares(before, "before"), shares(after, "after")])

def run(
    settings: Settings,     # What to run
    device: str = "",       # Empty: CUDA where there is one
    threads: int = 0,       # CPU threads; 0: as they are
    progress: bool = True,  # Show progress
    keep_on: str = "auto",  # Where the importance lies: auto, device, host, or a folder
    **places,               # data_root, runs_root, cache_root, name: see `prepare`
) -> Path:                  # The run folder
    "Run one experiment, unless its folder is there already; started by `accelerate launch`, together with the other processes."
    team, start = team_of(device), time.perf_counter()
    where, progress = set_up(device if team.size == 1 else str(team.device), threads), progress and team.main
    with team.main_first(): job = prepare(settings, progress=progress, **places)
    check_images(job)
    if team.agree(is_complete(run_folder(job))): return run_folder(job)
    with team.main_first(): starting_network(job)
    with team.main_first(): images = images_of(job, where, progress)
    dense = dense_network(job, images, where, progress, team)
    if settings.method == "dense": return run_folder(job)
    job, images = find_clusters(job, images, dense.model, where, team)
    with at_work(run_folder(job), team):
        if team.agree(is_complete(run_folder(job))): return run_folder(job)
        before = share_table(job, images, dense.model, where, keep_on=keep_on, team=team)
        pruned, steps = prune_network(job, images, dense, where, progress, print if progress else None, keep_on, team)
        layers = layer_table(before, share_table(job, images, pruned.model, where, keep_on=keep_on, team=team))
        if team.main: save_run(job, dense, pruned, steps, layers, time.perf_counter() - start, where, team.size)
        team.wait()
    return run_folder(job)

def set_up(device: str = "", threads: int = 0) -> torch.device:
    "Choose the device and the number of threads, and ask for deterministic kernels"
    if threads: torch.set_num_threads(int(threads))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    return device_of(device)


# %%
folder = run(tiny, **places)
sorted(f.name for f in folder.iterdir())

# %%
assert is_complete(folder) and {f.name for f in folder.iterdir()} == {"settings.json", "environment.json", "metrics.json", "history.csv", "steps.csv", "layers.csv",
                                                                     "predictions.parquet", "model.safetensors", "masks.safetensors"}
metrics = json.loads((folder / "metrics.json").read_text())
print(f"{metrics['accuracy_dense']:.1f} % dense, {metrics['accuracy_pruned']:.1f} % at sparsity {metrics['sparsity']:.3f}")
assert abs(metrics["sparsity"] - 0.9) < 1e-3 and metrics["steps"] == 4
masks, state = load_weights(folder / "masks.safetensors"), load_weights(folder / "model.safetensors")
assert all((state[f"{n}.weight"][m == 0] == 0).all() for n, m in masks.items())
build_model("resnet10", 2).load_state_dict(state, strict=True)

# %% [markdown]
# Asked again, it does nothing; WS finds the dense network there and goes on from it.

# %%
before = (folder / "metrics.json").stat().st_mtime_ns
assert run(tiny, **places) == folder and (folder / "metrics.json").stat().st_mtime_ns == before
dense_folder = run_folder(dense_job(job))
before = (dense_folder / "metrics.json").stat().st_mtime_ns
ws = run(replace(tiny, method="ws", scope="global"), **places)
assert (dense_folder / "metrics.json").stat().st_mtime_ns == before
print(ws.name.rsplit("-", 1)[0], "| steps:", pd.read_csv(ws / "steps.csv")["kept"].tolist())
assert len(pd.read_csv(ws / "steps.csv")) == 1

# %% [markdown]
# And one's own dense network, from its file: it is not trained, so the dense accuracy is that of the file, and there is no `dense` row in the history.

# %%
mine = run(replace(tiny, method="ws", weights=str(dense_folder / "model.safetensors")), **places)
theirs, ours = (json.loads((f / "metrics.json").read_text())["accuracy_dense"] for f in (dense_folder, mine))
set(pd.read_csv(mine / "history.csv")["label"])

# %%
assert theirs == ours and set(pd.read_csv(mine / "history.csv")["label"]) == {"final"}


# %% [markdown]
# ## On several GPUs
#
# `accelerate launch --multi_gpu --num_processes 8 -m fairgrape.experiment --dataset fairface …` runs one experiment on eight GPUs; the same settings as options, the same run folder at the end. A notebook does it with `run_together`, waits, and shows what the folder holds. Process 0
# alone writes; all read the labels, train their part of each batch, measure their share of the importance's and the evaluation's batches, and choose the same masks.

# %%
#| export
def main(
    arguments: Sequence[str], # --SETTING VALUE …, settings and places
) -> Path:                    # The run folder
    "One experiment from the command line, as one of the processes that share it."
    wrong = [a for a in arguments[::2] if not a.startswith("--")]
    if wrong or len(arguments) % 2: raise ValueError(f"{(wrong or arguments[-1:])[0]!r}: write --setting value, as in --dataset utkface --rate 0.9")
    settings, places = from_parameters({a.removeprefix("--"): v for a, v in zip(arguments[::2], arguments[1::2])})
    places.pop("processes", None)                                          # accelerate says how many there are
    return run(settings, **places | ({"threads": int(places["threads"])} if "threads" in places else {}))


# %%
told = asdict(replace(tiny, method="ws", scope="global")) | dict(runs_root=home / "runs", progress=False)
told = [part for k, v in told.items() for part in (f"--{k}", str(v))]
" ".join(told[:8]).replace(str(home), "…"), main(told).name

# %%
assert main(told) == ws
for wrong in (["dataset", "utkface"], ["--dataset"], ["--datasets", "utkface"]):
    try: main(wrong)
    except ValueError as e: print(str(e)[:110])
    else: raise AssertionError(f"{wrong} was accepted")


# %%
#| export
def run_together(
    processes: int,     # How many, 2 or more; on GPUs each has its own
    settings: Settings, # What to run
    threads: int = 0,   # CPU threads of all together; 0: all cores
    **places,           # device, keep_on, data_root, runs_root, cache_root, name
) -> Path:              # The run folder
    "Run one experiment on several processes and wait for it. Raises: RuntimeError with the end of what they said."
    job = prepare(settings, **{k: v for k, v in places.items() if k in ("data_root", "runs_root", "cache_root", "name")}, progress=False)
    each = max(1, int(threads) // processes) if threads else 0
    given = asdict(settings) | places | dict(progress=False) | (dict(threads=each) if each else {})
    log = job.runs_root / ".logs" / f"{run_folder(job).name}.processes.log"
    log.parent.mkdir(exist_ok=True)
    launch("fairgrape.experiment", [part for k, v in given.items() for part in (f"--{k}", str(v))], processes, log, each)
    return run_folder(job)

if __name__ == "__main__" and getattr(globals().get("__spec__"), "name", "") == "fairgrape.experiment": main(sys.argv[1:])

# %%
roots = {k: v for k, v in places.items() if k.endswith("_root")}
with patch(f"{run_together.__module__}.launch") as launched: there = run_together(2, tiny, threads=4, **roots)
module, arguments, number, log, threads = launched.call_args.args
there == folder, module, " ".join(arguments[:4]).replace(str(home), "…"), number, threads, log.name

# %%
assert there == folder and module == "fairgrape.experiment" and (number, threads) == (2, 2)
assert main(arguments) == folder                                           # what the processes are told means this run, which is there already

# %%
assert layer_table(shares, shares).columns.tolist() == ["weights", "kept", "before:blue", "before:red", "after:blue", "after:red"]
assert set_up("cpu") == torch.device("cpu")
