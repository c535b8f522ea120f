# %% [markdown]
# # Epochs
#
# > One pass over the images: predictions of a split, gradients of a batch, a training epoch

# %%
#| default_exp training.epochs

# %%
#| export
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fairgrape.data.loaders import Images, batches
from fairgrape.networks.models import predict_classes, task_loss
from fairgrape.training.out_of_memory import memory_errors
from fairgrape.training.parallel import ALONE, Team
from fairgrape.training.stages import PRECISIONS, seed_of, seeded

# %%
import copy
from unittest.mock import patch

from tqdm import tqdm

from fairgrape.networks.models import image_losses

# %% [markdown]
# ## Precision
#
# GPUs and recent CPUs multiply half-precision numbers several times faster. Weights, batch-norm statistics, losses and importance
# stay in float32; autocast computes suitable layers in `bf16` or `fp16`. The 5-bit exponent of fp16 requires a scaled loss;
# bf16 does not.

# %%
#| export
_HALF = dict(bf16=torch.bfloat16, fp16=torch.float16)


def autocast(
    precision: str = "fp32",  # 'fp32', 'bf16' or 'fp16'
    device: torch.device | str = "cpu",  # Where the network is
) -> torch.autocast:  # A context for the forward pass
    "A context that runs the forward pass in the given precision."
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision = {precision!r} is unknown: choose one of {', '.join(PRECISIONS)}"
        )
    return torch.autocast(
        torch.device(device).type,
        _HALF.get(precision, torch.bfloat16),
        enabled=precision != "fp32",
    )


# %%
linear, x, found = nn.Linear(4, 2), torch.ones(1, 4), {}
for name in PRECISIONS:
    with autocast(name):
        found[name] = linear(x).dtype
print(found)
assert found == dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)
try:
    autocast("fp8")
except ValueError as e:
    print(e)
else:
    raise AssertionError("fp8 was accepted")


# %% [markdown]
# ## Memory order
#
# Convolutions on tensor cores are faster with the channels of each pixel together (`channels_last`). On a CPU it depends on the network: depthwise convolutions
# gain a third (MobileNetV2 at 64 px, batch 64, one thread: 0.44 s per step instead of 0.64 s), ResNets lose a tenth.

# %%
#| export
def memory_order(
    model: nn.Module,  # The network
    device: torch.device | str = "cpu",  # Where it will run
) -> torch.memory_format:  # `channels_last` or `contiguous_format`
    "Choose the faster memory order for images and 4-D weights."
    depthwise = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())
    return (
        torch.channels_last
        if depthwise or torch.device(device).type == "cuda"
        else torch.contiguous_format
    )


# %%
from fairgrape.networks.models import build_model

print({name: str(memory_order(build_model(name, 2))) for name in ("resnet10", "mobilenet_v2")})
assert memory_order(build_model("mobilenet_v2", 2), "cpu") == torch.channels_last
assert memory_order(build_model("resnet10", 2), "cuda") == torch.channels_last
assert memory_order(build_model("resnet10", 2), "cpu") == torch.contiguous_format


# %% [markdown]
# ## Predictions
#
# The examples use images and a network small enough for this notebook to run in seconds. The images are 16 × 16 noise, brighter
# at the top in class 0 and at the bottom in class 1, with a second, random label: only one head has something to learn.
# The network has convolutions, batch norm and one Linear layer for both heads.

# %%
def noisy_images(n=96, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.arange(n) % 2, torch.randint(3, (n,), generator=g)], 1)
    pixels = torch.randint(0, 160, (n, 3, 16, 16), generator=g)
    for half, rows in enumerate((slice(0, 8), slice(8, 16))):
        pixels[labels[:, 0] == half, :, rows] += 80
    rows = dict(zip(("train", "val", "test"), torch.arange(n).split([n - 32, 16, 16])))
    return Images(pixels=pixels.byte(), labels=labels, groups=torch.arange(n) % 4, rows=rows)


def tiny_net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, 5),
        )


images, model = noisy_images(), tiny_net()


