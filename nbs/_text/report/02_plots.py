# %% [markdown]
# # Plots of many runs
#
# > Disparities with their noise floors, the change of each group, and the cost in accuracy

# %%
#| default_exp report.plots

# %%
#| export
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fairgrape.report.figures import bar_lengths, figure_of, legend_columns, look, name_ticks, plain

# %%
from IPython.display import HTML

from fairgrape.judge.compare import compare
from fairgrape.report.figures import html_figure


def show(fig, caption):
    return HTML(html_figure(fig, caption))


# %% [markdown]
# The plots take a table with one row per run, which [the comparison](06_comparison.ipynb) makes. Its column `label` names the method and its variant. The plots of a single run are in [another notebook](03_run_plots.ipynb).
#
# The example table has made-up test sets of 400 images and four groups, with seven runs of two methods.

# %%
tones = [f"tone-{i}" for i in (1, 2, 3, 4)]


def made_up(loss, seed=0):
    rng = np.random.default_rng(seed)
    groups, y = np.repeat(np.arange(4), [160, 120, 80, 40]), rng.integers(0, 3, 400)
    dense = np.where(rng.random(400) < 0.92, y, (y + 1) % 3)
    pruned = np.where(rng.random(400) < np.array(loss)[groups], (y + 2) % 3, dense)
    return compare(y, dense, pruned, groups, {"expression": ["happy", "calm", "sad"]}, tones, B=200)


def made_up_row(method, scope, rate, loss, seed=0):
    m = made_up(loss, seed)
    rho = m["disparities"]["rho"]
    row = dict(
        method=method,
        scope=scope,
        rate=rate,
        seed=seed,
        accuracy_dense=m["accuracy_dense"],
        accuracy=m["accuracy_pruned"],
        rho=rho["value"],
        rho_low=rho["low"],
        rho_high=rho["high"],
        floor_95=rho["floor_95"],
    )
    columns = {"n": "n", "delta": "delta", "low": "delta_low", "high": "delta_high"}
    return row | {f"{k}:{g['group']}": g[v] for g in m["table"][:-1] for k, v in columns.items()}


table = pd.DataFrame(
    [
        made_up_row("fairgrape", "layer", 0.9, [0.02, 0.03, 0.05, 0.10]),
        made_up_row("ws", "layer", 0.9, [0.02, 0.05, 0.08, 0.35]),
        made_up_row("fairgrape", "layer", 0.99, [0.05, 0.10, 0.20, 0.45]),
        made_up_row("ws", "layer", 0.99, [0.10, 0.12, 0.12, 0.14]),
        made_up_row("fairgrape", "global", 0.9, [0.01, 0.01, 0.01, 0.05]),
        made_up_row("ws", "global", 0.9, [0.01, 0.02, 0.03, 0.25]),
        made_up_row("fairgrape", "layer", 0.9, [0.02, 0.03, 0.05, 0.10], seed=1),
    ]
)
table.round(1)


# %% [markdown]
# In a table without labels the method is the label.

# %%
#| export
def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    "The table with a column `label`, by default the method."
    return table if "label" in table else table.assign(label=table.method)


# %%
print(_labelled(table).label.tolist())
named = table.assign(label=[*table.method[:-1], "fairgrape, importance on race=White"])
assert (
    _labelled(table).label.tolist() == table.method.tolist()
    and _labelled(named) is named
    and "label" not in table
)


# %% [markdown]
# Each scope has its own panel, because methods are compared at equal scope.

# %%
#| export
def _panels(table: pd.DataFrame, by: list[str], **kwargs) -> tuple[Figure, list[tuple]]:
    """One panel for each combination of the columns `by`: the figure, and each panel's axes,
    heading and rows.
    """
    cells = list(_labelled(table).groupby(by, sort=True))
    across = min(len(cells), 2)
    down = -(-len(cells) // across)
    fig, axes = figure_of(down, across, (max(4.6 * across, 6), 0.7 + 3.1 * down), **kwargs)
    for ax in axes[len(cells) :]:
        ax.set_visible(False)
    return fig, [
        (ax, ", ".join(f"{c} {v}" for c, v in zip(by, key)), rows)
        for ax, (key, rows) in zip(axes, cells)
    ]


# %%
fig, panels = _panels(table, ["scope", "rate"])
print([(heading, rows.method.tolist()) for _, heading, rows in panels])
assert [h for _, h, _ in panels] == [
    "scope global, rate 0.9",
    "scope layer, rate 0.9",
    "scope layer, rate 0.99",
]
assert [ax.get_visible() for ax in fig.axes] == [True, True, True, False] and panels[1][
    2
].seed.tolist() == [0, 0, 1]
assert np.allclose(
    [_panels(table, by)[0].get_size_inches() for by in (["scope"], ["scope", "rate"])],
    [[9.2, 3.8], [9.2, 6.9]],
)
assert (
    len(_panels(table, ["scope"])[1]) == 2
    and (_panels(table, ["scope"])[1][0][2]["scope"] == "global").all()
)


# %% [markdown]
# All panels share one legend, with each entry once. It has as many columns as fit, because a label may be a method's name or half a sentence.

# %%
#| export
def _legend(fig: Figure):
    "One legend for all panels, each entry once."
    entries = {
        label: handle for ax in fig.axes for handle, label in zip(*ax.get_legend_handles_labels())
    }
    columns = legend_columns(list(entries), fig.get_figwidth())
    fig.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=columns, fontsize=9
    )


