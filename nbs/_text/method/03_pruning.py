# %% [markdown]
# # Iterative pruning
#
# > Score, select, apply, retrain until the rate is reached: the loop of every method

# %%
#| default_exp method.pruning

# %%
#| export
import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

import torch
from fastcore.basics import patch
from torch import Tensor, nn

from fairgrape.method.importance import NO_GRAD, ByGroup, group_importance, one_number
from fairgrape.method.masks import apply_masks, get_masks, prunable
from fairgrape.method.schedule import schedule
from fairgrape.method.selection import Select, check_scope, select_fair, select_masks
from fairgrape.method.selectors import keep_count

# %%
import torch.nn.functional as F

from fairgrape.method.selectors import select_top

# %% [markdown]
# Importance describes, to first order, the removal of one weight from the network as it is. Remove nine tenths at once, and that network no longer exists. So FairGRAPE
# removes a tenth, lets the network recover, measures again, and continues.
#
# ## The schedule
#
# After step $i$ the cumulative rate is $r_i = \min(1 - \mathrm{keep}^i, r)$, until the target $r$ is reached. [The schedule](09_schedule.ipynb) computes it in exact fractions.

# %%
[float(r) for r in schedule(rate=0.9, keep=0.5)]

# %%
assert len(schedule(0.99, 0.9)) == 44 and len(schedule(0.99, None)) == 1


# %% [markdown]
# ## The loop
#
# The loop has four parts. `score` gives each weight a number for each group, `select` turns numbers into masks, the schedule says how many weights stay, and `retrain` lets the network recover. A method is a choice
# of the first two. `retrain` may be left out: methods that prune before training do without. It may also do more than train: the lottery ticket rewinds first. Each step reports what it did.

# %%
#| export
@dataclass(frozen=True)
class Step:
    "What one pruning step did"

    step: int  # 1, 2, …
    rate: float  # Cumulative pruning rate that was asked for
    kept: int  # Weights left in all prunable layers
    total: int  # Weights of all prunable layers
    score_s: float  # Seconds for the importance
    select_s: float  # Seconds for the selection
    retrain_s: float | None  # Seconds for retraining; None: not through yet


# %%
half = Step(1, 0.5, kept=30, total=60, score_s=0.1, select_s=0.1, retrain_s=None)
done = replace(half, retrain_s=1.0)
done

# %%
assert (half.retrain_s, done.retrain_s, done.kept) == (None, 1, 30) and done == Step(
    1, 0.5, 30, 60, 0.1, 0.1, 1
)
try:
    half.kept = 29
except AttributeError as e:
    print(e)
else:
    raise AssertionError("what a step did was changed afterwards")


# %% [markdown]
# The requested rate and the resulting sparsity differ by a rounding in each layer, so both are shown.

# %%
#| export
@patch(as_prop=True)
def sparsity(self: Step) -> float:
    return 1 - self.kept / self.total


# %%
assert done.sparsity == 0.5 and replace(done, kept=6).sparsity == 0.9
done.sparsity


# %%
#| export
@patch
def __str__(self: Step):
    return f"step {self.step}: rate {self.rate:.4f}, {self.kept:,} of {self.total:,} weights left"


# %%
print(done)
assert (
    str(Step(3, 0.271, 7290, 10_000, 0, 0, 0))
    == "step 3: rate 0.2710, 7,290 of 10,000 weights left"
)


# %% [markdown]
# The first half of a step: score, select, apply. It is a function of its own because a run may be interrupted between the halves, and retraining may take hours.

# %%
#| export
def _remove(
    model, masks, step, rate, score, select, scope, ignore
) -> tuple[dict[str, Tensor], Step]:
    "Score, select, apply: the new masks, and the step as far as it is known without retraining"
    start = time.perf_counter()
    importance = score(model)
    scored = time.perf_counter()
    weights = {n: layer.weight.detach() for n, layer in prunable(model, ignore).items()}
    masks = select_masks(importance, masks, weights, rate, select, scope)
    apply_masks(model, masks)
    kept, total = (sum(int(f(m)) for m in masks.values()) for f in (Tensor.sum, Tensor.numel))
    return masks, Step(
        step, float(rate), kept, total, scored - start, time.perf_counter() - scored, None
    )


