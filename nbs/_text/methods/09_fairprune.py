# %% [markdown]
# # FairPrune
#
# > A weight stays if the worse-off groups need it more than the best-off one does

# %%
#| default_exp methods.fairprune

# %%
#| export
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fairgrape.method.importance import Watched, measuring, weight_gradients
from fairgrape.method.masks import original, prunable
from fairgrape.method.sums import wide
from fairgrape.methods.scores import stream

# %%
import torch.nn.functional as F

from fairgrape.method.masks import apply_masks, get_masks
from fairgrape.method.pruning import prune
from fairgrape.method.selectors import select_top
from fairgrape.networks.models import task_loss


# %% [markdown]
# Wu, Zeng, Xu, Shi and Hu (*FairPrune: Achieving Fairness Through Pruning for Dermatological Disease Diagnosis*, 2022, arXiv 2203.02110) prune to *reduce* a disparity that the dense network has. To second order, removing the weight $w$ from a trained network changes the loss of group $g$ by
#
# $$\Delta_g = \tfrac12\, w^2\, h_g, \qquad h_g = \partial^2 L_g / \partial w^2$$
#
# (optimal brain damage; the gradient of a trained network is taken as 0). With an unprivileged group 0 and a privileged group 1 the score of a weight is $\Delta_0 - \beta\,\Delta_1$: the smallest go. Those are the weights whose removal costs the privileged group much and the unprivileged group little. β, between 0 and 1, says how much of the accuracy is at stake.
#
# **What the paper claims** (abstract). On two data sets of skin lesions, for several sensitive attributes, pruning by this difference improves fairness without a large loss of accuracy. The aim is fairness and not a small network; the abstract names no pruning rate.
#
# **What public code does.** The authors' code is not known here; there are at least two others' implementations.
#
# - Both take one ranking over all parameters of the network, biases included in the ranking. When the result is written back, biases are skipped without moving the position in that ranking, so in a network with biases the pruned positions are shifted against the scores (johanlaursen/open-fairprune, `fairprune.py`; AliGhadirii/FairPrune, `FairPrune.py`).
# - open-fairprune removes the parameters with the *largest* score, the opposite of the formula; AliGhadirii/FairPrune removes the smallest, as here.
# - open-fairprune has the exact diagonal of the Hessian (backpack's `DiagHessian`), for a network of Linear layers; AliGhadirii/FairPrune the diagonal of the generalised Gauss-Newton matrix, because that exists for a ResNet.
# - The first is one shot with β = 0.3; the second repeats 5 % at a time without training, until the disparity has not improved for five rounds, with β = 0.2.
#
# **Here** β = 0.3, and the ranking is over all prunable weights (scope `global`, one shot); both the scope and the steps are settings. Biases are not pruned. The network is retrained as with every other method. The group with the lowest mean loss on the training images is the privileged one.
#
# **More than two groups** are an extension of this project: the weight's need is that of the group that needs it most, among all but the best-off one,
#
# $$\max_{g \neq b} \Delta_g - \beta\,\Delta_b, \qquad b = \arg\min_g L_g$$
#
# For two groups this is the paper's formula.
#
# ## The curvature
#
# The diagonal of the Hessian of a network cannot be computed exactly in reasonable time, and an estimate from products with random signs (Hutchinson's) has an error of the size of a whole row of the Hessian, larger than the diagonal itself. So here $h_g$ is the diagonal of the generalised Gauss-Newton matrix, $\sum_i J_i^\top A_i J_i$: the Hessian $A_i$ of the loss in the *outputs* of image $i$, carried to the weights by the Jacobian $J_i$. It is never negative, and equals the Hessian where the network is linear in its weights. AliGhadirii/FairPrune uses it too.
#
# It takes one backward pass. Factor $A_i = F_i F_i^\top$, draw random signs $z_i$, and let $v_i = F_i z_i$, so that the mean of $v_i v_i^\top$ is $A_i$. The gradient of $\sum_i v_i \cdot out_i$ then has the mean 0 and, weight by weight, the mean square $h$. One draw is made for each batch, and the squares are averaged over the group's batches. The relative error is about $\sqrt{2/B}$ for $B$ batches: 14 % for a hundred.

