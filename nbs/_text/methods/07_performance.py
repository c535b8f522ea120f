# %% [markdown]
# # Performance-weighted loss
#
# > Retrain on what the dense network says, and more on what it found hard

# %%
#| default_exp methods.performance

# %%
#| export
import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairgrape.methods.recoveries import Recovery, Reference
from fairgrape.networks.models import split_heads

# %%
import math

# %% [markdown]
# Meyer and Wong (*A Fair Loss Function for Network Pruning*, 2022, arXiv 2211.10285) change the loss of an image in two ways, both by what the network said *before* pruning. With the dense network's probability $p$ of the true class, an image has the weight
#
# $$w = \theta + (1 - \theta)\,(1 - p)^{\gamma}$$
#
# so an image that the dense network was sure of has the weight θ, and one that it got wrong has nearly 1. And its label is soft: the dense network's probabilities, if its most likely class is the true one, otherwise the true class ("corrected" soft labels). The loss is the mean of $w$ times the cross-entropy with that label. It needs no groups.
#
# **What the paper claims** (abstract). With this loss, existing pruning methods introduce less bias; shown on CelebA, Fitzpatrick17k and CIFAR-10.
#
# **What the public code does** (robbiemeyer/pw_loss_pruning). θ is 0.75 and γ is 5 by default (`--sw_min_weight`, `--sw_gamma`); both are the defaults here. It uses the loss for the *scores* of pruning and for the retraining; here only for the retraining, so that it goes with any score.
# Where the training images are augmented it runs the dense network, in evaluation mode, on each augmented batch (`GenericRetrainer`); so does this page. The code prunes channels and retrains with AdamW and a cosine schedule, in one round; here the schedule is the run's. The weights are computed from the dense network's own probabilities, not from the corrected labels.
#
# With several heads, each head has its own weight and label, and the image's loss is the mean over the heads. The code has one head only.

# %%
#| export
LEAST_WEIGHT = 0.75  # θ, the default of the public code
HARDNESS = 5.0  # γ, the default of the public code


def performance_weights(
    p: Tensor,  # The dense network's probability of the true class, any shape
    least: float = LEAST_WEIGHT,  # θ
    gamma: float = HARDNESS,  # γ
) -> Tensor:  # θ + (1 − θ) (1 − p)^γ, same shape
    "The weight of an image. Source: Meyer and Wong 2022."
    return least + (1 - least) * (1 - p) ** gamma


# %% [markdown]
# By hand, with θ = ½ and γ = 2: certainty gives ½, p = ½ gives ½ + ½ · ¼, and p = 0 gives 1.

# %%
performance_weights(torch.tensor([1.0, 0.5, 0.0]), least=0.5, gamma=2)

# %%
assert performance_weights(torch.tensor([1.0, 0.5, 0.0]), 0.5, 2).tolist() == [0.5, 0.625, 1]
assert math.isclose(performance_weights(torch.tensor(0.5)).item(), 0.75 + 0.25 / 32, rel_tol=1e-6)


# %%
#| export
def corrected_labels(
    probabilities: Tensor,  # The dense network's, shape `(n, classes)`
    y: Tensor,  # True classes, shape `(n,)`
) -> Tensor:  # Shape `(n, classes)`
    "The dense network's probabilities where it is right, else the true class."
    right = (probabilities.argmax(1) == y)[:, None]
    return torch.where(right, probabilities, F.one_hot(y, probabilities.shape[1]).to(probabilities))


# %%
said, true = torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1])
corrected_labels(said, true)

# %%
assert corrected_labels(said, true).tolist() == [[0.75, 0.25], [0, 1]]


# %% [markdown]
# The recovery holds a copy of the dense network, because the network itself is pruned in place. Each step runs it once without gradients, so a step costs about a third more.

