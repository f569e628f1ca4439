// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestWatchAddresses(t *testing.T) {
	a := New(fixed{})
	a.WatchAddresses(func() Announced { return Announced{Held: 2, Taken: 5, Given: 3, Heard: 1, Dead: 1} })
	answer := httptest.NewRecorder()
	a.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		"patchbay_addresses_held 2", `patchbay_address_moves_total{direction="taken"} 5`, `patchbay_address_moves_total{direction="given"} 3`,
		`patchbay_peers{state="heard"} 1`, `patchbay_peers{state="silent"} 0`, `patchbay_peers{state="dead"} 1`,
	} {
		if !strings.Contains(answer.Body.String(), want+"\n") {
			t.Errorf("metrics lack %s", want)
		}
	}
}
