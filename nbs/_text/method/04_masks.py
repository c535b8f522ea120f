# %% [markdown]
# # Masks
#
# > Which weights of a network can be pruned, and how a pruned weight stays exactly zero

# %%
#| default_exp method.masks

# %%
#| export
import warnings
from collections.abc import Iterable, Mapping
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torch_prune

# %% [markdown]
# The modules of this chapter work on any `nn.Module`. They do not depend on faces, data sets or runs, and import torch, numpy, numba and
# fastcore only.
#
# ## What can be pruned
#
# The paper prunes the weights of convolutions and linear layers, but not biases and normalisation. Subclasses count, and so do depthwise and
# 1×1 convolutions and the classifier head. A name in `ignore` leaves a layer dense, or every layer in a block.

# %%
#| export
PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)


def _inside(name: str, block: str) -> bool:
    "Whether the module called `name` is `block` or lies inside it."
    return name == block or name.startswith(block + ".")


# %%
assert (
    _inside("layer1.0.conv1", "layer1")
    and _inside("fc", "fc")
    and not _inside("layer10.0.conv1", "layer1")
    and not _inside("layer1", "layer1.0")
)
_inside("layer1.0.conv1", "layer1"), _inside("layer10.0.conv1", "layer1")


# %% [markdown]
# Under a mask, `layer.weight` is computed from the parameter that is trained. Where identity matters, as for tied weights, code must compare that parameter.

# %%
#| export
def original(layer: nn.Module) -> nn.Parameter:
    "The parameter that the optimizer sees: `layer.weight`, or the parameter under its mask."
    return (
        layer.parametrizations.weight.original
        if parametrize.is_parametrized(layer, "weight")
        else layer.weight
    )


# %%
class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


linear = nn.Linear(2, 1)
trained = linear.weight
parametrize.register_parametrization(linear, "weight", Doubled())
print(original(linear), linear.weight)
assert (
    original(linear) is trained
    and torch.equal(linear.weight, 2 * original(linear))
    and original(plain := nn.Linear(2, 1)) is plain.weight
)


# %% [markdown]
# Other kinds of layer stay dense: an LSTM, an embedding, a transposed convolution, and the matrices that attention keeps in bare parameters. If they hold most of a network's weights, a rate of 90 % removes far less than 90 % of the network. The package
# therefore counts every parameter with two or more dimensions outside prunable layers, such as a position table. A scale per channel does not count.

# %%
#| export
def _matrix(weight: Tensor) -> bool:
    "Whether a parameter has two dimensions or more; those of size 1 do not count."
    return sum(size > 1 for size in weight.shape) > 1


def _never_pruned(
    model: nn.Module,  # Any network
    # Module name → its weights that no mask reaches; all weights of the network
) -> tuple[dict[str, int], int]:
    "Count the weights outside Conv1d, Conv2d and Linear layers, shared ones once."
    reached = {
        p for m in model.modules() if isinstance(m, PRUNABLE) for p in m.parameters() if p.dim() > 1
    }
    dense, seen = {}, set(reached)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if parameter not in seen and _matrix(parameter):
                dense[name] = dense.get(name, 0) + parameter.numel()
            seen.add(parameter)
    return dense, sum(p.numel() for p in reached) + sum(dense.values())


# %%
class Reader(nn.Module):
    "Reads a sequence: 64 + 4,864 weights, of which the Linear has 64"

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 32), nn.Linear(32, 2)


print(_never_pruned(Reader()))
assert _never_pruned(Reader()) == ({"lstm": 4 * 32 * (6 + 32)}, 4864 + 64)
assert _never_pruned(nn.Linear(3, 2)) == ({}, 6) and _never_pruned(nn.LayerNorm(9)) == ({}, 0)
assert not _matrix(torch.ones(8, 1, 1)) and _matrix(torch.ones(1, 8, 4))

# %% [markdown]
# The warning appears once per network, because many functions here ask for the prunable layers.

# %%
#| export
_WARNED = WeakSet()  # Networks whose dense weights have been reported


def _warn_of_dense(model: nn.Module):
    "Warn, once per network, of the layers whose weights are never pruned."
    dense, total = ({}, 0) if model in _WARNED else _never_pruned(model)
    _WARNED.add(model)
    if not dense:
        return
    modules = dict(model.named_modules())
    largest = sorted(dense, key=dense.get, reverse=True)
    kinds = {
        n: f"{n or 'the network itself'} ({type(modules[n]).__name__}, {dense[n]:,})"
        for n in largest
    }
    named = ", ".join([kinds[n] for n in largest[:5]]) + (
        f" and {len(dense) - 5} more" if len(dense) > 5 else ""
    )
    warnings.warn(
        f"{100 * sum(dense.values()) / total:.1f} % of this {type(model).__name__}'s {total:,}"
        f" weights are never pruned: those of {named}. Masks reach the weights of Conv1d, Conv2d"
        " and Linear only, and rates count only those",
        stacklevel=3,
    )


# %%
def warnings_of(call, *arguments):
    "What a call warns of"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call(*arguments)
    return [str(w.message) for w in said]


