# %% [markdown]
# # Scores
#
# > A number for each weight: from its size, from chance, or from its effect on the loss

# %%
#| default_exp methods.scores

# %%
#| export
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairgrape.method.importance import Watched, group_importance, measuring, weight_gradients
from fairgrape.method.masks import original, prunable
from fairgrape.method.sums import wide
from fairgrape.training.stages import seed_of

# %%
import copy
from types import SimpleNamespace

import torch.nn.functional as F

from fairgrape.method.masks import apply_masks, get_masks
from fairgrape.method.pruning import prune
from fairgrape.method.selection import select_masks
from fairgrape.method.selectors import select_top


# %% [markdown]
# A score rates each weight; it does not decide how many are removed or how they are chosen. Every score has the signature `score(model, batches, loss, groups, ignore=(), autocast=None, seed=0)` and returns a tensor `(G, *weight)` for each layer. Weights with a high score stay. A score uses the arguments that it needs
# and ignores the others.
#
# ## Magnitude
#
# The oldest score removes small weights. In one step from the trained network it is the paper's baseline WS; in steps with retraining between them it is iterative magnitude pruning (both Han et al. 2015); in steps with a rewind it is the
# lottery ticket (Frankle & Carbin 2019).

# %%
#| export
def magnitude_score(
    model: nn.Module,  # The network
    *_,  # Batches, loss, groups: not needed
    ignore: Iterable[str] = (),  # Layers to leave dense
    **__,  # Settings of other scores
) -> dict[str, Tensor]:  # Layer name → |w|, shape `(1, *weight)`: all images as one group
    """The magnitude of the weights.

    Source: Han et al. 2015; the paper's baselines WS and Lottery."""
    return {
        name: layer.weight.detach().abs()[None] for name, layer in prunable(model, ignore).items()
    }


# %%
net = nn.Sequential(nn.Linear(3, 2, bias=False))
with torch.no_grad():
    net[0].weight.copy_(torch.tensor([[1.0, -6.0, 2.0], [5.0, -3.0, 4.0]]))
print(magnitude_score(net))
assert magnitude_score(net)["0"].tolist() == [[[1.0, 6.0, 2.0], [5.0, 3.0, 4.0]]]
prune(net, 0.5, magnitude_score, select_top, keep=None)
assert net[0].weight.tolist() == [[0.0, -6.0, 0.0], [5.0, 0.0, 4.0]]


# %% [markdown]
# ## Random
#
# Random pruning is the lower bound for every method: it chooses without information. The numbers come from the seed alone, so several steps remove the same weights as one step. They must not come from the seed *itself*: a network's initial weights are drawn with the same
# seed, and torch would give both the same stream. On a ResNet, whose constructor draws little before its head, such a random mask keeps the head's largest initial weights. Each layer therefore has its own stream.

# %%
#| export
def stream(
    seed: int,  # The run's seed
    *what: str,  # What the numbers are for
) -> torch.Generator:  # On the CPU, so that a GPU gets the same numbers
    "A generator whose stream differs from every other use of the seed."
    return torch.Generator().manual_seed(seed_of(seed, *what))


# %%
[
    torch.rand(1, generator=g).item()
    for g in (
        stream(0, "random", "fc"),
        stream(0, "random", "conv1"),
        torch.Generator().manual_seed(0),
    )
]

# %%
assert torch.equal(
    torch.rand(3, generator=stream(0, "fc")), torch.rand(3, generator=stream(0, "fc"))
) and stream(0).initial_seed() not in (0, stream(1).initial_seed())
# as in existing runs: another seed would draw other masks under the same name
assert stream(0, "random", "fc").initial_seed() == 1117204809860656969


# %%
#| export
def random_score(
    model: nn.Module,  # The network
    *_,  # Batches, loss, groups: not needed
    ignore: Iterable[str] = (),  # Layers to leave dense
    seed: int = 0,  # Decides everything
    **__,  # Settings of other scores
) -> dict[str, Tensor]:  # Layer name → uniform numbers in [0, 1), shape `(1, *weight)`
    "A random number for each weight."
    return {
        n: torch.rand(1, *m.weight.shape, generator=stream(seed, "random", n)).to(m.weight.device)
        for n, m in prunable(model, ignore).items()
    }


