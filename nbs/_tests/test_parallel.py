"""Two processes do what one does: training, predictions, importance and masks; and they end
when their starter ends.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import psutil
import pytest
import torch
from lengths import only_long, only_slow
from PIL import Image
from torch import nn

from fairgrape.data.loaders import Images, group_batches
from fairgrape.experiment.preparation import dense_job, prepare, run_folder
from fairgrape.experiment.run import run, run_together
from fairgrape.experiment.settings import Settings
from fairgrape.method.importance import group_importance
from fairgrape.method.masks import get_masks
from fairgrape.method.pruning import prune
from fairgrape.method.selection import select_fair
from fairgrape.methods.constrained import Constrained
from fairgrape.methods.performance import PerformanceWeighted
from fairgrape.methods.recoveries import Balanced, Tail, WorstGroup
from fairgrape.networks.models import build_model, task_loss
from fairgrape.networks.weights import load_weights, save_weights
from fairgrape.training.epochs import predict
from fairgrape.training.loop import Recipe, train
from fairgrape.training.parallel import ALONE, Team, launch, team_of
from fairgrape.training.stages import Stage

HERE = Path(__file__)


def noise_images(train_rows=37, size=16, seed=0):
    n, g = train_rows + 21, torch.Generator().manual_seed(seed)
    rows = dict(zip(("train", "val", "test"), torch.arange(n).split([train_rows, 9, 12])))
    return Images(
        torch.randint(0, 256, (n, 3, size, size), generator=g).byte(),
        torch.randint(2, (n, 1), generator=g),
        torch.arange(n) % 3,
        rows,
    )


class Double(nn.Module):
    "A network in float64, for images in float32"

    def __init__(self, net):
        super().__init__()
        self.net = net.double()

    def forward(self, x):
        return self.net(x.double())


def plain_net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Double(
            nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(392, 2))
        )


def smooth_net(seed=0):
    """No unit is dead, so that hardly an importance is 0. Where all that is left to a group is 0,
    shares no longer move, and the last digit of a sum decides whose turn it is;
    in a ResNet at random weights that is so beyond the 6 % of a layer's weights that matter to
    anybody.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Double(
            nn.Sequential(
                nn.Conv2d(3, 32, 3, stride=2),
                nn.BatchNorm2d(32),
                nn.Tanh(),
                nn.Conv2d(32, 64, 3, stride=2),
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(576, 2),
            )
        )


TWO_STAGES = [Stage(1e-3, 2), Stage(1e-4, 1)]


def go(model, images, team, stages=TWO_STAGES, **more):
    how = Recipe(**dict(sizes=[2], seed=0, batch=16, augment="none") | more)
    return train(model, images, stages, how, progress=False, team=team)


# What two processes do; the same functions run alone below


def agree(team: Team) -> dict[str, torch.Tensor]:
    "Everything that must agree with one process, as tensors"
    found = {}
    # 37: 16, 16, 5 → 3 + 2; 19: 16 and 3, which is not cut
    for name, rows, parts in (
        ("even", 32, 1),
        ("uneven", 37, 1),
        ("small", 19, 1),
        ("parts", 37, 3),
    ):
        # other start weights: those of process 0 count
        model = plain_net(seed=team.rank if name == "even" else 0)
        history = go(model, noise_images(rows), team, accumulate=parts)
        found |= {f"{name}:{k}": v for k, v in model.state_dict().items()}
        found[f"{name}:losses"] = torch.tensor(
            [
                [row["train_loss"], row["val_loss"], row["val_accuracy"], row["kept"]]
                for row in history
            ],
            dtype=torch.float64,
        )
        found[f"{name}:predictions"] = predict(
            model, noise_images(rows), "test", [2], batch=5, team=team
        )
    # there is nothing to do for process 1
    found["one batch"] = predict(plain_net(), noise_images(), "test", [2], batch=100, team=team)
    batches = group_batches(noise_images(60), "train", 7)

    def score(net):
        return group_importance(net, batches, lambda out, y: task_loss(out, y, [2]), 3, team=team)

    for name, model, rate, keep in (
        ("resnet10", Double(build_model("resnet10", 2, seed=1)), 0.97, None),
        ("smooth", smooth_net(), 0.9, 0.5),
    ):
        found |= {f"importance:{name}:{k}": v for k, v in score(model).items()}
        prune(model, rate, score, select_fair, keep)
        found |= {f"mask:{name}:{k}": m for k, m in get_masks(model).items()}
    return found


