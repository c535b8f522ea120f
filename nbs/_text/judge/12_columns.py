# %% [markdown]
# # Which column is what
#
# > Labels, groups and models are told by the names of their columns; what is guessed becomes a sentence

# %%
#| default_exp judge.columns

# %%
#| export
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from fairgrape.judge.names import like_name, name_of, names_of, no_column
from fairgrape.judge.tables import _some

# %%
import numpy as np


def refused(call, *given, **named) -> str:
    "The error that a call raises, printed"
    try:
        call(*given, **named)
    except ValueError as e:
        print(e)
        return str(e)
    raise AssertionError(f"{call.__name__} accepted it")


# %%
#| export
def _listed(value: str | Sequence[str]) -> tuple[str, ...]:
    "One name or several, as several"
    return (value,) if isinstance(value, str) and value else tuple(value)


# %%
assert _listed("dense") == ("dense",) and _listed("") == () and _listed(["a", "b"]) == ("a", "b")


# %% [markdown]
# How a table is read can be stated field by field. Whatever is left empty is guessed from the names of the columns.

# %%
#| export
@dataclass(frozen=True)
class Reading:
    "Which column is what; empty fields are guessed."

    id: str = ""  # Column that names each image
    label: str = ""  # Column of true classes; with several heads, what stands before `_HEAD`
    # Columns of predicted classes; or what stands before `_HEAD`, `_p` or `_p_CLASS`
    models: Sequence[str] = ()
    groups: Sequence[str] = ()  # Columns of groups
    cluster: str = ""  # Column of persons or photographs; empty: each image stands for itself
    # Column of predictions (there or not) → its probability columns, in the order of the classes;
    # None: by their names; {}: none are read
    probabilities: Mapping[str, Sequence[str]] | None = None
    baseline: str = ""  # The model before
    classes: Mapping[str, Sequence[str]] | None = None  # Head → class names, in order of the codes
    drop_missing: bool = False  # Leave out images of which something is missing

    def __post_init__(self):
        for field in ("models", "groups"):  # one name stands for a list of one
            object.__setattr__(self, field, _listed(getattr(self, field)))


# %%
Reading(label="smiling", models="dense", groups=["tone", "age"])

# %%
assert Reading(models="dense").models == ("dense",) and Reading(groups=iter("ab")).groups == (
    "a",
    "b",
)

# %% [markdown]
# ## Labels and groups
#
# A network has one head (`label`) or several, one for each attribute (`label_smiling`, `label_young`). Labels may stand in one file or in all of them.

# %%
#| export
LABEL_NAMES = ("label", "y_true", "y", "target", "true")


def label_columns(
    tables: Mapping[str, pd.DataFrame],  # File → its table
    asked: str,  # The name that was given
    notes: list[str],  # To which the guess is added
) -> dict[str, dict[str, str]]:  # Head → file → its column of labels
    "Where the true classes are. Raises: ValueError where there are none."
    columns = list(dict.fromkeys(column for table in tables.values() for column in table))
    for name in [asked] if asked else LABEL_NAMES:
        one = name if name in columns else None if asked else like_name(name, columns)
        if one:
            if not asked:
                notes.append(f"true classes are taken from the column {one}")
            head = one.removeprefix("label_") or one
            return {head: {file: one for file, table in tables.items() if one in table}}
    prefix = f"{asked or 'label'}_"
    many = [c for c in columns if c.startswith(prefix) and c != prefix]
    if not many and asked:
        raise no_column(asked, "label", columns)
    if not many:
        raise ValueError(
            f"no column of true classes ({', '.join(LABEL_NAMES)} or label_HEAD): name it with"
            f" label=; there are {_some(columns, 20)}"
        )
    if not asked:
        notes.append(f"true classes are taken from the columns {_some(many)}")
    return {
        column.removeprefix(prefix): {f: column for f, table in tables.items() if column in table}
        for column in many
    }


