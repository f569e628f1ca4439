// SPDX-License-Identifier: Apache-2.0

// Package checks looks at what upstream's tests don't on a running cluster: the
// site's own routes, NICs and pools, what becomes of sockets whose endpoint
// goes, and what is said of objects that can't be used.
package checks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/patchbay-net/patchbay/test/cluster/internal/lab"
	"github.com/patchbay-net/patchbay/test/cluster/manifests"
)

const namespace = "checks"

// site is the cluster that is looked at.
type site struct {
	lab *lab.Lab
	mu  sync.Mutex // of out
	out io.Writer
}

type check struct {
	name string
	run  func(context.Context) error
}

// Run looks at everything and removes what it made. What waits for little but
// the cluster goes on at one time.
func Run(ctx context.Context, l *lab.Lab, out io.Writer) (err error) {
	s := &site{lab: l, out: out}
	manifest, err := manifests.Files.ReadFile("checks.yaml")
	if err != nil {
		return err
	}
	if err := l.Apply(ctx, bytes.NewReader(manifest)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.clear(ctx)) }()
	for _, line := range []string{
		"wait --for=condition=Available deployment --all --timeout=60s",
		"wait --for=condition=Ready pod/client --timeout=30s",
		"wait --for=jsonpath={.status.loadBalancer.ingress[0].ip} service/echo --timeout=30s",
	} {
		if _, err := s.kubectl(ctx, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return s.all(ctx, []check{
		{"node ports and host ports are open on the NICs they are for alone", s.ports},
		{"a connected UDP socket ends with its endpoint, and only then; a TCP connection drains", s.sockets},
		{"what can't be is refused, and the owner told", s.wrong},
		{"pools come, give, drain and go", s.pools},
		{"custom routes are kept, refused, listed and removed", s.routes},
	})
}

// all runs the checks at one time, and tells of each.
func (s *site) all(ctx context.Context, list []check) error {
	results := make([]error, len(list))
	var group sync.WaitGroup
	for i, c := range list {
		group.Go(func() {
			start := time.Now()
			if err := c.run(ctx); err != nil {
				results[i] = fmt.Errorf("checks: %s: %w", c.name, err)
				s.say("FAIL, %.1f s: %s: %v", time.Since(start).Seconds(), c.name, err)
				return
			}
			s.say("ok, %.1f s: %s", time.Since(start).Seconds(), c.name)
		})
	}
	group.Wait()
	return errors.Join(results...)
}

func (s *site) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, "checks: "+format+"\n", args...)
}

// clear removes what was made, and sees that no address is lost by it.
func (s *site) clear(ctx context.Context) error {
	_, err := s.kubectl(ctx, "delete", "namespace/"+namespace, "noderoute/checks", "ippool/checks-services", "ippool/checks-pods", "--ignore-not-found", "--timeout=60s")
	for _, m := range s.lab.Machines {
		err = errors.Join(err, s.await(ctx, 20*time.Second, func() error {
			_, err := s.ctl(ctx, m.Name, "ipam", "check")
			return err
		}))
	}
	return err
}

// kubectl runs kubectl in the checks' namespace and returns what it printed.
func (s *site) kubectl(ctx context.Context, args ...string) (string, error) {
	return output(s.lab.Kubectl(ctx, append([]string{"-n", namespace}, args...)...))
}

// ctl runs patchbayctl on a node.
func (s *site) ctl(ctx context.Context, node string, args ...string) (string, error) {
	agent, err := s.agent(ctx, node)
	if err != nil {
		return "", err
	}
	return s.kubectl(ctx, append([]string{"-n", "patchbay-system", "exec", agent, "-c", "patchbayd", "--", "patchbayctl"}, args...)...)
}

// agent names the pod of a node's agent.
func (s *site) agent(ctx context.Context, node string) (string, error) {
	return s.kubectl(ctx, "-n", "patchbay-system", "get", "pod", "-l", "app.kubernetes.io/name=patchbayd",
		"--field-selector", "spec.nodeName="+node, "-o", "name")
}

// on runs a command on a machine.
func (s *site) on(ctx context.Context, machine string, argv ...string) (string, error) {
	cmd, err := s.lab.Exec(ctx, machine, argv...)
	if err != nil {
		return "", err
	}
	return output(cmd)
}

// await repeats f until it succeeds, for limit at most.
func (s *site) await(ctx context.Context, limit time.Duration, f func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// holds tells that text has each of the words.
func holds(text string, words ...string) error {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return fmt.Errorf("no %q in: %s", word, text)
		}
	}
	return nil
}
