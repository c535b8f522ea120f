# %% [markdown]
# # Recovery losses
#
# > How a pruned network is retrained: on the worst group, on the worst images, on balanced groups

# %%
#| default_exp methods.recoveries

# %%
#| export
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairgrape.methods.scores import stream
from fairgrape.networks.models import image_losses

# %%
import math


# %% [markdown]
# A pruning method is a score, a selector, a schedule, and a way to *recover*: what the network is trained on between the steps and after the last one. The plain way minimises the mean loss over all images. A group with few images then has little say in what the network relearns.
#
# There are six ways. Three are on this page, because they are variants of one idea: give some images more weight. The others have a page each: the [performance-weighted loss](07_performance.ipynb) and [constrained accuracy gaps](08_constrained.ipynb).
#
# | `recover` | trained on | needs | source |
# |---|---|---|---|
# | `plain` | the mean loss | – | – |
# | `performance-weighted` | images that the dense network found hard count more; its outputs are the labels | the dense network | arXiv 2211.10285 |
# | `constrained` | the mean loss, with a bound on each group's excess drop of accuracy | groups, the dense network | arXiv 2310.20673 |
# | `worst-group` | groups weighted by an exponentiated gradient | groups | arXiv 1911.08731 |
# | `tail` | the images with the largest losses | – | arXiv 2010.05893 |
# | `balanced` | as many images of each group in an epoch | groups | arXiv 1911.08731 |
#
# The dense network is always trained on the mean loss. Each of these ways goes with any score, selector and scope. The groups are the compared ones.
#
# ## The seam
#
# The training loop knows a recovery by four calls. `rows` chooses the images of an epoch. `losses` gives the loss of each image of a batch. If `whole` is true, `weights` then sees three numbers of every image of the batch (in all processes): its loss, whether it is right, and its group, and weights the images. A weight of 1 everywhere is the mean loss.
# `begin` starts a training: the state, plain values only, is part of the journal's facts, so an interrupted training resumes with the same bits. Each training (after step 1, after step 2, …, the final one) begins with a new state, as it begins with a new optimizer; the state is kept from one stage of a training to the next.

# %%
#| export
@dataclass(frozen=True)
class Reference:
    "What a recovery may need to know before the first pruning step."

    dense: nn.Module  # The dense network; a recovery that needs it later copies it
    groups: Tensor  # Group of each training image, shape `(n,)`
    names: tuple[str, ...]  # Names of the groups
    # () → whether the dense network is right on each training image, from 0 to 1, shape `(n,)`
    right: Callable[[], Tensor]
    tolerance: float = 2.0  # Bound of a group's excess drop, in percentage points


class Recovery:
    "Retraining on the mean loss, and the base of the other ways."

    whole = False  # Whether the images' weights depend on the whole batch
    grouped = False  # Whether it needs groups

    @classmethod
    def of(cls, reference: Reference) -> "Recovery":
        "The recovery for a run."
        return cls()

    def fresh(self) -> dict:
        "The state at the beginning of a training: plain values."
        return {}

    def begin(
        self,
        label: str,  # The training phase
        facts: dict,  # The journal's facts, which store the state
    ):
        "Begin a training, or go on with an interrupted one."
        if facts.get("recovery", {}).get("label") != label:
            facts["recovery"] = dict(label=label) | self.fresh()
        self.state = facts["recovery"]

    def rows(
        self,
        rows: Tensor,  # Row numbers of all training images, shape `(n,)`
        groups: Tensor,  # Their groups, shape `(n,)`
        seed: int,  # The epoch's seed
    ) -> Tensor:  # Row numbers of the epoch, before they are shuffled, shape `(n,)`
        "The images of one epoch."
        return rows

    def losses(
        self,
        x: Tensor,  # Images of a batch, or of a part of it
        out: Tensor,  # Outputs of the network, shape `(m, sum of sizes)`
        y: Tensor,  # Labels, shape `(m, heads)`
        sizes: list[int],  # Number of classes of each head
    ) -> Tensor:  # In nats, shape `(m,)`
        "The loss of each image."
        return image_losses(out, y, sizes)

    def weights(
        self,
        losses: Tensor,  # Loss of each image of the batch, shape `(n,)`, float64
        right: Tensor,  # Whether it is right, the mean over the heads, shape `(n,)`
        groups: Tensor,  # Its group, shape `(n,)`
    ) -> Tensor:  # Shape `(n,)`, float64
        "The weights of a batch's images: their mean is about 1."
        return torch.ones_like(losses)

    def check(
        self,
        groups: Tensor,  # Groups of the training images, shape `(n,)`
        accumulate: int = 1,  # Parts into which a batch is divided
    ):
        "Raise ValueError if the images have no groups, or the batch would be divided."
        name = type(self).__name__
        if self.grouped and (groups.min() < 0 or len(groups.unique()) < 2):
            raise ValueError(
                f"{name} needs every training image in one of at least 2 groups: name a column of"
                " groups, or choose a recovery without groups: plain, performance-weighted, tail"
            )
        if self.whole and accumulate > 1:
            raise ValueError(
                f"accumulate = {accumulate}: {name} weights the images by the losses of the whole"
                " batch, which a divided batch does not have; set accumulate = 1, or choose"
                " plain, performance-weighted or balanced"
            )


