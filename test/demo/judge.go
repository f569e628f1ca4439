// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
	"github.com/patchbay-net/patchbay/test/site"
)

// leastShare is the least that each web pod serves of the requests that it shares, in per cent.
const leastShare = 20

// announcer returns the node whose external NIC the client knows the address by.
func (s *scene) announcer() *site.Node {
	known := s.Client.Exec(s, "ip", "neigh", "show", s.vip.String())
	for _, n := range s.Nodes {
		mac := n.Net.MAC(s, "eth1")
		if strings.Contains(known, net.HardwareAddr(mac[:]).String()) {
			return n
		}
	}
	s.Fatalf("the client knows %s as %q, which is no node's external NIC", s.vip, known)
	return nil
}

// judge checks the fates of the requests.
func (s *scene) judge(results []served, phases []phase) {
	var lost, others []string
	for i, r := range results {
		if r.err != nil {
			lost = append(lost, fmt.Sprintf("request %d: %v", i, r.err))
		} else if r.client != site.ClientAddress {
			others = append(others, r.client)
		}
	}
	s.check(len(lost) == 0, fmt.Sprintf("%d, first %v", len(lost), lost[:min(len(lost), 3)]), "none of %d requests lost", len(results))
	for _, p := range phases {
		shares, n := p.shares(results), p.to-p.from
		for _, name := range p.pods {
			percent := 100 * shares[name] / max(n, 1)
			s.check(percent >= leastShare, percent, "%s served %d of the %d requests %s: %d %%", name, shares[name], n, p.name, percent)
		}
	}
	s.check(len(others) == 0, others, "every pod saw the client's own address %s", site.ClientAddress)
}

// watched are the captures on every NIC that a reply could pass.
type watched struct {
	client *netlab.Capture
	nics   map[string]*netlab.Capture
}

// watch captures on all NICs of the nodes and at the client.
func (s *scene) watch() watched {
	w := watched{client: netlab.NewCapture(s, s.Client, "eth0"), nics: map[string]*netlab.Capture{}}
	for _, n := range s.Nodes {
		for _, nic := range []string{"eth0", "eth1"} {
			w.nics[n.Name+" "+nic] = netlab.NewCapture(s, n.Net, nic)
		}
	}
	return w
}

// replies counts the TCP frames from vip that went the given way, by the
// client's port, for connections whose first one, the SYN-ACK, was captured.
func replies(c *netlab.Capture, vip netip.Addr, outgoing bool) map[uint16]int {
	const ethernet, protocol, source, tcp = 14, 23, 26, 34
	src, began := vip.As4(), map[uint16]int{}
	for _, f := range c.Frames() {
		if f.Outgoing != outgoing || len(f.Data) < tcp+20 || !bytes.Equal(f.Data[12:ethernet], []byte{8, 0}) ||
			f.Data[protocol] != 6 || !bytes.Equal(f.Data[source:source+4], src[:]) {
			continue
		}
		port := binary.BigEndian.Uint16(f.Data[tcp+2:])
		if synAck := f.Data[tcp+13]&0x12 == 0x12; synAck || began[port] > 0 {
			began[port]++
		}
	}
	return began
}

// judgeReplies checks by which NIC the replies left.
func (s *scene) judgeReplies(w watched, connections int) {
	owner := s.owner.Name + " eth1"
	var arrived map[uint16]int
	netlab.WaitFor(s, 5*time.Second, "each reply that left by "+owner+" at the client, and no other", func() error {
		arrived = replies(w.client, s.vip, false)
		if left := replies(w.nics[owner], s.vip, true); !maps.Equal(arrived, left) {
			return fmt.Errorf("replies of %d connections left, of %d arrived", len(left), len(arrived))
		}
		return nil
	})
	s.check(len(arrived) == connections, len(arrived), "the replies of all %d connections left by %s, where the requests came in", connections, owner)
	for _, name := range slices.Sorted(maps.Keys(w.nics)) {
		if name != owner {
			left := len(replies(w.nics[name], s.vip, true))
			s.check(left == 0, left, "none left by %s", name)
		}
	}
}

// judgeFromOutside checks that a client with routes to them reaches neither ClusterIPs nor pods.
func (s *scene) judgeFromOutside() {
	client, via := s.Client, s.owner.External
	before := s.drops()
	for _, prefix := range []string{"10.96.0.0/16", "10.244.0.0/16"} {
		client.Route(s, prefix, via, "eth0")
	}
	targets := map[string]string{"ClusterIP of web": webService().ClusterIP + ":80"}
	for name, p := range s.web {
		targets["pod "+name] = netip.AddrPortFrom(p.Addr, 8080).String()
	}
	for what, address := range targets {
		err := client.Do(func() error {
			conn, err := net.DialTimeout("tcp", address, 300*time.Millisecond)
			if err == nil {
				conn.Close()
			}
			return err
		})
		s.check(err != nil, "a connection", "from outside, %s %s doesn't answer", what, address)
	}
	after := s.drops()
	s.check(after != before, before, "and that is counted by %s", s.owner.Name)
}

// drops is what the owner's datapath has counted as dropped.
func (s *scene) drops() string {
	return s.owner.Exec(s, s.Program("patchbayctl"), "drops", "-o", "json")
}