# %% [markdown]
# Prediction is a pass in the order of the split's rows, in evaluation mode and without gradients. Masked weights are
# computed once for the whole pass instead of once per batch. With several processes, each takes whole batches, and all get
# all predictions.

# %%
#| export
def predict(
    model: nn.Module,  # The network; left in evaluation mode
    images: Images,  # Images, labels, and the rows of each split
    split: str,  # 'train', 'val' or 'test'
    sizes: list[int],  # Number of classes of each head
    batch: int = 256,  # Images per batch
    precision: str = "fp32",  # 'fp32', 'bf16' or 'fp16'
    device: torch.device | str = "cpu",  # Where to compute
    team: Team = ALONE,  # The processes that share the batches
) -> Tensor:  # Logits on the CPU, float32, shape (n, sum of sizes), rows as in `images.rows[split]`
    """Run the network over a split without augmentation. Raises: OutOfMemory (a MemoryError)
    that names the settings to lower.
    """
    order = memory_order(model, device)

    def mine(parts):
        return [parts[i] for i in team.share(len(parts))]

    model.to(device, memory_format=order).eval()
    advice = f"lower batch ({batch} images at a time here) or image_size, or take a smaller network"
    with (
        memory_errors(f"the evaluation of {split!r}", advice),
        torch.inference_mode(),
        autocast(precision, device),
        parametrize.cached(),
    ):
        out = [
            model(x.contiguous(memory_format=order)).float()
            for x, _, _ in batches(images, split, batch, device=device, share=mine)
        ]
    n = len(images.rows[split])
    # a process may have no batch
    at = torch.cat([torch.empty(0, dtype=torch.long), *mine(torch.arange(n).split(batch))])
    logits = team.gather(
        torch.cat(out) if out else torch.empty(0, sum(sizes), device=device), at, n
    ).cpu()
    # raises if heads and outputs do not match
    task_loss(logits[:1], images.labels[images.rows[split][:1]].cpu(), sizes)
    return logits


# %%
predict(model, images, "test", sizes=[2, 3]).shape

# %%
x = torch.cat([x for x, _, _ in batches(images, "test", 16)])
with torch.no_grad():
    by_hand = copy.deepcopy(model).eval()(x)
assert torch.allclose(predict(model, images, "test", [2, 3], batch=16), by_hand, atol=1e-6)
# row for row, for any batch size
assert torch.allclose(predict(model, images, "test", [2, 3], batch=5), by_hand, atol=1e-5)
half = predict(model, images, "test", [2, 3], precision="bf16")
assert half.dtype == torch.float32 and torch.allclose(half, by_hand, atol=0.05)
assert not model.training

# %% [markdown]
# Two errors are raised at once: heads that do not match the network's outputs, and batches that do not fit into memory.

# %%
for net, sizes, error in (
    (model, [2, 2], ValueError),
    (
        nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.ConstantPad1d((0, 2**48), 0)),
        [2, 3],
        MemoryError,
    ),
):
    try:
        predict(net, images, "test", sizes)
    except error as e:
        print(e)
        assert error is ValueError or "lower batch (256 images" in str(e)
    else:
        raise AssertionError("an impossible prediction was made")


# %% [markdown]
# The loss decides which epoch is best. The accuracy, the mean over the heads, is for information: on a small validation split it is too coarse to decide.

# %%
#| export
def evaluate_loss(
    model: nn.Module,  # The network; left in evaluation mode
    images: Images,  # Images, labels, and the rows of each split
    split: str,  # Usually 'val'
    sizes: list[int],  # Number of classes of each head
    batch: int = 256,  # Images per batch
    precision: str = "fp32",  # 'fp32', 'bf16' or 'fp16'
    device: torch.device | str = "cpu",  # Where to compute
    team: Team = ALONE,  # The processes that share the batches; all get the same numbers
) -> tuple[float, float]:  # Mean loss in nats; accuracy in percent, mean over the heads
    "Measure the loss and the accuracy on a split."
    logits = predict(model, images, split, sizes, batch, precision, device, team)
    y = images.labels[images.rows[split]].cpu()
    right = (predict_classes(logits, sizes) == y).double()
    return task_loss(logits, y, sizes).item(), 100 * right.mean().item()


