// SPDX-License-Identifier: Apache-2.0

// Package verify checks over the wire that an address is where it is said to
// be: "owner" isn't "reachable". A node that doesn't have the address asks for
// it like any machine on the external network, with a real ARP request or
// neighbour solicitation, and begins a real TCP connection to it. Both are raw
// frames that pass by this node's own datapath, which would answer by itself.
//
// Of the nodes that could, one verifies an address: after each move, and from
// time to time. What fails is said, and looked at again soon.
package verify
