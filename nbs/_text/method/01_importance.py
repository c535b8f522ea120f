# %% [markdown]
# # Group importance
#
# > How much each group of people would lose if one weight were removed

# %%
#| default_exp method.importance

# %%
#| export
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from operator import index
from pathlib import Path
from weakref import WeakSet

import numpy as np
import torch
from fastcore.basics import patch
from torch import Tensor, nn

from fairgrape.method.masks import original, prunable
from fairgrape.method.sums import GroupSums, group_code, scratch, wide

# %%
import copy
import tempfile
from types import SimpleNamespace

import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from fairgrape.method.masks import apply_masks

home = Path(tempfile.mkdtemp())


# %% [markdown]
# Remove a weight $w$, and the loss $L_g$ on the images of group $g$ changes: to first order by $-w\,\partial L_g/\partial w$. The square of that change, so that gains do not cancel losses, is the weight's
# importance for the group (paper, section 3):
#
# $$I_g(w) = \left(w \cdot \frac{\partial L_g}{\partial w}\right)^2 .$$
#
# The mean gradient over a few images is noisy, and squaring turns noise into importance: the smaller the batch, the larger the estimate. In a mixed batch a small group is averaged over few images,
# so it would look important only because it is small. Each group therefore gets batches of its own, of about the same size, and $I_g$ is the mean over *its* batches. Each image is also seen only once, however many groups there are.
#
# ## Batches of one group
#
# A data loader usually yields mixed batches. `ByGroup` re-cuts any loader of `(input, target, group)` into batches of one group each, of nearly equal size: 130 images in batches of at most 64
# become 44 + 43 + 43, not 64 + 64 + 2. A batch of two would count as much as one of 64.

