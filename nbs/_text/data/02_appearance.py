# %% [markdown]
# # What varies in a rendered face
#
# > One row of numbers per image: expression, skin tone, hair and light, all drawn in advance

# %%
#| default_exp data.appearance

# %%
#| export
import numpy as np
import pandas as pd

from fairgrape.data.splits import SPLITS

# %% [markdown]
# Real faces have to be requested, downloaded and kept safe, and nobody knows for certain why one
# group is recognised worse than another. Rendered faces need no download and show no person. Their
# group effect is known because it is built in. The task is to tell five expressions apart; the
# groups are four skin tones.
#
# In good light the tones differ in colour only. In bad light a camera that is exposed for lighter
# skin flattens the darker tones: brows, eyes and mouth keep only a part of their contrast to the
# skin. The darker tones also have fewer training images. Everything else is drawn alike for all
# tones.
#
# The drawings are deliberately smooth and plain. They stand in for a data set, not for people, and
# the groups are called tone-1 to tone-4.

# %% [markdown]
# ## What varies
#
# An expression is five numbers: how far the corners of the mouth rise, how far the mouth opens, how
# far the brows rise, how much their inner ends tilt up (sad) or down (angry), and how wide the eyes
# are. Lengths are in units of half the image width.

# %%
#| export
EXPRESSIONS = pd.DataFrame.from_dict(
    dict(
        neutral=(0.00, 0.000, 0.00, 0.0, 1.0),
        happy=(0.17, 0.045, 0.01, 0.0, 0.8),
        sad=(-0.15, 0.000, 0.02, 0.5, 0.8),
        surprised=(0.00, 0.150, 0.09, 0.0, 1.4),
        angry=(-0.05, 0.000, -0.05, -0.5, 0.75),
    ),
    orient="index",
    columns=["smile", "mouth_open", "brow_raise", "brow_tilt", "eye_open"],
)
# The skin's colour, and the part of the features' contrast that bad light leaves
TONES = pd.DataFrame.from_dict(
    {
        "tone-1": (0.95, 0.81, 0.71, 1.0),
        "tone-2": (0.82, 0.64, 0.52, 0.95),
        "tone-3": (0.63, 0.45, 0.35, 0.24),
        "tone-4": (0.46, 0.32, 0.25, 0.2),
    },
    orient="index",
    columns=["skin_red", "skin_green", "skin_blue", "contrast"],
)
# Opacity of the hair, height and slant of the hair line, whether it falls to the shoulders
HAIR = pd.DataFrame.from_dict(
    dict(
        cropped=(0.25, -0.50, 0.06, 0.0),
        short=(1.0, -0.42, 0.06, 0.0),
        parted=(1.0, -0.50, 0.22, 0.0),
        long=(1.0, -0.50, 0.06, 1.0),
    ),
    orient="index",
    columns=["hair_density", "hair_line", "hair_slant", "hair_long"],
)

# %%
assert len(EXPRESSIONS) == 5 and list(TONES.index) == ["tone-1", "tone-2", "tone-3", "tone-4"]
assert TONES.contrast.is_monotonic_decreasing
TONES

# %% [markdown]
# Everything else is a number between two bounds, drawn uniformly. The last six are fractions that
# later become hair style, glasses and light.

# %%
#| export
RANGES = dict(
    yaw=(-1, 1),
    roll=(-0.2, 0.2),
    shift_x=(-0.08, 0.08),
    shift_y=(-0.1, 0.02),
    scale=(1.12, 1.36),
    width=(0.9, 1.08),
    strength=(0.45, 1),
    smile=(-0.025, 0.025),
    mouth_open=(-0.012, 0.012),
    brow_raise=(-0.02, 0.02),
    brow_tilt=(-0.1, 0.1),
    eye_open=(-0.1, 0.1),
    skin=(0.94, 1.05),
    hair_shade=(0.06, 0.5),
    hair_warmth=(0, 0.45),
    noise=(0, 2**24),
    back_red=(0.2, 0.9),
    back_green=(0.2, 0.9),
    back_blue=(0.2, 0.9),
    back_slope=(-0.2, 0.2),
    cloth_red=(0.1, 0.9),
    cloth_green=(0.1, 0.9),
    cloth_blue=(0.1, 0.9),
    light_angle=(0, 2 * np.pi),
    hair=(0, 1),
    glasses=(0, 1),
    bad_light=(0, 1),
    light_level=(0, 1),
    light_side=(0, 1),
    grain=(0, 1),
)

# %%
assert all(low < high for low, high in RANGES.values())
RANGES["yaw"], RANGES["roll"]


