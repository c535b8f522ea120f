# %% [markdown]
# # Configuration
#
# > Everything that decides a run's result, in one frozen record that is checked where it is made

# %%
#| default_exp experiment.settings

# %%
#| export
import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import ModuleType

from fairgrape.experiment.paths import system_path
from fairgrape.method.pruning import schedule
from fairgrape.method.selection import SCOPES
from fairgrape.methods.registry import BLIND, METHODS, Method, method, touches
from fairgrape.methods.released import as_released
from fairgrape.training.epochs import PRECISIONS
from fairgrape.training.stages import stages

# %%
import os
from pathlib import Path
from types import SimpleNamespace

import pandas as pd


def refused(make, *args, **given):
    "What `make` says against its arguments; an assertion fails if it says nothing"
    try:
        make(*args, **given)
    except (ValueError, TypeError) as e:
        return str(e)
    raise AssertionError(f"{args or given} was accepted")


# %% [markdown]
# Settings arrive from notebooks, shells and YAML files, so they are checked where they are made: each mistake is named with its setting and with what would be right, long before an image is read. A check is a function that
# raises. The checks stand below, one by one, each beside its reason; this list is how the record finds them.

# %%
#| export
CHECKS: list[Callable] = []


def settings_check(f: Callable) -> Callable:
    "Add a function to those that all settings go through, in the order in which they are written"
    CHECKS.append(f)
    return f


def check_settings(s: "Settings"):
    "Bring numbers into their type; raise ValueError or TypeError for a setting that cannot be"
    for check in CHECKS:
        check(s)


# %%
@settings_check
def check_mood(s):
    if s.mood == "bad":
        raise ValueError("mood = 'bad': choose a better one")


print(refused(check_settings, SimpleNamespace(mood="bad")))
# the example is not to stay
assert CHECKS.pop() is check_mood and check_settings(SimpleNamespace(mood="bad")) is None


# %% [markdown]
# A run is a function of its settings. They are one frozen record whose defaults are the paper's protocol (section 4), meant for a GPU; the same names are the parameters of the notebook that papermill runs and the options
# of `fairgrape run`.

