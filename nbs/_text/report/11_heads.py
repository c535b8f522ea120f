# %% [markdown]
# # Many heads
#
# > Head × group: what each of several tasks lost in each group, beside the commonest class

# %%
#| default_exp report.heads

# %%
#| export
import html

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fairgrape.judge.audit import Audit
from fairgrape.judge.compare import _records, collapse_table
from fairgrape.report.figures import figure_of, html_figure, html_table, plain

# %%
from fairgrape.judge.audit import audit
from fairgrape.judge.compare import compare
from fairgrape.judge.predictions import predictions_of

# %% [markdown]
# A network with several heads answers several questions about an image: CelebA has 39. A mean over unbalanced heads hides almost everything, since a head that always says "not bald" is right on 98 % of images. So each head is shown for each group, beside the share of its commonest class.
#
# Nothing is computed from images here. A run's metrics hold the true positive rate of each class, head and group, before and after pruning. An audit holds the same rows. Three measures follow from them:
#
# - **accuracy**;
# - **balanced accuracy**, the mean of the classes' true positive rates;
# - **TPR of the rarest class**: of the class with the fewest test images, the share that is found.
#
# Each cell also has `fewest`, the number of images of the smallest class that the measure rests on. A rate of three images moves in steps of 33 points.

# %%
#| export
HEAD_MEASURES = ("accuracy", "balanced accuracy", "TPR of the rarest class")


def head_values(
    rates: list[dict],  # The `rates` of a run's metrics, or `audit_rates`
    # Rows (head, group, measure), groups end with `all`: rarest (the head's class with the fewest
    # images), n, fewest, before, after (percent), change (points)
) -> pd.DataFrame:
    "Three measures of every head in every group, before and after."
    table = pd.DataFrame(rates)
    rows = []
    for head, of_head in table.groupby("head", sort=False) if len(table) else ():
        every = of_head[(of_head.group == "all") & (of_head.n > 0)]
        rarest = every["class"][every.n.idxmin()]
        for group, cells in of_head.groupby("group", sort=False):
            cells = cells[cells.n > 0]
            n, own = cells.n.to_numpy(int), (cells["class"] == rarest).to_numpy()
            both = cells[["tpr_dense", "tpr_pruned"]].to_numpy(float)
            found = (
                (n.sum(), n @ both / n.sum()),
                (n.min(), both.mean(axis=0)),
                (n[own].sum(), both[own].sum(axis=0) if own.any() else np.full(2, np.nan)),
            )
            for measure, (fewest, (before, after)) in zip(HEAD_MEASURES, found):
                rows.append([head, rarest, group, measure, n.sum(), fewest, before, after])
    columns = ["head", "rarest", "group", "measure", "n", "fewest", "before", "after"]
    values = pd.DataFrame(rows, columns=columns)
    return values.assign(change=values.after - values.before)


# %% [markdown]
# The example has 1,200 answers about smiles and hats, of three groups. The pruned network has forgotten hats, of which there are few, and loses smiles in the third group.

# %%
rng = np.random.default_rng(0)
n = 1200
who = rng.choice(3, n, p=[0.5, 0.35, 0.15])
labels = np.stack([rng.random(n) < 0.4, rng.random(n) < 0.1], axis=1).astype(int)
dense = np.where(rng.random((n, 2)) < 0.95, labels, 1 - labels)
pruned = np.where(rng.random((n, 2)) < np.where(who == 2, 0.25, 0.03)[:, None], 0, dense)
pruned[:, 1] = 0
heads = {"smile": ["no", "yes"], "hat": ["no", "yes"]}
tones = [f"tone-{i}" for i in (1, 2, 3)]
metrics = compare(labels, dense, pruned, who, heads, tones, B=200)
values = head_values(metrics["rates"])
values.round(1)

# %%
cells = values.set_index(["head", "group", "measure"]).sort_index()
for h, head in enumerate(heads):
    for g, tone in enumerate(tones):
        y, was, now = (a[who == g, h] for a in (labels, dense, pruned))
        own = cells.loc[(head, tone)].loc[list(HEAD_MEASURES)]
        rare = y == 1
        assert np.allclose(own.before["accuracy"], 100 * (was == y).mean())
        assert np.allclose(own.after[HEAD_MEASURES[2]], 100 * (now == y)[rare].mean())
        balanced = 50 * ((now == y)[rare].mean() + (now == y)[~rare].mean())
        assert np.allclose(own.after["balanced accuracy"], balanced)
        assert own.fewest.tolist() == [len(y), rare.sum(), rare.sum()]
