#!/bin/sh
# Process 1 of a lab node: makes the node's private root over a hermetic lower one and goes on as node_init.py in it.
# Runs in network, mount, uts, ipc and pid namespaces of its own:
#   sh node_setup.sh NODE_FOLDER LOWER_ROOT NODE_NAME ADDRESS/LENGTH LINK [DISK_MIB]
set -eu
folder=$1 lower=$2 name=$3 address=$4 link=$5 disk=${6:-}

# The host now puts this process into the node's cgroup and moves the link into its network.
echo ready
read -r _

hostname "$name"
ip link set "$link" name eth0
ip address add "$address" dev eth0
ip link set eth0 up
ip link set lo up

mount -t tmpfs -o mode=755,size=1g tmpfs "$folder/up"
mkdir "$folder/up/upper" "$folder/up/work" "$folder/up/root"
root=$folder/up/root
mount -t overlay -o "lowerdir=$lower,upperdir=$folder/up/upper,workdir=$folder/up/work" overlay "$root"

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in null zero full random urandom tty fuse; do
    [ -e "/dev/$device" ] || continue
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mount -t tmpfs -o mode=1777,size=4g tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755,size=64m tmpfs "$root/run"
mount -t tmpfs -o mode=1777,size=1g tmpfs "$root/tmp"
mkdir -p "$root/var/lib/docker" "$root/srv"
mount --bind "$folder/docker" "$root/var/lib/docker"
if [ -n "$disk" ]; then
    # A disk of the node's own, in memory: it can be full while all others are not.
    mount -t tmpfs -o "mode=755,size=${disk}m" nx8-disk "$root/srv"
    mkdir -p "$root/srv/nx8/data"
else
    mount --bind "$folder/srv" "$root/srv"
fi

# Keys, daemon settings, stand-ins: all that the host prepared for this node.
cp -a "$folder/files/." "$root/"

mkdir -p "$root/.old"
cd "$root"
pivot_root . .old
cd /
umount -l /.old
rmdir /.old
exec /usr/bin/python3 -I /usr/local/lib/nx8/node_init.py