# %%
#| export
@dataclass(frozen=True)
class Settings:
    "Everything that decides a run's result; the defaults are the paper's protocol"

    # synthetic, utkface, fairface, celeba, people (ImageNet's person subtree) or folder (one's
    # own)
    dataset: str = "fairface"
    data_path: str = ""  # Archive or folder of the set; empty: looked for under the data root
    # Label column to predict; "race*gender" crosses two, "race+gender" has a head for each;
    # CelebA: "attributes", 39 heads
    task: str = "race"
    # Label column whose groups are compared; "race*gender" crosses two; "clusters": found in the
    # dense network's features
    groups: str = "race"
    # Classes to keep, as "race=White,Black;gender=Male", or to leave out, as
    # "race!=Others;gender*Bald!=Female*yes"; empty: the set's usual ones
    classes: str = ""
    # "race=White:0.2" keeps all White images and every other with probability 0.2, before the
    # split
    imbalance: str = ""
    # photo: 80/10/10 by photograph, always seed 42; person: by identity; official: the set's own
    split: str = "photo"
    limit: int = 0  # Use at most so many images, drawn at random (seed 42); 0: all
    # Use the images that are there; without it a missing file of the set is an error
    partial: bool = False
    # Any torchvision classifier by name, timm:NAME, efficientnet_lite0, or the small resnet10
    network: str = "resnet34"
    # imagenet, none, or the path of a dense network's weights, which is then taken as it is
    weights: str = "imagenet"
    image_size: int = 224  # Side of the square images, pixels
    # A rectangle becomes a square: crop (its middle), squeeze (all of it, as in the public code)
    # or pad (all, with black bars)
    fit: str = "crop"
    # dense (no pruning), fairgrape, importance, ws, magnitude, lottery, lottery_short, snip, grasp
    # or random
    method: str = "fairgrape"
    rate: float = 0.99  # Pruning rate, the fraction of weights removed
    keep: float = 0.9  # Fraction kept at each pruning step (iterative methods)
    steps: str = "published"  # published: as the method was published; iterative or one shot
    # published: as the method was published; layer: the same rate in every layer; global: one
    # budget for all
    scope: str = "published"
    as_released: bool = False  # The public code's importance and selection instead of the paper's
    epochs: str = "13,3,3"  # Epochs of each training stage, dense and after pruning
    lrs: str = "1e-4,1e-5,1e-6"  # Adam's learning rate in each stage
    retrain_epochs: int = 3  # Epochs after each pruning step
    retrain_lr: float = 1e-5  # Learning rate after each pruning step
    batch: int = 64  # Images in a training batch
    importance_batch: int = 64  # Most images of one group in an importance batch
    importance_cap: int = 0  # Most images of a group that are used for the importance; 0: all
    # Training images that the importance sees, as "race=White" or "race!=White"; empty: all
    importance_on: str = ""
    # Groups whose importance shares are kept, where they are not those compared; "clusters" as for
    # groups
    importance_groups: str = ""
    clusters: int = 0  # How many clusters, where groups are clusters; 0: chosen by silhouette
    augment: str = "paper"  # paper, flip or none
    precision: str = "fp32"  # fp32, bf16 or fp16 (importance then in fp32)
    seed: int = 0  # Initial weights, order of images, augmentation; not the split
    bootstrap: int = 2000  # Resamples for the intervals
    # Parts in which a training batch goes through the network, where it does not fit in memory at
    # once
    accumulate: int = 1
    # Let torch.compile make the network faster (needs a C++ compiler; other last digits)
    compiled: bool = False

    def __post_init__(self):
        check_settings(self)


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
# A shell and papermill's command line write everything as text. A number is taken from text if it says the same; `1.5` is no seed, and a list is a sweep and not a run.

# %%
#| export
def typed(name: str, given, kind: type):
    "`given` as int, float, str or bool (which a shell writes as text)"
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
NULLS = dict(weights="none", augment="none")  # settings that have a word for nothing


def no_null(
    name: str,  # A setting or a place
    # Its value; None where YAML has `null` or a line without a value, and papermill has `None`
    given,
    default,  # The setting's default
):  # The value that is meant
    "A null as the value it means: nothing. Raises: ValueError where the setting cannot be nothing."
    if given is not None:
        return given
    meant = NULLS.get(name, "" if default == "" else None)
    if meant is None:
        raise ValueError(
            f"{name} = null: this setting needs a value; give one, or leave the line out, which"
            f" means {default!r}"
        )
    return meant


# %%
print(no_null("weights", None, "imagenet"), no_null("classes", None, ""), no_null("seed", 3, 0))
assert (
    no_null("weights", None, "imagenet") == no_null("augment", None, "paper") == "none"
    and no_null("data_path", None, "") == ""
)
for name, default in (
    ("rate", 0.99),
    ("limit", 0),
    ("as_released", False),
    ("epochs", "13,3,3"),
    ("method", "fairgrape"),
):
    print(refused(no_null, name, None, default))


# %%
#| export
@settings_check
def check_types(s: Settings):
    """Bring every setting into its type, or raise TypeError; ValueError for a null that means
    nothing
    """
    for f in fields(s):
        object.__setattr__(
            s, f.name, typed(f.name, no_null(f.name, getattr(s, f.name), f.default), f.type)
        )


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
    if f.name not in NULLS and f.default != "":
        assert refused(Settings, **{f.name: None}).startswith(f"{f.name} = null: ")


# %%
#| export
@settings_check
def check_paths(s: Settings):
    "Write paths as this system knows them, or raise ValueError"
    for name in ("data_path", "weights"):
        object.__setattr__(s, name, system_path(name, getattr(s, name)))


