"""The options of the engine: what is refused before any work."""

import socket
import sys
from pathlib import Path

import pytest
from helpers.toy_cli import EASY, refused, tiny
from helpers.toy_run import Finished

pytestmark = pytest.mark.usefixtures("toy_known")


def test_options_of_another_engine(tmp_path: Path) -> None:
    run = ("run", tiny(tmp_path / "data"), "--out", tmp_path / "out", "--network", "toy")
    said = refused(*run, "--workers", "2", "--address", "auto")
    assert said == "error: --address, --workers: for --engine ray, which was not given"


def test_ray_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    run = ("run", tiny(tmp_path / "data"), "--out", tmp_path / "out", "--network", "toy")
    said = refused(*run, "--engine", "ray")
    assert said == "error: --engine ray: needs the package ray; pip install 'mpp-jax[ray]'"


def test_nobody_at_the_address(done: Finished, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:  # bound, and not listened to
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        run = ("run", done.data, "--out", tmp_path / "out", *EASY, "--weights", done.weights)
        said = refused(*run, "--engine", "ray", "--address", address)
    assert said.startswith(f"error: --address {address}: no Ray cluster answers there (")
    assert said.endswith("or leave it out for workers on this machine")
