// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// tickShift makes ticks of nanoseconds, as TICK_SHIFT in bpf/lib/config.h.
const tickShift = 30

// Timeouts are how many ticks after its last packet a flow ends: the settings
// of bpf/lib/config.h.
type Timeouts struct {
	TCP, TCPFin, TCPClosing, UDP, SCTP, Other uint32
}

// ReadTimeouts takes the timeouts from the objects, with settings that
// override them by name.
func ReadTimeouts(overrides map[string]any) (Timeouts, error) {
	var t Timeouts
	spec, err := objects.LoadMap()
	if err != nil {
		return t, fmt.Errorf("parse maps: %w", err)
	}
	for name, value := range map[string]*uint32{
		"timeout_tcp": &t.TCP, "timeout_tcp_fin": &t.TCPFin, "timeout_tcp_closing": &t.TCPClosing,
		"timeout_udp": &t.UDP, "timeout_sctp": &t.SCTP, "timeout_other": &t.Other,
	} {
		if override, ok := overrides[name].(uint32); ok {
			*value = override
			continue
		}
		v, ok := spec.Variables[name]
		if !ok {
			return t, fmt.Errorf("setting %s: no such variable", name)
		}
		if err := v.Get(value); err != nil {
			return t, fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return t, nil
}

// alive judges a flow as flow_alive() of bpf/lib/flow.h does: one that was seen
// since now was read is no older than now.
func (t Timeouts) alive(proto uint8, flow *objects.MapFlow, now uint32) bool {
	limit := t.Other
	switch {
	case flow.Flags&uint8(objects.MapFlowFlagsFLOW_CLOSING) != 0:
		limit = t.TCPClosing
	case flow.Flags&uint8(objects.MapFlowFlagsFLOW_FIN) != 0:
		limit = t.TCPFin
	case proto == unix.IPPROTO_TCP:
		limit = t.TCP
	case proto == unix.IPPROTO_UDP:
		limit = t.UDP
	case proto == unix.IPPROTO_SCTP:
		limit = t.SCTP
	}
	return int64(int32(now-flow.Seen)) <= int64(limit)
}

// Flows expires what the map flows holds. The programs write it; those that
// look an expired flow up delete it themselves.
type Flows struct {
	Map      *ebpf.Map
	Moved    *ebpf.Map // what the programs count of them
	Timeouts Timeouts
}

// WithoutRoom returns for how many packets a flow should have come into the map,
// and found no room.
func (m Flows) WithoutRoom() (uint32, error) {
	var packets uint32
	if err := m.Moved.Lookup(uint32(objects.MapMoveMOVE_FULL), &packets); err != nil {
		return 0, fmt.Errorf("read flows without room: %w", err)
	}
	return packets, nil
}

// Expire deletes flows whose time is over, both directions, and returns how
// many entries went, and how many there are still.
func (m Flows) Expire() (deleted, left int, err error) {
	now := uint32(monotonic() >> tickShift)
	var over []objects.MapFlowKey
	seen := 0
	err = EachFlow(m.Map, func(key objects.MapFlowKey, flow *objects.MapFlow) {
		seen++
		if !m.Timeouts.alive(key.Proto, flow, now) {
			over = append(over, key)
		}
	})
	if err != nil {
		return 0, 0, fmt.Errorf("read flows: %w", err)
	}
	for _, key := range over {
		n, err := m.expire(key, now)
		if err != nil {
			return deleted, seen - deleted, err
		}
		deleted += n
	}
	return deleted, seen - deleted, nil
}

// expire deletes a flow unless a packet came since it was read. The other
// direction goes too, unless its tuple has become another flow's meanwhile.
func (m Flows) expire(key objects.MapFlowKey, now uint32) (int, error) {
	var flow objects.MapFlow
	err := m.Map.Lookup(key, &flow)
	if errors.Is(err, ebpf.ErrKeyNotExist) || err == nil && m.Timeouts.alive(key.Proto, &flow, now) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read flow: %w", err)
	}
	doomed := []objects.MapFlowKey{key}
	pair := other(key.Proto, &flow)
	var answer objects.MapFlow
	switch err := m.Map.Lookup(pair, &answer); {
	case err == nil && other(key.Proto, &answer) == key:
		doomed = []objects.MapFlowKey{pair, key}
	case err != nil && !errors.Is(err, ebpf.ErrKeyNotExist):
		return 0, fmt.Errorf("read flow: %w", err)
	}
	deleted := 0
	for _, k := range doomed {
		switch err := m.Map.Delete(k); {
		case err == nil:
			deleted++
		case !errors.Is(err, ebpf.ErrKeyNotExist):
			return deleted, fmt.Errorf("delete flow: %w", err)
		}
	}
	return deleted, nil
}

// other is the key of a flow's other direction: the translated tuple, swapped.
func other(proto uint8, flow *objects.MapFlow) objects.MapFlowKey {
	return objects.MapFlowKey{
		Saddr: flow.Daddr, Daddr: flow.Saddr, Sport: flow.Dport, Dport: flow.Sport, Proto: proto,
	}
}

// EachFlow calls f for each entry of a map of flows, by batches. Entries that
// come or go meanwhile may be missed.
func EachFlow(m *ebpf.Map, f func(objects.MapFlowKey, *objects.MapFlow)) error {
	keys := make([]objects.MapFlowKey, 4096)
	values := make([]objects.MapFlow, len(keys))
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		for i := range n {
			f(keys[i], &values[i])
		}
		if err != nil {
			return nil
		}
	}
}
