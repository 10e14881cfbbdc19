"""A fitted codebook trained further: PCA and mixture by the gradient of a classifier's loss.

`mpp_jax.pooling.layer` is trained together with linear classifiers on the training pictures'
activations: at first the classifiers alone, then everything. Steps of Adam are measured by what
they move: a share of a parameter's own size, of a Gaussian's width for its mean; over all epochs
they add up to `Training.reach`, however many pictures there are. What comes out is a codebook like
any other; machines are trained anew on its vectors, as for any.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from mpp_jax.config import Run
from mpp_jax.data import Item, Skipped
from mpp_jax.data.dataset import target_matrix
from mpp_jax.describe.dense import Descriptors
from mpp_jax.describe.extraction import ActivationSource
from mpp_jax.describe.wants import Wanted
from mpp_jax.pooling.layer import LayerParams, Loss, init_layer, layer_codebook, layer_loss
from mpp_jax.progress import Watcher
from mpp_jax.runs.vectors import first_encoded, recipes_of
from mpp_jax.stats.codebook import Codebook, Codebooks
from mpp_jax.svm import LinearSVM


@dataclass(frozen=True)
class Training:
    """How a layer is trained.

    Attributes:
        epochs: passes over the pictures in which it is trained.
        reach: how far a parameter goes in all of them, at most, as a share of its size.
        warm_up: steps before, in which the classifiers alone are trained.
        batch: pictures of a step.
        machine_rate: steps of the classifiers, times the root of their dimension.
        decay: weight of ``0.5 |w|^2`` beside the mean loss, 1 / (n C) of an SVM.
        loss: "hinge" or "softmax".
        scales: whether the weights of the scales are trained; no codebook can hold them.
        seed: of the order of the pictures.
    """

    epochs: int
    reach: float = 0.1
    warm_up: int = 100
    batch: int = 32
    machine_rate: float = 0.3
    decay: float = 1e-4
    loss: Loss = "hinge"
    scales: bool = False
    seed: int = 0


class TrainingSet:
    """Labelled activations of one source, by picture: in memory while there is room, else read.

    Attributes:
        items: pictures.
        targets: (N, L) +1, -1 or 0.
        scales: numbers of the scales.
        skipped: positions of those that cannot be read.
    """

    def __init__(
        self,
        activations: ActivationSource,
        items: Sequence[Item],
        classes: int,
        source: str,
        scales: tuple[int, ...],
        room: int,
    ) -> None:
        """Read nothing yet.

        Args:
            activations: where they are kept (`mpp_jax.describe.disk_cache`).
            items: pictures.
            classes: L.
            source: of descriptors.
            scales: numbers of those that are encoded.
            room: bytes of memory for activations, in float16 as they are kept.
        """
        self.items = items
        self.targets = target_matrix(items, classes)
        self.skipped: set[int] = set()
        self.scales = scales
        self._activations, self._source = activations, source
        self._room = room
        self._kept: dict[int, tuple[np.ndarray, ...]] = {}

    def batch(
        self, positions: Sequence[int], size: int
    ) -> tuple[tuple[Descriptors, ...], Array] | None:
        """Return descriptors and targets (size, L) of pictures, padded to ``size`` rows.

        None where not one of them can be read.
        """
        found = self._read([p for p in positions if p not in self.skipped])
        there = [p for p in positions if p in found]
        if not found:
            return None
        shapes = [rows.shape for rows in next(iter(found.values()))]
        scales = []
        for k, shape in enumerate(shapes):
            x = np.zeros((size, *shape), np.float16)
            for row, position in enumerate(there):
                x[row] = found[position][k]
            mask = np.broadcast_to((np.arange(size) < len(there))[:, None], x.shape[:2])
            scales.append(Descriptors(jnp.asarray(x), jnp.asarray(mask), jnp.zeros((shape[0], 4))))
        targets = np.zeros((size, self.targets.shape[1]), np.float32)
        targets[: len(there)] = self.targets[there]
        return tuple(scales), jnp.asarray(targets)

    def _read(self, positions: Sequence[int]) -> dict[int, tuple[np.ndarray, ...]]:
        found = {p: self._kept[p] for p in positions if p in self._kept}
        missing = [p for p in positions if p not in found]

        def skip(entry: Skipped) -> None:
            self.skipped.add(missing[entry.position])

        wants = {self._source: Wanted(self.scales)}
        items = [self.items[p] for p in missing]
        for described in self._activations.describe(items, wants, skip) if items else ():
            parts = [np.asarray(d.x, np.float16) for d in described.sources[self._source].scales]
            for row, place in enumerate(described.index):
                if place >= 0:
                    found[missing[place]] = tuple(part[row].copy() for part in parts)
        for position in missing:
            if position in found and self._room > 0:
                self._room -= sum(rows.nbytes for rows in found[position])
                self._kept[position] = found[position]
        return found


Given = tuple[LayerParams, LinearSVM]
"""What is trained."""


class State(NamedTuple):
    """What a training step carries on."""

    given: Given
    optimizer: optax.OptState


ADAM = optax.scale_by_adam()
LONGEST = 0.01
"""Share that a step goes at most: a few long steps, as of few pictures, raise the loss."""


@partial(jax.jit, static_argnames="loss")
def step(
    state: State,
    parts: tuple[Descriptors, ...],
    targets: Array,
    lengths: Given,
    moves: Array,
    decay: Array,
    loss: Loss,
) -> tuple[State, Array]:
    """Make one step of Adam; return the state after and the mean loss () before it. Pure.

    Args:
        state: the state.
        parts: descriptors of B pictures, as `layer_loss` takes them.
        targets: (B, L).
        lengths: of a step of each parameter.
        moves: () share of them that the layer goes.
        decay: () see `Training`.
        loss: see `Training` (static).
    """

    def objective(given: Given) -> tuple[Array, Array]:
        value = layer_loss(*given, parts, targets, loss)
        square = jnp.sum(jnp.square(jnp.asarray(given[1].weights)))
        return value + 0.5 * decay * square, value

    (_, value), gradient = jax.value_and_grad(objective, has_aux=True)(state.given)
    change, optimizer = ADAM.update(gradient, state.optimizer)
    here = (jax.tree.map(lambda length: moves * length, lengths[0]), lengths[1])
    moved = jax.tree.map(lambda p, c, length: p - length * c, state.given, change, here)
    return State(moved, optimizer), value


def step_lengths(given: Given, training: Training, steps: int) -> Given:
    """Return the length of a step of each parameter: of its shape, or () for all of an array."""
    # Steps fall to nothing, as cos^2: half of the full length in the mean.
    length = min(2 * training.reach / max(steps, 1), LONGEST)

    def share(leaf: Array) -> Array:
        return length * jnp.sqrt(jnp.mean(jnp.square(leaf)))

    layer, machine = given
    lengths = replace(
        layer,
        centre=share(layer.centre),
        projection=share(layer.projection),
        logits=jnp.asarray(length),
        means=length * jnp.exp(layer.log_variances / 2),  # of a Gaussian's width
        log_variances=jnp.asarray(length),
        scales=jnp.asarray(length if training.scales else 0.0),
    )
    rate = jnp.asarray(training.machine_rate / np.sqrt(np.shape(machine.weights)[1]))
    return lengths, LinearSVM(rate, rate)


def train_layer(
    codebook: Codebook, pictures: TrainingSet, training: Training, watcher: Watcher
) -> tuple[LayerParams, list[float]]:
    """Train the layer from a fitted codebook on.

    Args:
        codebook: the start.
        pictures: labelled activations.
        training: how.
        watcher: is shown how far the work is.

    Returns:
        The parameters, and mean losses: of the last epoch before the layer was trained, and of each
        epoch in which it was.

    Raises:
        ValueError: no picture can be read, or the loss is not finite.
    """
    layer = init_layer(codebook, len(pictures.scales))
    shape = pictures.targets.shape[1], 2 * layer.means.size
    given: Given = (layer, LinearSVM(jnp.zeros(shape), jnp.zeros(shape[0])))
    each = -(-len(pictures.items) // training.batch)
    warm_up, steps = -(-training.warm_up // each), training.epochs * each
    lengths = step_lengths(given, training, steps)
    state = State(given, ADAM.init(given))
    decay = jnp.asarray(training.decay)
    rng = np.random.default_rng(training.seed)
    losses, done = [], 0
    with watcher.bar(warm_up + training.epochs, "train the codebook", "epoch") as bar:
        for epoch in range(warm_up + training.epochs):
            order, found = rng.permutation(len(pictures.items)), []
            for first in range(0, len(order), training.batch):
                moves = np.cos(np.pi / 2 * done / steps) ** 2 if epoch >= warm_up else 0.0
                done += epoch >= warm_up
                chosen = order[first : first + training.batch].tolist()
                if (batch := pictures.batch(chosen, training.batch)) is None:
                    continue
                scale = jnp.asarray(moves, jnp.float32)
                state, loss = step(state, *batch, lengths, scale, decay, training.loss)
                found.append(loss)
            if not found:
                raise ValueError("finetune: no training picture can be read")
            losses.append(float(np.mean(jax.device_get(found))))
            if not np.isfinite(losses[-1]):
                raise ValueError("finetune: the loss is not finite; train fewer epochs")
            bar.update(1)
    return state.given[0], losses[max(warm_up - 1, 0) :]


def finetune(
    codebooks: Codebooks,
    items: Sequence[Item],
    classes: int,
    activations: ActivationSource,
    config: Run,
    watcher: Watcher,
) -> Codebooks:
    """Return codebooks whose mixtures were trained from the fitted ones on; others as they are.

    Args:
        codebooks: by key.
        items: labelled training pictures.
        classes: L.
        activations: where they are kept.
        config: settings of the run.
        watcher: is shown how far the work is.

    Raises:
        ValueError: as for `train_layer`.
    """
    scales = config.pyramid.scales[first_encoded(config) :]
    training = Training(config.encoder.finetune, seed=config.seed)
    trained = dict(codebooks)
    for key, (source, recipe) in recipes_of(config).items():
        if not recipe.mixture:
            continue
        pictures = TrainingSet(activations, items, classes, source, scales, config.cache_bytes)
        layer, losses = train_layer(codebooks[key], pictures, training, watcher)
        trained[key] = layer_codebook(layer)
        watcher.say(
            f"codebook {key}: trained for {training.epochs} epochs; mean {training.loss} loss "
            f"{losses[0]:.3f} before, {losses[-1]:.3f} in the last"
        )
    return trained
