# %% [markdown]
# # Settings
#
# > Everything that decides a run's result, in one frozen record, checked when it is created

# %%
#| default_exp experiment.settings

# %%
#| export
import ast
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import ModuleType

from fairgrape.data.archives import DATASETS
from fairgrape.experiment.paths import system_path
from fairgrape.method.schedule import SCOPES, schedule
from fairgrape.methods.registry import METHODS, Method, as_released, method, touches
from fairgrape.training.stages import PRECISIONS, stages

# %%
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd


def refused(make, *args, **given):
    "The error that `make` raises; an assertion fails if it raises none."
    try:
        make(*args, **given)
    except (ValueError, TypeError) as e:
        return str(e)
    raise AssertionError(f"{args or given} was accepted")


# %% [markdown]
# Settings come from notebooks, shells and YAML files, so the record checks them when it is created, long before an image is read. Each error names the setting and says what would be valid. A check is a function that
# raises. The checks follow below, each with its reason; this list registers them.

# %%
#| export
CHECKS: list[Callable] = []


def _settings_check(f: Callable) -> Callable:
    "Register a check; checks run in the order of their definition."
    CHECKS.append(f)
    return f


def _check_settings(s: "Settings"):
    "Convert values to their types. Raises: ValueError or TypeError for an invalid setting."
    for check in CHECKS:
        check(s)


# %%
@_settings_check
def check_color(s):
    if s.color == "none":
        raise ValueError("color = 'none': choose red or blue")


print(refused(_check_settings, SimpleNamespace(color="none")))
# remove the example again
assert CHECKS.pop() is check_color and _check_settings(SimpleNamespace(color="none")) is None

# %% [markdown]
# ## One line per setting
#
# A setting is one line of the record below: its type, its default, a sentence of help, and its valid values. The notebook's parameter cell, the options of the command line, the checks, the identity of a run and the table further down derive from that line. To add a setting, add a line.

# %%
#| export
FIRST = "0.1.0"  # the version of the first runs


@dataclass(frozen=True)
class About:
    "The description of a setting, apart from its type and default."

    help: str  # One sentence, without a capital and a full stop
    chapter: str  # Its heading in help and tables
    label: str = ""  # Its name in a report; empty: the setting's name
    # Valid values: words, or word → explanation; empty: any value
    choices: Mapping | tuple = ()
    least: float | None = None  # The smallest value
    most: float | None = None  # The largest value
    above: float | None = None  # The value is larger than this
    below: float | None = None  # The value is smaller than this
    null: str | None = None  # The value that a null in YAML stands for
    path: bool = False  # It can hold a path
    several: bool = False  # In a grid its text is split into several values
    bare: bool = False  # Its value appears without its name in the line that describes a run
    rows: bool = False  # It decides which rows of which table are used
    identity: bool = True  # It changes the result, so it identifies a run
    dense: bool = True  # It changes the dense network
    later: bool = False  # Some runs are older; it identifies a run only if it is not the default
    since: str = FIRST  # The version that introduced it

    @property
    def added(self) -> bool:
        "Whether some runs are older than this setting."
        return self.later or self.since != FIRST


def setting(
    default,  # The default, whose type is the annotation's
    help: str,  # One sentence
    chapter: str,  # Its heading in help and tables
    **more,  # The other fields of `About`
):  # A field of a dataclass
    "A setting: a dataclass field with its description in the metadata."
    return field(default=default, metadata=dict(about=About(help, chapter, **more)))


def abouts(
    *records: type,  # Dataclasses made of `setting`
) -> dict[str, About]:  # Setting → its description
    "The descriptions of all settings of some records, in order."
    return {f.name: f.metadata["about"] for record in records for f in fields(record)}


# %%
@dataclass(frozen=True)
class Toy:
    rate: float = setting(0.9, "share of weights removed", "method", above=0, below=1)
    order: str = setting("up", "which go first", "method", choices=("up", "down"), since="0.2.0")


abouts(Toy)["rate"]

# %%
assert list(abouts(Toy)) == ["rate", "order"] and Toy().rate == 0.9
assert (abouts(Toy)["rate"].added, abouts(Toy)["order"].added) == (False, True)


# %% [markdown]
# Choices and bounds as text, for help and comments:

# %%
#| export
def words_of(
    about: About,  # A setting
) -> str:  # E.g. "the parts: photo (by photograph), person or official"
    "A setting's help with its choices."
    if not about.choices:
        return about.help
    why = about.choices if isinstance(about.choices, Mapping) else {}
    said = [f"{word} ({why[word]})" if why.get(word) else word for word in about.choices]
    return f"{about.help}: {', '.join(said[:-1])} or {said[-1]}"


def bounds_of(
    about: About,  # A setting
) -> str:  # E.g. "above 0 and below 1"; "": any number
    "A setting's bounds in words."
    bounds = {
        "at least": about.least,
        "above": about.above,
        "at most": about.most,
        "below": about.below,
    }
    return " and ".join(f"{word} {bound:,}" for word, bound in bounds.items() if bound is not None)


