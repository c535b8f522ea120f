# %% [markdown]
# # The selection, step by step
#
# > FairGRAPE's selection in pictures: which group chooses, which weight, and how the shares change

# %%
#| default_exp report.selection_steps

# %%
#| export
from collections.abc import Sequence

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from fairgrape.method.selection import select_fair
from fairgrape.method.selectors import target_share
from fairgrape.report.figures import area, figure_of, html_steps, legend_columns, name_ticks, plain

# %%
import numpy as np
from IPython.display import HTML

from fairgrape.method.selectors import select_top
from fairgrape.report.figures import html_figure


# %% [markdown]
# The selector's rule is one sentence: the group furthest below its target keeps the weight that is most important to it. Pictures show the effect better than text. For a layer of a few weights this notebook draws each choice of the library's selector.
#
# ## Shares
#
# Each group holds a share of the kept importance. While nothing is kept, each group counts as holding an equal share; that is the selector's convention.

# %%
#| export
def shares_kept(
    importance: Tensor,  # Importance, shape `(G, n)`, finite, ≥ 0
    mask: Tensor,  # True where a weight is kept, shape `(n,)`
) -> Tensor:  # Shape `(G,)`, float64, sums to 1
    "Each group's share of the kept importance; equal shares if that is 0."
    held = importance[:, mask].double().sum(1)
    return held / held.sum() if held.sum() > 0 else torch.full_like(held, 1 / len(held))


# %% [markdown]
# Six weights and two groups, the example of the tutorial *By hand*. The importance of all weights divides as 90 to 30, so the targets are 0.75 and 0.25. That of w0 and w5 divides as 36 to 16.

# %%
importance = torch.tensor(
    [[36.0, 25.0, 16.0, 9.0, 4.0, 0.0], [0.0, 4.0, 1.0, 0.0, 9.0, 16.0]]  # group 0
)  # group 1
some = torch.tensor([True, False, False, False, False, True])
print(shares_kept(importance, some), shares_kept(importance, some & False))
assert np.allclose(shares_kept(importance, some), [36 / 52, 16 / 52]) and shares_kept(
    importance, some & False
).tolist() == [0.5, 0.5]
assert (
    torch.equal(shares_kept(importance, some | True), target_share(importance))
    and shares_kept(torch.zeros(4, 6), some).tolist() == [0.25] * 4
)


# %% [markdown]
# ## The order of the choices
#
# The selector returns the weights that stay, not their order. But no choice depends on the number of later choices, so the difference between keeping $j$ and $j + 1$ weights is the choice of that step: the one new weight. The notebook uses the selector itself, so the pictures cannot differ from it.

# %%
#| export
def choices(
    importance: Tensor,  # Importance, shape `(G, n)`; few weights: each step repeats the selection
    k: int,  # How many to keep, 1 ≤ k ≤ n
    weight: Tensor | None = None,  # The weights, shape `(n,)`: decide on equal importance
) -> pd.DataFrame:  # Index step 1 … k; group (who chose), weight (which), and `share:0` … after it
    "FairGRAPE's selection as a table, one row for each kept weight."
    n = importance.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k = {k}: the layer has {n} weights, so choose 1 to {n}")
    target, everything, rows = target_share(importance), torch.ones(n, dtype=torch.bool), []
    masks = [
        everything & False,
        *(select_fair(importance, everything, j, weight) for j in range(1, k + 1)),
    ]
    for step, (before, after) in enumerate(zip(masks, masks[1:]), 1):
        deficit = (shares_kept(importance, before) - target).tolist()
        shares = {f"share:{g}": float(s) for g, s in enumerate(shares_kept(importance, after))}
        rows.append(
            dict(
                step=step,
                group=deficit.index(min(deficit)),
                weight=int((after & ~before).nonzero()),
            )
            | shares
        )
    return pd.DataFrame(rows).set_index("step")


# %%
steps = choices(importance, k=3)
steps.round(3)

# %% [markdown]
# At first nothing is kept and both groups count as 0.5, so group 0 is below its target (0.75) and takes w0. Now group 1 holds nothing and takes w5. With 36 and 16 kept group 0 holds 0.692, which is 0.058 below its target, and takes w1. In general the new weight is the most important one left for the choosing group:

# %%
assert steps.group.tolist() == [0, 1, 0] and steps.weight.tolist() == [0, 5, 1]
assert np.allclose(steps["share:1"], [0, 16 / 52, 20 / 81]) and np.allclose(
    steps["share:0"] + steps["share:1"], 1
)
for seed in range(20):
    some = torch.rand(3, 12, generator=torch.Generator().manual_seed(seed))
    left = set(range(12))
    for r in choices(some, 6).itertuples():
        assert r.weight == max(left, key=lambda i: some[r.group, i])
        left.remove(r.weight)
