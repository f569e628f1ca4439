// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/store"
)

const twoRanges = `"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::/120"}]]`

func load1(conf, args string, mode Mode) (*Network, error) {
	return Load([]byte(`{"cniVersion":"1.1.0","name":"net","type":"x",`+conf+`}`), args, mode, store.Options{})
}

func TestLoad(t *testing.T) {
	n, err := load1(`"ipam":{"type":"patchbay-ipam","leases":"/x/leases.db","coolDown":"2m","routes":[{"dst":"0.0.0.0/0"}],`+twoRanges+`},
		"runtimeConfig":{"ips":["10.0.0.9/24"]},"args":{"cni":{"ips":["fd00::9"]}}`,
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_UID=uid;SOMETHING=else", Mode{Gateways: true})
	if err != nil {
		t.Fatal(err)
	}
	if n.Name != "net" || n.Store.Path() != "/x/leases.db" || len(n.Routes) != 1 || n.Pod != (Pod{"ns", "pod", "uid"}) {
		t.Errorf("network = %+v", n)
	}
	if want := (ipam.Rest{CoolDown: 2 * time.Minute, Minimum: 5 * time.Second}); n.Rest != want {
		t.Errorf("rest = %v, want %v", n.Rest, want)
	}
	requested := []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")}
	if diff := cmp.Diff(requested, n.Requested, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("requested (-want +got):\n%s", diff)
	}
	if got := fmt.Sprint(n.Pools); got != "[[10.0.0.2-10.0.0.254] [fd00::2-fd00::ff]]" {
		t.Errorf("pools = %s, want the gateways reserved", got)
	}
}

func TestLoadRefuses(t *testing.T) {
	tests := []struct {
		name, conf, args string
		want             []string
	}{
		{"no section", `"mtu":1`, "", []string{"no ipam section"}},
		{"no ranges", `"ipam":{}`, "", []string{"no ranges"}},
		{"empty set", `"ipam":{"ranges":[[]]}`, "", []string{"no subnet"}},
		{"unknown key", `"ipam":{"range":[],` + twoRanges + `}`, "", []string{`"range"`}},
		{"unknown key of a range", `"ipam":{"ranges":[[{"subnet":"10.0.0.0/24","gw":"10.0.0.1"}]]}`, "", []string{`"gw"`}},
		{"not a subnet", `"ipam":{"ranges":[[{"subnet":"10.0.0.0"}]]}`, "", []string{"10.0.0.0"}},
		{"host bits", `"ipam":{"ranges":[[{"subnet":"10.0.0.1/24"}]]}`, "", []string{"10.0.0.1/24"}},
		{"overlap in a set", `"ipam":{"ranges":[[{"subnet":"10.0.0.0/24"},{"subnet":"10.0.0.128/25"}]]}`, "", []string{"10.0.0.1-10.0.0.254", "10.0.0.129-10.0.0.254"}},
		{"overlap of sets", `"ipam":{"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.0.0.64/26"}]]}`, "", []string{"net/0", "net/1"}},
		{"backwards", `"ipam":{"ranges":[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9","rangeEnd":"10.0.0.3"}]]}`, "", []string{"10.0.0.9", "10.0.0.3"}},
		{"gateway elsewhere", `"ipam":{"ranges":[[{"subnet":"10.0.0.0/24","gateway":"10.1.0.1"}]]}`, "", []string{"gateway", "10.1.0.1"}},
		{"cool-down", `"ipam":{"coolDown":"soon",` + twoRanges + `}`, "", []string{"soon"}},
		{"negative cool-down", `"ipam":{"coolDown":"-1s",` + twoRanges + `}`, "", []string{"-1s"}},
		{"relative store", `"ipam":{"leases":"leases.db",` + twoRanges + `}`, "", []string{"leases.db"}},
		{"requested nonsense", `"runtimeConfig":{"ips":["ten"]},"ipam":{` + twoRanges + `}`, "", []string{"ten"}},
		{"unknown argument", `"ipam":{` + twoRanges + `}`, "NO_SUCH=1", []string{"NO_SUCH"}},
		{"malformed argument", `"ipam":{` + twoRanges + `}`, "IP", []string{"IP"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := load1(test.conf, test.args, Mode{})
			if !errors.Is(err, ErrConf) {
				t.Fatalf("error = %v, want ErrConf", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error = %v, want %q in it", err, want)
				}
			}
			if coded, ok := errors.AsType[*types.Error](CNIError(err)); !ok || coded.Code != types.ErrInvalidNetworkConfig {
				t.Errorf("CNI error = %v, want code 7", coded)
			}
		})
	}
}

func TestDurable(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		conf Conf
		want bool
	}{
		{Conf{Leases: "/run/patchbay/leases.db"}, false},
		{Conf{Leases: "/var/lib/patchbay/nodeleases.db"}, true},
		{Conf{Leases: "/run/x", Durable: &yes}, true},
		{Conf{Leases: "/var/x", Durable: &no}, false},
	} {
		if got := test.conf.durable(); got != test.want {
			t.Errorf("durable of %+v = %t, want %t", test.conf, got, test.want)
		}
	}
}

