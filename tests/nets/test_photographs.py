"""The decoded networks on photographs: ImageNet's classes against the labels of VOC pictures.

What a network's weights mean (channel order, mean, layout, padding, batch normalisation) no parity
between two of our own readings tells: only pictures do.
"""

import jax
import numpy as np
import pytest
from PIL import Image

from mpp_jax.metrics import average_precision
from mpp_jax.weights.load import load_network

# Numbers of ImageNet's classes (ILSVRC 2012).
CLASSES = {
    "cat": range(281, 286),  # tabby, tiger cat, Persian, Siamese, Egyptian
    "bus": (654, 779, 874),  # minibus, school bus, trolleybus
    "train": (466, 547, 565, 705, 820, 829),  # bullet train, locomotives, cars, streetcar
}
EACH = 8
"""Pictures of each class."""
FILES = {
    "squeezenet": "squeezenet/compressed_SqueezeNet.net",
    "squeezenet_v11": "weights/squeezenet_v11.npz",
    "efficientnet_lite0": "weights/efficientnet_lite0.npz",
}
logits = jax.jit(lambda network, x: network.activations(x)[network.spec.layer_names[-1]])


@pytest.fixture(scope="module")
def pictures(shared_dir):
    """Return ids and labels (N, classes) of the first pictures that show one class alone."""
    folder = shared_dir / "data" / "voc2007_part" / "VOC2007"
    marks = {
        name: dict(
            line.split()
            for line in (folder / "ImageSets" / "Main" / f"{name}_test.txt")
            .read_text()
            .splitlines()
        )
        for name in CLASSES
    }
    chosen = []
    for name in CLASSES:
        alone = [
            picture
            for picture, mark in marks[name].items()
            if mark == "1" and sum(marks[other][picture] != "-1" for other in CLASSES) == 1
        ]
        chosen += alone[:EACH]
    labels = np.array([[int(marks[name][picture]) for name in CLASSES] for picture in chosen])
    return folder / "JPEGImages", chosen, labels


def centre_crop(path, side):
    """Return the middle (side, side, 3) of a picture whose shorter side was made 256 pixels."""
    with Image.open(path) as opened:
        whole = opened.convert("RGB")
    factor = 256 / min(whole.size)
    whole = whole.resize([round(n * factor) for n in whole.size], Image.Resampling.BILINEAR)
    left, top = ((n - side) // 2 for n in whole.size)
    return np.asarray(whole.crop((left, top, left + side, top + side)), np.float32)


@pytest.mark.parametrize("name", sorted(FILES))
def test_imagenets_classes_rank_photographs(name, pictures, shared_dir):
    folder, chosen, labels = pictures
    network = load_network(name, shared_dir / "data" / FILES[name])
    scores = []
    for picture in chosen:
        crop = centre_crop(folder / f"{picture}.jpg", network.spec.side)
        z = np.asarray(logits(network, crop[None]), np.float64).ravel()
        p = np.exp(z - z.max())
        scores.append([p[list(numbers)].sum() / p.sum() for numbers in CLASSES.values()])
    found = np.asarray(average_precision(np.array(scores, np.float32), labels, kind="area"))
    print(name, dict(zip(CLASSES, found.round(3), strict=True)), "chance", 1 / len(CLASSES))
    assert found.min() > 0.7
    assert found.mean() > 0.85
