"""Everything that takes time, on the device that JAX finds: one command for any accelerator.

    python experiments/bench_device.py                    all parts; again: what is left of them
    python experiments/bench_device.py --part dense --dtype bfloat16
    python experiments/bench_device.py --quick            tiny sizes: under a minute on two cores
    python experiments/bench_device.py --profile DIR      a profiler trace, and the program's text
    python experiments/bench_device.py --tune             measures every formulation (device_tune)

Parts: ``matmul`` (peaks), ``dense`` (CaffeNet's fc7 from canvases on the device, each of seven
scales and all), ``encode`` (uint8 pictures to finished MPP vectors, both in host memory), ``fits``
(PCA 64,000 x 4,096 -> 128, mixture 256,000 x 128 with K = 256, SVM 5,011 x 65,536 with 20 classes
to a gap of 1e-3), ``torch`` (the peer, where it is installed). Random weights, pictures of noise,
375 x 500 on a canvas of 512, 16 at once.

A run begins nothing new after ``--seconds`` (60, so that with what is under way then it is done in
less than 100, if no single measurement takes longer) and says what is left; the same command goes
on there. Results lie in ``results/device_KIND.json``, a file for each kind of device. The share of
the peak counts the operations of direct convolutions (668 GFLOP a picture at seven scales),
whatever is computed, against the matrix product of the same mode in the same file.

torch shares the card with JAX, which takes three quarters of its memory unless told not to
(``XLA_PYTHON_CLIENT_PREALLOCATE=false``, for small cards).

To reach, by what one H200 gave torch (bf16 253, tf32 191 pictures/s at all scales): more. No
accelerator was at hand when this was written: on one, it has not run.
"""

import argparse
import dataclasses
import importlib.util
import json
import re
import time
from pathlib import Path
from typing import Any

import device_work as work
import jax
import jax.numpy as jnp
from device_tune import tune_units, tuned_forms
from machine import provenance

from mpp_jax.describe.dense import describe_pictures, describe_scale
from mpp_jax.describe.pyramid import resize_pictures
from mpp_jax.memory import keep_freed_memory
from mpp_jax.nets.forms_table import nearest_kind
from mpp_jax.weights.forms_file import forms_record

PARTS = ("matmul", "dense", "encode", "fits", "torch")
RESULTS = Path(__file__).parent / "results"


def units_of(part: str, setting: work.Setting, modes: list[Any]) -> list[work.Unit]:
    """Return what a part measures."""
    match part:
        case "matmul":
            return work.matmul_units(setting, modes)
        case "dense":
            return work.dense_units(setting, modes)
        case "encode":
            return work.encode_units(setting, modes)
        case "fits":
            return work.fit_units(setting)
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: nothing of it is measured")
        return []
    from device_torch import torch_units

    return torch_units(setting, modes)


def with_shares(units: dict[str, Any]) -> dict[str, Any]:
    """Return the units with the share of the peak, where the peak of their mode is known."""
    shared = {}
    for name, figures in units.items():
        part, mode = (*name.split("/"), "")[:2]
        peak = units.get(f"matmul/{mode}", {}).get("tflops")
        known = part != "matmul" and peak and "tflops" in figures
        shared[name] = {**figures, "share": figures["tflops"] / peak} if known else figures
    return shared


def table(units: dict[str, Any]) -> str:
    """Return the results as text, a line each."""
    heads = ("ms_a_picture", "pictures_a_second", "first", "seconds", "tflops", "share")
    lines = [f"{'':28}" + "".join(f"{head:>18}" for head in heads) + f"{'peak memory':>14}"]
    for name, figures in units.items():
        cells = [figures.get(head) for head in heads]
        shown = "".join(f"{'' if cell is None else f'{cell:.4g}':>18}" for cell in cells)
        memory = figures.get("peak_memory_bytes")
        lines.append(f"{name:28}{shown}" + (f"{memory / 2**30:>10.2f} GiB" if memory else ""))
    return "\n".join(lines)


def measure(
    units: list[work.Unit], known: dict[str, Any], limit: float, save: Any, started: float
) -> list[str]:
    """Measure what is not known yet, until the time is up; return the names of what is left.

    What the device refuses (it has too little memory, or no such algorithm) is noted as an error,
    and tried again the next time.
    """
    left = []
    for name, run in units:
        if "error" not in known.get(name, {"error": ""}):
            continue
        if time.perf_counter() - started > limit:
            left.append(name)
            continue
        try:
            known[name] = run()
        except RuntimeError as error:  # JAX's and torch's are of this kind
            known[name] = {"error": (str(error).splitlines() or [repr(error)])[0]}
        save()
        print(f"{name}: " + json.dumps(known[name]), flush=True)
    return left


