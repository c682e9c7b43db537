"""The job on Spark (`local-cluster`, with two executors) and on Sail, whichever is installed: the rows, the moments and the model of
one machine, whatever the cut, and whatever dies.

With ORB_FEATURES_PROGRAM, the program's result is compared, too.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import orb_features
from orb_features import spark as orb_spark

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pyspark = pytest.importorskip("pyspark")
from pyspark.sql import SparkSession  # noqa: E402

SPARK_4 = int(pyspark.__version__.split(".")[0]) >= 4
needs_source = pytest.mark.skipif(not SPARK_4, reason="Spark has Python data sources from 4.0 on")


def engines():
    import importlib.util

    if shutil.which("java") and importlib.util.find_spec("py4j"):
        yield "spark"
    if importlib.util.find_spec("pysail"):
        yield "sail"


@pytest.fixture(scope="module", params=engines())
def spark(request):
    if request.param == "sail":
        from pysail.spark import SparkConnectServer

        server = SparkConnectServer("127.0.0.1", 0)
        server.start(background=True)
        session = SparkSession.builder.remote(f"sc://127.0.0.1:{server.listening_address[1]}").getOrCreate()
    else:
        os.environ["PYSPARK_PYTHON"] = sys.executable
        settings = {
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.executor.memory": "512m",
            "spark.sql.execution.arrow.maxRecordsPerBatch": "16",
            "spark.task.maxFailures": "4",
        }
        builder = SparkSession.builder.master("local-cluster[2,1,1024]")
        for name, value in settings.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("OFF")
    session.engine = request.param
    yield session
    session.stop()
    if request.param == "sail":
        server.stop()


def key(row):
    """A row, with its path as a file's: Spark says `file:/x` and Sail `x`."""
    path = "/" + row["path"].removeprefix("file:").lstrip("/")
    return path, *(bytes(v) if isinstance(v, bytearray) else tuple(v) if isinstance(v, list) else v for n, v in row.items() if n != "path")


def keys(rows):
    return sorted(key(row.asDict() if hasattr(row, "asDict") else row) for row in rows)


@pytest.fixture(scope="module")
def one_machine(photos):
    """Rows with scores, moments and model of the job on one machine."""
    job = orb_features.extract(photos, n_features=30, pca=20)
    table = pyarrow.table(job)
    return keys(table.to_pylist()), orb_features.Moments.of(table["descriptor"]).to_bytes(), job.model.to_json()


def encoded(spark, photos, partitions=None):
    """A frame as `binaryFile` gives it."""
    if spark.engine == "sail":
        # Sail 0.7.2's binaryFile reads a file at the border of two partitions twice.
        cells = [(str(path), path.read_bytes()) for path in sorted(photos.glob("**/*.*"))]
        frame = spark.createDataFrame(cells, "path string, content binary")
    else:
        frame = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(str(photos))
    return frame if partitions is None else frame.repartition(partitions)


def check(rows, one_machine):
    """The rows, their moments and the model are those of one machine."""
    want, moments, model = one_machine
    assert orb_spark.moments(rows, "descriptor").to_bytes() == moments
    fitted = orb_spark.fit_pca(rows, "descriptor", k=20, origin=orb_features.extract("", n_features=30))
    assert fitted.to_json() == model
    assert keys(fitted.transform_df(rows).collect()) == want


@pytest.mark.parametrize("partitions", [None, 1, 7])
def test_map_in_arrow_gives_the_same_bits(spark, photos, one_machine, partitions):
    frame = encoded(spark, photos, partitions)
    check(frame.mapInArrow(orb_spark.extract(n_features=30), orb_spark.schema(n_features=30)), one_machine)


def test_extract_df_is_both_in_one(spark, photos):
    frame, options = encoded(spark, photos), {"n_features": 20, "rows": "image", "on_error": "record"}
    both = frame.mapInArrow(orb_spark.extract(**options), orb_spark.schema(**options))
    assert keys(orb_spark.extract_df(frame, **options).drop("x", "y", "size", "angle", "response", "octave").collect()) == keys(
        both.drop("x", "y", "size", "angle", "response", "octave").collect()
    )


