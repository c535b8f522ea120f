# %% [markdown]
# # Synthetic faces
#
# > Rendered faces with an expression to recognise and a skin tone that the light treats unequally

# %%
#| default_exp synthetic

# %%
#| export
from dataclasses import dataclass
import numpy as np
import pandas as pd

# %%
import matplotlib.pyplot as plt

# %% [markdown]
# Real faces have to be asked for, downloaded and kept safe, and nobody knows for certain why one group is recognised
# worse than another. Rendered faces need no download, show no person, and their group effect is known because it was put there.
# The task is to tell five expressions apart; the groups are four skin tones.
#
# Nothing but colour separates the tones in good light. In bad light a camera that was exposed for others
# flattens the darker ones: brows, eyes and mouth keep only a part of their difference to the skin. The darker tones also
# have fewer training images. Both facts stand in two small tables, and everything else is drawn alike for everybody.
#
# The drawings are smooth and plain on purpose. They stand in for a data set, not for people, and the groups are called tone-1 to tone-4.

# %% [markdown]
# ## What varies
#
# An expression is five numbers: how far the mouth's corners rise, how far it opens, how far the brows rise, how much their inner ends
# tilt up (sad) or down (angry), and how wide the eyes are. Lengths are in units of half the image's width.

# %%
#| export
RENDERER_VERSION = "1"   # Part of every cache key: change it whenever a pixel may change
SPLITS = ["train", "val", "test"]
EXPRESSIONS = pd.DataFrame.from_dict(dict(
    neutral=(.00, .000, .00, .0, 1.0), happy=(.17, .045, .01, .0, .8), sad=(-.15, .000, .02, .5, .8),
    surprised=(.00, .150, .09, .0, 1.4), angry=(-.05, .000, -.05, -.5, .75),
), orient="index", columns=["smile", "mouth_open", "brow_raise", "brow_tilt", "eye_open"])
TONES = pd.DataFrame.from_dict({   # The skin's colour, and what bad light leaves of the features' contrast
    "tone-1": (.95, .81, .71, 1.), "tone-2": (.82, .64, .52, 0.95),
    "tone-3": (.63, .45, .35, 0.24), "tone-4": (.46, .32, .25, 0.2),
}, orient="index", columns=["skin_red", "skin_green", "skin_blue", "contrast"])
HAIR = pd.DataFrame.from_dict(dict(   # Opacity of the hair, height and slant of the hair line, whether it falls to the shoulders
    cropped=(.25, -.50, .06, 0.), short=(1., -.42, .06, 0.), parted=(1., -.50, .22, 0.), long=(1., -.50, .06, 1.),
), orient="index", columns=["hair_density", "hair_line", "hair_slant", "hair_long"])

# %%
assert len(EXPRESSIONS) == 5 and list(TONES.index) == ["tone-1", "tone-2", "tone-3", "tone-4"]
assert TONES.contrast.is_monotonic_decreasing
TONES

# %% [markdown]
# Everything else is a number between two bounds, drawn uniformly. The last six are fractions that become hair style, glasses and
# light further down.

# %%
#| export
RANGES = dict(
    yaw=(-1, 1), roll=(-.2, .2), shift_x=(-.08, .08), shift_y=(-.1, .02), scale=(1.12, 1.36), width=(.9, 1.08),
    strength=(.45, 1), smile=(-.025, .025), mouth_open=(-.012, .012), brow_raise=(-.02, .02), brow_tilt=(-.1, .1), eye_open=(-.1, .1),
    skin=(.94, 1.05), hair_shade=(.06, .5), hair_warmth=(0, .45), noise=(0, 2**24),
    back_red=(.2, .9), back_green=(.2, .9), back_blue=(.2, .9), back_slope=(-.2, .2),
    cloth_red=(.1, .9), cloth_green=(.1, .9), cloth_blue=(.1, .9), light_angle=(0, 2*np.pi),
    hair=(0, 1), glasses=(0, 1), bad_light=(0, 1), light_level=(0, 1), light_side=(0, 1), grain=(0, 1))

# %%
assert all(low < high for low, high in RANGES.values())
RANGES["yaw"], RANGES["roll"]


# %% [markdown]
# ## A row for every image
#
# All chance is spent here, on the table; rendering has none left. Every pair of split and tone draws from a stream of its own, row by
# row. So another number of training images changes no test image, and asking for more rows keeps the first ones.
# The expressions take turns, which balances the classes within each tone.

