#!/usr/bin/env bash
# The one list of the Debian 12 packages that kvpool needs, by purpose, and the
# one place that installs them.
#
#   deploy/packages.sh build python      installs what is missing for these
#   deploy/packages.sh --list run        prints names only
#
# Silent when nothing is missing. Installing takes root, or sudo that asks
# nothing; without either it says what is missing and exits 1. Where apt-get
# already has its lists, they are fetched again only if they turn out too old.
set -euo pipefail

# An entry `package/command` is also satisfied by that command, wherever it came
# from: many machines have their Node.js from elsewhere than Debian.
packages_for() {
    case $1 in
    run) echo ca-certificates libcurl4 libgrpc29 libjansson4 libmicrohttpd12 \
        libnats3.4 libpcre2-8-0 libprotobuf-c1 libsodium23 libuv1 libyaml-0-2 \
        libzstd1 zlib1g ;;
    build) echo ca-certificates gcc libc6-dev cmake ninja-build pkg-config \
        ccache check grpc-proto libcurl4-openssl-dev libgrpc-dev \
        libjansson-dev libmicrohttpd-dev libnats-dev libpcre2-dev \
        libprotobuf-c-dev libprotobuf-dev libsimde-dev libsodium-dev \
        libuv1-dev libyaml-dev libzstd-dev protobuf-c-compiler \
        protobuf-compiler zlib1g-dev ;;
    peers) echo nats-server openssl prometheus ;;
    node) echo nodejs/node npm/npm ;;
    python) echo python3 python3-cryptography python3-grpcio python3-grpc-tools \
        python3-pkg-resources python3-protobuf ;;
    lint) echo clang-14 clang-format-14 clang-tidy-14 cppcheck git lld python3 \
        shellcheck ;;
    bench) echo g++ libgrpc++-dev libhiredis-dev libnats-dev \
        libsqlite3-dev nats-server python3 redis-server ;;
    neon) echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user ;;
    fuzz) echo clang-14 libclang-rt-14-dev ;;
    container) echo aardvark-dns buildah ca-certificates iptables mmdebstrap \
        netavark podman runc ;;
    *)
        echo "packages.sh: unknown purpose '$1'; one of:" \
            "run build peers node python lint bench neon fuzz container" >&2
        return 64
        ;;
    esac
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Only where apt-get may run: as root, or through a sudo that asks nothing.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}

only_list=no
if [ "${1:-}" = --list ]; then
    only_list=yes
    shift
fi
if [ $# = 0 ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 64
fi

wanted=
for purpose in "$@"; do
    wanted+=" $(packages_for "$purpose")" || exit
done
read -ra wanted <<<"$wanted"
if [ $only_list = yes ]; then
    printf '%s\n' "${wanted[@]%%/*}" | sort -u
    exit
fi

missing=()
for entry in "${wanted[@]}"; do
    case $entry in
    */*) command -v "${entry#*/}" >/dev/null && continue ;;
    esac
    is_installed "${entry%%/*}" || missing+=("${entry%%/*}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "packages.sh: needs Debian 12's apt-get; missing: ${missing[*]}" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
    echo "packages.sh: run as root (or allow sudo) to install what is missing:" \
        "apt-get install ${missing[*]}" >&2
    exit 1
fi

echo "Installing ${#missing[@]} packages for: $*" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
have_lists=$(find /var/lib/apt/lists -name '*_Packages*' -print -quit 2>/dev/null)
if { [ -n "$have_lists" ] && install "${missing[@]}" >"$log" 2>&1; } ||
    { as_root apt-get update -qq >"$log" 2>&1 &&
        install "${missing[@]}" >>"$log" 2>&1; }; then
    exit 0
fi
tail -n 20 "$log" >&2
echo "packages.sh: could not install: ${missing[*]}" >&2
exit 1