# %%
evaluate_loss(model, images, "val", [2, 3])

# %% [markdown]
# A network with a head of zeros gives a loss of (ln 2 + ln 3)/2 nats and class 0 everywhere.

# %%
blank = tiny_net()
for p in blank[-1].parameters():
    nn.init.zeros_(p)
loss, accuracy = evaluate_loss(blank, images, "val", [2, 3])
assert math.isclose(loss, (math.log(2) + math.log(3)) / 2, rel_tol=1e-6)
assert math.isclose(accuracy, 100 * (images.labels[images.rows["val"]] == 0).double().mean().item())


# %% [markdown]
# ## One batch
#
# The fused form of Adam makes one pass over the weights instead of a dozen. With small images this reduces the
# optimizer's share of a step from a third to a twentieth. A stage changes only the learning rate. The example can be checked by hand: Adam's first step has the length of the learning rate, whatever the gradient's size.

# %%
#| export
def adam(
    parameters: list[nn.Parameter],  # The parameters to train
    lr: float,  # Learning rate
) -> torch.optim.Optimizer:  # A new optimizer, without state from earlier stages
    "Adam with its default momenta, in its fused form."
    return torch.optim.Adam(parameters, lr=lr, fused=True)


# %%
w = nn.Parameter(torch.tensor([1.0, 1.0]))
(w * torch.tensor([3.0, -500.0])).sum().backward()
adam([w], lr=0.1).step()
print(w)
assert torch.allclose(w, torch.tensor([0.9, 1.1]))


# %% [markdown]
# A batch that does not fit into memory can go through the network in parts whose gradients add up to the batch's gradient: each part's mean loss
# is weighted by its number of images. Several processes add up in the same way. Their gradients are averaged only in the last part's
# backward pass; before it nothing is sent (`no_sync`). Only batch norm differs, because it sees the part and not the batch. In the example, in float64 and without batch norm, five images have the same gradient in two parts (3 and 2) and in one.

# %%
#| export
def backward(
    model: nn.Module,  # In training mode; gradients are added to existing ones
    x: Tensor,  # Images of this process's piece of the batch
    y: Tensor,  # Their labels, shape (n, heads)
    sizes: list[int],  # Number of classes of each head
    scaler: torch.amp.GradScaler,  # Scales the loss under fp16, otherwise does nothing
    precision: str = "fp32",  # 'fp32', 'bf16' or 'fp16'
    accumulate: int = 1,  # Number of parts, of at least 2 images each
    weight: float = 1.0,  # Weight of the piece
    # (images, output, labels, groups) → mean loss of a part; None: the task loss
    objective: Callable | None = None,
    g: Tensor | None = None,  # Group codes, shape (n,), for the objective
) -> Tensor:  # Mean loss over the piece, unweighted
    "Gradients of the mean loss, part by part."
    parts, total = max(1, min(accumulate, len(x) // 2)), 0.0
    groups = [None] * parts if g is None else g.tensor_split(parts)
    for i, (a, b, c) in enumerate(zip(x.tensor_split(parts), y.tensor_split(parts), groups)):
        with getattr(model, "no_sync", nullcontext)() if i < parts - 1 else nullcontext():
            with autocast(precision, x.device):
                out = model(a)
                mean = objective(a, out, b, c) if objective else task_loss(out, b, sizes)
                loss = mean * (len(a) / len(x))
            scaler.scale(loss * weight).backward()
        total = total + loss.detach()
    return total


# %%
def gradient_of(accumulate, n=5):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)).double()
    x, y, _ = next(batches(images, "train", n))
    loss = backward(
        net,
        x.double(),
        y,
        [2, 3],
        torch.amp.GradScaler("cpu", enabled=False),
        accumulate=accumulate,
    )
    return loss.item(), net[1].weight.grad


