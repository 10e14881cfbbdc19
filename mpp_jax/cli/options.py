"""Options of the command line, and how their texts become settings. Nothing heavy is imported."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click

from mpp_jax.cli.codebook_options import codebook_options, grouped
from mpp_jax.cli.job_options import label_field_option, split_field_option
from mpp_jax.cli.places import PATH
from mpp_jax.config import AUTO, AUTOMATIC, Dtype, Run, preset, with_fidelity
from mpp_jax.nets.registry import DEFAULT_NETWORK

SVM_OPTIONS = ("c", "folds", "probabilities", "solver")
"""Options that are settings of the machines, by the same names."""


def read_scales(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Read "1-7", "3" or "1,2,4-6", counted from 1 as in the paper, into numbers from 0."""
    chosen: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            low, high = int(first), int(last or first)
        except ValueError:
            low, high = 0, 0
        if not 1 <= low <= high <= 16:
            raise click.BadParameter(f"{text!r}: write scales as 1-7, 3 or 1,2,4-6 (from 1 to 16)")
        chosen |= set(range(low - 1, high))
    return tuple(sorted(chosen))


def read_names(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    """Read "a,b(c,d)+e" into a tuple of names."""
    if text is None:
        return None
    # At the commas outside parentheses; what the names mean is read where jax is loaded.
    parts, depth = [""], 0
    for letter in "".join(text.lower().split()):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    names = tuple(part for part in parts if part)
    if not names:
        raise click.BadParameter("name at least one representation")
    return names


def read_features(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, Path]:
    """Read NAME=FILE into {name: file}."""
    files: dict[str, Path] = {}
    for text in texts:
        name, _, file = text.partition("=")
        if not name or not file or name.lower() in files:
            raise click.BadParameter(f"{text!r}: write NAME=FILE, each name once")
        files[name.lower()] = Path(file)
    return files


def read_cost(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> float | str | None:
    """Read a positive number, or "auto"."""
    if text is None or text.lower() == AUTO:
        return text and AUTO
    try:
        cost = float(text)
    except ValueError:
        cost = 0.0
    if not 0 < cost < float("inf"):
        raise click.BadParameter(f"{text!r}: give a positive number, or auto")
    return cost


def read_seeds(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    """Read a number of seeds, "3" for 0, 1 and 2, or the seeds themselves, "0,4"."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r}: give how many seeds, 3, or which, 0,1,4")
    numbers = [int(part) for part in parts]
    seeds = tuple(range(numbers[0]) if len(numbers) == 1 else numbers)
    if not seeds or len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"{text!r}: give one seed or more, each once")
    return seeds


def read_file(
    context: click.Context, parameter: click.Parameter, file: Path | None
) -> dict[str, Any] | None:
    """Read the settings of an earlier command: config.json, metrics.json or a record.json."""
    if file is None:
        return None
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{file}: cannot be read ({error}); give a config.json") from error
    if not isinstance(held, dict):
        raise click.BadParameter(f"{file}: holds no settings; give a config.json or metrics.json")
    return held if "config" in held else {"config": held}


quiet_option = click.option("--quiet", is_flag=True, help="Print only results and skipped inputs.")
devices_option = click.option(
    "--devices",
    type=click.IntRange(min=1),
    metavar="N",
    envvar="MPP_JAX_DEVICES",
    show_envvar=True,
    help="Spread the work over so many devices. [default: all accelerators; one CPU]",
)
weights_option = click.option(
    "--weights",
    metavar="FILE",
    help="The network's weight file, or its address. Without it the one in the package or the "
    "cache folder is taken, or the public one downloaded (its hash is checked).",
)
pooling_option = click.option(
    "--pooling",
    callback=read_names,
    metavar="NAMES",
    help="Representations, comma-separated; the first one headlines. fc7, ap1, ap10, ap50, avg, "
    "nfk, csf, mpp, mpp-entropy, mop, fv1..fv7, vlad, bow, sv, gmp, cov, max, gem, ifk; of another "
    "layer as mpp(pool5), on a spatial grid as mpp+sp or mpp+sp1x1_2x2, stacked as mpp+avg; best "
    "is the stack of ap10, avg and mpp, or best(a,b,c) of others, that does best on held-out folds "
    "of the training pictures, the first of them unless another is better by a standard error; "
    "the paper's MPP(Alex-FC7,Pool5)+SP is understood. "
    f"[default: {','.join(Run().pooling)}; without best where there are more than 10,000 training "
    "pictures, or too few for folds; those of an earlier run in the same folder]",
)
data_options = grouped(
    click.option(
        "--test-fraction",
        default=0.2,
        show_default=True,
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Share of each class that is tested on, where DATA has no split.",
    ),
    click.option(
        "--split-train",
        metavar="NAMES",
        help="Splits to train on, joined by +, where DATA has several (voc:, flowers102:, tfds:, "
        "wds:). [default: trainval of voc:, trnid+valid of flowers102:]",
    ),
    click.option(
        "--split-test",
        metavar="NAMES",
        help="Splits to test on. [default: test of voc:, tstid of flowers102:]",
    ),
    label_field_option,
    split_field_option,
    click.option(
        "--train-per-class",
        type=click.IntRange(min=1),
        metavar="N",
        help="Pictures of each class that are drawn for training from caltech101: and scene15:. "
        "[default: 30 and 100]",
    ),
    click.option(
        "--limit-per-class",
        type=click.IntRange(min=1),
        metavar="N",
        help="Keep N seeded pictures of each class in each split.",
    ),
    click.option(
        "--seed",
        default=0,
        show_default=True,
        type=click.IntRange(min=0),
        help="Of splits, limits, the descriptor sample, PCA, the mixture and folds.",
    ),
)
seeds_option = click.option(
    "--seeds",
    callback=read_seeds,
    metavar="N|LIST",
    help="Run with several seeds, 3 (for 0, 1 and 2) or 0,1,4, each into OUT/seed-N, and report "
    "mean and deviation. What --seed governs changes, all of it: where DATA has its own split, the "
    "codebook alone, so fc7, avg and others without one have deviation 0 (but for --c auto and "
    "--solver primal, which draw too). Activations are computed once, and kept in half of the free "
    "memory or in --cache; where they do not fit, it is said, and what that costs.",
)
network_option = click.option(
    "--network", default=DEFAULT_NETWORK, show_default=True, help="See `weights list`."
)


def scales_option(default: str) -> Callable[[Any], Any]:
    """Return the option --scales with a default of the command's own."""
    return click.option(
        "--scales",
        default=default,
        show_default=True,
        callback=read_scales,
        help="Scales of the pyramid: 1 is the network's own input side, each next has twice the "
        "area.",
    )


fit_options = grouped(
    click.option(
        "--config",
        "config_file",
        type=PATH,
        callback=read_file,
        metavar="FILE",
        help="Settings of an earlier run: its config.json, or metrics.json. What is given on the "
        "command line wins.",
    ),
    network_option,
    weights_option,
    devices_option,
    click.option("--layer", metavar="NAME", help="Activation to pool. [default: the network's]"),
    scales_option("1-7"),
    codebook_options,
    click.option(
        "--dtype",
        default="auto",
        show_default=True,
        type=click.Choice(get_args(Dtype)),
        help="In which the network computes: float32; tf32, its fast form on NVIDIA GPUs; "
        "bfloat16. auto: the fastest that was measured to cost no accuracy: float32 on CPUs, tf32 "
        "on NVIDIA GPUs, bfloat16 on TPUs. What it comes to is recorded.",
    ),
    click.option(
        "--fidelity",
        default="paper",
        show_default=True,
        type=click.Choice(["paper", "author"]),
        help="Details as the paper has them, or as its first author's published experiments.",
    ),
)
pictures_arguments = grouped(
    click.argument("pictures", nargs=-1, metavar="PICTURE..."),
    click.option(
        "--list",
        "lists",
        multiple=True,
        type=PATH,
        metavar="FILE",
        help="File that names pictures, one a line (- for standard input). PICTURE may be a file, "
        "a folder, or - for one picture from standard input.",
    ),
)
plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Python file that registers pooling variants or networks of your own. May be repeated.",
)
extra_options = grouped(
    click.option(
        "--features",
        "features",
        multiple=True,
        callback=read_features,
        metavar="NAME=FILE",
        help="Vectors computed elsewhere (.npz of ids and vectors), to be stacked as mpp+NAME. May "
        "be repeated. Encodings rest on the file as a whole: they do not grow with it.",
    ),
    click.option(
        "--cache",
        type=PATH,
        metavar="FOLDER",
        help="Keep activations there (float16) and take those that are there already, of whatever "
        "run.",
    ),
)
svm_options = grouped(
    click.option(
        "--c",
        callback=read_cost,
        metavar="NUMBER|auto",
        help="SVM cost: 0.5 |w|^2 + C sum hinge. auto chooses, for each representation, among "
        f"{', '.join(f'{c:g}' for c in Run().svm.cs)} by folds of the training pictures. "
        "[default: 10]",
    ),
    click.option(
        "--folds",
        type=click.IntRange(min=2),
        metavar="N",
        help="Folds of --c auto and --probabilities, drawn with the run's seed, each class shared "
        "out evenly. [default: 5]",
    ),
    click.option(
        "--probabilities/--no-probabilities",
        default=None,
        help="Fit a sigmoid for each class to the scores of held-out folds, so that `predict` "
        "gives probabilities as well.",
    ),
    click.option(
        "--solver",
        type=click.Choice(["auto", "gram", "streamed", "primal"]),
        help="How machines are trained: gram holds all training vectors in memory, streamed reads "
        "them by blocks for the same Gram matrix (N x N), primal reads mini-batches and needs no "
        "such matrix. auto takes the first for which there is memory, and says so. "
        "[default: auto]",
    ),
)


_PLACES = {
    "pca": ("encoder", "pca"),
    "components": ("encoder", "components"),
    "samples": ("encoder", "samples"),
    "finetune": ("encoder", "finetune"),
    "l2": ("encoder", "l2"),
    "whiten": ("encoder", "whiten"),
    "scales": ("pyramid", "scales"),
    "layer": ("pyramid", "layer"),
    **{name: ("svm", name) for name in SVM_OPTIONS},
    "pooling": ("", "pooling"),
    "seed": ("", "seed"),
    "dtype": ("", "dtype"),
    "store_dtype": ("", "store_dtype"),
}
"""Where in a configuration each option belongs: (part, setting)."""


def read_config(options: dict[str, Any]) -> Run:
    """Put what was chosen into a configuration.

    Settings come from the command line, else from the file of --config, else from --fidelity, else
    they are the options' own defaults. The network and the seed that were settled so are put into
    ``options``.

    Raises:
        ValueError: settings in the file that are unknown or out of range.
    """
    file = options.get("config_file")
    given = click.get_current_context().get_parameter_source
    typed = {name for name in options if given(name) is click.core.ParameterSource.COMMANDLINE}
    fidelity = preset(options["fidelity"])
    if file is None:
        run, wins = fidelity, {name for name in _PLACES if options.get(name) is not None}
        if options["fidelity"] != "author":
            run = replace(run, encoder=replace(run.encoder, components=AUTOMATIC))
    else:
        run, wins = Run.from_dict(file["config"]), typed
        if "fidelity" in typed:
            run = with_fidelity(run, options["fidelity"])
        if "network" in file and "network" not in typed:
            options["network"] = file["network"]
        if "components" not in file["config"].get("encoder", {}) and run.fidelity != "author":
            run = replace(run, encoder=replace(run.encoder, components=AUTOMATIC))
    settings = run.to_dict()
    for name, (part, setting) in _PLACES.items():
        if name in wins and options.get(name) is not None:
            (settings[part] if part else settings)[setting] = options[name]
    run = Run.from_dict(settings)
    options["seed"] = run.seed  # of splits and limits too
    return run
