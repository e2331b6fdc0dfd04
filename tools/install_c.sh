#!/bin/sh
# Builds the C core as a library and installs it: sh tools/install_c.sh PREFIX
# $CC (default: cc) and $CFLAGS (default: -O3) compile. See docs/c-api.md.
set -eu
cd "$(dirname "$0")/.."
prefix=${1:?"usage: make install-c PREFIX=FOLDER"}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
work=build/install-c
rm -rf "$work"
mkdir -p "$work" "$prefix/include" "$prefix/lib/pkgconfig"
prefix=$(cd "$prefix" && pwd)

sources=""
for source in csrc/*.c; do
    case $source in
    csrc/acl_* | csrc/logits_*) ;; # not in zoofast.h
    *) sources="$sources ../../$source" ;;
    esac
done
flags="-std=c11 -D_GNU_SOURCE ${CFLAGS:--O3} -ffp-contract=off -fPIC -pthread -fvisibility=hidden"
# shellcheck disable=SC2086  # several words
(cd "$work" && ${CC:-cc} $flags -DZF_EXPORT -c $sources)
library=libzoofast.so.$version
${CC:-cc} -shared -pthread -Wl,-soname,"$library" "$work"/*.o -lm -o "$prefix/lib/$library"
ln -sf "$library" "$prefix/lib/libzoofast.so"
rm -f "$prefix/lib/libzoofast.a"
ar rcs "$prefix/lib/libzoofast.a" "$work"/*.o
# One header: zoofast.h with levels.h in the place where it includes it.
sed -e '/^#include "levels.h"$/{r csrc/levels.h' -e 'd}' csrc/zoofast.h >"$prefix/include/zoofast.h"
cat >"$prefix/lib/pkgconfig/zoofast.pc" <<END
prefix=$prefix
Name: zoofast
Description: image bytes to tensors for a model, equal to Pillow in every byte
Version: $version
Cflags: -I\${prefix}/include
Libs: -L\${prefix}/lib -lzoofast
Libs.private: -lm -pthread
END
echo "installed: $prefix/include/zoofast.h, lib/$library, lib/libzoofast.a, lib/pkgconfig/zoofast.pc"
