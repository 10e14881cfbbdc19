"""Which representation is best on a set, judged on its training pictures alone.

No single one is best everywhere: one crop's activation does best on centred objects of which there
are few pictures, pyramid pooling on scenes and on objects at all sizes. "best" is whichever stack
of some representations does best on held-out folds of the training pictures, at its best C where
that is open as well. The codebook has seen all training pictures, though not their labels.

Of few pictures folds tell little: with 75 of them one more or less decides. So the first of the
representations, the simplest where nobody named others (ten crops, which have no codebook), is
taken unless another does better by more than one standard error of their difference: the rule of
Breiman et al., "Classification and Regression Trees" (1984), section 3.4.3, for two.

The members are unit vectors, so the Gram matrix of a stack is the sum of its members', brought back
to ones on its diagonal: members are read once, and each stack costs one cross-validation.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mpp_jax.config import Run
from mpp_jax.pooling import candidates
from mpp_jax.progress import Watcher
from mpp_jax.runs.solvers import Plan
from mpp_jax.runs.training import Folds, StoredVectors, cross_validate
from mpp_jax.storage.store import Store
from mpp_jax.svm import gram_matrix


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
        name: the representation.
        candidates: the held-out folds of all that came into question, by name.
    """

    name: str
    candidates: dict[str, Folds]


def choose(
    store: Store,
    asked: str,
    targets: np.ndarray,
    config: Run,
    plan: Plan,
    key: jax.Array,
    watcher: Watcher,
) -> Choice:
    """Return the stack that is `preferred` on held-out folds; the shortest, then first, of equals.

    Args:
        store: encodings that hold all members.
        asked: "best", or "best(a,b)".
        targets: (N, L) of the training pictures.
        config: settings of the run.
        plan: the way, see `mpp_jax.runs.solvers`.
        key: of folds, the same ones for all, and of the order of examples where that matters.
        watcher: is shown how far the work is.
    """
    layer = config.pyramid.layer
    assert layer is not None  # settled
    stacks = candidates(asked, config.features, layer)
    grams = {}
    if plan.solver != "primal":
        for part in dict.fromkeys(atom.name for atoms in stacks.values() for atom in atoms):
            vectors = StoredVectors(store, part, "train")
            grams[part] = gram_matrix(vectors, resident_bytes=plan.resident_bytes)
    judged: dict[str, Folds] = {}
    for name, atoms in watcher.bar(stacks.items(), f"choose {asked}", "stack"):
        vectors = StoredVectors(store, name, "train")
        gram = stacked_gram([grams[atom.name] for atom in atoms]) if grams else None
        found = cross_validate(store, vectors, gram, targets, config.svm, plan, key, watcher)
        judged[name] = Folds.of(found, store.multi_label)
    return Choice(preferred(judged), judged)


def preferred(judged: Mapping[str, Folds]) -> str:
    """Return the name that does best on folds of those that are surely better than the first.

    That is, by more than a standard error; where none is, the first.

    Args:
        judged: by name, on the same folds of the same pictures; the shortest first.
    """
    first = next(iter(judged))

    def surely_better(name: str) -> bool:
        gain, error = judged[name].gain(judged[first])
        # One fold alone that differs is no more than its error, but for rounding. An unknown error
        # (NaN, of too few folds) holds nobody back.
        return not gain <= error * (1 + 1e-9)

    better = [name for name in judged if name != first and surely_better(name)]
    return max([first, *better], key=lambda name: judged[name].best)  # the first among equals


def stacked_gram(grams: Sequence[jax.Array]) -> jax.Array:
    """Return the Gram matrix (N, N) of unit vectors that are stacked and L2-normalised.

    Args:
        grams: of each of them; of vectors that are of unit norm, or zero.
    """
    if len(grams) == 1:
        return grams[0]
    total = sum(grams[1:], start=grams[0])
    square = jnp.diagonal(total)
    scale = jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return total * scale[:, None] * scale[None, :]