reader = Reader()
said = warnings_of(_warn_of_dense, reader)
print(*said)
assert (
    len(said) == 1
    and said[0].startswith("98.7 % of this Reader's 4,928 weights")
    and "lstm (LSTM, 4,864)" in said[0]
)
assert (
    warnings_of(_warn_of_dense, reader)
    == []
    == warnings_of(_warn_of_dense, nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
)
mixed = nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Embedding(5, 2), nn.Linear(2, 2))
for layer, weights in (
    (nn.TransformerEncoderLayer(8, 2), "self_attn (MultiheadAttention, 192)"),
    (nn.MultiheadAttention(4, 1, kdim=2), "the network itself (MultiheadAttention, 40)"),
    (mixed, "0 (ConvTranspose2d, 24), 1 (Embedding, 10)"),
    (nn.Sequential(nn.Conv3d(1, 2, 2)), "0 (Conv3d, 16)"),
):
    assert weights in warnings_of(_warn_of_dense, layer)[0]
tongue = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 4))
tongue[0].weight = tongue[1].weight
assert warnings_of(_warn_of_dense, tongue) == []  # a mask on the Linear is one on the embedding


# %% [markdown]
# A misspelt name would leave its layer to be pruned silently, so it raises an error.

# %%
#| export
def _check_ignore(model: nn.Module, ignore: Iterable[str]):
    "Raise ValueError if a name to ignore is not in the network."
    everything = [n for n, _ in model.named_modules(remove_duplicate=False)]
    names = [n for n in everything if n and "parametrizations" not in n.split(".")]
    for name in ignore:
        if name not in names:
            raise ValueError(
                f"ignore = {name!r} names no layer of this {type(model).__name__}: choose from"
                f" {', '.join(names)}"
            )


# %%
two = nn.Sequential(linear, nn.ReLU())  # the parametrization inside `linear` is not a layer
assert _check_ignore(two, ["0", "1"]) is None
try:
    _check_ignore(two, ["1", "head"])
except ValueError as e:
    print(e)
    assert "'head'" in str(e) and str(e).endswith("choose from 0, 1")
else:
    raise AssertionError("a layer that is not there was ignored")


# %% [markdown]
# A mask needs a parameter. Under weight norm, spectral norm or `torch.nn.utils.prune` the weight of a layer is computed from other tensors at every read, so a mask on it would be lost at the next forward pass. Such a layer raises an error.

# %%
#| export
def _check_parameter(name: str, layer: nn.Module):
    "Raise ValueError if a layer's weight is not a parameter, or is one under anything but a mask."
    over = (
        list(layer.parametrizations.weight) if parametrize.is_parametrized(layer, "weight") else []
    )
    if all(hasattr(p, "mask") for p in over) and (
        over or isinstance(layer._parameters.get("weight"), nn.Parameter)
    ):
        return
    how = (
        ", ".join(type(p).__name__ for p in over)
        or "weight norm, torch.nn.utils.prune, or the like"
    )
    raise ValueError(
        f"{name}: its weight is computed ({how}), so a mask would not hold: take that off first"
        " (remove_parametrizations, remove_weight_norm, fairgrape.method.masks.from_torch_prune),"
        " or leave the layer dense with ignore"
    )


