# %% [markdown]
# # Preparation
#
# > Settings combined with their data: errors are found before any image is decoded, and the run's folder is known

# %%
#| default_exp experiment.preparation

# %%
#| export
import hashlib
import json
import re
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fairgrape.data.catalog import known_labels, read_dataset
from fairgrape.data.findings import part_of
from fairgrape.data.splits import split_table
from fairgrape.data.tables import (
    FaceData,
    cell_name,
    check_cells,
    class_name,
    codes,
    drop_classes,
    keep_classes,
    label_columns,
    limit_table,
    matching,
    split_names,
    thin_table,
)
from fairgrape.experiment.clusters import Clusters
from fairgrape.experiment.paths import folder_name, plain_name, root
from fairgrape.experiment.settings import Settings, form, identity
from fairgrape.judge.tables import check_groups
from fairgrape.method.masks import get_masks
from fairgrape.method.selection import check_scope
from fairgrape.networks.builders import plain_model
from fairgrape.networks.inspect import check_network
from fairgrape.training.parallel import ALONE, Team, team_of

# %%
from PIL import Image


def refused(make, *args, **given):
    """The error that `make` raises, with the temporary folder shortened; an assertion fails if
    it raises none.
    """
    try:
        make(*args, **given)
    except (ValueError, OSError) as e:
        return str(e).replace(str(home), "…")
    raise AssertionError(f"{args or given} was accepted")


# %% [markdown]
# A small data set of our own to try things on: 160 small images, whose brightness is the task and whose tint is the group. The settings name this data set and the smallest network.

# %%
home = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
rows = [
    dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3])
    for i in range(160)
]
(home / "own").mkdir()
for i, row in enumerate(rows):
    pixels = rng.integers(0, 120, (24, 24, 3)) + (90 if row["shade"] == "light" else 0)
    pixels[..., 0 if row["tint"] == "red" else 2] += 40
    Image.fromarray(pixels.astype(np.uint8)).save(home / "own" / row["file"])
pd.DataFrame(rows).to_csv(home / "own" / "labels.csv", index=False)

tiny = Settings(
    dataset="folder",
    data_path=str(home / "own"),
    task="shade",
    groups="tint",
    network="resnet10",
    weights="none",
    image_size=16,
    method="fairgrape",
    rate=0.9,
    keep=0.5,
    epochs="2,1",
    lrs="1e-3,1e-4",
    retrain_epochs=1,
    retrain_lr=1e-4,
    batch=16,
    augment="flip",
    bootstrap=200,
)
places = dict(data_root=home, runs_root=home / "runs", cache_root=home / "cache", progress=False)
own = read_dataset("folder", tiny.data_path, home)
own.table.head(3)


# %% [markdown]
# ## The machine
#
# Where a run computes changes its duration, not its result. So the machine is separate from the settings and does not affect the run folder's name.

# %%
#| export
@dataclass(eq=False)
class Machine:
    "Where and how a run computes, and the resources that it has opened."

    device: str = ""  # A device's name; empty: CUDA if available
    threads: int = 0  # CPU threads; 0: unchanged
    keep_on: str = "auto"  # Where the importance is stored: auto, device, host, or a folder
    keep_steps: bool = False  # Keep the network of each pruning step (method in steps)
    processes: int = 1  # Number of processes that share the run
    # True: a live line; False: plain lines, as for a file; None: nothing
    progress: bool | None = True
    team: Team = ALONE  # The processes that share the run, including this one
    data_root: str | Path | None = None  # Folder of the data sets, as given
    started: float = field(default_factory=time.perf_counter)  # When the run began
    opened: dict = field(default_factory=dict)  # Device, images and lock, once in use

    @property
    def shows(self) -> bool | str:
        "Progress of this process: True a live line, `lines` a plain line per epoch, False none."
        if not self.team.main or self.progress is None:
            return False
        return self.progress or "lines"


# %%
here = Machine(device="cpu", threads=2)
here.shows, replace(here, team=Team(1, 2)).shows

# %%
# only process 0 shows progress
assert here.shows is True and replace(here, progress=False).shows == "lines"
assert replace(here, progress=None).shows is False
assert not replace(here, team=Team(1, 2)).shows and here.opened == {}


# %% [markdown]
# ## Settings with their data
#
# A job knows its heads, its groups, its split, and its folder. The rest of the project takes a job and reads no label file again.

# %%
#| export
@dataclass(frozen=True)
class Job:
    "Settings together with the data that they name, checked."

    settings: Settings
    data: FaceData  # All images of the set
    table: pd.DataFrame  # The rows used, index = row of the set, with a column `split`
    heads: dict[str, list[str]]  # Task → its class names, in the order of the codes
    labels: np.ndarray  # Class codes, shape `(n, heads)`
    group: np.ndarray  # Group codes, shape `(n,)`
    group_names: list[str]  # Name of each group
    runs_root: Path  # Folder of the run folders
    cache_root: Path  # Folder of decoded images
    name: str = ""  # The run folder's name before the hash; empty: made from the settings
    # Groups found in the dense network's features, once found
    clusters: Clusters | None = None
    # Values computed from the table once; jobs on the same table share them
    known: dict = field(default_factory=dict, repr=False, compare=False)
    machine: Machine = field(default_factory=Machine, repr=False, compare=False)

    @property
    def sizes(self) -> list[int]:
        return [len(names) for names in self.heads.values()]

    @property
    def G(self) -> int:
        return len(self.group_names)


