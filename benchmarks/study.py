"""What all studies share: rows of results, their files, and the images with boxes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssgcam import LoadedModel
from ssgcam.data import Sample, SampleSet, read_samples
from ssgcam.files import write_json, write_text
from ssgcam.images import read_image
from ssgcam.metrics import Interval

DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
#: The contender that a study is about: what the search ends with.
FINAL = "Recipe (searched, final)"


@dataclass(frozen=True)
class Row:
    """One number of a study, with all that is needed to read and repeat it."""

    study: str
    network: str
    method: str
    layers: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    seed: int
    command: str


def command() -> str:
    """The command that is running, as someone else would type it.

    Folders of this machine are told by their last part, ``--data`` by DATA; ``--out`` is left out.
    """
    typed = []
    for word in sys.argv:
        typed += word.split("=", 1) if word.startswith("--") else [word]
    words = []
    for option, word in zip(["", *typed], typed, strict=False):
        path = Path(word)
        elsewhere = path.is_absolute() or ".." in path.parts or option == ""
        if "--out" not in (option, word):
            words.append("DATA" if option == "--data" else path.name if elsewhere else word)
    return "python benchmarks/" + shlex.join(words).replace("'", "")


def row(
    study: str, network: str, method: str, layers: str, metric: str, found: Interval, seed: int = 0
) -> Row:
    """A row from a bootstrap interval."""
    return Row(
        study, network, method, layers, metric,
        round(found.value, 4), round(found.low, 4), round(found.high, 4), found.n, seed, command(),
    )  # fmt: skip


def with_interval(found: Any) -> str:
    """Of a number with its ``low`` and ``high``: all three."""
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def signed(found: Any) -> str:
    """The same of a difference."""
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def write_study(name: str, rows: Sequence[Row], markdown: str, folder: Path = DOCS) -> None:
    """Write ``<name>.json`` and ``<name>.md``."""
    write_json(folder / f"{name}.json", [asdict(item) for item in rows])
    write_text(folder / f"{name}.md", markdown.rstrip() + "\n")


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


def boxed_samples(data: Path, name: str, limit: int | None = None) -> list[Sample]:
    """Images with boxes of ``imagenet_val`` (inclusive edges) or ``tiny_imagenet_val`` (exclusive)."""
    edges = "exclusive" if name.startswith("tiny") else "inclusive"
    return list(read_samples(data / name, edges=edges))[:limit]


def labeled_samples(folder: Path) -> SampleSet:
    """``imagenet_samples``: the class index is the beginning of the file name."""
    samples = read_samples(folder)
    every = tuple(replace(s, labels=(int(s.image.name[:3]),)) for s in samples)
    return replace(samples, samples=every, class_names=tuple(map(str, range(1000))))


def batches(
    model: LoadedModel, samples: Sequence[Sample], size: int = 16
) -> Iterator[tuple[Tensor, Tensor, list[Sample], list[tuple[int, int]]]]:
    """Network inputs, class indices, samples and photo sizes (width, height), batch by batch."""
    for start in range(0, len(samples), size):
        part = list(samples[start : start + size])
        photos = [read_image(sample.image) for sample in part]
        labels = torch.tensor([sample.labels[0] for sample in part])
        yield model.preprocessing(photos), labels, part, [photo.size for photo in photos]
