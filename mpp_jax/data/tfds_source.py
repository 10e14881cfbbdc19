"""Prepared TensorFlow Datasets, read without TensorFlow.

TFDS reads ``array_record`` files through ``as_data_source`` with NumPy alone. What must exist is
the *prepared* dataset; builders that need no TensorFlow to generate (and any of one's own) prepare
it so::

    python -c "import tensorflow_datasets as tfds;
               tfds.builder('NAME', file_format='array_record').download_and_prepare()"

Features: ``image`` with ``label`` (single label) or ``labels`` (multi-label). Where there is
``labels_no_difficult`` beside ``labels`` (PASCAL VOC), a class that a picture has only as
"difficult" is *ignored* for that picture.
``objects`` with ``bbox`` and ``label`` (PASCAL VOC again) become the items' boxes; where a picture
has labels and no objects, its boxes are unknown.

Splits: ``test`` is test, and ``train`` and ``validation`` together are training. Where there is no
``test``, or its labels are withheld (-1), ``validation`` is test; where there is neither, a seeded,
stratified part of ``train`` is.

Pictures stay encoded here: the package's own decode rule applies to their bytes. TFDS's own ``voc``
and ``oxford_flowers102`` are read as they are. The sets of `mpp_jax.data.published_tfds` carry the
names and the order that pictures have in their official layout (``id``, ``index``), so that
``tfds:voc2007`` and ``voc:PATH`` are the same set.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mpp_jax.data.content import DecodeError
from mpp_jax.data.dataset import Box, DataError, Dataset, Item, make_dataset, stratified_test_ids
from mpp_jax.data.published import SETS
from mpp_jax.files import expanded

_VERSION = re.compile(r"\d+\.\d+\.\d+|\d+\.\*\.\*")


def open_tfds(
    name: str,
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    to_train: bool = True,
    split_train: str | None = None,
    split_test: str | None = None,
) -> Dataset:
    """Open a prepared dataset; no download, no TensorFlow.

    Args:
        name: ``NAME``, ``NAME:CONFIG``, TFDS's own ``NAME/CONFIG:VERSION``, or the folder of a
            prepared version (the one with ``dataset_info.json``). Names are looked up under the
            environment variable ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
        test_fraction: share of test pictures where the dataset has no test or validation split.
        seed: of that choice.
        to_train: whether it must have a split ``train``; see `mpp_jax.data.open_dataset`.
        split_train: which of the dataset's splits are training, several joined by ``+``. Where only
            one of the two is given, the other is ``train`` or ``test``; None for both: as above.
        split_test: which are test.

    Returns:
        The dataset; ids are ``<tfds split>/<record number>``, or the records' own (``id``).

    Raises:
        DataError: not prepared, another file format, or features that are no classification.
    """
    builder = _builder(name)
    title = builder.info.name + (f"/{builder.builder_config.name}" if _has_config(builder) else "")
    image, label, classes = _features(builder, title)
    multi_label = label == "labels"
    if split_train is not None or split_test is not None:
        chosen_splits = {"train": split_train or "train", "test": split_test or "test"}
        items, said = _chosen(builder, chosen_splits, image, f"tfds:{name}")
        return make_dataset(
            f"{title} ({said})",
            classes,
            items,
            multi_label=multi_label,
            notes=[said],
            to_train=to_train,
        )
    order: dict[str, int] = {}
    parts = {
        split: _items(builder, split, image, title, order)
        for split in ("train", "validation", "test")
        if split in builder.info.splits
    }
    notes: list[str] = []
    if "train" not in parts and (to_train or not parts):
        raise DataError(f"tfds:{name}: no split 'train', only {_names(builder.info.splits)}")
    if any(_withheld(item) for item in parts.get("test", ())):
        del parts["test"]
        notes.append("the labels of split 'test' are withheld, it is not used")
    for split, items in parts.items():
        if any(_withheld(item) for item in items):
            raise DataError(f"tfds:{name}: split {split!r} has pictures without label (-1)")
    train, test = parts.get("train", []), parts.get("test")
    if test is None:
        test = parts.get("validation")
        if test is not None:
            notes.append("no labelled split 'test', 'validation' is test")
    elif "validation" in parts and train:
        train = sorted(train + parts["validation"], key=lambda item: order.get(item.id, 0))
        notes.append("'train' and 'validation' together are training")
    if test is None:
        groups: dict[int, list[str]] = {}
        for item in train:
            # A multi-label picture counts for its first class.
            groups.setdefault(item.labels[0] if item.labels else -1, []).append(item.id)
        chosen = stratified_test_ids(groups, test_fraction, seed)
        test = [item for item in train if item.id in chosen]
        train = [item for item in train if item.id not in chosen]
        notes.append(
            f"{title}: seeded split, {test_fraction:g} of each class for test, seed {seed}"
        )
    items = [replace(item, split="train") for item in train]
    items += [replace(item, split="test") for item in test]
    if ignored := sum(len(item.ignored) for item in items):
        notes.append(f"{ignored:,} times a picture has a class only as 'difficult': ignored for it")
    return make_dataset(
        title, classes, items, multi_label=multi_label, notes=notes, to_train=to_train
    )


def _chosen(builder: Any, splits: dict[str, str], image: str, spec: str) -> tuple[list[Item], str]:
    """Return the items of splits that the user named, and a note.

    Raises:
        DataError: no such split, one for both, or labels that are withheld.
    """
    items: list[Item] = []
    taken: dict[str, str] = {}
    for side, split in splits.items():
        for part in split.split("+"):
            if part not in builder.info.splits:
                raise DataError(
                    f"{spec}: no split {part!r}, only {_names(builder.info.splits)}; choose with "
                    "split_train and split_test"
                )
            if part in taken:
                raise DataError(f"{spec}: split {part!r} is named twice ({taken[part]}, {side})")
            taken[part] = side
            found = _items(builder, part, image, spec, {})
            if any(_withheld(item) for item in found):
                raise DataError(f"{spec}: split {part!r} has pictures without label (-1)")
            items += [replace(item, split=side) for item in found]
    return items, ", ".join(f"{side}: {split}" for side, split in splits.items())


def _has_config(builder: Any) -> bool:
    config = builder.builder_config
    return config is not None and config.name not in ("", "default")


def _names(values: Any) -> str:
    return ", ".join(repr(value) for value in values) or "nothing"


def _builder(name: str) -> Any:
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import read_only_builder
    except ImportError as error:
        raise DataError(
            f"tfds:{name}: needs the package tensorflow-datasets (pip install tensorflow-datasets)"
        ) from error
    folder = expanded(name)
    if not name:
        raise DataError("tfds: no dataset name; write tfds:NAME or tfds:NAME:CONFIG")
    try:
        if (folder / "dataset_info.json").is_file():
            return tfds.builder_from_directory(os.fspath(folder))
        data_dir = os.environ.get("TFDS_DATA_DIR")
        return read_only_builder.builder_from_files(
            _tfds_name(name), **({"data_dir": data_dir} if data_dir else {})
        )
    except tfds.core.DatasetNotFoundError as error:
        where = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        raise DataError(
            f"tfds:{name}: not prepared in {where} (TFDS_DATA_DIR); {_preparation(name)}"
        ) from error
    except Exception as error:  # whatever a damaged or foreign folder makes TFDS raise
        raise DataError(f"tfds:{name}: TFDS cannot open it: {_first_line(error)}") from error


def _tfds_name(name: str) -> str:
    """Turn ``NAME:CONFIG`` into TFDS's ``NAME/CONFIG``; a version behind the colon stays."""
    head, colon, tail = name.partition(":")
    return f"{head}/{tail}" if colon and "/" not in head and not _VERSION.fullmatch(tail) else name


