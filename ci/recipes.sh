#!/usr/bin/env bash
# Runs the commands of docs/recipes.md and docs/looking.md, as they stand there, on a folder of photos.
#
# usage: recipes.sh PROGRAM PHOTOS NETWORK
set -euo pipefail
program=$(realpath "$1") photos=$(realpath "$2") network=$(realpath "$3")
docs=$(realpath "$(dirname "$0")/../docs")
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$folder"
mkdir bin
ln -s "$program" bin/orb-features
cp -r "$photos" photos
cp "$network" network.onnx
mkdir -p "photos/kind 0"
first=$(find photos -name '*.jpg' -print -quit)
for i in 1 2 3 4 5 6; do cp "$first" "photos/kind 0/a $i.jpg"; done

# The text between the fences of ```sh.
commands=$(awk '/^```/ { inside = ($0 == "```sh"); next } inside' "$docs/recipes.md" "$docs/looking.md")
# Only the commands that say what becomes of unreadable files find one.
PATH=$folder/bin:$PATH
run() { echo "$1"; bash -euo pipefail -c "$1"; }
torn=photos/torn.jpg
while IFS= read -r line; do
    command=$line
    while [[ $command == *\\ ]] && IFS= read -r line; do command=${command%\\}$line; done
    case $command in
        *--on-error*) [ -e $torn ] || head -c 500 "$first" >$torn ;;
        *) rm -f $torn ;;
    esac
    run "$command"
done <<<"$commands"
for file in report.html report.json keypoints.png match.svg photos.index duplicates.jsonl; do
    [ -s $file ] || { echo "no $file" && exit 1; }
done
for out in features embedded vectors reduced table/* matrix pixels "one kind" images again known; do
    [ -e "$out/_SUCCESS" ] || { echo "no result in $out" && exit 1; }
done
[ -d features/_errors ] && [ "$(ls table/*/part-*.csv | wc -l)" = 5 ]
echo "all recipes work"
