# %% [markdown]
# # Methods
#
# > FairGRAPE and the eight methods beside it, each as a score, a selector and a start on the same seams

# %%
#| default_exp baselines

# %%
#| export
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairgrape.importance import group_importance, measuring, weight_gradients
from fairgrape.masks import original, prunable
from fairgrape.selection import Select, select_fair, select_top

# %%
import copy
import torch.nn.functional as F

from fairgrape.masks import apply_masks, get_masks, plain_state
from fairgrape.pruning import prune
from fairgrape.selection import select_masks


# %% [markdown]
# What tells two pruning methods apart is seldom their loop. It is the number that a weight is given (the score), who gets a say in the choice (the selector), which weights are looked at (the trained ones or those that training
# starts from), and whether it is done at once or in steps. A method here is those few things and nothing else. The loop, the retraining and the counting are shared, so a difference in results is a difference of method.
#
# Every score has one signature, `score(model, batches, loss, groups, ignore=(), autocast=None, seed=0)`, and gives for each layer a tensor `(G, *weight)`: the more of it, the sooner a weight stays. A score takes what it needs
# and lets the rest pass.
#
# ## Magnitude
#
# The oldest score: small weights go. Once from the trained network it is the paper's baseline WS; in steps with retraining between them it is iterative magnitude pruning (both Han et al. 2015); in steps with a rewind it is the
# lottery ticket (Frankle & Carbin 2019).

# %%
#| export
def magnitude_score(
    model: nn.Module,          # The network
    *_,                        # Batches, loss, groups: not needed
    ignore: Iterable[str] = (),# Layers to leave dense
    **__,                      # Settings of other scores
) -> dict[str, Tensor]:        # Layer name → |w|, shape `(1, *weight)`: one group of everybody
    "The weights' magnitude as their score. Source: Han et al. 2015; the paper's baselines WS and Lottery."
    return {name: layer.weight.detach().abs()[None] for name, layer in prunable(model, ignore).items()}


# %%
net = nn.Sequential(nn.Linear(3, 2, bias=False))
with torch.no_grad(): net[0].weight.copy_(torch.tensor([[1., -6., 2.], [5., -3., 4.]]))
print(magnitude_score(net))
assert magnitude_score(net)["0"].tolist() == [[[1., 6., 2.], [5., 3., 4.]]]
prune(net, 0.5, magnitude_score, select_top, keep=None)
assert net[0].weight.tolist() == [[0., -6., 0.], [5., 0., 4.]]


# %% [markdown]
# ## Random
#
# The floor under every method: what is a choice worth that looks at nothing? The numbers come from the seed alone, so in steps the same weights go as at once. But they must not come from the seed *as it is*: a network's initial weights are drawn with the same
# number, and torch would deal both the same stream. On a ResNet, whose constructor draws little before its head, such a random mask keeps the head's largest initial weights. So each layer has a stream of its own.

# %%
#| export
def stream(
    seed: int,       # The run's seed
    *what: str,      # What the numbers are for
) -> torch.Generator:# On the CPU, so that a GPU gets the same numbers
    "A generator that shares its stream with no other use of the seed."
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(repr((seed, *what)).encode()).digest()[:8], "big") >> 1)


# %%
[torch.rand(1, generator=g).item() for g in (stream(0, "random", "fc"), stream(0, "random", "conv1"), torch.Generator().manual_seed(0))]

# %%
assert torch.equal(torch.rand(3, generator=stream(0, "fc")), torch.rand(3, generator=stream(0, "fc"))) and stream(0).initial_seed() not in (0, stream(1).initial_seed())


# %%
#| export
def random_score(
    model: nn.Module,          # The network
    *_,                        # Batches, loss, groups: not needed
    ignore: Iterable[str] = (),# Layers to leave dense
    seed: int = 0,             # Decides everything
    **__,                      # Settings of other scores
) -> dict[str, Tensor]:        # Layer name → uniform numbers in [0, 1), shape `(1, *weight)`
    "A random number for each weight."
    return {n: torch.rand(1, *m.weight.shape, generator=stream(seed, "random", n)).to(m.weight.device) for n, m in prunable(model, ignore).items()}


# %%
dense = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5))
at_once, in_steps = copy.deepcopy(dense), copy.deepcopy(dense)
prune(at_once, 0.9, random_score, select_top, keep=None), prune(in_steps, 0.9, random_score, select_top, keep=0.5, on_step=print)
print({n: int(m.sum()) for n, m in get_masks(at_once).items()})
assert all(torch.equal(m, get_masks(in_steps)[n]) for n, m in get_masks(at_once).items())
assert [int(m.sum()) for m in get_masks(at_once).values()] == [60, 10]
assert not torch.equal(random_score(dense, seed=1)["0"], random_score(dense)["0"])


