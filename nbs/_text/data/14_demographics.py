# %% [markdown]
# # Demographics of the person subtree
#
# > Select imageable person synsets and images with one gender, and count what is left out

# %%
#| default_exp data.demographics

# %%
#| export
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fairgrape.data.label_files import line_of, read_labels

# %%
import tempfile

tmp = Path(tempfile.mkdtemp())


# an error without the temporary folder's name
def say(error):
    print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")


# %% [markdown]
# ImageNet sorts its pictures by the synsets of WordNet, and 2,832 of them name kinds of people.
# Yang et al. (*Towards Fairer Datasets*, 2020) examined them. Many words are insults, or name
# something that no picture can show. The pictures of the rest are unequally distributed over
# genders, ages and skin colours. Yang et al. rated each synset's safety and imageability, and had
# the people in a sample of pictures annotated. The paper applies these rules:
#
# 1. the synset is rated *safe*;
# 2. its imageability is at least 4 of 5;
# 3. the image has exactly one gender, and that is not "unsure";
# 4. the class has at least 10 such images.
#
# The paper has 104 classes after that. The two lists of ratings are public, but the annotations are
# available on request only. So the code is tested on files that are written here in the same form.
# The number 104 is not verified. Its only public trace is the authors' prepared CSV, which numbers
# its classes from 0 to 103; the notebook on people reads it.
#
# ## The synsets
#
# Both ratings are CSVs with the columns `wnid`, `synset` (its words), `gloss` and the rating. The
# rating's header in the second is `imageability score`, with a space. R turns it into
# `imageability.score`, which the authors' code expects, so both are accepted.

# %%
safety_text = """wnid,synset,gloss,safety
n10499857,queen,the wife or widow of a king,safe
n10500217,queen,something personified as the best woman of her kind,safe
n10366966,nurse,one skilled in caring for young children or the sick,safe
n10091651,"fireman, firefighter, fire fighter, fire-eater",one who tries to extinguish fires,safe
n10118844,gambler,a person who wagers money on the outcome of games or sporting events,offensive
n10036929,drummer,someone who plays a drum,safe
"""
imageability_text = """wnid,synset,gloss,imageability score
n10499857,queen,the wife or widow of a king,5
n10366966,nurse,one skilled in caring for young children or the sick,4.666666667
n10500217,queen,something personified as the best woman of her kind,4.6
n10091651,"fireman, firefighter, fire fighter, fire-eater",one who tries to extinguish fires,4
n10118844,gambler,a person who wagers money on the outcome of games or sporting events,4.25
n10036929,drummer,someone who plays a drum,3.923076923
"""
(tmp / "synsets_safety.csv").write_text(safety_text)
(tmp / "imageability_scores.csv").write_text(imageability_text);


# %%
#| export
def safe_synsets(
    csv: Path,  # synsets_safety.csv
) -> pd.Series:  # The words of each synset that is rated safe, by its WordNet ID
    """Synsets rated 'safe'. Raises: FileNotFoundError, ValueError (no such column, no safe
    synset). Source: image-net.org/data.
    """
    table = read_labels(csv, ["wnid", "synset", "safety"])
    safe = table[table["safety"] == "safe"]
    ratings = ", ".join(sorted(set(table["safety"]))[:5])
    if safe.empty:
        raise ValueError(
            f"{csv}, column 'safety': no synset is rated 'safe'; the ratings are {ratings}"
        )
    return safe.set_index("wnid")["synset"]


# %%
safe_synsets(tmp / "synsets_safety.csv")

# %%
assert safe_synsets(tmp / "synsets_safety.csv").index.tolist() == [
    "n10499857",
    "n10500217",
    "n10366966",
    "n10091651",
    "n10036929",
]
for name, text in [
    ("none.csv", safety_text.replace(",safe\n", ",unsafe\n")),
    ("other.csv", safety_text.replace(",safety", ",rating")),
    ("gone.csv", None),
]:
    if text:
        (tmp / name).write_text(text)
    try:
        safe_synsets(tmp / name)
    except (ValueError, FileNotFoundError) as e:
        say(e)
    else:
        raise AssertionError(f"{name} was read")


# %% [markdown]
# A score must be a number: pandas would read and compare a column with one word in it as text.

