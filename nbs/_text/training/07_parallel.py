# %% [markdown]
# # Parallel
#
# > One run on several GPUs

# %%
#| default_exp training.parallel

# %%
#| export
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from fastcore.basics import patch
from torch import Tensor, nn

from fairgrape.training.files import cores

# %%
from contextlib import chdir
from unittest.mock import Mock
from unittest.mock import patch as instead

home = Path(tempfile.mkdtemp())


# %% [markdown]
# A server with eight GPUs can use them in two ways. A sweep runs eight runs side by side. That needs nothing from this notebook, and it is better if there are enough runs. One large run on all eight GPUs needs its work divided.
#
# The division is simple. Every process holds the whole network and runs the same loop. Each process takes a piece of every training batch, and whole batches for the importance and the evaluation. The results are added up, and all processes continue with the same numbers.
# [accelerate](https://huggingface.co/docs/accelerate) starts the processes and connects them. The loops are this project's own.
#
# ## A process in its team
#
# A process knows its number, the number of processes, and its device. A single process is number 0 of 1, and all functions below then do nothing, so the loops need no second version.

# %%
#| export
@dataclass(frozen=True)
class Team:
    "This process among those that share a run."

    rank: int = 0  # Its number, from 0
    size: int = 1  # Number of processes
    # Where it computes, and where tensors must be to be sent
    device: torch.device = torch.device("cpu")

    @property
    def main(self) -> bool:
        return self.rank == 0  # this process writes files and prints

    def wait(self):
        "Wait until all processes have reached this point."
        if self.size > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)


ALONE = Team()

# %%
print(Team(1, 4), ALONE.main)
assert ALONE.main and ALONE.size == 1 and not Team(1, 4).main
with instead("torch.distributed.barrier") as barrier:
    ALONE.wait(), Team(1, 4).wait(), Team(1, 4, torch.device("cuda:1")).wait()
assert [call.kwargs for call in barrier.mock_calls] == [dict(device_ids=None), dict(device_ids=[1])]


# %% [markdown]
# `accelerate launch` and `torchrun` give a process its number in environment variables. Without a device name each process takes the GPU of its own number, or the CPU if there is no GPU. A numbered GPU is an error, because all processes would share it.
#
# Such a process must end when its parent does, however the parent ends. On Linux the kernel ensures this and reports the signal that it will send.

# %%
#| export
def _die_with_parent(how: int = signal.SIGKILL):
    """Ask Linux to send this process a signal when its parent ends; on other systems nothing
    happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(how))  # 1: PR_SET_PDEATHSIG


# %%
def will_send():
    "The signal that the kernel will send; 0: none."
    ctypes.CDLL(None).prctl(2, ctypes.byref(now := ctypes.c_int()))  # 2: PR_GET_PDEATHSIG
    return now.value


if sys.platform == "linux":
    before = will_send()
    _die_with_parent(signal.SIGCONT)
    print(signal.Signals(will_send()).name)
    assert will_send() == signal.SIGCONT
    _die_with_parent(before)
    with instead("sys.platform", "elsewhere"):
        _die_with_parent(signal.SIGCONT)
    assert will_send() == before  # nothing happens on other systems


# %%
#| export
def team_of(
    # "cuda" or "cpu"; empty: CUDA if available. A single process may name any device
    device: str = "",
) -> Team:  # This process's team; `ALONE` for a single process
    """Join the processes that `accelerate launch` or torchrun started. Raises: ValueError for a
    device that all would share.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # a single process needs no device for sending
    if size < 2 or "LOCAL_RANK" not in os.environ:
        return ALONE
    if kind not in ("cuda", "cpu"):
        raise ValueError(
            f"device = {device!r} with {size} processes: each uses its own GPU; give 'cuda' or"
            " 'cpu', or leave it empty"
        )
    _die_with_parent()
    # one process may decode images for hours while the others wait
    state = PartialState(cpu=kind == "cpu", timeout=timedelta(days=7))
    return Team(
        state.process_index,
        state.num_processes,
        torch.device("cpu") if kind == "cpu" else state.device,
    )