# %% [markdown]
# ## Importance, for groups and for everybody
#
# FairGRAPE's score is `group_importance`. The group-blind baseline takes the same formula with one group of everybody: whatever code a batch carries, its images count for one sum. Comparing the two, in the
# same loop, says what the groups are good for.

# %%
#| export
def group_score(
    model: nn.Module,                   # The network
    batches: Iterable,                  # Yields (input, target, group code), each batch of one group
    loss: Callable,                     # loss(output, target) → scalar, the mean over the batch
    groups: int,                        # G, how many groups there are
    ignore: Iterable[str] = (),         # Layers to leave dense
    autocast: torch.dtype | None = None,# torch.bfloat16 for mixed precision
    seed: int = 0,                      # Not needed
    **how,                              # team, keep_on: see `group_importance`
) -> dict[str, Tensor]:                 # Layer name → importance, shape `(G, *weight)`, ≥ 0
    "FairGRAPE's score: `group_importance`. Source: paper, section 3."
    return group_importance(model, batches, loss, groups, ignore, autocast, **how)


# %% [markdown]
# By hand, with one linear neuron and the loss mean(out), whose gradient is the mean input. Weights (2, 3); a batch of group 0 with the mean (2, 0) and one of group 1 with (0, 1). The squares are (2·2)² and 0 for group 0, 0 and (3·1)² for group 1.

# %%
neuron = nn.Sequential(nn.Linear(2, 1, bias=False))
with torch.no_grad(): neuron[0].weight.copy_(torch.tensor([[2., 3.]]))
mean_output = lambda out, _: out.mean()
two = [(torch.tensor([[1., 0.], [3., 0.]]), None, 0), (torch.tensor([[0., 1.]]), None, 1)]
print(group_score(neuron, two, mean_output, 2))
assert group_score(neuron, two, mean_output, 2)["0"].tolist() == [[[16., 0.]], [[0., 9.]]]


# %%
#| export
def importance_score(
    model: nn.Module,                   # The network
    batches: Iterable,                  # Yields (input, target, group code); the code is not looked at
    loss: Callable,                     # loss(output, target) → scalar, the mean over the batch
    groups: int = 1,                    # Not needed
    ignore: Iterable[str] = (),         # Layers to leave dense
    autocast: torch.dtype | None = None,# torch.bfloat16 for mixed precision
    seed: int = 0,                      # Not needed
    **how,                              # team, keep_on: see `group_importance`
) -> dict[str, Tensor]:                 # Layer name → importance, shape `(1, *weight)`, ≥ 0
    "The group-blind importance: one group of everybody. Source: the paper's baseline Importance."
    return group_importance(model, batches, loss, 1, ignore, autocast, everybody=True, **how)


# %% [markdown]
# For everybody there are two batches, so each square is halved:

# %%
print(importance_score(neuron, two, mean_output))
assert importance_score(neuron, two, mean_output)["0"].tolist() == [[[8., 4.5]]]
three = [(torch.cat([x for x, _, _ in two]), None, 0)]                              # one batch of all three: mean input (4/3, 1/3)
assert importance_score(neuron, three, mean_output)["0"].allclose(torch.tensor([[[64 / 9, 1.]]]))


# %% [markdown]
# ## Before training
#
# SNIP and GraSP prune before there is anything to remember: they look at the weights that training will start from. Those are ImageNet's with a new head, or random ones, and then batch norm's running statistics are
# still 0 and 1 and describe nothing. A deep network measured with them gives activations that grow or vanish layer by layer, and gradients of that. So at initialisation batch norm takes the batch's own statistics, as both papers' code does. Dropout
# stays off, because a coin toss is no part of either formula. Modes and running statistics are put back afterwards.

# %%
#| export
@contextmanager
def batch_statistics(
    model: nn.Module, # Batch norm in training mode within, everything else in evaluation mode
) -> Iterator[nn.Module]: # The same network
    "Within, batch norm uses the batch's statistics; afterwards modes and buffers are what they were."
    with measuring(model, training_mode=True):
        for module in model.modules(): module.training = isinstance(module, _BatchNorm)
        yield model


# %%
def deep_net(depth=10, outputs=3):
    torch.manual_seed(0)
    block = lambda i: (nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    parts = [part for i in range(depth) for part in block(i)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, outputs))

