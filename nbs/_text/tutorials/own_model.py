# %% [markdown]
# # Your own model and data
#
# > FairGRAPE on any network of Conv1d, Conv2d and Linear layers, any loader of (input, target, group), any loss

# %% [markdown]
# Nothing in the method is about faces. The library part of this package (masks, importance, selection, pruning) knows neither images nor data sets, so it can prune a network that you already have. It takes three lines:
#
# ```python
# from fairgrape.method.pruning import prune_fair
# loader = DataLoader(data, batch_size=64)       # yields (input, target, group): the training data, in a fixed order
# prune_fair(model, loader, rate=0.9, groups=2, retrain=train_a_little)
# ```
#
# Two cases follow: a network of 1-D convolutions that listens to signals, and a small transformer that reads sentences. Each has a majority and a minority whose inputs look different. Both data sets are made up here from a seed.
#
# A word on how they were made, because data that suits a method proves nothing. The data, the networks, the rates and the retraining were settled with the dense network and magnitude pruning alone, until the
# minority clearly paid for pruning at every seed that was tried. FairGRAPE was run for the first time after that.
# One thing was changed when its first results were known, though by looking at WS alone: the retraining at the end of the second case was cut from three epochs to one, since at one seed of three the disparity of WS had been 5.6 points,
# too near the 5 that is asserted below.

# %%
import copy
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fairgrape.method.importance import ByGroup, group_importance
from fairgrape.method.masks import get_masks, plain_state, prunable, sparsity
from fairgrape.method.pruning import prune, prune_fair
from fairgrape.method.schedule import schedule
from fairgrape.method.selectors import keep_count, select_top
from fairgrape.methods.scores import magnitude_score

SEED = 0


# %% [markdown]
# Your training loop stays yours. This is one for both cases; all it has to do for pruning is to train whatever weights the network shows it. The masks hold by themselves.

# %%
def fit(model, data, loss, epochs, lr=1e-3, seed=SEED):
    "Adam for some epochs, shuffled by the seed"
    order, optimizer = torch.Generator().manual_seed(seed), torch.optim.Adam(model.parameters(), lr)
    model.train()
    for _ in range(epochs):
        for x, y, _g in DataLoader(data, 64, shuffle=True, generator=order):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    return model


@torch.no_grad()
def accuracy(model, test, decide):
    "Percent right in each group"
    x, y, g = test
    right = decide(model.eval()(x)) == y
    return [100 * float(right[g == i].float().mean()) for i in (0, 1)]


# %% [markdown]
# What pruning costs a group is its drop: accuracy of the dense network minus that of the pruned one, in points. The disparity looked at here is the minority's drop less the majority's.
# Every test set has 2,000 inputs of each group, so an accuracy has a standard error of at most $\sqrt{0.25/2000}$, 1.1 points.

# %%
def table(results):
    "One row a network: accuracy of both groups, drops, disparity of the drops"
    dense = results["dense"]
    print(f"{'':28}  majority  minority   drops          disparity")
    for name, (a, b) in results.items():
        print(
            f"{name:28}  {a:8.1f}  {b:8.1f}  {dense[0] - a:5.1f} {dense[1] - b:6.1f} "
            f" {gap(dense, (a, b)):13.1f}"
        )


def gap(dense, pruned):
    return (dense[1] - pruned[1]) - (dense[0] - pruned[0])


table({"dense": (98.0, 96.0), "an example": (95.0, 86.0)})
assert gap((98.0, 96.0), (95.0, 86.0)) == 7


# %% [markdown]
# ## Signals and a 1-D convolution network
#
# Four waveforms are to be told apart: sine, square, rising and falling sawtooth. The majority's go through 2 to 4 periods in a window. The minority is a tenth of the training data, lies in a higher band (6 to 8 periods) and is quieter.
# So the network needs other filters for it, and sees little reason to give them large weights.

# %%
def signals(groups, seed):
    "Inputs `(n, 1, 64)`, waveform 0 to 3, group"
    random, n = torch.Generator().manual_seed(seed), len(groups)
    shape = torch.randint(4, (n,), generator=random)
    periods = torch.where(groups == 0, 2.0, 6.0) + 2 * torch.rand(n, generator=random)
    phase = (torch.arange(64) / 64 * periods[:, None] + torch.rand(n, 1, generator=random)) % 1
    waves = torch.stack(
        [(2 * math.pi * phase).sin(), (phase < 0.5) * 2.0 - 1, 2 * phase - 1, 1 - 2 * phase], 1
    )
    loud = torch.where(groups == 0, 1.0, 0.7)[:, None] * waves[torch.arange(n), shape]
    return (loud + 0.3 * torch.randn(n, 64, generator=random))[:, None], shape, groups


