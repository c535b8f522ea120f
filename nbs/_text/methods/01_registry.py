# %% [markdown]
# # Methods
#
# > FairGRAPE and nine other methods, each as a score, a selector and a starting point

# %%
#| default_exp methods.registry

# %%
#| export
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

# %%
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch import nn

from fairgrape.method.masks import get_masks
from fairgrape.method.pruning import prune
from fairgrape.method.selection import select_fair
from fairgrape.method.selectors import select_top
from fairgrape.methods.scores import magnitude_score


# %% [markdown]
# Pruning methods seldom differ in their loop. They differ in the number given to each weight (the score), the rule of choice (the selector), the weights that are scored (the trained ones or those that training
# starts from), and whether they prune in one step or several. A method here consists of these parts only. The loop, the retraining and the counting are shared, so a difference in results is a difference between methods.
#
# The scores are in [scores](02_scores.ipynb) and [FairPrune](09_fairprune.ipynb); the rewinding of the lottery ticket is in [recovery](05_recovery.ipynb).
#
# ## A function by its address
#
# The command line checks settings before it imports torch, and the check needs to know every method. The table therefore names the functions of a method by their addresses in the package. A function is imported when it is used.

# %%
#| export
def _address(
    function: Callable | str,  # A function, or its address
) -> str:  # Such as "methods.scores.group_score"; outside the package with the full module name
    "The address of a function; empty for a function without a name."
    if isinstance(function, str):
        return function
    module, name = (getattr(function, k, "") for k in ("__module__", "__qualname__"))
    return f"{module}.{name}".removeprefix("fairgrape.") if name else ""


def _function(
    held: Callable | str,  # A function, or its address
) -> Callable:  # The function
    "Import a function by its address. Raises: AttributeError if the module has no such name."
    if not isinstance(held, str):
        return held
    module, _, name = held.rpartition(".")
    return getattr(import_module(f"fairgrape.{module}"), name)


# %%
_address(magnitude_score), _function("methods.scores.magnitude_score").__name__

# %%
assert (
    _address(magnitude_score)
    == "methods.scores.magnitude_score"
    == _address("methods.scores.magnitude_score")
)
assert _function("methods.scores.magnitude_score") is magnitude_score is _function(magnitude_score)
assert _address(torch.nn.functional.relu) == "torch.nn.functional.relu"
try:
    _function("methods.scores.no_score")
except AttributeError as e:
    print(e)
else:
    raise AssertionError("a score that does not exist was found")


# %% [markdown]
# A field of this type takes a function or its address and gives the function.

# %%
#| export
class _Function:
    "A field that holds a function or its address; reading it gives the function."

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, owner, kind=None):
        if owner is None:  # the class itself: the field has no default
            raise AttributeError(self.name)
        return _function(vars(owner)[self.name])

    def __set__(self, owner, value):
        vars(owner)[self.name] = value


# %%
class Holder:
    score = _Function()


holder = Holder()
holder.score = "methods.scores.magnitude_score"
assert holder.score is magnitude_score
assert vars(holder) == dict(score="methods.scores.magnitude_score")
holder.score.__name__


# %% [markdown]
# ## The table of methods
#
# The fields of a method describe its published form. `steps` and `scope` are defaults only: both are settings of a run, and a run that deviates is labelled so. `start` says which weights are scored and pruned: the trained ones, or those that
# training starts from. `rewind` and `rounds` belong to the lottery. `groups` says whether the score is computed for each group or for all images as one group, and `batches` which training images it sees: all of them, in near-equal batches; one batch; one
# class-balanced batch. A `blind` score sees no images.
#
# The lottery has two entries. As published, every round trains with the full schedule, which at 44 steps is 44 trainings. `lottery_short` gives each round as many epochs as FairGRAPE has after a step, at the schedule's first rate, because rewound weights must be trained again; its text says that this is not the published form. Random pruning and
# iterative magnitude are not baselines of the paper, but they are the most informative controls: the first shows the value of any score, the second the value of groups and gradients beyond plain magnitude in the same steps.

