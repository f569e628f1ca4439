// SPDX-License-Identifier: Apache-2.0

// Command pause holds a pod's namespaces until it is told to end.
package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGINT, unix.SIGTERM)
	<-end
}
