// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
)

func TestHealth(t *testing.T) {
	tests := []struct {
		name   string
		health Health
		path   string
		want   int
	}{
		{"good", Health{Synced: true}, "/healthz", 200},
		{"not synced", Health{}, "/healthz", 503},
		{"node goes", Health{Synced: true, Leaving: true}, "/healthz", 503},
		{"nobody looks", Health{Synced: true, Updated: time.Now().Add(-2 * patience)}, "/healthz", 503},
		{"nobody looks: restart it", Health{Synced: true, Updated: time.Now().Add(-2 * patience)}, "/livez", 503},
		{"looked at", Health{Synced: true, Updated: time.Now()}, "/livez", 200},
		{"alive though not synced", Health{}, "/livez", 200},
		{"a change waits", Health{Synced: true, Updated: time.Now(), Pending: time.Now()}, "/healthz", 200},
		{"a change waits for long", Health{Synced: true, Updated: time.Now(), Pending: time.Now().Add(-2 * patience)}, "/healthz", 503},
		{"a change waits for long: restart it", Health{Synced: true, Updated: time.Now(), Pending: time.Now().Add(-2 * patience)}, "/livez", 503},
		{"node goes: no restart", Health{Synced: true, Leaving: true}, "/livez", 200},
		{"unknown", Health{}, "/x", 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			counted := 404
			count := func(path string, code int) { counted = code }
			Handler(func() Health { return tt.health }, count).ServeHTTP(w, httptest.NewRequest("GET", tt.path, nil))
			if w.Code != tt.want || counted != tt.want {
				t.Errorf("GET %s = %d, want %d: %s", tt.path, w.Code, tt.want, w.Body)
			}
		})
	}
}

// Load balancers read kube-proxy's body.
func TestHealthBody(t *testing.T) {
	updated := time.Now().Add(-10 * time.Second).UTC().Truncate(time.Second)
	get := func(h Health, path string) map[string]any {
		w := httptest.NewRecorder()
		Handler(func() Health { return h }).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		var body map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Fatalf("GET %s: %v: %s", path, err, w.Body)
		}
		if got := w.Header().Get("Content-Type"); got != "application/json" {
			t.Errorf("GET %s: Content-Type %q", path, got)
		}
		return body
	}
	body := get(Health{Synced: true, Updated: updated}, "/healthz")
	if body["lastUpdated"] != body["currentTime"] || body["nodeEligible"] != true || body["healthy"] != true {
		t.Errorf("a healthy node says %v", body)
	}
	family := map[string]any{"lastUpdated": updated.Format(time.RFC3339), "healthy": true}
	if want := map[string]any{"IPv4": family, "IPv6": family}; !cmp.Equal(body["status"], any(want)) {
		t.Errorf("status %v, want %v", body["status"], want)
	}
	body = get(Health{Synced: true, Updated: updated, Leaving: true}, "/healthz")
	if body["nodeEligible"] != false || body["healthy"] != true {
		t.Errorf("a node that goes says %v", body)
	}
	body = get(Health{Updated: updated}, "/healthz")
	if body["lastUpdated"] != updated.Format(time.RFC3339) || body["healthy"] != false {
		t.Errorf("a node without Services says %v", body)
	}
	if body = get(Health{}, "/livez"); body["nodeEligible"] != nil {
		t.Errorf("livez says %v, want nothing of the node", body)
	}
}

func TestChecks(t *testing.T) {
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(probe.Addr().(*net.TCPAddr).Port)
	probe.Close()
	var healthy atomic.Bool
	healthy.Store(true)
	c := NewChecks(healthy.Load, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	get := func() (int, string) {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	await := func(what string, want int) {
		t.Helper()
		netlab.WaitFor(t, 5*time.Second, what, func() error {
			if code, body := get(); code != want {
				return fmt.Errorf("status %d: %s", code, body)
			}
			return nil
		})
	}
	check := service.HealthCheck{Service: service.Name{Namespace: "d", Name: "web"}, Port: port, Endpoints: 2}
	c.Set([]service.HealthCheck{check})
	await("endpoints", 200)
	if _, body := get(); !strings.Contains(body, `"localEndpoints":2`) {
		t.Errorf("body %s, want the endpoints counted", body)
	}
	check.Endpoints = 0
	c.Set([]service.HealthCheck{check})
	await("no endpoints", 503)
	check.Endpoints = 1
	healthy.Store(false)
	c.Set([]service.HealthCheck{check})
	await("unhealthy", 503)
	c.Set(nil)
	await("closed", 0)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestClockJumps: what is well stays so when the wall clock is set.
func TestClockJumps(t *testing.T) {
	updated := time.Now()
	// The wall clock's seconds stand above 30 bits of nanoseconds in the first word
	// of a time.Time with a monotonic reading: this one was taken before the clock
	// was set a day ahead.
	*(*uint64)(unsafe.Pointer(&updated)) -= 86400 << 30
	if off := time.Now().Round(0).Sub(updated.Round(0)).Round(time.Hour); off != 24*time.Hour || time.Since(updated) > time.Minute {
		t.Fatalf("the wall clock is %v off", off)
	}
	handler := Handler(func() Health { return Health{Synced: true, Updated: updated, Pending: updated} })
	for _, path := range []string{"/healthz", "/livez"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
