// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"sync"
	"testing"
)

// Agents that start at once agree on one key, and it stays.
func TestSharedKey(t *testing.T) {
	server := newAPIServer(t)
	keys := make([]string, 8)
	var running sync.WaitGroup
	for i := range keys {
		c := server.client(t)
		running.Go(func() {
			key, err := c.SharedKey(t.Context(), "patchbay-system", "gossip", "key", fmt.Appendf(nil, "key of %d", i))
			if err != nil {
				t.Errorf("agent %d: %v", i, err)
			}
			keys[i] = string(key)
		})
	}
	running.Wait()
	for i, key := range keys {
		if key == "" || key != keys[0] {
			t.Errorf("agent %d has %q, want %q as agent 0", i, key, keys[0])
		}
	}
	if _, err := server.client(t).SharedKey(t.Context(), "patchbay-system", "gossip", "other", []byte("x")); err == nil {
		t.Error("a Secret without the entry: want an error")
	}
}
