// SPDX-License-Identifier: Apache-2.0

// Package probe finds out whether other machines on a network have an address:
//
//   - Ask is the quick question before one node of the cluster takes an address
//     over from another.
//   - Prober.Probe is the whole of RFC 5227, or duplicate address detection,
//     before an address is used for the first time.
//   - Watcher notices when others claim, or probe for, what is ours, and
//     defends it.
//
// All of it is said and heard on one NIC at a time, by packet sockets that get
// from the kernel only what is about the addresses in question. Nothing here
// makes the node answer for an address but Watcher, and that only for those
// that were found free and aren't announced yet.
package probe
