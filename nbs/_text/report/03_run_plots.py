# %% [markdown]
# # Plots of a run
#
# > Which group paid, which layers lost weights, whether training converged, whose importance was kept

# %%
#| default_exp report.run_plots

# %%
#| export
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fairgrape.experiment.results import ALL_LAYERS
from fairgrape.report.figures import (
    MARKERS,
    PALETTE,
    bar_lengths,
    figure_of,
    legend_columns,
    name_ticks,
    plain,
)

# %%
import torch
from IPython.display import HTML
from matplotlib.text import Text

from fairgrape.judge.compare import compare
from fairgrape.report.figures import html_figure


def show(fig, caption):
    return HTML(html_figure(fig, caption))


# %% [markdown]
# ## Who paid
#
# The left panel shows each group's accuracy before and after, the right panel the change, both with 95 % intervals. Read the right panel first:
# it compares both networks on the same images, so its intervals are narrower. The group `all` is separate at the end.
#
# The examples use a made-up test set: 400 images, four groups, a dense network that is right on 92 %, and a pruned one that gets some
# of each group's images wrong.

# %%
tones = [f"tone-{i}" for i in (1, 2, 3, 4)]


def made_up(loss, seed=0):
    rng = np.random.default_rng(seed)
    groups, y = np.repeat(np.arange(4), [160, 120, 80, 40]), rng.integers(0, 3, 400)
    dense = np.where(rng.random(400) < 0.92, y, (y + 1) % 3)
    pruned = np.where(rng.random(400) < np.array(loss)[groups], (y + 2) % 3, dense)
    return compare(y, dense, pruned, groups, {"expression": ["happy", "calm", "sad"]}, tones, B=200)


metrics = made_up(loss=[0.02, 0.03, 0.05, 0.20])
t = pd.DataFrame(metrics["table"]).set_index("group")
t.round(1)


# %%
#| export
def _accuracy_bars(ax: Axes, t: pd.DataFrame):
    "Accuracy of the dense (grey) and the pruned network (hatched)."
    for shift, which, style in (
        (-0.2, "dense", dict(color="0.8")),
        (0.2, "pruned", dict(color=PALETTE[0], hatch="//")),
    ):
        value = t[f"accuracy_{which}"]
        ends = bar_lengths(t[f"accuracy_{which}_low"], value, t[f"accuracy_{which}_high"])
        ax.bar(
            np.arange(len(t)) + shift,
            value,
            0.4,
            yerr=ends,
            capsize=2,
            edgecolor="white",
            label=which,
            error_kw=dict(lw=1),
            **style,
        )
    ax.set(ylabel="accuracy (%)", title="Accuracy", ylim=(0, 100))


# %%
fig, (ax,) = figure_of()
_accuracy_bars(ax, t)
print([round(bar.get_height(), 1) for bar in ax.patches])
assert np.allclose(
    [bar.get_x() + 0.2 for bar in ax.patches], [*(np.arange(5) - 0.2), *(np.arange(5) + 0.2)]
)
assert np.allclose(
    [bar.get_height() for bar in ax.patches], [*t.accuracy_dense, *t.accuracy_pruned]
) and ax.get_ylim() == (0, 100)
assert ax.patches[-1].get_hatch() and not ax.patches[0].get_hatch()
ends = [
    seg[:, 1]
    for c in ax.containers
    if hasattr(c, "errorbar")
    for seg in c.errorbar.lines[2][0].get_segments()
]
assert np.allclose(
    ends,
    [
        *t[["accuracy_dense_low", "accuracy_dense_high"]].to_numpy(),
        *t[["accuracy_pruned_low", "accuracy_pruned_high"]].to_numpy(),
    ],
)


# %%
#| export
def _change_points(ax: Axes, t: pd.DataFrame):
    "Change of each group's accuracy, with intervals."
    ax.errorbar(
        range(len(t)),
        t.delta,
        bar_lengths(t.delta_low, t.delta, t.delta_high),
        fmt="o",
        color=PALETTE[0],
        capsize=3,
    )
    ax.axhline(0, color="0.3", lw=1)
    ax.set(ylabel="Δ = pruned − dense (points)", title="Change", xlim=(-0.5, len(t) - 0.5))


# %%
fig, (ax,) = figure_of()
_change_points(ax, t)
print(ax.lines[0].get_ydata().astype(float).round(1))
assert (
    np.allclose(ax.lines[0].get_ydata().astype(float), t.delta)
    and ax.get_xlim() == (-0.5, 4.5)
    and ax.lines[-1].get_ydata() == [0, 0]
)
assert np.allclose(
    [seg[:, 1] for seg in ax.containers[0].lines[2][0].get_segments()],
    t[["delta_low", "delta_high"]],
)


