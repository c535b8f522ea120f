# %% [markdown]
# # Dense network
#
# > The network before pruning, trained once and stored for every run that starts from it

# %%
#| default_exp experiment.dense

# %%
#| export
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fairgrape.data.cache import image_cache
from fairgrape.data.loaders import Images, make_images
from fairgrape.experiment.preparation import Job, dense_job, is_complete, made_of, run_folder
from fairgrape.experiment.results import Trained, at_work, journal_of, save_run
from fairgrape.experiment.settings import form, needs_initial
from fairgrape.networks.builders import plain_model
from fairgrape.networks.models import build_model, predict_classes
from fairgrape.networks.weights import load_weights
from fairgrape.training.epochs import memory_order, predict
from fairgrape.training.journal import Journal
from fairgrape.training.loop import Recipe, train
from fairgrape.training.parallel import ALONE, Team
from fairgrape.training.stages import Stage, stages

# %%
import contextlib
import tempfile
from unittest.mock import patch

from PIL import Image

from fairgrape.experiment.preparation import Machine, prepare
from fairgrape.experiment.settings import Settings

# %% [markdown]
# Every comparison is with the dense network of the same seed. It is a separate run, and all other runs reuse it.
#
# The example is again a small data set: 160 images, whose brightness is the task and whose tint is the group.

# %%
home = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
rows = [
    dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3])
    for i in range(160)
]
(home / "own").mkdir()
for i, row in enumerate(rows):
    pixels = rng.integers(0, 120, (24, 24, 3)) + (90 if row["shade"] == "light" else 0)
    pixels[..., 0 if row["tint"] == "red" else 2] += 40
    Image.fromarray(pixels.astype(np.uint8)).save(home / "own" / row["file"])
pd.DataFrame(rows).to_csv(home / "own" / "labels.csv", index=False)

tiny = Settings(
    dataset="folder",
    data_path=str(home / "own"),
    task="shade",
    groups="tint",
    network="resnet10",
    weights="none",
    image_size=16,
    method="fairgrape",
    rate=0.9,
    keep=0.5,
    epochs="2,1",
    lrs="1e-3,1e-4",
    retrain_epochs=1,
    retrain_lr=1e-4,
    batch=16,
    augment="flip",
    bootstrap=200,
)
job = prepare(
    tiny, data_root=home, runs_root=home / "runs", cache_root=home / "cache", progress=False
)
run_folder(job).name


# %% [markdown]
# ## The device
#
# A missing device should raise a clear error at once, not after an hour of decoding.

# %%
#| export
def device_of(name: str = "") -> torch.device:
    "The device of that name; empty: CUDA if available, else the CPU."
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise ValueError(
            f"device = {name!r} is not available here ({str(e).splitlines()[0]}): use 'cpu', or"
            " leave it empty"
        ) from e
    return device


# %%
try:
    device_of("abacus")
except ValueError as e:
    print(str(e)[:70], "…")
else:
    raise AssertionError("an unknown device was accepted")
assert device_of("cpu") == torch.device("cpu")
with patch("torch.cuda.is_available", lambda: False):
    assert device_of() == torch.device("cpu")


# %% [markdown]
# The same settings must give the same bits. So `set_up` turns on deterministic kernels and gives cuBLAS the fixed workspace that they need.

# %%
#| export
def set_up(device: str = "", threads: int = 0) -> torch.device:
    "Choose the device and the number of threads, and turn on deterministic kernels."
    if threads:
        torch.set_num_threads(int(threads))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    return device_of(device)


# %%
threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
print(before, set_up("cpu"), torch.are_deterministic_algorithms_enabled())
assert (
    set_up("cpu", threads="1") == torch.device("cpu")
    and torch.get_num_threads() == 1
    and os.environ["CUBLAS_WORKSPACE_CONFIG"]
)
assert (
    torch.are_deterministic_algorithms_enabled()
    and torch.is_deterministic_algorithms_warn_only_enabled()
)
assert set_up("cpu") == torch.device("cpu") and torch.get_num_threads() == 1  # 0: unchanged
torch.set_num_threads(threads)


