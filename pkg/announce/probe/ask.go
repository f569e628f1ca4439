// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/pkg/announce/frame"
)

// What a takeover asks: two probes, and an answer to the second is waited for
// as long as between them.
const (
	askCount    = 2
	askInterval = 100 * time.Millisecond
)

// Ask asks on a NIC who has the addresses, as before taking them over: two
// probes 100 ms apart, 200 ms in all, less when all have answered. It returns
// the MACs of those that answered. Probes that others send meanwhile are no
// answers.
//
//	found, err := probe.Ask(ctx, link, addr)
//	mac, answered := found[addr]
func Ask(ctx context.Context, link int, addrs ...netip.Addr) (map[netip.Addr][6]byte, error) {
	return ask(ctx, openSocket, link, nil, addrs...)
}

// ask is Ask with the I/O given. Answers count only if they are wanted, unless
// that is nil.
func ask(ctx context.Context, open opener, link int, wanted func(mac [6]byte) bool, addrs ...netip.Addr) (map[netip.Addr][6]byte, error) {
	v4, v6 := map[netip.Addr][6]byte{}, map[netip.Addr][6]byte{}
	done := make(chan error, 1)
	go func() { done <- askFamily(ctx, open, link, wanted, ofFamily(addrs, false), v6) }()
	err := askFamily(ctx, open, link, wanted, ofFamily(addrs, true), v4)
	err = errors.Join(err, <-done)
	maps.Copy(v4, v6)
	return v4, err
}

// askFamily asks for addresses of one family, and enters who answered.
func askFamily(ctx context.Context, open opener, link int, wanted func([6]byte) bool, addrs []netip.Addr, found map[netip.Addr][6]byte) error {
	if len(addrs) == 0 {
		return nil
	}
	w, err := open(link, frame.Covering(addrs...))
	if err != nil {
		return err
	}
	defer w.Close()
	for range askCount {
		for _, addr := range addrs {
			if _, ok := found[addr]; ok {
				continue
			}
			if err := w.Send(frame.Probe(addr, w.MAC())); err != nil {
				return err
			}
		}
		err := listen(ctx, w, askInterval, func(s frame.Sighting) (done bool) {
			if !s.Probe && slices.Contains(addrs, s.Addr) && (wanted == nil || wanted(s.MAC)) {
				found[s.Addr] = s.MAC
			}
			return len(found) == len(addrs)
		})
		if err != nil || len(found) == len(addrs) {
			return err
		}
	}
	return nil
}

// listen tells hear all that is seen for some time, or until hear says that it
// is done.
func listen(ctx context.Context, w wire, d time.Duration, hear func(frame.Sighting) (done bool)) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case s, ok := <-w.Sightings():
			if !ok {
				return errClosed
			}
			if hear(s) {
				return nil
			}
		}
	}
}

var errClosed = errors.New("the NIC is gone")

func ofFamily(addrs []netip.Addr, is4 bool) []netip.Addr {
	var own []netip.Addr
	for _, addr := range addrs {
		if addr.Is4() == is4 {
			own = append(own, addr)
		}
	}
	return own
}
