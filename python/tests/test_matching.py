"""Matches and homographies, against cv2's."""

import cv2
import numpy
import pytest

import orb_features


def descriptors(n, seed, bits=24):
    """Descriptors with many ties: few of their bits vary."""
    random = numpy.random.default_rng(seed)
    rows = numpy.full((n, 32), 0x5A, "u1")
    rows[:, : bits // 8] = random.integers(0, 256, (n, bits // 8))
    return rows


NORMS = {"hamming": cv2.NORM_HAMMING, "hamming2": cv2.NORM_HAMMING2}


def listed(found):
    return [[(m.trainIdx, int(m.distance)) for m in row] for row in found]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bits", [16, 256])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 1), (3, 17), (70, 300), (257, 1000)])
def test_the_matches_are_those_of_bfmatcher(norm, bits, n, m):
    query, train = descriptors(n, 1, bits), descriptors(m, 2, bits)
    theirs, ours = cv2.BFMatcher(NORMS[norm]), orb_features.Matcher(norm)
    for k in (1, 2, 5):
        index, distance = ours.knn(query, train, k)
        assert index.shape == distance.shape == (n, min(k, m))
        got = [list(zip(*row, strict=True)) for row in zip(index.tolist(), distance.tolist(), strict=True)]
        assert got == listed(theirs.knnMatch(query, train, k))
    columns = ours.match(query, train)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == [
        (m.queryIdx, m.trainIdx, int(m.distance)) for m in theirs.match(query, train)
    ]
    crossed = orb_features.Matcher(norm, cross_check=True).match(query, train)
    assert list(zip(*(c.tolist() for c in crossed), strict=True)) == [
        (m.queryIdx, m.trainIdx, int(m.distance)) for m in cv2.BFMatcher(NORMS[norm], True).match(query, train)
    ]
    mask = numpy.random.default_rng(3).integers(0, 2, (n, m), "u1")
    index, distance = ours.knn(query, train, 3, mask)
    got = [
        [pair for pair in zip(*row, strict=True) if pair[0] >= 0]
        for row in zip(index.tolist(), distance.tolist(), strict=True)
    ]
    assert got == listed(theirs.knnMatch(query, train, 3, mask))


def test_ratio_and_distance_are_limits():
    query, train = descriptors(200, 1), descriptors(300, 2)
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(query, train, 2)
    want = [m.queryIdx for m, n in pairs if m.distance < 0.75 * n.distance]
    assert orb_features.Matcher(ratio=0.75).match(query, train)[0].tolist() == want
    near = orb_features.Matcher(max_distance=3).match(query, train)
    assert near[2].max() <= 3
    assert near[0].tolist() == [m.queryIdx for m, _ in pairs if m.distance <= 3]
    # The shape is that of the call, whatever is found.
    index, distance = orb_features.Matcher(max_distance=3).knn(query, train, 5)
    assert index.shape == distance.shape == (200, 5) and index[:, 4].max() == -1
    assert orb_features.Matcher().knn(query, train, 10**12)[0].shape == (200, 300)


def test_what_is_wrong_is_said():
    rows = descriptors(4, 1)
    matcher = orb_features.Matcher()
    assert matcher.knn(rows, rows[:0], 2)[0].shape == (4, 0)
    assert [len(c) for c in matcher.match(rows[:0], rows)] == [0, 0, 0]
    assert matcher.match(rows[::2], numpy.asfortranarray(rows))[1].tolist() == [0, 2]
    for bad in (rows[0], rows[:, :31]):
        with pytest.raises(orb_features.ParamError, match="32"):
            matcher.match(bad, rows)
    with pytest.raises(orb_features.ParamError, match="mask"):
        matcher.match(rows, rows, numpy.ones((4, 5), "u1"))
    with pytest.raises(orb_features.ParamError, match="ratio"):
        orb_features.Matcher(ratio=2)
    with pytest.raises(orb_features.ParamError, match="norm"):
        orb_features.Matcher("l2")


def test_a_homography_is_found_as_well_as_by_cv2():
    random = numpy.random.default_rng(5)
    truth = numpy.array([[0.9, 0.12, 20], [-0.08, 1.1, 15], [1e-4, -2e-4, 1]])
    source = random.uniform((0, 0), (640, 480), (400, 2))
    mapped = numpy.c_[source, numpy.ones(400)] @ truth.T
    target = mapped[:, :2] / mapped[:, 2:] + random.normal(0, 0.7, (400, 2))
    target[200:] = random.uniform((0, 0), (640, 480), (200, 2))
    corners = numpy.array([[0, 0, 1], [639, 0, 1], [639, 479, 1], [0, 479, 1]])

    def error(matrix):
        one, other = corners @ matrix.T, corners @ truth.T
        return numpy.linalg.norm(one[:, :2] / one[:, 2:] - other[:, :2] / other[:, 2:], axis=1).mean()

    matrix, inliers = orb_features.find_homography(source, target)
    theirs, mask = cv2.findHomography(source, target, cv2.RANSAC, 3)
    assert matrix[2, 2] == 1 and inliers.dtype == bool
    assert inliers[:200].sum() >= mask[:200].sum() - 2 and inliers[200:].sum() < 10
    assert error(matrix) < max(1.0, 1.5 * error(theirs))
    again, _ = orb_features.find_homography(source, target)
    assert (again == matrix).all()
    nothing, inliers = orb_features.find_homography(source[:3], target[:3])
    assert nothing is None and inliers.tolist() == [False] * 3
    with pytest.raises(orb_features.ParamError):
        orb_features.find_homography(source, target[:5])
