# %% [markdown]
# # Methods
#
# > FairGRAPE and what it is compared with, each as a score, a selector and a number of steps on the same seams

# %%
#| default_exp baselines

# %%
#| export
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from fairgrape.importance import group_importance
from fairgrape.masks import prunable
from fairgrape.selection import Select, select_fair, select_top

# %%
import torch

from fairgrape.pruning import prune


# %% [markdown]
# What tells two pruning methods apart is seldom their loop. It is the number that a weight is given (the score), who gets a say in the choice (the selector), and whether it is done at once or in steps. So a method here
# is those three things and nothing else; the loop, the retraining and the counting are shared, and differences in results are differences of method.
#
# ## WS: weight magnitude, one shot
#
# The oldest baseline (Han et al. 2015): small weights go. From the trained network, in one step, the same fraction in each layer.

# %%
#| export
def magnitude_score(
    model: nn.Module,          # The network
    *_,                        # Batches, loss, groups: not needed
    ignore: Iterable[str] = (),# Layers to leave dense
    **__,                      # Settings of other scores
) -> dict[str, Tensor]:        # Layer name → |w|, shape `(1, *weight)`: one group of everybody
    "The weights' magnitude as their score. Source: the paper's baseline WS (Han et al. 2015)."
    return {name: layer.weight.detach().abs()[None] for name, layer in prunable(model, ignore).items()}


# %%
net = nn.Sequential(nn.Linear(3, 2, bias=False))
with torch.no_grad(): net[0].weight.copy_(torch.tensor([[1., -6., 2.], [5., -3., 4.]]))
magnitude_score(net)

# %%
assert magnitude_score(net)["0"].tolist() == [[[1., 6., 2.], [5., 3., 4.]]]
prune(net, 0.5, magnitude_score, select_top, keep=None)
assert net[0].weight.tolist() == [[0., -6., 0.], [5., 0., 4.]]


# %% [markdown]
# ## The table of methods
#
# `score` is called as `score(model, batches, loss, groups, ignore=…, autocast=…)`. `published` is the form in which the method appears in the paper, by which a run is labelled when it deviates.

# %%
#| export
@dataclass(frozen=True)
class Method:
    "A pruning method: how weights are scored, how they are chosen, and in how many steps"
    name: str                              # As it is called in settings and tables
    score: Callable[..., dict[str, Tensor]]# (model, batches, loss, groups, ignore, autocast) → importance
    select: Select                         # (importance, mask, k, weight, layer) → mask
    steps: str                             # "iterative" or "one shot"
    published: str                         # The published form, in words

METHODS = {m.name: m for m in (
    Method("fairgrape", group_importance, select_fair, "iterative", "group importance, shares kept per layer, iterative (Lin et al. 2022)"),
    Method("ws", magnitude_score, select_top, "one shot", "magnitude per layer, one shot from the trained network (Han et al. 2015)"),
)}

# %%
{m.name: m.published for m in METHODS.values()}

# %%
assert list(METHODS) == ["fairgrape", "ws"] and METHODS["fairgrape"].select is select_fair and METHODS["ws"].steps == "one shot"


# %%
#| export
def method(
    name: str, # One of `METHODS`
) -> Method:   # The method
    "Look a method up by its name; an unknown one is a ValueError that lists those there are."
    if name not in METHODS: raise ValueError(f"method = {name!r}: choose dense (no pruning), {', '.join(METHODS)}")
    return METHODS[name]


# %%
method("ws").published

# %%
assert method("ws") is METHODS["ws"]
try: method("grape")
except ValueError as e: print(e)
else: raise AssertionError("an unknown method was accepted")
