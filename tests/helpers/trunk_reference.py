"""Slow, obvious float64 forward pass of EfficientNet-Lite0 in torch's names and layouts.

Written from the paper's table and the published module names, not from our layer list.
"""

import numpy as np

# Stride of each block's depthwise convolution.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
EPSILON = 1e-3


def same(x, kernel, stride):
    """Pad (C, H, W) as TensorFlow's "same" does."""
    pads = [(0, 0)]
    for n in x.shape[1:]:
        out = -(-n // stride)
        total = max((out - 1) * stride + kernel - n, 0)
        pads.append((total // 2, total - total // 2))
    return np.pad(x, pads)


def conv(x, w, stride=1):
    """Convolve (C, H, W) with (O, C, k, k), or channel by channel with (C, 1, k, k)."""
    k = w.shape[-1]
    x, w = same(x, k, stride), w.astype(np.float64)
    rows, columns = ((n - k) // stride + 1 for n in x.shape[1:])
    y = np.zeros((len(w), rows, columns))
    for u in range(k):
        for v in range(k):
            part = x[:, u : u + stride * (rows - 1) + 1 : stride]
            part = part[:, :, v : v + stride * (columns - 1) + 1 : stride]
            depthwise = w.shape[1] == 1 and len(x) > 1
            y += (
                part * w[:, :, u, v][:, :, None]
                if depthwise
                else np.tensordot(w[:, :, u, v], part, 1)
            )
    return y


def batch_norm(x, arrays, name):
    gamma, beta, mean, variance = (
        arrays[f"{name}.{key}"].astype(np.float64)[:, None, None]
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    return gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta


def relu6(x):
    return np.clip(x, 0, 6)


def efficientnet_lite0(rgb, arrays):
    """Return ``{activation: (C, H, W)}`` of RGB (H, W, 3) in 0..255."""
    x, out = (rgb.astype(np.float64).transpose(2, 0, 1) - 127) / 128, {}

    def layer(x, convolution, norm, stride=1):
        return batch_norm(conv(x, arrays[f"{convolution}.weight"], stride), arrays, norm)

    out["stem"] = x = relu6(layer(x, "_conv_stem", "_bn0", 2))
    for i, stride in enumerate(STRIDES):
        block, y = f"_blocks.{i}", x
        if f"{block}._expand_conv.weight" in arrays:
            y = out[f"block{i}_expand"] = relu6(layer(y, f"{block}._expand_conv", f"{block}._bn0"))
        y = relu6(layer(y, f"{block}._depthwise_conv", f"{block}._bn1", stride))
        out[f"block{i}_depthwise"] = y
        y = layer(y, f"{block}._project_conv", f"{block}._bn2")
        if y.shape == x.shape:
            out[f"block{i}_project"] = y
            y = y + x
        out[f"block{i}"] = x = y
    out["head"] = x = relu6(layer(x, "_conv_head", "_bn1"))
    out["pool"] = x = x.mean(axis=(1, 2), keepdims=True)
    out["fc"] = np.tensordot(arrays["_fc.weight"].astype(np.float64), x, 1)
    out["fc"] += arrays["_fc.bias"][:, None, None]
    return out


def random_arrays(shapes, seed=0):
    """Return random arrays of a torch file: ``{key: shape}`` -> ``{key: float32}``."""
    rng, arrays = np.random.default_rng(seed), {}
    for key, shape in shapes.items():
        if key.endswith("running_var"):
            arrays[key] = rng.uniform(0.5, 2, shape)
        elif len(shape) > 1:
            arrays[key] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            arrays[key] = rng.standard_normal(shape) * 0.3 + (1.0 if ".weight" in key else 0.0)
        arrays[key] = arrays[key].astype(np.float32)
    return arrays