# %%
few = own.table[:3].assign(split="train")
by_hand = Job(
    tiny,
    own,
    few,
    dict(shade=["dark", "light"]),
    np.array([[0], [1], [0]]),
    np.array([1, 0, 0]),
    ["blue", "red", "green"],
    home / "runs",
    home / "cache",
)
print(by_hand.sizes, by_hand.G)
# a job made from another shares its cached values
assert by_hand.sizes == [2] and by_hand.G == 3 and replace(by_hand, name="x").known is by_hand.known


# %% [markdown]
# ## Which images
#
# The settings choose the classes. Without them the data set's convention applies (papers on UTKFace leave out the race "Others"); a setting for a column replaces that column's convention.

# %%
#| export
def classes_used(
    table: pd.DataFrame,  # The set's table
    # "column=class,class;column!=class", as in the settings; empty: only `usual`
    classes: str,
    usual: dict,  # Column → the classes that the data set's convention keeps
) -> pd.DataFrame:  # The rows of these classes
    """The table without the excluded classes. Raises: ValueError for text that cannot be parsed,
    or a class that does not exist.
    """
    keep, without = dict(usual), {}
    for part in filter(None, split_names(classes, ";")):
        column, _, names = part.partition("=")
        if not names:
            raise ValueError(
                f"classes = {classes!r}: write it as column=class,class;column=class,class"
            )
        if "*" in column and not column.endswith("!"):
            raise ValueError(
                f"classes = {classes!r}: a cell of a product can only be excluded: write"
                f" {column.strip()}!={names}"
            )
        chosen, column = without if column.endswith("!") else keep, column.removesuffix("!").strip()
        have, given = codes(table, column)[1], split_names(names)
        chosen[column] = given if "*" in column else [class_name(n, have) for n in given]
    for column, names in keep.items():
        table = keep_classes(table, column, names)
    for column, names in without.items():
        table = (
            table[matching(table, f"{column}!={','.join(names)}")]
            if "*" in column
            else drop_classes(table, column, names)
        )
    return table


# %%
print(
    {
        said: len(classes_used(own.table, said, dict(tint=["red"])))
        for said in ("", "tint=blue", "tint=red, blue;shade=dark")
    }
)
# every third image is red, every second dark
assert [
    len(classes_used(own.table, said, {})) for said in ("", "tint=red", "tint=red;shade=dark")
] == [160, 54, 27]
# the settings override the convention
assert len(classes_used(own.table, "tint=blue", dict(tint=["red"]))) == 106
# 53 are dark and blue
assert [
    len(classes_used(own.table, said, {}))
    for said in ("tint!=blue", "tint!=blue;shade!=light", "shade*tint!=dark*blue")
] == [54, 27, 107]
# names with a comma need double quotes
renamed = own.table.assign(tint=own.table.tint.cat.rename_categories(dict(red="red, warm")))
assert [
    len(classes_used(renamed, said, {}))
    for said in ('tint="red, warm"', 'tint!="red, warm";shade=dark', 'shade*tint!="dark*red, warm"')
] == [54, 53, 133]
for wrong in ("tint", "tint=green", "tint=red,", "shade*tint=dark*blue", "shade*tint!=dark*green"):
    print(refused(classes_used, own.table, wrong, {}))


# %% [markdown]
# A product of columns may have a cell with almost no images: CelebA has hardly any bald women. Such a cell cannot be compared. `classes = "gender*Bald!=Female*yes"` leaves out its images and its name in the list of groups.
#
# The name "yes" alone is not informative, so people see "Bald: yes" instead. The hash in a run folder's name still uses the bare names.

# %%
#| export
def left_out(
    classes: str,  # As in the settings
    groups: str,  # The columns of the groups, as for `codes`
    have: list[str],  # All groups
) -> list[str]:  # Groups that the settings leave out of a product
    "The cells of a product that are not compared."
    columns = [c.strip() for c in groups.split("*")]
    asked = [part.split("!=", 1) for part in split_names(classes, ";") if "!=" in part]
    return [
        cell_name(name, have)
        for spec, names in asked
        if [c.strip() for c in spec.split("*")] == columns and len(columns) > 1
        for name in split_names(names)
    ]


# %%
quoted = 'shade*tint!="dark*red, warm",light*blue'
left_out(quoted, "shade*tint", ["dark × red, warm", "light × blue"])

# %%
assert left_out(quoted, "shade*tint", ["dark × red, warm", "light × blue"]) == [
    "dark × red, warm",
    "light × blue",
]
assert left_out(quoted, "shade", ["dark", "light"]) == []

# %%
#| export
# class names that are unclear without their column's name
BARE = {"no", "yes", "false", "true", "0", "1"}


def _said_names(
    names: list[str],  # Names of groups, as from `codes`
    groups: str,  # The columns of the groups
) -> list[str]:  # The same, with the column before unclear names
    "Group names that are clear without their column."
    columns = [c.strip() for c in groups.split("*")]
    cells = [name.split(" × ") for name in names]
    if any(len(cell) != len(columns) for cell in cells):
        return names
    bare = [{cell[i].lower() for cell in cells} <= BARE for i in range(len(columns))]
    return [
        " × ".join(f"{c}: {label}" if b else label for c, b, label in zip(columns, bare, cell))
        for cell in cells
    ]


