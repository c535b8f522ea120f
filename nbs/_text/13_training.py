# %% [markdown]
# # Training
#
# > One visible loop: stages of falling learning rate, each of which keeps its best epoch

# %%
#| default_exp training

# %%
#| export
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from tqdm import tqdm
from fairgrape.cache import Images, augmentation, batches
from fairgrape.checkpoints import Journal, optimizer_tensors, restore_optimizer
from fairgrape.checkpoints import Stage as Unfinished
from fairgrape.models import predict_classes, task_loss
from fairgrape.parallel import ALONE, Team, memory_errors


# %% [markdown]
# The dense network, every retraining between two pruning steps and the final training all go through this loop, so it is written once
# and kept short enough to read. It has three duties beyond lowering the loss: the same settings give the same bits, a pruned weight
# stays pruned, and the test images are never looked at.
#
# ## The schedule
#
# The paper trains in three stages, 13 epochs at 1e-4, 3 at 1e-5 and 3 at 1e-6, and a stage hands its best epoch to the next. Settings
# come as two lists, epochs and learning rates, because that is what one varies in a grid.

# %%
#| export
@dataclass(frozen=True)
class Stage:
    "Some epochs at one learning rate."
    lr: float    # Adam's learning rate, > 0
    epochs: int  # How many, ≥ 1

    def __post_init__(self):
        if not 0 < self.lr < math.inf: raise ValueError(f"learning rate {self.lr}: it must be a positive number, such as 1e-4")
        if self.epochs < 1: raise ValueError(f"{self.epochs} epochs at learning rate {self.lr:g}: a stage has at least 1, or leave it out")


# %%
Stage(lr=1e-4, epochs=13)

# %%
assert Stage(1e-4, 13) == Stage(epochs=13, lr=1e-4)
for wrong in [dict(lr=-1e-4, epochs=3), dict(lr=1e-4, epochs=0), dict(lr=float('nan'), epochs=1)]:
    try: Stage(**wrong)
    except ValueError as e: print(e)
    else: raise AssertionError(f'{wrong} was accepted')


# %%
#| export
def _numbers(
    text: str | float, # Numbers with commas between them, or one number
    kind: type,        # int or float
    setting: str,      # The setting's name, for the message
) -> list:             # The numbers
    try: return [kind(part) for part in str(text).split(',')]
    except ValueError as e:
        raise ValueError(f"{setting} = {str(text)!r}: write {'whole ' if kind is int else ''}numbers with commas between them") from e

def stages(
    epochs: str | int = '13,3,3',          # Epochs of each stage
    lrs: str | float = '1e-4,1e-5,1e-6',   # Learning rate of each stage
) -> list[Stage]:                          # The schedule, in order
    """Read a schedule from two settings; the defaults are the paper's.

    Raises: ValueError where they are no numbers, or not equally many.
    Source: paper §4.1 and its public code"""
    e, r = _numbers(epochs, int, 'epochs'), _numbers(lrs, float, 'lrs')
    if len(e) != len(r):
        raise ValueError(f"epochs = {str(epochs)!r} has {len(e)} stages, but lrs = {str(lrs)!r} has {len(r)}: one learning rate a stage")
    return [Stage(lr, n) for n, lr in zip(e, r)]


# %%
stages()

# %%
assert stages('13,3', '1e-4,1e-5') == [Stage(1e-4, 13), Stage(1e-5, 3)]
assert stages(1, 1e-5) == [Stage(1e-5, 1)]

# %% [markdown]
# A forgotten comma would otherwise show up as a network that trained for a third of its time.

# %%
for wrong in [('13,3', '1e-4'), ('13;3', '1e-4,1e-5'), ('3', 'fast'), ('3', '-1e-4'), ('0', '1e-4')]:
    try: stages(*wrong)
    except ValueError as e: print(e)
    else: raise AssertionError(f'{wrong} was accepted')


# %% [markdown]
# ## Randomness
#
# An epoch draws random numbers for the order of the images, the augmentation and dropout. Each epoch gets a seed of its own, made
# from the run's seed, what is being trained, the stage and the epoch. So epoch 3 of the second pruning step is the same whether or
# not somebody drew a random number before it, and a run that was cut off can go on from a saved step.

# %%
#| export
def seed_of(
    seed: int,          # The run's seed
    *where: str | int,  # What it is for, e.g. the label, the stage and the epoch
) -> int:               # 0 ≤ seed < 2⁶³
    "Make a seed for one place of a run."
    return int.from_bytes(hashlib.sha256(repr((seed, *where)).encode()).digest()[:8], 'big') >> 1


# %%
seed_of(0, 'dense', 0, 0), seed_of(0, 'dense', 0, 1)

# %%
assert seed_of(0, 'dense', 0, 0) == seed_of(0, 'dense', 0, 0)
assert len({seed_of(s, label, e) for s in range(3) for label in ('dense', 'step-1') for e in range(3)}) == 18
assert 0 <= seed_of(7, 'x') < 2**63


# %% [markdown]
# torchvision's augmentation and dropout draw from torch's global generator, so that one is seeded for the length of the epoch, and
# the caller's state is put back afterwards. On a GPU cuDNN is told to use its deterministic algorithms.

