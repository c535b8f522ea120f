# %% [markdown]
# # Kept steps
#
# > The network after each pruning step, in a compact file: masks as bits, kept weights only

# %%
#| default_exp training.kept_steps

# %%
#| export
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fairgrape.training.journal import MASK, Journal
from fairgrape.training.snapshots import (
    Checkpoint,
    checkpoint_files,
    read_checkpoint,
    write_checkpoint,
)

# %%
import tempfile

from fairgrape.method.masks import apply_masks, get_masks, plain_state

home = Path(tempfile.mkdtemp())


# %% [markdown]
# An iterative run visits every pruning rate on its way to the last. With `keep_steps` the network of each step stays in the run's folder, so that a lower rate can be judged, and continued, without pruning again.
#
# ## Fewer bytes, the same network
#
# At a rate of 0.9, nine of ten weights in a checkpoint are zeros or values that the mask hides. A packed checkpoint has one bit for each weight of a masked layer, and the kept weights in float32.

# %%
#| export
def _weight_of(mask: str) -> str:
    "The name of a masked layer's weights in a state, from that of its mask."
    return mask.removesuffix("0.mask") + "original"


def pack(
    tensors: Mapping[str, Tensor],  # A checkpoint's tensors
) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    "Replace each mask by its bits and each masked weight by its kept values; and the shapes."
    packed, shapes = dict(tensors), {}
    for name, mask in tensors.items():
        if not name.endswith(MASK.removeprefix(".")):
            continue
        weight = _weight_of(name)
        bits = nn.functional.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % 8))
        powers = 2 ** torch.arange(8, dtype=torch.uint8, device=mask.device)
        packed[name] = (bits.view(-1, 8) * powers).sum(1, dtype=torch.uint8)
        packed[weight] = tensors[weight][mask]
        shapes[name] = list(mask.shape)
    return packed, shapes


def unpack(
    packed: Mapping[str, Tensor],  # From `pack`
    shapes: Mapping[str, list[int]],  # From `pack`
) -> dict[str, Tensor]:  # The tensors; weights outside of the masks are 0
    "Undo `pack`."
    tensors = dict(packed)
    for name, shape in shapes.items():
        weight = _weight_of(name)
        bits = packed[name][:, None] >> torch.arange(8, dtype=torch.uint8) & 1
        mask = bits.flatten()[: torch.Size(shape).numel()].view(shape).bool()
        tensors[name] = mask
        tensors[weight] = packed[weight].new_zeros(shape).masked_scatter_(mask, packed[weight])
    return tensors


# %%
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2, bias=False))
apply_masks(net, {"0": torch.arange(15).view(5, 3) % 4 == 1, "2": torch.ones(2, 5).bool()})
packed, shapes = pack(net.state_dict())
{name: list(tensor.shape) for name, tensor in packed.items()}

# %%
# weights 1, 5, 9 and 13 of the first layer are kept: bits 1 and 5 of both bytes
assert packed["0.parametrizations.weight.0.mask"].tolist() == [0b00100010, 0b00100010]
assert torch.equal(packed["0.parametrizations.weight.original"], net[0].weight[get_masks(net)["0"]])
assert shapes == {
    "0.parametrizations.weight.0.mask": [5, 3],
    "2.parametrizations.weight.0.mask": [2, 5],
}
copy = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2, bias=False))
apply_masks(copy, get_masks(net))
copy.load_state_dict(unpack(packed, shapes))
for (name, mine), theirs in zip(plain_state(copy).items(), plain_state(net).values(), strict=True):
    assert torch.equal(mine, theirs), name
plain = dict(w=torch.arange(3.0))
assert pack(plain) == (plain, {}) and unpack(plain, {}) == plain


# %% [markdown]
# ## In a run's folder
#
# The files are those of a [checkpoint](06_snapshots.ipynb), with a checksum in their names, in the run's folder `steps`. They are written after a step's retraining and stay when the run is complete. The number of the file is that of the step.

# %%
#| export
def keep_step(
    journal: Journal,  # The run's journal
    model: nn.Module,  # The network after the step's retraining
    step: int,  # The step's number, from 1
):
    "Write the packed network of a pruning step. Raises: OSError if it cannot be written."
    if journal.folder is None:
        return
    tensors, values = journal.snapshot(model)
    packed, shapes = pack(tensors)
    path = write_checkpoint(journal.folder / "steps", step, packed, values | dict(shapes=shapes))
    for old in path.parent.glob(f"{step:06}-*"):
        if old != path:  # of a process that was killed
            old.unlink()


def kept_steps(
    folder: Path,  # A run's folder
) -> dict[int, Path]:  # Step → its file, in order
    "The kept steps of a run."
    return {int(f.name[:6]): f for f in reversed(checkpoint_files(folder / "steps"))}


def read_step(
    path: Path,  # A file of `keep_step`
) -> Checkpoint:  # As the run had it after that step
    "Read a kept step. Raises: ValueError if it is damaged, or is not a kept step."
    found = read_checkpoint(path)
    if "shapes" not in found.state:
        raise ValueError(f"{path.name} is a checkpoint, but not a kept step")
    state = {k: v for k, v in found.state.items() if k != "shapes"}
    return replace(found, tensors=unpack(found.tensors, found.state["shapes"]), state=state)


# %%
journal = Journal(home / "run", steps=[dict(step=1)])
for step in (1, 2, 2):  # the second file of step 2 holds another time
    keep_step(journal, net, step)
{step: path.suffix for step, path in kept_steps(home / "run").items()}

# %%
assert list(kept_steps(home / "run")) == [1, 2] and kept_steps(home / "none") == {}
assert len(list((home / "run" / "steps").iterdir())) == 2
found = read_step(kept_steps(home / "run")[2])
assert found.number == 2 and found.state["steps"] == [dict(step=1)]
state = {
    k.removeprefix("network:"): v for k, v in found.tensors.items() if k.startswith("network:")
}
back = Journal(network=state).restore(copy)
for (name, mine), theirs in zip(plain_state(back).items(), plain_state(net).values(), strict=True):
    assert torch.equal(mine, theirs), name
keep_step(Journal(), net, 1)  # writes nothing
other = write_checkpoint(home / "other", 1, dict(w=torch.zeros(1)), {})
try:
    read_step(other)
except ValueError as e:
    print(e)
    assert "not a kept step" in str(e)
else:
    raise AssertionError("a checkpoint was read as a kept step")