def _bare_names(names: list[str], groups: str) -> list[str]:
    "Group names as in the label file."
    columns = [c.strip() for c in groups.split("*")]
    plain = [
        " × ".join(label.removeprefix(f"{c}: ") for c, label in zip(columns, cell))
        for cell in (name.split(" × ") for name in names)
    ]
    return plain if _said_names(plain, groups) == names else names


def group_codes(
    table: pd.DataFrame,  # The rows used
    groups: str,  # The columns of the groups, as for `codes`
    classes: str,  # As in the settings
) -> tuple[np.ndarray, list[str]]:  # Code of each row, shape `(n,)`, and each group's name
    "Groups as codes, without the excluded cells."
    code, names = codes(table, groups)
    out = left_out(classes, groups, names)
    kept = [i for i, name in enumerate(names) if name not in out]
    return np.searchsorted(kept, code), _said_names([names[i] for i in kept], groups)


# %%
answers = pd.DataFrame(
    {
        c: pd.Categorical(v)
        for c, v in dict(sex=["f", "f", "m", "m"], Bald=["no", "no", "no", "yes"]).items()
    }
)
print(
    group_codes(answers, "sex*Bald", "sex*Bald!=f*yes"),
    group_codes(answers, "Bald", "")[1],
    _said_names(["f × 0", "f × 1"], "sex*old"),
)
assert group_codes(answers, "sex*Bald", "sex * Bald!=f × yes")[0].tolist() == [
    0,
    0,
    1,
    2,
] and group_codes(answers, "sex*Bald", "")[0].tolist() == [0, 0, 2, 3]
assert group_codes(answers, "sex*Bald", "sex*Bald!=f*yes")[1] == [
    "f × Bald: no",
    "m × Bald: no",
    "m × Bald: yes",
] and group_codes(answers, "sex", "")[1] == ["f", "m"]
assert _bare_names(["f × Bald: no", "m × Bald: yes"], "sex*Bald") == [
    "f × no",
    "m × yes",
] and _bare_names(["Bald: no", "perhaps"], "Bald") == ["Bald: no", "perhaps"]
assert (
    left_out("sex!=f;sex*Bald!=f*yes,m*no", "sex*Bald", ["f × no", "f × yes"])
    == ["f × yes", "m × no"]
    and left_out("sex!=f", "sex", ["f"]) == left_out("sex*Bald!=f*yes", "sex", ["f"]) == []
)


# %% [markdown]
# Next, classes are thinned out if the settings ask for an imbalance. Last, the number of images is limited. A convention about a column that neither task nor groups use removes no images.

# %%
#| export
def _rows_used(
    data: FaceData,  # All images of the set
    settings: Settings,  # A run's settings
    specs: list[str],  # Label columns of the heads
) -> pd.DataFrame:  # The rows that the run uses
    "The rows of the chosen classes, thinned out, at most `limit`."
    used = set("*".join([*specs, settings.groups]).split("*"))
    table = classes_used(
        data.table,
        settings.classes,
        {c: v for c, v in data.notes.get("classes", {}).items() if c in used},
    )
    table = thin_table(table, settings.imbalance) if settings.imbalance else table
    return limit_table(table, min(settings.limit, len(table)))


# %%
customary = replace(own, notes=dict(classes=dict(tint=["blue"])))
print(
    len(_rows_used(own, replace(tiny, limit=50), ["shade"])),
    len(_rows_used(customary, tiny, ["shade"])),
    len(_rows_used(customary, replace(tiny, groups="shade"), ["shade"])),
)
assert (
    len(_rows_used(own, replace(tiny, limit=50), ["shade"])) == 50
    and len(_rows_used(own, replace(tiny, limit=500), ["shade"])) == 160
)
assert (
    len(_rows_used(customary, tiny, ["shade"])) == 106
    and len(_rows_used(customary, replace(tiny, groups="shade"), ["shade"])) == 160
)
thin = _rows_used(own, replace(tiny, imbalance="tint=red:0.2"), ["shade"])["tint"].value_counts()
assert thin["red"] == 54 and thin["blue"] < 40


# %% [markdown]
# ## Checks
#
# A run takes hours. So everything that the labels alone determine is checked before any image is decoded. The first check is the folder for the results.

# %%
#| export
def writable(folder: Path) -> Path:
    "Create the folder if necessary. Raises: OSError if it cannot be written."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise OSError(
            f"the runs folder {folder} cannot be written ({e.strerror}): choose another with"
            " runs_root or FAIRGRAPE_RUNS_ROOT"
        ) from e
    return folder


# %%
(home / "file").write_text("")
print(refused(writable, home / "file"))
# no file is left behind
assert writable(home / "new" / "runs").is_dir() and not list((home / "new" / "runs").iterdir())

# %% [markdown]
# The following checks take a job. To show each alone, `example` makes a job by hand with one fault at a time: 160 images, of which the first 128 are for training.

# %%
table = own.table.assign(split=["train"] * 128 + ["val"] * 16 + ["test"] * 16)


def example(**more):
    return Job(
        replace(tiny, **more),
        own,
        table,
        dict(shade=["dark", "light"]),
        codes(table, "shade")[0][:, None],
        *codes(table, "tint"),
        home / "runs",
        home / "cache",
    )


example().table["split"].value_counts().to_dict()


# %% [markdown]
# A classifier needs at least two classes.

