# %% [markdown]
# # Images
#
# > Decode a file to a square of pixels, no larger than needed; damaged files raise an error

# %%
#| default_exp data.images

# %%
#| export
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageMode, ImageOps

# %%
import tempfile


# %% [markdown]
# The network takes squares. A JPEG can be decoded at a half, a quarter or an eighth of its size,
# which is cheaper than a full decode. We do so as long as the result is at least twice as large as
# the square, so the resize still averages several pixels. The result differs from a full decode by
# a fraction of a grey level on average.
#
# A damaged file raises an error that names it. The library's own error gives only the number of
# missing bytes.
#
# A file of more than 8 bits per channel is refused too. PIL clips such values at 255, which turns a
# 16-bit grey scan into a white square. How its range maps to 0 … 255 depends on the device that
# made it (a 12-bit sensor fills a sixteenth of 16 bits), so such files must be converted first.

# %%
#| export
def _refuse_deep(image: Image.Image, path: str | Path) -> None:
    "Raise ValueError for an image whose channels do not fit in 8 bits."
    if ImageMode.getmode(image.mode).typestr in ("|u1", "|b1"):
        return
    raise ValueError(
        f"{path}: this image has more than 8 bits per channel (PIL mode {image.mode}). "
        "Scale it to 8 bits and save it again; clipped at 255 it would be white"
    )


# %%
for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
    assert _refuse_deep(Image.new(mode, (2, 2)), "a.png") is None
for mode in ("I;16", "I;16B", "I", "F"):
    try:
        _refuse_deep(Image.new(mode, (2, 2)), "a.png")
    except ValueError as e:
        print(e)
        assert f"a.png: this image has more than 8 bits per channel (PIL mode {mode})" in str(e)
    else:
        raise AssertionError(f"mode {mode} was accepted")


# %% [markdown]
# Published sets have no transparent pixels, but your own cut-outs may. A transparent pixel still
# has a colour in the file, often noise or the old background, which no viewer shows. Such an image
# is laid on black. Black is also the colour of the bars of `fit = pad`, and the colour that most
# programs write under full transparency.

# %%
#| export
def _on_black(
    image: Image.Image,  # Any mode with 8 bits or fewer
) -> Image.Image:  # RGB, same size
    "Convert an image to RGB, with transparent pixels laid on black."
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image).convert("RGB")


# %%
pixels = [(200, 100, 50, 255), (200, 100, 50, 0), (200, 100, 50, 51)]
cut_out = Image.new("RGBA", (3, 1))
cut_out.putdata(pixels)
print([_on_black(cut_out).getpixel((x, 0)) for x in range(3)])

# %%
# 51 of 255 is a fifth: 40, 20 and 10 of 200, 100 and 50
for x, wanted in enumerate([(200, 100, 50), (0, 0, 0), (40, 20, 10)]):
    assert _on_black(cut_out).getpixel((x, 0)) == wanted
grey = Image.new("LA", (1, 1), (90, 0))
palette = Image.new("P", (1, 1), 0)
palette.putpalette([9, 8, 7])
assert _on_black(palette).getpixel((0, 0)) == (9, 8, 7)
palette.info["transparency"] = 0
for clear in (grey, palette):
    assert _on_black(clear).getpixel((0, 0)) == (0, 0, 0)
rng_colours = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
rng_colours[..., 3] = 255  # opaque: every colour stays as it is
assert np.array_equal(np.asarray(_on_black(Image.fromarray(rng_colours))), rng_colours[..., :3])


