# %% [markdown]
# # Report
#
# > One self-contained page about many runs

# %%
#| default_exp report.page

# %%
#| export
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fairgrape.judge.compare import collapse_notes, collapse_table
from fairgrape.report.comparison import display_table, report_table, seed_floor, verdicts
from fairgrape.report.figures import html_figure, html_table, write_html
from fairgrape.report.heads import head_values, heads_html
from fairgrape.report.plots import plot_deltas, plot_disparity, plot_price
from fairgrape.report.run_plots import (
    plot_groups,
    plot_history,
    plot_kept_shares,
    plot_paid,
    plot_shares,
    plot_sparsity,
)
from fairgrape.report.runs import Run, experiment, find_runs

# %% [markdown]
# A report is one HTML file without external parts, which you can open anywhere or send by mail. Tables have captions and headings for screen readers,
# pictures have descriptions, and on a phone a wide table scrolls in its own box. It is made from [finished runs](05_runs.ipynb) and their [comparison](06_comparison.ipynb).
#
# The examples are runs with made-up numbers: 400 test images, four groups, three layers. `write_example` writes such a run's small files and its predictions.

# %%
import base64
import io
import json
import tempfile
from dataclasses import replace
from html.parser import HTMLParser
from unittest.mock import patch

import numpy as np
from PIL import Image

from fairgrape.judge.compare import compare

names = [f"tone-{i}" for i in (1, 2, 3, 4)]
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


# labels, dense and pruned predictions, groups: the same images for every seed
def answers(loss, seed):
    y, groups = np.arange(400) % 3, np.repeat(np.arange(4), [160, 120, 80, 40])
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random(400) < 0.92, y, (y + 1) % 3)
    return y, dense, np.where(rng.random(400) < np.array(loss)[groups], (y + 2) % 3, dense), groups


def write_tables(path, dense, seed):
    labels = ["dense"] * 5 if dense else ["dense"] * 5 + ["step 1", "step 2", "final", "final"]
    pd.DataFrame(
        [
            dict(
                label=l,
                stage=0,
                epoch=i,
                lr=1e-3,
                train_loss=1 / (i + 1),
                val_loss=1.1 / (i + 1),
                val_accuracy=90 - 40 / (i + 1),
                seconds=1,
                kept=True,
            )
            for i, l in enumerate(labels)
        ]
    ).to_csv(path / "history.csv", index=False)
    pd.DataFrame([] if dense else [dict(step=i, kept=4012) for i in (1, 2)]).to_csv(
        path / "steps.csv", index=False
    )
    share = np.random.default_rng(seed).dirichlet(np.full(4, 20), (2, 3))
    shares = {
        f"{when}:{g}": share[w, :, i]
        for w, when in enumerate(("before", "after"))
        for i, g in enumerate(names)
    }
    layers = {
        "layer": ["conv1", "layer1.0.conv1", "fc"],
        "weights": [1728, 36864, 1536],
        "kept": [400, 3000, 612],
    }
    if not dense:
        pd.DataFrame(layers | shares).to_csv(path / "layers.csv", index=False)


def write_example(root, loss=(0.02, 0.03, 0.05, 0.10), **changed):
    s = start | changed
    y, dense, pruned, groups = answers(loss, s["seed"])
    path = Path(root) / f"{s['method']}-{s['rate']}-{s['scope']}-{s['seed']}-{s['limit']}"
    path.mkdir(parents=True)
    metrics = compare(
        y, dense, pruned, groups, {"expression": ["happy", "calm", "sad"]}, names, B=s["bootstrap"]
    )
    for name, what in dict(settings=s, environment={}, metrics=metrics).items():
        (path / f"{name}.json").write_text(json.dumps(what))
    write_tables(path, s["method"] == "dense", s["seed"])
    table = dict(
        row=np.arange(400),
        group=np.array(names)[groups],
        label_expression=y,
        dense_expression=dense,
        pruned_expression=pruned,
    )
    pd.DataFrame(table).to_parquet(path / "predictions.parquet")


