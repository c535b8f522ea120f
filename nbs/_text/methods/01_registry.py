# %% [markdown]
# # Methods
#
# > FairGRAPE and the eight methods beside it, each as a score, a selector and a start on the same seams

# %%
#| default_exp methods.registry

# %%
#| export
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairgrape.method.selection import Select, select_fair
from fairgrape.method.selectors import select_top
from fairgrape.methods.scores import (
    grasp_score,
    group_score,
    importance_score,
    magnitude_score,
    random_score,
    snip_score,
)

# %%
import torch.nn.functional as F

from fairgrape.method.masks import apply_masks, get_masks, plain_state
from fairgrape.method.pruning import prune


# %% [markdown]
# What tells two pruning methods apart is seldom their loop. It is the number that a weight is given (the score), who gets a say in the choice (the selector), which weights are looked at (the trained ones or those that training
# starts from), and whether it is done at once or in steps. A method here is those few things and nothing else. The loop, the retraining and the counting are shared, so a difference in results is a difference of method.
#
# The scores are those of [18a](02_scores.ipynb). Two building blocks are still missing, a batch for GraSP and the way back for the lottery ticket; then comes the table of methods.
#
# ## A class-balanced batch
#
# GraSP's batch holds equally many images of each class, ten in the authors' code: a class that a small batch misses would have no gradient to preserve. With several heads an image counts for each of its heads, so
# the rows are drawn head after head, and only as many as a class still lacks.

# %%
#| export
def _fill_up(drawn: Tensor, order: Tensor, head: Tensor, each: int):
    """Mark rows of `order` as drawn until every class of `head` has `each`, or no row is left;
    in place
    """
    for c in head.unique():
        mine, lacking = (
            order[(head == c)[order] & ~drawn[order]],
            each - int((head[drawn] == c).sum()),
        )
        drawn[mine[: max(0, lacking)]] = True


# %% [markdown]
# Six images, three of class 0, two of class 1, one of class 2, taken from the back. Image 5 is drawn already and is the only one of its class, so class 2 lacks one that it cannot get. A second head then finds one of its classes served by what is there.

# %%
drawn, backwards = torch.arange(6) == 5, torch.arange(5, -1, -1)
_fill_up(drawn, backwards, torch.tensor([0, 0, 0, 1, 1, 2]), each=2)
print(drawn.tolist())
assert drawn.nonzero().flatten().tolist() == [1, 2, 3, 4, 5]
# class 0 has four of them, class 1 is image 1
_fill_up(drawn, backwards, torch.tensor([0, 1, 0, 0, 0, 0]), each=2)
assert drawn.nonzero().flatten().tolist() == [1, 2, 3, 4, 5]
_fill_up(drawn, backwards, torch.tensor([7, 0, 0, 0, 0, 0]), each=2)
assert drawn.all()


# %%
#| export
def balanced_rows(
    labels: Tensor,  # Class codes, shape `(n,)`, or `(n, heads)`
    each: int = 10,  # Images of each class of each head, where there are so many
    seed: int = 0,  # Which ones
) -> Tensor:  # Indices into `labels`, mixed, so that they can be cut into parts
    """Draw rows in which every class of every head has at least `each`; with one head exactly
    so many. Source of 10: the public code.
    """
    if each < 1:
        raise ValueError(f"each = {each}: draw at least 1 image of each class")
    labels = labels.reshape(len(labels), -1).cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    for head in labels.T:
        _fill_up(drawn, order, head, each)
    return order[drawn[order]]


# %%
labels = torch.tensor([0] * 50 + [1] * 5 + [2] * 20)
rows = balanced_rows(labels, each=4)
print(rows.tolist(), labels[rows].bincount().tolist())
assert labels[rows].bincount().tolist() == [4, 4, 4] and labels[
    balanced_rows(labels, 10)
].bincount().tolist() == [10, 5, 10]
assert torch.equal(balanced_rows(labels, 4), rows) and not torch.equal(
    balanced_rows(labels, 4, seed=1), rows
)
heads = (torch.rand(500, 39, generator=torch.Generator().manual_seed(0)) < 0.3).long()
drawn = heads[balanced_rows(heads, each=10)]
# 39 two-way heads share their images
assert len(drawn) < 100 and min(int(drawn.sum(0).min()), int((1 - drawn).sum(0).min())) >= 10
try:
    balanced_rows(labels, 0)
