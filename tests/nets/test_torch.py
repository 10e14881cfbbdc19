"""Every activation against torch at real widths, and files that torch itself wrote.

Needs torch, which the package does not: ``pip install torch``, then ``pytest -m torch -s``.
"""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mpp_jax.nets import NETWORKS  # noqa: E402
from mpp_jax.weights.fit import bare  # noqa: E402
from mpp_jax.weights.load import load_network  # noqa: E402
from mpp_jax.weights.torch_file import read_torch  # noqa: E402

pytestmark = pytest.mark.torch
functional = nn.functional
activations = jax.jit(lambda network, x: network.activations(x))


class Alexnet(nn.Module):
    """torchvision's AlexNet: module names and order as in its ``alexnet.py``."""

    names = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")

    def __init__(self, ceil):
        super().__init__()
        pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=ceil)  # noqa: E731
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), pool()),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), pool()),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), pool()),
        )
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)),
        )


class Vgg16(nn.Module):
    """torchvision's VGG-16: module names and order as in its ``vgg.py``, configuration D."""

    names = tuple(
        name
        for stage, depth in enumerate((2, 2, 3, 3, 3), 1)
        for name in (*(f"conv{stage}_{i}" for i in range(1, depth + 1)), f"pool{stage}")
    )

    def __init__(self, ceil):
        super().__init__()
        layers, channels = [], 3
        for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
            if width:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=ceil))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            *(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 1000)),
        )


def forward(model, x, kernel):
    """Return activations by our names; linear layers slide over the map as unfolded windows."""
    out, values = {}, []
    for module in model.features:
        x = module(x)
        if isinstance(module, nn.ReLU | nn.MaxPool2d):
            values.append(x)
    out = dict(zip(model.names, values, strict=True))
    rows, columns = (n - kernel + 1 for n in x.shape[2:])
    h = functional.unfold(x, kernel)[0].T  # one row per window, channels first as in flatten()
    names = iter(("fc6", "fc7"))
    for module in model.classifier:
        h = module(h)
        if isinstance(module, nn.ReLU):
            out[next(names)] = h.T.reshape(1, -1, rows, columns)
    out["fc8"] = h.T.reshape(1, -1, rows, columns)
    return out


def random_model(kind, ceil, seed):
    torch.manual_seed(seed)
    model = kind(ceil).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:  # keep activations sized all the way up
            nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        else:
            nn.init.normal_(parameter, std=0.3)
    return model


MODELS = {"alexnet_torchvision": (Alexnet, 6), "vgg16": (Vgg16, 7)}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_activation(name, legacy, tmp_path):
    kind, kernel = MODELS[name]
    for ceil, height, width in ((False, 224, 224), (True, 268, 310), (False, 268, 310)):
        if legacy and (ceil or height != 224):
            continue
        model, path = random_model(kind, ceil, height), tmp_path / "model.pth"
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not legacy)
        network = load_network(name, path, pooling="ceil" if ceil else "floor")
        x = np.random.default_rng(1).uniform(0, 255, (1, height, width, 3)).astype(np.float32)
        got = activations(network, x)
        scaled = (x / 255 - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
        with torch.inference_mode():
            want = forward(model, torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy()), kernel)
        check(f"{name} {'ceil' if ceil else 'floor'} {height}x{width}", got, want)


def check(title, got, want):
    assert set(got) == set(want)
    worst = 0.0
    for layer, value in want.items():
        a, b = np.asarray(got[layer]).transpose(0, 3, 1, 2), value.numpy()
        assert a.shape == b.shape, layer
        worst = max(worst, float(np.linalg.norm(a - b) / np.linalg.norm(b)))
    print(f"{title}: {worst:.1e}")
    assert worst < 1e-4


