# %% [markdown]
# # Findings
#
# > The findings of a check, as text for a terminal

# %%
#| default_exp data.findings

# %%
#| export
from collections.abc import Sequence

import pandas as pd

from fairgrape.data.archives import SOURCES
from fairgrape.data.check import SetCheck, crossings
from fairgrape.data.splits import SPLITS
from fairgrape.data.tables import FaceData

# %%
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from fairgrape.data.check import check_data, count_all

# %% [markdown]
# This notebook formats what `fairgrape data check` prints about the [quality](16_check.ipynb) of a
# set. The running example is a check of eight pictures, written by hand: one file is missing, one
# is damaged, and the seventh picture is a copy of the first, in another part of the official split.

# %%
PATHS = [*[f"train/{i}.jpg" for i in range(6)], "val/0.jpg", "val/1.jpg"]
table = pd.DataFrame(
    dict(
        path=PATHS,
        photo=[f"p{i}" for i in range(8)],
        official=pd.Categorical(["train"] * 6 + ["test"] * 2, SPLITS),
        gender=pd.Categorical(["Male", "Female"] * 4),
        race=pd.Categorical(
            ["White"] * 3 + ["Black"] * 3 + ["White"] * 2, ["White", "Black", "Indian"]
        ),
    )
)
splits = dict(photo=table.official.where(table.index != 0, "test"), official=table.official)
data = FaceData("fairface", Path("data/FairFace"), table, None, "k", dict(missing=["train/9.jpg"]))
check = SetCheck(
    "fairface",
    data,
    said=("the reader says hello",),
    splits=splits,
    counts=count_all(table, splits),
    damaged={"train/4.jpg": "cut short"},
    same_as=(*PATHS[:6], "train/0.jpg", "val/1.jpg"),
)


# %% [markdown]
# The counts come first, then the files, then the classes and cells without images. Lists of names
# are kept short.

# %%
#| export
def _some(names: Sequence[str], n: int = 8) -> str:
    "The first `n` names, and the number of the others."
    return ", ".join(names[:n]) + (f" … and {len(names) - n:,} more" if len(names) > n else "")


# %%
_some(["a.jpg", "b.jpg", "c.jpg"], n=2)

# %%
assert (
    _some(["a", "b", "c"], 2) == "a, b … and 1 more"
    and _some(["a", "b"], 2) == "a, b"
    and _some([]) == ""
)
assert _some("abcdefgh") == "a, b, c, d, e, f, g, h" and _some("abcdefghi").endswith(
    "h … and 1 more"
)


# %% [markdown]
# Crossings have many rows. With more than three of them the table would fill several screens, so it
# shows only the classes. Empty cells are listed further below in any case.

# %%
#| export
def _is_crossed(counts: pd.DataFrame | pd.Series) -> pd.Index:
    "Which rows count cells of a crossing rather than classes of one label."
    return counts.index.get_level_values("label").str.contains("×")


def _uncounted(table: pd.DataFrame) -> list[str]:
    "A line that names the columns without classes, if there are any."
    columns = [c for c in table if c not in ("path", "photo", "person", "official", "synset")]
    texts = [c for c in columns if pd.api.types.is_string_dtype(table[c].dtype)]
    free = [c for c in texts if not isinstance(table[c].dtype, pd.CategoricalDtype)]
    names = [f"{c} ({table[c].nunique():,})" for c in free]
    if not names:
        return []
    return [f"Not used as labels, because most images have a different value: {', '.join(names)}"]


def _counts_text(check: SetCheck) -> list[str]:
    "The tables: images in each part, classes, and crossings if they are few."
    sizes = pd.DataFrame(
        {how: split.value_counts()[SPLITS] for how, split in check.splits.items()}
    ).T.rename_axis("split")
    there = check.counts[check.counts["all", ""] > 0]
    few = there if len(crossings(check.data.table)) <= 3 else there[~_is_crossed(there)]
    if len(few) > 300:
        few = few[few.groupby(level="label")["all"].transform("size") <= 300]
    return [
        "Images in each part",
        sizes.to_string(),
        "",
        "Images of each class",
        few.to_string(sparsify=True),
        *_uncounted(check.data.table),
        "",
    ]