# %%
#| export
@contextmanager
def seeded(
    seed: int,                            # The seed, from `seed_of`
    device: torch.device | str = 'cpu',   # Where the work is done
) -> Iterator[torch.Generator]:           # A generator on the CPU with the same seed, for the order of the images
    "Make everything random within depend on `seed` alone, and leave the caller's generators as they were."
    cuda = [torch.device(device)] if torch.device(device).type == 'cuda' else []
    with torch.random.fork_rng(devices=cuda), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


# %%
with seeded(5) as generator: order, noise = torch.randperm(4, generator=generator), torch.rand(2)
order, noise

# %%
before = torch.random.get_rng_state()
with seeded(5) as generator: assert torch.equal(torch.randperm(4, generator=generator), order) and torch.equal(torch.rand(2), noise)
with seeded(6): assert not torch.equal(torch.rand(2), noise)
assert torch.equal(torch.random.get_rng_state(), before)

# %% [markdown]
# ## Precision
#
# GPUs, and recent CPUs, multiply half-precision numbers several times faster. Weights, batch-norm statistics, losses and importance
# stay in float32; autocast takes the layers that bear it in `bf16` or `fp16`. The 5 bits of fp16's exponent need the loss scaled,
# bf16 needs nothing.

# %%
#| export
PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}

def autocast(
    precision: str = 'fp32',            # 'fp32', 'bf16' or 'fp16'
    device: torch.device | str = 'cpu', # Where the network is
) -> torch.autocast:                    # A context for the forward pass
    "Run the forward pass in the precision that a setting names."
    if precision not in PRECISIONS: raise ValueError(f"precision = {precision!r} is not known: choose one of {', '.join(PRECISIONS)}")
    return torch.autocast(torch.device(device).type, PRECISIONS[precision] or torch.bfloat16, enabled=precision != 'fp32')


# %%
linear, x = nn.Linear(4, 2), torch.ones(1, 4)
for name in PRECISIONS:
    with autocast(name): print(name, linear(x).dtype)

# %%
with autocast('bf16'): assert linear(x).dtype == torch.bfloat16
with autocast('fp32'): assert linear(x).dtype == torch.float32
try: autocast('fp8')
except ValueError as e: print(e)
else: raise AssertionError('fp8 was accepted')


# %% [markdown]
# ## Memory order
#
# Convolutions on tensor cores want their numbers pixel by pixel, `channels_last`. On a CPU it depends: depthwise convolutions
# gain a third (MobileNetV2 at 64 px, batch 64, one thread: 0.44 s a step against 0.64 s), ResNets lose a tenth.

# %%
#| export
def memory_order(
    model: nn.Module,                   # The network
    device: torch.device | str = 'cpu', # Where it is to run
) -> torch.memory_format:               # `channels_last` or `contiguous_format`
    "Choose the faster memory order of images and 4-D weights."
    depthwise = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())
    return torch.channels_last if depthwise or torch.device(device).type == 'cuda' else torch.contiguous_format


# %%
from fairgrape.models import build_model

{name: str(memory_order(build_model(name, 2))) for name in ('resnet10', 'mobilenet_v2')}

# %%
assert memory_order(build_model('mobilenet_v2', 2), 'cpu') == torch.channels_last
assert memory_order(build_model('resnet10', 2), 'cuda') == torch.channels_last
assert memory_order(build_model('resnet10', 2), 'cpu') == torch.contiguous_format


# %% [markdown]
# ## Predictions
#
# Prediction is a pass in the order of the split's rows, in evaluation mode and with nothing recorded for gradients. Masked weights are
# put together once for the whole pass instead of once a batch. Where several processes take part, each takes whole batches, and all get
# all predictions.

# %%
#| export
def predict(
    model: nn.Module,                   # The network; left in evaluation mode
    images: Images,                     # Images, labels, and the rows of each split
    split: str,                         # 'train', 'val' or 'test'
    sizes: list[int],                   # Number of classes of each head
    batch: int = 256,                   # Images at a time
    precision: str = 'fp32',            # 'fp32', 'bf16' or 'fp16'
    device: torch.device | str = 'cpu', # Where to compute
    team: Team = ALONE,                 # The processes that share the batches
) -> Tensor:                            # Logits on the CPU, float32, shape (n, sum of sizes), rows as in `images.rows[split]`
    "Run the network over a split without augmentation. Raises: OutOfMemory (a MemoryError) that names the settings to lower."
    order, mine = memory_order(model, device), lambda parts: [parts[i] for i in team.share(len(parts))]
    model.to(device, memory_format=order).eval()
    advice = f'lower batch ({batch} images at a time here) or image_size, or take a smaller network'
    with memory_errors(f'the evaluation of {split!r}', advice), torch.inference_mode(), autocast(precision, device), parametrize.cached():
        out = [model(x.contiguous(memory_format=order)).float() for x, _, _ in batches(images, split, batch, device=device, share=mine)]
    n = len(images.rows[split])
    at = torch.cat([torch.empty(0, dtype=torch.long), *mine(torch.arange(n).split(batch))])         # a process may have no batch at all
    logits = team.gather(torch.cat(out) if out else torch.empty(0, sum(sizes), device=device), at, n).cpu()
    task_loss(logits[:1], images.labels[images.rows[split][:1]].cpu(), sizes)   # says so if heads and outputs do not match
    return logits


