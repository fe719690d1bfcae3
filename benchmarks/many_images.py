"""Many images: how close does ``segment`` come to the network's own speed, in how much memory?

    python benchmarks/many_images.py                      # all of it
    python benchmarks/many_images.py --parts cluster      # one part; the results of others are kept
                                                          # (needs the extra ``ray``)
    python benchmarks/many_images.py --quick --out DIR    # a minute: fewer images, one network

Throughput: photos from disk to masks on disk, against the bare network on a batch in memory
(``many_images_throughput.py``). Each round writes to a new folder and nothing is deleted before the
end: for some minutes after many files were deleted ext4 takes much longer to make one. So wait five
minutes between two runs.

Memory: peak resident size of a process that segments 1,000, 10,000 and 100,000 generated images.

Cluster: the Ray engine on this machine with one and two actors of one thread each, against the local
engine with one thread; for several numbers of images, so that the fixed cost and the cost of an image
can be told apart. The processor time is that of all processes, Ray's own among them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from many_images_cases import BATCH, CASES, generate, timed, tiny
from many_images_cluster import cluster
from many_images_throughput import throughput
from ssgcam import CAM
from ssgcam.allocator import keep_freed_memory
from ssgcam.bulk.segment import segment_images, versions
from ssgcam.files import write_json, write_text
from study import DOCS, command, table

PARTS = ("throughput", "memory", "cluster")


@dataclass(frozen=True)
class Memory:
    """One process."""

    images: int
    peak_mib: float
    seconds: float
    images_per_second: float
    cpu_ms: float


def memory(count: int, folder: Path) -> Memory:
    """Segment ``count`` images of 32 pixels in a process of its own."""
    photos, masks = folder / f"photos-{count}", folder / f"masks-{count}"
    generate(photos, count, (32, 32), "png")
    words = [sys.executable, __file__, "--child", str(photos), str(masks)]
    found = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    done = sum(1 for _ in masks.rglob("*.png"))
    if done != count:
        raise SystemExit(f"{done} of {count} masks are there")
    return Memory(
        images=count,
        peak_mib=round(found["peak"] / 1024, 1),
        seconds=round(found["clock"], 1),
        images_per_second=round(count / found["clock"], 1),
        cpu_ms=round(1000 * found["cpu"] / count, 3),
    )


def child(photos: Path, masks: Path) -> None:
    """What the process does whose memory is measured."""
    keep_freed_memory()  # as the command does
    model = tiny()
    clock, cpu = timed(
        lambda: segment_images(photos, model, masks, cam=CAM(model, ["3"]), classes=[0], gate=0.0,
                               batch_size=64)
    )  # fmt: skip
    # the peak of this process alone: that of getrusage begins with its parent's
    status = Path("/proc/self/status").read_text().split()
    peak = int(status[status.index("VmHWM:") + 1])
    print(json.dumps({"clock": clock, "cpu": cpu, "peak": peak}))


def fitted(rows: list[dict[str, Any]]) -> list[list[str]]:
    """For each engine, a fixed cost and a cost for each image, by least squares."""
    lines = []
    for engine in dict.fromkeys(row["engine"] for row in rows if row["images"]):
        same = [row for row in rows if row["engine"] == engine]
        counts = [row["images"] for row in same]
        each, fixed = np.polyfit(counts, [row["cpu_seconds"] for row in same], 1)
        lines.append([engine, f"{fixed:.1f}", f"{1000 * each:.2f}"])
    return lines


def markdown(content: dict[str, Any]) -> str:
    """A table for each part."""
    first = table(
        ["network, input, threads", "photos", "images/s: bare, bare with memory kept, `segment`",
         "`segment` to bare (range)", "to bare with memory kept (range)",
         "processor time, ms: bare, with memory kept, `segment`"],
        [
            [f"{row['network']}, {row['input']} px, {row['threads']}", row["photo"],
             ", ".join(f"{count:.1f}" for count in row["per_second"].values()),
             *(f"{middle:.2f} ({low:.2f} to {high:.2f})" for low, middle, high in
               (row["ratio"], row["ratio_kept"])),
             ", ".join(f"{time:.2f}" for time in row["cpu_ms"].values())]
            for row in content.get("throughput", [])
        ],
    )  # fmt: skip
    second = table(
        ["images", "peak memory, MiB", "images/s", "processor time, ms an image"],
        [
            [f"{row['images']:,}", f"{row['peak_mib']:.0f}", f"{row['images_per_second']:.0f}",
             f"{row['cpu_ms']:.2f}"]
            for row in content.get("memory", [])
        ],
    )  # fmt: skip
    rows = content.get("cluster", [])
    third = table(
        ["engine, actors", "network, input", "images", "seconds by the clock", "processor seconds"],
        [
            [row["engine"], f"{row['network']}, {row['input']} px" if row["images"] else "",
             f"{row['images']:,}", f"{row['seconds']:g}", f"{row['cpu_seconds']:g}"]
            for row in rows
        ],
    )  # fmt: skip
    fourth = table(
        ["engine, actors", "fixed, processor seconds", "an image, processor ms"], fitted(rows)
    )
    return "\n".join([first, second, third, fourth])


def main() -> None:
    """Run it and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="fewer images, one network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, os.cpu_count() or 1])
    parser.add_argument("--counts", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--cluster-counts", type=int, nargs="*", default=[200, 1_000, 4_000])
    parser.add_argument("--cluster-case", type=int, default=2, help="which of CASES")
    parser.add_argument("--folder", type=Path, help="where the images go; a temporary one if unset")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    quick: bool = options.quick
    rounds = 2 if quick else options.rounds
    found: dict[str, list[Any]] = {part: [] for part in options.parts}

    def add(part: str, row: Any) -> None:
        found[part].append(asdict(row))
        print(json.dumps(found[part][-1]), flush=True)

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for index, case in enumerate(CASES[:1] if quick else CASES):
            for threads in options.threads if "throughput" in found else ():
                images = 20 * BATCH if quick else case.images
                add("throughput", throughput(index, images, threads, rounds, folder))
        for count in ([200, 2_000] if quick else options.counts) if "memory" in found else ():
            add("memory", memory(count, folder))
        if "cluster" in found:
            counts = [64, 128] if quick else options.cluster_counts
            for row in cluster(CASES[options.cluster_case], counts, rounds, folder):
                add("cluster", row)
    results = options.out / "many_images.json"
    before = json.loads(results.read_text()) if results.exists() else {}
    how = {"command": command(), "versions": versions(), "processors": os.cpu_count()}
    content = {**before, **found, "made": {**before.get("made", {}), **dict.fromkeys(found, how)}}
    write_json(results, content)
    write_text(results.with_suffix(".md"), markdown(content))


if __name__ == "__main__":
    main()