# %%
def legend_of(*labels):
    fig, axes = figure_of(1, 2)
    for ax in axes:
        for label in labels:
            ax.plot(0, 0, label=label)
    _legend(fig)
    return fig.legends[0]


print([t.get_text() for t in legend_of("ws", "fairgrape").get_texts()])
assert [t.get_text() for t in legend_of("ws", "fairgrape").get_texts()] == ["ws", "fairgrape"]
assert [
    legend_of(*labels)._ncols for labels in (list("abcdef"), ["a" * 36, "b"], ["a" * 100, "b"])
] == [4, 2, 1]


# %% [markdown]
# The description names each run and gives its numbers.

# %%
#| export
def _describe(fig: Figure, title: str, table: pd.DataFrame, say):
    "Set the description: a title, and the text of `say` for each run."
    runs = (
        f"{r.label}, scope {r['scope']}, rate {r.rate:g}, seed {r.seed}: {say(r)}"
        for _, r in _labelled(table).iterrows()
    )
    fig.set_label(f"{title} {'; '.join(runs)}.")


# %%
_describe(fig, "Disparity.", table[5:], lambda r: f"{r.rho:.1f}")
print(fig.get_label())
assert (
    fig.get_label()
    == f"Disparity. ws, scope global, rate 0.9, seed 0: {table.rho[5]:.1f}; fairgrape, scope layer,"
    f" rate 0.9, seed 1: {table.rho[6]:.1f}."
)


# %% [markdown]
# ρ is always drawn as a point in the method's style, with its 95 % interval.

# %%
#| export
def _rho_points(ax: Axes, x, cell: pd.DataFrame, labels: list[str]):
    "ρ with its interval at `x`, in each label's style."
    for name, r in cell.groupby("label"):
        ax.errorbar(
            x[r.index],
            r.rho,
            bar_lengths(r.rho_low, r.rho, r.rho_high),
            ls="",
            capsize=3,
            ms=7,
            label=plain(name),
            **look(name, labels),
        )


# %%
fig, (ax,) = figure_of()
_rho_points(ax, table.accuracy, _labelled(table), ["fairgrape", "ws"])
print([(c.get_label(), c.lines[0].get_ydata().astype(float).round(1)) for c in ax.containers])
assert [c.get_label() for c in ax.containers] == ["fairgrape", "ws"] and ax.containers[1].lines[
    0
].get_marker() == look("ws")["marker"]
ws = table[table.method == "ws"]
assert np.allclose(ax.containers[1].lines[0].get_ydata().astype(float), ws.rho) and np.allclose(
    ax.containers[1].lines[0].get_xdata().astype(float), ws.accuracy
)
assert np.allclose(
    [seg[:, 1] for seg in ax.containers[1].lines[2][0].get_segments()], ws[["rho_low", "rho_high"]]
)


# %% [markdown]
# ## ρ with its interval and its floor
#
# The hatched bar behind each point is the noise floor. A point inside the bar is no evidence of a disparity, whatever its height.