# %% [markdown]
# The shortest method: magnitude as the score, one group of everybody, keep the top. Of the weights 1 to 6 the three largest stay.

# %%
def magnitude(model):
    return {n: layer.weight.detach().abs()[None] for n, layer in prunable(model).items()}


six = nn.Sequential(nn.Linear(3, 2, bias=False))
with torch.no_grad():
    six[0].weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [-4.0, -5.0, -6.0]]))
start = time.perf_counter()
masks, half = _remove(six, get_masks(six), 1, Fraction(1, 2), magnitude, select_top, "layer", ())
seconds = time.perf_counter() - start
print(half)
six[0].weight

# %%
assert six[0].weight.tolist() == [[0, 0, 0], [-4, -5, -6]] and torch.equal(
    get_masks(six)["0"], masks["0"]
)
assert (half.step, half.rate, half.kept, half.total, half.retrain_s) == (
    1,
    0.5,
    3,
    6,
    None,
) and min(half.score_s, half.select_s) >= 0
assert half.score_s + half.select_s <= seconds
masks, half = _remove(
    six,
    masks,
    2,
    Fraction(5, 6),
    lambda m: {"0": torch.tensor([[[9.0, 9, 9], [1, 2, 1]]])},
    select_top,
    "layer",
    (),
)
# what is gone stays gone, whatever its score
assert six[0].weight.tolist() == [[0, 0, 0], [0, -5, 0]] and half.kept == 1


# %% [markdown]
# A rate refers to the original number of weights. A network that is already sparser would pass through every step, retraining included, unchanged, and then be reported under a rate that it does not have. That raises an error before any work.
# (In the layer scope each layer's count is rounded down, so as many weights are enough.)

# %%
#| export
def check_left(
    masks: Mapping[str, Tensor],  # Layer name → True where a weight is kept
    rate: Fraction,  # Target pruning rate
    # Layer name → weight; those that are 0 count as gone
    weights: Mapping[str, Tensor] | None = None,
):
    "Raise ValueError where more weights are gone than the rate asks for"
    there = masks if weights is None else {n: m & (weights[n] != 0) for n, m in masks.items()}
    held, left = (sum(int(m.sum()) for m in some.values()) for some in (masks, there))
    total = sum(m.numel() for m in masks.values())
    if left < sum(keep_count(m.numel(), rate) for m in masks.values()):
        zeros = (
            f" ({held - left:,} of them are zeros that no mask holds; see"
            " fairgrape.method.masks.from_zeros)"
        )
        raise ValueError(
            f"rate = {float(rate)}, but the network has {left:,} of its {total:,} weights left, "
            f"{100 * (1 - left / total):.1f} % are pruned already{zeros if held > left else ''}: "
            "choose a higher rate, or start from the dense network"
        )


# %%
# of 10 and 9 weights, 2 and 1 are left
there = {"a": torch.arange(10) < 2, "b": torch.arange(9) < 1}
try:
    check_left(there, Fraction(3, 4))
except ValueError as e:
    print(e)
    assert "3 of its 19 weights left, 84.2 % are pruned already" in str(e)
else:
    raise AssertionError("a network that has lost more than was asked for was pruned")
# ⌊10/5⌋ + ⌊9/5⌋ = 3
for rate in (Fraction(4, 5), Fraction(9, 10)):
    assert check_left(there, rate) is None


# %% [markdown]
# What `retrain` does is up to the user, and one common habit breaks the masks: load the best `state_dict` at the end. A state from an earlier step brings that step's masks with it, and so more
# weights. After retraining, the masks of the step are therefore restored, with a warning, because the network is no longer the one that scored best. If they cannot be restored, because `retrain`
# removed a layer, for example, the error names the step.

