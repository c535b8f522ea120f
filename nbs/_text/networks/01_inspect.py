# %% [markdown]
# # Networks
#
# > Where a network's head is, what it sees, and whether the network is fit for a run

# %%
#| default_exp networks.inspect

# %%
#| export
import warnings
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fairgrape.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from fairgrape.method.masks import check_weight
from fairgrape.networks.builders import network_builder

# %%
import math
from unittest.mock import patch

from fairgrape.data.transforms import normalise
from fairgrape.networks.builders import NETWORKS, plain_model

# %% [markdown]
# [Builders](02_builders.ipynb) make a plain network of a name; their names are handed on.

# %% [markdown]
# ## The head
#
# The head is the last layer with prunable weights: `fc` in the ResNets, `classifier.1` in MobileNetV2, and in SqueezeNet a 1×1 convolution whose
# maps are averaged. Finding it by its place spares a table of names that would have to be kept in step with two libraries.

# %%
#| export
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)  # Layers whose weights can be pruned


def head_name(
    model: nn.Module,  # A network that ends in a Linear or convolution layer
) -> str:  # The layer's dotted name, as in `named_modules`
    "Name the layer that makes the outputs: the last Linear or convolution."
    return [name for name, m in model.named_modules() if isinstance(m, LAYERS)][-1]


# %%
{name: head_name(plain_model(name, 2)) for name in [*NETWORKS, "squeezenet1_1", "timm:test_vit"]}

# %%
small = plain_model("resnet10", 7)
assert head_name(small) == "fc" and head_name(plain_model("mobilenet_v2", 2)) == "classifier.1"
assert isinstance(plain_model("squeezenet1_1", 2).get_submodule("classifier.1"), nn.Conv2d)
assert head_name(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == "0"


# %% [markdown]
# What the head sees is the network's own description of an image, and images can be compared or clustered by it. A hook on the head
# collects it, so that this works for networks of any make. Where the head is a convolution its input still has height and width, and they are averaged.

# %%
#| export
@torch.no_grad()
def penultimate(
    model: nn.Module,  # The network; evaluation or training mode stays as it is
    x: Tensor,  # Normalised images, shape (B, 3, S, S)
) -> Tensor:  # What enters the head, float32, shape (B, d)
    "The features from which the head makes the outputs."
    taken = []
    hook = model.get_submodule(head_name(model)).register_forward_pre_hook(
        lambda _, inputs: taken.append(inputs[0])
    )
    try:
        model(x)
    finally:
        hook.remove()
    features = taken[-1].float()
    return features.mean((2, 3)) if features.dim() == 4 else features.flatten(1)


# %%
x = torch.rand(4, 3, 32, 32)
{
    name: tuple(penultimate(plain_model(name, 2).eval(), x).shape)
    for name in ("resnet10", "mobilenet_v2", "squeezenet1_1")
}

# %%
# the head makes the outputs of just this
assert torch.allclose(small.eval().fc(penultimate(small, x)), small(x), atol=1e-6)
assert not small.fc._forward_pre_hooks and not small.training
# a head that is a convolution, on 2 × 2
pixels = torch.tensor([[[[1.0, 2], [3, 4]], [[0, 0], [0, 4]]]])
assert penultimate(nn.Sequential(nn.Conv2d(2, 5, 1)), pixels).tolist() == [[2.5, 1.0]]


# %% [markdown]
# ## Does it fit?
#
# A run should learn before it decodes a hundred thousand images that a network is not for it. So one is built without memory for its
# weights (on PyTorch's `meta` device). The class below turns every `torch.empty`, of which layers make their weights, into a tensor without memory and leaves all other arithmetic alone, since
# some constructors calculate.

# %%
#| export
class _WithoutMemory(TorchFunctionMode):
    "Inside, `torch.empty` gives tensors that have a shape and no values"

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(
            *args, **((kwargs or {}) | (dict(device="meta") if function is torch.empty else {}))
        )


# %%
with _WithoutMemory():
    layer, one = nn.Linear(10**6, 10**6), torch.ones(1)
layer.weight.shape, layer.weight.device, one.item()

# %%
assert (
    layer.weight.is_meta
    and layer.bias.is_meta
    and one.device.type == "cpu"
    and not nn.Linear(1, 1).weight.is_meta
)

# %% [markdown]
# A few networks measure themselves while they are built, and without values there is nothing to measure: those are built with memory, which is given back at once. Each is asked for 997 outputs, a number that no inner layer has by chance.

# %%
#| export
PROBE = 997  # Outputs asked for when a network's structure is looked at


def _built_without_memory(build: Callable) -> nn.Module:
    "The network that `build` makes, with `PROBE` outputs, on the meta device."
    try:
        with _WithoutMemory():
            return build(num_classes=PROBE).to("meta")
    # it measures itself while it is built
    except RuntimeError:
        return build(num_classes=PROBE).to("meta")


# %%
def measured(num_classes):
    layer = nn.Linear(3, num_classes)
    if layer.weight.sum().item() > 0:
        pass  # a tensor without memory has no sum
    return layer


large = _built_without_memory(network_builder("regnet_y_32gf"))  # 141 million weights in no memory
large.fc.weight.shape, large.fc.weight.device

# %%
assert large.fc.weight.is_meta and large.fc.weight.shape == (997, 3712)
assert _built_without_memory(measured).weight.is_meta and _built_without_memory(
    measured
).weight.shape == (997, 3)


# %% [markdown]
# Two images that do not exist either go through it. Networks fail in as many ways as there are authors, so whatever goes wrong is taken as the reason, its first line at least. The answer is remembered: a sweep asks the same thing hundreds of times.

# %%
#| export
@cache
def probe_network(
    network: str,  # A known name, as for `plain_model`
    image_size: int,  # Side of the square images, pixels
    # The network on the meta device; or None and why it cannot take such images
) -> tuple[nn.Module | None, str]:
    "Build a network without memory and send two images through it."
    build = network_builder(network, image_size)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = _built_without_memory(build)
            out = model.train()(torch.empty((2, 3, image_size, image_size), device="meta"))
        except Exception as e:
            return None, str(e).strip().split("\n")[0][:160] or type(e).__name__
    got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    return (model, "") if got == (2, PROBE) else (None, f"it gives {got} instead of (2, {PROBE})")


# %%
probe_network("alexnet", 32)[1]

# %%
state = torch.random.get_rng_state()
model, why = probe_network("resnet18", 32)
assert model.fc.weight.is_meta and why == "" and probe_network("resnet18", 32)[0] is model
assert probe_network("vit_b_16", 40)[0] is None and torch.equal(state, torch.random.get_rng_state())
with patch.dict(
    NETWORKS,
    pair=(
        lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes + 1)),
        None,
    ),
):
    assert probe_network("pair", 32) == (None, "it gives (2, 998) instead of (2, 997)")


