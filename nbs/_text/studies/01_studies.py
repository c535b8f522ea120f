# %% [markdown]
# # Studies
#
# > The paper's experiments: each a question, a list of runs, and a page with the answer

# %%
#| default_exp studies.studies

# %%
#| export
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from fairgrape.experiment.paths import read_yaml
from fairgrape.experiment.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from fairgrape.report.runs import Run

# %%
import tempfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from fairgrape.experiment.run import run
from fairgrape.report.runs import load_run
from fairgrape.studies.by_layer import run_layers


def refused(make, *args, **given):
    "The error of `make` for these arguments; fails if there is none"
    try:
        make(*args, **given)
    except (ValueError, TypeError) as e:
        return str(e)
    raise AssertionError(f"{args or given} was accepted")


# %% [markdown]
# A figure in a paper answers a question with a grid of runs. Here a study is a small YAML file with both: the question, the reason, what to look at, and the grid, in full for a GPU and in a fast form for two cores. The
# files are in nbs/templates/studies. One of them, `protocol.yaml`, has the settings that all studies start from and a row for each data set and task of the paper.

# %%
#| export
@dataclass(frozen=True)
class Study:
    "A question, and the runs that answer it."

    name: str  # Name for `fairgrape study NAME`
    title: str  # Heading of its page
    asks: str  # The question, one sentence
    why: str  # Reason for the question
    look: str  # What to look at in the answer
    source: str  # Place in the paper
    against: str  # The method with which the verdicts compare the others
    full: list  # Grids: setting → list of values
    fast: list  # The same for two cores
    layers: bool = False  # Whether each layer is also pruned alone


# %%
asked = Study(
    "example",
    "Rates",
    "Who pays at which rate?",
    "Because one rate says little.",
    "the disparity as the rate grows.",
    "table 1",
    "ws",
    [dict(method=["ws", "fairgrape"], rate=[0.5, 0.9])],
    [dict(method="ws", rate=0.5)],
)
print(asked.asks, asked.full)
assert not asked.layers and asked.fast[0]["rate"] == 0.5


# %% [markdown]
# An installed package has no checkout, so it includes the files.

# %%
#| export
def _studies_folder() -> Path:
    "The folder of the studies' files: in the checkout, or in the installed package."
    package = Path(str(files("fairgrape")))
    return next(
        f
        for f in (
            package.parent / "nbs" / "templates" / "studies",
            package / "templates" / "studies",
        )
        if f.is_dir()
    )


# %%
print(sorted(f.name for f in _studies_folder().glob("[pr]*")))
assert (_studies_folder() / "protocol.yaml").is_file() and _studies_folder().name == "studies"


# %%
#| export
def study_names() -> list[str]:
    "Names of the studies."
    return sorted(f.stem for f in _studies_folder().glob("*.yaml") if f.stem != "protocol")


# %%
study_names()

# %%
assert {
    "rates",
    "baselines",
    "scope",
    "steps",
    "group-importance",
    "one-group",
    "imbalanced",
    "clusters",
    "keep",
    "layers",
    "as-released",
} == set(study_names())


# %%
#| export
def load_study(
    name: str,  # One of `study_names()`
    folder: Path | None = None,  # Folder of its file; default: that of the templates
) -> Study:  # The study
    "Read a study's file. Raises: ValueError for an unknown name, or for wrong keys in the file."
    path = (folder or _studies_folder()) / f"{name}.yaml"
    if name == "protocol" or not path.is_file():
        raise ValueError(f"no study {name!r}: choose one of {', '.join(study_names())}")
    try:
        return Study(name, **read_yaml(path))
    except (TypeError, ValueError) as e:
        raise ValueError(
            f"{path}: a study has {', '.join(f.name for f in fields(Study))} ({e})"
        ) from e


# %%
pd.DataFrame([dict(study=n, asks=load_study(n).asks) for n in study_names()]).set_index("study")

# %%
for name in ("ratez", "protocol", "../secrets"):
    print(refused(load_study, name)[:60], "…")
