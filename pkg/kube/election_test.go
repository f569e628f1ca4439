// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// candidate runs in an election until the test ends.
type candidate struct {
	leads  chan struct{} // gets one when it becomes the leader
	result chan error
	cancel context.CancelFunc
}

const term = 800 * time.Millisecond

func runCandidate(t *testing.T, s *apiServer, identity string, leading *atomic.Int32) *candidate {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &candidate{leads: make(chan struct{}, 1), result: make(chan error, 1), cancel: cancel}
	client := s.client(t)
	go func() {
		c.result <- client.RunElected(ctx, Election{Namespace: "patchbay-system", Name: "patchbay-controller", Identity: identity, Duration: term}, func(ctx context.Context) error {
			if n := leading.Add(1); n > 1 {
				t.Errorf("%d leaders at once", n)
			}
			c.leads <- struct{}{}
			<-ctx.Done()
			leading.Add(-1)
			return nil
		})
	}()
	t.Cleanup(cancel)
	return c
}

func (c *candidate) waitLeads(t *testing.T) {
	t.Helper()
	select {
	case <-c.leads:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody becomes the leader")
	}
}

func (c *candidate) waitResult(t *testing.T) error {
	t.Helper()
	select {
	case err := <-c.result:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("RunElected doesn't return")
		return nil
	}
}

func TestElectionHandsOver(t *testing.T) {
	s := newAPIServer(t)
	var leading atomic.Int32
	first := runCandidate(t, s, "a", &leading)
	first.waitLeads(t)
	second := runCandidate(t, s, "b", &leading)
	first.cancel()
	if err := first.waitResult(t); err != nil {
		t.Errorf("the first ends with %v, want nil", err)
	}
	second.waitLeads(t)
	s.mu.Lock()
	spec := s.objects["/apis/coordination.k8s.io/v1/namespaces/patchbay-system/leases/patchbay-controller"]["spec"].(map[string]any)
	s.mu.Unlock()
	if spec["holderIdentity"] != "b" {
		t.Errorf("lease = %v, want the second's", spec)
	}
	second.cancel()
	if err := second.waitResult(t); err != nil {
		t.Errorf("the second ends with %v, want nil", err)
	}
}

// TestElectionLostWithTheServer: a leader that can't renew stops before another
// may begin.
func TestElectionLostWithTheServer(t *testing.T) {
	s := newAPIServer(t)
	var leading atomic.Int32
	first := runCandidate(t, s, "a", &leading)
	first.waitLeads(t)
	s.mu.Lock()
	s.gone["/apis/coordination.k8s.io/v1/leases"] = http.StatusInternalServerError
	s.mu.Unlock()
	begin := time.Now()
	if err := first.waitResult(t); !errors.Is(err, ErrLeadershipLost) {
		t.Errorf("error = %v, want ErrLeadershipLost", err)
	}
	if took := time.Since(begin); took > term+500*time.Millisecond {
		t.Errorf("the leader gave up after %v, later than its term of %v", took, term)
	}
	s.mu.Lock()
	clear(s.gone)
	s.mu.Unlock()
	runCandidate(t, s, "b", &leading).waitLeads(t)
}

func TestElectedProgramEnds(t *testing.T) {
	client := newAPIServer(t).client(t)
	broken := errors.New("broken")
	for _, want := range []error{nil, broken} {
		err := client.RunElected(t.Context(), Election{Namespace: "patchbay-system", Name: "x", Identity: "a"}, func(context.Context) error { return want })
		if !errors.Is(err, want) {
			t.Errorf("RunElected = %v, want %v", err, want)
		}
	}
}
