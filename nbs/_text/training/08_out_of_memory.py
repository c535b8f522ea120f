# %% [markdown]
# # Out of memory
#
# > What is said when memory runs out: which part wanted it, and which setting to lower

# %%
#| default_exp training.out_of_memory

# %%
#| export
from collections.abc import Iterator
from contextlib import contextmanager

import torch


# %% [markdown]
# The commonest failure on a GPU has the least helpful message: it says how many bytes were missing and not which setting to lower. Whoever starts a memory-hungry part says what that part is and what would help.
#
# Libraries do not agree on what the error is. torch raises a class of its own on GPUs and a plain `RuntimeError` on the CPU, whose text is all there is to go by; cuDNN and oneDNN have texts of their own.

# %%
#| export
def ran_out(
    error: BaseException,  # Any error
) -> bool:  # Whether memory was missing
    """Tell a lack of memory from other errors: torch raises a class of its own on GPUs, and a
    plain RuntimeError on the CPU.
    """
    signs = "can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED"
    said = isinstance(error, RuntimeError) and any(s in str(error) for s in signs)
    return said or isinstance(error, (torch.OutOfMemoryError, MemoryError))


# %%
try:
    torch.empty(2**50, dtype=torch.uint8)
except RuntimeError as e:
    print(type(e).__name__, ran_out(e))
    assert ran_out(e)
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
assert all(map(ran_out, missing)) and not any(
    map(ran_out, (RuntimeError("shapes differ"), ValueError("out of memory"), KeyboardInterrupt()))
)


# %% [markdown]
# What is raised instead has a class of its own, so that it is told once: where one part runs within another, the inner one knows better which setting is meant, and its advice stands.

# %%
#| export
class OutOfMemory(MemoryError):
    "Memory ran out; the message names the settings to lower"


@contextmanager
def memory_errors(
    what: str,  # What is being done, e.g. "training"
    advice: str,  # Which settings to change
) -> Iterator[None]:
    "Within, a lack of memory is reported as `OutOfMemory` with advice; inner advice stands."
    try:
        yield
    except OutOfMemory:
        raise
    except (RuntimeError, MemoryError) as e:
        if not ran_out(e):
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