def fails(error):
    def build(num_classes):
        raise error

    return build


with patch.dict(
    NETWORKS, two_lines=(fails(TypeError("no\nand why")), None), silent=(fails(TypeError()), None)
):
    assert (
        probe_network("two_lines", 32)[1] == "no" and probe_network("silent", 32)[1] == "TypeError"
    )


# %% [markdown]
# Who is told that a size is wrong wants a size that is right, and the nearest.

# %%
#| export
def _fitting_size(network: str, image_size: int) -> int | None:
    "The usual size nearest to this one that the network takes; None where it takes none."
    sizes = sorted(
        (32, 48, 64, 96, 128, 160, 192, 224, 240, 256, 299, 384, 448),
        key=lambda s: (abs(s - image_size), s),
    )
    return next((s for s in sizes if probe_network(network, s)[0] is not None), None)


# %%
{name: _fitting_size(name, 40) for name in ("resnet18", "vit_b_16", "alexnet")}

# %%
assert (
    _fitting_size("vit_b_16", 40) == 32
    and _fitting_size("inception_v3", 64) == 96
    and _fitting_size("alexnet", 40) == 64
)


# %% [markdown]
# A network that runs may still be unfit: nothing in it can be pruned, a layer standardises its weights so that [pruned zeros would act](../method/04_masks.ipynb), its outputs are made by more than one
# layer (distilled transformers have two heads), or it refuses weights that come back from a file. The last befalls torchvision's MNASNets: they insist
# on a version number that pickled weights carry and safetensors do not.