# %%
#| export
def cut(
    n: int,  # Images of a group
    size: int = 64,  # The largest batch
) -> list[int]:  # Sizes of the batches, differing by at most 1
    "The sizes of near-equal batches of at most `size` images."
    return [len(part) for part in np.array_split(np.arange(n), -(-n // size))] if n else []


# %%
print(cut(130))
assert (
    cut(130) == [44, 43, 43]
    and cut(64) == [64]
    and cut(65) == [33, 32]
    and cut(0) == []
    and cut(5, size=2) == [2, 2, 1]
)


# %% [markdown]
# Common mistakes in a custom loader are pairs instead of triples, dictionaries, and groups that are words, floats or booleans. Each raises a specific error before anything is computed.

# %%
#| export
def _parts(batch: tuple) -> tuple:
    "A batch's input, target and group. Raises: ValueError unless it has three parts and one input"
    if not isinstance(batch, (tuple, list)):
        raise ValueError(
            f"a batch of the loader is a {type(batch).__name__}: "
            "it must be a tuple (input, target, group)"
        )
    if len(batch) != 3:
        raise ValueError(
            f"a batch of the loader has {len(batch)} parts: it must be (input, target, group)"
        )
    if isinstance(batch[0], (Mapping, list, tuple)):
        raise ValueError(
            f"the input of a batch is a {type(batch[0]).__name__}: it must be one tensor "
            "with the batch first; wrap a network of several inputs to take them apart"
        )
    return batch


def codes_of(batch: tuple) -> Tensor:
    """The group codes of a batch, shape `(B,)`.

    Raises: ValueError unless it is (input, target, group), of one length, with whole numbers as
    groups.
    """
    x, y, codes = _parts(batch)
    must = "the groups of a batch must be whole numbers from 0 on, a LongTensor of shape (B,), not"
    if not isinstance(codes, Tensor):
        raise ValueError(f"{must} {type(codes).__name__}")
    if codes.dtype == torch.bool:
        raise ValueError(f"{must} torch.bool: call .long() on them")
    if codes.dim() != 1 or codes.is_floating_point() or codes.is_complex():
        raise ValueError(f"{must} {codes.dtype}, shape {tuple(codes.shape)}")
    for name, part in (("input", x), ("target", y)):
        if part is None:
            continue
        if not isinstance(part, Tensor):
            raise ValueError(
                f"the {name} of a batch is a {type(part).__name__}: "
                "it must be one tensor with the batch first"
            )
        if part.shape[:1] != codes.shape:
            raise ValueError(
                f"the {name} of a batch has shape {tuple(part.shape)}, and it has {len(codes)} "
                "groups: each image needs one input, one target and one group"
            )
    return codes


# %%
print(codes_of((None, None, torch.tensor([0, 1, 0]))))
assert codes_of((None, None, torch.tensor([0, 1, 0]))).tolist() == [0, 1, 0]
x, g = torch.ones(2, 3), torch.tensor([0, 1])
for wrong, said in (
    (dict(x=x, y=x, group=g), "is a dict: it must be a tuple"),
    ((dict(pixels=x), x, g), "input of a batch is a dict"),
    ((x, dict(y=x), g), "target of a batch is a dict"),
    ((x, x, g.bool()), "not torch.bool: call .long()"),
    ((x, x, torch.tensor([0, 1, 0])), "shape (2, 3), and it has 3 groups"),
    ((x, x[:1], g), "target of a batch has shape (1, 3)"),
    ((1, 2), "2 parts"),
    ((1, 2, ["thin", "thick"]), "not list"),
    ((1, 2, torch.tensor([0.0, 1.0])), "not torch.float32"),
    ((1, 2, torch.zeros(2, 1).long()), "shape (2, 1)"),
):
    try:
        codes_of(wrong)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError("a wrong batch was accepted")

# %% [markdown]
# To cut evenly, the number of images per group must be known, so the loader is read once just for its labels. A group without images is found here too. Nothing could be preserved for it, so it raises an error.

# %%
#| export
_NOTHING = (
    "it is read more than once, so it must be one that starts anew each time, "
    "as a DataLoader does and a generator does not"
)


def _whole(name: str, value) -> int:
    "`value` as it is. Raises: ValueError unless it is a whole number, 1 or more"
    try:
        fits = not isinstance(value, bool) and index(value) >= 1
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"{name} = {value!r}: it must be a whole number, 1 or more")
    return value


def count_groups(
    # Yields (input, target, group): batches, group a LongTensor `(B,)` of codes 0 … groups − 1
    loader: Iterable,
    groups: int,  # How many groups there are
) -> list[int]:  # Images of each group
    """Count the images of each group; a group without images, or a code outside the range, is a
    ValueError.
    """
    counts = torch.zeros(_whole("groups", groups), dtype=torch.long)
    for g in map(codes_of, loader):
        if not len(g):
            raise ValueError("a batch of the loader is empty: leave it out")
        low, high = int(g.min()), int(g.max())
        if low < 0 or high >= groups:
            raise ValueError(
                f"group code {low if low < 0 else high} in the data, but groups = {groups}: codes"
                f" are 0 to {groups - 1}"
            )
        counts += torch.bincount(g.cpu(), minlength=groups)
    if not counts.any():
        raise ValueError(f"the loader yields nothing: {_NOTHING}")
    empty = [i for i, n in enumerate(counts.tolist()) if n == 0]
    if empty:
        raise ValueError(
            f"group {empty} has no image, so its importance cannot be estimated: drop it or add"
            " images"
        )
    return counts.tolist()


# %%
loader = [
    (torch.arange(0.0, 3), torch.arange(3), torch.tensor([0, 1, 0])),
    (torch.arange(3.0, 6), torch.arange(3), torch.tensor([0, 0, 1])),
]
print(count_groups(loader, groups=2))
assert count_groups(loader, groups=2) == [4, 2]
for wrong, groups, said in (
    (loader, 1, "code 1"),
    (loader, 3, "[2] has no image"),
    ([(None, None, torch.tensor([-1, 0]))], 2, "code -1"),
    (iter(()), 2, "yields nothing"),
    *((loader, number, f"groups = {number!r}") for number in ("2", 2.0, 0, True)),
    ([(None, None, torch.zeros(0).long())], 2, "is empty"),
):
    try:
        count_groups(wrong, groups)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError("wrong number of groups accepted")


# %% [markdown]
# The sizes of the batches follow from the counts.

# %%
#| export
class ByGroup:
    """Re-cut a loader of mixed batches into near-equal batches of one group each; yields
    (input, target, group code).
    """

    def __init__(
        self,
        # Yields (input, target, group), tensors with the batch first; read once for counting and
        # once a pass
        loader: Iterable,
        groups: int,  # How many groups there are
        size: int = 64,  # The largest batch (the paper's code: 64)
    ):
        if isinstance(loader, Iterator):
            raise ValueError(f"the loader is a {type(loader).__name__}: {_NOTHING}")
        self.loader, self.groups, self.size = loader, groups, _whole("size", size)
        self.counts, self.told = count_groups(loader, groups), False

    def __len__(self) -> int:
        return sum(len(cut(n, self.size)) for n in self.counts)


# %%
print(len(ByGroup(loader, groups=2, size=3)))
assert (
    len(ByGroup(loader, 2, size=3)) == 3
    and len(ByGroup(loader, 2)) == 2
    and ByGroup(loader, 2).counts == [4, 2]
)
for wrong, size, said in (
    (loader, 0, "size = 0"),
    (loader, "64", "size = '64'"),
    ((batch for batch in loader), 64, "is a generator"),
    (iter(loader), 64, "is a list_iterator"),
):
    try:
        ByGroup(wrong, 2, size)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError("batches that cannot be cut were accepted")


# %% [markdown]
# During a pass each image waits with the others of its group, and a batch is yielded as soon as it is full. Memory never holds more than about one batch per group.

# %% [markdown]
# Two passes over a loader need not bring the same images: a `WeightedRandomSampler` draws anew each time, and shuffling with `drop_last` leaves out other images. A pass is used as it comes, surplus images included, and a warning says so once.

# %%
#| export
@patch
def tell(
    self: ByGroup,
    seen: list[int],  # Images of each group in this pass
):
    "Warn, once, of a pass that differs from the count. Raises: ValueError for a group without any."
    g = next(i for i, (n, m) in enumerate(zip(self.counts, seen)) if n != m)
    differs = (
        f"two passes over the loader differ: group {g} had {self.counts[g]} images when they were"
        f" counted, and {seen[g]} in this pass"
    )
    if 0 in seen:
        raise ValueError(
            f"{differs}; group {seen.index(0)} has none in this pass, so its importance cannot be"
            " estimated: use a loader of all images, without a sampler or drop_last"
        )
    if not self.told:
        warnings.warn(
            f"{differs}. Importance is measured on what each pass brings; for the same images each"
            " time, use a loader without a random sampler, and without drop_last",
            stacklevel=3,
        )
    self.told = True


# %%
#| export
@patch
def __iter__(self: ByGroup) -> Iterator[tuple[Tensor, Tensor, int]]:
    "Batches of one group each, in the order in which they are full"
    sizes = [cut(n, self.size) for n in self.counts]
    waiting, seen = [None] * self.groups, [0] * self.groups
    for x, y, g in self.loader:
        for i in g.unique().tolist():
            mine = (x[g == i], y[g == i])
            waiting[i] = (
                mine
                if waiting[i] is None
                else tuple(torch.cat(pair) for pair in zip(waiting[i], mine))
            )
            seen[i] += len(mine[0])
            while len(waiting[i][0]) >= (sizes[i][0] if sizes[i] else self.size):
                n = sizes[i].pop(0) if sizes[i] else self.size
                yield *(t[:n] for t in waiting[i]), i
                waiting[i] = tuple(t[n:] for t in waiting[i])
    if waiting == [None] * self.groups:
        raise ValueError(f"the loader yields nothing the second time: {_NOTHING}")
    if seen == self.counts:
        return
    self.tell(seen)
    for i, left in enumerate(waiting):
        if len(left[0]):
            yield *left, i


# %%
for x, y, g in ByGroup(loader, groups=2, size=3):
    print(f"group {g}: {x.tolist()}")
assert [(x.tolist(), g) for x, _, g in ByGroup(loader, 2, size=3)] == [
    ([0.0, 2.0], 0),
    ([3.0, 4.0], 0),
    ([1.0, 5.0], 1),
]


class Changing:
    "Other images in each pass."

    def __init__(self, *passes):
        self.passes = list(passes)

    def __iter__(self):
        return iter(self.passes.pop(0))


def one_batch(*codes):
    return [(torch.arange(float(len(codes))), torch.arange(len(codes)), torch.tensor(codes))]


# counted 2 and 1; then a pass with 4 and 1, and one with 1 and 2
changing = ByGroup(
    Changing(one_batch(0, 0, 1), one_batch(0, 0, 0, 0, 1), one_batch(1, 1, 0)), 2, size=3
)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    passes = [[(x.tolist(), g) for x, _, g in changing] for _ in range(2)]
print(said[0].message)
assert passes[0] == [([0.0, 1.0], 0), ([4.0], 1), ([2.0, 3.0], 0)]
assert passes[1] == [([0.0], 1), ([2.0], 0), ([1.0], 1)]
assert len(said) == 1 and "group 0 had 2 images when they were counted, and 4" in str(
    said[0].message
)
try:
    list(ByGroup(Changing(one_batch(0, 1), one_batch(0, 0)), 2))
except ValueError as e:
    print(e)
    assert "group 1 has none in this pass" in str(e)
else:
    raise AssertionError("a group without an image was measured")
assert [y.tolist() for _, y, _ in ByGroup(loader, 2, size=3)] == [[0, 2], [0, 1], [1, 2]] and len(
    list(ByGroup(loader, 2, size=1))
) == 6


class Once:
    "Starts anew, but what it reads from is used up"

    def __init__(self):
        self.batches = iter(loader)

    def __iter__(self):
        return iter(self.batches)


try:
    list(ByGroup(Once(), 2))
except ValueError as e:
    print(e)
    assert "nothing the second time" in str(e)
else:
    raise AssertionError("no image came")


# %% [markdown]
# ## Measuring leaves no trace
#
# While importance is measured the network is in evaluation mode. Batch norm then uses its running statistics, so an image's gradient does not depend on the rest of its batch. (The authors' code stays in
# training mode. `training_mode=True` does the same, and restores the running statistics afterwards.)

# %%
#| export
@contextmanager
def measuring(
    model: nn.Module,  # Put into evaluation mode, and back as it was afterwards
    training_mode: bool = False,  # As in the authors' code: batch norm and dropout as in training
):
    """Within, the modes are set for measuring; afterwards modes, buffers and `requires_grad`
    are what they were.
    """
    modes = [(m, m.training) for m in model.modules()]
    buffers = [(b, b.clone()) for b in model.buffers()] if training_mode else []
    frozen = [p for p in model.parameters() if not p.requires_grad]
    model.train(training_mode)
    for p in frozen:
        p.requires_grad_(True)
    try:
        yield model
    finally:
        for m, mode in modes:
            m.training = mode
        for b, before in buffers:
            b.data.copy_(before)
        for p in frozen:
            p.requires_grad_(False)


# %%
norm = nn.BatchNorm1d(2).train()
with measuring(norm):
    print("training mode within:", norm.training)
with measuring(norm, training_mode=True):
    norm(torch.randn(8, 2) + 5)
    assert norm.training and norm.running_mean.min() > 0
assert norm.training and norm.running_mean.tolist() == [0, 0] and norm.num_batches_tracked == 0
norm.weight.requires_grad_(False)
pair = nn.Sequential(norm.train(), nn.Dropout().eval())
try:
    with measuring(pair):
        assert norm.weight.requires_grad and not norm.training
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
# each as it was, whatever happened within
assert (
    norm.training
    and not pair[1].training
    and not norm.weight.requires_grad
    and norm.bias.requires_grad
)
norm.training, norm.running_mean

# %% [markdown]
# ## One backward pass a batch
#
# Gradients are taken for the prunable weights only. `.grad` is left as it was, and no optimizer is involved.

# %%
#| export
NO_GRAD = "take torch.no_grad() and torch.inference_mode() from around the call"


def one_number(value) -> Tensor:
    "The loss of a batch as it is. Raises: ValueError unless it is one number in a tensor"
    if not isinstance(value, Tensor):
        raise ValueError(
            f"the loss of a batch is a {type(value).__name__}: loss(output, target) must "
            "return one tensor, the mean over the batch"
        )
    if value.numel() != 1:
        raise ValueError(
            f"the loss of a batch has shape {tuple(value.shape)}: it must be one number, "
            "the mean over the batch (reduction='mean')"
        )
    return value


def _loss_of(model, x, y, loss, autocast=None) -> Tensor:
    """The batch's loss.

    Raises: ValueError where network and batch are on different devices, or where the loss has no
    gradient.
    """
    try:
        with torch.autocast(x.device.type, dtype=autocast, enabled=autocast is not None):
            value = one_number(loss(model(x), y))
    except (RuntimeError, NotImplementedError) as error:
        there = {str(p.device) for p in model.parameters()}
        here = {str(t.device) for t in (x, y) if isinstance(t, Tensor)}
        if here <= there:
            raise
        raise ValueError(
            f"the network is on {', '.join(sorted(there))} and the batches are on "
            f"{', '.join(sorted(here))}: bring both to one device, with model.to(device) or with "
            ".to(device) in the loader"
        ) from error
    if not value.requires_grad:
        raise ValueError(
            f"the loss of a batch has no gradient: {NO_GRAD}, and .detach() and .item() out of "
            "the network and the loss"
        )
    return value


_CHECKPOINTING = (
    "the network uses activation checkpointing with use_reentrant=True, which gives no gradient of"
    " single weights: call torch.utils.checkpoint.checkpoint with use_reentrant=False, or switch"
    " checkpointing off while pruning"
)
_CHECKED = WeakSet()  # Networks in which a weight without a gradient has been looked into


def _refuse_checkpointing(model: nn.Module, x: Tensor):
    "Raise ValueError where a checkpointed block hides its weights; a network is looked at once."
    if model in _CHECKED:
        return
    _CHECKED.add(model)
    with warnings.catch_warnings(record=True) as said, torch.random.fork_rng():
        warnings.simplefilter("always")
        model(x)
    if any("None of the inputs have requires_grad" in str(w.message) for w in said):
        _CHECKED.discard(model)
        raise ValueError(_CHECKPOINTING)


def weight_gradients(model, layers, x, y, loss, autocast=None, **how) -> list[Tensor | None]:
    """∂L/∂w of the batch's loss for each layer's weight; None where the weight took no part.
    Raises: ValueError where activation checkpointing hides weights.
    """
    value, weights = _loss_of(model, x, y, loss, autocast), [original(layer) for layer in layers]
    try:
        gradients = torch.autograd.grad(value, weights, allow_unused=True, **how)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise ValueError(_CHECKPOINTING) from error
    if any(gradient is None for gradient in gradients):
        _refuse_checkpointing(model, x)
    return gradients


# %% [markdown]
# By hand: one linear neuron without a bias and the loss $\mathrm{mean}(wx)$, whose gradient is the mean input. A layer that the input never reaches has no gradient.

# %%
neuron, idle = nn.Linear(2, 1, bias=False), nn.Linear(2, 1)
with torch.no_grad():
    neuron.weight.copy_(torch.tensor([[2.0, 3.0]]))


def mean(out, _):
    return out.mean()


found = weight_gradients(neuron, [neuron, idle], torch.tensor([[1.0, 0.0], [3.0, 0.0]]), None, mean)
print(found)
assert found[0].tolist() == [[2.0, 0.0]] and found[1] is None and neuron.weight.grad is None
seen = []
weight_gradients(
    neuron,
    [neuron],
    torch.ones(1, 2),
    None,
    lambda out, _: seen.append(out.dtype) or out.sum(),
    torch.bfloat16,
)
assert seen == [torch.bfloat16]
x = torch.ones(1, 2)
nowhere = nn.Linear(2, 1, device="meta")
for net, batch, loss, said in (
    (neuron, x, lambda out, _: (out.mean(), out), "is a tuple"),
    (neuron, x, lambda out, _: out.mean().item(), "is a float"),
    (neuron, x, lambda out, _: out.expand(3, 1), "has shape (3, 1)"),
    (neuron, x, lambda out, _: out.mean().detach(), "has no gradient"),
    (neuron, x.to("meta"), mean, "on cpu and the batches are on meta"),
    (nowhere, x, mean, "on meta and the batches are on cpu"),
):
    try:
        weight_gradients(net, [net], batch, None, loss)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError("a batch without a gradient was accepted")


class Saving(nn.Module):
    "Two layers of which some are checkpointed."

    def __init__(self, first: bool, reentrant: bool):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 1)
        self.first, self.reentrant = first, reentrant

    def forward(self, x):
        saved, other = (self.a, self.b) if self.first else (self.b, self.a)
        if not self.first:
            x = other(x)
        x = checkpoint(saved, x, use_reentrant=self.reentrant)
        return other(x) if self.first else x


for first in (True, False):
    free = Saving(first, reentrant=False)
    layers = [free.a, free.b]
    assert all(g is not None for g in weight_gradients(free, layers, torch.ones(1, 2), None, mean))
    blind = Saving(first, reentrant=True)
    for _ in range(2):
        try:
            weight_gradients(blind, [blind.a, blind.b], torch.ones(1, 2), None, mean)
        except ValueError as e:
            print(e)
            assert "use_reentrant=False" in str(e)
        else:
            raise AssertionError("weights without a gradient were accepted")
try:
    weight_gradients(neuron, [neuron], torch.ones(1, 3), None, mean)
except RuntimeError as e:
    print(e)
    assert "device" not in str(e)  # an error of its own
else:
    raise AssertionError("three inputs were accepted for two")


# %% [markdown]
# Each gradient is needed only until it is squared, and all of them together are as large as the network. So a callback receives each weight's gradient as soon as the backward pass has it, and then the gradient is freed.
# A weight that two layers share has one gradient and two names.

# %%
#| export
@contextmanager
def handed_on(
    layers: dict[str, nn.Module],  # Layer name → layer
    take: Callable[[str, Tensor], object],  # Called with a layer's name and its weight's gradient
):
    "Within, a backward pass hands each weight's gradient to `take` instead of keeping it."
    names = {}
    for name, layer in layers.items():
        names.setdefault(original(layer), []).append(name)

    def hand_on(names, gradient):
        for name in names:
            take(name, gradient)
        return gradient.new_zeros(()).expand_as(gradient)  # of the right shape, and of no size

    hooks = [weight.register_hook(partial(hand_on, mine)) for weight, mine in names.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# %%
taken = {}
with handed_on({"neuron": neuron, "idle": idle}, taken.__setitem__):
    left = weight_gradients(
        neuron, [neuron, idle], torch.tensor([[1.0, 0.0], [3.0, 0.0]]), None, mean
    )
print(taken, "and left:", left)
assert (
    list(taken) == ["neuron"]
    and taken["neuron"].tolist() == [[2.0, 0.0]]
    and left[0].tolist() == [[0.0, 0.0]]
    and left[0].untyped_storage().nbytes() == 4
)
# afterwards as before
assert (
    weight_gradients(neuron, [neuron], torch.ones(1, 2), None, mean)[0].tolist() == [[1.0, 1.0]]
    and neuron.weight.grad is None
)
twins = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
twins[1].weight = twins[0].weight
taken.clear()
with handed_on(dict(twins.named_children()), taken.__setitem__):
    weight_gradients(twins, twins, torch.ones(1, 1), None, mean)
# d(w²)/dw
assert (
    list(taken) == ["0", "1"]
    and taken["0"].item() == taken["1"].item() == 2 * twins[0].weight.item()
)
try:
    with handed_on({"neuron": neuron}, lambda *_: 1 / 0):
        weight_gradients(neuron, [neuron], torch.ones(1, 2), None, mean)
except ZeroDivisionError:
    assert not neuron.weight._backward_hooks
else:
    raise AssertionError("nobody took the gradient")


# %% [markdown]
# Product and square are computed in the precision of the sums. In half precision a small product would underflow to 0, and a small square would be lost in a large sum.

# %%
#| export
def add_square(total: Tensor, weight: Tensor, gradient: Tensor, room: Tensor | None = None):
    """total += (weight · gradient)², in place, in the width of `total`; the product is put into
    `room`, of the shape and type of `total`
    """
    change = torch.empty_like(total) if room is None else room
    # widened first: the product of two halves is a half
    torch.mul(weight.to(total.dtype), gradient, out=change)
    total.addcmul_(change, change)


# %%
total = torch.tensor([1.0, 1.0])
add_square(total, torch.tensor([2.0, 3.0]), torch.tensor([2.0, 0.0]))
print(total)
assert total.tolist() == [17.0, 1.0]
total, half = torch.tensor([1024.0]), torch.ones(1, dtype=torch.bfloat16)
add_square(total, 3 * half, 5 * half, room := torch.empty(1))
# in half precision it would be 1248
assert total.item() == 1249 != (1024 * half + 225 * half).item() and room.item() == 15
small, total = torch.tensor([2.0**-13], dtype=torch.float16), torch.zeros(1)
add_square(total, small, small)
assert (small * small).item() == 0 < total.item() == 2.0**-52  # 2⁻²⁶ is no float16


# %% [markdown]
# A loss that is NaN may still have zero gradients (the mean over targets that are all ignored, for example). The group would then have no importance, and no weight would be kept for it. So the losses of a pass are recorded and
# checked at its end; a check at every batch would stall a GPU.

# %%
#| export
class Watched:
    "A loss that remembers its values, so that they can be checked after the pass."

    def __init__(
        self,
        loss: Callable,  # loss(output, target) → scalar
    ):
        self.loss, self.where, self.values = loss, "the batch", []

    def __call__(self, output, target):
        value = one_number(self.loss(output, target))
        self.values.append((self.where, value.detach().reshape(())))
        return value

    def check(self):
        "Raise ValueError if a value is not finite; names the batches, as `where` said at the time"
        if not self.values:
            return
        finite = torch.stack([value for _, value in self.values]).isfinite().tolist()
        wrong = [where for (where, _), good in zip(self.values, finite) if not good]
        if not wrong:
            return
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(
            f"the loss is NaN or infinite in {wrong[0]}{more}, so importance cannot be measured: "
            "check the images and targets there (a mean over targets that are all ignored is NaN)"
        )


# %%
watched = Watched(partial(F.cross_entropy, ignore_index=-1))
for batch, targets in enumerate(([0, 1], [-1, -1], [1, -1])):
    watched.where = f"batch {batch}"
    watched(torch.zeros(2, 2), torch.tensor(targets))
try:
    watched.check()
except ValueError as e:
    print(e)
    assert "in batch 1," in str(e)
else:
    raise AssertionError("a loss that is NaN was accepted")
watched.values.pop(1)
assert watched.check() is None and Watched(F.cross_entropy).check() is None


# %% [markdown]
# At the end the sums are divided by the number of batches of each group.

# %%
#| export
def _mean_over_batches(sums: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
    "Each group's sums over its number of batches, in place"
    if not counts.any():
        raise ValueError(f"the batches yield nothing: {_NOTHING}")
    if not counts.all():
        raise ValueError(
            f"group {(counts == 0).nonzero().flatten().tolist()} has no image, so its importance"
            " cannot be estimated"
        )
    for total in sums.values():
        total.div_(counts.view(-1, *[1] * (total.dim() - 1)).to(total.device))
    return sums


# %%
print(_mean_over_batches({"a": torch.tensor([[6.0, 8.0], [9.0, 3.0]])}, torch.tensor([2, 3])))
assert _mean_over_batches(
    {"a": torch.tensor([[6.0, 8.0], [9.0, 3.0]]), "b": torch.tensor([[[4.0]], [[6.0]]])},
    torch.tensor([2, 3]),
)["b"].tolist() == [[[2.0]], [[2.0]]]
try:
    _mean_over_batches({"a": torch.ones(3, 2)}, torch.tensor([2, 0, 0]))
except ValueError as e:
    print(e)
    assert "[1, 2]" in str(e)
else:
    raise AssertionError("groups without images have a mean")


# %% [markdown]
# Several processes can share the work, whole batches each: splitting a batch would change its mean gradient. Sums *and* batch counts are added up over all processes before the division. A `team` is any object with
# `share(n)`, which returns this process's part of n batches, and `sum_(tensors)`, which adds up in place.

# %%
#| export
def my_share(
    # All batches; with a method `take(numbers)`, others' batches are not even put together
    batches: Iterable,
    team,  # Has `rank`, `size` and `share(n)`; None: alone
) -> Iterable:  # This process's batches, in their order
    "Every size-th batch, whole."
    if team is None or team.size == 1:
        return batches
    if hasattr(batches, "take"):
        return batches.take(team.share(len(batches)))
    return islice(batches, team.rank, None, team.size)


# %%
second = SimpleNamespace(rank=1, size=3, share=lambda n: range(1, n, 3))


class Taken(str):
    "Letters that are put together only when asked for"

    def take(self, numbers):
        return [f"letter {self[i]}" for i in numbers]


print(list(my_share("abcdefg", second)), my_share(Taken("abcdefg"), second))
assert list(my_share("abcdefg", second)) == ["b", "e"] and my_share(Taken("abcdefg"), second) == [
    "letter b",
    "letter e",
]
assert my_share("abc", None) == my_share("abc", SimpleNamespace(rank=0, size=1)) == "abc"


# %% [markdown]
# Sums that are kept on the host or in files go through the device one group at a time, because all of them might not fit.

# %%
#| export
def add_up(sums: GroupSums, team):
    "Sums and counts over all processes; a group at a time where they do not lie on the device"
    team.sum_([sums.counts])
    for total in sums.kept.values():
        team.sum_([total] if sums.here is None else total)


# %%
sent = []


def doubled(tensors):
    "Two processes that have the same"
    for t in tensors:
        sent.append(tuple(t.shape))
        t.mul_(2)


for place in ("device", "host"):
    sums = GroupSums({"a": torch.ones(4)}, 3, place)
    sums.count(1)
    sums.of(1)["a"].add_(5)
    sums.put_back()
    add_up(sums, SimpleNamespace(sum_=doubled))
    print(place, sums.kept["a"][:, 0].tolist(), sums.counts.tolist())
    assert sums.kept["a"][:, 0].tolist() == [0, 10, 0] and sums.counts.tolist() == [0, 2, 0]
assert sent == [(3,), (3, 4), (3,), (4,), (4,), (4,)]


# %%
#| export
def group_importance(
    model: nn.Module,  # Any network; masked weights get importance 0
    # Yields (input, target, group code), each batch of one group, e.g. `ByGroup`
    batches: Iterable,
    loss: Callable,  # loss(output, target) → scalar, the mean over the batch
    groups: int,  # G, how many groups there are
    ignore: Iterable[str] = (),  # Layers that are left dense
    # torch.bfloat16 for mixed precision; sums are float32 or wider all the same
    autocast: torch.dtype | None = None,
    # Batch norm and dropout as in training (the authors' code); default evaluation mode
    training_mode: bool = False,
    team=None,  # Processes that divide the batches (`share`, `sum_`); None: alone
    # Where the sums lie: "auto", "device", "host", or a folder for mapped files
    keep_on: str | Path = "auto",
    # One group of everybody: the batches' codes are not looked at, and `groups` is 1
    everybody: bool = False,
    # Layer name → importance, shape `(G, *weight)`, float32 or wider, ≥ 0; where the sums lie
) -> dict[str, Tensor]:
    """Importance of every prunable weight for every group: the mean over the group's batches of (w
    · ∂L/∂w)².

    Each image goes forward and backward once, whatever G is. Beside the result (and one group's
    sums, where it lies elsewhere) no more than a layer's gradient and its square are held.
    Raises: ValueError if a group has no batch, a code is no group or a loss is not finite;
    MemoryError or OSError where the sums do not fit.
    Source: paper section 3; `training_mode` and batches of one group: this project's choice."""
    if not torch.is_grad_enabled():
        raise ValueError(f"gradients are off: {NO_GRAD}")
    layers = prunable(model, ignore)
    weights = {n: layer.weight.detach() for n, layer in layers.items()}
    sums, room = GroupSums(weights, 1 if everybody else groups, keep_on), scratch(weights)
    watched, mine = Watched(loss), {}  # mine: the sums of the group of the batch at hand

    def add(name: str, gradient: Tensor):
        add_square(mine[name], weights[name], gradient, room[name])

    with measuring(model, training_mode), handed_on(layers, add):
        for batch, (x, y, g) in enumerate(map(_parts, my_share(batches, team))):
            group = 0 if everybody else g
            sums.count(group)
            mine = sums.of(group)
            watched.where = f"batch {batch} (counted from 0)" + (
                "" if everybody else f" of group {int(g)}"
            )
            weight_gradients(model, layers.values(), x, y, watched, autocast)
    watched.check()
    sums.put_back()
    if team is not None:
        add_up(sums, team)
    return _mean_over_batches(sums.kept, sums.counts)


# %% [markdown]
# The neuron again, with weights (2, 3). Group 0 has inputs (1, 0) and (3, 0): the mean is
# (2, 0), the importance (2·2)² and (3·0)². Group 1 has one input (0, 1): importance 0 and (3·1)².

# %%
model = nn.Sequential(neuron)
by_hand = [(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), None, 0), (torch.tensor([[0.0, 1.0]]), None, 1)]
group_importance(model, by_hand, loss=mean, groups=2)

# %% [markdown]
# Each image goes forward once, however many groups there are; a counter on the network confirms it.

# %%
seen = []
counter = model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
twelve = [(torch.randn(2, 2), None, g) for g in range(6)]
for G, batches in ((2, by_hand), (6, twelve)):
    seen.clear()
    group_importance(model, batches, mean, G)
    print(f"G = {G}: {sum(seen)} images forward for {sum(len(x) for x, _, _ in batches)}")
    assert sum(seen) == sum(len(x) for x, _, _ in batches)
assert group_importance(model, by_hand, mean, 2)["0"].tolist() == [[[16.0, 0.0]], [[0.0, 9.0]]]
# batches of 1: mean of (2·1)² and (2·3)²
halves = [(torch.tensor([[1.0, 0.0]]), None, 0), (torch.tensor([[3.0, 0.0]]), None, 0), by_hand[1]]
assert group_importance(model, halves, mean, 2)["0"][0].tolist() == [[20.0, 0.0]]
# the two batches' means
assert group_importance(model, by_hand, mean, 1, everybody=True)["0"].tolist() == [[[8.0, 4.5]]]
assert neuron.weight.grad is None and model.training  # measuring left no trace
counter.remove()

# %% [markdown]
# A pruned weight has importance 0 for every group. A group without images, a code outside the range, and a batch whose loss is NaN each raise an error.

# %%
pruned = apply_masks(copy.deepcopy(model), {"0": torch.tensor([[False, True]])})
assert group_importance(pruned, by_hand, mean, 2)["0"].tolist() == [[[0.0, 0.0]], [[0.0, 9.0]]]
for batches, said in (
    (iter(()), "batches yield nothing"),
    ([dict(x=1, y=2, g=0)], "is a dict"),
    ([(dict(x=x), None, 0)], "input of a batch is a dict"),
    ([(x, None)], "2 parts"),
):
    try:
        group_importance(model, batches, mean, groups=2)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError("wrong batches were accepted")
for context in (torch.no_grad(), torch.inference_mode()):
    with context:
        try:
            group_importance(model, by_hand, mean, groups=2)
        except ValueError as e:
            assert "gradients are off" in str(e)
        else:
            raise AssertionError("importance without a gradient")
# group 1's targets are all ignored
ignored = [(x, torch.full((len(x),), -g), g) for x, _, g in by_hand]


def ignoring(out, y):
    return F.cross_entropy(torch.cat([out, -out], 1), y, ignore_index=-1)


of_minus_1 = [*by_hand, (torch.ones(1, 2), None, -1)]
for batches, loss, groups, said in (
    (by_hand, mean, 3, "group [2] has no image"),
    (of_minus_1, mean, 2, "group code -1"),
    (by_hand, mean, 1, "group code 1"),
    (ignored, ignoring, 2, "batch 1 (counted from 0) of group 1,"),
):
    try:
        group_importance(model, batches, loss, groups)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError(f"accepted: {said}")
tiny = nn.Sequential(nn.Linear(1, 1, bias=False)).half()
nn.init.constant_(tiny[0].weight, 2**-13)
# in float16 weight · gradient is 0
assert group_importance(tiny, [(tiny[0].weight.detach(), None, 0)], mean, 1)["0"].item() == 2**-52


# %% [markdown]
# ## Held against the definition
#
# The definition uses the loss of one group within a mixed batch. The check takes a network with batch norm, concatenates the same batches of all groups into mixed ones, masks the loss to one
# group at a time and differentiates: $G$ backward passes for what `group_importance` does in one. In float64 the two agree to nine digits.

# %%
def by_definition(model, rounds, loss, groups):
    """The slow way: every round is a mixed batch; one masked loss and one backward pass for
    each group in it
    """
    layers = prunable(model)
    model.eval()
    total = {
        n: torch.zeros(groups, *m.weight.shape, dtype=m.weight.dtype) for n, m in layers.items()
    }
    seen = torch.zeros(groups)
    for x, y, g in rounds:
        for i in g.unique():
            masked = (F.cross_entropy(model(x), y, reduction="none") * (g == i)).sum() / (
                g == i
            ).sum()
            for n, d in zip(
                layers, torch.autograd.grad(masked, [m.weight for m in layers.values()])
            ):
                total[n][i] += (layers[n].weight * d).detach() ** 2
            seen[i] += 1
    return {n: t / seen.view(-1, *[1] * (t.dim() - 1)) for n, t in total.items()}


def toy(dtype, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    ).to(dtype)
    net(torch.randn(32, 3, 8, 8, dtype=dtype))  # running statistics that are not the trivial ones
    data = [
        (torch.randn(n, 3, 8, 8, dtype=dtype), torch.randint(5, (n,)), g)
        for g, n in [(0, 9), (1, 4), (2, 7), (0, 8), (2, 7)]
    ]
    rounds = [
        tuple(
            torch.cat([d[i] if i < 2 else torch.full((len(d[0]),), d[2]) for d in part])
            for i in range(3)
        )
        for part in (data[:3], data[3:])
    ]
    return net, data, rounds


for dtype, rtol, atol in ((torch.float64, 1e-9, 0), (torch.float32, 0, 1e-5)):
    net, data, rounds = toy(dtype)
    fast = group_importance(net, data, F.cross_entropy, 3)
    slow = by_definition(net, rounds, F.cross_entropy, 3)
    for name in slow:
        torch.testing.assert_close(
            fast[name], slow[name], rtol=rtol, atol=atol * float(slow[name].max())
        )
    print(
        dtype,
        "largest difference:",
        max(float((fast[n] - slow[n]).abs().max() / slow[n].max()) for n in slow),
    )

# %% [markdown]
# Mixed precision changes the digits of the gradients, but not the precision of the sums:

# %%
net, data, _ = toy(torch.float32)
half = group_importance(net, data, F.cross_entropy, 3, autocast=torch.bfloat16)
full = group_importance(net, data, F.cross_entropy, 3)
assert half["0"].dtype == torch.float32 and not torch.equal(half["0"], full["0"])
assert torch.corrcoef(torch.stack([half["5"].flatten(), full["5"].flatten()]))[0, 1] > 0.99
torch.corrcoef(torch.stack([half["5"].flatten(), full["5"].flatten()]))[0, 1]


# %% [markdown]
# ## Several processes, little memory
#
# Two processes on one problem, in float64. Here they take turns: a stand-in for the team keeps what each would send and adds it up. (The [tests](../_tests/test_parallel.py) use real processes.)

# %%
class Played:
    "One of two processes; what it would send is kept, and what the other sent is added"

    def __init__(self, rank, other=()):
        self.rank, self.size, self.sent, self.other = rank, 2, [], iter(other)

    def share(self, n):
        return range(self.rank, n, 2)

    def sum_(self, tensors):
        for t in tensors:
            self.sent.append(t.clone())
            t.add_(next(self.other, torch.zeros(())).to(t.dtype))


net, data, _ = toy(torch.float64)
alone = group_importance(net, data, F.cross_entropy, 3)
first = Played(0)
# group 1's only batch is the other's
try:
    group_importance(net, data, F.cross_entropy, 3, team=first)
except ValueError as e:
    print("the first alone:", e)
else:
    raise AssertionError("half of the batches were enough")
both = group_importance(net, data, F.cross_entropy, 3, team=Played(1, first.sent))
for n in alone:
    torch.testing.assert_close(both[n], alone[n], rtol=1e-12, atol=0)
assert first.sent[0].tolist() == [1, 0, 2]  # batches 0, 2 and 4 are of groups 0, 2 and 2
max(float((both[n] - alone[n]).abs().max() / alone[n].max()) for n in alone)

# %% [markdown]
# Wherever the sums are kept, the bits are the same, also when batches come in any order of groups.

# %%
net, data, _ = toy(torch.float32)
at_hand = group_importance(net, data, F.cross_entropy, 3, keep_on="device")


def played():
    return Played(1, [torch.tensor([1, 1, 1])])  # one of two processes


half_at_hand = group_importance(net, data, F.cross_entropy, 3, keep_on="device", team=played())
for place in ("host", home / "maps"):
    kept = group_importance(net, data, F.cross_entropy, 3, keep_on=place)
    assert all(torch.equal(kept[n], at_hand[n]) for n in at_hand)
    half = group_importance(net, data, F.cross_entropy, 3, keep_on=place, team=played())
    assert all(torch.equal(half[n], half_at_hand[n]) for n in half_at_hand)


# %% [markdown]
# ## The authors' way of batching
#
# In the public code each batch mixes the groups, and a group's loss is the mean over those of its images that happen to be in the batch. This is available as a named variant, so that its effect can be measured. In the
# toy data, groups 0 and 2 are split over two mixed batches each, so their means are over half as many images as in batches of their own. Group 1 has its four images together either way. The ratios show the effect on
# the totals.

# %%
#| export
def mixed_importance(
    model: nn.Module,  # Any network
    loader: Iterable,  # Yields (input, target, group): mixed batches, group a LongTensor `(B,)`
    loss: Callable,  # loss(output, target) → scalar, the mean over the batch
    groups: int,  # G, how many groups there are
    ignore: Iterable[str] = (),  # Layers that are left dense
    training_mode: bool = False,  # Batch norm and dropout as in training
) -> dict[str, Tensor]:  # Layer name → importance, shape `(G, *weight)`
    """Group importance from mixed batches, as in the authors' code: one forward pass and a
    backward pass for each group in it.

    Raises: ValueError if a group has no image, a code is no group or a loss is not finite."""
    layers, watched = prunable(model, ignore), Watched(loss)
    counts = torch.zeros(groups, dtype=torch.long)
    with measuring(model, training_mode):
        sums = {
            n: torch.zeros(groups, *m.weight.shape, device=m.weight.device, dtype=wide(m.weight))
            for n, m in layers.items()
        }
        for batch, (x, y, g) in enumerate(map(_parts, loader)):
            output = model(x)
            for i in codes_of((x, y, g)).unique().tolist():
                group_code(i, groups)
                watched.where = f"batch {batch} (counted from 0), in group {i}"
                value = watched(output[g == i], y[g == i])
                gradients = torch.autograd.grad(
                    value, [original(m) for m in layers.values()], retain_graph=True
                )
                for (name, layer), gradient in zip(layers.items(), gradients):
                    add_square(sums[name][i], layer.weight.detach(), gradient)
                counts[i] += 1
    watched.check()
    return _mean_over_batches(sums, counts)


# %%
net, data, rounds = toy(torch.float64)
mixed = mixed_importance(net, rounds, F.cross_entropy, 3)
own = group_importance(net, ByGroup(rounds, 3), F.cross_entropy, 3)
ratio = {
    g: float(sum(m[g].sum() for m in mixed.values()) / sum(m[g].sum() for m in own.values()))
    for g in range(3)
}
assert abs(ratio[1] - 1) < 1e-9 and ratio[0] > 1 and ratio[2] > 1
x, y, g = rounds[0]
ignored = y.where(g != 1, torch.tensor(-100))  # group 1's targets, as cross-entropy ignores them
for batch, said in (
    ((x, y, g - 1), "group code -1"),
    ((x, y, g + 1), "group code 3"),
    ((x, ignored, g), "in group 1,"),
):
    try:
        mixed_importance(net, [batch], F.cross_entropy, 3)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError(f"accepted: {said}")
same = by_definition(net, rounds, F.cross_entropy, 3)
for name in same:
    torch.testing.assert_close(mixed[name], same[name], rtol=1e-9, atol=0)
{
    f"group {g}": round(
        float(sum(m[g].sum() for m in mixed.values()) / sum(m[g].sum() for m in own.values())), 2
    )
    for g in range(3)
}
