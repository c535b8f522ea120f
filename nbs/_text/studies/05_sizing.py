# %% [markdown]
# # Sizing
#
# > How long the paper's protocol takes: its work, divided by the speed of this machine

# %%
#| default_exp studies.sizing

# %%
#| export
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fairgrape.experiment.paths import root
from fairgrape.experiment.preparation import writable
from fairgrape.experiment.settings import Settings
from fairgrape.report.figures import PALETTE, figure_of
from fairgrape.studies.calibration import calibrate
from fairgrape.studies.costs import (
    PROTOCOL,
    PUBLISHED,
    Cost,
    Counts,
    cost,
    network_work,
    row_settings,
    sweep_cost,
)
from fairgrape.training.files import write_json
from fairgrape.training.stages import PRECISIONS

# %%
import json
import tempfile

import torch
from PIL import Image

from fairgrape.experiment.preparation import prepare
from fairgrape.experiment.run import run
from fairgrape.studies.costs import counts_of

home = Path(tempfile.mkdtemp())


# %% [markdown]
# [The work of a run](03_costs.ipynb) follows from its settings and is the same everywhere. [The speed](04_calibration.ipynb) depends on the machine. Hours are the work divided by the speed.
#
# ## Speed
#
# A network, size or precision that was not timed gets its speed from the nearest one that was, scaled by the FLOPs of one image. This is an extrapolation, and every table says so: small networks reach a lower
# share of a GPU's FLOPs than large ones. Nearest means first the same precision, then the same network, because these determine the share.

# %%
#| export
def _nearest(calibration: Mapping, network: str, image_size: int, precision: str) -> Mapping:
    "The nearest measurement, by precision, then network, then FLOPs."

    def flops(name, size):
        return np.log(network_work(name, 7, size).both)

    def distance(s):
        return (
            s["precision"] != precision,
            s["network"] != network,
            abs(flops(s["network"], s["image_size"]) - flops(network, image_size)),
        )

    return min(calibration["speeds"], key=distance)


# %% [markdown]
# The examples use a machine with round numbers: it trains 100 images a second, predicts 300, sorts a million candidates a second and writes 1 GB a second. It has three more measurements to choose from:

# %%
resnet34 = dict(
    network="resnet34", image_size=224, precision="fp32", train=100.0, score=100.0, predict=300.0
)
round_numbers = dict(speeds=[resnet34], selection=dict(c=1e-6, e=1.0), disk=1e9)
timed = dict(
    speeds=[
        resnet34,
        resnet34 | dict(image_size=64),
        resnet34 | dict(precision="bf16"),
        resnet34 | dict(network="resnet10", image_size=32),
    ]
)


def nearest(*wanted):
    return tuple(_nearest(timed, *wanted)[k] for k in ("network", "image_size", "precision"))


{
    wanted: nearest(*wanted)
    for wanted in (
        ("resnet34", 112, "bf16"),
        ("resnet34", 80, "fp32"),
        ("resnet10", 224, "fp32"),
        ("mobilenet_v2", 32, "fp32"),
    )
}

# %%
# precision, then network
assert nearest("resnet34", 112, "bf16") == ("resnet34", 224, "bf16") and nearest(
    "resnet10", 224, "fp32"
) == ("resnet10", 32, "fp32")
# then FLOPs
assert nearest("resnet34", 80, "fp32") == ("resnet34", 64, "fp32") and nearest(
    "resnet34", 200, "fp32"
) == ("resnet34", 224, "fp32")


# %%
#| export
def speed_of(
    calibration: Mapping,  # From `calibrate`
    network: str,  # As in the settings
    image_size: int,  # Pixels
    precision: str,  # As in the settings
    # Images a second: train, score, predict; and "measured", or the source of the scaling
) -> tuple[dict, str]:
    "The measured speed, or one scaled by FLOPs."
    near = _nearest(calibration, network, image_size, precision)
    wanted = network_work(network, 7, image_size)
    if (near["network"], near["image_size"], near["precision"]) == (network, image_size, precision):
        return near, "measured"
    has = network_work(near["network"], 7, near["image_size"])
    ratio = dict(
        train=has.both / wanted.both,
        score=has.both / wanted.both,
        predict=has.forward / wanted.forward,
    )
    return {
        k: near[k] * r for k, r in ratio.items()
    }, f"scaled by FLOPs from {near['network']}, {near['image_size']} px, {near['precision']}"