# %%
assert _check_parameter("plain", nn.Linear(2, 2)) is None
for spoil in (
    torch.nn.utils.weight_norm,
    torch.nn.utils.parametrizations.weight_norm,
    torch.nn.utils.parametrizations.spectral_norm,
    lambda layer: torch.nn.utils.prune.random_unstructured(layer, "weight", 0.5),
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spoiled = spoil(nn.Linear(4, 4))
    try:
        _check_parameter("fc", spoiled)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("a weight that is computed was accepted")

# %% [markdown]
# A layer may also compute with a function of its weight inside its own `forward`. A weight-standardised convolution subtracts the mean of its weights, so pruned weights are not zero in the convolution. A layer
# with its own `forward` is therefore tested. In every row of a trial weight the first entry is 1 and the others are 0. One pixel of the first channel may then change one output of each row, and
# the other channels must change nothing. The test uses its own values and leaves the layer unchanged.

# %%
#| export
_FORWARDS = {kind.forward for kind in PRUNABLE} | {nn.Conv1d._conv_forward, nn.Conv2d._conv_forward}
_TRIED = WeakSet()  # Layers that have been tested


def _own_forward(layer: nn.Module) -> bool:
    "Whether a layer computes differently from Conv1d, Conv2d and Linear."
    used = [getattr(layer, name) for name in ("forward", "_conv_forward") if hasattr(layer, name)]
    return any(getattr(method, "__func__", None) not in _FORWARDS for method in used)


def _trial_input(layer: nn.Module) -> Tensor:
    """Zeros, a pixel in each group's first channel, and one in all other channels.

    Shapes: `(3, C, *space)`."""
    if isinstance(layer, nn.Linear):
        space, channels, first = (), layer.in_features, slice(0, 1)
    else:
        space = [
            4 * (k - 1) * d + 4 * s + 1
            for k, d, s in zip(layer.kernel_size, layer.dilation, layer.stride)
        ]
        channels, first = layer.in_channels, slice(0, None, layer.in_channels // layer.groups)
    x = torch.zeros(3, channels, *space, dtype=torch.float64)
    pixel = x[(slice(None), slice(None), *(size // 2 for size in space))]
    pixel[2] = 1
    pixel[1, first], pixel[2, first] = 1, 0
    return x


@torch.no_grad()
def _zeros_act(layer: nn.Module) -> bool:
    "Whether weights of 0 affect the output of a layer. Raises: any error of its `forward`."
    state = {
        n: torch.ones(t.shape, dtype=torch.float64 if t.is_floating_point() else t.dtype)
        for n, t in (*layer.named_parameters(), *layer.named_buffers())
    }
    trial = torch.zeros(layer.weight.shape, dtype=torch.float64)
    trial.flatten(1)[:, 0] = 1
    masked = parametrize.is_parametrized(layer, "weight")
    state["parametrizations.weight.original" if masked else "weight"] = trial
    with torch.random.fork_rng(devices=[]):
        found = functional_call(layer, state, (_trial_input(layer),))
    change = (found[1:] - found[:1]).reshape(2, len(trial), -1).abs()
    changed = (change > 1e-9 * change.max()).sum(-1)
    return bool((changed[0] > 1).any() or changed[1].any())


# %%
class Standardised(nn.Conv2d):
    "A convolution whose weights have mean 0 and deviation 1 in each row"

    def _conv_forward(self, x, weight, bias):
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        return super()._conv_forward(
            x, weight / weight.square().mean((1, 2, 3), keepdim=True).sqrt(), bias
        )


class Padded(nn.Conv2d):
    "A convolution that pads as TensorFlow does"

    def forward(self, x):
        return self._conv_forward(
            nn.functional.pad(x, (1, 2, 1, 2), mode="reflect"), self.weight, self.bias
        )


class Cosine(nn.Linear):
    "A head that compares directions"

    def forward(self, x):
        return nn.functional.linear(
            nn.functional.normalize(x), nn.functional.normalize(self.weight), self.bias
        )


standardised = [
    Standardised(3, 4, 3),
    Standardised(4, 4, 3, groups=4),
    Standardised(6, 4, 1, groups=2),
]
padded, cosine = Padded(4, 6, 3, stride=2, dilation=2, groups=2), Cosine(5, 3)
tried = (nn.Conv2d(3, 4, 3), standardised[0], padded, cosine)
print({type(layer).__name__: (_own_forward(layer), _zeros_act(layer)) for layer in tried})
assert all(map(_zeros_act, standardised))
assert not any(
    map(
        _zeros_act,
        (padded, Padded(4, 4, 5, groups=4), cosine, Cosine(1, 2), nn.Conv1d(4, 6, 3, groups=2)),
    )
)
kept, random_state = padded.weight.clone(), torch.random.get_rng_state()
assert not _zeros_act(padded) and torch.equal(padded.weight, kept)
assert torch.equal(torch.random.get_rng_state(), random_state)
assert all(map(_own_forward, (*standardised, padded, cosine)))
assert not any(
    map(
        _own_forward, (nn.Conv1d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.MultiheadAttention(4, 1).out_proj)
    )
)
patched = nn.Linear(3, 2)
patched.forward = lambda x: nn.functional.linear(x, patched.weight - patched.weight.mean())
assert _own_forward(patched)  # of one layer alone


# %% [markdown]
# A layer whose zeros act raises an error, like a layer with a computed weight. A layer that cannot be tested, for example because its `forward` takes more than one tensor, is accepted with a warning.

# %%
#| export
def check_weight(
    name: str,  # The layer's name, for the message
    layer: nn.Module,  # A Conv1d, Conv2d or Linear, or of a subclass
):
    "Raise ValueError if a mask on a layer's weight would not hold, or if its zeros would act."
    _check_parameter(name, layer)
    if not _own_forward(layer) or layer in _TRIED:  # each layer is tested once
        return
    kind = type(layer).__name__.removeprefix("Parametrized")
    try:
        act = _zeros_act(layer)
    except Exception as error:  # a foreign forward can raise anything
        act = None
        warnings.warn(
            f"{name}: {kind} has a forward of its own that could not be tried"
            f" ({type(error).__name__}: {str(error)[:120]}): check that it uses its weight"
            " unchanged, or leave it dense with ignore",
            stacklevel=3,
        )
    if act:
        raise ValueError(
            f"{name}: {kind} computes with a function of its weight (standardised, for instance),"
            " so a weight that is pruned to 0 would still act: replace it by a plain layer that"
            " has the computed weights, or leave it dense with ignore"
        )
    _TRIED.add(layer)


# %%
class Gated(nn.Linear):
    "Takes a second tensor"

    def forward(self, x, gate):
        return super().forward(x) * gate


for layer in standardised:
    try:
        check_weight("stem", layer)
    except ValueError as e:
        assert str(e).startswith("stem: Standardised computes with a function of its weight")
    else:
        raise AssertionError("a weight that is computed was accepted")
gated = Gated(2, 2)
assert warnings_of(check_weight, "conv", padded) == []
assert (
    "could not be tried" in warnings_of(check_weight, "fc", gated)[0]
    and warnings_of(check_weight, "fc", gated) == []
)
assert _zeros_act(Standardised(3, 4, 3, device="meta"))  # no values are needed
assert not _zeros_act(Padded(4, 6, 3, device="meta"))


# %%
#| export
def prunable(
    model: nn.Module,  # Any network
    ignore: Iterable[str] = (),  # Names of layers, or of blocks of layers, to leave dense
    # Name → layer, in the order of `model.named_modules()`; of tied layers, the first
) -> dict[str, nn.Module]:
    """The layers whose `weight` can be pruned: every Conv1d, Conv2d and Linear not in `ignore`.

    A weight that is shared with an ignored layer stays dense as well.
    Raises: ValueError if `ignore` names nothing in the model, if a weight is computed from others,
        if the zeros of a layer would act, or if no layer is left to prune."""
    ignore = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    _check_ignore(model, ignore)
    everything = list(model.named_modules(remove_duplicate=False))
    dense = {m for name, m in everything if any(_inside(name, block) for block in ignore)}
    layers, seen = {}, {id(p) for module in dense for p in module.parameters()}
    for name, module in model.named_modules():
        if not isinstance(module, PRUNABLE) or module in dense:
            continue
        weight = module._parameters.get("weight")  # None under a mask, or where it is computed
        if is_lazy(weight):
            raise ValueError(
                f"{name}: this {type(module).__name__} has no weight before its first batch:"
                " call the network once on a batch, then train and prune it"
            )
        if weight is not None and not weight.numel():  # a layer without inputs or outputs
            continue
        check_weight(name, module)
        if id(original(module)) not in seen:
            layers[name] = module
        seen.add(id(original(module)))
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no Conv1d, Conv2d or Linear left to prune (ignore ="
            f" {list(ignore)})"
        )
    _warn_of_dense(model)
    return layers


# %% [markdown]
# A small network as example: two convolutions, a batch norm that stays dense, a head.

# %%
net = nn.Sequential(
    nn.Conv2d(3, 4, 3),
    nn.BatchNorm2d(4),
    nn.Conv2d(4, 4, 3, groups=4),
    nn.Flatten(),
    nn.Linear(64, 5),
)
print({name: tuple(layer.weight.shape) for name, layer in prunable(net).items()})
assert list(prunable(net)) == ["0", "2", "4"] and list(prunable(net, ignore=["4"])) == [
    "0",
    "2",
] == list(prunable(net, ignore="4"))
tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
tied[1].weight = tied[0].weight
# a tied weight is one weight
assert list(prunable(tied)) == ["0"] and list(
    prunable(nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)), ignore="0")
) == ["1"]
encoder = nn.TransformerEncoderLayer(8, 2)
assert len(warnings_of(prunable, encoder)) == 1 and list(prunable(encoder)) == [
    "self_attn.out_proj",
    "linear1",
    "linear2",
]
three = nn.ModuleDict({name: nn.Linear(3, 3) for name in "abc"})
three["b"].weight = three["a"].weight
# dense for all layers that share the weight
assert list(prunable(three, "a")) == list(prunable(three, "b")) == ["c"]
three["d"] = three["c"]  # one layer under two names
assert list(prunable(three, "d")) == ["a"] and list(prunable(nn.Sequential(three), "0.d")) == [
    "0.a"
]
output_layer = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 4), nn.Linear(4, 4))
output_layer[1].weight = output_layer[0].weight
assert list(prunable(output_layer, "0")) == ["2"]
assert list(prunable(nn.Sequential(nn.Linear(0, 3), nn.Linear(3, 2)))) == ["1"]
normed_layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
for make, hint in [
    (lambda: prunable(nn.Sequential(nn.LazyLinear(3))), "0: this LazyLinear has no weight"),
    (lambda: prunable(nn.Sequential(normed_layer)), "0: its weight is computed"),
    (lambda: prunable(net, ignore=["head"]), "'head'"),
    (lambda: prunable(net, ignore="024"), "'024' names no layer"),
    (lambda: prunable(nn.Sequential(nn.ReLU())), "left to prune"),
    (lambda: prunable(nn.Sequential(nn.Linear(2, 2), *standardised)), "1: Standardised"),
    (lambda: prunable(tied, "1"), "left to prune"),
]:
    try:
        make()
    except ValueError as e:
        print(e)
        assert hint in str(e)
    else:
        raise AssertionError("nothing to prune was accepted")


# %% [markdown]
# ## A mask that holds by construction
#
# Multiplying weights by a mask after each optimizer step works until a training loop with momentum or weight decay omits the multiplication. Here the mask is a
# [parametrization](https://pytorch.org/docs/stable/generated/torch.nn.utils.parametrize.register_parametrization.html): reading `layer.weight` gives the masked weight, the
# optimizer sees the parameter under it, and no gradient reaches a pruned entry. It uses `torch.where` and not a product, so a pruned entry is 0 even if the value under it is not finite.

# %% [markdown]
# The masked weight is computed at every read, so an in-place change to it, as by `nn.init`, is lost. Each computed weight therefore carries a watch, which warns when the weight is released after such a change.

# %%
#| export
class _Watch:
    "Belongs to a computed weight, and warns when it is released if it was changed in place."

    def __init__(
        self,
        weight: Tensor,  # A computed layer weight
    ):
        self.alias, self.version = weight.detach(), weight._version  # the alias shares the counter

    def __del__(self):
        if self.alias._version != self.version:
            warnings.warn(
                f"the weight of a masked layer, shape {tuple(self.alias.shape)}, was changed in"
                " place, as by nn.init; this has no effect, because it is computed from the mask:"
                " call layer.reset_parameters(), assign layer.weight = …, or change"
                " fairgrape.method.masks.original(layer)",
                stacklevel=2,
            )


# %%
#| export
class Masked(nn.Module):
    "Parametrization that gives the weight where `mask` is True and exactly 0 elsewhere."

    def __init__(
        self,
        mask: Tensor,  # True where a weight is kept, shape `(*weight)`
    ):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        masked = torch.where(self.mask, weight, weight.new_zeros(()))
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if type(masked) is Tensor and not traced and not masked.is_inference():
            masked.watch = _Watch(masked)
        return masked

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight  # the value that `layer.weight = …` stores under the mask


# %%
hidden = torch.tensor([1.0, float("inf"), -3.0], requires_grad=True)
seen = Masked(torch.tensor([True, False, True]))(hidden)
seen.sum().backward()
print(seen, hidden.grad)
assert seen.tolist() == [1.0, 0.0, -3.0] and hidden.grad.tolist() == [1.0, 0.0, 1.0]


# %% [markdown]
# Masks are a plain dictionary, layer name → boolean tensor. They are checked against the network before they are applied. A mask of another
# network, or one saved as numbers, raises an error with the name of the layer.

# %%
#| export
def check_masks(
    model: nn.Module,  # The network the masks are meant for
    masks: Mapping[str, Tensor],  # Layer name → True where a weight is kept, shape `(*weight)`
):
    "Raise ValueError unless every mask names a prunable layer, is boolean and fits its weight."
    layers = {n: m for n, m in model.named_modules() if isinstance(m, PRUNABLE)}
    for name, mask in masks.items():
        if name not in layers:
            raise ValueError(
                f"mask for {name!r}, but the network's prunable layers are {', '.join(layers)}"
            )
        check_weight(name, layers[name])
        if mask.dtype != torch.bool:
            raise ValueError(
                f"mask of {name!r} is {mask.dtype}: masks are torch.bool, True where a weight stays"
            )
        if mask.shape != layers[name].weight.shape:
            raise ValueError(
                f"mask of {name!r} has shape {tuple(mask.shape)}, its weight"
                f" {tuple(layers[name].weight.shape)}"
            )


# %%
normed = nn.Sequential(
    nn.Linear(2, 2), torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
)
wrong = [
    (net, {"9": torch.ones(5, 64) > 0}),
    (net, {"1": torch.ones(4) > 0}),
    (net, {"4": torch.ones(5, 64)}),
    (net, {"4": torch.ones(64, 5) > 0}),
    (normed, {"0": torch.ones(2, 2) > 0, "1": torch.ones(2, 2) > 0}),
    (nn.Sequential(standardised[0]), {"0": torch.ones(4, 3, 3, 3) > 0}),
]
for other, bad in wrong:
    try:
        check_masks(other, bad)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("a mask that does not fit was accepted")
assert check_masks(net, {"4": torch.ones(5, 64) > 0}) is None


# %% [markdown]
# Several layers may share a parameter (tied weights, an embedding that is also the output layer). A mask on one of them alone would have no effect in the others, so all holders get it.

# %%
#| export
def _holders(model: nn.Module, weight: nn.Parameter) -> list[tuple[nn.Module, str]]:
    "Every (module, attribute name) of `model` that holds this parameter."
    return [
        (m, n)
        for m in model.modules()
        for n, p in m.named_parameters(recurse=False, remove_duplicate=False)
        if p is weight
    ]


# %%
print(_holders(tied, tied[0].weight))
assert _holders(tied, tied[0].weight) == [(tied[0], "weight"), (tied[1], "weight")] and _holders(
    tied, tied[1].bias
) == [(tied[1], "bias")]
assert _holders(net, tied[0].weight) == []
twice = nn.Linear(2, 2)
twice.again = twice.weight  # a module may hold it under two names
assert _holders(twice, twice.weight) == [(twice, "weight"), (twice, "again")]


# %% [markdown]
# The first call registers the parametrization. Later calls only copy the new mask into it, so an optimizer and a compiled network keep their tensors.

# %% [markdown]
# Training again from random weights calls `layer.reset_parameters()`, and fusing a network assigns `layer.weight = …`. Both must reach the parameter under the mask. torch gives each parametrized layer its own class, so both are overridden in that class and disappear with the mask.

# %%
#| export
def _reach_through(module: nn.Module):
    "Let `reset_parameters` and the assignment of a parameter reach what lies under the masks."
    kind, plain = type(module), type(module).__bases__[0]

    def reset_parameters(self):
        bare = plain.__new__(plain)
        bare.__dict__.update(self.__dict__)
        under = {n: p.original for n, p in self.parametrizations.items() if hasattr(p, "original")}
        bare._parameters = {**self._parameters, **under}
        plain.reset_parameters(bare)

    def assign(self, name, value):
        if isinstance(value, nn.Parameter) and parametrize.is_parametrized(self, name):
            value = value.detach().clone()
        plain.__setattr__(self, name, value)

    kind.__setattr__ = assign
    if hasattr(plain, "reset_parameters"):
        kind.reset_parameters = reset_parameters


# %%
#| export
def apply_masks(
    model: nn.Module,  # The network, changed in place
    masks: Mapping[str, Tensor],  # Layer name → True where a weight is kept, shape `(*weight)`
) -> nn.Module:  # The same network
    """Hold the weights outside the masks at exactly 0, now and in every later optimizer step.

    Raises: ValueError if a mask does not fit (see `check_masks`)."""
    check_masks(model, masks)
    modules = dict(model.named_modules())
    for name, mask in masks.items():
        weight = original(modules[name])
        mask = mask.detach().to(weight.device, copy=True)
        if parametrize.is_parametrized(modules[name], "weight"):
            modules[name].parametrizations.weight[0].mask.copy_(mask)
        else:
            masked = Masked(mask)
            for module, attribute in _holders(model, weight):
                parametrize.register_parametrization(module, attribute, masked)
                _reach_through(module)
    return model


# %%
import copy

first = nn.Sequential(nn.Linear(2, 2))
kept = torch.tensor([[True, False], [False, True]])
apply_masks(first, {"0": kept})
under, before = original(first[0]), first[0].weight.detach().clone()
first[0].reset_parameters()
assert original(first[0]) is under and not torch.equal(first[0].weight[kept], before[kept])
assert (first[0].weight[~kept] == 0).all()
for value in (torch.full((2, 2), 3.0), nn.Parameter(torch.full((2, 2), 4.0))):
    first[0].weight = value
    print(first[0].weight.tolist())
    assert first[0].weight.tolist() == [[value[0, 0], 0], [0, value[0, 0]]]
    assert original(first[0]) is under and under.requires_grad
copied = copy.deepcopy(first)
copied[0].reset_parameters()
assert first[0].weight.tolist() == [[4, 0], [0, 4]] != copied[0].weight.tolist()
told = warnings_of(lambda layer: nn.init.zeros_(layer.weight).sum(), first[0])
print(told[0])
assert len(told) == 1 and "reset_parameters" in told[0]
assert not warnings_of(lambda net: net(torch.ones(1, 2)).sum().backward(), first)
with torch.inference_mode():
    assert not first(torch.ones(1, 2)).requires_grad
state = dict(first.named_parameters())
per_image = torch.func.vmap(
    torch.func.grad(lambda p, x: functional_call(first, p, (x,)).sum()), in_dims=(None, 0)
)(state, torch.ones(3, 2))
assert per_image["0.parametrizations.weight.original"].shape == (3, 2, 2)
fused = torch.nn.utils.fuse_conv_bn_eval(
    apply_masks(nn.Conv2d(1, 1, 2), {"": torch.tensor([[[[True, False], [True, True]]]])}).eval(),
    nn.BatchNorm2d(1).eval(),
)
assert fused.weight[0, 0, 0, 1] == 0 and fused.weight[0, 0, 0, 0] != 0

# %%
masks = {"4": torch.zeros(5, 64, dtype=torch.bool)}
masks["4"][:, :3] = True
apply_masks(net, masks)
print(net[4].weight[0, :6])
optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
for _ in range(5):
    optimizer.zero_grad()
    net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()  # momentum and decay would move a zero without a mask
    assert (net[4].weight[~masks["4"]] == 0).all() and (net[4].weight[masks["4"]] != 0).all()

# %% [markdown]
# The network keeps its own copy of the mask, and a second mask replaces the first. Layers that share a weight share its mask:

# %%
masks["4"][:, 3:] = True
assert (net[4].weight[:, 3:] == 0).all()  # the network has a copy
held = net[4].parametrizations.weight[0].mask
assert apply_masks(net, {"4": torch.arange(64).expand(5, 64) < 2}) is net
assert (
    net[4].parametrizations.weight[0].mask is held
    and int(held.sum()) == 10
    and (net[4].weight[:, 2:] == 0).all()
)
masks["4"][:, 3:] = False
apply_masks(net, masks)
try:
    apply_masks(net, {"4": masks["4"], "head": masks["4"]})
except ValueError:
    assert int(held.sum()) == 5 * 3  # the error comes before any change
else:
    raise AssertionError("a mask of no layer was applied")
apply_masks(tied, {"0": torch.eye(3, dtype=torch.bool)})
assert (tied[1].weight == tied[0].weight).all() and int((tied[1].weight != 0).sum()) == 3
output_layer = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 4))
output_layer[1].weight = output_layer[0].weight
apply_masks(output_layer, {"1": torch.zeros(4, 2, dtype=torch.bool)})
# the embedding is masked as well
assert (output_layer(torch.tensor([1])) == output_layer[1].bias).all()


