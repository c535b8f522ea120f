"""The schema that the site publishes is the one that written audits keep."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

import fairgrape
from fairgrape.report.audit_page import SCHEMA, audit_schema

REPO = Path(__file__).resolve().parents[2]
PUBLISHED = REPO / "nbs" / "_site" / "static" / SCHEMA


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    "A folder with an audit of two heads and of persons"
    rng, n = np.random.default_rng(0), 300
    table = pd.DataFrame({"id": np.arange(n).astype(str), "person": np.arange(n) // 3})
    table["tone"] = np.array(["dark", "light"])[rng.permutation(n) % 2]
    for head in ("smile", "hat"):
        table[f"label_{head}"] = rng.choice(["no", "yes"], n)
        for model in ("dense", "pruned"):
            hit = rng.random(n) < 0.8
            table[f"{model}_{head}"] = table[f"label_{head}"].where(hit, "no")
    given = fairgrape.predictions_of(table, groups=["tone"], cluster="person")
    folder = tmp_path_factory.mktemp("audit")
    fairgrape.save_audit(fairgrape.audit(given, B=100), folder)
    return folder


def test_a_written_audit_is_valid_against_the_published_schema(written):
    audit = json.loads((written / "audit.json").read_text(encoding="utf-8"))
    schema = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(audit, schema)
    assert audit["$schema"] == PUBLISHED.name and audit["heads"] and audit["groups"]
    for name, wrong in (("groups", [{}]), ("$schema", "other.json"), ("notes", [1])):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(audit | {name: wrong}, schema)


def test_the_schema_lies_beside_the_audit_as_it_is_published(written):
    beside = json.loads((written / SCHEMA).read_text(encoding="utf-8"))
    assert beside == json.loads(PUBLISHED.read_text(encoding="utf-8")) == audit_schema()


def test_the_site_links_to_it():
    use = (REPO / "nbs" / "_site" / "use.md").read_text(encoding="utf-8")
    section = use.split("## Judge any two models")[1].split("\n## ")[0]
    assert f"](static/{SCHEMA})" in section
