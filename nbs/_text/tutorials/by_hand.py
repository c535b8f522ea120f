# %% [markdown]
# # FairGRAPE by hand
#
# > Six weights, two groups, every number on the page

# %% [markdown]
# Pruning a layer is a choice of weights. This page makes one such choice with pencil and paper: a layer of six weights, two groups of people, one image of each. Every number can be checked in the head, and each is then
# compared with what the library computes. The names used below (importance, share, target, deficit) are those of the paper and of the reference notebooks.

# %%
import re

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import HTML
from torch import nn

from fairgrape.method.importance import ByGroup, group_importance
from fairgrape.method.masks import apply_masks, get_masks, prunable
from fairgrape.method.pruning import prune_fair
from fairgrape.method.schedule import schedule
from fairgrape.method.selection import select_fair
from fairgrape.method.selectors import keep_count, select_top, target_share
from fairgrape.report.figures import html_figure
from fairgrape.report.selection_steps import html_choices

NAMES = [f"w{i}" for i in range(6)]


# %% [markdown]
# Pictures here carry their description in words, as the `alt` of an HTML picture. It stays with the notebook in Jupyter, on an exported page and on the site.

# %%
def show(fig, caption, description):
    "The figure as HTML, with a description for whoever cannot see it"
    fig.set_label(description)
    plt.close(fig)
    return HTML(html_figure(fig, caption))


assert 'alt="A line rises."' in show(plt.figure(figsize=(1, 1)), "A caption", "A line rises.").data

# %% [markdown]
# ## A network of six weights
#
# The output is $w_0x_0 + \dots + w_5x_5$, nothing else. Group 0's image and group 1's image are six numbers each, and for both of them the output is 10. The right answer for both would have been 9.5, and the loss is the squared error.

# %%
weight = torch.tensor([2.0, -1.0, 1.0, 3.0, -1.0, 4.0])
x = torch.tensor(
    [[3.0, 5.0, 4.0, 1.0, -2.0, 0.0], [0.0, -2.0, 1.0, 0.0, -3.0, 1.0]]  # group 0's image
)  # group 1's image
y = torch.tensor([[9.5], [9.5]])

net = nn.Linear(6, 1, bias=False)
with torch.no_grad():
    net.weight.copy_(weight[None])
pd.DataFrame(
    [*(x * weight).tolist()], columns=NAMES, index=["group 0: w · x", "group 1: w · x"]
).assign(output=net(x).detach().flatten())

# %%
assert (x * weight).tolist() == [[6, -5, 4, 3, 2, 0], [0, 2, 1, 0, 3, 4]] and net(
    x
).flatten().tolist() == [10, 10]
assert [F.mse_loss(net(x[[g]]), y[[g]]).item() for g in (0, 1)] == [0.25, 0.25]


# %% [markdown]
# ## Importance
#
# How much would a group's loss change if one weight were removed? To first order by the weight times the gradient of that group's loss. It is squared, so that a gain counts like a loss:
#
# $$I_g(w) = \left(w \cdot \frac{\partial L_g}{\partial w}\right)^2$$
#
# For the squared error the gradient is $2 \cdot (\text{output} - \text{answer}) \cdot x = 2 \cdot 0.5 \cdot x = x$. That is why the answer was 9.5: the importance is simply the square of the row above. PyTorch agrees.

# %%
def importance_of_group(g):
    net.zero_grad()
    F.mse_loss(net(x[[g]]), y[[g]]).backward()
    return (net.weight * net.weight.grad).detach()[0] ** 2


importance = torch.stack([importance_of_group(g) for g in (0, 1)])
shown = pd.DataFrame(importance.int().tolist(), columns=NAMES, index=["group 0", "group 1"])
shown.assign(total=shown.sum(axis=1))

# %%
assert importance.tolist() == [[36, 25, 16, 9, 4, 0], [0, 4, 1, 0, 9, 16]]
loader = [(x, y, torch.tensor([0, 1]))]  # one mixed batch: inputs, answers, groups
by_library = group_importance(net, ByGroup(loader, groups=2), F.mse_loss, groups=2)
# the layer's name is "", since it is the whole network
assert torch.equal(by_library[""][:, 0], importance)