# %%
print(words_of(abouts(Toy)["order"]), "|", bounds_of(abouts(Toy)["rate"]))
assert words_of(abouts(Toy)["order"]) == "which go first: up or down"
assert words_of(About("the part", "data", choices=dict(a="one", b="", c="two"))) == (
    "the part: a (one), b or c (two)"
)
assert bounds_of(abouts(Toy)["rate"]) == "above 0 and below 1" and bounds_of(About("", "")) == ""
assert bounds_of(About("", "", least=0, most=4096)) == "at least 0 and at most 4,096"

# %% [markdown]
# A run is a function of its settings. They are one frozen record. Its defaults are the paper's protocol (section 4), for a GPU. The parameters of the notebook that papermill runs and the options
# of `fairgrape run` have the same names.

# %%
#| export
_METHODS = {"dense": "no pruning"} | dict.fromkeys(METHODS, "")
_FORMS = dict(published="as the method was published")
_SPLITS = dict(
    photo="80/10/10 by photograph, always seed 42", person="by identity", official="the set's own"
)
_FITS = dict(
    crop="its middle", squeeze="all of it, as in the public code", pad="all, with black bars"
)
_SCOPES = dict(layer="the same rate in every layer", **{"global": "one budget for all"})


@dataclass(frozen=True)
class Settings:
    "Everything that decides a run's result; the defaults are the paper's protocol."

    dataset: str = setting(
        "fairface",
        "data set: synthetic, utkface, fairface, celeba, people or folder (your own)",
        "data",
        several=True,
        bare=True,
        rows=True,
    )
    data_path: str = setting(
        "",
        "archive or folder of the data set; empty: searched for under the data root",
        "data",
        path=True,
        rows=True,
        identity=False,
    )
    task: str = setting(
        "race",
        'label column to predict; "a*b" crosses two, "a+b" has a head for each; CelebA:'
        ' "attributes", 39 heads',
        "data",
        several=True,
        bare=True,
        rows=True,
    )
    groups: str = setting(
        "race",
        'label column whose groups are compared; "a*b" crosses two; "clusters": groups found in'
        " the dense network's features",
        "data",
        several=True,
        rows=True,
    )
    classes: str = setting(
        "",
        'classes to keep, as "race=White,Black;gender=Male", or to leave out, as'
        ' "race!=Others"; empty: the usual ones',
        "data",
        rows=True,
    )
    imbalance: str = setting(
        "",
        '"race=White:0.2" keeps all White images and others with probability 0.2, before the'
        " split; empty: all",
        "data",
        rows=True,
        later=True,
    )
    split: str = setting("photo", "how images are divided", "data", choices=_SPLITS, rows=True)
    limit: int = setting(
        0,
        "use only this many images, drawn at random (seed 42); 0: all",
        "data",
        label="limited to",
        least=0,
        rows=True,
    )
    partial: bool = setting(
        False,
        "use the images that exist; otherwise a missing file of the data set is an error",
        "data",
        later=True,
    )
    network: str = setting(
        "resnet34",
        "a torchvision classifier, timm:NAME, efficientnet_lite0, or the small resnet10",
        "network",
        several=True,
        bare=True,
    )
    weights: str = setting(
        "imagenet",
        "imagenet, none, or the path of a dense network's weights, which are used unchanged",
        "network",
        null="none",
        path=True,
    )
    image_size: int = setting(
        224, "side of the square images, pixels", "network", least=16, several=True
    )
    fit: str = setting(
        "crop", "how a rectangular image becomes a square", "network", choices=_FITS, later=True
    )
    method: str = setting(
        "fairgrape", "pruning method", "method", choices=_METHODS, several=True, bare=True
    )
    rate: float = setting(
        0.99,
        "pruning rate, the fraction of weights removed",
        "method",
        above=0,
        below=1,
        several=True,
        bare=True,
    )
    keep: float = setting(
        0.9,
        "fraction kept at each pruning step (iterative methods)",
        "method",
        above=0,
        below=1,
        several=True,
    )
    steps: str = setting(
        "published",
        "pruning in steps or at once",
        "method",
        choices=_FORMS | {"iterative": "", "one shot": ""},
    )
    scope: str = setting(
        "published",
        "which weights share a budget",
        "method",
        choices=_FORMS | {scope: _SCOPES[scope] for scope in SCOPES},
        several=True,
        bare=True,
    )
    as_released: bool = setting(
        False,
        "use the public code's importance and selection instead of the paper's",
        "method",
        later=True,
        dense=False,
    )
    epochs: str = setting(
        "13,3,3", "epochs of each training stage, dense and after pruning", "training"
    )
    lrs: str = setting(
        "1e-4,1e-5,1e-6", "Adam's learning rate in each stage", "training", label="learning rates"
    )
    retrain_epochs: int = setting(3, "epochs after each pruning step", "training", least=1)
    retrain_lr: float = setting(1e-5, "learning rate after each pruning step", "training", above=0)
    batch: int = setting(64, "images in a training batch", "training", least=2)
    importance_batch: int = setting(
        64, "maximum images of one group in an importance batch", "importance", least=1
    )
    importance_cap: int = setting(
        0, "maximum images of a group used for the importance; 0: all", "importance", least=0
    )
    importance_on: str = setting(
        "",
        'training images used for the importance, as "race=White" or "race!=White"; empty: all',
        "importance",
        later=True,
    )
    importance_groups: str = setting(
        "",
        'groups whose importance shares are kept, if not those compared; "clusters": as in groups',
        "importance",
        later=True,
    )
    clusters: int = setting(
        0,
        "number of clusters, if groups are clusters; 0: chosen by silhouette",
        "importance",
        least=0,
        later=True,
        dense=False,
    )
    augment: str = setting(
        "paper",
        "augmentation of training images",
        "training",
        label="augmentation",
        choices=("paper", "flip", "none"),
        null="none",
    )
    precision: str = setting(
        "fp32", "arithmetic of training (importance: fp32)", "training", choices=PRECISIONS
    )
    seed: int = setting(
        0,
        "seed of initial weights, order of images and augmentation; not of the split",
        "training",
        least=0,
        most=2**32 - 1,
        several=True,
    )
    bootstrap: int = setting(2000, "resamples for the intervals", "judging", least=100, most=10**6)
    accumulate: int = setting(
        1,
        "parts into which a training batch is divided, to save memory",
        "training",
        least=1,
        later=True,
    )
    compiled: bool = setting(
        False,
        "use torch.compile: faster, but needs a C++ compiler and changes the last digits",
        "training",
        later=True,
    )

    def __post_init__(self):
        _check_settings(self)


