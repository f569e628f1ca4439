// SPDX-License-Identifier: Apache-2.0

// Command patchbayd is the node agent, the controller and the command line in
// one binary; the name that it is called by picks.
package main

import (
	"os"
	"path/filepath"

	"github.com/patchbay-net/patchbay/cmd/internal/agent"
	"github.com/patchbay-net/patchbay/cmd/internal/controller"
	"github.com/patchbay-net/patchbay/cmd/internal/ctl"
)

func main() {
	args := os.Args[1:]
	switch filepath.Base(os.Args[0]) {
	case "patchbay-controller":
		os.Exit(controller.Main(args))
	case "patchbayctl", "kubectl-patchbay":
		os.Exit(ctl.Main(args))
	default:
		os.Exit(agent.Main(args))
	}
}
