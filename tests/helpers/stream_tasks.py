"""A task of the streaming engine that needs no network, and text files for it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ssgcam.bulk.inputs import InputImage
from ssgcam.errors import SsgcamError
from ssgcam.files import write_text
from ssgcam.manifest import Manifest


@dataclass
class Upper:
    """A task that writes text files in capitals and records its calls."""

    out: Path
    batch_size: int = 3
    batches: list[list[str]] = field(default_factory=list)
    inside: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, image):
        if not image.path.exists():
            raise SsgcamError(f"there is no file '{image.path}'; check the path")
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        return image.path.read_text()

    def compute(self, images: Sequence[str]):
        if "poison" in images:
            raise SsgcamError("it is poison")
        self.batches.append(list(images))
        return [image.upper() for image in images]

    def write(self, image, made):
        with self.lock:
            self.inside -= 1
        name = f"{image.output}.out"
        write_text(self.out / name, made)
        return [name], {"length": len(made)}


def texts(folder: Path, contents: Sequence[str]) -> list[InputImage]:
    folder.mkdir(exist_ok=True)
    for index, content in enumerate(contents):
        (folder / f"{index:02}.txt").write_text(content)
    names = [f"{index:02}" for index in range(len(contents))]
    return [InputImage(f"{name}.txt", folder / f"{name}.txt", name) for name in names]


def words(count: int) -> list[str]:
    return [f"word{index}" for index in range(count)]


def manifest(out: Path, **settings) -> Manifest:
    return Manifest(out / "manifest.jsonl", settings)


def computed(task: Upper) -> list[str]:
    return [content for batch in task.batches for content in batch]
