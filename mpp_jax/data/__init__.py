"""Pictures and labels: decoding, sources, batches of canvases."""

from .batches import DEFAULT_BUCKETS, Batch, CanvasBatches, Skipped, canvas_batches
from .dataset import DataError, Dataset, Item, target_matrix
from .decode import DecodeError, decode_picture, picture_size
from .sources import open_dataset

__all__ = [
    "DEFAULT_BUCKETS",
    "Batch",
    "CanvasBatches",
    "DataError",
    "Dataset",
    "DecodeError",
    "Item",
    "Skipped",
    "canvas_batches",
    "decode_picture",
    "open_dataset",
    "picture_size",
    "target_matrix",
]
