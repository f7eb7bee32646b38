#!/bin/bash
# A Ceph cluster of one monitor, manager, disk and S3 gateway, all in DIR and on loopback.
#   rgw.sh start DIR S3_PORT MONITOR_PORT     the first start makes it: some 15 s, 510 MB of memory
#   rgw.sh stop DIR
# Needs root and Debian's radosgw ceph-mon ceph-osd ceph-mgr ceph-common.
set -eu
verb=$1 dir=$2
export CEPH_CONF=$dir/ceph.conf

stop() {
    local pid pids
    pids=$(cat "$dir"/run/*.pid 2>/dev/null || true)
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep .1; done
        kill -9 "$pid" 2>/dev/null || true
    done
}

configure() {
    mkdir -p "$dir"/{mon,mgr,osd,run,log}
    fsid=$(cat /proc/sys/kernel/random/uuid)
    cat > "$CEPH_CONF" <<C
[global]
fsid = $fsid
mon host = v1:127.0.0.1:$monitor_port
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = $dir/\$name.keyring
run dir = $dir/run
admin socket = $dir/run/\$name.asok
pid file = $dir/run/\$name.pid
log file = $dir/log/\$name.log
crash dir = $dir/log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
[mon]
mon data = $dir/mon
[mgr]
mgr data = $dir/mgr
mgr initial modules =
[osd]
osd data = $dir/osd
osd objectstore = bluestore
bluestore block size = 4294967296
bluestore block create = true
osd memory target = 939524096
bluestore cache autotune = false
bluestore cache size = 67108864
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw thread pool size = 32
rgw crypt require ssl = false
rgw lc debug interval = -1
C
}

make() {
    configure
    cd "$dir"
    ceph-authtool -C mon.keyring --gen-key -n mon. --cap mon 'allow *'
    ceph-authtool -C client.admin.keyring --gen-key -n client.admin \
        --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    ceph-authtool mon.keyring --import-keyring client.admin.keyring
    monmaptool --create --addv a "[v1:127.0.0.1:$monitor_port]" --fsid "$fsid" monmap
    ceph-mon --mkfs -i a --monmap monmap --keyring mon.keyring
    cp mon.keyring mon/keyring
    ceph-mon -i a --public-addr 127.0.0.1:"$monitor_port"
    ceph auth get-or-create mgr.x mon 'allow profile mgr' osd 'allow *' > mgr.x.keyring
    ceph-mgr -i x
    local uuid key
    uuid=$(cat /proc/sys/kernel/random/uuid) key=$(ceph-authtool --gen-print-key)
    echo "{\"cephx_secret\":\"$key\"}" > sec.json
    ceph osd new "$uuid" -i sec.json
    ceph-authtool -C osd.0.keyring -n osd.0 --add-key "$key"
    ceph-osd -i 0 --mkfs --osd-uuid "$uuid"
    ceph-osd -i 0
    ceph auth get-or-create client.rgw mon 'allow rw' osd 'allow rwx' mgr 'allow rw' > client.rgw.keyring
    radosgw -n client.rgw -k "$dir/client.rgw.keyring"
    radosgw-admin user create --uid=drkit --display-name=drkit --access-key="$ACCESS_KEY" --secret-key="$SECRET_KEY"
}

again() {
    ceph-mon -i a --public-addr 127.0.0.1:"$monitor_port"
    ceph-mgr -i x
    ceph-osd -i 0
    radosgw -n client.rgw -k "$dir/client.rgw.keyring"
}

if [ "$verb" = stop ]; then stop; exit; fi
port=$3 monitor_port=$4
mkdir -p "$dir"
if [ -f "$CEPH_CONF" ]; then again; else make; fi >> "$dir/start.log" 2>&1
for _ in $(seq 120); do
    if curl -sf -o /dev/null "http://127.0.0.1:$port/"; then exit 0; fi
    sleep .5
done
echo "radosgw did not answer on port $port within 60 s" >&2
exit 1
