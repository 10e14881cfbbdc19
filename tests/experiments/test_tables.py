"""The paper's tables on small archives in the official layouts, with the network in the package."""

import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy
from helpers.paper_archives import write_flowers_set, write_mit67_set, write_voc_set

from mpp_jax.data import open_dataset
from mpp_jax.runs import pipeline

Tables = Callable[..., dict[str, Any]]
TABLES = ("table3_mit67", "table4_voc07", "table5_voc07_per_class", "table6_flowers")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    """Return a function that runs a table's script, and returns its result."""

    def run(name: str, *arguments: str, **options: Any) -> dict[str, Any]:
        out = tmp_path / f"{name}.json"
        given = {"runs": tmp_path / "runs", "out": out} | options
        named = [f"--{key.replace('_', '-')}={value}" for key, value in given.items()]
        monkeypatch.setattr("sys.argv", [f"{name}.py", *named, *arguments])
        importlib.import_module(name).main()
        return json.loads(out.read_text())

    return run


@pytest.fixture
def toy_table(table: Tables, tmp_path: Path, toy_known: None) -> Tables:
    """The same with the toy network, whose layers have other names than the paper's."""
    weights = toy.write_weights(tmp_path / "toy.safetensors")
    given = {"network": "toy", "weights": weights, "layer": "fire2", "lower": "conv1"}
    return partial(table, **given, scales=2, pca=4, components=2)


