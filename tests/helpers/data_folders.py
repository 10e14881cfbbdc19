"""Folders that look like data sets; their pictures are empty of sense."""

from pathlib import Path

import pytest

from mpp_jax.data import DataError, open_dataset


def touch(root: Path, *names: str) -> Path:
    """Make files below a folder, which is returned."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def split_folder(root: Path, train: dict[str, int], test: dict[str, int]) -> Path:
    """Make train and test with so many files in each class."""
    for split, classes in (("train", train), ("test", test)):
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            touch(root, *(f"{split}/{name}/{number}.jpg" for number in range(count)))
    return root


def mistake(spec, **options) -> str:
    """Return the one line that opening a data set ends with."""
    with pytest.raises(DataError) as caught:
        open_dataset(spec, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