sounds = TensorDataset(*signals((torch.arange(2000) < 200).long(), SEED))
sounds_test = signals(torch.arange(4000) % 2, SEED + 1000)
assert sounds.tensors[2].bincount().tolist() == [1800, 200] and sounds_test[
    2
].bincount().tolist() == [2000, 2000]
# the seed decides everything
assert torch.equal(signals(torch.zeros(5).long(), 3)[0], signals(torch.zeros(5).long(), 3)[0])

# %%
#| fig-alt: Eight noisy signals: sine, square, rising and falling, of the majority above and, quieter, of the minority below
x, shape, g = sounds_test
fig, axes = plt.subplots(2, 4, figsize=(9, 2.6), sharex=True, sharey=True, layout="constrained")
for (group, kind), axis in zip(((i, j) for i in range(2) for j in range(4)), axes.flat):
    axis.plot(
        x[(g == group) & (shape == kind)][0, 0],
        color=("#0072B2", "#D55E00")[group],
        linestyle=("-", "--")[group],
        linewidth=1,
    )
    if group == 0:
        axis.set_title(("sine", "square", "rising", "falling")[kind], fontsize=9)
    if kind == 0:
        axis.set_ylabel(("majority", "minority")[group])


# %%
class Ear(nn.Module):
    "Three 1-D convolutions, an average over time, a linear head"

    def __init__(self):
        super().__init__()

        def layer(i, o, width):
            return (nn.Conv1d(i, o, width, padding=width // 2), nn.BatchNorm1d(o), nn.ReLU())

        self.body = nn.Sequential(
            *layer(1, 16, 7), nn.MaxPool1d(2), *layer(16, 32, 5), nn.MaxPool1d(2), *layer(32, 32, 3)
        )
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.body(x).mean(2))


torch.manual_seed(SEED)
ear = fit(Ear(), sounds, F.cross_entropy, epochs=15, lr=2e-3)
heard = {"dense": accuracy(ear, sounds_test, lambda out: out.argmax(1))}
table(heard)

# %% [markdown]
# Dense, both groups are served almost equally well, so what comes next is the work of pruning. 85 % of the weights go; the head has only 128 weights and is left dense with `ignore=`. A name that matches nothing would leave nothing dense, without a word, so it is an error:

# %%
try:
    prunable(ear, ignore=["haed"])
except ValueError as e:
    print(e)
else:
    raise AssertionError("a misspelt layer was accepted")
{name: tuple(layer.weight.shape) for name, layer in prunable(ear, ignore=["head"]).items()}


# %% [markdown]
# First magnitude (WS), in one shot, then one epoch of retraining. A method is a score, a selector and a number of steps; `keep=None` means one.

# %%
def relearn(model, step):
    fit(model, sounds, F.cross_entropy, epochs=1, seed=SEED + step)


def by_magnitude(model, rate, keep=None, **how):
    "A copy of the network, pruned by magnitude, the head left dense"
    net = copy.deepcopy(model)
    prune(
        net,
        rate,
        lambda m: magnitude_score(m, ignore=["head"]),
        select_top,
        keep,
        ignore=["head"],
        **how,
    )
    return net


heard["WS"] = accuracy(
    by_magnitude(ear, 0.85, retrain=relearn), sounds_test, lambda out: out.argmax(1)
)
table(heard)
assert gap(heard["dense"], heard["WS"]) > 5

# %% [markdown]
# The minority pays several times what the majority pays. In a test set composed like the training data a tenth of the inputs would be minority, and its loss would show as a tenth of itself.
# A disparity is made of two uncertain accuracies and two near 100 %, so its standard error is at most about 1.6 points, and the bound of 5 is three of those.
#
# Now FairGRAPE: same rate, same scope, same layer left out, the same epoch of retraining at the end. It keeps 65 % of the weights at each step and so gets an epoch of retraining after each.

# %%
loader = DataLoader(sounds, batch_size=64)
fair = copy.deepcopy(ear)
steps = prune_fair(
    fair, loader, rate=0.85, groups=2, keep=0.65, retrain=relearn, ignore=["head"], on_step=print
)
heard["FairGRAPE"] = accuracy(fair, sounds_test, lambda out: out.argmax(1))
table(heard)
# with more retraining: see below
assert gap(heard["dense"], heard["FairGRAPE"]) < gap(heard["dense"], heard["WS"]) - 5

# %% [markdown]
# Those extra epochs are an advantage that has nothing to do with groups. Three more rows take it apart: FairGRAPE in one shot, to be held against WS; then WS with as many epochs after its one shot, and magnitude in the very same steps, to be held against FairGRAPE.
# The first and the last of these pairs differ in score and selector alone.

# %%
once, long = copy.deepcopy(ear), by_magnitude(ear, 0.85)
prune_fair(once, loader, rate=0.85, groups=2, keep=None, retrain=relearn, ignore=["head"])
for step in range(len(steps)):
    relearn(long, step + 1)
stepwise = by_magnitude(ear, 0.85, keep=0.65, retrain=relearn)
for name, net in {
    "FairGRAPE, one shot": once,
    "WS, as many epochs": long,
    "magnitude, same steps": stepwise,
}.items():
    heard[name] = accuracy(net, sounds_test, lambda out: out.argmax(1))
table(heard)

# %% [markdown]
# At this seed FairGRAPE does not come out best, and one seed is no result. All five that were run (seed 0 to 4, data and network both new; measured once, so yours may differ in the last digits), the disparity in points:
#
# | | 0 | 1 | 2 | 3 | 4 | mean |
# |---|---|---|---|---|---|---|
# | WS | 26.5 | 36.8 | 47.4 | 43.8 | 40.1 | 38.9 |
# | FairGRAPE, one shot | 35.7 | 16.4 | 35.5 | 39.1 | 30.8 | 31.5 |
# | WS, as many epochs | 2.1 | 3.4 | 19.2 | 10.9 | 2.6 | 7.6 |
# | magnitude, same steps | 2.4 | 4.1 | 17.4 | 14.6 | 7.9 | 9.3 |
# | FairGRAPE | 9.7 | 8.1 | 11.3 | 9.3 | 13.4 | 10.4 |
#
# FairGRAPE reduces the disparity of WS to about a quarter, but here the extra retraining does that, not the selection: held against either magnitude row with as many epochs, FairGRAPE has the higher disparity at three seeds of five and the lower one at two.
# It varies less from seed to seed; no more can be said for it. The one-shot rows teach caution too: at seed 1 the disparity is small because the majority had fallen to 53 % as well. Never read a disparity without the accuracies beside it.

# %% [markdown]
# What does hold whatever the data: the rate to the weight, in every layer; zeros that retraining did not move; and the head, dense.

# %%
masks = get_masks(fair, ignore=["head"])
assert {n: int(m.sum()) for n, m in masks.items()} == {
    n: keep_count(m.numel(), 0.85) for n, m in masks.items()
}
assert all(
    (layer.weight[~masks[n]] == 0).all() for n, layer in prunable(fair, ignore=["head"]).items()
)
assert (fair.head.weight != 0).all() and len(steps) == len(schedule(0.85, 0.65)) == 5
f"{100 * sparsity(masks):.2f} % pruned"

# %% [markdown]
# ### One budget for the whole network
#
# With `scope="global"` the layers compete for one budget, and shares are kept over all of them together. Here is where the weights would stay, in one step and without retraining, just to look. The last convolution would be left with one weight in a hundred. How many a layer can lose is another question, which only retraining answers:

# %%
glob = copy.deepcopy(ear)
prune_fair(glob, loader, rate=0.85, groups=2, keep=None, scope="global", ignore=["head"])
kept = {n: float(m.float().mean()) for n, m in get_masks(glob, ignore=["head"]).items()}
for name, fraction in kept.items():
    print(f"{name}: {100 * fraction:.0f} % kept")
sizes = {n: m.numel() for n, m in masks.items()}
assert sum(int(m.sum()) for m in get_masks(glob, ignore=["head"]).values()) == keep_count(
    sum(sizes.values()), 0.85
)
assert max(kept.values()) > min(kept.values()) + 0.05  # no longer the same fraction in each layer

# %% [markdown]
# ### Taking the network home
#
# Whoever uses the pruned network need not know about masks. `plain_state` gives the weights under their ordinary names, zeros included, and they load strictly into a network that was never pruned:

# %%
home = Ear()
home.load_state_dict(plain_state(fair), strict=True)
with torch.no_grad():
    assert torch.equal(home.eval()(sounds_test[0]), fair.eval()(sounds_test[0]))
f"{int((home.body[4].weight == 0).sum())} of {home.body[4].weight.numel()} weights of body.4 are 0"


# %% [markdown]
# ## Sentences and a transformer
#
# No convolution at all this time, and a loss of one's own. A sentence is 12 tokens of filler, in which one word is good or bad and a negation may stand anywhere; the negation turns the meaning round. A minority of 15 % speaks
# a dialect: same filler, but good and bad words of its own and its own negation. Neither token alone tells the answer, so the network must learn the interaction once for each dialect.

# %%
def sentences(groups, seed):
    "Tokens `(n, 12)` of 38, whether the meaning is good (0. or 1.), group"
    random, n = torch.Generator().manual_seed(seed), len(groups)
    good, negated = torch.randint(2, (2, n), generator=random)
    # 0 to 19: filler that both dialects share
    tokens = torch.randint(20, (n, 12), generator=random)
    place = torch.rand(n, 12, generator=random).argsort(1)[:, :2]
    # 20 to 27 and 28 to 35: four bad, four good words each
    word = 20 + 8 * groups + 4 * good + torch.randint(4, (n,), generator=random)
    tokens[torch.arange(n), place[:, 0]] = word
    tokens[negated == 1, place[negated == 1, 1]] = 36 + groups[negated == 1]
    return tokens, (good ^ negated).float(), groups


texts = TensorDataset(*sentences((torch.arange(2000) < 300).long(), SEED))
texts_test = sentences(torch.arange(4000) % 2, SEED + 1000)
for tokens, y, group in zip(*(t[:4] for t in texts_test)):
    print(int(group), tokens.tolist(), "good" if y else "bad")

tokens, meaning, g = texts_test
minority_only = ((tokens >= 28) & (tokens <= 35)) | (tokens == 37)
assert not minority_only[g == 0].any() and minority_only[g == 1].any(1).all()
# guessing is right half the time, in both
assert all(abs(float(meaning[g == i].mean()) - 0.5) < 0.04 for i in (0, 1))


# %% [markdown]
# `nn.MultiheadAttention` packs its three input matrices in a bare parameter that belongs to no Linear, and is left dense (with a warning). Written with four Linear layers, attention is pruned like everything else. The embedding is a lookup table, not a Linear, and stays whole; the first call warns of its share of the weights.

# %%
class Block(nn.Module):
    "A transformer layer: attention and a small perceptron, each with its norm"

    def __init__(self, d, heads=4):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x):
        z = self.norm1(x)
        q, k, v = (
            m(z).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for m in (self.query, self.key, self.value)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Reader(nn.Module):
    "Embedding, two layers, mean over the tokens, one logit"

    def __init__(self, d=32):
        super().__init__()
        self.words, self.blocks = nn.Embedding(38, d), nn.Sequential(Block(d), Block(d))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 1)

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.words(tokens)).mean(1)))[:, 0]