except ValueError as e:
    print(e)
else:
    raise AssertionError("an empty batch was drawn")


# %% [markdown]
# ## Rewinding
#
# The lottery ticket keeps a mask and throws the training away: after each pruning step the weights that stay go back to what they were *before* training, and the round begins anew. `rewind` does that
# under masks that already hold. Batch norm's statistics go back too, since they belong to those weights.

# %%
#| export
def _home(name: str, own: Mapping[str, Tensor]) -> str:
    """Where a plain name's tensor lives in a network that may be masked: under the
    parametrization, if there is one
    """
    module, _, last = name.rpartition(".")
    masked = f"{module}{'.' if module else ''}parametrizations.{last}.original"
    return masked if masked in own else name


# %%
half = apply_masks(
    nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)),
    {"0": torch.tensor([[True, False], [True, True]])},
)
[_home(name, half.state_dict()) for name in ("0.weight", "0.bias", "1.weight")]

# %%
assert (
    _home("0.weight", half.state_dict()) == "0.parametrizations.weight.original"
    and _home("1.weight", half.state_dict()) == "1.weight"
)
# the network is the layer: its name is ""
alone = apply_masks(nn.Linear(2, 1), {"": torch.tensor([[True, False]])})
assert (
    _home("weight", alone.state_dict()) == "parametrizations.weight.original"
    and _home("bias", alone.state_dict()) == "bias"
)


# %% [markdown]
# Masks are the only thing that an earlier state may lack. Anything else that is missing, new or of another shape means that the weights are another network's, and training would go on from nonsense.

# %%
#| export
def rewind(
    model: nn.Module,  # A network, masked or not, changed in place; its masks stay
    # Weights under their plain names, e.g. the network's `state_dict()` before training
    state: Mapping[str, Tensor],
) -> nn.Module:  # The same network
    """Put earlier weights back under the masks. Raises: ValueError if `state` is not of this
    network. Source: Frankle & Carbin 2019.
    """
    own = model.state_dict()
    home = {_home(name, own): value for name, value in state.items()}
    masks = {
        name: value
        for name, value in own.items()
        if name.endswith("parametrizations.weight.0.mask")
    }
    wrong = sorted(set(home) ^ set(own) - set(masks)) or sorted(
        n for n in home if home[n].shape != own[n].shape
    )
    if wrong:
        raise ValueError(
            f"weights of another network, different in {', '.join(wrong[:5])}: rewind to its own"
            " earlier state"
        )
    model.load_state_dict(home | masks)
    return model


# %%
def deep_net(depth=3, outputs=3):
    torch.manual_seed(0)

    def block(i):
        return (
            nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )

    parts = [part for i in range(depth) for part in block(i)]
    return nn.Sequential(
        *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, outputs)
    )


net = deep_net()
before = {n: t.clone() for n, t in net.state_dict().items()}
with torch.no_grad():
    for p in net.parameters():
        p += 1  # "training"
    net[1].running_mean += 7
