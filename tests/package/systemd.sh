# The package under a real systemd, which runs in a container over the root of run.sh: started, upgraded under load, by a
# program that does not work as well, killed and stopped. To be sourced; `booted` has the checks, `halt` ends it.
container=
init=

# Boots the root, on the network of the host.
boot() {
    systemd-nspawn --quiet --register=no --keep-unit --boot --directory="$root" --machine=jiexi-package \
        --console=pipe </dev/null >"$work/boot.log" 2>&1 &
    container=$!
    for _ in $(seq 600); do
        init=$(pgrep --parent "$container" --oldest) && within systemctl is-active --quiet multi-user.target && return
        kill -0 "$container" || break
        sleep 0.1
    done
    tail -n 30 "$work/boot.log"
    return 1
}
halt() {
    [[ -n $container ]] || return 0
    # It tells the systemd within to stop everything.
    kill "$container"
    wait "$container" || true
    container=
}
# A command in the container, as root.
within() { nsenter --target "$init" --mount --uts --ipc --pid --root --wd "${clean[@]}" "$@"; }
property() { within systemctl show --value --property="$1" jiexi.service; }

# The same package with a program that does nothing, as FILE.
broken() {
    dpkg-deb --raw-extract "$work/jiexi.deb" "$work/broken"
    sed -i 's/^Version: .*/&+2/' "$work/broken/DEBIAN/control"
    cp "$root/bin/false" "$work/broken/usr/bin/jiexi"
    dpkg-deb --root-owner-group --build "$work/broken" "$1"
}

# The unit serves, by this process, and was started so often: ACTIVE PROCESS RESTARTS.
serves_as() {
    [[ $(property ActiveState) = active && $(property MainPID) = "$1" && $(property NRestarts) = "$2" ]] || {
        within systemctl status --no-pager jiexi.service
        return 1
    }
    within jiexi resolve 0.NA/88.118 --server "127.0.0.1:$port"
}

# upgraded FILE: installs it under load; the node passes to another process in the same unit, and nobody goes without an answer.
upgraded() {
    local before since
    before=$(property MainPID)
    since=$(property ActiveEnterTimestampMonotonic)
    "${clean[@]}" "$work/unpacked/usr/bin/jiexi" bench lookups --server "127.0.0.1:$port" --records 10 --miss 100 --rate 200 --warm-up 0s --time 10s \
        -o json >"$work/load.json" &
    local load=$!
    within dpkg --install "$1" || return 1
    main=$(property MainPID)
    wait "$load"
    cat "$work/load.json"
    [[ $main != "$before" && $(property ActiveEnterTimestampMonotonic) = "$since" ]] || return 1
    within test /usr/bin/jiexi -ef "/proc/$main/exe" || return 1
    serves_as "$main" 0 || return 1
    python3 -c 'import json, sys; found = json.load(sys.stdin); sys.exit(found["lost"] != 0 or found["answers"] < 1900)' \
        <"$work/load.json"
}

booted() {
    local main
    printf '[Service]\nEnvironment="%s"\n' "${ports[@]}" >"$work/ports.conf"
    install -D -m 644 "$work/ports.conf" "$root/etc/systemd/system/jiexi.service.d/ports.conf"
    # Where it runs /tmp is another one.
    cp "$root/tmp/"{jiexi,newer}.deb "$root/var/tmp/"
    check "systemd: it boots" boot
    check "systemd: installed" within dpkg --install /var/tmp/jiexi.deb
    check "systemd: set up" within runuser -u jiexi -- jiexi init --prefix 88.118 --address 127.0.0.1 --port "$port" \
        --data /var/lib/jiexi
    check "systemd: it is told when the node serves" within systemctl start jiexi.service
    main=$(property MainPID)
    check "systemd: it serves" serves_as "$main" 0
    check "systemd: and says so" grep -q serves <<<"$(property StatusText)"
    check "systemd: an upgrade is no restart" upgraded /var/tmp/newer.deb
    main=$(property MainPID)
    broken "$root/var/tmp/broken.deb" >/dev/null
    check "systemd: a program that fails" within dpkg --install /var/tmp/broken.deb
    check "systemd: leaves the node alone" test "$(property MainPID)" = "$main"
    check "systemd: the one before comes back, as another process" upgraded /var/tmp/newer.deb
    check "systemd: a process that took over is watched" killed
    check "systemd: it stops" within systemctl stop jiexi.service
    check "systemd: with success" test "$(property Result) $(property ActiveState)" = "success inactive"
    check "systemd: purged" within dpkg --purge jiexi
    halt
}

# The main process dies: the unit starts the node anew.
killed() {
    within kill -KILL "$(property MainPID)"
    for _ in $(seq 300); do
        [[ $(property NRestarts) = 1 && $(property ActiveState) = active ]] && break
        sleep 0.1
    done
    serves_as "$(property MainPID)" 1
}