root = Path(tempfile.mkdtemp()) / "runs"
write_example(root)
write_example(root, scope="global")
write_example(root, seed=1)
write_example(root, (0, 0, 0, 0), method="dense", seed=2)
for scope in ("layer", "global"):
    write_example(root, (0.02, 0.05, 0.08, 0.35), method="ws", scope=scope)
    write_example(root, (0.10, 0.12, 0.12, 0.14), method="ws", scope=scope, rate=0.99)
    write_example(root, (0.05, 0.10, 0.20, 0.45), scope=scope, rate=0.99)
runs = find_runs(root)
run = next(r for r in runs if r.path.name == "fairgrape-0.9-layer-0-0")
runs

# %% [markdown]
# ## Tables and pictures
#
# A page with fifty pictures should be small enough for mail, so each picture has 64 colours, which are enough for a plot ([figures](01_figures.ipynb)). The plot functions put a description into the figure's label, which becomes the picture's alternative text.

# %%
fig = plot_shares(run.layers)
shown = html_figure(fig, "Shares & all")
print(shown[:330], "…")

# %%
assert (
    'alt="Share of importance per layer' in shown
    and shown.count("Shares &amp; all") == 2
    and shown == html_figure(fig, "Shares & all")
)
picture = Image.open(io.BytesIO(base64.b64decode(shown.split("base64,")[1].split('"')[0])))
assert (
    picture.format == "PNG"
    and len(picture.getcolors()) <= 64
    and picture.size == tuple(round(110 * inches) for inches in fig.get_size_inches())
)


# %% [markdown]
# A study may add its own tables. They are rounded like those of the report.

# %%
#| export
def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    "A table as text: a named index becomes the first columns, fractions have two digits."
    frame = frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()

    def say(v):
        if not isinstance(v, str) and pd.isna(v):
            return "–"
        return f"{v:.2f}".replace("-", "−") if isinstance(v, float) else str(v)

    return pd.DataFrame({c: [say(v) for v in frame[c]] for c in frame})


# %%
layers = pd.DataFrame(
    {"layer": ["conv1", "fc"], "rho": [1.234, -2.0], "n": [3, 4], "floor": [np.nan, 1.0]}
).set_index("layer")
_rounded(layers)

# %%
assert (
    _rounded(layers).values.tolist() == [["conv1", "1.23", "3", "–"], ["fc", "−2.00", "4", "1.00"]]
    and list(_rounded(layers.reset_index()))[0] == "layer"
)

# %% [markdown]
# ## How to read it
#
# The page itself explains its numbers, because its reader may never see this notebook.

# %%
#| export
HOW_TO_READ = """\
<p>Each run trains a dense network, prunes it and compares the two on the same test images.
<b>Δ</b> of a group is its accuracy after pruning minus that before, in percentage points. <b>ρ</b>
is the standard deviation (n − 1) of Δ over the groups: 0 if all lost the same, larger the more
unequal the losses. <b>ψ</b> is how much more the worst group lost than all test images together.
A network that has <b>collapsed</b> to one answer for every image has a small ρ that means
nothing; such networks are named below their table.</p>
<p>ρ cannot be negative, so chance alone makes it positive. The <b>noise floor</b> shows how large:
its mean is the average ρ if all groups had truly lost the same, and only one test
set in twenty exceeds its 95 % value. The <b>interval</b> in brackets holds the true disparities
that agree with the observed one, at 95 %; if it begins at 0, the run is no evidence of a
disparity, even if ρ is a little above the floor (the interval leaves out one test set in forty
at each end, the floor one in twenty at its only end). It covers the choice of test images, not
the chance in training: for that, compare several seeds.</p>
<p>Compare methods only at equal scope, rate and experiment, and read ρ together with the accuracy:
a network that fails for everybody has no disparity left. The groups are labels as others perceived
them, and a small disparity on one test set is no licence to use a model on people.</p>"""


