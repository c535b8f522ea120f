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
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

import fairgrape
from fairgrape.baselines import METHODS, method
from fairgrape.cache import Images, group_batches, image_cache, make_images
from fairgrape.data import FaceData, check_cells, codes, keep_classes, limit_table, split_table
from fairgrape.evaluation import check_groups, compare
from fairgrape.importance import group_importance
from fairgrape.masks import get_masks, plain_state, sparsity
from fairgrape.models import NETWORKS, build_model, load_weights, plain_model, predict_classes, save_weights, task_loss
from fairgrape.pruning import Step, prune, schedule
from fairgrape.readers import read_dataset
from fairgrape.selection import SCOPES, target_share
from fairgrape.settings import root
from fairgrape.training import PRECISIONS, stages, train, predict

# %%
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
    dataset: str = "fairface"         # synthetic, utkface, fairface or folder (one's own)
    data_path: str = ""               # Archive or folder of the set; empty: looked for under the data root
    task: str = "race"                # Label column to predict; "race*gender" crosses two, "race+gender" has a head for each
    groups: str = "race"              # Label column whose groups are compared; "race*gender" crosses two
    classes: str = ""                 # Classes to keep, as "race=White,Black;gender=Male"; empty: the set's usual ones
    split: str = "photo"              # photo: 80/10/10 by photograph, always seed 42; official: the set's own
    limit: int = 0                    # Use only so many images, drawn at random (seed 42); 0: all
    network: str = "resnet34"         # resnet34, resnet18, mobilenet_v2 or the small resnet10
    weights: str = "imagenet"         # imagenet, none, or the path of a dense network's weights, which is then taken as it is
    image_size: int = 224             # Side of the square images, pixels
    method: str = "fairgrape"         # dense (no pruning), fairgrape or ws
    rate: float = 0.99                # Pruning rate, the fraction of weights removed
    keep: float = 0.9                 # Fraction kept at each pruning step (iterative methods)
    scope: str = "layer"              # layer: the same rate in every layer; global: one budget for all
    epochs: str = "13,3,3"            # Epochs of each training stage, dense and after pruning
    lrs: str = "1e-4,1e-5,1e-6"       # Adam's learning rate in each stage
    retrain_epochs: int = 3           # Epochs after each pruning step
    retrain_lr: float = 1e-5          # Learning rate after each pruning step
    batch: int = 64                   # Images in a training batch
    importance_batch: int = 64        # Most images of one group in an importance batch
    importance_cap: int = 0           # Most images of a group that are used for the importance; 0: all
    augment: str = "paper"            # paper, flip or none
    precision: str = "fp32"           # fp32, bf16 or fp16 (importance then in fp32)
    seed: int = 0                     # Initial weights, order of images, augmentation; not the split
    bootstrap: int = 2000             # Resamples for the intervals

    def __post_init__(self): check_settings(self)


# %% [markdown]
# Settings arrive from notebooks, shells and YAML, so they are checked where they are made: each mistake is named with its setting and what would be right, long before an image is read. A number may come as text.

# %%
#| export
CHOICES = dict(network=tuple(NETWORKS), method=("dense", *METHODS), scope=SCOPES, split=("photo", "official"), augment=("paper", "flip", "none"), precision=tuple(PRECISIONS))
LEAST = dict(image_size=16, batch=2, importance_batch=1, importance_cap=0, limit=0, retrain_epochs=1, retrain_lr=0, bootstrap=100, seed=0)

def check_settings(s: Settings):
    "Bring numbers into their type; raise ValueError or TypeError for a setting that cannot be"
    for f in fields(s):
        given = getattr(s, f.name)
        try: value = f.type(given)
        except (TypeError, ValueError): value = None
        if value is None or (f.type is int and float(given) != value): raise TypeError(f"{f.name} = {given!r}: it must be {f.type.__name__}")
        object.__setattr__(s, f.name, value)
    for name, choices in CHOICES.items():
        if getattr(s, name) not in choices: raise ValueError(f"{name} = {getattr(s, name)!r}: choose one of {', '.join(choices)}")
    for name, least in LEAST.items():
        if not getattr(s, name) >= least: raise ValueError(f"{name} = {getattr(s, name)}: it must be at least {least}")
    schedule(s.rate, s.keep)
    stages(s.epochs, s.lrs), stages(s.retrain_epochs, s.retrain_lr)