# %%
print("\n".join(_counts_text(check)))

# %%
lines = [line.split() for line in "\n".join(_counts_text(check)).splitlines()]
# all; photo and official: train, val, test
assert ["official", "6", "0", "2"] in lines and [
    "Black",
    "3",
    "3",
    "0",
    "0",
    "3",
    "0",
    "0",
] in lines
assert "Indian" not in "\n".join(_counts_text(check)) and _is_crossed(check.counts).sum() == 3 * 2
# four labels besides gender: four crossings
wide = check_data(
    FaceData("wide", None, table.assign(**{f"more{i}": table.race for i in range(3)}), None, "k")
)
assert ["Black", "×", "Male", "1", "1", "0", "0", "1", "0", "0"] in lines
three = check_data(
    FaceData("three", None, table.assign(**{f"more{i}": table.race for i in range(2)}), None, "k")
)
assert "×" in "\n".join(_counts_text(three))
assert _uncounted(table) == [] and _uncounted(table.assign(id=PATHS, person="Ada")) == [
    "Not used as labels, because most images have a different value: id (8)"
]
assert _counts_text(replace(check, data=replace(data, table=table.assign(id=PATHS))))[-2].endswith(
    ": id (8)"
)
assert "×" not in "\n".join(_counts_text(wide)) and "more1" in "\n".join(_counts_text(wide))


# %% [markdown]
# Copies within one part do little harm, but copies in different parts do. So the text gives, for
# each split, the number of pictures whose copy is in another part.

# %%
#| export
def _torn(split: pd.Series, same_as: pd.Series) -> list[str]:
    "The pictures with copies in different parts."
    apart = split.astype(str).groupby(same_as).nunique() > 1
    return list(apart.index[apart])


def _twin_lines(twins: pd.DataFrame, n: int = 8) -> list[str]:
    "The first pictures with their twins, and the labels in which they differ."
    lines = [
        f"      {path} = {twin}" + (f": {differs}" if differs else "")
        for path, twin, differs in twins.head(n).itertuples(index=False)
    ]
    if len(twins) > n:
        more = f"      … and {len(twins) - n:,} more (`check_dataset(…).twins()` lists all)"
        lines.append(more)
    return lines


def _copies_text(check: SetCheck) -> list[str]:
    "Copies, and the copies that a split puts into different parts."
    paths, same_as = check.data.table["path"], pd.Series(check.same_as, check.data.table.index)
    copies = int((paths != same_as).sum())
    torn = {how: _torn(split, same_as) for how, split in check.splits.items() if copies}
    lines = [f"  byte-for-byte copies of another: {copies:,}"]
    for how, names in torn.items():
        named = f" ({_some(names, 3)})" if names else ""
        lines.append(f"    with its twin in another part, {how} split: {len(names):,}{named}")
    if not copies:
        return lines
    twins = check.twins()
    apart = twins[twins["differs"] != ""]
    return [
        *lines,
        f"    with other labels than its twin: {len(apart):,}",
        *_twin_lines(apart),
        f"    with the same labels: {len(twins) - len(apart):,}",
        *_twin_lines(twins.drop(apart.index)),
    ]


# %%
print("\n".join(_copies_text(check)))

# %%
assert _torn(pd.Series(["train", "test", "train"]), pd.Series(["a", "a", "c"])) == ["a"]
assert _torn(pd.Series(["test", "test", "train"]), pd.Series(["a", "a", "c"])) == []
assert (
    _copies_text(check)[2] == "    with its twin in another part, official split: 1 (train/0.jpg)"
)
assert _copies_text(check)[3:] == [
    "    with other labels than its twin: 0",
    "    with the same labels: 1",
    "      val/0.jpg = train/0.jpg",
]
doubted = replace(
    check, data=replace(data, table=table.assign(race=["Black"] + table.race.tolist()[1:]))
)
assert _copies_text(doubted)[3:] == [
    "    with other labels than its twin: 1",
    "      val/0.jpg = train/0.jpg: race White / Black",
    "    with the same labels: 0",
]
assert _twin_lines(pd.DataFrame([["a", "b", ""]] * 9))[-1].startswith("      … and 1 more")


