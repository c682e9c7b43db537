#!/usr/bin/env python3
"""Compares the command line with the OpenCV of this Python, keypoint by keypoint.

usage: compare_wheel.py PROGRAM FOLDER [--jpeg]      (pip install opencv-python-headless pyarrow numpy)

Reads the images of FOLDER with cv2.imread, stores the pixels as PNG, runs `PROGRAM extract` on them with
several parameters, and compares x, y, size, angle, response, octave and descriptor of every row with
cv2.ORB. With --jpeg, PROGRAM reads the JPEGs of FOLDER itself: it must be built with the feature
`turbojpeg`, and both grey modes are compared. Ends with status 1 on any mismatch.
"""
import glob, os, subprocess, sys, tempfile
import cv2
import numpy as np
import pyarrow.parquet as pq

CASES = [
    dict(), dict(nfeatures=500), dict(nfeatures=500, scoreType=1), dict(nfeatures=200, WTA_K=3), dict(nfeatures=200, WTA_K=4),
    dict(nfeatures=300, edgeThreshold=0), dict(nfeatures=300, edgeThreshold=5, patchSize=21),
    dict(nfeatures=100, firstLevel=2), dict(nfeatures=150, scaleFactor=1.5, nlevels=4, fastThreshold=0),
    dict(nfeatures=1000, scaleFactor=1.05, nlevels=12, patchSize=2, edgeThreshold=3),
]
FLAGS = dict(nfeatures="n-features", scaleFactor="scale-factor", nlevels="n-levels", edgeThreshold="edge-threshold",
             firstLevel="first-level", WTA_K="wta-k", scoreType="score-type", patchSize="patch-size", fastThreshold="fast-threshold")


def theirs(path, case, flag):
    image = cv2.imread(path, flag)
    orb = cv2.ORB_create(**{"nfeatures": 30, **case})
    keypoints, descriptors = orb.detectAndCompute(image, None)
    rows = [(k.octave, np.array([k.pt[1], k.pt[0], k.size, k.angle, k.response], np.float32).tobytes(), descriptors[i].tobytes())
            for i, k in enumerate(keypoints)]
    return sorted(rows)


def ours(program, folder, case, gray):
    version = tuple(int(v) for v in cv2.__version__.split(".")[:2])
    out = tempfile.mkdtemp()
    command = [program, "extract", folder, out, "--no-pca", "--gray", gray, "--compat", "4.13" if version >= (4, 13) else "4.6"]
    for name, value in case.items():
        command += ["--" + FLAGS[name], {0: "harris", 1: "fast"}[value] if name == "scoreType" else str(value)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    table = pq.read_table(out).to_pydict()
    rows = {}
    for i, path in enumerate(table["path"]):
        numbers = np.array([table[f][i] for f in ("y", "x", "size", "angle", "response")], np.float32)
        rows.setdefault(path, []).append((table["octave"][i], numbers.tobytes(), table["descriptor"][i]))
    return {path: sorted(r) for path, r in rows.items()}


def main():
    program, folder = sys.argv[1:3]
    jpeg = "--jpeg" in sys.argv[3:]
    files = sorted(f for e in ("jpg", "jpeg", "png") for f in glob.glob(os.path.join(folder, "**", "*." + e), recursive=True))
    if jpeg:
        root, paths, modes = folder, files, [("bgr", cv2.IMREAD_COLOR), ("luma", cv2.IMREAD_GRAYSCALE)]
    else:
        root, paths, modes = tempfile.mkdtemp(), [], [("bgr", cv2.IMREAD_COLOR)]
        for i, f in enumerate(files):
            paths.append(os.path.join(root, "%07d.png" % i))
            cv2.imwrite(paths[-1], cv2.imread(f, cv2.IMREAD_COLOR))
    compared = bad = 0
    for case in CASES:
        for gray, flag in modes:
            got = ours(program, root, case, gray)
            for path in paths:
                want = theirs(path, case, flag)
                compared += len(want)
                if got.get(path, []) != want:
                    bad += 1
                    print("MISMATCH", path, gray, case, len(want), len(got.get(path, [])))
    print("OpenCV %s: %d images, %d parameters, %d keypoints compared, %d images differ"
          % (cv2.__version__, len(paths), len(CASES) * len(modes), compared, bad))
    return 1 if bad or not compared else 0


sys.exit(main())
