#!/usr/bin/env bash
# Puts faults in on purpose, one at a time, and fails where no test finds one.
#
#   tests/mutants.sh            all of them
#   tests/mutants.sh NAME...    these: tests/mutants/NAME.patch
#
# A mutant is a patch. Above it stands what it breaks, the targets that are to be
# built for it ("Build:"), and the command that has to fail then ("Kill:"), and
# has to succeed without the patch. All of it happens in a copy below
# build/mutants; a patch that no longer applies is a failure too.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

mutants=$PWD/tests/mutants
tree=$PWD/build/mutants/tree
log=$PWD/build/mutants/log
export BUILD=$PWD/build/mutants/build
export CCACHE_BASEDIR=$tree CCACHE_NOHASHDIR=1

# What tests/crash and tests/e2e are given by ctest otherwise.
export PYTHONDONTWRITEBYTECODE=1 CRASH_SEED=1 CRASH_CYCLES=100
export KVPOOL_HAMMER=$BUILD/tests/crash/ledger_hammer
export KVPOOL_CRASH_SHIM=$BUILD/tests/crash/libcrash_shim.so
export KVPOOLD=$BUILD/server/kvpoold KVPOOLCTL=$BUILD/cli/kvpoolctl
export E2E_SOURCE=$tree E2E_STUBS=$BUILD/tests/e2e/stubs

# With the time of now: an object of the last run may be of a mutant.
copy_tree() {
    rm -rf "$tree"
    mkdir -p "$tree" "$(dirname "$log")"
    git ls-files -z --cached --others --exclude-standard |
        tar --null --files-from=- -cf - | tar -xmf - -C "$tree"
}

field() { # NAME FIELD
    sed -n "s/^$2: //p" "$mutants/$1.patch"
}

build() { # "TARGET..."
    # shellcheck disable=SC2086 # a list of words
    cmake --build "$BUILD" -j "$(nproc)" -t $1
}

# The command of a mutant, in the copy.
test_it() { # NAME
    (cd "$tree" && timeout 1200 bash -c "$(field "$1" Kill)")
}

apply() { # NAME [OPTION]
    patch -d "$tree" -p1 --batch --fuzz=0 "${@:2}" <"$mutants/$1.patch"
}

say() { # NAME RESULT
    printf '%-24s %s\n' "$1" "$2"
    [ "$2" = killed ]
}

# Says how it ended, and leaves the copy as it was.
try() { # NAME
    local result=killed
    if ! apply "$1"; then
        result='DOES NOT APPLY'
    elif ! build "$(field "$1" Build)"; then
        result='DOES NOT BUILD'
    elif test_it "$1"; then
        result=SURVIVED
    fi >>"$log" 2>&1
    [ "$result" = 'DOES NOT APPLY' ] || apply "$1" --reverse >>"$log" 2>&1
    say "$1" "$result"
}

if [ $# = 0 ]; then
    for patch in "$mutants"/*.patch; do
        set -- "$@" "$(basename "$patch" .patch)"
    done
fi
for name in "$@"; do
    if [ ! -f "$mutants/$name.patch" ]; then
        echo "tests/mutants.sh: there is no mutant '$name'" >&2
        exit 64
    fi
done

copy_tree || exit
: >"$log"
targets=$(for name in "$@"; do field "$name" Build; done | tr ' ' '\n' | sort -u | xargs)
if ! (cd "$tree" && cmake --preset debug -B "$BUILD" \
    -DCMAKE_C_COMPILER_LAUNCHER=ccache && build "$targets" &&
    /usr/bin/python3 tests/e2e/kvpool_e2e.py --make-stubs) >>"$log" 2>&1; then
    tail -n 40 "$log"
    exit 1
fi

# A test that fails by itself kills nothing.
for name in "$@"; do field "$name" Kill; done | sort -u |
    while IFS= read -r command; do
        (cd "$tree" && timeout 1200 bash -c "$command") >>"$log" 2>&1 </dev/null ||
            { echo "fails without a mutant: $command" && false; } || exit
    done || { tail -n 40 "$log"; exit 1; }

n_left=0
for name in "$@"; do
    try "$name" || n_left=$((n_left + 1))
done
printf '%d of %d mutants killed\n' $(($# - n_left)) $#
[ $n_left = 0 ]
