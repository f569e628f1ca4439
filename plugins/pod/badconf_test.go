// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestBadConf calls the program with configurations that a runtime library
// would let through, and some that none would.
func TestBadConf(t *testing.T) {
	l := newLab(t)
	good := strings.Replace(string(l.List.Plugins[0].Bytes), "{", `{"cniVersion":"1.1.0","name":"patchbay",`, 1)
	tests := []struct {
		name, old, new string
		code           uint
		want           []string
	}{
		{"cut in half", good[len(good)/2:], "", types.ErrDecodingFailure, nil},
		{"not JSON", good, "hello", types.ErrDecodingFailure, nil},
		{"unknown version", `"1.1.0"`, `"9.9.9"`, types.ErrIncompatibleCNIVersion, nil},
		{"old version", `"1.1.0"`, `"0.3.1"`, types.ErrIncompatibleCNIVersion, nil},
		{"bad name", `"name":"patchbay"`, `"name":"../x"`, types.ErrInvalidNetworkConfig, []string{"../x"}},
		{"unknown key", `"mtu"`, `"mtv"`, types.ErrInvalidNetworkConfig, []string{"mtv"}},
		{"unknown key of ipam", `"durable"`, `"durably"`, types.ErrInvalidNetworkConfig, []string{"durably"}},
		{"overlapping ranges", `fd00:10:244::/118`, `10.244.2.0/24`, types.ErrInvalidNetworkConfig, []string{"10.244.0.1-10.244.3.254", "10.244.2.1-10.244.2.254"}},
		{"unknown IPAM plugin", `"patchbay-ipam"`, `"no-such-ipam"`, types.ErrInvalidNetworkConfig, []string{"no-such-ipam"}},
		{"capability", `"mtu"`, `"capabilities":{"bandwidth":true},"mtu"`, types.ErrInvalidNetworkConfig, []string{"bandwidth"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			conf := strings.Replace(good, test.old, test.new, 1)
			if conf == good {
				t.Fatalf("%q is not in %s", test.old, good)
			}
			got := l.refused(t, conf)
			if got.Code != test.code {
				t.Errorf("error = %+v, want code %d", got, test.code)
			}
			for _, want := range test.want {
				if !strings.Contains(got.Msg+got.Details, want) {
					t.Errorf("error = %+v, want %q in it", got, want)
				}
			}
			l.checkClean(t)
		})
	}
}

// refused calls ADD with a configuration and returns the error it prints.
func (l *lab) refused(t *testing.T, conf string) types.Error {
	t.Helper()
	cmd := exec.Command(filepath.Join(os.Getenv(binEnv), "patchbay"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS="+netlab.New(t).Path(),
		"CNI_IFNAME=eth0", "CNI_PATH="+os.Getenv(binEnv))
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout = strings.NewReader(conf), &out
	if err := l.Node.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatalf("it succeeded: %s", out.String())
	}
	var refusal types.Error
	if err := json.Unmarshal(out.Bytes(), &refusal); err != nil {
		t.Fatalf("%s: %v", out.String(), err)
	}
	return refusal
}