by_hand = [
    {"head": "hat", "class": c, "group": g, "n": k, "tpr_dense": d, "tpr_pruned": p}
    for c, g, k, d, p in (
        ("no", "a", 8, 100, 50),
        ("yes", "a", 2, 50, 0),
        ("no", "b", 4, 75, 75),
        ("yes", "b", 0, None, None),
        ("no", "all", 12, 100, 58),
        ("yes", "all", 2, 50, 0),
    )
]
two = head_values(by_hand).set_index(["group", "measure"])
assert two.before["a"].tolist() == [90, 75, 50] and two.change["a"].tolist() == [-50, -50, -50]
assert two.before["b"].tolist()[:2] == [75, 75] and np.isnan(two.change["b"].iloc[2])
assert two.fewest["b"].tolist() == [4, 4, 0] and set(two.rarest) == {"yes"}
assert head_values([]).empty


# %% [markdown]
# An audit's rates, in the same form. Its own accuracies and balanced accuracies are the same numbers.

# %%
#| export
def audit_rates(
    a: Audit,  # An audit
    model: str,  # One of its later models
    grouping: str,  # One of its groupings
) -> list[dict]:  # head, class, group, n, tpr_dense (before), tpr_pruned (after)
    "The true positive rates of an audit, as a run's metrics have them."
    of = a.measures.model.eq(model) & a.measures.grouping.eq(grouping)
    t = a.measures[of & a.measures.measure.eq("TPR")]
    t = t[["head", "class", "group", "n", "before", "after"]].reset_index(drop=True)
    return _records(t.rename(columns=dict(before="tpr_dense", after="tpr_pruned")))


# %%
def answers(h, head):
    names = np.array(heads[head])
    columns = dict(label=labels, dense=dense, pruned=pruned)
    return {f"{what}_{head}": names[codes[:, h]] for what, codes in columns.items()}


table = pd.DataFrame(
    dict(id=np.arange(n).astype(str), tone=np.array(tones)[who])
    | answers(0, "smile")
    | answers(1, "hat")
)
found = audit(predictions_of(table, groups=["tone"]), B=200)
of_audit = head_values(audit_rates(found, "pruned", "tone"))
pd.testing.assert_frame_equal(of_audit, values)
for measure in HEAD_MEASURES[:2]:
    ours = of_audit[of_audit.measure == measure]
    own = found.measures[found.measures.measure == measure]
    assert np.allclose(ours[["before", "after"]], own[["before", "after"]])

# %% [markdown]
# ## Tables
#
# Heads are sorted by their largest loss of balanced accuracy in any group. Groups with fewer than ten images of a class do not count for the order: their rates are mostly chance.

# %%
#| export
FEW = 10  # cells with fewer images are in brackets and do not count


def by_loss(
    values: pd.DataFrame,  # As `head_values`
) -> list[str]:  # Heads, the one with the largest loss first
    "Heads by their largest loss of balanced accuracy in any group that has enough images."
    heads = values["head"].drop_duplicates()
    t = values[values.measure == "balanced accuracy"]
    worst = t[(t.fewest >= FEW) & (t.group != "all")].groupby("head").change.min()
    return worst.reindex(heads).sort_values(kind="stable", na_position="last").index.tolist()


# %%
by_loss(values)

# %%
assert by_loss(values) == ["hat", "smile"]
assert by_loss(head_values(by_hand)) == ["hat"]  # no group has ten images
of_all = values.assign(
    change=values.change.where((values.group != "all") | (values["head"] != "smile"), -100)
)
assert by_loss(of_all) == ["hat", "smile"]  # the groups count, not all images together


# %%
#| export
def _percent(value: float, signed: bool = False) -> str:
    "One decimal; a dash where there is no value"
    if pd.isna(value):
        return "–"
    value = round(float(value), 1) + 0.0  # no −0.0
    return f"{value:{'+' if signed and value else ''}.1f}".replace("-", "−")


