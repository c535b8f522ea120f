# %% [markdown]
# # Networks
#
# > Find a network's head and its input features, and check that the network is fit for a run

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
# [Builders](02_builders.ipynb) make a plain network from a name. This notebook inspects such a
# network.

# %% [markdown]
# ## The head
#
# The head is the last layer with prunable weights: `fc` in the ResNets, `classifier.1` in
# MobileNetV2, and in SqueezeNet a 1×1 convolution whose maps are averaged. It is found by its
# position, so no table of names has to follow the changes of two libraries.

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
# The input of the head describes an image, so images can be compared or clustered by it. A hook on
# the head collects it, which works for any network. If the head is a convolution, its input still
# has height and width, over which it is averaged.

# %%
#| export
@torch.no_grad()
def penultimate(
    model: nn.Module,  # The network; evaluation or training mode stays as it is
    x: Tensor,  # Normalised images, shape (B, 3, S, S)
) -> Tensor:  # The input of the head, float32, shape (B, d)
    "The features from which the head computes the outputs."
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
# the head computes the outputs from exactly these features
assert torch.allclose(small.eval().fc(penultimate(small, x)), small(x), atol=1e-6)
assert not small.fc._forward_pre_hooks and not small.training
# a head that is a convolution, on 2 × 2
pixels = torch.tensor([[[[1.0, 2], [3, 4]], [[0, 0], [0, 4]]]])
assert penultimate(nn.Sequential(nn.Conv2d(2, 5, 1)), pixels).tolist() == [[2.5, 1.0]]


# %% [markdown]
# ## Is it fit for a run?
#
# A run should find out that a network is unfit before it decodes a hundred thousand images. So the
# network is built without memory for its weights (on PyTorch's `meta` device). Layers create their
# weights with `torch.empty`. The class below makes each `torch.empty` return a tensor without
# memory, and leaves all other arithmetic unchanged, because some constructors calculate.

# %%
#| export
class _WithoutMemory(TorchFunctionMode):
    "Inside this context, `torch.empty` returns tensors with a shape and no values."

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.empty:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


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
# The constructors of a few networks need the values of their weights. Such a network is built with
# memory, which is freed at once. Each network gets 997 outputs, a number that no inner layer has by
# chance.

# %%
#| export
_PROBE = 997  # Number of outputs when a network's structure is inspected


def _built_without_memory(build: Callable) -> nn.Module:
    "The network that `build` makes, with `_PROBE` outputs, on the meta device."
    try:
        with _WithoutMemory():
            return build(num_classes=_PROBE).to("meta")
    # the constructor needs the values of the weights
    except RuntimeError:
        return build(num_classes=_PROBE).to("meta")


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
# Two images without memory pass through the network. Networks raise many kinds of errors, so the
# first line of any error is taken as the reason. The answer is cached, because a sweep asks the
# same question hundreds of times.

# %%
#| export
@cache
def probe_network(
    network: str,  # A known name, as for `plain_model`
    image_size: int,  # Side of the square images, pixels
    # The network on the meta device and ""; or None and why it cannot take such images
) -> tuple[nn.Module | None, str]:
    "Build a network without memory and pass two images through it."
    build = network_builder(network, image_size)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = _built_without_memory(build)
            out = model.train()(torch.empty((2, 3, image_size, image_size), device="meta"))
        except Exception as e:
            return None, str(e).strip().split("\n")[0][:160] or type(e).__name__
    got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    return (model, "") if got == (2, _PROBE) else (None, f"it gives {got} instead of (2, {_PROBE})")


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
# The error for a wrong size suggests the nearest size that works.

# %%
#| export
def _fitting_size(network: str, image_size: int) -> int | None:
    "The nearest usual size that the network accepts; None if it accepts none."
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
# A network that runs may still be unfit. It may have nothing to prune, a layer may standardise its
# weights so that [pruned zeros still have an effect](../method/04_masks.ipynb), more than one layer
# may make its outputs (distilled transformers have two heads), or it may not load weights from a
# file. The last is true of torchvision's MNASNets: they need a version number that pickled weights
# carry and safetensors do not.

