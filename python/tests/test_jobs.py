"""`extract`: the rows of the job as a stream of Arrow and as files."""

import os
import signal
import subprocess
import sys
import time

import numpy
import pytest

import orb_features

cv2 = pytest.importorskip("cv2")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def test_the_rows_are_cv2s(photos):
    found = pyarrow.table(orb_features.extract(photos, n_features=30)).to_pylist()
    want = []
    for path in sorted(map(str, photos.glob("**/*.*")), key=os.fsencode):
        image = cv2.imread(path)
        keypoints, descriptors = cv2.ORB_create(nfeatures=30).detectAndCompute(image, None)
        label = os.path.basename(os.path.dirname(path))
        for k, row in zip(keypoints, [] if descriptors is None else descriptors, strict=True):
            want.append((path, label, *image.shape[:2], *k.pt, k.angle, k.response, k.octave, bytes(row)))
    names = ["path", "label", "image_height", "image_width", "x", "y", "angle", "response", "octave", "descriptor"]
    got = [tuple(row[name] for name in names) for row in found]
    assert want and sorted(got) == sorted(want)
    assert [row[0] for row in got] == [row[0] for row in want]


def test_every_reader_takes_the_stream(photos):
    job = orb_features.extract(photos, pca=5, threads=2)
    table = pyarrow.table(job)
    assert table.schema == pyarrow.schema(orb_features.extract(photos, pca=job.model).schema)
    assert job.model.n_samples_ == len(table)
    assert pyarrow.table(orb_features.extract(photos, pca=job.model)) == table
    scores = numpy.array(table["pca"].to_pylist(), "f4")
    assert (job.model.transform(table["descriptor"]).astype("f4") == scores).all()
    polars = pytest.importorskip("polars")
    assert polars.DataFrame(job)["x"].to_list() == table["x"].to_pylist()
    duckdb = pytest.importorskip("duckdb")
    with pytest.raises(orb_features.ParamError, match="first run"):
        _ = orb_features.extract(photos, pca=0.9).schema
    assert duckdb.sql("select count(*) from job").fetchall() == [(len(table),)]


def test_files_are_the_programs(photos, tmp_path):
    job, out = orb_features.extract(photos, pca=5), tmp_path / "out"
    calls = []
    report = job.write_parquet(out, files=2, progress=lambda *numbers: calls.append(numbers))
    assert report["rows"] == job.model.n_samples_ and calls[-1][0] == report["images"]
    assert len(list(out.glob("part-*.parquet"))) == 2 and (out / "_SUCCESS").exists()
    assert parquet.read_table(out) == pyarrow.table(job)
    with pytest.raises(orb_features.SinkError) as caught:
        job.write_parquet(out)
    assert (caught.value.code, caught.value.uri) == ("output_exists", str(out))
    job.write_parquet(out, mode="overwrite", progress=True)
    job.write_csv(tmp_path / "csv", columns=True)
    assert next((tmp_path / "csv").glob("*.csv")).read_text().startswith("path,label")


def test_a_model_of_other_features_is_refused(photos, tmp_path):
    job = orb_features.extract(photos, pca=3)
    pyarrow.table(job)
    model = job.model
    assert model.to_json() != orb_features.Moments.of(pyarrow.table(job)["descriptor"]).fit(3).to_json()
    with pytest.raises(orb_features.PcaError, match="wta_k: the model 2, this job 3"):
        orb_features.extract(photos, pca=model, wta_k=3)
    forced = orb_features.extract(photos, pca=model, wta_k=3, force=True)
    assert len(pyarrow.table(forced)) > 0
    forced.write_parquet(tmp_path / "out")
    with pytest.raises(orb_features.ParamError, match="pca_input"):
        orb_features.extract(photos, pca=model, pca_input="bits")
    # The centring of a model may be changed, as by the program.
    scores = {c: pyarrow.table(orb_features.extract(photos, pca=model, centering=c))["pca"] for c in (None, "mean", "none")}
    assert scores[None] == scores["mean"] != scores["none"]


def test_force_appends_to_a_result_of_other_parameters(photos, tmp_path):
    orb_features.extract(photos).write_parquet(tmp_path / "out")
    other = orb_features.extract(photos, wta_k=3)
    with pytest.raises(orb_features.SinkError, match="wta_k"):
        other.write_parquet(tmp_path / "out", mode="append")
    report = other.write_parquet(tmp_path / "out", mode="append", force=True)
    assert report["sink"]["files"] == 1 and len(list((tmp_path / "out").glob("*.parquet"))) == 2


