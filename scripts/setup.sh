#!/bin/sh
# setup.sh PYTHON VENV: the system packages that build and tests need, then the virtual environment.
#
# On Debian, as root, apt-get installs what is missing and nothing else. Where that cannot be done
# it says what follows and goes on: most machines have all of it, and liburing is optional.
set -eu
python=$1
venv=$2
apt_updated=

have_python() { "$python" -c '' 2>/dev/null; }
have_compiler() { command -v "${CC:-cc}" >/dev/null; }
have_venv() { "$python" -c 'import ensurepip' 2>/dev/null; }
have_headers() {
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null
}
have_pkg_config() { command -v pkg-config >/dev/null; }
have_xfs() { command -v mkfs.xfs >/dev/null; }
have_liburing() { pkg-config --exists liburing 2>/dev/null; }

apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    # An unreachable mirror must cost seconds, not minutes.
    apt="env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=0
        -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20"
    [ -n "$apt_updated" ] || $apt update >/dev/null 2>&1 || true
    apt_updated=yes
    # shellcheck disable=SC2086 # a list of packages
    $apt install -y --no-install-recommends $1 >/dev/null 2>&1 || true
}

# need TEST PACKAGES CONSEQUENCE
need() {
    "$1" && return
    apt_install "$2"
    "$1" || echo "${2%% *} is not here: $3"
}

need have_python python3 "set PYTHON to a Python 3.10 or later"
need have_compiler "gcc libc6-dev" "the C core cannot be built"
need have_venv python3-venv "no virtual environment can be made"
need have_headers python3-dev "the C core cannot be built"
if [ "${KVSTORE_URING:-auto}" != skip ] && [ "$(uname -s)" = Linux ]; then
    need have_pkg_config pkg-config "liburing cannot be found without it"
    need have_liburing liburing-dev "building the portable backend only"
fi
if [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ] && [ -e /dev/loop-control ]; then
    need have_xfs xfsprogs "the tests cut the power of no disk"
fi

# A virtual environment made for another interpreter, or left half made, is made anew.
identity() { "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null || true; }
if [ "$(identity "$venv/bin/python")" != "$(identity "$python")" ] ||
    ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    settings=$(cat "$venv/.settings")
    "$python" -m venv --clear "$venv"
    echo "$settings" >"$venv/.settings"
fi
