# %% [markdown]
# # An audit to read and to send
#
# > The same findings as text in a terminal, one HTML page, JSON with a schema, and a card for the model's repository

# %%
#| default_exp report.audit_page

# %%
#| export
import html
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fairgrape.judge.audit import Audit
from fairgrape.report.figures import (
    PALETTE,
    bar_lengths,
    figure_of,
    html_figure,
    html_table,
    write_html,
)
from fairgrape.report.heads import audit_rates, head_values, heads_html
from fairgrape.training.files import write_json, writing

# %%
import json
import tempfile

from fairgrape.judge.audit import audit
from fairgrape.judge.predictions import predictions_of

# %% [markdown]
# An [audit](../judge/07_audit.ipynb) is a set of tables. Four readers want it in four forms: a person at a terminal, a person who is sent a page, a program, and whoever downloads the model. None of the forms shows an image.
#
# The example has two heads, so that everything a page can hold is there: 1,200 answers about smiles and hats, of four groups.

# %%
rng = np.random.default_rng(0)
n = 1200
table = pd.DataFrame({"id": [f"face-{i:04}.png" for i in range(n)]})
table["tone"] = rng.choice(["tone-1", "tone-2", "tone-3", "tone-4"], n, p=[0.4, 0.3, 0.27, 0.03])
for head in ("smile", "hat"):
    table[f"label_{head}"] = rng.choice(["no", "yes"], n, p=[0.7, 0.3])
    flipped = table[f"label_{head}"].map(dict(no="yes", yes="no"))
    for model, right in (("dense", 0.93), ("pruned", 0.9)):
        hard = (table.tone == "tone-3") & (model == "pruned") & (head == "smile")
        wrong = rng.random(n) > np.where(hard, 0.7, right)
        table[f"{model}_{head}"] = flipped.where(wrong, table[f"label_{head}"])
found = audit(predictions_of(table, groups=["tone"]))


# %% [markdown]
# ## Numbers as text
#
# A minus sign is a minus sign, a change carries its sign, and a value that does not exist is a dash.

# %%
#| export
def _number(value: float, signed: bool = False) -> str:
    "One decimal; a dash where there is no value"
    if pd.isna(value):
        return "–"
    value = round(float(value), 1) + 0.0  # no −0.0
    return f"{value:{'+' if signed else ''}.1f}".replace("-", "−")


def _between(low: float, high: float, signed: bool = True) -> str:
    "An interval in brackets; nothing where there is none"
    return "" if pd.isna(low) else f"[{_number(low, signed)}, {_number(high, signed)}]"


# %%
print(_number(-3.14, signed=True), _between(-3.14, 0.5), _number(float("nan")))
assert (_number(-3.14, True), _number(2.0, True), _number(2.0)) == ("−3.1", "+2.0", "2.0")
assert _between(-3.14, 0.5) == "[−3.1, +0.5]" and _between(float("nan"), 1) == ""


# %% [markdown]
# The first table of every form: each group's accuracy before and after, the change with its interval, the partially pooled change, and how many images would find a change of the stated size. Small groups are marked.

# %%
#| export
def group_rows(
    a: Audit,  # An audit
    model: str,  # One of its later models
    grouping: str,  # One of its groupings
) -> pd.DataFrame:  # Text: Group, n, Persons, before, after, Change, 95 %, Pooled, Images needed
    "The change of each group, as text."
    t = a.groups[(a.groups.model == model) & (a.groups.grouping == grouping)]
    rows = pd.DataFrame(
        {
            "Group": [f"{r.group} *" if r.small else r.group for r in t.itertuples()],
            "n": [f"{n:,}" for n in t.n],
            "Persons": [f"{n:,}" for n in t.units],
            a.about["before"]: [_number(v) for v in t.before],
            model: [_number(v) for v in t.after],
            "Change": [_number(v, True) for v in t.change],
            f"{100 * a.about['level']:.0f} %": [_between(*v) for v in zip(t.low, t.high)],
            "Pooled": [_number(v, True) for v in t.pooled],
            "Images needed": [f"{n:,}" for n in t.needed],
        }
    )
    return rows if a.about["units"] else rows.drop(columns="Persons")


