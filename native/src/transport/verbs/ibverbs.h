/* SPDX-License-Identifier: MIT
 *
 * libibverbs, opened at run time: the build needs its header alone, and who has no RDMA needs nothing.
 * Functions that its header has inline go through the device's own table and are called as they are. */
#ifndef PGCTL_IBVERBS_H
#define PGCTL_IBVERBS_H

#include <infiniband/verbs.h>

#include "pgctl/engine.h"

#define IBVERBS_FUNCTIONS(X)    \
	X(ack_async_event)      \
	X(ack_cq_events)        \
	X(alloc_pd)             \
	X(close_device)         \
	X(create_comp_channel)  \
	X(create_cq)            \
	X(create_qp)            \
	X(create_srq)           \
	X(dealloc_pd)           \
	X(dereg_mr)             \
	X(destroy_comp_channel) \
	X(destroy_cq)           \
	X(destroy_qp)           \
	X(destroy_srq)          \
	X(event_type_str)       \
	X(free_device_list)     \
	X(get_async_event)      \
	X(get_cq_event)         \
	X(get_device_list)      \
	X(get_device_name)      \
	X(modify_qp)            \
	X(open_device)          \
	X(port_state_str)       \
	X(query_device)         \
	X(query_pkey)           \
	X(query_port)           \
	X(reg_mr)               \
	X(reg_mr_iova2)         \
	X(wc_status_str)

struct ibverbs {
#define IBVERBS_MEMBER(name) __typeof__(ibv_##name) *name;
	IBVERBS_FUNCTIONS(IBVERBS_MEMBER)
#undef IBVERBS_MEMBER
	__typeof__(_ibv_query_gid_ex) *query_gid_ex;
	__typeof__(ibv_fork_init) *fork_init;
	__typeof__(ibv_reg_dmabuf_mr) *reg_dmabuf_mr; /* NULL before rdma-core 34 */
};

/* The library, opened once and for good; NULL and the reason. Any thread. */
const struct ibverbs *ibverbs(struct pg_error *err);

/* All of the attributes, also those that came later than the function. 0 or an errno. */
int ibverbs_query_port(const struct ibverbs *lib, struct ibv_context *context, uint8_t port,
		       struct ibv_port_attr *attr);

#endif
