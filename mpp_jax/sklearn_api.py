"""Thin scikit-learn wrappers, so that encoder and classifier drop into a ``Pipeline``.

    make_pipeline(FisherVectorEncoder(64, pca_components=32), LinearSVMClassifier(C=10))

All work is done by `mpp_jax.stats`, `mpp_jax.encoders` and `mpp_jax.svm`. scikit-learn itself is an
optional dependency of this module alone.

``sklearn.utils.estimator_checks.check_estimator`` passes for both, but for the checks named in
`EXPECTED_FAILED_CHECKS`, which states why each cannot apply; hand it over as
``check_estimator(estimator, expected_failed_checks=EXPECTED_FAILED_CHECKS[type(estimator)])``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mpp_jax.encoders.fisher import fisher_vector
from mpp_jax.numerics import power_l2
from mpp_jax.stats.gmm import fit_gmm
from mpp_jax.stats.mixture import GMM
from mpp_jax.stats.pca import PCA, fit_pca, pca_transform
from mpp_jax.svm.machines import LinearSVM, fit_svm, svm_scores
from mpp_jax.svm.options import DEFAULTS
from mpp_jax.svm.targets import one_vs_rest_targets

try:
    from sklearn.base import (
        BaseEstimator,
        ClassifierMixin,
        ClassNamePrefixFeaturesOutMixin,
        TransformerMixin,
    )
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "mpp_jax.sklearn_api needs scikit-learn 1.6 or later: pip install scikit-learn"
    ) from error


class LinearSVMClassifier(ClassifierMixin, BaseEstimator):
    """One-vs-rest linear SVM of `mpp_jax.svm.machines.fit_svm` as a scikit-learn classifier.

    Two classes make one machine, L > 2 classes make L. The objective of ``loss="hinge"`` is that of
    ``LinearSVC(loss="hinge", C=C, intercept_scaling=bias_multiplier)``.

    Args:
        C: weight of the losses.
        loss: see `mpp_jax.svm.SVMOptions`.
        bias_multiplier: see there.
        class_weight: None, "balanced" or a mapping from label to weight: each example's loss is
            multiplied by the weight of its own class, in all one-vs-rest problems.
        tolerance: see there.
        max_iterations: see there; reaching it raises a ``ConvergenceWarning``.

    Attributes:
        classes_: (L,) the labels.
        coef_: (L, D) float32 weights; (1, D) for two classes.
        intercept_: (L,) or (1,) float32.
        relative_gap_: (L,) or (1,), certified relative duality gap.
        n_iter_: iterations of the slowest class.
        n_features_in_: D.
    """

    def __init__(
        self,
        C: float = 10.0,
        *,
        loss: str = DEFAULTS["loss"],
        bias_multiplier: float = DEFAULTS["bias_multiplier"],
        class_weight: str | Mapping[Any, float] | None = None,
        tolerance: float = DEFAULTS["tolerance"],
        max_iterations: int = DEFAULTS["max_iterations"],
    ) -> None:
        self.C = C
        self.loss = loss
        self.bias_multiplier = bias_multiplier
        self.class_weight = class_weight
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearSVMClassifier:
        """Train on `X` (N, D) with labels `y` (N,) and optional `sample_weight` (N,)."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y holds one class only, {self.classes_[0]!r}: a classifier needs at least two"
            )
        weight = None if sample_weight is None else np.asarray(sample_weight, np.float64)
        if self.class_weight is not None:
            own = compute_sample_weight(self.class_weight, y)
            weight = own if weight is None else weight * own
        targets = one_vs_rest_targets(index, len(self.classes_))
        if len(self.classes_) == 2:
            targets = targets[:, 1:]  # one machine, positive for the second label
        svm, info = fit_svm(
            X,
            targets,
            self.C,
            bias_multiplier=self.bias_multiplier,
            loss=self.loss,  # type: ignore[arg-type]  # checked by fit_svm
            sample_weight=weight,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        self.coef_, self.intercept_ = np.asarray(svm.weights), np.asarray(svm.bias)
        self.relative_gap_ = info.relative_gap
        self.n_iter_ = int(info.iterations.max())
        if not info.converged.all():
            warnings.warn(
                f"the relative duality gap is {info.relative_gap.max():.2g}, above tolerance="
                f"{self.tolerance}, after {self.n_iter_} of max_iterations={self.max_iterations}; "
                "features of unequal scales need more: scale them",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return scores (N, L), or (N,) for two classes: positive for the second label."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        scores = np.asarray(svm_scores(LinearSVM(self.coef_, self.intercept_), X))
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Return the labels (N,) of the highest scores."""
        scores = self.decision_function(X)
        index = (scores > 0).astype(int) if scores.ndim == 1 else np.argmax(scores, axis=1)
        return self.classes_[index]


class FisherVectorEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Descriptor sets to improved Fisher vectors: optional PCA, diagonal mixture, power and L2.

    `X` is a list of sets (n_i, C), whose lengths may differ, or an array or pandas Series of
    objects, or a generator of such; a three-dimensional array (N, n, C); or a matrix (N, C), each
    row being a set of one descriptor.

    Args:
        n_components: Gaussians K of the mixture.
        pca_components: dimension P after PCA; None leaves the descriptors as they are (P = C).
        samples: most descriptors that PCA and mixture are fitted to, drawn over all sets.
        improved: whether power and L2 normalisation finish the vector.
        tolerance: stop EM when the mean log-likelihood changes by less.
        max_iterations: EM steps at most.
        random_state: seed or ``RandomState`` for the sample and the start of EM.

    Attributes:
        pca_: the projection, or None.
        gmm_: the mixture.
        n_features_in_: C.
    """

    def __init__(
        self,
        n_components: int = 64,
        *,
        pca_components: int | None = None,
        samples: int = 256_000,
        improved: bool = True,
        tolerance: float = 1e-3,
        max_iterations: int = 100,
        random_state: Any = 0,
    ) -> None:
        self.n_components = n_components
        self.pca_components = pca_components
        self.samples = samples
        self.improved = improved
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> FisherVectorEncoder:
        """Fit projection and mixture to descriptors sampled from the sets; `y` is ignored."""
        rows = np.concatenate(self._sets(X, reset=True))
        random = check_random_state(self.random_state)
        if len(rows) > self.samples:
            rows = rows[np.sort(random.choice(len(rows), self.samples, replace=False))]
        if len(rows) < max(2, self.n_components):
            raise ValueError(
                f"n_samples={len(rows)} descriptors are too few for n_components="
                f"{self.n_components} (and for a variance): give more"
            )
        self.pca_: PCA | None = None
        if self.pca_components is not None:
            self.pca_ = fit_pca(rows, self.pca_components)
            rows = np.asarray(pca_transform(self.pca_, rows))
        self.gmm_: GMM
        self.gmm_, info = fit_gmm(
            jax.random.key(random.randint(2**31)),
            rows,
            self.n_components,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        self.n_iter_ = int(info.iterations)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Fit to the sets and return their Fisher vectors; a generator is read once."""
        X = list(X) if isinstance(X, Iterator) else X
        return self.fit(X, y).transform(X)

    @property
    def _n_features_out(self) -> int:
        return 2 * self.gmm_.means.size

    def transform(self, X: Any) -> np.ndarray:
        """Return Fisher vectors (N, 2 K P) float32, in VLFeat's layout."""
        check_is_fitted(self)
        sets = self._sets(X, reset=False)
        # Sets are padded to powers of two and masked: a few programs serve all lengths.
        padded = np.array([1 << (len(s) - 1).bit_length() for s in sets])
        out: np.ndarray | None = None
        for size in np.unique(padded):
            members = np.flatnonzero(padded == size)
            batch = max(1, 2**14 // size)
            for part in np.split(members, range(batch, len(members), batch)):
                x = np.zeros((batch, size, self.n_features_in_), np.float32)
                mask = np.zeros((batch, size), np.float32)
                mask[:, 0] = 1  # of the sets that fill up the batch
                for row, member in enumerate(part):
                    x[row, : len(sets[member])] = sets[member]
                    mask[row, : len(sets[member])] = 1
                vectors = _encode(x, mask, self.pca_, self.gmm_, improved=bool(self.improved))
                if out is None:
                    out = np.empty((len(sets), vectors.shape[1]), np.float32)
                out[part] = np.asarray(vectors)[: len(part)]
        assert out is not None  # _sets refuses empty input
        return out

    def _sets(self, X: Any, *, reset: bool) -> list[np.ndarray]:
        """Return `X` as a list of float32 sets (n_i, C), checked."""
        objects = str(getattr(X, "dtype", None)) == "object" and np.ndim(X) == 1
        if isinstance(X, Iterator) or (objects and len(X) and np.ndim(next(iter(X))) == 2):
            X = list(X)
        if isinstance(X, Sequence):
            is_sets = len(X) > 0 and all(np.ndim(s) == 2 for s in X)
        else:
            is_sets = len(getattr(X, "shape", ())) == 3
        if not is_sets:
            X = validate_data(self, X, dtype=[np.float64, np.float32], reset=reset)
            return list(X.astype(np.float32)[:, None, :])
        sets = [np.asarray(s, np.float32) for s in X]
        widths = {s.shape[1] for s in sets}
        if len(widths) != 1:
            raise ValueError(f"X holds descriptor sets of different dimensions: {sorted(widths)}")
        for i, s in enumerate(sets):
            if len(s) == 0:
                raise ValueError(f"X[{i}] is an empty descriptor set; leave it out")
            if not np.isfinite(s).all():
                raise ValueError(f"X[{i}] holds NaN or infinity")
        if reset:
            self.n_features_in_ = widths.pop()
        elif widths != {self.n_features_in_}:
            raise ValueError(
                f"X has {widths.pop()} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        return sets


@partial(jax.jit, static_argnames="improved")
def _encode(
    x: jax.Array, mask: jax.Array, pca: PCA | None, gmm: GMM, *, improved: bool
) -> jax.Array:
    """Encode padded sets (N, T, C) with mask (N, T) as Fisher vectors (N, 2 K P)."""

    def one(x: jax.Array, mask: jax.Array) -> jax.Array:
        vector = fisher_vector(x if pca is None else pca_transform(pca, x), gmm, mask)
        return power_l2(vector) if improved else vector

    return jnp.asarray(jax.vmap(one)(x, mask))


EXPECTED_FAILED_CHECKS: dict[type, dict[str, str]] = {
    LinearSVMClassifier: {
        "check_sample_weight_equivalence_on_dense_data": (
            "weights and repetitions give the same optimum, reached to a relative duality gap and "
            "in float32; the check wants scores equal to 1e-7"
        )
    },
    FisherVectorEncoder: {},
}
"""For ``check_estimator``: the checks that cannot apply, and why."""