# %% [markdown]
# `get_masks` reads the masks. A layer without a mask gives all True.

# %%
#| export
def get_masks(
    model: nn.Module,  # A network, masked or not
    ignore: Iterable[str] = (),  # Layers that are left dense
) -> dict[str, Tensor]:  # Layer name → True where a weight is kept, shape `(*weight)`; copies
    "Read the mask of every prunable layer; all True where there is none."

    def read(layer):
        if parametrize.is_parametrized(layer, "weight"):
            return layer.parametrizations.weight[0].mask.clone()
        return torch.ones_like(layer.weight, dtype=torch.bool)

    return {name: read(layer) for name, layer in prunable(model, ignore).items()}


# %%
print({name: int(mask.sum()) for name, mask in get_masks(net).items()})
assert (
    torch.equal(get_masks(net)["4"], masks["4"])
    and get_masks(net)["0"].all()
    and list(get_masks(net, ignore=["4"])) == ["0", "2"]
)
get_masks(net)["4"][:] = False
assert net[4].weight.any()  # the masks are copies


# %% [markdown]
# A network may be sparse without masks. Its zeros are plain numbers, and the first training step changes them. `from_zeros` turns them into masks, which hold them at 0.

# %%
#| export
def from_zeros(
    model: nn.Module,  # A sparse network, changed in place
    ignore: Iterable[str] = (),  # Layers that are left dense
) -> nn.Module:  # The same network; what was 0 is masked
    """Mask the weights that are exactly zero.

    Raises: ValueError for a layer of nothing but zeros, before any change."""
    masks = {name: layer.weight.detach() != 0 for name, layer in prunable(model, ignore).items()}
    for name, mask in masks.items():
        if not mask.any():
            raise ValueError(
                f"{name}: all of its {mask.numel():,} weights are 0, so the mask would keep no"
                " weight: train it first, or leave it dense with ignore"
            )
    return apply_masks(model, masks)


