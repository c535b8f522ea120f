# %% [markdown]
# # Drawing
#
# > Ellipses and bands with soft edges, in the frame of each face, from background to glasses

# %%
#| default_exp data.drawing

# %%
#| export
from dataclasses import dataclass

import numpy as np
import pandas as pd

# %%
import matplotlib.pyplot as plt

from fairgrape.data.appearance import TONES, draw_rows, express, light_and_colour


# %% [markdown]
# Drawing is plain array arithmetic, without a drawing library. The next version of such a library
# might shade an edge differently, and results measured before and after would not be comparable.
#
# ## Shapes
#
# A shape is its signed distance: negative inside, zero on the edge, positive outside. This works at
# any size, and the edge can be softened over the width of a pixel. The pixels come only from sums,
# products, quotients and square roots, so the bits are the same each time.

# %%
#| export
def _ellipse(
    x: np.ndarray,  # Horizontal position relative to the centre, any shape
    y: np.ndarray,  # Vertical position, downwards, same shape
    rx: np.ndarray,  # Horizontal radius, broadcastable
    ry: np.ndarray,  # Vertical radius
) -> np.ndarray:  # Signed distance to the edge, exact on the edge, approximate elsewhere
    "Distance to an ellipse, by the first-order formula f·(f-1)/|∇f|."
    f = np.sqrt((x / rx) ** 2 + (y / ry) ** 2) + 1e-6
    return f * (f - 1) / (np.sqrt((x / rx**2) ** 2 + (y / ry**2) ** 2) + 1e-6)


# %%
print(_ellipse(np.array([0.0, 1, 2, 3]), np.zeros(4), 2, 1))
assert np.allclose(_ellipse(np.array([2.0, 0, 3]), np.array([0.0, 1, 4]), 2, 1)[:2], 0, atol=1e-5)
assert np.allclose(_ellipse(np.array([3.0]), np.array([4.0]), 2, 2), 3, atol=1e-4), (
    "a circle's distance is exact: 5 - 2"
)


# %% [markdown]
# Brows, nose and mouth are bands along a parabola. An open mouth is a band that swells in its
# middle.

# %%
#| export
def _band(
    x: np.ndarray,  # Position along the band, 0 in its middle
    y: np.ndarray,  # Position across it, downwards
    half: np.ndarray,  # Half of its length
    thick: float,  # Half of its thickness
    tilt: np.ndarray | float = 0,  # Slope; positive falls to the right
    # How much lower the middle lies than the ends: a smile is positive
    bend: np.ndarray | float = 0,
    swell: np.ndarray | float = 0,  # Extra half-thickness in the middle
) -> np.ndarray:  # Signed distance, negative inside
    "Distance to a band along the parabola `tilt·x + bend·(1 - (x/half)²)`."
    t = np.clip(x / half, -1, 1)
    across = np.abs(y - tilt * x - bend * (1 - t * t)) - swell * (1 - t * t)
    slope = tilt - 2 * bend * t / half
    return np.maximum(across / np.sqrt(1 + slope * slope) - thick, np.abs(x) - half)


# %%
# the smile's middle lies at y = .5
print(_band(np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.5, 0.5]), half=1, thick=0.1, bend=0.5))
assert _band(0.0, 0.5, 1, 0.1, bend=0.5) < 0 < _band(0.0, 0.0, 1, 0.1, bend=0.5)
assert _band(0.5, 0.1, 1, 0.1, tilt=0.2) < 0 < _band(-0.5, 0.1, 1, 0.1, tilt=0.2), (
    "a positive tilt falls to the right"
)
# By hand: half-way to the end, 1 - (x/half)² = .75, the band's middle lies at .5 + .4·.75 = .8 with
# slope .5 - .4·.5 = .3; .4 across, .1·.75 of it swell
assert np.isclose(
    _band(1.0, 1.2, 2, 0.1, tilt=0.5, bend=0.4, swell=0.1),
    (0.4 - 0.075) / np.sqrt(1 + 0.3**2) - 0.1,
)
assert _band(3.0, 0.0, 2, 0.1, bend=4.0) == _band(-3.0, 0.0, 2, 0.1, bend=4.0) == 1, (
    "beyond the ends: the distance to them"
)
assert _band(0.0, 0.3, 1, 0.1) > 0 > _band(0.0, 0.3, 1, 0.1, swell=0.4)


