"""Centred objects, few training pictures: which representation, why, and whether "best" loses.

    python experiments/centred.py                            SqueezeNet 1.1, four scales
    python experiments/centred.py --shapes 7 --test 20       49 classes and more test pictures
    python experiments/centred.py --quick                    few pictures, two scales, K = 32

Where one crop shows the whole object and there are 15 training pictures a class, pyramid pooling
may lose to one crop's activation. Two sets, see `centred_pictures.py`: painted objects, and boxes
of photographs (``$MPP_JAX_SHARED/data/voc2007_part``) cropped with a margin, 15 training pictures a
class each; of the latter in several disjoint draws where ``--draws`` says so (means over draws).

Measured on each: every method, by a codebook of as many Gaussians as a run takes for so many
pictures (`mpp_jax.runs.sizing`) or of ``--components``; "best" of ap10, avg and mpp, and what is
highest on the folds whatever it gains; every stack of these; then for mpp one factor at a time (K,
which csf, nfk and vlad are measured by as well, dimensions of the PCA, C, normalisation of
descriptors, power normalisation), and single scales (fv1 to fv4 are Fisher vectors of one scale,
mean1 to mean4 mean activations).
Intervals are by bootstrap over test pictures, differences paired.

Cost: a quarter of an hour on two cores that have nothing else to do. Activations, codebooks and
products of vectors are kept in ``--cache``: what was killed goes on. Results:
``results/centred.json``, each set an entry.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import lab
import numpy as np
from centred_pictures import write_crops, write_objects
from kernels import Kernel, judged, kernels_of, stacked, subset
from machine import provenance, shared

from mpp_jax.config import Svm
from mpp_jax.intervals import Resampled, bootstrap, mean_of
from mpp_jax.numerics import l2_normalize
from mpp_jax.pooling import POOLINGS, candidates, parse, register_pooling
from mpp_jax.pooling.notation import BEST
from mpp_jax.pooling.variants import mean_descriptor, scale_fisher_vectors
from mpp_jax.runs.choosing import preferred
from mpp_jax.runs.settings import Job
from mpp_jax.runs.sizing import components_for
from mpp_jax.runs.training import Folds
from mpp_jax.svm import accuracy_metric, cross_validate_svm

METHODS = ("fc7", "ap10", "avg", "nfk", "csf", "mpp", "vlad", "mpp+avg")
CROPPED = ("bus", "car", "cat", "person", "train")
FACTORS: dict[str, dict[str, Any]] = {
    "K 8": {"components": 8},
    "K 16": {"components": 16},
    "K 32": {"components": 32},
    "K 64": {"components": 64},
    "K 256": {"components": 256},
    "PCA 32": {"pca": 32},
    "l2 none": {"l2": "none"},
    "l2 both": {"l2": "both"},
}
SIZED = ("mpp", "csf", "nfk", "vlad")
"""Those that are measured with other numbers K as well."""
C_AUTO = "C auto"


class Draw(NamedTuple):
    """One draw of training pictures.

    Attributes:
        job: of it; its test pictures are those of the other draws.
        targets: (N, L) of the training pictures.
    """

    job: Job
    targets: np.ndarray


def extra_poolings(scales: int) -> dict[str, list[str]]:
    """Register variants that single out a factor; return their names by what they single out."""
    if "mpp-plain" not in POOLINGS:

        @register_pooling("mpp-plain", reads="statistics")
        def plain(evidence: Any, codebook: Any) -> jax.Array:
            return l2_normalize(sum(scale_fisher_vectors(evidence, codebook)[0]))

    for number in range(1, scales + 1):
        if f"mean{number}" not in POOLINGS:
            register = register_pooling(f"mean{number}", codebook=None, scales=(number - 1,))
            register(lambda e, book: l2_normalize(mean_descriptor(e.x[0], e.mask[0])))
    numbers = range(1, scales + 1)
    return {
        "power": ["mpp-plain"],
        "fv": [f"fv{n}" for n in numbers],
        "mean": [f"mean{n}" for n in numbers],
    }


class Measured:
    """What is known of one set, with one number of training pictures.

    Attributes:
        draws: of the training pictures.
        scores: (M, L) of test pictures by representation and draw.
    """

    def __init__(self, draws: Sequence[Draw]) -> None:
        """Compute nothing yet."""
        self.draws = draws
        self.data = draws[0].job.data
        self.scores: dict[str, list[np.ndarray]] = {}
        self.facts: dict[str, list[Any]] = {}

    def add(self, names: Sequence[str], *, label: str = "", **encoder: Any) -> None:
        """Judge representations, with other settings of the encoder under ``name, label``."""
        for draw in self.draws:
            job = lab.with_pooling(draw.job, names)
            changed = replace(job.config.encoder, **encoder)
            job = replace(job, config=replace(job.config, encoder=changed))
            kernels = kernels_of(job)
            for name in names:
                kernel = stacked([kernels[atom.name] for atom in parse(name)])
                key = f"{name}, {label}" if label else name
                self._add(key, judged(kernel, draw.targets, job.config.svm.c))
                means = products(kernel, draw.targets, self.data.targets("test"))
                self.facts.setdefault(f"{key}, products", []).append(means)

    def add_auto(self, names: Sequence[str]) -> None:
        """Judge representations with C chosen by cross-validation."""
        for draw in self.draws:
            kernels = kernels_of(lab.with_pooling(draw.job, names))
            for name in names:
                kernel = stacked([kernels[atom.name] for atom in parse(name)])
                c = cross_validated(kernel, draw, Svm().cs).best_c
                self._add(f"{name}, C auto", judged(kernel, draw.targets, c))
                self.facts.setdefault(f"{name}, C auto", []).append(c)

    def add_best(self, asked: str) -> None:
        """Judge "best" as a run chooses it, and all that it chooses among."""
        stacks = candidates(asked, (), "")
        for draw in self.draws:
            kernels = kernels_of(lab.with_pooling(draw.job, [asked]))
            folds: dict[str, Folds] = {}
            for name, atoms in stacks.items():
                kernel = stacked([kernels[atom.name] for atom in atoms])
                found = cross_validated(kernel, draw, [draw.job.config.svm.c])
                folds[name] = Folds.of(found, multi_label=False)
                if name not in METHODS:
                    self._add(name, judged(kernel, draw.targets, draw.job.config.svm.c))
            number, chosen = len(self.scores.get(asked, [])), preferred(folds)
            highest = max(folds, key=lambda name: folds[name].best)
            for title, name in ((asked, chosen), (f"{asked}, the highest", highest)):
                self._add(title, self.scores[name][number])
            held_out = {name: one.best for name, one in folds.items()}
            self.facts.setdefault(asked, []).append({"chosen": chosen, "held_out": held_out})

    def _add(self, name: str, scores: np.ndarray) -> None:
        self.scores.setdefault(name, []).append(scores)
        print(
            f"  {name}: {100 * accuracy_metric(scores, self.data.targets('test')):.2f}", flush=True
        )

    def resampled(self) -> dict[str, Resampled]:
        """Return every representation's top-1, the mean over draws, on the same resamples."""
        flat = {(name, i): s for name, held in self.scores.items() for i, s in enumerate(held)}
        each = bootstrap(flat, self.data.targets("test"), "top1")
        return {
            name: mean_of([each[name, i] for i in range(len(held))])
            for name, held in self.scores.items()
        }


