// SPDX-License-Identifier: Apache-2.0

package vswitch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/pkg/netdev/leg"
	"github.com/patchbay-net/patchbay/plugins/cni"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// lab is a device with an internal switch, a namespace to plug in, and an IPAM
// plugin that always gives the same addresses and notes each call.
type lab struct {
	here, inside *netlab.Namespace
	calls        string
}

const ipamScript = `#!/bin/sh
echo $CNI_COMMAND >> %s
cat > /dev/null
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"172.31.0.10/24","gateway":"172.31.0.1"},{"address":"fd00:31::10/64"}],"routes":[{"dst":"0.0.0.0/0"}]}'
`

func newLab(t *testing.T) *lab {
	dir := t.TempDir()
	l := &lab{here: netlab.Open(t, "/proc/self/ns/net"), inside: netlab.New(t), calls: filepath.Join(dir, "calls")}
	script := fmt.Sprintf(ipamScript, l.calls)
	if err := os.WriteFile(filepath.Join(dir, "fixed-ipam"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CNI_PATH", dir)
	l.here.Exec(t, "ip", "link", "add", "pb-int", "type", "bridge")
	l.here.Exec(t, "ip", "link", "set", "pb-int", "up")
	l.here.Addr(t, "pb-int", "172.31.0.1/24")
	return l
}

const internalConf = `{"cniVersion":"1.1.0","name":"inside","type":"patchbay-vswitch","switch":"internal","ipam":{"type":"fixed-ipam"}%s}`

// args is a call for the lab's namespace; extra is added to the configuration.
func (l *lab) args(extra string) *cni.Args {
	return &cni.Args{ContainerID: "node-a", Netns: l.inside.Path(), IfName: "eth0", StdinData: fmt.Appendf(nil, internalConf, extra)}
}

// call runs a verb as the runtime does: by its name in the environment, with what it prints returned.
func call(t *testing.T, verb string, f func(*cni.Args) error, args *cni.Args) (string, error) {
	t.Helper()
	t.Setenv("CNI_COMMAND", verb)
	t.Setenv("CNI_CONTAINERID", args.ContainerID)
	t.Setenv("CNI_NETNS", args.Netns)
	t.Setenv("CNI_IFNAME", args.IfName)
	stdout := os.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout = w
	err = f(args)
	os.Stdout = stdout
	w.Close()
	out, _ := io.ReadAll(r)
	return string(out), err
}

func TestLifeOfALeg(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		if _, err := call(t, "STATUS", status, l.args("")); err != nil {
			t.Errorf("status: %v", err)
		}
		out, err := call(t, "ADD", add, l.args(""))
		if err != nil {
			t.Fatal(err)
		}
		var got types100.Result
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("result %q: %v", out, err)
		}
		var names []string
		for _, i := range got.Interfaces {
			names = append(names, i.Name)
		}
		if want := []string{"pb-int", leg.HostName("node-a", "eth0"), "eth0"}; cmp.Diff(want, names) != "" {
			t.Errorf("interfaces: got %v, want %v", names, want)
		}
		if got.Interfaces[2].Sandbox != l.inside.Path() || *got.IPs[0].Interface != 2 || got.Routes[0].GW.String() != "172.31.0.1" {
			t.Errorf("result: %s", out)
		}
		l.inside.Exec(t, "ping", "-c1", "-W2", "172.31.0.1")

		prev := `,"prevResult":` + out
		if _, err := call(t, "CHECK", check, l.args(prev)); err != nil {
			t.Errorf("check: %v", err)
		}
		l.inside.Down(t, "eth0")
		if _, err := call(t, "CHECK", check, l.args(prev)); err == nil {
			t.Error("check of a leg that is down: no error")
		}
		if _, err := call(t, "GC", gc, l.args(`,"cni.dev/valid-attachments":[{"containerID":"node-a","ifname":"eth0"}]`)); err != nil {
			t.Errorf("gc: %v", err)
		}
		l.inside.Exec(t, "ip", "link", "show", "eth0")
		for range 2 {
			if _, err := call(t, "DEL", del, l.args("")); err != nil {
				t.Errorf("del: %v", err)
			}
		}
		if _, err := l.inside.TryExec("ip", "link", "show", "eth0"); err == nil {
			t.Error("the leg is there after DEL")
		}
		calls, _ := os.ReadFile(l.calls)
		if want := "STATUS ADD CHECK CHECK GC DEL DEL"; strings.Join(strings.Fields(string(calls)), " ") != want {
			t.Errorf("IPAM was called for %q, want %q", calls, want)
		}
	})
}

func TestGCRemovesStaleLegs(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		if _, err := call(t, "ADD", add, l.args("")); err != nil {
			t.Fatal(err)
		}
		if _, err := call(t, "GC", gc, l.args(`,"cni.dev/valid-attachments":[]`)); err != nil {
			t.Errorf("gc: %v", err)
		}
		if _, err := l.inside.TryExec("ip", "link", "show", "eth0"); err == nil {
			t.Error("the stale leg is there after GC")
		}
	})
}