# %%
group_rows(found, "pruned", "tone")

# %%
shown = group_rows(found, "pruned", "tone")
assert shown.Group.tolist() == ["tone-1", "tone-2", "tone-3", "tone-4 *", "all"]
assert "Persons" not in shown and shown.Pooled.iloc[-1] == "–"


# %%
#| export
def disparity_rows(
    a: Audit,  # An audit
    model: str,  # One of its later models
    grouping: str,  # One of its groupings
) -> pd.DataFrame:  # Text: Measure, Points, 95 %, Noise floor, Random groupings
    "ρ, ψ and range, as text."
    t = a.disparities[(a.disparities.model == model) & (a.disparities.grouping == grouping)]
    symbols = dict(rho="ρ", psi="ψ", range="range")
    floors = zip(t.floor_mean, t.floor_95)
    return pd.DataFrame(
        {
            "Disparity": [symbols[m] for m in t.measure],
            "Points": [_number(v) for v in t.value],
            f"{100 * a.about['level']:.0f} %": [
                _between(low, high, False) for low, high in zip(t.low, t.high)
            ],
            "Noise floor: mean, 95 %": [f"{_number(m)}, {_number(f)}" for m, f in floors],
            "Random groupings as large": [f"{v:.0f} %" for v in t.placebo],
        }
    )


# %%
disparity_rows(found, "pruned", "tone")

# %%
assert disparity_rows(found, "pruned", "tone").Disparity.tolist() == ["ρ", "ψ", "range"]


# %% [markdown]
# ## In the terminal

# %%
#| export
def audit_text(
    a: Audit,  # An audit
) -> str:  # Plain text
    "The tables of groups and disparities, and the notes."
    before, lines = a.about["before"], []
    for model in a.about["after"]:
        for grouping in a.about["groupings"]:
            groups, ranked = group_rows(a, model, grouping), disparity_rows(a, model, grouping)
            lines += [f"{model} against {before}, by {grouping}", groups.to_string(index=False)]
            lines += ["", ranked.to_string(index=False), ""]
    about = a.about
    lines.append(
        f"Accuracy in percent, changes in points. Images needed: to find a change of"
        f" {about['points']:g} points with 80 % power. *: fewer than {about['small']} images."
    )
    lines += ["", *(f"- {note}" for note in a.notes)]
    return "\n".join(lines)


# %%
print(audit_text(found))

# %%
assert "tone-4 *" in audit_text(found) and all(note in audit_text(found) for note in found.notes)


# %% [markdown]
# ## Pictures
#
# Each group's change with its interval; the hollow marks are the partially pooled changes. Sixty groups fit, since each has a line.

# %%
#| export
def plot_changes(
    t: pd.DataFrame,  # `Audit.groups` of one model and grouping
) -> Figure:  # One panel, a line per group
    "Change of accuracy of each group, with intervals and partially pooled changes."
    fig, (ax,) = figure_of(size=(8, 1.6 + 0.32 * len(t)))
    y = np.arange(len(t))[::-1]
    known = t.low.notna().to_numpy()
    ends = bar_lengths(t.low[known], t.change[known], t.high[known])
    ax.errorbar(
        t.change[known], y[known], xerr=ends, fmt="none", ecolor=PALETTE[0], capsize=3, lw=1.2
    )
    ax.plot(t.change, y, "o", color=PALETTE[0], label="change")
    ax.plot(t.pooled, y, "D", mfc="white", mec="0.35", ms=5, label="partially pooled")
    ax.axvline(0, color="0.3", lw=1)
    marks = [f"{r.group}{' *' if r.small else ''} (n = {r.n:,})" for r in t.itertuples()]
    ax.set_yticks(y, marks)
    ax.set(xlabel="change of accuracy (points)", ylim=(-0.6, len(t) - 0.4))
    fig.legend(loc="outside lower left", ncols=2, fontsize=9)
    said = "; ".join(
        f"{r.group} {_number(r.change, True)} {_between(r.low, r.high)}" for r in t.itertuples()
    )
    fig.set_label(f"Change of accuracy of each group, in points. {said}.")
    return fig


