"""``report.html``, one page about a run for people.

The page is one file: style, script and thumbnails are inside, nothing is fetched, and equal input
gives equal bytes. The figures that the page works out itself are in `mpp_jax.report.figures`; all
other accuracies are taken from ``metrics`` as they are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpp_jax.report import figures
from mpp_jax.report.certainty import certainties, verdict
from mpp_jax.report.figures import PictureSource
from mpp_jax.report.map_section import MapGallery, map_rows
from mpp_jax.report.metrics_json import checked_metrics, is_metrics, write_text
from mpp_jax.report.scores import scores_of_run

MAKER = '<meta name="generator" content="mpp-jax">'
"""What a page of ours says of itself, so that only such a one is written over."""


def check_results_place(folder: Path) -> None:
    """Raise unless metrics, scores and report may be written to a folder: none there, or ours.

    Raises:
        ValueError: a ``metrics.json``, ``scores.npz`` or ``report.html`` of somebody else.
    """
    page, metrics = folder / "report.html", folder / "metrics.json"
    theirs = [page] if page.exists() and not is_page(page) else []
    theirs += [metrics] if metrics.exists() and not is_metrics(metrics) else []
    scores_of_run(folder).check((), ())
    if theirs:
        raise ValueError(
            f"{theirs[0]}: is there already, and was not made by this program; give another --out"
        )


def is_page(page: Path) -> bool:
    """Return whether a file is a page of this program."""
    try:
        with page.open("rb") as file:
            return MAKER.encode() in file.read(4096)
    except OSError:
        return False


def write_report(
    out_dir: str | Path,
    *,
    metrics: Mapping[str, Any],
    classes: Sequence[str],
    method: str,
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    test_paths: Sequence[PictureSource],
    maps: MapGallery | None = None,
    remarks: Sequence[str] = (),
) -> Path:
    """Write ``report.html``, one self-contained page about a run.

    Args:
        out_dir: folder; made if absent.
        metrics: as for `write_metrics`.
        classes: the L class names, in the order of the columns of ``scores``.
        method: the primary pooling method: its accuracy leads, its errors are shown.
        labels: (N,) integers in 0..L-1, or (N, L) targets in {-1, 0, +1}, 0 = ignored.
        scores: method name -> (N, L) finite scores, higher is likelier.
        test_paths: the N test pictures: paths, or functions that return a path, encoded bytes
            or uint8 (H, W, 3). Only the few that are shown are read; one that cannot be read
            becomes a labelled grey box.
        maps: confidence maps of some test pictures, or why there are none.
        remarks: notes of the data, one line each.

    Returns:
        The path of the page.

    Raises:
        ValueError: a shape, a label or a score does not fit, or ``method`` has no result.
        TypeError: ``labels`` are not numbers of the kind above.
    """
    plain = checked_metrics(metrics)
    class_names = [str(name) for name in classes]
    labels, arrays = _checked_arrays(plain, class_names, method, labels, scores, len(test_paths))
    multi_label = labels.ndim == 2
    thumbnails = figures.Thumbnails(test_paths)
    order = figures.ranking(plain["results"], "map11" if multi_label else "top1")
    gallery = maps or MapGallery()
    certainty = certainties(method, labels, arrays)
    page: dict[str, Any] = {
        "m": plain,
        "map_gallery": gallery,
        "maps": map_rows(gallery),
        "method": method,
        "chosen_among": len(_candidates(plain, method)),
        "multi_label": multi_label,
        "classes": class_names,
        "pictures": len(labels),
        "comparison": figures.comparison(plain, order, method, labels, arrays, certainty),
        "verdict": verdict(method, certainty),
        "per_class": figures.per_class_table(plain, order, class_names, labels),
        "remarks": remarks,
        "notes": figures.contradictions(plain, method, labels, arrays),
        "config": figures.config_groups(plain),
        **figures.timings(plain["seconds"], plain.get("waiting", {})),
    }
    if multi_label:
        page["false_positives"] = figures.false_positives(
            class_names, labels, arrays[method], thumbnails
        )
    else:
        page |= figures.confusion(class_names, labels, arrays[method])
        page |= figures.galleries(class_names, labels, arrays[method], thumbnails)
    return write_text(Path(out_dir) / "report.html", render("report.html.jinja", page))


def render(template: str, page: Mapping[str, Any]) -> str:
    """Return a page: a template of ours, filled."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": figures.percent, "duration": figures.duration}
    return environment.get_template(template).render(page)


def _candidates(metrics: Mapping[str, Any], method: str) -> Mapping[str, Any]:
    """Return what a representation was chosen among ("best"); nothing of one that was named."""
    return ((metrics.get("training") or {}).get(method) or {}).get("candidates") or {}


def _checked_arrays(
    metrics: Mapping[str, Any],
    classes: Sequence[str],
    method: str,
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    n_pictures: int,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return labels and scores as arrays that fit each other; raise where they do not."""
    for where, held in (("metrics['results']", metrics["results"]), ("scores", scores)):
        if method not in held:
            raise ValueError(f"method {method!r} is not in {where}, which has {sorted(held)}")
    if not classes:
        raise ValueError("classes is empty; want the L class names")
    labels = np.asarray(labels)
    shape = (n_pictures, len(classes))
    if labels.shape not in (shape[:1], shape):
        raise ValueError(
            f"labels has shape {labels.shape}; want ({shape[0]},) class numbers or {shape} "
            "targets: one row for each of test_paths, one column for each of classes"
        )
    if labels.ndim == 1:
        if not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(f"labels of shape (N,) have dtype {labels.dtype}; want integers")
        if labels.size and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(
                f"labels run from {labels.min()} to {labels.max()}; want 0 to {len(classes) - 1}, "
                "the place in classes"
            )
        labels = labels.astype(np.intp)
    elif not np.isin(labels, (-1, 0, 1)).all():
        raise ValueError("labels of shape (N, L) must be -1, 0 (ignored) or +1")
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in scores.items()}
    for name, value in arrays.items():
        if value.shape != shape:
            raise ValueError(f"scores[{name!r}] has shape {value.shape}; want {shape}")
        if not np.isfinite(value).all():
            raise ValueError(f"scores[{name!r}] holds NaN or infinity; want finite scores")
    return labels, arrays
