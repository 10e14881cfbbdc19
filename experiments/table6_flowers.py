"""Table 6: Oxford Flowers 102, top-1 accuracy.

    python experiments/table6_flowers.py --data flowers102:PATH --weights FILE
    python experiments/table6_flowers.py --quick ...                 10 pictures a class, 2 scales
    python experiments/table6_flowers.py --network squeezenet ...    another network

PATH: ``jpg``, ``imagelabels.mat`` and ``setid.mat``; default: ``$MPP_JAX_SHARED/data/flowers102``.
Training pictures are those of trnid and valid (2,040), test pictures those of tstid (6,149).

Cost at the paper's settings: two passes of the network over the training pictures and one over the
test pictures (seven scales and 60 crops, about 2 s a picture on 2 cores), and 3.5 MB a picture of
vectors in ``--runs``. A killed command goes on when it is given again.
Expected: the paper's order of methods, mpp above nfk by several points; the weights are the
paper's, the library differs in details that the paper leaves open.
"""

from paper_rows import Cited, Row, Table
from paper_tables import run

TABLE = Table(
    name="table6_flowers",
    title="Table 6: Oxford Flowers 102",
    prefix="flowers102",
    rows=(
        Row("Alex-FC7", "ap1", 81.43),
        Row("AP10(Alex-FC7)", "ap10", 83.40),
        Row("AP50(Alex-FC7)", "ap50", 83.56),
        Row("NFK(Alex-FC7)", "nfk", 88.44),
        Row("CSF(Alex-FC7)", "csf", 89.35),
        Row("MPP(Alex-FC7)", "mpp", 91.28),
        Row("MPP(Alex-FC7)+SP", "mpp+sp", 90.05),
    ),
    cited=(
        Cited("Nilsback and Zisserman '08", "Multiple kernel learning, segmented", 77.70),
        Cited("Angelova and Zhu '13", "Seg+DenseHoG+LLC+MaxPooling, segmented", 80.70),
        Cited("Murray and Perronnin '14", "GMP of IFK(SIFT+color)", 81.50),
        Cited("Fernando et al. '14", "Bag-of-FLH, segmented", 72.70),
        Cited("Razavian et al. '14", "AP(Alex)+PT+TA", 86.8),
    ),
    pairs=(
        ("MPP(Alex-FC7)", "NFK(Alex-FC7)"),
        ("MPP(Alex-FC7)", "CSF(Alex-FC7)"),
        ("MPP(Alex-FC7)", "AP10(Alex-FC7)"),
        ("MPP(Alex-FC7)+SP", "MPP(Alex-FC7)"),
    ),
)


def main() -> None:
    run(TABLE, __doc__)


if __name__ == "__main__":
    main()