for k in (0, 7):
    try:
        choices(importance, k)
    except ValueError as e:
        print(e)
        assert "choose 1 to 6" in str(e)
    else:
        raise AssertionError(f"{k} of six weights were chosen")


# %% [markdown]
# ## One step as a picture
#
# The left panel shows the layer: each weight has one bar per group, filled if the weight is kept, outlined if not.

# %%
#| export
def _weights_panel(ax: Axes, importance: Tensor, kept: Sequence[int], weights: Sequence[str]):
    "Importance of each weight for each group; kept weights are filled."
    G, n = importance.shape
    for g in range(G):
        for i in range(n):
            ax.bar(
                i + (g - (G - 1) / 2) * 0.8 / G,
                float(importance[g, i]),
                0.72 / G,
                **area(g, hollow=i not in kept),
            )
    ax.set(ylabel="importance", title="the layer's weights")
    ax.set_xticks(range(n), [plain(name, 12) for name in weights])


# %%
fig, (ax,) = figure_of(size=(5, 2))
_weights_panel(ax, importance, kept=[0, 5], weights=[f"w{i}" for i in range(6)])
fig.set_label("Importance of six weights for two groups; w0 and w5 are kept.")
HTML(html_figure(fig, "w0 and w5 are kept"))

# %%
assert [b.get_height() for b in ax.patches] == importance.flatten().tolist() and [
    t.get_text() for t in ax.get_xticklabels()
][5] == "w5"
filled = [b.get_facecolor()[:3] != (1, 1, 1) for b in ax.patches]
# side by side
assert np.allclose(
    [b.get_x() + b.get_width() / 2 for b in ax.patches],
    [*(np.arange(6) - 0.2), *(np.arange(6) + 0.2)],
)
assert {round(b.get_width(), 3) for b in ax.patches} == {0.36} and ax.get_ylabel() == "importance"
assert (
    filled == [True, False, False, False, False, True] * 2
    and ax.patches[11].get_hatch()
    and not ax.patches[7].get_hatch()
)


# %% [markdown]
# The right panel shows each group's share, and its target as a black line.

# %%
#| export
def _shares_panel(ax: Axes, share: Tensor, target: Tensor, groups: Sequence[str]):
    "Each group's share of the kept importance, against its target."
    for g, (s, t) in enumerate(zip(share.tolist(), target.tolist())):
        ax.bar(g, s, 0.6, **area(g))
        ax.plot([g - 0.42, g + 0.42], [t, t], color="black", lw=2.5)
        ax.annotate(f"{s:.3f}", (g, 1.08), ha="center", fontsize=9)
    ax.set(
        ylim=(0, 1.2),
        yticks=(0, 0.25, 0.5, 0.75, 1),
        ylabel="share of kept importance",
        title="shares and targets",
    )
    name_ticks([ax], groups)


# %%
fig, (ax,) = figure_of(size=(3, 2.2))
_shares_panel(
    ax, torch.tensor([36 / 52, 16 / 52]), target_share(importance), ["group 0", "group 1"]
)
fig.set_label(
    "With w0 and w5 kept, group 0 holds 0.692 with a target of 0.75, group 1 holds 0.308 with a"
    " target of 0.25."
)
HTML(html_figure(fig, "Group 0 falls short of its target"))

# %%
assert np.allclose([b.get_height() for b in ax.patches], [36 / 52, 16 / 52]) and [
    t.get_text() for t in ax.texts
] == ["0.692", "0.308"]
assert [line.get_ydata()[0] for line in ax.lines] == [0.75, 0.25] and ax.get_ylim() == (0, 1.2)
assert [t.get_text() for t in ax.get_xticklabels()] == ["group 0", "group 1"]


# %% [markdown]
# Both panels together are a step. The description contains the shares and the targets, so a reader who cannot see the bars has the same numbers.

