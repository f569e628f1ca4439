// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/kube"
	"github.com/patchbay-net/patchbay/pkg/reconcile"
	"github.com/patchbay-net/patchbay/pkg/reconcile/pools"
	"github.com/patchbay-net/patchbay/pkg/reconcile/remarks"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/file"
)

// openSource opens where objects come from and where ours go.
func openSource(cfg config.Config, log *slog.Logger) (source.Source, source.Writer, error) {
	dir, ok := cfg.SourceDir()
	if !ok {
		client, err := kube.New(kube.Options{
			Kubeconfig: cfg.Kubeconfig, APIServers: cfg.APIServers, StateDir: cfg.Paths.State,
			PodsOfNode: cfg.NodeName, Component: "patchbayd", Log: log,
		})
		return client, client, err
	}
	opts := file.Options{Dir: dir, StatusDir: cfg.Paths.Status, Log: log}
	src, err := file.New(opts)
	if err != nil {
		return nil, nil, err
	}
	writer, err := file.NewWriter(opts)
	if err != nil {
		return nil, nil, err
	}
	return src, writer, nil
}

// poolsOf are the pools, which whoever is asked may drain; where they are files,
// only by hand.
func poolsOf(cfg config.Config, writer source.Writer) *pools.Pools {
	p := &pools.Pools{Writer: writer}
	if dir, folder := cfg.SourceDir(); folder {
		p.Folder = dir
	}
	return p
}

// owners of objects learn from events what the agent refuses of them, where
// there are events: not in a folder.
type owners struct {
	remarks.Remarks
	recorder *kube.Recorder
}

func newOwners(cfg config.Config, writer source.Writer) *owners {
	o := &owners{}
	if client, ok := writer.(*kube.Client); ok {
		o.recorder = client.Recorder(cfg.NodeName)
		o.Teller = o.recorder
	}
	return o
}

func (o *owners) attach(r *reconcile.Reconciler) {
	o.Problems = func() []agentapi.Problem {
		info, _ := r.Info() // its problems are complete, whatever else it lacks
		return info.Problems
	}
	o.Wake = func() { r.Wake(remarks.PartName) }
}

func (o *owners) run(ctx context.Context) error {
	if o.recorder == nil {
		<-ctx.Done()
		return nil
	}
	return o.recorder.Run(ctx)
}

// cgroupMount finds the mount point of cgroup2 in a mountinfo: the usual place
// of a pure or a hybrid machine before any other.
func cgroupMount(mountinfo string) string {
	var found []string
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		if fields := strings.Fields(before); ok && len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			found = append(found, fields[4])
		}
	}
	for _, usual := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		for _, path := range found {
			if path == usual {
				return path
			}
		}
	}
	if len(found) > 0 {
		return found[0]
	}
	return ""
}
