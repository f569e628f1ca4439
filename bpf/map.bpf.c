// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * No programs: the object that all maps, settings and their Go types are made
 * from.
 */
#include "lib/config.h"
#include "lib/maps.h"
#include "lib/reasons.h"

/* Keeps the enums in BTF: their constants are generated into Go. */
const union {
	enum drop_reason drop_reason;
	enum scope scope;
	enum nic_role nic_role;
	enum frontend_flags frontend_flags;
	enum backend_flags backend_flags;
	enum endpoint_flags endpoint_flags;
	enum route_kind route_kind;
	enum sock_kind sock_kind;
	enum flow_way flow_way;
	enum flow_flags flow_flags;
	enum move move;
	enum rate_kind rate_kind;
} *enums __attribute__((unused));