# %% [markdown]
# The examples need images and a network, both small enough that this notebook runs in seconds. The images are 16 × 16 noise, brighter
# at the top in class 0 and at the bottom in class 1, with a second label that is pure chance: one head has something to learn and one
# has not. The network has what matters here, convolutions, batch norm and one Linear layer for both heads.

# %%
def noisy_images(n=96, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.arange(n) % 2, torch.randint(3, (n,), generator=g)], 1)
    pixels = torch.randint(0, 160, (n, 3, 16, 16), generator=g)
    for half, rows in enumerate((slice(0, 8), slice(8, 16))): pixels[labels[:, 0] == half, :, rows] += 80
    rows = dict(zip(('train', 'val', 'test'), torch.arange(n).split([n - 32, 16, 16])))
    return Images(pixels=pixels.byte(), labels=labels, groups=torch.arange(n) % 4, rows=rows)

def tiny_net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
                             nn.Conv2d(16, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))

images = noisy_images()
model = tiny_net()
predict(model, images, 'test', sizes=[2, 3]).shape

# %%
x = torch.cat([x for x, _, _ in batches(images, 'test', 16)])
with torch.no_grad(): by_hand = model.eval()(x)
assert torch.allclose(predict(model, images, 'test', [2, 3], batch=16), by_hand, atol=1e-6)
assert torch.allclose(predict(model, images, 'test', [2, 3], batch=5), by_hand, atol=1e-5)       # row for row, however it is cut
half = predict(model, images, 'test', [2, 3], precision='bf16')
assert half.dtype == torch.float32 and torch.allclose(half, by_hand, atol=0.05)
assert not model.training

# %%
try: predict(model, images, 'test', sizes=[2, 2])
except ValueError as e: print(e)
else: raise AssertionError('five outputs were taken for two heads of 2')


# %%
#| export
def evaluate_loss(
    model: nn.Module,                   # The network; left in evaluation mode
    images: Images,                     # Images, labels, and the rows of each split
    split: str,                         # 'val', as a rule
    sizes: list[int],                   # Number of classes of each head
    batch: int = 256,                   # Images at a time
    precision: str = 'fp32',            # 'fp32', 'bf16' or 'fp16'
    device: torch.device | str = 'cpu', # Where to compute
    team: Team = ALONE,                 # The processes that share the batches; all get the same numbers
) -> tuple[float, float]:               # Mean loss in nats; accuracy in percent, mean over the heads
    "Measure the loss and the accuracy on a split."
    logits, y = predict(model, images, split, sizes, batch, precision, device, team), images.labels[images.rows[split]].cpu()
    return task_loss(logits, y, sizes).item(), 100*(predict_classes(logits, sizes) == y).double().mean().item()


# %%
evaluate_loss(model, images, 'val', [2, 3])

# %% [markdown]
# A network whose head is all zeros knows nothing: (ln 2 + ln 3)/2 nats, and class 0 everywhere.

# %%
blank = tiny_net()
for p in blank[-1].parameters(): nn.init.zeros_(p)
loss, accuracy = evaluate_loss(blank, images, 'val', [2, 3])
assert math.isclose(loss, (math.log(2) + math.log(3))/2, rel_tol=1e-6)
assert math.isclose(accuracy, 100*(images.labels[images.rows['val']] == 0).double().mean().item())


# %% [markdown]
# ## One epoch
#
# Here is the loop itself. The fused form of Adam makes one pass over the weights instead of a dozen; with small images that is the
# difference between the optimizer taking a third of a step and a twentieth. Its rate is the only thing a stage changes.

# %%
#| export
def adam(
    parameters: list[nn.Parameter], # What to train
    lr: float,                      # Learning rate
) -> torch.optim.Optimizer:         # A fresh optimizer, without memory of earlier stages
    "Adam with its usual momenta, in its fused form."
    return torch.optim.Adam(parameters, lr=lr, fused=True)


# %% [markdown]
# By hand: Adam's first step has the length of the learning rate, whatever the gradient's size.

# %%
w = nn.Parameter(torch.tensor([1., 1.]))
(w*torch.tensor([3., -500.])).sum().backward()
adam([w], lr=0.1).step()
w

# %%
assert torch.allclose(w, torch.tensor([0.9, 1.1]))


# %% [markdown]
# A batch that does not fit into memory can go through the network in parts, whose gradients add up to the batch's: each part's mean loss
# weighs as much as the part has images. Several processes add up in the same way. Their gradients are averaged in the last part's
# backward pass only; before it there is nothing to send (`no_sync`). What differs is batch norm, which sees the part and not the batch.