# %%
#| export
def hold(
    model: nn.Module,  # The network after retraining
    masks: Mapping[str, Tensor],  # The step's masks, layer name → True where a weight is kept
    step: int,  # The step's number, for messages
    ignore: Iterable[str] = (),  # Layers that are left dense
):
    """Put a step's masks back where retraining changed them, and warn.

    Raises: ValueError with the step's number where that cannot be."""
    try:
        now = {
            n: mask.to(masks[n].device)
            for n, mask in get_masks(model, ignore).items()
            if n in masks
        }
        changed = [n for n, mask in masks.items() if n not in now or not torch.equal(now[n], mask)]
        apply_masks(model, {n: masks[n] for n in changed})
    except ValueError as error:
        raise ValueError(
            f"step {step}: retrain left a network that cannot hold the step's masks ({error}): "
            "it must train the network that it is given, in place, and keep its layers"
        ) from error
    if not changed:
        return
    back = sum(int((now[n] & ~masks[n]).sum()) for n in changed)
    named = ", ".join(changed[:3]) + (" and more" if len(changed) > 3 else "")
    warnings.warn(
        f"step {step}: retrain changed the masks, as loading an earlier step's state_dict does, and"
        f" brought {back:,} pruned weights back ({named}). The step's masks were put back and these"
        " weights are 0 again; to keep the best state, compare within a step only",
        stacklevel=3,
    )


# %%
net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
first, second = (
    {"0": torch.arange(6).view(2, 3) < kept, "1": torch.ones(2, 2) > 0} for kept in (5, 2)
)
earlier = {k: v.clone() for k, v in apply_masks(net, first).state_dict().items()}
apply_masks(net, second).load_state_dict(earlier)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    hold(net, second, step=2)
    hold(net, second, step=3)
print(said[0].message)
assert len(said) == 1 and str(said[0].message).startswith("step 2: retrain changed the masks")
assert "brought 3 pruned weights back (0)" in str(said[0].message)
assert torch.equal(get_masks(net)["0"], second["0"]) and torch.equal(
    net[0].weight != 0, second["0"]
)
for layer in (nn.ReLU(), torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))):
    try:
        hold(nn.Sequential(net[0], layer), second, step=4)
    except ValueError as e:
        print(e)
        assert str(e).startswith("step 4: retrain left a network")
    else:
        raise AssertionError("masks of a layer that is gone were put back")


# %% [markdown]
# Without a check, a function with the wrong arguments would fail only when it is first called; for `retrain` that is after the first step was scored. So all signatures are checked beforehand.

# %%
#| export
def _check_call(name: str, function: Callable, *arguments: str):
    "Raise ValueError unless `function` can be called with these arguments"
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        given = getattr(function, "__name__", None) or repr(function)
        raise ValueError(
            f"{name} is called as {name}({', '.join(arguments)}), which {given} does not take "
            f"({error})"
        ) from error
    except ValueError:
        pass  # built in, without a signature


# %%
for given in (lambda model: None, "fit", lambda model, step, loader: None):
    try:
        _check_call("retrain", given, "model", "step")
    except ValueError as e:
        print(e)
        assert str(e).startswith("retrain is called as retrain(model, step), which ")
    else:
        raise AssertionError("a function that cannot be called was accepted")
for taken in (
    lambda model, step=1: None,
    lambda *everything: None,
    print,
    F.cross_entropy,
    nn.CrossEntropyLoss(),
    max,
):
    assert _check_call("retrain", taken, "model", "step") is None


# %% [markdown]
# The loop itself. `done` serves a run that was interrupted: it lists the steps that an earlier process completed. The last of them may still need its retraining.

