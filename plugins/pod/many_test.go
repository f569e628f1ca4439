// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-net/patchbay/test/cnilab"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const (
	manyPods = 500
	atOnce   = 16
	patience = time.Minute // of an ADD that is to be tried again
)

// TestManyPods makes and ends 500 pods, 16 at a time.
func TestManyPods(t *testing.T) {
	l := newLab(t)
	pods := makePods(t)
	start := time.Now()
	given := l.addAll(t, pods)
	added := time.Since(start)
	checkDistinct(t, given)
	if n := l.links(t); n != manyPods {
		t.Errorf("%d links, want %d", n, manyPods)
	}
	start = time.Now()
	l.delAll(t, pods)
	t.Logf("%d ADDs in %s, %d DELs in %s", manyPods, added, manyPods, time.Since(start))
	l.checkClean(t)
	if n := len(l.contents(t).Resting); n != 2*manyPods {
		t.Errorf("%d addresses rest, want %d", n, 2*manyPods)
	}
}

// TestAgentComesAndGoes does so while the agent is away now and then: an ADD may
// fail with code 11 and is made again, a DEL never fails.
func TestAgentComesAndGoes(t *testing.T) {
	l := newLab(t)
	pods := makePods(t)[:100]
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		r := rand.New(rand.NewPCG(1, 1))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(5+r.IntN(40)) * time.Millisecond):
				l.agent.restart(t, l.socket())
			}
		}
	}()
	given := l.addAll(t, pods)
	checkDistinct(t, given)
	l.delAll(t, pods)
	close(stop)
	<-stopped
	l.awaitGone(t)
}

func makePods(t *testing.T) []*netlab.Namespace {
	pods := make([]*netlab.Namespace, manyPods)
	for i := range pods {
		pods[i] = netlab.New(t)
	}
	return pods
}

// each runs f for every pod, atOnce at a time.
func each(pods []*netlab.Namespace, f func(id string, pod *netlab.Namespace)) {
	type job struct {
		id  string
		pod *netlab.Namespace
	}
	jobs := make(chan job)
	var wait sync.WaitGroup
	for range atOnce {
		wait.Go(func() {
			for j := range jobs {
				f(j.id, j.pod)
			}
		})
	}
	for i, pod := range pods {
		jobs <- job{fmt.Sprint("p", i), pod}
	}
	close(jobs)
	wait.Wait()
}

// addAll adds every pod and returns all addresses given. An ADD that is to be
// tried again is.
func (l *lab) addAll(t *testing.T, pods []*netlab.Namespace) []netip.Addr {
	t.Helper()
	var mu sync.Mutex
	var given []netip.Addr
	each(pods, func(id string, pod *netlab.Namespace) {
		conf := cnilab.Attachment(id, pod)
		result, err := l.Add(t.Context(), conf)
		for deadline := time.Now().Add(patience); code(err) == types.ErrTryAgainLater && time.Now().Before(deadline); {
			result, err = l.Add(t.Context(), conf)
		}
		if err != nil {
			t.Errorf("ADD %s: %v", id, err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, ip := range result.IPs {
			a, _ := netip.AddrFromSlice(ip.Address.IP)
			given = append(given, a.Unmap())
		}
	})
	if len(given) != 2*len(pods) {
		t.Errorf("%d addresses given, want %d", len(given), 2*len(pods))
	}
	return given
}

func (l *lab) delAll(t *testing.T, pods []*netlab.Namespace) {
	t.Helper()
	each(pods, func(id string, pod *netlab.Namespace) {
		if err := l.Del(t.Context(), cnilab.Attachment(id, pod)); err != nil {
			t.Errorf("DEL %s: %v", id, err)
		}
		awaitUnplugged(t, pod)
	})
}

func checkDistinct(t *testing.T, given []netip.Addr) {
	t.Helper()
	seen := map[netip.Addr]bool{}
	for _, a := range given {
		if seen[a] {
			t.Errorf("%s was given twice", a)
		}
		seen[a] = true
	}
}