# %% [markdown]
# ## Text
#
# Class names and introductions go into the page as text, never as markup.

# %%
#| export
def _paragraphs(text: str | Sequence[str]) -> str:
    "Plain text as paragraphs: a list of them, or one text with blank lines between."
    parts = text.split("\n\n") if isinstance(text, str) else text
    return "".join(f"<p>{html.escape(part.strip())}</p>" for part in parts if part.strip())


# %%
print(_paragraphs("Asked: a < b?\n\nSource: section 4."))
assert (
    _paragraphs("Asked: a < b?\n\n\n\nSource")
    == _paragraphs(["Asked: a < b?", " ", "Source"])
    == "<p>Asked: a &lt; b?</p><p>Source</p>"
)
assert _paragraphs("") == "" and _paragraphs([]) == ""


# %%
#| export
def _list(heading: str, sentences: Iterable[str]) -> str:
    "Sentences under a heading, each once; empty without sentences."
    items = "".join(f"<li>{html.escape(s)}</li>" for s in dict.fromkeys(sentences))
    return f"<h3>{html.escape(heading)}</h3><ul>{items}</ul>" if items else ""


# %%
print(_list("Against ws", ["x & y", "x & y", "z"]))
assert (
    _list("Against ws", ["x & y", "x & y", "z"])
    == "<h3>Against ws</h3><ul><li>x &amp; y</li><li>z</li></ul>"
    and _list("Nothing", []) == ""
)


# %%
#| export
def _notes(run: Run) -> list[str]:
    "A run's notes, without those on collapse, which have their own table."
    own = set(collapse_notes(run.metrics.get("rates", [])))
    return [note for note in run.metrics.get("notes", []) if note not in own]


# %%
#| export
def _said(table: pd.DataFrame, runs: list[Run], floor: pd.DataFrame, against: str) -> str:
    """Sentences: the second floor, the comparisons with the baseline, and what could not be
    measured.
    """
    seeds = "; ".join(f"seeds {r.seeds}: {r.rho:.1f}" for r in floor.itertuples())
    second = "ρ between dense networks of different seeds, a second floor, in points"
    compared = _list(f"Against {against}", verdicts(table, against))
    notes = _list("What could not be measured", (note for run in runs for note in _notes(run)))
    return (f"<p>{second}: {seeds}.</p>" if seeds else "") + compared + notes


# %%
table = report_table(runs)
bare = replace(run, metrics=run.metrics | dict(notes=["one class in tone-1: Bald (always no)"]))
said = _said(table, [bare, bare], seed_floor(runs), "ws")
print(said[:160], "…", said[-110:])

# %%
assert (
    said.startswith("<p>ρ between dense networks of different seeds")
    and said.count("; seeds ") == 2
)
assert all(html.escape(s) in said for s in verdicts(table)) and said.count("Bald (always no)") == 1
assert _said(table, runs, seed_floor([]), "nobody") == "" and "<h3>Against fairgrape</h3>" in _said(
    table, runs, seed_floor([]), "fairgrape"
)

# %% [markdown]
# With several heads, a table and a [heat map](11_heads.ipynb) show head × group; the numbers of each group are folded.

# %%
y2 = np.stack([np.arange(400) % 3 % 2, np.arange(400) % 5 == 0], axis=1).astype(int)
worse = np.where(np.arange(400)[:, None] % 7 == 0, 0, y2)
two_heads = {"gender": ["man", "woman"], "hat": ["no", "yes"]}
of_two = compare(y2, y2, worse, np.arange(400) % 4, two_heads, names, B=50)
head_part = heads_html(head_values(of_two["rates"]), collapse_table(of_two["rates"]))
print(head_part[:180], "…")