def _preparation(name: str) -> str:
    if name == "clutter":
        return "prepare it with: python -m mpp_jax.data.clutter_tfds"
    if known := [entry.name for entry in SETS.values() if entry.tfds == name]:
        return f"prepare it with: mpp-jax data prepare {known[0]} --archive PATH"
    return (
        'prepare it with: python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{_tfds_name(name)}', file_format='array_record').download_and_prepare()\" "
        "(some builders need TensorFlow for this step)"
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _features(builder: Any, title: str) -> tuple[str, str, Sequence[str]]:
    """Return the names of the image and label features, and the class names."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    available = list(features) if isinstance(features, tfds.features.FeaturesDict) else []
    if "image" in available and isinstance(features["image"], tfds.features.Image):
        if "label" in available and isinstance(features["label"], tfds.features.ClassLabel):
            return "image", "label", _class_names(features["label"])
        inner = getattr(features["labels"], "feature", None) if "labels" in available else None
        if isinstance(inner, tfds.features.ClassLabel):
            return "image", "labels", _class_names(inner)
    raise DataError(
        f"{title}: no picture classification; features 'image' and 'label' or 'labels' are needed, "
        f"it has {_names(available)}"
    )


def _class_names(feature: Any) -> Sequence[str]:
    return [str(name) for name in feature.names]


def _items(builder: Any, split: str, image: str, title: str, order: dict[str, int]) -> list[Item]:
    """Return the pictures of a split; ``order`` is left the places that their records state."""
    import tensorflow_datasets as tfds

    names = _box_names(builder)
    items = []
    try:
        source = builder.as_data_source(split=split, decoders={image: tfds.decode.SkipDecoding()})
        for number in range(len(source)):
            example = source[number]
            own = example.get("id")
            item = _item(
                f"{split}/{number:06d}" if own is None else _text(own),
                example,
                partial(_bytes, source, number, image),
            )
            if names is not None and (
                len(example["objects"]["label"]) or not (item.labels or item.ignored)
            ):
                item = replace(item, boxes=partial(_boxes, source, number, names))
            if "index" in example:
                order[item.id] = int(example["index"])
            items.append(item)
    except NotImplementedError as error:
        kind = builder.info.file_format.value
        raise DataError(
            f"{title}: prepared as {kind}, which only TensorFlow reads; {_preparation(title)}"
        ) from error
    except ImportError as error:
        raise DataError(
            f"{title}: reading array_record files needs a package: {_first_line(error)}"
        ) from error
    except Exception as error:  # damaged record files raise almost anything
        raise DataError(f"{title}: split {split!r} cannot be read: {_first_line(error)}") from error
    return items


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _item(identity: str, example: Any, read: Any) -> Item:
    if "label" in example:
        return Item(identity, (int(example["label"]),), "train", read=read)
    present = {int(value) for value in example["labels"]}
    certain = {int(value) for value in example.get("labels_no_difficult", example["labels"])}
    labels, ignored = tuple(sorted(certain)), tuple(sorted(present - certain))
    return Item(identity, labels, "train", read=read, ignored=ignored)


def _box_names(builder: Any) -> Sequence[str] | None:
    """Return the class names of the boxed objects; None where there are no boxes with classes."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    objects = getattr(features["objects"], "feature", None) if "objects" in features else None
    if not isinstance(objects, tfds.features.FeaturesDict) or not {"bbox", "label"} <= set(objects):
        return None
    bbox, label = objects["bbox"], objects["label"]
    if isinstance(bbox, tfds.features.BBoxFeature) and isinstance(label, tfds.features.ClassLabel):
        return _class_names(label)
    return None


def _boxes(source: Any, number: int, names: Sequence[str]) -> tuple[Box, ...]:
    objects = source[number]["objects"]
    places = [tuple(float(share) for share in box) for box in objects["bbox"]]
    difficult = objects.get("is_difficult", [False] * len(places))
    return tuple(
        Box(names[int(label)], (top, left, bottom, right), bool(hard))
        for label, (top, left, bottom, right), hard in zip(
            objects["label"], places, difficult, strict=True
        )
    )


def _withheld(item: Item) -> bool:
    return any(label < 0 for label in item.labels)


def _bytes(source: Any, number: int, image: str) -> bytes:
    try:
        return bytes(source[number][image])
    except Exception as error:  # damaged record files raise almost anything
        raise DecodeError(f"record {number}", f"cannot be read: {_first_line(error)}") from error
