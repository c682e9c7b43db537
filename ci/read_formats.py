#!/usr/bin/env python3
"""Writes the same rows in every shape and format, and reads them with the readers that people have.

usage: read_formats.py PROGRAM FOLDER      (pip install pandas pyarrow polars duckdb scikit-learn pillow opencv-python-headless; pyspark if wanted)

All must hold what the plain Parquet result holds; scores of bits must be scikit-learn's, pixels Pillow's.
"""
import glob, json, subprocess, sys, tempfile
import cv2
import duckdb
import numpy as np
import pandas
import polars
from PIL import Image
from sklearn.decomposition import PCA

program, folder = sys.argv[1:3]
root = tempfile.mkdtemp()


def run(name, *args, command="extract", source=folder):
    out = root + "/" + name
    subprocess.run([program, command, source, out, *args], check=True, stdout=subprocess.DEVNULL)
    return out


def csv(out, ending="csv"):
    return pandas.concat([pandas.read_csv(f) for f in sorted(glob.glob(f"{out}/*.{ending}"))], ignore_index=True)


def stack(texts, dtype):
    return np.array([json.loads(text) for text in texts], dtype)


plain = run("plain")
rows = pandas.read_parquet(plain)
images = pandas.read_parquet(plain + "/_images")
descriptors = np.frombuffer(b"".join(rows.descriptor), np.uint8).reshape(-1, 32)
scores = np.stack(rows.pca)
counts = rows.groupby("path").size().reindex(images.path, fill_value=0)
assert (counts.to_numpy() == images.n_vectors).all() and (images.status == "ok").all()

# One row for each image.
nested = run("nested", "--rows", "image")
table = pandas.read_parquet(nested)
assert list(table.path) == list(images.path) and list(table.n_keypoints) == list(images.n_vectors)
assert (np.frombuffer(b"".join(d for row in table.descriptor for d in row), np.uint8).reshape(-1, 32) == descriptors).all()
assert (np.concatenate([np.stack(row) for row in table.pca if len(row)]) == scores).all()
assert (np.concatenate(list(table.x)) == rows.x).all()
assert polars.read_parquet(nested + "/*.parquet").height == len(images)
assert duckdb.sql(f"select sum(len(x)) from '{nested}/*.parquet'").fetchall()[0][0] == len(rows)

# Padded to one length.
n = 7
table = pandas.read_parquet(run("padded", "--rows", f"padded:{n}"))
matrix = np.stack(table.descriptor)
for path, row in zip(table.path, matrix):
    own = descriptors[(rows.path == path).to_numpy()][:n].ravel()
    assert (row[: len(own)] == own).all() and not row[len(own) :].any()
assert matrix.shape == (len(images), 32 * n) and np.stack(table.pca).shape == (len(images), 20 * n)

# CSV, as texts and as columns.
table = csv(run("csv", "--format", "csv", "--files", "3"))
assert (stack(table.descriptor, np.uint8) == descriptors).all() and (stack(table.pca, np.float32) == scores).all()
for name in ["x", "y", "size", "angle", "response"]:
    assert (table[name].to_numpy(np.float32) == rows[name]).all(), name
assert list(table.path) == list(rows.path) and list(table.label) == list(rows.label)
wide = run("wide", "--format", "csv-columns", "--codec", "gzip")
table = csv(wide, "csv.gz")
assert (table[[f"descriptor_{i}" for i in range(32)]].to_numpy() == descriptors).all()
assert (table[[f"pca_{i}" for i in range(20)]].to_numpy(np.float32) == scores).all()
assert polars.read_csv(wide + "/*.csv.gz").height == len(rows)
assert duckdb.sql(f"select count(*) from '{wide}/*.csv.gz'").fetchall()[0][0] == len(rows)

# Bits, pixels, and the PCA of a column.
table = pandas.read_parquet(run("bits", "--pca-input", "bits", "--pca", "12", "--solver", "covariance"))
bits = np.unpackbits(descriptors, axis=1).astype(float)
off = abs(np.stack(table.pca) - PCA(12, svd_solver="full").fit_transform(bits)).max()
pixels = pandas.read_parquet(run("pixels", "--size", "24x16", command="pixels"))
for path, vector in zip(pixels.path[:20], pixels.vector):
    gray = Image.fromarray(cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2GRAY))
    assert (np.asarray(gray.resize((24, 16))).ravel() == np.frombuffer(vector, np.uint8)).all(), path
table = pandas.read_parquet(run("reduced", "--column", "descriptor", "-k", "5", "--output-column", "five", command="pca", source=plain))
five = PCA(5, svd_solver="full").fit_transform(descriptors.astype(float))
off = max(off, abs(np.stack(table.five) - five).max())
assert list(table.path) == list(rows.path) and off < 1e-3, off

try:
    from pyspark import SparkContext  # noqa: F401  a client alone has none
    from pyspark.ml.feature import PCA as SparkPCA
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import SparkSession
except ImportError:
    print("pyspark is not installed: Spark left out")
else:
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    frame = spark.read.parquet(run("spark", "--layout", "spark", "--files", "2"))
    kinds = dict(frame.dtypes)
    assert kinds["descriptor"] == kinds["pca"] == "vector" and frame.count() == len(rows), kinds
    SparkPCA(k=5, inputCol="descriptor", outputCol="five").fit(frame)
    assert len(frame.select(vector_to_array("pca")).first()[0]) == 20
    pictures = run("pictures", "--rows", "image", "--image-column", "--layout", "spark", "--no-pca")
    assert spark.read.parquet(pictures).select("image.mode").distinct().collect()[0].mode == 16
    for name, source in [("image", "image"), ("binary", "binaryFile")]:
        spark.read.format(source).option("recursiveFileLookup", "true").load(folder).write.parquet(f"{root}/{name}")
        again = pandas.read_parquet(run(name + "-again", "--table", "--no-pca", source=f"{root}/{name}"))
        # Java decodes JPEGs to other pixels.
        assert name == "image" or len(again) == len(rows)
    frame.select("path", "pca").write.parquet(root + "/vectors")
    out = run("reduced-again", "--column", "pca", "-k", "3", "--output-column", "three", "--layout", "spark", command="pca", source=root + "/vectors")
    assert dict(spark.read.parquet(out).dtypes)["three"] == "vector"
    spark.stop()
print("rows", len(rows), "of", len(images), "images, in every shape and format | scores off by %.1e" % off)