# %%
paper = Settings()
print(
    {
        k: v
        for k, v in asdict(paper).items()
        if k
        in (
            "network",
            "image_size",
            "rate",
            "keep",
            "epochs",
            "lrs",
            "retrain_epochs",
            "batch",
        )
    }
)
assert (paper.network, paper.image_size, paper.keep, paper.epochs, paper.lrs) == (
    "resnet34",
    224,
    0.9,
    "13,3,3",
    "1e-4,1e-5,1e-6",
)
# equal settings are one key
assert Settings(method="ws") == replace(paper, method="ws") and len({paper, Settings()}) == 1


# %% [markdown]
# ## Types
#
# A shell and papermill's command line pass everything as text. Text becomes a number if the conversion is exact: `1.5` is not a seed, and a list is a sweep, not a run.

# %%
#| export
def typed(name: str, given, kind: type):
    "`given` as int, float, str or bool. Raises: TypeError if the conversion is not exact."
    if kind is bool and str(given) in ("True", "False"):
        return str(given) == "True"
    try:
        value = None if kind is bool else kind(given)
    except (TypeError, ValueError, OverflowError):
        value = None
    wanted = "True or False" if kind is bool else kind.__name__
    if value is None or (kind is int and float(given) != value):
        raise TypeError(f"{name} = {given!r}: it must be {wanted}")
    return value


# %%
[typed("rate", "0.9", float), typed("seed", "3", int), typed("as_released", "False", bool)]

# %%
assert (
    typed("seed", 3.0, int) == 3
    and typed("rate", "0.9", float) == 0.9
    and typed("as_released", "True", bool) is True
    and typed("as_released", False, bool) is False
)
for wrong in (
    ("batch", "many", int),
    ("seed", 1.5, int),
    ("rate", [0.9, 0.99], float),
    ("as_released", "perhaps", bool),
    ("as_released", 1, bool),
    ("seed", float("inf"), int),
):
    print(refused(typed, *wrong))


# %%
#| export
def _no_null(
    name: str,  # A setting or a place
    # Its value; None for a YAML `null`, a YAML line without a value, or papermill's `None`
    given,
    default,  # The setting's default
    null: str | None = None,  # The setting's value for a null, if it has one
):  # The value, never None
    "Replace a null by the value it stands for. Raises: ValueError if it stands for none."
    if given is not None:
        return given
    meant = null if null is not None or default != "" else ""
    if meant is None:
        raise ValueError(
            f"{name} = null: this setting needs a value; give one, or leave the line out, which"
            f" means {default!r}"
        )
    return meant


# %%
print(_no_null("weights", None, "imagenet", "none"), _no_null("classes", None, ""))
assert _no_null("weights", None, "imagenet", "none") == "none" and _no_null("seed", 3, 0) == 3
assert _no_null("data_path", None, "") == ""
for name, default in (
    ("rate", 0.99),
    ("limit", 0),
    ("as_released", False),
    ("epochs", "13,3,3"),
    ("method", "fairgrape"),
):
    print(refused(_no_null, name, None, default))


# %%
#| export
@_settings_check
def _check_types(s: Settings):
    """Convert every setting to its type. Raises: TypeError for a wrong type, ValueError for a
    null that stands for no value.
    """
    for f in fields(s):
        given = _no_null(f.name, getattr(s, f.name), f.default, f.metadata["about"].null)
        object.__setattr__(s, f.name, typed(f.name, given, f.type))