deep, x = deep_net(), torch.randn(32, 3, 8, 8)
with torch.no_grad():
    with measuring(deep): print("running statistics: the images' features differ by", f"{deep[:-1](x).std(0).mean():.5f}")
    with batch_statistics(deep): print("batch statistics:   the images' features differ by", f"{deep[:-1](x).std(0).mean():.5f}")
    with measuring(deep): faint = deep[:-1](x).std(0).mean()
    with batch_statistics(deep): clear, again = deep[:-1](x), deep[:-1](x)
assert clear.std(0).mean() > 100 * faint and torch.equal(clear, again)          # no dropout, so twice the same
assert deep.training and deep[1].running_mean.abs().max() == 0 and deep[1].num_batches_tracked == 0


# %% [markdown]
# Both take a gradient on one batch. If that batch does not fit into memory it may be cut; the gradient is then the mean over the parts.

# %%
#| export
def mean_over(
    layers: Mapping[str, nn.Module],                   # Layer name → layer
    batches: Iterable,                                 # Yields (input, target, group code)
    part: Callable[..., Iterable[Tensor | None]],      # (input, target) → for each layer a tensor like its weight, or None
) -> list[Tensor]:                                     # The means over the batches, in the layers' order
    "Average what `part` gives for each batch; None counts as 0. Raises: ValueError if there is no batch."
    sums, n = [torch.zeros_like(original(layer)) for layer in layers.values()], 0
    for x, y, _ in batches:
        for total, one in zip(sums, part(x, y)): total += 0 if one is None else one.detach()
        n += 1
    if not n: raise ValueError("no batch to take a gradient on: give at least one (input, target, group code)")
    return [total / n for total in sums]


# %%
print(mean_over(prunable(neuron), two, lambda x, y: [x.mean(0, keepdim=True)]))
assert mean_over(prunable(neuron), two, lambda x, y: [x.mean(0, keepdim=True)])[0].tolist() == [[1., 0.5]]
assert mean_over(prunable(neuron), two, lambda x, y: [None])[0].tolist() == [[0., 0.]]
try: mean_over(prunable(neuron), [], None)
except ValueError as e: print(e)
else: raise AssertionError("a mean over nothing was accepted")


# %% [markdown]
# ## SNIP
#
# Put a switch $c$ in front of each weight, $c \odot w$ with every $c = 1$, and ask how the loss moves with the switch (Lee et al. 2019): $\partial L/\partial c = w \cdot \partial L/\partial w$. Its size is the score. The paper divides by the sum over
# all weights, which changes no order, so that is left out. One batch, once, before training, and one budget for the whole network.

# %%
#| export
def snip_score(
    model: nn.Module,                   # The network with its start weights
    batches: Iterable,                  # Yields (input, target, group code); the paper: one batch
    loss: Callable,                     # loss(output, target) → scalar, the mean over the batch
    groups: int = 1,                    # Not needed
    ignore: Iterable[str] = (),         # Layers to leave dense
    autocast: torch.dtype | None = None,# torch.bfloat16 for mixed precision
    seed: int = 0,                      # Not needed
) -> dict[str, Tensor]:                 # Layer name → |w · ∂L/∂w|, shape `(1, *weight)`, ≥ 0
    "Connection sensitivity. Source: Lee, Ajanthan, Torr 2019 (arXiv 1810.02340), without its constant factor."
    layers = prunable(model, ignore)
    with batch_statistics(model):
        gradients = mean_over(layers, batches, lambda x, y: weight_gradients(model, layers.values(), x, y, loss, autocast))
    return {n: (layer.weight.detach() * gradient).abs()[None] for (n, layer), gradient in zip(layers.items(), gradients)}


# %% [markdown]
# By hand on the neuron: inputs (1, −2) and (3, 0) have the mean (2, −1); the scores are |2 · 2| and |3 · (−1)|.

# %%
one = [(torch.tensor([[1., -2.], [3., 0.]]), None, 0)]
print(snip_score(neuron, one, mean_output))
assert snip_score(neuron, one, mean_output)["0"].tolist() == [[[4., 3.]]]
assert snip_score(neuron, [(x[None], None, 0) for x in one[0][0]], mean_output)["0"].tolist() == [[[4., 3.]]]    # cut in two: as before


# %% [markdown]
# And held against the definition, with no derivative at all. A net of twelve weights in float64; every switch is moved to 1 ± 10⁻⁵ in turn and the loss taken.

# %%
def tiny_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()

small, some = tiny_net(), [(torch.randn(6, 2).double(), torch.tensor([0, 1, 1, 0, 1, 0]), 0)]

def loss_with(model, changes, temperature=1):
    "The loss on the batch after `changes`: (layer name, flat index, what to add)"
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, i, add in changes: moved.get_submodule(name).weight.view(-1)[i] += add
        return float(F.cross_entropy(moved(some[0][0]) / temperature, some[0][1]))

