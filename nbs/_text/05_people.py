# %% [markdown]
# # People
#
# > ImageNet's person subtree: which synsets are used, which images show one gender, and how many were left out by which rule

# %%
#| default_exp people

# %%
#| export
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fairgrape.data import FaceData
from fairgrape.readers import check_inside, face_set, open_set, read_labels

# %%
import tempfile
from fairgrape.data import codes, label_columns
from fairgrape.synthetic import EXPRESSIONS, render_faces, synthetic_table
from PIL import Image
tmp = Path(tempfile.mkdtemp())
def say(error): print(f"{type(error).__name__}: {str(error).replace(str(tmp), '…')}")     # an error without the temporary folder's name


# %% [markdown]
# ImageNet sorts its pictures by WordNet's synsets, and 2,832 of them name kinds of people. Yang et al. (*Towards Fairer Datasets*, 2020) went through them: many words are insults or name what no
# picture can show, and the pictures of the rest are unequally shared between genders, ages and skin colours. They rated each synset's safety and imageability, and had the people in
# a sample of pictures annotated. The paper takes what passes these rules:
#
# 1. the synset is rated *safe*;
# 2. its imageability is at least 4 of 5;
# 3. the image has exactly one gender, and that is not "unsure";
# 4. the class has at least 10 such images.
#
# The paper has 104 classes after that. The two lists of ratings are public, but the annotations are given out on request only. So what follows is checked on files that are written here in
# the same form. The 104 are not checked: the one public trace of them, the authors' prepared CSV, numbers its classes from 0 to 103, and can be read below.
#
# ## The synsets
#
# Both ratings are CSVs with the columns `wnid`, `synset` (its words), `gloss` and the rating. The header of the second is `imageability score`, with a blank. R
# makes `imageability.score` of that, which is what the authors' code asks for, so both are taken.

# %%
safety_text = '''wnid,synset,gloss,safety
n10499857,queen,the wife or widow of a king,safe
n10500217,queen,"something personified as a woman who is considered the best or most important of her kind",safe
n10366966,nurse,one skilled in caring for young children or the sick,safe
n10091651,"fireman, firefighter, fire fighter, fire-eater",a member of a fire department who tries to extinguish fires,safe
n10118844,gambler,a person who wagers money on the outcome of games or sporting events,offensive
n10036929,drummer,someone who plays a drum,safe
'''
imageability_text = '''wnid,synset,gloss,imageability score
n10499857,queen,the wife or widow of a king,5
n10366966,nurse,one skilled in caring for young children or the sick,4.666666667
n10500217,queen,"something personified as a woman who is considered the best or most important of her kind",4.6
n10091651,"fireman, firefighter, fire fighter, fire-eater",a member of a fire department who tries to extinguish fires,4
n10118844,gambler,a person who wagers money on the outcome of games or sporting events,4.25
n10036929,drummer,someone who plays a drum,3.923076923
'''
(tmp/"synsets_safety.csv").write_text(safety_text); (tmp/"imageability_scores.csv").write_text(imageability_text);


# %%
#| export
def safe_synsets(
    csv: Path,       # synsets_safety.csv
) -> pd.Series:      # The words of each synset that is rated safe, by its WordNet ID
    "Synsets rated 'safe'. Raises: FileNotFoundError, ValueError (no such column, none is safe). Source: image-net.org/data."
    table = read_labels(csv, ["wnid", "synset", "safety"])
    safe = table[table["safety"] == "safe"]
    ratings = ", ".join(sorted(set(table["safety"]))[:5])
    if safe.empty: raise ValueError(f"{csv}, column 'safety': no synset is rated 'safe'; the ratings are {ratings}")
    return safe.set_index("wnid")["synset"]


# %%
safe_synsets(tmp/"synsets_safety.csv")

# %%
assert safe_synsets(tmp/"synsets_safety.csv").index.tolist() == ["n10499857", "n10500217", "n10366966", "n10091651", "n10036929"]
for name, text in [("none.csv", safety_text.replace(",safe\n", ",unsafe\n")), ("other.csv", safety_text.replace(",safety", ",rating")),
                   ("gone.csv", None)]:
    if text: (tmp/name).write_text(text)
    try: safe_synsets(tmp/name)
    except (ValueError, FileNotFoundError) as e: say(e)
    else: raise AssertionError(f"{name} was read")


