"""Runs the pairs of `compare.sh` in turns and prints their table."""
import glob
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
import sklearn
from sklearn.decomposition import PCA

TURN = 0.3
ROUNDS = 9
HERE = os.path.dirname(os.path.abspath(__file__))
OURS, SIDE, KORNIA = (os.environ[name] for name in ("OURS", "SIDE", "KORNIA"))
LINKED = os.environ.get("LINKED")
cv2.setNumThreads(1)


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def least(work):
    """The least time that it takes, within a turn, after once to warm up."""
    work()
    begun, best = time.perf_counter(), float("inf")
    while time.perf_counter() - begun < TURN:
        once = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - once)
    return best


def side(program, *args):
    # Whatever can use threads has one for each core, but for kornia's, which is compared on one.
    env = {**os.environ, "RAYON_NUM_THREADS": "1"} if program == KORNIA else None
    out = subprocess.run([program, *map(str, args)], check=True, capture_output=True, text=True, env=env)
    seconds, checksum = out.stdout.split()
    return float(seconds), checksum


ROWS = []


def compare(what, ours, theirs, name, rounds=ROUNDS, scale=1e6, unit="us"):
    """Takes turns; both return seconds."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    a, b = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    ratio = statistics.median(p[1] / p[0] for p in pairs)
    row = f"| {what} | {a * scale:,.1f} {unit} | {b * scale:,.1f} {unit}: {name} | {ratio:.1f} x |"
    ROWS.append(row)
    print(row, file=sys.stderr)


def orb(folder, what, n):
    images = [cv2.imread(p, cv2.IMREAD_GRAYSCALE) for p in sorted(glob.glob(f"{folder}/*.pgm"))]
    detector = cv2.ORB_create(nfeatures=n)

    def theirs():
        return least(lambda: [detector.detectAndCompute(i, None) for i in images]) / len(images)

    found = bytearray()
    for image in images:
        keypoints, descriptors = detector.detectAndCompute(image, None)
        # The set is the same; the order is ours.
        scale = [round(1.2**k.octave, 6) for k in keypoints]
        order = sorted(
            range(len(keypoints)),
            key=lambda i: (
                keypoints[i].octave,
                round(keypoints[i].pt[1] / scale[i]),
                round(keypoints[i].pt[0] / scale[i]),
            ),
        )
        for i in order:
            found += descriptors[i].tobytes()
    _, checksum = side(SIDE, "orb", folder, n)
    assert checksum == fnv(found), f"{what}: other descriptors than OpenCV's"
    name = f"OpenCV {cv2.__version__} from PyPI"
    compare(what, lambda: side(SIDE, "orb", folder, n)[0], theirs, name)
    if LINKED:
        name = f"OpenCV {os.environ['LINKED_VERSION']} of the system"
        linked = lambda: side(LINKED, "orb", folder, n, "opencv")[0]
        compare("the same", lambda: side(SIDE, "orb", folder, n)[0], linked, name)
    _, features = side(KORNIA, folder, n)
    name = f"kornia-imgproc 0.2.0, other features: {features} for our {len(found) // 32}"
    compare("the same", lambda: side(SIDE, "orb", folder, n)[0], lambda: side(KORNIA, folder, n)[0], name)


def mosaic(photos, width, height, zoom):
    """Photos side by side, each `zoom` times as large."""
    tiles = [cv2.resize(p, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC) for p in photos]
    side = tiles[0].shape[0]
    columns, rows = -(-width // side), -(-height // side)
    lines = [
        np.hstack([tiles[(y * columns + x) * 7 % len(tiles)] for x in range(columns)])
        for y in range(rows)
    ]
    return np.ascontiguousarray(np.vstack(lines)[:height, :width])


def whole(photos, threads, *flags, target):
    shutil.rmtree(target, ignore_errors=True)
    begun = time.perf_counter()
    command = [OURS, "extract", photos, target, "--threads", str(threads), *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def peak(command):
    """Seconds and the peak of the memory of a program, in MiB."""
    begun, highest = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        # Not what `wait4` says: that has the memory of this process at the fork in it.
        with open(f"/proc/{process.pid}/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        highest = max(highest, int(lines.get("VmHWM", "0 kB").split()[0]))
        time.sleep(0.02)
    assert process.returncode == 0, command
    return time.perf_counter() - begun, highest / 1024


def embeddings(n, d):
    """Rows of few directions and noise, around means, as embeddings are."""
    random = np.random.default_rng(2)
    rows = random.standard_normal((n, 300), np.float32) / np.sqrt(1 + np.arange(300, dtype=np.float32))
    rows = rows @ random.standard_normal((300, d), np.float32)
    rows += random.random(d, np.float32) + 0.3 * random.standard_normal((n, d), np.float32)
    return rows


def wide(file, n=100_000, d=1280, k=200):
    rows = embeddings(n, d)
    rows.tofile(file)
    for floats in (rows, rows.astype(np.float64)):
        def theirs(floats=floats):
            return least(lambda: PCA(k, svd_solver="covariance_eigh").fit(floats))

        name = f"scikit-learn {sklearn.__version__}, covariance_eigh, {floats.dtype}"
        compare(f"PCA fit, {n:,} x {d:,} float32 to {k}, all cores",
                lambda: side(SIDE, "wide", file, str(d), str(k))[0], theirs, name, scale=1e3, unit="ms")


def passes(file, n=20_000, d=11_520, k=200):
    """Ours reads the file, theirs has the rows in memory."""
    rows = embeddings(n, d)
    rows.tofile(file)

    def theirs():
        begun = time.perf_counter()
        PCA(k, svd_solver="randomized", random_state=0).fit(rows)
        return time.perf_counter() - begun

    name = f"scikit-learn {sklearn.__version__}, randomized, {rows.dtype}, in memory"
    compare(f"PCA fit, {n:,} x {d:,} float32 to {k}, all cores, from a file",
            lambda: side(SIDE, "passes", file, str(d), str(k))[0], theirs, name, rounds=3, scale=1, unit="s")


def main():
    photos, flags = sys.argv[1], sys.argv[2:]
    paths = sorted(glob.glob(f"{photos}/**/*.jpg", recursive=True))
    assert paths, f"no *.jpg below {photos}"
    with tempfile.TemporaryDirectory(prefix="compare-") as work:
        # Every n-th photo, so that all labels are there.
        some = paths[:: max(1, len(paths) // 100)]
        gray = [cv2.cvtColor(cv2.imread(p), cv2.COLOR_BGR2GRAY) for p in some]
        jpegs = os.path.join(work, "jpeg")
        os.mkdir(jpegs)
        for i, path in enumerate(some):
            shutil.copy(path, f"{jpegs}/{i:04}.jpg")
        sets = {"photos": gray, "640": [], "1080": []}
        tiles = [g for g in gray if g.shape == (100, 100)] or [cv2.resize(g, (100, 100)) for g in gray]
        for zoom in (1, 2, 4):
            sets["640"].append(mosaic(tiles, 640, 480, zoom))
            sets["1080"].append(mosaic(tiles, 1920, 1080, zoom))
        for name, images in sets.items():
            os.mkdir(f"{work}/{name}")
            for i, image in enumerate(images):
                cv2.imwrite(f"{work}/{name}/{i:04}.pgm", image)
        orb(f"{work}/photos", f"`detect_and_compute`, {len(gray)} photos, 30 features, 1 thread", 30)
        orb(f"{work}/640", "the same, 640 x 480, photos side by side, 500 features", 500)
        orb(f"{work}/1080", "the same, 1920 x 1080", 500)

        encoded = [np.fromfile(p, np.uint8) for p in some]
        for mode, flag in (("bgr", cv2.IMREAD_COLOR), ("luma", cv2.IMREAD_GRAYSCALE)):
            def theirs(flag=flag, mode=mode):
                def decode(data):
                    image = cv2.imdecode(data, flag)
                    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if mode == "bgr" else image
                return least(lambda: [decode(d) for d in encoded]) / len(encoded)

            cv = "imdecode and cvtColor" if mode == "bgr" else "imdecode to grey"
            what = f"JPEG to grey, {'colour first' if mode == 'bgr' else 'luma'}, 1 thread"
            compare(what, lambda mode=mode: side(SIDE, "decode", jpegs, mode)[0], theirs, cv)

        rows = np.random.default_rng(1).integers(0, 64, (1_000_000, 32), np.uint8)
        rows[:, 1:] += rows[:, :1] * 2
        rows.tofile(f"{work}/rows")
        floats = rows.astype(np.float32)

        def sk():
            return least(lambda: PCA(20, svd_solver="covariance_eigh").fit(floats).transform(floats))

        name = f"scikit-learn {sklearn.__version__}, covariance_eigh, float32"
        compare("PCA fit and projection, 10^6 x 32, all cores", lambda: side(SIDE, "pca", f"{work}/rows")[0],
                sk, name, scale=1e3, unit="ms")

        wide(f"{work}/wide")
        passes(f"{work}/long")
        target = f"{work}/out"
        for mode, ours in (("color", []), ("gray", ["--gray", "luma"])):
            def job(mode=mode):
                command = [sys.executable, f"{HERE}/python_job.py", photos, f"{work}/p.parquet", "2", mode]
                out = subprocess.run(command, check=True, capture_output=True, text=True)
                return float(out.stdout.split()[1])

            compare(f"whole job, {len(paths)} photos, {mode}, 2 threads, our whole process",
                    lambda ours=ours: whole(photos, 2, *ours, target=target), job,
                    "cv2, scikit-learn and pyarrow in 2 processes, without imports and start",
                    scale=1e3, unit="ms")
        if "--spark" in flags:
            def spark():
                command = [sys.executable, f"{HERE}/spark_job.py", photos, f"{work}/s", "2", "4"]
                env = {**os.environ, "PYSPARK_PYTHON": sys.executable}
                out = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
                return float(out.stdout.split()[-1])

            compare(f"whole job, {len(paths)} photos, 2 threads", lambda: whole(photos, 2, target=target),
                    spark, "Spark, local[2], 4 partitions, without the start of the JVM", rounds=3,
                    scale=1e3, unit="ms")
        compare("whole job, 2 threads against 1", lambda: whole(photos, 2, target=target),
                lambda: whole(photos, 1, target=target), "1 thread", scale=1e3, unit="ms")

        def two_at_once():
            begun = time.perf_counter()
            command = [OURS, "extract", photos, "--threads", "1"]
            both = []
            for i in (1, 2):
                out = f"{work}/both{i}"
                shutil.rmtree(out, ignore_errors=True)
                both.append(subprocess.Popen([*command[:3], out, *command[3:]],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            assert not any([p.wait() for p in both])
            return (time.perf_counter() - begun) / 2

        compare("what 2 cores give here: two processes of 1 thread, for each", two_at_once,
                lambda: whole(photos, 1, target=target), "1 process of 1 thread", scale=1e3, unit="ms")
        if "--large" in flags:
            many, copies = f"{work}/many", f"{work}/copies"
            os.mkdir(copies)
            for i, path in enumerate(paths):
                shutil.copy(path, f"{copies}/{i}.jpg")
            few, most = 10**4, 10**6
            for count in (few, most):
                for i in range(count):
                    if i % 1000 == 0:
                        folder = f"{many}/{count}/{i // 1000:04}"
                        os.makedirs(folder)
                    os.link(f"{copies}/{i % len(paths)}.jpg", f"{folder}/{i:07}.jpg")

            def run(count):
                return peak([OURS, "extract", f"{many}/{count}", target, "--threads", "2", "--mode", "overwrite"])

            # The short one before and after, as its half a second says little on a shared machine.
            before, large, after = [run(few) for _ in range(5)], run(most), [run(few) for _ in range(5)]
            short = [statistics.median(one[k] for one in before + after) for k in (0, 1)]
            for count, (seconds, memory) in ((few, short), (most, large)):
                row = f"| whole job, {count:,} images, 2 threads | {seconds / count * 1e6:.1f} us each, {memory:.0f} MiB | | |"
                ROWS.append(row)
                print(row, file=sys.stderr)
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    print(f"{os.environ['COMMIT']}, {cpu}, {os.cpu_count()} CPUs, Python {platform.python_version()}; "
          "medians of turns, ratios of pairs\n")
    print("| what | ours | theirs | |\n|---|---|---|---|")
    print("\n".join(ROWS))


if __name__ == "__main__":
    main()
