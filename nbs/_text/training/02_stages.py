# %% [markdown]
# # Schedules
#
# > The learning rates and epochs of a training, and the seeds of its random numbers

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
# The paper trains in three stages: 13 epochs at 1e-4, 3 at 1e-5 and 3 at 1e-6. Each stage passes its best epoch to the next.

# %%
#| export
@dataclass(frozen=True)
class Stage:
    "Some epochs at one learning rate."

    lr: float  # Adam's learning rate, > 0
    epochs: int  # Number of epochs, ≥ 1

    def __post_init__(self):
        if not 0 < self.lr < math.inf:
            raise ValueError(f"learning rate {self.lr}: it must be a positive number, such as 1e-4")
        if self.epochs < 1:
            raise ValueError(
                f"{self.epochs} epochs at learning rate {self.lr:g}: give at least 1, or leave the"
                " stage out"
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
# The settings are two lists, epochs and learning rates, because a grid varies these. In a grid file and on a command line they are text. A list of one may be the number itself.

# %%
#| export
def _numbers(text: str | float, kind: type, setting: str) -> list:
    "Parse numbers separated by commas; `setting` is the name for the error."
    try:
        return [kind(part) for part in str(text).split(",")]
    except ValueError as e:
        raise ValueError(
            f"{setting} = {str(text)!r}: write {'whole ' if kind is int else ''}numbers separated"
            " by commas"
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
# The two lists must have the same length. Otherwise a forgotten comma would give a network that trained for a third of the time.

# %%
#| export
def stages(
    epochs: str | int = "13,3,3",  # Epochs of each stage
    lrs: str | float = "1e-4,1e-5,1e-6",  # Learning rate of each stage
) -> list[Stage]:  # The schedule, in order
    """Read a schedule from two settings; the defaults are the paper's.

    Raises: ValueError if they are not numbers, or differ in length.
    Source: paper §4.1 and its public code.
    """
    e, r = _numbers(epochs, int, "epochs"), _numbers(lrs, float, "lrs")
    if len(e) != len(r):
        raise ValueError(
            f"epochs = {str(epochs)!r} has {len(e)} stages, but lrs = {str(lrs)!r} has {len(r)}:"
            " give one learning rate per stage"
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
# The names for the arithmetic of training. [Epochs](03_epochs.ipynb) defines what each one means in torch.

# %%
#| export
PRECISIONS = ("fp32", "bf16", "fp16")


# %% [markdown]
# ## Randomness
#
# An epoch draws random numbers for the order of the images, the augmentation and dropout. Each epoch has its own seed, made
# from the run's seed, the training phase, the stage and the epoch. So epoch 3 of the second pruning step does not depend on
# earlier random numbers, and an interrupted run can resume from a saved step.

# %%
#| export
def seed_of(
    seed: int,  # The run's seed
    *where: str | int,  # Its purpose, e.g. the label, the stage and the epoch
) -> int:  # 0 ≤ seed < 2⁶³
    "A seed for one purpose in a run."
    return int.from_bytes(hashlib.sha256(repr((seed, *where)).encode()).digest()[:8], "big") >> 1


# %%
seed_of(0, "dense", 0, 0), seed_of(0, "dense", 0, 1)

# %% [markdown]
# These seeds are part of the meaning of a run's settings: another derivation would train other networks under the same name. So a test pins one seed.

# %%
assert seed_of(0, "dense", 0, 0) == 4901834043287348809
assert (
    len({seed_of(s, label, e) for s in range(3) for label in ("dense", "step-1") for e in range(3)})
    == 18
)
assert all(0 <= seed_of(n, "x") < 2**63 for n in range(100)) and seed_of(1, 23) != seed_of(12, 3)


# %% [markdown]
# Code that needs its own random numbers names their purpose, here or in `stream` of [Scores](../methods/02_scores.ipynb), which makes a generator from such a seed. The draws that choose the images and rows of a run are older than this rule and fixed by finished runs. They use the run's seed directly
# (`drawn` in [Loaders](../data/19_loaders.ipynb), `split_table`, the imbalance), or the seed with a photo's name or a face's position in the rendered set.

# %% [markdown]
# torchvision's augmentation and dropout draw from torch's global generator. So `seeded` seeds that generator for one epoch and
# restores the caller's state afterwards. On a GPU it sets cuDNN to its deterministic algorithms.

# %%
#| export
@contextmanager
def seeded(
    seed: int,  # The seed, from `seed_of`
    device: "torch.device | str" = "cpu",  # Where to compute
    # A generator on the CPU with the same seed, for the order of the images
) -> "Iterator[torch.Generator]":
    """Make all randomness in the block depend only on `seed`, and leave the caller's generators
    unchanged.
    """
    import torch  # imported here because checks of settings do not need it

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