# %%
#| export
def output_factor(
    out: Tensor,  # Outputs of a batch, shape `(n, C)`
    y: Tensor | None,  # Its target
    loss: Callable,  # loss(output, target) → scalar, the mean over the batch
) -> Tensor:  # F, shape `(n, C, C)`, symmetric, float64
    "A square root of each image's block of the Hessian of the loss in the outputs."
    with torch.enable_grad():
        out = out.detach().double().requires_grad_()
        (slope,) = torch.autograd.grad(loss(out, y), out, create_graph=True)
        if not slope.requires_grad:  # a loss that is linear in the outputs
            return out.new_zeros(*out.shape, out.shape[1])
        rows = [torch.autograd.grad(column.sum(), out, retain_graph=True)[0] for column in slope.T]
    values, vectors = torch.linalg.eigh(torch.stack(rows, 1).cpu())
    root = vectors * values.clamp(min=0).sqrt()[:, None] @ vectors.mT
    return root.to(out.device)


# %% [markdown]
# By hand: half the square of the only output, averaged over two images, has the second derivative ½ for each. With cross-entropy, one image and two equal outputs, the Hessian is ¼ of (1, −1; −1, 1), whose root is that divided by $\sqrt 8$.

# %%
def half_square(out, _):
    return out.square().mean() / 2


print(output_factor(torch.zeros(1, 2), torch.tensor([0]), F.cross_entropy))
root = output_factor(torch.tensor([[3.0], [5.0]]), None, half_square)
assert torch.allclose(root, torch.full((2, 1, 1), 0.5**0.5).double())
equal = output_factor(torch.zeros(1, 2), torch.tensor([0]), F.cross_entropy)[0]
assert torch.allclose(equal, torch.tensor([[1.0, -1], [-1, 1]]).double() / 8**0.5, atol=1e-8)
assert torch.allclose(equal @ equal.T, torch.tensor([[1.0, -1], [-1, 1]]).double() / 4)
assert not output_factor(torch.ones(2, 1), None, lambda out, _: out.mean()).any()


# %%
#| export
class _Curvature:
    "A scalar of a batch's outputs whose squared gradient estimates the curvature."

    def __init__(self, loss: Callable, seed: int):
        self.loss, self.seed = Watched(loss), seed

    def __call__(self, out: Tensor, y: Tensor | None) -> Tensor:
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        batch = len(self.loss.values)
        value = self.loss(out.detach(), y)
        if not value.isfinite():
            return (out * 0).sum()  # `check` says so after the pass
        generator = stream(self.seed, "fairprune", batch)
        signs = torch.randint(2, out.shape, generator=generator).double() * 2 - 1
        root = output_factor(out, y, self.loss.loss)
        return (out * (root @ signs.to(out.device)[..., None])[..., 0].to(out)).sum()


def curvatures(
    model: nn.Module,  # The trained network, in evaluation mode within
    batches: Iterable,  # Yields (input, target, group code), each batch of one group
    loss: Callable,  # loss(output, target) → scalar, the mean over the batch
    groups: int,  # G, how many groups there are
    ignore: Iterable[str] = (),  # Layers to leave dense
    autocast: torch.dtype | None = None,  # torch.bfloat16 for mixed precision
    seed: int = 0,  # Seed of the random signs
    # Layer name → h, shape `(G, *weight)`, ≥ 0; mean loss of each group, shape `(G,)`, float64
) -> tuple[dict[str, Tensor], Tensor]:
    """The diagonal of each group's Gauss-Newton matrix, estimated with one draw a batch.

    Raises: ValueError if a group has no batch, or a loss is not finite."""
    layers, measured = prunable(model, ignore), _Curvature(loss, seed)
    weights = {n: original(layer) for n, layer in layers.items()}
    sums = {
        n: torch.zeros(groups, *w.shape, dtype=wide(w), device=w.device) for n, w in weights.items()
    }
    count, losses = torch.zeros(groups, dtype=torch.int64), torch.zeros(groups).double()
    with measuring(model):
        for i, (x, y, g) in enumerate(batches):
            measured.loss.where = f"batch {i} (counted from 0) of group {int(g)}"
            slopes = weight_gradients(model, layers.values(), x, y, measured, autocast)
            for total, slope in zip(sums.values(), slopes):
                total[g] += 0 if slope is None else slope.detach().to(total.dtype).square()
            losses[g] += measured.loss.values[-1][1].double().cpu()
            count[g] += 1
    measured.loss.check()
    if (count == 0).any():
        raise ValueError(f"group {int(count.argmin())} has no batch, so it has no curvature")
    each = {n: count.to(s.device).view(-1, *[1] * (s.dim() - 1)) for n, s in sums.items()}
    return {n: s / each[n] for n, s in sums.items()}, losses / count


