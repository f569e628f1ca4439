// SPDX-License-Identifier: Apache-2.0

// Command client links the Kubernetes client and does nothing with it: the least
// that an agent built on it weighs.
package main

import (
	"fmt"
	"os"
	"os/signal"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func main() {
	clients, err := kubernetes.NewForConfig(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	factory := informers.NewSharedInformerFactory(clients, 0)
	_ = factory.Core().V1().Services().Informer()
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt)
	<-end
}
