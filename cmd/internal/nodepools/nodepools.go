// SPDX-License-Identifier: Apache-2.0

// Package nodepools tells the CNI plugins on a device of its pools for nodes and
// VMs: it writes them to a file, which serves while the agent is away.
package nodepools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	cni "github.com/patchbay-net/patchbay/plugins/ipam"
)

// Writer writes the file.
type Writer struct {
	Source source.Source
	Path   string
	Log    *slog.Logger
}

// Run writes the file whenever a pool changed, until ctx ends.
func (n *Writer) Run(ctx context.Context) error {
	store := source.NewStore()
	return n.Source.Run(ctx, []source.Kind{source.KindIPPool}, func(ev source.Event) {
		if ev.Op == source.Problem || !store.Apply(ev) || !store.Synced(source.KindIPPool) {
			return
		}
		if err := n.write(store); err != nil {
			n.Log.Error("tell plugins of pools", "err", err)
		}
	})
}

func (n *Writer) write(store *source.Store) error {
	pools := map[string]cni.Conf{}
	for _, obj := range source.List[*v1alpha1.IPPool](store, source.KindIPPool) {
		if obj.Spec.Use != v1alpha1.UseNode || obj.Spec.Disabled {
			continue
		}
		conf, err := nodePool(obj)
		if err != nil {
			n.Log.Warn("pool not used", "pool", obj.Name, "err", err)
			continue
		}
		pools[obj.Name] = conf
	}
	text, err := json.MarshalIndent(pools, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(n.Path), 0o755); err != nil {
		return err
	}
	temp := n.Path + ".new"
	return errors.Join(os.WriteFile(temp, append(text, '\n'), 0o644), os.Rename(temp, n.Path))
}

// nodePool is a pool as the plugin's ipam section: a set of ranges for each family.
func nodePool(obj *v1alpha1.IPPool) (cni.Conf, error) {
	obj = obj.DeepCopy()
	obj.Default()
	spec := &obj.Spec
	var sets [2][]cni.RangeConf
	add := func(r cni.RangeConf) {
		i := 0
		if r.Subnet.Addr().Is6() {
			i = 1
		}
		if g, err := netip.ParseAddr(spec.Gateway); err == nil && r.Subnet.Contains(g) {
			r.Gateway = g
		}
		for _, text := range spec.Exclude {
			never, err := netip.ParsePrefix(text)
			if a, errAddr := netip.ParseAddr(text); errAddr == nil {
				never, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
			if err == nil && never.Overlaps(r.Subnet) {
				r.Exclude = append(r.Exclude, never)
			}
		}
		sets[i] = append(sets[i], r)
	}
	var networks []netip.Prefix
	for _, text := range spec.CIDRs {
		cidr, err := netip.ParsePrefix(text)
		if err != nil {
			return cni.Conf{}, fmt.Errorf("cidrs: %w", err)
		}
		networks = append(networks, cidr)
		if len(spec.Ranges) == 0 {
			add(cni.RangeConf{Subnet: cidr})
		}
	}
	for _, r := range spec.Ranges {
		first, err1 := netip.ParseAddr(r.First)
		last, err2 := netip.ParseAddr(r.Last)
		if err := errors.Join(err1, err2); err != nil {
			return cni.Conf{}, fmt.Errorf("ranges: %w", err)
		}
		i := slices.IndexFunc(networks, func(p netip.Prefix) bool { return p.Contains(first) && p.Contains(last) })
		if i < 0 {
			return cni.Conf{}, fmt.Errorf("ranges: no cidr has %s: it says how large the network is", ipam.Range{First: first, Last: last})
		}
		add(cni.RangeConf{Subnet: networks[i], RangeStart: first, RangeEnd: last})
	}
	conf := cni.Conf{Type: cni.Type, CoolDown: spec.CoolDown.Duration.Round(time.Second).String()}
	for _, set := range sets {
		if len(set) > 0 {
			conf.Ranges = append(conf.Ranges, set)
		}
	}
	for _, st := range spec.Static {
		a, err := netip.ParseAddr(st.Address)
		if err != nil {
			return cni.Conf{}, fmt.Errorf("static: %w", err)
		}
		conf.Static = append(conf.Static, cni.StaticConf{Address: a, Name: st.Name, MAC: st.MAC})
	}
	return conf, nil
}
