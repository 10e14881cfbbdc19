"""Mirror images: a picture's vector is the mean of its own and its mirror image's.

The activations of both cost twice the network's time. Their vectors are of unit length, so the
inner products of the means come from those of all pictures, mirrored or not.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from kernels import Kernel
from PIL import Image

from mpp_jax.data import Item, decode_picture
from mpp_jax.files import write_file
from mpp_jax.runs.contents import Contents
from mpp_jax.runs.settings import Job


def with_mirror_images(job: Job, folder: Path) -> Job:
    """Return the job of the training pictures, followed by their mirror images, without a test.

    A codebook is fitted to both.

    Args:
        job: of pictures in files.
        folder: where the mirror images are kept, as PNG files.
    """
    trained = job.data.split("train")
    folder.mkdir(parents=True, exist_ok=True)
    items = (*trained, *(_mirrored(item, folder) for item in trained))
    return replace(job, data=replace(job.data, items=items))


def _mirrored(item: Item, folder: Path) -> Item:
    place = folder / f"{Contents().now(item)}.png"  # by content: never another picture's
    if not place.exists():
        assert item.path is not None
        picture = Image.fromarray(decode_picture(item.path)[:, ::-1])
        write_file(place, partial(picture.save, format="png"))
    return replace(item, id=f"{item.id} mirrored", path=place)


def averaged(kernel: Kernel) -> Kernel:
    """Return the kernel of N means from one of N pictures and their mirror images in this order."""
    count = len(kernel.train) // 2
    total = kernel.train.reshape(2, count, 2, count).sum(axis=(0, 2))
    length = np.sqrt(np.diagonal(total))
    train = (total / length[:, None] / length[None, :]).astype(np.float32)
    return Kernel(train, np.zeros((0, count), np.float32), kernel.dimension)