# %%
#| export
def _scores(csv: Path, table: pd.DataFrame) -> pd.Series:
    """The imageability scores as numbers. Raises: ValueError (no such column, a score that is
    not a number).
    """
    column = next((c for c in ("imageability score", "imageability.score") if c in table), None)
    if column is None:
        raise ValueError(
            f"{csv}: no column 'imageability score': its columns are {', '.join(table)}"
        )
    score = pd.to_numeric(table[column], errors="coerce")
    if (wrong := score.isna().to_numpy()).any():
        raise ValueError(
            f"{csv}, line {line_of(table, wrong.argmax())}, column {column!r}:"
            f" {table[column].iloc[wrong.argmax()]!r} is not a number"
        )
    return score


# %%
_scores(
    Path("imageability_scores.csv"), pd.DataFrame({"imageability score": ["5", "3.92"]})
).tolist()

# %%
# R's spelling
assert _scores(Path("r.csv"), pd.DataFrame({"imageability.score": ["5", "3.92"]})).tolist() == [
    5,
    3.92,
]
for column, told in (
    ("imageability score", "line 3, column 'imageability score': 'high' is not a number"),
    ("score", "no column 'imageability score'"),
):
    try:
        _scores(Path("imageability_scores.csv"), pd.DataFrame({column: ["5", "high"]}))
    except ValueError as e:
        print(e)
        assert told in str(e)
    else:
        raise AssertionError("a word was taken for a score")


# %%
#| export
def imageable_synsets(
    csv: Path,  # imageability_scores.csv
    least: float = 4,  # The lowest accepted score, of 1 to 5
) -> set[str]:  # WordNet IDs
    """Synsets that a picture can show. Raises: FileNotFoundError, ValueError (no such column, a
    score that is not a number).
    """
    table = read_labels(csv, ["wnid"])
    return set(table["wnid"][_scores(csv, table) >= least])


# %%
sorted(imageable_synsets(tmp / "imageability_scores.csv"))

# %%
imageable = imageable_synsets(tmp / "imageability_scores.csv")
# 4 is enough, 3.92 is not
assert imageable == {"n10499857", "n10366966", "n10500217", "n10091651", "n10118844"}
(tmp / "r.csv").write_text(imageability_text.replace("imageability score", "imageability.score"))
assert imageable_synsets(tmp / "r.csv", least=4.65) == {"n10499857", "n10366966"}
for name, text, told in [
    (
        "word.csv",
        imageability_text.replace("4.25", "high"),
        "line 6, column 'imageability score': 'high'",
    ),
    ("score.csv", imageability_text.replace("imageability score", "score"), "no column"),
]:
    (tmp / name).write_text(text)
    try:
        imageable_synsets(tmp / name)
    except ValueError as e:
        say(e)
        assert told in str(e)
    else:
        raise AssertionError(f"{name} was read")


# %% [markdown]
# A class is named by the first word of its synset. "Queen" is the first word of several synsets, so
# a word that is not unique is followed by the ID.

# %%
#| export
def class_names(
    words: pd.Series,  # The words of each synset, separated by commas, by WordNet ID
) -> dict[str, str]:  # A name for each ID, all different
    "A short name for each synset."
    first = words.str.split(",").str[0].str.strip()
    twice = first.duplicated(keep=False)
    return {wnid: f"{name} ({wnid})" if twice[wnid] else name for wnid, name in first.items()}


# %%
class_names(safe_synsets(tmp / "synsets_safety.csv"))

# %%
three = pd.Series(dict(n1="queen", n2="fireman, fire-eater", n3="queen, female monarch"))
assert class_names(three) == dict(n1="queen (n1)", n2="fireman", n3="queen (n3)")

# %% [markdown]
# ## The annotations
#
# `ImageNet demographics annotations.json` is a list with an entry for each image: `url` holds the
# file's name, `gender` a list with a word for each gender that was seen. The image's synset is the
# first part of its name. The other fields of an entry (age, skin colour) are not used. A word other
# than male, female and unsure raises an error, because the file is then another edition.

# %%
#| export
_IMAGE = re.compile(r"(n\d{8})_\w+\.(JPEG|jpeg|JPG|jpg|png)")


