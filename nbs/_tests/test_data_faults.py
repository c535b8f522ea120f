"Bad input, one after the other: each is named, before any training, and leaves nothing half done."

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures import write_celeba
from PIL import Image

from fairgrape.data import cache
from fairgrape.data.archives import unpack
from fairgrape.data.cache import image_cache, open_cache
from fairgrape.data.catalog import check_dataset, read_dataset
from fairgrape.data.findings import set_text
from fairgrape.data.readers import read_fairface, read_folder, read_utkface
from fairgrape.data.splits import split_table
from fairgrape.data.tables import check_cells, codes, drop_classes
from fairgrape.experiment.preparation import prepare, run_folder
from fairgrape.experiment.settings import Settings, identity
from fairgrape.studies.studies import protocol


def gradient(path: Path, seed: int, size: int = 48):
    "A small JPEG of a random colour gradient."
    a, b = np.random.default_rng(seed).integers(0, 256, (2, 1, 1, 3))
    t = np.linspace(0, 1, size)[:, None, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(a + (b - a) * t, (size, size, 3)).astype(np.uint8)).save(path)


def utkface(folder: Path, n: int = 12) -> Path:
    "A set in UTKFace's layout: races 0 … 3 in turn, and two names without a race."
    for i in range(n):
        gradient(folder / f"{20 + i}_{i % 2}_{i % 4}_2017010100000{i:04d}.jpg.chip.jpg", i)
    for name in ("61_1_20170109142408075.jpg.chip.jpg", "39_1_20170116174525125.jpg.chip.jpg"):
        gradient(folder / name, 0)
    return folder


@pytest.fixture
def faces(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_utkface(utkface(tmp_path / "UTKFace"), tmp_path, progress=False)


def caches(folder: Path) -> list[str]:
    "All that a writer left in a cache folder, but the lock."
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock") if folder.is_dir() else []


# Archives


def member(name: str, kind=tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 2 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "bad, why",
    [
        (member("../escaped.txt"), "'..'"),
        (member("set/../../escaped.txt"), "'..'"),
        (member("..\\escaped.txt"), "'..'"),
        (member("/tmp/fairgrape-escaped.txt"), "absolute"),
        (member("C:\\escaped.txt"), "absolute"),
        (member("out", tarfile.SYMTYPE, "/etc"), "link"),
        (member("out", tarfile.SYMTYPE, "../.."), "link"),
        (member("hard", tarfile.LNKTYPE, "../escaped.txt"), "link"),
        (member("pipe", tarfile.FIFOTYPE), "special"),
    ],
    ids=lambda v: v.name if isinstance(v, tarfile.TarInfo) else "",
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tar_members_outside_the_target(tmp_path, bad, why, mode):
    with tarfile.open(tmp_path / "a.tar", mode) as tar:
        for info in (member("fine.txt"), bad):
            tar.addfile(info, io.BytesIO(b"hi") if info.size else None)
    with pytest.raises(ValueError, match="a.tar: member .*" + why):
        unpack(tmp_path / "a.tar", tmp_path / "in" / "set", progress=False)
    assert list((tmp_path / "in").iterdir()) == [] and sorted(
        p.name for p in tmp_path.iterdir()
    ) == ["a.tar", "in"]


@pytest.mark.parametrize(
    "name, why",
    [
        ("../escaped.txt", "'..'"),
        ("/tmp/fairgrape-escaped.txt", "absolute"),
        ("a/../../escaped.txt", "'..'"),
    ],
)
def test_zip_members_outside_the_target(tmp_path, name, why):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr("fine.txt", "hi")
        z.writestr(name, "hi")
    with pytest.raises(ValueError, match="a.zip: member .*" + why):
        unpack(tmp_path / "a.zip", tmp_path / "in" / "set", progress=False)
    assert list((tmp_path / "in").iterdir()) == [] and sorted(
        p.name for p in tmp_path.iterdir()
    ) == ["a.zip", "in"]


def test_zip_symlink(tmp_path):
    info = zipfile.ZipInfo("out")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match="link"):
        unpack(tmp_path / "a.zip", tmp_path / "set", progress=False)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("mode, cut", [("w:gz", 0.6), ("w", 0.6)])
def test_archive_cut_short(tmp_path, mode, cut):
    with tarfile.open(tmp_path / "whole", mode) as tar:
        info = tarfile.TarInfo("noise")
        info.size = 100_000
        tar.addfile(info, io.BytesIO(np.random.default_rng(0).bytes(info.size)))
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(ValueError, match="cut.tar: the archive is damaged or incomplete"):
        unpack(tmp_path / "cut.tar", tmp_path / "set", progress=False)
    assert not (tmp_path / "set").exists()


def test_not_an_archive(tmp_path):
    (tmp_path / "page.tar.gz").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="page.tar.gz: neither a tar nor a zip"):
        unpack(tmp_path / "page.tar.gz", tmp_path / "set", progress=False)


