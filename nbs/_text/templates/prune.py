# %% [markdown]
# # One pruning run
#
# > Dense, pruned, compared group by group: the notebook that papermill runs for each data set, method and rate

# %% [markdown]
# The cell below holds the settings; papermill puts its own under it. The defaults are the paper's protocol on FairFace, for a GPU. Everything that a run leaves lies in
# `runs/<name>-<hash of every setting that changes the result>/`; if that folder is complete already, the notebook only shows it.

# %% tags=["parameters"]
# data set: synthetic, utkface, fairface, celeba, people or folder (your own)
dataset: str = "fairface"
data_path: str = ""  # archive or folder of the set; empty: looked for under the data root
# label column to predict; "a*b" crosses two, "a+b" has a head for each; CelebA: "attributes", 39
# heads
task: str = "race"
# label column whose groups are compared; "a*b" crosses two; "clusters": found in the dense
# network's features
groups: str = "race"
# classes to keep, as "race=White,Black;gender=Male", or to leave out, as "race!=Others"; empty:
# the usual ones
classes: str = ""
# "race=White:0.2" keeps all White images and others with probability 0.2, before the split;
# empty: all
imbalance: str = ""
# how images are divided: photo (80/10/10 by photograph, always seed 42), person (by identity) or
# official (the set's own)
split: str = "photo"
limit: int = 0  # use only so many images, drawn at random (seed 42); 0: all
# use the images that are there; otherwise a missing file of the set is an error
partial: bool = False
# a torchvision classifier, timm:NAME, efficientnet_lite0, or the small resnet10
network: str = "resnet34"
# imagenet, none, or the path of a dense network's weights, which are used unchanged
weights: str = "imagenet"
image_size: int = 224  # side of the square images, pixels
# how a rectangle becomes a square: crop (its middle), squeeze (all of it, as in the public code)
# or pad (all, with black bars)
fit: str = "crop"
# pruning method: dense (no pruning), fairgrape, ws, lottery, lottery_short, importance, snip,
# grasp, random or magnitude
method: str = "fairgrape"
rate: float = 0.99  # pruning rate, the fraction of weights removed
keep: float = 0.9  # fraction kept at each pruning step (iterative methods)
# pruning in steps or at once: published (as the method was published), iterative or one shot
steps: str = "published"
# which weights share a budget: published (as the method was published), layer (the same rate in
# every layer) or global (one budget for all)
scope: str = "published"
as_released: bool = False  # the public code's importance and selection instead of the paper's
epochs: str = "13,3,3"  # epochs of each training stage, dense and after pruning
lrs: str = "1e-4,1e-5,1e-6"  # Adam's learning rate in each stage
retrain_epochs: int = 3  # epochs after each pruning step
retrain_lr: float = 1e-05  # learning rate after each pruning step
batch: int = 64  # images in a training batch
importance_batch: int = 64  # most images of one group in an importance batch
importance_cap: int = 0  # most images of a group that are used for the importance; 0: all
# training images that the importance sees, as "race=White" or "race!=White"; empty: all
importance_on: str = ""
# groups whose importance shares are kept, if not those compared; "clusters" as for groups
importance_groups: str = ""
clusters: int = 0  # number of clusters, where groups are clusters; 0: chosen by silhouette
augment: str = "paper"  # augmentation of training images: paper, flip or none
precision: str = "fp32"  # arithmetic of training (importance: fp32): fp32, bf16 or fp16
seed: int = 0  # initial weights, order of images, augmentation; not the split
bootstrap: int = 2000  # resamples for the intervals
accumulate: int = 1  # parts in which a training batch goes through the network, to save memory
compiled: bool = False  # use torch.compile: faster, needs a C++ compiler, other last digits
name: str = ""  # the run folder's name; empty: made of the settings
data_root: str = ""  # folder of the data sets; empty: settings.ini
runs_root: str = ""  # folder of the runs; empty: settings.ini
cache_root: str = ""  # folder of decoded images; empty: settings.ini
device: str = ""  # cuda, cuda:1, cpu …; empty: CUDA where there is one
threads: int = 0  # CPU threads; 0: the machine's choice
processes: int = 1  # processes that share this one run, one to a GPU
# where the importance lies: auto, device, host, or a folder, where memory is short
keep_on: str = "auto"
progress: bool = True  # show progress bars

# %% [markdown]
# A name that is not in the list above is an error, and so is a setting that cannot be; both are found here, before an image is read.

# %%
from fairgrape.experiment.settings import from_parameters

settings, places = from_parameters(globals())
settings

