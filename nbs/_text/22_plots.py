# %% [markdown]
# # Plots
#
# > One run's groups, layers and epochs; many runs' disparities, each with its noise

# %%
#| default_exp plots

# %%
#| export
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

# %% [markdown]
# Colours are Okabe and Ito's, which people with colour-blindness can tell apart, and every series differs in marker, hatch or lightness
# too, so a print in grey is enough. Each figure carries a description in words as its label (`fig.get_label()`), which becomes the
# alternative text of the picture on the report's page.
#
# Figures are handed back closed. A notebook then shows the one that a cell returns, once, and a loop over a hundred runs does not fill the
# memory.

# %%
#| export
# Okabe and Ito's colours, the yellow darkened, and two more
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8A7A00", "#8F3B1B", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "h")
ORDER = ("fairgrape", "ws", "importance", "lottery", "snip", "grasp", "random", "magnitude", "lottery_short")
FILLS = ("full", "none", "left", "top", "right", "bottom")   # a method looks alike everywhere; its variants are filled differently

def look(
    label: str,       # A method's name, or a variant of it: "ws, iterative"
    labels: list[str] = (), # All labels of the figure, to tell variants of one method apart
) -> dict:            # Colour, marker and filling for matplotlib
    "The colour and marker of a method, the same in every figure; all unknown methods share one. Its variants are filled differently."
    method = label.partition(",")[0]
    i = ORDER.index(method) if method in ORDER else len(ORDER)
    variants = sorted((v for v in {*labels, label} if v != method and v.partition(",")[0] == method), key=str)
    fill = FILLS[0] if label == method else FILLS[1 + variants.index(label) % (len(FILLS) - 1)]
    return dict(color=PALETTE[i], marker=MARKERS[i], fillstyle=fill, markerfacecoloralt="white")


# %%
look("fairgrape"), look("ws, iterative")

# %% [markdown]
# Lightness is what remains in grey. FairGRAPE and WS, which share most figures, differ by more than a quarter of the way from black to
# white. Two variants of a method have its colour and marker, and are told apart by the filling.

# %%
assert len({tuple(look(m).values()) for m in (*ORDER, "one's own")}) == len(ORDER) + 1
lightness = lambda c: np.dot([int(c[i:i + 2], 16) / 255 for i in (1, 3, 5)], [.299, .587, .114])
assert lightness(look("ws")["color"]) - lightness(look("fairgrape")["color"]) > .25
forms = ["ws", "ws, iterative", "ws, as released"]
assert [look(f, forms)["fillstyle"] for f in forms] == ["full", "left", "none"] and len({look(f, forms)["color"] for f in forms}) == 1


# %%
#| export
def figure_of(
    rows: int = 1,                        # Rows of panels
    columns: int = 1,                     # Columns of panels
    size: tuple[float, float] = (7, 3.5), # Width and height (inches)
    **kwargs,                             # For `plt.subplots`, e.g. `sharey=True`
) -> tuple[Figure, np.ndarray]:           # The figure, closed, and its panels in reading order, shape `(rows · columns,)`
    "A figure with light grid lines and no box, which no notebook draws twice."
    fig, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **kwargs)
    plt.close(fig)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="0.88", linewidth=.8)
        ax.set_axisbelow(True)
    return fig, axes.ravel()


# %%
fig, (ax,) = figure_of(size=(8, 1.2))
for x, name in enumerate((*ORDER, "one's own", "ws, iterative")):
    ax.plot(x, 0, markersize=12, **look(name))
    ax.annotate(name.replace(", ", ",\n").replace("_", "_\n"), (x, .02), ha="center", fontsize=8)
fig

# %%
assert len(plt.get_fignums()) == 0 and len(fig.axes) == 1 and len(figure_of(2, 3)[1]) == 6


# %% [markdown]
# ## One run: who paid
#
# On the left each group's accuracy before and after, on the right the change. Both with 95 % intervals. The right one is the one to read:
# its pairs are the same images, so its intervals are narrower. The group `all` stands apart at the end.

# %%
#| export
def _bars(low: pd.Series, value: pd.Series, high: pd.Series) -> np.ndarray:
    "Error bars around a value, shape (2, n); none where the ends are not known."
    return np.nan_to_num(np.clip([value - low, high - value], 0, None).astype(float))