mask = torch.zeros(8, 3, 3, 3, dtype=torch.bool)
mask[0, 0, 0] = True
apply_masks(net, {"0": mask})
rewind(net, before)
print(net[0].weight[0, 0].detach(), before["0.weight"][0, 0], sep="\n")
assert (
    torch.equal(net[0].weight, before["0.weight"] * mask) and net[1].running_mean.abs().max() == 0
)
after = plain_state(net)
assert rewind(
    alone, {"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.ones(1)}
).weight.tolist() == [[3, 0]]
assert all(torch.equal(after[n], before[n]) for n in before if n != "0.weight")
for bad in (
    {n: t for n, t in before.items() if n != "1.bias"},
    before | {"0.weight": torch.ones(8, 1, 3, 3)},
):
    try:
        rewind(net, bad)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("another network's weights were taken")

# %% [markdown]
# In the loop it is a part of `retrain`: back to the start, then train. Here the training is noise, to show that each round begins from the same weights:

# %%
torch.manual_seed(0)
ticket, rounds = nn.Sequential(nn.Linear(6, 6)), []
start = {n: t.clone() for n, t in ticket.state_dict().items()}


def round_of(model, step):
    rewind(model, start)
    rounds.append(model[0].weight.detach().clone())
    with torch.no_grad():
        model[0].parametrizations.weight.original.normal_()


prune(ticket, 0.75, magnitude_score, select_top, keep=0.5, retrain=round_of, on_step=print)
print([int((w != 0).sum()) for w in rounds])
assert [int((w != 0).sum()) for w in rounds] == [18, 9] and all(
    torch.equal(w[w != 0], start["0.weight"][w != 0]) for w in rounds
)


# %% [markdown]
# ## The table of methods
#
# A method's fields say what its published form is. `steps` and `scope` are only that form: both are settings of a run, and one that deviates is labelled so. `start` says which weights are scored, and pruned: the trained ones, or those that
# training starts from. `rewind` and `rounds` belong to the lottery. `groups` is whether the score is taken for each group or for one group of everybody, and `batches` which training images it sees: all of them, in near-equal batches; one batch; one
# class-balanced batch. Scores in `BLIND` see none.
#
# Lottery comes twice. As published every round trains with the full schedule, which at 44 steps is 44 trainings; `lottery_short` gives each round only as many epochs as FairGRAPE has after a step, at the schedule's first rate, since rewound weights must be learnt anew; it says that it is not the published form. Random pruning and
# iterative magnitude are no baselines of the paper, but they are the two that tell most: what is any score worth, and what are groups and gradients worth beyond plain magnitude in the same steps.

# %%
#| export
@dataclass(frozen=True)
class Method:
    """A pruning method: how weights are scored and chosen, from which weights, and in which
    form it was published
    """

    name: str  # As it is called in settings and tables
    # (model, batches, loss, groups, ignore, autocast, seed) → score, `(G, *weight)`
    score: Callable[..., dict[str, Tensor]]
    select: Select  # (importance, mask, k, weight, layer) → mask
    steps: str  # The published form: "iterative" or "one shot"
    scope: str  # The published form: "layer" or "global"
    published: str  # The published form, in words
    # Weights that are scored: "trained", or "initial", which are then trained
    start: str = "trained"
    rewind: bool = False  # After each step go back to earlier weights, masks held
    rewind_to: str = "initial"  # The weights to go back to: "initial" or "trained"
    # Training after each step: "short" (`retrain_epochs`) or "full" (the whole schedule)
    rounds: str = "short"
    groups: bool = False  # Score each group (True), or one group of everybody
    # Training images that the score sees: "all", "one" batch, or one "balanced" batch
    batches: str = "all"
    mixed: bool = False  # Batches mix the groups and are augmented (the public code)


# %% [markdown]
# The shortest method of one's own is a score and a name. Whether it has a published form is said in words, and the rest has defaults.

# %%
own = Method(
    "negative",
    lambda model, *_, **__: {n: -s for n, s in magnitude_score(model).items()},
    select_top,
    "one shot",
    "layer",
    "none: the smallest weights stay",
)
net = nn.Sequential(nn.Linear(3, 1, bias=False))
with torch.no_grad():
    net[0].weight.copy_(torch.tensor([[3.0, -1.0, 2.0]]))
prune(net, 0.5, own.score, own.select, keep=None)
net[0].weight

# %%
assert net[0].weight.tolist() == [[0, -1, 0]]
assert (own.start, own.rewind, own.rewind_to, own.rounds, own.groups, own.batches, own.mixed) == (
    "trained",
    False,
    "initial",
    "short",
    False,
    "all",
    False,
)

# %% [markdown]
# And the nine there are. Two sets say what else a score decides: whether it looks at images at all, and whether several processes may divide its batches.

# %%
#| export
BLIND = (magnitude_score, random_score)  # scores that look at no image
SHARED = (group_score, importance_score)  # scores whose batches several processes can divide

_NONE = "no published form: the lottery with short rounds"
_METHODS = (
    Method(
        "fairgrape",
        group_score,
        select_fair,
        "iterative",
        "layer",
        groups=True,
        published=(
            "group importance, every group keeps its share, per layer, iterative (Lin et al."
            " 2022)"
        ),
    ),
    Method(
        "ws",
        magnitude_score,
        select_top,
        "one shot",
        "layer",
        published="magnitude per layer, one shot from the trained network (Han et al. 2015)",
    ),
    Method(
        "lottery",
        magnitude_score,
        select_top,
        "iterative",
        "layer",
        rewind=True,
        rounds="full",
        published=(
            "iterative magnitude, rewound to the weights before training, full rounds (Frankle"
            " & Carbin 2019)"
        ),
    ),
    Method(
        "lottery_short", magnitude_score, select_top, "iterative", "layer", _NONE, rewind=True
    ),
    Method(
        "importance",
        importance_score,
        select_top,
        "iterative",
        "layer",
        published=(
            "importance of one group of everybody, per layer, iterative (baseline of Lin et al."
            " 2022)"
        ),
    ),
    Method(
        "snip",
        snip_score,
        select_top,
        "one shot",
        "global",
        start="initial",
        batches="one",
        published=(
            "|w · ∂L/∂w| on one batch, global, one shot before training (Lee et al. 2019)"
        ),
    ),
    Method(
        "grasp",
        grasp_score,
        select_top,
        "one shot",
        "global",
        start="initial",
        batches="balanced",
        published=(
            "removes the largest −w ⊙ (H g), one class-balanced batch, global, one shot before"
            " training (Wang et al. 2020)"
        ),
    ),
    Method(
        "random",
        random_score,
        select_top,
        "one shot",
        "layer",
        published="random per layer, one shot",
    ),
    Method(
        "magnitude",
        magnitude_score,
        select_top,
        "iterative",
        "layer",
        published="magnitude per layer, iterative with retraining (Han et al. 2015)",
    ),
)
METHODS = {m.name: m for m in _METHODS}

# %%
{m.name: m.published for m in METHODS.values()}

# %%
assert list(METHODS) == [
    "fairgrape",
    "ws",
    "lottery",
    "lottery_short",
    "importance",
    "snip",
    "grasp",
    "random",
    "magnitude",
]
assert (
    [n for n, m in METHODS.items() if m.groups]
    == ["fairgrape"]
    == [n for n, m in METHODS.items() if m.select is select_fair]
)
assert [(n, m.scope, m.steps) for n, m in METHODS.items() if m.start == "initial"] == [
    (n, "global", "one shot") for n in ("snip", "grasp")
]
assert [(n, m.rounds) for n, m in METHODS.items() if m.rewind] == [
    ("lottery", "full"),
    ("lottery_short", "short"),
]

# %% [markdown]
# Each one prunes, in its published form, through the same call. Of 216, 576, 576 and 24 weights a fifth stays: of each layer, or of all together.

# %%
one_group_each = [(torch.randn(12, 3, 8, 8), torch.arange(12) % 3, g) for g in range(2)]
for m in METHODS.values():
    net = deep_net()

    def score(net):
        return m.score(net, one_group_each, F.cross_entropy, 2 if m.groups else 1, seed=0)

    prune(net, 0.8, score, m.select, keep=0.5 if m.steps == "iterative" else None, scope=m.scope)
    kept = [int(k.sum()) for k in get_masks(net).values()]
    print(f"{m.name:13}", kept)
    assert sum(kept) == 278 if m.scope == "global" else kept == [43, 115, 115, 4]


# %%
#| export
def method(
    name: str,  # One of `METHODS`
) -> Method:  # The method
    "Look a method up by its name; an unknown one is a ValueError that lists those there are."
    if name not in METHODS:
        raise ValueError(f"method = {name!r}: choose dense (no pruning), {', '.join(METHODS)}")
    return METHODS[name]


# %%
print(method("ws").published)
assert method("ws") is METHODS["ws"]
try:
    method("grape")
except ValueError as e:
    print(e)
else:
    raise AssertionError("an unknown method was accepted")


# %% [markdown]
# And as a table, with the published form of each and the settings that change a run of it. A setting that is not listed does not touch the method: WS looks at no image, so `importance_cap` means nothing to it. (`keep` and the retraining count where a run is iterative.)

# %%
#| export
def touches(
    method: Method,  # A method
) -> list[str]:  # Names of settings
    """The settings that change a run of this method, beyond the network's, the data's and the
    training's.
    """
    short, rewound = (
        method.rounds == "short" and method.start == "trained",
        method.rewind and method.rewind_to == "initial",
    )
    steps = ["keep", *["retrain_epochs"] * short, *["retrain_lr"] * (short and not rewound)]
    images = method.batches == "all" and method.score not in BLIND and not method.mixed
    seen = ["importance_batch", "importance_cap", "importance_on"] * images
    return ["rate", "steps", "scope", *steps, *seen, *["importance_groups"] * method.groups]


# %%
print(touches(METHODS["fairgrape"]))
assert touches(METHODS["ws"]) == ["rate", "steps", "scope", "keep", "retrain_epochs", "retrain_lr"]
assert touches(METHODS["lottery_short"]) == ["rate", "steps", "scope", "keep", "retrain_epochs"]
assert touches(METHODS["snip"]) == touches(METHODS["lottery"]) == ["rate", "steps", "scope", "keep"]


# %% [markdown]
# What a reader of the table cannot guess from two words is how steps and images go together: a method that starts before training is scored again after a step, since nothing was trained in between.

# %%
#| export
def _row(m: Method) -> dict:
    "A method's row of `methods_table`"
    back = (
        f"rewound to {m.rewind_to}, {m.rounds} rounds"
        if m.rewind
        else "score again"
        if m.start == "initial"
        else "retrain"
    )
    images = (
        "none"
        if m.score in BLIND
        else {"all": "all", "one": "one batch", "balanced": "one class-balanced batch"}[m.batches]
    )
    return {
        "steps": m.steps,
        "scope": m.scope,
        "scored": f"{m.start} weights",
        "after a step": back,
        "groups": "each" if m.groups else "everybody",
        "images": images,
        "published form": m.published,
        "settings": ", ".join(touches(m)),
    }


# %%
_row(METHODS["grasp"])

# %%
assert list(_row(METHODS["grasp"]).values())[:6] == [
    "one shot",
    "global",
    "initial weights",
    "score again",
    "everybody",
    "one class-balanced batch",
]
assert [_row(METHODS[m])["after a step"] for m in ("ws", "lottery_short")] == [
    "retrain",
    "rewound to initial, short rounds",
]
assert [_row(METHODS[m])["images"] for m in ("ws", "snip", "fairgrape")] == [
    "none",
    "one batch",
    "all",
] and _row(METHODS["fairgrape"])["groups"] == "each"


# %%
#| export
def methods_table():
    "A `pandas.DataFrame` with a row for each method: its published form, and what changes it."
    import pandas as pd  # here, since nothing else in the methods needs it

    return pd.DataFrame([_row(m) for m in METHODS.values()], index=pd.Index(METHODS, name="method"))


# %%
methods_table()

# %%
table = methods_table()
assert table.loc["snip", ["steps", "scope", "scored", "images"]].tolist() == [
    "one shot",
    "global",
    "initial weights",
    "one batch",
]
assert (
    table.loc["lottery", "after a step"] == "rewound to initial, full rounds"
    and table.loc["grasp", "after a step"] == "score again"
)
assert (
    table.loc["fairgrape", "groups"] == "each"
    and table.loc["ws", "images"] == "none"
    and len(table) == 9
)
