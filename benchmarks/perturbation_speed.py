"""Packed perturbation measures against one image and one step at a time, side by side in one run.

    python benchmarks/perturbation_speed.py [--images 8] [--batch 64] [--device cpu] [--quick]

Three ways to the same numbers (compared in the run):

- scratch: one image and one step at a time, each step a call of its own that ranks the pixels,
  blurs the image, composes and asks the network, as a plain function of (image, map, area) does;
- shared: one image and one step at a time, but ranks and blur are made once for each image;
- packed: this library.

"net x1" and "net" say where a gain comes from: the network alone, one image at a time and in full
batches, for as many images. Where these two are alike (a CPU core that one image already fills),
packing can't gain more than the composing costs, whatever the measure does. On a CPU the clock is
CPU time of one thread, so that other work on the machine doesn't count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, squeezenet1_1

from ssgcam.files import write_json, write_text
from ssgcam.metrics import (
    blur_drops,
    fit_maps,
    gaussian_blur,
    insertion_deletion,
    moved_ranks,
    pixel_ranks,
)
from study import DOCS, command, table

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
STEPS = 28
HEADER = ("network, input", "measure", "calls", "scratch", "shared", "packed", "scratch / packed",
          "shared / packed", "net x1", "net", "net x1 / net")  # fmt: skip


def small_network() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16), (16, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Bench:
    """One network, one image size: the three ways and the network alone."""

    def __init__(self, network: nn.Module, side: int, count: int, batch: int, device: str) -> None:
        self.network, self.batch, self.device = network.eval().to(device), batch, device
        self.images = torch.rand(count, 3, side, side, device=device)
        self.maps = torch.rand(count, side // 8, side // 8, device=device)
        self.labels = self.answer(self.images).argmax(1)
        self.pixels = side * side
        self.step = self.pixels // STEPS
        self.counts = [*range(0, self.pixels, self.step), self.pixels]

    @torch.no_grad()
    def answer(self, images: Tensor) -> Tensor:
        """Class probabilities."""
        return self.network(images).softmax(1)

    def ranked(self, index: int) -> tuple[Tensor, Tensor]:
        """One image's pixel ranks and its blurred version."""
        image = self.images[index : index + 1]
        maps = fit_maps(self.maps[index : index + 1], *image.shape[-2:])
        return pixel_ranks(maps, 0), gaussian_blur(image, 0.05)

    def changed(self, kind: str, index: int, count: int, ranks: Tensor, blurred: Tensor) -> Tensor:
        """One image at one step: compose it and ask the network."""
        image = self.images[index : index + 1]
        if kind == "control":
            ranks = moved_ranks(ranks, 0, first=index)
        inside, outside = {
            "highlight": (blurred, image),
            "control": (blurred, image),
            "insertion": (image, blurred),
            "deletion": (torch.zeros_like(image), image),
        }[kind]
        composed = torch.where((ranks < count)[:, None], inside, outside)
        return self.answer(composed)[0, self.labels[index]]

    def singly(self, plan: list[tuple[str, int]], share_work: bool) -> Tensor:
        """One image and one step at a time."""
        rows = []
        for index in range(len(self.images)):
            ready = self.ranked(index)
            row = [
                self.changed(kind, index, count, *(ready if share_work else self.ranked(index)))
                for kind, count in plan
            ]
            rows.append(torch.stack(row))
        return torch.stack(rows)

    def blur_plan(self) -> list[tuple[str, int]]:
        """The steps of blur-the-highlight and its control."""
        counts = [round(share * self.pixels) for share in SHARES]
        return [("highlight", 0)] + [(k, c) for k in ("highlight", "control") for c in counts]

    def blur_packed(self) -> Tensor:
        """The same steps by this library."""
        intact, drops = blur_drops(
            self.answer,
            self.images,
            self.maps,
            self.labels,
            shares=SHARES,
            batch_size=self.batch,
        )
        return torch.cat([intact[:, 1:], intact[:, 1:] - drops[:, :, 1].flatten(1)], 1)

    def curve_plan(self) -> list[tuple[str, int]]:
        """The steps of insertion and deletion."""
        return [(kind, count) for kind in ("insertion", "deletion") for count in self.counts]

    def curve_packed(self) -> Tensor:
        """The same steps by this library, the class's first guess included."""
        return insertion_deletion(
            self.answer,
            self.images,
            self.maps,
            pixels_per_step=self.step,
            batch_size=self.batch,
        )[0].flatten(1)

    def network_alone(self, forwards: int, size: int) -> None:
        """As many answers in batches of one size, nothing else."""
        images = self.images[:1].expand(size, -1, -1, -1).contiguous()
        for start in range(0, forwards, size):
            self.answer(images[: forwards - start])

    def seconds(self, call: Callable[[], object]) -> tuple[float, object]:
        """Time a call: CPU time of the process, or the wall with the GPU idle at both ends."""
        if self.device == "cpu":
            start = time.process_time()
            answer = call()
            return time.process_time() - start, answer
        torch.cuda.synchronize()
        start = time.perf_counter()
        answer = call()
        torch.cuda.synchronize()
        return time.perf_counter() - start, answer

    def report(self, name: str) -> Iterator[list[str]]:
        """Time both measures: a line of the table for each."""
        for measure, plan, packed in (
            ("blur and control", self.blur_plan(), self.blur_packed),
            ("insertion, deletion", self.curve_plan(), self.curve_packed),
        ):
            forwards = len(plan) * len(self.images)
            packed(), self.singly(plan[:2], share_work=True)  # warm up
            fast, answer = self.seconds(packed)
            shared, same = self.seconds(lambda p=plan: self.singly(p, share_work=True))
            scratch, also = self.seconds(lambda p=plan: self.singly(p, share_work=False))
            alone, _ = self.seconds(lambda n=forwards: self.network_alone(n, 1))
            batched, _ = self.seconds(lambda n=forwards: self.network_alone(n, self.batch))
            torch.testing.assert_close(answer, same, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(answer, also, atol=1e-4, rtol=1e-3)
            yield [
                f"{name}, {self.images.shape[-1]} px", measure, str(forwards),
                *(f"{seconds:.2f}" for seconds in (scratch, shared, fast)),
                f"{scratch / fast:.1f}", f"{shared / fast:.1f}",
                f"{alone:.2f}", f"{batched:.2f}", f"{alone / batched:.1f}",
            ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="the smallest network; no files")
    settings = parser.parse_args()
    torch.manual_seed(0)
    if settings.device == "cpu":
        torch.set_num_threads(1)
    few = max(1, settings.images // 4)
    networks = [
        ("5 convolutions", small_network(), 32, settings.images),
        ("5 convolutions", small_network(), 64, settings.images),
        ("SqueezeNet 1.1", squeezenet1_1(num_classes=10), 64, settings.images),
        ("ResNet18", resnet18(num_classes=10), 64, few),
        ("SqueezeNet 1.1", squeezenet1_1(num_classes=10), 224, few),
    ]
    lines = []
    for name, network, side, count in networks[: 1 if settings.quick else None]:
        for line in Bench(network, side, count, settings.batch, settings.device).report(name):
            print("  ".join(line), flush=True)
            lines.append(line)
    if settings.quick:
        return
    clock = "CPU seconds on one thread" if settings.device == "cpu" else "seconds"
    facts = (
        f"torch {torch.__version__}, {settings.device}; {settings.images} images ({few} for the last "
        f"two networks), batches of {settings.batch}; {clock}."
    )
    text = [
        "# Speed of the perturbation measures",
        f"`{command()}`",
        *(__doc__ or "").split("\n\n")[2:],
        facts,
        table(HEADER, lines),
    ]
    write_text(DOCS / "perturbation_speed.md", "\n\n".join(text).rstrip() + "\n")
    rows = [dict(zip(HEADER, line, strict=True)) for line in lines]
    write_json(
        DOCS / "perturbation_speed.json", {"command": command(), "facts": facts, "rows": rows}
    )


if __name__ == "__main__":
    main()