# %% [markdown]
# By hand: one linear neuron with the weights (2, 3) and half the squared output as the loss. Its Hessian is the mean of $x x^\top$. Group 0 has the input (2, 0), so the diagonal (4, 0) and the loss ½ · 4². Group 1 has (1, 0) and (0, 1), so (½, ½) and the mean of ½ · 2² and ½ · 3². No input shares a coordinate with another, so one draw is exact.

# %%
neuron = nn.Sequential(nn.Linear(2, 1, bias=False))
with torch.no_grad():
    neuron[0].weight.copy_(torch.tensor([[2.0, 3.0]]))
two = [(torch.tensor([[2.0, 0.0]]), None, 0), (torch.eye(2), None, 1)]
diagonals, losses = curvatures(neuron, two, half_square, 2)
diagonals["0"], losses

# %%
assert torch.allclose(diagonals["0"], torch.tensor([[[4.0, 0]], [[0.5, 0.5]]]))
assert losses.tolist() == [8, 3.25]
# two batches of group 1 are averaged
again, _ = curvatures(neuron, [*two, (torch.zeros(1, 2), None, 1)], half_square, 2)
assert torch.allclose(again["0"][1], torch.tensor([[0.25, 0.25]]))
for some, loss, said in (
    (two[:1], half_square, "group 1 has no batch"),
    (two, lambda out, _: half_square(out, _) * torch.nan, "batch 0 (counted from 0) of group 0"),
):
    try:
        curvatures(neuron, some, loss, 2)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError("a group without curvature was accepted")

# %% [markdown]
# On a small network with two heads, the mean over many draws approaches the exact diagonal, from whole Jacobians:

# %%
torch.manual_seed(0)
small = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 5)).double()
x, y = torch.randn(12, 2).double(), torch.stack([torch.arange(12) % 2, torch.arange(12) % 3], 1)


def of_two_heads(out, y):
    return task_loss(out, y, [2, 3])


def one_draw(seed):
    found, _ = curvatures(small, [(x, y, 0)], of_two_heads, 1, seed=seed)
    return torch.cat([diagonal.flatten() for diagonal in found.values()])


drawn = torch.stack([one_draw(seed) for seed in range(300)])
mean, error = drawn.mean(0), drawn.std(0) / len(drawn) ** 0.5


def outputs(*weights):
    named = dict(zip(("0.weight", "2.weight"), weights))
    return torch.func.functional_call(small, named, x)


jacobians = torch.autograd.functional.jacobian(outputs, (small[0].weight, small[2].weight))
J = torch.cat([j.flatten(2) for j in jacobians], 2)  # (12 images, 5 outputs, 21 weights)
root = output_factor(small(x), y, of_two_heads)
exact = torch.einsum("icw,icd,idw->w", J, root @ root, J)
print(f"largest distance in standard errors: {float(((mean - exact) / error).abs().max()):.1f}")
print(f"curvature up to {float(exact.max()):.3f}, standard errors up to {float(error.max()):.3f}")
assert ((mean - exact).abs() < 4 * error).all() and exact.max() > 8 * error.max()

# %% [markdown]
# ## The score

# %%
#| export
BETA = 0.3  # β of one public implementation; another has 0.2


