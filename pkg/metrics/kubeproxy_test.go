// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// TestKubeProxyMetrics: what kube-proxy has in every mode is here by the same
// names, labels, types and buckets. test/cluster compares the list with it.
func TestKubeProxyMetrics(t *testing.T) {
	a := New(fixed{})
	a.Changed(source.KindService)
	a.Pass(time.Millisecond, 0)
	a.InForce(make([]time.Time, 1), make([]time.Time, 1))
	a.Probed("/healthz", 200)
	a.Probed("/livez", 200)
	families, err := a.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/kubeproxy.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), shapes(families)); diff != "" {
		t.Errorf("metrics by kube-proxy's names (-want +got):\n%s", diff)
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