def image_synset(
    name: str,  # A file name, such as n10366966_42.JPEG
) -> str | None:  # The WordNet ID of its synset; None if the name is not an ImageNet name
    "The synset that an image belongs to."
    match = _IMAGE.fullmatch(name)
    return match and match[1]


# %%
print(image_synset("n10366966_42.JPEG"), image_synset("nurse_42.JPEG"))
assert image_synset("n10366966_42.JPEG") == "n10366966" == image_synset("n10366966_42.png")
assert [
    image_synset(name)
    for name in ("nurse_42.JPEG", "n1036696_42.JPEG", "n10366966_42.JPEG.txt", "n10366966")
] == [None] * 4

# %% [markdown]
# Two people in one picture may have two genders or the same one. The annotation gives the set of
# genders that were seen. "Unsure" together with another word counts as several.

# %%
#| export
GENDERS = ["Male", "Female"]
# By the number of words; 2 stands for 2 or more
NO_ONE_GENDER = {0: "no gender", 1: "gender unsure", 2: "several genders"}


def _one_gender(
    words: list[str],  # The genders of one image, from 'male', 'female', 'unsure'
) -> tuple[str, str]:  # The gender or "", and why there is none or ""
    "The gender of an image that has exactly one."
    if len(words) == 1 and words[0] != "unsure":
        return words[0].capitalize(), ""
    return "", NO_ONE_GENDER[min(len(words), 2)]


# %%
[_one_gender(words) for words in (["male"], ["female", "male"], ["unsure"], [])]

# %%
assert (
    _one_gender(["female"]) == ("Female", "")
    and _one_gender(["male"])[0] in GENDERS
    and _one_gender(["unsure"]) == ("", "gender unsure")
)
assert _one_gender([]) == ("", "no gender") and _one_gender(["unsure", "male"]) == _one_gender(
    ["male", "female", "unsure"]
) == ("", "several genders")


# %% [markdown]
# An entry of another form raises an error with its number.

# %%
#| export
def _entry(file: Path, number: int, entry) -> tuple[str, str, str, str]:
    "Image, synset, gender and why there is none, from one entry."
    where = f"{file}, entry {number}"
    if not isinstance(entry, dict) or not {"url", "gender"} <= set(entry):
        raise ValueError(
            f"{where}: an entry needs 'url' and 'gender', but this is {str(entry)[:60]}"
        )
    name, words = str(entry["url"]).split("/")[-1], entry["gender"]
    synset = image_synset(name)
    if synset is None:
        raise ValueError(f"{where}: url {entry['url']!r} is not named like n10366966_42.JPEG")
    if not isinstance(words, list):
        raise ValueError(f"{where} ({name}): gender {words!r} is not a list of words")
    strange = [w for w in words if w not in ("male", "female", "unsure")]
    if strange:
        raise ValueError(
            f"{where} ({name}): gender {strange[0]!r} is not one of male, female, unsure"
        )
    return name, synset, *_one_gender(words)


# %%
_entry(
    Path("annotations.json"),
    7,
    dict(url="https://host/n10366966_1.JPEG", gender=["female"], age=["adult"]),
)

# %%
assert _entry(
    Path("annotations.json"), 7, dict(url="https://host/n10366966_1.JPEG", gender=["female"])
) == ("n10366966_1.JPEG", "n10366966", "Female", "")
image = "n10366966_1.JPEG"
for entry, told in (
    (5, "an entry needs"),
    (dict(url=image), "an entry needs"),
    (dict(url="nurse.JPEG", gender=["male"]), "is not named like"),
    (dict(url=image, gender="male"), "is not a list of words"),
    (dict(url=image, gender=["man"]), "'man' is not one of"),
):
    try:
        _entry(Path("annotations.json"), 7, entry)
    except ValueError as e:
        print(e)
        assert told in str(e)
    else:
        raise AssertionError(f"{entry} was accepted")


