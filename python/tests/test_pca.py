"""Moments and PCA: what merges, what pickles, and scikit-learn's numbers."""

import pickle

import numpy
import pytest

import orb_features


def descriptors(n=3000, seed=0):
    random = numpy.random.default_rng(seed)
    mixed = random.normal(size=(n, 6)) @ random.normal(size=(6, 32)) * 20 + 128
    return numpy.clip(mixed + random.normal(size=(n, 32)), 0, 255).astype("u1")


def test_any_cut_gives_the_same_bits():
    rows = descriptors()
    whole = orb_features.Moments().push(rows)
    assert (whole.count, whole.dimensions, whole.element) == (3000, 32, "u8")
    for cuts in [[1], [100, 2999], range(100, 3000, 100)]:
        parts = [orb_features.Moments.of(part) for part in numpy.split(rows, list(cuts))]
        merged = orb_features.Moments()
        for part in reversed(parts):
            merged.merge(orb_features.Moments.from_bytes(part.to_bytes()))
        assert merged == whole and merged.to_bytes() == whole.to_bytes()
        assert merged.fit(10).to_json() == whole.fit(10).to_json()
    assert pickle.loads(pickle.dumps(whole)) == whole
    doubled = pickle.loads(pickle.dumps(whole)).merge(whole)
    assert doubled.count == 6000 and doubled != whole
    assert doubled.merge(doubled).count == 12000


@pytest.mark.parametrize("kind", ["bytes", "bits", "floats"])
def test_a_fit_is_scikit_learns(kind):
    rows = descriptors()
    wide = {"bytes": rows, "bits": numpy.unpackbits(rows, axis=1), "floats": rows.astype("f4") / 7}[kind]
    given = wide if kind == "floats" else rows
    model = orb_features.Pca.fit(given, 5, pca_input="bits" if kind == "bits" else "bytes")
    wide = wide.astype("f8")
    values, vectors = numpy.linalg.eigh(numpy.cov(wide.T))
    values, vectors = values[::-1], vectors[:, ::-1].T[:5]
    # scikit-learn's signs: the largest element of a component is positive.
    vectors *= numpy.sign(vectors[range(5), numpy.abs(vectors).argmax(1)])[:, None]
    numpy.testing.assert_allclose(model.components_, vectors, atol=1e-6)
    numpy.testing.assert_allclose(model.mean_, wide.mean(0))
    numpy.testing.assert_allclose(model.explained_variance_, values[:5])
    numpy.testing.assert_allclose(model.explained_variance_ratio_, values[:5] / values.sum())
    numpy.testing.assert_allclose(model.singular_values_, numpy.sqrt(values[:5] * 2999))
    numpy.testing.assert_allclose(model.transform(given), (wide - wide.mean(0)) @ vectors.T, atol=1e-4)
    assert (model.n_components_, model.n_features_in_, model.n_samples_) == (5, wide.shape[1], 3000)
    assert model.element == {"bytes": "u8", "bits": "bits", "floats": "f32"}[kind]


def test_a_model_is_kept(tmp_path):
    model = orb_features.Pca.fit(descriptors(), 0.9)
    assert 1 < model.n_components_ < 32 and model.explained_variance_ratio_.sum() >= 0.9
    path = tmp_path / "model.json"
    model.save(path)
    assert orb_features.Pca.load(path) == model == pickle.loads(pickle.dumps(model))
    with_origin = orb_features.Moments.of(descriptors()).fit(5, origin=orb_features.extract("", n_features=40))
    assert '"n_features":40' in with_origin.to_json()


def test_columns_of_arrow():
    pyarrow = pytest.importorskip("pyarrow")
    rows = descriptors(50)
    want = orb_features.Moments.of(rows)
    cells = [bytes(row) for row in rows]
    for column in [
        pyarrow.array(cells, pyarrow.binary(32)),
        pyarrow.array(cells, pyarrow.binary()),
        pyarrow.chunked_array([cells[:20], [], cells[20:]], pyarrow.binary(32)),
    ]:
        assert orb_features.Moments.of(column) == want
    floats = rows.astype("f4")
    column = pyarrow.array(floats.tolist(), pyarrow.list_(pyarrow.float32()))
    assert orb_features.Moments.of(column) == orb_features.Moments.of(floats)
    model = want.fit(3)
    assert (model.transform(pyarrow.array(cells, pyarrow.binary(32))) == model.transform(rows)).all()


def test_any_strides_are_read_right():
    rows = descriptors(60).astype("f4")
    want = orb_features.Moments.of(rows)
    table = numpy.zeros(60, [("tag", "u1"), ("row", "f4", (32,))])
    table["row"] = rows
    shifted = numpy.frombuffer(b"x" + rows.tobytes(), "u1")[1:].view("f4").reshape(60, 32)
    wide = numpy.repeat(rows, 2, axis=1)[:, ::2]
    for same in [table["row"], shifted, wide, numpy.asfortranarray(rows), rows[::-1][::-1]]:
        assert orb_features.Moments.of(same) == want
    read_only = rows.astype("u1")
    read_only.flags.writeable = False
    assert orb_features.Moments.of(read_only) == orb_features.Moments.of(rows.astype("u1"))


def fit_in_child(rows, wanted, model):
    moments = orb_features.Moments.of(rows)
    assert moments.to_bytes() == wanted
    assert moments.fit(5) == model
    assert moments.merge(moments).count == 2 * len(rows)


@pytest.mark.parametrize("shape, dtype", [((200_000, 32), "u1"), ((1_000, 600), "f4")])
def test_a_fork_has_threads_of_its_own(shape, dtype):
    import multiprocessing

    rows = numpy.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    moments = orb_features.Moments.of(rows)
    wanted = moments.to_bytes()
    child = multiprocessing.get_context("fork").Process(target=fit_in_child, args=(rows, wanted, moments.fit(5)))
    child.start()
    child.join(60)
    alive = child.is_alive()
    child.kill()
    assert not alive and child.exitcode == 0


def test_what_cannot_be_is_said(tmp_path):
    moments = orb_features.Moments()
    with pytest.raises(orb_features.PcaError, match="0 rows"):
        moments.fit(20)
    for bad in [b"", b"orbmom01", moments.to_bytes()[:-1]]:
        with pytest.raises(orb_features.PcaError):
            orb_features.Moments.from_bytes(bad)
    with pytest.raises(orb_features.OrbFeaturesError):
        moments.push(numpy.zeros((2, 31), "u1"))
    with pytest.raises(orb_features.OrbFeaturesError, match="finite"):
        orb_features.Moments.of(numpy.full((2, 3), numpy.nan, "f4"))
    with pytest.raises(TypeError, match="uint8 or float32"):
        moments.push([1, 2])
    with pytest.raises(orb_features.ParamError, match="at most 16384"):
        orb_features.Moments(10**9)
    with pytest.raises(orb_features.OrbFeaturesError) as caught:
        orb_features.Pca.load(tmp_path / "none.json")
    assert caught.value.uri and "none.json" in caught.value.uri
