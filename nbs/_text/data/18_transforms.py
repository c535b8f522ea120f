# %% [markdown]
# # Transforms
#
# > Augment and normalise a whole batch on the device, with random parameters per image

# %%
#| default_exp data.transforms

# %%
#| export
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

# %%
import matplotlib.pyplot as plt


# %% [markdown]
# The paper's training code flips, crops slightly, distorts, changes colours, blurs and adds noise.
# Image by image on the CPU, this costs more than decoding. Here it is done for a whole batch on the
# device, and each image draws its own parameters. torchvision's transforms draw one set of
# parameters per call, so geometry and colours are implemented here. Random numbers come from
# torch's generator on the images' device, which training seeds.
#
# ## Geometry
#
# Flip, crop, scale, shift, rotation and shear compose to *one* matrix per image, and one resampling
# applies it, because five resamplings would blur five times. The matrix maps each output pixel to a
# position in the input.

# %%
#| export
def _compose(flip: Tensor, zoom: Tensor, angle: Tensor, shear: Tensor, shift: Tensor) -> Tensor:
    """Matrices (n, 2, 3) from flip (±1), zoom, angle (radians) and tangent of the shear, each
    (n,), and shift (n, 2).
    """
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    linear = torch.stack(
        [
            torch.stack([cos * flip, (cos * shear - sin)], 1),
            torch.stack([sin * flip, sin * shear + cos], 1),
        ],
        1,
    )
    return torch.cat([linear, shift[:, :, None]], 2)


# %% [markdown]
# By hand: a flip mirrors x; a quarter turn sends x to y and y to −x, here at half the size; a shear of 0.1 moves x by a tenth of y.

# %%
one, none = torch.ones(1), torch.zeros(1)
mirrored = _compose(-one, one, none, none, torch.tensor([[0.2, 0.1]]))
turned = _compose(one, 0.5 * one, math.pi / 2 * one, none, torch.zeros(1, 2))
mirrored, turned

# %%
assert torch.allclose(mirrored[0], torch.tensor([[-1.0, 0, 0.2], [0, 1, 0.1]]))
assert torch.allclose(turned[0], torch.tensor([[0.0, -0.5, 0], [0.5, 0, 0]]), atol=1e-6)
assert torch.allclose(
    _compose(one, one, none, 0.1 * one, torch.zeros(1, 2))[0],
    torch.tensor([[1.0, 0.1, 0], [0, 1, 0]]),
)
assert torch.allclose(
    _compose(one, one, math.pi / 2 * one, 0.1 * one, torch.zeros(1, 2))[0, :, :2],
    torch.tensor([[0.0, -1], [1, 0.1]]),
    atol=1e-6,
)


# %%
#| export
def _affine_matrices(
    n: int,  # Number of matrices
    device: str | torch.device = "cpu",
) -> Tensor:  # (n, 2, 3): output to input coordinates, in [-1, 1]
    """Draw flip (half of the images), crop (up to 10 % of the side), scale 1–1.1, shift ±10 %,
    rotation ±15°, shear ±8°.
    Source: paper §4, public code; the crop's size is ours."""
    u = torch.rand(n, 8, device=device)
    flip, zoom = 1 - 2 * (u[:, 0] < 0.5).float(), (1 - 0.1 * u[:, 1]) / (1 + 0.1 * u[:, 2])
    angle = (2 * u[:, 3] - 1) * math.radians(15)
    shear = torch.tan((2 * u[:, 4] - 1) * math.radians(8))
    corner = 0.1 * u[:, 1:2] * (2 * u[:, 5:7] - 1)  # position of the crop in the image
    # ±10 % of a side that is 2 long
    shift = corner + 0.2 * (torch.rand(n, 2, device=device) * 2 - 1)
    return _compose(flip, zoom, angle, shear, shift)


# %% [markdown]
# Amounts are relative to the image's side, so one set of ranges fits every resolution.

# %%
torch.manual_seed(0)
_affine_matrices(2)