def by_switches(model, e=1e-5):
    "∂L/∂c of every switch, by central differences: moving c by e adds e · w to the weight"
    slope = lambda n, i, w: (loss_with(model, [(n, i, e * w)]) - loss_with(model, [(n, i, -e * w)])) / (2 * e)
    slopes = lambda n, m: torch.tensor([slope(n, i, w) for i, w in enumerate(m.weight.flatten().tolist())]).double()
    return {n: slopes(n, m).view_as(m.weight) for n, m in prunable(model).items()}

numeric, exactly = by_switches(small), snip_score(small, some, F.cross_entropy)
for n in numeric:
    off = float((exactly[n][0] - numeric[n].abs()).abs().max())
    print(f"layer {n}: largest score {float(exactly[n].max()):.3f}, largest difference {off:.1e}")
    torch.testing.assert_close(exactly[n][0], numeric[n].abs(), rtol=1e-5, atol=1e-7)


# %% [markdown]
# ## GraSP
#
# GraSP (Wang, Zhang, Grosse 2020) asks not what a weight does to the loss but what it does to training: to the squared length of the gradient, $g^\top g$, which is how fast the loss falls at first. Adding $\delta$ to the weights changes it by
# $2\,\delta^\top H g$ to first order, with the Hessian $H$. Removing one weight is $\delta = -w$, so $-w \odot (Hg)$ says how much the gradient grows when the weight goes, and GraSP *removes the largest*. Our selectors keep the largest, so the score is that with its sign turned,
# $w \odot (Hg)$: weights whose removal would let the gradient shrink most stay. It is often negative, which no other score here is.
#
# $Hg$ needs no Hessian: differentiate $g$'s product with a fixed copy of itself once more.

# %%
#| export
def hessian_product(
    model: nn.Module,               # The network
    layers: Mapping[str, nn.Module],# Layer name → layer, whose weights the Hessian is over
    x: Tensor,                      # Input of a batch
    y: Tensor,                      # Its target
    loss: Callable,                 # loss(output, target) → scalar
    vector: list[Tensor],           # For each layer a tensor like its weight
) -> list[Tensor | None]:           # H · vector, for each layer a tensor like its weight; None where it is 0
    "The Hessian of the batch's loss times a vector, by differentiating twice."
    gradients = weight_gradients(model, layers.values(), x, y, loss, create_graph=True)
    along = sum((gradient * v).sum() for gradient, v in zip(gradients, vector) if gradient is not None)
    return torch.autograd.grad(along, [original(layer) for layer in layers.values()], allow_unused=True)


# %% [markdown]
# By hand: input (1, −1), loss half the squared output, that is ½ (w₀ − w₁)². Its Hessian is ((1, −1), (−1, 1)), whatever the weights; times (−1, 1) that is (−2, 2).

# %%
half_square = lambda out, _: out.square().mean() / 2
product = hessian_product(neuron, prunable(neuron), torch.tensor([[1., -1.]]), None, half_square, [torch.tensor([[-1., 1.]])])
print(product)
assert product[0].tolist() == [[-2., 2.]]


# %% [markdown]
# The logits are divided by T = 200 first, as in the GraSP authors' code. It makes the outputs of an untrained head near equal, so that $H g$ is about the weights and not about how sure a random head happens to be. Half precision would leave little of a second derivative, so `autocast`
# is not followed here.

# %%
#| export
def grasp_score(
    model: nn.Module,                   # The network with its start weights
    batches: Iterable,                  # Yields (input, target, group code); the paper: one class-balanced batch
    loss: Callable,                     # loss(output, target) → scalar, the mean over the batch
    groups: int = 1,                    # Not needed
    ignore: Iterable[str] = (),         # Layers to leave dense
    autocast: torch.dtype | None = None,# Not followed: second derivatives are taken in the weights' own type
    seed: int = 0,                      # Not needed
    temperature: float = 200,           # T, by which the outputs are divided
) -> dict[str, Tensor]:                 # Layer name → w ⊙ (H g), shape `(1, *weight)`, of either sign
    "Gradient flow that hangs on a weight. Source: Wang, Zhang, Grosse 2020 (arXiv 2002.07376), sign turned; T from their code."
    layers, batches = prunable(model, ignore), list(batches)
    flat = lambda out, y: loss(out / temperature, y)
    with batch_statistics(model):
        g = mean_over(layers, batches, lambda x, y: weight_gradients(model, layers.values(), x, y, flat))
        Hg = mean_over(layers, batches, lambda x, y: hessian_product(model, layers, x, y, flat, g))
    return {n: (layer.weight.detach() * h)[None] for (n, layer), h in zip(layers.items(), Hg)}