# %%
plain, facts = Recovery(), {}
plain.begin("step 1", facts)
facts, plain.losses(None, torch.zeros(2, 2), torch.tensor([[0], [1]]), [2])

# %%
assert plain.state is facts["recovery"] and facts == dict(recovery=dict(label="step 1"))
assert plain.rows(torch.arange(3), torch.zeros(3), 0).tolist() == [0, 1, 2]
assert plain.weights(torch.rand(3), None, None).tolist() == [1, 1, 1]
assert plain.check(torch.zeros(3), accumulate=4) is None

# %% [markdown]
# ## The worst group
#
# Group distributionally robust optimisation (group DRO; Sagawa, Koh, Hashimoto, Liang 2020, arXiv 1911.08731) minimises the largest loss of any group, and not the mean. Each group $g$ has a weight $q_g$, which begins at $1/G$. At every step it is multiplied by $\exp(\eta L_g)$, with the group's mean loss $L_g$ in the batch, and the weights are normalised: exponentiated-gradient ascent. The loss to step on is $\sum_g q_g L_g$.
#
# **What the paper claims** (abstract). Without more regularisation than usual it fails: a large network fits all training images, so the worst group's training loss vanishes with the mean. With it (a stronger ℓ2 penalty, or early stopping) the worst group's accuracy rises by 10 to 40 points on a language task and two image tasks, at a high average accuracy. The claim is about training, not about pruning.
#
# **What the public code does** (kohpangwei/group_DRO, `loss.py`). The step size is $\eta$ = 0.01, as here. A group without an image in the batch has the loss 0 there: its weight changes only by the normalisation, and its share of the loss is lost in that step. Here it is the same. With `--reweight_groups` the code also draws the groups equally often. That is an option there and here a way of its own, `balanced`.

# %%
#| export
GROUP_STEP = 0.01  # η of the public code


def group_means(
    values: Tensor,  # One of each image, shape `(n,)`
    groups: Tensor,  # Its group, shape `(n,)`, int64
    count: int,  # G, how many groups there are
) -> tuple[Tensor, Tensor]:  # Mean of each group (0 without an image), and its images
    "The mean over each group's images, and their number."
    n = torch.bincount(groups, minlength=count)
    sums = torch.zeros(count, dtype=values.dtype).index_add_(0, groups, values)
    return sums / n.clamp(min=1), n