# %%
plot_changes(found.groups)

# %%
drawn = plot_changes(found.groups)
assert (
    drawn.get_label().startswith("Change of accuracy of each group")
    and len(drawn.axes[0].get_yticks()) == 5
)

# %% [markdown]
# ## The page
#
# One file that works offline: pictures inside, tables that scroll, the measures of each class folded away. With several heads, a mean over them hides a head that is lost; so [head × group](11_heads.ipynb) is shown too.

# %%
#| export
HOW_TO_READ_AUDIT = """<p>Two models answer on the same images. The <b>change</b> of a group is its
accuracy after less before, in percentage points; the brackets hold the values that agree with what
was observed, drawn again by BY. The <b>pooled</b> change is drawn towards the
other groups' where a group is small: it says what its change most likely is, not whether it may
have been harmed. <b>Images needed</b> find a change of POINTS points with 80 % power.
Groups marked * have fewer than SMALL images.</p>
<p><b>ρ</b> is the standard deviation of the groups' changes, <b>ψ</b> the worst group's loss beyond
that of all images, <b>range</b> the best group's change less the worst's. Chance makes all three
positive: compare them with the <b>noise floor</b> and with <b>random groupings</b> of the same
sizes. They see inequality only: a model that fails for everybody has none left.</p>
<p>The groups are labels as others perceived them. A small disparity on one set of images is no
licence to use a model on people.</p>"""


def _class_rows(t: pd.DataFrame) -> pd.DataFrame:
    "Measures as text"
    return pd.DataFrame(
        {
            "Measure": t.measure,
            "Class": t["class"].replace("", "–"),
            "Group": t.group,
            "n": [f"{n:,}" for n in t.n],
            "Before": [_number(v) for v in t.before],
            "After": [_number(v) for v in t.after],
            "Change": [_number(v, True) for v in t.change],
            "95 %": [_between(*v) for v in zip(t.change_low, t.change_high)],
        }
    )


def _changed_answers(a: Audit, model: str, grouping: str) -> pd.DataFrame:
    "Churn and lost images as text"
    t = a.churn[(a.churn.model == model) & (a.churn.grouping == grouping)]
    columns = {"Group": t.group, "n": [f"{n:,}" for n in t.n]}
    named = dict(changed="Changed (%)", lost="Right to wrong", won="Wrong to right")
    named["other"] = "Wrong to another wrong"
    return pd.DataFrame(columns | {said: [_number(v) for v in t[k]] for k, said in named.items()})


# %%
_changed_answers(found, "pruned", "tone")

# %%
assert len(_changed_answers(found, "pruned", "tone")) == 5
assert _class_rows(found.measures).shape == (len(found.measures), 8)

# %%
#| export
MOST_HEADS = 4  # with more, the measures of each class are left to the JSON


def _grouping_section(a: Audit, model: str, grouping: str) -> str:
    "All about one model and grouping"
    groups = a.groups[(a.groups.model == model) & (a.groups.grouping == grouping)]
    before, level = a.about["before"], f"{100 * a.about['level']:.0f} %"
    parts = [
        f"<h3>By {html.escape(grouping)}</h3>",
        html_figure(
            plot_changes(groups), f"Change of accuracy of each group with its {level} interval."
        ),
        html_table(group_rows(a, model, grouping), f"{model} against {before}, by {grouping}"),
        html_table(disparity_rows(a, model, grouping), f"How unequal the changes are: {grouping}"),
        html_table(_changed_answers(a, model, grouping), f"Answers that changed, by {grouping}"),
    ]
    of_model = a.heads[a.heads.model == model]
    values = head_values(audit_rates(a, model, grouping))
    parts.append(heads_html(values, of_model, (before, model)))
    if len(a.about["heads"]) > MOST_HEADS:
        said = f"The rates of each class of {len(a.about['heads'])} heads are in the JSON file."
        return "".join([*parts, f"<p class='note'>{said}</p>"])
    own = a.measures[(a.measures.model == model) & (a.measures.grouping == grouping)]
    for head, t in own.groupby("head", sort=False):
        name = f"Measures of {head}, by {grouping}"
        inside = html_table(_class_rows(t), name)
        parts.append(f"<details><summary>{html.escape(name)}</summary>{inside}</details>")
    return "".join(parts)


