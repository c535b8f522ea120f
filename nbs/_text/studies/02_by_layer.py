# %% [markdown]
# # Layer by layer
#
# > Which layers of a finished run cause its disparity

# %%
#| default_exp studies.by_layer

# %%
#| export
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fairgrape.data.loaders import Images
from fairgrape.experiment.dense import dense_network, images_of
from fairgrape.experiment.importance_data import find_clusters
from fairgrape.experiment.preparation import Job, prepare
from fairgrape.experiment.settings import form
from fairgrape.judge.compare import disparities
from fairgrape.judge.disparity import disparity
from fairgrape.networks.models import predict_classes
from fairgrape.report.comparison import report_table
from fairgrape.report.figures import PALETTE, figure_of, plain
from fairgrape.report.runs import Run, settings_of
from fairgrape.training.epochs import predict

# %%
import tempfile
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

from PIL import Image

from fairgrape.experiment.run import run
from fairgrape.experiment.settings import Settings
from fairgrape.report.runs import load_run

home = Path(tempfile.mkdtemp())

# %% [markdown]
# This notebook applies the masks of a finished run to the dense network one layer at a time, without retraining. The loss of each group is then due to that layer alone. The ρ of the layers do not add up to that of the whole network, because layers
# interact and retraining recovers much of the loss, but they show which layers are pruned unequally.
#
# The example has eight one-pixel pictures: those of group a are red and of class 0, those of group b green and of class 1. The first layer separates red from green, the second passes the result on. The mask of the second layer removes the weight that passes green on.

# %%
model = nn.Sequential(
    nn.Flatten(), nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)
)
with torch.no_grad():
    model[1].weight.copy_(torch.eye(2, 3))
    model[3].weight.copy_(torch.eye(2))
pixels = torch.tensor([[255, 0, 0], [0, 255, 0]] * 4, dtype=torch.uint8)
pictures = Images(
    pixels.view(8, 3, 1, 1),
    torch.tensor([[0], [1]] * 4),
    torch.tensor([0, 1] * 4),
    dict(test=torch.arange(8)),
    ("a", "b"),
)
job = SimpleNamespace(
    table=pd.DataFrame(dict(split=["test"] * 8)),
    labels=pictures.labels.numpy(),
    group=pictures.groups.numpy(),
    sizes=[2],
    group_names=["a", "b"],
)
masks = {"1": torch.ones(2, 3, dtype=torch.bool), "3": torch.tensor([[True, True], [True, False]])}


# %%
#| export
@contextmanager
def _one_layer_pruned(
    model: nn.Module,  # The dense network
    name: str,  # The layer's name
    mask: Tensor,  # True where a weight is kept
) -> Iterator[None]:
    "Context in which that layer's pruned weights are 0; the network is then restored."
    weight = dict(model.named_modules())[name].weight
    whole = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(mask.to(weight.device))
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(whole)


# %%
with _one_layer_pruned(model, "3", masks["3"]):
    within = model[3].weight.tolist()
print(within, model[3].weight.tolist())
assert within == [[1, 0], [0, 0]] and model[3].weight.tolist() == [[1, 0], [0, 1]]