# %%
assert head_part.count("<figure>") == 1 and head_part.count("<table>") == 4
assert head_part.count('<div class="grid"><figure>') == 1
assert head_part.count("<details>") == 3 and "0 of 2 heads of pruned" in head_part
assert '<th scope="row">hat</th>' in head_part and "Change of each head in each group" in head_part
of_one = run.metrics["rates"]
assert heads_html(head_values(of_one), collapse_table(of_one)) == ""


# %% [markdown]
# ## Sections
#
# The figures of each run are folded, because a reader needs them only if the comparison raises a question.

# %%
#| export
def _run_section(run: Run) -> str:
    "One run's own figures, folded."
    figures = [
        (
            plot_groups(run.metrics),
            "Accuracy of each group, dense and pruned, and its change, with 95 % intervals.",
        ),
        (plot_sparsity(run.layers), "Weights kept in each layer."),
        (
            plot_history(run.history),
            "Learning curves; dotted lines separate dense training, steps and final training.",
        ),
    ]
    if len(run.paid):
        figures.append(
            (
                plot_paid(run.paid),
                "Who pays, and when: each group’s accuracy on the validation images after each"
                " step, minus the dense network’s.",
            )
        )
    if len(run.choices):
        figures.append(
            (
                plot_kept_shares(run.choices),
                "What each step’s selection kept: each group’s share of the importance, minus its"
                " target.",
            )
        )
    if any(c.startswith("before:") for c in run.layers):
        figures.append(
            (
                plot_shares(run.layers),
                "Each group’s share of each layer’s importance in the dense network and after"
                " the final training; not what the selection kept.",
            )
        )
    name, drawn = html.escape(run.path.name), "".join(html_figure(*f) for f in figures)
    rates = run.metrics.get("rates", [])
    drawn += heads_html(head_values(rates), collapse_table(rates))
    return f"<details><summary>{name}</summary>{drawn}</details>"


# %%
print(_run_section(run)[:200], "…")
assert _run_section(run).count("<figure>") == 4 and _run_section(run).startswith(
    "<details><summary>fairgrape-0.9-layer-0-0</summary>"
)
two_headed = replace(run, metrics=of_two)
assert _run_section(two_headed).count("<figure>") == 5 and head_part in _run_section(two_headed)
chosen = replace(run, path=root.parent / "chosen" / run.path.name)
chosen.path.mkdir(parents=True)
pd.DataFrame(
    [dict(step=i, layer="fc", group=g, target=0.25, kept=0.25) for i in (1, 2) for g in names]
).to_csv(chosen.path / "choices.csv", index=False)
assert _run_section(chosen).count(
    "<figure>"
) == 5 and "What each step’s selection kept" in _run_section(chosen)
assert (
    _run_section(replace(run, layers=run.layers[["layer", "weights", "kept"]])).count("<figure>")
    == 3
    and "licence" in HOW_TO_READ
    and "debias" not in HOW_TO_READ
)

# %% [markdown]
# A table wider than the window hides its last columns, and readers do not notice. So the values that all runs share are given once above the table,
# and with more than six groups their changes have separate tables of eight groups each.

# %%
#| export
COMMON_COLUMNS = (
    "Scope",
    "Keep a step",
    "Retraining epochs a step",
    "Seed",
    "Dataset",
    "Groups",
    "Test images",
    "Network",
)


def _result_table(shown: pd.DataFrame, caption: str) -> str:
    "The table of `display_table`; values that are equal in all rows are given above it."
    same = [c for c in COMMON_COLUMNS if shown[c].nunique() == 1]
    said = "; ".join(f"{c.lower()} {shown[c].iloc[0]}" for c in same)
    shown = shown.drop(columns=same)
    of_groups = [c for c in shown if c.startswith("Δ ")]
    head = f"<p>In all rows: {html.escape(said)}.</p>" if same else ""
    if len(of_groups) <= 6:
        return head + html_table(shown, caption)
    keys = [c for c in ("Method", "Rate", "Scope", "Seed") if c in shown]
    parts = [of_groups[i : i + 8] for i in range(0, len(of_groups), 8)]
    more = [
        html_table(shown[[*keys, *part]], f"Δ of each group, in points ({i} of {len(parts)}).")
        for i, part in enumerate(parts, 1)
    ]
    return "".join([head, html_table(shown.drop(columns=of_groups), caption), *more])