# %%
#| export
class PerformanceWeighted(Recovery):
    "The performance-weighted loss. Source: Meyer and Wong 2022 (arXiv 2211.10285)."

    def __init__(
        self,
        dense: nn.Module,  # The dense network; a copy is kept
        least: float = LEAST_WEIGHT,  # θ
        gamma: float = HARDNESS,  # γ
    ):
        self.dense, self.least, self.gamma = copy.deepcopy(dense).eval(), least, gamma

    @classmethod
    def of(cls, reference: Reference) -> "PerformanceWeighted":
        return cls(reference.dense)

    def losses(self, x: Tensor, out: Tensor, y: Tensor, sizes: list[int]) -> Tensor:
        "The weighted cross-entropy of each image with its corrected label."
        with torch.no_grad():
            dense = self.dense(x)
        kind, found = torch.promote_types(out.dtype, torch.float32), []
        heads = zip(split_heads(out.to(kind), sizes), split_heads(dense.to(kind), sizes), y.T)
        for head, before, true in heads:
            probabilities = before.softmax(1)
            p = probabilities.gather(1, true[:, None])[:, 0]
            weight = performance_weights(p, self.least, self.gamma)
            label = corrected_labels(probabilities, true)
            found.append(weight * F.cross_entropy(head, label, reduction="none"))
        return torch.stack(found).mean(0)


# %% [markdown]
# By hand, with θ = ½ and γ = 1: the dense network says ¾ and ¼, the pruned network ½ and ½, so every cross-entropy is ln 2. The image of class 0 has p = ¾ and the weight ½ + ½ · ¼; that of class 1 has p = ¼ and the weight ½ + ½ · ¾.

# %%
class Says(nn.Module):
    "A network with the same output for each image."

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x):
        return self.logits.repeat(len(x), 1)


before = Says(math.log(3), 0.0)
ours = PerformanceWeighted(before, least=0.5, gamma=1)
x, y = torch.zeros(2, 3), torch.tensor([[0], [1]])
ours.losses(x, torch.zeros(2, 2), y, [2]) / math.log(2)

# %%
expected = torch.tensor([0.625, 0.875])
assert torch.allclose(ours.losses(x, torch.zeros(2, 2), y, [2]) / math.log(2), expected)
# the label of the first image is ¾, ¼; the second one's is corrected to class 1
out = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
first, second = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
assert torch.allclose(
    ours.losses(x, out, y, [2]),
    expected * torch.tensor([0.75 * first + 0.25 * second, second]),
)
# two heads: the mean
two_heads = PerformanceWeighted(Says(math.log(3), 0.0, math.log(3), 0.0), least=0.5, gamma=1)
both = two_heads.losses(x[:1], torch.zeros(1, 4), torch.tensor([[0, 1]]), [2, 2])
assert math.isclose(both.item() / math.log(2), (0.625 + 0.875) / 2, rel_tol=1e-6)
with torch.no_grad():
    before.logits.zero_()  # the dense network is pruned; the copy is not
assert torch.allclose(ours.losses(x, torch.zeros(2, 2), y, [2]) / math.log(2), expected)
assert ours.dense.training is False and not ours.whole and not ours.grouped
assert ours.losses(x, torch.zeros(2, 2).bfloat16(), y, [2]).dtype == torch.float32
chosen = PerformanceWeighted.of(Reference(before, None, (), None))
assert (chosen.least, chosen.gamma) == (0.75, 5.0) and chosen.dense is not before

# %% [markdown]
# A pruned network that says what the dense network said has the smallest loss that its labels allow, the entropy of the soft labels:

# %%
weight, share = 0.625, torch.tensor([0.75, 0.25])
least = float(weight * -(share * share.log()).sum())
same, surer = (
    ours.losses(x[:1], torch.tensor([[scale * math.log(3), 0.0]]), y[:1], [2]).item()
    for scale in (1, 2)
)
print(f"as the dense network: {same:.4f}; surer: {surer:.4f}")
assert math.isclose(same, least, rel_tol=1e-5) and surer > same