# %% [markdown]
# ## Images
#
# The data set is decoded once into the cache at the working size; the run uses the rows of its table. If the pixels fit on the GPU, all of them are moved there, which saves one copy per batch; half of the free memory is left for the network.

# %%
#| export
def fits(pixels: Tensor, device: str | torch.device) -> bool:
    "Whether the pixels take at most half of a GPU's free memory."
    return (
        torch.device(device).type == "cuda"
        and pixels.nbytes < torch.cuda.mem_get_info(device)[0] // 2
    )


# %%
with patch("torch.cuda.mem_get_info", lambda device: (200, 1000)):  # 200 bytes are free
    print([fits(torch.zeros(n, dtype=torch.uint8), "cuda") for n in (99, 100, 150)])
    assert fits(torch.zeros(99, dtype=torch.uint8), "cuda") and not fits(
        torch.zeros(100, dtype=torch.uint8), "cuda:0"
    )
assert not fits(torch.zeros(1), "cpu")  # they are in main memory or on disk already


# %%
#| export
def images_of(
    job: Job,  # Settings and data
    device: str | torch.device = "cpu",  # The pixels are moved there if they fit in its memory
    progress: bool = True,  # Show a bar while images are decoded
) -> Images:  # Pixels, labels, groups, and the rows of each split
    "Open the decoded images of a job."
    pixels = image_cache(job.data, job.settings.image_size, job.cache_root, progress=progress)
    judged = dense_job(job)
    images = make_images(
        pixels, job.table, job.table["split"], list(job.heads), judged.settings.groups
    )
    # without the excluded groups
    images.groups[torch.tensor(job.table.index.to_numpy(np.int64))] = torch.from_numpy(judged.group)
    images = replace(images, names=tuple(judged.group_names))
    return images.to(device) if fits(images.pixels, device) else images


# %%
images = images_of(job, progress=False)
images.pixels.shape, {s: len(r) for s, r in images.rows.items()}

# %%
assert (
    images.pixels.shape == (160, 3, 16, 16)
    and images.labels[:4, 0].tolist() == [0, 1, 0, 1]
    and images.groups[:3].tolist() == [1, 0, 0]
)
assert images_of(
    prepare(
        replace(tiny, groups="clusters", clusters=2),
        data_root=home,
        runs_root=home / "runs",
        cache_root=home / "cache",
    ),
    progress=False,
).names == ("dark", "light")


# %% [markdown]
# ## The network before training
#
# If `weights` is a file, that file *is* the dense network: an existing classifier to be pruned. It is judged but not trained further.

# %%
#| export
def initial_network(job: Job) -> nn.Module:
    "The network before any training."
    s = job.settings
    return build_model(s.network, sum(job.sizes), s.weights, s.seed, image_size=s.image_size)


# %%
same, other = initial_network(job), initial_network(replace(job, settings=replace(tiny, seed=1)))
print(type(same).__name__, tuple(same.fc.weight.shape))
assert torch.equal(same.fc.weight, initial_network(job).fc.weight) and not torch.equal(
    same.fc.weight, other.fc.weight
)
# all heads in one layer
assert initial_network(
    replace(job, heads=dict(shade=["dark", "light"], tint=["red", "blue", "green"]))
).fc.weight.shape == (5, 512)


# %% [markdown]
# A weights file that does not fit, or ImageNet weights that cannot be downloaded, should raise an error before an hour of decoding, so `starting_network` is called early. If the dense network exists already, its initial weights are needed only by methods that rewind to them.

# %%
#| export
def starting_network(
    job: Job,  # Settings and data
    # Initial, ImageNet or custom weights; None if the dense network exists already and the method
    # does not need them
) -> nn.Module | None:
    """The network before any training. Raises: ValueError, FileNotFoundError or ConnectionError
    if the weights cannot be loaded.
    """
    needed = job.settings.method != "dense" and needs_initial(form(job.settings))
    return None if is_complete(run_folder(dense_job(job))) and not needed else initial_network(job)


# %%
# as if the dense network existed
with patch(f"{starting_network.__module__}.is_complete", lambda folder: True):
    there = {
        m: type(starting_network(replace(job, settings=replace(tiny, method=m)))).__name__
        for m in ("fairgrape", "dense", "snip", "lottery")
    }
