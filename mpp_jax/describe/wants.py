"""What is wanted of pictures: sources of descriptors, their scales and crops."""

from typing import NamedTuple

from mpp_jax.config import Pyramid
from mpp_jax.describe.dense import DEFAULT, SIFT, Crops
from mpp_jax.nets import NetSpec


class Wanted(NamedTuple):
    """What is wanted of one source of descriptors.

    Attributes:
        scales: numbers of scales, from 0, rising.
        crops: sets of crops.
    """

    scales: tuple[int, ...]
    crops: tuple[Crops, ...] = ()


Wants = dict[str, Wanted]
"""By source: a layer's name, "default" (the run's own layer) or "sift"."""


def source_layer(spec: NetSpec, source: str, pyramid: Pyramid) -> str:
    """Return the name of the layer that a source of descriptors stands for."""
    chosen = pyramid.layer if source == DEFAULT else None if source == SIFT else source
    return spec.layer(chosen).name
