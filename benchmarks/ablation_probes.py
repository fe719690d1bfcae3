"""Is it the estimate's noise that makes the true second order worse than the square of the first?

SSG-CAM's default map of one layer of a smooth network (made by ``train_malaria.py``) on infected cells:
with the square of the first order, and with the Hessian's diagonal estimated with more and more probes.

    python benchmarks/ablation_probes.py --data DATA --weights runs
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ablation import cell_batches
from ssgcam import CAM, load_model
from ssgcam.core.methods import ssg_cam
from ssgcam.core.settings import TargetSettings
from ssgcam.metrics import bootstrap_interval, pixel_average_precision, score_histograms
from study import DOCS, Row, command, row, table, with_interval, write_study


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder of train_malaria.py")
    parser.add_argument("--network", default="efficientnet_b0")
    parser.add_argument("--layer", default="features.3")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--probes", type=int, nargs="*", default=[16, 64, 256])
    parser.add_argument("--quick", action="store_true", help="two images, for a smoke test")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    count = 2 if options.quick else options.images
    model = load_model(str(options.weights / f"malaria_{options.network}_fold0.pth"))
    tested = (batch for batch in cell_batches(options.data, model, 0) if not batch[3][0])
    images, labels, masks, _, groups = next(tested)
    images, labels, masks = images[:count], labels[:count], masks[:count]
    kinds = {"square of the first order": TargetSettings()} | {
        f"Hessian's diagonal, {probes} probes": TargetSettings(second="hutchinson", probes=probes)
        for probes in options.probes
    }
    rows: list[Row] = []
    lines = []
    for kind, settings in kinds.items():
        signals, _ = CAM(model, [options.layer], score=settings).signals(images, labels)
        signal = signals[options.layer]
        histograms = score_histograms(ssg_cam(signal), masks).double()
        found = bootstrap_interval(
            histograms, pixel_average_precision, seed=0, groups=groups[:count]
        )
        negative = "" if signal.second is None else f"{(signal.second < 0).float().mean():.2f}"
        rows.append(
            row("ablation", options.network, f"SSG-CAM, {kind}", options.layer, "PxAP", found)
        )
        told = with_interval(found)
        lines.append([kind, told, negative])
        print(lines[-1], flush=True)
    header = ["second order", "PxAP", "share of it that is negative"]
    text = [
        "# Ablation: probes of the second order",
        f"`{command()}`",
        (__doc__ or "").split("\n\n")[1],
        f"{options.network}, {options.layer}, {count} images.",
        table(header, lines),
    ]
    write_study("ablation_probes", rows, "\n\n".join(text), options.out)


if __name__ == "__main__":
    main()