there

# %%
assert (
    there == dict(fairgrape="NoneType", dense="NoneType", snip="ResNet", lottery="ResNet")
    and starting_network(job) is not None
)
try:
    starting_network(replace(job, settings=replace(tiny, weights=str(home / "none.safetensors"))))
except FileNotFoundError as e:
    print(str(e).replace(str(home), "…"))
else:
    raise AssertionError("missing weights were accepted")


# %%
#| export
def placed(model: nn.Module, device: str | torch.device) -> nn.Module:
    """The network on the device, in the memory order of training: the order decides
    which kernels run, and so the last bits of every score.
    """
    return model.to(device, memory_format=memory_order(model, device))


# %%
with patch(f"{placed.__module__}.memory_order", lambda model, device: torch.channels_last):
    last = placed(nn.Conv2d(3, 4, 3), "cpu")
print(last.weight.stride())
assert last.weight.is_contiguous(memory_format=torch.channels_last)
assert placed(initial_network(job), "cpu").conv1.weight.is_contiguous(
    memory_format=memory_order(same, "cpu")
)


# %% [markdown]
# ## Training
#
# Every training phase of a run goes through this one call: that of the dense network, those between pruning steps, and the final one. They differ in their plan and in their label, which seeds their random numbers.

# %%
#| export
def fit(
    job: Job,
    images: Images,
    model: nn.Module,
    label: str,
    plan: list[Stage],
    journal: Journal,
    device,
    progress: bool,
    team: Team = ALONE,
    recovery=None,
):
    "Train with the job's settings, and a `Recovery` after pruning."
    s = job.settings
    how = Recipe(
        job.sizes,
        s.seed,
        s.batch,
        s.augment,
        s.precision,
        device,
        s.accumulate,
        s.compiled,
        recovery=recovery,
    )
    train(model, images, plan, how, label, journal, progress, team)


# %%
def one_epoch(label="step 1", **more):
    "A network after one epoch, and the journal's only row."
    net, journal = initial_network(job), Journal()
    fit(
        replace(job, settings=replace(tiny, **more)),
        images,
        net,
        label,
        [Stage(1e-3, 1)],
        journal,
        "cpu",
        False,
    )
    return net.fc.weight.detach(), {
        k: v for k, v in journal.history[0].items() if k in ("label", "lr", "train_loss")
    }


trained, row = one_epoch()
row

# %%
assert (row["label"], row["lr"]) == ("step 1", 1e-3) and torch.equal(trained, one_epoch()[0])
for change in (
    dict(label="final"),
    dict(seed=1),
    dict(batch=32),
    dict(augment="none"),
    dict(accumulate=2),
):
    # each of these settings reaches the training
    assert not torch.equal(trained, one_epoch(**change)[0]), change
with (
    patch(f"{fit.__module__}.train", side_effect=InterruptedError) as asked,
    contextlib.suppress(InterruptedError),
):
    one_epoch(precision="bf16")
# so does bf16, which on a CPU is for larger images
assert asked.call_args.args[3].precision == "bf16"


# %%
#| export
def test_classes(
    job: Job, images: Images, model: nn.Module, device, team: Team = ALONE
) -> np.ndarray:
    """Predicted classes of the test images, shape `(n, heads)`: the only use of the test
    part.
    """
    return predict_classes(
        predict(
            model,
            images,
            "test",
            job.sizes,
            precision=job.settings.precision,
            device=device,
            team=team,
        ),
        job.sizes,
    ).numpy()


# %%
class Bright(nn.Module):
    "Predicts light for an image brighter than the mean; needs no training."

    def forward(self, x):
        light = x.mean((1, 2, 3)) > x.mean()
        return torch.stack([~light, light], 1).float()


classes = test_classes(job, images, Bright(), "cpu")
right = classes[:, 0] == images.labels[images.rows["test"], 0].numpy()
print(classes.shape, f"{100 * right.mean():.0f} % right")
assert classes.shape == (16, 1) and right.all()


# %% [markdown]
# During a run each group's accuracy is measured on the validation images, never on the test part. The cost is one pass over these images. The network's mode (training or evaluation) is restored, so the measurement does not
# change what follows.

