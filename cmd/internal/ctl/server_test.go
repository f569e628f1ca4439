// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/apiserver"
)

// TestRealServer asks a real API server what it knows of a node, from anywhere.
func TestRealServer(t *testing.T) {
	s := apiserver.Start(t)
	s.Apply(t, "/api/v1/nodes/node-a", "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\n")
	s.Apply(t, "/apis/patchbay.net/v1alpha1/nodenetworkstates/node-a", `apiVersion: patchbay.net/v1alpha1
kind: NodeNetworkState
metadata: {name: node-a}
`)
	s.Apply(t, "/apis/patchbay.net/v1alpha1/nodenetworkstates/node-a/status", `apiVersion: patchbay.net/v1alpha1
kind: NodeNetworkState
metadata: {name: node-a}
status:
  version: v9
  nics: [{name: eth7, role: external, carrier: true, addresses: [192.0.2.1/24]}]
  conditions: [{type: Ready, status: "True", reason: Ready, message: "", lastTransitionTime: "2026-11-21T12:00:00Z"}]
`)
	s.Apply(t, "/apis/patchbay.net/v1alpha1/ipallocations/192.0.2.10", `apiVersion: patchbay.net/v1alpha1
kind: IPAllocation
metadata: {name: 192.0.2.10}
spec: {address: 192.0.2.10, pool: external, state: Active, owners: [{namespace: default, name: web}]}
`)
	s.Apply(t, "/api/v1/namespaces/default/services/web", `apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.77, ports: [{port: 80}], selector: {app: web}}
`)
	for _, test := range []struct{ args, want string }{
		{"status --node node-a", "node-a (seen by Kubernetes)"},
		{"status", "all nodes"},
		{"nics", "node-a/eth7   external"},
		{"nics --node node-a", "eth7   external"},
		{"addresses", "192.0.2.10   external   default/web"},
		{"services default/web", "10.96.0.77:80/TCP"},
	} {
		got, stderr, code := call(t, append(strings.Fields(test.args), "--server="+s.Kubeconfig)...)
		if code != exitOK || !strings.Contains(got, test.want) {
			t.Errorf("%s: exit %d, want %q, got\n%s%s", test.args, code, test.want, got, stderr)
		}
	}
	began := time.Now()
	if _, stderr, code := call(t, "pods", "--server="+s.Kubeconfig); code != exitError || !strings.Contains(stderr, "only the node knows") || time.Since(began) > 10*time.Second {
		t.Errorf("pods: exit %d: %s", code, stderr)
	}
}