# %%
#| export
def draw_rows(
    n: int,          # Number of images, at least one an expression
    split: str,      # 'train', 'val' or 'test'
    tone: str,       # A row of `TONES`
    seed: int = 0,   # Seed of the whole set
) -> pd.DataFrame:   # Labels as Categoricals, then a float column for each of `RANGES`
    "Draw the labels and the raw render parameters of `n` faces of one tone."
    least = len(EXPRESSIONS)
    if n < least: raise ValueError(f"{split} {tone}: {n} images for {least} expressions: ask for {least} or more")
    stream = np.random.default_rng([seed, SPLITS.index(split), TONES.index.get_loc(tone)])
    low, high = np.array(list(RANGES.values()), float).T
    rows = pd.DataFrame(low + (high-low)*stream.random((n, len(RANGES))), columns=list(RANGES))
    labels = dict(expression=(np.arange(n) % len(EXPRESSIONS), EXPRESSIONS.index), tone=(TONES.index.get_loc(tone), TONES.index),
                  split=(SPLITS.index(split), SPLITS))
    for place, (name, (codes, names)) in enumerate(labels.items()):
        rows.insert(place, name, pd.Categorical.from_codes(np.broadcast_to(codes, n), names))
    return rows


# %%
rows = draw_rows(10, "train", "tone-2")
rows[["expression", "tone", "split", "yaw", "scale", "strength"]].head(3)

# %%
assert rows.expression.value_counts().tolist() == [2]*5
pd.testing.assert_frame_equal(draw_rows(20, "train", "tone-2").head(10), rows)   # more rows keep the first ones
assert not np.isclose(draw_rows(10, "train", "tone-2", seed=1).yaw, rows.yaw).any()
assert not np.isclose(draw_rows(10, "test", "tone-2").yaw, rows.yaw).any()

# %%
try: draw_rows(4, "val", "tone-3")
except ValueError as e: print(e)
else: raise AssertionError("4 images cannot show 5 expressions")


# %% [markdown]
# The strength says how much of an expression shows: 1 is the full one, .45 less than half. The weak ones are what makes the task hard.

# %%
#| export
def express(
    rows: pd.DataFrame,   # As `draw_rows` gives them
) -> pd.DataFrame:        # The same, the five expression columns moved by label and strength
    "Move mouth, brows and eyes from neutral towards each row's expression."
    neutral = EXPRESSIONS.loc["neutral"].to_numpy()
    target = EXPRESSIONS.to_numpy()[rows.expression.cat.codes]
    moved = neutral + rows.strength.to_numpy()[:, None]*(target - neutral)
    return rows.assign(**(rows[EXPRESSIONS.columns] + moved))


# %%
express(rows)[["expression", "strength", *EXPRESSIONS.columns]].head().round(2)

# %%
half = rows.assign(strength=.5, **dict.fromkeys(EXPRESSIONS.columns, 0.))
assert express(half).smile.head().round(3).tolist() == [0, .085, -.075, 0, -.025]      # half of .17, -.15, 0, -.05
assert express(half).eye_open.head().round(3).tolist() == [1, .9, .9, 1.2, .875]       # half-way from 1


# %% [markdown]
# Six images in ten are taken in bad light: darker, and from one side. Here, and only here, the tone enters: it gives the
# skin's colour, and in bad light the contrast that its features keep. In good light every tone's contrast is 1.

# %%
#| export
def light_and_colour(
    rows: pd.DataFrame,   # As `draw_rows` gives them, of any tones
) -> pd.DataFrame:        # The same, with light, contrast, skin, hair and glasses settled
    "Turn the drawn fractions into light, skin, hair and glasses."
    styles = (rows.hair*len(HAIR)).astype(int)
    rows, tone, style = (t.reset_index(drop=True) for t in (rows, TONES.iloc[rows.tone.cat.codes], HAIR.iloc[styles]))
    bad = rows.bad_light.to_numpy() < 0.6
    between = lambda name, good, poor: np.where(bad, np.interp(rows[name], (0, 1), poor), np.interp(rows[name], (0, 1), good))
    return rows.assign(
        bad_light=bad.astype(float), contrast=np.where(bad, tone.contrast, 1.), glasses=(rows.glasses < .25).astype(float),
        light_level=between("light_level", (.95, 1.05), (.55, .8)), light_side=between("light_side", (0, .2), (.2, .4)),
        grain=.01 + .01*rows.grain, noise=np.floor(rows.noise), hair=styles.to_numpy(float),
        hair_red=rows.hair_shade, hair_green=rows.hair_shade*(1 - .6*rows.hair_warmth),
        hair_blue=rows.hair_shade*(1 - 1.2*rows.hair_warmth), **style, **{name: tone[name]*rows.skin for name in TONES.columns[:3]})


# %%
light_and_colour(rows)[["bad_light", "light_level", "contrast", "skin_red", "skin_green", "skin_blue"]].head(4).round(2)

