// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

func now() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// answer makes an operation give the same answer always.
func answer[T any](value T) agentapi.Func {
	return agentapi.Do(func(context.Context, agentapi.None) (T, error) { return value, nil })
}

func info(ready bool) agentapi.Info {
	i := agentapi.Info{
		Version: "v0.1", Node: "n1", Role: "node", Source: "file:/objects", Synced: true, Ready: ready, Schema: 1, Routing: "auto",
		BootID: "b-1", Started: now().Add(-90 * time.Minute), PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")},
		Counts: agentapi.Counts{Pods: 2, Services: 3, Frontends: 5, Backends: 4, Nodes: 2, Announced: 1},
	}
	if !ready {
		i.Reason = "programs not loaded"
		i.Problems = []agentapi.Problem{{Object: "web.yaml: document 1", Text: "cut short", Since: now().Add(-time.Minute)}}
	}
	return i
}

func handler() agentapi.Handler {
	frontend := netip.MustParseAddrPort
	return agentapi.Handler{
		agentapi.OpInfo: answer(info(true)),
		agentapi.OpPods: answer([]agentapi.Pod{
			{Attached: true, Endpoint: agentapi.Endpoint{
				EndpointKey: agentapi.EndpointKey{ContainerID: "c1", IfName: "eth0"}, HostIfName: "pb00000000001", MAC: "02:00:00:00:00:01",
				Addrs: addrs("10.244.0.5", "fd00:244::5"), PodNamespace: "default", PodName: "web-1",
			}},
			{Problem: "no such interface", Endpoint: agentapi.Endpoint{HostIfName: "pb00000000002", Addrs: addrs("10.244.0.6")}},
		}),
		agentapi.OpServices: answer([]agentapi.Service{
			{Namespace: "default", Name: "web", Port: "http", Kind: "LoadBalancer", Frontend: frontend("192.0.2.10:80"), Protocol: "TCP", Scope: "external",
				Affinity: 3 * time.Hour, SourceRanges: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
				Backends: []agentapi.Backend{{Addr: frontend("10.244.0.5:8080"), Node: "n1", Local: true}, {Addr: frontend("10.244.1.5:8080")}}},
			{Namespace: "default", Name: "db", Kind: "ClusterIP", Frontend: frontend("[fd00:96::7]:5432"), Protocol: "TCP", Scope: "cluster", Empty: "reject"},
		}),
		agentapi.OpAddresses: answer([]agentapi.Address{
			{Addr: addrs("192.0.2.10")[0], Pool: "external", Services: []string{"default/web"}, Owner: "n1", Reason: "highest of 2", Announced: true, NIC: "eth1", Expires: 21 * time.Second},
			{Addr: addrs("192.0.2.11")[0], Pool: "external", Services: []string{"default/api", "default/api2"}, Owner: "n2"},
		}),
		agentapi.OpLeases: answer([]agentapi.Lease{
			{EndpointKey: agentapi.EndpointKey{ContainerID: "c1", IfName: "eth0"}, Addrs: addrs("10.244.0.5"), State: "active", Pool: "0", PodNamespace: "default",
				PodName: "web-1", HostIfName: "pb00000000001", Generation: 7, Created: now().Add(-3 * 24 * time.Hour)},
			{EndpointKey: agentapi.EndpointKey{ContainerID: "c0", IfName: "eth0"}, Addrs: addrs("10.244.0.4"), State: "cooling", Created: now().Add(-30 * time.Second)},
		}),
		agentapi.OpNICs: answer([]agentapi.NIC{
			{Name: "eth0", Index: 2, Role: "internal", Reason: "has the node's InternalIP", MAC: "02:00:00:00:01:00", MTU: 1500, Carrier: true,
				Addrs: []netip.Prefix{netip.MustParsePrefix("172.18.0.2/24")}},
			{Name: "eth1", Index: 3, Role: "external", MTU: 1500},
		}),
		agentapi.OpDrops: answer([]agentapi.Drop{{Reason: "SOURCE", Packets: 1, Bytes: 64}, {Reason: "NO_ROUTE", Packets: 20, Bytes: 2000}}),
	}
}

