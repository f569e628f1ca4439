// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/kube"
)

// Where the cluster keeps the key of the agents' conversation.
const (
	gossipNamespace = "patchbay-system"
	gossipSecret    = "patchbay-gossip"
	gossipEntry     = "key"
)

// keyPatience is for how long the API is asked where this node has a key already.
const keyPatience = 10 * time.Second

// gossipKey puts the cluster's key into the file that the configuration names,
// and makes it where the cluster has none. While the API can't be reached the
// key of before stays: an agent that starts then must be heard.
func gossipKey(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	path := cfg.Gossip.KeyFile
	if path == "" {
		log.Info("gossip.keyFile is not set: the agents' conversation is not authenticated")
		return nil
	}
	_, err := os.Stat(path)
	had := err == nil
	if had {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, keyPatience)
		defer cancel()
	}
	key, err := clusterKey(ctx, cfg, log)
	if err != nil && had {
		log.Warn("the key that this node has stays", "err", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("gossip key: %w", err)
	}
	return writeKey(path, key)
}

func clusterKey(ctx context.Context, cfg config.Config, log *slog.Logger) ([]byte, error) {
	if dir, ok := cfg.SourceDir(); ok {
		return nil, fmt.Errorf("objects come from %s, not from Kubernetes: give all nodes the same file", dir)
	}
	client, err := kube.New(kube.Options{
		Kubeconfig: cfg.Kubeconfig, APIServers: cfg.APIServers, StateDir: cfg.Paths.State, Component: "patchbayd", Log: log,
	})
	if err != nil {
		return nil, err
	}
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	return client.SharedKey(ctx, gossipNamespace, gossipSecret, gossipEntry, []byte(hex.EncodeToString(raw)))
}

// writeKey replaces the file in one step; only root reads it.
func writeKey(path string, key []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("gossip key: %w", err)
	}
	temp := path + ".new"
	if err := errors.Join(removeFile(temp), os.WriteFile(temp, key, 0o600), os.Rename(temp, path)); err != nil {
		return fmt.Errorf("gossip key: %w", err)
	}
	return nil
}
