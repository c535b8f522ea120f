# %% [markdown]
# # Calibration
#
# > The speed of this machine: the project's own code, timed on random images in two minutes

# %%
#| default_exp studies.calibration

# %%
#| export
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from fairgrape.data.loaders import Images, batches, group_batches
from fairgrape.data.transforms import augmentation
from fairgrape.experiment.dense import set_up
from fairgrape.experiment.results import environment
from fairgrape.method.importance import group_importance
from fairgrape.method.masks import apply_masks, prunable
from fairgrape.method.selection import select_masks
from fairgrape.networks.builders import plain_model
from fairgrape.networks.models import task_loss
from fairgrape.studies.costs import network_work
from fairgrape.training.epochs import adam, memory_order, predict, train_epoch
from fairgrape.training.out_of_memory import memory_errors
from fairgrape.training.stages import PRECISIONS, seeded

# %%
import json
from unittest.mock import patch as instead

home = Path(tempfile.mkdtemp())


# %% [markdown]
# The data sheet of a GPU gives FLOPs that no network reaches. The fraction that a network does reach depends on the network, the size of the images and the precision. A machine is therefore timed, with the code that the runs use.
#
# ## Growth laws
#
# Selection is timed at a few sizes. Its time grows as a power of the number of candidates: $t = c\,x^e$, a straight line on logarithmic axes. Least squares gives $c$ and $e$.

# %%
#| export
def power_law(
    x: Iterable[float],  # Sizes, > 0
    y: Iterable[float],  # Measurements at these sizes, > 0
) -> tuple[float, float]:  # c and e of y = c · x^e
    "Fit a power law. Raises: ValueError for fewer than two sizes, or a measurement of 0 or less."
    x, y = np.asarray(list(x), float), np.asarray(list(y), float)
    if len(set(x)) < 2 or (x <= 0).any() or (y <= 0).any():
        raise ValueError(
            f"a power law needs two different sizes, and all numbers above 0: sizes {x.tolist()},"
            f" measured {y.tolist()}"
        )
    e, log_c = np.polyfit(np.log(x), np.log(y), 1)
    return float(np.exp(log_c)), float(e)


# %% [markdown]
# By hand: ten times the size takes ten times as long, or four times the size twice as long.

# %%
assert np.allclose(power_law([1, 10, 100], [3, 30, 300]), (3, 1)) and np.allclose(
    power_law([1, 4, 16], [2, 4, 8]), (2, 0.5)
)
for x, y in (([1, 1], [2, 3]), ([1, 2], [0, 3])):
    try:
        power_law(x, y)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("a fit without a slope was made")
power_law([1, 10, 100], [3, 30, 300]), power_law([1, 4, 16], [2, 4, 8])


# %% [markdown]
# ## Timing a machine
#
# The timing uses the project's own code on random images: an epoch of training with augmentation and masks, a pass of importance, a prediction. The first round does not count, because it compiles kernels and allocates memory. Further rounds run
# until the time is up, and the median counts. A GPU works asynchronously, so the timing waits for it.

# %%
#| export
def _once(work: Callable[[], object], device: str | torch.device) -> float:
    "Seconds that a call takes."
    start = time.perf_counter()
    work()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


# %%
clock = [0.0]  # a clock that only this work advances


def takes(seconds):
    clock[0] += seconds


with instead("time.perf_counter", lambda: clock[0]):
    took = [_once(lambda s=s: takes(s), "cpu") for s in (0, 0.05)]
assert took == [0, 0.05]
[f"{1000 * s:.0f} ms" for s in took]


# %%
#| export
def _per_second(
    work: Callable[[], object],  # What to time; processes `images` images
    images: float,  # Number of images, or of other counted items
    seconds: float,  # How long to measure, at least one round
    device: str | torch.device = "cpu",  # Device of the work; the timing waits for a GPU
) -> float:  # Images a second
    "The median speed over repeated rounds; the first round does not count."
    _once(work, device)
    times, begin = [], time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        times.append(_once(work, device))
    return images / statistics.median(times)


# %% [markdown]
# Ten images in a fiftieth of a second are 500 a second. Here the first round is slow, as usual, and the third because of other work on the machine; neither affects the median.

# %%
rounds = []


def work():
    rounds.append(1)
    takes(0.2 if len(rounds) in (1, 3) else 0.02)


with instead("time.perf_counter", lambda: clock[0]):
    rate = _per_second(work, images=10, seconds=0.25)
round(rate, 3)

# %%
assert abs(rate - 500) < 1e-6 and len(rounds) == 1 + 4
rounds.clear()
_per_second(work, 10, seconds=0)
assert len(rounds) == 2  # the round that does not count, and at least one more


# %% [markdown]
# Images of noise are sufficient, because the time of a kernel does not depend on the values. Labels and groups alternate, so every batch has some of each.