# %% [markdown]
# ## A row for every image
#
# Every random choice is made here, in the table; rendering is deterministic. Each pair of split and
# tone has its own random stream and draws from it row by row. So a different number of training
# images changes no test image, and a longer table begins with the same rows. The expressions take
# turns, which balances the classes within each tone.

# %%
#| export
def _stream(split: str, tone: str, seed: int) -> np.random.Generator:
    "The random stream of one split and tone, for a set's seed."
    return np.random.default_rng([seed, SPLITS.index(split), TONES.index.get_loc(tone)])


# %%
{
    (split, tone): _stream(split, tone, seed=0).random(2).round(3).tolist()
    for split in ("train", "test")
    for tone in ("tone-1", "tone-2")
}

# %%
firsts = [
    _stream(*which).random()
    for which in (
        ("train", "tone-1", 0),
        ("test", "tone-1", 0),
        ("train", "tone-2", 0),
        ("train", "tone-1", 1),
    )
]
assert len(set(firsts)) == 4 and _stream("train", "tone-1", 0).random() == firsts[0], (
    "each split, tone and seed has its own stream"
)


# %% [markdown]
# A row takes the next numbers of its stream, one for each range, in the order of the table above.
# Adding a range, or changing their order, therefore gives a different set of faces.

# %%
#| export
def _raw_parameters(n: int, stream: np.random.Generator) -> pd.DataFrame:
    "`n` rows of render parameters, each uniform in its range."
    low, high = np.array(list(RANGES.values()), float).T
    return pd.DataFrame(low + (high - low) * stream.random((n, len(RANGES))), columns=list(RANGES))


# %%
raw = _raw_parameters(1000, _stream("train", "tone-1", 0))
raw.describe().loc[["min", "max"], ["yaw", "roll", "scale", "strength"]].round(2)

# %%
bounds = np.array(list(RANGES.values()))
assert ((raw >= bounds[:, 0]) & (raw <= bounds[:, 1])).all(axis=None)
assert np.allclose((raw.mean() - bounds[:, 0]) / (bounds[:, 1] - bounds[:, 0]), 0.5, atol=0.05), (
    "uniform: the mean is half-way"
)
assert _raw_parameters(3, _stream("train", "tone-1", 0)).equals(raw.head(3))


# %%
#| export
def draw_rows(
    n: int,  # Number of images, at least one for each expression
    split: str,  # 'train', 'val' or 'test'
    tone: str,  # A row of `TONES`
    seed: int = 0,  # Seed of the whole set
) -> pd.DataFrame:  # Labels as Categoricals, then a float column for each of `RANGES`
    "Draw the labels and the raw render parameters of `n` faces of one tone."
    least = len(EXPRESSIONS)
    if n < least:
        raise ValueError(
            f"{split} {tone}: {n} images for {least} expressions: ask for {least} or more"
        )
    labels = dict(
        expression=pd.Categorical.from_codes(np.arange(n) % least, EXPRESSIONS.index),
        tone=pd.Categorical([tone] * n, TONES.index),
        split=pd.Categorical([split] * n, SPLITS),
    )
    return pd.concat([pd.DataFrame(labels), _raw_parameters(n, _stream(split, tone, seed))], axis=1)


# %%
rows = draw_rows(10, "train", "tone-2")
rows[["expression", "tone", "split", "yaw", "scale", "strength"]].head(3)

# %%
assert (
    set(rows.tone) == {"tone-2"}
    and set(rows.split) == {"train"}
    and rows.tone.cat.categories.tolist() == TONES.index.tolist()
)
assert rows.expression.value_counts().tolist() == [2] * 5
# more rows keep the first ones
pd.testing.assert_frame_equal(draw_rows(20, "train", "tone-2").head(10), rows)
assert not np.isclose(draw_rows(10, "train", "tone-2", seed=1).yaw, rows.yaw).any()
assert not np.isclose(draw_rows(10, "test", "tone-2").yaw, rows.yaw).any()

# %%
try:
    draw_rows(4, "val", "tone-3")
except ValueError as e:
    print(e)
else:
    raise AssertionError("4 images cannot show 5 expressions")


# %% [markdown]
# The strength sets how much of an expression shows: 1 is the full expression, .45 less than half of
# it. The weak ones make the task hard.