def products(kernel: Kernel, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Return mean products of vectors: of one class, of two; and of one class, test by training."""
    alike = train @ train.T == train.shape[1]
    others = alike & ~np.eye(len(train), dtype=bool)
    new = test @ train.T == train.shape[1]
    return {
        "within": float(kernel.train[others].mean()),
        "between": float(kernel.train[~alike].mean()),
        "new within": float(kernel.cross[new].mean()),
        "new between": float(kernel.cross[~new].mean()),
    }


def cross_validated(kernel: Kernel, draw: Draw, cs: Sequence[float]) -> Any:
    """Return the cross-validation that a run makes."""
    config = draw.job.config
    key = jax.random.key(config.seed)
    return cross_validate_svm(
        kernel.train, draw.targets, cs, config.svm.folds, key=key, metric=accuracy_metric
    )


def measure(draws: Sequence[Draw], scales: int, factors: Sequence[str]) -> dict[str, Any]:
    """Return everything that is asked of one set, as JSON values.

    Args:
        draws: of the set.
        scales: how many.
        factors: those of the command line that are looked into.
    """
    set_ = Measured(draws)
    set_.add(METHODS)
    set_.add_best(BEST)
    extra = extra_poolings(scales)
    for factor in factors:
        if factor in extra:
            set_.add(extra[factor])
        elif factor == C_AUTO:
            set_.add_auto([name for name in ("fc7", "ap10", "avg", "mpp") if name in METHODS])
        else:
            names = SIZED if "components" in FACTORS[factor] else ("mpp",)
            set_.add(names, label=factor, **FACTORS[factor])
    found = set_.resampled()
    top1 = {name: found[name].interval._asdict() for name in found}
    single = [name for name in METHODS if "+" not in name]
    strongest = max(single, key=lambda name: found[name].value)
    data = set_.data
    return {
        "classes": len(data.classes),
        "pictures": {s: len(data.split(s)) for s in ("train", "test")},
        "draws": len(draws),
        "config": draws[0].job.config.to_dict(),
        "top1": top1,
        "best_single": strongest,
        "minus_best_single": {
            name: found[name].minus(found[strongest])._asdict() for name in found
        },
        "minus_mpp": {name: found[name].minus(found["mpp"])._asdict() for name in found},
        "facts": set_.facts,
    }


def draws_of(job: Job, few: int, count: int) -> list[Draw]:
    """Return disjoint draws of the training pictures, ``few`` of each class, on one test set."""
    jobs = [subset(job, range(i * few, (i + 1) * few)) for i in range(count)]
    return [Draw(one, one.data.targets("train")) for one in jobs]


def report(record: dict[str, Any]) -> str:
    """Return the result as Markdown tables, in per cent."""
    lines = []
    for name, found in record["sets"].items():
        lines.append(f"{name}: {found['classes']} classes, {found['pictures']}")
        rows = (
            [
                method,
                f"{100 * value['value']:.1f}",
                f"{100 * value['low']:.1f} to {100 * value['high']:.1f}",
                shown(found["minus_best_single"][method]),
            ]
            for method, value in found["top1"].items()
        )
        head = ["", "top-1", "95% interval", f"minus {found['best_single']}"]
        lines += [lab.markdown(head, rows), ""]
    return "\n".join(lines)


def shown(gain: dict[str, float]) -> str:
    """Return a difference and its interval in points, "-2.1 [-4.0, -0.3]"."""
    d = {key: 100 * value for key, value in gain.items()}
    return f"{d['value']:+.1f} [{d['low']:+.1f}, {d['high']:+.1f}]"


def main() -> None:
    parser = lab.parser(__doc__.split("\n\n")[0], "centred", scales=4)
    parser.add_argument("--few", type=int, default=15, help="training pictures of each class")
    parser.add_argument("--shapes", type=int, default=4, help="painted: their pairs are classes")
    parser.add_argument("--test", type=int, default=8, help="painted: of each class")
    parser.add_argument("--crop-test", type=int, default=30, help="photographs: of each class")
    parser.add_argument("--draws", type=int, default=1, help="photographs: of training pictures")
    parser.add_argument("--sets", default="objects,crops")
    every = (*FACTORS, C_AUTO, "power", "fv", "mean")
    parser.add_argument("--factors", default=",".join(every), help="looked into; '' for none")
    parser.set_defaults(network="squeezenet_v11", cache=Path("activations"), components=0)
    args = parser.parse_args()
    asked = args.components
    if args.quick:
        args.few, args.shapes, args.test, args.crop_test, args.draws = 5, 2, 3, 3, 1
        args.out = args.out.with_name("centred_quick.json")
    if args.weights is None and args.network == "squeezenet_v11":
        args.weights = str(shared("weights/squeezenet_v11.npz"))
    factors = [name for name in args.factors.split(",") if name]
    if unknown := [name for name in factors if name not in every]:
        raise SystemExit(f"error: --factors {unknown[0]}: one of {', '.join(every)}")
    record = json.loads(args.out.read_text()) if args.out.exists() else {"sets": {}}
    for name in args.sets.split(","):
        folder = args.cache / "pictures" / name
        if name == "objects":
            write_objects(folder, args.shapes, args.few, args.test)
        else:
            train = args.few * args.draws
            write_crops(folder, shared("voc2007_part"), CROPPED, train, args.crop_test)
        args.data = str(folder)
        job = lab.open_job(args, [*METHODS, BEST])
        if not asked:  # of one draw, not of all pictures
            sized = components_for(args.few * len(job.data.classes))
            encoder = replace(job.config.encoder, components=sized)
            job = replace(job, config=replace(job.config, encoder=encoder))
        print(f"{name}: K = {job.config.encoder.components}", flush=True)
        lab.describe_all(job)
        draws = draws_of(job, args.few, args.draws if name == "crops" else 1)
        found = measure(draws, args.scales, factors)
        record["sets"][name] = {"made": provenance(), "network": job.network.spec.name} | found
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(report(record))
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
