// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumpAttempts bounds how often an interrupted dump is taken again.
const dumpAttempts = 10

// Dump takes a netlink dump again while the kernel says that the objects
// changed under it. A dump that stays incomplete is an error, so that nothing
// is ever removed for not being in it.
func Dump[T any](list func() ([]T, error)) (items []T, err error) {
	for range dumpAttempts {
		items, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return items, err
		}
	}
	return nil, err
}
