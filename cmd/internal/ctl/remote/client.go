// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/kube"
)

// Usual stands for the file that kubectl would take.
const Usual = "kubectl's"

// Client is the agent of this node, or what stands in for it: Kubernetes, with
// --server, or where there is no agent's socket and a kubeconfig.
func Client(ctx context.Context, socket, server, node string) (agentapi.Client, error) {
	client := agentapi.Client{Path: socket, Timeout: 5 * time.Second}
	file := server
	switch _, err := os.Stat(socket); {
	case file == Usual:
		if file = kubeconfig(); file == "" {
			return client, errors.New("--server: there is neither $KUBECONFIG nor ~/.kube/config")
		}
	case file == "" && errors.Is(err, fs.ErrNotExist) && socket == agentapi.DefaultSocket:
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
	client.Handler = Handler(ctx, Options{Source: api, Writer: api, Node: node, Name: file})
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
