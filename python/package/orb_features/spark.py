"""The job on Spark (3.4 and later) and Sail.

>>> configure(spark)                                                                              # doctest: +SKIP
>>> photos = spark.read.format("binaryFile").option("recursiveFileLookup", True).load("photos")  # doctest: +SKIP
>>> rows = extract_df(photos, n_features=30)                                                      # doctest: +SKIP
>>> model = fit_pca(rows, "descriptor", k=20)                                                     # doctest: +SKIP
>>> model.transform_df(rows).write.mode("overwrite").parquet("features")                          # doctest: +SKIP

Or, with Spark 4 or Sail, without the photos' way through the JVM:

>>> register(spark)                                                                               # doctest: +SKIP
>>> rows = spark.read.format("orb_features").option("n_features", 30).load("s3://fruits/Training")  # doctest: +SKIP

A task works on one thread, as Spark runs one for each core. Every function that goes to the workers is pickled whole and
imports what it needs there, so that a worker without this package says so.
"""

import contextlib
import importlib
import threading

from . import ORB_PARAMETERS, Extraction, Moments, Pca, _split
from ._lib import STORAGE_OPTIONS

_MISSING = (
    "the package orb_features is not on this worker: install it there, or send its wheel along "
    "(a cluster library, a conda or venv archive by spark.archives, or addArtifact of Spark Connect)"
)


def configure(spark, *, batch_photos=512, open_cost=64 << 10):
    """Sets what suits many small photos, for ``binaryFile`` and ``mapInArrow``: batches of so many photos, where Spark's default
    of 10,000 fills the memory, and the bytes that opening a file counts as, where Spark's default of 4 MiB makes a task of
    every 32 photos.
    """
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(batch_photos))
    spark.conf.set("spark.sql.files.openCostInBytes", str(open_cost))


#: Options of ``extract`` beside the parameters of ORB and ``pca``: those of a photo and of its rows. Which photos there are, and when
#: failures end a job, is Spark's and the caller's here.
OPTIONS = ("rows", "layout", "label", "on_error", "gray", "exif")


def _job(options):
    """The arguments of an ``Extraction`` for the options of a job on Spark: pickled, and known to be good."""
    orb, others = _split(dict(options))
    model = others.pop("pca", None)
    if model is not None and not isinstance(model, Pca):
        raise TypeError("pca: a fitted Pca is due; fit one to the rows by fit_pca")
    unknown = sorted(set(others) - set(OPTIONS))
    if unknown:
        raise TypeError(f"unknown options: {', '.join(unknown)}; there are {', '.join(OPTIONS)}, pca and {', '.join(ORB_PARAMETERS)}")
    arguments = {"on_error": "skip", "allow_empty": True, "threads": 1, **others}
    schema = Extraction("", orb, pca=model, **arguments).schema
    return orb, None if model is None else model.to_json(), arguments, schema


def _spark_schema(schema):
    """A schema of Arrow as Spark's. The structs of vectors become ``vector``."""
    import pyarrow
    from pyspark.sql import types as spark

    names = {
        "bool": spark.BooleanType, "int8": spark.ByteType, "int32": spark.IntegerType, "int64": spark.LongType,
        "float": spark.FloatType, "double": spark.DoubleType, "string": spark.StringType, "binary": spark.BinaryType,
    }  # fmt: skip
    vector = ["type", "size", "indices", "values"]

    def type_of(arrow):
        if pyarrow.types.is_fixed_size_binary(arrow):
            return spark.BinaryType()
        if pyarrow.types.is_fixed_size_list(arrow) or pyarrow.types.is_list(arrow):
            return spark.ArrayType(type_of(arrow.value_type))
        if pyarrow.types.is_struct(arrow):
            if [field.name for field in arrow] == vector:
                from pyspark.ml.linalg import VectorUDT

                return VectorUDT()
            return spark.StructType([spark.StructField(field.name, type_of(field.type)) for field in arrow])
        return names[str(arrow)]()

    fields = [spark.StructField(field.name, type_of(field.type)) for field in pyarrow.schema(schema)]
    return spark.StructType(fields)


