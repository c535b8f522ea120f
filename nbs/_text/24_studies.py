# %% [markdown]
# # Studies
#
# > The paper's experiments, each as a question, a list of runs and a page that answers it

# %%
#| default_exp studies

# %%
#| export
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from torch import Tensor, nn

from fairgrape.cache import Images
from fairgrape.evaluation import disparities, disparity
from fairgrape.experiment import Job, Settings, dense_network, form, find_clusters, images_of, prepare
from fairgrape.models import predict_classes
from fairgrape.plots import PALETTE, figure_of
from fairgrape.report import Run, experiment, report_table, write_report
from fairgrape.training import predict

# %%
import tempfile
from types import SimpleNamespace

from fairgrape.models import build_model


# %% [markdown]
# A figure in a paper answers a question; the runs behind it are a grid of settings. Here a study is a small YAML file with both: what it asks, why, what to look at, and the grid, in full for a GPU and in a fast form for two cores. The
# files lie beside the templates, in nbs/templates/studies; one of them, `protocol.yaml`, has the settings that all studies start from and a row for each data set and task of the paper.

# %%
#| export
@dataclass(frozen=True)
class Study:
    "A question, and the runs that answer it"
    name: str           # As in `fairgrape study NAME`
    title: str          # Heading of its page
    asks: str           # The question, one sentence
    why: str            # Why it is asked
    look: str           # What to look at in the answer
    source: str         # Where the paper does it
    against: str        # The method that the verdicts hold the others against
    full: list          # Grids: setting → list of values
    fast: list          # The same for two cores
    layers: bool = False# Whether each layer is also pruned by itself

def studies_folder() -> Path:
    "Where the studies' files lie: in the checkout, or in the installed package"
    package = Path(str(files("fairgrape")))
    return next(f for f in (package.parent / "nbs" / "templates" / "studies", package / "templates" / "studies") if f.is_dir())

def study_names() -> list[str]: return sorted(f.stem for f in studies_folder().glob("*.yaml") if f.stem != "protocol")

def load_study(
    name: str,                    # One of `study_names()`
    folder: Path | None = None,   # Where its file lies; default: with the templates
) -> Study:                       # The study
    "Read a study's file. Raises: ValueError for an unknown name, or a file with other keys than a study has."
    path = (folder or studies_folder()) / f"{name}.yaml"
    if name == "protocol" or not path.is_file(): raise ValueError(f"no study {name!r}: choose one of {', '.join(study_names())}")
    try: return Study(name, **yaml.safe_load(path.read_text(encoding="utf-8")))
    except (TypeError, yaml.YAMLError) as e: raise ValueError(f"{path}: a study has {', '.join(f.name for f in fields(Study))} ({e})") from e


# %%
pd.DataFrame([dict(study=n, asks=load_study(n).asks) for n in study_names()]).set_index("study")

# %%
assert {"rates", "baselines", "scope", "steps", "group-importance", "one-group", "imbalanced", "clusters", "keep", "layers", "as-released"} == set(study_names())
for name in ("ratez", "protocol", "../secrets"):
    try: load_study(name)
    except ValueError as e: print(e)
    else: raise AssertionError("an unknown study was read")


# %% [markdown]
# ## Data sets and tasks
#
# A row of the protocol says how the paper treats a data set: what is predicted, whose disparity is measured, how many epochs, how much is kept at each step. In the fast form the small network's settings take the place of the paper's.

# %%
#| export
def protocol_rows() -> list[str]:
    "Names of the data sets and tasks that a study can be run on"
    return list(_protocol()["rows"])

def _protocol() -> dict: return yaml.safe_load((studies_folder() / "protocol.yaml").read_text(encoding="utf-8"))

def protocol(
    row: str,           # One of `protocol_rows()`
    fast: bool = False, # The settings for two cores instead of the paper's
) -> tuple[dict, dict]: # Setting → value or list of values; and what `{column}`, `{kind}`, `{first}` stand for
    "The settings that a study on this data set starts from. Raises: ValueError for an unknown row."
    known = _protocol()
    if row not in known["rows"]: raise ValueError(f"no data set {row!r} in the studies' protocol: choose one of {', '.join(known['rows'])}")
    mine = dict(known["rows"][row])
    words = dict(column=mine.pop("column"), kinds=mine.pop("kinds"))
    what = {k: v for k, v in mine.items() if k in ("dataset", "task", "groups", "classes", "split")}
    return (what | known["fast"] if fast else known["paper"] | mine), words


# %%
protocol("utkface")[0]