class WorstGroup(Recovery):
    """Group DRO: weights of the groups by an exponentiated gradient. Source: Sagawa et al. 2020
    (arXiv 1911.08731), Algorithm 1.
    """

    whole = grouped = True

    def __init__(
        self,
        groups: int,  # G, how many groups there are
        step: float = GROUP_STEP,  # η
    ):
        self.groups, self.step = groups, step

    @classmethod
    def of(cls, reference: Reference) -> "WorstGroup":
        return cls(len(reference.names))

    def fresh(self) -> dict:
        return dict(q=[1 / self.groups] * self.groups)

    def weights(self, losses: Tensor, right: Tensor, groups: Tensor) -> Tensor:
        "Update the groups' weights; each image has its group's weight, divided by its images."
        means, n = group_means(losses, groups, self.groups)
        q = torch.tensor(self.state["q"], dtype=torch.float64) * torch.exp(self.step * means)
        self.state["q"] = (q := q / q.sum()).tolist()
        return len(losses) * (q / n.clamp(min=1))[groups]


# %% [markdown]
# By hand, with η = ln 2: four images, of which three belong to group 0 with the mean loss 1, and one to group 1 with the loss 3. The weights ½ and ½ become ½ · 2 and ½ · 8, so ⅕ and ⅘. An image of group 0 weighs 4 · ⅕ / 3, that of group 1 weighs 4 · ⅘. The loss is ⅕ · 1 + ⅘ · 3 = 2.6.

# %%
dro = WorstGroup(2, step=math.log(2))
dro.begin("step 1", {})
losses, groups = torch.tensor([0.0, 1.0, 2.0, 3.0]).double(), torch.tensor([0, 0, 0, 1])
weights = dro.weights(losses, None, groups)
weights, dro.state, (weights * losses).mean()

# %%
exactly = torch.tensor([4 / 15, 4 / 15, 4 / 15, 16 / 5]).double()
assert torch.allclose(weights, exactly) and math.isclose((weights * losses).mean(), 2.6)
assert [round(q, 9) for q in dro.state["q"]] == [0.2, 0.8]
# a batch without group 1: ⅕ · 2 against ⅘ · 1, so ⅓ and ⅔, of which ⅓ counts
weights = dro.weights(torch.ones(2).double(), None, torch.tensor([0, 0]))
assert torch.allclose(weights, torch.full((2,), 1 / 3).double())
kept = dict(recovery=dict(label="final", q=[0.3, 0.7]))
dro.begin("final", kept)  # resumed
assert dro.state["q"] == [0.3, 0.7]
dro.begin("step 2", kept)  # another training
assert kept["recovery"]["q"] == [0.5, 0.5]
assert WorstGroup.of(Reference(None, None, ("a", "b", "c"), None)).fresh()["q"] == [1 / 3] * 3
assert WorstGroup(3).step == 0.01

# %% [markdown]
# ## The tail
#
# The conditional value at risk at level α (CVaR) is the mean loss of the α n images with the largest losses. It needs no group: a group that loses much has many of these images. With 10 images and α = 0.25 it is two and a half images.
#
# **What the paper claims** (Levy, Carmon, Duchi, Sidford 2020, arXiv 2010.05893; abstract). For convex losses, CVaR can be minimised on mini-batches with a number of gradients that depends neither on the size of the training set nor on the number of parameters. The estimate from a batch is biased, and the paper bounds the bias. The claim is about the cost of the optimisation, confirmed on MNIST and ImageNet; it is not about groups.
#
# **What the public code does** (daniellevy/fast-dro, `train.py`). The default is α = 0.1 with a penalty of 0.01 that smooths the weights. Here α = 0.1 without the penalty, which is the textbook's CVaR: in a batch of 64 images, 6.4 have all the weight. The code trains a linear layer on fixed features; here all weights are trained.

# %%
#| export
TAIL = 0.1  # α, the default of the public code


class Tail(Recovery):
    """CVaR: only the images with the largest losses count. Source: Levy et al. 2020 (arXiv
    2010.05893), the mini-batch estimate without a penalty.
    """

    whole = True

    def __init__(
        self,
        share: float = TAIL,  # α, the share of a batch's images that count
    ):
        self.share = share

    def weights(self, losses: Tensor, right: Tensor, groups: Tensor) -> Tensor:
        "1/α for the α n largest losses, the last of them in part; on a tie the first image."
        n = len(losses)
        counted = max(1.0, self.share * n)
        order = losses.argsort(descending=True, stable=True)
        part = (counted - torch.arange(n, dtype=torch.float64)).clamp(0, 1)
        return torch.zeros_like(losses).index_put_((order,), part * (n / counted))


