# %% [markdown]
# # Gate
#
# > May this network ship? It passes, it fails, or there are not enough images to tell

# %%
#| default_exp judge.gate

# %%
#| export
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtrit
from scipy.stats import norm

from fairgrape.judge.compare import _right
from fairgrape.judge.disparity import group_codes, same_images
from fairgrape.judge.resampling import delta_noise
from fairgrape.judge.tables import _some, check_groups


# %% [markdown]
# A smaller network may ship if no group loses more than, say, 2 points of accuracy. A test set can answer in three ways: every group is safely within the *tolerance*, some group is surely beyond it, or the groups are too small to say. The third answer is not a pass. It comes with the number
# of images that are missing.
#
# Two errors are possible, and only one of them is guarded. A network that breaks the tolerance passes on at most 5 % of test sets, whatever the number and the sizes of the groups. A network that keeps it may still be left undecided, the more often the fewer images there are; how often is [simulated](15_gate_errors.ipynb) on a page of its own.

# %% [markdown]
# ## All groups at once
#
# With one interval for each of 14 groups, each at 95 %, one of them misses its truth on about half of all test sets. So the intervals are made as wide as it takes for *all* of them to hold at once: measure each group's noise in its standard errors, take the largest of the groups in every resample, and
# take the 95 % quantile of these maxima. Groups that move together, because they share persons, need less than independent ones; the bootstrap sees that by itself. Of groups without any noise it sees nothing; they count as independent.

# %%
#| export
def simultaneous_z(
    noise: np.ndarray,  # Bootstrap noise of each group's change (points), shape `(B, G)`
    level: float = 0.95,  # Coverage of all intervals together
) -> float:  # Standard errors to each side, at least as many as one interval needs
    "How many standard errors the intervals of all groups need to hold together."
    centred = noise - noise.mean(axis=0)
    sd = centred.std(axis=0)
    largest = np.max(np.abs(centred[:, sd > 0]) / sd[sd > 0], axis=1, initial=0)
    quiet = max(1, int((sd == 0).sum()))
    return float(max(np.quantile(largest, level), norm.ppf((1 + level ** (1 / quiet)) / 2)))


# %%
draws = np.random.default_rng(0).normal(size=(40_000, 14))
{G: round(simultaneous_z(draws[:, :G]), 2) for G in (1, 2, 4, 14)}

# %% [markdown]
# For independent normal noise the value is known: each of G intervals has to cover with probability $0.95^{1/G}$. Groups that move exactly together need no more than one.

# %%
for G in (2, 4, 14):
    assert np.isclose(simultaneous_z(draws[:, :G]), norm.ppf((1 + 0.95 ** (1 / G)) / 2), rtol=0.02)
together = np.repeat(draws[:, :1], 14, axis=1)
assert np.isclose(simultaneous_z(together), norm.ppf(0.975), rtol=0.02)
assert simultaneous_z(np.zeros((9, 1))) == norm.ppf(0.975)
assert simultaneous_z(np.zeros((9, 2))) == norm.ppf((1 + 0.95**0.5) / 2)


# %% [markdown]
# ## Standard errors that small groups deserve
#
# Ten images without a change have a bootstrap noise of nearly nothing, and so have three persons who happen to agree. Three things keep such a group from passing as certain:
#
# - Its standard error is at least what it would be with two units more, one that gained and one that lost. On each of their images they change as much as any image of the test set did, so with one head they gain and lose everything (Bonett and Price 2012 add the same to paired proportions).
# - The multiple of the standard error is Student's for its number of units, which for few units is larger than the normal one.
# - A group of one image or of one person is left undecided.
#
# A *unit* is an image or, where persons are known, all images of one person: twenty photographs of one face are not twenty test images.

