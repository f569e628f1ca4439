// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
  nics: [{name: eth7, role: external, carrier: true, mtu: 1500, addresses: [192.0.2.1/24]}]
  announcements: [{address: 192.0.2.10, interfaces: [eth7]}]
  blocks: [{cidr: 10.244.0.0/24, used: 4, free: 250}]
  switches: [{name: external, device: eth7, ready: true}]
  routes: [{name: cameras, state: Applied}]
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
	s.Apply(t, "/api/v1/namespaces/default/serviceaccounts/default", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default, namespace: default}\n")
	s.Apply(t, "/api/v1/namespaces/default/pods/web-1", `apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: default}
spec: {nodeName: node-a, containers: [{name: web, image: patchbay.test/web}]}
`)
	s.Apply(t, "/api/v1/namespaces/default/pods/web-1/status", `apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: default}
status: {podIPs: [{ip: 10.244.0.5}]}
`)
	s.Apply(t, "/apis/patchbay.net/v1alpha1/ippools/external", `apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: external}
spec: {use: LoadBalancer, cidrs: [192.0.2.0/28]}
`)
	s.Apply(t, "/apis/patchbay.net/v1alpha1/virtualswitches/external", `apiVersion: patchbay.net/v1alpha1
kind: VirtualSwitch
metadata: {name: external}
spec: {type: External, port: port3}
`)
	s.Apply(t, "/apis/patchbay.net/v1alpha1/noderoutes/cameras", `apiVersion: patchbay.net/v1alpha1
kind: NodeRoute
metadata: {name: cameras}
spec: {interface: eth7, destination: 192.168.20.0/24, nextHop: 192.0.2.9, metric: 100}
`)
	server := "--server=" + s.Kubeconfig
	for _, test := range serverTables() {
		got, stderr, code := call(t, append(strings.Fields(test.args), server)...)
		if diff := cmp.Diff(strings.TrimPrefix(test.want, "\n"), got); code != exitOK || diff != "" {
			t.Errorf("%s: exit %d %s (-want +got):\n%s", test.args, code, stderr, diff)
		}
	}
	for args, want := range map[string]string{
		"leases":              "only a node's agent can do that: kubectl -n patchbay-system exec daemonset/patchbayd -- patchbayctl ...",
		"drops --node node-a": "--field-selector spec.nodeName=node-a) -- patchbayctl ...; patchbay_drops_total", "events": "; kubectl get events -A", "trace a b:1": "only a node's agent",
		"addresses why 192.0.2.10": "only a node's agent", "nodes drain node-a": "any node's agent can drain another", "routes add eth7 10.9.0.0/16": "or apply a NodeRoute",
		"nics --node node-z": "node node-z: its agent has reported nothing",
	} {
		began := time.Now()
		if _, stderr, code := call(t, append(strings.Fields(args), server)...); code != exitError || !strings.Contains(stderr, want) || time.Since(began) > 15*time.Second {
			t.Errorf("%s: exit %d, want %q, got %s", args, code, want, stderr)
		}
	}
	got, stderr, code := call(t, "pools", "drain", "external", server)
	if code != exitError || got != "pool external gives no more addresses\n192.0.2.10 is still that of default/web\n" {
		t.Errorf("pools drain: exit %d: %s%s", code, got, stderr)
	}
	if got, _, _ = call(t, "pools", "-o", "json", server); !strings.Contains(got, `"disabled": true`) {
		t.Errorf("the drained pool: %s", got)
	}
	if got, stderr, code = call(t, "doctor", server); code != exitOK || !strings.Contains(got, "looked at agent, nics, mtu: 0 findings") {
		t.Errorf("doctor: exit %d: %s%s", code, got, stderr)
	}
}

// serverTables are what Kubernetes knows, as it is shown.
func serverTables() []struct{ args, want string } {
	return []struct{ args, want string }{
		{"nics", `
NAME          ROLE       CARRIER   ADDRESSES      MTU    REASON   PROBLEM
node-a/eth7   external   yes       192.0.2.1/24   1500   -        -
`},
		{"nics --node node-a", `
NAME   ROLE       CARRIER   ADDRESSES      MTU    REASON   PROBLEM
eth7   external   yes       192.0.2.1/24   1500   -        -
`},
		{"addresses", `
ADDRESS      POOL       SERVICES      ANNOUNCED-BY   HERE   NIC
192.0.2.10   external   default/web   node-a         yes    eth7
`},
		{"services default/web", `
NAMESPACE   NAME   KIND        FRONTEND            SCOPE     BACKENDS
default     web    ClusterIP   10.96.0.77:80/TCP   cluster   none: reject
`},
		{"pods -o wide", `
NAMESPACE   NAME    ADDRESSES    INTERFACE   IN-FORCE   MAC   CONTAINER   NODE     PROBLEM
default     web-1   10.244.0.5   -           -          -     -           node-a   -
`},
		{"pools", `
NAME       USE            TOTAL   USED   FREE   CONFLICTS   DISABLED   PROBLEM
external   LoadBalancer   0       0      0      0           no         -
`},
		{"ipam show -o wide", `
BLOCK           POOL                 STATE    USED   FREE   REVISION   NODE
10.244.0.0/24   node.spec.podCIDRs   Active   4      250    0          node-a
`},
		{"switches", `
NAME              TYPE       PORT    VLAN   BRIDGE   UPLINK   MTU   READY   REASON
node-a/external   External   port3   -      eth7     -        -     yes     -
`},
		{"nodes", `
NAME     AGENT      NODE      HEARD-ON   ADDRESSES   DRAINED   PROBLEM
node-a   reported   unknown   -          1           no        -
`},
		{"routes", `
INTERFACE     DESTINATION       NEXT-HOP    METRIC   STATE     FOR       REASON
node-a/eth7   192.168.20.0/24   192.0.2.9   100      Applied   cameras   -
`},
	}
}