@pytest.mark.parametrize("name", ["cnn_s", "cnn_m"])
def test_chatfield_networks_at_their_real_width(name):
    from helpers.nets_files import caffemodel, dense_names, random_blobs

    from mpp_jax.weights.caffemodel import read_caffemodel
    from mpp_jax.weights.convert import convert
    from mpp_jax.weights.load import as_network

    medium, spec = name == "cnn_m", NETWORKS[name]
    blobs = random_blobs(spec)
    for ceil, height, width in ((True, 224, 224), (True, 262, 300), (False, 262, 300)):
        chosen = spec.with_pooling("ceil" if ceil else "floor")
        source = read_caffemodel(caffemodel(blobs, dense=dense_names(spec)))
        network = as_network(convert(source, chosen), "")
        x = np.random.default_rng(2).uniform(0, 255, (1, height, width, 3)).astype(np.float32)
        got = activations(network, x)
        centred = x[..., ::-1] - np.float32([103.939, 116.779, 123.68])
        with torch.inference_mode():
            start = torch.from_numpy(centred.transpose(0, 3, 1, 2).copy())
            want = chatfield(start, blobs, medium, ceil)
        check(f"{name} {'ceil' if ceil else 'floor'} {height}x{width}", got, want)


def chatfield(x, blobs, medium, ceil):
    weights = {n: [torch.from_numpy(v) for v in pair] for n, pair in blobs.items()}
    out = {}

    def conv(name, **options):
        nonlocal x
        x = functional.conv2d(x, *weights[name], **options)
        out[name] = x = x if name == "fc8" else functional.relu(x)

    def pool(name, window, stride):
        nonlocal x
        out[name] = x = functional.max_pool2d(x, window, stride, ceil_mode=ceil)

    def norm(name):
        nonlocal x
        out[name] = x = functional.local_response_norm(x, 5, 5e-4, 0.75, 2.0)

    conv("conv1", stride=2)
    norm("norm1")
    pool("pool1", 3, 2 if medium else 3)
    conv("conv2", stride=2 if medium else 1, padding=1)
    if medium:
        norm("norm2")
        pool("pool2", 3, 2)
    else:
        pool("pool2", 2, 2)
    for i in (3, 4, 5):
        conv(f"conv{i}", padding=1)
    pool("pool5", 3, 2 if medium else 3)
    for name in ("fc6", "fc7", "fc8"):
        conv(name)
    return out


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_every_kind_that_torch_writes(zipped, tmp_path):
    base = torch.arange(24, dtype=torch.float32)
    tensors = {
        "float": torch.randn(2, 3),
        "half": torch.randn(5).half(),
        "double": torch.randn(3, 1, 2).double(),
        "bfloat16": torch.randn(7).bfloat16(),
        "long": torch.arange(4),
        "parameter": nn.Parameter(torch.randn(2, 2)),
        "view": base[5:11].reshape(2, 3),
        "transposed": base.reshape(4, 6).t(),
        "shared": base.reshape(2, 12),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "expanded": torch.randn(3, 1).expand(3, 8),
        "bfloat16 view": torch.randn(4, 6).bfloat16()[1:, ::2],
        "channels_last": torch.randn(1, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    }
    path = tmp_path / "file.pt"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    arrays = read_torch(path.read_bytes(), 1 << 20).arrays
    assert set(arrays) == set(tensors)
    for name, tensor in tensors.items():
        want = tensor.detach()
        want = (want.float() if want.dtype == torch.bfloat16 else want).numpy()
        np.testing.assert_array_equal(arrays[name], want, err_msg=name)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_parallel_training(zipped, tmp_path):
    model = nn.DataParallel(nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 1, "state_dict": model.state_dict(), "best": torch.tensor(0.5)}
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(
        checkpoint | {"optimizer": optimizer.state_dict()},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    arrays = read_torch(path.read_bytes(), 1 << 20).arrays
    names = bare(arrays, {"weight", "bias"})
    assert names == {"weight": "module.weight", "bias": "module.bias"}
    np.testing.assert_array_equal(arrays["module.weight"], model.module.weight.detach().numpy())


def test_a_whole_saved_model_is_refused(tmp_path):
    from mpp_jax.weights.source import WeightsError

    path = tmp_path / "model.pth"
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)
    with pytest.raises(WeightsError, match=r"wants to use 'torch.nn.modules.container.Sequential'"):
        read_torch(path.read_bytes(), 1 << 20)