# %% [markdown]
# The area factor of a matrix is its determinant, ± zoom², and zoom lies between 0.9 / 1.1 and 1.
# Half of the matrices flip. No shift is larger than 0.1 + 0.2. The second column of the linear part
# does not depend on the flip: its length and the zoom give the shear, and the first column gives
# the angle. 4,000 draws nearly reach the ends of both ranges.

# %%
matrices = _affine_matrices(4000)
area = torch.linalg.det(matrices[:, :, :2])
assert (0.9 / 1.1) ** 2 - 1e-4 <= area.abs().min() < 0.7 and 0.99 < area.abs().max() <= 1 + 1e-4
assert 0.47 < (area < 0).float().mean() < 0.53 and 0.2 < matrices[:, :, 2].abs().max() <= 0.3
angle = torch.rad2deg(torch.atan(matrices[:, 1, 0] / matrices[:, 0, 0]))
assert 14.5 < angle.abs().max() <= 15.001
shear = torch.rad2deg(torch.acos((area.abs().sqrt() / matrices[:, :, 1].norm(dim=1)).clamp(max=1)))
assert 7.5 < shear.max() <= 8.01


# %% [markdown]
# `F.affine_grid` makes the sampling grid for any shape. For square images, one matrix product gives
# the grid at a third of the cost.

# %%
#| export
def _grid(matrices: Tensor, size: int) -> Tensor:
    "`F.affine_grid` for square images: each output pixel's source position, (n, size, size, 2)."
    at = (torch.arange(size, device=matrices.device) * 2 + 1) / size - 1
    places = torch.stack(
        [
            at.repeat(size),
            at.repeat_interleave(size),
            torch.ones(size * size, device=matrices.device),
        ],
        1,
    )
    return (places @ matrices.transpose(1, 2)).view(-1, size, size, 2)


# %% [markdown]
# The four pixels of a 2 × 2 image lie at ±½. Mirrored and shifted by (0.2, 0.1), the first one
# reads from (0.7, −0.4):

# %%
_grid(mirrored, 2)

# %%
assert torch.allclose(_grid(mirrored, 2)[0, 0], torch.tensor([[0.7, -0.4], [-0.3, -0.4]]))
assert torch.allclose(
    _grid(matrices[:3], 64),
    F.affine_grid(matrices[:3], [3, 3, 64, 64], align_corners=False),
    atol=1e-6,
)

# %% [markdown]
# ## Colours
#
# Brightness, contrast and saturation are linear in the three channels, so they compose to one 3 × 3 matrix and one offset. Contrast stretches about the image's mean grey, saturation about each pixel's own grey.

# %%
#| export
_GREY = (0.299, 0.587, 0.114)  # perceived brightness of red, green and blue (ITU-R BT.601)


def _colour_matrix(
    brightness: Tensor, contrast: Tensor, saturation: Tensor, mean: Tensor
) -> tuple[Tensor, Tensor]:
    "Matrices (n, 3, 3) and offsets (n, 3, 1) from factors and mean grey, each (n, 1, 1)."
    b, c, s, grey = brightness, contrast, saturation, torch.tensor(_GREY, device=mean.device)
    return c * b * (s * torch.eye(3, device=mean.device) + (1 - s) * grey.expand(3, 3)), (
        (1 - c) * b * mean
    ).expand(-1, 3, 1)


# %% [markdown]
# With saturation 0 the three channels become one grey. With contrast 0 every pixel becomes the
# mean, scaled by the brightness.

# %%
def factor(value):
    return torch.full((1, 1, 1), value)


red = torch.tensor([[1.0], [0.0], [0.0]])
grey_of_red, flat = (
    matrix @ red + offset
    for matrix, offset in (
        _colour_matrix(factor(1.0), factor(1.0), factor(0.0), factor(0.4)),
        _colour_matrix(factor(0.5), factor(0.0), factor(1.0), factor(0.4)),
    )
)
grey_of_red.flatten(), flat.flatten()

