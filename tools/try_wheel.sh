#!/bin/sh
# Tries what `make wheels` built, as a user would: sh tools/try_wheel.sh NAME [FOLDER]
#
#   x86_64   the wheel in a new virtual environment, on a PATH without a compiler
#   aarch64  the wheel under qemu-user, with Debian's Python and PyPI's wheels for aarch64; root gets
#            what is missing by apt
#   pillow   the wheel for x86-64 with each Pillow that resizes in its own way
#   sdist    the sdist, compiled by this machine's compiler
#
# FOLDER (default: dist) has the files. $PYTHON3 (default: python3) makes the environments. The tests
# of the checkout run against what is installed: golden tensors of all recipes, hostile files, score,
# eval, every CPU level.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
name=${1:?"usage: tools/try_wheel.sh x86_64|aarch64|pillow|sdist [FOLDER]"}
dist=$(cd "${2:-dist}" && pwd)
python3=${PYTHON3:-python3}
work=$root/.cache/check/try-$name

trial="tests/trial.py"
core="tests/core/test_hostile.py
    tests/core/test_kernels.py::test_the_best_level_is_what_linux_says_of_this_cpu"
zoo="tests/preprocess/test_zoo.py::test_the_guides_tensors"

bare() { PATH=$work/venv/bin "$@"; } # without a compiler
milliseconds() { echo $(($(date +%s%N) / 1000000)); }
pip() { "$@" --disable-pip-version-check --quiet; }
venv() {
    "$python3" -m venv "$work/venv"
    python=$work/venv/bin/python
}
# The tests lie in a folder without the package, which would be imported instead.
# shellcheck disable=SC2086  # several words
tests() (cd "$work/tree" && $python -m pytest -q -p no:cacheprovider "$@")

rm -rf "$work"
mkdir -p "$work/tree"
cp -r tests pyproject.toml "$work/tree"
export ZOOFAST_SHARED="${ZOOFAST_SHARED:-$root/../shared}"
wheel=$(echo "$dist"/zoofast-*_x86_64.whl)
ZOOFAST_TRIAL_COMMIT=$("$python3" -c 'import sys, zipfile
print(zipfile.ZipFile(sys.argv[1]).read("zoofast/commit.txt").decode().strip())' "$wheel")
export ZOOFAST_TRIAL_COMMIT

case $name in
x86_64)
    venv
    for compiler in cc gcc clang; do
        if bare command -v $compiler; then
            echo "try_wheel: $compiler is on the PATH" >&2
            exit 1
        fi
    done
    begin=$(milliseconds)
    pip bare "$python" -m pip install --only-binary=:all: "$wheel"
    installed=$(milliseconds)
    "$python" tools/images.py "$work/images" 20
    prepare=$(milliseconds)
    bare zoofast-prep "$work/images" "$work/bins" --recipe alexnet --quiet
    end=$(milliseconds)
    echo "installed in $((installed - begin)) ms; prepared 20 images in $((end - prepare)) ms"
    pip "$python" -m pip install pytest hypothesis
    # shellcheck disable=SC2086
    tests $trial $core $zoo
    ;;
aarch64)
    if [ "$(id -u)" -eq 0 ]; then
        dpkg --add-architecture arm64
        apt-get update -qq
        command -v qemu-aarch64 >/dev/null ||
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq qemu-user >/dev/null
    fi
    version=$(apt-cache show --no-all-versions python3:arm64 |
        sed -n 's/^Version: \(3\.[0-9]*\).*/\1/p')
    mkdir "$work/debs"
    (
        cd "$work/debs"
        # As root: apt's own user may not write into this folder.
        apt-get download -qq -o APT::Sandbox::User=root "python$version-minimal:arm64" \
            "libpython$version-minimal:arm64" "libpython$version-stdlib:arm64" libc6:arm64 \
            libgcc-s1:arm64 libstdc++6:arm64 libbz2-1.0:arm64 libexpat1:arm64 libffi8:arm64 \
            liblzma5:arm64 zlib1g:arm64
        for package in *.deb; do dpkg -x "$package" "$work/root"; done
    )
    venv
    pip "$python" -m pip install --only-binary=:all: --target "$work/site" \
        --python-version "$version" --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
        --platform manylinux2014_aarch64 "$dist"/zoofast-*_aarch64.whl pytest hypothesis
    export QEMU_LD_PREFIX="$work/root" PYTHONPATH="$work/site" ZOOFAST_TEST_ZOO=few
    python="qemu-aarch64 $work/root/usr/bin/python$version -S"
    # Two at once: pytest-xdist does not do it, since Python cannot start itself under qemu.
    status=0
    tests $trial $zoo >"$work/log" 2>&1 &
    # shellcheck disable=SC2086
    tests $core || status=$?
    wait $! || status=$?
    cat "$work/log"
    exit "$status"
    ;;
pillow)
    venv
    pip "$python" -m pip install --only-binary=:all: "$wheel" pytest hypothesis
    export ZOOFAST_TEST_LEVELS=one
    for version in 12.1 12.2 13.0; do
        pip "$python" -m pip install --only-binary=:all: "pillow==$version.*"
        echo "Pillow $version"
        tests $trial $zoo \
            tests/preprocess/test_reference.py --deselect \
            tests/preprocess/test_reference.py::test_torchvision_agrees --deselect \
            tests/preprocess/test_reference.py::test_torchvisions_centre_crop
    done
    ;;
sdist)
    venv
    pip "$python" -m pip install "$dist"/zoofast-*.tar.gz pytest hypothesis
    # shellcheck disable=SC2086
    tests $core $zoo
    ;;
*)
    echo "try_wheel: no trial is named $name; known: x86_64, aarch64, pillow, sdist" >&2
    exit 2
    ;;
esac
