# %% [markdown]
# # Over the seeds
#
# > Is a difference between two methods more than the effect of one seed?

# %%
#| default_exp report.seeds

# %%
#| export
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from fairgrape.report.figures import PALETTE, figure_of, name_ticks

# %% [markdown]
# The interval of ρ covers the choice of *people* in the test set. It does not cover another source of chance: the training. Another seed, with another order of the images
# and other initial weights, gives another ρ, especially at rates near 99 %. So a comparison of one run per method says little, however narrow the intervals are. Run both methods with several seeds, and look at the differences.
#
# The seeds are paired. Two methods with the same seed prune the same dense network and are tested on the same images, so the seed's common effect cancels in the difference, as in any experiment in which every
# subject gets both treatments.
#
# The example has three methods and six seeds. `b` is worse than `a` by about 10 at every seed; `c` is worse on average but better once.

# %%
table = pd.DataFrame(
    [
        dict(experiment="faces", rate=0.99, scope="layer", label=label, seed=seed, rho=rho)
        for label, values in dict(
            a=[2.0, 4.0, 3.0, 5.0, 4.0, 3.0],
            b=[12.0, 13.0, 13.0, 16.0, 15.0, 12.0],
            c=[1.0, 14.0, 12.0, 20.0, 6.0, 10.0],
        ).items()
        for seed, rho in enumerate(values)
    ]
)
table.pivot(index="seed", columns="label", values="rho")

# %% [markdown]
# ## Each method alone

# %%
#| export
CELL = ["experiment", "rate", "scope"]  # Columns that must agree for methods to be compared


