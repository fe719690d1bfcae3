"""What ``ssgcam demo`` does: explain each object, search on the others, draw, and write the tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np

from ssgcam import __version__
from ssgcam.cam import DEFAULT_GAMMA
from ssgcam.core.settings import SSGSettings
from ssgcam.demo.explained import explain_object, two_layers
from ssgcam.demo.measure import markdown
from ssgcam.demo.objects import Outlined, outlined_objects
from ssgcam.demo.panels import classes_panel, photo_panel, transfer_panel
from ssgcam.demo.transfer import leave_one_out
from ssgcam.files import write_json, write_png, write_text
from ssgcam.models import load_model

NETWORK = "efficientnet_lite0"


def run_demo(
    out: Path, objects: Sequence[Outlined] | None = None, say: Callable[[str], None] = print
) -> list[Path]:
    """Write the demo's panels and its tables.

    Args:
        out: The folder to write to.
        objects: What to explain, those of one photo together; all of ``outlines.json`` if None.
        say: Told what is done.

    Returns:
        The files, panels first.

    Raises:
        SsgcamError: If the extra ``demo`` is not installed or the folder can't be written to.
    """
    model = load_model(NETWORK)
    objects = outlined_objects() if objects is None else objects
    layers = two_layers(model, objects[0])
    pictures: list[Path] = []
    measured = []
    for photo, things in groupby(objects, key=lambda thing: thing.photo):
        explained = [explain_object(model, thing, layers) for thing in things]
        stem = Path(photo).stem
        panels = {f"{stem}.png": photo_panel(explained[0], layers)}
        if len(explained) > 1:
            panels[f"{stem}_two_classes.png"] = classes_panel(explained, layers[0])
        for name, picture in panels.items():
            write_png(out / name, picture)
            pictures.append(out / name)
        measured += [drawn.measured for entry in explained for drawn in entry.maps.values()]
        say(f"{photo}: {', '.join(panels)}")
    transfers = []
    if len({thing.photo for thing in objects}) > 2:  # a search wants two photos at least
        transfers = leave_one_out(model, objects, out, say=say)
        write_png(out / "before_after.png", transfer_panel(transfers))
        pictures.append(out / "before_after.png")
    tables = (
        "The share of each map's mass that lies on the object:\n\n"
        f"{markdown(measured, 'mass')}\n"
        "The average precision of its pixels, which does not depend on how peaked a map is:\n\n"
        f"{markdown(measured, 'precision')}"
    )
    if transfers:
        before = np.mean([transfer.before.iou for transfer in transfers])
        after = np.mean([transfer.after.iou for transfer in transfers])
        tables += (
            f"\nMasks by what the other photos taught: mean IoU {before:.3f} by default, {after:.3f} by "
            "a searched recipe. So few photos are far fewer than a search is made for.\n"
        )
    report = {
        "ssgcam": __version__,
        "network": NETWORK,
        "ssg_cam": {**asdict(SSGSettings()), "gamma": DEFAULT_GAMMA},
        "measured": [asdict(entry) for entry in measured],
        "iou": [
            {
                "photo": transfer.thing.photo,
                "object": transfer.thing.name,
                "before": transfer.before.iou,
                "after": transfer.after.iou,
            }
            for transfer in transfers
        ],
    }
    write_json(out / "mass.json", report)
    write_text(out / "mass.md", tables)
    say(f"\n{tables}")
    return [*pictures, out / "mass.json", out / "mass.md"]