# %%
dense = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5))
at_once, in_steps = copy.deepcopy(dense), copy.deepcopy(dense)
(
    prune(at_once, 0.9, random_score, select_top, keep=None),
    prune(in_steps, 0.9, random_score, select_top, keep=0.5, on_step=print),
)
print({n: int(m.sum()) for n, m in get_masks(at_once).items()})
assert all(torch.equal(m, get_masks(in_steps)[n]) for n, m in get_masks(at_once).items())
assert [int(m.sum()) for m in get_masks(at_once).values()] == [60, 10]
assert not torch.equal(random_score(dense, seed=1)["0"], random_score(dense)["0"])


# %% [markdown]
# ## Importance with and without groups
#
# FairGRAPE's score is `group_importance`. The group-blind baseline uses the same formula with all images as one group: it ignores the code of a batch and adds all images to one sum. Comparing the two in the
# same loop shows the effect of the groups.

# %%
#| export
def group_score(
    model: nn.Module,  # The network
    batches: Iterable,  # Yields (input, target, group code), each batch of one group
    loss: Callable,  # loss(output, target) → scalar, the mean over the batch
    groups: int,  # G, how many groups there are
    ignore: Iterable[str] = (),  # Layers to leave dense
    autocast: torch.dtype | None = None,  # torch.bfloat16 for mixed precision
    seed: int = 0,  # Not needed
    **how,  # team, keep_on: see `group_importance`
) -> dict[str, Tensor]:  # Layer name → importance, shape `(G, *weight)`, ≥ 0
    "FairGRAPE's score: `group_importance`. Source: paper, section 3."
    return group_importance(model, batches, loss, groups, ignore, autocast, **how)


# %% [markdown]
# By hand, with one linear neuron and the loss mean(out), whose gradient is the mean input: the weights are (2, 3), a batch of group 0 has the mean (2, 0) and one of group 1 the mean (0, 1). The squares are (2·2)² and 0 for group 0, 0 and (3·1)² for group 1.

# %%
neuron = nn.Sequential(nn.Linear(2, 1, bias=False))
with torch.no_grad():
    neuron[0].weight.copy_(torch.tensor([[2.0, 3.0]]))


def mean_output(out, _):
    return out.mean()


two = [(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), None, 0), (torch.tensor([[0.0, 1.0]]), None, 1)]
print(group_score(neuron, two, mean_output, 2))
assert group_score(neuron, two, mean_output, 2)["0"].tolist() == [[[16.0, 0.0]], [[0.0, 9.0]]]


# %%
#| export
def importance_score(
    model: nn.Module,  # The network
    batches: Iterable,  # Yields (input, target, group code); the code is ignored
    loss: Callable,  # loss(output, target) → scalar, the mean over the batch
    groups: int = 1,  # Not needed
    ignore: Iterable[str] = (),  # Layers to leave dense
    autocast: torch.dtype | None = None,  # torch.bfloat16 for mixed precision
    seed: int = 0,  # Not needed
    **how,  # team, keep_on: see `group_importance`
) -> dict[str, Tensor]:  # Layer name → importance, shape `(1, *weight)`, ≥ 0
    "The group-blind importance: all images as one group. Source: the paper's baseline Importance."
    return group_importance(model, batches, loss, 1, ignore, autocast, everybody=True, **how)


# %% [markdown]
# Without groups there are two batches, so each square is halved:

# %%
print(importance_score(neuron, two, mean_output))
assert importance_score(neuron, two, mean_output)["0"].tolist() == [[[8.0, 4.5]]]
# one batch of all three: mean input (4/3, 1/3)
three = [(torch.cat([x for x, _, _ in two]), None, 0)]
assert importance_score(neuron, three, mean_output)["0"].allclose(torch.tensor([[[64 / 9, 1.0]]]))