[gradient_of(parts)[0] for parts in (1, 2)]

# %%
for parts in (2, 3, 64):
    assert math.isclose(gradient_of(parts)[0], gradient_of(1)[0], rel_tol=1e-12) and torch.allclose(
        gradient_of(parts)[1], gradient_of(1)[1], rtol=1e-12, atol=1e-15
    )
seen = []


class Counts(nn.Linear):
    def forward(self, x):
        seen.append(len(x))
        return super().forward(x)


backward(
    nn.Sequential(nn.Flatten(), Counts(768, 5)),
    *next(batches(images, "train", 5))[:2],
    [2, 3],
    torch.amp.GradScaler("cpu", enabled=False),
    accumulate=4,
)
assert seen == [3, 2]  # four parts of five images would leave some with one
off = torch.amp.GradScaler("cpu", enabled=False)
x, y, _ = next(batches(images, "train", 4))
once, thrice = [nn.Sequential(nn.Flatten(), nn.Linear(768, 5)) for _ in range(2)]
thrice.load_state_dict(once.state_dict())
loss = task_loss(once(x), y, [2, 3])
# the returned loss is unweighted
assert torch.allclose(backward(once, x, y, [2, 3], off), loss) and torch.allclose(
    backward(thrice, x, y, [2, 3], off, weight=3.0), loss
)
assert torch.allclose(3 * once[1].weight.grad, thrice[1].weight.grad, atol=1e-6)
held = []
once.no_sync = lambda: held.append("held back") or nullcontext()
backward(once, x.repeat(2, 1, 1, 1), y.repeat(2, 1), [2, 3], off, accumulate=3)
assert len(held) == 2  # three parts; only the gradients of the last are sent

# %% [markdown]
# An objective may take the place of the task loss. It gets the images of each part with their outputs, labels and groups.

# %%
seen = []


def only_the_first_group(images, out, labels, groups):
    seen.append((len(images), groups.tolist()))
    return (image_losses(out, labels, [2, 3]) * (groups == 0)).mean()


net = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
x, y, g = next(batches(images, "train", 5))
backward(net, x, y, [2, 3], off, accumulate=2, objective=only_the_first_group, g=g)
seen

# %%
assert seen == [(3, g[:3].tolist()), (2, g[3:].tolist())]
first = g == 0
assert first.sum() == 2  # of five images
(gradient,) = torch.autograd.grad(
    image_losses(net(x[first]), y[first], [2, 3]).sum() / 5, net[1].weight
)
assert torch.allclose(net[1].weight.grad, gradient, atol=1e-6)


# %% [markdown]
# ## An objective over images
#
# After pruning, a network may be retrained in [other ways](../methods/06_recoveries.ipynb) than on the mean loss: with weights of images or groups that depend on the losses of the whole batch. With several processes each holds a piece of the batch, so three numbers of each image are gathered: its loss, whether it is right, and its group.
# Every process then computes the same weights, and takes those of its own piece.

# %%
#| export
def _of_whole_batch(
    rows: Tensor,  # This process's rows of the batch, shape `(m, …)`
    whole: int,  # Images of the batch in all processes
    team: Team = ALONE,  # The processes that share the batch
) -> Tensor:  # The batch's rows in order, on the CPU, shape `(whole, …)`
    "Gather the rows of a batch in every process."
    if len(rows) == whole:
        return rows.cpu()
    return team.gather(rows, team.piece(torch.arange(whole)), whole).cpu()


# %%
class Other(Team):
    "One of two processes; the other one's rows are twos."

    def sum_(self, tensors):
        for t in tensors:
            t[(t == 0).all(1)] = 2


three = torch.ones(3, 1)
print(_of_whole_batch(three, 5, Other(0, 2)).T)
assert _of_whole_batch(three, 5, Other(0, 2)).flatten().tolist() == [1, 1, 1, 2, 2]
assert _of_whole_batch(three[:2], 5, Other(1, 2)).flatten().tolist() == [2, 2, 2, 1, 1]
# too small to be divided: every process has all of it
assert _of_whole_batch(three, 3, Other(1, 2)).flatten().tolist() == [1, 1, 1]


