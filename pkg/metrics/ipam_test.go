// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

func TestBlocks(t *testing.T) {
	a := New(fixed{})
	a.Watch(func() []agentapi.IPAMBlock {
		return []agentapi.IPAMBlock{
			{Prefix: netip.MustParsePrefix("10.0.0.0/26"), Pool: "pods", State: "Active", Used: 40, Free: 22},
			{Prefix: netip.MustParsePrefix("10.0.0.64/26"), Pool: "pods", State: "Draining", Used: 3, Free: 59},
			{Prefix: netip.MustParsePrefix("fd00::/122"), Pool: "pods", State: "Active", Free: 62},
		}
	})
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`patchbay_ipam_addresses{family="IPv4",pool="pods",state="used"} 43`, `patchbay_ipam_addresses{family="IPv4",pool="pods",state="free"} 22`,
		`patchbay_ipam_addresses{family="IPv6",pool="pods",state="free"} 62`,
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("metrics lack %q:\n%s", want, w.Body)
		}
	}
}
