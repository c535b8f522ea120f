"""What the models and training notebooks promise, tried on whole networks, on processes and on
bad files.
"""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from fairgrape.data.loaders import Images, batches
from fairgrape.method.masks import apply_masks, get_masks, plain_state
from fairgrape.networks import weights
from fairgrape.networks.models import build_model
from fairgrape.networks.weights import load_weights, save_weights
from fairgrape.training import loop as training
from fairgrape.training.epochs import adam, predict
from fairgrape.training.journal import Journal
from fairgrape.training.loop import Recipe, train
from fairgrape.training.stages import Stage, stages


def noise_images(n=48, size=16, seed=0):
    g = torch.Generator().manual_seed(seed)
    rows = dict(zip(("train", "val", "test"), torch.arange(n).split([n - 16, 8, 8])))
    return Images(
        torch.randint(0, 256, (n, 3, size, size), generator=g).byte(),
        torch.randint(2, (n, 1), generator=g),
        torch.arange(n) % 3,
        rows,
    )


def tiny_net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(392, 2),
        )


def random_masks(model, density=0.1, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {n: torch.rand(m.shape, generator=g) < density for n, m in get_masks(model).items()}


def same(a, b):
    return all(torch.equal(a[k].cpu(), b[k].cpu()) for k in a | b)


HOW = Recipe([2], seed=0, batch=16)
ONE_EPOCH, TWO_EPOCHS = [Stage(1e-3, 1)], [Stage(1e-3, 2)]


def go(model, stages=TWO_EPOCHS, **settings):
    return train(model, noise_images(), stages, replace(HOW, **settings), progress=False)


# The loop


@pytest.mark.parametrize(
    "losses, best",
    [([3.0, 1.0, 2.0, 1.0], 1), ([1.0, 2.0, 3.0, 4.0], 0), ([4.0, 3.0, 2.0, 1.0], 3)],
)
def test_the_best_epoch_comes_back(monkeypatch, losses, best):
    seen, told = [], iter(losses)

    def judge(model, *_):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(told), 50.0

    monkeypatch.setattr(training, "evaluate_loss", judge)
    model = tiny_net()
    history = go(model, stages=[Stage(1e-2, 4)])
    assert [row["kept"] for row in history] == [i == best for i in range(4)]
    assert same(model.state_dict(), seen[best]) and not same(seen[best], seen[best - 1])
    # the buffers are part of it
    assert not torch.equal(seen[best]["1.running_mean"], seen[best - 1]["1.running_mean"])


def test_each_stage_starts_from_the_best_of_the_one_before(monkeypatch):
    seen, told = [], iter([1.0, 2.0, 5.0, 6.0])

    def judge(model, *_):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(told), 50.0

    monkeypatch.setattr(training, "evaluate_loss", judge)
    starts, model = [], tiny_net()

    def optimizer(parameters, lr):
        starts.append({k: v.clone() for k, v in model.state_dict().items()})
        return adam(parameters, lr)

    history = go(model, stages=stages("2,2", "1e-2,1e-3"), optimizer=optimizer)
    # 5 is worse than 1, but a stage keeps its own best
    assert same(starts[1], seen[0]) and same(model.state_dict(), seen[2])
    assert [row["lr"] for row in history] == [1e-2, 1e-2, 1e-3, 1e-3]


def test_seeds_and_global_random_state():
    torch.manual_seed(123)
    a, b, c = tiny_net(), tiny_net(), tiny_net()
    go(a)
    state = torch.random.get_rng_state()
    torch.rand(100)
    go(b)
    go(c, seed=1)
    assert same(a.state_dict(), b.state_dict()) and not same(a.state_dict(), c.state_dict())
    torch.manual_seed(123)
    assert torch.equal(state, torch.random.get_rng_state())


def test_two_processes_give_the_same_bits(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch; torch.set_num_threads(1)\nfrom"
        " test_training import *\nmodel = build_model('resnet10', 2, seed=3); apply_masks(model,"
        " random_masks(model))\ngo(model, stages=[Stage(1e-3, 1)], augment='paper');"
        " save_weights(plain_state(model), sys.argv[2])"
    )
    files = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for file in files:
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent), str(file)],
            check=True,
            timeout=1800,
        )
    assert files[0].read_bytes() == files[1].read_bytes()


def test_history_goes_on_and_the_test_part_is_not_touched():
    images = noise_images()
    blind = Images(
        images.pixels, images.labels, images.groups, {k: images.rows[k] for k in ("train", "val")}
    )
    first = train(tiny_net(), blind, ONE_EPOCH, HOW, progress=False)
    journal = Journal(history=first)
    both = train(tiny_net(), blind, ONE_EPOCH, HOW, "step-1", journal, progress=False)
    assert [row["label"] for row in both] == ["dense", "step-1"]


def test_a_lone_last_image_is_left_out():
    images = noise_images()
    images.rows["train"] = images.rows["train"][:17]
    assert train(tiny_net(), images, ONE_EPOCH, HOW, progress=False)[0]["train_loss"] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_precisions_take_nearly_the_same_path(precision):
    plain, other = tiny_net(), tiny_net()
    a, b = (
        go(m, precision=p, augment="none", stages=[Stage(1e-3, 2)])
        for m, p in ((plain, "fp32"), (other, precision))
    )
    assert abs(a[-1]["train_loss"] - b[-1]["train_loss"]) < 0.02
    assert torch.allclose(
        *(
            predict(m, noise_images(), "test", [2], precision=p)
            for m, p in ((plain, "fp32"), (other, precision))
        ),
        atol=0.1,
    )
    assert all(p.dtype == torch.float32 for p in other.parameters())


# Masks