def heads_overview(
    values: pd.DataFrame,  # As `head_values`
    heads: pd.DataFrame,  # As `collapse_table`: each head of each network
    networks: tuple[str, str] = ("dense", "pruned"),  # Their names in `heads`
) -> pd.DataFrame:  # Text: a row per head, the largest loss first
    "Every head over all images, beside its commonest class."
    known = heads.drop_duplicates(["head", "network"]).set_index(["head", "network"])
    cells = values.set_index(["head", "group", "measure"]).sort_index()
    balanced = values[(values.measure == "balanced accuracy") & (values.group != "all")]
    rows = []
    for head in by_loss(values):
        accuracy, even, rare = (cells.loc[(head, "all", m)] for m in HEAD_MEASURES)
        row = {"Head": head, "Commonest class (%)": "–"}
        for network, value in zip(networks, (accuracy.before, accuracy.after)):
            row[f"Accuracy, {network}"] = _percent(value)
            if (head, network) in known.index:
                guess = known.loc[(head, network)]
                row["Commonest class (%)"] = f"{guess.commonest} ({_percent(guess.share)})"
                row[f"Accuracy, {network}"] += " †" if guess.no_better else ""
        row["Balanced accuracy"] = f"{_percent(even.before)} → {_percent(even.after)}"
        row["Rarest class (images)"] = f"{rare.rarest} ({rare.fewest:,})"
        row["Its TPR"] = f"{_percent(rare.before)} → {_percent(rare.after)}"
        worst = balanced[(balanced["head"] == head) & (balanced.fewest >= FEW)]
        worst = worst.nsmallest(1, "change")
        said = [f"{r.group} ({_percent(r.change, True)})" for r in worst.itertuples()]
        rows.append(row | {"Largest loss of balanced accuracy": said[0] if said else "–"})
    return pd.DataFrame(rows)


# %%
overview = heads_overview(values, collapse_table(metrics["rates"]))
overview

# %%
assert overview.Head.tolist() == ["hat", "smile"]
of_hat = overview.iloc[0]
rare = labels[:, 1] == 1
assert of_hat["Accuracy, pruned"] == of_hat["Commonest class (%)"][4:-1] + " †"
assert of_hat["Commonest class (%)"] == f"no ({100 * (1 - rare.mean()):.1f})"
assert of_hat["Rarest class (images)"] == f"yes ({rare.sum()})"
assert of_hat["Its TPR"] == f"{100 * dense[rare, 1].mean():.1f} → 0.0"
assert "†" not in overview["Accuracy, pruned"][1]
assert overview["Largest loss of balanced accuracy"][1].startswith("tone-3 (−")
alone = heads_overview(head_values(by_hand), collapse_table([]))
assert alone["Commonest class (%)"][0] == "–" and alone.iloc[0, -1] == "–"


# %% [markdown]
# Head × group in numbers, for one measure. Brackets mark fewer than ten images.

# %%
#| export
def head_group_table(
    values: pd.DataFrame,  # As `head_values`
    measure: str,  # One of `HEAD_MEASURES`
) -> pd.DataFrame:  # Text: a row per head, `before → after` for each group
    "One measure of every head in every group."
    t = values[values.measure == measure]
    said = [f"{_percent(r.before)} → {_percent(r.after)}" for r in t.itertuples()]
    said = [f"({s})" if few else s for s, few in zip(said, t.fewest < FEW)]
    said = ["–" if none else s for s, none in zip(said, t.change.isna())]
    groups = list(dict.fromkeys(t.group))
    grid = t.assign(said=said).pivot(index="head", columns="group", values="said")
    grid = grid.loc[by_loss(values), groups].rename_axis(columns=None)
    return grid.reset_index().rename(columns={"head": "Head"})


# %%
head_group_table(values, "TPR of the rarest class")

# %%
shown = head_group_table(values, "accuracy").set_index("Head")
assert list(shown) == [*tones, "all"]
right = [100 * (a[who == 1, 0] == labels[who == 1, 0]).mean() for a in (dense, pruned)]
assert shown.loc["smile", "tone-2"] == f"{right[0]:.1f} → {right[1]:.1f}"
assert head_group_table(head_values(by_hand), "accuracy")["b"].tolist() == ["(75.0 → 75.0)"]
assert head_group_table(head_values(by_hand), HEAD_MEASURES[2])["b"].tolist() == ["–"]


# %% [markdown]
# ## A sentence
#
# Heads whose test images are all of one class cannot be better and are not counted.

# %%
#| export
def heads_sentence(
    heads: pd.DataFrame,  # As `collapse_table`: each head of each network
    networks: tuple[str, str] = ("dense", "pruned"),  # Their names in `heads`
) -> str:
    "Names the heads of each network that are no better than the commonest class."
    t = heads.drop_duplicates(["head", "network"])
    count, said = t["head"].nunique(), []
    for network in networks:
        weak = t["head"][(t.network == network) & t.no_better.astype(bool)].tolist()
        named = f" ({', '.join(weak)})" if weak else ""
        said.append(f"{len(weak)} of {count} heads of {network}{named}")
    return (
        "No better, beyond chance, than always naming the commonest class: "
        + "; ".join(said)
        + ". They are marked †."
    )


# %%
sentence = heads_sentence(collapse_table(metrics["rates"]))
print(sentence)
assert "class: 0 of 2 heads of dense; 1 of 2 heads of pruned (hat). They" in sentence

