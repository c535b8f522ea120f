# %% [markdown]
# # FairFace from the hub
#
# > Convert a Hugging Face copy of FairFace, parquet or arrow, into the official layout, once

# %%
#| default_exp data.fairface_hub

# %%
#| export
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from fairgrape.data.archives import make_once

# %%
import io
import tempfile

from PIL import Image

tmp = Path(tempfile.mkdtemp())


# an error without the temporary folder's name
def say(error):
    print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")


# %% [markdown]
# FairFace is also distributed as a Hugging Face `datasets` copy: parquet shards as on the hub, or
# the arrow folders that `save_to_disk` makes. These hold the pictures' bytes, and labels as
# *numbers*. Their race 0 is East Asian, where other copies have White. The schema of each file
# gives the names of the numbers. Labels are read through those names, and numbers without names are
# refused.

# %%
#| export
FAIRFACE = dict(
    age=["0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"],
    gender=["Male", "Female"],
    race=[
        "White",
        "Black",
        "Latino_Hispanic",
        "East Asian",
        "Southeast Asian",
        "Indian",
        "Middle Eastern",
    ],
)


def _class_names(
    schema: pa.Schema,  # Of a parquet or arrow file
) -> dict[str, list[str]]:  # By column, the name of each number; empty if the file has none
    """The names of the integer labels of a Hugging Face file. Source: the schema's metadata, key
    'huggingface'.
    """
    said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = said.get("info", {}).get("features", {})
    return {
        column: list(f["names"])
        for column, f in features.items()
        if isinstance(f, dict) and "names" in f
    }


