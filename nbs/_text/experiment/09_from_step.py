# %% [markdown]
# # From a kept step
#
# > A run at a lower rate continues from a step of a finished run, with the same bits at its end

# %%
#| default_exp experiment.from_step

# %%
#| export
import warnings
from dataclasses import replace
from pathlib import Path

from fairgrape.experiment.preparation import Job, is_complete, made_of, run_folder
from fairgrape.experiment.results import at_work
from fairgrape.experiment.settings import Settings, form
from fairgrape.method.schedule import schedule
from fairgrape.training.files import code_version
from fairgrape.training.kept_steps import kept_steps, read_step
from fairgrape.training.snapshots import checkpoint_files, save_checkpoint

# %%
import json
import tempfile

import numpy as np
import pandas as pd
from PIL import Image

from fairgrape.experiment.preparation import prepare
from fairgrape.experiment.run import run

home = Path(tempfile.mkdtemp())


# %% [markdown]
# A run at rate 0.99 and a run at rate 0.75, with half of the weights kept at each step, do the same work for two steps. Then the second has its final training, and the first goes on. If the first kept its steps ([kept steps](../training/09_kept_steps.ipynb)), the second can begin after them.
#
# ## The steps that two runs share
#
# These are the first steps whose rates agree. A method that rewinds does not train after its last step, so the last step of the shorter run is not one of them.

# %%
#| export
def shared_steps(
    settings: Settings,  # Of the run that is to begin
    other: Settings,  # Of the finished run; it differs in its rate only
) -> int:  # How many first steps are the same
    "How many steps two runs share that differ in their rate."
    ours, theirs = (schedule(s.rate, s.keep) for s in (settings, other))
    same = 0
    for mine, yours in zip(ours, theirs):
        if mine != yours:
            break
        same += 1
    return same - (form(settings).rewind and same == len(ours))


# %%
long = Settings(dataset="synthetic", method="fairgrape", rate=0.99, keep=0.5)
for rate in (0.75, 0.8, 0.99, 0.3):
    print(rate, shared_steps(replace(long, rate=rate), long))

# %%
# 0.5, 0.75, 0.875 … against 0.5, 0.75; against 0.5, 0.75, 0.8; against 0.3
assert [shared_steps(replace(long, rate=rate), long) for rate in (0.75, 0.8, 0.3)] == [2, 2, 0]
lottery = replace(long, method="lottery_short")
assert [shared_steps(replace(lottery, rate=rate), lottery) for rate in (0.75, 0.8)] == [1, 2]


# %% [markdown]
# ## Begin a run
#
# The kept step becomes the first checkpoint of the new run, which then resumes like any interrupted run. A checkpoint of other code, images or settings would not be resumed, so it is not used here either.

# %%
#| export
def _unusable(job: Job, source: Path, other: Settings, step: int) -> str:
    "Why the kept step cannot begin this run; empty if it can."
    if step not in kept_steps(source):
        return f"{source.name} did not keep step {step}"
    state = read_step(kept_steps(source)[step]).state
    if state["code"] != code_version():
        return f"{source.name} kept its steps with other code"
    if state["facts"]["made_of"] != made_of(replace(job, settings=other, name="")):
        return f"{source.name} has other settings, labels or images than this run"
    return ""


def begin_from(
    job: Job,  # The run that is to begin, of an iterative method
    source: Path,  # The folder of a run that kept its steps and differs in its rate only
    rate: float,  # The rate of that run
) -> int:  # The step to begin from; 0: the run begins with its dense network
    """Begin a run with the kept steps of another, unless it is begun already.

    Warns and leaves the run alone if the steps are of other code, settings or images. Raises:
    ValueError for a damaged file.
    """
    other = replace(job.settings, rate=rate)
    step, folder = shared_steps(job.settings, other), run_folder(job)
    with at_work(folder):  # another process may just begin it
        if not step or is_complete(folder) or checkpoint_files(folder / "checkpoints"):
            return 0
        if why := _unusable(job, source, other, step):
            warnings.warn(f"{why}: the run begins with its dense network", stacklevel=2)
            return 0
        found = read_step(kept_steps(source)[step])
        facts = found.state["facts"] | dict(
            made_of=made_of(job), begun_from=f"{source.name}, step {step}"
        )
        save_checkpoint(folder / "checkpoints", 0, found.tensors, found.state | dict(facts=facts))
    return step


# %% [markdown]
# A run of three steps keeps them. A run of its first two steps begins from the second, trains for the final epochs only, and ends with the same weights and predictions as a run that did everything itself.

# %%
rng = np.random.default_rng(0)
(home / "own").mkdir()
for i in range(120):
    pixels = rng.integers(0, 120, (16, 16, 3)) + 90 * (i % 2)
    pixels[..., 2 * (i % 3 > 0)] += 40
    Image.fromarray(pixels.astype(np.uint8)).save(home / "own" / f"{i}.png")
pd.DataFrame(
    [
        dict(file=f"{i}.png", shade="dark light".split()[i % 2], tint="red" if i % 3 else "blue")
        for i in range(120)
    ]
).to_csv(home / "own" / "labels.csv", index=False)
tiny = Settings(
    dataset="folder",
    data_path=str(home / "own"),
    task="shade",
    groups="tint",
    network="resnet10",
    weights="none",
    image_size=16,
    rate=0.875,
    keep=0.5,
    epochs="1,1",
    lrs="1e-3,1e-4",
    retrain_epochs=1,
    retrain_lr=1e-4,
    batch=16,
    bootstrap=100,
)
places = dict(data_root=home, cache_root=home / "cache", progress=None, device="cpu")
whole = run(tiny, runs_root=home / "runs", keep_steps=True, **places)
for file in (whole / "model.safetensors", *kept_steps(whole).values()):
    print(f"{file.name[:6]} {file.stat().st_size:>10,} bytes")

# %%
lower = replace(tiny, rate=0.75)
job = prepare(lower, runs_root=home / "runs", **places)
print(begin_from(job, whole, tiny.rate))
begun = run(lower, runs_root=home / "runs", **places)
alone = run(lower, runs_root=home / "alone", **places)
json.loads((begun / "environment.json").read_text())["begun_from"]

# %%
assert list(kept_steps(whole)) == [1, 2, 3] and begun.name == alone.name
for file in ("model.safetensors", "masks.safetensors", "predictions.parquet"):
    assert (begun / file).read_bytes() == (alone / file).read_bytes(), file
two = [pd.read_csv(folder / "steps.csv").filter(regex="^(?!.*_s$)") for folder in (begun, alone)]
pd.testing.assert_frame_equal(*two)
assert begin_from(job, whole, tiny.rate) == 0  # complete already
# the steps of other settings are not used, nor is a run without kept steps
for settings, source, hint in [
    (replace(lower, seed=1), whole, "other settings"),
    (replace(lower, rate=0.5), alone, "did not keep step 1"),
]:
    job = prepare(settings, runs_root=home / "other", **places)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert begin_from(job, source, tiny.rate) == 0
    assert hint in str(heard[-1].message)
    assert not run_folder(job).exists()