# %%
assert torch.allclose(grey_of_red.flatten(), torch.full((3,), 0.299)) and torch.allclose(
    flat.flatten(), torch.full((3,), 0.2)
)
matrix, offset = _colour_matrix(factor(1.0), factor(1.0), factor(1.0), factor(0.4))
assert torch.equal(matrix[0], torch.eye(3)) and not offset.any()


# %%
#| export
def _colour_matrices(
    x: Tensor,  # float (n, 3, S, S) in [0, 1]
) -> tuple[Tensor, Tensor]:  # (n, 3, 3) and (n, 3, 1): new colours = matrix · old + offset
    """Draw brightness 0.8–1.2, contrast 0.75–1.25 about the image's mean grey, saturation
    0.8–1.2. The ranges are ours.
    """
    widths = torch.tensor([0.2, 0.25, 0.2], device=x.device)[:, None, None, None]
    b, c, s = 1 + (2 * torch.rand(3, len(x), 1, 1, device=x.device) - 1) * widths
    # a sixteenth of the pixels is enough
    mean = (x[..., ::4, ::4].mean((2, 3)) @ torch.tensor(_GREY, device=x.device))[:, None, None]
    return _colour_matrix(b, c, s, mean)


# %% [markdown]
# A flat grey of 0.5 has no contrast and no saturation, so only the brightness changes it: the
# channels stay equal, between 0.4 and 0.6.

# %%
matrix, offset = _colour_matrices(torch.full((200, 3, 4, 4), 0.5))
grey = (matrix @ torch.full((3, 1), 0.5) + offset)[:, :, 0]
grey[:2]

# %% [markdown]
# A matrix also keeps greys grey: each of its rows sums to brightness · contrast. Its coefficient
# from green to red is (1 − saturation) · 0.587 of that sum.

# %%
assert (
    torch.allclose(grey, grey[:, :1].expand(-1, 3), atol=1e-6)
    and 0.4 <= grey.min() < 0.42
    and 0.58 < grey.max() <= 0.6
)
gain = matrix.sum(2)[:, 0]
assert (
    torch.allclose(matrix.sum(2), gain[:, None].expand(-1, 3), atol=1e-6)
    and 0.8 * 0.75 <= gain.min() < 0.7
    and 1.35 < gain.max() <= 1.5
)
saturation = 1 - matrix[:, 0, 1] / gain / 0.587
assert 0.799 <= saturation.min() < 0.82 and 1.18 < saturation.max() <= 1.201
contrast = gain / (grey[:, 0] / 0.5)
assert 0.749 <= contrast.min() < 0.77 and 1.23 < contrast.max() <= 1.251


# %% [markdown]
# ## Blur and noise
#
# The blur is a Gaussian of at most half a pixel: three weights (k, 1 − 2k, k) along each axis.
# torchvision's blur would draw one strength for the whole batch, and takes ten times as long on a
# CPU.

# %%
#| export
def _blur_each(
    x: Tensor,  # float (n, 3, S, S); changed in place
    k: Tensor,  # (n,), side weight of each image, 0 … 1/3; 0.1065 is a Gaussian of half a pixel
) -> Tensor:  # The same shape; the outermost rows and columns are blurred along one axis only
    "Blur each image with its own strength, in place."
    for axis in (2, 3):
        inner = x.shape[axis] - 2
        before, middle, after = (x.narrow(axis, start, inner) for start in range(3))
        middle.add_(torch.add(before, after).sub_(middle, alpha=2).mul_(k[:, None, None, None]))
    return x


# %%
point = torch.zeros(1, 1, 5, 5)
point[..., 2, 2] = 1
_blur_each(point.clone(), torch.tensor([0.1]))

# %%
# (.1, .8, .1) along both axes
by_hand = torch.tensor([[0.01, 0.08, 0.01], [0.08, 0.64, 0.08], [0.01, 0.08, 0.01]])
assert torch.allclose(_blur_each(point.clone(), torch.tensor([0.1]))[0, 0, 1:4, 1:4], by_hand)
assert torch.equal(_blur_each(point.clone(), torch.tensor([0.0])), point)
same = v2.functional.gaussian_blur(drawing := torch.rand(1, 3, 16, 16), [3, 3], [0.5, 0.5])
assert torch.allclose(
    _blur_each(drawing.clone(), torch.tensor([0.10650698]))[..., 1:-1, 1:-1],
    same[..., 1:-1, 1:-1],
    atol=1e-5,
)