# %%
hub = dict(
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
labelled = {c: dict(names=names, _type="ClassLabel") for c, names in hub.items()}
metadata = {
    "huggingface": json.dumps(dict(info=dict(features=dict(image=dict(_type="Image"), **labelled))))
}
image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
schema = pa.schema(
    [("image", image_type), *[(c, pa.int64()) for c in hub], ("service_test", pa.bool_())], metadata
)
_class_names(schema)["race"]

# %%
assert _class_names(schema) == hub and _class_names(schema.remove_metadata()) == {}

# %% [markdown]
# The part of a file is in its name (`train-00000-of-00002.parquet`) or in that of its folder
# (`validation/data-00000-of-00001.arrow`). The hub has one folder for each margin; a mixture of two
# would hold every face twice.

# %%
#| export
_PART = re.compile(r"(?:^|[-_.])(train|val)(?:idation)?(?:[-_.]|$)")


def _find_shards(
    root: Path,  # A folder
    # The files of 'train' and 'val', in order; empty if there is no such copy
) -> dict[str, list[Path]]:
    """The parquet or arrow files of a Hugging Face copy. Raises: ValueError (two editions side
    by side).
    """
    found = {}
    files = [*root.rglob("*.parquet"), *root.rglob("*.arrow")]
    for file in sorted(f for f in files if not f.name.startswith(("cache-", "."))):
        if match := _PART.search(file.stem) or _PART.search(file.parent.name):
            found.setdefault(match[1], []).append(file)
    for part, files in found.items():
        if len(folders := sorted({f.parent.relative_to(root).as_posix() for f in files})) > 1:
            raise ValueError(
                f"{root}: several copies of the part {part!r}, in {' and '.join(folders)}: give the"
                " folder of one"
            )
    return found


# %%
for name in [
    "0.25/train-00000-of-00002-d4.parquet",
    "0.25/train-00001-of-00002-dd.parquet",
    "0.25/validation-00000-of-00001-95.parquet",
    "saved/train/data-00000-of-00001.arrow",
    "saved/train/cache-12.arrow",
    "saved/validation/data-00000-of-00001.arrow",
]:
    (tmp / "shards" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp / "shards" / name).touch()
print({part: [f.name for f in files] for part, files in _find_shards(tmp / "shards/saved").items()})
assert [f.name[:11] for f in _find_shards(tmp / "shards/0.25")["train"]] == [
    "train-00000",
    "train-00001",
]
assert [f.parent.name for f in _find_shards(tmp / "shards/saved")["val"]] == [
    "validation"
] and _find_shards(tmp / "data") == {}
try:
    _find_shards(tmp / "shards")
except ValueError as e:
    say(e)
else:
    raise AssertionError("two editions were read as one")


# %% [markdown]
# The pictures and the label CSVs are written once, in the layout of the official set. The copy then
# goes through the same reader, checks and cache as an official set.

# %% [markdown]
# ## Rows
#
# A shard holds thousands of pictures, so it is read in batches of rows. Arrow has two file formats,
# one with an index at its end and a plain stream. `save_to_disk` has written both, with the same
# suffix. The first six bytes tell them apart.

# %%
#| export
def _arrow_batches(file: Path) -> Iterator[pa.RecordBatch]:
    "The rows of an arrow file of either kind, in the batches in which they were written."
    with pa.memory_map(str(file)) as source:
        if source.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            source.seek(0)
            yield from pa.ipc.open_stream(source)


# %%
numbers = pa.table(dict(n=list(range(600))))
for name, new in (("index.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
    with new(tmp / name, numbers.schema) as writer:
        writer.write_table(numbers, max_chunksize=400)
[batch.num_rows for batch in _arrow_batches(tmp / "index.arrow")]

# %%
for name in ("index.arrow", "stream.arrow"):
    assert [n for batch in _arrow_batches(tmp / name) for n in batch["n"].to_pylist()] == list(
        range(600)
    )


# %%
#| export
def _record_batches(file: Path) -> Iterator[pa.RecordBatch]:
    "The rows of a parquet or arrow file, in batches. Raises: ValueError (damaged)."
    try:
        if file.suffix == ".parquet":
            yield from pq.ParquetFile(file).iter_batches(256)
        else:
            yield from _arrow_batches(file)
    except pa.ArrowInvalid as e:
        raise ValueError(
            f"{file}: damaged, or not a {file.suffix} file ({e}): fetch it again"
        ) from e


# %%
pq.write_table(numbers, tmp / "numbers.parquet")
(tmp / "cut.parquet").write_bytes((tmp / "numbers.parquet").read_bytes()[:100])
(tmp / "cut.arrow").write_bytes((tmp / "index.arrow").read_bytes()[:100])
[batch.num_rows for batch in _record_batches(tmp / "numbers.parquet")]

# %%
for name in ("numbers.parquet", "stream.arrow"):
    assert [n for batch in _record_batches(tmp / name) for n in batch["n"].to_pylist()] == list(
        range(600)
    )
assert max(batch.num_rows for batch in _record_batches(tmp / "numbers.parquet")) == 256
for name in ("cut.parquet", "cut.arrow"):
    try:
        list(_record_batches(tmp / name))
    except ValueError as e:
        say(e)
    else:
        raise AssertionError("a damaged file was read")


# %% [markdown]
# A label by its name. In such files −1 and null both mean "not labelled", and neither must become a
# name: Python would read −1 as the last one.

# %%
#| export
def _label(
    file: Path, row: int, column: str, value: int | str | None, names: dict[str, list[str]]
) -> str:
    "One label by its name."
    if isinstance(value, str):
        return value
    if column not in names:
        raise ValueError(
            f"{file}, column {column!r}: the label is a number without a name (no ClassLabel names"
            " in the file's schema): take a copy with names, or the official CSVs"
        )
    if value is None or not 0 <= value < len(names[column]):
        raise ValueError(f"{file}, row {row}, column {column!r}: {value} is not a label")
    return names[column][value]


# %%
shard = Path("train-00000-of-00001.parquet")
_label(shard, 0, "race", 3, hub), _label(shard, 0, "race", "White", {})

# %%
assert (
    _label(shard, 0, "race", 0, hub) == "East Asian"
    and _label(shard, 0, "race", 6, hub) == "Southeast Asian"
)
assert _label(shard, 0, "race", "White", {}) == "White"  # already a name
for value, names in ((0, {}), (-1, hub), (7, hub), (None, hub)):
    try:
        _label(shard, 5, "race", value, names)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{value} was taken for a label")


# %%
#| export
def _hub_rows(file: Path) -> Iterator[tuple[dict, dict]]:
    "The rows of a file: each the picture, and the labels by name."
    row = 0
    for batch in _record_batches(file):
        if lacking := [c for c in ("image", *FAIRFACE) if c not in batch.schema.names]:
            raise ValueError(
                f"{file}: no column {lacking[0]!r}: its columns are {', '.join(batch.schema.names)}"
            )
        names = _class_names(batch.schema)
        for r in batch.to_pylist():
            if not (r["image"] or {}).get("bytes"):
                raise ValueError(
                    f"{file}, row {row}: the picture's bytes are not in the file: save the copy"
                    " with its images embedded"
                )
            yield (
                r["image"],
                {c: _label(file, row, c, r[c], names) for c in FAIRFACE}
                | dict(service_test=bool(r.get("service_test"))),
            )
            row += 1


# %% [markdown]
# Two rows. Here a picture is a plain square. The second row has race 3, which is White.

# %%
def square(i, kind="JPEG"):
    "The bytes of a small plain picture."
    Image.new("RGB", (8, 8), (80 * i, 0, 0)).save(out := io.BytesIO(), kind)
    return out.getvalue()


def shard_of(file, race, schema=schema, picture=square):
    "Write a shard as the hub has it, a row for each race."
    file.parent.mkdir(parents=True, exist_ok=True)
    n = len(race)
    columns = dict(
        image=[dict(bytes=picture(i), path=None) for i in range(n)],
        age=[1] * n,
        gender=[1] * n,
        race=race,
        service_test=[True] * n,
    )
    pq.write_table(pa.table(columns, schema=schema), file)
    return file


rows = list(_hub_rows(shard_of(tmp / "two.parquet", [0, 3])))
[labels for image, labels in rows]

# %%
assert [image["bytes"] for image, _ in rows] == [square(0), square(1)] and [
    labels["race"] for _, labels in rows
] == ["East Asian", "White"]
assert rows[0][1] == dict(age="3-9", gender="Female", race="East Asian", service_test=True)
pq.write_table(pq.read_table(tmp / "two.parquet").drop_columns("age"), tmp / "ageless.parquet")
for file, told in (
    (tmp / "ageless.parquet", "no column 'age'"),
    (
        shard_of(tmp / "outside.parquet", [0, 1], picture=lambda i: [square(0), None][i]),
        "row 1: the picture's",
    ),
    (shard_of(tmp / "null.parquet", [0, None]), "row 1, column 'race'"),
):
    try:
        list(_hub_rows(file))
    except ValueError as e:
        say(e)
        assert told in str(e)
    else:
        raise AssertionError(f"{file.name} was read")


# %% [markdown]
# ## The official layout
#
# A picture keeps its own name if that is plain and not taken, so it can be found again. Otherwise
# it is named by its row number.

# %%
#| export
def _picture_name(image: dict, row: int, folder: Path) -> str:
    "The picture's own name if that is plain and free, else a name with its row number."
    name = Path(image.get("path") or "").name
    if re.fullmatch(r"[\w-]+\.(jpe?g|png)", name) and not (folder / name).exists():
        return name
    return f"row-{row:06d}" + (".png" if image["bytes"][1:4] == b"PNG" else ".jpg")


# %%
(tmp / "taken.jpg").touch()
[
    _picture_name(dict(path=path, bytes=square(0, kind)), 7, tmp)
    for path, kind in (
        ("val/12.jpg", "JPEG"),
        ("taken.jpg", "JPEG"),
        ("a b.png", "PNG"),
        (None, "JPEG"),
    )
]

# %%
assert [
    _picture_name(dict(path=path, bytes=square(0, kind)), 7, tmp)
    for path, kind in (
        ("val/12.jpg", "JPEG"),
        ("taken.jpg", "JPEG"),
        ("a b.png", "PNG"),
        (None, "JPEG"),
    )
] == ["12.jpg", "row-000007.jpg", "row-000007.png", "row-000007.jpg"]


# %% [markdown]
# A picture gets the shard's modification time. With the current time, every new copy would have
# another key, and the image cache would be filled again.

# %%
#| export
def _write_part(files: Sequence[Path], part: str, root: Path, progress: bool):
    "Write the pictures and the CSV of one part."
    (root / part).mkdir()
    rows = []
    for file in tqdm(files, f"writing out {part}", unit=" files", disable=not progress):
        for image, labels in _hub_rows(file):
            rows.append(
                dict(file=f"{part}/{_picture_name(image, len(rows), root / part)}", **labels)
            )
            (root / rows[-1]["file"]).write_bytes(image["bytes"])
            os.utime(root / rows[-1]["file"], ns=(file.stat().st_mtime_ns,) * 2)
    pd.DataFrame(rows, columns=["file", *FAIRFACE, "service_test"]).to_csv(
        root / f"fairface_label_{part}.csv", index=False
    )


# %%
os.utime(tmp / "two.parquet", (10**9, 10**9))
(tmp / "part").mkdir()
_write_part([tmp / "two.parquet", tmp / "two.parquet"], "val", tmp / "part", progress=False)
print((tmp / "part/fairface_label_val.csv").read_text())

# %%
assert (tmp / "part/fairface_label_val.csv").read_text().splitlines()[1:3] == [
    "val/row-000000.jpg,3-9,Female,East Asian,True",
    "val/row-000001.jpg,3-9,Female,White,True",
]
# four rows, four files
assert [p.read_bytes() for p in sorted((tmp / "part/val").iterdir())] == [square(0), square(1)] * 2
assert all(p.stat().st_mtime == 10**9 for p in (tmp / "part/val").iterdir())


# %% [markdown]
# A folder that already has the CSVs is used as it is. The name of the written folder holds a hash
# of the shards' names, sizes and times, so another edition gets another folder.

# %%
#| export
def official_layout(
    # A folder: an official FairFace, which is used as it is, or a Hugging Face copy of it
    root: Path,
    data_root: str | Path,  # A copy is written to its folder 'unpacked'
    progress: bool = True,  # Show progress bars
) -> Path:  # A folder of images and label CSVs
    """The official layout of FairFace, made once from a Hugging Face copy. Raises:
    FileNotFoundError (a part), ValueError (labels without names, no pictures).
    """
    if (
        any(root.glob("fairface_label_*.csv"))
        or any(root.glob("*/fairface_label_*.csv"))
        or not (shards := _find_shards(root))
    ):
        return root
    if lacking := {"train", "val"} - set(shards):
        raise FileNotFoundError(f"{root}: no parquet or arrow file of the part {lacking.pop()!r}")
    stats = [
        (str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns)
        for files in shards.values()
        for f in files
    ]
    target = (
        Path(data_root)
        / "unpacked"
        / f"{root.name}-{hashlib.sha256(str(stats).encode()).hexdigest()[:8]}"
    )
    make_once(
        target,
        root.name,
        lambda folder: [
            _write_part(files, part, folder, progress) for part, files in shards.items()
        ],
    )
    return target


# %%
def hub_copy(folder, schema=schema, race=(0, 3)):
    "Two shards as on the hub, a row each."
    for part, code in zip(("train", "validation"), race):
        shard_of(folder / f"{part}-00000-of-00001.parquet", [code], schema)
    return folder


written = official_layout(hub_copy(tmp / "hub/0.25"), tmp / "data", progress=False)
sorted(p.relative_to(written).as_posix() for p in written.rglob("*"))

# %%
assert (written / "fairface_label_val.csv").read_text().splitlines()[
    1
] == "val/row-000000.jpg,3-9,Female,White,True"
assert (written / "train/row-000000.jpg").read_bytes() == square(0) and (
    written / ".unpacked"
).exists()
assert official_layout(tmp / "hub/0.25", tmp / "data", progress=False) == written  # once
# official already
assert (
    official_layout(written, tmp / "data") == written
    and official_layout(tmp / "part", tmp / "data") == tmp / "part"
)
for name in ("csv-too", "csv-below/set"):  # labels beside the shards go before them
    (tmp / name).mkdir(parents=True)
    (tmp / name / "fairface_label_val.csv").touch()
    folder = hub_copy(tmp / name.split("/")[0])
    assert official_layout(folder, tmp / "data") == folder
os.utime(tmp / "hub/0.25/train-00000-of-00001.parquet", (10**9, 10**9))
assert official_layout(tmp / "hub/0.25", tmp / "data", progress=False) != written  # another edition

# %%
for bad, settings in [
    ("unnamed", dict(schema=schema.remove_metadata())),
    ("unlabelled", dict(race=(0, None))),
    ("beyond", dict(race=(7, 0))),
]:
    try:
        official_layout(hub_copy(tmp / bad, **settings), tmp / "data", progress=False)
    except ValueError as e:
        say(e)
    else:
        raise AssertionError(f"a copy was read, {bad}")
(tmp / "unnamed/validation-00000-of-00001.parquet").unlink()
try:
    official_layout(tmp / "unnamed", tmp / "data")
except FileNotFoundError as e:
    say(e)
else:
    raise AssertionError("half a copy was read")
