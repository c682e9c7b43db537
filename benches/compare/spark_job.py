"""The notebook's job on Spark with the package orb_features: photos to descriptors, a PCA to 20, Parquet.

usage: spark_job.py PHOTOS OUT map|source [CORES]
"""

import os
import sys
import time

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
photos, out, way, cores = *sys.argv[1:4], (sys.argv[4:] or ["2"])[0]

from pyspark.sql import SparkSession

import orb_features
from orb_features import spark as orb_spark

spark = (
    SparkSession.builder.master(f"local[{cores}]")
    .config("spark.driver.memory", "6g")
    .config("spark.ui.enabled", "false")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
start = time.time()
if way == "map":
    orb_spark.configure(spark)
    files = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(photos).select("path", "content")
    rows = files.mapInArrow(orb_spark.extract(n_features=30), orb_spark.schema(n_features=30))
else:
    orb_spark.register(spark)
    rows = spark.read.format("orb_features").option("n_features", 30).load(photos)
model = orb_spark.fit_pca(rows, "descriptor", k=20)
fitted = time.time()
model.transform_df(rows).write.parquet(out, mode="overwrite")
end = time.time()
n = spark.read.parquet(out).count()
explained = model.explained_variance_ratio_.sum()
print(f"rows {n} job_s {end - start:.2f} fit_s {fitted - start:.2f} explained {explained:.6f}")
