// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/netdev/switches"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// deviceSource emits what a test sends it.
type deviceSource chan source.Event

func (s deviceSource) Run(ctx context.Context, _ []source.Kind, emit func(source.Event)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-s:
			emit(ev)
		}
	}
}

// declare sends a declaration.
func (s deviceSource) declare(name string, spec v1alpha1.VirtualSwitchSpec) {
	o := &v1alpha1.VirtualSwitch{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	s <- source.Event{Op: source.Upsert, Kind: source.KindVirtualSwitch, Key: source.KeyOf(o), Object: o}
}

// deviceWriter remembers the last status of each switch.
type deviceWriter struct {
	source.Writer
	mu     sync.Mutex
	status map[string]v1alpha1.VirtualSwitchStatus
}

func (w *deviceWriter) UpdateStatus(_ context.Context, obj source.Object) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status[obj.GetName()] = obj.(*v1alpha1.VirtualSwitch).Status
	return nil
}

// is returns an error unless the switch's Ready condition is as given and its message holds text.
func (w *deviceWriter) is(name string, ready metav1.ConditionStatus, text string) func() error {
	return func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range w.status[name].Conditions {
			if c.Type == "Ready" && c.Status == ready && strings.Contains(c.Message, text) {
				return nil
			}
		}
		return fmt.Errorf("status of %s: %+v", name, w.status[name])
	}
}

func TestDeviceKeepsSwitchesAsDeclared(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, outside := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "port3", outside, "eth0")
		here.Addr(t, "port3", "192.168.50.1/24")
		src, writer := make(deviceSource), &deviceWriter{status: map[string]v1alpha1.VirtualSwitchStatus{}}
		d := New(switches.Keeper{Sysctls: "/proc/sys", Seed: "device"}, src, writer, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()

		src.declare("in", v1alpha1.VirtualSwitchSpec{Type: v1alpha1.SwitchInternal, Addresses: []string{"172.31.0.1/24"}})
		src.declare("ext", v1alpha1.VirtualSwitchSpec{Type: v1alpha1.SwitchExternal, Port: "port9"})
		src <- source.Event{Op: source.Synced, Kind: source.KindVirtualSwitch}
		netlab.WaitFor(t, 5*time.Second, "internal switch", writer.is("in", metav1.ConditionTrue, ""))
		netlab.WaitFor(t, 5*time.Second, "refusal", writer.is("ext", metav1.ConditionFalse, "port port9: no such interface"))

		src.declare("ext", v1alpha1.VirtualSwitchSpec{Type: v1alpha1.SwitchExternal, Port: "port3"})
		netlab.WaitFor(t, 5*time.Second, "external switch", writer.is("ext", metav1.ConditionTrue, ""))
		here.Exec(t, "ip", "link", "del", "pb-int")
		netlab.WaitFor(t, 5*time.Second, "internal switch made again", func() error {
			_, err := here.TryExec("ip", "link", "show", "pb-int", "up")
			return err
		})
		src <- source.Event{Op: source.Delete, Kind: source.KindVirtualSwitch, Key: source.Key{Name: "ext"}}
		netlab.WaitFor(t, 5*time.Second, "the port's own address", func() error {
			out, err := here.TryExec("ip", "-o", "addr", "show", "port3")
			if err == nil && !strings.Contains(out, "192.168.50.1/24") {
				err = fmt.Errorf("port3 has %s", out)
			}
			return err
		})
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		here.Exec(t, "ip", "link", "show", "pb-int")
	})
}
