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


def test_failed_photos_by_policy(damaged, tmp_path):
    with pytest.raises(pyarrow.lib.ArrowException, match="a.jpg"):
        pyarrow.table(orb_features.extract(damaged))
    with pytest.raises(orb_features.DecodeError) as caught:
        orb_features.extract(damaged).write_parquet(tmp_path / "out")
    assert caught.value.uri.endswith("kind/a.jpg") and caught.value.stage == "decode"
    good = pyarrow.table(orb_features.extract(damaged, on_error="skip"))
    assert set(good["path"].to_pylist()) == {str(damaged / "kind" / "b.jpg")}
    table = pyarrow.table(orb_features.extract(damaged, on_error="record"))
    failed = [row for row in table.to_pylist() if row["error"] is not None]
    assert [(row["label"], row["error_code"], row["descriptor"]) for row in failed] == [
        ("kind", "corrupt", None),
        ("kind", "not_an_image", None),
    ]
    assert table.filter(pyarrow.compute.is_null(table["error"])).select(good.schema.names).to_pylist() == good.to_pylist()
    with pytest.raises(orb_features.OrbFeaturesError, match="2"):
        orb_features.extract(damaged, on_error="skip", max_failures="1").write_parquet(tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
    with pytest.raises(orb_features.ParamError, match="path"):
        job.rows_of(batch)
    with pytest.raises(orb_features.ParamError, match="binary"):
        job.rows_of(batch, "name", "name")


def test_what_cannot_be_is_said(tmp_path):
    with pytest.raises(orb_features.SourceError) as caught:
        pyarrow.table(orb_features.extract(tmp_path / "none"))
    assert caught.value.uri == str(tmp_path / "none")
    with pytest.raises(TypeError, match="nfeatures"):
        orb_features.extract(tmp_path, nfeatures=30)
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
    output, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 10
    if "write" in how:
        assert (process.returncode, output) == (7, "interrupted\n"), errors
        assert not list(tmp_path.glob("out*/part-*")) or (tmp_path / "out" / "_SUCCESS").exists()
    else:
        # Arrow's reader raises an error of its own, and the interrupt comes after it.
        assert process.returncode != 0 and "interrupted" in output + errors