# %%
Settings(method="ws", rate="0.9", image_size=64)

# %%
assert Settings(rate="0.9").rate == 0.9 and Settings(seed="3").seed == 3
for bad in (dict(method="grape"), dict(network="vgg16"), dict(scope="all"), dict(rate=1.0), dict(rate=0), dict(keep=1), dict(keep=0.0), dict(image_size=8),
            dict(epochs="13,3"), dict(retrain_epochs=0), dict(batch="many"), dict(seed=1.5), dict(rate=[0.9, 0.99]), dict(augment="mixup"), dict(precision="int8"), dict(split="random")):
    try: Settings(**bad)
    except (ValueError, TypeError) as e: print(e)
    else: raise AssertionError(f"{bad} was accepted")

# %% [markdown]
# A parameter that is misspelt must not be dropped silently, which is what papermill would do. `from_parameters` takes whatever the notebook's namespace holds after papermill's cell and refuses names that it does not know.

# %%
#| export
PLACES = ("name", "data_root", "runs_root", "cache_root", "device", "threads", "progress")   # where and how, not what: they do not change the result
KNOWN = tuple(f.name for f in fields(Settings)) + PLACES

def from_parameters(
    names: Mapping,      # A notebook's `globals()`, or a dictionary of parameters
    ignore: tuple = ("In", "Out", "exit", "quit", "open", "get_ipython"), # What IPython itself puts there
) -> tuple[Settings, dict]: # The settings, and the places (name, data_root, runs_root, cache_root, device, threads, progress)
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
# Some settings do not touch some methods: WS has no steps, the dense network no rate. They are left out of what identifies a run, so that one dense network serves all runs that start from it.

# %%
#| export
ITERATIVE = ("keep", "retrain_epochs", "retrain_lr", "importance_batch", "importance_cap")

def identity(
    settings: Settings,   # A run's settings
) -> dict:                # Those that change its result
    "The settings that matter to this method. `data_path` is left out: the data speak for themselves."
    out = ("data_path",) + (ITERATIVE if settings.method == "dense" or method(settings.method).steps == "one shot" else ())
    out += ("rate", "scope") if settings.method == "dense" else ()
    return {k: v for k, v in asdict(settings).items() if k not in out}


# %%
[k for k in asdict(Settings()) if k not in identity(Settings(method="dense"))]

# %%
assert identity(Settings(method="ws", keep=0.5)) == identity(Settings(method="ws", keep=0.9))
assert identity(Settings(keep=0.5)) != identity(Settings(keep=0.9)) and "rate" in identity(Settings())


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
    data = read_dataset(settings.dataset, settings.data_path or None, root("data", data_root), progress=progress)
    table = limit_table(_classes(data, settings), settings.limit)
    specs = settings.task.split("+")
    heads = {spec: codes(table, spec) for spec in specs}
    group, names = codes(table, settings.groups)
    table = table.assign(split=split_table(table, settings.split))
    check_cells(table, table["split"], settings.groups)
    check_groups(group[table["split"] == "test"], names)
    _check_heads({spec: n for spec, (_, n) in heads.items()}, settings)
    return Job(settings, data, table, {spec: n for spec, (_, n) in heads.items()}, np.stack([c for c, _ in heads.values()], 1),
               group, names, writable(root("runs", runs_root)), root("cache", cache_root), name)

