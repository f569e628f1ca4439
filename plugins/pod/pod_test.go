// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/cnilab"
	"github.com/patchbay-net/patchbay/test/netlab"
)

func podLinks(out string) int {
	return len(regexp.MustCompile(`: pb[0-9a-f]{11}@`).FindAllString(out, -1))
}

// code returns an error's CNI code, zero if it has none.
func code(err error) uint {
	if typed, ok := errors.AsType[*types.Error](err); ok {
		return typed.Code
	}
	return 0
}

func TestAddDel(t *testing.T) {
	l := newLab(t)
	pod := netlab.New(t)
	conf := cnilab.Attachment("c1", pod)
	result, err := l.Add(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	host := store.Key{ContainerID: "c1", IfName: "eth0"}.Link()
	if len(result.Interfaces) != 2 || result.Interfaces[0].Name != host || result.Interfaces[0].Sandbox != "" ||
		result.Interfaces[1].Name != "eth0" || result.Interfaces[1].Sandbox != pod.Path() {
		t.Errorf("interfaces = %v", result.Interfaces)
	}
	var addrs []string
	for _, ip := range result.IPs {
		addrs = append(addrs, ip.Address.String())
		if ip.Interface == nil || *ip.Interface != 1 {
			t.Errorf("address %s is not at the pod's end", ip.Address.String())
		}
	}
	if diff := cmp.Diff([]string{"10.244.0.1/32", "fd00:10:244::1/128"}, addrs); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	if len(result.Routes) != 2 || result.Routes[0].String() == "" {
		t.Errorf("routes = %v, want two", result.Routes)
	}
	for _, target := range []string{"192.0.2.1", "fd00:1::1"} {
		pod.Exec(t, "ping", "-c1", "-W2", target)
	}
	endpoint := l.agent.list()[agentapi.EndpointKey{ContainerID: "c1", IfName: "eth0"}]
	if endpoint.HostIfName != host || endpoint.HostIfIndex != l.Node.Index(t, host) || endpoint.PodName != "c1" ||
		endpoint.PodUID != "uid-c1" || len(endpoint.Addrs) != 2 || endpoint.Generation == 0 || endpoint.Network != "patchbay" {
		t.Errorf("endpoint = %+v", endpoint)
	}
	if err := l.Check(t.Context(), conf); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if err := l.Del(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	awaitUnplugged(t, pod)
	l.checkClean(t)
	if err := l.Del(t.Context(), conf); err != nil {
		t.Errorf("DEL again: %v", err)
	}
	conf.NetNS = "/proc/1/ns/none"
	if err := l.Del(t.Context(), conf); err != nil {
		t.Errorf("DEL without the namespace: %v", err)
	}
}

func TestPodsReachEachOther(t *testing.T) {
	l := newLab(t)
	pods := make([]*netlab.Namespace, 2)
	for i := range pods {
		pods[i] = netlab.New(t)
		if _, err := l.Add(t.Context(), cnilab.Attachment(fmt.Sprint("c", i), pods[i])); err != nil {
			t.Fatal(err)
		}
	}
	pods[0].Exec(t, "ping", "-c1", "-W2", "10.244.0.2")
	pods[1].Exec(t, "ping", "-c1", "-W2", "fd00:10:244::1")
}

func TestVersions(t *testing.T) {
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			l := newLab(t)
			list, err := libcni.ConfListFromBytes([]byte(strings.Replace(string(l.List.Bytes), `"cniVersion":"1.1.0"`, `"cniVersion":"`+version+`"`, 1)))
			if err != nil {
				t.Fatal(err)
			}
			l.List = list
			conf := cnilab.Attachment("c1", netlab.New(t))
			if _, err := l.Add(t.Context(), conf); err != nil {
				t.Fatal(err)
			}
			if err := l.Check(t.Context(), conf); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			if err := l.Del(t.Context(), conf); err != nil {
				t.Error(err)
			}
			l.checkClean(t)
		})
	}
}