@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v2"])
def test_a_pruned_network_loads_strictly_into_torchvision(tmp_path, network):
    model, images = build_model(network, 2), noise_images(size=32)
    masks = random_masks(model)
    apply_masks(model, masks)
    train(model, images, ONE_EPOCH, HOW, progress=False)
    theirs = getattr(torchvision.models, network)(num_classes=2)
    theirs.load_state_dict(
        load_weights(save_weights(plain_state(model), tmp_path / "model.safetensors")), strict=True
    )
    assert all(
        not theirs.get_submodule(n).weight[~mask].any()
        and theirs.get_submodule(n).weight[mask].any()
        for n, mask in masks.items()
    )
    assert torch.equal(predict(model, images, "test", [2]), predict(theirs, images, "test", [2]))


def test_momentum_from_before_the_pruning_does_not_leak():
    model, images = tiny_net(), noise_images()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    off, batch = torch.amp.GradScaler("cpu", enabled=False), list(batches(images, "train", 16))
    training.train_epoch(model, opt, batch, [2], off)  # the optimizer now remembers dense gradients
    masks = apply_masks(model, random_masks(model)) and get_masks(model)
    for one in batch:
        training.train_epoch(model, opt, [one], [2], off)
        assert all(not model.get_submodule(n).weight[~mask].any() for n, mask in masks.items())


# Files


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_pickle_is_refused_and_does_not_run(tmp_path, suffix):
    file, trace = tmp_path / f"evil{suffix}", tmp_path / "trace"
    with open(file, "wb") as f:
        pickle.dump({"fc.weight": Evil(trace)}, f)
    torch.save({"fc.weight": Evil(trace)}, tmp_path / f"zipped{suffix}")
    for name in (file, tmp_path / f"zipped{suffix}"):
        with pytest.raises(ValueError, match="not a file of plain tensors") as error:
            load_weights(name)
        assert name.name in str(error.value)
    assert not trace.exists()


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = save_weights(tiny_net(0).state_dict(), tmp_path / "w.safetensors")

    def full(state, part):
        Path(part).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_weights(tiny_net(1).state_dict(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"] and same(
        load_weights(path), tiny_net(0).state_dict()
    )


def test_weights_of_another_shape_are_named(tmp_path):
    path = save_weights(build_model("resnet10", 3).state_dict(), tmp_path / "three.safetensors")
    with pytest.raises(
        ValueError,
        match=(
            r"three.safetensors does not fit: the head has another size.*fc.weight is \(3, 512\),"
            r" not \(2, 512\)"
        ),
    ):
        build_model("resnet10", 2, weights=str(path))
    model = build_model("resnet10", 2, weights=str(path), new_head=True, seed=4)
    assert torch.equal(model.fc.weight, build_model("resnet10", 2, seed=4).fc.weight)
    with pytest.raises(ValueError, match="of the same network"):
        build_model("mobilenet_v2", 3, weights=str(path))


@pytest.mark.parametrize(
    "error",
    [
        URLError("no route"),
        TimeoutError("timed out"),
        IncompleteRead(b""),
        RuntimeError("invalid hash value"),
    ],
)
def test_weights_that_cannot_be_downloaded(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(
        ConnectionError, match="mobilenet_v2-b0353104.pth.*TORCH_HOME.*weights=PATH"
    ):
        build_model("mobilenet_v2", 7, weights="imagenet")


# Settings


@pytest.mark.parametrize(
    "epochs, lrs, message",
    [
        ("13,3", "1e-4", r"epochs = '13,3' has 2 stages, but lrs = '1e-4' has 1"),
        ("3", "1e-4,1e-5", "one learning rate per stage"),
        ("0", "1e-4", "0 epochs"),
        ("-1", "1e-4", "-1 epochs"),
        ("3", "-1e-4", "learning rate -0.0001"),
        ("3", "0", "learning rate 0"),
        ("3", "inf", "learning rate inf"),
        ("3", "nan", "learning rate nan"),
        ("1.5", "1e-4", "epochs = '1.5'"),
        ("", "1e-4", "epochs = ''"),
        ("3,", "1e-4,1e-5", "epochs = '3,'"),
        ("3", "x", "lrs = 'x'"),
    ],
)
def test_bad_schedules(epochs, lrs, message):
    with pytest.raises(ValueError, match=message):
        stages(epochs, lrs)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(stages=[]), "stages is empty"),
        (dict(precision="fp64"), "fp32, bf16, fp16"),
        (dict(augment="mirror"), "mirror"),
        (dict(batch=1), "batch = 1"),
        (dict(sizes=[3]), "has 2 outputs"),
        (dict(sizes=[1, 1]), "1 labels per image, but 2 heads"),
    ],
)
def test_bad_settings_change_nothing(settings, message):
    model = tiny_net()
    with pytest.raises(ValueError, match=message):
        go(model, **settings)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_net().parameters()))


def test_a_loss_that_is_not_finite_is_named():
    with pytest.raises(FloatingPointError, match="dense, stage 1, epoch 1.*learning rate"):
        go(tiny_net(), optimizer=lambda ps, lr: torch.optim.SGD(ps, lr=1e30))


# A GPU, where there is one


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU here: training on one is not tested"
)
@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_the_same_seed_gives_the_same_bits(network, precision):
    states, images = [], noise_images(size=64)
    for _ in range(2):
        model = build_model(network, 2)
        masks = random_masks(model)
        apply_masks(model, masks)
        how = replace(HOW, precision=precision, device="cuda")
        train(model, images, TWO_EPOCHS, how, progress=False)
        states.append(plain_state(model))
        assert all(
            not model.get_submodule(n).weight[~mask.cuda()].any() for n, mask in masks.items()
        )
    assert same(*states)