# %% [markdown]
# A group's size is under its name, because the size mainly determines the width of the interval.

# %%
#| export
def plot_groups(
    metrics: dict,  # From `compare`, or a run's `metrics`
) -> Figure:  # Two panels
    "Accuracy of each group, dense and pruned, and its change, with 95 % intervals."
    t = pd.DataFrame(metrics["table"]).set_index("group")
    fig, (left, right) = figure_of(1, 2, (max(8, 1.1 * len(t) + 3), 3.8))
    _accuracy_bars(left, t)
    _change_points(right, t)
    for ax in (left, right):
        ax.axvline(len(t) - 1.5, color="0.8", lw=1)
    name_ticks([left, right], list(t.index), list(t.n))
    fig.legend(loc="outside lower left", ncols=2, fontsize=9)
    said = [
        f"{g} (n = {r.n:.0f}): {r.accuracy_dense:.1f} to {r.accuracy_pruned:.1f} percent"
        for g, r in t.iterrows()
    ]
    fig.set_label(
        "Accuracy of the dense and the pruned network for each group, and its change."
        f" {'; '.join(said)}."
    )
    return fig


# %%
show(plot_groups(metrics), "Tone-4 paid, and its interval is the widest")

# %%
fig = plot_groups(metrics)
heights = [bar.get_height() for bar in fig.axes[0].patches]
assert (
    np.allclose(heights[:5], [row["accuracy_dense"] for row in metrics["table"]])
    and len(heights) == 10
)
assert (
    "tone-4 (n = 40)" in fig.get_label()
    and fig.axes[1].get_title() == "Change"
    and fig.axes[1].get_xticklabels()[4].get_text() == "all\nn = 400"
)
assert [t.get_text() for t in fig.legends[0].get_texts()] == ["dense", "pruned"] and [
    ax.lines[-1].get_xdata()[0] for ax in fig.axes
] == [3.5, 3.5]
# ten columns of names: a wider figure, slanted
wide = plot_groups(dict(table=metrics["table"] * 2))
assert wide.get_figwidth() == 14 and [
    f.axes[0].get_xticklabels()[0].get_rotation() for f in (fig, wide)
] == [0, 60]


# %% [markdown]
# ## Who pays, and when
#
# A loss may come with the first step or with the last. This plot shows the change of each group's accuracy on the validation images from the dense network, at the rate that each step reached. A line of two points is a method that prunes in one step. The groups
# of a validation part are small and there is no interval, so this plot shows when a loss may begin; the test images above show whether a group lost.