func TestAddAgain(t *testing.T) {
	l := newLab(t)
	conf := cnilab.Attachment("c1", netlab.New(t))
	first, err := l.Add(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	second, err := l.Add(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	if first.IPs[0].Address.String() != second.IPs[0].Address.String() {
		t.Errorf("addresses %v, then %v, want the same", first.IPs, second.IPs)
	}
	if err := l.Check(t.Context(), conf); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if err := l.Del(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	l.checkClean(t)
}

func TestAddFails(t *testing.T) {
	tests := []struct {
		name string
		harm func(t *testing.T, l *lab, pod *netlab.Namespace, conf *libcni.RuntimeConf)
		code uint
		want string
	}{
		{"agent refuses", func(_ *testing.T, l *lab, _ *netlab.Namespace, _ *libcni.RuntimeConf) {
			l.agent.refuse = agentapi.Errorf(agentapi.CodeTryLater, "not synced")
		}, types.ErrTryAgainLater, "not synced"},
		{"agent is dead", func(_ *testing.T, l *lab, _ *netlab.Namespace, _ *libcni.RuntimeConf) { l.agent.stop() },
			types.ErrTryAgainLater, "agent.sock"},
		{"interface is there", func(t *testing.T, _ *lab, pod *netlab.Namespace, _ *libcni.RuntimeConf) {
			netlab.Wire(t, pod, "eth0", netlab.New(t), "other")
		}, types.ErrInternal, "eth0"},
		{"no namespace", func(_ *testing.T, _ *lab, _ *netlab.Namespace, conf *libcni.RuntimeConf) {
			conf.NetNS = "/proc/1/ns/none"
		}, types.ErrInvalidEnvironmentVariables, "/proc/1/ns/none"},
		{"not a namespace", func(_ *testing.T, _ *lab, _ *netlab.Namespace, conf *libcni.RuntimeConf) {
			conf.NetNS = "/proc/self/status"
		}, types.ErrInvalidEnvironmentVariables, "/proc/self/status"},
		{"the node's namespace", func(_ *testing.T, l *lab, _ *netlab.Namespace, conf *libcni.RuntimeConf) {
			conf.NetNS = l.Node.Path()
		}, types.ErrInvalidEnvironmentVariables, "own namespace"},
		{"unknown argument", func(_ *testing.T, _ *lab, _ *netlab.Namespace, conf *libcni.RuntimeConf) {
			conf.Args = [][2]string{{"NO_SUCH", "1"}}
		}, types.ErrInvalidNetworkConfig, "NO_SUCH"},
		{"requested address is held", func(t *testing.T, l *lab, _ *netlab.Namespace, conf *libcni.RuntimeConf) {
			if _, err := l.Add(t.Context(), cnilab.Attachment("other", netlab.New(t))); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Del(t.Context(), cnilab.Attachment("other", nil)) })
			conf.Args = append(conf.Args, [2]string{"IP", "10.244.0.1"})
		}, types.ErrTryAgainLater, "10.244.0.1"},
		{"requested address is elsewhere", func(_ *testing.T, _ *lab, _ *netlab.Namespace, conf *libcni.RuntimeConf) {
			conf.Args = append(conf.Args, [2]string{"IP", "10.1.1.1"})
		}, types.ErrInvalidNetworkConfig, "10.1.1.1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t)
			pod := netlab.New(t)
			conf := cnilab.Attachment("c1", pod)
			test.harm(t, l, pod, conf)
			_, err := l.Add(t.Context(), conf)
			if code(err) != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("ADD = %v (code %d), want code %d and %q", err, code(err), test.code, test.want)
			}
			for _, lease := range l.contents(t).Leases {
				if lease.ContainerID == "c1" {
					t.Errorf("lease left: %+v", lease)
				}
			}
			if _, ok := l.agent.list()[agentapi.EndpointKey{ContainerID: "c1", IfName: "eth0"}]; ok {
				t.Error("endpoint left with the agent")
			}
			if out := l.Node.Exec(t, "ip", "-o", "link"); strings.Contains(out, store.Key{ContainerID: "c1", IfName: "eth0"}.Link()) {
				t.Errorf("link left: %s", out)
			}
		})
	}
}

