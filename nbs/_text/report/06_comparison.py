# %% [markdown]
# # Comparing runs
#
# > Settings and results side by side, and the sentences that they support

# %%
#| default_exp report.comparison

# %%
#| export
from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd

from fairgrape.judge.compare import collapsed
from fairgrape.judge.disparity import disparity
from fairgrape.methods import registry as baselines
from fairgrape.methods.registry import as_released
from fairgrape.report.runs import ADDED, Run, experiment, variant

# %% [markdown]
# The examples are runs with made-up numbers: 400 test images of four groups of decreasing size, and losses that we choose. `answers` makes the predictions, and `example` measures them as a real run does.

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

from fairgrape.judge.compare import compare

names, root = [f"tone-{i}" for i in (1, 2, 3, 4)], Path(tempfile.mkdtemp())
start = dict(
    dataset="synthetic",
    task="expression",
    groups="tone",
    split="official",
    network="resnet10",
    weights="none",
    image_size=32,
    method="fairgrape",
    rate=0.9,
    keep=0.6,
    scope="layer",
    epochs="4,1",
    lrs="1e-3,1e-4",
    retrain_epochs=1,
    batch=64,
    augment="flip",
    seed=0,
    bootstrap=200,
)


# labels, dense and pruned predictions, groups: the same images for every seed
def answers(loss, seed):
    y, groups = np.arange(400) % 3, np.repeat(np.arange(4), [160, 120, 80, 40])
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random(400) < 0.92, y, (y + 1) % 3)
    return y, dense, np.where(rng.random(400) < np.array(loss)[groups], (y + 2) % 3, dense), groups


def example(loss=(0.02, 0.03, 0.05, 0.10), **changed):
    s = start | changed
    metrics = compare(
        *answers(loss, s["seed"]), {"expression": ["happy", "calm", "sad"]}, names, B=s["bootstrap"]
    )
    steps = pd.DataFrame() if s["method"] == "dense" else pd.DataFrame(dict(step=[1, 2]))
    return Run(
        root / f"{s['method']}-{s['rate']}-{s['scope']}-{s['seed']}",
        s,
        {},
        metrics,
        pd.DataFrame(),
        steps,
        pd.DataFrame(),
    )


run = example()
runs = [run, example(scope="global"), example(seed=1), example(method="dense", seed=2)]
for scope in ("layer", "global"):
    runs += [
        example((0.02, 0.05, 0.08, 0.35), method="ws", scope=scope),
        example((0.10, 0.12, 0.12, 0.14), method="ws", scope=scope, rate=0.99),
        example((0.05, 0.10, 0.20, 0.45), scope=scope, rate=0.99),
    ]


# the same results under other settings
def changed(**more):
    return replace(run, settings=run.settings | more)


runs


# %% [markdown]
# ## One row per run
#
# The table has numbers only, so plots and your own analyses can start from it. Each row has what a reader needs to
# judge a result: scope, keep rate, retraining epochs, test images. A one-shot method has no keep rate and no retraining between steps, whatever its settings are.
# The lottery ticket trains on the full schedule after each step, and SNIP and GraSP in steps do not train between steps.

# %%
#| export
def _rounds(run: Run) -> tuple[float, float]:
    """Fraction kept at each step and epochs of training after it; NaN for one-shot
    pruning.
    """
    s, how = ADDED | run.settings, baselines.METHODS.get(run.settings["method"])
    steps = how.steps if how and s["steps"] == "published" else s["steps"]
    if steps == "one shot" or (steps == "published" and len(run.steps) <= 1):
        return np.nan, np.nan
    if how and how.start == "initial":
        return float(s["keep"]), 0.0
    if how and s["as_released"]:
        how = as_released(how)
    full = how and how.rounds == "full"
    return float(s["keep"]), float(
        sum(map(int, str(s["epochs"]).split(","))) if full else s["retrain_epochs"]
    )


# %%
rounds = {
    m: _rounds(changed(method=m, steps="iterative"))
    for m in ("lottery", "lottery_short", "grasp", "ws", "one's own")
}
rounds