# %% [markdown]
# Group 0 needs w0 most, group 1 needs w5, for which group 0 has no use at all. And group 0's numbers are larger: its image is louder.
#
# ## The target shares
#
# All importance together is 90 + 30 = 120. Group 0 holds 90 of it, three quarters; group 1 holds a quarter. FairGRAPE asks that the weights which are kept divide in the same way:
#
# $$P_0 = 90/120 = 0.75, \qquad P_1 = 30/120 = 0.25$$

# %%
target = target_share(importance)
target.tolist()

# %%
assert importance.sum(1).tolist() == [90, 30] and target.tolist() == [0.75, 0.25]


# %% [markdown]
# ## The choice, step by step
#
# Half is to be pruned, so three of six weights stay. They are chosen one at a time. Before each choice both groups' *current* shares are worked out from the weights that are kept so far; with none kept, each group counts as holding half. The group
# that falls furthest short of its target chooses, and it takes its own favourite among what is left.
#
# The loop below is all there is to it. It writes a row for every step.

# %%
def step_by_step(importance, k):
    "The greedy choice as a table, one row for each weight that is kept"
    target, kept, rows = target_share(importance), [], []
    for step in range(1, k + 1):
        held = importance[:, kept].sum(1).double()
        share = held / held.sum() if held.sum() > 0 else torch.tensor([0.5, 0.5])
        deficit = share - target  # below 0: short of the target
        group = int(deficit.argmin())
        free = [i for i in range(6) if i not in kept]
        kept.append(max(free, key=lambda i: importance[group, i]))
        held = importance[:, kept].sum(1)
        new = held / held.sum()
        rows.append(
            dict(
                step=step,
                share_0=share[0],
                share_1=share[1],
                deficit_0=deficit[0],
                deficit_1=deficit[1],
                chooses=f"group {group}",
                keeps=NAMES[kept[-1]],
                held_0=held[0],
                held_1=held[1],
                new_share_0=new[0],
                new_share_1=new[1],
            )
        )
    return (
        pd.DataFrame(rows)
        .astype({c: float for c in rows[0] if c not in ("step", "chooses", "keeps")})
        .set_index("step")
    )


steps = step_by_step(importance, k=3)
steps.round(3)

# %% [markdown]
# Read row by row:
#
# 1. Nothing is kept, so both hold 0.5. Group 0 should hold 0.75 and is short by 0.25. It chooses, and takes w0: 36 of its importance, 0 of group 1's.
# 2. Now group 0 holds everything, 1 against 0.75, and group 1 nothing, 0 against 0.25. Group 1 chooses, and takes w5: 16 for itself, 0 for group 0. Held: 36 and 16.
# 3. Group 0 holds 36/52 = 0.692 and is short by 0.058. It takes w1, 25. That weight is worth 4 to group 1 as well, so now 61 and 20 are held.
#
# At the end group 1 holds 20/81 = 0.247 where a quarter was asked for.

# %%
assert steps.chooses.tolist() == ["group 0", "group 1", "group 0"] and steps.keeps.tolist() == [
    "w0",
    "w5",
    "w1",
]
assert (
    steps.deficit_0.round(3).tolist() == [-0.25, 0.25, -0.058]
    and (steps.deficit_0 + steps.deficit_1).abs().max() < 1e-6
)
assert steps.held_0.tolist() == [36, 36, 61] and steps.held_1.tolist() == [0, 16, 20]
assert steps.new_share_1.round(3).tolist() == [0, 0.308, 0.247]

# %% [markdown]
# The same as pictures to turn, with the slider or the arrow keys. On the left each weight has a bar for each group, filled if the weight is kept; on the right are the shares, with the targets as black lines. These pictures are
# drawn from the library's own selector, so the words under them should be those of the table.

# %%
page = html_choices(importance, k=3, weight=weight, weights=NAMES)
HTML(page)

# %%
captions = re.findall(r"<figcaption>\d\. (.*?)</figcaption>", page)
assert (
    captions
    == [f"{r.chooses} chooses and keeps {r.keeps}" for r in steps.itertuples()]
    == [
        "group 0 chooses and keeps w0",
        "group 1 chooses and keeps w5",
        "group 0 chooses and keeps w1",
    ]
)

# %% [markdown]
# ## The library's choice, and the group-blind one
#
# `select_fair` makes the same choice. `select_top` looks at one number a weight, both groups' importances added up, and keeps the three largest: 36, 29 and 17. Group 1's 16 on w5 does not make it, since nobody else wants that weight.