# %%
print(team_of("cpu"))
assert team_of() == team_of("cpu") == team_of("cuda:3") == ALONE
with instead.dict(os.environ, WORLD_SIZE="4", LOCAL_RANK="1", RANK="1"):
    try:
        team_of("cuda:1")
    except ValueError as e:
        print(e)
        assert "'cuda:1'" in str(e)
    else:
        raise AssertionError("four processes were sent to one GPU")
# a batch system sets WORLD_SIZE too, without launching these processes
with instead.dict(os.environ, WORLD_SIZE="4"):
    assert team_of("cuda:1") is ALONE
joined = Mock(return_value=Mock(process_index=1, num_processes=2, device="its own GPU"))
with (
    instead.dict(os.environ, WORLD_SIZE="2", LOCAL_RANK="1"),
    instead(f"{Team.__module__}.PartialState", joined),
    instead(f"{Team.__module__}._die_with_parent") as dies,
):
    assert (
        team_of("cpu") == Team(1, 2)
        and team_of("cuda") == Team(1, 2, "its own GPU")
        and dies.call_count == 2
    )
assert [call.kwargs["cpu"] for call in joined.mock_calls] == [True, False]


# %% [markdown]
# Some work is done once, and the other processes use its result: unpacking an archive, downloading weights, decoding images.

# %%
#| export
@patch
@contextmanager
def main_first(self: Team) -> Iterator[None]:
    "Run the block in process 0 first, then in the others."
    if not self.main:
        self.wait()
    yield
    if self.main:
        self.wait()


# %%
done = []


class Talks(Team):
    def wait(self):
        done.append(f"process {self.rank} waits")


for rank in range(2):
    with Talks(rank, 2).main_first():
        done.append(f"process {rank} works")
print(done)
assert done == ["process 0 works", "process 0 waits", "process 1 waits", "process 1 works"]


# %% [markdown]
# ## Whole batches
#
# Importance is a mean of squares over mini-batches, so a batch must not be divided: half the images would give another number. Each process takes every `size`-th batch. Evaluation does the same, for simplicity.

# %%
#| export
@patch
def share(
    self: Team,
    n: int,  # Number of whole batches
) -> range:  # Numbers of the batches that this process takes
    "The batches of this process among `n`: rank, rank + size, …"
    return range(self.rank, n, self.size)