# %% [markdown]
# ## Before training
#
# SNIP and GraSP prune before training: they score the weights that training will start from. These are ImageNet's with a new head, or random ones. With random weights batch norm's running statistics are
# still 0 and 1 and describe no data. With them the activations of a deep network grow or vanish layer by layer, and so do the gradients. At initialisation batch norm therefore uses the statistics of the batch, as in both papers' code. Dropout
# stays off, because neither formula includes it. Modes and running statistics are restored afterwards.

# %%
#| export
@contextmanager
def _batch_statistics(
    model: nn.Module,  # Inside, batch norm is in training mode, everything else in evaluation mode
) -> Iterator[nn.Module]:  # The same network
    "Context in which batch norm uses the batch's statistics; modes and buffers are then restored."
    with measuring(model, training_mode=True):
        for module in model.modules():
            module.training = isinstance(module, _BatchNorm)
        yield model


# %%
def deep_net(depth=10, outputs=3):
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


deep, x = deep_net(), torch.randn(32, 3, 8, 8)
with torch.no_grad():
    with measuring(deep):
        faint = deep[:-1](x).std(0).mean()
    with _batch_statistics(deep):
        clear, again = deep[:-1](x), deep[:-1](x)
print(
    f"the images' features differ by {faint:.5f} with running statistics, by"
    f" {clear.std(0).mean():.5f} with the batch's own"
)
# no dropout, so twice the same
assert clear.std(0).mean() > 100 * faint and torch.equal(clear, again)
assert deep.training and deep[1].running_mean.abs().max() == 0 and deep[1].num_batches_tracked == 0


# %% [markdown]
# Both compute a gradient on one batch. A batch that does not fit into memory may be split; the gradient is then the mean over the parts.

# %%
#| export
def _mean_over(
    layers: Mapping[str, nn.Module],  # Layer name → layer
    batches: Iterable,  # Yields (input, target, group code)
    # (input, target) → for each layer a tensor like its weight, or None
    part: Callable[..., Iterable[Tensor | None]],
) -> list[Tensor]:  # The means over the batches, in the layers' order
    """The mean of `part` over the batches, in float32 or wider; None counts as 0.

    Raises: ValueError without a batch."""
    weights = [original(layer) for layer in layers.values()]
    sums, n = [torch.zeros_like(weight, dtype=wide(weight)) for weight in weights], 0
    for x, y, _ in batches:
        for total, one in zip(sums, part(x, y)):
            total += 0 if one is None else one.detach()
        n += 1
    if not n:
        raise ValueError(
            "no batch to take a gradient on: give at least one (input, target, group code)"
        )
    return [total / n for total in sums]


# %%
print(_mean_over(prunable(neuron), two, lambda x, y: [x.mean(0, keepdim=True)]))
assert _mean_over(prunable(neuron), two, lambda x, y: [x.mean(0, keepdim=True)])[0].tolist() == [
    [1.0, 0.5]
]
assert _mean_over(prunable(neuron), two, lambda x, y: [None])[0].tolist() == [[0.0, 0.0]]
thirds = iter(torch.tensor([[[2048.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]]], dtype=torch.float16))
halves = prunable(copy.deepcopy(neuron).half())
in_half = _mean_over(halves, [*two, two[0]], lambda x, y: [next(thirds)])[0]
# in float16 2048 + 1 is 2048
assert in_half.dtype == torch.float32 and in_half[0, 0] == torch.tensor(2050.0) / 3
try:
    _mean_over(prunable(neuron), [], None)
except ValueError as e:
    print(e)
else:
    raise AssertionError("a mean over nothing was accepted")


# %% [markdown]
# ## SNIP
#
# SNIP puts a factor $c$ in front of each weight, $c \odot w$ with every $c = 1$, and takes the derivative of the loss with respect to it (Lee et al. 2019): $\partial L/\partial c = w \cdot \partial L/\partial w$. Its magnitude is the score. The paper divides by the sum over
# all weights; this does not change the order and is left out. SNIP uses one batch, once, before training, and one budget for the whole network.
#
# SNIP and GraSP both end with the product of each weight and a number, so they share this function.