# %%
#| export
def layer_disparity(
    job: Job,  # Settings and data
    images: Images,  # The job's images
    model: nn.Module,  # The dense network
    masks: Mapping[str, Tensor],  # Layer name → True where a weight is kept
    device: str | torch.device = "cpu",  # Where to compute
    B: int = 500,  # Resamples for the noise floor
    # Index layer; kept (fraction), accuracy (percent), rho, floor_95, and `delta:` of each group
    # (points)
) -> pd.DataFrame:
    "Prune one layer at a time, without retraining, and compare the groups."
    test = (job.table["split"] == "test").to_numpy()
    labels, group = job.labels[test], job.group[test]

    def right():
        return (
            predict_classes(
                predict(model, images, "test", job.sizes, device=device), job.sizes
            ).numpy()
            == labels
        ).mean(1)

    dense, rows = right(), {}
    for name, mask in masks.items():
        with _one_layer_pruned(model, name, mask):
            pruned = right()
        delta = 100 * np.bincount(group, pruned - dense) / np.bincount(group)
        floor = disparities(dense, pruned, group, B).loc["rho", "floor_95"]
        rows[name] = dict(
            kept=float(mask.float().mean()),
            accuracy=100 * pruned.mean(),
            rho=float(disparity(delta)),
            floor_95=floor,
        )
        rows[name] |= {f"delta:{n}": d for n, d in zip(job.group_names, delta)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")


# %%
by_layer = layer_disparity(job, pictures, model, masks)
by_layer

# %% [markdown]
# All of group b is predicted as class 0: Δ is 0 and −100, so ρ is 100/√2.

# %%
assert by_layer.loc["1"].drop("floor_95").tolist() == [1, 100, 0, 0, 0] and by_layer.loc[
    "3", ["kept", "accuracy"]
].tolist() == [0.75, 50]
assert by_layer.loc["3", ["delta:a", "delta:b"]].tolist() == [0, -100]
assert np.isclose(by_layer.loc["3", "rho"], 100 / 2**0.5) and by_layer.index.name == "layer"


# %%
#| export
def plot_layers(
    tables: Mapping[str, pd.DataFrame],  # Run's label → its `layer_disparity`
) -> Figure:  # A panel for each run
    "ρ of every layer pruned by itself, over its noise floor."
    fig, axes = figure_of(len(tables), 1, (8, 0.8 + 2.2 * len(tables)), sharex=True, sharey=True)
    for ax, (label, t) in zip(axes, tables.items()):
        x = np.arange(len(t))
        ax.bar(
            x,
            t.floor_95,
            0.8,
            color="0.9",
            hatch="....",
            edgecolor="0.7",
            lw=0,
            label="noise floor (95 %)",
        )
        ax.plot(x, t.rho, "o", color=PALETTE[0], ms=4, label="ρ of this layer's pruning")
        ax.set(title=plain(label, 100), ylabel="ρ (points)", ylim=(0, None))
    axes[-1].set_xlabel(
        f"layer, from {plain(t.index[0])} (0) to {plain(t.index[-1])} ({len(t) - 1})"
    )
    axes[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    fig.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9
    )
    most = [
        f"{label}: largest at {t.rho.idxmax()}, {t.rho.max():.1f} points, floor"
        f" {t.floor_95[t.rho.idxmax()]:.1f}"
        for label, t in tables.items()
    ]
    fig.set_label(f"Disparity ρ when one layer alone is pruned, layer by layer. {'; '.join(most)}.")
    return fig


# %%
plot_layers({"fairgrape": by_layer})

# %%
two = plot_layers({"fairgrape": by_layer, "ws": by_layer.assign(rho=[30.0, 20.0])})
assert (
    "fairgrape: largest at 3, 70.7 points" in two.get_label()
    and "ws: largest at 1, 30.0 points" in two.get_label()
)
assert [ax.get_title() for ax in two.axes] == ["fairgrape", "ws"]
assert (
    two.axes[0].lines[0].get_ydata().tolist() == by_layer.rho.tolist()
    and [bar.get_height() for bar in two.axes[0].patches] == by_layer.floor_95.tolist()
)

# %% [markdown]
# ## From run folders
#
# The masks are in the folder of the run, the dense network in the folder beside it. The example is a minimal run: dark pictures against light ones, red against blue.

# %%
rng = np.random.default_rng(0)
rows = [
    dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3])
    for i in range(160)
]
(home / "own").mkdir()
for row in rows:
    Image.fromarray(
        (rng.integers(0, 120, (16, 16, 3)) + (90 if row["shade"] == "light" else 0)).astype(
            np.uint8
        )
    ).save(home / "own" / row["file"])
