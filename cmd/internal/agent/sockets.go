// SPDX-License-Identifier: Apache-2.0

package agent

import "github.com/patchbay-net/patchbay/pkg/reconcile"

// podNamespaces lists the network namespaces of the node's pods.
func podNamespaces(r *reconcile.Reconciler) func() []string {
	return func() []string {
		var paths []string
		for _, pod := range r.Pods() {
			if pod.Netns != "" {
				paths = append(paths, pod.Netns)
			}
		}
		return paths
	}
}
