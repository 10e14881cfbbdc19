"""TFDS builders of the published sets that need no TensorFlow, on the parsers of the layouts.

Importing this module registers ``voc2007``, ``mit67``, ``flowers102``, ``caltech101_30`` and
``scene15``. Prepared once, they open as ``tfds:NAME``::

    mpp-jax data prepare voc2007 --archive VOCtrainval_06-Nov-2007.tar --archive VOCtest_...tar

Features: ``id`` (the picture's name in the layout), ``index`` (its place there: training as a
whole first, then test), ``image`` (the file as it is, to the byte) and ``label``. PASCAL VOC has
``labels`` and ``labels_no_difficult`` as TFDS's own ``voc`` has them, and ``objects`` with
``bbox``, ``label`` and ``is_difficult``; without annotations ``objects`` are empty.
"""

import io
import os
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums, downloader
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from mpp_jax.data.archives import Asked
from mpp_jax.data.content import DecodeError, read_picture
from mpp_jax.data.dataset import DataError, Dataset, Item
from mpp_jax.data.official import OPENERS
from mpp_jax.data.published import SETS, VERSION, PublishedFile, PublishedSet, laid_out, published
from mpp_jax.files import exclusive, is_full

MULTI_LABEL: Final = ("voc",)
_RETRIES = 2


