"""Fine-tune a network of study 1 on window labels of some of the fields of ``malaria_masks``.

    python benchmarks/train_parasites.py --data DATA --weights runs --fold 0

A fold leaves out one field of each laboratory. A window's label says whether it shows any parasite
pixel; outlines are not seen. As many windows of ``malaria_iml``, shrunk to the other laboratories' few
pixels, keep the network from learning thirty parasites by heart. Writes
``runs/parasites/<network>_fold<k>_start<s>_seed<r>.pth`` and a ``.json`` beside it with the recalls on
the windows that cover the fields left out. The weights of the last epoch are kept: nothing is chosen.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import malaria_samples
from malaria_windows import WindowSet
from parasite_fields import FOLDS, CoarseWindows, GridWindows, MovingWindows, fold_of, read_fields
from ssgcam.files import write_json
from ssgcam.models import save_model
from ssgcam.training import TrainingSettings, evaluate, predict, train_classifier

#: Where fine-tuning starts and its peak learning rate; VGG16 on a laptop trains its last stage alone.
TRAIN_FROM = {"resnet34": None, "vgg16_bn": "features.34"}
SIZES = {"resnet34": 112, "vgg16_bn": 80}
LEARNING_RATES = {"resnet34": 3e-4, "vgg16_bn": 1e-4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="holds malaria_masks and malaria_iml"
    )
    parser.add_argument("--weights", type=Path, required=True, help="folder of train_malaria.py")
    parser.add_argument("--network", default="resnet34", choices=sorted(SIZES))
    parser.add_argument("--start", type=int, default=0, help="fold of study 1 to start from")
    parser.add_argument("--seed", type=int, default=0, help="of windows and augmentation")
    parser.add_argument("--fold", type=int, default=0, choices=range(FOLDS))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--windows", type=int, default=960, help="an epoch, half with a parasite")
    parser.add_argument("--whole", action="store_true", help="VGG16: not its last stage alone")
    parser.add_argument("--out", type=Path, default=Path("runs/parasites"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a minute, into OUT/quick")
    options = parser.parse_args()
    fields = read_fields(options.data / "malaria_masks")
    settings = TrainingSettings(
        model=options.network,
        weights=str(options.weights / f"malaria_{options.network}_fold{options.start}.pth"),
        size=SIZES[options.network],
        epochs=1 if options.quick else options.epochs,
        samples_per_epoch=128 if options.quick else options.windows,
        learning_rate=LEARNING_RATES[options.network],
        train_from=None if options.whole else TRAIN_FROM[options.network],
        held_out=0.0,
        patience=options.epochs,
        seed=options.seed,
    )
    name = f"{options.network}_fold{options.fold}_start{options.start}_seed{options.seed}"
    out: Path = options.out / "quick" if options.quick else options.out
    checkpoint = out / f"{name}.checkpoint.pth"
    started = time.perf_counter()
    seen = tuple(field for field in fields.values() if fold_of(field.name) != options.fold)
    unseen = tuple(field for field in fields.values() if fold_of(field.name) == options.fold)
    source = WindowSet.read(options.data / "malaria_iml")
    samples = CoarseWindows(
        MovingWindows(seen), malaria_samples.MovingWindows(source, options.start)
    )
    result = train_classifier(samples, settings, checkpoint=checkpoint, resume=options.resume)
    tested = GridWindows(unseen)
    scores = evaluate(predict(result.model, tested), tested)
    print(scores)
    save_model(result.model, out / f"{name}.pth")
    content = {
        "study": "malaria_parasites",
        "network": options.network,
        "fold": options.fold,
        "start": options.start,
        "seed": options.seed,
        "fields": [field.name for field in unseen],
        "seconds": round(time.perf_counter() - started),
        "torch": torch.__version__,
        "test": scores.to_json(),
        "training": result.to_json(),
    }
    write_json(out / f"{name}.json", content)
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
