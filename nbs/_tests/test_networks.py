"Networks by name: families of torchvision and timm, their published weights, what is refused"

import importlib.util
import math
import re
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torchvision import models as tv
from torchvision.models.vision_transformer import VisionTransformer

from fairgrape.data.images import decode_image
from fairgrape.data.transforms import normalise
from fairgrape.method.masks import apply_masks, get_masks, plain_state
from fairgrape.methods.scores import random_score
from fairgrape.networks.builders import NETWORKS, TORCHVISION, plain_model
from fairgrape.networks.inspect import (
    check_network,
    fold_normalisation,
    head_name,
    penultimate,
    probe_network,
)
from fairgrape.networks.models import build_model, task_loss
from fairgrape.networks.weights import imagenet_state, load_weights, save_weights

SERVER, HUB = (
    "torchvision.models._api.load_state_dict_from_url",
    "timm.models._builder.load_state_dict_from_hf",
)
FAMILIES = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "regnet_y_128gf",
    "resnet34",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vit_b_16",
    "vit_h_14",
    "wide_resnet50_2",
]
needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None,
    reason="timm is not installed: networks of timm are not tested",
)
needs_photos = pytest.mark.skipif(
    importlib.util.find_spec("skimage") is None,
    reason="scikit-image is not installed: no photographs to classify",
)


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a | b)


def noise(n=2, size=64):
    return normalise(torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)))


def with_statistics(model):
    "Batch norm as after training: means and variances that are not 0 and 1"
    g = torch.Generator().manual_seed(1)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1, generator=g)
            m.running_var.uniform_(0.5, 2, generator=g)
    return model.eval()


# Names and sizes


@pytest.mark.parametrize("network", FAMILIES)
def test_every_family_of_torchvision_fits_224_px(network):
    before = torch.random.get_rng_state()
    assert check_network(network, 7, 224) and torch.equal(before, torch.random.get_rng_state())


def test_all_names_are_of_a_family_that_was_tried():
    tried = {re.sub(r"[_\d].*", "", n) for n in FAMILIES} | {"mnasnet", "wide"}
    assert {re.sub(r"[_\d].*", "", n) for n in TORCHVISION} <= tried


@pytest.mark.parametrize("network", [n for n in TORCHVISION if n.startswith("mnasnet")])
def test_mnasnet_is_refused(network):
    with pytest.raises(ValueError, match="cannot load its weights from a file"):
        check_network(network)


@pytest.mark.parametrize(
    "network, size, hint",
    [
        ("alexnet", 32, "use image_size = 64"),
        ("inception_v3", 64, "use image_size = 96"),
        ("maxvit_t", 64, "use image_size = 224"),
        ("vit_h_14", 32, "use image_size = 224"),
        ("vgg11", 16, "use image_size = 32"),
        ("convnext_tiny", 16, "use image_size = 32"),
    ],
)
def test_a_size_that_cannot_be_is_named_with_one_that_can(network, size, hint):
    with pytest.raises(
        ValueError,
        match=rf"network = '{network}' cannot take images of image_size = {size} .*: {hint}",
    ):
        check_network(network, 2, size)


@pytest.mark.parametrize(
    "network",
    ["", "resnet-34", "ResNet34", "fcn_resnet50", "timm", "quantized_resnet18", "raft_small"],
)
def test_names_that_nobody_knows(network):
    for call in (check_network, lambda n: build_model(n, 2)):
        with pytest.raises(
            ValueError, match=f"network = '{network}' is not known.*resnet34.*timm:NAME"
        ):
            call(network)


def test_a_network_that_cannot_be_pruned_or_has_no_outputs():
    with patch.dict(
        NETWORKS,
        flat=(
            lambda num_classes: nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(num_classes)),
            None,
        ),
    ):
        with pytest.raises(
            ValueError, match="network = 'flat' has no Conv1d, Conv2d or Linear layer"
        ):
            check_network("flat", image_size=32)
    with pytest.raises(ValueError, match="outputs = 0"):
        check_network("resnet18", 0)


@needs_timm
@pytest.mark.parametrize(
    "network, message",
    [
        ("timm:resnet5", "timm:resnet50"),
        ("timm:resnet18.nope", "timm:resnet18.a1_in1k"),
        ("timm:", "list_models"),
        ("timm:hf-hub:x/y", "no network of that name"),
        ("timm:levit_128s", "must come from one last layer"),
        ("timm:crossvit_9_240", "use image_size = 240"),
        ("timm:test_nfnet", r"stem.conv1 \(ScaledStdConv2d\)"),
        ("timm:resnetv2_50x1_bit", r"\(StdConv2d\)"),
    ],
)
def test_networks_of_timm_that_do_not_fit(network, message):
    with pytest.raises(ValueError, match=message):
        check_network(network, 2, 224)


