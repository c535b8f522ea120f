# %% [markdown]
# # Masks
#
# > Which weights of a network can be pruned, and how a pruned weight stays exactly zero

# %%
#| default_exp masks

# %%
#| export
import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune as torch_prune

# %% [markdown]
# This module and the three that follow it (importance, selection, pruning) are the library proper: they know nothing of faces,
# data sets or runs and import torch, numpy, numba and fastcore only. Everything in them works on any `nn.Module`.
#
# ## What can be pruned
#
# The paper prunes the weights of convolutions and linear layers and leaves biases and normalisation alone. Subclasses count, and so do depthwise and
# 1×1 convolutions and the classifier head. A name in `ignore` leaves one layer dense, or, when it names a block, everything inside it.

# %%
#| export
PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)

def _inside(name: str, block: str) -> bool:
    "Whether the module called `name` is `block` or lies inside it"
    return name == block or name.startswith(block + ".")


# %%
assert _inside("layer1.0.conv1", "layer1") and _inside("fc", "fc") and not _inside("layer10.0.conv1", "layer1") and not _inside("layer1", "layer1.0")
_inside("layer1.0.conv1", "layer1"), _inside("layer10.0.conv1", "layer1")


# %% [markdown]
# Once masks hold, `layer.weight` is computed, and the parameter that is trained lies under it. Where identity counts, as for tied weights, it is that parameter which has to be asked for.

# %%
#| export
def original(layer: nn.Module) -> nn.Parameter:
    "The parameter that the optimizer sees: `layer.weight`, or what lies under its mask"
    return layer.parametrizations.weight.original if parametrize.is_parametrized(layer, "weight") else layer.weight


# %%
class Doubled(nn.Module):
    def forward(self, weight): return 2 * weight

linear = nn.Linear(2, 1)
trained = linear.weight
parametrize.register_parametrization(linear, "weight", Doubled())
original(linear), linear.weight

# %%
assert original(linear) is trained and torch.equal(linear.weight, 2 * original(linear)) and original(plain := nn.Linear(2, 1)) is plain.weight


# %% [markdown]
# Attention layers pack three matrices in a bare parameter that belongs to no Linear. It stays dense, and a rate of 90 % is then less than it seems; that is said aloud.

# %%
#| export
def _warn_of_packed_attention(model: nn.Module):
    "Warn of weights that look as if they were pruned and are not."
    packed = [n for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention) and m.in_proj_weight is not None]
    if packed: warnings.warn(f"the packed in_proj_weight of {', '.join(packed)} is not pruned: only Conv1d, Conv2d and Linear weights are", stacklevel=3)


# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    _warn_of_packed_attention(nn.TransformerEncoderLayer(8, 2)); _warn_of_packed_attention(nn.Linear(2, 2)); _warn_of_packed_attention(nn.MultiheadAttention(4, 1, kdim=2))
print(said[0].message)
assert len(said) == 1 and "in_proj_weight of self_attn is not pruned" in str(said[0].message)


# %% [markdown]
# A misspelt layer would silently be pruned, so it is an error.

# %%
#| export
def _check_ignore(model: nn.Module, ignore: Iterable[str]):
    "Raise ValueError where a name that is to stay dense is not in the network."
    names = [n for n, _ in model.named_modules() if n and "parametrizations" not in n.split(".")]
    for name in ignore:
        if name not in names: raise ValueError(f"ignore = {name!r} names no layer of this {type(model).__name__}: choose from {', '.join(names)}")


# %%
two = nn.Sequential(linear, nn.ReLU())                                       # what hangs in `linear` as a parametrization is no layer
assert _check_ignore(two, ["0", "1"]) is None
try: _check_ignore(two, ["1", "head"])
except ValueError as e: print(e); assert "'head'" in str(e) and str(e).endswith("choose from 0, 1")
else: raise AssertionError("a layer that is not there was ignored")


# %% [markdown]
# A mask needs a parameter to lie on. The weight of a layer under weight norm, spectral norm or `torch.nn.utils.prune` is computed from others each time it is read, so a mask on it would be gone at the next forward pass. Such a layer is refused.

# %%
#| export
def _check_weight(name: str, layer: nn.Module):
    "Raise ValueError where a layer's weight is no parameter, or one under anything but masks"
    over = list(layer.parametrizations.weight) if parametrize.is_parametrized(layer, "weight") else []
    if all(hasattr(p, "mask") for p in over) and (over or isinstance(layer._parameters.get("weight"), nn.Parameter)): return
    how = ", ".join(type(p).__name__ for p in over) or "weight norm, torch.nn.utils.prune, or the like"
    raise ValueError(f"{name}: its weight is computed ({how}), so a mask would not hold: take that off first (remove_parametrizations, remove_weight_norm, "
                     "fairgrape.masks.from_torch_prune), or leave the layer dense with ignore")