# %%
wide = display_table(report_table(runs))
print(_result_table(wide[wide.Method == "ws"], "WS")[:200], "…")
assert _result_table(wide, "All").startswith(
    "<p>In all rows: dataset synthetic; groups tone; test images 400; network resnet10, 32 px.</p>"
)
assert '<th scope="col">Dataset' not in _result_table(
    wide, "All"
) and '<th scope="col">Seed' in _result_table(wide, "All")
many = wide.assign(**{f"Δ group {i} (n = 9)": "+1.0" for i in range(3)})
assert (
    _result_table(many, "All").count("<table>") == 2
    and "group 2" not in _result_table(many, "All").split("</table>")[0]
)
fourteen = many.assign(**{f"Δ group {i} (n = 9)": "+1.0" for i in range(3, 10)})
assert _result_table(fourteen, "All").count("<table>") == 3 and "(2 of 2)" in _result_table(
    fourteen, "All"
)


# %% [markdown]
# A network that always gives the same answer has a small ρ. Collapsed networks and their classes are listed directly below the table. Older runs are included, because their rates are recorded.

# %%
#| export
def _collapsed(runs: Iterable[Run]) -> str:
    """Networks that never predict a class or are no better than the commonest one; empty
    without such networks.
    """
    rows = {}
    for run in runs:
        rates = run.metrics.get("rates", [])
        for network in dict.fromkeys(collapse_table(rates)["network"]):
            notes = [
                note for note in collapse_notes(rates) if note.startswith(f"the {network} network ")
            ]
            name = f"dense, seed {run.settings['seed']}" if network == "dense" else run.path.name
            if notes:
                rows[name, *notes] = {
                    "Network": name,
                    "What it does": "; ".join(
                        note.removeprefix(f"the {network} network ") for note in notes
                    ),
                }
    if not rows:
        return ""
    said = (
        "A network that gives one answer for every image treats all groups alike, and its changes"
        " by group only count that answer. If a network is no better than the commonest class"
        " (marked †), its ρ and ψ mean nothing, however small they are."
    )
    table = html_table(
        pd.DataFrame(list(rows.values())),
        "Classes never predicted, and networks no better than the commonest class",
    )
    return f"<h3>Networks that have collapsed</h3><p>{said}</p><div class='words'>{table}</div>"


# %%
y = np.arange(400) % 3 % 2
man = compare(y, y, 0 * y, np.arange(400) % 4, {"gender": ["man", "woman"]}, names, B=50)
constant = replace(run, path=root / "all-men", metrics=man)
print(_collapsed([constant, run]))
assert "never predicts 1 of 2 classes that the test images have: woman" in _collapsed(
    [constant]
) and "all-men" in _collapsed([constant, run])
assert "no better than always answering man: 66.8 %" in _collapsed(
    [constant]
) and "ρ and ψ mean nothing" in _collapsed([constant])
assert (
    _collapsed([run]) == _collapsed([]) == ""
    and _collapsed([constant, constant]).count("<tr>") == 2
)
assert _notes(replace(run, metrics=man | dict(notes=[*man["notes"], "one more"]))) == ["one more"]
blank = replace(
    run,
    path=root / "guess",
    metrics=compare(y, 0 * y, 0 * y, np.arange(400) % 4, {"gender": ["man", "woman"]}, names, B=50),
)
assert "dense, seed 0" in _collapsed([blank]) and _collapsed([blank]).count("<tr>") == 3


# %% [markdown]
# Runs of two experiments are never in one table: each experiment has its own section, first its table, then the statements that it supports, then the plots.

