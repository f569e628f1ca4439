// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// Watch shows the use of the node's address blocks, as blocks tells it at each
// scrape.
func (a *Agent) Watch(blocks func() []agentapi.IPAMBlock) {
	a.registry.MustRegister(blockCollector(blocks))
}

// blockCollector asks for the blocks.
type blockCollector func() []agentapi.IPAMBlock

func ipamAddresses() *prometheus.Desc {
	return prometheus.NewDesc("patchbay_ipam_addresses", "Addresses of the node's blocks, by family, pool and state: used (resting ones included) or free. Draining blocks give none and have none free.",
		[]string{"family", "pool", "state"}, nil)
}

// Describe tells which metrics there are.
func (blockCollector) Describe(out chan<- *prometheus.Desc) { out <- ipamAddresses() }

// Collect asks for the values.
func (c blockCollector) Collect(out chan<- prometheus.Metric) {
	sums := map[[3]string]int64{}
	for _, b := range c() {
		family := "IPv6"
		if b.Prefix.Addr().Is4() {
			family = "IPv4"
		}
		sums[[3]string{family, b.Pool, "used"}] += b.Used
		free := b.Free
		if b.State == "Draining" {
			free = 0
		}
		sums[[3]string{family, b.Pool, "free"}] += free
	}
	for labels, n := range sums {
		out <- prometheus.MustNewConstMetric(ipamAddresses(), prometheus.GaugeValue, float64(n), labels[:]...)
	}
}
