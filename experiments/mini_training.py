r"""What `pretrain_mini.py` trains with: the network in training form, its views, and its loss.

In training every convolution is followed by batch normalisation over pictures and positions,

    y = relu(gain (g z + b)),    z = (kernel * x - mean) / sqrt(variance + eps),

with learnt g and b; ``gain`` is a constant that brings the activations below a normalisation layer
(LRN) to the size at which it acts. Afterwards mean and variance are measured once, over many
pictures, and folded into kernel and bias, so that the finished network is a plain one.

The loss (NT-Xent; Chen et al. 2020, "A Simple Framework for Contrastive Learning") asks of a view
which of all others in the batch shows the same recipe: with unit vectors u, v of two views of each
of N recipes, and all 2N - 2 views of other recipes as the wrong answers,

    loss = - mean_i log( exp(u_i . v_i / t) / sum_{w != u_i} exp(u_i . w / t) ).
"""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from mpp_jax.nets import layers as blocks
from mpp_jax.nets import spec as s
from mpp_jax.nets.conv import Formulation, conv2d

EPS = 1e-5
# Of conv1 and conv2, whose LRN divides by (1 + 2e-5 * sum of 5 squares)^0.75: about 2 at this size.
LRN_GAIN = 100.0
# XLA's own convolutions are five times slower backwards on a CPU.
IM2COL = Formulation("im2col")

# How often both views of a pair are cut from the same variant of the recipe.
SAME_PICTURE = {"variants": 0.0, "mixed": 0.5, "crops": 1.0}

Params = dict[str, Any]
Stats = dict[str, tuple[Array, Array]]


# --- the network in training form ---------------------------------------------------------------


def init_params(key: Array, layers: Sequence[s.Layer], channels: int = 3) -> Params:
    """Draw He-normal kernels with g = 1, b = 0, for every convolution among ``layers``."""
    params: Params = {}
    for layer in layers:
        if isinstance(layer, s.Conv):
            key, own = jax.random.split(key)
            shape = s.kernel_shape(layer, channels)
            kernel = jax.random.normal(own, shape) * np.sqrt(2 / np.prod(shape[:-1]))
            params[layer.name] = {
                "kernel": kernel,
                "g": jnp.ones(shape[-1]),
                "b": jnp.zeros(shape[-1]),
            }
            channels = layer.features
    return params


def wavelets(features: int, colour: int, side: int) -> np.ndarray:
    """Return first-layer kernels: Gabor functions that cover orientation, size and phase.

    Args:
        features: how many.
        colour: how many of them weigh colours against each other; the others are grey.
        side: of the kernel, in pixels.

    Returns:
        (side, side, 3, features) float32 with the He deviation. Colour ones are spread evenly, so
        that all groups of the next layer get some.
    """
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    golden = (np.sqrt(5) - 1) / 2
    kernels = np.empty((side, side, 3, features))
    coloured = set(np.linspace(0, features - 1, colour).round().astype(int))
    for i in range(features):
        wave = (4.0, 6.5, 10.0)[i % 3] * (2.0 if i in coloured else 1.0)
        turn, phase = np.pi * (i * golden % 1), 2 * np.pi * (i * golden**2 % 1)
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        width = min(0.45 * wave, side / 3.5)
        bell = np.exp(-0.5 * (np.square(along / width) + np.square(across / (1.4 * width))))
        gabor = bell * np.cos(2 * np.pi * along / wave + phase)
        hue = 2 * np.pi * (i * golden % 1) + 2 * np.pi / 3 * np.arange(3)
        mix = np.cos(hue) if i in coloured else np.ones(3)
        if i not in coloured:
            gabor -= bell * gabor.sum() / bell.sum()  # no answer to even light
        kernels[..., i] = gabor[..., None] * mix
    kernels /= np.sqrt(np.mean(np.square(kernels), axis=(0, 1, 2), keepdims=True))
    return (kernels * np.sqrt(2 / (3 * side * side))).astype(np.float32)


def gains(layers: Sequence[s.Layer]) -> dict[str, float]:
    """Return the constant of every convolution: `LRN_GAIN` below a normalisation layer, else 1."""
    found: dict[str, float] = {}
    last = ""
    for layer in layers:
        if isinstance(layer, s.Conv):
            last = layer.name
            found[last] = 1.0
        elif isinstance(layer, s.LRN):
            found[last] = LRN_GAIN
    return found


def forward(
    params: Params, x: Array, layers: Sequence[s.Layer], stats: Stats | None = None
) -> tuple[Array, Stats]:
    """Run layers in training form.

    Args:
        params: from `init_params`.
        x: (B, H, W, C), preprocessed pictures or an activation.
        layers: convolutions, LRN and pooling.
        stats: mean and variance by convolution; None takes those of the batch.

    Returns:
        The last activation (B, H', W', C'), and the mean and variance that were used.
    """
    used: Stats = {}
    gain = gains(layers)
    for layer in layers:
        match layer:
            case s.Conv():
                p = params[layer.name]
                x = _convolve(x, p["kernel"], layer)
                if stats is None:
                    used[layer.name] = (jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2)))
                else:
                    used[layer.name] = stats[layer.name]
                scale, shift = _affine(p, used[layer.name], gain[layer.name])
                x = jax.nn.relu(x * scale[None, None, None, :] + shift[None, None, None, :])
            case s.LRN():
                x = blocks.lrn(x, layer)
            case s.Pool():
                x = _max_pool(x, layer)
            case _:
                raise TypeError(f"layers: {type(layer).__name__} has no training form")
    return x, used