# %%
#| export
def backward(
    model: nn.Module,              # In training mode; gradients are added to those that are there
    x: Tensor,                     # Images of this process's piece of the batch
    y: Tensor,                     # Their labels, shape (n, heads)
    sizes: list[int],              # Number of classes of each head
    scaler: torch.amp.GradScaler,  # Scales the loss under fp16, else does nothing
    precision: str = 'fp32',       # 'fp32', 'bf16' or 'fp16'
    accumulate: int = 1,           # Parts in which the images go through, of at least 2 images each
    weight: float = 1.,            # What the piece weighs
) -> Tensor:                       # Mean loss over the piece, before weighing
    "Gradients of the mean loss, part by part."
    parts, total = max(1, min(accumulate, len(x)//2)), 0.
    for i, (a, b) in enumerate(zip(x.tensor_split(parts), y.tensor_split(parts))):
        with getattr(model, 'no_sync', nullcontext)() if i < parts - 1 else nullcontext():
            with autocast(precision, x.device): loss = task_loss(model(a), b, sizes)*(len(a)/len(x))
            scaler.scale(loss*weight).backward()
        total = total + loss.detach()
    return total


# %% [markdown]
# In float64 and without batch norm, five images in two parts (3 and 2) or in one have the same gradient.

# %%
def gradient_of(accumulate, n=5):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3*16*16, 5)).double()
    x, y, _ = next(batches(images, 'train', n))
    loss = backward(net, x.double(), y, [2, 3], torch.amp.GradScaler('cpu', enabled=False), accumulate=accumulate)
    return loss.item(), net[1].weight.grad

[gradient_of(parts)[0] for parts in (1, 2)]

# %%
for parts in (2, 3, 64):
    assert math.isclose(gradient_of(parts)[0], gradient_of(1)[0], rel_tol=1e-12) and torch.allclose(gradient_of(parts)[1], gradient_of(1)[1], rtol=1e-12, atol=1e-15)
seen = []
class Counts(nn.Linear):
    def forward(self, x): seen.append(len(x)); return super().forward(x)
backward(nn.Sequential(nn.Flatten(), Counts(768, 5)), *next(batches(images, 'train', 5))[:2], [2, 3], torch.amp.GradScaler('cpu', enabled=False), accumulate=4)
assert seen == [3, 2]                                                # four parts of five images would leave some with one


# %% [markdown]
# Everybody draws the same order of images from the epoch's seed and takes a piece of each batch. What is drawn for an image (its
# augmentation, dropout) comes from a stream of each process's own, so it is another than one process would have drawn; process 0 draws as if it
# were alone.

# %%
#| export
@contextmanager
def epoch_batches(
    images: Images,                     # Batches of its 'train' part
    batch: int,                         # Images a step, of all processes together
    seed: int,                          # The epoch's seed
    augment: Callable | None = None,    # On batches of floats in [0, 1]
    device: torch.device | str = 'cpu', # Where to
    team: Team = ALONE,                 # The processes that share each batch
) -> Iterator[tuple[Iterator, list[int]]]: # This process's pieces of the batches; how many images each batch has in all
    "The batches of one epoch; within, everything random depends on the seed and the process alone."
    whole = [len(part) for part in images.rows['train'].split(batch)]
    with seeded(seed if team.main else seed_of(seed, 'process', team.rank), device):
        order = torch.Generator().manual_seed(seed)
        yield batches(images, 'train', batch, order, augment, device, lambda parts: map(team.piece, parts)), whole


# %%
def labels_of(team): 
    with epoch_batches(images, 24, seed=5, team=team) as (pieces, whole): return [y.tolist() for _, y, _ in pieces], whole

[[len(piece) for piece in labels_of(team)[0]] for team in (ALONE, Team(0, 2), Team(1, 2))]

# %%
assert labels_of(ALONE)[1] == labels_of(Team(1, 2))[1] == [24, 24, 16]
assert [a + b for a, b in zip(labels_of(Team(0, 2))[0], labels_of(Team(1, 2))[0])] == labels_of(ALONE)[0]
drawn = []
for rank in range(2):
    with epoch_batches(images, 24, seed=5, team=Team(rank, 2)): drawn.append(torch.rand(1).item())
with epoch_batches(images, 24, seed=5): assert drawn[0] == torch.rand(1).item() != drawn[1]


# %% [markdown]
# A loss that is not finite ruins the weights for good, so the epoch stops there. Asking for its value makes a GPU wait, which is why
# only every 50th batch and the epoch's sum are asked. A last batch of a single image is left out: alone, it gives batch norm nothing
# to normalise.

# %%
#| export
def check_finite(
    loss: float,  # A loss, or a sum of losses
    where: str,   # The place, for the message
):
    "Stop the training where the loss is not a number."
    if not math.isfinite(loss):
        raise FloatingPointError(f"{where}: the loss is {loss}. "
                                 "Lower that stage's learning rate (lrs or retrain_lr), or set precision = 'fp32'")