# %%
assert Settings(data_path="~/faces", weights="~/own.pth", method="ws") == Settings(
    data_path=str(Path.home() / "faces"), weights=str(Path.home() / "own.pth"), method="ws"
)
print(refused(Settings, data_path=r"C:\faces") if os.name != "nt" else "")

# %% [markdown]
# ## Choices and bounds
#
# Words that are not in the list of words, and numbers below what makes sense. Two images are the least that batch normalisation can take, so a batch has two, and so has each of the parts that it is accumulated from.

# %%
#| export
CHOICES = dict(
    method=("dense", *METHODS),
    steps=("published", "iterative", "one shot"),
    scope=("published", *SCOPES),
    split=("photo", "person", "official"),
    fit=("crop", "squeeze", "pad"),
    augment=("paper", "flip", "none"),
    precision=tuple(PRECISIONS),
)
LEAST = dict(
    image_size=16,
    batch=2,
    importance_batch=1,
    importance_cap=0,
    limit=0,
    clusters=0,
    retrain_epochs=1,
    retrain_lr=0,
    bootstrap=100,
    seed=0,
    accumulate=1,
)
MOST = dict(seed=2**32 - 1, bootstrap=10**6)


@settings_check
def check_values(s: Settings):
    "Raise ValueError for a word that is no choice, or a number that is too small"
    for name, choices in CHOICES.items():
        if getattr(s, name) not in choices:
            raise ValueError(f"{name} = {getattr(s, name)!r}: choose one of {', '.join(choices)}")
    for name, least in LEAST.items():
        if not getattr(s, name) >= least:
            raise ValueError(f"{name} = {getattr(s, name)}: it must be at least {least}")
    for name, most in MOST.items():
        if getattr(s, name) > most:
            raise ValueError(f"{name} = {getattr(s, name)}: it must be at most {most}")
    if s.clusters == 1:
        raise ValueError(
            "clusters = 1: one cluster is no grouping; choose 2 or more, or 0 to have the number"
            " chosen"
        )
    if s.accumulate > s.batch // 2:
        raise ValueError(
            f"accumulate = {s.accumulate} parts of a batch of {s.batch}: each needs 2 images, so"
            f" choose 1 to {s.batch // 2}"
        )


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
# the least of each is allowed
assert (
    Settings(
        image_size=16, batch=8, accumulate=4, bootstrap=100, groups="clusters", clusters=2
    ).accumulate
    == 4
)


# %% [markdown]
# The pruning and training schedules have rules of their own, and say what is wrong with them where they are made.

# %%
#| export
@settings_check
def check_schedules(s: Settings):
    "Raise ValueError for rates or training stages that make no schedule"
    schedule(s.rate, s.keep)
    stages(s.epochs, s.lrs), stages(s.retrain_epochs, s.retrain_lr)


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
# `steps` and `scope` say "published" until somebody says otherwise, because each method was published in a form of its own: SNIP with one budget for all layers and in one shot, FairGRAPE layer by layer and in
# steps. `form` looks up what that means; two settings that come to the same are the same run.

# %%
#| export
def form(
    settings: Settings,  # A run's settings; its method is not "dense"
    # The method with the steps and the scope that are asked for, or as the public code has it
) -> Method:
    "The method that these settings mean. Raises: ValueError for a form that cannot be."
    how = as_released(method(settings.method)) if settings.as_released else method(settings.method)
    asked = {
        k: getattr(settings, k) for k in ("steps", "scope") if getattr(settings, k) != "published"
    }
    return replace(how, **asked)


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
# Some methods need the weights as they were before training: SNIP and GraSP prune them, the lottery goes back to them.

# %%
#| export
def needs_initial(how: Method) -> bool:
    "Whether a method uses the weights before training"
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
assert not needs_initial(replace(method("lottery"), rewind_to="trained"))


# %% [markdown]
# A file of trained weights says nothing about the weights before, so these methods cannot start from one.