# %%
text = Settings(method="ws", rate="0.9", image_size="64", compiled="True")
text.rate, text.image_size, text.compiled

# %%
assert (
    text == Settings(method="ws", rate=0.9, image_size=64, compiled=True)
    and type(text.image_size) is int
)
assert (
    refused(Settings, as_released="perhaps") == "as_released = 'perhaps': it must be True or False"
)
assert Settings(weights=None, augment=None, classes=None) == Settings(
    weights="none", augment="none", classes=""
)
for f in fields(Settings):  # no null becomes a default
    if f.metadata["about"].null is None and f.default != "":
        assert refused(Settings, **{f.name: None}).startswith(f"{f.name} = null: ")


# %%
#| export
@_settings_check
def _check_dataset(s: Settings):
    "Raise ValueError for a data set without a reader."
    if s.dataset not in DATASETS:
        raise ValueError(f"unknown dataset {s.dataset!r}: choose one of {', '.join(DATASETS)}")


# %%
print(refused(Settings, dataset="imdb"))
assert refused(Settings, dataset="imdb").startswith("unknown dataset 'imdb': choose one of synth")


# %%
#| export
@_settings_check
def _check_paths(s: Settings):
    "Make paths those of this system, or raise ValueError."
    for name in [name for name, about in abouts(s).items() if about.path]:
        object.__setattr__(s, name, system_path(name, getattr(s, name)))


# %%
assert Settings(data_path="~/faces", weights="~/own.pth", method="ws") == Settings(
    data_path=str(Path.home() / "faces"), weights=str(Path.home() / "own.pth"), method="ws"
)
print(refused(Settings, data_path=r"C:\faces") if os.name != "nt" else "")


# %% [markdown]
# ## Choices and bounds
#
# A word must be one of the choices, and a number must lie within its bounds. Batch normalisation needs at least two images, so a batch has at least two, and so has each part of an accumulated batch.

# %%
#| export
def _fault(value, default, about: About) -> str:
    "The error for an invalid value; empty if it is valid."
    if about.choices and value not in about.choices:
        return f"choose one of {', '.join(about.choices)}"
    if about.least is not None and not value >= about.least:
        return f"it must be at least {about.least}"
    if about.most is not None and not value <= about.most:
        return f"it must be at most {about.most}"
    high = about.above is None or value > about.above
    low = about.below is None or value < about.below
    return "" if high and low else f"choose a number {bounds_of(about)}, such as {default}"


@_settings_check
def _check_values(s: Settings):
    "Raise ValueError for a word that is not a choice, or a number out of bounds."
    for f in fields(s):
        value = getattr(s, f.name)
        fault = _fault(value, f.default, f.metadata["about"])
        if fault:
            raise ValueError(f"{f.name} = {value!r}: {fault}")


@_settings_check
def _check_parts(s: Settings):
    "Raise ValueError for a single cluster, or for parts of a batch that are too small."
    if s.clusters == 1:
        raise ValueError(
            "clusters = 1: one cluster is not a grouping; choose 2 or more, or 0 to choose the"
            " number by silhouette"
        )
    if s.accumulate > s.batch // 2:
        raise ValueError(
            f"accumulate = {s.accumulate} parts of a batch of {s.batch}: each needs 2 images, so"
            f" choose 1 to {s.batch // 2}"
        )


# %%
told = [_fault(value, 0.9, abouts(Toy)["rate"]) for value in (0.5, 1.0, float("nan"))]
print(told)
assert told == ["", *["choose a number above 0 and below 1, such as 0.9"] * 2]
assert _fault("left", "up", abouts(Toy)["order"]) == "choose one of up, down"
assert _fault(5000, 0, About("", "", least=0, most=4096)) == "it must be at most 4096"
assert _fault(-1, 0, About("", "", least=0, most=4096)) == "it must be at least 0"

# %%
for wrong in (
    dict(method="grape"),
    dict(fit="stretch"),
    dict(scope="all"),
    dict(augment="mixup"),
    dict(precision="int8"),
    dict(split="random"),
    dict(steps="two"),
    dict(image_size=8),
    dict(retrain_epochs=0),
    dict(retrain_lr=float("nan")),
    dict(groups="clusters", clusters=1),
    dict(batch=8, accumulate=5),
):
    said = refused(Settings, **wrong)
    print(said)
    assert said.startswith(f"{list(wrong)[-1]} = ")
# the smallest valid values
assert (
    Settings(
        image_size=16, batch=8, accumulate=4, bootstrap=100, groups="clusters", clusters=2
    ).accumulate
    == 4
)


# %% [markdown]
# The pruning and training schedules have their own rules and raise their own errors.

# %%
#| export
@_settings_check
def _check_schedules(s: Settings):
    "Raise ValueError for rates or training stages that give no schedule."
    schedule(s.rate, s.keep)
    stages(s.epochs, s.lrs)
    stages(s.retrain_epochs, s.retrain_lr)


