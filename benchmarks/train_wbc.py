"""Train ResNet34 on the types of white blood cells, without a fold of them, from types alone.

    python benchmarks/train_wbc.py --data DATA --fold 0

Writes ``runs/wbc_resnet34_fold<k>.pth``, which ``--model`` takes, and a ``.json`` beside it with the
confusion matrix and recalls on the crops of the fold. The weights of the last epoch are kept: no crop
is held out to choose an epoch by. Run again with ``--resume`` after a kill.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from ssgcam.files import write_json
from ssgcam.models import save_model
from ssgcam.training import TrainingSettings, evaluate, predict, train_classifier
from wbc_samples import Cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds wbc")
    parser.add_argument("--network", default="resnet34")
    parser.add_argument("--fold", type=int, default=0, choices=range(3))
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--crops", type=int, default=320, help="an epoch, each type equally often")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a minute, into OUT/quick")
    options = parser.parse_args()
    settings = TrainingSettings(
        model=options.network,
        size=112,
        epochs=2 if options.quick else options.epochs,
        samples_per_epoch=options.crops,
        learning_rate=1e-3,
        held_out=0.0,
        seed=options.fold,
        patience=options.epochs,
    )
    cells = Cells.read(options.data / "wbc")
    name = f"wbc_{options.network}_fold{options.fold}"
    out: Path = options.out / "quick" if options.quick else options.out
    checkpoint = out / f"{name}.checkpoint.pth"
    started = time.perf_counter()
    result = train_classifier(
        cells.part(options.fold, tested=False),
        settings,
        checkpoint=checkpoint,
        resume=options.resume,
    )
    tested = cells.part(options.fold, tested=True)
    scores = evaluate(predict(result.model, tested), tested)
    print(scores)
    save_model(result.model, out / f"{name}.pth")
    content = {
        "study": "wbc",
        "network": options.network,
        "fold": options.fold,
        "seconds": round(time.perf_counter() - started),
        "torch": torch.__version__,
        "test": scores.to_json(),
        "training": result.to_json(),
    }
    write_json(out / f"{name}.json", content)
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
