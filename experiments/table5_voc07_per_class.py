"""Table 5: PASCAL VOC 2007 classification, 11-point AP of each class.

    python experiments/table5_voc07_per_class.py --data voc:PATH --weights FILE --cnn-s-weights FILE
    python experiments/table5_voc07_per_class.py --quick ...          10 pictures a class, 2 scales

Archive, options and cost are those of `table4_voc07.py`; with the same options and ``--runs`` as
there, given after it, this takes a minute.
Expected: what the paper says of small objects, that mpp gains most at bottle, plant and monitor.
"""

from paper_rows import Cited, Row, Table
from paper_tables import run

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


def figures(text: str) -> tuple[float, ...]:
    """Return the AP of the classes, in their order, from a line of the paper."""
    return tuple(map(float, text.split()))


FC7 = figures(
    "85.0 79.7 82.8 80.4 39.7 69.3 82.9 81.7 58.7 57.8 "
    "68.5 75.9 83.0 72.5 90.6 51.7 71.1 60.8 85.0 70.5"
)
AP10 = figures(
    "85.7 80.8 83.3 80.7 40.4 71.5 83.8 82.7 60.7 60.5 "
    "70.6 79.0 84.5 75.0 91.3 53.4 70.1 62.6 86.5 72.1"
)
MPP = figures(
    "90.2 86.9 86.6 84.4 54.0 80.0 87.9 86.0 63.4 72.2 "
    "75.7 83.1 87.8 83.9 93.0 64.8 75.8 69.6 89.9 75.9"
)
MPP_CNN_S = figures(
    "90.2 88.6 89.0 84.7 58.2 82.8 88.1 89.0 64.9 77.0 "
    "78.4 86.9 89.2 86.7 92.8 61.2 81.3 70.0 89.8 79.3"
)
PERRONNIN = figures(
    "75.7 64.8 52.8 70.6 30.0 64.1 77.5 55.5 55.6 41.8 "
    "56.3 41.7 76.3 64.4 82.7 28.3 39.7 56.6 79.7 51.5"
)
RAZAVIAN = figures(
    "90.1 84.4 86.5 84.1 48.4 73.4 86.7 85.4 61.3 67.6 "
    "69.6 84.0 85.4 80.0 92.0 56.9 76.7 67.3 89.1 74.9"
)
OQUAB = figures(
    "88.5 81.5 87.9 82.0 47.5 75.5 90.1 87.2 61.6 75.7 "
    "67.3 85.5 83.5 80.0 95.6 60.8 76.8 58.0 90.4 77.9"
)
WEI = figures(
    "95.1 90.1 92.8 89.9 51.5 80.0 91.7 91.6 57.7 77.8 "
    "70.9 89.3 89.3 85.2 93.0 64.0 85.7 62.7 94.4 78.3"
)
CHATFIELD = figures(
    "95.3 90.4 92.5 89.6 54.4 81.9 91.5 91.9 64.1 76.3 "
    "74.9 89.7 92.2 86.9 95.2 60.7 82.9 68.0 95.5 74.4"
)

TABLE = Table(
    name="table5_voc07_per_class",
    title="Table 5: PASCAL VOC 2007 by class",
    prefix="voc",
    rows=(
        Row("Alex-FC7", "ap1", 72.4, per_class=FC7),
        Row("AP10(Alex-FC7)", "ap10", 73.7, per_class=AP10),
        Row("MPP(Alex-FC7)", "mpp", 79.5, per_class=MPP),
        Row("MPP(CNNS-FC7)", "mpp", 81.4, cnn_s=True, per_class=MPP_CNN_S),
    ),
    cited=(
        Cited("Perronnin et al. '10", "IFK(SIFT+color)", 58.3, PERRONNIN),
        Cited("Razavian et al. '14", "AP(Alex)+PT+TA", 77.2, RAZAVIAN),
        Cited("Oquab et al. '14", "Alex-FC7+MLP, with boxes", 77.7, OQUAB),
        Cited("Wei et al. '14", "Multi-label CNN, fine-tuned", 81.5, WEI),
        Cited("Chatfield et al. '14", "AP(CNNS-FC7)+TA, fine-tuned", 82.4, CHATFIELD),
    ),
    pairs=(("MPP(Alex-FC7)", "AP10(Alex-FC7)"), ("MPP(CNNS-FC7)", "MPP(Alex-FC7)")),
    classes=CLASSES,
)


def main() -> None:
    run(TABLE, __doc__)


if __name__ == "__main__":
    main()