# %% [markdown]
# ## Canvas
#
# A canvas holds a few dozen images at once, and the position of every pixel in the frame of its
# face: shifted, turned and scaled by the row's pose. Drawing functions can then assume one upright
# face at the origin.

# %%
#| export
@dataclass(frozen=True)
class Canvas:
    "Images being drawn, and the positions of their pixels in each face's frame."

    pixels: np.ndarray  # float32 (n, 3, size, size), light between 0 and 1
    x: np.ndarray  # float32 (n, size, size), to the right, 0 in the middle of the face
    y: np.ndarray  # float32 (n, size, size), downwards
    edge: np.ndarray  # float32 (n, 1, 1), width of a soft edge: one and a half pixels
    p: dict[str, np.ndarray]  # Render parameters, float32 (n, 1, 1) each

    def colour(self, name: str) -> np.ndarray:
        "The columns `name`_red, _green and _blue as an array (n, 3, 1, 1)."
        return np.stack([self.p[f"{name}_{c}"] for c in ("red", "green", "blue")], 1)


# %%
dot = Canvas(
    np.zeros((1, 3, 1, 1)),
    np.zeros((1, 1, 1)),
    np.zeros((1, 1, 1)),
    np.ones((1, 1, 1)),
    {f"skin_{c}": np.full((1, 1, 1), v) for c, v in (("red", 0.9), ("green", 0.8), ("blue", 0.7))},
)
dot.colour("skin").shape, dot.colour("skin").ravel()

# %%
assert dot.colour("skin").shape == (1, 3, 1, 1) and dot.colour("skin").ravel().tolist() == [
    0.9,
    0.8,
    0.7,
]


# %% [markdown]
# A canvas reads only the numeric columns of its rows. The tone label is not numeric, so no drawing
# function can read it: a tone reaches the pixels only through its skin colour and its contrast.

# %%
#| export
def new_canvas(
    rows: pd.DataFrame,  # Rows of `synthetic_table`
    size: int,  # Image width and height, pixels
) -> Canvas:  # Black images
    "Place the pixels of `size` × `size` images in the frame of each row's face."
    floats = rows.select_dtypes("number")
    p = {name: floats[name].to_numpy(np.float32)[:, None, None] for name in floats}
    cos, sin = (
        f(rows.roll.to_numpy(float)).astype(np.float32)[:, None, None] for f in (np.cos, np.sin)
    )
    grid = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    x, y = grid[None, None, :] - p["shift_x"], grid[None, :, None] - p["shift_y"]
    pixels = np.zeros((len(rows), 3, size, size), np.float32)
    return Canvas(
        pixels,
        (cos * x + sin * y) / p["scale"],
        (cos * y - sin * x) / p["scale"],
        np.float32(3 / size) / p["scale"],
        p,
    )


# %%
table = light_and_colour(express(pd.concat([draw_rows(50, "test", tone) for tone in TONES.index])))
upright = table.head(2).assign(roll=0.0, shift_x=0.0, shift_y=0.0, scale=[1.0, 2.0])
canvas = new_canvas(upright, 4)
canvas.x[:, 0]

# %%
assert (
    canvas.pixels.shape == (2, 3, 4, 4)
    and not canvas.pixels.any()
    and "tone" not in canvas.p
    and canvas.edge.ravel().tolist() == [0.75, 0.375]
)
assert np.allclose(canvas.x[0, 0], [-0.75, -0.25, 0.25, 0.75]) and np.allclose(
    canvas.y[0, :, 0], [-0.75, -0.25, 0.25, 0.75]
)
assert np.allclose(canvas.x[1], canvas.x[0] / 2) and np.allclose(canvas.y[1], canvas.y[0] / 2), (
    "a face twice as large has its pixels twice as close to the middle"
)
moved = new_canvas(upright.assign(shift_x=0.25, shift_y=-0.5), 4)
assert np.allclose(moved.x[0], canvas.x[0] - 0.25) and np.allclose(moved.y[0], canvas.y[0] + 0.5)
quarter = new_canvas(upright.assign(roll=np.pi / 2), 4)
assert np.allclose(quarter.x[0], canvas.y[0], atol=1e-6) and np.allclose(
    quarter.y[0], -canvas.x[0], atol=1e-6
)


# %% [markdown]
# Painting mixes a colour in. Where the edge passes through a pixel, a smooth step blends the two
# colours.

