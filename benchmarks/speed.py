"""How close do the methods come to what PyTorch itself needs, and how far behind are other libraries?

    python benchmarks/speed.py --quick                        # ResNet34 alone, under a minute
    python benchmarks/speed.py --work DIR                     # everything, an hour on two cores
    python benchmarks/speed.py --work DIR --data DATA --weights WEIGHTS    # agreement of maps as well
    python benchmarks/speed.py --work DIR --only vgg16:8      # one part again; the others in DIR are kept

The same command goes on where it was stopped: what is in the folder ``--work`` is not measured again.

The floor is one forward pass and one ``autograd.grad`` to the outputs of the target layers: parameters
frozen, nothing kept below the first target, same network, batch and threads. All contenders
(``speed_contenders.py``) take turns in every round, in a random order; a ratio is the median over
rounds of a contender's time by the floor's of the same round, so that what else the machine does slows
both. Networks have random weights, on which speed does not depend.

Peak memory is what the allocator held at most above the level before the call, by PyTorch's profiler.

``agreement`` compares the maps of ``precision="fast"`` and ``"bfloat16"`` with the exact ones by rank
correlation (Spearman's) over the pixels of each image, for trained networks on real photos.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torchvision import models

from malaria_windows import WindowSet
from speed_contenders import AUTO, contenders, layers_of
from speed_report import Row, markdown, plot
from ssgcam import CAM, load_model
from ssgcam.bulk.segment import versions
from ssgcam.files import write_json, write_text, write_with
from study import DOCS, batches, boxed_samples, command

FULL_COMMAND = "python benchmarks/speed.py --work DIR --data DATA --weights WEIGHTS"


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


def measure(name: str, batch: int, which: str, side: int, seconds: float, least: int) -> list[Row]:
    """Let all contenders of a setting take turns for some time."""
    torch.manual_seed(0)
    network = models.get_model(name, weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)  # ViT's head: zeros pass no gradient on
    images = torch.randn(batch, 3, side, side)
    calls = contenders(network, name, batch, which, images)
    memory = {}
    for title, call in calls.items():
        if title.startswith("ssgcam"):
            call()  # whatever is made only once
        memory[title] = peak_memory(call)
    times: dict[str, list[float]] = {title: [] for title in calls}
    order = random.Random(0)
    start = time.perf_counter()
    while (rounds := len(times["floor"])) < least or (
        time.perf_counter() - start < seconds * (rounds / (rounds + 1)) and rounds < 50
    ):
        for title, call in order.sample([*calls.items()], len(calls)):
            begin = time.perf_counter()
            call()
            times[title].append(time.perf_counter() - begin)
    kept, _ = calls["floor"]()  # type: ignore[misc]
    largest = max(tensor.nbytes for tensor in kept)
    maps = 4 * batch * side**2
    title_of_layers = f"{which}, {len(layers_of(name, which))}"
    rows = []
    for title, found in times.items():
        ratios = [one / two for one, two in zip(found, times["floor"], strict=True)]
        rows.append(Row(
            name, batch, title_of_layers, title,
            round(1000 * statistics.median(found), 1), round(statistics.median(ratios), 3),
            round(min(ratios), 3), round(max(ratios), 3), len(found),
            round(memory[title] / 2**20, 1), round(largest / 2**20, 3), round(maps / 2**20, 1),
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


def parts(only: list[str] | None) -> list[tuple[str, int, str]]:
    """Networks, batches and layers to measure; ``None`` is all."""
    every = [
        (name, batch, which)
        for batch in (8, 1, 32)
        for name in AUTO
        for which in ("last", "auto", "all")
        if (name, which) != ("vit_b_16", "last")  # that is its auto
    ]
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
    parser.add_argument(
        "--side", type=int, default=224, help="another side is a trial: prints only"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", type=Path, help="finished parts are kept here")
    parser.add_argument("--data", type=Path, help="for agreement: malaria_iml, imagenet_val")
    parser.add_argument("--weights", type=Path, help="for agreement: malaria_*_fold0.pth")
    parser.add_argument("--images", type=int, default=29, help="for agreement")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quick: bool = options.quick
    only: list[str] | None = ["resnet34:8:auto"] if quick else options.only
    seconds, rounds = (4, 3) if quick else (options.seconds, options.rounds)
    work = options.work or Path(tempfile.mkdtemp())

    def file_of(part: tuple[str, int, str] | str) -> Path:
        return work / ("-".join(map(str, [part] if isinstance(part, str) else part)) + ".json")

    for part in parts(only):
        if only is not None or not file_of(part).exists():
            rows = measure(*part, options.side, seconds, rounds)
            write_json(file_of(part), [asdict(row) for row in rows])
    wanted = not file_of("agreement").exists() if only is None else "agreement" in only
    if wanted and options.data and options.weights:
        write_json(file_of("agreement"), agreement(options.data, options.weights, options.images))

    def known(part: tuple[str, int, str] | str) -> list[dict[str, Any]]:
        return json.loads(file_of(part).read_text()) if file_of(part).exists() else []

    missing = [f"{n}, batch {b}, {w}" for n, b, w in parts(None) if not known((n, b, w))]
    content: dict[str, Any] = {
        "command": command() if quick else FULL_COMMAND,
        "versions": versions(),
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "rows": [row for part in parts(None) for row in known(part)],
        "agreement": known("agreement"),
        "missing": missing,
    }
    if quick or options.side != 224:
        print(markdown(content))
        return
    write_json(options.out / "speed.json", content)
    write_text(options.out / "speed.md", markdown(content, chart="speed.png"))
    figure = plot([Row(**row) for row in content["rows"]])
    write_with(options.out / "speed.png", lambda path: figure.savefig(path, dpi=130))


if __name__ == "__main__":
    main()