# %%
many = light_and_colour(draw_rows(2000, "test", "tone-4"))
assert abs(many.bad_light.mean() - 0.6) < .04 and abs(many.glasses.mean() - .25) < .04
assert set(many.contrast[many.bad_light == 1]) == {0.2} and set(many.contrast[many.bad_light == 0]) == {1.}
assert np.allclose(many.skin_red/many.skin, .46)


# %% [markdown]
# The default numbers suit a demo on two cores. The test part has 2,500 images a tone, because a disparity measured
# on fewer drowns in sampling noise.

# %%
#| export
def synthetic_table(
    seed: int = 0,                       # Seed of every random choice
    train: tuple = (1300, 1100, 1000, 900),   # Training images of each tone, in the order of `TONES`
    val: tuple = (100, 100, 100, 100),   # Validation images of each tone
    test: tuple = (2500, 2500, 2500, 2500),   # Test images of each tone
) -> pd.DataFrame:                       # A row an image: expression, tone, split, then the render parameters
    "Draw a whole set of faces: labels, split and everything that rendering needs."
    for split, counts in zip(SPLITS, (train, val, test)):
        if len(counts) != len(TONES): raise ValueError(f"{split} has {len(counts)} numbers for {len(TONES)} tones: give one for each")
    asked = [(n, split, tone) for split, counts in zip(SPLITS, (train, val, test)) for tone, n in zip(TONES.index, counts)]
    drawn = [draw_rows(*one, seed) for one in asked]
    return light_and_colour(express(pd.concat(drawn, ignore_index=True)))


# %%
table = synthetic_table()
pd.crosstab(table.tone, table.split)

# %%
assert pd.crosstab(table.tone, table.split).to_numpy().tolist() == [[1300, 100, 2500], [1100, 100, 2500], [1000, 100, 2500], [900, 100, 2500]]
classes = table.groupby(["split", "tone", "expression"], observed=True).size().unstack()
assert (classes.max(axis=1) - classes.min(axis=1)).max() == 0, "each expression as often as any other in each tone and split"
pd.testing.assert_frame_equal(table, synthetic_table())
fewer = synthetic_table(train=(5, 5, 5, 5))
pd.testing.assert_frame_equal(fewer[fewer.split == "test"].reset_index(drop=True), table[table.split == "test"].reset_index(drop=True))

# %%
try: synthetic_table(test=(1000, 1000))
except ValueError as e: print(e)
else: raise AssertionError("two numbers were accepted for four tones")


# %% [markdown]
# ## Shapes
#
# A shape is its signed distance: negative inside, zero on the edge, positive outside. That works at any size, and the edge can be made
# soft by as much as a pixel is wide. Only sums, products, quotients and square roots touch the pixels, so the bits come out the same
# each time.

# %%
#| export
def ellipse(
    x: np.ndarray,    # Horizontal place relative to the centre, any shape
    y: np.ndarray,    # Vertical place, downwards, same shape
    rx: np.ndarray,   # Horizontal radius, broadcastable
    ry: np.ndarray,   # Vertical radius
) -> np.ndarray:      # Signed distance to the edge, exact on the edge and near enough elsewhere
    "Distance to an ellipse, by the first-order formula f·(f-1)/|∇f|."
    f = np.sqrt((x/rx)**2 + (y/ry)**2) + 1e-6
    return f*(f-1)/(np.sqrt((x/rx**2)**2 + (y/ry**2)**2) + 1e-6)


# %%
print(ellipse(np.array([0., 1, 2, 3]), np.zeros(4), 2, 1))
assert np.allclose(ellipse(np.array([2., 0, 3]), np.array([0., 1, 4]), 2, 1)[:2], 0, atol=1e-5)
assert np.allclose(ellipse(np.array([3.]), np.array([4.]), 2, 2), 3, atol=1e-4), "a circle's distance is exact: 5 - 2"


# %% [markdown]
# Brows, nose and mouth are bands along a parabola. A mouth opens by letting the band swell in its middle.

# %%
#| export
def band(
    x: np.ndarray,                  # Place along the band, 0 in its middle
    y: np.ndarray,                  # Place across it, downwards
    half: np.ndarray,               # Half of its length
    thick: float,                   # Half of its thickness
    tilt: np.ndarray | float = 0,   # Slope; positive falls to the right
    bend: np.ndarray | float = 0,   # How much lower the middle lies than the ends: a smile is positive
    swell: np.ndarray | float = 0,  # Extra half-thickness in the middle
) -> np.ndarray:                    # Signed distance, negative inside
    "Distance to a band along the parabola `tilt·x + bend·(1 - (x/half)²)`."
    t = np.clip(x/half, -1, 1)
    across = np.abs(y - tilt*x - bend*(1 - t*t)) - swell*(1 - t*t)
    slope = tilt - 2*bend*t/half
    return np.maximum(across/np.sqrt(1 + slope*slope) - thick, np.abs(x) - half)


