/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * SCTP's ports are under a checksum of the whole packet, CRC32c (RFC 9260,
 * 6.8). It is linear over GF(2): what a change of the first four bytes changes
 * in it is that change, times x for each bit of the packet. So none of the
 * packet is read. Polynomials lie in words with x^0 in the highest bit.
 */
#pragma once

#include <linux/bpf.h>

#include <bpf_helpers.h>

#include "packet.h"
#include "parse.h"

#define CRC32C 0x82f63b78 /* the generator, without x^32 */
#define SCTP_CHECKSUM 8	  /* offset in the common header */

/* x^(8 d 16^j) modulo the generator: for each hexadecimal digit of a length. */
static const __u32 crc_powers[4][16] = {
	{
		0x80000000, 0x00800000, 0x00008000, 0x00000080,
		0x82f63b78, 0xfbc3faf9, 0x8b277743, 0x52a0c93f,
		0x6ea2d55c, 0x1c08b7d6, 0xf56e0ef4, 0x34019664,
		0xa66805eb, 0x7a1f6b24, 0xe75d06aa, 0xc94ec098,
	},
	{
		0x80000000, 0x18b8ea18, 0x510ac59a, 0xb2dea967,
		0xb82be955, 0x36c41f1c, 0x19b29a35, 0xc9e90b9e,
		0xb8fdb1e7, 0xe55ef1f3, 0x1fe0b5c3, 0xe0553f1e,
		0x18e4a304, 0x2b830011, 0x56993a31, 0x0246e2e6,
	},
	{
		0x80000000, 0x88e56f72, 0x74c360a4, 0x631bb273,
		0xe4172b16, 0x71892b1b, 0x835305c9, 0x196b1eae,
		0x0d65762a, 0xafc81338, 0xb5a50ab7, 0xf373c3ac,
		0x5f60970f, 0xd46d3063, 0x3a5275ea, 0x02331c01,
	},
	{
		0x80000000, 0x35d73a62, 0x28461564, 0x43eefc9f,
		0xbf455269, 0x5edcdeb9, 0x65059450, 0x4e6f41a4,
		0xe2ea32dc, 0xf5b95b32, 0x695a4c87, 0xf204502c,
		0x9a4f01b6, 0x941a0916, 0x4303cb97, 0x4c3d3d65,
	},
};

static __always_inline __u32 crc_multiply(__u32 a, __u32 b)
{
	__u32 product = 0;

	for (int i = 0; i < 32; i++) {
		product ^= b & -(a >> 31);
		a <<= 1;
		b = b >> 1 ^ (CRC32C & -(b & 1));
	}
	return product;
}

/* What the checksum of a packet of so many bytes changes by. */
__noinline __u32 sctp_difference(__u32 ports, __u32 length)
{
	for (int j = 0; j < 4; j++) {
		ports = crc_multiply(ports, crc_powers[j][length & 15]);
		length >>= 4;
	}
	return ports;
}

/*
 * Ports and checksum. A checksum of zero is one that isn't made yet, but will
 * be, of the packet as it leaves (CHECKSUM_PARTIAL, each segment's under GSO), or
 * one that the two ends do without (RFC 9653).
 */
__noinline int translate_sctp(struct __sk_buff *skb, struct pkt *p, struct flow *f)
{
	__u32 check, old, new;

	if (!p || !f)
		return -DROP_BUG;
	old = p->t.sport | (__u32)p->t.dport << 16;
	new = f->sport | (__u32)f->dport << 16;
	if (old == new)
		return 0;
	if (bpf_skb_load_bytes(skb, p->l4 + SCTP_CHECKSUM, &check, sizeof(check)))
		return -DROP_MALFORMED;
	if (check) {
		check ^= sctp_difference(old ^ new, ETH_LEN + ip_length(skb, p) - p->l4);
		if (bpf_skb_store_bytes(skb, p->l4 + SCTP_CHECKSUM, &check, sizeof(check),
					BPF_F_RECOMPUTE_CSUM))
			return -DROP_REWRITE;
	}
	return bpf_skb_store_bytes(skb, p->l4, &new, sizeof(new), BPF_F_RECOMPUTE_CSUM) ?
		       -DROP_REWRITE :
		       0;
}