def recoveries(team: Team) -> dict[str, torch.Tensor]:
    "Networks after one epoch of each recovery; the loss of one looks at the whole batch"
    found = {}
    bound = Constrained(torch.ones(3), torch.ones(3) / 3, tolerance=0.0, step=5.0, size=4)
    for name, recovery in (
        ("worst group", WorstGroup(3, step=1.0)),
        ("tail", Tail(0.3)),
        ("balanced", Balanced()),
        ("performance", PerformanceWeighted(plain_net(seed=3))),
        ("constrained", bound),
    ):
        model = plain_net()
        # 37: 16, 16, 5 → 3 + 2
        history = go(model, noise_images(37), team, [Stage(1e-3, 2)], recovery=recovery)
        found |= {f"{name}:{k}": v for k, v in model.state_dict().items()}
        found[f"{name}:losses"] = torch.tensor([row["train_loss"] for row in history]).double()
    found["constrained:multipliers"] = torch.tensor(bound.state["multipliers"]).double()
    return found


def others(team: Team) -> dict[str, torch.Tensor]:
    """What need not agree with one process, but must work, and leave all processes with the
    same network
    """
    found = {}
    for name, more in (
        ("norms", {}),
        ("bf16", dict(precision="bf16")),
        ("augmented", dict(augment="paper", accumulate=2)),
    ):
        model = build_model("resnet10", 2, seed=2)
        # at 16 px torch 2.15 reads memory that nobody wrote (bf16, 1 × 1 pixels, CPU)
        history = go(model, noise_images(size=32), team, **more)
        found |= {f"{name}:{k}": v for k, v in model.state_dict().items()} | {
            f"{name}:loss": torch.tensor([row["train_loss"] for row in history])
        }
    for kept in found.values():
        mine = kept.clone()
        team.same([mine])
        assert torch.equal(mine, kept), "the processes drifted apart"
    return found


def compiled(team: Team) -> dict[str, torch.Tensor]:
    model = plain_net()
    go(model, noise_images(32), team, compiled=True, stages=[Stage(1e-3, 1), Stage(1e-4, 1)])
    return model.state_dict()


def main(job: str, file: str):
    if job == "sleep":
        Path(file).with_name(f"pid{os.environ['LOCAL_RANK']}").write_text(str(os.getpid()))
        team_of("cpu").wait()
        Path(file).with_name(f"joined{os.environ['LOCAL_RANK']}").touch()
        time.sleep(3600)  # until it is ended
    team = team_of("cpu")
    found = globals()[job](team)
    if team.main:
        save_weights(
            {k: v.to(torch.uint8) if v.dtype == torch.bool else v for k, v in found.items()}, file
        )
    team.wait()


def of_two(job: str, folder: Path) -> dict[str, torch.Tensor]:
    with chdir(HERE.parent):
        launch(HERE.stem, [job, folder / "found.safetensors"], 2, folder / "log", threads=1)
    return load_weights(folder / "found.safetensors")


def test_two_processes_agree_with_one(tmp_path):
    alone, two = agree(ALONE), of_two("agree", tmp_path)
    assert alone.keys() == two.keys()
    for k, one in alone.items():
        if k.startswith("mask:"):
            assert torch.equal(one, two[k].bool()), k
        elif k.startswith("importance:"):
            torch.testing.assert_close(two[k], one, rtol=1e-9, atol=0)
        else:
            torch.testing.assert_close(
                two[k], one, rtol=0, atol=1e-9 if one.dtype == torch.float64 else 1e-6
            )
    assert sum(int((~alone[k]).sum()) for k in alone if k.startswith("mask:")) > 1e6
    # it was not one process after all
    assert any(not torch.equal(alone[k], two[k]) for k in alone if k.startswith("uneven:"))


