// SPDX-License-Identifier: Apache-2.0

package leasing

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev/switches"
)

// wish is what a pod asks for.
type wish struct {
	namespaceLabels map[string]string
	pools           []string     // by name; none: any that is for it
	addrs           []netip.Addr // one of each family that is here
	legs            []legWish
	foreign         bool // another IPAM plugin gives the primary's addresses
	free            bool // legs may have addresses of no pool, and a MAC of their own
}

// legWish is one entry of a networks annotation: a switch's name, or an object in
// the form that the Network Plumbing Working Group gave it, with pools and mtu of
// our own.
type legWish struct {
	Name      string   `json:"name"`
	Namespace string   `json:"namespace,omitempty"` // of a definition that we don't read
	Interface string   `json:"interface,omitempty"`
	IPs       []string `json:"ips,omitempty"`
	MAC       string   `json:"mac,omitempty"`
	Pools     []string `json:"pools,omitempty"`
	MTU       int      `json:"mtu,omitempty"`

	kind  switches.Kind
	addrs []netip.Prefix // of IPs; a bare address has no length yet
}

func refuse(format string, args ...any) error {
	return agentapi.Errorf(agentapi.CodeInvalid, format, args...)
}

// read reads the annotations; either object may be nil.
func (t *Table) read(pod *corev1.Pod, ns *corev1.Namespace) (wish, error) {
	var w wish
	if ns != nil {
		w.namespaceLabels = ns.Labels
		w.free = ns.Annotations[v1alpha1.AnnotationFreeAddresses] == "true"
	}
	pools, _ := annotation(v1alpha1.AnnotationPools, pod, ns)
	w.pools = list(pools)
	addrs, from := annotation(v1alpha1.AnnotationAddresses, pod, ns)
	for _, text := range list(addrs) {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" || !addr.Unmap().IsGlobalUnicast() {
			return wish{}, refuse("annotation %s of %s: %q is not a pod's address", v1alpha1.AnnotationAddresses, from, text)
		}
		w.addrs = append(w.addrs, addr.Unmap())
	}
	if pod == nil {
		return w, nil
	}
	for _, name := range []string{v1alpha1.AnnotationIngressBandwidth, v1alpha1.AnnotationEgressBandwidth} {
		if pod.Annotations[name] != "" {
			return wish{}, refuse("annotation %s: bandwidth limits are not supported: packets between pods of a node pass no queue; take the annotation away", name)
		}
	}
	legs, err := t.legs(pod.Annotations, w.free)
	w.legs = legs
	return w, err
}

// annotation returns a pod's annotation, else its namespace's, and whose it is.
func annotation(name string, pod *corev1.Pod, ns *corev1.Namespace) (text, from string) {
	if pod != nil && pod.Annotations[name] != "" {
		return pod.Annotations[name], "the pod"
	}
	if ns != nil {
		return ns.Annotations[name], "namespace " + ns.Name
	}
	return "", ""
}

// list reads what stands between commas.
func list(text string) []string {
	var out []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// legs reads the networks annotation: ours, else the standard one, which belongs
// to a meta-plugin where there is one.
func (t *Table) legs(annotations map[string]string, free bool) ([]legWish, error) {
	name := v1alpha1.AnnotationNetworks
	text := annotations[name]
	if text == "" {
		name = v1alpha1.AnnotationNetworksStandard
		if text = annotations[name]; text != "" && t.metaPlugin() {
			return nil, nil
		}
	}
	legs, err := parseLegs(text)
	if err != nil {
		return nil, refuse("annotation %s: %v", name, err)
	}
	used := []string{"eth0", "lo"}
	for i := range legs {
		if err := legs[i].check(i, used); err != nil {
			return nil, refuse("annotation %s: entry %d: %v", name, i+1, err)
		}
		if legs[i].MAC != "" && !free {
			return nil, refuse("annotation %s: entry %d: mac: the pod's namespace has no annotation %s: \"true\"", name, i+1, v1alpha1.AnnotationFreeAddresses)
		}
		used = append(used, legs[i].Interface)
	}
	return legs, nil
}

func parseLegs(text string) ([]legWish, error) {
	var legs []legWish
	if strings.HasPrefix(strings.TrimSpace(text), "[") {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&legs); err != nil {
			return nil, fmt.Errorf("not a list of networks: %w", err)
		}
		return legs, nil
	}
	for _, item := range list(text) {
		network, ifName, _ := strings.Cut(item, "@")
		if _, after, ok := strings.Cut(network, "/"); ok {
			network = after
		}
		legs = append(legs, legWish{Name: network, Interface: ifName})
	}
	return legs, nil
}

// check checks an entry and fills in what it leaves out.
func (l *legWish) check(i int, used []string) (err error) {
	if l.kind, err = switches.ParseKind(l.Name); err != nil {
		return err
	}
	if l.Interface == "" {
		l.Interface = fmt.Sprintf("net%d", i+1)
	}
	if len(l.Interface) > 15 || strings.ContainsAny(l.Interface, "/: \t\n") || l.Interface == "." || l.Interface == ".." {
		return fmt.Errorf("interface %q is not an interface's name", l.Interface)
	}
	if slices.Contains(used, l.Interface) {
		return fmt.Errorf("interface %s is taken", l.Interface)
	}
	if l.MTU != 0 && (l.MTU < 1280 || l.MTU > 65535) {
		return fmt.Errorf("mtu %d is not between 1280 and 65535", l.MTU)
	}
	if mac, err := net.ParseMAC(l.MAC); l.MAC != "" && (err != nil || len(mac) != 6 || mac[0]&1 != 0) {
		return fmt.Errorf("mac %q is not an interface's address", l.MAC)
	}
	for _, text := range l.IPs {
		p, err := netip.ParsePrefix(text)
		if addr, errAddr := netip.ParseAddr(text); errAddr == nil {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil // its network's follows from a pool
		}
		if err != nil || p.Addr().Is4In6() || !p.Addr().IsGlobalUnicast() {
			return fmt.Errorf("ips: %q is not an interface's address", text)
		}
		l.addrs = append(l.addrs, p)
	}
	return nil
}

// metaPlugin tells whether another CNI configuration sorts before ours and calls a
// meta-plugin, whose annotation the standard one is then.
func (t *Table) metaPlugin() bool {
	entries, err := os.ReadDir(t.CNIConf)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if e.Name() >= "00-patchbay.conflist" && !strings.Contains(e.Name(), "multus") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(t.CNIConf, e.Name()))
		if err == nil && strings.Contains(string(text), `"multus`) {
			return true
		}
	}
	return false
}