# %% [markdown]
# An image with half the side is nearly a quarter of the work. A machine that trains 100 images a second at 224 pixels is estimated to train almost 400 at 112.

# %%
speed_of(round_numbers, "resnet34", 112, "fp32")

# %%
scaled, source = speed_of(round_numbers, "resnet34", 112, "fp32")
half, full = network_work("resnet34", 7, 112), network_work("resnet34", 7, 224)
assert (
    speed_of(round_numbers, "resnet34", 224, "fp32") == (resnet34, "measured")
    and source == "scaled by FLOPs from resnet34, 224 px, fp32"
)
assert 350 < scaled["train"] < 450 and scaled == dict(
    train=100 * full.both / half.both,
    score=100 * full.both / half.both,
    predict=300 * full.forward / half.forward,
)
assert speed_of(round_numbers, "resnet34", 224, "bf16")[1] == source

# %% [markdown]
# ## Hours
#
# The time for selection at a network's size comes from the fitted power law, which is also an extrapolation for large networks. The law is evaluated at the first step, with all weights; the later, smaller steps are taken in proportion.

# %%
#| export
PARTS = ("training", "importance", "selection", "judging", "checkpoints")


def hours(
    cost: Cost,  # The work
    settings: Settings,  # Its network, image size and precision
    counts: Counts,  # Its images, for the groups
    calibration: Mapping,  # From `calibrate`
) -> dict[str, float]:  # Hours of each of `PARTS`
    "The time on the timed machine, one run after another."
    s, law = settings, calibration["selection"]
    rate = speed_of(calibration, s.network, s.image_size, s.precision)[0]
    # the law is evaluated at the first step
    size = network_work(s.network, sum(counts.heads), s.image_size).weights * counts.groups
    selecting = cost.selected * law["c"] * size ** (law["e"] - 1)
    images = (
        cost.trained / rate["train"],
        cost.scored / rate["score"],
        cost.judged / rate["predict"],
    )
    seconds = images[0], images[1], selecting, images[2], cost.written / calibration["disk"]
    return {part: t / 3600 for part, t in zip(PARTS, seconds)}


# %% [markdown]
# By hand, with the machine of round numbers: 360,000 trained images take an hour, and so do 3.6 billion candidates and 3.6 TB. If the time of selection grows with exponent 1.5, each candidate takes longer by a factor of the square root of their number: 149 million for
# the weights of ResNet-34 and the seven groups of FairFace.

# %%
paper, fairface = Settings(rate=0.99), PROTOCOL["fairface"]
whole = Cost(trained=360_000, scored=36_000, judged=1_080_000, selected=3.6e9, written=3.6e12)
hours(whole, paper, fairface, round_numbers)

# %%
by_hand = hours(whole, paper, fairface, round_numbers)
assert list(by_hand) == list(PARTS) and np.allclose(list(by_hand.values()), (1, 0.1, 1, 1, 1))
steeper = hours(whole, paper, fairface, round_numbers | dict(selection=dict(c=1e-6, e=1.5)))
assert np.isclose(steeper["selection"], (7 * 21_271_232) ** 0.5) and steeper["training"] == 1

# %% [markdown]
# A tiny run with a calibration of one second is the hardest case for such a prediction: it has little work, so the parts that are not counted (files, the bootstrap, Python) weigh most.

# %%
(home / "own").mkdir()
rows = [
    dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3])
    for i in range(160)
]
for i, row in enumerate(rows):
    pixels = np.random.default_rng(i).integers(0, 120, (24, 24, 3), np.uint8) + np.uint8(
        90 * (i % 2)
    )
    Image.fromarray(pixels).save(home / "own" / row["file"])
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
    rate=0.75,
    keep=0.5,
    epochs="1,1",
    lrs="1e-3,1e-4",
    retrain_epochs=1,
    retrain_lr=1e-4,
    importance_cap=20,
    augment="flip",
    bootstrap=100,
)
places = dict(data_root=home, runs_root=home / "runs", cache_root=home / "cache", progress=False)
mine = counts_of(prepare(tiny, **places))
quick = calibrate(1, "cpu", ["resnet10"], [32], weights=(2**14, 2**17))
took = json.loads((run(tiny, **places) / "metrics.json").read_text())["seconds"]
predicted = 3600 * sum(
    hours(cost(tiny, mine) + cost(replace(tiny, method="dense"), mine), tiny, mine, quick).values()
)
f"predicted {predicted:.1f} s, took {took:.1f} s"

