# %% [markdown]
# # Report
#
# > From run folders to tables, plots and one page that can be sent to someone

# %%
#| default_exp report

# %%
#| export
import base64
import html
import io
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from fairgrape import baselines
from fairgrape.as_released import as_released
from fairgrape.evaluation import disparity
from fairgrape.plots import plot_deltas, plot_disparity, plot_groups, plot_history, plot_price, plot_shares, plot_sparsity

# %% [markdown]
# A run leaves a folder of plain files: JSON for settings and results, CSV for what was logged on the way, parquet for predictions,
# safetensors for weights. Nothing here trains or measures. This notebook reads those files back, puts runs side by side and draws them, and
# it is careful about *which* runs may stand side by side.
#
# The examples need runs, and making real ones takes minutes. So here is a function that writes a folder in the same formats with made-up
# numbers: 400 test images, four groups, three layers.

# %%
import tempfile, torch
from dataclasses import replace
from safetensors.torch import save_file
from fairgrape.evaluation import compare

names = [f"tone-{i}" for i in (1, 2, 3, 4)]
start = dict(name="example", dataset="synthetic", task="expression", groups="tone", classes="", split="official", limit=0,
             network="resnet10", weights="none", image_size=32, method="fairgrape", rate=.9, keep=.6, scope="layer",
             epochs="4,1", lrs="1e-3,1e-4", retrain_epochs=1, retrain_lr=1e-4, batch=64, augment="flip", seed=0, bootstrap=200)

def answers(loss, seed):                               # labels, dense and pruned predictions, groups: the same images for every seed
    y, groups, rng = np.arange(400) % 3, np.repeat(np.arange(4), [160, 120, 80, 40]), np.random.default_rng(seed)
    dense = np.where(rng.random(400) < .92, y, (y + 1) % 3)
    return y, dense, np.where(rng.random(400) < np.array(loss)[groups], (y + 2) % 3, dense), groups

def write_tables(path, dense, seed, rate):
    stages = ["dense"] * 5 if dense else ["dense"] * 5 + ["step 1", "step 2", "final", "final"]
    pd.DataFrame([dict(label=l, stage=0, epoch=i, lr=1e-3, train_loss=1 / (i + 1), val_loss=1.1 / (i + 1), val_accuracy=90 - 40 / (i + 1),
                       seconds=1, kept=True) for i, l in enumerate(stages)]).to_csv(path / "history.csv", index=False)
    steps = [] if dense else [dict(step=i, rate=rate, kept=4012, sparsity=rate, seconds=2) for i in (1, 2)]
    pd.DataFrame(steps).to_csv(path / "steps.csv", index=False)
    share = np.random.default_rng(seed).dirichlet(np.full(4, 20), (2, 3))
    shares = {f"{when}:{g}": share[w, :, i] for w, when in enumerate(("before", "after")) for i, g in enumerate(names)}
    layers = {"layer": ["conv1", "layer1.0.conv1", "fc"], "weights": [1728, 36864, 1536], "kept": [400, 3000, 612]}
    if not dense: pd.DataFrame(layers | shares).to_csv(path / "layers.csv", index=False)

def write_example(root, loss=(.02, .03, .05, .10), **changed):
    s = start | changed; y, dense, pruned, groups = answers(loss, s["seed"])
    path = Path(root) / f"{s['method']}-{s['rate']}-{s['scope']}-{s['seed']}-{s['limit']}"; path.mkdir(parents=True)
    metrics = compare(y, dense, pruned, groups, {"expression": ["happy", "calm", "sad"]}, names, B=s["bootstrap"])
    files = dict(settings=s, environment={"python": "3.11"}, metrics=metrics)
    for name, what in files.items(): (path / f"{name}.json").write_text(json.dumps(what))
    write_tables(path, s["method"] == "dense", s["seed"], s["rate"])
    table = dict(row=np.arange(400), path="", split="test", group=np.array(names)[groups], label_expression=y, dense_expression=dense)
    pd.DataFrame(table | dict(pruned_expression=pruned)).to_parquet(path / "predictions.parquet")
    save_file({"fc.weight": torch.eye(3)}, path / "model.safetensors")
    save_file({"fc.weight": torch.eye(3, dtype=torch.uint8)}, path / "masks.safetensors")
    return path

root = Path(tempfile.mkdtemp()) / "runs"
path = write_example(root)
sorted(p.name for p in path.iterdir())


# %% [markdown]
# ## One run
#
# A `Run` holds what its folder says. The small files are read at once; predictions, masks and weights only when they are asked for, so that
# a report over hundreds of runs does not read gigabytes.

# %%
#| export
@dataclass(frozen=True, eq=False, repr=False)
class Run:
    "A finished run, read from its folder."
    path: Path            # The run's folder
    settings: dict        # All settings, as they were run
    environment: dict     # Versions, commit, threads, device
    metrics: dict         # What `compare` measured on the test images, and sparsity and seconds
    history: pd.DataFrame # A row per epoch of training
    steps: pd.DataFrame   # A row per pruning step
    layers: pd.DataFrame  # A row per prunable layer: weights, kept, importance shares `before:<group>`, `after:<group>`
    @cached_property
    def predictions(self) -> pd.DataFrame: return pd.read_parquet(self.path / "predictions.parquet")
    @cached_property
    def weights(self) -> dict[str, Tensor]: return load_file(self.path / "model.safetensors")
    @cached_property
    def masks(self) -> dict[str, Tensor]: return {name: mask.bool() for name, mask in load_file(self.path / "masks.safetensors").items()}
    def __repr__(self):
        said = (f"{k} {self.settings.get(k)}" for k in ("dataset", "method", "scope", "rate", "seed"))
        return f"Run({self.path.name}: {', '.join(said)})"


