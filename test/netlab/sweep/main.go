// SPDX-License-Identifier: Apache-2.0

// Command sweep removes what tests and demos that were killed left behind.
package main

import (
	"fmt"
	"os"

	"github.com/patchbay-net/patchbay/test/netlab"
)

func main() {
	swept, err := netlab.Sweep()
	for _, path := range swept {
		fmt.Println("removed", path)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
