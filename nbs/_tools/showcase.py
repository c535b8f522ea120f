"""Publish finished runs: `python nbs/_tools/showcase.py RUNS_ROOT [OUT]` copies what may be shown
into runs/showcase and writes a report and a picture.
`python nbs/_tools/showcase.py studies RUNS_ROOT [OUT]` does the same with the studies' notebooks
and tables.

Numbers and plots only: executed notebooks, settings, environment, metrics, tables. Predictions
(they name image files), weights and masks stay behind.
Folders of the machine that ran them are written as data, runs and data/cache."""

import json
import sys
from pathlib import Path

import nbformat
import pandas as pd

from fairgrape.report.comparison import (
    display_table,
    markdown_table,
    report_table,
    seed_floor,
    verdicts,
)
from fairgrape.report.plots import plot_deltas
from fairgrape.report.runs import SMALL, Run, find_runs
from fairgrape.report.seeds import CELL, over_seeds, plot_seeds, seed_verdicts
from fairgrape.studies.studies import load_study
from fairgrape.sweep.kernels import notebook_is_whole, run_notebook, template

REPO = Path(__file__).resolve().parents[2]


def plain(text: str, places: dict[str, str]) -> str:
    "The text with this machine's folders replaced"
    for here, there in sorted(places.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(here, there)
    return text


def places_of(notebook: Path) -> dict[str, str]:
    "Folder → what to call it, from the parameters that papermill wrote down"
    written = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["papermill"]
    given = written["parameters"]
    own = (
        {given["data_path"]: f"data/{Path(given['data_path']).name}"} if given["data_path"] else {}
    )
    return own | {
        given["data_root"]: "data",
        given["runs_root"]: "runs",
        given["cache_root"]: "data/cache",
        str(Path(written["input_path"]).parents[2]): ".",
    }


def write_notebook(source: Path, target: Path, places: dict[str, str]):
    """A notebook without this machine's folders, and without its warnings, which name files of
    that machine
    """
    book = nbformat.reads(plain(source.read_text(encoding="utf-8"), places), 4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    nbformat.write(book, target)


def publish(run: Run, out: Path):
    """Copy one run's notebook and small files; a dense network that a pruned run trained on its
    way has no notebook of its own
    """
    book, others = run.path / "prune.ipynb", sorted(run.path.parent.glob("*/prune.ipynb"))
    if not notebook_is_whole(book) and (
        book.exists() or run.settings["method"] != "dense" or not others
    ):
        raise SystemExit(f"{run.path}: no executed notebook, or it stopped: fairgrape run it first")
    folder, places = out / run.path.name, places_of(book if book.exists() else others[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*SMALL, "choices.csv"):
        if (run.path / name).is_file():
            (folder / name).write_text(
                plain((run.path / name).read_text(encoding="utf-8"), places), encoding="utf-8"
            )
    if book.exists():
        write_notebook(book, folder / "prune.ipynb", places)


def floor_text(seeds) -> str:
    "ρ between dense networks of two seeds: what training luck alone does"
    if not len(seeds):
        return ""
    lines = [
        f"- {name}: " + ", ".join(f"{r.rho:.1f} (seeds {r.seeds})" for r in part.itertuples())
        for name, part in seeds.groupby("experiment", sort=False)
    ]
    return (
        "\n## Another seed\n\nρ between dense networks that differ in their seed only: nothing was"
        " pruned there.\n\n" + "\n".join(lines) + "\n"
    )


HEAD = """# Showcase

Executed notebooks, settings, environments and metrics of finished runs, one folder each,
and [the report](report.ipynb) over them (report.html is the same as one page). Numbers and plots
only. Accuracies in percent, ρ and Δ (pruned − dense) in percentage points;
nbs/judge/02_disparity.ipynb explains the interval and the noise floor. A ρ inside its floor says
nothing. WS prunes at once and is retrained by the full schedule; FairGRAPE has one
more epoch after each of its steps, so part of any difference may come from retraining.
"""


BY_HAND, MADE = "<!-- by hand -->\n", "<!-- made by nbs/_tools/showcase.py -->\n"


def by_hand(file: Path) -> str:
    "The part of a page that a person wrote, with its marks; nothing where there is none"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if BY_HAND not in text:
        return ""
    return BY_HAND + text.partition(BY_HAND)[2].partition(MADE)[0] + MADE


def page(runs: list, words: str = "") -> str:
    "What a person wrote, the tables of all experiments, and what they say, in markdown"
    lines = [HEAD, words] if words else [HEAD]
    for experiment, part in report_table(runs).groupby("experiment", sort=False):
        by = part.sort_values(["rate", "scope", "label"], ascending=[True, False, True])
        # the heading says them
        shown = display_table(by).drop(columns=["Dataset", "Groups", "Network", "Test images"])
        lines += [
            f"\n## {experiment}\n\n{part.test_images.iloc[0]:,} test images.\n",
            markdown_table(shown),
        ]
        lines += ["", *(f"- {sentence}" for sentence in verdicts(part))] + seeds_section(part)
    return "\n".join(lines) + "\n"


def seeds_section(part: pd.DataFrame) -> list[str]:
    """What several seeds say together: ρ and accuracy of each method, and each method against
    FairGRAPE
    """
    if part.seed.nunique() < 2:
        return []
    lines = [
        f"\n### Over {part.seed.nunique()} seeds\n",
        (
            "Means with Student's 95 % interval; differences are taken seed by seed"
            " ([how](../../../nbs/report/07_seeds.ipynb)).\n"
        ),
    ]
    for measure, name in (("rho", "ρ"), ("accuracy", "accuracy")):
        t = over_seeds(part, measure)
        shown = {
            "Method": t.label,
            f"Mean {name} [95 %]": [
                f"{r['mean']:.1f} [{r.low:.1f}, {r.high:.1f}]" for _, r in t.iterrows()
            ],
            "Standard deviation": t.sd.map("{:.1f}".format),
            "Least": t.least.map("{:.1f}".format),
            "Most": t.most.map("{:.1f}".format),
        }
        lines += [
            markdown_table(pd.DataFrame(shown)),
            "",
            *(f"- {sentence}" for sentence in seed_verdicts(part, measure=measure, name=name)),
            "",
        ]
    return lines


def main(runs_root: str, out: str = str(REPO / "runs" / "showcase")):
    "Publish all finished runs of a folder"
    root, out = Path(runs_root).resolve(), Path(out)
    runs = find_runs(root)
    for run in runs:
        publish(run, out)
    seeds = seed_floor(runs)
    if len(seeds):
        seeds.round(2).to_csv(out / "seed_floor.csv", index=False)
    # of runs published before, whose predictions stayed behind
    elif (out / "seed_floor.csv").is_file():
        seeds = pd.read_csv(out / "seed_floor.csv")
    run_notebook("report", out / "report.ipynb", dict(runs_root=str(out)), log=False)
    for file in ("report.ipynb", "report.html"):
        (out / file).write_text(
            plain(
                (out / file).read_text(encoding="utf-8"),
                {str(out): "runs/showcase", str(template().parents[2]): "."},
            ),
            encoding="utf-8",
        )
    file = out / "README.md"
    file.write_text(page(find_runs(out), by_hand(file)) + floor_text(seeds), encoding="utf-8")
    for name, rows in report_table(find_runs(out)).groupby("dataset"):
        for experiment, part in rows.groupby("experiment"):
            figure = plot_deltas(part)
            figure.savefig(out / f"{'demo' if name == 'synthetic' else name}.png", dpi=110)
            print(f"{experiment}\n  {figure.get_label()}")
            if part.seed.nunique() > 1 and len(part[CELL].drop_duplicates()) == 1:
                figure = plot_seeds(part)
                figure.savefig(out / f"{name}-seeds.png", dpi=110)
                print(f"  {figure.get_label()}")


STUDIES = """# Studies, in their fast form

Each study's executed notebook and its table ([what the studies
ask](../../../nbs/templates/studies)). **Fast form**: ResNet-10 from scratch at 32 px, at most 4,000
images, keep 0.3, one retraining epoch and one seed, where nothing else is said. It speaks for this
small network and these few images, not for the paper's. Accuracies in percent, ρ, ψ and Δ in
percentage points; a ρ below its floor's 95 % says nothing.
"""


def study_section(folder: Path, out: Path) -> str:
    "Copy one study's notebook and table; its part of the page"
    if not notebook_is_whole(folder / "study.ipynb"):
        raise SystemExit(f"{folder}: no executed notebook, or it stopped: run the study again")
    written = json.loads((folder / "study.ipynb").read_text(encoding="utf-8"))["metadata"][
        "papermill"
    ]
    given, asked = written["parameters"], load_study(written["parameters"]["study"])
    places = {
        given["data_root"]: "data",
        given["cache_root"]: "data/cache",
        str(folder.parent.parent): "runs",
        str(Path(written["input_path"]).parents[2]): ".",
    }
    (out / folder.name).mkdir(parents=True, exist_ok=True)
    write_notebook(folder / "study.ipynb", out / folder.name / "study.ipynb", places)
    table = pd.read_csv(folder / "study.csv")
    table.round(3).to_csv(out / folder.name / "study.csv", index=False)
    printed = [
        line
        for c in nbformat.read(folder / "study.ipynb", 4).cells
        if c.cell_type == "code"
        for o in c.outputs
        for line in o.get("text", "").splitlines()
    ]
    lines = [
        f"\n## [{asked.title}: {given['row']}]({folder.name}/study.ipynb)\n\n{asked.asks}\n",
        *(f"**{line}**\n" for line in printed if line.startswith("Too weak")),
    ]
    for experiment, part in table.groupby("experiment", sort=False):
        shown = display_table(part).drop(columns=["Dataset", "Groups", "Network"])
        lines += [
            f"\n{experiment}\n",
            markdown_table(shown),
            "",
            *(f"- {sentence}" for sentence in verdicts(part, asked.against)),
        ]
    return "\n".join(lines) + "\n"


def studies(runs_root: str, out: str = str(REPO / "runs" / "showcase" / "studies")):
    "Publish all studies of a runs folder"
    root, out = Path(runs_root).resolve() / "studies", Path(out)
    out.mkdir(parents=True, exist_ok=True)
    sections = [
        study_section(folder, out)
        for folder in sorted(root.iterdir())
        if (folder / "study.ipynb").is_file()
    ]
    (out / "README.md").write_text(STUDIES + "".join(sections), encoding="utf-8")


if __name__ == "__main__":
    studies(*sys.argv[2:]) if sys.argv[1:2] == ["studies"] else main(*sys.argv[1:])
