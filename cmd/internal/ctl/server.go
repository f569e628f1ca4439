// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/patchbay-net/patchbay/cmd/internal/ctl/remote"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/kube"
)

// usualKubeconfig stands for the file that kubectl would take.
const usualKubeconfig = "kubectl's"

// client is the agent of this node, or what stands in for it: Kubernetes, with
// --server, or where there is no agent's socket and a kubeconfig.
func (c *cli) client(ctx context.Context) (agentapi.Client, error) {
	client := agentapi.Client{Path: c.socket, Timeout: 5 * time.Second}
	file := c.server
	switch _, err := os.Stat(c.socket); {
	case file == usualKubeconfig:
		if file = kubeconfig(); file == "" {
			return client, errors.New("--server: there is neither $KUBECONFIG nor ~/.kube/config")
		}
	case file == "" && errors.Is(err, fs.ErrNotExist) && c.socket == agentapi.DefaultSocket:
		file = kubeconfig()
	}
	if file == "" {
		return client, nil
	}
	api, err := kube.New(kube.Options{Kubeconfig: file, Component: "patchbayctl", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return client, fmt.Errorf("--server: %w", err)
	}
	client.Timeout = 20 * time.Second // all objects are read at first
	client.Handler = remote.Handler(ctx, remote.Options{Source: api, Node: c.node, Name: file})
	return client, nil
}

// kubeconfig is the file that kubectl would take; empty: there is none.
func kubeconfig() string {
	if list := filepath.SplitList(os.Getenv("KUBECONFIG")); len(list) > 0 {
		return list[0]
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	file := filepath.Join(home, ".kube", "config")
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}
