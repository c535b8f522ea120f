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
from PIL import Image

from fairgrape import cache
from fairgrape.cache import image_cache, open_cache
from fairgrape.data import check_cells, codes, drop_classes, split_table
from fairgrape.datasets import read_dataset
from fairgrape.readers import read_fairface, read_folder, read_utkface, unpack

def gradient(path: Path, seed: int, size: int = 48):
    "A small JPEG of a random colour gradient."
    a, b = np.random.default_rng(seed).integers(0, 256, (2, 1, 1, 3))
    t = np.linspace(0, 1, size)[:, None, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(a + (b - a) * t, (size, size, 3)).astype(np.uint8)).save(path)

def utkface(folder: Path, n: int = 12) -> Path:
    "A set in UTKFace's layout: races 0 … 3 in turn, and two names without a race."
    for i in range(n): gradient(folder/f"{20 + i}_{i % 2}_{i % 4}_2017010100000{i:04d}.jpg.chip.jpg", i)
    for name in ("61_1_20170109142408075.jpg.chip.jpg", "39_1_20170116174525125.jpg.chip.jpg"): gradient(folder/name, 0)
    return folder

@pytest.fixture
def faces(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_utkface(utkface(tmp_path/"UTKFace"), tmp_path, progress=False)

def caches(folder: Path) -> list[str]:
    "All that a writer left in a cache folder, but the lock."
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock") if folder.is_dir() else []

# Archives

def member(name: str, kind=tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 2 if kind == tarfile.REGTYPE else 0
    return info

@pytest.mark.parametrize("bad, why", [
    (member("../escaped.txt"), "'..'"), (member("set/../../escaped.txt"), "'..'"), (member("..\\escaped.txt"), "'..'"),
    (member("/tmp/fairgrape-escaped.txt"), "absolute"), (member("C:\\escaped.txt"), "absolute"),
    (member("out", tarfile.SYMTYPE, "/etc"), "link"), (member("out", tarfile.SYMTYPE, "../.."), "link"), (member("hard", tarfile.LNKTYPE, "../escaped.txt"), "link"),
    (member("pipe", tarfile.FIFOTYPE), "special"),
], ids=lambda v: v.name if isinstance(v, tarfile.TarInfo) else "")
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tar_members_outside_the_target(tmp_path, bad, why, mode):
    with tarfile.open(tmp_path/"a.tar", mode) as tar:
        for info in (member("fine.txt"), bad): tar.addfile(info, io.BytesIO(b"hi") if info.size else None)
    with pytest.raises(ValueError, match="a.tar: member .*" + why): unpack(tmp_path/"a.tar", tmp_path/"in"/"set", progress=False)
    assert list((tmp_path/"in").iterdir()) == [] and sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "in"]

@pytest.mark.parametrize("name, why", [("../escaped.txt", "'..'"), ("/tmp/fairgrape-escaped.txt", "absolute"), ("a/../../escaped.txt", "'..'")])
def test_zip_members_outside_the_target(tmp_path, name, why):
    with zipfile.ZipFile(tmp_path/"a.zip", "w") as z:
        z.writestr("fine.txt", "hi")
        z.writestr(name, "hi")
    with pytest.raises(ValueError, match="a.zip: member .*" + why): unpack(tmp_path/"a.zip", tmp_path/"in"/"set", progress=False)
    assert list((tmp_path/"in").iterdir()) == [] and sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "in"]

def test_zip_symlink(tmp_path):
    info = zipfile.ZipInfo("out"); info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path/"a.zip", "w") as z: z.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match="link"): unpack(tmp_path/"a.zip", tmp_path/"set", progress=False)
    assert not (tmp_path/"set").exists()

@pytest.mark.parametrize("mode, cut", [("w:gz", .6), ("w", .6)])
def test_archive_cut_short(tmp_path, mode, cut):
    with tarfile.open(tmp_path/"whole", mode) as tar:
        info = tarfile.TarInfo("noise"); info.size = 100_000
        tar.addfile(info, io.BytesIO(np.random.default_rng(0).bytes(info.size)))
    whole = (tmp_path/"whole").read_bytes()
    (tmp_path/"cut.tar").write_bytes(whole[:int(cut * len(whole))])
    with pytest.raises(ValueError, match="cut.tar: the archive is damaged or not complete"): unpack(tmp_path/"cut.tar", tmp_path/"set", progress=False)
    assert not (tmp_path/"set").exists()

