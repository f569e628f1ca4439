// SPDX-License-Identifier: Apache-2.0

// Command patchbayd is the node agent, the controller and the command line in
// one binary; the name that it is called by picks.
package main

import (
	"os"
	"path/filepath"

	"github.com/patchbay-net/patchbay/cmd/internal/agent"
)

func main() {
	switch args := os.Args[1:]; filepath.Base(os.Args[0]) {
	default:
		os.Exit(agent.Main(args))
	}
}