# %%
print([list(Team(rank, 3).share(7)) for rank in range(3)])
assert (
    [list(Team(rank, 3).share(7)) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    and list(ALONE.share(3)) == [0, 1, 2]
    and not list(Team(2, 3).share(2))
)


# %% [markdown]
# ## A piece of a batch
#
# A training step has the same images for any number of processes, so its batch is divided. Pieces may differ by one image, and each is weighted by its number of images: a batch of 5 divided into 3 and 2 has the gradient
# (3 · a + 2 · b) / 5 of the pieces' mean gradients a and b. Batch norm cannot work on a single image. If pieces would be that small (usually in the last batch of an epoch), every process takes the whole batch, and all have the same gradient.

# %%
#| export
@patch
def piece(
    self: Team,
    rows: Tensor,  # Row numbers of the images of a batch, shape `(n,)`
) -> Tensor:  # Those of this process's piece
    """This process's piece of a batch: near-equal and in order; the whole batch if a piece would
    have fewer than 2 images.
    """
    return rows if len(rows) < 2 * self.size else rows.tensor_split(self.size)[self.rank]


@patch
def weight(
    self: Team,
    mine: int,  # Images in this process's piece
    whole: int,  # Images in the whole batch
) -> float:  # The weights of all processes add up to 1
    "The weight of this process's piece in the batch's mean."
    return 1 / self.size if mine == whole else mine / whole


# %%
five = torch.arange(5)
[(Team(rank, 2).piece(five).tolist(), Team(rank, 2).weight(3 - rank, 5)) for rank in range(2)]

# %%
assert [Team(rank, 2).piece(five).tolist() for rank in range(2)] == [
    [0, 1, 2],
    [3, 4],
] and torch.equal(ALONE.piece(five), five)
assert [Team(rank, 2).weight(3 - rank, 5) for rank in range(2)] == [0.6, 0.4] and ALONE.weight(
    5, 5
) == 1
assert Team(1, 3).piece(torch.arange(6)).tolist() == [2, 3] and Team(1, 3).piece(five).tolist() == [
    0,
    1,
    2,
    3,
    4,
]
assert Team(1, 2).piece(five[:3]).tolist() == [0, 1, 2] and Team(1, 2).weight(3, 3) == 0.5


# %% [markdown]
# ## Adding up, and agreeing
#
# NCCL, which connects GPUs, takes only tensors on a GPU, so a tensor elsewhere is copied there and back. Masks are sent as bytes. The test replaces the sending and checks that the copy keeps the memory order.

# %%
#| export
def _through(tensor: Tensor, device: torch.device, send) -> None:
    "Let `send` change the tensor's numbers, on `device` and in contiguous memory."
    there = tensor.detach().to(device).contiguous()
    send(there.view(torch.uint8) if there.dtype == torch.bool else there)
    if there.data_ptr() != tensor.data_ptr() or not tensor.is_contiguous():
        tensor.detach().copy_(there)


# %%
turned = torch.ones(2, 3).T
_through(
    turned,
    torch.device("cpu"),
    lambda x: print("sent in one block:", x.is_contiguous()) or x.mul_(2),
)
for tensor in (
    torch.ones(2, 3).T,
    torch.ones(2, 3, dtype=torch.float64),
    nn.Parameter(torch.ones(2)),
    torch.ones(1, 4, 2, 2).contiguous(memory_format=torch.channels_last),
):
    before = tensor.stride()
    _through(tensor, torch.device("cpu"), lambda x: x.mul_(2))
    assert (tensor == 2).all() and tensor.stride() == before
mask, kinds = torch.tensor([True, False]), []
_through(mask, torch.device("cpu"), lambda x: kinds.append(x.dtype) or x.zero_())
assert not mask.any() and kinds == [torch.uint8] and (turned == 2).all()


# %% [markdown]
# There are two collective operations. `sum_` adds the tensors of all processes; `same` copies those of process 0 to all. A single process sends nothing. Both are tested below in separate processes.

# %%
#| export
@patch
def sum_(
    self: Team,
    tensors: Iterable[Tensor],  # Each of the same shape in every process; changed in place
):
    "Replace each tensor by its sum over all processes."
    if self.size > 1:
        for t in tensors:
            _through(t, self.device, dist.all_reduce)


@patch
def same(
    self: Team,
    tensors: Iterable[Tensor],  # Each of the same shape in every process; changed in place
):
    "Replace each tensor by that of process 0."
    if self.size > 1:
        for t in tensors:
            _through(t, self.device, lambda x: dist.broadcast(x, src=0))


# %%
kept = torch.tensor([1.0, 2.0])
with (
    instead("torch.distributed.all_reduce", lambda x: x.mul_(3)),
    instead("torch.distributed.broadcast", lambda x, src: x.fill_(src)),
):
    ALONE.sum_([kept])
    ALONE.same([kept])
    print(kept)
    assert kept.tolist() == [1, 2]
    Team(0, 3).sum_([kept, mask])
    print(kept)  # as if three processes had the same
    assert kept.tolist() == [3, 6]
    Team(2, 3).same([kept])
    assert kept.tolist() == [0, 0]  # process 0 has zeros


# %% [markdown]
# If a file appears between two checks, the processes could take different branches. So all use the result of process 0.

# %%
#| export
@patch
def agree(
    self: Team,
    yes: bool,  # The result of this process
) -> bool:  # The result of process 0
    "Use the result of process 0 in all processes."
    said = torch.tensor([yes])
    self.same([said])
    return bool(said)


# %%
# process 0 has True
with instead("torch.distributed.broadcast", lambda x, src: x.fill_(1)):
    answers = ALONE.agree(False), Team(1, 2).agree(False)
print(answers)
assert answers == (False, True) and ALONE.agree(True)


# %% [markdown]
# ## In order
#
# Predictions must be in the order of a single process. Each process puts its rows into a table of zeros, and the tables are added. This sends more zeros than necessary but is exact: x + 0 is x.

# %%
#| export
@patch
def gather(
    self: Team,
    mine: Tensor,  # This process's rows, shape `(m, …)`
    at: Tensor,  # Where these rows belong, int64 `(m,)`; each row belongs to one process
    n: int,  # Number of rows of all processes together
) -> Tensor:  # The rows of all processes in order, shape `(n, …)`
    "Collect the rows of all processes in every process."
    rows = mine.new_zeros((n, *mine.shape[1:]))
    rows[at.to(mine.device)] = mine
    self.sum_([rows])
    return rows


# %%
print(ALONE.gather(torch.tensor([[30.0], [10.0], [20.0]]), torch.tensor([2, 0, 1]), 3))
assert ALONE.gather(
    torch.tensor([[30.0], [10.0], [20.0]]), torch.tensor([2, 0, 1]), 3
).tolist() == [[10], [20], [30]]
# the other process has row 1
with instead(
    "torch.distributed.all_reduce", lambda x: x.add_(torch.tensor([[0.0], [20.0], [0.0]]))
):
    assert Team(0, 2).gather(torch.tensor([[30.0], [10.0]]), torch.tensor([2, 0]), 3).tolist() == [
        [10],
        [20],
        [30],
    ]


# %% [markdown]
# ## Gradients
#
# During a backward pass the gradients of all processes are averaged, layer by layer. That is torch's `DistributedDataParallel`, which accelerate wraps around the network. It divides by the number of processes, so the loss is weighted by `weight · size`.
#
# The averaging lasts as long as the object that `wrap` returns, so that object is kept during training.

# %%
#| export
@patch
def wrap(
    self: Team,
    model: nn.Module,  # The network, on this process's device
) -> nn.Module:  # The network to train, with the weights of `model`; alone, `model` itself
    "Average gradients over all processes in the backward pass."
    if self.size == 1:
        return model
    # running statistics are averaged after each epoch instead
    how = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(
        cpu=self.device.type == "cpu", mixed_precision="no", kwargs_handlers=[how]
    )
    with warnings.catch_warnings():
        # accelerate offers no other option
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return accelerator.prepare_model(model)


# %%
net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
with instead(f"{Team.__module__}.Accelerator") as made:
    wrapped = Team(0, 2).wrap(net)
print(
    ALONE.wrap(net) is net, made.call_args.kwargs["cpu"], made.call_args.kwargs["kwargs_handlers"]
)
assert ALONE.wrap(net) is net and made.mock_calls[0].kwargs["cpu"] is True
assert (
    wrapped is made().prepare_model.return_value
    and not made.mock_calls[0].kwargs["kwargs_handlers"][0].broadcast_buffers
)
made().prepare_model.assert_called_once_with(net)


# %% [markdown]
# Batch norm is the difference between one process and several: each process normalises its own piece. On GPUs torch can use the statistics of the whole batch (`SyncBatchNorm`). On the CPU it cannot, and then training on several processes is like training with smaller batches.

# %%
#| export
@patch
@contextmanager
def synced(
    self: Team,
    # The network; afterwards it has its own batch norm layers again, with their new statistics
    model: nn.Module,
) -> Iterator[None]:
    """In the block, batch norm on GPUs uses the statistics of all processes' pieces; on the CPU
    and alone nothing changes.
    """
    # not subclasses that do more, such as timm's with an activation
    plain = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d
    there = [
        (m, n, child)
        for m in model.modules()
        for n, child in m.named_children()
        if type(child) in plain
    ]
    norms = there if self.size > 1 and self.device.type == "cuda" else []
    for module, name, norm in norms:
        setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(norm))
    try:
        yield
    finally:
        for module, name, norm in norms:
            norm.train(getattr(module, name).training)
            setattr(module, name, norm)