def test_table3(
    toy_table: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    data = f"mit67:{write_mit67_set(tmp_path / 'mit67')}"
    found = toy_table("table3_mit67", data=data)
    *rows, dsfl = found["rows"]
    assert [row["paper"] for row in rows][:3] == [57.91, 60.90, 60.37]
    assert dsfl["not_run"].startswith("needs --dsfl FILE")
    assert [row["pooling"] for row in rows[-2:]] == ["mpp+sp", "mpp(fire2,conv1)"]
    for row in rows:
        assert row["difference"] == row["ours"] - row["paper"]
        assert 0 <= row["mean_class_accuracy"] <= 100
    assert found["config"]["svm"]["c"] == 10
    [pair] = [p for p in found["pairs"] if p["methods"] == ["MPP(Alex-FC7)", "NFK(Alex-FC7)"]]
    assert pair["paper"] == pytest.approx(4.18)
    assert pair["low"] <= pair["difference"] <= pair["high"]
    printed = capsys.readouterr().out
    assert f"| MPP(Alex-FC7) | 75.67 | {rows[5]['ours']:.2f} |" in printed
    assert "| MPP(Alex-FC7)+DSFL[37] | 80.78 | not run: needs --dsfl FILE" in printed
    assert "| Gong et al. '14 | VLAD Concat.(Alex-FC7) | 68.90 |" in printed
    assert "network toy (caffenet), layer fire2 (fc7)" in printed

    # The same again with features: all else is there already.
    items = open_dataset(data).items
    features = tmp_path / "dsfl.npz"
    labels = np.eye(4)[[item.labels[0] for item in items]]
    np.savez(features, ids=np.array([item.id for item in items]), vectors=labels)
    monkeypatch.setattr(pipeline, "train", None)
    again = toy_table("table3_mit67", data=data, dsfl=features)
    *same, stacked = again["rows"]
    assert same == rows
    assert stacked["ours"] == 100  # the labels themselves
    monkeypatch.setattr(pipeline, "encode_dataset", None)
    monkeypatch.setattr(pipeline, "fit", None)
    other = toy_table("table3_mit67", data=data, dsfl=features, lower="conv9")["rows"]
    assert other[7]["not_run"].startswith("needs a layer 'conv9' beside 'fire2', which toy")
    assert other[:7] + other[8:] == again["rows"][:7] + again["rows"][8:]


def test_tables_4_and_5(
    toy_table: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import paper_tables

    # The second network is the first one's twin; its "fc8" is a layer that it has.
    monkeypatch.setattr(paper_tables, "CNN_S", "toy")
    monkeypatch.setattr(paper_tables, "ABOVE", "conv1")
    data = f"voc:{write_voc_set(tmp_path)}"
    alone = toy_table("table4_voc07", data=data)
    assert [row["not_run"] for row in alone["rows"] if "not_run" in row] == [
        "needs --cnn-s-weights FILE, the weights of CNN-S"
    ] * 2
    weights = tmp_path / "toy.safetensors"
    found = toy_table("table4_voc07", data=data, cnn_s_weights=weights, seeds="0,1")
    assert found["measure"] == "map11"
    assert found["config"]["svm"]["c"] == 1
    by_name = {row["method"]: row for row in found["rows"]}
    assert by_name["MPP(CNNS-FC7,FC8)"]["pooling"] == "mpp(fire2,conv1)"
    for row in found["rows"]:
        assert ("deviation" in row) == (row["pooling"] not in ("ap1", "ap10", "ap50"))
        if "deviation" in row:
            assert row["ours"] == np.mean(row["by_seed"])
    assert by_name["MPP(Alex-FC7)"]["by_seed"][0] == alone["rows"][5]["ours"]
    # The table of classes takes all of it.
    for name in ("fit", "encode_dataset", "train"):
        monkeypatch.setattr(pipeline, name, None)
    fifth = toy_table("table5_voc07_per_class", data=data, cnn_s_weights=weights)
    for row in fifth["rows"]:
        values = [entry["ours"] for entry in row["per_class"].values()]
        assert list(row["per_class"]) == ["bus", "car", "cat", "train"]
        assert row["ours"] == pytest.approx(np.mean(values))
    bus = fifth["rows"][2]["per_class"]["bus"]
    assert bus["paper"] == 80.0
    assert f"80.0, {bus['ours']:.1f}, {bus['ours'] - 80:+.1f}" in capsys.readouterr().out


def test_table6_killed_and_given_again(
    toy_table: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    data = f"flowers102:{write_flowers_set(tmp_path / 'flowers')}"
    train, trained, most = pipeline.train, [], 3

    def watched(store: Any, codebooks: Any, made: Any, names: list[str], **options: Any) -> Any:
        if len(trained) == most:
            raise KeyboardInterrupt
        trained.extend(names)
        return train(store, codebooks, made, names, **options)

    monkeypatch.setattr(pipeline, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        toy_table("table6_flowers", data=data)
    monkeypatch.setattr(pipeline, "fit", None)
    monkeypatch.setattr("mpp_jax.runs.shards.encode_from", None)  # no picture is encoded again
    most = 7
    found = toy_table("table6_flowers", data=data)
    assert trained == ["ap1", "ap10", "ap50", "nfk", "csf", "mpp", "mpp+sp"]
    assert [row["pooling"] for row in found["rows"]] == trained
    assert all("ours" in row for row in found["rows"])
    assert "mean class accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_the_papers(name: str) -> None:
    """Figures that are given twice agree: the mean of the classes with the mAP."""
    made = importlib.import_module(name).TABLE
    methods = {row.method for row in made.rows}
    assert all(method in methods for pair in made.pairs for method in pair)
    for row in (*made.rows, *made.cited):
        assert len(row.per_class) == len(made.classes)
        if made.classes:
            assert np.mean(row.per_class) == pytest.approx(row.paper, abs=0.07)


@pytest.mark.parametrize("name", TABLES)
def test_missing_archives(
    table: Tables, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPP_JAX_SHARED", str(tmp_path))
    with pytest.raises(SystemExit, match=r"error: .* is not there: give --data (\w+):PATH, or"):
        table(name)


def test_defaults_are_the_papers() -> None:
    import paper_tables
    import table4_voc07

    args = paper_tables.command_line(table4_voc07.TABLE, table4_voc07.__doc__).parse_args([])
    given = (args.network, args.scales, args.l2, args.pca, args.components)
    assert given == ("caffenet", 7, "none", 128, 256)


@pytest.mark.parametrize(
    ("name", "prefix", "write", "missing"),
    [
        ("table5_voc07_per_class", "voc", write_voc_set, 1),
        pytest.param("table3_mit67", "mit67", write_mit67_set, 1, marks=pytest.mark.slow),
        pytest.param("table4_voc07", "voc", write_voc_set, 2, marks=pytest.mark.slow),
        pytest.param("table6_flowers", "flowers102", write_flowers_set, 0, marks=pytest.mark.slow),
    ],
)
def test_with_the_network_in_the_package(
    table: Tables, name: str, prefix: str, write: Any, missing: int, tmp_path: Path
) -> None:
    given = {"network": "caffenet_mini", "data": f"{prefix}:{write(tmp_path / 'data')}"}
    found = table(name, "--quick", **given)
    rows = found["rows"]
    assert sum("not_run" in row for row in rows) == missing
    assert all(0 <= row["ours"] <= 100 for row in rows if "not_run" not in row)
    assert found["pictures"] == {"train": 8, "test": 4}
    assert found["departures"][-1] == "pictures 10 of each class (all)"