# %%
#| export
def _times_weight(
    layers: Mapping[str, nn.Module],  # Layer name → layer
    values: Iterable[Tensor],  # For each layer a tensor like its weight, in the layers' order
) -> dict[str, Tensor]:  # Layer name → w ⊙ value, shape `(1, *weight)`: all images as one group
    "Each weight times its value, in float32 or wider; 0 for a masked weight."
    weights = {name: layer.weight.detach() for name, layer in layers.items()}
    return {
        name: (w.to(wide(w)) * value)[None] for (name, w), value in zip(weights.items(), values)
    }


# %%
print(_times_weight(prunable(neuron), [torch.tensor([[5.0, -1.0]])]))
assert _times_weight(prunable(neuron), [torch.tensor([[5.0, -1.0]])])["0"].tolist() == [
    [[10.0, -3.0]]
]
halved = apply_masks(copy.deepcopy(neuron), {"0": torch.tensor([[False, True]])})
assert _times_weight(prunable(halved), [torch.ones(1, 2)])["0"].tolist() == [[[0.0, 3.0]]]
tiny = torch.full((1, 2), 2.0**-13, dtype=torch.float16)  # in float16 the square is 0
assert _times_weight({"0": SimpleNamespace(weight=tiny)}, [tiny])["0"].tolist() == [
    [[2.0**-26] * 2]
]


# %% [markdown]
# SNIP is then a gradient and a product. The magnitude counts, not the sign: a weight matters equally whether strengthening it raises or lowers the loss.

# %%
#| export
def snip_score(
    model: nn.Module,  # The network with its start weights
    batches: Iterable,  # Yields (input, target, group code); the paper: one batch
    loss: Callable,  # loss(output, target) → scalar, the mean over the batch
    groups: int = 1,  # Not needed
    ignore: Iterable[str] = (),  # Layers to leave dense
    autocast: torch.dtype | None = None,  # torch.bfloat16 for mixed precision
    seed: int = 0,  # Not needed
) -> dict[str, Tensor]:  # Layer name → |w · ∂L/∂w|, shape `(1, *weight)`, ≥ 0
    """Connection sensitivity. Raises: ValueError if there is no batch, or its loss is not finite.

    Source: Lee, Ajanthan, Torr 2019 (arXiv 1810.02340), without its constant factor."""
    layers, watched = prunable(model, ignore), Watched(loss)
    with _batch_statistics(model):
        part = partial(weight_gradients, model, layers.values(), loss=watched, autocast=autocast)
        gradients = _mean_over(layers, batches, part)
    watched.check()
    return {name: product.abs() for name, product in _times_weight(layers, gradients).items()}


# %% [markdown]
# By hand on the neuron: the inputs (1, −2) and (3, 0) have the mean (2, −1), so the scores are |2 · 2| and |3 · (−1)|.

# %%
one = [(torch.tensor([[1.0, -2.0], [3.0, 0.0]]), None, 0)]
print(snip_score(neuron, one, mean_output))
assert snip_score(neuron, one, mean_output)["0"].tolist() == [[[4.0, 3.0]]]
# split in two: the same scores
assert snip_score(neuron, [(x[None], None, 0) for x in one[0][0]], mean_output)["0"].tolist() == [
    [[4.0, 3.0]]
]


# %% [markdown]
# The next check uses the definition, without derivatives: in a network of twelve weights in float64, each factor is set to 1 ± 10⁻⁵ in turn and the loss computed.

# %%
def tiny_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()


small, some = tiny_net(), [(torch.randn(6, 2).double(), torch.tensor([0, 1, 1, 0, 1, 0]), 0)]


def loss_with(model, changes, temperature=1):
    "The loss on the batch after `changes`: (layer name, flat index, what to add)"
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, i, add in changes:
            moved.get_submodule(name).weight.view(-1)[i] += add
        return float(F.cross_entropy(moved(some[0][0]) / temperature, some[0][1]))


def by_switches(model, e=1e-5):
    "∂L/∂c of every factor, by central differences: moving c by e adds e · w to the weight"

    def slope(n, i, w):
        return (loss_with(model, [(n, i, e * w)]) - loss_with(model, [(n, i, -e * w)])) / (2 * e)

    def slopes(n, m):
        return torch.tensor(
            [slope(n, i, w) for i, w in enumerate(m.weight.flatten().tolist())]
        ).double()

    return {n: slopes(n, m).view_as(m.weight) for n, m in prunable(model).items()}


