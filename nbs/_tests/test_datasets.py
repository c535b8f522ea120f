"""Hugging Face copies of FairFace as they lie on disk, and `fairgrape data check` on whole,
partly missing and damaged sets of rendered faces.
"""

import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures import write_celeba, write_people
from PIL import Image

from fairgrape.data.catalog import DATASETS, check_dataset, read_dataset, read_synthetic
from fairgrape.data.check import all_splits, count_all
from fairgrape.data.fairface_hub import FAIRFACE
from fairgrape.data.findings import set_text
from fairgrape.data.readers import read_fairface
from fairgrape.data.synthetic import render_faces
from fairgrape.data.tables import matching, thin_table

# Hugging Face

# the hub's order of the races is not the CSVs'
HUB = dict(
    age=FAIRFACE["age"],
    gender=["Male", "Female"],
    race=[
        "East Asian",
        "Indian",
        "Black",
        "White",
        "Middle Eastern",
        "Latino_Hispanic",
        "Southeast Asian",
    ],
)


def rendered(n: int, size: int = 32) -> list[bytes]:
    "The bytes of rendered faces."
    out = []
    for pixels in render_faces(read_synthetic().table[:n], size):
        out.append(io.BytesIO())
        Image.fromarray(pixels.transpose(1, 2, 0)).save(out[-1], "JPEG", quality=92)
    return [b.getvalue() for b in out]


def hub_table(rows: range, names: bool = True, **columns) -> pa.Table:
    """Rows as `datasets` writes them: age, gender and race of row i are i, i and i, each modulo
    its classes.
    """
    features = dict(image=dict(_type="Image"), service_test=dict(dtype="bool", _type="Value"))
    if names:
        features |= {c: dict(names=n, _type="ClassLabel") for c, n in HUB.items()}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image), *[(c, pa.int64()) for c in HUB], ("service_test", pa.bool_())],
        {"huggingface": json.dumps(dict(info=dict(features=features)))},
    )
    pictures = rendered(rows.stop)[rows.start :]
    data = dict(
        image=[dict(bytes=b, path=None) for b in pictures],
        service_test=[i % 2 == 0 for i in rows],
        **{c: [i % len(n) for i in rows] for c, n in HUB.items()},
    )
    return pa.table(data | columns, schema=schema)


def as_hub(folder: Path, tables: dict[str, pa.Table]) -> Path:
    folder.mkdir(parents=True)
    for part, table in tables.items():
        half = len(table) // 2
        for k, shard in enumerate([table[:half], table[half:]]):
            pq.write_table(shard, folder / f"{part}-0000{k}-of-00002-0123456789abcdef.parquet")
    return folder


def as_converted(folder: Path, tables: dict[str, pa.Table]) -> Path:
    for part, table in tables.items():
        (folder / part).mkdir(parents=True)
        pq.write_table(table, folder / part / "0000.parquet", row_group_size=2)
    return folder


def as_saved(folder: Path, tables: dict[str, pa.Table], new=pa.ipc.new_stream) -> Path:
    folder.mkdir(parents=True)
    (folder / "dataset_dict.json").write_text(json.dumps(dict(splits=list(tables))))
    for part, table in tables.items():
        (folder / part).mkdir()
        with (
            pa.OSFile(str(folder / part / "data-00000-of-00001.arrow"), "wb") as file,
            new(file, table.schema) as writer,
        ):
            writer.write_table(table, 3)
        (folder / part / "state.json").write_text("{}")
    return folder


def as_arrow_files(folder: Path, tables: dict[str, pa.Table]) -> Path:
    return as_saved(folder, tables, pa.ipc.new_file)