# %%
#| export
def right_on(
    job: Job,  # Settings and data
    images: Images,  # The job's images
    model: nn.Module,  # The network in its current state
    split: str,  # 'train' or 'val'
    device: str | torch.device = "cpu",  # Where to compute
    team: Team = ALONE,  # The processes that share the images
) -> Tensor:  # 0 or 1, or the mean over the heads, float64, on the CPU, shape `(n,)`
    "Whether a network is right on each image of a part."
    s, training = job.settings, model.training
    logits = predict(
        model, images, split, job.sizes, 4 * s.batch, s.precision, device=device, team=team
    )
    model.train(training)
    labels = images.labels[images.rows[split]].cpu()
    return (predict_classes(logits, job.sizes) == labels).double().mean(1)


def validation_accuracy(
    job: Job,  # Settings and data, with clusters if they are compared
    images: Images,  # The job's images
    model: nn.Module,  # The network in its current state
    device: str | torch.device = "cpu",  # Where to compute
    team: Team = ALONE,  # The processes that share the images
    # Percent correct: of all images, then of each group; None for a group without an image
) -> list[float | None]:
    "Accuracy on the validation images, averaged over the heads, overall and by group."
    right = right_on(job, images, model, "val", device, team)
    group = images.groups[images.rows["val"]].cpu()
    parts = [right, *(right[group == g] for g in range(job.G))]
    return [100 * part.mean().item() if len(part) else None for part in parts]


# %%
class Fixed(nn.Module):
    "Predicts dark for all images but the first."

    def forward(self, x):
        light = torch.arange(len(x)) == 0
        return torch.stack([~light, light], 1).float()


three = replace(images, rows=images.rows | dict(val=torch.tensor([1, 2, 3])))
validation_accuracy(job, three, Fixed())

# %%
# images 1 to 3 are light, dark, light and blue, blue, red: the first two predictions are right,
# the third is wrong
assert np.allclose(validation_accuracy(job, three, Fixed()), [200 / 3, 100, 0])
blue = replace(images, rows=images.rows | dict(val=torch.tensor([1, 2])))
assert validation_accuracy(job, blue, Fixed()) == [100, 100, None]
(learning := Fixed()).train()
validation_accuracy(job, three, learning)
assert learning.training and not Fixed().eval().training


# %% [markdown]
# ## Opened once
#
# The calls of a run request its device and images when they need them. Both are opened once and stored with the job's machine. A missing device or missing weights raise an error before the first image is decoded.

# %%
#| export
def ready(job: Job) -> torch.device:
    "The run's device, set up at the first call. Raises: ValueError if it is not available."
    here = job.machine
    if "device" not in here.opened:
        name = here.device if here.team.size == 1 else str(here.team.device)
        here.opened["device"] = set_up(name, here.threads)
    return here.opened["device"]


def opened(job: Job) -> Images:
    "The run's images, decoded and opened at the first call."
    here, device = job.machine, ready(job)
    if "images" not in here.opened:
        with here.team.main_first():
            starting_network(job)  # raises now if its weights cannot be loaded
        with here.team.main_first():
            here.opened["images"] = images_of(job, device, here.shows is True)
    return here.opened["images"]


# %%
here = replace(job, machine=Machine(device="cpu", progress=False))
print(ready(here), opened(here).names)
assert opened(here) is opened(replace(here, clusters=None)) and ready(here) == torch.device("cpu")
for machine, settings, said in (
    (Machine(device="abacus"), tiny, "device = 'abacus'"),
    (Machine(device="cpu"), replace(tiny, weights=str(home / "none.safetensors")), "none.safe"),
):
    with patch(f"{opened.__module__}.images_of", side_effect=AssertionError("images were read")):
        try:
            opened(replace(job, settings=settings, machine=machine))
        except (ValueError, FileNotFoundError) as e:
            print(str(e).replace(str(home), "…")[:90])
            assert said in str(e)
        else:
            raise AssertionError(f"{said} was accepted")


# %% [markdown]
# ## Trained once
#
# A dense network is loaded from its folder with its history and its predictions; nothing is predicted again.