def _heads_section(a: Audit) -> str:
    "Every head beside the commonest class"
    t = a.heads.drop_duplicates(["head", "network"])
    rows = pd.DataFrame(
        {
            "Head": t["head"],
            "Model": t.network,
            "Accuracy": [_number(v) for v in t.accuracy],
            "Commonest class": [f"{r.commonest} ({_number(r.share)} %)" for r in t.itertuples()],
            "Better than naming it": ["no" if v else "yes" for v in t.no_better],
            "Never predicted": [", ".join(map(str, v)) or "–" for v in t.never],
        }
    )
    return "<h2>Beside the commonest class</h2>" + html_table(rows, "Every head of every model")


def _lost_section(a: Audit) -> str:
    "Whose images are lost"
    t = a.whose
    rows = pd.DataFrame(
        {
            "Group": [f"{r.grouping}: {r.group}" for r in t.itertuples()],
            "n": [f"{n:,}" for n in t.n],
            "Lost": [f"{n:,}" for n in t.lost],
            "Lost (%)": [_number(v) for v in t.percent],
            "Factor": [_number(v) for v in t.factor],
        }
    )
    said = (
        f"Images that {html.escape(a.about['before'])} gets right and more than half of the later"
        " models get wrong, in one head or more. Factor: how much more often than an image of the"
        " whole set. Their ids are in the file of lost images."
    )
    table = html_table(rows, "Lost images of each group")
    return f"<h2>Whose images are lost</h2><p>{said}</p>{table}"


# %%
#| export
def write_audit_page(
    a: Audit,  # An audit
    out: str | Path,  # The page, an .html file
) -> Path:  # Where it lies
    "Write an audit as one HTML page that works offline."
    about = a.about
    title = f"{', '.join(about['after'])} against {about['before']}"
    persons = f" of {about['units']:,} persons" if about["units"] else ""
    heads = f"{len(about['heads'])} head{'s' * (len(about['heads']) > 1)}"
    intro = f"<p>{about['images']:,} images{persons}; {heads}:"
    intro += f" {html.escape(', '.join(about['heads']))}.</p>"
    how = HOW_TO_READ_AUDIT.replace("BY", "whole persons" if about["units"] else "images")
    how = how.replace("POINTS", f"{about['points']:g}").replace("SMALL", str(about["small"]))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in a.notes)
    body = [f"<h1>{html.escape(title)}</h1>{intro}<h2>What must be known</h2><ul>{notes}</ul>"]
    body.append(f"<h2>How to read this page</h2>{how}")
    for model in about["after"]:
        body.append(f"<h2>{html.escape(model)} against {html.escape(about['before'])}</h2>")
        body += [_grouping_section(a, model, grouping) for grouping in about["groupings"]]
    body += [_heads_section(a), _lost_section(a)]
    return write_html(out, title, "".join(body))


# %%
tmp = Path(tempfile.mkdtemp())
page = write_audit_page(found, tmp / "audit.html").read_text()
print(f"{len(page) / 1e3:.0f} kB, {page.count('<img')} pictures, {page.count('<table')} tables")

# %%
assert page.count("<img") == page.count("alt=") == 2 and page.count("<table") == 11
assert "Every head beside its commonest class" in page and "0 of 2 heads of pruned" in page
assert "http" not in page.replace("https://huggingface.co", "") and "<script" not in page
assert all(html.escape(note) in page for note in found.notes)

# %% [markdown]
# ## For programs
#
# The same tables as JSON. The schema says which fields there are and of which type; a value that does not exist is null. A written audit names its schema, a file that lies beside it and [on the site](../_site/static/audit.schema.json). The list of lost images is a CSV file, since it can be as long as the test set.

