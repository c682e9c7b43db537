#!/usr/bin/env bash
# Makes the pictures of README from photos that the quickstart draws. Needs Chromium.
#
# usage: pictures.sh [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "${1:-target/release/orb-features}")
pictures=$PWD/docs/pictures
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cargo run --quiet --release --example quickstart "$folder" >/dev/null
cd "$folder"
"$program" extract photos out --json >run.json
"$program" draw photos/melon/013.jpg -o "$pictures/keypoints.png" --scale 3
"$program" report out -o report.html --run run.json

# A part of the page alone, by a style that hides the rest.
part() {
    local name=$1 height=$2 style=$3
    sed "s|</head>|<style>header, section { display: none } h2 { margin-top: 8px; border: 0 } $style</style></head>|" \
        report.html >part.html
    chromium --headless=new --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$folder/profile" \
        --blink-settings=preferredColorScheme=1 --window-size="960,$height" --screenshot="$pictures/$name.png" \
        "file://$folder/part.html" 2>/dev/null
}
part report 730 '#keypoints, #photos { display: block } .plot { max-width: 560px } #photos h3:nth-of-type(n+2), #photos .thumbs:nth-of-type(n+2) { display: none }'