@pytest.mark.parametrize("lay", [as_hub, as_converted, as_saved, as_arrow_files])
def test_hugging_face_copy(tmp_path, lay):
    copy = lay(
        tmp_path / "hub" / "0.25",
        dict(train=hub_table(range(0, 8)), validation=hub_table(range(8, 12))),
    )
    faces = read_fairface(copy, tmp_path / "data", progress=False)
    expected = [HUB["race"][i % 7] for i in range(12)]
    assert faces.table.race.tolist() == expected and faces.table.age.tolist() == [
        HUB["age"][i % 9] for i in range(12)
    ]
    assert (
        faces.table.race.cat.categories.tolist() == FAIRFACE["race"]
        and faces.table.official.tolist() == ["train"] * 8 + ["val"] * 4
    )
    assert faces.table.service_test.tolist() == ["True", "False"] * 6
    assert (faces.root / faces.table.path[9]).read_bytes() == rendered(10)[9]
    written = {p: p.stat().st_mtime_ns for p in faces.root.rglob("*") if p.is_file()}
    again = read_fairface(copy, tmp_path / "data", progress=False)
    assert (
        again.key == faces.key
        and {p: p.stat().st_mtime_ns for p in faces.root.rglob("*") if p.is_file()} == written
    )
    shutil.rmtree(faces.root)
    # written out again: the same cache
    assert read_fairface(copy, tmp_path / "data", progress=False).key == faces.key


def test_hugging_face_picture_names(tmp_path):
    pictures = [
        dict(bytes=b, path=p)
        for b, p in zip(rendered(4), ["train/7.jpg", "../../x.jpg", "x.jpg", "a b.jpg"])
    ]
    copy = as_converted(
        tmp_path / "hub",
        dict(train=hub_table(range(4), image=pictures), validation=hub_table(range(2))),
    )
    assert read_fairface(copy, tmp_path / "data", progress=False).table.path[:4].tolist() == [
        "train/7.jpg",
        "train/x.jpg",
        "train/row-000002.jpg",
        "train/row-000003.jpg",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "hub"]


@pytest.mark.parametrize(
    "table, message",
    [
        (
            lambda: hub_table(range(2), names=False),
            "column 'age': the label is a number without a name .no ClassLabel names",
        ),
        (lambda: hub_table(range(2), race=[0, 7]), "row 1, column 'race': 7 is not a label"),
        (
            lambda: hub_table(range(2), gender=[None, 1]),
            "row 0, column 'gender': None is not a label",
        ),
        (lambda: hub_table(range(2), gender=[-1, 1]), "row 0, column 'gender': -1 is not a label"),
        (
            lambda: hub_table(range(2)).drop_columns(["race"]),
            "no column 'race': its columns are image, age, gender, service_test",
        ),
        (
            lambda: hub_table(range(2), image=[dict(bytes=None, path="/etc/passwd")] * 2),
            "row 0: the picture's bytes are not in the file",
        ),
    ],
)
def test_hugging_face_faults(tmp_path, table, message):
    copy = as_converted(tmp_path / "hub", dict(train=table(), validation=hub_table(range(2))))
    with pytest.raises(
        ValueError,
        match="train/0000.parquet, .*" + message if "no column" not in message else message,
    ):
        read_fairface(copy, tmp_path / "data", progress=False)
    assert list((tmp_path / "data" / "unpacked").iterdir()) == []


def test_hugging_face_shards_that_are_damaged_or_not_there(tmp_path):
    copy = as_hub(tmp_path / "hub", dict(train=hub_table(range(4))))
    with pytest.raises(FileNotFoundError, match="no parquet or arrow file of the part 'val'"):
        read_fairface(copy, tmp_path, progress=False)
    (copy / "validation-00000-of-00001.parquet").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="validation-00000-of-00001.parquet: damaged"):
        read_fairface(copy, tmp_path, progress=False)


def test_hugging_face_labels_of_another_edition(tmp_path):
    wrong = hub_table(range(2))
    said = json.loads(wrong.schema.metadata[b"huggingface"])
    said["info"]["features"]["race"]["names"][0] = "Asian"
    wrong = wrong.replace_schema_metadata({"huggingface": json.dumps(said)})
    copy = as_converted(tmp_path / "hub", dict(train=wrong, validation=hub_table(range(2))))
    with pytest.raises(ValueError, match="column 'race': 'Asian' is not one of White, Black"):
        read_fairface(copy, tmp_path / "data", progress=False)


# The check


@pytest.fixture(scope="module")
def celeba(tmp_path_factory):
    return write_celeba(tmp_path_factory.mktemp("sets") / "CelebA", 120)


def test_check_of_celeba(celeba, tmp_path):
    check = check_dataset("celeba", celeba, tmp_path, progress=False)
    assert (
        check.sound
        and list(check.splits) == ["photo", "person", "official"]
        and check.damaged == {}
    )
    bald = check.counts.loc["Bald × gender"]
    # all, and three splits
    assert bald.loc["yes × Female", ("all", "")] == 0 and bald.to_numpy().sum() == 4 * 120
    text = set_text(check)
    assert (
        "The published set has 202,599 images; the labels here name 120." in text
        and "Bald × gender: yes × Female" in text
    )
    assert "classes: Blurry: yes" in text  # constant head: nobody is blurry


