"""Maps of pictures by a model: their scores are those that the model predicts."""

import numpy as np
import pytest
from helpers import toy
from helpers.toy_run import Finished

from mpp_jax.maps.picture_maps import map_pictures
from mpp_jax.runs.model import load_model, picture_item

pytestmark = pytest.mark.usefixtures("toy_known")


@pytest.mark.parametrize("method", ["mpp", "avg", "mpp+avg"])
def test_scores_are_those_of_predict_to_the_bit(done: Finished, method: str) -> None:
    rng = np.random.default_rng(11)
    sides = rng.integers(30, 90, (12, 2))
    pictures = [toy.picture(rng, toy.COLOURS["green"], *side) for side in sides]
    model = load_model(done.out / "model")
    predicted = model.predict(pictures, method)
    items = [picture_item(i, pixels) for i, pixels in enumerate(pictures)]
    found = list(map_pictures(model, items, method=method, classes=model.classes, on_skip=print))
    scores = np.stack([entry.scores for entry in sorted(found, key=lambda entry: entry.position)])
    np.testing.assert_array_equal(scores, predicted.scores)