home = Path(tempfile.mkdtemp())
(home / "mine.yaml").write_text(
    yaml.safe_dump({k: v for k, v in vars(asked).items() if k != "name"})
)
(home / "wrong.yaml").write_text("title: Rates\nasked: Who pays?")
(home / "broken.yaml").write_text("title: [")
assert (
    load_study("mine", home) == replace(asked, name="mine")
    and load_study("layers").layers
    and not load_study("rates").layers
)
assert "unexpected keyword argument 'asked'" in refused(
    load_study, "wrong", home
) and "a study has name, title" in refused(load_study, "broken", home)


# %% [markdown]
# ## Data sets and tasks
#
# A row of the protocol gives the paper's settings for a data set: the task, the groups, the epochs, the fraction kept at each step. In the fast form the settings of the small network replace the paper's.

# %%
#| export
def _protocol() -> dict:
    "The file of the protocol: `paper`, `fast`, and `rows`."
    return read_yaml(_studies_folder() / "protocol.yaml")


# %%
print({part: len(settings) for part, settings in _protocol().items()})
assert {"paper", "fast", "rows"} <= set(_protocol()) and _protocol()["paper"]["image_size"] == 224


# %%
#| export
def protocol_rows() -> list[str]:
    "Names of the data sets and tasks for a study."
    return list(_protocol()["rows"])


# %%
print(protocol_rows())
assert {"utkface", "fairface", "fairface-14", "celeba", "synthetic"} <= set(
    protocol_rows()
) and "paper" not in protocol_rows()


# %%
#| export
def protocol(
    row: str,  # One of `protocol_rows()`
    fast: bool = False,  # The settings for two cores instead of the paper's
    # Setting → value or list of values; and the values of `{column}`, `{kind}`, `{first}`
) -> tuple[dict, dict]:
    "The settings that a study on this data set starts from. Raises: ValueError for an unknown row."
    known = _protocol()
    if row not in known["rows"]:
        raise ValueError(
            f"no data set {row!r} in the studies' protocol: choose one of"
            f" {', '.join(known['rows'])}"
        )
    mine = dict(known["rows"][row])
    words = dict(column=mine.pop("column"), kinds=mine.pop("kinds"))
    what = {k: v for k, v in mine.items() if k in ("dataset", "task", "groups", "classes", "split")}
    return (what | known["fast"] if fast else known["paper"] | mine), words


# %%
protocol("utkface")

# %%
assert (
    protocol("utkface")[0]["keep"] == 0.975
    and protocol("fairface")[0]["keep"] == 0.9
    and protocol("celeba")[0]["epochs"] == "8,1,1"
)
assert (
    protocol("fairface", fast=True)[0]["limit"] <= 4000
    and protocol("fairface-14")[0]["groups"] == "race*gender"
    and protocol("utkface")[1]["column"] == "race"
)
print(refused(protocol, "imdb"))
for row in protocol_rows():  # every row gives valid settings, in both forms
    for fast in (False, True):
        several = {k: v if isinstance(v, list) else [v] for k, v in protocol(row, fast)[0].items()}
        for values in itertools.islice(itertools.product(*several.values()), 9):
            Settings(**dict(zip(several, values)))


# %% [markdown]
# ## From a study to its runs
#
# A grid is multiplied out. Three words are replaced for each data set: `{column}` is the column of its groups, `{kind}` each of the groups in turn (the first one in the fast form), `{first}` the first.

# %%
#| export
def _words_filled(
    value,  # A setting's value
    words: Mapping,  # `column` and `kinds` of the data set
    fast: bool,  # Only the first kind
) -> list:  # One or several values
    "A value with its words replaced."
    if not isinstance(value, str) or "{" not in value:
        return [value]
    kinds = words["kinds"][:1] if fast or "{kind}" not in value else words["kinds"]
    return [
        value.replace("{column}", words["column"])
        .replace("{kind}", kind)
        .replace("{first}", words["kinds"][0])
        for kind in kinds
    ]


# %%
words = dict(column="tint", kinds=["red", "blue"])
(
    _words_filled("{column}={kind}", words, fast=False),
    _words_filled("{column}={first}:0.2", words, fast=False),
)

# %%
assert _words_filled("{column}={kind}", words, False) == [
    "tint=red",
    "tint=blue",
] and _words_filled("{column}={kind}", words, True) == ["tint=red"]
assert (
    _words_filled("{column}={first}:0.2", words, False) == ["tint=red:0.2"]
    and _words_filled(0.9, words, False) == [0.9]
    and _words_filled("race", words, False) == ["race"]
)


