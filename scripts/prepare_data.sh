#!/usr/bin/env bash
# Downloads and prepares an image set of TFDS. Afterwards --dataset=NAME --data_dir=DIR reads it without the network.
#
#   bash scripts/prepare_data.sh NAME [DIR]               DIR is data by default; the downloads take most of the time
#   bash scripts/prepare_data.sh fashion_mnist data       an example
#
# Preparing needs tensorflow, but reading does not. So the script installs tensorflow in a temporary environment (about
# 2 GB in $TMPDIR), and removes this environment at the end. PYTHON=... names the Python interpreter, by default
# python3.
#
# Writes DIR/NAME/.
set -euo pipefail

fail() {
  echo "prepare_data.sh: $1" >&2
  exit "${2:-1}"
}

[[ $# -eq 1 || $# -eq 2 ]] || fail "give one name and at most one folder: bash scripts/prepare_data.sh NAME [DIR]" 2
name=$1
dir=${2:-data}
python=${PYTHON:-python3}
[[ $name =~ ^[A-Za-z0-9_]+(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)?(:[0-9]+\.[0-9]+\.[0-9]+)?$ ]] ||
  fail "'$name' is not a TFDS name; give NAME, NAME/CONFIG or NAME:VERSION" 2
case $name in
  digits) fail "digits comes with scikit-learn and needs no preparation; use --dataset=digits" 2 ;;
  frey_faces) fail "frey_faces is not in TFDS; make frey_faces.npz as vae/data/README.md describes, and put it into the folder of --data_dir" 2 ;;
esac
command -v flock > /dev/null || fail "flock is missing; install the package util-linux"
command -v "$python" > /dev/null || fail "there is no $python; set PYTHON to a Python that tensorflow supports"

stop_if_prepared() {
  local stem=${name%%:*} version= info
  [[ $name != *:* ]] || version=${name##*:}
  info=$(find "$dir/$stem" -path "*/${version:-[0-9]*}/dataset_info.json" 2> /dev/null | head -n 1 || true)
  [[ -n $info ]] || return 0
  grep -q '"array_record"' "$info" || fail "$dir/$stem was prepared in a format other than array_record; give another DIR"
  echo "$name is prepared already; use --dataset=$name --data_dir=$dir"
  exit 0
}

stop_if_prepared
mkdir -p "$dir" 2> /dev/null && [[ -w $dir ]] || fail "the folder $dir cannot be written; give another DIR"
dir=$(cd "$dir" && pwd)

# If several processes prepare the same set at once, the first one works; the others wait and find the set prepared.
exec 9>> "$dir/.prepare-${name//[\/:]/-}.lock"
flock --nonblock 9 || {
  echo "prepare_data.sh: another process is preparing $name in $dir; waiting for it" >&2
  flock 9
}
stop_if_prepared

environment=$(mktemp -d "${TMPDIR:-/tmp}/prepare_data.XXXXXX")
trap 'rm -rf "$environment"' EXIT
"$python" - << 'PYTHON' || fail "storage.googleapis.com does not answer; preparing $name needs the network"
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen("https://storage.googleapis.com/tfds-data", timeout=15)
except urllib.error.HTTPError:
    pass  # any answer shows that there is a network
except OSError as error:
    sys.exit(f"{error}")
PYTHON
"$python" -m venv "$environment" || fail "$python cannot make a virtual environment; install its venv package"
echo "prepare_data.sh: installing tensorflow in $environment, which is removed at the end" >&2
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check --retries 2 \
  tensorflow-cpu 'tensorflow-datasets>=4.9.10,<4.10' importlib_resources array_record ||
  fail "tensorflow-cpu cannot be installed for $("$python" --version); see pip's message above, or set PYTHON to another Python"

TF_CPP_MIN_LOG_LEVEL=3 "$environment/bin/python" - "$name" "$dir" << 'PYTHON' || fail "$name was not prepared; the reason is above" $?
import sys
import tensorflow_datasets as tfds

name, data_dir = sys.argv[1:]
try:
    tfds.builder(name, data_dir=data_dir, file_format="array_record").download_and_prepare()
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
PYTHON
echo "$name is prepared; use --dataset=$name --data_dir=$dir"
