// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/test/cluster/internal/lab"
)

// nodeTests take a node out of the application's way, with requests going on.
func (a *app) nodeTests() []step {
	return []step{
		{"a node that is to go says so to load balancers", a.checkEligible},
		{"no request is lost while a node is drained", a.checkDrain},
		{"no request is lost while a node's address changes", a.checkAddress},
		{"no request is lost while a node is deleted and joins anew", a.checkDeleteNode},
	}
}

// spare is a node without the database, of which there is one pod only: one
// that answers for a LoadBalancer address, else one that serves.
func (a *app) spare(ctx context.Context) (lab.Machine, error) {
	hosts := func(name string) ([]string, error) {
		return a.fields(ctx, "pod", `.items[?(@.metadata.labels.app=="`+name+`")].spec.nodeName`)
	}
	database, err := hosts("database")
	if err != nil {
		return lab.Machine{}, err
	}
	serving, err := hosts("web")
	if err != nil {
		return lab.Machine{}, err
	}
	announcing, err := a.announcers(ctx)
	if err != nil {
		return lab.Machine{}, err
	}
	for _, name := range append(announcing, serving...) {
		i := slices.IndexFunc(a.lab.Machines, func(m lab.Machine) bool { return m.Name == name })
		if i > 0 && name != database[0] {
			return a.lab.Machines[i], nil
		}
	}
	return lab.Machine{}, fmt.Errorf("no node to spare: the database is on %s, web on %v, addresses on %v", database[0], serving, announcing)
}

// announcers are the nodes that answer for the application's addresses.
func (a *app) announcers(ctx context.Context) ([]string, error) {
	frontends, err := a.frontends(ctx)
	if err != nil {
		return nil, err
	}
	out, err := a.lab.Kubectl(ctx, "-n", "patchbay-system", "exec", "daemonset/patchbayd", "-c", "patchbayd", "--",
		"patchbayctl", "addresses", "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("patchbayctl addresses: %w", err)
	}
	var addresses []struct {
		Addr  netip.Addr
		Owner string
	}
	if err := json.Unmarshal(out, &addresses); err != nil {
		return nil, fmt.Errorf("patchbayctl addresses: %w: %s", err, out)
	}
	var names []string
	for _, f := range frontends {
		for _, addr := range addresses {
			if addr.Addr == f.Addr() && addr.Owner != "" {
				names = append(names, addr.Owner)
			}
		}
	}
	return names, nil
}

// checkEligible asks for a node's health as a load balancer does.
func (a *app) checkEligible(ctx context.Context) error {
	m, err := a.spare(ctx)
	if err != nil {
		return err
	}
	const taint = "ToBeDeletedByClusterAutoscaler"
	for _, want := range []struct {
		taint string
		code  int
	}{{taint + "=soon:NoSchedule", http.StatusServiceUnavailable}, {taint + "-", http.StatusOK}} {
		if err := a.kubectl(ctx, a.lab, []string{"taint", "node", m.Name, want.taint}); err != nil {
			return err
		}
		var got string
		err := a.await(ctx, 10*time.Second, func() error {
			cmd, err := a.lab.Exec(ctx, m.Name, "curl", "-s", "-m", "2", "-w", " %{http_code}", "http://127.0.0.1:10256/healthz")
			if err != nil {
				return err
			}
			out, err := cmd.Output()
			if got = string(out); err == nil && !strings.HasSuffix(got, fmt.Sprint(" ", want.code)) {
				err = fmt.Errorf("healthz of %s tainted %s: want %d, got %s", m.Name, want.taint, want.code, got)
			}
			return err
		})
		if err != nil {
			return err
		}
		var body struct{ NodeEligible *bool }
		if err := json.NewDecoder(strings.NewReader(got)).Decode(&body); err != nil {
			return fmt.Errorf("healthz of %s: %w: %s", m.Name, err, got)
		}
		if body.NodeEligible == nil || *body.NodeEligible != (want.code == http.StatusOK) {
			return fmt.Errorf("healthz of %s tainted %s says %s", m.Name, want.taint, got)
		}
	}
	return nil
}