# %%
assert _check_weight("plain", nn.Linear(2, 2)) is None
for spoil in (torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.spectral_norm, lambda layer: torch.nn.utils.prune.random_unstructured(layer, "weight", 0.5)):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spoiled = spoil(nn.Linear(4, 4))
    try: _check_weight("fc", spoiled)
    except ValueError as e: print(e)
    else: raise AssertionError("a weight that is computed was accepted")


# %%
#| export
def prunable(
    model: nn.Module,          # Any network
    ignore: Iterable[str] = (),# Names of layers, or of blocks of layers, to leave dense
) -> dict[str, nn.Module]:     # Name → layer, in the order of `model.named_modules()`; of tied layers, the first
    """Name the layers of `model` whose `weight` can be pruned: every Conv1d, Conv2d and Linear that `ignore` does not name.

    Raises: ValueError if `ignore` names nothing in the model, if a weight is computed from others, or if no layer is left to prune."""
    ignore = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    _check_ignore(model, ignore)
    layers, seen = {}, set()
    for name, module in model.named_modules():
        if not isinstance(module, PRUNABLE) or any(_inside(name, block) for block in ignore): continue
        _check_weight(name, module)
        if id(original(module)) not in seen: layers[name] = module
        seen.add(id(original(module)))
    if not layers: raise ValueError(f"{type(model).__name__} has no Conv1d, Conv2d or Linear left to prune (ignore = {list(ignore)})")
    _warn_of_packed_attention(model)
    return layers


# %% [markdown]
# A small network to look at: two convolutions, a batch norm that stays whole, a head.

# %%
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(64, 5))
{name: tuple(layer.weight.shape) for name, layer in prunable(net).items()}

# %%
assert list(prunable(net)) == ["0", "2", "4"] and list(prunable(net, ignore=["4"])) == ["0", "2"] == list(prunable(net, ignore="4"))
tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)); tied[1].weight = tied[0].weight
assert list(prunable(tied)) == ["0"] and list(prunable(nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)), ignore="0")) == ["1"]     # a tied weight is one weight
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    assert list(prunable(nn.TransformerEncoderLayer(8, 2))) == ["self_attn.out_proj", "linear1", "linear2"] and "in_proj_weight" in str(said[0].message)
for make, hint in [(lambda: prunable(net, ignore=["head"]), "'head'"), (lambda: prunable(net, ignore="024"), "'024' names no layer"), (lambda: prunable(nn.Sequential(nn.ReLU())), "left to prune")]:
    try: make()
    except ValueError as e: print(e); assert hint in str(e)
    else: raise AssertionError("nothing to prune was accepted")


# %% [markdown]
# ## A mask that holds by construction
#
# Multiplying weights by a mask after each optimizer step works until somebody adds momentum or weight decay and forgets the multiplication. Here the mask is a
# [parametrization](https://pytorch.org/docs/stable/generated/torch.nn.utils.parametrize.register_parametrization.html): whoever reads `layer.weight` gets the masked weight, the
# optimizer sees the parameter under it, and no gradient reaches a pruned entry. `torch.where` rather than a product, so that a pruned entry is 0 even if what lies under it is not finite.

# %%
#| export
class Masked(nn.Module):
    "Parametrization that reads as the weight where `mask` is True and as exactly 0 elsewhere"
    def __init__(self,
        mask: Tensor, # True where a weight is kept, shape `(*weight)`
    ):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor: return torch.where(self.mask, weight, weight.new_zeros(()))


# %%
hidden = torch.tensor([1., float("inf"), -3.], requires_grad=True)
seen = Masked(torch.tensor([True, False, True]))(hidden)
seen.sum().backward()
seen, hidden.grad

# %%
assert seen.tolist() == [1., 0., -3.] and hidden.grad.tolist() == [1., 0., 1.]


# %% [markdown]
# Masks travel as a plain dictionary, layer name → boolean tensor. Before they touch a network they are held against it, so that a mask of another
# network, or one saved as numbers, is refused with the layer's name.

# %%
#| export
def check_masks(
    model: nn.Module,           # The network the masks are meant for
    masks: Mapping[str, Tensor],# Layer name → True where a weight is kept, shape `(*weight)`
):
    "Raise ValueError unless every mask names a prunable layer of `model`, is boolean and has its weight's shape."
    layers = {n: m for n, m in model.named_modules() if isinstance(m, PRUNABLE)}
    for name, mask in masks.items():
        if name not in layers: raise ValueError(f"mask for {name!r}, but the network's prunable layers are {', '.join(layers)}")
        if mask.dtype != torch.bool: raise ValueError(f"mask of {name!r} is {mask.dtype}: masks are torch.bool, True where a weight stays")
        if mask.shape != layers[name].weight.shape:
            raise ValueError(f"mask of {name!r} has shape {tuple(mask.shape)}, its weight {tuple(layers[name].weight.shape)}")