# %%
#| export
def imageable_synsets(
    csv: Path,        # imageability_scores.csv
    least: float = 4, # The lowest score that will do, of 1 to 5
) -> set[str]:        # WordNet IDs
    "Synsets that a picture can show. Raises: FileNotFoundError, ValueError (no such column, a score that is no number)."
    table = read_labels(csv, ["wnid"])
    column = next((c for c in ("imageability score", "imageability.score") if c in table), None)
    if column is None: raise ValueError(f"{csv}: no column 'imageability score': its columns are {', '.join(table)}")
    score = pd.to_numeric(table[column], errors="coerce")
    if (wrong := score.isna().to_numpy()).any():
        raise ValueError(f"{csv}, line {wrong.argmax() + 2}, column {column!r}: {table[column][wrong.argmax()]!r} is not a number")
    return set(table["wnid"][score >= least])


# %%
sorted(imageable_synsets(tmp/"imageability_scores.csv"))

# %%
imageable = imageable_synsets(tmp/"imageability_scores.csv")
assert imageable == {"n10499857", "n10366966", "n10500217", "n10091651", "n10118844"}        # 4 is enough, 3.92 is not
(tmp/"r.csv").write_text(imageability_text.replace("imageability score", "imageability.score"))
assert imageable_synsets(tmp/"r.csv", least=4.65) == {"n10499857", "n10366966"}
for name, text in [("word.csv", imageability_text.replace("4.25", "high")),
                   ("score.csv", imageability_text.replace("imageability score", "score"))]:
    (tmp/name).write_text(text)
    try: imageable_synsets(tmp/name)
    except ValueError as e: say(e)
    else: raise AssertionError(f"{name} was read")


# %% [markdown]
# A class is called by its synset's first word. "Queen" is the first word of several synsets, so a word that is not unique gets the ID behind it.

# %%
#| export
def class_names(
    words: pd.Series, # The words of each synset, apart by commas, by WordNet ID
) -> dict[str, str]:  # A name for each ID, all different
    "A short name for each synset."
    first = words.str.split(",").str[0].str.strip()
    twice = first.duplicated(keep=False)
    return {wnid: f"{name} ({wnid})" if twice[wnid] else name for wnid, name in first.items()}


# %%
class_names(safe_synsets(tmp/"synsets_safety.csv"))

# %%
three = pd.Series(dict(n1="queen", n2="fireman, fire-eater", n3="queen, female monarch"))
assert class_names(three) == dict(n1="queen (n1)", n2="fireman", n3="queen (n3)")

# %% [markdown]
# ## The annotations
#
# `ImageNet demographics annotations.json` is a list with an entry for each image: `url` holds the file's name, `gender` a list of words, one for each gender that was seen. The image's synset is the
# first part of its name. What else an entry holds (age, skin colour) is not used. A word outside the three is an error: it would be another edition.

# %%
#| export
GENDERS = ["Male", "Female"]
_IMAGE = re.compile(r"(n\d{8})_\w+\.(JPEG|jpeg|JPG|jpg|png)")
_UNUSED = {0: "no gender", 1: "gender unsure", 2: "several genders"}

def image_synset(
    name: str,     # A file name, as n10366966_42.JPEG
) -> str | None:   # The WordNet ID of its synset; None where the name is no ImageNet name
    "The synset that an image belongs to."
    match = _IMAGE.fullmatch(name)
    return match and match[1]

def one_gender(
    words: list[str], # The genders of one image, from 'male', 'female', 'unsure'
) -> tuple[str, str]: # The gender or "", and why there is none or ""
    "The gender of an image that has exactly one."
    if len(words) == 1 and words[0] != "unsure": return words[0].capitalize(), ""
    return "", _UNUSED[min(len(words), 2)]


# %%
image_synset("n10366966_42.JPEG"), [one_gender(words) for words in (["male"], ["female", "male"], ["unsure"], [])]

# %%
assert image_synset("n10366966_42.JPEG") == "n10366966" and image_synset("nurse_42.JPEG") is None
assert one_gender(["female"]) == ("Female", "") and one_gender(["unsure"]) == ("", "gender unsure")
assert one_gender([]) == ("", "no gender") and one_gender(["unsure", "male"]) == ("", "several genders")