def _classes(data: FaceData, settings: Settings) -> pd.DataFrame:
    "The table without the classes that the settings, or the set's custom, leave out of the columns in use"
    used = set("*".join([*settings.task.split("+"), settings.groups]).split("*"))
    keep = {c: v for c, v in data.notes.get("classes", {}).items() if c in used}
    for part in filter(None, settings.classes.split(";")):
        column, _, names = part.partition("=")
        if not names: raise ValueError(f"classes = {settings.classes!r}: write it as column=class,class;column=class,class")
        keep[column.strip()] = [n.strip() for n in names.split(",")]
    table = data.table
    for column, names in keep.items(): table = keep_classes(table, column, names)
    return table

def _check_heads(heads: dict, settings: Settings):
    for task, names in heads.items():
        if len(names) < 2: raise ValueError(f"task {task!r} has only the class {names}: a classifier needs two or more (classes = {settings.classes!r})")

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
                   (dict(classes="tint=red"), {}), (dict(classes="shade=dark"), {}), (dict(data_path=str(home / "none")), {}), ({}, dict(runs_root=home / "file"))):
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
    digest.update(job.table.to_csv(index=False).encode() + (job.data.key.encode() if job.data.root is None else b""))
    digest.update(json.dumps([job.heads, job.group_names]).encode())
    if Path(job.settings.weights).is_file(): digest.update(Path(job.settings.weights).read_bytes())
    return digest.hexdigest()

def run_folder(job: Job) -> Path:
    "The folder of this run: a readable name and the first 8 digits of its fingerprint"
    s = job.settings
    what = [s.dataset, s.task.replace("*", "x"), s.network, s.method] + ([] if s.method == "dense" else [f"{s.rate:g}", s.scope]) + [f"s{s.seed}"]
    return job.runs_root / f"{job.name or '-'.join(what)}-{fingerprint(job)[:8]}"

def dense_job(job: Job) -> Job:
    "The job that trains the dense network this one starts from"
    return replace(job, settings=replace(job.settings, method="dense"), name="")


# %%
run_folder(job).name, run_folder(dense_job(job)).name

# %%
assert run_folder(prepare(replace(tiny, seed=1), **places)) != run_folder(job) == run_folder(prepare(tiny, **places))
assert run_folder(dense_job(job)) == run_folder(dense_job(prepare(replace(tiny, rate=0.5), **places)))


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
    images = make_images(pixels, job.table, job.table["split"], list(job.heads), job.settings.groups)
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
def is_complete(folder: Path) -> bool: return (folder / "metrics.json").is_file()

def starting_network(
    job: Job, # Settings and data
) -> nn.Module | None: # Initial, ImageNet or one's own weights; None where the dense network is there already
    "The network before any training. Raises: ValueError, FileNotFoundError or ConnectionError where the weights cannot be had."
    if is_complete(run_folder(dense_job(job))): return None
    return build_model(job.settings.network, sum(job.sizes), job.settings.weights, job.settings.seed)


# %%
type(starting_network(job)).__name__, is_complete(run_folder(job))

# %%
try: starting_network(replace(job, settings=replace(tiny, weights=str(home / "none.safetensors"))))
except FileNotFoundError as e: print(str(e).replace(str(home), "…"))
else: raise AssertionError("missing weights were accepted")
assert not is_complete(run_folder(job))


# %%
#| export
@dataclass(frozen=True)
class Trained:
    "A network with its training history and its predictions on the test images"
    model: nn.Module
    history: list[dict]        # One row an epoch
    predictions: np.ndarray    # Class codes, shape `(test images, heads)`


# %%
#| export
def dense_network(
    job: Job,                           # Settings and data; its method does not matter
    images: Images,                     # The job's images
    device: str | torch.device = "cpu", # Where to train
    progress: bool = True,              # Show progress bars
) -> Trained:                           # The dense network of these settings
    "Load the dense network of these settings, or train it and keep it in a run folder of its own."
    dense = dense_job(job)
    folder, s = run_folder(dense), job.settings
    model = starting_network(job)
    if model is None:
        model = plain_model(s.network, sum(job.sizes))
        model.load_state_dict(load_weights(folder / "model.safetensors"))
        table = pd.read_parquet(folder / "predictions.parquet")
        return Trained(model.to(device), pd.read_csv(folder / "history.csv").to_dict("records"), table[[f"dense_{h}" for h in job.heads]].to_numpy())
    start = time.perf_counter()
    own = s.weights not in ("none", "imagenet")
    history = [] if own else train(model, images, stages(s.epochs, s.lrs), job.sizes, s.seed, "dense", s.batch, s.augment, s.precision, device, progress)
    model.to(device)
    trained = Trained(model, history, test_classes(dense, images, model, device))
    save_run(dense, trained, trained, [], None, time.perf_counter() - start, device)
    return trained