# %%
#| export
_TEXT, _COUNT, _VALUE = {"type": "string"}, {"type": "integer"}, {"type": ["number", "null"]}
_ABOUT = dict(model=_TEXT, grouping=_TEXT, group=_TEXT, n=_COUNT)
_ENDS = ("", "_low", "_high")
_PAIRS = {
    name + end: _VALUE for name in ("before", "after", "change") for end in _ENDS
}
_ROWS = {
    "groups": {
        **_ABOUT,
        "units": _COUNT,
        **dict.fromkeys(["before", "after", "change", "low", "high"], _VALUE),
        **dict.fromkeys(["pooled", "pooled_low", "pooled_high"], _VALUE),
        "needed": _COUNT,
        "small": {"type": "boolean"},
    },
    "disparities": {
        "model": _TEXT,
        "grouping": _TEXT,
        "measure": {"enum": ["rho", "psi", "range"]},
        **dict.fromkeys(["value", "low", "high", "floor_mean", "floor_95", "placebo"], _VALUE),
    },
    "measures": {**_ABOUT, "head": _TEXT, "measure": _TEXT, "class": _TEXT, **_PAIRS},
    "churn": {**_ABOUT, **dict.fromkeys(["changed", "lost", "won", "other"], _VALUE)},
    "heads": {
        **dict(model=_TEXT, head=_TEXT, network=_TEXT, classes=_COUNT, commonest=_TEXT),
        "never": {"type": "array", "items": _TEXT},
        **dict(accuracy=_VALUE, share=_VALUE, no_better={"type": "boolean"}),
    },
    "whose": {
        **dict(grouping=_TEXT, group=_TEXT, n=_COUNT, lost=_COUNT),
        **dict(percent=_VALUE, factor=_VALUE),
    },
}


SCHEMA = "audit.schema.json"  # lies beside an audit, and on the site


def audit_schema() -> dict:  # JSON Schema, draft 2020-12
    "What an audit's JSON file holds."
    tables = {
        name: {
            "type": "array",
            "items": {"type": "object", "properties": row, "required": list(row)},
        }
        for name, row in _ROWS.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fairgrape audit",
        "type": "object",
        "properties": {
            "$schema": {"const": SCHEMA},
            "about": {"type": "object"},
            **tables,
            "notes": {"type": "array", "items": _TEXT},
        },
        "required": ["about", *tables, "notes"],
    }


# %%
import jsonschema

plain = found.to_dict()
jsonschema.validate(plain, audit_schema())
json.dumps(audit_schema())[:200]

# %%
for table_name, row in _ROWS.items():  # no field is missing in the schema
    assert set(plain[table_name][0]) == set(row), table_name
broken = dict(plain, groups=[dict(plain["groups"][0], n="461")])
try:
    jsonschema.validate(broken, audit_schema())
except jsonschema.ValidationError as e:
    print(e.message)
else:
    raise AssertionError("a count that is text was valid")

# %% [markdown]
# ## A card for the model
#
# A compression card says what was compressed, how much, and what it cost whom. It has the form of a Hugging Face model card: metadata in YAML, then Markdown, so it can stand in a model repository as its README or beside it.

# %%
#| export
_LIMITS = """- The intervals cover the choice of test images, not the luck of a training run.
- Groups are labels as others perceived them; people who fit none of them are not judged here.
- A small disparity on these images is no licence to use the model on people.
- Nothing here was measured on images of another source."""


