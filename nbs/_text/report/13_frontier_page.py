# %% [markdown]
# # The frontier's page
#
# > `fairgrape frontier RUN…`: pruning rate against the worst group's loss, for several methods

# %%
#| default_exp report.frontier_page

# %%
#| export
import html
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fairgrape.experiment.settings import identity
from fairgrape.judge.frontier import RULES, Frontier
from fairgrape.judge.gate import STATUS, check_terms
from fairgrape.report.figures import figure_of, html_figure, html_table, look, write_html
from fairgrape.report.frontier_runs import (
    Proposal,
    Visited,
    by_bisection,
    finish,
    look_once,
    steps_frontier,
    validation_table,
    visited,
)
from fairgrape.report.runs import variant
from fairgrape.training.files import write_json

# %%
import io
import json
import tempfile
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from fairgrape.experiment.settings import Settings
from fairgrape.judge.frontier import frontier
from fairgrape.judge.gate import gate

home = Path(tempfile.mkdtemp())


# %% [markdown]
# ## The picture
#
# The horizontal axis is the fraction of weights that is kept, halved again and again, since that is the scale on which pruning goes. A line is the loss of the worst group at each rate, its band holds for all groups and rates together, and a tolerance is a dashed line. Where a line first crosses the smallest tolerance, the group that breaks it is named. Losses of more than five times the largest tolerance are not in the picture; they are in the table below it.

# %%
#| export
def _panel(
    ax,  # matplotlib's axes
    frontiers: dict[str, Frontier],  # Method → its frontier
    tolerances: Sequence[float],  # Points that a group may lose
) -> list[str]:  # A sentence for each method
    "One panel of `plot_frontier`."
    said = []
    for label, found in frontiers.items():
        t = found.worst
        kept, style = 1 - t.index.to_numpy(), look(label, list(frontiers))
        ax.fill_between(kept, t.low, t.high, color=style["color"], alpha=0.13, lw=0)
        ax.plot(kept, t.loss, label=label, lw=1.6, **style)
        points = ", ".join(f"{rate:g}: {row.loss:.1f} ({row.group})" for rate, row in t.iterrows())
        said.append(f"{label}: {points}.")
        if broken := found.first_to_break(min(tolerances)):
            rate, group, _ = broken
            ax.annotate(
                group,
                (1 - rate, t.loss[rate]),
                xytext=(4, 6),
                textcoords="offset points",
                fontsize=8,
                color=style["color"],
            )
    for tolerance in tolerances:
        ax.axhline(tolerance, color="0.25", ls="--", lw=1)
    rates = sorted({rate for found in frontiers.values() for rate in found.worst.index})
    ax.set_xscale("log")
    ax.invert_xaxis()
    ax.set_xticks([1 - rate for rate in rates], [f"{rate:.4g}" for rate in rates], rotation=40)
    ax.minorticks_off()
    return said


CLIPPED = 5  # The picture ends at so many times the largest tolerance


def plot_frontier(
    # Panel → method → its frontier, e.g. by scope; one panel without a name for a single scope
    panels: dict[str, dict[str, Frontier]],
    tolerances: Sequence[float] = (2.0,),  # Points that a group may lose
) -> Figure:  # One panel for each scope
    "Pruning rate against the worst group's loss on the validation images."
    fig, axes = figure_of(1, len(panels), (1.5 + 4.6 * len(panels), 4.2), sharey=True)
    said = []
    for ax, (name, frontiers) in zip(axes, panels.items()):
        lines = _panel(ax, frontiers, tolerances)
        said += [f"{name}: {line}" if name else line for line in lines]
        ax.set(title=name, xlabel="pruning rate (scale: fraction kept)")
    axes[0].set_ylabel("worst group's loss (points)")
    bands = pd.concat([f.worst for by in panels.values() for f in by.values()])
    top = min(bands.high.max(), CLIPPED * max(tolerances)) + 1
    axes[0].set_ylim(max(-5.0, bands.low.min()), top)
    handles = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels())}
    fig.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize=9)
    tolerated = " and ".join(f"{t:g}" for t in tolerances)
    fig.set_label(
        f"Loss of the worst group at each pruning rate, in points; tolerated: {tolerated}. "
        + " ".join(said)
    )
    return fig


# %%
rng = np.random.default_rng(0)
groups = np.repeat(["blue", "red"], [600, 300])