def fairprune_score(
    model: nn.Module,  # The trained network
    batches: Iterable,  # Yields (input, target, group code), each batch of one group
    loss: Callable,  # loss(output, target) → scalar, the mean over the batch
    groups: int,  # G, how many groups there are, 2 or more
    ignore: Iterable[str] = (),  # Layers to leave dense
    autocast: torch.dtype | None = None,  # torch.bfloat16 for mixed precision
    seed: int = 0,  # Seed of the random signs
    beta: float = BETA,  # β
) -> dict[str, Tensor]:  # Layer name → score, shape `(1, *weight)`, of either sign
    """What the worse-off groups lose without a weight, less β times what the best-off loses.

    Raises: ValueError for a single group. Source: Wu et al. 2022 (arXiv 2203.02110); more than two
    groups: ours."""
    if groups < 2:
        raise ValueError("fairprune compares groups, but there is one: choose groups or a method")
    diagonals, losses = curvatures(model, batches, loss, groups, ignore, autocast, seed)
    best, scores = int(losses.argmin()), {}
    for name, layer in prunable(model, ignore).items():
        w, h = layer.weight.detach(), diagonals[name]
        lost = w.to(h.dtype).square() * h / 2
        others = torch.cat([lost[:best], lost[best + 1 :]]).amax(0)
        scores[name] = (others - beta * lost[best])[None]
    return scores


# %% [markdown]
# By hand, with β = ½. Group 1 has the lower loss. Group 0 would lose ½ · 4 · 4 = 8 with the first weight and nothing with the second; group 1 would lose 1 and 2.25. The scores are 8 − ½ and 0 − 1.125: the second weight goes. A third group with the input (0, 2) would lose 18 with it, so the second weight stays and the first goes.

# %%
three = [*two, (torch.tensor([[0.0, 2.0]]), None, 2)]
(
    fairprune_score(neuron, two, half_square, 2, beta=0.5)["0"],
    fairprune_score(neuron, three, half_square, 3, beta=0.5)["0"],
)

# %%
assert torch.allclose(
    fairprune_score(neuron, two, half_square, 2, beta=0.5)["0"], torch.tensor([[[7.5, -1.125]]])
)
assert torch.allclose(
    fairprune_score(neuron, three, half_square, 3, beta=0.5)["0"], torch.tensor([[[7.5, 16.875]]])
)
# β = 0: what the worse-off groups lose
assert torch.allclose(
    fairprune_score(neuron, two, half_square, 2, beta=0)["0"], torch.tensor([[[8.0, 0]]])
)
assert torch.allclose(
    fairprune_score(neuron, two, half_square, 2)["0"], torch.tensor([[[7.7, -0.675]]])
)
try:
    fairprune_score(neuron, two[:1], half_square, 1)
except ValueError as e:
    print(e)
else:
    raise AssertionError("a single group was compared")

# %% [markdown]
# A pruned weight has no score, and the masks of later steps lie inside those of earlier ones:

# %%
net = apply_masks(
    nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),
    {"0": torch.arange(32).view(8, 4) > 3},
)
g = torch.Generator().manual_seed(0)
by_group = [(torch.randn(9, 4, generator=g), torch.arange(9) % 2, i % 3) for i in range(6)]
scores = fairprune_score(net, by_group, F.cross_entropy, 3)
assert (scores["0"][0, 0] == 0).all() and scores["2"].shape == (1, 2, 8)
assert any((score < 0).any() for score in scores.values())
prune(
    net,
    0.8,
    lambda model: fairprune_score(model, by_group, F.cross_entropy, 3),
    select_top,
    keep=0.6,
    scope="global",
    on_step=print,
)
assert sum(int(m.sum()) for m in get_masks(net).values()) == int(0.2 * 48)
again = fairprune_score(net, by_group, F.cross_entropy, 3)
assert all(
    torch.equal(s, again[n]) for n, s in fairprune_score(net, by_group, F.cross_entropy, 3).items()
)
assert net.training and all(p.grad is None for p in net.parameters())