torch.manual_seed(SEED)


def decide(logit):
    return (logit > 0).float()


reader = fit(Reader(), texts, F.binary_cross_entropy_with_logits, epochs=12, lr=3e-3)
read = {"dense": accuracy(reader, texts_test, decide)}
table(read)


# %% [markdown]
# 90 % is pruned, with an epoch of retraining after each step again. The loss is any function of output and target that is a mean over the batch, here the binary cross-entropy of a logit. It is handed over, for the importance, beside the loader:

# %%
def reread(model, step):
    fit(model, texts, F.binary_cross_entropy_with_logits, epochs=1, seed=SEED + step)


read["WS"] = accuracy(by_magnitude(reader, 0.9, retrain=reread), texts_test, decide)

many = DataLoader(texts, batch_size=64)
fair_how = dict(
    rate=0.9, groups=2, loss=F.binary_cross_entropy_with_logits, retrain=reread, ignore=["head"]
)
fair = copy.deepcopy(reader)
steps = prune_fair(fair, many, keep=0.65, on_step=print, **fair_how)
read["FairGRAPE"] = accuracy(fair, texts_test, decide)

once, long = copy.deepcopy(reader), by_magnitude(reader, 0.9)
prune_fair(once, many, keep=None, **fair_how)
for step in range(len(steps)):
    reread(long, step + 1)