def interval_of_mean(
    values,  # One number per seed, shape `(n,)`, n ≥ 2
    level: float = 95,  # Percent
) -> tuple[float, float]:  # Low and high; NaN for a single value
    "Student's interval of the mean over seeds, for few seeds and an unknown spread."
    values = np.asarray(values, float)
    if len(values) < 2:
        return np.nan, np.nan
    half = stats.t.ppf(0.5 + level / 200, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean() - half, values.mean() + half


# %% [markdown]
# The mean of 1, 2 and 3 is 2, their standard deviation 1, and Student's quantile for two degrees of freedom 4.30, so the interval is 2 ± 4.30 / √3:

# %%
interval_of_mean([1, 2, 3])

# %%
low, high = interval_of_mean([1, 2, 3])
assert np.isclose(high - 2, 4.3027 / 3**0.5, atol=1e-4) and np.isclose(low + high, 4)
assert np.isnan(interval_of_mean([1])).all()


# %%
#| export
def over_seeds(
    # A row per run, with `experiment`, `rate`, `scope`, `label`, `seed` and the measure:
    # `report_table`'s
    table: pd.DataFrame,
    measure: str = "rho",  # Which column, e.g. "rho", "psi" or "accuracy"
    # A row per experiment, rate, scope and method: `seeds`, `mean`, `low`, `high` (95 % of the
    # mean), `sd`, `least`, `most`
) -> pd.DataFrame:
    "Summarize each method over its seeds."

    def row(values: pd.Series) -> dict:
        low, high = interval_of_mean(values)
        return dict(
            seeds=len(values),
            mean=values.mean(),
            low=low,
            high=high,
            sd=values.std(),
            least=values.min(),
            most=values.max(),
        )

    groups = table.groupby([*CELL, "label"], sort=False)[measure]
    return pd.DataFrame([dict(zip([*CELL, "label"], key)) | row(values) for key, values in groups])


# %%
over_seeds(table).round({c: 1 for c in ("mean", "low", "high", "sd", "least", "most")})

# %%
summary = over_seeds(table).set_index("label")
assert summary.loc["a", ["seeds", "mean", "least", "most"]].tolist() == [6, 3.5, 2, 5]
assert (
    summary.low["b"] < summary["mean"]["b"] < summary.high["b"]
    and summary.sd["c"] > summary.sd["b"]
)


# %% [markdown]
# ## Two methods, paired
#
# With few seeds the distribution of the differences is unknown, so there is a test with weaker assumptions beside Student's interval. If the two methods did not differ, each difference could equally well have the other sign. The p-value is the share of the $2^n$
# choices of signs whose mean is at least as far from 0. With four seeds it cannot be below 2/16, with six not below 2/64: few seeds are weak evidence, and the p-value shows it.

# %%
#| export
def sign_test(
    differences,  # One number per seed, shape `(n,)`
) -> float:  # Two-sided p, exact up to 13 seeds, beyond that from random signs (fixed seed)
    """How often random signs give a mean at least as far from 0 (a permutation test of paired
    samples).
    """
    differences = np.asarray(differences, float)

    def mean(x, axis=-1):
        return x.mean(axis=axis)

    return float(
        stats.permutation_test(
            (differences,),
            mean,
            permutation_type="samples",
            n_resamples=9999,
            rng=np.random.default_rng(0),
        ).pvalue
    )


# %% [markdown]
# For three differences of one sign, only `+++` and `---` of the eight choices are as far from 0.

# %%
sign_test([10.0, 9.0, 11.0])

# %%
assert sign_test([10.0, 9.0, 11.0]) == 2 / 8 and sign_test([1.0] * 6) == 2 / 64
assert sign_test([1.0, -1.0]) == 1 and sign_test(np.arange(1.0, 21.0)) < 0.01


# %%
#| export
def paired(
    table: pd.DataFrame,  # As for `over_seeds`
    own: str = "fairgrape",  # The method to compare the others with
    measure: str = "rho",  # Which column
    # A row per experiment, rate, scope and other method: `seeds`, `difference` (other − own),
    # `low`, `high`, `above` (seeds with the other above), `p`
) -> pd.DataFrame:
    """Compare each other method with one, seed by seed; only common seeds count, and two are
    needed.
    """
    rows = []
    for key, part in table.groupby(CELL, sort=False):
        by_seed = part.pivot_table(index="seed", columns="label", values=measure)
        for other in by_seed.columns.drop(own, errors="ignore") if own in by_seed else []:
            d = (by_seed[other] - by_seed[own]).dropna()
            if len(d) < 2:
                continue
            low, high = interval_of_mean(d)
            rows.append(
                dict(zip(CELL, key))
                | dict(
                    label=other,
                    seeds=len(d),
                    difference=d.mean(),
                    low=low,
                    high=high,
                    above=int((d > 0).sum()),
                    p=sign_test(d),
                )
            )
    return pd.DataFrame(
        rows, columns=[*CELL, "label", "seeds", "difference", "low", "high", "above", "p"]
    )


# %%
differences = paired(table, "a")
differences.round(3)

# %%
assert (
    differences.label.tolist() == ["b", "c"]
    and differences.above.tolist() == [6, 5]
    and differences.difference.tolist() == [10, 7]
)
assert (
    differences.low[0] > differences.low[1] > 0
    and differences.p[0] == 2 / 64 < differences.p[1] == 4 / 64
)
# no pairs
assert len(paired(table, "nobody")) == len(paired(table[table.seed == 0], "a")) == 0
# a seed that one method lacks does not count
assert paired(table[(table.seed < 3) | (table.label != "b")], "a").seeds.tolist() == [3, 6]


# %% [markdown]
# The sentences claim no more than the numbers show. A difference whose interval includes 0 "is not decided". A difference that only the interval shows, but not the signs (p > 0.05), "seems" to exist.

# %%
#| export
def seed_verdicts(
    table: pd.DataFrame,  # As for `over_seeds`
    own: str = "fairgrape",  # The method to compare the others with
    measure: str = "rho",  # Which column
    name: str = "ρ",  # The name of the measure in the sentences
) -> list[str]:  # A sentence per other method
    "Compare each other method with one, in a sentence."
    return [
        _sentence(r, own, name, len(table[CELL].drop_duplicates()) > 1)
        for r in paired(table, own, measure).itertuples()
    ]


def _sentence(r, own: str, name: str, many: bool) -> str:
    where = f"{r.experiment}, rate {r.rate:g}, scope {r.scope}: " if many else ""
    side = "above" if r.difference > 0 else "below"
    said = f"{'is' if r.p <= 0.05 else 'seems'} {side} {own}'s"
    if r.low <= 0 <= r.high:
        said = "is not decided"
    return (
        f"{where}{r.label}'s mean {name} {said}: difference {r.difference:+.1f} [{r.low:+.1f},"
        f" {r.high:+.1f}] over {r.seeds} seeds, above in {r.above} of them (p = {r.p:.2g})".replace(
            "-", "−"
        )
    )


# %%
for sentence in seed_verdicts(table, "a"):
    print(sentence)

# %%
first, second = seed_verdicts(table, "a")
assert (
    first.startswith("b's mean ρ is above a's: difference +10.0")
    and "in 6 of them (p = 0.031)" in first
)
assert (
    second.startswith("c's mean ρ seems above a's: difference +7.0 [+1.0, +13.0]")
    and "(p = 0.062)" in second
)
assert seed_verdicts(table[table.seed < 3], "a")[1].startswith(
    "c's mean ρ is not decided: difference +6.0 [−"
)
assert seed_verdicts(table, "b")[0].startswith("a's mean ρ is below b's: difference −10.0")
assert seed_verdicts(pd.concat([table, table.assign(rate=0.9)]), "a")[0].startswith(
    "faces, rate 0.99, scope layer: b's"
)


# %% [markdown]
# ## The plot
#
# Each seed has a dot per method, and a line joins them. If all lines rise, the difference is consistent; if they cross, it depends on the seed. The bar is the mean.

# %%
#| export
def plot_seeds(
    table: pd.DataFrame,  # As for `over_seeds`, of one experiment, rate and scope
    measure: str = "rho",  # Which column
    name: str = "ρ, percentage points",
) -> Figure:  # Its label is the alternative text
    "Every method's values, joined seed by seed, with the methods in order of their mean."
    by_seed = table.pivot_table(index="seed", columns="label", values=measure)
    by_seed = by_seed[by_seed.mean().sort_values().index]
    fig, (ax,) = figure_of(1, 1, (1.6 + 1.3 * by_seed.shape[1], 3.6))
    x = np.arange(by_seed.shape[1])
    for (seed, values), marker in zip(by_seed.iterrows(), "os^Dv<>pPX*h" * len(by_seed)):
        ax.plot(
            x,
            values,
            color="0.55",
            linewidth=0.8,
            marker=marker,
            markerfacecolor=PALETTE[0],
            markeredgecolor="white",
            markersize=7,
            label=f"seed {seed}",
        )
    ax.hlines(by_seed.mean(), x - 0.25, x + 0.25, color="black", linewidth=2.5)
    name_ticks([ax], list(by_seed.columns))
    ax.set(
        ylabel=name,
        xlim=(-0.5, len(x) - 0.5),
        ylim=(min(0, float(np.nanmin(by_seed.to_numpy()))), None),
    )
    fig.legend(fontsize=7, frameon=False, loc="outside right center")
    fig.set_label(
        f"{name}, a dot per seed. Mean and range: "
        + "; ".join(
            f"{m} {v.mean():.1f} ({v.min():.1f} to {v.max():.1f})" for m, v in by_seed.items()
        )
        + "."
    )
    return fig


# %%
figure = plot_seeds(table)
figure

# %%
assert (
    figure.get_label()
    == "ρ, percentage points, a dot per seed. Mean and range: a 3.5 (2.0 to 5.0); c 10.5 (1.0 to"
    " 20.0); b 13.5 (12.0 to 16.0)."
)
(axes,) = figure.axes
assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "c", "b"] and [
    line.get_ydata().tolist() for line in axes.lines
][:2] == [[2, 1, 12], [4, 14, 13]]