# %%
pair = {
    "a.csv": pd.DataFrame(columns=["label_smiling", "label_young", "dense_young"]),
    "b.csv": pd.DataFrame(columns=["label_young", "small_young"]),
}
label_columns(pair, "", said := [])

# %%
assert label_columns(pair, "", said := []) == {
    "smiling": {"a.csv": "label_smiling"},
    "young": {"a.csv": "label_young", "b.csv": "label_young"},
}
assert said == ["true classes are taken from the columns label_smiling, label_young"]
assert label_columns({"t": pd.DataFrame(columns=["Target", "y_pred"])}, "", said := []) == {
    "Target": {"t": "Target"}
}
assert said == ["true classes are taken from the column Target"]
assert label_columns(pair, "label_young", said := []) == {
    "young": {"a.csv": "label_young", "b.csv": "label_young"}
}
assert said == [] and list(label_columns(pair, "dense", [])) == ["young"]
for asked, table, part in (
    ("", "b.csv", "no column of true classes"),
    ("smile", "a.csv", "no column 'smile'"),
):
    assert part in refused(
        label_columns, {table: pair[table].drop(columns="label_young")}, asked, []
    )


# %%
#| export
def group_columns(
    tables: Mapping[str, pd.DataFrame],  # File → its table
    asked: Sequence[str],  # The names that were given
    notes: list[str],  # To which the guess is added
) -> dict[str, dict[str, str]]:  # Grouping → file → its column
    "Where the groups are: `group`, `group_NAME`, or the given columns."
    columns = list(dict.fromkeys(column for table in tables.values() for column in table))
    if asked:
        found = [c if c in columns else f"group_{c}" for c in asked]
        for name, column in zip(asked, found):
            if column not in columns:
                raise no_column(name, "groups", columns)
    else:
        found = [c for c in columns if c == like_name("group", columns) or c.startswith("group_")]
        if not found:
            raise ValueError(
                "no column of groups (group or group_NAME): name one or more with groups=; there"
                f" are {_some(columns, 20)}"
            )
        word = "columns" if len(found) > 1 else "column"
        notes.append(f"groups are taken from the {word} {_some(found)}")
    short = [column.removeprefix("group_") or column for column in found]
    names = short if len({*short}) == len({*found}) else found
    return {
        name: {file: column for file, table in tables.items() if column in table}
        for name, column in zip(names, found)
    }


# %%
of_people = {"t": pd.DataFrame(columns=["label", "group_tone", "group_age", "sex"])}
group_columns(of_people, (), said := [])

# %%
assert said == ["groups are taken from the columns group_tone, group_age"]
assert group_columns(of_people, ("sex", "tone"), []) == {
    "sex": {"t": "sex"},
    "tone": {"t": "group_tone"},
}
twice = {"t": pd.DataFrame(columns=["age", "group_age"])}  # two columns that would have one name
assert list(group_columns(twice, ("age", "group_age"), [])) == ["age", "group_age"]
for table, asked, part in (
    (pair, (), "no column of groups"),
    (of_people, ("group_ton",), "no column 'group_ton': did you mean group_tone or"),
):
    assert part in refused(group_columns, table, asked, [])


# %% [markdown]
# ## Models
#
# What a column is follows from its name. With the heads `smiling` and `young`, `dense_young` holds the classes that the model `dense` predicts, `dense_young_p_yes` the probability of the class yes, and `dense_young_p` that of the last of two classes. With a single head its name may be left out: `dense`, `dense_p_yes`, `dense_p`.

# %%
#| export
def _split_name(
    column: str,  # Name of a column
    heads: Sequence[str],  # Names of the heads
) -> tuple[str, str, str | None] | None:  # None: it belongs to no head
    "Model, head and class; the class is None for predicted classes and empty for the last of two"
    stem, name = column, None
    if "_p_" in column:
        stem, name = column.rsplit("_p_", 1)
        name = name_of(name) or name
    elif column.endswith("_p"):
        stem, name = column[:-2], ""
    ends = [head for head in heads if stem.endswith(f"_{head}") and len(stem) > len(head) + 1]
    if ends:
        head = max(ends, key=len)
        return stem[: -len(head) - 1], head, name
    return (stem, heads[0], name) if len(heads) == 1 and stem else None


