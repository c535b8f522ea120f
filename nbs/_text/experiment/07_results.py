# %% [markdown]
# # Results
#
# > The files in a run's folder, in plain formats, and the lock for writing them

# %%
#| default_exp experiment.results

# %%
#| export
import importlib.metadata as metadata
import platform
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

import fairgrape
from fairgrape.experiment.clusters import save_clusters
from fairgrape.experiment.preparation import Job, image_sizes, run_folder
from fairgrape.experiment.settings import form
from fairgrape.judge.compare import compare
from fairgrape.method.masks import get_masks, plain_state, sparsity
from fairgrape.method.pruning import Step
from fairgrape.networks.weights import save_weights
from fairgrape.training.files import Busy, code_version, lock, sync, write_json
from fairgrape.training.journal import Journal, open_journal
from fairgrape.training.parallel import ALONE, Team

# %%
import json
import tempfile
from unittest.mock import patch

from PIL import Image

from fairgrape.experiment.clusters import Clusters, load_clusters
from fairgrape.experiment.preparation import dense_job, is_complete, prepare
from fairgrape.experiment.settings import Settings
from fairgrape.method.masks import apply_masks
from fairgrape.networks.models import build_model
from fairgrape.networks.weights import load_weights

# %% [markdown]
# All results are in plain formats: JSON, CSV, parquet and safetensors; no pickle. In ten years any tool can still read a run folder.
#
# The example is a tiny data set, 160 small images whose brightness is the task and whose tint is the group, 16 of them in the test part, and an untrained network that predicts "dark" for every image.

# %%
home = Path(tempfile.mkdtemp())
(home / "own").mkdir()
rows = [
    dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3])
    for i in range(160)
]
for row in rows:
    Image.new("RGB", (16, 16), (90, 0, 90)).save(home / "own" / row["file"])
pd.DataFrame(rows).to_csv(home / "own" / "labels.csv", index=False)
tiny = Settings(
    dataset="folder",
    data_path=str(home / "own"),
    task="shade",
    groups="tint",
    network="resnet10",
    weights="none",
    image_size=16,
    rate=0.9,
    keep=0.5,
    epochs="2,1",
    lrs="1e-3,1e-4",
    batch=16,
    augment="flip",
    bootstrap=200,
)
job = prepare(
    tiny, data_root=home, runs_root=home / "runs", cache_root=home / "cache", progress=False
)
job.group_names, run_folder(job).name


# %% [markdown]
# ## A network and its training

# %%
#| export
@dataclass(frozen=True)
class Trained:
    "A network with its training history and its predictions on the test images."

    model: nn.Module
    history: list[dict]  # One row per epoch
    predictions: np.ndarray  # Class codes, shape `(test images, heads)`
    journal: Journal = field(default_factory=Journal)  # Its journal, if it was trained here


# %%
all_dark = np.zeros((16, 1), int)
untrained = Trained(build_model("resnet10", 2), [], all_dark)
print(type(untrained.model).__name__, untrained.predictions.shape)
assert (
    untrained.history == []
    and untrained.journal.resumed == 0
    and untrained.journal is not Trained(None, [], all_dark).journal
)


# %% [markdown]
# ## Predictions
#
# The predictions are stored for each test image, so other statistics can be computed later without the network. A head that predicts `shade` has the columns `label_shade`, `dense_shade` and `pruned_shade`.

# %%
#| export
def _predictions_table(
    job: Job,  # Settings and data
    dense: np.ndarray,  # Classes predicted by the dense network, shape `(n, heads)`
    pruned: np.ndarray,  # Classes predicted by the pruned network, same shape
    # One row per test image: row, path, split, group, `person` or else `photo` where test images
    # share one, then label_, dense_ and pruned_ of each head
) -> pd.DataFrame:
    "The test images with their labels and both networks' predictions, as class codes."
    test = (job.table["split"] == "test").to_numpy()
    table = pd.DataFrame(
        dict(
            row=job.table.index[test],
            path=job.table["path"][test].to_numpy(),
            split="test",
            group=np.array(job.group_names)[job.group[test]],
        )
    )
    for unit in ("person", "photo"):
        if unit in job.table and job.table[unit][test].duplicated().any():
            table[unit] = job.table[unit][test].astype(str).to_numpy()
            break
    classes = (("label", job.labels[test]), ("dense", dense), ("pruned", pruned))
    return table.join(
        pd.DataFrame(
            {
                f"{kind}_{head}": values[:, i]
                for kind, values in classes
                for i, head in enumerate(job.heads)
            }
        )
    )