def example(strength):
    lost = {
        rate: np.where(rng.random(900) < strength * rate**8 * (1 + (groups == "red")), 0.0, 1.0)
        for rate in (0.5, 0.75, 0.875, 0.94, 0.97, 0.985)
    }
    return frontier(np.ones(900), lost, groups, ["blue", "red"])


panels = dict(
    layer=dict(fairgrape=example(0.03), magnitude=example(0.09)),
    **{"global": dict(fairgrape=example(0.02), magnitude=example(0.05))},
)
fig = plot_frontier(panels, (2, 5))
fig

# %%
assert len(fig.axes) == 2 and "tolerated: 2 and 5" in fig.get_label()
assert "layer: magnitude: 0.5:" in fig.get_label() and "(red)" in fig.get_label()
named = [text.get_text() for ax in fig.axes for text in ax.texts]
assert named == [f.first_to_break(2)[1] for by in panels.values() for f in by.values()]


# %% [markdown]
# ## The table
#
# A row for each method and tolerance: the highest rate of each seed, who breaks first over all seeds together, and the answers of the test images.

# %%
#| export
def _key(found: Visited) -> tuple[str, str]:
    "The panel and the line of a run: its scope, and its method with what differs from it."
    return found.settings.scope, variant(found.run.settings)


def _differing(own: list[Visited]) -> set[str]:
    "The settings in which the runs of one line differ, apart from the seed and its dense network."
    seen = {}
    for found in own:
        for name, value in identity(found.settings).items():
            seen.setdefault(name, set()).add(value)
    return {name for name, values in seen.items() if len(values) > 1} - {"seed", "weights"}


def _answers(proposals: Sequence[Proposal]) -> str:
    "How often each answer was given, the most frequent first."
    given = pd.Series([p.status for p in proposals]).value_counts()
    return ", ".join(
        f"{status} {n}" if len(proposals) > 1 else status for status, n in given.items()
    )


def _worst_of(proposal: Proposal) -> str:
    "The worst group's loss on the test images, with its interval."
    if proposal.verdict is None:
        return "–"
    t = proposal.verdict.table
    group = t.delta.idxmin()
    row = t.loc[group]
    return f"{group} {-row.delta:.1f} [{-row.high:.1f}, {-row.low:.1f}]".replace("-", "−")


def summary(
    proposals: dict[tuple[str, str], list[Proposal]],  # (scope, method) → those of all its runs
    frontiers: dict[tuple[str, str], Frontier],  # (scope, method) → all its seeds together
) -> pd.DataFrame:  # Text
    "The highest rates that pass, by method, scope and tolerance."
    rows = []
    for (scope, method), own in proposals.items():
        for tolerance in sorted({p.tolerance for p in own}):
            here = [p for p in own if p.tolerance == tolerance]
            broken = frontiers[scope, method].first_to_break(tolerance) if frontiers else None
            rows.append(
                {
                    "method": method,
                    "scope": scope,
                    "tolerance": f"{tolerance:g}",
                    "highest rate that passes": ", ".join(
                        "none" if p.rate is None else f"{p.rate:.4g}" for p in here
                    ),
                    "breaks first": f"{broken[1]} at {broken[0]:.4g}" if broken else "–",
                    "test: worst group's loss": "; ".join(_worst_of(p) for p in here),
                    "test: answer": _answers(here),
                }
            )
    return pd.DataFrame(rows)


# %%
verdict = gate(np.ones(900), np.ones(900), groups, ["blue", "red"], 2)
proposal = Proposal(Path("one"), 2, 0.875, (0.94, "red", False), Path("two"), verdict)
none = Proposal(Path("three"), 2, None, (0.5, "red", True))
key = ("layer", "fairgrape")
table = summary({key: [proposal, none]}, {key: panels["layer"]["fairgrape"]})
table.T

# %%
assert table["highest rate that passes"].tolist() == ["0.875, none"]
assert table["test: answer"].tolist() == ["passes 1, no rate 1"]
assert table["test: worst group's loss"].str.endswith("; –").all()

# %% [markdown]
# ## The page