# %%
sparse = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))
with torch.no_grad():
    sparse[0].weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]))
    sparse[1].weight.fill_(1)
from_zeros(sparse)
for parameter in sparse.parameters():
    parameter.data += 1  # a step of training
print(sparse[0].weight)
assert sparse[0].weight.tolist() == [[2, 0, 3], [0, 4, 0]] and get_masks(sparse)["1"].all()
with torch.no_grad():
    original(sparse[0])[1, 1] = 0
assert int(get_masks(from_zeros(sparse))["0"].sum()) == 2  # existing masks stay
with torch.no_grad():
    original(sparse[1]).zero_()
    original(sparse[0])[0, 0] = 0
try:
    from_zeros(sparse)
except ValueError as e:
    print(e)
    assert str(e).startswith("1: all of its 4 weights")
else:
    raise AssertionError("a layer was pruned to nothing")
assert int(get_masks(sparse)["0"].sum()) == 2  # nothing was changed
assert int(get_masks(from_zeros(sparse, ignore="1"))["0"].sum()) == 1


# %% [markdown]
# The achieved rate counts all weights together, so a small layer changes it little even if it is pruned almost completely.

# %%
#| export
def sparsity(
    masks: Mapping[str, Tensor],  # Layer name → True where a weight is kept
) -> float:  # Fraction of the weights that are pruned, 0 to 1
    "The achieved pruning rate over all masks together."
    total = sum(m.numel() for m in masks.values())
    return 1 - sum(int(m.sum()) for m in masks.values()) / total


