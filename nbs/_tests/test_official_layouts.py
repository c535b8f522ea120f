"""CelebA and ImageNet's person subtree in their official layouts: read whole, by name, and
every fault named before an image is decoded.
"""

import json
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures import SYNSETS, write_celeba, write_people
from PIL import Image
from torchvision.datasets import CelebA

from fairgrape.data.celeba import read_celeba
from fairgrape.data.celeba_labels import CELEBA_ATTRIBUTES, CELEBA_HEADS
from fairgrape.data.people import read_people
from fairgrape.data.splits import split_table
from fairgrape.data.tables import codes, label_columns

# CelebA


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return write_celeba(tmp_path_factory.mktemp("celeba") / "CelebA", 60)


@pytest.fixture
def copy(official, tmp_path):
    return Path(shutil.copytree(official, tmp_path / "CelebA"))


def read(folder, **options):
    return read_celeba(folder, Path(folder).parent / "data", progress=False, **options)


def test_files_are_written_as_published(official):
    lines = (official / "Anno/list_attr_celeba.txt").read_text().splitlines()
    assert (
        lines[0] == "60"
        and lines[1] == " ".join(CELEBA_ATTRIBUTES) + " "
        and lines[2].startswith("000001.jpg ")
    )
    # two columns a value, a blank before it
    assert {len(line) for line in lines[2:]} == {10 + 40 * 3} and "-1  1" in lines[2]
    assert (
        (official / "Eval/list_eval_partition.txt")
        .read_text()
        .startswith("000001.jpg 0\n000002.jpg 0\n")
    )
    # 178 × 218, smaller
    assert Image.open(official / "Img/img_align_celeba/000001.jpg").size == (48, 59)


def test_torchvision_reads_the_same_labels(tmp_path):
    folder = write_celeba(tmp_path / "tv", 30, layout="torchvision")
    theirs = object.__new__(CelebA)  # its constructor asks for the real files' checksums
    theirs.root = str(folder)
    attributes, person = (
        theirs._load_csv("list_attr_celeba.txt", header=1),
        theirs._load_csv("identity_CelebA.txt"),
    )
    table = read(folder).table
    assert [n for n in attributes.header if n] == CELEBA_ATTRIBUTES and attributes.index == table[
        "path"
    ].tolist()
    for i, name in enumerate(CELEBA_ATTRIBUTES):
        ours = table["gender"] == "Male" if name == "Male" else table[name] == "yes"
        assert (ours.to_numpy() == (attributes.data[:, i] == 1).numpy()).all(), name
    assert table["person"].astype(int).tolist() == person.data[:, 0].tolist()


@pytest.mark.parametrize("layout", ["torchvision", "csv"])
def test_layouts_agree(official, tmp_path, layout):
    other, table = read(write_celeba(tmp_path / layout, 60, layout=layout)), read(official).table
    assert other.table.equals(table.drop(columns="person") if layout == "csv" else table)
    assert other.notes["absent"] == (["identity_CelebA.txt"] if layout == "csv" else [])
    assert (other.load(other.table[:3], 16) == read(official).load(table[:3], 16)).all()


@pytest.mark.parametrize("inside", ["Img", "celeba"])
def test_images_as_their_zip(copy, inside):
    whole = read(copy).table
    images = copy / "Img/img_align_celeba"
    (copy / inside).mkdir(exist_ok=True)
    with zipfile.ZipFile(copy / inside / "img_align_celeba.zip", "w") as z:
        for f in sorted(images.iterdir()):
            z.write(f, f"img_align_celeba/{f.name}")
    shutil.rmtree(images)
    assert read(copy).table.equals(whole)


@pytest.mark.parametrize("top", ["", "CelebA/"])
def test_whole_set_as_a_zip(official, tmp_path, top):
    with zipfile.ZipFile(tmp_path / "celeba.zip", "w") as z:
        for f in sorted(official.rglob("*")):
            z.write(f, top + f.relative_to(official).as_posix())
    assert read(tmp_path / "celeba.zip").table.equals(read(official).table)


def test_windows_line_ends_and_bom(copy):
    whole, file = read(copy).table, copy / "Anno/list_attr_celeba.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert read(copy).table.equals(whole)


def test_heads_groups_and_empty_cells(official):
    celeba = read(official)
    assert label_columns(celeba.table) == ["gender", *CELEBA_HEADS] and len(CELEBA_HEADS) == 39
    assert (
        celeba.notes["tasks"]["attributes"].split("+") == CELEBA_HEADS
        and celeba.notes["protocol"]["groups"] == "gender"
    )
    cells = pd.crosstab(celeba.table["gender"], celeba.table["Bald"])
    assert cells.loc["Female", "yes"] == 0 < cells.loc["Male", "yes"]
    # constant, still two-way
    assert codes(celeba.table, "Blurry")[0].max() == 0 and codes(celeba.table, "Blurry")[1] == [
        "no",
        "yes",
    ]