stepwise = by_magnitude(reader, 0.9, keep=0.65, retrain=reread)
for name, net in {
    "FairGRAPE, one shot": once,
    "WS, as many epochs": long,
    "magnitude, same steps": stepwise,
}.items():
    read[name] = accuracy(net, texts_test, decide)
table(read)

# %%
masks = get_masks(fair, ignore=["head"])
assert (
    gap(read["dense"], read["WS"]) > 5
    and gap(read["dense"], read["FairGRAPE"]) < gap(read["dense"], read["WS"]) - 5
)
assert (
    all(int(m.sum()) == keep_count(m.numel(), 0.9) for m in masks.values())
    and len(masks) == 12
    and (fair.head.weight != 0).all()
)
assert all(
    (layer.weight[~masks[n]] == 0).all() for n, layer in prunable(fair, ignore=["head"]).items()
)


# %% [markdown]
# The same five seeds, the disparity in points:
#
# | | 0 | 1 | 2 | 3 | 4 | mean |
# |---|---|---|---|---|---|---|
# | WS | 17.4 | 21.7 | 25.4 | 37.1 | 15.9 | 23.5 |
# | FairGRAPE, one shot | 7.7 | 32.5 | 9.0 | 34.8 | 10.9 | 19.0 |
# | WS, as many epochs | 0.0 | 5.4 | 0.5 | 2.2 | 0.0 | 1.6 |
# | magnitude, same steps | 2.6 | 21.1 | 9.0 | 5.4 | 0.7 | 7.8 |
# | FairGRAPE | 1.2 | 0.6 | 0.7 | 1.0 | 0.1 | 0.7 |
#
# In the same steps with the same retraining FairGRAPE's disparity is lower at all five seeds, and it never exceeds 1.2 points. That part is owed to score and selection. Against WS with as many epochs after its one shot there is less to see:
# lower at two seeds, by 4.8 and 1.2 points, and higher at three, by about a point at most. In one shot it is lower at four of five, though at three of these the majority pays more than under WS.
#
# So two tasks, two answers. What the method buys depends on task, network, rate and above all on how much retraining the others get. Give a baseline the same epochs before you believe a difference.

