"""What ``bench_device.py`` times: the settings, and one function for each part.

Every part is a list of units, (name, function that returns figures), so that a run that was cut
short goes on with what is left. Seconds are of the wall clock until the results are there; "first"
is the first call, compilation and the search for algorithms included.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import first_and_steady, seconds

from mpp_jax.config import Encoder, Pyramid, Run
from mpp_jax.data import Batch
from mpp_jax.describe.dense import describe, describe_scale
from mpp_jax.describe.planning import picture_flop
from mpp_jax.describe.pyramid import scale_side
from mpp_jax.nets import NetSpec, Network, get_spec, random_network
from mpp_jax.nets.forms import Forms, Mode
from mpp_jax.nets.network import with_forms
from mpp_jax.numerics import power_l2
from mpp_jax.runs.vectors import atoms_of, encode_items, recipes_of
from mpp_jax.stats.codebook import Codebook
from mpp_jax.stats.gmm import fit_gmm
from mpp_jax.stats.mixture import GMM, sample
from mpp_jax.stats.pca import PCA, fit_pca
from mpp_jax.svm import fit_svm, one_vs_rest_targets

Unit = tuple[str, Callable[[], dict[str, Any]]]

# What each mode is to a network: the parameters' dtype and the precision of its products.
COMPUTED: dict[Mode, tuple[Any, str]] = {
    "bfloat16": (jnp.bfloat16, "highest"),
    "tf32": (jnp.float32, "default"),
    "float32": (jnp.float32, "highest"),
}


@dataclass(frozen=True)
class Setting:
    """Sizes of everything that is timed.

    Attributes:
        network: random weights.
        scales: numbers of scales, from 0.
        batch: pictures at once.
        canvas: side that pictures lie on.
        picture: their true height and width.
        batches: of the whole encoding.
        pca: rows, dimensions, and dimensions kept.
        gmm: rows, dimensions, components.
        svm: vectors, dimensions, classes.
        matmul: side of the matrices whose product is the peak.
        repeats: timings whose median counts.
    """

    network: str = "caffenet"
    scales: tuple[int, ...] = tuple(range(7))
    batch: int = 16
    canvas: int = 512
    picture: tuple[int, int] = (375, 500)
    batches: int = 4
    pca: tuple[int, int, int] = (64_000, 4096, 128)
    gmm: tuple[int, int, int] = (256_000, 128, 256)
    svm: tuple[int, int, int] = (5011, 65_536, 20)
    matmul: int = 8192
    repeats: int = 5

    @property
    def spec(self) -> NetSpec:
        """The network's description."""
        return get_spec(self.network)

    def side(self, k: int) -> int:
        """Return the side in pixels of a scale."""
        return scale_side(self.spec.side, k)

    def network_in(self, mode: Mode, forms: Forms | None = None) -> Network:
        """Return the network, computed in a mode as a table says; None: the device's own."""
        return with_forms(_random_network(self.network, mode), forms)

    def canvases(self, seed: int = 0) -> Batch:
        """Return a batch of noise in host memory."""
        rng = np.random.default_rng(seed)
        canvas = np.zeros((self.batch, self.canvas, self.canvas, 3), np.uint8)
        height, width = self.picture
        canvas[:, :height, :width] = rng.integers(0, 256, (self.batch, height, width, 3), np.uint8)
        sizes = np.tile(np.array([self.picture], np.int32), (self.batch, 1))
        return Batch(canvas, sizes, np.arange(self.batch))


QUICK = Setting(
    network="caffenet_mini",
    scales=(0, 1),
    batch=2,
    canvas=256,
    picture=(187, 250),
    batches=1,
    pca=(2000, 128, 16),
    gmm=(4000, 16, 8),
    svm=(200, 512, 4),
    matmul=512,
    repeats=2,
)


@functools.lru_cache(maxsize=1)
def _random_network(name: str, mode: Mode) -> Network:
    dtype, precision = COMPUTED[mode]
    network = random_network(jax.random.key(0), get_spec(name), dtype)
    return replace(network, precision=precision)


def peak_memory() -> int | None:
    """Return the most bytes of the device that this process has used; None where it is not told."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def noise(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Return normal numbers, a million of them again and again: quickly made, nothing compiled."""
    few = np.random.default_rng(0).standard_normal(1_000_003, np.float32)
    return jnp.asarray(np.resize(few, shape), dtype)


def matmul_units(setting: Setting, modes: list[Mode]) -> list[Unit]:
    """Return the peaks: one square matrix product in each mode."""

    def unit(mode: Mode) -> dict[str, Any]:
        dtype, precision = COMPUTED[mode]
        side = setting.matmul
        a = noise((side, side), dtype)
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        first, steady = first_and_steady(lambda: product(a, a), setting.repeats)
        return {"first": first, "seconds": steady, "tflops": 2 * side**3 / steady / 1e12}

    return [(f"matmul/{mode}", functools.partial(unit, mode)) for mode in modes]