# %%
#| export
def plot_choice(
    importance: Tensor,  # Importance, shape `(G, n)`
    kept: Sequence[int],  # The weights kept so far
    weights: Sequence[str] | None = None,  # Names of the weights; None: w0, w1, …
    groups: Sequence[str] | None = None,  # Names of the groups; None: group 0, group 1, …
) -> Figure:  # Two panels
    "The kept weights of a layer, and each group's share against its target."
    weights = weights or [f"w{i}" for i in range(importance.shape[1])]
    groups = groups or [f"group {g}" for g in range(len(importance))]
    mask = torch.isin(torch.arange(len(weights)), torch.tensor(kept, dtype=torch.long))
    share, target = shares_kept(importance, mask), target_share(importance)
    fig, (left, right) = figure_of(1, 2, (9, 3), width_ratios=(3, 2))
    _weights_panel(left, importance, kept, weights)
    _shares_panel(right, share, target, groups)
    line = right.lines[0]
    handles = [
        *(Patch(**area(g)) for g in range(len(groups))),
        Patch(facecolor="white", edgecolor="0.4", linestyle="--"),
        line,
    ]
    fig.legend(
        handles,
        [*map(plain, groups), "not kept", "target share"],
        loc="outside lower center",
        ncols=legend_columns([*map(plain, groups), "target share"], 9),
        fontsize=9,
    )
    said = [
        f"{name} holds {s:.3f}, target {t:.3f}"
        for name, s, t in zip(groups, share.tolist(), target.tolist())
    ]
    fig.set_label(f"Kept: {', '.join(weights[i] for i in kept) or 'nothing'}. {'; '.join(said)}.")
    return fig


# %%
fig = plot_choice(importance, kept=[0, 5])
HTML(html_figure(fig, "After two choices"))

# %%
assert (
    fig.get_label()
    == "Kept: w0, w5. group 0 holds 0.692, target 0.750; group 1 holds 0.308, target 0.250."
)
assert plot_choice(importance, []).get_label().startswith("Kept: nothing. group 0 holds 0.500")
fig = plot_choice(importance, [3], weights=list("abcdef"), groups=["women", "men"])
assert fig.get_label().startswith("Kept: d. women holds 1.000") and [
    t.get_text() for t in fig.legends[0].get_texts()
] == ["women", "men", "not kept", "target share"]
assert len(fig.axes[0].patches) == 12 and len(fig.axes[1].patches) == 2


# %% [markdown]
# ## All steps with a slider
#
# The first picture has no kept weights. Each caption names the choosing group and its weight.

# %%
#| export
def html_choices(
    importance: Tensor,  # Importance, shape `(G, n)`
    k: int,  # How many weights to keep, 1 ≤ k ≤ n
    weight: Tensor | None = None,  # The weights, shape `(n,)`: decide on equal importance
    weights: Sequence[str] | None = None,  # Names of the weights; None: w0, w1, …
    groups: Sequence[str] | None = None,  # Names of the groups; None: group 0, group 1, …
) -> str:  # HTML with a slider, and a picture with a caption for each step
    "FairGRAPE's selection step by step."
    weights = weights or [f"w{i}" for i in range(importance.shape[1])]
    groups = groups or [f"group {g}" for g in range(len(importance))]
    table = choices(importance, k, weight)
    figures = [
        plot_choice(importance, table.weight.tolist()[:j], weights, groups) for j in range(k + 1)
    ]
    captions = [
        f"{step}. {groups[r.group]} chooses and keeps {weights[int(r.weight)]}"
        for step, r in zip(table.index, table.itertuples())
    ]
    return html_steps(
        figures,
        ["Nothing is kept: every group counts as holding an equal share", *captions],
        "Choice",
    )


# %%
page = html_choices(importance, k=3)
HTML(page)

# %%
import re

assert re.findall("<figcaption>(.*?)<", page)[1:] == [
    f"{i}. group {g} chooses and keeps w{w}" for i, (g, w) in enumerate(((0, 0), (1, 5), (0, 1)), 1)
]
assert [alt.split(".")[0] for alt in re.findall('alt="(.*?)"', page)] == [
    "Kept: nothing",
    "Kept: w0",
    "Kept: w0, w5",
    "Kept: w0, w5, w1",
]
assert 'max="3"' in page and "group 1 holds 0.247, target 0.250" in page

# %% [markdown]
# Ties show why the weights are passed on: all four weights are equally important to both groups, and the larger weights are chosen first.

# %%
even = torch.ones(2, 4)
print(choices(even, 2, weight=torch.tensor([1.0, -4.0, 2.0, 3.0])).weight.tolist())
assert choices(even, 2, weight=torch.tensor([1.0, -4.0, 2.0, 3.0])).weight.tolist() == [
    1,
    3,
] and choices(even, 2).weight.tolist() == [0, 1]
assert "keeps w1</fig" in html_choices(even, 1, torch.tensor([1.0, -4.0, 2.0, 3.0]))

# %% [markdown]
# The group-blind selection, drawn in the same way, shows the purpose of the rule: of the kept importance of 82, group 1 holds only 5.

# %%
blind = select_top(importance, torch.ones(6, dtype=torch.bool), 3).nonzero().flatten().tolist()
fig = plot_choice(importance, blind)
assert blind == [0, 1, 2] and "group 1 holds 0.061, target 0.250" in fig.get_label()
HTML(html_figure(fig, "Three weights of six, chosen by the sum of both groups' importance"))
