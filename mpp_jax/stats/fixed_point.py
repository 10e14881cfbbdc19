"""The loop to a fixed point, once: over arrays, devices and streams, from one start or several.

Mathematics
-----------
A `Method` improves a point ``p``, such as K centres or a mixture, by additive statistics of the
data ``x_i``:

    S(p) = sum_i measure(p, x_i),        p_(t+1) = step(p_t, S(p_t)),

until it has settled. Lloyd's iteration (`mpp_jax.stats.kmeans`) and EM (`mpp_jax.stats.em`) are
methods. An array is iterated on the device, restarts side by side (``vmap``); a stream by the host,
one start after the other. The best of the restarts is kept.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mpp_jax.stats.chunks import ArrayData, ChunkStream, Layout, sum_over_rows, sum_stream

HISTORY = 128
"""Histories are kept in arrays of a multiple of this many steps, so that fits that differ only in
their largest number of steps share one program."""

Point = TypeVar("Point")
Stats = TypeVar("Stats")
Tree = TypeVar("Tree")


class Valued(NamedTuple, Generic[Point]):
    """A point and the objective there."""

    point: Point
    value: Array  # ()


class Method(NamedTuple, Generic[Point, Stats]):
    """An iteration as pure functions, which are module-level: a method is static under ``jit``.

    `setting` is a pytree of arrays that stay what they are, the tolerance among them.

    Attributes:
        measure: ``(point, setting), x (n, D), mask (n,) -> stats``, a sum over the unmasked rows.
        value: ``stats -> ()``, the objective at the point that was measured.
        step: ``point, stats, setting -> point, events``; events are counts () int32 by name.
        settled: ``old, new, events, setting -> () bool``, the first two `Valued`.
        best: ``values (R,) -> ()``, which of the restarts is kept.
    """

    measure: Callable[[tuple[Point, Any], Array, Array], Stats]
    value: Callable[[Stats], Array]
    step: Callable[[Point, Stats, Any], tuple[Point, dict[str, Array]]]
    settled: Callable[[Valued[Point], Valued[Point], dict[str, Array], Any], Array]
    best: Callable[[Array], Array]


class History(NamedTuple):
    """How an iteration went; T is the room that it had, or the most steps allowed."""

    values: Any  # (T + 1,) the objective after t steps; after the last 0, once trimmed NaN
    events: dict[str, Any]  # (T,) each: what step t counted
    iterations: Array  # () steps done
    converged: Array  # () bool: the last step settled it

    def trimmed(self, max_iterations: int) -> "History":
        """Return the history with room for the steps that were allowed, NaN after the last value.

        Values and events are NumPy's then: a NaN on the device is an error under
        ``jax_debug_nans``, and a cut there is a program for each length.
        """
        values = np.array(self.values)[: max_iterations + 1]
        values[int(self.iterations) + 1 :] = np.nan
        events = {name: np.asarray(counts)[:max_iterations] for name, counts in self.events.items()}
        return self._replace(values=values, events=events)


class State(NamedTuple, Generic[Point, Stats]):
    """Where an iteration stands: what its next step needs, and the history that it writes."""

    point: Point
    stats: Stats  # of the point
    history: History


def history_size(max_iterations: int) -> int:
    """Return the number of steps that the history of a loop has room for."""
    return HISTORY * -(-max_iterations // HISTORY)


def run(
    method: Method[Point, Stats],
    starts: Point,
    setting: Any,
    data: ArrayData | ChunkStream,
    max_iterations: int,
) -> State[Point, Stats]:
    """Return where the best of the starts has come to when it settles or its steps are used up.

    Args:
        method: what is iterated.
        starts: first points, leaves with a leading R.
        setting: of the method.
        data: the rows that it measures.
        max_iterations: steps at most.
    """
    room, restarts = history_size(max_iterations), _count(starts)
    if isinstance(data, ArrayData):
        rows = (data.x, data.mask)
        static = {"room": room, "rows": data.rows, "layout": data.layout}
        return _run_array(method, starts, setting, *rows, max_iterations, **static)
    runs = [
        _run_stream(method, _pick(starts, r), setting, data, max_iterations, room)
        for r in range(restarts)
    ]
    if restarts == 1:
        return runs[0]
    return _jitted_best(method, jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs))


@partial(jax.jit, static_argnames=("method", "room", "rows", "layout"))
def _run_array(
    method: Method[Point, Stats],
    starts: Point,
    setting: Any,
    x: Array,
    mask: Array,
    max_iterations: Array,
    room: int,
    rows: int,
    layout: Layout,
) -> State[Point, Stats]:
    def measure(point: Point) -> Stats:
        return sum_over_rows(method.measure, (point, setting), x, mask, rows, layout)

    def fit(start: Point) -> State[Point, Stats]:
        def unfinished(state: State[Point, Stats]) -> Array:
            return _unfinished(state.history, max_iterations)

        def advance(state: State[Point, Stats]) -> State[Point, Stats]:
            point, events = method.step(state.point, state.stats, setting)
            return _record(method, state, point, events, measure(point), setting)

        first = _begin(method, start, measure(start), setting, room)
        return lax.while_loop(unfinished, advance, first)

    # A batch of one would turn every lax.cond into a select.
    if _count(starts) == 1:
        return fit(_pick(starts, 0))
    return _best(method, jax.vmap(fit)(starts))


def _run_stream(
    method: Method[Point, Stats],
    start: Point,
    setting: Any,
    data: ChunkStream,
    max_iterations: int,
    room: int,
) -> State[Point, Stats]:
    def measure(point: Point) -> Stats:
        return sum_stream(method.measure, (point, setting), data)

    state = _begin(method, start, measure(start), setting, room)
    while _unfinished(jax.device_get(state.history), max_iterations):
        point, events = _jitted_step(method, state.point, state.stats, setting)
        state = _jitted_record(method, state, point, events, measure(point), setting)
    return state


def _unfinished(history: History, max_iterations: Array | int) -> Array:
    return ~history.converged & (history.iterations < max_iterations)


def _begin(
    method: Method[Point, Stats], point: Point, stats: Stats, setting: Any, room: int
) -> State[Point, Stats]:
    value = method.value(stats)
    _, events = jax.eval_shape(method.step, point, stats, setting)
    history = History(
        values=jnp.zeros((room + 1,), value.dtype).at[0].set(value),
        events={name: jnp.zeros((room,), count.dtype) for name, count in events.items()},
        iterations=jnp.zeros((), jnp.int32),
        converged=jnp.zeros((), bool),
    )
    return State(point, stats, history)


def _record(
    method: Method[Point, Stats],
    state: State[Point, Stats],
    point: Point,
    events: dict[str, Array],
    stats: Stats,
    setting: Any,
) -> State[Point, Stats]:
    history, t = state.history, state.history.iterations
    value = method.value(stats)
    old, new = Valued(state.point, history.values[t]), Valued(point, value)
    history = History(
        values=history.values.at[t + 1].set(value),
        events={name: history.events[name].at[t].set(count) for name, count in events.items()},
        iterations=t + 1,
        converged=method.settled(old, new, events, setting),
    )
    return State(point, stats, history)


def _best(method: Method[Point, Stats], states: State[Point, Stats]) -> State[Point, Stats]:
    """Return the best of states with a leading R."""
    history = states.history
    last = jnp.take_along_axis(history.values, history.iterations[:, None], axis=1)
    return _pick(states, method.best(last[:, 0]))


def _count(stacked: Any) -> int:
    return jax.tree.leaves(stacked)[0].shape[0]


def _pick(stacked: Tree, place: Array | int) -> Tree:
    return jax.tree.map(lambda leaf: leaf[place], stacked)


@partial(jax.jit, static_argnames="method")
def _jitted_step(
    method: Method[Point, Stats], point: Point, stats: Stats, setting: Any
) -> tuple[Point, dict[str, Array]]:
    return method.step(point, stats, setting)


_jitted_record = jax.jit(_record, static_argnames="method")
_jitted_best = jax.jit(_best, static_argnames="method")