# %%
#| export
def plot_paid(
    # A run's `paid`: step, rate, all, and one column per group, changes in points; step 0 is the
    # dense network
    paid: pd.DataFrame,
) -> Figure:  # One panel: a line per group
    """Change of each group's validation accuracy over the pruning steps.

    Raises: ValueError if nothing was measured.
    """
    if not len(paid):
        raise ValueError(
            "no accuracy by step: this run was not pruned, or it is older than this record"
        )
    groups = [c for c in paid if c not in ("step", "rate", "all") and paid[c].notna().any()]
    fig, (ax,) = figure_of(size=(7, 3.8))
    for g, name in enumerate(groups):
        ax.plot(
            paid.rate,
            paid[name],
            "-",
            marker=MARKERS[g % 10],
            color=PALETTE[g % 10],
            mfc="white" if (g + g // 10) % 2 else None,
            ms=5,
            lw=1.2,
            label=plain(name, 28),
        )
    ax.plot(paid.rate, paid["all"], "--", color="0.3", lw=1.6, label="all images")
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set(xlabel="pruning rate reached", ylabel="Δ on validation images (points)")
    ax.set_title("Who pays, and when")
    names = [plain(name, 28) for name in groups]
    fig.legend(loc="outside lower center", ncols=legend_columns([*names, "all images"]), fontsize=8)
    last = paid.iloc[-1]
    said = [
        f"{name} {last[name]:+.1f} (lowest {paid[name].min():+.1f} at rate"
        f" {paid.rate[paid[name].idxmin()]:.4g})"
        for name in groups
    ]
    fig.set_label(
        f"Change of each group's validation accuracy since the dense network, in points, over"
        f" {len(paid) - 1} pruning steps. At rate {last.rate:.4g}: {', '.join(said)}."
    )
    return fig


# %%
paid = pd.DataFrame(
    {
        "step": [0, 1, 2, 3],
        "rate": [0, 0.5, 0.75, 0.9],
        "all": [0, 0.5, -2, -9.0],
        "tone-1": [0, 1, -1, -4.0],
        "tone-4": [0, -2, -6, -28.0],
    }
)
show(plot_paid(paid), "tone-4 begins to pay at the second step")

# %%
fig = plot_paid(paid)
(ax,) = fig.axes
first, second, every, _ = ax.lines
assert [line.get_label() for line in ax.lines[:3]] == ["tone-1", "tone-4", "all images"]
assert list(second.get_xdata()) == [0, 0.5, 0.75, 0.9]
assert list(second.get_ydata()) == [0, -2, -6, -28]
assert list(every.get_ydata()) == [0, 0.5, -2, -9] and first.get_marker() != second.get_marker()
assert fig.get_label() == (
    "Change of each group's validation accuracy since the dense network, in points, over 3 pruning"
    " steps. At rate 0.9: tone-1 -4.0 (lowest -4.0 at rate 0.9), tone-4 -28.0 (lowest -28.0 at rate"
    " 0.9)."
)
# one step, and a group without validation images
assert len(plot_paid(paid.iloc[[0, 3]].assign(none=np.nan)).axes[0].lines) == 4
try:
    plot_paid(paid[:0])
except ValueError as e:
    print(e)
else:
    raise AssertionError("nothing was drawn")


# %% [markdown]
# ## Which layers lost weights
#
# With scope `layer` all layers keep the same fraction. With scope `global` they do not, and this plot shows a layer that has lost almost all
# weights. The axis is logarithmic: the step from 1 % to 0.1 % is as large as that from 10 % to 1 %. It begins at the power of ten below the smallest share above 0.

# %%
#| export
def _axis_from(*percent: float) -> float:
    "The start of a logarithmic axis: the power of ten below the smallest value above 0."
    shown = [p for p in percent if p > 0]
    return 10 ** np.floor(np.log10(max(min(shown), 1e-6)) - 0.1) if shown else 0.01


# %%
print(_axis_from(8.1, 23), _axis_from(0, 1.2), _axis_from(0, 0), _axis_from(1e-9))
assert (
    np.allclose(
        [_axis_from(50, 20), _axis_from(8.1, 23), _axis_from(0, 1.2), _axis_from(1e-9) * 1e7],
        [10, 1, 0.1, 1],
    )
    and _axis_from(0, 0) == 0.01
)


# %%
#| export
def _kept_axis(ax: Axes, layers: pd.Series, edge: float):
    "One row for each layer, percent on a logarithmic axis from `edge`."
    ax.set_yticks(range(len(layers)), [plain(name) for name in layers], fontsize=8)
    ticks = [t for t in 10.0 ** np.arange(-6, 3) if t >= edge]
    ax.set(
        xscale="log",
        xlabel="weights kept (%)",
        xlim=(edge, 130),
        ylim=(len(layers) - 0.4, -0.6),
        xticks=ticks,
    )
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(axis="x", color="0.88")
    ax.grid(axis="y", visible=False)


# %%
fig, (ax,) = figure_of(size=(5, 1.5))
_kept_axis(ax, pd.Series(["conv1", "fc"]), edge=0.1)
fig.draw_without_rendering()
print([t.get_text() for t in ax.get_xticklabels()])
assert [t.get_text() for t in ax.get_xticklabels()] == ["0.1", "1", "10", "100"] and [
    t.get_text() for t in ax.get_yticklabels()
] == ["conv1", "fc"]
assert ax.get_ylim() == (1.6, -0.6) and ax.get_xlim() == (0.1, 130)  # the first layer on top
assert ax.xaxis.get_gridlines()[0].get_visible() and not ax.yaxis.get_gridlines()[0].get_visible()


# %%
#| export
def plot_sparsity(
    layers: pd.DataFrame,  # Columns layer, weights, kept
) -> Figure:  # One panel, a line per layer
    "Share of the weights kept in each layer, on a logarithmic axis."
    kept, total = 100 * layers.kept / layers.weights, 100 * layers.kept.sum() / layers.weights.sum()
    edge, y = _axis_from(*kept, total), np.arange(len(layers))
    fig, (ax,) = figure_of(size=(7, 1.7 + 0.19 * len(layers)))
    ax.hlines(y, edge, kept, color="0.75", lw=2)
    ax.plot(kept, y, "o", color=PALETTE[0], label="layer")
    ax.axvline(total, color=PALETTE[3], ls="--", label=f"all weights: {total:.3g} %")
    _kept_axis(ax, layers.layer, edge)
    ax.set_title(f"Kept weights per layer (sparsity {100 - total:.4g} %)")
    fig.legend(loc="outside lower right", ncols=2, fontsize=8)
    least, most = (
        (layers.layer[i], f"{kept[i]:.3g} percent") for i in (kept.idxmin(), kept.idxmax())
    )
    fig.set_label(
        f"Share of weights kept in each of {len(layers)} layers; {total:.3g} percent of all"
        f" weights. Least: {', '.join(least)}; most: {', '.join(most)}."
    )
    return fig


# %%
layers = pd.DataFrame(
    {
        "layer": ["conv1", "layer1.0.conv1", "fc"],
        "weights": [1728, 36864, 1536],
        "kept": [400, 3000, 612],
    }
)
show(plot_sparsity(layers), "The middle layer keeps least")

# %% [markdown]
# The network keeps 4,012 of 40,128 weights, 10 %: 23.1 % of conv1, 8.14 % of the middle layer, 39.8 % of the head.

# %%
fig = plot_sparsity(layers)
assert np.allclose(fig.axes[0].lines[0].get_xdata(), [23.148, 8.138, 39.844], atol=0.001)
assert (
    "10 percent of all weights" in fig.get_label()
    and "Least: layer1.0.conv1, 8.14 percent" in fig.get_label()
)
ax = fig.axes[0]
assert (
    np.allclose(ax.lines[1].get_xdata(), 9.998, atol=0.001)
    and ax.get_title() == "Kept weights per layer (sparsity 90 %)"
)
assert np.allclose(
    [seg[:, 0] for seg in ax.collections[0].get_segments()],
    [[1, 23.148], [1, 8.138], [1, 39.844]],
    atol=0.001,
)
assert [t.get_text() for t in fig.legends[0].get_texts()] == [
    "layer",
    "all weights: 10 %",
] and np.isclose(fig.get_figheight(), 2.27)
assert [t.get_text() for t in ax.get_yticklabels()] == layers.layer.tolist()
# 4 of 36,864 are 0.011 %, of all weights 0.00997 %
assert plot_sparsity(layers.assign(kept=[0, 4, 0])).axes[0].get_xlim()[0] == 0.001


# %% [markdown]
# ## Did training converge?
#
# The losses are on top and the validation accuracy below, for all stages in order. Dotted lines separate the dense training, the pruning steps and the
# final training. Filled points are the epochs whose weights were kept.

# %%
#| export
def _mark_stages(axes: Sequence[Axes], labels: pd.Series):
    "A dotted line at the start of each stage in all panels, with its name in the first."
    for start in labels.index[labels != labels.shift()]:
        for ax in axes:
            ax.axvline(start + 0.5, color="0.6", lw=0.8, ls=":")
        axes[0].annotate(
            plain(labels[start]),
            (start + 0.55, 1),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            fontsize=7,
            color="0.3",
        )


# %%
fig, axes = figure_of(2, 1)
_mark_stages(axes, pd.Series(["dense", "dense", "step 1", "final", "final"]))
print([(t.get_text(), t.xy[0]) for t in axes[0].texts])
assert [t.get_text() for t in axes[0].texts] == ["dense", "step 1", "final"] and not axes[1].texts
assert (
    [line.get_xdata()[0] for line in axes[1].lines]
    == [0.5, 2.5, 3.5]
    == [line.get_xdata()[0] for line in axes[0].lines]
)


# %%
#| export
def plot_history(
    history: pd.DataFrame,  # Columns label, stage, epoch, train_loss, val_loss, val_accuracy, kept
) -> Figure:  # Two panels, one above the other
    "Losses and validation accuracy over all epochs of a run."
    h, kept = history.reset_index(drop=True), history.kept.to_numpy(bool)
    x = np.arange(1, len(h) + 1)
    fig, (top, low) = figure_of(2, 1, (max(7, min(14, 0.12 * len(h))), 4.8), sharex=True)
    top.plot(x, h.train_loss, "--", color=PALETTE[1], label="training loss")
    top.plot(x, h.val_loss, "-", color=PALETTE[0], label="validation loss")
    low.plot(x, h.val_accuracy, "-", color=PALETTE[0])
    for which, style in ((kept, dict(label="kept epoch")), (~kept, dict(mfc="white"))):
        low.plot(x[which], h.val_accuracy[which], "o", color=PALETTE[0], ms=4, **style)
    _mark_stages((top, low), h.label)
    top.set(ylabel="loss", ylim=(0, None))
    low.set(
        ylabel="validation accuracy (%)",
        xlabel="epoch, all stages in a row",
        xlim=(0.5, len(h) + 0.5),
    )
    low.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    fig.legend(loc="outside lower center", ncols=3, fontsize=9)
    first, last, stages = h.iloc[0], h.iloc[-1], ", ".join(h.label.astype(str).unique())
    fig.set_label(
        f"Learning curves over {len(h)} epochs ({stages}). Validation loss {first.val_loss:.2f} at"
        f" first, {last.val_loss:.2f} at the end; validation accuracy {first.val_accuracy:.1f} and"
        f" {last.val_accuracy:.1f} percent."
    )
    return fig


# %%
epochs = [("dense", 0, e) for e in range(4)] + [
    ("dense", 1, 0),
    ("step 1", 0, 0),
    ("step 2", 0, 0),
    ("final", 0, 0),
    ("final", 0, 1),
]
history = pd.DataFrame(epochs, columns=["label", "stage", "epoch"])
i = np.arange(1, 10)
history = history.assign(
    train_loss=1.2 / i, val_loss=1.3 / i + 0.05, val_accuracy=90 - 40 / i, kept=i != 3
)
show(plot_history(history), "Losses and accuracy, epoch by epoch")

# %%
fig = plot_history(history)
assert len(fig.axes[0].lines[0].get_xdata()) == 9 and [t.get_text() for t in fig.axes[0].texts] == [
    "dense",
    "step 1",
    "step 2",
    "final",
]
# half an epoch does not exist
assert all(
    tick == round(tick)
    for n in (1, 3, 5, 9, 100)
    for tick in plot_history(pd.concat([history] * 12)[:n]).axes[1].get_xticks()
)
assert (
    fig.axes[1].lines[2].get_xdata().tolist() == [3]
    and fig.get_label()
    == "Learning curves over 9 epochs (dense, step 1, step 2, final). Validation loss 1.35 at"
    " first, 0.19 at the end; validation accuracy 50.0 and 85.6 percent."
)
top, low = fig.axes
assert (
    np.allclose(
        [line.get_ydata() for line in top.lines[:2]], [history.train_loss, history.val_loss]
    )
    and top.get_ylim()[0] == 0
)
assert [line.get_linestyle() for line in top.lines[:2]] == ["--", "-"] and low.lines[
    2
].get_markerfacecolor() == "white"
assert [t.get_text() for t in fig.legends[0].get_texts()] == [
    "training loss",
    "validation loss",
    "kept epoch",
]
assert (top.get_ylabel(), low.get_ylabel()) == ("loss", "validation accuracy (%)") and np.isclose(
    plot_history(pd.concat([history] * 10)).get_figwidth(), 10.8
)

# %% [markdown]
# ## Any name
#
# With any names of groups and layers, each plot of a run draws without a warning, shows every name in its legend or ticks, and has the unchanged names in its description.

# %%
import warnings

ODD = ["$5_{x}$", "_hidden", "a\\b", "<b>", "%", "😀", "$", "女", "long " * 30]
odd_layers = pd.DataFrame(
    {"layer": ODD, "weights": 100, "kept": range(1, 10)}
    | {f"{when}:{g}": 1 / 9 for when in ("before", "after") for g in ODD}
)
odd_choices = pd.DataFrame(
    [dict(step=1, layer=n, group=g, target=1 / 9, kept=1 / 9) for n in ODD for g in ODD]
)
odd_table = [dict(metrics["table"][0], group=g) for g in [*ODD, "all"]]


def drawn_texts(fig):
    "All texts of a figure as drawn; a warning is an error."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig.draw_without_rendering()
    return {t._preprocess_math(t.get_text()) for t in fig.findobj(Text)}


def drawn(text):
    return text.replace(r"\$", "$")


# %% [markdown]
# ## Whose importance it is
#
# Before pruning: how important is a weight of each layer to each group? Each layer is a row and each group a marker, at the mean over the layer's weights. The axis is again logarithmic, because layers differ by powers of ten. The distance between groups in a row is what the shares measure. A group that is left
# of the others in all rows has smaller gradients; that does not make the group less important.

# %%
#| export
def mean_importance(
    importance: Mapping[str, Tensor],  # Layer name → importance, shape `(G, *weight)`, ≥ 0
    groups: Sequence[str],  # Name of each group
) -> pd.DataFrame:  # A row per layer, a column per group
    "Mean importance of a weight, for each layer and group."
    return pd.DataFrame(
        {name: scores.flatten(1).double().mean(1).tolist() for name, scores in importance.items()},
        index=list(groups),
    ).T


# %%
scores = {
    "conv1": torch.tensor([[8.0, 4.0, 0.0], [2.0, 1.0, 0.0]]),
    "fc": torch.tensor([[[0.04], [0.02]], [[0.10], [0.50]]]),
}
mean_importance(scores, ["women", "men"])

# %%
assert np.allclose(mean_importance(scores, ["women", "men"]), [[4, 1], [0.03, 0.3]])
assert mean_importance(scores, "ab").index.tolist() == ["conv1", "fc"] and mean_importance(
    scores, "ab"
).columns.tolist() == ["a", "b"]


# %% [markdown]
# Pruned weights count with importance 0, so pruning lowers a layer's mean. A layer without importance has no point on the axis, but it keeps its row, and the description names it.

# %%
#| export
def plot_importance(
    importance: Mapping[str, Tensor],  # Layer name → importance, shape `(G, *weight)`, ≥ 0
    groups: Sequence[str],  # Name of each group
) -> Figure:  # One panel: a row per layer, a marker per group
    "Mean importance of a weight for each layer and group, on a logarithmic axis."
    table = mean_importance(importance, groups)
    values, y = table.where(table > 0), np.arange(len(table))
    fig, (ax,) = figure_of(size=(7, 1.7 + 0.25 * len(table)))
    ax.hlines(y, values.min(axis=1), values.max(axis=1), color="0.75", lw=2)
    for g, name in enumerate(table):
        ax.plot(
            values[name],
            y,
            ls="",
            marker=MARKERS[g % 10],
            color=PALETTE[g % 10],
            mfc="white" if (g + g // 10) % 2 else None,
            ms=7,
            label=plain(name, 28),
        )
    ax.set(xscale="log", xlabel="mean importance of a weight", ylim=(len(y) - 0.4, -0.6))
    ax.set_yticks(y, [plain(name) for name in table.index], fontsize=8)
    fig.legend(
        loc="outside lower right",
        ncols=legend_columns([plain(name, 28) for name in table]),
        fontsize=8,
    )
    said = [
        f"{layer}: {', '.join(f'{g} {v:.2g}' for g, v in row.items())}"
        for layer, row in table.iterrows()
    ]
    fig.set_label(f"Mean importance of a weight. {'; '.join(said)}.")
    return fig


# %%
show(
    plot_importance(scores | {"gone": torch.zeros(2, 3)}, ["women", "men"]),
    "The first layer is more important to the group women, the last to the group men",
)

# %%
fig = plot_importance(scores | {"gone": torch.zeros(2, 3)}, ["women", "men"])
ax = fig.axes[0]
assert (
    [line.get_label() for line in ax.lines] == ["women", "men"]
    and np.allclose(ax.lines[1].get_xdata()[:2], [1, 0.3])
    and np.isnan(ax.lines[0].get_xdata()[2])
)
assert (
    fig.get_label()
    == "Mean importance of a weight. conv1: women 4, men 1; fc: women 0.03, men 0.3; gone: women 0,"
    " men 0."
)
assert (
    len({(line.get_marker(), line.get_markerfacecolor()) for line in ax.lines}) == 2
    and ax.get_xscale() == "log"
)
assert (
    [t.get_text() for t in ax.get_yticklabels()] == ["conv1", "fc", "gone"]
    and ax.get_ylim() == (2.6, -0.6)
    and np.isclose(fig.get_figheight(), 2.45)
)
assert np.allclose(
    [seg[:, 0] for seg in ax.collections[0].get_segments()[:2]], [[1, 4], [0.03, 0.3]]
)
assert [t.get_text() for t in fig.legends[0].get_texts()] == ["women", "men"] and ax.lines[
    1
].get_markerfacecolor() == "white" != ax.lines[0].get_markerfacecolor()


# %% [markdown]
# ## Whose importance the selection kept
#
# FairGRAPE's selection aims to preserve shares: each group's share of the importance that a step keeps in a layer equals its share before the step. A run records both
# at every step. Each group has a panel, with one grey line per layer, which is at 0 where the share is preserved exactly. A layer that keeps only a few weights cannot preserve it exactly.
# With scope `global` the target is that of all layers together, which the blue line shows; otherwise the blue line is the mean over the layers.

# %%
#| export
def _gap_lines(ax: Axes, rows: pd.DataFrame, group: str):
    "One group's kept share minus its target (points) at each step: every layer, and overall."
    by_layer = rows.pivot(index="step", columns="layer", values="gap")
    layers = by_layer.drop(columns=ALL_LAYERS, errors="ignore")
    whole, name = layers.mean(axis=1), "mean over layers"
    if ALL_LAYERS in by_layer:
        whole, name = by_layer[ALL_LAYERS], ALL_LAYERS
    grey = ax.plot(layers.index, layers, ".-", color="0.75", ms=4, lw=0.8)
    grey[0].set_label("one layer")
    ax.plot(whole.index, whole, "o-", color=PALETTE[0], ms=4, lw=1.2, label=name)
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set_title(f"{plain(group, 24)}\ntarget {100 * rows.target.mean():.0f} %", fontsize=9)
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


# %%
#| export
def plot_kept_shares(
    choices: pd.DataFrame,  # A run's choices: step, layer, group, target, kept (shares in [0, 1])
) -> Figure:  # A panel per group
    """How far each pruning step's selection is from the groups' target shares, in each layer.

    Raises: ValueError if the run recorded no shares.
    """
    if not len(choices):
        raise ValueError(
            "no shares by step: this run's score puts all images into one group, or the run is"
            " older than this record"
        )
    table = choices.assign(gap=100 * (choices.kept - choices.target))
    groups, steps = list(dict.fromkeys(table.group)), table.step.unique()
    columns, rows = min(len(groups), 4), -(-len(groups) // 4)
    fig, axes = figure_of(
        rows, columns, (max(7, 2.3 * columns), 0.9 + 2.1 * rows), sharex=True, sharey=True
    )
    for ax, g in zip(axes, groups):
        _gap_lines(ax, table[table.group == g], g)
    for ax in axes[len(groups) :]:
        ax.set_visible(False)
    most = max(1, 1.1 * table.gap.abs().max())
    axes[0].set(xlim=(steps.min() - 0.5, steps.max() + 0.5), ylim=(-most, most))
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=8)
    fig.supylabel("kept share − target (points)", fontsize=9)
    fig.supxlabel("pruning step (shares of the importance that its selection keeps)", fontsize=9)
    worst = [(g, table.loc[t.gap.abs().idxmax()]) for g, t in table.groupby("group", sort=False)]
    said = [f"{g} {r.gap:+.2f} points (step {r.step}, {r.layer})" for g, r in worst]
    fig.set_label(
        "Each group's share of the importance that a step's selection keeps, minus its target, over"
        f" {len(steps)} steps. Largest gap: {', '.join(said)}."
    )
    return fig


# %%
rng, names = np.random.default_rng(0), [f"layer {i}" for i in range(12)]
drift = [
    dict(step=s, layer=n, group=g, target=t, kept=t + sign * 0.02 * rng.normal() / (12 - i) ** 0.5)
    for s in (1, 2, 3, 4)
    for i, n in enumerate(names)
    for g, t, sign in (("women", 0.4, 1), ("men", 0.6, -1))
]
show(
    plot_kept_shares(pd.DataFrame(drift)),
    "A selection close to its targets, closest in the first layers",
)

# %% [markdown]
# Two layers and two steps by hand. In step 1 layer b keeps 5 points too much for x, in step 2 layer a 2 points too little.

# %%
two = pd.DataFrame(
    [(1, "a", 0.5, 0.5), (1, "b", 0.4, 0.45), (2, "a", 0.5, 0.48), (2, "b", 0.4, 0.4)],
    columns=["step", "layer", "target", "kept"],
)
two = pd.concat(
    [two.assign(group="x"), two.assign(group="y", target=1 - two.target, kept=1 - two.kept)],
    ignore_index=True,
)
fig = plot_kept_shares(two)
x, y = fig.axes
assert np.allclose(
    [line.get_ydata() for line in x.lines[:3]], [[0, -2], [5, 0], [2.5, -1]]
) and np.allclose(y.lines[2].get_ydata(), [-2.5, 1])
assert [ax.get_title() for ax in fig.axes] == ["x\ntarget 45 %", "y\ntarget 55 %"] and np.allclose(
    x.get_ylim(), (-5.5, 5.5)
)
assert "Largest gap: x +5.00 points (step 1, b), y -5.00 points (step 1, b)." in fig.get_label()
assert [t.get_text() for t in fig.legends[0].get_texts()] == ["one layer", "mean over layers"]
assert all(tick == round(tick) for tick in x.get_xticks())
whole = plot_kept_shares(pd.concat([two, two[two.layer == "a"].assign(layer=ALL_LAYERS)]))
assert (
    np.allclose(whole.axes[0].lines[2].get_ydata(), [0, -2])
    and whole.legends[0].get_texts()[1].get_text() == ALL_LAYERS
)
try:
    plot_kept_shares(two[:0])
except ValueError as e:
    print(e)
else:
    raise AssertionError("missing shares were plotted")


# %% [markdown]
# ## Whose importance is left after training
#
# The final training changes the shares again, because it changes the weights and their importance. This plot compares the dense network (hollow) with the final network
# (filled), with one panel per group and layers from input to output. It does not test the selection, and it varies widely between seeds.

# %%
#| export
def _share_lines(ax: Axes, layers: pd.DataFrame, group: str, equal: float):
    "One group's shares before (hollow) and after (filled), and the equal share."
    x = np.arange(len(layers))
    ax.plot(
        x,
        100 * layers[f"before:{group}"],
        "o--",
        mfc="white",
        color=PALETTE[3],
        ms=5,
        lw=1,
        label="before",
    )
    ax.plot(x, 100 * layers[f"after:{group}"], "o-", color=PALETTE[0], ms=3, lw=1, label="after")
    ax.axhline(equal, color="0.6", lw=0.8, ls=":")
    ax.set_title(plain(group, 24), fontsize=9)


# %%
hand = pd.DataFrame(
    {
        "layer": ["a", "b"],
        "before:x": [0.5, 0.4],
        "after:x": [0.5, 0.35],
        "before:y": [0.5, 0.6],
        "after:y": [0.5, 0.65],
    }
)
fig, (ax,) = figure_of()
_share_lines(ax, hand, "x", equal=50)
print([line.get_ydata() for line in ax.lines])
assert (
    np.allclose([line.get_ydata() for line in ax.lines], [[50, 40], [50, 35], [50, 50]])
    and ax.get_title() == "x"
)
assert (
    ax.lines[0].get_markerfacecolor() == "white" != ax.lines[1].get_markerfacecolor()
    and ax.lines[0].get_linestyle() == "--"
)


# %%
#| export
def plot_shares(
    # Columns layer and, for each group, `before:<group>` and `after:<group>` (shares in [0, 1])
    layers: pd.DataFrame,
) -> Figure:  # A panel per group
    """Each group's share of each layer's importance in the dense network and after the final
    training. Raises: ValueError if the run recorded no shares.
    """
    groups = [c[7:] for c in layers if c.startswith("before:")]
    if not groups:
        raise ValueError(
            "layers has no column before:<group>: this run recorded no importance shares"
        )
    columns, rows = min(len(groups), 4), -(-len(groups) // 4)
    fig, axes = figure_of(
        rows, columns, (max(7, 2.3 * columns), 0.9 + 2.1 * rows), sharex=True, sharey=True
    )
    for ax, g in zip(axes, groups):
        _share_lines(ax, layers, g, 100 / len(groups))
    for ax in axes[len(groups) :]:
        ax.set_visible(False)
    axes[0].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=8)
    fig.supylabel("share of importance (%)", fontsize=9)
    fig.supxlabel(
        f"layer, from {plain(layers.layer.iloc[0])} (0) to {plain(layers.layer.iloc[-1])}"
        f" ({len(layers) - 1}); dotted: equal shares",
        fontsize=9,
    )
    moved = [
        f"{g} {100 * (layers[f'after:{g}'] - layers[f'before:{g}']).abs().max():.2f} points"
        for g in groups
    ]
    fig.suptitle(
        "the dense network (before) and the pruned one after its final training (after)", fontsize=9
    )
    fig.set_label(
        "Share of importance per layer in the dense network and after the final training. Largest"
        f" change: {', '.join(moved)}."
    )
    return fig


# %%
rng = np.random.default_rng(0)
before = rng.dirichlet(np.full(4, 20), 21)
after = before + 0.02 * rng.normal(size=(21, 4))
columns = {
    f"{when}:{g}": share[:, i]
    for when, share in (("before", before), ("after", after))
    for i, g in enumerate(tones)
}
show(
    plot_shares(pd.DataFrame({"layer": [f"layer {i}" for i in range(21)]} | columns)),
    "Shares that change by about two points",
)

# %%
fig = plot_shares(hand)
assert "x 5.00 points, y 5.00 points" in fig.get_label() and [
    ax.get_title() for ax in fig.axes
] == ["x", "y"]
assert np.allclose(fig.axes[1].lines[1].get_ydata(), [50, 65])
assert [ax.lines[2].get_ydata()[0] for ax in fig.axes] == [50, 50] and [
    t.get_text() for t in fig.legends[0].get_texts()
] == ["before", "after"]
assert (
    fig.get_supylabel() == "share of importance (%)"
    and fig.get_supxlabel() == "layer, from a (0) to b (1); dotted: equal shares"
)
assert all(tick == round(tick) for tick in fig.axes[0].get_xticks())  # half a layer does not exist
five = plot_shares(
    pd.DataFrame(
        {"layer": ["a"]} | {f"{when}:{g}": [0.2] for when in ("before", "after") for g in "pqrst"}
    )
)
assert [ax.get_visible() for ax in five.axes] == [True] * 5 + [False] * 3 and np.allclose(
    five.get_size_inches(), [9.2, 5.1]
)

# %%
odd_importance = {n: torch.rand(9, 3) + 0.1 for n in ODD}
for fig, most in (
    (plot_groups(dict(table=odd_table)), 28),
    (plot_sparsity(odd_layers), 40),
    (plot_importance(odd_importance, ODD), 28),
    (plot_shares(odd_layers), 24),
    (plot_kept_shares(odd_choices), 24),
):
    said = {text for text, formula in drawn_texts(fig) if not formula}
    shown = [drawn(plain(name, most)) for name in ODD]
    assert all(any(name in text for text in said) for name in shown), said
    assert "long long" in fig.get_label() or "$5_{x}$" in fig.get_label()
fig

# %%
try:
    plot_shares(layers)
except ValueError as e:
    print(e)
    assert "no column before:<group>" in str(e)
else:
    raise AssertionError("missing shares were plotted")
