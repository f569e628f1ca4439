// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"testing"

	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/sourcetest"
)

// backend is the API server in memory.
type backend struct {
	server *apiServer
	client *Client
}

func newBackend(t testing.TB) *backend {
	t.Helper()
	s := newAPIServer(t)
	return &backend{s, s.client(t)}
}

func (b *backend) Source() source.Source               { return b.client }
func (b *backend) Writer() source.Writer               { return b.client }
func (b *backend) Put(t testing.TB, obj source.Object) { b.server.put(t, obj) }
func (b *backend) Break(t testing.TB, name string)     { b.server.breakPool(t, name) }
func (b *backend) Remove(t testing.TB, kind source.Kind, key source.Key) {
	b.server.remove(t, kind, key)
}

// breakPool makes a pool invalid, as one is that an older CRD let through.
func (s *apiServer) breakPool(t testing.TB, name string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	target := pathOf(t, source.KindIPPool, source.Key{Name: name})
	obj := deepCopy(s.objects[target.path])
	obj["spec"].(map[string]any)["use"] = "Nobody"
	s.commit(target, obj)
}

func TestContract(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Backend { return newBackend(t) })
}
