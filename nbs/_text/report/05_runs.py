# %% [markdown]
# # Finished runs
#
# > Read run folders, name each run, and decide which runs may be compared

# %%
#| default_exp report.runs

# %%
#| export
import io
import json
import warnings
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file
from torch import Tensor

from fairgrape.experiment.settings import Settings, abouts
from fairgrape.methods import registry as baselines

# %% [markdown]
# A run's folder has plain files: JSON for settings and results, CSV for the training log, parquet for predictions,
# safetensors for weights. This notebook trains and measures nothing. It reads these files and
# decides *which* runs may be compared.
#
# The examples need runs, and real runs take minutes. So `write_example` writes a folder in the same formats with minimal content.

# %%
import tempfile

import torch
from safetensors.torch import save_file

start = dict(
    name="example",
    dataset="synthetic",
    task="expression",
    groups="tone",
    classes="",
    split="official",
    limit=0,
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
    retrain_lr=1e-4,
    batch=64,
    augment="flip",
    seed=0,
    bootstrap=200,
)


def write_example(root, **changed):
    "A run's folder as an older version wrote it, without some settings."
    s = start | changed
    dense = s["method"] == "dense"
    path = Path(root) / f"{s['method']}-{s['rate']}-{s['scope']}-{s['seed']}"
    path.mkdir(parents=True)
    for name, what in dict(settings=s, environment={"python": "3.11"}, metrics={"n": 400}).items():
        (path / f"{name}.json").write_text(json.dumps(what))
    pd.DataFrame(dict(label=["dense", "final"], epoch=[1, 2], val_loss=[0.9, 0.8])).to_csv(
        path / "history.csv", index=False
    )
    pd.DataFrame([] if dense else [dict(step=i, kept=4012) for i in (1, 2)]).to_csv(
        path / "steps.csv", index=False
    )
    if not dense:
        pd.DataFrame(dict(layer=["conv1", "fc"], weights=[1728, 1536], kept=[400, 612])).to_csv(
            path / "layers.csv", index=False
        )
    pd.DataFrame(dict(row=range(400), group="tone-1")).to_parquet(path / "predictions.parquet")
    save_file({"fc.weight": torch.eye(3)}, path / "model.safetensors")
    save_file({"fc.weight": torch.eye(3, dtype=torch.uint8)}, path / "masks.safetensors")
    return path


def refused(load, *args):
    "The error that `load` raises, with the temporary folder shortened."
    try:
        load(*args)
    except (FileNotFoundError, ValueError) as e:
        return str(e).replace(str(root.parent), "…")
    raise AssertionError(f"{args} was accepted")


root = Path(tempfile.mkdtemp()) / "runs"
path = write_example(root)
sorted(p.name for p in path.iterdir())


# %% [markdown]
# ## One run
#
# A `Run` holds the content of its folder. The small files are read at once. Predictions, masks and weights are read only on access, so
# a report over hundreds of runs does not read gigabytes.

