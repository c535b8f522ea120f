# %% [markdown]
# # Clusters
#
# > Groups without labels: k-means on the network's features

# %%
#| default_exp experiment.clusters

# %%
#| export
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from fastcore.basics import patch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fairgrape.data.loaders import Images, get_batch
from fairgrape.networks.inspect import penultimate
from fairgrape.networks.weights import load_weights, save_weights

# imported in the functions that use it: few runs need it, and it would slow every command
if TYPE_CHECKING:
    from sklearn.cluster import KMeans

# %%
import tempfile

import matplotlib.pyplot as plt

# %% [markdown]
# Most image sets have no column that says who is in the picture. The paper's last study asks whether the method can work without it: cluster the images by the dense network's features, and use
# the clusters as groups.
#
# A cluster is not a group of people. It collects images that the network treats alike: by background, light, hair or class. It may match race or gender, or nothing that anyone would
# name. So a disparity over clusters is reported as a disparity over clusters, and if labels exist this notebook measures how well the two agree.
#
# ## Features
#
# The features are the input of the head, the network's last layer. For an example that can be followed by hand, here is a "network" whose features are an image's mean red, green and blue, and
# 120 noisy images in three tints: 60 red, 36 green, 24 blue.

# %%
rng = np.random.default_rng(0)
tint = rng.permutation(np.repeat([0, 1, 2], [60, 36, 24]))
pixels = rng.integers(60, 120, (120, 3, 8, 8))
pixels[np.arange(120), tint] += 80
nth = np.array([(tint[:i] == t).sum() for i, t in enumerate(tint)])  # of its tint
parts = np.array(["train"] * 4 + ["val", "test"])[nth % 6]
rows = {part: torch.from_numpy(np.flatnonzero(parts == part)) for part in ("train", "val", "test")}
nothing = torch.zeros(120, dtype=torch.long)
images = Images(
    torch.from_numpy(pixels.astype(np.uint8)), nothing[:, None], nothing, rows, ("all",)
)
net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
{part: np.bincount(tint[index]).tolist() for part, index in rows.items()}


# %%
#| export
def embeddings(
    model: nn.Module,  # The network; left in evaluation mode
    images: Images,  # Where the pixels are
    rows: Tensor,  # int64 (n,): which images
    batch: int = 256,  # Images at a time
    device: str | torch.device = "cpu",  # Where to compute
) -> np.ndarray:  # float32 (n, d): the input of the head
    "The network's penultimate features of some images, without augmentation."
    model.to(device).eval()
    with torch.inference_mode(), parametrize.cached():
        out = [
            penultimate(model, get_batch(images, index, None, device)[0]).cpu()
            for index in rows.split(batch)
        ]
    features = torch.cat(out).float().numpy()
    if not np.isfinite(features).all():
        raise ValueError(
            "the network's features are not finite (NaN or inf): its training diverged, so there is"
            " nothing to cluster"
        )
    return features


# %%
seen = embeddings(net, images, torch.arange(120))
seen.shape, seen[:2].round(2)

# %% [markdown]
# By hand for image 7: its mean red divided by 255, minus ImageNet's mean 0.485, divided by the standard deviation 0.229. The batch size does not matter, and a network that overflows raises an error.

# %%
assert (
    np.isclose(seen[7, 0], (pixels[7, 0].mean() / 255 - 0.485) / 0.229, atol=1e-5)
    and seen.dtype == np.float32
)
assert np.allclose(embeddings(net, images, torch.tensor([7, 3]), batch=1), seen[[7, 3]], atol=1e-6)
try:
    embeddings(
        nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Threshold(9, np.inf), nn.Linear(3, 2)
        ),
        images,
        torch.arange(5),
    )
except ValueError as e:
    print(e)
else:
    raise AssertionError("infinite features were accepted")


