# %% [markdown]
# # Reading the report
#
# > What ρ, ψ, their interval and their noise floor say, on predictions whose truth is known

# %% [markdown]
# A report has a line such as "ρ 4.4 [2.4, 6.0], floor of ρ: mean 1.4, 95 % 2.5". This page teaches you to read it, on made-up predictions. There are no people and no networks, and we know the truth because we put it in. There are three cases:
#
# 1. every group loses the same, so there is *no* disparity;
# 2. one group loses 5 points more than the others;
# 3. one group *gains* 5 points on the others.
#
# Each with 50, 200 and 1,000 test images a group.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML

from fairgrape import disparities, interval_table
from fairgrape.judge.disparity import disparity, noise_floor, paired_bootstrap
from fairgrape.judge.tables import group_table
from fairgrape.report.figures import html_figure

SIZES, NAMES = (50, 200, 1000), [f"group {g}" for g in "ABCD"]
BLUE, ORANGE = "#0072B2", "#D55E00"


def show(fig, caption, description):
    "The figure as HTML, with a description for whoever cannot see it"
    fig.set_label(description)
    plt.close(fig)
    return HTML(html_figure(fig, caption))


# %% [markdown]
# ## Made-up answers
#
# Two networks, dense and pruned, look at the same test images. Of every 100 images of a group the dense one has 90 right. Pruning breaks some of these and repairs some of the others, as it does in reality; the difference of the two is the
# group's true change of accuracy, Δ. Here pruning repairs 4 in 100 everywhere, so a Δ of −4 points means that it breaks 8 in 100.

# %%
REPAIRED = 4  # of 100 images


def answers(
    changes,  # True change of accuracy of each group, points
    size,  # Test images of each group
    seed=0,  # Which test set is drawn
):  # Was the dense network right, was the pruned one, group code; each of shape `(G · size,)`
    "Draw a test set from a known truth"
    group = np.repeat(np.arange(len(changes)), size)
    chance = 100 * np.random.default_rng(seed).random(len(group))
    dense, broken, repaired = (
        chance < 90,
        chance < REPAIRED - np.array(changes)[group],
        chance > 100 - REPAIRED,
    )
    return dense.astype(float), (dense & ~broken | repaired).astype(float), group


NOTHING, LOSS, GAIN = (-4, -4, -4, -4), (-4, -4, -4, -9), (-2, -2, -2, 3)
group_table(*answers(NOTHING, 200), NAMES).round(1)

# %% [markdown]
# With very many images the truth shows: 90 % right before; then −4, −4, −4 and −9.

# %%
huge = group_table(*answers(LOSS, 200_000), NAMES)
assert (huge.accuracy_dense - 90).abs().max() < 0.3 and np.abs(
    huge.delta[:4].to_numpy() - np.array(LOSS)
).max() < 0.3


# %% [markdown]
# ## No disparity at all
#
# Every group truly loses 4 points. In the table above, of 200 images each, they did not: the test images are a sample, and samples differ. ρ is the standard deviation of the four Δ, so it is never negative, and chance only ever adds to it.
#
# Here are 400 test sets of each size, and the ρ of each.

# %%
def delta_of(dense, pruned, group):
    return 100 * np.bincount(group, pruned - dense) / np.bincount(group)


drawn = {
    n: np.array([disparity(delta_of(*answers(NOTHING, n, seed))) for seed in range(400)])
    for n in SIZES
}


def row(rho):
    return {"mean of ρ": rho.mean(), "95 % of test sets are below": np.quantile(rho, 0.95)}


pd.DataFrame({f"{n} images a group": row(rho) for n, rho in drawn.items()}).round(1)

# %% [markdown]
# There is nothing to find, and yet ρ is about 4 or 5 points with 50 images per group.
#
# The numbers can be worked out. An image's difference is −1 with chance 0.08 and +1 with chance 0.04, so its variance is 0.12 − 0.04² = 0.1184, and Δ of a group of $n$ has a standard deviation of $\sigma = 100\sqrt{0.1184/n}$ points: 4.87, 2.43 and 1.09.
# For four such numbers ρ is 0.921 σ on average, and below $\sigma\sqrt{7.81/3} = 1.61\,\sigma$ in 95 cases of 100 (7.81 is the 95 % quantile of χ² with three degrees of freedom).