# %%
assert rounds == {
    "lottery": (0.6, 5),
    "lottery_short": (0.6, 1),
    "grasp": (0.6, 0),
    "ws": (0.6, 1),
    "one's own": (0.6, 1),
} and _rounds(run) == (0.6, 1)
assert np.isnan(
    [
        _rounds(changed(**one))
        for one in (dict(method="ws"), dict(steps="one shot"), dict(method="snip"))
    ]
).all()
assert np.isnan(
    _rounds(replace(changed(method="one's own"), steps=pd.DataFrame(dict(step=[1]))))
).all()
assert _rounds(changed(method="one's own")) == (0.6, 1)  # unknown method: its number of steps tells


# %%
#| export
def _cap(settings: dict) -> float:
    """Maximum images of a group that the importance used; NaN if the method uses none, or
    one batch.
    """
    how = baselines.METHODS.get(settings["method"])
    return (
        float(settings.get("importance_cap") or 0)
        if how and "importance_cap" in baselines.touches(how)
        else np.nan
    )


# %%
caps = {
    m: _cap(dict(method=m, importance_cap=300))
    for m in ("fairgrape", "importance", "ws", "snip", "one's own")
}
print(caps)
assert (
    caps["fairgrape"] == caps["importance"] == 300
    and np.isnan([caps["ws"], caps["snip"], caps["one's own"]]).all()
    and _cap(dict(method="fairgrape")) == 0
)


# %% [markdown]
# The measurements: both disparities with their intervals, the noise floor of ρ, and each group's change, with names for table columns.

# %%
#| export
def _measured(metrics: dict) -> dict:
    "Disparities, their intervals and floors, and size, change and interval of each group."
    row = {}
    for kind in ("rho", "psi"):
        of = metrics["disparities"][kind]
        row |= {kind: of["value"], f"{kind}_low": of["low"], f"{kind}_high": of["high"]}
    row |= {k: metrics["disparities"]["rho"][k] for k in ("floor_mean", "floor_95")}
    for group in metrics["table"]:
        if group["group"] != "all":
            row |= {
                f"{k}:{group['group']}": group.get(v)
                for k, v in dict(n="n", delta="delta", low="delta_low", high="delta_high").items()
            }
    return row


# %%
own = _measured(run.metrics)
{
    k: round(own[k], 1)
    for k in ("rho", "rho_low", "rho_high", "floor_95", "n:tone-4", "delta:tone-4")
}

# %%
assert (
    own["rho"] == run.metrics["disparities"]["rho"]["value"]
    and own["rho_low"] < own["rho"] < own["rho_high"]
)
assert own["psi_low"] < own["psi"] == run.metrics["disparities"]["psi"]["value"]
assert np.isclose(own["rho"], disparity(pd.Series([own[f"delta:{name}"] for name in names]))) and [
    own[f"n:{name}"] for name in names
] == [160, 120, 80, 40]
assert (
    own["floor_mean"] < own["floor_95"] == run.metrics["disparities"]["rho"]["floor_95"]
    and "n:all" not in own
)
assert own["low:tone-4"] < own["delta:tone-4"] < own["high:tone-4"]


# %%
#| export
def _row(run: Run) -> dict:
    "A run as one row of the table."
    s, m, (keep, epochs) = run.settings, run.metrics, _rounds(run)
    row = {"run": run.path.name, "experiment": experiment(s)} | {
        k: s.get(k) for k in ("dataset", "task", "groups", "network", "image_size", "method")
    }
    row |= dict(
        variant=variant(s),
        label=variant(s),
        scope=s.get("scope"),
        seed=s.get("seed"),
        rate=float(s["rate"]),
        keep=keep,
        retrain_epochs=epochs,
        importance_cap=_cap(s),
        collapsed=" and ".join(collapsed(m.get("rates", []))),
        test_images=m["n"],
        accuracy_dense=m["accuracy_dense"],
        accuracy=m["accuracy_pruned"],
    )
    return row | _measured(m)


# %%
{
    k: v
    for k, v in _row(run).items()
    if k in ("run", "method", "label", "scope", "rate", "keep", "retrain_epochs", "test_images")
}

