"""Who takes part in the benchmark of speed: the floor, this library, grad-cam, torchcam and captum.

All give maps at input size, their layers fused; a contender is a call without arguments. Other libraries
get the network as torchvision makes it (with frozen parameters grad-cam and torchcam raise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgcam import CAM

STAGES = ["layer1", "layer2", "layer3", "layer4"]
AUTO = {
    "resnet34": STAGES,
    "resnet50": STAGES,
    "vgg16": ["features.15", "features.22", "features.29"],
    "mobilenet_v3_large": ["features.3", "features.6", "features.12", "features"],
    "vit_b_16": ["encoder.layers.encoder_layer_11.ln_1"],
}
ALL = {
    "resnet34": [f"layer{s}.{b}" for s, n in enumerate((3, 4, 6, 3), 1) for b in range(n)],
    "resnet50": [f"layer{s}.{b}" for s, n in enumerate((3, 4, 6, 3), 1) for b in range(n)],
    "vgg16": [f"features.{k}" for k in (1, 3, 6, 8, 11, 13, 15, 18, 20, 22, 25, 27, 29)],
    "mobilenet_v3_large": [f"features.{k}" for k in range(16)] + ["features"],
    "vit_b_16": [f"encoder.layers.encoder_layer_{k}.ln_1" for k in range(12)],
}
OWN = {
    "ssg_cam": "SSG-CAM", "layer_cam": "LayerCAM", "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++", "xgrad_cam": "XGrad-CAM", "hires_cam": "HiResCAM",
    "grad_cam_elementwise": "element-wise Grad-CAM", "eigen_cam": "Eigen-CAM",
    "activation_sum": "sum of activations", "shapley_cam": "ShapleyCAM", "score_cam": "Score-CAM",
}  # fmt: skip

#: What torchcam does when it is told so: enlarge every layer's map, then fuse, as this library does.
#: Otherwise it fuses at the resolution of the largest layer, and the result is enlarged.
AT_INPUT_SIZE = "at input size"

Contenders = dict[str, Callable[[], object]]


def layers_of(name: str, which: str) -> list[str]:
    """The layers of a network that are meant by ``last``, ``auto`` or ``all``."""
    return ALL[name] if which == "all" else AUTO[name][-1:] if which == "last" else AUTO[name]


def floor(network: nn.Module, layers: list[str], images: Tensor) -> Callable[[], object]:
    """One forward pass and one gradient, parameters frozen for the call."""
    modules = [network.get_submodule(name) for name in layers]

    def step() -> object:
        kept: list[Tensor] = []

        def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            kept.append(output if output.requires_grad else output.detach().requires_grad_())
            return kept[-1]

        with frozen(network):
            handles = [module.register_forward_hook(keep) for module in modules]
            logits = network(images)
            for handle in handles:
                handle.remove()
            return kept, torch.autograd.grad(logits.amax(1).sum(), kept)

    return step


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient in the block."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def others(network: nn.Module, name: str, layers: list[str], images: Tensor) -> Contenders:
    """The same maps by grad-cam, torchcam and captum, as far as they can."""
    import pytorch_grad_cam as grad_cam
    import torchcam.methods as torchcam
    from captum.attr import LayerAttribution, LayerGradCam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    modules = [network.get_submodule(layer) for layer in layers]
    size = (int(images.shape[-2]), int(images.shape[-1]))
    classes = network(images).argmax(1).tolist()
    found: Contenders = {}

    def tokens(activation: Tensor) -> Tensor:
        side = int((activation.shape[1] - 1) ** 0.5)
        return activation[:, 1:].transpose(1, 2).unflatten(2, (side, side))

    reshape = tokens if name.startswith("vit") else None

    def by_grad_cam(kind: Any) -> Callable[[], object]:
        cam = kind(network, modules, reshape_transform=reshape)
        cam.activations_and_grads.release()

        def step() -> object:
            # its hooks only during its own turns
            with kind(network, modules, reshape_transform=reshape) as cam:
                return cam(images, [ClassifierOutputTarget(index) for index in classes])

        return step

    def by_torchcam(kind: Any, fused_at: tuple[int, int] | None = None) -> Callable[[], object]:
        def step() -> object:
            with kind(network, target_layer=list(layers), reshape_transform=reshape) as cam:
                maps = cam(classes, network(images))
                fused = cam.fuse_cams(maps, fused_at) if len(maps) > 1 else maps[0]
            if fused_at is not None:
                return fused
            return F.interpolate(fused[:, None], size, mode="bilinear", align_corners=False)

        return step

    def by_captum() -> object:
        cam = LayerGradCam(network, modules[0])
        maps = cam.attribute(images, classes, relu_attributions=True)
        return LayerAttribution.interpolate(maps, size, "bilinear")

    for method, kind in (("LayerCAM", "LayerCAM"), ("Grad-CAM", "GradCAM")):
        found[f"grad-cam {method}"] = by_grad_cam(getattr(grad_cam, kind))
        found[f"torchcam {method}"] = by_torchcam(getattr(torchcam, kind))
        if len(layers) > 1:
            title = f"torchcam {AT_INPUT_SIZE} {method}"
            found[title] = by_torchcam(getattr(torchcam, kind), size)
    if len(layers) == 1 and not name.startswith("vit"):  # captum takes one layer and no tokens
        found["captum Grad-CAM"] = by_captum
    return found


def contenders(network: nn.Module, name: str, batch: int, which: str, images: Tensor) -> Contenders:
    """Who takes part in a setting; fewer where a round is long."""
    layers = layers_of(name, which)
    found: Contenders = {"floor": floor(network, layers, images)}
    own = list(OWN) if (name, batch, which) == ("resnet34", 8, "last") else list(OWN)[:3]
    if batch == 32:
        own = own[:2]
    for method in own:
        cam = CAM(network, layers, method)
        found[f"ssgcam {OWN[method]}"] = lambda cam=cam: cam(images)
    for precision in ("fast", "bfloat16") if which == "auto" else ():
        cam = CAM(network, layers, precision=precision)
        found[f"ssgcam SSG-CAM, {precision}"] = lambda cam=cam: cam(images)
    peers = others(network, name, layers, images)
    if which == "all" or batch == 32 or (name == "vgg16" and which == "auto"):
        peers = {title: step for title, step in peers.items() if "LayerCAM" in title}
    return found | peers