# %%
heads = ["hair", "gray_hair"]
for column in ("dense_hair", "dense_gray_hair", "dense_gray_hair_p_yes", "dense_hair_p", "split"):
    print(column, "→", _split_name(column, heads))

# %%
assert _split_name("dense_gray_hair", heads) == ("dense", "gray_hair", None)
assert _split_name("my_net_hair_p", heads) == ("my_net", "hair", "")
assert _split_name("dense_gray_hair_p_yes", heads) == ("dense", "gray_hair", "yes")
assert _split_name("split", heads) is None and _split_name("hair", heads) is None
assert _split_name("dense", ["label"]) == ("dense", "label", None)
assert _split_name("dense_shade", ["shade"]) == ("dense", "shade", None)
assert _split_name("dense_p_yes", ["label"]) == ("dense", "label", "yes")
assert _split_name("dense_p_1.0", ["label"]) == ("dense", "label", "1")


# %%
#| export
class Answers(NamedTuple):
    "Where the answers of one model are"

    file: str  # The file
    predicted: dict[str, str]  # Head → its column of classes
    # Head → class → its column, with an empty class for the last of two; or columns in the order of
    # the classes
    probabilities: dict[str, dict[str, str] | tuple[str, ...]]


def _holds(values: pd.Series, names: set[str], all_of_them: bool = True) -> bool:
    "Is every value (or any) one of these names?"
    for some in (values.iloc[:1000], values):  # most columns are ruled out by their first rows
        try:
            found = set(names_of(some).names)
        except ValueError:
            return False
        if not (found and found <= names if all_of_them else found & names):
            return False
    return True


# %%
assert _holds(pd.Series([0, 1.0, np.nan]), {"0", "1", "2"})
assert not _holds(pd.Series([0, 0.5]), {"0", "1"}) and not _holds(pd.Series([[0]]), {"0"})
assert _holds(pd.Series(["a", "b"]), {"b"}, False) and not _holds(pd.Series([None]), {"b"})
assert not _holds(pd.Series([0] * 1000 + [7]), {"0"})


# %% [markdown]
# With a single head any column whose values are classes may be a model. With several, only a name tells.

# %%
#| export
def _models_in(
    file: str,  # Where the table came from
    table: pd.DataFrame,  # Its columns that are not yet spoken for
    heads: Sequence[str],  # Names of the heads
    known: set[str],  # Classes of a single head, as far as the labels show them, and their codes
    asked: Sequence[str],  # Names of models or columns that were given
    binary: bool = True,  # May a single head have two classes?
) -> dict[str, Answers]:
    "The models of which a table holds predictions or probabilities."
    found: dict[str, Answers] = {}
    for column in table.columns:
        model, head, name = _split_name(column, heads) or ("", "", None)
        one, values = len(heads) == 1, table[column]
        if one and column in asked:
            model, name = column, None
        elif not head:
            continue
        elif one and name is not None:
            # a model that is called net_p_2 is no probability of the class 2
            number = pd.api.types.is_numeric_dtype(values)
            if not (number and not name) and name not in known and _holds(values, known):
                model, name = column, None
        elif one and not _holds(values, known):
            if column == model or not _holds(values, known, all_of_them=False):
                continue
        own = found.setdefault(model, Answers(file, {}, {}))
        if name is None:
            own.predicted[head] = column
        else:
            own.probabilities.setdefault(head, {})[name] = column
    if asked:
        return {model: own for model, own in found.items() if model in asked}
    return {
        model: own
        for model, own in found.items()
        if own.predicted
        or len(heads) > 1
        or known & {*own.probabilities[heads[0]]}
        or (binary and "" in own.probabilities[heads[0]])
    }