def test_foreign_folder_is_not_overwritten(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr("a.txt", "hi")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="was not unpacked from a.zip"):
        unpack(tmp_path / "a.zip", tmp_path / "set", progress=False)
    assert (tmp_path / "set" / "mine.txt").read_text() == "mine"


# Sets


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder or archive.*susanqq"):
        read_dataset("utkface", tmp_path / "nowhere", tmp_path)
    with pytest.raises(FileNotFoundError, match="fairface: none of FairFace.*github.com/joojs"):
        read_dataset("fairface", None, tmp_path)


def test_unknown_set(tmp_path):
    with pytest.raises(
        ValueError, match="unknown dataset 'faces': choose one of synthetic, utkface"
    ):
        read_dataset("faces", None, tmp_path)


def test_misnamed_utkface_files(tmp_path):
    with pytest.warns(
        UserWarning,
        match=(
            "2 files are left out.*39_1_20170116174525125.jpg.chip.jpg,"
            " 61_1_20170109142408075.jpg.chip.jpg"
        ),
    ):
        data = read_utkface(utkface(tmp_path / "UTKFace"), tmp_path, progress=False)
    assert len(data.table) == 12 and data.notes["skipped"] == [
        "39_1_20170116174525125.jpg.chip.jpg",
        "61_1_20170109142408075.jpg.chip.jpg",
    ]


def fairface(
    folder: Path,
    header="file,age,gender,race,service_test",
    row="train/1.jpg,20-29,Male,White,True",
) -> Path:
    for part in ("train", "val"):
        gradient(folder / part / "1.jpg", 1)
        (folder / f"fairface_label_{part}.csv").write_text(
            "file,age,gender,race,service_test\nval/1.jpg,20-29,Male,White,True\n"
        )
    (folder / "fairface_label_train.csv").write_text(f"{header}\n{row}\n")
    return folder


def test_fairface_as_it_should_be(tmp_path):
    assert len(read_fairface(fairface(tmp_path / "f"), tmp_path).table) == 2


