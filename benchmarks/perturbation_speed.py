"""The perturbation measures against one image and one step at a time, in turns in one run.

    python benchmarks/perturbation_speed.py [--images 2] [--maps 2] [--device cpu] [--quick]
    python benchmarks/perturbation_speed.py --data DATA [--samples 24]    # numbers by precision

- scratch: one image and one step at a time, each step a call of its own that ranks the pixels, blurs
  the image, composes and asks the network, as a plain function of (image, map, area) does;
- exact, fast, bfloat16: this library at these precisions, its numbers compared with scratch in the
  run. The answers to the intact, blurred and empty images are asked for once for all maps of an image.
  The network's channels come last, as in the command.

"times as fast" is scratch divided by each; the shortest of several rounds counts. The second table says
where the gain comes from and where it ends: the network alone, one image at a time and in batches. What
the library adds to its network's time is the composing; scratch adds ranking and blurring at each step.
On a CPU the clock is CPU time of one thread, so that other work on the machine doesn't count.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, squeezenet1_1

from ssgcam import LoadedModel, load_model
from ssgcam.core.settings import Precision
from ssgcam.evaluation import (
    Contender,
    Entrants,
    EvaluationSettings,
    evaluate_perturbation,
    limited,
)
from ssgcam.evaluation.answers import Answers
from ssgcam.files import write_json, write_text
from ssgcam.metrics import (
    Perturber,
    blur_sweep,
    curve_counts,
    curve_sweep,
    fit_maps,
    gaussian_blur,
    images_at_once,
    moved_ranks,
    pixel_counts,
    pixel_ranks,
)
from study import DOCS, command, labeled_samples, table

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
STEPS = 28
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
HEADER = (
    "network, input",
    "measure",
    "scratch",
    *PRECISIONS,
    "times as fast",
    "largest difference",
)
NUMBERS = ("method", "metric", "exact", "fast less exact", "bfloat16 less exact")
ALONE = ("network, input", "way", *(f"x {size}" for size in BATCHES), "chosen")


def small_network() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16), (16, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Bench:
    """One network, one image size: the ways to the same numbers, and the network alone."""

    def __init__(self, model: LoadedModel, side: int, options: argparse.Namespace) -> None:
        self.device, self.rounds = options.device, options.rounds
        self.name = f"{model.name}, {side} px"
        plain = copy.deepcopy(model.network).eval().to(self.device)
        plain.to(memory_format=torch.contiguous_format)
        self.scratch = Answers(replace(model, network=plain))
        model.network.eval().to(self.device, memory_format=torch.channels_last)
        self.answers = {precision: Answers(model, precision) for precision in PRECISIONS}
        count = options.images * (4 if side < 224 else 1)
        self.images = torch.rand(count, 3, side, side, device=self.device)
        self.maps = torch.rand(options.maps, count, side // 8, side // 8).to(self.device)
        self.labels = self.scratch(self.images).argmax(1)
        self.pixels = side * side
        self.step = -(-self.pixels // STEPS)

    def one(self, kind: str, index: int, maps: Tensor, count: int) -> Tensor:
        """One image at one step, from nothing."""
        image = self.images[index : index + 1]
        blurred = gaussian_blur(image, 0.05)
        ranks = pixel_ranks(fit_maps(maps[index : index + 1], *image.shape[-2:]), 0)
        if kind == "control":
            ranks = moved_ranks(ranks, 0, first=index)
        inside, outside = {
            "highlight": (blurred, image),
            "control": (blurred, image),
            "insertion": (image, blurred),
            "deletion": (torch.zeros_like(image), image),
        }[kind]
        composed = torch.where((ranks < count)[:, None], inside, outside)
        return self.scratch(composed)[0, self.labels[index]]

    def singly(self, plan: list[tuple[str, int]]) -> Tensor:
        """One image and one step at a time, for all maps: ``[maps, N, steps]``."""
        return torch.stack(
            [
                torch.stack([self.one(kind, index, maps, count) for kind, count in plan])
                for maps in self.maps
                for index in range(len(self.images))
            ]
        ).view(len(self.maps), len(self.images), -1)

    def packed(self, measure: str, precision: Precision) -> Tensor:
        """The same by this library."""
        answers = self.answers[precision]
        blurred = answers.ready(gaussian_blur(self.images, 0.05))
        perturber = Perturber(answers, answers.ready(self.images), blurred)
        rows = []
        for maps in self.maps:
            ranks = perturber.ranks(maps)
            if measure == "blur and control":
                counts = pixel_counts(SHARES, self.pixels)
                intact, drops = blur_sweep(perturber, ranks, self.labels, counts)
                after = intact[:, 1:] - drops[:, :, 1].flatten(1)
                rows.append(torch.cat([intact[:, 1:], after], 1))
            else:
                counts = curve_counts(self.pixels, self.step)
                rows.append(curve_sweep(perturber, ranks, self.labels, counts).flatten(1))
        return torch.stack(rows)

    def seconds(self, call: Callable[[], Tensor]) -> tuple[float, Tensor]:
        """Time a call: CPU time of this thread, or the wall with the GPU idle at both ends."""
        if self.device == "cpu":
            start = time.thread_time()
            answer = call()
            return time.thread_time() - start, answer
        torch.cuda.synchronize()
        start = time.perf_counter()
        answer = call()
        torch.cuda.synchronize()
        return time.perf_counter() - start, answer

    def report(self) -> Iterator[list[str]]:
        """Time both measures: a line of the table for each."""
        shares = [round(share * self.pixels) for share in SHARES]
        blur = [("highlight", 0)] + [(k, c) for k in ("highlight", "control") for c in shares]
        points = [*range(0, self.pixels, self.step), self.pixels]
        curve = [(kind, count) for kind in ("insertion", "deletion") for count in points]
        for measure, plan in (("blur and control", blur), ("insertion, deletion", curve)):
            for precision in PRECISIONS:
                self.packed(measure, precision)  # warm up
            spent = {name: float("inf") for name in ("scratch", *PRECISIONS)}
            found = {}
            for _ in range(self.rounds):
                for precision in PRECISIONS:
                    taken, found[precision] = self.seconds(
                        lambda p=precision, m=measure: self.packed(m, p)
                    )
                    spent[precision] = min(spent[precision], taken)
                taken, expected = self.seconds(lambda p=plan: self.singly(p))
                spent["scratch"] = min(spent["scratch"], taken)
            torch.testing.assert_close(found["exact"], expected, atol=1e-5, rtol=1e-4)
            gains = [f"{spent['scratch'] / spent[p]:.1f}" for p in PRECISIONS]
            errors = [f"{float((found[p] - expected).abs().max()):.0e}" for p in PRECISIONS]
            yield [
                self.name, measure, *(f"{each:.3f}" for each in spent.values()),
                " / ".join(gains), " / ".join(errors),
            ]  # fmt: skip

    def alone(self) -> Iterator[list[str]]:
        """Milliseconds for an image of the network alone, by batch size: a line for each precision."""
        side = self.images.shape[-1]
        chosen = images_at_once(side, side, self.images.device)
        for name, answers in {"scratch": self.scratch, **self.answers}.items():
            cells = []
            for size in BATCHES:
                if size > 8 * chosen:
                    cells.append("")
                    continue
                images = answers.ready(self.images[:1]).repeat(size, 1, 1, 1)
                answers(images)
                rounds = range(max(3, 64 // size if self.pixels < 2**14 else 3))
                least = min(self.seconds(lambda a=answers, i=images: a(i))[0] for _ in rounds)
                cells.append(f"{1000 * least / size:.3g}")
            yield [self.name, name, *cells, str(chosen)]


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Both tables of the speed."""
    if options.device == "cpu":
        torch.set_num_threads(1)
    small = LoadedModel(small_network(), "5 convolutions")
    squeeze = LoadedModel(squeezenet1_1(num_classes=10), "SqueezeNet 1.1")
    resnet = LoadedModel(resnet18(num_classes=10), "ResNet18")
    lite = load_model("efficientnet_lite0")
    lines, alone = [], []
    for model, side in (
        (small, 32), (small, 64), (squeeze, 64), (resnet, 64), (squeeze, 224), (resnet, 224),
        (lite, 224),
    )[: 1 if options.quick else None]:  # fmt: skip
        bench = Bench(model, side, options)
        for found, kept in ((bench.report(), lines), (bench.alone(), alone)):
            for line in found:
                print("  ".join(line), flush=True)
                kept.append(line)
    clock = "CPU seconds of one thread" if options.device == "cpu" else "seconds"
    facts = (
        f"torch {torch.__version__}, {options.device}; {4 * options.images} images "
        f"({options.images} of 224 px), {options.maps} maps of each, {options.rounds} rounds; {clock}. "
        "Weights are random, but EfficientNet-Lite0's."
    )
    return {"command": command(), "facts": facts, "rows": lines, "network alone": alone}


