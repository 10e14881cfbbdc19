"""Archives of published sets: unpacked whole, checked against their digests, laid out."""

import hashlib
import io
import lzma
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.archives import (
    VOC,
    lines,
    pack,
    pack_voc,
    write_caltech,
    write_flowers,
    write_mit67,
    write_voc,
)

from mpp_jax.data import DataError, open_dataset
from mpp_jax.data.published import (
    SETS,
    PublishedFile,
    laid_out,
    prepared_sets,
    published,
    tfds_folder,
)
from mpp_jax.data.unpacking import unpack


def fault(*arguments) -> str:
    """The one line that laying out ends with."""
    with pytest.raises(DataError) as caught:
        laid_out(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def damage(file: Path, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        unpack(file, folder)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------- unpacking


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip", "odd name"])
def test_archives_are_known_by_their_content(tmp_path, name):
    root = write_mit67(tmp_path / "root")
    file = pack(tmp_path / name, root)
    unpack(file, tmp_path / "out")
    found = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert len(found) == 12
    assert all(
        (tmp_path / "out" / path).read_bytes() == (root / path).read_bytes() for path in found
    )


def test_an_archive_that_is_cut_short_is_no_archive(tmp_path):
    tar = pack(tmp_path / "a.tar", write_voc(tmp_path / "root").parent.parent)
    content = tar.read_bytes()
    with tarfile.open(tar) as held:
        members = held.getmembers()
    file = tmp_path / "cut.tar"
    # Amid a picture, at the end of one, amid the next header, and before the end alone.
    picture = next(m for m in members if m.name.endswith(".jpg"))
    after = picture.offset_data + (picture.size + 511) // 512 * 512
    for stop in (picture.offset_data + 5, after, after + 100, members[-1].offset_data):
        file.write_bytes(content[:stop])
        assert "truncated or damaged archive" in damage(file, tmp_path / "out")
    # A header that is overwritten: what follows would be missing without a word.
    file.write_bytes(content[:after] + b"\xff" * 512 + content[after + 512 :])
    assert "truncated or damaged archive" in damage(file, tmp_path / "out")


def test_compressed_archives_that_are_damaged(tmp_path):
    root = write_flowers(tmp_path / "root")
    for name in ("a.tgz", "a.zip"):
        file = pack(tmp_path / name, root)
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        damage(file, tmp_path / "out")
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 0xFF
        file.write_bytes(flipped)
        # Which of the two is told depends on Python: how soon it looks at what is inside.
        told = damage(file, tmp_path / "out")
        assert "truncated or damaged" in told or "or cut short" in told
    file = tmp_path / "a.tar.xz"
    file.write_bytes(lzma.compress(pack(tmp_path / "b.tar", root).read_bytes())[:-40])
    assert "truncated or damaged" in damage(file, tmp_path / "out")
    for content in (b"", b"<html>not found</html>" * 99):
        file.write_bytes(content)
        assert "neither a tar nor a zip file" in damage(file, tmp_path / "out")


def test_nothing_is_written_outside_of_the_folder(tmp_path):
    file = tmp_path / "evil.tar"
    for name, kind in (("../out.txt", tarfile.REGTYPE), ("link", tarfile.SYMTYPE)):
        with tarfile.open(file, "w") as tar:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member, io.BytesIO())
        assert "does not belong into a folder" in damage(file, tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../out.txt", b"x")
    unpack(tmp_path / "evil.zip", tmp_path / "in")
    assert not (tmp_path / "out.txt").exists()


# --------------------------------------------------------------------------------- laying out


def test_voc_of_two_archives(tmp_path):
    trainval, test = pack_voc(tmp_path)
    (tmp_path / "out").mkdir()
    root = laid_out(SETS["voc2007"], [trainval, test], tmp_path / "out")
    data = open_dataset(f"voc:{root}")
    whole = open_dataset(f"voc:{tmp_path}/whole")
    assert [item.id for item in data.items] == [item.id for item in whole.items]
    assert len(data.items) == len(VOC)


def test_loose_files_come_beside_the_pictures(tmp_path):
    root = write_mit67(tmp_path / "root")
    (tmp_path / "inner").mkdir()
    (root / "Images").rename(tmp_path / "inner" / "Images")
    for number, holds in enumerate((tmp_path / "inner", tmp_path)):  # Images, and inner/Images
        file = pack(tmp_path / "indoor.tar", holds, "Images" if number == 0 else "inner")
        out = tmp_path / f"out{number}"
        out.mkdir()
        given = [root / "TestImages.txt", file, root / "TrainImages.txt"]
        data = open_dataset(f"mit67:{laid_out(SETS['mit67'], given, out)}")
        assert (len(data.split("train")), len(data.split("test"))) == (6, 3)


def test_a_loose_file_that_belongs_nowhere_lies_outermost(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    root = laid_out(SETS["scene15"], [tmp_path / "notes.txt"], tmp_path / "out")
    assert (root / "notes.txt").read_text() == "x"


def test_a_folder_of_downloads_and_an_archive_in_an_archive(tmp_path):
    entry = SETS["caltech101"]
    inner = tmp_path / "zip" / "caltech-101"
    inner.mkdir(parents=True)
    pack(inner / "101_ObjectCategories.tar.gz", write_caltech(tmp_path / "root"))
    folder = tmp_path / "downloads"
    folder.mkdir()
    file = pack(folder / "caltech-101.zip", tmp_path / "zip")
    entry = replace(entry, files=(official(file),))
    (tmp_path / "out").mkdir()
    data = open_dataset(f"caltech101:{laid_out(entry, [folder], tmp_path / 'out')}")
    assert (data.classes, len(data.items)) == (("Faces", "accordion"), 64)


def official(file: Path, **changes) -> PublishedFile:
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    url = f"http://127.0.0.1/{file.name}?download=1"
    return PublishedFile((url,), **({"size": len(content), "sha256": digest} | changes))


def test_a_file_of_an_official_name_has_its_digest(tmp_path):
    trainval, _ = pack_voc(tmp_path)
    entry, out = SETS["voc2007"], tmp_path / "out"
    named = trainval.rename(tmp_path / "VOCtrainval_06-Nov-2007.tar")
    size = named.stat().st_size
    line = fault(entry, [named], out)
    assert (
        f"not the published file of this name, it has {size:,} bytes instead of 460,032,0" in line
    )
    assert "unpack it and give the folder" in line
    other = replace(entry, files=(official(named, sha256="0" * 64),))
    assert f"instead of {'0' * 64}" in fault(other, [named], out)
    out.mkdir()
    laid_out(replace(entry, files=(official(named),)), [named], out)
    assert (out / "VOCdevkit/VOC2007/JPEGImages/000005.jpg").is_file()


def test_paths_that_are_none(tmp_path):
    entry, out = SETS["flowers102"], tmp_path / "out"
    assert "no such file or folder" in fault(entry, [tmp_path / "absent.tgz"], out)
    root = write_flowers(tmp_path / "root")
    assert laid_out(entry, [root], out) == root  # unpacked: loose files alone say nothing
    line = fault(entry, [root, root], out)
    assert "holds no archive of flowers102 (102flowers.tgz, imagelabels.mat, setid.mat)" in line
    with pytest.raises(DataError, match="no published set; there are voc2007, mit67, flowers102"):
        published("voc")


def test_where_prepared_sets_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert tfds_folder() == tmp_path
    assert tfds_folder(Path("~/sets")) == Path.home() / "sets"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert tfds_folder() == Path.home() / "tensorflow_datasets"
    lines(tmp_path / "voc/2007/5.0.0/dataset_info.json", ["{}"])
    lines(tmp_path / "scene15/1.0.0/dataset_info.json", ["{}"])
    lines(tmp_path / "scene15/incomplete.X_1.0.1/dataset_info.json", ["{}"])
    assert prepared_sets(tmp_path) == {"scene15": ["1.0.0"], "voc/2007": ["5.0.0"]}
    assert prepared_sets(tmp_path / "absent") == {}