// serve runs an agent with these answers and returns its socket.
func serve(t *testing.T, h agentapi.Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := agentapi.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agentapi.Serve(ctx, listener, h, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

// call runs the program and returns what it wrote, and its exit code.
func call(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	e := env{stdout: &out, stderr: &errs, now: now, wait: func(context.Context, time.Duration) error { return context.Canceled }}
	code = run(t.Context(), e, "patchbayctl", args)
	return out.String(), errs.String(), code
}

func TestTables(t *testing.T) {
	socket := serve(t, handler())
	tests := []struct{ args, want string }{
		{"pods", `
NAMESPACE   NAME    ADDRESSES                INTERFACE       IN-FORCE   PROBLEM
default     web-1   10.244.0.5,fd00:244::5   pb00000000001   yes        -
-           -       10.244.0.6               pb00000000002   no         no such interface
`},
		{"pods default/web-1 -o wide", `
NAMESPACE   NAME    ADDRESSES                INTERFACE       IN-FORCE   MAC                 CONTAINER   NODE   PROBLEM
default     web-1   10.244.0.5,fd00:244::5   pb00000000001   yes        02:00:00:00:00:01   c1/eth0     -      -
`},
		{"services", `
NAMESPACE   NAME   KIND           FRONTEND                SCOPE      BACKENDS
default     web    LoadBalancer   192.0.2.10:80/TCP       external   2
default     db     ClusterIP      [fd00:96::7]:5432/TCP   cluster    none: reject
`},
		{"services web -o wide", `
NAMESPACE   NAME   PORT   KIND           FRONTEND            SCOPE      BACKENDS   AFFINITY   SOURCES          TO
default     web    http   LoadBalancer   192.0.2.10:80/TCP   external   2          3h0m0s     203.0.113.0/24   10.244.0.5:8080@n1,10.244.1.5:8080@?
`},
		{"addresses", `
ADDRESS      POOL       SERVICES                   ANNOUNCED-BY   HERE   NIC
192.0.2.10   external   default/web                n1             yes    eth1
192.0.2.11   external   default/api,default/api2   n2             no     -
`},
		{"addresses web -o wide", `
ADDRESS      POOL       SERVICES      ANNOUNCED-BY   HERE   NIC    EXPIRES   REASON
192.0.2.10   external   default/web   n1             yes    eth1   21s       highest of 2
`},
		{"leases", `
ADDRESSES    STATE     NAMESPACE   POD     POOL   AGE
10.244.0.5   active    default     web-1   0      3d
10.244.0.4   cooling   -           -       -      30s
`},
		{"nics", `
NAME   ROLE       CARRIER   ADDRESSES       MTU    REASON                      PROBLEM
eth0   internal   yes       172.18.0.2/24   1500   has the node's InternalIP   -
eth1   external   no        -               1500   -                           -
`},
		{"drops", `
REASON     PACKETS   BYTES
NO_ROUTE   20        2000
SOURCE     1         64
`},
		{"drops source", `
REASON   PACKETS   BYTES
SOURCE   1         64
`},
		{"status", `
Node          n1 (node)
Ready         yes
Version       v0.1, maps of schema 1
Running for   90m
Source        file:/objects (read)
Routing       auto
Pod ranges    10.244.0.0/24
Keeps         2 pods, 3 Services, 5 frontends, 4 backends, 2 nodes, 1 addresses announced
NICs          eth0 internal, 172.18.0.2/24
              eth1 external, no carrier
Dropped       21 packets, NO_ROUTE 20, SOURCE 1
`},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got, stderr, code := call(t, append(strings.Fields(tt.args), "--socket", socket)...)
			if code != exitOK || stderr != "" {
				t.Errorf("want exit 0, got %d, %s", code, stderr)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), got); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNames(t *testing.T) {
	socket := serve(t, handler())
	for _, args := range []string{
		"pod web-1", "pods 10.244.0.5", "svc default/web", "services 192.0.2.10", "services 192.0.2.10:80", "addr 192.0.2.11", "addresses default/api2",
		"leases c0", "leases 10.244.0.5", "leases default/web-1", "nics eth1", "nics 172.18.0.2",
	} {
		out, stderr, code := call(t, append(strings.Fields(args), "--socket", socket)...)
		if code != exitOK || strings.Count(out, "\n") != 2 {
			t.Errorf("%s: want one row, got exit %d, %s%s", args, code, out, stderr)
		}
	}
	for _, args := range []string{"pods web-9", "services web-9", "addresses 192.0.2.99", "leases c9", "nics eth9", "drops NEVER"} {
		out, stderr, code := call(t, append(strings.Fields(args), "--socket", socket)...)
		if code != exitError || out != "" || !strings.Contains(stderr, "not found") {
			t.Errorf("%s: want exit 1 and the reason, got %d, %s%s", args, code, out, stderr)
		}
	}
}

func TestJSONAndYAML(t *testing.T) {
	socket := serve(t, handler())
	out, _, code := call(t, "services", "web", "-o", "json", "--socket", socket)
	var services []agentapi.Service
	if err := json.Unmarshal([]byte(out), &services); err != nil || code != exitOK {
		t.Fatalf("want JSON, got exit %d, %v", code, err)
	}
	if len(services) != 1 || services[0].Name != "web" || len(services[0].Backends) != 2 {
		t.Errorf("want web with its backends, got %+v", services)
	}
	if out, _, _ = call(t, "nics", "eth0", "-o", "yaml", "--socket", socket); !strings.HasPrefix(out, "- addrs:\n  - 172.18.0.2/24\n") {
		t.Errorf("want YAML, got %s", out)
	}
	if out, _, _ = call(t, "status", "-o", "yaml", "--socket", socket); !strings.Contains(out, "node: n1\n") {
		t.Errorf("want YAML, got %s", out)
	}
	empty := serve(t, agentapi.Handler{agentapi.OpPods: answer([]agentapi.Pod(nil))})
	if out, _, _ = call(t, "pods", "-o", "json", "--socket", empty); out != "[]\n" {
		t.Errorf("want an empty list, got %q", out)
	}
}

func TestStatusNotReady(t *testing.T) {
	socket := serve(t, agentapi.Handler{agentapi.OpInfo: answer(info(false))})
	out, stderr, code := call(t, "status", "--socket", socket)
	if code != exitError || stderr != "" {
		t.Errorf("want exit 1 without another word, got %d, %s", code, stderr)
	}
	for _, want := range []string{"Ready         no: programs not loaded\n", "Problems      web.yaml: document 1: cut short (for 60s)\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in the output, got\n%s", want, out)
		}
	}
}

func TestExitCodes(t *testing.T) {
	dead := filepath.Join(t.TempDir(), "none.sock")
	tests := []struct {
		args   string
		code   int
		stderr string
	}{
		{"", exitOK, ""},
		{"--help", exitOK, ""},
		{"pods --socket " + dead, exitError, "agent unavailable"},
		{"pods --socket " + dead, exitError, "\nNo agent runs on this node, or --socket names another place."},
		{"pods --socket " + stranger(t), exitError, "\nSomething else than Patchbay's agent listens there"},
		{"status --socket " + dead, exitError, "agent unavailable"},
		{"pots", exitUsage, `unknown command "pots"`},
		{"pods a b", exitUsage, "accepts at most 1 arg"},
		{"status n1", exitUsage, "unknown command"},
		{"pods --sockets x", exitUsage, "unknown flag: --sockets"},
		{"pods -o xml", exitUsage, `--output "xml" is none of table, wide, json, yaml`},
		{"pods --interval -1s", exitUsage, "--interval -1s is not positive"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			_, stderr, code := call(t, strings.Fields(tt.args)...)
			if code != tt.code || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("want exit %d and %q, got %d and %q", tt.code, tt.stderr, code, stderr)
			}
		})
	}
}