# %%
#| export
def objective_of(
    recovery,  # A `Recovery`: the losses of images, and their weights
    sizes: list[int],  # Number of classes of each head
    whole: int,  # Images of the batch in all processes
    team: Team = ALONE,  # The processes that share the batch
) -> Callable:  # (images, output, labels, groups) → scalar, for `backward`
    "The mean of a recovery's weighted losses, for the images of one batch."

    def objective(x, out, y, g):
        losses = recovery.losses(x, out, y, sizes)
        if not recovery.whole:
            return losses.mean()
        right = (predict_classes(out, sizes) == y).double().mean(1)
        rows = torch.stack([losses.detach().double(), right, g.double()], 1)
        loss, right, group = _of_whole_batch(rows, whole, team).T
        weights = recovery.weights(loss, right, group.long())
        mine = weights if len(out) == whole else team.piece(weights)
        return (mine.to(losses) * losses).mean()

    return objective


# %% [markdown]
# The example doubles the weight of wrong images. The weights have no gradient.

# %%
class Twice:
    "Wrong images count twice."

    whole = True

    def losses(self, x, out, y, sizes):
        return image_losses(out, y, sizes)

    def weights(self, losses, right, groups):
        self.told = losses, right, groups
        return 2 - right


out, two = torch.tensor([[3.0, 0.0], [3.0, 0.0]], requires_grad=True), torch.tensor([[0], [1]])
value = objective_of(Twice(), [2], 2)(None, out, two, torch.tensor([0, 1]))
value, math.log(1 + math.exp(-3)), math.log(1 + math.exp(3))

# %%
right, wrong = math.log(1 + math.exp(-3)), math.log(1 + math.exp(3))
assert math.isclose(value.item(), (right + 2 * wrong) / 2, rel_tol=1e-6)
double = Twice()
pieces = [
    objective_of(double, [2], 5, Other(rank, 2))(
        (x := torch.zeros(3 - rank)), out[[1] * len(x)], two[[1] * len(x)], torch.ones(len(x))
    ).item()
    for rank in (0, 1)
]
# the other process's images have loss 2, are right twice over and of group 2
assert double.told[0][:3].tolist() == [2, 2, 2] and double.told[2].tolist() == [2, 2, 2, 1, 1]
assert all(math.isclose(piece, 2 * wrong, rel_tol=1e-6) for piece in pieces)


# %% [markdown]
# ## An epoch
#
# All processes draw the same order of images from the epoch's seed, and each takes a piece of each batch. The random numbers for an image (its
# augmentation, dropout) come from a separate stream in each process, so they differ from those of a single process; process 0 draws as if it
# were alone.

# %%
#| export
@contextmanager
def epoch_batches(
    images: Images,  # The batches come from its 'train' part
    batch: int,  # Images per step, in all processes together
    seed: int,  # The epoch's seed
    augment: Callable | None = None,  # On batches of floats in [0, 1]
    device: torch.device | str = "cpu",  # Where the batches go
    team: Team = ALONE,  # The processes that share each batch
    # This process's pieces of the batches; the total number of images of each batch
) -> Iterator[tuple[Iterator, list[int]]]:
    "The batches of one epoch; in the block all randomness depends only on seed and process."
    whole = [len(part) for part in images.rows["train"].split(batch)]
    with seeded(seed if team.main else seed_of(seed, "process", team.rank), device):
        order = torch.Generator().manual_seed(seed)
        yield (
            batches(
                images, "train", batch, order, augment, device, lambda parts: map(team.piece, parts)
            ),
            whole,
        )


# %%
def labels_of(team):
    with epoch_batches(images, 24, seed=5, team=team) as (pieces, whole):
        return [y.tolist() for _, y, _ in pieces], whole


[[len(piece) for piece in labels_of(team)[0]] for team in (ALONE, Team(0, 2), Team(1, 2))]

