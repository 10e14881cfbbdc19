"""A fitted codebook trained further: PCA and mixture by the gradient of a classifier's loss.

`mpp_jax.pooling.layer` is trained together with linear classifiers on the training pictures'
activations: at first the classifiers alone, then everything. Steps of Adam are measured by what
they move: a share of a parameter's own size, of a Gaussian's width for its mean. What comes out is
a codebook like any other; machines are trained anew on its vectors, as for any.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from mpp_jax.describe.extraction import ActivationSource, Wanted
from mpp_jax.pooling.layer import LayerParams, Loss, init_layer, layer_codebook, layer_loss
from mpp_jax.progress import Watcher
from mpp_jax.runs.vectors import first_encoded, recipes_of
from mpp_jax.stats.codebook import Codebook, Codebooks
from mpp_jax.svm import LinearSVM


@dataclass(frozen=True)
class Training:
    """How a layer is trained.

    Attributes:
        epochs: passes over the pictures, beside those of `warm_up`.
        warm_up: passes in which the classifiers alone are trained.
        batch: pictures of a step.
        rate: of the layer: what a step moves at most, about, as a share.
        machine_rate: of the classifiers, in units of their weights.
        decay: weight of ``0.5 |w|^2`` beside the mean loss, as 1 / (n C) of an SVM.
        loss: "hinge" or "softmax".
        scales: whether the weights of the scales are trained; no codebook can hold them.
        seed: of the order of the pictures.
    """

    epochs: int
    warm_up: int = 3
    batch: int = 32
    rate: float = 2e-3
    machine_rate: float = 3e-3
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

    def batch(self, positions: Sequence[int], size: int) -> tuple[tuple[Descriptors, ...], Array]:
        """Return descriptors and targets (size, L) of pictures, padded to ``size`` rows."""
        found = self._read([p for p in positions if p not in self.skipped])
        there = [p for p in positions if p in found]
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


class State(NamedTuple):
    """What a training step carries on."""

    layer: LayerParams
    machine: LinearSVM
    optimizer: optax.OptState


def step_sizes(start: LayerParams, training: Training) -> tuple[LayerParams, LinearSVM]:
    """Return the length of a step of each parameter (its shape, or () for all of an array)."""
    rate = training.rate

    def size(leaf: Array) -> Array:
        return rate * jnp.sqrt(jnp.mean(jnp.square(leaf)))

    layer = replace(
        start,
        centre=size(start.centre),
        projection=size(start.projection),
        logits=jnp.asarray(rate),
        means=rate * jnp.exp(start.log_variances / 2),
        log_variances=jnp.asarray(rate),
        scales=jnp.asarray(rate if training.scales else 0.0),
    )
    return layer, LinearSVM(jnp.asarray(training.machine_rate), jnp.asarray(training.machine_rate))


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
        The parameters, and the mean loss of each epoch, those of the warm-up first.

    Raises:
        ValueError: no picture can be read, or the loss is not finite.
    """
    layer = init_layer(codebook, len(pictures.scales))
    width, classes = 2 * layer.means.size, pictures.targets.shape[1]
    machine = LinearSVM(jnp.zeros((classes, width)), jnp.zeros(classes))
    sizes = step_sizes(layer, training)
    adam = optax.scale_by_adam()

    @jax.jit
    def step(
        state: State, parts: tuple[Descriptors, ...], targets: Array, moves: Array
    ) -> tuple[State, Array]:
        def objective(given: tuple[LayerParams, LinearSVM]) -> tuple[Array, Array]:
            loss = layer_loss(*given, parts, targets, training.loss)
            return loss + 0.5 * training.decay * jnp.sum(jnp.square(given[1].weights)), loss

        given = (state.layer, state.machine)
        (_, loss), gradient = jax.value_and_grad(objective, has_aux=True)(given)
        change, optimizer = adam.update(gradient, state.optimizer)
        layer_moves = jax.tree.map(lambda length: moves * length, sizes[0])
        lengths = (layer_moves, sizes[1])
        given = jax.tree.map(lambda p, c, length: p - length * c, given, change, lengths)
        return State(given[0], given[1], optimizer), loss

    state = State(layer, machine, adam.init((layer, machine)))
    rng = np.random.default_rng(training.seed)
    losses = []
    total = training.warm_up + training.epochs
    with watcher.bar(total, "train the codebook", "epoch") as bar:
        for epoch in range(total):
            order, found = rng.permutation(len(pictures.items)), []
            # Steps of the layer fall to nothing over its epochs.
            share = (epoch - training.warm_up) / max(training.epochs, 1)
            moves = jnp.asarray(0.0 if share < 0 else np.cos(np.pi / 2 * share) ** 2, jnp.float32)
            for first in range(0, len(order), training.batch):
                chosen = order[first : first + training.batch].tolist()
                parts, targets = pictures.batch(chosen, training.batch)
                state, loss = step(state, parts, targets, moves)
                found.append(loss)
            losses.append(float(np.mean(jax.device_get(found))))
            if not np.isfinite(losses[-1]):
                raise ValueError("finetune: the loss is not finite; train fewer epochs")
            bar.update(1)
    return state.layer, losses


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
            f"{losses[training.warm_up - 1]:.3f} before, {losses[-1]:.3f} in the last"
        )
    return trained
