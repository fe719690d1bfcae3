"""Published data sets, each on a tiny tree in exactly its layout."""

import json

import numpy as np
import pytest
from PIL import Image

from helpers.data_trees import mask_file, photo, refusal, text
from ssgcam.data import IGNORE, read_samples, rle, with_box_masks
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


# PASCAL VOC


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


def test_voc_boxes_and_difficult_objects(voc):
    found = read_samples(voc, task="boxes", split="train")
    assert [sample.name for sample in found] == ["JPEGImages/2007_000042.jpg"]
    assert found.mask_names == ()
    assert found.samples[0].mask is None
    assert len(read_samples(voc, task="boxes", split="dog_train")) == 2
    assert read_samples(voc, difficult=True).samples[0].labels == (0, 7, 14)
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


# COCO


def coco_json(root, annotations, images=None, name="instances_val2017"):
    images = images or [
        {"id": 9, "file_name": "000000000009.jpg", "width": 20, "height": 10},
        {"id": 7, "file_name": "000000000007.jpg", "width": 20, "height": 10},
    ]
    for image in images:
        photo(root / "val2017" / image["file_name"])
    content = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": 18, "name": "dog", "supercategory": "animal"},
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        ],
    }
    text(root / "annotations" / f"{name}.json", json.dumps(content))


def instance(category, bbox, segmentation, image=9, crowd=0, area=None):
    area = bbox[2] * bbox[3] if area is None else area
    return {
        "id": 1,
        "image_id": image,
        "category_id": category,
        "bbox": bbox,
        "segmentation": segmentation,
        "iscrowd": crowd,
        "area": area,
    }


