"""Infected cells by the commands of ``ssgcam evaluate``.

The ResNet34 of fold 0 (``train_malaria.py`` trained it on infected/healthy windows alone) and the recipe
that ``malaria_cells.py`` searched for it on 40 windows of the fold's calibration fields. Windows of these
fields also choose the background score of every line of the segmentation; everything is scored on the
infected windows of the fold's test fields, which neither training nor search saw. Boxes are those of the
data set, masks the ellipses in them. Each command's files stay in ``--work``; a step that is done is not
done again.

    python benchmarks/evaluation_cells.py --data DATA --model runs/malaria_resnet34_fold0.pth \
        --recipe runs/cells/resnet34_fold0_seed0_150.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from evaluations import restored, rows_of, section
from ssgcam.evaluation.plots import draw_chart
from ssgcam.files import write_png
from study import DOCS, Row, command, write_study

MASKS = "--class infected --mask-values 255:1,127:255"
STEPS = {
    "test": ("python malaria_export.py --data DATA --fold 0 --out TEST", "TEST/boxes.json"),
    "calibration": (
        "python malaria_export.py --data DATA --fold 0 --split calibration --healthy 20 "
        "--out CALIBRATION",
        "CALIBRATION/boxes.json",
    ),
    "localization": (
        "ssgcam evaluate localization TEST --kind boxes --edges exclusive --class infected "
        "--model NETWORK --recipe RECIPE --examples 0 --out OUT",
        "OUT/localization.json",
    ),
    "segmentation": (
        f"ssgcam evaluate segmentation TEST {MASKS} --calibration CALIBRATION --model NETWORK "
        "--recipe RECIPE --examples 0 --out OUT",
        "OUT/segmentation.json",
    ),
    "perturbation": (
        f"ssgcam evaluate perturbation TEST {MASKS} --measures blur,drop_increase "
        "--model NETWORK --recipe RECIPE --examples 0 --out OUT",
        "OUT/perturbation.json",
    ),
    "sanity": (
        f"ssgcam evaluate sanity TEST {MASKS} --limit 24 --stages 8 --no-fused "
        "--methods METHODS --model NETWORK --out OUT",
        "OUT/sanity.json",
    ),
}
CHARTS = ("localization_iou", "segmentation_iou", "perturbation_blur", "sanity_cascade")
METHODS = (
    "ssg_cam,ssg_cam:gradient,grad_cam,grad_cam_plus_plus,xgrad_cam,hires_cam,layer_cam,"
    "grad_cam_elementwise,shapley_cam,eigen_cam"
)


def places(options: argparse.Namespace) -> dict[str, Path]:
    """What the names in capitals stand for."""
    work: Path = options.work
    return {
        "DATA": options.data,
        "NETWORK": options.model,
        "TEST": work / "test",
        "CALIBRATION": work / "calibration",
        "RECIPE": options.recipe,
        "OUT": work / "evaluation",
    }


def run(step: str, where: dict[str, Path]) -> Path:
    """Run a step unless its file is there; return the file."""
    words, product = STEPS[step]
    first, *rest = Path(product).parts
    file = where[first].joinpath(*rest)
    if not file.is_file():
        known = {name: str(path) for name, path in where.items()} | {"METHODS": METHODS}
        call = [known.get(word, word) for word in shlex.split(words)]
        if call[0] == "python":
            call[:2] = [sys.executable, str(Path(__file__).parent / call[1])]
        else:
            call[:1] = [sys.executable, "-m", "ssgcam"]
        print(words, flush=True)
        subprocess.run(call, check=True)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="of train_malaria.py, fold 0")
    parser.add_argument("--recipe", type=Path, required=True, help="of malaria_cells.py, fold 0")
    parser.add_argument("--only", default="", help="run only this step and those before it")
    parser.add_argument("--work", type=Path, default=Path("runs/evaluation_cells"))
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    where = places(options)
    files: dict[str, Path] = {}
    for step in STEPS:
        files[step] = run(step, where)
        if step == options.only:
            return
    rows: list[Row] = []
    sections = []
    for step in ("localization", "segmentation", "perturbation", "sanity"):
        found = restored(json.loads(files[step].read_text()))
        told = STEPS[step][0].replace("METHODS", METHODS)
        found.facts["command"] = told
        rows += rows_of("evaluation_cells", "ResNet34, fold 0", "malaria_iml", found, 0)
        pictures = []
        for chart in (c for c in found.charts if c.name in CHARTS):
            write_png(options.out / f"cells_{chart.name}.png", draw_chart(chart))
            pictures.append(f"![{chart.title}](cells_{chart.name}.png)")
        sections += [section(step.capitalize(), f"`{told}`", found), *pictures]
    recipe = json.loads(options.recipe.read_text())
    layers = ", ".join(f"`{layer['name']}`" for layer in recipe["layers"])
    text = [
        "# Infected cells by the commands",
        f"`{command()}`",
        *(__doc__ or "").split("\n\n")[1:2],
        "    " + "\n    ".join(STEPS[step][0] for step in ("test", "calibration")),
        f"The recipe: {layers}; threshold {recipe['threshold']:.3f}.",
        *sections,
    ]
    write_study("evaluation_cells", rows, "\n\n".join(text), options.out)


if __name__ == "__main__":
    main()