# %%
sigma = {n: 100 * (0.1184 / n) ** 0.5 for n in SIZES}
assert [round(s, 2) for s in sigma.values()] == [4.87, 2.43, 1.09]
# three standard errors of 400 test sets
assert all(abs(rho.mean() / (0.921 * sigma[n]) - 1) < 0.06 for n, rho in drawn.items())
assert all(abs(np.quantile(rho, 0.95) / (1.614 * sigma[n]) - 1) < 0.12 for n, rho in drawn.items())


# %% [markdown]
# In reality there is one test set, and nobody knows the truth. The **noise floor** estimates the two rows above from that one test set: it shifts all groups to one common loss and draws the images anew. Its mean says what ρ would be on average if
# there were nothing; compare a ρ with its 95 % value (`floor` in the tables here).

# %%
def floor_of(changes, n, seed):
    "The noise floor that the report would print for one test set: its mean, its 95 % quantile"
    dense, pruned, group = answers(changes, n, seed)
    return noise_floor(paired_bootstrap(pruned - dense, group, B=400, seed=seed))


estimated = {n: np.array([floor_of(NOTHING, n, seed) for seed in range(60)]) for n in SIZES}
pd.DataFrame(
    {
        f"{n} images a group": dict(zip(("floor, mean", "floor, 95 %"), f.mean(axis=0)))
        for n, f in estimated.items()
    }
).round(1)

# %%
assert all(
    np.abs(f.mean(axis=0) / (np.array([0.921, 1.614]) * sigma[n]) - 1).max() < 0.05
    for n, f in estimated.items()
)


# %%
def draw_floor(drawn, floor):
    "The ρ of many test sets without any disparity, a panel for each size"
    fig, axes = plt.subplots(1, len(drawn), figsize=(9, 2.7), sharex=True, layout="constrained")
    for ax, (n, rho) in zip(axes, drawn.items()):
        ax.hist(
            rho, bins=np.arange(0, 14.5, 0.5), color="#56B4E9", edgecolor="white", linewidth=0.5
        )
        ax.axvline(0, color="black", linewidth=2)
        ax.axvline(floor[n], color=ORANGE, linestyle="--", linewidth=2)
        ax.annotate(
            f" floor {floor[n]:.1f}",
            (floor[n], 0.97),
            xycoords=("data", "axes fraction"),
            va="top",
            fontsize=9,
        )
        ax.set(title=f"{n:,} images a group", yticks=[])
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[0].set_ylabel("test sets")
    fig.supxlabel("ρ (points); the black line is the truth, 0", fontsize=10)
    return fig


floor = {n: float(f[:, 1].mean()) for n, f in estimated.items()}
show(
    draw_floor(drawn, floor),
    "ρ of 400 test sets where no group truly loses more than another; dashed: the noise floor"
    " (95 %)",
    "Three histograms of ρ where the true disparity is 0. "
    + "; ".join(
        f"{n} images a group: mean {rho.mean():.1f}, noise floor {floor[n]:.1f} points"
        for n, rho in drawn.items()
    )
    + ".",
)

# %% [markdown]
# So the first question about any ρ is: **is it above its floor?** A ρ of 4 is nothing with 50 images a group, and a lot with 1,000. Four times the images halve the floor.
#
# Even so, one test set in twenty lies above its floor by chance alone. A report of a hundred runs has a few of these.

# %%
above = {
    n: np.mean(
        [
            disparity(delta_of(*answers(NOTHING, n, s))) > f
            for s, f in zip(range(60), estimated[n][:, 1])
        ]
    )
    for n in SIZES
}
print({n: f"{100 * share:.0f} % above the floor" for n, share in above.items()})
assert all(share <= 0.15 for share in above.values())  # of 60 test sets; 5 % is meant
assert abs(floor[50] / floor[200] - 2) < 0.15 and floor[50] > 7 and floor[1000] < 2

# %% [markdown]
# ## A real disparity of 5 points
#
# Now group D truly loses 9 points and the others 4. What are the true values? The mean of −4, −4, −4, −9 is −5.25. The deviations are three times 1.25 and −3.75; squared and added, 18.75; divided by three, 6.25. So
#
# - **ρ**, the standard deviation, is √6.25 = 2.5, *half* of the 5 points that most people would call the disparity;
# - **ψ**, how much more the worst group loses than all images together, is 9 − 5.25 = 3.75;
# - the **range** is 5.