# %%
#| export
@settings_check
def check_start(s: Settings):
    "Raise ValueError where the method needs weights that a file of one's own does not hold"
    if s.method == "dense" or s.weights in ("none", "imagenet"):
        return
    if needs_initial(form(s)):
        raise ValueError(
            f"method = {s.method!r} needs the weights before training, and weights = {s.weights!r}"
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
# Nor can a form that the public code does not have be asked for as released.

# %%
#| export
@settings_check
def check_released(s: Settings):
    "Raise ValueError for settings that the public code cannot follow"
    if s.method == "dense" or not s.as_released:
        return
    own = method(s.method).scope
    if form(s).scope != own:
        raise ValueError(
            f"scope = {s.scope!r} with as_released: the public code knows {s.method} with scope"
            f" {own!r} only"
        )
    if s.importance_on:
        raise ValueError(
            "importance_on with as_released: in the public code the choice never reaches the"
            " importance's images; leave one of them out"
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
# And a method without groups, or one that looks at no images, would take settings about the importance's groups and images without a word. A run that seems to have used them would be worse than none.

# %%
#| export
@settings_check
def check_importance(s: Settings):
    "Raise ValueError for settings of the importance that the method does not look at"
    if s.method == "dense":
        return
    how = form(s)
    grouped = [
        f"{k} = {getattr(s, k)!r}" for k in ("importance_on", "importance_groups") if getattr(s, k)
    ]
    if grouped and (how.batches != "all" or how.score in BLIND):
        raise ValueError(
            f"{grouped[0]}: {s.method} does not score by the images of groups; use it with"
            " fairgrape or importance"
        )
    if s.importance_groups and not how.groups:
        raise ValueError(
            f"importance_groups = {s.importance_groups!r}: {s.method} has no groups; use method ="
            " 'fairgrape'"
        )
    if s.clusters and "clusters" not in (s.groups, s.importance_groups):
        raise ValueError(
            f"clusters = {s.clusters}: say which groups are clusters, with groups or"
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
# A run has settings, which decide its result, and places, which say where and how it is computed. A parameter that is misspelt must not be dropped silently, which is what papermill would do. `from_parameters` takes whatever
# the notebook's namespace holds after papermill's cell and refuses names that it does not know. A null, as `classes:` in a YAML file, never stands for a default: it means "none" or empty where the setting can be that, and is
# an error elsewhere.

# %%
#| export
# where and how, not what: they do not change the result
PLACES = (
    "name",
    "data_root",
    "runs_root",
    "cache_root",
    "device",
    "threads",
    "processes",
    "keep_on",
    "progress",
)
KNOWN = tuple(f.name for f in fields(Settings)) + PLACES


def _places(given: Mapping) -> dict:
    "Places in their types. Raises: TypeError or ValueError for one that cannot be."
    kinds = dict(name=str, device=str, threads=int, processes=int, progress=bool)
    defaults = dict(threads=0, processes=1, progress=True, keep_on="auto")
    # a null that means "" says nothing
    given = {k: v for k, v in given.items() if no_null(k, v, defaults.get(k, "")) == v}
    places = {k: typed(k, v, kinds[k]) if k in kinds else v for k, v in given.items()}
    for k in ("threads", "processes"):
        if places.get(k, 0) < 0:
            raise ValueError(
                f"{k} = {places[k]}: it cannot be negative; 0 leaves the choice to the machine"
            )
    return places


# %%
assert _places(dict(name=2024, threads="2", runs_root="runs", progress="False")) == dict(
    name="2024", threads=2, runs_root="runs", progress=False
)
assert _places(dict(name=None, runs_root=None, device="")) == dict(device="")
for wrong in (
    dict(threads="abc"),
    dict(threads=-1),
    dict(processes=1.5),
    dict(progress="perhaps"),
    dict(threads=None),
    dict(keep_on=None),
):
    print(refused(_places, wrong))


# %% [markdown]
# The namespace holds more than parameters: what a user's IPython start-up files define is there as well. IPython's `In` tells them apart. It lists the cells of the notebook and no start-up file. A parameter cell
# is one that consists of assignments, as papermill's does, or that gives a value to a known name.

# %%
#| export
def parameter_names(
    cells: Sequence[str],  # The source of each executed cell, as in IPython's `In`
) -> set[str]:  # Names that parameter cells assign
    "Names that the parameter cells of a notebook assign."
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
print(sorted(parameter_names(cells)))
assert parameter_names(cells) == {"rate", "rates", "seed"} and parameter_names([]) == set()


# %%
#| export
def from_parameters(
    names: Mapping,  # A notebook's `globals()`, or a dictionary of parameters
    # What IPython itself puts there
    ignore: tuple = ("In", "Out", "exit", "quit", "open", "get_ipython"),
    # The settings, and the places (name, data_root, runs_root, cache_root, device, threads,
    # processes, keep_on, progress)
) -> tuple[Settings, dict]:
    """Make settings of parameters. Raises: ValueError for an unknown name, and what `Settings`
    raises.
    """
    given = {
        k: v
        for k, v in names.items()
        if not str(k).startswith("_")
        and k not in ignore
        and not callable(v)
        and not isinstance(v, ModuleType)
    }
    assigned = parameter_names(names.get("In", []))
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
# modules and functions of the notebook are no parameters
from_parameters(dict(method="ws", rate=0.9, runs_root="runs", pd=pd, refused=refused, _=1))[1]

# %%
assert from_parameters(dict(rate=0.5, seed=1)) == (
    Settings(rate=0.5, seed=1),
    {},
) and from_parameters(dict(In=[], threads=2)) == (Settings(), dict(threads=2))
# as a shell writes it
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
# Some settings do not touch some methods: WS has no steps, the dense network no rate, magnitude reads no images. They are left out of what identifies a run, so that one dense network serves all runs that start from it.

# %%
#| export
STEPS = ("keep", "retrain_epochs", "retrain_lr")  # of methods in steps
OF_METHODS = {
    "rate",
    "steps",
    "scope",
    *STEPS,
    "importance_batch",
    "importance_cap",
    "importance_on",
    "importance_groups",
}


def unused(
    settings: Settings,  # A run's settings
) -> set[str]:  # Names of settings that do not change its result
    """Which settings do not touch this method. `data_path` never does: the data speak for
    themselves.
    """
    if settings.method == "dense":
        return {"data_path", "as_released", "clusters", *OF_METHODS}
    how = form(settings)
    return {"data_path", *OF_METHODS - set(touches(how)), *STEPS * (how.steps == "one shot")}


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
# A setting that came later is left out as well while it has its default: runs made before it was there keep their names. And `steps` is left out where it is the method's own, for the same reason.

# %%
#| export
# settings younger than some runs, with their defaults
LATER = dict(
    partial=False,
    fit="crop",
    imbalance="",
    as_released=False,
    importance_on="",
    importance_groups="",
    clusters=0,
    accumulate=1,
    compiled=False,
)


def identity(
    settings: Settings,  # A run's settings
) -> dict:  # Those that change its result
    "The settings that matter to this method, with `steps` and `scope` as they are meant."
    mine = asdict(settings) | (
        {}
        if settings.method == "dense"
        else dict(scope=form(settings).scope, steps=form(settings).steps)
    )
    if settings.method != "dense" and mine["steps"] == method(settings.method).steps:
        mine.pop("steps")
    return {
        k: v
        for k, v in mine.items()
        if k not in unused(settings) and not (k in LATER and v == LATER[k])
    }


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
assert identity(Settings(importance_on="race=White"))["importance_on"] == "race=White" and not set(
    LATER
) & set(identity(Settings()))
assert identity(Settings(method="snip")) == identity(
    Settings(method="snip", scope="global")
) and "steps" not in identity(Settings(method="dense", steps="one shot"))
