"""``bench_device.py --tune``: every formulation of every layer, mode and scale, on this device.

One unit is a layer at a scale in a mode: each candidate alone, with the bias and rectification that
follow, and the fastest and XLA's own once more with a barrier before these. Beside the layers:
``resize`` (gathered taps or matrix products), ``batch`` (pictures one by one or all at once) and
``whole`` (the network with the package's table, with the measured one, and with the package's other
barriers: what counts in the end).
A choice of the package's table stays where no other is 3% faster. After every unit the file is a
complete table, that `mpp_jax.weights.forms_file` reads: set ``MPP_JAX_FORMS`` to it. Layers that
were not measured are computed as the package's table has them.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from device_work import COMPUTED, Setting, Unit, noise
from timing import first_and_steady

from mpp_jax.describe.dense import describe_pictures
from mpp_jax.describe.pyramid import resize_pictures, tap_count
from mpp_jax.nets import LRN, Conv, NetSpec, Pool
from mpp_jax.nets.conv import prepare_kernel
from mpp_jax.nets.forms import (
    DIRECT,
    BatchForm,
    Forms,
    Formulation,
    LrnForm,
    Mode,
    PoolForm,
    Row,
    candidates,
    choose,
)
from mpp_jax.nets.forms_table import device_forms
from mpp_jax.nets.layers import Convolution, lrn, max_pool
from mpp_jax.nets.spec import (
    convolutions,
    input_of,
    kernel_shape,
    map_channels,
    map_size,
    padding,
)

Figures = dict[str, Any]
BESIDE = ("resize", "batch", "whole")
LARGEST_TILE = 4
GAIN = 1.03
"""What the package's table would have chosen is kept unless it takes this many times the best."""


def tune_units(
    setting: Setting, modes: list[Mode], parts: list[str] | None, known: dict[str, Figures]
) -> list[Unit]:
    """Return what is measured, the largest scales first.

    Args:
        setting: network, scales, batch.
        modes: which are tuned.
        parts: names of layers and of `BESIDE`; None for all.
        known: units that were measured, which `whole` reads when its turn comes.

    Raises:
        SystemExit: a part that there is not.
    """
    layers = {name: made for name, made, _ in layers_of(setting)}
    every = (*layers, *BESIDE)
    if unknown := sorted(set(parts or ()) - set(every)):
        raise SystemExit(f"error: --part must be one of {', '.join(every)}; got {unknown[0]!r}")
    makers: dict[str, Callable[[Setting, Mode, int], Figures]] = layers | {
        "resize": resize_figures,
        "batch": batch_figures,
        "whole": functools.partial(whole_figures, known),
    }
    return [
        (f"{mode}/{setting.side(k)}/{name}", functools.partial(makers[name], setting, mode, k))
        for mode in modes
        for k in reversed(setting.scales)
        for name in every
        if parts is None or name in parts
    ]


def layers_of(
    setting: Setting,
) -> Iterator[tuple[str, Callable[[Setting, Mode, int], Figures], Any]]:
    """Yield (name, function that measures it, record) of every layer that is tuned."""
    spec = setting.spec.up_to(setting.spec.default_layer)
    for path, layer, channels in convolutions(spec):
        measure = functools.partial(convolution_figures, path[0], layer, channels)
        yield ".".join(path), measure, (path[0], layer, channels)
    for layer in spec.layers:
        if isinstance(layer, Pool | LRN):
            yield layer.name, functools.partial(simple_figures, layer), layer


def forms_here(mode: Mode) -> Forms:
    """Return the package's own table of this device."""
    return device_forms(*COMPUTED[mode])


def pictures_at_once(setting: Setting, mode: Mode) -> int:
    """Return how many pictures a layer sees together."""
    return 1 if forms_here(mode).batch == "map" else setting.batch


def map_below(spec: NetSpec, name: str, side: int) -> tuple[int, int]:
    """Return side and channels of the map that a layer of the list gets."""
    below = input_of(spec, name)
    if below is None:
        return side, 3
    return map_size(spec, side, below), map_channels(spec, below)


def timed(setting: Setting, run: Callable[[], Any], count: int) -> float | None:
    """Return milliseconds a picture; None where the device cannot run it (it has no room)."""
    try:
        return 1e3 * first_and_steady(run, setting.repeats)[1] / count
    except jax.errors.JaxRuntimeError as error:
        print(f"not possible: {str(error).splitlines()[0][:200]}")
        return None


def fastest(times: Figures) -> str | None:
    """Return the name of the least time; None where there is none."""
    known = {name: value for name, value in times.items() if value is not None}
    return min(known, key=lambda name: known[name]) if known else None


# ------------------------------------------------------------------------------ what is timed