# %%
run = Run(path, {"method": "ws", "rate": .9}, {}, {}, *[pd.DataFrame()] * 3)
run

# %%
assert "method ws" in repr(run) and run.masks["fc.weight"].dtype == torch.bool and run.weights["fc.weight"].sum() == 3
assert len(run.predictions) == 400 and run.predictions is run.predictions      # read once

# %% [markdown]
# A run that was cut short leaves some of its files. It must not slip into a table as if it were done, so `load_run` refuses it and names
# what is missing. A file that is there but damaged is named too. `tensors=False` is for folders that were published without their large
# files. A dense network has a folder as well, with no layer table and no steps: it was not pruned.

# %%
#| export
SMALL = ("settings.json", "environment.json", "metrics.json", "history.csv", "steps.csv", "layers.csv")
LARGE = ("predictions.parquet", "model.safetensors", "masks.safetensors")

def _read(file: Path) -> dict | pd.DataFrame:
    "A JSON or CSV file; empty if the file is missing or empty."
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    try:
        if file.suffix == ".json": return json.loads(text or "{}")
        return pd.read_csv(io.StringIO(text)) if text.strip(' \r\n"') else pd.DataFrame()
    except ValueError as e: raise ValueError(f"{file} cannot be read ({e}): run it again with the same settings") from e

def load_run(
    path: str | Path,     # A run's folder
    tensors: bool = True, # Insist on predictions, weights and masks too
) -> Run:                 # What it holds
    """Read a run's folder back.

    Raises: FileNotFoundError for an incomplete folder, ValueError for a file that cannot be read; both name the file."""
    path = Path(path)
    if not path.is_dir(): raise FileNotFoundError(f"no run folder at {path}")
    read = lambda name: _read(path / name)
    dense = read("settings.json").get("method") == "dense"
    missing = [name for name in SMALL + LARGE * tensors if not (path / name).is_file() and not (dense and name == "layers.csv")]
    if missing: raise FileNotFoundError(f"{path} is not a finished run, it lacks {', '.join(missing)}: run it again with the same settings")
    return Run(path, *map(read, SMALL))


# %%
run = load_run(path)
run.layers.round(2)

# %%
unpruned = load_run(write_example(root.parent / "unpruned", method="dense"))
assert unpruned.steps.empty and unpruned.layers.empty and len(unpruned.history) == 5
assert run.settings["keep"] == .6 and run.metrics["n"] == 400 and len(run.history) == 9 and list(run.steps.step) == [1, 2]

# %%
broken = write_example(root.parent / "broken")
(broken / "masks.safetensors").unlink(); load_run(broken, tensors=False)
(broken / "steps.csv").unlink()
try: load_run(broken)
except FileNotFoundError as e: print(str(e).replace(str(root.parent), "…")); assert "steps.csv, masks.safetensors" in str(e)
else: raise AssertionError("an incomplete run was loaded")
damaged = write_example(root.parent / "damaged")
(damaged / "metrics.json").write_text('{"n": 4')
try: load_run(damaged)
except ValueError as e: print(str(e).replace(str(root.parent), "…")); assert "metrics.json" in str(e)
else: raise AssertionError("a truncated metrics.json was read")


# %% [markdown]
# ## Many runs
#
# In a folder of runs some may still be running. They are left out with a warning that says why; a folder without `settings.json` is no run
# and is passed over.

# %%
#| export
def find_runs(
    runs_root: str | Path, # The folder that holds run folders
    pattern: str = "*",    # Which folders' names, as a glob
) -> list[Run]:            # The finished runs, by name
    """All finished runs below a folder; unfinished ones are named in a warning.

    Raises: FileNotFoundError if the folder is missing or holds no finished run of that pattern."""
    root, runs = Path(runs_root), []
    if not root.is_dir(): raise FileNotFoundError(f"no runs folder at {root}")
    for file in sorted(root.glob(f"{pattern}/settings.json")):
        try: runs.append(load_run(file.parent, tensors=False))
        except (FileNotFoundError, ValueError) as e: warnings.warn(f"left out: {e}", stacklevel=2)
    if not runs: raise FileNotFoundError(f"no finished run matches {pattern!r} in {root}: run one first, or give another folder or pattern")
    return runs


# %%
for scope in ("layer", "global"):
    write_example(root, (.02, .05, .08, .35), method="ws", scope=scope)
    write_example(root, (.10, .12, .12, .14), method="ws", scope=scope, rate=.99)
    write_example(root, (.05, .10, .20, .45), scope=scope, rate=.99)
write_example(root, scope="global")
write_example(root, seed=1)
write_example(root, (0, 0, 0, 0), method="dense", seed=2)
(root / "notes").mkdir()
runs = find_runs(root)
runs

# %%
assert len(runs) == 10 and len(find_runs(root, "ws-*")) == 4
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try: find_runs(root.parent, "broken*/")
    except FileNotFoundError: print("nothing loadable in broken/")