# %% [markdown]
# By hand: four losses and α = 0.375, so one image and a half. Their weights are 4 / 1.5 and half of that; the loss is (5 + ½ · 3) / 1.5.

# %%
losses = torch.tensor([1.0, 5.0, 2.0, 3.0]).double()
weights = Tail(0.375).weights(losses, None, None)
weights, (weights * losses).mean()

# %%
assert torch.allclose(weights, torch.tensor([0, 8 / 3, 0, 4 / 3]).double())
assert math.isclose((weights * losses).mean(), 6.5 / 1.5)
assert Tail(1).weights(losses, None, None).tolist() == [1, 1, 1, 1]  # the mean loss
assert Tail().weights(losses, None, None).tolist() == [0, 4, 0, 0]  # never less than one image
assert Tail(0.5).weights(torch.ones(4).double(), None, None).tolist() == [2, 2, 0, 0]
assert Tail.of(None).share == 0.1


# %% [markdown]
# ## Balanced groups
#
# An epoch has as many images as before, the same number of each group. A small group's images come several times, a large group's only in part, another part in each epoch. So each group has the same weight in the loss, and the number of steps stays the same. (The public code of group DRO draws each image independently, with replacement. Here a group's images are shuffled and dealt out, so that none comes a third time before each has come twice.)
#
# It is the oldest remedy, and the first that others should be compared with.

# %%
#| export
class Balanced(Recovery):
    "As many images of each group in every epoch. Source: `reweight_groups` of Sagawa et al. 2020."

    grouped = True

    def rows(self, rows: Tensor, groups: Tensor, seed: int) -> Tensor:
        "Near-equally many rows of each group, dealt out from shuffles of its rows."
        codes, generator = groups.unique(), stream(seed, "balanced")
        chosen = []
        for code, part in zip(codes, torch.arange(len(rows)).tensor_split(len(codes))):
            mine = rows[groups == code]
            shuffles = range(-(-len(part) // len(mine)))
            order = [torch.randperm(len(mine), generator=generator) for _ in shuffles]
            chosen.append(mine[torch.cat(order)[: len(part)]])
        return torch.cat(chosen)


# %% [markdown]
# Ten images, seven of group 0, two of group 1, one of group 2. An epoch has 4, 3 and 3.

# %%
groups = torch.tensor([0] * 7 + [1] * 2 + [2])
rows = Balanced().rows(100 + torch.arange(10), groups, seed=0)
rows

# %%
assert groups[rows - 100].bincount().tolist() == [4, 3, 3]
assert len(set(rows[:4].tolist())) == 4  # none twice
assert sorted(rows[4:7].bincount()[107:109].tolist()) == [1, 2] and rows[7:].tolist() == [109] * 3
assert Balanced().rows(100 + torch.arange(10), groups, seed=0).equal(rows)
assert not Balanced().rows(100 + torch.arange(10), groups, seed=1).equal(rows)

# %% [markdown]
# Images without groups, and a divided batch, are refused before training:

# %%
for recovery, groups, accumulate, said in (
    (WorstGroup(2), torch.tensor([0, 0]), 1, "at least 2 groups"),
    (Balanced(), torch.tensor([0, 1, -1]), 1, "every training image"),
    (Tail(), torch.tensor([0, 0]), 2, "accumulate = 2"),
    (WorstGroup(2), torch.tensor([0, 1]), 2, "accumulate = 2"),
):
    try:
        recovery.check(groups, accumulate)
    except ValueError as e:
        print(e)
        assert said in str(e) and type(recovery).__name__ in str(e)
    else:
        raise AssertionError("a recovery that cannot work was accepted")
for recovery in (Recovery(), Balanced(), Tail(), WorstGroup(2)):
    assert recovery.check(torch.tensor([0, 1]), 1) is None
assert Balanced().check(torch.tensor([0, 1]), 4) is None