# %%
row = _row(changed(rate="0.5", seed=7))
assert (
    row["rate"],
    row["seed"],
    row["keep"],
    row["retrain_epochs"],
    row["importance_cap"],
    row["test_images"],
    row["scope"],
) == (0.5, 7, 0.6, 1, 0, 400, "layer")
assert row["experiment"] == experiment(run.settings)
assert (
    row["accuracy"]
    == run.metrics["accuracy_pruned"]
    < row["accuracy_dense"]
    == run.metrics["accuracy_dense"]
    and row["rho"] == own["rho"]
)
assert (
    _row(changed(steps="one shot"))["label"]
    == _row(changed(steps="one shot"))["variant"]
    == "fairgrape, one shot"
)


# %% [markdown]
# If runs of one method differ in the fraction kept per step, "fairgrape" is ambiguous. Only then does the label include that fraction.

# %%
#| export
def _tell_apart(table: pd.DataFrame) -> pd.DataFrame:
    "Add keep or epochs to the labels if runs of one experiment and variant differ in them."
    for _, same in table.groupby(["experiment", "variant"]):
        for column, word in (
            ("keep", "keep"),
            ("retrain_epochs", "retraining epochs"),
            ("importance_cap", "importance cap"),
        ):
            if same[column].nunique() > 1:
                table.loc[same.index, "label"] += [f", {word} {v:g}" for v in same[column]]
    return table


# %%
def labels(*several):
    return _tell_apart(pd.DataFrame([_row(r) for r in several])).label.tolist()


labels(run, changed(keep=0.9), changed(keep=0.9, steps="one shot"))

# %%
assert labels(run, changed(keep=0.9), changed(keep=0.9, steps="one shot")) == [
    "fairgrape, keep 0.6",
    "fairgrape, keep 0.9",
    "fairgrape, one shot",
]
assert labels(run, changed(seed=1)) == ["fairgrape"] * 2
assert labels(run, changed(retrain_epochs=2, importance_cap=9)) == [
    "fairgrape, retraining epochs 1, importance cap 0",
    "fairgrape, retraining epochs 2, importance cap 9",
]
assert labels(run, changed(keep=0.9, limit=50)) == ["fairgrape"] * 2  # another experiment


# %% [markdown]
# Dense networks have no rows; their accuracy is in the column `accuracy_dense`.

# %%
#| export
def report_table(
    runs: list[Run],  # Finished runs
    # A row per run; accuracies in percent, disparities in points; per group `n:`, `delta:`,
    # `low:`, `high:`
) -> pd.DataFrame:
    """Settings and results of runs side by side.

    Raises: ValueError if none of them is pruned.
    """
    rows = [_row(run) for run in runs if run.settings["method"] != "dense"]
    if not rows:
        raise ValueError(
            f"none of the {len(runs)} runs is pruned, so there is nothing to compare: run a pruning"
            " method"
        )
    return _tell_apart(pd.DataFrame(rows)).sort_values(
        ["experiment", "rate", "scope", "label", "seed"], ignore_index=True
    )


# %%
table = report_table(runs)
table[
    [
        "label",
        "scope",
        "rate",
        "seed",
        "accuracy",
        "rho",
        "rho_low",
        "rho_high",
        "floor_95",
        "delta:tone-4",
        "n:tone-4",
    ]
].round(2)

# %%
assert (
    len(table) == 9
    and table.rate.is_monotonic_increasing
    and "dense" not in set(table.method)
    and (table.label == table.method).all()
)
assert table[["scope", "label", "seed"]].values.tolist()[:5] == [
    ["global", "fairgrape", 0],
    ["global", "ws", 0],
    ["layer", "fairgrape", 0],
    ["layer", "fairgrape", 1],
    ["layer", "ws", 0],
]
assert (
    table[table.method == "ws"][["keep", "retrain_epochs"]].isna().all(axis=None)
    and report_table([run, changed(keep=0.9)]).variant.nunique() == 1
)
try:
    report_table([example(method="dense")])