# %%
#| export
HOW_TO_READ_FRONTIER = """<p>One iterative run visits every rate on its way. The network after each
step was judged on the <b>validation</b> images, before any final training: the <b>loss</b> is the
accuracy of the dense network less that of the pruned one, in percentage points, of the group that
lost most. The <b>band</b> holds for all groups and rates together (LEVEL %).</p>
<p>The <b>highest rate that passes</b> is the highest at which no group RULE. It was chosen among
several rates on the validation images, which is optimistic; so the network of that rate had its
final training and was judged on the <b>test</b> images, with the same tolerance. Each answer is one
look at the test images for one network and one tolerance (LEVEL %, all groups together): passes,
fails, or not enough images to tell. LOOKS</p>
<p>The groups are labels as others perceived them.</p>"""
_SAID = dict(
    observed="of these images was observed to lose more than the tolerance",
    shown="can have lost more than the tolerance, by the band",
)


def looks(proposals: Sequence[Proposal]) -> str:
    "How many looks at the test images there were, in a sentence."
    networks = {(p.folder, p.tolerance) for p in proposals if p.verdict is not None}
    if len(networks) < 2:
        return ""
    return (
        f"There were {len(networks)} looks. They were not corrected for one another: choose a"
        " method by the validation images, not by the best of these answers."
    )


def write_frontier_page(
    out: Path,  # The page, an .html file
    frontiers: dict[tuple[str, str], Frontier],  # (scope, method) → all its seeds together
    proposals: dict[tuple[str, str], list[Proposal]],  # (scope, method) → those of all its runs
    rule: str = "observed",  # How rates were proposed
) -> Path:
    "Write the frontier as one HTML page that works offline."
    everything = [p for own in proposals.values() for p in own]
    tolerances = sorted({p.tolerance for p in everything})
    panels = {}
    for (scope, method), found in frontiers.items():
        panels.setdefault(f"scope: {scope}", {})[method] = found
    level = next((f"{100 * f.level:g}" for f in frontiers.values()), "95")
    how = HOW_TO_READ_FRONTIER.replace("RULE", _SAID[rule]).replace("LEVEL", level)
    parts = [f"<h1>Frontier</h1>{how.replace('LOOKS', looks(everything))}"]
    if panels:
        parts.append(
            html_figure(plot_frontier(panels, tolerances), "Worst group's loss by pruning rate")
        )
    parts.append(html_table(summary(proposals, frontiers), "The highest rates that pass"))
    for (scope, method), found in frontiers.items():
        rounded = found.table.round(1).reset_index().astype(str)
        shown = rounded.replace(r"^-(?=\d)", "−", regex=True)
        parts.append(
            html_table(shown, f"{method}, {scope}: every group at every rate (validation)")
        )
    names = [
        f"<li>{html.escape(p.folder.name)}: {html.escape(str(p.verdict))}</li>"
        for p in everything
        if p.verdict
    ]
    parts.append(f"<h2>The verdicts</h2><ul>{''.join(names)}</ul>" if names else "")
    return write_html(out, "Frontier", "".join(parts))


# %%
frontiers = {(scope, m): f for scope, by in panels.items() for m, f in by.items()}
page = write_frontier_page(home / "frontier.html", frontiers, {key: [proposal, none]})
text = page.read_text(encoding="utf-8")
len(text)

# %%
assert "no rate" in text and "was observed to lose more" in text and "LOOKS" not in text
assert text.count("<table>") == 5 and 'alt="Loss of the worst group' in text
assert looks([proposal, none]) == "" and "2 looks" in looks(
    [proposal, replace(proposal, tolerance=5)]
)


# %% [markdown]
# ## The command

# %%
#| export
def _proposals(
    found: Visited,  # A run
    table: pd.DataFrame | None,  # Its validation table; None: by bisection
    tolerances: Sequence[float],  # Points that a group may lose
    rule: str,  # 'observed' or 'shown'
    finished: bool,  # Train the proposed networks to the end and judge them on the test images
    ratio: float,  # See `bisect`
    judging: dict,  # level, B, seed
    how: dict,  # See `finish`
) -> list[Proposal]:
    "What is proposed for one run, for each tolerance."
    ended = []
    for tolerance in tolerances:
        if table is None:
            rate, breaks = by_bisection(found, tolerance, rule, ratio, judging, **how), None
        else:
            judged = steps_frontier([table], found.job.group_names, **judging)
            rate, breaks = judged.highest(tolerance, rule), judged.first_to_break(tolerance)
        proposal = Proposal(found.run.path, tolerance, rate, breaks)
        if rate is not None and finished:
            proposal = replace(proposal, folder=finish(found, rate, **how))
            proposal = look_once(proposal, **judging)
        ended.append(proposal)
    return ended