# %%
#| export
def _paint(
    canvas: Canvas,  # Its pixels are changed in place
    colour: np.ndarray | float,  # Broadcastable to (n, 3, size, size)
    distance: np.ndarray,  # Signed distance to the shape, (n, size, size)
    opacity: np.ndarray | float = 1.0,  # 1 covers what is below, (n, 1, 1)
) -> None:
    "Fill a shape with a colour, with a soft edge."
    t = np.clip(np.float32(0.5) - distance / canvas.edge, 0, 1)
    cover = opacity * t * t * (3 - 2 * t)
    np.add(canvas.pixels, cover[:, None] * (colour - canvas.pixels), out=canvas.pixels)


# %%
disc = new_canvas(upright, 16)
_paint(disc, np.float32(1), _ellipse(disc.x, disc.y, 0.5, 0.5))
print((disc.pixels[0, 0, 8] * 100).astype(int))
assert (
    disc.pixels[0, 0, 8, 8] == 1
    and disc.pixels[0, 0, 0, 0] == 0
    and disc.pixels.dtype == np.float32
)
half = new_canvas(upright, 16)
_paint(half, np.float32(1), _ellipse(half.x, half.y, 0.5, 0.5), opacity=0.4)
assert np.allclose(half.pixels, 0.4 * disc.pixels), "opacity"
assert abs(disc.pixels[0, 0].mean() * 4 - np.pi * 0.25) < 0.01, (
    "a soft edge keeps the area of the disc"
)


# %% [markdown]
# ## A sheet of images
#
# A sheet shows images side by side. It is an array like the images, so any tool can show or save
# it.