def train_epoch(
    model: nn.Module,                    # The network, trained in place; where several processes train, as `team.wrap` gives it
    optimizer: torch.optim.Optimizer,    # Over the network's parameters
    loader: Iterator[tuple],             # Yields (x, y, g), this process's piece of each batch
    sizes: list[int],                    # Number of classes of each head
    scaler: torch.amp.GradScaler,        # Scales the loss under fp16, else does nothing
    precision: str = 'fp32',             # 'fp32', 'bf16' or 'fp16'
    bar: tqdm | None = None,             # Progress, moved on by every batch
    where: str = 'this epoch',           # The place, for the message of an error
    accumulate: int = 1,                 # Parts in which a piece goes through the network
    team: Team = ALONE,                  # The processes that share each batch
    whole: list[int] | None = None,      # Images of each batch in all; None: those of the loader
) -> float:                              # Mean training loss in nats, as seen while training
    "Go through the batches once."
    model.train()
    total, n, order = 0., 0, None
    for i, (x, y, _) in enumerate(loader):
        images = whole[i] if whole else len(x)
        if images > 1:
            order, weight = order or memory_order(model, x.device), team.weight(len(x), images)
            optimizer.zero_grad()
            loss = backward(model, x.contiguous(memory_format=order), y, sizes, scaler, precision, accumulate, weight*team.size)
            scaler.step(optimizer); scaler.update()
            total, n = total + loss.double()*(weight*images), n + images
            if i % 50 == 0: check_finite(loss.item(), f'{where}, batch {i + 1}')
        if bar is not None: bar.update()
    if n == 0: raise ValueError(f'{where}: no batch of 2 images or more, so there is nothing to train on')
    team.sum_([total])
    check_finite(float(total), where)
    return float(total)/n


# %%
model = tiny_net()
off = torch.amp.GradScaler('cpu', enabled=False)
optimizer = adam(model.parameters(), lr=1e-3)
[train_epoch(model, optimizer, batches(images, 'train', 16), [2, 3], off) for _ in range(3)]

# %% [markdown]
# One batch and plain gradient descent can be followed by hand: each weight moves by the learning rate times its gradient.

# %%
linear = nn.Sequential(nn.Flatten(), nn.Linear(3*16*16, 5, bias=False))
x, y, g = next(batches(images, 'train', 8))
gradient, = torch.autograd.grad(task_loss(linear(x), y, [2, 3]), linear[1].weight)
expected = linear[1].weight.detach() - 0.1*gradient
value = train_epoch(linear, torch.optim.SGD(linear.parameters(), lr=0.1), [(x, y, g)], [2, 3], off)
assert torch.allclose(linear[1].weight, expected) and linear.training

# %%
for loader, error in [([(x*math.nan, y, g)], FloatingPointError), ([(x[:1], y[:1], g[:1])], ValueError)]:
    try: train_epoch(linear, torch.optim.SGD(linear.parameters(), lr=0.1), loader, [2, 3], off, where='stage 1, epoch 1')
    except error as e: print(e); assert 'stage 1, epoch 1' in str(e)
    else: raise AssertionError('a useless epoch went through')


# %% [markdown]
# ## All stages
#
# After each epoch the validation loss decides whether its weights are the stage's best so far; at the stage's end those are put back,
# batch norm's running statistics with them, and the next stage starts from there with a new optimizer. Masks are part of the network,
# so pruned weights need no mention.
#
# Several processes come to the same decisions because they have the same numbers: predictions are gathered before the loss is taken.
# Where each has its own batch norm (on the CPU) the running statistics are averaged after each epoch.

# %%
#| export
def average_buffers(
    model: nn.Module, # Its running statistics are changed in place; masks and counters are not touched
    team: Team,       # The processes
):
    "Average batch norm's running statistics over all processes."
    if team.size == 1: return
    statistics = [b for b in model.buffers() if b.is_floating_point()]
    team.sum_(statistics)
    for b in statistics: b.div_(team.size)


# %%
norm = nn.BatchNorm1d(2)
average_buffers(norm, ALONE)
norm.running_var


# %% [markdown]
# Two processes of which the other one has 3 everywhere: (1 + 3)/2.

# %%
@dataclass(frozen=True)
class WithThrees(Team):
    def sum_(self, tensors):
        for t in tensors: t += 3

average_buffers(norm, WithThrees(0, 2))
assert norm.running_var.tolist() == [2, 2] and norm.num_batches_tracked == 0


