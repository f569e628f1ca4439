// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/cnilab"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// blockNode is a node that gets its blocks from the controller.
const blockNode = `
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.168.1.1}]}
`

// blockPool is a pool for pods of 64 addresses, in blocks of 14 that can be given.
const blockPool = `
apiVersion: patchbay.net/v1alpha1
kind: IPPool
metadata: {name: %s}
spec: {use: Pod, cidrs: [%s], blockSize: 28, coolDown: 1s, disabled: %t}
`

// startController runs the controller beside the agent.
func startController(t *testing.T, binary string) {
	t.Helper()
	cmd := exec.Command(binary)
	cmd.Args[0] = "patchbay-controller"
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

func declare(t *testing.T, name, yaml string) {
	t.Helper()
	path := filepath.Join("/etc/patchbay/objects", name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path+".new", []byte(yaml), 0o600), os.Rename(path+".new", path+".yaml")); err != nil {
		t.Fatal(err)
	}
}

// blocks shows the node's blocks as the agent has them.
func blocks(t *testing.T) string {
	t.Helper()
	ipam, err := agentapi.Client{}.IPAM(t.Context())
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, b := range ipam.Blocks {
		out = append(out, fmt.Sprintf("%s %s %s %d", b.Prefix, b.Pool, b.State, b.Used))
	}
	for _, l := range ipam.Leaks {
		out = append(out, "leak: "+l.Owner+" "+l.Text)
	}
	return strings.Join(out, "; ")
}

func awaitBlocks(t *testing.T, what, want string) {
	t.Helper()
	var got string
	defer func() {
		if t.Failed() {
			t.Logf("%s: blocks %s, want %s", what, got, want)
		}
	}()
	netlab.WaitFor(t, 30*time.Second, what, func() error {
		if got = blocks(t); got != want {
			return errors.New(got)
		}
		return nil
	})
}

// TestPoolsOnARunningNode grows a node's blocks, drains its pool for another and
// gives back what is not used, with the agent, the controller and the plugins as
// they are.
func TestPoolsOnARunningNode(t *testing.T) {
	netlab.Require(t)
	binary := filepath.Join(t.TempDir(), "patchbayd")
	if err := cnilab.BuildAgent(binary); err != nil {
		t.Fatal(err)
	}
	netlab.Isolate(t, func(t *testing.T) {
		declare(t, "pool", fmt.Sprintf(blockPool, "pods", "10.50.0.0/26", false))
		l, _ := newRealLabWith(t, binary, blockNode, func() { startController(t, binary) })
		awaitBlocks(t, "the first block", "10.50.0.0/28 pods Active 0")

		pods := map[string]*netlab.Namespace{}
		add := func(name string) netip.Addr {
			t.Helper()
			pods[name] = netlab.New(t)
			result, err := l.Add(t.Context(), cnilab.Attachment(name, pods[name]))
			if err != nil {
				t.Fatalf("ADD of %s: %v", name, err)
			}
			a, _ := netip.AddrFromSlice(result.IPs[0].Address.IP)
			return a.Unmap()
		}
		del := func(name string) {
			t.Helper()
			if err := l.Del(t.Context(), cnilab.Attachment(name, pods[name])); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 11 {
			add(fmt.Sprint("a", i))
		}
		awaitBlocks(t, "another block before the first is used up", "10.50.0.0/28 pods Active 11; 10.50.0.16/28 pods Active 0")
		for i := range 9 {
			add(fmt.Sprint("b", i))
		}

		// Another pool takes over while the pods of the first one run.
		declare(t, "pool2", fmt.Sprintf(blockPool, "more", "10.60.0.0/26", false))
		declare(t, "pool", fmt.Sprintf(blockPool, "pods", "10.50.0.0/26", true))
		netlab.WaitFor(t, 30*time.Second, "the new pool's block", func() error {
			if got := blocks(t); !strings.Contains(got, "10.60.0.0/28 more Active 0") || !strings.Contains(got, "10.50.0.0/28 pods Draining") {
				return errors.New(got)
			}
			return nil
		})
		if a := add("c0"); !netip.MustParsePrefix("10.60.0.0/26").Contains(a) {
			t.Errorf("a pod while the old pool is drained has %s", a)
		}
		l.Node.Exec(t, "ping", "-c1", "-W2", "10.50.0.1") // the old ones go on
		for i := range 11 {
			del(fmt.Sprint("a", i))
		}
		for i := range 9 {
			del(fmt.Sprint("b", i))
		}
		awaitBlocks(t, "the drained blocks are given back", "10.60.0.0/28 more Active 1")
		del("c0")
	})
}