# %%
#| export
def _read_rgb(path: str | Path, least: int) -> Image.Image:
    """The image upright and in RGB, on black if it is transparent; its shorter side is at least
    `least`, if the file is that large.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (least, least))
            upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: the label table names this image, but the file is not there"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise ValueError(
            f"{path}: this image cannot be decoded ({e}). Fetch it again, or remove the file and"
            " its label"
        ) from e
    _refuse_deep(upright, path)
    return _on_black(upright)


# %% [markdown]
# A smooth picture of 200 px as a JPEG. For 64 px it is decoded at half its size, for more than 100
# px in full.

# %%
tmp = Path(tempfile.mkdtemp())
y, x = np.mgrid[:200, :200] / 200
smooth = np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x * y)], -1)
Image.fromarray((255 * smooth).astype(np.uint8)).save(tmp / "smooth.jpg", quality=92)
[_read_rgb(tmp / "smooth.jpg", least).size for least in (64, 100, 101)]

# %%
assert [_read_rgb(tmp / "smooth.jpg", least).size for least in (64, 100, 101)] == [
    (100, 100),
    (100, 100),
    (200, 200),
]
turned = Image.Exif()
turned[0x0112] = 6  # the camera was held upright
Image.new("L", (8, 4)).save(tmp / "turned.jpg", exif=turned)
upright = _read_rgb(tmp / "turned.jpg", 4)
assert upright.size == (4, 8) and upright.mode == "RGB"

# %% [markdown]
# Half a JPEG, a text file, a 16-bit grey picture, and a missing file:

# %%
whole = (tmp / "smooth.jpg").read_bytes()
(tmp / "half.jpg").write_bytes(whole[: len(whole) // 2])
(tmp / "text.jpg").write_text("no picture")
Image.fromarray((1000 * np.arange(64).reshape(8, 8)).astype(np.uint16)).save(tmp / "deep.png")
for name, error in [
    ("half.jpg", ValueError),
    ("text.jpg", ValueError),
    ("deep.png", ValueError),
    ("gone.jpg", FileNotFoundError),
]:
    try:
        _read_rgb(tmp / name, 64)
    except error as e:
        print(str(e).replace(str(tmp), "…"))
    else:
        raise AssertionError(f"{name} was decoded")


# %% [markdown]
# ## From a rectangle to a square
#
# The usual way is to crop: the shorter side is resized, with antialiasing, and the centred square
# is cut out, both in one call. Pixels outside the square are never computed.

# %%
#| export
def _cropped(
    image: Image.Image,  # Of any size
    size: int,  # Side of the square, pixels
) -> Image.Image:  # `size` × `size`
    "The centred square of an image, resized with antialiasing."
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )


# %% [markdown]
# A picture twice as wide as high, black in the outer quarters, orange in the middle: only the
# middle is left.

# %%
wide = np.zeros((40, 80, 3), np.uint8)
wide[:, 20:60] = (255, 128, 0)
np.asarray(_cropped(Image.fromarray(wide), 4))[1]

# %%
for picture in (wide, wide.transpose(1, 0, 2)):  # wide, and high
    # no black: the square is centred
    assert (np.asarray(_cropped(Image.fromarray(picture), 40)) == (255, 128, 0)).all()
# antialiased: an average, not a pick
assert np.asarray(_cropped(Image.fromarray(np.uint8([[0, 100], [0, 100]])), 1)) == 50


# %% [markdown]
# Cropping loses what lies outside the square: of CelebA's 178 × 218 pixels the upper and lower 20
# rows, and with them hats and neckties. The authors' code squeezes the whole picture into the
# square instead, which makes faces a fifth wider. The third way keeps the whole picture in its
# proportions, between black bars.

# %%
#| export
def _squeezed(image: Image.Image, size: int) -> Image.Image:
    "The whole image, resized to a square with antialiasing."
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _padded(image: Image.Image, size: int) -> Image.Image:
    "The whole image in its proportions, centred between black bars."
    return ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR)


FITS = dict(crop=_cropped, squeeze=_squeezed, pad=_padded)  # by the setting's value

# %%
{fit: np.asarray(make(Image.fromarray(wide), 8))[:, 3, 0].tolist() for fit, make in FITS.items()}

# %% [markdown]
# The wide picture again, at 8 px. Cropped, the middle is orange from side to side. Squeezed, the
# columns are black, orange and black, blurred where they meet. Padded, the same row lies between
# two black bars of two rows each.

# %%
cut, squeezed, padded = (
    np.asarray(make(Image.fromarray(wide), 8))[..., 0] for make in FITS.values()
)
assert (
    (cut[:, 1:7] == 255).all()
    and (squeezed[:, 3:5] == 255).all()
    and (squeezed[:, [0, 7]] == 0).all()
)
assert (
    (padded[[0, 1, 6, 7]] == 0).all()
    and (padded[3:5, 3:5] == 255).all()
    and (padded[3:5, [0, 7]] == 0).all()
)


# %%
#| export
def decode_image(
    path: str | Path,  # An image file that PIL can read
    size: int,  # Side of the square, pixels
    fit: str = "crop",  # How a rectangle becomes a square: a key of `FITS`
) -> np.ndarray:  # uint8 (3, size, size), RGB
    """Decode an image and make it a square. Raises: FileNotFoundError, ValueError (damaged,
    more than 8 bits).
    """
    return np.asarray(FITS[fit](_read_rgb(path, 2 * size), size)).transpose(2, 0, 1)


# %%
Image.fromarray(wide).save(tmp / "wide.png")
decode_image(tmp / "wide.png", 4)[:, 1, 1]

# %%
assert decode_image(tmp / "wide.png", 4).shape == (3, 4, 4)
assert (
    decode_image(tmp / "wide.png", 40) == np.array([255, 128, 0], np.uint8)[:, None, None]
).all()
Image.fromarray(wide[..., 0]).save(tmp / "grey.png")
assert (decode_image(tmp / "grey.png", 8)[:, 1:-1, 1:-1] == 255).all()  # one channel becomes three
assert (
    decode_image(tmp / "wide.png", 4, "squeeze")[0, 0].tolist()
    == np.asarray(_squeezed(Image.fromarray(wide), 4))[0, :, 0].tolist()
)

# %% [markdown]
# At 32 px, the cheap decode of the smooth picture differs from the full one by less than one grey
# level on average.

# %%
full = np.asarray(
    Image.open(tmp / "smooth.jpg").resize((32, 32), Image.Resampling.BILINEAR)
).transpose(2, 0, 1)
difference = np.abs(decode_image(tmp / "smooth.jpg", 32).astype(float) - full)
print(f"mean {difference.mean():.2f}, largest {difference.max():.0f} of 255")
assert 0 < difference.mean() < 1


# %% [markdown]
# A reader passes this function to its data set, with the folder filled in. The set then loads the
# pixels of any rows of its table, in their order.

# %%
#| export
def load_images(
    root: Path,  # The folder that the paths are relative to
    rows: pd.DataFrame,  # Rows of a data set's table, with `path`
    size: int,  # Side of the squares, pixels
    fit: str = "crop",  # How a rectangle becomes a square: a key of `FITS`
) -> np.ndarray:  # uint8 (n, 3, size, size)
    "Decode the images of some rows, in their order."
    pixels = np.empty((len(rows), 3, size, size), np.uint8)
    for i, path in enumerate(rows["path"]):
        pixels[i] = decode_image(root / path, size, fit)
    return pixels


# %%
two = pd.DataFrame(dict(path=["grey.png", "wide.png"]))
load_images(tmp, two, 4)[:, :, 1, 1]

# %%
assert load_images(tmp, two, 4)[:, :, 1, 1].tolist() == [[255, 255, 255], [255, 128, 0]]
assert (
    load_images(tmp, two, 4, "pad")[:, :, 0, 0].tolist() == [[0] * 3] * 2
    and (load_images(tmp, two, 4)[1] == decode_image(tmp / "wide.png", 4)).all()
)
