# %% [markdown]
# # Synthetic faces
#
# > Rendered faces with an expression to recognise and a skin tone that the light treats unequally

# %%
#| default_exp data.synthetic

# %%
#| export
import numpy as np
import pandas as pd
from tqdm import tqdm

from fairgrape.data.appearance import RANGES
from fairgrape.data.drawing import LAYERS, Canvas, new_canvas

# %%
import matplotlib.pyplot as plt

from fairgrape.data.appearance import EXPRESSIONS, TONES, synthetic_table
from fairgrape.data.drawing import contact_sheet


# %% [markdown]
# A row of the table determines an image completely, and the drawing layers read nothing else. This
# notebook adds the camera and renders many rows at once.
#
# ## The camera
#
# The sensor adds grain. The grain of a pixel is a hash of the row's noise number and the pixel's
# position, so it depends on that row only. With a random generator it would depend on which rows
# are drawn together.

# %%
#| export
def _grain(
    noise: np.ndarray,  # The rows' noise numbers, whole floats below 2²⁴, (n, 1, 1)
    size: int,  # Pixels
) -> np.ndarray:  # float32 (n, size, size) between -1 and 1, triangular around 0
    "Grain without a random generator: an integer hash of noise number and pixel."
    place = np.arange(size * size, dtype=np.uint32).reshape(1, size, size)
    h = noise.astype(np.uint32) * np.uint32(2654435761) + place * np.uint32(2246822519)
    for m in (0x7FEB352D, 0x846CA68B):
        h = (h ^ (h >> np.uint32(16))) * np.uint32(m)
    h ^= h >> np.uint32(15)
    return (
        (h & np.uint32(65535)).astype(np.float32) + (h >> np.uint32(16)).astype(np.float32)
    ) / np.float32(65535) - 1


# %%
numbers = np.arange(100, dtype=np.float32)[:, None, None]
print(_grain(numbers, 3)[0].round(2))
sample = _grain(numbers, 64)
assert abs(sample.mean()) < 0.005 and abs(sample.std() - 6**-0.5) < 0.005, (
    "triangular on ±1: standard deviation 1/√6"
)
neighbours = np.corrcoef(sample[:, :, 1:].ravel(), sample[:, :, :-1].ravel())[0, 1]
assert (
    abs(neighbours) < 0.01 and abs(np.corrcoef(sample[0].ravel(), sample[1].ravel())[0, 1]) < 0.06
)


# %% [markdown]
# Light falls from one side. The output is bytes, as from a camera.

# %%
#| export
def _expose(
    canvas: Canvas,  # A finished drawing
) -> np.ndarray:  # uint8 (n, 3, size, size)
    "Light the drawing from its side, add grain, round to bytes."
    p = canvas.p
    cos, sin = (f(p["light_angle"].astype(float)).astype(np.float32) for f in (np.cos, np.sin))
    light = p["light_level"] * (1 + p["light_side"] * (cos * canvas.x + sin * canvas.y))
    lit = (
        canvas.pixels * light[:, None]
        + (p["grain"] * _grain(p["noise"], canvas.pixels.shape[-1]))[:, None]
    )
    return np.rint(np.clip(lit, 0, 1) * 255).astype(np.uint8)


# %%
#| fig-alt: Four rendered faces in bad light, from the lightest to the darkest skin tone
def show(pixels, columns=4, width=4.0):
    "Show images side by side."
    plt.figure(figsize=(width, width * len(pixels) / columns**2), layout="constrained")
    plt.imshow(contact_sheet(pixels, columns), interpolation="nearest")
    plt.axis("off")
    plt.show()


table = synthetic_table()
first = new_canvas(table[table.bad_light == 1].groupby("tone", observed=True).head(1), 64)
for layer in LAYERS:
    layer(first)
show(_expose(first))

# %%
upright = table.head(2).assign(roll=0.0, shift_x=0.0, shift_y=0.0, scale=[1.0, 2.0])
grey = new_canvas(upright.assign(light_level=1.0, light_side=0.0, grain=0.0), 16)
grey.pixels[:] = 0.4
assert (_expose(grey) == 102).all(), ".4 · 255"
grey.p["light_level"] *= 0.5
assert (_expose(grey) == 51).all(), "half the light"
grey.p["light_side"] += 1
grey.p["light_angle"] *= 0
assert (np.diff(_expose(grey)[0, 0, 0].astype(int)) > 0).all(), (
    "light from the right: brighter to the right"
)
grey.p["light_side"] *= 0
grey.p["grain"] += 0.1
assert np.array_equal(
    _expose(grey)[0, 1], np.rint((0.2 + 0.1 * _grain(grey.p["noise"], 16)[0]) * 255)
), "grain is added, alike in all colours"

# %% [markdown]
# ## Rendering
#
# An image is a finished drawing after exposure. It depends on its own row only.

