// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// socket is a connected UDP socket of the test.
type socket struct {
	net.Conn
	name string
	to   string // the frontend, or a pod
	pod  string // who answers it
}

// connectTo connects sockets in a namespace until one reaches each of the pods.
func connectTo(t *testing.T, ns *netlab.Namespace, name, to string, pods ...string) []*socket {
	t.Helper()
	var all []*socket
	for range 60 {
		s := &socket{name: name, to: to}
		err := ns.Do(func() (err error) {
			s.Conn, err = net.Dial("udp", to)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if s.pod, err = s.ask(); err != nil {
			t.Fatalf("%s to %s: %v", name, to, err)
		}
		if slices.ContainsFunc(all, func(other *socket) bool { return other.pod == s.pod }) {
			s.Close()
			continue
		}
		t.Cleanup(func() { s.Close() })
		if all = append(all, s); len(all) == len(pods) {
			return all
		}
	}
	t.Fatalf("%s to %s: reached %d of %v", name, to, len(all), pods)
	return nil
}

func (s *socket) ask() (pod string, err error) {
	if _, err := s.Write([]byte("?")); err != nil {
		return "", err
	}
	if err := s.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	n, err := s.Read(buf)
	if err != nil {
		return "", err
	}
	pod, _, _ = strings.Cut(string(buf[:n]), " ")
	return pod, nil
}

// TestSocketsEnd has an endpoint stop serving one of two Services: the sockets that
// are connected to it for that Service end, of pods and of the node, and none else.
func TestSocketsEnd(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		n := l.nodes[0]
		attachSockets(t, n.d)
		client := n.pods[0]
		n.d.SetNamespaces(func() []string { return []string{client.ns.Path(), "/run/netns/no-such"} })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go n.ns.Do(func() error { return n.d.Run(ctx) }) //nolint:errcheck // ends with ctx
		for i, f := range families() {
			here, far := n.pods[1].addrs[i], l.nodes[1].pods[0].addrs[i]
			entry := func(port uint16, pods ...netip.Addr) service.Entry {
				e := l.entries(n, service.UDP, i, f)[0]
				e.Frontend.Port, e.Port.Port = port, string(rune('a'+port-80))
				e.Backends, e.Serving = nil, nil
				for _, p := range pods {
					at := netip.AddrPortFrom(p, 8080)
					e.Backends, e.Serving = append(e.Backends, service.Backend{Addr: at}), append(e.Serving, at)
				}
				return e
			}
			n.set(t, entry(80, here, far), entry(81, here, far))
			first, second := net.JoinHostPort(f.clusterIP, "80"), net.JoinHostPort(f.clusterIP, "81")
			both := []string{here.String(), far.String()}
			sockets := slices.Concat(
				connectTo(t, client.ns, "pod", first, both...), connectTo(t, client.ns, "pod", second, both...),
				connectTo(t, n.ns, "node", first, both...), connectTo(t, n.ns, "node", second, both...),
				connectTo(t, client.ns, "pod, directly", net.JoinHostPort(here.String(), "8080"), here.String()))

			chosenNoMore := entry(80, here, far)
			chosenNoMore.Backends = chosenNoMore.Backends[1:]
			n.set(t, chosenNoMore, entry(81, here, far)) // here serves on
			n.set(t, entry(80, far), entry(81, here, far))
			for _, s := range sockets {
				if s.to == first && s.pod == here.String() {
					netlab.WaitFor(t, 5*time.Second, "end of a socket of "+s.name, func() error {
						// Once reported, the socket is as if it had never been connected.
						pod, err := s.ask()
						if errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.EDESTADDRREQ) {
							return nil
						}
						return fmt.Errorf("answer of %q, %v", pod, err)
					})
				}
			}
			for _, s := range sockets {
				if s.to == first && s.pod == here.String() {
					continue
				}
				if pod, err := s.ask(); err != nil || pod != s.pod {
					t.Errorf("%s: socket of %s to %s, that %s answers: got %s, %v", f.name, s.name, s.to, s.pod, pod, err)
				}
			}
		}
	})
}