# %%
#| export
def contact_sheet(
    pixels: np.ndarray,  # (n, 3, size, size); n is a multiple of `columns`
    columns: int = 4,  # Images in a row
) -> np.ndarray:  # (n/columns · size, columns · size, 3), as matplotlib wants it
    "Images side by side, row by row."
    n, _, size, _ = pixels.shape
    rows = pixels.reshape(n // columns, columns, 3, size, size).transpose(0, 3, 1, 4, 2)
    return rows.reshape(n // columns * size, columns * size, 3)


# %%
numbers = np.arange(4).repeat(3 * 2 * 2).reshape(4, 3, 2, 2)
print(contact_sheet(numbers, columns=2)[:, :, 0])
assert (
    contact_sheet(numbers, columns=2)[:, :, 0].tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
)
assert contact_sheet(disc.pixels, columns=2).shape == (16, 32, 3)


# %%
def look(
    *layers: callable,  # Drawing functions, back to front
    size: int = 64,  # Pixels
) -> Canvas:  # The drawing of four rows, one per tone
    "Draw four happy faces in good light with the given layers only."
    canvas = new_canvas(
        table[(table.bad_light == 0) & (table.expression == "happy")]
        .groupby("tone", observed=True)
        .head(1),
        size,
    )
    for layer in layers:
        layer(canvas)
    return canvas


def strip(*layers: callable):
    "Show what these layers draw."
    plt.figure(figsize=(4, 1), layout="constrained")
    plt.imshow(contact_sheet(look(*layers).pixels).clip(0, 1), interpolation="nearest")
    plt.axis("off")
    plt.show()


def change(
    layer: callable,  # A drawing function
    *below: callable,  # What was drawn before
    **columns: float,  # Render parameters to set
) -> np.ndarray:  # How much of the light it changed, (n, size, size)
    "The change that a layer makes on a drawing."
    canvas = look(*below)
    canvas.p.update({name: np.full_like(canvas.p[name], value) for name, value in columns.items()})
    before = canvas.pixels.copy()
    layer(canvas)
    return np.abs(canvas.pixels - before).mean(1)


# %% [markdown]
# ## A face, from back to front
#
# First the background, shaded from top to bottom, then long hair, clothes and neck.

# %%
#| export
def _draw_background(
    canvas: Canvas,  # A black canvas
) -> None:
    "Background, long hair behind the head, clothes, neck."
    x, y, p = canvas.x, canvas.y, canvas.p
    np.add(canvas.pixels, canvas.colour("back") + (p["back_slope"] * y)[:, None], out=canvas.pixels)
    _paint(
        canvas,
        canvas.colour("hair") * np.float32(0.8),
        _ellipse(x, y - 0.12, 0.66 * p["width"], 0.86),
        p["hair_long"],
    )
    _paint(canvas, canvas.colour("cloth"), _ellipse(x, y - 1.25, 0.95, 0.5))
    _paint(
        canvas,
        canvas.colour("skin") * np.float32(0.78),
        np.maximum(np.abs(x) - 0.2, np.abs(y - 0.7) - 0.28),
    )


# %%
#| fig-alt: Clothes and necks of four people, light to dark skin, one with long hair; no heads yet
strip(_draw_background)

# %%
behind = look(_draw_background)
corner = behind.colour("back")[:, :, 0, 0] + behind.p["back_slope"][:, 0] * behind.y[:, 0, :1]
assert np.allclose(behind.pixels[:, :, 0, 0], corner, atol=1e-6)
whole = new_canvas(upright.head(1), 64)
_draw_background(whole)
chest, neck = (
    (np.abs(whole.x[0] - x) < 0.03) & (np.abs(whole.y[0] - y) < 0.03)
    for x, y in ((0.4, 0.9), (0, 0.8))
)
assert np.allclose(whole.pixels[0][:, chest], whole.colour("cloth")[0, :, 0]) and np.allclose(
    whole.pixels[0][:, neck], 0.78 * whole.colour("skin")[0, :, 0]
)


# %% [markdown]
# The head is an ellipse that narrows towards the chin. Hair follows the same outline, so the
# outline is a separate function.

# %%
#| export
def _head_shape(canvas: Canvas) -> np.ndarray:
    "Signed distance to the outline of the head, an ellipse narrower at the chin, (n, size, size)."
    jaw = 1 - np.float32(0.16) * np.clip(canvas.y, 0, 1)
    return _ellipse(canvas.x / jaw, canvas.y, 0.57 * canvas.p["width"], 0.76)


# %%
face = look()
inside = _head_shape(face) < 0
print("share of the pixels, face by face:", inside.mean((1, 2)).round(2))
widths = {
    where: [
        np.ptp(face.x[i][inside[i] & (np.abs(face.y[i] - y) < 0.05)]).round(2) for i in range(4)
    ]
    for where, y in (("brow", -0.4), ("jaw", 0.4))
}
widths

# %%
assert all(jaw < brow for jaw, brow in zip(widths["jaw"], widths["brow"])), "narrower below"
assert np.allclose([np.ptp(face.y[i][inside[i]]) for i in range(4)], 2 * 0.76, atol=0.08), (
    "twice the radius in height"
)


# %% [markdown]
# The head is shaded slightly darker on the side it turns away from.

# %%
#| export
def _draw_head(
    canvas: Canvas,  # With its background
) -> None:
    "Ears and head, shaded by the way the face turns."
    x, y, p, skin = canvas.x, canvas.y, canvas.p, canvas.colour("skin")
    for side in (-1, 1):
        _paint(
            canvas,
            skin * np.float32(0.85),
            _ellipse(x - side * 0.56 * p["width"], y - 0.02, 0.09, 0.15),
        )
    away = (x - 0.2 * p["yaw"]) ** 2 + y * y
    _paint(canvas, skin * (np.float32(1.03) - 0.25 * away)[:, None], _head_shape(canvas))


# %%
#| fig-alt: The same four with blank heads and ears
strip(_draw_background, _draw_head)

# %%
head = look(_draw_background, _draw_head)
middle, skin = head.pixels[:, :, 32, 32], head.colour("skin")[:, :, 0, 0]
assert (np.abs(middle / skin - 1) < 0.06).all() and (np.diff(middle.mean(1)) < 0).all(), (
    "skin colour, darker from tone-1 to tone-4"
)
left, right = (
    change(_draw_head, _draw_background, yaw=yaw, shift_x=0, roll=0) for yaw in (-1.0, 1.0)
)
assert np.abs(left - right).max() > 0.01, "a turned head is shaded on its other side"
beside = np.abs(np.abs(head.x) - 0.56 * head.p["width"]) < 0.02
ear = beside & (np.abs(head.y - 0.02) < 0.02)
assert all(
    np.allclose(head.pixels[i][:, ear[i]].mean(1) / skin[i], 0.85, atol=0.12) for i in range(4)
), "ears, darker than the face"


# %% [markdown]
# Brows, eyes, nose and mouth carry the expression. All of them are painted with the row's contrast
# as their opacity: a contrast of .4 leaves 40 % of their difference to the skin. This single factor
# models the effect of bad light on a tone.
#
# On a turned head the far side is seen at an angle, so the eye and brow of that side are drawn in a
# narrower frame.

# %%
#| export
def _eye_frame(canvas: Canvas, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Position relative to the middle of one eye (side -1 is left, 1 is right), narrower on the
    far side of a turned head.
    """
    narrow = 1 - np.float32(0.22) * np.clip(side * canvas.p["yaw"], 0, 1)
    return (canvas.x - 0.16 * canvas.p["yaw"] - side * 0.23 * narrow) / narrow, canvas.y + 0.1


# %%
turned = look()
turned.p["yaw"] = np.full_like(turned.p["yaw"], 1.0)  # to the right
spread = {
    side: (np.ptp(_eye_frame(turned, side)[0][0]) / np.ptp(turned.x[0])).round(3)
    for side in (-1, 1)
}
spread

# %%
assert np.allclose(
    [spread[-1], spread[1]], [1, 1 / 0.78], atol=2e-3
)  # the right eye is 22 % narrower
x, y = _eye_frame(turned, 1)
assert np.allclose(x, (turned.x - 0.16 - 0.23 * 0.78) / 0.78, atol=1e-6) and np.allclose(
    y, turned.y + 0.1, atol=1e-6
)


# %%
#| export
def _draw_eye(canvas: Canvas, x: np.ndarray, y: np.ndarray) -> None:
    "The white of one eye, as wide open as the row says, and an iris clipped to it."
    white = _ellipse(x, y, 0.125, 0.085 * canvas.p["eye_open"])
    _paint(canvas, np.float32(0.93), white, canvas.p["contrast"])
    _paint(
        canvas,
        np.float32(0.1),
        np.maximum(_ellipse(x, y, 0.06, 0.075), white),
        canvas.p["contrast"],
    )


# %%
#| fig-alt: The same four with one eye each, on the right
def eye(canvas):
    return _draw_eye(canvas, *_eye_frame(canvas, 1))


strip(_draw_background, _draw_head, eye)
opened, narrowed = (
    (change(eye, _draw_background, _draw_head, contrast=1.0, eye_open=wide) > 0).mean((1, 2))
    for wide in (1.4, 0.7)
)
assert (opened > 1.5 * narrowed).all(), "a wide eye covers twice as much as a narrow one"
whole = look(_draw_background, _draw_head, eye)
pupil = [
    whole.pixels[i][:, np.hypot(*(a[i] for a in _eye_frame(whole, 1))) < 0.03].mean()
    for i in range(4)
]
assert np.allclose(pupil, 0.1, atol=0.03), "dark in the middle"


# %%
#| export
def _draw_brow(canvas: Canvas, x: np.ndarray, y: np.ndarray, side: int) -> None:
    "The brow over one eye; its tilt mirrors that of the other side."
    p = canvas.p
    distance = _band(x, y + 0.2 + p["brow_raise"], 0.15, 0.03, side * p["brow_tilt"], -0.03)
    _paint(canvas, canvas.colour("skin") * np.float32(0.3), distance, p["contrast"])


# %%
#| fig-alt: The same four with one eyebrow each, on the right, and no eyes
def brow(canvas):
    return _draw_brow(canvas, *_eye_frame(canvas, 1), 1)


strip(_draw_background, _draw_head, brow)


def middle_of(layer, **columns):
    "Where a layer changes the first face, on average: x and y."
    weight = change(layer, _draw_background, _draw_head, contrast=1.0, **columns)[0]
    return np.array([(weight * a).sum() / weight.sum() for a in (face.x[0], face.y[0])])


assert np.allclose(
    middle_of(brow, brow_raise=0.1) - middle_of(brow, brow_raise=0.0), [0, -0.1], atol=0.01
), "raised by a tenth"


def outer(tilt):
    return change(brow, _draw_background, _draw_head, contrast=1.0, brow_tilt=tilt)[0][
        face.y[0] > -0.28
    ].sum()


assert outer(0.5) > outer(0.0), "tilted up inside, it reaches lower outside"


# %%
#| export
def _draw_eyes(
    canvas: Canvas,  # With its head
) -> None:
    "Eyes and brows; those on the far side of a turned head are narrower."
    for side in (-1, 1):
        x, y = _eye_frame(canvas, side)
        _draw_eye(canvas, x, y)
        _draw_brow(canvas, x, y, side)


# %%
#| fig-alt: The same four with two eyes and two eyebrows each
strip(_draw_background, _draw_head, _draw_eyes)


def amount(layer, **columns):
    return change(layer, _draw_background, _draw_head, **columns).mean((1, 2))


assert (amount(_draw_eyes, contrast=0.0) == 0).all(), "no contrast, no eyes"
assert (amount(_draw_eyes, contrast=0.4) < 0.5 * amount(_draw_eyes, contrast=1.0)).all()
assert np.allclose(
    amount(_draw_eyes, yaw=0.0),
    2 * amount(lambda canvas: (eye(canvas), brow(canvas)), yaw=0.0),
    rtol=0.1,
), "two of each"


# %% [markdown]
# The nose is the same in every expression. As the mouth opens, the lips and the dark gap between
# them swell and shorten slightly.

# %%
#| export
def _draw_mouth(
    canvas: Canvas,  # With its head
) -> None:
    "Nose and mouth: lips, and the dark gap between them."
    p, skin = canvas.p, canvas.colour("skin")
    x, y = canvas.x - 0.16 * p["yaw"], canvas.y - 0.42
    lips = skin * np.array([0.78, 0.5, 0.5], np.float32)[:, None, None]
    swell = np.maximum(p["mouth_open"], 0)
    _paint(
        canvas,
        skin * np.float32(0.72),
        _band(x - 0.04 * p["yaw"], y + 0.26, 0.11, 0.02, bend=0.04),
        0.7 * p["contrast"],
    )
    _paint(
        canvas,
        lips,
        _band(x, y, 0.26 - 0.5 * swell, 0.035, bend=p["smile"], swell=swell),
        p["contrast"],
    )
    _paint(
        canvas,
        skin * np.float32(0.22),
        _band(x, y, 0.22 - 0.5 * swell, 0.012, bend=p["smile"], swell=swell),
        p["contrast"],
    )


# %%
#| fig-alt: The same four with noses and smiling, open mouths
strip(_draw_background, _draw_head, _draw_eyes, _draw_mouth)
assert (amount(_draw_mouth, contrast=0.0) == 0).all()
assert (amount(_draw_mouth, mouth_open=0.15) > 1.5 * amount(_draw_mouth, mouth_open=0.0)).all(), (
    "an open mouth covers more"
)


def corners(smile):
    return change(_draw_mouth, _draw_background, _draw_head, contrast=1.0, smile=smile, yaw=0.0)[0][
        (np.abs(face.x[0]) > 0.2) & (face.y[0] > 0.35)
    ]


assert (
    corners(0.17).sum() > 0
    and middle_of(_draw_mouth, smile=0.17)[1] > middle_of(_draw_mouth, smile=-0.15)[1] + 0.05
), "the middle of a smile lies lower"


# %% [markdown]
# Hair lies over the forehead and, where it is long, down both sides of the face.

# %%
#| export
def _draw_hair(
    canvas: Canvas,  # With its face
) -> None:
    "Hair above the hair line, long hair beside the face."
    x, y, p, head = canvas.x, canvas.y, canvas.p, _head_shape(canvas) - np.float32(0.06)
    top = np.maximum(head, y - p["hair_line"] - p["hair_slant"] * x - 0.25 * x * x)
    _paint(canvas, canvas.colour("hair"), top, p["hair_density"])
    _paint(
        canvas,
        canvas.colour("hair"),
        np.maximum(np.maximum(head, 0.5 * p["width"] - np.abs(x)), y - 0.35),
        p["hair_long"],
    )


# %%
#| fig-alt: The same four with hair: long, shorn, and two with a rounded cap of hair
strip(_draw_background, _draw_head, _draw_eyes, _draw_mouth, _draw_hair)
assert (amount(_draw_hair, hair_density=0.0, hair_long=0.0) == 0).all()
assert (
    amount(_draw_hair, hair_density=1.0, hair_long=1.0)
    > amount(_draw_hair, hair_density=1.0, hair_long=0.0)
).all()
low, high = (
    change(
        _draw_hair, _draw_background, _draw_head, hair_density=1.0, hair_long=0.0, hair_line=line
    )
    > 0
    for line in (-0.3, -0.6)
)
assert (low.sum((1, 2)) > high.sum((1, 2))).all() and not low[face.y > 0].any(), (
    "above the hair line only"
)


# %% [markdown]
# Glasses are drawn last, over everything: two rims and a bridge.

# %%
#| export
def _draw_glasses(
    canvas: Canvas,  # With its face and hair
) -> None:
    "The rims of glasses, where the row has glasses."
    x, y = np.abs(canvas.x - 0.16 * canvas.p["yaw"]), np.abs(canvas.y + 0.1)
    rim = np.minimum(
        np.abs(_ellipse(x - 0.23, y, 0.19, 0.16)) - 0.016, np.maximum(y - 0.016, x - 0.05)
    )
    _paint(canvas, np.float32(0.12), rim, 0.9 * canvas.p["glasses"])


# Back to front
LAYERS = (_draw_background, _draw_head, _draw_eyes, _draw_mouth, _draw_hair, _draw_glasses)

# %%
#| fig-alt: The same four with round glasses
strip(
    *LAYERS[:-1],
    lambda canvas: (
        canvas.p.update(glasses=np.ones_like(canvas.p["glasses"])),
        _draw_glasses(canvas),
    ),
)

# %%
assert (amount(_draw_glasses, glasses=0.0) == 0).all() and (
    amount(_draw_glasses, glasses=1.0) > 0
).all()
ringed = change(_draw_glasses, _draw_background, _draw_head, glasses=1.0, yaw=0.0)[0] > 0.1
x, y = np.abs(face.x[0]), face.y[0] + 0.1
assert (
    not ringed[np.hypot(x - 0.23, y) < 0.1].any() and ringed[(x < 0.03) & (np.abs(y) < 0.01)].all()
), "clear glass, and a bridge between the rims"

# %% [markdown]
# The paint of each layer, on one face: how much of each colour it changes (in thousandths of full
# light, averaged over the image), the centre of the change, and its spread. These numbers are
# measured, not derived. The test pins them, so no constant can change unnoticed.

# %%
one = table.head(1).assign(
    yaw=0.5,
    roll=0.1,
    shift_x=0.05,
    shift_y=-0.05,
    scale=1.0,
    width=1.0,
    contrast=0.8,
    smile=0.1,
    mouth_open=0.1,
    brow_raise=0.03,
    brow_tilt=0.3,
    eye_open=1.2,
    hair_density=0.9,
    hair_line=-0.45,
    hair_slant=0.2,
    hair_long=0.7,
    glasses=1.0,
    back_slope=0.2,
    **dict(
        zip(
            ("skin_red", "skin_green", "skin_blue", "hair_red", "hair_green", "hair_blue"),
            (0.8, 0.6, 0.5, 0.3, 0.2, 0.1),
        )
    ),
    **dict(
        zip(
            ("back_red", "back_green", "back_blue", "cloth_red", "cloth_green", "cloth_blue"),
            (0.4, 0.5, 0.6, 0.7, 0.2, 0.3),
        )
    ),
)
drawing, traces = new_canvas(one, 96), {}
for layer in LAYERS:
    before = drawing.pixels.copy()
    layer(drawing)
    paint_put = np.abs(drawing.pixels - before)[0].astype(float)
    weight = paint_put.sum(0) / paint_put.sum()
    x, y = ((weight * a[0]).sum() for a in (drawing.x, drawing.y))
    spread = [
        np.sqrt((weight * (a[0] - m) ** 2).sum()) for a, m in ((drawing.x, x), (drawing.y, y))
    ]
    traces[layer.__name__] = [*1000 * paint_put.mean((1, 2)), *(100 * np.array([x, y, *spread]))]
traces = pd.DataFrame.from_dict(
    traces, orient="index", columns=["red", "green", "blue", "x", "y", "spread x", "spread y"]
).round(1)
traces

# %%
assert list(traces.index) == [
    "_draw_background",
    "_draw_head",
    "_draw_eyes",
    "_draw_mouth",
    "_draw_hair",
    "_draw_glasses",
]
assert np.allclose(
    traces,
    [
        [380.2, 372.7, 414.8, -5.0, 15.0, 62.8, 58.2],
        [157.0, 103.5, 80.6, 0.7, -6.5, 29.7, 33.9],
        [8.5, 7.9, 7.7, 5.6, -19.8, 23.0, 12.9],
        [8.3, 7.7, 6.4, 8.1, 48.2, 9.7, 8.6],
        [29.6, 26.9, 31.7, 5.4, -43.8, 34.2, 26.1],
        [10.9, 7.7, 6.1, 7.4, -9.9, 25.7, 11.6],
    ],
    atol=0.11,
)
