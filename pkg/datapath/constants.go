// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"maps"

	"golang.org/x/sys/unix"
)

// constants are the settings and what only the node can tell: which network
// namespace is its own.
func constants(settings map[string]any) (map[string]any, error) {
	cookie, err := netnsCookie()
	if err != nil {
		return nil, err
	}
	all := maps.Clone(settings)
	if all == nil {
		all = map[string]any{}
	}
	all["host_netns"] = cookie
	return all, nil
}

// netnsCookie returns what the socket hooks know the caller's network namespace
// by.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("read network namespace's cookie: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read network namespace's cookie: %w", err)
	}
	return cookie, nil
}