# %%
print(sparsity({"a": torch.tensor([True, True, True, False]), "b": torch.tensor([False])}))
assert (
    sparsity({"a": torch.tensor([True, True, True, False]), "b": torch.tensor([False])}) == 0.4
    and sparsity({"a": torch.ones(3) > 0}) == 0
)


# %% [markdown]
# ## Ordinary weights without masks
#
# A pruned network should load into the plain architecture without this package. `plain_state` is the network's `state_dict` as if no mask
# had been registered, with the zeros written in. Other parametrizations, such as weight norm on a layer left dense, are part of the architecture and stay.

# %%
#| export
def _masked(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    "The masked parameters: name of the module, the module, and the parameter's name in it."
    return [
        (name, module, attribute)
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module)
        for attribute, over in module.parametrizations.items()
        if all(isinstance(p, Masked) for p in over)
    ]


def plain_state(
    model: nn.Module,  # A network, masked or not
    # The `state_dict` of the same network without masks; pruned weights are 0
) -> dict[str, Tensor]:
    "The weights under their ordinary names, for a strict load into the plain architecture."
    state = model.state_dict()
    for name, module, attribute in _masked(model):
        prefix = f"{name}." if name else ""
        under = f"{prefix}parametrizations.{attribute}."
        state = {k: v for k, v in state.items() if not k.startswith(under)}
        state[prefix + attribute] = getattr(module, attribute).detach()
    return state


