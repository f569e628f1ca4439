// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestCNITool runs the plugin by cnitool, which keeps its cache in a fixed
// place: hence the isolation.
func TestCNITool(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		if err := unix.Mount("none", "/var/lib", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		l := newLab(t)
		if err := os.WriteFile(filepath.Join(l.dir, "00-patchbay.conflist"), l.List.Bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		pod := netlab.New(t)
		var result types100.Result
		if err := json.Unmarshal(l.tool(t, "add", pod), &result); err != nil {
			t.Fatal(err)
		}
		if len(result.IPs) != 2 {
			t.Errorf("result = %+v, want two addresses", result)
		}
		pod.Exec(t, "ping", "-c1", "-W2", "192.0.2.1")
		for _, verb := range []string{"check", "status", "del", "del"} {
			l.tool(t, verb, pod)
		}
		l.checkClean(t)
	})
}

// tool runs cnitool in the node's namespace and returns what it printed.
func (l *lab) tool(t *testing.T, verb string, pod *netlab.Namespace) []byte {
	t.Helper()
	cmd := exec.Command(filepath.Join(os.Getenv(binEnv), "cnitool"), verb, "patchbay", pod.Path())
	cmd.Env = append(os.Environ(), "CNI_PATH="+os.Getenv(binEnv), "NETCONFPATH="+l.dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := l.Node.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(fmt.Errorf("cnitool %s: %w: %s%s", verb, err, stdout.Bytes(), stderr.Bytes()))
	}
	return stdout.Bytes()
}
