#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that the tests and the demo need, where they are missing.
set -eu

# command (or file) package
needs='
ip iproute2
nft nftables
unshare util-linux
ping iputils-ping
redis-server redis-server
tcpdump tcpdump
runc runc
bpftool bpftool
strace strace
qemu-system-x86_64 qemu-system-x86
depmod kmod
clang-19 clang-19
llvm-strip-19 llvm-19
/usr/include/linux/bpf.h linux-libc-dev
busybox busybox-static
nc.openbsd netcat-openbsd
socat socat
curl curl
wget wget
dig bind9-dnsutils
hostname hostname
conntrack conntrack
iperf iperf
'

missing=
while read -r command package; do
	[ -z "$command" ] || [ -e "$command" ] || command -v "$command" >/dev/null || missing="$missing $package"
done <<EOF
$needs
EOF
[ -n "$missing" ] || exit 0

echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
# Installed for its binary alone: no service is started.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT INT TERM
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod +x $policy
fi
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
