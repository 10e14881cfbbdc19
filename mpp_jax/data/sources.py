"""Where pictures and labels come from: class folders, list files, official layouts, TFDS.

Every source ends as a `mpp_jax.data.dataset.Dataset`: class names, and items in a fixed
order, training pictures first (class folders: by id; lists, also those of official layouts: by
row; TFDS: by record). Nothing is decoded here.
"""

import os
from dataclasses import replace

from mpp_jax.data.archives import Asked
from mpp_jax.data.dataset import DataError, Dataset, limited_items
from mpp_jax.data.folders import open_folder
from mpp_jax.data.lists import open_list
from mpp_jax.data.official import OPENERS
from mpp_jax.files import expanded

_WITH_SPLITS = ("voc", "flowers102", "tfds")
_DRAWN = ("caltech101", "scene15")


def open_dataset(
    spec: str | os.PathLike[str],
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    limit_per_class: int | None = None,
    to_train: bool = True,
    split_train: str | None = None,
    split_test: str | None = None,
    train_per_class: int | None = None,
) -> Dataset:
    """Open a data specification.

    * A folder with ``train/<class>/*`` and ``test/<class>/*``.
    * A folder with ``<class>/*``: a seeded, stratified split; every class keeps at least one
      training picture, and gives at least one test picture where it has two.
    * If not ``to_train``: also a folder with ``test`` alone, and one without class folders, whose
      pictures are then all test pictures without labels.
    * A CSV list ``path,label[;label],split`` (`mpp_jax.data.lists`).
    * ``voc:PATH``, ``flowers102:PATH`` (`mpp_jax.data.voc`, `mpp_jax.data.flowers102`),
      ``mit67:PATH``, ``caltech101:PATH`` and ``scene15:PATH`` (`mpp_jax.data.official`): archives
      as they are published, unpacked, read in place.
    * ``tfds:NAME[:CONFIG]``, prepared data, read without TensorFlow (`mpp_jax.data.tfds_source`);
      ``mpp-jax data prepare`` prepares the archives (`mpp_jax.data.published_tfds`).

    Files of a class folder are found at any depth, also through links (`mpp_jax.data.folders`).
    Hidden files and what operating systems leave behind (``Thumbs.db``, ``.DS_Store``) are ignored.
    Whether a file is a picture shows when it is decoded. A class without any picture is left out
    with a warning, so that one empty folder does not stop a long run; a class that only the test
    pictures have is an error, because no classifier can be trained for it.

    Args:
        spec: as above.
        test_fraction: share of test pictures for sources without a split, in (0, 1).
        seed: of the split and of ``limit_per_class``.
        limit_per_class: keep this many seeded pictures of each class in each split (of a
            multi-label set: every picture that some class keeps).
        to_train: whether a classifier is to be trained on it. False, for sets that are encoded
            with a finished codebook, allows those without training pictures or labels.
        split_train: which of the splits that ``voc:``, ``flowers102:`` and ``tfds:`` data have are
            for training, joined by ``+``; None for the usual ones.
        split_test: which are for the test.
        train_per_class: how many pictures of each class are drawn for training from
            ``caltech101:`` and ``scene15:``; None for 30 and 100.

    Returns:
        The dataset.

    Raises:
        DataError: one line: what is wrong and how to mend it.
        ValueError: ``test_fraction``, ``limit_per_class`` or ``train_per_class`` out of range.
    """
    if not 0.0 < test_fraction < 1.0:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {test_fraction}")
    counts = {"limit_per_class": limit_per_class, "train_per_class": train_per_class}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    text = os.fspath(spec)
    prefix, place = split_spec(text)
    asked = Asked(seed, to_train, split_train, split_test, train_per_class)
    _check_applies(text, prefix, asked)
    if prefix == "tfds":
        from mpp_jax.data.tfds_source import open_tfds  # heavy import

        dataset = open_tfds(
            place,
            test_fraction=test_fraction,
            seed=seed,
            to_train=to_train,
            split_train=split_train,
            split_test=split_test,
        )
    elif prefix:
        if not place:
            raise DataError(f"{text}: no folder; write {prefix}:PATH")
        try:
            dataset = OPENERS[prefix](expanded(place), asked)
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    else:
        path = expanded(text)
        if path.is_dir():
            dataset = open_folder(path, test_fraction, seed, to_train=to_train)
        elif path.is_file():
            dataset = open_list(path, to_train=to_train)
        elif os.path.exists(path):
            raise DataError(f"{text}: neither a folder nor a regular file")
        else:
            raise DataError(f"{text}: no such folder or list file")
    if limit_per_class is not None:
        dataset = replace(dataset, items=limited_items(dataset, limit_per_class, seed))
    return dataset


def split_spec(text: str) -> tuple[str, str]:
    """Return the prefix of a data specification, and what follows it; "" and all where none is."""
    prefix, colon, place = text.partition(":")
    return (prefix, place) if colon and prefix in ("tfds", *OPENERS) else ("", text)


def _check_applies(text: str, prefix: str, asked: Asked) -> None:
    """Raise where something was asked for that the data have not.

    Raises:
        DataError: splits, or numbers of training pictures.
    """
    splits = asked.split_train is not None or asked.split_test is not None
    if splits and prefix not in _WITH_SPLITS:
        raise DataError(
            f"{text}: has no splits to choose from; split_train and split_test are for data of "
            f"{_prefixes(_WITH_SPLITS)}"
        )
    if asked.train_per_class is not None and prefix not in _DRAWN:
        raise DataError(
            f"{text}: its training pictures are not drawn; train_per_class is for data of "
            f"{_prefixes(_DRAWN)}"
        )


def _prefixes(names: tuple[str, ...]) -> str:
    return " and ".join([", ".join(f"{name}:" for name in names[:-1]), f"{names[-1]}:"])