@needs_source
@pytest.mark.parametrize("partition_bytes", [None, 1, 100_000])
def test_the_data_source_gives_the_same_bits(spark, photos, one_machine, partition_bytes):
    orb_spark.register(spark)
    reader = spark.read.format("orb_features").option("n_features", 30)
    if partition_bytes:
        reader = reader.option("partition_bytes", partition_bytes)
    check(reader.load(str(photos)), one_machine)


def test_the_program_gives_the_same_bits(photos, one_machine, tmp_path):
    program = os.environ.get("ORB_FEATURES_PROGRAM")
    if not program:
        pytest.skip("ORB_FEATURES_PROGRAM is not set")
    command = [program, "extract", photos, tmp_path / "out", "--n-features", "30", "--pca", "20", "--save-model", tmp_path / "model.json"]
    subprocess.run(command, check=True, capture_output=True)
    want, moments, model = one_machine
    table = parquet.read_table(tmp_path / "out")
    assert keys(table.to_pylist()) == want
    assert orb_features.Moments.of(table["descriptor"]).to_bytes() == moments
    assert orb_features.Pca.load(tmp_path / "model.json").to_json() == model


@needs_source
def test_the_data_source_on_s3(spark, photos, one_machine):
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    import boto3

    options = {"endpoint_url": f"http://{host}:{port}", "region": "us-east-1", "access_key_id": "AKIAKNOWN", "secret_access_key": "HUSH!"}
    s3 = boto3.client(
        "s3", endpoint_url=options["endpoint_url"], region_name="us-east-1",
        aws_access_key_id="AKIAKNOWN", aws_secret_access_key="HUSH!",
    )
    s3.create_bucket(Bucket="fruits")
    for path in photos.glob("**/*.*"):
        s3.upload_file(str(path), "fruits", f"in/{path.relative_to(photos)}")
    orb_spark.register(spark)
    frame = spark.read.format("orb_features").options(**options, n_features=30, partition_bytes=50_000).load("s3://fruits/in")
    want, moments, _ = one_machine
    assert orb_spark.moments(frame, "descriptor").to_bytes() == moments
    shown = str(frame._explain_string(True) if spark.engine == "sail" else frame._jdf.queryExecution().toString())
    assert "HUSH!" not in shown
    # Wrong credentials end the job and are not shown either.
    with pytest.raises(Exception, match="s3://nowhere/in") as caught:
        spark.read.format("orb_features").options(**options).load("s3://nowhere/in").count()
    assert "HUSH!" not in str(caught.value)
    server.stop()


def bad_frame(spark, photos, partitions):
    """A damaged photo and one without bytes in every partition, among good ones."""
    good = next(photos.glob("**/*.jpg")).read_bytes()
    cells = [("a/torn.jpg", good[:400]), ("a/none.jpg", None), ("a/good.jpg", good)] * partitions
    return spark.createDataFrame(cells, "path string, content binary").repartition(partitions)


def test_failed_photos_by_policy(spark, photos):
    frame = bad_frame(spark, photos, 3)
    job = {"on_error": "record", "rows": "image"}
    rows = frame.mapInArrow(orb_spark.extract(**job), orb_spark.schema(**job))
    failed = sorted((row.path, row.label, row.error_code) for row in rows.collect() if row.error)
    assert failed == [("a/none.jpg", "a", "empty")] * 3 + [("a/torn.jpg", "a", "corrupt")] * 3
    assert rows.filter("error is null").count() == 3
    skipped = frame.mapInArrow(orb_spark.extract(rows="image"), orb_spark.schema(rows="image"))
    assert skipped.count() == 3
    with pytest.raises(Exception, match="torn.jpg|none.jpg"):
        frame.mapInArrow(orb_spark.extract(on_error="fail"), orb_spark.schema(on_error="fail")).count()
    if spark.engine == "spark":
        failures = spark.sparkContext.accumulator(0)
        assert frame.mapInArrow(orb_spark.extract(failures=failures), orb_spark.schema()).count() > 0
        assert failures.value == 6
    # Nulls have no part in the moments, and a null score.
    by_row = {"on_error": "record"}
    rows = frame.mapInArrow(orb_spark.extract(**by_row), orb_spark.schema(**by_row))
    n = rows.filter("descriptor is not null").count()
    model = orb_spark.fit_pca(rows, "descriptor", k=2)
    assert model.n_samples_ == n
    assert model.transform_df(rows).filter("pca is null").count() == 6
    if spark.engine == "spark":
        vectors = model.transform_df(rows, vectors=True)
        assert len(vectors.filter("pca is null").collect()) == 6 and len(vectors.collect()) == n + 6