# %%
#| export
@dataclass(frozen=True, eq=False, repr=False)
class Run:
    "A finished run, read from its folder."

    path: Path  # The run's folder
    settings: dict  # All settings of the run
    environment: dict  # Versions, commit, threads, device
    metrics: dict  # Results of `compare` on the test images, with sparsity and seconds
    history: pd.DataFrame  # A row per epoch of training
    steps: pd.DataFrame  # A row per pruning step
    # A row per prunable layer: weights, kept, importance shares `before:<group>`, `after:<group>`
    layers: pd.DataFrame

    @cached_property
    def predictions(self) -> pd.DataFrame:
        return pd.read_parquet(self.path / "predictions.parquet")

    @cached_property
    def choices(self) -> pd.DataFrame:
        """Shares of importance at each step's selection; empty for older runs and for scores
        without groups.
        """
        file = self.path / "choices.csv"
        columns = ["step", "layer", "group", "target", "kept"]
        if not file.is_file():
            return pd.DataFrame(columns=columns)
        return pd.read_csv(file, dtype=dict(layer=str, group=str), keep_default_na=False)

    @cached_property
    def by_step(self) -> pd.DataFrame:
        """Each step and its effect on each group: `step` (0: the dense network), `rate`,
        `kept`, `seconds`, and `val:…` (percent correct) if the run measured it.
        """
        table = _read(self.path / "steps.csv")
        if table.empty:
            return table
        parts = [c for c in ("score_s", "select_s", "retrain_s") if c in table]
        table = table.assign(seconds=table[parts].sum(axis=1))
        head = [c for c in ("step", "rate", "kept", "seconds") if c in table]
        return table[head + [c for c in table if c.startswith("val:")]]

    @cached_property
    def paid(self) -> pd.DataFrame:
        """Change of the validation accuracy from the dense network, in points: `step`, `rate`,
        `all`, and one column per group; empty if the run measured none.
        """
        table = self.by_step
        columns = [c for c in table if c.startswith("val:")]
        if not columns:
            return pd.DataFrame(columns=["step", "rate", "all"])
        change = table[columns] - table[columns].iloc[0]
        change = change.rename(columns=lambda c: c.removeprefix("val:"))
        return table[["step", "rate"]].join(change)[table["val:all"].notna()]

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.path / "model.safetensors")

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        return {
            name: mask.bool() for name, mask in load_file(self.path / "masks.safetensors").items()
        }

    def __repr__(self):
        said = (
            f"{k} {self.settings.get(k)}" for k in ("dataset", "method", "scope", "rate", "seed")
        )
        return f"Run({self.path.name}: {', '.join(said)})"


# %%
run = Run(path, {"method": "ws", "rate": 0.9}, {}, {}, *[pd.DataFrame()] * 3)
run

# %%
assert (
    "method ws" in repr(run)
    and run.masks["fc.weight"].dtype == torch.bool
    and run.weights["fc.weight"].sum() == 3
)
assert len(run.predictions) == 400 and run.predictions is run.predictions  # read once
# an older run
assert run.choices.empty and list(run.choices) == ["step", "layer", "group", "target", "kept"]
(chosen := root.parent / "chosen").mkdir()
pd.DataFrame(
    dict(step=[1, 1], layer=["0", "0"], group=["NA", "1"], target=[0.5, 0.5], kept=[0.4, 0.6])
).to_csv(chosen / "choices.csv", index=False)
# names stay text
assert Run(chosen, {}, {}, {}, *[pd.DataFrame()] * 3).choices.values.tolist() == [
    [1, "0", "NA", 0.5, 0.4],
    [1, "0", "1", 0.5, 0.6],
]


# %% [markdown]
# A folder may contain an empty table: a dense network has no pruning steps. It may also contain a truncated file from a full disk; the error then names the file.

# %%
#| export
def _read(file: Path) -> dict | pd.DataFrame:
    "A JSON or CSV file; empty if the file is missing or empty."
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    try:
        if file.suffix == ".json":
            return json.loads(text or "{}")
        return pd.read_csv(io.StringIO(text)) if text.strip(' \r\n"') else pd.DataFrame()
    except ValueError as e:
        raise ValueError(
            f"{file} cannot be read ({e}): remove that folder and repeat the run with the same"
            " settings"
        ) from e


# %%
(damaged := root.parent / "metrics.json").write_text('{"n": 4')
(empty := root.parent / "steps.csv").write_text('""\n')
print(
    _read(path / "metrics.json"),
    len(_read(path / "steps.csv")),
    _read(root / "none.json"),
    refused(_read, damaged),
)
assert (
    _read(path / "metrics.json") == {"n": 400}
    and _read(root / "none.json") == {}
    and list(_read(path / "steps.csv")["step"]) == [1, 2]
)
assert (
    _read(empty).empty
    and _read(root / "none.csv").empty
    and "metrics.json" in refused(_read, damaged)
)

# %% [markdown]
# An interrupted run leaves some of its files. It must not appear in a table as if it were complete, so `load_run` refuses it and names
# the missing files. `tensors=False` is for folders that were published without their large files.
# A dense network has a folder too, without a layer table and without steps, because it was not pruned.