# %%
truth = {
    kind: round(float(disparity(LOSS, kind, n=[1, 1, 1, 1])), 4) for kind in ("rho", "psi", "range")
}
truth

# %%
assert truth == {"rho": 2.5, "psi": 3.75, "range": 5}

# %% [markdown]
# The report would print this for one test set of each size:

# %%
lines = pd.concat(
    {n: disparities(*answers(LOSS, n, seed=1), B=1000) for n in SIZES}, names=["images a group", ""]
)
lines.round(1)

# %% [markdown]
# The **interval** (`low`, `high`) holds the true disparities that agree with the test set, at 95 %. It begins at 0 where a test set of no disparity would show as much at least once in forty times. (The printed floor is exceeded once in twenty, so a value a little above it may still have an interval from 0: then the interval decides.) Read it as "between `low` and `high`, and where in between is not known". A line whose interval begins at 0 is
# *not* a proof that there is no disparity: the upper end says how large it may be and still have gone unseen.

# %%
assert (lines.low <= lines.high).all() and (lines.value <= lines.high + 1e-9).all()
widths = (lines.high - lines.low).xs("rho", level=1)
assert (
    widths[1000] < widths[200] < widths[50] and lines.low[50, "rho"] == 0 < lines.low[1000, "rho"]
)


# %% [markdown]
# One test set is luck. In 40 test sets of each size, how many intervals contain the truth? And how many begin above 0, so that they show *some* disparity?

# %%
def many(changes, n, trials=40):
    "ρ with interval, one row a test set"
    return pd.DataFrame(
        [
            disparities(*answers(changes, n, seed), B=300, seed=seed).loc["rho"]
            for seed in range(trials)
        ]
    )


found = {n: many(LOSS, n) for n in SIZES}
hold = {n: ((t.low <= 2.5) & (2.5 <= t.high)).mean() for n, t in found.items()}
shows = {n: (t.low > 0).mean() for n, t in found.items()}
pd.DataFrame(
    {
        f"{n} images a group": {
            "hold the true ρ, %": 100 * hold[n],
            "show a disparity, %": 100 * shows[n],
        }
        for n in SIZES
    }
).round(0)


# %%
def draw_intervals(found, truth):
    "Intervals of many test sets, sorted; those that begin at 0 in grey"
    fig, axes = plt.subplots(
        1, len(found), figsize=(9, 3.6), sharex=True, sharey=True, layout="constrained"
    )
    for ax, (n, t) in zip(axes, found.items()):
        for i, r in enumerate(t.sort_values("value").itertuples()):
            seen = r.low > 0
            ax.plot(
                [r.low, r.high],
                [i, i],
                color=BLUE if seen else "0.6",
                linewidth=1.6,
                linestyle="-" if seen else (0, (3, 1)),
            )
            ax.plot(
                r.value,
                i,
                "o",
                color=BLUE if seen else "0.6",
                markersize=3.5,
                markerfacecolor=BLUE if seen else "white",
            )
        ax.axvline(truth, color="black", linewidth=1.5)
        ax.set(title=f"{n:,} images a group", yticks=[])
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[0].set_ylabel("test sets, sorted by ρ")
    axes[0].set_xlim(0, None)
    fig.supxlabel(f"ρ (points); black: the truth, {truth}", fontsize=10)
    return fig


show(
    draw_intervals(found, 2.5),
    "ρ and its interval in 40 test sets of each size; blue, solid: it begins above 0; grey, dashed:"
    " at 0",
    "One group truly loses 5 points more, so ρ is 2.5. "
    + "; ".join(
        f"{n} images a group: {100 * shows[n]:.0f} percent of the intervals begin above 0, median"
        f" width {(t.high - t.low).median():.1f} points"
        for n, t in found.items()
    )
    + ".",
)

# %% [markdown]
# The intervals are right at every size: about 95 in 100 contain the truth. What changes is what they can show. With 50 images a group a disparity of 5 points goes unseen nearly always, with 200 mostly, with 1,000 about one time in ten. A study with
# small groups cannot show that a method is good, nor that it is not.

# %%
assert (
    min(hold.values()) >= 0.85
    and shows[50] < 0.3 < shows[1000]
    and shows[1000] >= 0.85
    and shows[50] < shows[200] < shows[1000]
)