except ValueError as e:
    print(e)
else:
    raise AssertionError("a table was made of dense networks")


# %% [markdown]
# ## For reading
#
# The same table as text with rounded numbers, proper minus signs, and dashes for missing values.

# %%
#| export
def _signed(x: float) -> str:
    "A change in points, with its sign."
    return "–" if pd.isna(x) else f"{x:+.1f}".replace("-", "−")


def _plain(x: float) -> str:
    "A number without rounding."
    return "–" if pd.isna(x) else f"{x:g}"


# %%
print(_signed(-1.26), _signed(0.04), _signed(np.nan), _plain(0.975), _plain(np.nan))
assert (_signed(-1.26), _signed(0.04), _signed(np.nan)) == ("−1.3", "+0.0", "–") and (
    _plain(0.975),
    _plain(5.0),
    _plain(np.nan),
) == ("0.975", "5", "–")


# %% [markdown]
# A change means little without the number of test images. If all runs have the same test images, that number is in the heading; otherwise it is with each change.

# %%
#| export
def _group_columns(table: pd.DataFrame) -> dict:
    "Heading → texts: each group's change, with its number of test images."
    shown = {}
    for name in (c[2:] for c in table if c.startswith("n:") and table[c].notna().any()):
        sizes, values = table[f"n:{name}"].dropna().unique(), table[f"delta:{name}"].map(_signed)
        if len(sizes) == 1:
            shown[f"Δ {name} (n = {int(sizes[0]):,})"] = values
        else:
            shown[f"Δ {name} (n)"] = [
                v if v == "–" else f"{v} ({int(n):,})" for v, n in zip(values, table[f"n:{name}"])
            ]
    return shown


# %%
three = pd.DataFrame(
    {
        "n:a": [1500, 1500, 1500],
        "delta:a": [1.0, -2.0, 0.0],
        "n:b": [40, 50, np.nan],
        "delta:b": [1.0, -2.0, np.nan],
        "n:c": [np.nan] * 3,
        "delta:c": [np.nan] * 3,
    }
)
pd.DataFrame(_group_columns(three))

# %%
shown = {k: list(v) for k, v in _group_columns(three).items()}
assert shown == {
    "Δ a (n = 1,500)": ["+1.0", "−2.0", "+0.0"],
    "Δ b (n)": ["+1.0 (40)", "−2.0 (50)", "–"],
}


# %%
#| export
def display_table(
    table: pd.DataFrame,  # From `report_table`
) -> pd.DataFrame:  # The same as text, with readable headings
    """The table for reading: rounded, intervals beside values, n in the headings of
    the groups.
    """
    t, one = table, "{:.1f}".format
    collapsed = t.get("collapsed", pd.Series("", t.index))  # no better than the commonest class

    def between(k):
        return [
            f"{v:.1f} [{a:.1f}, {b:.1f}]" for v, a, b in zip(t[k], t[f"{k}_low"], t[f"{k}_high"])
        ]

    shown = {
        "Method": t.label,
        "Rate": t.rate.map(_plain),
        "Scope": t.scope,
        "Accuracy dense": t.accuracy_dense.map(one),
        "Accuracy": [one(a) + (" †" if gone else "") for a, gone in zip(t.accuracy, collapsed)],
        "ρ [95 %]": between("rho"),
        "Floor of ρ: mean, 95 %": [f"{a:.1f}, {b:.1f}" for a, b in zip(t.floor_mean, t.floor_95)],
        "ψ [95 %]": between("psi"),
    }
    how = {
        "Keep a step": t.keep.map(_plain),
        "Retraining epochs a step": t.retrain_epochs.map(_plain),
        "Seed": t.seed,
        "Dataset": t.dataset,
        "Groups": t.groups,
        "Test images": t.test_images.map("{:,}".format),
        "Network": [f"{n}, {px} px" for n, px in zip(t.network, t.image_size)],
    }
    return pd.DataFrame(shown | _group_columns(t) | how)


# %%
display_table(table).head(3).T