# %%
everything = torch.ones(6, dtype=torch.bool)
k = keep_count(6, rate=0.5)
masks = {
    "FairGRAPE (select_fair)": select_fair(importance, everything, k, weight),
    "group-blind (select_top)": select_top(importance, everything, k, weight),
}


def compared(masks):
    "Masks, what each group still holds, and its share"
    held = {name: importance[:, mask].sum(1) for name, mask in masks.items()}
    rows = {
        n: [*mask.int().tolist(), *held[n].int().tolist(), *(held[n] / held[n].sum()).tolist()]
        for n, mask in masks.items()
    }
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=[*NAMES, "held 0", "held 1", "share 0", "share 1"]
    ).round(3)


compared({"all six weights": everything} | masks)

# %%
fair, blind = masks.values()
assert (
    k == 3
    and fair.int().tolist() == [1, 1, 0, 0, 0, 1]
    and blind.int().tolist() == [1, 1, 1, 0, 0, 0]
)
assert sorted(steps.keeps) == [n for n, stays in zip(NAMES, fair) if stays]
assert importance.sum(0).tolist() == [36, 29, 17, 9, 13, 16]
assert importance[:, fair].sum(1).tolist() == [61, 20] and importance[:, blind].sum(1).tolist() == [
    77,
    5,
]


# %%
def draw_masks(masks):
    "A row for each choice: filled squares stay; at the right, group 1's share"
    fig, ax = plt.subplots(figsize=(7.5, 1.9), layout="constrained")
    for row, (name, mask) in enumerate(masks.items()):
        for i, stays in enumerate(mask.tolist()):
            square = dict(facecolor="#0072B2") if stays else dict(facecolor="white", hatch="xx")
            letters = dict(color="white") if stays else dict(bbox=dict(color="white", pad=1))
            ax.add_patch(
                plt.Rectangle(
                    (i - 0.42, -row - 0.36), 0.84, 0.72, edgecolor="0.4", linewidth=0.8, **square
                )
            )
            ax.annotate(NAMES[i], (i, -row), ha="center", va="center", fontsize=10, **letters)
        held = importance[:, mask].sum(1)
        ax.annotate(f"group 1: {held[1] / held.sum():.3f}", (5.8, -row), va="center", fontsize=10)
    ax.set(xlim=(-0.6, 7.6), ylim=(0.6 - len(masks), 0.5), xticks=[])
    ax.set_yticks([-r for r in range(len(masks))], masks)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return fig


show(
    draw_masks(masks),
    "Filled squares stay, crossed ones are pruned; at the right group 1's share, where 0.250 is the"
    " target",
    "FairGRAPE keeps w0, w1 and w5 and leaves group 1 a share of 0.247. "
    "The group-blind choice keeps w0, w1 and w2 and leaves group 1 a share of 0.061.",
)

# %% [markdown]
# The two choices differ in one weight of three, and group 1's share falls to a quarter of its target with one and stays with the other.
#
# One caution. The choice is greedy: it looks one step ahead, and with six weights a single one can overshoot. Asked for four weights, group 1 is short by 0.003 after the third, chooses w4, and ends with 0.309; the group-blind choice
# picks up w5 as its fourth and ends with 0.214, nearer to the target by chance. In a layer of thousands of weights one step moves a share by a hair, and FairGRAPE stays at the target.

# %%
four = step_by_step(importance, k=4)
print(four.keeps.tolist(), f"group 1's share: {four.new_share_1[4]:.3f}")
assert four.keeps.tolist() == ["w0", "w5", "w1", "w4"] and round(four.new_share_1[4], 3) == 0.309
assert select_fair(importance, everything, 4, weight).int().tolist() == [1, 1, 0, 0, 1, 1]
blind_four = importance[:, select_top(importance, everything, 4, weight)].sum(1)
assert blind_four.tolist() == [77, 21] and round(float(blind_four[1] / 98), 3) == 0.214

# %% [markdown]
# ## Masks, and one step of retraining
#
# `apply_masks` sets the pruned weights to zero. What is left gives 6 − 5 + 0 = 1 for group 0's image and 0 + 2 + 4 = 6 for group 1's, where 9.5 would be right: the loss goes from 0.25 to (8.5² + 3.5²) / 2 = 42.25. Pruning is always followed by some training.

# %%
apply_masks(net, {"": fair[None]})
net.weight.tolist(), net(x).flatten().tolist(), F.mse_loss(net(x), y).item()