@needs_timm
@pytest.mark.parametrize(
    "network",
    [
        "resnet10",
        "squeezenet1_1",
        "shufflenet_v2_x0_5",
        "mobilenet_v3_small",
        "efficientnet_lite0",
        "timm:test_vit",
        "timm:test_convnext",
        "timm:resnetv2_18",
    ],
)
def test_any_network_trains_under_masks_and_comes_back_from_its_file(network, tmp_path):
    model, x, y = (
        build_model(network, 5, seed=2, image_size=64),
        noise(4),
        torch.tensor([[0, 1], [2, 0], [1, 1], [0, 0]]),
    )
    assert check_network(network, 5, 64) == head_name(model)
    masks = {
        n: torch.rand(m.shape, generator=torch.Generator().manual_seed(3)) < 0.5
        for n, m in get_masks(model).items()
    }
    apply_masks(model, masks)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    task_loss(model(x), y, [3, 2]).backward()
    optimizer.step()
    assert all(not model.get_submodule(n).weight[~m].any() for n, m in masks.items())
    again = build_model(
        network,
        5,
        weights=str(save_weights(plain_state(model), tmp_path / "w.safetensors")),
        image_size=64,
    )
    with torch.no_grad():
        assert torch.allclose(model.eval()(x), again.eval()(x), atol=1e-5)
    features = penultimate(model, x)
    assert (
        features.dtype == torch.float32
        and len(features) == 4
        and torch.allclose(features, penultimate(again, x), atol=1e-5)
        and not model.training
    )


# Published weights


def test_old_files_lack_batch_norms_counter():
    old = {
        k: v
        for k, v in plain_model("resnet18", 1000, seed=4).state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    with patch(SERVER, return_value=old):
        model = build_model("resnet18", 3, weights="imagenet", seed=1)
    assert torch.equal(model.layer4[1].conv2.weight, old["layer4.1.conv2.weight"]) and torch.equal(
        model.fc.weight, plain_model("resnet18", 3, seed=1).fc.weight
    )


def test_densenets_old_names():
    now = plain_model("densenet121", 1000).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", k): v for k, v in now.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    with patch(SERVER, return_value=old):
        assert same(imagenet_state("densenet121"), now)


@pytest.mark.parametrize(
    "network, size, close", [("inception_v3", 96, 1e-4), ("googlenet", 224, 0.05)]
)
def test_inceptions_get_the_colours_they_were_trained_on(network, size, close):
    reference = with_statistics(
        getattr(tv, network)(
            num_classes=1000, aux_logits=True, init_weights=True, transform_input=True
        )
    )
    with patch(SERVER, return_value=reference.state_dict()):
        model = build_model(network, 1000, weights="imagenet").eval()
    assert not model.transform_input and not any("aux" in n.lower() for n in model.state_dict())
    model.fc.load_state_dict(reference.fc.state_dict())
    x = noise(size=size)
    with torch.no_grad():
        a, b = reference(x), model(x)
    assert (a - b).norm() < close * a.norm()  # googlenet's first convolution has a border


def test_a_transformers_positions_are_fitted_to_the_size():
    def small(image_size=224, **kwargs):
        return VisionTransformer(image_size, 16, 1, 2, 32, 64, **kwargs)

    with patch("fairgrape.networks.builders.tv.get_model_builder", return_value=small):
        theirs = plain_model("vit_b_16", 1000, seed=3)
        with patch(SERVER, return_value=theirs.state_dict()):
            vit, as_is = (
                build_model("vit_b_16", 5, weights="imagenet", image_size=64),
                build_model("vit_b_16", 5, weights="imagenet"),
            )
    # 4 × 4 patches and the class token
    assert vit(noise()).shape == (2, 5) and vit.encoder.pos_embedding.shape == (1, 17, 32)
    assert torch.equal(
        vit.encoder.pos_embedding[:, 0], theirs.encoder.pos_embedding[:, 0]
    ) and torch.equal(as_is.encoder.pos_embedding, theirs.encoder.pos_embedding)


@needs_timm
def test_timms_weights_with_their_own_colours():
    reference = plain_model("timm:test_vit", 1000, seed=6, image_size=160)
    with patch(HUB, return_value=reference.state_dict()):
        model = build_model(
            "timm:test_vit.r160_in1k", 1000, weights="imagenet", seed=2, image_size=160
        ).eval()
    # the seed's head, not ImageNet's
    assert torch.equal(
        model.head.weight,
        plain_model("timm:test_vit.r160_in1k", 1000, seed=2, image_size=160).head.weight,
    )
    mean, std = (
        torch.tensor(v)[:, None, None]
        for v in (reference.pretrained_cfg["mean"], reference.pretrained_cfg["std"])
    )
    pixels = torch.rand(2, 3, 160, 160)
    assert torch.allclose(
        penultimate(model, normalise(pixels.clone())),
        penultimate(reference.eval(), (pixels - mean) / std),
        atol=1e-4,
    )


@needs_timm
@pytest.mark.parametrize(
    "network, folds",
    [
        ("test_resnet", True),
        ("test_byobnet", True),
        ("test_convnext", True),
        ("mobilevit_xxs", True),
        ("fastvit_t8", False),
        ("test_nfnet", False),
    ],
)
def test_folding_makes_it_the_same_function_or_says_that_it_cannot(network, folds):
    model, half = with_statistics(plain_model(f"timm:{network}", 4)), (0.5, 0.5, 0.5)
    pixels = nn.functional.interpolate(
        torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0)),
        size=(160, 160),
        mode="bilinear",
    )
    with torch.no_grad():
        own, before = model((pixels - 0.5) / 0.5), model(normalise(pixels.clone()))
        if folds:
            fold_normalisation(model, half, half)
        else:
            with pytest.warns(UserWarning, match="no single first convolution"):
                fold_normalisation(model, half, half)
        after = model(normalise(pixels.clone()))
    if folds:
        assert (after - own).norm() < 0.05 * (before - own).norm()
    else:
        assert torch.equal(after, before)