# %%
#| export
def random_images(
    n: int,  # How many
    size: int,  # Side of the squares, pixels
    device: str | torch.device = "cpu",  # Device of the images
    classes: int = 7,  # Number of classes of the one head, and of groups
) -> Images:  # All of them in every part
    "Images of noise, with alternating labels and groups."
    pixels = torch.randint(
        256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    codes, rows = torch.arange(n) % classes, torch.arange(n)
    return Images(
        pixels,
        codes[:, None],
        codes,
        dict(train=rows, val=rows, test=rows),
        tuple(map(str, range(classes))),
    ).to(device)


# %%
noise = random_images(14, 16)
assert (
    noise.pixels.shape == (14, 3, 16, 16)
    and noise.pixels.float().std() > 70
    and [len(rows) for rows in noise.rows.values()] == [14] * 3
)
assert noise.groups.bincount().tolist() == [2] * 7 and torch.equal(
    random_images(14, 16).pixels, noise.pixels
)
noise.pixels.shape, noise.groups.tolist()


# %% [markdown]
# Each timed function processes the images once. The importance is that of a single group in full batches, because the size of the groups' batches depends on the data, not on the machine.

# %%
#| export
def _works(model, images: Images, batch: int, precision: str, device) -> dict[str, Callable]:
    "The timed work: name → function that processes the images once."
    optimizer = adam(list(model.parameters()), 1e-5)
    augment = augmentation("paper", images.pixels.shape[-1])
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=precision == "fp16")
    parts = group_batches(images, "train", batch, device=device)
    # full batches, even with few images
    parts.parts = [(0, rows) for rows in images.rows["train"].cpu().split(batch)]
    low = torch.bfloat16 if precision == "bf16" else None

    def train():
        with seeded(0, device) as order:
            train_epoch(
                model,
                optimizer,
                batches(images, "train", batch, order, augment, device),
                [7],
                scaler,
                precision,
            )

    def score():
        group_importance(model, parts, lambda out, y: task_loss(out, y, [7]), 1, autocast=low)

    return dict(
        train=train,
        score=score,
        predict=lambda: predict(model, images, "test", [7], 4 * batch, precision, device),
    )


# %% [markdown]
# Twelve images in batches of four. The example records the batches that enter the network, and whether gradients are enabled: training and scoring use three batches, prediction one of up to sixteen images.

# %%
network, entered = plain_model("resnet10", 7, image_size=16), []
network.register_forward_pre_hook(
    lambda module, args: entered.append(
        (len(args[0]), torch.is_grad_enabled() and not torch.is_inference_mode_enabled())
    )
)
done = {}
for name, what in _works(network, random_images(12, 16), 4, "fp32", "cpu").items():
    entered.clear()
    what()
    done[name] = [*entered]
done

# %%
assert done == dict(train=[(4, True)] * 3, score=[(4, True)] * 3, predict=[(12, False)])


# %% [markdown]
# A batch has 64 images, as in the protocol. But a CPU would need minutes for such a batch of a large network, and eight images are enough to occupy the cores.

# %%
#| export
def _batch_of(network: str, image_size: int, device: str | torch.device) -> int:
    "64 as in the protocol, but 8 on a CPU if an image takes over a GFLOP."
    return (
        64
        if torch.device(device).type == "cuda" or network_work(network, 7, image_size).both < 1e9
        else 8
    )


# %%
assert (
    _batch_of("resnet34", 224, "cpu"),
    _batch_of("resnet34", 224, "cuda"),
    _batch_of("resnet10", 32, "cpu"),
) == (8, 64, 64)
large, small = network_work("resnet34", 7, 224).both, network_work("resnet10", 7, 32).both
f"{large / 1e9:.1f} and {small / 1e9:.1f} GFLOP"


# %% [markdown]
# Half of the weights are masked, as in the middle of a run. Masks are applied in every forward pass, and the time for this does not depend on the number of weights left.

# %%
#| export
def speed(
    network: str,  # As in the settings
    image_size: int = 224,  # Side of the images, pixels
    precision: str = "fp32",  # "fp32", "bf16" or "fp16"
    device: str | torch.device = "cpu",  # What is timed
    seconds: float = 20,  # For the three measurements together
    # Images a batch; 0: 64 as in the protocol, but 8 on a CPU if an image takes over a GFLOP
    batch: int = 0,
) -> dict:  # network, image_size, precision, batch; images a second: train, score, predict
    "Time training, importance and prediction of one network. Raises: OutOfMemory with advice."
    batch = batch or _batch_of(network, image_size, device)
    images = random_images(
        7 * batch if torch.device(device).type == "cuda" else 2 * batch, image_size, device
    )
    advice = f"lower batch (it is {batch}), or time a smaller network or image_size"
    with memory_errors(f"timing {network} at {image_size} px in {precision}", advice):
        model = plain_model(network, 7, image_size=image_size)
        model.to(device, memory_format=memory_order(model, device))  # as in training
        chance = torch.Generator().manual_seed(0)
        apply_masks(
            model,
            {
                n: torch.rand(m.weight.shape, generator=chance) < 0.5
                for n, m in prunable(model).items()
            },
        )
        works = _works(model, images, batch, precision, device)
        rates = {
            name: _per_second(work, len(images.pixels), seconds / len(works), device)
            for name, work in works.items()
        }
    return dict(network=network, image_size=image_size, precision=precision, batch=batch) | rates