assert not caught or "left out" in str(caught[0].message)
write_example(root.parent / "half", method="ws"); half = write_example(root.parent / "half"); (half / "metrics.json").unlink()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always"); assert len(find_runs(half.parent)) == 1
assert "metrics.json" in str(caught[0].message)
for wrong in ((root / "nowhere",), (root, "snip-*")):
    try: find_runs(*wrong)
    except FileNotFoundError as e: print(str(e).replace(str(root), "runs"))
    else: raise AssertionError(f"{wrong} was accepted")

# %% [markdown]
# ## What a run is called
#
# A method's name alone is not enough once its form can be set: WS in steps, FairGRAPE in one shot, importance of one group only. `variant` names the run by what differs from the method's published form, and says nothing
# where nothing does. The scope is not in the name. It has a column of its own and a place in every sentence, for *each* run and not only for those that deviate, because methods are compared at equal scope.
#
# Runs made before a setting was there lack it. They were made with its default, so that is what a missing one means.

# %%
#| export
# settings that older runs lack
ADDED = dict(steps="published", as_released=False, importance_on="", importance_groups="", clusters=0, imbalance="")

def variant(
    settings: dict, # A run's settings
) -> str:           # E.g. "ws, iterative"
    "How a run is called in tables: its method, and what differs from the published form."
    s = ADDED | settings
    known, k = baselines.METHODS.get(s["method"]), f"{s['clusters']} " if s["clusters"] else ""
    said = [s["steps"]] if known and s["steps"] not in ("published", known.steps) else []
    if s["importance_on"]: said.append(f"importance on {s['importance_on']}")
    by = f"{k}clusters" if s["importance_groups"] == "clusters" else s["importance_groups"]
    if by: said.append(f"groups by {by}")
    if s["as_released"]: said.append("as released")
    return ", ".join([s["method"], *said])


# %%
forms = (dict(), dict(steps="one shot"), dict(importance_on="race!=White"),
         dict(importance_groups="clusters", clusters=4), dict(as_released=True))
[variant(dict(method="fairgrape") | form) for form in forms]

# %% [markdown]
# WS was published as one shot and FairGRAPE in steps, so each is plain in its own form, whether the setting says "published" or the form itself.

# %%
assert variant(run.settings) == "fairgrape" and not {"steps", "as_released"} & set(run.settings)
for name, own, other in (("fairgrape", "iterative", "one shot"), ("ws", "one shot", "iterative")):
    assert {variant(dict(method=name) | form) for form in (dict(steps=own), dict(steps="published"), dict(scope="global"))} == {name}
    assert variant(dict(method=name, steps=other)) == f"{name}, {other}"
assert variant(dict(method="dense")) == "dense" and variant(dict(method="one's own", steps="iterative")) == "one's own"
assert variant(dict(method="fairgrape", importance_groups="gender", as_released=True)) == "fairgrape, groups by gender, as released"


# %% [markdown]
# Two runs can be compared if they started from the same thing: the same data, task, groups, network and training. `experiment` says in one
# line what that is; runs with equal lines belong together.

# %%
#| export
def experiment(
    settings: dict, # A run's settings
) -> str:           # What it shares with the runs it may be compared with
    "The part of the settings that must be equal before two runs are compared."
    s = {k: ",".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in settings.items()}
    say = lambda **names: [f"{name} {s[key]}" for key, name in names.items() if s.get(key) not in (None, "", 0)]
    groups = f"{s.get('clusters') or ''} clusters".strip() if s.get("groups") == "clusters" else s.get("groups")
    head = f"{s.get('dataset')}: {s.get('task')} by {groups}, {s.get('network')} at {s.get('image_size')} px"
    exact = [] if s.get("precision") in (None, "fp32") else [s["precision"]]
    return "; ".join([head, *exact] + say(weights="weights", classes="classes", imbalance="imbalance", split="split", limit="limited to",
                                  epochs="epochs", lrs="learning rates", batch="batch", augment="augmentation"))


# %%
experiment(run.settings)

# %%
assert len({experiment(r.settings) for r in runs}) == 1
assert experiment(run.settings | {"method": "ws", "rate": .5, "scope": "global", "seed": 7}) == experiment(run.settings)
for change in (dict(limit=500), dict(epochs="9"), dict(groups="tone*expression"), dict(classes=["happy", "sad"]),
               dict(imbalance="tone=tone-1:0.2")):
    assert experiment(run.settings | change) != experiment(run.settings)
assert experiment(run.settings | ADDED) == experiment(run.settings)          # an old run and a new one with the defaults belong together
clustered = run.settings | dict(groups="clusters")
assert "by 4 clusters," in experiment(clustered | dict(clusters=4)) and "by clusters," in experiment(clustered)


# %% [markdown]
# The table: one row a run, numbers only, so that plots and one's own analyses can start from it. What a reader of a result must know to
# judge it is in the row: scope, keep rate, retraining epochs, test images. Dense networks have no row of their own; they stand in the
# column `accuracy_dense`. A method that prunes at one stroke has no keep rate and no retraining between steps, whatever its settings say;
# the lottery trains in full after each step, and SNIP and GraSP in steps do not train between them.

# %%
#| export
def _rounds(run: Run) -> tuple[float, float]:
    "Fraction kept at each step and epochs of training after it; NaN where everything was pruned at once."
    s, how = ADDED | run.settings, baselines.METHODS.get(run.settings["method"])
    steps = how.steps if how and s["steps"] == "published" else s["steps"]
    if steps == "one shot" or (steps == "published" and len(run.steps) <= 1): return np.nan, np.nan
    if how and how.start == "initial": return float(s["keep"]), 0.
    if how and s["as_released"]: how = as_released(how)
    full = how and how.rounds == "full"
    return float(s["keep"]), float(sum(map(int, str(s["epochs"]).split(","))) if full else s["retrain_epochs"])

