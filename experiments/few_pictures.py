"""What "best" comes to where training pictures are few: draws of Scene-15, three networks.

    python experiments/few_pictures.py             5 to 40 pictures a class, 8 draws: 2 minutes
                                                   after `public_networks.py` with the same --cache
    python experiments/few_pictures.py --quick     5 of 10 pictures a class, 2 draws, 2 scales

Folds of few pictures tell little, so that a run takes the first of its members (ap10) unless
another stack is better by a standard error (`mpp_jax.runs.choosing.preferred`). Beside that stands
the stack that is highest on the folds, whatever it gains, and the members. The codebook is that of
all training pictures, which flatters mpp; test pictures are all of them. C = 10 throughout.

Data and weights as for `public_networks.py`. Results: ``results/few_pictures.json``, an entry for
each network; others stay.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import lab
import numpy as np
from kernels import LOOSE, Kernel, judged, kernels_of, stacked
from machine import provenance
from public_networks import BEST, at_layer, open_job

from mpp_jax.pooling import candidates
from mpp_jax.runs.choosing import preferred
from mpp_jax.runs.settings import Job
from mpp_jax.runs.training import Folds
from mpp_jax.svm import accuracy_metric, cross_validate_svm

LAYERS = {"alexnet_torchvision": "pool5", "squeezenet": "fire9", "efficientnet_lite0": "block14"}
"""Networks, and the layer of mpp."""
C, FOLDS = 10.0, 5
HIGHEST, CHOSEN = "highest", "best"


def members_of(job: Job, layer: str) -> dict[str, Kernel]:
    """Return the kernels of what "best" stacks, mpp of a layer and the others of the network's."""
    own = job.config.pyramid.layer
    assert own is not None  # settled
    others = kernels_of(at_layer(job, own, [name for name in BEST if name != "mpp"]))
    return {**others, **kernels_of(at_layer(job, layer, ["mpp"]))}


def drawn(targets: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows of ``each`` training pictures of every class, (N, L) targets, in order."""
    of = targets.argmax(axis=1)
    if (fewest := int(np.bincount(of).min())) < each:
        raise SystemExit(f"error: --sizes {each}: a class has {fewest} training pictures")
    rows = [rng.permutation(np.flatnonzero(of == c))[:each] for c in range(targets.shape[1])]
    return np.sort(np.concatenate(rows))


def judge(
    kernels: Mapping[str, Kernel], targets: np.ndarray, test: np.ndarray, rows: np.ndarray
) -> dict[str, Any]:
    """Return top-1 of the test pictures by machines of some training pictures, and what is taken.

    Args:
        kernels: of the members.
        targets: (N, L) of all training pictures.
        test: (M, L) of the test pictures.
        rows: of the training pictures that there are.
    """
    folds, top1 = {}, {}
    for name, atoms in candidates("best", (), "").items():
        whole = stacked([kernels[atom.name] for atom in atoms])
        part = Kernel(whole.train[np.ix_(rows, rows)], whole.cross[:, rows])
        found = cross_validate_svm(
            part.train,
            targets[rows],
            [C],
            FOLDS,
            key=jax.random.key(0),
            metric=accuracy_metric,
            **LOOSE,
        )
        folds[name] = Folds.of(found, multi_label=False)
        top1[name] = accuracy_metric(judged(part, targets[rows], C), test)
    highest, chosen = max(folds, key=lambda name: folds[name].best), preferred(folds)
    singles = {name: top1[name] for name in BEST}
    return {**singles, HIGHEST: top1[highest], CHOSEN: top1[chosen], "chosen": chosen}


def main() -> None:
    parser = lab.parser(__doc__.split("\n\n")[0], "few_pictures", scales=4)
    parser.add_argument("--networks", default=",".join(LAYERS))
    parser.add_argument("--sizes", default="5,10,20,40", help="training pictures of each class")
    parser.add_argument("--draws", type=int, default=8)
    args = parser.parse_args()
    sizes = [int(size) for size in args.sizes.split(",")]
    if args.quick:
        args.draws, sizes = 2, [5]
        args.out = args.out.with_name("few_pictures_quick.json")
    record = json.loads(args.out.read_text()) if args.out.exists() else {}
    lines = []
    for network in args.networks.split(","):
        job = open_job(args, network, ["mpp"])
        kernels = members_of(job, LAYERS[network])
        targets, test = (job.data.targets(split) for split in ("train", "test"))
        rows: dict[str, Any] = {}
        for each in sizes:
            rng = np.random.default_rng([args.seed, each])
            found = [
                judge(kernels, targets, test, drawn(targets, each, rng)) for _ in range(args.draws)
            ]
            names = (*BEST, HIGHEST, CHOSEN)
            rows[str(each)] = {name: float(np.mean([one[name] for one in found])) for name in names}
            rows[str(each)]["kept_first"] = sum(one["chosen"] == BEST[0] for one in found)
            cells = [f"{100 * rows[str(each)][name]:.2f}" for name in names]
            lines.append([network, str(each), *cells, str(rows[str(each)]["kept_first"])])
            print(network, *lines[-1][1:], flush=True)
        record[network] = {"made": provenance(), "draws": args.draws, "by_pictures": rows}
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    head = ["", "a class", *BEST, HIGHEST, CHOSEN, f"{BEST[0]} taken"]
    print(f"\n{lab.markdown(head, lines)}\n\nresults: {args.out}")


if __name__ == "__main__":
    main()
