// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/reconcile/noderoutes"
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