# %%
#| export
def prune(
    model: nn.Module,  # The trained network, pruned in place
    rate: float | str,  # Target pruning rate, 0 < rate < 1
    # network → layer name → importance, shape `(G, *weight)`
    score: Callable[[nn.Module], dict[str, Tensor]],
    select: Select = select_fair,  # How weights are chosen by their importance
    keep: float | str | None = 0.9,  # Fraction kept at each step; None: one shot
    scope: str = "layer",  # "layer": the same rate in each layer; "global": one budget for all
    # Called after each step with the network and its number; None: no training
    retrain: Callable[[nn.Module, int], None] | None = None,
    ignore: Iterable[str] = (),  # Layers to leave dense
    on_step: Callable[[Step], None] | None = None,  # Told about each step, e.g. `print`
    # Told when a step's masks are set and its retraining is to begin
    on_select: Callable[[Step], None] | None = None,
    # Steps that an earlier process did to this model; one whose `retrain_s` is None is retrained
    done: Iterable[Step] = (),
) -> list[Step]:  # What each step did; the masks are in the model (`get_masks`)
    """Prune `model` in steps: score, select, apply, retrain.

    After retraining each step's masks are put back where `retrain` changed them (see `hold`).
    Raises: ValueError for a rate, keep, scope, layer name or function that cannot be, or a network
    that is
        sparser already, before any work.
    Source: paper, Algorithm 1."""
    rates, masks, steps = schedule(rate, keep), get_masks(model, ignore), list(done)
    check_scope(masks, rates[-1], scope)
    weights = {n: layer.weight.detach() for n, layer in prunable(model, ignore).items()}
    if not steps:
        check_left(masks, rates[-1], weights)
    for name, function, *arguments in (
        ("score", score, "model"),
        ("retrain", retrain, "model", "step"),
        ("on_step", on_step, "step"),
        ("on_select", on_select, "step"),
    ):
        if function is not None or name == "score":
            _check_call(name, function, *arguments)
    half = steps.pop() if steps and steps[-1].retrain_s is None else None
    for i, r in list(enumerate(rates, 1))[len(steps) :]:
        if half is None:
            masks, half = _remove(model, masks, i, r, score, select, scope, ignore)
            if on_select is not None:
                on_select(half)
        start = time.perf_counter()
        if retrain is not None:
            retrain(model, i)
            hold(model, masks, i, ignore)
        steps.append(replace(half, retrain_s=time.perf_counter() - start))
        half = None
        if on_step is not None:
            on_step(steps[-1])
    return steps


# %% [markdown]
# Two layers, magnitude, half of the weights at each step:

# %%
net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
with torch.no_grad():
    net[0].weight.copy_(torch.arange(1.0, 13).view(3, 4))
    net[1].weight.copy_(torch.arange(1.0, 7).view(2, 3))
steps = prune(net, rate=0.75, score=magnitude, select=select_top, keep=0.5, on_step=print)
net[0].weight

# %%
# ⌊0.25 · 12⌋ = 3 of 12
assert (net[0].weight != 0).tolist() == [[False] * 4, [False] * 4, [False, True, True, True]]
assert (net[1].weight != 0).tolist() == [[False] * 3, [False, False, True]] and [
    s.kept for s in steps
] == [9, 4]
assert [s.retrain_s < 1 for s in steps] == [True, True]  # nothing was trained: next to no time

# %% [markdown]
# Retraining happens between the steps, with the masks in place. Each mask lies inside the one before, whatever retraining did to the weights:

# %%
net, seen = nn.Sequential(nn.Linear(8, 8)), []


def shuffle(model, step):
    seen.append(get_masks(model)["0"])
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "original" in n).normal_()


prune(net, 0.9, magnitude, select_top, keep=0.6, retrain=shuffle)
[int(m.sum()) for m in seen]