# %% [markdown]
# ## The heat map
#
# One panel per measure: red cells lost, blue cells gained, grey cells have no image. The scale is symmetric around 0, and its ends are the largest change of a cell with enough images. With many groups each measure gets a figure of its own.

# %%
#| export
MOST_COLUMNS = 18  # with more columns in all panels, each measure has its own figure
MOST_NUMBERS = 24  # with more columns in a panel, numbers are left out
COLORS = plt.get_cmap("RdBu", 17)  # few, since a picture in a page has 64


def _heat(ax: Axes, t: pd.DataFrame, heads: list[str], groups: list[str], most: float):
    "One panel: the change of one measure"
    wide = t.pivot(index="head", columns="group", values=["change", "fewest"])
    change, fewest = (wide[k].loc[heads, groups].to_numpy(float) for k in ("change", "fewest"))
    picture = ax.imshow(change, cmap=COLORS, vmin=-most, vmax=most, aspect="auto")
    ax.grid(False)
    ax.set_facecolor("0.93")  # cells without a value
    ax.set_xticks(range(len(groups)), [plain(g, 20) for g in groups], rotation=50, fontsize=8)
    for tick in ax.get_xticklabels():
        tick.set(ha="right", rotation_mode="anchor")
    if "all" in groups:
        ax.axvline(groups.index("all") - 0.5, color="0.2", lw=1)
    ax.set_title(t.measure.iloc[0], fontsize=9)
    for (i, j), value in np.ndenumerate(change) if len(groups) <= MOST_NUMBERS else ():
        text = _percent(value, True)
        text = f"({text})" if fewest[i, j] < FEW and text != "–" else text
        color = "white" if abs(value) > 0.6 * most else "black"
        ax.text(j, i, text, ha="center", va="center", color=color, fontsize=7)
    return picture


def plot_heads(
    values: pd.DataFrame,  # As `head_values`
    weak: list[str] = (),  # Heads to be marked †: no better than the commonest class
    measures: tuple[str, ...] = HEAD_MEASURES,  # A panel for each
) -> Figure:
    "Change of each measure, head × group; the head with the largest loss first."
    heads, groups = by_loss(values), list(dict.fromkeys(values.group))
    values = values[values.measure.isin(measures)]
    enough = values.change[values.fewest >= FEW]
    most = max(1.0, float(np.nanmax(np.abs(enough)))) if enough.notna().any() else 10.0
    letters = max(len(h) for h in heads) + 2
    size = (
        max(6.5, 1.6 + 0.08 * letters + 0.52 * len(measures) * len(groups)),
        1.5 + 0.07 * max(len(g) for g in groups) + 0.24 * len(heads),
    )
    fig, axes = figure_of(1, len(measures), size=size, sharey=True)
    for ax, measure in zip(axes, measures):
        picture = _heat(ax, values[values.measure == measure], heads, groups, most)
    names = [f"{plain(h, 28)} †" if h in weak else plain(h, 28) for h in heads]
    axes[0].set_yticks(range(len(heads)), names, fontsize=8)
    bar = fig.colorbar(picture, ax=axes, label="points", pad=0.01, fraction=0.03, aspect=30)
    low, high = np.clip([values.change.min(), values.change.max()], -most, most)
    if min(low, 0) < max(high, 0):  # only the part of the scale that occurs
        bar.ax.set_ylim(min(low, 0), max(high, 0))
    fig.set_label(_heat_label(values, measures, len(heads)))
    return fig


def _heat_label(values: pd.DataFrame, measures: tuple[str, ...], heads: int) -> str:
    "The heat map in words"
    said = f"Change of {', '.join(measures)}, in points, for {heads} heads and each group."
    for measure in measures:
        t = values[(values.measure == measure) & (values.group != "all")]
        t = t[(t.fewest >= FEW) & t.change.notna()].nsmallest(4, "change")
        cells = [f"{r.head} in {r.group} {_percent(r.change, True)}" for r in t.itertuples()]
        if cells:
            said += f" Lowest changes of {measure}: {'; '.join(cells)}."
    return said


# %%
plot_heads(values, weak=["hat"])

# %%
drawn = plot_heads(values, weak=["hat"])
assert drawn.axes[3].get_ylim()[1] == 0  # nothing was gained
assert len(drawn.axes) == 4 and "for 2 heads" in drawn.get_label()
assert [t.get_text() for t in drawn.axes[0].get_yticklabels()] == ["hat †", "smile"]
numbers = [t.get_text() for t in drawn.axes[2].texts]
lost = values[(values.measure == HEAD_MEASURES[2]) & (values["head"] == "hat")].change
assert numbers[:4] == [f"−{-v:.1f}" for v in lost]
assert "Lowest changes of TPR of the rarest class: hat in tone-" in drawn.get_label()
texts = plot_heads(head_values(by_hand)).axes[2].texts
assert [t.get_text() for t in texts][:2] == ["(−50.0)", "–"]