# %%
for bad in ({"9": torch.ones(5, 64) > 0}, {"1": torch.ones(4) > 0}, {"4": torch.ones(5, 64)}, {"4": torch.ones(64, 5) > 0}):
    try: check_masks(net, bad)
    except ValueError as e: print(e)
    else: raise AssertionError("a mask that does not fit was accepted")
assert check_masks(net, {"4": torch.ones(5, 64) > 0}) is None


# %% [markdown]
# The same parameter may hang in several layers (tied weights, an embedding that is also the output layer). A mask on one of them alone would be undone by the next, so all holders are looked up.

# %%
#| export
def _holders(model: nn.Module, weight: nn.Parameter) -> list[tuple[nn.Module, str]]:
    "Every (module, attribute name) of `model` that holds this very parameter"
    return [(m, n) for m in model.modules() for n, p in m.named_parameters(recurse=False, remove_duplicate=False) if p is weight]


# %%
_holders(tied, tied[0].weight)

# %%
assert _holders(tied, tied[0].weight) == [(tied[0], "weight"), (tied[1], "weight")] and _holders(tied, tied[1].bias) == [(tied[1], "bias")]
assert _holders(net, tied[0].weight) == []
twice = nn.Linear(2, 2); twice.again = twice.weight                          # one module may hold it under two names
assert _holders(twice, twice.weight) == [(twice, "weight"), (twice, "again")]


# %% [markdown]
# The first call registers the parametrization, later ones only copy the new mask in, so that an optimizer and a compiled network go on with the tensors they know.

# %%
#| export
def apply_masks(
    model: nn.Module,           # The network, changed in place
    masks: Mapping[str, Tensor],# Layer name → True where a weight is kept, shape `(*weight)`
) -> nn.Module:                 # The same network
    """Hold the weights outside the masks at exactly 0, now and through every later optimizer step.

    Raises: ValueError if a mask does not fit (see `check_masks`)."""
    check_masks(model, masks)
    modules = dict(model.named_modules())
    for name, mask in masks.items():
        weight = original(modules[name])
        mask = mask.detach().to(weight.device, copy=True)
        if parametrize.is_parametrized(modules[name], "weight"): modules[name].parametrizations.weight[0].mask.copy_(mask)
        else:
            masked = Masked(mask)
            for module, attribute in _holders(model, weight): parametrize.register_parametrization(module, attribute, masked)
    return model


# %%
masks = {"4": torch.zeros(5, 64, dtype=torch.bool)}
masks["4"][:, :3] = True
apply_masks(net, masks)
net[4].weight[0, :6]

# %% [markdown]
# Five steps with momentum and weight decay, which would both move a zero that nothing holds:

# %%
optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
for _ in range(5):
    optimizer.zero_grad()
    net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    assert (net[4].weight[~masks["4"]] == 0).all() and (net[4].weight[masks["4"]] != 0).all()

# %% [markdown]
# The network keeps a copy of its own, in which a second mask takes the place of the first; and whoever shares a weight shares its mask:

# %%
masks["4"][:, 3:] = True
assert (net[4].weight[:, 3:] == 0).all()                                    # the network has a copy
held = net[4].parametrizations.weight[0].mask
assert apply_masks(net, {"4": torch.arange(64).expand(5, 64) < 2}) is net
assert net[4].parametrizations.weight[0].mask is held and int(held.sum()) == 10 and (net[4].weight[:, 2:] == 0).all()
masks["4"][:, 3:] = False
apply_masks(net, masks)
try: apply_masks(net, {"4": masks["4"], "head": masks["4"]})
except ValueError: assert int(held.sum()) == 5 * 3                           # refused before anything was done
else: raise AssertionError("a mask of no layer was applied")
apply_masks(tied, {"0": torch.eye(3, dtype=torch.bool)})
assert (tied[1].weight == tied[0].weight).all() and int((tied[1].weight != 0).sum()) == 3
output_layer = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 4)); output_layer[1].weight = output_layer[0].weight
apply_masks(output_layer, {"1": torch.zeros(4, 2, dtype=torch.bool)})
assert (output_layer(torch.tensor([1])) == output_layer[1].bias).all()      # the embedding obeys the mask as well


# %% [markdown]
# Read back, a layer that was never masked counts as whole.