def schema(**options):
    """The columns of the rows that ``extract`` gives for the same options, as a ``StructType``."""
    for name in ("path", "content", "failures"):
        options.pop(name, None)
    return _spark_schema(_job(options)[-1])


def extract(*, path="path", content="content", failures=None, **options):
    """A function for ``DataFrame.mapInArrow``: batches of encoded photos to batches of rows, one for each descriptor.

    ``path`` and ``content`` are the columns with the names and the encoded photos, as ``binaryFile`` has them. Options: the
    parameters of ORB, ``pca`` (a fitted ``Pca``), and ``OPTIONS``, as of ``orb_features.extract``.

    ``on_error``: "skip" (the default) leaves a photo out that cannot be decoded; the number is logged as a warning on the
    worker, and added to ``failures``, an accumulator. "record" gives it a row of its own, with its path, label,
    ``error_code`` and ``error``, and nulls elsewhere. "fail" ends the job with its error. A photo without features has
    no row of descriptors; with ``rows="image"`` it has one, as all have.
    """
    orb, model, arguments, _ = _job(options)
    missing, plain, report = _MISSING, _plain_code(), _report_code()

    def rows(batches):
        import pyarrow

        try:
            import orb_features
        except ImportError as error:
            raise ImportError(f"{missing}: {error}") from error
        given = None if model is None else orb_features.Pca.from_json(model)
        job = orb_features.Extraction("", orb, pca=given, **arguments)
        left_out = {}
        for batch in batches:
            found, failed = job.rows_of(batch, path, content)
            for some in found:
                yield plain(pyarrow.record_batch(some))
            for cause, number in failed.items():
                left_out[cause] = left_out.get(cause, 0) + number
        report(left_out, arguments["on_error"])
        if failures is not None:
            failures.add(sum(left_out.values()))

    return rows


def extract_df(frame, **options):
    """The rows of a frame of encoded photos: ``frame.mapInArrow(extract(..), schema(..))`` with the same options."""
    return frame.mapInArrow(extract(**options), schema(**options))


# Nested functions are pickled by value, because a worker may lack this module.


def _plain_code():
    """Makes a function that turns fixed-size binary and lists into variable-size ones, the only ones Spark has."""

    def plain(batch):
        import pyarrow

        types = pyarrow.types

        def type_of(arrow):
            if types.is_fixed_size_binary(arrow):
                return pyarrow.binary()
            if types.is_fixed_size_list(arrow) or types.is_list(arrow):
                # The name that Spark's and Sail's lists have.
                return pyarrow.list_(pyarrow.field("element", type_of(arrow.value_type)))
            return arrow

        def column(array):
            wanted = type_of(array.type)
            if array.type == wanted:
                return array
            if types.is_list(array.type):
                nulls = array.is_null() if array.null_count else None
                return pyarrow.ListArray.from_arrays(array.offsets, column(array.values), type=wanted, mask=nulls)
            return array.cast(wanted)

        return pyarrow.RecordBatch.from_arrays([column(array) for array in batch.columns], names=batch.schema.names)

    return plain


def _report_code():
    """A function that logs what a task left out."""

    def report(failed, on_error):
        import logging

        if failed and on_error == "skip":
            logging.getLogger("orb_features").warning("photos left out, by cause: %s", failed)

    return report


def moments(frame, column, *, pca_input="bytes"):
    """The moments of a column: descriptors, lists of floats or vectors. Each partition gives one small row, merged here. Nulls
    are left out. For bytes and bits, the moments are whole numbers: the same however Spark cuts the frame.
    """
    from pyspark.sql.types import BinaryType, StructField, StructType

    missing = _MISSING

    def of_partition(batches):
        import pyarrow

        try:
            import orb_features
        except ImportError as error:
            raise ImportError(f"{missing}: {error}") from error
        found = None
        for batch in batches:
            vectors = batch.column(0).drop_null()
            if len(vectors) and found is None:
                found = orb_features.Moments.of(vectors, pca_input=pca_input)
            elif len(vectors):
                found.push(vectors)
        if found is not None:
            column = pyarrow.array([found.to_bytes()], pyarrow.binary())
            yield pyarrow.RecordBatch.from_arrays([column], names=["moments"])

    # Spark's parser of types, which a text would start, takes 0.2 s the first time.
    wanted = StructType([StructField("moments", BinaryType())])
    whole = None
    for row in frame.select(column).mapInArrow(of_partition, wanted).collect():
        part = Moments.from_bytes(bytes(row.moments))
        whole = part if whole is None else whole.merge(part)
    return Moments() if whole is None else whole


