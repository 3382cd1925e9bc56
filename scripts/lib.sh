# Shared by the scripts beside it; sourced, not run.
# shellcheck shell=bash

# need_packages PACKAGE... : installs the Debian packages that are missing, or says exactly which ones are.
need_packages() {
    local missing=() package
    for package in "$@"; do
        if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            missing+=("$package")
        fi
    done
    if [ "${#missing[@]}" -eq 0 ]; then
        return 0
    fi
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        # Never asks for a password: a script that waits for one looks like one that hangs.
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            echo "these packages are missing: ${missing[*]}" >&2
            echo "install them as root: apt-get install ${missing[*]}" >&2
            return 1
        fi
        as_root=(sudo -n)
    fi
    if ! command -v apt-get >/dev/null; then
        echo "these Debian packages, or what they are called here, are missing: ${missing[*]}" >&2
        return 1
    fi
    echo "installing ${missing[*]}" >&2
    "${as_root[@]}" apt-get update -qq >&2 || return 1
    install_without_services "${missing[@]}"
}

# install_without_services PACKAGE... : what is needed here are the programs. Packages of servers would also start them,
# and have them started whenever the machine does. A subshell, so that what holds for the installation ends with it.
# Uses as_root.
install_without_services() (
    enabled_services() { find /etc/systemd/system -path '*.wants/*.service' -printf '%f\n' 2>/dev/null | sort -u; }
    policy=/usr/sbin/policy-rc.d
    # A machine that has a policy keeps it.
    if [ ! -e "$policy" ]; then
        trap '"${as_root[@]}" rm -f "$policy"' EXIT
        # 101: forbidden by policy. A restart of what does not run would start it too.
        printf '%s\n' '#!/bin/sh' '[ "$1" != --quiet ] || shift' 'systemctl --quiet is-active "$1" || exit 101' |
            "${as_root[@]}" tee "$policy" >/dev/null || exit 1
        "${as_root[@]}" chmod 755 "$policy" || exit 1
    fi
    before=$(enabled_services)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >&2 || exit 1
    mapfile -t new < <(comm -13 <(echo "$before") <(enabled_services))
    if [ "${#new[@]}" -gt 0 ] && command -v systemctl >/dev/null; then
        "${as_root[@]}" systemctl disable --quiet "${new[@]}" >&2
    fi
)

# need_rust : the toolchain, and a C compiler for the crates that need one.
need_rust() {
    if [ -f "$HOME/.cargo/env" ] && ! command -v cargo >/dev/null; then
        # shellcheck disable=SC1091
        . "$HOME/.cargo/env"
    fi
    if ! command -v cargo >/dev/null; then
        echo "cargo is missing: install Rust 1.95 or later, see https://rustup.rs" >&2
        return 1
    fi
    if ! command -v cc >/dev/null; then
        need_packages gcc libc6-dev
    fi
}

# owner_peak_kib PID: the most memory that an owner has had: its process, and the one that serves for it.
owner_peak_kib() {
    local pid peak sum=0
    for pid in "$1" $(cat "/proc/$1/task/$1/children"); do
        peak=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status")
        sum=$((sum + peak))
    done
    echo "$sum"
}
