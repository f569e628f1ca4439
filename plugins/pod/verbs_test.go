// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-net/patchbay/ipam/flock"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/cnilab"
	"github.com/patchbay-net/patchbay/test/netlab"
)

func TestStatus(t *testing.T) {
	l := newLab(t)
	ready := filepath.Join(l.dir, "ready")
	if err := l.Status(t.Context()); err != nil {
		t.Errorf("agent ready: %v", err)
	}
	l.agent.ready = false
	if err := l.Status(t.Context()); code(err) != types.ErrPluginNotAvailable || !strings.Contains(err.Error(), "told so") {
		t.Errorf("never ready: %v, want code 50 and the agent's reason", err)
	}
	l.agent.stop()
	if err := l.Status(t.Context()); code(err) != types.ErrPluginNotAvailable || !strings.Contains(err.Error(), "never ready") {
		t.Errorf("never ready and away: %v, want code 50", err)
	}
	if err := agentapi.MarkReady(ready); err != nil {
		t.Fatal(err)
	}
	if err := l.Status(t.Context()); err != nil {
		t.Errorf("away for a moment: %v, want nil", err)
	}
	text, err := os.ReadFile(ready)
	if err != nil {
		t.Fatal(err)
	}
	old := strings.Replace(string(text), `"uptime":`, `"uptime":-`, 1)
	if err := os.WriteFile(ready, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Status(t.Context()); code(err) != types.ErrPluginNotAvailable {
		t.Errorf("away for long: %v, want code 50", err)
	}
}

func TestStatusOnExhaustion(t *testing.T) {
	l := newLabWith(t, `"ipam":{"type":"patchbay-ipam","leases":"%[1]s/leases.db","statusOnExhaustion":true,"ranges":[[{"subnet":"10.9.0.0/32"}]]}`)
	if err := l.Status(t.Context()); err != nil {
		t.Errorf("an address free: %v", err)
	}
	if _, err := l.Add(t.Context(), cnilab.Attachment("c1", netlab.New(t))); err != nil {
		t.Fatal(err)
	}
	if err := l.Status(t.Context()); code(err) != types.ErrPluginNotAvailable || !strings.Contains(err.Error(), "10.9.0.0") {
		t.Errorf("none free: %v, want code 50 and the range", err)
	}
}

func TestCheckFails(t *testing.T) {
	host := store.Key{ContainerID: "c1", IfName: "eth0"}.Link()
	key := store.Key{ContainerID: "c1", IfName: "eth0"}
	tests := []struct {
		name string
		harm func(t *testing.T, l *lab, pod *netlab.Namespace)
		want string
	}{
		{"address gone", func(t *testing.T, _ *lab, pod *netlab.Namespace) {
			pod.Exec(t, "ip", "addr", "del", "10.244.0.1/32", "dev", "eth0")
		}, "10.244.0.1"},
		{"route gone", func(t *testing.T, _ *lab, pod *netlab.Namespace) { pod.Exec(t, "ip", "route", "del", "default") }, "0.0.0.0/0"},
		{"host's route gone", func(t *testing.T, l *lab, _ *netlab.Namespace) {
			l.Node.Exec(t, "ip", "route", "del", "10.244.0.1")
		}, "10.244.0.1/32"},
		{"link gone", func(t *testing.T, l *lab, _ *netlab.Namespace) { l.Node.Exec(t, "ip", "link", "del", host) }, host},
		{"lease gone", func(t *testing.T, l *lab, _ *netlab.Namespace) {
			if _, _, err := l.store.Release(key, 0); err != nil {
				t.Fatal(err)
			}
		}, "has no lease"},
		{"agent forgot it", func(_ *testing.T, l *lab, _ *netlab.Namespace) { clear(l.agent.endpoints) }, "no such endpoint"},
		{"agent away", func(_ *testing.T, l *lab, _ *netlab.Namespace) { l.agent.stop() }, "agent.sock"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t)
			pod := netlab.New(t)
			conf := cnilab.Attachment("c1", pod)
			if _, err := l.Add(t.Context(), conf); err != nil {
				t.Fatal(err)
			}
			test.harm(t, l, pod)
			if err := l.Check(t.Context(), conf); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("CHECK = %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestGC(t *testing.T) {
	for _, agent := range []string{"up", "away"} {
		t.Run("agent "+agent, func(t *testing.T) {
			l := newLab(t)
			for i := range 4 {
				if _, err := l.Add(t.Context(), cnilab.Attachment(fmt.Sprint("c", i), netlab.New(t))); err != nil {
					t.Fatal(err)
				}
			}
			if agent == "away" {
				l.agent.stop()
			}
			// Another runtime directory: without cached attachments libcni makes no DEL of its own.
			fresh := cnilab.NewRuntime(t, l.Node, os.Getenv(binEnv), string(l.List.Bytes))
			if err := fresh.GC(t.Context(), "c1", "c3"); err != nil {
				t.Fatal(err)
			}
			leases := l.contents(t).Leases
			if len(leases) != 2 || leases[0].ContainerID != "c1" || leases[1].ContainerID != "c3" {
				t.Errorf("leases = %+v, want c1's and c3's", leases)
			}
			if n := l.links(t); n != 2 {
				t.Errorf("%d links, want 2", n)
			}
			if n := len(l.agent.list()); agent == "up" && n != 2 {
				t.Errorf("%d endpoints with the agent, want 2", n)
			}
		})
	}
}

func TestGCWithoutList(t *testing.T) {
	l := newLab(t)
	if _, err := l.Add(t.Context(), cnilab.Attachment("c1", netlab.New(t))); err != nil {
		t.Fatal(err)
	}
	args := call(`{"cniVersion":"1.1.0","name":"patchbay","type":"patchbay","ipam":{"type":"patchbay-ipam","leases":"` + l.store.Path() + `"}}`)
	if err := coded(gc)(args); code(err) != types.ErrInvalidNetworkConfig {
		t.Errorf("GC = %v, want code 7", err)
	}
	if leases := l.contents(t).Leases; len(leases) != 1 {
		t.Errorf("leases = %+v, want c1's", leases)
	}
}

func TestGate(t *testing.T) {
	l := newLab(t)
	busy, err := flock.Take(filepath.Join(l.dir, "cni.lock"), flock.Shared, time.Second) // an ADD under way
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Add(t.Context(), cnilab.Attachment("c1", netlab.New(t))); err != nil {
		t.Errorf("ADD beside an ADD: %v", err)
	}
	fresh := cnilab.NewRuntime(t, l.Node, os.Getenv(binEnv), string(l.List.Bytes))
	done := make(chan error, 1)
	go func() { done <- fresh.GC(t.Context()) }()
	if leases := l.contents(t).Leases; len(leases) != 1 {
		t.Errorf("leases = %+v, want GC to wait", leases)
	}
	busy.Close()
	if err := <-done; err != nil {
		t.Errorf("GC: %v", err)
	}
	l.checkClean(t)
}