# %% [markdown]
# By hand, the same loss at weights (2, 3): the gradient is (−1, 1), so $Hg$ = (−2, 2) and the scores are −4 and 6. Removing the first weight makes the gradient grow, from length² 2 to 18; removing the second makes it 8, which is growth too, but to first order it
# was to shrink. The weight that goes is the first.

# %%
xy = [(torch.tensor([[1., -1.]]), None, 0)]
print(grasp_score(neuron, xy, half_square, temperature=1))
assert grasp_score(neuron, xy, half_square, temperature=1)["0"].tolist() == [[[-4., 6.]]]
assert grasp_score(neuron, xy, half_square)["0"].allclose(torch.tensor([[[-4., 6.]]]) / 200**4)      # g and H each fall by T² here
assert select_top(grasp_score(neuron, xy, half_square)["0"], torch.ones(1, 2) > 0, 1).tolist() == [[False, True]]
pair = [(torch.tensor([[1., 0.]]), None, 0), (torch.tensor([[0., 2.]]), None, 0)]    # two parts: L = ¼ w₀² + w₁², g = (1, 6), H g = (½, 12)
assert grasp_score(neuron, pair, half_square, temperature=1)["0"].tolist() == [[[1., 36.]]]


# %% [markdown]
# Against the definition, again without a derivative. The whole Hessian of the twelve weights comes from the loss at four neighbours of each pair, the gradient from two neighbours of each weight, and their product from a matrix product. With T = 1, since rounding would drown
# second differences of a loss that hardly moves.

# %%
def numeric_hessian_gradient(model, e=1e-3):
    "H g over all prunable weights from values of the loss alone"
    places = [(n, i) for n, m in prunable(model).items() for i in range(m.weight.numel())]
    value = lambda *moves: loss_with(model, [(*places[a], step * e) for a, step in moves])
    slopes = torch.tensor([(value((a, 1)) - value((a, -1))) / (2 * e) for a in range(len(places))]).double()
    bend = lambda a, b: (value((a, 1), (b, 1)) - value((a, 1), (b, -1)) - value((a, -1), (b, 1)) + value((a, -1), (b, -1))) / (4 * e * e)
    return torch.tensor([[bend(a, b) for b in range(len(places))] for a in range(len(places))]).double() @ slopes

weights = torch.cat([m.weight.detach().flatten() for m in prunable(small).values()])
numeric = weights * numeric_hessian_gradient(small)
exactly = torch.cat([s.flatten() for s in grasp_score(small, some, F.cross_entropy, temperature=1).values()])
off = float((exactly - numeric).abs().max())
print(f"scores from {float(exactly.min()):.4f} to {float(exactly.max()):.4f}, largest difference {off:.1e}")
torch.testing.assert_close(exactly, numeric, rtol=1e-4, atol=1e-6)
assert exactly.min() < 0 < exactly.max()


# %% [markdown]
# With T = 200 the product alone is checked, by the change of the gradient along itself, $(\nabla L(\theta + \epsilon g) - \nabla L(\theta - \epsilon g)) / 2\epsilon$. The same check runs on a network with batch norm in front of its weights, whose Hessian is
# that of the batch's statistics.

# %%
def along_the_gradient(model, e, temperature=200):
    "H g from two gradients"
    flat = lambda out, y: F.cross_entropy(out / temperature, y)
    def gradient(net):
        layers = prunable(net)
        with batch_statistics(net): return mean_over(layers, some, lambda x, y: weight_gradients(net, layers.values(), x, y, flat))
    g = gradient(model)
    def moved(step):
        there = copy.deepcopy(model)
        with torch.no_grad():
            for layer, d in zip(prunable(there).values(), g): layer.weight += step * d
        return gradient(there)
    return [(up - down) / (2 * e) for up, down in zip(moved(e), moved(-e))]

normed = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
for model in (small, normed):
    scores = grasp_score(model, some, F.cross_entropy)
    for (n, layer), product in zip(prunable(model).items(), along_the_gradient(model, e=0.1)):
        numeric = layer.weight.detach() * product
        torch.testing.assert_close(scores[n][0], numeric, rtol=1e-4, atol=1e-12)
        off = float((scores[n][0] - numeric).abs().max())
        print(f"layer {n}: largest score {float(numeric.abs().max()):.2e}, largest difference {off:.1e}")
assert normed[1].running_mean.abs().max() == 0 and normed[1].training                                # and none of it left a trace
assert all(p.grad is None for m in (small, normed) for p in m.parameters())