# %%
assert len(seen) == 5 and all(not (late & ~early).any() for early, late in zip(seen, seen[1:]))
for bad in (
    dict(rate=2),
    dict(rate=0.5, scope="both"),
    dict(rate=0.5),
    dict(rate=0.5, ignore=["nowhere"]),
    dict(rate=0.5, ignore=["0"]),
    dict(rate=0.99, scope="global"),
):
    try:
        prune(net, score=None, **bad)  # fails before the score is ever asked for
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{bad} was accepted")
for wrong, said in (
    (dict(score=None), "score(model)"),
    (dict(retrain=lambda model: None), "retrain(model, step)"),
    (dict(on_step=lambda: None), "on_step(step)"),
    (dict(on_select=3), "on_select(step)"),
):
    before = get_masks(net)["0"]
    try:
        prune(net, 0.95, **dict(score=magnitude, select=select_top) | wrong)
    except ValueError as e:
        print(e)
        assert said in str(e) and torch.equal(get_masks(net)["0"], before)
    else:
        raise AssertionError("a function that cannot be called was accepted")

# %% [markdown]
# Weights that are zero without a mask count as pruned. And a `retrain` that reloads the best state ends with the sparsity that the last step reports.

# %%
zeros = nn.Sequential(nn.Linear(5, 2, bias=False))
# 7 of 10 are 0
with torch.no_grad():
    zeros[0].weight.copy_(torch.tensor([[0.0, 0, 0, 0, 1], [0, 0, 0, 2, 3]]))
try:
    prune(zeros, 0.5, magnitude, select_top)
except ValueError as e:
    print(e)
    assert "3 of its 10 weights left, 70.0 % are pruned already (7 of them are zeros" in str(e)
else:
    raise AssertionError("a network that is sparser already was pruned")
assert check_left(get_masks(zeros), Fraction(7, 10), {"0": zeros[0].weight}) is None

net, best = nn.Sequential(nn.Linear(8, 8)), {}


def keep_best(model, step):
    # no later step is as good
    if not best:
        best.update({k: v.clone() for k, v in model.state_dict().items()})
    model.load_state_dict(best)


with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    steps = prune(net, 0.9, magnitude, select_top, keep=0.6, retrain=keep_best)
print(*(w.message for w in said), sep="\n")
assert [str(w.message)[:6] for w in said] == ["step 2", "step 3", "step 4", "step 5"]
assert steps[-1].kept == 6 == int(get_masks(net)["0"].sum()) == int((net[0].weight != 0).sum())


# %% [markdown]
# An interrupted loop continues from the network as it was left, given the steps that are done. Here it stops in the middle of the third step's retraining. The second attempt retrains that step, does the rest, and ends with the same masks.

# %%
class Cut(Exception):
    pass


def prune_in_two(cut_at):
    net, selected, finished = nn.Sequential(nn.Linear(8, 8)), [], []
    with torch.no_grad():
        net[0].weight.copy_(torch.linspace(-1, 1, 64).view(8, 8))

    def nudge(model, step):
        if step == cut_at and len(selected) == step:
            selected.append("cut")
            raise Cut
        with torch.no_grad():
            next(p for n, p in model.named_parameters() if "original" in n).mul_(-1).add_(
                0.01 * step
            )

    def go_on(done=()):
        return prune(
            net,
            0.9,
            magnitude,
            select_top,
            keep=0.6,
            retrain=nudge,
            on_select=selected.append,
            on_step=finished.append,
            done=done,
        )

    try:
        steps = go_on()
    except Cut:
        steps = go_on([*finished, selected[-2]])
    return steps, get_masks(net)["0"], selected


(steps, mask, _), (steps_again, mask_again, told) = prune_in_two(cut_at=0), prune_in_two(cut_at=3)
[s if s == "cut" else (s.step, s.kept) for s in told]

# %%
assert torch.equal(mask, mask_again) and [(s.step, s.kept) for s in steps_again] == [
    (s.step, s.kept) for s in steps
]
assert (
    [s if s == "cut" else s.step for s in told] == [1, 2, 3, "cut", 4, 5]
    and told[2].retrain_s is None
    and all(s.retrain_s >= 0 for s in steps_again)
)