# %%
#| export
def train_stage(
    model: nn.Module,                # The network; ends with the weights of the best epoch
    images: Images,                  # Trained on 'train', judged on 'val'
    stage: Stage,                    # Learning rate and epochs
    epoch_seeds: list[int],          # One seed an epoch
    sizes: list[int],                # Number of classes of each head
    where: str,                      # The place, for the bar and for errors
    batch: int = 64,                 # Images a step
    augment: Callable | None = None, # On batches of floats in [0, 1]
    precision: str = 'fp32',         # 'fp32', 'bf16' or 'fp16'
    device: torch.device | str = 'cpu', # Where to compute
    progress: bool = True,           # Show a bar over all batches of the stage
    optimizer: Callable = adam,      # (parameters, lr) -> optimizer
    journal: Journal | None = None,  # Told after each epoch; where it knows this stage, the stage goes on from there
    at: tuple[str, int] = ('', 0),   # The stage's name in the journal: label and number
    accumulate: int = 1,             # Parts in which a batch goes through the network
    compiled: bool = False,          # Train through torch.compile
    team: Team = ALONE,              # The processes that share each batch
) -> list[dict]:                     # One row an epoch; `kept` is True at the best
    "Train for some epochs at one rate and keep the best by validation loss, the earlier one on a tie."
    opt, rows, best, weights = optimizer([p for p in model.parameters() if p.requires_grad], stage.lr), [], None, None
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=precision == 'fp16')
    if here := journal and journal.half_done(*at):
        rows, best, weights = here.rows, here.best, here.weights
        restore_optimizer(opt, here.optimizer), scaler.load_state_dict(here.scaler)
    net = torch.compile(team.wrap(model)) if compiled else team.wrap(model)
    with tqdm(total=stage.epochs*math.ceil(len(images.rows['train'])/batch), desc=where, disable=not progress, leave=False) as bar:
        for epoch, seed in list(enumerate(epoch_seeds))[len(rows):]:
            start, here = time.perf_counter(), f'{where}, epoch {epoch + 1}'
            with epoch_batches(images, batch, seed, augment, device, team) as (loader, whole):
                train_loss = train_epoch(net, opt, loader, sizes, scaler, precision, bar, here, accumulate, team, whole)
            average_buffers(model, team)
            val_loss, accuracy = evaluate_loss(model, images, 'val', sizes, 4*batch, precision, device, team)
            check_finite(val_loss, f'{here}, validation')
            if best is None or val_loss < rows[best]['val_loss']:
                best, weights = epoch, {k: v.clone() for k, v in model.state_dict().items()}
            bar.set_postfix(loss=f'{val_loss:.3f}', accuracy=f'{accuracy:.1f}')
            measured = dict(train_loss=train_loss, val_loss=val_loss, val_accuracy=accuracy, seconds=time.perf_counter() - start)
            rows.append(dict(epoch=epoch, lr=stage.lr) | measured)
            if journal:
                journal.unfinished = Unfinished(*at, rows, best, weights, optimizer_tensors(opt), scaler.state_dict())
                journal.write(model, where, f'{epoch + 1} of {stage.epochs}')
    model.load_state_dict(weights)
    return [row | dict(kept=row['epoch'] == best) for row in rows]


# %% [markdown]
# Does it give back the best epoch, and all of it? At an absurd learning rate the validation loss must rise at some point. Training
# again for just as many epochs as the best one needed ends, without anything to put back, at those very weights and statistics.

# %%
import pandas as pd

def run(epochs, seeds=range(10), lr=2e-2):
    model = tiny_net()
    return model, train_stage(model, images, Stage(lr, epochs), list(seeds)[:epochs], [2, 3], 'example', batch=16, progress=False)

model, rows = run(10)
pd.DataFrame(rows).round(3)


# %%
def same(a, b): return all(torch.equal(a[k], b[k]) for k in a | b)

best = min(rows, key=lambda row: row['val_loss'])
assert [row['kept'] for row in rows] == [row is best for row in rows]
assert best is not rows[-1], 'the validation loss was to rise on purpose'
again, _ = run(best['epoch'] + 1)
assert same(model.state_dict(), again.state_dict())
assert '1.running_var' in model.state_dict() and evaluate_loss(model, images, 'val', [2, 3], 64)[0] == best['val_loss']


# %% [markdown]
# torch.compile writes the network anew as fewer, larger kernels. That wants a compiler on the machine, which is asked for before anything is trained.
# The compiled form is only a way to run the network: weights and their names are the network's own. Predictions and importance run as ever.
# It is compiled when it first trains and once more when it first has masks, half a minute each for a ResNet on a CPU; later stages and
# steps find it done.

# %%
#| export
def _tiny(x: Tensor) -> Tensor: return x.sin() + 1

def check_compiler(
    device: torch.device | str = 'cpu', # Where to compute
):
    "Compile next to nothing. Raises: RuntimeError that says what is missing."
    try: torch.compile(_tiny)(torch.ones(4, device=device))
    except Exception as e:
        raise RuntimeError("compiled = True: torch.compile does not work here "
                           f"({type(e).__name__}: {str(e).strip().splitlines()[0][:120]}). "
                           "It needs a C++ compiler such as g++ (on a GPU also Triton): install it, or set compiled = False") from e


# %%
from unittest.mock import patch

def broken(*_, **__): raise FileNotFoundError("g++: no such file")

with patch('torch.compile', broken):
    try: check_compiler()
    except RuntimeError as e: print(e)
    else: raise AssertionError('a compiler that is not there was found')

# %%
with patch('torch.compile', lambda f: f): assert check_compiler() is None