# %% [markdown]
# Scored again on a network that is pruned already, a weight that is gone scores 0 and takes no part in $H$ or $g$. That makes the iterative forms of both: score, prune a little, score again, and nothing is trained in between.

# %%
net = deep_net(depth=3)
batch = [(torch.randn(12, 3, 8, 8), torch.arange(12) % 3, 0)]
for score in (snip_score, grasp_score):
    again = copy.deepcopy(net)
    prune(again, 0.8, lambda m: score(m, batch, F.cross_entropy), select_top, keep=0.6, scope="global", on_step=print)
    print({n: int(m.sum()) for n, m in get_masks(again).items()})
gone = apply_masks(copy.deepcopy(small), {"0": torch.tensor([[False, True]] * 3)})
for score in (snip_score, grasp_score): assert (score(gone, some, F.cross_entropy)["0"][0] != 0).tolist() == [[False, True]] * 3
assert sum(int(m.sum()) for m in get_masks(again).values()) == int(0.2 * sum(m.numel() for m in get_masks(again).values()))

# %% [markdown]
# A layer whose scores are all negative is no dead layer, so it is not handed to magnitude:

# %%
scores = {"a": torch.tensor([[-3., -1., -2.]])}
kept = select_masks(scores, {"a": torch.ones(3) > 0}, {"a": torch.tensor([9., 1., 1.])}, 0.5, select_top)
print(kept)
assert kept["a"].tolist() == [False, True, False]


# %% [markdown]
# ### A class-balanced batch
#
# GraSP's batch holds equally many images of each class, ten in the authors' code: a class that a small batch misses would have no gradient to preserve. With several heads an image counts for each of its heads, so
# the rows are drawn head after head, and only as many as a class still lacks.

# %%
#| export
def balanced_rows(
    labels: Tensor, # Class codes, shape `(n,)`, or `(n, heads)`
    each: int = 10, # Images of each class of each head, where there are so many
    seed: int = 0,  # Which ones
) -> Tensor:        # Indices into `labels`, mixed, so that they can be cut into parts
    "Draw rows in which every class of every head has at least `each`; with one head exactly so many. Source of 10: the public code."
    if each < 1: raise ValueError(f"each = {each}: draw at least 1 image of each class")
    labels = labels.reshape(len(labels), -1).cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    for head in labels.T:
        for c in head.unique():
            mine, lacking = order[(head == c)[order] & ~drawn[order]], each - int((head[drawn] == c).sum())
            drawn[mine[:max(0, lacking)]] = True
    return order[drawn[order]]


# %%
labels = torch.tensor([0] * 50 + [1] * 5 + [2] * 20)
rows = balanced_rows(labels, each=4)
print(rows.tolist(), labels[rows].bincount().tolist())
assert labels[rows].bincount().tolist() == [4, 4, 4] and labels[balanced_rows(labels, 10)].bincount().tolist() == [10, 5, 10]
assert torch.equal(balanced_rows(labels, 4), rows) and not torch.equal(balanced_rows(labels, 4, seed=1), rows)
heads = (torch.rand(500, 39, generator=torch.Generator().manual_seed(0)) < 0.3).long()
drawn = heads[balanced_rows(heads, each=10)]
assert len(drawn) < 100 and min(int(drawn.sum(0).min()), int((1 - drawn).sum(0).min())) >= 10        # 39 two-way heads share their images
try: balanced_rows(labels, 0)
except ValueError as e: print(e)
else: raise AssertionError("an empty batch was drawn")


# %% [markdown]
# ## Rewinding
#
# The lottery ticket keeps a mask and throws the training away: after each pruning step the weights that stay go back to what they were *before* training, and the round begins anew. `rewind` does that
# under masks that already hold. Batch norm's statistics go back too, since they belong to those weights.

# %%
#| export
def rewind(
    model: nn.Module,            # A network, masked or not, changed in place; its masks stay
    state: Mapping[str, Tensor], # Weights under their plain names, e.g. the network's `state_dict()` before training
) -> nn.Module:                  # The same network
    "Put earlier weights back under the masks. Raises: ValueError if `state` is not of this network. Source: Frankle & Carbin 2019."
    own = model.state_dict()
    under_mask = lambda name: ".".join([*name.split(".")[:-1], "parametrizations", name.split(".")[-1], "original"])
    home = {under_mask(name) if under_mask(name) in own else name: value for name, value in state.items()}
    masks = {name: value for name, value in own.items() if name.endswith(".parametrizations.weight.0.mask")}
    wrong = sorted(set(home) ^ set(own) - set(masks)) or sorted(n for n in home if home[n].shape != own[n].shape)
    if wrong: raise ValueError(f"weights of another network, different in {', '.join(wrong[:5])}: rewind to its own earlier state")
    model.load_state_dict(home | masks)
    return model