# %%
for wrong in (
    dict(rate=1.0),
    dict(rate=0),
    dict(keep=1),
    dict(keep=0.0),
    dict(epochs="13,3"),
    dict(lrs="1e-4,fast,1e-6"),
    dict(retrain_lr=0),
):
    print(refused(Settings, **wrong))
# one stage may be a number
assert Settings(epochs=3, lrs=1e-3) == Settings(epochs="3", lrs="0.001")


# %% [markdown]
# ## The method's form
#
# `steps` and `scope` are "published" by default, because the methods were published in different forms: SNIP in one shot with one budget for all layers, FairGRAPE in steps and layer by layer.
# `form` resolves "published". Two settings that resolve to the same form are the same run.

# %%
#| export
def form(
    settings: Settings,  # A run's settings; its method is not "dense"
    # The method with the requested steps and scope, or as in the public code
) -> Method:
    "The method that these settings specify. Raises: ValueError for an impossible form."
    how = as_released(method(settings.method)) if settings.as_released else method(settings.method)
    asked = {
        k: getattr(settings, k) for k in ("steps", "scope") if getattr(settings, k) != "published"
    }
    return how.but(**asked)


# %%
pd.DataFrame(
    [
        dict(method=m, steps=form(Settings(method=m)).steps, scope=form(Settings(method=m)).scope)
        for m in METHODS
    ]
).set_index("method").T

# %%
assert (
    form(Settings(method="snip")).scope == "global"
    and form(Settings(method="snip", scope="layer")).scope == "layer"
)
assert (
    form(Settings()) == form(Settings(steps="iterative", scope="layer"))
    and form(Settings(steps="one shot")).steps == "one shot"
)
assert form(Settings(as_released=True)).mixed and not form(Settings()).mixed


# %% [markdown]
# Some methods need the weights from before training: SNIP and GraSP prune them, and the lottery ticket rewinds to them.

# %%
#| export
def needs_initial(how: Method) -> bool:
    "Whether a method uses the weights from before training."
    return how.start == "initial" or (how.rewind and how.rewind_to == "initial")


# %%
[m for m in METHODS if needs_initial(form(Settings(method=m)))]

# %%
assert {m for m in METHODS if needs_initial(method(m))} == {
    "snip",
    "grasp",
    "lottery",
    "lottery_short",
}
assert not needs_initial(method("lottery").but(rewind_to="trained"))


# %% [markdown]
# A file of trained weights does not hold the initial weights, so these methods cannot start from one.

# %%
#| export
@_settings_check
def _check_start(s: Settings):
    "Raise ValueError if the method needs initial weights and `weights` is a trained network."
    if s.method == "dense" or s.weights in ("none", "imagenet"):
        return
    if needs_initial(form(s)):
        raise ValueError(
            f"method = {s.method!r} needs the weights before training, but weights = {s.weights!r}"
            " is a trained network: use weights = 'imagenet' or 'none'"
        )


# %%
print(refused(Settings, method="lottery", weights="own.safetensors"))
assert refused(Settings, method="snip", weights="own.safetensors").startswith(
    "method = 'snip' needs the weights before training"
)
assert (
    Settings(method="ws", weights="own.safetensors")
    and Settings(method="snip", weights="none")
    and Settings(method="dense", weights="own.safetensors")
)


# %% [markdown]
# `as_released` accepts only forms that exist in the public code.

# %%
#| export
@_settings_check
def _check_released(s: Settings):
    "Raise ValueError for settings that the public code does not support."
    if s.method == "dense" or not s.as_released:
        return
    own = method(s.method).scope
    if form(s).scope != own:
        raise ValueError(
            f"scope = {s.scope!r} with as_released: the public code has {s.method} with scope"
            f" {own!r} only"
        )
    if s.importance_on:
        raise ValueError(
            "importance_on with as_released: the public code never applies this choice of images;"
            " leave one of the two out"
        )


# %%
for wrong in (dict(method="random"), dict(scope="global"), dict(importance_on="race=White")):
    print(refused(Settings, as_released=True, **wrong))
assert (
    "as_released" in refused(Settings, as_released=True, scope="global")
    and Settings(as_released=True, scope="layer")
    and Settings(method="snip", as_released=True, scope="global")
)


# %% [markdown]
# A method without groups or without images would silently ignore settings about the importance's groups and images, and the run's record would be wrong.

# %%
#| export
@_settings_check
def _check_importance(s: Settings):
    "Raise ValueError for settings of the importance that the method does not use."
    if s.method == "dense":
        return
    how = form(s)
    grouped = [
        f"{k} = {getattr(s, k)!r}" for k in ("importance_on", "importance_groups") if getattr(s, k)
    ]
    if grouped and (how.batches != "all" or how.blind):
        raise ValueError(
            f"{grouped[0]}: {s.method} does not score images by group; use this setting with"
            " fairgrape or importance"
        )
    if s.importance_groups and not how.groups:
        raise ValueError(
            f"importance_groups = {s.importance_groups!r}: {s.method} has no groups; use method ="
            " 'fairgrape'"
        )
    if s.clusters and "clusters" not in (s.groups, s.importance_groups):
        raise ValueError(
            f"clusters = {s.clusters}, but no groups are clusters: set groups or"
            " importance_groups = 'clusters'"
        )


