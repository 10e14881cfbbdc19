"""Where pictures and labels come from: class folders, list files, TFDS.

Every source ends as a `mpp_jax.data.dataset.Dataset`: class names, and items in a fixed
order, training pictures first (class folders: by id; lists: by row; TFDS: by record). Nothing is
decoded here.
"""

import os
from dataclasses import replace

from mpp_jax.data.dataset import DataError, Dataset, limited_items
from mpp_jax.data.folders import open_folder
from mpp_jax.data.lists import open_list
from mpp_jax.files import expanded


def open_dataset(
    spec: str | os.PathLike[str],
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    limit_per_class: int | None = None,
    to_train: bool = True,
) -> Dataset:
    """Open a data specification.

    * A folder with ``train/<class>/*`` and ``test/<class>/*``.
    * A folder with ``<class>/*``: a seeded, stratified split; every class keeps at least one
      training picture, and gives at least one test picture where it has two.
    * If not ``to_train``: also a folder with ``test`` alone, and one without class folders, whose
      pictures are then all test pictures without labels.
    * A CSV list ``path,label[;label],split`` (`mpp_jax.data.lists`).
    * ``tfds:NAME[:CONFIG]``, prepared data, read without TensorFlow (`mpp_jax.data.tfds_source`).

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

    Returns:
        The dataset.

    Raises:
        DataError: one line: what is wrong and how to mend it.
        ValueError: ``test_fraction`` or ``limit_per_class`` out of range.
    """
    if not 0.0 < test_fraction < 1.0:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {test_fraction}")
    if limit_per_class is not None and limit_per_class < 1:
        raise ValueError(f"limit_per_class must be at least 1, got {limit_per_class}")
    text = os.fspath(spec)
    if text.startswith("tfds:"):
        from mpp_jax.data.tfds_source import open_tfds  # heavy import

        dataset = open_tfds(
            text.removeprefix("tfds:"), test_fraction=test_fraction, seed=seed, to_train=to_train
        )
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