# %% [markdown]
# The first half of a batch is blurred, and the last quarter gets noise. Batches are shuffled, so
# these images need not be drawn at random. If a half or a quarter is not a whole number of images,
# it is rounded up or down at random, so images in small batches are changed as often as those in
# large ones.

# %%
#| export
def _blur_and_noise(x: Tensor) -> Tensor:
    """Blur the first half of a batch and add noise to the last quarter, in place; `x` is float
    (n, 3, S, S) in [0, 1].
    """
    chance = torch.rand(()).item()  # rounds a half or a quarter of few images up or down
    blurred, noisy = x[: int(len(x) / 2 + chance)], x[len(x) - int(len(x) / 4 + chance) :]
    _blur_each(blurred, 0.1065 * torch.rand(len(blurred), device=x.device))
    noisy.addcmul_(
        torch.randn_like(noisy), 0.04 * torch.rand(len(noisy), 1, 1, 1, device=x.device)
    ).clamp_(0, 1)
    return x


# %% [markdown]
# Of eight white points on black, four are blurred, two get grey spots, and two do not change.

# %%
points = torch.zeros(8, 3, 9, 9)
points[:, :, 4, 4] = 1
changed = _blur_and_noise(points.clone())
[int((image > 0).sum()) for image in changed]

# %%
# blur only moves light
assert (changed[:4, :, 4, 4] < 1).all() and torch.allclose(
    changed[:4].sum((2, 3)), torch.ones(4, 3)
)
assert torch.equal(changed[4:6], points[4:6]) and 0 <= changed.min() and changed.max() <= 1
# half of the noise is below black
assert 0.3 < (changed[6:] > 0).float().mean() < 0.7 and changed[6:, :, 0].max() < 0.04 * 5
blurs = [int((_blur_and_noise(points[:1].clone())[0, 0, 4, 4] < 1).item()) for _ in range(400)]
assert 120 < sum(blurs) < 280  # a single image: in half of the calls, or a little less


# %% [markdown]
# One torchvision transform does all of it. Outside the picture, its border pixels are repeated.

# %%
#| export
class PerImage(v2.Transform):
    """An affine map and a colour change for each image, blur for the first half of a batch,
    noise for the last quarter; all drawn per image.
    """

    def transform(self, x: Tensor, params: dict) -> Tensor:
        "`x` is float (n, 3, S, S) in [0, 1], and so is the result."
        grid = _grid(_affine_matrices(len(x), x.device), x.shape[-1])
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        matrix, offset = _colour_matrices(x)
        return _blur_and_noise(torch.baddbmm(offset, matrix, x.flatten(2)).view_as(x).clamp_(0, 1))


# %% [markdown]
# A drawing, followed by seven augmented copies:

# %%
#| fig-alt: A disc with a spot, and seven copies: mirrored, turned, larger, cut, recoloured, blurred
y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
drawing = torch.stack(
    [
        0.2 + 0.6 * (x**2 + y**2 < 0.6),
        0.5 + 0.3 * x,
        ((x - 0.3) ** 2 + (y + 0.2) ** 2 < 0.02).float(),
    ]
)
torch.manual_seed(1)
shown = torch.cat([drawing[None], PerImage()(drawing.repeat(7, 1, 1, 1))])
fig, axes = plt.subplots(1, 8, figsize=(8, 1.2))
for ax, image in zip(axes, shown):
    ax.imshow(image.permute(1, 2, 0).clamp(0, 1))
    ax.axis("off")

# %% [markdown]
# Each image differs from the others, the same seed reproduces them, values stay in [0, 1], and the
# input does not change.