# %%
plain = nn.Sequential(
    nn.Conv2d(3, 4, 3),
    nn.BatchNorm2d(4),
    nn.Conv2d(4, 4, 3, groups=4),
    nn.Flatten(),
    nn.Linear(64, 5),
)
print(plain.load_state_dict(plain_state(net), strict=True))
x = torch.randn(2, 3, 8, 8)
assert torch.equal(plain.eval()(x), net.eval()(x)) and int((plain[4].weight == 0).sum()) == 5 * 61
alone = nn.Linear(3, 2)
state = plain_state(apply_masks(alone, {"": torch.eye(3)[:2] > 0}))  # a network that is one layer
assert state.keys() == {"weight", "bias"} and int((state["weight"] != 0).sum()) == 2
names = normed.state_dict().keys()
apply_masks(normed, {"0": torch.eye(2) > 0})
assert plain_state(normed).keys() == names >= {"1.parametrizations.weight.original0", "0.weight"}
names = twice.state_dict().keys()
assert (
    plain_state(apply_masks(twice, {"": torch.eye(2) > 0})).keys()
    == names
    == {"weight", "bias", "again"}
)


# %% [markdown]
# ## To and from `torch.nn.utils.prune`
#
# PyTorch's own pruning module keeps `weight_orig` and `weight_mask` in each layer. Two functions convert to this form, for tools that expect it, and from it, for networks pruned with it.