# %%
print(band(np.array([0., 0., 1.]), np.array([0., .5, .5]), half=1, thick=.1, bend=.5))   # the smile's middle lies at y = .5
assert band(0., .5, 1, .1, bend=.5) < 0 < band(0., 0., 1, .1, bend=.5)
assert band(.5, .1, 1, .1, tilt=.2) < 0 < band(-.5, .1, 1, .1, tilt=.2), "a positive tilt falls to the right"
assert band(0., .3, 1, .1) > 0 > band(0., .3, 1, .1, swell=.4)


# %% [markdown]
# ## Canvas
#
# A canvas holds a few dozen images at once and the place of every pixel in its own face's frame: shifted, turned and scaled by
# the row's pose. Drawing functions can then speak of one upright face at the origin. A canvas reads the float columns of its rows and
# nothing else, the label of the tone included.

# %%
#| export
@dataclass(frozen=True)
class Canvas:
    "Images being drawn, and where their pixels lie in each face's frame."
    pixels: np.ndarray          # float32 (n, 3, size, size), light between 0 and 1
    x: np.ndarray               # float32 (n, size, size), to the right, 0 in the middle of the face
    y: np.ndarray               # float32 (n, size, size), downwards
    edge: np.ndarray            # float32 (n, 1, 1), width of a soft edge: one and a half pixels
    p: dict[str, np.ndarray]    # Render parameters, float32 (n, 1, 1) each

    def colour(self, name: str) -> np.ndarray:
        "The columns `name`_red, _green and _blue as an array (n, 3, 1, 1)."
        return np.stack([self.p[f"{name}_{c}"] for c in ("red", "green", "blue")], 1)