@pytest.mark.parametrize(
    "settings, error, message",
    [
        (
            dict(header="file,age,gender,ethnicity,x"),
            ValueError,
            (
                "fairface_label_train.csv: no column 'race': its columns are file, age, gender,"
                " ethnicity, x"
            ),
        ),
        (
            dict(row="train/1.jpg,20-29,Male,Latino Hispanic,True"),
            ValueError,
            (
                "fairface_label_train.csv, line 2, column 'race': 'Latino Hispanic' is not one of"
                " White"
            ),
        ),
        (
            dict(row="train/1.jpg,20-29,male,White,True"),
            ValueError,
            "line 2, column 'gender': 'male' is not one of Male, Female",
        ),
        (
            dict(row="train/1.jpg,03-Sep,Male,White,True"),
            ValueError,
            (
                "train.csv, line 2, column 'age': '03-Sep' is a date: a spreadsheet turned a range"
                " such as '3-9' into it"
            ),
        ),
        (
            dict(row="train/1.jpg,10/19/2026,Male,White,True"),
            ValueError,
            "'10/19/2026' is a date: a spreadsheet .*Take the original CSV",
        ),
        (
            dict(row="train/7.jpg,20-29,Male,White,True"),
            FileNotFoundError,
            "train/7.jpg: the labels name this image, but the file is not there .1 of 2",
        ),
    ],
)
def test_fairface_faults(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        read_fairface(fairface(tmp_path / "f", **settings), tmp_path)


def test_fairface_without_a_csv(tmp_path):
    (fairface(tmp_path / "f") / "fairface_label_val.csv").unlink()
    with pytest.raises(FileNotFoundError, match="fairface_label_val.csv: no such label file"):
        read_fairface(tmp_path / "f", tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "file,age\na.jpg,3-9\nb.jpg,Oct-19\n",
            "labels.csv, line 3, column 'age': 'Oct-19' is a date: a spreadsheet",
        ),
        ("name,age\na.jpg,3-9\n", "no column 'file' .or 'image'.: its columns are name, age"),
        ("image,age\na.jpg,3-9\na.jpg,20-29\n", "labels.csv, line 3: this file already has a row"),
        ("file,age,person\na.jpg,3-9,\n", "labels.csv, line 2, column 'person': no label"),
        ("file,photo\na.jpg,1\n", "no label column besides the file's"),
    ],
)
def test_folder_faults(tmp_path, text, message):
    for name in "ab":
        gradient(tmp_path / f"{name}.jpg", 0)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "file,look,look\na.jpg,dark,light\nb.jpg,dark,dark\n",
            "labels.csv, line 1: the column 'look' appears twice",
        ),
        (
            "file,look\na.jpg,dark,\nb.jpg,dark,\n",
            "labels.csv: not a readable CSV: line 2 has 3 fields, the header 2",
        ),
        ("file,look,tone\na.jpg,dark,1\nb.jpg,dark\n", "line 3 has 2 fields, the header 3"),
        (
            "file,look\na.jpg,dark\nb.jpg,nan\n",
            "line 3, column 'look': no label, 'nan' stands for a missing one .1 such lines",
        ),
        (
            "file,look\na.jpg,None\nb.jpg,dark\n",
            "line 2, column 'look': no label, 'None' stands for",
        ),
        (
            "file,look\na.jpg,#N/A\nb.jpg,dark\n",
            "line 2, column 'look': no label, '#N/A' stands for",
        ),
        (
            "file,look,photo\na.jpg,dark,\nb.jpg,light,\n",
            "line 2, column 'photo': no label, the field is empty .2 such lines",
        ),
        (
            "file,look,person\na.jpg,dark,Ada\nb.jpg,light,nan\n",
            "line 3, column 'person': no label",
        ),
        (
            "file,look\na.jpg,dark\nb.jpg,dark \n",
            "line 3, column 'look': 'dark ' begins or ends with a space",
        ),
        (
            "file,mood\na.jpg,Sad\nb.jpg,sad\n",
            "column 'mood': 'Sad' .1 rows. and 'sad' .1 rows. differ only in spelling",
        ),
        (
            "file,grade\na.jpg,1\nb.jpg,1.0\n",
            "column 'grade': '1' .1 rows. and '1.0' .1 rows. differ only in spelling",
        ),
        ("file,look\na.jpg,dark\n./a.jpg,light\n", "line 3: this file already has a row"),
        (
            "file, look\na.jpg, dark\nb.jpg, light\n",
            "line 1: the column ' look' begins or ends with a space",
        ),
        ("file,a*b\na.jpg,dark\nb.jpg,light\n", "the column 'a.b' has a '.' in its name"),
        ("file,clusters\na.jpg,dark\nb.jpg,light\n", "a label column must not be named 'clusters'"),
    ],
)
def test_labels_that_nobody_meant(tmp_path, text, message):
    for name in "ab":
        gradient(tmp_path / f"{name}.jpg", 0)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_label_named_na_is_said(tmp_path):
    for name in "ab":
        gradient(tmp_path / f"{name}.jpg", 0)
    (tmp_path / "labels.csv").write_text("file,region\na.jpg,NA\nb.jpg,EU\n")
    check = check_dataset("folder", tmp_path, tmp_path, progress=False)
    assert (
        check.sound
        and "column 'region': 'NA' is read as the name of a class (1 images)" in set_text(check)
    )


def test_windows_path(tmp_path):
    gradient(tmp_path / "img" / "a.jpg", 0)
    (tmp_path / "labels.csv").write_text("file,look\nimg\\a.jpg,dark\n")
    with pytest.raises(FileNotFoundError, match="not with a backslash"):
        read_folder(tmp_path)


def test_sixteen_bit_grey_image(tmp_path):
    "Cut off at 255 it would be white; the check and the cache name it."
    gradient(tmp_path / "a.png", 0)
    Image.fromarray((np.arange(48 * 48).reshape(48, 48) * 28).astype(np.uint16)).save(
        tmp_path / "deep.png"
    )
    (tmp_path / "labels.csv").write_text("file,look\na.png,dark\ndeep.png,light\n")
    check = check_dataset("folder", tmp_path, tmp_path, progress=False)
    assert (
        not check.sound
        and list(check.damaged) == ["deep.png"]
        and "more than 8 bits per channel (PIL mode I;16)" in set_text(check)
    )
    with pytest.raises(ValueError, match="deep.png: this image has more than 8 bits"):
        image_cache(check.data, 16, tmp_path / "cache", progress=False)