# %%
#| export
def plot_disparity(
    # Runs of one experiment: label or method, scope, rate, seed, rho, rho_low, rho_high, floor_95
    table: pd.DataFrame,
) -> Figure:  # A panel per scope
    "ρ of every run with its 95 % interval, over its noise floor."
    fig, panels = _panels(table, ["scope"], sharey=True)
    labels = list(_labelled(table).label)
    for ax, heading, cell in panels:
        cell = cell.sort_values(["rate", "label", "seed"]).reset_index(drop=True)
        x = cell.index + cell.rate.rank(method="dense")  # a gap between the rates
        ax.bar(
            x,
            cell.floor_95,
            0.8,
            color="0.9",
            hatch="....",
            edgecolor="0.7",
            lw=0,
            label="noise floor (95 %)",
        )
        _rho_points(ax, x, cell, labels)
        middles = x.groupby(cell.rate).mean()
        ax.set_xticks(middles, [f"rate {rate:g}" for rate in middles.index])
        ax.set(title=heading, ylabel="ρ (percentage points)")
    panels[0][0].set_ylim(0, None)  # for all panels, after everything is drawn

    def say(r):
        return f"{r.rho:.1f} [{r.rho_low:.1f}, {r.rho_high:.1f}], floor {r.floor_95:.1f}"

    _legend(fig)
    _describe(fig, "Disparity ρ with 95 percent interval and noise floor.", table, say)
    return fig


# %%
show(plot_disparity(table), "Points above their hatched bar are evidence of a disparity")

# %%
fig = plot_disparity(table)
panel = fig.axes[1]
assert panel.get_title() == "scope layer" and [t.get_text() for t in panel.get_xticklabels()] == [
    "rate 0.9",
    "rate 0.99",
]
# by rate, method, seed
assert np.allclose([bar.get_height() for bar in panel.patches], table.floor_95[[0, 6, 1, 2, 3]])
drawn = sorted(y for c in panel.containers if hasattr(c, "lines") for y in c.lines[0].get_ydata())
assert panel.get_ylim()[1] > table.rho_high.max()  # nothing is cut off
assert (
    np.allclose(drawn, sorted(table[table["scope"] == "layer"].rho))
    and "fairgrape, scope layer, rate 0.9, seed 1" in fig.get_label()
)
assert panel.get_ylim()[0] == 0 and panel.containers[0].get_label() == "noise floor (95 %)"
# a gap between the rates
assert np.allclose([bar.get_x() + 0.4 for bar in panel.patches], [1, 2, 3, 5, 6])

# %% [markdown]
# With labels, the variants of a method are separate, and long names get fewer columns in the legend.

# %%
show(plot_disparity(named), "The variant has FairGRAPE's colour and marker, filled differently")

# %%
fig = plot_disparity(named)
legend = [t.get_text() for t in fig.legends[0].get_texts()]
assert "fairgrape, importance on race=White" in legend and "fairgrape" in legend
assert "race=White, scope layer, rate 0.9, seed 1" in fig.get_label()


# %% [markdown]
# ## Which group, under which method
#
# ρ measures how unequal the changes are, but not which group lost. Here a panel holds the methods of one scope and rate. The groups are along the axis, and each method shows Δ with its interval, side by side over each group.

# %%
#| export
def _delta_points(ax: Axes, cell: pd.DataFrame, groups: list[str], labels: list[str]):
    "Each run's Δ of each group with its interval, the runs side by side."
    for i, (_, r) in enumerate(cell.iterrows()):
        value, low, high = (
            r[[f"{k}:{g}" for g in groups]].to_numpy(float) for k in ("delta", "low", "high")
        )
        x = np.arange(len(groups)) + (i - (len(cell) - 1) / 2) * min(0.16, 0.7 / len(cell))
        ax.errorbar(
            x,
            value,
            bar_lengths(low, value, high),
            ls="",
            capsize=2,
            ms=5,
            label=plain(r.label),
            **look(r.label, labels),
        )
    ax.axhline(0, color="0.3", lw=1)


# %%
fig, (ax,) = figure_of()
_delta_points(ax, named[:2], tones, list(named.label))
print([c.lines[0].get_xdata().astype(float).round(2) for c in ax.containers])
assert np.allclose(
    [c.lines[0].get_xdata().astype(float) for c in ax.containers],
    [np.arange(4) - 0.08, np.arange(4) + 0.08],
)
assert np.allclose(
    [c.lines[0].get_ydata().astype(float) for c in ax.containers],
    named.loc[:1, [f"delta:{g}" for g in tones]].to_numpy(float),
)
assert np.allclose(
    [seg[:, 1] for seg in ax.containers[0].lines[2][0].get_segments()],
    [named.loc[0, [f"low:{g}", f"high:{g}"]].to_numpy(float) for g in tones],
)
assert list(ax.lines[-1].get_ydata()) == [0, 0]
# many runs are closer together
fig, (ax,) = figure_of()
_delta_points(ax, pd.concat([named] * 2), tones, list(named.label))
assert np.allclose(ax.containers[0].lines[0].get_xdata().astype(float), np.arange(4) - 6.5 * 0.05)