def convolution_figures(
    name: str, layer: Conv, channels: int, setting: Setting, mode: Mode, k: int
) -> Figures:
    """Return milliseconds a picture by formulation."""
    dtype, precision = COMPUTED[mode]
    count = pictures_at_once(setting, mode)
    size, _ = map_below(setting.spec, name, setting.side(k))
    shape = kernel_shape(layer, channels)
    x = noise((count, size, size, channels), dtype)
    kernel = noise(shape, dtype)
    params = {"kernel": kernel, "bias": jnp.asarray(np.zeros(shape[-1]), dtype)}
    strides = (layer.stride, layer.stride)
    around = [padding(setting.spec, layer, size)] * 2
    times: Figures = {}

    def take(how: Formulation) -> None:
        module = Convolution(layer, Forms((Row(how),)), precision)
        prepared = prepare_kernel(kernel, how)
        ready = params if prepared is None else params | {"prepared": prepared}
        program = jax.jit(lambda p, x: module.apply({"params": p}, x, around))
        times[str(how)] = timed(setting, lambda: program(ready, x), count)

    every = candidates(shape, strides, layer.groups, mode)
    # Larger tiles are inexact, and take a compiler long.
    tried = {str(how): how for how in every if how.tile <= LARGEST_TILE}
    for how in tried.values():
        take(how)
    best = fastest(times)
    for name_of in dict.fromkeys((str(DIRECT), best)):
        if name_of is not None:
            take(tried[name_of]._replace(barrier=True))
    return times


def simple_figures(layer: Pool | LRN, setting: Setting, mode: Mode, k: int) -> Figures:
    """Return milliseconds a picture of both forms of pooling or normalisation."""
    count = pictures_at_once(setting, mode)
    size, channels = map_below(setting.spec, layer.name, setting.side(k))
    shape = (count, size, size, channels)
    x = noise(shape, COMPUTED[mode][0])
    times: Figures = {}
    for form in get_args(PoolForm if isinstance(layer, Pool) else LrnForm):
        if isinstance(layer, Pool):
            before = [padding(setting.spec, layer, size)[0]] * 2
            program = jax.jit(functools.partial(_pool, layer, setting.spec.pooling, form, before))
        else:
            program = jax.jit(functools.partial(_lrn, layer, form))
        times[form] = timed(setting, functools.partial(program, x), count)
    return times


def _pool(layer: Pool, mode: Any, form: PoolForm, before: list[int], x: jax.Array) -> jax.Array:
    return max_pool(x, layer, mode, form, before)


def _lrn(layer: LRN, form: LrnForm, x: jax.Array) -> jax.Array:
    return lrn(x, layer, form)


def resize_figures(setting: Setting, mode: Mode, k: int) -> Figures:
    """Return milliseconds a picture by products and by taps, and how many taps there are."""
    batch, side = setting.canvases(), setting.side(k)
    canvas, sizes = jnp.asarray(batch.canvas), jnp.asarray(batch.sizes)
    count = tap_count(setting.canvas, side, "bilinear")
    times = {
        name: timed(
            setting,
            functools.partial(resize_pictures, canvas, sizes, side, most_taps=taps),
            setting.batch,
        )
        for name, taps in (("products", 0), ("taps", count))
    }
    return {**times, "count": count}


def batch_figures(setting: Setting, mode: Mode, k: int) -> Figures:
    """Return milliseconds a picture of the whole network by how it sees a batch."""
    forms = forms_here(mode)
    return {
        how: network_time(setting, mode, k, replace(forms, batch=how))
        for how in get_args(BatchForm)
    }


def whole_figures(
    known: dict[str, Figures], setting: Setting, mode: Mode, k: int
) -> dict[str, Any]:
    """Return milliseconds a picture of the whole network.

    By the package's table, by the tuned one, and by the package's with a barrier after just those
    convolutions of XLA's that have none there: whether fusing bias and rectification is what makes
    a whole program slower than the sum of its layers.
    """
    package = forms_here(mode)
    tables = {
        "package": package,
        "tuned": tuned_forms(setting, mode, known),
        "other barriers": other_barriers(package),
    }
    return {name: network_time(setting, mode, k, forms) for name, forms in tables.items()}


def other_barriers(forms: Forms) -> Forms:
    """Return a table with barriers after XLA's convolutions where it has none, and none else."""

    def other(row: Row) -> Row:
        how = row.formulation
        if how.kind not in ("direct", "split", "space_to_depth"):
            return row
        return replace(row, formulation=how._replace(barrier=not how.barrier))

    rows = (*forms.convolutions, Row(DIRECT))  # what no line fits is XLA's own as well
    return replace(forms, convolutions=tuple(other(row) for row in rows))


