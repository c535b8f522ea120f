# %% [markdown]
# # The schedule
#
# > The pruning rate after each step, in exact fractions; no torch is imported

# %%
#| default_exp method.schedule

# %%
#| export
import math
from fractions import Fraction

# %% [markdown]
# The settings of a run are checked before torch is imported. This module has the parts that the checks need: the names of the scopes, exact rates, and the schedule.
#
# The scope says which layers share a budget of weights ([selection](02_selection.ipynb)): `layer` prunes every layer at the same rate, `global` has one budget for all layers, `erk` gives each layer a budget by its shape.

# %%
#| export
SCOPES = ("layer", "global", "erk")


# %% [markdown]
# ## Exact rates
#
# `int((1 - 0.9) * 1000)` is 99, because binary floats cannot represent 0.9. The number of kept weights must be exact, so it is computed
# from the decimal number as written, as an exact fraction.

# %%
#| export
def exact(rate: float | str | Fraction) -> Fraction:
    "`rate` as the exact fraction of its decimal notation."
    return rate if isinstance(rate, Fraction) else Fraction(str(rate))


# %%
print(exact(0.9), Fraction(0.9))
assert exact(0.9) == Fraction(9, 10) == exact("0.9") == exact(Fraction(9, 10)) and exact(
    0.975
) ** 2 == Fraction(950625, 1000000)


# %% [markdown]
# ## The schedule
#
# After step $i$ the cumulative rate is $r_i = \min(1 - \mathrm{keep}^i, r)$, until the target $r$ is reached. The number of weights at each step must not depend on rounding.

# %%
#| export
def _fraction(name: str, value) -> Fraction:
    "`value` as an exact fraction strictly between 0 and 1."
    try:
        number = exact(value)
    except ValueError:
        number = None
    if number is None or not 0 < number < 1:
        raise ValueError(f"{name} = {value!r}: choose a number above 0 and below 1, such as 0.9")
    return number


# %%
_fraction("rate", 0.9), _fraction("keep", "0.975")

# %%
# the float is slightly more than a tenth
assert _fraction("rate", 0.1) == Fraction(1, 10) != Fraction(0.1)
for wrong in (1, 0, -0.5, "most", float("nan")):
    try:
        _fraction("rate", wrong)
    except ValueError as e:
        print(e)
        assert str(e).startswith(f"rate = {wrong!r}")
    else:
        raise AssertionError(f"{wrong} was taken for a rate")


# %% [markdown]
# Without `keep` there is a single step to the target.

# %%
#| export
def schedule(
    rate: float | str,  # Target pruning rate, 0 < rate < 1
    keep: float | str | None = 0.9,  # Fraction kept at each step, 0 < keep < 1; None: one shot
) -> list[Fraction]:  # Cumulative pruning rate after each step
    """The cumulative rates r_i = min(1 − keep^i, rate).

    Raises: ValueError if a rate is not a number between 0 and 1, or for more than 1,000 steps.
    Source: paper, section 3.3; keep per step 0.9 (0.975 for UTKFace) in its experiments."""
    target, kept = _fraction("rate", rate), None if keep is None else _fraction("keep", keep)
    steps = 1 if kept is None else math.log1p(-float(target)) / math.log(float(kept))
    if steps > 1000:
        raise ValueError(
            f"keep = {keep}: a rate of {rate} takes {steps:,.0f} pruning steps, with training after"
            " each; choose a smaller keep, for at most 1,000"
        )
    rates = [target] if kept is None else [min(1 - kept, target)]
    while rates[-1] < target:
        rates.append(min(1 - kept ** (len(rates) + 1), target))
    return rates


# %%
(
    [float(r) for r in schedule(rate=0.9, keep=0.5)],
    len(schedule(0.99, 0.9)),
    len(schedule(0.99, 0.975)),
)

# %%
assert [float(r) for r in schedule(0.9, 0.5)] == [0.5, 0.75, 0.875, 0.9]
assert schedule(0.99, None) == [Fraction(99, 100)] and schedule(0.19, 0.9) == [
    Fraction(1, 10),
    Fraction(19, 100),
]
assert len(schedule(0.99, 0.9)) == 44  # 0.9 ** 43 = 0.0108, 0.9 ** 44 = 0.0097

# %%
for rate, keep in (
    (1.0, 0.9),
    (0, 0.9),
    (-0.5, 0.9),
    ("most", 0.9),
    (float("nan"), 0.9),
    (0.9, 1.0),
    (0.9, 0),
    (0.99, 0.9999),
):
    try:
        schedule(rate, keep)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"rate {rate}, keep {keep} was accepted")
