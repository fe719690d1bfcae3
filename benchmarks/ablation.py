"""Ablation: which form, sigma, exponents and gamma are the defaults, and what loses.

    python benchmarks/ablation.py --data DATA --weights WEIGHTS --work runs

Every second photo chooses, the other half reports; EfficientNet-Lite2 chooses nothing and confirms. The
axes are those of ``imagenet.py``. One setting is changed at a time, from the preset ``discriminate``. For
each axis the page shows the value of every variant on both halves, mean of layers and fused.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from common import DOCS, command, imagenet_network, write_page
from imagenet import PLACES, axes, kept_scores, rows_of, score_table
from ssgcam import SSGSettings
from ssgcam.core.methods import DISCRIMINATE, LOCALIZE
from ssgcam.evaluation import MethodsCompared, MethodSpec

CHOOSING = ("efficientnet_lite0", "squeezenet")
FRESH = "efficientnet_lite2"
BASE = DISCRIMINATE
VARIANTS = {
    "discriminate": BASE,
    "localize": LOCALIZE,
    "taylor form": SSGSettings("taylor", 0.06, 0.3, 0.3),
    "gradient form": SSGSettings("gradient", 0.06, 0.3, 0.3),
    **{f"sigma {sigma}": replace(BASE, sigma=sigma) for sigma in (0.0, 0.03, 0.1)},
    "second exponent 0": replace(BASE, second_exponent=0.0),
    "second exponent 1": replace(BASE, second_exponent=1.0),
    "cancellation 0.5": replace(BASE, cancellation=0.5),
}


def variants() -> tuple[MethodSpec, ...]:
    """All variants, those with another gamma, and two rivals for scale."""
    own = [MethodSpec("ssg_cam", settings, name=name) for name, settings in VARIANTS.items()]
    own.append(MethodSpec("ssg_cam", BASE, gamma=0.5, name="gamma 0.5"))
    return (*own, MethodSpec("hires_cam"), MethodSpec("grad_cam_elementwise"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="SqueezeNet's weights")
    parser.add_argument("--limit", type=int, help="photos for each axis")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="results so far")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    compared = MethodsCompared(variants())
    rows, sections = [], ["# Ablation", f"`{command()}`", (__doc__ or "").split("\n\n")[2]]
    halves = [(network, half) for network in CHOOSING for half in (0, 1)] + [(FRESH, 1)]
    for network, half in halves:
        model = imagenet_network(network, options.weights)
        evaluations = axes(model, options.data, compared, start=half, limit=options.limit)
        found = kept_scores(evaluations, options.work / f"ablation_{network}_{half}", options.limit)
        title = f"{network}, {('choosing', 'reporting')[half]} half"
        rows += rows_of(title, {axis: {**own, "differences": []} for axis, own in found.items()})
        sections.append(f"## {title}")
        for layers in PLACES:
            sections += [f"### {layers}", score_table(found, layers)]
    write_page("ablation", sections, rows, options.out)


if __name__ == "__main__":
    main()
