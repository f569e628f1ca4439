/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Addresses: 128 bits, IPv4 as ::ffff:a.b.c.d. */
#pragma once

#include <stdbool.h>

#include <bpf_endian.h>
#include <bpf_helpers.h>

#include "types.h"

static __always_inline void addr_from_v4(union addr *a, __be32 v4)
{
	a->q[0] = 0;
	a->w[2] = bpf_htonl(0xffff);
	a->w[3] = v4;
}

static __always_inline bool addr_equal(const union addr *a, const union addr *b)
{
	return a->q[0] == b->q[0] && a->q[1] == b->q[1];
}

/* 64-bit mix (the finaliser of splitmix64) over both halves, to 32 bits. */
static __always_inline __u32 addr_hash(const union addr *a)
{
	__u64 h = (a->q[0] * 0x9e3779b97f4a7c15ULL) ^ a->q[1];

	h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ULL;
	h = (h ^ (h >> 27)) * 0x94d049bb133111ebULL;
	return h >> 32;
}
