"""Held-out windows of ``malaria_iml`` as a folder, for ``ssgcam evaluate`` and ``ssgcam search``.

    python benchmarks/malaria_export.py --data DATA --fold 0 --out WINDOWS
    ssgcam evaluate segmentation WINDOWS --model runs/malaria_resnet34_fold0.pth --class infected \
        --mask-values 255:1,127:255 --out OUT
    ssgcam evaluate localization WINDOWS --kind boxes --edges exclusive \
        --model runs/malaria_resnet34_fold0.pth --out OUT

``masks/``: 255 the ellipse in the box of each infected cell, 127 cells that the experts left undecided.
``boxes.json``: the boxes, cut at the window's edges. ``groups.csv`` names the field of each window,
which the bootstrap resamples.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from malaria_windows import WINDOW, WindowSet
from ssgcam.files import write_json, write_png, write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=0, help="the fold the network was trained for")
    parser.add_argument("--split", default="test", choices=("test", "calibration"))
    parser.add_argument("--healthy", type=int, default=0, help="healthy windows as well")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    windows = WindowSet.read(options.data / "malaria_iml")
    chosen = windows.fixed(options.fold, options.split, healthy=options.healthy)
    lines = ["image,group"]
    boxes = []
    for number, window in enumerate(chosen):
        name = f"{number:04}.png"
        infected, undecided = windows.mask(window, WINDOW), windows.difficult(window, WINDOW)
        mask = np.where(infected, 255, np.where(undecided, 127, 0)).astype(np.uint8)
        write_png(options.out / "images" / name, windows.image(window))
        write_png(options.out / "masks" / name, Image.fromarray(mask))
        lines.append(f"{name},{window.field}")
        label = "infected" if window.label else "healthy"
        boxes.append(
            {
                "image": name,
                "label": label,
                "boxes": windows.boxes(window, WINDOW),
                "group": window.field,
            }
        )
    write_json(options.out / "boxes.json", boxes)
    write_text(options.out / "groups.csv", "\n".join(lines) + "\n")
    print(f"wrote {len(chosen)} windows to {options.out}")


if __name__ == "__main__":
    main()