// stranger is a socket that no agent answers at.
func stranger(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "other.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1))
			_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n"))
			conn.Close()
		}
	}()
	return path
}

func TestWatch(t *testing.T) {
	var packets atomic.Uint64
	socket := serve(t, agentapi.Handler{agentapi.OpDrops: agentapi.Do(func(context.Context, agentapi.None) ([]agentapi.Drop, error) {
		return []agentapi.Drop{{Reason: "SOURCE", Packets: packets.Load()}}, nil
	})})
	var out, errs bytes.Buffer
	looks := 0
	e := env{stdout: &out, stderr: &errs, now: now, wait: func(context.Context, time.Duration) error {
		looks++
		if looks == 2 {
			packets.Store(5)
		}
		if looks == 4 {
			return context.Canceled
		}
		return nil
	}}
	if code := run(t.Context(), e, "patchbayctl", []string{"drops", "--watch", "--socket", socket}); code != exitOK {
		t.Errorf("want exit 0 when told to end, got %d: %s", code, errs.String())
	}
	want := "REASON   PACKETS   BYTES\nSOURCE   0         0\n\nREASON   PACKETS   BYTES\nSOURCE   5         0\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// Watching outlives the agent's restart, and says once that it is away.
func TestWatchAgentAway(t *testing.T) {
	var out, errs bytes.Buffer
	looks := 0
	e := env{stdout: &out, stderr: &errs, now: now, wait: func(context.Context, time.Duration) error {
		if looks++; looks == 3 {
			return errors.Join(context.Canceled)
		}
		return nil
	}}
	code := run(t.Context(), e, "patchbayctl", []string{"pods", "-w", "--socket", filepath.Join(t.TempDir(), "none.sock")})
	if code != exitOK || strings.Count(errs.String(), "agent unavailable") != 1 {
		t.Errorf("want one complaint and exit 0, got %d, %s", code, errs.String())
	}
}
