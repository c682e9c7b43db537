#!/usr/bin/env python3
"""Runs the job on a folder of photos and reads the result with the readers that people have.

usage: read_back.py PROGRAM FOLDER      (pip install pandas pyarrow polars duckdb scikit-learn; pyspark if wanted)

Every reader must see the same rows; the explained variance and the scores must be scikit-learn's.
"""
import glob, json, subprocess, sys, tempfile
import duckdb
import numpy as np
import pandas
import polars
import pyarrow.parquet as pq
from sklearn.decomposition import PCA

program, folder = sys.argv[1:3]
out = tempfile.mkdtemp() + "/out"
report = json.loads(subprocess.run([program, "extract", folder, out, "--json", "--rows-per-file", "1000"], check=True, stdout=subprocess.PIPE).stdout)

table = pq.read_table(out)
counts = {
    "report": report["rows"],
    "pyarrow": table.num_rows,
    "pandas": len(pandas.read_parquet(out)),
    "polars": polars.read_parquet(out + "/*.parquet").height,
    "duckdb": duckdb.sql(f"select count(*) from '{out}/*.parquet'").fetchall()[0][0],
}
labels = {
    "pyarrow": sorted(set(table["label"].to_pylist())),
    "polars": sorted(polars.read_parquet(out + "/*.parquet")["label"].unique()),
    "duckdb": [row[0] for row in duckdb.sql(f"select distinct label from '{out}/*.parquet' order by all").fetchall()],
}
try:
    from pyspark import SparkContext  # noqa: F401  a client alone has none
    from pyspark.sql import SparkSession
except ImportError:
    print("pyspark is not installed: Spark left out")
else:
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    frame = spark.read.parquet(out)
    counts["spark"] = frame.count()
    labels["spark"] = sorted(r.label for r in frame.select("label").distinct().collect())
    row = frame.orderBy("path", "keypoint_index").first()
    assert len(row.descriptor) == 32 and len(row.pca) == 20
    spark.stop()

x = np.frombuffer(b"".join(table["descriptor"].to_pylist()), np.uint8).reshape(-1, 32).astype(np.float64)
pca = PCA(20, svd_solver="full").fit(x)
ours = np.array(report["model"]["explained_variance_ratio"])
off = abs(ours - pca.explained_variance_ratio_).max()
scores = np.array(table["pca"].to_pylist())
score_off = abs(scores - pca.transform(x)).max()
print("rows", counts, "| files", len(glob.glob(out + "/*.parquet")), "| explained variance off by %.1e, scores by %.1e" % (off, score_off))
assert len(set(counts.values())) == 1 and len(set(map(tuple, labels.values()))) == 1, (counts, labels)
assert off < 1e-9 and score_off < 1e-3