# %%
before = {n: t.clone() for n, t in net.state_dict().items()}
with torch.no_grad():
    for p in net.parameters(): p += 1                                     # "training"
    net[1].running_mean += 7
mask = torch.zeros(8, 3, 3, 3, dtype=torch.bool); mask[0, 0, 0] = True
apply_masks(net, {"0": mask})
rewind(net, before)
print(net[0].weight[0, 0].detach(), before["0.weight"][0, 0], sep="\n")
assert torch.equal(net[0].weight, before["0.weight"] * mask) and net[1].running_mean.abs().max() == 0
after = plain_state(net)
assert all(torch.equal(after[n], before[n]) for n in before if n != "0.weight")
for bad in ({n: t for n, t in before.items() if n != "1.bias"}, before | {"0.weight": torch.ones(8, 1, 3, 3)}):
    try: rewind(net, bad)
    except ValueError as e: print(e)
    else: raise AssertionError("another network's weights were taken")

# %% [markdown]
# In the loop it is a part of `retrain`: back to the start, then train. Here the training is noise, to show that each round begins from the same weights:

# %%
torch.manual_seed(0)
ticket, rounds = nn.Sequential(nn.Linear(6, 6)), []
start = {n: t.clone() for n, t in ticket.state_dict().items()}
def round_of(model, step):
    rewind(model, start)
    rounds.append(model[0].weight.detach().clone())
    with torch.no_grad(): model[0].parametrizations.weight.original.normal_()
prune(ticket, 0.75, magnitude_score, select_top, keep=0.5, retrain=round_of, on_step=print)
print([int((w != 0).sum()) for w in rounds])
assert [int((w != 0).sum()) for w in rounds] == [18, 9] and all(torch.equal(w[w != 0], start["0.weight"][w != 0]) for w in rounds)


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
    "A pruning method: how weights are scored and chosen, from which weights, and in which form it was published"
    name: str                              # As it is called in settings and tables
    score: Callable[..., dict[str, Tensor]]# (model, batches, loss, groups, ignore, autocast, seed) → score, `(G, *weight)`
    select: Select                         # (importance, mask, k, weight, layer) → mask
    steps: str                             # The published form: "iterative" or "one shot"
    scope: str                             # The published form: "layer" or "global"
    published: str                         # The published form, in words
    start: str = "trained"                 # Weights that are scored: "trained", or "initial", which are then trained
    rewind: bool = False                   # After each step go back to earlier weights, masks held
    rewind_to: str = "initial"             # The weights to go back to: "initial" or "trained"
    rounds: str = "short"                  # Training after each step: "short" (`retrain_epochs`) or "full" (the whole schedule)
    groups: bool = False                   # Score each group (True), or one group of everybody
    batches: str = "all"                   # Training images that the score sees: "all", "one" batch, or one "balanced" batch
    mixed: bool = False                    # Batches mix the groups and are augmented (the public code)

BLIND = (magnitude_score, random_score)    # scores that look at no image
SHARED = (group_score, importance_score)   # scores whose batches several processes can divide

_NONE = "no published form: the lottery with short rounds"
METHODS = {m.name: m for m in (
    Method("fairgrape", group_score, select_fair, "iterative", "layer", groups=True,
           published="group importance, every group keeps its share, per layer, iterative (Lin et al. 2022)"),
    Method("ws", magnitude_score, select_top, "one shot", "layer",
           published="magnitude per layer, one shot from the trained network (Han et al. 2015)"),
    Method("lottery", magnitude_score, select_top, "iterative", "layer", rewind=True, rounds="full",
           published="iterative magnitude, rewound to the weights before training, full rounds (Frankle & Carbin 2019)"),
    Method("lottery_short", magnitude_score, select_top, "iterative", "layer", _NONE, rewind=True),
    Method("importance", importance_score, select_top, "iterative", "layer",
           published="importance of one group of everybody, per layer, iterative (baseline of Lin et al. 2022)"),
    Method("snip", snip_score, select_top, "one shot", "global", start="initial", batches="one",
           published="|w · ∂L/∂w| on one batch, global, one shot before training (Lee et al. 2019)"),
    Method("grasp", grasp_score, select_top, "one shot", "global", start="initial", batches="balanced",
           published="removes the largest −w ⊙ (H g), one class-balanced batch, global, one shot before training (Wang et al. 2020)"),
    Method("random", random_score, select_top, "one shot", "layer", published="random per layer, one shot"),
    Method("magnitude", magnitude_score, select_top, "iterative", "layer",
           published="magnitude per layer, iterative with retraining (Han et al. 2015)"),
)}

