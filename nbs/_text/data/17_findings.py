# %% [markdown]
# # Findings
#
# > What a look at a set found, in words for a terminal

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
# What `fairgrape data check` prints about the [quality](16_check.ipynb) of a set. The running example is a check of eight pictures, written down by hand: one file is missing, one is damaged, and the seventh picture is the first one
# again, on the other side of the official split.

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
# The counts come first, then the files, then the classes and cells without an image. A list of names is of use only as long as it is short.

# %%
#| export
def _some(names: Sequence[str], n: int = 8) -> str:
    "A list of names that stays short."
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
# Crossings have many rows. Where there are more than three of them the table would fill several screens, so it shows the classes alone; an empty cell is named further below in any case.

# %%
#| export
def _is_crossed(counts: pd.DataFrame | pd.Series) -> pd.Index:
    "Which rows count cells of a crossing, and not classes of one label."
    return counts.index.get_level_values("label").str.contains("×")


def _uncounted(table: pd.DataFrame) -> list[str]:
    "A line that names the columns that hold no classes, where there are any."
    columns = [
        c
        for c in table
        if c not in ("path", "photo", "person", "official", "synset")
        and pd.api.types.is_string_dtype(table[c].dtype)
    ]
    names = [
        f"{c} ({table[c].nunique():,})"
        for c in columns
        if not isinstance(table[c].dtype, pd.CategoricalDtype)
    ]
    return (
        [f"No labels, as most images have a value of their own: {', '.join(names)}"]
        if names
        else []
    )


def _counts_text(check: SetCheck) -> list[str]:
    "The tables: images in each part, classes, and crossings where they are few."
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
# four labels beside gender: four crossings
wide = check_data(
    FaceData("wide", None, table.assign(**{f"more{i}": table.race for i in range(3)}), None, "k")
)
assert ["Black", "×", "Male", "1", "1", "0", "0", "1", "0", "0"] in lines
three = check_data(
    FaceData("three", None, table.assign(**{f"more{i}": table.race for i in range(2)}), None, "k")
)
assert "×" in "\n".join(_counts_text(three))
assert _uncounted(table) == [] and _uncounted(table.assign(id=PATHS, person="Ada")) == [
    "No labels, as most images have a value of their own: id (8)"
]
assert _counts_text(replace(check, data=replace(data, table=table.assign(id=PATHS))))[-2].endswith(
    ": id (8)"
)
assert "×" not in "\n".join(_counts_text(wide)) and "more1" in "\n".join(_counts_text(wide))


# %% [markdown]
# Copies within one part do little harm; a copy that a split puts on the other side does. So the lines say for each split how many pictures it tears from their twins.

# %%
#| export
def _torn(split: pd.Series, same_as: pd.Series) -> list[str]:
    "The pictures whose copies lie in different parts."
    apart = split.astype(str).groupby(same_as).nunique() > 1
    return list(apart.index[apart])


def _twin_lines(twins: pd.DataFrame, n: int = 8) -> list[str]:
    "The first pictures with their twins, and what their labels say."
    lines = [
        f"      {path} = {twin}" + (f": {differs}" if differs else "")
        for path, twin, differs in twins.head(n).itertuples(index=False)
    ]
    if len(twins) > n:
        more = f"      … and {len(twins) - n:,} more (`check_dataset(…).twins()` lists all)"
        lines.append(more)
    return lines


def _copies_text(check: SetCheck) -> list[str]:
    "Copies, and those of them that a split tears apart."
    paths, same_as = check.data.table["path"], pd.Series(check.same_as, check.data.table.index)
    copies = int((paths != same_as).sum())
    torn = {how: _torn(split, same_as) for how, split in check.splits.items() if copies}
    lines = [
        f"  byte for byte the same as another: {copies:,}",
        *[
            f"    with its twin in another part, {how} split: {len(t):,}"
            + (f" ({_some(t, 3)})" if t else "")
            for how, t in torn.items()
        ],
    ]
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
# Who is in which part? A person whose photographs lie in training and in the test makes the test easier than it looks, and so does a photograph with a face in both. The split by photograph keeps photographs whole and the
# split by person persons; of the official split somebody must look.

# %%
#| export
def _sides_text(check: SetCheck) -> list[str]:
    "Persons in each part, and the persons and photographs that a split tears apart."
    lines, table = ["Persons and photographs"], check.data.table
    for how, split in check.splits.items():
        for column, what in (("person", "persons"), ("photo", "photographs")):
            if column not in table:
                continue
            torn, parts = (
                _torn(split, table[column].astype(str)),
                table[column].groupby(split.astype(str)).nunique(),
            )
            each = ", ".join(f"{part} {parts.get(part, 0):,}" for part in SPLITS)
            named = f" ({_some(torn, 3)})" if torn else ""
            lines.append(
                f"  {how} split, {what}: {each}; in more than one part: {len(torn):,}{named}"
            )
    return [*lines, *([] if "person" in table else ["  who is on an image is not known"]), ""]


# %%
print("\n".join(_sides_text(check)))

# %% [markdown]
# By hand: eight photographs, and `official` has six of them in train and two in test. With one more person than pictures in train (Ada is in train and in test), one is torn.

