"""Every activation of CaffeNet, AlexNet and SqueezeNet against OpenCV's Caffe importer.

OpenCV parses a prototxt and a binary model that the test writes, runs them with its own kernels,
and so checks the layer lists, the reader, the layout rules and the channel order at once.
"""

import cv2
import jax
import numpy as np
import pytest
from helpers.nets_files import caffemodel, dense_names, narrow, random_blobs

from mpp_jax.nets import NETWORKS
from mpp_jax.weights.convert import convert
from mpp_jax.weights.formats import read_weights
from mpp_jax.weights.load import as_network, load_network

MEANS = {  # blue, green, red
    "caffenet": (104.00698793, 116.66876762, 122.67891434),
    "alexnet": (104.00698793, 116.66876762, 122.67891434),
    "squeezenet": (104.0, 117.0, 123.0),
}


def _layer(kind, name, bottom, body="", top=None):
    bottoms = " ".join(f'bottom: "{b}"' for b in ([bottom] if isinstance(bottom, str) else bottom))
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{top or name}" {body} }}\n'


class Prototxt:
    """A network as text, layer by layer, in Caffe's words."""

    def __init__(self, height, width, ceil, divisor):
        sizes = "".join(f"input_dim: {n}\n" for n in (1, 3, height, width))
        self.text = f'name: "net"\ninput: "data"\n{sizes}'
        self.top, self.ceil, self.divisor = "data", str(ceil).lower(), divisor
        self.outputs = {}  # our name -> OpenCV's layer whose output it is
        self.layers = []  # what the binary model says about itself

    def add(self, kind, name, parameter="", body="", bottom=None):
        whole = f"{parameter} {{ {body} }}" if parameter else ""
        self.text += _layer(kind, name, bottom or self.top, whole)
        words = body.replace("ceil_mode: true", "").replace("ceil_mode: false", "").split()
        numbers = {"MAX": 0, "AVE": 1, "true": True}
        values = {
            key.rstrip(":"): numbers[value] if value in numbers else float(value)
            for key, value in zip(words[::2], words[1::2], strict=True)
        }
        whole_numbers = {k: int(v) if v == int(v) else v for k, v in values.items()}
        self.layers.append((kind, name, whole_numbers))
        self.top = self.outputs[name] = name
        return self

    def conv(self, name, outputs, kernel, rest="", relu=True):
        size = f"num_output: {max(1, outputs // self.divisor)} kernel_size: {kernel}"
        self.add("Convolution", name, "convolution_param", f"{size} {rest}")
        return self.relu(name) if relu else self

    def relu(self, name):
        self.text += _layer("ReLU", f"relu_{name}", name, top=name)
        self.outputs[name] = f"relu_{name}"
        return self

    def pool(self, name, kernel, stride):
        body = f"pool: MAX kernel_size: {kernel} stride: {stride} ceil_mode: {self.ceil}"
        return self.add("Pooling", name, "pooling_param", body)

    def norm(self, name):
        return self.add("LRN", name, "lrn_param", "local_size: 5 alpha: 0.0001 beta: 0.75")

    def dense(self, name, outputs, kernel, as_conv, relu=True):
        if as_conv:
            return self.conv(name, outputs, kernel, relu=relu)
        size = f"num_output: {outputs // self.divisor}"
        self.add("InnerProduct", name, "inner_product_param", size)
        return self.relu(name) if relu else self


def alexnet_prototxt(net, pool_first, as_conv):
    def stage(i):
        if pool_first:
            net.pool(f"pool{i}", 3, 2).norm(f"norm{i}")
        else:
            net.norm(f"norm{i}").pool(f"pool{i}", 3, 2)

    net.conv("conv1", 96, 11, "stride: 4")
    stage(1)
    net.conv("conv2", 256, 5, "pad: 2 group: 2")
    stage(2)
    net.conv("conv3", 384, 3, "pad: 1")
    net.conv("conv4", 384, 3, "pad: 1 group: 2")
    net.conv("conv5", 256, 3, "pad: 1 group: 2")
    net.pool("pool5", 3, 2)
    net.dense("fc6", 4096, 6, as_conv).dense("fc7", 4096, 1, as_conv)
    net.dense("fc8", 1000, 1, as_conv, relu=False)


