# %% [markdown]
# # Group importance
#
# > How much each group of people would lose if one weight were removed

# %%
#| default_exp importance

# %%
#| export
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from fairgrape.masks import original, prunable

# %%
import copy
import torch.nn.functional as F

from fairgrape.masks import apply_masks


# %% [markdown]
# Remove a weight $w$ and the loss $L_g$ on the images of group $g$ changes. To first order in $w$ the change is $-w\,\partial L_g/\partial w$; squared, so that gains do not cancel losses, it is the
# weight's importance for the group (paper, section 3):
#
# $$I_g(w) = \left(w \cdot \frac{\partial L_g}{\partial w}\right)^2 .$$
#
# A mean gradient over few images is noisy, and squaring turns noise into importance, so the estimate falls as batches grow. If every group's share of a mixed batch decided
# how many of its images are averaged, a small group would look important only because it is small. Hence each group gets batches of its own, of about the same size, and $I_g$ is the mean over
# *its* batches. A second gain: each image is seen once, however many groups there are.
#
# ## Batches of one group
#
# A data loader usually yields mixed batches. `ByGroup` re-cuts any loader of `(input, target, group)` into batches of one group each. `np.array_split` makes
# them near-equal: 130 images at most 64 a batch are 44 + 43 + 43, not 64 + 64 + 2, since a batch of two would count as much as one of 64.

