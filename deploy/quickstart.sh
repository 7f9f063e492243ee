#!/usr/bin/env bash
# From a fresh Debian 12 to a conversation, its eviction, and the receipt.
#
#   deploy/quickstart.sh            builds, shows the main job, stops the server
#   deploy/quickstart.sh --keep     leaves the server running until Ctrl-C
#
# Installs what is missing (as root), builds into build/release, and leaves
# nothing behind but that folder and build/quickstart with the logs.
set -euo pipefail
cd "$(dirname "$0")/.."

keep=no
case ${1:-} in
'') ;;
--keep) keep=yes ;;
*)
    echo "usage: deploy/quickstart.sh [--keep]" >&2
    exit 64
    ;;
esac

logs=build/quickstart
server_log=$logs/server.log
server=
tail=
mkdir -p $logs
: >$server_log

# --- saying ------------------------------------------------------------------

bold='' plain=''
if [ -t 1 ]; then
    bold=$'\e[1m' plain=$'\e[0m'
fi

say() {
    printf '\n%s\n' "$*"
}

show() { # COMMAND AS TYPED
    printf '%s$ %s%s\n' "$bold" "$1" "$plain"
}

fail() { # WHY LOG
    printf '\nquickstart: %s; the end of %s:\n' "$1" "$2" >&2
    tail -n 30 "$2" >&2
    exit 1
}

# --- starting and stopping ---------------------------------------------------

stop() { # PID
    kill "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null
}

clean_up() {
    [ -z "$tail" ] || stop "$tail" || true
    [ -z "$server" ] || stop "$server" || true
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

build_kvpool() {
    cmake --preset release -DCMAKE_C_COMPILER_LAUNCHER=ccache &&
        cmake --build build/release -j "$(nproc)" --target kvpoold kvpoolctl
}

answers() { # PORT
    (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

free_port() {
    local port
    for port in {7440..7499}; do
        answers "$port" || break
    done
    echo "$port"
}

# until_true SECONDS COMMAND...
until_true() {
    local deadline=$((SECONDS + $1))
    until "${@:2}"; do
        [ $SECONDS -lt $deadline ] || return
        sleep 0.05
    done
}

is_ready_or_gone() {
    grep -q 'msg=ready' $server_log || ! kill -0 "$server" 2>/dev/null
}

start_server() {
    kvpoold --listen="$address" --enable-receipts=true --log-format=logfmt \
        2>$server_log &
    server=$!
    until_true 60 is_ready_or_gone || true
    grep -q 'msg=ready' $server_log || fail "kvpoold did not start" $server_log
}

generate() { # SESSION PROMPT; the answer streams to the screen and to a file
    show "kvpoolctl generate --session $1 \"$2\""
    kvpoolctl generate --session "$1" "$2" | tee "$logs/answer-$1" ||
        fail "generate failed" $server_log
}

receipt_is_there() {
    grep -q river $logs/receipts
}

# --- the main job ------------------------------------------------------------

deploy/packages.sh build
echo "Building kvpoold and kvpoolctl (a minute or two the first time) ..."
build_kvpool >$logs/build.log 2>&1 || fail "the build failed" $logs/build.log

export PATH=$PWD/build/release/server:$PWD/build/release/cli:$PATH
unset "${!KVPOOL_@}" # the tour is of the defaults
address=127.0.0.1:$(free_port)

say "A server with its built-in demo model, and a subscriber to its receipts:"
show "kvpoold --listen=$address --enable-receipts=true &"
start_server
export KVPOOL_SERVER=$address # for kvpoolctl
show "kvpoolctl receipts tail --from earliest &"
kvpoolctl receipts tail --from earliest >$logs/receipts 2>$logs/tail.log &
tail=$!

say "A conversation; its keys and values stay in the pool:"
generate river "What is a river?"

say "Its blocks are given up:"
show "kvpoolctl evict --session river"
kvpoolctl evict --session river || fail "evict failed" $server_log

say "and the receipt arrives at the subscriber:"
until_true 10 receipt_is_there || fail "no receipt arrived" $logs/tail.log
grep river $logs/receipts

say "The conversation goes on; what it needs is recomputed:"
generate river "What is a lake?"

say "The same conversation without an eviction gives the same answer:"
generate calm "What is a river?" >/dev/null
generate calm "What is a lake?"
cmp -s $logs/answer-river $logs/answer-calm ||
    fail "the answers differ: eviction changed a result" $server_log

if [ $keep = yes ]; then
    say "Serving on $address until Ctrl-C. In another terminal:"
    echo "export PATH=$PWD/build/release/cli:\$PATH KVPOOL_SERVER=$address"
    wait "$server"
else
    stop "$tail" || true
    tail=
    stop "$server" || fail "kvpoold did not stop cleanly" $server_log
    server=
    say "Done. To try it yourself: deploy/quickstart.sh --keep"
fi
