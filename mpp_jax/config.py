"""Every setting of the method, with its default; nothing else in the package reads defaults.

The configurations are frozen and hashable, so that they can be static arguments of jitted
functions and be compared, and they turn into JSON with `to_dict`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal, Self, get_args

Fidelity = Literal["paper", "author"]
Resampling = Literal["bilinear", "bicubic"]
Rounding = Literal["ceil", "round"]
L2 = Literal["none", "before", "both"]
Dtype = Literal["auto", "float32", "tf32", "bfloat16"]
StoreDtype = Literal["float32", "float16"]
Solver = Literal["auto", "gram", "streamed", "primal"]
AUTO: Final = "auto"
AUTOMATIC: Final = 0
"""Of a size: whatever suits the data."""


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be {' or '.join(get_args(choices))}, got {value!r}")


@dataclass(frozen=True)
class Pyramid:
    """The scale pyramid and the layer that is described at each scale.

    Attributes:
        scales: scale numbers k from 0; scale k is a square of about base * 2**(k/2) pixels.
        layer: activation that is pooled; None for the network's default.
        rounding: of the square's side to whole pixels.
        resampling: kernel of the antialiased resize.
        batch: pictures sent to the device at once; 0 for 1 on a CPU and 16 on accelerators, or as
            many as fit. Scales whose maps do not fit are described in parts of a batch.
    """

    scales: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    layer: str | None = None
    rounding: Rounding = "ceil"
    resampling: Resampling = "bilinear"
    batch: int = 0

    def __post_init__(self) -> None:
        scales = self.scales
        whole = isinstance(scales, tuple) and all(type(k) is int and k >= 0 for k in scales)
        if not whole or not scales or list(scales) != sorted(set(scales)):
            raise ValueError(f"scales must be a tuple of rising whole numbers from 0, got {scales}")
        _check_choice("rounding", self.rounding, Rounding)
        _check_choice("resampling", self.resampling, Resampling)
        if self.batch < 0:
            raise ValueError(f"batch must be 0 (automatic) or more, got {self.batch}")


@dataclass(frozen=True)
class Encoder:
    """The codebook (PCA and Gaussian mixture) and how descriptors enter it.

    Attributes:
        pca: dimensions kept.
        components: Gaussians K; 0 (automatic) for as many as suit the number of training pictures,
            at most 256 (`mpp_jax.runs.sizing`).
        samples: training descriptors that PCA and mixture are fitted to.
        l2: L2-normalise descriptors: "none", "before" the PCA, or before and after it ("both").
        skip_first: leave the coarsest scale out of the encoding (it stays in the dictionary).
        tolerance: EM stops when the mean log-likelihood gains less than this (nats a descriptor).
        max_iterations: EM steps at most.
        variance_floor: share of the largest per-dimension data variance.
        whiten: scale what the PCA keeps to variance 1.
        finetune: epochs for which the fitted codebook is trained further (`runs.finetune`).
    """

    pca: int = 128
    components: int = 256
    samples: int = 256_000
    l2: L2 = "none"
    skip_first: bool = False
    tolerance: float = 1e-2
    max_iterations: int = 100
    variance_floor: float = 1e-4
    whiten: bool = False
    finetune: int = 0

    def __post_init__(self) -> None:
        for name in ("pca", "samples", "max_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("components", "finetune"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("tolerance", "variance_floor"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        _check_choice("l2", self.l2, L2)


@dataclass(frozen=True)
class Svm:
    """The one-versus-rest hinge SVM: 0.5 |w|^2 + C sum hinge, bias regularised.

    Attributes:
        c: the cost C; "auto" chooses among `cs` by cross-validation on the training pictures.
        tolerance: relative duality gap at which a class is done.
        max_iterations: of the solvers with a Gram matrix.
        solver: "gram": a Gram matrix from vectors in memory; "streamed": one from vectors read by
            blocks; "primal": mini-batches read from disk; "auto": by memory, see
            `mpp_jax.runs.solvers`.
        max_epochs: of the primal solver.
        cs: what "auto" chooses among.
        folds: of the cross-validation, for C and for probabilities.
        probabilities: fit a sigmoid for each class to cross-validated training scores.
    """

    c: float | Literal["auto"] = 10.0
    tolerance: float = 1e-3
    max_iterations: int = 20_000
    solver: Solver = "auto"
    max_epochs: int = 200
    cs: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    folds: int = 5
    probabilities: bool = False

    def __post_init__(self) -> None:
        if self.c != AUTO and not _is_cost(self.c):
            raise ValueError(f"c must be positive and finite, got {self.c!r}; or auto")
        if not self.cs or not all(map(_is_cost, self.cs)):
            raise ValueError(f"cs must be positive and finite, got {self.cs}")
        _check_choice("solver", self.solver, Solver)
        if self.folds < 2 or self.max_epochs < 1:
            raise ValueError(
                f"folds must be at least 2 and max_epochs at least 1, got {self.folds} and "
                f"{self.max_epochs}"
            )
        if not self.tolerance > 0 or self.max_iterations < 1:
            raise ValueError(
                f"tolerance must be positive and max_iterations at least 1, got {self.tolerance} "
                f"and {self.max_iterations}"
            )

    @property
    def cross_validated(self) -> bool:
        """Whether folds of the training pictures are trained."""
        return self.c == AUTO or self.probabilities


def _is_cost(c: Any) -> bool:
    return isinstance(c, int | float) and 0 < c < float("inf")


@dataclass(frozen=True)
class Run:
    """A whole run: pictures in, accuracies out.

    Attributes:
        pooling: representations in the notation of `mpp_jax.pooling.notation`; "a+b" stacks
            finished ones.
        seed: of the descriptor sample, k-means and the mixture.
        dtype: in which the network computes, see `mpp_jax.nets.dtypes`; "auto" is what the network
            was loaded in, and never recorded.
        cache_bytes: training descriptors kept between fitting and encoding, at most; what does not
            fit is extracted a second time.
        features: names of representations that are read from files.
        store_dtype: in which vectors are stored; they are read as float32.
    """

    pyramid: Pyramid = field(default_factory=Pyramid)
    encoder: Encoder = field(default_factory=Encoder)
    svm: Svm = field(default_factory=Svm)
    pooling: tuple[str, ...] = ("best", "mpp", "nfk", "avg", "fc7")
    seed: int = 0
    dtype: Dtype = "float32"
    fidelity: Fidelity = "paper"
    cache_bytes: int = 4 * 2**30
    features: tuple[str, ...] = ()
    store_dtype: StoreDtype = "float32"

    def __post_init__(self) -> None:
        if not self.pooling or len(set(self.pooling)) != len(self.pooling):
            raise ValueError(f"pooling must name different representations, got {self.pooling}")
        if self.seed < 0 or self.cache_bytes < 0:
            raise ValueError(
                f"seed and cache_bytes must be 0 or more, got {self.seed} and {self.cache_bytes}"
            )
        _check_choice("dtype", self.dtype, Dtype)
        _check_choice("store_dtype", self.store_dtype, StoreDtype)
        _check_choice("fidelity", self.fidelity, Fidelity)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: an unknown setting, or a value out of range.
        """
        parts: dict[str, Any] = {"pyramid": Pyramid, "encoder": Encoder, "svm": Svm}
        if not isinstance(data, Mapping):
            raise ValueError(f"the settings of Run must be an object, got {data!r}")
        values = {
            key: _build(parts[key], value) if key in parts else value for key, value in data.items()
        }
        return _build(cls, values)