# %%
table = pd.DataFrame(dict(dense=["yes", "no"], small_p=[0.9, 0.2], loss=[0.1, 0.7], fold=[1, 2]))
_models_in("t", table, ["label"], {"yes", "no"}, ())

# %%
assert _models_in("t", table, ["label"], {"yes", "no"}, ()) == {
    "dense": Answers("t", {"label": "dense"}, {}),
    "small": Answers("t", {}, {"label": {"": "small_p"}}),
}
assert list(_models_in("t", table, ["label"], {"yes", "no"}, ["small"])) == ["small"]
assert list(_models_in("t", table, ["label"], {"yes", "no", "?"}, (), False)) == ["dense"]
odd = pd.DataFrame(
    dict(net_p_2=[0, 1], net_p_0=[0, 1], m_p_1=[0.5, 0.5], q_p_9=[0.5, 0.5], a_y=["1", "7"])
)
assert _models_in("t", odd, ["y"], {"0", "1"}, ()) == {
    "net_p_2": Answers("t", {"y": "net_p_2"}, {}),
    "net": Answers("t", {}, {"y": {"0": "net_p_0"}}),
    "m": Answers("t", {}, {"y": {"1": "m_p_1"}}),
    "a": Answers("t", {"y": "a_y"}, {}),
}
many = pd.DataFrame(columns=["dense_hair", "dense_young", "small_young_p", "split"])
assert _models_in("t", many, ["hair", "young"], set(), ()) == {
    "dense": Answers("t", {"hair": "dense_hair", "young": "dense_young"}, {}),
    "small": Answers("t", {}, {"young": {"": "small_young_p"}}),
}


# %% [markdown]
# Two files often call their predictions by the same name, `pred`. Then each model is called after its file. Files that bring several models, such as two runs with one dense network, may share one of them.

# %%
#| export
def _same_answers(a: Answers, b: Answers, tables: Mapping[str, pd.DataFrame]) -> bool:
    "Are two models' columns equal in all rows?"

    def answers(own: Answers) -> pd.DataFrame:
        columns = dict(own.predicted)
        for head, of in own.probabilities.items():
            of = of if isinstance(of, Mapping) else dict(enumerate(of))
            columns |= {f"{head}_p_{name}": column for name, column in of.items()}
        table = tables[own.file][[*columns.values()]].astype(str)
        return table.set_axis([*columns], axis=1).sort_index(axis=1)

    return answers(a).equals(answers(b))


def _apart(
    found: Sequence[tuple[str, Answers]],  # Models of all files, with their names there
    tables: Mapping[str, pd.DataFrame],  # File → its table
    short: Mapping[str, str],  # File → what a model may be called after it
    notes: list[str],  # To which is added what was renamed
) -> dict[str, Answers]:  # By unique names
    "A name of its own for each model."
    count = {file: sum(own.file == file for _, own in found) for file in tables}
    names = [name for name, _ in found]
    apart: dict[str, Answers] = {}
    for name in dict.fromkeys(names):
        different: list[Answers] = []
        for own in [own for other, own in found if other == name]:
            same = [a for a in different if count[own.file] > 1 and _same_answers(a, own, tables)]
            if same:
                notes.append(f"{name} is the same in {same[0].file} and {own.file}: it counts once")
            else:
                different.append(own)
        if len(different) == 1:
            apart[name] = different[0]
            continue
        for own in different:
            after = [f"{name} {short[own.file]}", f"{name} {own.file}"]
            after = [short[own.file], *after] if count[own.file] == 1 else after
            new = next(new for new in after if new not in {*apart, *names})
            notes.append(f"the model {name} of {own.file} is called {new}")
            apart[new] = own
    return apart


