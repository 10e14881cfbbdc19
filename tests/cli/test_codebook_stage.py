"""What is said of a codebook that has seen few pictures for its size."""

import pytest

from mpp_jax.cli.codebook_stage import _few_pictures


@pytest.mark.parametrize(
    ("pictures", "components", "smaller"), [(75, 256, 8), (767, 256, 128), (2, 4, 1)]
)
def test_few_pictures_for_a_codebook(pictures: int, components: int, smaller: int) -> None:
    said = _few_pictures(pictures, components)
    assert said.startswith(f"note: {pictures} training pictures for a codebook of {components} ")
    assert said.endswith(f"--components auto in a new folder, which is {smaller} here")


@pytest.mark.parametrize(("pictures", "components"), [(768, 256), (1500, 256), (3, 1), (2, 1)])
def test_enough_pictures_for_a_codebook(pictures: int, components: int) -> None:
    assert _few_pictures(pictures, components) == ""
