// SPDX-License-Identifier: Apache-2.0

// Package announce decides which node answers for a LoadBalancer address, and
// tells the network. The answering itself is the datapath's (bpf/lib/neighbour.h)
// and needs no process. See README.md for the protocol.
package announce
