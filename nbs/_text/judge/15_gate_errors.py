# %% [markdown]
# # How often the gate is wrong
#
# > A model that breaks the tolerance passes on at most 5 % of test sets, by images and by persons; measured, with the price in images

# %% [markdown]
# [The gate](08_gate.ipynb) promises one thing: a network that breaks the tolerance passes on at most 5 % of test sets. Here the truth is chosen, thousands of test sets are drawn from it, and those that pass are counted.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from scipy.special import ndtr, stdtrit
from scipy.stats import norm

from fairgrape.judge.gate import _student, gate, smallest_errors, verdict_of
from fairgrape.report.figures import html_figure


# %% [markdown]
# ## By images
#
# One group truly loses exactly 2 points, or 2.5, where 2 are tolerated; the others lose nothing. For thousands of test sets at once the same steps are taken on arrays of counts.

# %%
def simulated(n, net, lost, gained, rng, sets, B):
    "Counts of lost, same and gained images, their noise, and the smallest errors"
    n, net = np.array(n), np.asarray(net, dtype=float)
    chance = np.stack([lost - net / 100, 1 - lost - gained + net / 100, gained + 0 * net], axis=1)
    counts = rng.multinomial(n, chance, size=(sets, len(n)))
    delta = 100 * (counts[..., 2] - counts[..., 0]) / n
    seen = counts.sum(axis=1) > 0
    smooth, each = counts.astype(float), np.arange(sets)
    smooth[each, :, seen.argmax(axis=1)] += 0.5
    smooth[each, :, 2 - seen[:, ::-1].argmax(axis=1)] += 0.5
    drawn = rng.multinomial(n, (smooth / (n[:, None] + 1))[:, None], size=(sets, B, len(n)))
    noise = 100 * (drawn[..., 2] - drawn[..., 0]) / n - delta[:, None]
    squares = counts[..., 2] + counts[..., 0] - n * (delta / 100) ** 2
    return counts, delta, noise, 100 * np.sqrt(squares + 2) / n


def passes(delta, noise, smallest, n, tolerance=2.0, level=0.95):
    "Which test sets pass: the steps of `verdict_of` on many of them at once"
    n = np.array(n)
    centred = noise - noise.mean(axis=1, keepdims=True)
    sd = centred.std(axis=1)
    largest = (np.abs(centred) / np.where(sd > 0, sd, np.inf)[:, None]).max(axis=2)
    quiet = np.maximum((sd == 0).sum(axis=1), 1)
    one = norm.ppf((1 + level ** (1 / quiet)) / 2)
    z = np.maximum(np.quantile(largest, level, axis=1), one)
    reach = stdtrit(n - 1, ndtr(z)[:, None])
    se = np.maximum(sd * np.sqrt(n / (n - 1)), smallest)
    return (delta - reach * se > -tolerance).all(axis=1)


# %% [markdown]
# They decide as `verdict_of` does, and their standard errors are those of `smallest_errors`.

# %%
sizes = [150, 400, 900]
counts, delta, noise, smallest = simulated(
    sizes, [-0.5, 0, 0.5], 0.01, 0.01, np.random.default_rng(0), sets=60, B=300
)
fast = passes(delta, noise, smallest, sizes, tolerance=3)
slow = [
    verdict_of(d, b, e, list("abc"), np.array(sizes), tolerance=3).status == "passes"
    for d, b, e in zip(delta, noise, smallest)
]
assert fast.tolist() == slow and 5 < fast.sum() < 55
images = np.concatenate([np.repeat([-1, 0, 1], c) for c in counts[0]])
who = np.repeat(range(3), sizes)
assert np.allclose(smallest_errors(images, who), smallest[0])


# %%
def passing(n, net, lost=0.03, gained=0.03, sets=300, B=300, seed=0):
    "Percent of test sets that pass"
    rng, step, count = np.random.default_rng(seed), max(1, int(2e6 / (B * len(n)))), 0
    for start in range(0, sets, step):
        now = min(step, sets - start)
        _, delta, noise, smallest = simulated(n, net, lost, gained, rng, now, B)
        count += passes(delta, noise, smallest, n).sum()
    return 100 * count / sets