# %% [markdown]
# An entry that has not this form stops the reader, with its number.

# %%
#| export
def _entry(file: Path, number: int, entry) -> tuple[str, str, str, str]:
    "Image, synset, gender and why there is none, from one entry."
    where = f"{file}, entry {number}"
    if not isinstance(entry, dict) or not {"url", "gender"} <= set(entry):
        raise ValueError(f"{where}: an entry has 'url' and 'gender', this is {str(entry)[:60]}")
    name, words = str(entry["url"]).split("/")[-1], entry["gender"]
    synset = image_synset(name)
    if synset is None: raise ValueError(f"{where}: url {entry['url']!r} is not named as n10366966_42.JPEG")
    if not isinstance(words, list): raise ValueError(f"{where} ({name}): gender {words!r} is not a list of words")
    strange = [w for w in words if w not in ("male", "female", "unsure")]
    if strange: raise ValueError(f"{where} ({name}): gender {strange[0]!r} is not one of male, female, unsure")
    return name, synset, *one_gender(words)

def read_demographics(
    file: Path,      # ImageNet demographics annotations.json
) -> pd.DataFrame:   # `image`, `synset`, `gender` ("" where it has not exactly one), `why` (what speaks against the image, or "")
    "The annotated images. Raises: FileNotFoundError, ValueError (no JSON, no list, an entry, an image twice). Source: the ImageNet team."
    try: entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e: raise ValueError(f"{file}: not readable as JSON: {e}") from e
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{file}: the file must hold a list of entries, this is {str(entries)[:40]}")
    table = pd.DataFrame([_entry(file, i, e) for i, e in enumerate(entries)], columns=["image", "synset", "gender", "why"])
    twice = table["image"].duplicated().to_numpy()
    if twice.any(): raise ValueError(f"{file}, entry {twice.argmax()}: {table['image'][twice.argmax()]} has an entry already")
    return table


# %%
entries = [dict(url="n10366966_1.JPEG", gender=["female"]), dict(url="n10366966_2.JPEG", gender=["male", "female"]),
           dict(url="n10036929_3.JPEG", gender=["male"]), dict(url="n10366966_4.JPEG", gender=["unsure"]),
           dict(url="n10366966_5.JPEG", gender=[])]
(tmp/"few.json").write_text(json.dumps(entries))
read_demographics(tmp/"few.json")

# %%
assert read_demographics(tmp/"few.json")["why"].tolist() == ["", "several genders", "", "gender unsure", "no gender"]
assert read_demographics(tmp/"few.json")["synset"].tolist()[1:3] == ["n10366966", "n10036929"]
for bad in ['[{"url": "n10366966_1.JPEG", "gender": ["female"]', '{"url": 1}', '["n10366966_1.JPEG"]', '[{"url": "n10366966_1.JPEG"}]',
            '[{"url": "nurse.JPEG", "gender": ["male"]}]',
            '[{"url": "n10366966_1.JPEG", "gender": "male"}]', '[{"url": "n10366966_1.JPEG", "gender": ["man"]}]', json.dumps(entries[:1] * 2)]:
    (tmp/"bad.json").write_text(bad)
    try: read_demographics(tmp/"bad.json")
    except ValueError as e: say(e)
    else: raise AssertionError("bad annotations were read")


# %% [markdown]
# ## The rules
#
# Each image is kept, or left out for the first rule that it fails. The count of every rule is part of the result: how much of a set is left, and why, belongs beside any number that is measured on it.

# %%
#| export
def apply_rules(
    table: pd.DataFrame,  # `synset`, `why` as `read_demographics` gives them
    safe: Sequence[str],  # Synsets rated safe
    imageable: set[str],  # Synsets that are imageable enough
    least: int = 10,      # Images that a class must have
) -> pd.DataFrame:        # The table, `why` filled in for each image that is left out
    "Say of each image which rule of the paper leaves it out. Source: the paper's section 4 and the public code's data preparation."
    why = table["why"].mask(~table["synset"].isin(imageable), "synset not imageable enough")
    why = why.mask(~table["synset"].isin(list(safe)), "synset not rated safe")
    counts = table["synset"].where(why == "").value_counts()
    few = (why == "") & (table["synset"].map(counts).fillna(0) < least)
    return table.assign(why=why.mask(few, f"fewer than {least} images in its class"))