# %%
assert protocol("utkface")[0]["keep"] == 0.975 and protocol("fairface")[0]["keep"] == 0.9 and protocol("celeba")[0]["epochs"] == "8,1,1"
assert protocol("fairface", fast=True)[0]["limit"] <= 4000 and protocol("fairface-14")[0]["groups"] == "race*gender"
for row in protocol_rows():
    for fast in (False, True): [Settings(**cell) for cell in itertools.islice((dict(zip(protocol(row, fast)[0], v)) for v in itertools.product(*[v if isinstance(v, list) else [v] for v in protocol(row, fast)[0].values()])), 9)]
try: protocol("imdb")
except ValueError as e: print(e)
else: raise AssertionError("an unknown row was accepted")


# %% [markdown]
# ## From a study to its runs
#
# A grid multiplies out. Three words are replaced by the data set's own: `{column}` is the column of its groups, `{kind}` each of the groups in turn (the first one in the fast form), `{first}` the first.

# %%
#| export
def words_filled(
    value,          # A setting's value
    words: Mapping, # `column` and `kinds` of the data set
    fast: bool,     # Only the first kind
) -> list:          # One or several values
    "A value with its words replaced."
    if not isinstance(value, str) or "{" not in value: return [value]
    kinds = words["kinds"][:1] if fast or "{kind}" not in value else words["kinds"]
    return [value.replace("{column}", words["column"]).replace("{kind}", kind).replace("{first}", words["kinds"][0]) for kind in kinds]

def study_cells(
    study: Study,                  # The question
    row: str,                      # A data set and task, one of `protocol_rows()`
    fast: bool = False,            # The form for two cores
    overrides: Mapping | None = None, # Settings that replace the study's and the protocol's
) -> list[dict]:                   # Parameters of each run, each once
    "All runs of a study. Raises: ValueError or TypeError for settings that cannot be."
    start, words = protocol(row, fast)
    overrides, cells = dict(overrides or {}), {}
    for part in study.fast if fast else study.full:
        given = {k: v if isinstance(v, list) else [v] for k, v in {**start, **part, **overrides}.items()}
        values = [[filled for v in several for filled in words_filled(v, words, fast)] for several in given.values()]
        for combination in itertools.product(*values):
            cell = dict(zip(given, combination))
            cells.setdefault(Settings(**cell), cell)
    return list(cells.values())


# %%
cells = study_cells(load_study("one-group"), "utkface", fast=True)
[c["importance_on"] for c in cells], len(study_cells(load_study("one-group"), "utkface"))

# %%
assert [c["importance_on"] for c in cells] == ["", "race=White", "race!=White"]
assert len(study_cells(load_study("one-group"), "utkface")) == 2 * 2 * (1 + 4 + 4)           # networks × rates × (all, only each, without each)
assert {c["imbalance"] for c in study_cells(load_study("imbalanced"), "fairface", fast=True)} == {"", "race=White:0.2"}
assert all(c["limit"] == 500 for c in study_cells(load_study("rates"), "fairface", True, dict(limit=500)))
total = {n: len(study_cells(load_study(n), "fairface")) for n in study_names()}
print("runs of the full form on one data set:", total)


# %% [markdown]
# ## Too weak to tell
#
# A network that hardly learnt its task has nothing to lose by pruning, and what its pruning costs whom is noise. The line is drawn at twice the accuracy of guessing, or halfway between guessing and perfection where that is lower
# (twice a coin toss would be perfection). Where one class is common, naming it always may pass that line and is no skill either: so the network must also have a tenth of what is left above the commonest class's share.

# %%
#| export
def weak_line(
    sizes: list[int],       # Number of classes of each head
    commonest: list[float], # Share of the commonest class of each head among the test images (percent)
) -> float:                 # Accuracy (percent), mean over the heads
    "The dense accuracy below which a study says nothing."
    guess, naming = np.mean([100 / k for k in sizes]), np.mean(commonest)
    return float(max(min(2 * guess, (100 + guess) / 2), naming + (100 - naming) / 10))


# %%
weak_line([7], [20]), weak_line([2], [50]), weak_line([4], [82.7])

# %%
assert weak_line([4], [40]) == 50 and weak_line([2], [50]) == 75 and weak_line([4, 2], [40, 50]) == 68.75
assert weak_line([4], [80]) == 82                                            # a set with one group of four in five


# %%
#| export
def too_weak(
    runs: list[Run], # A study's runs
) -> list[str]:      # A sentence for each dense network that is too weak
    "Which dense networks are too weak to tell anything."
    said = {}
    for run in runs:
        s, rates = run.settings, pd.DataFrame(run.metrics["rates"])
        per_head = rates[rates["group"] == "all"].groupby("head", sort=False)["n"]
        line, accuracy = weak_line([len(c) for c in s["classes_used"].values()], list(100 * per_head.max() / per_head.sum())), run.metrics["accuracy_dense"]
        what = f"{experiment(s)}; seed {s['seed']}"
        if accuracy < line: said[what] = f"Too weak: the dense network has {accuracy:.1f} % on the test images; below {line:.1f} % it says nothing, and neither do its pruned forms ({what})."
    return list(said.values())


