#!/bin/sh
# Sets zoofast up in .venv: sh tools/setup.sh [EXTRA ...]   (extras of pyproject.toml)
# What the system lacks is installed through apt when root, else named in one line. With --system,
# nothing else is done. With --add, the extras are installed beside "dev", without building anew.
set -eu
cd "$(dirname "$0")/.."

lacking=""
need() { # need PACKAGE COMMAND...: PACKAGE is lacking unless COMMAND works
    package=$1
    shift
    "$@" >/dev/null 2>&1 || lacking="$lacking $package"
}
need python3-venv python3 -c 'import ensurepip, venv'
need python3-dev python3 -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("include"), "Python.h").open()'
need gcc cc --version
case " $* " in
*" dev "*) # the oracle of tests and benchmarks
    need libjpeg-dev sh -c 'printf "#include <stdio.h>\n#include <jpeglib.h>\n" | cc -E -'
    ;;
esac
case " $* " in
*" test-remote "*) # a server that sources are read from
    need nginx-light env PATH="$PATH:/usr/sbin" nginx -v
    ;;
esac
if [ -n "$lacking" ]; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "installing:$lacking"
        apt-get update -qq
        # shellcheck disable=SC2086  # one word a package
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $lacking >/dev/null
    else
        echo "zoofast: the system lacks packages; run: sudo apt-get install$lacking" >&2
        exit 1
    fi
fi

if [ "${1-}" = --system ]; then
    exit
fi

install() {
    .venv/bin/python -m pip install --disable-pip-version-check "$@" >>.venv/setup.log 2>&1 || {
        tail -n 40 .venv/setup.log >&2
        exit 1
    }
}
# torchvision and pretrainedmodels would ask for a torch of their own choice.
torch=torch==2.13.0 torchvision=torchvision==0.28.0

if [ "${1-}" = --add ]; then
    shift
    extras=$(echo "$*" | tr ' ' ',')
    echo "adding the extras $extras; log in .venv/setup.log"
    install --no-compile "zoofast[$extras]" "$torch" "$torchvision"
    exit
fi

[ -x .venv/bin/python ] || python3 -m venv .venv
extras=$(echo "$*" | tr ' ' ',')
echo "building zoofast${extras:+ with extras $extras}; log in .venv/setup.log"
case " $* " in
*" dev "*)
    # Python compiles what is imported; to compile all of torch beforehand takes far longer.
    # What builds comes first: without --no-build-isolation, pip installs it once more for each
    # package it builds.
    install --no-compile 'setuptools>=77' 'cython>=3.1' "$torch"
    install --no-compile --no-build-isolation --no-deps \
        "$torchvision" pretrainedmodels munch tqdm six
    # Named once more: pip replaces what is installed while it looks for versions that fit together.
    install --no-compile --no-build-isolation -e ".[$extras]" "$torch" "$torchvision"
    ;;
*)
    install -e ".${extras:+[$extras]}"
    ;;
esac
