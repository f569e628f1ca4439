// SPDX-License-Identifier: Apache-2.0

package delegate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// plugin writes a plugin and makes its directory the last in CNI_PATH.
func plugin(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CNI_PATH", "/none"+string(os.PathListSeparator)+dir)
}

func TestAdd(t *testing.T) {
	for _, tt := range []struct{ name, result string }{
		{"same version", `{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}`},
		{"older version", `{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}`},
		{"no version", `{"ips":[{"address":"10.0.0.2/24"}]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plugin(t, "some-ipam", `[ "$CNI_COMMAND" = ADD ] && grep -q '"name":"x"' && echo '`+tt.result+`'`)
			got, err := Add("some-ipam", []byte(`{"cniVersion":"1.0.0","name":"x"}`))
			if err != nil {
				t.Fatal(err)
			}
			if len(got.IPs) != 1 || got.IPs[0].Address.String() != "10.0.0.2/24" {
				t.Errorf("result: %+v", got)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	plugin(t, "some-ipam", `echo '{"code":11,"msg":"busy"}'; exit 1`)
	for _, tt := range []struct {
		name, plugin string
		code         uint
	}{
		{"the plugin's own", "some-ipam", types.ErrTryAgainLater},
		{"not there", "other-ipam", types.ErrInvalidNetworkConfig},
		{"a path", "../some-ipam", types.ErrInvalidNetworkConfig},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := errors.AsType[*types.Error](Run("DEL", tt.plugin, []byte(`{}`)))
			if !ok || got.Code != tt.code {
				t.Errorf("error: got %v, want code %d", got, tt.code)
			}
		})
	}
	plugin(t, "some-ipam", `echo oops; exit 3`)
	if err := Run("GC", "some-ipam", nil); err == nil {
		t.Error("a plugin that fails without saying why: no error")
	}
	plugin(t, "some-ipam", `echo '{"cniVersion":"9.9.9"}'`)
	if _, err := Add("some-ipam", []byte(`{}`)); err == nil {
		t.Error("a result of an unknown version: no error")
	}
}