# %% [markdown]
# A feature with large values would dominate the distances, so each feature is centred and divided by its standard deviation. Both statistics come from the training images: the test images must not influence
# the groups. A feature that is constant over these images (a dead unit) carries no information and is only centred.

# %%
#| export
def moments(
    train: np.ndarray,  # Features of the training images, shape `(n, d)`
    # Mean and standard deviation of each feature, float32 `(d,)`; 1 in place of a deviation of 0
) -> tuple[np.ndarray, np.ndarray]:
    "The mean and standard deviation that standardise the features."
    mean, std = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    return mean.astype(np.float32), np.where(std > 1e-6 * (1 + np.abs(mean)), std, 1).astype(
        np.float32
    )


# %%
mean, std = moments(np.array([[1.0, 5], [3, 5]]))
print(mean, std)
assert mean.tolist() == [2, 5] and std.tolist() == [1, 1]
mean, std = moments(seen[rows["train"]])
scaled = (seen - mean) / std
train = scaled[rows["train"]]
assert (
    np.allclose(train.mean(0), 0, atol=1e-5)
    and np.allclose(train.std(0), 1, atol=1e-5)
    and abs(scaled.mean(0)).max() > 1e-4
)


# %% [markdown]
# ## Number of clusters
#
# k-means needs the number of clusters. A common measure for choosing it is the mean silhouette: how much nearer an image is to its own cluster than to the next one, from −1 to 1. It compares every pair of images,
# so the silhouette and the trial fits use a sample of 2,000. On 80,000 images with 512 features one fit takes up to 40 seconds; the seven trials on the sample take one.
#
# scikit-learn's k-means adds in the order in which its threads finish, so with several threads two fits differ in the last digit, and an image on the border may change clusters. One thread makes
# the same settings give the same groups.