def _accuracy_bars(ax, t: pd.DataFrame):
    "Accuracy of the dense (grey) and the pruned network (hatched)."
    for shift, which, style in ((-.2, "dense", dict(color="0.8")), (.2, "pruned", dict(color=PALETTE[0], hatch="//"))):
        value = t[f"accuracy_{which}"]
        ends = _bars(t[f"accuracy_{which}_low"], value, t[f"accuracy_{which}_high"])
        ax.bar(np.arange(len(t)) + shift, value, .4, yerr=ends, capsize=2, edgecolor="white", label=which, error_kw=dict(lw=1), **style)
    ax.set(ylabel="accuracy (%)", title="Accuracy", ylim=(0, 100))

def plot_groups(
    metrics: dict, # From `compare`, or a run's `metrics`
) -> Figure:       # Two panels
    "Accuracy of each group, dense and pruned, and its change, with 95 % intervals."
    t = pd.DataFrame(metrics["table"]).set_index("group")
    fig, (left, right) = figure_of(1, 2, (max(8, 1.1 * len(t) + 3), 3.8))
    _accuracy_bars(left, t)
    right.errorbar(range(len(t)), t.delta, _bars(t.delta_low, t.delta, t.delta_high), fmt="o", color=PALETTE[0], capsize=3)
    right.axhline(0, color="0.3", lw=1)
    right.set(ylabel="Δ = pruned − dense (points)", title="Change", xlim=(-.5, len(t) - .5))
    for ax in (left, right):
        ax.axvline(len(t) - 1.5, color="0.8", lw=1)
        ax.set_xticks(range(len(t)), [f"{g}\nn = {n:,}" for g, n in t.n.items()], rotation=0 if len(t) < 7 else 60, fontsize=8)
    fig.legend(loc="outside lower left", ncols=2, fontsize=9)
    said = [f"{g} (n = {r.n:.0f}): {r.accuracy_dense:.1f} to {r.accuracy_pruned:.1f} percent" for g, r in t.iterrows()]
    fig.set_label(f"Accuracy of the dense and the pruned network for each group, and its change. {'; '.join(said)}.")
    return fig


# %% [markdown]
# For the examples, a made-up test set: 400 images, four groups, a dense network that is right on 92 %, and a pruned one that loses a part
# of each group's images.

# %%
from fairgrape.evaluation import compare

tones = [f"tone-{i}" for i in (1, 2, 3, 4)]
def made_up(loss, seed=0):
    rng = np.random.default_rng(seed)
    groups, y = np.repeat(np.arange(4), [160, 120, 80, 40]), rng.integers(0, 3, 400)
    dense = np.where(rng.random(400) < .92, y, (y + 1) % 3)
    pruned = np.where(rng.random(400) < np.array(loss)[groups], (y + 2) % 3, dense)
    return compare(y, dense, pruned, groups, {"expression": ["happy", "calm", "sad"]}, tones, B=200)

metrics = made_up(loss=[.02, .03, .05, .20])
plot_groups(metrics)

# %%
fig = plot_groups(metrics)
heights = [bar.get_height() for bar in fig.axes[0].patches]
assert np.allclose(heights[:5], [row["accuracy_dense"] for row in metrics["table"]]) and len(heights) == 10
assert "tone-4 (n = 40)" in fig.get_label() and fig.axes[0].patches[-1].get_hatch()


# %% [markdown]
# ## One run: where the weights went
#
# With scope `layer` all layers keep the same fraction. With scope `global` they do not, and a layer that is nearly cut off shows here
# first. The axis is logarithmic: between keeping 1 % and 0.1 % lies as much as between 10 % and 1 %.

# %%
#| export
def plot_sparsity(
    layers: pd.DataFrame, # Columns layer, weights, kept
) -> Figure:              # One panel, a line per layer
    "Share of each layer's weights that is kept, on a logarithmic axis."
    kept, y = 100 * layers.kept / layers.weights, np.arange(len(layers))
    total = 100 * layers.kept.sum() / layers.weights.sum()
    edge = 10 ** np.floor(np.log10(max(min(kept[kept > 0].min(), total), 1e-6)) - .1) if total else .01
    fig, (ax,) = figure_of(size=(7, 1.7 + .19 * len(layers)))
    ax.hlines(y, edge, kept, color="0.75", lw=2)
    ax.plot(kept, y, "o", color=PALETTE[0], label="layer")
    ax.axvline(total, color=PALETTE[3], ls="--", label=f"all weights: {total:.3g} %")
    ax.set_yticks(y, layers.layer, fontsize=8)
    ticks = [t for t in 10. ** np.arange(-6, 3) if t >= edge]
    ax.set(xscale="log", xlabel="weights kept (%)", xlim=(edge, 130), ylim=(len(y) - .4, -.6), xticks=ticks)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(axis="x", color="0.88"); ax.grid(axis="y", visible=False)
    ax.set_title(f"Kept weights per layer (sparsity {100 - total:.4g} %)")
    fig.legend(loc="outside lower right", ncols=2, fontsize=8)
    least, most = ((layers.layer[i], f"{kept[i]:.3g} percent") for i in (kept.idxmin(), kept.idxmax()))
    fig.set_label(f"Share of weights kept in each of {len(layers)} layers; {total:.3g} percent of all weights. "
                  f"Least: {', '.join(least)}; most: {', '.join(most)}.")
    return fig


