"""The whole job as a notebook on Spark has it.

    spark_job.py IN OUT CORES PARTITIONS

Prints the rows and the seconds of the job alone, without the start of the JVM.
"""
import os
import sys
import time
from functools import reduce

import cv2
import numpy as np
from pyspark.ml.feature import PCA
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import SparkSession
from pyspark.sql.functions import explode, lit, udf
from pyspark.sql.types import ArrayType, IntegerType

source, target, cores, partitions = sys.argv[1:5]
spark = (
    SparkSession.builder.master(f"local[{cores}]")
    .config("spark.driver.memory", "6g")
    .config("spark.ui.enabled", "false")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
begun = time.perf_counter()


def descriptors(image):
    pixels = np.frombuffer(image[5], np.uint8).reshape(image[1], image[2], image[3])
    found = cv2.ORB_create(nfeatures=30).detectAndCompute(pixels, None)[1]
    return [] if found is None else found.tolist()


folders = sorted(f for f in os.listdir(source) if os.path.isdir(os.path.join(source, f)))
images = [
    spark.read.format("image").load(os.path.join(source, f)).withColumn("label", lit(f))
    for f in folders
]
images = reduce(lambda a, b: a.union(b), images).repartition(int(partitions))
extract = udf(descriptors, ArrayType(ArrayType(IntegerType())))
rows = images.select("image", "label", explode(extract("image")).alias("descriptor"))
rows = rows.withColumn("vector", udf(Vectors.dense, VectorUDT())("descriptor")).drop("descriptor")
model = PCA(k=20, inputCol="vector", outputCol="pca").fit(rows)
model.transform(rows).drop("vector").write.parquet(target, mode="overwrite")
seconds = time.perf_counter() - begun
print(spark.read.parquet(target).count(), seconds)