# %%
for wrong in (
    dict(method="ws", importance_on="race=White"),
    dict(method="snip", importance_groups="gender"),
    dict(method="importance", importance_groups="gender"),
    dict(clusters=4),
):
    said = refused(Settings, **wrong)
    print(said)
    assert said.startswith(f"{list(wrong)[-1]} = ")
assert (
    Settings(method="importance", importance_on="race=White")
    and Settings(importance_groups="clusters", clusters=4)
    and Settings(method="dense", clusters=4)
)

# %% [markdown]
# ## Parameters of a notebook
#
# A run has settings, which decide its result, and places, which say where and how it is computed. Papermill silently drops a misspelt parameter. `from_parameters` takes
# the notebook's namespace after papermill's cell and refuses unknown names. A null, such as `classes:` in a YAML file, never stands for a default: it means "none" or empty if the setting can have that value, and is
# an error otherwise.

# %%
#| export
_WHERE = "where and how"


@dataclass(frozen=True)
class Places:
    "Where and how a run is computed; nothing here changes its result."

    name: str = setting("", "name of the run folder; empty: made from the settings", _WHERE)
    data_root: str = setting("", "folder of the data sets; empty: settings.ini", _WHERE)
    runs_root: str = setting("", "folder of the runs; empty: settings.ini", _WHERE)
    cache_root: str = setting("", "folder of decoded images; empty: settings.ini", _WHERE)
    device: str = setting("", "cuda, cuda:1, cpu …; empty: CUDA if available", _WHERE)
    threads: int = setting(0, "CPU threads; 0: the machine's choice", _WHERE, least=0, most=4096)
    processes: int = setting(
        1, "processes that share this run, one per GPU", _WHERE, least=0, most=1024
    )
    keep_on: str = setting(
        "auto",
        "where the importance is stored: auto, device, host or, if memory is short, a folder",
        _WHERE,
    )
    keep_steps: bool = setting(
        False, "keep the network of each pruning step, for `fairgrape frontier`", _WHERE
    )
    progress: bool = setting(True, "show progress bars", _WHERE)

    def __post_init__(self):
        _check_types(self)
        _check_values(self)


PLACES = tuple(abouts(Places))
KNOWN = tuple(abouts(Settings, Places))


def _places(given: Mapping) -> dict:
    "Places in their types. Raises: TypeError or ValueError for an invalid one."
    places = Places(**given)
    # a null is as if the place were not given
    return {k: getattr(places, k) for k, v in given.items() if v is not None}


# %%
assert _places(dict(name=2024, threads="2", runs_root="runs", progress="False")) == dict(
    name="2024", threads=2, runs_root="runs", progress=False
)
assert _places(dict(name=None, runs_root=None, device="")) == dict(device="")
for wrong in (
    dict(threads="abc"),
    dict(threads=-1),
    dict(threads=10**9),
    dict(processes=-2),
    dict(processes=1025),
    dict(processes=1.5),
    dict(progress="perhaps"),
    dict(threads=None),
    dict(keep_on=None),
):
    print(refused(_places, wrong))


# %% [markdown]
# The namespace holds more than parameters, for example the names from a user's IPython start-up files. IPython's `In` tells them apart: it lists the cells of the notebook, but no start-up file. A parameter cell
# consists only of assignments, as papermill's does, or assigns to a known name.

# %%
#| export
def _parameter_names(
    cells: Sequence[str],  # The source of each executed cell, as in IPython's `In`
) -> set[str]:  # Names that parameter cells assign
    "The names assigned in a notebook's parameter cells."
    found = set()
    for cell in cells:
        try:
            lines = ast.parse(cell).body
        except SyntaxError:  # a cell in another language
            continue
        assignments = [line for line in lines if isinstance(line, ast.Assign | ast.AnnAssign)]
        targets = [
            t
            for line in assignments
            for t in getattr(line, "targets", [getattr(line, "target", None)])
        ]
        names = {t.id for t in targets if isinstance(t, ast.Name)}
        if len(assignments) == len(lines) or names & set(KNOWN):
            found |= names
    return found


# %%
cells = [
    "",
    "rate: float = 0.9",
    "# Parameters\nrates = 0.5",
    "import time\nstarted = time.time()",
    "device, job = 'cpu', 1",
    "import os\nseed = 3",
    "%%bash\nx=1 2",
]
print(sorted(_parameter_names(cells)))
assert _parameter_names(cells) == {"rate", "rates", "seed"} and _parameter_names([]) == set()


