"""The tables of the pages say what the result files say."""

import json
import re
from typing import Any

import pytest
from helpers import EXPERIMENTS, REPOSITORY

PAGE = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
FRONT = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def result(name: str) -> Any:
    return json.loads((EXPERIMENTS / "results" / f"{name}.json").read_text(encoding="utf-8"))


def table(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table of a section, its head among them."""
    return first_table(page.split(f"\n## {heading}\n")[1].split("\n## ")[0])


def first_table(section: str) -> list[list[str]]:
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert lines is not None, section
    rows = [line.strip("|").split("|") for line in lines[0].splitlines()]
    return [[cell.strip().strip("*") for cell in row] for row in rows if "---" not in row[0]]


@pytest.mark.parametrize(
    ("page", "heading"), [(FRONT, "Results"), (PAGE, "Scene-15 by the number of scales")]
)
def test_scene15(page: str, heading: str) -> None:
    found = {
        (row["codebook_scales"], row["encoded_scales"]): row["methods"]
        for row in result("scene15")["results"]
    }
    head, *rows = table(page, heading)
    for name, *cells in rows:
        n = int(name[-1])
        methods = found[max(n, 4), n]
        assert cells == [f"{100 * methods[method]['top1']:.2f}" for method in head[1:]], name


@pytest.mark.parametrize(
    ("network", "heading"),
    [
        ("alexnet_torchvision", "VOC 2007, a part of it, by the number of scales"),
        ("squeezenet", "VOC 2007, the same part, SqueezeNet"),
    ],
)
def test_voc2007_part(network: str, heading: str) -> None:
    found = result(f"voc2007_part_{network}")
    head, *rows = table(PAGE, heading)
    assert len(rows) == 6
    for n, (_, *cells) in enumerate(rows):
        assert cells == [f"{100 * found['map11_by_scales'][m][n]:.2f}" for m in head[1:]]
    text = " ".join(PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0].split())
    for method, gain in found["mpp_minus"].items():
        d = {key: 100 * value for key, value in gain.items()}
        if method != "mpp+sp" or network == "squeezenet":  # else said the other way round
            interval = f"{d['difference']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]"
            assert f"`{method}` by {interval}" in text
    for method in ("nfk", "mpp"):
        for n in (4, 5):
            mean, deviation = (found[f"seeds_{x}"][method][n] for x in ("mean", "deviation"))
            assert f"{100 * mean:.2f} ± {100 * deviation:.2f}" in text


@pytest.mark.parametrize(
    ("data", "scales", "network", "heading"),
    [
        ("scene15", 4, "efficientnet_lite0", "which layer and pooling is best"),
        ("scene15", 4, "squeezenet", "SqueezeNet"),
        ("scene15", 5, "squeezenet", "SqueezeNet, five scales"),
        ("scene15", 4, "alexnet_torchvision", "AlexNet"),
        ("scene15", 5, "alexnet_torchvision", "AlexNet, five scales"),
        ("scene15", 5, "efficientnet_lite0", "five scales"),
        ("VOC2007", 4, "efficientnet_lite0", ""),
        ("VOC2007", 5, "efficientnet_lite0", ": five scales"),
    ],
)
def test_public_networks(data: str, scales: int, network: str, heading: str) -> None:
    import public_networks

    name = {"scene15": "Scene-15: ", "VOC2007": "VOC 2007, a part of it"}[data]
    heading = f"Public networks on {name}{heading}"
    entry = result("public_networks")[data][f"{scales} scales"][network]
    shown = [line for line in public_networks.show(entry).splitlines() if "---" not in line]
    want = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown]
    assert table(PAGE, heading) == want


@pytest.mark.parametrize(
    ("data", "heading"),
    [("scene15", "Retrieval on Scene-15"), ("VOC2007", "Retrieval on VOC 2007, a part of it")],
)
def test_retrieval(data: str, heading: str) -> None:
    """Mean average precision, and the share of the ten nearest that are found."""
    head, *rows = table(PAGE, heading)
    found = result("retrieval")[data]["results"]
    assert [name for name, *_ in rows] == [*found]
    for name, *cells in rows:
        for how, cell in zip(head[1:], cells, strict=True):
            entry = found[name].get(how)
            recall = (entry or {}).get("recall", {"at": {}})["at"].get("10")
            mean = "" if entry is None else f"{100 * entry['mean']:.2f}"
            assert cell == (mean if recall is None else f"{mean} / {recall:.2f}"), (name, how)


def test_pointing() -> None:
    """Hits of both readings, chance and the centre, class by class."""
    _, *rows = table(PAGE, "Maps on real boxes: the pointing game on VOC 2007, a part of it")
    found = result("figure5_voc")["methods"]["mpp"]
    for name, pairs, *cells in rows:
        first, second = (
            {**found[how]["classes"], "mean of classes": found[how]["mean_of_classes"]}
            | {"all pairs": found[how]["all"]}
            for how in ("sum", "vote")
        )
        assert pairs == str(first[name].get("pairs", ""))
        want = (
            first[name]["hit"],
            second[name]["hit"],
            *map(first[name].get, ("chance", "centre")),
        )
        assert cells == [f"{100 * value:.1f}" for value in want]


def test_finetune() -> None:
    _, *rows = table(PAGE, "Training the codebook by the labels")
    for (name, top1, gain), (want, row) in zip(
        rows, result("finetune")["mean"].items(), strict=True
    ):
        assert name == want
        assert top1 == f"{100 * row['top1']:.2f} ± {100 * row['deviation']:.2f}"
        assert gain == f"{100 * row['over_fitted']:+.2f}"


def test_store() -> None:
    _, *rows = table(PAGE, "Encodings: a million pictures, memory, float16")
    for (pictures, *_, seconds, _), row in zip(rows, result("bench_store")["stores"], strict=True):
        assert (pictures, seconds) == (f"{row['pictures']:,}", f"{row['seconds_to_open']:.2f}")


def test_figure4() -> None:
    found = result("figure4")
    head, *rows = table(PAGE, "Figure 4: NFK against MPP by the number of scales")
    assert len(rows) == 5
    for n, (_, *cells) in enumerate(rows):
        want = [f"{100 * found['top1_by_scales'][method][n]:.2f}" for method in head[1:-1]]
        gain = {key: 100 * value for key, value in found["mpp_minus_nfk"][n].items()}
        interval = f"{gain['difference']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]"
        assert cells == [*want, interval if n else "0"]


def test_table1() -> None:
    _, *rows = table(PAGE, "Table 1: dense against crop by crop")
    for cells, row in zip(rows, result("table1")["rows"], strict=True):
        assert cells == [
            row["scales"],
            f"{row['activations']:,}",
            f"{row['naive_seconds']:.2f}",
            f"{row['dense_seconds']:.3f}",
            f"{row['ratio']:.1f}",
            f"{row['paper']['ratio']:.1f}",
        ]


def test_core() -> None:
    found = result("bench_core")
    _, *rows = table(PAGE, "The statistical core")
    for part, (_, _, _, ratio, share) in zip(
        ("svm", "em", "fisher", "pca", "seeding"), rows, strict=True
    ):
        best = min(found[part]["ratio"].values())
        assert float(ratio) == pytest.approx(best, abs=0.5 * 10 ** -len(ratio.partition(".")[2]))
        assert share == f"{found[part]['share_of_matmul_peak']:.2f}"


def test_memory() -> None:
    """Of every command, in MB; each stays under 2 GB."""
    found = result("bench_memory")

    def cell(entry: Any) -> str:
        if entry is None:
            return ""
        if isinstance(entry, list):
            return ", ".join(f"{cell(one)} {one['solver']}" for one in entry)
        assert entry["peak_bytes"] < 2e9
        return f"{entry['peak_bytes'] / 1e6:,.0f}"

    text = PAGE.split("`python experiments/bench_memory.py`")[1]
    head, *rows = first_table(text)
    for (name, *cells), row in zip(rows, found["stores"], strict=True):
        assert name == f"{row['pictures']:,} x {row['dimension']:,}"
        assert cells == [cell(row.get(stage)) for stage in head[1:]]
    shown = ", ".join(
        f"{cell(one)} of {one['pictures']:,} pictures" for one in found["compare"]["sets"]
    )
    assert shown in " ".join(text.split())


def test_compiled_programs() -> None:
    """By the package's table, and by XLA's own forms where they were compiled too."""
    _, *rows = table(PAGE, "Accelerators")
    assert len(rows) == 10
    for what, kernels, moved, held, model, rate in rows:
        network, mode, device = re.match(r"(\S+) \S+, (\w+), (\w+)$", what).groups()
        name = network.lower().replace("-", "_")
        found = [result(f"device_programs_NVIDIA_{device}_{name}")["modes"][mode]["all"]]
        if device == "H100":
            found.append(
                result(f"device_programs_NVIDIA_{device}_plain_{name}")["modes"][mode]["all"]
            )

        def cell(shown: str, name: str, found: list[Any] = found) -> str:
            return " / ".join(f"{row[name]:{shown}}" for row in found)

        assert kernels == cell("d", "kernels")
        assert moved == cell(",.0f", "megabytes")
        assert held == cell(".2f", "gib")
        assert model == f"{found[0]['gib_by_the_model']:.2f}"
        assert rate == cell(".0f", "pictures_a_second_at_best")
        assert {row["waits"] for row in found} == {0}
        assert 0.5 <= round(found[0]["gib"] / found[0]["gib_by_the_model"], 2) <= 0.8


def test_number_formats() -> None:
    """Figure, difference from float32 with its interval, and smallest cosine, on both sets."""
    _, *rows = table(PAGE, "What number formats cost")
    sets = [result(f"dtype_cost_{name}") for name in ("scene15", "voc2007_part")]
    assert [found["emulated"] for found in sets] == [["tf32", "bfloat16"]] * 2
    codebooks = {"float32's": "shared", "its own": "own", "float32's, and its machines": "crossed"}
    assert len(rows) == len(sets[0]["results"])
    for dtype, method, codebook, *cells in rows:
        want = []
        for found in sets:
            (row,) = (
                row
                for row in found["results"]
                if (row["dtype"], row["method"], row["codebook"])
                == (dtype, method, codebooks[codebook])
            )
            want.append(f"{100 * row['figure']:.2f}")
            interval = [100 * row[key] for key in ("difference", "low", "high") if key in row]
            want.append("{:+.2f} [{:+.2f}, {:+.2f}]".format(*interval) if interval else "")
            near = row["codebook"] == "shared" and "cosine" in row
            want.append(f"{row['cosine']['smallest']:.4f}" if near else "")
        assert cells == want, (dtype, method, codebook)


def test_mini() -> None:
    head, *rows = table(PAGE, "caffenet_mini, the network in the package")
    found = result("mini_scene15")["rows"]
    assert len(rows) == len(found)
    for (name, *cells), row in zip(rows, found, strict=True):
        figures = row["top1_percent"]
        want = [f"{figures[method]:.2f}" if method in figures else "" for method in head[1:]]
        assert cells == want, name
        assert row["layer"] in (None, "fc7") or row["layer"] in name
        scales = row["options"][row["options"].index("--scales") + 1]
        assert scales in (name if scales != "1-4" else head[0])


def test_clutter() -> None:
    found = list(result("clutter")["networks"].values())
    _, *rows = table(PAGE, "Clutter")
    for (_, *bands, pointing), entry in zip(rows, found, strict=True):
        for cell, band in zip(bands, ("small", "medium", "large"), strict=True):
            figures = entry["bands"][band]
            values = [100 * figures[method]["map"] for method in ("mpp", "nfk", "fc7")]
            assert cell == " / ".join(f"{value:.1f}" for value in values)
        everything = entry["pointing"]["sum"]["all"]
        shares = [100 * everything[key] for key in ("accuracy", "chance")]
        assert pointing == " / ".join(f"{value:.1f}" for value in shares)


@pytest.mark.parametrize(
    ("pictures", "heading"),
    [
        ("objects", "Centred objects, painted"),
        ("crops", "Centred objects, few training pictures"),
    ],
)
def test_centred(pictures: str, heading: str) -> None:
    found = result("centred")["sets"][pictures]
    head, *rows = table(PAGE, heading)
    assert head[-1] == f"minus {found['best_single']}"
    assert [row[0] for row in rows] == list(found["top1"])
    for name, top1, interval, gain in rows:
        value, low, high = (100 * found["top1"][name][key] for key in ("value", "low", "high"))
        assert (top1, interval) == (f"{value:.1f}", f"{low:.1f} to {high:.1f}")
        value, low, high = (
            100 * found["minus_best_single"][name][key] for key in ("value", "low", "high")
        )
        assert gain == f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def test_few_pictures() -> None:
    head, *rows = table(PAGE, "Few pictures of scenes: what the rule of best costs")
    want = []
    for network, entry in result("few_pictures").items():
        for each, row in entry["by_pictures"].items():
            assert row["best"] > max(row[name] for name in ("ap10", "avg", "mpp"))
            cells = [f"{100 * row[name]:.2f}" for name in head[2:7]]
            want.append([network, each, *cells, str(row["kept_first"])])
    assert rows == want


def test_resized_pictures_are_named() -> None:
    """Every section with figures of Scene-15 says that its copy was resized."""
    for section in [*PAGE.split("\n## ")[1:], FRONT.split("\n## Results")[1].split("\n## ")[0]]:
        if "Scene-15" in section or "scene15" in section:
            assert "resized to 200 x 200 pixels" in " ".join(section.split()), section[:60]


FAULTS = {
    "killed: `run`, `run --cache`, `fit`, `encode`, `train`": (
        *("kill run", "kill run --cache", "kill fit", "kill encode", "kill train"),
    ),
    "killed: `encode`, `run`, `fit` with `--engine ray`": (
        *(f"kill {name} --engine ray" for name in ("encode", "run", "fit")),
    ),
    "workers of these killed": (
        *(f"kill workers of {name} --engine ray" for name in ("encode", "run", "fit")),
    ),
    "disk full: `run`, `run --cache`, `fit`, `encode`, `train`, `encode --engine ray`": (
        *("full disk run", "full disk run --cache", "full disk fit", "full disk encode"),
        *("full disk train", "full disk encode --engine ray"),
    ),
    "pictures removed: `run`, `run --cache`, `fit`, `encode`, `encode --engine ray`": (
        *("removed input run", "removed input run --cache", "removed input fit"),
        *("removed input encode", "removed input encode --engine ray"),
    ),
    "a bit flipped in encodings, codebook or model: `evaluate`, `train`, `search`, `predict`, "
    "`run`": ("flip encodings", "flip codebook", "flip model"),
    "a bit flipped in the cache: `run --cache`": ("flip cache",),
}


def test_faults() -> None:
    found = result("fault_injection")["situations"]
    head, *rows = table(PAGE, "Disturbed jobs and flipped bits")
    assert sorted(found) == sorted(name for names in FAULTS.values() for name in names)
    assert [name for name, *_ in rows] == [*FAULTS]
    for name, *cells in rows:
        members = [found[each] for each in FAULTS[name]]
        assert cells == [f"{sum(row[column] for row in members)}" for column in head[1:]], name
    assert not any(row["faults"] for row in found.values())
    jobs = {name: row for name, row in found.items() if not name.startswith("flip")}
    assert sum(row["disturbed"] for row in jobs.values()) >= 300