def test_a_person_stays_in_one_part(official, copy):
    table = read(official).table
    for how in ("person", "official"):
        assert (
            pd.Series(split_table(table, how)).groupby(table["person"].to_numpy()).nunique() == 1
        ).all()
    (copy / "Anno/identity_CelebA.txt").unlink()
    with pytest.raises(ValueError, match="does not say who is in an image.*split='photo'"):
        split_table(read(copy).table, "person")
    (copy / "Eval/list_eval_partition.txt").unlink()
    bare = read(copy)
    assert bare.notes["absent"] == ["list_eval_partition.txt", "identity_CelebA.txt"]
    with pytest.raises(ValueError, match="no official split"):
        split_table(bare.table, "official")


ATTRIBUTES, PARTITION, PERSONS = (
    "Anno/list_attr_celeba.txt",
    "Eval/list_eval_partition.txt",
    "Anno/identity_CelebA.txt",
)


def line(number, change):
    "Change one line of a text."

    def changed(text):
        lines = text.splitlines()
        lines[number - 1] = change(lines[number - 1])
        return "\n".join(lines) + "\n"

    return changed


@pytest.mark.parametrize(
    "file, change, message",
    [
        (
            ATTRIBUTES,
            line(1, lambda s: "61"),
            r"list_attr_celeba.txt, line 1: 61 images are announced, but 60 rows follow",
        ),
        (ATTRIBUTES, line(1, lambda s: "sixty"), r"line 1: 'sixty' is not the number of images"),
        (
            ATTRIBUTES,
            lambda t: t.split("\n", 1)[1],
            r"line 1: '5_o_Clock_Shadow .* is not the number of images",
        ),
        (
            ATTRIBUTES,
            line(2, lambda s: s.replace("Bald ", "")),
            r"line 2: 39 attribute names, but CelebA has 40 \(missing: Bald\)",
        ),
        (
            ATTRIBUTES,
            line(2, lambda s: s + "Beard"),
            r"line 2: 41 attribute names, but CelebA has 40 \(unknown: Beard\)",
        ),
        (ATTRIBUTES, line(2, lambda s: s.replace("Bald", "Young")), r"missing: Bald; twice: Young"),
        (ATTRIBUTES, line(5, lambda s: s[:-3]), r"line 5: 40 fields instead of 41"),
        (ATTRIBUTES, line(5, lambda s: s + " -1"), r"line 5: 42 fields instead of 41"),
        (ATTRIBUTES, line(3, lambda s: s + " -1 -1"), r"line 3: 43 fields instead of 41"),
        (ATTRIBUTES, line(62, lambda s: s[:40]), r"line 62: \d+ fields instead of 41"),
        (ATTRIBUTES, line(7, lambda s: s[:-1] + "0"), r"line 7, Young: '-?0' is neither -1 nor 1"),
        (
            ATTRIBUTES,
            line(7, lambda s: s.replace("000005", "000004")),
            r"line 7: 000004.jpg already has a row",
        ),
        (
            ATTRIBUTES,
            lambda t: "\n".join(t.splitlines()[:2]) + "\n",
            r"list_attr_celeba.txt: no rows",
        ),
        (
            PARTITION,
            lambda t: t + "000099.jpg 2\n",
            (
                r"partition.txt names 000099.jpg, but .*list_attr_celeba.txt does not \(1 such"
                r" images\)"
            ),
        ),
        (
            PARTITION,
            line(3, lambda s: ""),
            r"list_attr_celeba.txt names 000003.jpg, but .*list_eval_partition.txt does not",
        ),
        (
            PARTITION,
            line(3, lambda s: "000003.jpg 3"),
            r"list_eval_partition.txt: part '3' is not one of 0 \(train\), 1 \(val\), 2 \(test\)",
        ),
        (PARTITION, line(3, lambda s: "000003.jpg"), r"line 3: 1 fields instead of 2"),
        (
            PERSONS,
            line(3, lambda s: ""),
            r"list_attr_celeba.txt names 000003.jpg, but .*identity_CelebA.txt does not",
        ),
        (PERSONS, line(3, lambda s: "000002.jpg 5"), r"line 3: 000002.jpg already has a row"),
    ],
)
def test_celeba_label_faults(copy, file, change, message):
    (copy / file).write_text(change((copy / file).read_text()))
    with pytest.raises(ValueError, match=message):
        read(copy)


