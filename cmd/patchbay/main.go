// SPDX-License-Identifier: Apache-2.0

// Command patchbay is Patchbay's CNI plugins in one file; the name that it is
// called by picks one: patchbay, patchbay-vswitch or patchbay-ipam.
package main

import (
	"os"
	"path/filepath"
	"runtime"

	"github.com/patchbay-net/patchbay/plugins/ipam"
	"github.com/patchbay-net/patchbay/plugins/pod"
	"github.com/patchbay-net/patchbay/plugins/vswitch"
)

func init() { runtime.LockOSThread() } // namespaces belong to threads

func main() {
	switch filepath.Base(os.Args[0]) {
	case "patchbay-vswitch":
		vswitch.Main()
	case "patchbay-ipam":
		ipam.Main()
	default:
		pod.Main()
	}
}