pd.DataFrame(rows).to_csv(home / "own" / "labels.csv", index=False)
tiny = Settings(
    dataset="folder",
    data_path=str(home / "own"),
    task="shade",
    groups="tint",
    network="resnet10",
    weights="none",
    image_size=16,
    method="ws",
    rate=0.9,
    epochs="1",
    lrs="1e-3",
    batch=16,
    augment="none",
    bootstrap=200,
)
finished = load_run(
    run(tiny, data_root=home, runs_root=home / "runs", cache_root=home / "cache", progress=False)
)
finished.path.name


# %%
#| export
def layers_of(
    run: Run,  # A finished run
    device: str | torch.device = "cpu",  # Where to compute
    data_root: str | Path | None = None,  # Folder of the data sets; default: settings.ini
    cache_root: str | Path | None = None,  # Folder of decoded images; default: settings.ini
) -> pd.DataFrame:  # Its `layer_disparity`
    "Prune layers one at a time, from the masks of a run and the dense network beside it."
    job = prepare(
        settings_of(run),
        data_root,
        run.path.parent,
        cache_root,
        run.settings.get("name", ""),
        progress=False,
    )
    images = images_of(job, device, progress=False)
    dense = dense_network(job, images, device, progress=False)
    job, images = find_clusters(job, images, dense.model, device)
    return layer_disparity(job, images, dense.model, run.masks, device)


# %%
found = layers_of(finished, data_root=home, cache_root=home / "cache")
found.head(3).round(2)

# %%
assert list(found.index) == list(finished.masks) and np.allclose(
    found.kept, [mask.float().mean() for mask in finished.masks.values()]
)
assert {"delta:blue", "delta:red"} <= set(found)


# %% [markdown]
# Methods that start from the initial weights are left out: their masks do not belong to the weights of the dense network.

# %%
#| export
def run_layers(
    runs: list[Run],  # A study's runs
    device: str | torch.device = "cpu",  # Where to compute
    data_root: str | Path | None = None,  # Folder of the data sets; default: settings.ini
    cache_root: str | Path | None = None,  # Folder of decoded images; default: settings.ini
) -> dict[str, pd.DataFrame]:  # Run's label → its `layer_disparity`
    "`layers_of` for every run that pruned the trained network."
    tables, rows = {}, report_table(runs).set_index("run")
    for one in runs:
        if one.path.name not in rows.index or form(settings_of(one)).start == "initial":
            continue
        r = rows.loc[one.path.name]
        label = f"{r.network}, {r.label}, scope {r['scope']}, rate {r.rate:g}, seed {r.seed}"
        if imbalance := one.settings.get("imbalance"):
            label += f", imbalance {imbalance}"
        if label in tables:
            raise ValueError(
                f"two runs would share the label {label!r}: give one of them to this study"
            )
        tables[label] = layers_of(one, device, data_root, cache_root)
    return tables


# %%
where = dict(data_root=home, cache_root=home / "cache")
layers = run_layers([finished], **where)
{label: t.rho.idxmax() for label, t in layers.items()}


# %%
def changed(name, **more):
    return replace(finished, path=finished.path.parent / name, settings=finished.settings | more)


assert list(layers) == ["resnet10, ws, scope layer, rate 0.9, seed 0"] and layers[
    "resnet10, ws, scope layer, rate 0.9, seed 0"
].equals(found)
assert (
    run_layers(
        [changed("snip", method="snip"), changed("dense", method="dense"), finished], **where
    ).keys()
    == layers.keys()
)
try:
    run_layers([finished, changed("twin")], **where)
except ValueError as e:
    print(e)
else:
    raise AssertionError("two runs share a label")
with patch(f"{run_layers.__module__}.layers_of", return_value=found):
    rare = run_layers([changed("rare", imbalance="tint=red:0.5")])
assert (
    list(rare) == ["resnet10, ws, scope layer, rate 0.9, seed 0, imbalance tint=red:0.5"]
    and rare.popitem()[1] is found
)
