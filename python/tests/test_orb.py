"""`ORB_create` and its class against cv2's, on the same pixels."""

import pickle
import subprocess
import sys
import threading

import numpy
import numpy.lib.recfunctions
import pytest
from conftest import drawn

import orb_features

cv2 = pytest.importorskip("cv2")


def rows(keypoints, descriptors):
    """What was found, in an order of its own: cv2's order within a level is an accident."""
    if descriptors is None:
        return []
    assert descriptors.dtype == numpy.uint8 and descriptors.shape == (len(keypoints), 32)
    facts = [(*k.pt, k.size, k.angle, k.response, k.octave, k.class_id) for k in keypoints]
    return sorted((*fact, bytes(row)) for fact, row in zip(facts, descriptors, strict=True))


def params(seed):
    random = numpy.random.default_rng(seed)
    return {
        "nfeatures": int(random.integers(1, 800)),
        "scaleFactor": float(numpy.float32(random.uniform(1.1, 1.9))),
        "nlevels": int(random.integers(1, 9)),
        "edgeThreshold": int(random.integers(5, 40)),
        "firstLevel": int(random.integers(0, 2)),
        "WTA_K": int(random.integers(2, 5)),
        "scoreType": int(random.integers(0, 2)),
        "patchSize": int(random.integers(5, 40)),
        "fastThreshold": int(random.integers(3, 40)),
    }


@pytest.mark.parametrize("seed", range(60))
def test_any_parameters_give_what_cv2_gives(seed):
    random = numpy.random.default_rng(seed)
    image = drawn(int(random.integers(80, 400)), seed)
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    mask = (random.random(gray.shape) < 0.7).astype("u1")
    theirs, ours = cv2.ORB_create(**params(seed)), orb_features.ORB_create(**params(seed))
    for pixels, allowed in [(image, None), (gray, None), (gray, mask), (gray[1::2, 3:], None)]:
        want = theirs.detectAndCompute(pixels, allowed)
        got = ours.detectAndCompute(pixels, allowed)
        assert rows(*got) == rows(*want)
        assert got[1] is None or isinstance(got[0][0], cv2.KeyPoint)
        found = ours.detect(pixels, allowed)
        assert sorted(k.pt for k in found) == sorted(k.pt for k in theirs.detect(pixels, allowed))
        # On the same keypoints, which are cv2's.
        assert rows(*ours.compute(pixels, want[0])) == rows(*theirs.compute(pixels, want[0]))


def test_getters_and_setters_are_cv2s():
    theirs, ours = cv2.ORB_create(), orb_features.ORB_create()
    names = [name[3:] for name in dir(ours) if name.startswith("get") and name != "getDefaultName"]
    assert len(names) == 9
    for name in names:
        assert getattr(ours, f"get{name}")() == pytest.approx(getattr(theirs, f"get{name}")())
    other = params(3)
    for name, value in zip(
        ["MaxFeatures", "ScaleFactor", "NLevels", "EdgeThreshold", "FirstLevel", "WTA_K", "ScoreType", "PatchSize", "FastThreshold"],
        other.values(),
        strict=True,
    ):
        getattr(ours, f"set{name}")(value)
        assert getattr(ours, f"get{name}")() == pytest.approx(value)
    image = drawn(200, 1)
    assert rows(*ours.detectAndCompute(image)) == rows(*cv2.ORB_create(**other).detectAndCompute(image, None))
    same = ["descriptorSize", "descriptorType", "defaultNorm"]
    assert all(getattr(ours, name)() == getattr(cv2.ORB_create(**other), name)() for name in same)


def test_arguments_may_be_written_as_for_cv2():
    image, mask = drawn(200, 1), numpy.full((200, 200, 1), 255, "u1")
    ours = orb_features.ORB_create()
    want = rows(*cv2.ORB_create().detectAndCompute(image, mask, None, False))
    assert rows(*ours.detectAndCompute(image, mask, None, False)) == want
    assert rows(*ours.detectAndCompute(image, mask=None, useProvidedKeypoints=False)) == want
    assert ours.empty() == cv2.ORB_create().empty()
    with pytest.raises(orb_features.ParamError, match="compute takes keypoints"):
        ours.detectAndCompute(image, None, None, True)
    with pytest.raises(orb_features.ParamError, match="n_features: -1"):
        orb_features.ORB_create(nfeatures=-1)
    with pytest.raises(orb_features.ParamError, match="fast_threshold: 300 .0 to 255"):
        ours.setFastThreshold(300)


def test_one_import_changes_a_notebook():
    from orb_features import cv2 as drop_in

    image = drawn(100, 1)
    assert drop_in.imread is cv2.imread and "imread" in dir(drop_in)
    for orb in [drop_in.ORB_create(nfeatures=30), drop_in.ORB.create(30)]:
        assert rows(*orb.detectAndCompute(image, None)) == rows(*cv2.ORB_create(30).detectAndCompute(image, None))


def test_nothing_found_is_none_and_no_keypoint():
    flat = numpy.zeros((100, 100), "u1")
    orb = orb_features.ORB_create()
    assert orb.detectAndCompute(flat, None) == ((), None) and orb.compute(flat, []) == ((), None)
    keypoints, descriptors = orb.detect_and_compute_array(flat)
    assert (keypoints.shape, descriptors.shape) == ((0,), (0, 32))
    # Too small for its levels: an error in cv2, too.
    with pytest.raises(cv2.error):
        cv2.ORB_create().detectAndCompute(numpy.zeros((1, 1), "u1"), None)
    with pytest.raises(orb_features.ExtractError, match="1 x 1"):
        orb.detectAndCompute(numpy.zeros((1, 1), "u1"))