# %%
norm = net[1]
with Team(0, 2, torch.device("cuda")).synced(net):
    print(type(net[1]).__name__)
with Team(0, 2).synced(net):
    print(type(net[1]).__name__)
assert net[1] is norm
with Team(0, 2, torch.device("cuda")).synced(net):
    assert (
        isinstance(net[1], nn.SyncBatchNorm)
        and net[1].weight is norm.weight
        and net[1].running_mean is norm.running_mean
    )
    net.eval()
assert net[1] is norm and not norm.training
with ALONE.synced(net), Team(0, 2).synced(net):
    assert net[1] is norm


# %% [markdown]
# ## Starting the processes
#
# The command in a shell is `accelerate launch --multi_gpu --num_processes 8 -m fairgrape.experiment.run …`. The name `--multi_gpu` is misleading: for accelerate it means "several processes on this machine", with or without GPUs. Without it accelerate starts only one.

# %%
#| export
def _options(processes: int) -> list[str]:
    "The options of `accelerate launch`."
    if processes < 2:
        raise ValueError(f"processes = {processes}: give 2 or more, or run in this process")
    # port 0: any free port, because there may be other runs
    one = "--multi_gpu --num_machines 1 --main_process_port 0"
    return f"{one} --num_processes {processes} --mixed_precision no --dynamo_backend no".split()


