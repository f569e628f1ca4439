// SPDX-License-Identifier: Apache-2.0

// Command patchbay is Patchbay's CNI plugins in one file; the name that it is
// called by picks one: patchbay, patchbay-vswitch or patchbay-ipam.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/patchbay-net/patchbay/plugins/ipam"
	"github.com/patchbay-net/patchbay/plugins/pod"
	"github.com/patchbay-net/patchbay/plugins/vswitch"
)

func init() {
	runtime.LockOSThread() // namespaces belong to threads
}

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "patchbay":
		pod.Main()
	case "patchbay-vswitch":
		vswitch.Main()
	case "patchbay-ipam":
		ipam.Main()
	default:
		fmt.Fprintf(os.Stderr, "%s: call me patchbay, patchbay-vswitch or patchbay-ipam\n", name)
		os.Exit(1)
	}
}
