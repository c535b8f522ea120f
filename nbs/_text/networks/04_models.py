# %% [markdown]
# # Models
#
# > Build a network with the weights that a setting names, and with a head for each task

# %%
#| default_exp networks.models

# %%
#| export
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from fairgrape.networks.builders import plain_model, published_norm
from fairgrape.networks.inspect import fold_normalisation
from fairgrape.networks.weights import fit_state, imagenet_state, load_weights

# %%
import importlib.util
import math
import tempfile
from pathlib import Path
from unittest.mock import patch

from safetensors.torch import load_file
from torchvision.models.vision_transformer import VisionTransformer

from fairgrape.data.images import decode_image
from fairgrape.data.transforms import normalise
from fairgrape.networks.weights import lite0_state, save_weights


# %% [markdown]
# [Networks](02_builders.ipynb) are built with random weights, and [weights](03_weights.ipynb) come
# from files and packages. This notebook combines the two, and adds several heads for several tasks.

# %%
def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a | b)


folder, small = Path(tempfile.mkdtemp()), plain_model("resnet10", 7)
saved = save_weights(small.state_dict(), folder / "small.safetensors")
# replaces torchvision's server
server = "torchvision.models._api.load_state_dict_from_url"
fake = plain_model("resnet18", 1000, seed=9).state_dict()


# %% [markdown]
# ## Starting from ImageNet
#
# ImageNet weights always get a new head, because the 1,000 classes differ from the task's. Vision
# transformers have a position embedding for each patch, which is interpolated for another image
# size. The first layer absorbs the normalisation that the weights expect.

# %%
#| export
def _start_from_imagenet(model: nn.Module, network: str, image_size: int):
    "Load the published weights into a network, except the head."
    state = imagenet_state(network, image_size)
    if network.startswith("vit_"):
        state = interpolate_embeddings(image_size, model.patch_size, state)
    model.load_state_dict(fit_state(model, state, "ImageNet", new_head=True))
    fold_normalisation(model, *published_norm(network))


# %%
pretrained, lite = plain_model("resnet18", 7, seed=3), plain_model("efficientnet_lite0", 7)
with patch(server, return_value=fake):
    _start_from_imagenet(pretrained, "resnet18", 224)
_start_from_imagenet(lite, "efficientnet_lite0", 224)
# 2 · ImageNet's standard deviations
lite.conv_stem.weight[0, :, 0, 0] / lite0_state()["conv_stem.weight"][0, :, 0, 0]

# %%
# the published backbone, and the head from the seed
assert same(
    pretrained.state_dict(), fake | plain_model("resnet18", 7, seed=3).fc.state_dict(prefix="fc.")
)
assert torch.allclose(
    lite.conv_stem.weight,
    lite0_state()["conv_stem.weight"] * 2 * torch.tensor([0.229, 0.224, 0.225])[:, None, None],
    rtol=1e-4,
)
assert torch.equal(lite.conv_head.weight, lite0_state()["conv_head.weight"])


def small_vit(image_size=224, **kwargs):
    return VisionTransformer(image_size, 16, 1, 2, 32, 64, **kwargs)


with patch("torchvision.models.get_model_builder", return_value=small_vit):
    vit = plain_model("vit_b_16", 2, image_size=64)
    theirs = plain_model("vit_b_16", 1000, seed=3).state_dict()
    with patch(server, return_value=theirs):
        _start_from_imagenet(vit, "vit_b_16", 64)
assert vit.encoder.pos_embedding.shape == (1, 1 + 4 * 4, 32) and torch.equal(
    vit.encoder.pos_embedding[:, 0], theirs["encoder.pos_embedding"][:, 0]
)


# %% [markdown]
# ## Building a model in one call
#
# `weights` is a run's setting: `none`, `imagenet`, or the path of a file. `channels_last` stores
# the weights of convolutions pixel by pixel instead of plane by plane. This affects only the speed,
# and training chooses it where it is faster.

# %%
#| export
def build_model(
    network: str,  # A name in `NETWORKS`, a torchvision classifier, or 'timm:NAME'
    outputs: int,  # Rows of the head: the sum of the heads' sizes
    # 'none', 'imagenet', or the path of a dense network's .safetensors or .pth
    weights: str = "none",
    seed: int = 0,  # Seed of the initial weights, or of the new head alone
    new_head: bool = False,  # With a path: start a new head instead of the file's
    channels_last: bool = False,  # Memory order of the 4-D weights
    image_size: int = 224,  # Side of the square images, pixels; vision transformers must know it
) -> nn.Module:  # A plain network in float32 on the CPU
    """Build a network by name, with the weights that a setting names.

    Raises: ValueError for an unknown network or weights that do not fit, FileNotFoundError,
    ConnectionError.
    """
    model = plain_model(network, outputs, seed, image_size)
    if weights == "imagenet":
        _start_from_imagenet(model, network, image_size)
    elif weights != "none":
        model.load_state_dict(fit_state(model, load_weights(weights), str(weights), new_head))
    return model.to(memory_format=torch.channels_last) if channels_last else model