def test_id_column_is_no_label(tmp_path):
    """2,000 images with an id and a remark: no crossing of thousands of cells, and no class of
    one image.
    """
    rows = "".join(
        f"{i}.jpg,{'dark' if i % 2 else 'light'},id{i},remark {i // 2 if i < 1000 else i}\n"
        for i in range(2000)
    )
    (tmp_path / "labels.csv").write_text("file,look,id,remark\n" + rows)
    for i in range(2000):
        (tmp_path / f"{i}.jpg").touch()
    check = check_dataset("folder", tmp_path, tmp_path, decode=False, progress=False)
    assert list(check.counts.index.get_level_values("label").unique()) == ["look"]
    assert "most images have a different value: id (2,000), remark (1,500)" in set_text(check)
    with pytest.raises(
        ValueError,
        match="no label column 'id' .it is in the table, but holds no classes.: this set has look",
    ):
        codes(check.data.table, "id")


def test_photograph_on_both_sides_of_the_official_split(tmp_path):
    for name in "abc":
        gradient(tmp_path / f"{name}.jpg", ord(name))
    (tmp_path / "labels.csv").write_text(
        "file,look,photo,person,split\n"
        "a.jpg,dark,p1,Ada,train\nb.jpg,light,p1,Bo,test\nc.jpg,light,p2,Ada,val\n"
    )
    text = set_text(check_dataset("folder", tmp_path, tmp_path, progress=False))
    assert (
        "official split, photographs: train 1, val 1, test 1; in more than one part: 1 (p1)" in text
    )
    assert "official split, persons: train 1, val 1, test 1; in more than one part: 1 (Ada)" in text


