// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestFlows(t *testing.T) {
	a := New(fixed{})
	a.WatchFlows(func() (used, size int) { return 12, 65536 }, func() uint32 { return 3 })
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{"\npatchbay_flow_entries 12\n", "\npatchbay_flow_entries_limit 65536\n", "\npatchbay_flows_without_room_total 3\n"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("metrics lack %q:\n%s", want, w.Body)
		}
	}
}