def _cap(settings: dict) -> float:
    "Most images of a group that the importance saw; NaN where the method looks at none, or at one batch"
    how = baselines.METHODS.get(settings["method"])
    return float(settings.get("importance_cap") or 0) if how and "importance_cap" in baselines.touches(how) else np.nan

def _row(run: Run) -> dict:
    "A run as one row of the table."
    s, m, (keep, epochs) = run.settings, run.metrics, _rounds(run)
    row = {"run": run.path.name, "experiment": experiment(s)}
    row |= {k: s.get(k) for k in ("dataset", "task", "groups", "network", "image_size", "method")}
    row |= dict(variant=variant(s), label=variant(s), scope=s.get("scope"), seed=s.get("seed"), rate=float(s["rate"]),
                keep=keep, retrain_epochs=epochs, importance_cap=_cap(s), test_images=m["n"],
                accuracy_dense=m["accuracy_dense"], accuracy=m["accuracy_pruned"])
    for kind in ("rho", "psi"):
        measured = m["disparities"][kind]
        row |= {kind: measured["value"], f"{kind}_low": measured["low"], f"{kind}_high": measured["high"]}
    row |= {k: m["disparities"]["rho"][k] for k in ("floor_mean", "floor_95")}
    for group in m["table"]:
        if group["group"] != "all": row |= {f"{k}:{group['group']}": group.get(v) for k, v in
                                            dict(n="n", delta="delta", low="delta_low", high="delta_high").items()}
    return row

def _tell_apart(table: pd.DataFrame) -> pd.DataFrame:
    "Labels that say keep or epochs too, where runs of one experiment and variant differ in them"
    for _, same in table.groupby(["experiment", "variant"]):
        for column, word in (("keep", "keep"), ("retrain_epochs", "retraining epochs"), ("importance_cap", "importance cap")):
            if same[column].nunique() > 1: table.loc[same.index, "label"] += [f", {word} {v:g}" for v in same[column]]
    return table

def report_table(
    runs: list[Run], # Finished runs
) -> pd.DataFrame:   # A row per run; accuracies in percent, disparities in points; per group `n:`, `delta:`, `low:`, `high:`
    """Settings and results of runs side by side.

    Raises: ValueError if none of them is pruned."""
    rows = [_row(run) for run in runs if run.settings["method"] != "dense"]
    if not rows: raise ValueError(f"none of the {len(runs)} runs is pruned, so there is nothing to compare: run another method")
    return _tell_apart(pd.DataFrame(rows)).sort_values(["experiment", "rate", "scope", "label", "seed"], ignore_index=True)


# %%
table = report_table(runs)
table[["label", "scope", "rate", "seed", "accuracy", "rho", "rho_low", "rho_high", "floor_95", "delta:tone-4", "n:tone-4"]].round(2)

# %%
assert len(table) == 9 and table.rate.is_monotonic_increasing and (table["n:tone-4"] == 40).all() and table.test_images.eq(400).all()
one = table[table.run == path.name].iloc[0]
assert one.rho == run.metrics["disparities"]["rho"]["value"] and one.rho_low < one.rho < one.rho_high and one.psi_low < one.psi
assert np.isclose(one.rho, disparity(one[[f"delta:{name}" for name in names]].astype(float)))
assert one.keep == .6 and one.retrain_epochs == 1 and one["scope"] == "layer"
assert table[table.method == "ws"][["keep", "retrain_epochs"]].isna().all(axis=None) and "dense" not in set(table.method)
assert (table.label == table.method).all() and (table.variant == table.method).all()                 # old runs: plain names
changed = lambda **more: replace(run, settings=run.settings | more)
apart = report_table([run, changed(keep=.9), changed(keep=.9, steps="one shot")])
assert apart.label.tolist() == ["fairgrape, keep 0.6", "fairgrape, keep 0.9", "fairgrape, one shot"] and apart.variant.nunique() == 2
rounds = {m: _rounds(changed(method=m, steps="iterative")) for m in ("lottery", "lottery_short", "grasp", "one's own")}
assert rounds == {"lottery": (.6, 5), "lottery_short": (.6, 1), "grasp": (.6, 0), "one's own": (.6, 1)}
try: report_table([unpruned])
except ValueError as e: print(e)
else: raise AssertionError("a table was made of dense networks")


# %% [markdown]
# For reading, the same table in words and with rounded numbers. The interval stands next to its value; keep is blank where everything was
# pruned at one stroke.

# %%
#| export
def _signed(x: float) -> str: return "–" if pd.isna(x) else f"{x:+.1f}".replace("-", "−")

