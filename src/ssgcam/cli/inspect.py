"""``ssgcam inspect``: which layer and method show what, and can they be believed?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ssgcam.cli import options as shared
from ssgcam.cli import output
from ssgcam.cli.options import argument, grouped, option

EXAMPLE = "ssgcam inspect photos/ --model net.pth --masks masks/ --out card"


@dataclass(frozen=True, kw_only=True)
class CardFiles:
    """The photos, and what is known of them."""

    photos: Path = argument("A folder of photos, or a data set.")
    labels: Path | None = option(None, "A table of the photos' classes (.csv or .json).")
    masks: Path | None = option(None, "A folder of masks with the photos' names.")
    out: Path = option(Path("card"), shared.OUT)
    classes: list[str] | None = option(
        None, shared.CLASS, "--class", shown="the labels', or each photo's top class"
    )


@dataclass(frozen=True, kw_only=True)
class CardOptions:
    """How much is measured; see ``evaluate_card``."""

    panel: ClassVar[str] = "Size"
    methods: str | None = option(None, shared.METHODS, shown="ours and five first-order methods")
    layers: str = option("auto", "Names with commas, or auto: six blocks.")
    limit: int = option(20, "Number of photos, spread evenly over the folder.", "--photos", min=2)
    mosaics: int = option(10, shared.MOSAICS, min=1)
    stages: int = option(4, "Randomization stages.", min=1)
    area: float = option(0.2, "Share of the photo that the blur test blurs.")
    seed: int = option(0, shared.SEED, min=0)


@grouped(model=None)
def inspect(files: CardFiles, network: shared.DescribedNetworkOptions, size: CardOptions) -> None:
    """Write the network card: which layer and method show the object or the class, and which fail?

    Every layer and method is measured on the same photos: class specificity, the sanity check, the
    blur test, and localization where there are masks. OUT gets card.html, which needs no other file,
    card.json and layers.png. The default size takes up to five minutes on two cores.
    """
    from ssgcam.core.methods import METHODS
    from ssgcam.data import read_photos
    from ssgcam.evaluation.card import CARD_METHODS, evaluate_card, write_card
    from ssgcam.evaluation.maps import parse_method
    from ssgcam.evaluation.run import EvaluationSettings

    methods = list(METHODS) if size.methods == "all" else shared.names(size.methods) or CARD_METHODS
    for name in methods:
        parse_method(name)  # a misspelt name fails before the network is loaded
    model = network.load()
    card = evaluate_card(
        model,
        read_photos(files.photos, files.labels, files.masks),
        methods,
        shared.layer_names(size.layers),
        photos=size.limit,
        mosaics=size.mosaics,
        stages=size.stages,
        area=size.area,
        classes=shared.one_class(model, files.classes),
        settings=EvaluationSettings(
            batch_size=network.batch_size,
            device=network.device,
            seed=size.seed,
            progress=output.style.progress,
        ),
    )
    written = write_card(card, files.out)
    for sentence in card.notes:
        output.warn(sentence)
    for sentence in card.recommendation():
        output.say(sentence)
    output.say(f"wrote {', '.join(path.name for path in written)} in {files.out}")
    output.result(out=files.out, files=[path.name for path in written], **card.to_json())
