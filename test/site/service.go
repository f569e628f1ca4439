// SPDX-License-Identifier: Apache-2.0

package site

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// Namespace is where the Services are.
const Namespace = "shop"

// Service is a Service with one TCP port.
type Service struct {
	Name      string
	ClusterIP string
	// ClusterIP6 makes it a dual-stack one.
	ClusterIP6 string
	Port       int
	// TargetPort is the pods'.
	TargetPort int
	// NodePort opens it on the nodes, on the NICs of these roles if any are named.
	NodePort     int
	NodePortNICs string
	// LoadBalancer asks for an address outside.
	LoadBalancer bool
	// Addresses are the ones that it asks for; none means any.
	Addresses []netip.Addr
}

// yaml is the Service as Kubernetes would show it.
func (v Service) yaml() string {
	kind, families, clusterIPs, annotations, nodePort := "type: ClusterIP", "IPv4", fmt.Sprintf("%q", v.ClusterIP), []string(nil), ""
	if v.NodePort != 0 {
		kind, nodePort = "type: NodePort", fmt.Sprintf(", nodePort: %d", v.NodePort)
	}
	if v.NodePortNICs != "" {
		annotations = append(annotations, fmt.Sprintf("patchbay.net/nodeport-nics: %q", v.NodePortNICs))
	}
	if v.LoadBalancer {
		kind = "type: LoadBalancer\n  loadBalancerClass: patchbay.net/lb"
	}
	if v.ClusterIP6 != "" {
		kind += "\n  ipFamilyPolicy: RequireDualStack"
		families, clusterIPs = "IPv4, IPv6", fmt.Sprintf("%q, %q", v.ClusterIP, v.ClusterIP6)
	}
	if len(v.Addresses) > 0 {
		list := make([]string, len(v.Addresses))
		for i, a := range v.Addresses {
			list[i] = a.String()
		}
		annotations = append(annotations, fmt.Sprintf("patchbay.net/addresses: %q", strings.Join(list, ",")))
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s, annotations: {%s}}
spec:
  %s
  clusterIP: %s
  clusterIPs: [%s]
  ipFamilies: [%s]
  ports: [{name: main, port: %d, targetPort: %d, protocol: TCP%s}]
`, v.Name, Namespace, strings.Join(annotations, ", "), kind, v.ClusterIP, clusterIPs, families, v.Port, v.TargetPort, nodePort)
}

// endpoints is the Service's EndpointSlices with the pods that are ready.
func (v Service) endpoints(pods []*Pod) string {
	text := v.slice("1", "IPv4", pods, func(p *Pod) netip.Addr { return p.Addr })
	if v.ClusterIP6 != "" {
		text += "---" + v.slice("2", "IPv6", pods, func(p *Pod) netip.Addr { return p.Addr6 })
	}
	return text
}

// slice is the EndpointSlice of one family.
func (v Service) slice(suffix, family string, pods []*Pod, addr func(*Pod) netip.Addr) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s-%s, namespace: %s, labels: {kubernetes.io/service-name: %s}}
addressType: %s
ports: [{name: main, port: %d, protocol: TCP}]
endpoints:`, v.Name, suffix, Namespace, v.Name, family, v.TargetPort)
	if len(pods) == 0 {
		return b.String() + " []\n"
	}
	for _, p := range pods {
		fmt.Fprintf(&b, `
- addresses: ["%s"]
  nodeName: %s
  conditions: {ready: true, serving: true, terminating: false}
  targetRef: {kind: Pod, name: %s, namespace: %s}`, addr(p), p.Node.Name, p.Name, Namespace)
	}
	return b.String() + "\n"
}

// Serve declares a Service, or that its ready pods are now these.
func (s *Site) Serve(v Service, pods ...*Pod) {
	pods = slices.SortedFunc(slices.Values(pods), func(a, b *Pod) int { return strings.Compare(a.Name, b.Name) })
	s.Declare("endpoints-"+v.Name, v.endpoints(pods))
	s.Declare("service-"+v.Name, v.yaml())
}

// LoadBalancerIP waits for the address that the controller gives a Service, as its status says.
func (s *Site) LoadBalancerIP(v Service) (addr netip.Addr) {
	s.tb.Helper()
	netlab.WaitFor(s.tb, 20*time.Second, "an address for Service "+v.Name, func() (err error) {
		addr, err = s.statusOf(v.Name)
		return err
	})
	return addr
}

// statusOf reads a Service's address from the status folder.
func (s *Site) statusOf(name string) (netip.Addr, error) {
	paths, err := filepath.Glob(filepath.Join(s.status(), "*.yaml"))
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
			if yaml.Unmarshal([]byte(document), &o) == nil && o.Kind == "Service" && o.Metadata.Name == name && len(o.Status.LoadBalancer.Ingress) > 0 {
				return netip.ParseAddr(o.Status.LoadBalancer.Ingress[0].IP)
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("no address in the status of Service %s", name)
}

// Transport makes a connection for each request, from a network namespace.
func Transport(ns *netlab.Namespace) http.RoundTripper {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = ns.Do(func() error {
			var d net.Dialer
			conn, err = d.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}}
}

// Answers returns an error unless a URL answers 200 within a second to one in that namespace.
func Answers(ns *netlab.Namespace, url string) error {
	client := http.Client{Timeout: time.Second, Transport: Transport(ns)}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}
