import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.metrics import f1_score

from lib.calibration import joint_search
from lib.calibration.joint_grid import _at_least, _label_counts

quick = settings(deadline=None, max_examples=60, derandomize=True)


# ---- the search against loops


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_joint_search_agrees_with_a_loop(average, dtype, multi_label):
    z, y = multi_label()
    z = z.astype(dtype)
    temperatures, thresholds = np.arange(1.0, 16), np.linspace(0.2, 1, 9)
    frame = joint_search(z, y, temperatures, thresholds, average)
    assert frame.columns.tolist() == ["temperature", "threshold", "f1"]
    assert len(frame) == 15 * 9
    for row in frame.itertuples():
        hate = expit(z.astype(float) / row.temperature) >= row.threshold
        expected = f1_score(y, hate, average=average, zero_division=0)
        assert row.f1 == pytest.approx(expected, abs=1e-14)


@quick
@given(
    st.floats(-50, 50),
    st.floats(0.05, 20),
    st.one_of(st.floats(0.001, 0.999), st.sampled_from([0.0, 0.2, 0.5, 1.0])),
)
def test_joint_decision_is_the_sigmoid_against_the_threshold(z, t, threshold):
    f1 = joint_search([[z], [-60.0]], [[1], [0]], [t], [threshold])["f1"][0]
    near = math.isclose(z, t * logit(threshold), rel_tol=1e-9, abs_tol=1e-9 * t)
    saturated = threshold == 1 or expit(-60 / t) >= threshold
    if not (near or saturated):
        assert f1 == (expit(z / t) >= threshold)


# Zero, denormal, ordinary and huge logits, alone and together.
@quick
@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.floats(-8, 8, width=32),
                st.sampled_from([0.0, -0.0, 1.0, 2**-32, -(2**-33), 1e-40, 2**31, -(2.0**60)]),
            ),
            st.booleans(),
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([np.float32, np.float64, np.int64]),
)
def test_joint_search_counts_every_logit(rows, dtype):
    z = np.array([value for value, _ in rows]).astype(dtype)[:, None]
    y = np.array([label for _, label in rows])[:, None]
    ts, thresholds = [0.5, 1.0, 1e9], [0.0, 0.2, 0.5, 0.5 + 1e-13, expit(1.0), 1.0]
    frame = joint_search(z, y, ts, thresholds)
    for row in frame.itertuples():
        hate = z.astype(float) >= row.temperature * logit(row.threshold)
        tp, flagged = np.count_nonzero(hate & y), np.count_nonzero(hate)
        assert row.f1 == pytest.approx(2 * tp / max(flagged + np.count_nonzero(y), 1), abs=1e-15)


def test_joint_decision_at_the_boundary_is_positive():
    z = 3.0 * logit(0.7)
    assert joint_search([[z], [-9.0]], [[1], [0]], [3.0], [0.7])["f1"][0] == 1
    below = np.nextafter(z, -1)
    assert joint_search([[below], [-9.0]], [[1], [0]], [3.0], [0.7])["f1"][0] == 0


def test_label_without_positives_counts_0(multi_label):
    z, y = multi_label()
    y[:, 0] = 0
    frame = joint_search(z, y, [1.0], [0.5], "macro")
    assert frame["f1"][0] == pytest.approx(
        f1_score(y, z >= 0, average="macro", zero_division=0), abs=1e-14
    )
    assert joint_search(z, np.zeros_like(y), [1.0], [0.5], "weighted")["f1"][0] == 0


# ---- counts of cells against comparing


def reference_counts(z, y, cuts):
    """True positives and flagged examples of z >= cut, label by label and cut by cut."""
    hits = z[:, :, None] >= cuts
    tp = (hits & y[:, :, None]).sum(axis=0)
    return tp.tolist(), hits.sum(axis=0).tolist(), y.sum(axis=0).tolist()


magnitude = st.one_of(
    st.floats(2.0**-32, 2.0**30, width=32), st.sampled_from([1.0, 2.0, 2.0**-32, 2.0**30])
)
signed = st.tuples(magnitude, st.sampled_from([-1.0, 1.0])).map(math.prod)


@quick
@given(
    st.lists(st.tuples(signed, signed, st.booleans(), st.booleans()), min_size=1, max_size=20),
    st.lists(signed, min_size=1, max_size=8),
    st.sampled_from([np.float32, np.float64]),
)
def test_cells_count_as_comparing_does(rows, cuts, dtype):
    z = np.array([row[:2] for row in rows]).astype(dtype)
    y = np.array([row[2:] for row in rows])
    # Cuts at the logits themselves decide between > and >=.
    cuts = np.unique(np.append(cuts, z[0])).astype(dtype)
    counts = _label_counts(z, y, cuts, z.min(), z.max())
    assert tuple(c.tolist() for c in counts) == reference_counts(z, y, cuts)


@quick
@given(st.floats(-1e30, 1e30))
def test_cut_in_single_precision_decides_as_in_double(cut):
    (rounded,) = _at_least(np.array([cut]), np.dtype(np.float32))
    nearest = np.float32(cut)
    for z in (np.nextafter(nearest, -np.inf), nearest, np.nextafter(nearest, np.inf)):
        assert (z >= rounded) == (float(z) >= cut)


# ---- inputs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0], [1], [1], [0.5]), "logits must have shape"),
        (([[0.0]], [[1], [0]], [1], [0.5]), "shape"),
        (([[np.nan]], [[1]], [1], [0.5]), "logits holds 1 of 1 values that are NaN"),
        (([[0.0]], [[1]], [[1.0]], [0.5]), "temperatures must have shape"),
        (([[0.0]], [[1]], [0.0], [0.5]), "temperatures must be positive"),
        (([[0.0]], [[1]], [1], [1.5]), "thresholds holds 1 of 1 values that are outside"),
        (([[0.0]], [[1]], [1], [0.5], "mean"), "average must be one of"),
    ],
)
def test_bad_joint_search_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        joint_search(*arguments)