# %%
assert labels_of(ALONE)[1] == labels_of(Team(1, 2))[1] == [24, 24, 16]
assert [a + b for a, b in zip(labels_of(Team(0, 2))[0], labels_of(Team(1, 2))[0])] == labels_of(
    ALONE
)[0]
drawn = []
for rank in range(2):
    with epoch_batches(images, 24, seed=5, team=Team(rank, 2)):
        drawn.append(torch.rand(1).item())
with epoch_batches(images, 24, seed=5):
    assert drawn[0] == torch.rand(1).item() != drawn[1]


# %% [markdown]
# A loss that is not finite destroys the weights, so the epoch stops with an error that says where it happened and what to change.

# %%
#| export
def check_finite(
    loss: float,  # A loss, or a sum of losses
    where: str,  # The place, for the error
):
    "Raise FloatingPointError if the loss is not finite."
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"{where}: the loss is {loss}. "
            "Lower that stage's learning rate (lrs or retrain_lr), or set precision = 'fp32'"
        )


# %%
for loss in (math.nan, math.inf, -math.inf):
    try:
        check_finite(loss, "dense, stage 1, epoch 3")
    except FloatingPointError as e:
        print(e)
    else:
        raise AssertionError(f"{loss} went through")
assert check_finite(0.7, "anywhere") is None


# %% [markdown]
# A step is the usual three lines. The scaler acts only under fp16, where it skips a step whose gradients overflowed.

# %%
#| export
def _step(model, optimizer, scaler, x, y, sizes, **how) -> Tensor:
    "One step of the optimizer on one batch; returns the mean loss of `backward`."
    optimizer.zero_grad()
    loss = backward(model, x, y, sizes, scaler, **how)
    scaler.step(optimizer)
    scaler.update()
    return loss


# %% [markdown]
# Plain gradient descent can be checked by hand: each weight moves by the learning rate times its gradient, and gradients from earlier batches do not count.

# %%
linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5, bias=False))
x, y, g = next(batches(images, "train", 8))
(gradient,) = torch.autograd.grad(task_loss(linear(x), y, [2, 3]), linear[1].weight)
expected, linear[1].weight.grad = linear[1].weight.detach() - 0.1 * gradient, torch.ones(5, 768)
loss = _step(linear, torch.optim.SGD(linear.parameters(), lr=0.1), off, x, y, [2, 3])
loss, (linear[1].weight - expected).abs().max()

# %%
assert (
    torch.allclose(linear[1].weight, expected, atol=1e-7) and task_loss(linear(x), y, [2, 3]) < loss
)
growing = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1)
_step(linear, torch.optim.SGD(linear.parameters(), lr=0.0), growing, x, y, [2, 3])
assert growing.get_scale() == 8  # after a step without overflow the scale may grow


# %% [markdown]
# Reading a loss's value makes a GPU wait, so only every 50th batch and the epoch's sum are checked. A last batch of a single image is skipped, because batch norm cannot
# normalise it.

# %%
#| export
def train_epoch(
    # The network, trained in place; with several processes, from `team.wrap`
    model: nn.Module,
    optimizer: torch.optim.Optimizer,  # Over the network's parameters
    loader: Iterator[tuple],  # Yields (x, y, g), this process's piece of each batch
    sizes: list[int],  # Number of classes of each head
    scaler: torch.amp.GradScaler,  # Scales the loss under fp16, otherwise does nothing
    precision: str = "fp32",  # 'fp32', 'bf16' or 'fp16'
    bar=None,  # Progress with a method `update`, called after every batch
    where: str = "this epoch",  # The place, for errors
    accumulate: int = 1,  # Parts into which a piece is divided
    team: Team = ALONE,  # The processes that share each batch
    whole: list[int] | None = None,  # Total images of each batch; None: those of the loader
    recovery=None,  # A `Recovery`, whose objective takes the place of the task loss; None: plain
) -> float:  # Mean training loss in nats, measured during training
    "Train on the batches once."
    model.train()
    total, n, order = 0.0, 0, None
    for i, (x, y, g) in enumerate(loader):
        images = whole[i] if whole else len(x)
        if images > 1:
            order, weight = order or memory_order(model, x.device), team.weight(len(x), images)
            loss = _step(
                model,
                optimizer,
                scaler,
                x.contiguous(memory_format=order),
                y,
                sizes,
                precision=precision,
                accumulate=accumulate,
                weight=weight * team.size,
                objective=recovery and objective_of(recovery, sizes, images, team),
                g=g,
            )
            total, n = total + loss.double() * (weight * images), n + images
            if i % 50 == 0:
                check_finite(loss.item(), f"{where}, batch {i + 1}")
        if bar is not None:
            bar.update()
    if n == 0:
        raise ValueError(f"{where}: no batch has 2 images or more: use more training images")
    team.sum_([total])
    check_finite(float(total), where)
    return float(total) / n