# %%
speed("resnet10", 32, seconds=0.5)

# %%
low = speed("resnet10", 32, "bf16", seconds=0.1, batch=16)
assert {k: low[k] for k in ("network", "image_size", "precision", "batch")} == dict(
    network="resnet10", image_size=32, precision="bf16", batch=16
)
assert (
    all(0 < low[k] < 1e6 for k in ("train", "score", "predict")) and low["predict"] > low["train"]
)


# %% [markdown]
# Selection is timed as in a run: all layers together, at three sizes, keeping 90 % for seven groups.

# %%
#| export
def _layers(n: int, groups: int, generator: torch.Generator, device) -> tuple[dict, dict, dict]:
    "Importance, masks and weights of 8 equal layers, n weights in total."

    def draw(*shape):
        return {str(i): torch.randn(*shape, generator=generator).to(device) for i in range(8)}

    weights, importance = draw(n // 8), {k: v.square() for k, v in draw(groups, n // 8).items()}
    return (
        importance,
        {k: torch.ones_like(w, dtype=torch.bool) for k, w in weights.items()},
        weights,
    )


# %%
drawn = _layers(80, 3, torch.Generator().manual_seed(0), "cpu")
assert [{tuple(t.shape) for t in part.values()} for part in drawn] == [
    {(3, 10)},
    {(10,)},
    {(10,)},
] and len(drawn[0]) == 8
assert all(bool((t >= 0).all()) for t in drawn[0].values()) and all(
    bool(t.all()) for t in drawn[1].values()
)
{
    k: sum(t.numel() for t in part.values())
    for k, part in zip(("importance", "masks", "weights"), drawn)
}


# %%
#| export
def _selection_speed(
    sizes: Iterable[int] = (2**18, 2**20, 2**22),  # Weights, spread over 8 equal layers
    groups: int = 7,  # G
    device: str | torch.device = "cpu",  # Device of the importance
    seconds: float = 10,  # For all sizes together
) -> dict:  # points [candidates, seconds], and c, e of seconds = c · candidates^e
    "Time `select_masks` and fit its growth."
    sizes, generator = list(sizes), torch.Generator().manual_seed(0)

    def point(n):
        importance, masks, weights = _layers(n, groups, generator, device)
        return [
            8 * (n // 8) * groups,
            1
            / _per_second(
                lambda: select_masks(importance, masks, weights, "0.1"),
                1,
                seconds / len(sizes),
                device,
            ),
        ]

    points = [point(n) for n in sizes]
    c, e = power_law(*zip(*points))
    return dict(points=points, c=c, e=e)


# %%
_selection_speed((2**12, 2**14, 2**16), seconds=0.3)

# %%
growth = _selection_speed((2**12, 2**16), groups=2, seconds=0.2)
assert (
    [p[0] for p in growth["points"]] == [2 * 2**12, 2 * 2**16]
    and growth["points"][0][1] < growth["points"][1][1]
    and growth["e"] > 0
)
# a line through two points passes through both
assert all(np.isclose(growth["c"] * n ** growth["e"], s) for n, s in growth["points"])


# %% [markdown]
# The disk is timed by writing a file and forcing it to the disk: data in the system's cache is not yet written.

# %%
#| export
def _disk_speed(
    folder: Path,  # On the disk in question
    mib: int = 256,  # Size of the file
) -> float:  # Bytes a second
    "Write a file, force it to the disk, and remove it again."
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        block, start = bytes(2**20), time.perf_counter()
        for _ in range(mib):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return mib * 2**20 / (time.perf_counter() - start)


# %%
taken = _disk_speed(home, 8)
assert 1e5 < taken < 1e12 and not list(home.iterdir())
f"{taken / 1e6:.0f} MB/s"


# %% [markdown]
# ## A machine
#
# `calibrate` measures all of this in the given time: four fifths for the networks, the rest for selection; the disk comes on top. The length of a first
# round is not known beforehand, so on a slow machine the total is longer. A misspelt precision raises an error before the first measurement. On a GPU each network is timed in bfloat16 as well.

# %%
#| export
def _precisions(given: Iterable[str], device: torch.device) -> tuple[str, ...]:
    "The precisions to time. Raises: ValueError for an unknown precision."
    found = tuple(given) or (("fp32", "bf16") if device.type == "cuda" else ("fp32",))
    wrong = [p for p in found if p not in PRECISIONS]
    if wrong:
        raise ValueError(
            f"precision {wrong[0]!r} is not known: choose from {', '.join(PRECISIONS)}"
        )
    return found


# %%
assert [_precisions((), torch.device(d)) for d in ("cpu", "cuda")] == [
    ("fp32",),
    ("fp32", "bf16"),
] and _precisions(["fp16"], torch.device("cpu")) == ("fp16",)
try:
    _precisions(["fp32", "int8"], torch.device("cpu"))
except ValueError as e:
    print(e)
else:
    raise AssertionError("an unknown precision was accepted")


# %%
#| export
def _time_all(
    cases: list[tuple], device, seconds: float, batch: int, tell: Callable[[str], None]
) -> list[dict]:
    "Time each case (network, image size, precision), in equal shares of the seconds."
    speeds = []
    for case in cases:
        speeds.append(speed(*case, device, seconds / len(cases), batch))
        tell(
            "{network}, {image_size} px, {precision}, images/s: {train:.1f} trained, {score:.1f}"
            " scored, {predict:.1f} predicted".format(**speeds[-1])
        )
    return speeds


# %%
said = []
pair = _time_all([("resnet10", 32, "fp32"), ("resnet10", 16, "fp32")], "cpu", 0.2, 4, said.append)
print(*said, sep="\n")

# %%
assert [(s["image_size"], s["batch"]) for s in pair] == [(32, 4), (16, 4)] and [
    line.split(", images/s: ")[0] for line in said
] == ["resnet10, 32 px, fp32", "resnet10, 16 px, fp32"]
assert (
    f"{pair[0]['train']:.1f} trained" in said[0]
    and f"{pair[1]['predict']:.1f} predicted" in said[1]
)


# %%
#| export
def calibrate(
    seconds: float = 120,  # Approximate duration
    device: str = "",  # Empty: CUDA if available, else the CPU
    networks: Iterable[str] = ("resnet34", "mobilenet_v2"),  # Networks to time
    sizes: Iterable[int] = (224,),  # Sides of the images, pixels
    precisions: Iterable[str] = (),  # Empty: fp32, on a GPU bf16 too
    threads: int = 0,  # CPU threads; 0: the current number
    folder: str | Path | None = None,  # Folder on the disk to time; None: a temporary folder
    batch: int = 0,  # Images a batch; 0: as `speed` chooses
    weights: Iterable[int] = (2**18, 2**20, 2**22),  # Sizes at which selection is timed
    tell: Callable[[str], None] | None = None,  # Called with each measurement, e.g. `print`
) -> dict:  # about, speeds, selection, disk: plain values, for JSON
    "Time this machine. Raises: ValueError for an unknown precision or device."
    where, tell = set_up(device, threads), tell or (lambda _: None)
    timed = _precisions(precisions, where)
    speeds = _time_all(
        [(n, s, p) for n in networks for s in sizes for p in timed],
        where,
        0.8 * seconds,
        batch,
        tell,
    )
    selection = _selection_speed(weights, device=where, seconds=0.15 * seconds)
    most, took = selection["points"][-1]
    tell(
        f"selection: {most / took / 1e6:.1f} million candidates/s, growing with exponent"
        f" {selection['e']:.2f}"
    )
    with tempfile.TemporaryDirectory(dir=folder) as on_disk:
        disk = _disk_speed(Path(on_disk))
    tell(f"disk: {disk / 1e6:.0f} MB/s written")
    about = environment(where) | dict(measured=datetime.now(UTC).isoformat(timespec="seconds"))
    return dict(about=about, speeds=speeds, selection=selection, disk=disk)


# %%
said = []
quick = calibrate(
    1, "cpu", ["resnet10"], [32], weights=(2**14, 2**17), folder=home, tell=said.append
)
print(*said, sep="\n")

# %%
assert (
    json.loads(json.dumps(quick)) == quick
    and sorted(quick) == ["about", "disk", "selection", "speeds"]
    and len(said) == 3
    and quick["disk"] > 0
)
assert [(s["network"], s["image_size"], s["precision"]) for s in quick["speeds"]] == [
    ("resnet10", 32, "fp32")
] and [p[0] for p in quick["selection"]["points"]] == [7 * 2**14, 7 * 2**17]
assert quick["about"]["threads"] == torch.get_num_threads() and not list(home.iterdir())
try:
    calibrate(1, "cpu", precisions=["int8"])
except ValueError as e:
    print(e)
else:
    raise AssertionError("an unknown precision was timed")
