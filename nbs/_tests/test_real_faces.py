"""Real faces, where they are: counts, labels and the cache. Without the files every test skips
and says what it looked for.
"""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fairgrape.data.cache import image_cache
from fairgrape.data.catalog import check_dataset
from fairgrape.data.findings import set_text
from fairgrape.data.readers import read_fairface, read_utkface
from fairgrape.data.splits import split_table
from fairgrape.data.tables import (
    check_cells,
    codes,
    keep_classes,
    limit_table,
    matching,
    thin_table,
)

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def find(variable: str, *names: str) -> Path:
    "The set that an environment variable points to, or one beside the repo; else skip, loudly."
    if value := os.environ.get(variable):
        if not Path(value).exists():
            pytest.fail(f"{variable} = {value}: no such file or folder")
        return Path(value)
    places = [SHARED / name for name in names]
    for place in places:
        if place.exists():
            return place
    pytest.skip(
        f"REAL FACES NOT TESTED: {variable} is not set and there is none of"
        f" {', '.join(map(str, places))}"
    )


@pytest.fixture(scope="module")
def utkface(tmp_path_factory):
    path = find("FAIRGRAPE_UTKFACE", "UTKFace.tar.gz", "UTKFace")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = read_utkface(path, tmp_path_factory.mktemp("data"), progress=False)
    return data, [str(w.message) for w in caught]


@pytest.fixture(scope="module")
def fairface(tmp_path_factory):
    path = find("FAIRGRAPE_FAIRFACE", "fairface-subset.tar", "FairFace")
    return read_fairface(path, tmp_path_factory.mktemp("data"), progress=False)


def test_utkface_counts(utkface):
    data, _ = utkface
    assert data.table.race.value_counts().to_dict() == dict(
        White=10078, Black=4525, Indian=3975, Asian=3434, Others=1692
    )
    assert len(data.table) + len(data.notes["skipped"]) == 23707


def test_utkface_misnamed_files_are_counted_and_named(utkface):
    data, said = utkface
    assert data.notes["skipped"] == [
        "39_1_20170116174525125.jpg.chip.jpg",
        "61_1_20170109142408075.jpg.chip.jpg",
        "61_1_20170109150557335.jpg.chip.jpg",
    ]
    assert any(
        "3 files are left out" in s and "61_1_20170109150557335.jpg.chip.jpg" in s for s in said
    )


def test_utkface_photographs_stay_together(utkface):
    data, _ = utkface
    split = split_table(data.table)
    assert (split.groupby(data.table.photo).nunique() == 1).all()
    shares = split.value_counts(normalize=True)
    assert abs(shares["train"] - 0.8) < 0.005 and abs(shares["test"] - 0.1) < 0.005
    assert data.notes["copies"] == 390 and data.table.photo.nunique() == 23087


def test_utkface_task(utkface):
    data, _ = utkface
    four = keep_classes(data.table, "race", data.notes["classes"]["race"])
    counts = check_cells(four, split_table(data.table)[four.index], "race*gender")
    assert (
        len(four) == 22012
        and counts.shape == (8, 3)
        and codes(four, "race")[1] == ["White", "Black", "Asian", "Indian"]
    )


def test_utkface_cache(utkface, tmp_path):
    "A cached row is the decoded file; a small part is enough here."
    from dataclasses import replace

    data, _ = utkface
    part = replace(data, table=limit_table(data.table, 200).reset_index(drop=True))
    pixels = image_cache(part, 32, tmp_path, progress=False)
    assert np.array_equal(pixels[7], part.load(part.table[7:8], 32)[0]) and 40 < pixels.mean() < 200


def test_fairface(fairface):
    assert len(fairface.table) >= 10_000 and fairface.table.race.nunique() == 7
    counts = check_cells(fairface.table, split_table(fairface.table, "official"), "race*gender")
    assert (
        counts.shape == (14, 3) and counts["test"].sum() == (fairface.table.official == "val").sum()
    )
    row = fairface.table.set_index("path").loc["train/2.jpg"]
    labels = (
        pd.read_csv(next(fairface.root.glob("**/fairface_label_train.csv")))
        .set_index("file")
        .loc["train/2.jpg"]
    )
    assert all(row[c] == labels[c] for c in ("age", "gender", "race"))
    assert fairface.load(fairface.table[:2], 48).shape == (2, 3, 48, 48)


def test_check_of_utkface(utkface, tmp_path):
    "Nothing is damaged, and no split by photograph tears two copies apart."
    data, _ = utkface
    check = check_dataset("utkface", data.root, tmp_path, progress=False)
    text = set_text(check)
    assert (
        check.sound and check.counts.loc[("race × gender", "Black × Female"), ("all", "")] == 2208
    )
    for line in [
        "utkface: 23,704 images in",
        "byte-for-byte copies of another: 390",
        "with its twin in another part, photo split: 0",
        "3 files are left out",
    ]:
        assert line in text, line


def test_check_of_fairface(fairface, tmp_path):
    check = check_dataset("fairface", fairface.root, tmp_path, decode=False, progress=False)
    text = set_text(check)
    assert check.sound and check.counts.loc["race × gender"]["official"].to_numpy().sum() == len(
        fairface.table
    )
    if len(fairface.table) < 97_698:
        assert (
            f"The published set has 97,698 images; the labels here name {len(fairface.table):,}."
            in text
        )


def test_imbalanced_fairface(fairface):
    "Every White image and about a fifth of the others (the standard deviation is under 0.5 %)."
    white, thin = (
        matching(fairface.table, "race=White"),
        thin_table(fairface.table, "race=White:0.2"),
    )
    assert (thin.race == "White").sum() == white.sum() and abs(
        (thin.race != "White").sum() / (~white).sum() - 0.2
    ) < 0.02