def display_table(
    table: pd.DataFrame, # From `report_table`
) -> pd.DataFrame:       # The same as text, with headings for people
    "The table as a reader wants it: rounded, intervals beside values, n in the headings of the groups."
    t, blank, one = table, lambda x: "–" if pd.isna(x) else f"{x:g}", "{:.1f}".format
    between = lambda k: [f"{v:.1f} [{a:.1f}, {b:.1f}]" for v, a, b in zip(t[k], t[f"{k}_low"], t[f"{k}_high"])]
    shown = {"Method": t.label, "Rate": t.rate.map(blank), "Scope": t.scope, "Accuracy dense": t.accuracy_dense.map(one),
             "Accuracy": t.accuracy.map(one), "ρ [95 %]": between("rho"),
             "Floor of ρ: mean, 95 %": [f"{a:.1f}, {b:.1f}" for a, b in zip(t.floor_mean, t.floor_95)], "ψ [95 %]": between("psi")}
    for name in (c[2:] for c in t if c.startswith("n:") and t[c].notna().any()):
        sizes, values = t[f"n:{name}"].dropna().unique(), t[f"delta:{name}"].map(_signed)
        if len(sizes) == 1: shown[f"Δ {name} (n = {int(sizes[0]):,})"] = values
        else: shown[f"Δ {name} (n)"] = [v if v == "–" else f"{v} ({int(n):,})" for v, n in zip(values, t[f"n:{name}"])]
    how = {"Keep a step": t.keep.map(blank), "Retraining epochs a step": t.retrain_epochs.map(blank), "Seed": t.seed, "Dataset": t.dataset,
           "Groups": t.groups, "Test images": t.test_images.map("{:,}".format),
           "Network": [f"{n}, {px} px" for n, px in zip(t.network, t.image_size)]}
    return pd.DataFrame(shown | how)


# %%
display_table(table).head(3).T

# %%
shown = display_table(table)
assert {"Scope", "Keep a step", "Retraining epochs a step", "Dataset", "Test images", "Δ tone-4 (n = 40)"} <= set(shown)
assert set(shown[shown.Method == "ws"]["Keep a step"]) == {"–"} and set(shown[shown.Method == "fairgrape"]["Keep a step"]) == {"0.6"}
assert _signed(-1.26) == "−1.3" and _signed(.04) == "+0.0"
mixed = display_table(report_table([run, load_run(write_example(root.parent / "other"))]).assign(**{"n:tone-4": [40, 50]}))
assert "(40)" in mixed["Δ tone-4 (n)"][0] and "(50)" in mixed["Δ tone-4 (n)"][1]


# %% [markdown]
# The same for a README, where tables are written with bars.

# %%
#| export
def markdown_table(
    frame: pd.DataFrame, # What to show, e.g. from `display_table`
) -> str:                # A table in markdown; the index is not shown
    "A table as markdown; a bar inside a cell is escaped."
    line = lambda cells: "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"
    return "\n".join([line(frame), "|---" * frame.shape[1] + "|", *map(line, frame.itertuples(index=False, name=None))])


# %%
print(markdown_table(display_table(table).iloc[:2, :6]))

# %%
assert markdown_table(pd.DataFrame({"a": [1], "b|c": ["x|y"]})) == "| a | b\\|c |\n|---|---|\n| 1 | x\\|y |"


# %% [markdown]
# ## What may be said
#
# A table invites the eye to pick winners across rows that differ in more than the method. Scope alone can move accuracy by ten points at a
# rate of 0.99. So a sentence is written only for pairs of runs of one experiment with equal scope, rate and seed, and it is written too
# where the method does *not* do better than the baseline.
#
# Overlapping intervals do not prove that two runs are equal, and one seed says little about a method; the wording keeps to what one pair of
# runs shows.

# %%
#| export
def _sentence(own: pd.Series, base: pd.Series) -> str:
    "One run against the baseline run of the same experiment, scope, rate and seed."
    of = lambda r: f"{r.rho:.1f} [{r.rho_low:.1f}, {r.rho_high:.1f}]"
    who, than = (f"{r.label}{':' if ',' in r.label else '’s'}" for r in (own, base))
    if own.rho >= base.rho: verdict = f"{who} ρ {of(own)} is not lower than {than} {of(base)}"
    else: verdict = f"{who} ρ {of(own)} is lower than {than} {of(base)}" + (
        ", but the intervals overlap" if own.rho_high >= base.rho_low else "")
    low = " Both lie within the noise floor." if own.rho <= own.floor_95 and base.rho <= base.floor_95 else ""
    keep = "" if np.isnan(own.keep) else f", keep {own.keep:g}, retraining epochs a step: {own.retrain_epochs:g}"
    at = f"At rate {own.rate:g}, scope {own['scope']}, seed {own.seed}{keep}"
    return f"{at}: {verdict}; accuracy {own.accuracy:.1f} against {base.accuracy:.1f}.{low}"

def verdicts(
    table: pd.DataFrame,   # From `report_table`
    baseline: str = "ws",  # What the others are held against: a method in its published form, or a variant of one
) -> list[str]:            # A sentence for each run that has a baseline run to be compared with
    "Where each method beats the baseline and where it does not, at equal experiment, scope, rate and seed."
    said = []
    for _, cell in table.groupby(["experiment", "rate", "scope", "seed"], sort=False):
        for _, base in cell[cell.variant == baseline].iterrows():
            said += [_sentence(own, base) for _, own in cell[cell.variant != baseline].iterrows()]
    return said


# %%
said = verdicts(table)
print("\n".join(said))