def square(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def test_coco(tmp_path):
    pytest.importorskip("pycocotools")
    crowd = np.zeros((10, 20), bool)
    crowd[:, 12:] = True
    runs = {"size": [10, 20], "counts": [120, 80]}
    assert np.array_equal(rle.decode(runs), crowd)
    coco_json(
        tmp_path,
        [
            instance(90, [3, 3, 2, 2], square(3, 3, 5, 5)),
            instance(18, [2, 2, 6, 5], square(2, 2, 8, 7)),
            instance(18, [14, 0, 3, 2], square(14, 0, 17, 2)),
            instance(1, [12, 0, 8, 10], runs, crowd=1),
        ],
    )
    found = read_samples(tmp_path)
    assert found.kind == "coco"
    assert found.class_names == found.mask_names == ("person", "dog", "toothbrush")
    first, second = found
    assert first.name == "val2017/000000000009.jpg"
    assert first.labels == (1, 2)
    assert first.boxes == ((3, 3, 4, 4), (2, 2, 7, 6), (14, 0, 16, 1))
    assert first.box_labels == (2, 1, 1)
    expected = np.zeros((10, 20), np.uint8)
    expected[crowd] = IGNORE
    expected[2:7, 2:8] = 2
    expected[3:5, 3:5] = 3  # the smaller object on top
    expected[0:2, 14:17] = 2  # an object on top of a crowd
    assert np.array_equal(first.mask.read((20, 10)), expected)
    assert (second.labels, second.boxes) == ((), ())
    assert not second.mask.read((20, 10)).any()
    assert "20x11" in refusal(first.mask.read, (20, 11))
    assert hash(first)


def test_coco_compressed_rle_and_several_polygons(tmp_path):
    coco = pytest.importorskip("pycocotools.mask")
    blob = np.random.default_rng(1).random((10, 20)) < 0.3
    polygons = [[1.5, 1.2, 8.9, 2.1, 4.3, 8.7], [12.0, 3.0, 18.5, 3.5, 17.0, 9.5, 13.0, 8.0]]
    coco_json(
        tmp_path,
        [
            instance(1, [0, 0, 20, 10], rle.encode(blob)),
            instance(18, [1.5, 1.2, 17.0, 8.3], [[1, 1, 2, 2], *polygons], image=7),
        ],
    )
    first, second = read_samples(tmp_path, split="val2017")
    assert np.array_equal(first.mask.read((20, 10)) == 1, blob)
    theirs = coco.decode(coco.merge(coco.frPyObjects(polygons, 10, 20)))
    assert np.array_equal(second.mask.read((20, 10)), theirs * 2)
    assert second.boxes == ((1, 1, 18, 9),)  # all pixels that 1.5..18.5, 1.2..9.5 touches


def test_coco_boxes_past_the_edge_and_without_segmentation(tmp_path):
    coco_json(tmp_path, [instance(1, [-2.5, 4, 30, 8], [])])
    found = read_samples(tmp_path)
    assert found.samples[0].boxes == ((0, 4, 19, 9),)
    assert found.clipped == 1
    assert found.mask_names == ()
    assert found.samples[0].mask is None


def test_coco_turned_photo(tmp_path):
    image = {"id": 9, "file_name": "a.jpg", "width": 20, "height": 10}
    stored = np.zeros((10, 20), bool)
    stored[1:3, 4:9] = True
    coco_json(tmp_path, [instance(1, [4, 1, 5, 2], rle.encode(stored))], [image])
    photo(tmp_path / "val2017" / "a.jpg", orientation=6)
    sample = read_samples(tmp_path).samples[0]
    size = read_image(sample.image).size
    assert size == (10, 20)
    upright = np.rot90(stored, -1)
    assert np.array_equal(sample.mask.read(size) == 1, upright)
    rows, columns = np.nonzero(upright)
    assert sample.boxes == ((columns.min(), rows.min(), columns.max(), rows.max()),)


def test_coco_splits_and_folders(tmp_path):
    coco_json(tmp_path, [])
    coco_json(tmp_path, [], name="instances_train2017")
    message = refusal(read_samples, tmp_path)
    assert "train2017, val2017" in message
    assert "'test2017'" in refusal(read_samples, tmp_path, split="test2017")
    assert str(tmp_path / "train2017") in refusal(read_samples, tmp_path, split="train2017")
    assert len(read_samples(tmp_path, split="val2017")) == 2
    (tmp_path / "images").mkdir()
    (tmp_path / "val2017").rename(tmp_path / "images" / "val2017")
    assert read_samples(tmp_path, split="val2017").samples[0].name.startswith("images/val2017/")
    (tmp_path / "annotations" / "instances_val2017.json").rename(tmp_path / "mine.json")
    options = {"annotations": "mine.json", "images": "images/val2017"}
    assert len(read_samples(tmp_path, "coco", **options)) == 2


def test_coco_refusals(tmp_path):
    assert "instances_*.json" in refusal(read_samples, tmp_path, "coco")
    coco_json(tmp_path, [instance(5, [1, 1, 2, 2], [])])
    assert "KeyError: 5" in refusal(read_samples, tmp_path)
    coco_json(tmp_path, [instance(1, [1, 1, 2], [], area=1)])
    assert "four numbers x, y, width, height" in refusal(read_samples, tmp_path)
    coco_json(tmp_path, [], [{"id": 1, "file_name": "a.jpg", "width": "wide", "height": 10}])
    assert "not a COCO" in refusal(read_samples, tmp_path)
    coco_json(tmp_path, [])
    missing = tmp_path / "val2017" / "000000000009.jpg"
    missing.unlink()
    assert str(missing) in refusal(read_samples, tmp_path)
    found = read_samples(tmp_path, missing="skip")
    assert (len(found), found.skipped) == (1, 1)
    text(tmp_path / "annotations" / "instances_val2017.json", "[]")
    assert "not a COCO" in refusal(read_samples, tmp_path)


# CUB-200-2011


@pytest.fixture
def cub(tmp_path):
    root = tmp_path / "CUB_200_2011"
    names = [
        "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
        "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0002_1027.jpg",
    ]
    for name in names:
        photo(root / "images" / name, mode="L" if "Laysan" in name else "RGB")
    text(root / "images.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    text(root / "image_class_labels.txt", "1 1\n2 1\n3 2\n")
    text(root / "train_test_split.txt", "1 0\n2 1\n3 0\n")
    text(root / "bounding_boxes.txt", "1 6.0 2.0 10.0 5.0\n2 0.0 0.0 4.0 4.0\n3 12.0 1.0 9.0 9.0\n")
    text(root / "classes.txt", "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
    return root


def test_cub(cub):
    for root in (cub, cub.parent):
        found = read_samples(root)
        assert (found.kind, found.root) == ("cub", cub)
    assert found.class_names == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    first, second = found
    assert first.name == "images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
    assert (first.labels, first.boxes, first.box_labels) == ((0,), ((6, 2, 15, 6),), (0,))
    assert (second.labels, second.boxes) == ((1,), ((12, 1, 19, 9),))
    assert found.clipped == 1
    assert len(read_samples(cub, split="train")) == 1
    assert len(read_samples(cub, split="all")) == 3


@pytest.mark.parametrize("beside", [False, True])
def test_cub_segmentations(cub, beside):
    folder = (cub.parent if beside else cub) / "segmentations"
    votes = np.repeat(np.array([[0, 51, 102, 153, 204, 255, 0, 0, 0, 0]], np.uint8), 2, axis=1)
    votes = np.repeat(votes, 10, axis=0)
    for line in (cub / "images.txt").read_text().splitlines():
        mask_file((folder / line.split()[1]).with_suffix(".png"), votes)
    gray = Image.fromarray(votes)
    path = (folder / line.split()[1]).with_suffix(".png")
    Image.merge("LA", [gray, gray]).save(path)  # a few of the published masks have two channels
    found = read_samples(cub)
    assert found.mask_names == ("object",)
    for sample in found:
        assert np.array_equal(sample.mask.read((20, 10)), votes >= 153)
    path.unlink()
    assert str(path) in refusal(read_samples, cub)
    assert read_samples(cub, missing="skip").skipped == 1


def test_cub_refusals(cub):
    assert "'val'" in refusal(read_samples, cub, split="val")
    text(cub / "bounding_boxes.txt", "1 6.0 2.0 10.0 5.0\n2 0 0 4 4\n3 12.0 one 9.0 9.0\n")
    assert "'one'" in refusal(read_samples, cub)
    text(cub / "bounding_boxes.txt", "1 6.0 2.0 10.0 5.0\n")
    assert "bounding_boxes.txt" in refusal(read_samples, cub)
    text(cub / "bounding_boxes.txt", "1 6.0 2.0\n")
    assert "line 1" in refusal(read_samples, cub)
    (cub / "bounding_boxes.txt").unlink()
    assert str(cub / "bounding_boxes.txt") in refusal(read_samples, cub)


def test_cub_missing_image(cub):
    path = cub / "images" / "002.Laysan_Albatross" / "Laysan_Albatross_0002_1027.jpg"
    path.unlink()
    assert str(path) in refusal(read_samples, cub)
    assert len(read_samples(cub, missing="skip")) == 1


# ILSVRC


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


# WSOL metadata


def wsol(root, dataset, names, labels, localization, sizes=None):
    split = root / "metadata" / dataset / "test"
    text(split / "image_ids.txt", "".join(f"{name}\n" for name in names))
    lines = (f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    text(split / "class_labels.txt", "".join(lines))
    text(split / "localization.txt", "".join(f"{line}\n" for line in localization))
    if sizes:
        lines = (f"{name},{size}\n" for name, size in zip(names, sizes, strict=True))
        text(split / "image_sizes.txt", "".join(lines))
    for name in names:
        photo(root / "dataset" / dataset / name)
    return split


def test_wsol_boxes(tmp_path):
    names = ["val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG"]
    boxes = [f"{names[0]},1,2,19,9", f"{names[1]},4,4,5,5", f"{names[0]},3,3,25,4"]
    split = wsol(tmp_path, "ILSVRC", names, [2, 0], boxes, ["20,10", "20,10"])
    found = read_samples(split)
    assert found.kind == "wsol"
    assert found.class_names == ("0", "1", "2")
    first, second = found
    assert first.name == names[0]
    assert first.image == tmp_path / "dataset" / "ILSVRC" / names[0]
    assert (first.labels, first.box_labels) == ((2,), (2, 2))
    assert first.boxes == ((1, 2, 19, 9), (3, 3, 19, 4))
    assert second.boxes == ((4, 4, 5, 5),)
    assert found.clipped == 1
    assert found.mask_names == ()
    (tmp_path / "dataset").rename(tmp_path / "elsewhere")
    assert "images=FOLDER" in refusal(read_samples, split)
    moved = read_samples(split, images=tmp_path / "elsewhere" / "ILSVRC", class_names=list("abc"))
    assert moved.class_names == ("a", "b", "c")


def test_wsol_masks(tmp_path):
    names = ["test/0bt_c3/a.jpg", "test/0bt_c3/b.jpg"]
    lines = [
        f"{names[0]},test/0bt_c3/a_m1.png,test/0bt_c3/a_ignore.png",
        f"{names[0]},test/0bt_c3/a_m2.png,",
        f"{names[1]},test/0bt_c3/b_m1.png,",
    ]
    split = wsol(tmp_path, "OpenImages", names, [0, 1], lines)
    folder = tmp_path / "dataset" / "OpenImages" / "test" / "0bt_c3"
    one, two, ignore = (np.zeros((10, 20), np.uint8) for _ in range(3))
    one[:, :5] = 255
    two[:, 5:8] = 255
    ignore[:, 7:12] = 255
    mask_file(folder / "a_m1.png", one)
    mask_file(folder / "a_m2.png", two)
    mask_file(folder / "a_ignore.png", ignore)
    mask_file(folder / "b_m1.png", one[::2, ::2])  # of another size than its image
    found = read_samples(split)
    assert found.mask_names == ("object",)
    expected = np.zeros((10, 20), np.uint8)
    expected[:, 7:12] = IGNORE
    expected[:, :8] = 1
    assert np.array_equal(found.samples[0].mask.read((20, 10)), expected)
    assert found.samples[1].mask.read((20, 10)).sum() > 0
    (folder / "b_m1.png").unlink()
    assert "b_m1.png" in refusal(read_samples, split)
    assert read_samples(split, missing="skip").skipped == 1


def test_wsol_refusals(tmp_path):
    split = wsol(tmp_path, "CUB", ["a.jpg", "b.jpg"], [0, 1], ["a.jpg,1,2,3,4"], ["20,10", "30,10"])
    assert "30x10" in refusal(read_samples, split)
    text(split / "localization.txt", "a.jpg,1,2,3\n")
    assert "line 1" in refusal(read_samples, split)
    text(split / "class_labels.txt", "a.jpg,0\n")
    text(split / "localization.txt", "a.jpg,1,2,3,4\n")
    assert "'b.jpg'" in refusal(read_samples, split)
    text(split / "class_labels.txt", "a.jpg,bird\nb.jpg,1\n")
    assert "'bird'" in refusal(read_samples, split)
    (split / "class_labels.txt").unlink()
    assert str(split / "class_labels.txt") in refusal(read_samples, split)
