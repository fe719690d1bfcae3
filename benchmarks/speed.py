"""How close do the methods come to what PyTorch itself needs, and how far behind are other libraries?

    python benchmarks/speed.py --quick                        # ResNet34 alone, under a minute
    python benchmarks/speed.py --work DIR                     # everything, about 20 minutes on two cores
    python benchmarks/speed.py --work DIR --only vgg16:8      # one part; those in DIR are kept
    python benchmarks/speed.py --work DIR --only agreement --data DATA --weights WEIGHTS

The floor is one forward pass and one ``autograd.grad`` to the outputs of the target layers: parameters
frozen, nothing kept below the first target, same network, batch and threads. All contenders take turns in
every round; a ratio is the median over rounds of a contender's time by the floor's of the same round, so
that what else the machine does slows both. All give maps at input size, their layers fused. Networks have
random weights, on which speed does not depend, and other libraries get them as torchvision makes them
(with frozen parameters grad-cam and torchcam raise).

Peak memory is what the allocator held at most above the level before the call, by PyTorch's profiler.

``agreement`` compares the maps of ``precision="fast"`` and ``"bfloat16"`` with the exact ones by rank
correlation (Spearman's) over the pixels of each image, for trained networks on real photos.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torchvision import models

from malaria_windows import WindowSet
from ssgcam import CAM, load_model
from ssgcam.files import write_json, write_text, write_with
from ssgcam.segment import versions
from study import DOCS, batches, boxed_samples, command, table

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
NAMED = {"all": "all blocks or ReLUs", "auto": "auto", "last": "last"}
OWN = (
    "ssg_cam", "layer_cam", "grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam",
    "grad_cam_elementwise", "eigen_cam", "activation_sum",
)  # fmt: skip
#: What a default run leaves out: minutes for each round, and nothing that batch 8 does not show.
TOO_SLOW = {("vgg16", 32), ("vit_b_16", 32), ("resnet50", 32)}
BARS = {
    ("resnet34", "auto"): 1.10, ("resnet50", "auto"): 1.10, ("vgg16", "auto"): 1.25,
    ("resnet34", "all"): 1.15, ("vgg16", "all"): 1.40,
    ("resnet34", "last"): 1.05, ("resnet50", "last"): 1.05, ("vgg16", "last"): 1.05,
}  # fmt: skip


FULL_COMMAND = "python benchmarks/speed.py --work DIR --data DATA --weights WEIGHTS"


@dataclass(frozen=True)
class Row:
    """One contender in one setting."""

    network: str
    batch: int
    layers: str
    contender: str
    ms: float
    ratio: float
    lowest: float
    highest: float
    rounds: int
    peak_mib: float
    largest_mib: float  # the largest activation
    maps_mib: float
    threads: int


Contenders = dict[str, Callable[[], object]]


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

    def by_grad_cam(kind: Any) -> Callable[[], object]:
        reshape = tokens if name.startswith("vit") else None
        cam = kind(network, modules, reshape_transform=reshape)
        cam.activations_and_grads.release()

        def step() -> object:
            # its hooks only during its own turns
            with kind(network, modules, reshape_transform=reshape) as cam:
                return cam(images, [ClassifierOutputTarget(index) for index in classes])

        return step

    def by_torchcam(kind: Any) -> Callable[[], object]:
        def step() -> object:
            with kind(network, target_layer=list(layers)) as cam:
                maps = cam(classes, network(images))
                fused = cam.fuse_cams(maps) if len(maps) > 1 else maps[0]
            return F.interpolate(fused[:, None], size, mode="bilinear", align_corners=False)

        return step

    def by_captum() -> object:
        cam = LayerGradCam(network, modules[0])
        maps = cam.attribute(images, classes, relu_attributions=True)
        return LayerAttribution.interpolate(maps, size, "bilinear")

    for method, kind in (("LayerCAM", "LayerCAM"), ("Grad-CAM", "GradCAM")):
        found[f"grad-cam {method}"] = by_grad_cam(getattr(grad_cam, kind))
        if not name.startswith("vit"):  # torchcam and captum read no tokens
            found[f"torchcam {method}"] = by_torchcam(getattr(torchcam, kind))
    if len(layers) == 1 and not name.startswith("vit"):  # captum takes one layer
        found["captum Grad-CAM"] = by_captum
    return found


def contenders(network: nn.Module, name: str, batch: int, which: str, images: Tensor) -> Contenders:
    """Who takes part in a setting; fewer where a round is long."""
    layers = {"auto": AUTO[name], "all": ALL[name], "last": AUTO[name][-1:]}[which]
    found: Contenders = {"floor": floor(network, layers, images)}
    own = OWN if (name, batch, which) == ("resnet34", 8, "last") else OWN[:3]
    if batch == 32:
        own = OWN[:2]
    for method in own:
        cam = CAM(network, layers, method)
        found[f"ssgcam {CAM_TITLES[method]}"] = lambda cam=cam: cam(images)
    for precision in ("fast", "bfloat16") if which == "auto" else ():
        cam = CAM(network, layers, precision=precision)
        found[f"ssgcam SSG-CAM, {precision}"] = lambda cam=cam: cam(images)
    peers = others(network, name, layers, images)
    if which == "all" or batch == 32 or (name == "vgg16" and which == "auto"):
        peers = {title: step for title, step in peers.items() if "LayerCAM" in title}
    if which == "all" and name == "vgg16":
        peers = {}
    return found | peers


CAM_TITLES = {
    "ssg_cam": "SSG-CAM", "layer_cam": "LayerCAM", "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++", "xgrad_cam": "XGrad-CAM", "hires_cam": "HiResCAM",
    "grad_cam_elementwise": "element-wise Grad-CAM", "eigen_cam": "Eigen-CAM",
    "activation_sum": "sum of activations",
}  # fmt: skip


def peak_memory(call: Callable[[], object]) -> int:
    """The most bytes that PyTorch's allocator held at once above the level before the call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    level = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak


