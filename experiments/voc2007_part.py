"""Figure 4 and Table 4(a) in kind: every method by the number of scales, on real VOC pictures.

    python experiments/voc2007_part.py                        AlexNet's pool5, 6 scales
    python experiments/voc2007_part.py --network squeezenet   fire9
    python experiments/voc2007_part.py --quick                2 scales, few pictures, K = 32

Data: ``$MPP_JAX_SHARED/data/voc2007_part``, 1,907 of the 9,963 pictures of PASCAL VOC 2007 in its
layout: all of the first 6,590 that show a bus, a car, a cat or a train, and some others; official
labels, files compressed anew. Mean 11-point AP is over the five classes that there are enough
pictures of, "difficult" ignored in training and in test. Figures show method against method; they
do not compare with those of the whole set. Weights: torchvision's AlexNet without its fully
connected layers (``data/weights``), SqueezeNet (``data/squeezenet``), or what ``--weights`` names.

One codebook of all scales S; every method encodes scales 1..n for n up to S. At S scales mpp is
compared with each other method by paired bootstrap; nfk and mpp are repeated with other codebooks
(``--seeds``).

Cost: the network's pass (kept in ``--cache``: half an hour and 4 GB for AlexNet's six scales), then
half an hour. What was killed goes on: activations, codebooks and scores are kept there.
Results: ``results/voc2007_part_NETWORK.json``, and a printed table.
"""

import json

import lab
import numpy as np
from machine import provenance, shared

METHODS = ("ap10", "avg", "nfk", "csf", "mpp", "vlad", "mpp+sp", "mpp+avg")
SEEDED = ("nfk", "mpp")
CLASSES = "bus,car,cat,person,train"
LAYERS = {"alexnet_torchvision": "pool5"}
WEIGHTS = {"alexnet_torchvision": "weights/alexnet_torchvision_conv.npz"}
ORDER = ("ap10", "avg", "mpp", "mpp+avg", "nfk", "vlad", "csf", "mpp+sp")
"""That in which methods are computed: what shares parts goes into the same pass."""


def main() -> None:
    parser = lab.parser(__doc__.split("\n\n")[0], "voc2007_part_NETWORK", scales=6)
    parser.add_argument("--seeds", default="0,1,2", help="of codebooks; the first for all methods")
    parser.set_defaults(network="alexnet_torchvision", classes=CLASSES)
    args = parser.parse_args()
    args.data = args.data or f"voc:{shared('voc2007_part')}"
    args.layer = args.layer or LAYERS.get(args.network)
    if args.weights is None and args.network in WEIGHTS:
        args.weights = str(shared(WEIGHTS[args.network]))
    args.out = args.out.with_name(args.out.name.replace("NETWORK", args.network))
    seeds = [int(seed) for seed in args.seeds.split(",")]
    job = lab.open_job(args, METHODS)  # sets the scales of --quick
    scales = args.scales
    names = {method: lab.ranged(method, scales) for method in METHODS}
    lab.describe_all(job)

    whole = lab.with_pooling(job, [name for m in ORDER for name in names[m]], seeds[0])
    scores = lab.scores_of(whole)
    figures = {
        method: [lab.figures(scores[name], job.data)["map11"] for name in row]
        for method, row in names.items()
    }
    gains = {
        method: lab.paired_bootstrap(scores[names["mpp"][-1]], scores[row[-1]], job.data)
        for method, row in names.items()
        if method != "mpp"
    }
    by_seed = {method: [figures[method]] for method in SEEDED}
    for seed in seeds[1:]:
        other = lab.with_pooling(job, [name for m in SEEDED for name in names[m]], seed)
        found = lab.scores_of(other)
        for method in SEEDED:
            values = [lab.figures(found[name], job.data)["map11"] for name in names[method]]
            by_seed[method].append(values)
    record = {
        "made": provenance(),
        "data": job.data.name,
        "network": job.network.spec.name,
        "weights_sha256": job.network.weights_sha256,
        "pictures": {s: len(job.data.split(s)) for s in ("train", "test")},
        "classes": {
            name: {s: int((job.data.targets(s)[:, i] > 0).sum()) for s in ("train", "test")}
            for i, name in enumerate(job.data.classes)
        },
        "config": job.config.to_dict() | {"pooling": list(METHODS)},
        "map11_by_scales": figures,
        "per_class": {m: lab.per_class(scores[row[-1]], job.data) for m, row in names.items()},
        "mpp_minus": gains,
        "seeds": seeds,
        "by_seed": by_seed,
        "seeds_mean": {m: np.mean(rows, axis=0).tolist() for m, rows in by_seed.items()},
        "seeds_deviation": {m: _deviation(rows) for m, rows in by_seed.items()},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(report(record))
    print(f"results: {args.out}")


def _deviation(rows: list[list[float]]) -> list[float] | None:
    """Return the standard deviation of seeds, with N - 1; None of a single one."""
    return np.std(rows, axis=0, ddof=1).tolist() if len(rows) > 1 else None


def report(record: dict) -> str:
    """Return the result as Markdown tables, in per cent."""
    curves, scales = record["map11_by_scales"], len(record["map11_by_scales"]["mpp"])
    ranges = ["1" if n == 1 else f"1-{n}" for n in range(1, scales + 1)]
    lines = [
        f"mAP (11 points) over {', '.join(record['classes'])}; {record['network']}, layer "
        f"{record['config']['pyramid']['layer']}\n",
        lab.markdown(
            ["scales", *METHODS],
            ([r, *(f"{100 * curves[m][n]:.2f}" for m in METHODS)] for n, r in enumerate(ranges)),
        ),
        "",
        lab.markdown(
            [f"mpp - ..., scales {ranges[-1]}", *record["mpp_minus"]],
            [["95% interval", *map(lab.shown, record["mpp_minus"].values())]],
        ),
        "",
        lab.markdown(
            [f"seeds {', '.join(map(str, record['seeds']))}", *ranges],
            ([method, *_spread(record, method)] for method in SEEDED),
        ),
    ]
    return "\n".join(lines)


def _spread(record: dict, method: str) -> list[str]:
    means, deviations = record["seeds_mean"][method], record["seeds_deviation"][method]
    if deviations is None:
        return [f"{100 * mean:.2f}" for mean in means]
    pairs = zip(means, deviations, strict=True)
    return [f"{100 * mean:.2f} ± {100 * deviation:.2f}" for mean, deviation in pairs]


if __name__ == "__main__":
    main()