def test_recoveries_of_two_processes_agree_with_one(tmp_path, request):
    only_long(request, "five recoveries in two processes")
    alone, two = recoveries(ALONE), of_two("recoveries", tmp_path)
    assert alone.keys() == two.keys() and alone["constrained:multipliers"].max() > 0
    for k, one in alone.items():
        torch.testing.assert_close(two[k], one, rtol=0, atol=1e-7 if "losses" in k else 1e-9)
    trained = [v for k, v in alone.items() if k.endswith("net.0.weight")]
    assert len(trained) == 5  # and each ended elsewhere
    assert not any(torch.equal(a, b) for i, a in enumerate(trained) for b in trained[:i])


def test_batch_norm_bf16_and_augmentation_work_in_two_processes(tmp_path, request):
    only_long(request, "bf16, batch norm and augmentation in two processes")
    alone, two = others(ALONE), of_two("others", tmp_path)
    assert alone.keys() == two.keys()
    for name in ("norms", "bf16", "augmented"):
        assert (
            torch.isfinite(two[f"{name}:loss"]).all()
            and (two[f"{name}:loss"] - alone[f"{name}:loss"]).abs().max() < 0.5
        )
        assert two[f"{name}:bn1.running_var"].ne(1).all()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here: torch.compile is not tested")
def test_compiled_training_ends_near_the_plain_one(tmp_path, request):
    only_long(request, "torch.compile")
    plain, two = plain_net(), of_two("compiled", tmp_path)
    go(plain, noise_images(32), ALONE, stages=[Stage(1e-3, 1), Stage(1e-4, 1)])
    assert plain.state_dict().keys() == two.keys()  # no _orig_mod, no module.
    for k, v in plain.state_dict().items():
        torch.testing.assert_close(two[k], v, rtol=0, atol=1e-9)


def test_the_processes_end_with_their_starter(tmp_path):
    if sys.platform != "linux":
        pytest.skip("not Linux: nothing ends a process when its starter is killed; not tested")
    code = (
        "import sys; sys.path.insert(0, '.'); from fairgrape.training.parallel import launch;"
        f" launch('{HERE.stem}', ['sleep', '{tmp_path}/x'], 2)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=HERE.parent,
        env=os.environ | dict(PYTHONPATH=str(HERE.parent)),
    )
    wait_for(lambda: all((tmp_path / f"joined{rank}").is_file() for rank in range(2)), starter)
    pids = [int((tmp_path / f"pid{rank}").read_text()) for rank in range(2)]
    starter.kill()
    starter.wait()
    try:
        wait_for(lambda: not any(map(alive, pids)))
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)


# A whole run


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    "A set of 160 little pictures: brightness is the task, tint the group"
    home, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    rows = [
        dict(file=f"{i}.png", shade=("dark", "light")[i % 2], tint=("red", "blue", "blue")[i % 3])
        for i in range(160)
    ]
    for row in rows:
        pixels = rng.integers(0, 160, (20, 20, 3)) + (60 if row["shade"] == "light" else 0)
        pixels[..., 0 if row["tint"] == "red" else 2] += 30
        Image.fromarray(pixels.astype(np.uint8)).save(home / row["file"])
    pd.DataFrame(rows).to_csv(home / "labels.csv", index=False)
    return home


def tiny(own: Path, **changed) -> Settings:
    return Settings(
        **dict(
            dataset="folder",
            data_path=str(own),
            task="shade",
            groups="tint",
            network="resnet10",
            weights="none",
            image_size=16,
            method="fairgrape",
            rate=0.9,
            keep=0.3,
            epochs="2",
            lrs="1e-3",
            retrain_epochs=1,
            retrain_lr=1e-4,
            batch=16,
            augment="flip",
            bootstrap=100,
            importance_batch=20,
        )
        | changed
    )


def roots(home: Path) -> dict:
    return dict(data_root=str(home), runs_root=str(home / "runs"), cache_root=str(home / "cache"))


def bits(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes() for name in ("masks.safetensors", "model.safetensors")
    }


@pytest.fixture(scope="module")
def together(own, tmp_path_factory) -> Path:
    "The run folder of two processes that nobody disturbed"
    return run_together(
        2, tiny(own), threads=2, device="cpu", **roots(tmp_path_factory.mktemp("together"))
    )