# %% [markdown]
# ## A selector of your own
#
# A selector is one function from importance `(G, *weight)` to a mask. Suppose you would rather judge a weight by the group that needs it most. Scale each group's importance to a sum of 1, take the larger, keep the top.
#
# Group 0 has importances 6, 5, 1 and group 1 has 0, 0, 2. The shares are 1/2, 5/12, 1/12 and 0, 0, 1; of two weights, the first and the last stay.

# %%
def select_dearest(importance: Tensor, mask: Tensor, k: int, weight=None, layer=None) -> Tensor:
    "Keep the weights that matter most to any one group"
    shares = importance / importance.flatten(1).sum(1).clamp_min(1e-30).view(-1, *[1] * mask.dim())
    return select_top(shares.amax(0, keepdim=True), mask, k, weight, layer)


assert select_dearest(
    torch.tensor([[6.0, 5.0, 1.0], [0.0, 0.0, 2.0]]), torch.ones(3) > 0, k=2
).tolist() == [True, False, True]

# %% [markdown]
# It goes into the same loop, with the group importance as the score. In one shot, to be held against the one-shot rows above it:

# %%
own, batches = copy.deepcopy(reader), ByGroup(many, groups=2)


def score(m):
    return group_importance(
        m, batches, F.binary_cross_entropy_with_logits, groups=2, ignore=["head"]
    )


prune(own, 0.9, score, select_dearest, keep=None, retrain=reread, ignore=["head"])
read["dearest, one shot"] = accuracy(own, texts_test, decide)
table(read)
assert all(
    int(m.sum()) == keep_count(m.numel(), 0.9) for m in get_masks(own, ignore=["head"]).values()
)

# %% [markdown]
# Over the five seeds its disparity is 8.8, 32.6, 11.8, 30.7 and 10.2 points, much like FairGRAPE's in one shot. A new idea costs three lines here; whether it is worth more than the old one, runs must tell.