# %%
#| export
def get_masks(
    model: nn.Module,           # A network, masked or not
    ignore: Iterable[str] = (), # Layers that are left dense
) -> dict[str, Tensor]:         # Layer name → True where a weight is kept, shape `(*weight)`; copies
    "Read the mask of every prunable layer; all True where there is none."
    def read(layer):
        if parametrize.is_parametrized(layer, "weight"): return layer.parametrizations.weight[0].mask.clone()
        return torch.ones_like(layer.weight, dtype=torch.bool)
    return {name: read(layer) for name, layer in prunable(model, ignore).items()}


# %%
{name: int(mask.sum()) for name, mask in get_masks(net).items()}

# %%
assert torch.equal(get_masks(net)["4"], masks["4"]) and get_masks(net)["0"].all() and list(get_masks(net, ignore=["4"])) == ["0", "2"]
get_masks(net)["4"][:] = False
assert net[4].weight.any()                                                  # what is read is a copy


# %% [markdown]
# The rate that was reached is counted over all weights together: a small layer that is pruned to nothing changes it little.

# %%
#| export
def sparsity(
    masks: Mapping[str, Tensor], # Layer name → True where a weight is kept
) -> float:                      # Fraction of the weights that is pruned, 0 to 1
    "The achieved pruning rate over all the masks together."
    total = sum(m.numel() for m in masks.values())
    return 1 - sum(int(m.sum()) for m in masks.values()) / total


# %%
sparsity({"a": torch.tensor([True, True, True, False]), "b": torch.tensor([False])})

# %%
assert sparsity({"a": torch.tensor([True, True, True, False]), "b": torch.tensor([False])}) == 0.4 and sparsity({"a": torch.ones(3) > 0}) == 0


# %% [markdown]
# ## Leaving with ordinary weights
#
# A pruned network should load into the plain architecture, by anybody, without this package. `plain_state` is the network's `state_dict` as if no mask
# had ever been registered, with the zeros written in.

# %%
#| export
def plain_state(
    model: nn.Module,  # A network, masked or not
) -> dict[str, Tensor]:# What `state_dict` of the never-masked network would hold; pruned weights 0
    "The weights under their ordinary names, for a strict load into the plain architecture."
    dotted = ".parametrizations.weight."
    state = {k: v for k, v in model.state_dict().items() if dotted not in k}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"): state[f"{name}.weight" if name else "weight"] = module.weight.detach()
    return state


# %%
plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(64, 5))
plain.load_state_dict(plain_state(net), strict=True)

# %%
x = torch.randn(2, 3, 8, 8)
assert torch.equal(plain.eval()(x), net.eval()(x)) and int((plain[4].weight == 0).sum()) == 5 * 61


# %% [markdown]
# ## To and from `torch.nn.utils.prune`
#
# PyTorch's own pruning module keeps `weight_orig` and `weight_mask` in each layer. Both directions are offered: to hand a network to tools that expect that form, and to go on with one that was pruned there.

# %%
#| export
def to_torch_prune(
    model: nn.Module, # A network with masks from `apply_masks`, changed in place
) -> nn.Module:       # The same network, with `weight_orig` and `weight_mask` instead
    "Hand the masks over to `torch.nn.utils.prune`."
    for module in list(model.modules()):
        if not parametrize.is_parametrized(module, "weight"): continue
        mask = module.parametrizations.weight[0].mask
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        torch_prune.custom_from_mask(module, "weight", mask)
    return model


# %%
handed = to_torch_prune(nn.Sequential(nn.Linear(2, 2)).requires_grad_())
apply_masks(handed, {"0": torch.tensor([[True, False], [True, True]])})
sorted(n for n, _ in to_torch_prune(handed)[0].named_buffers())

# %%
assert not parametrize.is_parametrized(handed[0]) and handed[0].weight_mask.tolist() == [[1, 0], [1, 1]] and handed[0].weight[0, 1] == 0
assert handed[0].weight_orig[0, 1] != 0                                      # what lies under the mask goes along


# %% [markdown]
# A network that was pruned with torch's module goes on here, with the same zeros.

# %%
#| export
def from_torch_prune(
    model: nn.Module, # A network pruned with `torch.nn.utils.prune`, changed in place
) -> nn.Module:       # The same network, with this package's masks instead
    "Take the masks over from `torch.nn.utils.prune`."
    masks = {n: m.weight_mask.bool() for n, m in model.named_modules() if hasattr(m, "weight_mask")}
    for name, module in list(model.named_modules()):
        if name in masks: torch_prune.remove(module, "weight")
    return apply_masks(model, masks)


# %%
from_torch_prune(handed)
assert get_masks(handed)["0"].tolist() == [[True, False], [True, True]] and not hasattr(handed[0], "weight_mask")
get_masks(handed)
