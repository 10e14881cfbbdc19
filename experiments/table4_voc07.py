"""Table 4: PASCAL VOC 2007 classification, mean of 11-point AP.

    python experiments/table4_voc07.py --data voc:PATH --weights FILE --cnn-s-weights FILE
    python experiments/table4_voc07.py --quick ...                   10 pictures a class, 2 scales
    python experiments/table4_voc07.py --network alexnet_torchvision --layer pool5 --scales 6 ...

PATH: ``VOCdevkit/VOC2007`` with training, validation and test pictures (5,011 and 4,952); default:
``$MPP_JAX_SHARED/data/voc``. C = 1; a class that a picture has only as "difficult" is ignored for
it, in training and in test. The last two rows are of CNN-S (Chatfield et al. 2014).

Cost at the paper's settings: two passes of the network over the training pictures and one over the
test pictures (seven scales and 60 crops, about 2 s a picture on 2 cores), the same of CNN-S, and 4
MB a picture of vectors in ``--runs``. A killed command goes on when it is given again, and
`table5_voc07_per_class.py` takes what this one has made.
Expected: the paper's order of methods, mpp above nfk by several points; the weights are the
paper's, the library differs in details that the paper leaves open.
"""

from paper_rows import Cited, Row, Table
from paper_tables import run

TABLE = Table(
    name="table4_voc07",
    title="Table 4: PASCAL VOC 2007",
    prefix="voc",
    rows=(
        Row("Alex-FC7", "ap1", 72.36),
        Row("AP10(Alex-FC7)", "ap10", 73.75),
        Row("AP50(Alex-FC7)", "ap50", 73.60),
        Row("NFK(Alex-FC7)", "nfk", 74.96),
        Row("CSF(Alex-FC7)", "csf", 78.46),
        Row("MPP(Alex-FC7)", "mpp", 79.54),
        Row("MPP(Alex-FC7)+SP", "mpp+sp", 79.29),
        Row("MPP(CNNS-FC7)", "mpp", 81.40, cnn_s=True),
        Row("MPP(CNNS-FC7,FC8)", "mpp({own},{above})", 82.13, cnn_s=True),
    ),
    cited=(
        Cited("Perronnin et al. '10", "IFK(SIFT+color)", 60.3),
        Cited("He et al. '14", "SPPNET-FC7", 80.10),
        Cited("Wei et al. '14", "Multi-label CNN, fine-tuned", 81.50),
        Cited("Razavian et al. '14", "AP(Alex)+PT+TA", 77.20),
        Cited("Oquab et al. '14", "Alex-FC7+MLP, with boxes", 77.70),
        Cited("Chatfield et al. '14", "AP(CNNS-FC7)+TA", 79.74),
        Cited("Chatfield et al. '14", "AP(CNNS-FC7)+TA, fine-tuned", 82.42),
    ),
    pairs=(
        ("MPP(Alex-FC7)", "NFK(Alex-FC7)"),
        ("MPP(Alex-FC7)", "CSF(Alex-FC7)"),
        ("MPP(Alex-FC7)", "AP10(Alex-FC7)"),
        ("MPP(Alex-FC7)+SP", "MPP(Alex-FC7)"),
        ("MPP(CNNS-FC7)", "MPP(Alex-FC7)"),
        ("MPP(CNNS-FC7,FC8)", "MPP(CNNS-FC7)"),
    ),
)


def main() -> None:
    run(TABLE, __doc__)


if __name__ == "__main__":
    main()