def _markdown(table: pd.DataFrame) -> str:
    "A table of text in Markdown"
    rows = [list(table), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    lines = [" | ".join(str(v).replace("|", "\\|") for v in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def compression_card(
    a: Audit,  # An audit
    model: str = "",  # One of its later models; empty: the first
    compressed: dict[str, str] | None = None,  # What was done: "Method", "Rate", "Seeds", …
    data: str = "",  # The data statement: which images, from where, of whom
    dataset: str = "test images",  # The data set's name
    verdict: str = "",  # What a gate said
) -> object:  # A ModelCard of huggingface_hub: `.save(path)` writes it, `str` gives its text
    """A card in the form of a Hugging Face model card.

    Raises: ValueError for a model that the audit does not have."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    model = model or a.about["after"][0]
    if model not in a.about["after"]:
        raise ValueError(f"the audit has no model {model!r}: there are {a.about['after']}")
    first = next(iter(a.about["groupings"]))
    t = a.groups[(a.groups.model == model) & (a.groups.grouping == first)].iloc[-1]
    result = EvalResult(
        task_type="image-classification",
        dataset_type="image",
        dataset_name=dataset,
        metric_type="accuracy",
        metric_value=round(float(t.after) / 100, 4),
    )
    about = ModelCardData(
        model_name=model, tags=["compression-card", "fairgrape"], eval_results=[result]
    )
    done = {"Model": model, "Compared with": a.about["before"], **(compressed or {})}
    lines = ["---", about.to_yaml(), "---", "", f"# Compression card: {model}", ""]
    lines += [f"- **{name}**: {value}" for name, value in done.items()]
    if verdict:
        lines += ["", "## Verdict", "", verdict]
    lines += ["", "## What it cost", "", *(f"- {note}" for note in a.notes)]
    for grouping in a.about["groupings"]:
        lines += ["", f"### By {grouping}", "", _markdown(group_rows(a, model, grouping))]
        lines += ["", _markdown(disparity_rows(a, model, grouping))]
    lines += ["", "## Data", "", data or "No data statement was given.", ""]
    lines += ["## Limits", "", _LIMITS, ""]
    return ModelCard("\n".join(lines))


# %%
card = compression_card(
    found,
    compressed={"Method": "FairGRAPE", "Rate": "0.9", "Seeds": "0"},
    data="1,200 answers drawn at random for this page; no image of anybody.",
)
print(str(card)[:900])

# %%
from huggingface_hub import ModelCard

read = ModelCard(str(card))
assert read.data.model_name == "pruned" and read.data.tags == ["compression-card", "fairgrape"]
assert read.data.eval_results[0].metric_value == round(found.groups.after.iloc[-1] / 100, 4)
assert "| tone-4 * | 36 |" in str(card) and "no image of anybody" in str(card)
try:
    compression_card(found, model="other")
except ValueError as e:
    print(e)
else:
    raise AssertionError("a card for an unknown model")


# %% [markdown]
# ## All of it in a folder

# %%
#| export
def save_audit(
    a: Audit,  # An audit
    folder: str | Path,  # Where to; made if need be
    **card,  # For `compression_card`
) -> dict[str, Path]:  # What was written: page, json, schema, lost, a card for each later model
    "Write audit.html, audit.json with its schema, lost.csv and a card for each later model."
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = {"page": write_audit_page(a, folder / "audit.html"), "json": folder / "audit.json"}
    write_json(made["json"], {"$schema": SCHEMA} | a.to_dict())
    made["schema"] = folder / SCHEMA
    write_json(made["schema"], audit_schema())
    made["lost"] = folder / "lost.csv"
    with writing(made["lost"]) as part:
        a.lost.to_csv(part, index=False)
    for i, model in enumerate(a.about["after"]):
        name = "card.md" if len(a.about["after"]) == 1 else f"card-{i + 1}.md"
        made[f"card of {model}"] = folder / name
        with writing(folder / name) as part:
            part.write_text(str(compression_card(a, model, **card)), encoding="utf-8")
    return made


# %%
made = save_audit(found, tmp / "audit")
{what: path.name for what, path in made.items()}

# %%
assert sorted(p.name for p in (tmp / "audit").iterdir()) == sorted(p.name for p in made.values())
assert json.loads(made["json"].read_text())["about"]["images"] == 1200
written = json.loads(made["json"].read_text())
beside = made["json"].parent / written["$schema"]
jsonschema.validate(written, json.loads(beside.read_text()))
assert len(pd.read_csv(made["lost"])) == len(found.lost)