def test_options_without_effect_are_refused(photos):
    model = orb_features.Pca.fit(numpy.random.default_rng(0).integers(0, 256, (40, 32), "u1"), 3)
    for options in [
        {"solver": "covariance"},
        {"seed": 1},
        {"centering": "none"},
        {"pca_input": "bits"},
        {"pca": model, "solver": "covariance"},
        {"pca": model, "seed": 1},
        {"pca": 3, "solver": "covariance", "seed": 1},
        {"pca": 0.9, "solver": "randomized"},
        {"pca": 0.9, "seed": 1},
        {"pca": 3, "solver": "nonsense"},
        {"pca": 3, "centering": "nonsense"},
        {"pca": model, "centering": "nonsense"},
    ]:
        with pytest.raises(orb_features.ParamError):
            orb_features.extract(photos, **options)


def test_failed_photos_by_policy(damaged, tmp_path):
    with pytest.raises(pyarrow.lib.ArrowException, match="a.jpg"):
        pyarrow.table(orb_features.extract(damaged))
    with pytest.raises(orb_features.DecodeError) as caught:
        orb_features.extract(damaged).write_parquet(tmp_path / "out")
    assert caught.value.uri.endswith("kind/a.jpg") and caught.value.stage == "decode"
    job = orb_features.extract(damaged)
    with pytest.raises(pyarrow.lib.ArrowException):
        pyarrow.table(job)
    assert isinstance(job.last_error, orb_features.DecodeError) and job.last_error.uri == caught.value.uri
    job = orb_features.extract(damaged, on_error="skip")
    good = pyarrow.table(job)
    assert job.failed == {"corrupt": 1, "not_an_image": 1} and job.last_error is None
    assert set(good["path"].to_pylist()) == {str(damaged / "kind" / "b.jpg")}
    table = pyarrow.table(orb_features.extract(damaged, on_error="record"))
    failed = [row for row in table.to_pylist() if row["error"] is not None]
    assert [(row["label"], row["error_code"], row["descriptor"]) for row in failed] == [
        ("kind", "corrupt", None),
        ("kind", "not_an_image", None),
    ]
    assert table.filter(pyarrow.compute.is_null(table["error"])).select(good.schema.names).to_pylist() == good.to_pylist()
    with pytest.raises(orb_features.OrbFeaturesError, match="2"):
        orb_features.extract(damaged, on_error="skip", max_failures=1).write_parquet(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_as_others_write_them(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pyarrow.table(orb_features.extract(photos))
    spaced = tmp_path / "a b%20"
    spaced.symlink_to(photos)
    for uri in [photos.as_uri(), f"file:{photos}", f"file://localhost{photos}"]:
        assert pyarrow.table(orb_features.extract(uri)) == table
    assert len(pyarrow.table(orb_features.extract(spaced.as_uri()))) == len(table)
    job = orb_features.extract(photos)
    job.write_parquet((tmp_path / "out").as_uri())
    assert (tmp_path / "out" / "_SUCCESS").exists()
    for bad in ["gs://bucket/x", "https://host/x"]:
        with pytest.raises(orb_features.ParamError, match="s3://"):
            job.write_parquet(bad)
        with pytest.raises(orb_features.ParamError, match="s3://"):
            orb_features.extract(bad)
    for s3 in ["s3a://b/x", "s3:/b/x"]:
        assert repr(orb_features.extract(s3)) == 'Extraction("s3://b/x")'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b%20", "out"]


def test_a_part_of_which_nothing_can_be_read_fails(damaged):
    bad = [(str(damaged / "kind" / "a.jpg"), None, None)]
    gone = [(str(damaged / "kind" / f"gone{i}.jpg"), None, None) for i in range(3)]
    options = {"on_error": "skip", "allow_empty": True}
    assert len(pyarrow.table(orb_features.extract(damaged, listed=bad, **options))) == 0
    assert len(pyarrow.table(orb_features.extract(damaged, listed=bad + gone, **options))) == 0
    with pytest.raises(pyarrow.lib.ArrowException, match="none of these 3 images can be read"):
        pyarrow.table(orb_features.extract(damaged, listed=gone, **options))


@pytest.mark.parametrize("how", ["job.list_images()", "pyarrow.table(job)", "job.write_parquet(out)"])
def test_ctrl_c_ends_a_wait_for_a_server_that_is_silent(tmp_path, how):
    code = (
        "import orb_features, pyarrow, socket, threading, os, signal, time\n"
        f"out = {str(tmp_path / 'out')!r}\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "url = f'http://127.0.0.1:{server.getsockname()[1]}'\n"
        "options = {'endpoint_url': url, 'region': 'r', 'access_key_id': 'a', 'secret_access_key': 'b'}\n"
        "job = orb_features.extract('s3://bucket/x', storage_options=options)\n"
        "threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        f"try: {how}\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "interrupted\n", done.stderr
    assert time.monotonic() - start < 30


def test_a_list_is_shared_out(photos):
    job = orb_features.extract(photos)
    images = job.list_images()
    assert all(os.path.getsize(path) == size for path, size, _ in images)
    parts = [orb_features.extract(photos, listed=images[i::3], allow_empty=True) for i in range(3)]
    rows = [row for part in parts for row in pyarrow.table(part).to_pylist()]
    key = str
    assert sorted(rows, key=key) == sorted(pyarrow.table(job).to_pylist(), key=key)


def test_batches_of_encoded_photos(photos, damaged):
    paths = sorted(map(str, photos.glob("**/*.*")), key=os.fsencode)
    contents = [open(path, "rb").read() for path in paths]
    batch = pyarrow.record_batch({"name": paths, "data": pyarrow.array(contents, pyarrow.large_binary())})
    job = orb_features.Extraction(threads=1)
    found, failed = orb_features.extract("", n_features=30, threads=1).rows_of(batch, "name", "data")
    assert failed == {} and job.rows_of(batch.slice(0, 0), "name", "data") == ([], {})
    table = pyarrow.Table.from_batches(map(pyarrow.record_batch, found))
    assert table.to_pylist() == pyarrow.table(orb_features.extract(photos)).to_pylist()
    bad = pyarrow.record_batch({"path": ["x/1.jpg", None], "content": [b"nope", None]})
    found, failed = orb_features.extract("", on_error="skip", allow_empty=True).rows_of(bad)
    assert (found, failed) == ([], {"not_an_image": 1, "empty": 1})
    with pytest.raises(orb_features.ParamError, match="fitted"):
        orb_features.extract("", pca=2).rows_of(batch)
    # Bytes below a null are none.
    content = pyarrow.Array.from_buffers(
        pyarrow.binary(), 2, [pyarrow.py_buffer(b"\x02"), *pyarrow.array([contents[0], contents[0]]).buffers()[1:]]
    )
    below = pyarrow.record_batch({"path": ["a", "b"], "content": content})
    found, failed = orb_features.extract("", on_error="skip", threads=1).rows_of(below)
    paths_of = {row["path"] for some in found for row in pyarrow.record_batch(some).to_pylist()}
    assert failed == {"empty": 1} and paths_of == {"b"}
    views = pyarrow.record_batch(
        {"path": pyarrow.array(["b"], pyarrow.string_view()), "content": pyarrow.array(contents[:1], pyarrow.binary_view())}
    )
    again, _ = orb_features.extract("", threads=1).rows_of(views)
    assert [pyarrow.record_batch(some) for some in again] == [pyarrow.record_batch(some) for some in found]
    with pytest.raises(orb_features.ParamError, match="path"):
        job.rows_of(batch)
    with pytest.raises(orb_features.ParamError, match="binary"):
        job.rows_of(batch, "name", "name")


def test_what_cannot_be_is_said(tmp_path):
    with pytest.raises(orb_features.SourceError) as caught:
        pyarrow.table(job := orb_features.extract(tmp_path / "none"))
    assert caught.value.uri == str(tmp_path / "none") and job.last_error.uri == caught.value.uri
    with pytest.raises(TypeError, match=r"nfeatures: n_features\?"):
        orb_features.extract(tmp_path, nfeatures=30)
    with pytest.raises(TypeError, match=r"\['jpg'\]"):
        orb_features.extract(tmp_path, extensions="jpg")
    for option in [{"rows": "x"}, {"n_features": "many"}, {"storage_options": {"key": "x"}}, {"label": "hive:"}, {"listing": "x"}]:
        with pytest.raises(orb_features.ParamError):
            orb_features.extract(tmp_path, **option)
    secret = {"endpoint_url": "http://127.0.0.1:9", "region": "r", "access_key_id": "AKIA", "secret_access_key": "HUSH"}
    job = orb_features.extract("s3://bucket/x", storage_options=secret)
    with pytest.raises(orb_features.SourceError) as caught:
        job.list_images()
    assert "HUSH" not in str(caught.value) + repr(job)


@pytest.mark.parametrize("how", ["pyarrow.table(job)", "job.write_parquet(out)"])
def test_ctrl_c_ends_a_job(photos, tmp_path, how):
    for i in range(3000):
        os.link(next(photos.glob("**/*.jpg")), tmp_path / f"{i}.jpg")
    code = (
        "import orb_features, pyarrow, sys\n"
        f"out = {str(tmp_path / 'out')!r}\n"
        # Slow: the whole at once would take longer than the test waits.
        f"job = orb_features.extract({str(tmp_path)!r}, n_levels=8, edge_threshold=3, fast_threshold=1, n_features=5000, threads=1, glob='*.jpg')\n"
        "print('begun', flush=True)\n"
        "try:\n"
        f"    for _ in range(1000): {how}; out += 'x'\n"
        "except KeyboardInterrupt: print('interrupted'); sys.exit(7)\n"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "begun\n"
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 20
    if "write" in how:
        assert (process.returncode, output) == (7, "interrupted\n"), errors
        assert not list(tmp_path.glob("out*/part-*")) or (tmp_path / "out" / "_SUCCESS").exists()
    else:
        # Arrow's reader raises an error of its own, and the interrupt comes after it.
        assert process.returncode != 0 and "interrupted" in output + errors