def measure(name: str, batch: int, which: str, seconds: float, least: int) -> list[Row]:
    """Let all contenders of a setting take turns for some time."""
    torch.manual_seed(0)
    network = models.get_model(name, weights=None).eval()
    images = torch.randn(batch, 3, 224, 224)
    calls = contenders(network, name, batch, which, images)
    memory = {}
    for title, call in calls.items():
        if title.startswith("ssgcam"):
            call()  # whatever is made only once
        memory[title] = peak_memory(call)
    times: dict[str, list[float]] = {title: [] for title in calls}
    start = time.perf_counter()
    while (rounds := len(times["floor"])) < least or (
        time.perf_counter() - start < seconds * (rounds / (rounds + 1)) and rounds < 50
    ):
        for title, call in calls.items():
            begin = time.perf_counter()
            call()
            times[title].append(time.perf_counter() - begin)
    layers = {"auto": AUTO[name], "all": ALL[name], "last": AUTO[name][-1:]}[which]
    kept, _ = calls["floor"]()  # type: ignore[misc]
    largest = max(tensor.nbytes for tensor in kept)
    maps = 4 * batch * 224**2
    rows = []
    for title, found in times.items():
        ratios = [one / two for one, two in zip(found, times["floor"], strict=True)]
        rows.append(Row(
            name, batch, f"{which}, {len(layers)}", title,
            round(1000 * statistics.median(found), 1), round(statistics.median(ratios), 3),
            round(min(ratios), 3), round(max(ratios), 3), len(found),
            round(memory[title] / 2**20, 1), round(largest / 2**20, 1), round(maps / 2**20, 1),
            torch.get_num_threads(),
        ))  # fmt: skip
        print(json.dumps(asdict(rows[-1])), flush=True)
    return rows