# %%
files = {
    "a.csv": pd.DataFrame(dict(pred=[0, 1], dense=[1, 1])),
    "b.csv": pd.DataFrame(dict(pred=[0, 0], dense=[1, 1])),
}
answers = [
    (name, Answers(file, {"label": name}, {})) for file in files for name in ("pred", "dense")
]
list(_apart(answers, files, {"a.csv": "a", "b.csv": "b"}, said := [])), said

# %%
short = {"a.csv": "a", "b.csv": "b"}
assert list(_apart(answers, files, short, [])) == ["pred a", "pred b", "dense"]
assert "dense is the same in a.csv and b.csv: it counts once" in said
alone = [answers[1], answers[3]]  # equal, but each file's only model: a model that changed nothing
assert list(_apart(alone, files, {"a.csv": "a", "b.csv": "b"}, said := [])) == ["a", "b"]
assert said[1] == "the model dense of b.csv is called b"
likely = {
    f: pd.DataFrame(dict(p0=[0.5, p], p1=[0.5, 1 - p], z=0)) for f, p in dict(a=0, b=1).items()
}
both = [Answers(f, {}, {"y": {"0": "p0", "1": "p1"}}) for f in likely]
assert not _same_answers(*both, likely) and _same_answers(*both, dict.fromkeys("ab", likely["a"]))
given = [Answers("a", {}, {"y": own}) for own in (("p0", "p1"), ("p1", "p0"), ("p0",))]
assert [_same_answers(given[0], own, likely) for own in given] == [True, False, False]
files["dense.csv"] = pd.DataFrame(dict(pred=[1, 1]))  # its name is another model's already
three = [*answers, ("pred", Answers("dense.csv", {"label": "pred"}, {}))]
assert list(_apart(three, files, short | {"dense.csv": "dense"}, [])) == [
    "pred a",
    "pred b",
    "pred dense",
    "dense",
]

# %% [markdown]
# The model before comes first. Its name tells which one it is, or the order of the columns.

# %%
#| export
BASELINES = ("dense", "before", "baseline", "original", "float", "fp32")


def _ordered(models: Sequence[str], baseline: str, notes: list[str]) -> list[str]:
    "The models, the one before first. Raises: ValueError where `baseline` is none of them."
    first = baseline or next((m for m in (like_name(b, models) for b in BASELINES) if m), models[0])
    if first not in models:
        raise no_column(first, "baseline", models)
    if not baseline:
        notes.append(
            f"the model before is {first}, by its "
            + ("name" if first.casefold() in BASELINES else "place among the columns")
        )
    return [first, *(model for model in models if model != first)]


# %%
print(_ordered(["int8", "FP32", "pruned"], "", said := []), said)
assert _ordered(["int8", "FP32"], "", []) == ["FP32", "int8"]
assert said == ["the model before is FP32, by its name"]
assert _ordered(["b", "a"], "", said := []) == ["b", "a"] and said[0].endswith(
    "by its place among the columns"
)
assert _ordered(["dense", "a"], "a", said := []) == ["a", "dense"] and said == []
assert "did you mean pruned?" in refused(_ordered, ["dense", "pruned"], "prunde", [])


# %% [markdown]
# ## All models
#
# What was given is looked at before anything is guessed.

# %%
#| export
def _refuse_given(
    tables: Mapping[str, pd.DataFrame],  # File → its table
    heads: Sequence[str],  # Names of the heads
    reading: Reading,  # What was given
):
    "Raise ValueError for models or columns of probabilities that cannot be meant"
    asked = reading.models
    twice = [name for name in dict.fromkeys(asked) if asked.count(name) > 1]
    if twice:
        raise ValueError(f"models: {_some(twice)} is named twice")
    columns = list(dict.fromkeys(c for table in tables.values() for c in table))
    for name, own in (reading.probabilities or {}).items():
        for column in _listed(own):
            if column not in columns:
                raise no_column(column, "probabilities", columns)
        parts = _split_name(name, heads)
        if parts is None:
            raise ValueError(
                f"probabilities of {name!r}: with several heads they are named as MODEL_HEAD, with"
                f" a head of {_some([*heads])}"
            )
        if asked and not {name, parts[0]} & {*asked}:
            raise ValueError(f"probabilities of {name!r}: the models are {_some([*asked])}")