# %%
assert 0 < predicted < 100 * took


# %% [markdown]
# ## The page
#
# The table has a row for each row of the protocol: its dense network, one FairGRAPE run at 0.99 and the share of the method itself (importance and selection), and 1,000 runs.

# %%
#| export
def _line(calibration: Mapping, row: str, network: str, **more) -> dict[str, object]:
    "One row of the protocol with one network."
    s, n = row_settings(row, network, rate=0.99, **more), PROTOCOL[row]

    def time_of(c):
        return hours(c, s, n, calibration)

    fair, sweep = time_of(cost(s, n)), sweep_cost(s, n)
    dense, total = time_of(cost(replace(s, method="dense"), n)), sum(fair.values())
    return {
        "images": n.train + n.val + n.test,
        "G": n.groups,
        "dense h": sum(dense.values()),
        "FairGRAPE h": total,
        "of it importance %": 100 * fair["importance"] / total,
        "selection %": 100 * fair["selection"] / total,
        "1,000 runs h": sum(time_of(sweep).values()),
        "1,000 runs kept GB": sweep.kept / 1e9,
        "images are": n.basis,
        "speed is": speed_of(calibration, network, s.image_size, s.precision)[1],
    }


# %%
line = _line(round_numbers, "fairface", "resnet34")
line

# %%
fair = hours(cost(paper, fairface), paper, fairface, round_numbers)
assert (
    np.isclose(line["FairGRAPE h"], sum(fair.values()))
    and np.isclose(line["of it importance %"] * sum(fair.values()), 100 * fair["importance"])
    and line["speed is"] == "measured"
)
assert np.isclose(
    line["dense h"],
    sum(
        hours(
            cost(replace(paper, method="dense"), fairface), paper, fairface, round_numbers
        ).values()
    ),
)
assert np.isclose(
    line["1,000 runs h"],
    sum(hours(sweep_cost(paper, fairface), paper, fairface, round_numbers).values()),
) and (line["images"], line["G"], line["images are"]) == (97_698, 7, "published")


# %%
#| export
def sizing_table(
    calibration: Mapping,  # From `calibrate`
    rows: Iterable[str] = tuple(PROTOCOL),  # Rows of the protocol
    networks: Iterable[str] = ("resnet34", "mobilenet_v2"),  # Networks
    **more,  # Other settings, e.g. precision
    # Hours: dense network, one FairGRAPE run at 0.99, 1,000 runs; GB kept; source of the speed
) -> pd.DataFrame:
    "The protocol in hours on the timed machine, one run at a time."
    return pd.DataFrame(
        {
            (row, network): _line(calibration, row, network, **more)
            for row in rows
            for network in networks
        }
    ).T.rename_axis(["row", "network"])


# %%
def said(v):
    return f"{v:,.1f}" if isinstance(v, float) else v


sizing_table(round_numbers, ["fairface", "utkface"]).map(said)

# %%
table = sizing_table(round_numbers, ["fairface", "utkface"], precision="bf16")
assert table.index.tolist() == [
    (r, n) for r in ("fairface", "utkface") for n in ("resnet34", "mobilenet_v2")
] and table.index.names == ["row", "network"]
assert table.loc[("fairface", "resnet34")].to_dict() == line | {
    "speed is": "scaled by FLOPs from resnet34, 224 px, fp32"
}


# %% [markdown]
# The parts of the hours differ between methods: training dominates for those that retrain after every step; checkpoints dominate for none.

# %%
#| export
def _stack(ax, table: Mapping[str, Mapping[str, float]]):
    "A bar for each method, cut into its parts."
    left = np.zeros(len(table))
    for i, part in enumerate(PARTS):
        width = np.array([h[part] for h in table.values()])
        ax.barh(list(table), width, left=left, color=PALETTE[i], label=part)
        left += width
    ax.invert_yaxis()


# %%
fig, (ax,) = figure_of(1, 1, (6, 1.6))
_stack(ax, dict(one=dict(zip(PARTS, (1, 2, 3, 4, 5))), two=dict.fromkeys(PARTS, 1)))
ax.get_legend_handles_labels()[1]