# %%
#| export
def train(
    model: nn.Module,                # The network, trained in place, masks held; left in evaluation mode
    images: Images,                  # Trained on 'train', judged on 'val'; 'test' is not touched
    stages: Sequence[Stage],         # The schedule
    sizes: list[int],                # Number of classes of each head
    seed: int,                       # The run's seed
    label: str = 'dense',            # What is being trained; part of every epoch's seed and of the history
    batch: int = 64,                 # Images a step
    augment: str = 'paper',          # 'paper', 'flip' or 'none'
    precision: str = 'fp32',         # 'fp32', 'bf16' or 'fp16'
    device: torch.device | str = 'cpu', # Where to compute
    progress: bool = True,           # Show a bar for each stage
    history: list[dict] | None = None,  # Rows of earlier trainings, to go on from
    optimizer: Callable = adam,      # (parameters, lr) -> optimizer, rebuilt at each stage
    journal: Journal | None = None,  # Told after each epoch; stages that it knows as done are left out
    accumulate: int = 1,             # Parts in which a batch goes through the network, where it does not fit at once
    compiled: bool = False,          # Train through torch.compile
    team: Team = ALONE,              # The processes that share each batch; process 0's network is where all start
) -> list[dict]:                     # The history, one row an epoch: label, stage, epoch, lr, losses, accuracy, seconds, kept
    """Train through all stages; each keeps its best epoch by validation loss.

    Raises: ValueError or RuntimeError before the first step if a setting is not usable; FloatingPointError when the loss is not finite;
        OutOfMemory (a MemoryError) that names the settings to change.
    Source: paper §4.1"""
    check_training(stages, batch, images, sizes, precision, device, accumulate, compiled)
    transform = None if augment == 'none' else augmentation(augment, images.pixels.shape[-1])
    history, progress = [] if history is None else history, progress and team.main
    advice = f'raise accumulate (now {accumulate}), lower batch (now {batch}) or image_size, or take a smaller network'
    with memory_errors(f'training ({label})', advice):
        model.to(device, memory_format=memory_order(model, device))
        team.same(model.state_dict().values())
        for i, stage in enumerate(stages):
            if journal and journal.done(label, i): continue
            seeds = [seed_of(seed, label, i, epoch) for epoch in range(stage.epochs)]
            where, how = f'{label}, stage {i + 1}', (precision, device, progress, optimizer)
            with team.synced(model):
                rows = train_stage(model, images, stage, seeds, sizes, where, batch, transform, *how, journal, (label, i), accumulate, compiled, team)
            history += [dict(label=label, stage=i) | row for row in rows]
            if journal: journal.unfinished = None
    return history

def check_training(stages, batch, images, sizes, precision, device, accumulate, compiled):
    "What can be known to be wrong before the first step"
    if not stages: raise ValueError("stages is empty: give at least one Stage, or stages('3', '1e-5')")
    if batch < 2: raise ValueError(f"batch = {batch}: batch norm needs at least 2 images")
    if not 1 <= accumulate <= batch//2:
        raise ValueError(f"accumulate = {accumulate} parts of a batch of {batch}: each needs 2 images, so choose 1 to {batch//2}")
    if images.labels.shape[1] != len(sizes): raise ValueError(f"{images.labels.shape[1]} labels an image, but {len(sizes)} heads")
    autocast(precision, device)
    if compiled: check_compiler(device)


# %% [markdown]
# Two short stages. The columns are those of a run's `history.csv`; accuracy is in percent, the mean over both heads, of which the
# second has only chance to go by.

# %%
def trained(seed=0, **settings):
    model = tiny_net()
    settings = dict(stages=stages('2,1', '1e-3,1e-4'), batch=16, progress=False) | settings
    return model, train(model, images, sizes=[2, 3], seed=seed, **settings)

model, history = trained()
pd.DataFrame(history).round(3)

# %%
columns = ['label', 'stage', 'epoch', 'lr', 'train_loss', 'val_loss', 'val_accuracy', 'seconds', 'kept']
assert [list(row) for row in history] == [columns]*3
assert [(row['stage'], row['epoch'], row['lr']) for row in history] == [(0, 0, 1e-3), (0, 1, 1e-3), (1, 0, 1e-4)]
assert sum(row['kept'] for row in history) == 2                        # one in each stage

# %% [markdown]
# The same settings give the same bits, another seed or another label gives others.

# %%
before = torch.random.get_rng_state()
assert same(model.state_dict(), trained()[0].state_dict())
assert torch.equal(before, torch.random.get_rng_state())
assert not same(model.state_dict(), trained(seed=1)[0].state_dict())
assert not same(model.state_dict(), trained(label='step-1')[0].state_dict())

# %% [markdown]
# In `bf16` the training takes nearly the same path: the weights stay in float32, and after a few steps the losses agree to about a
# hundredth.

# %%
plain = trained(augment='none', stages=[Stage(1e-4, 2)])[1][-1]['train_loss']
other, rows = trained(augment='none', stages=[Stage(1e-4, 2)], precision='bf16')
abs(plain - rows[-1]['train_loss'])

# %%
assert abs(plain - rows[-1]['train_loss']) < 0.05
assert all(p.dtype == torch.float32 for p in other.parameters())


# %% [markdown]
# Does a batch in four parts end where the undivided one ends? In float64, without batch norm: after three epochs of Adam, to nine digits.

# %%
def plain_net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(392, 5)).double()

class DoubleIn(nn.Module):
    "Images come as float32; this network wants float64"
    def __init__(self): super().__init__(); self.net = plain_net()
    def forward(self, x): return self.net(x.double())

ends = {}
for parts in (1, 4):
    model = DoubleIn()
    train(model, images, stages('3', '1e-3'), [2, 3], seed=0, batch=16, augment='none', progress=False, accumulate=parts)
    ends[parts] = model.state_dict()
max(float((ends[1][k] - ends[4][k]).abs().max()) for k in ends[1])

# %%
assert all(torch.allclose(ends[1][k], ends[4][k], rtol=0, atol=1e-9) for k in ends[1]) and not same(ends[1], ends[4])


