# %% [markdown]
# # One pruning run
#
# > Dense, pruned, compared group by group: the notebook that papermill runs for each data set, method and rate

# %% [markdown]
# The cell below holds the settings, and papermill adds its own cell after it. The defaults are the paper's protocol on FairFace, for a GPU. A run writes all of its results to
# `runs/<name>-<hash of every setting that changes the result>/`. If that folder is already complete, the notebook only shows it.

# %% tags=["parameters"]
# data set: synthetic, utkface, fairface, celeba, people or folder (your own)
dataset: str = "fairface"
data_path: str = ""  # archive or folder of the data set; empty: searched for under the data root
# label column to predict; "a*b" crosses two, "a+b" has a head for each; CelebA: "attributes", 39
# heads
task: str = "race"
# label column whose groups are compared; "a*b" crosses two; "clusters": groups found in the dense
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
limit: int = 0  # use only this many images, drawn at random (seed 42); 0: all
# use the images that exist; otherwise a missing file of the data set is an error
partial: bool = False
# a torchvision classifier, timm:NAME, efficientnet_lite0, or the small resnet10
network: str = "resnet34"
# imagenet, none, or the path of a dense network's weights, which are used unchanged
weights: str = "imagenet"
image_size: int = 224  # side of the square images, pixels
# how a rectangular image becomes a square: crop (its middle), squeeze (all of it, as in the
# public code) or pad (all, with black bars)
fit: str = "crop"
# pruning method: dense (no pruning), fairgrape, ws, lottery, lottery_short, importance, snip,
# grasp, random, magnitude or fairprune
method: str = "fairgrape"
rate: float = 0.99  # pruning rate, the fraction of weights removed
keep: float = 0.9  # fraction kept at each pruning step (iterative methods)
# pruning in steps or at once: published (as the method was published), iterative or one shot
steps: str = "published"
# which weights share a budget: published (as the method was published), layer (the same rate in
# every layer), global (one budget for all) or erk (budgets by the layers' shapes)
scope: str = "published"
as_released: bool = False  # use the public code's importance and selection instead of the paper's
# what is trained on between and after the pruning steps: plain (the mean loss),
# performance-weighted (more on what the dense network found hard), constrained (a bound on each
# group's excess drop), worst-group (groups weighted by their losses, group DRO), tail (the images
# with the largest losses) or balanced (as many images of each group)
recover: str = "plain"
# with recover = constrained: how much more accuracy a group may lose than all, points
tolerance: float = 2.0
epochs: str = "13,3,3"  # epochs of each training stage, dense and after pruning
lrs: str = "1e-4,1e-5,1e-6"  # Adam's learning rate in each stage
retrain_epochs: int = 3  # epochs after each pruning step
retrain_lr: float = 1e-05  # learning rate after each pruning step
# epochs of all training after the dense network's: the final stages get what the steps leave; 0:
# the stages as they are
epochs_in_all: int = 0
batch: int = 64  # images in a training batch
importance_batch: int = 64  # maximum images of one group in an importance batch
importance_cap: int = 0  # maximum images of a group used for the importance; 0: all
# training images used for the importance, as "race=White" or "race!=White"; empty: all
importance_on: str = ""
# groups whose importance shares are kept, if not those compared; "clusters": as in groups
importance_groups: str = ""
clusters: int = 0  # number of clusters, if groups are clusters; 0: chosen by silhouette
augment: str = "paper"  # augmentation of training images: paper, flip or none
precision: str = "fp32"  # arithmetic of training (importance: fp32): fp32, bf16 or fp16
seed: int = 0  # seed of initial weights, order of images and augmentation; not of the split
bootstrap: int = 2000  # resamples for the intervals
accumulate: int = 1  # parts into which a training batch is divided, to save memory
# use torch.compile: faster, but needs a C++ compiler and changes the last digits
compiled: bool = False
name: str = ""  # name of the run folder; empty: made from the settings
data_root: str = ""  # folder of the data sets; empty: settings.ini
runs_root: str = ""  # folder of the runs; empty: settings.ini
cache_root: str = ""  # folder of decoded images; empty: settings.ini
device: str = ""  # cuda, cuda:1, cpu …; empty: CUDA if available
threads: int = 0  # CPU threads; 0: the machine's choice
processes: int = 1  # processes that share this run, one per GPU
# where the importance is stored: auto, device, host or, if memory is short, a folder
keep_on: str = "auto"
keep_steps: bool = False  # keep the network of each pruning step, for `fairgrape frontier`
progress: bool = True  # show progress bars

