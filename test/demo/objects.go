// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// namespace is where the application lives.
const namespace = "shop"

// The Services' addresses.
const (
	databaseIP = "10.96.0.20"
	webIP      = "10.96.0.30"
)

const switchesYAML = `
apiVersion: patchbay.net/v1alpha1
kind: VirtualSwitch
metadata: {name: internal}
spec: {type: Internal, addresses: [` + internalGateway + `]}
---
apiVersion: patchbay.net/v1alpha1
kind: VirtualSwitch
metadata: {name: external}
spec: {type: External, port: port3}
`

const poolsYAML = `
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: nodes-internal}
spec: {use: Node, cidrs: [172.31.0.0/24], ranges: [{first: 172.31.0.10, last: 172.31.0.19}], gateway: 172.31.0.1}
---
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: nodes-external}
spec: {use: Node, cidrs: [192.168.50.0/24], ranges: [{first: 192.168.50.10, last: 192.168.50.19}]}
---
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: services}
spec: {use: LoadBalancer, ranges: [{first: 192.168.50.200, last: 192.168.50.220}]}
`

const servicesYAML = `
apiVersion: v1
kind: Namespace
metadata: {name: ` + namespace + `}
---
apiVersion: v1
kind: Service
metadata: {name: database, namespace: ` + namespace + `}
spec:
  type: ClusterIP
  clusterIP: ` + databaseIP + `
  clusterIPs: [` + databaseIP + `]
  ipFamilies: [IPv4]
  ports: [{name: redis, port: 6379, targetPort: 6379, protocol: TCP}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: ` + namespace + `}
spec:
  type: LoadBalancer
  loadBalancerClass: patchbay.net/lb
  clusterIP: ` + webIP + `
  clusterIPs: [` + webIP + `]
  ipFamilies: [IPv4]
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080, protocol: TCP}]
`

// configYAML is the configuration of a machine's patchbayd; nics is added to it.
func configYAML(name, nics string) string {
	return fmt.Sprintf(`
nodeName: %s
source: file:%s
podCIDRs: [10.244.0.0/16]
serviceCIDRs: [10.96.0.0/16]
paths: {status: %s}
%s`, name, objectsDir, statusDir, nics)
}

// nodeYAML is a node as Kubernetes would show it.
func nodeYAML(name, podCIDR string, internal netip.Addr) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Node
metadata: {name: %s, labels: {kubernetes.io/hostname: %s}}
spec: {podCIDR: %s, podCIDRs: [%s]}
status:
  addresses: [{type: InternalIP, address: %s}, {type: Hostname, address: %s}]
  conditions: [{type: Ready, status: "True"}]
`, name, name, podCIDR, podCIDR, internal, name)
}

// sliceYAML is the EndpointSlice of a Service with the pods that are ready.
func sliceYAML(service, portName string, port int, pods []*pod) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s-1, namespace: %s, labels: {kubernetes.io/service-name: %s}}
addressType: IPv4
ports: [{name: %s, port: %d, protocol: TCP}]
endpoints:
`, service, namespace, service, portName, port)
	if len(pods) == 0 {
		return strings.Replace(b.String(), "endpoints:\n", "endpoints: []\n", 1)
	}
	for _, p := range pods {
		fmt.Fprintf(&b, `- addresses: [%s]
  nodeName: %s
  conditions: {ready: true, serving: true, terminating: false}
  targetRef: {kind: Pod, name: %s, namespace: %s}
`, p.addr, p.node.Name, p.name, namespace)
	}
	return b.String()
}

// publish writes the EndpointSlice of a Service, sorted by pod.
func publish(s *stage, service, portName string, port int, pods []*pod) {
	pods = slices.SortedFunc(slices.Values(pods), func(a, b *pod) int { return strings.Compare(a.name, b.name) })
	s.write(filepath.Join(objectsDir, "endpoints-"+service+".yaml"), sliceYAML(service, portName, port, pods))
}

// loadBalancerIP returns the address that the controller gave the web Service, as its status says.
func loadBalancerIP() (netip.Addr, error) {
	paths, err := filepath.Glob(filepath.Join(statusDir, "*.yaml"))
	if err != nil {
		return netip.Addr{}, err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return netip.Addr{}, err
		}
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			var o struct {
				Kind     string
				Metadata struct{ Name string }
				Status   struct {
					LoadBalancer struct{ Ingress []struct{ IP string } }
				}
			}
			if yaml.Unmarshal([]byte(document), &o) == nil && o.Kind == "Service" && o.Metadata.Name == "web" && len(o.Status.LoadBalancer.Ingress) > 0 {
				return netip.ParseAddr(o.Status.LoadBalancer.Ingress[0].IP)
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("no address in the status of Service web")
}