# %%
batch = drawing.repeat(7, 1, 1, 1)
assert (
    (shown[1:] - shown[1]).abs().amax((1, 2, 3))[1:].min() > 0.1
    and 0 <= shown.min()
    and shown.max() < 1 + 1e-5
)
torch.manual_seed(1)
assert torch.equal(PerImage()(batch), shown[1:]) and torch.equal(batch, drawing.repeat(7, 1, 1, 1))
torch.manual_seed(2)
matrices, state = _affine_matrices(1), torch.get_rng_state()
moved = F.grid_sample(
    drawing[None],
    F.affine_grid(matrices, [1, 3, 64, 64], align_corners=False),
    padding_mode="border",
    align_corners=False,
)
matrix, offset = _colour_matrices(moved)
torch.manual_seed(2)  # the same numbers again, with torch's own grid
alike = (
    PerImage()(drawing[None])
    - torch.einsum("nij,njhw->nihw", matrix, moved).add(offset[..., None]).clamp(0, 1)
).abs()
assert alike.median() < 0.02 and alike.mean() < 0.05


# %% [markdown]
# ## Choosing an augmentation
#
# A run can choose flips only, or no augmentation.

# %%
#| export
class FlipEach(v2.Transform):
    "Flip each image of a batch with probability a half."

    def transform(self, x: Tensor, params: dict) -> Tensor:
        "`x` is (n, 3, S, S)."
        return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)


# %%
flipped = FlipEach()(drawing.repeat(400, 1, 1, 1))
changed = (flipped != drawing).flatten(1).any(1)
changed.float().mean()

# %%
assert 0.4 < changed.float().mean() < 0.6 and torch.equal(flipped[changed][0], drawing.flip(2))

# %%
#| export
AUGMENTATIONS = ["paper", "flip", "none"]


def augmentation(
    kind: str = "paper",  # 'paper', 'flip' or 'none'
    size: int = 64,  # Side of the images, pixels; all amounts but the blur are relative to it
) -> nn.Module:  # float (n, 3, size, size) in [0, 1] -> the same
    """The augmentation of a batch, random per image. Raises: ValueError (unknown kind). Source:
    paper §4, public code.
    """
    if kind not in AUGMENTATIONS:
        raise ValueError(f"unknown augmentation {kind!r}: choose one of {', '.join(AUGMENTATIONS)}")
    return dict(paper=PerImage, flip=FlipEach, none=nn.Identity)[kind]()


# %% [markdown]
# The names are those of a run's settings. A misspelt name raises an error before any image is read.

# %%
[augmentation(kind) for kind in AUGMENTATIONS]

# %%
assert (
    isinstance(augmentation("paper"), PerImage)
    and isinstance(augmentation("flip"), FlipEach)
    and augmentation("none")(batch) is batch
)
try:
    augmentation("heavy")
except ValueError as e:
    print(e)
else:
    raise AssertionError("an unknown augmentation was accepted")

# %% [markdown]
# ## Normalisation
#
# Every torchvision backbone expects images with ImageNet's mean subtracted, divided by its standard
# deviation. The result may overwrite the input, which saves the memory of a batch.

# %%
#| export
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(
    x: Tensor,  # float (n, 3, S, S) in [0, 1]
    out: Tensor | None = None,  # Where to put the result; may be `x` itself
) -> Tensor:  # (n, 3, S, S): (x − mean) / std, per channel
    "Normalise with ImageNet's statistics."
    mean, std = (
        torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None]
        for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return torch.sub(x, mean, out=out).div_(std)


# %%
normalise(torch.full((1, 3, 1, 1), 0.485)).flatten()

# %%
assert torch.allclose(
    normalise(torch.tensor(IMAGENET_MEAN)[None, :, None, None]), torch.zeros(1, 3, 1, 1)
)
# one deviation above
assert torch.allclose(
    normalise(torch.tensor([[0.714, 0.68, 0.631]])[:, :, None, None]),
    torch.ones(1, 3, 1, 1),
    atol=1e-6,
)
assert normalise(same := torch.ones(1, 3, 2, 2), same) is same  # in place
