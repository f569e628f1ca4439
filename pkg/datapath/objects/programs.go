// SPDX-License-Identifier: Apache-2.0

package objects

import "github.com/cilium/ebpf"

// Object is a compiled file of programs.
type Object struct {
	Name string
	Load func() (*ebpf.CollectionSpec, error)
}

// Programs are the objects that run on a node. The object "map" and those for
// tests are not among them.
func Programs() []Object {
	return []Object{
		{"sock", LoadSock},
		{"tc_pod", LoadTcPod},
		{"tc_uplink", LoadTcUplink},
		{"tc_tunnel", LoadTcTunnel},
	}
}
