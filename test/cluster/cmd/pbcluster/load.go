// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/patchbay-net/patchbay/test/cluster/internal/lab"
)

// answer is what a web server of the application replies.
type answer struct {
	Pod    string `json:"pod"`
	Client string `json:"client"`
	Row    struct {
		Text string `json:"text"`
	} `json:"row"`
}

// ask sends one request from outside and checks all of its answer.
func (a *app) ask(ctx context.Context, server netip.AddrPort) (answer, error) {
	var got answer
	body, err := a.lab.Get(ctx, server, "/")
	if err != nil {
		return got, err
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return got, fmt.Errorf("answer %q: %w", body, err)
	}
	client, err := netip.ParseAddrPort(got.Client)
	if err != nil {
		return got, fmt.Errorf("answer %q: %w", body, err)
	}
	want := lab.ClientPort().V4.Addr()
	if server.Addr().Is6() {
		want = lab.ClientPort().V6.Addr()
	}
	if client.Addr().Unmap() != want {
		return got, fmt.Errorf("pod %s saw client %s, want %s", got.Pod, client, want)
	}
	if got.Row.Text == "" {
		return got, fmt.Errorf("pod %s answered without a row of the database", got.Pod)
	}
	return got, nil
}

// frontends are the application's addresses for the outside.
func (a *app) frontends(ctx context.Context) ([]netip.AddrPort, error) {
	return a.servers(ctx, "service/web", ".status.loadBalancer.ingress[*].ip", 80)
}

func (a *app) checkBalance(ctx context.Context) error {
	servers, err := a.frontends(ctx)
	if err != nil {
		return err
	}
	for _, server := range servers {
		if err := a.balance(ctx, server); err != nil {
			return err
		}
	}
	return nil
}

// balance asks 300 times; each of the three pods must serve a fifth at least.
func (a *app) balance(ctx context.Context, server netip.AddrPort) error {
	const requests = 300
	count := map[string]int{}
	for range requests {
		got, err := a.ask(ctx, server)
		if err != nil {
			return err
		}
		count[got.Pod]++
	}
	fmt.Fprintf(a.out, "app: %s served %d requests:", server, requests)
	for _, pod := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(a.out, " %s %d", pod, count[pod])
	}
	fmt.Fprintln(a.out)
	if len(count) != 3 {
		return fmt.Errorf("%d pods served, want 3", len(count))
	}
	for pod, n := range count {
		if n < requests/5 {
			return fmt.Errorf("%s served %d of %d requests, want a fifth at least", pod, n, requests)
		}
	}
	return nil
}

func (a *app) checkDelete(ctx context.Context) error {
	pods, err := a.fields(ctx, "pod", `.items[?(@.metadata.labels.app=="web")].metadata.name`)
	if err != nil {
		return err
	}
	return a.underLoad(ctx,
		[]string{"-n", shop, "delete", "pod", pods[0], "--timeout=60s"},
		[]string{"-n", shop, "rollout", "status", "deployment/web", "--timeout=60s"})
}

func (a *app) checkRollout(ctx context.Context) error {
	return a.underLoad(ctx,
		[]string{"-n", shop, "rollout", "restart", "deployment/web"},
		[]string{"-n", shop, "rollout", "status", "deployment/web", "--timeout=120s"})
}

// checkAgents replaces every agent, one after the other.
func (a *app) checkAgents(ctx context.Context) error {
	return a.underLoad(ctx,
		[]string{"-n", "patchbay-system", "rollout", "restart", "daemonset/patchbayd"},
		[]string{"-n", "patchbay-system", "rollout", "status", "daemonset/patchbayd", "--timeout=120s"})
}

// tally counts the requests of a load.
type tally struct {
	asked int
	lost  []error
	pods  map[string]bool
}

// underLoad runs the kubectl lines with requests going on.
func (a *app) underLoad(ctx context.Context, lines ...[]string) error {
	return a.load(ctx, func() error { return a.kubectl(ctx, a.lab, lines...) })
}

// load asks all frontends in turn, without a pause, while f runs and for a
// second more. Every request must be answered.
func (a *app) load(ctx context.Context, f func() error) error {
	servers, err := a.frontends(ctx)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	done := make(chan tally)
	go func() { done <- a.askOn(ctx, servers, stop) }()
	err = f()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	close(stop)
	t := <-done
	fmt.Fprintf(a.out, "app: %d requests, %d lost, %d pods served\n", t.asked, len(t.lost), len(t.pods))
	if len(t.lost) > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d requests lost, the first: %w", len(t.lost), t.asked, t.lost[0]))
	}
	return err
}

// askOn asks until stop is closed or ctx ends.
func (a *app) askOn(ctx context.Context, servers []netip.AddrPort, stop <-chan struct{}) tally {
	t := tally{pods: map[string]bool{}}
	for {
		select {
		case <-stop:
			return t
		case <-ctx.Done():
			return t
		default:
		}
		got, err := a.ask(ctx, servers[t.asked%len(servers)])
		if err != nil {
			t.lost = append(t.lost, fmt.Errorf("request %d at %s: %w", t.asked, time.Now().Format("15:04:05.000"), err))
		}
		t.pods[got.Pod] = true
		t.asked++
	}
}