numeric, exactly = by_switches(small), snip_score(small, some, F.cross_entropy)
for n in numeric:
    off = float((exactly[n][0] - numeric[n].abs()).abs().max())
    print(f"layer {n}: largest score {float(exactly[n].max()):.3f}, largest difference {off:.1e}")
    torch.testing.assert_close(exactly[n][0], numeric[n].abs(), rtol=1e-5, atol=1e-7)


# %% [markdown]
# ## GraSP
#
# GraSP (Wang, Zhang, Grosse 2020) rates the effect of a weight on training, not on the loss: on the squared length of the gradient, $g^\top g$, the speed at which the loss falls at first. Adding $\delta$ to the weights changes it by
# $2\,\delta^\top H g$ to first order, with the Hessian $H$. Removing one weight is $\delta = -w$, so $-w \odot (Hg)$ is the growth of the gradient when the weight is removed, and GraSP *removes the largest*. The selectors here keep the largest, so the score has the opposite sign,
# $w \odot (Hg)$: weights whose removal would shrink the gradient most stay. It is often negative, unlike every other score here.
#
# $Hg$ does not need the Hessian: differentiate the product of $g$ with a constant copy of itself.

# %%
#| export
def _hessian_product(
    model: nn.Module,  # The network
    layers: Mapping[str, nn.Module],  # Layer name → layer, whose weights the Hessian is over
    x: Tensor,  # Input of a batch
    y: Tensor,  # Its target
    loss: Callable,  # loss(output, target) → scalar
    vector: list[Tensor],  # For each layer a tensor like its weight
) -> list[Tensor | None]:  # H · vector, for each layer a tensor like its weight; None where it is 0
    "The Hessian of the batch's loss times a vector, by differentiating twice."
    gradients = weight_gradients(model, layers.values(), x, y, loss, create_graph=True)
    along = sum(
        (gradient * v).sum() for gradient, v in zip(gradients, vector) if gradient is not None
    )
    return torch.autograd.grad(
        along, [original(layer) for layer in layers.values()], allow_unused=True
    )


# %% [markdown]
# By hand: the input is (1, −1) and the loss half the squared output, ½ (w₀ − w₁)². Its Hessian is ((1, −1), (−1, 1)) for all weights; times (−1, 1) it gives (−2, 2).

# %%
def half_square(out, _):
    return out.square().mean() / 2


product = _hessian_product(
    neuron,
    prunable(neuron),
    torch.tensor([[1.0, -1.0]]),
    None,
    half_square,
    [torch.tensor([[-1.0, 1.0]])],
)
print(product)
assert product[0].tolist() == [[-2.0, 2.0]]


# %% [markdown]
# The logits are first divided by T = 200, as in the GraSP authors' code. This makes the outputs of an untrained head nearly equal, so $H g$ reflects the weights and not the confidence of a random head. Second derivatives lose too much in half precision, so `autocast`
# is ignored here.

# %%
#| export
def grasp_score(
    model: nn.Module,  # The network with its start weights
    batches: Iterable,  # Yields (input, target, group code); the paper: one class-balanced batch
    loss: Callable,  # loss(output, target) → scalar, the mean over the batch
    groups: int = 1,  # Not needed
    ignore: Iterable[str] = (),  # Layers to leave dense
    # Ignored: second derivatives are computed in the type of the weights
    autocast: torch.dtype | None = None,
    seed: int = 0,  # Not needed
    temperature: float = 200,  # T, by which the outputs are divided
) -> dict[str, Tensor]:  # Layer name → w ⊙ (H g), shape `(1, *weight)`, of either sign
    """Effect of each weight on the gradient flow. Raises: ValueError if there is no batch, or its
    loss is not finite.

    Source: Wang, Zhang, Grosse 2020 (arXiv 2002.07376), with opposite sign; T from their code."""
    layers, batches = prunable(model, ignore), list(batches)
    flat = Watched(lambda out, y: loss(out / temperature, y))
    with _batch_statistics(model):
        g = _mean_over(
            layers, batches, lambda x, y: weight_gradients(model, layers.values(), x, y, flat)
        )
        flat.check()
        Hg = _mean_over(
            layers, batches, lambda x, y: _hessian_product(model, layers, x, y, flat, g)
        )
    return _times_weight(layers, Hg)