def test_csv_codes(tmp_path):
    folder = write_celeba(tmp_path / "csv", 30, layout="csv")
    whole, file = read(folder).table, folder / "list_attr_celeba.csv"
    text = file.read_text()
    file.write_text(text.replace("-1", "0"))
    assert read(folder).table.equals(whole)  # 0 and 1 all through
    file.write_text(text.replace("-1", "0", 1))
    with pytest.raises(
        ValueError, match=r"list_attr_celeba.csv, line 2, \w+: '0' is neither -1 nor 1"
    ):
        read(folder)


def test_missing_celeba_files(copy):
    (copy / "Img/img_align_celeba/000007.jpg").unlink()
    (copy / "Img/img_align_celeba/000009.jpg").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"000007.jpg: the labels name this image, .*\(2 of 60 are missing\)",
    ):
        read(copy)
    part = read(copy, strict=False)
    assert (
        part.notes["missing"] == ["000007.jpg", "000009.jpg"]
        and len(part.table) == 58
        and part.table.index.tolist() == list(range(58))
    )
    shutil.rmtree(copy / "Img")
    with pytest.raises(FileNotFoundError, match="no folder img_align_celeba"):
        read(copy)
    (copy / ATTRIBUTES).unlink()
    with pytest.raises(FileNotFoundError, match="no list_attr_celeba.txt"):
        read(copy)
    with pytest.raises(FileNotFoundError, match="CelebA"):
        read(copy / "nowhere")


def test_celeba_fixture_is_a_pure_function_of_its_seed(official, tmp_path):
    again, other = (
        read(write_celeba(tmp_path / "again", 60)).table,
        read(write_celeba(tmp_path / "other", 60, seed=1)).table,
    )
    assert again.equals(read(official).table) and not other["Smiling"].equals(again["Smiling"])


def test_learnable_attributes_show(official):
    celeba = read(official)
    pixels, glasses = (
        celeba.load(celeba.table, 48).astype(float),
        (celeba.table["Eyeglasses"] == "yes").to_numpy(),
    )
    eyes = pixels[:, :, 18:28, 12:36]
    assert glasses.any() and eyes[glasses].mean() < eyes[~glasses].mean()  # dark rims


# ImageNet's person subtree

JSON = "ImageNet demographics annotations.json"


@pytest.fixture(scope="module")
def subtree(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people") / "people", each=12, size=32)


@pytest.fixture
def people(subtree, tmp_path):
    return Path(shutil.copytree(subtree, tmp_path / "people"))


def read_quietly(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_people(folder, Path(folder).parent / "data", progress=False, **options)


def test_rules(subtree):
    with pytest.warns(
        UserWarning,
        match="people: 42 of 90 annotated images are left out: .*15 synset not rated safe",
    ):
        people = read_people(subtree, subtree.parent / "data")
    assert people.table["person_class"].cat.categories.tolist() == [
        "ballet dancer",
        "fireman",
        "nurse",
        "singer",
    ]
    assert (pd.crosstab(people.table["person_class"], people.table["gender"]) == 6).all(axis=None)
    assert people.notes["left_out"] == {
        "synset not rated safe": 15,
        "synset not imageable enough": 15,
        "several genders": 4,
        "gender unsure": 4,
        "no gender": 4,
    }
    assert len(people.notes["skipped"]) == 12 and label_columns(people.table) == [
        "person_class",
        "gender",
    ]
    assert set(people.table["synset"]) == {s[0] for s in SYNSETS[:4]} and people.load(
        people.table[:2], 16
    ).shape == (2, 3, 16, 16)


def test_at_least_ten_images_a_class(people):
    entries = json.loads((people / JSON).read_text())
    nurses = [
        e
        for e in entries
        if e["url"].startswith("n10366966") and len(e["gender"]) == 1 and e["gender"] != ["unsure"]
    ]
    (people / JSON).write_text(json.dumps([e for e in entries if e not in nurses[:3]]))
    few = read_quietly(people)
    assert (
        "nurse" not in few.table["person_class"].cat.categories
        and few.notes["left_out"]["fewer than 10 images in its class"] == 9
    )
    assert len(read_quietly(people, least=9).table["person_class"].cat.categories) == 4


def test_layout_of_the_public_code(people, tmp_path):
    whole, theirs = read_quietly(people).table, tmp_path / "repo"
    for f in sorted(people.rglob("*.*")):
        if f.is_file():
            target = theirs / ("Images/Imagenet" if f.suffix == ".JPEG" else "csv") / f.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(f, target)
    flat = read_quietly(theirs)
    files = ["path", "photo"]
    assert flat.root == theirs / "Images/Imagenet" and flat.table.drop(columns=files).equals(
        whole.drop(columns=files)
    )
    number, gender = flat.table["person_class"].cat.codes + 7, flat.table["gender"].cat.codes
    table = pd.DataFrame(
        dict(
            image_name=flat.table["path"],
            face_name_align=flat.table["path"],
            classes=number,
            gender=gender,
        )
    )
    table.to_csv(theirs / "csv/Imagenet.csv", index=False)
    (theirs / "csv" / JSON).unlink()
    # by the synset in the name, whatever the class's number
    assert read_quietly(theirs).table.equals(flat.table)


def test_people_as_a_zip(subtree, tmp_path):
    with zipfile.ZipFile(tmp_path / "people.zip", "w") as z:
        for f in sorted(subtree.rglob("*")):
            z.write(f, Path("subtree") / f.relative_to(subtree))
    assert read_quietly(tmp_path / "people.zip").table.equals(read_quietly(subtree).table)


@pytest.mark.parametrize(
    "entry, message",
    [
        (
            dict(url="n10366966_1.JPEG", gender=["man"]),
            r"entry 90 \(n10366966_1.JPEG\): gender 'man' is not one of male, female, unsure",
        ),
        (dict(url="n10366966_1.JPEG", gender="male"), r"gender 'male' is not a list of words"),
        (dict(url="n10366966_1.JPEG", gender=None), r"gender None is not a list of words"),
        (
            dict(url="nurse_1.JPEG", gender=["male"]),
            r"url 'nurse_1.JPEG' is not named like n10366966_42.JPEG",
        ),
        (
            dict(image="n10366966_1.JPEG", gender=["male"]),
            r"entry 90: an entry needs 'url' and 'gender'",
        ),
        ("n10366966_1.JPEG", r"entry 90: an entry needs 'url' and 'gender'"),
    ],
)
def test_faulty_entries(people, entry, message):
    (people / JSON).write_text(json.dumps([*json.loads((people / JSON).read_text()), entry]))
    with pytest.raises(ValueError, match=message):
        read_quietly(people)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t[:-20], "not readable as JSON"),
        (lambda t: "{}", "must hold a list of entries"),
        (lambda t: "[]", "must hold a list of entries"),
        (
            lambda t: json.dumps(json.loads(t) + json.loads(t)[:1]),
            "entry 90: n.* already has an entry",
        ),
        (
            lambda t: t.replace('["male"]', '["unsure"]').replace(
                '["female"]', '["male", "female"]'
            ),
            "no class is left of 90 images: 28 several genders, 28 gender unsure, 15",
        ),
    ],
)
def test_faulty_json(people, change, message):
    (people / JSON).write_text(change((people / JSON).read_text()))
    with pytest.raises(ValueError, match=message):
        read_quietly(people)


