/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * ICMP and ARP as on the wire. linux/icmp.h and linux/if_arp.h would do, but
 * draw in libc's headers.
 */
#pragma once

#include <linux/types.h>

/* RFC 792 and RFC 4443: both begin alike. */
struct icmp {
	__u8 type;
	__u8 code;
	__u16 check;
	union {
		struct {
			__be16 id;
			__be16 sequence;
		} echo;
		struct {
			__be16 unused;
			__be16 mtu;
		} frag;
		__be32 mtu6;
	};
};
_Static_assert(sizeof(struct icmp) == 8, "icmp");

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12

#define ICMP_HOST_UNREACHABLE 1
#define ICMP_PORT_UNREACHABLE 3
#define ICMP_FRAG_NEEDED 4

#define ICMP6_UNREACHABLE 1
#define ICMP6_TOO_BIG 2
#define ICMP6_INFORMATIONAL 128 /* errors are below */
#define ICMP6_ECHO 128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_ADDRESS_UNREACHABLE 3
#define ICMP6_PORT_UNREACHABLE 4

/* RFC 826, IPv4 over Ethernet. */
struct arp {
	__be16 hrd;
	__be16 pro;
	__u8 hln;
	__u8 pln;
	__be16 op;
	__u8 sha[6];
	__u8 spa[4];
	__u8 tha[6];
	__u8 tpa[4];
};
_Static_assert(sizeof(struct arp) == 28, "arp");

#define ARP_ETHERNET 1
#define ARP_REQUEST 1
#define ARP_REPLY 2