# %%
assert (
    net.weight.tolist() == [[2, -1, 0, 0, 0, 4]]
    and net(x).flatten().tolist() == [1, 6]
    and F.mse_loss(net(x), y).item() == 42.25
)


# %% [markdown]
# One step of gradient descent on both images, learning rate 0.02. The gradient is $e_0 x_0 + e_1 x_1$ with the errors −8.5 and −3.5: for w0 −8.5 · 3 = −25.5, for w1 −8.5 · 5 + 3.5 · 2 = −35.5, for w5 −3.5. So w0 becomes 2 + 0.02 · 25.5 = 2.51, w1
# becomes −0.29, w5 becomes 4.07. The pruned weights have a gradient too, but no optimizer ever sees it: the mask stands between them.

# %%
def retrain(model, step=1):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    optimizer.zero_grad()
    F.mse_loss(model(x), y).backward()
    optimizer.step()


retrain(net)
stages = {"before pruning": weight, "pruned": weight * fair, "after one step": net.weight[0]}
pd.DataFrame.from_dict(
    {name: w.tolist() for name, w in stages.items()}, orient="index", columns=NAMES
).round(2)

# %%
# 0, not nearly 0
assert (
    torch.allclose(net.weight, torch.tensor([[2.51, -0.29, 0, 0, 0, 4.07]]))
    and (net.weight[0, ~fair] == 0).all()
)
assert abs(F.mse_loss(net(x), y).item() - (3.42**2 + 4.85**2) / 2) < 1e-4  # 17.6, from 42.25
assert get_masks(net)[""].tolist() == [fair.tolist()] and prunable(net)[""] is net

# %% [markdown]
# The loss of both images together fell from 42.25 to 17.6. Group 0's did from 72.25 to 11.7, and group 1's *rose* from 12.25 to 23.5: the optimizer minimises the sum, and there FairGRAPE has no say. It chooses weights, nothing else.
#
# ## Once more, from the top
#
# In practice the choice is repeated: prune a little, retrain, measure the importance of what is left, prune again. `schedule` says the rates; a weight that is gone stays gone, so each mask lies inside the one before.
# With `keep=0.5` half of the weights go at the first step; to reach 0.6, the second leaves ⌊0.4 · 6⌋ = 2.

# %%
[float(r) for r in schedule(rate=0.6, keep=0.5)], keep_count(6, 0.6)

# %%
again = nn.Linear(6, 1, bias=False)
with torch.no_grad():
    again.weight.copy_(weight[None])
seen = []


def remember(model, step):
    seen.append(get_masks(model)[""][0].int().tolist())
    if step == 1:
        retrain(model)


done = prune_fair(
    again, loader, rate=0.6, groups=2, keep=0.5, loss=F.mse_loss, retrain=remember, on_step=print
)
seen, again.weight.detach().round(decimals=2).tolist()

# %%
assert [float(r) for r in schedule(0.6, 0.5)] == [0.5, 0.6] and keep_count(6, 0.6) == 2
# w1 goes: each keeps its favourite
assert seen == [[1, 1, 0, 0, 0, 1], [1, 0, 0, 0, 0, 1]] and [s.kept for s in done] == [3, 2]
assert torch.allclose(again.weight, torch.tensor([[2.51, 0, 0, 0, 0, 4.07]]))

# %% [markdown]
# After one step of retraining the importances are new ones: for w0, w1 and w5 they are 2653, 98 and 0 for group 0 and 0, 32 and 1559 for group 1. The targets are new as well, 0.634 and 0.366. Group 0 chooses w0, then group 1 chooses w5.
#
# That is the whole method. A real layer has thousands of weights and two or more groups, the importance comes from thousands of images, and the choice is computed in another way to be fast; but it is equal to this loop, weight for weight.
# Where to go on: [importance](../method/01_importance.ipynb), [selection](../method/02_selection.ipynb), [the loop of all steps](../method/03_pruning.ipynb), [a first real network](first_net.ipynb), [your own](own_model.ipynb).

# %%
new = group_importance(net, ByGroup(loader, groups=2), F.mse_loss, groups=2)[""][:, 0]
assert new.round().int().tolist() == [[2653, 98, 0, 0, 0, 0], [0, 32, 0, 0, 0, 1559]]
assert [round(p, 3) for p in target_share(new).tolist()] == [0.634, 0.366]
assert step_by_step(new, 2).keeps.tolist() == ["w0", "w5"]