# %%
#| export
@dataclass(frozen=True)
class Method:
    "A pruning method: its score, its selector, the start of both, and its published form."

    name: str  # Its name in settings and tables
    # (model, batches, loss, groups, ignore, autocast, seed) → score, `(G, *weight)`; a function,
    # or its address in the package
    score: Callable | str = _Function()
    # (importance, mask, k, weight, layer) → mask; a function, or its address in the package
    select: Callable | str = _Function()
    steps: str  # The published form: "iterative" or "one shot"
    scope: str  # The published form: "layer" or "global"
    published: str  # The published form, in words
    # Weights that are scored: "trained", or "initial", which are then trained
    start: str = "trained"
    rewind: bool = False  # After each step restore earlier weights under the masks
    rewind_to: str = "initial"  # The weights to restore: "initial" or "trained"
    # Training after each step: "short" (`retrain_epochs`) or "full" (the whole schedule)
    rounds: str = "short"
    groups: bool = False  # Score each group (True), or all images as one group
    # Training images that the score sees: "all", "one" batch, or one "balanced" batch
    batches: str = "all"
    mixed: bool = False  # Batches mix the groups and are augmented (the public code)

    @property
    def blind(self) -> bool:
        "Whether its score uses no image."
        return _address(vars(self)["score"]) in _BLIND

    @property
    def shared(self) -> bool:
        "Whether several processes can divide the batches of its score."
        return _address(vars(self)["score"]) in _SHARED

    def but(self, **changes) -> "Method":
        "The same method with other fields; imports no function."
        return Method(**(vars(self) | changes))


# %% [markdown]
# A new method needs only a score, a name and a few words on its published form; every other field has a default.

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
# The table has ten methods. Two properties of scores are listed first.

# %%
#| export
_BLIND = ("methods.scores.magnitude_score", "methods.scores.random_score")  # see no image
# several processes can divide their batches
_SHARED = ("methods.scores.group_score", "methods.scores.importance_score")