# %%
import time

from fairgrape.data.tables import label_columns
from fairgrape.experiment.clusters import clusters_table
from fairgrape.experiment.dense import dense_network, images_of, set_up, starting_network
from fairgrape.experiment.importance_data import find_clusters
from fairgrape.experiment.preparation import (
    check_images,
    group_counts,
    is_complete,
    prepare,
    run_folder,
)
from fairgrape.experiment.results import at_work, save_run
from fairgrape.experiment.run import layer_table, prune_network, run_together, share_table
from fairgrape.experiment.settings import form
from fairgrape.report.run_plots import (
    plot_groups,
    plot_history,
    plot_kept_shares,
    plot_shares,
    plot_sparsity,
)
from fairgrape.report.runs import load_run

started = time.perf_counter()
device, threads, together, keep = (
    places.pop(k, v)
    for k, v in (("device", ""), ("threads", 0), ("processes", 1), ("keep_on", "auto"))
)
where = set_up(device, threads)
job = prepare(settings, **places)
check_images(job)
folder = run_folder(job)
print(f"{folder.name} on {where}" + (": complete already" if is_complete(folder) else ""))

# %% [markdown]
# ## The data
#
# How many images of each group are in each part. The validation part chooses epochs; the test part is touched once, at the end.

# %%
if settings.groups != "clusters":
    display(group_counts(job))

# %% [markdown]
# ## The dense network
#
# Trained by the full schedule, or read from the run folder of the same settings; a file named by `weights` is taken as it is. Where groups are to be clusters, they are found in its features.

# %%
# several processes share this run; everything below is then only shown
if int(together) > 1 and not is_complete(folder):
    run_together(
        int(together),
        settings,
        threads,
        device=device,
        keep_on=keep,
        **{k: v for k, v in places.items() if k != "progress"},
    )
if not is_complete(folder):
    starting_network(job)  # says now if its weights cannot be had
    images = images_of(job, where, progress)
    dense = dense_network(job, images, where, progress)
    job, images = find_clusters(job, images, dense.model, where)
if job.clusters is not None:
    display(job.clusters.table, clusters_table(job.clusters, job.table, label_columns(job.table)))

# %% [markdown]
# ## Pruning
#
# Score, select, apply, and what the method does after each step; then the full schedule once more. A dense run has nothing to do here. After each epoch and each selection a checkpoint is written: if this notebook is
# killed, run it again with the same parameters, and it goes on from there.

# %%
if settings.method != "dense":
    print(
        f"{settings.method}: {form(settings).steps}, scope {form(settings).scope}. Published as:"
        f" {form(settings).published}"
    )

# %%
with at_work(folder):  # no other process computes this run meanwhile
    if not is_complete(folder):
        before = share_table(job, images, dense.model, where, keep_on=keep)
        pruned, steps = prune_network(job, images, dense, where, progress, keep_on=keep)
        layers = layer_table(before, share_table(job, images, pruned.model, where, keep_on=keep))
        save_run(job, dense, pruned, steps, layers, time.perf_counter() - started, where)

# %%
run = load_run(folder)
if len(run.history):
    display(plot_history(run.history))

# %%
if settings.method != "dense":
    display(plot_sparsity(run.layers))

# %% [markdown]
# ## Who paid for it
#
# Accuracy of each group before and after, on the test images, with 95 % intervals (the same images resampled for both networks). ρ is the standard deviation of the changes over the groups; its floor is what
# sampling alone would show if all groups had lost the same. A ρ inside its floor says nothing; a small one is no licence to deploy.

# %%
import pandas as pd

pd.set_option("display.html.use_mathjax", False)  # names of groups are no formulas
pd.DataFrame(run.metrics["table"]).set_index("group").round(2)

# %%
for sentence in run.metrics.get("notes", []):
    print(sentence)

# %%
if settings.method != "dense":
    display(pd.DataFrame(run.metrics["disparities"]).T.round(2), plot_groups(run.metrics))

# %% [markdown]
# ## What the weights are important for
#
# At each step, of the importance that the choice keeps in a layer: each group's share, less its target, which is its share of what was there before.
# A score with one group of everybody has no targets.

# %%
if len(run.choices):
    display(plot_kept_shares(run.choices))
elif settings.method != "dense":
    print(
        "No shares of the choice: this score has one group of everybody, or the run is older than"
        " their record."
    )

# %% [markdown]
# And each group's share of each layer's importance in the dense network and after the final training, which moves it again.

# %%
if settings.method != "dense":
    display(plot_shares(run.layers))

# %%
folder