# %%
assert len(said) == 4 and not any("seed 1" in s for s in said)               # seed 1 has no baseline run: nothing is said
lower, higher = [s for s in said if "is lower" in s], [s for s in said if "is not lower" in s]
assert len(lower) == len(higher) == 2 and all("rate 0.99" in s for s in higher)
assert verdicts(table.assign(experiment=table.method)) == []                  # another experiment: no comparison
pair = table[(table.rate == .9) & (table["scope"] == "layer") & (table.seed == 0)]
apart = pair.assign(rho=[1, 9], rho_low=[0, 8], rho_high=[2, 10], floor_95=[20., 20])
assert "overlap" not in verdicts(apart)[0] and "within the noise floor" in verdicts(apart)[0]
steps = pair.assign(variant=["ws, iterative", "ws"], label=["ws, iterative", "ws"])   # another form of the baseline is no baseline
assert len(verdicts(steps)) == 1 and "ws, iterative: ρ" in verdicts(steps)[0] and verdicts(pair, "fairgrape")[0].count("ws’s ρ") == 1


# %% [markdown]
# ## A second floor: another seed
#
# Train the dense network again from another seed and nothing has been pruned, yet the groups' accuracies move. ρ between two such dense
# networks is a floor that the bootstrap cannot know, because it resamples images and not trainings. Where runs differ in their seed only,
# it costs nothing to say. Clusters are left out: each dense network has its own, and cluster-1 of one is not cluster-1 of another.

# %%
#| export
def _right(run: Run, which: str) -> pd.Series:
    "Share of heads that the `which` network got right, one value per test image, indexed by row and group."
    p = run.predictions.set_index(["row", "group"])
    heads = [c.removeprefix("label_") for c in p if c.startswith("label_")]
    return pd.concat([p[f"{which}_{h}"] == p[f"label_{h}"] for h in heads], axis=1).mean(axis=1)

def seed_floor(
    runs: list[Run], # Runs that have their predictions
) -> pd.DataFrame:   # A row per pair of seeds: experiment, seeds, `rho` of one dense net against the other (points)
    "ρ between dense networks that differ in their seed only."
    dense, rows = {}, []
    for run in (r for r in runs if (r.path / "predictions.parquet").is_file() and r.settings.get("groups") != "clusters"):
        dense.setdefault(experiment(run.settings), {}).setdefault(run.settings["seed"], run)
    for name, by_seed in dense.items():
        for a, b in combinations(sorted(by_seed), 2):
            delta = 100 * (_right(by_seed[b], "dense") - _right(by_seed[a], "dense")).dropna().groupby("group").mean()
            rows.append(dict(experiment=name, seeds=f"{a} and {b}", rho=float(disparity(delta)) if len(delta) > 1 else np.nan))
    return pd.DataFrame(rows, columns=["experiment", "seeds", "rho"])


# %% [markdown]
# Worked by hand on two runs of four images: the second dense net loses one of tone-1's two images (−50 points) and gains one of tone-2's
# two (+50), so ρ = 100/√2 = 70.7.

# %%
def tiny(seed, right):
    p = load_run(write_example(root.parent / "tiny", seed=seed)).path
    table = dict(row=range(4), group=["tone-1"] * 2 + ["tone-2"] * 2, label_0=1, dense_0=right, pruned_0=0)
    pd.DataFrame(table).to_parquet(p / "predictions.parquet")
    return load_run(p)
hand = [tiny(0, [1, 1, 0, 0]), tiny(1, [1, 0, 1, 0])]
seed_floor(hand)

# %%
assert np.isclose(seed_floor(hand).rho[0], 100 / 2 ** .5) and seed_floor(hand).seeds[0] == "0 and 1"
assert seed_floor([replace(r, settings=r.settings | dict(groups="clusters")) for r in hand]).empty
assert seed_floor(hand[:1]).empty and np.isclose(_right(hand[0], "dense").mean(), .5)


# %% [markdown]
# ## The page
#
# One HTML file without any outside part, to be opened anywhere or sent by mail. Tables have a caption and headings that a screen reader can
# follow, pictures have their description, and on a phone a wide table scrolls in a box of its own.

# %%
#| export
def html_table(
    frame: pd.DataFrame, # What to show, as text
    caption: str,        # What it is
) -> str:                # HTML; the first column heads the rows
    "An accessible table in a box that scrolls by itself."
    say = lambda x: html.escape(str(x))
    head = "".join(f'<th scope="col">{say(c)}</th>' for c in frame)
    row = lambda first, *rest: f'<tr><th scope="row">{say(first)}</th>' + "".join(f"<td>{say(x)}</td>" for x in rest) + "</tr>"
    body = "".join(row(*values) for values in frame.itertuples(index=False, name=None))
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="{say(caption)}"><table><caption><span>{say(caption)}</span></caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")

def html_figure(
    fig: Figure,  # From one of the plot functions
    caption: str, # What a reader should look for
) -> str:         # HTML with the picture inside
    "A picture with its description, inside the page."
    drawn, data = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, dpi=110)
    Image.open(drawn).convert("RGB").quantize(64).save(data, "PNG")   # 64 colours are plenty for a plot: fewer bytes
    picture = base64.b64encode(data.getvalue()).decode()
    said, alt = html.escape(caption), html.escape(fig.get_label())
    return (f'<figure><div class="scroll" tabindex="0" role="region" aria-label="{said}"><img alt="{alt}" '
            f'src="data:image/png;base64,{picture}"></div><figcaption>{said}</figcaption></figure>')


# %%
print(html_table(pd.DataFrame({"Method": ["a <b>"], "ρ": ["1.0"]}), "Two & two"))
fig = plot_shares(run.layers)
print(html_figure(fig, "Shares")[:330], "…")

# %%
made = html_table(pd.DataFrame({"Method": ["a <b>"]}), "x")
assert "a &lt;b&gt;" in made and '<th scope="row">' in made and '<th scope="col">' in made
assert 'alt="Share of importance per layer' in html_figure(fig, "Shares") and html_figure(fig, "S") == html_figure(fig, "S")