_NONE = "no published form: the lottery with short rounds"
_METHODS = (
    Method(
        "fairgrape",
        "methods.scores.group_score",
        "method.selection.select_fair",
        "iterative",
        "layer",
        groups=True,
        published=(
            "group importance, every group keeps its share, per layer, iterative (Lin et al. 2022)"
        ),
    ),
    Method(
        "ws",
        "methods.scores.magnitude_score",
        "method.selectors.select_top",
        "one shot",
        "layer",
        published="magnitude per layer, one shot from the trained network (Han et al. 2015)",
    ),
    Method(
        "lottery",
        "methods.scores.magnitude_score",
        "method.selectors.select_top",
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
        "lottery_short",
        "methods.scores.magnitude_score",
        "method.selectors.select_top",
        "iterative",
        "layer",
        _NONE,
        rewind=True,
    ),
    Method(
        "importance",
        "methods.scores.importance_score",
        "method.selectors.select_top",
        "iterative",
        "layer",
        published=(
            "importance of one group of everybody, per layer, iterative (baseline of Lin et al."
            " 2022)"
        ),
    ),
    Method(
        "snip",
        "methods.scores.snip_score",
        "method.selectors.select_top",
        "one shot",
        "global",
        start="initial",
        batches="one",
        published=("|w · ∂L/∂w| on one batch, global, one shot before training (Lee et al. 2019)"),
    ),
    Method(
        "grasp",
        "methods.scores.grasp_score",
        "method.selectors.select_top",
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
        "methods.scores.random_score",
        "method.selectors.select_top",
        "one shot",
        "layer",
        published="random per layer, one shot",
    ),
    Method(
        "magnitude",
        "methods.scores.magnitude_score",
        "method.selectors.select_top",
        "iterative",
        "layer",
        published="magnitude per layer, iterative with retraining (Han et al. 2015)",
    ),
    Method(
        "fairprune",
        "methods.fairprune.fairprune_score",
        "method.selectors.select_top",
        "one shot",
        "global",
        groups=True,
        published=(
            "second-order loss of the worse-off groups less β times the best-off one's, global, one"
            " shot (Wu et al. 2022; more than two groups: extended here)"
        ),
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
    "fairprune",
]
assert [n for n, m in METHODS.items() if m.groups] == ["fairgrape", "fairprune"]
assert [n for n, m in METHODS.items() if m.select is select_fair] == ["fairgrape"]
assert [(n, m.scope, m.steps) for n, m in METHODS.items() if m.start == "initial"] == [
    (n, "global", "one shot") for n in ("snip", "grasp")
]
assert [(n, m.rounds) for n, m in METHODS.items() if m.rewind] == [
    ("lottery", "full"),
    ("lottery_short", "short"),
]

# %% [markdown]
# None of this imports torch, not even the comparison of two methods.

# %%
said = (
    "import sys; from fairgrape.methods.registry import METHODS; "
    "print([m.name for m in METHODS.values() if m.blind], "
    "[m.name for m in METHODS.values() if m.shared], 'torch' in sys.modules)"
)
done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
print(done.stdout)

# %%
assert done.stdout == (
    "['ws', 'lottery', 'lottery_short', 'random', 'magnitude'] ['fairgrape', 'importance'] False\n"
)
short = METHODS["lottery"].but(rounds="short")
assert (short.rounds, METHODS["lottery"].rounds, short.name) == ("short", "full", "lottery")


# %% [markdown]
# Each method prunes in its published form through the same call. A fifth of 216, 576, 576 and 24 weights stays, per layer or in total.

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


torch.manual_seed(0)
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
    "Look up a method by name. Raises: ValueError for an unknown name, with the known ones."
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
# ## Recovery
#
# What a pruned network is retrained on, between the steps and after the last one, is a choice of its own, which goes with every method: [recovery losses](06_recoveries.ipynb), the [performance-weighted loss](07_performance.ipynb), [constrained gaps](08_constrained.ipynb).

# %%
#| export
@dataclass(frozen=True)
class Recover:
    "A way to retrain a pruned network."

    kind: Callable | str = _Function()  # A subclass of `Recovery`, or its address
    words: str  # What is trained on
    grouped: bool = False  # It needs groups
    whole: bool = False  # It needs the losses of the whole batch at once


RECOVERIES = {
    "plain": Recover("methods.recoveries.Recovery", "the mean loss"),
    "performance-weighted": Recover(
        "methods.performance.PerformanceWeighted", "more on what the dense network found hard"
    ),
    "constrained": Recover(
        "methods.constrained.Constrained",
        "a bound on each group's excess drop",
        grouped=True,
        whole=True,
    ),
    "worst-group": Recover(
        "methods.recoveries.WorstGroup",
        "groups weighted by their losses, group DRO",
        grouped=True,
        whole=True,
    ),
    "tail": Recover("methods.recoveries.Tail", "the images with the largest losses", whole=True),
    "balanced": Recover(
        "methods.recoveries.Balanced", "as many images of each group", grouped=True
    ),
}

# %%
{name: recover.words for name, recover in RECOVERIES.items()}

# %%
for recover in RECOVERIES.values():
    assert (recover.kind.grouped, recover.kind.whole) == (recover.grouped, recover.whole)
assert RECOVERIES["plain"].kind.__name__ == "Recovery" and [
    name for name, recover in RECOVERIES.items() if recover.grouped
] == ["constrained", "worst-group", "balanced"]

# %% [markdown]
# ## As released
#
# The paper's public code departs from its text. [As released](03_released.ipynb) rebuilds each departure; this table has the changes to the methods.

# %%
#| export
_PASS = "piled-up gradients, Adam steps and batch norm in training mode on a scratch copy"
_lottery = dict(
    select="methods.released.select_strict_single",
    rewind_to="trained",
    rounds="short",
    published="public code: strict threshold, rewound to the trained weights, short rounds",
)
RELEASED = dict(
    fairgrape=dict(
        score="methods.released_pass.released_importance",
        select="methods.released.select_released",
        mixed=True,
        published=(
            f"public code: {_PASS}; last group divided; two candidates a choice; "
            "P in float32, k from a float"
        ),
    ),
    ws=dict(
        select="methods.released.select_strict_single", published="public code: strict threshold"
    ),
    lottery=_lottery,
    lottery_short=_lottery,
    importance=dict(
        score="methods.released.released_blind",
        select="methods.released.select_strict",
        groups=True,
        mixed=True,
        published=f"public code: group 0's importance from {_PASS}; strict threshold",
    ),
    snip=dict(
        score="methods.released.released_snip",
        select="methods.released.select_strict",
        published="public code: scored on a copy with new weights; strict threshold",
    ),
    grasp=dict(
        score="methods.released.released_grasp",
        select="methods.released.select_one_more",
        published="public code: scored on a copy with a new head; one too many",
    ),
)


# %% [markdown]
# All other fields of the published form stay: scope, steps, start. Two methods have no released form, and each raises an error with its reason.

# %%
#| export
def as_released(
    method: Method,  # A method of `METHODS`
) -> Method:  # The method in the form of the public code
    """The public code's variant of a method.

    Raises: ValueError for random, which raises there, and for a method that the public code does
    not have.
    """
    there = f"choose {', '.join(RELEASED)}"
    if method.name == "random":
        raise ValueError(
            f"as_released: the public code's Random raises at its first layer: {there}"
        )
    if method.name not in RELEASED:
        raise ValueError(f"as_released: the public code has no method {method.name!r}: {there}")
    return method.but(**RELEASED[method.name])


# %%
as_released(METHODS["lottery"]).published

# %%
assert {n for n in METHODS if n not in RELEASED} == {"random", "magnitude", "fairprune"}
assert as_released(METHODS["snip"]).scope == "global" and as_released(METHODS["ws"]).blind
try:
    as_released(METHODS["random"])
except ValueError as e:
    print(e)
else:
    raise AssertionError("random as released was made up")


# %% [markdown]
# The table of methods shows the published form of each and the settings that change a run of it. A setting that is not listed does not affect the method: WS uses no image, so `importance_cap` has no effect on it. (`keep` and the retraining apply to iterative runs.)

# %%
#| export
def touches(
    method: Method,  # A method
) -> list[str]:  # Names of settings
    "The settings that change a run of this method, beyond those of network, data and training."
    names = ["rate", "steps", "scope", "keep"]
    if method.rounds == "short" and method.start == "trained":
        names.append("retrain_epochs")
        if not (method.rewind and method.rewind_to == "initial"):
            names.append("retrain_lr")
    if method.batches == "all" and not method.blind and not method.mixed:
        names += ["importance_batch", "importance_cap", "importance_on"]
    if method.groups:
        names.append("importance_groups")
    return names


# %%
print(touches(METHODS["fairgrape"]))
assert touches(METHODS["ws"]) == ["rate", "steps", "scope", "keep", "retrain_epochs", "retrain_lr"]
assert touches(METHODS["lottery_short"]) == ["rate", "steps", "scope", "keep", "retrain_epochs"]
assert touches(METHODS["snip"]) == touches(METHODS["lottery"]) == ["rate", "steps", "scope", "keep"]


# %% [markdown]
# The column for what follows a step depends on the start: a method that starts before training is scored again after a step, because no training takes place between the steps.

# %%
#| export
def _row(m: Method) -> dict:
    "A method's row of `methods_table`."
    back = "score again" if m.start == "initial" else "retrain"
    if m.rewind:
        back = f"rewound to {m.rewind_to}, {m.rounds} rounds"
    batches = {"all": "all", "one": "one batch", "balanced": "one class-balanced batch"}
    images = "none" if m.blind else batches[m.batches]
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
    "A `pandas.DataFrame` with a row per method: its published form and the settings it uses."
    import pandas as pd  # imported here because nothing else in the methods needs it

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
    and len(table) == 10
)