func TestDelWithoutAgent(t *testing.T) {
	l := newLab(t)
	pod := netlab.New(t)
	conf := cnilab.Attachment("c1", pod)
	if _, err := l.Add(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	l.agent.stop()
	if err := l.Del(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	if leases := l.contents(t).Leases; len(leases) != 0 || l.links(t) != 0 {
		t.Errorf("left: %v, %d links", leases, l.links(t))
	}
	if out, err := pod.TryExec("ip", "link", "show", "eth0"); err == nil {
		t.Errorf("after DEL the pod has %s", out)
	}
}

// TestDelWithoutLeases ends a pod while the leases can't be read: DEL fails, but
// the interface is gone, and the next DEL ends the lease.
func TestDelWithoutLeases(t *testing.T) {
	l := newLab(t)
	conf := cnilab.Attachment("c1", netlab.New(t))
	if _, err := l.Add(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	path, away := l.store.Path(), filepath.Join(t.TempDir(), "away")
	if err := errors.Join(os.Rename(path, away), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := l.Del(t.Context(), conf); err == nil {
		t.Error("DEL without the leases: no error")
	}
	if n, e := l.links(t), l.endpoints(); n != 0 || e != 0 {
		t.Errorf("%d links and %d endpoints are left", n, e)
	}
	if err := errors.Join(os.Remove(path), os.Rename(away, path)); err != nil {
		t.Fatal(err)
	}
	if n := len(l.contents(t).Leases); n != 1 {
		t.Errorf("%d leases, want the pod's", n)
	}
	if err := l.Del(t.Context(), conf); err != nil {
		t.Errorf("DEL again: %v", err)
	}
	l.checkClean(t)
}

// TestDelKeepsLeaseWithLink can't remove the link, as it is one that the kernel
// keeps: the lease stays, too.
func TestDelKeepsLeaseWithLink(t *testing.T) {
	l := newLab(t)
	conf := cnilab.Attachment("c1", netlab.New(t))
	if _, err := l.Add(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	name := store.Key{ContainerID: "c1", IfName: "eth0"}.Link()
	l.Node.Exec(t, "ip", "link", "del", name)
	l.Node.Exec(t, "ip", "link", "set", "lo", "down")
	l.Node.Exec(t, "ip", "link", "set", "lo", "name", name)
	if err := l.Del(t.Context(), conf); err != nil {
		t.Errorf("DEL: %v", err)
	}
	l.agent.removals.Wait()
	if n := len(l.contents(t).Leases); n != 1 {
		t.Errorf("%d leases, want the pod's", n)
	}
	l.Node.Exec(t, "ip", "link", "set", name, "name", "lo")
	if err := l.Del(t.Context(), conf); err != nil {
		t.Errorf("DEL again: %v", err)
	}
	l.checkClean(t)
}

// TestDelByKey checks that DEL frees what container and interface have now,
// not what a previous result says.
func TestDelByKey(t *testing.T) {
	l := newLab(t)
	for _, id := range []string{"c1", "c2"} {
		if _, err := l.Add(t.Context(), cnilab.Attachment(id, netlab.New(t))); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Del(t.Context(), cnilab.Attachment("c1", nil)); err != nil {
		t.Fatal(err)
	}
	l.agent.removals.Wait()
	leases := l.contents(t).Leases
	if len(leases) != 1 || leases[0].ContainerID != "c2" {
		t.Errorf("leases = %+v, want c2's", leases)
	}
}

func TestRequestedAddressAndMAC(t *testing.T) {
	l := newLabWith(t, `"capabilities":{"ips":true,"mac":true},"ipam":{"type":"patchbay-ipam","leases":"%[1]s/leases.db","ranges":`+dualStack+`}`)
	conf := cnilab.Attachment("c1", netlab.New(t))
	conf.CapabilityArgs = map[string]any{"ips": []string{"10.244.1.9", "fd00:10:244::99/118"}, "mac": "02:00:00:00:00:77"}
	result, err := l.Add(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.IPs) != 2 || result.IPs[0].Address.String() != "10.244.1.9/32" || result.IPs[1].Address.String() != "fd00:10:244::99/128" ||
		result.Interfaces[1].Mac != "02:00:00:00:00:77" {
		t.Errorf("result = %+v, want what was requested", result)
	}
	if err := l.Check(t.Context(), conf); err != nil {
		t.Errorf("CHECK: %v", err)
	}
}

func TestExhausted(t *testing.T) {
	l := newLabWith(t, `"ipam":{"type":"patchbay-ipam","leases":"%[1]s/leases.db","ranges":[[{"subnet":"10.9.0.0/30"}]]}`)
	for i := range 2 {
		if _, err := l.Add(t.Context(), cnilab.Attachment(fmt.Sprint("c", i), netlab.New(t))); err != nil {
			t.Fatal(err)
		}
	}
	_, err := l.Add(t.Context(), cnilab.Attachment("c2", netlab.New(t)))
	if code(err) != types.ErrTryAgainLater || !strings.Contains(err.Error(), "10.9.0.1-10.9.0.2") {
		t.Errorf("ADD = %v (code %d), want code 11 and the range", err, code(err))
	}
	if err := l.Status(t.Context()); err != nil {
		t.Errorf("STATUS = %v, want nil: exhaustion takes no node away", err)
	}
}

func TestDelegatedIPAM(t *testing.T) {
	l := newLabWith(t, `"ipam":{"type":"host-local","dataDir":"%[1]s/host-local","ranges":[[{"subnet":"10.8.0.0/24"}],[{"subnet":"fd08::/120"}]]}`)
	pod := netlab.New(t)
	conf := cnilab.Attachment("c1", pod)
	result, err := l.Add(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.IPs) != 2 || result.IPs[0].Address.String() != "10.8.0.2/32" {
		t.Errorf("addresses = %v, want host-local's, alone", result.IPs)
	}
	pod.Exec(t, "ping", "-c1", "-W2", "192.0.2.1")
	for _, verb := range []func() error{
		func() error { return l.Check(t.Context(), conf) },
		func() error { return l.Status(t.Context()) },
		func() error { _, err := l.Add(t.Context(), conf); return err }, // as after a kill
		func() error { return l.Del(t.Context(), conf) },
	} {
		if err := verb(); err != nil {
			t.Error(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(l.dir, "host-local/patchbay/*.*.*.*"))
	if err != nil || len(left) != 0 {
		t.Errorf("host-local keeps %v, %v", left, err)
	}
}

// TestChain runs the plugin with one before it, whose interface stays in the
// result, and one behind it.
func TestChain(t *testing.T) {
	l := newLabWith(t, `"ipam":{"type":"patchbay-ipam","leases":"%[1]s/leases.db","ranges":`+dualStack+`}`, `{"type":"tuning","mtu":1300}`)
	l.prepend(t, `{"type":"loopback"}`)
	pod := netlab.New(t)
	conf := cnilab.Attachment("c1", pod)
	result, err := l.Add(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range result.Interfaces {
		names = append(names, i.Name)
	}
	host := store.Key{ContainerID: "c1", IfName: "eth0"}.Link()
	if diff := cmp.Diff([]string{"lo", host, "eth0"}, names); diff != "" {
		t.Errorf("interfaces (-want +got):\n%s", diff)
	}
	for _, ip := range result.IPs {
		if loopback := ip.Address.IP.IsLoopback(); loopback != (names[*ip.Interface] == "lo") {
			t.Errorf("address %s is at %s", ip.Address.String(), names[*ip.Interface])
		}
	}
	if out := pod.Exec(t, "ip", "-o", "link", "show", "eth0"); !strings.Contains(out, "mtu 1300") {
		t.Errorf("%s: want what tuning did", out)
	}
	if err := l.Check(t.Context(), conf); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if err := l.Del(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	l.checkClean(t)
}

// TestChainOfTwoMains puts a plugin before that makes the same interface.
func TestChainOfTwoMains(t *testing.T) {
	l := newLab(t)
	l.prepend(t, `{"type":"ptp","ipam":{"type":"host-local","dataDir":"`+l.dir+`/host-local","ranges":[[{"subnet":"10.7.0.0/24"}]]}}`)
	_, err := l.Add(t.Context(), cnilab.Attachment("c1", netlab.New(t)))
	if code(err) != types.ErrInvalidNetworkConfig || !strings.Contains(err.Error(), "eth0") {
		t.Errorf("ADD behind ptp = %v (code %d), want code 7 and eth0", err, code(err))
	}
	l.checkClean(t)
}

// prepend puts a plugin before ours.
func (l *lab) prepend(t *testing.T, plugin string) {
	t.Helper()
	list, err := libcni.ConfListFromBytes([]byte(strings.Replace(string(l.List.Bytes), `"plugins":[`, `"plugins":[`+plugin+",", 1)))
	if err != nil {
		t.Fatal(err)
	}
	l.List = list
}

func TestPreviousResultIsKept(t *testing.T) {
	prev := `{"cniVersion":"1.1.0","interfaces":[{"name":"net1","sandbox":"/x"}],"ips":[{"address":"10.5.0.2/24","interface":0}],"dns":{"nameservers":["10.5.0.1"]}}`
	c, err := parse(call(`{"cniVersion":"1.1.0","name":"n","type":"patchbay","ipam":{"type":"patchbay-ipam"},"prevResult":`+prev+`}`), strict)
	if err != nil {
		t.Fatal(err)
	}
	result := c.result(leased{addrs: []netip.Addr{netip.MustParseAddr("10.244.0.1")}})
	if len(result.Interfaces) != 3 || len(result.IPs) != 2 || *result.IPs[0].Interface != 0 || *result.IPs[1].Interface != 2 ||
		result.DNS.Nameservers[0] != "10.5.0.1" {
		t.Errorf("result = %+v, want ours behind the previous one's", result)
	}
}

func TestPortMappings(t *testing.T) {
	l := newLabWith(t, `"capabilities":{"portMappings":true},"ipam":{"type":"patchbay-ipam","leases":"%[1]s/leases.db","ranges":`+dualStack+`}`)
	attachment := func(id string) *libcni.RuntimeConf {
		conf := cnilab.Attachment(id, netlab.New(t))
		conf.CapabilityArgs = map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}
		return conf
	}
	first := attachment("c1")
	if _, err := l.Add(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	want := []agentapi.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}
	if got := l.agent.list()[agentapi.EndpointKey{ContainerID: "c1", IfName: "eth0"}].Ports; !slices.Equal(got, want) {
		t.Errorf("the agent got ports %v, want %v", got, want)
	}
	if _, err := l.Add(t.Context(), attachment("c2")); code(err) != types.ErrTryAgainLater || !strings.Contains(err.Error(), "8080") || !strings.Contains(err.Error(), "default/c1") {
		t.Errorf("ADD with the same port = %v (code %d), want code 11, the port and its pod", err, code(err))
	}
	if err := l.Check(t.Context(), first); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if err := l.Del(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Add(t.Context(), attachment("c2")); err != nil {
		t.Errorf("ADD after DEL: %v", err)
	}
}
