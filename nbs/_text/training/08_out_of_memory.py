# %% [markdown]
# # Out of memory
#
# > The error when memory runs out: it names the part that needed it and the setting to lower

# %%
#| default_exp training.out_of_memory

# %%
#| export
from collections.abc import Iterator
from contextlib import contextmanager

import torch


# %% [markdown]
# The most common failure on a GPU has an unhelpful message: it gives the missing bytes, but not the setting to lower. So code that needs much memory names itself and the settings that help.
#
# Libraries raise different errors. torch raises its own class on GPUs and a plain `RuntimeError` on the CPU, which only its text identifies; cuDNN and oneDNN have their own texts.

# %%
#| export
def _ran_out(
    error: BaseException,  # Any error
) -> bool:  # Whether memory was missing
    """Distinguish a lack of memory from other errors: torch raises its own class on GPUs, and a
    plain RuntimeError on the CPU.
    """
    signs = "can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED"
    said = isinstance(error, RuntimeError) and any(s in str(error) for s in signs)
    return said or isinstance(error, (torch.OutOfMemoryError, MemoryError))


# %%
try:
    torch.empty(2**50, dtype=torch.uint8)
except RuntimeError as e:
    print(type(e).__name__, _ran_out(e))
    assert _ran_out(e)
missing = (
    torch.OutOfMemoryError("Tried to allocate 2.00 GiB"),
    MemoryError("no room"),
    *(
        RuntimeError(f"x {s} y")
        for s in (
            "can't allocate memory",
            "not enough memory",
            "out of memory",
            "CUDNN_STATUS_ALLOC_FAILED",
        )
    ),
)
assert all(map(_ran_out, missing)) and not any(
    map(_ran_out, (RuntimeError("shapes differ"), ValueError("out of memory"), KeyboardInterrupt()))
)


# %% [markdown]
# The new error has its own class, so it is reported once: if one part runs inside another, the advice of the inner part is more specific and is kept.

# %%
#| export
class OutOfMemory(MemoryError):
    "Memory ran out; the message names the settings to lower."


@contextmanager
def memory_errors(
    what: str,  # The task, e.g. "training"
    advice: str,  # Which settings to change
) -> Iterator[None]:
    "Raise a lack of memory in the block as `OutOfMemory` with advice; inner advice is kept."
    try:
        yield
    except OutOfMemory:
        raise
    except (RuntimeError, MemoryError) as e:
        if not _ran_out(e):
            raise
        raise OutOfMemory(
            f"{what} ran out of memory: {advice}. ({str(e).strip().splitlines()[0][:160]})"
        ) from e


# %%
try:
    with memory_errors("training", "lower batch (now 64)"):
        torch.empty(2**50, dtype=torch.uint8)
except OutOfMemory as e:
    print(e)


# %%
def reported(error, advice="lower batch"):
    try:
        with memory_errors("training", advice):
            raise error
    except Exception as e:
        return e


for error in (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError("no room"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
):
    assert (
        isinstance(reported(error), OutOfMemory)
        and "lower batch" in str(reported(error))
        and str(error)[:10] in str(reported(error))
    )
assert (
    type(reported(RuntimeError("shapes differ"))) is RuntimeError
    and type(reported(ValueError("out of memory"))) is ValueError
)
assert (
    str(reported(reported(MemoryError("x"), "the inner advice"), "the outer"))
    == "training ran out of memory: the inner advice. (x)"
)
