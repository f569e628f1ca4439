// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/config"
)

func TestGossipKeyWithoutTheAPI(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	path := filepath.Join(t.TempDir(), "run", "gossip.key")
	cfg := config.Config{Source: "file:" + t.TempDir()}
	if err := gossipKey(t.Context(), cfg, log); err != nil {
		t.Errorf("no file is asked for: %v", err)
	}
	cfg.Gossip.KeyFile = path
	if err := gossipKey(t.Context(), cfg, log); err == nil {
		t.Error("no key to be had: want an error")
	}
	for _, key := range []string{"one", "two"} {
		if err := writeKey(path, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := gossipKey(t.Context(), cfg, log); err != nil {
		t.Errorf("the node has a key already: %v", err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "two" {
		t.Errorf("key %q, %v, want the last", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v, want it for root alone", info, err)
	}
}