# %%
build_model("resnet10", 7, weights=saved).fc

# %%
assert same(
    build_model("resnet10", 7, seed=4).state_dict(), plain_model("resnet10", 7, seed=4).state_dict()
)
assert same(build_model("resnet10", 7, weights=saved, seed=4).state_dict(), small.state_dict())
with patch(server, return_value=fake):
    assert same(
        build_model("resnet18", 7, weights="imagenet", seed=3).state_dict(), pretrained.state_dict()
    )
other_head = build_model("resnet10", 2, weights=saved, seed=4, new_head=True)
assert torch.equal(
    other_head.fc.weight, plain_model("resnet10", 2, seed=4).fc.weight
) and torch.equal(other_head.conv1.weight, small.conv1.weight)
x = torch.rand(4, 3, 32, 32)
# another memory order, the same function
a, b = (build_model("resnet10", 7, channels_last=c).eval() for c in (True, False))
assert (
    torch.allclose(a(x), b(x), atol=1e-5)
    and a.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    and b.conv1.weight.is_contiguous()
)
try:
    build_model("resnet10", 7, weights="imagnet")  # before a single image is read
except FileNotFoundError as e:
    print(e)
else:
    raise AssertionError("a misspelt word was taken for weights")


# %% [markdown]
# To test the network that needs no download, ImageNet's own head is put back. The four photographs
# come with scikit-image, and are cropped and normalised like a run's images. If scikit-image is
# missing, the cell prints that it skips the test.

# %%
def photographs(size, names=("chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")):
    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    return (
        torch.stack([torch.from_numpy(decode_image(folder / name, size).copy()) for name in names])
        / 255
    )


known = build_model("efficientnet_lite0", 1000, weights="imagenet").eval()
known.classifier.load_state_dict({k: lite0_state()[f"classifier.{k}"] for k in ("weight", "bias")})
if importlib.util.find_spec("skimage") is None:
    print("SKIPPED: the photographs are in scikit-image, which is not installed")
else:
    from timm.data import ImageNetInfo

    photos = photographs(224)
    with torch.no_grad():
        seen = known(normalise(photos)).softmax(1)
    name = ImageNetInfo().index_to_description
    for p in seen:
        print(", ".join(f"{name(i).split(',')[0]} {p[i]:.0%}" for i in p.topk(3).indices.tolist()))

# %% [markdown]
# The network recognises a cat, a cup of espresso, something like a motorcycle, and a rocket.
# Compared with the unfolded network, which gets its own −1 to 1, no probability changes by more
# than about a hundredth, the effect of the border. With the wrong normalisation, probabilities
# change by more than ten times as much.

# %%
if importlib.util.find_spec("skimage") is not None:
    # tabby, tiger cat, Egyptian cat
    assert seen[0].topk(3).indices.sort().values.tolist() == [281, 282, 285]
    # espresso; moped or motor scooter
    assert seen[1].argmax() == 967 and seen[2].argmax() in (665, 670)
    unfolded = plain_model("efficientnet_lite0", 1000).eval()
    unfolded.load_state_dict(lite0_state())
    with torch.no_grad():
        own, wrong = (unfolded(v).softmax(1) for v in ((photos - 0.5) / 0.5, normalise(photos)))
    print(
        f"folded: {(own - seen).abs().max():.4f}, wrong normalisation:"
        f" {(own - wrong).abs().max():.4f}"
    )
    assert (own - seen).abs().max() < 0.02 < 0.1 < (own - wrong).abs().max()

# %% [markdown]
# Saved weights load strictly into torchvision's own models.

# %%
from torchvision.models import mobilenet_v2, resnet18

for name, builder in [("resnet18", resnet18), ("mobilenet_v2", mobilenet_v2)]:
    mine, theirs = build_model(name, 14, seed=1), builder(num_classes=14)
    theirs.load_state_dict(
        load_file(save_weights(mine.state_dict(), folder / f"{name}.safetensors")), strict=True
    )
    assert torch.equal(mine.eval()(x), theirs.eval()(x))


# %% [markdown]
# ## Several tasks, one layer
#
# A network that predicts race and gender has two heads. They are consecutive rows of *one* Linear
# layer, 7 + 2 = 9 of them. So the network remains a plain torchvision network, and only the three
# functions below know where one head ends and the next begins.

# %%
#| export
def split_heads(
    logits: Tensor,  # Output of the network, shape (B, sum of sizes)
    sizes: list[int],  # Number of classes of each head
) -> list[Tensor]:  # One tensor per head, shape (B, size)
    "Split the output into its heads."
    if logits.shape[1] != sum(sizes):
        raise ValueError(
            f"the network has {logits.shape[1]} outputs, but the heads {list(sizes)} need"
            f" {sum(sizes)}"
        )
    return list(logits.split(list(sizes), dim=1))