# %%
#| export
def plot_deltas(
    # Runs of one experiment: label or method, scope, rate, seed, and `n:`, `delta:`, `low:`,
    # `high:` of each group
    table: pd.DataFrame,
) -> Figure:  # A panel per scope and rate
    "Change of each group's accuracy, method by method, with 95 % intervals."
    groups = [c[6:] for c in table if c.startswith("delta:") and table[c].notna().any()]
    fig, panels = _panels(table, ["scope", "rate"], sharey=True)
    labels = list(_labelled(table).label)
    for ax, heading, cell in panels:
        _delta_points(ax, cell, groups, labels)
        ax.set(title=heading, ylabel="Δ (points)")
    name_ticks([ax for ax, *_ in panels], groups, [table[f"n:{g}"].max() for g in groups])

    def say(r):
        return ", ".join(f"{g} {r[f'delta:{g}']:+.1f}" for g in groups)

    _legend(fig)
    _describe(fig, "Change of accuracy of each group, pruned minus dense, in points.", table, say)
    return fig


# %%
show(plot_deltas(table), "Under WS tone-4 loses most, at the lower rate")

# %%
fig = plot_deltas(table)
assert [ax.get_title() for ax in fig.axes] == [
    "scope global, rate 0.9",
    "scope layer, rate 0.9",
    "scope layer, rate 0.99",
] + [""]
first = fig.axes[0].containers[0].lines[0]
assert np.allclose(first.get_ydata(), [table.loc[4, f"delta:{g}"] for g in tones])
assert f"tone-4 {table.loc[0, 'delta:tone-4']:+.1f}" in fig.get_label()
assert [t.get_text() for t in fig.legends[0].get_texts()] == ["fairgrape", "ws"]
assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == [
    f"{g}\nn = {n}" for g, n in zip(tones, (160, 120, 80, 40))
]
assert (
    fig.axes[0].get_xticklabels()[0].get_rotation() == 0
    and fig.axes[0].get_ylabel() == "Δ (points)"
)


# %% [markdown]
# ## The cost in accuracy
#
# A network that guesses treats all groups alike. So ρ is also plotted against accuracy. Down and to the right is better; a point that
# is low *and* to the left has a small disparity because all groups lost accuracy.

# %%
#| export
def plot_price(
    # Runs of one experiment: label or method, scope, rate, seed, accuracy, accuracy_dense, rho,
    # rho_low, rho_high
    table: pd.DataFrame,
) -> Figure:  # A panel per scope
    "ρ of every run against its accuracy; the dashed line is the dense networks' mean accuracy."
    fig, panels = _panels(table, ["scope"], sharex=True, sharey=True)
    labels = list(_labelled(table).label)
    for ax, heading, cell in panels:
        _rho_points(ax, cell.accuracy, cell, labels)
        for _, r in cell.iterrows():
            ax.annotate(
                f"{r.rate:g}",
                (r.accuracy, r.rho),
                xytext=(6, 3),
                textcoords="offset points",
                fontsize=8,
            )
        ax.axvline(cell.accuracy_dense.mean(), color="0.4", ls="--", lw=1, label="dense")
        ax.set(title=heading, xlabel="accuracy (%)", ylabel="ρ (percentage points)")
    panels[0][0].set_ylim(0, None)
    _legend(fig)
    _describe(
        fig,
        "Disparity ρ against accuracy.",
        table,
        lambda r: f"accuracy {r.accuracy:.1f}, ρ {r.rho:.1f}",
    )
    return fig


# %%
show(plot_price(table), "The higher rate costs accuracy; the small numbers are rates")

# %%
fig = plot_price(table)
assert (
    len(fig.axes) == 2
    and f"accuracy {table.accuracy[0]:.1f}, ρ {table.rho[0]:.1f}" in fig.get_label()
)
assert [t.get_text() for t in fig.axes[0].texts] == ["0.9", "0.9"]
ax = fig.axes[1]
assert np.allclose(
    sorted(x for c in ax.containers for x in c.lines[0].get_xdata()),
    sorted(table[table["scope"] == "layer"].accuracy),
)
assert (
    np.isclose(ax.lines[-1].get_xdata()[0], table.accuracy_dense[[0, 1, 2, 3, 6]].mean())
    and ax.get_ylim()[0] == 0
)
assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == (
    "accuracy (%)",
    "ρ (percentage points)",
    "scope layer",
)
# legends with long labels stay inside the figure
for draw in (plot_disparity, plot_deltas, plot_price):
    fig = draw(named)
    fig.draw_without_rendering()
    box = fig.legends[0].get_window_extent()
    assert 0 <= box.x0 and box.x1 <= fig.bbox.width