# %%
#| export
def _check_heads(job: Job):
    "Raise ValueError for a task of one class; warn of a class without training images."
    train, lost = (job.table["split"] == "train").to_numpy(), []
    for task, names in job.heads.items():
        if len(names) < 2:
            raise ValueError(
                f"task {task!r} has only the class {names}: a classifier needs two or more (classes"
                f" = {job.settings.classes!r})"
            )
    for head, (task, names) in enumerate(job.heads.items()):
        everywhere, there = (
            np.bincount(codes, minlength=len(names))
            for codes in (job.labels[:, head], job.labels[train, head])
        )
        lost += [
            f"{task} {names[c]!r} ({everywhere[c]} images)"
            for c in np.flatnonzero((there == 0) & (everywhere > 0))
        ]
    if lost:
        named = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        warnings.warn(
            f"no training image of {named}: the network cannot learn this class. Use another"
            " split or more images (limit), or leave the class out (classes)",
            stacklevel=3,
        )


# %%
print(refused(_check_heads, replace(example(), heads=dict(shade=["dark", "light"], tint=["red"]))))
assert _check_heads(example()) is None
job = example()
train = (job.table["split"] == "train").to_numpy()
unlearnt = replace(job, labels=np.where(train, 0, 1)[:, None], heads={"shade": ["dark", "light"]})
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    _check_heads(unlearnt)
print(said[0].message)
assert f"no training image of shade 'light' ({(~train).sum()} images)" in str(said[0].message)

# %% [markdown]
# Settings join columns: `race*gender` crosses two, `race+gender` are two heads, and `clusters` is not a column. So a column with such a name is an error if a setting uses it, and the error for a list of columns
# says how to join them. A data set's own column name, such as CelebA's `Male`, is replaced by the project's name.

# %%
#| export
# settings that name columns, and the characters that join columns
JOINED = dict(task="*+", groups="*", importance_groups="*")


def own_names(s: Settings, aliases: dict) -> Settings:
    "The settings with a data set's own column names replaced by those of its table."
    said = {
        k: re.sub(r"[^*+]+", lambda part: aliases.get(part[0].strip(), part[0]), getattr(s, k))
        for k in JOINED
    }
    return replace(s, **said)


def _check_columns(table: pd.DataFrame, s: Settings):
    """Raise ValueError for a column whose name has another meaning in the settings, and for
    columns joined by commas.
    """
    have = label_columns(table)
    for name, joints in JOINED.items():
        asked = getattr(s, name)
        parts = [part.strip() for part in re.split(f"[{joints}]", asked)]
        if "clusters" in parts and "clusters" in have:
            raise ValueError(
                f"{name} = {asked!r}: 'clusters' are groups found in the network's features, but"
                " this set has a label column of that name: rename the column in the label file"
            )
        odd = next((c for c in have if len(re.split(f"[{joints}]", c)) > 1 and c in asked), None)
        if odd and not set(parts) <= set(have):
            raise ValueError(
                f"{name} = {asked!r}: the label column {odd!r} cannot be used, because"
                f" {' and '.join(joints)} join columns: rename it in the label file"
            )
        listed = [part for part in parts if "," in part and part not in have]
        if listed:
            columns = [c.strip() for c in listed[0].split(",") if c.strip()]
            ways = [f"{'*'.join(columns)} for {' × '.join(columns)}"]
            if "+" in joints:
                ways.append(f"{'+'.join(columns)} for one head each")
            one = columns[0] if columns else "a column"
            right = ", or ".join(ways) if len(columns) > 1 else one
            raise ValueError(f"{name} = {asked!r}: columns are not joined by commas: write {right}")


# %%
def labelled(*columns: str) -> pd.DataFrame:
    return pd.DataFrame({c: pd.Categorical(["a", "b"]) for c in columns})


assert (
    _check_columns(
        labelled("clusters", "a+b", "sex", "shade"),
        replace(tiny, groups="a+b", importance_groups="sex*shade"),
    )
    is None
)
# an ordinary product
assert _check_columns(labelled("a", "b", "a*b"), replace(tiny, groups="a*b")) is None
for columns, wrong in (
    (["shade", "clusters"], dict(groups="clusters")),
    (["clusters"], dict(task="shade+clusters")),
    (["skin*tone"], dict(groups="skin*tone")),
    (["a+b"], dict(task="a+b")),
    (["sex"], dict(groups="race, sex")),
    (["sex"], dict(task="race,sex")),
    (["sex"], dict(importance_groups="sex,")),
):
    print(refused(_check_columns, labelled(*columns), replace(tiny, **wrong)))
male = own_names(replace(tiny, task="Young+Male", groups="Male*Bald"), dict(Male="gender"))
assert (male.task, male.groups, own_names(tiny, {})) == ("Young+gender", "gender*Bald", tiny)


# %% [markdown]
# Clusters are found after training, but the number of images already limits their number.

# %%
#| export
def _check_clusters(job: Job):
    "Raise ValueError for more clusters than the images allow."
    s, train = job.settings, job.table["split"] == "train"
    if s.clusters > train.sum():
        raise ValueError(
            f"clusters = {s.clusters}, but there are only {train.sum()} training images:"
            " choose fewer clusters"
        )
    part, n = min(job.table["split"].value_counts().items(), key=lambda item: item[1])
    if s.groups == "clusters" and 2 * s.clusters > n:
        raise ValueError(
            f"clusters = {s.clusters}, but {part} has only {n} images, and each compared cluster"
            " needs 2 or more in every part: choose fewer clusters"
        )


