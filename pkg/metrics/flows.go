// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// WatchFlows shows how full the table of established flows is: flows tells its
// entries, two for each flow, and its room, and withoutRoom how many packets found
// none, at each scrape.
func (a *Agent) WatchFlows(flows func() (used, size int), withoutRoom func() uint32) {
	a.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "patchbay_flow_entries", Help: "Entries of the table of established flows, two for each flow.",
		}, func() float64 { used, _ := flows(); return float64(used) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "patchbay_flow_entries_limit", Help: "Entries that the table of established flows has room for.",
		}, func() float64 { _, size := flows(); return float64(size) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "patchbay_flows_without_room_total", Help: "Packets of established flows that found no room in their table, and were served from the table of new ones.",
		}, func() float64 { return float64(withoutRoom()) }),
	)
}