# %%
#| export
def _check_structure(network: str, model: nn.Module) -> str:
    """The head's name of a network with `PROBE` outputs. Raises: ValueError where it cannot be
    pruned or kept.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LAYERS)}
    if not layers:
        raise ValueError(
            f"network = {network!r} has no Conv1d, Conv2d or Linear layer, so nothing in it can be"
            " pruned: choose another"
        )
    for name, layer in layers.items():
        try:
            check_weight(name, layer)
        except ValueError as e:
            raise ValueError(
                f"network = {network!r} cannot be pruned: weights at 0 would not stay out of what "
                f"its layer {name} ({type(layer).__name__}) computes: choose another"
            ) from e
    heads = [n for n, m in layers.items() if len(m.weight) == PROBE]
    if heads != [head_name(model)]:
        raise ValueError(
            f"network = {network!r}: its outputs must come from one last layer, not from"
            f" {' and '.join(heads) or 'none'}: choose another"
        )
    try:
        model.load_state_dict(dict(model.state_dict()))
    except ValueError as e:
        raise ValueError(
            f"network = {network!r} does not take weights back from a file ({e}): choose another"
        ) from e
    return heads[0]


# %%
class Standardised(nn.Conv2d):
    "Its weights have mean 0 and deviation 1 in each row"

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class Versioned(nn.Linear):
    "Like the MNASNets"

    def _load_from_state_dict(self, state, prefix, metadata, *args):
        if "version" not in metadata:
            raise ValueError("no version")
        super()._load_from_state_dict(state, prefix, metadata, *args)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, PROBE), nn.Linear(4, PROBE)


for model, hint in [
    (nn.Sequential(nn.ReLU()), "nothing in it can be pruned"),
    (TwoHeads(), "not from a and b"),
    (nn.Sequential(nn.Linear(4, PROBE), nn.Linear(4, 4)), "not from 0"),
    (nn.Sequential(nn.Linear(4, 4)), "not from none"),
    (nn.Sequential(Versioned(4, PROBE)), "back from a file (no version)"),
    (
        nn.Sequential(Standardised(3, 4, 3), nn.Linear(4, PROBE)),
        "its layer 0 (Standardised) computes",
    ),
]:
    try:
        _check_structure("mine", model)
    except ValueError as e:
        print(e)
        assert hint in str(e)
    else:
        raise AssertionError("an unfit network was accepted")
assert _check_structure("mine", nn.Sequential(nn.Linear(3, 4), nn.Linear(4, PROBE))) == "1"


# %%
#| export
def check_network(
    network: str,  # A name in `NETWORKS`, a classifier of torchvision's, or 'timm:NAME'
    outputs: int = 2,  # Rows of the head
    image_size: int = 224,  # Side of the square images, pixels
) -> str:  # Name of its head layer
    """Check before any work that a network can be built, run, pruned and kept. Raises:
    ValueError that says why not.
    """
    if outputs < 1:
        raise ValueError(f"outputs = {outputs}: a network needs at least 1 output")
    model, why = probe_network(network, image_size)
    if model is not None:
        return _check_structure(network, model)
    fits = _fitting_size(network, image_size)
    raise ValueError(
        f"network = {network!r} cannot take images of image_size = {image_size} ({why})"
        + (f": {fits} would do" if fits else ": choose another network")
    )


# %% [markdown]
# One question for all of it, by the name in a run's settings:

# %%
{
    name: check_network(name, 7, 64)
    for name in ("resnet34", "vgg16", "vit_b_16", "swin_t", "timm:test_efficientnet")
}

# %%
assert check_network("squeezenet1_0", image_size=32) == "classifier.1"
assert check_network("efficientnet_lite0", image_size=48) == "classifier"


def pooled(num_classes):
    # takes no images of any size
    return nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(1), nn.AdaptiveAvgPool1d(num_classes))


with patch.dict(NETWORKS, average=(pooled, None)):
    for name, size, hint in [
        ("inception_v3", 64, "96 would do"),
        ("vit_b_16", 40, "32 would do"),
        ("mnasnet0_5", 64, "back from a file"),
        ("timm:levit_128", 224, "head.linear and head_dist.linear"),
        ("timm:test_nfnet", 64, "layer stem.conv1 (ScaledStdConv2d)"),
        ("average", 32, "choose another network"),
        ("resnet35", 224, "resnet34"),
    ]:
        try:
            check_network(name, image_size=size)
        except ValueError as e:
            print(e)
            assert hint in str(e)
        else:
            raise AssertionError(f"{name} was accepted")
try:
    check_network("resnet18", outputs=0)
except ValueError as e:
    print(e)
else:
    raise AssertionError("a network without an output was accepted")


# %% [markdown]
# ## Other colours
#
# Weights that were trained on [another normalisation](02_builders.ipynb) than ImageNet's can be fitted to it. The difference between two normalisations is linear in each channel, so the first convolution can absorb it: with $z$ what the network gets and
# $a z + b$ what it was trained on, $W(az + b) = (Wa)z + Wb$, and the constant $Wb$ goes into the bias or the running mean of the batch norm that
# follows. No layer is added, and the network stays timm's. One thing is inexact: the zeros around the image, which meant mid grey and now mean
# ImageNet's average colour.
#
# Some first layers do more than multiply: they standardise their own weights. So the layer is tried out on random pixels, and where its answer changes, it gets its weights back.

# %%
#| export
@torch.no_grad()
def _rescale(
    conv: nn.Conv2d, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]
) -> Tensor | None:
    """Fit `conv`'s weights to images normalised with `new`, not `old` (mean and std, each (1,
    3, 1, 1)); the constant that they now lack, (C,), or None and as it was.
    """
    side, weight = 8 * max(conv.kernel_size), conv.weight.clone()
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    constant = (weight * (new[0] - old[0]) / old[1]).sum((1, 2, 3))
    before = conv((x - old[0]) / old[1])
    conv.weight *= new[1] / old[1]
    change = conv((x - new[0]) / new[1]) + constant[:, None, None] - before
    # 3: without the border
    if change[..., 3:-3, 3:-3].abs().max() > 1e-3 * before.abs().max():
        conv.weight.copy_(weight)
        return None
    return constant


# %% [markdown]
# One weight by hand. It was trained on $(p - 0.5)/0.5$; the red channel's pixel is $p = 0.229 z + 0.485$, so $w = 1$ becomes $0.458$ and lacks $-0.03$. And a layer that divides its weights by their own size:

# %%
def one_weight():
    conv = nn.Conv2d(3, 1, 1)
    nn.init.zeros_(conv.weight), nn.init.zeros_(conv.bias)
    conv.weight.data[0, 0] = 1
    return conv


half = (torch.full((1, 3, 1, 1), 0.5),) * 2
imagenet = tuple(torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
conv, unfit = one_weight(), Standardised(3, 4, 3)
given = unfit.weight.clone()
_rescale(conv, half, imagenet), conv.weight.flatten(), _rescale(unfit, half, imagenet)

# %%
assert math.isclose(conv.weight[0, 0].item(), 0.458, rel_tol=1e-6) and math.isclose(
    _rescale(one_weight(), half, imagenet).item(), -0.03, rel_tol=1e-5
)
assert _rescale(unfit, half, imagenet) is None and torch.equal(unfit.weight, given)


# %% [markdown]
# The constant needs a place: a bias, or a batch norm right after the convolution, which subtracts a mean anyway. Without one the convolution is left alone.

# %%
#| export
@torch.no_grad()
def _absorb(
    conv: nn.Conv2d, norm: nn.Module | None, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]
) -> bool:
    "Let `conv` take images normalised with `new` as if with `old`; whether it could."
    if conv.bias is None and getattr(norm, "num_features", 0) != conv.out_channels:
        return False
    constant = _rescale(conv, old, new)
    if constant is None:
        return False
    if conv.bias is not None:
        conv.bias += constant
    else:
        norm.running_mean -= constant
    return True


# %%
conv, norm = one_weight(), nn.BatchNorm2d(1)
bare = one_weight()
bare.bias = None
(
    _absorb(conv, None, half, imagenet),
    conv.bias,
    _absorb(bare, norm, half, imagenet),
    norm.running_mean,
)

# %%
assert math.isclose(conv.bias.item(), -0.03, rel_tol=1e-5) and math.isclose(
    norm.running_mean.item(), 0.03, rel_tol=1e-5
)
bare = one_weight()
bare.bias = None
assert (
    _absorb(one_weight(), None, half, imagenet)
    and not _absorb(bare, None, half, imagenet)
    and not _absorb(bare, nn.BatchNorm2d(2), half, imagenet)
    and bare.weight[0, 0] == 1
)
assert not _absorb(unfit, None, half, imagenet)


# %% [markdown]
# In some networks several convolutions see the image side by side, and then there is no single one to change.

# %%
#| export
def _first_convolution(model: nn.Module) -> tuple[nn.Conv2d | None, nn.Module | None]:
    """The one convolution that takes three channels, and the batch norm after it; None for what
    there is not.
    """
    layers = list(model.modules())
    first = [
        i
        for i, layer in enumerate(layers)
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3 and layer.groups == 1
    ]
    if len(first) != 1:
        return None, None
    return layers[first[0]], next(
        (layer for layer in layers[first[0] :] if isinstance(layer, nn.BatchNorm2d)), None
    )


# %%
_first_convolution(small)

# %%
assert _first_convolution(small) == (small.conv1, small.bn1) and _first_convolution(
    nn.Sequential(nn.BatchNorm2d(3), conv)
) == (conv, None)
assert (
    _first_convolution(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1)))
    == (None, None)
    == _first_convolution(nn.Linear(3, 4))
)
assert _first_convolution(nn.Conv2d(3, 3, 3, groups=3)) == (None, None)


# %%
#| export
@torch.no_grad()
def fold_normalisation(
    model: nn.Module,  # The network, changed in place
    mean: Sequence[float],  # What its weights expect subtracted, a channel, of pixels in [0, 1]
    std: Sequence[float],  # What its weights expect divided by, a channel
) -> nn.Module:  # The same network, for images in ImageNet's normalisation
    """Let the first convolution absorb the difference between two normalisations; warn where it
    cannot.
    """
    old, new = (
        tuple(torch.tensor(v).view(1, 3, 1, 1) for v in pair)
        for pair in ((mean, std), (IMAGENET_MEAN, IMAGENET_STD))
    )
    if torch.equal(old[0], new[0]) and torch.equal(old[1], new[1]):
        return model
    conv, norm = _first_convolution(model)
    if conv is None or not _absorb(conv, norm, old, new):
        warnings.warn(
            f"these weights expect images normalised with mean {tuple(mean)} and std {tuple(std)},"
            " get ImageNet's, and have no single first convolution that could absorb the"
            " difference: they start a little off",
            stacklevel=2,
        )
    return model


# %% [markdown]
# Without a border the two are the same function, to rounding, with a bias and with batch norm. Two networks that cannot are told so, and stay as they were:

# %%
pixels, half = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), (0.5, 0.5, 0.5)
for net in (
    nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
    nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
):
    before = net.eval()((pixels - 0.5) / 0.5)
    after = fold_normalisation(net, half, half)(normalise(pixels.clone()))
    print((before - after).abs().max().item())
    assert torch.allclose(before, after, atol=1e-5)

# %%
for net in (
    nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.GroupNorm(2, 4)),
    nn.Sequential(nn.Flatten(), nn.Linear(3, 4)),
    plain_model("timm:test_nfnet", 2),
):
    weight = next(net.parameters()).clone()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fold_normalisation(net, half, half)
    assert torch.equal(next(net.parameters()), weight) and "could absorb the difference" in str(
        said[0].message
    )
print(said[0].message)
kept = small.conv1.weight.clone()
# nothing to do
assert torch.equal(fold_normalisation(small, IMAGENET_MEAN, IMAGENET_STD).conv1.weight, kept)
# another deviation alone
assert torch.allclose(
    fold_normalisation(one_weight(), IMAGENET_MEAN, half).weight[0, 0], torch.tensor(0.458)
)
other_mean = fold_normalisation(one_weight(), half, IMAGENET_STD)  # another mean alone
assert other_mean.weight[0, 0] == 1 and math.isclose(
    other_mean.bias.item(), (0.485 - 0.5) / 0.229, rel_tol=1e-4
)
