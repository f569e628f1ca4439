// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/cmd/internal/agent/ways"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/reconcile"
	"github.com/patchbay-net/patchbay/pkg/reconcile/noderoutes"
	"github.com/patchbay-net/patchbay/pkg/reconcile/parts"
	"github.com/patchbay-net/patchbay/pkg/source"
)

// customRoutes is the path of the stored routes.
func customRoutes(cfg config.Config) string { return filepath.Join(cfg.Paths.State, "routes.db") }

// nodeRoutes are the node's custom routes.
func nodeRoutes(cfg config.Config, writer source.Writer) *noderoutes.Routes {
	return noderoutes.New(noderoutes.Options{
		Path: customRoutes(cfg), IsNode: true, Writer: writer,
		Cluster: slices.Concat(cfg.PodCIDRs, cfg.ServiceCIDRs), Folder: strings.HasPrefix(cfg.Source, "file:"),
	})
}

// network is what of the node's own network beside pods and Services is looked
// after: custom routes, what is told of NICs, the way to other nodes.
type network struct {
	routes *noderoutes.Routes
	nics   *nicView
	tests  *ways.Tester
}

func newNetwork(cfg config.Config, writer source.Writer, log *slog.Logger) *network {
	tests := ways.New(filepath.Join(cfg.Paths.Run, "offloads.json"), log)
	return &network{routes: nodeRoutes(cfg, writer), nics: &nicView{}, tests: tests}
}

// Parts are the reconciler's of it.
func (n *network) Parts() []parts.Part {
	return []parts.Part{n.routes.Part(), n.nics.Part(), n.tests.Part()}
}

// serve tells the reconciler what goes wrong, and others what they ask.
func (n *network) serve(h agentapi.Handler, r *reconcile.Reconciler, dp *datapath.Datapath) {
	n.tests.Problem = r.Problem
	n.routes.Wake = func() { r.Wake(noderoutes.PartName) }
	n.routes.Note = func(err error) { r.Problem("agent/custom routes", err) }
	n.routes.Serve(h)
	n.nics.Serve(h, r.NICs, dp)
}