# %% [markdown]
# When memory runs out, the message names the settings:

# %%
class Greedy(nn.Module):
    "A network that wants a petabyte in training and nothing in evaluation"
    def __init__(self): super().__init__(); self.net = tiny_net()
    def forward(self, x): return self.net(x + (torch.empty(2**50, dtype=torch.uint8).sum() if self.training else 0))

try: train(Greedy(), images, stages('1', '1e-3'), [2, 3], seed=0, batch=16, progress=False)
except MemoryError as e: print(e); assert 'raise accumulate (now 1), lower batch (now 16)' in str(e)
else: raise AssertionError('a petabyte was found')
try: predict(nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.ConstantPad1d((0, 2**48), 0)), images, 'test', [2, 3])
except MemoryError as e: print(e); assert 'lower batch (256 images' in str(e)
else: raise AssertionError('a petabyte was found')

# %% [markdown]
# ## Pruned weights stay pruned
#
# This is the promise that iterative pruning rests on: a weight that was pruned is 0 after every step, not only at the end. An
# optimizer could break it in two ways, by momentum from before the pruning and by weight decay on the hidden value. The mask sits
# between the hidden value and what the network computes with, so neither reaches the network. The check looks after every single
# step.

# %%
from fairgrape.masks import apply_masks, get_masks, plain_state, sparsity

optimizers = dict(adam=adam,
    momentum=lambda ps, lr: torch.optim.SGD(ps, lr=lr, momentum=0.9, weight_decay=1e-2),
    adamw=lambda ps, lr: torch.optim.AdamW(ps, lr=lr, weight_decay=0.1))

model = tiny_net()
g = torch.Generator().manual_seed(0)
masks = {name: torch.rand(mask.shape, generator=g) < 0.1 for name, mask in get_masks(model).items()}
apply_masks(model, masks)
print(f'{100*sparsity(get_masks(model)):.1f} % pruned')


# %%
def leaks(model, masks): return sum(int(model.get_submodule(n).weight[~mask].count_nonzero()) for n, mask in masks.items())

def watched(kind, steps):
    def build(parameters, lr):
        opt = optimizers[kind](parameters, lr)
        opt.register_step_post_hook(lambda *_: steps.append(leaks(model, masks)))
        return opt
    return build

for kind in optimizers:
    steps, before = [], {k: v.clone() for k, v in plain_state(model).items()}
    train(model, images, stages('1,1', '1e-2,1e-3'), [2, 3], seed=0, batch=16, progress=False, optimizer=watched(kind, steps))
    print(kind, steps)
    assert steps == [0]*8                                            # 64 training images, 4 steps an epoch, 2 epochs
    assert not torch.equal(before['0.weight'], plain_state(model)['0.weight'])   # the kept ones did learn

# %% [markdown]
# ## Cut off, and gone on
#
# A training that is given a journal writes a checkpoint after each epoch. Started again with the journal of a training that was cut off, it skips the stages that are done, pours the optimizer's memory back and goes on with the next epoch. The check cuts the same
# training after each of its epochs in turn, in the middle of a stage and at its end, and compares with one that was never cut, bit for bit. The loop is cut where a kill would cut it: after a checkpoint was written.

# %%
import tempfile
from pathlib import Path
from fairgrape.checkpoints import open_journal

class Cut(Exception): pass

def cut_after(journal, epochs):
    "Have a journal stop the training after so many checkpoints"
    write = journal.write
    def and_stop(*args):
        write(*args)
        if journal.written >= epochs: raise Cut
    journal.write = and_stop
    return journal

def trained_with(journal, model):
    return train(journal.restore(model), images, stages('4,1', '1,1e-3'), [2, 3], seed=0, batch=16, progress=False, augment='flip', history=journal.history, journal=journal)

straight = tiny_net()
rows = trained_with(open_journal(None), straight)
folder = Path(tempfile.mkdtemp())
for epochs in range(1, 6):
    try: trained_with(cut_after(open_journal(folder / str(epochs)), epochs), tiny_net())
    except Cut: pass
    model, journal = tiny_net(), open_journal(folder / str(epochs))
    again = trained_with(journal, model)
    assert same(model.state_dict(), straight.state_dict()), epochs
    assert [{**row, 'seconds': 0} for row in again] == [{**row, 'seconds': 0} for row in rows] and journal.written == 5
[row['kept'] for row in rows]

# %%
assert rows[3]['kept'] is False and len(rows) == 5          # the best epoch was not the last one, so it had to come back too

# %% [markdown]
# ## Errors before the work
#
# A setting that cannot work is refused before the first batch; a rate that makes the loss explode names stage and epoch.

# %%
huge = lambda ps, lr: torch.optim.SGD(ps, lr=1e30)
for settings, error in [(dict(stages=[]), ValueError), (dict(batch=1), ValueError), (dict(precision='int8'), ValueError),
                        (dict(augment='mirror'), ValueError), (dict(accumulate=9), ValueError), (dict(accumulate=0), ValueError), (dict(optimizer=huge), FloatingPointError)]:
    try: trained(**settings)
    except error as e: print(type(e).__name__, e)
    else: raise AssertionError(f'{settings} was accepted')