# %%
#| export
SMALL = (
    "settings.json",
    "environment.json",
    "metrics.json",
    "history.csv",
    "steps.csv",
    "layers.csv",
)
LARGE = ("predictions.parquet", "model.safetensors", "masks.safetensors")


def load_run(
    path: str | Path,  # A run's folder
    tensors: bool = True,  # Require predictions, weights and masks too
) -> Run:  # Its content
    """Read a run's folder.

    Raises: FileNotFoundError for an incomplete folder, ValueError for a file that cannot be read;
    both name the file.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no run folder at {path}")
    dense = _read(path / "settings.json").get("method") == "dense"
    missing = [
        name
        for name in SMALL + LARGE * tensors
        if not (path / name).is_file() and not (dense and name == "layers.csv")
    ]
    # metrics.json is written last: with it the run was complete once, and its files are damaged
    first = "" if "metrics.json" in missing else "remove that folder and "
    if missing:
        raise FileNotFoundError(
            f"{path} is not a finished run, it lacks {', '.join(missing)}: {first}run it again with"
            " the same settings"
        )
    tables = {name: _read(path / name) for name in SMALL}
    steps = tables["steps.csv"]
    if len(steps):
        # without the dense network, which is not a pruning step
        tables["steps.csv"] = steps[steps.step > 0].reset_index(drop=True)
    return Run(path, *tables.values())


# %%
run = load_run(path)
run.layers

# %%
unpruned = load_run(write_example(root.parent / "unpruned", method="dense"))
assert unpruned.steps.empty and unpruned.layers.empty and len(unpruned.history) == 2
assert (
    run.settings["keep"] == 0.6
    and run.metrics["n"] == 400
    and list(run.steps.step) == [1, 2]
    and run.environment["python"] == "3.11"
)

# %% [markdown]
# From 2026-11-28 on, a run also records the effect of each step on each group. Its table begins with the dense network, as step 0.

# %%
younger = write_example(root.parent / "younger")
pd.DataFrame(
    dict(
        step=[0, 1, 2],
        rate=[0, 0.5, 0.9],
        kept=[100, 50, 10],
        score_s=[0, 1, 1],
        select_s=[0, 2, 2],
        retrain_s=[0, 4, None],
    )
    | {"val:all": [90, None, 81.5], "val:tone-1": [92, None, 88], "val:tone-2": [84, None, 62]}
).to_csv(younger / "steps.csv", index=False)
run = load_run(younger)
run.by_step

# %%
assert list(run.steps.step) == [1, 2] and list(run.by_step.step) == [0, 1, 2]
assert list(run.by_step) == ["step", "rate", "kept", "seconds", *list(run.by_step)[4:]]
assert list(run.by_step.seconds) == [0, 7, 3]
assert list(run.by_step)[4:6] == ["val:all", "val:tone-1"]
# the step without a measurement is left out
assert run.paid.to_dict("list") == {
    "step": [0, 2],
    "rate": [0, 0.9],
    "all": [0, -8.5],
    "tone-1": [0, -4],
    "tone-2": [0, -22],
}
older = load_run(path)
assert list(older.by_step) == ["step", "kept", "seconds"] and older.paid.empty
assert unpruned.by_step.empty and unpruned.paid.empty
run.paid
assert list(run.layers.layer) == ["conv1", "fc"]

# %%
broken = write_example(root.parent / "broken")
(broken / "masks.safetensors").unlink()
assert load_run(broken, tensors=False).metrics["n"] == 400
(broken / "steps.csv").unlink()
print(refused(load_run, broken), refused(load_run, root / "nowhere"), sep="\n")
assert "lacks steps.csv, masks.safetensors: remove that folder" in refused(
    load_run, broken
) and "lacks steps.csv: remove" in refused(load_run, broken, False)
(broken / "metrics.json").unlink()  # never finished: it may resume
assert "lacks metrics.json, steps.csv: run it again" in refused(load_run, broken, False)


# %% [markdown]
# ## Settings again
#
# The settings of a finished run as the record that begins one. An older run has no value for a setting that came later; that setting then has its default.

# %%
#| export
def settings_of(run: Run) -> Settings:
    "The settings of a finished run; settings newer than the run have their defaults."
    return Settings(
        **{f.name: run.settings[f.name] for f in fields(Settings) if f.name in run.settings}
    )


# %%
again = settings_of(older)
again.method, again.rate, again.compiled

# %%
assert (again.method, again.rate) == (older.settings["method"], older.settings["rate"])
assert "compiled" not in older.settings and again.compiled is False


# %% [markdown]
# ## Many runs
#
# In a folder of runs some may be unfinished. They are left out with a warning that gives the reason. A folder without `settings.json` is not a run
# and is skipped.

# %%
#| export
def find_runs(
    runs_root: str | Path,  # The folder that holds run folders
    pattern: str = "*",  # Which folders' names, as a glob
) -> list[Run]:  # The finished runs, by name
    """All finished runs below a folder; unfinished ones are named in a warning.

    Raises: FileNotFoundError if the folder is missing or has no finished run of that pattern.
    """
    root, runs = Path(runs_root), []
    if not root.is_dir():
        raise FileNotFoundError(f"no runs folder at {root}")
    # a folder that is still being fetched begins with a dot
    for file in sorted(
        f for f in root.glob(f"{pattern}/settings.json") if not f.parent.name.startswith(".")
    ):
        try:
            runs.append(load_run(file.parent, tensors=False))
        except (FileNotFoundError, ValueError) as e:
            warnings.warn(f"left out: {e}", stacklevel=2)
    if not runs:
        raise FileNotFoundError(
            f"no finished run matches {pattern!r} in {root}: run one first, or give another folder"
            " or pattern"
        )
    return runs


# %%
for changed in (
    dict(method="ws"),
    dict(method="ws", rate=0.99),
    dict(seed=1),
    dict(method="dense", seed=2),
):
    write_example(root, **changed)
(root / "notes").mkdir()
write_example(root, seed=7).rename(root / ".half-fetched")
runs = find_runs(root)
runs

# %%
assert len(runs) == 5 and [r.settings["rate"] for r in find_runs(root, "ws-*")] == [0.9, 0.99]
print(refused(find_runs, root / "nowhere"), refused(find_runs, root, "snip-*"), sep="\n")

# %%
half = write_example(root.parent / "half")
(half / "metrics.json").unlink()
write_example(root.parent / "half", method="ws")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert [r.settings["method"] for r in find_runs(half.parent)] == ["ws"]
    assert "no finished run" in refused(find_runs, half.parent, "fair*")
print(str(caught[0].message).replace(str(root.parent), "…"))
assert len(caught) == 2 and all(
    "left out" in str(c.message) and "metrics.json" in str(c.message) for c in caught
)

# %% [markdown]
# ## The name of a run
#
# A method's name alone is ambiguous, because its form can be set: WS in steps, FairGRAPE in one shot, importance of only one group. `variant` adds each difference from the method's published form.
# The scope is not in the name. It has its own column and appears in every sentence, for *each* run, because methods are compared at equal scope.
#
# Runs older than a setting lack it. They used its default, so a missing setting means the default.

# %%
#| export
# settings that older runs lack, with their defaults
ADDED = {
    name: Settings.__dataclass_fields__[name].default
    for name in (
        "steps",
        "as_released",
        "importance_on",
        "importance_groups",
        "clusters",
        "imbalance",
    )
}


def variant(
    settings: dict,  # A run's settings
) -> str:  # E.g. "ws, iterative"
    "A run's name in tables: its method, and the differences from the published form."
    s = ADDED | settings
    known, k = baselines.METHODS.get(s["method"]), f"{s['clusters']} " if s["clusters"] else ""
    said = [s["steps"]] if known and s["steps"] not in ("published", known.steps) else []
    if s["importance_on"]:
        said.append(f"importance on {s['importance_on']}")
    by = f"{k}clusters" if s["importance_groups"] == "clusters" else s["importance_groups"]
    if by:
        said.append(f"groups by {by}")
    if s["as_released"]:
        said.append("as released")
    return ", ".join([s["method"], *said])


# %%
forms = (
    dict(),
    dict(steps="one shot"),
    dict(importance_on="race!=White"),
    dict(importance_groups="clusters", clusters=4),
    dict(as_released=True),
)
[variant(dict(method="fairgrape") | form) for form in forms]

# %% [markdown]
# WS was published as one shot and FairGRAPE in steps, so in that form each has its plain name, whether the setting is "published" or names the form.

# %%
assert variant(run.settings) == "fairgrape" and not {"steps", "as_released"} & set(run.settings)
for name, own, other in (("fairgrape", "iterative", "one shot"), ("ws", "one shot", "iterative")):
    assert {
        variant(dict(method=name) | form)
        for form in (dict(steps=own), dict(steps="published"), dict(scope="global"))
    } == {name}
    assert variant(dict(method=name, steps=other)) == f"{name}, {other}"
assert (
    variant(dict(method="dense")) == "dense"
    and variant(dict(method="one's own", steps="iterative")) == "one's own"
)
assert (
    variant(dict(method="fairgrape", importance_groups="gender", as_released=True))
    == "fairgrape, groups by gender, as released"
)
assert (
    variant(dict(method="fairgrape", importance_groups="clusters"))
    == "fairgrape, groups by clusters"
)
assert variant(dict(method="ws", importance_on="a=b")) == "ws, importance on a=b"

# %% [markdown]
# Two runs can be compared if they have the same data, task, groups, network and training. `experiment` describes these in one
# line; runs with equal lines belong together.

# %%
#| export
COMMON = {
    name: abouts(Settings)[name].label or name
    for name in (
        "weights",
        "classes",
        "imbalance",
        "split",
        "limit",
        "epochs",
        "lrs",
        "batch",
        "augment",
    )
}


def experiment(
    settings: dict,  # A run's settings
) -> str:  # One line, equal for all runs that may be compared
    "The settings that must be equal for two runs to be compared."
    s = {
        k: ",".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in settings.items()
    }
    groups = (
        f"{s.get('clusters') or ''} clusters".strip()
        if s.get("groups") == "clusters"
        else s.get("groups")
    )
    head = (
        f"{s.get('dataset')}: {s.get('task')} by {groups}, {s.get('network')} at"
        f" {s.get('image_size')} px"
    )
    exact = [] if s.get("precision") in (None, "fp32") else [s["precision"]]
    return "; ".join(
        [
            head,
            *exact,
            *(
                f"{name} {s[key]}"
                for key, name in COMMON.items()
                if s.get(key) not in (None, "", 0)
            ),
        ]
    )


# %%
experiment(run.settings)

# %%
assert (
    experiment(run.settings)
    == "synthetic: expression by tone, resnet10 at 32 px; weights none; split official; epochs 4,1;"
    " learning rates 1e-3,1e-4; batch 64; augmentation flip"
)
assert len({experiment(r.settings) for r in runs}) == 1
assert experiment(
    run.settings | {"method": "ws", "rate": 0.5, "scope": "global", "seed": 7}
) == experiment(run.settings)
for change in (
    dict(limit=500),
    dict(epochs="9"),
    dict(groups="tone*expression"),
    dict(classes=["happy", "sad"]),
    dict(imbalance="tone=tone-1:0.2"),
    dict(precision="bf16"),
    dict(weights="imagenet"),
):
    assert experiment(run.settings | change) != experiment(run.settings)
# an old run and a new one with the defaults belong together
assert experiment(run.settings | ADDED | dict(precision="fp32")) == experiment(run.settings)
clustered = run.settings | dict(groups="clusters")
assert "by 4 clusters," in experiment(
    clustered | dict(clusters=4)
) and "by clusters," in experiment(clustered)
