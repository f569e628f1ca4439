// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/plugins/cni"
	"github.com/patchbay-net/patchbay/plugins/ipam"
)

func call(stdin string) *cni.Args {
	return &cni.Args{ContainerID: "c1", IfName: "eth0", Netns: "/run/netns/x", StdinData: []byte(stdin)}
}

func TestParse(t *testing.T) {
	tests := []struct{ name, conf, want string }{
		{"plain", `"ipam":{"type":"x"}`, ""},
		{"all keys", `"mtu":9000,"agentSocket":"/a","readyFile":"/b","dns":{},"args":{},"cni.dev/new":1,"ipam":{"type":"x"},"capabilities":{"ips":true,"mac":true,"bandwidth":false},"runtimeConfig":{"ips":[],"mac":""}`, ""},
		{"no IPAM", `"mtu":1500`, "ipam has no type"},
		{"unknown key", `"mtuu":1500,"ipam":{"type":"x"}`, `"mtuu"`},
		{"wrong type", `"mtu":"1500","ipam":{"type":"x"}`, "mtu"},
		{"MTU too small", `"mtu":67,"ipam":{"type":"x"}`, "67"},
		{"MTU too large", `"mtu":70000,"ipam":{"type":"x"}`, "70000"},
		{"relative socket", `"agentSocket":"a.sock","ipam":{"type":"x"}`, `agentSocket "a.sock"`},
		{"unknown capability", `"capabilities":{"dns":true},"ipam":{"type":"x"}`, `"dns"`},
		{"port mappings without our IPAM", `"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80,"protocol":"tcp"}]},"ipam":{"type":"x"}`, "patchbay-ipam"},
		{"port mappings of another shape", `"runtimeConfig":{"portMappings":7},"ipam":{"type":"patchbay-ipam"}`, "portMappings"},
		{"no such protocol", `"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80,"protocol":"icmp"}]},"ipam":{"type":"patchbay-ipam"}`, "icmp"},
		{"port out of range", `"runtimeConfig":{"portMappings":[{"hostPort":80000,"containerPort":80,"protocol":"tcp"}]},"ipam":{"type":"patchbay-ipam"}`, "80000"},
		{"no container port", `"runtimeConfig":{"portMappings":[{"hostPort":80,"protocol":"tcp"}]},"ipam":{"type":"patchbay-ipam"}`, "container port"},
		{"no address", `"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80,"protocol":"tcp","hostIP":"x"}]},"ipam":{"type":"patchbay-ipam"}`, `"x"`},
		{"two of one port", `"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80,"protocol":"tcp"},{"hostPort":80,"containerPort":81,"protocol":"TCP","hostIP":"10.0.0.1"}]},"ipam":{"type":"patchbay-ipam"}`, "twice"},
		{"bandwidth", `"runtimeConfig":{"bandwidth":{"ingressRate":1}},"ipam":{"type":"x"}`, `"bandwidth"`},
		{"MAC of a group", `"runtimeConfig":{"mac":"01:00:5e:00:00:01"},"ipam":{"type":"x"}`, "01:00:5e:00:00:01"},
		{"no MAC", `"runtimeConfig":{"mac":"hello"},"ipam":{"type":"x"}`, "hello"},
		{"bad previous result", `"prevResult":{"ips":7},"ipam":{"type":"x"}`, "prevResult"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			args := call(`{"cniVersion":"1.1.0","name":"n","type":"patchbay",` + test.conf + `}`)
			_, err := parse(args, strict)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ipam.ErrConf) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want ErrConf and %q", err, test.want)
			}
			if _, err := parse(args, lenient); err != nil {
				t.Errorf("lenient: %v, want nothing to hold up a DEL", err)
			}
		})
	}
}

func TestParsePorts(t *testing.T) {
	c, err := parse(call(`{"cniVersion":"1.1.0","name":"n","type":"patchbay","ipam":{"type":"patchbay-ipam"},"runtimeConfig":{"portMappings":[
		{"hostPort":8080,"containerPort":80,"protocol":"TCP"},
		{"hostPort":53,"containerPort":5353,"protocol":"udp","hostIP":"0.0.0.0"},
		{"hostPort":8443,"containerPort":443,"hostIP":"127.0.0.1"},
		{"hostPort":0,"containerPort":9}]}}`), strict)
	if err != nil {
		t.Fatal(err)
	}
	want := []store.PortMapping{
		{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"},
		{HostPort: 53, ContainerPort: 5353, Protocol: "udp"},
		{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8443, ContainerPort: 443, Protocol: "tcp"},
	}
	if !slices.Equal(c.ports, want) {
		t.Errorf("ports = %+v, want %+v", c.ports, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"n","type":"patchbay","mtu":1500,"ipam":{"type":"patchbay-ipam","ranges":[[{"subnet":"10.0.0.0/24"}]]},"prevResult":{"ips":[{"address":"10.0.0.1/24","interface":0}]}}`))
	f.Add([]byte(`{"ipam":{"type":"patchbay-ipam"},"cni.dev/valid-attachments":[{"containerID":"a","ifname":"b"}]}`))
	f.Fuzz(func(t *testing.T, stdin []byte) {
		args := call(string(stdin))
		for _, s := range []strictness{strict, lenient} {
			c, err := parse(args, s)
			if err != nil {
				if !errors.Is(err, ipam.ErrConf) {
					t.Errorf("error = %v, want ErrConf", err)
				}
				continue
			}
			if c.prev != nil {
				c.previousAddrs()
			}
			if _, err := c.addresses(s); err != nil && !errors.Is(err, ipam.ErrConf) {
				t.Errorf("addresses: %v, want ErrConf", err)
			}
		}
	})
}
