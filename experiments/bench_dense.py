"""Dense extraction against the machine's own matmul peak and against torch.

    python experiments/bench_dense.py                    caffenet, seven scales: about 10 minutes
    python experiments/bench_dense.py --quick            two scales, 1 repeat: 1 minute
    python experiments/bench_dense.py --candidates       besides, every formulation of every layer

Random weights. Whole network: one picture at every scale, float32, as the library computes it
(`mpp_jax.describe.dense`), the plain formulation (XLA's direct convolutions) and torch on the same
weights, interleaved; medians. FLOP are those of the direct convolutions, whatever the formulation
does, so the "effective rate" may exceed the peak. torch is optional (``pip install torch``);
without it its columns are null.

Expected on 2 cores, seven scales: at least 1.5 times torch's pictures per second, an effective rate
above the matmul peak, relative error at most 1e-4.
"""

import argparse
import contextlib
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from machine import provenance

from mpp_jax.describe.pyramid import scale_side
from mpp_jax.memory import keep_freed_memory
from mpp_jax.nets.conv import conv2d, prepare_kernel
from mpp_jax.nets.forms import DIRECT, Formulation, candidates, choose
from mpp_jax.nets.network import Network, plain, random_network
from mpp_jax.nets.registry import get_spec
from mpp_jax.nets.spec import (
    LRN,
    Conv,
    NetSpec,
    Pool,
    input_of,
    map_channels,
    map_size,
    padding,
)