# %% [markdown]
# An unknown name or an invalid value raises an error here, before any image is read.

# %%
from fairgrape.experiment.settings import from_parameters

settings, places = from_parameters(globals())
settings

# %%
from fairgrape.data.tables import label_columns
from fairgrape.experiment.clusters import clusters_table, load_clusters
from fairgrape.experiment.preparation import group_counts, prepare
from fairgrape.experiment.run import dense, pruned, save
from fairgrape.report.heads import shown_heads
from fairgrape.report.run_plots import (
    plot_groups,
    plot_history,
    plot_kept_shares,
    plot_paid,
    plot_shares,
    plot_sparsity,
)
from fairgrape.report.runs import load_run

# %% [markdown]
# ## The run
#
# A run is four calls. The first, `prepare`, reads the labels and checks everything that can be checked without opening an image.

# %%
job = prepare(settings, **places)

# %% [markdown]
# The table counts the images of each group in each part. The validation part chooses the epochs. The test part is used once, at the end.

# %%
if settings.groups != "clusters":
    display(group_counts(job))

# %% [markdown]
# The second, `dense`, trains the dense network on the full schedule, or reads it from an earlier run with the same settings. If `weights` names a file, that network is used unchanged.

# %%
first = dense(job)

# %% [markdown]
# The third, `pruned`, prunes it: score, select, apply, and the method's recovery after each step, then the full schedule once more. It writes a checkpoint after each epoch and each selection. If this notebook is killed, run it again with the same
# parameters: it continues from the last checkpoint.

# %%
last = pruned(job, first)

# %% [markdown]
# The fourth, `save`, writes the run folder, which the rest of this notebook shows. If the folder was complete at the start, the four calls compute nothing.

# %%
folder = save(job, first, last)
run = load_run(folder)
run

# %% [markdown]
# ## What each step did
#
# For each step: the rate, the weights left, the seconds, and the accuracy on the validation images, overall and by group. Step 0 is the dense network. A step is measured after the training that follows it; a method that trains only at the end is measured at the end.

# %%
import pandas as pd

pd.set_option("display.html.use_mathjax", False)  # a group's name is not a formula
if settings.method != "dense":
    display(run.by_step.round(4))

# %% [markdown]
# Who pays, and when: how each group's accuracy has changed from the dense network's.

# %%
if len(run.paid):
    display(plot_paid(run.paid))

# %%
if len(run.history):
    display(plot_history(run.history))

# %%
if settings.method != "dense":
    display(plot_sparsity(run.layers))

# %%
if (found := folder / "clusters.safetensors").is_file():  # groups found by clustering
    clusters = load_clusters(found)
    display(clusters.table, clusters_table(clusters, job.table, label_columns(job.table)))

# %% [markdown]
# ## Who paid for it
#
# Accuracy of each group before and after pruning, on the test images, with 95 % intervals (both networks on the same resampled images). ρ is the standard deviation of the changes over the groups. Its noise floor is the ρ that
# sampling alone would produce if every group had lost the same. A ρ within its floor is no evidence of a difference between groups, and a small ρ does not make a network safe to deploy.

# %%
pd.DataFrame(run.metrics["table"]).set_index("group").round(2)

# %%
for sentence in run.metrics.get("notes", []):
    print(sentence)

# %%
if settings.method != "dense":
    display(pd.DataFrame(run.metrics["disparities"]).T.round(2), plot_groups(run.metrics))

# %% [markdown]
# ## Head by head
#
# For a task with several heads: each head beside its commonest class, and what each head lost in each group. A mean over heads hides a head that is lost. Numbers in brackets rest on fewer than ten images of a class. For a single head there is nothing here.

# %%
if settings.method != "dense":
    for part in shown_heads(run.metrics["rates"]):
        if isinstance(part, str):
            print(part)
        else:
            display(part)

# %% [markdown]
# ## What the weights are important for
#
# Each group's share of the importance that a selection keeps in a layer, minus its target, at each step. The target is the group's share before that selection.
# A score that puts all images into one group has no targets.

# %%
if len(run.choices):
    display(plot_kept_shares(run.choices))
elif settings.method != "dense":
    print(
        "No shares to show: this score puts all images into one group, or the run is older than"
        " the record of shares."
    )

# %% [markdown]
# Each group's share of each layer's importance, in the dense network and after the final training, which changes the shares again.

# %%
if settings.method != "dense":
    display(plot_shares(run.layers))

# %%
folder