def numbers(options: argparse.Namespace) -> dict[str, Any]:
    """What the precision does to the numbers of a real network on photos."""
    model = load_model("efficientnet_lite0")
    samples = limited(labeled_samples(options.data / "imagenet_samples"), options.samples)
    who = Entrants(tuple(map(Contender, ("ssg_cam", "layer_cam", "grad_cam"))), each=False)
    settings = EvaluationSettings(examples=0, resamples=200, progress=True)
    found, spent = {}, {}
    for precision in PRECISIONS:
        start = time.process_time()
        found[precision] = evaluate_perturbation(
            model, samples, who, steps=14, settings=replace(settings, precision=precision)
        )
        spent[precision] = f"{time.process_time() - start:.0f} s"
    rows = []
    shown = [[score for score in each.scores if score.shown] for each in found.values()]
    for exact, *others in zip(*shown, strict=True):
        interval = f"{exact.value:.4f} [{exact.low:.4f}, {exact.high:.4f}]"
        gaps = (f"{other.value - exact.value:+.1e}" for other in others)
        rows.append([exact.method, exact.metric, interval, *gaps])
    facts = (
        f"EfficientNet-Lite0 with its ImageNet weights, {len(samples)} photos, all layers fused; "
        f"CPU time with the maps and intervals: {', '.join(f'{p} {t}' for p, t in spent.items())}."
    )
    return {"command": command(), "facts": facts, "rows": rows}