# %%
model = tiny_net()
optimizer = adam(model.parameters(), lr=1e-3)
[train_epoch(model, optimizer, batches(images, "train", 16), [2, 3], off) for _ in range(3)]

# %% [markdown]
# With a rate of 0 the weights do not change, so the epoch's loss is the mean over all images, even for batches of unequal size. A single image is left out of both; every batch updates the bar.

# %%
linear.eval()
still, bar = torch.optim.SGD(linear.parameters(), lr=0.0), tqdm(total=3, disable=True)
parts = list(batches(images, "train", 50)) + [(x[:1], y[:1], g[:1])]  # 50, 14 and 1 image
with patch.object(bar, "update") as moved:
    value = train_epoch(linear, still, parts, [2, 3], off, bar=bar)
assert math.isclose(
    value,
    task_loss(
        linear(torch.cat([x for x, _, _ in parts[:2]])),
        torch.cat([y for _, y, _ in parts[:2]]),
        [2, 3],
    ).item(),
    rel_tol=1e-5,
)
assert linear.training and moved.call_count == 3
doubled = copy.deepcopy(linear)
value = train_epoch(
    doubled, torch.optim.SGD(doubled.parameters(), lr=0.0), parts[:1], [2, 3], off, recovery=Twice()
)
losses, right = (
    image_losses(doubled(parts[0][0]), parts[0][1], [2, 3]),
    (predict_classes(doubled(parts[0][0]), [2, 3]) == parts[0][1]).double().mean(1),
)
assert math.isclose(value, float(((2 - right) * losses).mean()), rel_tol=1e-5)
assert value > float(losses.mean())


class Twin(Team):
    "One of two processes that see the same images."

    def sum_(self, tensors):
        for t in tensors:
            t.mul_(2)


twin, loss = copy.deepcopy(linear), task_loss(linear(x), y, [2, 3])
(gradient,) = torch.autograd.grad(loss, linear[1].weight)
value = train_epoch(
    twin,
    torch.optim.SGD(twin.parameters(), lr=1.0),
    [(x, y, g)],
    [2, 3],
    off,
    team=Twin(0, 2),
    whole=[16],
)
# halves of 16 images: averaged, they are one
assert math.isclose(value, loss.item(), rel_tol=1e-5) and torch.allclose(
    linear[1].weight - gradient, twin[1].weight, atol=1e-6
)
# the 51st batch is checked, long before the end
late = [(x, y, g)] * 50 + [(x * math.nan, y, g)] + [(x, y, g)] * 9
for loader, error in [
    ([(x, y, g), (x * math.nan, y, g)], FloatingPointError),
    (late, FloatingPointError),
    ([(x[:1], y[:1], g[:1])], ValueError),
]:
    net = copy.deepcopy(linear)  # a step on NaN leaves NaN
    try:
        train_epoch(
            net,
            torch.optim.SGD(net.parameters(), lr=0.1),
            loader,
            [2, 3],
            off,
            where="stage 1, epoch 1",
        )
    except error as e:
        print(e)
        assert "stage 1, epoch 1" in str(e) and (", batch " in str(e)) is (loader is late)
    else:
        raise AssertionError("a useless epoch went through")