# %%
{m.name: m.published for m in METHODS.values()}

# %%
assert list(METHODS) == ["fairgrape", "ws", "lottery", "lottery_short", "importance", "snip", "grasp", "random", "magnitude"]
assert [n for n, m in METHODS.items() if m.groups] == ["fairgrape"] == [n for n, m in METHODS.items() if m.select is select_fair]
assert [(n, m.scope, m.steps) for n, m in METHODS.items() if m.start == "initial"] == [(n, "global", "one shot") for n in ("snip", "grasp")]
assert [(n, m.rounds) for n, m in METHODS.items() if m.rewind] == [("lottery", "full"), ("lottery_short", "short")]

# %% [markdown]
# Each one prunes, in its published form, through the same call. Of 216, 576, 576 and 24 weights a fifth stays: of each layer, or of all together.

# %%
one_group_each = [(torch.randn(12, 3, 8, 8), torch.arange(12) % 3, g) for g in range(2)]
for m in METHODS.values():
    net = deep_net(depth=3)
    score = lambda net: m.score(net, one_group_each, F.cross_entropy, 2 if m.groups else 1, seed=0)
    prune(net, 0.8, score, m.select, keep=0.5 if m.steps == "iterative" else None, scope=m.scope)
    kept = [int(k.sum()) for k in get_masks(net).values()]
    print(f"{m.name:13}", kept)
    assert sum(kept) == 278 if m.scope == "global" else kept == [43, 115, 115, 4]


# %%
#| export
def method(
    name: str, # One of `METHODS`
) -> Method:   # The method
    "Look a method up by its name; an unknown one is a ValueError that lists those there are."
    if name not in METHODS: raise ValueError(f"method = {name!r}: choose dense (no pruning), {', '.join(METHODS)}")
    return METHODS[name]


# %%
print(method("ws").published)
assert method("ws") is METHODS["ws"]
try: method("grape")
except ValueError as e: print(e)
else: raise AssertionError("an unknown method was accepted")


# %% [markdown]
# And as a table, with the published form of each and the settings that change a run of it. A setting that is not listed does not touch the method: WS looks at no image, so `importance_cap` means nothing to it. (`keep` and the retraining count where a run is iterative.)

# %%
#| export
def touches(
    method: Method, # A method
) -> list[str]:     # Names of settings
    "The settings that change a run of this method, beyond the network's, the data's and the training's."
    short, rewound = method.rounds == "short" and method.start == "trained", method.rewind and method.rewind_to == "initial"
    steps = ["keep", *["retrain_epochs"] * short, *["retrain_lr"] * (short and not rewound)]
    images = method.batches == "all" and method.score not in BLIND and not method.mixed
    seen = ["importance_batch", "importance_cap", "importance_on"] * images
    return ["rate", "steps", "scope", *steps, *seen, *["importance_groups"] * method.groups]


# %%
print(touches(METHODS["fairgrape"]))
assert touches(METHODS["ws"]) == ["rate", "steps", "scope", "keep", "retrain_epochs", "retrain_lr"]
assert touches(METHODS["lottery_short"]) == ["rate", "steps", "scope", "keep", "retrain_epochs"]
assert touches(METHODS["snip"]) == touches(METHODS["lottery"]) == ["rate", "steps", "scope", "keep"]


# %%
#| export
def methods_table():
    "A `pandas.DataFrame` with a row for each method: its published form, and what changes it."
    import pandas as pd                             # here, since nothing else in the methods needs it
    def row(m: Method) -> dict:
        back = f"rewound to {m.rewind_to}, {m.rounds} rounds" if m.rewind else "score again" if m.start == "initial" else "retrain"
        images = "none" if m.score in BLIND else {"all": "all", "one": "one batch", "balanced": "one class-balanced batch"}[m.batches]
        return {"steps": m.steps, "scope": m.scope, "scored": f"{m.start} weights", "after a step": back,
                "groups": "each" if m.groups else "everybody", "images": images,
                "published form": m.published, "settings": ", ".join(touches(m))}
    return pd.DataFrame([row(m) for m in METHODS.values()], index=pd.Index(METHODS, name="method"))


# %%
methods_table()

# %%
table = methods_table()
assert table.loc["snip", ["steps", "scope", "scored", "images"]].tolist() == ["one shot", "global", "initial weights", "one batch"]
assert table.loc["lottery", "after a step"] == "rewound to initial, full rounds" and table.loc["grasp", "after a step"] == "score again"
assert table.loc["fairgrape", "groups"] == "each" and table.loc["ws", "images"] == "none" and len(table) == 9