def breaking(sizes, sets, B, net=-2.0):
    "Percent that pass though the first group truly loses `net` points"
    rows = {}
    for how, lost, gained in (("changed both ways", 0.03, 0.03), ("lost only", 0.0, 0.0)):
        for G in (2, 4, 14):
            rows[how, G] = {
                n: passing([n] + [2000] * (G - 1), [net] + [0] * (G - 1), lost, gained, sets, B)
                for n in sizes
            }
    return pd.DataFrame(rows).T.rename_axis(["images", "groups"]).rename_axis("n", axis=1)


small = breaking([150, 500], sets=300, B=200)
small.round(1)

# %%
assert (small <= 5 + 3 * 1.26).all().all()  # 5 % and three standard errors of 300 test sets

# %% [markdown]
# Measured with 2,000 test sets and 400 resamples (a standard error of 0.5): `-2` is exactly the tolerance, the hardest case.

# %%
#| slow
large = pd.concat(
    {net: breaking([50, 100, 160, 200, 300, 500, 2000], 2000, 400, net) for net in (-2.0, -2.5)},
    names=["truly"],
)
print(large.round(1).to_string())
assert (large <= 5 + 3 * 0.49).all().all()

# %% [markdown]
# At most 4.4 % pass that should not: two groups, and one of them of 160 images that only lose. That is where a group without any loss is just large enough to pass.

# %% [markdown]
# ## By persons
#
# Persons are harder than images, since a person can lose much or little. Each has 1 to 30 images here. The first group truly loses exactly the tolerance, in one of three ways:
#
# - 15 % of the persons lose 13 % of their images each, and nothing else changes anywhere;
# - 5 % lose 40 %; of all other images in all groups 1 % change for better and 1 % for worse;
# - 2 % lose everything; the same for the others.
#
# All groups have the same number of persons. `by_persons` takes the steps of `gate` on thousands of test sets at once, with the bootstrap's standard error by its formula.

# %%
WAYS = {"15 % lose": (0.15, 0.0), "5 % lose": (0.05, 0.01), "2 % lose all": (0.02, 0.01)}


def drawn_persons(persons, loss, share, both, sets, rng):
    "Images of each person, and how many more of them are right after, shape `(sets, persons)`"
    images = rng.integers(1, 31, (sets, persons))
    chance = np.where(rng.random((sets, persons)) < share, loss / 100 / share, 0)
    lost = rng.binomial(images, np.minimum(chance, 1))
    gained = rng.binomial(images - lost, both)
    return images, gained - lost - rng.binomial(images - lost - gained, both)


def by_persons(persons, G, way, tolerance=2.0, net=None, all_lose=False, sets=300, seed=0):
    "Percent of test sets that pass, and that passed when persons were taken to lose as seen"
    rng, (share, both) = np.random.default_rng(seed), WAYS[way]
    share, loss = max(share, tolerance / 100), tolerance if net is None else net
    reach = stdtrit(persons - 1, ndtr(norm.ppf((1 + 0.95 ** (1 / G)) / 2)))
    most, parts = np.zeros(sets), []
    for g in range(G):
        own_loss = loss if g == 0 or all_lose else 0.0
        images, change = drawn_persons(persons, own_loss, share, both, sets, rng)
        n, delta = images.sum(axis=1), change.sum(axis=1) / images.sum(axis=1)
        squares = ((change - images * delta[:, None]) ** 2).sum(axis=1)
        most = np.maximum(most, np.abs(change / images).max(axis=1))
        parts.append((delta, squares, n, (images**2).sum(axis=1)))
    found = []
    for now in (True, False):
        passed = np.ones(sets, bool)
        for delta, squares, n, size in parts:
            more = size / n if now else np.where(most > 0, most, 1) * n / persons
            se = np.sqrt(np.maximum(squares * persons / (persons - 1), squares + 2 * more**2)) / n
            passed &= 100 * (delta - reach * se) > -tolerance
        found.append(100 * passed.mean())
    return found