def agreement(data: Path, weights: Path, images: int) -> list[dict[str, Any]]:
    """Rank correlations between the fused SSG-CAM maps of each precision and the exact ones."""
    rows = []
    for title, path in {
        "ResNet34, infected cells": weights / "malaria_resnet34_fold0.pth",
        "VGG16-BN, infected cells": weights / "malaria_vgg16_bn_fold0.pth",
        "EfficientNet-Lite0, ImageNet": None,
    }.items():
        if path is not None and not path.exists():
            print(f"{title}: there is no {path.name}, left out", file=sys.stderr)
            continue
        model = load_model("efficientnet_lite0" if path is None else str(path))
        if path is None:
            samples = boxed_samples(data, "imagenet_val", images)
            inputs = [part for part, *_ in batches(model, samples, 8)]
        else:
            windows = WindowSet.read(data / "malaria_iml")
            test = windows.fixed(0, "test", healthy=0)
            test = test[:: max(1, len(test) // images)][:images]
            photos = [windows.image(window) for window in test]
            inputs = [model.preprocessing(photos[k : k + 8]) for k in range(0, len(photos), 8)]
        cams = {p: CAM(model, precision=p) for p in ("exact", "fast", "bfloat16")}
        found: dict[str, list[float]] = {"fast": [], "bfloat16": []}
        for part in inputs:
            exact = cams["exact"](part)
            for precision, values in found.items():
                maps = cams[precision](part, exact.classes).maps
                values += [
                    float(spearmanr(one.flatten(), two.flatten()).statistic)
                    for one, two in zip(exact.maps, maps, strict=True)
                ]
        for precision, values in found.items():
            rows.append({
                "network": title, "precision": precision, "images": len(values),
                "input": model.preprocessing.size[0],
                "median": round(statistics.median(values), 5), "lowest": round(min(values), 5),
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


def markdown(content: dict[str, Any]) -> str:
    """The page."""
    rows = [Row(**row) for row in content["rows"]]
    lines = [
        "# Speed and memory", "",
        f"A machine of {content['processors']} processors, PyTorch "
        f"{content['versions']['torch']}, 224 px, random weights. The floor is one forward pass and one "
        "`autograd.grad` to the same layers, parameters frozen. All contenders took turns; a ratio is "
        "the median over rounds of time by the floor's time in the same round (range in brackets); "
        "below 1 is faster than the floor. Maps are at input size, layers fused. Peak memory is above "
        "the level before the call; in brackets how many copies of the largest activation it is above "
        "the floor's and the maps.", "",
    ]  # fmt: skip
    barred = [
        [row.network, row.layers, f"{row.ratio:.3f} ({row.lowest:.2f} to {row.highest:.2f})",
         f"{BARS[row.network, row.layers.split(',')[0]]:.2f}"]
        for row in rows
        if row.batch == 8 and row.contender == "ssgcam SSG-CAM"
        and (row.network, row.layers.split(",")[0]) in BARS
    ]  # fmt: skip
    if barred:
        lines += ["## SSG-CAM against the floor, batch 8", "",
                  table(["network", "layers", "ratio", "aim: at most"], barred)]  # fmt: skip
    quick = [
        [row.network, row.contender.removeprefix("ssgcam SSG-CAM, "), f"{1 / row.ratio:.2f}"]
        for row in rows
        if row.batch == 8 and row.contender.startswith("ssgcam SSG-CAM, ")
    ]
    if quick:
        lines += ["## Below the floor: the faster precisions, `auto` layers, batch 8", "",
                  table(["network", "precision", "times faster than the floor"], quick)]  # fmt: skip
    if content.get("agreement"):
        lines += [
            "## Agreement of the faster precisions", "",
            "Spearman's rank correlation over pixels between each image's fused SSG-CAM map and the "
            "exact one; trained networks, real photos, `auto` layers.", "",
            table(["network", "input", "images", "precision", "median", "lowest"], [
                [row["network"], f"{row['input']} px", str(row["images"]), row["precision"],
                 f"{row['median']:.5f}", f"{row['lowest']:.5f}"] for row in content["agreement"]
            ]),
        ]  # fmt: skip
    if "made" in content:
        lines += ["![Ratios](speed.png)", ""]
    for name, batch in dict.fromkeys((row.network, row.batch) for row in rows):
        part = [row for row in rows if (row.network, row.batch) == (name, batch)]
        few = part[0].threads
        lines += [f"## {name}, batch {batch}, {few} thread{'s' * (few > 1)}", ""]
        lines.append(table(
            ["layers", "contender", "ms", "ratio", "rounds", "peak MiB (above the floor and the maps)"],
            [
                [row.layers, row.contender, f"{row.ms:.0f}",
                 f"{row.ratio:.2f} ({row.lowest:.2f} to {row.highest:.2f})", str(row.rounds),
                 memory_words(row, part)]
                for row in part
            ],
        ))  # fmt: skip
    have = {(row.network, row.batch, row.layers.split(",")[0]) for row in rows}
    missing = [f"{n}, batch {b}, {w}" for n, b, w in parts(None, False) if (n, b, w) not in have]
    missing += sorted(f"{name}, batch {batch}" for name, batch in TOO_SLOW)
    lines += [
        "Where a table says one thread, other programs kept the processors busy: ratios hold there, but "
        "not times. The range shows how rounds differed; ratios a few hundredths apart are the same.", "",
        f"Not measured: {'; '.join(missing)}; other libraries on all layers of VGG16; all blocks of "
        "ViT-B/16; Score-CAM (a pass for each channel) and ShapleyCAM (a second backward pass for each "
        "layer). torchcam and captum read no tokens, captum takes one layer.", "",
        f"    {content['command']}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def memory_words(row: Row, part: list[Row]) -> str:
    """Peak memory, and how many copies of the largest activation it is above the floor and the maps."""
    base = next(r for r in part if r.layers == row.layers and r.contender == "floor")
    above = row.peak_mib - base.peak_mib - row.maps_mib
    copies = f" ({above / row.largest_mib:+.1f})" if row is not base else ""
    return f"{row.peak_mib:.0f}{copies}"


def plot(rows: list[Row]) -> Figure:
    """Ratios to the floor at batch 8, a panel for each choice of layers."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    shown = [
        "ssgcam SSG-CAM", "ssgcam SSG-CAM, fast", "ssgcam LayerCAM", "torchcam LayerCAM",
        "grad-cam LayerCAM", "captum Grad-CAM",
    ]  # fmt: skip
    panels = figure.subplots(1, 3, sharey=True)
    for axes, which in zip(panels, ("last", "auto", "all"), strict=True):
        part = [row for row in rows if row.batch == 8 and row.layers.split(",")[0] == which]
        networks = list(dict.fromkeys(row.network for row in part))
        for place, contender in enumerate(shown):
            found = {row.network: row.ratio for row in part if row.contender == contender}
            if found:
                axes.barh(
                    [networks.index(name) + 0.13 * (place - 2.5) for name in found],
                    list(found.values()), 0.12, label=contender, color=f"C{place}",
                )  # fmt: skip
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(xlabel="time by the floor's", title=f"layers: {NAMED[which]}")
        axes.set_yticks(range(len(networks)), networks)
    panels[0].invert_yaxis()
    handles: dict[str, Any] = {}
    for axes in panels:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False
    )
    return figure


def parts(only: list[str] | None, quick: bool) -> list[tuple[str, int, str]]:
    """Networks, batches and layers to measure."""
    every = [
        (name, batch, which)
        for batch in (8, 1, 32)
        for name in AUTO
        for which in (("last", "auto", "all") if batch == 8 else ("last", "auto"))
        if (name, batch) not in TOO_SLOW and (name != "vit_b_16" or which == "auto")  # its last
    ]
    if quick:
        only = ["resnet34:8:auto"]
    return [p for p in every if only is None or {f"{p[0]}:{p[1]}", ":".join(map(str, p))} & {*only}]


def main() -> None:
    """Measure what is asked for and write everything that is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="ResNet34, auto layers, batch 8, few rounds"
    )
    parser.add_argument("--only", nargs="*", help="NETWORK:BATCH[:LAYERS], or agreement")
    parser.add_argument("--seconds", type=float, default=15, help="for each setting, about")
    parser.add_argument("--rounds", type=int, default=5, help="at least")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", type=Path, help="finished parts are kept here")
    parser.add_argument("--data", type=Path, help="for agreement: malaria_iml, imagenet_val")
    parser.add_argument("--weights", type=Path, help="for agreement: malaria_*_fold0.pth")
    parser.add_argument("--images", type=int, default=29, help="for agreement")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quick: bool = options.quick
    seconds, rounds = (4, 3) if quick else (options.seconds, options.rounds)
    work = options.work or Path(tempfile.mkdtemp())
    for part in parts(options.only, quick):
        rows = [asdict(row) for row in measure(*part, seconds, rounds)]
        write_json(work / ("-".join(map(str, part)) + ".json"), rows)
    if options.data and options.weights and not quick:
        found = agreement(options.data, options.weights, options.images)
        write_json(work / "agreement.json", found)

    def known(name: str) -> list[dict[str, Any]]:
        file = work / f"{name}.json"
        return json.loads(file.read_text()) if file.exists() else []

    content: dict[str, Any] = {
        "command": command() if quick else FULL_COMMAND,
        "versions": versions(),
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "rows": [row for part in parts(None, False) for row in known("-".join(map(str, part)))],
        "agreement": known("agreement"),
    }
    if quick:
        print(markdown(content))
        return
    write_json(options.out / "speed.json", content)
    write_text(options.out / "speed.md", markdown(content | {"made": True}))
    figure = plot([Row(**row) for row in content["rows"]])
    write_with(options.out / "speed.png", lambda path: figure.savefig(path, dpi=130))


if __name__ == "__main__":
    main()