@pytest.mark.parametrize(
    "name, message",
    [
        ("synsets_safety.csv", "image-net.org/data/synsets_safety.csv"),
        (JSON, "Request it from the ImageNet team"),
        ("imageability_scores.csv", "image-net.org/data/imageability_scores.csv"),
    ],
)
def test_one_of_the_files_missing(people, name, message):
    (people / name).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        read_quietly(people)


def test_images_missing(people):
    (gone := people / read_quietly(people).table["path"][5]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{gone.name}: the labels name this image"):
        read_quietly(people)
    part = read_quietly(people, strict=False)
    assert part.notes["missing"] == [f"{gone.parent.name}/{gone.name}"] and len(part.table) == 47
    for folder in people.glob("n*"):
        shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="no image of the set is here"):
        read_quietly(people)


@pytest.mark.parametrize(
    "text, message",
    [
        ("file,gender\na.jpg,male\n", "no column 'class'"),
        ("file,class,gender\na.jpg,nurse,unsure\n", "line 2, column 'gender': 'unsure'"),
        (
            "file,class,gender\na.jpg,nurse,male\na.jpg,nurse,male\n",
            "line 3: this image already has a row",
        ),
        ("file,class,gender\na.jpg,,male\n", "column 'class': no class"),
        (
            "image_name,classes,gender\nn10366966_1.JPEG,5,1\nn10599806_2.JPEG,5,1\n",
            "number 5 stands for images of several synsets",
        ),
    ],
)
def test_faulty_prepared_csv(tmp_path, text, message):
    (tmp_path / "people.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_quietly(tmp_path / "people.csv")


def test_classes_can_be_told_apart(subtree):
    "The fixture's class shows in the expression: open mouths differ from closed ones."
    people = read_quietly(write_people(subtree.parent / "more", each=40, classes=4, size=32))
    pixels = people.load(people.table, 32).astype(float)
    means = np.stack(
        [
            pixels[(people.table["person_class"] == c).to_numpy()].mean(0)
            for c in people.table["person_class"].cat.categories
        ]
    )
    # surprised against neutral, around the mouth, grey levels
    assert np.abs(means[3] - means[0])[:, 18:28, 10:22].mean() > 2