# %%
#| export
def _check_structure(network: str, model: nn.Module) -> str:
    """The name of the head of a network with `_PROBE` outputs. Raises: ValueError if the network
    cannot be pruned or saved.
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
                f"network = {network!r} cannot be pruned, because weights at 0 would still affect"
                f" its layer {name} ({type(layer).__name__}): choose another"
            ) from e
    heads = [n for n, m in layers.items() if len(m.weight) == _PROBE]
    if heads != [head_name(model)]:
        raise ValueError(
            f"network = {network!r}: its outputs must come from one last layer, not from"
            f" {' and '.join(heads) or 'none'}: choose another"
        )
    try:
        model.load_state_dict(dict(model.state_dict()))
    except ValueError as e:
        raise ValueError(
            f"network = {network!r} cannot load its weights from a file ({e}): choose another"
        ) from e
    return heads[0]


# %%
class Standardised(nn.Conv2d):
    "Its weights have mean 0 and standard deviation 1 in each row."

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class Versioned(nn.Linear):
    "Like the MNASNets."

    def _load_from_state_dict(self, state, prefix, metadata, *args):
        if "version" not in metadata:
            raise ValueError("no version")
        super()._load_from_state_dict(state, prefix, metadata, *args)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, _PROBE), nn.Linear(4, _PROBE)


for model, hint in [
    (nn.Sequential(nn.ReLU()), "nothing in it can be pruned"),
    (TwoHeads(), "not from a and b"),
    (nn.Sequential(nn.Linear(4, _PROBE), nn.Linear(4, 4)), "not from 0"),
    (nn.Sequential(nn.Linear(4, 4)), "not from none"),
    (nn.Sequential(Versioned(4, _PROBE)), "cannot load its weights from a file (no version)"),
    (
        nn.Sequential(Standardised(3, 4, 3), nn.Linear(4, _PROBE)),
        "would still affect its layer 0 (Standardised)",
    ),
]:
    try:
        _check_structure("mine", model)
    except ValueError as e:
        print(e)
        assert hint in str(e)
    else:
        raise AssertionError("an unfit network was accepted")
assert _check_structure("mine", nn.Sequential(nn.Linear(3, 4), nn.Linear(4, _PROBE))) == "1"


# %%
#| export
def check_network(
    network: str,  # A name in `NETWORKS`, a classifier of torchvision's, or 'timm:NAME'
    outputs: int = 2,  # Rows of the head
    image_size: int = 224,  # Side of the square images, pixels
) -> str:  # Name of its head layer
    """Check before any work that a network can be built, run, pruned and saved. Raises:
    ValueError with the reason.
    """
    if outputs < 1:
        raise ValueError(f"outputs = {outputs}: a network needs at least 1 output")
    model, why = probe_network(network, image_size)
    if model is not None:
        return _check_structure(network, model)
    fits = _fitting_size(network, image_size)
    raise ValueError(
        f"network = {network!r} cannot take images of image_size = {image_size} ({why})"
        + (f": use image_size = {fits}" if fits else ": choose another network")
    )


# %% [markdown]
# `check_network` makes all these checks, by the name in a run's settings:

# %%
{
    name: check_network(name, 7, 64)
    for name in ("resnet34", "vgg16", "vit_b_16", "swin_t", "timm:test_efficientnet")
}

# %%
assert check_network("squeezenet1_0", image_size=32) == "classifier.1"
assert check_network("efficientnet_lite0", image_size=48) == "classifier"


def pooled(num_classes):
    # accepts no images of any size
    return nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(1), nn.AdaptiveAvgPool1d(num_classes))


with patch.dict(NETWORKS, average=(pooled, None)):
    for name, size, hint in [
        ("inception_v3", 64, "use image_size = 96"),
        ("vit_b_16", 40, "use image_size = 32"),
        ("mnasnet0_5", 64, "cannot load its weights from a file"),
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
# ## Other normalisations
#
# Weights that were trained with [another normalisation](02_builders.ipynb) can be adapted to
# ImageNet's. The difference between two normalisations is linear in each channel, so the first
# convolution can absorb it. If the network gets $z$ and was trained on $a z + b$, then $W(az + b) =
# (Wa)z + Wb$, and the constant $Wb$ goes into the bias, or into the running mean of the batch norm
# that follows. No layer is added, and the network remains timm's. Only the border is inexact: the
# zeros around the image used to mean mid grey and now mean ImageNet's average colour.
#
# Some first layers also standardise their own weights. So the layer is tested on random pixels, and
# if its output changes, its weights are restored.

# %%
#| export
@torch.no_grad()
def _rescale(
    conv: nn.Conv2d, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]
) -> Tensor | None:
    """Adapt `conv`'s weights to images normalised with `new` instead of `old` (mean and std, each
    (1, 3, 1, 1)). Returns the constant to add to its output, (C,), or None with `conv` unchanged.
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
# One weight by hand. It was trained on $(p - 0.5)/0.5$, and a pixel of the red channel is $p =
# 0.229 z + 0.485$, so $w = 1$ becomes $0.458$, and $-0.03$ must be added. The second layer
# standardises its weights, so it is left unchanged:

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
# The constant goes into a bias, or into a batch norm right after the convolution, which subtracts a
# mean anyway. If there is neither, the convolution does not change.

# %%
#| export
@torch.no_grad()
def _absorb(
    conv: nn.Conv2d, norm: nn.Module | None, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]
) -> bool:
    "Adapt `conv` to images normalised with `new` instead of `old`; False if it cannot be adapted."
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
# In some networks several convolutions take the image in parallel, so no single one can absorb the
# difference.

# %%
#| export
def _first_convolution(model: nn.Module) -> tuple[nn.Conv2d | None, nn.Module | None]:
    """The only convolution that takes three channels, and the batch norm after it; None if
    missing.
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
    mean: Sequence[float],  # The mean that its weights expect, per channel, for pixels in [0, 1]
    std: Sequence[float],  # The standard deviation that its weights expect, per channel
) -> nn.Module:  # The same network, for images in ImageNet's normalisation
    """Let the first convolution absorb the difference between two normalisations; warn if it
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
            " not ImageNet's, and the network has no single first convolution that could absorb"
            " the difference: training starts from slightly wrong inputs",
            stacklevel=2,
        )
    return model


# %% [markdown]
# Without a border the adapted network computes the same function up to rounding, with a bias and
# with batch norm. If a network cannot be adapted, a warning says so, and the network does not
# change:

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
# only another standard deviation
assert torch.allclose(
    fold_normalisation(one_weight(), IMAGENET_MEAN, half).weight[0, 0], torch.tensor(0.458)
)
other_mean = fold_normalisation(one_weight(), half, IMAGENET_STD)  # only another mean
assert other_mean.weight[0, 0] == 1 and math.isclose(
    other_mean.bias.item(), (0.485 - 0.5) / 0.229, rel_tol=1e-4
)