def _build(kind: Any, values: Mapping[str, Any]) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"the settings of {kind.__name__} must be an object, got {values!r}")
    unknown = set(values) - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"unknown settings of {kind.__name__}: {', '.join(sorted(unknown))}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def preset(fidelity: Fidelity) -> Run:
    """Return the settings of the paper, or those of its first author's published experiments.

    ``author`` rounds the scale sides, resizes bicubically, L2-normalises descriptors before and
    after the PCA, and encodes without the coarsest scale, which still trains the dictionary.
    (His aspect-keeping pyramid for CNN-S and CNN-M is not part of it: scales are squares.)

    Raises:
        ValueError: an unknown name.
    """
    return with_fidelity(Run(), fidelity)


def with_fidelity(run: Run, fidelity: Fidelity) -> Run:
    """Return settings with those details that `preset` decides, and all others as they are.

    Raises:
        ValueError: an unknown name.
    """
    if fidelity not in get_args(Fidelity):
        raise ValueError(f"fidelity must be paper or author, got {fidelity!r}")
    author = fidelity == "author"
    pyramid = replace(
        run.pyramid,
        rounding="round" if author else "ceil",
        resampling="bicubic" if author else "bilinear",
    )
    encoder = replace(run.encoder, l2="both" if author else "none", skip_first=author)
    return replace(run, fidelity=fidelity, pyramid=pyramid, encoder=encoder)