def _together(
    found: list[Visited],  # The runs
    tables: list[pd.DataFrame | None],  # Their validation tables; None: by bisection
    judging: dict,  # level, B, seed
) -> dict[tuple[str, str], Frontier]:  # (scope, method) → all seeds; empty: by bisection
    "The frontier of each line. Raises: ValueError for runs that cannot be in one line or picture."
    lines = {}
    for one, table in zip(found, tables):
        lines.setdefault(_key(one), []).append((one, table))
    for (scope, method), own in lines.items():
        runs = [one for one, _ in own]
        if names := _differing(runs):
            raise ValueError(
                f"the runs of {method} ({scope}) differ in {', '.join(sorted(names))}: name runs"
                " that differ in their seeds only"
            )
    rows = [table[["row", "group"]] for table in tables if table is not None]
    if any(not other.equals(rows[0]) for other in rows[1:]):
        raise ValueError("the runs have different validation images or groups: judge them apart")
    return {
        key: steps_frontier(
            [table for _, table in own], own[0][0].job.group_names, **judging
        )
        for key, own in lines.items()
        if own[0][1] is not None
    }


def frontier_command(
    runs: Sequence[str | Path],  # Folders of finished runs
    tolerances: Sequence[float] = (2.0,),  # Points that a group may lose
    out: str | Path = "frontier",  # Folder for the page and the tables
    rule: str = "observed",  # How a rate is proposed: 'observed' or 'shown'
    bisection: bool = False,  # Judge whole runs, by bisection
    ratio: float = 1.25,  # Bisection: stop when the sizes differ by no more than this factor
    finished: bool = True,  # Finish the proposed networks and judge them on the test images
    places: dict | None = None,  # data_path, data_root, cache_root, device, threads
    judging: dict | None = None,  # level, B, seed
    **how,  # For the sweep: workers, retries, accept_older, show
) -> int:  # 0 passes, 1 fails or no rate passes, 3 cannot tell; the worst over all
    """`fairgrape frontier`. Raises: ValueError or FileNotFoundError for runs, rules or tolerances
    that cannot be, before any network is judged.
    """
    judging = judging or {}
    for tolerance in tolerances:
        check_terms(tolerance, judging.get("level", 0.95))
    if rule not in RULES:
        raise ValueError(f"rule = {rule!r}: choose one of {', '.join(RULES)}")
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise ValueError("a run is named twice")
    found = [visited(run, not bisection, **(places or {})) for run in runs]
    tables = [None if bisection else validation_table(one) for one in found]
    frontiers, proposals = _together(found, tables, judging), {}
    for one, table in zip(found, tables):
        print(f"{one.run.path.name}", flush=True)
        ended = _proposals(one, table, tolerances, rule, finished, ratio, judging, how)
        for p in ended:
            print(f"  tolerance {p.tolerance:g}: {_line(p)}", flush=True)
        proposals.setdefault(_key(one), []).extend(ended)
    return _write(Path(out), frontiers, proposals, rule)


def _line(p: Proposal) -> str:
    "A proposal in a line."
    first = f"; {p.breaks[1]} breaks first, at {p.breaks[0]:.4g}" if p.breaks else ""
    if p.rate is None:
        return f"no rate passes on the validation images{first}"
    judged = f"\n    test: {p.verdict}" if p.verdict else ""
    return f"rate {p.rate:.4g} passes on the validation images{first}{judged}"


def _write(out: Path, frontiers: dict, proposals: dict, rule: str) -> int:
    "Write the page, the tables and the proposals; the exit status."
    everything = [p for own in proposals.values() for p in own]
    page = write_frontier_page(out / "frontier.html", frontiers, proposals, rule)
    written = [page]
    if frontiers:
        table = pd.concat(
            {key: found.table for key, found in frontiers.items()}, names=["scope", "method"]
        )
        written.append(out / "frontier.csv")
        table.round(3).to_csv(written[-1])
    rows = [
        dict(
            run=p.run.name,
            tolerance=p.tolerance,
            rate=p.rate,
            breaks=p.breaks,
            folder=p.folder and p.folder.name,
            status=p.status,
            verdict=p.verdict and str(p.verdict),
        )
        for p in everything
    ]
    written.append(write_json(out / "frontier.json", dict(rule=rule, proposals=rows)))
    print("\nwritten:", *(f"  {path}" for path in written), sep="\n")
    worst = {p.status for p in everything} - {"not finished"}
    if "no rate" in worst or "fails" in worst:
        return STATUS["fails"]
    return STATUS["cannot tell"] if "cannot tell" in worst else 0