@needs_timm
def test_a_hub_that_cannot_be_reached_and_weights_that_are_not():
    with (
        patch(HUB, side_effect=OSError("no route to host")),
        pytest.raises(ConnectionError, match="huggingface.co/timm/resnet18.*weights=PATH"),
    ):
        build_model("timm:resnet18", 2, weights="imagenet")
    with pytest.raises(ValueError, match="timm has none for timm:coatnet_nano_cc_224"):
        build_model("timm:coatnet_nano_cc_224", 2, weights="imagenet")


def test_without_timm_the_way_to_it_is_named():
    with patch("importlib.util.find_spec", return_value=None):
        for network in ("timm:resnet18", "efficientnet_lite0"):
            with pytest.raises(ValueError, match=r"pip install 'fairgrape\[timm\]'"):
                build_model(network, 2)


# The offline network sees


@needs_timm
@needs_photos
def test_efficientnet_lite0_knows_photographs():
    lite0, model = (
        imagenet_state("efficientnet_lite0"),
        build_model("efficientnet_lite0", 1000, weights="imagenet").eval(),
    )
    model.classifier.load_state_dict({k: lite0[f"classifier.{k}"] for k in ("weight", "bias")})
    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    right = {
        "chelsea.png": {281, 282, 285},
        "coffee.png": {967, 968, 504},
        "motorcycle_left.png": {665, 670},
        "rocket.jpg": {657, 744, 812},
    }
    # tabby, tiger cat, Egyptian cat; espresso, cup, mug; moped, scooter; missile, projectile,
    # shuttle
    for file, classes in right.items():
        x = normalise(torch.from_numpy(decode_image(folder / file, 224).copy())[None] / 255)
        with torch.no_grad():
            p = model(x).softmax(1)[0]
        assert p.argmax().item() in classes and sum(p[c].item() for c in classes) > 0.4, (
            file,
            p.topk(5),
        )


@needs_timm
def test_efficientnet_lite0_with_a_new_head_keeps_the_backbone(tmp_path):
    a, b = (build_model("efficientnet_lite0", 7, weights="imagenet", seed=s) for s in (0, 1))
    assert not torch.equal(a.classifier.weight, b.classifier.weight) and torch.equal(
        a.conv_head.weight, b.conv_head.weight
    )
    again = build_model(
        "efficientnet_lite0",
        7,
        weights=str(save_weights(a.state_dict(), tmp_path / "a.safetensors")),
    )
    assert same(again.state_dict(), a.state_dict()) and set(
        load_weights(tmp_path / "a.safetensors")
    ) == set(imagenet_state("efficientnet_lite0"))
    assert math.isclose(
        (a.conv_stem.weight / imagenet_state("efficientnet_lite0")["conv_stem.weight"])[0, 0]
        .median()
        .item(),
        0.229 / 0.5,
        rel_tol=1e-5,
    )


def test_a_probe_takes_no_memory():
    model, why = probe_network("vit_h_14", 224)
    assert (
        why == ""
        and all(p.is_meta for p in model.parameters())
        and sum(p.numel() for p in model.parameters()) > 6e8
    )


@pytest.mark.parametrize("network", ["resnet10", "resnet34", "mobilenet_v2"])
def test_random_pruning_has_nothing_to_do_with_the_initial_weights(network):
    score, start = (
        random_score(plain := build_model(network, 7, seed=3), seed=3),
        dict(plain.named_modules()),
    )
    pairs = [
        (start[n].weight.detach().flatten(), s.flatten())
        for n, s in score.items()
        if s.numel() > 1000
    ]
    assert max(abs(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs) < 0.15