def dense_units(setting: Setting, modes: list[Mode]) -> list[Unit]:
    """Return dense extraction from canvases on the device: each scale, and all of them."""
    layer = setting.spec.default_layer

    def unit(mode: Mode, scales: tuple[int, ...]) -> dict[str, Any]:
        network = setting.network_in(mode)
        batch = setting.canvases()
        canvas, sizes = jnp.asarray(batch.canvas), jnp.asarray(batch.sizes)
        if len(scales) == 1:
            run = functools.partial(
                describe_scale, network, canvas, sizes, side=setting.side(scales[0])
            )
        else:
            run = functools.partial(describe, network, canvas, sizes, Pyramid(scales))
        first, steady = first_and_steady(run, setting.repeats)
        flop = sum(picture_flop(setting.spec, layer, setting.side(k)) for k in scales)
        return of_pictures(first, steady, setting.batch, flop)

    each = [(str(setting.side(k)), (k,)) for k in setting.scales]
    if len(setting.scales) > 1:
        each.append(("all", setting.scales))
    return [
        (f"dense/{mode}/{name}", functools.partial(unit, mode, scales))
        for mode in modes
        for name, scales in each
    ]


def of_pictures(first: float, steady: float, count: int, flop: float) -> dict[str, Any]:
    """Return the figures of `count` pictures of `flop` operations each."""
    return {
        "first": first,
        "seconds": steady,
        "ms_a_picture": 1e3 * steady / count,
        "pictures_a_second": count / steady,
        "gflop_a_picture": flop / 1e9,
        "tflops": flop * count / steady / 1e12,
        "peak_memory_bytes": peak_memory(),
    }


def encode_units(setting: Setting, modes: list[Mode]) -> list[Unit]:
    """Return the whole encoding, as commands do it: from uint8 pictures to finished MPP vectors.

    Both are in host memory. There are as many pictures as `Setting.batches` batches hold.
    """
    pyramid = Pyramid(setting.scales, batch=setting.batch)
    config = Run(pyramid, Encoder(setting.pca[2], setting.gmm[2]), pooling=("mpp",))
    layer = setting.spec.layer()

    def unit(mode: Mode) -> dict[str, Any]:
        network = setting.network_in(mode)
        books = dict.fromkeys(recipes_of(config), random_codebook(layer.channels, config.encoder))
        height, width = setting.picture
        pictures: Any = [
            picture[:height, :width]
            for seed in range(setting.batches)
            for picture in setting.canvases(seed).canvas
        ]

        def run() -> list[np.ndarray]:
            parts = encode_items(network, pictures, books, config, atoms_of(config))
            return [vectors["mpp"] for _, vectors in parts]

        first, steady = seconds(run), median(seconds(run) for _ in range(setting.repeats))
        flop = sum(picture_flop(setting.spec, layer.name, setting.side(k)) for k in setting.scales)
        return of_pictures(first, steady, len(pictures), flop)

    return [(f"encode/{mode}", functools.partial(unit, mode)) for mode in modes]


def random_codebook(channels: int, encoder: Encoder) -> Codebook:
    """Return a projection and a mixture of the right sizes."""
    components = np.asarray(noise((encoder.pca, channels))) / channels**0.5
    arrays = (np.zeros(channels), components, np.ones(encoder.pca))
    pca = PCA(*(jnp.asarray(x, jnp.float32) for x in arrays))
    return Codebook(pca, mixture(encoder.pca, encoder.components))


def mixture(dimensions: int, components: int) -> GMM:
    """Return a mixture whose components overlap somewhat."""
    means = 0.35 * np.asarray(noise((components, dimensions)))
    weights = np.full(components, 1 / components)
    arrays = (weights, means, np.ones((components, dimensions)))
    return GMM(*(jnp.asarray(x, jnp.float32) for x in arrays))


def fit_units(setting: Setting) -> list[Unit]:
    """Return the fits, from arrays in host memory as the pipeline has them: twice each."""

    def twice(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        figures: dict[str, Any] = {}

        def fit() -> None:
            figures.update(run())

        first = seconds(fit)
        return {"first": first, "seconds": seconds(fit), **figures}

    def pca() -> dict[str, Any]:
        rows, wide, narrow = setting.pca
        scale = 10 * jnp.arange(1, narrow * 4 + 1) ** -0.6
        keys = jax.random.split(jax.random.key(2), 3)
        basis = jax.random.normal(keys[0], (narrow * 4, wide)) / wide**0.5
        rough = jax.random.normal(keys[1], (rows, narrow * 4)) * scale[None, :]
        x = np.asarray(rough @ basis + 0.05 * jax.random.normal(keys[2], (rows, wide)) + 1)

        def run() -> dict[str, Any]:
            found = jax.block_until_ready(fit_pca(x, narrow))
            return {"explained_variance": float(found.explained_variance.sum())}

        return twice(run)

    def gmm() -> dict[str, Any]:
        rows, dimensions, components = setting.gmm
        drawn = sample(jax.random.key(3), mixture(dimensions, components), rows)
        x = np.asarray(drawn[0])

        def run() -> dict[str, Any]:
            _, info = jax.block_until_ready(fit_gmm(jax.random.key(5), x, components))
            return {"iterations": int(info.iterations), "converged": bool(info.converged)}

        return twice(run)

    def svm() -> dict[str, Any]:
        n, dimensions, classes = setting.svm
        labels = np.arange(n) % classes
        keys = jax.random.split(jax.random.key(4), 2)
        centres = 0.2 * jax.random.normal(keys[0], (classes, dimensions))
        x = jax.random.normal(keys[1], (n, dimensions)) + centres[labels]
        x = np.asarray(power_l2(x))
        targets = one_vs_rest_targets(labels, classes)

        def run() -> dict[str, Any]:
            _, info = fit_svm(x, targets, 10.0, tolerance=1e-3)
            return {
                "iterations": int(info.iterations.max()),
                "largest_relative_gap": float(info.relative_gap.max()),
            }

        return twice(run)

    return [("fits/pca", pca), ("fits/gmm", gmm), ("fits/svm", svm)]