def page(parts: dict[str, Any]) -> str:
    """The page of what was measured so far."""
    ways, reasons = (__doc__ or "").split("\n\n")[2:4]
    text = ["# Speed of the perturbation measures"]
    if "speed" in parts:
        found = parts["speed"]
        text += [
            f"`{found['command']}`", ways, found["facts"], table(HEADER, found["rows"]).rstrip(),
            reasons.rstrip(),
            "Milliseconds for an image of the network alone, by the size of the batch; the last column "
            "is the size that the library chooses.",
            table(ALONE, found["network alone"]).rstrip(),
        ]  # fmt: skip
    if "numbers" in parts:
        found = parts["numbers"]
        text += [
            "## What the precision does to the numbers", f"`{found['command']}`", found["facts"],
            table(NUMBERS, found["rows"]).rstrip(),
        ]  # fmt: skip
    return "\n\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2, help="of 224 px; 4 times as many of fewer")
    parser.add_argument("--maps", type=int, default=2, help="of each image, by so many methods")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="the smallest network; no files")
    parser.add_argument("--data", type=Path, help="compare the numbers on DATA/imagenet_samples")
    parser.add_argument("--samples", type=int, default=24, help="of DATA")
    options = parser.parse_args()
    torch.manual_seed(0)
    found = {"numbers": numbers(options)} if options.data else {"speed": speed(options)}
    if options.quick:
        return
    path = DOCS / "perturbation_speed.json"
    parts = {**(json.loads(path.read_text()) if path.exists() else {}), **found}
    write_json(path, parts)
    write_text(DOCS / "perturbation_speed.md", page(parts))


if __name__ == "__main__":
    main()