class PublishedBuilder(  # type: ignore[call-arg]  # mypy does not see TFDS's base class
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """What the builders share; a subclass names its set.

    Attributes:
        entry: the set.
        opened: what the parser of its layout found, once it is prepared.
    """

    VERSION = tfds.core.Version(VERSION)
    # TFDS finds this with importlib_resources, which it does not require of Python 3.9 and later.
    code_path = Path(__file__)
    entry: PublishedSet

    def __init__(
        self,
        *,
        archives: Sequence[str | os.PathLike[str]] = (),
        say: Callable[[str], object] = lambda line: None,
        **options: Any,
    ) -> None:
        """Build from archives or an unpacked folder; without any, from downloads.

        Args:
            archives: see `mpp_jax.data.published.laid_out`.
            say: is told what is downloaded.
            options: TFDS's.
        """
        self._archives = [Path(path) for path in archives]
        self._say = say
        self.opened: Dataset | None = None
        super().__init__(**options)

    @property
    def url_infos(self) -> dict[str, Any]:
        """What TFDS's download manager checks downloads against, by address."""
        return {
            url: checksums.UrlInfo(file.size, file.sha256, file.name)
            for file in self.entry.files
            if file.sha256
            for url in file.urls
        }

    def _info(self) -> Any:
        features: dict[str, Any] = {
            "id": tfds.features.Text(),
            "index": tfds.features.Scalar(np.int64),
            "image": tfds.features.Image(shape=(None, None, 3)),
        }
        # The names of the classes are set when the layout was read.
        if self.entry.layout in MULTI_LABEL:
            features["objects"] = tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(),
                    "is_difficult": np.bool_,
                }
            )
            for name in ("labels", "labels_no_difficult"):
                features[name] = tfds.features.Sequence(tfds.features.ClassLabel())
        else:
            features["label"] = tfds.features.ClassLabel()
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.entry.title}.\n\n{__doc__}",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # the order of the layout is the order of the records
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        # Within TFDS's own folder of unfinished work, and gone before that becomes the set.
        with tempfile.TemporaryDirectory(prefix="unpacked.", dir=self.data_dir) as folder:
            self._folder = Path(folder)
            super()._download_and_prepare(dl_manager, download_config)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        given = self._archives or self._downloaded(dl_manager)
        unpacked = self._folder / "unpacked"
        unpacked.mkdir()
        root = laid_out(self.entry, given, unpacked)
        layout = _Layout(self.entry, root, given)
        self.opened = layout.open()
        self._name_classes(self.opened.classes)
        parts: dict[str, list[tuple[int, Item]]] = {}
        splits = layout.splits(self.opened)
        for index, item in enumerate(self.opened.items):
            parts.setdefault(splits[item.id], []).append((index, item))
        return {split: self._generate_examples(items) for split, items in parts.items()}

    def _name_classes(self, classes: Sequence[str]) -> None:
        features = self.info.features
        if "label" in features:
            features["label"].names = classes
        else:
            for name in ("labels", "labels_no_difficult"):
                features[name].feature.names = classes
            features["objects"].feature["label"].names = classes

    def _generate_examples(
        self, items: Sequence[tuple[int, Item]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        assert self.opened is not None
        number = {name: label for label, name in enumerate(self.opened.classes)}
        for index, item in items:
            assert item.path is not None
            try:
                content = read_picture(item.path)
            except DecodeError as error:
                raise DataError(f"{item.id}: {error.reason}; get the archive again") from error
            example = {
                "id": item.id.encode("utf-8", "surrogateescape"),
                "index": index,
                "image": io.BytesIO(content),
            }
            if self.opened.multi_label:
                example["labels"] = sorted((*item.labels, *item.ignored))
                example["labels_no_difficult"] = list(item.labels)
                example["objects"] = [
                    {
                        "bbox": tfds.features.BBox(*box.place),
                        "label": number[box.name],
                        "is_difficult": box.difficult,
                    }
                    for box in (item.boxes() if item.boxes is not None else ())
                    if box.name in number
                ]
            else:
                (example["label"],) = item.labels
            yield index, example

    def _downloaded(self, dl_manager: Any) -> list[Path]:
        """Return the set's files, downloaded by TFDS's manager, which checks their digests.

        Raises:
            DataError: a file that no digest is known of, or that no address gives.
        """
        if not self.entry.downloadable:
            lacking = [file for file in self.entry.files if not file.sha256]
            raise DataError(
                f"{self.entry.name}: nobody publishes digests of its files, so they are not "
                f"downloaded; get {', '.join(file.urls[0] for file in lacking)} and give them with "
                "--archive"
            )
        found = []
        for file in self.entry.files:
            # By their own names, which the manager does not keep.
            place = self._folder / file.name
            place.symlink_to(self._fetch(file, dl_manager).absolute())
            found.append(place)
        return found

    def _fetch(self, file: PublishedFile, dl_manager: Any) -> Path:
        failures = []
        for url in file.urls:
            self._say(f"{url}: {file.size or 0:,} bytes, downloaded unless they are there")
            try:
                with _quietly():
                    return Path(dl_manager.download(url))
            except NonMatchingChecksumError:
                failures.append(f"{url}: gave another file, its size or sha256 is wrong")
            except Exception as error:  # requests' and TFDS's own have no common ancestor
                if is_full(error):
                    raise
                failures.append(f"{url}: {_reason(error)}")
        raise DataError(
            f"could not download {file.name} ({'; '.join(failures)}); get it elsewhere and give it "
            "with --archive"
        )


class Voc2007(PublishedBuilder):
    """PASCAL VOC 2007."""

    name = "voc2007"
    entry = SETS["voc2007"]


class Mit67(PublishedBuilder):
    """MIT Indoor 67."""

    name = "mit67"
    entry = SETS["mit67"]


class Flowers102(PublishedBuilder):
    """Oxford Flowers 102."""

    name = "flowers102"
    entry = SETS["flowers102"]


class Caltech101(PublishedBuilder):
    """Caltech 101, 30 of each class for training."""

    name = "caltech101_30"
    entry = SETS["caltech101"]


class Scene15(PublishedBuilder):
    """Scene-15."""

    name = "scene15"
    entry = SETS["scene15"]


_BUILDERS = {cls.entry.name: cls for cls in (Voc2007, Mit67, Flowers102, Caltech101, Scene15)}


class Prepared(NamedTuple):
    """A set that is prepared.

    Attributes:
        folder: of the version.
        opened: what was found in the layout; None where the set was there already.
    """

    folder: Path
    opened: Dataset | None


def prepare(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    archives: Sequence[str | os.PathLike[str]] = (),
    say: Callable[[str], object] = lambda line: None,
) -> Prepared:
    """Write a published set as ``array_record`` files, where ``tfds:NAME`` finds it.

    Args:
        name: one of `mpp_jax.data.published.SETS`.
        data_dir: TFDS folder; None for ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
        archives: archives, loose files, or one folder; none for downloads.
        say: is told what is downloaded.

    Returns:
        Where it is. A set that is there already is left as it is.

    Raises:
        DataError: no such set, a damaged or wrong archive, or one that lacks something.
        BusyError: another process prepares it.
    """
    published(name)
    where = data_dir or os.environ.get("TFDS_DATA_DIR")
    builder = _BUILDERS[name](
        archives=archives, say=say, data_dir=where, file_format="array_record"
    )
    folder = Path(builder.data_dir)
    with exclusive(folder):
        # Google's store of prepared sets has none of these.
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return Prepared(folder, builder.opened)


class _Layout(NamedTuple):
    """A folder in an official layout.

    Attributes:
        entry: the set that it should be.
        root: the folder.
        given: what it was unpacked from, or itself.
    """

    entry: PublishedSet
    root: Path
    given: Sequence[Path]

    def open(self, train: str | None = None, test: str | None = None) -> Dataset:
        """Return what its parser finds in it; the usual splits, or two of them.

        Raises:
            DataError: as the parser has it, of what the user gave.
        """
        try:
            # Two of the splits need not make a set to train on.
            asked = Asked(to_train=train is None, split_train=train, split_test=test)
            return OPENERS[self.entry.layout](self.root, asked)
        except DataError as error:
            said = str(error).replace(f"{self.entry.layout}:{self.root}", self._name)
            files = [file.name for file in self.entry.files]
            lacking = self.root not in self.given and len(self.given) < len(files)
            cure = f" ({self.entry.name} consists of {', '.join(files)}; give all of them)"
            raise DataError(said + cure * lacking) from error

    @property
    def _name(self) -> str:
        """What the user calls it."""
        return ", ".join(map(str, self.given))

    def splits(self, opened: Dataset) -> dict[str, str]:
        """Return the split of the prepared set by the id of the picture.

        Raises:
            DataError: a training picture is in none of the splits that training consists of.
        """
        found = {item.id: item.split for item in opened.items}
        if parts := self.entry.splits:
            halves = self.open(parts["train"], parts["validation"])
            second = {item.id for item in halves.split("test")}
            known = {item.id for item in halves.items}
            lost = [item.id for item in opened.split("train") if item.id not in known]
            if lost:
                raise DataError(
                    f"{self._name}: {len(lost)} training picture(s) are neither in "
                    f"{parts['train']} nor in {parts['validation']}; first {lost[0]!r}"
                )
            found |= dict.fromkeys(second, "validation")
        return found


@contextmanager
def _quietly() -> Iterator[None]:
    """Let TFDS give an address up after seconds, not minutes, without a warning for each try."""
    log = getLogger("urllib3.connectionpool")
    level, retries = log.level, downloader.MAX_RETRIES
    log.setLevel(ERROR)
    downloader.MAX_RETRIES = _RETRIES
    try:
        yield
    finally:
        log.setLevel(level)
        downloader.MAX_RETRIES = retries


def _reason(error: Exception) -> str:
    return textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