# %% [markdown]
# ## A group that gains
#
# Last, three groups lose 2 points each and group D *gains* 3. Retraining after pruning does that now and then, mostly for a group that was served badly before. The differences are again −5, 0, 0, 0 up to sign, so ρ is 2.5 again and the range 5. Only ψ tells the two
# apart: all images together lose 0.75, the worst-off group 2, so ψ is 1.25 instead of 3.75.

# %%
both = {"one group loses 5 more": LOSS, "one group gains 5": GAIN}


def three(changes):
    return {
        kind: float(disparity(changes, kind, n=[1, 1, 1, 1])) for kind in ("rho", "psi", "range")
    }


pd.DataFrame({name: three(changes) for name, changes in both.items()}).round(2)

# %%
assert {kind: round(value, 4) for kind, value in three(GAIN).items()} == {
    "rho": 2.5,
    "psi": 1.25,
    "range": 5,
}
# and a network that has become useless for everybody has no disparity
assert float(disparity([-40] * 4)) == 0


# %%
def draw_groups(both, size, seed=0):
    "Change of each group with its interval, a panel for each truth"
    fig, axes = plt.subplots(1, len(both), figsize=(9, 3.2), sharey=True, layout="constrained")
    for ax, (name, changes) in zip(axes, both.items()):
        t = interval_table(*answers(changes, size, seed), NAMES, B=1000)
        of = disparities(*answers(changes, size, seed), B=1000)
        ax.errorbar(
            range(5),
            t.delta,
            [t.delta - t.delta_low, t.delta_high - t.delta],
            fmt="o",
            color=BLUE,
            capsize=3,
            label="measured",
        )
        ax.plot(
            range(4), changes, "_", color=ORANGE, markersize=22, markeredgewidth=2.5, label="truth"
        )
        ax.axhline(0, color="0.3", linewidth=1)
        ax.axvline(3.5, color="0.8")
        ax.set_xticks(range(5), [*NAMES, "all"], fontsize=9)
        ax.set_title(
            f"{name}: ρ {of.value['rho']:.1f}, ψ {of.value['psi']:.1f}, floor of ρ"
            f" {of.floor_95['rho']:.1f}",
            fontsize=10,
        )
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("Δ = pruned − dense (points)")
    axes[1].legend(loc="upper left", fontsize=9)
    return fig


show(
    draw_groups(both, 1000),
    "The same ρ, two stories; 1,000 images a group, 95 % intervals",
    "Two panels with the change of accuracy of four groups. Left: A, B and C lose 4 points and D"
    " loses 9. Right: A, B and C lose 2 points and D gains 3. ρ is about 2.5 in both.",
)

# %% [markdown]
# That is why the report draws every group's Δ beside ρ: a disparity says *how unequal*, the picture says *who*.

# %%
loss, gain = (disparities(*answers(c, 1000), B=500) for c in (LOSS, GAIN))
assert (
    abs(loss.value["rho"] - 2.5) < 1.7
    and abs(gain.value["rho"] - 2.5) < 1.7
    and loss.value["psi"] > gain.value["psi"]
)
shown = interval_table(*answers(GAIN, 1000), NAMES, B=500)
# D is apart from each of the others
assert shown.delta_low["group D"] > shown.delta_high[["group A", "group B", "group C"]].max()

# %% [markdown]
# ## In short
#
# 1. **Accuracy first.** A network that guesses treats everybody alike: ρ = 0. One that gives the same answer to everybody has the share of that answer as its accuracy in each group, and a ρ that
#    means nothing. The report names such networks below its table and marks them with †.
# 2. **Then ρ against its floor**, and the interval, which asks for a little more: does it begin at 0? If so, the test set shows no disparity, and its upper end says what might be there all the same.
# 3. **Then who**: the Δ of every group with its interval. ρ counts a gain like a loss; ψ counts the worst-off group only.
# 4. **Two methods differ** when their intervals do not overlap, at equal rate and scope and after as much training. One seed is one draw: networks of other seeds differ too, and none of these intervals holds that. The report's
#    second floor, dense against dense of another seed, does.
# 5. Groups are labels that somebody gave, and a small disparity on one test set is no licence to use a network on people.
#
# How the figures are computed, and how often the intervals hold the truth in 2,000 simulated test sets: [disparity and chance](../judge/02_disparity.ipynb). What a report looks like: [report](../report/08_page.ipynb).
