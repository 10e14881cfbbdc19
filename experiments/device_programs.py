"""What XLA makes of the library's programs for an accelerator that is not there.

    python experiments/device_programs.py                       CaffeNet fc7, seven scales, an H100
    python experiments/device_programs.py --target "NVIDIA H200" --network squeezenet
    python experiments/device_programs.py --plain               XLA's own form of every computation
    python experiments/device_programs.py --forms FILE          as a table of one's own says
    python experiments/device_programs.py --modes bfloat16 --scales 7 --list 12
    python experiments/device_programs.py --quick

XLA compiles for an NVIDIA GPU from its description alone; what is left out is the search for the
fastest algorithm of each product and convolution, which needs the device. So this finds how many
kernels a scale's program has (resize, network, projection and Fisher sums, as `encode` runs it),
what they move through the device's memory, what it holds at once (beside it what the planner of
batches reckons with, "model"), and where the host would wait.
Two times a picture are given, and neither is a measurement: that of the bytes at the bandwidth of
the device's memory, and the sum over kernels of that or of their operations at the rate of a large
matrix product, whichever is longer ("at best").

Needs Python 3.12, JAX 0.12 and ``pip install 'jax[cuda13]'``, no GPU. `jax.default_backend` is
replaced meanwhile, so that programs are traced as on a GPU.

Results: ``results/device_programs_KIND.json``.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from device_work import COMPUTED, Setting, random_codebook
from hlo_kernels import Kernel, branches, kernels
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from machine import provenance

from mpp_jax.config import Encoder, Pyramid
from mpp_jax.describe.counting import count_scale
from mpp_jax.describe.planning import scale_bytes
from mpp_jax.nets.forms import Forms, Mode
from mpp_jax.nets.forms_table import forms_of
from mpp_jax.stats.mixture import WellConditioned
from mpp_jax.weights.forms_file import read_forms

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Target:
    """A device, as far as a compiler and a bound need to know it.

    Attributes:
        bandwidth: of its memory, bytes a second.
        memory: bytes.
        rates: operations a second of a large matrix product in each mode.
    """

    bandwidth: float
    memory: int
    rates: dict[Mode, float]


# The rates are those of 8,192 x 8,192 products, measured on an H200; an H100 has the same cores.
RATES: dict[Mode, float] = {"bfloat16": 645e12, "tf32": 344e12, "float32": 50e12}
TARGETS = {
    "NVIDIA H100": Target(3.35e12, 84_942_979_072, RATES),
    "NVIDIA H200": Target(4.8e12, 151_397_597_184, RATES),
}

# As stream_executor.GpuTargetConfigProto; both have 132 multiprocessors of compute capability 9.0.
DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024  threads_per_warp: 32
  shared_memory_per_block: 49152  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048  core_count: 132  fpus_per_core: 128
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024  thread_dim_limit_y: 1024  thread_dim_limit_z: 64
  memory_bandwidth: {bandwidth:.0f}  l2_cache_size: 52428800  clock_rate_ghz: 1.98
  device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  device_vendor: "NVIDIA Corporation"  platform_version: "Compute Capability 9.0a"
  device_address_bits: 64  name: "{kind}"
  driver_version: "13.0.0"  runtime_version: "13.0.0"  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{kind}"
"""


def device(kind: str) -> jax.Device:
    """Return a device to compile for.

    Raises:
        SystemExit: JAX has no compiler for it here.
    """
    target = TARGETS[kind]
    text = DESCRIPTION.format(kind=kind, bandwidth=target.bandwidth, memory=target.memory)
    try:
        found = topologies.get_topology_desc("", "cuda", target_config=text, topology="1x1x1")
    except RuntimeError as error:  # of JAX: no plugin, no topologies of it, or a wrong description
        raise SystemExit(
            "error: JAX cannot compile for a GPU here: it takes JAX 0.12, Python 3.12 and "
            f"pip install 'jax[cuda13]' ({error})"
        ) from error
    return found.devices[0]


@contextmanager
def traced_as_on_a_gpu() -> Iterator[None]:
    """Let the library's choices by backend be a GPU's."""
    usual = jax.default_backend
    jax.default_backend = lambda: "gpu"
    try:
        yield
    finally:
        jax.default_backend = usual


