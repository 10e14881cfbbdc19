"""NaN and infinity are refused wherever they stand, however many rows there are."""

import jax
import numpy as np
import pytest

from mpp_jax.config import Encoder
from mpp_jax.stats.chunks import data_stats, open_data
from mpp_jax.stats.codebook import fit_codebook
from mpp_jax.stats.gmm import fit_gmm
from mpp_jax.stats.kmeans import fit_kmeans
from mpp_jax.stats.pca import fit_pca

MESSAGE = "x holds NaN or infinity"
BAD = (np.nan, np.inf, -np.inf)


def spoiled(n, row, value, d=4):
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    x[row, d // 2] = value
    return x


@pytest.mark.parametrize("n", [1, 2, 700, 5_000, 100_000])
def test_one_value_anywhere(n):
    for row in {0, n // 2, n - 1}:
        for value in BAD:
            x = spoiled(n, row, value)
            streams = ([x], np.array_split(x, 3)) if n > 2 else ([x],)
            for data in (open_data(x), *(open_data(stream) for stream in streams)):
                with pytest.raises(ValueError, match=MESSAGE):
                    data_stats(data)
            mask = np.arange(n) != row
            if mask.any():
                assert np.isfinite(data_stats(open_data(x, mask)).variance).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes(dtype):
    with pytest.raises(ValueError, match=MESSAGE):
        data_stats(open_data(spoiled(5_000, 1234, np.nan).astype(dtype)))


FITS = {
    "gmm": lambda x: fit_gmm(jax.random.key(0), x, 2),
    "kmeans": lambda x: fit_kmeans(jax.random.key(0), x, 2),
    "eigh": lambda x: fit_pca(x, 2),
    "randomized": lambda x: fit_pca(x, 2, solver="randomized", key=jax.random.key(0)),
    "gram": lambda x: fit_pca(x, 2, solver="gram"),
}


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_fits_refuse_it(fit):
    for x in (spoiled(5_000, 1234, np.nan, d=16), spoiled(5_000, 4999, -np.inf, d=16)):
        for data in (x, [x[:2_000], x[2_000:]]):
            with pytest.raises(ValueError, match=MESSAGE):
                fit(data)


def test_codebooks_and_first_centres_refuse_it():
    x = spoiled(5_000, 1234, np.nan, d=16)
    with pytest.raises(ValueError, match="the descriptors hold NaN or infinity"):
        fit_codebook(jax.random.key(0), x, Encoder(pca=2, components=2))
    with pytest.raises(ValueError, match="init holds NaN"):
        fit_kmeans(jax.random.key(0), np.zeros((9, 2)), 1, init=np.array([[0, np.nan]]))