# %%
logits = torch.tensor([[0.0, 0.0, 5.0, 1.0, 0.0], [2.0, 0.0, 0.0, 0.0, 0.0]])
split_heads(logits, [3, 2])

# %%
assert [h.tolist() for h in split_heads(logits, [3, 2])] == [
    [[0, 0, 5], [2, 0, 0]],
    [[1, 0], [0, 0]],
]
try:
    split_heads(logits, [3, 3])
except ValueError as e:
    print(e)
else:
    raise AssertionError("six outputs of five")


# %% [markdown]
# The task loss is the mean of the heads' cross-entropies, so a second task does not double the
# step. Under autocast the logits are in half precision. The loss is computed in float32 at least,
# because a difference of two large half-precision numbers is mostly rounding error.

# %%
#| export
def task_loss(
    logits: Tensor,  # Output of the network, shape (B, sum of sizes)
    y: Tensor,  # Class codes, shape (B, H), or (B,) for one head
    sizes: list[int],  # Number of classes of each head
) -> Tensor:  # Scalar, in nats
    "The mean of the heads' cross-entropies."
    y, wide = y.view(len(y), -1), logits.to(torch.promote_types(logits.dtype, torch.float32))
    if y.shape[1] != len(sizes):
        raise ValueError(
            f"{y.shape[1]} labels per image, but {len(sizes)} heads: give one column of codes per"
            " head"
        )
    return torch.stack(
        [F.cross_entropy(head, target) for head, target in zip(split_heads(wide, sizes), y.T)]
    ).mean()


# %% [markdown]
# By hand: equal logits give a loss of ln 3 over 3 classes and ln 2 over 2 classes, and the loss is
# the mean of both.

# %%
task_loss(torch.zeros(1, 5), torch.tensor([[2, 0]]), [3, 2]), (math.log(3) + math.log(2)) / 2

# %%
assert math.isclose(
    task_loss(torch.zeros(1, 5), torch.tensor([[2, 0]]), [3, 2]).item(),
    math.log(6) / 2,
    rel_tol=1e-6,
)
assert torch.equal(
    task_loss(logits[:, :3], torch.tensor([2, 0]), [3]),
    F.cross_entropy(logits[:, :3], torch.tensor([2, 0])),
)
assert task_loss(logits.bfloat16(), torch.tensor([[2, 0], [0, 1]]), [3, 2]).dtype == torch.float32
assert task_loss(logits.double(), torch.tensor([[2, 0], [0, 1]]), [3, 2]).dtype == torch.float64

# %%
try:
    task_loss(logits, torch.tensor([[2], [0]]), [3, 2])
except ValueError as e:
    print(e)
else:
    raise AssertionError("two heads were trained with one label")


# %% [markdown]
# A loss that weights images needs the loss of each one. Its mean over the batch is the task loss.

# %%
#| export
def image_losses(
    logits: Tensor,  # Output of the network, shape (B, sum of sizes)
    y: Tensor,  # Class codes, shape (B, H)
    sizes: list[int],  # Number of classes of each head
) -> Tensor:  # In nats, shape (B,)
    "Each image's loss, the mean of its heads' cross-entropies."
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    heads = zip(split_heads(wide, sizes), y.T, strict=True)
    return torch.stack([F.cross_entropy(h, t, reduction="none") for h, t in heads]).mean(0)


# %%
image_losses(torch.zeros(2, 5), torch.tensor([[2, 0], [1, 1]]), [3, 2])

# %%
targets = torch.tensor([[2, 0], [0, 1]])
assert torch.allclose(
    image_losses(torch.zeros(1, 5), targets[:1], [3, 2]), torch.tensor([math.log(6) / 2])
)
assert torch.allclose(
    image_losses(logits, targets, [3, 2]).mean(), task_loss(logits, targets, [3, 2])
)
assert image_losses(logits.bfloat16(), targets, [3, 2]).dtype == torch.float32


# %% [markdown]
# The argmax of a head must ignore the outputs of the other heads: above, the 5 of the first head is
# larger than any output of the second.

# %%
#| export
def predict_classes(
    logits: Tensor,  # Output of the network, shape (B, sum of sizes)
    sizes: list[int],  # Number of classes of each head
) -> Tensor:  # The most likely class of each head, int64, shape (B, H)
    "Choose the most likely class in every head."
    return torch.stack([head.argmax(1) for head in split_heads(logits, sizes)], 1)


# %%
predict_classes(logits, [3, 2])

# %%
assert predict_classes(logits, [3, 2]).tolist() == [[2, 0], [0, 0]]  # on a tie the lower class
assert (
    predict_classes(logits, [5]).tolist() == [[2], [0]]
    and predict_classes(logits, [3, 2]).dtype == torch.int64
)
