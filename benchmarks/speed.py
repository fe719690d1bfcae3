"""Speed: how long do maps take beside PyTorch's own passes, and beside other libraries?

    python benchmarks/speed.py                 # about half an hour on two cores
    python benchmarks/speed.py --quick         # ResNet34, the `auto` layers, a minute; prints only

The floor is one forward pass and one ``autograd.grad`` to the outputs of the target layers, parameters
frozen, same network, batch and threads. In every round all take turns in a random order; a ratio is the
median over rounds of a time divided by the floor's of the same round. All give maps at input size with
their layers fused. Networks have random weights, on which speed does not depend. Peak memory is what
PyTorch's allocator holds at most above the level before the call. A candidate of the search is one
recipe: pick, weight, sum, threshold, IoU on 40 images at 56x56 cells, from cached maps of 12 layers.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torchvision import models

from common import DOCS, opening, table, write_page
from ssgcam import CAM, LoadedModel, Preprocessing
from ssgcam.search import CalibrationSet, MapCache, MapGrid
from ssgcam.search.objective import Objective

STAGES = ["layer1", "layer2", "layer3", "layer4"]
AUTO = {
    "resnet34": STAGES,
    "resnet50": STAGES,
    "vgg16": ["features.15", "features.22", "features.29"],
    "vit_b_16": ["encoder.layers.encoder_layer_11.ln_1"],
}
BLOCKS = [f"layer{s}.{b}" for s, n in enumerate((3, 4, 6, 3), 1) for b in range(n)]
#: Network, batch and layers that are measured.
SETTINGS = [
    ("resnet34", 8, "auto"),
    ("resnet34", 8, "last"),
    ("resnet34", 8, "all"),
    ("resnet34", 1, "auto"),
    ("resnet50", 8, "auto"),
    ("vgg16", 8, "auto"),
    ("vit_b_16", 8, "auto"),
]
METHODS = ("ssg_cam", "discriminate", "localize", "layer_cam", "grad_cam")

Call = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """The times of one method in one setting."""

    network: str
    batch: int
    layers: str
    method: str
    milliseconds: float
    ratio: float
    lowest: float
    highest: float
    rounds: int
    memory_mib: float


def bare_passes(network: nn.Module, layers: list[str], images: Tensor) -> Call:
    """One forward pass and one gradient with respect to the layers' outputs, parameters frozen."""
    modules = [network.get_submodule(name) for name in layers]

    def step() -> object:
        kept: list[Tensor] = []

        def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            kept.append(output if output.requires_grad else output.detach().requires_grad_())
            return kept[-1].view_as(kept[-1])

        network.requires_grad_(False)
        handles = [module.register_forward_hook(keep) for module in modules]
        logits = network(images)
        for handle in handles:
            handle.remove()
        gradients = torch.autograd.grad(logits.amax(1).sum(), kept)
        network.requires_grad_(True)
        return gradients

    return step


def other_libraries(
    network: nn.Module, name: str, layers: list[str], images: Tensor
) -> dict[str, Call]:
    """LayerCAM and Grad-CAM by grad-cam and torchcam, which need parameters that are not frozen."""
    import pytorch_grad_cam as grad_cam
    import torchcam.methods as torchcam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    modules = [network.get_submodule(layer) for layer in layers]
    size = (int(images.shape[-2]), int(images.shape[-1]))
    classes = network(images).argmax(1).tolist()

    def tokens(activation: Tensor) -> Tensor:
        side = int((activation.shape[1] - 1) ** 0.5)
        return activation[:, 1:].transpose(1, 2).unflatten(2, (side, side))

    reshape = tokens if name.startswith("vit") else None

    def by_grad_cam(kind: Any) -> Call:
        def step() -> object:
            with kind(network, modules, reshape_transform=reshape) as cam:
                return cam(images, [ClassifierOutputTarget(index) for index in classes])

        return step

    def by_torchcam(kind: Any) -> Call:
        def step() -> object:
            with kind(network, target_layer=list(layers), reshape_transform=reshape) as cam:
                maps = cam(classes, network(images))
                if len(maps) > 1:
                    return cam.fuse_cams(maps, size)
            return F.interpolate(maps[0][:, None], size, mode="bilinear", align_corners=False)

        return step

    found = {}
    for title, kind in (("LayerCAM", "LayerCAM"), ("Grad-CAM", "GradCAM")):
        found[f"grad-cam {title}"] = by_grad_cam(getattr(grad_cam, kind))
        found[f"torchcam {title}"] = by_torchcam(getattr(torchcam, kind))
    return found


