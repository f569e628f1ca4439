// SPDX-License-Identifier: Apache-2.0

// Package monitor answers over HTTP how the agent and its Services fare: to
// kubelet, to load balancers that ask the node (healthz, as kube-proxy answers
// it), and on the health-check node ports of Services.
package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/patchbay-net/patchbay/pkg/service"
)

// HealthAddress is where /healthz and /livez are served, on kube-proxy's port.
const HealthAddress = ":10256"

// Health is what the node says of itself.
type Health struct {
	Synced  bool      // Services are in force
	Leaving bool      // the node is being deleted, or not there: no new traffic, please
	Updated time.Time // when it was last looked at whether all is in force
	Pending time.Time // since when a change of Services waits to be in force; zero: none does
}

// patience is for how long nobody may look, or a change may wait, before that
// counts as a hang: kube-proxy's two sync periods.
const patience = time.Minute

// Server serves HTTP on one address until its context ends.
func Server(ctx context.Context, address string, handler http.Handler) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("serve http (is another agent or kube-proxy running on this node?): %w", err)
	}
	return serve(ctx, listener, handler)
}

func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve http on %s: %w", listener.Addr(), err)
	}
	return nil
}

// Handler serves /healthz, 200 while the node can take new traffic, and /livez,
// 200 while the agent is at work, else 503: as kube-proxy does, but for a node
// whose Services aren't in force yet, which gets no traffic. Who counts is told
// each answer's code.
func Handler(health func() Health, count ...func(path string, code int)) http.Handler {
	mux := http.NewServeMux()
	serve := func(path string, report func(Health, time.Time) report) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			body := report(health(), time.Now())
			code := answer(w, body.good(), body)
			for _, f := range count {
				f(path, code)
			}
		})
	}
	serve("/healthz", func(h Health, now time.Time) report {
		r := h.report(now, h.healthy(now))
		eligible := !h.Leaving
		r.NodeEligible = &eligible
		return r
	})
	serve("/livez", func(h Health, now time.Time) report { return h.report(now, h.lively(now)) })
	return mux
}

// report is the body of an answer, with kube-proxy's fields.
type report struct {
	LastUpdated  time.Time               `json:"lastUpdated"`
	CurrentTime  time.Time               `json:"currentTime"`
	NodeEligible *bool                   `json:"nodeEligible,omitempty"`
	Healthy      bool                    `json:"healthy"`
	Status       map[string]familyReport `json:"status,omitempty"`
}

type familyReport struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

func (r report) good() bool { return r.Healthy && (r.NodeEligible == nil || *r.NodeEligible) }

// report says how both families fare: they are brought in force together. As
// kube-proxy has it, what is healthy was updated just now.
func (h Health) report(now time.Time, healthy bool) report {
	updated, now := h.Updated.UTC(), now.UTC()
	family := familyReport{LastUpdated: updated, Healthy: healthy}
	if healthy {
		updated = now
	}
	return report{LastUpdated: updated, CurrentTime: now, Healthy: healthy, Status: map[string]familyReport{"IPv4": family, "IPv6": family}}
}

// Healthy tells whether Services are in force and kept so, whatever becomes of
// the node.
func (h Health) Healthy() bool { return h.healthy(time.Now()) }

func (h Health) healthy(now time.Time) bool { return h.Synced && h.lively(now) }

// lively tells whether whoever looks does so, and what has changed comes into
// force; before the first look it is starting.
func (h Health) lively(now time.Time) bool {
	return (h.Updated.IsZero() || now.Sub(h.Updated) < patience) && (h.Pending.IsZero() || now.Sub(h.Pending) < patience)
}

func answer(w http.ResponseWriter, good bool, body any) (code int) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	code = http.StatusOK
	if !good {
		code = http.StatusServiceUnavailable
	}
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
	return code
}

// Checks serves the health-check node ports of Services. Make one with
// NewChecks.
type Checks struct {
	log     *slog.Logger
	healthy func() bool
	wake    chan struct{}

	mu   sync.Mutex
	want map[uint16]service.HealthCheck
}

// NewChecks returns a Checks that opens nothing before Run.
func NewChecks(healthy func() bool, log *slog.Logger) *Checks {
	return &Checks{log: log, healthy: healthy, wake: make(chan struct{}, 1)}
}

// Set makes these the ports to be open.
func (c *Checks) Set(checks []service.HealthCheck) {
	want := make(map[uint16]service.HealthCheck, len(checks))
	for _, check := range checks {
		want[check.Port] = check
	}
	c.mu.Lock()
	c.want = want
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run opens and closes ports as they are set, until ctx ends. A port that is
// taken is said and left out.
func (c *Checks) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	open := make(map[uint16]context.CancelFunc)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		}
		for port, stop := range open {
			if _, wanted := c.find(port); !wanted {
				stop()
				delete(open, port)
			}
		}
		for _, port := range c.ports() {
			if open[port] != nil {
				continue
			}
			listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
			if err != nil {
				c.log.Warn("open health-check node port", "port", port, "err", err)
				continue
			}
			portCtx, stop := context.WithCancel(ctx)
			open[port] = stop
			running.Go(func() {
				if err := serve(portCtx, listener, c.handler(port)); err != nil {
					c.log.Warn("health-check node port", "port", port, "err", err)
				}
			})
		}
	}
}

func (c *Checks) ports() []uint16 {
	c.mu.Lock()
	defer c.mu.Unlock()
	ports := make([]uint16, 0, len(c.want))
	for port := range c.want {
		ports = append(ports, port)
	}
	return ports
}

func (c *Checks) find(port uint16) (service.HealthCheck, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	check, ok := c.want[port]
	return check, ok
}

// handler answers as kube-proxy does: 200 with at least one local endpoint.
func (c *Checks) handler(port uint16) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		check, _ := c.find(port)
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", fmt.Sprint(check.Endpoints))
		healthy := c.healthy()
		answer(w, check.Endpoints > 0 && healthy, map[string]any{
			"service":        map[string]string{"namespace": check.Service.Namespace, "name": check.Service.Name},
			"localEndpoints": check.Endpoints, "serviceProxyHealthy": healthy,
		})
	})
}