# %%
#| export
def study_cells(
    study: Study,  # The question
    row: str,  # A data set and task, one of `protocol_rows()`
    fast: bool = False,  # The form for two cores
    overrides: Mapping | None = None,  # Settings that replace the study's and the protocol's
) -> list[dict]:  # Parameters of each run, each once
    "All runs of a study. Raises: ValueError or TypeError for invalid settings."
    start, words = protocol(row, fast)
    overrides, cells = dict(overrides or {}), {}
    for part in study.fast if fast else study.full:
        given = {
            k: v if isinstance(v, list) else [v] for k, v in {**start, **part, **overrides}.items()
        }
        values = [
            [filled for v in several for filled in _words_filled(v, words, fast)]
            for several in given.values()
        ]
        for combination in itertools.product(*values):
            cell = dict(zip(given, combination))
            cells.setdefault(Settings(**cell), cell)
    return list(cells.values())


# %%
cells = study_cells(load_study("one-group"), "utkface", fast=True)
[c["importance_on"] for c in cells], len(study_cells(load_study("one-group"), "utkface"))

# %%
assert [c["importance_on"] for c in cells] == ["", "race=White", "race!=White"]
# networks × rates × (all, only each, without each)
assert len(study_cells(load_study("one-group"), "utkface")) == 2 * 2 * (1 + 4 + 4)
assert {c["imbalance"] for c in study_cells(load_study("imbalanced"), "fairface", fast=True)} == {
    "",
    "race=White:0.2",
}
assert all(
    c["limit"] == 500 for c in study_cells(load_study("rates"), "fairface", True, dict(limit=500))
)
assert len(study_cells(asked, "utkface", overrides=dict(network="resnet18"))) == 4
# each once
assert (
    len(
        study_cells(
            replace(asked, full=asked.full * 2), "utkface", overrides=dict(network="resnet18")
        )
    )
    == 4
)
print(
    "runs of the full form on one data set:",
    {n: len(study_cells(load_study(n), "fairface")) for n in study_names()},
)
print(refused(study_cells, asked, "utkface", overrides=dict(rate=2)))


# %% [markdown]
# ## Too weak to tell
#
# A network that hardly learnt its task has little to lose by pruning, and its losses per group are noise. The limit is twice the accuracy of guessing, or halfway between guessing and perfect accuracy if that is lower
# (for two classes, twice guessing is perfect). If one class is common, a constant answer may pass this limit. The network must therefore also exceed the share of the commonest class by a tenth of the rest.

# %%
#| export
def _weak_line(
    sizes: list[int],  # Number of classes of each head
    # Share of the commonest class of each head among the test images (percent)
    commonest: list[float],
) -> float:  # Accuracy (percent), mean over the heads
    "The dense accuracy below which a study is not conclusive."
    import numpy as np  # imported here because choosing a study does not need it

    guess, naming = np.mean([100 / k for k in sizes]), np.mean(commonest)
    return float(max(min(2 * guess, (100 + guess) / 2), naming + (100 - naming) / 10))


# %%
# twice guessing, halfway to perfect, a tenth above the commonest class
_weak_line([7], [20]), _weak_line([2], [50]), _weak_line([4], [82.7])

# %%
assert (
    _weak_line([4], [40]) == 50
    and _weak_line([2], [50]) == 75
    and _weak_line([4, 2], [40, 50]) == 68.75
)
assert _weak_line([4], [80]) == 82  # a set with one group of four in five


# %%
#| export
def _dense_and_line(
    run: "Run",  # A study's run
    # Percent: the dense network's accuracy on the test images, and the limit
) -> tuple[float, float]:
    "The dense network's accuracy, and the limit below which a study is not conclusive."
    import pandas as pd

    rates = pd.DataFrame(run.metrics["rates"])
    per_head = rates[rates["group"] == "all"].groupby("head", sort=False)["n"]
    return run.metrics["accuracy_dense"], _weak_line(
        [len(c) for c in run.settings["classes_used"].values()],
        list(100 * per_head.max() / per_head.sum()),
    )


