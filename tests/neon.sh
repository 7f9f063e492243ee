#!/usr/bin/env bash
# The tests of the kernels with NEON, built for aarch64 and run in emulation, on
# a machine that is none. Where the compiler or the emulator is absent, says so
# and passes: deploy/packages.sh installs both for the purpose `neon`.
set -euo pipefail
cd "$(dirname "$0")/.."

cc=aarch64-linux-gnu-gcc
for program in $cc qemu-aarch64; do
    if ! command -v "$program" >/dev/null; then
        echo "SKIPPED: no $program; deploy/packages.sh neon installs it"
        exit 0
    fi
done

out=build/neon
sources=(engine/{activations,gguf_type,kernels,matrices,packed,team}.c
    engine/{kernels_neon,kernels_scalar,quants}*.c base/{error,heap}.c tests/engine/test_kernels.c)
flags=(-std=c17 -D_GNU_SOURCE -O2 -ffp-contract=off -I tests/neon -I .
    -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes
    -Wconversion -Wno-sign-conversion -Wvla -Werror)

mkdir -p "$out"
objects=()
for source in "${sources[@]}"; do
    object=$out/$(basename "$source" .c).o
    objects+=("$object")
    ccache "$cc" "${flags[@]}" -c "$source" -o "$object"
done
"$cc" -static -o "$out/test_kernels" "${objects[@]}" -lm -lpthread
qemu-aarch64 "$out/test_kernels"
