// SPDX-License-Identifier: Apache-2.0

package leasing

import (
	"encoding/binary"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// runtime answers with these sandboxes.
func runtime(t *testing.T, ids ...string) string {
	t.Helper()
	var message []byte
	for _, id := range ids {
		message = append(message, 1<<3|2, byte(len(id)+2), 1<<3|2, byte(len(id)))
		message = append(message, id...)
	}
	socket := filepath.Join(t.TempDir(), "runtime.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
		w.Header().Set("Grpc-Status", "0")
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	return socket
}

// TestSandboxes ends the leases that the runtime has no sandbox for at two looks,
// and those of kubelet's pods only.
func TestSandboxes(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t, false)
		pool, err := ipam.NewPool("p", ipam.Subnet{Prefix: netip.MustParsePrefix("10.0.0.0/26")})
		if err != nil {
			t.Fatal(err)
		}
		for id, uid := range map[string]string{"known": "u1", "lost": "u2", "byhand": ""} {
			lease := store.Lease{Key: store.Key{ContainerID: id, IfName: "eth0"}, PodUID: uid}
			if _, err := l.Leases.Allocate(store.Request{Pools: []ipam.Pool{pool}, Rest: ipam.DefaultRest(), Lease: lease}); err != nil {
				t.Fatal(err)
			}
		}
		left := func() int {
			contents, err := l.Leases.List()
			if err != nil {
				t.Fatal(err)
			}
			return len(contents.Leases)
		}
		l.Runtimes = []string{runtime(t, "other")}
		for range 3 {
			if found, err := l.reconcileSandboxes(t.Context(), stale{{ContainerID: "lost", IfName: "eth0"}: 1}); err != nil || len(found) != 0 {
				t.Errorf("a runtime that knows none of the pods: %v, %v, want nothing said", found, err)
			}
		}
		l.Runtimes = []string{runtime(t, "known", "other")}
		first, err := l.reconcileSandboxes(t.Context(), nil)
		if err != nil || len(first) != 1 || left() != 3 {
			t.Fatalf("first look: %v, %v, %d leases left; want one stale and all left", first, err, left())
		}
		if _, err := l.reconcileSandboxes(t.Context(), first); err != nil || left() != 2 {
			t.Errorf("second look: %v, %d leases left, want two", err, left())
		}
	})
}