# %%
bars = [(round(b.get_x(), 6), b.get_width()) for b in ax.patches]
assert (
    bars[::2] == [(0, 1), (1, 2), (3, 3), (6, 4), (10, 5)]
    and bars[1::2] == [(i, 1) for i in range(5)]
    and ax.get_legend_handles_labels()[1] == list(PARTS)
    and ax.yaxis_inverted()
)


# %%
#| export
def plot_hours(
    calibration: Mapping,  # From `calibrate`
    row: str = "fairface",  # One of `PROTOCOL`
    network: str = "resnet34",  # As in the settings
    rate: float = 0.99,  # Pruning rate
) -> Figure:  # A bar for each method, cut into its parts
    "The hours of a run by part, for each method."
    n, methods = PROTOCOL[row], ("dense", *PUBLISHED)
    table = {
        m: hours(cost(s := row_settings(row, network, method=m, rate=rate), n), s, n, calibration)
        for m in methods
    }
    fig, (ax,) = figure_of(1, 1, (8, 3.6))
    _stack(ax, table)
    ax.set(xlabel="hours on the machine that was timed", title=f"{row}, {network}, rate {rate:g}")
    fig.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(PARTS), fontsize=9
    )
    fig.set_label(
        "Hours of one run by method. "
        + "; ".join(f"{m} {sum(h.values()):.1f}" for m, h in table.items())
        + "."
    )
    return fig


# %%
plot_hours(round_numbers)

# %%
said_by = plot_hours(round_numbers).get_label()
assert (
    f"dense {line['dense h']:.1f}; fairgrape {line['FairGRAPE h']:.1f}; " in said_by
    and said_by.count(";") == len(PUBLISHED)
)
assert (
    plot_hours(round_numbers, "utkface", "mobilenet_v2", 0.5).axes[0].get_title()
    == "utkface, mobilenet_v2, rate 0.5"
)

# %% [markdown]
# ## Measured
#
# The same table with real speeds. There was no GPU, so these are the hours of two threads of a server's CPU, from one minute of `calibrate` while the machine was busy; nobody would run the protocol there. The work carries over to
# another machine. For the speed, run `fairgrape calibrate` on it.

# %%
MEASURED = json.loads("""
{"about": {"threads": 2, "processor": "x86_64", "gpu": null, "versions": {"torch": "2.15.0"},
           "measured": "2026-11-23T15:57:25+00:00"},
 "speeds": [
  {"network": "resnet34", "image_size": 224, "precision": "fp32", "batch": 8,
   "train": 3.425, "score": 1.996, "predict": 6.635},
  {"network": "mobilenet_v2", "image_size": 224, "precision": "fp32", "batch": 8,
   "train": 3.884, "score": 7.357, "predict": 27.18}],
 "selection": {"points": [[1835008, 0.04906], [7340032, 0.1637], [29360128, 0.5432]],
               "c": 1.817e-07, "e": 0.8672}, "disk": 1200000000.0}""")

# %%
sizing_table(MEASURED).map(said).drop(columns=["images are", "speed is"])

# %%
plot_hours(MEASURED)

# %% [markdown]
# The growth laws come from `make bench`: the importance pass, the selection and the memory of both against weights (eight equal convolutions, 2 groups), images and groups (ResNet-10, 4.9 million weights). An exponent
# of 1 is proportional, 0 is no growth. The table of the bench has the sizes and measurements.

# %%
MEMORY = "peak memory, network included, MiB"
GREW = [
    "over",
    "what grows",
    "from",
    "to",
    "measured from",
    "measured to",
    "exponent",
    "between the two largest",
]
GROWTH = [
    dict(zip(GREW, row))
    for row in (
        ("weights", "importance pass, s", 1003708, 100094742, 0.0447, 3.744, 0.94, 1.42),
        ("weights", "selection to 90 %, s", 1003708, 100094742, 0.04133, 5.567, 1.06, 1.22),
        ("weights", MEMORY, 1003708, 100094742, 40.86, 1749.0, 0.84, 0.64),
        ("images", "importance pass, s", 112, 1792, 0.2876, 4.599, 0.99, 1.17),
        ("images", "selection to 90 %, s", 112, 1792, 0.5226, 0.5804, 0.03, 0.12),
        ("images", MEMORY, 112, 1792, 502.2, 446.1, -0.03, -0.2),
        ("groups", "importance pass, s", 2, 50, 1.888, 2.287, 0.08, 0.02),
        ("groups", "selection to 90 %, s", 2, 50, 0.3637, 3.971, 0.75, 1.2),
        ("groups", MEMORY, 2, 50, 273.4, 2042.0, 0.64, 0.77),
    )
]
pd.DataFrame(GROWTH).set_index(["over", "what grows"])