def network_time(setting: Setting, mode: Mode, k: int, forms: Forms) -> float | None:
    """Return milliseconds a picture, from resized pictures to descriptors."""
    network, side = setting.network_in(mode, forms), setting.side(k)
    shape = (setting.batch, side, side, 3)
    pictures = noise(shape)
    layers = (setting.spec.default_layer,)
    run = functools.partial(describe_pictures, network, pictures, layers)
    return timed(setting, run, setting.batch)


# ------------------------------------------------------------------------------ what is chosen


def tuned_forms(setting: Setting, mode: Mode, known: dict[str, Figures]) -> Forms:
    """Return the table of a mode by what was measured, the package's own where nothing was."""
    forms, known = forms_here(mode), {k: v for k, v in known.items() if "error" not in v}
    rows: list[Row] = []
    single: dict[str, list[Figures]] = {"pool": [], "lrn": [], "batch": [], "resize": []}
    for name, _, layer in layers_of(setting):
        measured = {
            k: known[unit]
            for k in setting.scales
            if (unit := f"{mode}/{setting.side(k)}/{name}") in known
        }
        if isinstance(layer, Pool | LRN):
            single["pool" if isinstance(layer, Pool) else "lrn"] += measured.values()
        else:
            rows += convolution_rows(setting, forms, layer, measured)
    for what in ("batch", "resize"):
        units = (f"{mode}/{setting.side(k)}/{what}" for k in setting.scales)
        single[what] = [known[unit] for unit in units if unit in known]
    chosen: dict[str, Any] = {}
    notes = []
    for what in ("pool", "lrn", "batch"):
        total = totals(single[what])
        best = kept(total, getattr(forms, what))
        if best is not None:
            chosen[what] = best
            notes.append(f"{what} measured ({in_ms(total)})")
    if single["resize"]:
        chosen["taps"] = most_taps(single["resize"])
        notes.append("taps measured")
    note = "; ".join([*notes, f"others: {forms.note}"])
    return replace(forms, convolutions=(*rows, *forms.convolutions), note=note, **chosen)


def convolution_rows(
    setting: Setting,
    forms: Forms,
    layer: tuple[str, Conv, int],
    measured: dict[int, Figures],
) -> list[Row]:
    """Return the lines of one layer; each holds to halfway, as a ratio, to the next scale's."""
    name, record, channels = layer
    shape, strides = kernel_shape(record, channels), (record.stride, record.stride)
    found: list[tuple[int, str, str]] = []  # positions, formulation, note
    for k in sorted(measured):
        positions = map_size(setting.spec, setting.side(k), name) ** 2
        package = choose(forms, shape, strides, positions, record.groups)
        best = kept(measured[k], str(package))
        if best is not None and (not found or found[-1][0] < positions):
            found.append((positions, best, f"measured ({in_ms(measured[k])})"))
    known = {
        str(how._replace(barrier=barrier)): how._replace(barrier=barrier)
        for how in (*candidates(shape, strides, record.groups),)
        for barrier in (False, True)
    }
    rows: list[Row] = []
    least = 1
    for i, (positions, best, note) in enumerate(found):
        most = None if i + 1 == len(found) else math.isqrt(positions * found[i + 1][0])
        if rows and rows[-1].formulation == known[best]:
            rows[-1] = replace(rows[-1], positions=(rows[-1].positions[0], most), note=note)  # type: ignore[index]
        else:
            exact = {"inputs": shape[2], "outputs": shape[3], "groups": record.groups}
            spans: dict[str, Any] = {key: (value, value) for key, value in exact.items()}
            spans |= {"kernel": (record.kernel,) * 2, "stride": (record.stride,) * 2}
            rows.append(Row(known[best], note, positions=(least, most), **spans))
        least = 1 if most is None else most + 1
    return rows


def totals(figures: list[Figures]) -> Figures:
    """Return the sums over scales and layers; None where a form failed somewhere."""
    if not figures:
        return {}
    return {
        name: None if any(f[name] is None for f in figures) else sum(f[name] for f in figures)
        for name in figures[0]
    }


def kept(times: Figures, package: str) -> str | None:
    """Return the fastest, or what the package has where that is hardly slower."""
    best, present = fastest(times), times.get(package)
    if best is not None and present is not None and present <= GAIN * times[best]:
        return package
    return best


def most_taps(figures: list[Figures]) -> int:
    """Return the largest number of taps up to which gathering was the faster one throughout."""
    most = 0
    for one in sorted(figures, key=lambda f: f["count"]):
        if fastest({name: one[name] for name in ("products", "taps")}) != "taps":
            break
        most = one["count"]
    return most


def in_ms(times: Figures) -> str:
    """Return the times in words, the shortest first."""
    known = sorted((value, name) for name, value in times.items() if value is not None)
    return ", ".join(f"{name} {value:.3g} ms" for value, name in known)