# %%
by_hand = pd.DataFrame(dict(synset=["n1", "n1", "n1", "n2", "n3", "n4", "n5"], why=["", "", "no gender", "", "", "", "gender unsure"]))
apply_rules(by_hand, safe=["n1", "n2", "n4"], imageable={"n1", "n3", "n4"}, least=2)

# %% [markdown]
# n1 has two images left and stays, n2 is not imageable, n3 and n5 are not safe (n5 fails two rules, the first counts), n4 has one image.

# %%
assert apply_rules(by_hand, ["n1", "n2", "n4"], {"n1", "n3", "n4"}, least=2)["why"].tolist() == [
    "", "", "no gender", "synset not imageable enough", "synset not rated safe",
    "fewer than 2 images in its class", "synset not rated safe"]

# %% [markdown]
# ## A prepared CSV
#
# Who has done the sorting already can give its result: `file`, `class`, `gender` (male or female). The authors' code ships such a file in another form: `image_name`, a class *number* and gender 0 or 1, of which its code
# says that 0 is male. A number means nothing in another file, so it is only checked against the synset in the image's name, and the class is called by that.

# %%
#| export
_GENDER_WORDS = {"male": "Male", "female": "Female", "Male": "Male", "Female": "Female"}

def _named_genders(csv: Path, values: pd.Series, names: dict[str, str]) -> pd.Series:
    gender = values.map(names)
    if (wrong := gender.isna().to_numpy()).any():
        raise ValueError(f"{csv}, line {wrong.argmax() + 2}, column 'gender': {values[wrong.argmax()]!r} is not one of {', '.join(names)}")
    return gender

def _numbered(csv: Path, text: pd.DataFrame) -> pd.DataFrame:
    "The authors' form: a class is the synset in the name, called by its words where the ratings lie beside the file."
    synset = text["image_name"].map(image_synset)
    if (wrong := synset.isna().to_numpy()).any():
        row = wrong.argmax()
        raise ValueError(f"{csv}, line {row + 2}, column 'image_name': {text['image_name'][row]!r} is not named as n10366966_42.JPEG")
    mixed = (synset.groupby(text["classes"]).transform("nunique") > 1).to_numpy()
    if mixed.any():
        raise ValueError(f"{csv}, column 'classes': number {text['classes'][mixed.argmax()]} stands for images of several synsets")
    ratings, used = csv.parent/"synsets_safety.csv", sorted(set(synset))
    names = class_names(safe_synsets(ratings).reindex(used).fillna(pd.Series(used, used))) if ratings.is_file() else dict(zip(used, used))
    gender = _named_genders(csv, text["gender"], {"0": "Male", "1": "Female"})
    return pd.DataFrame(dict(image=text["image_name"], synset=synset, name=synset.map(names), gender=gender))

def read_prepared(
    csv: Path,       # file, class, gender; or image_name, classes, gender as in the authors' repo
) -> pd.DataFrame:   # `image`, `synset` ("" where the name has none), `name` (of the class), `gender`
    "Images that were chosen already. Raises: FileNotFoundError, ValueError (column, gender, an image twice)."
    numbered = "image_name" in (text := read_labels(csv, ["gender"]))
    text = read_labels(csv, ["image_name", "classes"] if numbered else ["file", "class"])
    twice = text["image_name" if numbered else "file"].duplicated().to_numpy()
    if twice.any(): raise ValueError(f"{csv}, line {twice.argmax() + 2}: this image has a row already")
    if numbered: return _numbered(csv, text)
    empty = (text["class"] == "").to_numpy()
    if empty.any(): raise ValueError(f"{csv}, line {empty.argmax() + 2}, column 'class': no class")
    return pd.DataFrame(dict(image=text["file"], synset=[image_synset(Path(f).name) or "" for f in text["file"]], name=text["class"],
                             gender=_named_genders(csv, text["gender"], _GENDER_WORDS)))


