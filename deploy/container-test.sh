#!/usr/bin/env bash
# Builds the image and proves it from outside, without a Docker engine.
#
#   deploy/container-test.sh
#
# On Debian 12, as root: mmdebstrap makes the base image, buildah builds the
# Dockerfile, podman runs it under runc with a bridge of its own and a mapped
# port. Then a Python subscriber on this host and one in a second container
# follow the receipts through that port while a session is evicted. Everything
# lives in one folder under /var/tmp, which is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo "container-test: must be root" >&2
    exit 1
fi
deploy/packages.sh container python

name=kvpool-test-$$
session=chat-7
subnet=10.89.74.0/24 # its first address is this host
gateway=10.89.74.1
port=17440

work=$(mktemp -d -p /var/tmp kvpool-container.XXXXXX)
export TMPDIR=$work
# There need not be a systemd that could hold the timer of the health check.
export DISABLE_HC_SYSTEMD=true

# --- tools -------------------------------------------------------------------

store=(--root "$work/store" --runroot "$work/run" --storage-driver vfs)

bah() {
    buildah "${store[@]}" "$@"
}

pod() {
    podman "${store[@]}" --runtime runc --cgroup-manager cgroupfs \
        --network-config-dir "$work/networks" "$@"
}

# What compose.yaml asks for, too.
hardened=(--network "$name" --read-only --cap-drop all
    --security-opt no-new-privileges --memory 1g --pids-limit 256
    --ulimit nofile=4096:4096 --ulimit nproc=4096:4096)

clean_up() {
    local status=$?
    if [ $status != 0 ]; then
        pod logs --tail 20 kvpoold >>"$work/log" 2>&1 || true
        echo "container-test: failed; the end of its log:" >&3
        tail -n 40 "$work/log" >&3
    fi
    pod rm -fa -t 1 >/dev/null || true
    pod network rm -f "$name" >/dev/null || true
    rm -rf "$work"
}

n_passed=0

# check WHAT COMMAND...: a fact about the running container.
check() {
    if ! "${@:2}" >>"$work/log"; then
        echo "FAILED  $1"
        exit 1
    fi
    echo "ok      $1"
    n_passed=$((n_passed + 1))
}

# until_true SECONDS COMMAND...
until_true() {
    local deadline=$((SECONDS + $1))
    until "${@:2}"; do
        [ $SECONDS -lt $deadline ] || return
        sleep 0.2
    done
}

# --- building ----------------------------------------------------------------

make_base() {
    local container
    mmdebstrap -q --variant=minbase --include=ca-certificates bookworm \
        "$work/base.tar"
    container=$(bah from scratch)
    bah add -q "$container" "$work/base.tar" / >/dev/null
    bah config --cmd bash --env \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        "$container"
    bah commit -q --rm "$container" localhost/debian:bookworm-slim >/dev/null
    rm "$work/base.tar"
}

# build_image TAG [BUILDAH OPTION...]; health checks need Docker's format.
build_image() {
    bah bud --isolation chroot --pull-never --format docker -t "$1" "${@:2}" . \
        >>"$work/log"
}

build_subscriber() {
    build_image localhost/subscriber --ignorefile /dev/null -f - <<'END'
FROM debian:bookworm-slim
COPY deploy/packages.sh /tmp/
RUN /tmp/packages.sh python
COPY proto /proto
COPY deploy/examples/subscribe.py /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["subscribe.py", "--proto", "/proto"]
END
}

# --- looking at the container from outside -----------------------------------

is_ready() {
    pod logs kvpoold 2>&1 | grep -Eq 'msg"?[=:]"?ready'
}

status_field() { # FIELD of the first process, as this host sees it
    awk -v field="$1:" '$1 == field {print $2}' \
        "/proc/$(pod inspect -f '{{.State.Pid}}' kvpoold)/status"
}

is_not_root() {
    [ "$(status_field Uid)" = 65532 ]
}

has_no_capability() {
    [ "$(status_field CapEff)" = 0000000000000000 ]
}

root_is_read_only() {
    awk '$2 == "/" {print $4}' \
        "/proc/$(pod inspect -f '{{.State.Pid}}' kvpoold)/mounts" |
        grep -Eq '^ro(,|$)'
}

is_healthy() {
    pod healthcheck run kvpoold &&
        [ "$(pod inspect -f '{{.State.Health.Status}}' kvpoold)" = healthy ]
}

ping_can_fail() {
    ! pod exec kvpoold kvpoolctl --server 127.0.0.1:1 ping
}

# kvpoolctl in the container `client`, through the mapped port.
ctl() {
    pod exec client kvpoolctl --server "$gateway:$port" "$@"
}

subscribe_on_host() {
    deploy/examples/subscribe.py --server "127.0.0.1:$port" \
        --until-evicted $session --timeout 120 >"$work/on-host"
}

subscriber_got_it() {
    [ "$(pod wait subscriber)" = 0 ] && pod logs subscriber >"$work/in-container"
}

stops_cleanly() {
    pod stop -t 20 kvpoold &&
        [ "$(pod inspect -f '{{.State.ExitCode}}' kvpoold)" = 0 ]
}

# --- the proof ---------------------------------------------------------------

trap clean_up EXIT
exec 3>&2 2>>"$work/log" # what tools say is shown if something fails

echo "Building the base image, kvpool, and a subscriber (some minutes) ..."
make_base
build_image localhost/kvpool
echo "image   $(bah images --format '{{.Size}}' localhost/kvpool)," \
    "base $(bah images --format '{{.Size}}' localhost/debian:bookworm-slim)"
build_subscriber

pod network create --subnet "$subnet" "$name" >/dev/null
# Mapped on this host's loopback, and on the bridge for other containers. All
# start before there is traffic: podman rewrites the host's rules meanwhile.
pod run -d --name kvpoold "${hardened[@]}" \
    -p "127.0.0.1:$port:7440" -p "$gateway:$port:7440" localhost/kvpool \
    >/dev/null
pod run -d --name client --no-healthcheck "${hardened[@]}" \
    --entrypoint '["sleep", "600"]' localhost/kvpool >/dev/null
check "kvpoold gets ready" until_true 60 is_ready
check "its user is not root" is_not_root
check "it has no capability" has_no_capability
check "its root file system is read-only" root_is_read_only
check "the health check runs and passes" is_healthy
check "the health check's command can fail" ping_can_fail

pod run -d --name subscriber "${hardened[@]}" localhost/subscriber \
    --server "$gateway:$port" --until-evicted $session --timeout 120 >/dev/null
subscribe_on_host &
on_host=$!
check "a conversation through the mapped port" \
    ctl generate --session $session "What is a river?"
check "its eviction through the mapped port" ctl evict --session $session
check "the receipt reaches a Python subscriber on this host" wait $on_host
check "the receipt reaches one in a second container" subscriber_got_it
grep -h $session "$work/on-host" | tail -n 1
check "both received the same receipts" \
    cmp <(grep $session "$work/on-host") <(grep $session "$work/in-container")
check "SIGTERM ends it with exit code 0" stops_cleanly
du -sh "$work/store" >>"$work/log"
echo "$n_passed passed, 0 failed"