# %% [markdown]
# How to read the numbers stands on the page itself, since its reader may never see this notebook.

# %%
#| export
HOW_TO_READ = """<p>Each run trains a dense network, prunes it and compares the two on the same test images. <b>Δ</b> of a group is its
accuracy after pruning less that before, in percentage points. <b>ρ</b> is the standard deviation (n − 1) of Δ over the
groups: 0 if all lost alike, larger the more unequal the losses. <b>ψ</b> is how much more the worst group lost than all
test images together.</p>
<p>ρ cannot be negative, so chance alone makes it positive. The <b>noise floor</b> says how large: its mean is what ρ
would be on average if all groups had truly lost the same, and only one test set in twenty exceeds its 95 % value. The
<b>interval</b> in brackets holds the true disparities that agree with what was observed, at 95 %; if it begins at 0, the
run is no evidence of a disparity. It covers the choice of test images, not the luck of a training: for that, compare
several seeds.</p>
<p>Compare methods only at equal scope, rate and experiment, and look at the accuracy beside ρ: a network that fails for
everybody has no disparity left. The groups are labels as others perceived them, and a small disparity on one test set is
no licence to use a model on people.</p>"""

STYLE = """body{font:16px/1.5 system-ui,sans-serif;margin:0;color:#1a1a1a;background:#fff}
main{max-width:80rem;margin:auto;padding:1rem}p,li{max-width:48rem}h1{font-size:1.6rem}h2{margin-top:2.5rem;font-size:1.3rem}
h2,summary,.settings{overflow-wrap:anywhere}summary{cursor:pointer;padding:.5rem 0}.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}caption{text-align:left;font-weight:600;padding:.4rem 0}
caption span{position:sticky;left:0;display:inline-block;max-width:88vw}
th,td{padding:.3rem .6rem;border-bottom:1px solid #ccc;text-align:right;white-space:nowrap}
th:first-child{text-align:left;position:sticky;left:0;background:#f3f3f3}
thead th{vertical-align:bottom;white-space:normal;min-width:4rem;background:#f3f3f3}
figure{margin:1.5rem 0}img{max-width:100%;height:auto}figcaption,.note{color:#444;font-size:.9rem}
@media(max-width:640px){img{max-width:none;width:640px}ul{padding-left:1.2rem}}"""

def _run_section(run: Run) -> str:
    "One run's own figures, folded away."
    figures = [(plot_groups(run.metrics), "Accuracy of each group, dense and pruned, and its change, with 95 % intervals."),
               (plot_sparsity(run.layers), "Weights kept in each layer."),
               (plot_history(run.history), "Learning curves; dotted lines part dense training, pruning steps and final training.")]
    if any(c.startswith("before:") for c in run.layers):
        figures.append((plot_shares(run.layers), "Each group’s share of each layer’s importance before and after pruning."))
    return f"<details><summary>{html.escape(run.path.name)}</summary>{''.join(html_figure(*f) for f in figures)}</details>"


# %%
print(_run_section(run)[:200], "…")

# %%
assert _run_section(run).count("<figure>") == 4 and "licence" in HOW_TO_READ and "debias" not in HOW_TO_READ


# %%
#| export
def _list(heading: str, sentences: Iterable[str]) -> str:
    "Sentences under a heading, each once; nothing where there are none."
    items = "".join(f"<li>{html.escape(s)}</li>" for s in dict.fromkeys(sentences))
    return f"<h3>{html.escape(heading)}</h3><ul>{items}</ul>" if items else ""

def _said(table: pd.DataFrame, runs: list[Run], floor: pd.DataFrame, against: str) -> str:
    "The second floor, the comparisons with the baseline, and what could not be measured, in sentences."
    seeds = "; ".join(f"seeds {r.seeds}: {r.rho:.1f}" for r in floor.itertuples())
    return ((f"<p>ρ between dense networks of different seeds, a second floor, in points: {seeds}.</p>" if seeds else "")
            + _list(f"Against {against}", verdicts(table, against))
            + _list("What could not be measured", (note for run in runs for note in run.metrics.get("notes", []))))

def _experiment_section(name: str, table: pd.DataFrame, runs: list[Run], floor: pd.DataFrame, details: int, against: str) -> str:
    "All about one experiment: table, what may be said, plots, then each run."
    title, _, rest = name.partition("; ")
    left = f"<p class='note'>The other {len(runs) - details} runs’ own figures are left out.</p>" if len(runs) > details else ""
    return "".join([
        f"<h2>{html.escape(title)}</h2><p class='settings'>{html.escape(rest)}</p>",
        html_table(display_table(table), f"{title}: {len(table)} runs. Accuracy in percent, the rest in points."),
        _said(table, runs, floor, against),
        html_figure(plot_disparity(table), "ρ with its 95 % interval; the hatched bar is the noise floor, below which a ρ is no evidence."),
        html_figure(plot_deltas(table), "Δ of each group with its 95 % interval, at equal scope and rate."),
        html_figure(plot_price(table), "ρ against accuracy; the small number is the pruning rate."),
        "<h3>Each run</h3>", *map(_run_section, runs[:details]), left])

def _paragraphs(text: str | Sequence[str]) -> str:
    "Plain text as paragraphs: a list of them, or one text with blank lines between."
    parts = text.split("\n\n") if isinstance(text, str) else text
    return "".join(f"<p>{html.escape(part.strip())}</p>" for part in parts if part.strip())

