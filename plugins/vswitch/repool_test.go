// SPDX-License-Identifier: Apache-2.0

package vswitch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/plugins/cni"
	"github.com/patchbay-net/patchbay/plugins/ipam"
	"github.com/patchbay-net/patchbay/test/cnilab"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const deviceObjects = `
apiVersion: patchbay.net/v1alpha1
kind: VirtualSwitch
metadata: {name: internal}
spec: {type: Internal, addresses: [172.31.0.1/24, 172.31.7.1/24]}
---
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: nodes}
spec:
  use: Node
  cidrs: [%[1]s.0/24]
  ranges: [{first: %[1]s.20, last: %[1]s.29}]
  gateway: %[1]s.1
  coolDown: 1s
  disabled: %[2]t
  static: [{address: 172.31.0.28, name: vm-s}, {address: 172.31.0.29, mac: "02:00:00:00:00:29"}]
`

// device is a device with the real agent, whose pool for nodes changes.
type device struct {
	t     *testing.T
	rooms map[string]*netlab.Namespace
}

func newDevice(t *testing.T, binary string) *device {
	d := &device{t, map[string]*netlab.Namespace{}}
	d.write("/etc/patchbay/config.yaml", "nodeName: device\nsource: file:/etc/patchbay/objects\npodCIDRs: [10.244.0.0/16]\nserviceCIDRs: [10.96.0.0/16]\n")
	d.declare("172.31.0", false)
	agent := exec.Command(binary, "--role=device")
	agent.Stderr = os.Stderr
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
	here := netlab.Open(t, "/proc/self/ns/net")
	netlab.WaitFor(t, time.Minute, "the switch", func() error {
		addrs, err := here.TryExec("ip", "-o", "addr", "show", "dev", "pb-int", "up")
		if err == nil && !strings.Contains(addrs, "172.31.7.1/24") {
			err = errors.New(addrs)
		}
		return err
	})
	return d
}

func (d *device) write(path, text string) {
	d.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		d.t.Fatal(err)
	}
}

// declare gives the pool a network's range.
func (d *device) declare(network string, disabled bool) {
	d.write("/etc/patchbay/objects/device.yaml", fmt.Sprintf(deviceObjects, network, disabled))
}

// change does so while the agent runs, and waits until the plugins are told.
func (d *device) change(network string, disabled bool) {
	d.t.Helper()
	d.declare(network, disabled)
	netlab.WaitFor(d.t, 30*time.Second, "the pool for the plugins", func() error {
		text, err := os.ReadFile(ipam.PoolsFile)
		if err == nil && strings.Contains(string(text), network+".20") == disabled {
			err = errors.New(string(text))
		}
		return err
	})
}

