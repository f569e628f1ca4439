// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/datapath/services"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/oracle"
)

// TestFullMaps takes chains of states through maps that are too small for them:
// what is refused is named, and all else is as the oracle says.
func TestFullMaps(t *testing.T) {
	for name, entries := range map[string]uint32{"frontends": 60, "backends": 30, "services": 16, "slots": 3000} {
		t.Run(name, func(t *testing.T) {
			netlab.Isolate(t, func(t *testing.T) {
				n := newSmallNode(t, map[string]uint32{name: entries})
				refused := 0
				for seed := uint64(1); seed <= 6; seed++ {
					r := oracle.NewRandom(seed)
					c, state := n.newChain(fault{}), r.State()
					for range statesOfChain {
						count, err := n.squeeze(c, state)
						if err != nil {
							t.Fatalf("seed %d: %v", seed, err)
						}
						refused += count
						state = r.Change(state)
					}
				}
				if refused == 0 {
					t.Error("nothing was refused: the map isn't small")
				}
			})
		})
	}
}

// squeeze writes a state, and compares what was not refused. It returns how many
// Services were.
func (n *node) squeeze(c *chain, s *oracle.State) (int, error) {
	entries := c.build(s)
	n.now = n.now.Add(time.Minute)
	refused, rest := services.Refusals(n.services.Set(entries))
	if rest != nil {
		return 0, fmt.Errorf("set: %w", rest)
	}
	k, err := readMaps(n.set.Maps)
	if err != nil {
		return 0, err
	}
	have := map[string]string{}
	for key, value := range k.frontends {
		if value.Service == 0 {
			continue // an address alone
		}
		backends, err := k.chosen(value.Service)
		if err != nil {
			return 0, err
		}
		f := frontendOf(key, value, backends)
		have[frontendName(netip.AddrPortFrom(f.IP, f.Port), corev1.Protocol(f.Protocol.String()), f.Scope == service.External)] = describe(f)
	}
	var errs []error
	for _, f := range s.Frontends() {
		namespace, name, _ := strings.Cut(f.Service, "/")
		if refused[service.Name{Namespace: namespace, Name: name}] != nil {
			continue
		}
		at := frontendName(f.Addr, f.Protocol, f.Outside)
		if want := wanted(f); have[at] != want {
			errs = append(errs, fmt.Errorf("%s of %s:\n\tgot  %s\n\twant %s", at, f.Service, have[at], want))
		}
	}
	return len(refused), errors.Join(errs...)
}