# %% [markdown]
# A person with photographs in both training and test makes the test easier than it looks, and so
# does a photograph with faces in both. The split by photograph keeps photographs together, and the
# split by person keeps persons together. An official split has to be checked.

# %%
#| export
def _sides_text(check: SetCheck) -> list[str]:
    "Persons in each part, and the persons and photographs that are in several parts."
    lines, table = ["Persons and photographs"], check.data.table
    for how, split in check.splits.items():
        for column, what in (("person", "persons"), ("photo", "photographs")):
            if column not in table:
                continue
            torn = _torn(split, table[column].astype(str))
            parts = table[column].groupby(split.astype(str)).nunique()
            each = ", ".join(f"{part} {parts.get(part, 0):,}" for part in SPLITS)
            named = f" ({_some(torn, 3)})" if torn else ""
            lines.append(
                f"  {how} split, {what}: {each}; in more than one part: {len(torn):,}{named}"
            )
    if "person" not in table:
        lines.append("  the persons are not known")
    return [*lines, ""]


# %%
print("\n".join(_sides_text(check)))

# %% [markdown]
# By hand: there are eight photographs, and `official` has six of them in train and two in test.
# With persons, Ada is in train and in test, so one person is in more than one part.

# %%
assert _sides_text(check)[1:] == [
    "  photo split, photographs: train 5, val 0, test 3; in more than one part: 0",
    "  official split, photographs: train 6, val 0, test 2; in more than one part: 0",
    "  the persons are not known",
    "",
]
known = replace(
    check,
    data=replace(
        data,
        table=table.assign(
            person=["Ada", "Bo", "Bo", "Cy", "Cy", "Cy", "Ada", "Di"],
            photo=["p"] * 2 + ["q"] * 5 + ["r"],
        ),
    ),
)
assert _sides_text(known)[3:] == [
    "  official split, persons: train 3, val 0, test 2; in more than one part: 1 (Ada)",
    "  official split, photographs: train 2, val 0, test 2; in more than one part: 1 (q)",
    "",
]
assert _copies_text(SetCheck("x", data, splits=splits, same_as=tuple(PATHS))) == [
    "  byte-for-byte copies of another: 0"
]


# %%
#| export
def _files_text(check: SetCheck) -> list[str]:
    "Missing, damaged, repeated and copied files."
    if check.data.root is None:
        return ["Files: none, the images are rendered", ""]
    twice = check.data.table["path"][check.data.table["path"].duplicated()].tolist()
    decoded = "not looked for"
    if check.damaged is not None:
        decoded = f"{len(check.damaged):,} (every image was decoded)"
    first = [f"    {why}" for why in list((check.damaged or {}).values())[:1]]
    lines = [
        "Files",
        f"  missing: {len(check.missing):,} {_some(check.missing)}",
        f"  damaged: {decoded} {_some(list(check.damaged or ()))}",
        *first,
        f"  named twice by the labels: {len(twice):,} {_some(twice)}",
        *_copies_text(check),
        *[f"  {text}" for text in check.said],
    ]
    return [*[line.rstrip() for line in lines], ""]


# %% [markdown]
# "None damaged" and "not looked for" are different findings, so the text distinguishes them. The
# reader's warnings come last.

# %%
print("\n".join(_files_text(check)))

# %%
assert _files_text(check)[:5] == [
    "Files",
    "  missing: 1 train/9.jpg",
    "  damaged: 1 (every image was decoded) train/4.jpg",
    "    cut short",
    "  named twice by the labels: 0",
]
assert _files_text(check)[-2:] == ["  the reader says hello", ""]
assert _files_text(wide) == ["Files: none, the images are rendered", ""]
twice = SetCheck(
    "x",
    FaceData("x", Path("x"), pd.concat([table, table[:1]], ignore_index=True), None, "k"),
    splits={},
    same_as=(*PATHS, PATHS[0]),
)
assert _files_text(twice)[2:4] == [
    "  damaged: not looked for",
    "  named twice by the labels: 1 train/0.jpg",
]


# %% [markdown]
# A rate is undefined in a cell without images, and a product of labels with such a cell cannot be
# the grouping. A class that the whole set lacks is listed once, not again for every part.