def test_vectors_are_for_pyspark_ml(spark, photos):
    if spark.engine != "spark":
        pytest.skip("Sail has no pyspark.ml")
    from pyspark.ml.feature import PCA

    frame = encoded(spark, photos)
    if not pyspark.__version__.startswith("3.4"):
        rows = frame.mapInArrow(orb_spark.extract(layout="spark"), orb_spark.schema(layout="spark"))
        assert dict(rows.dtypes)["descriptor"] == "vector"
        theirs = PCA(k=3, inputCol="descriptor", outputCol="scores").fit(rows)
        ours = orb_spark.fit_pca(rows, "descriptor", k=3)
        assert ours.explained_variance_ratio_ == pytest.approx(theirs.explainedVariance.toArray(), abs=1e-6)
    rows = frame.mapInArrow(orb_spark.extract(), orb_spark.schema())
    scored = orb_spark.fit_pca(rows, "descriptor", k=5).transform_df(rows, vectors=True)
    assert dict(scored.dtypes)["pca"] == "vector"
    assert PCA(k=2, inputCol="pca", outputCol="scores").fit(scored).explainedVariance.size == 2


def test_a_worker_without_the_package_says_so():
    from pyspark import cloudpickle

    code = (
        "import sys; sys.modules['orb_features'] = None\n"
        "from pyspark import cloudpickle\n"
        "work = cloudpickle.loads(sys.stdin.buffer.read())\n"
        "try: list(work(iter([])))\n"
        "except ImportError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=cloudpickle.dumps(orb_spark.extract()), capture_output=True, check=False)
    assert b"orb_features is not on this worker" in done.stdout, done.stderr.decode()
    if SPARK_4:
        # The classes of the data source travel whole.
        code = "import sys; sys.modules['orb_features'] = None\nfrom pyspark import cloudpickle\nsource = cloudpickle.loads(sys.stdin.buffer.read())\n"
        code += "try: source({'path': 'x'}).reader(None)\nexcept ImportError as e: print(e)\n"
        done = subprocess.run(
            [sys.executable, "-c", code], input=cloudpickle.dumps(orb_spark._data_source()), capture_output=True, check=False
        )
        assert b"orb_features is not on this worker" in done.stdout, done.stderr.decode()


@pytest.mark.parametrize("shape", ["descriptor", "image", "padded:3"])
@pytest.mark.parametrize("policy", ["skip", "record"])
def test_rows_of_any_shape(spark, photos, shape, policy, tmp_path):
    model = pyarrow.table(job := orb_features.extract(photos, pca=3)) and job.model
    model.save(tmp_path / "model.json")
    want = pyarrow.table(orb_features.extract(photos, rows=shape, pca=model, on_error=policy))
    options = {"rows": shape, "on_error": policy}
    mapped = encoded(spark, photos).mapInArrow(orb_spark.extract(pca=model, **options), orb_spark.schema(pca=model, **options))
    frames = [mapped]
    if SPARK_4:
        orb_spark.register(spark)
        reader = spark.read.format("orb_features").options(**options).option("pca", str(tmp_path / "model.json"))
        frames.append(reader.load(str(photos)))
    for frame in frames:
        assert frame.columns == want.schema.names
        got = frame.select("path", "pca", "descriptor").collect()
        key = repr
        plain = lambda v: bytes(v) if isinstance(v, bytearray) else [plain(x) for x in v] if isinstance(v, list) else v  # noqa: E731
        found = sorted(([os.path.basename(row.path), plain(row.pca), plain(row.descriptor)] for row in got), key=key)
        expected = want.select(["path", "pca", "descriptor"]).to_pylist()
        assert found == sorted(([os.path.basename(row["path"]), row["pca"], row["descriptor"]] for row in expected), key=key)


def test_a_column_is_found_by_its_name(spark, photos):
    rows = encoded(spark, photos).mapInArrow(orb_spark.extract(), orb_spark.schema())
    model = orb_spark.fit_pca(rows, "Descriptor", k=2)
    scores = lambda frame: sorted(tuple(row.pca) for row in frame.select("pca").collect())  # noqa: E731
    both = rows.selectExpr("descriptor as a", "unhex(sha2(descriptor, 256)) as b")
    assert scores(model.transform_df(both, "A")) == scores(model.transform_df(rows))
    with pytest.raises(ValueError, match="nonsense: 0 of path"):
        model.transform_df(rows, "nonsense")
    with pytest.raises(ValueError, match="has a column Label already"):
        model.transform_df(rows, output="Label")


@needs_source
def test_what_cannot_be_read_is_no_empty_result(spark, tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.jpg").symlink_to("nowhere")
    orb_spark.register(spark)
    reader = spark.read.format("orb_features")
    with pytest.raises(Exception, match="none of these 5 images can be read"):
        reader.load(str(tmp_path)).count()
    (tmp_path / "bad.jpg").write_bytes(b"nope")
    assert reader.load(str(tmp_path)).count() == 0
    failed = reader.option("on_error", "record").load(f"file:{tmp_path}").groupBy("error_code").count().collect()
    assert {row.error_code: row["count"] for row in failed} == {"unreadable": 5, "not_an_image": 1}
    with pytest.raises(Exception, match="follow from the options"):
        reader.schema("path string, x float").load(str(tmp_path)).count()


def test_options_are_checked_before_the_job(spark, photos):
    with pytest.raises(TypeError, match="nfeatures"):
        orb_spark.extract(nfeatures=30)
    for option in ["glob", "max_failures", "storage_options", "threads"]:
        with pytest.raises(TypeError, match=f"unknown options: {option}"):
            orb_spark.extract(**{option: "1"})
    with pytest.raises(TypeError, match="fitted"):
        orb_spark.extract(pca=20)
    if SPARK_4:
        orb_spark.register(spark)
        for option, why in [({"nfeatures": 3}, "unknown options: nfeatures; there are n_features"), ({"n_features": "x"}, "n_features"), ({"recursive": "1"}, "recursive")]:
            with pytest.raises(Exception, match=why):
                spark.read.format("orb_features").options(**option).load(str(photos)).count()


def executors():
    """Processes of Spark's executors on this machine."""
    found = subprocess.run(["pgrep", "-f", "CoarseGrainedExecutorBackend"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def killing(after, work):
    """The result of `work`, while an executor is killed."""
    killed = []

    def kill():
        time.sleep(after)
        victim = executors()[-1]
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)

    killer = threading.Thread(target=kill)
    killer.start()
    start = time.monotonic()
    result = work()
    took = time.monotonic() - start
    killer.join()
    assert killed and took > after, f"the job was done after {took} s"
    return result


def slow():
    """A function for `mapInArrow` that takes its time; it is pickled whole, as workers don't have this file."""

    def work(batches):
        import time

        for batch in batches:
            time.sleep(0.4)
            yield batch

    return work


@pytest.mark.parametrize("after", [0.5, 1.5, 2.5])
def test_an_executor_that_is_killed_changes_nothing(spark, photos, one_machine, tmp_path, after):
    if spark.engine != "spark":
        pytest.skip("Sail runs in this process")
    want, moments, model = one_machine
    frame = encoded(spark, photos, 16).select("path", "content").mapInArrow(slow(), "path string, content binary")
    rows = frame.mapInArrow(orb_spark.extract(n_features=30), orb_spark.schema())
    job = orb_features.extract("", n_features=30)
    fitted = killing(after, lambda: orb_spark.fit_pca(rows, "descriptor", k=20, origin=job))
    assert fitted.to_json() == model
    out = tmp_path / "out"
    scored = fitted.transform_df(rows)
    scored.write.mode("overwrite").parquet(str(out))
    killing(after, lambda: scored.write.mode("overwrite").parquet(str(out)))
    assert (out / "_SUCCESS").exists() and not (out / "_temporary").exists()
    assert keys(parquet.read_table(out).to_pylist()) == want
