// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/netdev/switches"
	"github.com/patchbay-net/patchbay/pkg/source/file"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// startDevice runs the device's agent on folders below dir until stop.
func startDevice(t *testing.T, dir string) (client agentapi.Client, stop func()) {
	t.Helper()
	opts := file.Options{Dir: filepath.Join(dir, "objects"), StatusDir: filepath.Join(dir, "status"), Log: slog.New(slog.DiscardHandler)}
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	src, err := file.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	writer, err := file.NewWriter(opts)
	if err != nil {
		t.Fatal(err)
	}
	d := New(switches.Keeper{Sysctls: "/proc/sys", Seed: "device"}, src, writer, slog.New(slog.DiscardHandler))
	client = agentapi.Client{Path: filepath.Join(dir, "run", "agent.sock")}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx, client.Path) }()
	netlab.WaitFor(t, 5*time.Second, "the device's agent", func() error {
		_, err := client.Switches(t.Context())
		return err
	})
	return client, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
}

// What patchbayctl makes is there for good, and goes when it says so.
func TestSwitchesByHand(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		here, outside := netlab.Open(t, "/proc/self/ns/net"), netlab.New(t)
		netlab.Wire(t, here, "port3", outside, "eth0")
		netlab.Wire(t, here, "port4", outside, "eth1")
		here.Addr(t, "port3", "192.168.50.1/24")
		here.Exec(t, "ip", "link", "add", "br9", "type", "bridge")
		here.Exec(t, "ip", "link", "set", "port4", "master", "br9")
		addrs := func() string { return here.Exec(t, "sh", "-c", "ip -o -4 addr | sed 's/valid_lft.*//; s/^[0-9]*: //'") }
		before, dir, ctx := addrs(), t.TempDir(), t.Context()
		client, stop := startDevice(t, dir)

		if _, err := client.CreateSwitch(ctx, agentapi.SwitchCreate{Type: "internal", Addrs: []netip.Prefix{netip.MustParsePrefix("172.31.0.1/24")}}); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			create agentapi.SwitchCreate
			want   string
		}{
			{agentapi.SwitchCreate{Type: "external", Port: "port9"}, "port port9: no such interface"},
			{agentapi.SwitchCreate{Type: "external", Port: "port4"}, "port port4 belongs to bridge br9"},
			{agentapi.SwitchCreate{Type: "external"}, "spec.port"},
			{agentapi.SwitchCreate{Type: "external", Port: "port3", VLAN: 4095}, "spec.vlan"},
			{agentapi.SwitchCreate{Type: "internal"}, "spec.addresses"},
			{agentapi.SwitchCreate{Type: "outer"}, "not internal or external"},
		} {
			if _, err := client.CreateSwitch(ctx, tt.create); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("create %+v: %v, want %q", tt.create, err, tt.want)
			}
		}
		port3 := agentapi.SwitchCreate{Type: "external", Port: "port3", MTU: 1600}
		made, err := client.CreateSwitch(ctx, port3)
		if err != nil || made.Bridge != "pb-ext" || made.Uplink != "port3" || made.MTU != 1600 {
			t.Fatalf("create: %+v, %v", made, err)
		}
		if _, err := client.CreateSwitch(ctx, agentapi.SwitchCreate{Type: "external", Port: "port4"}); err == nil || !strings.Contains(err.Error(), "there already, on port port3") {
			t.Errorf("a second external switch: %v", err)
		}
		if _, err := client.AddRoute(ctx, agentapi.RouteAdd{Interface: "port3", Destination: "10.0.0.0/8"}); err == nil || !strings.Contains(err.Error(), "device's host") {
			t.Errorf("a route on the device's host: %v", err)
		}

		stop() // and the device boots
		if err := switches.Remove(); err != nil {
			t.Fatal(err)
		}
		client, stop = startDevice(t, dir)
		netlab.WaitFor(t, 5*time.Second, "the switches after a boot", func() error {
			_, err := here.TryExec("sh", "-e", "-c", "ip link show pb-int; ip link show pb-ext; ip -o link show port3 | grep 'master pb-ext'")
			return err
		})
		if err := client.DisablePort(ctx, "port4"); err == nil || !strings.Contains(err.Error(), "not enabled for compute") {
			t.Errorf("disable another port: %v", err)
		}
		if err := client.DisablePort(ctx, "port3"); err != nil {
			t.Fatal(err)
		}
		if got, want := addrs(), before+"pb-int    inet 172.31.0.1/24 brd 172.31.0.255 scope global pb-int\\       \n"; got != want {
			t.Errorf("addresses after: %q, want %q", got, want)
		}
		stop()
	})
}