# %%
#| export
def from_parameters(
    names: Mapping,  # A notebook's `globals()`, or a dictionary of parameters
    # Names that IPython defines
    ignore: tuple = ("In", "Out", "exit", "quit", "open", "get_ipython"),
    # The settings, and the places (name, data_root, runs_root, cache_root, device, threads,
    # processes, keep_on, progress)
) -> tuple[Settings, dict]:
    """Settings and places from parameters. Raises: ValueError for an unknown name, and the errors
    of `Settings`.
    """
    given = {
        k: v
        for k, v in names.items()
        if not str(k).startswith("_")
        and k not in ignore
        and not callable(v)
        and not isinstance(v, ModuleType)
    }
    assigned = _parameter_names(names.get("In", []))
    if assigned:
        given = {k: v for k, v in given.items() if k in assigned}
    unknown = sorted(map(str, set(given) - set(KNOWN)))
    if unknown:
        raise ValueError(
            f"unknown parameter {', '.join(unknown)}: the known ones are {', '.join(KNOWN)}"
        )
    return Settings(**{k: v for k, v in given.items() if k not in PLACES}), _places(
        {k: v for k, v in given.items() if k in PLACES}
    )


# %%
# modules and functions of the notebook are not parameters
from_parameters(dict(method="ws", rate=0.9, runs_root="runs", pd=pd, refused=refused, _=1))[1]

# %%
assert from_parameters(dict(rate=0.5, seed=1)) == (
    Settings(rate=0.5, seed=1),
    {},
) and from_parameters(dict(In=[], threads=2)) == (Settings(), dict(threads=2))
# as text from a shell
assert from_parameters(dict(progress="False"))[1] == dict(progress=False) and from_parameters(
    dict(progress=True)
)[1] == dict(progress=True)
assert from_parameters(dict(classes=None, name=None)) == (Settings(), {})
assert from_parameters(dict(weights=None))[0].weights == "none" and refused(
    from_parameters, dict(rate=None)
).startswith("rate = null: ")
# `favourite` and `rates` come from a start-up file
started_up = dict(favourite=7, rate=0.5, rates=0.9, In=["", "rate: float = 0.5"])
assert from_parameters(started_up) == (Settings(rate=0.5), {})
assert refused(
    from_parameters, started_up | dict(In=["", "rate: float = 0.5", "# Parameters\nrates = 0.9"])
).startswith("unknown parameter rates: ")
for wrong in (
    dict(rates=0.9),
    dict(rates=[0.9, 0.99]),
    dict(progress="perhaps"),
    dict(rate=2),
    {1: 2},
):
    print(refused(from_parameters, wrong)[:80])

# %% [markdown]
# ## What identifies a run
#
# Some settings do not affect some methods: WS has no steps, the dense network has no rate, and magnitude uses no images. Such settings are no part of the run's identity, so one dense network serves all runs that start from it.

# %%
#| export
STEPS = ("keep", "retrain_epochs", "retrain_lr")  # of methods in steps
# settings that only some methods have
OF_METHODS = {name for how in METHODS.values() for name in touches(how)}


def unused(
    settings: Settings,  # A run's settings
) -> set[str]:  # Names of settings that do not change its result
    """The settings that do not affect this method. `data_path` never does: the data themselves
    identify the run.
    """
    known = abouts(settings)
    never = {name for name, about in known.items() if not about.identity}
    if settings.method == "dense":
        return never | OF_METHODS | {name for name, about in known.items() if not about.dense}
    how = form(settings)
    one_shot = STEPS if how.steps == "one shot" else ()
    return never | OF_METHODS - set(touches(how)) | set(one_shot)


# %%
pd.Series(
    {
        m: ", ".join(sorted(unused(Settings(method=m)) - unused(Settings())))
        for m in ("fairgrape", "importance", "ws", "snip", "dense")
    }
)

# %%
assert unused(Settings()) == {"data_path"} and unused(Settings(steps="one shot")) == {
    "data_path",
    *STEPS,
}
assert unused(Settings(method="importance")) == {
    "data_path",
    "importance_groups",
} and "keep" not in unused(Settings(method="ws", steps="iterative"))
assert unused(Settings(method="dense")) == {"data_path", "as_released", "clusters", *OF_METHODS}


# %% [markdown]
# A setting that was added later is left out while it has its default, so older runs keep their names. For the same reason `steps` is left out if it is the published form.

# %%
#| export
def identity(
    settings: Settings,  # A run's settings
) -> dict:  # Those that change its result
    "The settings that affect this method, with `steps` and `scope` resolved."
    mine = asdict(settings) | (
        {}
        if settings.method == "dense"
        else dict(scope=form(settings).scope, steps=form(settings).steps)
    )
    if settings.method != "dense" and mine["steps"] == method(settings.method).steps:
        mine.pop("steps")
    by_default = {
        f.name for f in fields(settings) if f.metadata["about"].added and mine[f.name] == f.default
    }
    left_out = by_default | unused(settings)
    return {k: v for k, v in mine.items() if k not in left_out}