def fit_pca(frame, column, k=20, *, pca_input="bytes", **options):
    """Fits a PCA to a column of a frame. For descriptors, the model's bits are those of the library on one machine. Options:
    as of ``Moments.fit``.
    """
    return moments(frame, column, pca_input=pca_input).fit(k, **options)


def transform(frame, model, column="descriptor", output="pca", *, vectors=False):
    """The frame with the scores of a column as one more: an array of floats, or with ``vectors`` Spark's ``vector``, which
    ``pyspark.ml`` takes (not on Sail). The scores of a null are null.
    """
    from pyspark.sql.types import ArrayType, FloatType, StructField, StructType

    json, missing = model.to_json(), _MISSING
    same = [name for name in frame.columns if name == column]
    # As Spark does by default.
    same = same or [name for name in frame.columns if name.lower() == column.lower()]
    if len(same) != 1:
        raise ValueError(f"column: {column}: {len(same)} of {', '.join(frame.columns)} have this name")
    if output.lower() in [name.lower() for name in frame.columns]:
        raise ValueError(f"output: the frame has a column {output} already; drop it, or give the scores another name")
    at = frame.columns.index(same[0])
    wanted = StructType([*frame.schema.fields, StructField(output, ArrayType(FloatType(), False))])

    def scored(batches):
        import numpy
        import pyarrow

        try:
            import orb_features
        except ImportError as error:
            raise ImportError(f"{missing}: {error}") from error
        given = orb_features.Pca.from_json(json)
        for batch in batches:
            rows = batch.column(at)
            known = rows.is_valid().to_numpy(zero_copy_only=False)
            scores = given.transform(rows.drop_null()).astype(numpy.float32).ravel()
            ends = numpy.cumsum(numpy.where(known, given.n_components_, 0), dtype=numpy.int32)
            offsets = pyarrow.array(numpy.concatenate([numpy.zeros(1, numpy.int32), ends]))
            lists = pyarrow.ListArray.from_arrays(offsets, pyarrow.array(scores), mask=pyarrow.array(~known))
            yield pyarrow.RecordBatch.from_arrays([*batch.columns, lists], names=[*batch.schema.names, output])

    found = frame.mapInArrow(scored, wanted)
    if not vectors:
        return found
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql.functions import col, when

    scores = col(f"`{output}`")
    return found.withColumn(output, when(scores.isNotNull(), array_to_vector(scores.cast("array<double>"))))


def register(spark):
    """Makes the format ``orb_features`` known to a session of Spark 4 or Sail.

    ``spark.read.format("orb_features").option(..).load("folder, or s3://bucket/prefix")`` lists the photos on the driver; each
    task reads, decodes and searches a part of them, and no photo goes through the JVM. Options, beside ``path``: the
    parameters of ORB; ``label``, ``glob``, ``extensions`` (with commas), ``recursive``, ``listing``, ``rows``, ``gray``, ``exif`` and
    ``on_error`` as of ``extract``; ``pca``, a file with a PCA on the driver; ``partition_bytes``, the bytes of photos of a
    task; ``requests_in_flight``, of a task that reads S3; and ``STORAGE_OPTIONS``, which say how S3 is
    reached where a machine's own chain does not.

    A photo that cannot be read or decoded is treated by ``on_error``, "skip" by default, which each task logs as a warning on its
    worker. A task that can read none of its photos fails: that is no access, or another machine's folder.
    """
    # ``mapInArrow`` imports pandas: in these seconds Python only waits for the JVM.
    threading.Thread(target=_import_pandas).start()
    spark.dataSource.register(_data_source())


def _import_pandas():
    # A session without pandas says so where it is needed.
    with contextlib.suppress(ImportError):
        importlib.import_module("pandas")