def profile(setting: work.Setting, folder: Path) -> None:
    """Write a trace of one bfloat16 run of the largest scale, and its program's text."""
    network, batch = setting.network_in("bfloat16"), setting.canvases()
    canvas, sizes = jnp.asarray(batch.canvas), jnp.asarray(batch.sizes)
    side = setting.side(setting.scales[-1])

    def run() -> Any:
        return jax.block_until_ready(describe_scale(network, canvas, sizes, side=side))

    run()  # compiles
    with jax.profiler.trace(str(folder)):
        run()
    pictures = resize_pictures(canvas, sizes, side, most_taps=network.how.taps)
    layers = (setting.spec.default_layer,)
    text = describe_pictures.lower(network, pictures, layers).compile().as_text()
    (folder / f"program_{side}.txt").write_text(text)
    print(f"trace of {side} pixels in bfloat16, and the compiled program's text: {folder}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--part",
        action="append",
        help=f"repeatable, of {', '.join(PARTS)}; with --tune layers, or resize, batch, whole; "
        "default: all",
    )
    parser.add_argument(
        "--dtype", action="append", choices=work.COMPUTED, help="repeatable; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--seconds", type=float, default=60, help="begin nothing new after these")
    parser.add_argument("--again", action="store_true", help="measure anew what the file has")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="write a trace instead")
    parser.add_argument("--tune", action="store_true", help="write a table of formulations instead")
    parser.add_argument("--out", type=Path, help="default: by kind of device, in results/")
    options = parser.parse_args()
    if not options.tune:
        for part in options.part or ():
            if part not in PARTS:
                parser.error(f"--part must be one of {', '.join(PARTS)}, got {part!r}")
    return options


def result_file(options: argparse.Namespace, name: str) -> Path:
    """Return where results go: the option, or a place by kind of device."""
    kind = re.sub(r"[^a-z0-9]+", "-", jax.local_devices()[0].device_kind.lower()).strip("-")
    return options.out or RESULTS / f"{name}_{kind}{'_quick' if options.quick else ''}.json"


def read(path: Path, setting: work.Setting) -> dict[str, Any]:
    """Return an earlier record of the same setting, or a new one."""
    stated = json.loads(json.dumps(dataclasses.asdict(setting)))
    record = json.loads(path.read_text()) if path.exists() else {"setting": stated, "units": {}}
    if record.get("setting") != stated:
        raise SystemExit(f"error: {path} is of other settings; give another --out, or remove it")
    return record


def write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    options = parse()
    started = time.perf_counter()
    keep_freed_memory()
    setting = work.QUICK if options.quick else work.Setting()
    device = jax.local_devices()[0]
    known = nearest_kind(device.platform, device.device_kind)
    print(f"{device.platform} {device.device_kind}: formulations of {known or 'no known kind'}")
    if options.profile is not None:
        options.profile.mkdir(parents=True, exist_ok=True)
        profile(setting, options.profile)
        return
    modes = options.dtype or list(work.COMPUTED)
    out = result_file(options, "forms" if options.tune else "device")
    record = read(out, setting)
    record["made"] = provenance()

    def save() -> None:
        if options.tune:
            measured = {name.split("/")[0] for name in record["units"]}
            tables = {
                mode: forms_record(tuned_forms(setting, mode, record["units"]))
                for mode in work.COMPUTED
                if mode in measured
            }
            record["devices"] = {device.device_kind: tables}
        write(out, record)

    if options.tune:
        units = tune_units(setting, modes, options.part, record["units"])
    else:
        units = [u for part in options.part or PARTS for u in units_of(part, setting, modes)]
    if options.again:
        for name, _ in units:
            record["units"].pop(name, None)
    left = measure(units, record["units"], options.seconds, save, started)
    if not options.tune:
        record["units"] = with_shares(record["units"])
        print(table(record["units"]))
    save()
    print(f"written to {out}")
    if left:
        print(f"{len(left)} left, the same command goes on: {', '.join(left[:8])} ...")
    if failed := [name for name, _ in units if "error" in record["units"].get(name, {})]:
        raise SystemExit(f"error: not measured: {', '.join(failed)}; {out} says why")


if __name__ == "__main__":
    main()
