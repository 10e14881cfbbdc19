"""The clutter scenes as a TFDS builder that needs no TensorFlow.

Importing this module registers the builder; prepared once, the set opens as ``tfds:clutter``::

    python -m mpp_jax.data.clutter_tfds [--data-dir DIR] [--train N] [--test N]

Features: ``image`` (PNG, so pictures come back to the bit), ``labels`` (the classes present) and
``objects`` with ``bbox`` (ymin, xmin, ymax, xmax as shares of height and width), ``label`` and
``size`` (see `mpp_jax.data.clutter.SceneObject`). Record ``i`` of a split is scene ``i``.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from mpp_jax.data.clutter import CLASSES, Clutter, scene


class ClutterBuilder(tfds.core.GeneratorBasedBuilder):
    """Scenes of objects at all sizes, with labels and boxes; all of them are generated here."""

    name = "clutter"
    VERSION = tfds.core.Version("1.0.0")
    # TFDS finds this with importlib_resources, which it does not require of Python 3.9 and later.
    code_path = Path(__file__)

    def __init__(self, *, clutter: Clutter | None = None, **options: Any) -> None:
        """Build the given scenes (default: `Clutter()`); other options are TFDS's."""
        self.clutter = clutter or Clutter()
        super().__init__(**options)

    def _info(self) -> Any:
        label = tfds.features.ClassLabel(names=list(CLASSES))
        objects = {
            "bbox": tfds.features.BBoxFeature(),
            "label": label,
            "size": tfds.features.Scalar(np.float32),
        }
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "labels": tfds.features.Sequence(label),
            "objects": tfds.features.Sequence(objects),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # the order of the scenes is the order of the records
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        sizes = {"train": self.clutter.train, "test": self.clutter.test}
        return {split: self._generate_examples(split, size) for split, size in sizes.items()}

    def _generate_examples(self, split: str, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(size):
            picture, objects = scene(self.clutter, split, index)
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "PNG")
            stream.seek(0)
            yield (
                index,
                {
                    "image": stream,
                    "labels": sorted({entry.label for entry in objects}),
                    "objects": [
                        {
                            "bbox": tfds.features.BBox(*entry.box),
                            "label": entry.label,
                            "size": entry.size,
                        }
                        for entry in objects
                    ],
                },
            )


def prepare_clutter(
    data_dir: str | os.PathLike[str] | None = None, clutter: Clutter | None = None
) -> str:
    """Write the set as ``array_record`` files, where ``tfds:clutter`` finds it.

    Args:
        data_dir: TFDS folder; None for ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
        clutter: which scenes; `Clutter()` by default.

    Returns:
        The folder of the prepared version. A set that is there already is left as it is.
    """
    where = data_dir or os.environ.get("TFDS_DATA_DIR")
    builder = ClutterBuilder(clutter=clutter, data_dir=where, file_format="array_record")
    builder.download_and_prepare()
    return os.fspath(builder.data_dir)


@click.command()
@click.option("--data-dir", help="TFDS folder. [default: TFDS_DATA_DIR or ~/tensorflow_datasets]")
@click.option("--train", default=Clutter.train, show_default=True, help="Training scenes.")
@click.option("--test", default=Clutter.test, show_default=True, help="Test scenes.")
@click.option("--seed", default=Clutter.seed, show_default=True, help="Of the scenes.")
def main(data_dir: str | None, train: int, test: int, seed: int) -> None:
    """Prepare the clutter scenes, so that they open as tfds:clutter."""
    try:
        clutter = Clutter(train, test, seed)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"prepared: {prepare_clutter(data_dir, clutter)}")


if __name__ == "__main__":
    main()
