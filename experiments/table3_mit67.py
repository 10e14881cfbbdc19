"""Table 3: MIT Indoor 67, top-1 accuracy.

    python experiments/table3_mit67.py --data mit67:PATH --weights FILE    the whole table
    python experiments/table3_mit67.py --quick ...                   10 pictures a class, 2 scales
    python experiments/table3_mit67.py --network squeezenet --lower fire8 ...      another network
    python experiments/table3_mit67.py --dsfl dsfl.npz ...           with the last row

PATH: ``Images``, ``TrainImages.txt`` (80 a class) and ``TestImages.txt`` (20 a class); default:
``$MPP_JAX_SHARED/data/mit67``. FILE: ``bvlc_reference_caffenet.caffemodel`` or any other that
`mpp_jax.weights` reads; downloaded where none is given. DSFL vectors, which the authors of that
method provide, come as `mpp_jax.data.features` says.

Cost at the paper's settings: two passes of the network over the training pictures and one over the
test pictures (seven scales and 60 crops, about 2 s a picture on 2 cores), and 3.7 MB a picture of
vectors in ``--runs``. A killed command goes on when it is given again.
Expected: the paper's order of methods, mpp above nfk by several points; the weights are the
paper's, the library differs in details that the paper leaves open.
"""

from paper_rows import Cited, Row, Table
from paper_tables import run

TABLE = Table(
    name="table3_mit67",
    title="Table 3: MIT Indoor 67",
    prefix="mit67",
    rows=(
        Row("Alex-FC7", "ap1", 57.91),
        Row("AP10(Alex-FC7)", "ap10", 60.90),
        Row("AP50(Alex-FC7)", "ap50", 60.37),
        Row("NFK(Alex-FC7)", "nfk", 71.49),
        Row("CSF(Alex-FC7)", "csf", 72.24),
        Row("MPP(Alex-FC7)", "mpp", 75.67),
        Row("MPP(Alex-FC7)+SP", "mpp+sp", 75.97),
        Row("MPP(Alex-FC7,Pool5)", "mpp({own},{lower})", 77.56),
        Row("MPP(Alex-FC7)+DSFL[37]", "mpp+dsfl", 80.78),
    ),
    cited=(
        Cited("Singh et al. '12", "Part+GIST+DPM+SP", 49.40),
        Cited("Juneja et al. '13", "IFK+Bag-of-Parts", 63.18),
        Cited("Doersch et al. '13", "IFK+MidlevelRepresent.", 66.87),
        Cited("Zuo et al. '14", "DSFL", 52.24),
        Cited("Zuo et al. '14", "DSFL+Alex-FC6", 76.23),
        Cited("Zhou et al. '14", "Alex-FC7", 68.24),
        Cited("Zhou et al. '14", "Alex-FC7", 70.80),
        Cited("Razavian et al. '14", "AP(Alex)+PT+TargetAug.", 69.00),
        Cited("Gong et al. '14", "VLAD Concat.(Alex-FC7)", 68.90),
    ),
    pairs=(
        ("MPP(Alex-FC7)", "NFK(Alex-FC7)"),
        ("MPP(Alex-FC7)", "CSF(Alex-FC7)"),
        ("MPP(Alex-FC7)", "AP10(Alex-FC7)"),
        ("MPP(Alex-FC7)+SP", "MPP(Alex-FC7)"),
        ("MPP(Alex-FC7,Pool5)", "MPP(Alex-FC7)"),
        ("MPP(Alex-FC7)+DSFL[37]", "MPP(Alex-FC7)"),
    ),
)


def main() -> None:
    run(TABLE, __doc__)


if __name__ == "__main__":
    main()