# %%
(tmp/"own.csv").write_text("file,class,gender\nn10366966_1.JPEG,nurse,female\nimg/2.jpg,singer,male\n")
(tmp/"Imagenet.csv").write_text("image_name,face_name_align,classes,gender\n"
                                "n10366966_1.JPEG,n10366966_1.JPEG,62,1\nn10091651_3.JPEG,n10091651_3.JPEG,32,0\n")
pd.concat([read_prepared(tmp/"own.csv"), read_prepared(tmp/"Imagenet.csv")])

# %%
own, theirs = read_prepared(tmp/"own.csv"), read_prepared(tmp/"Imagenet.csv")
assert own["gender"].tolist() == ["Female", "Male"] == theirs["gender"].tolist()
assert own["synset"].tolist() == ["n10366966", ""] and theirs["name"].tolist() == ["nurse", "fireman"]
for header, *rows in [("file,class", "a.jpg,nurse"), ("file,class,gender", "a.jpg,nurse,unsure"), ("file,class,gender", "a.jpg,,male"),
                      ("file,class,gender", "a.jpg,nurse,male", "a.jpg,nurse,male"), ("image_name,classes,gender", "n10366966_1.JPEG,62,2"),
                      ("image_name,classes,gender", "n10366966_1.JPEG,62,1", "n10091651_3.JPEG,62,0"),
                      ("image_name,classes,gender", "1.JPEG,62,1")]:
    (tmp/"bad.csv").write_text("\n".join([header, *rows]) + "\n")
    try: read_prepared(tmp/"bad.csv")
    except ValueError as e: say(e)
    else: raise AssertionError("a bad CSV was read")


# %% [markdown]
# ## Where the files lie
#
# ImageNet gives out one tar a synset; unpacked, it is a folder of the synset's ID. The authors' code has all images in one folder, `Images/Imagenet`. Which of the two it is is seen from the first
# image and the first synset's folder. The CSVs and the JSON lie in the set's folder or in `csv/` below it.

# %%
#| export
def image_paths(
    root: Path,           # The set's folder
    images: pd.Series,    # File names, or paths relative to the folder
    synsets: pd.Series,   # The synset of each, or ""
) -> tuple[Path, list[str]]:  # The folder of images, and each image's path in it
    "Find the images: in a folder for each synset, or all in one. Raises: FileNotFoundError where none of the places has any, ValueError for a path that leaves the folder."
    check_inside(root, images)
    folders = [root, *(root/p for p in ("Images/Imagenet", "Images", "images", "train"))]
    first = list(dict(zip(synsets, images)).items())                                 # an image of each synset
    for base in folders:
        inside = {s for s, _ in first if s and (base/s).is_dir()}
        if inside or any((base/name).is_file() for _, name in first):
            return base, [f"{s}/{name}" if inside and s and "/" not in name else name for name, s in zip(images, synsets)]
    example = f"{first[0][0]}/{images.iloc[0]}" if first[0][0] else images.iloc[0]
    raise FileNotFoundError(f"{root/example}: no image of the set is here, nor in Images/Imagenet. "
                            "Unpack each synset's tar into a folder of its ID; see data/README.md")


# %%
pair = pd.Series(["n10366966_1.JPEG", "n10091651_3.JPEG"]), pd.Series(["n10366966", "n10091651"])
for name, synset in zip(*pair):
    for folder in (tmp/"tars"/synset, tmp/"flat/Images/Imagenet"): folder.mkdir(parents=True, exist_ok=True); (folder/name).touch()
image_paths(tmp/"tars", *pair)[1], image_paths(tmp/"flat", *pair)[1]

# %%
assert image_paths(tmp/"tars", *pair) == (tmp/"tars", ["n10366966/n10366966_1.JPEG", "n10091651/n10091651_3.JPEG"])
assert image_paths(tmp/"flat", *pair) == (tmp/"flat/Images/Imagenet", pair[0].tolist())
try: image_paths(tmp/"data", *pair)
except FileNotFoundError as e: say(e)
else: raise AssertionError("images were found where there are none")

# %% [markdown]
# ## A set
#
# Four synsets, the first two of which pass. Twelve pictures each, rendered, with the class in the expression; the last two of each have two genders and "unsure".