# %%
#| export
def _empty(column: pd.Series, where: str) -> list[str]:
    "Lines that name the classes and the cells of one part that have no images."
    crossed, lines = _is_crossed(column), []
    for what, some in [("classes", column[~crossed]), ("cells", column[crossed])]:
        if names := [f"{label}: {cell}" for label, cell in some.index[some == 0]]:
            lines.append(
                f"  none in {where}: {len(names):,} of {len(some):,} {what}: {_some(names)}"
            )
    return lines


def _empty_text(check: SetCheck) -> list[str]:
    "Classes and cells without images: in the whole set, then the others in each part."
    nowhere = check.counts["all", ""] == 0
    lines = _empty(check.counts["all", ""], "the whole set")
    for (how, part), column in check.counts.drop(columns="all", level=0).items():
        lines += _empty(column[~nowhere], f"{part} ({how} split)")
    return ["Classes and cells (label × label) without an image", *(lines or ["  none"]), ""]


# %%
print("\n".join(_empty_text(check)))

# %%
two = pd.Series(
    [3, 0, 0],
    pd.MultiIndex.from_tuples(
        [("tone", "light"), ("tone", "dark"), ("look × tone", "calm × dark")],
        names=["label", "class"],
    ),
)
assert (
    _empty(two, "here")
    == [
        "  none in here: 1 of 2 classes: tone: dark",
        "  none in here: 1 of 1 cells: look × tone: calm × dark",
    ]
    and _empty(two[:1], "here") == []
)
assert _empty_text(check)[1] == "  none in the whole set: 1 of 5 classes: race: Indian"
assert (
    "  none in test (official split): 2 of 4 cells: race × gender: Black × Female, race × gender:"
    " Black × Male" in _empty_text(check)
)
full = SetCheck(
    "full", counts=pd.concat({("all", ""): two[:1], ("photo", "train"): two[:1]}, axis=1)
)
assert _empty_text(full)[1:] == ["  none", ""]


# %% [markdown]
# This function says how much of a set is there. It counts images and label files separately: a row
# without its image can be left out, but without its label file a whole part is missing.

# %%
#| export
def part_of(
    data: FaceData,  # A set, read with `strict=False`
) -> str:  # E.g. '4,500 of 202,599 images'
    "How many of the images that the labels name exist, and which label files are missing."
    missing = data.notes.get("missing", [])
    files = [name for name in missing if name.endswith((".csv", ".txt"))]
    n = len(data.table)
    return f"{n:,} of {n + len(missing) - len(files):,} images" + (
        f", without {' and '.join(files)}" if files else ""
    )


# %%
print(part_of(data))
assert part_of(data) == "8 of 9 images" and part_of(replace(data, notes={})) == "8 of 8 images"
assert (
    part_of(replace(data, notes=dict(missing=["fairface_label_val.csv"])))
    == "8 of 8 images, without fairface_label_val.csv"
)


# %%
#| export
def _advice(check: SetCheck) -> str:
    "The last lines: what to do about the findings."
    source = f" {SOURCES[check.name]}; see data/README.md" if check.name in SOURCES else ""
    if check.sound:
        found = "Nothing is missing"
        if check.missing:
            found = f"A run with partial = True uses what is there: {part_of(check.data)}"
        return found + (" and nothing is damaged." if check.damaged is not None else ".")
    stops = dict(damaged=list(check.damaged or ()))
    if not check.partial:
        stops = dict(missing=check.missing) | stops
    what = [f"{kind} ({len(names):,})" for kind, names in stops.items() if names]
    ways = []
    # a label file has no rows in the labels
    if not all(name.endswith((".csv", ".txt")) for names in stops.values() for name in names):
        ways.append("remove their rows from the labels")
    if stops.get("missing"):
        ways.append("use what is there, with partial = True (--partial True)")
    return (
        f"A run would stop at the {' and the '.join(what)} files. Fetch them again, or"
        f" {'; or '.join(ways)}.{source}"
    )


# %% [markdown]
# The text ends with what to do about the faults:

# %%
_advice(check)

