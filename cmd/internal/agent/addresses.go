// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/announce/heartbeat"
	"github.com/patchbay-net/patchbay/pkg/announce/holder"
	"github.com/patchbay-net/patchbay/pkg/announce/probe"
	"github.com/patchbay-net/patchbay/pkg/announce/verify"
	"github.com/patchbay-net/patchbay/pkg/announce/why"
	"github.com/patchbay-net/patchbay/pkg/config"
	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/netdev"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/durable"
)

const (
	// drainKind is the kind of question by which one node drains another.
	drainKind = "drain"
	// drainTime is how long a drain waits until others have the addresses.
	drainTime = 10 * time.Second
	// askTime is how long another node may take to look over the wire.
	askTime = 8 * time.Second
	// witnesses are how many nodes are asked to look.
	witnesses = 2
)

// addressDesk explains LoadBalancer addresses and drains nodes, for the agent's
// API and for other nodes.
type addressDesk struct {
	cfg       config.Config
	keeper    *holder.Keeper
	beats     *heartbeat.Heartbeat
	verifier  *verify.Verifier
	announced func() ([]datapath.Announcement, error)
}

// open has other nodes' questions answered, adds the operations to the agent's
// API, and drains the node if it was drained before the agent's start.
func (d *addressDesk) open(h agentapi.Handler) error {
	d.beats.Answer(verify.Kind, d.verifier.Answer)
	d.beats.Answer(drainKind, d.answerDrain)
	h[agentapi.OpAddressWhy] = agentapi.Do(d.why)
	h[agentapi.OpNodes] = agentapi.Do(func(context.Context, agentapi.None) ([]agentapi.Node, error) { return d.nodes(), nil })
	h[agentapi.OpNodeDrain] = agentapi.Do(d.drain)
	_, err := os.Stat(d.mark())
	if err == nil {
		d.keeper.SetLeaving(true)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

// mark is the file that says that the node is drained.
func (d *addressDesk) mark() string { return filepath.Join(d.cfg.Paths.State, "drained") }

// why explains an address, and has others look if asked to.
func (d *addressDesk) why(ctx context.Context, r agentapi.WhyRequest) (agentapi.Why, error) {
	announced, err := d.announced()
	if err != nil {
		return agentapi.Why{}, err
	}
	in := why.Input{
		Node: d.cfg.NodeName, Objects: d.verifier.Objects(), Addresses: d.keeper.Addresses(), Standings: d.keeper.Standings(), View: d.beats.View(),
		Announced: map[netip.Addr]time.Duration{}, Verified: d.verifier.Results(), ReplyPath: d.cfg.LoadBalancer.ReplyPath,
	}
	for _, a := range announced {
		in.Announced[a.Addr] = a.Expires
	}
	var others []netip.Addr
	if namespace, name, ok := strings.Cut(r.Service, "/"); ok {
		pending, addrs, err := why.Service(in, source.Key{Namespace: namespace, Name: name})
		if err != nil || len(addrs) == 0 {
			return pending, err
		}
		r.Addr, others = addrs[0], addrs[1:]
	}
	if !r.Addr.IsValid() {
		return agentapi.Why{}, agentapi.Errorf(agentapi.CodeInvalid, "no address given")
	}
	if r.From.IsValid() {
		in.Way = way(ctx, r.From, r.Probe)
	}
	if r.Probe {
		in.Probes = d.probe(ctx, r, in)
	}
	explained := why.Explain(in, why.Question{Addr: r.Addr, Port: r.Port, From: r.From})
	explained.Others = others
	return explained, nil
}

// way is how this node would send a packet to a client. If it is to be probed,
// the next hop is asked for.
func way(ctx context.Context, client netip.Addr, ask bool) (w why.Way) {
	link, gateway := netdev.NextHop(client)
	nic, err := net.InterfaceByIndex(link)
	if link == 0 || err != nil {
		return w
	}
	w.NIC, w.Gateway = nic.Name, gateway
	if !ask {
		return w
	}
	next := client
	if gateway.IsValid() {
		next = gateway
	}
	found, err := probe.Ask(ctx, link, next)
	_, answered := found[next]
	w.Silent = err == nil && !answered
	return w
}

// probe has nodes that don't have the address look at it over the wire.
func (d *addressDesk) probe(ctx context.Context, r agentapi.WhyRequest, in why.Input) []verify.Result {
	owner := ""
	if i := slices.IndexFunc(in.Addresses, func(a holder.Address) bool { return a.Addr == r.Addr }); i >= 0 {
		owner = in.Addresses[i].Holder
	}
	var nodes []string
	for name, p := range in.View.Peers {
		if name != owner && p.Agent {
			nodes = append(nodes, name)
		}
	}
	slices.Sort(nodes)
	if owner != d.cfg.NodeName {
		nodes = append([]string{d.cfg.NodeName}, nodes...)
	}
	nodes = nodes[:min(len(nodes), witnesses)]
	if len(nodes) == 0 {
		return []verify.Result{{By: d.cfg.NodeName, Owner: owner, Problem: "no other node is heard that could ask for it over the wire"}}
	}
	results := make([]verify.Result, len(nodes))
	var all sync.WaitGroup
	for i, node := range nodes {
		all.Go(func() { results[i] = d.look(ctx, node, r) })
	}
	all.Wait()
	return results
}

// look has one node look.
func (d *addressDesk) look(ctx context.Context, node string, r agentapi.WhyRequest) verify.Result {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if node == d.cfg.NodeName {
		result := d.verifier.Look(ctx, r.Addr, r.Port)
		d.verifier.Doubt(result)
		return result
	}
	target := verify.Target{Addr: r.Addr}
	if r.Port != 0 {
		target.Ports = []uint16{r.Port}
	}
	var result verify.Result
	err := d.ask(ctx, node, verify.Kind, target, &result)
	if err != nil {
		result = verify.Result{By: node, Problem: err.Error()}
	}
	return result
}

// ask asks another node.
func (d *addressDesk) ask(ctx context.Context, node, kind string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	raw, err := d.beats.Ask(ctx, node, kind, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return fmt.Errorf("answer of %s: %w", node, err)
	}
	return nil
}

// nodes lists the nodes as this one hears them.
func (d *addressDesk) nodes() []agentapi.Node {
	view, standings := d.beats.View(), d.keeper.Standings()
	names := map[int]string{}
	for _, n := range d.verifier.Objects().NICs {
		names[n.Index] = n.Name
	}
	named := func(links []int) (list []string) {
		for _, l := range links {
			list = append(list, cmp.Or(names[l], fmt.Sprint(l)))
		}
		return list
	}
	list := []agentapi.Node{node(d.cfg.NodeName, "self", heartbeat.Alive, view.Own, standings)}
	for _, name := range slices.Sorted(maps.Keys(view.Peers)) {
		p, agent := view.Peers[name], "silent"
		if p.Agent {
			agent = "heard"
		}
		n := node(name, agent, p.Node, p.State, standings)
		n.HeardOn, n.MissedOn = named(p.Links), named(p.Missed)
		list = append(list, n)
	}
	return list
}

func node(name, agent string, life heartbeat.Life, s heartbeat.State, standings map[string]holder.Standing) agentapi.Node {
	n := agentapi.Node{Name: name, Agent: agent, Life: life.String(), Leaving: s.Leaving, Problem: standings[name].Why}
	for _, h := range s.Held {
		n.Held = append(n.Held, h.Addr)
	}
	return n
}

// drain drains a node: this one, or by its own agent another.
func (d *addressDesk) drain(ctx context.Context, r agentapi.Drain) (out agentapi.Drained, err error) {
	if r.Node != "" && r.Node != d.cfg.NodeName {
		ctx, cancel := context.WithTimeout(ctx, drainTime+2*time.Second)
		defer cancel()
		var answer drainAnswer
		if err := d.ask(ctx, r.Node, drainKind, r, &answer); err != nil {
			return out, err
		}
		return answer.result(r.Node)
	}
	return d.drainSelf(ctx, r.On)
}

// drainAnswer is what a node answers that was drained by another's word.
type drainAnswer struct {
	agentapi.Drained
	Error string `json:"error,omitempty"` // why it couldn't be
}

func (a drainAnswer) result(node string) (agentapi.Drained, error) {
	if a.Error != "" {
		return a.Drained, fmt.Errorf("%s: %s", node, a.Error)
	}
	return a.Drained, nil
}

// answerDrain drains this node for another one.
func (d *addressDesk) answerDrain(body []byte) []byte {
	var r agentapi.Drain
	if err := json.Unmarshal(body, &r); err != nil {
		return nil
	}
	out, err := d.drainSelf(context.Background(), r.On)
	answer := drainAnswer{Drained: out}
	if err != nil {
		answer.Error = err.Error()
	}
	raw, _ := json.Marshal(answer) // can be encoded
	return raw
}

// drainSelf has the others take this node's addresses, and waits until they have.
// The mark comes first: an agent that is started again leaves on.
func (d *addressDesk) drainSelf(ctx context.Context, on bool) (agentapi.Drained, error) {
	out := agentapi.Drained{Node: d.cfg.NodeName, On: on}
	if !on {
		if err := os.Remove(d.mark()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return out, fmt.Errorf("end drain: %w", err)
		}
		d.keeper.SetLeaving(false)
		return out, nil
	}
	if err := durable.Replace(d.mark(), func(w io.Writer) error { _, err := io.WriteString(w, "drained\n"); return err }); err != nil {
		return out, fmt.Errorf("begin drain: %w", err)
	}
	d.keeper.SetLeaving(true)
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	for {
		if !d.keeper.Busy() || ctx.Err() != nil {
			out.Kept = d.held()
			return out, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// held are the addresses that this node answers for.
func (d *addressDesk) held() (list []netip.Addr) {
	for _, a := range d.keeper.Addresses() {
		if a.Phase == holder.Holding {
			list = append(list, a.Addr)
		}
	}
	return list
}