# %%
#| export
RENDERER_VERSION = "1"  # Part of every cache key: change it whenever a pixel may change


def _render(rows: pd.DataFrame, size: int) -> np.ndarray:
    "Draw and expose all rows at once, uint8 (n, 3, size, size)."
    canvas = new_canvas(rows, size)
    for layer in LAYERS:
        layer(canvas)
    return _expose(canvas)


# %%
#| fig-alt: Five rendered faces, one for each expression
test = table[table.split == "test"]
show(_render(test.groupby("expression", observed=True).head(1), 64), columns=5)

# %%
assert np.array_equal(_render(test.head(3), 64)[1], _render(test[1:2], 64)[0]), (
    "an image depends on its own row only"
)
nobody = new_canvas(test.head(1), 64)
assert (_render(test.head(1), 64) != _expose(nobody)).mean() > 0.9 and _render(
    test.head(3), 16
).shape == (3, 3, 16, 16)


# %% [markdown]
# A few dozen images at a time fit into the processor's cache, which is faster than rendering all at
# once. Rows that do not come from `synthetic_table`, and sizes at which a mouth is less than a
# pixel high, raise an error before anything is rendered.

# %%
#| export
def render_faces(
    rows: pd.DataFrame,  # Rows of `synthetic_table`, any of them in any order
    size: int = 64,  # Image width and height, pixels, at least 16
    progress: bool = False,  # Show a progress bar?
    chunk: int = 64,  # Images drawn at once; changes speed only
) -> np.ndarray:  # uint8 (n, 3, size, size), red, green, blue
    """Render faces; a pure function of the rows' numbers. Raises: ValueError (size too small for
    a face, missing render parameters).
    """
    if size < 16:
        raise ValueError(f"size = {size}: use at least 16 pixels, or the mouth cannot be drawn")
    missing = sorted({*RANGES, "contrast", "skin_red", "hair_red"} - {*rows.columns})
    if missing:
        raise ValueError(
            f"rows lack the render parameters {', '.join(missing)}: pass rows of synthetic_table()"
        )
    out = np.empty((len(rows), 3, size, size), np.uint8)
    for start in tqdm(range(0, len(rows), chunk), "rendering", unit="chunk", disable=not progress):
        out[start : start + chunk] = _render(rows.iloc[start : start + chunk], size)
    return out


# %% [markdown]
# Ten faces of each tone, in good light above and in bad light below.

# %%
#| fig-alt: Eight rows of faces: four tones, each in good light and below in bad, the dark ones dim
sheet = pd.concat([part.head(10) for _, part in test.groupby(["tone", "bad_light"], observed=True)])
show(render_faces(sheet), columns=10, width=7.0)

# %% [markdown]
# A row gives the same bits whichever rows are rendered with it, and in any order.

# %%
few = table.sample(150, random_state=0)
images = render_faces(few, 32)
assert images.shape == (150, 3, 32, 32) and images.dtype == np.uint8
assert (render_faces(few, 32, chunk=7) == images).all() and (
    render_faces(few.iloc[::-3], 32) == images[::-3]
).all()
assert (render_faces(few.drop(columns=["expression", "tone", "split"]), 32) == images).all(), (
    "labels are not read"
)
for size in (16, 17, 96):
    assert render_faces(few.head(2), size).shape == (2, 3, size, size)
assert render_faces(few.head(0), 16).shape == (0, 3, 16, 16)

# %% [markdown]
# `RENDERER_VERSION` is part of every cache key. If a pixel changes and the version does not, old
# cached images are used as new ones. The test below therefore pins the colours of some faces. If it
# fails, a drawing has changed and needs a new version.

# %%
some = render_faces(table.iloc[::100], 32).astype(float)
(
    some.mean((0, 2, 3)).round(2),
    some.std((0, 2, 3)).round(2),
    some[:, :, 8:24, 8:24].mean((0, 2, 3)).round(2),
)

# %%
assert RENDERER_VERSION == "1" and np.allclose(
    some.mean((0, 2, 3)), [118.217, 101.659, 93.138], atol=0.01
)
assert np.allclose(some.std((0, 2, 3)), [53.391, 49.004, 49.953], atol=0.01)
assert np.allclose(some[:, :, 8:24, 8:24].mean((0, 2, 3)), [136.284, 107.517, 90.605], atol=0.01), (
    "the middle, where the face is"
)

# %% [markdown]
# Every size works. A coarse image is close to the average of a fine one.

# %%
clean = few.assign(grain=0.0)
fine = render_faces(clean, 128).reshape(150, 3, 32, 4, 32, 4).mean((3, 5))
print("mean difference in grey levels:", np.abs(fine - render_faces(clean, 32)).mean().round(2))
assert np.abs(fine - render_faces(clean, 32)).mean() < 3