def test_utkface_in_three_parts(tmp_path):
    whole = utkface(tmp_path / "UTKFace")
    for i, image in enumerate(sorted(whole.iterdir())):
        (tmp_path / "thirds" / f"part{i % 3 + 1}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "thirds" / f"part{i % 3 + 1}" / image.name).write_bytes(image.read_bytes())
    with pytest.warns(UserWarning, match="2 files are left out"):
        thirds = read_utkface(tmp_path / "thirds", tmp_path, progress=False)
    assert len(thirds.table) == 12 and thirds.load(thirds.table, 16).shape == (12, 3, 16, 16)
    again = tmp_path / "thirds" / "crop"
    again.mkdir()
    (again / Path(thirds.table.path[0]).name).write_bytes(b"")
    with pytest.raises(
        ValueError,
        match=(
            "The folders crop, part1, part2, part3 hold copies of one another: give the path of one"
        ),
    ):
        read_utkface(tmp_path / "thirds", tmp_path)


def test_fairface_with_one_file_of_two_labels(tmp_path):
    folder = fairface(tmp_path / "f", row="val/1.jpg,20-29,Male,Black,True")
    with pytest.raises(
        ValueError,
        match=(
            "the labels name val/1.jpg in several rows, with race 'Black' and 'White' .1 such files"
        ),
    ):
        read_fairface(folder, tmp_path)
    same = fairface(tmp_path / "same", row="val/1.jpg,20-29,Male,White,True")
    text = set_text(check_dataset("fairface", same, tmp_path, progress=False))
    assert (
        "named twice by the labels: 1 val/1.jpg" in text
        and "official split, photographs: train 1, val 0, test 1;"
        " in more than one part: 1 (val/1.jpg)"
        in text
    )


# Parts of sets


def test_fairface_with_train_only(tmp_path):
    (fairface(tmp_path / "f") / "fairface_label_val.csv").unlink()
    with pytest.raises(
        FileNotFoundError, match="fairface_label_val.csv: no such label file.*partial = True"
    ):
        read_fairface(tmp_path / "f", tmp_path)
    check = check_dataset("fairface", tmp_path / "f", tmp_path, progress=False)
    assert (
        not check.sound
        and "rows" not in set_text(check).splitlines()[-1]
        and "partial = True" in set_text(check)
    )
    check = check_dataset("fairface", tmp_path / "f", tmp_path, progress=False, partial=True)
    assert (
        check.sound
        and "uses what is there: 1 of 1 images, without fairface_label_val.csv" in set_text(check)
    )


def test_run_on_a_part_of_celeba(tmp_path):
    """The images that are there, with label files of the whole set; and a run's name says
    nothing of it where all are there.
    """
    celeba, places = (
        write_celeba(tmp_path / "CelebA", 120),
        dict(
            data_root=tmp_path,
            runs_root=tmp_path / "runs",
            cache_root=tmp_path / "cache",
            progress=False,
        ),
    )
    plain = Settings(
        dataset="celeba",
        task="Smiling",
        groups="gender",
        network="resnet10",
        weights="none",
        image_size=32,
    )
    whole = prepare(plain, **places)
    for image in sorted(celeba.rglob("*.jpg"))[:30]:
        image.unlink()
    for settings in (plain, replace(plain, limit=85)):
        with pytest.raises(FileNotFoundError, match=r"30 of 120 are missing\).*partial = True"):
            prepare(settings, **places)
    with pytest.warns(UserWarning, match="celeba: partial = True, the run uses 90 of 120 images"):
        part = prepare(replace(plain, partial=True), **places)
    assert len(part.table) == 90 and run_folder(part) != run_folder(whole)
    with pytest.warns(UserWarning):
        assert len(prepare(replace(plain, partial=True, limit=85), **places).table) == 85
    for image in celeba.rglob("*.jpg"):
        image.unlink()
    with pytest.raises(ValueError, match="none of the images"):
        prepare(replace(plain, partial=True), **places)


def test_misspelt_column_is_found_before_the_set_is_looked_for(tmp_path):
    for wrong in (
        dict(task="smilling"),
        dict(groups="gender*Balt"),
        dict(classes="gender=Man"),
        dict(task="Smiling", groups="gender", importance_on="Bald=si"),
    ):
        with pytest.raises(ValueError, match="no label column|has no class"):
            prepare(
                Settings(**dict(dataset="celeba", task="attributes", groups="gender") | wrong),
                data_root=tmp_path,
            )


# Squares


@pytest.mark.parametrize("fit", ["crop", "squeeze", "pad"])
def test_fit_of_rectangles(tmp_path, fit):
    """A red head, a green middle and a blue neck on 20 × 40 pixels: only the crop loses both
    ends, only the padding has bars.
    """
    colours = np.repeat(
        np.uint8([[[255, 0, 0]], [[0, 255, 0]], [[0, 255, 0]], [[0, 0, 255]]]), 10, 0
    )
    Image.fromarray(np.repeat(colours, 20, 1)).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("file,look\na.png,dark\n")
    data = read_dataset("folder", tmp_path, tmp_path, progress=False, fit=fit)
    pixels = np.array(image_cache(data, 16, tmp_path / "cache", progress=False))[0].astype(int)
    top, middle, side = pixels[:, 0, 8], pixels[:, 8, 8], pixels[:, 8, 0]
    assert (
        middle.argmax() == 1
        and (top.argmax() == 0) == (fit != "crop")
        and (side.sum() == 0) == (fit == "pad")
    )
    usual = image_cache(
        read_dataset("folder", tmp_path, tmp_path, progress=False),
        16,
        tmp_path / "cache",
        progress=False,
    )
    assert (pixels == usual[0]).all() == (fit == "crop") and len(caches(tmp_path / "cache")) == (
        2 if fit == "crop" else 4
    )


def test_runs_keep_their_names_where_the_fit_is_the_usual_one():
    known = identity(Settings(dataset="celeba", task="attributes", groups="gender"))
    assert (
        "fit" not in known
        and "partial" not in known
        and identity(Settings(fit="pad"))["fit"] == "pad"
    )
    assert (
        protocol("celeba")[0]["fit"] == protocol("people")[0]["fit"] == "squeeze"
        and "fit" not in protocol("utkface")[0]
    )


def test_folder_without_persons_cannot_be_split_by_person(tmp_path):
    gradient(tmp_path / "a.jpg", 0)
    (tmp_path / "labels.csv").write_text("file,age\na.jpg,3-9\n")
    with pytest.raises(
        ValueError, match="does not say who is in an image .no column 'person'.: use split='photo'"
    ):
        split_table(read_folder(tmp_path).table, "person")


def test_folder_with_one_class_is_read(tmp_path):
    for name in "ab":
        gradient(tmp_path / f"{name}.jpg", 0)
    (tmp_path / "mine.csv").write_text("image,age\na.jpg,3-9\nb.jpg,3-9\n")
    # who groups by it is told by the run
    assert codes(read_folder(tmp_path / "mine.csv").table, "age")[1] == ["3-9"]


def test_folder_whose_csv_is_no_text(tmp_path):
    gradient(tmp_path / "a.jpg", 0)
    (tmp_path / "a.jpg").rename(tmp_path / "labels.csv")
    with pytest.raises(ValueError, match="labels.csv: "):
        read_folder(tmp_path)


def test_group_without_an_image_in_a_split(faces):
    four = drop_classes(faces.table, "race", ["Others"])
    split = split_table(four)
    with pytest.raises(
        ValueError,
        match="race '.*' has no image in (train|val|test) .of 3 in all.: use more images",
    ):
        check_cells(four, split, "race")


# The cache


def test_truncated_jpeg(faces, tmp_path):
    victim = faces.root / faces.table.path[7]
    victim.write_bytes(victim.read_bytes()[: len(victim.read_bytes()) // 2])
    with pytest.raises(
        ValueError,
        match=f"{victim.name}: this image cannot be decoded .*[Tt]runcated.*Fetch it again",
    ):
        image_cache(faces, 32, tmp_path / "cache", progress=False)
    assert caches(tmp_path / "cache") == []


def test_image_that_is_text(faces, tmp_path):
    (faces.root / faces.table.path[3]).write_text("<html>")
    with pytest.raises(ValueError, match="cannot be decoded"):
        image_cache(faces, 32, tmp_path / "cache", progress=False)
    assert caches(tmp_path / "cache") == []


@pytest.fixture
def small_disk(tmp_path):
    "A file system of 64 kB, where one may be mounted."
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True
        ).returncode
    ):
        pytest.skip(
            "no small file system can be mounted here (needs root): the simulated full disk is"
            " tested below"
        )
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk(faces, small_disk):
    with pytest.raises(
        OSError,
        match=(
            r"the image cache cannot be written to .*disk \(No space left on device\); it needs"
            r" 147,456 bytes and [\d,]+ are free"
        ),
    ) as e:
        image_cache(faces, 64, small_disk, progress=False)
    assert e.value.errno == errno.ENOSPC and caches(small_disk) == []
    # a smaller one fits
    assert image_cache(faces, 16, small_disk, progress=False).shape == (12, 3, 16, 16)


@pytest.mark.parametrize("when", ["reserve", "write"])
def test_simulated_full_disk(faces, tmp_path, monkeypatch, when):
    "The disk fills up when the room is reserved, or (another writer took it) halfway through."

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if when == "reserve":
        monkeypatch.setattr(cache, "_reserve", full)
    else:
        chunks = cache._chunks

        def half(*args, **kwargs):
            yield next(chunks(*args, **kwargs))[:5]
            full()

        monkeypatch.setattr(cache, "_chunks", half)
    with pytest.raises(
        OSError,
        match="it needs 36,864 bytes and .* are free: free some space, use a smaller image_size",
    ):
        image_cache(faces, 32, tmp_path / "cache", progress=False)
    assert caches(tmp_path / "cache") == []
    monkeypatch.undo()
    # and then it goes on
    assert (
        image_cache(faces, 32, tmp_path / "cache", progress=False) == faces.load(faces.table, 32)
    ).all()


def test_unwritable_folder(faces, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(
        PermissionError, match="cannot be written to .*cache.*choose a folder that you may write to"
    ):
        image_cache(faces, 32, tmp_path / "cache", progress=False)


def test_cache_folder_below_a_file(faces, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="cannot be written to .*file/cache"):
        image_cache(faces, 32, tmp_path / "file" / "cache", progress=False)


WRITER = """
    import sys, time
    from dataclasses import replace
    from pathlib import Path
    import warnings; warnings.simplefilter("ignore")
    from fairgrape.data.cache import image_cache
    from fairgrape.data.readers import read_utkface
    root = Path(sys.argv[1])
    data = read_utkface(root/"UTKFace", root, progress=False)
    def slow(rows, size):
        (root/"started").touch()
        time.sleep(3600)                # until it is killed
    image_cache(replace(data, load=slow), 32, root/"cache", progress=False)
"""


def test_killed_writer_leaves_nothing_usable(faces, tmp_path):
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)]) as writer:
        end = time.monotonic() + 900
        while (
            not (tmp_path / "started").exists() and writer.poll() is None and time.monotonic() < end
        ):
            time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
    assert (tmp_path / "started").exists()
    left = caches(tmp_path / "cache")
    assert len(left) == 1 and left[0].endswith(".part")  # full size, but under another name
    pixels = image_cache(faces, 32, tmp_path / "cache", progress=False)
    assert (pixels == faces.load(faces.table, 32)).all()
    # and it is cleared away
    assert not any(name.endswith(".part") for name in caches(tmp_path / "cache"))


