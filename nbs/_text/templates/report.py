# %% [markdown]
# # Report over runs
#
# > Every finished run of a folder in one table, then the plots: who paid, how unequally, and how much of that is noise

# %% [markdown]
# Nothing is trained here: the notebook reads the run folders and shows them. The same tables and plots go into one self-contained page, `report.html`, that you can
# send to someone.

# %% tags=["parameters"]
runs_root: str = ""   # folder that holds the run folders; empty: settings.ini
out: str = ""         # where the page goes; empty: report.html in that folder
pattern: str = "*"    # which run folders, e.g. utkface-*

# %%
import pandas as pd
from IPython.display import HTML, Markdown, display

from fairgrape.experiment.paths import root
from fairgrape.report.comparison import display_table, report_table, seed_floor, verdicts
from fairgrape.report.heads import shown_heads
from fairgrape.report.page import HOW_TO_READ, write_report
from fairgrape.report.plots import plot_deltas, plot_disparity, plot_price
from fairgrape.report.runs import find_runs
from fairgrape.report.seeds import over_seeds, plot_seeds, seed_verdicts

folder = root("runs", runs_root)
runs = find_runs(folder, pattern)
table = report_table(runs)
print(
    f"{len(runs)} finished runs, {len(table)} of them pruned, in {table.experiment.nunique()}"
    " experiments"
)

# %% [markdown]
# ## How to read it

# %%
HTML(HOW_TO_READ)

# %% [markdown]
# ## All runs
#
# Accuracies in percent, the rest in percentage points. Compare rows only if they agree in data set, groups, network, scope and rate.

# %%
with pd.option_context("display.max_columns", None, "display.max_rows", None):
    display(display_table(table))

# %% [markdown]
# ## Each experiment
#
# The runs of one experiment have the same data, task, groups, network and training, so they can share a plot.

# %%
for name, rows in table.groupby("experiment", sort=False):
    said = "\n".join(f"- {sentence}" for sentence in verdicts(rows))
    display(Markdown(f"### {name}"), Markdown(said or "No baseline run to compare with."))
    display(plot_disparity(rows), plot_deltas(rows), plot_price(rows))

# %% [markdown]
# ## Head by head
#
# Runs whose task has several heads: each head beside its commonest class, and what each head lost in each group. The first twelve such runs are shown; each run's notebook has its own.

# %%
many_heads = [r for r in runs if len(r.settings.get("classes_used", {})) > 1]
with_heads = [r for r in many_heads if r.settings["method"] != "dense"]
for run in with_heads[:12]:
    display(Markdown(f"### {run.path.name}"))
    for part in shown_heads(run.metrics.get("rates", [])):
        if isinstance(part, str):
            print(part)
        else:
            display(part)

# %% [markdown]
# ## Another seed
#
# ρ between dense networks that differ only in their seed. Nothing was pruned, so this is the effect of the seed alone. The table is
# empty if all runs have the same seed.

# %%
seed_floor(runs)

# %% [markdown]
# If methods were run with several seeds, their differences seed by seed show whether one is better. An interval that includes 0 is inconclusive.

# %%
several = table[
    table.groupby(["experiment", "rate", "scope", "label"]).seed.transform("nunique") > 1
]
if len(several):
    display(
        over_seeds(several).round(1),
        Markdown("\n".join(f"- {sentence}" for sentence in seed_verdicts(several))),
    )
for _, rows in several.groupby(["experiment", "rate", "scope"], sort=False):
    display(plot_seeds(rows))

# %% [markdown]
# ## The page

# %%
page = write_report(folder, out or None, pattern)
print(f"{page.name}: {page.stat().st_size / 1e6:.1f} MB")
