"""Reading files elsewhere: what fails for the moment is tried again, short bodies are no files."""

import io
import logging

import pytest
from helpers.far import BUCKET, Far

from mpp_jax.remote import addresses
from mpp_jax.remote.addresses import (
    RangeReader,
    RemoteError,
    entry,
    is_address,
    read_range,
    read_whole,
)
from mpp_jax.remote.listing import listing, matching

CONTENT = bytes(range(256)) * 40


def test_what_an_address_is() -> None:
    assert all(map(is_address, ["s3://b/a", "https://h/a?b=c", "memory://a", "GS://b"]))
    assert not any(map(is_address, ["a/b", "C:/a", "c://a", "wds:s3://b/a", "s3://", "~/a", ""]))


def test_content_ranges_and_listings(far: Far) -> None:
    address = far.put("some/deep/a.bin", CONTENT)
    far.put("some/b.bin", b"")
    assert read_whole(address) == read_whole(address, len(CONTENT)) == CONTENT
    assert read_range(address, 300, 77) == CONTENT[300:377]
    assert read_whole(far.put("replaced", b"other"), size=2) == b"other"
    found = listing(f"s3://{BUCKET}/some")
    assert {name: about.size for name, about in found.items()} == {
        "b.bin": 0,
        "deep/a.bin": len(CONTENT),
    }
    assert found["deep/a.bin"].stamp == entry(address).stamp != ""
    assert listing(f"s3://{BUCKET}/nowhere") == {}
    assert matching(f"s3://{BUCKET}/some/*.bin") == [f"s3://{BUCKET}/some/b.bin"]
    with pytest.raises(FileNotFoundError):
        read_whole(f"s3://{BUCKET}/nowhere")


@pytest.mark.parametrize("fault", ["500", "cut", "torn", 3.0])
def test_faults_that_pass(far: Far, fault: str | float, caplog: pytest.LogCaptureFixture) -> None:
    address = far.put("a.bin", CONTENT)
    far.fault = lambda method, path, before: fault if method == "GET" and not before else None
    addresses._told_at = 0.0
    with caplog.at_level(logging.WARNING):
        assert read_whole(address) == CONTENT
    [record] = caplog.records
    assert record.getMessage().startswith(f"{address}: ")
    assert record.getMessage().endswith("before try 2 of 6")
    far.asked.clear()
    assert read_range(address, 1000, 2000) == CONTENT[1000:3000]


@pytest.mark.parametrize("fault", ["500", "cut", "torn"])
def test_faults_that_stay(far: Far, fault: str) -> None:
    address = far.put("a.bin", CONTENT)
    far.fault = lambda method, path, before: fault if method == "GET" else None
    with pytest.raises(RemoteError, match=r"a\.bin: .*\(6 tries\)"):
        read_whole(address, len(CONTENT))
    assert far.asked.count(("GET", f"/{BUCKET}/a.bin")) == 6


def test_what_will_not_pass_is_not_tried_again(far: Far) -> None:
    address = far.put("a.bin", CONTENT)
    far.fault = lambda method, path, before: "403"
    with pytest.raises(RemoteError, match=r"a\.bin: ") as caught:
        read_whole(address, len(CONTENT))
    assert "tries" not in str(caught.value)
    assert len(far.asked) == 1


def test_ranges_of_a_long_file_are_read_as_they_are_needed(far: Far) -> None:
    address = far.put("a.bin", CONTENT)
    file = io.BufferedReader(RangeReader(address, len(CONTENT)), 512)
    assert file.read(10) == CONTENT[:10]
    file.seek(9000)
    assert file.read(3) == CONTENT[9000:9003]
    assert len([method for method, _ in far.asked if method == "GET"]) == 2
    file.seek(-4, io.SEEK_END)
    assert file.read() == CONTENT[-4:]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def lacking(address: str, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lacking)
    with pytest.raises(RemoteError, match=r"s3://b/a: .*pip install 'mpp-jax\[s3\]'"):
        read_whole("s3://b/a")
    with pytest.raises(RemoteError, match=r"pip install 'mpp-jax\[gcs\]'"):
        read_whole("gs://b/a")
    monkeypatch.undo()
    with pytest.raises(RemoteError, match="Protocol not known: nothing"):
        read_whole("nothing://a")
