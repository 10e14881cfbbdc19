r"""What a run leaves behind: ``metrics.json`` for programs and ``report.html`` for people.

The page is one file: style, script and thumbnails are inside, nothing is fetched, and equal input
gives equal bytes. The figures that the page works out itself are in ``report_figures.py``; all
other accuracies are taken from ``metrics`` as they are.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpp_jax.files import write_file
from mpp_jax.report import figures
from mpp_jax.report.figures import PictureSource
from mpp_jax.report.map_section import MapGallery, map_rows

METRICS_KEYS = ("data", "network", "weights_sha256", "config", "results", "seconds", "pictures")
RESULT_KEYS = ("top1", "mean_class_accuracy", "map11", "per_class")
PICTURES_KEYS = ("train", "test", "skipped")


# ------------------------------------------------------------------------------ metrics.json


def write_metrics(out_dir: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Write ``metrics.json``: keys sorted, indented, NaN and infinities as ``null``.

    Args:
        out_dir: Folder; made if absent.
        metrics: ``{"data", "network", "weights_sha256", "config": {...}, "results": {METHOD:
            {"top1", "mean_class_accuracy", "map11", "per_class": {CLASS: value}}}, "seconds":
            {STAGE: s}, "pictures": {"train", "test", "skipped": [{"path", "reason"}]}}``.
            Accuracies are fractions; a figure that does not apply is None. NumPy and JAX
            numbers and arrays, tuples, paths and dataclasses are turned into plain JSON.

    Returns:
        The path of the file. It replaces an older one in one step.

    Raises:
        ValueError: A key of the schema is missing.
        TypeError: A value has no JSON form.
    """
    plain = _checked(metrics)
    text = json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return _replace_file(Path(out_dir) / "metrics.json", text + "\n")


def _plain(value: Any, where: str) -> Any:
    """``value`` as dicts, lists, strings, finite numbers and None; ``where`` names it in errors."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name), f"{where}.{name}") for name in names}
    if isinstance(value, list | tuple | range):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, np.generic | np.ndarray) or hasattr(value, "__array__"):
        return _plain(np.asarray(value).tolist(), where)
    raise TypeError(
        f"{where} is a {type(value).__name__}, which has no JSON form: give numbers, strings, "
        "None, lists, dicts, paths, arrays or dataclasses"
    )


def _checked(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """``metrics`` made plain, or one error that lists every key that is missing or misshapen."""
    plain = _plain(metrics, "metrics")
    faults: list[str] = []

    def need(held: Any, where: str, keys: Sequence[str]) -> bool:
        if not isinstance(held, dict):
            faults.append(f"{where} is no dict")
            return False
        faults.extend(f"{where} lacks {key!r}" for key in keys if key not in held)
        return all(key in held for key in keys)

    if need(plain, "metrics", METRICS_KEYS):
        need(plain["seconds"], "metrics['seconds']", ())
        if need(plain["results"], "metrics['results']", ()):
            for name, result in plain["results"].items():
                need(result, f"metrics['results'][{name!r}]", RESULT_KEYS)
        if need(plain["pictures"], "metrics['pictures']", PICTURES_KEYS):
            for i, item in enumerate(plain["pictures"]["skipped"]):
                need(item, f"metrics['pictures']['skipped'][{i}]", ("path", "reason"))
    if faults:
        raise ValueError(f"{'; '.join(faults)}: give each key, None where it does not apply")
    return plain


def _replace_file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # File names that are not valid UTF-8 come as lone surrogates; "\udc80" is JSON's own form.
    write_file(path, text.encode("utf-8", errors="backslashreplace"))
    return path


# ------------------------------------------------------------------------------ report.html


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
) -> Path:
    """Write ``report.html``, one self-contained page about a run.

    Args:
        out_dir: Folder; made if absent.
        metrics: As for :func:`write_metrics`.
        classes: The L class names, in the order of the columns of ``scores``.
        method: The primary pooling method: its accuracy leads, its errors are shown.
        labels: (N,) integers in 0..L-1, or (N, L) targets in {-1, 0, +1}, 0 = ignored.
        scores: Method name -> (N, L) finite scores, higher is likelier.
        test_paths: The N test pictures: paths, or functions that return a path, encoded bytes
            or uint8 (H, W, 3). Only the few that are shown are read; one that cannot be read
            becomes a labelled grey box.
        maps: Confidence maps of some test pictures, or why there are none.

    Returns:
        The path of the page.

    Raises:
        ValueError: A shape, a label or a score does not fit, or ``method`` has no result.
        TypeError: ``labels`` are not numbers of the kind above.
    """
    plain = _checked(metrics)
    class_names = [str(name) for name in classes]
    labels, arrays = _checked_arrays(plain, class_names, method, labels, scores, len(test_paths))
    multi_label = labels.ndim == 2
    thumbnails = figures.Thumbnails(test_paths)
    order = figures.ranking(plain["results"], "map11" if multi_label else "top1")
    gallery = maps or MapGallery()
    page: dict[str, Any] = {
        "m": plain,
        "map_gallery": gallery,
        "maps": map_rows(gallery),
        "method": method,
        "multi_label": multi_label,
        "classes": class_names,
        "pictures": len(labels),
        "comparison": figures.comparison(plain, order, method, labels, arrays),
        "per_class": figures.per_class_table(plain, order, class_names, labels),
        "notes": figures.contradictions(plain, method, labels, arrays),
        "config": figures.config_groups(plain),
        **figures.timings(plain["seconds"]),
    }
    if multi_label:
        page["false_positives"] = figures.false_positives(
            class_names, labels, arrays[method], thumbnails
        )
    else:
        page |= figures.confusion(class_names, labels, arrays[method])
        page |= figures.galleries(class_names, labels, arrays[method], thumbnails)
    return _replace_file(Path(out_dir) / "report.html", _render(page))


def _render(page: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": figures.percent, "duration": figures.duration}
    return environment.get_template("report.html.jinja").render(page)


def _checked_arrays(
    metrics: Mapping[str, Any],
    classes: Sequence[str],
    method: str,
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    n_pictures: int,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels and scores as arrays that fit each other, or an error that says what does not."""
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