# %%
#| export
def _unit_sums(
    diff: np.ndarray, groups: np.ndarray, units: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum of the differences, number of images, and group of each unit within each group. A unit
    whose images lie in several groups has an entry in each.
    """
    if units is None:
        return diff, np.ones(len(diff)), groups
    both = pd.DataFrame(dict(group=groups, unit=units, diff=diff))
    sums = both.groupby(["group", "unit"], sort=True)["diff"].agg(["sum", "size"])
    of_group = sums.index.get_level_values("group").to_numpy()
    return sums["sum"].to_numpy(), sums["size"].to_numpy(float), of_group


# %%
groups = np.array([0, 0, 0, 0, 1, 1])
diff = np.array([-1, -1, 0, 0, 0, 1.0])
persons = np.array([7, 7, 8, 8, 8, 9])
_unit_sums(diff, groups, persons)

# %% [markdown]
# Person 7 lost both images, person 8 has two unchanged images in group 0 and one in group 1, person 9 gained.

# %%
sums, images, of_group = _unit_sums(diff, groups, persons)
assert sums.tolist() == [-2, 0, 0, 1] and images.tolist() == [2, 2, 1, 1]
assert of_group.tolist() == [0, 0, 1, 1]


# %%
#| export
def smallest_errors(
    diff: np.ndarray,  # Right after − right before, for each image, shape `(n,)`
    groups: np.ndarray,  # Group code of each image, shape `(n,)`
    units: np.ndarray | None = None,  # Code of the person each image shows; None: each image alone
) -> np.ndarray:  # Standard error of each group's mean (points), shape `(G,)`
    """Standard errors with two units more in each group, one that gained and one that lost.

    Source: Bonett and Price 2012 add the two units. Each has n / k images, where k = n² / Σ m² is
    the effective number of units of m images (Kish 1965, Survey Sampling)."""
    sums, images, of_group = _unit_sums(diff, groups, units)
    n = np.bincount(of_group, images)
    rest = sums - images * (np.bincount(of_group, sums) / n)[of_group]
    largest = np.abs(diff).max() or 1.0  # where nothing changed: a whole image
    more = 2 * (largest * np.bincount(of_group, images**2) / n) ** 2
    return 100 * np.sqrt(np.bincount(of_group, rest**2) + more) / n


# %% [markdown]
# Four images in group 0, of which two were lost: the squares around the mean of −½ add up to 1, the two additional images bring 2, so the standard error is 100 · √3 / 4 = 43 points. Drawn by persons the sums are −2 and 0 around −1 each, so 1 + 1, and the two additional persons of two images
# bring 2 · 2² = 8: 100 · √10 / 4 = 79 points. If persons have different numbers of images, those with many weigh more than those with few. Of 1, 1 and 4 images the last person has two thirds, and the effective number of persons is 6² / 18 = 2; the additional persons have 3 images each.

# %%
print(smallest_errors(diff, groups).round(1), smallest_errors(diff, groups, persons).round(1))
assert np.allclose(smallest_errors(diff, groups), [25 * 3**0.5, 50 * 2.5**0.5])
assert np.allclose(smallest_errors(diff, groups, persons), [25 * 10**0.5, 50 * 2.5**0.5])
# nothing changed anywhere, in ten images: ±100 · √2 / 10
assert np.allclose(smallest_errors(np.zeros(10), np.zeros(10, int)), 10 * 2**0.5)
# persons of 1, 1 and 4 images, of whom one lost 1 of 4: the residuals are 1/6, 1/6 and -1/3
uneven = np.array([0, 0, -1.0, 0, 0, 0])
faces = np.array([0, 1, 2, 2, 2, 2])
by_hand = 100 / 6 * (2 / 36 + 1 / 9 + 2 * 3**2) ** 0.5
assert np.allclose(smallest_errors(uneven, np.zeros(6, int), faces), by_hand)
# nothing changed, in three heads at most a third of them: the images can change by a third
assert np.allclose(smallest_errors(uneven / 3, np.zeros(6, int), faces), by_hand / 3)
# many images: the textbook's √(p(1 − p)/n)
lost = -(np.arange(10_000) < 500).astype(float)
assert np.allclose(
    smallest_errors(lost, np.zeros(10_000, int)), 100 * (0.05 * 0.95 / 1e4) ** 0.5, rtol=0.01
)

# %% [markdown]
# ## The answer
#
# A verdict is a table with an answer for each group, and one answer for all: one group that fails is enough to fail, one that cannot be told is enough not to pass.

# %%
#| export
STATUS = {"passes": 0, "fails": 1, "cannot tell": 3}  # answer → exit status


@dataclass(frozen=True)
class Verdict:
    "What `gate` answers; printed, it is one to three sentences."

    status: str  # 'passes', 'fails' or 'cannot tell'
    # A row for each group: n, units, delta, low, high (points), answer, more (units that are
    # missing for an answer; <NA> where no number would do)
    table: pd.DataFrame
    tolerance: float  # Points that a group may lose
    level: float  # Coverage of all groups' intervals together
    measure: str = "accuracy"  # What was lost
    per: str = "images"  # What a unit is

    @property
    def exit_status(self) -> int:
        "0 passes, 1 fails, 3 cannot tell"
        return STATUS[self.status]

    def __str__(self) -> str:
        return " ".join(_sentences(self))


# %% [markdown]
# How many units are missing follows from the standard error, which falls with the square root of their number: an interval that reaches c standard errors and has to reach no further than the tolerance needs $(c\,\text{se}/\text{gap})^2$ times as many. At the observed loss, that is; on a new test set it will be another one.
# The part of the standard error that the two additional units add falls faster, in proportion to the number of units. Both together give a quadratic equation. Few units need a larger multiple, so the number is found in a few rounds.

# %%
#| export
def _student(
    z: float,  # Standard errors that a normal mean needs
    units: np.ndarray,  # Number of independent units of each group
) -> np.ndarray:  # Standard errors that a mean of so few units needs
    "Student's multiple for the same coverage."
    return stdtrit(np.maximum(units, 2) - 1, ndtr(z))


def _missing(
    gap: np.ndarray,  # Distance of the change from the tolerance (points), shape `(G,)`
    se: np.ndarray,  # Standard errors (points), shape `(G,)`
    units: np.ndarray,  # Independent units, shape `(G,)`
    z: float,  # From `simultaneous_z`
    added: np.ndarray | float = 0.0,  # What the two additional units add to them, shape `(G,)`
) -> pd.array:  # Units that are missing, <NA> where the change is exactly the tolerance
    "How many more units each group needs for its interval to end at the tolerance."
    needed = units.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(50):
            by_gap = _student(z, needed) / np.abs(gap)
            half, square = units * (by_gap * se) ** 2 / 2, (units * by_gap * added) ** 2
            needed = np.maximum(half + np.sqrt(half**2 + square), 2)
    more = np.where(np.isfinite(needed) & (needed < 1e12), np.ceil(needed - units), np.nan)
    return pd.array(np.maximum(more, 0), dtype="Int64")


# %% [markdown]
# A change of −1 point with a standard error of 1, in 400 images: the interval reaches 1.96 to each side and may reach only 1, so it takes 1.96² = 3.84 times as many images, 1,137 more. A change that is exactly the tolerance is never told.

# %%
print(_student(1.96, np.array([3, 30, 3000])).round(2))
print(_missing(np.array([1.0, 0.5, 0]), np.ones(3), np.array([400, 400, 400]), z=1.96))
assert np.allclose(_student(norm.ppf(0.975), np.array([11, 10**7])), [2.228, 1.960], atol=1e-3)
# 25 units without a change: 100 · √2 / n standard errors, times 2.27, is below 2 from n = 160 on
still = _missing(np.array([2.0]), np.zeros(1), np.array([25]), z=2.236, added=100 * 2**0.5 / 25)
assert still.tolist() == [160 - 25]
missing = _missing(np.array([1.0, 0.5, 0, 3]), np.ones(4), np.full(4, 400), z=1.96)
assert abs(missing[0] - 1137) <= 3 and abs(missing[1] - (400 * 15.37 - 400)) <= 3
assert missing[2] is pd.NA and missing[3] == 0


# %%
#| export
def verdict_of(
    delta: np.ndarray,  # Change of each group (points), shape `(G,)`
    noise: np.ndarray,  # Its bootstrap noise (points), shape `(B, G)`
    smallest: np.ndarray,  # Standard errors that are not undercut (points), shape `(G,)`
    names: list[str],  # Name of each group
    n: np.ndarray,  # Images of each group, shape `(G,)`
    units: np.ndarray | None = None,  # Independent units of each group; None: the images
    tolerance: float = 2.0,  # Points that a group may lose
    level: float = 0.95,  # Coverage of all groups' intervals together
    measure: str = "accuracy",  # What was lost, for the sentences
) -> Verdict:
    "The answer for any measure whose change and noise are known. Raises: ValueError as `gate`."
    check_terms(tolerance, level)
    per, units = ("images", n) if units is None else ("persons", units)
    delta, units = np.asarray(delta, dtype=float), np.asarray(units)
    # n / (n − 1): the bootstrap's variance is that of the test set, not of what it was drawn from
    own = noise.std(axis=0) * np.sqrt(units / np.maximum(units - 1, 1))
    se, added = np.maximum(own, smallest), np.sqrt(np.maximum(smallest**2 - own**2, 0))
    z = simultaneous_z(noise, level)
    reach = _student(z, units) * se
    low, high = delta - reach, delta + reach
    answer = np.select([high < -tolerance, low > -tolerance], ["fails", "passes"], "cannot tell")
    answer[units < 2] = "cannot tell"
    more = _missing(delta + tolerance, own, units, z, added)
    more[answer != "cannot tell"] = 0
    rows = dict(n=n, units=units, delta=delta, low=low, high=high, answer=answer, more=more)
    table = pd.DataFrame(rows, index=pd.Index(names, name="group"))
    status = next(s for s in ("fails", "cannot tell", "passes") if (answer == s).any())
    return Verdict(status, table, float(tolerance), float(level), measure, per)


# %% [markdown]
# Terms that make no sense are refused before anything is computed.

# %%
#| export
def check_terms(
    tolerance: float,  # Points that a group may lose
    level: float,  # Coverage of all groups' intervals together
):
    "Raise ValueError for a tolerance outside 0 … 100 points or a level outside 0 … 1."
    if not 0 <= tolerance < 100:
        raise ValueError(
            f"tolerance is {tolerance}: give the points of accuracy that a group may lose, from 0"
            " to below 100"
        )
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a share between 0 and 1, such as 0.95")


# %%
for terms, said in (
    ((-1, 0.95), "tolerance is -1"),
    ((np.nan, 0.95), "tolerance is nan"),
    ((100, 0.95), "tolerance is 100"),
    ((2, 0), "level is 0"),
    ((2, 95), "level is 95"),
    ((2, np.nan), "level is nan"),
):
    try:
        check_terms(*terms)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError(f"{terms} were accepted")


# %% [markdown]
# The sentences name the group that decides: among failing groups the one that lost most, among undecided ones the one that needs most.

# %%
#| export
def _points(value: float) -> str:
    "Points as a person writes them: 2, 2.5, 0.25"
    shown = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if shown == "-0" else shown.replace("-", "−")


def _in_points(value: float) -> str:
    "1 point, 2 points, 0.5 points"
    return f"{_points(value)} point{'s' * (_points(value) != '1')}"


def _undecided(verdict: Verdict, name: str, row: pd.Series) -> str:
    "What is missing for the group that needs most."
    beyond, lost = row.delta <= -verdict.tolerance, -row.delta
    changed = f"loses {_in_points(lost)}" if lost >= 0 else f"gains {_in_points(-lost)}"
    seen = f"{name} {changed} of {verdict.measure} (interval"
    seen += f" {_points(-row.high)} to {_points(-row.low)})"
    if row.more is pd.NA:
        return f"{seen}: exactly what is tolerated, which no number of {verdict.per} decides."
    needs = f"about {row.more:,} more {verdict.per}"
    if beyond:
        return f"{seen}: {needs} would more likely show that it fails."
    return f"{name} needs {needs}. {seen.replace(name, 'It', 1)}."


def _sentences(verdict: Verdict) -> list[str]:
    "One to three sentences."
    t, tolerated = verdict.table, _in_points(verdict.tolerance)
    together = f"({100 * verdict.level:g} %, all {len(t)} groups together)"
    if verdict.status == "passes":
        name, most = t.low.idxmin(), -t.low.min()
        reach = f"at most {_in_points(most)}" if most > 0 else "none"
        return [
            f"Passes: no group loses more than {tolerated} of {verdict.measure}.",
            f"The group that may have lost most is {name}: {reach} {together}.",
        ]
    own = t[t.answer == verdict.status]
    if verdict.status == "fails":
        name = own.delta.idxmin()
        row, others = own.loc[name], own.index.drop(name).tolist()
        said = [
            f"Fails: {name} loses {_in_points(-row.delta)} of {verdict.measure};"
            f" interval {_points(-row.high)} to {_points(-row.low)} {together};"
            f" {_points(verdict.tolerance)} are tolerated."
        ]
        return said + ([f"Also failing: {_some(others, 14)}."] if others else [])
    name = own.more.fillna(np.iinfo(np.int64).max).idxmax()
    others = own.index.drop(name).tolist()
    said = [f"Cannot tell whether every group keeps within {tolerated} {together}:"]
    said.append(_undecided(verdict, name, own.loc[name]))
    return said + ([f"Undecided too: {_some(others, 14)}."] if others else [])


# %%
assert [_points(v) for v in (2, 2.5, 0.25, 10, -0.001, -1.2)] == [
    "2",
    "2.5",
    "0.25",
    "10",
    "0",
    "−1.2",
]
assert [_in_points(v) for v in (1, 2, 0.5, 0)] == ["1 point", "2 points", "0.5 points", "0 points"]
calm = np.random.default_rng(1).normal(size=(4000, 2))
size = np.array([400, 400])
for change in ([0, -0.5], [-8, -0.5], [-3, -6], [0, -1.5], [-3, -1], [0, -2]):
    print(
        verdict_of(change, 0.5 * calm if change[0] != -3 else calm, np.zeros(2), ["a", "b"], size)
    )

# %% [markdown]
# By hand: two groups at 95 % need 2.24 standard errors (2.25 with Student's 399), so with a standard error of 0.5 the intervals reach 1.12 to each side.

# %%
v = verdict_of([0, -0.5], 0.5 * calm, np.zeros(2), ["a", "b"], size)
assert v.status == "passes" and v.exit_status == 0
assert np.allclose(v.table.low, [-1.12, -1.62], atol=0.04) and v.table.more.tolist() == [0, 0]
assert "may have lost most is b: at most 1.6" in str(v)
v = verdict_of([-8, -0.5], 0.5 * calm, np.zeros(2), ["a", "b"], size)
assert v.status == "fails" and v.exit_status == 1 and str(v).startswith("Fails: a loses 8 points")
assert v.table.answer.tolist() == ["fails", "passes"]
v = verdict_of([-8, -1.5], 0.5 * calm, np.zeros(2), ["a", "b"], size)
assert v.status == "fails" and v.table.answer.tolist() == ["fails", "cannot tell"]  # fails beats it
v = verdict_of([-8, -9], 0.5 * calm, np.zeros(2), ["a", "b"], size)
assert str(v).startswith("Fails: b loses 9") and str(v).endswith("Also failing: a.")
v = verdict_of([0, -1.5], 0.5 * calm, np.zeros(2), ["a", "b"], size)
assert v.status == "cannot tell" and v.exit_status == 3
assert abs(v.table.more["b"] - 400 * ((2.24 * 0.5 / 0.5) ** 2 - 1)) < 80
assert "b needs about" in str(v) and "more images" in str(v)
v = verdict_of([0, -3], calm, np.zeros(2), ["a", "b"], size)
assert v.status == "cannot tell" and "more likely show that it fails" in str(v)
v = verdict_of([0, -2], calm, np.zeros(2), ["a", "b"], size)
assert "no number of images decides" in str(v) and v.table.more["b"] is pd.NA
# a floor under the standard error
v = verdict_of([0, 0], 0 * calm, np.array([0.1, 5]), ["a", "b"], size)
assert v.table.answer.tolist() == ["passes", "cannot tell"]


# %%
#| export
def gate(
    before: np.ndarray,  # Was the model before right? 0 or 1, or the mean over heads, shape `(n,)`
    after: np.ndarray,  # The same for the model after, same images, shape `(n,)`
    groups: np.ndarray,  # Group of each image, shape `(n,)`: codes, or names
    names: list[str],  # Name of each group
    tolerance: float = 2.0,  # Points of accuracy that a group may lose
    units: np.ndarray | None = None,  # Person on each image, shape `(n,)`; None: each image alone
    level: float = 0.95,  # Coverage of all groups' intervals together
    B: int = 2000,  # Number of resamples
    seed: int = 0,  # Seed of the draws
) -> Verdict:
    """Does any group lose more accuracy than is tolerated? Raises: ValueError for terms that make
    no sense, arrays that do not fit, fewer than two groups, a group without an image.
    """
    check_terms(tolerance, level)
    given = {} if units is None else dict(units=units)
    same_images(before=before, after=after, groups=groups, **given)
    diff, n = _right(after) - _right(before), check_groups(groups, names, least=1)
    codes, count = group_codes(groups, names), None
    if units is not None:
        units = unit_codes(units)
        count = np.bincount(_unit_sums(diff, codes, units)[2])
    delta, noise = delta_noise(diff, codes, len(names), units, B, seed, smooth=True)
    errors = smallest_errors(diff, codes, units)
    return verdict_of(delta[:-1], noise[:, :-1], errors, names, n, count, tolerance, level)


# %%
#| export
def unit_codes(
    units: np.ndarray,  # Person on each image, shape `(n,)`: names or numbers
) -> np.ndarray:  # Code of each image's person, from 0 on
    "Persons as codes. Raises: ValueError for images without one."
    number, _ = pd.factorize(np.asarray(units))
    missing = int((number < 0).sum())
    if missing:
        raise ValueError(
            f"{missing} of {len(number)} images have no person (NaN or None): give each a person,"
            " an unknown one a name of its own"
        )
    return number


# %% [markdown]
# ## Examples
#
# Four groups. The third truly loses 6 points, the others none. With 4,000 images it fails. With a tenth of them nothing can be said.

# %%
def test_set(n, net, changed=0.03, seed=0):
    "Right before and after, and groups: `net` points are lost in each group, `changed` both ways"
    rng, groups = np.random.default_rng(seed), np.repeat(np.arange(len(n)), n)
    draw = rng.random(len(groups))
    gain, loss = draw < changed, draw > 1 - changed + np.asarray(net)[groups] / 100
    before = np.where(gain, 0.0, np.where(loss, 1.0, rng.random(len(groups)) < 0.9))
    return before, np.where(gain, 1.0, np.where(loss, 0.0, before)), groups


tones = ["tone-1", "tone-2", "tone-3", "tone-4"]
large = test_set([400, 800, 1200, 1600], [0, 0, -6, 0])
print(gate(*large, tones))
gate(*large, tones).table.round(2)

# %%
fewer = test_set([40, 80, 120, 160], [0, 0, -6, 0])
print(gate(*fewer, tones))
gate(*fewer, tones).table.round(2)

# %%
enough = test_set([4000] * 4, [0, 0, -0.3, 0])
print(gate(*enough, tones))

# %%
assert gate(*large, tones).status == "fails" and gate(*large, tones).exit_status == 1
assert gate(*large, tones).table.answer["tone-3"] == "fails"
assert gate(*fewer, tones).status == "cannot tell" and gate(*enough, tones).status == "passes"
named = (large[0], large[1], np.array(tones)[large[2]])
pd.testing.assert_frame_equal(gate(*named, tones).table, gate(*large, tones).table)
assert not gate(*large, tones, seed=1).table.equals(gate(*large, tones).table)
# no tolerance at all is no pass, however many images
assert gate(*enough, tones, tolerance=0).status == "cannot tell"
# two networks that agree on everything: a group of ten images is not certain
same = np.ones(2010)
alike = gate(same, same, np.repeat([0, 1], [2000, 10]), ["many", "ten"])
print(alike)
assert alike.status == "cannot tell" and alike.table.answer.tolist() == ["passes", "cannot tell"]


# %% [markdown]
# ### Persons
#
# The same images, but 20 of each person, and 15 % of the persons lose two thirds of their images. Counted as images the answer would be a confident one.

# %%
def of_persons(persons, net, share=0.15, images=20, seed=0):
    "Groups of `persons` persons; a `share` of them loses, so that the group loses `net` points"
    rng, K = np.random.default_rng(seed), np.sum(persons)
    group = np.repeat(np.arange(len(persons)), persons)
    chance = np.where(rng.random(K) < share, -np.asarray(net)[group] / 100 / share, 0)
    after = (rng.random((K, images)) >= chance[:, None]).astype(float).ravel()
    return np.ones(K * images), after, np.repeat(group, images), np.repeat(np.arange(K), images)


*answers, faces = of_persons([100, 20], [-1, -10])
print("by images: ", gate(*answers, ["many", "few"], tolerance=5))
print("by persons:", gate(*answers, ["many", "few"], tolerance=5, units=faces))
gate(*answers, ["many", "few"], tolerance=5, units=faces).table.round(2)

# %%
by_image = gate(*answers, ["many", "few"], tolerance=5).table
by_person = gate(*answers, ["many", "few"], tolerance=5, units=faces).table
assert by_person.n.tolist() == [2000, 400] and by_person.units.tolist() == [100, 20]
assert by_image.delta.equals(by_person.delta)
assert ((by_person.high - by_person.low) > 2 * (by_image.high - by_image.low)).all()
as_names = np.array([f"person {p}" for p in faces])
pd.testing.assert_frame_equal(
    gate(*answers, ["many", "few"], tolerance=5, units=as_names).table, by_person
)

# %% [markdown]
# A group of one image, or of one person, is never decided, whatever it shows: the gate asks for more.

# %%
lone = gate(np.ones(401), np.ones(401), [0] * 400 + [1], ["many", "one"], tolerance=10)
print(lone)
assert lone.table.answer.tolist() == ["passes", "cannot tell"] and lone.exit_status == 3
assert lone.table.more["one"] == 33  # 34 images pass where nothing changes, see 15_gate_errors
faces, who = [1, 2, 3, 4, 5, 5, 5, 5], [0, 0, 0, 0, 1, 1, 1, 1]
one_person = gate(np.ones(8), np.zeros(8), who, ["a", "b"], units=faces)
assert one_person.table.answer.tolist()[1] == "cannot tell"

# %% [markdown]
# Bad input is refused, with its reason.

# %%
ok = dict(before=np.ones(4), after=np.zeros(4), groups=[0, 0, 1, 1], names=["a", "b"])
for said, wrong in {
    "tolerance is -0.5": dict(tolerance=-0.5),
    "level is 1.5": dict(level=1.5),
    "there is only ['a']": dict(groups=[0] * 4, names=["a"]),
    "before 4, after 3": dict(after=[1, 1, 0]),
    "units 3": dict(units=[1, 2, 3]),
    "has other values": dict(after=[1, 1, 0, 2]),
    "too few test images in b (0)": dict(groups=[0, 0, 0, 0]),
    "1 of 4 images have no person": dict(units=["x", None, "y", "z"]),
}.items():
    try:
        gate(**(ok | wrong))
    except ValueError as e:
        print(e)
        assert said in str(e), said
    else:
        raise AssertionError(f"accepted: {said}")
