# %% [markdown]
# # Judge from the command line
#
# > `fairgrape audit` and `fairgrape gate`: files or a finished run in, a page, a card and an exit status out

# %%
#| default_exp report.judging

# %%
#| export
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fairgrape.judge.predictions import Predictions, predictions_of, read_predictions

# %%
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO

import numpy as np


# %% [markdown]
# Both commands take the same input: [files of predictions](../judge/04_predictions.ipynb) of any models, or the folder of a finished run of this project, whose predictions name classes by their codes. The run's metrics hold the names.

# %%
#| export
def run_predictions(
    folder: str | Path,  # A finished run's folder
) -> tuple[Predictions, dict]:  # Its predictions, checked, and its settings
    """A run's predictions on the test images.

    Raises: FileNotFoundError where they are missing; ValueError where the run pruned nothing."""
    folder = Path(folder)
    for name in ("predictions.parquet", "metrics.json", "settings.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}: give the folder of a finished run, as `fairgrape run`"
                " prints it"
            )
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    if settings.get("method") == "dense":
        raise ValueError(f"{folder} pruned nothing (method dense): there is nothing to compare")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    classes = {}
    for row in metrics["rates"]:
        names = classes.setdefault(row["head"], [])
        if row["class"] not in names:
            names.append(row["class"])
    table = pd.read_parquet(folder / "predictions.parquet")
    cluster = next((c for c in ("person", "photo") if c in table), "")
    given = predictions_of(
        table,
        id="row",
        label="label",
        models=["dense", "pruned"],
        groups=["group"],
        cluster=cluster,
        classes=classes,
        baseline="dense",
    )
    return given, settings


def predictions_from(
    files: Sequence[str | Path],  # Files of predictions; none with `run`
    run: str | Path = "",  # A run's folder, instead of files
    **reading,  # Which column is what, for `read_predictions`
) -> tuple[Predictions, dict]:  # The predictions, and the run's settings; {} for files
    "Predictions of files or of a run. Raises: ValueError for both or neither."
    if bool(files) == bool(run):
        raise ValueError("give either files of predictions or a run's folder (--from_run)")
    if not run:
        return read_predictions(list(files), **reading), {}
    named = [name for name, value in reading.items() if value]
    if named:
        raise ValueError(
            f"a run says itself which column is what: leave out {', '.join(named)}, or give its"
            " predictions.parquet as a file"
        )
    return run_predictions(run)


# %% [markdown]
# ## Audit
#
# The command prints the tables and notes, and leaves a page, JSON, the list of lost images and a card in a folder.

# %%
#| export
def audit_command(
    files: Sequence[str | Path],  # Files of predictions; none with `run`
    out: str | Path = "audit",  # Folder for what is written
    run: str | Path = "",  # A run's folder, instead of files
    data: str = "",  # The data statement of the card: a sentence
    reading: dict | None = None,  # Which column is what, for `read_predictions`
    **how,  # For `audit`: intersections, points, small, B, seed, level
) -> dict[str, Path]:  # What was written
    "`fairgrape audit`"
    from fairgrape.judge.audit import audit
    from fairgrape.report.audit_page import audit_text, save_audit

    given, settings = predictions_from(files, run, **(reading or {}))
    names = dict(method="Method", rate="Rate", network="Network", scope="Scope", seed="Seed")
    compressed = {said: str(settings[k]) for k, said in names.items() if k in settings}
    found = audit(given, **how)
    dataset = settings.get("dataset", "test images")
    made = save_audit(found, out, compressed=compressed, data=data, dataset=dataset)
    print(audit_text(found))
    print("\nwritten:", *(f"  {path}" for path in made.values()), sep="\n")
    return made


# %%
rng = np.random.default_rng(0)
n, tmp = 600, Path(tempfile.mkdtemp())
table = pd.DataFrame({"id": [f"face-{i}.png" for i in range(n)]})
table["tone"] = rng.choice(["dark", "light"], n, p=[0.3, 0.7])
table["label"] = rng.choice(["calm", "happy"], n)
other = table.label.map(dict(calm="happy", happy="calm"))
table["dense"] = other.where(rng.random(n) < 0.05, table.label)
lost = rng.random(n) < np.where(table.tone == "dark", 0.4, 0.01)
table["pruned"] = table.dense.where(~lost, "calm")
table.to_csv(tmp / "predictions.csv", index=False)
made = audit_command([tmp / "predictions.csv"], tmp / "audit", reading=dict(groups=["tone"]))