# %% [markdown]
# ## FairGRAPE in three lines
#
# The paper's method with the loop's defaults, for any network and data. The loader yields `(input, target, group)`. The loss must be a mean over the batch.
#
# With a sum, a batch's importance would grow with the square of its size, and large groups would count for too much, without any error. So the first loss is checked: a mean stays the same when every sample comes twice.

# %%
#| export
class MeanLoss:
    "A loss whose first value is looked at: whether it is the mean over the batch"

    def __init__(self, loss: Callable):
        self.loss, self.seen = loss, False

    def __call__(self, output, target):
        value = one_number(self.loss(output, target))
        if not self.seen and isinstance(output, Tensor) and isinstance(target, Tensor):
            self.look(value.detach(), output.detach(), target)
        self.seen = True
        return value


# %%
#| export
@patch
def look(self: MeanLoss, value: Tensor, output: Tensor, target: Tensor):
    "Raise ValueError unless `value` stays the same when the batch has every sample twice"
    with torch.no_grad():
        twice = self.loss(torch.cat([output, output]), torch.cat([target, target]))
    if not torch.isclose(twice, value, rtol=0.01, atol=1e-12, equal_nan=True):
        raise ValueError(
            f"with every sample of a batch twice the loss goes from {float(value):.4g} to"
            f" {float(twice):.4g}: it must be the mean over the batch (reduction='mean'), or a"
            " group's importance would hang on how many images it has"
        )


# %%
batch = torch.tensor([[2.0, 0, 0], [0, 2, 0], [1, 0, 1]]), torch.tensor([0, 1, 2])
for reduction, said in (("sum", "every sample of a batch twice"), ("none", "has shape (3,)")):
    try:
        MeanLoss(torch.nn.CrossEntropyLoss(reduction=reduction))(*batch)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError(f"reduction='{reduction}' was taken for a mean")
for output in (batch[0], {"logits": batch[0]}):
    try:
        MeanLoss(lambda output, target: (torch.tensor(1.0), output))(output, batch[1])
    except ValueError as e:
        print(e)
        assert "is a tuple" in str(e)
    else:
        raise AssertionError("a loss with something beside it was taken")

# %%
sizes = []
spied = MeanLoss(
    lambda output, target: (
        sizes.append(len(output))
        or F.cross_entropy(output, target, weight=torch.tensor([1.0, 2.0, 9.0]))
    )
)
assert (
    float(spied(*batch))
    == float(spied(*batch))
    == float(F.cross_entropy(*batch, weight=torch.tensor([1.0, 2.0, 9.0])))
)
assert sizes == [3, 6, 3]  # looked at once
half = tuple(t.bfloat16() if t.is_floating_point() else t for t in batch)
for mean in (F.cross_entropy, lambda output, _: output.float().mean() * 0):
    assert MeanLoss(mean)(*half) == mean(*half)
# not tensors: taken as it is
assert MeanLoss(lambda output, _: output[0].sum())((batch[0],), None) == 6
sizes


# %% [markdown]
# FairGRAPE is then the loop with group importance as its score.

# %%
#| export
def prune_fair(
    model: nn.Module,  # The trained network, pruned in place
    # Yields (input, target, group): the training data, without augmentation; read at each step
    loader: Iterable,
    rate: float | str,  # Target pruning rate, 0 < rate < 1
    groups: int,  # How many groups; codes in the data are 0 … groups − 1
    # loss(output, target) → scalar, the mean over the batch
    loss: Callable = nn.functional.cross_entropy,
    size: int = 64,  # Largest batch for the importance
    autocast: torch.dtype | None = None,  # torch.bfloat16: importance in mixed precision
    ignore: Iterable[str] = (),  # Layers to leave dense
    **how,  # keep, scope, retrain, on_step: see `prune`
) -> list[Step]:  # What each step did
    """Prune with FairGRAPE: keep, in every layer, each group's share of the importance.

    Raises: ValueError for groups or a loader that cannot be, a loss that is not a mean, and as
    `prune` does.
    Source: paper, Algorithm 1."""
    if not torch.is_grad_enabled():
        raise ValueError(f"gradients are off: {NO_GRAD}")
    _check_call("loss", loss, "output", "target")
    loss = MeanLoss(loss)

    @cache
    # counted after `prune` has checked the rest
    def batches():
        return ByGroup(loader, groups, size)

    def score(net):
        return group_importance(net, batches(), loss, groups, ignore, autocast)

    return prune(model, rate, score, select_fair, ignore=ignore, **how)