# %%
#| export
def read_demographics(
    file: Path,  # ImageNet demographics annotations.json
    # `image`, `synset`, `gender` ("" unless it has exactly one), `why` (the reason to leave the
    # image out, or "")
) -> pd.DataFrame:
    """The annotated images. Raises: FileNotFoundError, ValueError (not JSON, not a list, a bad
    entry, an image twice). Source: the ImageNet team.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{file}: not readable as JSON: {e}") from e
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{file}: the file must hold a list of entries, but this is {str(entries)[:40]}"
        )
    table = pd.DataFrame(
        [_entry(file, i, e) for i, e in enumerate(entries)],
        columns=["image", "synset", "gender", "why"],
    )
    twice = table["image"].duplicated().to_numpy()
    if twice.any():
        raise ValueError(
            f"{file}, entry {twice.argmax()}: {table['image'][twice.argmax()]} already has an entry"
        )
    return table


# %%
entries = [
    dict(url="n10366966_1.JPEG", gender=["female"]),
    dict(url="n10366966_2.JPEG", gender=["male", "female"]),
    dict(url="n10036929_3.JPEG", gender=["male"]),
    dict(url="n10366966_4.JPEG", gender=["unsure"]),
    dict(url="n10366966_5.JPEG", gender=[]),
]
(tmp / "few.json").write_text(json.dumps(entries))
read_demographics(tmp / "few.json")

# %%
assert read_demographics(tmp / "few.json")["why"].tolist() == [
    "",
    "several genders",
    "",
    "gender unsure",
    "no gender",
]
assert read_demographics(tmp / "few.json")["synset"].tolist()[1:3] == ["n10366966", "n10036929"]
for bad, told in [
    ('[{"url": "n10366966_1.JPEG", "gender": ["female"]', "not readable as JSON"),
    ('{"url": 1}', "must hold a list"),
    ("[]", "must hold a list"),
    ('["n10366966_1.JPEG"]', "entry 0: an entry needs"),
    (json.dumps(entries[:1] * 2), "entry 1: n10366966_1.JPEG already has an entry"),
]:
    (tmp / "bad.json").write_text(bad)
    try:
        read_demographics(tmp / "bad.json")
    except ValueError as e:
        say(e)
        assert told in str(e)
    else:
        raise AssertionError("bad annotations were read")


# %% [markdown]
# ## The rules
#
# Each image is kept, or left out by the first rule that it fails. The count of every rule is part
# of the result, because results on a set should be reported with how much of it is left, and why.

# %%
#| export
def apply_rules(
    table: pd.DataFrame,  # `synset`, `why` as `read_demographics` gives them
    safe: Sequence[str],  # Synsets rated safe
    imageable: set[str],  # Synsets that are imageable enough
    least: int = 10,  # Images that a class must have
) -> pd.DataFrame:  # The table, `why` filled in for each image that is left out
    """Name the rule that leaves each image out. Source: paper §4, public code (data
    preparation).
    """
    why = table["why"].mask(~table["synset"].isin(imageable), "synset not imageable enough")
    why = why.mask(~table["synset"].isin(list(safe)), "synset not rated safe")
    counts = table["synset"].where(why == "").value_counts()
    few = (why == "") & (table["synset"].map(counts).fillna(0) < least)
    return table.assign(why=why.mask(few, f"fewer than {least} images in its class"))


# %%
by_hand = pd.DataFrame(
    dict(
        synset=["n1", "n1", "n1", "n2", "n3", "n4", "n5"],
        why=["", "", "no gender", "", "", "", "gender unsure"],
    )
)
apply_rules(by_hand, safe=["n1", "n2", "n4"], imageable={"n1", "n3", "n4"}, least=2)

# %% [markdown]
# n1 has two images left and stays, n2 is not imageable, n3 and n5 are not safe (n5 fails two rules, the first counts), n4 has one image.

# %%
assert apply_rules(by_hand, ["n1", "n2", "n4"], {"n1", "n3", "n4"}, least=2)["why"].tolist() == [
    "",
    "",
    "no gender",
    "synset not imageable enough",
    "synset not rated safe",
    "fewer than 2 images in its class",
    "synset not rated safe",
]
ten = pd.DataFrame(dict(synset=["n1"] * 10 + ["n2"] * 9, why=""))
# ten are enough
assert (apply_rules(ten, ["n1", "n2"], {"n1", "n2"})["why"] == "").tolist() == [True] * 10 + [
    False
] * 9
