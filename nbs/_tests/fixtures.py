"""Rendered faces in the official layouts of CelebA and ImageNet's person subtree: file names,
headers, codes and blanks as published.

And what an executed notebook shows whoever opens it."""

import base64
import csv
import io
import json
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from PIL import Image

from fairgrape.data.appearance import EXPRESSIONS, synthetic_table
from fairgrape.data.celeba_labels import CELEBA_ATTRIBUTES
from fairgrape.data.synthetic import render_faces

# What the pictures show goes into some attributes, so that a network can learn them; the rest is
# drawn with these frequencies, women's and men's.
DRAWN = dict(
    Bald=(0, 0.15),
    Goatee=(0, 0.2),
    Mustache=(0, 0.15),
    Sideburns=(0, 0.2),
    Heavy_Makeup=(0.6, 0),
    Wearing_Lipstick=(0.8, 0.02),
    Rosy_Cheeks=(0.2, 0),
    Wearing_Necktie=(0.02, 0.3),
    Wearing_Earrings=(0.4, 0.05),
    No_Beard=(1, 0.5),
    Blurry=(0, 0),
    Young=(0.8, 0.6),
)
DRAWN["5_o_Clock_Shadow"] = (0, 0.3)


def face_rows(n: int, seed: int) -> pd.DataFrame:
    "`n` rows of the renderer's table, tones and expressions mixed."
    each = max(5, -(-n // 4))
    table = synthetic_table(seed=seed, train=(each,) * 4, val=(5,) * 4, test=(5,) * 4)
    order = np.random.default_rng([seed, 0]).permutation(4 * each)[:n]
    return table.iloc[order].reset_index(drop=True)


def save_faces(paths: list[Path], rows: pd.DataFrame, size: int, tall: float = 1.0):
    "Render one JPEG a row; `tall` times as high as wide, the edges repeated."
    for path in {p.parent for p in paths}:
        path.mkdir(parents=True, exist_ok=True)
    more = round(size * (tall - 1))
    for path, pixels in zip(paths, render_faces(rows, size), strict=True):
        high = np.pad(pixels, ((0, 0), (more // 2, more - more // 2), (0, 0)), mode="edge")
        Image.fromarray(high.transpose(1, 2, 0)).save(path, quality=92)


# CelebA


def celeba_labels(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The 40 attributes of rendered faces, as booleans in the official order. Bald and female
    is an empty cell; nobody is Blurry.
    """
    rng = np.random.default_rng([seed, 1])
    male = (rows.hair_long < 0.5).to_numpy() ^ (rng.random(len(rows)) < 0.25)
    chance = np.array([[DRAWN.get(a, (0.2, 0.2))[int(m)] for a in CELEBA_ATTRIBUTES] for m in male])
    labels = pd.DataFrame(rng.random(chance.shape) < chance, columns=CELEBA_ATTRIBUTES)
    seen = dict(
        Male=male,
        Smiling=rows.smile > 0.05,
        Mouth_Slightly_Open=rows.mouth_open > 0.02,
        Eyeglasses=rows.glasses > 0.5,
        Black_Hair=rows.hair_shade < 0.2,
        Pale_Skin=rows.tone == "tone-1",
        Narrow_Eyes=rows.eye_open < 0.9,
        Arched_Eyebrows=rows.brow_raise > 0.03,
    )
    return labels.assign(**{name: np.asarray(value) for name, value in seen.items()})


def persons(parts: np.ndarray, seed: int) -> np.ndarray:
    "An identity number for each image, about three images each, none of them in two parts."
    rng, out, first = np.random.default_rng([seed, 2]), np.empty(len(parts), int), 1
    for part in range(3):
        here = np.flatnonzero(parts == part)
        out[here] = rng.permutation(first + np.arange(len(here)) // 3)
        first += -(-len(here) // 3)
    return out


def attribute_text(names: list[str], labels: pd.DataFrame) -> str:
    """list_attr_celeba.txt: the number of images, the names (a blank at the end), then rows
    with two columns for each value.
    """
    rows = [
        f"{name} " + " ".join(f"{2 * int(v) - 1:2d}" for v in row)
        for name, row in zip(names, labels.to_numpy(), strict=True)
    ]
    return "\n".join([str(len(names)), " ".join(labels.columns) + " ", *rows]) + "\n"


def csv_text(header: list[str], rows) -> str:
    "A CSV as pandas or a spreadsheet would write it, with plain line ends."
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def write_celeba(
    folder: Path, n: int, seed: int = 0, layout: str = "official", size: int = 48
) -> Path:
    """CelebA with `n` rendered faces, in the 'official', 'torchvision' or 'csv' layout; returns
    what a reader is given.
    """
    images, anno, evaluation = dict(
        official=("Img/img_align_celeba", "Anno", "Eval"),
        csv=("img_align_celeba/img_align_celeba", ".", "."),
        torchvision=("celeba/img_align_celeba", "celeba", "celeba"),
    )[layout]
    names, rows = [f"{i + 1:06d}.jpg" for i in range(n)], face_rows(n, seed)
    labels, parts = (
        celeba_labels(rows, seed),
        np.searchsorted([0.8 * n, 0.9 * n], np.arange(n), side="right"),
    )
    save_faces([folder / images / name for name in names], rows, size, 218 / 178)
    for part in (anno, evaluation):
        (folder / part).mkdir(parents=True, exist_ok=True)
    if layout == "csv":
        values = 2 * labels.to_numpy().astype(int) - 1
        (folder / "list_attr_celeba.csv").write_text(
            csv_text(["image_id", *labels], ([m, *row] for m, row in zip(names, values)))
        )
        (folder / "list_eval_partition.csv").write_text(
            csv_text(["image_id", "partition"], zip(names, parts))
        )
    else:
        (folder / anno / "list_attr_celeba.txt").write_text(attribute_text(names, labels))
        (folder / anno / "identity_CelebA.txt").write_text(
            "".join(f"{m} {p}\n" for m, p in zip(names, persons(parts, seed)))
        )
        (folder / evaluation / "list_eval_partition.txt").write_text(
            "".join(f"{m} {p}\n" for m, p in zip(names, parts))
        )
    return folder


# ImageNet's person subtree. The first five are safe and imageable enough, the sixth is not rated
# safe, the seventh not imageable enough.
SYNSETS = [
    (
        "n09834699",
        "ballet dancer",
        "a trained dancer who is a member of a ballet company",
        "safe",
        "5",
    ),
    (
        "n10091651",
        "fireman, firefighter, fire fighter, fire-eater",
        "a member of a fire department who tries to extinguish fires",
        "safe",
        "4.6",
    ),
    (
        "n10366966",
        "nurse",
        (
            "one skilled in caring for young children or the sick (usually under the supervision of"
            " a physician)"
        ),
        "safe",
        "4.666666667",
    ),
    ("n10599806", "singer, vocalist, vocalizer, vocaliser", "a person who sings", "safe", "4"),
    ("n10618342", "soccer player", "an athlete who plays soccer", "safe", "4.4"),
    (
        "n10118844",
        "gambler",
        "a person who wagers money on the outcome of games or sporting events",
        "offensive",
        "4.25",
    ),
    (
        "n10036929",
        "drummer",
        'someone who plays a drum; "she is the drummer"',
        "safe",
        "3.923076923",
    ),
]


def people_entries(wnid: str, each: int, first: int) -> list[dict]:
    """Entries of one synset as in the JSON: `each` usable images, then one with two genders,
    one unsure and one without.
    """
    genders = [["male" if i % 2 == 0 else "female"] for i in range(each)] + [
        ["female", "male"],
        ["unsure"],
        [],
    ]
    return [
        dict(url=f"{wnid}_{first + 7 * i}.JPEG", gender=gender) for i, gender in enumerate(genders)
    ]


def people_rows(entries: list[dict], wnids: list[str], seed: int) -> pd.DataFrame:
    "A rendered face an entry: the class shows in the expression, the gender in the hair."
    rows, kinds = (
        face_rows(len(entries), seed),
        [wnids.index(e["url"].split("_")[0]) % len(EXPRESSIONS) for e in entries],
    )
    return rows.assign(
        **EXPRESSIONS.iloc[kinds].reset_index(drop=True),
        hair_long=[float("female" in e["gender"]) for e in entries],
    )


def write_people(
    folder: Path, each: int = 24, classes: int = 4, seed: int = 0, size: int = 48
) -> Path:
    """ImageNet's person subtree with `classes` (1 to 5) usable classes of `each` usable images,
    and two synsets that fail a rule.
    """
    used = [s[0] for s in SYNSETS[:classes] + SYNSETS[5:]]
    entries = [e for k, wnid in enumerate(used) for e in people_entries(wnid, each, 11 + 100 * k)]
    save_faces(
        [folder / e["url"].split("_")[0] / e["url"] for e in entries],
        people_rows(entries, used, seed),
        size,
    )
    rated = sorted(SYNSETS, key=lambda s: -float(s[4]))
    (folder / "synsets_safety.csv").write_text(
        csv_text(["wnid", "synset", "gloss", "safety"], (s[:4] for s in SYNSETS))
    )
    scores = ([*s[:3], s[4]] for s in rated)
    (folder / "imageability_scores.csv").write_text(
        csv_text(["wnid", "synset", "gloss", "imageability score"], scores)
    )
    order = np.random.default_rng([seed, 3]).permutation(len(entries))
    (folder / "ImageNet demographics annotations.json").write_text(
        json.dumps([entries[i] for i in order])
    )
    return folder


# What an executed notebook shows

# the pictures of a pruned run, by how their alternative texts begin
PRUNED = (
    "Change of each group's validation accuracy",
    "Learning curves over",
    "Share of weights kept",
    "Accuracy of the dense",
    "Share of importance",
)
# of a run whose score knows groups: what each choice kept of their shares as well
BY_GROUP = (*PRUNED[:4], "Each group's share of the importance that", *PRUNED[4:])
# of a report or a study, for one experiment
COMPARED = ("Disparity ρ with", "Change of accuracy", "Disparity ρ against")


def pictures_of(folder: Path) -> tuple[str, ...]:
    "The pictures of a pruned run: `BY_GROUP` where its folder has the choices of a score by group."
    return BY_GROUP if (folder / "choices.csv").is_file() else PRUNED


def picture_is_drawn(data: str):
    "A PNG in base64 is a picture of a plot's size, and not blank"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.format == "PNG" and picture.width >= 400 and picture.height >= 200, picture
    assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 2, (
        "a blank picture"
    )


def shown(book: Path) -> tuple[list[str], int]:
    """What an executed notebook shows: the text of each picture, and how many tables.

    Fails for an error, a warning (progress bars may stay), and a picture that is lost or blank."""
    texts, tables = [], 0
    outputs = [
        o for cell in nbformat.read(book, 4).cells if cell.cell_type == "code" for o in cell.outputs
    ]
    for output in outputs:
        assert output.output_type != "error", f"{book}: {output}"
        if output.output_type == "stream":
            bar = "Warning" not in output.text and ("\r" in output.text or not output.text.strip())
            assert output.name == "stdout" or bar, f"{book}: {output.text}"
            continue
        data = output.data
        if "image/png" in data:
            picture_is_drawn(data["image/png"])
            texts.append(data["text/plain"])
        elif output.output_type == "display_data":
            assert set(data) != {"text/plain"}, (
                f"{book}: a picture or table is lost, only its text is there: {data['text/plain']}"
            )
        tables += "<td" in data.get("text/html", "")  # one without rows does not count
    return texts, tables


def looks_right(book: Path, *begins: str, tables: int):
    """Assert that a notebook shows these pictures, in order, each described in words, and so
    many tables
    """
    texts, found = shown(book)
    assert len(texts) == len(begins) and found == tables, (book, texts, found)
    assert all(
        text.startswith(begin) and len(text) > 60 for text, begin in zip(texts, begins, strict=True)
    ), texts