# %%
print(
    refused(_check_clusters, example(importance_groups="clusters", clusters=129)),
    refused(_check_clusters, example(groups="clusters", clusters=9)),
    sep="\n",
)
assert (
    _check_clusters(example(importance_groups="clusters", clusters=128)) is None
    and _check_clusters(example(groups="clusters", clusters=8)) is None
)


# %% [markdown]
# Each compared group needs images in every part, and two in the test part. The importance needs at least two groups and at least one image.

# %%
#| export
def group_counts(job: Job) -> pd.DataFrame:
    """Number of images of each compared group, one column per part. Raises: ValueError
    if a group has no images for training or testing.
    """
    s = job.settings
    counts = check_cells(
        job.table,
        job.table["split"],
        s.groups,
        left_out(s.classes, s.groups, codes(job.table, s.groups)[1]),
    )
    return counts.set_axis(pd.Index(job.group_names, name=s.groups))


def _check_compared(job: Job):
    "Raise ValueError if a compared group has too few images."
    if job.settings.groups == "clusters":
        return
    group_counts(job)
    check_groups(job.group[job.table["split"] == "test"], job.group_names)


def _check_importance_images(job: Job):
    "Raise ValueError if the importance would see only one group, or no image."
    s, train = job.settings, job.table["split"] == "train"
    if (
        s.importance_groups not in ("", "clusters")
        and len(codes(job.table, s.importance_groups)[1]) < 2
    ):
        raise ValueError(
            f"importance_groups = {s.importance_groups!r} has only one group: choose another"
            " column, or method = 'importance', which needs no groups"
        )
    if s.importance_on and not (matching(job.table, s.importance_on) & train).any():
        raise ValueError(
            f"importance_on = {s.importance_on!r} matches none of the {train.sum()} training"
            " images: choose other classes"
        )


# %%
# no red image in training
late = table.assign(
    split=["test" if tint == "red" else split for tint, split in zip(table["tint"], table["split"])]
)
print(
    refused(_check_compared, replace(example(), table=late)),
    refused(_check_importance_images, replace(example(importance_on="tint=red"), table=late)),
    sep="\n",
)
print(
    refused(
        _check_importance_images,
        replace(example(importance_groups="tint"), table=keep_classes(table, "tint", ["red"])),
    )
)
# clusters do not exist yet
assert (
    _check_compared(example()) is None
    and _check_compared(replace(example(groups="clusters"), table=late)) is None
)
assert (
    _check_importance_images(example(importance_on="tint=red")) is None
    and _check_importance_images(example(importance_groups="shade")) is None
)


# %% [markdown]
# The network is checked on the meta device, where layers have shapes but no memory: does it exist, does it accept images of this size, would a global rate remove a whole layer?

# %%
#| export
def _check_architecture(job: Job):
    """Raise ValueError for a network that does not exist, does not accept these images, has
    nothing to prune, or would lose a whole layer at a global rate.
    """
    s = job.settings
    check_network(s.network, sum(job.sizes), s.image_size)
    if s.method == "dense":
        return
    with torch.device("meta"):
        masks = get_masks(plain_model(s.network, sum(job.sizes), image_size=s.image_size))
    check_scope(masks, s.rate, form(s).scope)


# %%
for wrong in (dict(network="resnet10O"), dict(rate=0.9999999, scope="global")):
    print(refused(_check_architecture, example(**wrong)))
assert (
    _check_architecture(example(scope="global")) is None
    and _check_architecture(example(method="dense", rate=0.9999999)) is None
)


# %%
#| export
def check_job(job: Job):
    "Raise ValueError for settings that do not fit these data or this network."
    _check_columns(job.table, job.settings)
    for check in (
        _check_clusters,
        _check_compared,
        _check_importance_images,
        _check_heads,
        _check_architecture,
    ):
        check(job)


# %%
for wrong in (
    example(groups="clusters", clusters=9),
    replace(example(), table=late),
    replace(example(), heads=dict(shade=["dark"])),
    example(importance_on="tint=green"),
    example(network="net"),
):
    print(refused(check_job, wrong)[:90])
assert check_job(example()) is None


# %% [markdown]
# ## From settings to a job
#
# Clusters come from the features of a dense network. That network itself is compared by groups that already exist: its classes.

# %%
#| export
def _label_arrays(
    table: pd.DataFrame,  # The rows used
    specs: list[str],  # Label columns of the heads
    groups: str,  # Label column whose groups are compared, or "clusters"
    classes: str = "",  # As in the settings: excluded cells of a product
) -> dict:  # `heads`, `labels`, `group` and `group_names` of a job
    """Labels and groups as codes; if the groups will be clusters, the first head's classes
    are used until then.
    """
    heads = {spec: codes(table, spec) for spec in specs}
    group, names = group_codes(table, specs[0] if groups == "clusters" else groups, classes)
    return dict(
        heads={spec: n for spec, (_, n) in heads.items()},
        labels=np.stack([c for c, _ in heads.values()], 1),
        group=group,
        group_names=names,
    )