# %%
assert _sides_text(check)[1:] == [
    "  photo split, photographs: train 5, val 0, test 3; in more than one part: 0",
    "  official split, photographs: train 6, val 0, test 2; in more than one part: 0",
    "  who is on an image is not known",
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
    "  byte for byte the same as another: 0"
]


# %%
#| export
def _files_text(check: SetCheck) -> list[str]:
    "What is wrong with the files."
    if check.data.root is None:
        return ["Files: none, the images are rendered", ""]
    twice = check.data.table["path"][check.data.table["path"].duplicated()].tolist()
    decoded = (
        "not looked for"
        if check.damaged is None
        else f"{len(check.damaged):,} (every image was decoded)"
    )
    first = [f"    {why}" for why in list((check.damaged or {}).values())[:1]]
    lines = [
        "Files",
        f"  missing: {len(check.missing):,} {_some(check.missing)}",
        f"  damaged: {decoded} {_some(list(check.damaged or ()))}",
        *first,
        f"  named twice by the labels: {len(twice):,} {_some(twice)}",
    ]
    return [
        line.rstrip()
        for line in [*lines, *_copies_text(check), *[f"  {text}" for text in check.said]]
    ] + [""]


# %% [markdown]
# "None damaged" and "nobody looked" are different findings, and are said differently. What the reader warned of stands at the end.

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
# A rate is not defined in a cell without images, and a product of labels with such a cell cannot be the grouping. What the whole set lacks is said once, and not again for every part.

# %%
#| export
def _empty(column: pd.Series, where: str) -> list[str]:
    "Lines that name the classes and the cells of one part without an image."
    crossed, lines = _is_crossed(column), []
    for what, some in [("classes", column[~crossed]), ("cells", column[crossed])]:
        if names := [f"{label}: {cell}" for label, cell in some.index[some == 0]]:
            lines.append(
                f"  none in {where}: {len(names):,} of {len(some):,} {what}: {_some(names)}"
            )
    return lines


def _empty_text(check: SetCheck) -> list[str]:
    "Classes and cells without an image: in the whole set, and then of the others in each part."
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
# How much of a set is there? Images and label files are counted apart: a row whose image is missing can be left out, but without its label file a whole part is missing.

# %%
#| export
def part_of(
    data: FaceData,  # A set, read with `strict=False`
) -> str:  # As '4,500 of 202,599 images'
    "How many of the images that the labels name are there, and which label files are not."
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
    "What to do."
    source = f" {SOURCES[check.name]}; see data/README.md" if check.name in SOURCES else ""
    nothing = (
        "Nothing is missing"
        if not check.missing
        else f"A run with partial = True uses what is there: {part_of(check.data)}"
    )
    if check.sound:
        return nothing + (" and nothing is damaged." if check.damaged is not None else ".")
    stops = [] if check.partial else [("missing", check.missing)]
    what = [
        f"{kind} ({len(files):,})" for kind, files in [*stops, ("damaged", check.damaged)] if files
    ]
    images = [
        name
        for _, files in [*stops, ("damaged", check.damaged)]
        for name in files or ()
        if not name.endswith((".csv", ".txt"))
    ]
    # a label file has no rows in the labels
    ways = ["take their rows out of the labels"] if images else []
    if stops and check.missing:
        ways.append("use what is there, with partial = True (--partial True)")
    return (
        f"A run would stop at the {' and the '.join(what)} files. Fetch them again, or"
        f" {'; or '.join(ways)}.{source}"
    )


# %% [markdown]
# A list of faults should end with what to do about them:

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
    "or take their rows out of the labels; or use what is there, with partial = True (--partial"
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
    "A run would stop at the damaged (1) files. Fetch them again, or take their rows out of the"
    " labels. FairFace"
)
assert _advice(SetCheck("own", damaged={"a": "cut"})).startswith(
    "A run would stop at the damaged (1) files."
) and "data/README" not in _advice(SetCheck("own", damaged={"a": "cut"}))

# %% [markdown]
# A part of a set looks whole to its own label file, so the first lines compare it with the published size. A set that could not be read has no more than a reason, and its source where the reason does not name it already.

# %%
#| export
# image files in the published sets
FULL_SIZE = dict(utkface=23_707, fairface=97_698, celeba=202_599)


def _heading(check: SetCheck) -> list[str]:
    "How many images there are, and of how many."
    n, full = len(check.data.table), FULL_SIZE.get(check.name, 0)
    here = n + len(check.missing) + len(check.data.notes.get("skipped", []))
    head = [f"{check.name}: {n:,} images" + (f" in {check.data.root}" if check.data.root else "")]
    return head + (
        [f"The published set has {full:,} images; the labels here name {here:,}."]
        if full and here != full
        else []
    )


def _problem_text(check: SetCheck) -> str:
    "Why a set cannot be used at all, and where it is had."
    source = SOURCES.get(check.name, "")
    known = source in check.problem  # no source is part of any reason
    return f"{check.name}: {check.problem.removeprefix(f'{check.name}: ')}" + (
        "" if known else f"\n{source}; see data/README.md"
    )


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
with patch.dict(FULL_SIZE, fairface=11):
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
    "What a check found, to read."
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
# A test reads that text like a person: each of the faults that were put in is named, in this order.

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
    "the same as another: 1",
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