# %%
files = {"audit.html", "audit.json", "audit.schema.json", "lost.csv", "card.md"}
assert {p.name for p in made.values()} == files
assert json.loads(made["json"].read_text())["about"]["after"] == ["pruned"]


# %% [markdown]
# ## Gate
#
# The exit status is the answer, so that a build can depend on it: 0 passes, 1 fails, 3 cannot tell. Bad input is 2, as everywhere.

# %%
#| export
def gate_command(
    files: Sequence[str | Path],  # Files of predictions; none with `run`
    run: str | Path = "",  # A run's folder, instead of files
    reading: dict | None = None,  # Which column is what, for `read_predictions`
    **how,  # For `verdicts`: tolerance, measure, head, intersections, level, B, seed
) -> int:  # 0 passes, 1 fails, 3 cannot tell
    "`fairgrape gate`"
    from fairgrape.judge.gate import STATUS
    from fairgrape.judge.verdicts import verdicts, worst_status

    given, _ = predictions_from(files, run, **(reading or {}))
    rulings = verdicts(given, **how)
    for note in given.notes:
        print(f"- {note}")
    for ruling in rulings:
        t = ruling.verdict.table.drop(columns=["units"] * (given.units is None))
        print(f"\n{ruling.model}, by {ruling.grouping}", t.round(1).to_string(), sep="\n")
        print(ruling.verdict)
    status = worst_status(rulings)
    print(f"\n{status}" + ("" if len(rulings) == 1 else f" (worst of {len(rulings)} verdicts)"))
    return STATUS[status]


# %%
gate_command([tmp / "predictions.csv"], reading=dict(groups=["tone"]), tolerance=5)

# %%
quiet = StringIO()
with redirect_stdout(quiet):
    answers = [
        gate_command([tmp / "predictions.csv"], reading=dict(groups=["tone"]), tolerance=points)
        for points in (2, 40, 18)
    ]
assert answers == [1, 0, 3]
for how, part in (
    (dict(files=[]), "either files"),
    (dict(files=["x.csv"], run="runs/x"), "either files"),
    (dict(files=[], run=tmp), "has no predictions.parquet"),
    (dict(files=[], run=tmp, reading=dict(label="label")), "leave out label"),
):
    try:
        gate_command(**how)
    except (ValueError, FileNotFoundError) as e:
        print(e)
        assert part in str(e)
    else:
        raise AssertionError(f"{how} was accepted")

# %% [markdown]
# A run's folder gives the same figures as its own metrics. Here is one by hand, with two classes known by their codes.

# %%
folder = tmp / "run"
folder.mkdir()
codes = {c: i for i, c in enumerate(["happy", "calm"])}  # not in alphabetical order
of_run = pd.DataFrame(
    dict(row=range(n), path=table.id, split="test", group=table.tone)
    | {
        f"{k}_mood": table[v].map(codes)
        for k, v in dict(label="label", dense="dense", pruned="pruned").items()
    }
)
of_run.to_parquet(folder / "predictions.parquet")
rates = [{"head": "mood", "class": c, "group": g} for c in codes for g in ("dark", "light", "all")]
(folder / "metrics.json").write_text(json.dumps(dict(rates=rates)))
(folder / "settings.json").write_text(json.dumps(dict(method="fairgrape", rate=0.9, seed=0)))
given, settings = run_predictions(folder)
assert given.classes == {"mood": ["happy", "calm"]} and list(given.predicted) == ["dense", "pruned"]
assert (given.labels[:, 0] == of_run.label_mood).all()
with redirect_stdout(quiet):
    card = audit_command([], tmp / "of_run", run=folder)["card of pruned"].read_text()
assert "- **Method**: fairgrape" in card and "- **Rate**: 0.9" in card

# %% [markdown]
# Neither command needs torch. Each runs in its own process here, and says at its end whether it has imported it.

# %%
program = (
    "import sys\nfrom fairgrape.start import main\ncode = main(sys.argv[1:])\n"
    "print(code, 'torch' in sys.modules, file=sys.stderr)"
)
asked = [str(tmp / "predictions.csv"), "--groups", "tone"]
for command in (["audit", "--out", str(tmp / "alone")], ["gate", "--tolerance", "40"]):
    done = subprocess.run(
        [sys.executable, "-c", program, *command, *asked], capture_output=True, text=True
    )
    print(command[0], done.stderr.split())
    assert done.stderr.split() == ["0", "False"], done.stderr
assert (tmp / "alone" / "audit.html").is_file()
