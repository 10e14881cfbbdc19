"""Archives in their official layouts, small: folders as the tar files unpack."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

VOC = {
    # id: splits, class -> whether each of its objects is difficult
    "000005": (("train", "trainval"), {"cat": [False], "train": [True]}),
    "000007": (("train", "trainval"), {"train": [False, True]}),
    "000009": (("val", "trainval"), {"cat": [True, True]}),
    "000012": (("val", "trainval"), {"cat": [False], "train": [False]}),
    "000016": (("val", "trainval"), {"train": [False]}),
    "000001": (("test",), {"cat": [False]}),
    "000002": (("test",), {"train": [True]}),
    "000003": (("test",), {}),
}
"""A devkit of two classes, one of which is called like a split."""
SPLITS = ("train", "val", "trainval", "test")


def jpeg(
    place: Path, colour: Sequence[int] = (200, 40, 40), mode: str = "RGB", turn: int = 1
) -> None:
    """Write a JPEG of 40 x 24 (height, width) pixels, of a mode, turned by its EXIF entry."""
    place.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((40, 24, 3), colour, np.uint8)
    pixels[:10] = 255 - pixels[:10]
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).convert(mode).save(place, "JPEG", exif=exif, quality=95)


def lines(place: Path, rows: Sequence[str]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("".join(f"{row}\n" for row in rows))


def annotation(name: str, objects: Mapping[str, Sequence[bool]]) -> str:
    """The XML of a picture of 40 x 24 pixels; each object is lower than the one before."""
    held, number = "", 0
    for label, difficult in objects.items():
        for flag in difficult:
            held += (
                f"\t<object>\n\t\t<name>{label}</name>\n\t\t<pose>Left</pose>\n"
                f"\t\t<truncated>1</truncated>\n\t\t<difficult>{int(flag)}</difficult>\n"
                f"\t\t<bndbox>\n\t\t\t<xmin>1</xmin>\n\t\t\t<ymin>{1 + 10 * number}</ymin>\n"
                f"\t\t\t<xmax>12</xmax>\n\t\t\t<ymax>{10 + 10 * number}</ymax>\n\t\t</bndbox>\n"
                "\t\t<part>\n\t\t\t<name>head</name>\n\t\t</part>\n\t</object>\n"
            )
            number += 1
    return (
        f"<annotation>\n\t<folder>VOC2007</folder>\n\t<filename>{name}.jpg</filename>\n"
        "\t<size>\n\t\t<width>24</width>\n\t\t<height>40</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"{held}</annotation>\n"
    )


def write_voc(root: Path, *, lists: bool = True, annotations: bool = True) -> Path:
    """Write VOCdevkit/VOC2007 below a folder; return the year's folder."""
    year = root / "VOCdevkit" / "VOC2007"
    main = year / "ImageSets" / "Main"
    for split in SPLITS:
        chosen = {i: objects for i, (splits, objects) in VOC.items() if split in splits}
        lines(main / f"{split}.txt", sorted(chosen))
        for label in ("cat", "train") if lists else ():
            rows = []
            for name in sorted(chosen):
                flags = chosen[name].get(label)
                state = -1 if flags is None else 0 if all(flags) else 1
                rows.append(f"{name} {state:2d}")
            lines(main / f"{label}_{split}.txt", rows)
    for name, (_, objects) in VOC.items():
        jpeg(year / "JPEGImages" / f"{name}.jpg")
        if annotations:
            place = year / "Annotations" / f"{name}.xml"
            place.parent.mkdir(exist_ok=True)
            place.write_text(annotation(name, objects))
    return year


def write_mit67(root: Path) -> Path:
    """Three classes, two training pictures and one test picture of each."""
    names = [f"{c}/{c[:3]} {n}.jpg" for c in ("bar", "inside_bus", "winecellar") for n in range(3)]
    for name in names:
        jpeg(root / "Images" / name)
    jpeg(root / "Images/bar/unlisted.jpg")
    lines(root / "TrainImages.txt", [n for n in names if not n.endswith("2.jpg")])
    (root / "TestImages.txt").write_bytes(
        "\r\n".join(n for n in names if n.endswith("2.jpg")).encode()
    )
    return root


def write_flowers(root: Path, labels: Sequence[int] = (1, 2, 77, 1, 2, 77, 1, 2, 77)) -> Path:
    """Nine pictures; trnid, valid and tstid hold three each, not in order."""
    for number in range(1, len(labels) + 1):
        jpeg(root / "jpg" / f"image_{number:05d}.jpg")
    save_mat(root / "imagelabels.mat", labels=np.array([labels], np.uint8))
    parts = {"trnid": [7, 8, 9], "valid": [1, 2, 3], "tstid": [6, 4, 5]}
    save_mat(root / "setid.mat", **{k: np.array([v], np.uint16) for k, v in parts.items()})
    return root


def save_mat(place: Path, **arrays: np.ndarray) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(place, arrays, do_compression=True)