# %%
shown = display_table(table)
assert {
    "Scope",
    "Keep a step",
    "Retraining epochs a step",
    "Dataset",
    "Test images",
    "Δ tone-4 (n = 40)",
} <= set(shown) and shown.Network[0] == "resnet10, 32 px"
assert set(shown[shown.Method == "ws"]["Keep a step"]) == {"–"} and set(
    shown[shown.Method == "fairgrape"]["Keep a step"]
) == {"0.6"}
first = table.iloc[0]
assert shown["ρ [95 %]"][
    0
] == f"{first.rho:.1f} [{first.rho_low:.1f}, {first.rho_high:.1f}]" and shown["ψ [95 %]"][
    0
].startswith(f"{first.psi:.1f} [")
assert shown["Accuracy"][0] == f"{first.accuracy:.1f}"
guess = example((0.0, 0.0, 0.0, 0.0))
guess = replace(
    guess,
    metrics=compare(
        y := np.arange(400) % 3 % 2,
        y,
        0 * y,
        np.arange(400) % 4,
        {"smile": ["no", "yes"]},
        names,
        B=50,
    ),
)
# 267 of 400 do not smile
assert (
    report_table([guess]).collapsed[0] == "pruned"
    and display_table(report_table([guess]))["Accuracy"][0] == "66.8 †"
)
assert (
    report_table(runs).collapsed.eq("").all()
    and not display_table(table.drop(columns="collapsed"))["Accuracy"].str.contains("†").any()
)


# %% [markdown]
# The same as markdown, for example for a README:

# %%
#| export
def markdown_table(
    frame: pd.DataFrame,  # What to show, e.g. from `display_table`
) -> str:  # A table in markdown; the index is not shown
    "A table as markdown; a bar inside a cell is escaped."

    def line(cells):
        return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"

    return "\n".join(
        [
            line(frame),
            "|---" * frame.shape[1] + "|",
            *map(line, frame.itertuples(index=False, name=None)),
        ]
    )


# %%
print(markdown_table(display_table(table).iloc[:2, :6]))
assert (
    markdown_table(pd.DataFrame({"a": [1], "b|c": ["x|y"]}))
    == "| a | b\\|c |\n|---|---|\n| 1 | x\\|y |"
)


# %% [markdown]
# ## Supported statements
#
# A table tempts a reader to compare rows that differ in more than the method. Scope alone can change accuracy by ten points at a
# rate of 0.99. So there is a sentence only for pairs of runs of one experiment with equal scope, rate and seed, including the pairs
# in which the method is *not* better than the baseline.
#
# Overlapping intervals do not prove that two runs are equal, and one seed says little about a method. Each sentence claims only what its pair of
# runs shows.

# %%
#| export
def _sentence(own: pd.Series, base: pd.Series) -> str:
    "One run against the baseline run of the same experiment, scope, rate and seed."

    def of(r):
        return f"{r.rho:.1f} [{r.rho_low:.1f}, {r.rho_high:.1f}]"

    who, than = (f"{r.label}{':' if ',' in r.label else '’s'}" for r in (own, base))
    if own.rho >= base.rho:
        verdict = f"{who} ρ {of(own)} is not lower than {than} {of(base)}"
    else:
        verdict = f"{who} ρ {of(own)} is lower than {than} {of(base)}" + (
            ", but the intervals overlap" if own.rho_high >= base.rho_low else ""
        )
    low = (
        " Both lie within the noise floor."
        if own.rho <= own.floor_95 and base.rho <= base.floor_95
        else ""
    )
    keep = (
        ""
        if np.isnan(own.keep)
        else f", keep {own.keep:g}, retraining epochs a step: {own.retrain_epochs:g}"
    )
    at = f"At rate {own.rate:g}, scope {own['scope']}, seed {own.seed}{keep}"
    gone = [r.label for r in (own, base) if r.get("collapsed")]
    nothing = (
        f" It says nothing: {' and '.join(gone)} {'are' if len(gone) > 1 else 'is'} no better than"
        " the commonest class."
        if gone
        else ""
    )
    return (
        f"{at}: {verdict}; accuracy {own.accuracy:.1f} against {base.accuracy:.1f}.{low}{nothing}"
    )