# %%
for rows, size, told in (
    (few, 15, "size = 15: use at least 16 pixels"),
    (few.drop(columns=["yaw", "contrast"]), 64, "rows lack the render parameters contrast, yaw"),
):
    try:
        render_faces(rows, size)
    except ValueError as e:
        print(e)
        assert told in str(e)
    else:
        raise AssertionError("unfit rows or too small a size were accepted")

# %% [markdown]
# ## What the light leaves, by tone
#
# An expression can be recognised only by what it changes in the image. So each test face is
# rendered twice, happy and sad, all else equal, and the mean difference of the two images over the
# pixels is measured in grey levels. Light skin reflects more, so the difference is larger even in
# good light. Bad light removes a larger part of it from the darker tones.

# %%
pairs = test.groupby(["tone", "bad_light"], observed=True).head(150)
happy, sad = (
    render_faces(pairs.assign(**EXPRESSIONS.loc[name], grain=0.0), 32).astype(float)
    for name in ("happy", "sad")
)
pairs = pairs.assign(difference=np.abs(happy - sad).mean((1, 2, 3)))
seen = pairs.groupby(["tone", "bad_light"], observed=True).difference.mean().unstack()
seen.columns = ["good light", "bad light"]
seen.assign(kept=seen["bad light"] / seen["good light"], contrast=TONES.contrast).round(2)

# %%
kept = seen["bad light"] / seen["good light"]
assert kept.is_monotonic_decreasing and kept["tone-4"] < 0.5 * kept["tone-1"]
assert np.allclose(kept / kept["tone-1"], TONES.contrast / TONES.contrast["tone-1"], atol=0.08), (
    "the pixels show what the contrast column says"
)

# %% [markdown]
# ## Why these constants
#
# The light, the grain, the contrasts and the numbers of images were tuned and then frozen on two
# criteria, before any group-aware pruning was run on these faces: a dense network is right on 85 to
# 97 % of the test images, and one-shot magnitude pruning (WS, the same rate in every layer)
# followed by retraining shows a disparity ρ whose bootstrap interval lies above its noise floor. So
# the set was built to show a disparity. It is no evidence of how often disparities occur elsewhere.
#
# The setting: 32 px, torchvision's `ResNet(BasicBlock, [1, 1, 1, 1])` from scratch, batches of 64,
# Adam, 6 epochs at 4e-3 and 2 at 4e-4, the best epoch of each stage by validation loss, random
# horizontal flips; after pruning the same schedule again. The figures were measured by a separate
# script, on all 10,000 test images. Accuracy is in percent, ρ and its floor in percentage points;
# the 95 % interval comes from inverting the paired bootstrap:
#
# | seed | rate | dense (tone-1 to tone-4) | change after pruning, tone-1 to tone-4 | ρ | interval | floor: mean, 95 % quantile |
# |---|---|---|---|---|---|---|
# | 0 | 0.99 | 95.5 (98.9, 99.1, 93.6, 90.3) | −5.1, −4.7, −10.9, −11.8 | 3.74 | 2.98 to 4.43 | 0.58, 1.05 |
# | 1 | 0.99 | 94.2 (98.7, 98.7, 92.1, 87.5) | −5.2, −3.7, −9.7, −6.9 | 2.58 | 1.75 to 3.22 | 0.60, 1.08 |
# | 0 | 0.9 | 95.5 (98.9, 99.1, 93.6, 90.3) | −0.5, −0.2, +0.8, +1.5 | 0.93 | 0.44 to 1.32 | 0.31, 0.58 |
# | 1 | 0.9 | 94.2 (98.7, 98.7, 92.1, 87.5) | −0.0, −0.1, +1.2, +3.3 | 1.61 | 1.04 to 2.17 | 0.37, 0.70 |
#
# At 0.99 the interval lies above the floor's 95 % quantile with both seeds, and the two tones with
# little contrast lose the most. At 0.9 this does not happen: pruning and the second round of
# training cost little, and the darker tones *gain* from them. ρ counts a gain like a loss, so it is
# above the floor's mean there too. Always read ρ together with the change of each tone.
#
# Thirteen variants of light, contrast, numbers of images and schedule were tried on these two
# seeds, so the table shows the figures that led to the choice. A check followed: this project's own
# `fairgrape run` with the same settings and seed 0, which starts from other weights and another
# order of images. Its dense accuracy is 94.4 (98.5, 98.5, 92.6, 88.0). After WS at 0.99 the changes
# are −3.2, −2.8, −8.6, −7.3, with ρ 2.90, interval 2.15 to 3.52, floor 0.57 and 1.04. At 0.9 every
# tone gains: +0.3, +0.4, +1.7, +4.1. That was with two threads. With one thread (runs/showcase) the
# changes are −3.0, −2.5, −8.4, −7.2 with ρ 2.99, and +0.8, +0.5, +1.4, +2.4.
#
# The dense network is itself less accurate on tone-3 and tone-4. ρ measures what pruning adds to
# that.