# %%
print(" ".join(_options(2)))
assert {"--multi_gpu", "8"} <= set(_options(8)) and _options(8)[
    _options(8).index("--main_process_port") + 1
] == "0"
try:
    _options(1)
except ValueError as e:
    print(e)
else:
    raise AssertionError("options for one process were made")


# %% [markdown]
# Interrupting a notebook must end its processes too. They are asked to end, and killed if they have not ended after half a minute.

# %%
#| export
def _wait(started: subprocess.Popen) -> int:
    "The exit status; stops the processes if this one is interrupted."
    try:
        return started.wait()
    except BaseException:
        started.terminate()
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            started.kill()
        raise


# %%
calls = {}
for end in (0, subprocess.TimeoutExpired("deaf", 30)):
    process = Mock(**{"wait.side_effect": [KeyboardInterrupt, end]})
    try:
        _wait(process)
    except KeyboardInterrupt:
        calls[str(end)] = [call[0] for call in process.method_calls]
    else:
        raise AssertionError("an interruption was swallowed")
print(calls)
assert (
    list(calls.values()) == [["wait", "terminate", "wait"], ["wait", "terminate", "wait", "kill"]]
    and _wait(Mock(**{"wait.return_value": 3})) == 3
)


# %% [markdown]
# When one process fails, the launcher stops the others and adds its own report, which does not contain the cause. The cause is before it.

# %%
#| export
def _tail(text: str, lines: int = 25) -> str:
    "The last lines before the launcher's own report of a failure."
    own = [
        i
        for i, line in enumerate(text.splitlines())
        if "torch/distributed/elastic" in line or "accelerate/commands/launch" in line
    ]
    return "\n".join(text.splitlines()[: own[0] if own and own[0] > 3 else None][-lines:])


# %%
said = (
    "step 1\nstep 2\nstep 3\nValueError: no faces\n  File torch/distributed/elastic/run.py\nexit"
    " status 1"
)
print(_tail(said, lines=2))
assert _tail(said, 2) == "step 3\nValueError: no faces" and _tail("a\nb\nc", 2) == "b\nc"
assert _tail("a\nb\nc\ntorch/distributed/elastic", 1) == "torch/distributed/elastic"
# there is no text before it
assert (
    _tail("accelerate/commands/launch.py\nno such module")
    == "accelerate/commands/launch.py\nno such module"
)