# %% [markdown]
# The library decides the same. A test set is written out image by image; of 60 with two groups that keep the tolerance of 15 points by a margin, `gate` passes about as many.

# %%
rng, wrote = np.random.default_rng(0), 0
for _ in range(60):
    images, change = zip(*(drawn_persons(40, 3.0, 0.15, 0.0, 1, rng) for _ in range(2)))
    size, lost = np.concatenate(images, axis=1)[0], -np.concatenate(change, axis=1)[0]
    after = np.concatenate([np.arange(m) >= k for m, k in zip(size, lost)]).astype(float)
    faces = np.repeat(np.arange(80), size)
    said = gate(np.ones(len(faces)), after, faces // 40, ["a", "b"], 15, faces, B=300)
    wrote += said.status == "passes"
fast = by_persons(40, 2, "15 % lose", 15, 3.0, all_lose=True, sets=2000)[0]
print(f"gate {100 * wrote / 60:.0f} %, by_persons {fast:.0f} %")
assert abs(100 * wrote / 60 - fast) < 20 and 20 < fast < 95  # three standard errors of 60: 19


# %%
def breaking_persons(persons, sets, tolerance=2.0, groups=(2, 4, 14), ways=tuple(WAYS)):
    "Percent that pass though the first group loses exactly the tolerance: now, and before"
    rows = {}
    for way in ways:
        for G in groups:
            for k in persons:
                now, before = by_persons(k, G, way, tolerance, sets=sets)
                rows.setdefault((way, G, "now"), {})[k] = now
                rows.setdefault((way, G, "before"), {})[k] = before
    index = ["who", "groups", "rule"]
    return pd.DataFrame(rows).T.rename_axis(index).rename_axis("persons", axis=1).unstack().T


small = breaking_persons([25, 50, 200], sets=300, groups=(2,))
small.round(1)

# %%
now, before = (small.xs(rule, level="rule") for rule in ("now", "before"))
assert (now <= 5 + 3 * 1.26).all().all() and before.max().max() > 10

# %% [markdown]
# `before` is the rule that this library had first: the two additional persons changed only as much as any person of the test set, and had the average number of images. That is too little, and neither Student's multiple nor the factor k / (k − 1) on the variance, which were there already, makes up for it. If the persons who lose most are not in the test
# set, nothing in it says how much a person can lose. Now they change on all their images. With 2,000 test sets (a standard error of 0.5):

# %%
#| slow
persons_table = breaking_persons([10, 15, 25, 50, 100, 200, 400], 2000)
print(persons_table.T.round(1).to_string())
assert (persons_table.xs("now", level="rule") <= 5 + 3 * 0.49).all().all()

# %% [markdown]
# The same where 5 or 10 points are tolerated and lost, in the same ways (if 10 points are lost, 10 % of the persons lose everything):

# %%
#| slow
for tolerance in (5, 10):
    wider = breaking_persons([10, 15, 25, 50, 100, 200], 2000, tolerance)
    wider = wider.xs("now", level="rule")
    print(f"tolerance {tolerance}", wider.T.round(1).to_string(), sep="\n")
    assert (wider <= 5 + 3 * 0.49).all().all()


# %% [markdown]
# With the first rule up to 14 % passed (50 persons, two groups, 2 % of the persons lose everything). Now it is at most 2.7 % where 2 points are tolerated and 3.0 % where 5 or 10 are.
#
# The price: too few persons are never enough. This many persons with equally many images each it takes at the least to pass, even if nothing changes. With fewer the gate cannot tell. With 1 to 30 images each it takes a third more.

# %%
def least_persons(tolerance, G):
    "Smallest number of persons of a group that can pass, with equally many images each"
    k, z = np.arange(2, 2000), norm.ppf((1 + 0.95 ** (1 / G)) / 2)
    return int(k[_student(z, k) * 100 * 2**0.5 / k < tolerance][0])


least = {G: {t: least_persons(t, G) for t in (1, 2, 5, 10, 20)} for G in (2, 4, 14)}
least = pd.DataFrame(least).T.rename_axis("groups").rename_axis("tolerance", axis=1)
least

# %%
# 20 images of each person, none changed: one person too few cannot be told, enough pass
for k, answer in ((least.loc[2, 5] - 1, "cannot tell"), (least.loc[2, 5] + 2, "passes")):
    faces = np.repeat(np.arange(2 * k), 20)
    none = np.ones(len(faces))
    assert gate(none, none, faces // k, ["a", "b"], tolerance=5, units=faces).status == answer

# %% [markdown]
# How often do networks pass that keep the tolerance of 2 points? In two groups 15 % of the persons lose images, so that both groups truly lose 0, 0.5 or 1 point; or the same with changes of 1 % both ways.

# %%
#| slow
kept = {
    (way, net): {
        k: by_persons(k, 2, way, net=net, all_lose=True, sets=2000)[0]
        for k in (100, 200, 300, 400, 600, 1000, 2000)
    }
    for way in ("15 % lose", "5 % lose")
    for net in (0.0, 0.5, 1.0)
}
print(pd.DataFrame(kept).T.rename_axis(["who", "truly"]).round(0).astype(int).to_string())

# %% [markdown]
# ## The price in images
#
# How often does a network pass that keeps the tolerance? This is a matter of images. Four groups of n images each, of which the networks change 3 % for better and 3 % for worse; all groups truly lose 0, 0.5, 1 or 1.5 points, where 2 are tolerated.

# %%
NET = (0, -0.5, -1, -1.5)


def power(sizes, sets, B, G=4):
    "Percent that pass, by what all groups truly lose and by the images of each group"
    rows = {net: {n: passing([n] * G, [net] * G, sets=sets, B=B) for n in sizes} for net in NET}
    return pd.DataFrame(rows).T.rename_axis("truly").rename_axis("n", axis=1)


quick = power([500, 2000, 8000], sets=200, B=200)
quick.round(0)

# %%
assert (quick.loc[0].diff().dropna() >= 0).all() and quick.loc[0, 8000] > 95 > 5 > quick.loc[0, 500]

# %%
#| slow
curve = power([200, 500, 1000, 2000, 4000, 8000, 16_000], 2000, 300)
print(curve.round(0).astype(int).to_string())

# %%
n = np.geomspace(200, 60_000, 60)
fig, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for net in NET:
    sd = 100 * np.sqrt((0.06 - net / 100) / n)
    z = norm.ppf((1 + 0.95**0.25) / 2)
    axis.plot(n, 100 * norm.cdf((2 + net) / sd - z) ** 4, label=f"{-net:g} points")
for net in quick.index:
    axis.plot(quick.columns, quick.loc[net], "k.", ms=5)
axis.set(xscale="log", xlabel="images in each of 4 groups", ylabel="pass, %")
axis.set_xticks([200, 500, 1000, 2000, 5000, 10_000, 50_000])
axis.set_xticklabels(["200", "500", "1,000", "2,000", "5,000", "10,000", "50,000"])
axis.legend(title="all truly lose", fontsize=8)
fig.set_label(
    "Four rising curves over the images of each group: the share of test sets that pass where all"
    " four groups truly lose 0, 0.5, 1 or 1.5 points. Half of the test sets pass with 1,800, 3,500,"
    " 8,500 and 36,500 images. Dots on the curves are simulated."
)
plt.close(fig)
HTML(html_figure(fig, "How often a network passes that keeps a tolerance of 2 points"))

# %% [markdown]
# The curves are the normal approximation, $\Phi((2 - \text{loss})/\text{se} - z)^4$, the dots the simulation. Networks that agree more need fewer images, in proportion to the share of images on which they differ.
