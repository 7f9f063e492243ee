#!/usr/bin/env bash
# Runs the gates that a change must pass, and prints a table of them.
#
#   tests/run.sh            everything that is checked per commit, every fuzzer
#                           for three seconds among it
#   tests/run.sh quick      format, lint, unit tests (two to three minutes)
#   tests/run.sh long       the default, then what takes long (every fuzzer for a
#                           minute: long_fuzz), and the container
#   tests/run.sh GATE...    these gates only; `tests/run.sh tidy unit`
#
# Installs what is missing first. Every gate is a function gate_NAME; its output
# is in build/gates/NAME.log, the end of it is shown when the gate fails. Two run
# side by side, so that one waits or links while the other computes; each has its
# row when it has ended. Exits 1 when a gate failed. Builds go through ccache, and
# clang-tidy skips what it has already found clean, so the second run is much
# shorter than the first.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

quick="format scripts house proto cppcheck tidy unit"
# What takes longest begins first; asan and e2e share a build, and take turns.
default="format scripts house proto asan cppcheck unit tidy fuzz e2e
    switches tsan quickstart crash neon bench"
long="$default tsan_e2e long_sim long_storm long_tamper long_crash
    long_timing long_fuzz mutants container"

# --- how things are built and run --------------------------------------------

# The same objects serve every clone and build folder of this machine; what they
# were made of is asked of the compiler, not preprocessed once more beforehand.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1 CCACHE_DEPEND=1
export NODE_PATH=$PWD/build/node/node_modules
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1
# libgrpc is not instrumented: what it synchronises inside, TSan cannot see.
export TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1
unset CC CFLAGS LDFLAGS

# gcc 12's sanitizers know fewer address layouts than newer kernels draw.
fixed_layout=()
setarch -R true 2>/dev/null && fixed_layout=(setarch -R)

# Temporary files of tests are in memory where there is a place for them: Check
# writes a line for each assertion that holds, and servers that are tested sync
# thousands of times. The disk itself is met by the tests of receipts/ and of
# power cuts.
temporary=/tmp
if grep ' /dev/shm ' /proc/mounts 2>/dev/null | grep -qv noexec &&
    [ "$(df --output=avail /dev/shm | tail -n 1)" -gt 2000000 ]; then
    temporary=/dev/shm
fi

c_files() {
    git ls-files -z --cached --others --exclude-standard '*.c' '*.h'
}

# in_turn NAME COMMAND...: what gates that run side by side share, one of them
# uses at a time.
in_turn() {
    { flock 9 && "${@:2}" 9>&-; } 9>"build/gates/$1.lock"
}

# configure FOLDER PRESET [CMAKE OPTION...]: for tests, with a linker that takes a
# third of the time; a release is linked as whoever builds it links it.
configure() {
    local linker=-fuse-ld=lld
    [ "$2" != release ] || linker=
    cmake --preset "$2" -B "build/$1" -DCMAKE_C_COMPILER_LAUNCHER=ccache \
        -DCMAKE_EXE_LINKER_FLAGS=$linker "${@:3}"
}

# compile FOLDER [TARGET...]
compile() {
    cmake --build "build/$1" -j "$(nproc)" "${@:2}"
}

# build FOLDER PRESET [CMAKE OPTION...]: all of build/FOLDER.
build() {
    in_turn "$1" build_alone "$@"
}

build_alone() {
    configure "$@" && compile "$1"
}

# run_tests FOLDER [CTEST OPTION...]: a selection without a test is a failure.
run_tests() {
    TEMP=$temporary TMPDIR=$temporary in_turn "$1" "${fixed_layout[@]}" \
        ctest --test-dir "build/$1" --output-on-failure \
        --no-tests=error -j "$(nproc)" "${@:2}"
}

# What tests/e2e/package-lock.json names, into build/node.
node_packages() {
    in_turn node install_node_packages
}

install_node_packages() {
    local done_mark=build/node/node_modules/.package-lock.json
    [ "$done_mark" -nt tests/e2e/package-lock.json ] && return
    mkdir -p build/node
    cp tests/e2e/package.json tests/e2e/package-lock.json build/node &&
        (cd build/node && npm ci --ignore-scripts --no-audit --no-fund \
            --loglevel=error)
}

# --- quick -------------------------------------------------------------------

gate_format() {
    c_files | xargs -0 clang-format-14 --dry-run -Werror
}

