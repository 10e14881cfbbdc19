"""Metrics against hand-worked numbers, a transcription of the definition, and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from mpp_jax.metrics import (
    average_precision,
    class_accuracies,
    confusion_matrix,
    mean_average_precision,
    mean_class_accuracy,
    top1_accuracy,
)


def slow_11point(scores, targets):
    """The definition with loops: precision at each rank, largest one at recall >= t / 10."""
    ranked = [t for _, _, t in sorted(zip(-scores, range(len(scores)), targets, strict=True))]
    ranked = [t for t in ranked if t != 0]
    positives = sum(t > 0 for t in ranked)
    total = 0.0
    for tenth in range(11):
        best = 0.0
        for rank in range(1, len(ranked) + 1):
            found = sum(t > 0 for t in ranked[:rank])
            if 10 * found >= tenth * positives:
                best = max(best, found / rank)
        total += best / 11
    return total


def test_worked_example():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    targets = np.array([1, -1, 1, -1, 1])
    # precision at the positives: 1, 2/3, 3/5, at recall 1/3, 2/3, 1
    area = (1 + 2 / 3 + 3 / 5) / 3
    eleven = (4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11  # t = 0..0.3, 0.4..0.6, 0.7..1
    assert average_precision(scores, targets, "area")[0] == pytest.approx(area)
    assert average_precision(scores, targets)[0] == pytest.approx(eleven)


def test_recall_of_exactly_three_tenths_counts():
    targets = np.array([1, 1, 1] + [-1] * 7 + [1] * 7)
    scores = -np.arange(17.0)
    # t = 0..0.3 at precision 1; from 0.4 on the later positives, best at the end: 10/17
    assert average_precision(scores, targets)[0] == pytest.approx((4 + 7 * 10 / 17) / 11)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_against_definition_and_scikit_learn(seed, n):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(n).astype(np.float32)
    targets = rng.choice([-1, 0, 1], n)
    targets[0] = 1
    used = targets != 0
    assert average_precision(scores, targets)[0] == pytest.approx(slow_11point(scores, targets))
    peer = average_precision_score(targets[used] > 0, scores[used])
    assert average_precision(scores, targets, "area")[0] == pytest.approx(peer)


def voc_eval_cls(out, gt):
    """``VOCevalcls.m`` of the VOC 2007 development kit, line by line.

    MATLAB's sort is stable; ignored examples (gt = 0) stay in the list and count as neither; max
    skips NaN (0 / 0 above the first that counts). Recalls are compared as whole numbers of tenths.
    """
    si = sorted(range(len(out)), key=lambda i: -out[i])
    tp = np.cumsum([gt[i] > 0 for i in si])
    fp = np.cumsum([gt[i] < 0 for i in si])
    prec = [t / (t + f) if t + f else -np.inf for t, f in zip(tp, fp, strict=True)]
    rec = [10 * t for t in tp]
    ap = 0.0
    for t in range(11):
        p = [q for q, r in zip(prec, rec, strict=True) if r >= t * tp[-1]]
        ap += max(p, default=0) / 11
    return ap


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 25), st.integers(1, 5))
def test_the_development_kit_with_ties(seed, n, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, n).astype(np.float32)
    targets = rng.choice([-1, 0, 1], n)
    targets[rng.integers(n)] = 1
    wanted = voc_eval_cls(scores.tolist(), targets.tolist())
    assert average_precision(scores, targets)[0] == pytest.approx(wanted, abs=1e-12)
    # Area: precision at the rank of each positive, equals in the order of the list.
    ranked = targets[np.argsort(-scores, kind="stable")]
    ranked = ranked[ranked != 0]
    at = [np.mean(ranked[: r + 1] > 0) for r in np.flatnonzero(ranked > 0)]
    assert average_precision(scores, targets, "area")[0] == pytest.approx(np.mean(at))


def test_ignored_examples_leave_the_ranking():
    scores = np.array([[0.9], [0.8], [0.7]])
    assert average_precision(scores, [[0], [1], [-1]])[0] == 1.0
    assert average_precision(scores, [[-1], [1], [-1]], "area")[0] == 0.5


def test_ties_keep_the_order_of_the_examples():
    assert average_precision([1.0, 1.0], [1, -1], "area")[0] == 1.0
    assert average_precision([1.0, 1.0], [-1, 1], "area")[0] == 0.5


def test_class_without_positive_is_nan_and_left_out_of_the_mean():
    scores = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]])
    targets = np.array([[1, -1], [-1, -1], [1, 0]])
    per_class = average_precision(scores, targets, "area")
    np.testing.assert_allclose(per_class, [(1 + 2 / 3) / 2, np.nan])
    assert mean_average_precision(scores, targets, "area") == pytest.approx(per_class[0])
    assert np.isnan(mean_average_precision(scores, -np.ones((3, 2))))


def test_only_positives():
    for kind in ("11point", "area"):
        np.testing.assert_array_equal(average_precision([2.0, 1.0], [1, 1], kind), [1.0])


def test_accuracies_and_confusion():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 5 + [1] * 20 + [2] * 9)
    scores = rng.standard_normal((34, 4))
    guess = scores.argmax(axis=1)
    counts = confusion_matrix(scores, labels)
    np.testing.assert_array_equal(counts, sklearn_confusion(labels, guess, labels=range(4)))
    assert top1_accuracy(scores, labels) == pytest.approx(np.mean(guess == labels))
    recalls = [np.mean(guess[labels == k] == k) for k in range(3)]
    np.testing.assert_allclose(class_accuracies(scores, labels), [*recalls, np.nan])
    assert mean_class_accuracy(scores, labels) == pytest.approx(np.mean(recalls))
    guess_3 = scores[:, :3].argmax(axis=1)
    peer = balanced_accuracy_score(labels, guess_3)
    assert mean_class_accuracy(scores[:, :3], labels) == pytest.approx(peer)


def test_equal_highest_scores_predict_the_first_class():
    assert top1_accuracy(np.zeros((2, 3)), np.array([0, 1])) == 0.5


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros(3), [0, 0, 0], "scores must be"),
        (np.zeros((3, 2)), [0, 1], "scores must be"),
        (np.zeros((0, 2)), np.zeros(0, int), "N, L >= 1"),
        (np.zeros((2, 2)), [0, 2], r"labels must be integers in 0\.\.1"),
        (np.zeros((2, 2)), [0, -1], "labels must be"),
        (np.zeros((2, 2)), [0.0, 1.0], "labels must be"),
        (np.array([[0.0, np.nan], [0, 0]]), [0, 1], "NaN in 1 row"),
    ],
)
def test_label_mistakes_are_named(scores, labels, message):
    for function in (top1_accuracy, mean_class_accuracy, confusion_matrix):
        with pytest.raises(ValueError, match=message):
            function(scores, np.asarray(labels))


@pytest.mark.parametrize(
    ("scores", "targets", "kind", "message"),
    [
        (np.zeros((2, 2)), np.ones((2, 3)), "area", "must both be"),
        (np.zeros((2, 2)), np.full((2, 2), 2), "area", "targets must be"),
        (np.zeros((2, 2)), np.ones((2, 2)), "voc", "kind must be"),
        (np.full((2, 2), np.nan), np.ones((2, 2)), "11point", "NaN"),
    ],
)
def test_ap_mistakes_are_named(scores, targets, kind, message):
    with pytest.raises(ValueError, match=message):
        average_precision(scores, targets, kind)