# %%
same = dict(rate=0.9, scope="layer", seed=0)
base = pd.Series(
    dict(
        label="ws",
        rho=9.0,
        rho_low=8.0,
        rho_high=10.0,
        floor_95=5.0,
        keep=np.nan,
        accuracy=80.0,
        retrain_epochs=np.nan,
    )
    | same
)
better = pd.Series(
    dict(
        label="fairgrape",
        rho=1.0,
        rho_low=0.0,
        rho_high=2.0,
        floor_95=5.0,
        keep=0.6,
        accuracy=82.5,
        retrain_epochs=1.0,
    )
    | same
)
gone = pd.Series(dict(base) | dict(collapsed="pruned"))
print(_sentence(better, base), _sentence(base, better), _sentence(better, gone), sep="\n")

# %%
assert (
    _sentence(better, base)
    == "At rate 0.9, scope layer, seed 0, keep 0.6, retraining epochs a step: 1: fairgrape’s ρ 1.0"
    " [0.0, 2.0] is lower than ws’s 9.0 [8.0, 10.0]; accuracy 82.5 against 80.0."
)
assert _sentence(better, base).endswith("82.5 against 80.0.") and _sentence(better, gone).endswith(
    " It says nothing: ws is no better than the commonest class."
)
assert _sentence(gone, gone).endswith("ws and ws are no better than the commonest class.")
assert (
    "is not lower than fairgrape’s" in _sentence(base, better)
    and "keep" not in _sentence(base, better)
    and "is not lower" in _sentence(base, base)
)


def with_other(**more):
    return _sentence(pd.Series(dict(better) | more), base)


assert "but the intervals overlap" in with_other(rho_high=8.0) and "overlap" not in with_other(
    rho_high=7.9
)
assert "fairgrape, one shot: ρ" in with_other(label="fairgrape, one shot")
assert "within the noise floor" in _sentence(
    better, pd.Series(dict(base) | dict(floor_95=9.0))
) and "noise floor" not in with_other(floor_95=0.5)


# %%
#| export
def verdicts(
    table: pd.DataFrame,  # From `report_table`
    # The method for comparison: one in its published form, or a variant
    baseline: str = "ws",
) -> list[str]:  # A sentence for each run with a matching baseline run
    """Compare each method with the baseline, at equal experiment, scope,
    rate and seed.
    """
    said = []
    for _, cell in table.groupby(["experiment", "rate", "scope", "seed"], sort=False):
        for _, base in cell[cell.variant == baseline].iterrows():
            said += [_sentence(own, base) for _, own in cell[cell.variant != baseline].iterrows()]
    return said


# %%
said = verdicts(table)
print("\n".join(said))

# %%
# seed 1 has no baseline run, so it has no sentence
assert len(said) == 4 and not any("seed 1" in s for s in said)
lower, higher = [s for s in said if "is lower" in s], [s for s in said if "is not lower" in s]
assert len(lower) == len(higher) == 2 and all("rate 0.99" in s for s in higher)
# each column must agree
for column in ("experiment", "rate", "scope", "seed"):
    assert verdicts(table.assign(**{column: table.method.map(dict(ws=0, fairgrape=1))})) == []
pair = table[(table.rate == 0.9) & (table["scope"] == "layer") & (table.seed == 0)]
# another form of the baseline is not the baseline
other = pair.assign(variant=["ws, iterative", "ws"], label=["ws, iterative", "ws"])
assert (
    len(verdicts(other)) == 1
    and "ws, iterative: ρ" in verdicts(other)[0]
    and verdicts(pair, "fairgrape")[0].count("ws’s ρ") == 1
)


# %% [markdown]
# ## A second floor: another seed
#
# If the dense network is trained again from another seed, the groups' accuracies change although nothing is pruned. ρ between two such dense
# networks is a second floor. The bootstrap does not include it, because it resamples images, not training runs. For runs that differ only in their seed,
# it costs nothing to compute. Clusters are excluded: each dense network has its own, and cluster-1 of one network is not cluster-1 of another.