# Mutants too are to fit what there is, though they are built on demand only.
gate_scripts() {
    for patch in tests/mutants/*.patch; do
        git apply --check "$patch" || return
    done
    git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run |
        xargs -0 shellcheck &&
        git ls-files -z --cached --others --exclude-standard '*.py' |
        xargs -0 /usr/bin/python3 -c \
            'import ast, sys; [ast.parse(open(f).read(), f) for f in sys.argv[1:]]'
}

gate_house() {
    tests/house.py
}

gate_proto() {
    node_packages && build/node/node_modules/.bin/buf lint proto
}

# The tests are left to the compilers and clang-tidy: cppcheck does not know
# Check's macros. What is suppressed is wrong in Debian 12's release: it takes
# memory that a called function fills for uninitialised, a struct that lives as
# long as the call for one that escapes, mmap's -1 for a bad descriptor, and the
# end of an embedded file for another object than its beginning.
gate_cppcheck() {
    mkdir -p build/cppcheck
    c_files | tr '\0' '\n' | grep -v '^tests/' >build/cppcheck/files
    cppcheck --file-list=build/cppcheck/files --quiet -j "$(nproc)" \
        --cppcheck-build-dir=build/cppcheck --std=c11 --library=posix -I . \
        -D_GNU_SOURCE -DKVPOOL_RECEIPTS=1 -DKVPOOL_TUNING=1 \
        --enable=warning,performance,portability --inline-suppr \
        --suppress=missingInclude --suppress=unmatchedSuppression \
        --suppress=uninitvar --suppress=legacyUninitvar \
        --suppress=ctuuninitvar \
        --suppress=autoVariables --suppress=invalidFunctionArg \
        --suppress=comparePointers --suppress=readdirCalled \
        --error-exitcode=1
}

# The build comes first: the contract's generated headers are needed, and the
# names of all others. What clang warns of is among the findings.
gate_tidy() {
    build debug debug && tests/tidy.py build/debug
}

gate_unit() {
    build debug debug && run_tests debug -L unit -LE long
}

# --- default -----------------------------------------------------------------

# fuzz_with LIBFUZZER_OPTIONS: every fuzzer, from sound inputs and nothing else.
# With them what else clang is to make a program of.
fuzz_with() {
    configure fuzz debug -DCMAKE_C_COMPILER=clang-14 -DKVPOOL_FUZZ=ON \
        -DKVPOOL_SANITIZE=fuzzer-no-link,address,undefined \
        -DKVPOOL_FUZZ_OPTIONS="$1" &&
        compile fuzz -t {tests/fuzz,server,cli}/all && run_tests fuzz -L '^fuzz$'
}

# Every fuzzer for three seconds, the same dice each time.
gate_fuzz() {
    fuzz_with '-seed=1;-max_total_time=3'
}

gate_asan() {
    build asan asan && KVPOOL_TAMPERINGS=2000 run_tests asan -LE 'e2e|long'
}

# The kernels of a processor that this machine is not, in emulation.
gate_neon() {
    tests/neon.sh
}

# The folders below receipts/ know nothing of the switches.
# with_switch FOLDER TESTS CMAKE_OPTION...
with_switch() {
    configure "$1" debug "${@:3}" &&
        compile "$1" -t {receipts,sinks,server,cli}/all \
            -t tests/{receipts,sinks,server,cli}/all &&
        run_tests "$1" -L unit -LE long -R "$2"
}

# Receipts without tuning are every other gate's build; tuning is the ledger's
# alone. Without receipts there is nothing to tune: the same is compiled, with
# the switch and without.
gate_switches() {
    local commands=build/without-receipts/compile_commands.json
    with_switch with-tuning '^receipts\.(ledger|performance)' \
        -DKVPOOL_TUNING=ON &&
        with_switch without-receipts '^(receipts|sinks|server|cli)\.' \
            -DKVPOOL_RECEIPTS=OFF -DKVPOOL_TUNING=OFF &&
        cp $commands $commands.untuned &&
        configure without-receipts debug -DKVPOOL_TUNING=ON &&
        cmp $commands $commands.untuned
}

gate_tsan() {
    configure tsan tsan && compile tsan -t tsan_tests &&
        run_tests tsan -L tsan -LE long
}

gate_e2e() {
    node_packages && build asan asan && run_tests asan -L e2e -LE long
}

# Power cuts and broken disks, in the build without sanitizers: a program that is
# killed in mid-life has nothing to report. The same ones each time; long_crash
# draws others. With them what sanitizers hide: memory, locks on it.
gate_crash() {
    build debug debug &&
        CRASH_SEED=${CRASH_SEED:-7} temporary=/tmp run_tests debug -L 'crash|plain'
}

gate_quickstart() {
    in_turn release deploy/quickstart.sh
}

# Benchmarks and their peers build; bench/run.py measures with them.
gate_bench() {
    in_turn release build_benchmarks
}

build_benchmarks() {
    configure release release -DKVPOOL_BENCH=ON && compile release -t bench/all
}

# --- long --------------------------------------------------------------------

# Every fuzzer for a minute, with other dice each time.
gate_long_fuzz() {
    fuzz_with '-max_total_time=60'
}

# The end-to-end tests once more, where threads that race are caught.
gate_tsan_e2e() {
    node_packages && build tsan tsan &&
        run_tests tsan -L e2e -LE long -E 'storm' --timeout 1800
}

# Twenty million operations on pool and ledger; sixty thousand by default.
gate_long_sim() {
    configure release release && compile release -t sim &&
        build/release/tests/sim/sim --steps 20000000
}

# Ten times as many evictions in mid-sentence as by default.
gate_long_storm() {
    build asan asan &&
        STORM_EVICTIONS=2000 run_tests asan -R 'e2e\.(stubs|storm)' --timeout 3600
}

# Ten times as many tamperings with a ledger as by default.
gate_long_tamper() {
    build release release &&
        KVPOOL_TAMPERINGS=100000 run_tests release -R 'receipts\.verify' \
            --timeout 3600
}

# Ten times as many power cuts as by default.
gate_long_crash() {
    build debug debug &&
        CRASH_CYCLES=1000 temporary=/tmp run_tests debug -L crash --timeout 7200
}

# The clock tells a tenant nothing of what another one has sent.
gate_long_timing() {
    build release release &&
        run_tests release -R 'e2e\.(stubs|timing)' --timeout 1800
}

# Each fault that is put in on purpose is found.
gate_mutants() {
    tests/mutants.sh
}

gate_container() {
    deploy/container-test.sh
}

# --- the table ---------------------------------------------------------------

purposes() {
    echo build lint node peers python
    [[ " $* " != *" bench "* ]] || echo bench
    [[ " $* " != *" neon "* ]] || echo neon
    [[ " $* " != *fuzz* ]] || echo fuzz
    [[ " $* " != *" container "* ]] || echo container
}

n_passed=0
n_failed=0
failed_gates=

# ctest's closing lines count tests; a gate without any counts as one test.
count_tests() { # LOG STATUS
    local counts failed total
    counts=$(sed -nE \
        's/^[0-9]+% tests passed, ([0-9]+) tests failed out of ([0-9]+)/\1 \2/p' \
        "$1" | awk '{f += $1; t += $2} END {print f + 0, t + 0}')
    failed=${counts% *} total=${counts#* }
    [ "$total" -gt 0 ] || total=1
    [ "$2" = 0 ] || [ "$failed" -gt 0 ] || failed=1
    n_tests=$total
    n_failed=$((n_failed + failed))
    n_passed=$((n_passed + total - failed))
}

# In a process of its own; what it has to say is in build/gates.
run_gate() { # NAME
    local log=build/gates/$1.log status
    # Wall time says how long one waits; processor time, what a gate costs.
    local TIMEFORMAT='%R %U %S'
    { time "gate_$1" >"$log" 2>&1 </dev/null; } 2>"build/gates/$1.time"
    status=$?
    exit $status
}

declare -A running=() # gates by process
n_ended=0

start_gate() { # NAME
    run_gate "$1" &
    running[$!]=$1
}

# Waits until one of those that run has ended, and prints its row.
end_gate() {
    local pid status gate result=passed
    wait -n -p pid
    status=$?
    gate=${running[$pid]}
    unset "running[$pid]"
    n_ended=$((n_ended + 1))
    count_tests "build/gates/$gate.log" $status
    if [ $status != 0 ]; then
        result=FAILED
        failed_gates+=" $gate"
    fi
    awk -v gate="$gate" -v result=$result -v n_tests="$n_tests" '{
        printf "%-12s %-8s %6d %8.1f s %8.1f s\n",
            gate, result, n_tests, $1, $2 + $3}' "build/gates/$gate.time"
}

# Gates that take long have the machine to themselves: they fill it, or measure.
run_gates() { # NAME...
    local gate beside
    for gate in "$@"; do
        beside=0
        ! grep -qw "$gate" <<<"$default" || beside=1
        while [ ${#running[@]} -gt $beside ]; do end_gate; done
        start_gate "$gate"
        [ $beside = 1 ] || end_gate
    done
    while [ ${#running[@]} -gt 0 ]; do end_gate; done
}

case ${1:-default} in
quick) gates=$quick ;;
default) gates=$default ;;
long) gates=$long ;;
*) gates=$* ;;
esac
for gate in $gates; do
    if [ "$(type -t "gate_$gate")" != function ]; then
        echo "tests/run.sh: no gate '$gate'; one of:" "${long//[[:space:]]/ }" >&2
        exit 64
    fi
done

# shellcheck disable=SC2046,SC2086 # both are lists of words
deploy/packages.sh $(purposes $gates) || exit

mkdir -p build/gates
printf '%-12s %-8s %6s %10s %10s\n' gate result tests time processor
SECONDS=0
# Each gate has a process group, so that none is left behind when this is ended.
set -m
trap 'printf -- "-%s\n" "${!running[@]}" | xargs kill --; exit 130' INT TERM
# shellcheck disable=SC2086 # a list of words
run_gates $gates
for gate in $failed_gates; do
    printf '\n--- %s: the end of build/gates/%s.log\n' "$gate" "$gate"
    tail -n 60 "build/gates/$gate.log"
    # What failed within the tests: ctest ends with their names only.
    grep -E ':[FE]:|^[A-Za-z.]*Error: |Sanitizer: |runtime error: ' \
        "build/gates/$gate.log" | sort -u | head -n 20
done
printf '\n%d gates in %d s\n' $n_ended $SECONDS
printf '%d passed, %d failed\n' $n_passed $n_failed
[ -z "$failed_gates" ] && [ $n_ended = "$(wc -w <<<"$gates")" ]