# %%
#| export
def _experiment_section(
    name: str, table: pd.DataFrame, runs: list[Run], floor: pd.DataFrame, details: int, against: str
) -> str:
    "The section of one experiment: table, statements, plots, then each run."
    title, _, rest = name.partition("; ")
    left = (
        f"<p class='note'>The other {len(runs) - details} runs’ own figures are left out.</p>"
        if len(runs) > details
        else ""
    )
    return "".join(
        [
            f"<h2>{html.escape(title)}</h2><p class='settings'>{html.escape(rest)}</p>",
            _result_table(
                display_table(table),
                f"{title}: {len(table)} runs. Accuracy in percent, the rest in points.",
            ),
            _collapsed(runs),
            _said(table, runs, floor, against),
            html_figure(
                plot_disparity(table),
                "ρ with its 95 % interval; the hatched bar is the noise floor, below which a ρ is"
                " no evidence.",
            ),
            html_figure(
                plot_deltas(table),
                "Δ of each group with its 95 % interval, at equal scope and rate.",
            ),
            html_figure(
                plot_price(table), "ρ against accuracy; the small number is the pruning rate."
            ),
            "<h3>Each run</h3>",
            *map(_run_section, runs[:details]),
            left,
        ]
    )


# %%
pruned = [r for r in runs if r.settings["method"] != "dense"]
section = _experiment_section("faces <small>; batch 64", table, pruned[:3], seed_floor([]), 2, "ws")
print(section[:120], "…", section[-80:])
assert (
    section.startswith("<h2>faces &lt;small&gt;</h2><p class='settings'>batch 64</p>")
    and section.count("<figure>") == 3 + 2 * 4
)
assert "The other 1 runs’" in section
assert (
    "left out" not in _experiment_section("faces", table, pruned[:1], seed_floor([]), 1, "ws")
    and "9 runs. Accuracy in percent" in section
)


# %%
#| export
def _sections(runs: list[Run], table: pd.DataFrame, details: int, against: str) -> str:
    "A section for each experiment of the table, with its runs and its second floor."
    floor, body = seed_floor(runs), ""
    for name, rows in table.groupby("experiment", sort=False):
        own = [r for r in runs if experiment(r.settings) == name and r.path.name in set(rows.run)]
        body += _experiment_section(
            name,
            rows.reset_index(drop=True),
            own,
            floor[floor.experiment == name],
            details,
            against,
        )
    return body


# %%
smaller = replace(run, path=root / "fewer-images", settings=run.settings | dict(limit=400))
mixed = _sections([*runs, smaller], report_table([*runs, smaller]), 0, "ws")
print(mixed.count("<h2>"), mixed.count("<table>"))
assert (
    mixed.count("<h2>") == mixed.count("<table>") == 2
    and "limited to 400" in mixed
    and "The other 9 runs’" in mixed
)
assert "The other 1 runs’" in mixed  # the dense run has no row
assert mixed.count("a second floor") == 1  # of the experiment that has several seeds


# %%
#| export
def _opening(title: str, intro: str) -> str:
    "The page's heading, its introduction, and how to read it."
    how = f"<h2>How to read this page</h2>{HOW_TO_READ}"
    return f"<h1>{html.escape(title)}</h1>{intro}{how}"


# %%
opening = _opening("Rates & all", "<p>first</p>")
print(opening[:80], "…")
assert opening.startswith("<h1>Rates &amp; all</h1><p>first</p><h2>How to read")
assert "noise floor" in opening


# %% [markdown]
# ## The page