# %% [markdown]
# ## The command
#
# `fairgrape calibrate` times the machine, saves the result as `calibration.json` in the runs folder, and prints the table.

# %%
#| export
def _machine(about: Mapping) -> str:
    "The timed machine, in a line."
    machine = about["gpu"] or f"{about['threads']} threads of a {about['processor']} CPU"
    return f"{machine}, torch {about['versions']['torch']}, measured {about['measured']}"


# %%
about = dict(
    gpu="", threads=2, processor="x86_64", versions=dict(torch="2.9"), measured="2026-01-01"
)
assert _machine(about) == "2 threads of a x86_64 CPU, torch 2.9, measured 2026-01-01" and _machine(
    about | dict(gpu="H100")
).startswith("H100, torch 2.9, ")
_machine(about)


# %%
#| export
def calibration_text(
    calibration: Mapping,  # From `calibrate`
) -> str:  # For a terminal
    "The protocol's hours on the timed machine, as text."
    said = [
        _machine(calibration["about"]),
        (
            "Hours on this machine, one run after another; divide by the number of GPUs, or of"
            " workers that do not share cores."
        ),
        (
            "1,000 runs: 8 methods, 5 rates, 25 seeds; the dense network is trained once for all"
            " runs of a seed."
        ),
    ]
    found = {s["precision"] for s in calibration["speeds"]}

    def show(v):
        return f"{v:,.1f}" if isinstance(v, float) else str(v)

    for precision in [p for p in PRECISIONS if p in found]:
        table = sizing_table(calibration, precision=precision).map(show)
        said += [f"\n{precision}", table.drop(columns=["images are", "speed is"]).to_string()]
        said += [
            f"Speeds of {network}: {how}."
            for network, how in table["speed is"].groupby("network").first().items()
        ]
    return "\n".join(
        [
            *said,
            (
                "people: the number of images is an assumed upper bound. Starting a run, its"
                " intervals and its report are not counted."
            ),
        ]
    )


# %%
text = calibration_text(
    round_numbers
    | dict(about=about, speeds=[resnet34, resnet34 | dict(precision="bf16", train=400.0)])
)
print(text[:1200])

# %%
assert (
    text.startswith(_machine(about))
    and text.count("1,000 runs h") == 2
    and text.index("\nfp32") < text.index("\nbf16")
    and text.endswith("not counted.")
)
assert (
    text.count("Speeds of resnet34: measured.") == 2
    and text.count("Speeds of mobilenet_v2: scaled by FLOPs from resnet34, 224 px, bf16.") == 1
    and f"{line['1,000 runs h']:,.1f}" in text
)


# %%
#| export
def calibrate_and_tell(
    seconds: float = 120,  # Approximate duration
    device: str = "",  # Empty: CUDA if available, else the CPU
    runs_root: str | Path | None = None,  # Default: settings.ini
    tell: Callable[[str], None] = print,  # Called with every message
    **how,  # networks, sizes, precisions, threads, batch, weights: see `calibrate`
) -> Path:  # calibration.json
    """Time this machine, save the result, and print how long the protocol takes on it.

    Raises: OSError if the runs folder cannot be written to."""
    folder = writable(root("runs", runs_root))
    calibration = calibrate(seconds, device, folder=folder, tell=tell, **how)
    tell(calibration_text(calibration))
    return write_json(folder / "calibration.json", calibration)


# %%
said = []
file = calibrate_and_tell(
    0.5,
    "cpu",
    home / "runs",
    said.append,
    networks=["resnet10"],
    sizes=[32],
    weights=(2**14, 2**17),
)
print(*said[:3], said[-1].splitlines()[0], sep="\n")

# %%
assert (
    file.name == "calibration.json"
    and json.loads(file.read_text())["about"]["threads"] == torch.get_num_threads()
)
assert "scaled by FLOPs from resnet10" in said[-1] and "1,000 runs h" in said[-1]
(home / "file").write_text("")
try:
    calibrate_and_tell(1, "cpu", home / "file")
except OSError as e:
    print(str(e).replace(str(home), "…"))
else:
    raise AssertionError("a file was taken for the runs folder")