# %%
#| export
def express(
    rows: pd.DataFrame,  # As `draw_rows` gives them
) -> pd.DataFrame:  # The same, the five expression columns moved by label and strength
    "Move mouth, brows and eyes from neutral towards each row's expression."
    neutral = EXPRESSIONS.loc["neutral"].to_numpy()
    target = EXPRESSIONS.to_numpy()[rows.expression.cat.codes]
    moved = neutral + rows.strength.to_numpy()[:, None] * (target - neutral)
    return rows.assign(**(rows[EXPRESSIONS.columns] + moved))


# %%
express(rows)[["expression", "strength", *EXPRESSIONS.columns]].head().round(2)

# %%
half = rows.assign(strength=0.5, **dict.fromkeys(EXPRESSIONS.columns, 0.0))
# half of .17, -.15, 0, -.05
assert express(half).smile.head().round(3).tolist() == [0, 0.085, -0.075, 0, -0.025]
assert express(half).eye_open.head().round(3).tolist() == [
    1,
    0.9,
    0.9,
    1.2,
    0.875,
]  # half-way from 1


# %% [markdown]
# Six images in ten are taken in bad light: darker, and from one side. In bad light the tone sets
# the contrast that the features keep. In good light the contrast of every tone is 1. Apart from the
# skin's colour, this is the only effect of the tone.

# %%
#| export
def _add_light(
    rows: pd.DataFrame,  # As `draw_rows` gives them, of any tones
) -> pd.DataFrame:  # The same, with level, side and grain of the light, and `contrast`
    "Decide which images are taken in bad light, and how much contrast their features keep."
    bad = rows.bad_light.to_numpy() < 0.6

    def between(name, good, poor):
        return np.where(
            bad, np.interp(rows[name], (0, 1), poor), np.interp(rows[name], (0, 1), good)
        )

    kept = TONES.contrast.to_numpy()[rows.tone.cat.codes]
    return rows.assign(
        bad_light=bad.astype(float),
        contrast=np.where(bad, kept, 1.0),
        light_level=between("light_level", (0.95, 1.05), (0.55, 0.8)),
        light_side=between("light_side", (0, 0.2), (0.2, 0.4)),
        grain=0.01 + 0.01 * rows.grain,
        noise=np.floor(rows.noise),
    )


# %%
_add_light(rows)[["tone", "bad_light", "light_level", "light_side", "contrast"]].head(4).round(2)

# %%
many = _add_light(draw_rows(2000, "test", "tone-4"))
bad = many.bad_light == 1
assert (
    abs(bad.mean() - 0.6) < 0.04
    and set(many.contrast[bad]) == {0.2}
    and set(many.contrast[~bad]) == {1.0}
)
assert (
    many.light_level[bad].between(0.55, 0.8).all()
    and many.light_level[~bad].between(0.95, 1.05).all()
), "darker"
assert (
    many.light_side[bad].between(0.2, 0.4).all() and many.light_side[~bad].between(0, 0.2).all()
), "and from one side"
assert np.allclose(
    many.groupby("bad_light")[["light_level", "light_side"]].mean(),
    [[1, 0.1], [0.675, 0.3]],
    atol=0.01,
), "half-way, on average"
assert many.grain.between(0.01, 0.02).all() and (many.noise % 1 == 0).all()


# %% [markdown]
# Hair and glasses have the same distribution for every tone, so only the light can make one group
# easier to recognise than another. A warm shade of hair has less green, and even less blue.

# %%
#| export
def _add_hair(
    rows: pd.DataFrame,  # As `draw_rows` gives them
    # The same, with the columns of `HAIR`, the hair's colour, and 0 or 1 in `glasses`
) -> pd.DataFrame:
    "Turn the drawn fractions into hair style, hair colour and glasses."
    styles = (rows.hair * len(HAIR)).astype(int)
    return rows.assign(
        hair=styles.astype(float),
        glasses=(rows.glasses < 0.25).astype(float),
        hair_red=rows.hair_shade,
        hair_green=rows.hair_shade * (1 - 0.6 * rows.hair_warmth),
        hair_blue=rows.hair_shade * (1 - 1.2 * rows.hair_warmth),
        **HAIR.iloc[styles].set_index(rows.index),
    )


# %%
two = rows.head(2).assign(
    hair=[0.1, 0.9], glasses=[0.24, 0.26], hair_shade=0.5, hair_warmth=[0, 0.4]
)
_add_hair(two)[
    ["hair", "hair_density", "hair_long", "glasses", "hair_red", "hair_green", "hair_blue"]
]