# %%
#| export
def write_report(
    runs_root: str | Path,  # The folder that holds run folders
    out: str | Path | None = None,  # The page; default `report.html` in that folder
    pattern: str = "*",  # Which runs, as a glob over folder names
    details: int = 12,  # Number of runs per experiment whose own figures are drawn
    runs: list[Run] | None = None,  # These runs, instead of those found
    title: str = "Who paid for the pruning?",  # The page's heading
    # Introduction, plain text: paragraphs, or one text with blank lines between
    intro: str | Sequence[str] = "",
    figures: Sequence[tuple[Figure, str]] = (),  # More figures with their captions
    tables: Sequence[tuple[pd.DataFrame, str]] = (),  # More tables with their captions
    against: str = "ws",  # The baseline of the sentences, as for `verdicts`
) -> Path:  # The page's path
    "Write one self-contained page about all finished runs of a folder, or about the given ones."
    runs = find_runs(runs_root, pattern) if runs is None else runs
    out, table = Path(out or Path(runs_root) / "report.html"), report_table(runs)
    body = _sections(runs, table, details, against)
    more = [html_table(_rounded(t), caption) for t, caption in tables]
    more += [html_figure(*f) for f in figures]
    if more:
        body += "".join(["<h2>More</h2>", *more])
    body = _opening(title, _paragraphs(intro)) + body
    return write_html(out, f"{title} {len(table)} runs", body)


# %%
page = write_report(root, details=2)
print(page.name, f"{page.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# The page is written atomically: a full disk leaves the old page unchanged.

# %%
before = page.read_bytes()
with patch("os.fsync", side_effect=OSError("No space left on device")):
    try:
        write_report(root, details=0)
    except OSError as e:
        print(e)
    else:
        raise AssertionError("a page was written to a full disk")
assert page.read_bytes() == before and not list(root.glob(".*.part"))


# %% [markdown]
# A parser checks the page as a browser reads it: one language, one main heading, a description on every picture, a caption and scopes in
# every table, and nothing fetched from other sites.

# %%
class Outline(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


outline = Outline()
outline.feed(page.read_text(encoding="utf-8"))


def having(tag):
    return [attrs for t, attrs in outline.tags if t == tag]


assert outline.open == [] and having("html") == [{"lang": "en"}]
assert all(len(having(tag)) == 1 for tag in ("h1", "title", "table", "caption"))
assert len(having("img")) == 3 + 2 * 4 and all(
    len(i["alt"]) > 40 and i["src"].startswith("data:image/png;base64,") for i in having("img")
)
assert (
    all(t.get("scope") in ("row", "col") for t in having("th"))
    and not having("link")
    and not having("script")
)
text = page.read_text(encoding="utf-8")
assert "is not lower than ws" in text and "a second floor" in text and "400" in text

# %% [markdown]
# Runs of two experiments get two sections. `details` limits the figures.

# %%
write_example(root, method="ws", limit=400)
two = write_report(root, root.parent / "deep" / "two.html", pattern="ws*", details=1).read_text(
    encoding="utf-8"
)
assert (
    two.count("<table>") == 2
    and two.count("<details>") == 2
    and "The other 3 runs" in two
    and "limited to 400" in two
)

# %% [markdown]
# A study gives its own runs, title, introduction and baseline, and sometimes its own figures and tables.

# %%
extra = dict(tables=[(layers, "Layer by layer")], figures=[(plot_shares(run.layers), "Shares")])
study = write_report(
    root.parent,
    root.parent / "study.html",
    runs=[bare, *runs],
    title="Rates & all",
    intro="Asked: a < b?\n\nSource: section 4.",
    against="fairgrape",
    details=0,
    **extra,
).read_text(encoding="utf-8")
outline = Outline()
outline.feed(study)
[attrs.get("aria-label", "")[:60] for tag, attrs in outline.tags if tag == "div"]

# %%
assert (
    "<h1>Rates &amp; all</h1><p>Asked: a &lt; b?</p><p>Source: section 4.</p><h2>How to read"
    in study
    and outline.open == []
)
assert (
    "Against fairgrape" in study
    and "What could not be measured" in study
    and study.count("Bald (always no)") == 1
)
assert '<th scope="row">conv1</th><td>1.23</td><td>3</td>' in study and "−2.00" in study
assert study.index("More</h2>") < study.index("Layer by layer")
# old runs have no notes
assert "What could not be measured" not in write_report(root, runs=runs, details=0).read_text(
    encoding="utf-8"
)
