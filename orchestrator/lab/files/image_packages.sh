#!/bin/sh
# Puts the trainer's packages into a root that becomes the lab's base image, with pip inside that root.
# Runs in a mount namespace of its own:  sh image_packages.sh ROOT CONSTRAINTS LOCAL_FOLDERS PACKAGE…
# LOCAL_FOLDERS are the folders pip's settings name on this machine, joined by ':'; PIP_* come from the environment.
set -eu
root=$1 constraints=$2 folders=$3
shift 3

mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/hosts "$root/etc/hosts"
cp "$constraints" "$root/tmp/constraints.txt"
# A site's own certificate authority holds inside as well.
if [ -r /etc/ssl/certs/ca-certificates.crt ]; then
    mkdir -p "$root/etc/ssl/certs"
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi
IFS=:
made=
for folder in $folders; do
    [ -d "$root$folder" ] || made="$folder $made"
    mkdir -p "$root$folder"
    mount --bind -o ro "$folder" "$root$folder"
done
unset IFS
mkdir -p "$root/tmp/pip"
mount -t tmpfs -o size=8g tmpfs "$root/tmp/pip"
export TMPDIR=/tmp/pip HOME=/tmp/pip PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DS_BUILD_OPS=0
for package in "$@"; do
    chroot "$root" /usr/bin/python3 -m pip install --break-system-packages --no-cache-dir --root-user-action=ignore \
        --no-warn-script-location --progress-bar off --retries 2 --timeout 30 \
        --constraint /tmp/constraints.txt "$package"
done
chroot "$root" /usr/bin/python3 -c 'import torch, numpy, deepspeed; print("torch", torch.__version__, "deepspeed", deepspeed.__version__, "numpy", numpy.__version__)'

umount "$root/tmp/pip"
IFS=:
for folder in $folders; do umount "$root$folder"; done
unset IFS
for folder in $made; do
    while [ "$folder" != / ] && rmdir "$root$folder" 2>/dev/null; do folder=$(dirname "$folder"); done
done
rm -rf "$root/tmp/pip" "$root/tmp/constraints.txt" "$root/etc/resolv.conf" "$root/etc/hosts" "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
# What udev's rules call these groups everywhere: docker's --group-add resolves names in the image.
for group in render; do chroot "$root" /usr/sbin/groupadd --force --system "$group"; done
printf '[global]\nbreak-system-packages = true\nroot-user-action = ignore\n' >"$root/etc/pip.conf"
