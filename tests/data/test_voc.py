"""PASCAL VOC and ILSVRC on tiny trees in exactly their layout."""

import numpy as np
import pytest

from helpers.data_trees import mask_file, photo, refusal, text
from ssgcam.data import IGNORE, read_samples, with_box_masks
from ssgcam.images import read_image


def thing(name, box, difficult=0, extra=""):
    corners = ("xmin", "ymin", "xmax", "ymax")
    inner = "".join(f"<{c}>{v}</{c}>" for c, v in zip(corners, box, strict=True))
    return (
        f"<object><name>{name}</name><pose>Left</pose><truncated>1</truncated>"
        f"<difficult>{difficult}</difficult>{extra}<bndbox>{inner}</bndbox></object>"
    )


def xml(path, *things, size=(20, 10)):
    width, height = size
    inner = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    text(path, f"<annotation><folder>VOC2012</folder>{inner}{''.join(things)}</annotation>\n")


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    void = np.zeros((10, 20), np.uint8)
    void[2:6, 3:9] = 15
    void[2:6, 9] = 255
    for name in ("2007_000033", "2007_000042"):
        photo(root / "JPEGImages" / f"{name}.jpg", mode="L" if name.endswith("42") else "RGB")
        mask_file(root / "SegmentationClass" / f"{name}.png", void, palette=True)
    head = "<part><name>head</name><bndbox><xmin>5</xmin><ymin>3</ymin><xmax>6</xmax><ymax>4</ymax></bndbox></part>"  # noqa: E501
    xml(
        root / "Annotations" / "2007_000033.xml",
        thing("person", (4, 3, 9, 6), extra=head),
        thing("aeroplane", (1, 1, 20, 10)),
        thing("cat", (2, 2, 3, 3), difficult=1),
    )
    xml(
        root / "Annotations" / "2007_000042.xml",
        thing("tvmonitor", (15, 5, 22, 12)),
        thing("dog", ("1.7000001", "1", "5.2", "6")),
    )
    text(root / "ImageSets" / "Segmentation" / "val.txt", "2007_000033\n2007_000042\n")
    text(root / "ImageSets" / "Main" / "train.txt", "2007_000042\n")
    text(root / "ImageSets" / "Main" / "dog_train.txt", "2007_000033 -1\n2007_000042  1\n")
    return root


def test_voc_segmentation(voc):
    for root in (voc, voc.parent, voc.parent.parent):
        found = read_samples(root)
        assert (found.kind, found.root, len(found)) == ("voc", voc, 2)
    assert found.semantic
    assert len(found.class_names) == 20
    first, second = found
    assert first.name == "JPEGImages/2007_000033.jpg"
    assert first.labels == (0, 14)
    assert first.boxes == ((3, 2, 8, 5), (0, 0, 19, 9))  # published: from 1
    assert first.box_labels == (14, 0)
    mask = first.mask.read((20, 10))
    assert np.unique(mask).tolist() == [0, 15, IGNORE]
    assert found.class_names[15 - 1] == "person"
    person, ignored = found.object_mask(first, (20, 10), 14)
    assert (person.sum(), ignored.sum()) == (24, 4)
    assert second.labels == (11, 19)
    assert second.boxes == ((14, 4, 19, 9), (1, 0, 4, 5))
    assert found.clipped == 1
    assert read_image(second.image).mode == "RGB"


def test_voc_boxes(voc):
    found = read_samples(voc, task="boxes", split="train")
    assert [sample.name for sample in found] == ["JPEGImages/2007_000042.jpg"]
    assert found.mask_names == ()
    assert found.samples[0].mask is None
    assert len(read_samples(voc, task="boxes", split="dog_train")) == 2
    assert with_box_masks(found).semantic


