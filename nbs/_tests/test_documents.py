"""The documents beside the notebooks: README, citation, changelog, a data statement for every
data set, and what make says to pytest.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import fairgrape
from fairgrape.data.catalog import DATASETS

REPO = Path(__file__).resolve().parents[2]
STATEMENTS = REPO / "data" / "statements"
HEADINGS = [
    "Who is in it",
    "How it was collected",
    "Labels, and who gave them",
    "What the labels mean, and what they do not",
    "Licence",
    "Known faults",
    "What it must not be used for",
    "Sources",
]


def read(name: str) -> str:
    return (REPO / name).read_text(encoding="utf-8")


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = read("README.md")
    assert len(text.encode()) <= 6000 and max(map(len, text.splitlines())) <= 120
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert len(links) > 10 and not [link for link in links if not (REPO / link).exists()]


def test_the_readme_says_what_the_published_run_measured():
    folder = re.search(r"\(runs/showcase/(\S+)/prune\.ipynb\)", read("README.md"))[1]
    for run in (folder, "utkface-race-resnet18-ws-0.99-layer-s0-1c8087e8"):
        metrics = json.loads(read(f"runs/showcase/{run}/metrics.json"))
        rho = metrics["disparities"]["rho"]
        said = f"ρ {rho['value']:.1f} [{rho['low']:.1f}, {rho['high']:.1f}]"
        assert said in " ".join(read("README.md").split())
        assert f"ρ {rho['value']:.1f}" in read("nbs/_site/static/idea.svg")


def test_readme_and_site_use_public_names_only():
    for name in ("README.md", "nbs/_site/index.md", "nbs/_site/use.md"):
        blocks = "".join(re.findall(r"^```python\n(.*?)^```", read(name), re.M | re.S))
        used = set(re.findall(r"\bfairgrape\.(\w+)", blocks))
        assert used and used <= set(fairgrape.__all__), name


def test_the_citation_is_valid_and_of_this_version():
    cited = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors", "version", "license", "type"} <= set(
        cited
    ) and cited["cff-version"] == "1.2.0"
    assert (
        cited["version"] == fairgrape.__version__
        and cited["license"] == "MIT"
        and cited["type"] == "software"
    )
    assert all(
        {"name"} <= set(a) or {"family-names", "given-names"} <= set(a) for a in cited["authors"]
    )
    for paper in (cited["preferred-citation"], *cited["references"]):
        assert (
            {"type", "title", "authors"} <= set(paper)
            and paper["title"].startswith("FairGRAPE: Fairness-aware GRAdient Pruning mEthod")
            and paper["year"] == 2022
        )
        assert [a["family-names"] for a in paper["authors"]] == ["Lin", "Kim", "Joo"] and paper[
            "url"
        ].endswith("2207.10888")


def test_the_changelog_keeps_its_form():
    versions = re.findall(r"^## \[(.+?)\] - (\S+)$", read("CHANGELOG.md"), re.M)
    assert versions[0][0] == fairgrape.__version__ and all(
        when == "Unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", when) for _, when in versions
    )
    dates = [when for _, when in versions if when != "Unreleased"]
    assert dates == sorted(dates, reverse=True)
    kinds = re.findall(r"^### (.+)$", read("CHANGELOG.md"), re.M)
    assert kinds and set(kinds) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_has_a_statement(name):
    text = (STATEMENTS / f"{name}.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    assert parts[0].startswith("# Data statement: ") and f"`{name}`" in parts[0]
    assert parts[1::2] == HEADINGS and all(len(part.strip()) > 12 for part in parts[2::2])
    assert f"statements/{name}.md" in read("data/README.md")


def test_statements_name_what_exists():
    assert {f.stem for f in STATEMENTS.glob("*.md")} == set(DATASETS)
    for file in STATEMENTS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / link).exists(), f"{file.name}: {link}"


def test_git_takes_the_statements():
    lines = read(".gitignore").splitlines()
    assert lines.index("!/data/statements/") > lines.index("/data/*")


def test_pytest_understands_what_make_says_to_it():
    lines = re.findall(r"^\t\$\(PYTEST\)(.*)$", read("Makefile"), re.M)
    assert len(lines) == 3 and "" in lines
    for line in lines:  # nothing is collected: 5, or 0 where a file is named; a usage error: 4
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "--collect-only",
                "-q",
                "-p",
                "no:cacheprovider",
                "--ignore-glob=*",
                *shlex.split(line),
            ],
            cwd=REPO,
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 5), line + done.stderr
