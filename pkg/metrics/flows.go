// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// WatchFlows shows how full the table of established flows is: flows tells its
// entries, two for each flow, and its room, at each scrape.
func (a *Agent) WatchFlows(flows func() (used, size int)) {
	a.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "patchbay_flow_entries", Help: "Entries of the table of established flows, two for each flow.",
		}, func() float64 { used, _ := flows(); return float64(used) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "patchbay_flow_entries_limit", Help: "Entries that the table of established flows has room for.",
		}, func() float64 { _, size := flows(); return float64(size) }),
	)
}