# %%
arrays = _label_arrays(own.table[:4], ["shade", "tint"], "tint")
print(arrays)
assert arrays["labels"].tolist() == [[0, 1], [1, 0], [0, 0], [1, 1]] and arrays[
    "group"
].tolist() == [1, 0, 0, 1]
assert arrays["heads"] == dict(shade=["dark", "light"], tint=["blue", "red"])
assert _label_arrays(own.table[:4], ["shade"], "clusters")["group_names"] == ["dark", "light"]


# %% [markdown]
# A missing column is reported before the archive is unpacked. For a partial data set, a warning says how much of it exists.

# %%
#| export
def _check_names(settings: Settings):
    """Raise ValueError for a column or class that a published data set does not have, before
    its files are read.
    """
    if (known := known_labels(settings.dataset)) is None:
        return
    settings = own_names(settings, known.notes["aliases"])
    _check_columns(known.table, settings)
    specs = known.notes["tasks"].get(settings.task, settings.task).split("+")
    for spec in [*specs, settings.groups, settings.importance_groups]:
        if spec not in ("", "clusters"):
            codes(known.table, spec)
    if settings.dataset == "people":
        return  # its classes are in its files
    table = classes_used(known.table, settings.classes, {})
    if settings.imbalance:
        thin_table(table, settings.imbalance)
    if settings.importance_on:
        matching(table, settings.importance_on)


def _check_part(data: FaceData):
    "Warn of a partial data set, with its size. Raises: ValueError if no image exists."
    if data.table.empty:
        raise ValueError(f"{data.name}: none of the images that the labels name is in {data.root}")
    if data.notes.get("missing"):
        warnings.warn(f"{data.name}: partial = True, the run uses {part_of(data)}", stacklevel=3)


def _read(settings: Settings, data_root: str | Path | None, progress: bool) -> FaceData:
    "The set that the settings name, checked before and after"
    _check_names(settings)
    path = settings.data_path or None
    data = read_dataset(
        settings.dataset,
        path,
        root("data", data_root),
        progress=progress,
        strict=not settings.partial,
        fit=settings.fit,
    )
    if settings.partial:
        _check_part(data)
    return data


# %%
for wrong in (
    dict(task="rase"),
    dict(groups="race*gendre"),
    dict(classes="race=Blue"),
    dict(importance_on="race=Blue"),
    dict(imbalance="rase=White:0.2"),
    dict(dataset="people", groups="race"),
):
    print(refused(_check_names, Settings(**wrong)))
assert refused(_check_names, Settings(task="rase")).startswith(
    "no label column 'rase': this set has age, gender, race"
)
assert (
    _check_names(Settings(dataset="celeba", task="attributes", groups="gender*Bald")) is None
    and _check_names(tiny) is None
)
assert _check_names(Settings(dataset="celeba", task="attributes", groups="Male")) is None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    _check_part(replace(own, notes=dict(missing=["gone.jpg"]))), _check_part(own)
print(caught[0].message)
assert [str(w.message) for w in caught] == [
    f"folder: partial = True, the run uses {len(own.table)} of {len(own.table) + 1} images"
]
assert "none of the images" in refused(_check_part, replace(own, table=own.table[:0]))


# %% [markdown]
# `prepare` is the first of the four calls of a run ([experiment](08_run.ipynb) has the other three). It opens no image and uses no GPU, so a sweep can prepare hundreds of runs before it starts one.

# %%
#| export
def prepare(
    settings: Settings,  # What to run
    data_root: str | Path | None = None,  # Folder of the data sets; default: settings.ini
    runs_root: str | Path | None = None,  # Folder of the runs; default: settings.ini
    cache_root: str | Path | None = None,  # Folder of decoded images; default: settings.ini
    name: str = "",  # Another name for the run folder
    progress: bool | None = True,  # A live line; False: a plain line per epoch; None: nothing
    **machine,  # device, threads, keep_on, keep_steps, processes: see `Machine`
) -> Job:  # Settings and data, checked
    """Read the labels and check everything that can be checked before work starts.

    Raises: ValueError, FileNotFoundError or OSError that name the setting, file, column or row at
    fault.
    """
    plain_name(name)
    team = team_of(machine.get("device", ""))
    here = Machine(**machine, progress=progress, team=team, data_root=data_root)
    with team.main_first():  # one process unpacks the archives
        data = _read(settings, data_root, here.shows is True)
    settings = own_names(settings, data.notes.get("aliases", {}))
    _check_columns(data.table, settings)
    specs = data.notes.get("tasks", {}).get(settings.task, settings.task).split("+")
    # clusters are found after the dense network
    if settings.method == "dense" and settings.groups == "clusters":
        settings = replace(settings, groups=specs[0])
    table = _rows_used(data, settings, specs)
    arrays = _label_arrays(table, specs, settings.groups, settings.classes)
    table = table.assign(split=split_table(table, settings.split))
    job = Job(
        settings,
        data,
        table,
        **arrays,
        runs_root=writable(root("runs", runs_root)),
        cache_root=root("cache", cache_root),
        name=name,
        machine=here,
    )
    check_job(job)
    return job


