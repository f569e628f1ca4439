// SPDX-License-Identifier: Apache-2.0

package nodepools

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	cni "github.com/patchbay-net/patchbay/plugins/ipam"
)

func TestNodePools(t *testing.T) {
	store := source.NewStore()
	for _, pool := range []*v1alpha1.IPPool{
		{ObjectMeta: metav1.ObjectMeta{Name: "nodes"}, Spec: v1alpha1.IPPoolSpec{
			Use: v1alpha1.UseNode, CIDRs: []string{"192.0.2.0/24", "fd00::/64"}, Gateway: "192.0.2.1",
			Ranges: []v1alpha1.IPRange{{First: "192.0.2.10", Last: "192.0.2.19"}, {First: "fd00::10", Last: "fd00::19"}},
			Static: []v1alpha1.StaticAddress{{Address: "192.0.2.12", Name: "vm"}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Spec: v1alpha1.IPPoolSpec{Use: v1alpha1.UsePod, CIDRs: []string{"10.0.0.0/16"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: v1alpha1.IPPoolSpec{Use: v1alpha1.UseNode, Ranges: []v1alpha1.IPRange{{First: "198.51.100.1", Last: "198.51.100.9"}}}},
	} {
		store.Apply(source.Event{Op: source.Upsert, Kind: source.KindIPPool, Key: source.KeyOf(pool), Object: pool})
	}
	n := &Writer{Path: filepath.Join(t.TempDir(), "run", "pools.json"), Log: slog.New(slog.DiscardHandler)}
	if err := n.write(store); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	var pools map[string]cni.Conf
	if err := json.Unmarshal(text, &pools); err != nil {
		t.Fatal(err)
	}
	conf := pools["nodes"]
	if len(pools) != 1 || len(conf.Ranges) != 2 || conf.Ranges[0][0].Gateway.String() != "192.0.2.1" || conf.Ranges[1][0].RangeStart.String() != "fd00::10" ||
		len(conf.Static) != 1 || conf.CoolDown != "1m0s" {
		t.Errorf("pools %s, want the pool for nodes alone, a set for each family", strings.TrimSpace(string(text)))
	}
}