# %% [markdown]
# All figures of a run or an audit: one with three panels, or three with one.

# %%
#| export
def head_figures(
    values: pd.DataFrame,  # As `head_values`
    weak: list[str] = (),  # Heads to be marked †
) -> list[Figure]:
    "One figure of all measures, or one of each where there are many groups."
    if values.group.nunique() * len(HEAD_MEASURES) <= MOST_COLUMNS:
        return [plot_heads(values, weak)]
    return [plot_heads(values, weak, (measure,)) for measure in HEAD_MEASURES]


# %% [markdown]
# What a notebook shows of a run with several heads:

# %%
#| export
def shown_heads(
    rates: list[dict],  # The `rates` of a run's metrics
) -> list[str | pd.DataFrame | Figure]:  # Sentence, tables and figures; none for a single head
    "All about the heads of a run, ready to be displayed."
    values, heads = head_values(rates), collapse_table(rates)
    if values["head"].nunique() < 2:
        return []
    weak = heads["head"][(heads.network == "pruned") & heads.no_better.astype(bool)].tolist()
    tables = [
        head_group_table(values, measure).rename(columns={"Head": measure})
        for measure in HEAD_MEASURES
    ]
    overview = heads_overview(values, heads)
    return [heads_sentence(heads), overview, *head_figures(values, weak), *tables]


# %%
parts = shown_heads(metrics["rates"])
print(parts[0])
parts[-1]

# %%
assert [type(part).__name__ for part in parts[1:4]] == ["DataFrame", "DescribedFigure", "DataFrame"]
assert list(parts[-1])[0] == HEAD_MEASURES[2] and parts[1].equals(overview) and len(parts) == 6
assert parts[2].get_label() == drawn.get_label()
single = [row for row in metrics["rates"] if row["head"] == "hat"]
assert shown_heads(single) == []

# %% [markdown]
# Thirty-nine heads and fourteen groups, with chance changes only:

# %%
many = pd.DataFrame(
    [
        (f"attribute-{h:02}", "yes", f"group-{g:02}", m, 300, 5 + 9 * (g % 9), 80, 80 + change)
        for h in range(39)
        for g in range(14)
        for m, change in zip(HEAD_MEASURES, rng.normal(0, (1, 2, 4)))
    ],
    columns=["head", "rarest", "group", "measure", "n", "fewest", "before", "after"],
)
many["change"] = many.after - many.before
figures = head_figures(many)
figures[2]

# %%
assert len(figures) == 3 and len(head_figures(values)) == 1
assert len(figures[0].axes) == 2 and "39 heads" in figures[0].get_label()
assert max(figures[0].get_size_inches()) < 13


# %% [markdown]
# ## In a page
#
# The same as HTML, for the report and the audit's page. The tables of each group are folded.

# %%
#| export
def heads_html(
    values: pd.DataFrame,  # As `head_values`
    heads: pd.DataFrame,  # As `collapse_table`: each head of each network
    networks: tuple[str, str] = ("dense", "pruned"),  # Their names in `heads`
) -> str:
    "HTML: every head beside its commonest class, and head × group; empty for a single head."
    if values["head"].nunique() < 2:
        return ""
    weak = heads["head"][(heads.network == networks[1]) & heads.no_better.astype(bool)].tolist()
    parts = [
        f"<p>{html.escape(heads_sentence(heads, networks))}</p>",
        html_table(
            heads_overview(values, heads, networks),
            "Every head beside its commonest class, in percent; the head with the largest loss"
            " first",
        ),
    ]
    for fig in head_figures(values, weak):
        said = (
            "Change of each head in each group, in points; in brackets: fewer than 10 images of a"
            " class; †: no better than always naming the commonest class."
        )
        parts.append(f'<div class="grid">{html_figure(fig, said)}</div>')
    for measure in HEAD_MEASURES:
        name = f"{measure[0].upper()}{measure[1:]} of each head in each group, in percent"
        inside = html_table(head_group_table(values, measure), name)
        parts.append(f"<details><summary>{name}</summary>{inside}</details>")
    return "".join(parts)


# %%
page = heads_html(head_values(metrics["rates"]), collapse_table(metrics["rates"]))
print(page[:180], "…")

# %%
assert page.count("<figure>") == 1 and page.count("<table>") == 4 and page.count("<details>") == 3
assert heads_html(head_values(single), collapse_table(single)) == ""
