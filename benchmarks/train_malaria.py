"""Train one network of one fold on the windows of ``malaria_iml``, from infected/healthy labels.

    python benchmarks/train_malaria.py --data DATA --network resnet34 --fold 0

Writes ``runs/malaria_<network>_fold<k>.pth``, which ``--model`` takes, and a ``.json`` beside it
with the test windows' confusion matrix and recalls. Run again with ``--resume`` after a kill.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from malaria_samples import FixedWindows, MovingWindows
from malaria_windows import WindowSet
from ssgcam.files import write_json
from ssgcam.models import save_model
from ssgcam.training import TrainingSettings, evaluate, predict, train_classifier

#: Peak learning rates: VGG's wide head needs a low one.
LEARNING_RATES = {"vgg16_bn": 2e-4, "vgg16": 1e-4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds malaria_iml")
    parser.add_argument("--network", default="resnet34")
    parser.add_argument("--fold", type=int, default=0, choices=range(3))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=112, help="side of the input in pixels")
    parser.add_argument("--windows", type=int, default=1920, help="training windows an epoch")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a minute, into OUT/quick")
    arguments = parser.parse_args()
    settings = TrainingSettings(
        model=arguments.network,
        size=arguments.size,
        epochs=1 if arguments.quick else arguments.epochs,
        samples_per_epoch=256 if arguments.quick else arguments.windows,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate or LEARNING_RATES.get(arguments.network, 1e-3),
        patience=arguments.epochs,
        seed=arguments.fold,
    )
    name = f"malaria_{arguments.network}_fold{arguments.fold}"
    out: Path = arguments.out / "quick" if arguments.quick else arguments.out
    checkpoint = out / f"{name}.checkpoint.pth"
    windows = WindowSet.read(arguments.data / "malaria_iml")
    started = time.perf_counter()
    result = train_classifier(
        MovingWindows(windows, arguments.fold),
        settings,
        held_out=FixedWindows(windows, windows.fixed(arguments.fold, "calibration")),
        checkpoint=checkpoint,
        resume=arguments.resume,
    )
    save_model(result.model, out / f"{name}.pth")
    test = FixedWindows(windows, windows.fixed(arguments.fold, "test", healthy=600))
    scores = evaluate(predict(result.model, test), test)
    print(scores)
    write_json(
        out / f"{name}.json",
        {
            "study": "malaria_cells",
            "network": arguments.network,
            "fold": arguments.fold,
            "seconds": round(time.perf_counter() - started),
            "torch": torch.__version__,
            "test": scores.to_json(),
            "training": result.to_json(),
        },
    )
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
