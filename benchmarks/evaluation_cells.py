r"""Blood cells by the commands of ``ssgcam evaluate``: infected red cells, and white cells.

ResNet34 of fold 0 (``train_malaria.py``, ``train_wbc.py``), which saw image-level labels alone; only
images that the fold tests are scored. Infected cells: a recipe that ``malaria_cells.py`` searched on the
fold's calibration fields takes part, boxes are those of the data set, masks the ellipses in them, and
the class "infected" is explained. White cells: the crop's own type is explained, masks are the experts'.
Background scores of the segmentation are chosen on the fold's calibration images. Each command's files
stay in ``--work``; a step that is done is not done again.

    python benchmarks/evaluation_cells.py --data DATA --weights runs \
        --recipe runs/cells/resnet34_fold0_seed0_150.json [--set malaria]
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from evaluations import restored, rows_of, section
from ssgcam.evaluation.plots import draw_chart
from ssgcam.files import write_png
from study import DOCS, Row, command, write_study

METHODS = (
    "ssg_cam,ssg_cam:gradient,grad_cam,grad_cam_plus_plus,xgrad_cam,hires_cam,layer_cam,"
    "grad_cam_elementwise,shapley_cam,eigen_cam"
)
CHECK = f"--limit 16 --stages 6 --no-fused --methods {METHODS}"
CHARTS = ("localization_iou", "segmentation_iou", "perturbation_blur", "sanity_cascade")
INFECTED = "--class infected --model NETWORK"
BLUR = "--measures blur,drop_increase --limit 40"
MASKS = "--mask-values 255:1,127:255"
WHOLE = "--mask-values 1:1,2:1 --model NETWORK"
#: Set -> title of a step, its command, and the file that it makes.
STEPS = {
    "malaria": [
        ("export", "python malaria_export.py --data DATA --fold 0 --out TEST", "TEST/boxes.json"),
        (
            "export of calibration windows",
            "python malaria_export.py --data DATA --fold 0 --split calibration --healthy 20 "
            "--out CALIBRATION",
            "CALIBRATION/boxes.json",
        ),
        (
            "localization",
            f"ssgcam evaluate localization TEST --kind boxes --edges exclusive {INFECTED} "
            "--recipe RECIPE --examples 0 --out OUT",
            "OUT/localization.json",
        ),
        (
            "segmentation",
            f"ssgcam evaluate segmentation TEST {MASKS} --calibration CALIBRATION {INFECTED} "
            "--recipe RECIPE --examples 0 --out OUT",
            "OUT/segmentation.json",
        ),
        (
            "perturbation",
            f"ssgcam evaluate perturbation TEST {MASKS} {BLUR} {INFECTED} "
            "--recipe RECIPE --examples 0 --out OUT",
            "OUT/perturbation.json",
        ),
        (
            "sanity",
            f"ssgcam evaluate sanity TEST {MASKS} {CHECK} {INFECTED} --out OUT",
            "OUT/sanity.json",
        ),
    ],
    "wbc": [
        ("export", "python wbc_export.py --data DATA --fold 0 --out TEST", "TEST/labels.csv"),
        (
            "export of calibration crops",
            "python wbc_export.py --data DATA --fold 0 --split calibration --out CALIBRATION",
            "CALIBRATION/labels.csv",
        ),
        (
            "localization, whole cell",
            f"ssgcam evaluate localization TEST {WHOLE} --examples 0 --out OUT",
            "OUT/localization.json",
        ),
        (
            "segmentation, whole cell",
            f"ssgcam evaluate segmentation TEST {WHOLE} --calibration CALIBRATION --examples 0 "
            "--out OUT",
            "OUT/segmentation.json",
        ),
        (
            "segmentation, nucleus",
            "ssgcam evaluate segmentation TEST --mask-values 1:0,2:1 --model NETWORK "
            "--calibration CALIBRATION --examples 0 --out NUCLEUS",
            "NUCLEUS/segmentation.json",
        ),
        (
            "perturbation",
            f"ssgcam evaluate perturbation TEST {WHOLE} {BLUR} --examples 0 --out OUT",
            "OUT/perturbation.json",
        ),
        ("sanity", f"ssgcam evaluate sanity TEST {WHOLE} {CHECK} --out OUT", "OUT/sanity.json"),
    ],
}
TITLES = {"malaria": "Infected red cells", "wbc": "White cells"}


def places(options: argparse.Namespace, name: str) -> dict[str, Path | None]:
    """What the names in capitals stand for."""
    work: Path = options.work / name
    return {
        "DATA": options.data,
        "NETWORK": options.weights / f"{name}_resnet34_fold0.pth",
        "TEST": work / "test",
        "CALIBRATION": work / "calibration",
        "RECIPE": options.recipe,
        "OUT": work / "evaluation",
        "NUCLEUS": work / "nucleus",
    }


def run(words: str, product: str, where: dict[str, Path | None], really: bool = True) -> Path:
    """Run a step unless its file is there (or ``really`` is off); return the file."""
    first, *rest = Path(product).parts
    folder = where[first]
    assert folder is not None
    file = folder.joinpath(*rest)
    if really and not file.is_file():
        call = [str(where.get(word, word)) for word in shlex.split(words)]
        if call[0] == "python":
            call[:2] = [sys.executable, str(Path(__file__).parent / call[1])]
        else:
            call[:1] = [sys.executable, "-m", "ssgcam"]
        print(words, flush=True)
        subprocess.run(call, check=True)
    return file


def told(name: str, files: dict[str, Path], out: Path) -> Iterator[tuple[list[Row], str]]:
    """The rows and the section of each evaluation of a set."""
    for title, words, product in STEPS[name]:
        if not words.startswith("ssgcam evaluate"):
            continue
        if not files[title].is_file():
            yield [], f"### {title.capitalize()}\n\n`{words}`: not run yet."
            continue
        found = restored(json.loads(files[title].read_text()))
        found.facts["command"] = words
        parts = [section(title.capitalize(), f"`{words}`", found)]
        for chart in (c for c in found.charts if c.name in CHARTS):
            prefix = "nucleus" if product.startswith("NUCLEUS") else name
            picture = f"evaluation_{prefix}_{chart.name}.png"
            write_png(out / picture, draw_chart(chart))
            parts.append(f"![{chart.title}]({picture})")
        rows = rows_of("evaluation_cells", "ResNet34, fold 0", f"{name}, {title}", found, 0)
        yield rows, "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the networks")
    parser.add_argument("--recipe", type=Path, required=True, help="of malaria_cells.py, fold 0")
    parser.add_argument("--set", default="malaria,wbc", dest="names", help="malaria, wbc or both")
    parser.add_argument("--only", default="", help="run the steps up to this one; no report")
    parser.add_argument("--finished", action="store_true", help="report what is finished so far")
    parser.add_argument("--work", type=Path, default=Path("runs/evaluation_cells"))
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    rows: list[Row] = []
    text = [
        "# Blood cells by the commands of `ssgcam evaluate`",
        f"`{command()}`",
        *(__doc__ or "").split("\n\n")[1:2],
    ]
    for name in options.names.split(","):
        files = {}
        for title, words, product in STEPS[name]:
            files[title] = run(words, product, places(options, name), not options.finished)
            if title == options.only:
                return
        text += [f"## {TITLES[name]}", *(f"    {words}" for _, words, _ in STEPS[name][:2])]
        if name == "malaria":
            recipe = json.loads(options.recipe.read_text())
            layers = ", ".join(layer["name"] for layer in recipe["layers"])
            text.append(f"The recipe: {layers}; threshold {recipe['threshold']:.3f}.")
        for found, part in told(name, files, options.out):
            rows += found
            text.append(part)
    write_study("evaluation_cells", rows, "\n\n".join(text), options.out)


if __name__ == "__main__":
    main()