func TestValidAttachments(t *testing.T) {
	want := []store.Key{{ContainerID: "a", IfName: "eth0"}}
	tests := []struct {
		name, conf string
		want       []store.Key
		ok         bool
	}{
		{"new key", `{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}],"cni.dev/attachments":[]}`, want, true},
		{"old key", `{"cni.dev/attachments":[{"containerID":"a","ifname":"eth0"}]}`, want, true},
		{"empty", `{"cni.dev/valid-attachments":[]}`, []store.Key{}, true},
		{"null", `{"cni.dev/valid-attachments":null}`, []store.Key{}, true},
		{"none", `{}`, nil, false},
		{"nonsense", `{"cni.dev/valid-attachments":7}`, nil, false},
		{"nameless", `{"cni.dev/valid-attachments":[{"containerID":"a"}]}`, nil, false},
	}
	for _, test := range tests {
		got, err := ValidAttachments([]byte(test.conf))
		if (err == nil) != test.ok || !cmp.Equal(got, test.want) {
			t.Errorf("%s: %v, %v, want %v, ok %t", test.name, got, err, test.want, test.ok)
		}
	}
}

func TestCNIError(t *testing.T) {
	tests := []struct {
		err  error
		code uint
	}{
		{store.ErrBusy, types.ErrTryAgainLater},
		{fmt.Errorf("x: %w", ipam.ErrExhausted), types.ErrTryAgainLater},
		{ipam.ErrHeld, types.ErrTryAgainLater},
		{ipam.ErrInvalid, types.ErrInvalidNetworkConfig},
		{ipam.ErrOutside, types.ErrInvalidNetworkConfig},
		{errors.New("x"), types.ErrInternal},
		{fmt.Errorf("x: %w", types.NewError(types.ErrLimitedConnectivity, "y", "")), types.ErrLimitedConnectivity},
	}
	for _, test := range tests {
		if got, ok := errors.AsType[*types.Error](CNIError(test.err)); !ok || got.Code != test.code {
			t.Errorf("CNIError(%v) = %v, want code %d", test.err, got, test.code)
		}
	}
	if err := CNIError(nil); err != nil {
		t.Errorf("CNIError(nil) = %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"name":"n","ipam":{"ranges":[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.5","exclude":["10.0.0.8/29"]}],[{"subnet":"fd00::/64"}]],"coolDown":"1s"},"runtimeConfig":{"ips":["10.0.0.9"]}}`), "IP=10.0.0.7")
	f.Add([]byte(`{"ipam":{"ranges":[[{"subnet":"255.255.255.252/30"}]]}}`), "K8S_POD_NAME=x")
	f.Fuzz(func(t *testing.T, stdin []byte, args string) {
		for _, mode := range []Mode{{}, {Gateways: true}, {Lenient: true}} {
			n, err := Load(stdin, args, mode, store.Options{})
			if err != nil {
				if !errors.Is(err, ErrConf) {
					t.Errorf("error = %v, want ErrConf", err)
				}
				continue
			}
			free := func(netip.Addr) (ipam.Use, error) { return ipam.Use{}, nil }
			for _, pool := range n.Pools {
				if choice, err := pool.Next(netip.Addr{}, n.Rest, free); err != nil || !pool.Contains(choice.Addr) {
					t.Errorf("a pool gives %v, %v: %s", choice, err, stdin)
				}
			}
		}
		if _, err := ValidAttachments(stdin); err != nil && !errors.Is(err, ErrConf) {
			t.Errorf("error = %v, want ErrConf", err)
		}
	})
}