def test_classes(job: Job, images: Images, model: nn.Module, device) -> np.ndarray:
    "Predicted classes of the test images, shape `(n, heads)`: the one place where the test part is touched"
    return predict_classes(predict(model, images, "test", job.sizes, precision=job.settings.precision, device=device), job.sizes).numpy()


# %% [markdown]
# `save_run` comes below; first the pruning itself, which only ties the seams together: the method's score over the group batches, its selector, short retraining after each step, and the full schedule at the end.

# %%
#| export
def prune_network(
    job: Job,                             # Settings and data
    images: Images,                       # The job's images
    dense: Trained,                       # The network to start from; pruned in place
    device: str | torch.device = "cpu",   # Where to train
    progress: bool = True,                # Show progress bars
    on_step: Callable[[Step], None] | None = print, # Told about each pruning step
) -> tuple[Trained, list[Step]]:          # The pruned network, and what each step did
    "Prune and retrain as the settings say. Source: paper, Algorithm 1 and section 4."
    s, history = job.settings, list(dense.history)
    how, model = method(s.method), dense.model
    batches = group_batches(images, "train", s.importance_batch, s.importance_cap, s.seed, device)
    def score(net): return how.score(net, tqdm(batches, "importance", leave=False, disable=not progress), lambda out, y: task_loss(out, y, job.sizes), job.G, autocast=torch.bfloat16 if s.precision == "bf16" else None)
    def fit(net, label, plan): train(net, images, plan, job.sizes, s.seed, label, s.batch, s.augment, s.precision, device, progress, history=history)
    iterative = how.steps == "iterative"
    steps = prune(model, s.rate, score, how.select, s.keep if iterative else None, s.scope, on_step=on_step,
                  retrain=(lambda net, i: fit(net, f"step {i}", stages(s.retrain_epochs, s.retrain_lr))) if iterative else None)
    fit(model, "final", stages(s.epochs, s.lrs))
    return Trained(model, history, test_classes(job, images, model, device)), steps


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
) -> pd.DataFrame:                      # Index layer; `weights`, `kept`, and each group's share of the importance (0 to 1)
    "Weights, weights kept and importance shares of each layer."
    importance = group_importance(model, group_batches(images, "train", 64, cap, 0, device), lambda out, y: task_loss(out, y, job.sizes), job.G)
    rows = {n: dict(weights=m.numel(), kept=int(m.sum())) | dict(zip(job.group_names, target_share(importance[n].cpu()).tolist())) for n, m in get_masks(model).items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")


# %%
share_table(job, images, build_model("resnet10", 2)).head(3)

# %%
shares = share_table(job, images, build_model("resnet10", 2))
assert np.allclose(shares[["blue", "red"]].sum(axis=1), 1) and (shares["kept"] == shares["weights"]).all()


# %% [markdown]
# ## The run folder
#
# Everything goes into plain formats: JSON, CSV, parquet and safetensors; no pickle. Predictions are kept for each test image, so that any other statistic can be computed later without the network.

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
    for kind, values in (("label", job.labels[test]), ("dense", dense), ("pruned", pruned)):
        for i, head in enumerate(job.heads): table[f"{kind}_{head}"] = values[:, i]
    return table


# %%
zeros = np.zeros((len(images.rows["test"]), 1), int)
predictions_table(job, zeros, zeros).head(3)

# %%
assert list(predictions_table(job, zeros, zeros)) == ["row", "path", "split", "group", "label_shade", "dense_shade", "pruned_shade"]


# %%
#| export
def environment(
    device: str | torch.device = "cpu", # Where the run computed
) -> dict:                              # Versions, commit, threads, device, time
    "What a run ran on. Not part of its identity, but the first thing to compare when two machines differ."
    versions = {p: metadata.version(p) for p in ("fairgrape", "torch", "torchvision", "numpy", "numba", "pandas", "scikit-learn", "fairlearn")}
    return dict(versions=versions, python=platform.python_version(), platform=platform.platform(), processor=platform.machine(), commit=commit(),
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
def write_json(
    path: Path, # Where to
    what: dict, # Plain values
) -> Path:      # The same path
    "Write JSON in one atomic step: the file is whole or not there."
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as f:
        json.dump(what, f, indent=1, ensure_ascii=False)
        f.flush(); os.fsync(f.fileno())
    part.replace(path)
    return path


# %%
print(write_json(home / "x.json", dict(rho=1.5)).read_text())

# %%
assert json.loads((home / "x.json").read_text()) == dict(rho=1.5) and not (home / "x.json.part").exists()

# %%
#| export
HISTORY = ["label", "stage", "epoch", "lr", "train_loss", "val_loss", "val_accuracy", "seconds", "kept"]   # of a training history, a row an epoch

def save_run(
    job: Job,                    # Settings and data
    dense: Trained,              # The network before pruning
    pruned: Trained,             # The network after it; for a dense run the same
    steps: list[Step],           # What each pruning step did
    layers: pd.DataFrame | None, # `weights`, `kept`, importance shares before and after; None for a dense run
    seconds: float,              # How long the run took
    device: str | torch.device = "cpu", # Where it computed
) -> Path:                       # The run folder
    "Write a run's results; metrics.json comes last and says that the rest is there."
    folder, test = run_folder(job), (job.table["split"] == "test").to_numpy()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "settings.json", asdict(job.settings) | dict(name=job.name, classes_used=job.heads, group_names=job.group_names))
    write_json(folder / "environment.json", environment(device))
    pd.DataFrame(pruned.history, columns=HISTORY).to_csv(folder / "history.csv", index=False)
    pd.DataFrame([asdict(s) | dict(sparsity=s.sparsity) for s in steps]).to_csv(folder / "steps.csv", index=False)
    if layers is not None: layers.to_csv(folder / "layers.csv")
    predictions_table(job, dense.predictions, pruned.predictions).to_parquet(folder / "predictions.parquet", index=False)
    masks = get_masks(pruned.model)
    save_weights(plain_state(pruned.model), folder / "model.safetensors")
    save_weights({n: m.to(torch.uint8) for n, m in masks.items()}, folder / "masks.safetensors")
    metrics = compare(job.labels[test], dense.predictions, pruned.predictions, job.group[test], job.heads, job.group_names, job.settings.bootstrap, job.settings.seed)
    write_json(folder / "metrics.json", metrics | dict(sparsity=sparsity(masks), steps=len(steps), seconds=seconds, images={k: int(v) for k, v in job.table["split"].value_counts().items()}))
    return folder


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
    **places,               # data_root, runs_root, cache_root, name: see `prepare`
) -> Path:                  # The run folder
    "Run one experiment, unless its folder is there already."
    where = set_up(device, threads)
    job, start = prepare(settings, progress=progress, **places), time.perf_counter()
    if is_complete(run_folder(job)): return run_folder(job)
    starting_network(job)
    images = images_of(job, where, progress)
    dense = dense_network(job, images, where, progress)
    if settings.method == "dense": return run_folder(job)
    before = share_table(job, images, dense.model, where)
    pruned, steps = prune_network(job, images, dense, where, progress, print if progress else None)
    layers = layer_table(before, share_table(job, images, pruned.model, where))
    return save_run(job, dense, pruned, steps, layers, time.perf_counter() - start, where)

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

# %%
assert layer_table(shares, shares).columns.tolist() == ["weights", "kept", "before:blue", "before:red", "after:blue", "after:red"]
assert set_up("cpu") == torch.device("cpu")