# %%
", ".join(identity(Settings(method="dense")))

# %%
assert identity(Settings(method="ws", keep=0.5)) == identity(
    Settings(method="ws", keep=0.9, scope="layer", steps="one shot", importance_cap=9)
)
assert (
    identity(Settings(keep=0.5)) != identity(Settings(keep=0.9))
    and "rate" in identity(Settings())
    and "clusters" not in identity(Settings())
)
assert identity(Settings(method="ws", steps="iterative")) != identity(
    Settings(method="ws")
) and "keep" in identity(Settings(method="ws", steps="iterative"))
assert (
    identity(Settings(fit="squeeze"))["fit"] == "squeeze"
    and identity(Settings(partial=True))["partial"] is True
)
assert identity(Settings(importance_on="race=White"))["importance_on"] == "race=White"
younger = {name for name, about in abouts(Settings).items() if about.added}
assert younger == {
    "partial",
    "fit",
    "imbalance",
    "as_released",
    "importance_on",
    "importance_groups",
    "clusters",
    "accumulate",
    "compiled",
}
assert not younger & set(identity(Settings()))
assert identity(Settings(method="snip")) == identity(
    Settings(method="snip", scope="global")
) and "steps" not in identity(Settings(method="dense", steps="one shot"))


# %% [markdown]
# ## What else derives from the record
#
# The parameter cell of [the run's notebook](../templates/prune.ipynb), which `make sync` writes:

# %%
#| export
def parameter_cell(
    *records: type,  # Records made of `setting`; none: `Settings` and `Places`
) -> str:  # The cell's source, one assignment per line, with comments
    "The parameter cell of the template."
    lines = []
    for f in [f for record in records or (Settings, Places) for f in fields(record)]:
        value = json.dumps(f.default) if f.type is str else repr(f.default)
        line = f"{f.name}: {f.type.__name__} = {value}"
        said = words_of(f.metadata["about"])
        if len(beside := f"{line}  # {said}") <= 100:
            lines.append(beside)
        else:
            lines += [*textwrap.wrap(said, 98, initial_indent="# ", subsequent_indent="# "), line]
    return "\n".join(lines)


# %%
print(parameter_cell(Toy))
print(*parameter_cell().splitlines()[:9], sep="\n")

# %%
assert parameter_cell(Toy) == (
    'rate: float = 0.9  # share of weights removed\norder: str = "up"  # which go first: up or down'
)
assert max(map(len, parameter_cell().splitlines())) <= 100
found = {}
exec(parameter_cell(), found)
assert from_parameters({k: v for k, v in found.items() if k != "__builtins__"})[0] == Settings()


# %% [markdown]
# The table of all settings:

# %%
#| export
def settings_table(
    *records: type,  # Records made of `setting`; none: `Settings` and `Places`
):  # A `pandas.DataFrame` with a row for each setting
    "All settings: chapter, type, default, bounds, meaning."
    import pandas as pd  # imported here because checks need no pandas

    rows = {
        f.name: {
            "chapter": f.metadata["about"].chapter,
            "type": f.type.__name__,
            "default": str(f.default),
            "bounds": bounds_of(f.metadata["about"]),
            "since": f.metadata["about"].since,
            "meaning": words_of(f.metadata["about"]),
        }
        for record in records or (Settings, Places)
        for f in fields(record)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("setting")


# %%
with pd.option_context("display.max_colwidth", None, "display.max_rows", None):
    display(settings_table())

# %%
assert list(settings_table().index) == list(KNOWN)
assert settings_table().loc["rate", ["chapter", "type", "default", "bounds"]].tolist() == [
    "method",
    "float",
    "0.99",
    "above 0 and below 1",
]
assert settings_table(Toy).loc["order", "since"] == "0.2.0"


# %% [markdown]
# One line adds a setting, here in a record that extends `Settings`: its text is converted, its bounds are checked, the cell and the table include it, and older runs keep their identity.

# %%
@dataclass(frozen=True)
class More(Settings):
    dropout: float = setting(
        0.0, "share of features dropped", "training", least=0, below=1, since="0.2.0"
    )


print(parameter_cell(More).splitlines()[-1])
print(refused(More, dropout=1.0))

# %%
assert More(dropout="0.5").dropout == 0.5
assert refused(More, dropout=-0.1) == "dropout = -0.1: it must be at least 0"
assert refused(More, dropout="much") == "dropout = 'much': it must be float"
assert identity(More()) == identity(Settings())
assert identity(More(dropout=0.5)) == identity(Settings()) | dict(dropout=0.5)
assert settings_table(More).index[-1] == "dropout"

# %% [markdown]
# The record needs none of the large libraries, so an invalid setting is refused before they are imported.

# %%
said = (
    "import sys; from fairgrape.experiment.settings import Settings; Settings(as_released=True); "
)
said += "print([m for m in ('torch', 'numpy', 'pandas', 'numba') if m in sys.modules])"
done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
print(done.stdout)
assert done.stdout == "[]\n"
