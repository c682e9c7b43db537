"""Brute-force matching through Python: the package orb_features, cv2 and faiss, in turns on one thread: medians of times and of
the ratios of pairs. The matches are compared, too.

usage: RAYON_NUM_THREADS=1 match_peers.py [QUERIES TRAIN ROUNDS]
"""

import os
import statistics
import sys
import time

import cv2
import faiss
import numpy

import orb_features

assert os.environ.get("RAYON_NUM_THREADS") == "1", "set RAYON_NUM_THREADS=1, as the others have one thread"
n, m, rounds = map(int, sys.argv[1:] or (10_000, 30_000, 9))
cv2.setNumThreads(1)
faiss.omp_set_num_threads(1)
random = numpy.random.default_rng(0)
query, train = (random.integers(0, 256, (rows, 32), "u1") for rows in (n, m))
matcher, theirs, index = orb_features.Matcher(), cv2.BFMatcher(cv2.NORM_HAMMING), faiss.IndexBinaryFlat(256)
index.add(train)
print("cv2", cv2.__version__, "faiss", faiss.__version__)
for k in (1, 2, 10):
    ways = {
        "ours": lambda k=k: matcher.knn(query, train, k),
        "cv2": lambda k=k: theirs.knnMatch(query, train, k),
        "faiss": lambda k=k: index.search(query, k),
    }
    times = {way: [] for way in ways}
    for _ in range(rounds):
        for way, work in ways.items():
            start = time.perf_counter()
            found = work()
            times[way].append(time.perf_counter() - start)
            if way == "ours":
                ours = found
            elif way == "cv2":
                assert [[match.trainIdx for match in row] for row in found] == ours[0].tolist()
            else:
                assert (found[0] == ours[1]).all()
    for way, some in times.items():
        ratio = statistics.median(b / a for a, b in zip(times["ours"], some, strict=True))
        rate = n * m / statistics.median(some) / 1e9
        print(f"{n} x {m}, {k} nearest, {way:6} {statistics.median(some):7.3f} s {rate:6.2f} G/s {ratio:6.1f} x")