# %%
#| export
def cut(
    n: int,         # Images of a group
    size: int = 64, # The largest batch
) -> list[int]:     # Sizes of the batches, differing by at most 1
    "The sizes of near-equal batches of at most `size` images."
    return [len(part) for part in np.array_split(np.arange(n), -(-n // size))] if n else []


# %%
cut(130)

# %%
assert cut(130) == [44, 43, 43] and cut(64) == [64] and cut(65) == [33, 32] and cut(0) == []


# %% [markdown]
# To cut evenly one must know how many images each group has, so the loader is read once for its labels alone. That is also where a group without any image is found: nothing
# could be preserved for it, so it is an error.

# %%
#| export
def count_groups(
    loader: Iterable, # Yields (input, target, group): batches, group a LongTensor `(B,)` of codes 0 … groups − 1
    groups: int,      # How many groups there are
) -> list[int]:       # Images of each group
    "Count the images of each group; a group without images, or a code outside the range, is a ValueError."
    counts = torch.zeros(groups, dtype=torch.long)
    for _, _, g in loader:
        if g.min() < 0 or g.max() >= groups: raise ValueError(f"group code {int(g.max())} in the data, but groups = {groups}: codes are 0 to {groups - 1}")
        counts += torch.bincount(g.cpu(), minlength=groups)
    empty = [i for i, n in enumerate(counts.tolist()) if n == 0]
    if empty: raise ValueError(f"group {empty} has no image, so its importance cannot be estimated: drop it or add images")
    return counts.tolist()


# %%
loader = [(torch.arange(0., 3), torch.arange(3), torch.tensor([0, 1, 0])), (torch.arange(3., 6), torch.arange(3), torch.tensor([0, 0, 1]))]
count_groups(loader, groups=2)

# %%
assert count_groups(loader, groups=2) == [4, 2]
for groups in (1, 3):
    try: count_groups(loader, groups)
    except ValueError as e: print(e)
    else: raise AssertionError("wrong number of groups accepted")


# %%
#| export
class ByGroup:
    "Re-cut a loader of mixed batches into near-equal batches of one group each; yields (input, target, group code)."
    def __init__(self,
        loader: Iterable, # Yields (input, target, group), tensors with the batch first; read once for counting and once a pass
        groups: int,      # How many groups there are
        size: int = 64,   # The largest batch (the paper's code: 64)
    ):
        self.loader, self.groups, self.size = loader, groups, size
        self.counts = count_groups(loader, groups)

    def __len__(self) -> int: return sum(len(cut(n, self.size)) for n in self.counts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        sizes = [cut(n, self.size) for n in self.counts]
        waiting = [None] * self.groups
        for x, y, g in self.loader:
            for i in g.unique().tolist():
                mine = (x[g == i], y[g == i])
                waiting[i] = mine if waiting[i] is None else tuple(torch.cat(pair) for pair in zip(waiting[i], mine))
                while sizes[i] and len(waiting[i][0]) >= sizes[i][0]:
                    n = sizes[i].pop(0)
                    yield *(t[:n] for t in waiting[i]), i
                    waiting[i] = tuple(t[n:] for t in waiting[i])


# %%
for x, y, g in ByGroup(loader, groups=2, size=3): print(f"group {g}: {x.tolist()}")

# %%
assert [(x.tolist(), g) for x, _, g in ByGroup(loader, 2, size=3)] == [([0., 2.], 0), ([3., 4.], 0), ([1., 5.], 1)]
assert len(ByGroup(loader, 2, size=3)) == 3


# %% [markdown]
# ## One backward pass a batch
#
# The network is in evaluation mode meanwhile: batch norm then uses its running statistics, so that an image's gradient does not depend on who else is in the batch. (The authors' code leaves it in
# training mode; `training_mode=True` does that, and puts the running statistics back afterwards, so that measuring a network never changes it.)

# %%
#| export
@contextmanager
def measuring(
    model: nn.Module,           # Put into evaluation mode, and back as it was afterwards
    training_mode: bool = False,# As in the authors' code: batch norm and dropout as in training
):
    "Within, the modes are set for measuring; afterwards modes, buffers and `requires_grad` are what they were."
    modes = [(m, m.training) for m in model.modules()]
    buffers = [(b, b.clone()) for b in model.buffers()] if training_mode else []
    frozen = [p for p in model.parameters() if not p.requires_grad]
    model.train(training_mode)
    for p in frozen: p.requires_grad_(True)
    try: yield model
    finally:
        for m, mode in modes: m.training = mode
        for b, before in buffers: b.data.copy_(before)
        for p in frozen: p.requires_grad_(False)


# %%
norm = nn.BatchNorm1d(2).train()
with measuring(norm): print("training mode within:", norm.training)
with measuring(norm, training_mode=True): norm(torch.randn(8, 2) + 5)
norm.training, norm.running_mean

# %%
assert norm.training and norm.running_mean.tolist() == [0, 0]


# %% [markdown]
# The gradient is taken for the prunable weights alone: biases and norms cost nothing, `.grad` is left as it was, and no optimizer is involved.

# %%
#| export
def group_importance(
    model: nn.Module,                   # Any network; masked weights get importance 0
    batches: Iterable,                  # Yields (input, target, group code), each batch of one group, e.g. `ByGroup`
    loss: Callable,                     # loss(output, target) → scalar, the mean over the batch
    groups: int,                        # G, how many groups there are
    ignore: Iterable[str] = (),         # Layers that are left dense
    autocast: torch.dtype | None = None,# torch.bfloat16 for mixed precision; sums are float32 or wider all the same
    training_mode: bool = False,        # Batch norm and dropout as in training (the authors' code); default evaluation mode
) -> dict[str, Tensor]:                 # Layer name → importance, shape `(G, *weight)`, float32 or wider, ≥ 0
    """Importance of every prunable weight for every group: the mean over the group's batches of (w · ∂L/∂w)².

    Each image goes forward and backward once, whatever G is.
    Raises: ValueError if a group has no batch.
    Source: paper section 3; `training_mode` and batches of one group: this project's choice."""
    layers = prunable(model, ignore)
    counts = torch.zeros(groups, dtype=torch.long)
    with measuring(model, training_mode):
        weights = {n: layer.weight.detach() for n, layer in layers.items()}
        sums = {n: torch.zeros(groups, *w.shape, dtype=torch.promote_types(w.dtype, torch.float32), device=w.device) for n, w in weights.items()}
        room = {n: torch.empty_like(total[0]) for n, total in sums.items()}         # of each weight's size: allocating it anew for every batch would cost time
        for x, y, g in batches:
            gradients = weight_gradients(model, layers.values(), x, y, loss, autocast)
            for (name, w), gradient in zip(weights.items(), gradients): add_square(sums[name][g], w, gradient, room[name])
            counts[g] += 1
    return _mean_over_batches(sums, counts)

def _mean_over_batches(sums: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
    if not counts.all(): raise ValueError(f"group {(counts == 0).nonzero().flatten().tolist()} has no image, so its importance cannot be estimated")
    for total in sums.values(): total.div_(counts.view(-1, *[1] * (total.dim() - 1)).to(total.device))
    return sums

def weight_gradients(model, layers, x, y, loss, autocast=None, **how) -> list[Tensor | None]:
    "∂L/∂w of the batch's loss for each layer's weight; None where the weight took no part"
    with torch.autocast(x.device.type, dtype=autocast, enabled=autocast is not None): value = loss(model(x), y)
    return torch.autograd.grad(value, [original(layer) for layer in layers], allow_unused=True, **how)

def add_square(total: Tensor, weight: Tensor, gradient: Tensor | None, room: Tensor | None = None):
    "total += (weight · gradient)², in place, in the width of `total`; the product is put into `room`, of the shape and type of `total`"
    if gradient is None: return
    change = torch.mul(weight, gradient, out=torch.empty_like(total) if room is None else room)
    total.addcmul_(change, change)


# %% [markdown]
# By hand, on one linear neuron without a bias and the loss $\mathrm{mean}(wx)$, whose gradient is just the mean input. Weights (2, 3). Group 0 has inputs (1, 0) and (3, 0), so the mean is
# (2, 0) and the importance (2·2)², (3·0)². Group 1 has one input (0, 1): importance 0 and (3·1)².

# %%
neuron = nn.Linear(2, 1, bias=False)
with torch.no_grad(): neuron.weight.copy_(torch.tensor([[2., 3.]]))
model = nn.Sequential(neuron)
by_hand = [(torch.tensor([[1., 0.], [3., 0.]]), None, 0), (torch.tensor([[0., 1.]]), None, 1)]
group_importance(model, by_hand, loss=lambda out, _: out.mean(), groups=2)

# %% [markdown]
# However many groups there are, each image goes forward once: a counter on the network sees as many as there are.

# %%
seen = []
counter = model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
twelve = [(torch.randn(2, 2), None, g) for g in range(6)]
for G, batches in ((2, by_hand), (6, twelve)):
    seen.clear(); group_importance(model, batches, lambda out, _: out.mean(), G)
    print(f"G = {G}: {sum(seen)} images forward for {sum(len(x) for x, _, _ in batches)}")
    assert sum(seen) == sum(len(x) for x, _, _ in batches)
counter.remove()

# %%
assert group_importance(model, by_hand, lambda out, _: out.mean(), 2)["0"].tolist() == [[[16., 0.]], [[0., 9.]]]
halves = [(torch.tensor([[1., 0.]]), None, 0), (torch.tensor([[3., 0.]]), None, 0), by_hand[1]]   # batches of 1: mean of (2·1)² and (2·3)²
assert group_importance(model, halves, lambda out, _: out.mean(), 2)["0"][0].tolist() == [[20., 0.]]
assert neuron.weight.grad is None and model.training                                              # measuring left no trace

# %% [markdown]
# A pruned weight has importance 0 for everybody, and a group that never comes is an error.

# %%
pruned = apply_masks(copy.deepcopy(model), {"0": torch.tensor([[False, True]])})
assert group_importance(pruned, by_hand, lambda out, _: out.mean(), 2)["0"].tolist() == [[[0., 0.]], [[0., 9.]]]
try: group_importance(model, by_hand, lambda out, _: out.mean(), groups=3)
except ValueError as e: print(e)
else: raise AssertionError("a group without images was accepted")


# %% [markdown]
# ## Held against the definition
#
# The definition speaks of the loss of one group within a mixed batch. So the check takes a network with batch norm, lays the same batches of all groups side by side into mixed ones, masks the loss to one
# group at a time and differentiates: $G$ backward passes for what `group_importance` does in one. In float64 both agree to nine digits.

# %%
def by_definition(model, rounds, loss, groups):
    "The slow way: every round is a mixed batch; one masked loss and one backward pass for each group in it"
    layers = prunable(model); model.eval()
    total = {n: torch.zeros(groups, *m.weight.shape, dtype=m.weight.dtype) for n, m in layers.items()}; seen = torch.zeros(groups)
    for x, y, g in rounds:
        for i in g.unique():
            masked = (F.cross_entropy(model(x), y, reduction="none") * (g == i)).sum() / (g == i).sum()
            for n, d in zip(layers, torch.autograd.grad(masked, [m.weight for m in layers.values()])): total[n][i] += (layers[n].weight * d).detach() ** 2
            seen[i] += 1
    return {n: t / seen.view(-1, *[1] * (t.dim() - 1)) for n, t in total.items()}

def toy(dtype, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8 * 16, 5)).to(dtype)
    net(torch.randn(32, 3, 8, 8, dtype=dtype))                      # running statistics that are not the trivial ones
    data = [(torch.randn(n, 3, 8, 8, dtype=dtype), torch.randint(5, (n,)), g) for g, n in [(0, 9), (1, 4), (2, 7), (0, 8), (2, 7)]]
    rounds = [tuple(torch.cat([d[i] if i < 2 else torch.full((len(d[0]),), d[2]) for d in part]) for i in range(3)) for part in (data[:3], data[3:])]
    return net, data, rounds

for dtype, rtol, atol in ((torch.float64, 1e-9, 0), (torch.float32, 0, 1e-5)):
    net, data, rounds = toy(dtype)
    fast, slow = group_importance(net, data, F.cross_entropy, 3), by_definition(net, rounds, F.cross_entropy, 3)
    for name in slow: torch.testing.assert_close(fast[name], slow[name], rtol=rtol, atol=atol * float(slow[name].max()))
    print(dtype, "largest difference:", max(float((fast[n] - slow[n]).abs().max() / slow[n].max()) for n in slow))

# %% [markdown]
# Mixed precision changes the gradients' digits but not where they are summed:

# %%
net, data, _ = toy(torch.float32)
half = group_importance(net, data, F.cross_entropy, 3, autocast=torch.bfloat16)
full = group_importance(net, data, F.cross_entropy, 3)
assert half["0"].dtype == torch.float32 and not torch.equal(half["0"], full["0"])
torch.corrcoef(torch.stack([half["5"].flatten(), full["5"].flatten()]))[0, 1]

# %%
assert torch.corrcoef(torch.stack([half["5"].flatten(), full["5"].flatten()]))[0, 1] > 0.99


# %% [markdown]
# ## The authors' way of batching
#
# In the public code each batch mixes the groups, and a group's loss is taken over those of its images that happen to be in it. As a named variant, it lets a reader see what the choice changes. In the
# toy data, groups 0 and 2 lie in two mixed batches each, so their means are over half as many images as in batches of their own, while group 1 has its four images together either way. The ratios say what
# that alone does to the totals.

# %%
#| export
def mixed_importance(
    model: nn.Module,            # Any network
    loader: Iterable,            # Yields (input, target, group): mixed batches, group a LongTensor `(B,)`
    loss: Callable,              # loss(output, target) → scalar, the mean over the batch
    groups: int,                 # G, how many groups there are
    ignore: Iterable[str] = (),  # Layers that are left dense
    training_mode: bool = False, # Batch norm and dropout as in training
) -> dict[str, Tensor]:          # Layer name → importance, shape `(G, *weight)`
    "Group importance from mixed batches, as in the authors' code: one forward pass and a backward pass for each group in it."
    layers = prunable(model, ignore)
    counts = torch.zeros(groups, dtype=torch.long)
    with measuring(model, training_mode):
        sums = {n: torch.zeros(groups, *m.weight.shape, device=m.weight.device, dtype=m.weight.dtype) for n, m in layers.items()}
        for x, y, g in loader:
            output = model(x)
            for i in g.unique().tolist():
                gradients = torch.autograd.grad(loss(output[g == i], y[g == i]), [original(m) for m in layers.values()], retain_graph=True)
                for (name, layer), gradient in zip(layers.items(), gradients): add_square(sums[name][i], layer.weight.detach(), gradient)
                counts[i] += 1
    return _mean_over_batches(sums, counts)


# %%
net, data, rounds = toy(torch.float64)
mixed = mixed_importance(net, rounds, F.cross_entropy, 3)
own = group_importance(net, ByGroup(rounds, 3), F.cross_entropy, 3)
{f"group {g}": round(float(sum(m[g].sum() for m in mixed.values()) / sum(m[g].sum() for m in own.values())), 2) for g in range(3)}

# %%
ratio = {g: float(sum(m[g].sum() for m in mixed.values()) / sum(m[g].sum() for m in own.values())) for g in range(3)}
assert abs(ratio[1] - 1) < 1e-9 and ratio[0] > 1 and ratio[2] > 1
same = by_definition(net, rounds, F.cross_entropy, 3)
for name in same: torch.testing.assert_close(mixed[name], same[name], rtol=1e-9, atol=0)