# %%
def example(accuracy, share=40, **more):
    counts = [share, 100 - share - 10, 10, 0]
    return SimpleNamespace(settings=dict(classes_used=dict(race=list("abcd")), network="resnet34", seed=0) | more,
                           metrics=dict(accuracy_dense=accuracy, rates=[dict(head="race", group="all", n=n) for n in counts]))
too_weak([example(45.)])[0]

# %%
assert too_weak([example(56.)]) == [] and len(too_weak([example(45.), example(45.)])) == 1           # one network, one sentence
assert len(too_weak([example(45.), example(45., imbalance="race=a:0.2")])) == 2 and len(too_weak([example(81., share=80)])) == 1


# %% [markdown]
# ## Where the disparity sits
#
# The masks of a finished run, one layer at a time: the dense network with that layer's mask and nothing else changed or retrained. What each group loses is that layer's doing alone. The layers' ρ do not add up to the whole's, since layers
# work together and retraining mends much, but they say where pruning is unequal to begin with.

# %%
#| export
def layer_disparity(
    job: Job,                           # Settings and data
    images: Images,                     # The job's images
    model: nn.Module,                   # The dense network
    masks: Mapping[str, Tensor],        # Layer name → True where a weight is kept
    device: str | torch.device = "cpu", # Where to compute
    B: int = 500,                       # Resamples for the noise floor
) -> pd.DataFrame:                      # Index layer; kept (fraction), accuracy (percent), rho, floor_95, and `delta:` of each group (points)
    "Prune one layer at a time, without training, and compare the groups."
    test, modules = (job.table["split"] == "test").to_numpy(), dict(model.named_modules())
    labels, group = job.labels[test], job.group[test]
    def right(): return (predict_classes(predict(model, images, "test", job.sizes, device=device), job.sizes).numpy() == labels).mean(1)
    dense, rows = right(), {}
    for name, mask in masks.items():
        weight = modules[name].weight
        whole = weight.detach().clone()
        with torch.no_grad(): weight.mul_(mask.to(weight.device))
        pruned = right()
        with torch.no_grad(): weight.copy_(whole)
        delta = 100 * np.bincount(group, pruned - dense) / np.bincount(group)
        floor = disparities(dense, pruned, group, B).loc["rho", "floor_95"]
        rows[name] = dict(kept=float(mask.float().mean()), accuracy=100 * pruned.mean(), rho=float(disparity(delta)), floor_95=floor) | {f"delta:{n}": d for n, d in zip(job.group_names, delta)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")

def plot_layers(
    tables: Mapping[str, pd.DataFrame], # Run's label → its `layer_disparity`
) -> Figure:                            # A panel for each run
    "ρ of every layer pruned by itself, over its noise floor."
    fig, axes = figure_of(len(tables), 1, (8, .8 + 2.2 * len(tables)), sharex=True, sharey=True)
    for ax, (label, t) in zip(axes, tables.items()):
        x = np.arange(len(t))
        ax.bar(x, t.floor_95, .8, color="0.9", hatch="....", edgecolor="0.7", lw=0, label="noise floor (95 %)")
        ax.plot(x, t.rho, "o", color=PALETTE[0], ms=4, label="ρ of this layer's pruning")
        ax.set(title=label, ylabel="ρ (points)", ylim=(0, None))
    axes[-1].set_xlabel(f"layer, from {t.index[0]} (0) to {t.index[-1]} ({len(t) - 1})")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    most = [f"{label}: largest at {t.rho.idxmax()}, {t.rho.max():.1f} points, floor {t.floor_95[t.rho.idxmax()]:.1f}" for label, t in tables.items()]
    fig.set_label(f"Disparity ρ when one layer alone is pruned, layer by layer. {'; '.join(most)}.")
    return fig


# %% [markdown]
# Eight one-pixel pictures: those of group a are red and of class 0, those of group b green and of class 1. The first layer tells red from green, the second passes it on. Without the weight that passes green on, everybody in group b is
# taken for class 0: Δ is 0 and −100, so ρ is 100/√2.

# %%
model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
with torch.no_grad(): model[1].weight.copy_(torch.eye(2, 3)); model[3].weight.copy_(torch.eye(2))
pixels = torch.tensor([[255, 0, 0], [0, 255, 0]] * 4, dtype=torch.uint8)
pictures = Images(pixels.view(8, 3, 1, 1), torch.tensor([[0], [1]] * 4), torch.tensor([0, 1] * 4), dict(test=torch.arange(8)), ("a", "b"))
job = SimpleNamespace(table=pd.DataFrame(dict(split=["test"] * 8)), labels=pictures.labels.numpy(), group=pictures.groups.numpy(), sizes=[2], group_names=["a", "b"])
masks = {"1": torch.ones(2, 3, dtype=torch.bool), "3": torch.tensor([[True, True], [True, False]])}
by_layer = layer_disparity(job, pictures, model, masks)
by_layer

# %%
assert by_layer.loc["1", "rho"] == 0 and round(by_layer.loc["3", "rho"], 3) == round(100 / 2 ** .5, 3) and by_layer.loc["3", "delta:b"] == -100
assert model[3].weight.tolist() == [[1, 0], [0, 1]]                                        # the network is whole again
plot_layers({"fairgrape": by_layer})

# %%
assert "largest at 3, 70.7 points" in plot_layers({"fairgrape": by_layer}).get_label()


# %%
#| export
def run_layers(
    runs: list[Run],                      # A study's runs
    device: str | torch.device = "cpu",   # Where to compute
    data_root: str | Path | None = None,  # Folder of the data sets; default: settings.ini
    cache_root: str | Path | None = None, # Folder of decoded images; default: settings.ini
) -> dict[str, pd.DataFrame]:             # Run's label → its `layer_disparity`
    "Layers one at a time, from the masks in a run's folder and the dense network beside it, for every run that pruned the trained network."
    tables, rows = {}, report_table(runs).set_index("run")
    for run in (r for r in runs if r.path.name in rows.index):
        settings = Settings(**{f.name: run.settings[f.name] for f in fields(Settings) if f.name in run.settings})
        if form(settings).start == "initial": continue                       # its mask belongs to other weights
        job = prepare(settings, data_root, run.path.parent, cache_root, run.settings.get("name", ""), progress=False)
        images = images_of(job, device, progress=False)
        dense = dense_network(job, images, device, progress=False)
        job, images = find_clusters(job, images, dense.model, device)
        r = rows.loc[run.path.name]
        label = f"{r.network}, {r.label}, scope {r['scope']}, rate {r.rate:g}, seed {r.seed}" + (f", imbalance {settings.imbalance}" if settings.imbalance else "")
        if label in tables: raise ValueError(f"two runs would share the label {label!r}: give one of them to this study")
        tables[label] = layer_disparity(job, images, dense.model, run.masks, device)
    return tables


# %% [markdown]
# ## The page
#
# What a reader needs before the numbers: the question, why it is asked, what to look at, and how far the fast form is from the paper's protocol. Then the report's tables and figures over the study's runs.

# %%
#| export
def study_intro(
    study: Study,     # The question
    row: str,         # The data set and task
    fast: bool,       # Whether this is the form for two cores
    runs: list[Run],  # Its runs
) -> list[str]:       # Paragraphs
    "What the page says before the numbers."
    s, of = runs[0].settings, lambda key: " and ".join(dict.fromkeys(f"{r.settings[key]:g}" for r in runs))
    small = f"This is the fast form, for two cores: {s['network']} {'from scratch' if s['weights'] == 'none' else 'from ' + s['weights'] + ' weights'} at {s['image_size']} px, " + (f"at most {of('limit')} images, " if s["limit"] else "") + \
            f"{s['epochs']} epochs, keep {of('keep')}. It speaks for this small network and these few images, not for the paper's."
    seeds = len({r.settings["seed"] for r in runs})
    luck = "One seed of each run: differences between methods are differences of one throw." if seeds == 1 else f"{seeds} seeds."
    return [study.asks, study.why.strip(), f"Look at {study.look[0].lower() + study.look[1:] if study.look[1:2].islower() else study.look}".strip(), f"Source: {study.source}.", *([small] if fast else []), luck, *too_weak(runs)]

def study_page(
    study: Study,     # The question
    row: str,         # The data set and task
    fast: bool,       # Whether this is the form for two cores
    runs: list[Run],  # Its runs
    out: Path,        # The HTML page; the table goes beside it as CSV
    layers: Mapping[str, pd.DataFrame] | None = None, # From `run_layers`
) -> Path:            # The page
    "Write a study's page and its table."
    tables = [(t.round(2).reset_index(), f"{label}: each layer pruned by itself, nothing retrained") for label, t in (layers or {}).items()]
    figures = [(plot_layers(layers), "Each layer pruned by itself: where pruning is unequal to begin with.")] if layers else []
    report_table(runs).to_csv(out.with_suffix(".csv"), index=False)
    title = f"{study.title}: {row}{' (fast)' if fast else ''}"
    return write_report(out.parent, out, runs=runs, title=title, intro=study_intro(study, row, fast, runs), tables=tables, figures=figures, against=study.against)