def _convolve(x: Array, kernel: Array, c: s.Conv) -> Array:
    """Convolve in the form whose gradient is fast on a CPU: slices and matrix products."""
    if c.stride > 1 and c.pad == 0:
        x, kernel = _space_to_depth(x, kernel, c.stride)
        return conv2d(x, kernel, formulation=IM2COL)
    padding = ((c.pad, c.pad),) * 2
    return conv2d(x, kernel, padding=padding, groups=c.groups, formulation=IM2COL)


def _space_to_depth(x: Array, kernel: Array, stride: int) -> tuple[Array, Array]:
    """Return the same convolution with stride 1: blocks of stride^2 pixels become channels."""
    b, height, width, c = x.shape
    k = kernel.shape[0]
    cells = -(-k // stride)
    rows, columns = ((n - k) // stride + cells for n in (height, width))
    more = [max(0, n * stride - size) for n, size in ((rows, height), (columns, width))]
    x = jnp.pad(x, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)))
    x = x[:, : rows * stride, : columns * stride]
    x = x.reshape(b, rows, stride, columns, stride, c).transpose(0, 1, 3, 2, 4, 5)
    wide = jnp.pad(kernel, ((0, cells * stride - k),) * 2 + ((0, 0), (0, 0)))
    wide = wide.reshape(cells, stride, cells, stride, c, -1).transpose(0, 2, 1, 3, 4, 5)
    return x.reshape(b, rows, columns, -1), wide.reshape(cells, cells, stride * stride * c, -1)


def _max_pool(x: Array, layer: s.Pool) -> Array:
    """Pool maxima in floor mode by slices, whose gradient is twice as fast as a window's."""
    for axis in (1, 2):
        last = (x.shape[axis] - layer.window) // layer.stride * layer.stride
        parts = [
            jax.lax.slice_in_dim(x, i, i + last + 1, layer.stride, axis)
            for i in range(layer.window)
        ]
        x = functools.reduce(jnp.maximum, parts)
    return x


def _affine(p: Params, stats: tuple[Array, Array], gain: float) -> tuple[Array, Array]:
    mean, variance = stats
    scale = p["g"] * jax.lax.rsqrt(variance + EPS)
    return gain * scale, gain * (p["b"] - mean * scale)


def fold(params: Params, stats: Stats, layers: Sequence[s.Layer]) -> Params:
    """Return the same network without batch normalisation: ``{layer: {"kernel", "bias"}}``."""
    gain = gains(layers)
    folded = {}
    for name, p in params.items():
        scale, shift = _affine(p, stats[name], gain[name])
        folded[name] = {"kernel": p["kernel"] * scale[None, None, None, :], "bias": shift}
    return folded


def run_folded(folded: Params, x: Array, layers: Sequence[s.Layer]) -> Array:
    """Return the last activation of folded layers, computed as in training."""
    for layer in layers:
        match layer:
            case s.Conv():
                p = folded[layer.name]
                x = jax.nn.relu(_convolve(x, p["kernel"], layer) + p["bias"][None, None, None, :])
            case s.LRN():
                x = blocks.lrn(x, layer)
            case s.Pool():
                x = _max_pool(x, layer)
    return x