# %%
#| export
def to_torch_prune(
    model: nn.Module,  # A network with masks from `apply_masks`, changed in place
    # The same network, with `weight_orig` and `weight_mask` instead; other parametrizations stay
) -> nn.Module:
    "Convert the masks to those of `torch.nn.utils.prune`."
    for _, module, attribute in _masked(model):
        mask = module.parametrizations[attribute][0].mask
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
        torch_prune.custom_from_mask(module, attribute, mask)
    return model


# %%
handed = to_torch_prune(nn.Sequential(nn.Linear(2, 2)).requires_grad_())
apply_masks(handed, {"0": torch.tensor([[True, False], [True, True]])})
print(sorted(n for n, _ in to_torch_prune(handed)[0].named_buffers()))
assert (
    not parametrize.is_parametrized(handed[0])
    and handed[0].weight_mask.tolist() == [[1, 0], [1, 1]]
    and handed[0].weight[0, 1] == 0
)
assert handed[0].weight_orig[0, 1] != 0  # the values under the mask are kept
to_torch_prune(normed)
assert normed[0].weight_mask.tolist() == [[1, 0], [0, 1]] and parametrize.is_parametrized(
    normed[1], "weight"
)


# %% [markdown]
# A network pruned with torch's module keeps its zeros here. torch can also prune tensors that this package cannot mask, such as a norm or a bias. Such a network stays unchanged, and the error says how to make those zeros permanent.

# %%
#| export
def from_torch_prune(
    model: nn.Module,  # A network pruned with `torch.nn.utils.prune`, changed in place
) -> nn.Module:  # The same network, with this package's masks instead
    """Convert the masks from those of `torch.nn.utils.prune`.

    Raises: ValueError if a mask cannot be converted; the network is then unchanged."""
    pruned = [
        (name, module, p.removesuffix("_orig"))
        for name, module in model.named_modules()
        for p in module._parameters
        if p.endswith("_orig") and p.removesuffix("_orig") + "_mask" in module._buffers
    ]
    before = {
        name: (module, module.weight_orig.detach().clone(), module.weight_mask)
        for name, module, tensor in pruned
        if tensor == "weight" and isinstance(module, PRUNABLE)
    }
    reached = {module.weight_orig for module, _, _ in before.values()}
    for name, module, tensor in pruned:  # includes an embedding that shares a Linear's weight
        if getattr(module, f"{tensor}_orig") not in reached:
            raise ValueError(
                f"{name or 'the network'}: {tensor} of this {type(module).__name__} is pruned, and"
                " masks reach the weight of Conv1d, Conv2d and Linear only: make its zeros"
                f" permanent with torch.nn.utils.prune.remove(module, {tensor!r}) first"
            )
    masks = [(module, tensor, getattr(module, f"{tensor}_mask")) for _, module, tensor in pruned]
    for module, tensor, _ in masks:
        torch_prune.remove(module, tensor)
    try:
        return apply_masks(model, {name: mask.bool() for name, (_, _, mask) in before.items()})
    except ValueError:  # a layer whose zeros would act: restore everything
        for module, weight, _ in before.values():
            module.weight.data.copy_(weight)
        for module, tensor, mask in masks:
            torch_prune.custom_from_mask(module, tensor, mask)
        raise


# %%
from_torch_prune(handed)
print(get_masks(handed))
assert get_masks(handed)["0"].tolist() == [[True, False], [True, True]] and not hasattr(
    handed[0], "weight_mask"
)
for layer, tensor in (
    (nn.BatchNorm1d(2), "weight"),
    (nn.Embedding(3, 2), "weight"),
    (nn.LSTM(2, 2), "weight_hh_l0"),
    (nn.Linear(2, 2), "bias"),
):
    other = nn.Sequential(nn.Linear(2, 2), layer)
    for module, pruned in ((other[0], "weight"), (layer, tensor)):
        torch_prune.random_unstructured(module, pruned, 0.5)
    try:
        from_torch_prune(other)
    except ValueError as e:
        print(e)
        assert str(e).startswith(f"1: {tensor} of this {type(layer).__name__}")
    else:
        raise AssertionError("a mask that cannot be held was taken")
    assert hasattr(other[0], "weight_mask") and hasattr(layer, f"{tensor}_mask")  # unchanged
other = nn.Sequential(nn.Conv2d(3, 3, 3), Standardised(3, 4, 3))
for layer in other:
    torch_prune.random_unstructured(layer, "weight", 0.5)
state = {k: v.clone() for k, v in other.state_dict().items()}
try:
    from_torch_prune(other)
except ValueError as e:
    print(e)
    assert str(e).startswith("1: Standardised")
else:
    raise AssertionError("a layer whose zeros act was taken")
assert other.state_dict().keys() == state.keys()
assert all(torch.equal(state[k], v) for k, v in other.state_dict().items())
assert (other[0].weight == state["0.weight_orig"] * state["0.weight_mask"]).all()
apply_masks(tongue, {"1": torch.eye(4)[:, :2] > 0})
from_torch_prune(to_torch_prune(tongue))
assert torch.equal(tongue[0].weight, tongue[1].weight) and int((tongue[0].weight != 0).sum()) == 2