func (a *app) checkDrain(ctx context.Context) error {
	m, err := a.spare(ctx)
	if err != nil {
		return err
	}
	err = a.underLoad(ctx,
		[]string{"drain", m.Name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"},
		[]string{"-n", shop, "rollout", "status", "deployment/web", "--timeout=60s"})
	return errors.Join(err, a.kubectl(ctx, a.lab, []string{"uncordon", m.Name}))
}

// checkAddress moves a node to another address, as an operator would: the new
// one is there before the old one goes.
func (a *app) checkAddress(ctx context.Context) error {
	m, err := a.spare(ctx)
	if err != nil {
		return err
	}
	to := lab.Port{V4: moved(m.Internal.V4), V6: moved(m.Internal.V6)}
	return a.load(ctx, func() error {
		return a.lab.Readdress(ctx, m.Name, to, func() error { return a.followed(ctx, m, to) })
	})
}

// moved is another host of the same subnet, which no machine has.
func moved(p netip.Prefix) netip.Prefix {
	raw := p.Addr().AsSlice()
	raw[len(raw)-1] += 100
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, p.Bits())
}

// followed waits until the node has its new address in Kubernetes, and then for
// some seconds until the other nodes' routes to its pods lead there.
func (a *app) followed(ctx context.Context, m lab.Machine, to lab.Port) error {
	err := a.await(ctx, 60*time.Second, func() error {
		out, err := a.lab.Kubectl(ctx, "get", "node", m.Name, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`).Output()
		if err == nil && !slices.Contains(strings.Fields(string(out)), to.V4.Addr().String()) {
			err = fmt.Errorf("node %s has the addresses %s, want %s", m.Name, out, to.V4.Addr())
		}
		return err
	})
	if err != nil {
		return err
	}
	ranges, err := podRanges(ctx, a.lab, m)
	if err != nil {
		return err
	}
	start := time.Now()
	for _, other := range a.lab.Machines {
		if other.Name == m.Name {
			continue
		}
		for _, r := range ranges {
			if err := a.await(ctx, 10*time.Second, func() error { return a.routed(ctx, other, r, to) }); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(a.out, "app: %s moved to %s; all routes led there %.1f s after the node said so\n", m.Name, to.V4.Addr(), time.Since(start).Seconds())
	return nil
}

// routed tells whether machine m sends what is for r to the address to.
func (a *app) routed(ctx context.Context, m lab.Machine, r netip.Prefix, to lab.Port) error {
	via := to.V4.Addr()
	if r.Addr().Is6() {
		via = to.V6.Addr()
	}
	cmd, err := a.lab.Exec(ctx, m.Name, "ip", "route", "get", r.Addr().Next().String())
	if err != nil {
		return err
	}
	out, err := cmd.CombinedOutput()
	if err == nil && !strings.Contains(string(out), " via "+via.String()+" ") {
		err = fmt.Errorf("%s: the route to %s leads elsewhere than %s: %s", m.Name, r, via, out)
	}
	return err
}

// checkDeleteNode drains a node and deletes its object; the kubelet registers
// it anew.
func (a *app) checkDeleteNode(ctx context.Context) error {
	m, err := a.spare(ctx)
	if err != nil {
		return err
	}
	return a.load(ctx, func() error {
		err := a.kubectl(ctx, a.lab,
			[]string{"drain", m.Name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"},
			[]string{"-n", shop, "rollout", "status", "deployment/web", "--timeout=60s"},
			[]string{"delete", "node", m.Name, "--timeout=30s"})
		if err != nil {
			return err
		}
		if err := a.lab.RestartKubelet(ctx, m.Name); err != nil {
			return err
		}
		err = a.await(ctx, 60*time.Second, func() error {
			return a.kubectl(ctx, a.lab, []string{"wait", "--for=condition=Ready", "node/" + m.Name, "--timeout=5s"})
		})
		return errors.Join(err, a.kubectl(ctx, a.lab,
			[]string{"-n", "patchbay-system", "rollout", "status", "daemonset/patchbayd", "--timeout=60s"}))
	})
}

// await repeats f until it succeeds, for limit at most.
func (a *app) await(ctx context.Context, limit time.Duration, f func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
