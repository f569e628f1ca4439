// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/kubernetes/pkg/proxy/metrics"
)

// TestMetrics compares the metrics that kube-proxy has in every mode with the
// list that pkg/metrics is tested against.
func TestMetrics(t *testing.T) {
	metrics.RegisterMetrics("")
	for _, family := range []string{"IPv4", "IPv6"} {
		metrics.SyncProxyRulesLatency.WithLabelValues(family).Observe(1)
		metrics.SyncProxyRulesLastQueuedTimestamp.WithLabelValues(family).Set(1)
		metrics.SyncProxyRulesLastTimestamp.WithLabelValues(family).Set(1)
		metrics.NetworkProgrammingLatency.WithLabelValues(family).Observe(1)
		for _, policy := range []string{"internal", "external"} {
			metrics.SyncProxyRulesNoLocalEndpointsTotal.WithLabelValues(policy, family).Set(1)
		}
	}
	metrics.ProxyHealthzTotal.WithLabelValues("200").Inc()
	metrics.ProxyLivezTotal.WithLabelValues("200").Inc()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	const list = "../../../../pkg/metrics/testdata/kubeproxy.txt"
	want, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	if got := shapes(families); got != string(want) {
		t.Errorf("kube-proxy's metrics aren't as in %s:\n%s", list, got)
	}
}

// shapes are the metrics without their values, a line for each.
func shapes(families []*dto.MetricFamily) string {
	var lines []string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "kubeproxy_") {
			continue
		}
		for _, m := range f.Metric {
			line := f.GetName()
			for _, l := range m.Label {
				line += fmt.Sprintf(" %s=%s", l.GetName(), l.GetValue())
			}
			line += " " + f.GetType().String()
			for _, b := range m.GetHistogram().GetBucket() {
				line += fmt.Sprintf(" %g", b.GetUpperBound())
			}
			lines = append(lines, line+"\n")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