def test_damaged_cache_is_written_again(faces, tmp_path):
    good = np.array(image_cache(faces, 32, tmp_path / "cache", progress=False))
    path = next((tmp_path / "cache").glob("*.u8"))
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(bytes([good.flat[1000] ^ 255]))
    with pytest.warns(UserWarning, match="checksum is wrong"):
        again = image_cache(faces, 32, tmp_path / "cache", progress=False)
    assert (again == good).all()
    os.truncate(path, 1000)
    assert (
        open_cache(path) is None
        and (image_cache(faces, 32, tmp_path / "cache", progress=False) == good).all()
    )
    path.with_suffix(".json").write_text(json.dumps(dict(shape=[99, 3, 32, 32], crc32=0)))
    assert open_cache(path) is None


@pytest.mark.filterwarnings("ignore:UTKFace")
def test_changed_source_file_is_decoded_again(faces, tmp_path):
    old = np.array(image_cache(faces, 32, tmp_path / "cache", progress=False))
    victim = faces.root / faces.table.path[0]
    gradient(victim, 99)
    os.utime(victim, ns=(victim.stat().st_atime_ns, victim.stat().st_mtime_ns + 10**9))
    now = read_utkface(faces.root, tmp_path, progress=False)
    assert now.key != faces.key
    new = image_cache(now, 32, tmp_path / "cache", progress=False)
    assert (
        (new[0] != old[0]).any()
        and (new[1:] == old[1:]).all()
        and len(list((tmp_path / "cache").glob("*.u8"))) == 2
    )