# %%
people = tmp/"people"; people.mkdir()
for name, text in [("synsets_safety.csv", safety_text), ("imageability_scores.csv", imageability_text)]: (people/name).write_text(text)
used = ["n10366966", "n10091651", "n10118844", "n10036929"]
genders = [["male"], ["female"]] * 5 + [["male", "female"], ["unsure"]]
entries = [dict(url=f"{s}_{i + 1}.JPEG", gender=g) for s in used for i, g in enumerate(genders)]
rows = synthetic_table(train=(12,) * 4, val=(5,) * 4, test=(5,) * 4).iloc[:48].reset_index(drop=True)
rows = rows.assign(**EXPRESSIONS.iloc[[used.index(e["url"][:9]) for e in entries]].reset_index(drop=True))
for entry, pixels in zip(entries, render_faces(rows, 24)):
    (people/entry["url"][:9]).mkdir(exist_ok=True)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(people/entry["url"][:9]/entry["url"])
annotations = people/"ImageNet demographics annotations.json"
annotations.write_text(json.dumps(entries))
sorted(p.name for p in people.iterdir())


# %%
#| export
def _find(root: Path, *names: str) -> Path | None:
    return next((p for p in (root/part/name for name in names for part in ("", "csv")) if p.is_file()), None)

def chosen_images(
    root: Path,       # The set's folder, with the two CSVs
    annotations: Path,# ImageNet demographics annotations.json
    least: int = 10,  # Images that a class must have
) -> tuple[pd.DataFrame, dict]: # `image`, `synset`, `name` (of the class), `gender`; and notes: how many were left out by which rule
    "The images that pass the rules. Raises: FileNotFoundError (one of the CSVs), ValueError (no class is left)."
    found = {name: _find(root, name) for name in ("synsets_safety.csv", "imageability_scores.csv")}
    for name, place in found.items():
        if not place:
            raise FileNotFoundError(f"{root/name}: no such file here, nor in csv/. It is at https://image-net.org/data/{name}")
    safe = safe_synsets(found["synsets_safety.csv"])
    table = apply_rules(read_demographics(annotations), safe.index, imageable_synsets(found["imageability_scores.csv"]), least)
    left_out = table["why"][table["why"] != ""].value_counts().to_dict()
    told = ", ".join(f"{n} {why}" for why, n in left_out.items())
    kept = table[table["why"] == ""].reset_index(drop=True)
    if kept.empty: raise ValueError(f"{annotations}: no class is left of {len(table)} images: {told}")
    if left_out: warnings.warn(f"people: {len(table) - len(kept)} of {len(table)} annotated images are left out: {told}", stacklevel=3)
    skipped = table["image"][table["why"].isin(_UNUSED.values())].tolist()
    return kept.assign(name=kept["synset"].map(class_names(safe[sorted(set(kept["synset"]))]))), dict(left_out=left_out, skipped=skipped)


# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    chosen, notes = chosen_images(people, annotations)
print(caught[0].message)
chosen[::4]

# %%
assert len(chosen) == 20 and set(chosen["name"]) == {"nurse", "fireman"}
assert notes["left_out"] == {"synset not rated safe": 12, "synset not imageable enough": 12, "several genders": 2, "gender unsure": 2}
assert notes["skipped"] == ["n10366966_11.JPEG", "n10366966_12.JPEG", "n10091651_11.JPEG", "n10091651_12.JPEG"]
try: chosen_images(people, annotations, least=11)
except ValueError as e: say(e)
else: raise AssertionError("a set without a class was accepted")

# %% [markdown]
# ## The reader
#
# The annotations are used where they are there, else a prepared CSV (`people.csv`, or `Imagenet.csv` as the authors' code calls it); or the path is such a CSV itself. The classes are in the order of their IDs.

# %%
#| export
_JSON, _CSVS = "ImageNet demographics annotations.json", ("people.csv", "Imagenet.csv")

def _set_folder(root: Path) -> Path:
    "The folder itself, or the one inside that holds the labels, as an archive often has it."
    inside = sorted(p for p in root.iterdir() if p.is_dir())
    return next((p for p in (root, *inside) if _find(p, _JSON, *_CSVS)), root)

