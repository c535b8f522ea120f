"""The published runs: older ones lack newer settings, and must load and be called what they
were called.
"""

import importlib.util
import json
from pathlib import Path

import pytest
from fixtures import shown

from fairgrape.report.comparison import display_table, report_table, verdicts
from fairgrape.report.runs import experiment, find_runs, variant

REPO = Path(__file__).resolve().parents[2]
SHOWCASE = REPO / "runs" / "showcase"


@pytest.fixture(scope="module")
def runs() -> list:
    if not SHOWCASE.is_dir():
        pytest.skip("no published runs here")
    return find_runs(SHOWCASE)


def test_older_runs_keep_their_labels(runs):
    older = [r for r in runs if "steps" not in r.settings]
    if not older:
        pytest.skip("all published runs have the newer settings")
    assert all(
        variant(r.settings) == r.settings["method"] and "imbalance" not in experiment(r.settings)
        for r in older
    )
    table = report_table(older)
    assert (table.label == table.method).all() and (
        display_table(table)["Method"] == table.method
    ).all()


def test_every_sentence_names_scope_rate_and_seed(runs):
    said = verdicts(report_table(runs))
    assert said and all(
        s.startswith("At rate ") and ", scope " in s and ", seed " in s for s in said
    )


def test_the_showcase_page_is_made_of_the_reports_tables(runs):
    spec = importlib.util.spec_from_file_location(
        "showcase", REPO / "nbs" / "_tools" / "showcase.py"
    )
    showcase = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(showcase)
    page, table = showcase.page(runs), report_table(runs)
    assert (
        all(f"\n## {name}\n" in page for name in table.experiment)
        and page.count("| Method | Rate | Scope |") == table.experiment.nunique()
    )
    assert all(f"- {sentence}" in page.splitlines() for sentence in verdicts(table))
    # what a person wrote is kept, above the tables
    words = showcase.by_hand(SHOWCASE / "README.md")
    again = showcase.page(runs, words)
    assert "## What was measured" in words and "### Six seeds" in words
    assert again.replace(words + "\n", "", 1) == page and again.index(words) < again.index("|")
    assert showcase.by_hand(SHOWCASE / "seeds" / "README.md") == ""


def test_no_published_notebook_lacks_its_pictures(runs):
    wanted = dict(prune=4, report=3, study=3)
    books = sorted(SHOWCASE.rglob("*.ipynb"))
    lost = []
    for book in books:
        settings = book.with_name("settings.json")
        dense = (
            settings.is_file()
            and json.loads(settings.read_text(encoding="utf-8"))["method"] == "dense"
        )
        try:
            assert len(shown(book)[0]) >= (1 if dense else wanted[book.stem])
        except AssertionError as e:
            lost.append(f"{book.relative_to(SHOWCASE)}: {e}")
    assert books and not lost, "\n".join(lost)