# %%
given = {"t": pd.DataFrame(columns=["y", "dense", "q"])}
_refuse_given(given, ["y"], Reading(models=["dense"], probabilities={"dense": "q"}))
for heads_, reading, part in (
    (["y"], Reading(models=["dense", "dense"]), "dense is named twice"),
    (["y"], Reading(probabilities={"dense": "p"}), "no column 'p'"),
    (["y", "z"], Reading(probabilities={"dense": "q"}), "named as MODEL_HEAD, with a head of y, z"),
    (["y"], Reading(models="dense", probabilities={"small": "q"}), "the models are dense"),
):
    assert part in refused(_refuse_given, given, heads_, reading)


# %% [markdown]
# The models of all tables, found or asked for. One alone can be judged when it is asked for; otherwise its partner is more likely to have been overlooked.

# %%
#| export
def model_columns(
    tables: Mapping[str, pd.DataFrame],  # File → its table, rows in one order
    heads: Mapping[str, Mapping[str, str]],  # Head → file → column of labels
    taken: set[str],  # Columns of labels, groups and persons
    reading: Reading,  # What was given
    short: Mapping[str, str],  # File → what a model may be called after it
    notes: list[str],  # To which the guess is added
) -> dict[str, Answers]:  # The model before comes first
    "The models and where their answers are."
    given = dict(reading.probabilities or {})
    _refuse_given(tables, [*heads], reading)
    spare = taken | {c for columns in given.values() for c in _listed(columns)}
    asked, known, binary = reading.models, set(), True
    if len(heads) == 1:
        ((head, places),) = heads.items()
        known = {n for file, column in places.items() for n in names_of(tables[file][column]).names}
        own = [name_of(name) for name in (reading.classes or {}).get(head, ())]
        binary = len(own or known) < 3
        known |= {*own, *(str(code) for code in range(len(own)))}
        if known <= {"0", "1"} or known <= {"False", "True"}:
            known = {"0", "1", "False", "True"}
    labels = {column for places in heads.values() for column in places.values()}
    if labels & {*asked}:
        raise ValueError(
            f"{_some(sorted(labels & {*asked}))} is a column of true classes and was named as a"
            " model too"
        )
    found: list[tuple[str, Answers]] = []
    for file, table in tables.items():
        own = table[
            [c for c in table if c in asked or c not in spare and not c.startswith("label_")]
        ]
        models = _models_in(file, own, [*heads], known, asked, binary)
        for name, columns in given.items():
            model, head, _ = _split_name(name, [*heads])
            model = name if len(heads) == 1 and name in models else model
            if {*_listed(columns)} & {*table.columns}:
                models.setdefault(model, Answers(file, {}, {}))
                models[model].probabilities[head] = _listed(columns)
        if reading.probabilities is not None:
            for name, answers in [*models.items()]:
                kept = {h: p for h, p in answers.probabilities.items() if isinstance(p, tuple)}
                models[name] = answers._replace(probabilities=kept)
        found += [(name, own) for name, own in models.items() if own.predicted or own.probabilities]
    rest = [c for table in tables.values() for c in table.columns if c not in spare]
    for name in asked:
        if name not in dict(found):
            raise no_column(name, "models", [*dict.fromkeys([*dict(found), *rest])])
    if len(found) < 2 and not asked:
        one = f"only one model was found, {found[0][0]}" if found else "no model was found"
        raise ValueError(
            f"{one}: two or more are compared. Name them with models=; columns that might be:"
            f" {_some([c for c in rest if c not in dict(found)], 20) or 'none'}"
        )
    models = _apart(found, tables, short, notes)
    if "label" in models:  # in sentences that would be the true classes
        models = {"label model" if name == "label" else name: own for name, own in models.items()}
    order = _ordered([*models], reading.baseline, notes)
    if not asked:
        notes.append(f"models are {_some(order, 14)}, by the names or the values of the columns")
    return {name: models[name] for name in order}