def test_cache_does_not_depend_on_threads(faces, tmp_path):
    one = image_cache(faces, 40, tmp_path / "one", progress=False, threads=1)
    four = image_cache(faces, 40, tmp_path / "four", progress=False, threads=4)
    assert (one == four).all() and [p.name for p in (tmp_path / "one").glob("*.u8")] == [
        p.name for p in (tmp_path / "four").glob("*.u8")
    ]


def test_loader_that_gives_too_little(faces, tmp_path):
    with pytest.raises(ValueError, match="its loader gave"):
        image_cache(
            replace(faces, load=lambda rows, size: faces.load(rows[:-1], size)),
            32,
            tmp_path / "cache",
            progress=False,
        )
    assert caches(tmp_path / "cache") == []


# Label files that name images elsewhere


@pytest.mark.parametrize(
    "outside", ["/etc/hostname", "../secret.jpg", "a/../../secret.jpg", "C:\\secret.jpg"]
)
@pytest.mark.parametrize("dataset", ["folder", "fairface", "people"])
def test_a_label_file_cannot_reach_out_of_its_folder(tmp_path, dataset, outside):
    "The file outside is there and would decode: it must be refused for where it lies"
    gradient(tmp_path / "secret.jpg", 0)
    gradient(tmp_path / "set" / "train" / "1.jpg", 1)
    home = tmp_path / "set"
    head, row = dict(
        folder=("file,mood", "{},glad"),
        fairface=("file,age,gender,race,service_test", "{},20-29,Male,Black,False"),
        people=("file,class,gender", "{},cook,female"),
    )[dataset]
    text = "\n".join([head, row.format("train/1.jpg"), row.format(outside), ""])
    for name in dict(
        folder=["labels.csv"],
        fairface=["fairface_label_train.csv", "fairface_label_val.csv"],
        people=["people.csv"],
    )[dataset]:
        (home / name).write_text(text)
    with pytest.raises(ValueError, match="must be relative to"):
        read_dataset(
            dataset, home / "people.csv" if dataset == "people" else home, tmp_path, progress=False
        )
