"""The notation: what it reads, what it writes back, what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_jax.nets import get_spec
from mpp_jax.pooling.notation import Atom, canonical, format_atoms, grid_cells, parse

CAFFENET = get_spec("caffenet")
SP = "sp1x1_3x1"


@pytest.mark.parametrize(
    ("text", "atoms"),
    [
        ("mpp", [Atom("mpp")]),
        ("MPP+Avg", [Atom("mpp"), Atom("avg")]),
        ("mpp(pool5)", [Atom("mpp", "pool5")]),
        ("mpp(fc6,pool5)+sp", [Atom("mpp", "fc6", SP), Atom("mpp", "pool5", SP)]),
        ("avg+mpp+sp2x3", [Atom("avg"), Atom("mpp", None, "sp2x3")]),
        ("mpp+sp1x1_2x2+avg", [Atom("mpp", None, "sp1x1_2x2"), Atom("avg")]),
        ("mpp-entropy(fc6)", [Atom("mpp-entropy", "fc6")]),
        ("mpp+dsfl", [Atom("mpp"), Atom("dsfl", external=True)]),
        ("ifk", [Atom("nfk", "sift")]),
        ("mpp-sp1x1_3x1(pool5)", [Atom("mpp", "pool5", SP)]),  # as it is stored
        ("alex-fc6", [Atom("fc7", "alex-fc6")]),
        ("cnn-fc6", [Atom("fc7", "cnn-fc6")]),
    ],
)
def test_parse(text: str, atoms: list[Atom]) -> None:
    assert list(parse(text, ["dsfl"])) == atoms
    for atom in atoms:
        assert parse(atom.name, ["dsfl"]) == (atom,)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MPP(Alex-FC7,Pool5)+SP", "mpp(fc7,pool5)+sp"),
        ("MPP(Alex-FC7)", "mpp"),
        ("mpp(fc7)+mpp(caffenet-fc8)", "mpp(fc7,fc8)"),
        ("AP10(CNN-FC7)", "ap10"),
        ("Alex-FC7", "fc7"),
        ("Alex-Pool5", "fc7(pool5)"),
        ("mpp(pool5,fc7)", "mpp(pool5,fc7)"),
        ("mpp(pool5)+mpp+sp1x1_3x1", "mpp(pool5)+mpp+sp"),
        ("MPP(Alex-FC7)+DSFL", "mpp+dsfl"),
        ("ifk+mpp", "nfk(sift)+mpp"),
        ("mpp+sp2x2", "mpp+sp2x2"),
    ],
)
def test_canonical_names(text: str, name: str) -> None:
    assert canonical(text, CAFFENET, "fc7", ["dsfl"]) == name
    assert canonical(name, CAFFENET, "fc7", ["dsfl"]) == name


def test_papers_networks() -> None:
    cnn_s = get_spec("cnn_s")
    assert canonical("MPP(CNNS-FC7,FC8)", cnn_s, "fc7") == "mpp(fc7,fc8)"
    with pytest.raises(ValueError, match="'alex-fc7' is no layer of this run's network 'cnn_s'"):
        canonical("MPP(Alex-FC7)", cnn_s, "fc7")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("map", "no variant 'map'"),
        ("mpp+mpp", "stacks a representation with itself"),
        ("mpp+mpp(fc7)", "stacks a representation with itself"),
        ("mpp(Alex-FC7,fc7)", "stacks a representation with itself"),
        ("mpp+ifk+nfk(sift)", "stacks a representation with itself"),
        ("mpp(fc9)", "no descriptors of layer 'fc9'; it has .*fc7"),
        ("mpp(cnns-fc7)", "no layer of this run's network 'caffenet'"),
        ("sp", "a grid stands after what it divides"),
        ("sp+mpp", "a grid stands after what it divides"),
        ("mpp+sp+sp", "cannot be divided by 'sp'"),
        ("mpp+sp0x2", "at least one row"),
        ("mpp+sp10x0", "at least one row"),
        ("ap10+sp", "'ap10' cannot be divided"),
        ("dsfl+sp", "'dsfl' cannot be divided"),
        ("dsfl(fc7)", "they have no layer"),
        ("mpp+", "cannot read"),
        ("mpp()", "cannot read"),
        ("mpp(a)(b)", "cannot read"),
        ("(mpp)", "cannot read"),
        ("", "cannot read"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        canonical(text, CAFFENET, "fc7", ["dsfl"])


ATOMS = st.builds(
    Atom,
    st.sampled_from(["mpp", "nfk", "avg", "mpp-entropy", "fv3"]),
    st.sampled_from([None, "pool5", "fc6", "sift"]),
    st.sampled_from([None, SP, "sp2x2", "sp1x1_4x12"]),
)


@given(st.lists(ATOMS, min_size=1, max_size=5, unique=True))
def test_names_are_read_back(atoms: list[Atom]) -> None:
    """Whatever is stacked, its name means just that, in a run of whatever layer."""
    assert list(parse(format_atoms(atoms, "fc7"), own="fc7")) == atoms


def test_grid_cells_cover_the_picture_once() -> None:
    cells = grid_cells("sp3x2")
    assert len(cells) == 6
    area = sum((bottom - top) * (right - left) for top, left, bottom, right in cells)
    assert area == pytest.approx(1)
