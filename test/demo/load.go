// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// The load: so many requests, one begun at each tick, each over a connection of its own.
const (
	requests = 300
	tick     = 20 * time.Millisecond
	patience = 3 * time.Second
)

// served is a request's fate.
type served struct {
	pod, client string
	err         error
}

// load is a run of requests from the outside client.
type load struct {
	url    string
	client http.Client

	mu      sync.Mutex
	begun   int
	results []served // by number, as far as they are begun
	done    chan struct{}
}

// startLoad starts sending the requests.
func startLoad(client *netlab.Namespace, address netip.Addr) *load {
	l := &load{url: fmt.Sprintf("http://%s/", address), results: make([]served, requests), done: make(chan struct{})}
	l.client = http.Client{Timeout: patience, Transport: site.Transport(client)}
	go l.run()
	return l
}

func (l *load) run() {
	defer close(l.done)
	var all sync.WaitGroup
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	for i := range requests {
		<-ticks.C
		l.mu.Lock()
		l.begun = i + 1
		l.mu.Unlock()
		all.Go(func() {
			r := l.request()
			l.mu.Lock()
			l.results[i] = r
			l.mu.Unlock()
		})
	}
	all.Wait()
}

// request sends one request.
func (l *load) request() (r served) {
	resp, err := l.client.Get(l.url)
	if err != nil {
		return served{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return served{err: fmt.Errorf("%s: %s (%v)", resp.Status, body, err)}
	}
	var answer struct {
		Pod, Client string
		Row         struct{ Text string }
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Row.Text != "row 1" {
		return served{err: fmt.Errorf("answer %q: %v", body, err)}
	}
	from, err := netip.ParseAddrPort(answer.Client)
	return served{pod: answer.Pod, client: from.Addr().String(), err: err}
}

// waitBegun waits until so many requests are begun.
func (l *load) waitBegun(s *stage, n int) {
	netlab.WaitFor(s, requests*tick+patience, "requests", func() error {
		if begun := l.count(); begun < n {
			return fmt.Errorf("%d of %d begun", begun, n)
		}
		return nil
	})
}

// count returns how many requests are begun.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.begun
}

// finish waits for the last answer and returns all fates.
func (l *load) finish() []served {
	<-l.done
	return l.results
}

// phase is a part of the run, and the pods that had to share it.
type phase struct {
	name     string
	from, to int
	pods     []string
}

// shares returns how many of the phase's requests each pod served.
func (p phase) shares(results []served) map[string]int {
	shares := map[string]int{}
	for _, r := range results[p.from:p.to] {
		shares[r.pod]++
	}
	return shares
}
