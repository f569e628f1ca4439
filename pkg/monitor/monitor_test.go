// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
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
