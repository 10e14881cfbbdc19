"""Slow, obvious float64 forward passes in the layout of Caffe: (C, H, W), kernels (O, I, h, w)."""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def conv(x, w, b, stride=1, pad=0, groups=1):
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    k = w.shape[2]
    patches = sliding_window_view(x, (k, k), axis=(1, 2))[:, ::stride, ::stride]
    ins, outs = x.shape[0] // groups, w.shape[0] // groups
    parts = [
        np.einsum(
            "ihwyx,oiyx->ohw",
            patches[g * ins : (g + 1) * ins],
            w[g * outs : (g + 1) * outs],
            optimize=True,
        )
        for g in range(groups)
    ]
    return np.concatenate(parts) + np.asarray(b, np.float64).reshape(-1)[:, None, None]


def relu(x):
    return np.maximum(x, 0)


def max_pool(x, k, stride, ceil):
    def size(n):
        if not ceil:
            return (n - k) // stride + 1
        out = math.ceil((n - k) / stride) + 1
        return out - 1 if (out - 1) * stride >= n else out

    height, width = size(x.shape[1]), size(x.shape[2])
    y = np.empty((x.shape[0], height, width))
    for i in range(height):
        for j in range(width):
            top, left = i * stride, j * stride
            y[:, i, j] = x[:, top : top + k, left : left + k].max(axis=(1, 2))
    return y


def lrn(x, n=5, alpha=1e-4, beta=0.75, k=1.0):
    y = np.empty_like(x)
    for c in range(x.shape[0]):
        near = x[max(0, c - n // 2) : c + n // 2 + 1]
        y[c] = x[c] / (k + alpha / n * (near**2).sum(axis=0)) ** beta
    return y


def squeezenet(rgb, blobs, ceil=True):
    """Run SqueezeNet v1.0 as its prototxt; `rgb` (H, W, 3) in 0..255, blobs ``name -> (w, b)``."""
    x = rgb[:, :, ::-1].astype(np.float64) - np.array([104.0, 117.0, 123.0])
    x = x.transpose(2, 0, 1)
    out = {}

    def fire(x, name):
        s = relu(conv(x, *blobs[f"{name}/squeeze1x1"]))
        narrow = relu(conv(s, *blobs[f"{name}/expand1x1"]))
        wide = relu(conv(s, *blobs[f"{name}/expand3x3"], pad=1))
        return np.concatenate([narrow, wide])

    out["conv1"] = x = relu(conv(x, *blobs["conv1"], stride=2))
    out["pool1"] = x = max_pool(x, 3, 2, ceil)
    for i in (2, 3, 4):
        out[f"fire{i}"] = x = fire(x, f"fire{i}")
    out["pool4"] = x = max_pool(x, 3, 2, ceil)
    for i in (5, 6, 7, 8):
        out[f"fire{i}"] = x = fire(x, f"fire{i}")
    out["pool8"] = x = max_pool(x, 3, 2, ceil)
    out["fire9"] = x = fire(x, "fire9")
    out["conv_final"] = x = relu(conv(x, *blobs["conv_final"], pad=1))
    out["pool_final"] = x.mean(axis=(1, 2))[:, None, None]
    return out


def caffe_alexnet(x, blobs, *, pool_first, ceil=True):
    """Run AlexNet as in Caffe: `x` (3, H, W) BGR less its mean; `pool_first`: reference model."""
    out = {}

    def stage(x, i):
        steps = [
            (f"pool{i}", lambda v: max_pool(v, 3, 2, ceil)),
            (f"norm{i}", lambda v: lrn(v)),
        ]
        for name, step in steps if pool_first else steps[::-1]:
            out[name] = x = step(x)
        return x

    out["conv1"] = x = relu(conv(x, *blobs["conv1"], stride=4))
    x = stage(x, 1)
    out["conv2"] = x = relu(conv(x, *blobs["conv2"], pad=2, groups=2))
    x = stage(x, 2)
    out["conv3"] = x = relu(conv(x, *blobs["conv3"], pad=1))
    out["conv4"] = x = relu(conv(x, *blobs["conv4"], pad=1, groups=2))
    out["conv5"] = x = relu(conv(x, *blobs["conv5"], pad=1, groups=2))
    out["pool5"] = x = max_pool(x, 3, 2, ceil)
    return fully_connected(x, blobs, 6, out)


def chatfield(x, blobs, *, medium, lrn_constants, ceil=True):
    """Run CNN-S or CNN-M (Chatfield et al. 2014, table 1)."""
    n, alpha, beta, k = lrn_constants
    out = {}
    out["conv1"] = x = relu(conv(x, *blobs["conv1"], stride=2))
    out["norm1"] = x = lrn(x, n, alpha, beta, k)
    out["pool1"] = x = max_pool(x, 3, 2 if medium else 3, ceil)
    out["conv2"] = x = relu(conv(x, *blobs["conv2"], stride=2 if medium else 1, pad=1))
    if medium:
        out["norm2"] = x = lrn(x, n, alpha, beta, k)
        out["pool2"] = x = max_pool(x, 3, 2, ceil)
    else:
        out["pool2"] = x = max_pool(x, 2, 2, ceil)
    for i in (3, 4, 5):
        out[f"conv{i}"] = x = relu(conv(x, *blobs[f"conv{i}"], pad=1))
    out["pool5"] = x = max_pool(x, 3, 2 if medium else 3, ceil)
    return fully_connected(x, blobs, 6, out)


def fully_connected(x, blobs, kernel, out):
    """Run fc6, fc7, fc8 at every position of `x`, as matrix products of each window."""
    patches = sliding_window_view(x, (kernel, kernel), axis=(1, 2)).transpose(1, 2, 0, 3, 4)
    rows, columns = patches.shape[:2]
    h = patches.reshape(rows, columns, -1)
    for name in ("fc6", "fc7", "fc8"):
        w, b = (np.asarray(v, np.float64) for v in blobs[name])
        h = h @ w.reshape(len(w), -1).T + b.reshape(-1)
        h = h if name == "fc8" else relu(h)
        out[name] = h.transpose(2, 0, 1)
    return out


def decode_deep_compression(data, shapes):
    """Decode entry by entry, as the format reads; `shapes`: (out, in, h, w) per layer."""
    header = [int.from_bytes(data[4 * i : 4 * i + 4], "little") for i in range(len(shapes))]
    at, layers = 4 * len(shapes), []
    for nnz, shape in zip(header, shapes, strict=True):
        codebook = np.frombuffer(data[at : at + 1024], "<f4")
        at += 1024
        bias = np.frombuffer(data[at : at + 4 * shape[0]], "<f4")
        at += 4 * shape[0]
        codes = data[at : at + nnz]
        at += nnz
        gaps = data[at : at + (nnz + 1) // 2]
        at += (nnz + 1) // 2
        flat, position = [codebook[0]] * math.prod(shape), -1
        for j in range(nnz):
            byte = gaps[j // 2]
            position += 1 + (byte % 16 if j % 2 == 0 else byte // 16)
            flat[position] = codebook[codes[j]]
        layers.append((np.array(flat, np.float32).reshape(shape), bias))
    assert at == len(data)
    return layers
