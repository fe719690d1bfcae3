"""ILSVRC 2012 (ImageNet) with its boxes in XML."""

from __future__ import annotations

from pathlib import Path

from ssgcam.data.collect import Collector, Layout, Missing
from ssgcam.data.sample import Sample, SampleSet
from ssgcam.data.text import rows
from ssgcam.data.voc import listed, read_xml
from ssgcam.errors import SsgcamError

LAYOUT = Layout(
    "ilsvrc", "ILSVRC", ("Data/CLS-LOC", "Annotations/CLS-LOC", "ImageSets/CLS-LOC"), ("ILSVRC",)
)


def read_ilsvrc(root: Path, split: str = "val", missing: Missing = "error") -> SampleSet:
    """Read ILSVRC 2012 in the layout of its CLS-LOC archive.

    Class i is the i-th synset of ``LOC_synset_mapping.txt`` (in the root or above it), which is
    sorted, as torchvision's weights expect. Corners are taken as inclusive, counted from 0: the
    published ones reach from 0 to width - 1, and some one pixel further, which is clipped.

    Args:
        root: ``ILSVRC``, which holds ``Data/CLS-LOC``, or the folder that holds it.
        split: ``"val"``, ``"train_loc"`` or another list of ``ImageSets/CLS-LOC``. The images are
            in the folder of the first word of its name (``train``, ``val``).
        missing: ``"error"``, or ``"skip"`` to leave out and count images without file or XML.

    Returns:
        Samples in the list's order; labels are the classes of the boxes.

    Raises:
        SsgcamError: If the root, the list, the mapping, an image or its XML is wrong or missing.
    """
    base = LAYOUT.locate(root)
    source = base / "ImageSets" / "CLS-LOC" / f"{split}.txt"
    folder = split.split("_")[0]
    collector = Collector(base, missing)
    names = _synsets(base)
    index = {synset: number for number, synset in enumerate(names)}
    for name in listed(source):
        image = base / "Data" / "CLS-LOC" / folder / f"{name}.JPEG"
        xml = base / "Annotations" / "CLS-LOC" / folder / f"{name}.xml"
        if not collector.present(image, xml, listed_in=source):
            continue
        annotation = read_xml(xml)
        frame = collector.frame(image, annotation.size, xml)
        unknown = [thing.name for thing in annotation.objects if thing.name not in index]
        if unknown:
            raise SsgcamError(
                f"'{xml}' has the synset '{unknown[0]}', which is not in LOC_synset_mapping.txt; "
                "fetch the mapping of this data set"
            )
        boxes, labels = collector.boxes(
            frame,
            [(thing.corners, index[thing.name]) for thing in annotation.objects],
            "inclusive",
            f"a box in '{xml}'",
        )
        classes = sorted({index[thing.name] for thing in annotation.objects})
        collector.samples.append(
            Sample(collector.name(image), image, tuple(classes), boxes, labels)
        )
    return collector.finish("ilsvrc", tuple(names.values()))


def _synsets(base: Path) -> dict[str, str]:
    """Map each synset, sorted, to its class's name."""
    name = "LOC_synset_mapping.txt"
    path = next(
        (folder / name for folder in (base, base.parent) if (folder / name).is_file()), None
    )
    if path is None:
        raise SsgcamError(
            f"'{base / name}' is missing, which names the classes; put it there or beside '{base}'"
        )
    pairs = sorted((synset, words) for synset, words in rows(path, "synset words"))
    return {synset: words.split(",")[0] for synset, words in pairs}