# %%
assert _add_hair(two)[["hair", "hair_density", "hair_long", "glasses"]].to_numpy().tolist() == [
    [0, 0.25, 0, 1],
    [3, 1, 1, 0],
]
assert np.allclose(
    _add_hair(two)[["hair_red", "hair_green", "hair_blue"]],
    [[0.5, 0.5, 0.5], [0.5, 0.5 * 0.76, 0.5 * 0.52]],
)
assert abs(_add_hair(draw_rows(2000, "test", "tone-4")).glasses.mean() - 0.25) < 0.04, "one in four"


# %%
#| export
def _add_skin(
    rows: pd.DataFrame,  # As `draw_rows` gives them, of any tones
) -> pd.DataFrame:  # The same, with skin_red, skin_green and skin_blue
    "Give each face its tone's colour, slightly lighter or darker from face to face."
    tone = TONES.iloc[rows.tone.cat.codes].set_index(rows.index)
    return rows.assign(**{name: tone[name] * rows.skin for name in TONES.columns[:3]})


# %%
_add_skin(two.assign(skin=[1, 0.95], tone=["tone-1", "tone-4"]).astype({"tone": rows.tone.dtype}))[
    ["tone", "skin", "skin_red", "skin_green", "skin_blue"]
]

# %%
skins = _add_skin(
    two.assign(skin=[1, 0.95], tone=["tone-1", "tone-4"]).astype({"tone": rows.tone.dtype})
)
assert list(skins) == [*two, "skin_red", "skin_green", "skin_blue"]
assert np.allclose(
    skins[["skin_red", "skin_green", "skin_blue"]],
    [[0.95, 0.81, 0.71], [0.95 * 0.46, 0.95 * 0.32, 0.95 * 0.25]],
)


# %%
#| export
def light_and_colour(
    rows: pd.DataFrame,  # As `draw_rows` gives them, of any tones
) -> pd.DataFrame:  # The same, with light, contrast, skin, hair and glasses
    "Turn the drawn fractions into light, skin, hair and glasses."
    return _add_skin(_add_hair(_add_light(rows.reset_index(drop=True))))


# %%
light_and_colour(rows)[
    ["bad_light", "light_level", "contrast", "skin_red", "skin_green", "skin_blue"]
].head(4).round(2)

# %%
both = light_and_colour(pd.concat([draw_rows(5, "val", "tone-1"), draw_rows(5, "val", "tone-4")]))
assert both.index.tolist() == list(range(10)), "rows are numbered anew"
assert both.drop(columns=["expression", "tone", "split"]).notna().all(axis=None) and {
    "contrast",
    "hair_line",
    "skin_blue",
} <= {*both}


# %% [markdown]
# The default numbers suit a demo on two cores. The test part has 2,500 images per tone, because on
# fewer images sampling noise would hide the disparity.

# %%
#| export
def synthetic_table(
    seed: int = 0,  # Seed of every random choice
    train: tuple = (1300, 1100, 1000, 900),  # Training images of each tone, in the order of `TONES`
    val: tuple = (100, 100, 100, 100),  # Validation images of each tone
    test: tuple = (2500, 2500, 2500, 2500),  # Test images of each tone
) -> pd.DataFrame:  # One row per image: expression, tone, split, then the render parameters
    "Draw a whole set of faces: labels, split and everything that rendering needs."
    counts = dict(zip(SPLITS, (train, val, test)))
    for split, of in counts.items():
        if len(of) != len(TONES):
            raise ValueError(
                f"{split} has {len(of)} numbers for {len(TONES)} tones: give one for each"
            )
    drawn = [
        draw_rows(n, split, tone, seed)
        for split, of in counts.items()
        for tone, n in zip(TONES.index, of)
    ]
    return light_and_colour(express(pd.concat(drawn, ignore_index=True)))


# %%
table = synthetic_table()
pd.crosstab(table.tone, table.split)

# %%
assert pd.crosstab(table.tone, table.split).to_numpy().tolist() == [
    [1300, 100, 2500],
    [1100, 100, 2500],
    [1000, 100, 2500],
    [900, 100, 2500],
]
classes = table.groupby(["split", "tone", "expression"], observed=True).size().unstack()
assert (classes.max(axis=1) - classes.min(axis=1)).max() == 0, (
    "each expression as often as any other in each tone and split"
)
pd.testing.assert_frame_equal(table, synthetic_table(seed=0))
fewer = synthetic_table(train=(5, 5, 5, 5))
pd.testing.assert_frame_equal(
    fewer[fewer.split == "test"].reset_index(drop=True),
    table[table.split == "test"].reset_index(drop=True),
)

# %%
try:
    synthetic_table(test=(1000, 1000))
except ValueError as e:
    print(e)
else:
    raise AssertionError("two numbers were accepted for four tones")