# %%
def example(accuracy, share=40, **more):
    "A run whose task has four classes, the commonest with that share"
    rates = [
        dict(head="race", group=group, n=n)
        for group in ("all", "a")
        for n in (share, (100 - share) // 2, (100 - share) // 2, 0)
    ]
    return SimpleNamespace(
        settings=dict(classes_used=dict(race=list("abcd")), network="resnet34", seed=0) | more,
        metrics=dict(accuracy_dense=accuracy, rates=rates),
    )


print(_dense_and_line(example(45.0)), _dense_and_line(example(81.0, share=80)))
assert _dense_and_line(example(45.0)) == (45, 50) and _dense_and_line(example(81.0, share=80)) == (
    81,
    82,
)


# %% [markdown]
# Many runs start from one dense network, which is named once.

# %%
#| export
def too_weak(
    runs: "list[Run]",  # A study's runs
) -> list[str]:  # A sentence for each dense network that is too weak
    "The dense networks that are too weak for a conclusion."
    from fairgrape.report.runs import experiment

    said = {}
    for one in runs:
        what = f"{experiment(one.settings)}; seed {one.settings['seed']}"
        accuracy, line = _dense_and_line(one)
        if accuracy < line:
            said[what] = (
                f"Too weak: the dense network has {accuracy:.1f} % on the test images; below"
                f" {line:.1f} % it says nothing, and neither do its pruned forms ({what})."
            )
    return list(said.values())


# %%
too_weak([example(45.0)])[0]

# %%
# one network, one sentence
assert (
    too_weak([example(56.0)]) == too_weak([example(50.0)]) == []
    and len(too_weak([example(45.0), example(45.0)])) == 1
)
assert (
    len(too_weak([example(45.0), example(45.0, imbalance="race=a:0.2"), example(45.0, seed=1)]))
    == 3
    and "81.0 %" in too_weak([example(81.0, share=80)])[0]
)

# %% [markdown]
# ## The page
#
# The page begins with the question, its reason, what to look at, and the difference between the fast form and the paper's protocol. The tables and figures of the report over the study's runs follow.

# %% [markdown]
# The page is made from finished runs. The example is a minimal run: dark pictures against light ones, red against blue.

# %%
rng = np.random.default_rng(0)
rows = [
    dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3])
    for i in range(160)
]
(home / "own").mkdir()
for row in rows:
    Image.fromarray(
        (rng.integers(0, 120, (16, 16, 3)) + (90 if row["shade"] == "light" else 0)).astype(
            np.uint8
        )
    ).save(home / "own" / row["file"])
pd.DataFrame(rows).to_csv(home / "own" / "labels.csv", index=False)
tiny = Settings(
    dataset="folder",
    data_path=str(home / "own"),
    task="shade",
    groups="tint",
    network="resnet10",
    weights="none",
    image_size=16,
    method="ws",
    rate=0.9,
    epochs="1",
    lrs="1e-3",
    batch=16,
    augment="none",
    bootstrap=200,
)
finished = load_run(
    run(tiny, data_root=home, runs_root=home / "runs", cache_root=home / "cache", progress=False)
)


def changed(name, **more):
    return replace(finished, path=finished.path.parent / name, settings=finished.settings | more)


changed("kept", keep=0.5)


# %%
#| export
def _fast_form(runs: "list[Run]") -> str:
    "The difference between the fast form and the paper's protocol, in words."
    s = runs[0].settings

    def of(key):
        return " and ".join(dict.fromkeys(f"{r.settings[key]:g}" for r in runs))

    begun = "from scratch" if s["weights"] == "none" else f"from {s['weights']} weights"
    few = f"at most {of('limit')} images, " if s["limit"] else ""
    small = (
        f"{s['network']} {begun} at {s['image_size']} px, {few}{s['epochs']} epochs, keep"
        f" {of('keep')}"
    )
    return (
        f"This is the fast form, for two cores: {small}. It speaks for this small network and these"
        " few images, not for the paper's."
    )


# %%
_fast_form([finished, changed("kept", keep=0.5)])

