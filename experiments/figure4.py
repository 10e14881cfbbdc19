"""Figure 4: naive Fisher kernel against multi-scale pyramid pooling, by the number of scales.

    python experiments/figure4.py               Scene-15 (200 x 200 pixels), SqueezeNet, 5 scales
    python experiments/figure4.py --quick       10 pictures a class, 2 scales: 1 minute
    python experiments/figure4.py --data voc:PATH --network caffenet --weights FILE --scales 7

Any data set will do; of one with several labels a picture, as in the paper's own figure, the curves
are mean 11-point APs, over all classes or those of ``--classes``.

Cost: one pass of the network (kept in ``--cache``; five scales of Scene-15 take about 25 minutes on
2 cores), then about 15 minutes. The codebook is fitted to all scales once; the curves encode scales
1..n. Differences have 95% intervals by paired bootstrap over the test pictures.

Expected (the paper's claim): NFK stalls or falls as finer scales come in while MPP does not, and
MPP is above NFK at the finest range. The paper's own figure prints no numbers on its curves; the
seven-scale accuracies of its tables stand in the result. Results: ``results/figure4.json`` and
``figure4.png``.
"""

import itertools
import json

import lab
import matplotlib.pyplot as plt
from machine import provenance

METHODS = ("nfk", "mpp", "csf", "avg")
PAPER = {
    "MIT Indoor 67": {"nfk": 71.49, "mpp": 75.67},
    "VOC 2007": {"nfk": 74.96, "mpp": 79.54},
    "Oxford Flowers 102": {"nfk": 88.44, "mpp": 91.28},
}
"""Accuracy or mAP in per cent at all seven scales, Tables 3, 4 and 6 (AlexNet's fc7)."""
STYLE = {"nfk": ("C3", "o-"), "mpp": ("C0", "s-"), "csf": ("C2", "^--"), "avg": ("C7", "d:")}


def main() -> None:
    parser = lab.parser(__doc__.split("\n\n")[0], "figure4", scales=5)
    args = parser.parse_args()
    scales = 2 if args.quick else args.scales
    names = {method: lab.ranged(method, scales) for method in METHODS}
    job = lab.open_job(args, [name for row in names.values() for name in row])
    scores = lab.scores_of(job)
    curves = {
        method: [lab.figures(scores[name], job.data)[lab.measure(job.data)] for name in row]
        for method, row in names.items()
    }
    differences = [
        lab.paired_bootstrap(scores[mpp], scores[nfk], job.data)
        for mpp, nfk in zip(names["mpp"], names["nfk"], strict=True)
    ]
    steps = {
        method: [
            lab.paired_bootstrap(scores[after], scores[before], job.data)
            for before, after in itertools.pairwise(row)
        ]
        for method, row in names.items()
    }
    record = {
        "made": provenance(),
        "data": job.data.name,
        "network": job.network.spec.name,
        "weights_sha256": job.network.weights_sha256,
        "pictures": {s: len(job.data.split(s)) for s in ("train", "test")},
        "classes": list(job.data.classes),
        "config": job.config.to_dict() | {"pooling": list(METHODS)},
        f"{lab.measure(job.data)}_by_scales": curves,
        "mpp_minus_nfk": differences,
        "gain_of_one_more_scale": steps,
        "paper_at_seven_scales": PAPER,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    picture = args.out.with_suffix(".png")
    plot(curves, differences, job, picture)
    print(f"{job.data.name}, {lab.measure_name(job.data)}, %")
    for n in range(scales):
        row = "  ".join(f"{method} {100 * curves[method][n]:.2f}" for method in METHODS)
        print(f"scales 1-{n + 1}: {row}   mpp - nfk {lab.shown(differences[n])}")
    print(f"results: {args.out}\nfigure: {picture}")


def plot(curves, differences, job, place) -> None:
    """Draw our curves, the difference with its interval, and the paper's seven-scale figures."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(12, 4), width_ratios=(3, 2.4, 2), layout="constrained"
    )
    ranges = [f"1-{n + 1}" if n else "1" for n in range(len(differences))]
    for method, values in curves.items():
        colour, marks = STYLE[method]
        left.plot(ranges, [100 * v for v in values], marks, color=colour, label=method.upper())
    title = f"{job.data.name}, {job.network.spec.name}"
    left.set(xlabel="scales", ylabel=f"{lab.measure_name(job.data)}, %", title=title)
    left.legend()
    points = [100 * d["difference"] for d in differences]
    low = [p - 100 * d["low"] for p, d in zip(points, differences, strict=True)]
    high = [100 * d["high"] - p for p, d in zip(points, differences, strict=True)]
    middle.errorbar(ranges, points, yerr=[low, high], fmt="s", capsize=4, color="C0")
    middle.axhline(0, color="0.6", lw=1)
    middle.set(xlabel="scales", ylabel="points", title="MPP - NFK, 95% paired bootstrap")
    for i, (name, row) in enumerate(PAPER.items()):
        right.plot([i - 0.1], [row["nfk"]], "o", color="C3")
        right.plot([i + 0.1], [row["mpp"]], "s", color="C0")
        right.annotate(name, (i, row["nfk"] - 1.2), ha="center", va="top", fontsize=8)
    right.set(title="the paper, AlexNet fc7, scales 1-7", ylabel="accuracy or mAP, %", xticks=[])
    right.set(xlim=(-0.7, 2.7), ylim=(68, 93))
    for axes in (left, middle, right):
        axes.grid(axis="y", alpha=0.3)
    figure.savefig(place, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
