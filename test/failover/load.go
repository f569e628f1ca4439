// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// late is when a connection counts as lost though it came about in the end: a
// first packet that was lost is sent again after a second. One that only took long,
// without anything sent again, is the machine's business.
const late = 900 * time.Millisecond

// Attempt is one request over a connection of its own, as `runtime stream` prints it.
type Attempt struct {
	To    string
	Begun time.Duration // by Now's clock
	Took  time.Duration
	// Resent counts its packets that were sent again.
	Resent uint32
	Error  string
}

// Lost tells whether the request failed, or its first packet was lost.
func (a Attempt) Lost() bool { return a.Error != "" || a.Took >= late && a.Resent > 0 }

// Load is the requests of the client and of the one behind the router, to both
// addresses of a Service.
type Load struct {
	lab  *Lab
	cmds []*exec.Cmd
	all  sync.WaitGroup

	mu      sync.Mutex
	streams map[string][]Attempt // by client and address
}

// StartLoad starts sending requests, and returns once some of each stream succeeded.
func (l *Lab) StartLoad(s Service) *Load {
	l.tb.Helper()
	load := &Load{lab: l, streams: map[string][]Attempt{}}
	var targets []string
	for _, addr := range s.Addrs() {
		targets = append(targets, netip.AddrPortFrom(addr, uint16(s.Port)).String())
	}
	for name, ns := range map[string]*netlab.Namespace{"client": l.client, "routed client": l.far} {
		if err := load.start(name, ns, targets); err != nil {
			l.tb.Fatalf("start the %s: %v", name, err)
		}
	}
	l.tb.Cleanup(func() { load.Stop() })
	from, lost := Now(), "none"
	netlab.WaitFor(l.tb, 20*time.Second, "a good half second of all streams", func() error {
		streams := load.Between(from, Now())
		for name, attempts := range streams {
			if i := slices.IndexFunc(attempts, Attempt.Lost); i >= 0 {
				from, lost = Now(), fmt.Sprintf("%s: %+v", name, attempts[i])
			}
			if len(attempts) < 40 {
				return fmt.Errorf("%s: only %d; last lost: %s", name, len(attempts), lost)
			}
		}
		if len(streams) < 2*len(targets) || from > Now()-500*time.Millisecond {
			return fmt.Errorf("%d streams; last lost: %s", len(streams), lost)
		}
		return nil
	})
	return load
}

// start starts one client's streams.
func (load *Load) start(client string, ns *netlab.Namespace, targets []string) error {
	args := append([]string{"stream", strconv.Itoa(int(tick / time.Millisecond))}, targets...)
	cmd := exec.Command(load.lab.Program("runtime"), args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := ns.Start(cmd); err != nil {
		return err
	}
	load.cmds = append(load.cmds, cmd)
	load.all.Go(func() { load.read(client, out) })
	return nil
}

func (load *Load) read(client string, out io.Reader) {
	for lines := json.NewDecoder(out); ; {
		var a Attempt
		if err := lines.Decode(&a); err != nil {
			return // the program has ended
		}
		name := client + " to " + a.To
		load.mu.Lock()
		load.streams[name] = append(load.streams[name], a)
		load.mu.Unlock()
	}
}

// Stop ends the clients and waits for what is under way.
func (load *Load) Stop() {
	for _, cmd := range load.cmds {
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	load.all.Wait()
	for _, cmd := range load.cmds {
		_ = cmd.Wait()
	}
	load.cmds = nil
}

// Between returns the attempts that were begun in a span of time and have ended, by stream.
func (load *Load) Between(from, to time.Duration) map[string][]Attempt {
	load.mu.Lock()
	defer load.mu.Unlock()
	out := map[string][]Attempt{}
	for name, attempts := range load.streams {
		for _, a := range attempts {
			if a.Begun >= from && a.Begun < to {
				out[name] = append(out[name], a)
			}
		}
	}
	return out
}

// Outage is what a fault meant to one stream.
type Outage struct {
	Stream      string
	Done, Lost  int
	Span        time.Duration // from the first lost request to the first good one after the last lost
	First, Last Attempt       // of those lost
}

func (o Outage) String() string {
	if o.Lost == 0 {
		return fmt.Sprintf("%s: none of %d lost", o.Stream, o.Done)
	}
	last := cmp.Or(o.Last.Error, fmt.Sprintf("done after %v", o.Last.Took.Round(time.Millisecond)))
	return fmt.Sprintf("%s: %d of %d lost over %v, first %q, last %q", o.Stream, o.Lost, o.Done, o.Span.Round(time.Millisecond), o.First.Error, last)
}

// Outages judges what was begun in a span of time. The load must have been
// stopped, or be past that by the clients' patience.
func (load *Load) Outages(from, to time.Duration) []Outage {
	streams := load.Between(from, to)
	var out []Outage
	for _, name := range slices.Sorted(maps.Keys(streams)) {
		out = append(out, judge(name, streams[name]))
	}
	return out
}

// judge judges one stream.
func judge(name string, attempts []Attempt) Outage {
	slices.SortFunc(attempts, func(a, b Attempt) int { return int(a.Begun - b.Begun) })
	o := Outage{Stream: name, Done: len(attempts)}
	for i, a := range attempts {
		if !a.Lost() {
			continue
		}
		if o.Lost == 0 {
			o.First = a
		}
		o.Lost++
		o.Last = a
		if o.Span = a.Begun - o.First.Begun + tick; i+1 < len(attempts) {
			o.Span = attempts[i+1].Begun - o.First.Begun
		}
	}
	return o
}