def peak_memory(call: Call) -> float:
    """The most MiB that PyTorch's allocator held at once above the level before the call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    level = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak / 2**20


def measure(network_name: str, batch: int, which: str, seconds: float, least: int) -> list[Row]:
    """Let all take turns for some time."""
    torch.manual_seed(0)
    network = models.get_model(network_name, weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)  # a head of zeros passes no gradient on
    images = torch.randn(batch, 3, 224, 224)
    layers = {"all": BLOCKS, "last": AUTO[network_name][-1:]}.get(which, AUTO[network_name])
    calls: dict[str, Call] = {"PyTorch's passes": bare_passes(network, layers, images)}
    calls |= {f"ssgcam {m}": partial(CAM(network, layers, m), images) for m in METHODS}
    if which == "auto":
        calls["ssgcam ssg_cam, fast"] = partial(CAM(network, layers, fast=True), images)
    calls |= other_libraries(network, network_name, layers, images)
    memory = {}
    for title, call in calls.items():
        call()  # what is made once
        memory[title] = peak_memory(call)
    times: dict[str, list[float]] = {title: [] for title in calls}
    order = random.Random(0)
    start = time.perf_counter()
    while len(times["PyTorch's passes"]) < least or time.perf_counter() - start < seconds:
        for title, call in order.sample([*calls.items()], len(calls)):
            begin = time.perf_counter()
            call()
            times[title].append(time.perf_counter() - begin)
    rows = []
    for title, found in times.items():
        ratios = [a / b for a, b in zip(found, times["PyTorch's passes"], strict=True)]
        middle, place = statistics.median(ratios), f"{which}, {len(layers)}"
        numbers = (1000 * statistics.median(found), middle, min(ratios), max(ratios))
        more = *(round(number, 3) for number in numbers), len(found), round(memory[title], 1)
        rows.append(Row(network_name, batch, place, title, *more))
    return rows


def time_of_a_candidate(layers: int = 12, images: int = 40, rounds: int = 5) -> tuple[float, float]:
    """Milliseconds for one candidate, and for the network's passes on the images (ResNet34)."""
    generator = torch.Generator().manual_seed(0)
    grid = MapGrid()
    size = (56, 56)
    values = torch.randint(
        0, 256, (images, layers * len(grid), *size), generator=generator, dtype=torch.uint8
    )
    names = tuple(f"layer {number}" for number in range(layers))
    masks = (torch.rand(images, *size, generator=generator) > 0.8).to(torch.uint8)
    data = CalibrationSet(torch.zeros(images, 3, 112, 112), masks, 0)
    model = LoadedModel(models.resnet34().eval(), "resnet34", Preprocessing((112, 112)))
    data = data.with_predictions(model)
    objective = Objective(MapCache(values.flatten(2), names, grid, size), data)
    low, high = np.array(objective.bounds).T
    shares = np.random.default_rng(0).random((len(low), 160))
    genomes = low[:, None] + (high - low)[:, None] * shares
    for index in np.flatnonzero(objective.integrality):
        genomes[index] = np.floor(genomes[index])
    seconds = timeit.repeat(lambda: objective(genomes), number=1, repeat=rounds)
    cam = CAM(model, [f"layer{k}" for k in range(1, 5)])
    inputs = torch.zeros(8, 3, 112, 112)
    cam(inputs)  # what is made once
    passes = timeit.timeit(lambda: cam(inputs), number=1) * images / 8
    return 1000 * statistics.median(seconds) / genomes.shape[1], 1000 * passes


def page(rows: list[Row]) -> list[str]:
    """The sections of the page: one table for each setting."""
    facts = (
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, 224 px, random weights."
    )
    sections = [*opening("Speed and memory", __doc__), facts]
    settings = dict.fromkeys((row.network, row.batch, row.layers) for row in rows)
    for network, batch, layers in settings:
        own = [r for r in rows if (r.network, r.batch, r.layers) == (network, batch, layers)]
        lines = []
        for r in own:
            ratio = f"{r.ratio:.2f} [{r.lowest:.2f}, {r.highest:.2f}]"
            lines.append([r.method, f"{r.milliseconds:.0f}", ratio, f"{r.memory_mib:.0f}"])
        header = ["method", "ms", "times PyTorch's passes [lowest, highest]", "peak MiB"]
        sections += [
            f"## {network}, batch {batch}, layers: {layers}; {own[0].rounds} rounds",
            table(header, lines),
        ]
    candidate, passes = time_of_a_candidate()
    lines = [["one candidate", f"{candidate:.2f}"], ["maps by ResNet34", f"{passes:.0f}"]]
    return [*sections, "## A candidate of the search", table(["12 layers, 40 images", "ms"], lines)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one setting, prints only")
    parser.add_argument("--seconds", type=float, default=120, help="for each setting, about")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = SETTINGS[:1] if options.quick else SETTINGS
    seconds = 10 if options.quick else options.seconds
    rows = [row for setting in settings for row in measure(*setting, seconds, 3)]
    if options.quick:
        print("\n\n".join(page(rows)))
    else:
        write_page("speed", page(rows), rows, options.out)


if __name__ == "__main__":
    main()