def squeezenet_prototxt(net):
    def fire(name, squeeze, expand):
        net.conv(f"{name}/squeeze1x1", squeeze, 1)
        below = net.top
        net.conv(f"{name}/expand1x1", expand, 1)
        net.top = below
        net.conv(f"{name}/expand3x3", expand, 3, "pad: 1")
        net.add("Concat", name, bottom=[f"{name}/expand1x1", f"{name}/expand3x3"])

    net.conv("conv1", 96, 7, "stride: 2").pool("pool1", 3, 2)
    for name, sizes in {"fire2": (16, 64), "fire3": (16, 64), "fire4": (32, 128)}.items():
        fire(name, *sizes)
    net.pool("pool4", 3, 2)
    sizes = {"fire5": (32, 128), "fire6": (48, 192), "fire7": (48, 192), "fire8": (64, 256)}
    for name, size in sizes.items():
        fire(name, *size)
    net.pool("pool8", 3, 2)
    fire("fire9", 64, 256)
    net.conv("conv_final", 1000, 1, "pad: 1")
    net.add("Pooling", "pool_final", "pooling_param", "pool: AVE global_pooling: true")


def compare(name, height, width, ceil, divisor, tmp_path):
    """Return the largest relative error over all activations, whose names and shapes agree."""
    spec = NETWORKS[name].with_pooling("ceil" if ceil else "floor")
    spec = spec if divisor == 1 else narrow(spec, divisor)
    as_conv = (height, width) != (spec.side, spec.side)
    blobs = random_blobs(spec, seed=height)
    text = Prototxt(height, width, ceil, divisor)
    if name == "squeezenet":
        squeezenet_prototxt(text)
    else:
        alexnet_prototxt(text, name == "caffenet", as_conv)
    dense = set() if as_conv else dense_names(spec)
    path = tmp_path / f"{name}.caffemodel"
    path.write_bytes(caffemodel(blobs, dense=dense, layers=text.layers))

    if divisor == 1:
        ours = load_network(name, path, pooling=spec.pooling)
    else:
        source, sha256 = read_weights(path, spec)
        ours = as_network(convert(source, spec), sha256)
    x = np.random.default_rng(7).uniform(0, 255, (1, height, width, 3)).astype(np.float32)
    got = jax.jit(lambda n, v: n.activations(v))(ours, x)

    net = cv2.dnn.readNetFromCaffe(
        np.frombuffer(text.text.encode(), np.uint8), np.frombuffer(path.read_bytes(), np.uint8)
    )
    blob = x[0, :, :, ::-1] - np.array(MEANS[name], np.float32)
    net.setInput(np.ascontiguousarray(blob.transpose(2, 0, 1)[None]))
    names = [n for n in text.outputs if n in got]
    assert set(names) == set(got)
    want = dict(zip(names, net.forward([text.outputs[n] for n in names]), strict=True))
    worst = 0.0
    for n in names:
        a, b = np.asarray(got[n]).transpose(0, 3, 1, 2), want[n]
        b = b.reshape(*b.shape, *(1,) * (4 - b.ndim))
        assert a.shape == b.shape, n
        assert np.linalg.norm(b) > 0, n
        worst = max(worst, float(np.linalg.norm(a - b) / np.linalg.norm(b)))
    return worst


CASES = [(True, 0, 0), (True, 259, 307), (False, 259, 307)]


@pytest.mark.parametrize(("ceil", "height", "width"), CASES)
@pytest.mark.parametrize("name", ["caffenet", "squeezenet"])
def test_narrow_networks(name, ceil, height, width, tmp_path):
    side = NETWORKS[name].side
    error = compare(name, height or side, width or side, ceil, 8, tmp_path)
    assert error < 1e-5


def test_narrow_alexnet(tmp_path):
    assert compare("alexnet", 259, 307, False, 8, tmp_path) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("ceil", "height", "width"), CASES)
@pytest.mark.parametrize("name", sorted(MEANS))
def test_networks_at_their_real_width(name, ceil, height, width, tmp_path):
    side = NETWORKS[name].side
    error = compare(name, height or side, width or side, ceil, 1, tmp_path)
    print(f"{name} {'ceil' if ceil else 'floor'} {height or side}x{width or side}: {error:.1e}")
    assert error < 1e-4