# %%
#| export
def _right(run: Run, which: str) -> pd.Series:
    """Share of heads that the `which` network predicts correctly, one value per test image, indexed
    by row and group.
    """
    p = run.predictions.set_index(["row", "group"])
    heads = [c.removeprefix("label_") for c in p if c.startswith("label_")]
    return pd.concat([p[f"{which}_{h}"] == p[f"label_{h}"] for h in heads], axis=1).mean(axis=1)


# %%
def with_predictions(seed, right, second=(1, 1, 1, 1)):
    """A run on four images; `right` marks those that its dense network predicts correctly,
    `second` the same for a second head.
    """
    made = replace(run, path=root / f"hand-{seed}", settings=run.settings | dict(seed=seed))
    made.path.mkdir(exist_ok=True)
    table = dict(
        row=range(4),
        group=["tone-1"] * 2 + ["tone-2"] * 2,
        label_0=1,
        dense_0=right,
        pruned_0=0,
        label_1=1,
        dense_1=second,
        pruned_1=1,
    )
    pd.DataFrame(table).to_parquet(made.path / "predictions.parquet")
    return made


hand = [with_predictions(0, [1, 1, 0, 0]), with_predictions(1, [1, 0, 1, 0])]
_right(hand[0], "dense")

# %%
assert (
    _right(hand[0], "dense").tolist() == [1, 1, 0.5, 0.5]
    and _right(hand[0], "pruned").tolist() == [0.5] * 4
    and _right(hand[0], "dense").index.names == ["row", "group"]
)


# %%
#| export
def _by_experiment(runs: Iterable[Run]) -> dict[str, dict[int, Run]]:
    """Experiment → seed → a run with predictions, and with groups that dense networks
    share.
    """
    found = {}
    for run in runs:
        predicted = (run.path / "predictions.parquet").is_file()
        if predicted and run.settings.get("groups") != "clusters":
            found.setdefault(experiment(run.settings), {}).setdefault(run.settings["seed"], run)
    return found


# %%
print({name[:20]: list(seeds) for name, seeds in _by_experiment(hand).items()})
clustered = replace(hand[0], settings=hand[0].settings | dict(groups="clusters"))
assert (
    _by_experiment([run, clustered]) == {}
    and len(_by_experiment([*hand, replace(hand[0], settings=hand[0].settings | dict(limit=4))]))
    == 2
)
assert _by_experiment([*hand, hand[1]]) == {experiment(run.settings): {0: hand[0], 1: hand[1]}}


# %%
#| export
def seed_floor(
    runs: list[Run],  # Runs with their predictions
    # A row per pair of seeds: experiment, seeds, `rho` of one dense net against the other (points)
) -> pd.DataFrame:
    "ρ between dense networks that differ only in their seed."
    rows = []
    for name, by_seed in _by_experiment(runs).items():
        for a, b in combinations(sorted(by_seed), 2):
            gain = (_right(by_seed[b], "dense") - _right(by_seed[a], "dense")).dropna()
            delta = 100 * gain.groupby("group").mean()
            rows.append(
                dict(
                    experiment=name,
                    seeds=f"{a} and {b}",
                    rho=float(disparity(delta)) if len(delta) > 1 else np.nan,
                )
            )
    return pd.DataFrame(rows, columns=["experiment", "seeds", "rho"])


# %% [markdown]
# By hand, for two runs on four images with two heads: in the first head the second dense network loses one of tone-1's two images (−25 points over both heads) and gains one of tone-2's
# two (+25), so ρ = 50/√2 = 35.4.

# %%
seed_floor(hand)

# %%
assert np.isclose(seed_floor(hand).rho[0], 50 / 2**0.5) and seed_floor(hand).seeds[0] == "0 and 1"
assert seed_floor(hand[:1]).empty and list(seed_floor([])) == ["experiment", "seeds", "rho"]
assert list(seed_floor([with_predictions(2, [1, 1, 1, 1]), *hand]).seeds) == [
    "0 and 1",
    "0 and 2",
    "1 and 2",
]
