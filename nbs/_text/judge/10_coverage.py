# %% [markdown]
# # Coverage
#
# > Of a hundred 95 % intervals, do ninety-five contain the truth? Measured where it is hard

# %% [markdown]
# An interval makes a promise: drawn on many test sets of one truth, 95 % of the intervals contain it. Whether [the intervals](02_disparity.ipynb) of ρ, ψ, the range and each group's Δ keep it can only be measured. The truth is chosen, test sets are drawn from it, and the intervals
# that contain it are counted.
#
# The easy cases say little. Here are 2 to 14 groups, equal and as unequal as 100 images beside 2,000; ρ from 0 to 10 points; one small group that loses, one large group, half of the groups, or all by different amounts; networks that differ on many images or on few; one head and five.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML

from fairgrape.judge.disparity import (
    DISPARITIES,
    disparity,
    disparity_interval,
    noise_interval,
    paired_bootstrap,
)
from fairgrape.report.figures import html_figure

# %% [markdown]
# ## Truths
#
# Every group loses 2 points, and on top of that a pattern that is scaled to the wanted ρ.

# %%
PATTERNS = {
    "smallest": lambda G: np.eye(G)[0],
    "largest": lambda G: np.eye(G)[-1],
    "half": lambda G: (np.arange(G) < G // 2).astype(float),
    "spread": lambda G: np.linspace(1, 0, G),
}


def truth(G, rho, who, base=2.0):
    "True Δ of each group (points), sorted by the groups' sizes"
    pattern = PATTERNS[who](G)
    return -base - rho * pattern / disparity(pattern)


print(truth(4, 5, "smallest"), truth(4, 5, "half").round(2), truth(4, 5, "spread").round(2))
assert truth(4, 5, "smallest").tolist() == [-12, -2, -2, -2]
assert all(np.isclose(disparity(truth(14, 10, who)), 10) for who in PATTERNS)


# %% [markdown]
# A head gains a share of the images and loses Δ more than that. With several heads an image's difference is the mean over its heads, so it takes more values.

# %%
def shares(delta, gained=0.05, heads=1):
    "Values that an image's difference takes, and their probabilities in each group"
    lost = gained - delta / 100
    one = np.stack([lost, 1 - lost - gained, np.full_like(lost, gained)], axis=1)
    of_group = one
    for _ in range(heads - 1):
        of_group = np.stack([np.convolve(a, b) for a, b in zip(of_group, one)])
    return np.arange(-heads, heads + 1) / heads, of_group


values, probability = shares(truth(4, 5, "smallest"))
print(probability.round(3))
assert np.allclose(100 * probability @ values, truth(4, 5, "smallest"))
values, probability = shares(truth(3, 5, "largest"), heads=5)
assert np.allclose(100 * probability @ values, truth(3, 5, "largest")) and len(values) == 11


# %% [markdown]
# ## Many test sets at once
#
# A test set is its counts of each value in each group. Drawing hundreds of test sets at once, and of each its resamples, takes array operations instead of the library's loops. It is the same smoothing: half an image more at either end of what the test set shows.

# %%
def noise_of(counts, values, n, B, rng):
    "Bootstrap noise (points) of test sets with these counts, shape `(sets, B, G)`"
    seen = counts.sum(axis=1) > 0
    smooth = counts.astype(float)
    each = np.arange(len(counts))
    smooth[each, :, seen.argmax(axis=1)] += 0.5
    smooth[each, :, len(values) - 1 - seen[:, ::-1].argmax(axis=1)] += 0.5
    chances = (smooth / (n[:, None] + 1))[:, None]
    drawn = rng.multinomial(n, chances, size=(len(counts), B, len(n)))
    return 100 * (drawn @ values - (counts @ values)[:, None]) / n


def plain_noise(counts, values, n, B, rng):
    "The same without smoothing, as the first form of the interval had it"
    chances = (counts / n[:, None])[:, None]
    drawn = rng.multinomial(n, chances, size=(len(counts), B, len(n)))
    return 100 * (drawn @ values - (counts @ values)[:, None]) / n


# %% [markdown]
# An interval contains the truth exactly if the test at the truth accepts it, so no end need be searched.

# %%
def scaled(losses, kind, n):
    "Patterns of a disparity of 1"
    spread = losses - losses.mean(axis=-1, keepdims=True)
    flat = disparity(spread, kind, n) < 1e-12
    spread[flat] = np.eye(spread.shape[-1])[0]
    return spread / disparity(spread, kind, n)[:, None]


def levelled(delta, noise):
    "`_levelled` of many test sets"
    worst, best = delta.argmin(axis=1), delta.argmax(axis=1)
    to_worst = delta - delta.min(axis=1, keepdims=True)
    to_best = delta.max(axis=1, keepdims=True) - delta
    end = np.where(to_worst <= to_best, worst[:, None], best[:, None])
    apart = noise - np.take_along_axis(noise, end[:, None], axis=2)
    there = np.take_along_axis(delta, end, axis=1)
    return np.where(np.abs(delta - there) < 2 * apart.std(axis=1), there, delta)


def outside(delta, noise, true, kind, n):
    "Whether the truth lies below the lower end, and above the upper end"
    value, target = disparity(delta, kind, n), disparity(true, kind, n)
    pattern = scaled(levelled(delta, noise), kind, n)[:, None]
    reached = np.quantile(disparity(target * pattern - noise, kind, n), 0.975, axis=1)
    high = np.quantile(disparity(delta[:, None] + noise, kind, n), 0.975, axis=1)
    below = (reached < value - 1e-9) & (target < value)
    return below, np.maximum(value, high) < target - 1e-9


def outside_before(delta, noise, true, kind, n):
    "The same for the first form: inverted at both ends along the observed pattern"
    value, target = disparity(delta, kind, n), disparity(true, kind, n)
    pattern = scaled(delta.copy(), kind, n)[:, None]
    low, high = np.quantile(disparity(target * pattern + noise, kind, n), [0.025, 0.975], axis=1)
    floor = np.median(disparity(noise, kind, n), axis=1)
    return high < value - 1e-9, low > np.maximum(value, floor) + 1e-9


# %% [markdown]
# The fast form decides as the library does, interval by interval, and its noise is as wide.

# %%
n = np.array([40, 100, 400])
true = truth(3, 6, "smallest")
values, probability = shares(true)
rng = np.random.default_rng(0)
counts = rng.multinomial(n, probability, size=(40, 3))
delta, noise = 100 * counts @ values / n, noise_of(counts, values, n, 400, rng)
for kind in DISPARITIES:
    below, above = outside(delta, noise, true, kind, n)
    goal = disparity(true, kind, n)
    for t in range(40):
        low, high = disparity_interval(delta[t], noise[t], kind, n)
        assert (low > goal + 1e-6) == below[t] and (high < goal - 1e-9) == above[t]
one = np.concatenate([np.repeat(values, c) for c in counts[0]])
sd = paired_bootstrap(one, np.repeat(np.arange(3), n), B=4000, smooth=True).std(axis=0)
print(sd.round(2), noise[0].std(axis=0).round(2))
assert np.allclose(sd, noise_of(counts[:1], values, n, 4000, rng)[0].std(axis=0), rtol=0.06)


# %%
def coverage(n, who, rho, gained=0.05, base=2.0, heads=1, sets=300, B=400, seed=0, first=False):
    "Share of intervals (percent) that contain the truth; of Δ the mean over the groups"
    n, rng = np.array(n), np.random.default_rng(seed)
    true = truth(len(n), rho, who, base)
    values, probability = shares(true, gained, heads)
    draw, out = (plain_noise, outside_before) if first else (noise_of, outside)
    rows, step = [], max(1, int(6e6 / (B * probability.size)))  # so many test sets at once
    for start in range(0, sets, step):
        counts = rng.multinomial(n, probability, size=(min(step, sets - start), len(n)))
        delta = 100 * counts @ values / n
        noise = draw(counts, values, n, B, rng)
        row = {}
        for kind in DISPARITIES:
            row[f"{kind} below"], row[f"{kind} above"] = out(delta, noise, true, kind, n)
            row[kind] = ~(row[f"{kind} below"] | row[f"{kind} above"])
        low, high = np.quantile(delta[:, None] + noise, [0.025, 0.975], axis=1)
        row["delta"] = ((low <= true + 1e-9) & (true - 1e-9 <= high)).mean(axis=1)
        rows.append(pd.DataFrame(row))
    return 100 * pd.concat(rows).mean()


# %% [markdown]
# The interval of a single Δ is that of `noise_interval`, the quantiles of Δ + noise:

# %%
low, high = np.quantile(delta[:, None] + noise, [0.025, 0.975], axis=1)
assert np.allclose(noise_interval(delta[0], noise[0], n)[:, :3], [low[0], high[0]])

# %% [markdown]
# ## Where the first form failed
#
# Four groups of 100, 400, 1,000 and 2,000 images, of which the smallest loses, and two other cases. `before` is the interval that this library had first: the bootstrap inverted at both ends along the observed pattern.

# %%
FOUR = (100, 400, 1000, 2000)
FOURTEEN = (100, *[300] * 7, *[1000] * 5, 2000)
CASES = [
    (FOUR, "smallest", 1),
    (FOUR, "smallest", 3),
    (FOUR, "smallest", 5),
    (FOUR, "smallest", 10),
    (FOUR, "spread", 10),
    ((300,) * 14, "half", 10),
]
small = pd.DataFrame(
    {
        (f"{len(n)} groups, {who}, ρ = {rho}", form): coverage(n, who, rho, first=first)
        for n, who, rho in CASES
        for form, first in (("before", True), ("now", False))
    }
).T[[*DISPARITIES, "delta"]]
small.round(1).unstack()

# %% [markdown]
# Three things were wrong with it, and each cure is small.
#
# - **The pattern was taken for known.** A small group that truly loses 6 points loses 1 on some test sets. Then the observed pattern has another, larger group in front, whose loss is known well, and the upper end comes out far too low. Now the upper end is the percentile of the resamples, in which every
#   group may take the lead.
# - **The worst of many groups is partly worst by luck.** With 14 groups of which seven lose alike, one of the seven stands out by chance; its lead was taken for truth, and the lower end came out too high. Now groups within two standard errors of the worst or the best are level with it in the pattern. This is how
#   intervals for the largest of many means are made elsewhere (Andrews and Soares 2010, moment selection).
# - **A group without a change had no noise.** Now half an image is added at either end.
#
# Rescaling the noise to each hypothetical loss and studentizing were not needed.

# %%
now = small.xs("now", level=1)
before = small.xs("before", level=1)
assert before[["rho", "psi", "range"]].min().min() < 85  # the first form fails here
assert (now >= 91.2).all().all()  # 95 less three standard errors of 300 test sets (1.26 points)

# %% [markdown]
# ## Everywhere
#
# All combinations, 300 test sets with 300 resamples each. One standard error of a figure is 1.3 points, so among some 300 cases a true 95 % shows 91 % now and then.

# %%
SIZES = [
    (100, 2000),
    (300, 300),
    FOUR,
    (400,) * 4,
    (100, 300, 300, 1000, 1000, 1000, 2000),
    FOURTEEN,
    (300,) * 14,
]


def grid(sets, B, sizes=SIZES, **how):
    "Coverage of every combination of sizes, pattern and ρ"
    rows = []
    for n in sizes:
        for who in PATTERNS:
            for rho in (0, 1, 3, 5, 10) if who == "smallest" else (1, 3, 5, 10):
                case = dict(groups=len(n), fewest=min(n), who=who, true=rho)
                rows.append(case | coverage(n, who, rho, sets=sets, B=B, **how).to_dict())
    return pd.DataFrame(rows).set_index(["groups", "fewest", "who", "true"])


def lowest(table):
    "Of each measure how many cases, their lowest, middle and highest coverage"
    shown = table[[*DISPARITIES, "delta"]]
    return (
        shown.quantile([0, 0.05, 0.5, 1]).round(1).set_axis(["lowest", "5 %", "middle", "highest"])
    )


# %%
#| slow
many = grid(300, 300)  # the networks differ on 12 % of the images or more
print(len(many), "cases")
print(lowest(many))

# %%
#| slow
few = grid(300, 300, gained=0.01, base=0.0)  # on 2 % or more: many groups without a change
print(len(few), "cases")
print(lowest(few))

# %%
#| slow
heads = grid(300, 300, SIZES[:5], heads=5)
print(len(heads), "cases")
print(lowest(heads))


# %% [markdown]
# The lowest cases may be luck or failure. So the ten lowest of each of the four measures are measured once more with 1,000 new test sets each (a standard error of 0.7). Some are among the lowest of several measures, so these are 28 different cases.

# %%
def lowest_cases(table, count):
    "The `count` cases of lowest coverage of each measure, each case once"
    found = [table[kind].nsmallest(count).index for kind in (*DISPARITIES, "delta")]
    return list(dict.fromkeys(case for cases in found for case in cases))


def departures(table):
    "Of each measure: cases below 93 % and above 97 %, and how far the farthest is from there"
    shown = table[[*DISPARITIES, "delta"]]
    rows = {
        "cases below 93": (shown < 93).sum(),
        "at most by": (93 - shown).max().clip(lower=0).round(1),
        "cases above 97": (shown > 97).sum(),
        "at most by ": (shown - 97).max().clip(lower=0).round(1),
    }
    return pd.DataFrame(rows)


# %%
made = pd.DataFrame({kind: [90.0, 95, 99] for kind in (*DISPARITIES, "delta")})
made.loc[1, "delta"] = 80
print(departures(made))
assert lowest_cases(made, 1) == [0, 1] and len(lowest_cases(made, 3)) == 3
assert departures(made).loc["rho"].tolist() == [1, 3, 1, 2]
assert departures(made).loc["delta"].tolist() == [2, 13, 1, 2]

# %%
#| slow
settings = {"many": {}, "few": dict(gained=0.01, base=0.0), "heads": dict(heads=5)}
every = pd.concat(dict(many=many, few=few, heads=heads), names=["changes"])
sizes_of = {(len(n), min(n)): n for n in SIZES}
again = {}
for case in lowest_cases(every, 10):
    changes, groups, fewest, who, rho = case
    n = sizes_of[groups, fewest]
    again[case] = coverage(n, who, rho, sets=1000, B=300, seed=1, **settings[changes])
again = pd.DataFrame(again).T.rename_axis(every.index.names)
shown = again[[*DISPARITIES, "delta"]]
print(len(again), "of", len(every), "cases, measured again")
print(shown.round(1).to_string())
print(lowest(again))

# %%
#| slow
measured = every.copy()
measured.loc[again.index] = again
print(departures(measured))

# %% [markdown]
# Measured: the lowest cases were luck. Those of ρ, ψ and the range had come out from 91.3 % on; measured again, every one of the 28 cases covers between 94.3 and 98.8 % in all of them.
#
# **Where it is not 93 to 97 %.** Below: three cases of ψ, by 0.3 points. They have 92.7 % of 300 test sets (a standard error of 1.3); they were not among the ten lowest of ψ and have not been measured again. ρ, the range and the Δ of a group are nowhere below 93 %.
#
# Above 97 %, and by up to 3 points: 172 of the 323 cases for ρ, 116 for ψ, 190 for the range; four cases for Δ, by up to 1.7. Where ρ is near its noise floor the lower end is 0 and errs on one side only; with many groups the upper end is too high, since resampling adds noise to Δ that contains noise already. Such an
# interval is wider than it had to be, never too short. The Δ of a group, as a mean over the groups of a case, covers 93 % to 99 %; the high figures are groups with hardly any change.
#
# **Not measured**: intervals of whole persons drawn together, levels other than 95 %, groups of fewer than 100 images, and the luck of training.

# %%
#| slow
fig, axes = plt.subplots(1, 4, figsize=(8, 2.6), sharey=True, layout="constrained")
labels = {"rho": "ρ", "psi": "ψ", "range": "range", "delta": "Δ of a group"}
for axis, (kind, label) in zip(axes, labels.items()):
    axis.axhspan(93, 97, color="0.9")
    for (changes, table), mark in zip(every.groupby(level="changes"), "osx"):
        place = table.index.get_level_values("true").map({0: 0, 1: 1, 3: 2, 5: 3, 10: 4})
        axis.plot(place, table[kind], mark, ms=3, alpha=0.6, label=changes)
    axis.set(title=label, xlabel="true ρ")
    axis.set_xticks(range(5), ["0", "1", "3", "5", "10"])
axes[0].set_ylabel("contain the truth, %")
axes[-1].legend(fontsize=7)
fig.set_label(
    "Four panels of dots, one for each case, over the true ρ: the share of intervals that contain"
    " the truth, for ρ, ψ, the range and a group's Δ. Nearly all dots lie between 93 and 100"
    " percent; none lies below 91. At small ρ many lie at 97 to 100."
)
plt.close(fig)
HTML(html_figure(fig, "Share of 95 % intervals that contain the truth; grey: 93 to 97 %"))
