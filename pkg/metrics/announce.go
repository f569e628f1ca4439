// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// Announced is what a node's part in LoadBalancer addresses has come to.
type Announced struct {
	Held                int // addresses that it answers for
	Taken, Given        int // so often it began to answer for one, and ended
	Heard, Silent, Dead int // other nodes: whose agents are heard; whose aren't, but their kernels may answer; which are dead
}

// WatchAddresses shows what announced tells at each scrape.
func (a *Agent) WatchAddresses(announced func() Announced) {
	a.registry.MustRegister(announceCollector(announced))
}

// announceCollector asks for the state.
type announceCollector func() Announced

func announceMetrics() (held, moves, peers *prometheus.Desc) {
	return prometheus.NewDesc("patchbay_addresses_held", "LoadBalancer addresses that this node answers for.", nil, nil),
		prometheus.NewDesc("patchbay_address_moves_total", "How often this node began to answer for an address (taken), or ended (given).", []string{"direction"}, nil),
		prometheus.NewDesc("patchbay_peers", "Other nodes, by whether their agents are heard, only silent, or their nodes dead.", []string{"state"}, nil)
}

// Describe tells which metrics there are.
func (announceCollector) Describe(out chan<- *prometheus.Desc) {
	held, moves, peers := announceMetrics()
	out <- held
	out <- moves
	out <- peers
}

// Collect asks for the values.
func (c announceCollector) Collect(out chan<- prometheus.Metric) {
	now := c()
	held, moves, peers := announceMetrics()
	out <- prometheus.MustNewConstMetric(held, prometheus.GaugeValue, float64(now.Held))
	for direction, n := range map[string]int{"taken": now.Taken, "given": now.Given} {
		out <- prometheus.MustNewConstMetric(moves, prometheus.CounterValue, float64(n), direction)
	}
	for state, n := range map[string]int{"heard": now.Heard, "silent": now.Silent, "dead": now.Dead} {
		out <- prometheus.MustNewConstMetric(peers, prometheus.GaugeValue, float64(n), state)
	}
}