# %%
assert _advice(check).startswith(
    "A run would stop at the missing (1) and the damaged (1) files."
) and "https://github.com/joojs/fairface" in _advice(check)
assert (
    _advice(SetCheck("own", damaged={})) == "Nothing is missing and nothing is damaged."
    and _advice(SetCheck("own")) == "Nothing is missing."
)
assert (
    "or remove their rows from the labels; or use what is there, with partial = True (--partial"
    " True)." in _advice(check)
)
lacking = SetCheck(
    "fairface", replace(data, notes=dict(missing=["fairface_label_val.csv"])), partial=True
)
assert (
    "rows" not in _advice(replace(lacking, partial=False))
    and _advice(lacking)
    == "A run with partial = True uses what is there: 8 of 8 images, without"
    " fairface_label_val.csv."
)
assert _advice(replace(check, partial=True)).startswith(
    "A run would stop at the damaged (1) files. Fetch them again, or remove their rows from the"
    " labels. FairFace"
)
assert _advice(SetCheck("own", damaged={"a": "cut"})).startswith(
    "A run would stop at the damaged (1) files."
) and "data/README" not in _advice(SetCheck("own", damaged={"a": "cut"}))

# %% [markdown]
# An incomplete set may still match its label file, so the first lines compare it with the published
# size. For a set that could not be read, the text gives only the reason, and the set's source
# unless the reason already names it.

# %%
#| export
# the numbers of image files in the published sets
_FULL_SIZE = dict(utkface=23_707, fairface=97_698, celeba=202_599)


def _heading(check: SetCheck) -> list[str]:
    "The number of images, and the published number if it differs."
    n, full = len(check.data.table), _FULL_SIZE.get(check.name, 0)
    here = n + len(check.missing) + len(check.data.notes.get("skipped", []))
    head = [f"{check.name}: {n:,} images" + (f" in {check.data.root}" if check.data.root else "")]
    if full and here != full:
        head.append(f"The published set has {full:,} images; the labels here name {here:,}.")
    return head


def _problem_text(check: SetCheck) -> str:
    "The reason why a set cannot be used, and where to get the set."
    source = SOURCES.get(check.name, "")
    known = source in check.problem  # no source is part of any reason
    told = f"{check.name}: {check.problem.removeprefix(f'{check.name}: ')}"
    return told if known else f"{told}\n{source}; see data/README.md"


# %%
print("\n".join(_heading(check)))
print(_problem_text(SetCheck("utkface", problem="no such folder")))

# %%
assert _heading(check)[
    1
] == "The published set has 97,698 images; the labels here name 9." and _heading(wide) == [
    "wide: 8 images"
]
skipped = SetCheck(
    "fairface",
    FaceData("fairface", None, table, None, "k", dict(missing=["a"], skipped=["b", "c"])),
)
assert _heading(skipped)[1].endswith("name 11.")  # 8 read, 1 missing, 2 without a label
with patch.dict(_FULL_SIZE, fairface=11):
    assert len(_heading(skipped)) == 1
assert _problem_text(SetCheck("own", problem="own: gone")) == "own: gone"
assert (
    _problem_text(SetCheck("utkface", problem="gone"))
    == f"utkface: gone\n{SOURCES['utkface']}; see data/README.md"
)
assert _problem_text(SetCheck("utkface", problem=f"gone. {SOURCES['utkface']}")).count("https") == 1


# %%
#| export
def set_text(
    check: SetCheck,  # What was found
) -> str:  # Many lines, for a terminal
    "The findings of a check as text."
    if check.problem:
        return _problem_text(check)
    return "\n".join(
        [
            *_heading(check),
            "",
            *_counts_text(check),
            *_sides_text(check),
            *_files_text(check),
            *_empty_text(check),
            _advice(check),
        ]
    )


# %%
text = set_text(check)
print(text)

# %% [markdown]
# The text names each fault of the example, in this order.

# %%
told = [
    "fairface: 8 images in",
    "The published set has",
    "Images in each part",
    "Images of each class",
    "Persons and photographs",
    "Files",
    "missing: 1",
    "damaged: 1",
    "copies of another: 1",
    "without an image",
    "A run would stop at",
]
assert [text.find(line) for line in told] == sorted(text.find(line) for line in told) and text.find(
    told[0]
) == 0
assert (
    set_text(SetCheck("none", problem="none of the images is there"))
    == "none: none of the images is there"
)