def test_arrays_hold_the_same():
    image, orb = drawn(200, 5), orb_features.ORB_create(100)
    keypoints, descriptors = orb.detectAndCompute(image)
    found, same = orb.detect_and_compute_array(image)
    assert found.dtype == orb_features.KEYPOINT_DTYPE and (same == descriptors).all()
    assert [tuple(row) for row in found.tolist()] == [(*k.pt, k.size, k.angle, k.response, k.octave, -1) for k in keypoints]
    assert (orb.detect_array(image) == found).all()
    again, described = orb.compute_array(image, found[::-1])
    assert rows(*orb.compute(image, keypoints)) == sorted(
        (*row, bytes(d)) for row, d in zip(again.tolist(), described, strict=True)
    )


def test_keypoints_keep_their_numbers():
    image = drawn(200, 5)
    theirs, ours = cv2.ORB_create(100), orb_features.ORB_create(100)
    given = theirs.detect(image, None)
    for i, keypoint in enumerate(given):
        keypoint.class_id = 1000 - i
    # One twice, and one at the border, which is dropped.
    given = [cv2.KeyPoint(1, 1, 31, class_id=7), *given, given[3]]
    want = rows(*theirs.compute(image, given))
    assert rows(*ours.compute(image, given)) == want and {row[6] for row in want} >= {1000, 997}
    array = numpy.array(
        [(*k.pt, k.size, k.angle, k.response, k.octave, k.class_id) for k in given], orb_features.KEYPOINT_DTYPE
    )
    # Fields are found by their names; class_id may be missing.
    other = array[["class_id", "octave", "y", "x", "response", "angle", "size"]]
    for some in [array, other, numpy.lib.recfunctions.repack_fields(other)]:
        found, descriptors = ours.compute_array(image, some)
        assert sorted((*row, bytes(d)) for row, d in zip(found.tolist(), descriptors, strict=True)) == want
    without = numpy.lib.recfunctions.drop_fields(array, "class_id")
    assert set(ours.compute_array(image, without)[0]["class_id"]) == {-1}
    with pytest.raises(orb_features.ParamError, match="without x"):
        ours.compute_array(image, array[["y"]])


def test_lists_of_images_as_in_cv2():
    images = [drawn(100, 1), drawn(150, 2)]
    theirs, ours = cv2.ORB_create(50), orb_features.ORB_create(50)
    want, got = theirs.detect(images), ours.detect(images)
    assert [sorted(k.pt for k in some) for some in got] == [sorted(k.pt for k in some) for some in want]
    keypoints, descriptors = ours.compute(images, want)
    assert [rows(*pair) for pair in zip(keypoints, descriptors, strict=True)] == [
        rows(*theirs.compute(image, some)) for image, some in zip(images, want, strict=True)
    ]
    with pytest.raises(orb_features.ParamError, match="one for each of 2 images"):
        ours.compute(images, want[:1])


def test_without_cv2_there_are_keypoints_of_our_own():
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "import numpy, orb_features\n"
        "image = numpy.random.default_rng(1).integers(0, 256, (100, 100)).astype('u1')\n"
        "orb = orb_features.ORB_create(30)\n"
        "keypoints, descriptors = orb.detectAndCompute(image)\n"
        "assert type(keypoints[0]) is orb_features.KeyPoint and keypoints[0].class_id == -1\n"
        "again, same = orb.compute(image, keypoints)\n"
        "assert (same == descriptors).all() and again[0].pt == keypoints[0].pt\n"
        "print(repr(orb_features.KeyPoint(1, 2, 31)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("KeyPoint(x=1")


def test_what_is_no_image_is_said():
    orb = orb_features.ORB_create()
    with pytest.raises(TypeError, match="uint8 is due, not float32"):
        orb.detectAndCompute(numpy.zeros((9, 9), "f4"))
    with pytest.raises(TypeError, match="not NoneType"):
        orb.detectAndCompute(None)
    for shape in [(9,), (9, 9, 2), (9, 9, 9, 1)]:
        with pytest.raises(orb_features.ParamError, match="height, width"):
            orb.detectAndCompute(numpy.zeros(shape, "u1"))
    with pytest.raises(orb_features.ParamError):
        orb.detectAndCompute(numpy.zeros((9, 9), "u1"), numpy.zeros((8, 9), "u1"))
    with pytest.raises(orb_features.ParamError, match="scale_factor") as caught:
        orb_features.ORB_create(scaleFactor=0.5)
    assert (caught.value.stage, caught.value.code) == ("params", "invalid_param")
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), ValueError)
    with pytest.raises(orb_features.ParamError, match="compat"):
        orb_features.ORB_create(compat="pypi-3")


def test_it_pickles_and_threads_share_it():
    orb = orb_features.ORB_create(60, WTA_K=3, compat="pypi-4.6")
    again = pickle.loads(pickle.dumps(orb))
    assert repr(again) == repr(orb) and again.compat == "pypi-4.6"
    images = [drawn(150, seed) for seed in range(8)]
    want = [rows(*orb.detectAndCompute(image)) for image in images]
    got = [None] * len(images)

    def work(i):
        for _ in range(20):
            got[i] = rows(*orb.detectAndCompute(images[i]))

    threads = [threading.Thread(target=work, args=[i]) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == want
