"""One-vs-rest linear support vector machines: training, choice of C, probabilities.

`machines` is the place to start: the objective, `fit_svm` from one Gram matrix, scores. Keywords
that every fit takes: `SVMOptions`. The forms of vectors, such as those that are read from a disk:
`blocks`. More vectors than a Gram matrix can hold: `primal`. Several C and folds: `select`.
Probabilities: `calibration`. The solver itself: `dual`.
"""

from mpp_jax.svm.blocks import RowReader, Vectors
from mpp_jax.svm.calibration import PlattScaling, fit_platt, platt_probabilities
from mpp_jax.svm.gram import dual_to_weights, gram_matrix
from mpp_jax.svm.losses import LOSSES, Loss
from mpp_jax.svm.machines import (
    LinearSVM,
    SVMInfo,
    fit_svm,
    fit_svm_gram,
    svm_from_dual,
    svm_scores,
)
from mpp_jax.svm.options import SVMOptions
from mpp_jax.svm.primal import PrimalInfo, fit_svm_primal
from mpp_jax.svm.select import (
    CrossValidation,
    SVMPath,
    accuracy_metric,
    cross_validate_svm,
    cross_validate_svm_primal,
    gram_scores,
    stratified_folds,
    svm_path,
)
from mpp_jax.svm.targets import one_vs_rest_targets

__all__ = [
    "LOSSES",
    "CrossValidation",
    "LinearSVM",
    "Loss",
    "PlattScaling",
    "PrimalInfo",
    "RowReader",
    "SVMInfo",
    "SVMOptions",
    "SVMPath",
    "Vectors",
    "accuracy_metric",
    "cross_validate_svm",
    "cross_validate_svm_primal",
    "dual_to_weights",
    "fit_platt",
    "fit_svm",
    "fit_svm_gram",
    "fit_svm_primal",
    "gram_matrix",
    "gram_scores",
    "one_vs_rest_targets",
    "platt_probabilities",
    "stratified_folds",
    "svm_from_dual",
    "svm_path",
    "svm_scores",
]