func (d *device) args(name, extra string) *cni.Args {
	if d.rooms[name] == nil {
		d.rooms[name] = netlab.New(d.t)
	}
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"inside","type":"patchbay-vswitch","switch":"internal","args":{"cni":{"name":%q}},%s
		"ipam":{"type":"patchbay-ipam","leases":%q,"pool":"nodes"}}`, name, extra, store.NodeLeases)
	return &cni.Args{ContainerID: "id-" + name, Netns: d.rooms[name].Path(), IfName: "eth0", StdinData: []byte(conf)}
}

// plug makes a leg and returns its result, for CHECK, and its address.
func (d *device) plug(name, extra string) (string, netip.Addr) {
	d.t.Helper()
	out, err := call(d.t, "ADD", add, d.args(name, extra))
	if err != nil {
		d.t.Fatalf("ADD for %s: %v", name, err)
	}
	var result types100.Result
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		d.t.Fatal(err)
	}
	a, _ := netip.AddrFromSlice(result.IPs[0].Address.IP)
	a = a.Unmap()
	d.rooms[name].Exec(d.t, "ping", "-c1", "-W5", a.String()[:strings.LastIndex(a.String(), ".")]+".1")
	return out, a
}

func (d *device) unplug(name string) {
	d.t.Helper()
	if _, err := call(d.t, "DEL", del, d.args(name, "")); err != nil {
		d.t.Fatalf("DEL for %s: %v", name, err)
	}
}

// stands tells that a leg works on as it was made.
func (d *device) stands(when, name, result, gateway string) {
	d.t.Helper()
	if _, err := call(d.t, "CHECK", check, d.args(name, `"prevResult":`+result+`,`)); err != nil {
		d.t.Errorf("%s: CHECK for %s: %v", when, name, err)
	}
	d.rooms[name].Exec(d.t, "ping", "-c1", "-W5", gateway)
}

// leases shows what the machines have.
func (d *device) leases() string {
	d.t.Helper()
	contents, err := store.New(store.NodeLeases, store.Options{}).List()
	if err != nil {
		d.t.Fatal(err)
	}
	var out []string
	for _, l := range contents.Leases {
		out = append(out, fmt.Sprint(l.Owner, l.Addrs))
	}
	return strings.Join(out, " ")
}

// refused wants an ADD to fail with words that tell why, and to leave nothing.
func (d *device) refused(name, extra, why string) {
	d.t.Helper()
	before := d.leases()
	if _, err := call(d.t, "ADD", add, d.args(name, extra)); err == nil || !strings.Contains(err.Error(), why) {
		d.t.Errorf("ADD for %s: error %v, want %q in it", name, err, why)
	}
	if after := d.leases(); after != before {
		d.t.Errorf("leases after the refusal: %s, before %s", after, before)
	}
}

// TestNodePoolOnARunningDevice moves the pool for nodes to another network and
// back, while the device's agent and the legs made before go on.
func TestNodePoolOnARunningDevice(t *testing.T) {
	netlab.Require(t)
	binary := filepath.Join(t.TempDir(), "patchbayd")
	if err := cnilab.BuildAgent(binary); err != nil {
		t.Fatal(err)
	}
	netlab.Isolate(t, func(t *testing.T) {
		d := newDevice(t, binary)
		d.change("172.31.0", false)
		is := func(what string, got netip.Addr, want string) {
			t.Helper()
			if got.String() != want {
				t.Errorf("%s has %s, want %s", what, got, want)
			}
		}
		mac := `"mac":"02:00:00:00:00:29",`
		result1, a := d.plug("n1", "")
		is("n1", a, "172.31.0.20")
		_, a = d.plug("vm-s", "")
		is("vm-s, by its name", a, "172.31.0.28")
		d.unplug("vm-s")
		_, a = d.plug("vm-m", mac)
		is("vm-m, by its MAC address", a, "172.31.0.29")
		d.unplug("vm-m")

		d.change("172.31.7", false)
		d.stands("in another network", "n1", result1, "172.31.0.1")
		result2, a := d.plug("n2", "")
		is("n2", a, "172.31.7.20")
		if got, want := d.leases(), "n1[172.31.0.20] n2[172.31.7.20]"; got != want {
			t.Errorf("leases %s, want %s", got, want)
		}
		d.refused("vm-s", "", "172.31.0.28")
		d.refused("vm-m", mac, "172.31.0.29")
		d.unplug("n1")
		_, a = d.plug("n1", "")
		is("n1 made anew", a, "172.31.7.21")

		d.change("172.31.7", true)
		d.stands("disabled", "n2", result2, "172.31.7.1")
		d.refused("n3", "", "no such pool of use Node")

		d.change("172.31.0", false)
		d.stands("back", "n2", result2, "172.31.7.1")
		d.unplug("n1")
		if _, a = d.plug("n1", ""); !netip.MustParsePrefix("172.31.0.16/28").Contains(a) {
			t.Errorf("n1 made anew has %s, want one of the first range", a)
		}
		_, a = d.plug("vm-s", "")
		is("vm-s", a, "172.31.0.28")
	})
}
