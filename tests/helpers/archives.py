"""Archives in their official layouts, small: folders as they unpack, and the files themselves."""

import shutil
import tarfile
import zipfile
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


def write_caltech(root: Path) -> Path:
    """Two classes of 32 pictures, and the folder that is no class."""
    folder = root / "101_ObjectCategories"
    for number, name in enumerate(("Faces", "BACKGROUND_Google", "accordion")):
        jpeg(folder / name / "image_0001.jpg", (60 * number, 90, 10))
        for other in range(2, 33):
            place = folder / name / f"image_{other:04d}.jpg"
            shutil.copy(folder / name / "image_0001.jpg", place)
    return root


def write_scene15(root: Path) -> Path:
    """A divided copy: three classes, two training pictures and one test picture of each."""
    for name in ("coast", "forest", "street"):
        for split, numbers in (("train", (1, 2)), ("test", (3,))):
            for number in numbers:
                jpeg(root / split / name / f"image_{number:04d}.jpg", (70 * number, 9, 9), "L")
    return root


def pack(file: Path, root: Path, *names: str) -> Path:
    """Pack what lies below a folder (or these names in it) into a .tar, .tgz or .zip file."""
    found = names or [path.name for path in sorted(root.iterdir())]
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            for name in found:
                for path in (root / name, *sorted((root / name).rglob("*"))):
                    archive.write(path, path.relative_to(root))
        return file
    with tarfile.open(file, "w:gz" if file.suffix in (".tgz", ".gz") else "w") as tar:
        for name in found:
            tar.add(root / name, name)
    return file


def pack_voc(root: Path) -> tuple[Path, Path]:
    """Write the two archives of VOC 2007, of trainval and of test, below a folder."""
    year = write_voc(root / "whole")
    devkit = year.parent.parent
    files = []
    for kept, others in (("trainval", ("test",)), ("test", ("train", "val", "trainval"))):
        names = [name for name, (splits, _) in VOC.items() if kept in splits]
        paths = [year / "JPEGImages" / f"{name}.jpg" for name in names]
        paths += [year / "Annotations" / f"{name}.xml" for name in names]
        lists = sorted((year / "ImageSets" / "Main").iterdir())
        paths += [place for place in lists if place.stem.rpartition("_")[2] not in others]
        file = root / f"{kept}.tar"
        pack(file, devkit, *(path.relative_to(devkit).as_posix() for path in paths))
        files.append(file)
    return files[0], files[1]
