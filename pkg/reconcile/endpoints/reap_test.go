// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// endedLease makes a lease and marks it as ended.
func (l *lab) endedLease(t *testing.T, id string) store.Lease {
	t.Helper()
	pool, err := ipam.NewPool("p", ipam.Subnet{Prefix: netip.MustParsePrefix("10.244.0.0/24")})
	if err != nil {
		t.Fatal(err)
	}
	key := store.Key{ContainerID: id, IfName: "eth0"}
	if _, err := l.leases.Allocate(store.Request{Pools: []ipam.Pool{pool}, Lease: store.Lease{Key: key, Network: "patchbay", MAC: "02:00:00:00:00:02"}}); err != nil {
		t.Fatal(err)
	}
	of, err := l.leases.End(key)
	if err != nil || len(of) != 1 || !of[0].Ended {
		t.Fatalf("end: %+v, %v", of, err)
	}
	return of[0]
}

func (l *lab) awaitReleased(t *testing.T) {
	t.Helper()
	netlab.WaitFor(t, 5*time.Second, "lease released", func() error {
		c, err := l.leases.List()
		if err != nil || len(c.Leases) != 0 || len(c.Resting) == 0 {
			return fmt.Errorf("leases %+v, resting %v, %v", c.Leases, c.Resting, err)
		}
		return nil
	})
}

// TestLeaseEndsWithLink: the lease of a DEL is released once its link is gone, and
// holds its address as long as that stays.
func TestLeaseEndsWithLink(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		l := newLab(t)
		lease := l.endedLease(t, "c1")
		name := lease.Link()
		l.here.Exec(t, "ip", "link", "set", "lo", "name", name) // which can't be removed
		d := agentapi.EndpointDelete{EndpointKey: agentapi.EndpointKey(lease.Key), HostIfName: name, HostIfIndex: l.here.Index(t, name), Generation: lease.Generation, EndsLease: true}
		for range 3 {
			if err := errors.Join(l.table.Delete(d), l.table.endMarked()); err != nil {
				t.Fatal(err)
			}
		}
		netlab.WaitFor(t, 5*time.Second, "a try to remove the link", func() error {
			l.table.mu.Lock()
			defer l.table.mu.Unlock()
			if len(l.table.doomed) != 1 || len(l.table.ended) != 0 {
				return fmt.Errorf("doomed: %v, ended: %v", l.table.doomed, l.table.ended)
			}
			return nil
		})
		if c, err := l.leases.List(); err != nil || len(c.Leases) != 1 {
			t.Errorf("while the link is there: leases %+v, %v", c.Leases, err)
		}
		l.here.Exec(t, "ip", "link", "set", name, "name", "lo")
		l.awaitReleased(t)
	})
}

// TestMarkedLease ends what a DEL had marked whose process was killed then: at the
// agent's start, and later.
func TestMarkedLease(t *testing.T) {
	for name, look := range map[string]func(*Table) error{"start": (*Table).Adopt, "later": (*Table).endMarked} {
		t.Run(name, func(t *testing.T) {
			netlab.Isolate(t, func(t *testing.T) {
				l := newLab(t)
				link := l.endedLease(t, "c1").Link()
				netlab.Wire(t, l.here, link, l.peer, "eth7")
				if err := look(l.table); err != nil {
					t.Fatal(err)
				}
				l.awaitReleased(t)
				if out, err := l.here.TryExec("ip", "link", "show", link); err == nil {
					t.Errorf("link left: %s", out)
				}
				if pods := l.table.List(); len(pods) != 0 {
					t.Errorf("adopted: %v", pods)
				}
			})
		})
	}
}