def _data_source():
    from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition

    missing, plain, report, storage_names = _MISSING, _plain_code(), _report_code(), STORAGE_OPTIONS

    def job_of(options):
        """Source, ORB parameters, other arguments and size of a partition, from options, which are strings."""
        try:
            from orb_features import ORB_PARAMETERS
        except ImportError as error:
            raise ImportError(f"{missing}: {error}") from error
        import json

        options = {name.lower(): value for name, value in options.items()}

        def number(text):
            try:
                return int(text)
            except ValueError:
                pass
            try:
                return float(text)
            except ValueError:
                return text

        source = options.pop("path", None)
        if not source:
            raise ValueError("path: a folder, or s3://bucket/prefix, is due")
        orb = {name: number(options.pop(name)) for name in ORB_PARAMETERS if name in options}
        size = options.pop("partition_bytes", None)
        model = options.pop("pca", None)
        arguments = {"on_error": "skip", "allow_empty": True, "threads": 1}
        simple = ("rows", "label", "glob", "listing", "gray", "exif", "on_error")
        for name in simple:
            if name in options:
                arguments[name] = options.pop(name)
        if "extensions" in options:
            arguments["extensions"] = options.pop("extensions").split(",")
        if "requests_in_flight" in options:
            arguments["requests_in_flight"] = int(options.pop("requests_in_flight"))
        if "recursive" in options:
            recursive = options.pop("recursive").lower()
            if recursive not in ("true", "false"):
                raise ValueError("recursive: true or false is due")
            arguments["recursive"] = recursive == "true"
        arguments["storage_options"] = {name: options.pop(name) for name in storage_names if name in options}
        if options:
            known = [*ORB_PARAMETERS, *simple, "extensions", "recursive", "pca", "partition_bytes", "requests_in_flight", *storage_names]
            raise ValueError(f"unknown options: {', '.join(sorted(options))}; there are {', '.join(known)}")
        if model is not None:
            import orb_features

            model = orb_features.Pca.load(model).to_json()
        return source, json.dumps(orb), model, arguments, None if size is None else int(size)

    def extraction(source, orb, model, arguments, **more):
        try:
            import orb_features
        except ImportError as error:
            raise ImportError(f"{missing}: {error}") from error
        given = None if model is None else orb_features.Pca.from_json(model)
        return orb_features.Extraction(source, orb, pca=given, **arguments, **more)

    class Reader(DataSourceReader):
        def __init__(self, options):
            self.job = job_of(options)

        def partitions(self):
            *job, size = self.job
            whole = extraction(*job)
            photos = whole.list_images()
            report(whole.failed, job[3]["on_error"])
            # Some 64 KB for a photo whose size is not known.
            sizes = [64 << 10 if photo[1] is None else photo[1] for photo in photos]
            if size is None:
                # Sixteen tasks, but of 4 to 32 MiB each: smaller ones would mostly wait for their start.
                size = min(32 << 20, max(4 << 20, sum(sizes) // 16))
            parts, part, filled = [], [], 0
            for photo, length in zip(photos, sizes, strict=True):
                part.append(photo)
                filled += length
                if filled >= size:
                    parts.append(InputPartition(part))
                    part, filled = [], 0
            if part:
                parts.append(InputPartition(part))
            return parts

        def read(self, partition):
            import pyarrow

            *job, _ = self.job
            # The part is its own listing.
            arguments = {name: value for name, value in job[3].items() if name != "listing"}
            stream = extraction(*job[:3], arguments, listed=partition.value)
            for batch in pyarrow.RecordBatchReader.from_stream(stream):
                yield plain(batch)
            report(stream.failed, job[3]["on_error"])

    class OrbFeatures(DataSource):
        @classmethod
        def name(cls):
            return "orb_features"

        def schema(self):
            *job, _ = job_of(self.options)
            from orb_features.spark import _spark_schema

            return _spark_schema(extraction(*job).schema)

        def reader(self, schema):
            own = [field.name for field in self.schema()]
            if [field.name for field in schema] != own:
                raise ValueError("schema: the columns follow from the options; select those that you want")
            return Reader(self.options)

    return OrbFeatures


__all__ = ["OPTIONS", "STORAGE_OPTIONS", "configure", "extract", "extract_df", "fit_pca", "moments", "register", "schema", "transform"]
