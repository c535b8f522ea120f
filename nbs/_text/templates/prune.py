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
from fairgrape.data.tables import label_columns
from fairgrape.experiment.clusters import clusters_table, load_clusters
from fairgrape.experiment.preparation import group_counts, prepare
from fairgrape.experiment.run import dense, pruned, save
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
# A run is four calls. The first reads the labels and checks everything that can be checked before an image is opened.

# %%
job = prepare(settings, **places)

# %% [markdown]
# How many images of each group are in each part. The validation part chooses epochs; the test part is touched once, at the end.

# %%
if settings.groups != "clusters":
    display(group_counts(job))

# %% [markdown]
# The second gives the dense network: trained by the full schedule, or read from the run folder of the same settings. A file named by `weights` is taken as it is.

# %%
first = dense(job)

# %% [markdown]
# The third prunes it: score, select, apply, and what the method does after each step; then the full schedule once more. After each epoch and each selection a checkpoint is written. If this notebook is killed, run it again with the same
# parameters, and it goes on from there.

# %%
last = pruned(job, first)

# %% [markdown]
# The fourth writes the folder, and the notebook shows what lies there. If the folder was complete at the start, the calls had nothing to do.

# %%
folder = save(job, first, last)
run = load_run(folder)
run

# %% [markdown]
# ## What each step did
#
# The rate, the weights that were left, the seconds, and the accuracy on the validation images, of all and of each group. Step 0 is the dense network. A step is measured after the training that follows it; a method that trains only at the end is measured then.

# %%
import pandas as pd

pd.set_option("display.html.use_mathjax", False)  # names of groups are no formulas
if settings.method != "dense":
    display(run.by_step.round(4))

# %% [markdown]
# Who pays, and when: how far each group's accuracy is from the dense network's.

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
if (found := folder / "clusters.safetensors").is_file():  # the groups that were found
    clusters = load_clusters(found)
    display(clusters.table, clusters_table(clusters, job.table, label_columns(job.table)))

# %% [markdown]
# ## Who paid for it
#
# Accuracy of each group before and after, on the test images, with 95 % intervals (the same images resampled for both networks). ρ is the standard deviation of the changes over the groups; its floor is what
# sampling alone would show if all groups had lost the same. A ρ inside its floor says nothing; a small one is no licence to deploy.

# %%
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