def mean_cells(x: Array, cells: int) -> Array:
    """Return means of (B, H, H, C) over (B, cells, cells, C) cells; ``cells`` divides H."""
    b, side, _, c = x.shape
    return jnp.mean(x.reshape(b, cells, side // cells, cells, side // cells, c), axis=(2, 4))


# --- the head and the loss ----------------------------------------------------------------------


def init_head(key: Array, inputs: int, hidden: int = 256, outputs: int = 128) -> Params:
    """Draw two dense layers, of which only training knows."""
    one, two = jax.random.split(key)
    return {
        "one": jax.random.normal(one, (inputs, hidden)) * np.sqrt(2 / inputs),
        "g": jnp.ones(hidden),
        "b": jnp.zeros(hidden),
        "two": jax.random.normal(two, (hidden, outputs)) * np.sqrt(1 / hidden),
    }


def project(head: Params, x: Array) -> Array:
    """Return (B, outputs) of unit length for (B, ...)."""
    h = x.reshape(x.shape[0], -1) @ head["one"]
    h = (h - jnp.mean(h, 0, keepdims=True)) * jax.lax.rsqrt(jnp.var(h, 0, keepdims=True) + EPS)
    h = jax.nn.relu(h * head["g"][None, :] + head["b"][None, :]) @ head["two"]
    return h * jax.lax.rsqrt(jnp.sum(h * h, axis=-1, keepdims=True) + 1e-6)


def contrast(views: Array, temperature: float) -> tuple[Array, Array]:
    """Return NT-Xent of (2N, D) unit vectors, rows i and N + i showing one recipe.

    Returns:
        The loss, and the share of views whose nearest other is the right one.
    """
    n = views.shape[0] // 2
    similarity = views @ views.T / temperature
    similarity = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, similarity)
    right = jnp.concatenate([jnp.arange(n, 2 * n), jnp.arange(n)])
    found = jnp.take_along_axis(similarity, right[:, None], axis=1)[:, 0]
    loss = jnp.mean(jax.nn.logsumexp(similarity, axis=1) - found)
    return loss, jnp.mean(jnp.argmax(similarity, axis=1) == right)


def correlation(x: Array) -> Array:
    """Return the mean squared correlation between different channels of (B, ..., C) activations.

    Fisher vectors profit from channels that differ (the redundancy term of Zbontar et al. 2021,
    "Barlow Twins", taken of the descriptors themselves).
    """
    flat = x.reshape(-1, x.shape[-1])
    n, c = flat.shape
    z = flat - jnp.mean(flat, 0, keepdims=True)
    z = z * jax.lax.rsqrt(jnp.mean(z * z, 0, keepdims=True) + EPS)
    matrix = z.T @ z / n
    return (jnp.sum(matrix * matrix) - jnp.sum(jnp.diag(matrix) ** 2)) / (c * (c - 1))


# --- views --------------------------------------------------------------------------------------


def jitter(key: Array, pictures: Array) -> Array:
    """Change colours, light and contrast of (B, H, W, 3) values 0..255; half become grey."""
    b = pictures.shape[0]
    keys = jax.random.split(key, 6)
    x = pictures.astype(jnp.float32) / 255
    bend = jax.random.uniform(keys[0], (b, 1, 1, 1), minval=-0.8, maxval=0.8)
    x = x + bend * x * (1 - x)  # a tone curve from 0 to 1, much like a gamma
    colour = jnp.eye(3)[None] + 0.2 * jax.random.normal(keys[1], (b, 3, 3))
    weights = jax.random.dirichlet(keys[2], jnp.full(3, 3.0), (b,))
    grey = jnp.broadcast_to(weights[:, :, None], (b, 3, 3))
    mix = jnp.where(jax.random.bernoulli(keys[3], 0.5, (b, 1, 1)), grey, colour)
    x = jnp.einsum("bhwc,bcd->bhwd", x, mix)
    contrast_ = jnp.exp(0.3 * jax.random.normal(keys[4], (b, 1, 1, 1)))
    offset = 0.1 * jax.random.normal(keys[5], (b, 1, 1, 1))
    return 255 * jnp.clip((x - 0.5) * contrast_ + 0.5 + offset, 0, 1)


def cut_view(picture: np.ndarray, rng: np.random.Generator, side: int, least: float) -> np.ndarray:
    """Cut a random part of a picture at a random zoom, maybe mirrored, as a square.

    Args:
        picture: (H, H, 3) uint8.
        rng: chance.
        side: of the result.
        least: smallest share of the picture's area.
    """
    whole = picture.shape[0]
    size = whole * np.sqrt(np.exp(rng.uniform(np.log(least), 0)))
    aspect = np.exp(rng.uniform(-0.25, 0.25))
    width, height = min(whole, size * aspect), min(whole, size / aspect)
    x, y = rng.uniform(0, whole - width), rng.uniform(0, whole - height)
    image = Image.fromarray(picture)
    box = (x, y, x + width, y + height)
    view = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box))
    return view[:, ::-1] if rng.random() < 0.5 else view


def batches(
    pool: np.ndarray,
    seed: Sequence[int],
    start: int,
    stop: int,
    pairs: int,
    side: int,
    least: float,
    kind: str,
) -> Iterator[np.ndarray]:
    """Yield batches of steps start..stop-1, each decided by the seed and its number alone.

    Args:
        pool: (recipes, variants, H, H, 3) uint8.
        seed: of the views.
        start: first step.
        stop: first step that is not wanted.
        pairs: recipes in a batch.
        side: of the views.
        least: smallest share of a picture's area that a view shows.
        kind: a key of `SAME_PICTURE`.

    Yields:
        (2 * pairs, side, side, 3) uint8 views, those of row i and ``pairs + i`` of one recipe.
    """

    def make(step: int) -> np.ndarray:
        rng = np.random.default_rng([*seed, step])
        recipes = rng.choice(pool.shape[0], pairs, replace=False)
        first = rng.integers(0, pool.shape[1], pairs)
        other = (first + 1) % pool.shape[1]
        same = rng.random(pairs) < SAME_PICTURE[kind]
        second = np.where(same, first, other)
        chosen = [*zip(recipes, first, strict=True), *zip(recipes, second, strict=True)]
        return np.stack([cut_view(pool[r, v], rng, side, least) for r, v in chosen])

    with ThreadPoolExecutor(2) as workers:
        ahead: list[Future[np.ndarray]] = []
        for step in range(start, stop + 2):
            if step < stop:
                ahead.append(workers.submit(make, step))
            if len(ahead) > 2 or (step >= stop and ahead):
                yield ahead.pop(0).result()
