"""Lists: rows, headers, splits, unclear labels, names of one picture, and every user's mistake."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.data_folders import mistake, touch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpp_jax.data import DataError, Dataset, DecodeError, Item, decode_picture, lists, open_dataset
from mpp_jax.data.lists import _csv

# --- lists ---------------------------------------------------------------------------------------


def write_list(root: Path, text: str, encoding: str = "utf-8") -> Path:
    touch(root, "p/1.jpg", "p/2.jpg", "p/3.jpg", "p/4,5.jpg")
    path = root / "list.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("header", ["", "path,label,split\n", "Path,Labels,Split\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_list(tmp_path, header, encoding):
    rows = 'p/2.jpg,sea,test\np/1.jpg, sea ,train\n\np/3.jpg,Ärger,train\n"p/4,5.jpg",sea,train\n'
    data = open_dataset(write_list(tmp_path, header + rows, encoding))
    assert data.name == "list"
    assert data.classes == ("sea", "Ärger")
    assert not data.multi_label
    assert [item.id for item in data.items] == ["p/1.jpg", "p/3.jpg", "p/4,5.jpg", "p/2.jpg"]
    assert [item.labels for item in data.items] == [(0,), (1,), (0,), (0,)]
    assert all(item.path is not None and item.path.exists() for item in data.items)


def test_list_with_several_labels(tmp_path):
    rows = "p/1.jpg,dog;cat,train\np/2.jpg,cat;,train\np/3.jpg,,test\np/4.jpg,dog; cat;dog,test\n"
    data = open_dataset(write_list(tmp_path, rows))
    assert data.multi_label
    assert data.classes == ("cat", "dog")
    assert [item.labels for item in data.items] == [(0, 1), (0,), (), (0, 1)]
    np.testing.assert_array_equal(data.targets("test"), [[-1, -1], [1, 1]])
    assert len(open_dataset(tmp_path / "list.csv", limit_per_class=1).split("train")) in (1, 2)


def test_absolute_paths_in_a_list(tmp_path):
    place = touch(tmp_path, "p/1.jpg") / "p" / "1.jpg"
    data = open_dataset(write_list(tmp_path, f"{place},a,train\n"))
    assert data.items[0].path == place
    assert data.items[0].id == place.as_posix()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "an empty list"),
        ("path,label,split\n", "an empty list"),
        ("p/1.jpg,a,train\np/2.jpg,a,dev2\n", "line 2: split is 'dev2', must be 'train' or"),
        ("p/1.jpg,a,val\n", "1 row(s) of split 'val' left out; call them train or test"),
        ("label,path\na,p/1.jpg\n", "line 1: no column 'split'"),
        ("path,split\np/1.jpg,train\n", "line 1: no column 'label'"),
        ("path,label,labels,split\n", "line 1: two columns 'label'"),
        (",path,label,split\n0,p/1.jpg,a\n", "line 2: 3 column(s) instead of 4"),
        ("p/1.jpg,a,train\np/2.jpg,?,train\n", "line 2: '?' without a class"),
        ("p/1.jpg,a;?a,train\n", "line 1: 'a' is both there and unclear (?)"),
        ("p/1.jpg,a,train\np/\0.jpg,a,test\n", "line 2 holds a NUL character"),
        ("p/1.jpg,a,train\np/../p/1.jpg,a,test\n", "lines 1 and 2 both name 'p/1.jpg' alias"),
        ("p/1.jpg,a\n", "line 1: 2 column(s) instead of 3"),
        ("p/1.jpg,a,b,train\n", "line 1: 4 column(s) instead of 3"),
        (",a,train\n", "line 1: no path"),
        ("p/1.jpg,,train\n", "line 1: no label for 'p/1.jpg'"),
        ("p/1.jpg,a,train\n\np/1.jpg,b,test\n", "lines 1 and 3 both name 'p/1.jpg'"),
        ("p/1.jpg,a,train\n./p/1.jpg,b,test\n", "lines 1 and 2 both name 'p/1.jpg'"),
        ("p/1.jpg,a,test\n", "no training picture"),
        ("p/1.jpg,a,train\np/2.jpg,b,test\n", "class 'b', of which training has no picture"),
        ("q/1.jpg,a,train\nq/2.jpg,a,test\n", "none of its pictures (2) exists"),
        ('p/1.jpg,"a,train\n', "line 1: an open quote"),
        ('p/1.jpg,"a" b,train\n', "line 1: text after a closing quote"),
    ],
)
def test_mistakes_in_a_list(tmp_path, text, wanted):
    assert wanted in mistake(write_list(tmp_path, text))


def test_a_picture_given_for_a_list(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    assert "not a UTF-8 text list" in mistake(path)


def test_one_missing_picture_does_not_stop_a_list(tmp_path):
    data = open_dataset(write_list(tmp_path, "p/1.jpg,a,train\nabsent.jpg,a,train\n"))
    assert len(data.items) == 2


# --- one picture, several names ------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_picture_by_another_name_is_the_same(tmp_path, split):
    place = touch(tmp_path, "p/1.jpg")
    (tmp_path / "linked").symlink_to(tmp_path / "p")
    for other in ("p/../p/1.jpg", place / "p/1.jpg", "linked/1.jpg", "p//1.jpg"):
        message = mistake(write_list(tmp_path, f"p/1.jpg,a,train\n\n{other},a,{split}\n"))
        assert "lines 1 and 3 both name 'p/1.jpg'" in message
    # A link to a file is a file of its own, as it is in a folder.
    (tmp_path / "p/copy.jpg").symlink_to("1.jpg")
    data = open_dataset(write_list(tmp_path, "p/1.jpg,a,train\np/copy.jpg,a,train\n"))
    assert len(data.items) == 2


def test_quoted_paths_keep_their_spaces(tmp_path):
    touch(tmp_path, "p/ 1.jpg ")
    data = open_dataset(write_list(tmp_path, '"p/ 1.jpg ", a ,train\n p/2.jpg ,a,train\n'))
    assert [item.id for item in data.items] == ["p/ 1.jpg ", "p/2.jpg"]
    assert all(item.path.exists() for item in data.items)


def test_quotes_and_lines_within_fields(tmp_path):
    name = 'p/a "b",\nc.jpg'
    touch(tmp_path, name)
    quoted = name.replace('"', '""')
    data = open_dataset(write_list(tmp_path, f'"{quoted}",a,train\r\np/1.jpg,b,train\r\n'))
    assert [item.id for item in data.items] == [name, "p/1.jpg"]
    assert "line 3: no path" in mistake(write_list(tmp_path, f'"{quoted}",a,train\n,b,train\n'))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    rows=st.lists(
        st.lists(st.text(alphabet='ab ,";\n\r\t', max_size=6), min_size=1, max_size=4), max_size=5
    ),
    style=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_rows_are_those_of_the_csv_module(rows, style, end):
    stream = io.StringIO()
    csv.writer(stream, quoting=style, lineterminator=end).writerows(rows)
    found = [[text for text, _ in cells] for _, cells in _csv(Path("x"), stream.getvalue())]
    wanted = list(csv.reader(io.StringIO(stream.getvalue(), newline=""), strict=True))
    # Empty lines are no rows to us.
    assert [row for row in found if row != [""]] == [row for row in wanted if row not in ([], [""])]


# --- labels --------------------------------------------------------------------------------------


def test_a_label_said_twice_is_one(tmp_path):
    data = open_dataset(write_list(tmp_path, "p/1.jpg,a;a,train\np/2.jpg,b; b ;,train\n"))
    assert not data.multi_label
    assert [item.labels for item in data.items] == [(0,), (1,)]


def test_unclear_labels_are_ignored_ones(tmp_path):
    rows = "p/1.jpg,cat;?dog,train\np/2.jpg,dog,train\np/3.jpg,?cat; ? dog,test\n"
    data = open_dataset(write_list(tmp_path, rows))
    assert data.multi_label
    assert data.classes == ("cat", "dog")
    assert [(item.labels, item.ignored) for item in data.items] == [
        ((0,), (1,)),
        ((1,), ()),
        ((), (0, 1)),
    ]
    np.testing.assert_array_equal(data.targets("train"), [[1, 0], [-1, 1]])
    np.testing.assert_array_equal(data.targets("test"), [[0, 0]])
    # Written as it was read, it is read as it was.
    lists.write_list(data, tmp_path / "list.csv")
    assert '"p/1.jpg","cat;?dog","train"' in (tmp_path / "list.csv").read_text()
    assert open_dataset(tmp_path / "list.csv") == data


def test_any_set_of_files_is_written_as_a_list(tmp_path):
    names = ['p/a,"b" \n.jpg', " outer spaces ", "p/path", "elsewhere/ü.jpg"]
    touch(tmp_path, *names)
    classes = ('say "x", y', "label", "Ärger\nor not")
    items = [
        Item(name, labels, split, path=tmp_path / name, ignored=ignored)
        for name, labels, ignored, split in zip(
            names,
            ((0, 1), (2,), (), (0,)),
            ((), (0, 1), (2,), ()),
            ("train", "train", "train", "test"),
            strict=True,
        )
    ]
    file = tmp_path / "p" / "written.csv"
    data = Dataset("written", classes, tuple(items), multi_label=True)
    lists.write_list(data, file)
    again = open_dataset(file)
    assert [i.id for i in again.items] == [
        *('a,"b" \n.jpg', f"{tmp_path}/ outer spaces ", "path", f"{tmp_path}/elsewhere/ü.jpg")
    ]
    for one, wanted in zip(again.items, items, strict=True):
        assert one.path.samefile(wanted.path)
        for mine, theirs in ((one.labels, wanted.labels), (one.ignored, wanted.ignored)):
            assert {again.classes[i] for i in mine} == {classes[i] for i in theirs}
        assert one.split == wanted.split


@pytest.mark.parametrize("name", ["a;b", "?a", " a", ""])
def test_names_that_a_list_cannot_hold(tmp_path, name):
    item = Item("1.jpg", (0,), "train", path=tmp_path / "1.jpg")
    file = tmp_path / "list.csv"
    with pytest.raises(DataError, match="a list cannot hold class"):
        lists.write_list(Dataset("x", (name,), (item,)), file)
    with pytest.raises(DataError, match="is no file, so a list cannot name it"):
        lists.write_list(Dataset("x", ("a",), (Item("1", (0,), "train"),)), file)
    odd = Item("1.jpg", (0,), "train", path=tmp_path / "\udcff.jpg")
    with pytest.raises(DataError, match="no UTF-8 text"):
        lists.write_list(Dataset("x", ("a",), (odd,)), file)
    assert not file.exists()


def test_a_class_that_is_only_unclear_is_left_out(tmp_path):
    data = open_dataset(write_list(tmp_path, "p/1.jpg,cat;?dog,train\n"))
    assert data.classes == ("cat",)
    assert data.items[0].ignored == ()
    assert "class 'dog' without any picture" in data.warnings[0]


def test_an_unclear_class_stays_for_those_whom_the_list_joins(tmp_path):
    rows = "p/1.jpg,cat;?dog,train\np/2.jpg,cat;?dog;?cow,test\np/3.jpg,cat,test\n"
    data = open_dataset(write_list(tmp_path, rows), to_train=False)
    assert data.classes == ("cat",)
    assert data.warnings == ()
    assert data.notes[0].startswith("classes 'cow', 'dog' unclear wherever named")
    joined = data.joining(("bird", "dog", "cat"))
    assert joined.classes == ("cat", "dog")
    assert [item.ignored for item in joined.items] == [(1,), (1,), ()]


# --- columns and splits --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Split,Path,Label\ntrain,p/1.jpg,a\ntest,p/2.jpg,a\n",
        ",path,label,split\n0,p/1.jpg,a,train\n1,p/2.jpg,a,test\n",
        "Unnamed: 0,labels,path,split\n0,a,p/1.jpg,train\n1,a,p/2.jpg,test\n",
        '"path","label","split"\n"p/1.jpg","a","train"\n"p/2.jpg","a","test"\n',
    ],
)
def test_columns_by_their_header(tmp_path, text):
    data = open_dataset(write_list(tmp_path, text))
    assert [(item.id, item.split) for item in data.items] == [
        ("p/1.jpg", "train"),
        ("p/2.jpg", "test"),
    ]
    assert data.notes == ()


def test_further_columns_are_told(tmp_path):
    text = "width,path,label,split,Height\n3,p/1.jpg,a,train,4\n"
    data = open_dataset(write_list(tmp_path, text))
    assert data.notes == ("column(s) 'width', 'height' ignored",)


def test_validation_rows_are_left_out_with_a_note(tmp_path):
    text = "p/1.jpg,a,train\np/2.jpg,b,val\np/3.jpg,a,validation\np/2.jpg,a,test\n"
    data = open_dataset(write_list(tmp_path, text))
    assert [item.id for item in data.items] == ["p/1.jpg", "p/2.jpg"]
    assert data.classes == ("a",)
    assert data.notes == (
        "1 row(s) of split 'val' left out; call them train or test to use them",
        "1 row(s) of split 'validation' left out; call them train or test to use them",
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_a_list_is_skipped_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    data = open_dataset(
        write_list(tmp_path, "p/1.jpg,a,train\npipe.jpg,a,train\n/dev/zero,a,train\n")
    )
    reasons = []
    for item in data.items[1:]:
        with pytest.raises(DecodeError) as caught:
            decode_picture(item.source())
        reasons.append(caught.value.reason)
    assert reasons == ["is a named pipe, not a picture file", "is a device, not a picture file"]