def test_a_whole_run_of_two_processes(own, together, tmp_path):
    metrics, environment = (
        json.loads((together / f"{name}.json").read_text()) for name in ("metrics", "environment")
    )
    alone = run(tiny(own), "cpu", progress=False, **roots(tmp_path))
    assert (
        together.name == alone.name
        and environment["processes"] == 2
        and environment["threads"] == 1
    )
    assert abs(metrics["sparsity"] - 0.9) < 1e-3 and {f.name for f in together.iterdir()} == {
        f.name for f in alone.iterdir()
    }
    # batch norm saw other batches
    assert not torch.equal(
        *(load_weights(f / "model.safetensors")["fc.weight"] for f in (together, alone))
    )
    history = pd.read_csv(together / "history.csv")
    assert history["label"].tolist() == pd.read_csv(alone / "history.csv")["label"].tolist()
    assert (together.parent / ".logs" / f"{together.name}.processes.log").is_file()


@pytest.mark.parametrize(
    "what",
    [
        dict(method="snip"),
        dict(method="importance", importance_cap=9, accumulate=2, precision="bf16", image_size=32),
        dict(groups="clusters", clusters=2, method="magnitude"),
    ],
    ids=lambda w: w["method"],
)
def test_other_methods_in_two_processes(own, tmp_path, what, request):
    only_slow(request, "several whole runs of two processes")
    folder = run_together(
        2, tiny(own, keep=0.2, epochs="1", **what), threads=2, device="cpu", **roots(tmp_path)
    )
    assert abs(json.loads((folder / "metrics.json").read_text())["sparsity"] - 0.9) < 1e-3


def test_killed_and_started_again_it_ends_with_the_same_bits(own, together, tmp_path, request):
    only_slow(request, "several whole runs of two processes")
    places, folder = roots(tmp_path), tmp_path / "runs" / together.name
    code = (
        "import json, sys; from fairgrape import Settings; from fairgrape.experiment.run import"
        " run_together; run_together(2, Settings(**json.loads(sys.argv[1])), threads=2,"
        " device='cpu', **json.loads(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, json.dumps(vars(tiny(own))), json.dumps(places)]
    dense = run_folder(dense_job(prepare(tiny(own), **places, progress=False)))
    for sign in (dense, folder):  # in the dense network's training, and while it is pruned
        starter = subprocess.Popen(command)
        wait_for(lambda sign=sign: list((sign / "checkpoints").glob("*.safetensors")), starter)
        below = [p.pid for p in psutil.Process(starter.pid).children(recursive=True)]
        starter.kill()
        starter.wait()
        wait_for(lambda below=below: not any(map(alive, below)))
        assert not (folder / "metrics.json").is_file()
    assert run_together(2, tiny(own), threads=2, device="cpu", **places) == folder
    assert bits(folder) == bits(together)
    kept = [
        json.loads((f / "metrics.json").read_text()) | dict(seconds=0) for f in (folder, together)
    ]
    assert (
        kept[0] == kept[1] and json.loads((folder / "environment.json").read_text())["resumed"] >= 1
    )


def test_the_notebook_starts_several_and_shows_what_they_found(own, together, tmp_path, request):
    only_long(request, "a notebook that starts two processes")
    parameters = (
        vars(tiny(own))
        | roots(tmp_path)
        | dict(processes=2, threads=2, device="cpu", keep_on="host", progress=False)
    )
    book = papermill.execute_notebook(
        HERE.parents[1] / "templates" / "prune.ipynb",
        tmp_path / "out.ipynb",
        parameters,
        progress_bar=False,
        kernel_name="python3",
    )
    folder = tmp_path / "runs" / together.name
    assert bits(folder) == bits(together)
    assert (
        sum(
            "image/png" in o.get("data", {})
            for c in nbformat.from_dict(book).cells
            if c.cell_type == "code"
            for o in c.outputs
        )
        >= 4
    )


def test_what_goes_wrong_in_a_process_is_said(own, tmp_path):
    with pytest.raises(RuntimeError, match="the loss is"):
        run_together(2, tiny(own, lrs="1e30"), device="cpu", **roots(tmp_path))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, process: subprocess.Popen | None = None, seconds: float = 900):
    """Until the condition holds. A process that ended without it, or a quarter of an hour, ends
    the test.
    """
    end = time.monotonic() + seconds
    while True:
        over = process is not None and process.poll() is not None
        if condition():
            return
        assert not over, f"the process ended before, with status {process.returncode}"
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
