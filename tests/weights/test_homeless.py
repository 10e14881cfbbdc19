"""Users without a home, with another's, and folders that may not be looked at."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpp_jax.files import expanded, file_digest
from mpp_jax.weights import cache_folder, list_weights
from mpp_jax.weights.load import default_file, packaged_file

CHILD = """
import os, sys
import mpp_jax as mpp
from mpp_jax.weights import cache_folder, list_weights

def look():
    network = mpp.load_network()
    print(network.spec.name, network.weights_sha256)
    print(cache_folder())
    print({row["state"] for row in list_weights()} <= {"packaged", "absent"})

look()  # everything is imported now, which another user may not be able to do
uid, closed = sys.argv[1:]
os.chdir("/")
os.setgroups([])
os.setgid(int(uid)); os.setuid(int(uid))
for home in ("", closed, "/nonexistent"):
    os.environ.pop("HOME", None)
    if home:
        os.environ["HOME"] = home
    look()
"""


@pytest.fixture
def no_home(monkeypatch):
    def missing(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", missing)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("MPP_JAX_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_home_the_cache_is_among_the_temporary_files(no_home, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = cache_folder()
    assert folder == tmp_path / f"mpp_jax-{os.getuid()}"
    assert default_file("caffenet_mini") == packaged_file("caffenet_mini")
    assert not list(tmp_path.iterdir())
    folder.mkdir()
    assert cache_folder() == folder
    if os.getuid() == 0:
        os.chown(folder, 1, 1)
        with pytest.raises(ValueError, match="is another user's; set MPP_JAX_CACHE to a folder"):
            cache_folder()


def test_a_home_that_there_is_not_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("MPP_JAX_CACHE", "~no-such-user/x")
    message = "~no-such-user/x: there is no such home folder; write the path out"
    with pytest.raises(ValueError, match=message):
        cache_folder()
    with pytest.raises(ValueError, match=message):
        expanded("~no-such-user/x")
    monkeypatch.setenv("HOME", "/somewhere")
    assert expanded("~/x") == Path("/somewhere/x")


@pytest.mark.skipif(getattr(os, "getuid", lambda: 1)() != 0, reason="only root becomes another")
def test_the_packaged_network_runs_as_any_user(tmp_path):
    closed = tmp_path / "home"
    (closed / ".cache" / "mpp_jax").mkdir(parents=True)
    closed.chmod(0o700)
    tree = packaged_file("caffenet_mini")
    if not all(parent.stat().st_mode & 0o001 for parent in tree.parents):
        pytest.skip("the package lies where others may not look")
    environment = {k: v for k, v in os.environ.items() if k not in ("MPP_JAX_CACHE", "TMPDIR")}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "54321", str(closed)],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert set(lines[0::3]) == {lines[0]}
    assert set(lines[2::3]) == {"True"}
    usual = [f"{home}/.cache/mpp_jax" for home in (closed, "/nonexistent")]
    assert lines[4::3] == ["/tmp/mpp_jax-54321", *usual]
    assert not Path("/tmp/mpp_jax-54321").exists()


def test_a_file_that_may_not_be_read_is_said_to_be_unread(monkeypatch, tmp_path):
    (tmp_path / "compressed_SqueezeNet.net").write_bytes(b"x")

    def forbidden(path, algorithm):
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        return file_digest(path, algorithm)

    monkeypatch.setattr("mpp_jax.weights.digests.file_digest", forbidden)
    states = {row["name"]: row["state"] for row in list_weights(tmp_path)}
    assert states["squeezenet"] == "unread"
