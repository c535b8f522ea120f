# %% [markdown]
# # Schedules
#
# > When a network is trained at which rate, and where its random numbers come from

# %%
#| default_exp training.stages

# %%
#| export
import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# %%
import torch


# %% [markdown]
# The paper trains in three stages, 13 epochs at 1e-4, 3 at 1e-5 and 3 at 1e-6, and a stage hands its best epoch to the next.

# %%
#| export
@dataclass(frozen=True)
class Stage:
    "Some epochs at one learning rate."

    lr: float  # Adam's learning rate, > 0
    epochs: int  # How many, ≥ 1

    def __post_init__(self):
        if not 0 < self.lr < math.inf:
            raise ValueError(f"learning rate {self.lr}: it must be a positive number, such as 1e-4")
        if self.epochs < 1:
            raise ValueError(
                f"{self.epochs} epochs at learning rate {self.lr:g}: a stage has at least 1, or"
                " leave it out"
            )


# %%
Stage(lr=1e-4, epochs=13)

# %%
assert Stage(1e-4, 13) == Stage(epochs=13, lr=1e-4) and Stage(1e-4, 1).epochs == 1
for wrong in [
    dict(lr=-1e-4, epochs=3),
    dict(lr=0.0, epochs=3),
    dict(lr=1e-4, epochs=0),
    dict(lr=float("nan"), epochs=1),
    dict(lr=math.inf, epochs=1),
]:
    try:
        Stage(**wrong)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{wrong} was accepted")


# %% [markdown]
# Settings come as two lists, epochs and learning rates, because that is what one varies in a grid. In a grid file and on a command line they are text. A list of one may be the number itself.

# %%
#| export
def _numbers(text: str | float, kind: type, setting: str) -> list:
    "The int or float numbers between commas; the setting's name is for the message"
    try:
        return [kind(part) for part in str(text).split(",")]
    except ValueError as e:
        raise ValueError(
            f"{setting} = {str(text)!r}: write {'whole ' if kind is int else ''}numbers with commas"
            " between them"
        ) from e


# %%
print(_numbers("13,3", int, "epochs"), _numbers(1e-5, float, "lrs"))
assert (
    _numbers("13, 3", int, "epochs") == [13, 3]
    and _numbers("1e-4,1", float, "lrs") == [1e-4, 1.0]
    and _numbers(2, int, "epochs") == [2]
)
for wrong in [("13;3", int), ("1.5", int), ("fast", float), ("3,", float)]:
    try:
        _numbers(*wrong, "setting")
    except ValueError as e:
        print(e)
        assert ("whole" in str(e)) is (wrong[1] is int)
    else:
        raise AssertionError(f"{wrong} was read")


# %% [markdown]
# The two lists must be of one length: a forgotten comma would otherwise show up as a network that trained for a third of its time.

# %%
#| export
def stages(
    epochs: str | int = "13,3,3",  # Epochs of each stage
    lrs: str | float = "1e-4,1e-5,1e-6",  # Learning rate of each stage
) -> list[Stage]:  # The schedule, in order
    """Read a schedule from two settings; the defaults are the paper's.

    Raises: ValueError where they are no numbers, or not equally many.
    Source: paper §4.1 and its public code"""
    e, r = _numbers(epochs, int, "epochs"), _numbers(lrs, float, "lrs")
    if len(e) != len(r):
        raise ValueError(
            f"epochs = {str(epochs)!r} has {len(e)} stages, but lrs = {str(lrs)!r} has {len(r)}:"
            " one learning rate a stage"
        )
    return [Stage(lr, n) for n, lr in zip(e, r)]


# %%
stages()

# %%
assert stages("13,3", "1e-4,1e-5") == [Stage(1e-4, 13), Stage(1e-5, 3)]
assert stages(1, 1e-5) == [Stage(1e-5, 1)]
for wrong in [
    ("13,3", "1e-4"),
    ("13;3", "1e-4,1e-5"),
    ("3", "fast"),
    ("3", "-1e-4"),
    ("0", "1e-4"),
]:
    try:
        stages(*wrong)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError(f"{wrong} was accepted")

# %% [markdown]
# ## Precision
#
# The words for the arithmetic of training. What each one means to torch stands in [epochs](03_epochs.ipynb).

# %%
#| export
PRECISIONS = ("fp32", "bf16", "fp16")


# %% [markdown]
# ## Randomness
#
# An epoch draws random numbers for the order of the images, the augmentation and dropout. Each epoch gets a seed of its own, made
# from the run's seed, what is being trained, the stage and the epoch. So epoch 3 of the second pruning step is the same whether or
# not somebody drew a random number before it, and a run that was cut off can go on from a saved step.

# %%
#| export
def seed_of(
    seed: int,  # The run's seed
    *where: str | int,  # What it is for, e.g. the label, the stage and the epoch
) -> int:  # 0 ≤ seed < 2⁶³
    "Make a seed for one place of a run."
    return int.from_bytes(hashlib.sha256(repr((seed, *where)).encode()).digest()[:8], "big") >> 1


# %%
seed_of(0, "dense", 0, 0), seed_of(0, "dense", 0, 1)

# %% [markdown]
# These numbers are part of what a run's settings mean: another way to make them would train other networks under the same name. So one is written down.

# %%
assert seed_of(0, "dense", 0, 0) == 4901834043287348809
assert (
    len({seed_of(s, label, e) for s in range(3) for label in ("dense", "step-1") for e in range(3)})
    == 18
)
assert all(0 <= seed_of(n, "x") < 2**63 for n in range(100)) and seed_of(1, 23) != seed_of(12, 3)


# %% [markdown]
# Whoever needs random numbers of its own names what they are for, here or in `stream` of [Scores](../methods/02_scores.ipynb), which makes a generator of such a seed. The draws that decide which images and rows a run sees are older than this rule and pinned by finished runs: they use the run's seed as it is
# (`drawn` in [Loaders](../data/19_loaders.ipynb), `split_table`, the imbalance), or the seed with a photo's name or a face's place in the rendered set.

# %% [markdown]
# torchvision's augmentation and dropout draw from torch's global generator, so that one is seeded for the length of the epoch, and
# the caller's state is put back afterwards. On a GPU cuDNN is told to use its deterministic algorithms.

# %%
#| export
@contextmanager
def seeded(
    seed: int,  # The seed, from `seed_of`
    device: "torch.device | str" = "cpu",  # Where the work is done
    # A generator on the CPU with the same seed, for the order of the images
) -> "Iterator[torch.Generator]":
    """Make everything random within depend on `seed` alone, and leave the caller's generators
    as they were.
    """
    import torch  # here, since settings are checked without it

    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with (
        torch.random.fork_rng(devices=cuda),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


# %%
with seeded(5) as generator:
    order, noise = torch.randperm(4, generator=generator), torch.rand(2)
order, noise

# %%
before = torch.random.get_rng_state()
with seeded(5) as generator:
    assert torch.equal(torch.randperm(4, generator=generator), order) and torch.equal(
        torch.rand(2), noise
    )
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
with seeded(6):
    different = torch.rand(2)
assert not torch.equal(different, noise) and torch.equal(torch.random.get_rng_state(), before)
