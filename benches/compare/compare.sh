#!/usr/bin/env bash
# Runs this crate and what people would otherwise use one after the other, in turns, on the photos of a
# folder with one folder for each label, and prints a table: medians of ratios. README's figures are made
# by it.
#
#   benches/compare/compare.sh PHOTOS [--spark] [--large]
#
# --spark   also the job in Spark (needs Java; some minutes)
# --large   also 10^4 and 10^6 images: time for each and peak memory (some minutes, 10^6 links on disk)
#
# Needs Rust, a C compiler, nasm and python3 with venv, and installs the newest OpenCV and the others from PyPI.
# With libopencv-dev and libclang-dev, the system's OpenCV is compared, too.
set -euo pipefail
photos=$(realpath "${1:?usage: $0 PHOTOS [--spark] [--large]}")
shift
cd "$(dirname "$0")/../.."

venv=target/compare-venv
[ -x $venv/bin/python ] || python3 -m venv $venv
packages=(numpy opencv-python-headless pyarrow scikit-learn)
case " $* " in *" --spark "*) packages+=(pyspark) ;; esac
$venv/bin/pip install --quiet --disable-pip-version-check "${packages[@]}"

# The path of what the last line but one of cargo's messages says was built.
built() { sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1; }
say() { echo "$*" >&2; }
say "building the program and our side"
cargo build --quiet --release --features cli --bin orb-features
export OURS=$PWD/target/release/orb-features
build=(cargo build --quiet --release --message-format json --package orb-features-compare)
SIDE=$("${build[@]}" | built)
cp "$SIDE" target/compare-side
export SIDE=$PWD/target/compare-side
if command -v clang >/dev/null && pkg-config --exists opencv4 2>/dev/null; then
    LINKED=$("${build[@]}" --features opencv | built)
    cp "$LINKED" target/compare-opencv
    export LINKED=$PWD/target/compare-opencv
    LINKED_VERSION=$(pkg-config --modversion opencv4)
    export LINKED_VERSION
fi
KORNIA=$PWD/target/kornia/release/compare-kornia
cargo build --quiet --release --manifest-path benches/compare/kornia/Cargo.toml --target-dir target/kornia
export KORNIA
COMMIT=$(git describe --always --dirty)
export COMMIT
exec $venv/bin/python benches/compare/compare.py "$photos" "$@"
