"""Crops of ``wbc`` that a fold tests (or was trained on) as a folder, for ``ssgcam evaluate``.

    python benchmarks/wbc_export.py --data DATA --fold 0 --out CROPS

``masks/``: 1 cytoplasm, 2 nucleus. ``labels.csv``: the type of each cell.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from ssgcam.files import write_png, write_text
from wbc_samples import TYPES, Cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=0, help="the fold the network was trained for")
    parser.add_argument("--split", default="test", choices=("test", "calibration"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    cells = Cells.read(options.data / "wbc")
    chosen = cells.indices(options.fold, tested=True)
    if options.split == "calibration":
        chosen = cells.calibration(options.fold, 40)
    lines = ["image,label"]
    for index in chosen:
        name = f"{cells.photos.groups[index]}.png"
        write_png(options.out / "images" / name, cells.photo(index))
        write_png(options.out / "masks" / name, Image.fromarray(cells.regions(index)))
        lines.append(f"{name},{TYPES[cells.photos.labels[index]]}")
    write_text(options.out / "labels.csv", "\n".join(lines) + "\n")
    print(f"wrote {len(chosen)} crops to {options.out}")


if __name__ == "__main__":
    main()
