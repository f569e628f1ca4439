// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/plugins/cni"
)

// call returns the arguments of a call for a container, its leases in dir.
func call(dir, container, extra string) *cni.Args {
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"net","type":"bridge"%s,"ipam":{"type":"patchbay-ipam","leases":"%s/leases.db",
		"ranges":[[{"subnet":"10.0.0.0/29"}],[{"subnet":"fd00::/125","gateway":"fd00::7"}]],"routes":[{"dst":"0.0.0.0/0"}]}}`, extra, dir)
	return &cni.Args{ContainerID: container, IfName: "eth0", StdinData: []byte(conf)}
}

func codeOf(err error) uint {
	if typed, ok := errors.AsType[*types.Error](err); ok {
		return typed.Code
	}
	return 0
}

func add1(t *testing.T, dir, container string) *types100.Result {
	t.Helper()
	result, err := Add(call(dir, container, ""))
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestVerbs(t *testing.T) {
	dir := t.TempDir()
	result := add1(t, dir, "a")
	if len(result.IPs) != 2 || result.IPs[0].Address.String() != "10.0.0.2/29" || result.IPs[0].Gateway.String() != "10.0.0.1" ||
		result.IPs[1].Address.String() != "fd00::1/125" || result.IPs[1].Gateway.String() != "fd00::7" || len(result.Routes) != 1 {
		t.Errorf("result = %+v", result)
	}
	if again := add1(t, dir, "a"); again.IPs[0].Address.String() != "10.0.0.2/29" {
		t.Errorf("again = %v, want the same", again.IPs)
	}
	prev, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(call(dir, "a", `,"prevResult":`+string(prev))); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if err := Check(call(dir, "b", `,"prevResult":`+string(prev))); codeOf(err) != types.ErrUnknownContainer {
		t.Errorf("CHECK of another = %v, want code 3", err)
	}
	if err := Check(call(dir, "a", `,"prevResult":{"cniVersion":"1.1.0"}`)); err == nil || !strings.Contains(err.Error(), "10.0.0.2") {
		t.Errorf("CHECK with another result = %v, want the address named", err)
	}
	if err := Check(call(dir, "a", "")); codeOf(err) != types.ErrInvalidNetworkConfig {
		t.Errorf("CHECK without a result = %v, want code 7", err)
	}
	for range 2 {
		if err := Del(call(dir, "a", "")); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	if err := Status(call(dir, "", "")); err != nil {
		t.Errorf("STATUS: %v", err)
	}
}

func TestExhausted(t *testing.T) {
	dir := t.TempDir()
	for i := range 5 {
		add1(t, dir, fmt.Sprint("c", i))
	}
	_, err := Add(call(dir, "one-more", ""))
	if codeOf(err) != types.ErrTryAgainLater || !strings.Contains(err.Error(), "10.0.0.2-10.0.0.6") {
		t.Errorf("ADD = %v, want code 11 and the range", err)
	}
}

func TestDelOfNonsense(t *testing.T) {
	dir := t.TempDir()
	add1(t, dir, "a")
	args := call(dir, "a", "")
	args.StdinData = []byte(strings.Replace(string(args.StdinData), `"10.0.0.0/29"`, `"nonsense"`, 1))
	args.Args = "UNKNOWN=1"
	if err := Del(args); err != nil {
		t.Errorf("DEL with a broken configuration: %v", err)
	}
	if err := Check(call(dir, "a", `,"prevResult":{}`)); codeOf(err) != types.ErrUnknownContainer {
		t.Errorf("CHECK = %v, want the lease gone", err)
	}
}

func TestGC(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []string{"a", "b", "c"} {
		add1(t, dir, c)
	}
	if err := GC(call(dir, "", "")); codeOf(err) != types.ErrInvalidNetworkConfig {
		t.Errorf("GC without a list = %v, want code 7", err)
	}
	if err := GC(call(dir, "", `,"cni.dev/valid-attachments":[{"containerID":"b","ifname":"eth0"}]`)); err != nil {
		t.Fatal(err)
	}
	for c, want := range map[string]uint{"a": types.ErrUnknownContainer, "b": types.ErrInternal, "c": types.ErrUnknownContainer} {
		if err := Check(call(dir, c, `,"prevResult":{}`)); codeOf(err) != want {
			t.Errorf("CHECK of %s = %v, want code %d", c, err, want)
		}
	}
}

func TestStatusOfUnusableStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "leases.db") // a directory where the store's directory should be a file's
	add1(t, dir, "a")
	if err := Status(call(filepath.Join(dir, "leases.db"), "", "")); codeOf(err) != types.ErrPluginNotAvailable {
		t.Errorf("STATUS = %v, want code 50", err)
	}
}
