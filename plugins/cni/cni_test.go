// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

func TestRun(t *testing.T) {
	const conf = `{"cniVersion":"1.1.0","name":"net"}`
	full := "CNI_CONTAINERID=c1 CNI_NETNS=/n CNI_IFNAME=eth0 CNI_PATH=/bin CNI_ARGS=A=B "
	tests := []struct {
		name, env, stdin string
		code             uint
		called           string
	}{
		{"ADD", full + "CNI_COMMAND=ADD", conf, 0, "add c1 /n eth0 A=B"},
		{"DEL without a namespace", "CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_PATH=/bin CNI_COMMAND=DEL", conf, 0, "del c1  eth0 "},
		{"STATUS", "CNI_PATH=/bin CNI_COMMAND=STATUS", conf, 0, "status   "},
		{"old version", full + "CNI_COMMAND=ADD", `{"cniVersion":"0.4.0","name":"net"}`, 0, "add c1 /n eth0 A=B"},
		{"too old", full + "CNI_COMMAND=ADD", `{"cniVersion":"0.3.1","name":"net"}`, types.ErrIncompatibleCNIVersion, ""},
		{"no version", full + "CNI_COMMAND=ADD", `{"name":"net"}`, types.ErrIncompatibleCNIVersion, ""},
		{"too old for the verb", "CNI_PATH=/bin CNI_COMMAND=GC", `{"cniVersion":"1.0.0","name":"net"}`, types.ErrIncompatibleCNIVersion, ""},
		{"an error with a code", full + "CNI_COMMAND=CHECK", conf, 11, "check c1 /n eth0 A=B"},
		{"an error without one", "CNI_PATH=/bin CNI_COMMAND=GC", conf, types.ErrInternal, "gc   "},
		{"no namespace", "CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_PATH=/bin CNI_COMMAND=ADD", conf, types.ErrInvalidEnvironmentVariables, ""},
		{"container", strings.Replace(full, "c1", "../c1", 1) + "CNI_COMMAND=ADD", conf, types.ErrInvalidEnvironmentVariables, ""},
		{"interface", strings.Replace(full, "eth0", "eth/0", 1) + "CNI_COMMAND=ADD", conf, types.ErrInvalidEnvironmentVariables, ""},
		{"long interface", strings.Replace(full, "eth0", "eth0123456789012", 1) + "CNI_COMMAND=DEL", conf, types.ErrInvalidEnvironmentVariables, ""},
		{"unknown verb", full + "CNI_COMMAND=JUMP", conf, types.ErrInvalidEnvironmentVariables, ""},
		{"not JSON", full + "CNI_COMMAND=ADD", `{`, types.ErrDecodingFailure, ""},
		{"no name", full + "CNI_COMMAND=ADD", `{"cniVersion":"1.1.0"}`, types.ErrInvalidNetworkConfig, ""},
		{"bad name", full + "CNI_COMMAND=ADD", `{"cniVersion":"1.1.0","name":"a/b"}`, types.ErrInvalidNetworkConfig, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			called := ""
			note := func(verb string, err error) func(*Args) error {
				return func(a *Args) error {
					called = strings.Join([]string{verb, a.ContainerID, a.Netns, a.IfName + " " + a.Args}, " ")
					if string(a.StdinData) != tt.stdin || a.Path != "/bin" {
						t.Errorf("configuration %s, path %s", a.StdinData, a.Path)
					}
					return err
				}
			}
			v := Verbs{Add: note("add", nil), Del: note("del", nil), Status: note("status", nil),
				Check: note("check", types.NewError(11, "later", "")), GC: note("gc", errors.New("broken"))}
			env := map[string]string{}
			for _, pair := range strings.Fields(tt.env) {
				name, value, _ := strings.Cut(pair, "=")
				env[name] = value
			}
			var stdout, stderr bytes.Buffer
			err := Run(v, "about", func(name string) string { return env[name] }, strings.NewReader(tt.stdin), &stdout, &stderr)
			code := uint(0)
			if err != nil {
				code = err.Code
			}
			if code != tt.code || strings.TrimRight(called, " ") != strings.TrimRight(tt.called, " ") || stdout.Len() > 0 {
				t.Errorf("called %q, error %v, printed %q; want %q and code %d", called, err, &stdout, tt.called, tt.code)
			}
		})
	}
}

func TestVersionAndAbout(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if err := Run(Verbs{}, "about", func(string) string { return "VERSION" }, nil, &stdout, &stderr); err != nil {
		t.Error(err)
	}
	if want := `{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}` + "\n"; stdout.String() != want {
		t.Errorf("printed %s, want %s", &stdout, want)
	}
	if err := Run(Verbs{}, "about", func(string) string { return "" }, nil, &stdout, &stderr); err != nil || !strings.HasPrefix(stderr.String(), "about\n") {
		t.Errorf("without a command: %v, %q", err, &stderr)
	}
}
