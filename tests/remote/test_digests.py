"""Pictures elsewhere are not fetched again to see that they are what they were."""

import hashlib
from pathlib import Path

from helpers.far import Far

from mpp_jax.data import Item
from mpp_jax.data.content import FarPicture
from mpp_jax.remote.addresses import entry
from mpp_jax.remote.digests import NAME, known_digest, remember_digest
from mpp_jax.runs.contents import Contents


def gets(far: Far) -> int:
    return [method for method, _ in far.asked].count("GET")


def test_a_picture_is_read_once_for_its_digest(far: Far) -> None:
    address = far.put("a.jpg", b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    listed = Item("a.jpg", (), "test", read=FarPicture(address, None, *entry(address)))
    unlisted = Item(address, (), "test", read=FarPicture(address))
    for item in (listed, unlisted):
        first = Contents()
        [watched] = first.watched([item])
        watched.source()
        assert first.read([item]) == {item.id: digest}
    assert gets(far) == 2
    assert Contents().now(listed) == Contents().now(unlisted) == digest
    assert gets(far) == 2
    far.put("a.jpg", b"another")  # as long as before
    changed = Item("a.jpg", (), "test", read=FarPicture(address))
    assert Contents().now(changed) == hashlib.sha256(b"another").hexdigest()


def test_a_damaged_file_is_only_of_no_use(far: Far, tmp_path: Path) -> None:
    remember_digest("mark", "digest")
    assert known_digest("mark") == "digest"
    assert known_digest("other") is None
    (tmp_path / "cache" / NAME).write_bytes(b"no database" * 100)
    remember_digest("mark", "digest")
    assert known_digest("mark") is None
