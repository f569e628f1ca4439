// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"slices"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/reconcile/leasing"
	"github.com/patchbay-net/patchbay/pkg/reconcile/leasing/sandboxes"
)

// podLeasing is what decides on pods' addresses. Only the API has an object for
// every pod: in a folder pods are there to say something in particular.
func podLeasing(cfg config.Config, leases *store.Store, log *slog.Logger) *leasing.Table {
	_, folder := cfg.SourceDir()
	return leasing.New(leasing.Options{
		Node: cfg.NodeName, Leases: leases, Gate: cfg.Paths.Gate(), CNIConf: cfg.Paths.CNIConf, Await: !folder, Log: log,
		Runtimes: sandboxes.Sockets(), Ranges: slices.Concat(cfg.PodCIDRs, cfg.ServiceCIDRs),
	})
}