GIGA = 1e9


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def interleaved(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return median seconds of each, taken in turn after one unmeasured round."""
    for function in functions.values():
        seconds(function)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return {name: statistics.median(values) for name, values in times.items()}


def layer_flop(spec: NetSpec, layer: Conv, side: int) -> float:
    """Return the operations of a direct convolution on a picture of this side."""
    below = input_of(spec, layer.name)
    channels = 3 if below is None else map_channels(spec, below)
    positions = map_size(spec, side, layer.name) ** 2
    return 2.0 * positions * layer.kernel**2 * channels / layer.groups * layer.features


def convolutions(spec: NetSpec, until: str) -> list[Conv]:
    stop = spec.index(until) + 1
    return [item for item in spec.layers[:stop] if isinstance(item, Conv)]


def torch_forward(
    network: Network, until: str, place: Callable[[Any], Any] = lambda tensor: tensor
) -> Callable[[Any], Any]:
    """Return the same layers in torch, channels first, with the same weights.

    Args:
        network: its layers are convolutions, normalisations and poolings.
        until: the last of them.
        place: moves weights to where and in what they are computed with, float32 on the CPU if not
            given; the result takes a float32 array, or a tensor that is there already.
    """
    import torch
    from torch.nn import functional

    spec = network.spec
    steps: list[Callable[[Any], Any]] = []
    for item in spec.layers[: spec.index(until) + 1]:
        match item:
            case Conv():
                leaf = network.params[item.name]
                arrays = (np.asarray(leaf[name], np.float32) for name in ("kernel", "bias"))
                kernel, bias = (place(torch.tensor(array)) for array in arrays)
                kernel = place(kernel.permute(3, 2, 0, 1).contiguous())

                def step(x: Any, item: Conv = item, kernel: Any = kernel, bias: Any = bias) -> Any:
                    y = functional.conv2d(
                        x, kernel, bias, stride=item.stride, padding=item.pad, groups=item.groups
                    )
                    return functional.relu_(y) if item.activation == "relu" else y

                steps.append(step)
            case LRN():

                def normalised(x: Any, item: LRN = item) -> Any:
                    wide = x if x.is_cuda else x.float()  # on CPUs torch has it in float32 alone
                    constants = (item.size, item.alpha, item.beta, item.k)
                    return functional.local_response_norm(wide, *constants).to(x.dtype)

                steps.append(normalised)
            case Pool():
                ceil = spec.pooling == "ceil"
                steps.append(
                    lambda x, item=item, ceil=ceil: functional.max_pool2d(
                        x, item.window, item.stride, ceil_mode=ceil
                    )
                )
            case _:
                raise ValueError(f"layers: {item.name!r} is none that torch is compared by here")

    def forward(pictures: Any) -> Any:
        with torch.inference_mode():
            x = torch.from_numpy(pictures) if isinstance(pictures, np.ndarray) else pictures
            for step in steps:
                x = step(x)
        return x

    return forward


def whole_network(
    network: Network, sides: list[int], layer: str, repeats: int, with_torch: bool
) -> dict[str, Any]:
    """Time a picture at every scale: ours, plain, torch, and the matmul peak beside them."""
    spec = network.spec
    rng = np.random.default_rng(0)
    ours = jax.jit(lambda net, x: net.descriptors(x, layer))
    reference = plain(network)
    theirs = torch_forward(network, layer) if with_torch else None
    square = jnp.asarray(rng.standard_normal((4096, 4096)), jnp.float32)
    product = jax.jit(jnp.matmul)
    rows, errors = [], []
    for side in sides:
        picture = rng.uniform(0, 255, (1, side, side, 3)).astype(np.float32)
        x = jnp.asarray(picture)
        prepared = np.ascontiguousarray(np.asarray(network.preprocess(x)).transpose(0, 3, 1, 2))
        got, want = np.asarray(ours(network, x)), np.asarray(ours(reference, x))
        error = float(np.linalg.norm(got - want) / np.linalg.norm(want))
        functions: dict[str, Callable[[], Any]] = {
            "matmul": lambda: product(square, square),
            "ours": lambda x=x: ours(network, x),
            "plain": lambda x=x: ours(reference, x),
        }
        if theirs is not None:
            check = np.asarray(theirs(prepared)).transpose(0, 2, 3, 1)
            parity = float(np.linalg.norm(check - want) / np.linalg.norm(want))
            assert parity < 1e-3, f"torch computes something else at {side}: {parity}"
            functions["torch"] = lambda p=prepared: theirs(p)
        times = interleaved(functions, repeats)
        flop = sum(layer_flop(spec, item, side) for item in convolutions(spec, layer))
        peak = 2 * 4096**3 / times["matmul"]
        rows.append(
            {
                "side": side,
                "positions": spec.positions(side, layer) ** 2,
                "gflop": flop / GIGA,
                "seconds": {k: v for k, v in times.items() if k != "matmul"},
                "peak_gflops": peak / GIGA,
                "share_of_peak": flop / times["ours"] / peak,
                "relative_error": error,
            }
        )
        errors.append(error)
        print(
            f"{side:5d}: {flop / GIGA:6.1f} GFLOP, ours {times['ours']:.3f} s, plain "
            f"{times['plain']:.3f} s, torch {times.get('torch', float('nan')):.3f} s, "
            f"{100 * rows[-1]['share_of_peak']:.0f}% of {peak / GIGA:.0f} GFLOP/s, "
            f"error {error:.0e}",
            flush=True,
        )
    total = {
        name: sum(row["seconds"].get(name, float("nan")) for row in rows)
        for name in ("ours", "plain", "torch")
    }
    gflop = sum(row["gflop"] for row in rows)
    peak = statistics.median(row["peak_gflops"] for row in rows)
    return {
        "rows": rows,
        "gflop": gflop,
        "peak_gflops": peak,
        "seconds": {k: (v if np.isfinite(v) else None) for k, v in total.items()},
        "effective_gflops": gflop / total["ours"],
        "effective_share_of_peak": gflop / total["ours"] / peak,
        "times_torch": total["torch"] / total["ours"] if with_torch else None,
        "times_plain": total["plain"] / total["ours"],
        "largest_relative_error": max(errors),
    }


def one_layer(
    spec: NetSpec, layer: Conv, side: int, formulations: list[Formulation], repeats: int
) -> dict[str, Any]:
    """Return GFLOP/s of one convolution in several formulations, on its own input size."""
    below = input_of(spec, layer.name)
    size = side if below is None else map_size(spec, side, below)
    channels = 3 if below is None else map_channels(spec, below)
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (1, size, size, channels), jnp.float32)
    shape = (layer.kernel, layer.kernel, channels // layer.groups, layer.features)
    kernel = jax.random.normal(keys[1], shape, jnp.float32) * 0.05
    around = padding(spec, layer, size)
    functions: dict[str, Callable[[], Any]] = {}
    for formulation in formulations:
        call = jax.jit(
            lambda x, kernel, ready, formulation=formulation: conv2d(
                x,
                kernel,
                strides=(layer.stride, layer.stride),
                padding=(around, around),
                groups=layer.groups,
                formulation=formulation,
                prepared=ready,
            )
        )
        ready = prepare_kernel(kernel, formulation)
        functions[str(formulation)] = lambda call=call, ready=ready: call(x, kernel, ready)
    times = interleaved(functions, repeats)
    flop = layer_flop(spec, layer, side)
    return {name: flop / value / GIGA for name, value in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--network", default="caffenet")
    parser.add_argument("--layer", help="activation; the network's default if not given")
    parser.add_argument("--scales", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--candidates", action="store_true", help="every formulation of every layer"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path(__file__).parent / f"results/bench_dense_{args.network}.json"
    keep_freed_memory()
    spec = get_spec(args.network)
    layer = spec.layer(args.layer).name
    repeats = 1 if args.quick else args.repeats
    sides = [scale_side(spec.side, k) for k in range(2 if args.quick else args.scales)]
    with_torch = importlib.util.find_spec("torch") is not None
    if not with_torch:
        print("torch is not installed: its columns will be null")

    network = random_network(jax.random.key(0), spec)
    record: dict[str, Any] = {"made": provenance(), "network": spec.name, "layer": layer}
    if with_torch:
        import torch

        record["made"]["torch"] = torch.__version__
    record["whole"] = whole = whole_network(network, sides, layer, repeats, with_torch)
    record["layers"] = {}
    for side in sides:
        rows = {}
        for item in convolutions(spec, layer):
            below = [lower.name for lower in spec.layers[: spec.index(item.name)]]
            channels = map_channels(spec, below[-1]) if below else 3
            shape = (item.kernel, item.kernel, channels // item.groups, item.features)
            positions = map_size(spec, side, item.name) ** 2
            strides = (item.stride, item.stride)
            chosen = choose(network.how, shape, strides, positions, item.groups)
            tried = [DIRECT, chosen] if chosen != DIRECT else [DIRECT]
            if args.candidates:
                every = candidates(shape, strides, item.groups)
                tried += [c for c in every if c not in tried]
            rates = one_layer(spec, item, side, tried, repeats)
            rows[item.name] = {"chosen": str(chosen), "gflops": rates}
            shown = ", ".join(f"{k} {v:.0f}" for k, v in rates.items())
            print(f"{side:5d} {item.name:8s} chosen {chosen}: {shown} GFLOP/s", flush=True)
        record["layers"][side] = rows
    print(
        f"all scales: {whole['seconds']} s a picture, effective {whole['effective_gflops']:.0f} "
        f"GFLOP/s = {whole['effective_share_of_peak']:.2f} of the matmul peak, "
        f"{whole['times_torch']} times torch, {whole['times_plain']:.2f} times plain, "
        f"error {whole['largest_relative_error']:.1e}"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {out}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
