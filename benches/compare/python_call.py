"""`detectAndCompute` through Python, the package orb_features against cv2, in turns: medians, and the median of the ratios of pairs.

usage: python_call.py PHOTOS [ROUNDS]
"""

import pathlib
import statistics
import sys
import time

import cv2
import numpy

import orb_features

photos = sorted(pathlib.Path(sys.argv[1]).glob("**/*.jpg"))[:400]
rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 9
cv2.setNumThreads(1)
color = [cv2.imread(str(path)) for path in photos]
gray = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in color]
large = [numpy.ascontiguousarray(numpy.block([[image] * 7] * 5)[:480, :640]) for image in gray[:40]]
tiny = [numpy.zeros((33, 33), "u1")] * 400


def microseconds(work, images):
    start = time.perf_counter()
    for image in images:
        work(image)
    return (time.perf_counter() - start) / len(images) * 1e6


for name, images, n in [("grey", gray, 30), ("BGR", color, 30), ("640 x 480, grey", large, 500), ("33 x 33, nothing to find", tiny, 30)]:
    theirs, ours = cv2.ORB_create(nfeatures=n), orb_features.ORB_create(nfeatures=n)
    ways = {
        "cv2": lambda image, theirs=theirs: theirs.detectAndCompute(image, None),
        "ours": lambda image, ours=ours: ours.detectAndCompute(image, None),
        "ours, arrays": ours.detect_and_compute_array,
    }
    times = {way: [] for way in ways}
    for _ in range(rounds):
        for way, work in ways.items():
            times[way].append(microseconds(work, images))
    for way, some in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["cv2"], some, strict=True))
        print(f"{images[0].shape} {name:26} {way:13} {statistics.median(some):8.1f} us {ratio:6.1f} x")