# %%
job = prepare(tiny, **places)
print(job.heads, job.group_names, job.table["split"].value_counts().to_dict())
assert (
    job.sizes == [2]
    and job.group_names == ["blue", "red"]
    and job.labels.shape == (160, 1)
    and job.table["split"].value_counts()["train"] == 128
)
there = prepare(tiny, device="cpu", threads=2, **places)
assert (there.machine.device, there.machine.threads, there.machine.opened) == ("cpu", 2, {})
assert there.machine.started > job.machine.started
assert prepare(replace(tiny, task="shade+tint"), **places).sizes == [2, 2] and list(
    prepare(replace(tiny, task="shade*tint"), **places).heads
) == ["shade*tint"]
assert (
    prepare(replace(tiny, method="dense", groups="clusters"), **places).settings.groups == "shade"
)
for wrong, where in (
    (dict(task="colour"), {}),
    (dict(groups="hue"), {}),
    (dict(classes="tint=green"), {}),
    (dict(classes="tint"), {}),
    (dict(limit=3), {}),
    (dict(classes="tint=red"), {}),
    (dict(classes="shade=dark"), {}),
    (dict(data_path=str(home / "none")), {}),
    ({}, dict(runs_root=home / "file")),
    ({}, dict(name="../up")),
):
    print(refused(prepare, replace(tiny, **wrong), **(places | where)))
# the error is about the column, not about FairFace, which is missing here
assert refused(prepare, Settings(task="rase"), data_root=home / "nowhere").startswith(
    "no label column 'rase'"
)


# %% [markdown]
# ## Which folder
#
# The name of a run's folder contains a hash of everything that changes the result: the settings that affect its method, the images and labels in use, and the initial weights. The same settings give
# the same folder, and a changed label table gives another one. The location of the data does not matter.
#
# A sweep computes this for hundreds of jobs on one table of a hundred thousand rows, so values computed from a table are cached and shared.

# %%
#| export
def once(job: Job, what: str, read: Callable):
    "The result of `read`, cached for all jobs on this table."
    if job.known.get("table") is not job.table:
        job.known.clear()
        job.known["table"] = job.table
    if what not in job.known:
        job.known[what] = read()
    return job.known[what]


# %%
asked = []


def reading():
    asked.append("read")
    return len(job.table)


print(once(job, "length", reading), once(replace(job, name="another"), "length", reading), asked)
assert asked == ["read"] and once(job, "length", None) == 160
# another table
assert once(replace(job, table=job.table[:-1]), "length", lambda: "read again") == "read again"
assert once(job, "length", lambda: 160) == 160


# %%
#| export
def fingerprint(
    job: Job,  # Settings and data
) -> str:  # 64 hexadecimal digits
    """Hash of everything that changes a run's result: settings, images (by name), labels, split,
    initial weights.
    """
    digest = hashlib.sha256(json.dumps(identity(job.settings), sort_keys=True).encode())
    digest.update(
        once(job, "text", lambda: job.table.to_csv(index=False).encode())
        + (job.data.key.encode() if job.data.root is None else b"")
    )
    digest.update(
        json.dumps(
            [
                job.heads,
                (
                    None
                    if job.settings.groups == "clusters"
                    else _bare_names(job.group_names, job.settings.groups)
                ),
            ]
        ).encode()
    )
    if Path(job.settings.weights).is_file():
        digest.update(Path(job.settings.weights).read_bytes())
    return digest.hexdigest()


# %%
(home / "one").write_bytes(b"1")
(home / "another").write_bytes(b"2")


def from_file(name):
    return fingerprint(replace(job, settings=replace(tiny, method="ws", weights=str(home / name))))


print(fingerprint(job)[:16], from_file("one")[:16], from_file("another")[:16])
other = dict(
    setting=replace(job, settings=replace(tiny, seed=1)),
    rows=replace(job, table=job.table[:-1]),
    labels=replace(job, table=job.table.assign(tint="red")),
    split=replace(job, table=job.table.assign(split="train")),
    order=replace(job, heads=dict(shade=["light", "dark"])),
    groups=replace(job, group_names=["red", "blue"]),
)
# each of these is another run
assert len({fingerprint(job), *map(fingerprint, other.values())}) == 1 + len(other)
assert fingerprint(
    replace(
        job, settings=replace(tiny, data_path="elsewhere"), runs_root=home / "others", name="mine"
    )
) == fingerprint(job)
(home / "two").write_bytes(b"1")


def drawn(key):
    return fingerprint(replace(job, data=replace(job.data, root=None, key=key)))


assert drawn("a") != drawn("b")  # rendered images have no files; their key identifies them


# %% [markdown]
# The readable part of the name is for people. Two different runs with the same readable name have different hashes.

# %%
#| export
def run_name(job: Job) -> str:
    "Data set, task, network, method, rate, scope and seed, or the run's given name."
    s = job.settings
    pruned = [] if s.method == "dense" else [f"{s.rate:g}", form(s).scope]
    return job.name or folder_name(
        "-".join(
            [
                s.dataset,
                s.task.replace("*", "x"),
                s.network.replace(":", "-"),
                s.method,
                *pruned,
                f"s{s.seed}",
            ]
        )
    )


def run_folder(job: Job) -> Path:
    "The folder of this run: a readable name and the first 8 digits of its fingerprint."
    return job.runs_root / f"{run_name(job)}-{fingerprint(job)[:8]}"


