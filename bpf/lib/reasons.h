/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Why a packet was dropped: index of the drops map, the Go constant and the
 * metric's label. Never renumbered; a retired name stays, as reserved.
 */
enum drop_reason {
	DROP_NONE = 0,
	DROP_BUG = 1,		     /* something that can't be */
	DROP_MALFORMED = 2,	     /* ours, but headers are cut or contradictory */
	DROP_POD_SOURCE = 3,	     /* a pod sent from an address that isn't its own */
	DROP_POD_MAC = 4,	     /* a pod sent from a MAC that isn't its own */
	DROP_POD_ARP = 5,	     /* a pod claimed another's address, or to be a router */
	DROP_POD_TUNNEL = 6,	     /* a pod sent tunnel packets to a node */
	DROP_FORGED_SOURCE = 7,	     /* a cluster's source on a NIC, not from a peer */
	DROP_FORGED_TUNNEL = 8,	     /* a tunnel packet that no peer sent */
	DROP_POLICY = 9,	     /* refused by a policy */
	DROP_POD_OUTSIDE = 10,	     /* to a pod's address from outside the cluster */
	DROP_SERVICE_OUTSIDE = 11,   /* to a ClusterIP from outside the cluster */
	DROP_NO_SERVICE = 12,	     /* no Service has this address and port */
	DROP_NO_BACKEND = 13,	     /* the Service has no backend */
	DROP_SOURCE_RANGE = 14,	     /* client outside the Service's source ranges */
	DROP_NODEPORT_NIC = 15,	     /* NodePorts are closed on this NIC */
	DROP_FRAGMENT = 16,	     /* a later fragment of a Service's packet */
	DROP_FLOWS_FULL = 17,	     /* no room for a new flow */
	DROP_PORT_CLASH = 18,	     /* no reply tuple free for this client's port */
	DROP_NO_ROUTE = 19,	     /* no way known to the backend or pod */
	DROP_NO_POD = 20,	     /* no such pod here */
	DROP_THIRD_NODE = 21,	     /* from a node, and for yet another one */
	DROP_TOO_BIG = 22,	     /* larger than the way ahead lets through */
	DROP_REWRITE = 23,	     /* the kernel refused to change the packet */
	DROP_TTL = 24,		     /* hop limit used up */
	DROP_NO_FLOW = 25,	     /* an ICMP error or reply that matches no flow */
	DROP_PROTOCOL = 26,	     /* a fragment of SCTP, whose ports would change */
	DROP_FLOW_RATE = 27,	     /* more new flows than a CPU makes in that time */
	__DROP_MAX = 28,
};
_Static_assert(__DROP_MAX <= 64, "the drops map has room for 64");
