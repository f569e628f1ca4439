/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Addresses and hardware addresses: make, compare, classify. */
#pragma once

#include <linux/types.h>

#include <bpf_endian.h>
#include <bpf_helpers.h>

#include "types.h"

static __always_inline void addr_from_v4(union addr *a, __be32 v4)
{
	a->q[0] = 0;
	a->w[2] = bpf_htonl(0xffff);
	a->w[3] = v4;
}

static __always_inline int addr_equal(const union addr *a, const union addr *b)
{
	return a->q[0] == b->q[0] && a->q[1] == b->q[1];
}

static __always_inline int addr_is_zero(const union addr *a)
{
	return !(a->q[0] | a->q[1]);
}

static __always_inline int addr_is_v4(const union addr *a)
{
	return a->q[0] == 0 && a->w[2] == bpf_htonl(0xffff);
}

static __always_inline int addr_is_multicast(const union addr *a)
{
	if (addr_is_v4(a))
		return (a->w[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
		       a->w[3] == 0xffffffff;
	return a->b[0] == 0xff;
}

static __always_inline int addr_is_loopback(const union addr *a)
{
	if (addr_is_v4(a))
		return (a->w[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return a->q[0] == 0 && a->w[2] == 0 && a->w[3] == bpf_htonl(1);
}

static __always_inline int addr_is_link_local(const union addr *a)
{
	if (addr_is_v4(a))
		return (a->w[3] & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000);
	return (a->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline int mac_equal(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] &&
	       a[4] == b[4] && a[5] == b[5];
}

/* 64-bit mix (the finaliser of splitmix64), to 32 bits. */
static __always_inline __u32 mix(__u64 h)
{
	h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ULL;
	h = (h ^ (h >> 27)) * 0x94d049bb133111ebULL;
	return h >> 32;
}

static __always_inline __u32 addr_hash(const union addr *a)
{
	return mix((a->q[0] * 0x9e3779b97f4a7c15ULL) ^ a->q[1]);
}