# %%
crossed = replace(
    job, settings=replace(tiny, task="shade*tint", network="timm:resnet10t", method="dense", seed=3)
)
print(run_folder(job).name, run_name(crossed), sep="\n")
assert (
    run_name(job) == "folder-shade-resnet10-fairgrape-0.9-layer-s0"
    and run_name(crossed) == "folder-shadextint-timm-resnet10t-dense-s3"
)
assert run_name(replace(job, name="mine")) == "mine"
odd = replace(job, settings=replace(tiny, task="gender/sex"))
assert (
    run_folder(odd).parent == home / "runs"
    and run_name(odd) == "folder-gender-sex-resnet10-fairgrape-0.9-layer-s0"
)
assert (
    fingerprint(replace(job, group_names=["tint: no", "tint: yes"]))
    == fingerprint(replace(job, group_names=["no", "yes"]))
    != fingerprint(job)
)
assert run_folder(job) == home / "runs" / f"{run_name(job)}-{fingerprint(job)[:8]}"
assert (
    run_folder(prepare(replace(tiny, seed=1), **places))
    != run_folder(job)
    == run_folder(prepare(tiny, **places))
)


# %% [markdown]
# Every pruned network is compared with the dense network that it came from. The dense network is a separate job without the pruning settings.

# %%
#| export
def dense_job(job: Job) -> Job:
    """The job that trains the dense network of this one; if the groups are clusters of its
    features, the dense network is compared by its own classes.
    """
    s = job.settings
    groups = next(iter(job.heads)) if s.groups == "clusters" else s.groups
    none = {
        k: Settings.__dataclass_fields__[k].default
        for k in ("as_released", "importance_on", "importance_groups", "clusters", "steps", "scope")
    }
    if s.groups == "clusters":
        job = replace(
            job,
            group=job.labels[:, 0],
            group_names=_said_names(job.heads[groups], groups),
            clusters=None,
        )
    return replace(
        job,
        settings=replace(s, method="dense", groups=groups, **none),
        name=job.name if s.method == "dense" else "",
    )


# %%
clustered = dense_job(prepare(replace(tiny, groups="clusters", clusters=3), **places))
print(run_folder(dense_job(job)).name, clustered.settings.groups, clustered.group_names)
assert run_folder(dense_job(job)) == run_folder(
    dense_job(prepare(replace(tiny, rate=0.5, scope="global", importance_on="tint=red"), **places))
)
assert dense_job(replace(job, name="mine")).name == ""
assert (
    clustered.group_names == ["dark", "light"]
    and clustered.group.tolist() == job.labels[:, 0].tolist()
    and clustered.settings.clusters == 0
)
assert dense_job(replace(dense_job(job), name="mine")).name == "mine"


# %% [markdown]
# A run is complete when `metrics.json` exists, because that file is written last.

# %%
#| export
def is_complete(folder: Path) -> bool:
    "Whether the run in this folder is complete."
    return (folder / "metrics.json").is_file()


# %%
made = replace(job, runs_root=home / "made")
run_folder(made).mkdir(parents=True)
before = is_complete(run_folder(made))
(run_folder(made) / "metrics.json").write_text("{}")
print(before, is_complete(run_folder(made)))
assert not before and is_complete(run_folder(made))


# %% [markdown]
# FairFace's narrow and wide crops have the same names and labels. So a run's folder stores a hash of its image files' sizes (modification times change when a data set is copied), and a run stops if its folder was made from other images.

# %%
#| export
def image_sizes(
    job: Job,  # Settings and data
) -> str:  # 16 hexadecimal digits; "" if images are rendered
    "Hash of the sizes of the image files in use."
    if job.data.root is None:
        return ""
    return once(
        job,
        "sizes",
        lambda: hashlib.sha256(
            repr([(job.data.root / path).stat().st_size for path in job.table["path"]]).encode()
        ).hexdigest()[:16],
    )


def made_of(job: Job) -> str:
    "A run's identity including its images, in one line: a checkpoint resumes only the same run."
    return f"{fingerprint(job)[:16]} {image_sizes(job)}"


def _kept_settings(folder: Path) -> dict:
    "The settings of a finished run. Raises: ValueError that names the file if it is damaged."
    try:
        return json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ValueError(
            f"{folder / 'settings.json'} cannot be read ({e}): remove that folder to repeat the"
            " run"
        ) from e


def check_images(job: Job):
    """Raise ValueError if the run's folder, or its dense network's, was made from other images
    with the same names.
    """
    for folder in {run_folder(job), run_folder(dense_job(job))}:
        known = _kept_settings(folder).get("image_sizes") if is_complete(folder) else None
        if known and known != image_sizes(job):
            raise ValueError(
                f"{folder} holds a run on other images with the same names and labels: choose"
                " another runs_root or name"
            )


# %%
(run_folder(made) / "settings.json").write_text(json.dumps(dict(image_sizes=image_sizes(job))))
check_images(made)  # its own images
(run_folder(made) / "settings.json").write_text(json.dumps(dict(image_sizes="another")))
print(image_sizes(job), refused(check_images, made))
(run_folder(made) / "settings.json").write_text("{")
print(refused(check_images, made).replace(str(home), "…"))
assert "settings.json cannot be read" in refused(check_images, made)
assert (
    len(image_sizes(job)) == 16
    and image_sizes(replace(job, data=replace(job.data, root=None))) == ""
    and check_images(job) is None
)
with open(home / "own" / rows[0]["file"], "ab") as file:
    file.write(b"one byte more")
# same name, other images
assert image_sizes(prepare(tiny, **places)) != image_sizes(job) and run_folder(
    prepare(tiny, **places)
) == run_folder(job)
assert made_of(prepare(tiny, **places)) != made_of(job) and made_of(job).startswith(
    fingerprint(job)[:16]
)