# %% [markdown]
# `launch` does the same from a notebook and waits. The output of the processes goes into a log, whose end is shown if they fail. The CPU threads are divided among the processes, because two processes with all cores each are slower than one.

# %%
#| export
def launch(
    module: str,  # The module to run, as in `python -m module`
    arguments: Sequence[str],  # Its arguments
    processes: int,  # Number of processes
    log: Path | None = None,  # File for their output; None: a temporary file
    threads: int = 0,  # CPU threads of each; 0: an equal share of the cores
) -> str:  # Their output
    """Run a module as several processes of one team and wait. Raises: RuntimeError with the end
    of their output.
    """
    log = log or Path(tempfile.mkdtemp()) / "launch.log"
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *_options(processes),
        "-m",
        module,
        *map(str, arguments),
    ]
    threads = threads or max(1, cores() // processes)
    with log.open("w", encoding="utf-8") as said:
        started = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: _die_with_parent(signal.SIGTERM),
            env=os.environ | dict(OMP_NUM_THREADS=str(threads), NUMBA_NUM_THREADS=str(threads)),
        )
        status = _wait(started)
    text = log.read_text(encoding="utf-8", errors="replace")
    if status:
        raise RuntimeError(
            f"{processes} processes of {module} ended with exit status {status}; the end of"
            f" {log}:\n{_tail(text)}"
        )
    return text


# %% [markdown]
# Two processes, each with its own number. They test everything that does nothing in a single process.

# %%
(home / "pair.py").write_text("""
import sys, torch
from torch import nn
from fairgrape.training.parallel import team_of

team = team_of("cpu")
if "fail" in sys.argv and team.rank == 1: raise ValueError("rank 1 found no faces")
mine = torch.tensor([1. + team.rank], dtype=torch.float64)
mask = torch.tensor([team.main, not team.main])
team.sum_([mine]); team.same([mask])
assert mine.item() == 3 and mask.tolist() == [True, False] and team.agree(team.main)
with team.main_first(): pass
batches = [torch.full((3, 1), i) for i in range(5)]
rows = torch.cat([batches[i] for i in team.share(5)])
at = torch.cat([torch.arange(3 * i, 3 * i + 3) for i in team.share(5)])
assert team.gather(rows, at, 15)[:, 0].tolist() == [i // 3 for i in range(15)]

net = nn.Linear(1, 1, bias=False).double()
team.same(net.parameters())                                # random until now
x = torch.arange(1., 6.).double()[:, None]                 # five images of one number
part = team.piece(torch.arange(5))
wrapped = team.wrap(net)                                   # held, for the averaging ends with it
(wrapped(x[part]).mean() * team.weight(len(part), 5) * team.size).backward()
assert abs(net.weight.grad.item() - 3) < 1e-12             # the mean of 1 … 5, and not of (2, 4.5)
team.wait()
gradient = net.weight.grad.item()
if team.main: print(f"{team.size} processes: sum {mine.item():g}, gradient {gradient:g}")
""")
with chdir(home):
    said = launch("pair", [], 2)
print(said.strip().splitlines()[-1])
assert "2 processes: sum 3, gradient 3" in said

# %% [markdown]
# If one process fails, all are stopped and the error contains the cause.

# %%
with chdir(home):
    try:
        launch("pair", ["fail"], 2, home / "pair.log")
    except RuntimeError as e:
        print(str(e).replace(str(home), "…").splitlines()[0])
        assert "rank 1 found no faces" in str(e)
    else:
        raise AssertionError("a failure went unnoticed")
try:
    launch("pair", [], 1)
except ValueError as e:
    print(e)
else:
    raise AssertionError("one process was launched as several")