# %%
#| export
def saved_network(
    job: Job,  # Settings and data of the run
    folder: Path,  # The folder of the finished run
) -> nn.Module:  # On the CPU; pruned weights are zeros
    "The network of a finished run. Raises: as `load_weights` and `load_state_dict`."
    model = plain_model(job.settings.network, sum(job.sizes), image_size=job.settings.image_size)
    model.load_state_dict(load_weights(folder / "model.safetensors"))
    return model


def _load_dense(job: Job, folder: Path, device) -> Trained:
    "The dense network of a run folder. Raises: ValueError if its files are damaged."
    try:
        model = saved_network(job, folder)
        table = pd.read_parquet(folder / "predictions.parquet")
        history = pd.read_csv(folder / "history.csv").to_dict("records")
    except (ValueError, RuntimeError, OSError) as e:
        raise ValueError(
            f"the dense network in {folder} cannot be read ({(str(e).splitlines() or ['?'])[0]}):"
            " remove that folder to train it again"
        ) from e
    return Trained(
        placed(model, device), history, table[[f"dense_{h}" for h in job.heads]].to_numpy()
    )


# %%
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
saved = Trained(initial_network(job), [epoch], classes)
back = _load_dense(
    job,
    save_run(replace(dense_job(job), runs_root=home / "saved"), saved, saved, [], None, 0.0),
    "cpu",
)
print(back.history, back.predictions[:4].tolist())
assert (
    back.history == [epoch]
    and (back.predictions == classes).all()
    and all(torch.equal(v, back.model.state_dict()[k]) for k, v in saved.model.state_dict().items())
)
cut = run_folder(replace(dense_job(job), runs_root=home / "saved"))
for file in ("predictions.parquet", "model.safetensors"):  # damaged, one after the other
    (cut / file).write_bytes((cut / file).read_bytes()[:100])
    try:
        _load_dense(job, cut, "cpu")
    except ValueError as e:
        print(str(e).replace(str(home), "…"))
        assert "remove that folder" in str(e)
    else:
        raise AssertionError("a damaged network was loaded")


# %%
#| export
def dense_network(
    job: Job,  # Settings and data; its method does not matter
    images: Images,  # The job's images
    device: str | torch.device = "cpu",  # Where to train
    progress: bool = True,  # Show progress bars
    team: Team = ALONE,  # The processes that share the run
) -> Trained:  # The dense network of these settings
    "Load the dense network of these settings, or train it and store it in its own run folder."
    dense, s = dense_job(job), job.settings
    with at_work(folder := run_folder(dense), team):
        if team.agree(is_complete(folder)):
            return _load_dense(job, folder, device)
        start, own = time.perf_counter(), s.weights not in ("none", "imagenet")
        plan = [] if own else stages(s.epochs, s.lrs)
        journal = journal_of(
            folder, sum(stage.epochs for stage in plan), team=team, made_of=made_of(dense)
        )
        model = journal.restore(placed(initial_network(job), device))
        if plan:
            fit(job, images, model, "dense", plan, journal, device, progress, team)
        trained = Trained(
            model, journal.history, test_classes(dense, images, model, device, team), journal
        )
        if team.main:
            save_run(
                dense, trained, trained, [], None, time.perf_counter() - start, device, team.size
            )
        team.wait()
        return trained


# %%
dense = dense_network(job, images, progress=False)
[(row["label"], row["epoch"], round(row["val_accuracy"], 1)) for row in dense.history]

# %%
assert is_complete(run_folder(dense_job(job))) and len(dense.history) == 3
with patch(f"{dense_network.__module__}.fit", side_effect=AssertionError("it was trained twice")):
    again = dense_network(replace(job, settings=replace(tiny, rate=0.5)), images, progress=False)
assert (again.predictions == dense.predictions).all() and all(
    torch.equal(v, dense.model.state_dict()[k]) for k, v in again.model.state_dict().items()
)

# %% [markdown]
# A custom network is used unchanged: it is not trained, but it is judged.

# %%
file = run_folder(dense_job(job)) / "model.safetensors"
mine = dense_network(
    replace(job, settings=replace(tiny, weights=str(file))), images, progress=False
)
print(mine.history)
assert mine.history == [] and (mine.predictions == dense.predictions).all()
