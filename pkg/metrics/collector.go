// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// collector asks for what others count.
type collector struct{ reader Reader }

func dropPackets() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_drop_packets_total", "Packets dropped, by reason.", []string{"reason"}, nil)
}

func dropBytes() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_drop_bytes_total", "Bytes of packets dropped, by reason.", []string{"reason"}, nil)
}

func leases() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_leases", "Pods' leases and resting addresses, by state.", []string{"state"}, nil)
}

func objects() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_objects", "What is in force, by kind.", []string{"kind"}, nil)
}

func ready() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_ready", "1 while pods can be added.", nil, nil)
}

func problems() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_problems", "Objects that can't be used as they are, by kind, and things that can't be done, by what does them, at present.", []string{"about"}, nil)
}

func noLocal() *prometheus.Desc {
	return prometheus.NewDesc("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "Ports of Services with traffic policy Local, without an endpoint here and with some elsewhere.",
		[]string{"traffic_policy", familyLabel}, nil)
}

// Describe tells which metrics there are.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{dropPackets(), dropBytes(), leases(), objects(), ready(), problems(), noLocal()} {
		out <- d
	}
}

// Collect asks for the values.
func (c collector) Collect(out chan<- prometheus.Metric) {
	c.drops(out)
	c.leases(out)
	c.noLocal(out)
	info, err := c.reader.Info()
	if err != nil {
		out <- prometheus.NewInvalidMetric(ready(), err)
		return
	}
	for kind, n := range map[string]int{
		"pods": info.Counts.Pods, "services": info.Counts.Services, "frontends": info.Counts.Frontends,
		"backends": info.Counts.Backends, "nodes": info.Counts.Nodes, "announcements": info.Counts.Announced,
	} {
		out <- prometheus.MustNewConstMetric(objects(), prometheus.GaugeValue, float64(n), kind)
	}
	value := 0.0
	if info.Ready {
		value = 1
	}
	out <- prometheus.MustNewConstMetric(ready(), prometheus.GaugeValue, value)
	count := map[string]int{"Service": 0, "EndpointSlice": 0}
	for _, p := range info.Problems {
		count[about(p.Object)]++
	}
	for about, n := range count {
		out <- prometheus.MustNewConstMetric(problems(), prometheus.GaugeValue, float64(n), about)
	}
}

// about is the kind of object that a problem is about, or the part of the node.
func about(object string) string {
	where, rest, _ := strings.Cut(object, " ")
	if kind, _, ok := strings.Cut(rest, " "); ok && (where == "object" || where == "source") {
		return kind
	}
	part, _, _ := strings.Cut(where, "/")
	return part
}

func (c collector) drops(out chan<- prometheus.Metric) {
	drops, err := c.reader.Drops()
	if err != nil {
		out <- prometheus.NewInvalidMetric(dropPackets(), err)
		return
	}
	for _, d := range drops {
		out <- prometheus.MustNewConstMetric(dropPackets(), prometheus.CounterValue, float64(d.Packets), d.Reason)
		out <- prometheus.MustNewConstMetric(dropBytes(), prometheus.CounterValue, float64(d.Bytes), d.Reason)
	}
}

func (c collector) leases(out chan<- prometheus.Metric) {
	list, err := c.reader.ListLeases()
	if err != nil {
		out <- prometheus.NewInvalidMetric(leases(), err)
		return
	}
	states := map[string]int{"active": 0, "cooling": 0, "damaged": 0}
	for _, l := range list {
		states[l.State]++
	}
	for state, n := range states {
		out <- prometheus.MustNewConstMetric(leases(), prometheus.GaugeValue, float64(n), state)
	}
}

// noLocal counts the ports that drop: what has no endpoint anywhere rejects.
func (c collector) noLocal(out chan<- prometheus.Metric) {
	type port struct{ policy, family, namespace, name, port string }
	seen := map[port]bool{}
	count := map[[2]string]int{}
	for _, family := range families() {
		count[[2]string{"internal", family}], count[[2]string{"external", family}] = 0, 0
	}
	for _, s := range c.reader.Services() {
		if s.Empty != "drop" || len(s.Backends) > 0 {
			continue
		}
		p := port{"external", "IPv4", s.Namespace, s.Name, s.Port}
		if s.Kind == "ClusterIP" {
			p.policy = "internal"
		}
		if s.Frontend.Addr().Is6() {
			p.family = "IPv6"
		}
		if !seen[p] {
			seen[p] = true
			count[[2]string{p.policy, p.family}]++
		}
	}
	for labels, n := range count {
		out <- prometheus.MustNewConstMetric(noLocal(), prometheus.GaugeValue, float64(n), labels[0], labels[1])
	}
}