def new_canvas(
    rows: pd.DataFrame,   # Rows of `synthetic_table`
    size: int,            # Image width and height, pixels
) -> Canvas:              # Black images
    "Place the pixels of `size` × `size` images in the frame of each row's face."
    floats = rows.select_dtypes("number")
    p = {name: floats[name].to_numpy(np.float32)[:, None, None] for name in floats}
    cos, sin = (f(rows.roll.to_numpy(float)).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    grid = ((np.arange(size) + .5)*2/size - 1).astype(np.float32)
    x, y = grid[None, None, :] - p["shift_x"], grid[None, :, None] - p["shift_y"]
    pixels = np.zeros((len(rows), 3, size, size), np.float32)
    return Canvas(pixels, (cos*x + sin*y)/p["scale"], (cos*y - sin*x)/p["scale"], np.float32(3/size)/p["scale"], p)


# %%
upright = table.head(2).assign(roll=0., shift_x=0., shift_y=0., scale=[1., 2.])
canvas = new_canvas(upright, 4)
canvas.x[:, 0], canvas.colour("skin").shape

# %%
assert np.allclose(canvas.x[0, 0], [-.75, -.25, .25, .75]) and np.allclose(canvas.y[0, :, 0], [-.75, -.25, .25, .75])
assert np.allclose(canvas.x[1], canvas.x[0]/2), "a face twice as large has its pixels twice as near to the middle"
quarter = new_canvas(upright.assign(roll=np.pi/2), 4)
assert np.allclose(quarter.x[0], canvas.y[0], atol=1e-6) and np.allclose(quarter.y[0], -canvas.x[0], atol=1e-6)


# %% [markdown]
# Painting mixes a colour in. Where the edge passes through a pixel, a smooth step gives it a part of both.

# %%
#| export
def paint(
    canvas: Canvas,                        # Its pixels are changed in place
    colour: np.ndarray | float,            # Broadcastable to (n, 3, size, size)
    distance: np.ndarray,                  # Signed distance to the shape, (n, size, size)
    opacity: np.ndarray | float = 1.,      # 1 covers what is below, (n, 1, 1)
) -> None:
    "Fill a shape with a colour, with a soft edge."
    t = np.clip(np.float32(.5) - distance/canvas.edge, 0, 1)
    cover = opacity*t*t*(3 - 2*t)
    np.add(canvas.pixels, cover[:, None]*(colour - canvas.pixels), out=canvas.pixels)


# %%
disc = new_canvas(upright, 16)
paint(disc, np.float32(1), ellipse(disc.x, disc.y, .5, .5))
print((disc.pixels[0, 0, 8]*100).astype(int))
assert disc.pixels[0, 0, 8, 8] == 1 and disc.pixels[0, 0, 0, 0] == 0 and disc.pixels.dtype == np.float32
assert abs(disc.pixels[0, 0].mean()*4 - np.pi*.25) < .01, "a soft edge keeps the area of the disc"


# %% [markdown]
# ## A face, from back to front
#
# First the background, shaded from top to bottom, then long hair, clothes and neck.

# %%
#| export
def draw_background(
    canvas: Canvas,   # A black canvas
) -> None:
    "Background, long hair behind the head, clothes, neck."
    x, y, p = canvas.x, canvas.y, canvas.p
    np.add(canvas.pixels, canvas.colour("back") + (p["back_slope"]*y)[:, None], out=canvas.pixels)
    paint(canvas, canvas.colour("hair")*np.float32(.8), ellipse(x, y-.12, .66*p["width"], .86), p["hair_long"])
    paint(canvas, canvas.colour("cloth"), ellipse(x, y-1.25, .95, .5))
    paint(canvas, canvas.colour("skin")*np.float32(.78), np.maximum(np.abs(x)-.2, np.abs(y-.7)-.28))


# %%
def look(
    *layers: callable,   # Drawing functions, back to front
    size: int = 64,      # Pixels
) -> Canvas:             # What they drew of four rows, one a tone
    "Draw four faces in good light with the given layers only."
    canvas = new_canvas(table[(table.bad_light == 0) & (table.expression == "happy")].groupby("tone", observed=True).head(1), size)
    for layer in layers: layer(canvas)
    return canvas

def strip(
    pixels: np.ndarray,   # (n, 3, size, size), light between 0 and 1 or bytes
    columns: int = 4,     # Images in a row
    width: float = 4.,    # Inches
) -> None:
    "Show images side by side."
    n, _, size, _ = pixels.shape
    sheet = pixels.reshape(n//columns, columns, 3, size, size).transpose(0, 3, 1, 4, 2).reshape(n//columns*size, columns*size, 3)
    fig, ax = plt.subplots(figsize=(width, width*n/columns**2), layout="constrained")
    ax.imshow(sheet if sheet.dtype == np.uint8 else sheet.clip(0, 1), interpolation="nearest"); ax.axis("off"); plt.show()

strip(look(draw_background).pixels)

behind = look(draw_background)
corner = behind.colour("back")[:, :, 0, 0] + behind.p["back_slope"][:, 0]*behind.y[:, 0, :1]
assert np.allclose(behind.pixels[:, :, 0, 0], corner, atol=1e-6)


# %% [markdown]
# The head is an ellipse that narrows towards the chin. Its shading is a little darker away from where the face looks.

# %%
#| export
def _head_shape(canvas: Canvas) -> np.ndarray:
    "Signed distance to the outline of the head, an ellipse narrower at the chin, (n, size, size)"
    jaw = 1 - np.float32(.16)*np.clip(canvas.y, 0, 1)
    return ellipse(canvas.x/jaw, canvas.y, .57*canvas.p["width"], .76)

def draw_head(
    canvas: Canvas,   # With its background
) -> None:
    "Ears and head, shaded by the way the face turns."
    x, y, p, skin = canvas.x, canvas.y, canvas.p, canvas.colour("skin")
    for side in (-1, 1): paint(canvas, skin*np.float32(.85), ellipse(x - side*.56*p["width"], y-.02, .09, .15))
    away = (x - .2*p["yaw"])**2 + y*y
    paint(canvas, skin*(np.float32(1.03) - .25*away)[:, None], _head_shape(canvas))


# %%
strip(look(draw_background, draw_head).pixels)

head = look(draw_background, draw_head)
middle, skin = head.pixels[:, :, 32, 32], head.colour("skin")[:, :, 0, 0]
assert (np.abs(middle/skin - 1) < .06).all() and (np.diff(middle.mean(1)) < 0).all(), "skin colour, darker from tone-1 to tone-4"


# %% [markdown]
# Brows, eyes, nose and mouth carry the expression. All of them are painted with the row's contrast as their opacity: a contrast of .4
# leaves 40 % of their difference to the skin. This one factor is what bad light does to a tone.

# %%
#| export
def draw_eyes(
    canvas: Canvas,   # With its head
) -> None:
    "Eyes and brows; those on the far side of a turned head are narrower."
    p, skin = canvas.p, canvas.colour("skin")
    for side in (-1, 1):
        narrow = 1 - np.float32(.22)*np.clip(side*p["yaw"], 0, 1)
        x, y = (canvas.x - .16*p["yaw"] - side*.23*narrow)/narrow, canvas.y + .1
        white = ellipse(x, y, .125, .085*p["eye_open"])
        paint(canvas, np.float32(.93), white, p["contrast"])
        paint(canvas, np.float32(.1), np.maximum(ellipse(x, y, .06, .075), white), p["contrast"])
        paint(canvas, skin*np.float32(.3), band(x, y+.2+p["brow_raise"], .15, .03, side*p["brow_tilt"], -.03), p["contrast"])


# %%
strip(look(draw_background, draw_head, draw_eyes).pixels)


# %%
def change(
    layer: callable,     # A drawing function
    **columns: float,    # Render parameters to set
) -> np.ndarray:         # How much of the light it changed, (n,)
    "Mean change that a layer makes on a finished head."
    canvas = look(draw_background, draw_head)
    canvas.p.update({name: np.full_like(canvas.p[name], value) for name, value in columns.items()})
    before = canvas.pixels.copy(); layer(canvas)
    return np.abs(canvas.pixels - before).mean((1, 2, 3))

assert (change(draw_eyes, contrast=0.) == 0).all(), "no contrast, no eyes"
assert (change(draw_eyes, contrast=.4) < .5*change(draw_eyes, contrast=1.)).all()


# %%
#| export
def draw_mouth(
    canvas: Canvas,   # With its head
) -> None:
    "Nose and mouth: lips, and the dark between them."
    x, y, p, skin = canvas.x - .16*canvas.p["yaw"], canvas.y - .42, canvas.p, canvas.colour("skin")
    lips, swell = skin*np.array([.78, .5, .5], np.float32)[:, None, None], np.maximum(p["mouth_open"], 0)
    paint(canvas, skin*np.float32(.72), band(x - .04*p["yaw"], y+.26, .11, .02, bend=.04), .7*p["contrast"])
    paint(canvas, lips, band(x, y, .26 - .5*swell, .035, bend=p["smile"], swell=swell), p["contrast"])
    paint(canvas, skin*np.float32(.22), band(x, y, .22 - .5*swell, .012, bend=p["smile"], swell=swell), p["contrast"])


# %%
strip(look(draw_background, draw_head, draw_eyes, draw_mouth).pixels)

assert (change(draw_mouth, contrast=0.) == 0).all()
assert (change(draw_mouth, mouth_open=.15) > 1.5*change(draw_mouth, mouth_open=0.)).all(), "an open mouth covers more"


# %% [markdown]
# Hair lies over the forehead, and glasses over everything.

# %%
#| export
def draw_hair(
    canvas: Canvas,   # With its face
) -> None:
    "Hair above the hair line, long hair beside the face, glasses."
    x, y, p, head = canvas.x, canvas.y, canvas.p, _head_shape(canvas) - np.float32(.06)
    top = np.maximum(head, y - p["hair_line"] - p["hair_slant"]*x - .25*x*x)
    paint(canvas, canvas.colour("hair"), top, p["hair_density"])
    paint(canvas, canvas.colour("hair"), np.maximum(np.maximum(head, .5*p["width"] - np.abs(x)), y-.35), p["hair_long"])
    x, y = np.abs(x - .16*p["yaw"]), np.abs(y + .1)
    rim = np.minimum(np.abs(ellipse(x-.23, y, .19, .16)) - .016, np.maximum(y-.016, x-.05))
    paint(canvas, np.float32(.12), rim, .9*p["glasses"])


# %%
strip(look(draw_background, draw_head, draw_eyes, draw_mouth, draw_hair).pixels)

assert (change(draw_hair, hair_density=0., hair_long=0., glasses=0.) == 0).all()
assert (change(draw_hair, hair_density=1., hair_long=0., glasses=1.) > change(draw_hair, hair_density=1., hair_long=0., glasses=0.)).all()


# %% [markdown]
# ## The camera
#
# Light falls from one side, and the sensor adds grain. The grain of a pixel is a hash of the row's noise number and the pixel's place,
# so it too is the row's alone.

# %%
#| export
def grain(
    noise: np.ndarray,   # The rows' noise numbers, whole floats below 2²⁴, (n, 1, 1)
    size: int,           # Pixels
) -> np.ndarray:         # float32 (n, size, size) between -1 and 1, triangular around 0
    "Grain without a random generator: an integer hash of noise number and pixel."
    place = np.arange(size*size, dtype=np.uint32).reshape(1, size, size)
    h = noise.astype(np.uint32)*np.uint32(2654435761) + place*np.uint32(2246822519)
    for m in (0x7feb352d, 0x846ca68b): h = (h ^ (h >> np.uint32(16)))*np.uint32(m)
    h ^= h >> np.uint32(15)
    return ((h & np.uint32(65535)).astype(np.float32) + (h >> np.uint32(16)).astype(np.float32))/np.float32(65535) - 1


# %%
numbers = np.arange(100, dtype=np.float32)[:, None, None]
print(grain(numbers, 3)[0].round(2))
sample = grain(numbers, 64)
assert abs(sample.mean()) < .005 and abs(sample.std() - 6**-.5) < .005, "triangular on ±1: standard deviation 1/√6"
neighbours = np.corrcoef(sample[:, :, 1:].ravel(), sample[:, :, :-1].ravel())[0, 1]
assert abs(neighbours) < .01 and abs(np.corrcoef(sample[0].ravel(), sample[1].ravel())[0, 1]) < .06


# %%
#| export
def expose(
    canvas: Canvas,   # A finished drawing
) -> np.ndarray:      # uint8 (n, 3, size, size)
    "Light the drawing from its side, add grain, round to bytes."
    p = canvas.p
    cos, sin = (f(p["light_angle"].astype(float)).astype(np.float32) for f in (np.cos, np.sin))
    light = p["light_level"]*(1 + p["light_side"]*(cos*canvas.x + sin*canvas.y))
    lit = canvas.pixels*light[:, None] + (p["grain"]*grain(p["noise"], canvas.pixels.shape[-1]))[:, None]
    return np.rint(np.clip(lit, 0, 1)*255).astype(np.uint8)


# %%
strip(expose(look(draw_background, draw_head, draw_eyes, draw_mouth, draw_hair)))

grey = new_canvas(upright.assign(light_level=1., light_side=0., grain=0.), 16)
grey.pixels[:] = .4
assert (expose(grey) == 102).all(), ".4 · 255"
grey.p["light_side"] += 1; grey.p["light_angle"] *= 0
assert (np.diff(expose(grey)[0, 0, 0].astype(int)) > 0).all(), "light from the right: brighter to the right"


# %% [markdown]
# ## Rendering
#
# A few dozen images at a time fit into the processor's cache, which is faster than all at once.

# %%
#| export
def render_faces(
    rows: pd.DataFrame,       # Rows of `synthetic_table`, any of them in any order
    size: int = 64,           # Image width and height, pixels, at least 16
    progress: bool = False,   # Show a progress bar?
    chunk: int = 64,          # Images drawn at once; changes speed only
) -> np.ndarray:              # uint8 (n, 3, size, size), red, green, blue
    "Render faces: a pure function of the rows' numbers."
    if size < 16: raise ValueError(f"size = {size}: faces need at least 16 pixels to have a mouth")
    missing = sorted({*RANGES, "contrast", "skin_red", "hair_red"} - {*rows.columns})
    if missing: raise ValueError(f"rows lack the render parameters {', '.join(missing)}: pass rows of synthetic_table()")
    out, starts = np.empty((len(rows), 3, size, size), np.uint8), range(0, len(rows), chunk)
    if progress:
        from tqdm import tqdm
        starts = tqdm(starts, desc="rendering", unit="chunk")
    for start in starts:
        canvas = new_canvas(rows.iloc[start:start+chunk], size)
        for layer in (draw_background, draw_head, draw_eyes, draw_mouth, draw_hair): layer(canvas)
        out[start:start+chunk] = expose(canvas)
    return out


# %% [markdown]
# Ten faces of each tone, in good light above and in bad light below.

# %%
test = table[table.split == "test"]
sheet = pd.concat([part.head(10) for _, part in test.groupby(["tone", "bad_light"], observed=True)])
strip(render_faces(sheet), columns=10, width=7.)

# %% [markdown]
# The same rows give the same bits, whichever rows are asked for together. Every size works; a coarse image is about what one gets by
# averaging a fine one.

# %%
few = table.sample(150, random_state=0)
images = render_faces(few, 32)
assert images.shape == (150, 3, 32, 32) and images.dtype == np.uint8
assert (render_faces(few, 32, chunk=7) == images).all() and (render_faces(few.iloc[::-3], 32) == images[::-3]).all()
assert (render_faces(few.drop(columns=["expression", "tone", "split"]), 32) == images).all(), "labels are not looked at"
for size in (16, 17, 96): assert render_faces(few.head(2), size).shape == (2, 3, size, size)
assert render_faces(few.head(0), 16).shape == (0, 3, 16, 16)

clean = few.assign(grain=0.)
fine = render_faces(clean, 128).reshape(150, 3, 32, 4, 32, 4).mean((3, 5))
print("mean difference in grey levels:", np.abs(fine - render_faces(clean, 32)).mean().round(2))
assert np.abs(fine - render_faces(clean, 32)).mean() < 3

# %%
try: render_faces(few, size=8)
except ValueError as e: print(e)
else: raise AssertionError("8 pixels were accepted")
try: render_faces(few.drop(columns=["yaw", "contrast"]))
except ValueError as e: print(e)
else: raise AssertionError("rows without yaw were accepted")

# %% [markdown]
# ## What the light leaves, by tone
#
# What a network can see of an expression is how much the image changes with it. So each test face is rendered twice, happy and sad,
# all else equal, and the two images' mean difference over the pixels is taken in grey levels. Light skin reflects more, so it differs
# more in good light already; bad light takes a larger part from the darker tones.

# %%
pairs = test.groupby(["tone", "bad_light"], observed=True).head(150)
happy, sad = (render_faces(pairs.assign(**EXPRESSIONS.loc[name], grain=0.), 32).astype(float) for name in ("happy", "sad"))
pairs = pairs.assign(difference=np.abs(happy - sad).mean((1, 2, 3)))
seen = pairs.groupby(["tone", "bad_light"], observed=True).difference.mean().unstack()
seen.columns = ["good light", "bad light"]
seen.assign(kept=seen["bad light"]/seen["good light"], contrast=TONES.contrast).round(2)

# %%
kept = seen["bad light"]/seen["good light"]
assert kept.is_monotonic_decreasing and kept["tone-4"] < .5*kept["tone-1"]
assert np.allclose(kept/kept["tone-1"], TONES.contrast/TONES.contrast["tone-1"], atol=.08), "the contrast column is what the pixels show"

# %% [markdown]
# ## Why these constants
#
# The light, the grain, the contrasts and the numbers of images were tried out and then frozen on two facts, before any group-aware
# pruning had been run on these faces: a dense network is right on 85 to 97 % of the test images, and one-shot magnitude pruning (WS, the
# same rate in every layer) followed by retraining shows a disparity ρ whose bootstrap interval lies above its noise floor. So the set is
# made to have a disparity to look for; it is no evidence of how often one is met elsewhere.
#
# The setting: 32 px, torchvision's `ResNet(BasicBlock, [1, 1, 1, 1])` from scratch, batches of 64, Adam, 6 epochs at 4e-3 and 2 at 4e-4,
# the best epoch of each stage by validation loss, random horizontal flips; after pruning the same schedule again. Measured outside this
# notebook by a script of its own, on all 10,000 test images; accuracy in percent, ρ and its floor in percentage points; the 95 % interval
# comes from inverting the paired bootstrap:
#
# | seed | rate | dense (tone-1 to tone-4) | change after pruning, tone-1 to tone-4 | ρ | interval | floor: mean, 95 % quantile |
# |---|---|---|---|---|---|---|
# | 0 | 0.99 | 95.5 (98.9, 99.1, 93.6, 90.3) | −5.1, −4.7, −10.9, −11.8 | 3.74 | 2.98 to 4.43 | 0.58, 1.05 |
# | 1 | 0.99 | 94.2 (98.7, 98.7, 92.1, 87.5) | −5.2, −3.7, −9.7, −6.9 | 2.58 | 1.75 to 3.22 | 0.60, 1.08 |
# | 0 | 0.9 | 95.5 (98.9, 99.1, 93.6, 90.3) | −0.5, −0.2, +0.8, +1.5 | 0.93 | 0.44 to 1.32 | 0.31, 0.58 |
# | 1 | 0.9 | 94.2 (98.7, 98.7, 92.1, 87.5) | −0.0, −0.1, +1.2, +3.3 | 1.61 | 1.04 to 2.17 | 0.37, 0.70 |
#
# At 0.99 the interval lies above the floor's 95 % quantile with both seeds, and the two tones with little contrast lose the most. At 0.9
# nothing of the kind: pruning and the second round of training cost little, and the darker tones *gain* from it. ρ counts a gain like a
# loss, so it is above the floor's mean there too: read the changes of each tone beside it, never ρ alone.
#
# Thirteen variants of light, contrast, numbers of images and schedule were tried to get here, and these two seeds were the ones looked at.
# So the figures are those that led to the choice. A check came after it: this project's own `fairgrape run` with the same settings and
# seed 0, which starts from other weights and another order of images, has dense 94.4 (98.5, 98.5, 92.6, 88.0) and after WS at 0.99 the
# changes −3.2, −2.8, −8.6, −7.3: ρ 2.90, 2.15 to 3.52, floor 0.57 and 1.04. At 0.9 every tone gains: +0.3, +0.4, +1.7, +4.1.
#
# The dense network is itself less accurate on tone-3 and tone-4. ρ is about what pruning adds to that.
