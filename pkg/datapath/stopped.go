// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"sync"

	"github.com/patchbay-net/patchbay/pkg/datapath/sockets"
)

// stopped is what to look through sockets for: UDP frontends of which an endpoint
// stopped serving, and what serves each now.
type stopped struct {
	mu      sync.Mutex
	serving map[netip.AddrPort]map[netip.AddrPort]bool
	signal  chan struct{}
}

func newStopped() *stopped { return &stopped{signal: make(chan struct{}, 1)} }

func (s *stopped) add(serving map[netip.AddrPort]map[netip.AddrPort]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serving == nil {
		s.serving = map[netip.AddrPort]map[netip.AddrPort]bool{}
	}
	maps.Copy(s.serving, serving)
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

func (s *stopped) take() map[netip.AddrPort]map[netip.AddrPort]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	serving := s.serving
	s.serving = nil
	return serving
}

// SetNamespaces tells where the pods' network namespaces are, asked whenever a UDP
// endpoint stops serving: sockets connected to it, there and in the node's own, are
// ended, so that their owners connect again. Call it before Run.
func (d *Datapath) SetNamespaces(paths func() []string) { d.namespaces = paths }

// endSockets ends what is connected to an endpoint that stopped.
func (d *Datapath) endSockets() {
	serving := d.stopped.take()
	doomed := func(frontend, backend netip.AddrPort) bool {
		now, ok := serving[frontend]
		return ok && !now[backend]
	}
	cookies, err := sockets.Find(d.set.Maps["sock_peers"], doomed)
	if err != nil {
		d.log.Error("end UDP sockets", "err", err)
		return
	}
	if len(cookies) == 0 {
		return
	}
	paths := []string{""}
	if d.namespaces != nil {
		paths = append(paths, d.namespaces()...)
	}
	ended := 0
	for _, path := range paths {
		n, err := endSockets(path, cookies)
		ended += n
		switch {
		case errors.Is(err, sockets.ErrNotSupported):
			d.log.Warn("UDP sockets connected to endpoints that stopped stay", "err", err)
			return
		case err != nil && !errors.Is(err, fs.ErrNotExist): // else the pod is gone
			d.log.Error("end UDP sockets", "netns", path, "err", err)
		}
	}
	if ended > 0 {
		d.log.Info("ended UDP sockets connected to endpoints that stopped", "sockets", ended)
	}
}

func endSockets(path string, cookies map[uint64]bool) (int, error) {
	ns, err := sockets.Open(path)
	if err != nil {
		return 0, err
	}
	n, err := ns.Destroy(cookies)
	return n, errors.Join(err, ns.Close())
}