# %% [markdown]
# Two groups whose signals are in different inputs: group 0's in the first, group 1's, three times rarer, in the second.

# %%
torch.manual_seed(0)
g = (torch.rand(400) < 0.25).long()
x = torch.randn(400, 6)
y = (x[torch.arange(400), g] > 0).long()
loader = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(torch.cat([x, g[:, None] * 2.0 - 1], 1), y, g), batch_size=50
)


def fit(model, _=None, epochs=15):
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(epochs):
        for x, y, _g in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


net = nn.Sequential(nn.Linear(7, 32), nn.ReLU(), nn.Linear(32, 2))
fit(net)
steps = prune_fair(net, loader, rate=0.8, groups=2, keep=0.6, retrain=fit, on_step=print)

# %%
from fairgrape.method.masks import sparsity as sparsity_of

right = torch.cat([(net(x).argmax(1) == y) for x, y, _ in loader])
print({f"group {i}": f"{100 * float(right[g == i].float().mean()):.0f} % right" for i in range(2)})
assert (
    min(float(right[g == i].float().mean()) for i in range(2)) > 0.85
    and abs(sparsity_of(get_masks(net)) - 0.8) < 0.01
)
try:
    prune_fair(net, loader, 0.9, groups=2, loss=torch.nn.CrossEntropyLoss(reduction="sum"))
# nothing was pruned
except ValueError as e:
    print(e)
    assert "mean" in str(e) and abs(sparsity_of(get_masks(net)) - 0.8) < 0.01
else:
    raise AssertionError("a loss that is a sum was accepted")

# %% [markdown]
# Each common mistake raises its own error before a weight is removed:

# %%
pairs, before = [(x, y) for x, y, _ in loader], get_masks(net)["0"]
hundred = list(loader)
mistakes = [
    (dict(groups="2"), "groups = '2'"),
    (dict(size=0), "size = 0"),
    (dict(loader=(b for b in hundred)), "is a generator"),
    (dict(loader=pairs), "has 2 parts"),
    (dict(loader=[dict(x=x, y=y, g=g) for x, y, g in hundred]), "is a dict"),
    (dict(loader=[(x, y, g.bool()) for x, y, g in hundred]), ".long()"),
    (dict(loader=[(x, y, g[1:]) for x, y, g in hundred]), "49 groups"),
    (dict(loader=[(x.to("meta"), y.to("meta"), g) for x, y, g in hundred]), "batches are on meta"),
    (dict(retrain=lambda model: None), "retrain(model, step)"),
    (dict(loss=lambda output: 0), "loss(output, target)"),
    (dict(loss=lambda output, target: (F.cross_entropy(output, target), 0)), "is a tuple"),
]
for wrong, said in mistakes:
    try:
        prune_fair(net, **dict(loader=hundred, rate=0.9, groups=2) | wrong)
    except ValueError as e:
        print(e)
        assert said in str(e) and torch.equal(get_masks(net)["0"], before)
    else:
        raise AssertionError(f"{said} was accepted")
with torch.no_grad():
    try:
        prune_fair(net, hundred, 0.9, groups=2)
    except ValueError as e:
        print(e)
        assert "gradients are off" in str(e)
    else:
        raise AssertionError("no gradient, and no error")
