// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/patchbay-net/patchbay/pkg/datapath/objects"
)

// entry is struct sock_entry of bpf/sockets.bpf.c.
type entry struct {
	cookie uint64
	peer   objects.MapSockPeer
}

// Find returns the cookies of the sockets whose frontend and backend doomed says it
// of. peers is the map sock_peers.
func Find(peers *ebpf.Map, doomed func(frontend, backend netip.AddrPort) bool) (cookies map[uint64]bool, err error) {
	text, err := list(peers)
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	cookies = map[uint64]bool{}
	const size = int(unsafe.Sizeof(entry{}))
	for ; len(text) >= size; text = text[size:] {
		e := *(*entry)(unsafe.Pointer(unsafe.SliceData(text[:size:size])))
		frontend := netip.AddrPortFrom(e.peer.Frontend.Netip(), objects.Port(e.peer.FrontendPort))
		backend := netip.AddrPortFrom(e.peer.Backend.Netip(), objects.Port(e.peer.BackendPort))
		if doomed(frontend, backend) {
			cookies[e.cookie] = true
		}
	}
	return cookies, nil
}

// list has the kernel run the program on every socket that has an entry. The
// program is loaded for that only: endpoints of UDP Services stop seldom.
func list(peers *ebpf.Map) (_ []byte, err error) {
	spec, err := objects.LoadSockets()
	if err != nil {
		return nil, err
	}
	program, err := ebpf.NewProgram(spec.Programs["sock_list"])
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, program.Close()) }()
	it, err := link.AttachIter(link.IterOptions{Program: program, Map: peers})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	text, err := it.Open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, text.Close()) }()
	return io.ReadAll(text)
}