# %%
predicted = _predictions_table(job, all_dark, 1 - all_dark)
predicted.head(3)

# %%
assert (
    list(predicted)
    == ["row", "path", "split", "group", "label_shade", "dense_shade", "pruned_shade"]
    and len(predicted) == 16
)
assert (
    (predicted["dense_shade"] == 0).all()
    and (predicted["pruned_shade"] == 1).all()
    and (job.table.loc[predicted["row"], "split"] == "test").all()
)
assert predicted["label_shade"].tolist() == [rows[i]["shade"] == "light" for i in predicted["row"]]
assert predicted["group"].tolist() == [rows[i]["tint"] for i in predicted["row"]]
pairs = replace(job, table=job.table.assign(person=np.arange(len(job.table)) // 2))
shared = _predictions_table(pairs, all_dark, 1 - all_dark)
assert (shared["person"] == (shared["row"] // 2).astype(str)).all()


# %% [markdown]
# ## The environment
#
# The environment is not part of a run's identity, but the first thing to compare when two machines disagree. The commit alone would hide uncommitted changes, so `+` marks them.

# %%
#| export
def commit() -> str | None:
    "The checkout's commit, with + if files differ from it; None outside a checkout."

    def git(*args):
        return subprocess.run(
            ["git", *args],
            cwd=Path(fairgrape.__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


# %%
def checkout(head, changed):
    "The result of `commit` for these outputs of git."
    answers = {"rev-parse": head, "status": changed}
    with patch(
        "subprocess.run",
        lambda command, **_: subprocess.CompletedProcess(command, 0, answers[command[1]] + "\n"),
    ):
        return commit()


print(checkout("1a2b3c", ""), checkout("1a2b3c", " M nbs/results.ipynb"))
assert (
    checkout("1a2b3c", "") == "1a2b3c" and checkout("1a2b3c", " M nbs/results.ipynb") == "1a2b3c+"
)
with patch("subprocess.run", side_effect=FileNotFoundError("git")):
    assert commit() is None


# %%
#| export
def environment(
    device: str | torch.device = "cpu",  # Where the run computed
) -> dict:  # Versions, commit, hash of the code, threads, device, time
    "The software and hardware of a run."
    versions = {
        p: metadata.version(p)
        for p in (
            "fairgrape",
            "torch",
            "torchvision",
            "numpy",
            "numba",
            "pandas",
            "scikit-learn",
            "fairlearn",
        )
    }
    return dict(
        versions=versions,
        python=platform.python_version(),
        platform=platform.platform(),
        processor=platform.machine(),
        commit=commit(),
        code=code_version(),
        threads=torch.get_num_threads(),
        device=str(device),
        gpu=torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


# %%
{k: v for k, v in environment().items() if k in ("threads", "device", "python")}

# %%
assert (
    environment()["threads"] == torch.get_num_threads()
    and environment()["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
)
assert (
    environment("cpu")["gpu"] is None
    and environment()["code"] == code_version()
    and environment()["finished"].endswith("+00:00")
)
with patch("torch.cuda.get_device_name", str):
    assert environment("cuda:1")["gpu"] == "cuda:1"


# %% [markdown]
# ## The files
#
# `settings.json` holds the settings as given, and what "published" and the data set's convention resolve to, so the file can be understood without this code.

# %%
#| export
def _settings_record(job: Job) -> dict:
    "Content of settings.json: the settings, resolved, with the names of classes and groups."
    meant = (
        {}
        if job.settings.method == "dense"
        else {k: getattr(form(job.settings), k) for k in ("steps", "scope")}
    )
    return (
        asdict(job.settings)
        | meant
        | dict(
            name=job.name,
            image_sizes=image_sizes(job),
            classes_used=job.heads,
            group_names=job.group_names,
        )
    )


# %%
record = _settings_record(replace(job, settings=replace(tiny, method="ws")))
{k: record[k] for k in ("method", "steps", "scope", "classes_used", "group_names")}

# %%
assert (record["steps"], record["scope"]) == ("one shot", "layer") and _settings_record(
    dense_job(job)
)["steps"] == "published"
assert record["classes_used"] == {"shade": ["dark", "light"]} and record[
    "image_sizes"
] == image_sizes(job)
assert Settings(**{k: v for k, v in record.items() if k in asdict(tiny)}).method == "ws"

# %% [markdown]
# `choices.csv` describes the selection of each pruning step, from the journal's facts: each group's share of the importance before the selection, and its share of the importance kept.

# %%
#| export
ALL_LAYERS = "all layers"  # The row of the whole network, if the scope is global


def choice_table(
    groups: list[str],  # Groups whose importance was measured
    # Step, layer, shares before the selection, shares kept by it: the shares are lists with one
    # number per group
    rows: list[list],
    # A row for each step, layer and group: `step`, `layer`, `group`, `target`, `kept`
) -> pd.DataFrame:
    "The groups' importance shares before and after each step's selection."
    table = [
        (step, layer, *of_group)
        for step, layer, *shares in rows
        for of_group in zip(groups, *shares)
    ]
    return pd.DataFrame(table, columns=["step", "layer", "group", "target", "kept"])


# %%
chosen = dict(
    groups=["blue", "red"],
    rows=[[1, "fc", [0.75, 0.25], [0.7, 0.3]], [2, "fc", [0.7, 0.3], [0.7, 0.3]]],
)
choice_table(**chosen)

# %%
assert choice_table(**chosen).values.tolist() == [
    [1, "fc", "blue", 0.75, 0.7],
    [1, "fc", "red", 0.25, 0.3],
    [2, "fc", "blue", 0.7, 0.7],
    [2, "fc", "red", 0.3, 0.3],
]
assert choice_table([], []).columns.tolist() == ["step", "layer", "group", "target", "kept"]


# %% [markdown]
# `steps.csv` describes the steps and their effect on each group. Row 0 is the dense network, so a group's change is its column minus its first value. A step without training after it has no accuracy, because such a network is not used.

# %%
#| export
def step_table(
    steps: list[Step],  # Result of each pruning step
    # From the journal: `groups`, and `rows` of step and accuracies, overall and of each group;
    # None: not measured
    validation: dict | None = None,
    # Columns of `Step`, `sparsity`, and percent correct on the validation images: `val:all`,
    # `val:<group>`
) -> pd.DataFrame:
    "One row for the dense network and one for each pruning step."
    table = pd.DataFrame([asdict(s) | dict(sparsity=s.sparsity) for s in steps])
    if not validation or not steps:
        return table
    total = steps[0].total
    dense = Step(0, 0.0, kept=total, total=total, score_s=0.0, select_s=0.0, retrain_s=0.0)
    table = pd.concat([pd.DataFrame([asdict(dense) | dict(sparsity=0.0)]), table])
    columns = [f"val:{name}" for name in ("all", *validation["groups"])]
    measured = {step: values for step, values in validation["rows"]}
    accuracy = pd.DataFrame(
        [measured.get(step, [None] * len(columns)) for step in table.step],
        columns=columns,
        dtype=float,
    )
    return table.reset_index(drop=True).join(accuracy)


# %%
two = [
    Step(1, 0.5, kept=50, total=100, score_s=0.5, select_s=0.1, retrain_s=2.0),
    Step(2, 0.9, kept=10, total=100, score_s=0.5, select_s=0.1, retrain_s=2.0),
]
measured = dict(groups=["blue", "red"], rows=[[0, [90.0, 92.0, 86.0]], [2, [80.0, 88.0, None]]])
step_table(two, measured)

# %%
paid = step_table(two, measured)
assert paid.columns.tolist()[-4:] == ["sparsity", "val:all", "val:blue", "val:red"]
assert paid.kept.tolist() == [100, 50, 10] and paid.sparsity.tolist() == [0, 0.5, 0.9]
assert paid.step.tolist() == [0, 1, 2]
assert paid[["val:all", "val:blue"]].fillna(-1).values.tolist() == [[90, 92], [-1, -1], [80, 88]]
assert paid["val:red"].fillna(-1).tolist() == [86, -1, -1] and paid.step.dtype == int
# not measured: no row 0 and no accuracies
assert step_table(two).step.tolist() == [1, 2] and "val:all" not in step_table(two)
assert step_table([], measured).empty

# %% [markdown]
# The tables: the training log, the steps, the layers, the selections and the predictions.

# %%
#| export
# columns of a training history, one row per epoch
HISTORY = [
    "label",
    "stage",
    "epoch",
    "lr",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "seconds",
    "kept",
]


def _write_tables(
    folder: Path,
    job: Job,
    dense: Trained,
    pruned: Trained,
    steps: list[Step],
    layers: pd.DataFrame | None,
):
    """Write history.csv, steps.csv, predictions.parquet, layers.csv if something was pruned, and
    choices.csv if the score has groups.
    """
    pd.DataFrame(pruned.history, columns=HISTORY).to_csv(folder / "history.csv", index=False)
    step_table(steps, pruned.journal.facts.get("validation")).to_csv(
        folder / "steps.csv", index=False
    )
    if layers is not None:
        layers.to_csv(folder / "layers.csv")
    if "choices" in pruned.journal.facts:
        choice_table(**pruned.journal.facts["choices"]).to_csv(folder / "choices.csv", index=False)
    _predictions_table(job, dense.predictions, pruned.predictions).to_parquet(
        folder / "predictions.parquet", index=False
    )


# %%
(files := home / "files").mkdir()
epoch = dict(
    label="dense",
    stage=1,
    epoch=1,
    lr=1e-3,
    train_loss=0.7,
    val_loss=0.6,
    val_accuracy=50.0,
    seconds=1.0,
    kept=True,
)
step = Step(1, 0.9, kept=10, total=100, score_s=0.5, select_s=0.1, retrain_s=2.0)
layers = pd.DataFrame(dict(weights=[100], kept=[10]), index=pd.Index(["fc"], name="layer"))
_write_tables(
    files,
    job,
    untrained,
    replace(untrained, history=[epoch], predictions=1 - all_dark),
    [step],
    layers,
)
assert not (files / "choices.csv").exists()  # a score without groups
_write_tables(
    files,
    job,
    untrained,
    replace(
        untrained,
        history=[epoch],
        predictions=1 - all_dark,
        journal=Journal(facts=dict(choices=chosen)),
    ),
    [step],
    layers,
)
assert pd.read_csv(files / "choices.csv").equals(choice_table(**chosen))
print((files / "steps.csv").read_text(), (files / "layers.csv").read_text())
assert pd.read_csv(files / "steps.csv")["sparsity"][0] == 0.9 and pd.read_csv(
    files / "layers.csv"
).equals(layers.reset_index())
assert pd.read_csv(files / "history.csv").to_dict("records") == [epoch] and pd.read_parquet(
    files / "predictions.parquet"
).equals(predicted)


# %% [markdown]
# The tensors: the network is written without its mask parametrization, so it loads into a plain network; the masks are in a separate file, one byte per weight.

# %%
#| export
def _write_tensors(folder: Path, job: Job, model: nn.Module):
    "Write model.safetensors, masks.safetensors, and clusters.safetensors if there are clusters."
    save_weights(plain_state(model), folder / "model.safetensors")
    save_weights(
        {n: m.to(torch.uint8) for n, m in get_masks(model).items()}, folder / "masks.safetensors"
    )
    if job.clusters is not None:
        save_clusters(job.clusters, folder / "clusters.safetensors")


# %%
masked = build_model("resnet10", 2)
# every other weight of the last layer
apply_masks(masked, {"fc": torch.arange(1024).view(2, 512) % 2 == 0})
_write_tensors(files, job, masked)
weights = load_weights(files / "model.safetensors")
masks = load_weights(files / "masks.safetensors")
print({n: (m.dtype, int(m.sum()), m.numel()) for n, m in masks.items() if n == "fc"})
build_model("resnet10", 2).load_state_dict(weights, strict=True)  # loads into a plain network
assert (
    masks["fc"].sum() == 512
    and (weights["fc.weight"][masks["fc"] == 0] == 0).all()
    and not (files / "clusters.safetensors").exists()
)
found = Clusters(
    np.array([0, 1]),
    ["cluster-1", "cluster-2"],
    pd.DataFrame(dict(k=[2], silhouette=[0.5], inertia=[1.0], chosen=[True])),
    *(np.zeros(s, np.float32) for s in ((2, 3), 3, 3)),
)
_write_tensors(files, replace(job, clusters=found), masked)
assert load_clusters(files / "clusters.safetensors").names == ["cluster-1", "cluster-2"]


# %% [markdown]
# The metrics: accuracy and disparities on the test images, the sparsity, and the time summed over all interruptions.

# %%
#| export
def run_metrics(
    job: Job, dense: Trained, pruned: Trained, steps: list[Step], seconds: float
) -> dict:
    "Content of metrics.json."
    s, test = job.settings, (job.table["split"] == "test").to_numpy()
    metrics = compare(
        job.labels[test],
        dense.predictions,
        pruned.predictions,
        job.group[test],
        job.heads,
        job.group_names,
        s.bootstrap,
        s.seed,
    )
    images = {k: int(v) for k, v in job.table["split"].value_counts().items()}
    return metrics | dict(
        sparsity=sparsity(get_masks(pruned.model)),
        steps=len(steps),
        seconds=pruned.journal.before + seconds,
        images=images,
    )


# %%
came_to = run_metrics(
    job, untrained, Trained(masked, [], 1 - all_dark, Journal(before=10.0)), [step], 5.0
)
{
    k: came_to[k]
    for k in ("accuracy_dense", "accuracy_pruned", "sparsity", "steps", "seconds", "images")
}

# %%
dark = 100 * (predicted["label_shade"] == 0).mean()
assert (
    came_to["accuracy_dense"],
    came_to["accuracy_pruned"],
    came_to["seconds"],
    came_to["steps"],
) == (dark, 100 - dark, 15, 1)
assert came_to["images"] == dict(train=128, val=16, test=16)
assert np.isclose(came_to["sparsity"], 512 / sum(m.numel() for m in masks.values()), rtol=1e-6)


# %% [markdown]
# `metrics.json` is written last, after everything else has reached the disk: if it exists, the run is complete. Only then is the run's journal deleted, with its checkpoints.

# %%
#| export
def save_run(
    job: Job,  # Settings and data
    dense: Trained,  # The network before pruning
    pruned: Trained,  # The network after pruning; the same for a dense run
    steps: list[Step],  # Result of each pruning step
    # `weights`, `kept`, importance shares before and after; None for a dense run
    layers: pd.DataFrame | None,
    seconds: float,  # Time of this process; that of earlier processes is added
    device: str | torch.device = "cpu",  # Where it computed
    processes: int = 1,  # Number of processes that shared the run
) -> Path:  # The run folder
    "Write a run's results; metrics.json comes last and marks the run as complete."
    folder = run_folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "settings.json", _settings_record(job))
    write_json(
        folder / "environment.json",
        environment(device)
        | dict(resumed=pruned.journal.resumed, processes=processes)
        | {k: v for k, v in pruned.journal.facts.items() if k == "begun_from"},
    )
    _write_tables(folder, job, dense, pruned, steps, layers)
    _write_tensors(folder, job, pruned.model)
    metrics = run_metrics(job, dense, pruned, steps, seconds)
    for file in [f for f in folder.iterdir() if f.is_file()]:
        sync(file)
    write_json(folder / "metrics.json", metrics)
    pruned.journal.close()
    return folder


# %%
kept = save_run(dense_job(job), untrained, untrained, [], None, 0.0, processes=2)
sorted(f.name for f in kept.iterdir())

# %%
# nothing was pruned, so there is no layers.csv
assert (
    is_complete(kept) and kept == run_folder(dense_job(job)) and not (kept / "layers.csv").exists()
)
written = {f.stem: json.loads(f.read_text()) for f in kept.glob("*.json")}
assert (
    written["metrics"]["disparities"]["rho"]["value"] == 0
    and written["environment"]["processes"] == 2
    and written["settings"]["method"] == "dense"
)

# %% [markdown]
# An interrupted run leaves no `metrics.json`, whatever other files exist, and keeps its checkpoints.

# %%
journal = open_journal(run_folder(job), 3)
journal.write(masked, "before the disk is full")
with patch(f"{save_run.__module__}.sync", side_effect=OSError(28, "No space left on device")):
    try:
        save_run(job, untrained, Trained(masked, [], all_dark, journal), [step], layers, 1.0)
    except OSError as e:
        print(e.strerror, sorted(f.name for f in run_folder(job).iterdir())[:3])
    else:
        raise AssertionError("a run was saved to a full disk")
assert not is_complete(run_folder(job)) and journal.checkpoints.is_dir()
save_run(job, untrained, Trained(masked, [], all_dark, journal), [step], layers, 1.0)
assert is_complete(run_folder(job)) and not journal.checkpoints.exists()


# %% [markdown]
# ## One at a time
#
# Hundreds of runs start from one dense network, and several may start at the same moment. The first takes the folder's lock and computes. The others wait and then load the result. A killed run continues from its last checkpoint ([journal](../training/04_journal.ipynb)).

# %%
#| export
@contextmanager
def at_work(
    folder: Path,  # A run's folder
    team: Team = ALONE,  # The processes that share the run; process 0 holds the lock for all
) -> Iterator[None]:
    "Hold the run's lock, and wait for another process that holds it."
    held = folder.parent / ".locks" / f"{folder.name}.lock"
    with ExitStack() as stack:
        try:
            if team.main:
                stack.enter_context(lock(held, wait=False))
        except Busy:
            print(f"{folder.name} is being computed by another process: waiting for it", flush=True)
            stack.enter_context(lock(held))
        team.wait()
        yield


# %%
class Second(Team):
    def wait(self):
        pass


with at_work(home / "runs" / "example"):
    print(sorted(f.name for f in (home / "runs" / ".locks").iterdir()))
    try:
        with lock(home / "runs" / ".locks" / "example.lock", wait=False):
            raise AssertionError("two at work on one run")
    except Busy as e:
        print(str(e).replace(str(home), "…"))
    # the second process of a team needs no lock
    with at_work(home / "runs" / "example", Second(1, 2)):
        pass
with lock(home / "runs" / ".locks" / "example.lock", wait=False):
    pass  # it is free again

# %% [markdown]
# A waiting process continues when the other releases the lock. Here the other is a thread that holds the lock for a moment.

# %%
import threading
import time

order, taken = [], threading.Event()


def other():
    with at_work(home / "runs" / "example"):
        taken.set()
        time.sleep(0.3)
        order.append("the other is done")


thread = threading.Thread(target=other)
thread.start()
taken.wait()
with at_work(home / "runs" / "example"):
    order.append("this one begins")
thread.join()
print(order)
assert order == ["the other is done", "this one begins"]


# %% [markdown]
# All processes share one journal: each resumes from it, and one writes it. A run that resumes with another number of processes adds in another order, so a warning says that its last digits match neither number.

# %%
#| export
def journal_of(
    folder: Path,  # A run's folder
    total: int,  # Epochs of the whole run
    history: list[dict] | None = None,  # Rows from before the run
    team: Team = ALONE,  # The processes that share the run
    made_of: str = "",  # See `open_journal`
) -> Journal:
    "The journal of a run: all processes read it, process 0 alone writes it."
    with team.main_first():
        journal = open_journal(folder, total, history, made_of)
    team.wait()  # no process writes before all have read
    began = journal.facts.setdefault("processes", team.size)
    if began != team.size:
        warnings.warn(
            f"{folder.name} began with {began} processes and goes on with {team.size}: its last"
            " digits will match neither",
            stacklevel=2,
        )
    return journal if team.main else replace(journal, folder=None)


# %%
first, second = (
    journal_of(home / "runs" / "example", 3, [epoch]),
    journal_of(home / "runs" / "example", 3, team=Second(1, 2)),
)
first.folder.name, second.folder, first.facts

# %%
assert (
    first.folder == home / "runs" / "example"
    and second.folder is None
    and first.history == [epoch]
    and first.total == 3
)
alone = journal_of(home / "runs" / "alone", 3)
alone.write(nn.Linear(2, 2))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    journal_of(home / "runs" / "alone", 3)
    assert not said
    journal_of(home / "runs" / "alone", 3, team=Second(1, 2))
print(said[0].message)
assert "began with 1 processes and goes on with 2" in str(said[0].message)