# %%
#| export
def _fit(x: np.ndarray, k: int, seed: int) -> "KMeans":
    """k-means on one thread, without a warning about fewer distinct images than clusters: empty
    clusters are refused below.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(k, n_init=10, random_state=seed % 2**32).fit(x)


def _silhouette(x: np.ndarray, labels: np.ndarray) -> float:
    "The mean silhouette; NaN for a single cluster, or as many clusters as images."
    from sklearn.metrics import silhouette_score

    with threadpool_limits(1):
        return float(silhouette_score(x, labels)) if 1 < len(np.unique(labels)) < len(x) else np.nan


# %% [markdown]
# By hand, four points on a line at 0, 1, 10 and 11 in two clusters: for the first, a = 1 to its own and b = 10.5 to the other cluster, (b − a)/b = 9.5/10.5; for the second b = 9.5,
# so 8.5/9.5; the other two mirror them. The squared distances to the centres are four times 0.25.

# %%
line = np.array([[0.0], [1], [10], [11]])
fit = _fit(line, 2, seed=0)
fit.labels_, fit.inertia_, _silhouette(line, fit.labels_)

# %%
assert fit.labels_[0] == fit.labels_[1] != fit.labels_[2] == fit.labels_[3] and fit.inertia_ == 1
assert np.isclose(_silhouette(line, fit.labels_), (9.5 / 10.5 + 8.5 / 9.5) / 2)
assert np.isnan(_silhouette(line, np.zeros(4))) and np.isnan(_silhouette(line, np.arange(4)))
with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert _fit(np.ones((5, 2)), 3, seed=0).n_clusters == 3  # identical images, no warning
assert (_fit(train, 5, seed=1).labels_ == _fit(train, 5, seed=1).labels_).all()


# %% [markdown]
# The number must be below the number of images: five images allow 2 to 4 clusters. The sample, and so the chosen number, depends only on the seed.

# %%
#| export
def score_ks(
    train: np.ndarray,  # Standardised features of the training images, shape `(n, d)`
    ks: Iterable[int] = range(2, 9),  # Numbers of clusters to try
    seed: int = 0,  # Of the sample and of k-means
    sample: int = 2000,  # Maximum number of images
    # Columns `k`, `silhouette` (−1 to 1), `inertia` (sum of squared distances in the sample)
) -> pd.DataFrame:
    """How well each number of clusters fits a sample. Raises: ValueError if the images have
    identical features, or are fewer than 3.
    """
    x = train[np.sort(np.random.default_rng(seed).permutation(len(train))[:sample])]
    fits = {k: _fit(x, k, seed) for k in ks if k < len(x)}
    rows = [
        dict(k=k, silhouette=_silhouette(x, f.labels_), inertia=float(f.inertia_))
        for k, f in fits.items()
    ]
    table = pd.DataFrame(rows, columns=["k", "silhouette", "inertia"])
    if table.silhouette.isna().all():
        raise ValueError(
            f"{len(train)} training images cannot be clustered: they are too few, or all have the"
            " same features. Use more images, or another network"
        )
    return table


# %%
#| fig-alt: The silhouette for two to eight clusters, highest at three
scores = score_ks(train)
fig, ax = plt.subplots(figsize=(5, 2.2), layout="constrained")
ax.plot(scores.k, scores.silhouette, "o-")
ax.set(xlabel="clusters", ylabel="silhouette")
plt.close(fig)
fig

# %%
assert (
    scores.k[scores.silhouette.idxmax()] == 3
    and scores.k.tolist() == list(range(2, 9))
    and scores.inertia.is_monotonic_decreasing
)
assert np.allclose(score_ks(line, [2]).iloc[0], [2, (9.5 / 10.5 + 8.5 / 9.5) / 2, 1]) and score_ks(
    line
).k.tolist() == [2, 3]
# 2, 3, 4 of five images
assert (
    score_ks(train, sample=20).equals(score_ks(train, sample=20))
    and len(score_ks(train, sample=5)) == 3
)
for same in (np.ones((9, 2)), line[:2]):
    try:
        score_ks(same)
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("identical images were clustered")


# %% [markdown]
# With the given or chosen number, k-means runs on all training images.

# %%
#| export
def cluster(
    train: np.ndarray,  # Standardised features of the training images, shape `(n, d)`
    k: int = 0,  # Number of clusters; 0: the one with the largest silhouette
    seed: int = 0,  # Of k-means and of the sample
    ks: Iterable[int] = range(2, 9),  # The numbers tried when `k` is 0
) -> tuple["KMeans", pd.DataFrame]:  # The fit; and the numbers tried, as from `score_ks`
    """k-means, the best of ten starts.

    Raises: ValueError for fewer than 2 clusters, more clusters than images, or identical images.
    """
    if k != 0 and k < 2:
        raise ValueError(f"clusters = {k}: give 2 or more, or 0 to choose it by silhouette")
    if k > len(train):
        raise ValueError(
            f"clusters = {k}, but there are only {len(train)} training images: choose at most"
            f" {len(train)}, and far fewer to compare groups"
        )
    if k:
        ks = [k] if k < len(train) else [2]  # as many clusters as images have no silhouette
    scores = score_ks(train, ks, seed)
    return _fit(train, k or int(scores.k[scores.silhouette.idxmax()]), seed), scores


# %%
fit, _ = cluster(train)
print(np.bincount(fit.labels_))
agrees = pd.crosstab(tint[rows["train"]], fit.labels_)
assert (
    fit.n_clusters == 3 and (agrees > 0).sum().sum() == 3 and cluster(train, 5)[0].n_clusters == 5
)
assert (cluster(train, seed=1)[0].labels_ == cluster(train, seed=1)[0].labels_).all() and len(
    cluster(train, 5)[1]
) == 1
# as many clusters as images are allowed, but have no silhouette
assert cluster(line, 2)[0].n_clusters == 2 and cluster(line, 4)[0].n_clusters == 4
for k, n in ((1, 120), (-3, 120), (5, 4)):
    try:
        cluster(train[:n], k)
    except ValueError as e:
        print(e)
        assert str(k) in str(e)
    else:
        raise AssertionError(f"k = {k} of {n} images was accepted")


# %% [markdown]
# ## Clusters as groups
#
# A run needs names for its tables, a code for every image of every part, and the centres to assign a new image later. The example has two clusters. Standardised, the three images are (0, 0), (3, 4) and (1.5, 2). The last is equally near to both centres, and the lower code wins.

# %%
#| export
@dataclass(frozen=True, eq=False)
class Clusters:
    "Groups found by clustering; cluster-1 has the most training images."

    # int64 (N,): the cluster of each row of the pixels; -1 in rows that no part uses
    codes: np.ndarray
    names: list[str]  # cluster-1, cluster-2, …, in code order
    table: pd.DataFrame  # The numbers tried: k, silhouette, inertia, chosen
    centres: np.ndarray  # float32 (k, d), in standardised features
    mean: np.ndarray  # float32 (d,): features are standardised by these two
    std: np.ndarray  # float32 (d,)


@patch
def assign(
    self: Clusters,
    features: np.ndarray,  # Shape `(n, d)`, as `embeddings` gives them
) -> np.ndarray:  # int64 `(n,)`
    "The code of the nearest centre."
    x = (features - self.mean) / self.std
    # |x − c|² minus |x|²
    return ((self.centres**2).sum(1) - 2 * x @ self.centres.T).argmin(1).astype(np.int64)


# %%
two = Clusters(
    np.array([0, -1, 1]),
    ["cluster-1", "cluster-2"],
    pd.DataFrame(),
    centres=np.float32([[0, 0], [3, 4]]),
    mean=np.float32([1, 1]),
    std=np.float32([2, 1]),
)
print(two.assign(np.array([[1, 1], [7, 5], [4, 3]])))
assert two.assign(np.array([[1, 1], [7, 5], [4, 3]])).tolist() == [0, 1, 0] and two.assign(
    np.array([[4.1, 3.1]])
).tolist() == [1]


# %% [markdown]
# k-means numbers its clusters arbitrarily. Sorted by size, cluster-1 does not depend on the start, and the small clusters come last in a table.

# %%
#| export
def _named(
    fit: "KMeans",
    images: Images,
    features: dict,
    scores: pd.DataFrame,
    mean: np.ndarray,
    std: np.ndarray,
) -> Clusters:
    "Clusters sorted by size, with the cluster of every image."
    order = np.argsort(-np.bincount(fit.labels_, minlength=fit.n_clusters), kind="stable")
    scores = scores.assign(chosen=scores.k == fit.n_clusters)
    names = [f"cluster-{i + 1}" for i in range(len(order))]
    centres = fit.cluster_centers_[order].astype(np.float32)
    found = Clusters(np.full(len(images.pixels), -1), names, scores, centres, mean, std)
    for part, rows in images.rows.items():
        found.codes[rows.cpu().numpy()] = found.assign(features[part])
    return found


# %%
features = {part: seen[index] for part, index in rows.items()}
found = _named(_fit(train, 3, seed=0), images, features, scores, mean, std)
found.names, np.bincount(found.codes).tolist(), found.table[found.table.chosen].k.tolist()

# %%
# red, green, blue
assert np.bincount(found.codes).tolist() == [60, 36, 24] and (found.codes == tint).all()
assert (
    found.names == ["cluster-1", "cluster-2", "cluster-3"]
    and found.table[found.table.chosen].k.tolist() == [3]
    and "chosen" not in scores
)
some = _named(
    _fit(train, 3, seed=0),
    replace(images, rows={"train": rows["train"]}),
    features,
    scores,
    mean,
    std,
)
assert (some.codes == -1).sum() == 120 - len(rows["train"]) and (
    some.codes[rows["train"]] == tint[rows["train"]]
).all()


# %% [markdown]
# The clusters are found on the training images; validation and test images are assigned to the nearest centre. A cluster without images in some part cannot be compared, and a cluster with a single image has no interval. So the error names the small clusters, at most four of them.

# %%
#| export
def _few(found: Clusters, images: Images, least: int) -> str:
    "The clusters with too few images in some part, as text."
    counts = {
        part: np.bincount(found.codes[rows.cpu().numpy()], minlength=len(found.names))
        for part, rows in images.rows.items()
    }
    few = [
        f"{found.names[c]} with {n[c]} of the images in {part}"
        for part, n in counts.items()
        for c in np.flatnonzero(n < least)
    ]
    return ", ".join(few[:4]) + (f" and {len(few) - 4} more" if len(few) > 4 else "")


# %%
print({part: np.bincount(found.codes[index]).tolist() for part, index in rows.items()})
print(_few(found, images, least=5), "|", _few(found, images, least=99))
assert (
    _few(found, images, 4) == ""
    and _few(found, images, 5)
    == "cluster-3 with 4 of the images in val, cluster-3 with 4 of the images in test"
)
assert _few(found, images, 7).count("cluster-") == 4 and "more" not in _few(found, images, 7)
assert (
    _few(found, images, 99).endswith(" and 5 more")
    and _few(found, images, 99).count("cluster-") == 4
)


# %% [markdown]
# If the best number leaves a cluster with too few images, the next best is used. If the number was given, that is an error.

# %%
#| export
def cluster_groups(
    model: nn.Module,  # The dense network
    images: Images,  # Pixels, and the rows of each part
    k: int = 0,  # Number of clusters; 0: chosen by silhouette
    seed: int = 0,  # Of k-means
    device: str | torch.device = "cpu",  # Where the network runs
    least: int = 2,  # Images of each cluster that each part must have
) -> Clusters:  # Groups for every image in use
    """Cluster the training images and assign all others.

    Source: the paper's study of clustered groups; features, k-means and choice of k: ours.
    Raises: ValueError for an invalid `k`, or for one that leaves a cluster (named) with fewer than
    `least` images in a part.
    """
    features = {
        part: embeddings(model, images, rows, device=device) for part, rows in images.rows.items()
    }
    mean, std = moments(features["train"])
    train = (features["train"] - mean) / std
    _, scores = cluster(train, k, seed)
    tried = (
        [k]
        if k
        else scores.dropna().sort_values("silhouette", ascending=False, kind="stable").k.tolist()
    )
    for number in tried:
        found = _named(_fit(train, number, seed), images, features, scores, mean, std)
        few = _few(found, images, least)
        if not few:
            return found
    if k:
        raise ValueError(
            f"clusters = {k} leaves {few}: each needs {least} or more in every part; give fewer, or"
            " 0 to choose it by silhouette"
        )
    numbers = ", ".join(map(str, sorted(tried)))
    raise ValueError(
        f"no number of clusters ({numbers}) leaves {least} images of each in every part: use more"
        " images, or give the number"
    )


# %%
found = cluster_groups(net, images)
found.names, np.bincount(found.codes).tolist(), found.table.round(2).to_dict("list")

# %% [markdown]
# The clusters are the tints: 60 red, 36 green, 24 blue. A row that is in no part has no cluster. For 40 clusters of 80 training images, the error names those that are too small.

# %%
assert found.names == ["cluster-1", "cluster-2", "cluster-3"] and (found.codes == tint).all()
assert found.table[found.table.chosen].k.tolist() == [3]
some = cluster_groups(net, replace(images, rows=rows | {"val": rows["val"][:-1]}))
assert (
    some.codes[rows["val"][-1]] == -1
    and (some.codes == -1).sum() == 1
    and (found.assign(seen) == found.codes).all()
)
for k, part in ((40, "cluster-"), (97, "80"), (1, "clusters = 1")):
    try:
        cluster_groups(net, images, k)
    except ValueError as e:
        print(str(e)[:150])
        assert part in str(e)
    else:
        raise AssertionError(f"{k} clusters were accepted")

# %% [markdown]
# Now the validation part has only one blue image. Three clusters would be best but leave a cluster too small, so the next best number is used.

# %%
blue = rows["val"][torch.from_numpy(tint[rows["val"]] == 2)]
rare = replace(
    images,
    rows=rows
    | {"val": torch.tensor([r for r in rows["val"].tolist() if r not in blue[1:].tolist()])},
)
second = cluster_groups(net, rare)
print(second.table.query("chosen").round(2).to_dict("records"))
assert (
    int((tint[rare.rows["val"]] == 2).sum()) == 1
    and second.table.k[second.table.silhouette.idxmax()] == 3
    and len(second.names) == 2
)
assert cluster_groups(net, rare, k=3, least=1).names[2] == "cluster-3"
for few, k, said in (
    (rare, 3, "clusters = 3"),
    (replace(images, rows=rows | {"test": rows["test"][:1]}), 0, "no number"),
):
    try:
        cluster_groups(net, few, k)
    except ValueError as e:
        print(e)
        assert said in str(e)
    else:
        raise AssertionError("a cluster of one image was accepted")


# %% [markdown]
# Training, importance and the other parts take the groups from `Images`, so `with_clusters` puts the clusters there.

# %%
#| export
def with_clusters(
    images: Images,  # Pixels, labels, rows
    clusters: Clusters,  # From `cluster_groups`
) -> Images:  # The same, grouped by cluster
    "Replace the groups by the clusters."
    return replace(
        images,
        groups=torch.from_numpy(clusters.codes).to(images.groups.device),
        names=tuple(clusters.names),
    )


# %%
grouped = with_clusters(images, found)
print(grouped.names, torch.bincount(grouped.groups))
assert (
    torch.bincount(grouped.groups).tolist() == [60, 36, 24]
    and grouped.pixels is images.pixels
    and images.names == ("all",)
)


# %% [markdown]
# ## Agreement with labels
#
# If labels exist, a table shows the classes in each cluster. Its summary is the adjusted Rand index: 1 if clusters and classes are the same partition, about 0 if they are unrelated.

# %%
#| export
def _against(label: pd.Series, code: np.ndarray, names: list[str]) -> pd.DataFrame:
    "One label's classes against the clusters."
    from sklearn.metrics import adjusted_rand_score

    counts = pd.crosstab(label.to_numpy(), code).reindex(columns=range(len(names)), fill_value=0)
    return counts.set_axis(names, axis=1).assign(
        **{"adjusted Rand": adjusted_rand_score(label.astype(str), code)}
    )


# %%
hats = _against(
    pd.Series(["hat", "none", "none", "hat"]),
    np.array([0, 1, 1, 0]),
    ["cluster-1", "cluster-2", "cluster-3"],
)
print(hats)
# an empty cluster has a column too
assert hats.to_numpy().tolist() == [[2, 0, 0, 1], [0, 2, 0, 1]] and hats.index.tolist() == [
    "hat",
    "none",
]
# worse than chance
assert (
    abs(
        _against(pd.Series(["a", "b", "a", "b"]), np.array([0, 0, 1, 1]), ["one", "two"])[
            "adjusted Rand"
        ].iloc[0]
        + 0.5
    )
    < 1e-9
)


# %% [markdown]
# The table has one block of rows per label. Only images that are in a part count.

# %%
#| export
def clusters_table(
    clusters: Clusters,  # From `cluster_groups`
    table: pd.DataFrame,  # Labels; its index holds the row numbers of the pixels
    columns: Iterable[str],  # Which label columns
    # Index (label, class), a column per cluster with its number of images, and `adjusted Rand` of
    # the label
) -> pd.DataFrame:
    "Clusters against known labels. Raises: ValueError for an unknown column."
    columns = list(columns)
    missing = [c for c in columns if c not in table]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}: there are {', '.join(map(str, table))}")
    used = table[clusters.codes[table.index] >= 0]
    return pd.concat(
        {c: _against(used[c], clusters.codes[used.index], clusters.names) for c in columns},
        names=["label", "class"],
    )


# %%
known = pd.DataFrame(
    {"tint": np.array(["red", "green", "blue"])[tint], "coin": rng.integers(0, 2, 120).astype(str)}
)
clusters_table(found, known, ["tint", "coin"]).round(2)

# %% [markdown]
# By hand: rows 0, 1 and 2 hold a, a and b and are in clusters 1, (none) and 2, so the two rows that count are separated perfectly.

# %%
shown = clusters_table(found, known, ["tint", "coin"])
assert (
    shown.loc[("tint", "green"), "cluster-2"] == 36
    and shown.loc["tint", "adjusted Rand"].eq(1).all()
)
assert abs(shown.loc["coin", "adjusted Rand"]).max() < 0.1
hand = clusters_table(two, pd.DataFrame({"letter": pd.Categorical(["a", "a", "b"])}), ["letter"])
assert hand.to_numpy().tolist() == [[1, 0, 1], [0, 1, 1]] and hand.index.tolist() == [
    ("letter", "a"),
    ("letter", "b"),
]
try:
    clusters_table(found, known, ["hue"])
except ValueError as e:
    print(e)
else:
    raise AssertionError("an unknown column was accepted")


# %% [markdown]
# ## With the run
#
# A run with clusters must record them, and a network that is judged later must be judged on the same clusters. So they are stored as tensors, in one file.

# %%
#| export
def save_clusters(
    clusters: Clusters,  # From `cluster_groups`
    path: str | Path,  # A .safetensors file
):
    "Write the clusters to a file."
    named = {k: torch.from_numpy(getattr(clusters, k)) for k in ("codes", "centres", "mean", "std")}
    save_weights(named | {"table": torch.tensor(clusters.table.astype(float).to_numpy())}, path)


# %%
file = Path(tempfile.mkdtemp()) / "clusters.safetensors"
save_clusters(found, file)
held = load_weights(file)
print({name: tuple(tensor.shape) for name, tensor in held.items()})
assert (
    held["table"].shape == (7, 4)
    and held["codes"].tolist() == found.codes.tolist()
    and held["centres"].numpy().tobytes() == found.centres.tobytes()
)


# %%
#| export
def load_clusters(
    path: str | Path,  # A file that `save_clusters` wrote
) -> Clusters:  # The same clusters
    """Read clusters back. Raises: the errors of `load_weights`, and ValueError for a file with
    other content.
    """
    held = load_weights(path)
    if set(held) != {"codes", "centres", "mean", "std", "table"}:
        raise ValueError(
            f"{path} does not hold clusters but {', '.join(list(held)[:5])}: give a file that"
            " save_clusters wrote"
        )
    table = pd.DataFrame(
        held.pop("table").numpy(), columns=["k", "silhouette", "inertia", "chosen"]
    ).astype({"k": int, "chosen": bool})
    return Clusters(
        names=[f"cluster-{i + 1}" for i in range(len(held["centres"]))],
        table=table,
        **{k: v.numpy() for k, v in held.items()},
    )


# %%
again = load_clusters(file)
print(again.names)
assert (
    (again.codes == found.codes).all()
    and again.names == found.names
    and (again.assign(seen) == found.codes).all()
)
pd.testing.assert_frame_equal(again.table, found.table.reset_index(drop=True), check_dtype=False)
save_weights({"fc.weight": torch.eye(2)}, file)
try:
    load_clusters(file)
except ValueError as e:
    print(str(e).replace(str(file), "model.safetensors"))
else:
    raise AssertionError("weights were read as clusters")