def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    "A table as text: its index as first columns, unless it only counts; fractions with two digits"
    frame = frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()
    say = lambda v: "–" if not isinstance(v, str) and pd.isna(v) else f"{v:.2f}".replace("-", "−") if isinstance(v, float) else str(v)
    return pd.DataFrame({c: [say(v) for v in frame[c]] for c in frame})

def write_report(
    runs_root: str | Path,          # The folder that holds run folders
    out: str | Path | None = None,  # The page; default `report.html` in that folder
    pattern: str = "*",             # Which runs, as a glob over folder names
    details: int = 12,              # For how many runs of an experiment the own figures are drawn
    runs: list[Run] | None = None,  # These runs, instead of those found
    title: str = "Who paid for the pruning?",    # The page's heading
    intro: str | Sequence[str] = "",             # What to say first, plain text: paragraphs, or one text with blank lines between
    figures: Sequence[tuple[Figure, str]] = (),  # More figures with their captions
    tables: Sequence[tuple[pd.DataFrame, str]] = (), # More tables with their captions
    against: str = "ws",            # The baseline of the sentences, as for `verdicts`
) -> Path:                          # Where the page lies
    "Write one self-contained page about all finished runs of a folder, or about those given."
    runs = find_runs(runs_root, pattern) if runs is None else runs
    out, table, floor, body = Path(out or Path(runs_root) / "report.html"), report_table(runs), seed_floor(runs), ""
    for name, rows in table.groupby("experiment", sort=False):
        own = [r for r in runs if experiment(r.settings) == name and r.path.name in set(rows.run)]
        body += _experiment_section(name, rows.reset_index(drop=True), own, floor[floor.experiment == name], details, against)
    more = [html_table(_rounded(t), caption) for t, caption in tables] + [html_figure(*f) for f in figures]
    if more: body += "".join(["<h2>More</h2>", *more])
    out.parent.mkdir(parents=True, exist_ok=True); out.write_text(_page(title, len(table), _paragraphs(intro), body), encoding="utf-8")
    return out

def _page(title: str, n: int, intro: str, body: str) -> str:
    "The frame of the page"
    title = html.escape(title)
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title} {n} runs</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>{intro}"
            f"<h2>How to read this page</h2>{HOW_TO_READ}{body}</main></body></html>")


# %%
page = write_report(root, details=2)
print(page.name, f"{page.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# Checked with a parser, as a browser would read it: one language, one main heading, a description on every picture, a caption and scopes in
# every table, and nothing fetched from elsewhere.

# %%
from html.parser import HTMLParser
class Outline(HTMLParser):
    def __init__(self): super().__init__(); self.tags, self.open = [], []
    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"): self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag, tag
outline = Outline(); outline.feed(page.read_text(encoding="utf-8"))
having = lambda tag: [attrs for t, attrs in outline.tags if t == tag]
assert outline.open == [] and having("html") == [{"lang": "en"}]
assert all(len(having(tag)) == 1 for tag in ("h1", "title", "table", "caption"))
assert len(having("img")) == 3 + 2 * 4 and all(len(i["alt"]) > 40 and i["src"].startswith("data:image/png;base64,") for i in having("img"))
assert all(t.get("scope") in ("row", "col") for t in having("th")) and not having("link") and not having("script")
text = page.read_text(encoding="utf-8")
assert "is not lower than ws" in text and "a second floor" in text and "400" in text

# %% [markdown]
# Runs of two experiments are never in one table: a second section is made. And figures can be limited.

# %%
write_example(root, method="ws", limit=400)
two = write_report(root, root.parent / "deep" / "two.html", pattern="ws*", details=1).read_text(encoding="utf-8")
assert two.count("<table>") == 2 and two.count("<details>") == 2 and "The other 3 runs" in two and "limited to 400" in two

# %% [markdown]
# A study has runs of its own choice, a title, something to say first, another baseline, and sometimes figures and tables that only it has.

# %%
bare = replace(run, metrics=run.metrics | dict(notes=["one class in tone-1: Bald (always no)"]))
layers = pd.DataFrame({"layer": ["conv1", "fc"], "rho": [1.234, -2.], "n": [3, 4]}).set_index("layer")
extra = dict(tables=[(layers, "Layer by layer")], figures=[(plot_shares(run.layers), "Shares")])
study = write_report(root.parent, root.parent / "study.html", runs=[bare, *runs], title="Rates & all",
                     intro="Asked: a < b?\n\nSource: section 4.", against="fairgrape", details=0, **extra).read_text(encoding="utf-8")
outline = Outline(); outline.feed(study)
[attrs.get("aria-label", "")[:60] for tag, attrs in outline.tags if tag == "div"]

# %%
assert "<h1>Rates &amp; all</h1><p>Asked: a &lt; b?</p><p>Source: section 4.</p><h2>How to read" in study and outline.open == []
assert "Against fairgrape" in study and "What could not be measured" in study and study.count("Bald (always no)") == 1
assert '<th scope="row">conv1</th><td>1.23</td><td>3</td>' in study and "−2.00" in study
assert study.index("More</h2>") < study.index("Layer by layer")
assert "What could not be measured" not in write_report(root, runs=runs, details=0).read_text(encoding="utf-8")     # old runs have no notes
assert _paragraphs(["one", " ", "two"]) == "<p>one</p><p>two</p>"