# %%
layers = pd.DataFrame({"layer": ["conv1", "layer1.0.conv1", "fc"], "weights": [1728, 36864, 1536], "kept": [400, 3000, 612]})
plot_sparsity(layers)

# %% [markdown]
# Kept are 4,012 of 40,128 weights, 10 %: 23.1 % of conv1, 8.14 % of the middle layer, 39.8 % of the head.

# %%
fig = plot_sparsity(layers)
assert np.allclose(fig.axes[0].lines[0].get_xdata(), [23.148, 8.138, 39.844], atol=.001)
assert "10 percent of all weights" in fig.get_label() and "Least: layer1.0.conv1, 8.14 percent" in fig.get_label()


# %% [markdown]
# ## One run: did training settle?
#
# Losses on top, validation accuracy below, all stages one after another. Dotted lines part the dense training, the pruning steps and the
# final training. Filled points are the epochs whose weights were kept.

# %%
#| export
def plot_history(
    history: pd.DataFrame, # Columns label, stage, epoch, train_loss, val_loss, val_accuracy, kept
) -> Figure:               # Two panels, one above the other
    "Losses and validation accuracy over all epochs of a run."
    h, x, kept = history.reset_index(drop=True), np.arange(1, len(history) + 1), history.kept.to_numpy(bool)
    fig, (top, low) = figure_of(2, 1, (max(7, min(14, .12 * len(h))), 4.8), sharex=True)
    top.plot(x, h.train_loss, "--", color=PALETTE[1], label="training loss")
    top.plot(x, h.val_loss, "-", color=PALETTE[0], label="validation loss")
    low.plot(x, h.val_accuracy, "-", color=PALETTE[0])
    for which, style in ((kept, dict(label="kept epoch")), (~kept, dict(mfc="white"))):
        low.plot(x[which], h.val_accuracy[which], "o", color=PALETTE[0], ms=4, **style)
    for start in h.index[h.label != h.label.shift()]:
        for ax in (top, low): ax.axvline(start + .5, color="0.6", lw=.8, ls=":")
        top.annotate(h.label[start], (start + .55, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=7, color="0.3")
    top.set(ylabel="loss", ylim=(0, None))
    low.set(ylabel="validation accuracy (%)", xlabel="epoch, all stages in a row")
    fig.legend(loc="outside lower center", ncols=3, fontsize=9)
    first, last = h.iloc[0], h.iloc[-1]
    fig.set_label(f"Learning curves over {len(h)} epochs ({', '.join(h.label.astype(str).unique())}). "
                  f"Validation loss {first.val_loss:.2f} at first, {last.val_loss:.2f} at the end; "
                  f"validation accuracy {first.val_accuracy:.1f} and {last.val_accuracy:.1f} percent.")
    return fig


# %%
epochs = [("dense", 0, e) for e in range(4)] + [("dense", 1, 0), ("step 1", 0, 0), ("step 2", 0, 0), ("final", 0, 0), ("final", 0, 1)]
history = pd.DataFrame(epochs, columns=["label", "stage", "epoch"])
i = np.arange(1, 10)
history = history.assign(train_loss=1.2 / i, val_loss=1.3 / i + .05, val_accuracy=90 - 40 / i, kept=i != 3)
plot_history(history)

# %%
fig = plot_history(history)
assert len(fig.axes[0].lines[0].get_xdata()) == 9 and [t.get_text() for t in fig.axes[0].texts] == ["dense", "step 1", "step 2", "final"]
assert fig.axes[1].lines[2].get_xdata().tolist() == [3] and "9 epochs (dense, step 1, step 2, final)" in fig.get_label()


# %% [markdown]
# ## One run: whose importance was kept
#
# FairGRAPE's promise is that each group's share of a layer's importance is the same after pruning as before. One panel a group, layers from
# input to output: hollow points before, filled after. Where they part, the promise was not kept.

# %%
#| export
def plot_shares(
    layers: pd.DataFrame, # Columns layer and, for each group, `before:<group>` and `after:<group>` (shares in [0, 1])
) -> Figure:              # A panel per group
    "Each group's share of each layer's importance before and after pruning."
    groups, x = [c[7:] for c in layers if c.startswith("before:")], np.arange(len(layers))
    if not groups: raise ValueError("layers has no column before:<group>: this run recorded no importance shares")
    columns, rows = min(len(groups), 4), -(-len(groups) // 4)
    fig, axes = figure_of(rows, columns, (max(7, 2.3 * columns), .9 + 2.1 * rows), sharex=True, sharey=True)
    for ax, g in zip(axes, groups):
        ax.plot(x, 100 * layers[f"before:{g}"], "o--", mfc="white", color=PALETTE[3], ms=5, lw=1, label="before")
        ax.plot(x, 100 * layers[f"after:{g}"], "o-", color=PALETTE[0], ms=3, lw=1, label="after")
        ax.axhline(100 / len(groups), color="0.6", lw=.8, ls=":")
        ax.set_title(g, fontsize=9)
    for ax in axes[len(groups):]: ax.set_visible(False)
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=8)
    fig.supylabel("share of importance (%)", fontsize=9)
    fig.supxlabel(f"layer, from {layers.layer.iloc[0]} (0) to {layers.layer.iloc[-1]} ({x[-1]}); dotted: equal shares", fontsize=9)
    moved = [f"{g} {100 * (layers[f'after:{g}'] - layers[f'before:{g}']).abs().max():.2f} points" for g in groups]
    fig.set_label(f"Share of importance per layer before and after pruning. Largest change: {', '.join(moved)}.")
    return fig


# %%
rng = np.random.default_rng(0)
before = rng.dirichlet(np.full(4, 20), 21)
after = before + .02 * rng.normal(size=(21, 4))
columns = {f"{when}:{g}": share[:, i] for when, share in (("before", before), ("after", after)) for i, g in enumerate(tones)}
plot_shares(pd.DataFrame({"layer": [f"layer {i}" for i in range(21)]} | columns))

# %%
hand = pd.DataFrame({"layer": ["a", "b"], "before:x": [.5, .4], "after:x": [.5, .35], "before:y": [.5, .6], "after:y": [.5, .65]})
fig = plot_shares(hand)
assert "x 5.00 points, y 5.00 points" in fig.get_label() and [ax.get_title() for ax in fig.axes] == ["x", "y"]
assert np.allclose(fig.axes[1].lines[1].get_ydata(), [50, 65])

# %%
try: plot_shares(layers)
except ValueError as e: print(e)
else: raise AssertionError("shares were plotted that are not there")


# %% [markdown]
# ## Many runs: ρ with its interval and its floor
#
# Many runs come as a table, one row a run, which the next notebook makes; its column `label` says which method, and which variant of it.
# There is a panel for each scope, because methods are compared at equal scope. The hatched bar behind each point is the noise floor: a point inside it is no evidence of a disparity, whatever its height.

# %%
#| export
def _panels(table: pd.DataFrame, by: list[str], **kwargs) -> tuple[Figure, list[tuple]]:
    "A panel for each combination of the columns `by`: the figure, and axes, heading and rows of each."
    cells = list(_labelled(table).groupby(by, sort=True))
    across = min(len(cells), 2); down = -(-len(cells) // across)
    fig, axes = figure_of(down, across, (max(4.6 * across, 6), .7 + 3.1 * down), **kwargs)
    for ax in axes[len(cells):]: ax.set_visible(False)
    return fig, [(ax, ", ".join(f"{c} {v}" for c, v in zip(by, key)), rows) for ax, (key, rows) in zip(axes, cells)]

def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    "The table with a column `label`: the method, where nothing else is said"
    return table if "label" in table else table.assign(label=table.method)

def _finish(fig: Figure, title: str, table: pd.DataFrame, say) -> Figure:
    "One legend for all panels, each entry once, and the description: a part for each run."
    entries = {label: handle for ax in fig.axes for handle, label in zip(*ax.get_legend_handles_labels())}
    columns = int(12 * fig.get_size_inches()[0] / (max(map(len, entries)) + 6))   # as many as fit, at 12 letters an inch
    fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(max(columns, 1), 4), fontsize=9)
    runs = (f"{r.label}, scope {r['scope']}, rate {r.rate:g}, seed {r.seed}: {say(r)}" for _, r in _labelled(table).iterrows())
    fig.set_label(f"{title} {'; '.join(runs)}.")
    return fig

def plot_disparity(
    table: pd.DataFrame, # Runs of one experiment: label or method, scope, rate, seed, rho, rho_low, rho_high, floor_95
) -> Figure:             # A panel per scope
    "ρ of every run with its 95 % interval, over its noise floor."
    fig, panels = _panels(table, ["scope"], sharey=True)
    labels = list(_labelled(table).label)
    for ax, heading, cell in panels:
        cell = cell.sort_values(["rate", "label", "seed"]).reset_index(drop=True)
        x = cell.index + cell.rate.rank(method="dense")                       # a gap between the rates
        ax.bar(x, cell.floor_95, .8, color="0.9", hatch="....", edgecolor="0.7", lw=0, label="noise floor (95 %)")
        for name, r in cell.groupby("label"):
            ax.errorbar(x[r.index], r.rho, _bars(r.rho_low, r.rho, r.rho_high), ls="", capsize=3, ms=7, label=name, **look(name, labels))
        middles = x.groupby(cell.rate).mean()
        ax.set_xticks(middles, [f"rate {rate:g}" for rate in middles.index])
        ax.set(title=heading, ylabel="ρ (percentage points)")
    panels[0][0].set_ylim(0, None)                                            # of all panels, once all is drawn
    say = lambda r: f"{r.rho:.1f} [{r.rho_low:.1f}, {r.rho_high:.1f}], floor {r.floor_95:.1f}"
    return _finish(fig, "Disparity ρ with 95 percent interval and noise floor.", table, say)


# %%
def made_up_row(method, scope, rate, loss, seed=0):
    m = made_up(loss, seed); rho = m["disparities"]["rho"]
    row = dict(method=method, scope=scope, rate=rate, seed=seed, accuracy_dense=m["accuracy_dense"], accuracy=m["accuracy_pruned"],
               rho=rho["value"], rho_low=rho["low"], rho_high=rho["high"], floor_95=rho["floor_95"])
    columns = {"n": "n", "delta": "delta", "low": "delta_low", "high": "delta_high"}
    return row | {f"{k}:{g['group']}": g[v] for g in m["table"][:-1] for k, v in columns.items()}

table = pd.DataFrame([made_up_row("fairgrape", "layer", .9, [.02, .03, .05, .10]), made_up_row("ws", "layer", .9, [.02, .05, .08, .35]),
                      made_up_row("fairgrape", "layer", .99, [.05, .10, .20, .45]), made_up_row("ws", "layer", .99, [.10, .12, .12, .14]),
                      made_up_row("fairgrape", "global", .9, [.01, .01, .01, .05]), made_up_row("ws", "global", .9, [.01, .02, .03, .25]),
                      made_up_row("fairgrape", "layer", .9, [.02, .03, .05, .10], seed=1)])
plot_disparity(table)

# %%
fig = plot_disparity(table); panel = fig.axes[1]
assert panel.get_title() == "scope layer" and [t.get_text() for t in panel.get_xticklabels()] == ["rate 0.9", "rate 0.99"]
assert np.allclose([bar.get_height() for bar in panel.patches], table.floor_95[[0, 6, 1, 2, 3]])       # by rate, method, seed
drawn = sorted(y for c in panel.containers if hasattr(c, "lines") for y in c.lines[0].get_ydata())
assert panel.get_ylim()[1] > table.rho_high.max()                                                       # nothing is cut off
assert np.allclose(drawn, sorted(table[table["scope"] == "layer"].rho)) and "fairgrape, scope layer, rate 0.9, seed 1" in fig.get_label()

# %% [markdown]
# With labels, the variants of a method stand apart, and long names get fewer columns in the legend.

# %%
named = table.assign(label=[*table.method[:-1], "fairgrape, importance on race=White"])
plot_disparity(named)

# %%
fig = plot_disparity(named); legend = [t.get_text() for t in fig.legends[0].get_texts()]
assert "fairgrape, importance on race=White" in legend and "fairgrape" in legend
assert "race=White, scope layer, rate 0.9, seed 1" in fig.get_label()


# %% [markdown]
# ## Many runs: which group, under which method
#
# ρ says how unequal, not who. Here a panel holds the methods of one scope and rate, with the groups along the axis and Δ with its interval.

# %%
#| export
def plot_deltas(
    table: pd.DataFrame, # Runs of one experiment: label or method, scope, rate, seed, and `n:`, `delta:`, `low:`, `high:` of each group
) -> Figure:             # A panel per scope and rate
    "Change of each group's accuracy, method by method, with 95 % intervals."
    groups = [c[6:] for c in table if c.startswith("delta:") and table[c].notna().any()]
    fig, panels = _panels(table, ["scope", "rate"], sharey=True)
    labels = list(_labelled(table).label)
    for ax, heading, cell in panels:
        for i, (_, r) in enumerate(cell.iterrows()):
            value, low, high = (r[[f"{k}:{g}" for g in groups]].to_numpy(float) for k in ("delta", "low", "high"))
            x = np.arange(len(groups)) + (i - (len(cell) - 1) / 2) * min(.16, .7 / len(cell))
            ax.errorbar(x, value, _bars(low, value, high), ls="", capsize=2, ms=5, label=r.label, **look(r.label, labels))
        ax.axhline(0, color="0.3", lw=1)
        ax.set(title=heading, ylabel="Δ (points)")
        named = [f"{g}\nn = {table[f'n:{g}'].max():,.0f}" for g in groups]
        ax.set_xticks(range(len(groups)), named, fontsize=8, rotation=0 if len(groups) < 6 else 60)
    say = lambda r: ", ".join(f"{g} {r[f'delta:{g}']:+.1f}" for g in groups)
    return _finish(fig, "Change of accuracy of each group, pruned less dense, in points.", table, say)


# %%
plot_deltas(table)

# %%
fig = plot_deltas(table)
assert [ax.get_title() for ax in fig.axes] == ["scope global, rate 0.9", "scope layer, rate 0.9", "scope layer, rate 0.99"] + [""]
first = fig.axes[0].containers[0].lines[0]
assert np.allclose(first.get_ydata(), [table.loc[4, f"delta:{g}"] for g in tones])
assert f"tone-4 {table.loc[0, 'delta:tone-4']:+.1f}" in fig.get_label()


# %% [markdown]
# ## Many runs: at what price
#
# A network that guesses treats all groups alike. So ρ is shown against accuracy as well: down and to the right is better, and a point that
# is low *and* to the left has bought its small disparity with everybody's accuracy.

# %%
#| export
def plot_price(
    table: pd.DataFrame, # Runs of one experiment: label or method, scope, rate, seed, accuracy, accuracy_dense, rho, rho_low, rho_high
) -> Figure:             # A panel per scope
    "ρ of every run against its accuracy; the dashed line is the dense networks' mean accuracy."
    fig, panels = _panels(table, ["scope"], sharex=True, sharey=True)
    labels = list(_labelled(table).label)
    for ax, heading, cell in panels:
        for name, r in cell.groupby("label"):
            ax.errorbar(r.accuracy, r.rho, _bars(r.rho_low, r.rho, r.rho_high), ls="", capsize=3, ms=7, label=name, **look(name, labels))
        for _, r in cell.iterrows(): ax.annotate(f"{r.rate:g}", (r.accuracy, r.rho), xytext=(6, 3), textcoords="offset points", fontsize=8)
        ax.axvline(cell.accuracy_dense.mean(), color="0.4", ls="--", lw=1, label="dense")
        ax.set(title=heading, xlabel="accuracy (%)", ylabel="ρ (percentage points)")
    panels[0][0].set_ylim(0, None)
    return _finish(fig, "Disparity ρ against accuracy.", table, lambda r: f"accuracy {r.accuracy:.1f}, ρ {r.rho:.1f}")


# %%
plot_price(table)

# %%
fig = plot_price(table)
assert len(fig.axes) == 2 and f"accuracy {table.accuracy[0]:.1f}, ρ {table.rho[0]:.1f}" in fig.get_label()
assert [t.get_text() for t in fig.axes[0].texts] == ["0.9", "0.9"]
for draw in (plot_disparity, plot_deltas, plot_price):      # legends with long labels stay inside the figure
    fig = draw(named); fig.draw_without_rendering()
    box = fig.legends[0].get_window_extent(); assert 0 <= box.x0 and box.x1 <= fig.bbox.width
