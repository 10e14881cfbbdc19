"""Pictures and labels: decoding, sources, batches of canvases."""

from mpp_jax.data.batches import (
    DEFAULT_BUCKETS,
    Batch,
    CanvasBatches,
    Skipped,
    canvas_batches,
    decodable,
)
from mpp_jax.data.clutter import Clutter, open_clutter
from mpp_jax.data.content import DecodeError
from mpp_jax.data.dataset import Box, DataError, Dataset, Item, target_matrix
from mpp_jax.data.decode import decode_picture
from mpp_jax.data.sources import open_dataset

__all__ = [
    "DEFAULT_BUCKETS",
    "Batch",
    "Box",
    "CanvasBatches",
    "Clutter",
    "DataError",
    "Dataset",
    "DecodeError",
    "Item",
    "Skipped",
    "canvas_batches",
    "decodable",
    "decode_picture",
    "open_clutter",
    "open_dataset",
    "target_matrix",
]
