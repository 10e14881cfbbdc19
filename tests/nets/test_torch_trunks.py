"""EfficientNet-Lite0 and SqueezeNet 1.1 with their real weights, layer by layer, against torch.

Needs torch, which the package does not: ``pip install torch``, then ``pytest -m torch -s``.
"""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mpp_jax.weights.load import load_network  # noqa: E402

pytestmark = pytest.mark.torch
functional = torch.nn.functional
activations = jax.jit(lambda network, x: network.activations(x))
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


def convolution(x, w, bias=None, stride=1, groups=1):
    """Convolve with TensorFlow's "same" padding."""
    pads = []
    for n in (x.shape[3], x.shape[2]):
        total = max((-(-n // stride) - 1) * stride + w.shape[-1] - n, 0)
        pads += [total // 2, total - total // 2]
    return functional.conv2d(functional.pad(x, pads), w, bias, stride, groups=groups)


def efficientnet_lite0(state, rgb):
    """Return every activation, channels first."""
    x, out = (rgb - 127) / 128, {}

    def layer(x, name, norm, stride=1, groups=1):
        x = convolution(x, state[f"{name}.weight"], stride=stride, groups=groups)
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{norm}.{key}"] for key in keys), eps=1e-3)

    out["stem"] = x = functional.relu6(layer(x, "_conv_stem", "_bn0", 2))
    for i, stride in enumerate(STRIDES):
        block, y = f"_blocks.{i}", x
        if f"{block}._expand_conv.weight" in state:
            y = functional.relu6(layer(y, f"{block}._expand_conv", f"{block}._bn0"))
            out[f"block{i}_expand"] = y
        groups = y.shape[1]
        y = functional.relu6(layer(y, f"{block}._depthwise_conv", f"{block}._bn1", stride, groups))
        out[f"block{i}_depthwise"] = y
        y = layer(y, f"{block}._project_conv", f"{block}._bn2")
        if y.shape == x.shape:
            out[f"block{i}_project"], y = y, y + x
        out[f"block{i}"] = x = y
    out["head"] = x = functional.relu6(layer(x, "_conv_head", "_bn1"))
    out["pool"] = x = x.mean((2, 3), keepdim=True)
    out["fc"] = functional.conv2d(x, state["_fc.weight"][:, :, None, None], state["_fc.bias"])
    return out


def squeezenet_v11(state, rgb):
    """Return every activation of the Caffe model, channels first."""
    x, out = rgb.flip(1) - torch.tensor([104.0, 117.0, 123.0])[None, :, None, None], {}

    def layer(x, name, pad=0, stride=1):
        w = state[f"{name}/0"].permute(3, 2, 0, 1)
        return functional.relu(functional.conv2d(x, w, state[f"{name}/1"], stride, pad))

    def pool(x):
        return functional.max_pool2d(x, 3, 2, ceil_mode=True)

    out["conv1"] = x = layer(x, "conv1", stride=2)
    out["pool1"] = x = pool(x)
    for i in range(2, 10):
        squeezed = layer(x, f"fire{i}/squeeze1x1")
        parts = layer(squeezed, f"fire{i}/expand1x1"), layer(squeezed, f"fire{i}/expand3x3", 1)
        out[f"fire{i}"] = x = torch.cat(parts, 1)
        if i in (3, 5):
            out[f"pool{i}"] = x = pool(x)
    out["conv_final"] = x = layer(x, "conv10")
    out["pool_final"] = x.mean((2, 3), keepdim=True)
    return out


@pytest.mark.parametrize(
    ("name", "forward", "sides"),
    [
        ("efficientnet_lite0", efficientnet_lite0, (224, 448)),
        ("squeezenet_v11", squeezenet_v11, (227, 322)),
    ],
)
def test_every_activation(name, forward, sides, shared_dir):
    file = shared_dir / "data" / "weights" / f"{name}.npz"
    with np.load(file) as archive:
        state = {key: torch.from_numpy(archive[key]) for key in archive.files}
    network = load_network(name, file)
    for side in sides:
        x = np.random.default_rng(side).uniform(0, 255, (1, side, side, 3)).astype(np.float32)
        with torch.inference_mode():
            want = forward(state, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        got = activations(network, x)
        assert set(got) == set(want) == set(network.spec.layer_names)
        errors = {}
        for layer, value in want.items():
            ours = np.asarray(got[layer]).transpose(0, 3, 1, 2)
            assert ours.shape == value.shape, layer
            errors[layer] = np.linalg.norm(ours - value.numpy()) / np.linalg.norm(value.numpy())
        worst = max(errors, key=lambda layer: errors[layer])
        print(f"{name} {side}: largest relative error {errors[worst]:.1e} at {worst}")
        assert errors[worst] < 2e-5


def test_a_file_that_torch_wrote(shared_dir, tmp_path):
    """A state dict with counters, as published, gives the same network as the archive."""
    file = shared_dir / "data" / "weights" / "efficientnet_lite0.npz"
    with np.load(file) as archive:
        state = {key: torch.from_numpy(archive[key]) for key in archive.files}
    torch.save({"state_dict": state}, tmp_path / "lite0.pth")
    one, two = (load_network("efficientnet_lite0", f) for f in (file, tmp_path / "lite0.pth"))
    for a, b in zip(*map(jax.tree.leaves, (one.params, two.params)), strict=True):
        np.testing.assert_array_equal(a, b)