# %% [markdown]
# Two seeds of one method, with the judgement and the training of the [notebook before](12_frontier_runs.ipynb) replaced by tables and verdicts made here.

# %%
def kept_table(seed):
    rng = np.random.default_rng(seed)
    lost = {"0.5": 0, "0.75": 0.02, "0.9": 0.2}
    right = {rate: (rng.random(900) >= share).astype(float) for rate, share in lost.items()}
    row = range(900) if seed < 8 else range(1, 901)
    return pd.DataFrame(dict(row=row, group=groups, dense=np.ones(900), **right))


def stub(folder, steps, **places):
    seed = int(Path(folder).name)
    keep = 0.8 if seed == 9 else 0.9
    settings = Settings(method="magnitude", scope="layer", seed=seed, keep=keep)
    found = SimpleNamespace(path=Path(folder), settings=asdict(settings))
    job = SimpleNamespace(group_names=["blue", "red"])
    return SimpleNamespace(run=found, settings=settings, job=job, seed=seed)


def stub_look(p, **how):
    after = np.where(np.arange(900) < 500 * (p.rate > 0.8), 0.0, 1.0)
    return replace(p, verdict=gate(np.ones(900), after, groups, ["blue", "red"], p.tolerance))


here = dict(
    visited=stub,
    validation_table=lambda one: kept_table(one.seed),
    finish=lambda one, rate, **how: Path(f"{one.seed}-{rate}"),
    look_once=stub_look,
)
with ExitStack() as stubs, redirect_stdout(io.StringIO()) as said:
    for name, what in here.items():
        stubs.enter_context(patch(f"{frontier_command.__module__}.{name}", what))
    within = frontier_command(["0", "1"], [5], home / "out")
    beyond = frontier_command(["0"], [40], home / "beyond")
    proposed = frontier_command(["0"], [5], home / "only", finished=False)
    nothing = frontier_command(["0"], [0], home / "none", rule="shown")
    refused = []
    for runs in (["0", "9"], ["0", "8"]):
        try:
            frontier_command(runs, [5], home / "mixed")
        except ValueError as e:
            refused.append(str(e))
print(said.getvalue().replace(str(home), "…")[:900])

# %%
assert (within, beyond, proposed, nothing) == (0, 1, 0, 1)
print(*refused, sep="\n")
assert "magnitude (layer) differ in keep: name" in refused[0] and len(refused) == 2
assert "different validation images" in refused[1] and not (home / "mixed").exists()
ended = json.loads((home / "out" / "frontier.json").read_text())["proposals"]
assert [(p["run"], p["rate"], p["status"]) for p in ended] == [
    ("0", 0.75, "passes"),
    ("1", 0.75, "passes"),
]
assert all(p["breaks"][0] == 0.9 for p in ended)
(only,) = json.loads((home / "only" / "frontier.json").read_text())["proposals"]
assert (only["status"], only["verdict"], only["folder"]) == ("not finished", None, None)
table = pd.read_csv(home / "out" / "frontier.csv")
assert table.columns.tolist()[:4] == ["scope", "method", "rate", "group"] and len(table) == 6
mean = np.mean([kept_table(i)["0.9"][groups == "red"].mean() for i in (0, 1)])
assert np.isclose(table.delta.iloc[-1], 100 * (mean - 1), atol=1e-3)

# %%
for wrong, hint in [
    (dict(tolerances=[-1]), "tolerance is -1"),
    (dict(rule="surely"), "observed, shown"),
    (dict(runs=["0", "./0"]), "named twice"),
]:
    try:
        frontier_command(**(dict(runs=["0"], out=home / "wrong") | wrong))
    except ValueError as e:
        print(e)
        assert hint in str(e)
    else:
        raise AssertionError("impossible values were accepted")
assert not (home / "wrong").exists()
