"""Parasites, zero-shot: what white balance does to every method's single layers, without a search.

The network of study 1 sees the windows of ``malaria_parasites.py`` as they are, and with each field's
empty background brought to the color it has in ``malaria_iml`` (no label is used for that). The
threshold of each contender comes from the other seven fields; intervals resample the eight fields. No
flips, no scales, no PAMR.

    python benchmarks/parasite_stain.py --data DATA --weights runs
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from color import calibrated_cut, mask_counts
from malaria_parasites import examples, window_colors
from parasite_fields import read_fields
from parasite_levels import METRICS, Level
from ssgcam import load_model
from ssgcam.core.blocks import block_layers
from ssgcam.search.baselines import rival_sweeps
from ssgcam.search.scoring import choose_cut
from study import DOCS, command, row, table, with_interval, write_study

COLOR = "Color threshold from the other fields"


def level(data: Path, weights: Path, balance: bool) -> Level:
    """Every contender, leave-one-field-out."""
    fields = read_fields(data / "malaria_masks", balance)
    model = load_model(str(weights / "malaria_resnet34_fold0.pth"))
    known = examples(list(fields.values()), model)
    layers = block_layers(model.network, known.images[:1])
    swept = rival_sweeps(model, known, layers, "pooled", 8)
    colors = window_colors(list(fields.values()), known.size)
    rows = {n: torch.tensor([g == n for g in known.groups]) for n in fields}
    parts = {rival.name: torch.zeros(len(known), 2, 2, dtype=torch.float64) for rival in swept}
    parts[COLOR] = torch.zeros(len(known), 2, 2, dtype=torch.float64)
    for own in rows.values():
        rest, test = (~own).nonzero()[:, 0], own.nonzero()[:, 0]
        for rival, counts in swept.items():
            threshold, _, _ = choose_cut(counts, "pooled", rest, 0.0)
            parts[rival.name][test] = counts.at(threshold, 0.0, test).confusions
        _, masks = calibrated_cut(
            {key: values[rest] for key, values in colors.items()},
            known.masks[rest],
            {key: values[test] for key, values in colors.items()},
        )
        parts[COLOR][test] = mask_counts(masks, known.masks[test]).confusions
    kinds = {
        r.name: "mean" if r.layer is None else "ssg" if r.method == "ssg_cam" else "single"
        for r in swept
    }
    return Level(parts, kinds | {COLOR: "no network"}, list(known.groups))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder of train_malaria.py")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    levels = {
        "as it is": level(options.data, options.weights, False),
        "white-balanced": level(options.data, options.weights, True),
    }
    text = [
        "# Malaria, parasites: white balance",
        f"`{command()}`",
        (__doc__ or "").split("\n\n")[1],
    ]
    rows = []
    for title, each in levels.items():
        for name in each.parts:
            for metric in METRICS:
                found = each.found(name, metric)
                rows.append(
                    row("parasite_stain", "resnet34", f"{name} ({title})", "", metric, found)
                )
        order = sorted(each.parts, key=lambda name: -each.value(name))
        shown = [n for n in order if n in order[:8] or each.kinds[n] in ("mean", "no network")]
        lines = [[n, *(with_interval(each.found(n, metric)) for metric in METRICS)] for n in shown]
        names = list(dict.fromkeys(each.groups))
        by_field = [[n, *(f"{each.value(n, field):.2f}" for field in names)] for n in shown[:4]]
        text += [
            f"## {title.capitalize()}: {len(each.groups)} windows of {len(names)} fields",
            table(["contender", *METRICS], lines),
            table(["foreground IoU", *names], by_field),
        ]
    text.append(
        "The best eight contenders, chosen on these very windows, the naive means and the threshold on "
        "color are shown; all are in [parasite_stain.json](parasite_stain.json)."
    )
    write_study("parasite_stain", rows, "\n\n".join(text), options.out)
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