# %% [markdown]
# By hand, the same loss at weights (2, 3): the gradient is (−1, 1), so $Hg$ = (−2, 2) and the scores are −4 and 6. Removing the first weight makes the squared length of the gradient grow from 2 to 18. Removing the second makes it 8, also more, although to first order it
# should shrink. The first weight is removed.

# %%
xy = [(torch.tensor([[1.0, -1.0]]), None, 0)]
print(grasp_score(neuron, xy, half_square, temperature=1))
assert grasp_score(neuron, xy, half_square, temperature=1)["0"].tolist() == [[[-4.0, 6.0]]]
# g and H each fall by T² here
assert grasp_score(neuron, xy, half_square)["0"].allclose(torch.tensor([[[-4.0, 6.0]]]) / 200**4)
assert select_top(grasp_score(neuron, xy, half_square)["0"], torch.ones(1, 2) > 0, 1).tolist() == [
    [False, True]
]
# two parts: L = ¼ w₀² + w₁², g = (1, 6), H g = (½, 12)
pair = [(torch.tensor([[1.0, 0.0]]), None, 0), (torch.tensor([[0.0, 2.0]]), None, 0)]
assert grasp_score(neuron, pair, half_square, temperature=1)["0"].tolist() == [[[1.0, 36.0]]]


# %% [markdown]
# The check against the definition again uses no derivatives. The whole Hessian of the twelve weights comes from the loss at four neighbours of each pair, the gradient from two neighbours of each weight, and $Hg$ from a matrix product. T is 1, because rounding would dominate the
# second differences of a loss that hardly changes.

# %%
def numeric_hessian_gradient(model, e=1e-3):
    "H g over all prunable weights from values of the loss alone"
    places = [(n, i) for n, m in prunable(model).items() for i in range(m.weight.numel())]

    def value(*moves):
        return loss_with(model, [(*places[a], step * e) for a, step in moves])

    slopes = torch.tensor(
        [(value((a, 1)) - value((a, -1))) / (2 * e) for a in range(len(places))]
    ).double()

    def bend(a, b):
        return (
            value((a, 1), (b, 1))
            - value((a, 1), (b, -1))
            - value((a, -1), (b, 1))
            + value((a, -1), (b, -1))
        ) / (4 * e * e)

    return (
        torch.tensor(
            [[bend(a, b) for b in range(len(places))] for a in range(len(places))]
        ).double()
        @ slopes
    )


weights = torch.cat([m.weight.detach().flatten() for m in prunable(small).values()])
numeric = weights * numeric_hessian_gradient(small)
exactly = torch.cat(
    [s.flatten() for s in grasp_score(small, some, F.cross_entropy, temperature=1).values()]
)
off = float((exactly - numeric).abs().max())
print(
    f"scores from {float(exactly.min()):.4f} to {float(exactly.max()):.4f}, largest difference"
    f" {off:.1e}"
)
torch.testing.assert_close(exactly, numeric, rtol=1e-4, atol=1e-6)
assert exactly.min() < 0 < exactly.max()


# %% [markdown]
# With T = 200 only the product is checked, by the change of the gradient along itself, $(\nabla L(\theta + \epsilon g) - \nabla L(\theta - \epsilon g)) / 2\epsilon$. The same check runs on a network with batch norm in front of its weights, whose Hessian
# includes the statistics of the batch.

# %%
def along_the_gradient(model, e, temperature=200):
    "H g from two gradients"

    def flat(out, y):
        return F.cross_entropy(out / temperature, y)

    def gradient(net):
        layers = prunable(net)
        with _batch_statistics(net):
            return _mean_over(
                layers, some, lambda x, y: weight_gradients(net, layers.values(), x, y, flat)
            )

    g = gradient(model)

    def moved(step):
        there = copy.deepcopy(model)
        with torch.no_grad():
            for layer, d in zip(prunable(there).values(), g):
                layer.weight += step * d
        return gradient(there)

    return [(up - down) / (2 * e) for up, down in zip(moved(e), moved(-e))]


