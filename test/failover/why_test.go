// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// why asks a node's agent about an address.
func (m *Machine) why(l *Lab, what string) (w agentapi.Why, err error) {
	cmd := m.Command(l.Program("patchbayctl"), "addresses", "why", what, "--probe", "-o", "json")
	out, failed := cmd.Output()
	if err := json.Unmarshal(out, &w); err != nil {
		return w, fmt.Errorf("%v: %w: %s", failed, err, out)
	}
	if (failed == nil) != w.OK {
		return w, fmt.Errorf("ended with %v, the answer says %v", failed, w.OK)
	}
	return w, nil
}

// explained checks that each node explains each address, and has it probed.
func explained(t *testing.T, l *Lab) {
	t.Helper()
	l.WaitSettled(homecoming)
	for i, s := range l.Services {
		for _, addr := range s.Addrs() {
			for _, m := range l.machines {
				what := netip.AddrPortFrom(addr, 80).String()
				netlab.WaitFor(t, 20*time.Second, m.Name+" explains "+what, func() error {
					w, err := m.why(l, what)
					if err == nil && (!w.OK || len(w.Probes) == 0 || !strings.HasPrefix(w.Verdict, l.machines[i].Name+" has it")) {
						err = fmt.Errorf("%v, %s, %+v", w.OK, w.Verdict, w.Links)
					}
					return err
				})
			}
		}
	}
	w, err := l.machines[0].why(l, netip.AddrPortFrom(l.Services[0].V4, 81).String())
	if err != nil || w.OK || !strings.Contains(w.Verdict, "no Service has port 81") {
		t.Errorf("port of no Service: got %q, %v", w.Verdict, err)
	}
}

// strangerSeen gives an address of the cluster to a machine of the network, too:
// the observer sees two answer, and so does the other node that looks over the wire.
func strangerSeen(t *testing.T, l *Lab) {
	t.Helper()
	addr, owner, other := l.Services[0].V4, l.machines[0], l.machines[1]
	begin := Now()
	l.client.Addr(t, "eth0", addr.String()+"/32")
	netlab.WaitFor(t, 10*time.Second, other.Name+" sees a stranger answer for "+addr.String(), func() error {
		w, err := other.why(l, addr.String())
		if err == nil && (w.OK || len(w.Probes) == 0 || !strings.Contains(fmt.Sprint(w.Probes), "answered for by")) {
			err = fmt.Errorf("%v, %s, %+v", w.OK, w.Verdict, w.Probes)
		}
		return err
	})
	if doubles := l.Doubles(begin, Now()); len(doubles) == 0 {
		t.Errorf("the observer saw no other than %s answer for %s", owner.Name, addr)
	}
	netlab.WaitFor(t, 30*time.Second, other.Name+" says so by itself", func() error {
		text, err := os.ReadFile(filepath.Join(l.Logs(), other.Name+".log"))
		if err == nil && !strings.Contains(string(text), `msg="address is not reachable" addr=`+addr.String()) {
			err = errors.New("its log has nothing of it")
		}
		return err
	})
}