def count_program(
    setting: Setting, mode: Mode, forms: Forms, k: int, place: jax.Device
) -> Callable[[], Any]:
    """Return what compiles a scale's program for a device."""
    sharding = SingleDeviceSharding(place)

    def shaped(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    network = setting.network_in(mode, forms)
    layer = setting.spec.layer()
    book = random_codebook(layer.channels, Encoder(setting.pca[2], setting.gmm[2]))
    book = replace(book, gmm=WellConditioned(*book.gmm))
    batch = setting.canvases()
    arguments = (network, batch.canvas, batch.sizes, jnp.asarray(batch.valid), {"mpp": book})
    with traced_as_on_a_gpu():
        lowered = count_scale.lower(
            *jax.tree.map(shaped, arguments),
            side=setting.side(k),
            layers=(("mpp", layer.name),),
        )
    return lowered.compile


def figures(found: list[Kernel], mode: Mode, target: Target, count: int) -> dict[str, Any]:
    """Return what a program's kernels come to, for each of its pictures."""

    def best(kernel: Kernel) -> float:
        rate = target.rates["float32" if kernel.exact else mode]
        return max(kernel.nbytes / target.bandwidth, kernel.flop / rate)

    moved = sum(kernel.nbytes for kernel in found)
    return {
        "kernels": sum(kernel.runs for kernel in found),
        "megabytes": moved / count / 1e6,
        "gflop": sum(kernel.flop for kernel in found) / count / 1e9,
        "ms_of_memory": 1e3 * moved / count / target.bandwidth,
        "ms_at_best": 1e3 * sum(map(best, found)) / count,
    }


def measure(options: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """Compile every scale in every mode; return the figures by mode and side."""
    place, target = device(options.target), TARGETS[options.target]
    found: dict[str, Any] = {}
    for mode in options.modes.split(","):
        forms = tables(options).get(mode) or forms_of("gpu", options.target, mode)
        rows = found[mode] = {}
        print(f"\n{mode}\n" + " ".join(f"{name:>12}" for name in HEAD))
        for k in setting.scales:
            compile_ = count_program(setting, mode, forms, k, place)
            start = time.perf_counter()
            compiled = compile_()
            seconds = time.perf_counter() - start
            text = compiled.as_text()
            memory = compiled.memory_analysis()
            parts = kernels(text)
            row = figures(parts, mode, target, setting.batch)
            row |= {
                "gib": (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**30,
                "gib_by_the_model": planned(setting, mode, k) / 2**30,
                "gib_of_arguments": memory.argument_size_in_bytes / 2**30,
                "waits": branches(text),
                "seconds_to_compile": seconds,
            }
            rows[str(setting.side(k))] = row
            print(line(setting.side(k), row))
            for kernel in sorted(parts, key=lambda part: -part.nbytes)[: options.list]:
                each = f"{kernel.nbytes / setting.batch / 1e6:10.1f} MB"
                print(f"{each} {kernel.flop / setting.batch / 1e9:8.2f} GFLOP  {kernel.name}")
        whole = {name: sum(row[name] for row in rows.values()) for name in SUMMED}
        whole |= {name: max(row[name] for row in rows.values()) for name in LARGEST}
        rows["all"] = whole | {"pictures_a_second_at_best": 1e3 / whole["ms_at_best"]}
        print(line("all", rows["all"]))
        print(f"at best {rows['all']['pictures_a_second_at_best']:.0f} pictures/s, and no more")
    return found


def tables(options: argparse.Namespace) -> dict[Mode, Forms]:
    """Return what takes the place of the package's tables, by mode."""
    if options.plain:
        return dict.fromkeys(COMPUTED, Forms())
    return read_forms(options.forms).get(options.target, {}) if options.forms else {}


SUMMED = ("kernels", "megabytes", "gflop", "ms_of_memory", "ms_at_best", "waits")
LARGEST = ("gib", "gib_by_the_model")
HEAD = ("side", "kernels", "MB", "GFLOP", "ms of memory", "ms at best", "GiB", "model", "waits")


def line(side: Any, row: dict[str, Any]) -> str:
    """Return a row of the table; all but kernels, GiB and waits for each picture."""
    cells = [f"{side}", f"{row['kernels']}", f"{row['megabytes']:.1f}", f"{row['gflop']:.1f}"]
    cells += [f"{row['ms_of_memory']:.3f}", f"{row['ms_at_best']:.3f}"]
    cells += [f"{row['gib']:.2f}", f"{row['gib_by_the_model']:.2f}", str(row["waits"])]
    return " ".join(f"{cell:>12}" for cell in cells)


def planned(setting: Setting, mode: Mode, k: int) -> float:
    """Return the bytes that the planner reckons with for a batch at a scale."""
    pyramid = Pyramid((k,))
    return setting.batch * scale_bytes(setting.network_in(mode, Forms()), pyramid, k)


def main() -> None:
    """Compile, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--target", default="NVIDIA H100", choices=list(TARGETS))
    parser.add_argument("--network", default="caffenet")
    parser.add_argument("--modes", default=",".join(COMPUTED), help="of " + ", ".join(COMPUTED))
    parser.add_argument("--scales", type=int, default=7, help="how many, from the coarsest")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--plain", action="store_true", help="XLA's own forms, not the table's")
    parser.add_argument(
        "--forms", type=Path, metavar="FILE", help="a table as bench_device.py --tune writes it"
    )
    parser.add_argument("--list", type=int, default=0, metavar="N", help="the N largest kernels")
    parser.add_argument("--quick", action="store_true", help="bfloat16 at two scales, unsaved")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.forms and (options.plain or not options.forms.is_file()):
        parser.error("--forms: takes a file of tables, and no --plain beside it")
    if unknown := set(options.modes.split(",")) - set(COMPUTED):
        parser.error(f"--modes: {', '.join(sorted(unknown))}: not among {', '.join(COMPUTED)}")
    if options.quick:
        options.modes, options.scales = "bfloat16", 2
    jax.config.update("jax_platforms", "cpu")  # where the programs are made, GPU or none
    setting = Setting(options.network, tuple(range(options.scales)), options.batch)
    found = measure(options, setting)
    if options.quick and options.out is None:
        return
    name = re.sub(r"\W+", "_", options.target)
    name += "_plain" if options.plain else f"_{options.forms.stem}" if options.forms else ""
    out = options.out or RESULTS / f"device_programs_{name}_{options.network}.json"
    record = {
        "made": provenance(),
        "target": options.target,
        "network": options.network,
        "layer": setting.spec.layer().name,
        "batch": setting.batch,
        "forms": "XLA's own" if options.plain else str(options.forms or "the package's"),
        "modes": found,
    }
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {out}")


if __name__ == "__main__":
    main()