def read_people(
    path: str | Path,      # The set's folder or an archive of it; or a prepared CSV
    data_root: str | Path, # Where an archive is unpacked to
    progress: bool = True, # Show a progress bar
    strict: bool = True,   # A missing image is an error; else its row is left out and it is listed in notes["missing"]
    least: int = 10,       # Images that a class must have
) -> FaceData:             # Labels `person_class` and `gender`; the synset's ID in the column `synset`
    "Read ImageNet's person subtree. Raises: FileNotFoundError (one of the four files, an image), ValueError (what is in them)."
    given = Path(path) if Path(path).suffix == ".csv" else None
    root = given.parent if given else _set_folder(open_set(path, data_root, "people", progress))
    annotations = None if given else _find(root, _JSON)
    csv = given or (None if annotations else _find(root, *_CSVS))
    if not annotations and not csv:
        raise FileNotFoundError(f"{root/_JSON}: no such file here, nor in csv/, and no people.csv. "
                                "The ImageNet team gives it out on request; see data/README.md")
    rows, notes = (read_prepared(csv), {}) if csv else chosen_images(root, annotations, least)
    order = rows.sort_values(["synset", "name"], kind="stable")["name"].unique().tolist()
    images, paths = image_paths(root, rows["image"], rows["synset"])
    table = pd.DataFrame(dict(path=paths, photo=paths, synset=rows["synset"], person_class=pd.Categorical(rows["name"], order),
                              gender=pd.Categorical(rows["gender"], GENDERS)))
    return face_set("people", images, table, dict(notes, protocol=dict(task="person_class", groups="gender")), strict)


# %%
warnings.simplefilter("ignore")
faces = read_people(people, tmp/"data")
faces.table[::4]

# %%
assert len(faces.table) == 20 and label_columns(faces.table) == ["person_class", "gender"]
assert codes(faces.table, "person_class")[1] == ["fireman", "nurse"]                                  # in the order of their IDs
assert pd.crosstab(faces.table["person_class"], faces.table["gender"]).to_numpy().tolist() == [[5, 5], [5, 5]]
assert faces.notes["left_out"] == notes["left_out"] and faces.notes["protocol"] == dict(task="person_class", groups="gender")
assert faces.load(faces.table[:2], 16).shape == (2, 3, 16, 16)

# %% [markdown]
# The same images by a prepared CSV.

# %%
plain = faces.table[["path", "person_class", "gender"]].set_axis(["file", "class", "gender"], axis=1)
plain.to_csv(people/"people.csv", index=False)
prepared = read_people(people/"people.csv", tmp/"data")
prepared.table.head(3)

# %%
assert prepared.table.equals(faces.table) and prepared.key == faces.key
numbered = pd.DataFrame(dict(image_name=plain["file"].str.split("/").str[-1], classes=plain["class"].cat.codes, gender=plain["gender"].cat.codes))
numbered.to_csv(people/"Imagenet.csv", index=False)
assert read_people(people/"Imagenet.csv", tmp/"data").table.equals(faces.table)


# %% [markdown]
# What stops the reader: no class that is large enough, one of the four files missing, an image missing.

# %%
def stopped(error, *changes):
    "Read with a changed or hidden file, and put it back."
    kept = {file: file.read_bytes() for file, _ in changes}
    for file, text in changes: file.unlink() if text is None else file.write_text(text)
    try: read_people(people, tmp/"data")
    except error as e: say(e)
    else: raise AssertionError("a faulty set was read")
    finally: [file.write_bytes(content) for file, content in kept.items()]
stopped(ValueError, (annotations, json.dumps(entries[10:21])))
for name in ("synsets_safety.csv", "imageability_scores.csv"): stopped(FileNotFoundError, (people/name, None))
stopped(FileNotFoundError, (annotations, None), (people/"people.csv", None), (people/"Imagenet.csv", None))
stopped(FileNotFoundError, (people/"n10366966/n10366966_3.JPEG", None))
(people/"n10366966/n10366966_3.JPEG").unlink()
read_people(people, tmp/"data", strict=False).notes["missing"]

# %%
part = read_people(people, tmp/"data", strict=False)
assert part.notes["missing"] == ["n10366966/n10366966_3.JPEG"] and len(part.table) == 19
assert part.table["person_class"].cat.categories.tolist() == ["fireman", "nurse"]