def test_voc_refusals(voc):
    message = refusal(read_samples, voc, split="test")
    assert str(voc / "ImageSets" / "Segmentation" / "test.txt") in message
    assert "use one of: val" in message
    assert "'both'" in refusal(read_samples, voc, task="both")
    annotation = voc / "Annotations" / "2007_000042.xml"
    xml(annotation, thing("unicorn", (1, 1, 2, 2)))
    assert "'unicorn'" in refusal(read_samples, voc)
    xml(annotation, thing("cat", (1, 1, 2, "")))
    assert "four corners" in refusal(read_samples, voc)
    xml(annotation, thing("", (1, 1, 2, 2)))
    assert "class ''" in refusal(read_samples, voc)
    xml(annotation, thing("cat", (1, 1, 2, 2)), size=(10, 10))
    assert "10x10" in refusal(read_samples, voc)
    text(annotation, "<annotation>")
    assert "not XML" in refusal(read_samples, voc)
    annotation.unlink()
    assert str(annotation) in refusal(read_samples, voc)
    found = read_samples(voc, missing="skip")
    assert (len(found), found.skipped) == (1, 1)
    bad = mask_file(voc / "SegmentationClass" / "2007_000033.png", np.full((10, 20), 21))
    message = refusal(found.samples[0].mask.read, (20, 10))
    assert "21" in message
    assert str(bad) in message


def test_voc_wrong_root(voc):
    message = refusal(read_samples, voc.parent / "VOC2012" / "JPEGImages", "voc")
    assert str(voc / "JPEGImages" / "JPEGImages") in message
    (voc / "Annotations").rename(voc / "annotations_of_mine")
    assert str(voc / "Annotations") in refusal(read_samples, voc)


@pytest.fixture
def ilsvrc(tmp_path):
    root = tmp_path / "ILSVRC"
    annotations = root / "Annotations" / "CLS-LOC"
    data = root / "Data" / "CLS-LOC"
    text(
        tmp_path / "LOC_synset_mapping.txt",
        "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n",
    )
    photo(data / "val" / "ILSVRC2012_val_00000001.JPEG", mode="CMYK")
    photo(data / "val" / "ILSVRC2012_val_00000002.JPEG", mode="L")
    photo(data / "train" / "n01440764" / "n01440764_18.JPEG")
    xml(annotations / "val" / "ILSVRC2012_val_00000001.xml", thing("n03126707", (0, 0, 20, 9)))
    xml(
        annotations / "val" / "ILSVRC2012_val_00000002.xml",
        thing("n01440764", (1, 2, 3, 4)),
        thing("n01440764", (5, 6, 7, 8)),
    )
    xml(
        annotations / "train" / "n01440764" / "n01440764_18.xml",
        thing("n01440764", (1, 2, 3, 4)),
    )
    lists = root / "ImageSets" / "CLS-LOC"
    text(lists / "val.txt", "ILSVRC2012_val_00000001 1\nILSVRC2012_val_00000002 2\n")
    text(lists / "train_loc.txt", "n01440764/n01440764_18 1\n")
    return root


def test_ilsvrc(ilsvrc):
    for root in (ilsvrc, ilsvrc.parent):
        found = read_samples(root)
        assert (found.kind, found.root) == ("ilsvrc", ilsvrc)
    assert found.class_names == ("tench", "crane", "crane")
    first, second = found
    assert first.name == "Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG"
    assert (first.labels, first.boxes, found.clipped) == ((2,), ((0, 0, 19, 9),), 1)
    assert (second.labels, second.box_labels) == ((0,), (0, 0))
    assert second.boxes == ((1, 2, 3, 4), (5, 6, 7, 8))
    assert read_image(first.image).mode == "RGB"
    train = read_samples(ilsvrc, split="train_loc")
    assert [sample.name for sample in train] == ["Data/CLS-LOC/train/n01440764/n01440764_18.JPEG"]


def test_ilsvrc_refusals(ilsvrc):
    assert "train_loc, val" in refusal(read_samples, ilsvrc, split="test")
    image = ilsvrc / "Data" / "CLS-LOC" / "val" / "ILSVRC2012_val_00000002.JPEG"
    image.unlink()
    assert str(image) in refusal(read_samples, ilsvrc)
    assert read_samples(ilsvrc, missing="skip").skipped == 1
    mapping = ilsvrc.parent / "LOC_synset_mapping.txt"
    text(mapping, "n01440764 tench\n")
    assert "'n03126707'" in refusal(read_samples, ilsvrc)
    mapping.unlink()
    assert "LOC_synset_mapping.txt" in refusal(read_samples, ilsvrc)
    (ilsvrc / "Annotations" / "CLS-LOC").rename(ilsvrc / "Annotations" / "DET")
    assert str(ilsvrc / "Annotations" / "CLS-LOC") in refusal(read_samples, ilsvrc)