# %%
assert _fast_form([finished]).startswith(
    "This is the fast form, for two cores: resnet10 from scratch at 16 px, 1 epochs, keep 0.9."
)
assert "keep 0.9 and 0.5." in _fast_form([finished, changed("kept", keep=0.5)])
assert "from imagenet weights at 16 px, at most 500 images, 1 epochs" in _fast_form(
    [changed("few", weights="imagenet", limit=500)]
)


# %%
#| export
def study_intro(
    study: Study,  # The question
    row: str,  # The data set and task
    fast: bool,  # Whether this is the form for two cores
    runs: "list[Run]",  # Its runs
) -> list[str]:  # Paragraphs
    "The text of the page before the numbers."
    seeds = len({r.settings["seed"] for r in runs})
    luck = (
        "One seed of each run: a difference between methods may be due to the seed."
        if seeds == 1
        else f"{seeds} seeds."
    )
    look = study.look[0].lower() + study.look[1:] if study.look[1:2].islower() else study.look
    return [
        study.asks,
        study.why.strip(),
        f"Look at {look}".strip(),
        f"Source: {study.source}.",
        *([_fast_form(runs)] if fast else []),
        luck,
        *too_weak(runs),
    ]


# %%
study_intro(asked, "utkface", True, [finished])

# %%
weak = replace(changed("weak"), metrics=finished.metrics | dict(accuracy_dense=10.0))
said = study_intro(
    replace(asked, look="Where the red dots are"),
    "utkface",
    False,
    [finished, changed("other", seed=1)],
)
assert said[:5] == [
    asked.asks,
    asked.why,
    "Look at where the red dots are",
    "Source: table 1.",
    "2 seeds.",
]
assert (
    study_intro(replace(asked, look="ρ of both"), "x", False, [finished])[2] == "Look at ρ of both"
)
assert "One seed of each run" in study_intro(asked, "x", False, [finished])[4] and study_intro(
    asked, "x", True, [finished]
)[4] == _fast_form([finished])
assert study_intro(asked, "x", False, [weak])[-1].startswith(
    "Too weak: the dense network has 10.0 %"
)


# %%
#| export
def study_page(
    study: Study,  # The question
    row: str,  # The data set and task
    fast: bool,  # Whether this is the form for two cores
    runs: "list[Run]",  # Its runs
    out: Path,  # The HTML page; the table is saved beside it as CSV
    layers: "Mapping[str, pd.DataFrame] | None" = None,  # From `run_layers`
) -> Path:  # The page
    "Write a study's page and its table."
    from fairgrape.report.comparison import report_table
    from fairgrape.report.page import write_report
    from fairgrape.studies.by_layer import plot_layers

    tables = [
        (t.round(2).reset_index(), f"{label}: each layer pruned by itself, nothing retrained")
        for label, t in (layers or {}).items()
    ]
    figures = (
        [
            (
                plot_layers(layers),
                "Each layer pruned by itself: where pruning is unequal to begin with.",
            )
        ]
        if layers
        else []
    )
    report_table(runs).to_csv(out.with_suffix(".csv"), index=False)
    title = f"{study.title}: {row}{' (fast)' if fast else ''}"
    return write_report(
        out.parent,
        out,
        runs=runs,
        title=title,
        intro=study_intro(study, row, fast, runs),
        tables=tables,
        figures=figures,
        against=study.against,
    )


# %%
page = study_page(
    asked,
    "utkface",
    True,
    [finished],
    home / "study.html",
    run_layers([finished], data_root=home, cache_root=home / "cache"),
)
text = page.read_text(encoding="utf-8")
page.name, len(pd.read_csv(home / "study.csv")), text.count("<figure>")

# %%
assert (
    "<h1>Rates: utkface (fast)</h1><p>Who pays at which rate?</p>" in text
    and "each layer pruned by itself, nothing retrained" in text
    and text.count("<table>") == 2
)
plain = study_page(asked, "utkface", False, [finished], home / "study.html").read_text(
    encoding="utf-8"
)
assert (
    plain.count("<table>") == 1
    and plain.count("<figure>") == text.count("<figure>") - 1
    and "<h1>Rates: utkface</h1>" in plain
    and "fast form" not in plain
)
assert pd.read_csv(home / "study.csv")["run"].tolist() == [finished.path.name]
