# %% [markdown]
# # Recovery
#
# > Restoring earlier weights under the masks, as the lottery ticket does after each step

# %%
#| default_exp methods.recovery

# %%
#| export
from collections.abc import Mapping

from torch import Tensor, nn

# %%
import torch

from fairgrape.method.masks import apply_masks, plain_state
from fairgrape.method.pruning import prune
from fairgrape.method.selectors import select_top
from fairgrape.methods.scores import magnitude_score


# %% [markdown]
# The lottery ticket keeps a mask and discards the training: after each pruning step the remaining weights return to their values *before* training, and a new round begins. `rewind` does this
# under existing masks. It also restores the statistics of batch norm, because they belong to those weights.

# %%
#| export
def _home(name: str, own: Mapping[str, Tensor]) -> str:
    "The name of a plain name's tensor in a network that may be masked: under the parametrization."
    module, _, last = name.rpartition(".")
    masked = f"{module}{'.' if module else ''}parametrizations.{last}.original"
    return masked if masked in own else name


# %%
half = apply_masks(
    nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)),
    {"0": torch.tensor([[True, False], [True, True]])},
)
[_home(name, half.state_dict()) for name in ("0.weight", "0.bias", "1.weight")]

# %%
assert (
    _home("0.weight", half.state_dict()) == "0.parametrizations.weight.original"
    and _home("1.weight", half.state_dict()) == "1.weight"
)
# the network is the layer: its name is ""
alone = apply_masks(nn.Linear(2, 1), {"": torch.tensor([[True, False]])})
assert (
    _home("weight", alone.state_dict()) == "parametrizations.weight.original"
    and _home("bias", alone.state_dict()) == "bias"
)


# %% [markdown]
# An earlier state may lack masks, but nothing else. Any other tensor that is missing, new or of another shape means that the weights belong to another network. This raises an error.

# %%
#| export
def rewind(
    model: nn.Module,  # A network, masked or not, changed in place; its masks stay
    # Weights under their plain names, e.g. the network's `state_dict()` before training
    state: Mapping[str, Tensor],
) -> nn.Module:  # The same network
    """Restore earlier weights under the masks.

    Raises: ValueError if `state` does not belong to this network.
    Source: Frankle & Carbin 2019."""
    own = model.state_dict()
    home = {_home(name, own): value for name, value in state.items()}
    masks = {
        name: value
        for name, value in own.items()
        if name.endswith("parametrizations.weight.0.mask")
    }
    wrong = sorted(set(home) ^ set(own) - set(masks)) or sorted(
        n for n in home if home[n].shape != own[n].shape
    )
    if wrong:
        raise ValueError(
            f"weights of another network, different in {', '.join(wrong[:5])}: rewind to its own"
            " earlier state"
        )
    model.load_state_dict(home | masks)
    return model


# %%
def deep_net(depth=3, outputs=3):
    torch.manual_seed(0)

    def block(i):
        return (
            nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )

    parts = [part for i in range(depth) for part in block(i)]
    return nn.Sequential(
        *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, outputs)
    )


net = deep_net()
before = {n: t.clone() for n, t in net.state_dict().items()}
with torch.no_grad():
    for p in net.parameters():
        p += 1  # "training"
    net[1].running_mean += 7
mask = torch.zeros(8, 3, 3, 3, dtype=torch.bool)
mask[0, 0, 0] = True
apply_masks(net, {"0": mask})
rewind(net, before)
print(net[0].weight[0, 0].detach(), before["0.weight"][0, 0], sep="\n")
assert (
    torch.equal(net[0].weight, before["0.weight"] * mask) and net[1].running_mean.abs().max() == 0
)
after = plain_state(net)
assert rewind(
    alone, {"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.ones(1)}
).weight.tolist() == [[3, 0]]
assert all(torch.equal(after[n], before[n]) for n in before if n != "0.weight")
for bad in (
    {n: t for n, t in before.items() if n != "1.bias"},
    before | {"0.weight": torch.ones(8, 1, 3, 3)},
):
    try:
        rewind(net, bad)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("another network's weights were taken")

# %% [markdown]
# In the loop, `rewind` is part of `retrain`: restore the start, then train. Here the training is noise, to show that each round begins from the same weights:

# %%
torch.manual_seed(0)
ticket, rounds = nn.Sequential(nn.Linear(6, 6)), []
start = {n: t.clone() for n, t in ticket.state_dict().items()}


def round_of(model, step):
    rewind(model, start)
    rounds.append(model[0].weight.detach().clone())
    with torch.no_grad():
        model[0].parametrizations.weight.original.normal_()


prune(ticket, 0.75, magnitude_score, select_top, keep=0.5, retrain=round_of, on_step=print)
print([int((w != 0).sum()) for w in rounds])
assert [int((w != 0).sum()) for w in rounds] == [18, 9] and all(
    torch.equal(w[w != 0], start["0.weight"][w != 0]) for w in rounds
)
