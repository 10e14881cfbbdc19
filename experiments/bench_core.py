"""Speed of the statistical core against scikit-learn, scikit-image and liblinear.

    python experiments/bench_core.py              # all parts: about 8 minutes, 7 GB of memory
    python experiments/bench_core.py --part svm   # one part: 3 minutes at most on 2 cores
    python experiments/bench_core.py --quick      # fewer rows, liblinear on a sample of classes

At the paper's sizes, in float32, compilation apart. In every round each side runs once (liblinear,
a minute long, in two of them), and so does the yardstick, a 4096^3 product of JAX on this machine;
figures are medians over the rounds. A part states seconds, ratios to its peers, and its share of
the yardstick's rate.

To reach on 2 cores: ``svm`` (Gram matrix included) 30 times liblinear; ``em`` 0.7 of the yardstick;
``fisher`` 2 times scikit-image; ``pca`` 1.2 times the better solver of scikit-learn. What each part
measures: ``bench_svm.py`` and ``bench_stats.py``. Results: ``experiments/results/bench_core.json``,
where a part replaces its own earlier figures, with its own machine and date, and leaves the others.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import skimage
import sklearn
from bench_stats import bench_em, bench_fisher, bench_pca, bench_seeding, bench_vlad
from bench_svm import bench_svm
from machine import provenance

RESULTS = Path(__file__).parent / "results" / "bench_core.json"

PARTS: dict[str, Callable[[bool, int], dict[str, Any]]] = {
    "svm": bench_svm,
    "em": bench_em,
    "fisher": bench_fisher,
    "pca": bench_pca,
    "seeding": bench_seeding,
    "vlad": bench_vlad,
}


def write_json(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable; default: all")
    parser.add_argument("--quick", action="store_true", help="smaller problems, fewer rounds")
    parser.add_argument("--rounds", type=int, default=None, help="5, or 3 in quick mode")
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help=f"default: results/{RESULTS.name}, or bench_core_quick.json",
    )
    options = parser.parse_args()
    rounds = options.rounds if options.rounds is not None else (3 if options.quick else 5)
    if rounds < 1:
        parser.error(f"--rounds must be at least 1, got {rounds}")
    out = options.out or (RESULTS.with_name("bench_core_quick.json") if options.quick else RESULTS)
    report = json.loads(out.read_text()) if out.exists() else {}
    for name in options.part or PARTS:
        before = os.getloadavg()[0]
        result = PARTS[name](options.quick, rounds)
        report[name] = {
            **result,
            "quick": options.quick,
            "rounds": rounds,
            "load_average_before": before,
            **provenance(),
            "scikit_learn": sklearn.__version__,
            "scikit_image": skimage.__version__,
        }
        write_json(out, {part: report[part] for part in PARTS if part in report})
        shown = {k: v for k, v in report[name].items() if k != "seconds_of_each_round"}
        print(name, json.dumps(shown, indent=1), flush=True)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