func TestAddGivesAddressesBackWhenItFails(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		l.inside.Exec(t, "ip", "link", "add", "eth0", "type", "bridge") // the name is taken
		if _, err := call(t, "ADD", add, l.args("")); err == nil {
			t.Fatal("no error")
		}
		if calls, _ := os.ReadFile(l.calls); string(calls) != "ADD\nDEL\n" {
			t.Errorf("IPAM was called for %q", calls)
		}
		if links := l.here.Exec(t, "ip", "-o", "link"); strings.Contains(links, leg.HostName("node-a", "eth0")) {
			t.Errorf("left:\n%s", links)
		}
	})
}

func TestGCWithoutAListIsRefused(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		if _, err := call(t, "ADD", add, l.args("")); err != nil {
			t.Fatal(err)
		}
		if _, err := call(t, "GC", gc, l.args("")); err == nil {
			t.Error("gc without valid attachments: no error")
		}
		l.inside.Exec(t, "ip", "link", "show", "eth0")
	})
}

// TestOwnIPAM leases in process, from a range of two.
func TestOwnIPAM(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		own := `"ipam":{"type":"patchbay-ipam","leases":"/var/lib/patchbay/nodeleases.db",
			"ranges":[[{"subnet":"172.31.0.0/24","rangeStart":"172.31.0.20","rangeEnd":"172.31.0.21"}]],"routes":[{"dst":"0.0.0.0/0","gw":"172.31.0.1"}]}`
		args := func(id string) *cni.Args {
			a := l.args("")
			a.ContainerID = id
			a.StdinData = []byte(strings.Replace(string(a.StdinData), `"ipam":{"type":"fixed-ipam"}`, own, 1))
			return a
		}
		out, err := call(t, "ADD", add, args("node-a"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out, `"172.31.0.20/24"`) {
			t.Errorf("result: %s", out)
		}
		if routes := l.inside.Exec(t, "ip", "route"); !strings.Contains(routes, "default via 172.31.0.1") {
			t.Errorf("routes:\n%s", routes)
		}
		if _, err := call(t, "ADD", add, args("node-b")); err == nil {
			t.Error("eth0 is taken: got no error")
		}
		if _, err := call(t, "DEL", del, args("node-a")); err != nil {
			t.Errorf("del: %v", err)
		}
		if _, err := call(t, "STATUS", status, args("")); err != nil {
			t.Errorf("status: %v", err)
		}
	})
}

func TestPreviousResultIsKept(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		prev := `,"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth9","sandbox":"/x"}],"ips":[{"address":"10.0.0.1/24","interface":0}]}`
		out, err := call(t, "ADD", add, l.args(prev))
		if err != nil {
			t.Fatal(err)
		}
		var got types100.Result
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Interfaces) != 4 || got.Interfaces[0].Name != "eth9" || len(got.IPs) != 3 || *got.IPs[0].Interface != 0 || *got.IPs[1].Interface != 3 {
			t.Errorf("result: %s", out)
		}
	})
}

func TestRefusals(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		self := l.args("")
		self.Netns = "/proc/self/ns/net"
		nowhere := l.args("")
		nowhere.Netns = "/proc/none"
		for _, tt := range []struct {
			name string
			args *cni.Args
			code uint
			text string
		}{
			{"cut in half", &cni.Args{StdinData: []byte(`{"name":"x"`)}, types.ErrDecodingFailure, "decode configuration"},
			{"absent switch", &cni.Args{Netns: l.inside.Path(), StdinData: []byte(strings.Replace(string(l.args("").StdinData), `"internal"`, `"external"`, 1))}, types.ErrInvalidNetworkConfig, "no such switch: pb-ext"},
			{"unknown switch", &cni.Args{StdinData: []byte(strings.Replace(string(l.args("").StdinData), `"internal"`, `"sideways"`, 1))}, types.ErrInvalidNetworkConfig, "sideways"},
			{"bad MAC", l.args(`,"mac":"01:00:5e:00:00:01"`), types.ErrInvalidNetworkConfig, "mac"},
			{"bad MTU", l.args(`,"mtu":1000`), types.ErrInvalidNetworkConfig, "mtu 1000"},
			{"capability", l.args(`,"runtimeConfig":{"portMappings":[]}`), types.ErrInvalidNetworkConfig, "capability portMappings is not supported"},
			{"no namespace", nowhere, types.ErrInvalidNetNS, "/proc/none"},
			{"the switches' own namespace", self, types.ErrInvalidNetNS, "namespace of the switches"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				_, err := call(t, "ADD", add, tt.args)
				got, ok := errors.AsType[*types.Error](err)
				if !ok || got.Code != tt.code || !strings.Contains(got.Error(), tt.text) {
					t.Errorf("error: got %v, want code %d and %q", err, tt.code, tt.text)
				}
			})
		}
		if calls, _ := os.ReadFile(l.calls); len(calls) > 0 {
			t.Errorf("IPAM was called for %q", calls)
		}
	})
}
