#!/usr/bin/env python3
"""Compares the command line with the OpenCV of this Python, keypoint by keypoint.

usage: compare_wheel.py PROGRAM FOLDER [--keypoints N] [--seed S] [--dense] [--compat BUILD]
       (pip install opencv-python-headless pyarrow numpy)

1. The photos of FOLDER with several parameters: PROGRAM reads the files, cv2.imread reads the files.
2. Generated images with parameters drawn at random, until N keypoints are compared; with --dense, parameters that give
   many. With a release build, 100,000 a second on two cores.

Every row's x, y, size, angle, response, octave and descriptor is compared with cv2.ORB's. BUILD is the wheel's by its
version, unless given; OPENCV_CPU_DISABLE=AVX2,FMA3 in the environment makes it the one without fused multiply-adds.
Ends with status 1 on any mismatch.
"""
import argparse, glob, os, shutil, subprocess, sys, tempfile
from multiprocessing import Pool
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

cv2.setNumThreads(1)

CASES = [
    dict(), dict(nfeatures=500), dict(nfeatures=500, scoreType=1), dict(nfeatures=200, WTA_K=3), dict(nfeatures=200, WTA_K=4),
    dict(nfeatures=300, edgeThreshold=0), dict(nfeatures=300, edgeThreshold=5, patchSize=21),
    dict(nfeatures=100, firstLevel=2), dict(nfeatures=150, scaleFactor=1.5, nlevels=4, fastThreshold=0),
    dict(nfeatures=1000, scaleFactor=1.05, nlevels=12, patchSize=2, edgeThreshold=3),
]
FLAGS = dict(nfeatures="n-features", scaleFactor="scale-factor", nlevels="n-levels", edgeThreshold="edge-threshold",
             firstLevel="first-level", WTA_K="wta-k", scoreType="score-type", patchSize="patch-size", fastThreshold="fast-threshold")
ROW = np.dtype([("octave", "<i4"), ("y", "<f4"), ("x", "<f4"), ("size", "<f4"), ("angle", "<f4"), ("response", "<f4"),
                ("descriptor", "V32")])


def build():
    version = tuple(int(v) for v in cv2.__version__.split(".")[:2])
    off = "AVX2" in os.environ.get("OPENCV_CPU_DISABLE", "")
    return ("pypi-4.13" if version >= (4, 13) else "pypi-4.6") + ("-nofma" if off else "")


def in_order(rows):
    return rows[np.lexsort((rows["x"], rows["y"], rows["octave"]))]


def theirs(image, case):
    keypoints, descriptors = cv2.ORB_create(**{"nfeatures": 30, **case}).detectAndCompute(image, None)
    rows = np.zeros(len(keypoints), ROW)
    for name, values in zip(ROW.names, zip(*((k.octave, k.pt[1], k.pt[0], k.size, k.angle, k.response) for k in keypoints))):
        rows[name] = values
    if len(rows):
        rows["descriptor"] = np.ascontiguousarray(descriptors).view("V32").ravel()
    return in_order(rows)