def test_not_an_archive(tmp_path):
    (tmp_path/"page.tar.gz").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="page.tar.gz: neither a tar nor a zip"): unpack(tmp_path/"page.tar.gz", tmp_path/"set", progress=False)

def test_foreign_folder_is_not_overwritten(tmp_path):
    with zipfile.ZipFile(tmp_path/"a.zip", "w") as z: z.writestr("a.txt", "hi")
    (tmp_path/"set").mkdir(); (tmp_path/"set"/"mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="was not unpacked from a.zip"): unpack(tmp_path/"a.zip", tmp_path/"set", progress=False)
    assert (tmp_path/"set"/"mine.txt").read_text() == "mine"

# Sets

def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder or archive.*susanqq"): read_dataset("utkface", tmp_path/"nowhere", tmp_path)
    with pytest.raises(FileNotFoundError, match="fairface: none of FairFace.*github.com/joojs"): read_dataset("fairface", None, tmp_path)

def test_unknown_set(tmp_path):
    with pytest.raises(ValueError, match="unknown dataset 'faces': choose one of synthetic, utkface"): read_dataset("faces", None, tmp_path)

def test_misnamed_utkface_files(tmp_path):
    with pytest.warns(UserWarning, match="2 files are left out.*39_1_20170116174525125.jpg.chip.jpg, 61_1_20170109142408075.jpg.chip.jpg"):
        data = read_utkface(utkface(tmp_path/"UTKFace"), tmp_path, progress=False)
    assert len(data.table) == 12 and data.notes["skipped"] == ["39_1_20170116174525125.jpg.chip.jpg", "61_1_20170109142408075.jpg.chip.jpg"]

def fairface(folder: Path, header="file,age,gender,race,service_test", row="train/1.jpg,20-29,Male,White,True") -> Path:
    for part in ("train", "val"):
        gradient(folder/part/"1.jpg", 1)
        (folder/f"fairface_label_{part}.csv").write_text("file,age,gender,race,service_test\nval/1.jpg,20-29,Male,White,True\n")
    (folder/"fairface_label_train.csv").write_text(f"{header}\n{row}\n")
    return folder

def test_fairface_as_it_should_be(tmp_path):
    assert len(read_fairface(fairface(tmp_path/"f"), tmp_path).table) == 2

@pytest.mark.parametrize("settings, error, message", [
    (dict(header="file,age,gender,ethnicity,x"), ValueError, "fairface_label_train.csv: no column 'race': its columns are file, age, gender, ethnicity, x"),
    (dict(row="train/1.jpg,20-29,Male,Latino Hispanic,True"), ValueError, "fairface_label_train.csv, line 2, column 'race': 'Latino Hispanic' is not one of White"),
    (dict(row="train/1.jpg,20-29,male,White,True"), ValueError, "line 2, column 'gender': 'male' is not one of Male, Female"),
    (dict(row="train/1.jpg,03-Sep,Male,White,True"), ValueError, "train.csv, line 2, column 'age': '03-Sep' is a date: a spreadsheet turned a range such as '3-9' into it"),
    (dict(row="train/1.jpg,10/19/2026,Male,White,True"), ValueError, "'10/19/2026' is a date: a spreadsheet .*Take the original CSV"),
    (dict(row="train/7.jpg,20-29,Male,White,True"), FileNotFoundError, "train/7.jpg: the labels name this image, but the file is not there .1 of 2"),
])
def test_fairface_faults(tmp_path, settings, error, message):
    with pytest.raises(error, match=message): read_fairface(fairface(tmp_path/"f", **settings), tmp_path)

def test_fairface_without_a_csv(tmp_path):
    (fairface(tmp_path/"f")/"fairface_label_val.csv").unlink()
    with pytest.raises(FileNotFoundError, match="fairface_label_val.csv: no such label file"): read_fairface(tmp_path/"f", tmp_path)

@pytest.mark.parametrize("text, message", [
    ("file,age\na.jpg,3-9\nb.jpg,Oct-19\n", "labels.csv, line 3, column 'age': 'Oct-19' is a date: a spreadsheet"),
    ("name,age\na.jpg,3-9\n", "no column 'file' .or 'image'.: its columns are name, age"),
    ("image,age\na.jpg,3-9\na.jpg,20-29\n", "labels.csv, line 3: this file has a row already"),
    ("file,age,person\na.jpg,3-9,\n", "labels.csv, line 2, column 'person': no label"),
    ("file,photo\na.jpg,1\n", "no label column beside the file's"),
])
def test_folder_faults(tmp_path, text, message):
    for name in "ab": gradient(tmp_path/f"{name}.jpg", 0)
    (tmp_path/"labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message): read_folder(tmp_path)

def test_folder_without_persons_cannot_be_split_by_person(tmp_path):
    gradient(tmp_path/"a.jpg", 0)
    (tmp_path/"labels.csv").write_text("file,age\na.jpg,3-9\n")
    with pytest.raises(ValueError, match="does not say who is on an image .no column 'person'.: use split='photo'"): split_table(read_folder(tmp_path).table, "person")

def test_folder_with_one_class_is_read(tmp_path):
    for name in "ab": gradient(tmp_path/f"{name}.jpg", 0)
    (tmp_path/"mine.csv").write_text("image,age\na.jpg,3-9\nb.jpg,3-9\n")
    assert codes(read_folder(tmp_path/"mine.csv").table, "age")[1] == ["3-9"]              # who groups by it is told by the run

def test_folder_whose_csv_is_no_text(tmp_path):
    gradient(tmp_path/"a.jpg", 0); (tmp_path/"a.jpg").rename(tmp_path/"labels.csv")
    with pytest.raises(ValueError, match="labels.csv: "): read_folder(tmp_path)

def test_group_without_an_image_in_a_split(faces):
    four = drop_classes(faces.table, "race", ["Others"])
    split = split_table(four)
    with pytest.raises(ValueError, match="race '.*' has no image in (train|val|test) .of 3 in all.: use more images"): check_cells(four, split, "race")

# The cache

def test_truncated_jpeg(faces, tmp_path):
    victim = faces.root/faces.table.path[7]
    victim.write_bytes(victim.read_bytes()[:len(victim.read_bytes())//2])
    with pytest.raises(ValueError, match=f"{victim.name}: this image cannot be decoded .*[Tt]runcated.*Fetch it again"):
        image_cache(faces, 32, tmp_path/"cache", progress=False)
    assert caches(tmp_path/"cache") == []

def test_image_that_is_text(faces, tmp_path):
    (faces.root/faces.table.path[3]).write_text("<html>")
    with pytest.raises(ValueError, match="cannot be decoded"): image_cache(faces, 32, tmp_path/"cache", progress=False)
    assert caches(tmp_path/"cache") == []

@pytest.fixture
def small_disk(tmp_path):
    "A file system of 64 kB, where one may be mounted."
    disk = tmp_path/"disk"; disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here (needs root): the simulated full disk is tested below")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)

def test_full_disk(faces, small_disk):
    with pytest.raises(OSError, match=r"the image cache cannot be written to .*disk \(No space left on device\); it needs 147,456 bytes and [\d,]+ are free") as e:
        image_cache(faces, 64, small_disk, progress=False)
    assert e.value.errno == errno.ENOSPC and caches(small_disk) == []
    assert image_cache(faces, 16, small_disk, progress=False).shape == (12, 3, 16, 16)     # a smaller one fits

@pytest.mark.parametrize("when", ["reserve", "write"])
def test_simulated_full_disk(faces, tmp_path, monkeypatch, when):
    "The disk fills up when the room is reserved, or (another writer took it) halfway through."
    def full(*args): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if when == "reserve": monkeypatch.setattr(cache, "_reserve", full)
    else:
        chunks = cache._chunks
        def half(*args, **kwargs): yield next(chunks(*args, **kwargs))[:5]; full()
        monkeypatch.setattr(cache, "_chunks", half)
    with pytest.raises(OSError, match="it needs 36,864 bytes and .* are free: free some, use a smaller image_size"): image_cache(faces, 32, tmp_path/"cache", progress=False)
    assert caches(tmp_path/"cache") == []
    monkeypatch.undo()
    assert (image_cache(faces, 32, tmp_path/"cache", progress=False) == faces.load(faces.table, 32)).all()   # and then it goes on

def test_unwritable_folder(faces, tmp_path):
    if os.geteuid() == 0: pytest.skip("root may write everywhere")
    (tmp_path/"cache").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="cannot be written to .*cache.*choose a folder that you may write to"):
        image_cache(faces, 32, tmp_path/"cache", progress=False)

def test_cache_folder_below_a_file(faces, tmp_path):
    (tmp_path/"file").write_text("")
    with pytest.raises(NotADirectoryError, match="cannot be written to .*file/cache"): image_cache(faces, 32, tmp_path/"file"/"cache", progress=False)

WRITER = """
    import sys, time
    from dataclasses import replace
    from pathlib import Path
    import warnings; warnings.simplefilter("ignore")
    from fairgrape.cache import image_cache
    from fairgrape.readers import read_utkface
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
        while not (tmp_path/"started").exists() and writer.poll() is None and time.monotonic() < end: time.sleep(.05)
        writer.send_signal(signal.SIGKILL)
    assert (tmp_path/"started").exists()
    left = caches(tmp_path/"cache")
    assert len(left) == 1 and left[0].endswith(".part")                                     # full size, but under another name
    pixels = image_cache(faces, 32, tmp_path/"cache", progress=False)
    assert (pixels == faces.load(faces.table, 32)).all()
    assert not any(name.endswith(".part") for name in caches(tmp_path/"cache"))             # and it is cleared away

def test_damaged_cache_is_written_again(faces, tmp_path):
    good = np.array(image_cache(faces, 32, tmp_path/"cache", progress=False))
    path = next((tmp_path/"cache").glob("*.u8"))
    with open(path, "r+b") as file: file.seek(1000); file.write(bytes([good.flat[1000] ^ 255]))
    with pytest.warns(UserWarning, match="checksum is wrong"): again = image_cache(faces, 32, tmp_path/"cache", progress=False)
    assert (again == good).all()
    os.truncate(path, 1000)
    assert open_cache(path) is None and (image_cache(faces, 32, tmp_path/"cache", progress=False) == good).all()
    path.with_suffix(".json").write_text(json.dumps(dict(shape=[99, 3, 32, 32], crc32=0)))
    assert open_cache(path) is None

@pytest.mark.filterwarnings("ignore:UTKFace")
def test_changed_source_file_is_decoded_again(faces, tmp_path):
    old = np.array(image_cache(faces, 32, tmp_path/"cache", progress=False))
    victim = faces.root/faces.table.path[0]
    gradient(victim, 99)
    os.utime(victim, ns=(victim.stat().st_atime_ns, victim.stat().st_mtime_ns + 10**9))
    now = read_utkface(faces.root, tmp_path, progress=False)
    assert now.key != faces.key
    new = image_cache(now, 32, tmp_path/"cache", progress=False)
    assert (new[0] != old[0]).any() and (new[1:] == old[1:]).all() and len(list((tmp_path/"cache").glob("*.u8"))) == 2

def test_cache_does_not_depend_on_threads(faces, tmp_path):
    one = image_cache(faces, 40, tmp_path/"one", progress=False, threads=1)
    four = image_cache(faces, 40, tmp_path/"four", progress=False, threads=4)
    assert (one == four).all() and [p.name for p in (tmp_path/"one").glob("*.u8")] == [p.name for p in (tmp_path/"four").glob("*.u8")]

def test_loader_that_gives_too_little(faces, tmp_path):
    with pytest.raises(ValueError, match="its loader gave"):
        image_cache(replace(faces, load=lambda rows, size: faces.load(rows[:-1], size)), 32, tmp_path/"cache", progress=False)
    assert caches(tmp_path/"cache") == []

# Label files that name images elsewhere

@pytest.mark.parametrize("outside", ["/etc/hostname", "../secret.jpg", "a/../../secret.jpg", "C:\\secret.jpg"])
@pytest.mark.parametrize("dataset", ["folder", "fairface", "people"])
def test_a_label_file_cannot_reach_out_of_its_folder(tmp_path, dataset, outside):
    "The file outside is there and would decode: it must be refused for where it lies"
    gradient(tmp_path/"secret.jpg", 0); gradient(tmp_path/"set"/"train"/"1.jpg", 1)
    home = tmp_path/"set"
    head, row = dict(folder=("file,mood", "{},glad"), fairface=("file,age,gender,race,service_test", "{},20-29,Male,Black,False"), people=("file,class,gender", "{},cook,female"))[dataset]
    text = "\n".join([head, row.format("train/1.jpg"), row.format(outside), ""])
    for name in dict(folder=["labels.csv"], fairface=["fairface_label_train.csv", "fairface_label_val.csv"], people=["people.csv"])[dataset]: (home/name).write_text(text)
    with pytest.raises(ValueError, match="must be relative to"): read_dataset(dataset, home/"people.csv" if dataset == "people" else home, tmp_path, progress=False)
