"""Figure 3: how much a single scale says, with SIFT-Fisher and with CNN-Fisher.

    python experiments/figure3.py               Scene-15 (200 x 200 pixels), SqueezeNet, 5 scales
    python experiments/figure3.py --quick       10 pictures a class, 2 scales: 2 minutes
    python experiments/figure3.py --data voc:PATH --network caffenet --weights FILE --scales 7

Any data set will do; of one with several labels a picture, as in the paper's own figure, figures
are mean 11-point APs, over all classes or those of ``--classes``.

The same pyramid, PCA, mixture, Fisher vector and SVM for both; descriptors are the activations of
the network, or dense SIFT (8-pixel bins, one descriptor every 8 pixels) of each scale's picture.
``fvN`` encodes scale N alone; NFK and MPP of all scales stand beside.

Cost: the network's pass (kept in ``--cache``, as codebooks and scores are; about 25 minutes for
five scales of Scene-15 on 2 cores), and SIFT, which is computed twice for training pictures and not
kept (26 GB): about an hour for five scales of all pictures, 10 minutes with
``--limit-per-class 50 --pca 64 --scales 4``.

Expected (the paper's claim): SIFT-Fisher keeps or gains towards finer scales, CNN-Fisher does not
follow the scale; the curves of the paper carry no numbers. With the options above: SIFT 72.0, 76.3,
76.8, 77.7, SqueezeNet 76.4, 82.0, 78.0, 80.4. Results: ``results/figure3.json``, ``figure3.png``.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import lab
import matplotlib.pyplot as plt
from machine import provenance

from mpp_jax.runs.settings import NOTHING, Job


def curve(job: Job, folder: Path) -> dict[str, dict[str, float]]:
    """Return the figures of every representation; they are kept in a folder."""
    scores = lab.scores_of(job, folder)
    return {name: lab.figures(values, job.data) for name, values in scores.items()}


def main() -> None:
    parser = lab.parser(__doc__.split("\n\n")[0], "figure3", scales=5)
    args = parser.parse_args()
    scales = 2 if args.quick else args.scales
    names = [*(f"fv{k + 1}" for k in range(scales)), "nfk", "mpp"]
    cnn = lab.open_job(args, names)
    arguments = vars(args) | {"network": "sift", "weights": None, "layer": None}
    sift = replace(lab.open_job(argparse.Namespace(**arguments), names), extras=NOTHING)
    table = {"cnn": curve(cnn, args.cache), "sift": curve(sift, args.cache)}
    record = {
        "made": provenance(),
        "data": cnn.data.name,
        "network": cnn.network.spec.name,
        "weights_sha256": cnn.network.weights_sha256,
        "pictures": {s: len(cnn.data.split(s)) for s in ("train", "test")},
        "classes": list(cnn.data.classes),
        "config": cnn.config.to_dict(),
        "results": table,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    picture = args.out.with_suffix(".png")
    plot(table, scales, cnn, picture)
    measure = lab.measure(cnn.data)
    for name in names:
        row = "  ".join(f"{kind} {100 * rows[name][measure]:.2f}" for kind, rows in table.items())
        print(f"{name}: {lab.measure_name(cnn.data)} {row}")
    print(f"results: {args.out}\nfigure: {picture}")


def plot(table, scales, job, file) -> None:
    """Draw accuracy by scale for both descriptors, all scales together as lines."""
    figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    measure = lab.measure(job.data)
    labels = {"cnn": f"{job.network.spec.name}-Fisher", "sift": "SIFT-Fisher"}
    where = range(1, scales + 1)
    for (kind, rows), colour in zip(table.items(), ("C0", "C3"), strict=True):
        axes.plot(where, [100 * rows[f"fv{k}"][measure] for k in where], "o-", color=colour)
        axes.annotate(
            labels[kind],
            (scales, 100 * rows[f"fv{scales}"][measure]),
            (0, 8),
            textcoords="offset points",
            ha="right",
            color=colour,
        )
        for name, style in (("mpp", "--"), ("nfk", ":")):
            value = 100 * rows[name][measure]
            axes.axhline(value, ls=style, lw=1, color=colour)
            axes.annotate(
                f"{name.upper()}, all scales {value:.1f}",
                (1, value),
                (0, 3),
                textcoords="offset points",
                fontsize=8,
                color=colour,
            )
    axes.set(xlabel="scale", ylabel=f"{lab.measure_name(job.data)}, %", xticks=list(where))
    axes.set_title(f"{job.data.name}: one scale alone")
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(file, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