def ours(program, folder, case, gray, compat):
    """The rows of each path."""
    out = tempfile.mkdtemp()
    command = [program, "extract", folder, out, "--no-pca", "--gray", gray, "--compat", compat]
    for name, value in case.items():
        command += ["--" + FLAGS[name], {0: "harris", 1: "fast"}[value] if name == "scoreType" else str(value)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    table = pq.read_table(out, columns=["path", *ROW.names]).combine_chunks()
    shutil.rmtree(out)
    rows = np.zeros(len(table), ROW)
    for name in ROW.names[:-1]:
        rows[name] = table[name].to_numpy()
    descriptors = pa.chunked_array(table["descriptor"]).cast(pa.binary())
    rows["descriptor"] = np.frombuffer(b"".join(descriptors.to_pylist()), "V32")
    paths = table["path"].to_pylist()
    bounds = [0, *(i for i in range(1, len(paths)) if paths[i] != paths[i - 1]), len(paths)]
    return {paths[a]: in_order(rows[a:b]) for a, b in zip(bounds, bounds[1:]) if b > a}


def compare(tag, images, got, case):
    """The number of keypoints compared, and of images that differ."""
    compared = bad = 0
    for path, image in images:
        want = theirs(image, case)
        compared += len(want)
        found = got.get(path, np.zeros(0, ROW))
        if found.tobytes() != want.tobytes():
            bad += 1
            rows = min(len(found), len(want))
            differ = sum(found[i].tobytes() != want[i].tobytes() for i in range(rows)) + abs(len(found) - len(want))
            print("MISMATCH", tag, path, case, len(want), "keypoints,", differ, "differ", flush=True)
    return compared, bad


def photos(program, folder, compat):
    files = sorted(f for e in ("jpg", "jpeg", "png") for f in glob.glob(os.path.join(folder, "**", "*." + e), recursive=True))
    total = np.zeros(2, int)
    for case in CASES:
        for gray, flag in ("bgr", cv2.IMREAD_COLOR), ("luma", cv2.IMREAD_GRAYSCALE):
            if gray == "luma" and any(f.endswith("png") for f in files):
                continue  # libpng's own weights: PARITY.md
            images = ((f, cv2.imread(f, flag)) for f in files)
            total += compare(gray, images, ours(program, folder, case, gray, compat), case)
    print("OpenCV %s, %s: %d photos, %d keypoints compared, %d images differ"
          % (cv2.__version__, compat, len(files), *total), flush=True)
    return total


def draw(rng):
    """An image: noise of several grains, blobs, edges, low contrast, or a mixture."""
    w, h = (int(v) for v in rng.integers(64, 700, 2))
    kind = rng.integers(0, 6)
    grain = int(rng.integers(1, 9))
    noise = rng.integers(0, 256, (h // grain + 2, w // grain + 2), np.uint8)
    image = cv2.resize(noise, (w, h), interpolation=int(rng.choice([cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC])))
    if kind == 1:
        image = (image // int(rng.integers(2, 100))) * int(rng.integers(1, 3))
    elif kind == 2:
        image = np.where(image > 128, 255, 0).astype(np.uint8)
    elif kind == 3:
        image = np.full((h, w), 230, np.uint8)
        for _ in range(int(rng.integers(5, 400))):
            x, y, r, v = (int(rng.integers(0, n)) for n in (w, h, 20, 256))
            if rng.random() < 0.5:
                cv2.circle(image, (x, y), r, v, -1)
            else:
                cv2.rectangle(image, (x, y), (x + r, y + r), v, -1)
    elif kind == 4:
        ramp = np.add.outer(np.arange(h) * rng.random(), np.arange(w) * rng.random())
        image = ((image >> int(rng.integers(1, 5))) + ramp).astype(np.uint8)
    return image


def draw_case(rng, dense):
    small = bool(rng.integers(0, 2))
    features, thresholds = ([20000], [0, 3, 6]) if dense else ([30, 500, 3000, 20000], [0, 5, 20, 40])
    case = dict(nfeatures=int(rng.choice(features)), fastThreshold=int(rng.choice(thresholds)),
                scoreType=int(rng.integers(0, 2)), WTA_K=int(rng.choice([2, 2, 2, 3, 4])))
    if not small:
        case.update(scaleFactor=round(float(rng.uniform(1.02, 2.2)), 3), nlevels=int(rng.integers(1, 12)),
                    edgeThreshold=int(rng.choice([0, 1, 3, 10, 19, 25, 31, 40])), firstLevel=int(rng.choice([0, 0, 0, 1, 2])),
                    patchSize=int(rng.choice([31, 31, 31, *range(2, 64)])))
    return case


def one_draw(job):
    program, compat, seed, dense = job
    rng = np.random.default_rng(seed)
    case, folder, images = draw_case(rng, dense), tempfile.mkdtemp(), []
    for i in range(8):
        image = draw(rng)
        if min(image.shape) / case.get("scaleFactor", 1.2) ** case.get("nlevels", 8) < 2:
            continue  # a level without a pixel is an error on both sides
        path = os.path.join(folder, "%02d.png" % i)
        cv2.imwrite(path, image)
        images.append((path, image))
    result = (0, 0)
    if images:
        result = compare("seed %d" % seed, images, ours(program, folder, case, "bgr", compat), case)
    shutil.rmtree(folder)
    return result


def draws(program, compat, seed, keypoints, dense):
    total, drawn = np.zeros(2, int), 0
    with Pool() as pool:
        jobs = ((program, compat, seed + i, dense) for i in range(10**9))
        while total[0] < keypoints:
            for result in pool.imap_unordered(one_draw, [next(jobs) for _ in range(32)]):
                total += result
                drawn += 1
    print("OpenCV %s, %s: %d random parameters from seed %d, %d keypoints compared, %d images differ"
          % (cv2.__version__, compat, drawn, seed, *total), flush=True)
    return total


def main():
    args = argparse.ArgumentParser()
    args.add_argument("program")
    args.add_argument("folder")
    args.add_argument("--keypoints", type=int, default=1_000_000)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--dense", action="store_true")
    args.add_argument("--compat", default=build())
    args = args.parse_args()
    total = photos(args.program, args.folder, args.compat)
    total += draws(args.program, args.compat, args.seed, args.keypoints, args.dense)
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
