#!/usr/bin/env bash
# The Debian package as an administrator meets it, in a clean root of Debian: installed, set up, started, upgraded, removed
# and purged; no systemd runs there, and the maintainer scripts must not mind. Then once more with one that does. The last
# line is "package: N passed, M failed".
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
root=$work/root
pid=
mounted=
cleanup() {
    [[ -z $pid ]] || kill "$pid" 2>/dev/null || true
    halt
    [[ -z $mounted ]] || umount "$root/proc" || true
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT

passed=0
failed=0
check() {
    local name=$1
    shift
    if "$@" >"$work/output" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $name"
    else
        failed=$((failed + 1))
        echo "FAILED  $name"
        tail -n 30 "$work/output"
    fi
}
clean=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive)
inside() { chroot "$root" "${clean[@]}" "$@"; }
as_jiexi() { inside runuser -u jiexi -- env "${ports[@]}" "$@"; }
. tests/support/ports.sh
. tests/package/systemd.sh
not() { ! "$@"; }

# newer FILE: the same package with a higher version.
newer() {
    dpkg-deb --raw-extract "$work/jiexi.deb" "$work/unpacked"
    sed -i 's/^Version: .*/&+1/' "$work/unpacked/DEBIAN/control"
    dpkg-deb --root-owner-group --build "$work/unpacked" "$1"
}

start() {
    # Without a program between that would keep the signal for itself.
    chroot --userspec=jiexi:jiexi "$root" "${clean[@]}" "${ports[@]}" jiexi serve >"$work/node.log" 2>&1 &
    pid=$!
    for _ in $(seq 600); do
        as_jiexi jiexi status >/dev/null 2>&1 && return
        kill -0 "$pid" || { cat "$work/node.log"; return 1; }
        sleep 0.1
    done
    cat "$work/node.log"
    return 1
}
stop() {
    kill "$pid"
    wait "$pid"
    pid=
}

tests/package/build.sh "$work/jiexi.deb"
debootstrap --variant=minbase --include=adduser,procps,dbus,systemd,systemd-sysv bookworm "$root" >"$work/debootstrap.log" 2>&1 \
    || { tail "$work/debootstrap.log"; exit 1; }
mount -t proc proc "$root/proc"
mounted=yes
cp "$work/jiexi.deb" "$root/tmp/"
port=$(free_port)
ports=(JIEXI_HANDLE_PORT="$port" JIEXI_HANDLE_LISTEN=127.0.0.1 JIEXI_HTTP_LISTEN=127.0.0.1 JIEXI_HTTP_PORT="$(free_port)"
    JIEXI_OPERATIONS_LISTEN="127.0.0.1:$(free_port)" JIEXI_STORE_DISK_FREE_MIN=64MiB JIEXI_STORE_DISK_FREE_PERCENT=0)

begun=$(date +%s%N)
check "installed without systemd" inside dpkg --install /tmp/jiexi.deb
check "the node is set up" as_jiexi jiexi init --prefix 88.118 --address 127.0.0.1 --port "$port" --data /var/lib/jiexi
check "it starts" start
check "it answers" as_jiexi jiexi resolve 0.NA/88.118 --server "127.0.0.1:$port"
echo "from installation to the first answer: $((($(date +%s%N) - begun) / 1000000)) ms"
check "others do not read its directory" inside sh -c '[ "$(stat -c "%U %a" /var/lib/jiexi)" = "jiexi 750" ]'
check "completions are bash's" inside bash -n /usr/share/bash-completion/completions/jiexi
check "there are man pages" test -s "$root/usr/share/man/man1/jiexi-serve.1.gz"
check "and the unit" grep -q ExecStart "$root/lib/systemd/system/jiexi.service"
check "a record" as_jiexi jiexi handle create 88.118/kept --value 1:URL=https://example.cn
check "it stops when told" stop
newer "$root/tmp/newer.deb" >/dev/null
check "upgraded" inside dpkg --install /tmp/newer.deb
check "it starts again" start
check "the record is there" as_jiexi jiexi resolve 88.118/kept --server "127.0.0.1:$port"
check "it stops again" stop
check "removed" inside dpkg --remove jiexi
check "the program is gone" not test -e "$root/usr/bin/jiexi"
check "the data are not" test -e "$root/var/lib/jiexi/node.key"
check "purged" inside dpkg --purge jiexi
check "the data are still not" test -e "$root/var/lib/jiexi/node.key"
rm -r "$root/var/lib/jiexi"
check "installed once more" inside dpkg --install /tmp/newer.deb
check "purged without a node" inside dpkg --purge jiexi
check "nothing is left" test -z "$(find "$root" -xdev -name '*jiexi*' -not -path "$root/tmp/*" -not -path "$root/proc/*" \
    -not -path "$root/var/log/*")"
check "nor the user" not grep -q jiexi "$root/etc/passwd"
umount "$root/proc"
mounted=
booted

echo "package: $passed passed, $failed failed"
[[ $failed -eq 0 ]]