def test_check_of_a_partly_missing_set(celeba, tmp_path):
    part = Path(shutil.copytree(celeba, tmp_path / "CelebA"))
    images = sorted(part.rglob("*.jpg"))
    for image in images[:3]:
        image.unlink()
    images[5].write_bytes(images[5].read_bytes()[:200])
    shutil.copy(images[7], images[119])
    check = check_dataset("celeba", None, tmp_path, progress=False)
    assert [Path(p).name for p in check.missing] == ["000001.jpg", "000002.jpg", "000003.jpg"] and [
        Path(p).name for p in check.damaged
    ] == ["000006.jpg"]
    text = set_text(check)
    for line in [
        "missing: 3 000001.jpg",
        "damaged: 1 (every image was decoded) 000006.jpg",
        "byte-for-byte copies of another: 1",
        "with its twin in another part, official split: 1",
        "A run would stop at the missing (3) and the damaged (1) files",
        "mmlab.ie.cuhk.edu.hk",
    ]:
        assert line in text, (line, text)
    with pytest.raises(FileNotFoundError, match="3 of 120 are missing"):
        read_dataset("celeba", None, tmp_path, progress=False)
    assert check_dataset("celeba", None, tmp_path, decode=False, progress=False).damaged is None


def test_check_of_people(tmp_path):
    check = check_dataset("people", write_people(tmp_path / "people"), tmp_path, progress=False)
    assert check.sound and "person_class × gender" in set_text(check) and check.said


@pytest.mark.parametrize("name", DATASETS)
def test_check_of_a_set_that_is_not_there(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = set_text(check_dataset(name, None, tmp_path, progress=False))
    if name == "synthetic":
        assert text.startswith("synthetic: ")
    elif name == "folder":
        assert "needs a path" in text
    else:
        assert (
            text.startswith(f"{name}: none of ") and "https://" in text and "data/README.md" in text
        )


def test_check_of_own_images_in_a_csv(tmp_path):
    for i, picture in enumerate(rendered(4)):
        (tmp_path / f"{i}.jpg").write_bytes(picture)
    (tmp_path / "mine.csv").write_text(
        "image,smile,team\n"
        + "".join(f"{i}.jpg,{'yes' if i else 'no'},{i % 2}\n" for i in range(5))
    )
    check = check_dataset("folder", tmp_path / "mine.csv", tmp_path, progress=False)
    assert (
        check.missing == ["4.jpg"]
        and check.counts.loc[("smile × team", "no × 1"), ("all", "")] == 0
    )
    assert "remove their rows from the labels" in set_text(check)


def test_counts_of_a_large_set_take_seconds():
    "39 attributes of 200,000 images."
    rng, yes_no = np.random.default_rng(0), ["no", "yes"]
    n = 200_000
    columns = {f"a{k}": pd.Categorical.from_codes(rng.integers(0, 2, n), yes_no) for k in range(39)}
    table = pd.DataFrame(
        dict(
            path=[f"{i}.jpg" for i in range(n)],
            photo=[f"{i}.jpg" for i in range(n)],
            person=rng.integers(0, 10_000, n),
            gender=pd.Categorical.from_codes(rng.integers(0, 2, n), ["Female", "Male"]),
            **columns,
        )
    )
    counts = count_all(table, all_splits(table))
    assert len(counts) == 2 * 40 + 4 * 39 and (counts["all", ""].groupby("label").sum() == n).all()


# Parts of a set


def test_imbalance_is_drawn_before_the_split():
    table = pd.concat([read_synthetic().table] * 3, ignore_index=True)
    first = table.tone.cat.categories[0]
    thin = thin_table(table, f"tone={first}:0.2")
    assert (thin.tone == first).sum() == (table.tone == first).sum() and len(thin) < len(table)
    rest = (thin.tone != first).sum() / (table.tone != first).sum()
    assert (
        0.15 < rest < 0.25 and matching(thin, f"tone!={first}").sum() == (thin.tone != first).sum()
    )