# %%
table = pd.DataFrame(dict(y=["a", "b"], small=["a", "a"], dense=["a", "b"], fold=["1", "2"]))
list(model_columns({"t": table}, {"y": {"t": "y"}}, {"y"}, Reading(), {"t": "t"}, said := [])), said

# %%
assert said[0] == "the model before is dense, by its name" and "models are dense, small" in said[1]
for reading, columns, part in (
    (Reading(), ["y", "dense", "fold"], "only one model was found, dense"),
    (Reading(), ["y", "fold"], "no model was found: two or more are compared"),
    (Reading(models="y"), [*table], "y is a column of true classes and was named as a model too"),
    (Reading(models=["dense", "smal"]), [*table], "no column 'smal': did you mean small?"),
):
    given = ({"t": table[columns]}, {"y": {"t": "y"}}, {"y"}, reading, {"t": "t"}, [])
    assert part in refused(model_columns, *given)
alone = model_columns(
    {"t": table}, {"y": {"t": "y"}}, {"y"}, Reading(models="small"), {"t": "t"}, []
)
assert list(alone) == ["small"]
odd = table.rename(columns=dict(small="label", fold="label_x"))  # label_x is no model
found = model_columns({"t": odd}, {"y": {"t": "y"}}, {"y"}, Reading(), {"t": "t"}, [])
assert list(found) == ["dense", "label model"]


# %% [markdown]
# With several heads each model must answer for each of them.

# %%
#| export
def refuse_heads(
    models: Mapping[str, Answers],  # The models
    heads: Sequence[str],  # Names of the heads
):
    "Raise ValueError for a model that has no answers for some heads"
    for model, own in models.items():
        lost = [head for head in heads if head not in {*own.predicted, *own.probabilities}]
        if lost:
            raise ValueError(
                f"the model {model} has answers for {len(heads) - len(lost)} of {len(heads)} heads:"
                f" there is no column {_some([f'{model}_{head}' for head in lost])}; if {model} is"
                " no model, name the models with models="
            )


# %%
half = {"dense": Answers("t", {"hair": "dense_hair"}, {})}
refuse_heads(half, ["hair"])
assert "dense has answers for 1 of 2 heads: there is no column dense_young" in refused(
    refuse_heads, half, ["hair", "young"]
)


# %% [markdown]
# Columns that have no part in it are named, so that a model that was overlooked is seen.

# %%
#| export
def unused_columns(
    tables: Mapping[str, pd.DataFrame],  # File → its table
    models: Mapping[str, Answers],  # The models
    taken: set[str],  # Columns of ids, labels, groups and persons
) -> list[str]:
    "Which columns are not used, in a sentence"
    used = {(file, column) for file in tables for column in taken}
    for own in models.values():
        used |= {(own.file, column) for column in own.predicted.values()}
        for of in own.probabilities.values():
            used |= {(own.file, c) for c in (of.values() if isinstance(of, Mapping) else of)}
    rest = [c for file, table in tables.items() for c in table if (file, c) not in used]
    return [f"columns that are not used: {_some([*dict.fromkeys(rest)], 20)}"] if rest else []


# %%
of_two = {"t": pd.DataFrame(columns=["y", "dense", "small_p"])}
models = {
    "dense": Answers("t", {"y": "dense"}, {}),
    "small": Answers("t", {}, {"y": {"": "small_p"}}),
}
assert unused_columns(of_two, models, {"y"}) == []
del models["small"]
assert unused_columns(of_two, models, {"y"}) == ["columns that are not used: small_p"]
