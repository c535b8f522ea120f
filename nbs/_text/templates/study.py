# %% [markdown]
# # A study
#
# > One question of the paper, the runs made for it, and what they show

# %% tags=["parameters"]
study: str = "rates"   # a study's name, see nbs/templates/studies
row: str = ""          # data set and task, a row of the studies' protocol
fast: bool = False     # the form for two cores
runs: str = ""         # the run folders, one a line
out: str = ""          # where the page goes
data_root: str = ""    # folder of the data sets; empty: settings.ini
cache_root: str = ""   # folder of decoded images; empty: settings.ini
device: str = ""       # where to compute; empty: CUDA if available
threads: int = 0       # CPU threads; 0: unchanged

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

from fairgrape.experiment.dense import set_up
from fairgrape.report.comparison import display_table, report_table, verdicts
from fairgrape.report.plots import plot_deltas, plot_disparity, plot_price
from fairgrape.report.runs import load_run
from fairgrape.studies.by_layer import plot_layers, run_layers
from fairgrape.studies.studies import load_study, study_intro, study_page, too_weak

asked = load_study(study)
done = [load_run(Path(folder)) for folder in runs.splitlines()]
table = report_table(done)
display(
    Markdown(f"## {asked.title}: {row}{' (fast)' if fast else ''}"),
    Markdown("\n\n".join(study_intro(asked, row, fast, done))),
)

# %% [markdown]
# ## Are the dense networks good enough?

# %%
weak = too_weak(done)
print(
    "\n".join(weak)
    or "Yes: every dense network is more than twice as accurate as guessing (with two classes,"
    " more than half-way from guessing to 100 %) and more accurate than the most common class."
)

# %% [markdown]
# ## Results
#
# Accuracies in percent, disparities in percentage points. Compare rows only if data, scope and rate agree, and read every ρ with its noise floor.

# %%
with pd.option_context("display.max_columns", None, "display.max_rows", None):
    display(display_table(table))

# %%
for name, rows in table.groupby("experiment", sort=False):
    said = "\n".join(f"- {sentence}" for sentence in verdicts(rows, asked.against))
    display(Markdown(f"### {name}"), Markdown(said or "No run to compare with."))
    display(plot_disparity(rows), plot_deltas(rows), plot_price(rows))

# %% [markdown]
# ## Layer by layer
#
# If the study asks for it: the dense network with one layer's mask at a time, without retraining.

# %%
layers = (
    run_layers(done, set_up(device, int(threads)), data_root or None, cache_root or None)
    if asked.layers
    else {}
)
for label, by_layer in layers.items():
    display(Markdown(f"### {label}"), by_layer.round(2))
if layers:
    display(plot_layers(layers))

# %% [markdown]
# ## The page

# %%
page = study_page(asked, row, fast, done, Path(out), layers)
print(page.name, f"{page.stat().st_size / 1e6:.1f} MB")
