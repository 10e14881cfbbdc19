"""A vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) as a network: its patch tokens.

A file for ``--plugin``; ViT-Ti/16 takes the torch or safetensors file of timm's
``vit_tiny_patch16_224`` as it is, for its parameters have the names and shapes that torch gives
them::

    mpp-jax run PICTURES --plugin experiments/networks/vit.py --network vit_tiny --weights FILE
        --layer block8 --scales 1-3 --out DIR

A picture of any side is cut into patches of 16 pixels; the position embedding of the 14 x 14 grid
that the network was trained on is resized to the grid at hand. Every token has attended to the
whole picture, so none of this is translation-covariant and a probe would refuse it: that a token
stands for its patch is *stated*.
"""

import jax
import jax.numpy as jnp

import mpp_jax as mpp
from mpp_jax.nets import FunctionNet, Map, Preprocessing

EPSILON = 1e-6


def linear(params, x):
    """``x W' + b`` with torch's (out, in) weight."""
    return x @ params["weight"].T + params["bias"]


def normalise(params, x):
    """Layer normalisation."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return centred / jnp.sqrt(variance + EPSILON) * params["weight"] + params["bias"]


def attend(params, x, heads):
    """Self-attention of tokens (B, T, D)."""
    batch, tokens, width = x.shape
    qkv = linear(params["qkv"], x).reshape(batch, tokens, 3, heads, width // heads)
    mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
    return linear(params["proj"], mixed.reshape(batch, tokens, width))


def position_embedding(params, grid, rows, columns):
    """Return (1, 1 + rows columns, D): the class token's, and those of the patches, resized."""
    stored = params["pos_embed"]
    width = stored.shape[-1]
    patches = stored[:, 1:].reshape(1, grid, grid, width)
    if (rows, columns) != (grid, grid):
        patches = jax.image.resize(patches, (1, rows, columns, width), "bicubic")
    return jnp.concatenate([stored[:, :1], patches.reshape(1, -1, width)], axis=1)


def token_maps(params, pictures, *, patch, heads, grid):
    """Return ``{"block0": (B, P, Q, D), ..., "tokens": the last ones, normalised}``."""
    embed = params["patch_embed"]["proj"]
    x = jax.lax.conv_general_dilated(
        pictures,
        embed["weight"].transpose(2, 3, 1, 0),
        (patch, patch),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    batch, rows, columns, width = x.shape
    x = (x + embed["bias"][None, None, None]).reshape(batch, -1, width)
    start = jnp.broadcast_to(params["cls_token"], (batch, 1, width))
    x = jnp.concatenate([start, x], axis=1) + position_embedding(params, grid, rows, columns)
    maps = {}
    for i in range(len(params["blocks"])):
        block = params["blocks"][str(i)]
        x = x + attend(block["attn"], normalise(block["norm1"], x), heads)
        hidden = linear(block["mlp"]["fc1"], normalise(block["norm2"], x))
        x = x + linear(block["mlp"]["fc2"], jax.nn.gelu(hidden, approximate=False))
        maps[f"block{i}"] = x[:, 1:].reshape(batch, rows, columns, width)
    last = normalise(params["norm"], x)[:, 1:]
    return maps | {"tokens": last.reshape(batch, rows, columns, width)}


def random_params(width, depth, patch, grid, classes, seed=0):
    """Return random parameters under torch's names."""
    keys = iter(jax.random.split(jax.random.key(seed), 8 + 8 * depth))

    def dense(outputs, *inputs):
        weight = 0.02 * jax.random.normal(next(keys), (outputs, *inputs))
        return {"weight": weight, "bias": jnp.zeros(outputs)}

    def norm():
        return {"weight": jnp.ones(width), "bias": jnp.zeros(width)}

    blocks = {
        str(i): {
            "norm1": norm(),
            "attn": {"qkv": dense(3 * width, width), "proj": dense(width, width)},
            "norm2": norm(),
            "mlp": {"fc1": dense(4 * width, width), "fc2": dense(width, 4 * width)},
        }
        for i in range(depth)
    }
    return {
        "patch_embed": {"proj": dense(width, 3, patch, patch)},
        "cls_token": 0.02 * jax.random.normal(next(keys), (1, 1, width)),
        "pos_embed": 0.02 * jax.random.normal(next(keys), (1, 1 + grid**2, width)),
        "blocks": blocks,
        "norm": norm(),
        "head": dense(classes, width),
    }


def vit(name, width, depth, heads, *, patch=16, side=224, classes=1000):
    """Return the description of a transformer; see the module's docstring."""
    grid = side // patch
    names = (*(f"block{i}" for i in range(depth)), "tokens")
    return FunctionNet(
        name=name,
        side=side,
        function=lambda params, x: token_maps(params, x, patch=patch, heads=heads, grid=grid),
        like=lambda: random_params(width, depth, patch, grid, classes),
        maps=tuple(Map(each, stride=patch, window=patch) for each in names),
        preprocessing=Preprocessing("RGB", (0.5, 0.5, 0.5), divisor=255.0, std=(0.5, 0.5, 0.5)),
    )


@mpp.register_network
def vit_tiny():
    """ViT-Ti/16."""
    return vit("vit_tiny", 192, 12, 3)