normed = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
for model in (small, normed):
    scores = grasp_score(model, some, F.cross_entropy)
    for (n, layer), product in zip(prunable(model).items(), along_the_gradient(model, e=0.1)):
        numeric = layer.weight.detach() * product
        torch.testing.assert_close(scores[n][0], numeric, rtol=1e-4, atol=1e-12)
        off = float((scores[n][0] - numeric).abs().max())
        print(
            f"layer {n}: largest score {float(numeric.abs().max()):.2e}, largest difference"
            f" {off:.1e}"
        )
assert normed[1].running_mean.abs().max() == 0 and normed[1].training  # the network is unchanged
assert all(p.grad is None for m in (small, normed) for p in m.parameters())

# %% [markdown]
# A batch with a loss of NaN raises an error:

# %%
broken = [(some[0][0] * torch.nan, some[0][1], 0)]
for score in (snip_score, grasp_score):
    try:
        score(small, broken, F.cross_entropy)
    except ValueError as e:
        print(e)
        assert "NaN or infinite" in str(e)
    else:
        raise AssertionError("a loss that is NaN was accepted")

# %% [markdown]
# On a pruned network a removed weight scores 0 and does not enter $H$ or $g$. The iterative forms of both methods follow: score, prune a little, score again, without training in between.

# %%
net = deep_net(depth=3)
batch = [(torch.randn(12, 3, 8, 8), torch.arange(12) % 3, 0)]
for score in (snip_score, grasp_score):
    again = copy.deepcopy(net)
    prune(
        again,
        0.8,
        lambda m: score(m, batch, F.cross_entropy),
        select_top,
        keep=0.6,
        scope="global",
        on_step=print,
    )
    print({n: int(m.sum()) for n, m in get_masks(again).items()})
gone = apply_masks(copy.deepcopy(small), {"0": torch.tensor([[False, True]] * 3)})
for score in (snip_score, grasp_score):
    assert (score(gone, some, F.cross_entropy)["0"][0] != 0).tolist() == [[False, True]] * 3
assert sum(int(m.sum()) for m in get_masks(again).values()) == int(
    0.2 * sum(m.numel() for m in get_masks(again).values())
)

# %% [markdown]
# A layer whose scores are all negative is not a dead layer, so the selector does not fall back to magnitude:

# %%
scores = {"a": torch.tensor([[-3.0, -1.0, -2.0]])}
kept = select_masks(
    scores, {"a": torch.ones(3) > 0}, {"a": torch.tensor([9.0, 1.0, 1.0])}, 0.5, select_top
)
print(kept)
assert kept["a"].tolist() == [False, True, False]


# %% [markdown]
# ## A class-balanced batch
#
# GraSP's batch has the same number of images of each class, ten in the authors' code: a class missing from a small batch would have no gradient to preserve. With several heads an image counts for each head, so
# the rows are drawn head by head, only as many as a class still lacks.

# %%
#| export
def _fill_up(drawn: Tensor, order: Tensor, head: Tensor, each: int):
    "Mark rows of `order` as drawn, in place, until each class has `each` rows or none is left."
    for c in head.unique():
        mine = order[(head == c)[order] & ~drawn[order]]
        lacking = each - int((head[drawn] == c).sum())
        drawn[mine[: max(0, lacking)]] = True


# %% [markdown]
# Six images, three of class 0, two of class 1 and one of class 2, taken from the back. Image 5 is already drawn and is the only one of its class, so class 2 stays one short. For a second head, one of the classes already has enough images.

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
    each: int = 10,  # Images of each class of each head, or all if there are fewer
    seed: int = 0,  # Seed of the draw
) -> Tensor:  # Indices into `labels`, shuffled, so they can be split into parts
    """Draw rows with at least `each` of every class of every head; with one head exactly `each`.

    Source of 10: the public code."""
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
