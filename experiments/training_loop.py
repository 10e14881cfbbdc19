"""Minimise a loss over numbered batches, with a log and checkpoints; see `pretrain_mini.py`.

Interrupted, the same call goes on from the last checkpoint, to the same parameters: the batch and
the chance of a step depend on its number alone.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax import Array

from mpp_jax.progress import Watcher


def schedule(peak: float, steps: int) -> optax.Schedule:
    """Return 60 steps (of a short training fewer) of warming up, then half a cosine down to 0."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, min(60, steps // 4), steps)


def train(
    name: str,
    params: Any,
    loss: Callable[[Any, Array, Array], tuple[Array, Array]],
    batches: Callable[[int], Iterator[np.ndarray]],
    key: Array,
    steps: int,
    rate: optax.Schedule,
    log: Path,
    save_every: int,
) -> Any:
    """Minimise a loss, from the last checkpoint if there is one.

    Args:
        name: of the stage.
        params: first parameters.
        loss: parameters, key and a batch -> the loss, and the share of right answers.
        batches: first step -> the batches from there on.
        key: of the changes of colour.
        steps: in all.
        rate: of learning, by step.
        log: file that a line is added to every 25 steps, of a short training more often.
        save_every: steps between checkpoints.

    Returns:
        The last parameters.
    """
    every = min(25, max(1, steps // 4))
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-4))
    state = {"params": params, "rule": rule.init(params), "step": jnp.zeros((), jnp.int32)}

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Any, batch: Array) -> tuple[Any, Array, Array]:
        own = jax.random.fold_in(key, state["step"])
        graded = jax.value_and_grad(loss, has_aux=True)
        (value, right), gradient = graded(state["params"], own, batch)
        change, moved = rule.update(gradient, state["rule"], state["params"])
        params = optax.apply_updates(state["params"], change)
        return {"params": params, "rule": moved, "step": state["step"] + 1}, value, right

    folder = (log.parent / f"checkpoint-{name}").absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        if folder.exists():
            state = checkpointer.restore(folder, state)
        start, begun, figures = int(state["step"]), time.perf_counter(), []
        bar = Watcher().bar(steps, f"train {name}", "step", initial=start)
        for step, batch in enumerate(batches(start), start + 1):
            state, value, right = update(state, batch)
            bar.update()
            figures.append((float(value), float(right)))
            if step % every == 0 or step == steps:
                mean = np.mean(figures, axis=0).round(5).tolist()
                seconds = round(time.perf_counter() - begun, 1)
                line = {"stage": name, "step": step, "loss": mean[0], "right": mean[1]}
                with log.open("a") as file:
                    file.write(json.dumps(line | {"seconds": seconds}) + "\n")
                figures = []
            if step % save_every == 0 or step == steps:
                checkpointer.save(folder, state, force=True)
                checkpointer.wait_until_finished()
        bar.close()
    return state["params"]
