// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/test/cnilab"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// TestUnderReferencePlugins runs patchbay-ipam as a program of its own, under
// plugins that know nothing of it.
func TestUnderReferencePlugins(t *testing.T) {
	netlab.Require(t)
	bin := t.TempDir()
	if err := errors.Join(cnilab.Build(bin), cnilab.BuildReference(bin, "main/bridge", "main/ptp")); err != nil {
		t.Fatal(err)
	}
	for _, main := range []string{`"type":"bridge","bridge":"br0","isGateway":true`, `"type":"ptp"`} {
		t.Run(main, func(t *testing.T) {
			dir := t.TempDir()
			node := netlab.New(t)
			list := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"net","plugins":[{%s,"ipam":{"type":"patchbay-ipam","leases":"%s/leases.db",
				"ranges":[[{"subnet":"10.6.0.0/24"}],[{"subnet":"fd06::/120"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}}]}`, main, dir)
			runReference(t, cnilab.NewRuntime(t, node, bin, list), store.New(dir+"/leases.db", store.Options{}))
		})
	}
}

func runReference(t *testing.T, r *cnilab.Runtime, leases *store.Store) {
	pods := []*netlab.Namespace{netlab.New(t), netlab.New(t)}
	for i, pod := range pods {
		conf := cnilab.Attachment(fmt.Sprint("c", i), pod)
		result, err := r.Add(t.Context(), conf)
		if err != nil {
			t.Fatal(err)
		}
		if len(result.IPs) != 2 || !strings.HasSuffix(result.IPs[0].Address.String(), "/24") {
			t.Errorf("addresses = %v, want one of each family", result.IPs)
		}
		if err := r.Check(t.Context(), conf); err != nil {
			t.Errorf("CHECK: %v", err)
		}
	}
	pods[0].Exec(t, "ping", "-c1", "-W2", "10.6.0.1")
	pods[0].Exec(t, "ping", "-c1", "-W3", "10.6.0.3")
	if err := r.Status(t.Context()); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	if err := r.Del(t.Context(), cnilab.Attachment("c0", pods[0])); err != nil {
		t.Error(err)
	}
	if err := r.GC(t.Context()); err != nil {
		t.Errorf("GC: %v", err)
	}
	contents, err := leases.List()
	if err != nil || len(contents.Leases) != 0 {
		t.Errorf("leases left: %+v, %v", contents.Leases, err)
	}
}
